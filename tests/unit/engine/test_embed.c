/* SPDX-License-Identifier: Apache-2.0 */
/* test_embed.c - vectors, ranks, tokens and texts of the llama engine, on tiny random models (models.py), against the
 * plainest use of llama.h. */
#include "driver.h"
#include "reference.h"

#include "base/clock.h"
#include "base/limits.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { SIZE = 64 }; /* of the models' vectors */

struct got {
	struct driver *driver;
	struct engine_request *request;
	int started, done;
	float *vectors;
	size_t size, count;
	int32_t tokens[4096];
	size_t token_count, piece_count;
	struct buf text, pieces;
	int32_t prompt_tokens;
	struct error err;
};

static void start_with(struct driver *d, const char *name, struct str pooling)
{
	struct engine_options options = options_for(name);

	options.pooling = pooling;
	options.in_process = true;
	driver_start(d, &options);
}

static void start(struct driver *d, const char *name)
{
	start_with(d, name, (struct str){0});
}

static void on_event(void *arg, const struct engine_event *e)
{
	struct got *g = arg;

	assert_int_equal(g->done, 0);
	assert_int_not_equal(e->kind, ENGINE_TEXT);
	if (e->kind == ENGINE_STARTED) {
		g->started++;
		return;
	}
	g->done = 1;
	g->prompt_tokens = e->prompt_tokens;
	if (e->err)
		g->err = *e->err;
	g->size = e->vector_size;
	g->count = e->vector_count;
	if (e->vectors) {
		g->vectors = mem_new(g->size * g->count * sizeof(float));
		memcpy(g->vectors, e->vectors, g->size * g->count * sizeof(float));
	}
	g->token_count = e->token_count;
	for (size_t i = 0; i < e->token_count && i < 4096; i++)
		g->tokens[i] = e->tokens[i];
	g->piece_count = e->logprob_count;
	for (size_t i = 0; i < e->logprob_count; i++)
		buf_append_str(&g->pieces, e->logprobs[i].token);
	buf_append_str(&g->text, e->text);
}

static void got_fini(struct got *g)
{
	free(g->vectors);
	buf_fini(&g->text);
	buf_fini(&g->pieces);
	*g = (struct got){0};
}

static void ask(struct driver *d, struct got *g, const struct engine_params *p)
{
	struct error err = {0};

	got_fini(g);
	g->driver = d;
	if (engine_submit(d->engine, p, on_event, g, &g->request, &err) < 0)
		fail_msg("engine_submit: %s", err.text);
}

static bool is_done(void *arg)
{
	return ((struct got *)arg)->done;
}

static void wait_for(struct got *g)
{
	driver_until(g->driver, is_done, g);
	if (g->err.code)
		fail_msg("%s", g->err.text);
}

static struct engine_params embed(const struct str *inputs, size_t count)
{
	return (struct engine_params){.task = ENGINE_EMBED, .inputs = inputs, .input_count = count};
}

static double cosine(const float *a, const float *b, size_t size)
{
	double ab = 0, aa = 0, bb = 0;

	for (size_t i = 0; i < size; i++) {
		ab += (double)a[i] * (double)b[i];
		aa += (double)a[i] * (double)a[i];
		bb += (double)b[i] * (double)b[i];
	}
	return ab / sqrt(aa * bb);
}

static double length(const float *a, size_t size)
{
	double sum = 0;

	for (size_t i = 0; i < size; i++)
		sum += (double)a[i] * (double)a[i];
	return sqrt(sum);
}

static const char *const embedders[] = {"bert", "nomic-bert", "qwen3-embedding"};

static void test_vectors_are_what_llama_cpp_computes(void **state)
{
	static const char *const texts[] = {"the sea", "A ship sails in the light of the moon, slowly.", "x",
	                                    "12 words that are not in it: zebra, quartz, jumping!"};
	(void)state;

	for (size_t i = 0; i < sizeof(embedders) / sizeof(embedders[0]); i++) {
		struct driver d;
		struct str inputs[4];
		struct got g = {0};

		start(&d, embedders[i]);
		assert_int_equal(engine_info(d.engine)->embedding_size, SIZE);
		assert_true(engine_info(d.engine)->no_generation);
		assert_false(engine_info(d.engine)->rerank);
		for (size_t t = 0; t < 4; t++)
			inputs[t] = str_from(texts[t]);
		struct engine_params p = embed(inputs, 4);
		ask(&d, &g, &p);
		wait_for(&g);
		assert_int_equal(g.started, 1);
		assert_int_equal(g.size, SIZE);
		assert_int_equal(g.count, 4);
		for (size_t t = 0; t < 4; t++) {
			float expected[SIZE];
			assert_int_equal(reference_vector(model_path(embedders[i]), texts[t], NULL, 0, expected, SIZE),
			                 SIZE);
			assert_true(fabs(length(g.vectors + t * SIZE, SIZE) - 1) < 1e-5);
			assert_true(cosine(g.vectors + t * SIZE, expected, SIZE) > 0.99999);
		}
		assert_true(cosine(g.vectors, g.vectors + SIZE, SIZE) < 0.9999);
		got_fini(&g);
		driver_fini(&d);
	}
}

/* 300 texts of all lengths up to the longest, many in a batch, and each is where it belongs. */
static void test_many_inputs_share_batches_and_keep_their_places(void **state)
{
	enum { COUNT = 300 };
	struct driver d;
	struct got all = {0}, one = {0};
	struct buf text[COUNT] = {{0}};
	struct str inputs[COUNT];
	(void)state;

	for (size_t m = 0; m < sizeof(embedders) / sizeof(embedders[0]); m++) {
		start(&d, embedders[m]);
		for (int i = 0; i < COUNT; i++) {
			buf_clear(&text[i]);
			buf_printf(&text[i], "%d", i);
			for (int j = 0; j < (i % 50 == 7 ? 150 : i % 11); j++)
				buf_append_str(&text[i], j % 3 ? STR(" sea") : STR(" moon"));
			inputs[i] = buf_str(&text[i]);
		}
		uint64_t before = engine_load(d.engine).prompt_tokens_total;
		struct engine_params p = embed(inputs, COUNT);
		ask(&d, &all, &p);
		wait_for(&all);
		assert_int_equal(engine_load(d.engine).prompt_tokens_total - before, all.prompt_tokens);
		for (int i = 0; i < COUNT; i += 23) {
			p = embed(&inputs[i], 1);
			ask(&d, &one, &p);
			wait_for(&one);
			assert_true(cosine(one.vectors, all.vectors + i * SIZE, SIZE) > 0.9999);
		}
		assert_int_equal(engine_load(d.engine).running, 0);
		assert_int_equal(engine_load(d.engine).tokens_to_prefill, 0);
		got_fini(&all);
		got_fini(&one);
		driver_fini(&d);
	}
	for (int i = 0; i < COUNT; i++)
		buf_fini(&text[i]);
}

static void test_a_large_request_does_not_stand_before_a_small_one(void **state)
{
	struct driver d;
	struct got large = {0}, small = {0};
	struct str *inputs = mem_new(LIMIT_INPUTS * sizeof(*inputs));
	(void)state;

	start(&d, "bert");
	for (int i = 0; i < LIMIT_INPUTS; i++)
		inputs[i] = STR("the sea and the moon and a ship and more words than one");
	struct engine_params p = embed(inputs, LIMIT_INPUTS);
	ask(&d, &large, &p);
	driver_turns(&d, 30 * 1000);
	p = embed(inputs, 1);
	ask(&d, &small, &p);
	wait_for(&small);
	assert_int_equal(large.done, 0);
	engine_cancel(large.request);
	/* The thread is free at once. */
	int64_t begun = clock_mono_us();
	ask(&d, &small, &p);
	wait_for(&small);
	assert_true(clock_mono_us() - begun < 2 * US_PER_S);
	assert_int_equal(large.done, 0);
	got_fini(&small);
	got_fini(&large);
	free(inputs);
	driver_fini(&d);
}

static void test_a_tenant_with_many_requests_gets_no_more_than_one_with_few(void **state)
{
	enum { MANY = 6, INPUTS = 700 };
	struct driver d;
	struct got flood[MANY] = {{0}}, quiet = {0}, urgent = {0};
	struct str *inputs = mem_new(INPUTS * sizeof(*inputs));
	(void)state;

	start(&d, "bert");
	for (int i = 0; i < INPUTS; i++)
		inputs[i] = STR("the sea and the moon and a ship and more words than one");
	struct engine_params p = embed(inputs, INPUTS);
	p.tenant = STR("flood");
	for (int i = 0; i < MANY; i++)
		ask(&d, &flood[i], &p);
	driver_turns(&d, 20 * 1000);
	p = embed(inputs, 60);
	p.tenant = STR("quiet");
	ask(&d, &quiet, &p);
	p.tenant = STR("flood");
	p.service_class = ENGINE_INTERACTIVE;
	p.input_count = 1;
	ask(&d, &urgent, &p);
	wait_for(&urgent);
	assert_int_equal(quiet.done, 0); /* a class above goes first */
	wait_for(&quiet);
	for (int i = 0; i < MANY; i++) {
		assert_int_equal(flood[i].done, 0);
		engine_cancel(flood[i].request);
		got_fini(&flood[i]);
	}
	got_fini(&quiet);
	got_fini(&urgent);
	free(inputs);
	driver_fini(&d);
}

static void test_cancel_and_free_at_any_time(void **state)
{
	struct driver d;
	struct got g[8] = {{0}};
	struct str inputs[64];
	(void)state;

	start(&d, "qwen3-embedding");
	for (int i = 0; i < 64; i++)
		inputs[i] = STR("Once upon a time there was a sea without a shore, and nobody had ever seen it");
	struct engine_params p = embed(inputs, 64);
	for (int after = 0; after < 12; after++) {
		ask(&d, &g[0], &p);
		driver_turns(&d, after * 1000);
		if (!g[0].done)
			engine_cancel(g[0].request);
	}
	for (int i = 0; i < 8; i++)
		ask(&d, &g[i], &p);
	driver_turns(&d, 5000);
	driver_fini(&d);
	for (int i = 0; i < 8; i++) {
		assert_int_equal(g[i].done, 1);
		got_fini(&g[i]);
	}
}

static int32_t plain_tokens(struct driver *d, struct str text, int32_t *to)
{
	struct engine_params p = {.task = ENGINE_TOKENIZE, .prompt = text, .plain_tokens = true};
	struct got g = {0};

	ask(d, &g, &p);
	wait_for(&g);
	int32_t count = (int32_t)g.token_count;
	memcpy(to, g.tokens, g.token_count * sizeof(*to));
	got_fini(&g);
	return count;
}

static void test_ranks_are_the_models_of_query_and_document(void **state)
{
	static const char *const documents[] = {"the ship and the moon", "", "some words about nothing at all"};
	struct driver d;
	struct got g = {0};
	struct str inputs[3];
	struct engine_params p = {
	    .task = ENGINE_RERANK, .prompt = STR("what is on the sea"), .inputs = inputs, .input_count = 3};
	(void)state;

	start(&d, "bert-rank");
	assert_true(engine_info(d.engine)->rerank);
	assert_int_equal(engine_info(d.engine)->embedding_size, 0);
	for (int i = 0; i < 3; i++)
		inputs[i] = str_from(documents[i]);
	ask(&d, &g, &p);
	wait_for(&g);
	assert_int_equal(g.size, 1);
	assert_int_equal(g.count, 3);
	for (int i = 0; i < 3; i++) {
		int32_t pair[64] = {2}; /* [CLS] */
		int32_t count = 1;
		float expected;
		count += plain_tokens(&d, p.prompt, pair + count);
		pair[count++] = 3; /* [SEP] */
		count += plain_tokens(&d, inputs[i], pair + count);
		reference_vector(model_path("bert-rank"), NULL, pair, count, &expected, 1);
		assert_true(fabsf(g.vectors[i] - expected) < 1e-4f * (1 + fabsf(expected)));
	}
	assert_true(fabsf(g.vectors[0] - g.vectors[2]) > 1e-4f);
	/* A document cannot pretend to be more than one. */
	inputs[0] = STR("the ship[SEP]and the moon");
	float plain = g.vectors[0];
	ask(&d, &g, &p);
	wait_for(&g);
	assert_true(fabsf(g.vectors[0] - plain) > 1e-5f);
	got_fini(&g);
	driver_fini(&d);
}

static void test_tokens_in_place_of_text_give_the_same_vectors(void **state)
{
	struct driver d;
	struct got tokens = {0}, text = {0}, again = {0};
	struct str inputs[] = {STR("the ship"), STR("a moon over the sea")};
	int32_t all[64], lengths[2];
	size_t count = 0;
	(void)state;

	start(&d, "bert");
	for (int i = 0; i < 2; i++) {
		struct engine_params p = {.task = ENGINE_TOKENIZE, .prompt = inputs[i]};
		ask(&d, &tokens, &p);
		wait_for(&tokens);
		assert_int_equal(tokens.started, 0);
		memcpy(all + count, tokens.tokens, tokens.token_count * sizeof(int32_t));
		lengths[i] = (int32_t)tokens.token_count;
		count += tokens.token_count;
	}
	struct engine_params p = embed(inputs, 2);
	ask(&d, &text, &p);
	wait_for(&text);
	p = (struct engine_params){.task = ENGINE_EMBED,
	                           .prompt_tokens = all,
	                           .prompt_token_count = count,
	                           .input_lengths = lengths,
	                           .input_count = 2};
	ask(&d, &again, &p);
	wait_for(&again);
	assert_memory_equal(text.vectors, again.vectors, 2 * SIZE * sizeof(float));
	assert_int_equal(again.prompt_tokens, count);
	all[3] = 1 << 20;
	ask(&d, &again, &p);
	driver_until(&d, is_done, &again);
	assert_int_equal(again.err.code, E_INVAL);
	assert_non_null(strstr(again.err.text, "no token"));
	got_fini(&tokens);
	got_fini(&text);
	got_fini(&again);
	driver_fini(&d);
}

static void test_tokens_and_text_go_round(void **state)
{
	struct driver d;
	struct got g = {0}, back = {0};
	struct engine_params p = {
	    .task = ENGINE_TOKENIZE, .prompt = STR("Grüße, 世界! <|im_start|> x"), .pieces = true};
	(void)state;

	start(&d, "llama");
	ask(&d, &g, &p);
	wait_for(&g);
	assert_in_range(g.token_count, 6, 40);
	assert_int_equal(g.piece_count, g.token_count);
	assert_int_equal(g.pieces.len, p.prompt.len);
	assert_memory_equal(g.pieces.base, p.prompt.base, p.prompt.len);
	struct engine_params q = {
	    .task = ENGINE_DETOKENIZE, .prompt_tokens = g.tokens, .prompt_token_count = g.token_count};
	ask(&d, &back, &q);
	wait_for(&back);
	assert_int_equal(back.text.len, p.prompt.len);
	assert_memory_equal(back.text.base, p.prompt.base, p.prompt.len);
	/* Half a character is still valid UTF-8 outside. */
	for (size_t n = 1; n < g.token_count; n++) {
		q.prompt_token_count = n;
		ask(&d, &back, &q);
		wait_for(&back);
		assert_int_equal(utf8_valid_prefix(buf_str(&back.text)), back.text.len);
	}
	/* Messages go through the template, with and without the words an answer begins with. */
	p = (struct engine_params){.task = ENGINE_TOKENIZE,
	                           .messages_json = STR("[{\"role\":\"user\",\"content\":\"Hi\"}]"),
	                           .plain_tokens = true};
	ask(&d, &g, &p);
	wait_for(&g);
	size_t with = g.token_count;
	p.no_generation_prompt = true;
	ask(&d, &g, &p);
	wait_for(&g);
	assert_true(g.token_count < with);
	got_fini(&g);
	got_fini(&back);
	driver_fini(&d);
	start(&d, "bert");
	p = (struct engine_params){.task = ENGINE_TOKENIZE, .prompt = STR("the sea")};
	ask(&d, &g, &p);
	wait_for(&g);
	size_t whole = g.token_count;
	assert_int_equal(g.tokens[0], 2); /* [CLS] */
	p.plain_tokens = true;
	ask(&d, &g, &p);
	wait_for(&g);
	assert_int_equal(g.token_count, whole - 2);
	got_fini(&g);
	driver_fini(&d);
}

static void refuse(struct driver *d, struct engine_params p, int code, const char *words)
{
	struct got g = {.driver = d};
	struct error err = {0};

	if (engine_submit(d->engine, &p, on_event, &g, &g.request, &err) == 0) {
		driver_until(d, is_done, &g);
		err = g.err;
	}
	assert_int_equal(err.code, code);
	if (!strstr(err.text, words))
		fail_msg("\"%s\" does not say \"%s\"", err.text, words);
	got_fini(&g);
}

static void test_what_a_model_cannot_do_is_said(void **state)
{
	struct driver d;
	struct buf text = {0};
	struct str inputs[2] = {STR("the sea"), {0}};
	int32_t bad = -1;
	(void)state;

	start(&d, "llama");
	refuse(&d, embed(inputs, 1), E_INVAL, "does not embed");
	refuse(&d, (struct engine_params){.task = ENGINE_RERANK, .inputs = inputs, .input_count = 1}, E_INVAL,
	       "does not rank");
	refuse(&d, (struct engine_params){.task = ENGINE_DETOKENIZE, .prompt_tokens = &bad, .prompt_token_count = 1},
	       E_INVAL, "no token");
	driver_fini(&d);
	start(&d, "bert");
	refuse(&d, chat_of("[{\"role\":\"user\",\"content\":\"Hi\"}]", 1), E_INVAL, "/v1/embeddings");
	refuse(&d, completion("Hi", 1), E_INVAL, "/v1/embeddings");
	while (text.len < 3000)
		buf_append_str(&text, STR("sea and "));
	inputs[1] = buf_str(&text);
	refuse(&d, embed(inputs, 2), E_LIMIT, "input 1 has");
	while (text.len < 8 << 20)
		buf_append_str(&text, STR("sea and "));
	inputs[1] = buf_str(&text);
	refuse(&d, embed(inputs, 2), E_LIMIT, "shorten");
	driver_fini(&d);
	start(&d, "qwen3-embedding");
	inputs[1] = (struct str){0};
	refuse(&d, embed(inputs, 2), E_INVAL, "input 1 is empty");
	driver_fini(&d);
	start(&d, "bert-rank");
	refuse(&d, embed(inputs, 1), E_INVAL, "/v1/rerank");
	inputs[1] = buf_str(&text);
	refuse(&d,
	       (struct engine_params){.task = ENGINE_RERANK, .prompt = inputs[1], .inputs = inputs, .input_count = 1},
	       E_LIMIT, "shorten");
	driver_fini(&d);
	buf_fini(&text);
}

/* What a hostile client may send: separators, controls, broken UTF-8, one endless word. */
static void test_strange_texts_embed_or_are_refused(void **state)
{
	static const char *const strange[] = {"\xe2\x80\xa8\xe2\x80\xa9\xc2\xa0\xe3\x80\x80", "\x01\x02\x7f",
	                                      "\xff\xfe\xc3", "[CLS][SEP][MASK][PAD]",
	                                      "\xf0\x9f\x98\x80\xe2\x80\x8d\xcc\x81"};
	struct driver d;
	struct got g = {0};
	struct buf word = {0};
	(void)state;

	for (int i = 0; i < 100000; i++)
		buf_append_str(&word, STR("q"));
	start(&d, "bert");
	for (size_t i = 0; i < 6; i++) {
		struct str input = i < 5 ? str_from(strange[i]) : buf_str(&word);
		struct engine_params p = embed(&input, 1);
		ask(&d, &g, &p);
		driver_until(&d, is_done, &g);
		assert_true(g.err.code == 0 || g.err.code == E_LIMIT);
	}
	got_fini(&g);
	buf_fini(&word);
	driver_fini(&d);
}

static void test_dimensions_are_the_first_ones_of_length_one(void **state)
{
	struct driver d;
	struct got whole = {0}, part = {0};
	struct str input = STR("the sea");
	struct engine_params p = embed(&input, 1);
	(void)state;

	start(&d, "bert");
	ask(&d, &whole, &p);
	wait_for(&whole);
	p.dimensions = 16;
	ask(&d, &part, &p);
	wait_for(&part);
	assert_int_equal(part.size, 16);
	assert_true(fabs(length(part.vectors, 16) - 1) < 1e-6);
	assert_true(cosine(part.vectors, whole.vectors, 16) > 0.999999);
	p.dimensions = SIZE + 1;
	refuse(&d, p, E_INVAL, "vectors have 64");
	got_fini(&whole);
	got_fini(&part);
	driver_fini(&d);
}

static void test_the_synthetic_engine_embeds_always_the_same_way(void **state)
{
	const struct engine_options options = {
	    .kind = STR("synthetic"), .slots = 2, .prefill_us_per_token = 1000, .context_tokens = 64};
	struct str inputs[] = {STR("the sea"), STR("the moon"), STR("the sea")};
	struct engine_params p = embed(inputs, 3);
	struct got g = {0}, again = {0};
	struct driver d;
	(void)state;

	driver_init(&d, &options);
	assert_int_equal(engine_info(d.engine)->embedding_size, 32);
	int64_t begun = clock_mono_us();
	ask(&d, &g, &p);
	wait_for(&g);
	assert_int_equal(g.prompt_tokens, 6);
	assert_true(clock_mono_us() - begun >= 5000);
	assert_memory_equal(g.vectors, g.vectors + 64, 32 * sizeof(float));
	assert_true(fabs(length(g.vectors, 32) - 1) < 1e-5);
	assert_true(fabs(cosine(g.vectors, g.vectors + 32, 32)) < 0.9);
	p = (struct engine_params){.task = ENGINE_RERANK, .prompt = STR("q"), .inputs = inputs, .input_count = 3};
	ask(&d, &again, &p);
	wait_for(&again);
	assert_int_equal(again.size, 1);
	assert_true(again.vectors[0] == again.vectors[2] && again.vectors[0] != again.vectors[1]);
	refuse(&d, (struct engine_params){.task = ENGINE_TOKENIZE, .prompt = STR("x")}, E_UNSUPPORTED, "vocabulary");
	/* Canceled while it is computed: the next one goes on. */
	p = embed(inputs, 3);
	ask(&d, &again, &p);
	driver_turns(&d, 1000);
	engine_cancel(again.request);
	ask(&d, &again, &p);
	wait_for(&again);
	assert_memory_equal(g.vectors, again.vectors, 96 * sizeof(float));
	assert_true(engine_load(d.engine).kv_usage == 0);
	got_fini(&g);
	got_fini(&again);
	driver_fini(&d);
}

static void test_a_generating_model_embeds_when_told_how(void **state)
{
	struct driver d;
	struct got g = {0};
	struct str inputs[] = {STR("Once upon a time"), STR("In the beginning")};
	struct engine_params p = embed(inputs, 2);
	(void)state;

	start_with(&d, "llama", STR("mean"));
	assert_int_equal(engine_info(d.engine)->embedding_size, SIZE);
	assert_false(engine_info(d.engine)->chat);
	ask(&d, &g, &p);
	wait_for(&g);
	assert_true(fabs(length(g.vectors, SIZE) - 1) < 1e-5);
	assert_true(cosine(g.vectors, g.vectors + SIZE, SIZE) < 0.99999);
	got_fini(&g);
	driver_fini(&d);
	/* A model's own pooling stands. */
	start_with(&d, "bert", STR("mean"));
	float expected[SIZE];
	reference_vector(model_path("bert"), "Once upon a time", NULL, 0, expected, SIZE);
	ask(&d, &g, &p);
	wait_for(&g);
	assert_true(cosine(g.vectors, expected, SIZE) > 0.99999);
	got_fini(&g);
	driver_fini(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_vectors_are_what_llama_cpp_computes),
	    cmocka_unit_test(test_many_inputs_share_batches_and_keep_their_places),
	    cmocka_unit_test(test_a_large_request_does_not_stand_before_a_small_one),
	    cmocka_unit_test(test_a_tenant_with_many_requests_gets_no_more_than_one_with_few),
	    cmocka_unit_test(test_cancel_and_free_at_any_time),
	    cmocka_unit_test(test_ranks_are_the_models_of_query_and_document),
	    cmocka_unit_test(test_tokens_in_place_of_text_give_the_same_vectors),
	    cmocka_unit_test(test_tokens_and_text_go_round),
	    cmocka_unit_test(test_what_a_model_cannot_do_is_said),
	    cmocka_unit_test(test_strange_texts_embed_or_are_refused),
	    cmocka_unit_test(test_dimensions_are_the_first_ones_of_length_one),
	    cmocka_unit_test(test_the_synthetic_engine_embeds_always_the_same_way),
	    cmocka_unit_test(test_a_generating_model_embeds_when_told_how),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
