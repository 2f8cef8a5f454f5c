/* SPDX-License-Identifier: Apache-2.0 */
/* http_call.c - one request and its response.
 *
 * The request is built once and kept until the first byte comes back. A link that was used before may have been
 * closed by the server just now: when it ends before any byte, the request goes again, once, on a fresh link, if
 * it can be replayed and either may be repeated by its method (RFC 9110 section 9.2.2) or was provably not read
 * (the peer reset the connection). http_call_unsent tells a caller the same about a call that failed.
 */
#include "net/http_client_internal.h"

#include "base/clock.h"
#include "base/limits.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define INTERIM_MAX 8 /* 1xx answers before the real one: each costs memory */

#ifndef MDN_VERSION
#define MDN_VERSION "0"
#endif

/* ---- the end ---- */

static void call_free_task(void *arg)
{
	struct http_call *call = arg;
	http_fetch_free(call->fetch);
	buf_fini(&call->request);
	arena_fini(&call->arena);
	free(call);
}

/* Out of every list; its link, unless already given back, is closed. */
static void call_detach(struct http_call *call)
{
	struct http_client *client = call->client;
	struct link *l = call->link;
	call->over = true;
	loop_task_cancel(&call->start_task);
	if (call->origin)
		origin_forget(call);
	if (call->prev)
		call->prev->next = call->next;
	else
		client->calls = call->next;
	if (call->next)
		call->next->prev = call->prev;
	call->link = NULL;
	if (l)
		link_close(l);
	loop_task_add(client->loop, &call->free_task);
}

static void call_done(struct http_call *call, const struct error *err)
{
	call_detach(call);
	if (call->options.on_done)
		call->options.on_done(call->options.arg, call, err);
}

void call_fail(struct http_call *call, int code, const char *format, ...)
{
	struct error err;
	va_list args;
	va_start(args, format);
	vsnprintf(err.text, sizeof(err.text), format, args);
	va_end(args);
	err.code = code;
	call_done(call, &err);
}

void http_call_cancel(struct http_call *call)
{
	if (!call->over)
		call_detach(call);
}

/* ---- building the request ---- */

static bool url_chars_valid(struct str s)
{
	for (size_t i = 0; i < s.len; i++) {
		unsigned char c = (unsigned char)s.base[i];
		if (c <= 0x20 || c >= 0x7f || strchr("\"<>\\^`{|}#", c))
			return false;
	}
	return true;
}

struct url {
	bool tls;
	struct str host, authority, target;
	uint16_t port;
};

static int url_parse(struct str text, struct url *ret_url, struct error *err)
{
	struct url u = {0};
	u.tls = str_starts(text, STR("https://"));
	size_t skip = u.tls ? 8 : str_starts(text, STR("http://")) ? 7 : 0;
	struct str rest = {text.base + skip, text.len - skip};
	size_t len = 0;
	while (len < rest.len && rest.base[len] != '/' && rest.base[len] != '?')
		len++;
	u.authority = (struct str){rest.base, len};
	u.target = (struct str){rest.base + len, rest.len - len};
	struct str digits = {0};
	if (len && rest.base[0] == '[') {
		const char *end = memchr(rest.base, ']', len);
		if (!end)
			skip = 0;
		else
			u.host = (struct str){rest.base + 1, (size_t)(end - rest.base - 1)};
		if (end && end + 1 < rest.base + len)
			digits = (struct str){end + 1, (size_t)(rest.base + len - end - 1)};
		if (digits.len && digits.base[0] != ':')
			skip = 0;
		else if (digits.len)
			digits = (struct str){digits.base + 1, digits.len - 1};
	} else {
		u.host = str_cut(u.authority, ':', &digits);
	}
	uint64_t port = u.tls ? 443 : 80;
	if (digits.len && (str_to_u64(digits, &port) != 0 || port == 0 || port > 65535))
		skip = 0;
	if (skip == 0 || u.host.len == 0 || memchr(u.authority.base, '@', u.authority.len) || !url_chars_valid(rest))
		return error_set(err, E_INVAL, "\"" STR_FMT "\" is no URL to call; write it like http://host:port/path",
		                 STR_ARG(text));
	u.port = (uint16_t)port;
	*ret_url = u;
	return 0;
}

static bool method_idempotent(struct str method)
{
	static const char *const all[] = {"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"};
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (str_equal(method, str_from(all[i])))
			return true;
	return false;
}

static void request_headers(struct http_call *call, const struct url *u)
{
	const struct http_call_options *o = &call->options;
	struct buf *out = &call->request;
	bool host = false, agent = false;
	for (size_t i = 0; i < o->header_count; i++) {
		host = host || str_equal_nocase(o->headers[i].name, STR("host"));
		agent = agent || str_equal_nocase(o->headers[i].name, STR("user-agent"));
	}
	if (!host)
		http_header_append(out, STR("Host"), u->authority);
	if (!agent)
		http_header_append(out, STR("User-Agent"), STR("mdn/" MDN_VERSION));
	for (size_t i = 0; i < o->header_count; i++)
		http_header_append(out, o->headers[i].name, o->headers[i].value);
	bool bodied = o->body.len || o->body_streams || str_equal(o->method, STR("POST")) ||
	              str_equal(o->method, STR("PUT")) || str_equal(o->method, STR("PATCH"));
	if (o->body_streams && o->body_length < 0)
		buf_append_str(out, STR("Transfer-Encoding: chunked\r\n"));
	else if (bodied)
		buf_printf(out, "Content-Length: %lld\r\n",
		           (long long)(o->body_streams ? o->body_length : (int64_t)o->body.len));
}

static int request_build(struct http_call *call, struct error *err)
{
	struct http_call_options *o = &call->options;
	struct url u;
	int rc = url_parse(o->url, &u, err);
	if (rc != 0)
		return rc;
	if (!http_name_valid(o->method))
		return error_set(err, E_INVAL, "\"" STR_FMT "\" is no HTTP method", STR_ARG(o->method));
	if (u.tls && !call->client->options.tls)
		return error_set(err, E_UNSUPPORTED, "calling " STR_FMT " needs TLS, and none is set up here",
		                 STR_ARG(o->url));
	if (!u.tls && o->peer_identity.len)
		return error_set(err, E_INVAL, STR_FMT ": the peer's identity can only be checked over https://",
		                 STR_ARG(o->url));
	buf_reserve(&call->request,
	            1024 + (o->body_lent ? 0 : o->body.len)); /* once, instead of growing header by header */
	buf_append_str(&call->request, o->method);
	buf_append_str(&call->request, STR(" "));
	if (u.target.len == 0 || u.target.base[0] != '/')
		buf_append_str(&call->request, STR("/"));
	buf_append_str(&call->request, u.target);
	buf_append_str(&call->request, STR(" HTTP/1.1\r\n"));
	request_headers(call, &u);
	buf_append_str(&call->request, STR("\r\n"));
	call->head_len = call->request.len;
	if (!o->body_lent) { /* else it is sent from where the caller keeps it */
		if (!o->body_streams)
			buf_append_str(&call->request, o->body);
		o->body = (struct str){0};
	}
	call->origin = origin_get(call->client, u.tls, u.host, u.port, o->peer_identity);
	return 0;
}

static void call_early_task(void *arg)
{
	struct http_call *call = arg;
	struct error err = call->early;
	call->unsent = true;
	call_done(call, &err);
}

static bool call_body_data(void *arg, struct str data)
{
	struct http_call *call = arg;
	if (call->over)
		return true;
	call->body_paused = call->options.on_data && !call->options.on_data(call->options.arg, data) && !call->over;
	return !call->body_paused;
}

static struct http_call *call_new(struct http_client *client, const struct http_call_options *options)
{
	struct http_call *call = mem_resize(NULL, HTTP_CALL_BYTES, 1);
	memset(call, 0, sizeof(*call)); /* the arena behind it clears what it gives out */
	call->client = client;
	call->options = *options;
	arena_init(&call->arena, call->first, HTTP_CALL_BYTES - sizeof(*call));
	loop_task_init(&call->start_task, call_early_task, call);
	loop_task_init(&call->free_task, call_free_task, call);
	struct http_call_options *o = &call->options;
	if (!o->method.len)
		o->method = STR("GET");
	o->method = arena_copy(&call->arena, o->method);
	o->url = arena_copy(&call->arena, o->url);
	o->peer_identity = arena_copy(&call->arena, o->peer_identity);
	if (!o->head_timeout_us)
		o->head_timeout_us = 30 * US_PER_S;
	if (!o->stall_timeout_us)
		o->stall_timeout_us = 60 * US_PER_S;
	call->idempotent = method_idempotent(o->method);
	call->replayable = true;
	call->deadline_us = loop_now_us(client->loop) + o->head_timeout_us;
	call->next = client->calls;
	if (call->next)
		call->next->prev = call;
	client->calls = call;
	return call;
}

struct http_call *http_call_start(struct http_client *client, const struct http_call_options *options)
{
	struct http_call *call = call_new(client, options);
	if (request_build(call, &call->early) != 0)
		loop_task_add(client->loop, &call->start_task);
	else
		origin_assign(call);
	call->options.headers = NULL; /* the caller's memory */
	return call;
}

/* ---- sending ---- */

static void message_begin(struct http_call *call)
{
	http_message_init(&call->message, false, &call->arena);
	call->message.head_of_head = str_equal(call->options.method, STR("HEAD"));
	call->message.on_body = call_body_data;
	call->message.arg = call;
}

void call_begin(struct http_call *call, struct link *l)
{
	call->link = l;
	call->tries++;
	l->call = call;
	message_begin(call);
	const struct str parts[2] = {buf_str(&call->request), call->options.body}; /* a copied one is in the first */
	conn_write(l->conn, parts, 2);
	conn_flush(l->conn);
	conn_deadline(l->conn, call->deadline_us);
	if (call->want_writable && conn_buffered(l->conn) < LIMIT_WRITE_BUFFER)
		loop_task_add(call->client->loop, &l->feed_task);
}

bool http_call_write(struct http_call *call, struct str data)
{
	assert(call->options.body_streams && !call->streams_ended);
	if (call->over || call->early.code || data.len == 0)
		return true;
	char size[20];
	int len = snprintf(size, sizeof(size), "%zx\r\n", data.len);
	struct str parts[3] = {{size, (size_t)len}, data, STR("\r\n")};
	bool chunked = call->options.body_length < 0;
	if (!call->link) { /* waits for its turn */
		for (size_t i = chunked ? 0 : 1; i < (chunked ? 3 : 2); i++)
			buf_append_str(&call->request, parts[i]);
		call->want_writable = call->request.len >= LIMIT_WRITE_BUFFER;
		return !call->want_writable;
	}
	call->replayable = false;
	conn_write(call->link->conn, chunked ? parts : parts + 1, chunked ? 3 : 1);
	call->want_writable = conn_buffered(call->link->conn) >= LIMIT_WRITE_BUFFER;
	return !call->want_writable;
}

void http_call_end(struct http_call *call)
{
	assert(call->options.body_streams && !call->streams_ended);
	call->streams_ended = true;
	call->deadline_us = loop_now_us(call->client->loop) + call->options.head_timeout_us;
	if (call->over || call->early.code)
		return;
	struct str last = call->options.body_length < 0 ? STR("0\r\n\r\n") : STR("");
	if (!call->link) {
		buf_append_str(&call->request, last);
		return;
	}
	call->replayable = false;
	conn_write(call->link->conn, &last, 1);
	conn_flush(call->link->conn);
	if (!call->headed)
		conn_deadline(call->link->conn, call->deadline_us);
}

void call_writable(struct http_call *call)
{
	bool tell = call->want_writable && !call->streams_ended && call->options.on_writable;
	call->want_writable = false;
	if (tell)
		call->options.on_writable(call->options.arg);
}

static bool request_whole(const struct http_call *call)
{
	return (!call->options.body_streams || call->streams_ended) && conn_buffered(call->link->conn) == 0;
}

/* ---- receiving ---- */

/* Bytes taken; 0: needs more, or the call is over. */
static size_t call_head(struct http_call *call, struct str in)
{
	struct link *l = call->link;
	struct error err;
	int status;
	int64_t len = http_head_find(in, &l->scanned, false, &status, &err);
	if (len > 0) {
		struct str head = arena_copy(&call->arena, (struct str){in.base, (size_t)len});
		if (http_message_head(&call->message, head, &err) != 0)
			len = err.code;
	}
	if (len < 0) {
		call_fail(call, E_PEER, STR_FMT " answered nonsense: %s", STR_ARG(call->options.url), err.text);
		return 0;
	}
	if (len == 0)
		return 0;
	l->scanned = 0;
	if (call->message.status == 101) {
		call_fail(call, E_PEER, STR_FMT " changed the protocol unasked", STR_ARG(call->options.url));
		return 0;
	}
	if (call->message.status < 200 && ++call->interim > INTERIM_MAX) {
		call_fail(call, E_PEER, STR_FMT " says one thing after another but answers nothing",
		          STR_ARG(call->options.url));
		return 0;
	}
	if (call->message.status < 200) {
		message_begin(call); /* 100 Continue, 103 Early Hints: the real one follows */
		return (size_t)len;
	}
	call->headed = true;
	conn_deadline(l->conn, call->last_us + call->options.stall_timeout_us);
	if (call->options.on_head && !call->options.on_head(call->options.arg, call, call->message.status) &&
	    !call->over)
		call_fail(call, E_CANCELED, "the response was not wanted");
	return (size_t)len;
}

static size_t call_step(struct http_call *call, struct str in)
{
	struct error err;
	if (!call->headed)
		return in.len ? call_head(call, in) : 0;
	if (call->body_paused || call->message.complete)
		return 0;
	int64_t used = http_message_body(&call->message, in, &err);
	if (call->over)
		return 0;
	if (used < 0) {
		call_fail(call, E_PEER, STR_FMT " answered nonsense: %s", STR_ARG(call->options.url), err.text);
		return 0;
	}
	return (size_t)used;
}

static void call_complete(struct http_call *call, bool more_bytes)
{
	struct link *l = call->link;
	if (call->message.keep_alive && !more_bytes && request_whole(call)) {
		call->link = NULL;
		link_return(l);
	}
	call_done(call, NULL);
}

void call_feed(struct http_call *call, struct str in, bool from_rest)
{
	struct link *l = call->link;
	size_t at = 0;
	if (in.len) {
		call->got_byte = true;
		call->last_us = loop_now_us(call->client->loop);
	}
	if (call->want_writable && conn_buffered(l->conn) < LIMIT_WRITE_BUFFER / 2)
		call_writable(call); /* data that waited for a link went out with it */
	while (!call->over) {
		size_t used = call_step(call, (struct str){in.base + at, in.len - at});
		at += used;
		if (used == 0)
			break;
	}
	if (call->over)
		return;
	if (call->headed && call->message.complete && !call->body_paused) {
		call_complete(call, at < in.len);
		return;
	}
	if (from_rest)
		buf_consume(&l->rest, at);
	else
		buf_append(&l->rest, in.base + at, in.len - at);
	if (call->body_paused)
		conn_pause(l->conn);
	else
		conn_resume(l->conn);
}

char *call_room(struct http_call *call, size_t *ret_size)
{
	const struct http_message *m = &call->message;
	if (!call->headed || call->body_paused || m->complete || m->content_length < 0 || !call->options.on_room)
		return NULL;
	uint64_t left = (uint64_t)m->content_length - m->body_bytes;
	char *room = call->options.on_room(call->options.arg, ret_size);
	if (*ret_size > left)
		*ret_size = (size_t)left;
	return room;
}

void http_call_resume(struct http_call *call)
{
	if (!call->body_paused || call->over)
		return;
	call->body_paused = false;
	call->last_us = loop_now_us(call->client->loop);
	conn_deadline(call->link->conn, call->last_us + call->options.stall_timeout_us);
	loop_task_add(call->client->loop, &call->link->feed_task);
}

/* ---- trouble ---- */

static bool call_retry(struct http_call *call, const struct error *why)
{
	struct link *l = call->link;
	bool stale = l->used && !call->got_byte && call->tries == 1 && call->replayable;
	if (!stale || (!call->idempotent && !why))
		return false;
	call->link = NULL;
	l->call = NULL;
	struct origin *o = call->origin;
	while (o->idle)
		link_close(o->idle); /* its sisters are as old */
	link_close(l);
	origin_assign(call);
	return true;
}

void call_lost(struct http_call *call, const struct error *why)
{
	bool proper = !why || call->message.content_length >= 0;
	if (call->headed && !call->body_paused && proper && http_message_eof(&call->message)) {
		call_complete(call, true);
		return;
	}
	if (call_retry(call, why))
		return;
	call->unsent = !call->got_byte && (!why || why->code != E_TIMEOUT || !call->link->used);
	const char *what = call->headed ? "broke off its answer" : "closed the connection before an answer came";
	if (why)
		call_fail(call, why->code, STR_FMT ": %s", STR_ARG(call->options.url), why->text);
	else
		call_fail(call, E_PEER, STR_FMT " %s", STR_ARG(call->options.url), what);
}

void call_deadline(struct http_call *call)
{
	int64_t now = loop_now_us(call->client->loop);
	struct conn *conn = call->link->conn;
	if (call->body_paused)
		return; /* we are the slow one; resume sets it again */
	if (call->headed) {
		int64_t due = call->last_us + call->options.stall_timeout_us;
		if (now < due)
			conn_deadline(conn, due);
		else
			call_fail(call, E_TIMEOUT, STR_FMT " stopped in the middle of its answer",
			          STR_ARG(call->options.url));
	} else if (!conn_is_open(conn) && now >= call->deadline_us) {
		call->unsent = true;
		call_fail(call, E_TIMEOUT, STR_FMT " could not be reached in time", STR_ARG(call->options.url));
	} else if (call->options.body_streams && !call->streams_ended) {
		conn_deadline(conn, now + call->options.head_timeout_us); /* the request is still being made */
	} else if (!request_whole(call) && now >= call->deadline_us) {
		call->deadline_us =
		    now + call->options.head_timeout_us; /* still being sent: stalls are the conn's matter */
		conn_deadline(conn, call->deadline_us);
	} else if (now < call->deadline_us) {
		conn_deadline(conn, call->deadline_us);
	} else {
		call_fail(call, E_TIMEOUT, STR_FMT " did not answer within %lld ms", STR_ARG(call->options.url),
		          (long long)(call->options.head_timeout_us / US_PER_MS));
	}
}

/* ---- asking ---- */

int http_call_status(const struct http_call *call)
{
	return call->headed ? call->message.status : 0;
}
bool http_call_unsent(const struct http_call *call)
{
	return call->unsent;
}

bool http_call_header(const struct http_call *call, const char *name, struct str *ret_value)
{
	return call->headed && http_message_header(&call->message, name, ret_value);
}

size_t http_call_headers(const struct http_call *call, const struct http_header **ret_headers)
{
	*ret_headers = call->message.headers;
	return call->headed ? call->message.count : 0;
}
