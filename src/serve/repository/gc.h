/* SPDX-License-Identifier: Apache-2.0 */
/* gc.h - frees the blobs that no manifest, version or chunk list needs, while others push and read.
 *
 * Mark and sweep in small steps, each a job of some milliseconds. Roots are the manifests of every repository (with
 * `untagged`: those that a tag names, an index that is kept contains, or whose subject is kept) and the versions.
 * What was used within the lease stays, needed or not: a push may be about to name it. Killed at any step it leaves
 * more than needed, never less. One at a time. Blocks: in jobs, one at a time.
 */
#ifndef MDN_SERVE_REPOSITORY_GC_H
#define MDN_SERVE_REPOSITORY_GC_H

#include "store/blob.h"
#include "store/catalog.h"

struct gc_options {
	struct blob_store *store;
	struct catalog *catalog;
	int64_t lease_us;
	bool dry_run;  /* counts only */
	bool untagged; /* manifests that nothing names go, too */
};

struct gc_result {
	const char *phase;               /* mark, sweep, done */
	uint64_t manifests, unreadable;  /* looked at; of which blobs are kept as far as their repository has them */
	uint64_t manifests_gone;         /* untagged ones */
	uint64_t blobs_kept, bytes_kept; /* needed */
	uint64_t blobs_leased, bytes_leased; /* not needed, but used a moment ago */
	uint64_t blobs_gone, bytes_gone;
};

struct gc;
struct gc *gc_new(const struct gc_options *options);
void gc_free(struct gc *g);
/* One step; *ret_more false when it was the last. */
int gc_step(struct gc *g, bool *ret_more, struct error *err);
const struct gc_result *gc_result(const struct gc *g);

#endif
