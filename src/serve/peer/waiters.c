/* SPDX-License-Identifier: Apache-2.0 */
/* waiters.c - other nodes that ask for what is not held yet: each exchange waits for its bytes, or for more chunks than
 * it knows of, until its time is over. Those who wait for bytes are answered at once, the others at most every NEWS_US.
 */
#include "serve/peer/fetch.h"

#define NEWS_US INT64_C(30000) /* who waits for any chunks hears of them at most this often */

static void waiter_unlink(struct waiter *w)
{
	for (struct waiter **at = &w->fetch->waiters; *at; at = &(*at)->next) {
		if (*at == w) {
			*at = w->next;
			return;
		}
	}
}

static void on_waiter_gone(void *arg)
{
	struct waiter *w = arg;
	if (w->fetch)
		waiter_unlink(w);
}

/* The waiter lives in the exchange's memory; once answered, `fetch` NULL tells on_waiter_gone that it is unlinked. */
static void waiter_answer(struct waiter *w, bool over)
{
	struct fetch *f = w->fetch;
	struct error err = {0};
	/* While it is on its way there is no whole one to look for on the disk, each time that a chunk came. */
	bool held = w->bytes && f->plan && answer_held(f->peer, w->x, f);
	if (held || (w->bytes && (over || !f->plan) && answer_bytes(f->peer, w->x, &f->file.digest))) {
		/* answered */
	} else if (w->bytes && !over) {
		return;
	} else if (!w->bytes && f->plan) {
		answer_have(w->x, &f->list, f->plan);
	} else {
		error_set(&err, E_NOTFOUND, "this node does not hold that (yet)");
		http_respond_error(w->x, &err);
	}
	waiter_unlink(w);
	w->fetch = NULL;
}

static void wait_for(struct fetch *f, struct http_exchange *x, bool bytes, uint32_t after, int64_t wait_us)
{
	struct waiter *w = http_alloc(x, sizeof *w);
	struct waiter **tail = &f->waiters;
	while (*tail) /* who asked first is answered first */
		tail = &(*tail)->next;
	*w = (struct waiter){f, NULL, x, bytes, after, loop_now_us(f->peer->loop) + wait_us};
	*tail = w;
	http_watch(x, NULL, on_waiter_gone, w);
}

void fetch_wait_count(struct fetch *f, struct http_exchange *x, uint32_t after, int64_t wait_us)
{
	wait_for(f, x, false, after, wait_us);
}

void fetch_wait_bytes(struct fetch *f, struct http_exchange *x, int64_t wait_us)
{
	wait_for(f, x, true, 0, wait_us);
}

void waiters_tell(struct fetch *f, int64_t now_us, bool all)
{
	for (struct waiter *w = f->waiters, *next; w; w = next) {
		next = w->next;
		bool over = all || now_us >= w->until_us;
		if (over || w->bytes || (f->plan && chunk_plan_held(f->plan) > w->after))
			waiter_answer(w, over);
	}
}

/* Those who wait for chunks that came are answered at once. */
void waiters_serve(struct fetch *f)
{
	for (struct waiter *w = f->waiters, *next; w; w = next) {
		next = w->next;
		if (w->bytes)
			waiter_answer(w, false);
	}
}

void waiters_on_news(void *arg)
{
	struct fetch *f = arg;
	f->news_armed = false;
	waiters_tell(f, loop_now_us(f->peer->loop), false);
}

void waiters_news(struct fetch *f)
{
	if (f->news_armed)
		return;
	f->news_armed = true;
	loop_timer_start(f->news_timer, NEWS_US, 0);
}
