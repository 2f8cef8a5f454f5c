/* SPDX-License-Identifier: Apache-2.0 */
/* Whole segments should be written to an encrypted one: a part of a segment is read before it is written anew.
 * partial/HEX.spool is the data, sparse; partial/HEX.spool.map one byte a piece, '1' once it is durable (the data is
 * synced before the byte is written). A map of another length, or data of another size, begins anew. */
#include "store/spool.h"

#include "store/blob_private.h"

#include "base/clock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define STEP (1u << 20)
#define SIZE_MAX_BYTES (LIMIT_CHUNKS * CHUNK_SIZE_MAX) /* more can be no file of a version */
#define ENDING ".spool"
#define NAME_SIZE (64 + 7 + 6 + 1) /* HEX, ".sealed", ".spool" */

struct spool {
	struct blob_store *store;
	struct digest digest;
	uint64_t size;
	uint32_t count;
	int fd, map_fd;
	bool sealed;
	struct seal seal;
	char data_name[NAME_SIZE], map_name[NAME_SIZE + 4];
	_Atomic(uint8_t) *held; /* one a piece; set after its bytes are readable */
	atomic_uint_fast64_t held_bytes;
	pthread_mutex_t hash_lock; /* leaf: hash and hashed */
	struct digest_stream *hash;
	uint32_t hashed; /* pieces, in order */
};

static int read_seal(struct spool *p, struct error *err)
{
	uint8_t header[SEAL_HEADER];
	int rc = blob_read_at(p->fd, 0, header, sizeof header, err);
	return rc ? rc
	          : seal_header_open((struct str){(char *)header, sizeof header}, &p->store->site_key, &p->digest,
	                             &p->seal, err);
}

static int begin(struct spool *p, struct error *err)
{
	uint64_t length = p->sealed ? seal_file_size(p->size) : p->size;
	if (ftruncate(p->fd, 0) || ftruncate(p->fd, (off_t)length) || ftruncate(p->map_fd, 0) ||
	    ftruncate(p->map_fd, (off_t)p->count))
		return error_errno(err, errno, "cannot make room for a blob of %llu bytes",
		                   (unsigned long long)p->size);
	if (!p->sealed)
		return 0;
	uint8_t header[SEAL_HEADER];
	seal_new(p->size, &p->seal);
	seal_header_make(&p->seal, &p->store->site_key, &p->digest, header);
	return blob_write_at(p->fd, 0, (struct str){(char *)header, sizeof header}, err);
}

/* 0 and *ret_goes_on: what an earlier run left can be used. */
static int look_back(struct spool *p, bool *ret_goes_on, struct error *err)
{
	struct stat data, map;
	if (fstat(p->fd, &data) || fstat(p->map_fd, &map))
		return error_errno(err, errno, "cannot look at a blob on its way");
	uint64_t length = p->sealed ? seal_file_size(p->size) : p->size;
	*ret_goes_on = (uint64_t)data.st_size == length && map.st_size == (off_t)p->count &&
	               (!p->sealed || (!read_seal(p, NULL) && p->seal.size == p->size));
	return 0;
}

static int read_map(struct spool *p, struct error *err)
{
	char *marks = mem_new(p->count + 1u);
	int rc = blob_read_at(p->map_fd, 0, marks, p->count, err);
	for (uint32_t i = 0; i < p->count && !rc; i++)
		if (marks[i] == '1') {
			p->held[i] = 1;
			p->held_bytes += spool_length(p, i);
		}
	free(marks);
	return rc;
}

static void name_files(const struct digest *d, bool sealed, char ret_data[static NAME_SIZE],
                       char ret_map[static NAME_SIZE + 4])
{
	char hex[65];
	hex_encode(d->bytes, DIGEST_SIZE, hex);
	snprintf(ret_data, NAME_SIZE, "%s%s" ENDING, hex, sealed ? BLOB_SEALED : "");
	snprintf(ret_map, NAME_SIZE + 4, "%s.map", ret_data);
}

static int open_files(struct spool *p, struct error *err)
{
	bool goes_on;
	int dir = p->store->partial_fd;
	name_files(&p->digest, p->sealed, p->data_name, p->map_name);
	p->fd = openat(dir, p->data_name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	p->map_fd = openat(dir, p->map_name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (p->fd < 0 || p->map_fd < 0)
		return error_errno(err, errno, "cannot keep a blob on its way in %s", p->store->root);
	int rc = look_back(p, &goes_on, err);
	if (!rc && goes_on)
		rc = read_map(p, err);
	if (!rc)
		rc = blob_store_room(p->store, p->size - p->held_bytes, err);
	if (!rc && !goes_on)
		rc = begin(p, err);
	if (rc && !p->held_bytes)
		spool_remove(p);
	p->seal.sparse = true;
	return rc;
}

int spool_open(struct blob_store *s, const struct digest *d, uint64_t size, struct spool **ret_spool, struct error *err)
{
	if (size > SIZE_MAX_BYTES)
		return error_set(err, E_LIMIT, "a blob of %llu bytes is too large for any model",
		                 (unsigned long long)size);
	struct spool *p = NEW(struct spool);
	p->store = s;
	p->digest = *d;
	p->size = size;
	p->count = (uint32_t)(size / SPOOL_PIECE + (size % SPOOL_PIECE != 0));
	p->sealed = s->seals;
	p->fd = p->map_fd = -1;
	p->held = mem_new(p->count + 1u);
	p->hash = digest_stream_new();
	pthread_mutex_init(&p->hash_lock, NULL);
	int rc = open_files(p, err);
	if (rc) {
		spool_close(p);
		return rc;
	}
	*ret_spool = p;
	return 0;
}

void spool_close(struct spool *p)
{
	if (!p)
		return;
	if (p->fd >= 0)
		close(p->fd);
	if (p->map_fd >= 0)
		close(p->map_fd);
	pthread_mutex_destroy(&p->hash_lock);
	digest_stream_free(p->hash);
	seal_forget(&p->seal);
	free(p->held);
	free(p);
}

void spool_remove(struct spool *p)
{
	unlinkat(p->store->partial_fd, p->data_name, 0);
	unlinkat(p->store->partial_fd, p->map_name, 0);
}

uint64_t spool_size(const struct spool *p)
{
	return p->size;
}

uint32_t spool_count(const struct spool *p)
{
	return p->count;
}

bool spool_has(const struct spool *p, uint32_t piece)
{
	return piece < p->count && p->held[piece];
}

uint64_t spool_held(const struct spool *p)
{
	return p->held_bytes;
}

int spool_write(struct spool *p, uint64_t offset, struct str data, struct error *err)
{
	if (offset > p->size || data.len > p->size - offset)
		return error_set(err, E_CORRUPT, "more bytes came than the %llu that were announced",
		                 (unsigned long long)p->size);
	if (spool_has(p, (uint32_t)(offset / SPOOL_PIECE)))
		return 0; /* it was hashed: other bytes now would be in the blob, and not in its digest */
	return p->sealed ? seal_write(&p->seal, p->fd, offset, data, err) : blob_write_at(p->fd, offset, data, err);
}

int spool_read(const struct spool *p, uint64_t offset, void *out, size_t len, struct error *err)
{
	return p->sealed ? seal_read(&p->seal, p->fd, offset, out, len, err)
	                 : blob_read_at(p->fd, offset, out, len, err);
}

static int hash_piece(struct spool *p, uint32_t piece, char *step, struct error *err)
{
	uint64_t at = piece * SPOOL_PIECE, end = at + spool_length(p, piece);
	int rc = 0;
	for (size_t n; at < end && !rc; at += n) {
		n = end - at < STEP ? (size_t)(end - at) : STEP;
		rc = spool_read(p, at, step, n, err);
		if (!rc)
			digest_stream_add(p->hash, step, n);
	}
	return rc;
}

/* As far as pieces are held without a gap. A piece whose reading fails in the middle spoils the hash: said so. */
static int hash_on(struct spool *p, struct error *err)
{
	int rc = 0;
	char *step = mem_new(STEP);
	pthread_mutex_lock(&p->hash_lock);
	while (!rc && p->hashed < p->count && p->held[p->hashed]) {
		rc = hash_piece(p, p->hashed, step, err);
		p->hashed++;
	}
	if (rc) { /* from the beginning, next time */
		digest_stream_free(p->hash);
		p->hash = digest_stream_new();
		p->hashed = 0;
	}
	pthread_mutex_unlock(&p->hash_lock);
	free(step);
	return rc;
}

int spool_keep(struct spool *p, uint32_t piece, struct error *err)
{
	if (fdatasync(p->fd))
		return error_errno(err, errno, "cannot make a piece of a blob durable");
	int rc = blob_write_at(p->map_fd, piece, STR("1"), err);
	if (rc)
		return rc;
	if (!atomic_exchange(&p->held[piece], 1))
		p->held_bytes += spool_length(p, piece);
	return hash_on(p, err);
}

int spool_finish(struct spool *p, struct error *err)
{
	int rc = hash_on(p, err);
	if (rc)
		return rc;
	if (p->hashed < p->count)
		return error_set(err, E_INTERNAL, "piece %u of a blob is not there yet", p->hashed);
	struct digest got = digest_stream_end(p->hash);
	digest_stream_free(p->hash);
	p->hash = digest_stream_new();
	p->hashed = 0;
	if (!digest_equal(&got, &p->digest)) {
		char text[DIGEST_TEXT_SIZE];
		digest_format(&got, text);
		return error_set(err, E_CORRUPT, "the bytes that came have the digest %s, another was announced", text);
	}
	rc = blob_publish(p->store, p->store->partial_fd, p->data_name, p->fd, &p->digest, p->sealed, err);
	if (!rc)
		unlinkat(p->store->partial_fd, p->map_name, 0);
	return rc;
}

/* ---- what is left of others ------------------------------------------------------------------- */

void spool_each(struct blob_store *s, void (*fn)(void *arg, const struct digest *d, const struct spool_info *info),
                void *arg)
{
	struct dirent *e;
	DIR *dir = blob_list_folder(s->partial_fd, ".");
	while (dir && (e = readdir(dir))) {
		struct digest d;
		struct stat st;
		struct str name = str_from(e->d_name);
		if (!str_ends(name, STR(ENDING)))
			continue;
		name.len -= sizeof ENDING - 1;
		if (str_ends(name, STR(BLOB_SEALED)))
			name.len -= sizeof BLOB_SEALED - 1;
		if (hex_decode(name, d.bytes, DIGEST_SIZE) || fstatat(s->partial_fd, e->d_name, &st, 0))
			continue;
		fn(arg, &d,
		   &(struct spool_info){(uint64_t)st.st_size, (uint64_t)st.st_blocks * 512,
		                        (int64_t)st.st_mtim.tv_sec * US_PER_S + st.st_mtim.tv_nsec / 1000});
	}
	if (dir)
		closedir(dir);
}

void spool_forget(struct blob_store *s, const struct digest *d)
{
	char data[NAME_SIZE], map[NAME_SIZE + 4];
	for (int sealed = 0; sealed < 2; sealed++) {
		name_files(d, sealed, data, map);
		unlinkat(s->partial_fd, data, 0);
		unlinkat(s->partial_fd, map, 0);
	}
}
