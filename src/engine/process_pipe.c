/* SPDX-License-Identifier: Apache-2.0 */
/* process_pipe.c - one descriptor watched by a uv_poll, a prepare handle that writes at the end of each turn.
 *
 * Frames are handed out from where they were read; what is left of the last one is moved to the front, so that a frame
 * always begins 8-aligned (sizes are multiples of 8). A buffer that one large frame made large is given back.
 */
#include "engine/process_pipe.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

enum { READ_SIZE = 64 * 1024, READS_A_TURN = 16, KEEP_SIZE = 1 << 20 };

struct pipe_end {
	uv_poll_t poll;
	uv_prepare_t prepare;
	int fd;
	int open; /* handles */
	struct pipe_options options;
	struct buf in, out;
	bool busy; /* a callback is on the stack */
	bool freed, ended, shut, blocked;
};

static void pipe_closed(uv_handle_t *handle)
{
	struct pipe_end *p = handle->data;

	if (--p->open)
		return;
	close(p->fd);
	buf_fini(&p->in);
	buf_fini(&p->out);
	free(p);
}

static void pipe_close(struct pipe_end *p)
{
	uv_close((uv_handle_t *)&p->poll, pipe_closed);
	uv_close((uv_handle_t *)&p->prepare, pipe_closed);
}

static void pipe_over(struct pipe_end *p, bool nonsense)
{
	if (p->ended || p->freed)
		return;
	p->ended = true;
	uv_poll_stop(&p->poll);
	p->options.on_end(p->options.arg, nonsense);
}

/* Frames that are whole. False: no more of this pipe. */
static bool pipe_hand_out(struct pipe_end *p)
{
	size_t at = 0;
	int got = 0;

	while (!p->freed && !p->ended) {
		struct wire_head head;
		struct str body;
		got = wire_take((struct str){p->in.base + at, p->in.len - at}, &head, &body);
		if (got <= 0)
			break;
		at += sizeof(head) + body.len;
		if (!p->options.on_frame(p->options.arg, &head, body)) {
			got = E_CORRUPT;
			break;
		}
	}
	buf_consume(&p->in, at);
	if (!p->in.len && p->in.cap > KEEP_SIZE)
		buf_fini(&p->in);
	if (got < 0)
		pipe_over(p, true);
	return !p->freed && !p->ended;
}

static void pipe_read(struct pipe_end *p)
{
	for (int i = 0; i < READS_A_TURN; i++) {
		char *room = buf_reserve(&p->in, READ_SIZE);
		ssize_t got = read(p->fd, room, READ_SIZE);
		if (got < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (got <= 0) {
			pipe_over(p, false);
			return;
		}
		p->in.len += (size_t)got;
		if (!pipe_hand_out(p) || got < READ_SIZE)
			return;
	}
}

static void pipe_write(struct pipe_end *p)
{
	size_t at = 0;

	while (at < p->out.len) {
		ssize_t sent = send(p->fd, p->out.base + at, p->out.len - at, MSG_NOSIGNAL);
		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0) {
			if (errno != EAGAIN)
				at = p->out.len; /* the end is read, too */
			break;
		}
		at += (size_t)sent;
	}
	buf_consume(&p->out, at);
	p->blocked = p->out.len > 0;
	if (p->blocked)
		return;
	if (p->out.cap > KEEP_SIZE)
		buf_fini(&p->out);
	if (p->shut)
		shutdown(p->fd, SHUT_WR);
	if (p->options.on_flushed && !p->freed && !p->ended)
		p->options.on_flushed(p->options.arg);
}

static void pipe_watch(struct pipe_end *p);

static void pipe_ready(uv_poll_t *poll, int status, int events)
{
	struct pipe_end *p = poll->data;

	p->busy = true;
	if (p->blocked && (events & UV_WRITABLE))
		pipe_write(p);
	if (!p->freed && !p->ended && (status < 0 || (events & (UV_READABLE | UV_DISCONNECT))))
		pipe_read(p);
	p->busy = false;
	if (p->freed)
		pipe_close(p);
	else if (!p->ended)
		pipe_watch(p);
}

static void pipe_watch(struct pipe_end *p)
{
	uv_poll_start(&p->poll, UV_READABLE | (p->blocked ? UV_WRITABLE : 0), pipe_ready);
}

static void pipe_turn_ends(uv_prepare_t *prepare)
{
	struct pipe_end *p = prepare->data;

	uv_prepare_stop(prepare);
	p->busy = true;
	if (!p->blocked)
		pipe_write(p);
	p->busy = false;
	if (p->freed)
		pipe_close(p);
	else if (!p->ended && p->blocked)
		pipe_watch(p);
}

struct pipe_end *pipe_end_new(struct loop *loop, int fd, const struct pipe_options *options)
{
	struct pipe_end *p = NEW(struct pipe_end);

	*p = (struct pipe_end){.fd = fd, .options = *options, .open = 2};
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	int rc = uv_poll_init(loop_uv(loop), &p->poll, fd);
	assert(rc == 0);
	(void)rc;
	uv_prepare_init(loop_uv(loop), &p->prepare);
	p->poll.data = p->prepare.data = p;
	pipe_watch(p);
	return p;
}

void pipe_end_free(struct pipe_end *p)
{
	if (!p || p->freed)
		return;
	p->freed = true;
	if (!p->busy)
		pipe_close(p);
}

struct buf *pipe_end_out(struct pipe_end *p)
{
	return &p->out;
}

void pipe_end_wrote(struct pipe_end *p)
{
	if (!p->freed && !p->ended)
		uv_prepare_start(&p->prepare, pipe_turn_ends);
}

void pipe_end_shut(struct pipe_end *p)
{
	if (p->freed || p->ended)
		return;
	p->shut = true;
	p->options.on_flushed = NULL;
	pipe_write(p);
	if (p->blocked)
		pipe_watch(p);
}
