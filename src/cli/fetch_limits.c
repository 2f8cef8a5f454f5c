/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/fetch_limits.h"

#include <stdlib.h>

void fetch_limits_set(struct fetch_limits *l, const struct assignment *a)
{
	fetch_limits_fini(l);
	if (a->limit_count == 0)
		return;
	l->limits = mem_new(a->limit_count * sizeof *l->limits);
	memcpy(l->limits, a->limits, a->limit_count * sizeof *l->limits);
	l->count = a->limit_count;
}

void fetch_limits_fini(struct fetch_limits *l)
{
	free(l->limits);
	*l = (struct fetch_limits){0};
}

static bool is_for_all(const struct assigned_limit *l)
{
	return !l->other_sites && !l->site[0];
}

static uint64_t divisor(const struct assigned_limit *l, bool sends)
{
	return sends ? l->senders : l->receivers;
}

static uint64_t least_for_all(const struct fetch_limits *l, int64_t wall_us, bool sends)
{
	uint64_t least = CALENDAR_NONE;
	for (size_t i = 0; i < l->count; i++) {
		uint64_t rate = calendar_rate(&l->limits[i].calendar, wall_us);
		if (rate == CALENDAR_NONE || !is_for_all(&l->limits[i]))
			continue;
		rate /= divisor(&l->limits[i], sends);
		least = rate < least ? rate : least;
	}
	return least;
}

static size_t classes(const struct fetch_limits *l, int64_t wall_us, bool sends, struct peer_class *ret, size_t max)
{
	size_t count = 0;
	for (size_t i = 0; i < l->count && count < max; i++) {
		const struct assigned_limit *one = &l->limits[i];
		uint64_t rate = calendar_rate(&one->calendar, wall_us);
		if (is_for_all(one))
			continue;
		struct peer_class *c = &ret[count++]; /* also without a limit now: each keeps its place */
		*c = (struct peer_class){.rate_max = rate == CALENDAR_NONE ? 0 : rate / divisor(one, sends)};
		if (rate != CALENDAR_NONE && c->rate_max == 0)
			c->rate_max = 1; /* stopped: 0 is no limit */
		memcpy(c->site, one->site, sizeof c->site);
	}
	return count;
}

uint64_t fetch_limits_receive(const struct fetch_limits *l, int64_t wall_us)
{
	return least_for_all(l, wall_us, false);
}

size_t fetch_limits_classes(const struct fetch_limits *l, int64_t wall_us, struct peer_class *ret, size_t max)
{
	return classes(l, wall_us, false, ret, max);
}

uint64_t fetch_limits_send(const struct fetch_limits *l, int64_t wall_us)
{
	return least_for_all(l, wall_us, true);
}

size_t fetch_limits_send_classes(const struct fetch_limits *l, int64_t wall_us, struct peer_class *ret, size_t max)
{
	return classes(l, wall_us, true, ret, max);
}
