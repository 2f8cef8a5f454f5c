/* SPDX-License-Identifier: Apache-2.0 */
/* Who leaves when another model is wanted. */
#include "core/residence.h"

#include "base/rng.h"
#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

static void test_the_least_recently_used_goes(void **state)
{
	struct resident all[] = {
	    {.bytes = 40, .used_us = 30}, {.bytes = 40, .used_us = 10}, {.bytes = 20, .used_us = 20}};
	(void)state;

	assert_int_equal(residence_plan(all, 3, 100, 30), RESIDENCE_FITS);
	assert_true(!all[0].goes && all[1].goes && !all[2].goes);
	assert_int_equal(residence_plan(all, 3, 100, 60), RESIDENCE_FITS);
	assert_true(!all[0].goes && all[1].goes && all[2].goes);
	assert_int_equal(residence_plan(all, 3, 100, 0), RESIDENCE_FITS);
	assert_true(!all[0].goes && !all[1].goes && !all[2].goes);
}

static void test_one_whose_room_is_not_needed_stays_though_it_is_older(void **state)
{
	struct resident all[] = {{.bytes = 10, .used_us = 1}, {.bytes = 80, .used_us = 2}};
	(void)state;

	assert_int_equal(residence_plan(all, 2, 100, 80), RESIDENCE_FITS);
	assert_true(!all[0].goes && all[1].goes);
}

static void test_pinned_and_busy_ones_stay(void **state)
{
	struct resident all[] = {{.bytes = 40, .pinned = true}, {.bytes = 40, .busy = true}};
	(void)state;

	assert_int_equal(residence_plan(all, 2, 100, 30), RESIDENCE_WAIT);
	assert_int_equal(residence_plan(all, 2, 100, 60), RESIDENCE_WAIT);
	assert_int_equal(residence_plan(all, 2, 100, 61), RESIDENCE_PINNED);
	assert_int_equal(residence_plan(all, 2, 100, 101), RESIDENCE_NEVER);
	assert_true(!all[0].goes && !all[1].goes);
}

static void test_the_one_longest_here_gives_way_once(void **state)
{
	struct resident all[] = {{.bytes = 1, .busy = true, .loaded_us = 300},
	                         {.bytes = 1, .busy = true, .loaded_us = 200},
	                         {.bytes = 1, .busy = true, .loaded_us = 100, .pinned = true},
	                         {.bytes = 1, .busy = true}};
	(void)state;

	assert_int_equal(residence_give_way(all, 4, 1000, 700), 1);
	assert_int_equal(residence_give_way(all, 4, 1000, 801), 4); /* not here long enough */
	all[0].leaving = true;
	assert_int_equal(residence_give_way(all, 4, 1000, 700), 4);
}

static uint64_t left_of(const struct resident *all, size_t count)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < count; i++)
		sum += all[i].goes ? 0 : all[i].bytes;
	return sum;
}

/* Against all subsets: it says WAIT only when all that may go is not enough, and none goes that need not. */
static void test_random_plans_hold_what_they_promise(void **state)
{
	struct rng rng;
	(void)state;

	rng_init(&rng, 7);
	for (int round = 0; round < 20000; round++) {
		struct resident all[8] = {0};
		size_t count = rng_below(&rng, 9);
		uint64_t max = 50 + rng_below(&rng, 200), need = rng_below(&rng, 260), fixed = 0, pinned = 0;

		for (size_t i = 0; i < count; i++) {
			all[i] = (struct resident){.bytes = rng_below(&rng, 60),
			                           .used_us = (int64_t)rng_below(&rng, 10),
			                           .pinned = rng_below(&rng, 4) == 0,
			                           .busy = rng_below(&rng, 3) == 0};
			pinned += all[i].pinned ? all[i].bytes : 0;
			fixed += all[i].pinned || all[i].busy ? all[i].bytes : 0;
		}
		enum residence r = residence_plan(all, count, max, need);
		assert_int_equal(r, need > max            ? RESIDENCE_NEVER
		                    : pinned + need > max ? RESIDENCE_PINNED
		                    : fixed + need > max  ? RESIDENCE_WAIT
		                                          : RESIDENCE_FITS);
		for (size_t i = 0; i < count; i++) {
			assert_true(!all[i].goes || (r == RESIDENCE_FITS && !all[i].pinned && !all[i].busy));
			assert_true(!all[i].goes || left_of(all, count) + need + all[i].bytes > max);
		}
		assert_true(r != RESIDENCE_FITS || left_of(all, count) + need <= max);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_the_least_recently_used_goes),
	    cmocka_unit_test(test_one_whose_room_is_not_needed_stays_though_it_is_older),
	    cmocka_unit_test(test_pinned_and_busy_ones_stay),
	    cmocka_unit_test(test_the_one_longest_here_gives_way_once),
	    cmocka_unit_test(test_random_plans_hold_what_they_promise),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
