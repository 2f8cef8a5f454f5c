/* SPDX-License-Identifier: Apache-2.0 */
/* http_respond.c - the response side of an exchange.
 *
 * We own the framing: Content-Length, Transfer-Encoding and Connection come from here, whatever headers a
 * caller passes on. Head and body of a small response leave in one write. What is said after the client is gone
 * is dropped without a word; the exchange then ends like any other.
 */
#include "net/http_server_internal.h"

#include "base/limits.h"
#include "base/log.h"

#include <assert.h>
#include <stdio.h>

static void put(struct buf *out, struct str text)
{
	buf_append(out, text.base, text.len);
}

static void put_number(struct buf *out, uint64_t value)
{
	char digits[20];
	size_t at = sizeof(digits);
	do {
		digits[--at] = (char)('0' + value % 10);
		value /= 10;
	} while (value);
	buf_append(out, digits + at, sizeof(digits) - at);
}

static void put_status(struct http_server *server, struct buf *out, int status)
{
	put(out, STR("HTTP/1.1 "));
	put_number(out, (uint64_t)status);
	put(out, STR(" "));
	put(out, str_from(http_status_text(status)));
	put(out, STR("\r\nDate: "));
	put(out, str_from(server_date(server)));
	put(out, STR("\r\n"));
}

/* An unread body that is too large to drain, or was never asked for with 100 Continue. */
static bool body_costs_connection(const struct http_exchange *x)
{
	const struct http_message *m = &x->message;
	if (!m->has_body || m->complete)
		return false;
	return x->expects_continue || m->content_length - (int64_t)m->body_bytes > HTTP_DRAIN_MAX;
}

static void decide_close(struct http_exchange *x, int64_t length)
{
	bool reading = x->reader != READER_NONE && !x->body_told;
	if (!x->message.keep_alive || x->server->draining || (length < 0 && x->message.version_10 && !x->bare) ||
	    x->body_error.code || (!reading && body_costs_connection(x)))
		x->close = true;
}

void exchange_head(struct http_exchange *x, int status, const char *type, int64_t length,
                   const struct http_header *headers, size_t count)
{
	struct buf *out = &x->server->scratch;
	bool no_length = status == 204 || status < 200;
	x->bare = x->is_head || no_length || status == 304;
	x->left = length;
	decide_close(x, length);
	buf_clear(out);
	put_status(x->server, out, status);
	if (type)
		http_header_append(out, STR("Content-Type"), str_from(type));
	for (size_t i = 0; i < count; i++)
		http_header_append(out, headers[i].name, headers[i].value);
	put(out, buf_str(&x->extra));
	x->chunked = length < 0 && !x->message.version_10 && !x->bare;
	if (x->chunked) {
		put(out, STR("Transfer-Encoding: chunked\r\n"));
	} else if (length >= 0 && !no_length) {
		put(out, STR("Content-Length: "));
		put_number(out, (uint64_t)length);
		put(out, STR("\r\n"));
	}
	if (x->close)
		put(out, STR("Connection: close\r\n"));
	else if (x->message.version_10)
		put(out, STR("Connection: keep-alive\r\n"));
	put(out, STR("\r\n"));
}

/* False: there is nobody to write to. */
static bool respond_begins(struct http_exchange *x)
{
	assert(!x->begun && "an exchange is answered once");
	x->begun = true;
	return x->session != NULL;
}

void exchange_end(struct http_exchange *x)
{
	x->ended = true;
	if (x->session && x->message.has_body && !x->message.complete) {
		x->close = x->close || body_costs_connection(x);
		x->draining = !x->close;
		x->body_paused = false;
	}
	loop_task_add(x->loop, &x->settle_task);
}

void http_respond_headers(struct http_exchange *x, int status, const struct http_header *headers, size_t count,
                          struct str body)
{
	if (respond_begins(x)) {
		exchange_head(x, status, NULL, (int64_t)body.len, headers, count);
		struct str parts[2] = {buf_str(&x->server->scratch), x->bare ? (struct str){0} : body};
		conn_write(x->session->conn, parts, 2);
		conn_flush(x->session->conn);
		session_count_unread(x->session);
	}
	exchange_end(x);
}

void http_respond(struct http_exchange *x, int status, const char *content_type, struct str body)
{
	struct http_header type = {STR("Content-Type"), str_from(content_type)};
	http_respond_headers(x, status, &type, content_type ? 1 : 0, body);
}

static void error_body(struct buf *out, const struct error *err)
{
	put(out, STR("{\"error\":{\"message\":"));
	buf_append_json(out, str_from(err->text));
	put(out, STR(",\"type\":"));
	buf_append_json(out, str_from(error_openai_type(err->code)));
	put(out, STR(",\"code\":"));
	buf_append_json(out, str_from(error_label(err->code)));
	put(out, STR("}}"));
}

void http_respond_error(struct http_exchange *x, const struct error *err)
{
	struct buf body = {0};
	int status = error_http_status(err->code);
	if (err->code == E_TIMEOUT && x->stalled)
		status = 408; /* the client was slow, not somebody behind us */
	if (status == 401)
		http_add_header(x, "WWW-Authenticate", STR("Bearer"));
	error_body(&body, err);
	http_respond(x, status, "application/json", buf_str(&body));
	buf_fini(&body);
}

void server_refusal(struct http_server *server, int status, const struct error *err, struct buf *out)
{
	struct buf body = {0};
	error_body(&body, err);
	put_status(server, out, status);
	put(out, STR("Content-Type: application/json\r\nConnection: close\r\nContent-Length: "));
	put_number(out, body.len);
	put(out, STR("\r\n\r\n"));
	put(out, buf_str(&body));
	buf_fini(&body);
}

void http_add_header(struct http_exchange *x, const char *name, struct str value)
{
	if (!x->extra.base)
		buf_reserve(&x->extra, 240);
	http_header_append(&x->extra, str_from(name), value);
}

/* ---- in pieces ---- */

void http_respond_begin(struct http_exchange *x, int status, const char *content_type, int64_t content_length)
{
	if (!respond_begins(x))
		return;
	exchange_head(x, status, content_type, content_length, NULL, 0);
	struct str head = buf_str(&x->server->scratch);
	conn_write(x->session->conn, &head, 1); /* corked: leaves with the first data or at the end of this turn */
}

/* The line before a chunk, in the end of `room`. */
static struct str chunk_size(size_t size, char room[static 20])
{
	size_t at = 20;
	room[--at] = '\n';
	room[--at] = '\r';
	do
		room[--at] = "0123456789abcdef"[size & 15];
	while (size >>= 4);
	return (struct str){room + at, 20 - at};
}

bool http_write(struct http_exchange *x, struct str data)
{
	assert(x->begun && !x->ended && "http_write belongs between http_respond_begin and http_end");
	if (!x->session || x->bare || data.len == 0)
		return true;
	struct conn *conn = x->session->conn;
	if (x->chunked) {
		char size[20];
		struct str parts[3] = {chunk_size(data.len, size), data, STR("\r\n")};
		conn_write(conn, parts, 3);
	} else {
		if (x->left >= 0) { /* never more than was declared: it would be taken for the next response */
			data.len = data.len < (uint64_t)x->left ? data.len : (size_t)x->left;
			x->left -= (int64_t)data.len;
		}
		conn_write(conn, &data, 1);
	}
	session_count_unread(x->session);
	return x->session->unread < LIMIT_WRITE_BUFFER;
}

void http_end(struct http_exchange *x)
{
	assert(x->begun && !x->ended && "http_end comes once, after http_respond_begin");
	if (x->session && !x->bare && x->left > 0) {
		log_error(x->server->options.room, "a response ended %lld bytes early; its connection is cut",
		          (long long)x->left);
		http_abort(x);
		return;
	}
	if (x->session) {
		if (x->chunked)
			conn_write(x->session->conn, &STR("0\r\n\r\n"), 1);
		conn_flush(x->session->conn);
	}
	exchange_end(x);
}

void http_abort(struct http_exchange *x)
{
	if (x->ended)
		return;
	struct session *s = x->session;
	/* Where only the end of the connection ends the body, the end must look broken. */
	bool reset = x->begun && !x->chunked && x->left < 0;
	x->ended = x->aborted = true;
	http_file_detach(x);
	loop_task_add(x->loop, &x->settle_task);
	if (!s)
		return;
	x->session = NULL;
	s->x = NULL;
	conn_flush(s->conn);
	session_close(s, reset);
}
