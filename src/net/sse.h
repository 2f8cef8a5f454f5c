/* SPDX-License-Identifier: Apache-2.0 */
/* sse.h - Server-Sent Events (WHATWG HTML, section 9.2): writing lines, and an incremental parser.
 *
 * The parser takes any cut of the stream and calls on_event once per event with its joined data;
 * an event past max_bytes is E_LIMIT and ends the stream. Pure; one thread at a time.
 */
#ifndef MDN_NET_SSE_H
#define MDN_NET_SSE_H

#include "base/error.h"
#include "base/str.h"

void sse_append(struct buf *out, struct str event /* may be empty */, struct str data);

typedef int sse_on_event(void *arg, struct str event, struct str data); /* non-zero stops the feed */
struct sse_parser {
	struct buf line, data, event;
	bool skip_lf, started, has_data;
	size_t max_bytes;
	sse_on_event *on_event;
	void *arg;
};
void sse_parser_init(struct sse_parser *p, size_t max_bytes, sse_on_event *on_event, void *arg);
void sse_parser_fini(struct sse_parser *p);
int sse_parser_feed(struct sse_parser *p, struct str bytes, struct error *err);

#endif
