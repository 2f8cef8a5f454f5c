/* SPDX-License-Identifier: Apache-2.0 */
/* Budgets under a random schedule of many edges: requests that wait, end, are cut off; calls that get lost on either
 * way; edges that die; minutes and months that end. What was used is counted apart from what is tested.
 */
#include "core/quota.h"

#include "base/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define EDGES 3
#define OPEN_MAX 64
#define STEPS 1000000
#define STEP_US INT64_C(20000)
#define WINDOWS 64

struct edge {
	struct quota_purse purse;
	struct open {
		struct quota_hold hold;
		int64_t actual;
	} open[OPEN_MAX];
	size_t open_count;
	int64_t lag_us;
	int64_t unsent[WINDOWS]; /* tokens settled, by month, not yet in a call that was answered */
	bool away, shared;
	/* a call in flight */
	bool asks, arrived, answer_lost, call_lost;
	struct quota_window window, answered;
	int64_t held[QUOTA_KINDS], need[QUOTA_KINDS], answer[QUOTA_KINDS], sent[WINDOWS];
};

struct world {
	struct rng rng;
	int64_t now_us;
	bool shares; /* edges may go on alone */
	struct quota_pool pool;
	struct quota_holder holders[EDGES];
	struct edge edges[EDGES];
	int64_t recorded[WINDOWS];                                 /* by month */
	int64_t requests[WINDOWS], tokens[WINDOWS];                /* by minute: reserved or used */
	int64_t month[WINDOWS];                                    /* by month, the same */
	int64_t over[WINDOWS], month_over[WINDOWS], used, running; /* beyond reservations */
	uint64_t admitted, refused, lost, died;
};

static bool chance(struct world *w, uint64_t one_in)
{
	return rng_below(&w->rng, one_in) == 0;
}

static void roll_center(struct world *w)
{
	struct quota_window now = quota_window_at(w->now_us);

	if (now.minute == w->pool.window.minute)
		return;
	for (size_t i = 0; i < EDGES; i++)
		quota_holder_roll(&w->holders[i], w->pool.window, now);
	quota_pool_roll(&w->pool, now, w->recorded[now.month % WINDOWS]);
	w->requests[(now.minute + 1) % WINDOWS] = w->tokens[(now.minute + 1) % WINDOWS] =
	    w->over[(now.minute + 1) % WINDOWS] = 0; /* far behind: of that slot's earlier minute */
}

static void begin(struct world *w, struct edge *e)
{
	int64_t tokens = 1 + (int64_t)rng_below(&w->rng, 40);

	if (e->open_count == OPEN_MAX)
		return;
	if (quota_short(&e->purse, tokens) != QUOTA_KINDS) {
		w->refused++;
		quota_need(&e->purse, tokens);
		return;
	}
	struct open *o = &e->open[e->open_count++];
	o->hold = quota_reserve(&e->purse, tokens);
	o->actual = (int64_t)rng_below(&w->rng, (uint64_t)tokens + (chance(w, 4) ? 5 : 1));
	w->admitted++;
	w->running++;
	w->requests[o->hold.window.minute % WINDOWS]++;
	w->tokens[o->hold.window.minute % WINDOWS] += tokens;
	w->month[o->hold.window.month % WINDOWS] += tokens;
}

static void end(struct world *w, struct edge *e, size_t i)
{
	struct open o = e->open[i];
	bool worked = !chance(w, 8);
	int64_t tokens = worked ? o.actual : 0, more = tokens - o.hold.tokens;
	int64_t minute = o.hold.window.minute % WINDOWS, month = o.hold.window.month % WINDOWS;

	e->open[i] = e->open[--e->open_count];
	quota_settle(&e->purse, &o.hold, tokens, worked);
	e->unsent[month] += tokens;
	w->used += tokens;
	w->running--;
	w->requests[minute] -= !worked;
	w->tokens[minute] += more;
	w->month[month] += more;
	if (more > 0) {
		w->over[minute] += more;
		w->month_over[month] += more;
	}
}

static void ask(struct world *w, struct edge *e)
{
	e->asks = true;
	e->arrived = false;
	e->call_lost = chance(w, 20);
	e->answer_lost = chance(w, 20);
	w->lost += e->call_lost || e->answer_lost;
	e->window = e->purse.window;
	quota_purse_ask(&e->purse, chance(w, 2), e->need);
	memcpy(e->held, e->purse.held, sizeof(e->held));
	memcpy(e->sent, e->unsent, sizeof(e->sent));
	e->held[QUOTA_MONTH] -= e->unsent[e->window.month % WINDOWS];
}

/* Records and what is held come in one message: both are taken, or neither. */
static void arrive(struct world *w, size_t i)
{
	struct edge *e = &w->edges[i];

	e->arrived = true;
	if (e->call_lost)
		return;
	for (size_t m = 0; m < WINDOWS; m++) {
		w->recorded[m] += e->sent[m];
		if (w->pool.window.month % WINDOWS == (int64_t)m)
			w->pool.recorded += e->sent[m];
	}
	quota_give(&w->pool, &w->holders[i], e->window, e->held, e->need);
	memcpy(e->answer, w->holders[i].held, sizeof(e->answer));
	e->answered = w->pool.window;
}

static void answered(struct world *w, struct edge *e)
{
	e->asks = false;
	if (!e->call_lost) { /* records have numbers: once taken, repeated ones are not taken again */
		for (size_t m = 0; m < WINDOWS; m++)
			e->unsent[m] -= e->sent[m];
		if (e->window.month == e->purse.window.month)
			quota_purse_recorded(&e->purse, e->window.month, e->sent[e->window.month % WINDOWS]);
	}
	if (e->call_lost || e->answer_lost) {
		if (w->shares)
			quota_share(&e->purse, EDGES, !e->away);
		e->away = true;
		return;
	}
	e->away = false;
	quota_purse_answer(&e->purse, e->answered, e->answer);
}

/* Its records are on disk and come before its next life asks for anything. */
static void die(struct world *w, size_t i)
{
	struct edge *e = &w->edges[i];

	w->died++;
	while (e->open_count)
		end(w, e, 0);
	if (e->asks && !e->arrived)
		arrive(w, i);
	if (e->asks && !e->call_lost)
		for (size_t m = 0; m < WINDOWS; m++)
			e->unsent[m] -= e->sent[m];
	for (size_t m = 0; m < WINDOWS; m++) {
		w->recorded[m] += e->unsent[m];
		if (w->pool.window.month % WINDOWS == (int64_t)m)
			w->pool.recorded += e->unsent[m];
	}
	quota_holder_gone(&w->pool, &w->holders[i], true);
	*e = (struct edge){.purse = {.limits = w->pool.limits, .window = e->purse.window}};
}

static void step(struct world *w)
{
	size_t i = rng_below(&w->rng, EDGES);
	struct edge *e = &w->edges[i];
	struct quota_window own = quota_window_at(w->now_us - e->lag_us);

	w->now_us += STEP_US;
	roll_center(w);
	if (own.minute > e->purse.window.minute)
		quota_purse_roll(&e->purse, own);
	e->lag_us = (int64_t)rng_below(&w->rng, 500000);
	switch (rng_below(&w->rng, 8)) {
	case 0:
	case 1:
	case 2:
		begin(w, e);
		break;
	case 3:
	case 4:
		if (e->open_count)
			end(w, e, rng_below(&w->rng, e->open_count));
		break;
	case 5:
		if (chance(w, 2000))
			die(w, i);
		break;
	default:
		if (!e->asks)
			ask(w, e);
		else if (!e->arrived)
			arrive(w, i);
		else
			answered(w, e);
	}
}

/* Shares are given once an absence; a month's are 1/32 of the limit at each. */
static void check(const struct world *w, int64_t month_shares)
{
	const struct quota_limits *l = &w->pool.limits;
	int64_t minute = w->pool.window.minute, month = w->pool.window.month % WINDOWS, times = w->shares ? 2 : 1;

	for (int64_t m = minute - 1; m <= minute; m++) {
		assert_in_range(w->requests[m % WINDOWS], 0, times * l->most[QUOTA_REQUESTS]);
		assert_in_range(w->tokens[m % WINDOWS], 0, times * l->most[QUOTA_TOKENS] + w->over[m % WINDOWS]);
	}
	assert_in_range(w->running, 0, times * l->most[QUOTA_CONCURRENT]);
	assert_in_range(w->month[month], 0, l->most[QUOTA_MONTH] + w->month_over[month] + month_shares);
}

static void settle_all(struct world *w)
{
	for (size_t i = 0; i < EDGES; i++) {
		struct edge *e = &w->edges[i];

		if (e->asks && !e->arrived)
			arrive(w, i);
		if (e->asks)
			answered(w, e);
		while (e->open_count)
			end(w, e, 0);
		ask(w, e);
		e->call_lost = e->answer_lost = false;
		arrive(w, i);
		answered(w, e);
	}
}

static void run(struct world *w, uint64_t seed, bool shares)
{
	const struct quota_limits limits = {{300, 4000, 12, 60000000}};
	int64_t recorded = 0;

	rng_init(&w->rng, seed);
	w->now_us = INT64_C(1764547200000000) - 5000000000; /* a while before December 2025 */
	w->shares = shares;
	w->pool.limits = limits;
	for (size_t i = 0; i < EDGES; i++)
		w->edges[i].purse.limits = limits;
	w->pool.limits.most[QUOTA_MONTH] = 500000; /* used up on the way */
	for (size_t i = 0; i < STEPS; i++) {
		step(w);
		check(w, shares ? INT64_MAX / 4 : 0);
	}
	assert_true(w->admitted > 10000 && w->refused > 10000 && w->lost > 1000 && w->died > 10);
	settle_all(w);
	for (size_t m = 0; m < WINDOWS; m++)
		recorded += w->recorded[m];
	assert_int_equal(recorded, w->used);
	for (size_t i = 0; i < EDGES; i++) {
		assert_int_equal(w->edges[i].purse.taken[QUOTA_CONCURRENT], 0);
		assert_int_equal(w->edges[i].purse.taken[QUOTA_MONTH], 0);
	}
}

static void test_no_window_is_overspent_and_all_is_settled_exactly(void **state)
{
	for (uint64_t seed = 1; seed <= 2; seed++) {
		struct world *w = calloc(1, sizeof(*w));
		run(w, seed, false);
		free(w);
	}
	(void)state;
}

static void test_edges_that_cannot_ask_go_on_within_their_shares(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	run(w, 3, true);
	free(w);
	(void)state;
}

static void test_all_of_a_limit_can_be_used_at_one_edge(void **state)
{
	const struct quota_limits limits = {{10, 0, 0, 0}};
	struct quota_pool pool = {.limits = limits};
	struct quota_holder holders[2] = {{{0}}};
	struct quota_purse a = {.limits = limits}, b = {.limits = limits};
	int64_t need[QUOTA_KINDS];
	(void)state;

	for (int i = 0; i < 10; i++)
		quota_need(&a, 5);
	quota_purse_ask(&a, false, need);
	quota_give(&pool, &holders[0], a.window, a.held, need);
	quota_purse_answer(&a, pool.window, holders[0].held);
	for (int i = 0; i < 10; i++) {
		assert_int_equal(quota_short(&a, 5), QUOTA_KINDS);
		struct quota_hold hold = quota_reserve(&a, 5);
		quota_settle(&a, &hold, 5, i < 5); /* half of it is not done */
	}
	assert_int_equal(a.taken[QUOTA_REQUESTS], 5);
	quota_need(&b, 5); /* what a does not need goes to b, a period later */
	quota_purse_ask(&b, false, need);
	quota_give(&pool, &holders[1], b.window, b.held, need);
	assert_int_equal(holders[1].held[QUOTA_REQUESTS], 0);
	quota_purse_ask(&a, true, need);
	assert_int_equal(a.held[QUOTA_REQUESTS], 10);
	quota_purse_ask(&a, true, need);
	assert_int_equal(a.held[QUOTA_REQUESTS], 5);
	quota_give(&pool, &holders[0], a.window, a.held, need);
	quota_need(&b, 5);
	quota_purse_ask(&b, false, need);
	quota_give(&pool, &holders[1], b.window, b.held, need);
	quota_purse_answer(&b, pool.window, holders[1].held);
	assert_int_equal(quota_short(&b, 5), QUOTA_KINDS);
}

static void test_windows_follow_the_calendar(void **state)
{
	static const struct {
		int64_t wall_s, month, end_s;
	} cases[] = {
	    {0, 0, 2678400},
	    {1709164799, 649, 1709251200},  /* 2024-02-28 23:59:59: a leap year */
	    {1709164800, 649, 1709251200},  /* 2024-02-29 */
	    {1735689599, 659, 1735689600},  /* the last second of 2024 */
	    {1735689600, 660, 1738368000},  /* 2025-01-01 */
	    {4107542400, 1562, 4110220800}, /* 2100-03-01: no leap year before it */
	};
	(void)state;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct quota_window w = quota_window_at(cases[i].wall_s * 1000000);
		assert_int_equal(w.month, cases[i].month);
		assert_int_equal(w.minute, cases[i].wall_s / 60);
		assert_int_equal(quota_month_end_us(w), cases[i].end_s * 1000000);
		assert_int_equal(quota_minute_end_us(w), (cases[i].wall_s / 60 + 1) * 60000000);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_no_window_is_overspent_and_all_is_settled_exactly),
	    cmocka_unit_test(test_edges_that_cannot_ask_go_on_within_their_shares),
	    cmocka_unit_test(test_all_of_a_limit_can_be_used_at_one_edge),
	    cmocka_unit_test(test_windows_follow_the_calendar),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
