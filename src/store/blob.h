/* SPDX-License-Identifier: Apache-2.0 */
/* blob.h - content-addressed files: finished blobs, uploads on their way, and partial blobs in chunks.
 *
 * Folder layout under `root`: blobs/sha256/ab/abcd... (finished, read only), uploads/ID (+ nothing else: the
 * offset is the file's size), partial/HEX (data, full length, sparse) + partial/HEX.map (what is held, durable), and
 * partial/HEX.spool likewise (spool.h).
 * An encrypted blob has the ending ".sealed"; its digest is still that of the content.
 * A blob appears by fsync + rename + directory fsync, so kill -9 never shows half a blob; blob_store_open
 * sweeps uploads that were not kept. All calls block on the disk: loop users call them in jobs, except
 * blob_stat/blob_open. A store may be used from several threads; one upload or partial from one thread at a time.
 * Bytes.
 */
#ifndef MDN_STORE_BLOB_H
#define MDN_STORE_BLOB_H

#include "base/digest.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/str.h"

#include <stdbool.h>

struct blob_store;

int blob_store_open(struct str root, struct blob_store **ret_store, struct error *err);
void blob_store_close(struct blob_store *s);
/* E_NOSPACE, in words, when the disk has no room for so many bytes more (and a reserve). */
int blob_store_room(struct blob_store *s, uint64_t bytes, struct error *err);
/* E_NOTFOUND when not held whole. */
int blob_stat(struct blob_store *s, const struct digest *d, uint64_t *ret_size, struct error *err);
/* The file itself, where the store is not encrypted (E_UNSUPPORTED where it is): blob_file below works always. */
int blob_open(struct blob_store *s, const struct digest *d, int *ret_fd, uint64_t *ret_size, struct error *err);
/* Path of a finished blob, for mmap by an engine; heap, caller frees. */
int blob_path(struct blob_store *s, const struct digest *d, char **ret_path, struct error *err);
int blob_read_all(struct blob_store *s, const struct digest *d, size_t max_bytes, struct buf *out, struct error *err);
int blob_delete(struct blob_store *s, const struct digest *d, struct error *err);
/* Small content at once: verified by construction, returned under its digest. */
int blob_put(struct blob_store *s, struct str content, struct digest *ret_digest, struct error *err);
/* Every finished blob; stops when the callback returns false. */
void blob_each(struct blob_store *s, bool (*fn)(void *arg, const struct digest *d, uint64_t size), void *arg);

/* A finished blob for reading, encrypted at rest or not. Any thread, several at once. Open ones outlive removal. */
struct blob_file;
int blob_file_open(struct blob_store *s, const struct digest *d, struct blob_file **ret_file, struct error *err);
void blob_file_close(struct blob_file *f);
uint64_t blob_file_size(const struct blob_file *f);
int blob_file_fd(const struct blob_file *f); /* the content as it is, for sendfile and mmap; -1: encrypted */
/* All of it or an error; E_CORRUPT when it was changed on the disk. */
int blob_file_read(const struct blob_file *f, uint64_t offset, void *out, size_t len, struct error *err);
/* Decrypted into memory that has a path (/proc/self/fd/N) as long as *ret_fd is open, and cannot be changed: for an
 * engine that maps files. Takes as long as reading does. */
int blob_file_in_memory(const struct blob_file *f, int *ret_fd, struct error *err);

/* Encryption at rest (store/seal.h): with this key, what is sealed can be read; seals: what is written from now on is
 * sealed. Path empty: no key. E_FORBIDDEN when the key of what is there is another. Before anything else is done with
 * the store. */
int blob_store_unlock(struct blob_store *s, const char *site_key_path, bool seals, struct error *err);

/* Every sealed blob is put under another site key: only headers are written anew, each at once. Killed in the middle,
 * some have the one key and some the other: do it again. */
int blob_store_rekey(struct blob_store *s, const char *new_key_path, size_t *ret_count, struct error *err);

/* Keeping. Each blob has a time of last use: set when it is published, and when somebody asks for it (stat, open,
 * path, put) and the last time is a quarter of the lease ago. So what a push has looked at a moment ago is safe from
 * the collector for three quarters of a lease, named by a manifest or not. */
void blob_store_lease(struct blob_store *s, int64_t lease_us); /* default 1 h */
int64_t blob_store_now_us(const struct blob_store *s);         /* the clock of those times */
struct blob_info {
	struct digest digest;
	uint64_t size;
	int64_t used_us;
	bool sealed;
};
/* Those whose digest begins with the byte `first`; renews nothing. False when the callback ended it. */
bool blob_each_of(struct blob_store *s, uint8_t first, bool (*fn)(void *arg, const struct blob_info *info), void *arg);
int blob_info(struct blob_store *s, const struct digest *d, struct blob_info *ret_info, struct error *err);
/* Removing while others push, by one collector at a time: condemned blobs are not found by anybody from then on; the
 * caller forgets them elsewhere as long as blob_is_condemned, in one transaction; then blob_sweep removes them and says
 * how many bytes that were. Publishing one anew pardons it at any time between. False: used since, or not here. */
#define BLOB_CONDEMNED_MAX 256
bool blob_condemn(struct blob_store *s, const struct digest *d, int64_t unused_since_us);
bool blob_is_condemned(struct blob_store *s, const struct digest *d);
uint64_t blob_sweep(struct blob_store *s);
void blob_pardon_all(struct blob_store *s);
/* As blob_file_open and blob_read_all, but renewing nothing: for who only checks. */
int blob_file_peek(struct blob_store *s, const struct digest *d, struct blob_file **ret_file, struct error *err);
int blob_peek_all(struct blob_store *s, const struct digest *d, size_t max_bytes, struct buf *out, struct error *err);
/* Blobs on their way that an earlier run or this one left: how long they will be, and bytes on the disk. */
void blob_each_partial(struct blob_store *s,
                       void (*fn)(void *arg, const struct digest *d, uint64_t size, uint64_t disk_bytes), void *arg);
/* Moves a blob to the folder quarantine/, where nobody finds it but people. */
int blob_quarantine(struct blob_store *s, const struct digest *d, struct error *err);

struct chunk_list; /* below */

/* Uploads: bytes in order, then finish under a claimed digest. Hash is carried along while open. */
struct blob_upload;
int blob_upload_new(struct blob_store *s, struct blob_upload **ret_upload, struct error *err);
const char *blob_upload_id(const struct blob_upload *u);
uint64_t blob_upload_offset(const struct blob_upload *u);
int blob_upload_append(struct blob_upload *u, struct str data, struct error *err);
/* Before the first byte: digests of chunks are made, too, if file_size bytes will come. Before the end: their list, if
 * there is one, good for `claimed` when blob_upload_finish is. So that a file needs no second reading for it. */
void blob_upload_chunk(struct blob_upload *u, uint64_t file_size, uint64_t chunk_size);
bool blob_upload_list(struct blob_upload *u, const struct digest *claimed, struct chunk_list *ret_list);
/* E_CORRUPT and nothing kept when the content is not `claimed`. Frees u in every case. */
int blob_upload_finish(struct blob_upload *u, const struct digest *claimed, struct error *err);
/* Under the digest it turned out to have. */
int blob_upload_finish_any(struct blob_upload *u, struct digest *ret_digest, struct error *err);
void blob_upload_abort(struct blob_upload *u); /* frees u, removes its file */
/* Kept: it is there again when the store is opened anew, with a note of its owner's (UPLOAD_NOTE_MAX). Not where the
 * store encrypts. Reopening reads all that has come. */
#define UPLOAD_NOTE_MAX 512
int blob_upload_keep(struct blob_upload *u, struct str note, struct error *err);
void blob_upload_close(struct blob_upload *u); /* frees u; removes its file unless it is kept */
void blob_upload_each_kept(struct blob_store *s, void (*fn)(void *arg, const char *id, struct str note), void *arg);
int blob_upload_reopen(struct blob_store *s, const char *id, struct blob_upload **ret_upload, struct error *err);
void blob_upload_drop(struct blob_store *s, const char *id); /* one that is not open */

/* Chunk lists: the file's size, length and SHA-256 of every chunk; canonical text form, itself a blob. docs/wire.md. */
#define CHUNK_SIZE_DEFAULT (UINT64_C(4) << 20)
#define CHUNK_SIZE_MAX (UINT64_C(64) << 20)      /* a receiver holds a chunk in memory */
#define CHUNK_LIST_MAX (LIMIT_CHUNKS * 74 + 256) /* bytes of the text: "67108864 HEX\n" a chunk, and the head */
struct chunk_list {
	struct digest file;
	uint64_t size;
	uint32_t count;
	uint64_t *ends; /* of each chunk: where the next begins; rising, the last one is `size` */
	struct digest *digests;
};
void chunk_list_fini(struct chunk_list *c);
/* Reads the file once, E_CORRUPT when it is not `file` any more. Doubles chunk_size until LIMIT_CHUNKS is kept. */
int chunk_list_build(struct blob_store *s, const struct digest *file, uint64_t chunk_size, struct chunk_list *ret_list,
                     struct error *err);
void chunk_list_format(const struct chunk_list *c, struct buf *out);
int chunk_list_parse(struct str text, struct chunk_list *ret_list, struct error *err);
static inline uint64_t chunk_offset(const struct chunk_list *c, uint32_t i)
{
	return i ? c->ends[i - 1] : 0;
}
static inline uint64_t chunk_length(const struct chunk_list *c, uint32_t i)
{
	return c->ends[i] - chunk_offset(c, i);
}
uint32_t chunk_at(const struct chunk_list *c, uint64_t offset); /* the chunk with this byte; offset < c->size */

/* Partial blobs: chunks arrive in any order, each verified before it counts or is re-served. blob_partial_write may
 * run in several jobs at once; has, count and bitmap may be asked meanwhile: a bit is set after its bytes are readable.
 */
struct blob_partial;
/* Takes over a copy of the list; resumes what an earlier run left. Refuses a disk too full for the rest. */
int blob_partial_open(struct blob_store *s, const struct chunk_list *list, struct blob_partial **ret_partial,
                      struct error *err);
void blob_partial_close(struct blob_partial *p);   /* keeps what is held */
void blob_partial_discard(struct blob_partial *p); /* frees p and removes what is held */
bool blob_partial_has(const struct blob_partial *p, uint32_t chunk);
uint32_t blob_partial_count(const struct blob_partial *p);
uint64_t blob_partial_bytes(const struct blob_partial *p);        /* of the chunks held */
const uint8_t *blob_partial_bitmap(const struct blob_partial *p); /* LSB first, (count+7)/8 bytes */
/* E_CORRUPT when the bytes are not that chunk; then nothing changes. */
int blob_partial_write(struct blob_partial *p, uint32_t chunk, struct str data, struct error *err);
/* For re-serving held chunks: a file of its own over the same bytes, the caller's to close. */
int blob_partial_file(const struct blob_partial *p, struct blob_file **ret_file, struct error *err);
int blob_partial_fd(const struct blob_partial *p); /* dup before keeping; -1: encrypted */
/* All chunks held: a finished blob; the caller still closes p. Each chunk was checked, the whole is not read again: who
 * opens a partial blob has the list from somebody whose word for the file counts (a version). */
int blob_partial_finish(struct blob_partial *p, struct error *err);

#endif
