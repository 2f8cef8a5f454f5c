/* SPDX-License-Identifier: Apache-2.0 */
/* http_message.c - heads and bodies, with what strictness needs beyond llhttp.
 *
 * A head is found first (every line must end in CRLF; no bare LF, CR or NUL) and then given to llhttp in
 * one piece, so its spans come whole and nothing is copied. Bodies stream through llhttp; a chunked body
 * whose framing (sizes, extensions, trailers) outweighs what it carries is refused, which bounds all three.
 */
#include "net/http_message.h"

#include "base/limits.h"

#include <stdio.h>

#define FRAMING_FREE 16384 /* bytes of chunk framing that need no data to justify them */
#define FRAMING_RATIO 16   /* bytes of chunk framing per byte of data beyond */

/* ---- finding the head ---- */

static int head_refuse(int status, int code, const char *text, int *ret_status, struct error *err)
{
	*ret_status = status;
	return error_set(err, code, "%s", text);
}

int64_t http_head_find(struct str text, size_t *scanned, bool request, int *ret_status, struct error *err)
{
	const size_t first_max = LIMIT_HTTP_TARGET + 64;
	const char *first = text.len ? memchr(text.base, '\n', text.len < first_max ? text.len : first_max) : NULL;
	size_t head_max = (first ? (size_t)(first - text.base) + 1 : first_max) + LIMIT_HTTP_HEADERS;
	size_t at = *scanned, end = text.len < head_max ? text.len : head_max;
	/* *scanned is the start of a line, so a line cut anywhere is looked at again whole. */
	while (at < end) {
		const char *lf = memchr(text.base + at, '\n', end - at);
		size_t line = (lf ? (size_t)(lf - text.base) : end) - at;
		if (memchr(text.base + at, '\0', line))
			return head_refuse(400, E_INVAL, "the head of the message holds a NUL byte", ret_status, err);
		if (request && at == 0 && line > first_max)
			return head_refuse(414, E_LIMIT, "the request target is longer than 8 KiB", ret_status, err);
		if (!lf)
			break;
		const char *cr = memchr(text.base + at, '\r', line);
		if (cr != lf - 1)
			return head_refuse(400, E_INVAL, "the lines of a head must end in CR LF and hold neither alone",
			                   ret_status, err);
		at += line + 1;
		if (line == 1)
			return (int64_t)at;
		*scanned = at;
	}
	if (text.len >= head_max)
		return head_refuse(431, E_LIMIT, "the headers are larger than 32 KiB in all", ret_status, err);
	return 0;
}

/* ---- llhttp's callbacks ---- */

static int refuse(struct http_message *m, int status, const char *reason)
{
	m->refuse_status = status;
	m->reason = reason;
	return -1;
}

static int grow_span(struct str *s, const char *at, size_t len)
{
	if (s->base && s->base + s->len == at)
		s->len += len;
	else
		*s = (struct str){at, len};
	return 0;
}

static int on_method(llhttp_t *p, const char *at, size_t len)
{
	return grow_span(&((struct http_message *)p->data)->method, at, len);
}

static int on_url(llhttp_t *p, const char *at, size_t len)
{
	return grow_span(&((struct http_message *)p->data)->target, at, len);
}

static int on_header_field(llhttp_t *p, const char *at, size_t len)
{
	struct http_message *m = p->data;
	return m->head_done ? 0 : grow_span(&m->name, at, len);
}

static int on_header_value(llhttp_t *p, const char *at, size_t len)
{
	struct http_message *m = p->data;
	return m->head_done ? 0 : grow_span(&m->value, at, len);
}

static int on_header_value_complete(llhttp_t *p)
{
	struct http_message *m = p->data;
	if (m->head_done)
		return 0; /* trailers are read and dropped */
	if (m->count == LIMIT_HTTP_HEADER_COUNT)
		return refuse(m, 431, "there are more than 100 headers");
	if (m->count == m->room) {
		size_t room = m->room ? LIMIT_HTTP_HEADER_COUNT : 16;
		struct http_header *more = arena_alloc(m->arena, room * sizeof(*more));
		if (m->count)
			memcpy(more, m->headers, m->count * sizeof(*more));
		m->headers = more;
		m->room = room;
	}
	m->headers[m->count++] = (struct http_header){m->name, str_trim(m->value)};
	m->name = m->value = (struct str){0};
	return 0;
}

/* RFC 9112 section 6: how long the body is, with everything doubtful refused. */
static int check_framing(struct http_message *m)
{
	struct str length = {0}, coding = {0};
	unsigned lengths = 0, codings = 0;
	for (size_t i = 0; i < m->count; i++) {
		if (str_equal_nocase(m->headers[i].name, STR("content-length"))) {
			length = m->headers[i].value;
			lengths++;
		} else if (str_equal_nocase(m->headers[i].name, STR("transfer-encoding"))) {
			coding = m->headers[i].value;
			codings++;
		}
	}
	if (lengths && codings)
		return refuse(m, 400, "Content-Length and Transfer-Encoding must not come together");
	if (lengths > 1)
		return refuse(m, 400, "Content-Length must come once");
	if (codings && m->version_10)
		return refuse(m, 400, "Transfer-Encoding does not exist in HTTP/1.0");
	if (codings && (codings > 1 || !str_equal_nocase(coding, STR("chunked"))))
		return refuse(m, 400, "Transfer-Encoding must be exactly \"chunked\"");
	uint64_t size = 0;
	if (lengths && (length.len == 0 || length.len > 18 || str_to_u64(length, &size) != 0))
		return refuse(m, 400, "Content-Length must be a plain decimal number");
	m->chunked = codings != 0;
	m->content_length = lengths ? (int64_t)size : -1;
	return 0;
}

static int on_headers_complete(llhttp_t *p)
{
	struct http_message *m = p->data;
	m->head_done = true;
	if (p->http_major != 1 || p->http_minor > 1)
		return refuse(m, 505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
	m->version_10 = p->http_minor == 0;
	m->status = p->status_code;
	p->upgrade = 0; /* offers to upgrade are not taken up: the message is an ordinary one */
	if (check_framing(m) != 0)
		return -1;
	bool bare = m->head_of_head || (m->status >= 100 && m->status < 200) || m->status == 204 || m->status == 304;
	m->keep_alive = llhttp_should_keep_alive(p);
	if (p->type == HTTP_RESPONSE) {
		m->until_close = !bare && !m->chunked && m->content_length < 0;
		m->has_body = !bare && (m->chunked || m->content_length > 0 || m->until_close);
		m->keep_alive = m->keep_alive && !m->until_close;
		return bare;
	}
	m->has_body = m->chunked || m->content_length > 0;
	return 0;
}

static int on_body(llhttp_t *p, const char *at, size_t len)
{
	struct http_message *m = p->data;
	if (len == 0) /* llhttp, resumed without bytes in the middle of a body */
		return 0;
	m->body_bytes += len;
	if (m->on_body(m->arg, (struct str){at, len}))
		return 0;
	m->paused = true;
	return HPE_PAUSED;
}

static int on_message_complete(llhttp_t *p)
{
	((struct http_message *)p->data)->complete = true;
	return HPE_PAUSED;
}

static const llhttp_settings_t settings = {
    .on_method = on_method,
    .on_url = on_url,
    .on_header_field = on_header_field,
    .on_header_value = on_header_value,
    .on_header_value_complete = on_header_value_complete,
    .on_headers_complete = on_headers_complete,
    .on_body = on_body,
    .on_message_complete = on_message_complete,
};

/* ---- head and body ---- */

void http_message_init(struct http_message *m, bool request, struct arena *arena)
{
	memset(m, 0, sizeof(*m));
	llhttp_init(&m->parser, request ? HTTP_REQUEST : HTTP_RESPONSE, &settings);
	m->parser.data = m;
	m->arena = arena;
	m->content_length = -1;
}

static int message_error(struct http_message *m, struct error *err)
{
	const char *reason = m->reason ? m->reason : llhttp_get_error_reason(&m->parser);
	if (!m->refuse_status)
		m->refuse_status = 400;
	int code = m->refuse_status == 431 || m->refuse_status == 414 ? E_LIMIT : E_INVAL;
	return error_set(err, code, "the message is not strict HTTP/1.1: %s", reason && *reason ? reason : "syntax");
}

int http_message_head(struct http_message *m, struct str head, struct error *err)
{
	llhttp_errno_t rc = llhttp_execute(&m->parser, head.base, head.len);
	if ((rc != HPE_OK && rc != HPE_PAUSED) || m->reason || !m->head_done)
		return message_error(m, err);
	if (rc == HPE_PAUSED && llhttp_get_error_pos(&m->parser) != head.base + head.len) {
		m->reason = "the head ends early"; /* ours and llhttp's idea of a head must be the same */
		return message_error(m, err);
	}
	return 0;
}

int64_t http_message_body(struct http_message *m, struct str data, struct error *err)
{
	if (m->complete || (data.len == 0 && !m->paused))
		return 0;
	if (!data.base)
		data.base = ""; /* after a pause at the very end of the body, llhttp only has to say that it ended */
	if (m->paused) {
		m->paused = false;
		llhttp_resume(&m->parser);
	}
	llhttp_errno_t rc = llhttp_execute(&m->parser, data.base, data.len);
	size_t used = data.len;
	if (rc == HPE_PAUSED)
		used = (size_t)(llhttp_get_error_pos(&m->parser) - data.base);
	else if (rc != HPE_OK)
		return message_error(m, err);
	m->wire_bytes += used;
	if (m->chunked && m->wire_bytes - m->body_bytes > FRAMING_FREE + FRAMING_RATIO * m->body_bytes) {
		m->reason = "its chunks carry more framing than data";
		return message_error(m, err);
	}
	return (int64_t)used;
}

bool http_message_eof(struct http_message *m)
{
	if (m->head_done && m->until_close && !m->complete)
		m->complete = llhttp_finish(&m->parser) == HPE_OK || m->complete;
	return m->complete;
}

bool http_message_header(const struct http_message *m, const char *name, struct str *ret_value)
{
	for (size_t i = 0; i < m->count; i++) {
		if (!str_equal_nocase(m->headers[i].name, str_from(name)))
			continue;
		*ret_value = m->headers[i].value;
		return true;
	}
	return false;
}

/* ---- writing ---- */

bool http_name_valid(struct str name)
{
	static const bool token[256] = {
	    ['a' ... 'z'] = true, ['A' ... 'Z'] = true, ['0' ... '9'] = true, ['!'] = true, ['#'] = true, ['$'] = true,
	    ['%'] = true,         ['&'] = true,         ['\''] = true,        ['*'] = true, ['+'] = true, ['-'] = true,
	    ['.'] = true,         ['^'] = true,         ['_'] = true,         ['`'] = true, ['|'] = true, ['~'] = true,
	};
	for (size_t i = 0; i < name.len; i++)
		if (!token[(unsigned char)name.base[i]])
			return false;
	return name.len > 0;
}

bool http_framing_header(struct str name)
{
	switch (name.len) {
	case 10:
		return str_equal_nocase(name, STR("connection")) || str_equal_nocase(name, STR("keep-alive"));
	case 14:
		return str_equal_nocase(name, STR("content-length"));
	case 17:
		return str_equal_nocase(name, STR("transfer-encoding"));
	default:
		return false;
	}
}

void http_header_append(struct buf *out, struct str name, struct str value)
{
	if (!http_name_valid(name) || http_framing_header(name))
		return;
	char *to = buf_reserve(out, name.len + value.len + 4);
	if (!to) {
		out->failed = true;
		return;
	}
	memcpy(to, name.base, name.len);
	to += name.len;
	*to++ = ':';
	*to++ = ' ';
	for (size_t i = 0; i < value.len; i++) {
		unsigned char c = (unsigned char)value.base[i];
		*to++ = (c < 0x20 && c != '\t') || c == 0x7f ? ' ' : (char)c;
	}
	*to++ = '\r';
	*to = '\n';
	out->len += name.len + value.len + 4;
}

static const struct {
	int status;
	const char *text;
} status_texts[] = {
    {200, "OK"},
    {201, "Created"},
    {202, "Accepted"},
    {204, "No Content"},
    {206, "Partial Content"},
    {301, "Moved Permanently"},
    {302, "Found"},
    {303, "See Other"},
    {304, "Not Modified"},
    {307, "Temporary Redirect"},
    {308, "Permanent Redirect"},
    {400, "Bad Request"},
    {401, "Unauthorized"},
    {403, "Forbidden"},
    {404, "Not Found"},
    {405, "Method Not Allowed"},
    {408, "Request Timeout"},
    {409, "Conflict"},
    {410, "Gone"},
    {412, "Precondition Failed"},
    {413, "Content Too Large"},
    {414, "URI Too Long"},
    {415, "Unsupported Media Type"},
    {416, "Range Not Satisfiable"},
    {417, "Expectation Failed"},
    {422, "Unprocessable Content"},
    {429, "Too Many Requests"},
    {431, "Request Header Fields Too Large"},
    {499, "Client Closed Request"},
    {500, "Internal Server Error"},
    {502, "Bad Gateway"},
    {503, "Service Unavailable"},
    {504, "Gateway Timeout"},
    {505, "HTTP Version Not Supported"},
    {507, "Insufficient Storage"},
    {508, "Loop Detected"},
};

const char *http_status_text(int status)
{
	for (size_t i = 0; i < sizeof(status_texts) / sizeof(status_texts[0]); i++)
		if (status_texts[i].status == status)
			return status_texts[i].text;
	return ""; /* the phrase may be empty: RFC 9112 section 4 */
}
