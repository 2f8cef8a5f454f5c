/* SPDX-License-Identifier: Apache-2.0 */
/* Which names exist, which addresses stand behind them, and what is said when nobody is well. */
#include "core/dns_answer.h"

#include "core/node_map_index.h"
#include "fixture.h"

#define T INT64_C(1000000000)

static enum dns_place place_of(const struct node_map *m, const char *a, const char *b, int count)
{
	struct str labels[2] = {str_from(a), str_from(b)}, model = {0};
	struct dns_view *v = dns_view_new(m, NULL, T);
	enum dns_place place = dns_locate(v, labels, count, &model);
	dns_view_free(v);
	return place;
}

static void test_labels_come_from_model_names(void **unused)
{
	char label[MODEL_LABEL_SIZE];
	assert_true(model_label(STR("Org/SmolLM2_135M-Instruct:Q4.1"), label));
	assert_string_equal(label, "org-smollm2-135m-instruct-q4-1");
	assert_true(model_label(STR("--a//b--"), label));
	assert_string_equal(label, "a-b");
	assert_false(model_label(STR("///"), label));
	assert_true(model_label(STR("0123456789012345678901234567890123456789012345678901234567890ab"), label));
	assert_false(model_label(STR("0123456789012345678901234567890123456789012345678901234567890abc"), label));
}

static void test_names_exist_while_the_map_knows_the_model(void **unused)
{
	struct node_map *m = node_map_new();
	assert_int_equal(place_of(m, "", "", -1), DNS_PLACE_OUTSIDE);
	assert_int_equal(place_of(m, "", "", 0), DNS_PLACE_APEX);
	assert_int_equal(place_of(m, "ns", "", 1), DNS_PLACE_NS);
	assert_int_equal(place_of(m, "api", "", 1), DNS_PLACE_API); /* also with nobody behind it */
	assert_int_equal(place_of(m, "www", "", 1), DNS_PLACE_NOWHERE);
	assert_int_equal(place_of(m, "x", "api", 2), DNS_PLACE_NOWHERE);
	report_at(m, &(struct node_spec){.id = "a", .seq = 1, .model = "X:latest", .model_state = "failed"}, T);
	report_at(m, &(struct node_spec){.id = "b", .seq = 1, .model = "x:7b"}, T);
	assert_int_equal(place_of(m, "x", "api", 2), DNS_PLACE_MODEL);
	assert_int_equal(place_of(m, "x-latest", "api", 2), DNS_PLACE_MODEL);
	assert_int_equal(place_of(m, "x-7b", "api", 2), DNS_PLACE_MODEL);
	assert_int_equal(place_of(m, "7b", "api", 2), DNS_PLACE_NOWHERE);
	assert_int_equal(place_of(m, "x", "www", 2), DNS_PLACE_NOWHERE);
	assert_int_equal(place_of(m, "x", "api", 3), DNS_PLACE_NOWHERE);
	assert_int_equal(place_of(m, "m-x", "", 1), DNS_PLACE_MODEL);
	assert_int_equal(place_of(m, "m-x-7b", "", 1), DNS_PLACE_MODEL);
	assert_int_equal(place_of(m, "m-", "", 1), DNS_PLACE_NOWHERE);
	assert_int_equal(place_of(m, "m-zzz", "", 1), DNS_PLACE_NOWHERE);
	assert_int_equal(place_of(m, "x", "", 1), DNS_PLACE_NOWHERE);
	assert_int_equal(place_of(m, "m-x", "api", 2), DNS_PLACE_NOWHERE);
	node_map_remove(m, STR("a"));
	assert_int_equal(place_of(m, "x", "api", 2), DNS_PLACE_NOWHERE);
	assert_int_equal(place_of(m, "x-7b", "api", 2), DNS_PLACE_MODEL);
	node_map_free(m);
}

static void expect(const struct node_map *m, const char *label, unsigned bits, const char *site, int64_t now,
                   const char *want)
{
	struct dns_choices c;
	struct buf got = {0};
	char text[IP_TEXT_SIZE];
	struct dns_view *v = dns_view_new(m, NULL, now);
	uint32_t at = map_site_find(m, str_from(site)), row[16];
	assert_true(v->distances->count <= 16);
	if (at != MAP_NONE)
		distances_row(v->distances, at, row);
	dns_choose(v, &(struct dns_wish){.label = str_from(label), .bits = bits, .row = at != MAP_NONE ? row : NULL},
	           now, &c);
	dns_view_free(v);
	for (size_t i = 0; i < c.count; i++) {
		ip_format(&c.list[i].ip, text);
		buf_printf(&got, "%s%s", i ? " " : "", text);
	}
	buf_printf(&got, "/%zu%s", c.equal, c.failing ? " failing" : "");
	buf_append(&got, "", 1);
	if (strcmp(got.base, want) != 0)
		fail_msg("\"%s\" instead of \"%s\"", got.base, want);
	buf_fini(&got);
}

static void test_near_and_unloaded_first_and_never_empty(void **unused)
{
	struct node_map *m = node_map_new();
	struct str ways[] = {STR("west-east=15ms"), STR("west-south=80ms")};
	node_map_set_distances(m, ways, 2, NULL);
	expect(m, "", 32, "west", T, "/0");
	report_at(
	    m,
	    &(struct node_spec){.id = "w", .site = "west", .api = "http://10.0.0.1:80", .seq = 1, .model = "x:latest"},
	    T);
	report_at(
	    m, &(struct node_spec){.id = "e", .site = "east", .api = "https://10.0.0.2", .seq = 1, .model = "x:latest"},
	    T);
	report_at(m,
	          &(struct node_spec){
		      .id = "s", .site = "south", .api = "https://10.0.0.3/v1", .seq = 1, .model = "x:latest"},
	          T);
	report_at(m,
	          &(struct node_spec){
		      .id = "6", .site = "west", .api = "http://[2001:db8::6]:80", .seq = 1, .model = "x:latest"},
	          T);
	report_at(
	    m,
	    &(struct node_spec){.id = "h", .site = "west", .api = "http://host.test:80", .seq = 1, .model = "x:latest"},
	    T);
	report_at(m, &(struct node_spec){.id = "n", .site = "west", .api = "http://10.0.0.9", .seq = 1}, T);
	expect(m, "x", 32, "west", T, "10.0.0.1 10.0.0.2/1");
	expect(m, "x", 32, "east", T, "10.0.0.2 10.0.0.1/1");
	expect(m, "x", 32, "south", T, "10.0.0.3/1");
	expect(m, "x", 128, "east", T, "2001:db8::6/1");
	expect(m, "", 32, "west", T, "10.0.0.1 10.0.0.2/1"); /* the one without a model can only forward */
	/* Loaded: the other one, and alone, as it is much better. */
	report_at(
	    m,
	    &(struct node_spec){
		.id = "w", .site = "west", .api = "http://10.0.0.1:80", .seq = 2, .model = "x:latest", .running = 7},
	    T);
	expect(m, "x", 32, "west", T, "10.0.0.2/1");
	/* Falls silent: gone within 2.5 s, and the TTL is short meanwhile. */
	int64_t later = T + 3000000;
	report_at(
	    m, &(struct node_spec){.id = "e", .site = "east", .api = "https://10.0.0.2", .seq = 2, .model = "x:latest"},
	    later);
	report_at(m,
	          &(struct node_spec){
		      .id = "6", .site = "west", .api = "http://[2001:db8::6]:80", .seq = 2, .model = "x:latest"},
	          later);
	expect(m, "x", 32, "west", later, "10.0.0.2/1 failing");
	expect(m, "x", 32, "west", later + 2000000, "10.0.0.2/1 failing"); /* late, yet the best there is */
	/* Draining is better than dead, and the one heard of last better than long dead. */
	report_at(m,
	          &(struct node_spec){.id = "e",
	                              .site = "east",
	                              .api = "https://10.0.0.2",
	                              .seq = 3,
	                              .model = "x:latest",
	                              .state = "draining"},
	          later);
	expect(m, "x", 32, "west", later, "10.0.0.2/1 failing");
	expect(m, "x", 32, "west", later + 200000000, "10.0.0.2 10.0.0.1 10.0.0.3/1");
	assert_int_equal(dns_ttl_s(20000000, false), 20);
	assert_int_equal(dns_ttl_s(20000000, true), 10);
	assert_int_equal(dns_ttl_s(1, true), 1);
	node_map_free(m);
}

static void test_equals_are_told_and_addresses_named_once(void **unused)
{
	struct node_map *m = node_map_new();
	char id[16], api[32];
	for (int i = 0; i < 12; i++) {
		snprintf(id, sizeof(id), "n%d", i);
		snprintf(api, sizeof(api), "http://10.0.0.%d:%d", i / 2, 80 + i); /* two nodes an address */
		report_at(m,
		          &(struct node_spec){
			      .id = id, .site = "west", .api = api, .seq = 1, .model = "x:latest", .running = i},
		          T);
	}
	expect(m, "x", 32, "west", T, "10.0.0.0 10.0.0.1 10.0.0.2 10.0.0.3/2");
	node_map_free(m);
}

static void test_one_site_is_not_all_that_a_client_is_told(void **unused)
{
	struct node_map *m = node_map_new();
	struct str way = STR("west-east=15ms");
	struct dns_choices c;
	char id[16], api[32];
	node_map_set_distances(m, &way, 1, NULL);
	for (int i = 0; i < 5; i++) {
		snprintf(id, sizeof(id), "n%d", i);
		snprintf(api, sizeof(api), "http://10.0.0.%d:80", i);
		report_at(m,
		          &(struct node_spec){
			      .id = id, .site = i == 4 ? "east" : "west", .api = api, .seq = 1, .model = "x:latest"},
		          T);
	}
	struct dns_view *v = dns_view_new(m, NULL, T);
	uint32_t row[16];
	distances_row(v->distances, map_site_find(m, STR("west")), row);
	dns_choose(v, &(struct dns_wish){.label = STR("x"), .bits = 32, .row = row}, T, &c);
	assert_int_equal(c.count, 5);
	assert_int_equal(c.equal, 4);
	assert_int_equal(c.other, 4);
	unsigned firsts = 0;
	for (uint64_t turn = 0; turn < 4; turn++) { /* the equals take turns, the other site is always there */
		assert_int_equal(dns_nth(2, 3, c.equal, c.other, turn), 4);
		firsts |= 1u << dns_nth(0, 3, c.equal, c.other, turn);
		assert_true(dns_nth(0, 3, c.equal, c.other, turn) != dns_nth(1, 3, c.equal, c.other, turn));
	}
	assert_int_equal(firsts, 15);
	dns_view_free(v);
	node_map_free(m);
}

static void test_a_view_stays_while_the_map_goes_on(void **unused)
{
	struct node_map *m = node_map_new();
	struct str before[] = {STR("10.1.0.0/16=west")}, after[] = {STR("10.1.0.0/16=east")};
	struct str ways[] = {STR("west-east=15ms")}, other_ways[] = {STR("west-east=99ms")};
	const struct ip client = {.bits = 32, .bytes = {10, 1, 2, 3}};
	struct dns_choices c;
	uint8_t scope;
	node_map_set_zones(m, before, 1, NULL);
	node_map_set_distances(m, ways, 1, NULL);
	report_at(m, &(struct node_spec){.id = "a", .site = "west", .seq = 1, .model = "x:latest"}, T);
	struct dns_view *old = dns_view_new(m, NULL, T);
	uint32_t west = map_site_find(m, STR("west")), east = map_site_find(m, STR("east"));
	node_map_set_zones(m, after, 1, NULL);
	node_map_set_distances(m, other_ways, 1, NULL);
	node_map_remove(m, STR("a"));
	struct dns_view *soon = dns_view_new(m, old, T + 1), *later = dns_view_new(m, soon, T + VIEW_DISTANCES_US);
	node_map_free(m);
	assert_int_equal(dns_view_site_of(old, &client, &scope), west);
	assert_int_equal(dns_view_site_of(soon, &client, &scope), east);
	assert_int_equal(distances_between(old->distances, west, east), 15000);
	assert_int_equal(distances_between(soon->distances, west, east), 15000); /* they may be 10 s old */
	assert_int_equal(distances_between(later->distances, west, east), 99000);
	const struct dns_wish wish = {.label = STR("x"), .bits = 32};
	dns_choose(old, &wish, T, &c);
	assert_int_equal(c.count, 1);
	dns_view_free(old);
	dns_choose(soon, &wish, T, &c);
	assert_int_equal(c.count, 0);
	dns_view_free(later);
	dns_view_free(soon);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_labels_come_from_model_names),
	    cmocka_unit_test(test_names_exist_while_the_map_knows_the_model),
	    cmocka_unit_test(test_near_and_unloaded_first_and_never_empty),
	    cmocka_unit_test(test_equals_are_told_and_addresses_named_once),
	    cmocka_unit_test(test_one_site_is_not_all_that_a_client_is_told),
	    cmocka_unit_test(test_a_view_stays_while_the_map_goes_on),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
