/* SPDX-License-Identifier: Apache-2.0 */
/* catalog.h - model versions, tags and manifests of a repository, in SQLite (WAL).
 *
 * Any thread: one writing and one reading connection, each behind a lock of its own, so that reads (short, fine on a
 * loop) never wait for a write's fsync (milliseconds: from a job when many are expected). Callbacks run with no lock
 * held. `serial` rises with every change of the versions, in the same transaction. Names are checked by the caller
 * (store/ociname.h).
 */
#ifndef MDN_STORE_CATALOG_H
#define MDN_STORE_CATALOG_H

#include "store/version.h"

struct catalog;
int catalog_open(struct str path, struct catalog **ret_catalog, struct error *err);
void catalog_close(struct catalog *c);
uint64_t catalog_serial(struct catalog *c);

/* All that a pushed manifest means, in one transaction: manifest, tag (empty: none), version (NULL: it is not a model;
 * a version that the tag named before goes away then). */
int catalog_push(struct catalog *c, struct str repo, const struct digest *d, struct str media_type, uint64_t size,
                 struct str tag, const struct version *v, struct error *err);

/* Manifests by digest, tags pointing at them (OCI). The manifest's bytes live in the blob store. */
int catalog_get_manifest(struct catalog *c, struct str repo, const struct digest *d, char ret_media_type[static 128],
                         struct error *err);
/* With the tags that name it, and their versions. */
int catalog_delete_manifest(struct catalog *c, struct str repo, const struct digest *d, struct error *err);
int catalog_put_tag(struct catalog *c, struct str repo, struct str tag, const struct digest *d, struct error *err);
int catalog_get_tag(struct catalog *c, struct str repo, struct str tag, struct digest *ret_digest, struct error *err);
/* With its version. */
int catalog_delete_tag(struct catalog *c, struct str repo, struct str tag, struct error *err);
bool catalog_has_repo(struct catalog *c, struct str repo); /* something was ever pushed there, and is left */
/* Sorted without regard to case (OCI's "lexical order"); calls fn for at most `limit` tags after `last`. */
int catalog_tags(struct catalog *c, struct str repo, struct str last, size_t limit,
                 void (*fn)(void *arg, struct str tag), void *arg, struct error *err);
/* A blob is visible in the repositories it was pushed to or mounted in. */
int catalog_link_blob(struct catalog *c, struct str repo, const struct digest *d, struct error *err);
bool catalog_has_blob(struct catalog *c, struct str repo, const struct digest *d);
int catalog_unlink_blob(struct catalog *c, struct str repo, const struct digest *d, struct error *err);

/* Versions: what distribution and people see. Keyed by name and tag. */
int catalog_get_version(struct catalog *c, struct str name, struct str tag, struct version *ret_version,
                        struct error *err);
/* Every version as wire JSON, comma-separated, and the serial they belong to. */
int catalog_append_versions(struct catalog *c, struct buf *out, uint64_t *ret_serial, struct error *err);
int catalog_each_version(struct catalog *c, void (*fn)(void *arg, const struct version *v), void *arg,
                         struct error *err);

/* Which chunk list was made for a file, so that no file is read twice for it. E_NOTFOUND. */
int catalog_put_chunks(struct catalog *c, const struct digest *file, uint64_t chunk_size, const struct digest *list,
                       struct error *err);
int catalog_get_chunks(struct catalog *c, const struct digest *file, uint64_t chunk_size, struct digest *ret_list,
                       struct error *err);

#endif
