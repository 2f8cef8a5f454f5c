/* SPDX-License-Identifier: Apache-2.0 */
/* All running requests get tokens at the same rate, so one clock of work serves for all: a request ends when the clock
 * has gone on by its answer's length, and a change of the rate moves no request's end. */
#include "sim/engine_model.h"

#include "core/admission.h"

#include <math.h>
#include <stdlib.h>

enum { CLASS_NORMAL = 1 };

void engine_model_init(struct engine_model *e, const struct scenario_engine *settings)
{
	*e = (struct engine_model){.settings = settings};
}

void engine_model_fini(struct engine_model *e)
{
	free(e->waiting.items);
	free(e->prefills.items);
	free(e->running);
	*e = (struct engine_model){0};
}

/* ---- small containers ------------------------------------------------------------------------ */

static struct engine_work *deque_at(const struct engine_deque *d, uint32_t i)
{
	return &d->items[(d->first + i) % d->cap];
}

static void deque_push(struct engine_deque *d, const struct engine_work *w)
{
	if (d->count == d->cap) {
		uint32_t cap = d->cap ? d->cap * 2 : 8;
		struct engine_work *items = mem_resize(NULL, cap, sizeof(*items));
		for (uint32_t i = 0; i < d->count; i++)
			items[i] = *deque_at(d, i);
		free(d->items);
		*d = (struct engine_deque){items, 0, d->count, cap};
	}
	d->items[(d->first + d->count++) % d->cap] = *w;
}

static struct engine_work deque_pop(struct engine_deque *d)
{
	struct engine_work w = *deque_at(d, 0);
	d->first = (d->first + 1) % d->cap;
	d->count--;
	return w;
}

static void running_add(struct engine_model *e, struct engine_running r)
{
	if (e->running_count == e->running_cap) {
		e->running_cap = e->running_cap ? e->running_cap * 2 : 8;
		e->running = mem_resize(e->running, e->running_cap, sizeof(*e->running));
	}
	uint32_t at = e->running_count++;
	for (uint32_t up; at > 0 && e->running[up = (at - 1) / 2].end > r.end; at = up)
		e->running[at] = e->running[up];
	e->running[at] = r;
}

static struct engine_running running_pop(struct engine_model *e)
{
	struct engine_running first = e->running[0], last = e->running[--e->running_count];
	uint32_t at = 0, count = e->running_count;
	for (uint32_t child; (child = at * 2 + 1) < count; at = child) {
		if (child + 1 < count && e->running[child + 1].end < e->running[child].end)
			child++;
		if (e->running[child].end >= last.end)
			break;
		e->running[at] = e->running[child];
	}
	e->running[at] = last;
	return first;
}

/* ---- time ------------------------------------------------------------------------------------ */

uint32_t engine_model_busy(const struct engine_model *e)
{
	return e->running_count + e->prefills.count;
}

static double itl_us(const struct engine_model *e)
{
	return (double)e->settings->itl_base_us + e->settings->itl_slope_us * e->running_count;
}

static void pass(struct engine_model *e, int64_t now_us)
{
	double us = (double)(now_us - e->at_us);
	if (e->running_count > 0)
		e->work += us / itl_us(e);
	e->busy_us += us * engine_model_busy(e);
	e->at_us = now_us;
}

static int64_t ends_us(const struct engine_model *e)
{
	if (e->running_count == 0)
		return INT64_MAX;
	double us = (e->running[0].end - e->work) * itl_us(e);
	return e->at_us + (us > 0 ? (int64_t)ceil(us) : 0);
}

static void begin_prefill(struct engine_model *e, int64_t now_us)
{
	if (e->prefills.count > 0)
		e->prefill_ends_us =
		    now_us + (int64_t)(deque_at(&e->prefills, 0)->uncached * 1e6 / e->settings->prefill_tokens_per_s);
}

static bool fits(const struct engine_model *e, const struct engine_work *w)
{
	return engine_model_busy(e) < e->settings->slots && (double)(e->kv + w->kv) <= e->settings->kv_tokens;
}

static void admit(struct engine_model *e, const struct engine_work *w, int64_t now_us)
{
	e->kv += w->kv;
	deque_push(&e->prefills, w);
	if (e->prefills.count == 1)
		begin_prefill(e, now_us);
}

bool engine_model_has_room(const struct engine_model *e)
{
	return engine_model_busy(e) < e->settings->slots ||
	       admission_check((int32_t)e->settings->queue, CLASS_NORMAL, (int32_t)e->waiting.count, 0) ==
	           ADMISSION_YES;
}

bool engine_model_offer(struct engine_model *e, const struct engine_work *work, int64_t now_us)
{
	pass(e, now_us);
	if (e->waiting.count == 0 && fits(e, work)) {
		admit(e, work, now_us);
	} else if (admission_check((int32_t)e->settings->queue, CLASS_NORMAL, (int32_t)e->waiting.count, 0) ==
	           ADMISSION_YES) {
		deque_push(&e->waiting, work);
	} else {
		return false;
	}
	e->tokens_to_prefill += work->uncached;
	return true;
}

int64_t engine_model_next_us(const struct engine_model *e)
{
	int64_t end_us = ends_us(e), late_us = INT64_MAX;
	if (e->waiting.count > 0)
		late_us =
		    admission_deadline(deque_at(&e->waiting, 0)->since_us, CLASS_NORMAL, 0, e->settings->queue_wait_us);
	if (e->prefills.count > 0 && e->prefill_ends_us < end_us)
		end_us = e->prefill_ends_us;
	return end_us < late_us ? end_us : late_us;
}

static void refill(struct engine_model *e, int64_t now_us, engine_event_fn *fn, void *arg)
{
	while (e->waiting.count > 0) {
		const struct engine_work *w = deque_at(&e->waiting, 0);
		if (admission_deadline(w->since_us, CLASS_NORMAL, 0, e->settings->queue_wait_us) <= now_us) {
			struct engine_work late = deque_pop(&e->waiting);
			e->tokens_to_prefill -= late.uncached;
			fn(arg, late.request, ENGINE_TOO_LATE, now_us);
		} else if (fits(e, w)) {
			struct engine_work next = deque_pop(&e->waiting);
			admit(e, &next, now_us);
		} else {
			return;
		}
	}
}

void engine_model_run(struct engine_model *e, int64_t now_us, engine_event_fn *fn, void *arg)
{
	pass(e, now_us);
	while (e->running_count > 0 && ends_us(e) <= now_us) {
		struct engine_running r = running_pop(e);
		e->kv -= r.kv;
		fn(arg, r.request, ENGINE_DONE, now_us);
	}
	if (e->prefills.count > 0 && e->prefill_ends_us <= now_us) {
		struct engine_work w = deque_pop(&e->prefills);
		e->tokens_to_prefill -= w.uncached;
		running_add(e, (struct engine_running){e->work + w.output - 1, w.request, w.kv});
		fn(arg, w.request, ENGINE_FIRST_TOKEN, now_us);
		begin_prefill(e, now_us);
	}
	refill(e, now_us, fn, arg);
}

void engine_model_drop(struct engine_model *e, int64_t now_us, void (*fn)(void *arg, uint32_t request), void *arg)
{
	pass(e, now_us);
	while (e->running_count > 0)
		fn(arg, running_pop(e).request);
	while (e->prefills.count > 0)
		fn(arg, deque_pop(&e->prefills).request);
	while (e->waiting.count > 0)
		fn(arg, deque_pop(&e->waiting).request);
	e->kv = e->tokens_to_prefill = 0;
}
