/* SPDX-License-Identifier: Apache-2.0 */
/* map.c - how long one round of map making takes: 1 million prefixes, 1,000 sites, one core.
 *
 * Sites lie at random on a plane, prefixes are at home at any of them, few with much demand (heavy tail), together
 * three quarters of all capacity. The first round gives everybody a site; then rounds where every demand has changed by
 * up to a half; then one after the loss of 100 sites. One figure line each.
 */
#include "core/map_making.h"

#include "base/str.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define SITES 1000
#define PREFIXES 1000000
#define GOAL_S 2.0

static double now_s(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double round_s(const struct making_input *in, struct rng *rng, const char *what)
{
	struct making_result r;
	double began = now_s();
	if (map_make(in, rng, &r, NULL) < 0)
		return -1;
	double took = now_s() - began;
	printf("figure map_round_%s = %.3f s, goal %.1f: %s (moved %.2f %%, at once %.2f %%, load %.0f %%)\n", what,
	       took, GOAL_S, took < GOAL_S ? "met" : "missed", 100 * r.moved / r.demand, 100 * r.forced / r.demand,
	       100 * r.demand / r.capacity);
	return took;
}

int main(void)
{
	static double x[SITES], y[SITES], capacities[SITES];
	static uint32_t *rows[SITES];
	struct making_unit *units = mem_new(PREFIXES * sizeof(*units));
	double demand = 0, worst = 0;
	struct rng rng;
	rng_init(&rng, 1);
	for (int i = 0; i < SITES; i++) {
		x[i] = rng_unit(&rng) * 40000;
		y[i] = rng_unit(&rng) * 30000;
		rows[i] = mem_new(SITES * sizeof(*rows[i]));
	}
	for (int i = 0; i < SITES; i++)
		for (int j = 0; j < SITES; j++)
			rows[i][j] = 200 + (uint32_t)hypot(x[i] - x[j], y[i] - y[j]);
	for (int i = 0; i < PREFIXES; i++) {
		double d = 0.01 * pow(1 - rng_unit(&rng), -1 / 1.5);
		units[i] = (struct making_unit){.demand = d < 20 ? d : 20,
		                                .home = (uint32_t)rng_below(&rng, SITES),
		                                .pin = MAKING_NONE,
		                                .site = MAKING_NONE,
		                                .explore = true};
		demand += units[i].demand;
	}
	for (int i = 0; i < SITES; i++) /* some have 3 times what others have */
		capacities[i] = demand / 0.75 / SITES * (0.5 + rng_unit(&rng));
	const struct making_input in = {units, PREFIXES, capacities, SITES, (const uint32_t *const *)rows, SITES};
	worst = fmax(worst, round_s(&in, &rng, "first"));
	for (int n = 0; n < 5; n++) {
		for (int i = 0; i < PREFIXES; i++)
			units[i].demand *= 0.5 + rng_unit(&rng);
		worst = fmax(worst, round_s(&in, &rng, "next"));
	}
	for (int i = 0; i < SITES / 10; i++)
		capacities[i * 10] = 0;
	worst = fmax(worst, round_s(&in, &rng, "loss"));
	for (int i = 0; i < SITES; i++)
		free(rows[i]);
	free(units);
	return worst < GOAL_S ? 0 : 1;
}
