/* SPDX-License-Identifier: Apache-2.0 */
/* http_file.c - part of a file as a response body.
 *
 * Large parts over plain TCP go with sendfile (conn_file.c). Otherwise a piece at a time is read and written, the next
 * only when the connection has room; small files so leave in one write with their head. What lies in the page cache is
 * read at once, a few pieces in a row; for all else a job reads, for the disk may be slow. A large part is over when
 * the kernel has all of it: who takes turns by it means what goes out, not what was read. The file belongs to us from
 * the call on and is closed on every way out.
 */
#include "net/http_server_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

#define PIECE_BYTES 131072
#define SENDFILE_LEAST 65536
#define IN_A_ROW 4 /* then others have their turn */

struct http_file {
	struct http_exchange *x; /* NULL: let go while a job ran */
	struct loop *loop;
	int fd;
	struct http_source source; /* in place of fd; read NULL: none */
	uint64_t offset, left;
	bool in_job, by_sendfile, large;
	ssize_t got;
	size_t size;
	char piece[];
};

static void file_free(struct http_file *f)
{
	if (f->fd >= 0)
		close(f->fd);
	if (f->source.close)
		f->source.close(f->source.arg);
	free(f);
}

static void file_over(struct http_file *f, bool whole)
{
	struct http_exchange *x = f->x;
	x->file = NULL;
	file_free(f);
	if (whole)
		http_end(x);
	else
		http_abort(x);
}

static void file_sent(void *arg, const struct error *err)
{
	struct http_file *f = arg;
	f->x->left = 0;
	file_over(f, err == NULL);
}

static void file_read(void *arg)
{
	struct http_file *f = arg;
	size_t want = f->left < f->size ? (size_t)f->left : f->size;
	if (f->source.read) {
		f->got = f->source.read(f->source.arg, f->offset, f->piece, want) ? -1 : (ssize_t)want;
		return;
	}
	do
		f->got = pread(f->fd, f->piece, want, (off_t)f->offset);
	while (f->got < 0 && errno == EINTR);
}

/* As much as needs no waiting. False: nothing, or the system cannot tell. */
static bool file_read_cached(struct http_file *f)
{
	struct iovec piece = {f->piece, f->left < f->size ? (size_t)f->left : f->size};
	if (f->source.read)
		return false;
	f->got = preadv2(f->fd, &piece, 1, (off_t)f->offset, RWF_NOWAIT);
	return f->got > 0;
}

/* True: there is more, and room for it. */
static bool file_write(struct http_file *f)
{
	if (f->got <= 0) { /* shorter than declared, or the disk failed: the length was promised already */
		file_over(f, false);
		return false;
	}
	f->offset += (uint64_t)f->got;
	f->left -= (uint64_t)f->got;
	bool room = http_write(f->x, (struct str){f->piece, (size_t)f->got});
	if (f->left)
		return room;
	if (f->large && f->x->session && conn_buffered(f->x->session->conn))
		conn_want_drained(f->x->session->conn);
	else
		file_over(f, true);
	return false;
}

static void file_next(struct http_file *f);

static void file_read_done(void *arg)
{
	struct http_file *f = arg;
	f->in_job = false;
	if (!f->x)
		file_free(f);
	else if (file_write(f))
		file_next(f);
}

static void file_next(struct http_file *f)
{
	for (int i = 0; i < IN_A_ROW && file_read_cached(f); i++)
		if (!file_write(f))
			return;
	f->in_job = true;
	loop_job(f->loop, file_read, file_read_done, f);
}

void http_file_writable(struct http_exchange *x)
{
	struct http_file *f = x->file;
	if (!f || f->in_job || f->by_sendfile)
		return;
	if (f->left)
		file_next(f);
	else
		file_over(f, true);
}

void http_file_detach(struct http_exchange *x)
{
	struct http_file *f = x->file;
	if (!f)
		return;
	x->file = NULL;
	x->ended = true; /* its owner handed the response to us */
	f->x = NULL;
	if (f->by_sendfile) {
		f->fd = -1; /* conn_close closes it, after the job that may be using it */
		file_free(f);
	} else if (!f->in_job) {
		file_free(f);
	}
}

void http_respond_source(struct http_exchange *x, int status, const char *content_type,
                         const struct http_source *source, uint64_t offset, uint64_t length)
{
	http_respond_begin(x, status, content_type, (int64_t)length);
	if (!x->session || x->bare || length == 0) {
		source->close(source->arg);
		http_end(x);
		return;
	}
	size_t size = length < PIECE_BYTES ? (size_t)length : PIECE_BYTES;
	struct http_file *f = mem_resize(NULL, sizeof(*f) + size, 1); /* the piece need not be zeros */
	*f = (struct http_file){.x = x,
	                        .loop = x->loop,
	                        .fd = -1,
	                        .source = *source,
	                        .offset = offset,
	                        .left = length,
	                        .size = size,
	                        .large = length > PIECE_BYTES};
	x->file = f;
	file_next(f);
}

void http_respond_file(struct http_exchange *x, int status, const char *content_type, int fd, uint64_t offset,
                       uint64_t length)
{
	http_respond_begin(x, status, content_type, (int64_t)length);
	if (!x->session || x->bare || length == 0) {
		close(fd);
		http_end(x);
		return;
	}
	bool by_sendfile = length > SENDFILE_LEAST && conn_can_send_file(x->session->conn);
	size_t size = by_sendfile ? 0 : length < PIECE_BYTES ? (size_t)length : PIECE_BYTES;
	struct http_file *f = mem_resize(NULL, sizeof(*f) + size, 1); /* the piece need not be zeros */
	*f = (struct http_file){.x = x,
	                        .loop = x->loop,
	                        .fd = fd,
	                        .offset = offset,
	                        .left = length,
	                        .by_sendfile = by_sendfile,
	                        .large = length > PIECE_BYTES,
	                        .size = size};
	x->file = f;
	if (by_sendfile)
		conn_send_file(x->session->conn, fd, offset, length, file_sent, f);
	else
		file_next(f);
}
