/* SPDX-License-Identifier: Apache-2.0 */
/* What a model on a node costs, and what its load must be by now.
 *
 * A report tells of a moment. After an age A the share exp(-A/H) of its requests is still there, H being how long one
 * holds its slot, and prompts have been prefilled. As many requests as ended have come meanwhile, of whom no report
 * tells; all dispatchers saw the same loads and went to the least: they fill the nodes up like water, to one level of
 * requests per slot (Dahlin, "Interpreting stale load information", TPDS 2000, with departures). So a node that was
 * reported idle is not idle for long, and where nothing is known but capacity, all are equally full. What this
 * dispatcher sent itself its ledger adds, so that its share of the water is left out.
 */
#include "core/node_map_index.h"

#include <math.h>

#define PREFILL_UNKNOWN_PER_S 1000.0
#define ITL_UNKNOWN_US 20000.0
#define OUTPUT_TOKENS 128.0 /* of a request, when guessing how long it holds its slot */
#define BARRIER_US 5000.0   /* u/(1-u) of this is paid for use u */
#define BARRIER_USE_MOST 0.98
#define COST_MOST_US 1e12
#define KEY_QUEUE_MOST_US (1 << 30)
#define KEY_ROUND 0.9999999 /* a float must not come out above its double */
#define LEVEL_ROUNDS 32     /* each takes those above the water out; seldom more than five */

int64_t place_queue_us(const struct map_place *p, int32_t more_running, int64_t more_tokens)
{
	double busy = p->load + more_running;
	double us = (p->load_tokens + (double)more_tokens) * p->us_per_token;
	double ahead = busy - p->slots + 1;
	if (ahead > 0)
		us += ahead * p->us_per_ahead;
	double use = busy / p->slots;
	if (use > BARRIER_USE_MOST)
		use = BARRIER_USE_MOST;
	us += use / (1 - use) * BARRIER_US;
	us += (double)p->load_us;
	return (int64_t)(us < COST_MOST_US ? us : COST_MOST_US);
}

static void place_price(struct map_model *model, uint32_t at)
{
	struct map_place *p = &model->places[at];
	p->queue_us = place_queue_us(p, 0, 0);
	model->keys[at].queue_us = p->queue_us < KEY_QUEUE_MOST_US ? (uint32_t)p->queue_us : KEY_QUEUE_MOST_US;
}

void place_load(struct map_model *model, uint32_t at, const struct model_report *r, uint32_t site)
{
	struct map_place *p = &model->places[at];
	double per_s = r->prefill_tokens_per_s > 0 ? r->prefill_tokens_per_s : PREFILL_UNKNOWN_PER_S;
	double itl_us = r->itl_us > 0 ? r->itl_us : ITL_UNKNOWN_US;
	int64_t busy = (int64_t)r->running + r->waiting;
	p->load_us = r->state == MODEL_READY ? 0 : r->load_us;
	p->ready = r->state == MODEL_READY || p->load_us > 0;
	p->slots = r->slots > 0 ? r->slots : 1;
	p->busy = (int32_t)(busy < INT32_MAX ? busy : INT32_MAX);
	p->tokens = r->tokens_to_prefill;
	p->load = p->busy;
	p->load_tokens = (double)p->tokens;
	p->us_per_token = fmin(1e6 / per_s, COST_MOST_US);
	p->us_per_ahead = OUTPUT_TOKENS * itl_us / p->slots;
	model->keys[at] = (struct map_key){.site = site, .us_per_token = (float)(p->us_per_token * KEY_ROUND)};
	place_price(model, at);
}

/* It takes its share of what comes. */
static bool takes_more(const struct map_place *p, const struct map_hot *h, enum node_health health)
{
	return p->ready && p->load_us == 0 && health != NODE_DOWN && !h->draining && !h->starting;
}

static void place_estimate(struct map_place *p, int64_t age_us)
{
	double age = age_us > 0 ? (double)age_us : 0, holds_us = p->us_per_ahead * p->slots;
	p->load = age_us > NODE_STALE_AGE_US ? 0 : p->busy * exp(-age / holds_us);
	p->load_tokens = fmax(0, (double)p->tokens - age / p->us_per_token);
}

/* Requests per slot up to which `water` fills those that take more. */
static double level_of(const struct map_model *model, double water)
{
	double level = INFINITY;
	for (int round = 0; round < LEVEL_ROUNDS; round++) {
		double loads = water, slots = 0;
		for (uint32_t i = 0; i < model->count; i++) {
			const struct map_place *p = &model->places[i];
			if (!p->takes_more || p->load >= level * p->slots)
				continue;
			loads += p->load;
			slots += p->slots;
		}
		double next = slots > 0 ? loads / slots : level;
		if (next >= level)
			break;
		level = next;
	}
	return level;
}

void places_estimate(struct map_model *model, const struct map_hot *hots, bool copy, double own_share, int64_t now_us)
{
	double water = 0;
	for (uint32_t i = 0; i < model->count; i++) {
		struct map_place *p = &model->places[i];
		const struct map_hot *h = &hots[p->node];
		p->takes_more = takes_more(p, h, map_hot_health(h, copy, now_us));
		if (!p->takes_more)
			continue;
		place_estimate(p, now_us - h->received_us);
		water += (p->busy - p->load) * (1 - own_share);
	}
	double level = water > 0 ? level_of(model, water) : 0;
	for (uint32_t i = 0; i < model->count; i++) {
		struct map_place *p = &model->places[i];
		if (!p->takes_more)
			continue;
		p->load = fmax(p->load, level * p->slots);
		place_price(model, i);
	}
}
