/* SPDX-License-Identifier: Apache-2.0 */
/* How: the rate is constant between two edges (begin or end of a span, midnight), so every question is a walk from edge
 * to edge. A week repeats; a walk that sees no progress for longer than that gives up, and of many weeks only the first
 * and the last are walked through.
 */
#include "core/calendar.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define US INT64_C(1000000)
#define DAY_S 86400
#define DAYS_ALL 0x7f
#define WEEK_US (INT64_C(7) * DAY_S * US)
#define YEAR_US (INT64_C(366) * DAY_S * US)
#define RATE_MOST 1e15

static const char *const day_names[] = {"mon", "tue", "wed", "thu", "fri", "sat", "sun"};
static const struct {
	const char *unit;
	double bytes;
} units[] = {
    {"bit/s", 0.125}, {"kbit/s", 125},    {"mbit/s", 125e3},       {"gbit/s", 125e6},
    {"b/s", 1},       {"kb/s", 1e3},      {"mb/s", 1e6},           {"gb/s", 1e9},
    {"kib/s", 1024},  {"mib/s", 1048576}, {"gib/s", 1073741824.0},
};
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- rates ------------------------------------------------------------------------------------------ */

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* Digits with at most one point between them: no signs, exponents, or locales. */
static bool number_take(struct str *s, double *ret)
{
	double value = 0, place = 1;
	size_t at = 0, digits = 0;
	bool point = false;
	for (; at < s->len && at < 24; at++) {
		char c = s->base[at];
		if (c == '.' && !point && digits > 0) {
			point = true;
			continue;
		}
		if (!is_digit(c))
			break;
		digits++;
		if (point)
			value += (c - '0') * (place /= 10);
		else
			value = value * 10 + (c - '0');
	}
	if (digits == 0)
		return false;
	*s = (struct str){s->base + at, s->len - at};
	*ret = value;
	return true;
}

int rate_parse(struct str text, uint64_t *ret_rate, struct error *err)
{
	struct str rest = str_trim(text);
	double value;
	if (str_equal_nocase(rest, STR("none"))) {
		*ret_rate = CALENDAR_NONE;
		return 0;
	}
	if (str_equal_nocase(rest, STR("stop"))) {
		*ret_rate = 0;
		return 0;
	}
	if (number_take(&rest, &value)) {
		rest = str_trim(rest);
		for (size_t i = 0; i < COUNT(units); i++) {
			if (!str_equal_nocase(rest, str_from(units[i].unit)))
				continue;
			value *= units[i].bytes;
			if (value > RATE_MOST || (value > 0 && value < 1))
				break;
			*ret_rate = (uint64_t)llround(value);
			return 0;
		}
	}
	return error_set(err, E_INVAL, "\"" STR_FMT "\" is no rate: write 10Gbit/s, 200Mbit/s, 50MB/s, none or stop",
	                 STR_ARG(((struct str){text.base, text.len < 60 ? text.len : 60})));
}

void rate_format(uint64_t rate, char ret_text[static 32])
{
	static const char *const names[] = {"Gbit/s", "Mbit/s", "kbit/s"};
	static const uint64_t sizes[] = {125000000, 125000, 125};
	if (rate == CALENDAR_NONE || rate == 0) {
		snprintf(ret_text, 32, "%s", rate ? "none" : "stop");
		return;
	}
	for (size_t i = 0; i < COUNT(names); i++) {
		if (rate % sizes[i] == 0) {
			snprintf(ret_text, 32, "%" PRIu64 "%s", rate / sizes[i], names[i]);
			return;
		}
		uint64_t tenths = rate * 10 / sizes[i];
		if (rate < UINT64_MAX / 10 && rate * 10 % sizes[i] == 0 && tenths >= 10) {
			snprintf(ret_text, 32, "%" PRIu64 ".%" PRIu64 "%s", tenths / 10, tenths % 10, names[i]);
			return;
		}
	}
	snprintf(ret_text, 32, "%" PRIu64 "B/s", rate);
}

/* ---- reading ------------------------------------------------------------------------------------------ */

static int day_of(struct str s)
{
	for (int i = 0; i < 7; i++)
		if (str_equal_nocase(s, str_from(day_names[i])))
			return i;
	return -1;
}

/* mon-fri+sun */
static bool days_parse(struct str text, uint8_t *ret_days)
{
	uint8_t days = 0;
	while (text.len > 0) {
		struct str rest = {0}, last = {0}, part = str_cut(text, '+', &rest), first = str_cut(part, '-', &last);
		int from = day_of(first), to = first.len < part.len ? day_of(last) : from;
		if (from < 0 || to < 0 || (part.len < text.len && rest.len == 0))
			return false;
		for (int d = from;; d = (d + 1) % 7) {
			days |= (uint8_t)(1 << d);
			if (d == to)
				break;
		}
		text = rest;
	}
	*ret_days = days;
	return days != 0;
}

/* HH:MM up to 24:00 */
static bool time_parse(struct str s, int32_t *ret_s)
{
	if (s.len != 5 || s.base[2] != ':' || !is_digit(s.base[0]) || !is_digit(s.base[1]) || !is_digit(s.base[3]) ||
	    !is_digit(s.base[4]))
		return false;
	int hours = (s.base[0] - '0') * 10 + s.base[1] - '0', minutes = (s.base[3] - '0') * 10 + s.base[4] - '0';
	if (hours > 24 || minutes > 59 || (hours == 24 && minutes > 0))
		return false;
	*ret_s = hours * 3600 + minutes * 60;
	return true;
}

static bool span_parse(struct str text, struct calendar_item *i)
{
	struct str to = {0}, from = str_cut(text, '-', &to);
	if (!time_parse(from, &i->from_s) || !time_parse(to, &i->to_s) || i->from_s == DAY_S)
		return false;
	if (i->to_s <= i->from_s)
		i->to_s += DAY_S;
	return true;
}

static bool offset_parse(struct str text, int32_t *ret_s)
{
	if (!str_starts(text, STR("UTC")) && !str_starts(text, STR("utc")))
		return false;
	if (text.len == 3) {
		*ret_s = 0;
		return true;
	}
	char sign = text.base[3];
	int32_t s;
	if ((sign != '+' && sign != '-') || !time_parse((struct str){text.base + 4, text.len - 4}, &s) || s > 14 * 3600)
		return false;
	*ret_s = sign == '-' ? -s : s;
	return true;
}

static struct str next_word(struct str *text)
{
	*text = str_trim(*text);
	size_t at = 0;
	while (at < text->len && text->base[at] != ' ' && text->base[at] != '\t')
		at++;
	struct str word = {text->base, at};
	*text = str_trim((struct str){text->base + at, text->len - at});
	return word;
}

static int item_parse(struct calendar *c, struct str text, bool *had_else, struct error *err)
{
	struct calendar_item item = {.days = DAYS_ALL, .from_s = 0, .to_s = DAY_S};
	struct str word = next_word(&text), before = text;
	bool days = false, span = false;
	int rc;
	if (word.len == 0)
		return error_set(err, E_INVAL, "an item between two commas is empty: write RATE [DAYS] [HH:MM-HH:MM]");
	if (text.len == 0 && offset_parse(word, &c->offset_s))
		return 0;
	/* "10 Gbit/s" is written, too */
	struct str unit = next_word(&before);
	if (is_digit(word.base[0]) && is_digit(word.base[word.len - 1]) && str_ends(unit, STR("/s"))) {
		word.len = (size_t)(unit.base + unit.len - word.base);
		text = before;
	}
	if ((rc = rate_parse(word, &item.rate, err)) < 0)
		return rc;
	if (str_equal_nocase(text, STR("else")) || (text.len == 0 && c->count == 0 && !*had_else)) {
		if (*had_else)
			return error_set(err, E_INVAL, "there are two rates for all other times: keep one \"else\"");
		*had_else = true;
		c->otherwise = item.rate;
		return 0;
	}
	while (text.len > 0) {
		word = next_word(&text);
		if (!days && days_parse(word, &item.days))
			days = true;
		else if (!span && span_parse(word, &item))
			span = true;
		else
			return error_set(err, E_INVAL,
			                 "\"" STR_FMT "\" is neither days (mon-fri, sat+sun) nor a span (HH:MM-HH:MM)",
			                 STR_ARG(((struct str){word.base, word.len < 40 ? word.len : 40})));
	}
	if (!days && !span)
		return error_set(err, E_INVAL, "only one rate can do without a time: say \"else\" or HH:MM-HH:MM");
	if (c->count == CALENDAR_ITEMS_MAX)
		return error_set(err, E_LIMIT, "a calendar has at most %d spans", CALENDAR_ITEMS_MAX);
	c->items[c->count++] = item;
	return 0;
}

int calendar_parse(struct str text, struct calendar *ret_calendar, struct error *err)
{
	struct calendar c = {.otherwise = CALENDAR_NONE};
	bool had_else = false;
	if (text.len > CALENDAR_TEXT_MAX)
		return error_set(err, E_LIMIT, "a calendar has at most %d bytes", CALENDAR_TEXT_MAX);
	for (bool more = true; more;) {
		struct str rest = {0}, item = str_cut(text, ',', &rest);
		more = item.len < text.len;
		text = rest;
		int rc = item_parse(&c, str_trim(item), &had_else, err);
		if (rc < 0)
			return rc;
	}
	if (c.count == 0 && !had_else)
		return error_set(err, E_INVAL, "the calendar has no rate: write 10Gbit/s 01:00-06:00, 1Gbit/s else");
	*ret_calendar = c;
	return 0;
}

/* ---- writing ------------------------------------------------------------------------------------------- */

static void days_format(uint8_t days, struct buf *out)
{
	bool first = true;
	for (int d = 0; d < 7; d++) {
		int last = d;
		if (!(days & 1 << d))
			continue;
		while (last < 6 && days & 1 << (last + 1))
			last++;
		buf_printf(out, "%s%s", first ? " " : "+", day_names[d]);
		if (last > d)
			buf_printf(out, "-%s", day_names[last]);
		first = false;
		d = last;
	}
}

void calendar_format(const struct calendar *c, struct buf *out)
{
	char rate[32];
	for (size_t i = 0; i < c->count; i++) {
		const struct calendar_item *item = &c->items[i];
		int32_t to = item->to_s > DAY_S ? item->to_s - DAY_S : item->to_s;
		rate_format(item->rate, rate);
		buf_printf(out, "%s%s", i ? ", " : "", rate);
		if (item->days != DAYS_ALL)
			days_format(item->days, out);
		buf_printf(out, " %02d:%02d-%02d:%02d", item->from_s / 3600, item->from_s / 60 % 60, to / 3600,
		           to / 60 % 60);
	}
	rate_format(c->otherwise, rate);
	if (c->count == 0)
		buf_append_str(out, str_from(rate));
	else if (c->otherwise != CALENDAR_NONE)
		buf_printf(out, ", %s else", rate);
	if (c->offset_s) {
		int32_t s = abs(c->offset_s);
		buf_printf(out, ", UTC%c%02d:%02d", c->offset_s < 0 ? '-' : '+', s / 3600, s / 60 % 60);
	}
}

/* ---- asking ---------------------------------------------------------------------------------------------- */

struct local {
	int64_t day; /* since 1970-01-01, local */
	int32_t s;   /* of that day */
};

static struct local local_of(const struct calendar *c, int64_t wall_us)
{
	int64_t s = wall_us / US - (wall_us % US < 0) + c->offset_s;
	int64_t day = s / DAY_S - (s % DAY_S < 0);
	return (struct local){day, (int32_t)(s - day * DAY_S)};
}

/* 1970-01-01 was a Thursday. */
static int weekday(int64_t day)
{
	return (int)(((day + 3) % 7 + 7) % 7);
}

static bool item_holds(const struct calendar_item *i, struct local t)
{
	if (i->days & 1 << weekday(t.day) && t.s >= i->from_s && t.s < i->to_s)
		return true;
	return i->days & 1 << weekday(t.day - 1) && t.s + DAY_S < i->to_s;
}

uint64_t calendar_rate(const struct calendar *c, int64_t wall_us)
{
	struct local t = local_of(c, wall_us);
	for (size_t i = 0; i < c->count; i++)
		if (item_holds(&c->items[i], t))
			return c->items[i].rate;
	return c->otherwise;
}

/* The next moment at which the rate may change: an edge of a span, or midnight. */
static int64_t next_edge(const struct calendar *c, int64_t wall_us)
{
	struct local t = local_of(c, wall_us);
	int32_t next = DAY_S;
	for (size_t i = 0; i < c->count; i++) {
		const int32_t edges[] = {c->items[i].from_s, c->items[i].to_s, c->items[i].to_s - DAY_S};
		for (size_t e = 0; e < COUNT(edges); e++)
			if (edges[e] > t.s && edges[e] < next)
				next = edges[e];
	}
	return (t.day * DAY_S + next - c->offset_s) * US;
}

int64_t calendar_next(const struct calendar *c, int64_t wall_us)
{
	uint64_t now = calendar_rate(c, wall_us);
	int64_t at = wall_us;
	if (c->count == 0)
		return CALENDAR_NEVER;
	while (at - wall_us <= 8 * DAY_S * US) {
		at = next_edge(c, at);
		if (calendar_rate(c, at) != now)
			return at;
	}
	return CALENDAR_NEVER;
}

static double pass(uint64_t rate, int64_t us)
{
	return (double)rate * (double)us / (double)US;
}

uint64_t calendar_bytes(const struct calendar *c, uint64_t most, int64_t from_us, int64_t to_us)
{
	double sum = 0;
	for (int64_t at = from_us; at < to_us;) {
		int64_t next = calendar_next(c, at);
		uint64_t rate = calendar_rate(c, at);
		if (next > to_us)
			next = to_us;
		if (rate > most)
			rate = most;
		if (rate == CALENDAR_NONE)
			return UINT64_MAX;
		sum += pass(rate, next - at);
		at = next;
	}
	return sum >= 1.8e19 ? UINT64_MAX - 1 : (uint64_t)sum;
}

/* Of all at that moment, and until when. */
static uint64_t least_rate(const struct calendar *const *all, size_t count, uint64_t most, int64_t at,
                           int64_t *ret_next)
{
	*ret_next = CALENDAR_NEVER;
	for (size_t i = 0; i < count; i++) {
		if (!all[i])
			continue;
		uint64_t own = calendar_rate(all[i], at);
		int64_t change = calendar_next(all[i], at);
		most = own < most ? own : most;
		*ret_next = change < *ret_next ? change : *ret_next;
	}
	return most;
}

int64_t calendar_when(const struct calendar *const *all, size_t count, uint64_t most, uint64_t bytes, int64_t from_us)
{
	double left = (double)bytes, week = 0; /* what passed since from_us, until that is a week */
	bool skipped = false;
	for (int64_t at = from_us; at - from_us < YEAR_US;) {
		if (!skipped && at - from_us >= WEEK_US) {
			/* All weeks are alike: of those that will not do, only the last is walked through. */
			double weeks = week > 0 ? floor(left / week) - 1 : YEAR_US;
			skipped = true;
			if (weeks * WEEK_US >= (double)YEAR_US)
				break;
			at += weeks > 0 ? (int64_t)weeks * WEEK_US : 0;
			left -= weeks > 0 ? weeks * week : 0;
		}
		int64_t next;
		uint64_t rate = least_rate(all, count, most, at, &next);
		if (rate == CALENDAR_NONE || left <= 0)
			return at;
		if (rate > 0) {
			double us = ceil(left / (double)rate * (double)US);
			if (next == CALENDAR_NEVER ? us < (double)YEAR_US : us <= (double)(next - at))
				return at + (int64_t)us;
		}
		if (next == CALENDAR_NEVER)
			break;
		if (!skipped && next - from_us > WEEK_US)
			next = from_us + WEEK_US;
		left -= pass(rate, next - at);
		week += pass(rate, next - at);
		at = next;
	}
	return CALENDAR_NEVER;
}

/* ---- moments ------------------------------------------------------------------------------------------------ */

/* Days since 1970-01-01 of a date in the Gregorian calendar (H. Hinnant, "chrono-compatible low-level date
 * algorithms").
 */
static int64_t days_from_civil(int64_t y, int64_t m, int64_t d)
{
	y -= m <= 2;
	int64_t era = (y >= 0 ? y : y - 399) / 400, yoe = y - era * 400;
	int64_t doy = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
	return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

int moment_parse(struct str text, int64_t now_wall_us, int64_t *ret_wall_us, struct error *err)
{
	int32_t s;
	int64_t us;
	int y, m, d, used = 0;
	char copy[32];
	text = str_trim(text);
	if (time_parse(text, &s)) {
		int64_t day = now_wall_us / US / DAY_S * DAY_S * US;
		*ret_wall_us = day + s * US > now_wall_us ? day + s * US : day + (s + DAY_S) * US;
		return 0;
	}
	if (str_to_duration_us(text, &us) == 0 && us < YEAR_US) {
		*ret_wall_us = now_wall_us + us;
		return 0;
	}
	if (text.len == 17 && text.base[10] == 'T' && text.base[16] == 'Z' && str_copy(text, copy, sizeof(copy)) &&
	    time_parse((struct str){text.base + 11, 5}, &s) && sscanf(copy, "%4d-%2d-%2dT%n", &y, &m, &d, &used) == 3 &&
	    used == 11 && y >= 1970 && m >= 1 && m <= 12 && d >= 1 && d <= 31) {
		*ret_wall_us = (days_from_civil(y, m, d) * DAY_S + s) * US;
		return 0;
	}
	return error_set(err, E_INVAL,
	                 "\"" STR_FMT "\" is no moment: write 06:00 (UTC), 2026-11-25T06:00Z, or a duration like 2h",
	                 STR_ARG(((struct str){text.base, text.len < 60 ? text.len : 60})));
}
