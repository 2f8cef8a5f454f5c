/* SPDX-License-Identifier: Apache-2.0 */
/* Selectors and rules (core/placement), and the form of API keys (core/api_key). */
#include "core/api_key.h"
#include "core/placement.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static struct placement_node node(const char *id, const char *name, const char *site, uint32_t roles)
{
	return (struct placement_node){str_from(id), str_from(name), str_from(site), roles};
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
	const char *bad[] = {
	    "", " ", ",", "all,", "edge", "role=", "role=king", "site=", "all=1", "node=a b", "ROLE=edge", "site"};
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

static void test_rules_give_each_node_its_models_once(void **unused)
{
	struct placement_rule rules[] = {
	    rule("small:1", "role=edge"), rule("extra:1", "site=paris"), rule("small:1", "site=paris"),
	    rule("big:1", "role=center"), rule("all:1", "all"),
	};
	const char *models[8];
	struct placement_node paris = node("n-1", "e1", "paris", ROLE_EDGE);
	assert_int_equal(placement_of(rules, 5, &paris, models, 8), 3);
	assert_string_equal(models[0], "all:1");
	assert_string_equal(models[1], "extra:1");
	assert_string_equal(models[2], "small:1");
	assert_int_equal(placement_of(rules, 5, &paris, models, 2), 2);

	struct placement_node store = node("n-2", "repo", "paris", ROLE_REPOSITORY);
	assert_int_equal(placement_of(rules, 5, &store, models, 8), 0);
	struct placement_node scheduler = node("n-3", "s", "paris", ROLE_SCHEDULER);
	assert_int_equal(placement_of(rules, 5, &scheduler, models, 8), 0);
	struct placement_node center = node("n-4", "c", "paris", ROLE_CENTER);
	assert_int_equal(placement_of(rules, 5, &center, models, 8), 1);
	assert_string_equal(models[0], "big:1");
	struct placement_node box =
	    node("n-5", "box", "lyon", ROLE_CENTER | ROLE_EDGE | ROLE_REPOSITORY | ROLE_SCHEDULER);
	assert_int_equal(placement_of(rules, 5, &box, models, 8), 3);
	for (size_t i = 0; i < 5; i++)
		selector_fini(&rules[i].on);
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
	    cmocka_unit_test(test_rules_give_each_node_its_models_once),
	    cmocka_unit_test(test_api_keys_tell_typos_and_match_only_themselves),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
