/* SPDX-License-Identifier: Apache-2.0 */
/* http_server.c - listening, and the life of one connection between requests.
 *
 * session_feed is the only place that moves bytes: head, then body, then (after the exchange is released) the
 * next head. Bytes are used where the socket's read left them and copied to `rest` only when they must wait.
 * Reading goes on while a response is being made, so that a client that leaves is noticed.
 */
#include "net/http_server_internal.h"

#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <uv.h>

static void session_feed(struct session *s, struct str in, bool from_rest);

/* ---- sessions ---- */

static void session_free_task(void *arg)
{
	struct session *s = arg;
	buf_fini(&s->rest);
	free(s);
}

static void session_feed_task(void *arg)
{
	struct session *s = arg;
	session_feed(s, buf_str(&s->rest), true);
}

struct session *session_new(struct http_server *server)
{
	struct session *s = NEW(struct session);
	s->server = server;
	loop_task_init(&s->feed_task, session_feed_task, s);
	loop_task_init(&s->free_task, session_free_task, s);
	s->prev = server->sessions.prev;
	s->next = &server->sessions;
	s->prev->next = s->next->prev = s;
	server->session_count++;
	return s;
}

void session_begin(struct session *s, struct conn *conn)
{
	s->conn = conn;
	conn_deadline(conn, loop_now_us(s->server->loop) + s->server->head_us); /* the TLS handshake, too */
}

static void session_drop(struct session *s)
{
	s->prev->next = s->next;
	s->next->prev = s->prev;
	s->server->session_count--;
	s->server->ahead -= s->counted;
	s->server->unread -= s->unread;
	s->counted = s->unread = 0;
	loop_task_cancel(&s->feed_task);
	loop_task_add(s->server->loop, &s->free_task);
}

void session_close(struct session *s, bool reset)
{
	if (!s->conn)
		return;
	struct conn *conn = s->conn;
	s->conn = NULL;
	if (s->x) {
		struct error err;
		error_set(&err, E_CANCELED, "the connection was closed");
		exchange_lost(s->x, &err);
	}
	s->x = NULL;
	if (reset)
		conn_close_reset(conn);
	else
		conn_close(conn);
	session_drop(s);
}

/* Our last words go out, the client may read them; then the connection closes. Closing at once, with bytes of
 * the client unread, would make the kernel reset it and our words could be lost. */
void session_linger(struct session *s)
{
	s->lingering = true;
	buf_clear(&s->rest);
	conn_resume(s->conn);
	conn_finish(s->conn);
	conn_deadline(s->conn, loop_now_us(s->server->loop) + HTTP_LINGER_US);
}

static void session_refuse(struct session *s, int status, const struct error *err)
{
	struct buf out = {0};
	server_refusal(s->server, status, err, &out);
	struct str part = buf_str(&out);
	conn_write(s->conn, &part, 1);
	buf_fini(&out);
	session_linger(s);
}

/* ---- what readers leave unread ---- */

void session_count_unread(struct session *s)
{
	struct http_server *server = s->server;
	size_t now = conn_buffered(s->conn);
	server->unread += now - s->unread;
	s->unread = now;
	if (server->unread > server->options.unread_max)
		loop_task_add(server->loop, &server->relief_task);
}

/* Who leaves most unread goes first, until an eighth is free again: looking at all of them must not come often. */
static void server_relieve(void *arg)
{
	struct http_server *server = arg;
	size_t most = 0, count = 0, enough = server->options.unread_max / 8 * 7;
	for (struct session *s = server->sessions.next; s != &server->sessions; s = s->next) {
		session_count_unread(s);
		most = s->unread > most ? s->unread : most;
	}
	loop_task_cancel(&server->relief_task);
	if (server->unread <= server->options.unread_max)
		return;
	for (struct session *s = server->sessions.next, *next; s != &server->sessions; s = next) {
		next = s->next;
		if (server->unread <= enough)
			break;
		if (s->unread <= most / 2)
			continue;
		session_close(s, true);
		count++;
	}
	log_warn(server->options.room, "%zu slow readers were cut: together they left over %zu MiB unread", count,
	         server->options.unread_max >> 20);
	if (server->unread > server->options.unread_max)
		loop_task_add(server->loop, &server->relief_task);
}

void session_feed_soon(struct session *s)
{
	if (s->conn)
		loop_task_add(s->server->loop, &s->feed_task);
}

void session_next(struct session *s)
{
	struct http_server *server = s->server;
	s->x = NULL;
	s->head_timed = s->blank_skipped = false;
	s->scanned = 0;
	if (server->draining && s->rest.len == 0) {
		session_linger(s);
		return;
	}
	conn_deadline(s->conn, loop_now_us(server->loop) + server->idle_us);
	conn_rest(s->conn); /* most connections are idle most of the time */
	conn_resume(s->conn);
	if (s->rest.len)
		session_feed_soon(s);
}

/* ---- bytes ---- */

/* What cannot be the start of a request is refused before its end is awaited. */
static bool first_byte_valid(struct session *s, char c)
{
	struct error err;
	if (c >= 'A' && c <= 'Z')
		return true;
	if (c == 0x16)
		error_set(&err, E_INVAL, "this port speaks plain HTTP, not TLS: use http://");
	else
		error_set(&err, E_INVAL, "the message is not strict HTTP/1.1: no method");
	session_refuse(s, 400, &err);
	return false;
}

static void session_dispatch(struct session *s, struct http_exchange *x, struct str head)
{
	struct error err;
	struct str expect;
	int rc = http_message_head(&x->message, arena_copy(&x->arena, head), &err);
	if (rc == 0)
		rc = http_request_check(&x->message, &x->path, &x->query, &err);
	if (rc == 0 && http_message_header(&x->message, "expect", &expect)) {
		x->expects_continue = str_equal_nocase(expect, STR("100-continue")) && x->message.has_body;
		if (!str_equal_nocase(expect, STR("100-continue"))) {
			rc = error_set(&err, E_INVAL, "only \"Expect: 100-continue\" can be met");
			x->message.refuse_status = 417;
		}
	}
	if (rc != 0) {
		session_refuse(s, x->message.refuse_status, &err);
		x->aborted = x->ended = true; /* never seen by a handler */
		loop_task_add(x->loop, &x->settle_task);
		return;
	}
	x->is_head = str_equal(x->message.method, STR("HEAD"));
	x->identity = arena_copy(&x->arena, str_from(conn_identity(s->conn)));
	x->address = arena_copy(&x->arena, str_from(conn_address(s->conn)));
	conn_deadline(s->conn, 0);
	s->server->options.handler(s->server->options.handler_arg, x);
}

/* Bytes taken from `in`; 0: no whole head yet, or refused. */
static size_t feed_head(struct session *s, struct str in)
{
	struct error err;
	int status = 400;
	size_t blank = 0;
	if (!s->blank_skipped && in.len >= 2 && memcmp(in.base, "\r\n", 2) == 0) {
		s->blank_skipped = true; /* RFC 9112 section 2.2: one empty line before a request is forgiven */
		return 2;
	}
	if (in.len == 1 && in.base[0] == '\r' && !s->blank_skipped)
		return blank;
	if (s->scanned == 0 && !first_byte_valid(s, in.base[0]))
		return 0;
	int64_t len = http_head_find(in, &s->scanned, true, &status, &err);
	if (len < 0) {
		session_refuse(s, status, &err);
		return 0;
	}
	if (len > 0) {
		s->x = exchange_new(s);
		session_dispatch(s, s->x, (struct str){in.base, (size_t)len});
		return (size_t)len;
	}
	if (!s->head_timed)
		conn_deadline(s->conn, loop_now_us(s->server->loop) + s->server->head_us);
	s->head_timed = true;
	return 0;
}

/* Until when more must come. One that is collected takes memory all the while: a byte now and then is not enough. */
static int64_t body_deadline(struct http_server *server, struct http_exchange *x)
{
	int64_t now = loop_now_us(server->loop), next = now + server->stall_us;
	if (x->reader != READER_COLLECT)
		return next;
	if (!x->body_from_us)
		x->body_from_us = now;
	int64_t last = x->body_from_us + server->stall_us + (int64_t)x->body_got * US_PER_S / LIMIT_HTTP_BODY_RATE;
	return last < next ? last : next;
}

static size_t feed_body(struct session *s, struct str in)
{
	struct http_exchange *x = s->x;
	struct error err;
	int64_t used = http_message_body(&x->message, in, &err);
	if (!s->conn)
		return 0;
	if (used < 0) {
		x->close = true;
		if (x->ended) {
			x->message.complete = true; /* its drain is over: the connection closes */
			return in.len;
		}
		exchange_body_fail(x, E_INVAL, err.text);
		return 0;
	}
	conn_deadline(s->conn, x->message.complete || x->body_paused ? 0 : body_deadline(s->server, x));
	return (size_t)used;
}

/* One step; 0: nothing more can be done with these bytes now. */
static size_t feed_step(struct session *s, struct str in)
{
	if (!s->x) {
		bool full =
		    conn_buffered(s->conn) >= LIMIT_WRITE_BUFFER; /* earlier answers are unread; on_writable comes */
		return in.len && !full ? feed_head(s, in) : 0;
	}
	if (!exchange_wants_body(s->x))
		return 0;
	return feed_body(s, in);
}

/* Something about the body to say or do once the bytes at hand are used up. */
static void feed_settle(struct session *s)
{
	struct http_exchange *x = s->x;
	if (!x)
		return;
	if (x->reader != READER_NONE && !x->body_told &&
	    (x->message.complete || !x->message.has_body || x->body_error.code))
		exchange_body_end(x);
	else if (x->ended && x->draining && (x->message.complete || x->drained > HTTP_DRAIN_MAX))
		loop_task_add(x->loop, &x->settle_task);
}

/* Each session's `rest` is bounded, but many together are not. False: it was refused, so that the others can go on. */
static bool session_count_rest(struct session *s)
{
	struct http_server *server = s->server;
	struct error err;
	server->ahead += s->rest.cap - s->counted;
	s->counted = s->rest.cap;
	if (s->x || !s->rest.len || server->ahead <= server->options.ahead_max)
		return true;
	error_set(&err, E_UNAVAILABLE, "this node holds as many unfinished requests as it can; try again in a moment");
	session_refuse(s, 503, &err);
	return false;
}

static void session_feed(struct session *s, struct str in, bool from_rest)
{
	size_t at = 0;
	s->feeding = true;
	while (s->conn && !s->lingering) {
		size_t used = feed_step(s, (struct str){in.base + at, in.len - at});
		at += used;
		if (used == 0)
			break;
	}
	if (s->conn)
		feed_settle(s);
	s->feeding = false;
	if (!s->conn)
		return;
	if (s->lingering) {
		buf_fini(&s->rest);
		session_count_rest(s);
		return;
	}
	if (from_rest)
		buf_consume(&s->rest, at);
	else
		buf_append(&s->rest, in.base + at, in.len - at);
	if (s->rest.len == 0)
		buf_fini(&s->rest);
	if (!session_count_rest(s))
		return;
	bool waits = s->x && (s->x->body_paused || s->rest.len >= HTTP_REST_MAX);
	if (waits || (!s->x && s->rest.len >= HTTP_REST_MAX))
		conn_pause(s->conn);
	else
		conn_resume(s->conn);
}

/* ---- the connection's events ---- */

static void session_data(void *arg, struct str data)
{
	struct session *s = arg;
	if (s->lingering)
		return;
	if (s->rest.len == 0) {
		session_feed(s, data, false);
		return;
	}
	buf_append_str(&s->rest, data);
	session_feed(s, buf_str(&s->rest), true);
}

static void session_ended(void *arg, const struct error *err)
{
	struct session *s = arg;
	bool answered = !s->x || s->x->ended;
	if (!err && answered && conn_buffered(s->conn) > 0) {
		s->lingering = s->eof = true; /* the client closed its half; it may still read what is on its way */
		conn_finish(s->conn);
		conn_deadline(s->conn, loop_now_us(s->server->loop) + HTTP_LINGER_US);
		return;
	}
	if (s->x) {
		struct error gone;
		error_set(&gone, E_CANCELED, "the client left%s%s", err ? ": " : "", err ? err->text : "");
		exchange_lost(s->x, &gone);
		s->x = NULL;
	}
	session_close(s, false);
}

static void session_writable(void *arg)
{
	struct session *s = arg;
	if (s->lingering) {
		if (s->eof)
			session_close(s, false);
		else if (conn_buffered(s->conn) == 0)
			conn_deadline(s->conn, loop_now_us(s->server->loop) + HTTP_LINGER_US);
		return;
	}
	struct http_exchange *x = s->x;
	if (!x || x->ended)
		session_feed_soon(s);
	else if (x->file)
		http_file_writable(x);
	else if (x->on_writable)
		x->on_writable(x->watch_arg);
}

static void session_deadline(void *arg)
{
	struct session *s = arg;
	struct error err;
	if ((!s->x || s->x->ended) && conn_buffered(s->conn) > 0) {
		/* The client still reads our answer; when it no longer does, the connection itself ends. */
		conn_deadline(s->conn, loop_now_us(s->server->loop) + HTTP_LINGER_US);
	} else if (s->x && !s->x->ended) {
		s->x->stalled = s->x->close = true;
		exchange_body_fail(s->x, E_TIMEOUT, "the client stopped sending its request body");
		feed_settle(s);
	} else if (s->head_timed && !s->x && !s->lingering) {
		error_set(&err, E_TIMEOUT, "the request head was not complete in time");
		session_refuse(s, 408, &err);
	} else {
		session_close(s, false);
	}
}

static void session_open(void *arg)
{
	struct session *s = arg;
	conn_rest(s->conn); /* what the handshake took */
}

const struct conn_events session_events = {
    .on_open = session_open,
    .on_data = session_data,
    .on_end = session_ended,
    .on_writable = session_writable,
    .on_deadline = session_deadline,
};

/* ---- listening ---- */

static void server_refuse_connection(struct http_server *server, uv_stream_t *listener)
{
	struct conn_options options = {.events = &session_events, .stall_us = server->idle_us};
	struct session *s = session_new(server);
	options.arg = s;
	struct conn *conn = conn_accept(server->loop, listener, &options);
	if (!conn) {
		session_drop(s);
		return;
	}
	session_begin(s, conn);
	struct error err;
	error_set(&err, E_UNAVAILABLE, "too many connections; try again later");
	if (server->options.tls || server->session_count > server->options.conns_max + 64)
		session_close(s, false);
	else
		session_refuse(s, 503, &err);
}

static void server_connection(uv_stream_t *listener, int status)
{
	struct http_server *server = listener->data;
	if (status < 0) {
		log_warn(server->options.room, "accepting a connection failed: %s", uv_strerror(status));
		return;
	}
	if (server->session_count >= server->options.conns_max) {
		server_refuse_connection(server, listener);
		return;
	}
	struct session *s = session_new(server);
	struct conn_options options = {
	    .tls = server->options.tls, .stall_us = server->idle_us, .events = &session_events, .arg = s};
	struct conn *conn = conn_accept(server->loop, listener, &options);
	if (conn)
		session_begin(s, conn);
	else
		session_drop(s);
}

static int address_parse(struct str text, struct sockaddr_storage *ret_address, struct error *err)
{
	char host[64];
	uint64_t port = 0;
	struct str name = text, digits = {0};
	size_t colon = text.len;
	while (colon > 0 && text.base[colon - 1] != ':')
		colon--;
	if (colon > 0) {
		name.len = colon - 1;
		digits = (struct str){text.base + colon, text.len - colon};
	}
	bool six = name.len >= 2 && name.base[0] == '[' && name.base[name.len - 1] == ']';
	if (six)
		name = (struct str){name.base + 1, name.len - 2};
	else if (str_equal(name, STR("localhost")))
		name = STR("127.0.0.1");
	bool fine = colon > 0 && digits.len > 0 && str_to_u64(digits, &port) == 0 && port <= 65535 &&
	            str_copy(name, host, sizeof(host));
	if (fine && six)
		fine = uv_ip6_addr(host, (int)port, (struct sockaddr_in6 *)ret_address) == 0;
	else if (fine)
		fine = uv_ip4_addr(host, (int)port, (struct sockaddr_in *)ret_address) == 0;
	if (fine)
		return 0;
	return error_set(err, E_INVAL,
	                 "\"" STR_FMT "\" is no address to listen on; write it like 127.0.0.1:8080 or [::1]:8080",
	                 STR_ARG(text));
}

static int listen_error(int rc, struct str address, struct error *err)
{
	switch (rc) {
	case UV_EADDRINUSE:
		return error_set(err, E_CONFLICT,
		                 STR_FMT " is in use by another program; stop it or choose another port",
		                 STR_ARG(address));
	case UV_EACCES:
		return error_set(err, E_FORBIDDEN,
		                 "listening on " STR_FMT
		                 " is not permitted; choose a port above 1023, or give the program "
		                 "CAP_NET_BIND_SERVICE",
		                 STR_ARG(address));
	case UV_EADDRNOTAVAIL:
		return error_set(err, E_NOTFOUND, "no network interface of this machine has the address " STR_FMT,
		                 STR_ARG(address));
	default:
		return error_set(err, E_IO, "listening on " STR_FMT " failed: %s", STR_ARG(address), uv_strerror(rc));
	}
}

static void address_format(const struct sockaddr_storage *name, char *to, size_t size)
{
	char host[INET6_ADDRSTRLEN] = "?";
	bool six = name->ss_family == AF_INET6;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)name;
	const struct sockaddr_in *in4 = (const struct sockaddr_in *)name;
	inet_ntop(name->ss_family, six ? (const void *)&in6->sin6_addr : (const void *)&in4->sin_addr, host,
	          sizeof(host));
	snprintf(to, size, six ? "[%s]:%u" : "%s:%u", host, ntohs(six ? in6->sin6_port : in4->sin_port));
}

static int server_listen(struct http_server *server, const struct http_server_options *options, struct error *err)
{
	struct sockaddr_storage name = {0};
	int rc, len = sizeof(name);
	bool inherited = options->inherited_fd >= 0;
	if (!inherited && (rc = address_parse(options->address, &name, err)) != 0)
		return rc;
	server->listener = NEW(uv_tcp_t);
	uv_tcp_init(loop_uv(server->loop), server->listener);
	server->listener->data = server;
	rc = inherited ? uv_tcp_open(server->listener, options->inherited_fd)
	               : uv_tcp_bind(server->listener, (struct sockaddr *)&name, 0);
	if (rc == 0)
		rc = uv_listen((uv_stream_t *)server->listener, 1024, server_connection);
	if (rc == 0)
		rc = uv_tcp_getsockname(server->listener, (struct sockaddr *)&name, &len);
	if (rc != 0)
		return listen_error(rc, inherited ? STR("the inherited socket") : options->address, err);
	address_format(&name, server->address, sizeof(server->address));
	return 0;
}

/* ---- the server ---- */

/* However many clients come, a quarter of the files that the system grants is left for everything else. */
static size_t conns_most(void)
{
	struct rlimit files;
	if (getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur >= LIMIT_CONNS * (rlim_t)4 / 3)
		return LIMIT_CONNS;
	return (size_t)(files.rlim_cur - files.rlim_cur / 4);
}

struct http_server *http_server_bare(struct loop *loop, const struct http_server_options *options)
{
	struct http_server *server = NEW(struct http_server);
	server->loop = loop;
	server->options = *options;
	server->options.address = (struct str){0};
	if (!server->options.conns_max)
		server->options.conns_max = conns_most();
	if (!server->options.bodies_max)
		server->options.bodies_max = LIMIT_BODIES;
	if (!server->options.ahead_max)
		server->options.ahead_max = LIMIT_HTTP_AHEAD;
	if (!server->options.unread_max)
		server->options.unread_max = LIMIT_HTTP_UNREAD;
	loop_task_init(&server->relief_task, server_relieve, server);
	if (!server->options.room)
		server->options.room = "net";
	server->head_us = options->head_timeout_us ? options->head_timeout_us : LIMIT_HTTP_HEAD_MS * US_PER_MS;
	server->idle_us = options->idle_us ? options->idle_us : LIMIT_HTTP_IDLE_MS * US_PER_MS;
	server->stall_us = options->stall_timeout_us ? options->stall_timeout_us : LIMIT_HTTP_BODY_STALL_MS * US_PER_MS;
	server->sessions.next = server->sessions.prev = &server->sessions;
	return server;
}

struct http_server *http_server_inside(struct loop *loop, const struct http_server_options *options)
{
	struct http_server *server = http_server_bare(loop, options);

	server->options.tls = NULL;
	return server;
}

struct conn *server_connect(struct http_server *server, const struct conn_options *options)
{
	struct session *s = session_new(server);
	const struct conn_options own = {.events = &session_events, .arg = s};
	struct conn *ours, *theirs;

	conn_pair(server->loop, &own, options, &ours, &theirs);
	session_begin(s, ours);
	return theirs;
}

int http_server_new(struct loop *loop, const struct http_server_options *options, struct http_server **ret_server,
                    struct error *err)
{
	struct http_server *server = http_server_bare(loop, options);
	int rc = server_listen(server, options, err);
	if (rc != 0) {
		http_server_free(server);
		return rc;
	}
	*ret_server = server;
	return 0;
}

static void listener_closed(uv_handle_t *handle)
{
	free(handle);
}

static void server_stop_listening(struct http_server *server)
{
	if (server->listener)
		uv_close((uv_handle_t *)server->listener, listener_closed);
	server->listener = NULL;
}

void http_server_refuse_new(struct http_server *server)
{
	server->draining = true;
	server_stop_listening(server);
}

void http_server_drain(struct http_server *server)
{
	http_server_refuse_new(server);
	for (struct session *s = server->sessions.next, *next; s != &server->sessions; s = next) {
		next = s->next;
		if (!s->x && s->rest.len == 0 && !s->lingering)
			session_linger(s); /* an answer may still be on its way */
	}
}

void http_server_free(struct http_server *server)
{
	if (!server)
		return;
	server_stop_listening(server);
	loop_task_cancel(&server->relief_task);
	while (server->sessions.next != &server->sessions)
		session_close(server->sessions.next, false);
	while (server->exchanges) {
		struct http_exchange *x = server->exchanges;
		exchange_settle(x);
		if (server->exchanges != x)
			continue;
		/* Its owner still holds it and will answer some day: it lives on alone until then. */
		server->exchanges = x->next;
		if (x->next)
			x->next->prev = NULL;
		x->prev = x->next = NULL;
		x->server = NULL;
	}
	exchange_forget_spares(server);
	buf_fini(&server->scratch);
	free(server);
}

struct str http_server_address(const struct http_server *server)
{
	return str_from(server->address);
}

size_t http_server_exchanges(const struct http_server *server)
{
	return server->exchange_count;
}

size_t http_server_cut(struct http_server *server, struct str identity)
{
	size_t count = 0;
	for (struct session *s = server->sessions.next, *next; identity.len && s != &server->sessions; s = next) {
		next = s->next;
		if (!str_equal(str_from(conn_identity(s->conn)), identity))
			continue;
		session_close(s, true);
		count++;
	}
	return count;
}

const char *server_date(struct http_server *server)
{
	time_t now = (time_t)(clock_wall_us() / US_PER_S);
	if (now != server->date_s) {
		struct tm tm;
		gmtime_r(&now, &tm);
		strftime(server->date, sizeof(server->date), "%a, %d %b %Y %H:%M:%S GMT", &tm);
		server->date_s = now;
	}
	return server->date;
}
