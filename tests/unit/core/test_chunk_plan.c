/* SPDX-License-Identifier: Apache-2.0 */
/* The plan alone, then a crowd of plans over a fluid model of links: every node has its own way up and down. */
#include "core/chunk_plan.h"

#include "base/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define STEP_US 10000
#define NODES_MAX 32
#define CHUNKS_MAX 256

struct transfer {
	bool live;
	uint32_t from, to, chunk;
	double left;
	int64_t started_us;
};

struct crowd {
	uint32_t nodes, chunks; /* node 0 is the origin; receivers are 1..nodes */
	double chunk_size, rate_up[NODES_MAX + 1], rate_down[NODES_MAX + 1];
	bool dead[NODES_MAX + 1];
	struct chunk_plan *plan[NODES_MAX + 1];
	struct transfer t[NODES_MAX * NODES_MAX];
	size_t t_count;
	int64_t now_us, done_us[NODES_MAX + 1];
	double origin_sent;
};

/* Receiver r knows node n as source number n. */
static void crowd_start(struct crowd *c, uint32_t nodes, uint32_t chunks, double seconds)
{
	memset(c, 0, sizeof *c);
	c->nodes = nodes;
	c->chunks = chunks;
	c->chunk_size = 1e6;
	double rate = (double)chunks * c->chunk_size / seconds;
	for (uint32_t n = 0; n <= nodes; n++)
		c->rate_up[n] = c->rate_down[n] = rate;
	for (uint32_t r = 1; r <= nodes; r++) {
		c->plan[r] = chunk_plan_new(chunks, NULL, r * 7919, r);
		for (uint32_t n = 0; n <= nodes; n++)
			if (n != r)
				chunk_plan_add_source(c->plan[r], n, n * 7919, n == 0, true, 0);
		chunk_plan_offer(c->plan[r], 0, NULL, 0);
	}
}

static void crowd_free(struct crowd *c)
{
	for (uint32_t r = 1; r <= c->nodes; r++)
		chunk_plan_free(c->plan[r]);
}

static void crowd_ask(struct crowd *c)
{
	for (uint32_t r = 1; r <= c->nodes; r++) {
		struct chunk_request q;
		uint32_t mine = 0;
		for (size_t i = 0; i < c->t_count; i++)
			mine += c->t[i].live && c->t[i].to == r;
		while (!c->dead[r] && mine < 16 && chunk_plan_next(c->plan[r], c->now_us, &q)) {
			mine++;
			assert_true(c->t_count < sizeof c->t / sizeof *c->t);
			c->t[c->t_count++] = (struct transfer){true, q.source, r, q.chunk, c->chunk_size, c->now_us};
		}
	}
}

static void crowd_finish(struct crowd *c, struct transfer *t)
{
	struct chunk_plan *p = c->plan[t->to];
	t->live = false;
	if (chunk_plan_arrived(p, t->chunk, t->from, 0, c->now_us - t->started_us)) {
		for (uint32_t r = 1; r <= c->nodes; r++)
			if (r != t->to)
				chunk_plan_offer(c->plan[r], t->to, chunk_plan_bitmap(p), c->now_us);
		if (chunk_plan_held(p) == c->chunks)
			c->done_us[t->to] = c->now_us;
	}
}

static void crowd_step(struct crowd *c)
{
	int up[NODES_MAX + 1] = {0}, down[NODES_MAX + 1] = {0};
	for (size_t i = 0; i < c->t_count; i++) {
		if (c->t[i].live) {
			up[c->t[i].from]++;
			down[c->t[i].to]++;
		}
	}
	c->now_us += STEP_US;
	size_t count = c->t_count;
	for (size_t i = 0; i < count; i++) {
		struct transfer *t = &c->t[i];
		if (!t->live)
			continue;
		double a = c->rate_up[t->from] / up[t->from], b = c->rate_down[t->to] / down[t->to];
		double got = (a < b ? a : b) * STEP_US / 1e6;
		if (c->dead[t->from])
			got = 0;
		if (t->from == 0)
			c->origin_sent += got < t->left ? got : t->left;
		t->left -= got;
		if (t->left <= 0)
			crowd_finish(c, t);
	}
	size_t kept = 0;
	for (size_t i = 0; i < c->t_count; i++)
		if (c->t[i].live)
			c->t[kept++] = c->t[i];
	c->t_count = kept;
}

/* Seconds until the last of the living has it all. */
static double crowd_run(struct crowd *c, double limit_s)
{
	for (;;) {
		double last = 0;
		bool all = true;
		for (uint32_t r = 1; r <= c->nodes; r++) {
			if (c->dead[r])
				continue;
			all = all && c->done_us[r] > 0;
			if ((double)c->done_us[r] / 1e6 > last)
				last = (double)c->done_us[r] / 1e6;
		}
		if (all)
			return last;
		assert_true((double)c->now_us / 1e6 < limit_s);
		crowd_ask(c);
		crowd_step(c);
	}
}

static void test_crowd_takes_little_longer_than_one_copy(void **state)
{
	for (uint32_t nodes = 1; nodes <= 8; nodes *= 2) {
		struct crowd c;
		crowd_start(&c, nodes, 256, 20);
		double last = crowd_run(&c, 100);
		print_message("%2u receivers: %.2f x the floor, origin sent %.2f copies\n", nodes, last / 20,
		              c.origin_sent / (256 * c.chunk_size));
		assert_true(last < 20 * 1.12);
		assert_true(c.origin_sent < 256 * c.chunk_size * 1.10);
		crowd_free(&c);
	}
}

static void test_slow_node_costs_the_others_little(void **state)
{
	struct crowd c;
	crowd_start(&c, 8, 256, 20);
	c.rate_up[3] = c.rate_down[3] = c.rate_down[3] / 5;
	double slow = crowd_run(&c, 200), others = 0;
	for (uint32_t r = 1; r <= 8; r++)
		if (r != 3 && (double)c.done_us[r] / 1e6 > others)
			others = (double)c.done_us[r] / 1e6;
	print_message("one at a fifth: others %.2f x, itself %.2f x, origin %.2f copies\n", others / 20, slow / 100,
	              c.origin_sent / (256 * c.chunk_size));
	assert_true(others < 20 * 1.30);
	assert_true(slow < 100 * 1.10);
	crowd_free(&c);
}

static void test_node_that_dies_does_not_stop_the_others(void **state)
{
	struct crowd c;
	crowd_start(&c, 8, 256, 20);
	for (int i = 0; i < 500; i++) {
		crowd_ask(&c);
		crowd_step(&c);
	}
	c.dead[2] = true;
	for (uint32_t r = 1; r <= 8; r++)
		if (r != 2)
			chunk_plan_drop_source(c.plan[r], 2);
	for (size_t i = 0; i < c.t_count; i++)
		if (c.t[i].from == 2 || c.t[i].to == 2)
			c.t[i].live = false;
	double last = crowd_run(&c, 100);
	assert_true(last < 20 * 1.30);
	crowd_free(&c);
}

static void test_source_that_hangs_is_passed_by(void **state)
{
	struct crowd c;
	crowd_start(&c, 4, 64, 10);
	for (int i = 0; i < 200; i++) {
		crowd_ask(&c);
		crowd_step(&c);
	}
	c.dead[1] = true; /* still connected, never a byte more */
	assert_true(crowd_run(&c, 60) < 30);
	crowd_free(&c);
}

static void test_corrupt_source_is_left_alone(void **state)
{
	struct chunk_plan *p = chunk_plan_new(10, NULL, 1, 1);
	struct chunk_request q;
	chunk_plan_add_source(p, 0, 5, false, true, 0);
	chunk_plan_offer(p, 0, NULL, 0);
	assert_true(chunk_plan_next(p, 0, &q));
	chunk_plan_failed(p, q.chunk, q.source, true, 0);
	assert_false(chunk_plan_next(p, 30000000, &q));
	assert_true(chunk_plan_next(p, 61000000, &q));
	chunk_plan_free(p);
}

static void test_held_chunks_are_never_asked_for(void **state)
{
	uint8_t held[2] = {0xf0, 0xff}; /* bits past the count are noise */
	struct chunk_plan *p = chunk_plan_new(9, held, 1, 1);
	struct chunk_request q;
	assert_int_equal(chunk_plan_held(p), 5);
	chunk_plan_add_source(p, 7, 5, true, true, 0);
	chunk_plan_offer(p, 7, NULL, 0);
	for (int i = 0; i < 4; i++) {
		assert_true(chunk_plan_next(p, 0, &q));
		assert_true(q.chunk < 4);
		assert_true(chunk_plan_arrived(p, q.chunk, q.source, 1, 10));
		assert_false(chunk_plan_arrived(p, q.chunk, q.source, 1, 10));
	}
	assert_false(chunk_plan_next(p, 0, &q));
	assert_int_equal(chunk_plan_held(p), 9);
	chunk_plan_free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_crowd_takes_little_longer_than_one_copy),
	    cmocka_unit_test(test_slow_node_costs_the_others_little),
	    cmocka_unit_test(test_node_that_dies_does_not_stop_the_others),
	    cmocka_unit_test(test_source_that_hangs_is_passed_by),
	    cmocka_unit_test(test_corrupt_source_is_left_alone),
	    cmocka_unit_test(test_held_chunks_are_never_asked_for),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
