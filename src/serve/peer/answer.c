/* SPDX-License-Identifier: Apache-2.0 */
/* answer.c - what other nodes read here: finished blobs, held chunks of blobs on their way, and who holds what.
 *
 * Range requests are RFC 9110 section 14, one range. Of a partial blob only whole held chunks are given, so
 * nothing unverified ever leaves.
 */
#include "serve/peer/room.h"

#include "net/http_range.h"

#include <stdio.h>
#include <stdlib.h>

#define WAIT_MAX_MS 10000

static void answer_not_held(struct http_exchange *x)
{
	struct error err = {0};
	error_set(&err, E_NOTFOUND, "this node does not hold that (yet)");
	http_respond_error(x, &err);
}

static void send_in_turn(struct peer *p, struct http_exchange *x, struct blob_file *file, bool part, uint64_t from,
                         uint64_t length)
{
	turns_answer(&p->turns, x, file, part, from, length, peer_is_near(p, http_peer_identity(x)));
}

bool answer_held(struct peer *p, struct http_exchange *x, const struct fetch *f)
{
	const struct chunk_list *list;
	const struct chunk_plan *plan;
	uint64_t from, length;
	if (!fetch_view(f, &list, &plan) || http_range(x, list->size, &from, &length) != HTTP_RANGE_PART)
		return false;
	for (uint32_t i = chunk_at(list, from); i < list->count && chunk_offset(list, i) < from + length; i++)
		if (!chunk_plan_has(plan, i))
			return false;
	struct error err = {0};
	struct blob_file *file;
	if (fetch_file(f, &file, &err))
		http_respond_error(x, &err);
	else
		send_in_turn(p, x, file, true, from, length);
	return true;
}

bool answer_bytes(struct peer *p, struct http_exchange *x, const struct digest *d)
{
	uint64_t from = 0, length = 0;
	struct blob_file *file;
	struct error err = {0};
	if (blob_file_open(p->o.store, d, &file, &err)) {
		struct fetch *f = err.code == E_NOTFOUND ? peer_fetch(p, d) : NULL;
		if (f || err.code == E_NOTFOUND)
			return f && answer_held(p, x, f);
		http_respond_error(x, &err);
		return true;
	}
	uint64_t size = blob_file_size(file);
	enum http_range range = http_range(x, size, &from, &length);
	if (range == HTTP_RANGE_BAD) {
		blob_file_close(file);
		error_set(&err, E_RANGE, "the range is outside the %llu bytes of this blob", (unsigned long long)size);
		http_respond_error(x, &err);
		return true;
	}
	send_in_turn(p, x, file, range == HTTP_RANGE_PART, from, length);
	return true;
}

/* `Prefer: wait=SECONDS` (RFC 7240): 0 when absent or not understood. */
static int64_t prefer_wait_us(const struct http_exchange *x)
{
	struct str prefer;
	uint64_t seconds = 0;
	const struct str wait = STR("wait=");
	if (!http_header(x, "prefer", &prefer) || !str_starts(prefer, wait) ||
	    str_to_u64((struct str){prefer.base + wait.len, prefer.len - wait.len}, &seconds))
		return 0;
	return (int64_t)(seconds < WAIT_MAX_MS / 1000 ? seconds : WAIT_MAX_MS / 1000) * US_PER_S;
}

static void answer_blob(struct peer *p, struct http_exchange *x, const struct digest *d)
{
	if (answer_bytes(p, x, d))
		return;
	struct fetch *f = peer_fetch(p, d);
	int64_t wait_us = prefer_wait_us(x);
	if (f && wait_us > 0 && fetch_stage(f) != FETCH_FAILED)
		fetch_wait_bytes(f, x, wait_us);
	else
		answer_not_held(x);
}

/* ---- have ------------------------------------------------------------------------------------- */

void answer_have(struct http_exchange *x, const struct chunk_list *list, const struct chunk_plan *plan)
{
	struct buf out = {0};
	size_t bytes = (list->count + 7) / 8;
	char *text = mem_new((bytes + 2) / 3 * 4 + 1);
	base64url_encode(chunk_plan_bitmap(plan), bytes, text);
	buf_printf(&out, "{\"size\":%llu,\"count\":%u,\"held\":%u,\"complete\":false,\"bitmap\":\"%s\"}",
	           (unsigned long long)list->size, list->count, chunk_plan_held(plan), text);
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
		fetch_wait_count(f, x, (uint32_t)(after < list->count ? after : list->count),
		                 (int64_t)wait_ms * US_PER_MS);
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
		sends_begin(&p->sends, x, peer_sends_to(p, http_peer_identity(x)), loop_now_us(p->loop));
		answer_blob(p, x, &d);
	}
	return true;
}
