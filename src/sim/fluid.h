/* SPDX-License-Identifier: Apache-2.0 */
/* fluid.h - transfers as flows that share capacities, max-min fair, moved on in steps.
 *
 * A flow uses up to FLUID_USES capacities (a way up, a way down, two site links). Progressive filling in a few rounds:
 * what is left over after them stays unused, so no capacity is ever exceeded. Bytes and seconds. The fluid owns its
 * flows; a flow's number is good until fluid_end.
 */
#ifndef MDN_SIM_FLUID_H
#define MDN_SIM_FLUID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FLUID_USES 4u

struct fluid_flow {
	uint32_t uses[FLUID_USES], use_count;
	double left, rate;
	int64_t from_us; /* idle before */
	bool live, open;
};

struct fluid {
	double *caps, *residual, *share, *sent; /* sent: by each capacity, of all time */
	uint32_t *counts;
	uint32_t cap_count;
	struct fluid_flow *flows;
	uint32_t flow_count, flow_cap, *active, active_count, *spare, spare_count;
};

void fluid_init(struct fluid *f, uint32_t cap_count);
void fluid_fini(struct fluid *f);
uint32_t fluid_start(struct fluid *f, const uint32_t *uses, uint32_t use_count, double bytes, int64_t from_us);
void fluid_end(struct fluid *f, uint32_t flow);
/* Moves on by step_us; calls fn for each flow that came to its end, which may start and end others. */
void fluid_step(struct fluid *f, int64_t now_us, int64_t step_us, void (*fn)(void *arg, uint32_t flow), void *arg);

#endif
