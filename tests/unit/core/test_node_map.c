/* SPDX-License-Identifier: Apache-2.0 */
/* Order of reports, health over time, the model index under churn, distances, and the map's wire form. */
#include "core/node_map_index.h"

#include "base/rng.h"
#include "fixture.h"

#define MS INT64_C(1000)

static void test_older_reports_are_ignored_and_a_new_boot_wins(void **unused)
{
	struct node_map *m = node_map_new();
	assert_int_equal(report_at(m, &(struct node_spec){.id = "a", .boot = 5, .seq = 10}, 1000), 0);
	uint64_t version = node_map_version(m);
	assert_int_equal(report_at(m, &(struct node_spec){.id = "a", .boot = 5, .seq = 10, .state = "draining"}, 2000),
	                 E_CONFLICT);
	assert_int_equal(report_at(m, &(struct node_spec){.id = "a", .boot = 5, .seq = 9, .state = "draining"}, 2000),
	                 E_CONFLICT);
	assert_int_equal(report_at(m, &(struct node_spec){.id = "a", .boot = 4, .seq = 99, .state = "draining"}, 2000),
	                 E_CONFLICT);
	assert_int_equal(node_map_find(m, STR("a"))->received_us, 1000);
	assert_int_equal(node_map_version(m), version);
	assert_int_equal(report_at(m, &(struct node_spec){.id = "a", .boot = 5, .seq = 11}, 3000), 0);
	assert_int_equal(node_map_version(m), version); /* nothing a reader would care about */
	assert_int_equal(report_at(m, &(struct node_spec){.id = "a", .boot = 6, .seq = 1, .state = "draining"}, 4000),
	                 0);
	assert_true(node_map_version(m) > version);
	assert_int_equal(node_map_find(m, STR("a"))->report.state, NODE_DRAINING);
	assert_int_equal(node_map_count(m), 1);
	node_map_remove(m, STR("a"));
	node_map_remove(m, STR("a"));
	assert_int_equal(node_map_count(m), 0);
	node_map_free(m);
}

static enum node_health health(const struct node_map *m, const char *id, int64_t now)
{
	return node_map_health(m, node_map_find(m, str_from(id)), now);
}

static void test_health_follows_silence_refusals_and_timeouts(void **unused)
{
	struct node_map *m = node_map_new();
	int64_t t = 1000000 * MS;
	report_at(m, &(struct node_spec){.id = "a", .seq = 1}, t);
	assert_int_equal(health(m, "a", t + 1500 * MS), NODE_UP);
	assert_int_equal(health(m, "a", t + 1501 * MS), NODE_SUSPECT);
	assert_int_equal(health(m, "a", t + 2500 * MS), NODE_SUSPECT);
	assert_int_equal(health(m, "a", t + 2501 * MS), NODE_DOWN);
	report_at(m, &(struct node_spec){.id = "a", .seq = 2}, t += 3000 * MS);
	assert_int_equal(health(m, "a", t), NODE_UP);

	node_map_evidence(m, STR("a"), EVIDENCE_REFUSED, t + 100 * MS);
	assert_int_equal(health(m, "a", t + 101 * MS), NODE_DOWN);
	assert_int_equal(health(m, "a", t + 1101 * MS), NODE_UP);
	node_map_evidence(m, STR("a"), EVIDENCE_REFUSED, t + 1200 * MS);
	report_at(m, &(struct node_spec){.id = "a", .seq = 3}, t += 1300 * MS); /* it lives: the report is newer */
	assert_int_equal(health(m, "a", t), NODE_UP);
	node_map_evidence(m, STR("a"), EVIDENCE_REFUSED, t + 1 * MS);
	node_map_evidence(m, STR("a"), EVIDENCE_OK, t + 2 * MS);
	assert_int_equal(health(m, "a", t + 3 * MS), NODE_UP);

	node_map_evidence(m, STR("a"), EVIDENCE_TIMEOUT, t);
	node_map_evidence(m, STR("a"), EVIDENCE_TIMEOUT, t);
	for (int i = 1; i <= 4; i++)
		report_at(m, &(struct node_spec){.id = "a", .seq = 3 + (uint64_t)i}, t + i * 500 * MS);
	assert_int_equal(health(m, "a", t + 1999 * MS), NODE_SUSPECT); /* two in a row: two seconds, reports or not */
	assert_int_equal(health(m, "a", t + 2001 * MS), NODE_UP);
	node_map_evidence(m, STR("nobody"), EVIDENCE_REFUSED, t);
	node_map_free(m);
}

static void test_a_copy_does_not_age_but_keeps_its_own_evidence(void **unused)
{
	struct node_map *m = node_map_new(), *copy, *next;
	struct buf json = {0};
	struct error err = {0};
	struct str zones[] = {STR("10.1.0.0/16=west"), STR("2001:db8::/32=east")},
		   distances[] = {STR("west-east=20ms")};
	int64_t t = 1000000 * MS;
	assert_int_equal(node_map_set_zones(m, zones, 2, &err), 0);
	assert_int_equal(node_map_set_distances(m, distances, 1, &err), 0);
	report_at(
	    m,
	    &(struct node_spec){
		.id = "a", .seq = 1, .model = "x:latest", .running = 3, .rtt_id = "b", .rtt_us = 7000, .site = "north"},
	    t);
	report_at(m, &(struct node_spec){.id = "b", .seq = 1, .site = "south"}, t + 2000 * MS);
	node_map_format(m, t + 2200 * MS, &json);

	int64_t here = 77 * MS; /* another machine's clock */
	if (node_map_parse(buf_str(&json), here, &copy, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(node_map_version(copy), node_map_version(m));
	assert_int_equal(health(copy, "a", here), NODE_SUSPECT);
	assert_int_equal(health(copy, "a", here + 3600000 * MS), NODE_SUSPECT);
	assert_int_equal(health(copy, "b", here + 3600000 * MS), NODE_UP);
	assert_int_equal(node_map_find(copy, STR("a"))->received_us, here - 2200 * MS);
	assert_int_equal(node_model(node_map_find(copy, STR("a")), STR("x"))->running, 3);
	assert_int_equal(node_map_distance_us(copy, STR("west"), node_map_find(copy, STR("a"))),
	                 NODE_DISTANCE_UNKNOWN_US);
	/* Measured ones travel in the reports and hold both ways. */
	assert_int_equal(node_map_distance_us(copy, STR("south"), node_map_find(copy, STR("a"))), 7000);
	struct str site;
	uint8_t scope;
	struct ip ip;
	ip_parse(STR("10.1.2.3"), &ip);
	assert_true(node_map_site_of(copy, &ip, &site, &scope));
	assert_true(str_equal(site, STR("west")));
	assert_int_equal(scope, 16);

	node_map_evidence(copy, STR("b"), EVIDENCE_REFUSED, here + 5 * MS);
	assert_int_equal(health(copy, "b", here + 6 * MS), NODE_DOWN);
	assert_int_equal(node_map_parse(buf_str(&json), here + 100 * MS, &next, &err), 0);
	node_map_keep_evidence(next, copy);
	assert_int_equal(health(next, "b", here + 110 * MS), NODE_DOWN);
	node_map_free(copy);
	node_map_free(next);
	node_map_free(m);
	buf_fini(&json);
}

static struct node_map *told(struct node_map *publisher, int64_t there_us, int64_t here_us)
{
	struct buf json = {0};
	struct node_map *copy;
	struct error err = {0};
	node_map_format(publisher, there_us, &json);
	if (node_map_parse(buf_str(&json), here_us, &copy, &err) < 0)
		fail_msg("%s", err.text);
	buf_fini(&json);
	return copy;
}

static struct node_map *merged(struct node_map *fresh, struct node_map *held, bool young, int64_t now)
{
	node_map_merge(fresh, held, young, now);
	node_map_free(held);
	return fresh;
}

static void test_of_two_publishers_each_node_has_its_newest_report(void **unused)
{
	struct node_map *one = node_map_new(), *two = node_map_new(), *held;
	int64_t t = 1000000 * MS;
	report_at(one, &(struct node_spec){.id = "a", .seq = 9, .model = "x:latest", .running = 9}, t);
	report_at(two, &(struct node_spec){.id = "a", .seq = 7, .model = "x:latest", .running = 7}, t);
	report_at(two, &(struct node_spec){.id = "b", .seq = 1}, t);
	held = told(one, t, t);
	held = merged(told(two, t, t), held, false, t);
	assert_int_equal(node_map_find(held, STR("a"))->report.seq, 9);
	assert_int_equal(node_model(node_map_find(held, STR("a")), STR("x"))->running, 9);
	assert_int_equal(map_place_find(held, map_node_find(held, STR("a")), map_model_find(held, STR("x")))->busy, 9);
	held = merged(told(one, t, t), held, false, t); /* never heard of b: another did */
	assert_int_equal(health(held, "b", t), NODE_UP);
	/* What a reply told is newer than the report, but not than the next one, whatever their numbers. */
	report_at(held, &(struct node_spec){.id = "a", .seq = 500, .model = "x:latest", .running = 1}, t);
	held = merged(told(two, t, t), held, false, t);
	assert_int_equal(node_model(node_map_find(held, STR("a")), STR("x"))->running, 1);
	report_at(two, &(struct node_spec){.id = "a", .seq = 10, .model = "x:latest", .running = 10}, t);
	held = merged(told(two, t, t), held, false, t);
	assert_int_equal(node_model(node_map_find(held, STR("a")), STR("x"))->running, 10);
	/* A new boot begins with small numbers. */
	report_at(one, &(struct node_spec){.id = "a", .boot = 2, .seq = 1, .model = "x:latest", .running = 2}, t);
	held = merged(told(one, t, t), held, false, t);
	held = merged(told(two, t, t), held, false, t);
	assert_int_equal(node_model(node_map_find(held, STR("a")), STR("x"))->running, 2);
	node_map_free(held);
	node_map_free(one);
	node_map_free(two);
}

static void test_a_publisher_that_missed_something_takes_no_node_away(void **unused)
{
	struct node_map *one = node_map_new(), *two = node_map_new(), *held;
	int64_t t = 1000000 * MS, dispute = NODE_DISPUTE_US;
	report_at(one, &(struct node_spec){.id = "a", .seq = 1}, t);
	report_at(two, &(struct node_spec){.id = "a", .seq = 1}, t);
	report_at(two, &(struct node_spec){.id = "a", .seq = 4}, t + 3000 * MS);
	held = told(two, t + 3000 * MS, t + 3000 * MS);
	held = merged(told(one, t + 3000 * MS, t + 3000 * MS), held, false, t + 3000 * MS); /* it says: down */
	assert_int_equal(health(held, "a", t + 3000 * MS), NODE_UP);
	/* Both heard the same last report: who waited longer knows more, and is not overruled by who slept. */
	report_at(one, &(struct node_spec){.id = "a", .seq = 4}, t + 3100 * MS);
	held = merged(told(two, t + 6000 * MS, t + 6000 * MS), held, false, t + 6000 * MS);
	assert_int_equal(health(held, "a", t), NODE_DOWN);
	node_map_slept(one, 10000 * MS);
	held = merged(told(one, t + 6000 * MS, t + 6000 * MS), held, false, t + 6000 * MS);
	assert_int_equal(health(held, "a", t), NODE_DOWN);
	report_at(one, &(struct node_spec){.id = "a", .seq = 5}, t + 6100 * MS);
	held = merged(told(one, t + 6100 * MS, t + 6100 * MS), held, false, t + 6100 * MS);
	assert_int_equal(health(held, "a", t), NODE_UP);
	/* Who told it is gone, and the node, too: the older word of who is left counts after a while. */
	t += 6100 * MS;
	report_at(two, &(struct node_spec){.id = "a", .seq = 6}, t);
	held = merged(told(two, t, t), held, false, t);
	node_map_free(one);
	one = node_map_new();
	report_at(one, &(struct node_spec){.id = "a", .seq = 5}, t);
	held = merged(told(one, t + 3000 * MS, t + 3000 * MS), held, false, t + 3000 * MS);
	assert_int_equal(health(held, "a", t), NODE_UP);
	held = merged(told(one, t + dispute, t + dispute), held, false, t + dispute);
	assert_int_equal(health(held, "a", t), NODE_DOWN);
	/* Began a moment ago: knows nobody yet. */
	node_map_free(one);
	one = node_map_new();
	t += 3600000 * MS;
	held = merged(told(one, t, t), held, true, t);
	assert_int_equal(node_map_count(held), 1);
	held = merged(told(one, t, t), held, false, t);
	assert_int_equal(node_map_count(held), 0);
	node_map_free(held);
	node_map_free(one);
	node_map_free(two);
}

static void test_who_slept_does_not_call_nodes_dead(void **unused)
{
	struct node_map *m = node_map_new();
	int64_t t = 1000000 * MS;
	report_at(m, &(struct node_spec){.id = "a", .seq = 1}, t);
	node_map_slept(m, 60000 * MS);
	assert_int_equal(health(m, "a", t + 60000 * MS), NODE_UP);
	assert_int_equal(health(m, "a", t + 62501 * MS), NODE_DOWN);
	node_map_free(m);
}

static void test_distances_prefer_configured_then_least_measured(void **unused)
{
	struct node_map *m = node_map_new();
	struct error err = {0};
	int64_t t = 1000000 * MS;
	report_at(m, &(struct node_spec){.id = "a", .seq = 1, .site = "west"}, t);
	report_at(m, &(struct node_spec){.id = "b", .seq = 1, .site = "east", .rtt_id = "a", .rtt_us = 9000}, t);
	const struct node_entry *a = node_map_find(m, STR("a"));
	assert_int_equal(node_map_distance_us(m, STR("east"), a), 9000);
	report_at(m, &(struct node_spec){.id = "b", .seq = 2, .site = "east", .rtt_id = "a", .rtt_us = 4000}, t);
	report_at(m, &(struct node_spec){.id = "b", .seq = 3, .site = "east", .rtt_id = "a", .rtt_us = 30000},
	          t + 1000 * MS);
	assert_int_equal(node_map_distance_us(m, STR("east"), a), 4000);
	assert_int_equal(map_distances(m, map_site_find(m, STR("east")))[map_site_find(m, STR("west"))], 4000);
	/* A way that became longer is believed after a while. */
	report_at(m, &(struct node_spec){.id = "b", .seq = 4, .site = "east", .rtt_id = "a", .rtt_us = 30000},
	          t + 31000 * MS);
	report_at(m, &(struct node_spec){.id = "b", .seq = 5, .site = "east", .rtt_id = "a", .rtt_us = 31000},
	          t + 62000 * MS);
	assert_int_equal(node_map_distance_us(m, STR("east"), a), 30000);
	assert_int_equal(map_distances(m, map_site_find(m, STR("west")))[map_site_find(m, STR("east"))], 30000);
	assert_int_equal(node_map_distance_us(m, STR("west"), a), NODE_DISTANCE_LOCAL_US);
	assert_int_equal(node_map_distance_us(m, STR("moon"), a), NODE_DISTANCE_UNKNOWN_US);
	struct str lines[] = {STR("west-east=20ms"), STR("south-2/west=5ms")};
	assert_int_equal(node_map_set_distances(m, lines, 2, &err), 0);
	assert_int_equal(node_map_distance_us(m, STR("east"), a), 20000);
	assert_int_equal(node_map_distance_us(m, STR("south-2"), a), 5000);
	assert_int_equal(map_distances(m, map_site_find(m, STR("south-2")))[map_site_find(m, STR("west"))], 5000);
	assert_int_equal(node_map_set_distances(m, NULL, 0, &err), 0);
	assert_int_equal(node_map_distance_us(m, STR("east"), a), 30000);
	node_map_free(m);
}

static void test_wrong_configuration_lines_are_refused_and_change_nothing(void **unused)
{
	static const char *const zones[] = {"",      "10.0.0.0/8",  "10.0.0.1/8=west",
	                                    "=west", "10.0.0.0/8=", "west=10.0.0.0/8"};
	static const char *const distances[] = {"",          "west=5ms", "west-east", "west-east=5", "west-east=-5ms",
	                                        "a-b-c=5ms", "-b=5ms",   "a/b/c=5ms", "a b/c=5ms",   "west-east=99h"};
	struct node_map *m = node_map_new();
	struct error err = {0};
	struct str good = STR("10.0.0.0/8=west"), way = STR("west-east=20ms");
	assert_int_equal(node_map_set_zones(m, &good, 1, &err), 0);
	assert_int_equal(node_map_set_distances(m, &way, 1, &err), 0);
	for (size_t i = 0; i < sizeof(zones) / sizeof(zones[0]); i++) {
		struct str both[] = {good, str_from(zones[i])};
		assert_int_equal(node_map_set_zones(m, both, 2, &err), E_INVAL);
	}
	for (size_t i = 0; i < sizeof(distances) / sizeof(distances[0]); i++) {
		struct str both[] = {STR("x-y=1ms"), str_from(distances[i])};
		assert_int_equal(node_map_set_distances(m, both, 2, &err), E_INVAL);
	}
	struct str site;
	uint8_t scope;
	struct ip ip;
	ip_parse(STR("10.9.9.9"), &ip);
	assert_true(node_map_site_of(m, &ip, &site, &scope));
	report_at(m, &(struct node_spec){.id = "a", .seq = 1, .site = "east"}, 1);
	assert_int_equal(node_map_distance_us(m, STR("west"), node_map_find(m, STR("a"))), 20000);
	node_map_free(m);
}

/* The index by model and the nodes' own lists must tell the same after any history. */
static void check_index(const struct node_map *m, char names[][16], size_t count)
{
	for (size_t i = 0; i < count; i++) {
		const struct map_model *model = map_model_find(m, str_from(names[i]));
		size_t have = 0;
		for (size_t k = 0; k < node_map_count(m); k++)
			have += node_model(node_map_at(m, k), str_from(names[i])) != NULL;
		assert_int_equal(model ? model->count : 0, have);
		for (uint32_t k = 0; model && k < model->count; k++) {
			const struct map_node *n = map_node_at(m, model->places[k].node);
			const struct map_link *link = &n->links[model->places[k].link];
			assert_ptr_equal(&model->places[k], &model->places[link->place]);
			const struct model_report *r = &n->entry.report.models[model->places[k].link];
			assert_string_equal(r->name, model->name);
			assert_int_equal(model->places[k].busy, r->running + r->waiting);
		}
	}
}

static void test_index_by_model_survives_churn(void **unused)
{
	char names[12][16];
	struct rng rng;
	struct node_map *m = node_map_new();
	rng_init(&rng, 3);
	for (size_t i = 0; i < 12; i++)
		snprintf(names[i], sizeof(names[i]), i % 3 ? "m%zu:latest" : "m%zu:7b", i);
	for (uint64_t step = 1; step < 3000; step++) {
		struct node_report r = {.roles = ROLE_EDGE, .state = NODE_READY, .boot = 1, .seq = step};
		snprintf(r.id, sizeof(r.id), "n-%u", (unsigned)rng_below(&rng, 20));
		if (rng_below(&rng, 5) == 0) {
			node_map_remove(m, str_from(r.id));
		} else {
			r.model_count = rng_below(&rng, 6);
			r.models = mem_new((r.model_count + 1) * sizeof(*r.models));
			size_t first = rng_below(&rng, 12);
			for (size_t i = 0; i < r.model_count; i++) { /* the last repeats the first, at times */
				size_t at = i == 5 && rng_below(&rng, 2) ? first : (first + i) % 12;
				strcpy(r.models[i].name, names[at]);
				r.models[i].state = MODEL_READY;
				r.models[i].running = (int32_t)rng_below(&rng, 9);
			}
			assert_int_equal(node_map_report(m, &r, (int64_t)step, NULL), 0);
			node_report_fini(&r);
		}
		if (step % 10 == 0)
			check_index(m, names, 12);
	}
	node_map_free(m);
}

static void test_a_damaged_map_never_crashes(void **unused)
{
	struct node_map *m = node_map_new(), *copy;
	struct buf json = {0};
	struct rng rng;
	struct str zone = STR("10.1.0.0/16=west"), way = STR("west-east=20ms");
	rng_init(&rng, 8);
	node_map_set_zones(m, &zone, 1, NULL);
	node_map_set_distances(m, &way, 1, NULL);
	report_at(m, &(struct node_spec){.id = "a", .seq = 1, .model = "x:latest", .rtt_id = "b", .rtt_us = 5}, 1000);
	report_at(m, &(struct node_spec){.id = "b", .seq = 1, .site = "east"}, 1000);
	node_map_format(m, 5000, &json);
	for (size_t cut = 0; cut < json.len; cut++)
		assert_true(node_map_parse((struct str){json.base, cut}, 0, &copy, NULL) < 0);
	for (int i = 0; i < 3000; i++) {
		char *text = mem_new(json.len);
		memcpy(text, json.base, json.len);
		for (uint64_t n = 1 + rng_below(&rng, 3); n > 0; n--)
			text[rng_below(&rng, json.len)] = "0123456789-\"{}[],:./ab"[rng_below(&rng, 22)];
		if (node_map_parse((struct str){text, json.len}, 0, &copy, NULL) == 0)
			node_map_free(copy);
		free(text);
	}
	node_map_free(m);
	buf_fini(&json);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_older_reports_are_ignored_and_a_new_boot_wins),
	    cmocka_unit_test(test_health_follows_silence_refusals_and_timeouts),
	    cmocka_unit_test(test_a_copy_does_not_age_but_keeps_its_own_evidence),
	    cmocka_unit_test(test_of_two_publishers_each_node_has_its_newest_report),
	    cmocka_unit_test(test_a_publisher_that_missed_something_takes_no_node_away),
	    cmocka_unit_test(test_who_slept_does_not_call_nodes_dead),
	    cmocka_unit_test(test_distances_prefer_configured_then_least_measured),
	    cmocka_unit_test(test_wrong_configuration_lines_are_refused_and_change_nothing),
	    cmocka_unit_test(test_index_by_model_survives_churn),
	    cmocka_unit_test(test_a_damaged_map_never_crashes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
