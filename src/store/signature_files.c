/* SPDX-License-Identifier: Apache-2.0 */
/* Folders are walked by file descriptor and never through a link, unless the signature allows links; then depth is what
 * ends a loop. */
#include "store/signature_files.h"

#include "base/file.h"
#include "store/ociname.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIECE (1 << 20)
#define DEPTH_MAX 64

static int hash_part(struct signature_files *files, int fd, uint64_t from, uint64_t to, const char *path,
                     struct digest *ret_digest, struct error *err)
{
	struct digest_stream *s = digest_stream_new();
	char *piece = mem_new(PIECE);
	int rc = 0;
	for (uint64_t at = from; !rc && at < to;) {
		size_t want = to - at < PIECE ? (size_t)(to - at) : PIECE;
		ssize_t got = file_read_at(fd, at, piece, want);
		if (got < 0)
			rc = error_errno(err, errno, "cannot read %s", path);
		else if ((size_t)got < want)
			rc = error_set(err, E_CORRUPT, "%s became shorter while it was read", path);
		else
			digest_stream_add(s, piece, want);
		at += want;
		files->done += want;
		if (files->on_bytes)
			files->on_bytes(files->arg, files->done);
	}
	if (!rc)
		*ret_digest = digest_stream_end(s);
	digest_stream_free(s);
	free(piece);
	return rc;
}

int signature_files_add(struct signature_files *files, struct signed_model *m, int fd, uint64_t size, struct str path,
                        struct error *err)
{
	char text[256];
	struct digest d;
	uint64_t step = m->shards ? m->shard_size : size;
	if (!str_equal(path, STR(".")) && !path_safe(path))
		return error_set(err, E_INVAL, "a file's name cannot be signed: it is longer than 255 bytes, or odd");
	str_copy(path, text, sizeof text);
	if (m->shards && memchr(path.base, ':', path.len))
		return error_set(err, E_INVAL, "%s: a name with a colon cannot be signed by shards; sign by files",
		                 text);
	if (files->counts) {
		files->done += size;
		return 0;
	}
	for (uint64_t at = 0; at < size || (!m->shards && at == 0); at += step) {
		uint64_t end = size - at < step ? size : at + step;
		if (m->item_count >= SIGNATURE_ITEMS_MAX)
			return error_set(err, E_LIMIT, "a signature names at most %d files or shards",
			                 SIGNATURE_ITEMS_MAX);
		int rc = hash_part(files, fd, at, end, text, &d, err);
		if (rc)
			return rc;
		signed_model_add(m, path, at * m->shards, end * m->shards, &d);
		if (!step)
			break;
	}
	return 0;
}

static int walk(struct signature_files *files, struct signed_model *m, int dir_fd, struct buf *path, int depth,
                struct error *err);

/* One name of a folder; path is the folder's, with a slash at its end unless it is the model's own. */
static int visit(struct signature_files *files, struct signed_model *m, int dir_fd, const char *name, struct buf *path,
                 int depth, struct error *err)
{
	size_t before = path->len;
	struct stat st;
	int rc = 0, fd = -1;
	buf_append_str(path, str_from(name));
	buf_append(path, "", 1);
	struct str own = {path->base, path->len - 1};
	bool ignored = signed_model_ignores(m, own);
	if (!ignored && fstatat(dir_fd, name, &st, m->allow_symlinks ? 0 : AT_SYMLINK_NOFOLLOW))
		rc = error_errno(err, errno, "cannot look at %s", own.base);
	else if (!ignored && S_ISLNK(st.st_mode))
		rc = error_set(err, E_FORBIDDEN, "%s is a symbolic link, which a signature does not cover", own.base);
	else if (!ignored && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
		rc = error_set(err, E_FORBIDDEN, "%s is neither a file nor a folder", own.base);
	if (!ignored && !rc) {
		fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | (m->allow_symlinks ? 0 : O_NOFOLLOW));
		rc = fd < 0 ? error_errno(err, errno, "cannot open %s", own.base) : 0;
	}
	if (fd >= 0 && S_ISREG(st.st_mode)) {
		rc = signature_files_add(files, m, fd, (uint64_t)st.st_size, own, err);
		close(fd);
	} else if (fd >= 0) {
		path->base[path->len - 1] = '/';
		rc = walk(files, m, fd, path, depth + 1, err);
	}
	path->len = before;
	return rc;
}

/* Takes over dir_fd. */
static int walk(struct signature_files *files, struct signed_model *m, int dir_fd, struct buf *path, int depth,
                struct error *err)
{
	DIR *dir = fdopendir(dir_fd);
	int rc = 0;
	if (!dir) {
		close(dir_fd);
		return error_errno(err, errno, "cannot read the folder");
	}
	if (depth > DEPTH_MAX)
		rc = error_set(err, E_LIMIT, "the folder is more than %d deep; does a link lead back?", DEPTH_MAX);
	for (struct dirent *entry; !rc && (entry = readdir(dir)) != NULL;)
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			rc = visit(files, m, dirfd(dir), entry->d_name, path, depth, err);
	closedir(dir);
	return rc;
}

/* A signature that lies in the folder is no part of what it signs. */
static void leave_out(const struct signature_files *files, struct signed_model *m)
{
	char folder[PATH_MAX], file[PATH_MAX], parent[PATH_MAX];
	if (!files->left_out || !realpath(files->path, folder))
		return;
	const char *slash = strrchr(files->left_out, '/');
	snprintf(parent, sizeof parent, "%.*s", slash ? (int)(slash - files->left_out + 1) : 1,
	         slash ? files->left_out : ".");
	if (!realpath(parent, file)) /* the file itself may not be there yet */
		return;
	size_t len = strlen(file), own = strlen(folder);
	snprintf(file + len, sizeof file - len, "/%s", slash ? slash + 1 : files->left_out);
	if (strncmp(file, folder, own) == 0 && file[own] == '/' && !signed_model_ignores(m, str_from(file + own + 1)))
		signed_model_ignore(m, str_from(file + own + 1));
}

int signature_files_read(struct signature_files *files, struct signed_model *m, struct error *err)
{
	struct stat st;
	struct buf path = {0};
	int fd = open(files->path, O_RDONLY | O_CLOEXEC | (m->allow_symlinks ? 0 : O_NOFOLLOW));
	if (fd < 0 && errno == ELOOP)
		return error_set(err, E_FORBIDDEN, "%s is a symbolic link, which a signature does not cover",
		                 files->path);
	if (fd < 0 || fstat(fd, &st)) {
		int saved = errno;
		if (fd >= 0)
			close(fd);
		return error_errno(err, saved, "cannot open %s", files->path);
	}
	if (!m->name[0]) {
		char full[PATH_MAX];
		const char *name = realpath(files->path, full) ? strrchr(full, '/') : NULL;
		str_copy(str_from(name ? name + 1 : files->path), m->name, sizeof m->name);
	}
	if (!S_ISDIR(st.st_mode)) {
		int rc = signature_files_add(files, m, fd, (uint64_t)st.st_size, STR("."), err);
		close(fd);
		return rc;
	}
	leave_out(files, m);
	int rc = walk(files, m, fd, &path, 0, err);
	signed_model_sort(m);
	buf_fini(&path);
	return rc;
}
