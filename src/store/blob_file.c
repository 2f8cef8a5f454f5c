/* SPDX-License-Identifier: Apache-2.0 */
/* A blob for reading. Plain ones are their file; of sealed ones the segments that are asked for are decrypted. */
#include "store/blob_private.h"

#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
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
	return 0;
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
	int fd = memfd_create("mdn-blob", MFD_CLOEXEC);
	if (fd < 0)
		return error_errno(err, errno, "cannot make a file in memory");
	int rc = each_piece(f, add_to_memory, &fd, err);
	if (rc)
		close(fd);
	else
		*ret_fd = fd;
	return rc;
}

static int add_to_hash(void *arg, struct str piece, struct error *err)
{
	digest_stream_add(arg, piece.base, piece.len);
	return 0;
}

int blob_verify(struct blob_store *s, const struct digest *d, struct error *err)
{
	struct blob_file *f;
	int rc = open_place(s, d, false, &f, err);
	if (rc)
		return rc;
	struct digest_stream *hash = digest_stream_new();
	posix_fadvise(f->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	rc = each_piece(f, add_to_hash, hash, err);
	struct digest got = digest_stream_end(hash);
	if (!rc && !digest_equal(&got, d))
		rc = error_set(err, E_CORRUPT, "its bytes are not what its name says");
	digest_stream_free(hash);
	blob_file_close(f);
	return rc;
}

int blob_store_unlock(struct blob_store *s, const char *site_key_path, bool seals, struct error *err)
{
	int rc = seal_key_read(site_key_path, &s->site_key, err);
	if (rc)
		return rc;
	s->has_key = true;
	s->seals = seals;
	return 0;
}
