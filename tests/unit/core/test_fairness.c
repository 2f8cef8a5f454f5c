/* SPDX-License-Identifier: Apache-2.0 */
/* Fairness, turns and admission: random schedules keep the bound, classes go first, a flood leaves room. */
#include "core/admission.h"
#include "core/request_queue.h"

#include "base/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { TENANTS = 6, SLOTS = 8, PROMPT_MOST = 4000, ANSWER_MOST = 500, STEPS = 30000, BACKLOG = 3 };

static const char *const names[TENANTS] = {"a", "b", "c", "d", "e", "f"};

/* A request of the simulated engine: its prompt is computed at once, then it says a token a step. */
struct sim_request {
	struct queued q;
	int tenant, prompt, left;
};

struct sim {
	struct request_queue queue;
	struct sim_request *slots[SLOTS];
	double weights[TENANTS], service[TENANTS];
	int waiting[TENANTS], most_prompt[TENANTS], most_answer[TENANTS];
	uint64_t arrivals;
	struct rng rng;
};

static void sim_ask(struct sim *s, int tenant)
{
	struct sim_request *r = NEW(struct sim_request);

	r->tenant = tenant;
	r->prompt = 1 + (int)rng_below(&s->rng, (uint64_t)s->most_prompt[tenant]);
	r->left = 1 + (int)rng_below(&s->rng, (uint64_t)s->most_answer[tenant]);
	r->q = (struct queued){.service_class = 2, .deadline_us = INT64_MAX, .order = s->arrivals++};
	request_queue_join(&s->queue, &r->q, str_from(names[tenant]), s->weights[tenant]);
	s->waiting[tenant]++;
}

static void sim_charge(struct sim *s, struct sim_request *r, double cost)
{
	request_queue_charge(&s->queue, &r->q, cost);
	s->service[r->tenant] += cost;
}

static void sim_step(struct sim *s)
{
	for (int i = 0; i < SLOTS; i++) {
		struct sim_request *r = s->slots[i];
		if (!r && (r = (struct sim_request *)request_queue_first(&s->queue)) != NULL) {
			request_queue_begin(&s->queue, &r->q);
			s->waiting[r->tenant]--;
			s->slots[i] = r;
			sim_charge(s, r, FAIRNESS_INPUT * r->prompt);
		} else if (r) {
			sim_charge(s, r, FAIRNESS_OUTPUT);
			if (--r->left == 0) {
				request_queue_leave(&s->queue, &r->q);
				free(r);
				s->slots[i] = NULL;
			}
		}
	}
}

static void sim_check(const struct sim *s, double bound)
{
	const struct fairness_tenant *first = fairness_first(&s->queue.classes[2]);

	for (const struct fairness_tenant *t = s->queue.classes[2].backlog; t; t = t->next)
		if (t->service - first->service > bound / t->weight)
			fail_msg("%s is %.0f ahead of %s, the bound is %.0f", t->name, t->service - first->service,
			         first->name, bound / t->weight);
}

static void sim_end(struct sim *s)
{
	for (struct queued *r; (r = request_queue_first(&s->queue)) != NULL;) {
		request_queue_leave(&s->queue, r);
		free(r);
	}
	for (int i = 0; i < SLOTS; i++)
		if (s->slots[i]) {
			request_queue_leave(&s->queue, &s->slots[i]->q);
			free(s->slots[i]);
		}
	request_queue_fini(&s->queue);
}

/* Four tenants always want more, with very unlike requests and weights; two come and go. */
static void test_backlogged_tenants_stay_within_the_bound(void **state)
{
	const double bound = FAIRNESS_INPUT * PROMPT_MOST + FAIRNESS_OUTPUT * SLOTS * ANSWER_MOST;
	(void)state;

	for (uint64_t seed = 1; seed <= 8; seed++) {
		struct sim s = {0};
		double sum = 0, squares = 0;
		rng_init(&s.rng, seed);
		for (int i = 0; i < TENANTS; i++) {
			s.weights[i] = 1 + (double)rng_below(&s.rng, 4);
			s.most_prompt[i] = i % 2 ? PROMPT_MOST : 50;
			s.most_answer[i] = i % 3 ? ANSWER_MOST : 20;
		}
		for (int step = 0; step < STEPS; step++) {
			for (int i = 0; i < 4; i++)
				while (s.waiting[i] < BACKLOG)
					sim_ask(&s, i);
			for (int i = 4; i < TENANTS; i++)
				if (s.waiting[i] < 20 && rng_below(&s.rng, 400) == 0)
					sim_ask(&s, i);
			sim_step(&s);
			sim_check(&s, bound);
		}
		for (int i = 0; i < 4; i++) {
			sum += s.service[i] / s.weights[i];
			squares += s.service[i] / s.weights[i] * s.service[i] / s.weights[i];
		}
		if (sum * sum / (4 * squares) < 0.99)
			fail_msg("Jain index %.4f with seed %d", sum * sum / (4 * squares), (int)seed);
		sim_end(&s);
	}
}

static struct queued queued_of(int service_class, uint64_t order)
{
	return (struct queued){.service_class = service_class, .deadline_us = INT64_MAX, .order = order};
}

static void join(struct request_queue *q, struct queued *r, const char *tenant)
{
	request_queue_join(q, r, str_from(tenant), 1);
}

static struct queued *serve(struct request_queue *q)
{
	struct queued *r = request_queue_first(q);
	request_queue_begin(q, r);
	return r;
}

static void leave_all(struct request_queue *q, struct queued *r, size_t count)
{
	for (size_t i = 0; i < count; i++)
		request_queue_leave(q, &r[i]);
	request_queue_fini(q);
}

static void test_time_without_asking_earns_no_credit(void **state)
{
	struct request_queue q = {0};
	struct queued r[6];
	(void)state;

	for (uint64_t i = 0; i < 6; i++)
		r[i] = queued_of(2, i);
	join(&q, &r[0], "busy");
	join(&q, &r[1], "busy");
	serve(&q);
	request_queue_charge(&q, &r[0], 5000);
	join(&q, &r[2], "new"); /* lifted to 5000, not 5000 tokens of credit */
	assert_true(r[2].tenant->service == 5000);
	assert_ptr_equal(serve(&q), &r[1]);
	request_queue_charge(&q, &r[1], 10);
	assert_ptr_equal(serve(&q), &r[2]);
	request_queue_leave(&q, &r[2]);
	/* Nobody waits: what was given when nobody else wanted it is no debt, and leaving and coming back no gain. */
	request_queue_charge(&q, &r[1], 90000);
	join(&q, &r[3], "new");
	join(&q, &r[4], "busy");
	assert_true(r[3].tenant->service == r[4].tenant->service);
	assert_ptr_equal(serve(&q), &r[3]); /* of equals, who has waited longer */
	leave_all(&q, r, 5);
}

static void test_debt_is_remembered_while_others_wait(void **state)
{
	struct request_queue q = {0};
	struct queued r[4];
	(void)state;

	for (uint64_t i = 0; i < 4; i++)
		r[i] = queued_of(2, i);
	join(&q, &r[0], "greedy");
	join(&q, &r[1], "patient");
	serve(&q);
	request_queue_charge(&q, &r[0], 700);
	request_queue_leave(&q, &r[0]);
	join(&q, &r[2], "greedy"); /* gone for a moment, and back */
	assert_true(r[2].tenant->service == 700);
	assert_ptr_equal(serve(&q), &r[1]);
	leave_all(&q, r, 3);
}

static void test_idle_tenants_are_bounded(void **state)
{
	struct request_queue q = {0};
	struct queued waits[2] = {queued_of(2, 0), queued_of(2, 1)};
	(void)state;

	join(&q, &waits[0], "waits");
	for (int i = 0; i < 3 * FAIRNESS_IDLE_MAX; i++) {
		struct queued r = queued_of(2, 2);
		char name[16];
		snprintf(name, sizeof(name), "t%d", i);
		join(&q, &r, name);
		request_queue_begin(&q, &r);
		request_queue_charge(&q, &r, 1 + i);
		request_queue_leave(&q, &r);
	}
	assert_int_equal(q.classes[2].idle_count, FAIRNESS_IDLE_MAX);
	serve(&q);
	assert_int_equal(q.classes[2].idle_count, 0);
	leave_all(&q, waits, 1);
}

static void test_class_then_tenant_then_own_order(void **state)
{
	struct request_queue q = {0};
	struct queued r[7] = {queued_of(3, 0), queued_of(2, 1), queued_of(2, 2), queued_of(2, 3),
	                      queued_of(2, 4), queued_of(1, 5), queued_of(0, 6)};
	static const int expected[7] = {6, 5, 4, 3, 2, 1, 0};
	size_t seen = 0;
	(void)state;

	r[3].deadline_us = 1000; /* before those without */
	r[4].priority = -1;
	for (int i = 0; i < 7; i++)
		join(&q, &r[i], i == 1 ? "urgent?" : "t");
	r[1].priority = -999; /* says nothing against other tenants */
	for (struct queued *x = NULL; (x = request_queue_next(&q, x)) != NULL;)
		seen++;
	assert_int_equal(seen, 7);
	request_queue_charge(&q, &r[1], 100);
	for (int i = 0; i < 7; i++)
		assert_ptr_equal(serve(&q), &r[expected[i]]);
	assert_null(request_queue_first(&q));
	leave_all(&q, r, 7);
}

static void test_a_line_keeps_its_order_through_anything(void **state)
{
	struct request_queue q = {0};
	struct queued r[64];
	struct rng rng;
	(void)state;

	rng_init(&rng, 3);
	for (uint64_t i = 0; i < 64; i++) {
		r[i] = queued_of(2, i);
		r[i].priority = (int)rng_below(&rng, 5);
		join(&q, &r[i], "t");
	}
	for (int i = 0; i < 20000; i++) {
		struct queued *one = &r[rng_below(&rng, 64)];
		if (!one->tenant)
			join(&q, one, "t");
		else if (!one->waits)
			request_queue_back(&q, one);
		else if (rng_below(&rng, 2))
			request_queue_begin(&q, one);
		else
			request_queue_leave(&q, one);
		size_t seen = 0;
		for (struct queued *x = request_queue_first(&q), *next; x; x = next, seen++) {
			next = request_queue_next(&q, x);
			if (next)
				assert_true(x->priority < next->priority ||
				            (x->priority == next->priority && x->order < next->order));
		}
		assert_int_equal(seen, q.waiting);
	}
	leave_all(&q, r, 64);
}

static void test_who_may_take_whose_place(void **state)
{
	struct request_queue q = {0};
	struct queued bulk = queued_of(3, 0), flood = queued_of(2, 1), flood_again = queued_of(2, 2),
		      quiet = queued_of(2, 3), system = queued_of(0, 4);
	struct queued *all[] = {&bulk, &flood, &flood_again, &quiet, &system};
	(void)state;

	join(&q, &bulk, "x");
	join(&q, &flood, "flood");
	join(&q, &flood_again, "flood");
	request_queue_begin(&q, &bulk);
	request_queue_begin(&q, &flood);
	bulk.answering = true;
	flood.answering = true;
	join(&q, &system, "s");
	join(&q, &quiet, "quiet");
	assert_true(queued_may_displace(&system, &bulk));   /* bulk may be interrupted */
	assert_false(queued_may_displace(&system, &flood)); /* a stream may not */
	flood.answering = false;
	assert_true(queued_may_displace(&system, &flood));
	flood.answering = true;
	assert_false(queued_may_displace(&bulk, &flood));
	assert_false(queued_may_displace(&quiet, &flood)); /* its only place */
	request_queue_begin(&q, &flood_again);
	request_queue_charge(&q, &flood_again, 100);
	assert_true(queued_may_displace(&quiet, &flood));
	assert_true(queued_yields_before(&bulk, &flood_again));
	assert_true(queued_yields_before(&flood_again, &flood));
	request_queue_begin(&q, &quiet);
	request_queue_back(&q, &flood);
	assert_false(queued_may_displace(&flood, &flood_again)); /* nobody's turn to swap places with itself */
	for (size_t i = 0; i < 5; i++)
		request_queue_leave(&q, all[i]);
	request_queue_fini(&q);
}

static void test_bulk_is_refused_first_and_a_flood_leaves_room(void **state)
{
	int32_t flood = 0, quiet = 0;
	(void)state;

	assert_int_equal(admission_ceiling(512, 3), 256);
	for (int c = 1; c < QUEUE_CLASSES; c++)
		assert_true(admission_ceiling(512, c) < admission_ceiling(512, c - 1));
	assert_int_equal(admission_check(512, 3, 256, 0), ADMISSION_CLASS_FULL);
	assert_int_equal(admission_check(512, 2, 256, 0), ADMISSION_YES);
	assert_int_equal(admission_check(512, 0, 512, 0), ADMISSION_CLASS_FULL);
	while (admission_check(512, 2, flood, flood) == ADMISSION_YES) {
		assert_true(!admission_counts_tenants(512, 2, flood) ||
		            admission_check(512, 2, flood, 0) == ADMISSION_YES);
		flood++;
	}
	assert_int_equal(admission_check(512, 2, flood, flood), ADMISSION_TENANT_FULL);
	while (admission_check(512, 2, flood + quiet, quiet) == ADMISSION_YES)
		quiet++;
	assert_in_range(flood, 350, 400);
	assert_in_range(quiet, 60, 90);
	assert_int_equal(admission_ceiling(1, 3), 1); /* a queue of one still takes one */
}

static void test_room_is_how_many_more_are_let_in(void **state)
{
	(void)state;

	for (int c = 0; c < QUEUE_CLASSES; c++) {
		for (int32_t waiting = 0; waiting <= 60; waiting++) {
			for (int32_t mine = 0; mine <= waiting; mine++) {
				int32_t more = 0;
				while (admission_check(60, c, waiting + more, mine + more) == ADMISSION_YES)
					more++;
				assert_int_equal(admission_room(60, c, waiting, mine), more);
			}
		}
	}
}

static void test_deadline_is_the_requests_own_or_the_engines(void **state)
{
	(void)state;

	assert_int_equal(admission_deadline(1000, 2, 0, 500), 1500);
	assert_int_equal(admission_deadline(1000, 2, 1200, 500), 1200);
	assert_int_equal(admission_deadline(1000, 2, 0, 0), INT64_MAX);
	assert_int_equal(admission_deadline(1000, 3, 0, 500), INT64_MAX);
	assert_int_equal(admission_deadline(1000, 3, 1200, 500), 1200);
	assert_int_equal(admission_deadline(1000, 2, 0, INT64_MAX), INT64_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_backlogged_tenants_stay_within_the_bound),
	    cmocka_unit_test(test_time_without_asking_earns_no_credit),
	    cmocka_unit_test(test_debt_is_remembered_while_others_wait),
	    cmocka_unit_test(test_idle_tenants_are_bounded),
	    cmocka_unit_test(test_class_then_tenant_then_own_order),
	    cmocka_unit_test(test_a_line_keeps_its_order_through_anything),
	    cmocka_unit_test(test_who_may_take_whose_place),
	    cmocka_unit_test(test_bulk_is_refused_first_and_a_flood_leaves_room),
	    cmocka_unit_test(test_room_is_how_many_more_are_let_in),
	    cmocka_unit_test(test_deadline_is_the_requests_own_or_the_engines),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
