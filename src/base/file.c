/* SPDX-License-Identifier: Apache-2.0 */
/* How: open(2) and friends with EINTR loops. The temporary name is always the same, so that a killed writer leaves at
 * most one behind and the next overwrites it; two writers of one file at a time are the caller's to prevent. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

char *file_join(struct str folder, const char *name)
{
	struct buf b = {0};
	buf_printf(&b, STR_FMT "/%s", STR_ARG(folder), name);
	return b.base;
}

int file_read(const char *path, size_t max_bytes, struct buf *out, struct error *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return error_set(err, E_NOTFOUND, "%s does not exist", path);
	if (fd < 0)
		return error_errno(err, errno, "cannot open %s", path);
	int rc = 0;
	size_t total = 0;
	char piece[16384];
	for (;;) {
		ssize_t n = read(fd, piece, sizeof(piece));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			rc = error_errno(err, errno, "cannot read %s", path);
		if (n <= 0)
			break;
		total += (size_t)n;
		if (total > max_bytes) {
			rc = error_set(err, E_LIMIT, "%s is larger than %zu bytes", path, max_bytes);
			break;
		}
		buf_append(out, piece, (size_t)n);
	}
	close(fd);
	return rc;
}

static int write_all(int fd, struct str content)
{
	while (content.len > 0) {
		ssize_t n = write(fd, content.base, content.len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		content.base += n;
		content.len -= (size_t)n;
	}
	return fsync(fd);
}

static int sync_parent(const char *path, struct error *err)
{
	const char *slash = strrchr(path, '/');
	if (!slash)
		return folder_sync(".", err);
	char *parent = str_dup((struct str){path, slash == path ? 1 : (size_t)(slash - path)});
	int rc = folder_sync(parent, err);
	free(parent);
	return rc;
}

ssize_t file_read_at(int fd, uint64_t offset, void *out, size_t len)
{
	size_t got = 0;
	while (got < len) {
		ssize_t n = pread(fd, (char *)out + got, len - got, (off_t)(offset + got));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		if (!n)
			break;
		got += (size_t)n;
	}
	return (ssize_t)got;
}

int file_write(const char *path, unsigned mode, struct str content, struct error *err)
{
	struct buf temporary = {0};
	buf_printf(&temporary, "%s.tmp", path);
	int rc = 0;
	unlink(temporary.base); /* of a writer that was killed */
	int fd = open(temporary.base, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, (mode_t)mode);
	if (fd < 0) {
		rc = error_errno(err, errno, "cannot create %s", temporary.base);
		goto out;
	}
	if (write_all(fd, content) < 0)
		rc = error_errno(err, errno, "cannot write %s", path);
	close(fd);
	if (rc == 0 && rename(temporary.base, path) < 0)
		rc = error_errno(err, errno, "cannot rename to %s", path);
	if (rc < 0)
		unlink(temporary.base);
	else
		rc = sync_parent(path, err);
out:
	buf_fini(&temporary);
	return rc;
}

bool file_exists(const char *path)
{
	struct stat st;
	return lstat(path, &st) == 0;
}

int folder_make(const char *path, unsigned mode, struct error *err)
{
	char *copy = str_dup(str_from(path));
	int rc = 0;
	for (char *at = copy + 1; rc == 0 && *copy; at++) {
		if (*at != '/' && *at != '\0')
			continue;
		char kept = *at;
		*at = '\0';
		if (mkdir(copy, (mode_t)mode) == 0)
			rc = sync_parent(copy, err);
		else if (errno != EEXIST)
			rc = error_errno(err, errno, "cannot make folder %s", copy);
		*at = kept;
		if (kept == '\0')
			break;
	}
	struct stat st;
	if (rc == 0 && (stat(path, &st) < 0 || !S_ISDIR(st.st_mode)))
		rc = error_set(err, E_IO, "%s is not a folder", path);
	free(copy);
	return rc;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *where)
{
	(void)st, (void)kind, (void)where;
	return remove(path);
}

int folder_remove(const char *path, struct error *err)
{
	if (nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS) != 0 && errno != ENOENT)
		return error_errno(err, errno, "cannot remove %s", path);
	return 0;
}

int folder_sync(const char *path, struct error *err)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return error_errno(err, errno, "cannot open folder %s", path);
	int rc = fsync(fd) < 0 ? error_errno(err, errno, "cannot sync folder %s", path) : 0;
	close(fd);
	return rc;
}
