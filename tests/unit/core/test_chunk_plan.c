/* SPDX-License-Identifier: Apache-2.0 */
/* One plan alone: whom it asks, ahead of what they hold, past those who hang, lie or are slow. Crowds: tests/unit/sim.
 */
#include "core/chunk_plan.h"
#include "core/spread.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define S INT64_C(1000000)
#define COUNT 64u

enum { ORIGIN, PARENT, OTHER };

/* The stripes' parent is PARENT; OTHER stands in for it. */
static struct chunk_plan *plan_new(uint32_t rank)
{
	struct chunk_plan *p = chunk_plan_new(COUNT, NULL, 1, 0);
	chunk_plan_add_source(p, ORIGIN, true, false);
	chunk_plan_add_source(p, PARENT, false, false);
	chunk_plan_add_source(p, OTHER, false, false);
	for (uint32_t s = 0; s < SPREAD_STRIPES; s++)
		chunk_plan_set_parents(p, s, (uint32_t[]){PARENT, OTHER}, 2, rank);
	return p;
}

static void offer(struct chunk_plan *p, uint32_t source, uint32_t first, uint32_t count)
{
	uint8_t bits[COUNT / 8] = {0};
	for (uint32_t i = first; i < first + count; i++)
		bits[i / 8] |= (uint8_t)(1 << i % 8);
	chunk_plan_offer(p, source, bits);
}

static void test_parents_are_asked_ahead_of_what_they_hold_in_order(void **state)
{
	struct chunk_plan *p = plan_new(5);
	struct chunk_request q;
	uint32_t last[SPREAD_STRIPES] = {0}, asked = 0;
	offer(p, PARENT, 0, 4);
	while (chunk_plan_next(p, 0, &q)) {
		uint32_t s = spread_stripe(q.chunk);
		assert_int_equal(q.source, PARENT);
		assert_int_equal(q.wait, q.chunk >= 4);
		assert_true(last[s] == 0 || q.chunk > last[s]);
		last[s] = q.chunk;
		asked++;
	}
	assert_int_equal(asked, 2 * SPREAD_STRIPES);
	chunk_plan_free(p);
}

static void test_what_hangs_is_asked_for_once_more_where_it_is(void **state)
{
	struct chunk_plan *p = plan_new(5);
	struct chunk_request q;
	while (chunk_plan_next(p, 0, &q))
		continue;
	offer(p, OTHER, 0, 8);
	assert_false(chunk_plan_next(p, S, &q));
	assert_true(chunk_plan_next(p, 4 * S, &q));
	assert_int_equal(q.source, OTHER);
	assert_false(q.wait);
	assert_true(chunk_plan_arrived(p, q.chunk, OTHER, 1000, S / 10, 4 * S));
	assert_false(chunk_plan_arrived(p, q.chunk, PARENT, 1000, S / 10, 4 * S));
	chunk_plan_free(p);
}

static void test_origin_steps_in_late_and_later_for_those_further_down(void **state)
{
	for (uint32_t rank = 0; rank < 6; rank++) {
		struct chunk_plan *p = plan_new(rank);
		struct chunk_request q;
		int64_t at = 0;
		chunk_plan_arrived(p, 0, PARENT, 1000, S / 10, 0); /* so that it knows how long one takes */
		while (chunk_plan_next(p, 0, &q))
			continue;
		while (!chunk_plan_next(p, at, &q))
			at += S / 10;
		assert_int_equal(q.source, ORIGIN);
		assert_in_range(at, S + (int64_t)rank * S * 8 / 10, 2 * S + (int64_t)rank * S * 8 / 10);
		chunk_plan_free(p);
	}
}

static void test_dead_parent_is_replaced_at_once(void **state)
{
	struct chunk_plan *p = plan_new(5);
	struct chunk_request q;
	assert_true(chunk_plan_next(p, 0, &q));
	chunk_plan_failed(p, q.chunk, PARENT, CHUNK_BROKEN, 0);
	assert_true(chunk_plan_next(p, 1000, &q));
	assert_int_equal(q.source, OTHER);
	chunk_plan_failed(p, q.chunk, OTHER, CHUNK_BROKEN, 1000);
	assert_true(chunk_plan_next(p, 2000, &q)); /* nobody of the plan is left */
	assert_int_equal(q.source, ORIGIN);
	chunk_plan_free(p);
}

static void test_corrupt_source_is_left_alone_longer_each_time(void **state)
{
	struct chunk_plan *p = chunk_plan_new(COUNT, NULL, 1, 0);
	struct chunk_request q;
	int64_t now = 0;
	chunk_plan_add_source(p, 0, false, false);
	chunk_plan_offer(p, 0, NULL);
	for (int64_t pause = 60; pause <= 240; pause *= 2) {
		assert_true(chunk_plan_next(p, now, &q));
		chunk_plan_failed(p, q.chunk, q.source, CHUNK_CORRUPT, now);
		assert_false(chunk_plan_next(p, now + (pause - 1) * S, &q));
		now += pause * S;
	}
	chunk_plan_free(p);
}

static void test_who_lies_about_what_it_has_is_asked_less_and_less(void **state)
{
	struct chunk_plan *p = chunk_plan_new(COUNT, NULL, 1, 0);
	struct chunk_request q;
	uint32_t asked = 0;
	chunk_plan_add_source(p, 0, false, false);
	for (int64_t now = 0; now < 60 * S; now += S / 20) {
		chunk_plan_offer(p, 0, NULL);
		while (chunk_plan_next(p, now, &q)) {
			chunk_plan_failed(p, q.chunk, q.source, CHUNK_NOT_YET, now);
			asked++;
		}
	}
	assert_in_range(asked, 4, 20);
	chunk_plan_free(p);
}

static void test_stripe_that_falls_behind_is_taken_from_others(void **state)
{
	struct chunk_plan *p = plan_new(0);
	struct chunk_request q;
	bool others = false;
	for (uint32_t i = 0; i < COUNT; i++)
		if (spread_stripe(i) != 2)
			chunk_plan_arrived(p, i, PARENT, 1000, S / 10, 0);
	assert_true(chunk_plan_in_need(p));
	chunk_plan_offer(p, OTHER, NULL);
	while (chunk_plan_next(p, 0, &q)) {
		assert_int_equal(spread_stripe(q.chunk), 2);
		others = others || q.source == OTHER;
	}
	assert_true(others);
	chunk_plan_free(p);
}

static void test_held_chunks_are_never_asked_for(void **state)
{
	uint8_t held[2] = {0xf0, 0xff}; /* bits past the count are noise */
	struct chunk_plan *p = chunk_plan_new(9, held, 1, 0);
	struct chunk_request q;
	assert_int_equal(chunk_plan_held(p), 5);
	chunk_plan_add_source(p, 7, true, false);
	for (int i = 0; i < 4; i++) {
		assert_true(chunk_plan_next(p, 0, &q));
		assert_true(q.chunk < 4);
		assert_true(chunk_plan_arrived(p, q.chunk, q.source, 1, 10, 0));
		assert_false(chunk_plan_arrived(p, q.chunk, q.source, 1, 10, 0));
	}
	assert_false(chunk_plan_next(p, 0, &q));
	assert_int_equal(chunk_plan_held(p), 9);
	chunk_plan_free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_parents_are_asked_ahead_of_what_they_hold_in_order),
	    cmocka_unit_test(test_what_hangs_is_asked_for_once_more_where_it_is),
	    cmocka_unit_test(test_origin_steps_in_late_and_later_for_those_further_down),
	    cmocka_unit_test(test_dead_parent_is_replaced_at_once),
	    cmocka_unit_test(test_corrupt_source_is_left_alone_longer_each_time),
	    cmocka_unit_test(test_who_lies_about_what_it_has_is_asked_less_and_less),
	    cmocka_unit_test(test_stripe_that_falls_behind_is_taken_from_others),
	    cmocka_unit_test(test_held_chunks_are_never_asked_for),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
