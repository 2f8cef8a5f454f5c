/* SPDX-License-Identifier: Apache-2.0 */
/* Files named by their SHA-256. Everything goes through directory descriptors, so a store works wherever the process
 * stands. One process owns a store (flock on the root): only then is every file in uploads/ at start a leftover.
 *
 * Order of publishing: data fsync, rename over blobs/sha256/ab/abcd..., fsync of that folder. Two uploads of the same
 * content may race: the second rename replaces equal bytes by equal bytes, and open descriptors keep the old file.
 * What is not here: who may see a blob (catalog), and removing blobs nobody needs any more.
 */
#include "store/blob_private.h"

#include "base/file.h"
#include "base/rng.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define NAME_SIZE (2 + 1 + 64 + 1) /* "ab/abcd..." */
#define RESERVE_BYTES \
	(UINT64_C(64) << 20) /* at most so much is kept free for the databases and maps beside the blobs */
#define HASH_STEP (1u << 20)

struct blob_upload {
	struct blob_store *store;
	int fd;
	char id[33];
	uint64_t offset;
	struct digest_stream *hash;
	struct chunk_hash *chunks; /* NULL: nobody asked */
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

static void blob_name(const struct digest *d, char ret_name[static NAME_SIZE])
{
	hex_encode(d->bytes, DIGEST_SIZE, ret_name + 3);
	ret_name[0] = ret_name[3];
	ret_name[1] = ret_name[4];
	ret_name[2] = '/';
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

static DIR *list_folder(int dir_fd, const char *name)
{
	int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir && fd >= 0)
		close(fd);
	return dir;
}

/* Uploads do not outlive the process; a map without its data (or half written) says nothing. */
static void sweep(struct blob_store *s)
{
	struct dirent *e;
	DIR *dir = list_folder(s->uploads_fd, ".");
	while (dir && (e = readdir(dir)))
		if (e->d_name[0] != '.')
			unlinkat(s->uploads_fd, e->d_name, 0);
	if (dir)
		closedir(dir);
	dir = list_folder(s->partial_fd, ".");
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

static int not_held(const struct digest *d, struct error *err)
{
	char text[DIGEST_TEXT_SIZE];
	digest_format(d, text);
	if (errno == ENOENT || errno == ENOTDIR)
		return error_set(err, E_NOTFOUND, "the blob %s is not here", text);
	return error_errno(err, errno, "cannot open the blob %s", text);
}

int blob_stat(struct blob_store *s, const struct digest *d, uint64_t *ret_size, struct error *err)
{
	char name[NAME_SIZE];
	struct stat st;
	blob_name(d, name);
	if (fstatat(s->blobs_fd, name, &st, AT_SYMLINK_NOFOLLOW))
		return not_held(d, err);
	*ret_size = (uint64_t)st.st_size;
	return 0;
}

int blob_open(struct blob_store *s, const struct digest *d, int *ret_fd, uint64_t *ret_size, struct error *err)
{
	char name[NAME_SIZE];
	struct stat st;
	blob_name(d, name);
	int fd = openat(s->blobs_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return not_held(d, err);
	if (fstat(fd, &st)) {
		int saved = errno;
		close(fd);
		return error_errno(err, saved, "cannot look at a blob");
	}
	*ret_fd = fd;
	*ret_size = (uint64_t)st.st_size;
	return 0;
}

int blob_path(struct blob_store *s, const struct digest *d, char **ret_path, struct error *err)
{
	char name[NAME_SIZE];
	uint64_t size;
	int rc = blob_stat(s, d, &size, err);
	if (rc)
		return rc;
	blob_name(d, name);
	struct buf path = {0};
	buf_printf(&path, "%s/blobs/sha256/%s", s->root, name);
	*ret_path = path.base;
	return 0;
}

int blob_read_all(struct blob_store *s, const struct digest *d, size_t max_bytes, struct buf *out, struct error *err)
{
	int fd;
	uint64_t size;
	int rc = blob_open(s, d, &fd, &size, err);
	if (rc)
		return rc;
	char *to = size <= max_bytes ? buf_reserve(out, (size_t)size) : NULL;
	if (!to)
		rc = error_set(err, E_LIMIT, "a blob has %llu bytes, at most %zu are read at once",
		               (unsigned long long)size, max_bytes);
	if (!rc)
		rc = blob_read_at(fd, 0, to, (size_t)size, err);
	if (!rc)
		out->len += (size_t)size;
	close(fd);
	return rc;
}

int blob_delete(struct blob_store *s, const struct digest *d, struct error *err)
{
	char name[NAME_SIZE];
	blob_name(d, name);
	if (unlinkat(s->blobs_fd, name, 0))
		return not_held(d, err);
	name[2] = 0;
	return sync_dir(s->blobs_fd, name, err);
}

int blob_publish(struct blob_store *s, int dir_fd, const char *name, int fd, const struct digest *d, struct error *err)
{
	char to[NAME_SIZE], folder[3] = {0};
	blob_name(d, to);
	memcpy(folder, to, 2);
	if (fchmod(fd, 0444) || fsync(fd))
		return error_errno(err, errno, "cannot make a blob durable");
	if (!mkdirat(s->blobs_fd, folder, 0755)) {
		int rc = sync_dir(s->blobs_fd, ".", err);
		if (rc)
			return rc;
	} else if (errno != EEXIST) {
		return error_errno(err, errno, "cannot make a folder of the blob store");
	}
	if (renameat(dir_fd, name, s->blobs_fd, to))
		return error_errno(err, errno, "cannot move a blob to its place");
	return sync_dir(s->blobs_fd, folder, err);
}

static bool each_in(struct blob_store *s, const char *folder, bool (*fn)(void *, const struct digest *, uint64_t),
                    void *arg)
{
	bool go_on = true;
	struct dirent *e;
	DIR *dir = list_folder(s->blobs_fd, folder);
	while (dir && go_on && (e = readdir(dir))) {
		struct digest d;
		struct stat st;
		if (hex_decode(str_from(e->d_name), d.bytes, DIGEST_SIZE) ||
		    fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW))
			continue;
		go_on = fn(arg, &d, (uint64_t)st.st_size);
	}
	if (dir)
		closedir(dir);
	return go_on;
}

void blob_each(struct blob_store *s, bool (*fn)(void *arg, const struct digest *d, uint64_t size), void *arg)
{
	char folder[3];
	for (unsigned i = 0; i < 256; i++) {
		snprintf(folder, sizeof folder, "%02x", i);
		if (!each_in(s, folder, fn, arg))
			return;
	}
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

void blob_upload_chunk(struct blob_upload *u, uint64_t file_size, uint64_t chunk_size)
{
	assert(u->offset == 0 && chunk_size > 0 && chunk_size <= CHUNK_SIZE_MAX);
	chunk_hash_free(u->chunks);
	u->chunks = chunk_hash_new(file_size, chunk_size);
}

bool blob_upload_list(struct blob_upload *u, const struct digest *claimed, struct chunk_list *ret_list)
{
	return u->chunks && chunk_hash_end(u->chunks, claimed, ret_list);
}

int blob_upload_append(struct blob_upload *u, struct str data, struct error *err)
{
	int rc = blob_store_room(u->store, data.len, err); /* a body without a length fills no disk either */
	if (rc)
		return rc;
	rc = blob_write_at(u->fd, u->offset, data, err);
	if (rc) { /* what was written of it does not count; the next append goes over it */
		if (ftruncate(u->fd, (off_t)u->offset))
			return error_errno(err, errno, "cannot undo a failed write to an upload");
		return rc;
	}
	digest_stream_add(u->hash, data.base, data.len);
	if (u->chunks)
		chunk_hash_add(u->chunks, data);
	u->offset += data.len;
	return 0;
}

static void upload_free(struct blob_upload *u)
{
	close(u->fd);
	digest_stream_free(u->hash);
	chunk_hash_free(u->chunks);
	free(u);
}

int blob_upload_finish(struct blob_upload *u, const struct digest *claimed, struct error *err)
{
	struct digest got = digest_stream_end(u->hash);
	int rc;
	if (digest_equal(&got, claimed)) {
		rc = blob_publish(u->store, u->store->uploads_fd, u->id, u->fd, claimed, err);
	} else {
		char text[DIGEST_TEXT_SIZE];
		digest_format(&got, text);
		rc = error_set(err, E_CORRUPT,
		               "the bytes that arrived have the digest %s, another was claimed; send them again", text);
	}
	if (rc)
		unlinkat(u->store->uploads_fd, u->id, 0);
	upload_free(u);
	return rc;
}

void blob_upload_abort(struct blob_upload *u)
{
	if (!u)
		return;
	unlinkat(u->store->uploads_fd, u->id, 0);
	upload_free(u);
}
