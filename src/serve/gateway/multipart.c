/* SPDX-License-Identifier: Apache-2.0 */
/* How: a part's data ends at CR LF "--" boundary; what cannot be the beginning of that is passed on, the rest waits.
 * The very first boundary needs no line end before it: one is put there. Heads are bounded, and only
 * Content-Disposition in them counts. */
#include "serve/gateway/multipart.h"

#define HEAD_MAX 8192
#define PARTS_MAX 64

static int bad(struct error *err, const char *words)
{
	return error_set(err, E_INVAL, "the multipart body is malformed: %s", words);
}

/* The value of a parameter of a header such as: form-data; name="file"; filename="a.jsonl". Quotes and \ (RFC 9110
 * section 5.6.4) are taken off into `to`. */
static bool parameter(struct str header, const char *name, char *to, size_t size)
{
	struct str rest = header;

	str_cut(rest, ';', &rest);
	while (rest.len) {
		size_t at = 0, len = 0, key;
		bool quoted, mine;

		rest = str_trim(rest);
		for (key = 0; key < rest.len && rest.base[key] != '=' && rest.base[key] != ';'; key++)
			;
		mine = str_equal_nocase(str_trim((struct str){rest.base, key}), str_from(name));
		if (key == rest.len || rest.base[key] == ';') {
			rest = (struct str){rest.base + key + (key < rest.len), rest.len - key - (key < rest.len)};
			continue;
		}
		at = key + 1;
		quoted = at < rest.len && rest.base[at] == '"';
		for (at += quoted; at < rest.len && rest.base[at] != (quoted ? '"' : ';'); at++) {
			if (quoted && rest.base[at] == '\\' && at + 1 < rest.len)
				at++;
			if (len + 1 < size)
				to[len] = rest.base[at];
			len++;
		}
		if (mine && len < size) {
			to[len] = '\0';
			return true;
		}
		while (at < rest.len && rest.base[at] != ';')
			at++;
		rest = (struct str){rest.base + at + (at < rest.len), rest.len - at - (at < rest.len)};
	}
	return false;
}

int multipart_init(struct multipart *m, struct str content_type, const struct multipart_events *events, void *arg,
                   struct error *err)
{
	char boundary[72];
	struct str type, rest;

	memset(m, 0, sizeof(*m));
	type = str_trim(str_cut(content_type, ';', &rest));
	if (!str_equal_nocase(type, STR("multipart/form-data")))
		return error_set(err, E_INVAL, "send the file as multipart/form-data");
	if (!parameter(content_type, "boundary", boundary, sizeof(boundary) - 1) || !boundary[0])
		return error_set(err, E_INVAL, "multipart/form-data needs a boundary of 1 to 70 characters");
	m->events = events;
	m->arg = arg;
	memcpy(m->delimiter, "\r\n--", 4);
	strcpy(m->delimiter + 4, boundary);
	m->delimiter_len = strlen(m->delimiter);
	buf_append(&m->rest, "\r\n", 2);
	return 0;
}

void multipart_fini(struct multipart *m)
{
	buf_fini(&m->rest);
}

static const char *find(struct str in, const char *what, size_t len)
{
	return in.len >= len ? memmem(in.base, in.len, what, len) : NULL;
}

/* What follows a boundary: "--" for the last one, else blanks and the end of the line. False: more bytes are needed. */
static int after_boundary(struct multipart *m, bool *ret_more, struct error *err)
{
	struct str in = {m->rest.base + m->delimiter_len, m->rest.len - m->delimiter_len};
	size_t at = 0;

	*ret_more = false;
	if (in.len >= 2 && in.base[0] == '-' && in.base[1] == '-') {
		m->state = MULTIPART_AFTER;
		buf_clear(&m->rest);
		return 0;
	}
	while (at < in.len && (in.base[at] == ' ' || in.base[at] == '\t'))
		at++;
	if (in.len < at + 2 && at < HEAD_MAX) {
		*ret_more = true;
		return 0;
	}
	if (in.len < at + 2 || in.base[at] != '\r' || in.base[at + 1] != '\n')
		return bad(err, "a boundary is followed by neither a line end nor --");
	if (++m->parts > PARTS_MAX)
		return bad(err, "it has too many parts");
	m->state = MULTIPART_HEAD;
	buf_consume(&m->rest, m->delimiter_len + at + 2);
	return 0;
}

static int tell_head(struct multipart *m, struct str head, struct error *err)
{
	char name[256], filename[1024];
	struct str line;

	while (head.len) {
		struct str value;

		line = str_cut(head, '\n', &head);
		struct str key = str_trim(str_cut(line, ':', &value));

		if (!str_equal_nocase(key, STR("content-disposition")))
			continue;
		while (value.len && value.base[value.len - 1] == '\r')
			value.len--;
		if (!parameter(value, "name", name, sizeof(name)))
			return bad(err, "a part has no name");
		bool file = parameter(value, "filename", filename, sizeof(filename));

		return m->events->on_part(m->arg, str_from(name), file ? str_from(filename) : (struct str){0}, err);
	}
	return bad(err, "a part has no Content-Disposition");
}

static int read_head(struct multipart *m, bool *ret_more, struct error *err)
{
	const char *end = find(buf_str(&m->rest), "\r\n\r\n", 4);

	*ret_more = false;
	if (!end) {
		if (m->rest.len > HEAD_MAX)
			return bad(err, "the head of a part is too long");
		*ret_more = true;
		return 0;
	}
	struct str head = {m->rest.base, (size_t)(end - m->rest.base)};
	int rc = tell_head(m, head, err);
	if (rc == 0) {
		m->state = MULTIPART_DATA;
		buf_consume(&m->rest, head.len + 4);
	}
	return rc;
}

/* Data up to the next boundary; what may be the beginning of one waits. */
static int read_data(struct multipart *m, bool *ret_more, struct error *err)
{
	struct str in = buf_str(&m->rest);
	const char *end = find(in, m->delimiter, m->delimiter_len);
	size_t len = end ? (size_t)(end - in.base) : in.len < m->delimiter_len ? 0 : in.len - m->delimiter_len + 1;
	int rc = 0;

	if (len && m->state == MULTIPART_DATA)
		rc = m->events->on_data(m->arg, (struct str){in.base, len}, err);
	buf_consume(&m->rest, len);
	*ret_more = !end;
	if (rc < 0 || !end)
		return rc;
	enum multipart_state was = m->state;
	rc = after_boundary(m, ret_more, err);
	if (rc == 0 && !*ret_more && was == MULTIPART_DATA)
		rc = m->events->on_end(m->arg, err);
	return rc;
}

int multipart_feed(struct multipart *m, struct str data, struct error *err)
{
	bool more = false;
	int rc = 0;

	if (m->state == MULTIPART_AFTER)
		return 0; /* an epilogue means nothing */
	buf_append_str(&m->rest, data);
	while (rc == 0 && !more && m->state != MULTIPART_AFTER)
		rc = m->state == MULTIPART_HEAD ? read_head(m, &more, err) : read_data(m, &more, err);
	return rc;
}

int multipart_finish(struct multipart *m, struct error *err)
{
	return m->state == MULTIPART_AFTER ? 0 : bad(err, "its last boundary is missing");
}
