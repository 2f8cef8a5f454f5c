/* SPDX-License-Identifier: Apache-2.0 */
/* Pairs lie in an array that doubles, found by a hash index, chained from the newest to the oldest by their places. */
#include "core/recent.h"

#include <assert.h>
#include <stdlib.h>

#define NONE UINT32_MAX

struct pair {
	uint64_t hash;
	int64_t used_us;
	uint32_t value, older, newer; /* places; free ones are chained by `older` */
};

struct recent {
	struct pair *pairs;
	struct hash_index index;
	uint32_t max, cap, count, newest, oldest, free;
};

struct recent *recent_new(uint32_t max)
{
	struct recent *r = NEW(struct recent);
	assert(max > 0 && max < NONE);
	*r = (struct recent){.max = max, .newest = NONE, .oldest = NONE, .free = NONE};
	return r;
}

void recent_free(struct recent *r)
{
	if (!r)
		return;
	hash_index_fini(&r->index);
	free(r->pairs);
	free(r);
}

static void unchain(struct recent *r, const struct pair *p)
{
	*(p->newer == NONE ? &r->newest : &r->pairs[p->newer].older) = p->older;
	*(p->older == NONE ? &r->oldest : &r->pairs[p->older].newer) = p->newer;
}

static void chain(struct recent *r, uint32_t at)
{
	r->pairs[at].newer = NONE;
	r->pairs[at].older = r->newest;
	*(r->newest == NONE ? &r->oldest : &r->pairs[r->newest].newer) = at;
	r->newest = at;
}

static void drop(struct recent *r, uint32_t at)
{
	struct pair *p = &r->pairs[at];
	unchain(r, p);
	hash_index_remove(&r->index, p->hash, at);
	p->older = r->free;
	r->free = at;
	r->count--;
}

static uint32_t place_take(struct recent *r)
{
	if (r->count == r->max)
		drop(r, r->oldest);
	if (r->free == NONE) {
		uint32_t cap = r->cap ? r->cap * 2 : 64;
		if (cap > r->max || cap < r->cap)
			cap = r->max;
		r->pairs = mem_resize(r->pairs, cap, sizeof(*r->pairs));
		while (r->cap < cap) {
			r->pairs[r->cap].older = r->free;
			r->free = r->cap++;
		}
	}
	uint32_t at = r->free;
	r->free = r->pairs[at].older;
	r->count++;
	return at;
}

void recent_touch(struct recent *r, uint64_t hash, uint32_t value, int64_t now_us)
{
	uint32_t at, oldest = NONE, alike = 0;
	for (size_t cursor = 0; hash_index_next(&r->index, hash, &cursor, &at); alike++) {
		if (r->pairs[at].value == value) {
			r->pairs[at].used_us = now_us;
			unchain(r, &r->pairs[at]);
			chain(r, at);
			return;
		}
		if (oldest == NONE || r->pairs[at].used_us < r->pairs[oldest].used_us)
			oldest = at;
	}
	if (alike >= RECENT_VALUES_MAX)
		drop(r, oldest);
	at = place_take(r);
	r->pairs[at] = (struct pair){.hash = hash, .used_us = now_us, .value = value};
	hash_index_add(&r->index, hash, at);
	chain(r, at);
}

void recent_forget(struct recent *r, uint64_t hash)
{
	uint32_t at;
	for (size_t cursor = 0; hash_index_next(&r->index, hash, &cursor, &at); cursor = 0)
		drop(r, at);
}

bool recent_next(const struct recent *r, uint64_t hash, size_t *cursor, uint32_t *ret_value)
{
	uint32_t at;
	if (!hash_index_next(&r->index, hash, cursor, &at))
		return false;
	*ret_value = r->pairs[at].value;
	return true;
}

bool recent_has(const struct recent *r, uint64_t hash)
{
	size_t cursor = 0;
	uint32_t at;
	return hash_index_next(&r->index, hash, &cursor, &at);
}

void recent_expire(struct recent *r, int64_t before_us)
{
	while (r->count > 0 && r->pairs[r->oldest].used_us < before_us)
		drop(r, r->oldest);
}

uint32_t recent_count(const struct recent *r)
{
	return r->count;
}
