/* SPDX-License-Identifier: Apache-2.0 */
/* The zone over a map, with time in our hands: names, negative answers, client subnets, turns, and a node that dies. */
#include "../core/fixture.h"
#include "dns_tools.h"
#include "serve/scheduler/dns_zone.h"

#define T INT64_C(1000000000)
#define TTL_US (20 * INT64_C(1000000))

static struct {
	struct node_map *map;
	struct dns_zone *zone;
	struct dns_scene scene;
	struct dns_view *view;
} w;

static int setup(void **unused)
{
	struct error err = {0};
	struct str zones[] = {STR("10.1.0.0/16=west"), STR("10.1.7.0/24=east"), STR("10.2.0.0/16=east")};
	struct str ways[] = {STR("west-east=200ms")};
	w.map = node_map_new();
	if (node_map_set_zones(w.map, zones, 3, &err) < 0 || node_map_set_distances(w.map, ways, 1, &err) < 0 ||
	    dns_zone_new(STR("mdn.test"), &w.zone, &err) < 0)
		fail_msg("%s", err.text);
	w.scene = (struct dns_scene){.ttl_us = TTL_US, .why = true, .own = {.bits = 32, .bytes = {192, 0, 2, 53}}};
	memset(w.scene.secrets[0], 7, DNS_SECRET_SIZE);
	memset(w.scene.secrets[1], 8, DNS_SECRET_SIZE);
	w.view = NULL;
	report_at(w.map,
	          &(struct node_spec){
		      .id = "w", .site = "west", .api = "http://10.0.0.1:80", .seq = 1, .model = "X/y:latest"},
	          T);
	report_at(w.map,
	          &(struct node_spec){
		      .id = "e", .site = "east", .api = "http://10.0.0.2:80", .seq = 1, .model = "X/y:latest"},
	          T);
	return 0;
}

static int teardown(void **unused)
{
	dns_zone_free(w.zone);
	dns_view_free(w.view);
	node_map_free(w.map);
	return 0;
}

/* The zone sees the map as it is now. */
static void look(int64_t now)
{
	struct dns_view *before = w.view;
	w.scene.view = w.view = dns_view_new(w.map, before, now);
	w.scene.number++;
	dns_zone_set(w.zone, &w.scene);
	dns_view_free(before);
}

static struct told ask_at(const struct ask *a, int64_t now)
{
	uint8_t query[600], reply[DNS_REPLY_SIZE];
	struct ip resolver = {.bits = 32, .bytes = {10, 1, 0, 1}}; /* in the west */
	size_t len = ask_write(a, 7, query);
	if (!w.view || w.view->version != node_map_version(w.map))
		look(now);
	len = dns_zone_answer(w.zone, query, len, &resolver, false, now, reply);
	assert_true(len > 0);
	return told_read(reply, len);
}

static void expect(const char *name, uint16_t type, unsigned rcode, const char *answers, const char *authority)
{
	struct told t = ask_at(&(struct ask){.name = name, .type = type}, T);
	if (t.rcode != rcode || strcmp(t.answers, answers) != 0 || strcmp(t.authority, authority) != 0)
		fail_msg("%s %u: rcode %u \"%s\" \"%s\"", name, type, t.rcode, t.answers, t.authority);
	assert_int_equal(!t.aa, rcode == DNS_REFUSED);
}

static void test_names_types_and_negative_answers(void **unused)
{
	expect("mdn.test", DNS_SOA, DNS_NOERROR, "6", "");
	expect("mdn.test", DNS_NS, DNS_NOERROR, "2", "");
	expect("mdn.test", DNS_A, DNS_NOERROR, "", "6");
	expect("MDN.Test", DNS_ANY, DNS_NOERROR, "13", "");
	expect("ns.mdn.test", DNS_A, DNS_NOERROR, "192.0.2.53", "");
	expect("ns.mdn.test", DNS_AAAA, DNS_NOERROR, "", "6");
	expect("api.mdn.test", DNS_A, DNS_NOERROR, "10.0.0.1", "");
	expect("aPI.mdn.TEST", DNS_AAAA, DNS_NOERROR, "", "6"); /* NODATA */
	expect("api.mdn.test", DNS_NS, DNS_NOERROR, "", "6");
	expect("api.mdn.test", DNS_ANY, DNS_NOERROR, "13", "");
	expect("x-y.api.mdn.test", DNS_A, DNS_NOERROR, "10.0.0.1", "");
	expect("x-y-latest.api.mdn.test", DNS_A, DNS_NOERROR, "10.0.0.1", "");
	expect("x-y.api.mdn.test", 200, DNS_NOERROR, "", "6");
	expect("zzz.api.mdn.test", DNS_A, DNS_NXDOMAIN, "", "6");
	expect("zzz.api.mdn.test", DNS_ANY, DNS_NXDOMAIN, "", "6");
	expect("a.x-y.api.mdn.test", DNS_A, DNS_NXDOMAIN, "", "6");
	expect("www.mdn.test", DNS_A, DNS_NXDOMAIN, "", "6");
	expect("mdn.test.example", DNS_A, DNS_REFUSED, "", "");
	expect("xmdn.test", DNS_A, DNS_REFUSED, "", "");
	expect("test", DNS_NS, DNS_REFUSED, "", "");
	expect("mdn.test", DNS_AXFR, DNS_REFUSED, "", "");
	struct told t = ask_at(&(struct ask){.name = "zzz.api.mdn.test"}, T);
	assert_int_equal(t.ttl, 5); /* a model may come any moment */
}

static void test_who_has_just_begun_denies_nothing(void **unused)
{
	w.scene.young = true;
	look(T);
	expect("zzz.api.mdn.test", DNS_A, DNS_SERVFAIL, "", "");
	expect("api.mdn.test", DNS_A, DNS_NOERROR, "10.0.0.1", "");
	expect("api.mdn.test", DNS_AAAA, DNS_NOERROR, "", "6");
	expect("mdn.test", DNS_SOA, DNS_NOERROR, "6", "");
	while (node_map_count(w.map) > 0)
		node_map_remove(w.map, str_from(node_map_at(w.map, 0)->report.id));
	look(T);
	expect("api.mdn.test", DNS_A, DNS_SERVFAIL, "", "");
	w.scene.young = false;
	look(T);
	expect("api.mdn.test", DNS_A, DNS_NOERROR, "", "6");
	expect("zzz.api.mdn.test", DNS_A, DNS_NXDOMAIN, "", "6");
}

static void subnet(const char *address, uint8_t source, const char *answers, int scope)
{
	struct told t = ask_at(&(struct ask){.name = "api.mdn.test", .subnet = address, .source = source}, T);
	if (strcmp(t.answers, answers) != 0 || t.scope != scope)
		fail_msg("%s/%u: \"%s\" scope %d", address, source, t.answers, t.scope);
}

static void test_client_subnet_decides_and_scope_spares_the_exception(void **unused)
{
	subnet("10.1.1.0", 24, "10.0.0.1", 22); /* 10.1.0.0/22 has no exception, /21 has */
	subnet("10.1.7.0", 24, "10.0.0.2", 24);
	subnet("10.1.6.0", 24, "10.0.0.1", 24);
	subnet("10.1.128.0", 17, "10.0.0.1", 17);
	subnet("10.2.9.0", 24, "10.0.0.2", 16);
	subnet("10.2.0.0", 15, "10.0.0.2", 16); /* longer than the source: we would need to know more */
	subnet("0.0.0.0", 0, "10.0.0.1", 0);    /* nobody's client: the resolver's own place */
	struct told t = ask_at(&(struct ask){.name = "api.mdn.test", .edns = true}, T);
	assert_int_equal(t.scope, -1); /* not asked for, not told */
	t = ask_at(&(struct ask){.name = "zzz.api.mdn.test", .subnet = "10.1.7.0", .source = 24}, T);
	assert_int_equal(t.scope, 0); /* the same for everybody */
	t = ask_at(&(struct ask){.name = "api.mdn.test", .type = DNS_AAAA, .subnet = "10.1.7.0", .source = 24}, T);
	assert_int_equal(t.scope, 0);
	t = ask_at(&(struct ask){.name = "example.org", .subnet = "10.1.7.0", .source = 24}, T);
	assert_int_equal(t.scope, 0);
}

static void test_equals_take_turns(void **unused)
{
	int first[4] = {0};
	report_at(w.map,
	          &(struct node_spec){
		      .id = "w2", .site = "west", .api = "http://10.0.0.3:80", .seq = 1, .model = "X/y:latest"},
	          T);
	report_at(w.map,
	          &(struct node_spec){
		      .id = "w3", .site = "west", .api = "http://10.0.0.4:80", .seq = 1, .model = "X/y:latest"},
	          T);
	report_at(w.map,
	          &(struct node_spec){
		      .id = "w4", .site = "west", .api = "http://10.0.0.5:80", .seq = 1, .model = "X/y:latest"},
	          T);
	for (int i = 0; i < 400; i++) {
		struct told t = ask_at(&(struct ask){.name = "x-y.api.mdn.test"}, T);
		assert_int_equal(t.counts[1], 3);
		int last = t.answers[7] - '0';
		first[last == 1 ? 0 : last - 2]++;
	}
	for (int i = 0; i < 4; i++)
		assert_int_equal(first[i], 100);
}

static void test_dead_node_leaves_the_answers_within_three_seconds(void **unused)
{
	const struct ask a = {.name = "x-y.api.mdn.test"};
	int64_t changed = -1, ttl_short = -1;
	for (int64_t ms = 0; ms <= 4000; ms += 50) {
		int64_t now = T + ms * 1000;
		if (ms % 1000 == 0) /* the east goes on, the west fell silent at T */
			report_at(w.map,
			          &(struct node_spec){.id = "e",
			                              .site = "east",
			                              .api = "http://10.0.0.2:80",
			                              .seq = 2 + (uint64_t)ms,
			                              .model = "X/y:latest"},
			          now);
		look(now);
		struct told t = ask_at(&a, now);
		assert_int_equal(t.rcode, DNS_NOERROR);
		assert_int_equal(t.counts[1], 1); /* never empty, never both: east is 200 ms away */
		if (strcmp(t.answers, "10.0.0.2") == 0 && changed < 0)
			changed = ms;
		if (changed >= 0)
			assert_string_equal(t.answers, "10.0.0.2");
		if (t.ttl == 10 && ttl_short < 0)
			ttl_short = ms;
	}
	assert_in_range(changed, 1500, 1700); /* suspect is enough while a better one lives */
	assert_in_range(ttl_short, 1500, 1700);
	look(T + 600 * INT64_C(1000000));
	struct told t = ask_at(&a, T + 600 * INT64_C(1000000)); /* nobody for ten minutes: all the last known */
	assert_int_equal(t.counts[1], 2);
	/* Back again: with the next tick. */
	report_at(w.map,
	          &(struct node_spec){
		      .id = "w", .site = "west", .api = "http://10.0.0.1:80", .seq = 99, .model = "X/y:latest"},
	          T + 600 * INT64_C(1000000));
	look(T + 600 * INT64_C(1000000) + 100000);
	t = ask_at(&a, T + 600 * INT64_C(1000000) + 100000);
	assert_string_equal(t.answers, "10.0.0.1");
}

static void test_settings_apply_at_once_and_bad_zones_are_refused(void **unused)
{
	struct dns_zone *z;
	struct error err = {0};
	assert_int_equal(ask_at(&(struct ask){.name = "api.mdn.test"}, T).ttl, 20);
	w.scene.ttl_us = 60 * INT64_C(1000000);
	look(T);
	assert_int_equal(ask_at(&(struct ask){.name = "api.mdn.test"}, T).ttl, 60);
	static const char *const bad[] = {"", ".", "a..b", "a b", "-.\x01", NULL};
	for (int i = 0; bad[i]; i++)
		assert_int_equal(dns_zone_new(str_from(bad[i]), &z, &err), E_INVAL);
	char longest[260] = "";
	for (int i = 0; i < 60; i++)
		strcat(longest, "abc.");
	assert_int_equal(dns_zone_new(str_from(longest), &z, &err), E_INVAL);
}

/* A query of A for `name` with the cookie option: the client's 8 bytes, and `server` of them of ours. */
static size_t cookie_query(const char *name, const uint8_t *cookie, uint8_t server, uint8_t *out)
{
	size_t len = ask_write(&(struct ask){.name = name, .edns = true}, 7, out);
	const uint8_t head[4] = {0, 10, 0, (uint8_t)(8 + server)};
	out[len - 1] = (uint8_t)(12 + server);
	memcpy(out + len, head, 4);
	memcpy(out + len + 4, cookie, 8u + server);
	return len + 12 + server;
}

/* The rcode, and our cookie when there is one: it ends the message. */
static unsigned cookie_ask(const uint8_t *query, size_t len, uint8_t *cookie, bool *ret_cookie)
{
	uint8_t reply[DNS_REPLY_SIZE];
	struct ip resolver = {.bits = 32, .bytes = {10, 1, 0, 1}};
	if (!w.view)
		look(T);
	size_t n = dns_zone_answer(w.zone, query, len, &resolver, false, T, reply);
	struct told t = told_read(reply, n);
	*ret_cookie = n > 40 && memcmp(reply + n - 28, "\0\12\0\30", 4) == 0;
	if (*ret_cookie) {
		assert_memory_equal(reply + n - 24, cookie, 8);
		memcpy(cookie + 8, reply + n - 16, 16);
	}
	return t.rcode;
}

static void test_cookies_are_given_taken_and_outlive_a_new_secret(void **unused)
{
	uint8_t query[600], cookie[40] = {1, 2, 3, 4, 5, 6, 7, 8}, first[16];
	bool given;
	assert_int_equal(cookie_ask(query, cookie_query("api.mdn.test", cookie, 0, query), cookie, &given), 0);
	assert_true(given);
	memcpy(first, cookie + 8, 16);
	assert_int_equal(dns_zone_counts(w.zone)->cookies_good, 0);
	assert_int_equal(cookie_ask(query, cookie_query("api.mdn.test", cookie, 16, query), cookie, &given), 0);
	assert_true(given);
	assert_memory_equal(cookie + 8, first, 16); /* young enough */
	assert_int_equal(dns_zone_counts(w.zone)->cookies_good, 1);
	memcpy(w.scene.secrets[1], w.scene.secrets[0], DNS_SECRET_SIZE);
	memset(w.scene.secrets[0], 9, DNS_SECRET_SIZE);
	look(T);
	assert_int_equal(cookie_ask(query, cookie_query("api.mdn.test", cookie, 16, query), cookie, &given), 0);
	assert_memory_not_equal(cookie + 8, first, 16); /* taken, and one of the new secret in return */
	assert_int_equal(dns_zone_counts(w.zone)->cookies_good, 2);
	cookie[9] ^= 1;
	assert_int_equal(cookie_ask(query, cookie_query("api.mdn.test", cookie, 16, query), cookie, &given), 0);
	assert_true(given);
	assert_int_equal(dns_zone_counts(w.zone)->cookies_good, 2);
	assert_int_equal(cookie_ask(query, cookie_query("zzz.mdn.test", cookie, 16, query), cookie, &given),
	                 DNS_NXDOMAIN);
	assert_true(given);
	/* Lengths that no cookie has. */
	static const uint8_t bad[] = {1, 7, 33};
	for (int i = 0; i < 3; i++) {
		uint8_t long_cookie[48] = {0};
		assert_int_equal(
		    cookie_ask(query, cookie_query("api.mdn.test", long_cookie, bad[i], query), cookie, &given),
		    DNS_FORMERR);
		assert_false(given);
	}
	/* Without a question it asks for a cookie only (RFC 7873, 5.4). */
	size_t len = cookie_query("", cookie, 0, query);
	query[5] = 0;
	memmove(query + 12, query + 17, len - 17);
	assert_int_equal(cookie_ask(query, len - 5, cookie, &given), DNS_NOERROR);
	assert_true(given);
}

static void test_rate_is_limited_per_network_but_not_for_cookies(void **unused)
{
	uint8_t query[600], reply[DNS_REPLY_SIZE], cookie[40] = {1};
	struct ip near = {.bits = 32, .bytes = {10, 1, 0, 1}}, far = {.bits = 32, .bytes = {10, 9, 9, 9}};
	unsigned whole = 0, slipped = 0, dropped = 0;
	w.scene.rate = 100;
	look(T);
	size_t len = ask_write(&(struct ask){.name = "api.mdn.test"}, 7, query);
	for (int i = 0; i < 300; i++) {
		near.bytes[3] = (uint8_t)i; /* all of one /24 */
		size_t n = dns_zone_answer(w.zone, query, len, &near, false, T, reply);
		if (n > 0 && reply[2] & 2)
			assert_int_equal(told_read(reply, n).counts[1], 0);
		*(n == 0 ? &dropped : reply[2] & 2 ? &slipped : &whole) += 1;
	}
	assert_int_equal(whole, 100);
	assert_int_equal(slipped, 100);
	assert_int_equal(dropped, 100);
	/* Others, other names, TCP and the time after are not touched. */
	assert_true(dns_zone_answer(w.zone, query, len, &far, false, T, reply) > 0 && !(reply[2] & 2));
	assert_true(dns_zone_answer(w.zone, query, len, &near, true, T, reply) > 0 && !(reply[2] & 2));
	size_t other = ask_write(&(struct ask){.name = "x-y.api.mdn.test"}, 7, query);
	assert_true(dns_zone_answer(w.zone, query, other, &near, false, T, reply) > 0 && !(reply[2] & 2));
	/* A cookie comes even with TC, and frees its owner. */
	size_t n;
	near.bytes[3] = 1;
	len = cookie_query("api.mdn.test", cookie, 0, query);
	while ((n = dns_zone_answer(w.zone, query, len, &near, false, T, reply)) == 0)
		;
	assert_true(reply[2] & 2);
	memcpy(cookie + 8, reply + n - 16, 16);
	for (int i = 0; i < 300; i++) {
		len = cookie_query("api.mdn.test", cookie, 16, query);
		assert_true(dns_zone_answer(w.zone, query, len, &near, false, T, reply) > 0 && !(reply[2] & 2));
	}
	len = ask_write(&(struct ask){.name = "api.mdn.test"}, 7, query);
	assert_true(dns_zone_answer(w.zone, query, len, &near, false, T + 20000, reply) > 0 && !(reply[2] & 2));
}

/* The rdata of the first answer, which names its owner by a pointer. */
static size_t rdata_of(const char *name, uint16_t type, uint8_t *ret_rdata)
{
	uint8_t query[600], reply[DNS_REPLY_SIZE];
	struct ip resolver = {.bits = 32, .bytes = {10, 1, 0, 1}};
	size_t len = ask_write(&(struct ask){.name = name, .type = type}, 7, query);
	size_t n = dns_zone_answer(w.zone, query, len, &resolver, false, T, reply);
	struct told t = told_read(reply, n);
	if (t.counts[1] == 0)
		return 0;
	size_t size = (size_t)reply[len + 10] << 8 | reply[len + 11];
	memcpy(ret_rdata, reply + len + 12, size);
	return size;
}

static void test_https_records_name_the_nodes_with_tls(void **unused)
{
	uint8_t rdata[DNS_REPLY_SIZE];
	look(T);
	expect("api.mdn.test", DNS_HTTPS, DNS_NOERROR, "", "6"); /* nobody has TLS */
	report_at(w.map,
	          &(struct node_spec){
		      .id = "t", .site = "west", .api = "https://10.0.0.7:8443", .seq = 1, .model = "X/y:latest"},
	          T);
	report_at(w.map,
	          &(struct node_spec){
		      .id = "t6", .site = "west", .api = "https://[2001:db8::7]:8443", .seq = 1, .model = "X/y:latest"},
	          T);
	look(T);
	static const uint8_t want[] = {0,    1, 0,   0,    1,    0, 9, 8, 'h', 't', 't', 'p', '/', '1', '.', '1', 0,
	                               3,    0, 2,   0x20, 0xfb, 0, 4, 0, 4,   10,  0,   0,   7,   0,   6,   0,   16,
	                               0x20, 1, 0xd, 0xb8, 0,    0, 0, 0, 0,   0,   0,   0,   0,   0,   0,   7};
	static const uint16_t types[] = {DNS_HTTPS, DNS_SVCB};
	static const char *const names[] = {"api.mdn.test", "x-y.api.mdn.test", "m-x-y.mdn.test"};
	for (int i = 0; i < 6; i++) {
		assert_int_equal(rdata_of(names[i % 3], types[i / 3], rdata), sizeof(want));
		assert_memory_equal(rdata, want, sizeof(want));
	}
	expect("mdn.test", DNS_HTTPS, DNS_NOERROR, "", "6");
	/* On the port of the scheme none is said. */
	report_at(
	    w.map,
	    &(struct node_spec){.id = "t", .site = "west", .api = "https://10.0.0.7", .seq = 2, .model = "X/y:latest"},
	    T);
	node_map_remove(w.map, STR("t6"));
	look(T);
	assert_int_equal(rdata_of("api.mdn.test", DNS_HTTPS, rdata), 16 + 8);
	assert_memory_equal(rdata + 16, "\0\4\0\4\12\0\0\7", 8);
}

static void test_why_says_place_and_costs_and_can_be_off(void **unused)
{
	uint8_t rdata[DNS_REPLY_SIZE + 1] = {0};
	look(T);
	size_t len = rdata_of("m-x-y.mdn.test", DNS_TXT, rdata);
	assert_true(len > 20 && rdata[0] == len - 1);
	rdata[len] = 0;
	assert_non_null(strstr((char *)rdata, "client 10.1.0.1/32 by its resolver's address: site west, scope 22"));
	struct told t = ask_at(&(struct ask){.name = "api.mdn.test", .type = DNS_TXT}, T);
	assert_string_equal(t.answers, "16 16"); /* the place, and the one near address */
	assert_int_equal(t.ttl, 0);
	expect("mdn.test", DNS_TXT, DNS_NOERROR, "", "6");
	for (int i = 0; i < DNS_WHY_PER_S; i++)
		ask_at(&(struct ask){.name = "api.mdn.test", .type = DNS_TXT}, T);
	expect("api.mdn.test", DNS_TXT, DNS_NOERROR, "", "6"); /* a debugger's tool, not a stranger's */
	w.scene.why = false;
	look(T);
	t = ask_at(&(struct ask){.name = "api.mdn.test", .type = DNS_TXT}, T + 2000000);
	assert_string_equal(t.answers, "");
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(test_names_types_and_negative_answers),
	    TEST(test_who_has_just_begun_denies_nothing),
	    TEST(test_client_subnet_decides_and_scope_spares_the_exception),
	    TEST(test_equals_take_turns),
	    TEST(test_dead_node_leaves_the_answers_within_three_seconds),
	    TEST(test_settings_apply_at_once_and_bad_zones_are_refused),
	    TEST(test_cookies_are_given_taken_and_outlive_a_new_secret),
	    TEST(test_rate_is_limited_per_network_but_not_for_cookies),
	    TEST(test_https_records_name_the_nodes_with_tls),
	    TEST(test_why_says_place_and_costs_and_can_be_off),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
