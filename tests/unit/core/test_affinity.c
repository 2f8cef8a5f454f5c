/* SPDX-License-Identifier: Apache-2.0 */
/* Which node has which prompt, and what that is worth: sticky until saturated, bounded, each tenant alone. */
#include "core/affinity.h"

#include "core/recent.h"
#include "core/score.h"
#include "fixture.h"

#define T INT64_C(10000000000)

static char text[1 << 20];

static void fill_text(void)
{
	struct rng rng;
	rng_init(&rng, 1);
	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (char)('a' + rng_below(&rng, 26));
}

static struct affinity_prompt prompt_of(const struct affinity *a, const char *tenant, size_t from, size_t len)
{
	struct affinity_prompt p;
	affinity_begin(a, &p, STR("x"), str_from(tenant), STR(""));
	affinity_feed(&p, text + from, len);
	return p;
}

static int32_t warm_at(struct affinity *a, const struct affinity_prompt *p, const char *node, int64_t now_us)
{
	struct route_warm warm[AFFINITY_HOLDERS_MAX];
	size_t count = affinity_find(a, p, now_us, warm);
	for (size_t i = 0; i < count; i++)
		if (strcmp(warm[i].id, node) == 0)
			return warm[i].tokens;
	return -1;
}

static void test_the_common_beginning_is_found_however_it_is_fed(void **unused)
{
	struct affinity *a = affinity_new(7);
	struct affinity_prompt first = prompt_of(a, "t", 0, 24000), other = prompt_of(a, "t", 5, 24000), second, third;
	affinity_learn(a, &first, STR("n1"), 1, T);
	affinity_learn(a, &other, STR("n2"), 1, T);

	affinity_begin(a, &second, STR("x"), STR("t"), STR(""));
	for (size_t at = 0, step = 1; at < 12000; at += step, step = step % 13 + 1)
		affinity_feed(&second, text + at, at + step < 12000 ? step : 12000 - at);
	affinity_feed(&second, text + 500000, 9000);
	third = prompt_of(a, "t", 0, 12000);
	assert_memory_equal(second.blocks, third.blocks, 12000 / 256 * sizeof(uint64_t));
	assert_int_equal(warm_at(a, &second, "n1", T), 12000 / 256 * 256 / AFFINITY_TOKEN_BYTES);
	assert_int_equal(warm_at(a, &second, "n2", T), -1);

	struct affinity_prompt tiny = prompt_of(a, "t", 0, 255), whole = prompt_of(a, "t", 0, sizeof(text));
	assert_int_equal(tiny.count, 0);
	assert_int_equal(whole.count, AFFINITY_BLOCKS_MAX);
	assert_int_equal(affinity_block_end(AFFINITY_BLOCKS_MAX - 1), 64 * 256 * (1 + 2 + 4 + 8));
	affinity_free(a);
}

static void test_tenants_salts_and_models_do_not_see_each_other(void **unused)
{
	struct affinity *a = affinity_new(7);
	struct affinity_prompt mine = prompt_of(a, "mine", 0, 4096), yours = prompt_of(a, "yours", 0, 4096), p;
	affinity_session(&mine, STR("s1"));
	affinity_session(&yours, STR("s1"));
	affinity_learn(a, &mine, STR("n1"), 1, T);
	assert_int_equal(warm_at(a, &mine, "n1", T), 1024);
	assert_int_equal(warm_at(a, &yours, "n1", T), -1);
	assert_true(mine.key && yours.key && mine.key != yours.key);
	affinity_begin(a, &p, STR("x"), STR("mine"), STR("salt"));
	affinity_feed(&p, text, 4096);
	assert_int_equal(warm_at(a, &p, "n1", T), -1);
	affinity_begin(a, &p, STR("y"), STR("mine"), STR(""));
	affinity_feed(&p, text, 4096);
	assert_int_equal(warm_at(a, &p, "n1", T), -1);

	/* Another dispatcher: nothing of what is remembered can be foretold, and yet both send it to the same node. */
	struct affinity *b = affinity_new(8);
	p = prompt_of(b, "mine", 0, 4096);
	assert_int_equal(p.key, mine.key);
	assert_int_not_equal(p.blocks[0], mine.blocks[0]);
	affinity_free(a);
	affinity_free(b);
}

static void test_age_a_restart_and_want_of_room_make_it_forget(void **unused)
{
	struct affinity *a = affinity_new(7);
	struct affinity_prompt p = prompt_of(a, "t", 0, 4096), q;
	char id[NODE_ID_SIZE];
	affinity_learn(a, &p, STR("n1"), 1, T);
	assert_int_equal(warm_at(a, &p, "n1", T + AFFINITY_AGE_US), 1024);
	assert_int_equal(warm_at(a, &p, "n1", T + AFFINITY_AGE_US + 1), -1);
	assert_int_equal(affinity_count(a), 0);

	affinity_learn(a, &p, STR("n1"), 1, T);
	q = prompt_of(a, "t", 100000, 4096);
	affinity_learn(a, &q, STR("n1"), 2, T); /* it restarted: what it had before is gone */
	assert_int_equal(warm_at(a, &p, "n1", T), -1);
	assert_int_equal(warm_at(a, &q, "n1", T), 1024);

	/* More prompts, and more nodes, than are remembered. */
	for (int i = 0; i < 20000; i++) {
		q = prompt_of(a, "t", (size_t)i * 29, 4096);
		snprintf(id, sizeof(id), "m%d", i % (AFFINITY_NODES_MAX + 100));
		affinity_learn(a, &q, str_from(id), 1, T + i);
	}
	assert_int_equal(affinity_count(a), AFFINITY_PAIRS_MAX);
	assert_int_equal(warm_at(a, &q, id, T), 1024);
	affinity_free(a);

	/* A beginning that everybody has costs no more to look at than one that few have. */
	struct recent *r = recent_new(1000);
	for (uint32_t i = 0; i < 100; i++)
		recent_touch(r, 5, i, i);
	assert_int_equal(recent_count(r), RECENT_VALUES_MAX);
	recent_forget(r, 5);
	assert_false(recent_has(r, 5));
	recent_free(r);
}

static void test_a_session_is_where_it_was_last(void **unused)
{
	struct affinity *a = affinity_new(7);
	struct affinity_prompt p;
	struct route_warm warm[AFFINITY_HOLDERS_MAX];
	affinity_begin(a, &p, STR("x"), STR("t"), STR(""));
	affinity_session(&p, STR("chat-1"));
	affinity_learn(a, &p, STR("n1"), 1, T);
	affinity_learn(a, &p, STR("n2"), 1, T);
	assert_int_equal(affinity_find(a, &p, T, warm), 1);
	assert_string_equal(warm[0].id, "n2");
	assert_true(warm[0].session);
	affinity_session(&p, STR("chat-2"));
	assert_int_equal(affinity_find(a, &p, T, warm), 0);
	affinity_free(a);
}

/* ---- what it is worth ------------------------------------------------------------------------------ */

static struct node_map *nodes(int count, int busy_first)
{
	struct node_map *m = node_map_new();
	static const char *const ids[] = {"a", "b", "c", "d"};
	for (int i = 0; i < count; i++)
		report_at(m,
		          &(struct node_spec){.id = ids[i],
		                              .seq = 1,
		                              .model = "x:latest",
		                              .running = i == 0 ? busy_first : 0,
		                              .prefill = 5000},
		          T);
	return m;
}

static char chosen(const struct node_map *m, const struct route_query *q, struct rng *rng, char *ret_reason)
{
	struct route_decision d;
	assert_int_equal(route_decide(m, NULL, q, T, rng, &d, NULL), 0);
	char c = d.candidates[d.choice].id[0];
	if (ret_reason)
		strcpy(ret_reason, d.candidates[d.choice].reason);
	route_decision_fini(&d);
	return c;
}

static void test_the_warm_node_is_taken_until_its_queue_costs_twice_what_the_cache_saves(void **unused)
{
	struct rng rng;
	rng_init(&rng, 3);
	for (int32_t tokens = 250; tokens <= 4000; tokens *= 4) {
		const struct route_warm warm = {.id = "a", .boot = 1, .tokens = tokens};
		const struct route_query q = {.model = STR("x"),
		                              .client_site = STR("west"),
		                              .prompt_tokens = 4100,
		                              .warm = &warm,
		                              .warm_count = 1};
		int moved_at = 0, moves = 0;
		char reason[224], last = 'a';
		for (int busy = 0; busy < 64; busy++) {
			struct node_map *m = nodes(4, busy);
			char c = chosen(m, &q, &rng, reason);
			if (busy == 0)
				assert_non_null(strstr(reason, "tokens is warm there"));
			if ((c == 'a') != (last == 'a')) {
				moves++;
				moved_at = busy;
			}
			last = c;
			node_map_free(m);
		}
		assert_int_equal(moves, 1); /* once, for good */
		/* 5,000 tokens/s; a request before us takes 320 ms: twice 50 ms are worth no place in a queue, twice
		 * 800 ms five. */
		assert_in_range(moved_at,
		                tokens == 250    ? 1
		                : tokens == 1000 ? 7
		                                 : 11,
		                tokens == 250    ? 8
		                : tokens == 1000 ? 9
		                                 : 13);
	}
}

static void test_what_a_former_life_computed_is_worth_nothing(void **unused)
{
	const struct route_warm warm = {.id = "a", .boot = 9, .tokens = 4000};
	const struct route_query q = {
	    .model = STR("x"), .client_site = STR("west"), .prompt_tokens = 4100, .warm = &warm, .warm_count = 1};
	struct node_map *m = nodes(4, 4);
	struct rng rng;
	rng_init(&rng, 3);
	for (int i = 0; i < 50; i++)
		assert_int_not_equal(chosen(m, &q, &rng, NULL), 'a');
	node_map_free(m);
}

static void test_a_session_decides_among_equals_only(void **unused)
{
	const struct route_warm warm = {.id = "a", .boot = 1, .session = true};
	const struct route_query q = {.model = STR("x"), .client_site = STR("west"), .warm = &warm, .warm_count = 1};
	struct node_map *idle = nodes(4, 0), *busy = nodes(4, 7);
	struct rng rng;
	rng_init(&rng, 3);
	for (int i = 0; i < 20; i++) {
		assert_int_equal(chosen(idle, &q, &rng, NULL), 'a');
		assert_int_not_equal(chosen(busy, &q, &rng, NULL), 'a');
	}
	node_map_free(idle);
	node_map_free(busy);
}

static void test_a_long_prompt_that_nobody_has_goes_where_its_key_belongs(void **unused)
{
	int share[256] = {0};
	struct node_map *m = nodes(4, 0);
	struct rng rng, other;
	rng_init(&rng, 3);
	rng_init(&other, 4);
	for (uint64_t key = 1; key <= 400; key++) {
		struct route_query q = {.model = STR("x"),
		                        .client_site = STR("west"),
		                        .prompt_tokens = 2000,
		                        .key = hash_join(key, 1),
		                        .self_id = STR("a")};
		char c = chosen(m, &q, &rng, NULL);
		q.self_id = STR("b"); /* another dispatcher; both have the model themselves */
		assert_int_equal(chosen(m, &q, &other, NULL), c);
		share[(int)c]++;
	}
	for (char c = 'a'; c <= 'd'; c++)
		assert_in_range(share[(int)c], 60, 140);
	node_map_free(m);
}

/* ---- other policies -------------------------------------------------------------------------------- */

static void test_each_policy_chooses_by_its_own_rule(void **unused)
{
	static const char *const names[] = {"round_robin", "random",      "power_of_two", "least_load",
	                                    "cache_aware", "prefix_hash", "session"};
	const struct route_warm warm = {.id = "c", .boot = 1, .tokens = 3000, .session = true};
	struct node_map *m = nodes(4, 8);
	struct rng rng;
	rng_init(&rng, 3);
	assert_null(route_policy_find(STR("nope")));
	assert_null(route_policy_find(STR("mdn"))->choose);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		uint32_t turn = 0;
		int share[256] = {0};
		struct route_query q = {.model = STR("x"),
		                        .client_site = STR("west"),
		                        .prompt_tokens = 4000,
		                        .policy = route_policy_find(str_from(names[i])),
		                        .warm = &warm,
		                        .warm_count = 1,
		                        .key = 77,
		                        .session_key = 78,
		                        .turn = &turn};
		assert_non_null(q.policy);
		for (int n = 0; n < 400; n++)
			share[(int)chosen(m, &q, &rng, NULL)]++;
		int a = share['a'], c = share['c'];
		if (i == 0)
			assert_true(a == 100 && c == 100);
		else if (i == 1)
			assert_in_range(a, 60, 140);
		else if (i == 2)
			assert_in_range(a, 5, 60); /* a sixteenth: drawn twice */
		else if (i == 3)
			assert_true(a == 0 && c > 80);
		else if (i == 4 || i == 6)
			assert_int_equal(c, 400);
		else
			assert_true(a == 0 &&
			            (share['b'] == 400 || c == 400 || share['d'] == 400)); /* a is over the bound */
		const struct str tried = STR("c");
		q.excluded = &tried;
		q.excluded_count = 1;
		for (int n = 0; n < 100; n++)
			assert_int_not_equal(chosen(m, &q, &rng, NULL), 'c');
	}
	node_map_free(m);
}

int main(void)
{
	fill_text();
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_the_common_beginning_is_found_however_it_is_fed),
	    cmocka_unit_test(test_tenants_salts_and_models_do_not_see_each_other),
	    cmocka_unit_test(test_age_a_restart_and_want_of_room_make_it_forget),
	    cmocka_unit_test(test_a_session_is_where_it_was_last),
	    cmocka_unit_test(test_the_warm_node_is_taken_until_its_queue_costs_twice_what_the_cache_saves),
	    cmocka_unit_test(test_what_a_former_life_computed_is_worth_nothing),
	    cmocka_unit_test(test_a_session_decides_among_equals_only),
	    cmocka_unit_test(test_a_long_prompt_that_nobody_has_goes_where_its_key_belongs),
	    cmocka_unit_test(test_each_policy_chooses_by_its_own_rule),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
