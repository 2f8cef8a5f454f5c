/* SPDX-License-Identifier: Apache-2.0 */
/* Crowds of shipping plans over fluid links: near the bound, past mishaps, and thousands of random schedules. That no
 * chunk leaves who has not verified it is asserted by the simulator itself, at every arrival. */
#include "sim/distribute.h"
#include "sim/fluid.h"

#include "base/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define RATE 12.5e6 /* 100 Mbit/s */
static const double one[] = {RATE};

static struct sim_options crowd(uint32_t nodes)
{
	return (struct sim_options){.nodes = nodes,
	                            .sites = 1,
	                            .chunks = 512,
	                            .size = 256 << 20,
	                            .origin_rate = RATE,
	                            .rates = one,
	                            .rate_count = 1,
	                            .rtt_s = 0.001,
	                            .wan_rtt_s = 0.02,
	                            .seed = 1};
}

static struct sim_result run(const char *what, const struct sim_options *o)
{
	struct sim_result r;
	sim_distribute(o, &r);
	print_message("%-28s last %.3f, median %.3f x the bound; origin %.3f copies, a site %.2f in, %.2f out\n", what,
	              r.last_s / r.bound_s, r.median_s / r.bound_s, r.origin_copies, r.wan_copies, r.wan_copies_out);
	assert_int_equal(r.finished, r.alive);
	return r;
}

static void test_crowd_takes_little_longer_than_one_copy(void **state)
{
	for (uint32_t nodes = 1; nodes <= 48; nodes = nodes * 3 / 2 + 1) {
		struct sim_options o = crowd(nodes);
		struct sim_result r = run("crowd", &o);
		assert_true(r.last_s < (nodes < 16 ? 1.08 : 1.20) * r.bound_s);
		assert_true(r.origin_copies < 1.02);
	}
}

static void test_slow_node_costs_the_others_little(void **state)
{
	struct sim_options o = crowd(8);
	o.slow_share = 0.125;
	o.slow_factor = 0.2;
	struct sim_result r = run("one at a fifth", &o);
	assert_true(r.bound_s > 100);
	assert_true(r.median_s * 5 < 1.20 * r.bound_s);
	assert_true(r.last_s < 1.05 * r.bound_s);
}

static void test_who_dies_costs_the_others_little(void **state)
{
	for (uint64_t seed = 1; seed < 12; seed++) {
		struct sim_options o = crowd(8);
		o.failing = 0.12;
		o.seed = seed;
		struct sim_result r = run("some die, silently", &o);
		assert_true(r.last_s < (1.17 + 0.08 * (8 - r.alive)) * r.bound_s);
		assert_true(r.origin_copies < 1.10);
	}
}

static void test_origin_may_die_once_one_copy_is_out(void **state)
{
	struct sim_options o = crowd(8);
	o.origin_dies_copies = 1;
	struct sim_result r = run("origin dies", &o);
	assert_true(r.last_s < 1.25 * r.bound_s);
}

static void test_each_site_takes_in_one_copy(void **state)
{
	for (uint32_t sites = 2; sites <= 12; sites += 2) {
		struct sim_options o = crowd(3 * sites);
		o.sites = sites;
		o.wan_rate = RATE / 2;
		struct sim_result r = run("sites", &o);
		assert_true(r.last_s < 1.10 * r.bound_s);
		assert_true(r.wan_copies < 1.05 && r.wan_copies_out < 1.30 && r.origin_copies < 1.05);
	}
}

static void test_works_without_a_center(void **state)
{
	struct sim_options o = crowd(16);
	o.failing = 0.1;
	o.center_dies = true;
	run("some die, no center", &o);
}

/* Whatever happens, who lives gets it all while one copy is reachable, and the origin's share stays bounded. */
static void test_random_schedules(void **state)
{
	struct rng rng;
	double worst = 0, copies = 0;
	rng_init(&rng, 5);
	for (int turn = 0; turn < 10000; turn++) {
		const double rates[] = {RATE, RATE * (0.2 + 2 * rng_unit(&rng)), RATE * (0.5 + rng_unit(&rng))};
		struct sim_options o = crowd(1 + (uint32_t)rng_below(&rng, 12));
		o.sites = 1 + (uint32_t)rng_below(&rng, o.nodes < 4 ? o.nodes : 4);
		o.chunks = 1 + (uint32_t)rng_below(&rng, 60);
		o.size = (double)(1 + rng_below(&rng, 64)) * (1 << 20);
		o.rates = rates;
		o.rate_count = 1 + (uint32_t)rng_below(&rng, 3);
		o.wan_rate = rng_below(&rng, 2) ? RATE * (0.3 + rng_unit(&rng)) : 0;
		o.failing = rng_below(&rng, 2) ? 0.3 * rng_unit(&rng) : 0;
		o.late = rng_below(&rng, 3) ? 0 : 0.3;
		o.center_dies = rng_below(&rng, 4) == 0;
		o.seed = rng_next(&rng);
		o.give_up_s = 3600;
		struct sim_result r;
		sim_distribute(&o, &r);
		assert_int_equal(r.finished, r.alive);
		assert_true(r.origin_copies <= o.nodes + 1);
		worst = r.last_s / r.bound_s > worst ? r.last_s / r.bound_s : worst;
		copies += r.origin_copies;
	}
	print_message("10,000 schedules: worst %.1f x the bound, origin %.2f copies on average\n", worst,
	              copies / 10000);
}

static void end_flow(void *arg, uint32_t flow)
{
	(void)flow;
	++*(uint32_t *)arg;
}

static void test_no_capacity_is_ever_exceeded_nor_left_idle(void **state)
{
	struct rng rng;
	rng_init(&rng, 6);
	for (int turn = 0; turn < 200; turn++) {
		struct fluid f;
		uint32_t caps = 2 + (uint32_t)rng_below(&rng, 20), ended = 0;
		fluid_init(&f, caps);
		for (uint32_t c = 0; c < caps; c++)
			f.caps[c] = 1 + rng_unit(&rng) * 100;
		for (int k = 0; k < 40; k++) {
			uint32_t uses[2] = {(uint32_t)rng_below(&rng, caps), 0};
			uses[1] = (uses[0] + 1 + (uint32_t)rng_below(&rng, caps - 1)) % caps;
			fluid_start(&f, uses, 2, 1e6, 0);
		}
		fluid_step(&f, 1, 1000000, end_flow, &ended);
		for (uint32_t c = 0; c < caps; c++)
			assert_true(f.sent[c] <= f.caps[c] * 1.000001);
		for (uint32_t i = 0; i < f.active_count; i++)
			assert_true(f.flows[f.active[i]].rate > 0);
		fluid_fini(&f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_crowd_takes_little_longer_than_one_copy),
	    cmocka_unit_test(test_slow_node_costs_the_others_little),
	    cmocka_unit_test(test_who_dies_costs_the_others_little),
	    cmocka_unit_test(test_origin_may_die_once_one_copy_is_out),
	    cmocka_unit_test(test_each_site_takes_in_one_copy),
	    cmocka_unit_test(test_works_without_a_center),
	    cmocka_unit_test(test_random_schedules),
	    cmocka_unit_test(test_no_capacity_is_ever_exceeded_nor_left_idle),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
