/* SPDX-License-Identifier: Apache-2.0 */
/* http_range.h - the one byte range a GET may ask for (RFC 9110 section 14).
 *
 * "bytes=a-b", "bytes=a-", "bytes=-n". Several ranges and other units are as if there were no header, which the RFC
 * allows. Sizes are bytes. Loop thread.
 */
#ifndef MDN_NET_HTTP_RANGE_H
#define MDN_NET_HTTP_RANGE_H

#include "net/http.h"

enum http_range {
	HTTP_RANGE_NONE, /* the whole */
	HTTP_RANGE_PART,
	HTTP_RANGE_BAD, /* nothing of it lies within the size, or it is no range: 416 */
};

/* Of a body of `size`; the two out-parameters are written for HTTP_RANGE_PART only. */
enum http_range http_range(const struct http_exchange *x, uint64_t size, uint64_t *ret_from, uint64_t *ret_length);
/* Content-Range of a 206; http_add_no_range: of a 416, which says the size alone. */
void http_add_content_range(struct http_exchange *x, uint64_t from, uint64_t length, uint64_t size);
void http_add_no_range(struct http_exchange *x, uint64_t size);
/* Answers with the file: 206 and Content-Range for a part, else 200. Takes over fd, as http_respond_file does. */
void http_respond_file_part(struct http_exchange *x, int fd, uint64_t size, bool part, uint64_t from, uint64_t length);

#endif
