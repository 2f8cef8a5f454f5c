/* SPDX-License-Identifier: Apache-2.0 */
/* fsck.h - checks a store against its names, and a catalog against its store.
 *
 * Every blob is read and hashed; every manifest, version and chunk list is followed to what it names. With `repair`, a
 * bad blob moves to quarantine (nothing is deleted), a chunk list is made again from its file, and what is missing then
 * is told by fsck_wanted, for a caller who can fetch it. In small steps, beside everything else. Blocks: in jobs, one
 * at a time.
 */
#ifndef MDN_SERVE_REPOSITORY_FSCK_H
#define MDN_SERVE_REPOSITORY_FSCK_H

#include "store/blob.h"
#include "store/catalog.h"

enum fsck_kind {
	FSCK_CORRUPT_BLOB, /* its bytes are not its digest, or cannot be decrypted */
	FSCK_MISSING_BLOB, /* a manifest or version names it */
	FSCK_WRONG_SIZE,   /* a manifest says another size than it has */
	FSCK_BAD_MANIFEST, /* cannot be read as one */
	FSCK_BAD_LIST,     /* a chunk list that is missing, no chunk list, or another file's */
	FSCK_KINDS
};
const char *fsck_kind_name(enum fsck_kind kind);

struct fsck_fault {
	enum fsck_kind kind;
	struct digest digest;
	char where[300]; /* which manifest or version */
	char words[sizeof((struct error *)0)->text];
	const char *done; /* "": nothing; quarantined, rebuilt */
};

struct fsck_options {
	struct blob_store *store;
	struct catalog *catalog; /* NULL: a node without one */
	const char *origins; /* file of store/origins, kept by the caller; NULL, or not there: nothing is mirrored */
	bool repair;
	void (*on_fault)(void *arg, const struct fsck_fault *fault); /* inside fsck_step */
	void *arg;
};

struct fsck_result {
	const char *phase; /* blobs, manifests, versions, lists, partials, done */
	uint64_t blobs, bytes, sealed, manifests, versions, lists, partials, partial_bytes;
	uint64_t elsewhere; /* blobs that a mirrored manifest names and that come when they are asked for: no fault */
	uint64_t faults, repaired;
};

struct fsck;
struct fsck *fsck_new(const struct fsck_options *options);
void fsck_free(struct fsck *f);
int fsck_step(struct fsck *f, bool *ret_more, struct error *err);
const struct fsck_result *fsck_result(const struct fsck *f);
/* What is named and not here (any more): digest, and size where it is known, as files to fetch. */
const struct version_file *fsck_wanted(const struct fsck *f, size_t *ret_count);

#endif
