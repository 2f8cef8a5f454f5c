/* SPDX-License-Identifier: Apache-2.0 */
/* LoRA adapters: as if their products were merged into the weights, side by side with others and the base model. */
#include "driver.h"

#include "engine/llama_parts.h"

#include <stdio.h>
#include <stdlib.h>

enum { TOKENS = 24 };

static const char *const prompts[] = {"Once upon a time", "The sea is", "A list of numbers: 1, 2,", "Dear friend"};

static void start(struct driver *d, const char *model)
{
	const struct str names[] = {STR("one"), STR("two"), STR("bad")};
	const struct str files[] = {str_from(model_path("adapter")), str_from(model_path("adapter-2")),
	                            str_from(model_path("text"))};
	struct engine_options options = options_for(model);

	options.adapter_names = names;
	options.adapter_paths = files;
	options.adapter_count = 3;
	driver_start(d, &options);
}

static struct engine_params with(const char *prompt, const char *adapter)
{
	struct engine_params p = completion(prompt, TOKENS);

	p.adapter = str_from(adapter);
	p.logprobs = 0;
	return p;
}

/* What the merged model gives the tokens that it says: sums of products in another order, so nearly the same. */
static void test_an_adapter_is_as_good_as_its_merged_model(void **state)
{
	static const char *const pairs[][2] = {{"one", "merged"}, {"two", "merged-2"}};
	(void)state;

	for (size_t i = 0; i < 2; i++) {
		struct driver base, merged;
		start(&base, "llama");
		start(&merged, pairs[i][1]);
		for (size_t k = 0; k < sizeof(prompts) / sizeof(prompts[0]); k++) {
			struct ask plain = {0}, adapted = {0}, same = {0};
			struct engine_params p = with(prompts[k], "");
			ask_start(&plain, &base, &p);
			ask_wait(&plain);
			ask_start(&same, &merged, &p);
			ask_wait(&same);
			p = with(prompts[k], pairs[i][0]);
			ask_start(&adapted, &base, &p);
			ask_wait(&adapted);
			assert_string_equal(adapted.text.base, same.text.base);
			assert_string_not_equal(adapted.text.base, plain.text.base);
			assert_int_equal(adapted.logprob_count, same.logprob_count);
			for (size_t t = 0; t < same.logprob_count; t++)
				assert_true(adapted.logprobs[t] - same.logprobs[t] < 0.01f &&
				            same.logprobs[t] - adapted.logprobs[t] < 0.01f);
			ask_fini(&plain);
			ask_fini(&adapted);
			ask_fini(&same);
		}
		driver_fini(&base);
		driver_fini(&merged);
	}
}

static void test_mixed_traffic_says_what_each_says_alone(void **state)
{
	static const char *const adapters[] = {"", "one", "two"};
	struct ask alone[3][4] = {0}, together[3][4] = {0};
	struct driver d;
	(void)state;

	start(&d, "llama");
	for (int a = 0; a < 3; a++)
		for (int k = 0; k < 4; k++) {
			struct engine_params p = with(prompts[k], adapters[a]);
			ask_start(&alone[a][k], &d, &p);
			ask_wait(&alone[a][k]);
		}
	for (int k = 0; k < 4; k++)
		for (int a = 0; a < 3; a++) {
			struct engine_params p = with(prompts[k], adapters[a]);
			ask_start(&together[a][k], &d, &p);
		}
	for (int a = 0; a < 3; a++)
		for (int k = 0; k < 4; k++) {
			ask_wait(&together[a][k]);
			assert_string_equal(together[a][k].text.base, alone[a][k].text.base);
			ask_fini(&alone[a][k]);
			ask_fini(&together[a][k]);
		}
	assert_int_equal(engine_load(d.engine).running, 0);
	driver_fini(&d);
}

/* The base model and an adapter side by side: none waits for the other's end. */
static void test_adapters_take_turns(void **state)
{
	struct ask slow = {0}, quick = {0};
	struct driver d;
	struct engine_params p;
	(void)state;

	start(&d, "llama");
	p = with(prompts[0], "one");
	p.max_tokens = 200;
	ask_start(&slow, &d, &p);
	p = with(prompts[1], "");
	ask_start(&quick, &d, &p);
	ask_wait(&quick);
	assert_int_equal(slow.done, 0);
	ask_wait(&slow);
	assert_int_equal(slow.last.completion_tokens, 200);
	ask_fini(&slow);
	ask_fini(&quick);
	driver_fini(&d);
}

static void test_a_bad_adapter_fails_those_who_ask_for_it_only(void **state)
{
	struct ask bad = {0}, unknown = {0}, good = {0};
	struct engine_params p;
	struct driver d;
	(void)state;

	start(&d, "llama");
	p = with(prompts[0], "bad");
	ask_start(&bad, &d, &p);
	ask_wait(&bad);
	assert_int_equal(bad.err.code, E_INVAL);
	assert_non_null(strstr(bad.err.text, "cannot be used"));
	p = with(prompts[0], "three");
	ask_start(&unknown, &d, &p);
	ask_wait(&unknown);
	assert_int_equal(unknown.err.code, E_INVAL);
	p = with(prompts[0], "one");
	ask_start(&good, &d, &p);
	ask_wait(&good);
	assert_int_equal(good.last.completion_tokens, TOKENS);
	ask_fini(&bad);
	ask_fini(&unknown);
	ask_fini(&good);
	driver_fini(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_an_adapter_is_as_good_as_its_merged_model),
	    cmocka_unit_test(test_mixed_traffic_says_what_each_says_alone),
	    cmocka_unit_test(test_adapters_take_turns),
	    cmocka_unit_test(test_a_bad_adapter_fails_those_who_ask_for_it_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
