/* SPDX-License-Identifier: Apache-2.0 */
/* Files named by their SHA-256. Everything goes through directory descriptors, so a store works wherever the process
 * stands. One process owns a store (flock on the root): only then is every file in uploads/ at start a leftover.
 *
 * Order of publishing: data fsync, rename over blobs/sha256/ab/abcd..., fsync of that folder. Two uploads of the same
 * content may race: the second rename replaces equal bytes by equal bytes, and open descriptors keep the old file.
 * What is not here: who may see a blob (catalog), which blobs nobody needs any more (the repository's collector), and
 * leases and removal (blob_keep.c).
 */
#include "store/blob_private.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/rng.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define RESERVE_BYTES \
	(UINT64_C(64) << 20) /* at most so much is kept free for the databases and maps beside the blobs */
#define HASH_STEP (1u << 20)
#define LEASE_US (3600 * US_PER_S)

#define UPLOAD_NOTE ".note" /* beside a kept upload: what its owner wrote */

struct blob_upload {
	struct blob_store *store;
	int fd;
	char id[33];
	bool kept;
	uint64_t offset;
	struct digest_stream *hash;
	struct chunk_hash *chunks; /* NULL: nobody asked */
	bool sealed;
	struct seal seal;
	char *tail; /* of a sealed one: content past the last whole segment, written only when it is one, or the end */
	size_t tail_len;
};

/* ---- small file helpers ---------------------------------------------------------------------- */

int blob_write_at(int fd, uint64_t offset, struct str data, struct error *err)
{
	while (data.len) {
		ssize_t n = pwrite(fd, data.base, data.len, (off_t)offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_errno(err, errno, "cannot write to the blob store");
		data.base += n;
		data.len -= (size_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

int blob_read_at(int fd, uint64_t offset, void *out, size_t len, struct error *err)
{
	ssize_t got = file_read_at(fd, offset, out, len);
	if (got < 0)
		return error_errno(err, errno, "cannot read from the blob store");
	if ((size_t)got < len)
		return error_set(err, E_CORRUPT, "a file of the blob store is shorter than it must be");
	return 0;
}

int blob_hash_range(int fd, uint64_t offset, uint64_t len, struct digest *ret_digest, struct error *err)
{
	int rc = 0;
	char *step = mem_new(HASH_STEP);
	struct digest_stream *hash = digest_stream_new();
	while (len && !rc) {
		size_t n = len < HASH_STEP ? (size_t)len : HASH_STEP;
		rc = blob_read_at(fd, offset, step, n, err);
		if (!rc)
			digest_stream_add(hash, step, n);
		offset += n;
		len -= n;
	}
	if (!rc)
		*ret_digest = digest_stream_end(hash);
	digest_stream_free(hash);
	free(step);
	return rc;
}

void blob_name(const struct digest *d, bool sealed, char ret_name[static BLOB_NAME_SIZE])
{
	hex_encode(d->bytes, DIGEST_SIZE, ret_name + 3);
	ret_name[0] = ret_name[3];
	ret_name[1] = ret_name[4];
	ret_name[2] = '/';
	if (sealed)
		memcpy(ret_name + 67, BLOB_SEALED, sizeof BLOB_SEALED);
}

static int sync_dir(int dir_fd, const char *path, struct error *err)
{
	int fd = openat(dir_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc = fd < 0 || fsync(fd) ? error_errno(err, errno, "cannot make a folder of the blob store durable") : 0;
	if (fd >= 0)
		close(fd);
	return rc;
}

/* ---- opening --------------------------------------------------------------------------------- */

static int open_folder(int dir_fd, const char *name, int *ret_fd, struct error *err)
{
	if (mkdirat(dir_fd, name, 0755) && errno != EEXIST)
		return error_errno(err, errno, "cannot make the folder %s in the blob store", name);
	int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return error_errno(err, errno, "cannot open the folder %s in the blob store", name);
	*ret_fd = fd;
	return 0;
}

DIR *blob_list_folder(int dir_fd, const char *name)
{
	int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir && fd >= 0)
		close(fd);
	return dir;
}

/* Uploads that were not kept do not outlive the process; a map without its data (or half written) says nothing. */
/* An upload without its note, or a note without its upload, is one that nobody can go on with. */
static bool is_leftover(struct blob_store *s, const char *name)
{
	char other[NAME_MAX + 1];
	struct str text = str_from(name);
	if (str_ends(text, STR(UPLOAD_NOTE)))
		text.len -= sizeof UPLOAD_NOTE - 1;
	snprintf(other, sizeof other, STR_FMT "%s", STR_ARG(text), text.len == strlen(name) ? UPLOAD_NOTE : "");
	return faccessat(s->uploads_fd, other, F_OK, 0) != 0;
}

static void sweep(struct blob_store *s)
{
	struct dirent *e;
	DIR *dir = blob_list_folder(s->uploads_fd, ".");
	while (dir && (e = readdir(dir)))
		if (e->d_name[0] != '.' && is_leftover(s, e->d_name))
			unlinkat(s->uploads_fd, e->d_name, 0);
	if (dir)
		closedir(dir);
	dir = blob_list_folder(s->partial_fd, ".");
	while (dir && (e = readdir(dir))) {
		struct str name = str_from(e->d_name);
		char data[NAME_MAX + 1];
		bool stale = str_ends(name, STR(".new"));
		if (str_ends(name, STR(".map")) && str_copy((struct str){name.base, name.len - 4}, data, sizeof data))
			stale = faccessat(s->partial_fd, data, F_OK, 0) != 0;
		if (stale)
			unlinkat(s->partial_fd, e->d_name, 0);
	}
	if (dir)
		closedir(dir);
}

static int open_all(struct blob_store *s, const char *path, struct error *err)
{
	int sha_parent = -1;
	int rc = folder_make(path, 0755, err);
	if (rc)
		return rc;
	s->root = realpath(path, NULL);
	s->root_fd = s->root ? open(s->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	if (s->root_fd < 0)
		return error_errno(err, errno, "cannot open the blob store %s", path);
	if (flock(s->root_fd, LOCK_EX | LOCK_NB))
		return error_set(
		    err, E_CONFLICT,
		    "the blob store %s is used by another mdn process; stop it or give this one another folder", path);
	rc = open_folder(s->root_fd, "uploads", &s->uploads_fd, err);
	if (!rc)
		rc = open_folder(s->root_fd, "partial", &s->partial_fd, err);
	if (!rc)
		rc = open_folder(s->root_fd, "blobs", &sha_parent, err);
	if (!rc)
		rc = open_folder(sha_parent, "sha256", &s->blobs_fd, err);
	if (!rc)
		rc = sync_dir(sha_parent, ".", err);
	if (!rc)
		rc = sync_dir(s->root_fd, ".", err);
	if (sha_parent >= 0)
		close(sha_parent);
	return rc;
}

int blob_store_open(struct str root, struct blob_store **ret_store, struct error *err)
{
	struct blob_store *s = NEW(struct blob_store);
	pthread_mutex_init(&s->keep_lock, NULL);
	s->lease_us = LEASE_US;
	s->clock_us = clock_wall_us() - clock_mono_us();
	s->root_fd = s->blobs_fd = s->uploads_fd = s->partial_fd = -1;
	char *path = str_dup(root);
	int rc = root.len ? open_all(s, path, err) : error_set(err, E_INVAL, "a blob store needs a folder");
	free(path);
	if (rc) {
		blob_store_close(s);
		return rc;
	}
	sweep(s);
	*ret_store = s;
	return 0;
}

void blob_store_close(struct blob_store *s)
{
	if (!s)
		return;
	int fds[] = {s->blobs_fd, s->uploads_fd, s->partial_fd, s->root_fd};
	for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	pthread_mutex_destroy(&s->keep_lock);
	OPENSSL_cleanse(&s->site_key, sizeof s->site_key);
	free(s->condemned);
	free(s->root);
	free(s);
}

int blob_store_room(struct blob_store *s, uint64_t bytes, struct error *err)
{
	struct statvfs fs;
	if (fstatvfs(s->root_fd, &fs))
		return error_errno(err, errno, "cannot ask for the free space of %s", s->root);
	uint64_t left = (uint64_t)fs.f_bavail * fs.f_frsize, reserve = (uint64_t)fs.f_blocks * fs.f_frsize / 64;
	if (reserve > RESERVE_BYTES)
		reserve = RESERVE_BYTES;
	if (left >= reserve && left - reserve >= bytes)
		return 0;
	return error_set(
	    err, E_NOSPACE,
	    "%s needs %llu MiB more but its disk has only %llu MiB free (%llu are kept in reserve); remove models "
	    "or move the folder",
	    s->root, (unsigned long long)(bytes >> 20), (unsigned long long)(left >> 20),
	    (unsigned long long)(reserve >> 20));
}

/* ---- finished blobs -------------------------------------------------------------------------- */

int blob_stat(struct blob_store *s, const struct digest *d, uint64_t *ret_size, struct error *err)
{
	struct blob_place place;
	int rc = blob_find(s, d, true, &place, err);
	if (!rc)
		*ret_size = place.size;
	return rc;
}

int blob_open(struct blob_store *s, const struct digest *d, int *ret_fd, uint64_t *ret_size, struct error *err)
{
	struct blob_file *f;
	int rc = blob_file_open(s, d, &f, err);
	if (rc)
		return rc;
	int fd = blob_file_fd(f) < 0 ? -1 : fcntl(blob_file_fd(f), F_DUPFD_CLOEXEC, 0), saved = errno;
	if (fd >= 0) {
		*ret_fd = fd;
		*ret_size = blob_file_size(f);
	} else {
		rc = blob_file_fd(f) < 0 ? error_set(err, E_UNSUPPORTED, "a blob is encrypted at rest")
		                         : error_errno(err, saved, "cannot open a blob");
	}
	blob_file_close(f);
	return rc;
}

int blob_path(struct blob_store *s, const struct digest *d, char **ret_path, struct error *err)
{
	struct blob_place place;
	int rc = blob_find(s, d, true, &place, err);
	if (!rc && place.sealed)
		rc = error_set(err, E_UNSUPPORTED, "a blob is encrypted at rest and has no path");
	if (rc)
		return rc;
	struct buf path = {0};
	buf_printf(&path, "%s/blobs/sha256/%s", s->root, place.name);
	*ret_path = path.base;
	return 0;
}

int blob_delete(struct blob_store *s, const struct digest *d, struct error *err)
{
	struct blob_place place;
	int rc = blob_find(s, d, false, &place, err);
	if (rc)
		return rc;
	if (unlinkat(s->blobs_fd, place.name, 0))
		return error_errno(err, errno, "cannot remove a blob");
	place.name[2] = 0;
	return sync_dir(s->blobs_fd, place.name, err);
}

/* The rename, and with it the end of a death sentence: the bytes are here anew. */
static int take_place(struct blob_store *s, int dir_fd, const char *name, const struct digest *d, bool sealed,
                      struct error *err)
{
	char to[BLOB_NAME_SIZE], other[BLOB_NAME_SIZE];
	blob_name(d, sealed, to);
	blob_name(d, !sealed, other);
	pthread_mutex_lock(&s->keep_lock);
	int rc =
	    renameat(dir_fd, name, s->blobs_fd, to) ? error_errno(err, errno, "cannot move a blob to its place") : 0;
	if (!rc) {
		unlinkat(s->blobs_fd, other, 0); /* from before encryption was set otherwise */
		blob_pardon(s, d);
	}
	pthread_mutex_unlock(&s->keep_lock);
	return rc;
}

int blob_publish(struct blob_store *s, int dir_fd, const char *name, int fd, const struct digest *d, bool sealed,
                 struct error *err)
{
	char folder[3];
	int64_t now = blob_now_us(s);
	struct timespec used = {now / 1000000, now % 1000000 * 1000}, times[2] = {used, used};
	hex_encode(d->bytes, 1, folder);
	if (fchmod(fd, 0444) || futimens(fd, times) || fsync(fd))
		return error_errno(err, errno, "cannot make a blob durable");
	if (!mkdirat(s->blobs_fd, folder, 0755)) {
		int rc = sync_dir(s->blobs_fd, ".", err);
		if (rc)
			return rc;
	} else if (errno != EEXIST) {
		return error_errno(err, errno, "cannot make a folder of the blob store");
	}
	int rc = take_place(s, dir_fd, name, d, sealed, err);
	return rc ? rc : sync_dir(s->blobs_fd, folder, err);
}

struct each {
	bool (*fn)(void *arg, const struct digest *d, uint64_t size);
	void *arg;
};

static bool each_one(void *arg, const struct blob_info *info)
{
	struct each *e = arg;
	return e->fn(e->arg, &info->digest, info->size);
}

void blob_each(struct blob_store *s, bool (*fn)(void *arg, const struct digest *d, uint64_t size), void *arg)
{
	struct each e = {fn, arg};
	for (unsigned i = 0; i < 256; i++)
		if (!blob_each_of(s, (uint8_t)i, each_one, &e))
			return;
}

int blob_put(struct blob_store *s, struct str content, struct digest *ret_digest, struct error *err)
{
	struct digest d = digest_of(content.base, content.len);
	uint64_t size;
	if (blob_stat(s, &d, &size, NULL) || size != content.len) {
		struct blob_upload *u;
		int rc = blob_upload_new(s, &u, err);
		if (rc)
			return rc;
		rc = blob_upload_append(u, content, err);
		if (rc) {
			blob_upload_abort(u);
			return rc;
		}
		rc = blob_upload_finish(u, &d, err);
		if (rc)
			return rc;
	}
	*ret_digest = d;
	return 0;
}

/* ---- uploads --------------------------------------------------------------------------------- */

int blob_upload_new(struct blob_store *s, struct blob_upload **ret_upload, struct error *err)
{
	int rc = blob_store_room(s, 0, err);
	if (rc)
		return rc;
	struct blob_upload *u = NEW(struct blob_upload);
	uint8_t random[16];
	rng_secret(random, sizeof random);
	hex_encode(random, sizeof random, u->id);
	u->store = s;
	u->fd = openat(s->uploads_fd, u->id, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (u->fd < 0) {
		int saved = errno;
		free(u);
		return error_errno(err, saved, "cannot begin an upload in %s", s->root);
	}
	u->hash = digest_stream_new();
	if (s->seals) {
		u->sealed = true;
		u->tail = mem_new(SEAL_SEGMENT);
		seal_new(0, &u->seal);
	}
	*ret_upload = u;
	return 0;
}

const char *blob_upload_id(const struct blob_upload *u)
{
	return u->id;
}

uint64_t blob_upload_offset(const struct blob_upload *u)
{
	return u->offset;
}

/* What came so far, and only that. */
static int read_upload(void *arg, uint64_t offset, void *out, size_t len, struct error *err)
{
	const struct blob_upload *u = arg;
	struct seal written = u->seal;
	uint64_t whole = u->offset - u->tail_len; /* on the disk */
	size_t n = offset >= whole ? 0 : len < whole - offset ? len : (size_t)(whole - offset);
	if (!u->sealed)
		return blob_read_at(u->fd, offset, out, len, err);
	written.size = whole;
	int rc = n ? seal_read(&written, u->fd, offset, out, n, err) : 0;
	if (!rc && n < len)
		memcpy((char *)out + n, u->tail + (offset + n - whole), len - n);
	seal_forget(&written);
	return rc;
}

void blob_upload_chunk(struct blob_upload *u, uint64_t file_size, uint64_t chunk_size)
{
	assert(u->offset == 0 && chunk_size > 0 && chunk_size <= CHUNK_SIZE_MAX);
	chunk_hash_free(u->chunks);
	u->chunks = chunk_hash_new(read_upload, u, file_size, chunk_size);
}

bool blob_upload_list(struct blob_upload *u, const struct digest *claimed, struct chunk_list *ret_list)
{
	return u->chunks && chunk_hash_end(u->chunks, claimed, ret_list);
}

/* Whole segments go to the disk, the rest stays in `tail`, which changes only when all went well. */
static int append_sealed(struct blob_upload *u, struct str data, struct error *err)
{
	uint64_t i = u->offset / SEAL_SEGMENT;
	size_t keep = u->tail_len;
	struct buf first = {0};
	int rc = 0;
	if (keep + data.len < SEAL_SEGMENT) {
		memcpy(u->tail + keep, data.base, data.len);
		u->tail_len += data.len;
		return 0;
	}
	if (keep) {
		size_t n = SEAL_SEGMENT - keep;
		buf_append(&first, u->tail, keep);
		buf_append(&first, data.base, n);
		data = (struct str){data.base + n, data.len - n};
		rc = seal_write_segment(&u->seal, u->fd, i++, buf_str(&first), err);
	}
	for (; !rc && data.len >= SEAL_SEGMENT; i++) {
		rc = seal_write_segment(&u->seal, u->fd, i, (struct str){data.base, SEAL_SEGMENT}, err);
		data = (struct str){data.base + SEAL_SEGMENT, data.len - SEAL_SEGMENT};
	}
	if (!rc) {
		if (data.len)
			memcpy(u->tail, data.base, data.len);
		u->tail_len = data.len;
	}
	buf_fini(&first);
	return rc;
}

static int finish_sealed(struct blob_upload *u, const struct digest *d, struct error *err)
{
	uint8_t header[SEAL_HEADER];
	int rc = 0;
	u->seal.size = u->offset;
	if (u->tail_len)
		rc = seal_write_segment(&u->seal, u->fd, u->offset / SEAL_SEGMENT, (struct str){u->tail, u->tail_len},
		                        err);
	seal_header_make(&u->seal, &u->store->site_key, d, header);
	return rc ? rc : blob_write_at(u->fd, 0, (struct str){(char *)header, sizeof header}, err);
}

int blob_upload_append(struct blob_upload *u, struct str data, struct error *err)
{
	int rc = blob_store_room(u->store, data.len, err); /* a body without a length fills no disk either */
	if (rc)
		return rc;
	rc = u->sealed ? append_sealed(u, data, err) : blob_write_at(u->fd, u->offset, data, err);
	if (rc) { /* what was written of it does not count; the next append goes over it */
		if (ftruncate(u->fd, (off_t)(u->sealed ? seal_position(u->offset) : u->offset)))
			return error_errno(err, errno, "cannot undo a failed write to an upload");
		return rc;
	}
	digest_stream_add(u->hash, data.base, data.len);
	u->offset += data.len;
	if (u->chunks)
		chunk_hash_add(u->chunks, data);
	return 0;
}

static void upload_free(struct blob_upload *u)
{
	close(u->fd);
	digest_stream_free(u->hash);
	chunk_hash_free(u->chunks);
	if (u->tail)
		OPENSSL_cleanse(u->tail, SEAL_SEGMENT);
	free(u->tail);
	seal_forget(&u->seal);
	free(u);
}

static int finish_as(struct blob_upload *u, const struct digest *d, struct error *err)
{
	int rc = u->sealed ? finish_sealed(u, d, err) : 0;
	return rc ? rc : blob_publish(u->store, u->store->uploads_fd, u->id, u->fd, d, u->sealed, err);
}

static void note_name(const char *id, char ret_name[static 48])
{
	snprintf(ret_name, 48, "%s" UPLOAD_NOTE, id);
}

void blob_upload_drop(struct blob_store *s, const char *id)
{
	char note[48];
	note_name(id, note);
	unlinkat(s->uploads_fd, note, 0);
	unlinkat(s->uploads_fd, id, 0);
}

static int finish_end(struct blob_upload *u, int rc)
{
	if (rc || u->kept)
		blob_upload_drop(u->store, u->id);
	upload_free(u);
	return rc;
}

int blob_upload_finish(struct blob_upload *u, const struct digest *claimed, struct error *err)
{
	char text[DIGEST_TEXT_SIZE];
	struct digest got = digest_stream_end(u->hash);
	if (digest_equal(&got, claimed))
		return finish_end(u, finish_as(u, claimed, err));
	digest_format(&got, text);
	return finish_end(
	    u, error_set(err, E_CORRUPT,
	                 "the bytes that arrived have the digest %s, another was claimed; send them again", text));
}

int blob_upload_finish_any(struct blob_upload *u, struct digest *ret_digest, struct error *err)
{
	struct digest got = digest_stream_end(u->hash);
	int rc = finish_end(u, finish_as(u, &got, err));
	if (!rc)
		*ret_digest = got;
	return rc;
}

void blob_upload_abort(struct blob_upload *u)
{
	if (!u)
		return;
	blob_upload_drop(u->store, u->id);
	upload_free(u);
}

/* ---- uploads that outlive the process -------------------------------------------------------- */

int blob_upload_keep(struct blob_upload *u, struct str note, struct error *err)
{
	char name[48];
	if (u->sealed) /* its key is in memory only */
		return 0;
	note_name(u->id, name);
	int fd = openat(u->store->uploads_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return error_errno(err, errno, "cannot begin an upload in %s", u->store->root);
	int rc = blob_write_at(fd, 0, note, err);
	close(fd);
	u->kept = rc == 0;
	return rc;
}

void blob_upload_close(struct blob_upload *u)
{
	if (u->kept)
		upload_free(u);
	else
		blob_upload_abort(u);
}

void blob_upload_each_kept(struct blob_store *s, void (*fn)(void *arg, const char *id, struct str note), void *arg)
{
	struct dirent *e;
	DIR *dir = blob_list_folder(s->uploads_fd, ".");
	while (dir && (e = readdir(dir))) {
		char id[33], note[UPLOAD_NOTE_MAX];
		struct str name = str_from(e->d_name);
		if (!str_ends(name, STR(UPLOAD_NOTE)) ||
		    !str_copy((struct str){name.base, name.len - (sizeof UPLOAD_NOTE - 1)}, id, sizeof id))
			continue;
		int fd = openat(s->uploads_fd, e->d_name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		ssize_t len = fd < 0 ? -1 : file_read_at(fd, 0, note, sizeof note);
		if (fd >= 0)
			close(fd);
		if (len > 0)
			fn(arg, id, (struct str){note, (size_t)len});
	}
	if (dir)
		closedir(dir);
}

int blob_upload_reopen(struct blob_store *s, const char *id, struct blob_upload **ret_upload, struct error *err)
{
	struct stat st;
	int rc = 0, fd = openat(s->uploads_fd, id, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || fstat(fd, &st)) {
		rc = error_set(err, E_NOTFOUND, "there is no such upload any more; begin anew");
		if (fd >= 0)
			close(fd);
		return rc;
	}
	struct blob_upload *u = NEW(struct blob_upload);
	*u = (struct blob_upload){.store = s, .fd = fd, .kept = true, .hash = digest_stream_new()};
	str_copy(str_from(id), u->id, sizeof u->id);
	char *step = mem_new(HASH_STEP);
	while (!rc && u->offset < (uint64_t)st.st_size) {
		uint64_t left = (uint64_t)st.st_size - u->offset;
		size_t n = left < HASH_STEP ? (size_t)left : HASH_STEP;
		rc = blob_read_at(fd, u->offset, step, n, err);
		if (!rc)
			digest_stream_add(u->hash, step, n);
		u->offset += n;
	}
	free(step);
	if (rc) {
		upload_free(u);
		return rc;
	}
	*ret_upload = u;
	return 0;
}
