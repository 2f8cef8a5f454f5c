/* SPDX-License-Identifier: Apache-2.0 */
/* One event text is made per round and written to every stream that takes it. A reader too slow for a round gets the
 * newest one when it can take more: maps are whole, so skipping loses nothing, and nothing piles up. */
#include "serve/scheduler/scheduler_internal.h"

#include "base/clock.h"
#include "base/limits.h"
#include "net/sse.h"

#include <stdlib.h>

#define LEAST_US (100 * US_PER_MS) /* between two events */
#define MOST_US US_PER_S

struct watcher {
	struct watch *watch; /* NULL once that is gone */
	struct http_exchange *x;
	struct watcher *prev, *next;
	char node[NODE_ID_SIZE]; /* empty: an operator */
	bool full, behind;
};

struct watch {
	struct scheduler *scheduler;
	struct loop_timer *timer;
	struct watcher *watchers;
	size_t count;
	int64_t sent_us;
	bool due; /* a change waits for its round */
	struct buf event;
};

static void on_round(void *arg);

struct watch *watch_new(struct scheduler *s)
{
	struct watch *w = NEW(struct watch);
	w->scheduler = s;
	w->timer = loop_timer_new(s->loop, on_round, w);
	return w;
}

static void unlink_watcher(struct watcher *v)
{
	struct watch *w = v->watch;
	if (!w)
		return;
	*(v->prev ? &v->prev->next : &w->watchers) = v->next;
	if (v->next)
		v->next->prev = v->prev;
	w->count--;
	v->watch = NULL;
	if (w->count == 0)
		loop_timer_stop(w->timer);
}

void watch_free(struct watch *w)
{
	if (!w)
		return;
	while (w->watchers) {
		struct watcher *v = w->watchers;
		unlink_watcher(v);
		http_end(v->x); /* on_gone frees it */
	}
	loop_timer_free(w->timer);
	buf_fini(&w->event);
	free(w);
}

size_t watch_count(const struct watch *w)
{
	return w->count;
}

static void event_make(struct watch *w)
{
	struct buf map = {0};
	scheduler_awake(w->scheduler);
	node_map_format(w->scheduler->map, loop_now_us(w->scheduler->loop), &map);
	buf_clear(&w->event);
	sse_append(&w->event, STR("map"), buf_str(&map));
	buf_fini(&map);
}

static void send_event(struct watch *w, struct watcher *v)
{
	v->behind = v->full;
	if (!v->full)
		v->full = !http_write(v->x, buf_str(&w->event));
}

static void on_round(void *arg)
{
	struct watch *w = arg;
	event_make(w);
	w->due = false;
	w->sent_us = loop_now_us(w->scheduler->loop);
	for (struct watcher *v = w->watchers, *next; v; v = next) {
		next = v->next;
		send_event(w, v);
	}
	if (w->count > 0)
		loop_timer_start(w->timer, MOST_US - LEAST_US / 2, 0);
}

void watch_changed(struct watch *w)
{
	if (w->count == 0 || w->due)
		return;
	int64_t since_us = loop_now_us(w->scheduler->loop) - w->sent_us;
	w->due = true;
	loop_timer_start(w->timer, since_us < LEAST_US ? LEAST_US - since_us : 0, 0);
}

static void on_writable(void *arg)
{
	struct watcher *v = arg;
	v->full = false;
	if (!v->watch || !v->behind)
		return;
	event_make(v->watch);
	send_event(v->watch, v);
}

static void on_gone(void *arg)
{
	unlink_watcher(arg);
	free(arg);
}

void watch_open(struct watch *w, struct http_exchange *x)
{
	struct error err = {0};
	if (w->count >= LIMIT_SSE_WATCHERS) {
		error_set(&err, E_UNAVAILABLE, "%d streams of the map are open, the limit; ask another scheduler",
		          LIMIT_SSE_WATCHERS);
		http_respond_error(x, &err);
		return;
	}
	struct watcher *v = NEW(struct watcher);
	v->watch = w;
	v->x = x;
	str_copy(scheduler_identity_node(http_peer_identity(x)), v->node, sizeof(v->node));
	v->next = w->watchers;
	if (w->watchers)
		w->watchers->prev = v;
	w->watchers = v;
	w->count++;
	http_add_header(x, "cache-control", STR("no-store"));
	http_respond_begin(x, 200, "text/event-stream", -1);
	http_watch(x, on_writable, on_gone, v);
	event_make(w);
	send_event(w, v);
	if (w->count == 1 && !w->due) {
		w->sent_us = loop_now_us(w->scheduler->loop);
		loop_timer_start(w->timer, MOST_US - LEAST_US / 2, 0);
	}
}

void watch_cut_removed(struct watch *w)
{
	for (struct watcher *v = w->watchers, *next; v; v = next) {
		next = v->next;
		if (!v->node[0] || !scheduler_is_removed(w->scheduler, str_from(v->node)))
			continue;
		unlink_watcher(v);
		http_abort(v->x);
	}
}
