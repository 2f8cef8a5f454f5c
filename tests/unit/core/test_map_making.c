/* SPDX-License-Identifier: Apache-2.0 */
/* Random worlds, many rounds: what map_making.h promises must hold in each. */
#include "core/map_making.h"

#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define SITES 24
#define UNITS 600
#define WORLDS 60
#define ROUNDS 12

struct world {
	struct rng rng;
	uint32_t rows[SITES][SITES];
	const uint32_t *row[SITES];
	double capacities[SITES];
	struct making_unit units[UNITS];
	uint32_t before[UNITS]; /* what clients were told */
	bool lost[UNITS];       /* its site takes nobody any more */
	double largest;
};

static struct making_input input_of(const struct world *w)
{
	return (struct making_input){(struct making_unit *)w->units, UNITS, w->capacities, SITES, w->row, SITES};
}

static void demand_set(struct world *w)
{
	w->largest = 0;
	for (int i = 0; i < UNITS; i++) {
		w->units[i].demand = 0.1 + rng_unit(&w->rng) * (rng_below(&w->rng, 20) ? 1 : 10);
		if (w->units[i].demand > w->largest)
			w->largest = w->units[i].demand;
	}
}

static double demand_sum(const struct world *w)
{
	double sum = 0;
	for (int i = 0; i < UNITS; i++)
		sum += w->units[i].demand;
	return sum;
}

/* use: total demand of total capacity */
static void world_make(struct world *w, uint64_t seed, double use)
{
	int x[SITES], y[SITES];
	double total = 0;
	*w = (struct world){0};
	rng_init(&w->rng, seed);
	for (int i = 0; i < SITES; i++) {
		x[i] = (int)rng_below(&w->rng, 30000);
		y[i] = (int)rng_below(&w->rng, 30000);
		w->row[i] = w->rows[i];
		w->capacities[i] = 1 + rng_unit(&w->rng) * 4;
		total += w->capacities[i];
	}
	for (int i = 0; i < SITES; i++)
		for (int j = 0; j < SITES; j++)
			w->rows[i][j] = 200u + (uint32_t)(abs(x[i] - x[j]) + abs(y[i] - y[j]));
	for (int i = 0; i < UNITS; i++)
		w->units[i] = (struct making_unit){.home = (uint32_t)rng_below(&w->rng, SITES),
		                                   .pin = MAKING_NONE,
		                                   .site = MAKING_NONE,
		                                   .explore = true};
	demand_set(w);
	double scale = demand_sum(w) / use / total;
	for (int i = 0; i < SITES; i++)
		w->capacities[i] *= scale;
}

static void round_make(struct world *w, struct making_result *r)
{
	const struct making_input in = input_of(w);
	for (int i = 0; i < UNITS; i++) {
		bool fresh = w->units[i].site == MAKING_NONE;
		w->before[i] = fresh ? MAKING_NONE : w->units[i].named;
		w->lost[i] = fresh || w->capacities[w->units[i].site] <= 0 || w->capacities[w->units[i].named] <= 0;
	}
	assert_int_equal(map_make(&in, &w->rng, r, NULL), 0);
	for (int i = 0; i < UNITS; i++) {
		assert_true(w->units[i].site < SITES);
		assert_true(w->capacities[w->units[i].site] > 0);
		assert_true(w->units[i].named < SITES && w->capacities[w->units[i].named] > 0);
	}
}

/* Of demand whose site still takes it, as clients see it. */
static double told_otherwise(const struct world *w)
{
	double sum = 0;
	for (int i = 0; i < UNITS; i++) {
		if (!w->lost[i] && w->before[i] != w->units[i].named)
			sum += w->units[i].demand;
	}
	return sum;
}

static double most_over(const struct world *w)
{
	double used[SITES] = {0}, over = -1e9;
	for (int i = 0; i < UNITS; i++)
		used[w->units[i].site] += w->units[i].demand;
	for (int s = 0; s < SITES; s++)
		if (w->capacities[s] > 0 && used[s] - w->capacities[s] > over)
			over = used[s] - w->capacities[s];
	return over;
}

static double capacity_sum(const struct world *w)
{
	double sum = 0;
	for (int s = 0; s < SITES; s++)
		sum += w->capacities[s];
	return sum;
}

static bool suffices(const struct world *w)
{
	return demand_sum(w) + SITES * w->largest <= capacity_sum(w);
}

static void test_a_tenth_moves_at_most_and_everybody_is_served(void **state)
{
	struct world w;
	struct making_result r;
	for (uint64_t seed = 1; seed <= WORLDS; seed++) {
		world_make(&w, seed, 0.2 + 0.013 * (double)seed);
		for (int n = 0; n < ROUNDS; n++) {
			round_make(&w, &r);
			double most = MAKING_MOVED_MOST * demand_sum(&w);
			assert_true(told_otherwise(&w) <= (most > w.largest ? most : w.largest) + 1e-6);
			uint32_t site = (uint32_t)rng_below(&w.rng, SITES);
			w.capacities[site] =
			    rng_below(&w.rng, 3) ? w.capacities[site] * (0.7 + 0.6 * rng_unit(&w.rng)) : 0;
			if (capacity_sum(&w) <= 0)
				break;
			if (rng_below(&w.rng, 2))
				demand_set(&w);
		}
	}
}

static void test_no_site_is_given_too_much_where_all_suffice(void **state)
{
	struct world w;
	struct making_result r;
	int checked = 0;
	for (uint64_t seed = 1; seed <= WORLDS; seed++) {
		world_make(&w, seed, 0.1 + 0.01 * (double)seed);
		round_make(&w, &r);
		if (!suffices(&w))
			continue;
		assert_true(most_over(&w) <= 1e-6); /* the first map at once */
		w.capacities[seed % SITES] /= 4;
		for (int n = 0; n < ROUNDS; n++)
			round_make(&w, &r);
		if (suffices(&w)) {
			assert_true(most_over(&w) <= 1e-6);
			checked++;
		}
	}
	assert_true(checked > 5);
}

static void test_too_much_demand_fills_all_sites_alike(void **state)
{
	struct world w;
	struct making_result r;
	double used[SITES] = {0};
	world_make(&w, 7, 2.0);
	round_make(&w, &r);
	for (int i = 0; i < UNITS; i++)
		used[w.units[i].site] += w.units[i].demand;
	for (int s = 0; s < SITES; s++) {
		assert_true(used[s] / w.capacities[s] < 2.0 * 1.02 + 0.05 + w.largest / w.capacities[s]);
		assert_true(used[s] / w.capacities[s] > 1);
	}
}

static void test_with_room_everybody_gets_the_nearest(void **state)
{
	struct world w;
	struct making_result r;
	world_make(&w, 3, 0.02);
	round_make(&w, &r);
	for (int i = 0; i < UNITS; i++)
		assert_int_equal(w.units[i].site, w.units[i].home);
	assert_true(r.explored > 0 && r.explored <= r.demand * MAKING_EXPLORED + 1e-9);
}

static void test_a_small_gain_moves_nobody(void **state)
{
	struct world w;
	struct making_result r;
	world_make(&w, 4, 0.02);
	for (int i = 0; i < SITES; i++)
		for (int j = 0; j < SITES; j++)
			w.rows[i][j] = i == j ? 2000 : 6900;
	for (int i = 0; i < UNITS; i++)
		w.units[i].site = w.units[i].named = (w.units[i].home + 1) % SITES;
	round_make(&w, &r);
	assert_int_equal(r.moves, 0);
	for (int i = 0; i < SITES; i++)
		for (int j = 0; j < SITES; j++)
			w.rows[i][j] = i == j ? 2000 : 7100;
	for (int n = 0; n < 20; n++)
		round_make(&w, &r);
	for (int i = 0; i < UNITS; i++)
		assert_int_equal(w.units[i].site, w.units[i].home);
}

static void test_a_lost_site_is_left_at_once_and_a_pin_holds(void **state)
{
	struct world w;
	struct making_result r;
	world_make(&w, 5, 0.3);
	w.units[0].pin = (w.units[0].home + 3) % SITES;
	round_make(&w, &r);
	assert_int_equal(w.units[0].site, w.units[0].pin);
	uint32_t lost = w.units[1].site;
	w.capacities[lost] = 0;
	round_make(&w, &r); /* checks that nobody is sent there */
	assert_true(r.forced > 0);
	w.units[0].pin = lost; /* a pin to a site that takes nobody does not count */
	round_make(&w, &r);
	assert_int_not_equal(w.units[0].site, lost);
}

static void test_without_any_site_nothing_changes(void **state)
{
	struct world w;
	struct making_result r;
	struct error err = {0};
	world_make(&w, 6, 0.3);
	round_make(&w, &r);
	uint32_t site = w.units[9].site;
	memset(w.capacities, 0, sizeof(w.capacities));
	const struct making_input in = input_of(&w);
	assert_int_equal(map_make(&in, &w.rng, &r, &err), E_UNAVAILABLE);
	assert_int_equal(w.units[9].site, site);
}

static void test_a_site_that_was_away_is_given_little_at_first(void **state)
{
	struct making_ramp ramp = {0};
	assert_true(making_ramp(&ramp, false, 1) == 0);
	assert_true(making_ramp(&ramp, true, 10) == 1); /* it only started */
	assert_true(making_ramp(&ramp, false, 20) == 0);
	assert_true(making_ramp(&ramp, true, 30) == MAKING_RAMP_LEAST);
	double half = making_ramp(&ramp, true, 30 + MAKING_RAMP_US / 2);
	assert_true(half > 0.49 && half < 0.51);
	assert_true(making_ramp(&ramp, true, 30 + MAKING_RAMP_US) == 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_a_tenth_moves_at_most_and_everybody_is_served),
	    cmocka_unit_test(test_no_site_is_given_too_much_where_all_suffice),
	    cmocka_unit_test(test_too_much_demand_fills_all_sites_alike),
	    cmocka_unit_test(test_with_room_everybody_gets_the_nearest),
	    cmocka_unit_test(test_a_small_gain_moves_nobody),
	    cmocka_unit_test(test_a_lost_site_is_left_at_once_and_a_pin_holds),
	    cmocka_unit_test(test_without_any_site_nothing_changes),
	    cmocka_unit_test(test_a_site_that_was_away_is_given_little_at_first),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
