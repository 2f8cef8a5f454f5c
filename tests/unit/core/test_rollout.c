/* SPDX-License-Identifier: Apache-2.0 */
/* Roll-outs (core/rollout): a small simulated network that does what it is told, in random time. */
#include "base/rng.h"
#include "core/rollout.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define S INT64_C(1000000)
#define NODES_MAX 64

struct world {
	struct rollout r;
	struct rollout_node nodes[NODES_MAX];
	bool roomy[NODES_MAX]; /* by the node's name: can hold both versions loaded */
	size_t count, worst;
	int64_t now;
	struct rng rng;
	bool broken; /* the new version cannot be loaded */
};

static void world_init(struct world *w, const struct rollout_policy *policy, size_t count, uint64_t seed, int roomy)
{
	static char names[NODES_MAX][24];
	*w = (struct world){.count = count, .now = 1000 * S};
	rng_init(&w->rng, seed);
	for (size_t i = 0; i < count; i++) {
		snprintf(names[i], sizeof(names[i]), "%zu", i);
		w->nodes[i] = (struct rollout_node){
		    .name = names[i], .key = rng_next(&w->rng), .canary = i < 2, .old = HAVE_READY};
		w->roomy[i] = rng_below(&w->rng, 100) < (uint64_t)roomy;
	}
	rollout_begin(&w->r, policy, w->now);
}

static void node_obeys(struct world *w, struct rollout_node *n, enum rollout_want want)
{
	bool roomy = w->roomy[atoi(n->name)];
	if (rng_below(&w->rng, 3) == 0)
		return; /* later */
	if (want != WANT_OLD && n->fresh == HAVE_NOTHING) {
		n->fresh = HAVE_ON_DISK;
	} else if (want == WANT_NEW && n->fresh == HAVE_ON_DISK) {
		n->fresh = HAVE_LOADING;
		if (!roomy)
			n->old = HAVE_ON_DISK;
	} else if (want == WANT_NEW && n->fresh == HAVE_LOADING) {
		n->fresh = w->broken ? HAVE_FAILED : HAVE_READY;
		n->error = "no such architecture";
		if (!w->broken)
			n->old = HAVE_ON_DISK;
		else if (n->old == HAVE_ON_DISK)
			n->old = HAVE_LOADING; /* it goes back by itself */
	} else if (want != WANT_NEW && n->old == HAVE_ON_DISK) {
		n->old = HAVE_LOADING;
		if (!roomy && n->fresh != HAVE_FAILED)
			n->fresh = HAVE_ON_DISK;
	} else if (n->old == HAVE_LOADING) {
		n->old = HAVE_READY;
		if (want != WANT_NEW && n->fresh != HAVE_FAILED)
			n->fresh = HAVE_ON_DISK;
	}
}

static bool answers(const struct rollout_node *n)
{
	return n->old == HAVE_READY || n->fresh == HAVE_READY;
}

/* One second. Invariants of every moment are checked here. */
static void second(struct world *w)
{
	size_t silent = 0, granted = 0;
	rollout_step(&w->r, w->nodes, w->count, w->now);
	size_t target = rollout_target(&w->r, w->nodes, w->count);
	for (size_t i = 0; i < w->count; i++) {
		struct rollout_node *n = &w->nodes[i];
		granted += n->granted_us != 0;
		if (n->granted_us && w->r.phase != ROLLOUT_RETURNING && w->r.phase != ROLLOUT_DONE)
			assert_true(n->rank < target);
		node_obeys(w, n, rollout_want(&w->r, n, target));
	}
	for (size_t i = 0; i < w->count; i++)
		silent += !answers(&w->nodes[i]);
	if (silent > w->worst)
		w->worst = silent;
	w->now += S;
}

static size_t count_new(const struct world *w)
{
	size_t n = 0;
	for (size_t i = 0; i < w->count; i++)
		n += w->nodes[i].fresh == HAVE_READY;
	return n;
}

static struct rollout_policy gated(const char *percents, bool canary)
{
	struct rollout_policy p = ROLLOUT_POLICY_DEFAULT;
	p.gated = true;
	p.canary = canary;
	p.soak_us = 20 * S;
	assert_int_equal(rollout_percents_parse(str_from(percents), &p, NULL), 0);
	return p;
}

static void test_waves_go_one_after_the_other_and_soak(void **unused)
{
	struct rollout_policy p = gated("10,50,100", true);
	struct world w;
	world_init(&w, &p, 20, 1, 100);
	int64_t began[4] = {0};
	size_t most[4] = {0};
	while (w.r.phase != ROLLOUT_DONE && w.now < 2000 * S) {
		uint32_t wave = w.r.wave;
		if (!began[wave])
			began[wave] = w.now;
		second(&w);
		if (w.r.wave == wave && count_new(&w) > most[wave])
			most[wave] = count_new(&w);
	}
	assert_int_equal(w.r.phase, ROLLOUT_DONE);
	assert_int_equal(most[0], 2);
	assert_int_equal(most[1], 2); /* the canaries are the tenth */
	assert_int_equal(most[2], 10);
	assert_int_equal(most[3], 20);
	for (int i = 1; i < 4; i++)
		assert_true(began[i] - began[i - 1] >= p.soak_us);
}

static void test_random_schedules_end_well_and_keep_most_nodes_answering(void **unused)
{
	for (uint64_t seed = 1; seed <= 500; seed++) {
		struct rollout_policy p = gated("10,50,100", seed % 3 == 0);
		struct world w;
		size_t count = 2 + seed % 50;
		p.gated = seed % 4 != 0;
		world_init(&w, &p, count, seed, seed % 2 ? 100 : (int)(seed % 100));
		w.broken = seed % 5 == 0;
		bool ends_by_hand = seed % 7 == 0;
		for (int i = 0; i < 3000 && w.r.phase != ROLLOUT_DONE && w.r.phase != ROLLOUT_RETURNED; i++) {
			second(&w);
			if (ends_by_hand && i == (int)(seed % 40) && w.r.phase != ROLLOUT_RETURNING)
				assert_int_equal(rollout_return(&w.r, w.now, "by hand", NULL), 0);
		}
		size_t most = count / 4 ? count / 4 : 1;
		if (w.worst > most)
			fail_msg("seed %d: %zu of %zu nodes did not answer at once", (int)seed, w.worst, count);
		if (w.r.phase != ROLLOUT_DONE && w.r.phase != ROLLOUT_RETURNED)
			fail_msg("seed %d: still %s (%s)", (int)seed, rollout_phase_name(w.r.phase), w.r.why);
		for (int i = 0; i < 20; i++)
			second(&w);
		for (size_t i = 0; i < count; i++)
			assert_true(answers(&w.nodes[i]));
		if (w.r.phase == ROLLOUT_RETURNED)
			assert_int_equal(count_new(&w), 0);
		else if (!w.broken)
			assert_int_equal(count_new(&w), count);
		if (w.broken && p.gated && !ends_by_hand)
			assert_non_null(strstr(w.r.why, "no such architecture"));
	}
}

/* Runs until the first wave soaks, then lets the new version measure so. */
static void until_soaking(struct world *w)
{
	while (w->r.phase != ROLLOUT_SOAKING && w->now < 2000 * S)
		second(w);
	assert_int_equal(w->r.phase, ROLLOUT_SOAKING);
	w->r.old = (struct rollout_measure){1000, 5, 1000 * 100000, 10000, 10000 * 20000};
}

static void test_gates_close_on_errors_and_latency_and_go_back(void **unused)
{
	const struct {
		struct rollout_measure fresh;
		const char *why;
	} cases[] = {
	    {{100, 0, 100 * 110000, 1000, 1000 * 21000}, NULL},
	    {{10, 9, 10 * 900000, 100, 100 * 90000}, NULL}, /* too few to judge */
	    {{90, 10, 90 * 100000, 900, 900 * 20000}, "failed"},
	    {{100, 0, 100 * 300000, 1000, 1000 * 20000}, "first token"},
	    {{100, 0, 100 * 100000, 1000, 1000 * 40000}, "between tokens"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		for (int halts = 0; halts < 2; halts++) {
			struct rollout_policy p = gated("10,100", true);
			struct world w;
			p.halt_only = halts;
			world_init(&w, &p, 20, 3, 50);
			until_soaking(&w);
			w.r.fresh = cases[i].fresh;
			second(&w);
			if (!cases[i].why) {
				assert_int_equal(w.r.phase, ROLLOUT_SOAKING);
				continue;
			}
			assert_int_equal(w.r.phase, halts ? ROLLOUT_HALTED : ROLLOUT_RETURNING);
			assert_non_null(strstr(w.r.why, cases[i].why));
			for (int s = 0; s < 60; s++)
				second(&w);
			assert_int_equal(count_new(&w), halts ? 2 : 0);
		}
	}
}

static void test_people_halt_continue_and_return(void **unused)
{
	struct rollout_policy p = gated("10,100", true);
	struct world w;
	world_init(&w, &p, 12, 5, 100);
	until_soaking(&w);
	assert_int_equal(rollout_continue(&w.r, w.nodes, w.count, w.now, NULL), E_CONFLICT);
	assert_int_equal(rollout_halt(&w.r, w.now, "lunch", NULL), 0);
	for (int s = 0; s < 100; s++)
		second(&w);
	assert_int_equal(count_new(&w), 2);
	assert_int_equal(rollout_continue(&w.r, w.nodes, w.count, w.now, NULL), 0);
	for (int s = 0; s < 300; s++)
		second(&w);
	assert_int_equal(w.r.phase, ROLLOUT_DONE);
	assert_int_equal(rollout_halt(&w.r, w.now, "late", NULL), E_CONFLICT);
	assert_int_equal(rollout_return(&w.r, w.now, "regret", NULL), 0);
	for (int s = 0; s < 100; s++)
		second(&w);
	assert_int_equal(w.r.phase, ROLLOUT_RETURNED);
	assert_int_equal(count_new(&w), 0);
	assert_int_equal(rollout_continue(&w.r, w.nodes, w.count, w.now, NULL), 0);
	for (int s = 0; s < 300; s++)
		second(&w);
	assert_int_equal(w.r.phase, ROLLOUT_DONE);
}

static void test_a_node_that_failed_tries_again_when_people_go_on(void **unused)
{
	struct rollout_policy p = gated("100", false);
	p.halt_only = true;
	struct world w;
	world_init(&w, &p, 3, 5, 100);
	w.broken = true;
	for (int s = 0; s < 100 && w.r.phase != ROLLOUT_HALTED; s++)
		second(&w);
	assert_int_equal(w.r.phase, ROLLOUT_HALTED);
	assert_non_null(strstr(w.r.why, "no such architecture"));
	w.broken = false; /* somebody mended it */
	w.now += p.patience_us + S;
	assert_int_equal(rollout_continue(&w.r, w.nodes, w.count, w.now, NULL), 0);
	rollout_step(&w.r, w.nodes, w.count, w.now);
	assert_int_equal(w.r.phase, ROLLOUT_MOVING);
	for (size_t i = 0; i < w.count; i++)
		if (w.nodes[i].fresh == HAVE_FAILED)
			w.nodes[i].fresh = HAVE_ON_DISK; /* told to run the old one, it forgot */
	for (int s = 0; s < 300; s++)
		second(&w);
	assert_int_equal(w.r.phase, ROLLOUT_DONE);
}

static void test_a_node_that_cannot_go_back_holds_nobody_up(void **unused)
{
	struct rollout_policy p = gated("100", false);
	struct rollout r;
	struct rollout_node nodes[2] = {{.name = "0", .key = 0, .old = HAVE_FAILED, .fresh = HAVE_READY},
	                                {.name = "1", .key = 1, .old = HAVE_ON_DISK, .fresh = HAVE_READY}};
	rollout_begin(&r, &p, S);
	nodes[1].granted_us = S;
	assert_int_equal(rollout_return(&r, S, "regret", NULL), 0);
	rollout_step(&r, nodes, 2, 2 * S);
	assert_int_equal(nodes[1].granted_us, 0);
	nodes[1].old = HAVE_READY;
	nodes[1].fresh = HAVE_NOTHING;
	rollout_step(&r, nodes, 2, 3 * S);
	assert_int_equal(r.phase, ROLLOUT_RETURNED);
}

static void test_it_says_what_it_waits_for(void **unused)
{
	struct rollout_policy p = gated("100", false);
	struct rollout r;
	struct rollout_node nodes[2] = {
	    {.name = "slow", .key = 0, .old = HAVE_READY},
	    {.name = "full", .key = 1, .old = HAVE_READY, .fresh = HAVE_FAILED, .error = "disk is full"}};
	rollout_begin(&r, &p, S);
	rollout_step(&r, nodes, 2, 2 * S);
	assert_string_equal(r.why, "waits for node full: disk is full");
	nodes[1].fresh = HAVE_READY;
	rollout_step(&r, nodes, 2, 3 * S);
	assert_string_equal(r.why, "waits for node slow");
	nodes[0].fresh = HAVE_READY;
	for (int64_t s = 4; s < 7; s++)
		rollout_step(&r, nodes, 2, s * S);
	assert_int_equal(r.phase, ROLLOUT_SOAKING);
	assert_string_equal(r.why, "");
}

static void test_a_node_that_is_away_holds_nobody_up_and_comes_to_its_wave_later(void **unused)
{
	struct rollout_policy p = gated("100", false);
	struct world w;
	world_init(&w, &p, 8, 9, 100);
	struct rollout_node *away = NULL;
	w.nodes[3].away = true;
	for (int s = 0; s < 200; s++)
		second(&w);
	assert_int_equal(w.r.phase, ROLLOUT_DONE);
	for (size_t i = 0; i < 8; i++)
		if (w.nodes[i].away)
			away = &w.nodes[i];
	away->away = false;
	for (int s = 0; s < 20; s++)
		second(&w);
	assert_int_equal(count_new(&w), 8);
}

static void test_percents(void **unused)
{
	struct rollout_policy p = ROLLOUT_POLICY_DEFAULT;
	assert_int_equal(rollout_percents_parse(STR("5, 20"), &p, NULL), 0);
	assert_int_equal(p.percent_count, 3);
	assert_int_equal(p.percents[2], 100);
	const char *bad[] = {"", "0", "101", "50,10", "a", "10,,20", "1,2,3,4,5,6,7,8,9"};
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		assert_true(rollout_percents_parse(str_from(bad[i]), &p, NULL) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_waves_go_one_after_the_other_and_soak),
	    cmocka_unit_test(test_random_schedules_end_well_and_keep_most_nodes_answering),
	    cmocka_unit_test(test_gates_close_on_errors_and_latency_and_go_back),
	    cmocka_unit_test(test_people_halt_continue_and_return),
	    cmocka_unit_test(test_a_node_that_failed_tries_again_when_people_go_on),
	    cmocka_unit_test(test_a_node_that_cannot_go_back_holds_nobody_up),
	    cmocka_unit_test(test_it_says_what_it_waits_for),
	    cmocka_unit_test(test_a_node_that_is_away_holds_nobody_up_and_comes_to_its_wave_later),
	    cmocka_unit_test(test_percents),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
