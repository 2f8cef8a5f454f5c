/* SPDX-License-Identifier: Apache-2.0 */
/* How: two buffers; one gathers while the other is in a job. A sink that is freed while its job runs is freed by the
 * job's end. */
#include "serve/gateway/sink.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

struct sink {
	struct loop *loop;
	int fd;
	uint64_t size;
	struct buf pending, writing;
	bool busy, gone;
	struct error err;
	loop_fn *on_written;
	void *arg;
};

static void sink_drop(struct sink *s)
{
	close(s->fd);
	buf_fini(&s->pending);
	buf_fini(&s->writing);
	free(s);
}

static void work(void *arg)
{
	struct sink *s = arg;
	size_t at = 0;

	while (at < s->writing.len) {
		ssize_t n = pwrite(s->fd, s->writing.base + at, s->writing.len - at, (off_t)(s->size + at));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			error_errno(&s->err, n ? errno : ENOSPC, "writing a file of a client failed");
			return;
		}
		at += (size_t)n;
	}
	if (fdatasync(s->fd) < 0)
		error_errno(&s->err, errno, "writing a file of a client failed");
}

static void start(struct sink *s);

static void done(void *arg)
{
	struct sink *s = arg;

	s->busy = false;
	if (s->gone) {
		sink_drop(s);
		return;
	}
	if (!s->err.code) {
		s->size += s->writing.len;
		buf_clear(&s->writing);
		if (s->writing.cap > 1 << 20)
			buf_fini(&s->writing);
		if (s->pending.len)
			start(s);
	}
	s->on_written(s->arg);
}

static void start(struct sink *s)
{
	if (!s->writing.len) {
		struct buf empty = s->writing;

		s->writing = s->pending;
		s->pending = empty;
	}
	s->busy = true;
	s->err.code = 0;
	loop_job(s->loop, work, done, s);
}

struct sink *sink_new(struct loop *loop, int fd, uint64_t size, loop_fn *on_written, void *arg)
{
	struct sink *s = NEW(struct sink);

	*s = (struct sink){.loop = loop, .fd = fd, .size = size, .on_written = on_written, .arg = arg};
	return s;
}

void sink_free(struct sink *s)
{
	if (!s)
		return;
	s->gone = true;
	if (!s->busy)
		sink_drop(s);
}

void sink_add(struct sink *s, struct str data)
{
	buf_append_str(&s->pending, data);
	if (!s->busy && !s->err.code && s->pending.len)
		start(s);
}

uint64_t sink_size(const struct sink *s)
{
	return s->size;
}

size_t sink_waiting(const struct sink *s)
{
	return s->pending.len + s->writing.len;
}

const struct error *sink_error(const struct sink *s)
{
	return !s->busy && s->err.code ? &s->err : NULL;
}

void sink_retry(struct sink *s)
{
	if (!s->busy && s->err.code)
		start(s);
}
