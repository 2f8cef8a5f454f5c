/* SPDX-License-Identifier: Apache-2.0 */
/* A node holds at most some hundred models, so each step looks at all of them. */
#include "core/residence.h"

static uint64_t add(uint64_t a, uint64_t b)
{
	return a + b < a ? UINT64_MAX : a + b;
}

static uint64_t sum_of(const struct resident *all, size_t count, bool pinned_only)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < count; i++)
		if (!all[i].goes && (!pinned_only || all[i].pinned))
			sum = add(sum, all[i].bytes);
	return sum;
}

static bool may_go(const struct resident *r)
{
	return !r->goes && !r->pinned && !r->busy && r->bytes;
}

static struct resident *oldest(struct resident *all, size_t count)
{
	struct resident *found = NULL;

	for (size_t i = 0; i < count; i++)
		if (may_go(&all[i]) && (!found || all[i].used_us < found->used_us))
			found = &all[i];
	return found;
}

/* Those whose room is not needed stay, the most recently used first. */
static void spare(struct resident *all, size_t count, uint64_t room)
{
	for (;;) {
		struct resident *best = NULL;
		uint64_t sum = sum_of(all, count, false);

		for (size_t i = 0; i < count; i++)
			if (all[i].goes && sum + all[i].bytes <= room && (!best || all[i].used_us > best->used_us))
				best = &all[i];
		if (!best)
			return;
		best->goes = false;
	}
}

enum residence residence_plan(struct resident *all, size_t count, uint64_t max, uint64_t need)
{
	for (size_t i = 0; i < count; i++)
		all[i].goes = false;
	if (need > max)
		return RESIDENCE_NEVER;
	uint64_t room = max - need;
	if (sum_of(all, count, true) > room)
		return RESIDENCE_PINNED;
	while (sum_of(all, count, false) > room) {
		struct resident *r = oldest(all, count);
		if (!r) {
			for (size_t i = 0; i < count; i++)
				all[i].goes = false;
			return RESIDENCE_WAIT;
		}
		r->goes = true;
	}
	spare(all, count, room);
	return RESIDENCE_FITS;
}

size_t residence_give_way(const struct resident *all, size_t count, int64_t now_us, int64_t stay_us)
{
	size_t found = count;

	for (size_t i = 0; i < count; i++) {
		const struct resident *r = &all[i];
		if (r->leaving && r->busy)
			return count;
		if (r->pinned || !r->busy || !r->loaded_us || now_us - r->loaded_us < stay_us)
			continue;
		if (found == count || r->loaded_us < all[found].loaded_us)
			found = i;
	}
	return found;
}
