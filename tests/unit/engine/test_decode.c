/* SPDX-License-Identifier: Apache-2.0 */
/* test_decode.c - how tokens come about: guesses, the deterministic profile, scored prompts, gaps; on tiny random
 * models, against each other and against the plainest use of llama.h. MDN_TEST_MODELS as in test_llama.c.
 */
#include "driver.h"
#include "reference.h"

#include "base/clock.h"
#include "base/limits.h"
#include "base/rng.h"
#include "engine/llama_parts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static struct engine_options wide(const char *name)
{
	struct engine_options options = options_for(name);

	options.context_tokens = 512;
	options.in_process = true;
	return options;
}

/* Tokens of TEXT events, by ask->arg. */
struct noted {
	int32_t tokens[512];
	size_t count;
	float tops[512][LIMIT_LOGPROBS], logprobs[512];
	size_t top_count;
};

static void note(struct ask *ask, const struct engine_event *event)
{
	struct noted *noted = ask->arg;

	for (size_t i = 0; i < event->token_count; i++)
		noted->tokens[noted->count++] = event->tokens[i];
	for (size_t i = 0; i < event->logprob_count; i++) {
		for (size_t j = 0; j < event->logprobs[i].top_count; j++)
			noted->tops[noted->top_count][j] = event->logprobs[i].top[j].logprob;
		noted->logprobs[noted->top_count++] = event->logprobs[i].logprob;
	}
}

/* ---- guesses ----------------------------------------------------------------------------------- */

static const char *const prompts[] = {
    "Once upon a time there was a time",
    "one two three four one two three four one two three four one two",
    "a b c d e f g a b c d e f g a b c d e f g a b c d",
    "The same again. The same again. The same again. The",
};
enum { PROMPTS = 4, KINDS = 4, SAID = 40 };

static struct engine_params prompt_params(int prompt, int kind)
{
	struct engine_params p = completion(prompts[prompt], SAID);

	p.logprobs = kind == 1 ? 3 : -1;
	if (kind >= 1) { /* 0: greedy */
		p.sampling.temperature = kind == 1 ? 0.7 : 1.1;
		p.sampling.seed = (uint64_t)(100 + prompt);
		p.sampling.has_seed = true;
	}
	if (kind == 2) {
		p.sampling.frequency_penalty = 0.4;
		p.sampling.mirostat = 2;
		p.sampling.mirostat_tau = 3;
	}
	if (kind == 3)
		p.json_schema = STR("{\"type\":\"array\",\"items\":{\"enum\":[\"x\",\"y\",12]},\"minItems\":20,"
		                    "\"maxItems\":30}");
	return p;
}

/* All prompts in all kinds, one after the other, then all prompts at once; what they said. */
static void run_all(const struct engine_options *options, bool always, struct buf *texts, struct engine_load *ret_load)
{
	struct driver d;
	struct ask together[PROMPTS] = {0};

	driver_start(&d, options);
	if (always)
		engine_llama_draft_always(d.engine);
	for (int kind = 0; kind < KINDS; kind++)
		for (int i = 0; i < PROMPTS; i++) {
			struct ask a = {0};
			say(&d, &a, prompt_params(i, kind));
			assert_int_not_equal(a.last.finish, FINISH_ERROR);
			if (kind == 1)
				assert_int_equal(a.logprob_count, a.last.completion_tokens);
			if (kind != 3)
				assert_int_equal(a.last.completion_tokens, SAID);
			buf_append_str(&texts[kind * PROMPTS + i], buf_str(&a.text));
			ask_fini(&a);
		}
	for (int i = 0; i < PROMPTS; i++) {
		struct engine_params p = prompt_params(i, 0);
		ask_start(&together[i], &d, &p);
	}
	for (int i = 0; i < PROMPTS; i++) {
		ask_wait(&together[i]);
		buf_append_str(&texts[KINDS * PROMPTS + i], buf_str(&together[i].text));
		ask_fini(&together[i]);
	}
	*ret_load = engine_load(d.engine);
	assert_true(ret_load->kv_usage == 0);
	driver_fini(&d);
}

/* Wider batches round differently: of the texts that are drawn (kinds 1 and 2), one may part from the other where two
 * tokens were close. Those that are not must be the same to the last byte. */
static void test_guesses_change_nothing_of_what_is_said(void **state)
{
	static const struct {
		const char *speculate, *draft;
		double rate; /* of guesses that come true, at least */
	} ways[] = {{"ngram", NULL, 0.01}, {"draft", "llama", 0.1}, {"draft", "qwen2", 0}};
	enum { TEXTS = (KINDS + 1) * PROMPTS };
	struct buf plain[TEXTS] = {{0}};
	struct engine_load load;
	(void)state;

	struct engine_options options = wide("llama");
	run_all(&options, false, plain, &load);
	assert_int_equal(load.drafted_tokens_total, 0);
	for (size_t way = 0; way < sizeof(ways) / sizeof(ways[0]); way++) {
		struct buf guessed[TEXTS] = {{0}};
		int parted = 0;
		options.speculate = str_from(ways[way].speculate);
		options.draft_path = ways[way].draft ? str_from(model_path(ways[way].draft)) : (struct str){0};
		run_all(&options, true, guessed, &load);
		for (int i = 0; i < TEXTS; i++) {
			bool drawn = i / PROMPTS == 1 || i / PROMPTS == 2;
			bool same = str_equal(buf_str(&plain[i]), buf_str(&guessed[i]));
			parted += drawn && !same;
			if (!drawn && !same)
				fail_msg("%s %s, text %d:\n" STR_FMT "\n" STR_FMT, ways[way].speculate,
				         ways[way].draft ? ways[way].draft : "", i, STR_ARG(buf_str(&plain[i])),
				         STR_ARG(buf_str(&guessed[i])));
			buf_fini(&guessed[i]);
		}
		assert_in_range(parted, 0, 1);
		assert_true(load.drafted_tokens_total > 50);
		if ((double)load.accepted_tokens_total < ways[way].rate * (double)load.drafted_tokens_total)
			fail_msg("%s %s: %llu of %llu guesses came true", ways[way].speculate,
			         ways[way].draft ? ways[way].draft : "", (unsigned long long)load.accepted_tokens_total,
			         (unsigned long long)load.drafted_tokens_total);
	}
	for (int i = 0; i < TEXTS; i++)
		buf_fini(&plain[i]);
}

static bool all_run(void *arg)
{
	struct ask *asks = arg;

	for (int i = 0; i < 10; i++)
		if (asks[i].texts < 3)
			return false;
	return true;
}

static void test_a_busy_batch_has_no_room_for_guesses(void **state)
{
	struct driver d;
	struct engine_options options = wide("llama");
	struct ask asks[10] = {{0}};
	(void)state;

	options.slots = 10;
	options.speculate = STR("ngram");
	driver_start(&d, &options);
	engine_llama_draft_always(d.engine);
	for (int i = 0; i < 10; i++) {
		struct engine_params p = prompt_params(i % PROMPTS, 0);
		p.max_tokens = i < 9 ? 400 : 300;
		ask_start(&asks[i], &d, &p);
	}
	driver_until(&d, all_run, asks);
	uint64_t before = engine_load(d.engine).drafted_tokens_total;
	ask_wait(&asks[9]); /* until then all ten ran */
	assert_int_equal(engine_load(d.engine).drafted_tokens_total, before);
	for (int i = 0; i < 10; i++) {
		ask_wait(&asks[i]);
		ask_fini(&asks[i]);
	}
	driver_fini(&d);
}

static void test_what_cannot_guess_is_refused_with_words(void **state)
{
	static const struct {
		const char *model, *speculate, *draft, *words;
		bool deterministic;
	} bad[] = {
	    {"llama", "guess", NULL, "none, ngram or draft", false},
	    {"llama", "draft", NULL, "draft_path", false},
	    {"llama", "ngram", NULL, "exclude each other", true},
	    {"llama", "draft", "missing", "cannot open", false},
	    {"llama", "draft", "cut", "cannot load the draft model", false},
	    {"llama", "draft", "small-vocabulary", "cannot guess", false},
	    {"gemma3", "ngram", NULL, "step back", false},
	};
	(void)state;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct engine_options options = wide(bad[i].model);
		struct driver d = {0};
		struct error err = {0};
		options.speculate = str_from(bad[i].speculate);
		options.deterministic = bad[i].deterministic;
		if (bad[i].draft)
			options.draft_path = str_from(model_path(bad[i].draft));
		if (i < 3) {
			assert_int_equal(loop_new(&d.loop), 0);
			assert_int_equal(engine_new(d.loop, &options, NULL, NULL, &d.engine, &err), E_INVAL);
			loop_free(d.loop);
		} else {
			driver_init(&d, &options);
			assert_int_equal(d.state, ENGINE_FAILED);
			err = d.err;
			driver_fini(&d);
		}
		if (!strstr(err.text, bad[i].words))
			fail_msg("%s %s: %s", bad[i].speculate, bad[i].draft ? bad[i].draft : "", err.text);
	}
}

/* ---- the deterministic profile ------------------------------------------------------------------ */

enum { SAME = 4 };

static struct engine_params same_params(int i)
{
	static char long_prompt[SAME][700];
	struct engine_params p;
	size_t len = 0;

	for (int word = 0; word < 60 + 20 * i; word++)
		len += (size_t)snprintf(long_prompt[i] + len, sizeof(long_prompt[i]) - len, " %c%d", 'a' + word % 26,
		                        (word * (i + 3)) % 10);
	p = completion(long_prompt[i], 40);
	p.sampling.temperature = i % 2 ? 1.2 : 0;
	p.sampling.seed = 77;
	p.sampling.has_seed = true;
	p.logprobs = 5;
	return p;
}

struct load_ask {
	struct ask ask;
	char prompt[400];
	bool used;
};

static void load_one(struct driver *d, struct load_ask *one, struct rng *rng)
{
	int words = (int)(rng_next(rng) % 90) + 1, len = 0;

	if (one->used && !one->ask.done && rng_next(rng) % 3 == 0) {
		engine_cancel(one->ask.request);
	} else if (one->used && !one->ask.done) {
		return;
	}
	if (one->used)
		ask_fini(&one->ask);
	*one = (struct load_ask){.used = true};
	for (int i = 0; i < words; i++)
		len += snprintf(one->prompt + len, sizeof(one->prompt) - (size_t)len, " %c",
		                'a' + (int)(rng_next(rng) % 26));
	struct engine_params p = completion(one->prompt, (int32_t)(rng_next(rng) % 60) + 1);
	p.sampling.temperature = 1;
	ask_start(&one->ask, d, &p);
}

static void test_deterministic_requests_give_the_same_bits_under_any_load(void **state)
{
	static const char *const models[] = {"llama", "gemma3"};
	static struct noted alone[SAME], again;
	static struct load_ask others[6];
	struct rng rng;
	(void)state;

	rng_init(&rng, 5);
	for (size_t m = 0; m < sizeof(models) / sizeof(models[0]); m++) {
		struct engine_options options = wide(models[m]);
		struct driver d;
		options.deterministic = true;
		driver_start(&d, &options);
		for (int i = 0; i < SAME; i++) {
			struct ask a = {.on_text = note, .arg = &alone[i]};
			alone[i] = (struct noted){0};
			say(&d, &a, same_params(i));
			assert_true(alone[i].top_count > 10);
			ask_fini(&a);
		}
		memset(others, 0, sizeof(others));
		for (int i = 0; i < SAME; i++) {
			struct ask a = {.on_text = note, .arg = &again};
			struct engine_params p = same_params(i);
			again = (struct noted){0};
			p.priority = -1; /* not behind the whole load */
			for (int o = 0; o < 6; o++)
				load_one(&d, &others[o], &rng);
			driver_turns(&d, (int64_t)(rng_next(&rng) % 8000));
			ask_start(&a, &d, &p);
			while (!a.done) {
				load_one(&d, &others[rng_next(&rng) % 6], &rng);
				driver_turns(&d, (int64_t)(rng_next(&rng) % 4000) + 500);
			}
			assert_int_equal(again.top_count, alone[i].top_count);
			assert_memory_equal(again.tokens, alone[i].tokens, sizeof(again.tokens));
			assert_memory_equal(again.logprobs, alone[i].logprobs, sizeof(again.logprobs));
			assert_memory_equal(again.tops, alone[i].tops, sizeof(again.tops));
			ask_fini(&a);
		}
		for (int o = 0; o < 6; o++) {
			if (!others[o].ask.done)
				engine_cancel(others[o].ask.request);
			ask_fini(&others[o].ask);
		}
		driver_fini(&d);
	}
}

/* ---- prompts ----------------------------------------------------------------------------------- */

/* The same batches here and there, so the same bits. */
static void test_logits_are_those_of_plain_llama_cpp(void **state)
{
	static const char *const models[] = {"llama", "qwen2", "llama-moe"};
	static struct noted noted;
	(void)state;

	for (size_t m = 0; m < sizeof(models) / sizeof(models[0]); m++) {
		struct engine_options options = wide(models[m]);
		struct driver d;
		struct ask a = {.on_text = note, .arg = &noted};
		struct engine_params p = completion("Once upon a time there was a logit", 50);
		noted = (struct noted){0};
		driver_start(&d, &options);
		p.logprobs = LIMIT_LOGPROBS;
		say(&d, &a, p);
		struct reference_rows rows =
		    reference_logits(model_path(models[m]), "Once upon a time there was a logit", 50);
		assert_true(rows.count > 10);
		assert_int_equal(rows.count, noted.top_count);
		for (int32_t i = 0; i < rows.count; i++) {
			const float *row = rows.logits + (size_t)i * (size_t)rows.vocab;
			struct sample_candidate top[LIMIT_LOGPROBS];
			float log_sum = sample_log_sum(row, rows.vocab);
			sample_top(row, rows.vocab, LIMIT_LOGPROBS, top);
			assert_int_equal(noted.tokens[i], rows.tokens[i]);
			for (int j = 0; j < LIMIT_LOGPROBS; j++)
				assert_true(noted.tops[i][j] == top[j].value - log_sum);
		}
		reference_rows_fini(&rows);
		ask_fini(&a);
		driver_fini(&d);
	}
}

static void test_an_echoed_prompt_brings_its_logprobs(void **state)
{
	static struct noted noted;
	struct buf prompt = {0};
	struct driver d;
	(void)state;

	for (int i = 0; i < 70; i++)
		buf_printf(&prompt, " %c%d", 'a' + i % 26, i % 7);
	buf_append(&prompt, "", 1);
	struct reference_rows rows = reference_logits(model_path("llama"), prompt.base, 0);
	int32_t n = rows.count;
	assert_in_range(n, 71, 300);
	for (int way = 0; way < 3; way++) { /* the second time its KV is there; the third is deterministic */
		struct engine_options options = wide("llama");
		options.deterministic = way == 2;
		if (way != 1)
			driver_start(&d, &options);
		struct ask a = {.on_text = note, .arg = &noted}, busy = {0};
		struct engine_params p = completion(prompt.base, way == 1 ? 0 : 5), q = completion("Busy", 300);
		noted = (struct noted){0};
		ask_start(&busy, &d, &q);
		p.echo = true;
		p.logprobs = 2;
		say(&d, &a, p);
		assert_memory_equal(a.text.base, prompt.base, prompt.len - 1);
		assert_int_equal(noted.top_count, n + a.last.completion_tokens);
		assert_true(isnan(noted.logprobs[0]));
		for (int32_t i = 1; i < n; i++) {
			const float *row = rows.logits + (size_t)(i - 1) * (size_t)rows.vocab;
			float expected = row[rows.tokens[i]] - sample_log_sum(row, rows.vocab);
			if (fabsf(noted.logprobs[i] - expected) > 1e-3f)
				fail_msg("token %d: %g, not %g", i, noted.logprobs[i], expected);
		}
		ask_wait(&busy);
		ask_fini(&busy);
		ask_fini(&a);
		if (way != 0)
			driver_fini(&d);
	}
	reference_rows_fini(&rows);
	buf_fini(&prompt);
}

static void test_prompts_may_be_tokens_and_answers_are_told_as_tokens(void **state)
{
	static struct noted noted, again;
	struct engine_options options = wide("llama");
	struct driver d;
	struct ask text = {.on_text = note, .arg = &noted}, tokens = {.on_text = note, .arg = &again}, ids = {0},
		   bad = {0}, back = {0};
	static int32_t copied[128];
	(void)state;

	driver_start(&d, &options);
	struct engine_params p = completion("Once upon a time", 40);
	say(&d, &text, p);
	assert_int_equal(noted.count, 40);
	p = completion("Once upon a time", 0);
	p.task = ENGINE_TOKENIZE;
	ids.on_text = NULL;
	ask_start(&ids, &d, &p);
	ask_wait(&ids);
	struct llama_settings settings = {.model_path = model_path("llama")};
	atomic_bool stop = false;
	struct llama_box *box;
	struct error err;
	int32_t *got, count;
	assert_int_equal(llama_box_load(&settings, &stop, &box, &err), 0);
	assert_int_equal(llama_box_tokenize(box, STR("Once upon a time"), 256, &got, &count, &err), 0);
	llama_box_unref(box);
	assert_in_range(count, 1, 128);
	memcpy(copied, got, (size_t)count * sizeof(*got));
	free(got);
	p = completion("", 40);
	p.prompt_tokens = copied;
	p.prompt_token_count = (size_t)count;
	p.echo = true;
	say(&d, &tokens, p);
	assert_int_equal(tokens.prompt_tokens, text.prompt_tokens);
	assert_memory_equal(again.tokens, noted.tokens, 40 * sizeof(int32_t));
	assert_memory_equal(tokens.text.base, "Once upon a time", 16);
	assert_string_equal(tokens.text.base + 16, text.text.base);
	/* The tokens' own text is the answer's. */
	p = completion("", 0);
	p.task = ENGINE_DETOKENIZE;
	p.prompt_tokens = noted.tokens;
	p.prompt_token_count = noted.count;
	say(&d, &back, p);
	copied[0] = 1 << 20;
	p = completion("", 40);
	p.prompt_tokens = copied;
	p.prompt_token_count = 2;
	say(&d, &bad, p);
	assert_int_equal(bad.err.code, E_INVAL);
	ask_fini(&text);
	ask_fini(&tokens);
	ask_fini(&ids);
	ask_fini(&bad);
	ask_fini(&back);
	driver_fini(&d);
}

static void test_gaps_are_filled_where_the_model_was_trained_to(void **state)
{
	struct engine_options options = wide("infill");
	struct driver d;
	struct ask filled = {0}, plain = {0}, other = {0}, refused = {0};
	(void)state;

	driver_start(&d, &options);
	assert_true(engine_info(d.engine)->infill);
	say(&d, &plain, completion("int main(", 20));
	struct engine_params p = completion("int main(", 20);
	p.suffix = STR(") { return 0; }");
	say(&d, &filled, p);
	assert_int_equal(filled.last.completion_tokens, 20);
	assert_true(filled.prompt_tokens >= plain.prompt_tokens + 4); /* three marks and the suffix */
	p.suffix = STR(") { abort(); }");
	say(&d, &other, p);
	assert_string_not_equal(filled.text.base, other.text.base);
	driver_fini(&d);
	options = wide("llama");
	driver_start(&d, &options);
	assert_false(engine_info(d.engine)->infill);
	say(&d, &refused, p);
	assert_int_equal(refused.err.code, E_INVAL);
	assert_non_null(strstr(refused.err.text, "suffix"));
	driver_fini(&d);
	ask_fini(&plain);
	ask_fini(&filled);
	ask_fini(&other);
	ask_fini(&refused);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_guesses_change_nothing_of_what_is_said),
	    cmocka_unit_test(test_a_busy_batch_has_no_room_for_guesses),
	    cmocka_unit_test(test_what_cannot_guess_is_refused_with_words),
	    cmocka_unit_test(test_deterministic_requests_give_the_same_bits_under_any_load),
	    cmocka_unit_test(test_logits_are_those_of_plain_llama_cpp),
	    cmocka_unit_test(test_an_echoed_prompt_brings_its_logprobs),
	    cmocka_unit_test(test_prompts_may_be_tokens_and_answers_are_told_as_tokens),
	    cmocka_unit_test(test_gaps_are_filled_where_the_model_was_trained_to),
	};
	if (!getenv("MDN_TEST_MODELS"))
		return 77; /* skipped */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
