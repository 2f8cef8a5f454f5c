/* SPDX-License-Identifier: Apache-2.0 */
/* http_request.c - is this request's target and Host beyond doubt, and which path does it name.
 *
 * RFC 9112 section 3.2 (forms of the target; exactly one Host; absolute-form must agree with it) and RFC 3986
 * (characters). Segments "." and ".." are refused after decoding, with "%2e", "%2f" and "\" seen through.
 */
#include "net/http_message.h"

#include "base/limits.h"

static int bad(struct http_message *m, int status, int code, struct error *err, const char *text)
{
	m->refuse_status = status;
	return error_set(err, code, "%s", text);
}

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)(c | 0x20);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool chars_valid(struct str s, const char *extra)
{
	for (size_t i = 0; i < s.len; i++) {
		char c = s.base[i];
		bool alnum = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
		if (!alnum && (c == '\0' || !strchr(extra, c)))
			return false;
	}
	return true;
}

static bool host_valid(struct str host)
{
	return chars_valid(host, "-._~!$&'()*+;=:[]%");
}

/* Method, target and version with one space between: llhttp takes more. */
static bool line_exact(const struct http_message *m)
{
	const char *end = m->target.base + m->target.len; /* the head's text goes on, and ends with a NUL */
	return m->target.base == m->method.base + m->method.len + 1 && strncmp(end, " HTTP/1.", 8) == 0 && end[8] &&
	       strncmp(end + 9, "\r\n", 2) == 0;
}

static int check_host(struct http_message *m, struct str *ret_host, struct error *err)
{
	unsigned hosts = 0;
	for (size_t i = 0; i < m->count; i++)
		if (str_equal_nocase(m->headers[i].name, STR("host"))) {
			*ret_host = m->headers[i].value;
			hosts++;
		}
	if (hosts > 1 || (hosts == 0 && !m->version_10))
		return bad(m, 400, E_INVAL, err, "a request needs exactly one Host header");
	if (!host_valid(*ret_host))
		return bad(m, 400, E_INVAL, err, "the Host header holds characters no host name has");
	return 0;
}

/* Absolute-form: leaves the path in *rest. */
static int check_absolute(struct http_message *m, struct str host, struct str *rest, struct error *err)
{
	struct str target = m->target;
	size_t skip = str_starts(target, STR("http://")) ? 7 : str_starts(target, STR("https://")) ? 8 : 0;
	if (!skip)
		return bad(m, 400, E_INVAL, err, "the request target must begin with \"/\"");
	target.base += skip;
	target.len -= skip;
	size_t len = 0;
	while (len < target.len && target.base[len] != '/' && target.base[len] != '?')
		len++;
	if (!str_equal_nocase((struct str){target.base, len}, host) || len == 0)
		return bad(m, 400, E_INVAL, err, "the request target and the Host header name different hosts");
	*rest = (struct str){target.base + len, target.len - len};
	return 0;
}

/* False: a bad escape or a control character. */
static bool path_decode(struct arena *arena, struct str raw, struct str *ret_path)
{
	char *to = arena_alloc(arena, raw.len + 1);
	size_t len = 0;
	for (size_t i = 0; i < raw.len; i++) {
		int c = (unsigned char)raw.base[i];
		if (c == '%') {
			int high = i + 2 < raw.len ? digit(raw.base[i + 1]) : -1;
			int low = i + 2 < raw.len ? digit(raw.base[i + 2]) : -1;
			if (high < 0 || low < 0)
				return false;
			c = high * 16 + low;
			i += 2;
		}
		if (c < 0x20 || c == 0x7f)
			return false;
		to[len++] = (char)c;
	}
	*ret_path = (struct str){to, len};
	return true;
}

static bool path_climbs(struct str path)
{
	size_t start = 0;
	for (size_t i = 0; i <= path.len; i++) {
		if (i < path.len && path.base[i] != '/' && path.base[i] != '\\')
			continue;
		struct str segment = {path.base + start, i - start};
		if (str_equal(segment, STR(".")) || str_equal(segment, STR("..")))
			return true;
		start = i + 1;
	}
	return false;
}

int http_request_check(struct http_message *m, struct str *ret_path, struct str *ret_query, struct error *err)
{
	struct str host = {0}, rest = m->target, query = {0}, path = {0};
	if (!line_exact(m))
		return bad(m, 400, E_INVAL, err, "the request line must be METHOD TARGET HTTP/1.1 with single spaces");
	if (check_host(m, &host, err) != 0)
		return E_INVAL;
	if (m->target.len > LIMIT_HTTP_TARGET)
		return bad(m, 414, E_LIMIT, err, "the request target is longer than 8 KiB");
	if (str_equal(m->method, STR("CONNECT")))
		return bad(m, 405, E_METHOD, err, "CONNECT is not offered: this is not a proxy");
	if (str_equal(rest, STR("*"))) {
		if (!str_equal(m->method, STR("OPTIONS")))
			return bad(m, 400, E_INVAL, err, "the target \"*\" is for OPTIONS only");
		*ret_path = rest;
		*ret_query = query;
		return 0;
	}
	if ((rest.len == 0 || rest.base[0] != '/') && check_absolute(m, host, &rest, err) != 0)
		return E_INVAL;
	struct str raw = str_cut(rest, '?', &query);
	if (!chars_valid(raw, "-._~!$&'()*+,;=:@/%") || !chars_valid(query, "-._~!$&'()*+,;=:@/%?[]{}|^`"))
		return bad(m, 400, E_INVAL, err, "the request target holds characters that must be percent-encoded");
	if (raw.len == 0)
		raw = STR("/");
	if (!path_decode(m->arena, raw, &path))
		return bad(m, 400, E_INVAL, err, "the path holds a bad percent-encoding or a control character");
	if (path_climbs(path))
		return bad(m, 400, E_INVAL, err, "the path holds a \".\" or \"..\" segment");
	*ret_path = path;
	*ret_query = query;
	return 0;
}
