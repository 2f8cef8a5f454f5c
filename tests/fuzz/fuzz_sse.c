/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_sse.c - an event stream in two cuts gives the same events, whatever it holds. */
#include "net/sse.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int on_event(void *arg, struct str event, struct str text)
{
	struct buf *seen = arg;
	buf_append_json(seen, event);
	buf_append_json(seen, text);
	return 0;
}

static int feed(struct str text, size_t cut, struct buf *ret_seen)
{
	struct sse_parser p;
	struct error err;
	int rc = 0;
	sse_parser_init(&p, 4096, on_event, ret_seen);
	for (size_t at = 0; at < text.len && rc == 0; at += cut) {
		size_t len = text.len - at < cut ? text.len - at : cut;
		rc = sse_parser_feed(&p, (struct str){text.base + at, len}, &err);
	}
	sse_parser_fini(&p);
	return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct buf whole = {0}, pieces = {0};
	struct str text = {(const char *)data, size};
	if (size == 0)
		return 0;
	int a = feed(text, size, &whole), b = feed(text, 1 + data[0] % 7, &pieces);
	/* An event at the size limit may be refused a few bytes earlier in one piece; otherwise all is equal. */
	if (a == 0 && b == 0 && !str_equal(buf_str(&whole), buf_str(&pieces)))
		abort();
	buf_fini(&whole);
	buf_fini(&pieces);
	return 0;
}
