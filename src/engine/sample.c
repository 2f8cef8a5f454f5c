/* SPDX-License-Identifier: Apache-2.0 */
/* sample.c - all passes over the vocabulary are straight loops that gcc turns into vector code; what is left after a
 * cut is small. For top-p alone the cut is exact: tokens whose probability is below (1 - p) / vocab weigh less than 1 -
 * p together, so the smallest set that weighs p never needs them. The rest goes through a heap, popped until p is
 * reached. Typical and mirostat are rare: they may touch every token with a logarithm.
 */
#include "engine/sample.h"

#include <math.h>
#include <stdlib.h>

/* As llama-server: without it small models drift into the tail at temperature 1. */
#define MIN_P_DEFAULT 0.05

enum { SAMPLE_BLOCK = 512, LANES = 16 };

/* Mirostat: the paper's, and the number of heaviest tokens from which its first version guesses the slope. */
#define MIROSTAT_TAU 5.0
#define MIROSTAT_ETA 0.1
enum { MIROSTAT_MOST = 100 };

void sample_scratch_init(struct sample_scratch *scratch, int32_t vocab)
{
	size_t n = (size_t)vocab;

	*scratch = (struct sample_scratch){
	    .vocab = vocab,
	    .weights = mem_new(n * sizeof(float)),
	    .block_sums = mem_new((n / SAMPLE_BLOCK + 1) * sizeof(float)),
	    .candidates = mem_new(n * sizeof(struct sample_candidate)),
	};
}

void sample_scratch_fini(struct sample_scratch *scratch)
{
	free(scratch->weights);
	free(scratch->block_sums);
	free(scratch->candidates);
	*scratch = (struct sample_scratch){0};
}

/* ---- passes over the vocabulary --------------------------------------------------------------- */

static float row_max(const float *row, int32_t n)
{
	float lanes[LANES], most = -INFINITY;
	int32_t i = 0;

	for (int j = 0; j < LANES; j++)
		lanes[j] = -INFINITY;
	for (; i + LANES <= n; i += LANES)
		for (int j = 0; j < LANES; j++)
			lanes[j] = row[i + j] > lanes[j] ? row[i + j] : lanes[j];
	for (; i < n; i++)
		most = row[i] > most ? row[i] : most;
	for (int j = 0; j < LANES; j++)
		most = lanes[j] > most ? lanes[j] : most;
	return most;
}

static int32_t row_argmax(const float *row, int32_t n)
{
	float most = row_max(row, n);

	for (int32_t i = 0; i < n; i++)
		if (row[i] == most)
			return i;
	return 0; /* all NaN */
}

static inline int32_t float_bits(float x)
{
	int32_t bits;
	memcpy(&bits, &x, sizeof(bits));
	return bits;
}

static inline float bits_float(int32_t bits)
{
	float x;
	memcpy(&x, &bits, sizeof(x));
	return x;
}

/* e^x for x <= 0, relative error below 2e-7; 0 below -80. Cephes' expf, with masks where it has branches: those would
 * keep the loops that call it from becoming vector code. */
static inline float exp_down(float x)
{
	int32_t mask = -(int32_t)(x > -80.0f);
	float y = bits_float(float_bits(x) & mask);
	float whole = (float)(int32_t)(y * 1.44269504f - 0.5f);
	float r = y - whole * 0.693359375f + whole * 2.12194440e-4f;
	float p = 1.9875691500e-4f;
	p = p * r + 1.3981999507e-3f;
	p = p * r + 8.3334519073e-3f;
	p = p * r + 4.1665795894e-2f;
	p = p * r + 1.6666665459e-1f;
	p = p * r + 5.0000001201e-1f;
	p = p * r * r + r + 1.0f;
	return bits_float(float_bits(p * bits_float(((int32_t)whole + 127) << 23)) & mask);
}

/* weights = exp((row - most) * factor), with a sum per block; returns the whole sum. */
static double row_weigh(struct sample_scratch *scratch, const float *row, float most, float factor)
{
	double total = 0;

	for (int32_t from = 0, block = 0; from < scratch->vocab; from += SAMPLE_BLOCK, block++) {
		int32_t n = scratch->vocab - from < SAMPLE_BLOCK ? scratch->vocab - from : SAMPLE_BLOCK;
		float *out = scratch->weights + from;
		const float *in = row + from;
		float lanes[LANES] = {0}, sum = 0;
		int32_t i = 0;

		for (i = 0; i < n; i++)
			out[i] = exp_down((in[i] - most) * factor);
		for (i = 0; i + LANES <= n; i += LANES)
			for (int j = 0; j < LANES; j++)
				lanes[j] += out[i + j];
		for (; i < n; i++)
			sum += out[i];
		for (int j = 0; j < LANES; j++)
			sum += lanes[j];
		scratch->block_sums[block] = sum;
		total += sum;
	}
	return total;
}

float sample_log_sum(const float *logits, int32_t vocab)
{
	float most = row_max(logits, vocab);
	double total = 0;

	for (int32_t from = 0; from < vocab; from += SAMPLE_BLOCK) {
		int32_t n = vocab - from < SAMPLE_BLOCK ? vocab - from : SAMPLE_BLOCK;
		float sums[SAMPLE_BLOCK], sum = 0;

		for (int32_t i = 0; i < n; i++)
			sums[i] = exp_down(logits[from + i] - most);
		for (int32_t i = 0; i < n; i++)
			sum += sums[i];
		total += sum;
	}
	return most + (float)log(total);
}

/* ---- heaps: least on top to select the largest, largest on top to pop in order -------------------- */

static inline bool candidate_less(struct sample_candidate a, struct sample_candidate b)
{
	return a.value != b.value ? a.value < b.value : a.token > b.token;
}

static void heap_sink(struct sample_candidate *heap, size_t count, size_t at, bool least_first)
{
	for (;;) {
		size_t child = 2 * at + 1;

		if (child >= count)
			return;
		if (child + 1 < count && candidate_less(heap[child + 1], heap[child]) == least_first)
			child++;
		if (candidate_less(heap[child], heap[at]) != least_first)
			return;
		struct sample_candidate kept = heap[at];
		heap[at] = heap[child];
		heap[child] = kept;
		at = child;
	}
}

static void heap_make(struct sample_candidate *heap, size_t count, bool least_first)
{
	for (size_t i = count / 2; i-- > 0;)
		heap_sink(heap, count, i, least_first);
}

/* The first of the heap goes behind its end; popped ones gather at the end of the array, the first at the very end. */
static struct sample_candidate heap_pop(struct sample_candidate *heap, size_t left, bool least_first)
{
	struct sample_candidate first = heap[0];

	heap[0] = heap[left - 1];
	heap[left - 1] = first;
	heap_sink(heap, left - 1, 0, least_first);
	return first;
}

/* Of a heap with the least first: the largest first. */
static void heap_sort(struct sample_candidate *heap, size_t count)
{
	for (size_t left = count; left > 1; left--)
		heap_pop(heap, left, true);
}

size_t sample_top(const float *logits, int32_t vocab, size_t count, struct sample_candidate *top)
{
	size_t n = count < (size_t)vocab ? count : (size_t)vocab;

	if (!n)
		return 0;
	for (size_t i = 0; i < n; i++)
		top[i] = (struct sample_candidate){(int32_t)i, logits[i]};
	heap_make(top, n, true);
	for (int32_t i = (int32_t)n; i < vocab; i++)
		if (logits[i] > top[0].value) {
			top[0] = (struct sample_candidate){i, logits[i]};
			heap_sink(top, n, 0, true);
		}
	heap_sort(top, n);
	return n;
}

/* ---- the draw --------------------------------------------------------------------------------- */

/* splitmix64's finisher. */
static uint64_t mix(uint64_t z)
{
	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

/* Of (seed, position, attempt): [0, 1). A second attempt must not see the first one's number: what was refused would
 * favour its neighbours. */
static double draw(const struct sampler *s)
{
	uint64_t z = mix(s->seed + (s->position + 1) * UINT64_C(0x9e3779b97f4a7c15));

	if (s->attempt)
		z = mix(z + s->attempt * UINT64_C(0xd1342543de82ef95));
	return (double)(z >> 11) * 0x1.0p-53;
}

/* Candidates come heaviest first with their weights; top-p and min-p cut the tail. */
static int32_t draw_sorted(const struct sampler *s, const struct sample_candidate *sorted, size_t count, double total)
{
	double kept = 0, limit = s->params.top_p < 1 ? s->params.top_p * total : INFINITY;
	size_t n = 0;

	while (n < count && kept < limit && (n == 0 || sorted[n].value >= s->params.min_p * sorted[0].value))
		kept += sorted[n++].value;
	double at = draw(s) * kept;
	for (size_t i = 0; i < n; i++) {
		at -= sorted[i].value;
		if (at < 0)
			return sorted[i].token;
	}
	return sorted[0].token;
}

/* How the weight of a token comes from its logit: exp((logit - most) * factor). */
struct scale {
	const float *logits;
	float most, factor;
};

static float scale_exponent(const struct scale *scale, int32_t token)
{
	return (scale->logits[token] - scale->most) * scale->factor;
}

/* Locally typical sampling (arXiv 2202.00666): those whose surprise is nearest to the entropy, until they weigh
 * typical_p together. What is kept comes heaviest first; returns how many, *total becomes their weight. */
static size_t cut_typical(const struct sampler *s, const struct scale *scale, struct sample_candidate *all,
                          size_t count, double *total)
{
	double mean = 0, kept = 0, enough = s->params.typical_p * *total;
	size_t n = 0;

	/* Entropy and surprise share the logarithm of the total, so their difference is that of exponents. */
	for (size_t i = 0; i < count; i++)
		mean += (double)all[i].value / *total * scale_exponent(scale, all[i].token);
	for (size_t i = 0; i < count; i++)
		all[i].value = -fabsf(scale_exponent(scale, all[i].token) - (float)mean);
	heap_make(all, count, false);
	while (n < count && kept <= enough) {
		struct sample_candidate next = heap_pop(all, count - n, false);
		all[count - 1 - n++].value = exp_down(scale_exponent(scale, next.token));
		kept += all[count - n].value;
	}
	memmove(all, all + count - n, n * sizeof(*all));
	heap_make(all, n, true);
	heap_sort(all, n);
	*total = kept;
	return n;
}

static bool is_typical(const struct sampler *s)
{
	return s->params.typical_p > 0 && s->params.typical_p < 1;
}

static int32_t pick_top_k(const struct sampler *s, struct sample_scratch *scratch, const float *logits)
{
	struct sample_candidate *top = scratch->candidates;
	size_t n = sample_top(logits, scratch->vocab, (size_t)s->params.top_k, top);
	struct scale scale = {logits, top[0].value, (float)(1 / s->params.temperature)};
	double total = 0;

	for (size_t i = 0; i < n; i++) {
		top[i].value = exp_down(scale_exponent(&scale, top[i].token));
		total += top[i].value;
	}
	while (n && top[n - 1].value <= 0)
		n--;
	if (is_typical(s))
		n = cut_typical(s, &scale, top, n, &total);
	return draw_sorted(s, top, n, total);
}

static size_t gather(struct sample_scratch *scratch, float least)
{
	size_t count = 0;

	for (int32_t i = 0; i < scratch->vocab; i++)
		if (scratch->weights[i] >= least && scratch->weights[i] > 0)
			scratch->candidates[count++] = (struct sample_candidate){i, scratch->weights[i]};
	return count;
}

static int32_t pick_typical(const struct sampler *s, struct sample_scratch *scratch, const struct scale *scale,
                            double total)
{
	size_t n = cut_typical(s, scale, scratch->candidates, gather(scratch, 0), &total);

	return draw_sorted(s, scratch->candidates, n, total);
}

/* ---- mirostat (arXiv 2007.14966): the surprise of what is drawn is steered towards tau ----------------- */

/* Draws from candidates in any order. */
static int32_t draw_surprised(struct sampler *s, const struct sample_candidate *all, size_t count)
{
	double kept = 0;
	size_t i = 0;

	for (size_t j = 0; j < count; j++)
		kept += all[j].value;
	double at = draw(s) * kept - all[0].value;
	while (at >= 0 && i + 1 < count)
		at -= all[++i].value;
	s->surprise = -log2(all[i].value / kept);
	return all[i].token;
}

/* Its first version takes Zipf's law for granted: the slope of the heaviest tells how many tokens have the surprise
 * wanted. */
static size_t mirostat_count(const struct sampler *s, const struct scale *scale, const struct sample_candidate *top,
                             size_t count, int32_t vocab)
{
	double tb = 0, tt = 0;

	for (size_t i = 0; i + 1 < count && isfinite(top[i + 1].value); i++) {
		double t = log((double)(i + 2) / (double)(i + 1));
		tb += t * (double)(top[i].value - top[i + 1].value) * scale->factor;
		tt += t * t;
	}
	double slope = tt > 0 ? tb / tt : 0, beyond = slope - 1;
	double k = pow(beyond * exp2(s->mu) / (1 - pow(vocab, -beyond)), 1 / slope);
	if (!(k < vocab)) /* or not a number: flat */
		return (size_t)vocab;
	return k < 1 ? 1 : (size_t)k;
}

static int32_t pick_mirostat(struct sampler *s, struct sample_scratch *scratch, const struct scale *scale)
{
	struct sample_candidate *all = scratch->candidates;
	size_t count;

	if (s->params.mirostat == 1) {
		count = sample_top(scale->logits, scratch->vocab, MIROSTAT_MOST, all);
		count = mirostat_count(s, scale, all, count, scratch->vocab);
		count = sample_top(scale->logits, scratch->vocab, count, all);
		for (size_t i = 0; i < count; i++)
			all[i].value = exp_down(scale_exponent(scale, all[i].token));
		while (all[count - 1].value <= 0)
			count--;
	} else {
		double total = row_weigh(scratch, scale->logits, scale->most, scale->factor);
		double least = total * exp2(-s->mu);
		count = gather(scratch, least < 1 ? (float)least : 1.0f); /* the heaviest, which weighs 1, stays */
	}
	return draw_surprised(s, all, count);
}

/* No cut at all: find the block, then the token. */
static int32_t pick_any(const struct sampler *s, struct sample_scratch *scratch, double total)
{
	double at = draw(s) * total;
	int32_t block = 0, last = -1;

	for (int32_t from = 0; from + SAMPLE_BLOCK < scratch->vocab && at >= scratch->block_sums[block];
	     from += SAMPLE_BLOCK)
		at -= scratch->block_sums[block++];
	for (int32_t i = block * SAMPLE_BLOCK; i < scratch->vocab; i++) {
		if (scratch->weights[i] <= 0)
			continue;
		last = i;
		at -= scratch->weights[i];
		if (at < 0)
			return i;
	}
	return last; /* rounding took us past the end */
}

static int32_t pick_cut(const struct sampler *s, struct sample_scratch *scratch, double total)
{
	struct sample_candidate *heap = scratch->candidates;
	float least = s->params.top_p < 1 ? (float)((1 - s->params.top_p) * total / scratch->vocab) : 0;
	size_t popped = 0;
	double kept = 0, enough = s->params.top_p * total;

	if (least < (float)s->params.min_p) /* the heaviest weighs 1 */
		least = (float)s->params.min_p;
	size_t count = gather(scratch, least);
	heap_make(heap, count, false);
	while (popped < count && (kept < enough || s->params.top_p >= 1))
		kept += heap_pop(heap, count - popped++, false).value;
	struct sample_candidate *sorted = heap + count - popped;
	for (size_t i = 0; i < popped / 2; i++) {
		struct sample_candidate swap = sorted[i];
		sorted[i] = sorted[popped - 1 - i];
		sorted[popped - 1 - i] = swap;
	}
	return draw_sorted(s, sorted, popped, total);
}

int32_t sampler_pick(struct sampler *s, struct sample_scratch *scratch, const float *logits)
{
	const struct engine_sampling *p = &s->params;

	if (p->temperature <= 0)
		return row_argmax(logits, scratch->vocab);
	struct scale scale = {logits, row_max(logits, scratch->vocab), (float)(1 / p->temperature)};
	if (!isfinite(scale.most))
		return row_argmax(logits, scratch->vocab);
	if (p->mirostat)
		return pick_mirostat(s, scratch, &scale);
	if (p->top_k == 1)
		return row_argmax(logits, scratch->vocab);
	if (p->top_k > 0 && p->top_k < scratch->vocab)
		return pick_top_k(s, scratch, logits);
	double total = row_weigh(scratch, logits, scale.most, scale.factor);
	if (is_typical(s))
		return pick_typical(s, scratch, &scale, total);
	int32_t token = p->top_p < 1 || p->min_p > 0 ? pick_cut(s, scratch, total) : pick_any(s, scratch, total);
	return token >= 0 ? token : row_argmax(logits, scratch->vocab);
}

void sampler_refuse(struct sampler *s, float *logits, int32_t token)
{
	logits[token] = -INFINITY;
	s->attempt++;
}

/* ---- penalties -------------------------------------------------------------------------------- */

void sampler_init(struct sampler *s, const struct engine_sampling *params, uint64_t seed)
{
	*s = (struct sampler){.params = *params, .seed = seed};
	if (s->params.temperature > 0 && s->params.temperature < 1e-3)
		s->params.temperature = 0;
	if (s->params.repeat_penalty <= 0)
		s->params.repeat_penalty = 1;
	if (s->params.min_p < 0)
		s->params.min_p = MIN_P_DEFAULT;
	if (s->params.mirostat_tau <= 0)
		s->params.mirostat_tau = MIROSTAT_TAU;
	if (s->params.mirostat_eta <= 0)
		s->params.mirostat_eta = MIROSTAT_ETA;
	s->mu = 2 * s->params.mirostat_tau;
	s->surprise = s->params.mirostat_tau;
	s->penalizes = params->presence_penalty != 0 || params->frequency_penalty != 0 || s->params.repeat_penalty != 1;
}

void sampler_fini(struct sampler *s)
{
	free(s->seen);
	*s = (struct sampler){0};
}

static struct sample_seen *seen_place(struct sample_seen *seen, size_t size, int32_t token)
{
	size_t at = ((uint32_t)token * UINT32_C(2654435769)) & (size - 1);

	while (seen[at].token != token && seen[at].token >= 0)
		at = (at + 1) & (size - 1);
	return &seen[at];
}

static void seen_grow(struct sampler *s)
{
	size_t size = s->seen_size ? s->seen_size * 2 : 256;
	struct sample_seen *seen = mem_new(size * sizeof(*seen));

	for (size_t i = 0; i < size; i++)
		seen[i].token = -1;
	for (size_t i = 0; i < s->seen_size; i++)
		if (s->seen[i].token >= 0)
			*seen_place(seen, size, s->seen[i].token) = s->seen[i];
	free(s->seen);
	s->seen = seen;
	s->seen_size = size;
}

static void seen_add(struct sampler *s, int32_t token, int32_t generated)
{
	if (2 * s->seen_count >= s->seen_size)
		seen_grow(s);
	struct sample_seen *place = seen_place(s->seen, s->seen_size, token);
	if (place->token < 0) {
		*place = (struct sample_seen){.token = token};
		s->seen_count++;
	}
	place->generated += generated;
}

void sampler_prompt(struct sampler *s, const int32_t *tokens, size_t count)
{
	if (s->params.repeat_penalty != 1)
		for (size_t i = 0; i < count; i++)
			seen_add(s, tokens[i], 0);
}

void sampler_accept(struct sampler *s, int32_t token)
{
	s->position++;
	s->attempt = 0;
	s->mu -= s->params.mirostat_eta * (s->surprise - s->params.mirostat_tau);
	if (s->penalizes)
		seen_add(s, token, 1);
}

void sampler_adjust(const struct sampler *s, float *logits, int32_t vocab)
{
	const struct engine_sampling *p = &s->params;

	for (size_t i = 0; i < s->seen_size; i++) {
		const struct sample_seen *seen = &s->seen[i];
		if (seen->token < 0 || seen->token >= vocab)
			continue;
		float *logit = &logits[seen->token];
		*logit = *logit > 0 ? *logit / (float)p->repeat_penalty : *logit * (float)p->repeat_penalty;
		if (seen->generated)
			*logit -= (float)(p->presence_penalty + p->frequency_penalty * seen->generated);
	}
	for (size_t i = 0; i < p->bias_count; i++)
		if (p->bias_tokens[i] >= 0 && p->bias_tokens[i] < vocab)
			logits[p->bias_tokens[i]] += p->bias_values[i];
}
