/* SPDX-License-Identifier: Apache-2.0 */
/* blob_private.h - what blob.c shares with chunk_list.c and blob_partial.c; not for other rooms. */
#ifndef MDN_STORE_BLOB_PRIVATE_H
#define MDN_STORE_BLOB_PRIVATE_H

#include "store/blob.h"

struct blob_store {
	char *root; /* absolute */
	int root_fd, blobs_fd, uploads_fd, partial_fd;
};

int blob_write_at(int fd, uint64_t offset, struct str data, struct error *err);
int blob_read_at(int fd, uint64_t offset, void *out, size_t len, struct error *err); /* E_CORRUPT: too short */
/* SHA-256 of a part of a file; E_CORRUPT when it is too short. */
int blob_hash_range(int fd, uint64_t offset, uint64_t len, struct digest *ret_digest, struct error *err);
/* Digests of chunks while bytes pass in order. */
struct chunk_hash;
/* NULL: a file of that size would have more than LIMIT_CHUNKS. */
struct chunk_hash *chunk_hash_new(uint64_t file_size, uint64_t chunk_size);
void chunk_hash_free(struct chunk_hash *h);
void chunk_hash_add(struct chunk_hash *h, struct str data);
/* Ends it, once; false when other than file_size bytes came. */
bool chunk_hash_end(struct chunk_hash *h, const struct digest *file, struct chunk_list *ret_list);
/* Makes dir_fd/name the finished blob d, durably. */
int blob_publish(struct blob_store *s, int dir_fd, const char *name, int fd, const struct digest *d, struct error *err);

#endif
