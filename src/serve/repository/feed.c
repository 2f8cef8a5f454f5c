/* SPDX-License-Identifier: Apache-2.0 */
/* GET /mdn/v1/catalog: the versions, at once or when they change (docs/wire.md). The document is made once for all who
 * wait, in a job: of many versions it is megabytes. A client that is ahead of us (the catalog was restored from a copy)
 * is answered at once. */
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

/* An exchange that is answered when a document is made that is no older than `serial`; unwatched, so it stays until
 * then. */
struct feed_ask {
	struct feed_ask *next;
	struct http_exchange *x;
	uint64_t serial;
};

struct make {
	struct task t;
	struct buf document;
	uint64_t serial;
};

static void make_work(struct task *t)
{
	struct make *m = (struct make *)t;
	struct buf versions = {0};
	t->rc = catalog_append_versions(t->r->catalog, &versions, &m->serial, &t->err);
	if (!t->rc) {
		buf_printf(&m->document, "{\"serial\":%llu,\"versions\":[", (unsigned long long)m->serial);
		buf_append_str(&m->document, buf_str(&versions));
		buf_append_str(&m->document, STR("]}\n"));
	}
	buf_fini(&versions);
}

static void add_ask(struct repository *r, struct feed_ask *a);

static void make_done(struct task *t)
{
	struct make *m = (struct make *)t;
	struct repository *r = t->r;
	struct feed_ask *asks = r->feed_asks;
	r->feed_asks = NULL;
	for (struct feed_ask *a = asks, *next; a; a = next) {
		next = a->next;
		if (!t->rc && a->serial > m->serial) {
			add_ask(r, a); /* something was pushed since this job began */
			continue;
		}
		if (t->rc)
			http_respond_error(a->x, &t->err);
		else
			http_respond(a->x, 200, "application/json", buf_str(&m->document));
		free(a);
	}
	if (!t->rc && !r->freed) {
		buf_fini(&r->feed);
		r->feed = m->document;
		r->feed_serial = m->serial;
	} else {
		buf_fini(&m->document);
	}
	free(m);
}

/* The first of a list starts the job. */
static void add_ask(struct repository *r, struct feed_ask *a)
{
	a->next = r->feed_asks;
	r->feed_asks = a;
	if (a->next)
		return;
	struct make *m = task_new(r, NULL, STR(""), sizeof *m);
	task_run(&m->t, make_work, make_done);
}

static void answer(struct repository *r, struct http_exchange *x)
{
	if (r->feed.len && r->feed_serial == catalog_serial(r->catalog)) {
		http_respond(x, 200, "application/json", buf_str(&r->feed));
		return;
	}
	struct feed_ask *a = NEW(struct feed_ask);
	*a = (struct feed_ask){.x = x, .serial = catalog_serial(r->catalog)};
	add_ask(r, a);
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
