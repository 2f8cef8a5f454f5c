/* SPDX-License-Identifier: Apache-2.0 */
/* How: clock_gettime; CLOCK_MONOTONIC costs some 20 ns through the vDSO, so nobody needs to cache it. */
#include "base/clock.h"

#include <stdio.h>
#include <time.h>

static int64_t read_us(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return (int64_t)t.tv_sec * US_PER_S + t.tv_nsec / 1000;
}

int64_t clock_mono_us(void)
{
	return read_us(CLOCK_MONOTONIC);
}

int64_t clock_wall_us(void)
{
	return read_us(CLOCK_REALTIME);
}

/* 9999-12-31T23:59:59.999Z, the last time RFC 3339 can write */
#define LAST_US (INT64_C(253402300800) * US_PER_S - 1)

void clock_format(int64_t wall_us, char ret_text[static 25])
{
	struct tm tm;

	wall_us = wall_us < 0 ? 0 : wall_us > LAST_US ? LAST_US : wall_us;
	time_t seconds = (time_t)(wall_us / US_PER_S);
	gmtime_r(&seconds, &tm);
	size_t len = strftime(ret_text, 25, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(ret_text + len, 25 - len, ".%03uZ", (unsigned)(wall_us / US_PER_MS % 1000) % 1000u);
}
