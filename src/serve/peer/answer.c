/* SPDX-License-Identifier: Apache-2.0 */
/* answer.c - what other nodes read here: finished blobs, held chunks of blobs on their way, and who holds what.
 *
 * Range requests are RFC 9110 section 14, one range. Of a partial blob only whole held chunks are given, so
 * nothing unverified ever leaves.
 */
#include "serve/peer/room.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define WAIT_MAX_MS 10000

enum range_kind { RANGE_NONE, RANGE_OK, RANGE_BAD };

/* "bytes=a-b", "bytes=a-", "bytes=-n"; anything else is ignored, as the RFC allows. */
static enum range_kind range_of(const struct http_exchange *x, uint64_t size, uint64_t *ret_from, uint64_t *ret_length)
{
	struct str text, last;
	uint64_t from, to;
	if (!http_header(x, "range", &text) || !str_starts(text, STR("bytes=")))
		return RANGE_NONE;
	text = (struct str){text.base + 6, text.len - 6};
	struct str first = str_cut(text, '-', &last);
	if (first.len == text.len)
		return RANGE_NONE;
	if (first.len == 0) {
		if (str_to_u64(last, &to))
			return RANGE_NONE;
		if (to == 0 || size == 0)
			return RANGE_BAD;
		*ret_length = to < size ? to : size;
		*ret_from = size - *ret_length;
		return RANGE_OK;
	}
	if (str_to_u64(first, &from) || (last.len && str_to_u64(last, &to)))
		return RANGE_NONE;
	if (last.len == 0 || to >= size)
		to = size - 1;
	if (size == 0 || from >= size || to < from)
		return RANGE_BAD;
	*ret_from = from;
	*ret_length = to - from + 1;
	return RANGE_OK;
}

static void answer_file(struct http_exchange *x, int fd, uint64_t size, bool ranged, uint64_t from, uint64_t length)
{
	char text[80];
	if (ranged) {
		snprintf(text, sizeof text, "bytes %llu-%llu/%llu", (unsigned long long)from,
		         (unsigned long long)(from + length - 1), (unsigned long long)size);
		http_add_header(x, "content-range", str_from(text));
	}
	http_add_header(x, "accept-ranges", STR("bytes"));
	http_respond_file(x, ranged ? 206 : 200, "application/octet-stream", fd, from, length);
}

static void answer_not_held(struct http_exchange *x)
{
	struct error err = {0};
	error_set(&err, E_NOTFOUND, "this node does not hold that (yet)");
	http_respond_error(x, &err);
}

static void answer_partial(struct http_exchange *x, const struct fetch *f)
{
	const struct chunk_list *list;
	const struct chunk_plan *plan;
	uint64_t from, length;
	if (!fetch_view(f, &list, &plan) || range_of(x, list->size, &from, &length) != RANGE_OK) {
		answer_not_held(x);
		return;
	}
	for (uint64_t at = from; at < from + length; at = (at / list->chunk_size + 1) * list->chunk_size) {
		if (!chunk_plan_has(plan, (uint32_t)(at / list->chunk_size))) {
			answer_not_held(x);
			return;
		}
	}
	int fd = dup(fetch_fd(f));
	if (fd < 0) {
		struct error err = {0};
		error_errno(&err, errno, "cannot open the partial file once more");
		http_respond_error(x, &err);
		return;
	}
	answer_file(x, fd, list->size, true, from, length);
}

static void answer_blob(struct peer *p, struct http_exchange *x, const struct digest *d)
{
	uint64_t size, from = 0, length;
	int fd;
	struct error err = {0};
	if (blob_open(p->o.store, d, &fd, &size, &err)) {
		struct fetch *f = err.code == E_NOTFOUND ? peer_fetch(p, d) : NULL;
		if (f)
			answer_partial(x, f);
		else
			http_respond_error(x, &err);
		return;
	}
	enum range_kind kind = range_of(x, size, &from, &length);
	if (kind == RANGE_BAD) {
		close(fd);
		error_set(&err, E_RANGE, "the range is outside the %llu bytes of this blob", (unsigned long long)size);
		http_respond_error(x, &err);
		return;
	}
	answer_file(x, fd, size, kind == RANGE_OK, from, kind == RANGE_OK ? length : size);
}

/* ---- have ------------------------------------------------------------------------------------- */

void answer_have(struct http_exchange *x, const struct chunk_list *list, const struct chunk_plan *plan)
{
	struct buf out = {0};
	size_t bytes = (list->count + 7) / 8;
	char *text = mem_new((bytes + 2) / 3 * 4 + 1);
	base64url_encode(chunk_plan_bitmap(plan), bytes, text);
	buf_printf(&out,
	           "{\"size\":%llu,\"chunk_size\":%llu,\"count\":%u,\"held\":%u,\"complete\":false,\"bitmap\":\"%s\"}",
	           (unsigned long long)list->size, (unsigned long long)list->chunk_size, list->count,
	           chunk_plan_held(plan), text);
	http_respond(x, 200, "application/json", buf_str(&out));
	free(text);
	buf_fini(&out);
}

static void answer_have_blob(struct peer *p, struct http_exchange *x, const struct digest *d)
{
	uint64_t size, after = 0, wait_ms = 0;
	struct str text;
	if (blob_stat(p->o.store, d, &size, NULL) == 0) {
		struct buf out = {0};
		buf_printf(&out, "{\"size\":%llu,\"complete\":true}", (unsigned long long)size);
		http_respond(x, 200, "application/json", buf_str(&out));
		buf_fini(&out);
		return;
	}
	const struct chunk_list *list;
	const struct chunk_plan *plan;
	struct fetch *f = peer_fetch(p, d);
	if (!f || !fetch_view(f, &list, &plan)) {
		answer_not_held(x);
		return;
	}
	if ((http_query(x, "after", &text) && str_to_u64(text, &after)) ||
	    (http_query(x, "wait_ms", &text) && str_to_u64(text, &wait_ms))) {
		struct error err = {0};
		error_set(&err, E_INVAL, "`after` and `wait_ms` must be decimal numbers");
		http_respond_error(x, &err);
		return;
	}
	if (wait_ms > WAIT_MAX_MS)
		wait_ms = WAIT_MAX_MS;
	if (chunk_plan_held(plan) > after || wait_ms == 0)
		answer_have(x, list, plan);
	else
		fetch_wait(f, x, (uint32_t)(after < list->count ? after : list->count), (int64_t)wait_ms * US_PER_MS);
}

bool peer_handle(struct peer *p, struct http_exchange *x)
{
	const struct str prefix = STR("/mdn/v1/blobs/"), have = STR("/have");
	struct str path = http_path(x);
	struct error err = {0};
	struct digest d;
	if (str_equal(path, STR("/mdn/v1/ping"))) {
		http_respond(x, 204, NULL, STR(""));
		return true;
	}
	if (!str_starts(path, prefix))
		return false;
	if (!str_equal(http_method(x), STR("GET")) && !str_equal(http_method(x), STR("HEAD"))) {
		error_set(&err, E_METHOD, "blobs are read here with GET or HEAD");
		http_respond_error(x, &err);
		return true;
	}
	struct str name = {path.base + prefix.len, path.len - prefix.len};
	bool asks_have = str_ends(name, have);
	if (asks_have)
		name.len -= have.len;
	if (digest_parse(name, &d)) {
		error_set(&err, E_INVAL, "`" STR_FMT "` is not a digest; write sha256: and 64 hex digits",
		          STR_ARG(name));
		http_respond_error(x, &err);
	} else if (asks_have) {
		answer_have_blob(p, x, &d);
	} else {
		answer_blob(p, x, &d);
	}
	return true;
}
