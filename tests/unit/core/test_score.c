/* SPDX-License-Identifier: Apache-2.0 */
/* Decisions: near wins until its queue costs more than the way, own dispatches count once, the unfit are refused in
 * words. */
#include "core/score.h"

#include "core/node_map_index.h"
#include "fixture.h"

#include <math.h>

#define T INT64_C(1000000000)

static struct route_decision decide(const struct node_map *m, const struct ledger *l, const struct route_query *q,
                                    int want)
{
	struct route_decision d;
	struct error err = {0};
	struct rng rng;
	rng_init(&rng, 4);
	int rc = route_decide(m, l, q, T, &rng, &d, &err);
	if (rc != want)
		fail_msg("%d instead of %d: %s", rc, want, err.text);
	return d;
}

static char chosen(const struct node_map *m, const struct ledger *l, const struct route_query *q)
{
	struct route_decision d = decide(m, l, q, 0);
	char c = d.candidates[d.choice].id[0];
	route_decision_fini(&d);
	return c;
}

static struct node_map *two_sites(void)
{
	struct node_map *m = node_map_new();
	struct str way = STR("west-east=20ms");
	assert_int_equal(node_map_set_distances(m, &way, 1, NULL), 0);
	return m;
}

static void test_near_wins_until_its_queue_costs_more_than_the_way(void **unused)
{
	struct node_map *m = two_sites();
	struct route_query q = {.model = STR("x"), .client_site = STR("west"), .prompt_tokens = 100};
	report_at(m, &(struct node_spec){.id = "far", .site = "east", .seq = 1, .model = "x:latest", .prefill = 1000},
	          T);
	char last = 'n';
	int moved = 0, moved_at = 0;
	for (int running = 0; running <= 16; running++) {
		report_at(m,
		          &(struct node_spec){.id = "near",
		                              .site = "west",
		                              .seq = 1 + (uint64_t)running,
		                              .model = "x:latest",
		                              .running = running < 8 ? running : 8,
		                              .waiting = running < 8 ? 0 : running - 8,
		                              .prefill = 1000},
		          T);
		char c = chosen(m, NULL, &q);
		if (c != last) {
			moved++;
			moved_at = running;
		}
		last = c;
	}
	assert_int_equal(moved, 1);      /* once, and for good */
	assert_in_range(moved_at, 4, 7); /* before it is full, not while it is half empty */
	assert_int_equal(last, 'f');
	node_map_free(m);
}

static void test_own_dispatches_count_until_a_report_has_seen_them(void **unused)
{
	struct node_map *m = two_sites();
	struct ledger *l = ledger_new(1);
	struct ledger_ticket *tickets[8];
	uint64_t number;
	struct route_query q = {.model = STR("x"), .client_site = STR("west"), .self_id = STR("me")};
	report_at(m, &(struct node_spec){.id = "far", .site = "east", .seq = 1, .model = "x:latest"}, T);
	report_at(m, &(struct node_spec){.id = "near", .site = "west", .seq = 1, .model = "x:latest"}, T);
	assert_int_equal(chosen(m, l, &q), 'n');
	for (int i = 0; i < 8; i++)
		tickets[i] = ledger_open(l, STR("near"), STR("x:latest"), 0, &number);
	assert_int_equal(number, 8);
	assert_int_equal(chosen(m, l, &q), 'f'); /* the report does not know of them */

	struct route_decision d = decide(m, l, &q, 0);
	int64_t unseen_us = d.candidates[1].queue_us;
	route_decision_fini(&d);
	report_at(
	    m,
	    &(struct node_spec){
		.id = "near", .site = "west", .seq = 2, .model = "x:latest", .running = 8, .seen_id = "me", .seen = 8},
	    T);
	d = decide(m, l, &q, 0);
	assert_string_equal(d.candidates[1].id, "near");
	assert_int_equal(d.candidates[1].queue_us, unseen_us); /* the same eight, now told by the node: not sixteen */
	route_decision_fini(&d);
	/* Another dispatcher's counter says nothing about ours. */
	report_at(
	    m,
	    &(struct node_spec){
		.id = "near", .site = "west", .seq = 3, .model = "x:latest", .running = 0, .seen_id = "you", .seen = 8},
	    T);
	assert_int_equal(chosen(m, l, &q), 'f');
	for (int i = 0; i < 8; i++)
		ledger_close(tickets[i]);
	assert_int_equal(chosen(m, l, &q), 'n');
	assert_int_equal(ledger_count(l), 0);
	ledger_free(l);
	node_map_free(m);
}

static const char *reason_of(const struct route_decision *d, const char *id)
{
	for (size_t i = 0; i < d->refused_count; i++) {
		if (strcmp(d->refused[i].id, id) == 0)
			return d->refused[i].reason;
	}
	return "";
}

static void test_the_unfit_are_refused_with_the_reason(void **unused)
{
	struct node_map *m = two_sites();
	struct str tried = STR("tried");
	struct route_query q = {.model = STR("x:latest"), .excluded = &tried, .excluded_count = 1};
	struct route_query nobody = {.model = STR("y")};
	struct route_decision d;
	report_at(m, &(struct node_spec){.id = "tried", .seq = 1, .model = "x:latest"}, T);
	report_at(m, &(struct node_spec){.id = "leaving", .seq = 1, .model = "x:latest", .state = "draining"}, T);
	report_at(m, &(struct node_spec){.id = "coming", .seq = 1, .model = "x:latest", .state = "starting"}, T);
	report_at(m, &(struct node_spec){.id = "loading", .seq = 1, .model = "x:latest", .model_state = "loading"}, T);
	report_at(m, &(struct node_spec){.id = "dead", .seq = 1, .model = "x:latest"}, T - 3000000);
	report_at(m, &(struct node_spec){.id = "other", .seq = 1, .model = "x:7b"}, T);
	d = decide(m, NULL, &q, E_UNAVAILABLE);
	assert_int_equal(d.refused_count, 5);
	assert_string_equal(reason_of(&d, "tried"), "excluded");
	assert_string_equal(reason_of(&d, "leaving"), "draining");
	assert_string_equal(reason_of(&d, "coming"), "starting");
	assert_string_equal(reason_of(&d, "loading"), "model not ready: loading");
	assert_string_equal(reason_of(&d, "dead"), "down: last report 3000 ms ago");
	route_decision_fini(&d);
	d = decide(m, NULL, &nobody, E_NOTFOUND);
	assert_int_equal(d.refused_count + d.candidate_count, 0);
	route_decision_fini(&d);
	/* A node whose reports are late is better than none, and worse than any. */
	report_at(m, &(struct node_spec){.id = "late", .seq = 1, .model = "x:latest"}, T - 2000000);
	d = decide(m, NULL, &q, 0);
	assert_string_equal(d.candidates[0].id, "late");
	assert_non_null(strstr(d.candidates[0].reason, "late"));
	route_decision_fini(&d);
	report_at(m,
	          &(struct node_spec){
		      .id = "busy", .site = "moon", .seq = 1, .model = "x:latest", .running = 8, .waiting = 50},
	          T);
	d = decide(m, NULL, &q, 0);
	assert_string_equal(d.candidates[d.choice].id, "busy");
	route_decision_fini(&d);
	node_map_free(m);
}

static void test_clients_need_a_public_api_and_self_is_no_way_off(void **unused)
{
	struct node_map *m = two_sites();
	struct route_query q = {.model = STR("x"), .client_site = STR("west"), .for_client = true};
	report_at(m, &(struct node_spec){.id = "hidden", .seq = 1, .api = "", .site = "west", .model = "x:latest"}, T);
	report_at(m, &(struct node_spec){.id = "public", .seq = 1, .site = "east", .model = "x:latest"}, T);
	assert_int_equal(chosen(m, NULL, &q), 'p');
	q.for_client = false;
	assert_int_equal(chosen(m, NULL, &q), 'h');
	q.self_id = STR("public"); /* asks for itself, though the client's site is said to be elsewhere */
	q.client_site = STR("moon");
	assert_int_equal(chosen(m, NULL, &q), 'p');
	node_map_free(m);
}

/* The sweep skips what cannot matter; its best must still be the best of all, at any size, with a ledger. */
static void test_sweep_finds_the_best_of_many(void **unused)
{
	struct rng rng;
	rng_init(&rng, 99);
	for (int round = 0; round < 40; round++) {
		struct node_map *m = node_map_new();
		struct ledger *l = ledger_new(1);
		char ids[200][24], site[24];
		size_t count = 1 + rng_below(&rng, 200);
		for (size_t i = 0; i < count; i++) {
			snprintf(ids[i], sizeof(ids[i]), "n-%zu", i);
			snprintf(site, sizeof(site), "s%zu", i);
			report_at(m,
			          &(struct node_spec){.id = ids[i],
			                              .site = site,
			                              .seq = 1,
			                              .model = "x:latest",
			                              .running = (int)rng_below(&rng, 9),
			                              .waiting = (int)rng_below(&rng, 3),
			                              .prefill = 500 + (double)rng_below(&rng, 1000),
			                              .rtt_id = "n-0",
			                              .rtt_us = (int64_t)rng_below(&rng, 50000)},
			          T);
			for (uint64_t n = rng_below(&rng, 6); n > 0; n--)
				ledger_open(l, str_from(ids[i]), STR("x:latest"), (int32_t)rng_below(&rng, 900), NULL);
		}
		struct route_query q = {.model = STR("x"), .client_site = STR("s0"), .prompt_tokens = 50};
		struct route_decision d = decide(m, l, &q, 0);
		int64_t least = INT64_MAX;
		for (size_t i = 0; i < count; i++) {
			const struct map_model *model = map_model_find(m, STR("x"));
			const struct map_place *p = &model->places[i];
			const struct node_entry *e = &map_node_at(m, p->node)->entry;
			struct ledger_load own = ledger_unseen(l, str_from(e->report.id), STR("x:latest"), 0);
			int64_t score = node_map_distance_us(m, STR("s0"), e) +
			                place_queue_us(p, own.running, own.tokens_to_prefill) +
			                (int64_t)(50 * p->us_per_token);
			least = score < least ? score : least;
		}
		assert_int_equal(d.candidates[0].score_us, least);
		assert_int_equal(d.candidate_count, count < ROUTE_CANDIDATES_MAX ? count : ROUTE_CANDIDATES_MAX);
		for (size_t i = 1; i < d.candidate_count; i++)
			assert_true(d.candidates[i].score_us >= d.candidates[i - 1].score_us);
		route_decision_fini(&d);
		ledger_free(l);
		node_map_free(m);
	}
}

static void test_equals_share_the_load(void **unused)
{
	struct node_map *m = node_map_new();
	struct rng rng;
	int hits[40] = {0}, used = 0, most = 0;
	char id[16];
	for (int i = 0; i < 40; i++) {
		snprintf(id, sizeof(id), "%d", i);
		report_at(m, &(struct node_spec){.id = id, .site = "west", .seq = 1, .model = "x:latest"}, T);
	}
	rng_init(&rng, 1);
	struct route_query q = {.model = STR("x"), .client_site = STR("west")};
	for (int i = 0; i < 4000; i++) {
		struct route_decision d;
		assert_int_equal(route_decide(m, NULL, &q, T, &rng, &d, NULL), 0);
		hits[atoi(d.candidates[d.choice].id)]++;
		route_decision_fini(&d);
	}
	for (int i = 0; i < 40; i++) {
		used += hits[i] > 0;
		most = hits[i] > most ? hits[i] : most;
	}
	assert_int_equal(used, 40);
	assert_true(most < 300); /* of 100 each */
	q.self_id = STR("7");
	for (int i = 0; i < 100; i++) { /* but a node among them keeps what comes to it */
		struct route_decision d;
		assert_int_equal(route_decide(m, NULL, &q, T, &rng, &d, NULL), 0);
		assert_string_equal(d.candidates[d.choice].id, "7");
		route_decision_fini(&d);
	}
	node_map_free(m);
}

static void test_a_model_to_be_loaded_first_costs_its_loading(void **unused)
{
	struct node_map *m = two_sites();
	struct route_query q = {.model = STR("x"), .client_site = STR("west"), .prompt_tokens = 100};
	struct node_spec near = {.id = "near",
	                         .site = "west",
	                         .seq = 1,
	                         .model = "x:latest",
	                         .model_state = "cached",
	                         .prefill = 1000,
	                         .load_us = 3000000},
			 far = {.id = "far", .site = "east", .seq = 1, .model = "x:latest", .prefill = 1000};
	struct route_decision d;

	report_at(m, &near, T);
	assert_int_equal(route_decide(m, NULL, &q, T, NULL, &d, NULL), 0);
	assert_in_range(d.candidates[0].queue_us, 3000000, 3001000);
	assert_non_null(strstr(d.candidates[0].reason, "loaded first"));
	route_decision_fini(&d);
	report_at(m, &far, T);
	assert_int_equal(chosen(m, NULL, &q), 'f');
	near.seq++;
	near.load_us = 1; /* as good as there */
	report_at(m, &near, T);
	assert_int_equal(chosen(m, NULL, &q), 'n');
	near.seq++;
	near.load_us = 0; /* only on disk */
	report_at(m, &near, T);
	assert_int_equal(chosen(m, NULL, &q), 'f');
	node_map_free(m);
}

/* ---- loads that are not of now ----------------------------------------------------------------- */

static double load_of(const struct node_map *m, const char *id)
{
	return map_place_find(m, map_node_find(m, str_from(id)), map_model_find(m, STR("x")))->load;
}

/* A gateway's copy: nodes "a", "b", ... with these loads of 8 slots, reported at T. */
static struct node_map *copy_of(const int *loads, int count)
{
	struct node_map *m;
	assert_int_equal(node_map_parse(STR("{\"nodes\":[]}"), T, &m, NULL), 0);
	for (int i = 0; i < count; i++) {
		char id[8] = {(char)('a' + i)};
		report_at(m, &(struct node_spec){.id = id, .seq = 1, .model = "x:latest", .running = loads[i]}, T);
	}
	return m;
}

static void test_old_loads_are_levelled_by_what_must_have_come_since(void **unused)
{
	struct node_map *m = copy_of((const int[]){0, 4, 8}, 3);
	double idle = 0, busy = 8;
	for (int64_t age_us = 0; age_us <= NODE_STALE_AGE_US + 100000; age_us += 100000) {
		node_map_estimate(m, 0, T + age_us);
		double a = load_of(m, "a"), b = load_of(m, "b"), c = load_of(m, "c");
		assert_true(fabs(a + b + c - 12) < 1e-6); /* as many came as went */
		assert_true(a <= b && b <= c);            /* and went to the least */
		assert_true(a >= idle && c <= busy);
		idle = a;
		busy = c;
		assert_int_equal(node_map_stale(m, T + age_us), age_us > NODE_STALE_AGE_US ? 3 : 0);
	}
	assert_true(fabs(idle - 4) < 1e-6 && fabs(busy - 4) < 1e-6); /* too old: by capacity alone */
	/* What this dispatcher sends is in its ledger: alone, it levels nothing. */
	node_map_estimate(m, 12, T + 2000000);
	assert_true(load_of(m, "a") == 0 && load_of(m, "c") < 8);
	const struct map_place *c = map_place_find(m, map_node_find(m, STR("c")), map_model_find(m, STR("x")));
	assert_int_equal(c->queue_us, place_queue_us(c, 0, 0)); /* the price is that of the load */
	/* A report of now is believed. */
	report_at(m, &(struct node_spec){.id = "a", .seq = 2, .model = "x:latest", .running = 1}, T + 2000000);
	assert_true(load_of(m, "a") == 1);
	node_map_free(m);
}

static void test_water_is_conserved_whatever_the_loads(void **unused)
{
	struct rng rng;
	rng_init(&rng, 7);
	for (int round = 0; round < 3000; round++) {
		int loads[26], count = 1 + (int)rng_below(&rng, 26);
		double all = 0, sum = 0, least = 1e9;
		for (int i = 0; i < count; i++)
			all += loads[i] = rng_below(&rng, 3) ? (int)rng_below(&rng, 20) : 0;
		struct node_map *m = copy_of(loads, count);
		int64_t age_us = (int64_t)rng_below(&rng, 4000000);
		node_map_estimate(m, 0, T + age_us);
		for (int i = 0; i < count; i++) {
			double load = load_of(m, (const char[]){(char)('a' + i), 0});
			least = load < least ? load : least;
			sum += load;
		}
		assert_true(fabs(sum - all) < 1e-6 * (all + 1));
		for (int i = 0; i < count; i++) { /* above the level only what was there before */
			double load = load_of(m, (const char[]){(char)('a' + i), 0});
			assert_true(load < least + 1e-9 || load <= loads[i]);
		}
		node_map_free(m);
	}
}

/* Forty gateways that were told ten seconds ago that one node was idle do not all run there. */
static void test_an_old_report_starts_no_herd(void **unused)
{
	struct node_map *m = copy_of((const int[]){0, 5, 5, 5, 5, 5, 5, 5}, 8);
	const struct route_query q = {.model = STR("x"), .self_id = STR("me"), .prompt_tokens = 100};
	int there[8] = {0};
	struct rng rng;
	rng_init(&rng, 3);
	node_map_estimate(m, 1, T + 10000000);
	for (int gateway = 0; gateway < 40; gateway++) {
		struct ledger *l = ledger_new(1);
		for (int i = 0; i < 5; i++) {
			struct route_decision d;
			assert_int_equal(route_decide(m, l, &q, T + 10000000, &rng, &d, NULL), 0);
			const struct route_candidate *c = &d.candidates[d.choice];
			there[c->id[0] - 'a']++;
			ledger_open(l, str_from(c->id), STR("x:latest"), 100, NULL);
			assert_non_null(strstr(c->reason, "its load, 10000.0 ms old, is not believed"));
			assert_int_equal(c->age_us, 10000000);
			route_decision_fini(&d);
		}
		ledger_free(l);
	}
	for (int i = 0; i < 8; i++)
		assert_in_range(there[i], 10, 45); /* 25 would be even */
	node_map_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_near_wins_until_its_queue_costs_more_than_the_way),
	    cmocka_unit_test(test_own_dispatches_count_until_a_report_has_seen_them),
	    cmocka_unit_test(test_the_unfit_are_refused_with_the_reason),
	    cmocka_unit_test(test_clients_need_a_public_api_and_self_is_no_way_off),
	    cmocka_unit_test(test_sweep_finds_the_best_of_many),
	    cmocka_unit_test(test_equals_share_the_load),
	    cmocka_unit_test(test_a_model_to_be_loaded_first_costs_its_loading),
	    cmocka_unit_test(test_old_loads_are_levelled_by_what_must_have_come_since),
	    cmocka_unit_test(test_water_is_conserved_whatever_the_loads),
	    cmocka_unit_test(test_an_old_report_starts_no_herd),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
