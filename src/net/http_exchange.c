/* SPDX-License-Identifier: Apache-2.0 */
/* http_exchange.c - the request side of an exchange, its body, and how an exchange ends.
 *
 * exchange_settle is where every exchange ends, on a turn of its own: it tells the body's reader and the
 * watcher what they still have to know, then gives the memory back and lets the session go on.
 */
#include "net/http_server_internal.h"
#include "net/http_wire.h"

#include <assert.h>
#include <stdlib.h>

#define SPARES_MAX 64

/* ---- life ---- */

struct http_exchange *exchange_new(struct session *s)
{
	struct http_server *server = s->server;
	struct http_exchange *x = server->spare;
	if (x) {
		server->spare = x->next;
		server->spare_count--;
	} else {
		x = mem_resize(NULL, HTTP_EXCHANGE_BYTES, 1);
	}
	memset(x, 0, sizeof(*x));
	arena_init(&x->arena, x->first, HTTP_EXCHANGE_BYTES - sizeof(*x));
	http_message_init(&x->message, true, &x->arena);
	x->message.on_body = exchange_body_data;
	x->message.arg = x;
	x->server = server;
	x->session = s;
	x->loop = server->loop;
	loop_task_init(&x->settle_task, exchange_settle, x);
	x->next = server->exchanges;
	if (x->next)
		x->next->prev = x;
	server->exchanges = x;
	server->exchange_count++;
	return x;
}

static void exchange_free(struct http_exchange *x)
{
	struct http_server *server = x->server;
	loop_task_cancel(&x->settle_task);
	if (server)
		server->bodies -= x->body_counted;
	buf_fini(&x->body);
	buf_fini(&x->extra);
	arena_fini(&x->arena);
	if (!server) {
		free(x);
		return;
	}
	if (x->prev)
		x->prev->next = x->next;
	else
		server->exchanges = x->next;
	if (x->next)
		x->next->prev = x->prev;
	server->exchange_count--;
	if (server->spare_count == SPARES_MAX) {
		free(x);
		return;
	}
	x->next = server->spare;
	server->spare = x;
	server->spare_count++;
}

void exchange_forget_spares(struct http_server *server)
{
	while (server->spare) {
		struct http_exchange *x = server->spare;
		server->spare = x->next;
		free(x);
	}
}

void exchange_lost(struct http_exchange *x, const struct error *why)
{
	x->session = NULL;
	if (!x->message.complete && x->message.has_body && !x->body_error.code)
		x->body_error = *why;
	http_file_detach(x);
	loop_task_add(x->loop, &x->settle_task);
}

static void exchange_release(struct http_exchange *x)
{
	struct session *s = x->session;
	bool close = x->close;
	exchange_free(x);
	if (!s)
		return;
	s->x = NULL;
	if (s->lingering)
		return;
	if (close)
		session_linger(s);
	else
		session_next(s);
}

void exchange_settle(void *arg)
{
	struct http_exchange *x = arg;
	loop_task_cancel(&x->settle_task);
	if (!x->session && !x->ended && x->reader != READER_NONE && !x->body_told)
		exchange_body_end(x);
	bool over = x->ended || (!x->session && x->on_gone);
	if (!over)
		return; /* goes on, or its owner holds it without asking to be told */
	x->ended = true;
	if (!x->gone_told) {
		x->gone_told = true;
		if (x->on_gone)
			x->on_gone(x->watch_arg);
	}
	bool drains = x->session && !x->session->lingering && x->draining && !x->close && !x->message.complete;
	if (drains && x->drained <= HTTP_DRAIN_MAX) {
		session_feed_soon(x->session); /* and settles again when the rest of the body has come */
		return;
	}
	if (drains)
		x->close = true;
	exchange_release(x);
}

void http_watch(struct http_exchange *x, loop_fn *on_writable, loop_fn *on_gone, void *arg)
{
	x->on_writable = on_writable;
	x->on_gone = on_gone;
	x->watch_arg = arg;
	if (!x->session)
		loop_task_add(x->loop, &x->settle_task);
}

/* ---- the request ---- */

struct str http_method(const struct http_exchange *x)
{
	return x->message.method;
}
struct str http_target(const struct http_exchange *x)
{
	return x->message.target;
}
struct str http_path(const struct http_exchange *x)
{
	return x->path;
}
void http_background(struct http_exchange *x, uint64_t most_bytes_per_s)
{
	if (x->session && x->session->conn)
		conn_background(x->session->conn, most_bytes_per_s);
}
void http_mark(struct http_exchange *x, uint8_t dscp)
{
	if (x->session && x->session->conn)
		conn_mark(x->session->conn, dscp);
}
struct str http_server_name(const struct http_exchange *x)
{
	return str_from(x->session && x->session->conn ? conn_server_name(x->session->conn) : NULL);
}
uint64_t http_connection(const struct http_exchange *x)
{
	return x->session ? (uint64_t)(uintptr_t)x->session : 0;
}
struct str http_peer_identity(const struct http_exchange *x)
{
	return x->identity;
}
struct str http_peer_address(const struct http_exchange *x)
{
	return x->address;
}
int64_t http_peer_rtt_us(const struct http_exchange *x)
{
	return x->session && x->session->conn ? conn_rtt_us(x->session->conn) : 0;
}
bool http_has_body(const struct http_exchange *x)
{
	return x->message.has_body;
}
int64_t http_content_length(const struct http_exchange *x)
{
	return x->message.content_length;
}
struct loop *http_loop(const struct http_exchange *x)
{
	return x->loop;
}
void *http_alloc(struct http_exchange *x, size_t size)
{
	return arena_alloc(&x->arena, size);
}

bool http_header(const struct http_exchange *x, const char *name, struct str *ret_value)
{
	return http_message_header(&x->message, name, ret_value);
}

size_t http_headers(const struct http_exchange *x, const struct http_header **ret_headers)
{
	*ret_headers = x->message.headers;
	return x->message.count;
}

/* Form encoding: "+" is a space; an escape that is none stays as it is. */
static struct str query_decode(struct http_exchange *x, struct str raw)
{
	char *to = arena_alloc(&x->arena, raw.len + 1);
	size_t len = 0;
	for (size_t i = 0; i < raw.len; i++) {
		uint8_t byte;
		if (raw.base[i] == '%' && i + 2 < raw.len &&
		    hex_decode((struct str){raw.base + i + 1, 2}, &byte, 1) == 0) {
			to[len++] = (char)byte;
			i += 2;
		} else {
			to[len++] = raw.base[i] == '+' ? ' ' : raw.base[i];
		}
	}
	return (struct str){to, len};
}

bool http_query(struct http_exchange *x, const char *name, struct str *ret_value)
{
	struct str rest = x->query, wanted = str_from(name);
	while (rest.len) {
		struct str value = {0}, pair = str_cut(rest, '&', &rest);
		struct str key = str_cut(pair, '=', &value);
		if (key.len < wanted.len || !str_equal(query_decode(x, key), wanted))
			continue;
		*ret_value = query_decode(x, value);
		return true;
	}
	return false;
}

/* ---- its body ---- */

bool exchange_wants_body(const struct http_exchange *x)
{
	if (!x->message.has_body || x->message.complete || x->body_paused || x->body_error.code)
		return false;
	return x->ended ? x->draining : x->reader != READER_NONE;
}

void exchange_body_fail(struct http_exchange *x, int code, const char *text)
{
	if (!x->body_error.code)
		error_set(&x->body_error, code, "%s", text);
}

static bool body_too_large(struct http_exchange *x)
{
	error_set(&x->body_error, E_LIMIT, "the request body is larger than %llu bytes",
	          (unsigned long long)x->body_max);
	return false;
}

/* Grows in steps of four, never past what was declared: few copies, and memory only for what really comes. */
static void collect(struct http_exchange *x, struct str data)
{
	size_t left = x->message.content_length > 0 ? (size_t)x->message.content_length - x->body.len : 0;
	if (x->body.len + data.len >= x->body.cap && left > data.len && left <= x->body_max)
		buf_reserve(&x->body, left < 4 * x->body.len ? left : data.len + 3 * x->body.len);
	buf_append_str(&x->body, data);
	if (x->server)
		x->server->bodies += x->body.cap - x->body_counted;
	x->body_counted = x->body.cap;
}

/* Each body is bounded, but many together are not: past the sum, who comes later waits for another time. */
static bool bodies_full(struct http_exchange *x, size_t more)
{
	if (!x->server || x->server->bodies + more <= x->server->options.bodies_max)
		return false;
	error_set(&x->body_error, E_UNAVAILABLE,
	          "this node holds as many request bodies as it can; try again in a moment");
	return true;
}

bool exchange_body_data(void *arg, struct str data)
{
	struct http_exchange *x = arg;
	if (x->ended) {
		x->drained += data.len;
		return x->drained <= HTTP_DRAIN_MAX;
	}
	x->body_got += data.len;
	if (x->body_got > x->body_max)
		return body_too_large(x);
	if (x->reader == READER_COLLECT) {
		if (bodies_full(x, data.len))
			return false;
		collect(x, data);
		return true;
	}
	bool more = x->on_data(x->body_arg, data);
	x->body_paused = !more && !x->ended;
	return more || x->ended;
}

void exchange_body_end(struct http_exchange *x)
{
	const struct error *err = x->body_error.code ? &x->body_error : NULL;
	x->body_told = true;
	if (x->ended)
		return;
	if (x->reader == READER_COLLECT)
		x->on_body(x->body_arg, x, err ? (struct str){0} : buf_str(&x->body), err);
	else
		x->on_done(x->body_arg, err);
}

static void body_begin(struct http_exchange *x, enum http_reader reader, uint64_t max_bytes, void *arg)
{
	assert(x->reader == READER_NONE && "a body is read once");
	x->reader = reader;
	x->body_max = max_bytes;
	x->body_arg = arg;
	if (x->message.content_length > 0 && (uint64_t)x->message.content_length > max_bytes && !x->body_error.code)
		body_too_large(x);
	struct session *s = x->session;
	if (!s) {
		loop_task_add(x->loop, &x->settle_task);
		return;
	}
	if (x->expects_continue && !x->body_error.code) {
		x->expects_continue = false;
		conn_write(s->conn, &STR("HTTP/1.1 100 Continue\r\n\r\n"), 1);
		conn_flush(s->conn);
	}
	if (!s->feeding)
		session_feed_soon(s);
}

void http_body_read(struct http_exchange *x, uint64_t max_bytes, http_on_data *on_data, http_on_done *on_done,
                    void *arg)
{
	x->on_data = on_data;
	x->on_done = on_done;
	body_begin(x, READER_DATA, max_bytes, arg);
}

void http_body_resume(struct http_exchange *x)
{
	if (!x->body_paused)
		return;
	x->body_paused = false;
	if (x->session)
		session_feed_soon(x->session);
}

void http_body_collect(struct http_exchange *x, size_t max_bytes, http_on_body *on_body, void *arg)
{
	x->on_body = on_body;
	body_begin(x, READER_COLLECT, max_bytes, arg);
	if (x->message.content_length > 0 && !x->body_error.code && x->message.content_length <= 65536)
		buf_reserve(&x->body, (size_t)x->message.content_length);
}
