/* SPDX-License-Identifier: Apache-2.0 */
/* A blob for reading. Plain ones are their file; of sealed ones the segments that are asked for are decrypted. */
#include "store/blob_private.h"

#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define STEP (1u << 20)

struct blob_file {
	int fd;
	bool sealed;
	uint64_t size;
	struct seal seal;
};

int blob_file_take(struct blob_store *s, int fd, bool sealed, const struct digest *d, struct blob_file **ret_file,
                   struct error *err)
{
	struct stat st;
	uint8_t header[SEAL_HEADER];
	struct blob_file f = {.fd = fd, .sealed = sealed};
	int rc = fstat(fd, &st) ? error_errno(err, errno, "cannot look at a blob") : 0;
	if (!rc && !sealed)
		f.size = (uint64_t)st.st_size;
	if (!rc && sealed && !s->has_key)
		rc = error_set(err, E_FORBIDDEN,
		               "the blobs here are encrypted; set site_key to the file with their key");
	if (!rc && sealed)
		rc = blob_read_at(fd, 0, header, sizeof header, err);
	if (!rc && sealed)
		rc = seal_header_open((struct str){(char *)header, sizeof header}, &s->site_key, d, &f.seal, err);
	if (!rc && sealed && seal_file_size(f.seal.size) != (uint64_t)st.st_size)
		rc = error_set(err, E_CORRUPT, "a sealed file is not as long as its header says");
	if (rc) {
		close(fd);
		return rc;
	}
	if (sealed)
		f.size = f.seal.size;
	*ret_file = NEW(struct blob_file);
	**ret_file = f;
	seal_forget(&f.seal);
	return 0;
}

struct blob_file *blob_file_over(int fd, uint64_t size, const struct seal *seal)
{
	struct blob_file *f = NEW(struct blob_file);
	*f = (struct blob_file){.fd = fd, .sealed = seal != NULL, .size = size};
	if (seal)
		f->seal = *seal;
	return f;
}

static int open_place(struct blob_store *s, const struct digest *d, bool renew, struct blob_file **ret_file,
                      struct error *err)
{
	struct blob_place place;
	int rc = blob_find(s, d, renew, &place, err);
	if (rc)
		return rc;
	int fd = openat(s->blobs_fd, place.name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 && errno == ENOENT)
		return error_set(err, E_NOTFOUND, "a blob was removed just now");
	if (fd < 0)
		return error_errno(err, errno, "cannot open a blob");
	return blob_file_take(s, fd, place.sealed, d, ret_file, err);
}

int blob_file_open(struct blob_store *s, const struct digest *d, struct blob_file **ret_file, struct error *err)
{
	return open_place(s, d, true, ret_file, err);
}

int blob_file_peek(struct blob_store *s, const struct digest *d, struct blob_file **ret_file, struct error *err)
{
	return open_place(s, d, false, ret_file, err);
}

static int read_all(struct blob_file *f, size_t max_bytes, struct buf *out, struct error *err)
{
	uint64_t size = blob_file_size(f);
	char *to = size <= max_bytes ? buf_reserve(out, (size_t)size) : NULL;
	if (!to)
		return error_set(err, E_LIMIT, "a blob has %llu bytes, at most %zu are read at once",
		                 (unsigned long long)size, max_bytes);
	int rc = blob_file_read(f, 0, to, (size_t)size, err);
	if (!rc)
		out->len += (size_t)size;
	return rc;
}

static int open_and_read(struct blob_store *s, const struct digest *d, bool renew, size_t max_bytes, struct buf *out,
                         struct error *err)
{
	struct blob_file *f;
	int rc = open_place(s, d, renew, &f, err);
	if (rc)
		return rc;
	rc = read_all(f, max_bytes, out, err);
	blob_file_close(f);
	return rc;
}

int blob_read_all(struct blob_store *s, const struct digest *d, size_t max_bytes, struct buf *out, struct error *err)
{
	return open_and_read(s, d, true, max_bytes, out, err);
}

int blob_peek_all(struct blob_store *s, const struct digest *d, size_t max_bytes, struct buf *out, struct error *err)
{
	return open_and_read(s, d, false, max_bytes, out, err);
}

void blob_file_close(struct blob_file *f)
{
	if (!f)
		return;
	close(f->fd);
	seal_forget(&f->seal);
	free(f);
}

uint64_t blob_file_size(const struct blob_file *f)
{
	return f->size;
}

int blob_file_fd(const struct blob_file *f)
{
	return f->sealed ? -1 : f->fd;
}

int blob_file_read(const struct blob_file *f, uint64_t offset, void *out, size_t len, struct error *err)
{
	return f->sealed ? seal_read(&f->seal, f->fd, offset, out, len, err)
	                 : blob_read_at(f->fd, offset, out, len, err);
}

/* The content in order, piece by piece. */
static int each_piece(const struct blob_file *f, int (*fn)(void *arg, struct str piece, struct error *err), void *arg,
                      struct error *err)
{
	char *piece = mem_new(STEP);
	int rc = 0;
	for (uint64_t at = 0; !rc && at < f->size;) {
		size_t n = f->size - at < STEP ? (size_t)(f->size - at) : STEP;
		rc = blob_file_read(f, at, piece, n, err);
		if (!rc)
			rc = fn(arg, (struct str){piece, n}, err);
		at += n;
	}
	free(piece);
	return rc;
}

static int add_to_memory(void *arg, struct str piece, struct error *err)
{
	int fd = *(int *)arg;
	while (piece.len) {
		ssize_t n = write(fd, piece.base, piece.len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_errno(err, errno, "cannot decrypt a blob into memory");
		piece = (struct str){piece.base + n, piece.len - (size_t)n};
	}
	return 0;
}

int blob_file_in_memory(const struct blob_file *f, int *ret_fd, struct error *err)
{
	const int for_good = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
	int fd = memfd_create("mdn-blob", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return error_errno(err, errno, "cannot make a file in memory");
	int rc = each_piece(f, add_to_memory, &fd, err);
	if (!rc && fcntl(fd, F_ADD_SEALS, for_good)) /* whoever opens it through /proc must not change it */
		rc = error_errno(err, errno, "cannot make a file in memory read-only");
	if (rc)
		close(fd);
	else
		*ret_fd = fd;
	return rc;
}

struct look {
	struct blob_store *store;
	size_t left; /* to look at: the first thousand tell enough, and a start takes no longer with a million */
	int rc;
	struct error *err;
};

static bool look_at(void *arg, const struct blob_info *info)
{
	struct look *look = arg;
	struct blob_file *f;
	if (!info->sealed)
		return --look->left > 0;
	int rc = blob_file_peek(look->store, &info->digest, &f, look->err);
	if (!rc)
		blob_file_close(f);
	if (rc == E_FORBIDDEN)
		look->rc = rc;
	return false;
}

int blob_store_unlock(struct blob_store *s, const char *site_key_path, bool seals, struct error *err)
{
	struct look look = {s, 1000, 0, err};
	int rc = 0;
	if (site_key_path[0])
		rc = seal_key_read(site_key_path, &s->site_key, err);
	else if (seals)
		rc = error_set(err, E_INVAL,
		               "encrypt_at_rest needs site_key; make one with: umask 077; openssl rand -hex 32 > FILE");
	if (rc)
		return rc;
	s->has_key = site_key_path[0];
	s->seals = seals;
	for (unsigned i = 0; i < 256 && blob_each_of(s, (uint8_t)i, look_at, &look); i++)
		continue;
	return look.rc;
}

struct rekey {
	struct blob_store *store;
	struct seal_key to;
	size_t count;
	int rc;
	struct error *err;
};

/* A header lies within one sector of the disk, so it is written whole or not at all. */
static int rekey_file(struct rekey *r, int fd, const struct digest *d)
{
	uint8_t header[SEAL_HEADER];
	struct str text = {(char *)header, sizeof header};
	struct seal seal;
	int rc = blob_read_at(fd, 0, header, sizeof header, r->err);
	if (!rc && !seal_header_open(text, &r->to, d, &seal, NULL))
		return 0; /* an earlier try came so far */
	if (!rc)
		rc = seal_header_open(text, &r->store->site_key, d, &seal, r->err);
	if (rc)
		return rc;
	seal_header_make(&seal, &r->to, d, header);
	seal_forget(&seal);
	rc = blob_write_at(fd, 0, text, r->err);
	if (!rc && fdatasync(fd))
		rc = error_errno(r->err, errno, "cannot make the header of a blob durable");
	return rc;
}

static bool rekey_at(struct rekey *r, int dir_fd, const char *name, mode_t mode, const struct digest *d)
{
	int fd = fchmodat(dir_fd, name, 0600, 0) ? -1 : openat(dir_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	r->rc = fd < 0 ? error_errno(r->err, errno, "cannot open a blob for its new key") : rekey_file(r, fd, d);
	if (fd >= 0) {
		fchmod(fd, mode);
		close(fd);
	}
	return !r->rc;
}

static bool rekey_one(void *arg, const struct blob_info *info)
{
	struct rekey *r = arg;
	char name[BLOB_NAME_SIZE];
	if (!info->sealed)
		return true;
	blob_name(&info->digest, true, name);
	bool good = rekey_at(r, r->store->blobs_fd, name, 0444, &info->digest);
	r->count += good;
	return good;
}

/* One that cannot be read under either key begins anew when it is wanted. */
static void rekey_partial(void *arg, const struct digest *d, uint64_t size, uint64_t disk_bytes)
{
	struct rekey *r = arg;
	char name[BLOB_NAME_SIZE];
	blob_name(d, true, name);
	if (faccessat(r->store->partial_fd, name + 3, F_OK, 0) == 0 &&
	    !rekey_at(r, r->store->partial_fd, name + 3, 0600, d) && r->rc == E_CORRUPT)
		r->rc = 0;
}

int blob_store_rekey(struct blob_store *s, const char *new_key_path, size_t *ret_count, struct error *err)
{
	struct rekey r = {.store = s, .err = err};
	int rc = seal_key_read(new_key_path, &r.to, err);
	if (rc)
		return rc;
	for (unsigned i = 0; i < 256 && blob_each_of(s, (uint8_t)i, rekey_one, &r); i++)
		continue;
	if (!r.rc)
		blob_each_partial(s, rekey_partial, &r);
	if (!r.rc) {
		s->site_key = r.to;
		*ret_count = r.count;
	}
	OPENSSL_cleanse(&r.to, sizeof r.to);
	return r.rc;
}
