/* SPDX-License-Identifier: Apache-2.0 */
/* request_queue.c - see the header. Each tenant with something waiting has a sorted list, hung on its fairness entry.
 */
#include "core/request_queue.h"

#include <assert.h>

void request_queue_fini(struct request_queue *q)
{
	assert(q->waiting == 0);
	for (size_t i = 0; i < QUEUE_CLASSES; i++)
		fairness_fini(&q->classes[i]);
}

static struct fairness *class_of(struct request_queue *q, const struct queued *r)
{
	return &q->classes[r->service_class];
}

static bool goes_before(const struct queued *a, const struct queued *b)
{
	if (a->priority != b->priority)
		return a->priority < b->priority;
	if (a->deadline_us != b->deadline_us)
		return a->deadline_us < b->deadline_us;
	return a->order < b->order;
}

/* Most come last, so the place is looked for from the end; the first one's `prev` is the last one. */
static void line_add(struct fairness_tenant *t, struct queued *r)
{
	struct queued *first = t->line;

	if (!first) {
		r->prev = r;
		r->next = NULL;
		t->line = r;
		return;
	}
	struct queued *after = first->prev;
	while (after && goes_before(r, after))
		after = after == first ? NULL : after->prev;
	r->next = after ? after->next : first;
	r->prev = after ? after : first->prev;
	if (r->next)
		r->next->prev = r;
	else
		first->prev = r;
	if (after)
		after->next = r;
	else
		t->line = r;
}

static void line_remove(struct fairness_tenant *t, struct queued *r)
{
	struct queued *first = t->line;

	if (r == first)
		t->line = r->next;
	else
		r->prev->next = r->next;
	if (r->next)
		r->next->prev = r->prev;
	else if (r != first)
		first->prev = r->prev;
	r->prev = r->next = NULL;
}

static void queue_add(struct request_queue *q, struct queued *r)
{
	fairness_wait(class_of(q, r), r->tenant);
	line_add(r->tenant, r);
	r->waits = true;
	q->waiting++;
}

static void queue_remove(struct request_queue *q, struct queued *r)
{
	line_remove(r->tenant, r);
	fairness_begin(class_of(q, r), r->tenant);
	r->waits = false;
	q->waiting--;
}

void request_queue_join(struct request_queue *q, struct queued *r, struct str tenant, double weight)
{
	assert(!r->tenant && r->service_class >= 0 && r->service_class < QUEUE_CLASSES);
	r->tenant = fairness_hold(class_of(q, r), tenant, weight);
	queue_add(q, r);
}

void request_queue_leave(struct request_queue *q, struct queued *r)
{
	if (!r->tenant)
		return;
	if (r->waits)
		queue_remove(q, r);
	fairness_release(class_of(q, r), r->tenant);
	r->tenant = NULL;
}

void request_queue_begin(struct request_queue *q, struct queued *r)
{
	assert(r->waits);
	queue_remove(q, r);
}

void request_queue_back(struct request_queue *q, struct queued *r)
{
	assert(r->tenant && !r->waits);
	queue_add(q, r);
}

void request_queue_charge(struct request_queue *q, struct queued *r, double cost)
{
	fairness_charge(class_of(q, r), r->tenant, cost);
}

struct queued *request_queue_first(const struct request_queue *q)
{
	for (size_t i = 0; i < QUEUE_CLASSES; i++) {
		const struct fairness_tenant *t = fairness_first(&q->classes[i]);
		if (t)
			return t->line;
	}
	return NULL;
}

struct queued *request_queue_next(const struct request_queue *q, const struct queued *after)
{
	if (after && after->next)
		return after->next;
	if (after && after->tenant->next)
		return after->tenant->next->line;
	for (size_t i = after ? (size_t)after->service_class + 1 : 0; i < QUEUE_CLASSES; i++)
		if (q->classes[i].backlog)
			return q->classes[i].backlog->line;
	return NULL;
}

bool queued_may_displace(const struct queued *waits, const struct queued *runs)
{
	const struct fairness_tenant *t = waits->tenant, *holder = runs->tenant;

	if (waits->service_class != runs->service_class)
		return waits->service_class < runs->service_class &&
		       (!runs->answering || runs->service_class == QUEUE_CLASSES - 1);
	return t->running == 0 && holder->running > 1 && holder->service >= t->service;
}

bool queued_yields_before(const struct queued *a, const struct queued *b)
{
	if (a->service_class != b->service_class)
		return a->service_class > b->service_class;
	if (a->answering != b->answering)
		return !a->answering;
	if (a->tenant->running != b->tenant->running)
		return a->tenant->running > b->tenant->running;
	return a->order > b->order;
}
