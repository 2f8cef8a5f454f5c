/* SPDX-License-Identifier: Apache-2.0 */
/* llama_plan.h - how many prompt tokens each prefilling slot gets in the next batch. Pure.
 *
 * Shortest remainder first, which gives the least mean TTFT, but a quarter of the budget always goes to the request
 * that came first, so a long prompt cannot starve. Running streams are not in here: their token each comes first, and
 * the budget shrinks while there are any, so that a batch does not take longer than about STEP_US.
 */
#ifndef MDN_ENGINE_LLAMA_PLAN_H
#define MDN_ENGINE_LLAMA_PLAN_H

#include <stddef.h>
#include <stdint.h>

struct llama_share {
	int32_t slot;
	int32_t wants;  /* tokens still to compute, > 0 */
	uint64_t order; /* smaller came first */
	int32_t gets;
};

/* Tokens of prompts in a batch of at most `batch` rows, when `streams` of them are taken by running streams. */
int32_t llama_plan_budget(int32_t batch, int32_t streams, double prefill_tokens_per_s);
void llama_plan_share(struct llama_share *shares, size_t count, int32_t budget); /* reorders the array */

#endif
