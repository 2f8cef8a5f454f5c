/* SPDX-License-Identifier: Apache-2.0 */
/* bundle.h - models for places without a network: an OCI image layout in a tar, and what else we put into it.
 *
 * Tar is libarchive's: headers are made by it, files of strangers read by it; what a bundle may hold is narrow (regular
 * files of known names, each once, within the file), so nothing is ever unpacked by a name of the archive. Blocks where
 * its reader does; any thread. Format: docs/wire.md, "Bundles". Source: OCI image-spec 1.1, image-layout.md.
 */
#ifndef MDN_STORE_BUNDLE_H
#define MDN_STORE_BUNDLE_H

#include "base/digest.h"
#include "base/error.h"
#include "base/str.h"

#include <stdbool.h>

#define BUNDLE_ENTRIES_MAX 65536
#define BUNDLE_META_MAX (8 << 20) /* bytes of index.json and of the list of contents */
#define BUNDLE_LAYOUT "{\"imageLayoutVersion\":\"1.0.0\"}"
#define BUNDLE_CONTENTS "mdn-bundle.json"
#define BUNDLE_SIGNATURE "mdn-bundle.sig"
#define BUNDLE_NAME_SIZE 96

struct bundle_entry {
	char name[BUNDLE_NAME_SIZE]; /* without "./" */
	uint64_t offset, size;       /* of its content in the tar */
};

struct bundle_reader {
	/* Fills `out` with exactly len bytes from offset. */
	int (*read)(void *arg, uint64_t offset, void *out, size_t len, struct error *err);
	void *arg;
	uint64_t size;
};

/* A header of a regular file, as it stands before its content; content is padded to BUNDLE_BLOCK. */
#define BUNDLE_BLOCK 512
int bundle_header(const char *name, uint64_t size, struct buf *out, struct error *err);
static inline uint64_t bundle_padding(uint64_t size)
{
	return (BUNDLE_BLOCK - size % BUNDLE_BLOCK) % BUNDLE_BLOCK;
}
#define BUNDLE_END_SIZE (2 * BUNDLE_BLOCK) /* zeros at the end of a tar */

/* Names, places and sizes of all files; E_INVAL or E_LIMIT naming what a bundle may not have. Contents are not read. */
int bundle_scan(const struct bundle_reader *reader, struct bundle_entry **ret_entries, size_t *ret_count,
                struct error *err);
const struct bundle_entry *bundle_find(const struct bundle_entry *entries, size_t count, const char *name);
const struct bundle_entry *bundle_find_blob(const struct bundle_entry *entries, size_t count, const struct digest *d);
void bundle_blob_name(const struct digest *d, char ret_name[static BUNDLE_NAME_SIZE]);
void bundle_pack_name(const struct digest *d, char ret_name[static BUNDLE_NAME_SIZE]);

/* The list of contents: every blob, and how those of a delta bundle are made. */
struct bundle_blob {
	struct digest digest;
	uint64_t size;
	bool delta;           /* only `pack_size` bytes of it are in the bundle, as a pack */
	struct digest chunks; /* the blob's chunk list, which is in the bundle too */
	uint64_t pack_size;
};
struct bundle_contents {
	struct bundle_blob *blobs;
	size_t count;
};
void bundle_contents_fini(struct bundle_contents *c);
void bundle_contents_format(const struct bundle_contents *c, struct buf *out);
int bundle_contents_parse(struct str text, struct bundle_contents *ret_contents, struct error *err);

/* What a place has: digests of files and of chunks, each sorted. */
struct bundle_have {
	struct digest *blobs, *chunks;
	size_t blob_count, chunk_count;
};
#define BUNDLE_HAVE_MAX (64 << 20)
void bundle_have_fini(struct bundle_have *h);
void bundle_have_add(struct digest **list, size_t *count, const struct digest *d);
void bundle_have_sort(struct bundle_have *h);
bool bundle_have_has(const struct digest *list, size_t count, const struct digest *d);
void bundle_have_format(struct bundle_have *h, struct buf *out);
int bundle_have_parse(struct str text, struct bundle_have *ret_have, struct error *err);

#endif
