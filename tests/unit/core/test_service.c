/* SPDX-License-Identifier: Apache-2.0 */
/* Which rule a request falls under. */
#include "core/service.h"

#include "fixture.h"

static bool header(void *arg, const char *name, struct str *ret_value)
{
	*ret_value = str_from(arg);
	return strcmp(name, "x-app") == 0;
}

static void test_the_first_rule_all_of_whose_terms_hold_counts(void **state)
{
	char *voice[] = {"*.voice.example"}, *tools[] = {"curl/*", "wget/*"}, *tenant[] = {"T1"}, *app[] = {"dial*"};
	struct service_term named[] = {{.field = SERVICE_TENANT, .patterns = tenant, .pattern_count = 1},
	                               {.field = SERVICE_SNI, .patterns = voice, .pattern_count = 1}};
	struct service_term by_tool[] = {{.field = SERVICE_USER_AGENT, .patterns = tools, .pattern_count = 2}};
	struct service_term by_app[] = {
	    {.field = SERVICE_HEADER, .header = "x-app", .patterns = app, .pattern_count = 1}};
	struct service_rule rules[] = {
	    {.service = {.name = "voice"}, .terms = named, .term_count = 2},
	    {.service = {.name = "tools"}, .terms = by_tool, .term_count = 1},
	    {.service = {.name = "app"}, .terms = by_app, .term_count = 1},
	    {.service = {.name = "rest"}},
	};
	struct service_rules all = {rules, 4};
	struct service_query q = {.texts = {[SERVICE_TENANT] = STR("T1"),
	                                    [SERVICE_SNI] = STR("A.Voice.Example"),
	                                    [SERVICE_USER_AGENT] = STR("Wget/1.2")},
	                          .header = header,
	                          .arg = "Dialer 3"};

	(void)state;
	assert_string_equal(service_find(&all, &q)->name, "voice");
	q.texts[SERVICE_TENANT] = STR("t1"); /* who asks is told by every letter */
	assert_string_equal(service_find(&all, &q)->name, "tools");
	q.texts[SERVICE_USER_AGENT] = STR(""); /* unknown fits no pattern, not even `*` */
	tools[0] = "*";
	assert_string_equal(service_find(&all, &q)->name, "app");
	q.header = NULL;
	assert_string_equal(service_find(&all, &q)->name, "rest");
	all.count = 3;
	assert_null(service_find(&all, &q));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_the_first_rule_all_of_whose_terms_hold_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
