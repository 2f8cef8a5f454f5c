/* SPDX-License-Identifier: Apache-2.0 */
/* blob_cache.h - models on this node's disk that are no longer placed here: kept for a while, the last used longest.
 *
 * Looks now and then: what nobody needs beyond `max_bytes` goes, the least recently used first, and more of it while
 * the disk has less than its reserve. Never what is needed: that is the owner's to say. Not for repositories
 * (serve/repository/keeper.h is). Disk work in jobs. The store is borrowed and must live until the loop is freed. Loop
 * thread. Bytes.
 */
#ifndef MDN_CLI_BLOB_CACHE_H
#define MDN_CLI_BLOB_CACHE_H

#include "net/loop.h"
#include "store/blob.h"

struct blob_cache;
struct blob_cache *blob_cache_new(struct loop *loop, struct blob_store *store, const char *folder, uint64_t max_bytes,
                                  bool (*needed)(void *arg, const struct digest *d), void *arg);
void blob_cache_free(struct blob_cache *c);
void blob_cache_set_max(struct blob_cache *c, uint64_t max_bytes); /* live */
void blob_cache_look(struct blob_cache *c);                        /* soon, not at the next time only */

#endif
