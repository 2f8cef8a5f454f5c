/* SPDX-License-Identifier: Apache-2.0 */
/* conn.c - reading, corked writing and deadlines of one connection.
 *
 * Writing: parts gather in `out` until a flush. A flush tries the socket at once (uv_try_write, one
 * system call); what the kernel does not take moves to the socket's own buffer and goes by uv_write.
 * Large parts skip `out` and go with writev from where they lie. One timer a connection serves both the
 * owner's deadline and the write stall; it is only moved earlier, and on firing early arms itself again,
 * so a request costs no timer work. Failures found inside a call are told on the next turn.
 */
#include "net/conn.h"

#include "base/clock.h"
#include "base/limits.h"
#include "net/conn_internal.h"
#include "net/tls_internal.h"

#include <arpa/inet.h>
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define CORK_MAX 16384 /* from here on copying costs more than a system call */
#define FIRST_OUT 2047
#define KEEP_MAX 16384 /* a buffer that grew beyond is given back once empty */
#define PARTS_MAX 8
#define ROOM_LEAST 16384 /* a TLS record's; less is not worth a read of its own */

static void conn_flush_task(void *arg)
{
	conn_flush(arg);
}
static void conn_end_task(void *arg)
{
	conn_tell_end(arg);
}
static void conn_pump_task(void *arg);

static void conn_free_task(void *arg)
{
	struct conn *c = arg;
	conn_tls_free(c);
	buf_fini(&c->out);
	buf_fini(&c->inbox);
	free(c->error);
	free(c->expect_identity);
	free(c->identity);
	free(c);
}

struct conn *conn_new(struct loop *loop, const struct conn_options *options)
{
	struct conn *c = NEW(struct conn);
	c->loop = loop;
	c->events = options->events;
	c->arg = options->arg;
	c->stall_us = options->stall_us;
	c->wants_background = options->background;
	loop_task_init(&c->flush_task, conn_flush_task, c);
	loop_task_init(&c->end_task, conn_end_task, c);
	loop_task_init(&c->pump_task, conn_pump_task, c);
	loop_task_init(&c->free_task, conn_free_task, c);
	return c;
}

/* ---- the end ---- */

void conn_tell_end(struct conn *c)
{
	if (c->ended || !c->events)
		return;
	c->ended = true;
	if (c->socket && !uv_is_closing((uv_handle_t *)&c->socket->tcp))
		uv_read_stop((uv_stream_t *)&c->socket->tcp);
	c->events->on_end(c->arg, c->error);
}

void conn_fail(struct conn *c, int code, const char *format, ...)
{
	if (c->error || !c->events)
		return;
	char text[sizeof(c->error->text)];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	c->error = NEW(struct error);
	error_set(c->error, code, "%s", text);
	buf_clear(&c->out);
	loop_task_add(c->loop, c->ended ? &c->pump_task : &c->end_task);
}

static void conn_release(struct conn *c, bool reset)
{
	if (!c || !c->events)
		return;
	c->events = NULL;
	loop_task_cancel(&c->flush_task);
	loop_task_cancel(&c->end_task);
	loop_task_cancel(&c->pump_task);
	loop_timer_free(c->timer);
	c->timer = NULL;
	conn_dial_cancel(c);
	conn_file_detach(c);
	if (c->socket)
		conn_socket_close(c->socket, reset);
	c->socket = NULL;
	if (c->peer) {
		struct conn *peer = c->peer;
		peer->peer = NULL;
		peer->peer_done = true;
		loop_task_add(peer->loop, &peer->pump_task);
		c->peer = NULL;
	}
	loop_task_add(c->loop, &c->free_task);
}

void conn_close(struct conn *c)
{
	conn_release(c, false);
}
void conn_close_reset(struct conn *c)
{
	conn_release(c, true);
}

/* ---- the socket ---- */

struct conn_socket *conn_socket_new(struct loop *loop, struct conn *c)
{
	struct conn_socket *s = NEW(struct conn_socket);
	uv_tcp_init(loop_uv(loop), &s->tcp);
	s->tcp.data = s;
	s->conn = c;
	return s;
}

static void socket_closed(uv_handle_t *handle)
{
	struct conn_socket *s = handle->data;
	buf_fini(&s->sending);
	free(s);
}

void conn_socket_close(struct conn_socket *s, bool reset)
{
	s->conn = NULL;
	if (!reset || s->shut || uv_tcp_close_reset(&s->tcp, socket_closed) != 0)
		uv_close((uv_handle_t *)&s->tcp, socket_closed);
}

char *conn_room(struct conn *c, size_t *ret_size)
{
	size_t size = 0;
	char *room = c->events && c->events->on_room ? c->events->on_room(c->arg, &size) : NULL;
	*ret_size = room && size >= ROOM_LEAST ? size : LOOP_READ_BUFFER;
	return room && size >= ROOM_LEAST ? room : loop_read_buffer(c->loop);
}

static void socket_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret_buf)
{
	struct conn_socket *s = handle->data;
	(void)suggested;
	struct conn *c = s->conn;
	size_t size = c ? LOOP_READ_BUFFER : 0;
	char *room = c && c->ssl ? loop_cipher_buffer(c->loop) : c ? conn_room(c, &size) : NULL;
	*ret_buf = uv_buf_init(room, (unsigned)size);
}

static void socket_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer)
{
	struct conn_socket *s = stream->data;
	struct conn *c = s->conn;
	if (!c || count == 0)
		return;
	if (count > 0) {
		struct str data = {buffer->base, (size_t)count};
		if (c->ssl)
			conn_tls_feed(c, data);
		else
			c->events->on_data(c->arg, data);
		return;
	}
	uv_read_stop(stream);
	if (count != UV_EOF)
		conn_fail(c, E_PEER, "the connection broke: %s", uv_strerror((int)count));
	else if (c->ssl)
		conn_tls_eof(c);
	conn_tell_end(c);
}

void conn_read_start(struct conn *c)
{
	if (c->socket && !c->paused && !c->ended)
		uv_read_start((uv_stream_t *)&c->socket->tcp, socket_alloc, socket_read);
}

static void address_text(struct conn *c)
{
	struct sockaddr_storage name;
	int len = sizeof(name);
	if (uv_tcp_getpeername(&c->socket->tcp, (struct sockaddr *)&name, &len) != 0)
		return;
	if (name.ss_family == AF_INET) {
		inet_ntop(AF_INET, &((struct sockaddr_in *)&name)->sin_addr, c->address, sizeof(c->address));
		return;
	}
	const struct in6_addr *six = &((struct sockaddr_in6 *)&name)->sin6_addr;
	if (IN6_IS_ADDR_V4MAPPED(six))
		inet_ntop(AF_INET, &six->s6_addr[12], c->address, sizeof(c->address));
	else
		inet_ntop(AF_INET6, six, c->address, sizeof(c->address));
}

struct conn *conn_accept(struct loop *loop, struct uv_stream_s *listener, const struct conn_options *options)
{
	struct conn *c = conn_new(loop, options);
	c->socket = conn_socket_new(loop, c);
	SSL *ssl = NULL;
	if (uv_accept(listener, (uv_stream_t *)&c->socket->tcp) != 0 ||
	    (options->tls && !(ssl = tls_session_new(options->tls, true, NULL)))) {
		conn_close(c);
		return NULL;
	}
	uv_tcp_nodelay(&c->socket->tcp, 1);
	address_text(c);
	if (ssl)
		conn_tls_begin(c, ssl);
	else
		c->open = true;
	conn_read_start(c);
	return c;
}

/* ---- writing ---- */

size_t conn_buffered(const struct conn *c)
{
	size_t size = c->out.len;
	if (c->ssl)
		size += c->cipher_out.len;
	if (c->socket)
		size += uv_stream_get_write_queue_size((const uv_stream_t *)&c->socket->tcp);
	if (c->peer)
		size += c->peer->inbox.len;
	return size;
}

static void buffer_trim(struct buf *b)
{
	if (b->cap > KEEP_MAX)
		buf_fini(b);
	else
		buf_clear(b);
}

static void socket_finish(struct conn *c);

static void writable(struct conn *c)
{
	size_t left = conn_buffered(c);
	if (left == 0 && c->file && !c->file_running)
		conn_file_go(c);
	if (!c->events)
		return;
	if (left == 0 && c->finishing)
		socket_finish(c);
	bool drained = c->finishing || c->want_drained;
	bool tell = c->want_writable && (drained ? left == 0 : left < LIMIT_WRITE_BUFFER / 2);
	if (!tell)
		return;
	c->want_writable = c->want_drained = false;
	c->events->on_writable(c->arg);
}

static void socket_wrote(uv_write_t *request, int status)
{
	struct conn_socket *s = request->data;
	s->writing = false;
	struct conn *c = s->conn;
	if (!c)
		return;
	buffer_trim(&s->sending);
	c->stall_at_us = 0;
	if (status < 0) {
		conn_fail(c, E_PEER, "the connection broke: %s", uv_strerror(status));
		return;
	}
	conn_flush(c);
	if (!c->error)
		writable(c);
}

void conn_stall_mark(struct conn *c)
{
	c->stall_mark = c->socket ? uv_stream_get_write_queue_size((uv_stream_t *)&c->socket->tcp) : 0;
	c->stall_at_us = c->stall_us > 0 ? loop_now_us(c->loop) + c->stall_us : 0;
	conn_arm(c);
}

/* Hands `sending`, but for what went out of it, to libuv, which calls back once the kernel has taken it all. */
static void socket_wait(struct conn *c, size_t skip)
{
	struct conn_socket *s = c->socket;
	uv_buf_t one = uv_buf_init(s->sending.base + skip, (unsigned)(s->sending.len - skip));
	s->write.data = s;
	s->writing = true;
	int rc = uv_write(&s->write, (uv_stream_t *)&s->tcp, &one, 1, socket_wrote);
	if (rc < 0) {
		s->writing = false;
		conn_fail(c, E_PEER, "the connection broke: %s", uv_strerror(rc));
		return;
	}
	conn_stall_mark(c);
}

/* What the kernel takes at once; -1: the connection broke. */
static ssize_t socket_try(struct conn *c, const uv_buf_t *bufs, unsigned count)
{
	int rc = uv_try_write((uv_stream_t *)&c->socket->tcp, bufs, count);
	if (rc >= 0 || rc == UV_EAGAIN)
		return rc < 0 ? 0 : rc;
	conn_fail(c, rc == UV_EPIPE || rc == UV_ECONNRESET ? E_PEER : E_IO, "the connection broke: %s",
	          uv_strerror(rc));
	return -1;
}

void conn_push_buf(struct conn *c, struct buf *b)
{
	struct conn_socket *s = c->socket;
	assert(!s->writing && !s->sending.len);
	uv_buf_t one = uv_buf_init(b->base, (unsigned)b->len);
	ssize_t done = b->len ? socket_try(c, &one, 1) : 0;
	if (done >= 0 && (size_t)done < b->len) {
		struct buf empty = s->sending;
		s->sending = *b;
		*b = empty;
		socket_wait(c, (size_t)done);
	}
	buffer_trim(b);
}

void conn_push(struct conn *c, const struct str *parts, size_t count)
{
	struct conn_socket *s = c->socket;
	uv_buf_t bufs[PARTS_MAX + 1];
	unsigned used = 0;
	assert(count <= PARTS_MAX + 1 && !s->writing);
	for (size_t i = 0; i < count; i++)
		if (parts[i].len)
			bufs[used++] = uv_buf_init((char *)parts[i].base, (unsigned)parts[i].len);
	if (!used)
		return;
	ssize_t rc = socket_try(c, bufs, used);
	if (rc < 0)
		return;
	size_t done = (size_t)rc;
	for (unsigned i = 0; i < used; i++) {
		size_t skip = done < bufs[i].len ? done : bufs[i].len;
		buf_append(&s->sending, bufs[i].base + skip, bufs[i].len - skip);
		done -= skip;
	}
	if (s->sending.len)
		socket_wait(c, 0);
}

static void memory_write(struct conn *c, const struct str *parts, size_t count)
{
	if (!c->peer)
		return;
	for (size_t i = 0; i < count; i++)
		buf_append_str(&c->peer->inbox, parts[i]);
	loop_task_add(c->peer->loop, &c->peer->pump_task);
}

void conn_rest(struct conn *c)
{
	if (c->out.len == 0)
		buf_fini(&c->out);
	if (c->cipher_out.len == 0)
		buf_fini(&c->cipher_out);
	if (c->socket && !c->socket->writing)
		buf_fini(&c->socket->sending);
}

void conn_want_drained(struct conn *c)
{
	c->want_writable = c->want_drained = true;
}

static bool conn_busy(const struct conn *c)
{
	return !c->open || (c->socket && c->socket->writing) || c->file_running;
}

void conn_write(struct conn *c, const struct str *parts, size_t count)
{
	assert(count <= PARTS_MAX);
	if (c->error || !c->events)
		return;
	size_t size = 0;
	for (size_t i = 0; i < count; i++)
		size += parts[i].len;
	if (!conn_busy(c) && size >= CORK_MAX && !c->memory) {
		struct str all[PARTS_MAX + 1] = {buf_str(&c->out)};
		memcpy(all + 1, parts, count * sizeof(*parts));
		if (c->ssl) {
			for (size_t i = 0; i <= count; i++)
				conn_tls_encrypt(c, all[i]);
			conn_tls_push(c);
		} else {
			conn_push(c, all, count + 1);
		}
		buffer_trim(&c->out);
	} else {
		if (!c->out.base)
			buf_reserve(&c->out, FIRST_OUT); /* a small answer is many small writes */
		for (size_t i = 0; i < count; i++)
			buf_append_str(&c->out, parts[i]);
		if (c->out.len >= CORK_MAX)
			conn_flush(c);
		else
			loop_task_add(c->loop, &c->flush_task);
	}
	if (conn_buffered(c) >= LIMIT_WRITE_BUFFER)
		c->want_writable = true;
}

void conn_flush(struct conn *c)
{
	loop_task_cancel(&c->flush_task);
	if (c->error || !c->events || conn_busy(c))
		return;
	struct str all = buf_str(&c->out);
	if (c->memory) {
		memory_write(c, &all, 1);
	} else if (c->ssl) {
		conn_tls_encrypt(c, all);
		conn_tls_push(c);
	} else {
		conn_push(c, &all, 1);
	}
	buffer_trim(&c->out);
	if (c->finishing && conn_buffered(c) == 0)
		socket_finish(c);
}

static void socket_shut(uv_shutdown_t *request, int status)
{
	(void)request;
	(void)status;
}

static void socket_finish(struct conn *c)
{
	if (c->memory && c->peer) {
		c->peer->peer_done = true;
		loop_task_add(c->peer->loop, &c->peer->pump_task);
		return;
	}
	struct conn_socket *s = c->socket;
	if (!s || s->shut || c->error)
		return;
	s->shut = true;
	if (c->ssl) {
		SSL_shutdown(c->ssl);
		conn_tls_push(c);
	}
	if (!c->error)
		uv_shutdown(&s->shutdown, (uv_stream_t *)&s->tcp, socket_shut);
}

void conn_finish(struct conn *c)
{
	c->finishing = true;
	c->want_writable = true;
	conn_flush(c);
	if (!c->error && conn_buffered(c) == 0)
		loop_task_add(c->loop, &c->pump_task); /* tells that all is out */
}

/* ---- reading ---- */

void conn_pause(struct conn *c)
{
	if (c->paused)
		return;
	c->paused = true;
	if (c->socket && c->open)
		uv_read_stop((uv_stream_t *)&c->socket->tcp);
}

void conn_resume(struct conn *c)
{
	if (!c->paused)
		return;
	c->paused = false;
	if (c->ended)
		return;
	if (c->open)
		conn_read_start(c);
	if (c->ssl || c->memory)
		loop_task_add(c->loop, &c->pump_task);
}

static void memory_pump(struct conn *c)
{
	while (c->inbox.len && !c->paused && c->events) {
		struct buf now = c->inbox;
		c->inbox = (struct buf){0};
		c->events->on_data(c->arg, buf_str(&now));
		buf_fini(&now);
	}
	struct conn *peer = c->peer;
	if (c->events && peer && peer->want_writable && c->inbox.len == 0)
		loop_task_add(peer->loop, &peer->pump_task);
	if (c->events && c->peer_done && c->inbox.len == 0 && !c->paused)
		conn_tell_end(c);
}

static void conn_pump_task(void *arg)
{
	struct conn *c = arg;
	if (c->memory)
		memory_pump(c);
	else if (c->ssl)
		conn_tls_pump(c);
	if (!c->events)
		return;
	if (c->error && c->ended && c->finishing)
		c->events->on_writable(c->arg); /* broke while the rest went out: nothing left to wait for */
	else if (!c->error)
		writable(c);
}

void conn_pair(struct loop *loop, const struct conn_options *a, const struct conn_options *b, struct conn **ret_a,
               struct conn **ret_b)
{
	struct conn *one = conn_new(loop, a), *two = conn_new(loop, b);
	one->memory = two->memory = one->open = two->open = true;
	one->peer = two;
	two->peer = one;
	*ret_a = one;
	*ret_b = two;
}

/* ---- deadlines ---- */

static void conn_timer(void *arg)
{
	struct conn *c = arg;
	c->timer_due_us = 0;
	int64_t now = loop_now_us(c->loop);
	if (c->deadline_us && now >= c->deadline_us) {
		c->deadline_us = 0;
		c->events->on_deadline(c->arg);
		if (!c->events)
			return;
	}
	if (c->stall_at_us && now >= c->stall_at_us) {
		size_t left = c->socket ? uv_stream_get_write_queue_size((uv_stream_t *)&c->socket->tcp) : 0;
		if (c->stall_mark - left <= (size_t)(c->stall_us / US_PER_S) * LIMIT_WRITE_RATE) {
			c->stall_at_us = 0;
			conn_fail(c, E_TIMEOUT, "the peer took next to no data for %lld s",
			          (long long)(c->stall_us / US_PER_S));
			return;
		}
		conn_stall_mark(c);
	}
	conn_arm(c);
}

void conn_arm(struct conn *c)
{
	int64_t next = c->deadline_us;
	if (c->stall_at_us && (!next || c->stall_at_us < next))
		next = c->stall_at_us;
	if (!next || (c->timer_due_us && c->timer_due_us <= next))
		return;
	if (!c->timer)
		c->timer = loop_timer_new(c->loop, conn_timer, c);
	c->timer_due_us = next;
	loop_timer_start(c->timer, next - loop_now_us(c->loop), 0);
}

void conn_deadline(struct conn *c, int64_t at_us)
{
	c->deadline_us = at_us;
	if (at_us)
		conn_arm(c);
}

bool conn_is_open(const struct conn *c)
{
	return c->open;
}
const char *conn_identity(const struct conn *c)
{
	return c->identity ? c->identity : "";
}
const char *conn_server_name(const struct conn *c)
{
	return c->ssl ? SSL_get_servername(c->ssl, TLSEXT_NAMETYPE_host_name) : NULL;
}
int64_t conn_rtt_us(const struct conn *c)
{
	uv_os_fd_t fd;
	return c->socket && uv_fileno((const uv_handle_t *)&c->socket->tcp, &fd) == 0 ? conn_fd_rtt_us(fd) : 0;
}
const char *conn_address(const struct conn *c)
{
	return c->address;
}
bool conn_can_send_file(const struct conn *c)
{
	return c->socket && !c->ssl;
}
