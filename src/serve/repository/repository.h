/* SPDX-License-Identifier: Apache-2.0 */
/* repository.h - the model repository: OCI distribution endpoints over blob store and catalog, and the catalog feed.
 *
 * A manifest with a tag that names a GGUF layer becomes a version: header parsed and bounded, chunk list built and
 * stored, catalog written, feed woken. Loop thread; disk work in jobs. Store and catalog are borrowed and must live
 * until the loop is freed, for jobs may still run when repository_free returns. Who may call is decided before
 * repository_handle. Source: OCI distribution-spec 1.1; docs/wire.md, "Repository".
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
	uint64_t chunk_size;    /* 0: CHUNK_SIZE_DEFAULT */
	int64_t upload_idle_us; /* an upload nobody adds to is dropped after so long; 0: 1 h */
};
int repository_new(struct loop *loop, const struct repository_options *options, struct repository **ret_repository,
                   struct error *err);
void repository_free(struct repository *r);
bool repository_handle(struct repository *r, struct http_exchange *x); /* /v2/..., /mdn/v1/catalog */

#endif
