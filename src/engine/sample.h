/* SPDX-License-Identifier: Apache-2.0 */
/* sample.h - which token comes next: penalties, bias, temperature, cuts of the tail, a draw by (seed, position).
 *
 * Order: penalties and bias, temperature, then either mirostat (1 or 2, with llama.cpp's formulas) or top-k, typical,
 * top-p, min-p, each over what the one before has left. Greedy at temperature 0 is a plain argmax. The draw at a
 * position depends on the seed and that position only, so a stream can be taken over by another node in the middle:
 * it feeds the tokens to sampler_accept. Mirostat also remembers what its draws cost, so there each token wants
 * sampler_pick on its own logits first. Nothing sorts the whole vocabulary unless a cut keeps it all. Knows no llama.h.
 * One thread at a time; the scratch may be shared by the samplers of one thread.
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
	uint32_t attempt;  /* at this position: tokens refused */
	double mu;         /* mirostat: most surprise allowed, in bits */
	double surprise;   /* mirostat: of the last pick */
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
int32_t sampler_pick(struct sampler *s, struct sample_scratch *scratch, const float *logits);
/* The token may not come: it is forbidden in `logits`, and the next pick draws anew. Refusing until a token is allowed
 * draws from the allowed ones as if the others had been forbidden at once. */
void sampler_refuse(struct sampler *s, float *logits, int32_t token);
void sampler_accept(struct sampler *s, int32_t token);

/* The `count` largest, largest first (ties: smaller token first); how many (fewer only when vocab is smaller). */
size_t sample_top(const float *logits, int32_t vocab, size_t count, struct sample_candidate *ret_top);
/* log(sum(exp(logits))): logprob = logit - this. */
float sample_log_sum(const float *logits, int32_t vocab);

#endif
