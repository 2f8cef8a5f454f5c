/* SPDX-License-Identifier: Apache-2.0 */
/* seal.h - files encrypted at rest: AES-256-GCM in segments, so that any range is read without the rest.
 *
 * A header with the file's own key, wrapped by the site key and bound to the digest of the content; then segments of
 * 64 KiB, each with a nonce and a tag of its own, bound to its number. docs/rooms/store.md draws it. What was changed,
 * moved, cut off or put under another name is E_CORRUPT; another site key is E_FORBIDDEN. Blocks on the disk. Any
 * thread; writers of one file keep apart by themselves.
 */
#ifndef MDN_STORE_SEAL_H
#define MDN_STORE_SEAL_H

#include "base/digest.h"
#include "base/error.h"

#define SEAL_HEADER 128
#define SEAL_SEGMENT 65536
#define SEAL_EXTRA 28 /* nonce and tag of a segment */

/* The site key: a file of 64 hex digits that nobody else may read. */
struct seal_key {
	uint8_t bytes[32];
	uint8_t id[16]; /* says which key it is without telling it */
};
int seal_key_read(const char *path, struct seal_key *ret_key, struct error *err);

/* One file. The size is that of the content. */
struct seal {
	uint8_t key[32];
	uint64_t size;
	bool sparse; /* on its way: a segment that was never written (a hole) reads as zeros */
};
void seal_new(uint64_t size, struct seal *ret_seal); /* with a new key */
void seal_forget(struct seal *s);
uint64_t seal_file_size(uint64_t size);                         /* on the disk */
bool seal_content_size(uint64_t file_size, uint64_t *ret_size); /* false: no sealed file is that long */
uint64_t seal_position(uint64_t offset);                        /* of the segment with that byte of the content */

void seal_header_make(const struct seal *s, const struct seal_key *site, const struct digest *d,
                      uint8_t ret_header[static SEAL_HEADER]);
int seal_header_open(struct str header, const struct seal_key *site, const struct digest *d, struct seal *ret_seal,
                     struct error *err);
int seal_read(const struct seal *s, int fd, uint64_t offset, void *out, size_t len, struct error *err);
/* Within s->size; a segment written in part is read and written anew. */
int seal_write(const struct seal *s, int fd, uint64_t offset, struct str data, struct error *err);
/* Segment i alone, as it is on the disk. */
int seal_write_segment(const struct seal *s, int fd, uint64_t i, struct str plain, struct error *err);

#endif
