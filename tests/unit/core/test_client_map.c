/* SPDX-License-Identifier: Apache-2.0 */
#include "core/client_map.h"

#include "base/json.h"
#include "base/limits.h"
#include "base/rng.h"
#include "fixture.h"

#define S_US (INT64_C(1000) * 1000)
#define ROUND_US (10 * S_US)

static struct {
	struct node_map *nodes;
	struct client_map map;
	struct steer steer;
	uint64_t seq;
	int64_t now_us;
	struct making_result result;
	struct node_spec alive[3]; /* report before each round */
} w;

static int setup(void **state)
{
	const struct str zones[] = {STR("10.1.0.0/16=west"), STR("10.2.0.0/16=east"), STR("10.3.0.0/24=east"),
	                            STR("10.3.0.128/25=west")};
	const struct str ways[] = {STR("west-east=20ms"), STR("west-far=100ms"), STR("east-far=90ms")};
	memset(&w, 0, sizeof(w));
	w.nodes = node_map_new();
	w.now_us = 1000 * S_US;
	assert_int_equal(node_map_set_zones(w.nodes, zones, 4, NULL), 0);
	assert_int_equal(node_map_set_distances(w.nodes, ways, 3, NULL), 0);
	return 0;
}

static int teardown(void **state)
{
	client_map_fini(&w.map);
	steer_fini(&w.steer);
	node_map_free(w.nodes);
	return 0;
}

/* slots 0: it is silent from now on. */
static void node_is(int number, const char *site, const char *state, int slots)
{
	static const char *const ids[] = {"n-0", "n-1", "n-2"};
	w.alive[number] =
	    (struct node_spec){.id = ids[number], .site = site, .state = state, .model = "x:latest", .slots = slots};
}

static void report_all(void)
{
	for (int i = 0; i < 3; i++) {
		w.alive[i].seq = ++w.seq;
		if (w.alive[i].slots > 0)
			assert_int_equal(report_at(w.nodes, &w.alive[i], w.now_us), 0);
	}
}

/* `count` /24s under 10.NET.0.0, of so many requests in work each. */
static void ask(int net, int count, double each)
{
	struct demand d = {0};
	for (int i = 0; i < count; i++) {
		const struct ip ip = {32, {10, (uint8_t)net, (uint8_t)i, 77}};
		demand_add(&d, &ip, (int64_t)(each * ROUND_US), 0);
	}
	client_map_tell(&w.map, &d, MAKING_NONE, w.now_us);
	demand_fini(&d);
}

static int round_take(void)
{
	struct client_round *r;
	struct lpm *named;
	bool changed = false;
	w.now_us += ROUND_US;
	report_all();
	assert_int_equal(client_map_begin(&w.map, w.nodes, &w.steer, w.now_us, w.seq, &r, NULL), 0);
	client_round_make(r);
	int rc = client_map_take(&w.map, r, &changed, &named, NULL);
	if (rc == 0)
		w.result = r->result;
	if (changed)
		node_map_set_named(w.nodes, named);
	client_round_free(r);
	return rc;
}

static const char *site_of(const char *text)
{
	struct ip ip;
	struct str site;
	uint8_t scope;
	assert_int_equal(ip_parse(str_from(text), &ip), 0);
	return node_map_site_of(w.nodes, &ip, &site, &scope) ? site.base : "";
}

static int sent_to(int net, int count, const char *site)
{
	int n = 0;
	for (int i = 0; i < count; i++) {
		char text[32];
		snprintf(text, sizeof(text), "10.%d.%d.1", net, i);
		n += strcmp(site_of(text), site) == 0;
	}
	return n;
}

static void say(const char *subject, int weight, const char *site, int64_t at_us)
{
	struct buf json = {0};
	struct steer_word word;
	struct error err = {0};
	yyjson_doc *doc;
	buf_printf(&json, "{\"subject\":\"%s\",\"at_us\":%lld,", subject, (long long)at_us);
	if (site)
		buf_printf(&json, "\"site\":\"%s\"}", site);
	else
		buf_printf(&json, "\"weight\":%d}", weight);
	assert_int_equal(json_parse(buf_str(&json), &doc, &err), 0);
	assert_int_equal(steer_word_parse(yyjson_doc_get_root(doc), &word, &err), 0);
	yyjson_doc_free(doc);
	buf_fini(&json);
	if (steer_set(&w.steer, &word, NULL) == 0 && word.kind == STEER_SITE)
		node_map_close_site(w.nodes, str_from(word.subject), word.weight == 0, NULL);
	client_map_change(&w.map);
}

static void test_what_a_site_has_no_room_for_goes_to_the_next_and_comes_back(void **state)
{
	node_is(0, "west", NULL, 10);
	node_is(1, "east", NULL, 30);
	node_is(2, "far", NULL, 30);
	ask(1, 20, 0.2);
	assert_int_equal(round_take(), 0);
	assert_int_equal(w.map.named_count, 0); /* all at home: nothing is said, and nothing changes */
	assert_int_equal(w.map.number, 0);
	for (int i = 0; i < 30; i++) { /* demand has a half-life; moves have a limit */
		double before = w.result.demand;
		ask(1, 20, 1);
		assert_int_equal(round_take(), 0);
		if (before > 0)
			assert_true(w.result.moved <= w.result.demand * MAKING_MOVED_MOST + 1e-9);
	}
	assert_in_range(sent_to(1, 20, "west"), 7, 10);
	assert_int_equal(sent_to(1, 20, "east") + sent_to(1, 20, "west"), 20);
	assert_int_equal(w.map.named_count, sent_to(1, 20, "east"));
	for (int i = 0; i < 60; i++) {
		ask(1, 20, 0.2);
		assert_int_equal(round_take(), 0);
	}
	assert_int_equal(sent_to(1, 20, "west"), 20);
	assert_int_equal(w.map.named_count, 0);
}

static void test_a_prefix_with_zones_within_it_is_left_to_them(void **state)
{
	node_is(0, "west", NULL, 1);
	node_is(1, "east", NULL, 1);
	node_is(2, "far", NULL, 30);
	for (int i = 0; i < 20; i++) {
		ask(3, 1, 9);
		assert_int_equal(round_take(), 0);
	}
	assert_string_equal(site_of("10.3.0.1"), "east");
	assert_string_equal(site_of("10.3.0.129"), "west");
}

static void test_operators_words_count_in_whatever_order_they_come(void **state)
{
	node_is(0, "west", NULL, 10);
	node_is(1, "east", NULL, 10);
	ask(1, 4, 1);
	assert_int_equal(round_take(), 0);
	say("site=west", 0, NULL, 5);
	assert_int_equal(round_take(), 0);
	assert_int_equal(sent_to(1, 4, "east"), 4);
	say("site=west", 100, NULL, 3); /* older: overtaken on its way */
	assert_int_equal(round_take(), 0);
	assert_int_equal(sent_to(1, 4, "east"), 4);
	say("site=west", 100, NULL, 6);
	say("prefix=10.1.2.0/24", 0, "east", 6);
	say("prefix=10.2.0.0/17", 0, "west", 6);
	for (int i = 0; i < 20; i++) {
		ask(1, 4, 1);
		assert_int_equal(round_take(), 0);
	}
	assert_int_equal(sent_to(1, 4, "west"), 3);
	assert_string_equal(site_of("10.1.2.9"), "east");
	assert_string_equal(site_of("10.2.9.9"), "west"); /* nobody there was heard of yet */
	say("prefix=10.1.2.0/24", 0, "", 7);
	for (int i = 0; i < 20; i++) {
		ask(1, 4, 1);
		assert_int_equal(round_take(), 0);
	}
	assert_int_equal(sent_to(1, 4, "west"), 4);
}

static void test_the_map_goes_on_over_a_restart_and_without_any_site(void **state)
{
	struct buf kept = {0};
	struct lpm *named;
	node_is(0, "west", NULL, 2);
	node_is(1, "east", NULL, 30);
	for (int i = 0; i < 20; i++) {
		ask(1, 8, 1);
		assert_int_equal(round_take(), 0);
	}
	uint64_t number = w.map.number;
	int east = sent_to(1, 8, "east");
	assert_in_range(east, 5, 8);
	client_map_format(&w.map, w.nodes, &kept);
	teardown(NULL);
	setup(NULL);
	assert_int_equal(client_map_parse(&w.map, buf_str(&kept), w.nodes, w.now_us, &named, NULL), 0);
	node_map_set_named(w.nodes, named);
	assert_int_equal(w.map.number, number);
	assert_int_equal(sent_to(1, 8, "east"), east);
	assert_int_equal(round_take(), E_UNAVAILABLE); /* no node has reported yet */
	assert_int_equal(sent_to(1, 8, "east"), east);
	assert_int_equal(w.map.number, number);
	say("prefix=10.2.9.0/24", 0, "far", 6); /* an operator is heard even so */
	assert_int_equal(round_take(), E_UNAVAILABLE);
	assert_int_equal(sent_to(1, 8, "east"), east);
	assert_string_equal(site_of("10.2.9.1"), "far");
	say("prefix=10.2.9.0/24", 0, "", 7);
	node_is(0, "west", NULL, 2);
	node_is(1, "east", NULL, 30);
	ask(1, 8, 1);
	assert_int_equal(round_take(), 0);
	assert_true(w.map.number >= number);
	buf_fini(&kept);
	/* what is damaged changes nothing */
	assert_true(client_map_parse(&w.map, STR("{\"number\":1,\"named\":[{\"prefix\":\"x\"}]}"), w.nodes, w.now_us,
	                             &named, NULL) < 0);
	assert_true(w.map.number >= number);
}

static void test_a_round_that_began_before_a_word_is_not_taken(void **state)
{
	struct client_round *r;
	struct lpm *named;
	bool changed;
	node_is(0, "west", NULL, 2);
	ask(1, 8, 1);
	assert_int_equal(client_map_begin(&w.map, w.nodes, &w.steer, w.now_us, 1, &r, NULL), 0);
	say("site=west", 50, NULL, 5);
	client_round_make(r);
	assert_int_equal(client_map_take(&w.map, r, &changed, &named, NULL), E_CONFLICT);
	client_round_free(r);
	assert_int_equal(w.map.number, 0);
}

static void told_by(const char *site, const char *client, int64_t rtt_us)
{
	struct demand d = {0};
	struct ip ip;
	uint32_t at;
	assert_int_equal(ip_parse(str_from(client), &ip), 0);
	assert_int_equal(node_map_site(w.nodes, str_from(site), &at, NULL), 0);
	demand_add(&d, &ip, ROUND_US, rtt_us);
	client_map_tell(&w.map, &d, at, w.now_us);
	demand_fini(&d);
}

static void rounds_with(int rounds, const char *site, const char *client, int64_t rtt_us)
{
	for (int i = 0; i < rounds; i++) {
		told_by(site, client, rtt_us);
		assert_int_equal(round_take(), 0);
	}
}

static void test_what_edges_measure_says_where_a_prefix_is(void **state)
{
	node_is(0, "west", NULL, 100);
	node_is(1, "east", NULL, 100);
	node_is(2, "far", NULL, 100);
	/* no zone has it: where it came first, until it was measured nearer elsewhere */
	rounds_with(5, "far", "10.9.0.1", 90000);
	assert_string_equal(site_of("10.9.0.1"), "far");
	rounds_with(5, "east", "10.9.0.1", 8000);
	assert_string_equal(site_of("10.9.0.1"), "east");
	/* a long way to everywhere is no reason to go elsewhere */
	rounds_with(5, "west", "10.1.0.1", 60000);
	assert_string_equal(site_of("10.1.0.1"), "west");
	assert_int_equal(w.map.named_count, 1);
	/* what is configured counts more than what is measured */
	rounds_with(10, "east", "10.1.5.1", 500);
	assert_string_equal(site_of("10.1.5.1"), "west");
}

/* Sites come and go, demand jumps, operators talk: the map is never older, names only sites that take somebody, and
 * moves at most its limit but for those who must go. */
static void test_random_days(void **state)
{
	static const char *const sites[] = {"west", "east", "far"};
	struct rng rng;
	uint64_t number = 0;
	int64_t at_us = 1;
	rng_init(&rng, 7);
	for (int i = 0; i < 3000; i++) {
		for (int s = 0; s < 3; s++) {
			if (rng_below(&rng, 8) == 0)
				node_is(s, sites[s], NULL, 0);
			else if (rng_below(&rng, 4) == 0)
				node_is(s, sites[s], rng_below(&rng, 10) == 0 ? "draining" : NULL,
				        1 + (int)rng_below(&rng, 40));
		}
		told_by(sites[rng_below(&rng, 3)], rng_below(&rng, 2) ? "10.9.1.1" : "10.1.7.1",
		        1 + (int64_t)rng_below(&rng, 90000));
		ask(1 + (int)rng_below(&rng, 3), 1 + (int)rng_below(&rng, 40), rng_unit(&rng) * 2);
		if (rng_below(&rng, 10) == 0)
			say(rng_below(&rng, 2) ? "site=west" : "site=far", rng_below(&rng, 2) ? 0 : 100, NULL, at_us++);
		if (rng_below(&rng, 20) == 0)
			say("prefix=10.1.3.0/24", 0, rng_below(&rng, 2) ? "east" : "", at_us++);
		int rc = round_take();
		assert_true(w.map.number >= number);
		number = w.map.number;
		if (rc < 0) {
			assert_int_equal(rc, E_UNAVAILABLE);
			continue;
		}
		for (uint32_t u = 0; u < w.map.count; u++)
			assert_true(w.map.units[u].site < 3 || w.map.units[u].site == MAKING_NONE);
		assert_true(w.map.named_count <= w.map.count + w.steer.count);
	}
	assert_true(number > 100);
}

static void test_demand_is_told_and_read_again(void **state)
{
	struct demand d = {0}, back;
	struct buf json = {0};
	struct error err = {0};
	struct ip ip;
	char id[NODE_ID_SIZE];
	int64_t window_us;
	for (int i = 0; i < LIMIT_DEMAND + 10; i++) {
		ip = (struct ip){32, {10, (uint8_t)(i >> 8), (uint8_t)i, 5}};
		demand_add(&d, &ip, 1000 + i, i);
	}
	assert_int_equal(d.count, LIMIT_DEMAND);
	assert_true(d.untold_us > 0);
	ip_parse(STR("2001:db8:7:8::1"), &ip);
	demand_clear(&d);
	demand_add(&d, &ip, 500, 900);
	demand_add(&d, &ip, 500, 300);
	demand_format(&d, "n-1", ROUND_US, &json);
	assert_int_equal(demand_parse(buf_str(&json), &back, id, &window_us, &err), 0);
	assert_string_equal(id, "n-1");
	assert_int_equal(window_us, ROUND_US);
	assert_int_equal(back.count, 1);
	assert_int_equal(back.lines[0].busy_us, 1000);
	assert_int_equal(back.lines[0].rtt_us, 300);
	assert_int_equal(back.lines[0].prefix.length, 48);
	demand_fini(&back);
	demand_fini(&d);
	buf_fini(&json);
	static const char *const bad[] = {
	    "{}", "{\"id\":\"n\",\"window_us\":1,\"demand\":[7]}", "{\"id\":\"n\",\"window_us\":0,\"demand\":[]}",
	    "{\"id\":\"n\",\"window_us\":1,\"demand\":[{\"prefix\":\"10.0.0.0/8\",\"busy_us\":1}]}",
	    "{\"id\":\"n\",\"window_us\":1,\"demand\":[{\"prefix\":\"10.0.0.0/24\",\"busy_us\":-1}]}"};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_true(demand_parse(str_from(bad[i]), &back, id, &window_us, &err) < 0);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(test_what_a_site_has_no_room_for_goes_to_the_next_and_comes_back),
	    TEST(test_a_prefix_with_zones_within_it_is_left_to_them),
	    TEST(test_operators_words_count_in_whatever_order_they_come),
	    TEST(test_the_map_goes_on_over_a_restart_and_without_any_site),
	    TEST(test_a_round_that_began_before_a_word_is_not_taken),
	    TEST(test_what_edges_measure_says_where_a_prefix_is),
	    TEST(test_random_days),
	    TEST(test_demand_is_told_and_read_again),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
