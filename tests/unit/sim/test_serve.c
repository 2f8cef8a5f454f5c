/* SPDX-License-Identifier: Apache-2.0 */
/* Small networks of users, sites and engines, decided by the shipping code: what must hold whatever the seed, that both
 * ways of playing agree, and what a wrong scenario is told. */
#include "sim/serve.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static const char network[] = "name: test\nduration: 4m\n"
			      "network: {regions: 4, cities: 24, width_km: 1500, height_km: 1200}\n"
			      "sites: {count: 12, nodes: 16}\n"
			      "engine: {slots: 24, prefill_tokens_per_s: 12000, itl_base: 24ms, itl_slope: 500us}\n"
			      "dns: {public_share: 0.2, ecs_share: 0.5}\n";
static const char one_model[] = "models: [{name: chat}]\n";

static struct scenario *scenario(const char *more, const char *models, uint64_t seed)
{
	struct buf text = {0};
	struct scenario *s = NULL;
	struct error err = {0};
	buf_printf(&text, "%s%s%s", network, more, models);
	if (scenario_parse("test.yaml", buf_str(&text), &s, &err) != 0)
		fail_msg("%s", err.text);
	s->seed = seed;
	buf_fini(&text);
	return s;
}

static struct figures played(const struct scenario *s, enum sim_policy policy)
{
	struct figures f;
	sim_serve(s, policy, &f);
	print_message("%-12s %-8s %6.0f requests, %.0f busy, %.0f lost; TTFT %.0f, %.0f ms; near %.3f; streams %.0f\n",
	              sim_policy_names[policy], s->flows ? "flows" : "requests", f.requests, f.busy, f.lost,
	              histogram_at(&f.ttft, .5) / 1e3, histogram_at(&f.ttft, .99) / 1e3, f.near / f.served,
	              f.streams_most);
	return f;
}

static void check_always(const struct figures *f)
{
	assert_true(f->requests > 100);
	assert_true(fabs(f->requests - f->served - f->busy - f->lost) < 1e-3 * f->requests / 100);
	assert_true(f->wrong == 0);
}

static void test_requests_are_conserved_and_reach_who_has_the_model(void **state)
{
	static const char models[] = "models: [{name: chat, share: 0.8}, {name: rare, share: 0.2, nodes_share: 0.3}]\n";
	for (uint64_t seed = 1; seed <= 6; seed++) {
		struct scenario *s = scenario("users: {count: 80000, requests_per_day: 12}\n"
		                              "failures: [{at: 1m, lasts: 1m, site: 1}]\n"
		                              "flash: [{at: 2m, lasts: 1m, model: rare, times: 10}]\n",
		                              models, seed);
		for (unsigned p = 0; p < SIM_POLICIES; p += 1 + (seed > 1)) {
			struct figures f = played(s, (enum sim_policy)p);
			check_always(&f);
			figures_fini(&f);
		}
		s->flows = true;
		struct figures f = played(s, SIM_MDN);
		check_always(&f);
		figures_fini(&f);
		scenario_free(s);
	}
}

static void test_nobody_is_told_busy_while_capacity_is_left(void **state)
{
	for (uint64_t seed = 1; seed <= 3; seed++) {
		struct scenario *s = scenario("users: {count: 300000, requests_per_day: 12}\n", one_model, seed);
		struct sim_world w;
		sim_serve_world(s, SIM_MDN, &w);
		assert_true(sim_offered(&w, 0) > 0.5 && sim_offered(&w, 0) < 1);
		sim_world_fini(&w);
		struct figures f = played(s, SIM_MDN);
		check_always(&f);
		assert_true(f.busy == 0 && f.busy_with_room == 0 && f.lost == 0);
		figures_fini(&f);
		scenario_free(s);
	}
}

static void test_an_old_map_is_never_worse_than_none(void **state)
{
	static const char *const ages[] = {"5s", "30s", "2m"};
	for (uint64_t seed = 1; seed <= 3; seed++) {
		char more[128];
		snprintf(more, sizeof(more), "users: {count: 170000, requests_per_day: 12}\nreports: {map_age: %s}\n",
		         ages[seed - 1]);
		struct scenario *s = scenario(more, one_model, seed);
		struct figures mdn = played(s, SIM_MDN), random = played(s, SIM_RANDOM);
		check_always(&mdn);
		assert_true(histogram_at(&mdn.ttft, .5) < histogram_at(&random.ttft, .5));
		assert_true(histogram_at(&mdn.ttft, .99) < 1.03 * histogram_at(&random.ttft, .99));
		figures_fini(&mdn);
		figures_fini(&random);
		scenario_free(s);
	}
}

static bool agree(double a, double b, double share)
{
	return fabs(a - b) <= share * fmax(fabs(a), fabs(b));
}

static void test_flows_agree_with_every_request_played(void **state)
{
	struct scenario *s = scenario("users: {count: 200000, requests_per_day: 12}\n", one_model, 5);
	struct figures each = played(s, SIM_MDN);
	s->flows = true;
	struct figures flows = played(s, SIM_MDN);
	assert_true(agree(each.requests, flows.requests, 0.05));
	assert_true(agree(histogram_at(&each.ttft, .5), histogram_at(&flows.ttft, .5), 0.15));
	assert_true(agree(histogram_at(&each.ttft, .99), histogram_at(&flows.ttft, .99), 0.30));
	assert_true(agree(histogram_at(&each.itl, .5), histogram_at(&flows.itl, .5), 0.10));
	assert_true(agree(each.streams_most, flows.streams_most, 0.15));
	assert_true(fabs(each.near / each.served - flows.near / flows.served) < 0.15);
	figures_fini(&each);
	figures_fini(&flows);
	scenario_free(s);
}

static void test_same_seed_is_the_same_day(void **state)
{
	struct scenario *s = scenario("users: {count: 100000, requests_per_day: 12}\n", one_model, 9);
	struct figures a = played(s, SIM_MDN), b = played(s, SIM_MDN);
	assert_memory_equal(&a.ttft, &b.ttft, sizeof(a.ttft));
	assert_true(a.requests == b.requests && a.way_sum_us == b.way_sum_us);
	figures_fini(&a);
	figures_fini(&b);
	scenario_free(s);
}

static void check_refused(const char *text, const char *words)
{
	struct scenario *s = NULL;
	struct error err = {0};
	assert_int_equal(scenario_parse("t.yaml", str_from(text), &s, &err), E_INVAL);
	if (!strstr(err.text, words))
		fail_msg("\"%s\" is not in \"%s\"", words, err.text);
}

static void test_wrong_scenarios_are_told_where(void **state)
{
	check_refused("name: x\nduration: long\nmodels: [{name: a}]\n",
	              "t.yaml:2: duration: \"long\" is not a duration");
	check_refused("name: x\nmodels: [{name: a}]\nusers:\n  diurnal: 2\n", "t.yaml:4: diurnal: 2 is out of range");
	check_refused("name: x\nmodels: [{name: a}]\nsits: {count: 2}\n", "sits");
	check_refused("name: x\nmodels:\n  - name: a\n  - name: a\n", "t.yaml:4: name: \"a\" is here a second time");
	check_refused("name: x\n", "models: at least one is wanted");
	check_refused("name: x\nmodels: [{name: a}]\npolicies: [best]\n", "t.yaml:3: policies: \"best\" is not known");
	check_refused("name: x\nmodels: [{name: a}]\nflash: [{model: b}]\n", "\"b\" is not among the models");
	check_refused("", "t.yaml:1");
	check_refused("name: [\n", "t.yaml:");
}

static void test_page_stands_alone(void **state)
{
	struct scenario *s = scenario("about: a <b> & c\nusers: {count: 50000}\n", one_model, 1);
	struct figures f = played(s, SIM_MDN);
	struct sim_world w;
	struct buf page = {0}, json = {0};
	sim_serve_world(s, SIM_MDN, &w);
	figures_page(s, &w, &f, 1, &page);
	figures_format(s, &w, &f, 1, &json);
	buf_append(&page, "", 1);
	assert_null(strstr(page.base, "http"));
	assert_null(strstr(page.base, "<script"));
	assert_null(strstr(page.base, "nan"));
	assert_null(strstr(page.base, "e+"));
	assert_non_null(strstr(page.base, "a &lt;b> &amp; c"));
	assert_non_null(strstr(page.base, "<polyline"));
	buf_append(&json, "", 1);
	assert_null(strstr(json.base, "nan"));
	assert_non_null(strstr(json.base, "\"policy\":\"mdn\""));
	buf_fini(&page);
	buf_fini(&json);
	sim_world_fini(&w);
	figures_fini(&f);
	scenario_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_requests_are_conserved_and_reach_who_has_the_model),
	    cmocka_unit_test(test_nobody_is_told_busy_while_capacity_is_left),
	    cmocka_unit_test(test_an_old_map_is_never_worse_than_none),
	    cmocka_unit_test(test_flows_agree_with_every_request_played),
	    cmocka_unit_test(test_same_seed_is_the_same_day),
	    cmocka_unit_test(test_wrong_scenarios_are_told_where),
	    cmocka_unit_test(test_page_stands_alone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
