/* SPDX-License-Identifier: Apache-2.0 */
/* llama_plan.c - see the header. A budget below LEAST_TOKENS would waste the matrix kernels. */
#include "engine/llama_plan.h"

#include <stdlib.h>

enum { STEP_US = 100 * 1000, LEAST_TOKENS = 32 };

int32_t llama_plan_budget(int32_t batch, int32_t streams, double prefill_tokens_per_s)
{
	int32_t budget = batch - streams;

	if (streams > 0 && prefill_tokens_per_s > 0) {
		double tokens = prefill_tokens_per_s * STEP_US / 1e6;
		int32_t most = tokens < LEAST_TOKENS ? LEAST_TOKENS : tokens > budget ? budget : (int32_t)tokens;
		budget = most < budget ? most : budget;
	}
	return budget > 0 ? budget : 0;
}

static int by_remainder(const void *a, const void *b)
{
	const struct llama_share *x = a, *y = b;

	if (x->wants != y->wants)
		return x->wants < y->wants ? -1 : 1;
	return x->order < y->order ? -1 : x->order > y->order;
}

static int32_t give(struct llama_share *share, int32_t most)
{
	int32_t left = share->wants - share->gets, got = left < most ? left : most;

	share->gets += got;
	return got;
}

void llama_plan_share(struct llama_share *shares, size_t count, int32_t budget)
{
	struct llama_share *first = NULL;

	qsort(shares, count, sizeof(*shares), by_remainder);
	for (size_t i = 0; i < count; i++) {
		shares[i].gets = 0;
		if (!first || shares[i].order < first->order)
			first = &shares[i];
	}
	if (first)
		budget -= give(first, budget / 4);
	for (size_t i = 0; i < count && budget > 0; i++)
		budget -= give(&shares[i], budget);
}
