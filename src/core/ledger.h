/* SPDX-License-Identifier: Apache-2.0 */
/* ledger.h - what this dispatcher has in flight on each (node, model), opened at dispatch, closed on every exit path.
 *
 * Reports lag behind our own dispatches: each carries the last dispatch number it has seen from us (node_seen), so what
 * we sent after it is added and nothing is counted twice. Owns its entries. Pure, one thread. Source: Dahlin, TPDS
 * 2000.
 */
#ifndef MDN_CORE_LEDGER_H
#define MDN_CORE_LEDGER_H

#include "base/str.h"

struct ledger;
struct ledger_ticket; /* one request in flight; freed by ledger_close */

struct ledger_load {
	int32_t running;           /* requests */
	int64_t tokens_to_prefill; /* of requests without a first token */
};

/* Dispatches towards each node are numbered from `first` (at least 1) on: a wall clock makes numbers rise over
 * restarts, so that what a node's report saw of an earlier life hides nothing of this one. */
struct ledger *ledger_new(uint64_t first);
void ledger_free(struct ledger *l); /* closes what is open */
/* *ret_number: this dispatch's number towards that node, to travel with the request (x-mdn-dispatch). */
struct ledger_ticket *ledger_open(struct ledger *l, struct str node, struct str model, int32_t prompt_tokens,
                                  uint64_t *ret_number);
void ledger_first_token(struct ledger_ticket *t);
void ledger_close(struct ledger_ticket *t);
size_t ledger_count(const struct ledger *l); /* open tickets: 0 when nothing is in flight, or something leaks */
/* In flight on (node, model) with a dispatch number above `seen`: what a report with that `seen` does not know of. */
struct ledger_load ledger_unseen(const struct ledger *l, struct str node, struct str model, uint64_t seen);

#endif
