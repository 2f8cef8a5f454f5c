/* SPDX-License-Identifier: Apache-2.0 */
/* http_range.c - see http_range.h. */
#include "net/http_range.h"

#include <stdio.h>

enum http_range http_range(const struct http_exchange *x, uint64_t size, uint64_t *ret_from, uint64_t *ret_length)
{
	struct str text, last;
	uint64_t a = 0, b = UINT64_MAX;
	if (!http_header(x, "range", &text) || !str_starts(text, STR("bytes=")) || memchr(text.base, ',', text.len))
		return HTTP_RANGE_NONE;
	text.base += 6;
	text.len -= 6;
	if (!memchr(text.base, '-', text.len))
		return HTTP_RANGE_NONE;
	struct str first = str_cut(text, '-', &last);
	if ((first.len && str_to_u64(first, &a)) || (last.len && str_to_u64(last, &b)) || (!first.len && !last.len))
		return HTTP_RANGE_BAD;
	if (!first.len) { /* the last b bytes */
		a = b < size ? size - b : 0;
		b = b ? UINT64_MAX : 0;
		if (!b)
			return HTTP_RANGE_BAD;
	}
	if (a >= size || b < a)
		return HTTP_RANGE_BAD;
	*ret_from = a;
	*ret_length = (b < size - 1 ? b : size - 1) - a + 1;
	return HTTP_RANGE_PART;
}

void http_add_content_range(struct http_exchange *x, uint64_t from, uint64_t length, uint64_t size)
{
	char text[80];
	snprintf(text, sizeof text, "bytes %llu-%llu/%llu", (unsigned long long)from,
	         (unsigned long long)(from + length - 1), (unsigned long long)size);
	http_add_header(x, "Content-Range", str_from(text));
}

void http_add_no_range(struct http_exchange *x, uint64_t size)
{
	char text[40];
	snprintf(text, sizeof text, "bytes */%llu", (unsigned long long)size);
	http_add_header(x, "Content-Range", str_from(text));
}

void http_respond_file_part(struct http_exchange *x, int fd, uint64_t size, bool part, uint64_t from, uint64_t length)
{
	http_add_header(x, "Accept-Ranges", STR("bytes"));
	if (part)
		http_add_content_range(x, from, length, size);
	http_respond_file(x, part ? 206 : 200, "application/octet-stream", fd, part ? from : 0, part ? length : size);
}
