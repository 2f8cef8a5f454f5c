/* SPDX-License-Identifier: Apache-2.0 */
/* calendar.h - a rate that depends on the time of day: "10Gbit/s 01:00-06:00, 1Gbit/s else".
 *
 *   CALENDAR = ITEM {"," ITEM}
 *   ITEM     = RATE [DAYS] [HH:MM-HH:MM] | RATE "else" | "UTC" [("+"|"-")HH:MM]
 *   RATE     = NUMBER (bit/s, kbit/s, Mbit/s, Gbit/s: decimal; B/s, kB/s, MB/s, GB/s; KiB/s, MiB/s, GiB/s) | "none" |
 *              "stop"
 *   DAYS     = DAY | DAY "-" DAY, joined by "+": mon-fri, sat+sun
 *
 * The first item that holds counts; where none does it is the "else" one, or no limit. A span whose end is not after
 * its begin goes on into the next day and belongs to the day on which it begins. A plain value; rates are bytes per
 * second, times wall-clock microseconds UTC. Pure; any thread.
 */
#ifndef MDN_CORE_CALENDAR_H
#define MDN_CORE_CALENDAR_H

#include "base/error.h"
#include "base/str.h"

#define CALENDAR_ITEMS_MAX 16
#define CALENDAR_TEXT_MAX 1024
#define CALENDAR_NONE UINT64_MAX /* no limit */
#define CALENDAR_NEVER INT64_MAX /* of times */

struct calendar {
	struct calendar_item {
		uint64_t rate;
		uint8_t days;         /* bit 0: Monday */
		int32_t from_s, to_s; /* of the day; to_s may be past midnight */
	} items[CALENDAR_ITEMS_MAX];
	size_t count;
	uint64_t otherwise;
	int32_t offset_s; /* local time minus UTC */
};

int calendar_parse(struct str text, struct calendar *ret_calendar, struct error *err);
void calendar_format(const struct calendar *c, struct buf *out); /* canonical: parses to the same */
uint64_t calendar_rate(const struct calendar *c, int64_t wall_us);
/* When the rate next differs from what it is; CALENDAR_NEVER. */
int64_t calendar_next(const struct calendar *c, int64_t wall_us);
/* Bytes that can pass between the two at no more than `most` (CALENDAR_NONE: as the calendar says); UINT64_MAX: no
 * limit. */
uint64_t calendar_bytes(const struct calendar *c, uint64_t most, int64_t from_us, int64_t to_us);
/* When `bytes` have passed, from then on at no more than `most`; CALENDAR_NEVER when not within a year. Of several
 * calendars the least counts at each moment (NULL entries are none). */
int64_t calendar_when(const struct calendar *const *all, size_t count, uint64_t most, uint64_t bytes, int64_t from_us);

/* "1.5Gbit/s", "none", "stop": for people, and parsed again. */
void rate_format(uint64_t bytes_per_s, char ret_text[static 32]);
int rate_parse(struct str text, uint64_t *ret_rate, struct error *err);
/* "06:00" (the next time it is that, UTC), "2026-11-25T06:00Z", or a duration from now ("2h"). */
int moment_parse(struct str text, int64_t now_wall_us, int64_t *ret_wall_us, struct error *err);

#endif
