/* SPDX-License-Identifier: Apache-2.0 */
/* Several models in less memory than all of them need: who is loaded, who waits, and that nobody is ever taken from
 * under a request. The engines are synthetic: their need is the size of their file. */
#include "world.h"

#include "base/limits.h"
#include "serve/gateway/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CHAT "/v1/chat/completions"
#define LOAD_US (20 * US_PER_MS)

enum { MODELS = 8, FLYING = 40 };

struct fixture {
	struct world w;
	struct place p;
	char folder[32], paths[MODELS][64];
};

static const int sizes[MODELS] = {10, 20, 30, 40, 50, 60, 35, 25};

static void setup_with(void **state, int64_t load_us, int64_t itl_us)
{
	struct fixture *f = NEW(struct fixture);
	struct gateway_options o = place_options("n-1", "west");

	o.engine.load_us = load_us;
	o.engine.itl_base_us = itl_us;
	o.engine.slots = 4;
	world_init(&f->w);
	place_start(&f->w, &f->p, &o);
	strcpy(f->folder, "/tmp/mdn-models-XXXXXX");
	assert_non_null(mkdtemp(f->folder));
	for (int i = 0; i < MODELS; i++) {
		snprintf(f->paths[i], sizeof(f->paths[i]), "%s/%d", f->folder, i);
		FILE *file = fopen(f->paths[i], "w");
		assert_int_equal(ftruncate(fileno(file), sizes[i]), 0);
		fclose(file);
	}
	gateway_set_memory(f->p.g, 100);
	*state = f;
}

static int setup(void **state)
{
	setup_with(state, LOAD_US, US_PER_MS);
	return 0;
}

static int setup_slow(void **state)
{
	setup_with(state, 3500 * US_PER_MS, US_PER_MS);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	place_stop(&f->p);
	world_fini(&f->w);
	for (int i = 0; i < MODELS; i++)
		unlink(f->paths[i]);
	rmdir(f->folder);
	free(f);
	return 0;
}

static void add(struct fixture *f, int i, int version)
{
	char name[32], digest[80];
	struct error err = {0};

	snprintf(name, sizeof(name), "m%d:latest", i);
	snprintf(digest, sizeof(digest), "sha256:%d%d", i, version);
	if (gateway_model_add(f->p.g, str_from(name), str_from(digest), str_from(f->paths[i]), &err) < 0)
		fail_msg("%s", err.text);
}

static enum model_state state_of(struct fixture *f, const char *name)
{
	struct model_report r;

	assert_true(gateway_model_report(f->p.g, str_from(name), &r));
	return r.state;
}

static void until(struct fixture *f, const char *name, enum model_state state)
{
	for (int i = 0; i < 2000 && state_of(f, name) != state; i++)
		world_wait(&f->w, 5 * US_PER_MS);
	assert_int_equal(state_of(f, name), state);
}

static void begin(struct fixture *f, struct reply *r, int i, int tokens, bool stream)
{
	char body[256];

	snprintf(
	    body, sizeof(body),
	    "{\"model\":\"m%d\",\"max_tokens\":%d,\"stream\":%s,\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}",
	    i, tokens, stream ? "true" : "false");
	reply_start(&f->w, r, "POST", f->p.api, CHAT, body, NULL);
}

static void asked(struct fixture *f, int i)
{
	struct reply r = {0};

	begin(f, &r, i, 2, false);
	reply_wait(&r);
	assert_int_equal(r.status, 200);
	reply_fini(&r);
}

static void test_what_does_not_fit_is_loaded_when_asked_and_the_oldest_goes(void **state)
{
	struct fixture *f = *state;

	add(f, 3, 0); /* 40 */
	until(f, "m3", MODEL_READY);
	add(f, 4, 0); /* 50 */
	until(f, "m4", MODEL_READY);
	add(f, 1, 0); /* 20: stays on disk, and nobody goes for it */
	until(f, "m1", MODEL_CACHED);
	assert_int_equal(state_of(f, "m3"), MODEL_READY);
	asked(f, 3);
	asked(f, 1);
	assert_int_equal(state_of(f, "m1"), MODEL_READY);
	assert_int_equal(state_of(f, "m3"), MODEL_READY);
	assert_int_equal(state_of(f, "m4"), MODEL_CACHED);
	asked(f, 4);
	assert_int_equal(state_of(f, "m3"), MODEL_CACHED);
}

static void test_pinned_ones_stay_and_one_that_never_fits_says_why(void **state)
{
	struct fixture *f = *state;
	const struct str pin = STR("m4");
	struct model_report report;
	struct reply r = {0};

	gateway_set_residence(f->p.g, &pin, 1, 0);
	add(f, 4, 0);
	until(f, "m4", MODEL_READY);
	add(f, 3, 0);
	until(f, "m3", MODEL_READY);
	add(f, 2, 0);
	asked(f, 2);
	assert_int_equal(state_of(f, "m4"), MODEL_READY);
	assert_int_equal(state_of(f, "m3"), MODEL_CACHED);
	add(f, 5, 0); /* 60 beside the pinned 50 */
	assert_int_equal(state_of(f, "m5"), MODEL_FAILED);
	assert_true(gateway_model_report(f->p.g, STR("m5"), &report));
	assert_non_null(strstr(report.error, "memory_max"));
	begin(f, &r, 5, 2, false);
	reply_wait(&r);
	assert_int_equal(r.status, 503);
	reply_fini(&r);
	gateway_model_remove(f->p.g, STR("m4:latest"));
	until(f, "m5", MODEL_READY); /* there is room now */
}

static void test_idle_ones_are_unloaded_after_their_time(void **state)
{
	struct fixture *f = *state;
	const struct str pin = STR("m0:latest");

	gateway_set_residence(f->p.g, &pin, 1, 200 * US_PER_MS);
	add(f, 0, 0);
	add(f, 1, 0);
	until(f, "m1", MODEL_READY);
	until(f, "m1", MODEL_CACHED);
	assert_int_equal(state_of(f, "m0"), MODEL_READY);
	asked(f, 1);
}

static void test_a_busy_one_is_not_taken_and_then_gives_way(void **state)
{
	struct fixture *f = *state;
	struct reply busy = {0}, waits = {0};

	add(f, 5, 0);
	until(f, "m5", MODEL_READY);
	begin(f, &busy, 5, 600, true); /* more than half a second */
	world_wait(&f->w, 20 * US_PER_MS);
	add(f, 4, 0);
	begin(f, &waits, 4, 2, false);
	for (int i = 0; i < 20; i++) {
		world_wait(&f->w, 5 * US_PER_MS);
		assert_int_equal(state_of(f, "m5"), MODEL_READY);
	}
	reply_wait(&busy);
	assert_int_equal(busy.status, 200);
	assert_int_equal(stream_count(&busy, "[DONE]"), 1);
	reply_wait(&waits);
	assert_int_equal(waits.status, 200);
	assert_int_equal(state_of(f, "m5"), MODEL_CACHED);
	reply_fini(&busy);
	reply_fini(&waits);
}

static void test_a_stream_hears_of_the_loading_and_then_the_answer(void **state)
{
	struct fixture *f = *state;
	struct reply r = {0}, whole = {0};

	add(f, 0, 0);
	begin(f, &r, 0, 3, true);
	begin(f, &whole, 0, 3, false);
	reply_wait(&r);
	reply_wait(&whole);
	assert_int_equal(r.status, 200);
	assert_int_equal(whole.status, 200);
	assert_true(stream_count(&r, ": loading m0:latest ") >= 1);
	assert_int_equal(stream_count(&r, "[DONE]"), 1);
	assert_true(strncmp(r.body.base, ": loading", 9) == 0);
	reply_fini(&r);
	reply_fini(&whole);
}

static void test_a_stream_that_waits_for_a_model_which_goes_ends_in_an_error_event(void **state)
{
	struct fixture *f = *state;
	struct reply r = {0};

	add(f, 0, 0);
	begin(f, &r, 0, 3, true);
	for (int i = 0; i < 600 && !r.bytes; i++)
		world_wait(&f->w, 5 * US_PER_MS);
	gateway_model_remove(f->p.g, STR("m0:latest"));
	reply_wait(&r);
	assert_int_equal(r.status, 200);
	assert_int_equal(stream_count(&r, "\"error\""), 1);
	assert_int_equal(stream_count(&r, "[DONE]"), 0);
	assert_int_equal(f->p.g->waiting, 0);
	reply_fini(&r);
}

/* Four that nobody has loaded are asked for at once, and memory is for two or three: whoever comes in answers those
 * that waited for it before it goes for the next. */
static void test_what_was_loaded_for_somebody_answers_before_it_goes(void **state)
{
	static const int turn[] = {2, 3, 4, 6};
	enum { TURNS = sizeof(turn) / sizeof(turn[0]) };
	struct fixture *f = *state;
	struct reply replies[TURNS] = {0};
	char name[8];

	gateway_set_residence(f->p.g, NULL, 0, 20 * US_PER_MS);
	for (int i = 0; i < TURNS; i++) {
		snprintf(name, sizeof(name), "m%d", turn[i]);
		add(f, turn[i], 0);
		until(f, name, MODEL_READY);
		until(f, name, MODEL_CACHED);
	}
	gateway_set_residence(f->p.g, NULL, 0, 0);
	uint64_t loads = f->p.g->room.loads;
	for (int i = 0; i < TURNS; i++)
		begin(f, &replies[i], turn[i], 2, false);
	for (int i = 0; i < TURNS; i++) {
		reply_wait(&replies[i]);
		assert_int_equal(replies[i].status, 200);
		reply_fini(&replies[i]);
	}
	assert_int_equal(f->p.g->room.loads - loads, TURNS);
}

/* ---- races -------------------------------------------------------------------------------------- */

static uint64_t in_memory(const struct gateway *g)
{
	uint64_t sum = 0;

	for (const struct model *m = g->models; m; m = m->following)
		sum += model_memory(m) + (m->next ? model_memory(m->next) : 0);
	for (const struct model *m = g->leaving; m; m = m->following)
		sum += model_memory(m);
	return sum;
}

struct flight {
	struct reply r;
	bool flies, stream;
};

static void land(struct fixture *f, struct flight *at, unsigned *counts)
{
	struct reply *r = &at->r;

	if (!r->done)
		return;
	buf_append(&r->body, "", 1);
	if (r->status == 200 && at->stream && stream_count(r, "[DONE]") != 1)
		fail_msg("a stream ended early: %s", r->body.base);
	if (r->status != 200 && r->status != 404 && r->status != 503)
		fail_msg("status %d: %s%s", r->status, r->body.base, r->err.text);
	if (r->status == 503 && !strstr(r->body.base, "cannot be used") && !strstr(r->body.base, "none can take"))
		fail_msg("refused: %s", r->body.base);
	counts[r->status == 200 ? 0 : r->status == 404 ? 1 : 2]++;
	reply_fini(r);
	at->flies = false;
	(void)f;
}

static void act(struct fixture *f, struct rng *rng, struct flight *flights)
{
	int i = (int)rng_below(rng, MODELS);
	struct str pin = i < 2 ? STR("m2") : STR("m0");
	char name[32];

	switch (rng_below(rng, 16)) {
	case 0:
		snprintf(name, sizeof(name), "m%d:latest", i);
		gateway_model_remove(f->p.g, str_from(name));
		break;
	case 1:
	case 2:
	case 3:
		add(f, i, (int)rng_below(rng, 2));
		break;
	case 4:
		gateway_set_residence(f->p.g, &pin, rng_below(rng, 2), rng_below(rng, 2) ? 30 * US_PER_MS : 0);
		break;
	case 5:
		for (int k = 0; k < FLYING; k++)
			if (flights[k].flies && !flights[k].r.done && rng_below(rng, 4) == 0) {
				http_call_cancel(flights[k].r.call);
				reply_fini(&flights[k].r);
				flights[k].flies = false;
			}
		break;
	default:
		for (int k = 0; k < FLYING; k++)
			if (!flights[k].flies) {
				flights[k] = (struct flight){.flies = true, .stream = rng_below(rng, 2)};
				begin(f, &flights[k].r, i, 1 + (int)rng_below(rng, 30), flights[k].stream);
				break;
			}
	}
}

static void test_races_break_nothing(void **state)
{
	struct fixture *f = *state;
	struct flight *flights = mem_new(FLYING * sizeof(*flights));
	unsigned counts[3] = {0};
	struct rng rng;

	rng_init(&rng, 11);
	for (int i = 0; i < MODELS; i++)
		add(f, i, 0);
	for (int step = 0; step < 6000; step++) {
		act(f, &rng, flights);
		if (rng_below(&rng, 3) == 0)
			world_wait(&f->w, (int64_t)rng_below(&rng, 8) * US_PER_MS);
		assert_true(in_memory(f->p.g) <= 100);
		for (int k = 0; k < FLYING; k++)
			if (flights[k].flies)
				land(f, &flights[k], counts);
	}
	for (int i = 0, flying = 1; i < 6000 && flying; i++) {
		flying = 0;
		world_wait(&f->w, 5 * US_PER_MS);
		assert_true(in_memory(f->p.g) <= 100);
		for (int k = 0; k < FLYING; k++) {
			if (flights[k].flies)
				land(f, &flights[k], counts);
			flying += flights[k].flies;
		}
	}
	for (int k = 0; k < FLYING; k++)
		assert_false(flights[k].flies);
	printf("answered %u, not there %u, refused %u; loaded %llu, unloaded %llu\n", counts[0], counts[1], counts[2],
	       (unsigned long long)f->p.g->room.loads, (unsigned long long)f->p.g->room.unloads);
	assert_true(counts[0] > 300 && f->p.g->room.unloads > 50);
	assert_int_equal(f->p.g->metrics.broken, 0);
	assert_int_equal(f->p.g->waiting, 0);
	free(flights);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(test_what_does_not_fit_is_loaded_when_asked_and_the_oldest_goes),
	    TEST(test_pinned_ones_stay_and_one_that_never_fits_says_why),
	    TEST(test_idle_ones_are_unloaded_after_their_time),
	    TEST(test_a_busy_one_is_not_taken_and_then_gives_way),
	    cmocka_unit_test_setup_teardown(test_a_stream_hears_of_the_loading_and_then_the_answer, setup_slow,
	                                    teardown),
	    cmocka_unit_test_setup_teardown(test_a_stream_that_waits_for_a_model_which_goes_ends_in_an_error_event,
	                                    setup_slow, teardown),
	    TEST(test_what_was_loaded_for_somebody_answers_before_it_goes),
	    TEST(test_races_break_nothing),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
