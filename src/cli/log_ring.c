/* SPDX-License-Identifier: Apache-2.0 */
/* log_ring.c - a ring of lines numbered from 0; each follower remembers the number it wants next. */
#include "cli/log_ring.h"

#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>

#define FOLLOW_US (200 * US_PER_MS)

struct follower {
	struct log_ring *ring;
	struct follower *next;
	struct http_exchange *x;
	uint64_t wants;
	bool full;
};

struct log_ring {
	struct loop *loop;
	pthread_mutex_t lock; /* guards lines and count; taken alone */
	char *lines[LOG_RING_LINES];
	uint64_t count;
	struct follower *followers;
	size_t follower_count;
	struct loop_timer *timer;
};

static void on_line(void *arg, const char *line, size_t len)
{
	struct log_ring *r = arg;
	char *copy = str_dup((struct str){line, len});
	pthread_mutex_lock(&r->lock);
	char **at = &r->lines[r->count++ % LOG_RING_LINES];
	free(*at);
	*at = copy;
	pthread_mutex_unlock(&r->lock);
}

/* What the follower has not seen, up to its connection's patience. */
static void follower_feed(struct follower *f)
{
	struct log_ring *r = f->ring;
	while (!f->full) {
		struct buf out = {0};
		pthread_mutex_lock(&r->lock);
		if (r->count - f->wants > LOG_RING_LINES) {
			uint64_t missed = r->count - LOG_RING_LINES - f->wants;
			buf_printf(&out, "... %llu lines missed ...\n", (unsigned long long)missed);
			f->wants += missed;
		}
		if (f->wants < r->count)
			buf_printf(&out, "%s\n", r->lines[f->wants++ % LOG_RING_LINES]);
		pthread_mutex_unlock(&r->lock);
		if (out.len == 0)
			return;
		f->full = !http_write(f->x, buf_str(&out));
		buf_fini(&out);
	}
}

static void on_timer(void *arg)
{
	struct log_ring *r = arg;
	for (struct follower *f = r->followers, *next; f; f = next) {
		next = f->next;
		follower_feed(f);
	}
}

static void on_writable(void *arg)
{
	((struct follower *)arg)->full = false;
	follower_feed(arg);
}

static void on_gone(void *arg)
{
	struct follower *gone = arg;
	struct log_ring *r = gone->ring;
	for (struct follower **at = &r->followers; *at; at = &(*at)->next) {
		if (*at == gone) {
			*at = gone->next;
			break;
		}
	}
	if (--r->follower_count == 0)
		loop_timer_stop(r->timer);
}

void log_ring_answer(struct log_ring *r, struct http_exchange *x)
{
	struct str text;
	uint64_t lines = 100;
	struct error err = {0};
	if (http_query(x, "lines", &text) && str_to_u64(text, &lines)) {
		error_set(&err, E_INVAL, "`lines` must be a decimal number");
		http_respond_error(x, &err);
		return;
	}
	if (r->follower_count >= LIMIT_SSE_WATCHERS) {
		error_set(&err, E_UNAVAILABLE, "%d followers read this node's log already", LIMIT_SSE_WATCHERS);
		http_respond_error(x, &err);
		return;
	}
	bool follow = http_query(x, "follow", &text) && str_equal(text, STR("true"));
	struct follower *f = http_alloc(x, sizeof *f);
	pthread_mutex_lock(&r->lock);
	uint64_t kept = r->count < LOG_RING_LINES ? r->count : LOG_RING_LINES;
	f->wants = r->count - (lines < kept ? lines : kept);
	pthread_mutex_unlock(&r->lock);
	f->ring = r;
	f->x = x;
	http_respond_begin(x, 200, "text/plain; charset=utf-8", -1);
	if (!follow) {
		/* At most LOG_RING_LINES short lines: bounded, so the write buffer's advice may be passed over. */
		for (uint64_t before = UINT64_MAX; before != f->wants;) {
			before = f->wants;
			f->full = false;
			follower_feed(f);
		}
		http_end(x);
		return;
	}
	f->next = r->followers;
	r->followers = f;
	if (r->follower_count++ == 0)
		loop_timer_start(r->timer, FOLLOW_US, FOLLOW_US);
	http_watch(x, on_writable, on_gone, f);
	follower_feed(f);
}

struct log_ring *log_ring_new(struct loop *loop)
{
	struct log_ring *r = NEW(struct log_ring);
	r->loop = loop;
	pthread_mutex_init(&r->lock, NULL);
	r->timer = loop_timer_new(loop, on_timer, r);
	log_tap(on_line, r);
	return r;
}

void log_ring_free(struct log_ring *r)
{
	if (!r)
		return;
	log_tap(NULL, NULL);
	assert(!r->followers && "servers are freed first");
	loop_timer_free(r->timer);
	for (size_t i = 0; i < LOG_RING_LINES; i++)
		free(r->lines[i]);
	pthread_mutex_destroy(&r->lock);
	free(r);
}
