/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot.h - what a name and a revision of another world mean here: one manifest and its files.
 *
 * For the doors that are not OCI. A repository goes by its own name; "library/NAME" is NAME; letters may be upper
 * case. A revision is a tag, the first 40 hex digits of a manifest's digest (what others call a commit), or "main":
 * the tag of that name, else "latest", else the newest version. Blocks on the disk (snapshot_read) or reads the
 * catalog only; any thread.
 */
#ifndef MDN_SERVE_SNAPSHOT_H
#define MDN_SERVE_SNAPSHOT_H

#include "store/blob.h"
#include "store/catalog.h"

#define COMMIT_SIZE 41

/* Our name for it, whether it exists or not; false when it can be none. */
bool snapshot_name(struct str id, char ret_name[static 129]);
/* The manifest, and the tag that led there (empty: its commit did). E_NOTFOUND in words. */
int snapshot_find(struct catalog *catalog, struct str name, struct str revision, char ret_tag[static 129],
                  struct digest *ret_manifest, struct error *err);
/* All that is known of it, whether it counts as a model or not: files that have names, and GGUF files that have none.
 * E_NOTFOUND: it has no such files, being an image or an index. */
int snapshot_read(struct blob_store *store, struct catalog *catalog, struct str name, struct str tag,
                  const struct digest *manifest, struct version *ret_version, struct error *err);
void snapshot_commit(const struct digest *manifest, char ret_commit[static COMMIT_SIZE]);

#endif
