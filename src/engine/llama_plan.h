/* SPDX-License-Identifier: Apache-2.0 */
/* llama_plan.h - how many prompt tokens each prefilling slot gets in the next batch. Pure.
 *
 * Running streams are not in here: their token each comes first, and while there are any the budget is what fits into
 * the time a step may take, by the rate that was measured: that bounds inter-token latency. The budget goes to the
 * highest class first, in it to the tenant with the least service, in its prompts to the shortest remainder, which
 * gives the least mean TTFT; but a quarter of the budget goes to that tenant's oldest, so a long prompt cannot starve.
 * A batch that ends a prompt of the first tenant is not filled up by others: its first token would have to wait for
 * them.
 */
#ifndef MDN_ENGINE_LLAMA_PLAN_H
#define MDN_ENGINE_LLAMA_PLAN_H

#include <stddef.h>
#include <stdint.h>

struct llama_share {
	int32_t slot;
	int32_t wants;  /* tokens still to compute; 0: none now */
	uint64_t order; /* smaller came first */
	int service_class;
	double service;     /* of its tenant */
	const void *tenant; /* only compared */
	int32_t gets;
};

/* Tokens of prompts in a batch that has room for `room` rows, those of `streams` apart. rows_per_s <= 0: unknown;
 * decode_us: of a step without prompts, 0 unknown; target_us: of a step while streams run; 0: 100 ms. Where decoding
 * alone takes more than a third of that, the step may take longer, by sixteen times what it takes more. */
int32_t llama_plan_budget(int32_t room, int32_t streams, double rows_per_s, double decode_us, int64_t target_us);
void llama_plan_share(struct llama_share *shares, size_t count, int32_t budget); /* reorders the array */

#endif
