/* SPDX-License-Identifier: Apache-2.0 */
/* fairness.c - see the header. The backlog is a list that is searched: it is at most as long as the queue. */
#include "core/fairness.h"

#include "core/hash.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

static struct fairness_tenant **bucket_of(struct fairness *f, uint64_t hash)
{
	return &f->buckets[hash % FAIRNESS_BUCKETS];
}

static void list_add(struct fairness_tenant **list, struct fairness_tenant *t)
{
	t->prev = NULL;
	t->next = *list;
	if (t->next)
		t->next->prev = t;
	*list = t;
}

static void list_remove(struct fairness_tenant **list, struct fairness_tenant *t)
{
	if (t->prev)
		t->prev->next = t->next;
	else
		*list = t->next;
	if (t->next)
		t->next->prev = t->prev;
	t->prev = t->next = NULL;
}

static void tenant_forget(struct fairness *f, struct fairness_tenant *t)
{
	struct fairness_tenant **at = bucket_of(f, t->hash);

	while (*at != t)
		at = &(*at)->bucket_next;
	*at = t->bucket_next;
	free(t);
}

static void idle_remove(struct fairness *f, struct fairness_tenant *t)
{
	list_remove(&f->idle, t);
	f->idle_count--;
}

static void idle_forget(struct fairness *f)
{
	while (f->idle) {
		struct fairness_tenant *t = f->idle;
		idle_remove(f, t);
		tenant_forget(f, t);
	}
}

/* The smallest counter would be lifted first, so it is the one to lose. */
static void idle_shrink(struct fairness *f)
{
	struct fairness_tenant *least = f->idle;

	for (struct fairness_tenant *t = f->idle; t; t = t->next)
		if (t->service < least->service)
			least = t;
	idle_remove(f, least);
	tenant_forget(f, least);
}

void fairness_fini(struct fairness *f)
{
	assert(!f->backlog);
	idle_forget(f);
	for (size_t i = 0; i < FAIRNESS_BUCKETS; i++)
		assert(!f->buckets[i]);
}

static struct fairness_tenant *tenant_find(struct fairness *f, struct str name, uint64_t hash)
{
	for (struct fairness_tenant *t = *bucket_of(f, hash); t; t = t->bucket_next)
		if (t->hash == hash && str_equal((struct str){t->name, t->name_len}, name))
			return t;
	return NULL;
}

struct fairness_tenant *fairness_hold(struct fairness *f, struct str name, double weight)
{
	uint64_t hash = hash_str(name);
	struct fairness_tenant *t = tenant_find(f, name, hash);

	if (!t) {
		t = mem_new(sizeof(*t) + name.len + 1);
		t->hash = hash;
		t->name_len = name.len;
		if (name.len)
			memcpy(t->name, name.base, name.len);
		t->bucket_next = *bucket_of(f, hash);
		*bucket_of(f, hash) = t;
	} else if (!t->holds) {
		idle_remove(f, t);
	}
	t->holds++;
	t->running++;
	t->weight = isfinite(weight) && weight > 0 ? weight : 1;
	return t;
}

void fairness_release(struct fairness *f, struct fairness_tenant *t)
{
	assert(t->running > 0 && t->holds > 0);
	t->running--;
	if (--t->holds)
		return;
	const struct fairness_tenant *first = fairness_first(f);
	if (!first || t->service <= first->service) { /* it would be lifted as high anyway */
		tenant_forget(f, t);
		return;
	}
	list_add(&f->idle, t);
	if (++f->idle_count > FAIRNESS_IDLE_MAX)
		idle_shrink(f);
}

void fairness_wait(struct fairness *f, struct fairness_tenant *t)
{
	assert(t->running > 0);
	t->running--;
	if (t->waiting++)
		return;
	const struct fairness_tenant *first = fairness_first(f);
	double floor = first ? first->service : f->most;
	if (t->service < floor)
		t->service = floor;
	list_add(&f->backlog, t);
}

void fairness_begin(struct fairness *f, struct fairness_tenant *t)
{
	assert(t->waiting > 0);
	t->running++;
	if (--t->waiting)
		return;
	list_remove(&f->backlog, t);
	if (!f->backlog)
		idle_forget(f);
}

void fairness_charge(struct fairness *f, struct fairness_tenant *t, double cost)
{
	t->service += cost / t->weight;
	if (t->service > f->most)
		f->most = t->service;
}

struct fairness_tenant *fairness_first(const struct fairness *f)
{
	struct fairness_tenant *first = f->backlog;

	/* The newest is at the front: of equals, the one that has waited longest. */
	for (struct fairness_tenant *t = f->backlog; t; t = t->next)
		if (t->service <= first->service)
			first = t;
	return first;
}
