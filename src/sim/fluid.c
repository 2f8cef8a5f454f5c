/* SPDX-License-Identifier: Apache-2.0 */
/* fluid.c - each round gives every open flow the least of its capacities' equal shares; flows on a full one close. */
#include "sim/fluid.h"

#include "base/str.h"

#include <assert.h>
#include <stdlib.h>

#define ROUNDS 4

void fluid_init(struct fluid *f, uint32_t cap_count)
{
	*f = (struct fluid){.cap_count = cap_count};
	f->caps = mem_new((cap_count + 1) * sizeof(double));
	f->residual = mem_new((cap_count + 1) * sizeof(double));
	f->share = mem_new((cap_count + 1) * sizeof(double));
	f->sent = mem_new((cap_count + 1) * sizeof(double));
	f->counts = mem_new((cap_count + 1) * sizeof(uint32_t));
}

void fluid_fini(struct fluid *f)
{
	free(f->caps);
	free(f->residual);
	free(f->share);
	free(f->sent);
	free(f->counts);
	free(f->flows);
	free(f->active);
	free(f->spare);
}

static void *grown(void *old, size_t size)
{
	void *now = realloc(old, size);
	if (!now)
		abort();
	return now;
}

uint32_t fluid_start(struct fluid *f, const uint32_t *uses, uint32_t use_count, double bytes, int64_t from_us)
{
	assert(use_count <= FLUID_USES);
	if (f->spare_count == 0 && f->flow_count == f->flow_cap) {
		f->flow_cap = f->flow_cap ? f->flow_cap * 2 : 1024;
		f->flows = grown(f->flows, f->flow_cap * sizeof *f->flows);
		f->active = grown(f->active, f->flow_cap * sizeof *f->active);
		f->spare = grown(f->spare, f->flow_cap * sizeof *f->spare);
	}
	uint32_t at = f->spare_count ? f->spare[--f->spare_count] : f->flow_count++;
	f->flows[at] = (struct fluid_flow){.use_count = use_count, .left = bytes, .from_us = from_us, .live = true};
	memcpy(f->flows[at].uses, uses, use_count * sizeof *uses);
	f->active[f->active_count++] = at;
	return at;
}

/* Its place among the active ones is found by the next step. */
void fluid_end(struct fluid *f, uint32_t flow)
{
	assert(f->flows[flow].live);
	f->flows[flow].live = false;
}

static void active_sweep(struct fluid *f)
{
	uint32_t kept = 0;
	for (uint32_t i = 0; i < f->active_count; i++) {
		uint32_t at = f->active[i];
		if (f->flows[at].live)
			f->active[kept++] = at;
		else
			f->spare[f->spare_count++] = at;
	}
	f->active_count = kept;
}

static bool flow_open(const struct fluid *f, const struct fluid_flow *w)
{
	for (uint32_t u = 0; u < w->use_count; u++)
		if (f->residual[w->uses[u]] <= f->caps[w->uses[u]] * 1e-3)
			return false;
	return true;
}

/* Gives every open flow the least share; how many were open. */
static uint32_t share_once(struct fluid *f)
{
	uint32_t open = 0;
	memset(f->counts, 0, f->cap_count * sizeof *f->counts);
	for (uint32_t i = 0; i < f->active_count; i++) {
		struct fluid_flow *w = &f->flows[f->active[i]];
		w->open = w->open && flow_open(f, w);
		for (uint32_t u = 0; w->open && u < w->use_count; u++)
			f->counts[w->uses[u]]++;
		open += w->open;
	}
	for (uint32_t c = 0; open && c < f->cap_count; c++)
		f->share[c] = f->counts[c] ? f->residual[c] / f->counts[c] : 0;
	for (uint32_t i = 0; open && i < f->active_count; i++) {
		struct fluid_flow *w = &f->flows[f->active[i]];
		if (!w->open)
			continue;
		double least = f->share[w->uses[0]];
		for (uint32_t u = 1; u < w->use_count; u++)
			least = f->share[w->uses[u]] < least ? f->share[w->uses[u]] : least;
		w->rate += least;
		for (uint32_t u = 0; u < w->use_count; u++)
			f->residual[w->uses[u]] -= least;
	}
	return open;
}

static void fluid_share(struct fluid *f, int64_t now_us)
{
	memcpy(f->residual, f->caps, f->cap_count * sizeof *f->caps);
	for (uint32_t i = 0; i < f->active_count; i++) {
		struct fluid_flow *w = &f->flows[f->active[i]];
		w->rate = 0;
		w->open = w->from_us <= now_us;
	}
	for (int round = 0; round < ROUNDS && share_once(f); round++)
		continue;
}

void fluid_step(struct fluid *f, int64_t now_us, int64_t step_us, void (*fn)(void *arg, uint32_t flow), void *arg)
{
	active_sweep(f);
	fluid_share(f, now_us);
	uint32_t count = f->active_count;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t at = f->active[i];
		struct fluid_flow *w = &f->flows[at];
		if (!w->live)
			continue;
		double moved = w->rate * (double)step_us / 1e6;
		moved = moved < w->left ? moved : w->left;
		for (uint32_t u = 0; u < w->use_count; u++)
			f->sent[w->uses[u]] += moved;
		w->left -= moved;
		if (w->left > 1e-6 * moved || w->from_us > now_us)
			continue;
		w->live = false;
		fn(arg, at);
	}
}
