/* SPDX-License-Identifier: Apache-2.0 */
/* sse.c - one line at a time; CR, LF and CRLF all end a line, wherever the stream was cut.
 *
 * "id" and "retry" are for browsers that reconnect by themselves; we do not, and skip them with the comments.
 */
#include "net/sse.h"

static void append_lines(struct buf *out, struct str data)
{
	size_t start = 0;
	for (size_t i = 0; i <= data.len; i++) {
		if (i < data.len && data.base[i] != '\n' && data.base[i] != '\r')
			continue;
		buf_append_str(out, STR("data: "));
		buf_append(out, data.base + start, i - start);
		buf_append_str(out, STR("\n"));
		if (i + 1 < data.len && data.base[i] == '\r' && data.base[i + 1] == '\n')
			i++;
		start = i + 1;
	}
}

void sse_append(struct buf *out, struct str event, struct str data)
{
	if (event.len) {
		buf_append_str(out, STR("event: "));
		buf_append_str(out, event);
		buf_append_str(out, STR("\n"));
	}
	append_lines(out, data);
	buf_append_str(out, STR("\n"));
}

void sse_parser_init(struct sse_parser *p, size_t max_bytes, sse_on_event *on_event, void *arg)
{
	*p = (struct sse_parser){.max_bytes = max_bytes, .on_event = on_event, .arg = arg};
}

void sse_parser_fini(struct sse_parser *p)
{
	buf_fini(&p->line);
	buf_fini(&p->data);
	buf_fini(&p->event);
}

static int dispatch(struct sse_parser *p)
{
	int rc = 0;
	if (p->has_data)
		rc = p->on_event(p->arg, buf_str(&p->event), buf_str(&p->data));
	buf_clear(&p->data);
	buf_clear(&p->event);
	p->has_data = false;
	return rc;
}

static int take_line(struct sse_parser *p)
{
	struct str line = buf_str(&p->line), value = {0};
	if (!p->started && str_starts(line, STR("\xEF\xBB\xBF")))
		line = (struct str){line.base + 3, line.len - 3};
	p->started = true;
	if (line.len == 0)
		return dispatch(p);
	struct str field = str_cut(line, ':', &value);
	if (value.len && value.base[0] == ' ')
		value = (struct str){value.base + 1, value.len - 1};
	if (str_equal(field, STR("data"))) {
		if (p->has_data)
			buf_append_str(&p->data, STR("\n"));
		buf_append_str(&p->data, value);
		p->has_data = true;
	} else if (str_equal(field, STR("event"))) {
		buf_clear(&p->event);
		buf_append_str(&p->event, value);
	}
	return 0;
}

/* The bytes before the next line end, or all. */
static size_t run_length(struct str s)
{
	const char *lf = memchr(s.base, '\n', s.len);
	size_t len = lf ? (size_t)(lf - s.base) : s.len;
	const char *cr = memchr(s.base, '\r', len);
	return cr ? (size_t)(cr - s.base) : len;
}

int sse_parser_feed(struct sse_parser *p, struct str bytes, struct error *err)
{
	while (bytes.len) {
		if (p->skip_lf && bytes.base[0] == '\n')
			bytes = (struct str){bytes.base + 1, bytes.len - 1};
		p->skip_lf = false;
		if (bytes.len == 0)
			break;
		size_t len = run_length(bytes);
		if (p->line.len + len + p->data.len + p->event.len > p->max_bytes)
			return error_set(err, E_LIMIT, "an event is larger than %zu bytes", p->max_bytes);
		buf_append(&p->line, bytes.base, len);
		if (len == bytes.len)
			break;
		p->skip_lf = bytes.base[len] == '\r';
		bytes = (struct str){bytes.base + len + 1, bytes.len - len - 1};
		int rc = take_line(p);
		buf_clear(&p->line);
		if (rc != 0)
			return rc;
	}
	return 0;
}
