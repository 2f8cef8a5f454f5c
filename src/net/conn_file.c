/* SPDX-License-Identifier: Apache-2.0 */
/* conn_file.c - part of a file to a plain TCP connection with sendfile(2).
 *
 * sendfile runs on the loop while both ends of the next piece lie in the page cache, and else in the job pool, for the
 * disk may be slow; the socket never blocks. When it is full a poll handle on a duplicate of the socket waits for room
 * (libuv's own handle tells writers nothing). The duplicate also keeps the number from being re-used under a running
 * job when the connection closes.
 */
#include "net/conn_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define PIECE_BYTES (1 << 20) /* of one sendfile call */
#define JOB_BYTES (8 << 20)   /* of one job, so that files share the pool */
#define IN_A_ROW 4            /* pieces on the loop, then others have their turn */

struct conn_file {
	struct conn *conn; /* NULL: let go, clean up when idle */
	struct loop *loop;
	int fd, socket;
	off_t offset;
	uint64_t left;
	int failed; /* errno; -1: the file ended early */
	bool in_job, full;
	int64_t stall_us;
	struct loop_timer *stall;
	uv_poll_t poll;
	bool polls, waiting;
	conn_file_done *done;
	void *arg;
};

static void file_poll_closed(uv_handle_t *handle)
{
	struct conn_file *f = handle->data;
	close(f->socket);
	free(f);
}

static void file_free(struct conn_file *f)
{
	loop_timer_free(f->stall);
	f->stall = NULL;
	if (f->polls) {
		uv_close((uv_handle_t *)&f->poll, file_poll_closed);
		return;
	}
	if (f->socket >= 0)
		close(f->socket);
	free(f);
}

static size_t file_piece(const struct conn_file *f)
{
	return f->left < PIECE_BYTES ? (size_t)f->left : PIECE_BYTES;
}

/* False: no more for now. */
static bool file_send(struct conn_file *f)
{
	size_t piece = file_piece(f);
	ssize_t n = sendfile(f->socket, f->fd, &f->offset, piece);
	if (n < 0 && errno == EINTR)
		return true;
	f->full = n < 0 ? errno == EAGAIN : n > 0 && (size_t)n < piece;
	if (n <= 0 && !f->full)
		f->failed = n < 0 ? errno : -1;
	f->left -= n > 0 ? (uint64_t)n : 0;
	return n > 0 && !f->full && f->left;
}

static void file_work(void *arg)
{
	struct conn_file *f = arg;
	uint64_t until = f->left < JOB_BYTES ? 0 : f->left - JOB_BYTES;
	while (file_send(f) && f->left > until)
		;
}

static bool file_cached_at(const struct conn_file *f, off_t at)
{
	char byte;
	struct iovec one = {&byte, 1};
	return preadv2(f->fd, &one, 1, at, RWF_NOWAIT) == 1;
}

static bool file_cached(const struct conn_file *f)
{
	return file_cached_at(f, f->offset) && file_cached_at(f, f->offset + (off_t)file_piece(f) - 1);
}

static void file_finish(struct conn_file *f, int code, const char *why)
{
	struct conn *c = f->conn;
	conn_file_done *done = f->done;
	void *arg = f->arg;
	c->file = NULL;
	c->file_running = false;
	file_free(f);
	struct error err;
	if (code)
		error_set(&err, code, "sending a file broke: %s", why);
	done(arg, code ? &err : NULL);
}

static void file_step(struct conn_file *f);

static void file_room(uv_poll_t *poll, int status, int events)
{
	struct conn_file *f = poll->data;
	(void)events;
	f->waiting = status == 0; /* else it was stopped: the connection broke, which sendfile will say */
	file_step(f);
}

static void file_stalled(void *arg)
{
	file_finish(arg, E_TIMEOUT, "the peer took no data");
}

static void file_wait(struct conn_file *f)
{
	if (!f->polls && uv_poll_init(loop_uv(f->loop), &f->poll, f->socket) != 0) {
		file_finish(f, E_INTERNAL, "the socket cannot be polled");
		return;
	}
	f->polls = true;
	f->poll.data = f;
	if (!f->stall)
		f->stall = loop_timer_new(f->loop, file_stalled, f);
	loop_timer_start(f->stall, f->stall_us, 0);
	if (!f->waiting)
		uv_poll_start(&f->poll, UV_WRITABLE, file_room);
	f->waiting = true;
}

static void file_unwait(struct conn_file *f)
{
	if (!f->waiting)
		return;
	f->waiting = false;
	uv_poll_stop(&f->poll);
	loop_timer_stop(f->stall);
}

static void file_worked(void *arg);

static void file_go_on(struct conn_file *f)
{
	if (f->failed) {
		file_finish(f, f->failed < 0 ? E_CORRUPT : E_PEER,
		            f->failed < 0 ? "the file is shorter than it was" : strerror(f->failed));
	} else if (!f->left) {
		file_finish(f, 0, NULL);
	} else if (f->full || (f->waiting && file_cached(f))) {
		file_wait(f);
	} else {
		file_unwait(f);
		f->in_job = true;
		loop_job(f->loop, file_work, file_worked, f);
	}
}

static void file_worked(void *arg)
{
	struct conn_file *f = arg;
	f->in_job = false;
	if (!f->conn) {
		close(f->fd);
		file_free(f);
	} else if (f->failed || !f->left || f->full) {
		file_go_on(f);
	} else {
		file_step(f);
	}
}

static void file_step(struct conn_file *f)
{
	f->full = false;
	for (int i = 0; i < IN_A_ROW && file_cached(f) && file_send(f); i++)
		;
	file_go_on(f);
}

void conn_send_file(struct conn *c, int fd, uint64_t offset, uint64_t length, conn_file_done *done, void *arg)
{
	struct conn_file *f = NEW(struct conn_file);
	*f = (struct conn_file){.conn = c,
	                        .loop = c->loop,
	                        .fd = fd,
	                        .socket = -1,
	                        .offset = (off_t)offset,
	                        .left = length,
	                        .stall_us = c->stall_us,
	                        .done = done,
	                        .arg = arg};
	conn_flush(c);
	c->file = f;
	loop_task_add(c->loop, &c->pump_task); /* begins there when nothing is left to write */
}

void conn_file_go(struct conn *c)
{
	struct conn_file *f = c->file;
	uv_os_fd_t own;
	c->file_running = true;
	if (uv_fileno((uv_handle_t *)&c->socket->tcp, &own) == 0)
		f->socket = dup(own);
	if (f->socket < 0)
		file_finish(f, E_INTERNAL, "the socket cannot be duplicated");
	else
		file_step(f);
}

void conn_file_detach(struct conn *c)
{
	struct conn_file *f = c->file;
	if (!f)
		return;
	c->file = NULL;
	f->conn = NULL;
	if (f->in_job) {
		shutdown(f->socket, SHUT_RDWR); /* file_worked cleans up */
		return;
	}
	close(f->fd);
	file_free(f);
}
