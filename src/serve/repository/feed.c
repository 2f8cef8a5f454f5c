/* SPDX-License-Identifier: Apache-2.0 */
/* GET /mdn/v1/catalog: the versions, at once or when they change (docs/wire.md). The document is made once for all who
 * wait. A client that is ahead of us (the catalog was restored from a copy) is answered at once. */
#include "serve/repository/repository_private.h"

#include "base/limits.h"

#include <stdlib.h>

#define WAIT_MAX_MS 60000

struct feed_wait {
	struct repository *r;
	struct feed_wait *next, **link;
	struct http_exchange *x;
	struct loop_timer *timer;
	uint64_t after;
};

static int make_document(struct repository *r, struct error *err)
{
	if (r->feed.len && r->feed_serial == catalog_serial(r->catalog))
		return 0;
	struct buf versions = {0};
	int rc = catalog_append_versions(r->catalog, &versions, &r->feed_serial, err);
	buf_clear(&r->feed);
	if (!rc) {
		buf_printf(&r->feed, "{\"serial\":%llu,\"versions\":[", (unsigned long long)r->feed_serial);
		buf_append_str(&r->feed, buf_str(&versions));
		buf_append_str(&r->feed, STR("]}\n"));
	}
	buf_fini(&versions);
	return rc;
}

static void answer(struct repository *r, struct http_exchange *x)
{
	struct error err = {0};
	if (make_document(r, &err))
		http_respond_error(x, &err);
	else
		http_respond(x, 200, "application/json", buf_str(&r->feed));
}

static struct http_exchange *wait_end(struct feed_wait *w)
{
	struct http_exchange *x = w->x;
	if (w->next)
		w->next->link = w->link;
	*w->link = w->next;
	w->r->wait_count--;
	loop_timer_free(w->timer);
	free(w);
	return x;
}

static void wait_gone(void *arg)
{
	wait_end(arg);
}

static void wait_answer(struct feed_wait *w)
{
	struct repository *r = w->r;
	struct http_exchange *x = wait_end(w);
	http_watch(x, NULL, NULL, NULL);
	answer(r, x);
}

static void wait_over(void *arg)
{
	wait_answer(arg);
}

static void wait_begin(struct repository *r, struct http_exchange *x, uint64_t after, uint64_t wait_ms)
{
	struct feed_wait *w = NEW(struct feed_wait);
	*w = (struct feed_wait){.r = r, .next = r->waits, .link = &r->waits, .x = x, .after = after};
	if (w->next)
		w->next->link = &w->next;
	r->waits = w;
	r->wait_count++;
	w->timer = loop_timer_new(r->loop, wait_over, w);
	loop_timer_start(w->timer, (int64_t)(wait_ms < WAIT_MAX_MS ? wait_ms : WAIT_MAX_MS) * 1000, 0);
	http_watch(x, NULL, wait_gone, w);
}

static bool take_number(struct http_exchange *x, const char *name, uint64_t *ret, struct error *err)
{
	struct str text;
	if (http_query(x, name, &text) && str_to_u64(text, ret)) {
		error_set(err, E_INVAL, "\"%s\" must be a number", name);
		return false;
	}
	return true;
}

void feed_handle(struct repository *r, struct http_exchange *x)
{
	uint64_t after = 0, wait_ms = 0;
	struct error err = {0};
	struct str ignored;
	if (!str_equal(http_method(x), STR("GET")))
		error_set(&err, E_METHOD, "the catalog is read with GET");
	else if (take_number(x, "after", &after, &err) && take_number(x, "wait_ms", &wait_ms, &err) &&
	         r->wait_count >= LIMIT_SSE_WATCHERS)
		error_set(&err, E_UNAVAILABLE, "%d nodes wait for the catalog already; try again later",
		          LIMIT_SSE_WATCHERS);
	if (err.code) {
		http_respond_error(x, &err);
		return;
	}
	if (!wait_ms || !http_query(x, "after", &ignored) || catalog_serial(r->catalog) != after)
		answer(r, x);
	else
		wait_begin(r, x, after, wait_ms);
}

void feed_wake(struct repository *r)
{
	uint64_t serial = catalog_serial(r->catalog);
	for (struct feed_wait *w = r->waits, *next; w; w = next) {
		next = w->next;
		if (w->after != serial)
			wait_answer(w);
	}
}

void feed_fini(struct repository *r)
{
	struct error err = {0};
	error_set(&err, E_UNAVAILABLE, "the repository stops; ask again in a moment");
	while (r->waits) {
		struct http_exchange *x = wait_end(r->waits);
		http_watch(x, NULL, NULL, NULL);
		http_respond_error(x, &err);
	}
}
