/* SPDX-License-Identifier: Apache-2.0 */
/* catalog.h - model versions, tags and manifests of a repository, in SQLite (WAL).
 *
 * Blocks on the disk for short reads and one-row writes; loop thread use is fine (each call under a
 * millisecond on a healthy disk), one thread at a time. `serial` rises with every change.
 */
#ifndef MDN_STORE_CATALOG_H
#define MDN_STORE_CATALOG_H

#include "store/version.h"

struct catalog;
int catalog_open(struct str path, struct catalog **ret_catalog, struct error *err);
void catalog_close(struct catalog *c);
uint64_t catalog_serial(struct catalog *c);

/* Manifests by digest, tags pointing at them (OCI). The manifest's bytes live in the blob store. */
int catalog_put_manifest(struct catalog *c, struct str repo, const struct digest *d, struct str media_type, uint64_t size,
                         struct error *err);
int catalog_get_manifest(struct catalog *c, struct str repo, const struct digest *d, char ret_media_type[static 128],
                         struct error *err);
int catalog_delete_manifest(struct catalog *c, struct str repo, const struct digest *d, struct error *err);
int catalog_put_tag(struct catalog *c, struct str repo, struct str tag, const struct digest *d, struct error *err);
int catalog_get_tag(struct catalog *c, struct str repo, struct str tag, struct digest *ret_digest, struct error *err);
int catalog_delete_tag(struct catalog *c, struct str repo, struct str tag, struct error *err);
/* Sorted; calls fn for at most `limit` tags after `last`. */
int catalog_tags(struct catalog *c, struct str repo, struct str last, size_t limit, void (*fn)(void *arg, struct str tag),
                 void *arg, struct error *err);
/* A blob is visible in the repositories it was pushed to or mounted in. */
int catalog_link_blob(struct catalog *c, struct str repo, const struct digest *d, struct error *err);
bool catalog_has_blob(struct catalog *c, struct str repo, const struct digest *d);
int catalog_unlink_blob(struct catalog *c, struct str repo, const struct digest *d, struct error *err);

/* Versions: what distribution and people see. Keyed by name and tag. */
int catalog_put_version(struct catalog *c, const struct version *v, struct error *err);
int catalog_get_version(struct catalog *c, struct str name, struct str tag, struct version *ret_version, struct error *err);
int catalog_each_version(struct catalog *c, void (*fn)(void *arg, const struct version *v), void *arg, struct error *err);

#endif
