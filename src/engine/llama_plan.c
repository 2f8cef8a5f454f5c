/* SPDX-License-Identifier: Apache-2.0 */
/* llama_plan.c - see the header. ggml's flash attention takes 64 rows at a time, and fewer one by one at several times
 * the cost a row: so a prompt gets no less. Each batch besides costs what decoding costs. Where that is slow, small
 * batches would spend their time on streams, so prompts get SLOW_TIMES what decoding takes too long. */
#include "engine/llama_plan.h"

#include <stdbool.h>
#include <stdlib.h>

enum { TARGET_US = 100 * 1000, LEAST_TOKENS = 64, SLOW_TIMES = 16, FILL_TOKENS = 32 };

int32_t llama_plan_budget(int32_t room, int32_t streams, double rows_per_s, double decode_us, int64_t target_us)
{
	if (streams > 0 && rows_per_s > 0) {
		double target = (double)(target_us > 0 ? target_us : TARGET_US);
		double slow = decode_us > target / 3 ? decode_us - target / 3 : 0;
		double tokens = rows_per_s * (target + SLOW_TIMES * slow) / 1e6 - streams;
		if (tokens < LEAST_TOKENS)
			tokens = LEAST_TOKENS;
		if (tokens < room)
			room = (int32_t)tokens;
	}
	return room > 0 ? room : 0;
}

static int by_turn(const void *a, const void *b)
{
	const struct llama_share *x = a, *y = b;

	if (x->service_class != y->service_class)
		return x->service_class - y->service_class;
	if (x->service != y->service)
		return x->service < y->service ? -1 : 1;
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

static bool is_with_first(const struct llama_share *shares, size_t i)
{
	return shares[i].service_class == shares[0].service_class && shares[i].tenant == shares[0].tenant;
}

void llama_plan_share(struct llama_share *shares, size_t count, int32_t budget)
{
	struct llama_share *oldest = shares;
	bool ends = false;

	qsort(shares, count, sizeof(*shares), by_turn);
	for (size_t i = 0; i < count; i++) {
		shares[i].gets = 0;
		if (is_with_first(shares, i) && shares[i].order < oldest->order)
			oldest = &shares[i];
	}
	if (count)
		budget -= give(oldest, budget / 4);
	for (size_t i = 0; i < count && budget > 0; i++) {
		if (ends && !is_with_first(shares, i) && budget > FILL_TOKENS)
			budget = FILL_TOKENS;
		budget -= give(&shares[i], budget);
		ends |= shares[i].wants && shares[i].gets == shares[i].wants;
	}
}
