/* SPDX-License-Identifier: Apache-2.0 */
#include "core/coverage.h"

#include "core/node_map.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

/* The example of Traffic Control's documentation, with coordinates. */
static const char atc[] =
    "{\"coverageZones\": {\"cache-group-01\": {\"backupZones\": {\"list\": [\"cache-group-02\"],"
    "\"fallbackToClosestGroup\": false},\"coordinates\": {\"latitude\": 1.1, \"longitude\": 2.2},"
    "\"network6\": [\"1234:5678::/64\", \"1234:5679::/64\"],\"network\": [\"192.168.8.0/24\", \"192.168.9.0/24\"]},"
    "\"cache-group-02\": {\"network\": [\"10.1.2.3/8\"]}},"
    "\"revision\": \"Mon Dec 21 15:04:01 2015\", \"customerName\": \"Kabletown\"}";

static void test_a_file_of_traffic_control_is_read_as_it_is(void **state)
{
	struct coverage c;
	struct error err = {0};
	assert_int_equal(coverage_parse(str_from(atc), &c, &err), 0);
	assert_int_equal(c.zone_count, 2);
	assert_int_equal(c.net_count, 5);
	assert_string_equal(c.zones[0].site, "cache-group-01");
	assert_true(c.zones[0].placed && c.zones[0].latitude > 1 && c.zones[0].longitude > 2);
	assert_false(c.zones[1].placed);
	assert_int_equal(c.nets[4].zone, 1);
	assert_int_equal(c.nets[4].prefix.length, 8);
	assert_int_equal(c.nets[4].prefix.ip.bytes[0], 10);
	assert_int_equal(c.nets[4].prefix.ip.bytes[1], 0); /* bits past the length are cut */
	assert_int_equal(c.nets[0].prefix.ip.bits, 32);
	assert_int_equal(c.nets[2].prefix.ip.bits, 128);
	coverage_fini(&c);
}

static void test_what_is_wrong_is_told_with_its_place(void **state)
{
	static const char *const bad[][2] = {
	    {"{\"coverageZones\": {\"a\": {\"network\": [\"10.0.0.0/8\", \"10.0.0.0/33\"]}}}", "network[1]"},
	    {"{\"coverageZones\": {\"west\": {\"network6\": [7]}}}", "zone \"west\": network6[0]"},
	    {"{\"coverageZones\": {\"west\": {\"coordinates\": {\"latitude\": 91, \"longitude\": 0}}}}", "latitude"},
	    {"{\"coverageZones\": {\"west\": {\"coordinates\": {\"latitude\": 1}}}}", "longitude"},
	    {"{\"coverageZones\": {\"west\": []}}", "zone \"west\""},
	    {"{\"coverageZones\": {\"\": {}}}", "name"},
	    {"{\"coverageZones\": []}", "coverageZones"},
	    {"{\"deepCoverageZones\": {}}", "coverageZones"},
	    {"[]", "object"},
	    {"{\n \"coverageZones\": {,}}", "line 2"},
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct coverage c;
		struct error err = {0};
		assert_true(coverage_parse(str_from(bad[i][0]), &c, &err) < 0);
		if (!strstr(err.text, bad[i][1]))
			fail_msg("\"%s\" does not say %s", err.text, bad[i][1]);
	}
}

static int read_places(struct node_map *m, const char *json, const struct str *zones, size_t count)
{
	struct coverage c;
	assert_int_equal(coverage_parse(str_from(json), &c, NULL), 0);
	int rc = node_map_set_places(m, &c, zones, count, NULL);
	coverage_fini(&c);
	return rc;
}

static void test_sites_far_apart_on_the_globe_are_far_apart(void **state)
{
	struct node_map *m = node_map_new();
	struct node_entry near = {0}, far = {0};
	const struct str lines[] = {STR("berlin-oslo=3ms")};
	strcpy(near.report.site, "paris");
	strcpy(far.report.site, "sydney");
	assert_int_equal(
	    read_places(m,
	                "{\"coverageZones\":{\"berlin\":{\"coordinates\":{\"latitude\":52.5,\"longitude\":13.4}},"
	                "\"paris\":{\"coordinates\":{\"latitude\":48.9,\"longitude\":2.3}},"
	                "\"sydney\":{\"coordinates\":{\"latitude\":-33.9,\"longitude\":151.2}}}}",
	                NULL, 0),
	    0);
	int64_t paris_us = node_map_distance_us(m, STR("berlin"), &near);
	int64_t sydney_us = node_map_distance_us(m, STR("berlin"), &far);
	assert_in_range(paris_us, 8000, 20000);
	assert_in_range(sydney_us, 200000, 300000);
	/* what is configured counts more; where nothing is known it is as before */
	strcpy(near.report.site, "oslo");
	assert_int_equal(node_map_set_distances(m, lines, 1, NULL), 0);
	assert_int_equal(node_map_distance_us(m, STR("berlin"), &near), 3000);
	assert_int_equal(node_map_distance_us(m, STR("paris"), &near), NODE_DISTANCE_UNKNOWN_US);
	/* a file without them takes them away */
	strcpy(near.report.site, "paris");
	assert_int_equal(node_map_set_places(m, NULL, NULL, 0, NULL), 0);
	assert_int_equal(node_map_distance_us(m, STR("berlin"), &near), NODE_DISTANCE_UNKNOWN_US);
	node_map_free(m);
}

static void test_of_a_prefix_twice_the_first_counts_and_a_line_counts_more(void **state)
{
	struct node_map *m = node_map_new();
	const struct str zones[] = {STR("10.3.0.0/16=line")};
	static const struct {
		const char *ip, *site;
	} want[] = {{"10.1.0.1", "a"}, {"10.2.0.1", "b"}, {"10.3.0.1", "line"}};
	assert_int_equal(read_places(m,
	                             "{\"coverageZones\":{\"a\":{\"network\":[\"10.1.0.0/16\",\"10.3.0.0/16\"]},"
	                             "\"b\":{\"network\":[\"10.1.0.0/16\",\"10.2.0.0/16\"]}}}",
	                             zones, 1),
	                 0);
	for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
		struct ip ip;
		struct str site;
		uint8_t scope;
		assert_int_equal(ip_parse(str_from(want[i].ip), &ip), 0);
		assert_true(node_map_site_of(m, &ip, &site, &scope));
		assert_true(str_equal(site, str_from(want[i].site)));
	}
	node_map_free(m);
}

/* A cache may keep an answer for all of its scope, so nothing in it may be answered otherwise. */
static void test_what_the_map_names_comes_before_zones_with_an_honest_scope(void **state)
{
	struct node_map *m = node_map_new();
	const struct str zones[] = {STR("10.0.0.0/8=west"), STR("10.1.0.0/16=south")};
	struct ip_prefix prefix;
	struct lpm *named = lpm_new();
	struct str site;
	struct ip ip;
	uint32_t east;
	uint8_t scope;
	assert_int_equal(node_map_set_zones(m, zones, 2, NULL), 0);
	assert_int_equal(node_map_site(m, STR("east"), &east, NULL), 0);
	assert_int_equal(ip_prefix_parse(STR("10.2.3.0/24"), &prefix), 0);
	assert_int_equal(lpm_set(named, &prefix, east), 0);
	lpm_seal(named);
	node_map_set_named(m, named);
	const struct {
		const char *ip, *site;
		uint8_t scope;
	} want[] = {
	    {"10.2.3.4", "east", 24}, {"10.2.2.4", "west", 24}, {"10.1.9.9", "south", 16}, {"10.200.0.1", "west", 9}};
	for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
		assert_int_equal(ip_parse(str_from(want[i].ip), &ip), 0);
		assert_true(node_map_site_of(m, &ip, &site, &scope));
		assert_true(str_equal(site, str_from(want[i].site)));
		assert_int_equal(scope, want[i].scope);
	}
	assert_int_equal(ip_parse(STR("11.0.0.1"), &ip), 0);
	assert_false(node_map_site_of(m, &ip, &site, &scope));
	node_map_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_a_file_of_traffic_control_is_read_as_it_is),
	    cmocka_unit_test(test_what_is_wrong_is_told_with_its_place),
	    cmocka_unit_test(test_sites_far_apart_on_the_globe_are_far_apart),
	    cmocka_unit_test(test_of_a_prefix_twice_the_first_counts_and_a_line_counts_more),
	    cmocka_unit_test(test_what_the_map_names_comes_before_zones_with_an_honest_scope),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
