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

static bool holds(const struct assigned_limit *l, struct str own_site, struct str site)
{
	if (site.len == 0)
		return true;
	if (l->site[0])
		return str_equal(str_from(l->site), site);
	return !l->other_sites || !str_equal(own_site, site);
}

static uint64_t least(const struct fetch_limits *l, struct str own_site, struct str site, int64_t wall_us, bool sends)
{
	uint64_t least = CALENDAR_NONE;
	for (size_t i = 0; i < l->count; i++) {
		const struct assigned_limit *one = &l->limits[i];
		uint64_t rate = calendar_rate(&one->calendar, wall_us);
		if (rate == CALENDAR_NONE || !holds(one, own_site, site))
			continue;
		rate /= sends ? one->senders : one->receivers;
		least = rate < least ? rate : least;
	}
	return least;
}

uint64_t fetch_limits_receive(const struct fetch_limits *l, struct str own_site, struct str site, int64_t wall_us)
{
	return least(l, own_site, site, wall_us, false);
}

uint64_t fetch_limits_send(const struct fetch_limits *l, struct str own_site, struct str site, int64_t wall_us)
{
	return least(l, own_site, site, wall_us, true);
}
