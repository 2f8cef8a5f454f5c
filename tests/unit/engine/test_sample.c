/* SPDX-License-Identifier: Apache-2.0 */
/* test_sample.c - the sampler against what its definition says, on rows where the truth is easy to compute. */
#include "driver.h"

#include "base/rng.h"
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

/* ---- the same in plain double arithmetic, by sorting everything ---- */

struct entry {
	int token;
	double p, key;
};

static struct entry entries[VOCAB];

/* Sorting, for each combination, under a sanitizer: with a tenth of the vocabulary. */
enum { FEW = 509 };

static int by_key(const void *a, const void *b)
{
	const struct entry *x = a, *y = b;

	return x->key != y->key ? (x->key < y->key ? -1 : 1) : x->token - y->token;
}

static void entries_sort_down(size_t n)
{
	for (size_t i = 0; i < n; i++)
		entries[i].key = -entries[i].p;
	qsort(entries, n, sizeof(entries[0]), by_key);
}

static void entries_scale(size_t n)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += entries[i].p;
	for (size_t i = 0; i < n; i++)
		entries[i].p /= sum;
}

static size_t plain_mirostat(const struct engine_sampling *p, double mu)
{
	double tb = 0, tt = 0;
	size_t n = 0;

	if (p->mirostat == 2) {
		while (n < FEW && -log2(entries[n].p) <= mu)
			n++;
		return n ? n : 1;
	}
	for (int i = 0; i < 99; i++) {
		double t = log((i + 2.0) / (i + 1.0));
		tb += t * log(entries[i].p / entries[i + 1].p);
		tt += t * t;
	}
	double s = tb / tt, e = s - 1, k = pow(e * pow(2, mu) / (1 - pow(FEW, -e)), 1 / s);
	return k < 1 ? 1 : k > FEW ? FEW : (size_t)k;
}

static size_t plain_typical(double typical_p, size_t n)
{
	double entropy = 0, sum = 0;
	size_t kept = 0;

	for (size_t i = 0; i < n; i++)
		entropy -= entries[i].p * log(entries[i].p);
	for (size_t i = 0; i < n; i++)
		entries[i].key = fabs(-log(entries[i].p) - entropy);
	qsort(entries, n, sizeof(entries[0]), by_key);
	while (kept < n && sum <= typical_p)
		sum += entries[kept++].p;
	return kept;
}

/* The probability of each token as the header promises it; penalties apart. */
static void plain_shares(const struct engine_sampling *p, double mu, double *share)
{
	size_t n = FEW, kept = 0;
	double sum = 0;

	for (int i = 0; i < FEW; i++)
		entries[i] = (struct entry){i, exp(((double)row[i] - 12) / p->temperature), 0};
	entries_scale(n);
	entries_sort_down(n);
	if (p->mirostat) {
		n = plain_mirostat(p, mu);
	} else {
		if (p->top_k > 0 && (size_t)p->top_k < n)
			n = (size_t)p->top_k;
		entries_scale(n);
		if (p->typical_p > 0 && p->typical_p < 1)
			n = plain_typical(p->typical_p, n);
		entries_scale(n);
		entries_sort_down(n);
		while (kept < n && (sum < p->top_p || p->top_p >= 1) && entries[kept].p >= p->min_p * entries[0].p)
			sum += entries[kept++].p;
		n = kept;
	}
	entries_scale(n);
	memset(share, 0, VOCAB * sizeof(*share));
	for (size_t i = 0; i < n; i++)
		share[entries[i].token] = entries[i].p;
}

static void compare_shares(struct engine_sampling params)
{
	static double ours[VOCAB], plain[VOCAB];
	double apart = 0;

	params.top_p = params.top_p ? params.top_p : 1;
	shares(params, ours);
	plain_shares(&params, 0, plain);
	for (int i = 0; i < VOCAB; i++) {
		if (ours[i] > 0 && plain[i] <= 0)
			fail_msg("token %d may not come: typical %g, top_k %d, top_p %g, min_p %g", i, params.typical_p,
			         params.top_k, params.top_p, params.min_p);
		if (plain[i] > 0.01)
			apart = fmax(apart, fabs(ours[i] - plain[i]) / sqrt(plain[i] * (1 - plain[i]) / DRAWS + 1e-9));
	}
	if (apart > 4.5) /* standard deviations; at most 50 tokens are that likely */
		fail_msg("%g standard deviations apart: typical %g, top_k %d, top_p %g, min_p %g", apart,
		         params.typical_p, params.top_k, params.top_p, params.min_p);
}

static void test_cuts_together_are_what_sorting_everything_gives(void **state)
{
	(void)state;

	fill(11);
	scratch.vocab = FEW;
	for (int i = 0; i < 200; i++) /* a middle between the peaks and the noise */
		row[i * 2] += 4;
	for (int k = 0; k < 3; k++)
		for (int t = 0; t < 3; t++)
			for (int cut = 0; cut < 4; cut++)
				compare_shares((struct engine_sampling){.temperature = k == 1 ? 0.8 : 1.2,
				                                        .top_k = k * 40,
				                                        .typical_p = t == 0   ? 0
				                                                     : t == 1 ? 0.3
				                                                              : 0.95,
				                                        .top_p = cut & 1 ? 0.85 : 1,
				                                        .min_p = cut & 2 ? 0.02 : 0});
	scratch.vocab = VOCAB;
}

static void test_typical_leaves_out_what_is_too_likely(void **state)
{
	static double share[VOCAB];
	(void)state;

	scratch.vocab = FEW;
	/* One token of probability 0.3, the rest even: the entropy is nearer to the others' surprise. */
	for (int i = 0; i < FEW; i++)
		row[i] = 0;
	row[17] = (float)log((FEW - 1) * 0.3 / 0.7);
	shares((struct engine_sampling){.temperature = 1, .typical_p = 0.2}, share);
	assert_true(share[17] == 0);
	compare_shares((struct engine_sampling){.temperature = 1, .typical_p = 0.6});
	scratch.vocab = VOCAB;
}

static void test_mirostat_follows_its_papers_formulas(void **state)
{
	static double plain[VOCAB];
	(void)state;

	fill(12);
	row[17] = 4; /* no peaks: the surprise must be free to rise */
	scratch.vocab = FEW;
	for (int version = 1; version <= 2; version++) {
		for (int tau = 2; tau <= 8; tau += 3) {
			struct engine_sampling p = {
			    .temperature = 0.9, .mirostat = version, .mirostat_tau = tau, .mirostat_eta = 0.1};
			struct sampler s = sampler_with(p, 5), again = sampler_with(p, 5);
			double mu = 2 * tau, surprises = 0;
			for (int i = 0; i < 300; i++) {
				row[(i * 31) % FEW] += (i % 5) * 0.5f; /* not the same row each time */
				plain_shares(&s.params, mu, plain);
				int32_t token = sampler_pick(&s, &scratch, row);
				assert_int_equal(sampler_pick(&again, &scratch, row), token);
				if (plain[token] <= 0)
					fail_msg("version %d, tau %d, step %d: token %d may not come", version, tau, i,
					         token);
				mu -= 0.1 * (-log2(plain[token]) - tau);
				surprises += -log2(plain[token]);
				sampler_accept(&s, token);
				sampler_accept(&again, token);
				assert_float_equal(s.mu, mu, 1e-3);
				mu = s.mu; /* roundings do not add up */
			}
			/* What it is for: the mean surprise is near tau. */
			if (version == 2 && tau == 2)
				assert_float_equal(surprises / 300, tau, 0.5);
			sampler_fini(&s);
			sampler_fini(&again);
		}
	}
	struct sampler s = sampler_with((struct engine_sampling){.temperature = 1, .mirostat = 2}, 1);
	assert_float_equal(s.mu, 10, 1e-9); /* tau 5 unless said */
	for (int i = 0; i < FEW; i++)
		row[i] = i == 300 ? -3 : -INFINITY;
	assert_int_equal(sampler_pick(&s, &scratch, row), 300);
	s.params.mirostat = 1;
	assert_int_equal(sampler_pick(&s, &scratch, row), 300);
	scratch.vocab = VOCAB;
	sampler_fini(&s);
}

static void test_refused_tokens_leave_the_others_their_shares(void **state)
{
	struct sampler s = sampler_with((struct engine_sampling){.temperature = 1}, 3);
	double share[3] = {0};
	(void)state;

	/* The refused half lies before the others: drawing again with the same number would never give the last. */
	scratch.vocab = FEW;
	for (int i = 0; i < 2 * DRAWS; i++) {
		for (int j = 0; j < FEW; j++)
			row[j] = -INFINITY;
		row[0] = (float)log(0.5);
		row[1] = row[2] = (float)log(0.25);
		int32_t token;
		while ((token = sampler_pick(&s, &scratch, row)) == 0)
			sampler_refuse(&s, row, token);
		share[token] += 0.5 / DRAWS;
		sampler_accept(&s, token);
	}
	assert_float_equal(share[1], 0.5, 0.04);
	assert_float_equal(share[2], 0.5, 0.04);
	scratch.vocab = VOCAB;
	sampler_fini(&s);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_greedy_takes_the_first_of_the_largest),
	    cmocka_unit_test(test_draws_follow_the_distribution),
	    cmocka_unit_test(test_the_tail_is_cut_unless_min_p_says_otherwise),
	    cmocka_unit_test(test_top_k_and_top_p_and_min_p_cut_the_tail),
	    cmocka_unit_test(test_forbidden_tokens_never_come),
	    cmocka_unit_test(test_same_seed_and_position_draw_the_same),
	    cmocka_unit_test(test_cuts_together_are_what_sorting_everything_gives),
	    cmocka_unit_test(test_typical_leaves_out_what_is_too_likely),
	    cmocka_unit_test(test_mirostat_follows_its_papers_formulas),
	    cmocka_unit_test(test_refused_tokens_leave_the_others_their_shares),
	    cmocka_unit_test(test_penalties_and_bias_change_what_they_should),
	    cmocka_unit_test(test_logprobs_sum_to_one_and_top_is_sorted),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
