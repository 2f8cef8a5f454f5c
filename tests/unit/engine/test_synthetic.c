/* SPDX-License-Identifier: Apache-2.0 */
/* test_synthetic.c - the timing model: order, counts and limits. Times are only compared from below, so that a busy
 * machine cannot break the test. */
#include "driver.h"

#include "base/clock.h"
#include "base/limits.h"

#include <stdio.h>
#include <stdlib.h>

static void instant(struct driver *d, int32_t slots, int32_t kv_tokens)
{
	driver_init(d, &(struct engine_options){.kind = STR("synthetic"),
	                                        .slots = slots,
	                                        .kv_tokens = kv_tokens,
	                                        .prefill_us_per_token = -1,
	                                        .itl_base_us = -1,
	                                        .itl_slope_us = -1});
	assert_int_equal(d->state, ENGINE_READY);
}

static void test_gives_as_many_tokens_as_asked_and_always_the_same_text(void **state)
{
	struct driver d;
	struct ask a = {0}, b = {0}, c = {0};
	struct engine_params p = completion("tell me", 40), natural = completion("tell me", -1);
	(void)state;

	instant(&d, 4, 0);
	ask_start(&a, &d, &p);
	ask_start(&b, &d, &p);
	ask_start(&c, &d, &natural);
	ask_wait(&a);
	ask_wait(&b);
	ask_wait(&c);
	assert_string_equal(a.text.base, b.text.base);
	assert_int_equal(a.last.completion_tokens, 40);
	assert_int_equal(a.last.finish, FINISH_LENGTH);
	assert_int_equal(c.last.finish, FINISH_STOP);
	assert_int_equal(a.prompt_tokens, 2);
	assert_int_equal(engine_load(d.engine).generation_tokens_total, 80 + c.last.completion_tokens);
	assert_int_equal(engine_load(d.engine).running, 0);
	ask_fini(&a);
	ask_fini(&b);
	ask_fini(&c);
	driver_fini(&d);
}

static void test_stop_string_ends_the_answer_before_it(void **state)
{
	struct driver d;
	struct ask a = {0}, b = {0};
	struct engine_params p = completion("tell me", 60);
	(void)state;

	instant(&d, 1, 0);
	ask_start(&a, &d, &p);
	ask_wait(&a);
	char *cut = strstr(a.text.base + 30, " ");
	struct str stop = {cut - 3, 7}; /* from one word into the next */
	p.stops = &stop;
	p.stop_count = 1;
	ask_start(&b, &d, &p);
	ask_wait(&b);
	assert_null(memmem(b.text.base, b.text.len, stop.base, stop.len));
	assert_memory_equal(a.text.base, b.text.base, b.text.len);
	assert_int_equal(b.last.finish, FINISH_STOP);
	assert_true(b.last.completion_tokens < 60);
	ask_fini(&a);
	ask_fini(&b);
	driver_fini(&d);
}

static void test_prefill_takes_its_time_and_a_known_prefix_takes_none(void **state)
{
	struct driver d;
	struct ask a = {0}, b = {0};
	char prompt[2001];
	struct engine_params p;
	(void)state;

	memset(prompt, 'x', 2000);
	prompt[2000] = 0;
	p = completion(prompt, 3);
	driver_init(
	    &d, &(struct engine_options){.kind = STR("synthetic"), .prefill_us_per_token = 200, .itl_base_us = 5000});
	ask_start(&a, &d, &p);
	ask_wait(&a);
	ask_start(&b, &d, &p);
	ask_wait(&b);
	assert_int_equal(a.prompt_tokens, 500);
	assert_int_equal(a.cached_tokens, 0);
	assert_true(a.first_us - a.started_us >= 500 * 200 - 2000);
	assert_true(a.done_us - a.first_us >= 2 * 6000 - 2000);
	assert_int_equal(b.cached_tokens, 496);
	assert_true(b.first_us - b.started_us < a.first_us - a.started_us);
	ask_fini(&a);
	ask_fini(&b);
	driver_fini(&d);
}

static void test_prefills_come_one_after_another(void **state)
{
	struct driver d;
	struct ask asks[4] = {0};
	struct engine_params p[4];
	char prompts[4][401];
	(void)state;

	driver_init(&d, &(struct engine_options){.kind = STR("synthetic"), .prefill_us_per_token = 200});
	for (int i = 0; i < 4; i++) {
		memset(prompts[i], 'a' + i, 400);
		prompts[i][400] = 0;
		p[i] = completion(prompts[i], 2);
		ask_start(&asks[i], &d, &p[i]);
	}
	assert_int_equal(engine_load(d.engine).tokens_to_prefill, 400);
	for (int i = 0; i < 4; i++)
		ask_wait(&asks[i]);
	assert_true(asks[3].first_us - asks[0].started_us >= 4 * 100 * 200 - 4000);
	for (int i = 1; i < 4; i++) {
		assert_true(asks[i].first_us >= asks[i - 1].first_us);
		ask_fini(&asks[i]);
	}
	ask_fini(&asks[0]);
	driver_fini(&d);
}

static void test_full_kv_cache_makes_requests_wait_not_fail(void **state)
{
	struct driver d;
	struct ask asks[5] = {0};
	struct engine_params p = completion("12345678", 98); /* 100 tokens each */
	(void)state;

	driver_init(&d, &(struct engine_options){.kind = STR("synthetic"),
	                                         .kv_tokens = 210,
	                                         .prefill_us_per_token = -1,
	                                         .itl_base_us = 1000,
	                                         .itl_slope_us = -1});
	for (int i = 0; i < 5; i++)
		ask_start(&asks[i], &d, &p);
	driver_turns(&d, 20000);
	assert_int_equal(engine_load(d.engine).running, 2);
	assert_int_equal(engine_load(d.engine).waiting, 3);
	assert_true(engine_load(d.engine).kv_usage > 0.9);
	for (int i = 0; i < 5; i++) {
		ask_wait(&asks[i]);
		assert_int_equal(asks[i].last.completion_tokens, 98);
		ask_fini(&asks[i]);
	}
	assert_true(engine_load(d.engine).kv_usage == 0);
	driver_fini(&d);
}

static void cancel_at_once(struct ask *ask, const struct engine_event *event)
{
	(void)event;
	engine_cancel(ask->request);
	engine_cancel(ask->request); /* gone already: nothing happens */
	ask->arg = ask;
}

static bool is_marked(void *arg)
{
	return ((struct ask *)arg)->arg != NULL;
}

static void test_cancel_from_its_own_event_and_while_waiting(void **state)
{
	struct driver d;
	struct ask a = {.on_text = cancel_at_once}, b = {0}, c = {0};
	struct engine_params p = completion("hello", 100);
	(void)state;

	instant(&d, 1, 0);
	ask_start(&a, &d, &p);
	ask_start(&b, &d, &p);
	ask_start(&c, &d, &p);
	engine_cancel(b.request);
	ask_wait(&c);
	driver_until(&d, is_marked, &a);
	assert_int_equal(a.texts, 1);
	assert_int_equal(a.done, 0);
	assert_int_equal(b.started, 0);
	assert_int_equal(engine_load(d.engine).cancels_total, 2);
	assert_int_equal(engine_load(d.engine).running + engine_load(d.engine).waiting, 0);
	ask_fini(&a);
	ask_fini(&b);
	ask_fini(&c);
	driver_fini(&d);
}

static void pause_at_once(struct ask *ask, const struct engine_event *event)
{
	(void)event;
	engine_pause(ask->request);
}

static void test_paused_request_gets_nothing_until_continued(void **state)
{
	struct driver d;
	struct ask a = {.on_text = pause_at_once}, b = {0};
	struct engine_params p = completion("hello", 100);
	(void)state;

	instant(&d, 2, 0);
	ask_start(&a, &d, &p);
	ask_start(&b, &d, &p);
	ask_wait(&b);
	driver_turns(&d, 20000);
	assert_int_equal(a.texts, 1);
	assert_int_equal(a.done, 0);
	a.on_text = NULL;
	engine_continue(a.request);
	ask_wait(&a);
	assert_string_equal(a.text.base, b.text.base);
	ask_fini(&a);
	ask_fini(&b);
	driver_fini(&d);
}

static void test_limits_are_told(void **state)
{
	static struct ask asks[LIMIT_QUEUE + 1];
	struct driver d;
	struct ask late = {0}, large = {0};
	struct error err = {0};
	char prompt[20001];
	struct engine_params p = completion("hello", 1000), q;
	(void)state;

	memset(prompt, 'x', 20000);
	prompt[20000] = 0;
	driver_init(&d, &(struct engine_options){.kind = STR("synthetic"), .slots = 1});
	q = completion(prompt, 10);
	ask_start(&large, &d, &q);
	ask_wait(&large);
	assert_int_equal(large.last.finish, FINISH_ERROR);
	assert_int_equal(large.err.code, E_LIMIT);
	assert_non_null(strstr(large.err.text, "5000"));

	/* Bulk is refused first, then one tenant that has most of the queue, others not yet. */
	int taken = 0;
	p.service_class = ENGINE_BULK;
	while (ask_submit(&asks[taken], &d, &p, &err) == 0) {
		snprintf(prompt, sizeof(prompt), "t%d", taken++);
		p.tenant = str_from(prompt);
	}
	assert_int_equal(err.code, E_BUSY);
	assert_int_equal(taken, LIMIT_QUEUE / 2);
	assert_non_null(strstr(err.text, "bulk"));
	p.tenant = STR("flood");
	p.service_class = ENGINE_DEFAULT;
	while (ask_submit(&asks[taken], &d, &p, &err) == 0)
		taken++;
	assert_non_null(strstr(err.text, "of them yours"));
	p.tenant = STR("another");
	assert_int_equal(ask_submit(&late, &d, &p, &err), 0);
	engine_cancel(late.request);
	p.service_class = ENGINE_SYSTEM;
	p.tenant = STR("third");
	while (taken < LIMIT_QUEUE && ask_submit(&asks[taken], &d, &p, &err) == 0)
		taken++;
	assert_in_range(taken, LIMIT_QUEUE * 9 / 10, LIMIT_QUEUE);
	q = completion("x", 1);
	q.json_schema = STR("{}");
	q.service_class = ENGINE_SYSTEM;
	engine_cancel(asks[0].request);
	assert_int_equal(ask_submit(&late, &d, &q, &err), E_INVAL);
	/* Freeing the engine ends all of them. */
	driver_fini(&d);
	for (int i = 1; i < taken; i++) {
		assert_int_equal(asks[i].done, 1);
		assert_int_equal(asks[i].err.code, E_CANCELED);
		ask_fini(&asks[i]);
	}
	assert_int_equal(asks[0].done, 0);
	ask_fini(&asks[0]);
	ask_fini(&large);
}

static void test_smaller_priority_goes_first(void **state)
{
	struct driver d;
	struct ask asks[3] = {0};
	struct engine_params p = completion("hello", 30);
	(void)state;

	instant(&d, 1, 0);
	for (int i = 0; i < 3; i++) {
		p.priority = 2 - i;
		ask_start(&asks[i], &d, &p);
	}
	for (int i = 0; i < 3; i++)
		ask_wait(&asks[i]);
	assert_true(asks[2].started_us <= asks[1].started_us && asks[1].started_us <= asks[0].started_us);
	for (int i = 0; i < 3; i++)
		ask_fini(&asks[i]);
	driver_fini(&d);
}

/* Three classes wait for one slot; they begin in their order, whatever order they came in. */
static void test_higher_class_begins_first(void **state)
{
	static const enum engine_class classes[] = {ENGINE_BULK, ENGINE_DEFAULT, ENGINE_INTERACTIVE, ENGINE_SYSTEM};
	struct driver d;
	struct ask hog = {0}, asks[4] = {0};
	struct engine_params p = completion("hello", 20);
	(void)state;

	driver_init(&d, &(struct engine_options){.kind = STR("synthetic"), .slots = 1, .itl_base_us = 2000});
	ask_start(&hog, &d, &p);
	for (int i = 0; i < 4; i++) {
		p.service_class = classes[i];
		ask_start(&asks[i], &d, &p);
	}
	for (int i = 0; i < 4; i++)
		ask_wait(&asks[i]);
	for (int i = 1; i < 4; i++)
		assert_true(asks[i].done_us <= asks[i - 1].started_us);
	for (int i = 0; i < 4; i++)
		ask_fini(&asks[i]);
	ask_wait(&hog);
	ask_fini(&hog);
	driver_fini(&d);
}

struct flood {
	struct ask asks[120];
	int64_t tokens;
	int left;
};

static bool flood_has_run_out(void *arg)
{
	struct flood *floods = arg;

	for (int f = 0; f < 2; f++) {
		floods[f].left = 0;
		floods[f].tokens = 0;
		for (int i = 0; i < 120; i++) {
			floods[f].left += !floods[f].asks[i].started;
			if (floods[f]
			        .asks[i]
			        .started) /* as charged: input once, output twice; whole answers are near enough */
				floods[f].tokens += floods[f].asks[i].prompt_tokens + 2 * (f ? 10 : 60);
		}
	}
	return floods[0].left < 10 || floods[1].left < 10;
}

/* One asks for long answers, the other for short ones; both flood, one has twice the weight. */
static void test_backlogged_tenants_share_by_weight(void **state)
{
	static struct flood floods[2];
	struct driver d;
	struct engine_params p = completion("tell me a story, please", 60);
	(void)state;

	driver_init(&d, &(struct engine_options){.kind = STR("synthetic"),
	                                         .slots = 4,
	                                         .prefill_us_per_token = 1,
	                                         .itl_base_us = 500,
	                                         .itl_slope_us = -1});
	for (int i = 0; i < 120; i++)
		for (int f = 0; f < 2; f++) {
			p.tenant = f ? STR("short") : STR("long");
			p.tenant_weight = f ? 1 : 2;
			p.max_tokens = f ? 10 : 60;
			ask_start(&floods[f].asks[i], &d, &p);
		}
	driver_until(&d, flood_has_run_out, floods);
	double a = (double)floods[0].tokens / 2, b = (double)floods[1].tokens;
	if ((a + b) * (a + b) / (2 * (a * a + b * b)) < 0.99)
		fail_msg("weighted service %.0f and %.0f", a, b);
	driver_fini(&d);
	for (int i = 0; i < 120; i++) {
		ask_fini(&floods[0].asks[i]);
		ask_fini(&floods[1].asks[i]);
	}
}

static bool has_started(void *arg)
{
	return ((struct ask *)arg)->started;
}

static void test_requests_that_do_not_begin_in_time_end_with_a_reason(void **state)
{
	struct driver d;
	struct ask hog = {0}, late = {0}, patient = {0}, bulk = {0}, past = {0};
	struct engine_params p = completion("hello", 100);
	struct error err = {0};
	(void)state;

	driver_init(&d, &(struct engine_options){
			    .kind = STR("synthetic"), .slots = 1, .itl_base_us = 4000, .queue_us = 60 * 1000});
	ask_start(&hog, &d, &p);
	driver_until(&d, has_started, &hog);
	int64_t begun = loop_now_us(d.loop);
	ask_start(&patient, &d, &p); /* the engine's own limit */
	p.deadline_us = begun + 20 * 1000;
	ask_start(&late, &d, &p);
	p.deadline_us = 0;
	p.service_class = ENGINE_BULK; /* has none */
	p.max_tokens = 1;
	ask_start(&bulk, &d, &p);
	p.deadline_us = loop_now_us(d.loop);
	assert_int_equal(ask_submit(&past, &d, &p, &err), E_TIMEOUT);
	ask_wait(&late);
	ask_wait(&patient);
	assert_int_equal(late.err.code, E_TIMEOUT);
	assert_non_null(strstr(late.err.text, "deadline"));
	assert_int_equal(late.started + patient.started, 0);
	assert_true(late.done_us - begun >= 20 * 1000 && late.done_us <= patient.done_us);
	assert_true(patient.done_us - begun >= 60 * 1000);
	assert_int_equal(hog.done, 0);
	assert_int_equal(engine_load(d.engine).waiting, 1);
	assert_int_equal(engine_load(d.engine).expiries_total, 2);
	assert_int_equal(engine_load(d.engine).cancels_total, 0);
	ask_wait(&bulk);
	assert_int_equal(bulk.last.completion_tokens, 1);
	assert_int_equal(hog.last.completion_tokens, 100);
	ask_fini(&hog);
	ask_fini(&late);
	ask_fini(&patient);
	ask_fini(&bulk);
	driver_fini(&d);
}

static void test_echo_and_logprobs(void **state)
{
	struct driver d;
	struct ask a = {0};
	struct engine_params p = completion("say:", 5);
	struct error err = {0};
	struct engine *none;
	(void)state;

	instant(&d, 1, 0);
	p.echo = true;
	p.logprobs = 0;
	ask_start(&a, &d, &p);
	ask_wait(&a);
	assert_memory_equal(a.text.base, "say: ", 5);
	assert_int_equal(a.logprob_count, 5);
	assert_int_equal(engine_new(d.loop, &(struct engine_options){.kind = STR("magic")}, NULL, NULL, &none, &err),
	                 E_INVAL);
	ask_fini(&a);
	driver_fini(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_gives_as_many_tokens_as_asked_and_always_the_same_text),
	    cmocka_unit_test(test_stop_string_ends_the_answer_before_it),
	    cmocka_unit_test(test_prefill_takes_its_time_and_a_known_prefix_takes_none),
	    cmocka_unit_test(test_prefills_come_one_after_another),
	    cmocka_unit_test(test_full_kv_cache_makes_requests_wait_not_fail),
	    cmocka_unit_test(test_cancel_from_its_own_event_and_while_waiting),
	    cmocka_unit_test(test_paused_request_gets_nothing_until_continued),
	    cmocka_unit_test(test_limits_are_told),
	    cmocka_unit_test(test_smaller_priority_goes_first),
	    cmocka_unit_test(test_higher_class_begins_first),
	    cmocka_unit_test(test_backlogged_tenants_share_by_weight),
	    cmocka_unit_test(test_requests_that_do_not_begin_in_time_end_with_a_reason),
	    cmocka_unit_test(test_echo_and_logprobs),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
