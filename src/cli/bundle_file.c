/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/bundle_file.h"

#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define PARTS_MAX 999
#define PIECE (1 << 18)

/* ---- writing ------------------------------------------------------------------------------------ */

static void name_of(const struct bundle_out *o, uint64_t part, bool unfinished, char ret_name[static PATH_MAX])
{
	const char *mark = unfinished ? ".part" : "";
	if (o->split)
		snprintf(ret_name, PATH_MAX, "%s.%03llu%s", o->path, (unsigned long long)part + 1, mark);
	else
		snprintf(ret_name, PATH_MAX, "%s%s", o->path, mark);
}

static uint64_t part_of(const struct bundle_out *o, uint64_t offset)
{
	return o->split ? offset / o->split : 0;
}

static int open_part(struct bundle_out *o, struct error *err)
{
	char name[PATH_MAX];
	uint64_t part = part_of(o, o->size);
	if (part >= PARTS_MAX)
		return error_set(err, E_LIMIT, "a bundle has at most %d parts; make them larger", PARTS_MAX);
	name_of(o, part, true, name);
	o->fd = open(name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);
	off_t at = (off_t)(o->split ? o->size % o->split : o->size);
	if (o->fd < 0 && errno == ELOOP)
		return error_set(err, E_FORBIDDEN, "%s is a symbolic link; remove it, or write elsewhere with -o",
		                 name);
	if (o->fd < 0 || ftruncate(o->fd, at) || lseek(o->fd, at, SEEK_SET) < 0)
		return error_errno(err, errno, "cannot write %s", name);
	return 0;
}

static bool size_of(const char *name, uint64_t *ret_size)
{
	struct stat st;
	if (stat(name, &st))
		return false;
	*ret_size = (uint64_t)st.st_size;
	return true;
}

int bundle_out_open(struct bundle_out *o, const char *path, uint64_t split, struct error *err)
{
	char name[PATH_MAX];
	uint64_t size, part = 0;
	*o = (struct bundle_out){.path = path, .split = split, .fd = -1};
	for (; split && part < PARTS_MAX; part++) {
		name_of(o, part, false, name);
		if (!size_of(name, &size))
			break;
		if (size != split)
			return error_set(err, E_CONFLICT,
			                 "%s exists and is the end of a bundle, or of one with other "
			                 "parts; nothing was overwritten",
			                 name);
		o->size += size;
	}
	name_of(o, part, false, name);
	if (!split && size_of(name, &size))
		return error_set(err, E_CONFLICT, "%s exists; nothing was overwritten", name);
	name_of(o, part, true, name);
	if (size_of(name, &size) && (!split || size <= split))
		o->size += size;
	return 0;
}

static int end_part(struct bundle_out *o, struct error *err)
{
	char from[PATH_MAX], to[PATH_MAX];
	uint64_t part = part_of(o, o->size - 1);
	name_of(o, part, true, from);
	name_of(o, part, false, to);
	int rc = fsync(o->fd) || rename(from, to) ? error_errno(err, errno, "cannot finish %s", to) : 0;
	close(o->fd);
	o->fd = -1;
	return rc;
}

int bundle_out_write(struct bundle_out *o, struct str data, struct error *err)
{
	int rc = 0;
	while (!rc && data.len) {
		uint64_t room = o->split ? o->split - o->size % o->split : data.len;
		size_t len = data.len < room ? data.len : (size_t)room;
		if (o->fd < 0 && (rc = open_part(o, err)))
			break;
		ssize_t put = write(o->fd, data.base, len);
		if (put < 0)
			return error_errno(err, errno, "cannot write the bundle");
		o->size += (uint64_t)put;
		data = (struct str){data.base + put, data.len - (size_t)put};
		if (o->split && o->size % o->split == 0)
			rc = end_part(o, err);
	}
	return rc;
}

int bundle_out_restart(struct bundle_out *o, struct error *err)
{
	char name[PATH_MAX];
	bundle_out_close(o);
	for (uint64_t part = 0; part <= part_of(o, o->size); part++)
		for (int unfinished = 0; unfinished < 2; unfinished++) {
			name_of(o, part, unfinished, name);
			if (unlink(name) && errno != ENOENT)
				return error_errno(err, errno, "cannot remove %s", name);
		}
	o->size = 0;
	return 0;
}

int bundle_out_finish(struct bundle_out *o, struct error *err)
{
	/* what an earlier run wrote to its last byte, but did not rename, has no fd yet */
	if (o->fd < 0 && (!o->split || o->size % o->split) && open_part(o, err))
		return err ? err->code : E_IO;
	return o->fd >= 0 ? end_part(o, err) : 0;
}

void bundle_out_close(struct bundle_out *o)
{
	if (o->fd >= 0)
		close(o->fd);
	o->fd = -1;
}

int bundle_out_read(void *out, uint64_t offset, void *to, size_t len, struct error *err)
{
	struct bundle_out *o = out;
	char name[PATH_MAX], *at = to;
	while (len) {
		uint64_t inside = o->split ? offset % o->split : offset, room = o->split ? o->split - inside : len;
		size_t piece = len < room ? len : (size_t)room;
		name_of(o, part_of(o, offset), false, name);
		int fd = open(name, O_RDONLY | O_CLOEXEC);
		if (fd < 0) {
			name_of(o, part_of(o, offset), true, name);
			fd = open(name, O_RDONLY | O_CLOEXEC);
		}
		ssize_t got = fd < 0 ? -1 : file_read_at(fd, inside, at, piece);
		if (fd >= 0)
			close(fd);
		if (got < (ssize_t)piece)
			return error_errno(err, got < 0 ? errno : EIO, "cannot read %s", name);
		at += piece;
		offset += piece;
		len -= piece;
	}
	return 0;
}

/* ---- reading ------------------------------------------------------------------------------------ */

static int add_part(struct bundle_in *in, const char *name)
{
	struct stat st;
	int fd = open(name, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode)) {
		if (fd >= 0) {
			close(fd);
			errno = EINVAL;
		}
		return -1;
	}
	in->fds = mem_resize(in->fds, in->count + 1, sizeof *in->fds);
	in->ends = mem_resize(in->ends, in->count + 1, sizeof *in->ends);
	in->fds[in->count] = fd;
	in->ends[in->count] = bundle_in_size(in) + (uint64_t)st.st_size;
	in->count++;
	return 0;
}

int bundle_in_open(struct bundle_in *in, const char *path, struct error *err)
{
	char name[PATH_MAX];
	size_t len = strlen(path);
	bool named_first = len > 4 && !strcmp(path + len - 4, ".001");
	*in = (struct bundle_in){.path = path};
	if (!named_first && add_part(in, path) == 0)
		return 0;
	int saved = errno;
	for (int part = 1; part <= PARTS_MAX; part++) {
		snprintf(name, sizeof name, "%.*s.%03d", (int)(named_first ? len - 4 : len), path, part);
		if (add_part(in, name))
			break;
	}
	return in->count ? 0 : error_errno(err, saved, "cannot open the bundle %s", path);
}

void bundle_in_close(struct bundle_in *in)
{
	for (size_t i = 0; i < in->count; i++)
		close(in->fds[i]);
	free(in->fds);
	free(in->ends);
	*in = (struct bundle_in){0};
}

uint64_t bundle_in_size(const struct bundle_in *in)
{
	return in->count ? in->ends[in->count - 1] : 0;
}

int bundle_in_read(void *arg, uint64_t offset, void *to, size_t len, struct error *err)
{
	struct bundle_in *in = arg;
	char *at = to;
	for (size_t i = 0; i < in->count && len; i++) {
		uint64_t begin = i ? in->ends[i - 1] : 0;
		if (offset >= in->ends[i])
			continue;
		size_t piece = len < in->ends[i] - offset ? len : (size_t)(in->ends[i] - offset);
		ssize_t got = file_read_at(in->fds[i], offset - begin, at, piece);
		if (got < (ssize_t)piece)
			return error_errno(err, got < 0 ? errno : EIO, "cannot read %s", in->path);
		at += piece;
		offset += piece;
		len -= piece;
	}
	return len ? error_set(err, E_INVAL, "%s is cut short; is a part missing?", in->path) : 0;
}

struct feeding {
	struct bundle_in *in;
	uint64_t offset, len;
	int fd;
};

static void *feed(void *arg)
{
	struct feeding *f = arg;
	char *piece = mem_new(PIECE);
	while (f->len) {
		size_t want = f->len < PIECE ? (size_t)f->len : PIECE, put = 0;
		if (bundle_in_read(f->in, f->offset, piece, want, NULL))
			break;
		while (put < want) {
			ssize_t n = write(f->fd, piece + put, want - put);
			if (n <= 0)
				break;
			put += (size_t)n;
		}
		if (put < want)
			break; /* the reader has had enough */
		f->offset += want;
		f->len -= want;
	}
	close(f->fd);
	free(piece);
	free(f->in->fds);
	free(f->in->ends);
	free(f->in);
	free(f);
	return NULL;
}

int bundle_in_stream(struct bundle_in *in, uint64_t offset, uint64_t len, int *ret_fd, struct error *err)
{
	int ends[2];
	pthread_t thread;
	signal(SIGPIPE, SIG_IGN);
	if (pipe2(ends, O_CLOEXEC))
		return error_errno(err, errno, "cannot read the bundle");
	struct feeding *f = NEW(struct feeding);
	*f = (struct feeding){NEW(struct bundle_in), offset, len, ends[1]};
	*f->in = (struct bundle_in){.path = "", .count = in->count};
	f->in->fds = mem_new(in->count * sizeof *in->fds);
	f->in->ends = mem_new(in->count * sizeof *in->ends);
	memcpy(f->in->fds, in->fds, in->count * sizeof *in->fds);
	memcpy(f->in->ends, in->ends, in->count * sizeof *in->ends);
	int rc = pthread_create(&thread, NULL, feed, f);
	if (rc) {
		close(ends[0]);
		close(ends[1]);
		free(f->in->fds);
		free(f->in->ends);
		free(f->in);
		free(f);
		return error_errno(err, rc, "cannot start a thread");
	}
	pthread_detach(thread);
	*ret_fd = ends[0];
	return 0;
}
