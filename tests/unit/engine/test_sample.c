/* SPDX-License-Identifier: Apache-2.0 */
/* test_sample.c - the sampler against what its definition says, on rows where the truth is easy to compute. */
#include "driver.h"

#include "base/rng.h"
#include "engine/llama_plan.h"
#include "engine/sample.h"

#include <math.h>
#include <stdlib.h>

enum { VOCAB = 5003, DRAWS = 1500 };

static struct sample_scratch scratch;
static float row[VOCAB], copy[VOCAB];

static void fill(uint64_t seed)
{
	struct rng rng;

	rng_init(&rng, seed);
	for (int i = 0; i < VOCAB; i++)
		row[i] = (float)(rng_unit(&rng) * 8 - 4);
	row[17] = 12.0f;
	row[4999] = 11.5f;
	row[2500] = 11.0f;
	row[VOCAB - 1] = 10.0f;
}

static int setup(void **state)
{
	(void)state;
	sample_scratch_init(&scratch, VOCAB);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	sample_scratch_fini(&scratch);
	return 0;
}

static struct sampler sampler_with(struct engine_sampling params, uint64_t seed)
{
	struct sampler s;

	params.repeat_penalty = params.repeat_penalty ? params.repeat_penalty : 1;
	params.top_p = params.top_p ? params.top_p : 1;
	sampler_init(&s, &params, seed);
	return s;
}

/* How often each token came, as a share. */
static void shares(struct engine_sampling params, double *share)
{
	struct sampler s = sampler_with(params, 7);

	memset(share, 0, VOCAB * sizeof(*share));
	for (int i = 0; i < DRAWS; i++) {
		share[sampler_pick(&s, &scratch, row)] += 1.0 / DRAWS;
		sampler_accept(&s, 0);
	}
	sampler_fini(&s);
}

static double truth(int token, double temperature)
{
	double sum = 0;

	for (int i = 0; i < VOCAB; i++)
		sum += exp(((double)row[i] - 12) / temperature);
	return exp(((double)row[token] - 12) / temperature) / sum;
}

static void test_greedy_takes_the_first_of_the_largest(void **state)
{
	struct sampler s = sampler_with((struct engine_sampling){.temperature = 0}, 1);
	(void)state;

	fill(1);
	assert_int_equal(sampler_pick(&s, &scratch, row), 17);
	row[4] = row[17];
	assert_int_equal(sampler_pick(&s, &scratch, row), 4);
	for (int i = 0; i < VOCAB; i++)
		row[i] = i == 9 ? NAN : -INFINITY;
	assert_in_range(sampler_pick(&s, &scratch, row), 0, VOCAB - 1);
	sampler_fini(&s);
}

static void test_draws_follow_the_distribution(void **state)
{
	static double share[VOCAB];
	const int tokens[] = {17, 4999, 2500, VOCAB - 1};
	(void)state;

	fill(2);
	for (int t = 0; t < 2; t++) {
		double temperature = t ? 0.7 : 1.0;
		shares((struct engine_sampling){.temperature = temperature}, share);
		for (int i = 0; i < 4; i++)
			assert_float_equal(share[tokens[i]], truth(tokens[i], temperature), 0.05);
	}
}

static void test_the_tail_is_cut_unless_min_p_says_otherwise(void **state)
{
	static double share[VOCAB];
	(void)state;

	fill(2);
	row[VOCAB - 1] = 8; /* about 0.02 of the heaviest */
	shares((struct engine_sampling){.temperature = 1, .min_p = -1}, share);
	assert_true(share[VOCAB - 1] == 0);
	shares((struct engine_sampling){.temperature = 1}, share);
	assert_true(share[VOCAB - 1] > 0);
}

static void test_top_k_and_top_p_and_min_p_cut_the_tail(void **state)
{
	static double share[VOCAB];
	(void)state;

	fill(3);
	shares((struct engine_sampling){.temperature = 1, .top_k = 2}, share);
	assert_float_equal(share[17] + share[4999], 1, 1e-9);
	assert_float_equal(share[17], 1 / (1 + exp(-0.5)), 0.05);
	/* The first three weigh enough together, not two. */
	double p3 = truth(17, 1) + truth(4999, 1) + truth(2500, 1), p2 = truth(17, 1) + truth(4999, 1);
	shares((struct engine_sampling){.temperature = 1, .top_p = (p2 + p3) / 2}, share);
	assert_float_equal(share[17] + share[4999] + share[2500], 1, 1e-9);
	assert_true(share[2500] > 0);
	shares((struct engine_sampling){.temperature = 1, .min_p = exp(-0.75)}, share);
	assert_float_equal(share[17] + share[4999], 1, 1e-9);
	shares((struct engine_sampling){.temperature = 5, .top_k = 50, .top_p = 1e-6}, share);
	assert_float_equal(share[17], 1, 1e-9);
}

static void test_forbidden_tokens_never_come(void **state)
{
	static double share[VOCAB];
	(void)state;

	for (int i = 0; i < VOCAB; i++)
		row[i] = -INFINITY;
	row[600] = -3;
	row[4000] = -3;
	for (int k = 0; k < 3; k++) {
		struct engine_sampling p = {.temperature = 2, .top_p = k == 1 ? 0.9 : 1, .top_k = k == 2 ? 40 : 0};
		shares(p, share);
		assert_float_equal(share[600] + share[4000], 1, 1e-9);
		assert_true(share[600] > 0.4 && share[4000] > 0.4);
	}
}

static void test_same_seed_and_position_draw_the_same(void **state)
{
	struct engine_sampling p = {.temperature = 1.3};
	struct sampler a = sampler_with(p, 99), b = sampler_with(p, 99), c = sampler_with(p, 100);
	int differ = 0, x[50];
	(void)state;

	fill(4);
	for (int i = 0; i < 50; i++) {
		x[i] = sampler_pick(&a, &scratch, row);
		assert_int_equal(sampler_pick(&a, &scratch, row), x[i]);
		differ += sampler_pick(&c, &scratch, row) != x[i];
		sampler_accept(&a, x[i]);
		sampler_accept(&c, x[i]);
	}
	assert_true(differ > 5);
	b.position = 30; /* taken over in the middle */
	assert_int_equal(sampler_pick(&b, &scratch, row), x[30]);
	sampler_fini(&a);
	sampler_fini(&b);
	sampler_fini(&c);
}

static void test_penalties_and_bias_change_what_they_should(void **state)
{
	const int32_t bias_tokens[] = {5, 99999, -3};
	const float bias_values[] = {100, 1, 1};
	struct sampler s = sampler_with((struct engine_sampling){.presence_penalty = 1, .frequency_penalty = 0.5}, 1);
	int32_t prompt[400];
	(void)state;

	fill(5);
	memcpy(copy, row, sizeof(row));
	for (int i = 0; i < 3; i++)
		sampler_accept(&s, 17);
	sampler_accept(&s, 4999);
	sampler_adjust(&s, row, VOCAB);
	assert_float_equal(row[17], copy[17] - 1 - 1.5, 1e-5);
	assert_float_equal(row[4999], copy[4999] - 1.5, 1e-5);
	assert_float_equal(row[2500], copy[2500], 0);
	sampler_fini(&s);

	s = sampler_with((struct engine_sampling){.repeat_penalty = 2}, 1);
	for (int i = 0; i < 400; i++)
		prompt[i] = i; /* enough to make the table grow */
	memcpy(row, copy, sizeof(row));
	sampler_prompt(&s, prompt, 400);
	sampler_adjust(&s, row, VOCAB);
	for (int i = 0; i < 400; i++)
		assert_float_equal(row[i], copy[i] > 0 ? copy[i] / 2 : copy[i] * 2, 1e-5);
	assert_float_equal(row[400], copy[400], 0);
	sampler_fini(&s);

	s = sampler_with(
	    (struct engine_sampling){.bias_tokens = bias_tokens, .bias_values = bias_values, .bias_count = 3}, 1);
	sampler_adjust(&s, row, VOCAB);
	assert_int_equal(sampler_pick(&s, &scratch, row), 5);
	sampler_fini(&s);
}

static void test_logprobs_sum_to_one_and_top_is_sorted(void **state)
{
	struct sample_candidate top[20];
	double sum = 0;
	(void)state;

	fill(6);
	float log_sum = sample_log_sum(row, VOCAB);
	for (int i = 0; i < VOCAB; i++)
		sum += exp((double)row[i] - log_sum);
	assert_float_equal(sum, 1, 1e-4);
	assert_int_equal(sample_top(row, VOCAB, 20, top), 20);
	assert_int_equal(top[0].token, 17);
	assert_int_equal(top[3].token, VOCAB - 1);
	for (int i = 1; i < 20; i++)
		assert_true(top[i - 1].value >= top[i].value);
	int above = 0;
	for (int i = 0; i < VOCAB; i++)
		above += row[i] > top[19].value;
	assert_in_range(above, 0, 19);
	assert_int_equal(sample_top(row, 3, 20, top), 3);
}

static void test_plan_gives_short_prompts_first_and_starves_no_long_one(void **state)
{
	struct llama_share shares_of[] = {{0, 4000, 1, 0}, {1, 100, 2, 0}, {2, 50, 3, 0}};
	int32_t sum = 0;
	(void)state;

	llama_plan_share(shares_of, 3, 400);
	for (int i = 0; i < 3; i++) {
		sum += shares_of[i].gets;
		assert_true(shares_of[i].gets <= shares_of[i].wants);
		if (shares_of[i].slot == 0)
			assert_int_equal(shares_of[i].gets, 250);
		else
			assert_int_equal(shares_of[i].gets, shares_of[i].wants);
	}
	assert_int_equal(sum, 400);
	struct llama_share crowd[] = {{0, 4000, 1, 0}, {1, 300, 2, 0}, {2, 300, 3, 0}};
	llama_plan_share(crowd, 3, 400);
	for (int i = 0; i < 3; i++)
		if (crowd[i].slot == 0)
			assert_int_equal(crowd[i].gets, 100);
	llama_plan_share(crowd, 0, 100);
	/* Streams shrink the budget to what a tenth of a second computes, but not to nothing. */
	assert_int_equal(llama_plan_budget(512, 0, 1000), 512);
	assert_int_equal(llama_plan_budget(512, 4, 1000), 100);
	assert_int_equal(llama_plan_budget(512, 4, 10), 32);
	assert_int_equal(llama_plan_budget(512, 4, 1e9), 508);
	assert_int_equal(llama_plan_budget(8, 8, 1000), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_greedy_takes_the_first_of_the_largest),
	    cmocka_unit_test(test_draws_follow_the_distribution),
	    cmocka_unit_test(test_the_tail_is_cut_unless_min_p_says_otherwise),
	    cmocka_unit_test(test_top_k_and_top_p_and_min_p_cut_the_tail),
	    cmocka_unit_test(test_forbidden_tokens_never_come),
	    cmocka_unit_test(test_same_seed_and_position_draw_the_same),
	    cmocka_unit_test(test_penalties_and_bias_change_what_they_should),
	    cmocka_unit_test(test_logprobs_sum_to_one_and_top_is_sorted),
	    cmocka_unit_test(test_plan_gives_short_prompts_first_and_starves_no_long_one),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
