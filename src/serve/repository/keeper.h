/* SPDX-License-Identifier: Apache-2.0 */
/* keeper.h - looks after a node's store: collects garbage when it is time or asked for, checks it when asked for.
 *
 * Runs in jobs of some milliseconds (a step of a check reads 128 MiB), one run at a time. POST /mdn/v1/gc and
 * /mdn/v1/fsck answer with server-sent events: `progress`, `fault`, and at last `result` or `error`; docs/wire.md.
 * A run whose caller goes is given up, and so is one by the clock when somebody asks for one. Who may call is decided
 * before keeper_handle. Store and catalog are borrowed and must live until the loop is freed. Loop thread.
 */
#ifndef MDN_SERVE_REPOSITORY_KEEPER_H
#define MDN_SERVE_REPOSITORY_KEEPER_H

#include "net/http.h"
#include "store/blob.h"
#include "store/catalog.h"

struct keeper;
struct keeper_options {
	struct blob_store *store;
	struct catalog *catalog; /* NULL: not a repository; nothing is collected then */
	struct str origins;      /* fsck.h: what mirrors know; copied */
	int64_t gc_every_us;     /* 0: only when asked for */
	int64_t gc_lease_us;
	/* After a repair: blobs that are named and not here. A size of 0 is not known. */
	void (*on_wanted)(void *arg, const struct version_file *files, size_t count);
	void *arg;
};
struct keeper *keeper_new(struct loop *loop, const struct keeper_options *options);
void keeper_free(struct keeper *k);
void keeper_set_times(struct keeper *k, int64_t gc_every_us, int64_t gc_lease_us); /* live */
bool keeper_handle(struct keeper *k, struct http_exchange *x);

#endif
