/* SPDX-License-Identifier: Apache-2.0 */
/* test_embeddings.c - the dialects that do not generate: vectors keep every bit, ranks are sorted, tokens are listed.
 */
#include "asks.h"

#include "base/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { SIZE = 4096 };

static yyjson_doc *answer_of(const struct api_request *r, const struct engine_event *e, const struct dialect *dialect)
{
	struct api_answer a = {
	    .dialect = dialect, .in = r, .id = "x-1", .model = "m:latest", .done = e, .context_tokens = 77};
	struct buf out = {0};
	yyjson_doc *doc;
	struct error err;

	dialect->whole(&out, &a);
	if (json_parse(buf_str(&out), &doc, &err) < 0)
		fail_msg("%s", err.text);
	buf_fini(&out);
	return doc;
}

/* Of all sizes, as bits: what a model may compute, and what it hardly does. */
static void fill(float *to, size_t size)
{
	static const float odd[] = {0,      -0.0f,  1,     -1,     0.5f,        0.1f,         1e-5f,      9.9999999e-6f,
	                            1e-38f, 1e-45f, 3e38f, -3e38f, 0.99999994f, 0.099999994f, 1.0000001f, 123456.789f};
	struct rng rng;

	rng_init(&rng, 7);
	for (size_t i = 0; i < size; i++) {
		uint32_t bits = (uint32_t)rng_next(&rng);
		memcpy(&to[i], &bits, sizeof(bits));
		if (i % 4) /* most are like those of a vector of length 1 */
			to[i] = (float)((double)(bits >> 8) / (1 << 24) - 0.5) / (float)(1 + i % 900);
		if (!isfinite(to[i]))
			to[i] = 0.25f;
		if (i < sizeof(odd) / sizeof(odd[0]))
			to[i] = odd[i];
	}
}

static void test_numbers_keep_every_bit(void **state)
{
	static float vectors[SIZE];
	struct engine_event e = {.vectors = vectors, .vector_size = SIZE / 2, .vector_count = 2, .prompt_tokens = 5};
	struct api_request r;
	(void)state;

	fill(vectors, SIZE);
	assert_taken(&dialect_embeddings, "{\"model\":\"m\",\"input\":[\"a\",\"b\"]}", &r);
	yyjson_doc *doc = answer_of(&r, &e, &dialect_embeddings);
	yyjson_val *data = yyjson_obj_get(yyjson_doc_get_root(doc), "data");
	for (size_t i = 0; i < SIZE; i++) {
		yyjson_val *vector = yyjson_obj_get(yyjson_arr_get(data, i / (SIZE / 2)), "embedding");
		float got = (float)yyjson_get_num(yyjson_arr_get(vector, i % (SIZE / 2)));
		if (got != vectors[i])
			fail_msg("%.9g came back as %.9g", (double)vectors[i], (double)got);
	}
	yyjson_doc_free(doc);
	api_request_fini(&r);
}

static void test_base64_is_what_everybody_reads(void **state)
{
	static const float vectors[] = {1, 0, -2.5f, 0.1f, 3, 4};
	static const char *const expected[] = {"AACAPwAAAAAAACDA", "zczMPQAAQEAAAIBA"};
	struct engine_event e = {.vectors = vectors, .vector_size = 3, .vector_count = 2};
	struct api_request r;
	(void)state;

	assert_taken(&dialect_embeddings,
	             "{\"model\":\"m\",\"input\":[[1],[2,3]],\"encoding_format\":\"base64\",\"dimensions\":3}", &r);
	assert_int_equal(r.input_count, 2);
	assert_int_equal(r.input_lengths[1], 2);
	assert_int_equal(r.prompts[0].tokens[2], 3);
	assert_int_equal(r.dimensions, 3);
	yyjson_doc *doc = answer_of(&r, &e, &dialect_embeddings);
	for (size_t i = 0; i < 2; i++) {
		yyjson_val *item = yyjson_arr_get(yyjson_obj_get(yyjson_doc_get_root(doc), "data"), i);
		assert_string_equal(yyjson_get_str(yyjson_obj_get(item, "embedding")), expected[i]);
	}
	yyjson_doc_free(doc);
	e.vector_size = 1; /* four bytes: padded */
	e.vector_count = 1;
	doc = answer_of(&r, &e, &dialect_embeddings);
	yyjson_val *item = yyjson_arr_get(yyjson_obj_get(yyjson_doc_get_root(doc), "data"), 0);
	assert_string_equal(yyjson_get_str(yyjson_obj_get(item, "embedding")), "AACAPw==");
	yyjson_doc_free(doc);
	api_request_fini(&r);
}

static void test_ranks_are_sorted_and_cut(void **state)
{
	static const float scores[] = {-1, 3, 3, 0.5f};
	struct engine_event e = {.vectors = scores, .vector_size = 1, .vector_count = 4, .prompt_tokens = 9};
	struct api_request r;
	(void)state;

	assert_taken(&dialect_rerank,
	             "{\"model\":\"m\",\"query\":\"q\",\"documents\":[\"a\",{\"text\":\"b\"},\"c\",\"d\"],\"top_n\":3}",
	             &r);
	yyjson_doc *doc = answer_of(&r, &e, &dialect_rerank);
	yyjson_val *results = yyjson_obj_get(yyjson_doc_get_root(doc), "results");
	static const int order[] = {1, 2, 3};
	assert_int_equal(yyjson_arr_size(results), 3);
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(yyjson_get_int(yyjson_obj_get(yyjson_arr_get(results, i), "index")), order[i]);
	yyjson_val *document = yyjson_obj_get(yyjson_arr_get(results, 0), "document");
	assert_string_equal(yyjson_get_str(yyjson_obj_get(document, "text")), "b");
	yyjson_doc_free(doc);
	api_request_fini(&r);
}

static void test_tokens_are_listed(void **state)
{
	static const int32_t tokens[] = {5, 70000};
	static const struct engine_logprob pieces[] = {{.token = {"a", 1}}, {.token = {"\xc3", 1}}};
	struct engine_event e = {.tokens = tokens, .token_count = 2, .logprobs = pieces, .logprob_count = 2};
	struct api_request r;
	(void)state;

	assert_taken(&dialect_tokenize, "{\"model\":\"m\",\"prompt\":\"x\",\"return_token_strs\":true}", &r);
	assert_true(r.pieces && !r.plain_tokens);
	yyjson_doc *doc = answer_of(&r, &e, &dialect_tokenize);
	yyjson_val *root = yyjson_doc_get_root(doc);
	assert_int_equal(yyjson_get_int(yyjson_obj_get(root, "count")), 2);
	assert_int_equal(yyjson_get_int(yyjson_obj_get(root, "max_model_len")), 77);
	assert_int_equal(yyjson_get_int(yyjson_arr_get(yyjson_obj_get(root, "tokens"), 1)), 70000);
	/* Half a character is told as such. */
	assert_string_equal(yyjson_get_str(yyjson_arr_get(yyjson_obj_get(root, "token_strs"), 1)), "\xef\xbf\xbd");
	yyjson_doc_free(doc);
	api_request_fini(&r);
	assert_taken(&dialect_tokenize, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", &r);
	assert_true(r.plain_tokens && !r.no_generation_prompt);
	api_request_fini(&r);
}

static void test_a_chat_is_rendered_as_tokenize_has_it(void **state)
{
	static const int32_t tokens[] = {5, 70000};
	struct engine_event e = {.tokens = tokens, .token_count = 2};
	struct api_request r;
	(void)state;

	assert_taken(&dialect_render,
	             "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"stream\":true,"
	             "\"max_tokens\":3}",
	             &r);
	assert_true(r.plain_tokens && !r.no_generation_prompt && !r.stream);
	yyjson_doc *doc = answer_of(&r, &e, &dialect_render);
	yyjson_val *ids = yyjson_obj_get(yyjson_doc_get_root(doc), "token_ids");
	assert_int_equal(yyjson_arr_size(ids), 2);
	assert_int_equal(yyjson_get_int(yyjson_arr_get(ids, 1)), 70000);
	yyjson_doc_free(doc);
	api_request_fini(&r);
}

static void test_wrong_fields_are_named(void **state)
{
	static const struct bad_ask cases[] = {
	    {&dialect_embeddings, "{\"model\":\"m\"}", "input"},
	    {&dialect_embeddings, "{\"model\":\"m\",\"input\":\"\"}", "input"},
	    {&dialect_embeddings, "{\"model\":\"m\",\"input\":[]}", "input"},
	    {&dialect_embeddings, "{\"model\":\"m\",\"input\":[[]]}", "input"},
	    {&dialect_embeddings, "{\"model\":\"m\",\"input\":[1,-2]}", "input"},
	    {&dialect_embeddings, "{\"model\":\"m\",\"input\":[1,\"a\"]}", "input"},
	    {&dialect_embeddings, "{\"model\":\"m\",\"input\":\"a\",\"dimensions\":0}", "dimensions"},
	    {&dialect_embeddings, "{\"model\":\"m\",\"input\":\"a\",\"encoding_format\":\"hex\"}", "encoding_format"},
	    {&dialect_rerank, "{\"model\":\"m\",\"documents\":[\"a\"]}", "query"},
	    {&dialect_rerank, "{\"model\":\"m\",\"query\":\"q\",\"documents\":[]}", "documents"},
	    {&dialect_rerank, "{\"model\":\"m\",\"query\":\"q\",\"documents\":[\"a\",7]}", "documents[1]"},
	    {&dialect_rerank, "{\"model\":\"m\",\"query\":\"q\",\"documents\":[\"a\"],\"top_n\":0}", "top_n"},
	    {&dialect_tokenize, "{\"model\":\"m\",\"prompt\":[1]}", "prompt"},
	    {&dialect_tokenize, "{\"model\":\"m\",\"messages\":[]}", "messages"},
	    {&dialect_render, "{\"model\":\"m\",\"prompt\":\"x\"}", "messages"},
	    {&dialect_detokenize, "{\"model\":\"m\",\"tokens\":[1,2.5]}", "tokens[1]"},
	    {&dialect_detokenize, "{\"tokens\":[1]}", "model"},
	};
	(void)state;

	assert_refused(cases, sizeof(cases) / sizeof(cases[0]));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_numbers_keep_every_bit),
	    cmocka_unit_test(test_base64_is_what_everybody_reads),
	    cmocka_unit_test(test_ranks_are_sorted_and_cut),
	    cmocka_unit_test(test_tokens_are_listed),
	    cmocka_unit_test(test_a_chat_is_rendered_as_tokenize_has_it),
	    cmocka_unit_test(test_wrong_fields_are_named),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
