/* SPDX-License-Identifier: Apache-2.0 */
/* Trees that are trees: everybody is reached, nobody gives more than a copy, sites get one, little moves. */
#include "core/spread.h"

#include "base/rng.h"
#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

struct net {
	struct spread_node *nodes;
	size_t count;
	struct spread *s;
};

/* Node 0 is the origin, at site 0; the others are on `sites` sites from `first_site` on. */
static struct net net_new(size_t receivers, uint64_t sites, uint64_t first_site, uint64_t seed)
{
	struct net n = {mem_new((receivers + 1) * sizeof *n.nodes), receivers + 1, NULL};
	struct rng rng;
	rng_init(&rng, seed);
	for (size_t i = 0; i <= receivers; i++)
		n.nodes[i] = (struct spread_node){
		    .key = rng_next(&rng), .origin = i == 0, .site = i ? first_site + i % sites : 0};
	return n;
}

static void net_plan(struct net *n)
{
	spread_free(n->s);
	n->s = spread_new(n->nodes, n->count, 42);
}

static void net_free(struct net *n)
{
	spread_free(n->s);
	free(n->nodes);
}

static uint32_t parent(const struct net *n, size_t node, uint32_t stripe)
{
	return spread_parents(n->s, node, stripe)[0];
}

/* Every receiver reaches somebody who has it all; the depth. */
static uint32_t assert_rooted(const struct net *n)
{
	uint32_t deepest = 0;
	for (size_t i = 0; i < n->count; i++) {
		for (uint32_t s = 0; s < SPREAD_STRIPES; s++) {
			uint32_t at = (uint32_t)i, depth = 0;
			while (!n->nodes[at].origin && !n->nodes[at].complete) {
				at = parent(n, at, s);
				assert_int_not_equal(at, SPREAD_NONE);
				assert_true(++depth <= n->count);
			}
			deepest = depth > deepest ? depth : deepest;
		}
	}
	return deepest;
}

static uint32_t children(const struct net *n, size_t node)
{
	uint32_t count = 0;
	for (size_t i = 0; i < n->count; i++)
		for (uint32_t s = 0; s < SPREAD_STRIPES; s++)
			count += parent(n, i, s) == node;
	return count;
}

static void test_everybody_is_reached_over_a_short_way_and_gives_at_most_a_copy(void **state)
{
	for (size_t receivers = 1; receivers <= 3000; receivers = receivers * 3 / 2 + 1) {
		struct net n = net_new(receivers, 1, 0, receivers);
		net_plan(&n);
		uint32_t depth = assert_rooted(&n), most = 0;
		if (receivers <= 300)
			for (size_t i = 0; i < n.count; i++)
				most = children(&n, i) > most ? children(&n, i) : most;
		print_message("%4zu receivers: depth %u, most children %u\n", receivers, depth, most);
		assert_true(depth <= 10);
		assert_true(most <= SPREAD_STRIPES + 1);
		assert_int_equal(children(&n, 0), SPREAD_STRIPES);
		net_free(&n);
	}
}

static void test_each_site_gets_one_copy_and_gives_about_one(void **state)
{
	for (uint64_t sites = 1; sites <= 60; sites = sites * 2 + 1) {
		struct net n = net_new((size_t)sites * 7, sites, 1, sites);
		uint32_t *in = mem_new((sites + 1) * sizeof *in), *out = mem_new((sites + 1) * sizeof *out);
		net_plan(&n);
		assert_rooted(&n);
		for (size_t i = 1; i < n.count; i++) {
			for (uint32_t s = 0; s < SPREAD_STRIPES; s++) {
				uint64_t from = n.nodes[parent(&n, i, s)].site;
				in[n.nodes[i].site] += from != n.nodes[i].site;
				out[from] += from != n.nodes[i].site;
			}
		}
		for (uint64_t k = 1; k <= sites; k++)
			assert_int_equal(in[k], SPREAD_STRIPES);
		assert_int_equal(out[0], SPREAD_STRIPES);
		for (uint64_t k = 1; k <= sites; k++)
			assert_true(out[k] <= SPREAD_STRIPES + 3);
		free(in);
		free(out);
		net_free(&n);
	}
}

static void test_slow_ones_feed_nobody_and_quick_ones_more(void **state)
{
	struct net n = net_new(40, 1, 0, 5);
	for (size_t i = 1; i < n.count; i++)
		n.nodes[i].rate = i <= 10 ? 1000 : i <= 30 ? 4000 : 8000;
	n.nodes[11].leaf = true;
	net_plan(&n);
	assert_rooted(&n);
	uint32_t quick = 0, usual = 0;
	for (size_t i = 1; i <= 11; i++)
		assert_int_equal(children(&n, i), 0);
	for (size_t i = 12; i < n.count; i++)
		*(i <= 30 ? &usual : &quick) += children(&n, i);
	print_message("children: 19 usual ones %u, 10 twice as quick %u\n", usual, quick);
	assert_true(quick * 19 > usual * 10 * 5 / 4); /* each; shares are whole children */
	net_free(&n);
}

/* Seven feed in eight stripes: nobody gives more than seven eighths of a copy to those that take all as it comes. */
static void test_few_share_what_a_slow_one_spares_them(void **state)
{
	struct net n = net_new(8, 1, 0, 9);
	n.nodes[8].leaf = true;
	net_plan(&n);
	assert_rooted(&n);
	for (size_t i = 1; i < n.count; i++) {
		uint32_t quick = 0;
		for (size_t k = 1; k < 8; k++)
			for (uint32_t s = 0; s < SPREAD_STRIPES; s++)
				quick += parent(&n, k, s) == i;
		assert_true(quick <= 7);
	}
	net_free(&n);
}

static void test_who_was_late_stays_so_until_it_caught_up(void **state)
{
	struct spread_progress p[3] = {{.have = 600}, {.have = 600}, {.have = 400, .late = true}};
	assert_false(spread_judge(p, 3, 1000));
	assert_true(p[2].late);
	p[2].have = 500;
	assert_true(spread_judge(p, 3, 1000));
	assert_false(p[2].late);
	p[2].have = 250; /* it fell back, but not by far */
	assert_false(spread_judge(p, 3, 1000));
	p[2].have = 200;
	assert_true(spread_judge(p, 3, 1000));
	assert_true(p[2].late);
}

static void test_who_has_it_feeds_its_site_and_the_origin_is_spared(void **state)
{
	struct net n = net_new(30, 1, 0, 6);
	for (size_t i = 1; i <= 12; i++)
		n.nodes[i].complete = true;
	net_plan(&n);
	assert_rooted(&n);
	assert_int_equal(children(&n, 0), 0);
	assert_int_equal(parent(&n, 1, 0), SPREAD_NONE);
	net_free(&n);
}

static void test_one_node_more_or_less_moves_few(void **state)
{
	for (int turn = 0; turn < 2; turn++) {
		struct net a = net_new(200, turn ? 10 : 1, 1, 8), b = net_new(199, turn ? 10 : 1, 1, 8);
		uint32_t moved = 0;
		net_plan(&a);
		net_plan(&b);
		for (size_t i = 1; i < b.count; i++)
			for (uint32_t s = 0; s < SPREAD_STRIPES; s++)
				moved += parent(&a, i, s) != parent(&b, i, s);
		print_message("200 nodes on %d sites, one less: %u of %zu edges moved\n", turn ? 10 : 1, moved,
		              (b.count - 1) * SPREAD_STRIPES);
		assert_true(moved < 200 * SPREAD_STRIPES / 3);
		net_free(&a);
		net_free(&b);
	}
}

static void test_order_of_nodes_does_not_matter(void **state)
{
	struct net a = net_new(50, 5, 0, 9), b = net_new(50, 5, 0, 9);
	for (size_t i = 0; i < b.count; i++)
		b.nodes[i] = a.nodes[a.count - 1 - i];
	net_plan(&a);
	net_plan(&b);
	for (size_t i = 1; i < a.count; i++)
		for (uint32_t s = 0; s < SPREAD_STRIPES; s++)
			assert_int_equal(parent(&a, i, s), a.count - 1 - parent(&b, a.count - 1 - i, s));
	net_free(&a);
	net_free(&b);
}

static void test_racks_stay_together_where_they_can(void **state)
{
	struct net n = net_new(120, 1, 0, 10);
	uint32_t same = 0;
	for (size_t i = 1; i < n.count; i++)
		n.nodes[i].rack = 1 + i % 4;
	net_plan(&n);
	assert_rooted(&n);
	for (size_t i = 1; i < n.count; i++)
		for (uint32_t s = 0; s < SPREAD_STRIPES; s++)
			same += n.nodes[parent(&n, i, s)].rack == n.nodes[i].rack;
	print_message("edges within one of 4 racks: %u of 480\n", same);
	assert_true(same > 240); /* by chance: 120 */
	net_free(&n);
}

static void test_stripes_are_even_over_any_stretch(void **state)
{
	uint32_t seen[SPREAD_STRIPES] = {0};
	for (uint32_t i = 0; i < 4096; i++) {
		seen[spread_stripe(i)]++;
		if (i % SPREAD_STRIPES == SPREAD_STRIPES - 1)
			for (uint32_t s = 0; s < SPREAD_STRIPES; s++)
				assert_int_equal(seen[s], i / SPREAD_STRIPES + 1);
	}
}

/* Random networks: nobody is forgotten, nobody stands in for itself, whatever the mix. */
static void test_random_networks(void **state)
{
	struct rng rng;
	rng_init(&rng, 11);
	for (int turn = 0; turn < 2000; turn++) {
		size_t count = 1 + rng_below(&rng, 40);
		struct net n = net_new(count, 1 + rng_below(&rng, 6), rng_below(&rng, 2), rng_next(&rng));
		for (size_t i = 1; i < n.count; i++) {
			n.nodes[i].leaf = rng_below(&rng, 4) == 0;
			n.nodes[i].complete = rng_below(&rng, 5) == 0;
			n.nodes[i].rate = rng_below(&rng, 3) ? rng_below(&rng, 1 << 20) : 0;
			n.nodes[i].rack = rng_below(&rng, 3);
			n.nodes[i].origin = rng_below(&rng, 10) == 0;
		}
		net_plan(&n);
		assert_rooted(&n);
		for (size_t i = 0; i < n.count; i++)
			for (uint32_t s = 0; s < SPREAD_STRIPES; s++)
				for (uint32_t k = 0; k < SPREAD_PARENTS; k++)
					assert_int_not_equal(spread_parents(n.s, i, s)[k], i);
		net_free(&n);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_everybody_is_reached_over_a_short_way_and_gives_at_most_a_copy),
	    cmocka_unit_test(test_each_site_gets_one_copy_and_gives_about_one),
	    cmocka_unit_test(test_slow_ones_feed_nobody_and_quick_ones_more),
	    cmocka_unit_test(test_few_share_what_a_slow_one_spares_them),
	    cmocka_unit_test(test_who_was_late_stays_so_until_it_caught_up),
	    cmocka_unit_test(test_who_has_it_feeds_its_site_and_the_origin_is_spared),
	    cmocka_unit_test(test_one_node_more_or_less_moves_few),
	    cmocka_unit_test(test_order_of_nodes_does_not_matter),
	    cmocka_unit_test(test_racks_stay_together_where_they_can),
	    cmocka_unit_test(test_stripes_are_even_over_any_stretch),
	    cmocka_unit_test(test_random_networks),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
