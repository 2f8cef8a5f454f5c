/* SPDX-License-Identifier: Apache-2.0 */
/* ledger_hash.h - for score.c: ledger_unseen for a caller that has both hashes at hand (hash_str of each text). */
#ifndef MDN_CORE_LEDGER_HASH_H
#define MDN_CORE_LEDGER_HASH_H

#include "core/ledger.h"

struct ledger_load ledger_unseen_hashed(const struct ledger *l, struct str node, uint64_t node_hash, struct str model,
                                        uint64_t model_hash, uint64_t seen);

#endif
