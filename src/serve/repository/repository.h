/* SPDX-License-Identifier: Apache-2.0 */
/* repository.h - the model repository: OCI distribution endpoints over blob store and catalog, and the catalog feed.
 *
 * A manifest that names a GGUF layer becomes a version: header parsed and bounded, chunk list built and stored, catalog
 * written, feed woken. Loop thread; disk work in jobs. Source: OCI distribution-spec 1.1; docs/wire.md, "Repository".
 */
#ifndef MDN_SERVE_REPOSITORY_H
#define MDN_SERVE_REPOSITORY_H

#include "net/http.h"
#include "store/blob.h"
#include "store/catalog.h"

struct repository;
struct repository_options {
	struct blob_store *store;
	struct catalog *catalog;
	uint64_t chunk_size;
};
int repository_new(struct loop *loop, const struct repository_options *options, struct repository **ret_repository,
                   struct error *err);
void repository_free(struct repository *r);
bool repository_handle(struct repository *r, struct http_exchange *x); /* /v2/..., /mdn/v1/catalog */

#endif
