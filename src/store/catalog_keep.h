/* SPDX-License-Identifier: Apache-2.0 */
/* catalog_keep.h - the catalog as its collector and its checker see it: page by page, and forgetting.
 *
 * A page begins after `after`, or at the beginning when that is NULL, and holds at most `limit` entries in order;
 * fewer: there are no more. Between pages others write. Blocks: in jobs.
 */
#ifndef MDN_STORE_CATALOG_KEEP_H
#define MDN_STORE_CATALOG_KEEP_H

#include "store/catalog.h"

struct kept_manifest {
	char repo[129];
	struct digest digest;
	uint64_t size;
	bool tagged;
};
struct kept_list {
	struct digest file, list;
	uint64_t chunk_size;
};
struct kept_link {
	char repo[129];
	struct digest digest;
};
struct kept_version {
	char name[129], tag[129];
};
int catalog_page_manifests(struct catalog *c, const struct kept_manifest *after, size_t limit,
                           struct kept_manifest *out, size_t *ret_count, struct error *err);
int catalog_page_lists(struct catalog *c, const struct kept_list *after, size_t limit, struct kept_list *out,
                       size_t *ret_count, struct error *err);
int catalog_page_links(struct catalog *c, const struct kept_link *after, size_t limit, struct kept_link *out,
                       size_t *ret_count, struct error *err);
int catalog_page_versions(struct catalog *c, const struct kept_version *after, size_t limit, struct kept_version *out,
                          size_t *ret_count, struct error *err);

/* Forgetting, in one transaction. `still` is asked inside it, when no other writer can come between. */
typedef bool catalog_still(void *arg, const struct digest *d);
/* Everything about blobs that are going: links, sizes, other names, chunk lists of them and with them. */
int catalog_forget_blobs(struct catalog *c, const struct digest *d, size_t count, catalog_still *still, void *arg,
                         struct error *err);
/* Those that no tag names. *ret_count: how many went. */
int catalog_forget_manifests(struct catalog *c, const struct kept_manifest *m, size_t count, catalog_still *still,
                             void *arg, size_t *ret_count, struct error *err);
int catalog_forget_links(struct catalog *c, const struct kept_link *l, size_t count, catalog_still *still, void *arg,
                         struct error *err);

#endif
