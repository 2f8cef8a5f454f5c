/* SPDX-License-Identifier: Apache-2.0 */
/* sample.h - which token comes next: penalties, bias, temperature, top-k, top-p, min-p, drawn by (seed, position).
 *
 * The draw at a position depends on the seed and that position only, so a stream can be taken over by another
 * node in the middle. Order as in vLLM: penalties and bias, temperature, top-k, top-p, min-p. Greedy at temperature 0
 * is a plain argmax. Nothing sorts the whole vocabulary. Knows no llama.h. One thread at a time; the scratch may be
 * shared by the samplers of one thread.
 */
#ifndef MDN_ENGINE_SAMPLE_H
#define MDN_ENGINE_SAMPLE_H

#include "engine/engine.h"

struct sample_seen {
	int32_t token;     /* -1: free place */
	int32_t generated; /* 0: only in the prompt */
};

struct sampler {
	struct engine_sampling params; /* bias arrays borrowed */
	uint64_t seed;
	uint64_t position; /* tokens accepted */
	bool penalizes;
	struct sample_seen *seen; /* open addressing, size a power of two */
	size_t seen_size, seen_count;
};

struct sample_candidate {
	int32_t token;
	float value;
};

struct sample_scratch {
	int32_t vocab;
	float *weights;                      /* vocab */
	float *block_sums;                   /* one per SAMPLE_BLOCK weights */
	struct sample_candidate *candidates; /* vocab */
};

void sample_scratch_init(struct sample_scratch *scratch, int32_t vocab);
void sample_scratch_fini(struct sample_scratch *scratch);

void sampler_init(struct sampler *s, const struct engine_sampling *params, uint64_t seed);
void sampler_fini(struct sampler *s);
void sampler_prompt(struct sampler *s, const int32_t *tokens, size_t count); /* for repeat_penalty */
/* Penalties and bias, in place; once for each set of logits. */
void sampler_adjust(const struct sampler *s, float *logits, int32_t vocab);
/* The token at this position; the same again for the same logits until sampler_accept. */
int32_t sampler_pick(const struct sampler *s, struct sample_scratch *scratch, const float *logits);
void sampler_accept(struct sampler *s, int32_t token);

/* The `count` largest, largest first (ties: smaller token first); how many (fewer only when vocab is smaller). */
size_t sample_top(const float *logits, int32_t vocab, size_t count, struct sample_candidate *ret_top);
/* log(sum(exp(logits))): logprob = logit - this. */
float sample_log_sum(const float *logits, int32_t vocab);

#endif
