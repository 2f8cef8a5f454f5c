/* SPDX-License-Identifier: Apache-2.0 */
/* Partial blobs: partial/HEX is the file at full length with holes, partial/HEX.map a journal of what is in it:
 *
 *   "mdn-map1" (8 bytes)  digest of the chunk list's text (32)   then records of 8 bytes, little-endian:
 *   u32 chunk, u32 check    "this chunk was verified and written", in the order of writing
 *   u32 BARRIER, u32 check  "all records before this one are on the disk": appended after fdatasync of the data
 *
 * check = first 4 bytes of SHA-256(list digest, u32 position, u32 first word): a torn, moved or foreign record shows.
 * The map is only a cache of what hashing would find. On opening, records before the last barrier are believed; those
 * after it (a killed process: the bytes are in the page cache; a power cut: perhaps nowhere) are hashed again; when
 * the map is missing or damaged, every chunk that is not a hole is. Then the map is written anew, short and settled.
 *
 * Concurrency: hashing and pwrite run outside the lock; the journal's order is kept by it. It is a leaf lock.
 */
#include "store/blob_private.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEAD_SIZE 40
#define RECORD_SIZE 8
#define BARRIER UINT32_MAX
#define SYNC_BYTES (UINT64_C(32) << 20) /* data between two barriers: what a power cut makes us hash again */

struct blob_partial {
	struct blob_store *store;
	struct chunk_list list;
	struct digest list_digest;
	char data_name[65 + 7], map_name[65 + 7 + 4];
	int fd, map_fd;
	bool sealed;
	struct seal seal;
	pthread_mutex_t seal_lock; /* writing: chunks share segments. Leaf */
	uint64_t *torn;            /* segments found broken at the start, zeros since */
	size_t torn_count;
	uint8_t *bits;
	pthread_mutex_t lock; /* journal, counters */
	uint32_t position;    /* of the next record */
	uint32_t held;
	uint64_t held_bytes, unsynced_bytes;
	bool finished;
};

/* ---- records --------------------------------------------------------------------------------- */

static void put_u32(uint8_t *to, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		to[i] = (uint8_t)(v >> 8 * i);
}

static uint32_t get_u32(const uint8_t *from)
{
	return from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

static void record_make(const struct blob_partial *p, uint32_t position, uint32_t word, uint8_t to[static RECORD_SIZE])
{
	uint8_t text[DIGEST_SIZE + 8];
	memcpy(text, p->list_digest.bytes, DIGEST_SIZE);
	put_u32(text + DIGEST_SIZE, position);
	put_u32(text + DIGEST_SIZE + 4, word);
	struct digest check = digest_of(text, sizeof text);
	put_u32(to, word);
	memcpy(to + 4, check.bytes, 4);
}

static int record_append(struct blob_partial *p, uint32_t word, struct error *err)
{
	uint8_t record[RECORD_SIZE];
	record_make(p, p->position, word, record);
	uint64_t at = HEAD_SIZE + (uint64_t)p->position * RECORD_SIZE;
	int rc = blob_write_at(p->map_fd, at, (struct str){(char *)record, sizeof record}, err);
	if (!rc)
		p->position++;
	return rc;
}

/* Settles everything recorded so far. Lock held (or nobody else there yet). */
static int barrier(struct blob_partial *p, struct error *err)
{
	if (!p->unsynced_bytes)
		return 0;
	if (fdatasync(p->fd))
		return error_errno(err, errno, "cannot make a partial blob durable");
	int rc = record_append(p, BARRIER, err);
	if (!rc)
		p->unsynced_bytes = 0;
	return rc;
}

/* ---- bits ------------------------------------------------------------------------------------ */

bool blob_partial_has(const struct blob_partial *p, uint32_t chunk)
{
	return chunk < p->list.count && __atomic_load_n(&p->bits[chunk / 8], __ATOMIC_ACQUIRE) >> chunk % 8 & 1;
}

static void hold(struct blob_partial *p, uint32_t chunk)
{
	__atomic_fetch_or(&p->bits[chunk / 8], (uint8_t)(1u << chunk % 8), __ATOMIC_RELEASE);
	__atomic_fetch_add(&p->held, 1, __ATOMIC_RELEASE);
	__atomic_fetch_add(&p->held_bytes, chunk_length(&p->list, chunk), __ATOMIC_RELAXED);
}

uint32_t blob_partial_count(const struct blob_partial *p)
{
	return __atomic_load_n(&p->held, __ATOMIC_ACQUIRE);
}

uint64_t blob_partial_bytes(const struct blob_partial *p)
{
	return __atomic_load_n(&p->held_bytes, __ATOMIC_RELAXED);
}

const uint8_t *blob_partial_bitmap(const struct blob_partial *p)
{
	return p->bits;
}

int blob_partial_fd(const struct blob_partial *p)
{
	return p->sealed ? -1 : p->fd;
}

int blob_partial_file(const struct blob_partial *p, struct blob_file **ret_file, struct error *err)
{
	int fd = fcntl(p->fd, F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return error_errno(err, errno, "cannot open a partial blob once more");
	*ret_file = blob_file_over(fd, p->list.size, p->sealed ? &p->seal : NULL);
	return 0;
}

/* ---- the bytes of a chunk, sealed or not ------------------------------------------------------- */

static int chunk_write(struct blob_partial *p, uint32_t chunk, struct str data, struct error *err)
{
	uint64_t at = chunk_offset(&p->list, chunk);
	if (!p->sealed)
		return blob_write_at(p->fd, at, data, err);
	pthread_mutex_lock(&p->seal_lock);
	int rc = seal_write(&p->seal, p->fd, at, data, err);
	pthread_mutex_unlock(&p->seal_lock);
	if (rc == E_CORRUPT) /* of what was there: the chunk that came is not to blame */
		rc =
		    error_set(err, E_IO, "a partial blob was changed on the disk; remove %s in partial/", p->data_name);
	return rc;
}

static int chunk_hash_held(struct blob_partial *p, uint32_t chunk, struct digest *ret_digest, struct error *err)
{
	uint64_t at = chunk_offset(&p->list, chunk), length = chunk_length(&p->list, chunk);
	if (!p->sealed)
		return blob_hash_range(p->fd, at, length, ret_digest, err);
	char *data = mem_new((size_t)length);
	int rc = seal_read(&p->seal, p->fd, at, data, (size_t)length, err);
	if (!rc)
		*ret_digest = digest_of(data, (size_t)length);
	free(data);
	return rc;
}

/* ---- what an earlier run left ---------------------------------------------------------------- */

/* Is this chunk's place in the file a hole from end to end? */
static bool is_hole(const struct blob_partial *p, uint32_t chunk)
{
	uint64_t from = chunk_offset(&p->list, chunk), to = from + chunk_length(&p->list, chunk);
	if (p->sealed) {
		from = seal_position(from);
		to = seal_position(to - 1) + SEAL_SEGMENT + SEAL_EXTRA;
	}
	off_t data = lseek(p->fd, (off_t)from, SEEK_DATA);
	return data < 0 ? errno == ENXIO : (uint64_t)data >= to;
}

static void hold_if_true(struct blob_partial *p, uint32_t chunk)
{
	struct digest got;
	if (chunk >= p->list.count || blob_partial_has(p, chunk) || is_hole(p, chunk))
		return;
	if (chunk_hash_held(p, chunk, &got, NULL))
		return;
	if (digest_equal(&got, &p->list.digests[chunk]))
		hold(p, chunk);
}

/* A segment that two chunks share is written twice. When the second time was cut off, its tag is wrong and the first
 * chunk is lost with the second, whatever the map says of it. Such segments become holes again. */
static int find_torn(struct blob_partial *p, struct error *err)
{
	uint64_t seen = UINT64_MAX;
	static const char zeros[SEAL_SEGMENT + SEAL_EXTRA];
	for (uint32_t i = 1; i < p->list.count; i++) {
		uint64_t at = chunk_offset(&p->list, i), segment = at / SEAL_SEGMENT;
		char byte;
		if (at % SEAL_SEGMENT == 0 || segment == seen)
			continue;
		seen = segment;
		if (seal_read(&p->seal, p->fd, at, &byte, 1, NULL) != E_CORRUPT)
			continue;
		uint64_t from = seal_position(at), left = seal_file_size(p->list.size) - from;
		int rc = blob_write_at(p->fd, from,
		                       (struct str){zeros, left < sizeof zeros ? (size_t)left : sizeof zeros}, err);
		if (rc)
			return rc;
		p->torn = mem_resize(p->torn, p->torn_count + 1, sizeof *p->torn);
		p->torn[p->torn_count++] = segment;
	}
	return 0;
}

static bool is_torn(const struct blob_partial *p, uint32_t chunk)
{
	uint64_t from = chunk_offset(&p->list, chunk), last = from + chunk_length(&p->list, chunk) - 1;
	for (size_t i = 0; i < p->torn_count; i++)
		if (p->torn[i] >= from / SEAL_SEGMENT && p->torn[i] <= last / SEAL_SEGMENT)
			return true;
	return false;
}

/* Records that check out, and where the last barrier among them is (0: none). True when nothing else follows. */
static bool records_scan(const struct blob_partial *p, struct str records, uint32_t *ret_good, uint32_t *ret_settled)
{
	uint32_t good = 0, settled = 0;
	while (records.len >= ((uint64_t)good + 1) * RECORD_SIZE) {
		const uint8_t *at = (const uint8_t *)records.base + (uint64_t)good * RECORD_SIZE;
		uint8_t wanted[RECORD_SIZE];
		record_make(p, good, get_u32(at), wanted);
		if (memcmp(at, wanted, RECORD_SIZE))
			break;
		good++;
		if (get_u32(at) == BARRIER)
			settled = good;
	}
	*ret_good = good;
	*ret_settled = settled;
	return records.len == (uint64_t)good * RECORD_SIZE;
}

/* Believes, checks or drops what the map says; true when every chunk must be hashed instead. */
static bool map_apply(struct blob_partial *p, struct str map)
{
	if (map.len < HEAD_SIZE || memcmp(map.base, "mdn-map1", 8) ||
	    memcmp(map.base + 8, p->list_digest.bytes, DIGEST_SIZE))
		return true;
	struct str records = {map.base + HEAD_SIZE, map.len - HEAD_SIZE};
	uint32_t good, settled;
	bool whole = records_scan(p, records, &good, &settled);
	for (uint32_t i = 0; i < good; i++) {
		uint32_t chunk = get_u32((const uint8_t *)records.base + (uint64_t)i * RECORD_SIZE);
		if (chunk >= p->list.count || blob_partial_has(p, chunk))
			continue;
		if (is_torn(p, chunk))
			continue;
		if (i < settled)
			hold(p, chunk);
		else
			hold_if_true(p, chunk);
	}
	return !whole;
}

/* Two words a chunk and a barrier for each at most; more is not ours. */
static bool map_read(struct blob_partial *p, struct buf *out)
{
	struct stat st;
	int fd = openat(p->store->partial_fd, p->map_name, O_RDONLY | O_CLOEXEC);
	uint64_t most = HEAD_SIZE + (2 * (uint64_t)p->list.count + 16) * RECORD_SIZE;
	bool good = fd >= 0 && !fstat(fd, &st) && (uint64_t)st.st_size <= most;
	if (good)
		good = !blob_read_at(fd, 0, buf_reserve(out, (size_t)st.st_size), (size_t)st.st_size, NULL);
	if (good)
		out->len = (size_t)st.st_size;
	if (fd >= 0)
		close(fd);
	return good;
}

/* The map anew: one record a held chunk and a barrier; replaces the old one only when it is on the disk. */
static int map_rewrite(struct blob_partial *p, struct error *err)
{
	char name[sizeof p->map_name + 4];
	struct buf text = {0};
	uint8_t record[RECORD_SIZE];
	snprintf(name, sizeof name, "%s.new", p->map_name);
	if (fdatasync(p->fd))
		return error_errno(err, errno, "cannot make a partial blob durable");
	buf_append(&text, "mdn-map1", 8);
	buf_append(&text, p->list_digest.bytes, DIGEST_SIZE);
	p->position = 0;
	for (uint32_t i = 0; i <= p->list.count; i++) {
		if (i < p->list.count && !blob_partial_has(p, i))
			continue;
		record_make(p, p->position++, i < p->list.count ? i : BARRIER, record);
		buf_append(&text, record, sizeof record);
	}
	int rc = 0, dir_fd = p->store->partial_fd;
	p->map_fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (p->map_fd < 0)
		rc = error_errno(err, errno, "cannot write the map of a partial blob");
	if (!rc)
		rc = blob_write_at(p->map_fd, 0, buf_str(&text), err);
	if (!rc && (fsync(p->map_fd) || renameat(dir_fd, name, dir_fd, p->map_name) || fsync(dir_fd)))
		rc = error_errno(err, errno, "cannot make the map of a partial blob durable");
	buf_fini(&text);
	return rc;
}

/* The header of a file that is as long as it must be; E_CORRUPT: there is none that fits. */
static int read_seal(struct blob_partial *p, struct error *err)
{
	uint8_t header[SEAL_HEADER];
	int rc = blob_read_at(p->fd, 0, header, sizeof header, err);
	if (!rc)
		rc = seal_header_open((struct str){(char *)header, sizeof header}, &p->store->site_key, &p->list.file,
		                      &p->seal, err);
	if (!rc && p->seal.size != p->list.size)
		rc = error_set(err, E_CORRUPT, "it is of another size");
	return rc;
}

static int make_seal(struct blob_partial *p, struct error *err)
{
	uint8_t header[SEAL_HEADER];
	seal_new(p->list.size, &p->seal);
	seal_header_make(&p->seal, &p->store->site_key, &p->list.file, header);
	if (ftruncate(p->fd, 0) || ftruncate(p->fd, (off_t)seal_file_size(p->list.size)))
		return error_errno(err, errno, "cannot make room for a blob of %llu bytes",
		                   (unsigned long long)p->list.size);
	return blob_write_at(p->fd, 0, (struct str){(char *)header, sizeof header}, err);
}

static int open_sealed(struct blob_partial *p, uint64_t size, bool *ret_resumes, struct error *err)
{
	int rc = size == seal_file_size(p->list.size) ? read_seal(p, err) : E_CORRUPT;
	*ret_resumes = rc == 0;
	if (rc == E_CORRUPT)
		rc = make_seal(p, err);
	p->seal.sparse = true;
	return rc || !*ret_resumes ? rc : find_torn(p, err);
}

/* What was begun before encryption was set otherwise. */
static void remove_other_form(const struct blob_partial *p)
{
	char hex[65], name[65 + 7 + 4];
	hex_encode(p->list.file.bytes, DIGEST_SIZE, hex);
	snprintf(name, sizeof name, "%s%s", hex, p->sealed ? "" : BLOB_SEALED);
	unlinkat(p->store->partial_fd, name, 0);
	snprintf(name, sizeof name, "%s%s.map", hex, p->sealed ? "" : BLOB_SEALED);
	unlinkat(p->store->partial_fd, name, 0);
}

static int open_data(struct blob_partial *p, bool *ret_resumes, struct error *err)
{
	struct stat st;
	remove_other_form(p);
	p->fd = openat(p->store->partial_fd, p->data_name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (p->fd < 0 || fstat(p->fd, &st))
		return error_errno(err, errno, "cannot open a partial blob");
	if (p->sealed)
		return open_sealed(p, (uint64_t)st.st_size, ret_resumes, err);
	if ((uint64_t)st.st_size != p->list.size && ftruncate(p->fd, (off_t)p->list.size))
		return error_errno(err, errno, "cannot make room for a blob of %llu bytes",
		                   (unsigned long long)p->list.size);
	*ret_resumes = st.st_size > 0;
	return 0;
}

static int resume(struct blob_partial *p, struct error *err)
{
	bool resumes;
	struct buf map = {0};
	int rc = open_data(p, &resumes, err);
	if (rc)
		return rc;
	bool hash_all = resumes && (!map_read(p, &map) || map_apply(p, buf_str(&map)));
	for (uint32_t i = 0; hash_all && i < p->list.count; i++)
		hold_if_true(p, i);
	buf_fini(&map);
	rc = blob_store_room(p->store, p->list.size - p->held_bytes, err);
	return rc ? rc : map_rewrite(p, err);
}

static void list_copy(const struct chunk_list *from, struct chunk_list *to)
{
	*to = *from;
	to->digests = mem_new((from->count + 1u) * sizeof *to->digests);
	to->ends = mem_new((from->count + 1u) * sizeof *to->ends);
	if (from->count) {
		memcpy(to->digests, from->digests, from->count * sizeof *to->digests);
		memcpy(to->ends, from->ends, from->count * sizeof *to->ends);
	}
}

int blob_partial_open(struct blob_store *s, const struct chunk_list *list, struct blob_partial **ret_partial,
                      struct error *err)
{
	struct buf text = {0};
	struct blob_partial *p = NEW(struct blob_partial);
	p->store = s;
	p->fd = p->map_fd = -1;
	pthread_mutex_init(&p->lock, NULL);
	list_copy(list, &p->list);
	chunk_list_format(list, &text);
	p->list_digest = digest_of(text.base, text.len);
	buf_fini(&text);
	hex_encode(list->file.bytes, DIGEST_SIZE, p->data_name);
	p->sealed = s->seals;
	pthread_mutex_init(&p->seal_lock, NULL);
	if (p->sealed)
		memcpy(p->data_name + 64, BLOB_SEALED, sizeof BLOB_SEALED);
	snprintf(p->map_name, sizeof p->map_name, "%s.map", p->data_name);
	p->bits = mem_new(list->count / 8 + 1);
	int rc = resume(p, err);
	if (rc) {
		blob_partial_close(p);
		return rc;
	}
	*ret_partial = p;
	return 0;
}

/* ---- in use ---------------------------------------------------------------------------------- */

static void partial_free(struct blob_partial *p)
{
	if (p->fd >= 0)
		close(p->fd);
	if (p->map_fd >= 0)
		close(p->map_fd);
	pthread_mutex_destroy(&p->lock);
	pthread_mutex_destroy(&p->seal_lock);
	seal_forget(&p->seal);
	free(p->torn);
	chunk_list_fini(&p->list);
	free(p->bits);
	free(p);
}

void blob_partial_close(struct blob_partial *p)
{
	if (!p)
		return;
	if (!p->finished && p->map_fd >= 0)
		barrier(p, NULL); /* failing costs only a re-hash at the next start */
	partial_free(p);
}

void blob_partial_discard(struct blob_partial *p)
{
	if (!p)
		return;
	unlinkat(p->store->partial_fd, p->map_name, 0);
	if (!p->finished)
		unlinkat(p->store->partial_fd, p->data_name, 0);
	partial_free(p);
}

static int record(struct blob_partial *p, uint32_t chunk, struct error *err)
{
	int rc = 0;
	pthread_mutex_lock(&p->lock);
	if (!blob_partial_has(p, chunk)) { /* else another job was faster with the same bytes */
		rc = record_append(p, chunk, err);
		if (!rc) {
			hold(p, chunk);
			p->unsynced_bytes += chunk_length(&p->list, chunk);
			if (p->unsynced_bytes >= SYNC_BYTES)
				rc = barrier(p, err);
		}
	}
	pthread_mutex_unlock(&p->lock);
	return rc;
}

int blob_partial_write(struct blob_partial *p, uint32_t chunk, struct str data, struct error *err)
{
	if (chunk >= p->list.count)
		return error_set(err, E_INVAL, "there is no chunk %u", chunk);
	if (blob_partial_has(p, chunk))
		return 0;
	if (data.len != chunk_length(&p->list, chunk))
		return error_set(err, E_CORRUPT, "chunk %u has %zu bytes instead of %llu", chunk, data.len,
		                 (unsigned long long)chunk_length(&p->list, chunk));
	struct digest got = digest_of(data.base, data.len);
	if (!digest_equal(&got, &p->list.digests[chunk]))
		return error_set(err, E_CORRUPT, "the bytes of chunk %u do not have its digest", chunk);
	int rc = chunk_write(p, chunk, data, err);
	return rc ? rc : record(p, chunk, err);
}

/* The kernel moves the bytes, or shares them where the file system can. False: it cannot, here. */
static bool copy_range(struct blob_partial *p, uint32_t chunk, int from_fd, uint64_t offset)
{
	loff_t from = (loff_t)offset, to = (loff_t)chunk_offset(&p->list, chunk);
	for (uint64_t left = chunk_length(&p->list, chunk); left;) {
		ssize_t n = copy_file_range(from_fd, &from, p->fd, &to, (size_t)left, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		left -= (uint64_t)n;
	}
	return true;
}

/* Through memory: other file systems, encrypted files. */
static int copy_through(struct blob_partial *p, uint32_t chunk, const struct blob_file *from, uint64_t offset,
                        struct error *err)
{
	size_t length = (size_t)chunk_length(&p->list, chunk);
	char *data = mem_new(length);
	int rc = blob_file_read(from, offset, data, length, NULL);
	rc = rc ? error_set(err, E_CORRUPT, "a file that has chunk %u cannot be read", chunk)
	        : blob_partial_write(p, chunk, (struct str){data, length}, err);
	free(data);
	return rc;
}

int blob_partial_copy(struct blob_partial *p, uint32_t chunk, const struct blob_file *from, uint64_t offset,
                      struct error *err)
{
	struct digest got;
	if (blob_partial_has(p, chunk))
		return 0;
	if (p->sealed || blob_file_fd(from) < 0 || !copy_range(p, chunk, blob_file_fd(from), offset))
		return copy_through(p, chunk, from, offset, err);
	int rc = blob_hash_range(p->fd, chunk_offset(&p->list, chunk), chunk_length(&p->list, chunk), &got, err);
	if (!rc && !digest_equal(&got, &p->list.digests[chunk]))
		rc = error_set(err, E_CORRUPT, "the bytes of chunk %u do not have its digest", chunk);
	return rc ? rc : record(p, chunk, err);
}

struct blob_store *blob_partial_store(const struct blob_partial *p)
{
	return p->store;
}

const struct chunk_list *blob_partial_list(const struct blob_partial *p)
{
	return &p->list;
}

int blob_partial_finish(struct blob_partial *p, struct error *err)
{
	if (p->finished)
		return 0;
	if (blob_partial_count(p) != p->list.count)
		return error_set(err, E_CONFLICT, "%u of %u chunks are still missing",
		                 p->list.count - blob_partial_count(p), p->list.count);
	int rc = blob_publish(p->store, p->store->partial_fd, p->data_name, p->fd, &p->list.file, p->sealed, err);
	if (rc)
		return rc;
	p->finished = true;
	unlinkat(p->store->partial_fd, p->map_name, 0); /* left over after a crash here: swept at the next start */
	return 0;
}
