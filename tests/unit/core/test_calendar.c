/* SPDX-License-Identifier: Apache-2.0 */
/* Calendars of rates (core/calendar). */
#include "base/rng.h"
#include "core/calendar.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define S INT64_C(1000000)
#define HOUR (3600 * S)
#define DAY (24 * HOUR)

static struct calendar parsed(const char *text)
{
	struct calendar c;
	struct error err = {0};
	if (calendar_parse(str_from(text), &c, &err) != 0)
		fail_msg("%s: %s", text, err.text);
	return c;
}

static int64_t at(const char *moment)
{
	int64_t us;
	assert_int_equal(moment_parse(str_from(moment), 0, &us, NULL), 0);
	return us;
}

static void test_rates_have_bits_and_bytes(void **unused)
{
	const struct {
		const char *text;
		uint64_t rate;
	} good[] = {{"10Gbit/s", 1250000000},
	            {"1 Gbit/s", 125000000},
	            {"1.5Gbit/s", 187500000},
	            {"200mbit/s", 25000000},
	            {"50MB/s", 50000000},
	            {"1MiB/s", 1048576},
	            {"8bit/s", 1},
	            {"none", CALENDAR_NONE},
	            {"stop", 0},
	            {"0 Mbit/s", 0}};
	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
		uint64_t rate = 1, again = 2;
		char text[32];
		assert_int_equal(rate_parse(str_from(good[i].text), &rate, NULL), 0);
		assert_true(rate == good[i].rate);
		rate_format(rate, text);
		assert_int_equal(rate_parse(str_from(text), &again, NULL), 0);
		assert_true(rate == again);
	}
	const char *bad[] = {"",           "10",     "Gbit/s",         "-1Gbit/s", "1e9B/s",
	                     "1..5Gbit/s", "10Gbit", "99999999Gbit/s", "1bit/s"};
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		uint64_t rate;
		struct error err = {0};
		assert_int_equal(rate_parse(str_from(bad[i]), &rate, &err), E_INVAL);
		assert_true(strlen(err.text) > 10);
	}
}

static void test_the_night_is_faster_than_the_day(void **unused)
{
	struct calendar c = parsed("10Gbit/s 01:00-06:00, 1Gbit/s else");
	assert_true(calendar_rate(&c, at("2026-11-25T00:59Z")) == 125000000);
	assert_true(calendar_rate(&c, at("2026-11-25T01:00Z")) == 1250000000);
	assert_true(calendar_rate(&c, at("2026-11-25T05:59Z")) == 1250000000);
	assert_true(calendar_rate(&c, at("2026-11-25T06:00Z")) == 125000000);
	assert_true(calendar_next(&c, at("2026-11-25T00:30Z")) == at("2026-11-25T01:00Z"));
	assert_true(calendar_next(&c, at("2026-11-25T01:00Z")) == at("2026-11-25T06:00Z"));
	assert_true(calendar_next(&c, at("2026-11-25T07:00Z")) == at("2026-11-26T01:00Z"));
	/* half an hour slow, then fast */
	uint64_t half = UINT64_C(125000000) * 1800;
	assert_true(calendar_bytes(&c, CALENDAR_NONE, at("2026-11-25T00:30Z"), at("2026-11-25T01:00Z")) == half);
	const struct calendar *all[] = {&c};
	assert_true(calendar_when(all, 1, CALENDAR_NONE, half + 1250000000, at("2026-11-25T00:30Z")) ==
	            at("2026-11-25T01:00Z") + S);
	/* what was measured is less than what is allowed */
	assert_true(calendar_when(all, 1, 1000, 5000, at("2026-11-25T02:00Z")) == at("2026-11-25T02:00Z") + 5 * S);
}

static void test_days_spans_over_midnight_and_offsets(void **unused)
{
	struct calendar c = parsed("100Mbit/s fri 22:00-06:00, stop mon-thu 09:00-17:00, none sat+sun, 10Mbit/s else");
	/* 2026-11-27 is a Friday */
	assert_true(calendar_rate(&c, at("2026-11-27T21:59Z")) == 1250000);
	assert_true(calendar_rate(&c, at("2026-11-27T22:00Z")) == 12500000);
	assert_true(calendar_rate(&c, at("2026-11-28T05:59Z")) == 12500000);
	assert_true(calendar_rate(&c, at("2026-11-28T06:00Z")) == CALENDAR_NONE);
	assert_true(calendar_rate(&c, at("2026-11-27T05:00Z")) == 1250000);
	assert_true(calendar_rate(&c, at("2026-11-26T10:00Z")) == 0);
	assert_true(calendar_next(&c, at("2026-11-28T06:00Z")) == at("2026-11-30T00:00Z"));
	struct calendar east = parsed("1Gbit/s 01:00-06:00, stop else, UTC+02:00");
	assert_true(calendar_rate(&east, at("2026-11-24T23:00Z")) == 125000000);
	assert_true(calendar_rate(&east, at("2026-11-25T04:00Z")) == 0);
	const struct calendar *none[] = {&east};
	assert_true(calendar_when(none, 1, CALENDAR_NONE, 1, at("2026-11-25T04:00Z")) >= at("2026-11-25T23:00Z"));
	struct calendar never = parsed("stop");
	none[0] = &never;
	assert_true(calendar_when(none, 1, CALENDAR_NONE, 1, at("2026-11-25T04:00Z")) == CALENDAR_NEVER);
	assert_true(calendar_next(&never, 0) == CALENDAR_NEVER);
}

static void test_what_is_no_calendar_is_refused_with_words(void **unused)
{
	const char *bad[] = {"",
	                     ",",
	                     "1Gbit/s,",
	                     "1Gbit/s 25:00-26:00",
	                     "1Gbit/s 01:00",
	                     "fast",
	                     "1Gbit/s, 2Gbit/s",
	                     "1Gbit/s else, 2Gbit/s else",
	                     "1Gbit/s funday",
	                     "UTC",
	                     "UTC+99:00",
	                     "1Gbit/s mon- 01:00-02:00"};
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct calendar c;
		struct error err = {0};
		if (calendar_parse(str_from(bad[i]), &c, &err) != E_INVAL)
			fail_msg("taken: %s", bad[i]);
		assert_true(strlen(err.text) > 10);
	}
}

static void random_text(struct rng *rng, struct buf *out)
{
	static const char *const days[] = {"", " mon-fri", " sat+sun", " fri-mon", " wed"};
	size_t count = 1 + rng_below(rng, 5);
	for (size_t i = 0; i < count; i++)
		buf_printf(out, "%s%uMbit/s%s %02u:%02u-%02u:%02u", i ? ", " : "", (unsigned)rng_below(rng, 5000),
		           days[rng_below(rng, 5)], (unsigned)rng_below(rng, 24), (unsigned)rng_below(rng, 60),
		           (unsigned)rng_below(rng, 24), (unsigned)rng_below(rng, 60));
	buf_printf(out, ", %uMbit/s else, UTC%c%02u:30", 1 + (unsigned)rng_below(rng, 900),
	           rng_below(rng, 2) ? '+' : '-', (unsigned)rng_below(rng, 12));
}

/* Random calendars: canonical text says the same; the integral is the sum of its minutes; "when" undoes "bytes"; the
 * rate is constant until "next". */
static void test_random_calendars_agree_with_themselves(void **unused)
{
	struct rng rng;
	rng_init(&rng, 4);
	for (int round = 0; round < 300; round++) {
		struct buf text = {0}, canonical = {0};
		random_text(&rng, &text);
		buf_append(&text, "", 1);
		struct calendar c = parsed(text.base), again;
		calendar_format(&c, &canonical);
		assert_int_equal(calendar_parse(buf_str(&canonical), &again, NULL), 0);
		int64_t from = at("2026-11-25T06:00Z") + (int64_t)rng_below(&rng, 7 * 24 * 60) * 60 * S;
		int64_t to = from + (int64_t)rng_below(&rng, 3 * 24 * 60) * 60 * S;
		uint64_t sum = 0;
		for (int64_t t = from; t < to; t += 60 * S) {
			assert_true(calendar_rate(&c, t) == calendar_rate(&again, t));
			sum += calendar_rate(&c, t) * 60;
		}
		uint64_t bytes = calendar_bytes(&c, CALENDAR_NONE, from, to);
		assert_true(llabs((int64_t)(bytes - sum)) <= 16); /* sums are doubles */
		const struct calendar *all[] = {&c, NULL};
		int64_t when = calendar_when(all, 2, CALENDAR_NONE, bytes, from);
		assert_true(when <= to + 1 && calendar_bytes(&c, CALENDAR_NONE, from, when) + 2000000000 >= bytes);
		int64_t next = calendar_next(&c, from);
		for (int64_t t = from; t < next && t < from + DAY; t += 60 * S)
			assert_true(calendar_rate(&c, t) == calendar_rate(&c, from));
		if (next != CALENDAR_NEVER)
			assert_true(calendar_rate(&c, next) != calendar_rate(&c, from));
		buf_fini(&text);
		buf_fini(&canonical);
	}
}

/* As a walk through all of it would say. */
static void test_many_weeks_are_as_good_as_one(void **unused)
{
	struct calendar c = parsed("8Mbit/s mon-fri 22:00-06:00, 4Mbit/s sat, stop else"),
			d = parsed("6Mbit/s, UTC+05:30");
	const struct calendar *all[] = {&c, &d};
	int64_t from = at("2026-11-25T03:17Z");
	for (int weeks = 1; weeks < 50; weeks += 3) {
		int64_t to = at("2026-11-26T23:30Z") + weeks * 7 * DAY;
		uint64_t bytes = calendar_bytes(&c, 750000, from, to);
		assert_in_range(calendar_when(all, 2, CALENDAR_NONE, bytes, from), (uintmax_t)(to - S),
		                (uintmax_t)(to + S));
	}
	assert_true(calendar_when(all, 2, CALENDAR_NONE, UINT64_C(1) << 50, from) == CALENDAR_NEVER);
}

static void test_moments(void **unused)
{
	int64_t now = at("2026-11-25T05:00Z"), us;
	assert_true(now == INT64_C(1795582800) * S);
	assert_int_equal(moment_parse(STR("06:00"), now, &us, NULL), 0);
	assert_true(us == now + HOUR);
	assert_int_equal(moment_parse(STR("04:00"), now, &us, NULL), 0);
	assert_true(us == now + 23 * HOUR);
	assert_int_equal(moment_parse(STR("2h"), now, &us, NULL), 0);
	assert_true(us == now + 2 * HOUR);
	assert_int_equal(moment_parse(STR("tomorrow"), now, &us, NULL), E_INVAL);
	assert_int_equal(moment_parse(STR("2026-13-25T05:00Z"), now, &us, NULL), E_INVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_rates_have_bits_and_bytes),
	    cmocka_unit_test(test_the_night_is_faster_than_the_day),
	    cmocka_unit_test(test_days_spans_over_midnight_and_offsets),
	    cmocka_unit_test(test_what_is_no_calendar_is_refused_with_words),
	    cmocka_unit_test(test_random_calendars_agree_with_themselves),
	    cmocka_unit_test(test_many_weeks_are_as_good_as_one),
	    cmocka_unit_test(test_moments),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
