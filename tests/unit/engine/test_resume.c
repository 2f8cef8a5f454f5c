/* SPDX-License-Identifier: Apache-2.0 */
/* An answer that another engine goes on with, from the tokens that were told: to the client it must be the answer of
 * one that was not disturbed, wherever it was cut. */
#include "driver.h"

#include "base/json.h"
#include "engine/llama_parts.h"
#include "engine/process.h"

#include <stdlib.h>
#include <string.h>

enum { PIECES_MAX = 512 };

/* What an answer had said, and of which tokens, after each of its events. */
struct said {
	int32_t tokens[PIECES_MAX];
	size_t token_count, count;
	struct {
		size_t tokens, text, reasoning, calls;
	} pieces[PIECES_MAX];
	struct buf calls; /* ids, names and arguments as they came */
	int replayed;
};

static void note_calls(struct said *said, struct str json)
{
	yyjson_doc *doc;
	yyjson_val *delta;
	size_t i, n;
	struct error err;

	if (!json.len)
		return;
	if (json_parse(json, &doc, &err) < 0)
		fail_msg("%s", err.text);
	yyjson_arr_foreach(yyjson_doc_get_root(doc), i, n, delta)
	{
		yyjson_val *function = yyjson_obj_get(delta, "function");
		const char *texts[] = {yyjson_get_str(yyjson_obj_get(delta, "id")),
		                       yyjson_get_str(yyjson_obj_get(function, "name")),
		                       yyjson_get_str(yyjson_obj_get(function, "arguments"))};
		for (int t = 0; t < 3; t++)
			if (texts[t])
				buf_append_str(&said->calls, str_from(texts[t]));
	}
	yyjson_doc_free(doc);
}

static void note(struct ask *ask, const struct engine_event *event)
{
	struct said *said = ask->arg;

	note_calls(said, event->tool_calls_json);
	if (event->replayed) {
		assert_int_equal(said->count, 0);
		assert_int_equal(event->token_count, 0);
		said->replayed++;
	}
	assert_true(said->count < PIECES_MAX && said->token_count + event->token_count <= PIECES_MAX);
	for (size_t i = 0; i < event->token_count; i++)
		said->tokens[said->token_count++] = event->tokens[i];
	if (!event->replayed && said->replayed == 0)
		assert_int_equal(said->token_count, event->completion_tokens);
	said->pieces[said->count].tokens = said->token_count;
	said->pieces[said->count].text = ask->text.len;
	said->pieces[said->count].reasoning = ask->reasoning.len;
	said->pieces[said->count++].calls = said->calls.len;
}

static void say_noting(struct driver *d, struct ask *ask, struct said *said, struct engine_params p)
{
	*ask = (struct ask){.on_text = note, .arg = said};
	*said = (struct said){0};
	say(d, ask, p);
}

/* The answer on `d`, then cut behind its first `cut` events and taken up on `other`. */
static void check_cut(struct driver *other, struct engine_params p, const struct ask *whole, const struct said *said,
                      size_t cut)
{
	static struct said rest;
	struct ask a;

	p.resumed = said->tokens;
	p.resumed_count = said->pieces[cut].tokens;
	say_noting(other, &a, &rest, p);
	if (a.last.finish == FINISH_ERROR)
		fail_msg("cut %zu: %s", cut, a.err.text);
	if (strcmp(a.text.base, whole->text.base) != 0)
		fail_msg("cut %zu (%zu tokens):\n%s\n%s", cut, p.resumed_count, whole->text.base, a.text.base);
	assert_string_equal(a.reasoning.base, whole->reasoning.base);
	assert_true(str_equal(buf_str(&rest.calls), buf_str(&said->calls)));
	assert_int_equal(rest.replayed, 1);
	assert_int_equal(rest.pieces[0].text, said->pieces[cut].text);
	assert_int_equal(rest.pieces[0].reasoning, said->pieces[cut].reasoning);
	assert_int_equal(rest.pieces[0].calls, said->pieces[cut].calls);
	assert_int_equal(a.last.completion_tokens, whole->last.completion_tokens);
	assert_int_equal(a.last.prompt_tokens, whole->last.prompt_tokens);
	assert_int_equal(a.last.finish, whole->last.finish);
	assert_int_equal(a.last.stop, whole->last.stop);
	ask_fini(&a);
	buf_fini(&rest.calls);
}

static void check(struct driver *d, struct driver *other, struct engine_params p)
{
	static struct said said;
	struct ask whole;

	p.answer_id = STR("chatcmpl-1");
	say_noting(d, &whole, &said, p);
	if (whole.last.finish == FINISH_ERROR)
		fail_msg("%s", whole.err.text);
	if (said.count < 2)
		fail_msg("all at once: %s|%s|" STR_FMT, whole.text.base, whole.reasoning.base,
		         STR_ARG(buf_str(&said.calls)));
	for (size_t cut = 0; cut < said.count; cut += 1 + said.count / 9)
		check_cut(other, p, &whole, &said, cut);
	check_cut(other, p, &whole, &said, said.count - 1);
	ask_fini(&whole);
	buf_fini(&said.calls);
}

static struct engine_params drawn(struct engine_params p)
{
	p.sampling.temperature = 1.1;
	p.sampling.seed = 42;
	p.sampling.has_seed = true;
	return p;
}

static void start_two(struct driver *d, struct driver *other, const char *model)
{
	struct engine_options options = options_for(model);

	options.model_name = STR("tiny:latest");
	options.deterministic = true;
	driver_start(d, &options);
	options.in_process = true; /* one of each kind */
	driver_start(other, &options);
}

static void test_greedy_drawn_and_penalized_answers_go_on_as_they_would_have(void **state)
{
	struct driver d, other;
	struct engine_params p = completion("Once upon a time", 60);
	(void)state;

	start_two(&d, &other, "llama");
	check(&d, &other, p);
	check(&other, &d, drawn(p));
	p.sampling.frequency_penalty = 0.5;
	p.sampling.presence_penalty = 0.3;
	p.sampling.repeat_penalty = 1.2;
	check(&d, &other, drawn(p));
	p.echo = true;
	check(&d, &other, drawn(p));
	p = drawn(completion("Once", -1)); /* until the context is full */
	check(&d, &other, p);
	driver_fini(&d);
	driver_fini(&other);
}

/* Stops that overlap, so that text is held back of which it is not known to which it belongs. */
static void test_stops_are_met_where_they_would_have_been(void **state)
{
	struct driver d, other;
	struct ask plain = {0};
	struct buf across = {0}, almost = {0};
	(void)state;

	start_two(&d, &other, "llama");
	say(&d, &plain, completion("Once upon a time", 60));
	assert_true(plain.text.len > 60);
	/* One that is met, and one that begins the same a little before and is not. */
	buf_append(&across, plain.text.base + 45, 9);
	buf_append(&almost, plain.text.base + 20, 25);
	buf_append(&almost, "\x01", 1);
	const struct str stops[] = {buf_str(&almost), buf_str(&across)};
	struct engine_params p = completion("Once upon a time", 60);
	p.stops = stops;
	p.stop_count = 2;
	check(&d, &other, p);
	buf_fini(&across);
	buf_fini(&almost);
	ask_fini(&plain);
	driver_fini(&d);
	driver_fini(&other);
}

static void test_grammars_go_on_in_the_middle_of_a_value(void **state)
{
	struct driver d, other;
	struct engine_params p = drawn(completion("Hi", 200));
	(void)state;

	start_two(&d, &other, "llama");
	p.json_schema =
	    STR("{\"type\":\"object\",\"properties\":{\"yes\":{\"type\":\"boolean\"},\"which\":{\"enum\":"
	        "[\"xylophone\",\"yard\"]},\"many\":{\"type\":\"array\",\"items\":{\"enum\":[1,22,333]},\"minItems\":5,"
	        "\"maxItems\":9}},\"required\":[\"yes\",\"which\",\"many\"],\"additionalProperties\":false}");
	check(&d, &other, p);
	driver_fini(&d);
	driver_fini(&other);
}

static void test_tool_calls_keep_their_ids_and_arguments(void **state)
{
	struct llama_settings settings = {.model_path = model_path("tools")};
	struct driver d, other;
	struct engine_params p = chat_of("[{\"role\":\"user\",\"content\":\"Weather?\"}]", 150);
	atomic_bool stop = false;
	struct llama_box *box;
	struct error err;
	int32_t *mark, mark_count;
	float wish[16];
	(void)state;

	/* As in test_llama.c: a bias makes random weights begin the call, a penalty makes them go on. */
	assert_int_equal(llama_box_load(&settings, &stop, &box, &err), 0);
	assert_int_equal(llama_box_tokenize(box, STR("<tool_call>\n"), 256, &mark, &mark_count, &err), 0);
	llama_box_unref(box);
	assert_in_range(mark_count, 2, 16);
	for (int32_t t = 0; t < mark_count; t++)
		wish[t] = 100.0f * (float)(mark_count - t);
	p.tools_json = STR(
	    "[{\"type\":\"function\",\"function\":{\"name\":\"get_weather\",\"parameters\":{\"type\":\"object\","
	    "\"properties\":{\"city\":{\"type\":\"string\",\"minLength\":30,\"maxLength\":40}},\"required\":[\"city\"],"
	    "\"additionalProperties\":false}}}]");
	p.tool_choice = STR("required");
	p.sampling.bias_tokens = mark;
	p.sampling.bias_values = wish;
	p.sampling.bias_count = (size_t)mark_count;
	p.sampling.frequency_penalty = 2000;
	start_two(&d, &other, "tools");
	check(&d, &other, p);
	free(mark);
	driver_fini(&d);
	driver_fini(&other);
}

static void test_what_cannot_be_gone_on_with_is_told(void **state)
{
	static const int32_t wrong[] = {5, 1 << 20};
	struct driver d;
	struct ask a = {0}, b = {0};
	struct engine_params p = completion("Once", 8);
	int32_t many[400];
	(void)state;

	driver_model(&d, "llama");
	p.resumed = wrong;
	p.resumed_count = 2;
	say(&d, &a, p);
	assert_int_equal(a.err.code, E_INVAL);
	for (int i = 0; i < 400; i++)
		many[i] = 5;
	p.resumed = many;
	p.resumed_count = 400;
	say(&d, &b, p);
	assert_int_equal(b.err.code, E_LIMIT);
	ask_fini(&a);
	ask_fini(&b);
	driver_fini(&d);
}

static void test_synthetic_answers_go_on_too(void **state)
{
	static const int32_t wrong[] = {31, 31};
	const struct str stops[] = {STR(" edge node wh"), STR(" node where every")};
	struct engine_options options = {
	    .kind = STR("synthetic"), .prefill_us_per_token = -1, .itl_base_us = 100, .itl_slope_us = -1};
	struct engine_params p = completion("Once upon a time", 40);
	struct driver d;
	struct ask a = {0};
	struct error err;
	(void)state;

	driver_start(&d, &options);
	check(&d, &d, p);
	p.stops = stops;
	p.stop_count = 2;
	check(&d, &d, p);
	p.resumed = wrong;
	p.resumed_count = 2;
	assert_int_equal(ask_submit(&a, &d, &p, &err), E_INVAL);
	driver_fini(&d);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_greedy_drawn_and_penalized_answers_go_on_as_they_would_have),
	    cmocka_unit_test(test_stops_are_met_where_they_would_have_been),
	    cmocka_unit_test(test_grammars_go_on_in_the_middle_of_a_value),
	    cmocka_unit_test(test_tool_calls_keep_their_ids_and_arguments),
	    cmocka_unit_test(test_what_cannot_be_gone_on_with_is_told),
	    cmocka_unit_test(test_synthetic_answers_go_on_too),
	};

	int status = engine_process_hook(argc, argv);
	return status >= 0 ? status : cmocka_run_group_tests_name("resume", tests, NULL, NULL);
}
