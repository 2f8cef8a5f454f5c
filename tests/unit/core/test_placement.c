/* SPDX-License-Identifier: Apache-2.0 */
/* Selectors and rules (core/placement), and the form of API keys (core/api_key). */
#include "core/api_key.h"
#include "core/placement.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static struct placement_node node(const char *id, const char *name, const char *site, uint32_t roles)
{
	return (struct placement_node){
	    .id = str_from(id), .name = str_from(name), .site = str_from(site), .roles = roles};
}

static bool matches(const char *selector, const struct placement_node *n)
{
	struct selector s;
	struct error err = {0};
	assert_int_equal(selector_parse(str_from(selector), &s, &err), 0);
	bool yes = selector_match(&s, n);
	selector_fini(&s);
	return yes;
}

static void test_terms_of_one_kind_are_alternatives_and_kinds_all_hold(void **unused)
{
	struct placement_node paris = node("n-1", "e1", "paris", ROLE_EDGE);
	assert_true(matches("all", &paris));
	assert_true(matches("role=edge", &paris));
	assert_true(matches(" role=edge , site=paris ", &paris));
	assert_false(matches("role=edge,site=lyon", &paris));
	assert_true(matches("site=lyon,site=paris", &paris));
	assert_true(matches("role=center,role=edge", &paris));
	assert_true(matches("node=e1", &paris));
	assert_true(matches("node=n-1,all", &paris));
	assert_false(matches("node=e2,site=paris", &paris));
	assert_false(matches("all,role=scheduler", &paris));
}

static void test_bad_selectors_are_refused_with_the_way_out(void **unused)
{
	const char *bad[] = {"",
	                     " ",
	                     ",",
	                     "all,",
	                     "edge",
	                     "role=",
	                     "role=king",
	                     "site=",
	                     "all=1",
	                     "node=a b",
	                     "ROLE=edge",
	                     "site",
	                     "!",
	                     "!all",
	                     "!!site=a",
	                     "label=rack",
	                     "memory>=",
	                     "memory>=many",
	                     "memory=16G",
	                     "accelerator=",
	                     "role=edge,role=",
	                     "site=!a"};
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct selector s;
		struct error err = {0};
		assert_int_equal(selector_parse(str_from(bad[i]), &s, &err), E_INVAL);
		assert_true(strlen(err.text) > 10);
	}
	struct buf many = {0};
	for (int i = 0; i <= SELECTOR_TERMS_MAX; i++)
		buf_printf(&many, "%ssite=s%d", i ? "," : "", i);
	struct selector s;
	struct error err = {0};
	assert_int_equal(selector_parse(buf_str(&many), &s, &err), E_LIMIT);
	buf_fini(&many);
}

static void test_equal_selectors_have_one_text(void **unused)
{
	const char *pairs[][2] = {
	    {"site=b,site=a,role=edge,site=a", "role=edge,site=a,site=b"},
	    {"all", "all"},
	    {"all,node=x", "node=x"},
	    {"! site=a,memory>=16384M,label=rack:7,site=b,accelerator=cuda",
	     "site=b,label=rack:7,accelerator=cuda,memory>=16G,!site=a"},
	};
	for (size_t i = 0; i < sizeof(pairs) / sizeof(*pairs); i++) {
		struct selector s;
		struct buf out = {0};
		assert_int_equal(selector_parse(str_from(pairs[i][0]), &s, NULL), 0);
		selector_format(&s, &out);
		assert_true(str_equal(buf_str(&out), str_from(pairs[i][1])));
		selector_fini(&s);
		buf_fini(&out);
	}
}

static struct placement_rule rule(const char *model, const char *on)
{
	struct placement_rule r = {0};
	str_copy(str_from(model), r.model, sizeof(r.model));
	assert_int_equal(selector_parse(str_from(on), &r.on, NULL), 0);
	return r;
}

static void test_machines_are_chosen_by_what_they_are(void **unused)
{
	static const char labels[2][NODE_TEXT_SIZE] = {"rack:7", "tier:gold"};
	struct placement_node n = node("n-1", "e1", "paris", ROLE_EDGE);
	n.labels = labels;
	n.label_count = 2;
	n.memory_bytes = UINT64_C(32) << 30;
	n.accelerator = STR("cuda");
	assert_true(matches("label=rack:7", &n));
	assert_true(matches("label=rack:8,label=tier:gold", &n));
	assert_false(matches("label=rack:8", &n));
	assert_true(matches("memory>=32G,accelerator=cuda,site=paris", &n));
	assert_false(matches("memory>=33G", &n));
	assert_false(matches("accelerator=none", &n));
	assert_false(matches("!accelerator=cuda", &n));
	assert_true(matches("role=edge,!site=lyon,!label=rack:8", &n));
	assert_false(matches("role=edge,!site=lyon,!label=rack:7", &n));
	n.memory_bytes = 0;
	assert_false(matches("memory>=1M", &n));
}

static bool holds(const struct placement_rule *rules, size_t i, const struct placement_node *n)
{
	return placement_rule_holds(&rules[i], n);
}

static void test_rules_hold_for_nodes_that_run_models(void **unused)
{
	struct placement_rule rules[] = {rule("small:1", "role=edge"), rule("extra:1", "site=paris"),
	                                 rule("big:1", "role=center"), rule("all:1", "all"), rule("one:1", "node=c")};
	struct placement_node paris = node("n-1", "e1", "paris", ROLE_EDGE);
	assert_true(holds(rules, 0, &paris) && holds(rules, 1, &paris) && holds(rules, 3, &paris));
	assert_false(holds(rules, 2, &paris) || holds(rules, 4, &paris));
	struct placement_node store = node("n-2", "repo", "paris", ROLE_REPOSITORY);
	struct placement_node scheduler = node("n-3", "s", "paris", ROLE_SCHEDULER);
	for (size_t i = 0; i < 5; i++)
		assert_false(holds(rules, i, &store) || holds(rules, i, &scheduler));
	struct placement_node center = node("n-4", "c", "paris", ROLE_CENTER);
	assert_true(holds(rules, 2, &center) && holds(rules, 4, &center));
	assert_false(holds(rules, 0, &center) || holds(rules, 1, &center) || holds(rules, 3, &center));
	struct placement_node box = node("n-5", "box", "lyon", ROLE_CENTER | ROLE_EDGE | ROLE_REPOSITORY);
	assert_true(holds(rules, 0, &box) && holds(rules, 2, &box) && holds(rules, 3, &box));
	for (size_t i = 0; i < 5; i++)
		selector_fini(&rules[i].on);
}

enum { MANY = 200 };

static size_t chosen_count(const bool *chosen, size_t count)
{
	size_t n = 0;
	for (size_t i = 0; i < count; i++)
		n += chosen[i];
	return n;
}

static void test_replicas_are_few_spread_and_stay_where_they_are(void **unused)
{
	static struct placement_node nodes[MANY];
	static char ids[MANY][16];
	bool before[MANY], after[MANY];
	struct placement_rule r = rule("m:1", "role=edge");
	for (size_t i = 0; i < MANY; i++) {
		snprintf(ids[i], sizeof(ids[i]), "n-%zu", i);
		nodes[i] = node(ids[i], ids[i], i % 4 == 0 ? "a" : i % 4 == 1 ? "b" : "c", ROLE_EDGE);
		nodes[i].memory_bytes = UINT64_C(16) << 30;
	}
	placement_choose(&r, 0, 0, nodes, MANY, before);
	assert_int_equal(chosen_count(before, MANY), MANY);
	placement_choose(&r, 10, 0, nodes, MANY, before);
	assert_int_equal(chosen_count(before, MANY), 10);
	/* one more is one more; one fewer is one fewer */
	placement_choose(&r, 11, 0, nodes, MANY, after);
	for (size_t i = 0; i < MANY; i++)
		assert_true(!before[i] || after[i]);
	/* a node that is away is replaced, the others stay */
	size_t gone = 0;
	while (!before[gone])
		gone++;
	nodes[gone].away = true;
	placement_choose(&r, 10, 0, nodes, MANY, after);
	assert_int_equal(chosen_count(after, MANY), 10);
	assert_false(after[gone]);
	for (size_t i = 0; i < MANY; i++)
		assert_true(!before[i] || after[i] || i == gone);
	nodes[gone].away = false;
	/* too small machines are the last choice */
	for (size_t i = 0; i < MANY; i++)
		nodes[i].memory_bytes = i % 2 ? UINT64_C(8) << 30 : UINT64_C(16) << 30;
	placement_choose(&r, 20, UINT64_C(10) << 30, nodes, MANY, after);
	for (size_t i = 1; i < MANY; i += 2)
		assert_false(after[i]);
	r.per_site = true;
	placement_choose(&r, 2, 0, nodes, MANY, after);
	assert_int_equal(chosen_count(after, MANY), 6);
	selector_fini(&r.on);
}

static void test_models_get_replicas_evenly(void **unused)
{
	static struct placement_node nodes[20];
	static char ids[20][16];
	size_t load[20] = {0};
	for (size_t i = 0; i < 20; i++) {
		snprintf(ids[i], sizeof(ids[i]), "n-%zu", i);
		nodes[i] = node(ids[i], ids[i], "a", ROLE_EDGE);
		nodes[i].memory_bytes = UINT64_C(16) << (30 + (i < 10));
	}
	for (int m = 0; m < 1000; m++) {
		bool chosen[20];
		char name[16];
		snprintf(name, sizeof(name), "m%d:1", m);
		struct placement_rule r = rule(name, "all");
		placement_choose(&r, 2, 0, nodes, 20, chosen);
		for (size_t i = 0; i < 20; i++)
			load[i] += chosen[i];
		selector_fini(&r.on);
	}
	for (size_t i = 0; i < 20; i++) /* 2000 over 30 shares */
		assert_true(i < 10 ? load[i] > 95 && load[i] < 175 : load[i] > 40 && load[i] < 105);
}

static void test_demand_follows_load_without_flapping(void **unused)
{
	struct demand d = {0};
	int64_t now = 1000000;
	uint32_t changes = 0;
	demand_step(&d, 1, 8, 0, 4, now);
	assert_int_equal(d.replicas, 1);
	for (int s = 0; s < 120; s++)
		demand_step(&d, 1, 8, 10, 4, now += 1000000);
	assert_int_equal(d.replicas, 4); /* 10 / 2.8 */
	for (int s = 0; s < 3600; s++)
		changes += demand_step(&d, 1, 8, s % 20 < 10 ? 13 : 7, 4, now += 1000000);
	assert_true(changes <= 2);
	uint32_t high = d.replicas;
	for (int s = 0; s < 300; s++)
		demand_step(&d, 1, 8, 0, 4, now += 1000000);
	assert_int_equal(d.replicas, high); /* not yet */
	for (int s = 0; s < 7200; s++)
		demand_step(&d, 1, 8, 0, 4, now += 1000000);
	assert_int_equal(d.replicas, 1);
	demand_step(&d, 3, 8, 0, 4, now += 1000000);
	assert_int_equal(d.replicas, 3);
	for (int s = 0; s < 100; s++)
		demand_step(&d, 3, 8, 500, 4, now += 1000000);
	assert_int_equal(d.replicas, 8);
}

static void test_api_keys_tell_typos_and_match_only_themselves(void **unused)
{
	uint8_t id[6] = {0xa1, 2, 3, 4, 5, 6}, secret[API_KEY_SECRET_BYTES] = {7, 8, 9};
	char key[API_KEY_SIZE], found[API_KEY_ID_SIZE], hash[API_KEY_HASH_SIZE];
	api_key_format(id, secret, key);
	assert_int_equal(api_key_parse(str_from(key), found, NULL), 0);
	assert_string_equal(found, "a10203040506");
	api_key_hash(str_from(key), hash);
	assert_true(api_key_matches(str_from(key), str_from(hash)));
	assert_false(api_key_matches(str_from(key), STR("")));

	struct error err = {0};
	key[30] = key[30] == '0' ? '1' : '0';
	assert_int_equal(api_key_parse(str_from(key), found, &err), E_AUTH);
	assert_non_null(strstr(err.text, "mistyped"));
	assert_false(api_key_matches(str_from(key), str_from(hash)));
	assert_int_equal(api_key_parse(STR("sk-123"), found, NULL), E_AUTH);
	assert_int_equal(api_key_parse((struct str){0}, found, NULL), E_AUTH);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_terms_of_one_kind_are_alternatives_and_kinds_all_hold),
	    cmocka_unit_test(test_bad_selectors_are_refused_with_the_way_out),
	    cmocka_unit_test(test_equal_selectors_have_one_text),
	    cmocka_unit_test(test_machines_are_chosen_by_what_they_are),
	    cmocka_unit_test(test_rules_hold_for_nodes_that_run_models),
	    cmocka_unit_test(test_replicas_are_few_spread_and_stay_where_they_are),
	    cmocka_unit_test(test_models_get_replicas_evenly),
	    cmocka_unit_test(test_demand_follows_load_without_flapping),
	    cmocka_unit_test(test_api_keys_tell_typos_and_match_only_themselves),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
