/* SPDX-License-Identifier: Apache-2.0 */
/* blob_private.h - what the files of blob.h share; not for other rooms. */
#ifndef MDN_STORE_BLOB_PRIVATE_H
#define MDN_STORE_BLOB_PRIVATE_H

#include "store/blob.h"
#include "store/cut.h"
#include "store/seal.h"

#include <dirent.h>
#include <pthread.h>

#define BLOB_NAME_SIZE (2 + 1 + 64 + 7 + 1) /* "ab/abcd....sealed" */
#define BLOB_SEALED ".sealed"

struct blob_store {
	char *root; /* absolute */
	int root_fd, blobs_fd, uploads_fd, partial_fd;
	struct seal_key site_key;
	bool has_key, seals;       /* a key to read with; new files are sealed */
	pthread_mutex_t keep_lock; /* leaf; what is below, and renames and removals in blobs/: never for long */
	struct digest *condemned;
	size_t condemned_count;
	int64_t lease_us;
	int64_t clock_us; /* wall clock at start less monotonic: a clock that jumps ends no lease */
};

/* Over an open file, which it takes. seal NULL: plain. */
struct blob_file *blob_file_over(int fd, uint64_t size, const struct seal *seal);

/* Where a finished blob is. */
struct blob_place {
	char name[BLOB_NAME_SIZE]; /* under blobs/sha256 */
	bool sealed;
	uint64_t size; /* of the content */
	int64_t used_us;
};
void blob_name(const struct digest *d, bool sealed, char ret_name[static BLOB_NAME_SIZE]);
/* E_NOTFOUND when not held, or condemned. renew: somebody asks for it, who is to find it again. */
int blob_find(struct blob_store *s, const struct digest *d, bool renew, struct blob_place *ret_place,
              struct error *err);
int64_t blob_now_us(const struct blob_store *s);
void blob_pardon(struct blob_store *s, const struct digest *d); /* keep_lock held */
/* The content of an open file whose name is d: reads the header when it is sealed. */
int blob_file_take(struct blob_store *s, int fd, bool sealed, const struct digest *d, struct blob_file **ret_file,
                   struct error *err);

DIR *blob_list_folder(int dir_fd, const char *name); /* NULL: there is none, or it cannot be read */
int blob_write_at(int fd, uint64_t offset, struct str data, struct error *err);
int blob_read_at(int fd, uint64_t offset, void *out, size_t len, struct error *err); /* E_CORRUPT: too short */
/* SHA-256 of a part of a file; E_CORRUPT when it is too short. */
int blob_hash_range(int fd, uint64_t offset, uint64_t len, struct digest *ret_digest, struct error *err);
/* A chunk whose bytes are said to lie at `offset` of another file here; E_CORRUPT when they are others. */
int blob_partial_copy(struct blob_partial *p, uint32_t chunk, const struct blob_file *from, uint64_t offset,
                      struct error *err);
struct blob_store *blob_partial_store(const struct blob_partial *p);
const struct chunk_list *blob_partial_list(const struct blob_partial *p);
/* Digests of chunks while bytes pass in order. Where to cut stands in the file's header: the hash reads it once it is
 * there. */
struct chunk_hash;
struct chunk_hash *chunk_hash_new(cut_read *read, void *arg, uint64_t file_size, uint64_t chunk_size);
void chunk_hash_free(struct chunk_hash *h);
void chunk_hash_add(struct chunk_hash *h, struct str data); /* which can be read already */
/* Ends it, once; false when other than file_size bytes came, or they are too many for LIMIT_CHUNKS. */
bool chunk_hash_end(struct chunk_hash *h, const struct digest *file, struct chunk_list *ret_list);
/* Makes dir_fd/name the finished blob d, durably. */
int blob_publish(struct blob_store *s, int dir_fd, const char *name, int fd, const struct digest *d, bool sealed,
                 struct error *err);

#endif
