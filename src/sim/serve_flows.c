/* SPDX-License-Identifier: Apache-2.0 */
/* Many requests at once. A group is a site's nodes that have the same models; in the map it stands as one node with the
 * average load of its nodes. In each step every city's requests for a model (Poisson) are cut into parcels, shuffled
 * and spread over the step; a parcel asks a name, is decided by the shipping score and changes its group's report
 * before the next one is decided.
 *
 * Streams: all of a group get tokens at one rate, so a clock of work serves for all (as in engine_model.c), and who
 * ends when is a calendar of that clock with the answers' lengths at QUANTILES of their distribution. Prefill: what is
 * offered beyond the group's rate piles up; below it the wait is that of M/G/c by Sakasegawa's formula, spread as an
 * exponential. Slots: what finds none waits, first come first served, and what finds no place to wait is tried
 * elsewhere, as a gateway would.
 *
 * What gets lost: differences between nodes of one group, and anything that happens within a step.
 */
#include "sim/serve.h"

#include "sim/dispatch.h"

#include "core/admission.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

enum { QUANTILES = 32, PROMPTS = 8, WAITS = 4, PARCELS_MOST = 16, CLASS_NORMAL = 1 };
#define PARCEL_SHARE 0.01 /* of an average site's slots */
#define RATE_US 10e6      /* over which the prefill rate is averaged */
#define RHO_MOST 0.98
#define BIN_SHARE (1.0 / 64) /* of the mean answer */
#define NONE UINT32_MAX
#define DUST 1e-9

struct waiting {
	double count;
	uint32_t city, model;
	int64_t since_us, way_us;
};

struct group {
	double nodes, running, queued; /* requests */
	double rate, backlog;          /* prefill tokens: offered per us, piled up */
	double *calendar, into;        /* requests by the bin of work they end in, a ring; tokens into the bin of now */
	uint64_t bin;
	int64_t at_us;
	uint64_t seq;
	struct waiting *waiting;
	uint32_t first, count, cap;
	bool dead, silent;
};

struct parcel {
	double count;
	uint32_t city, model;
};

struct flows {
	const struct sim_world *world; /* of all nodes */
	struct sim_world w;            /* of groups in the nodes' place */
	const struct scenario *s;
	struct figures *f;
	struct dispatch d;
	struct group *groups;
	struct parcel *parcels;
	uint32_t parcel_count, parcel_cap;
	struct rng rng;
	int64_t now_us;
	double slots;         /* of a node: slots, or what its KV cache has room for */
	double uncached, bin; /* tokens */
	uint32_t bins;
	double lengths[QUANTILES], prompts[PROMPTS];
	double spread; /* of prefill times: (1 + variation^2) / 2 */
	struct node_report report;
};

/* ---- a group in time ------------------------------------------------------------------------- */

static double itl_us(const struct flows *p, const struct group *g)
{
	double running = g->running / g->nodes;
	return (double)p->s->engine.itl_base_us + p->s->engine.itl_slope_us * running;
}

static double prefill_rate(const struct flows *p, const struct group *g) /* tokens per us */
{
	return g->nodes * p->s->engine.prefill_tokens_per_s / 1e6;
}

static double rho(const struct flows *p, const struct group *g)
{
	double r = g->rate / prefill_rate(p, g);
	return r < RHO_MOST ? r : RHO_MOST;
}

/* Probability of a wait for prefill, and its mean over all (Sakasegawa 1977). */
static double wait_share(double r, double nodes)
{
	return pow(r, sqrt(2 * (nodes + 1)) - 1);
}

static double wait_us(const struct flows *p, const struct group *g)
{
	double r = rho(p, g), each_us = p->uncached * 1e6 / p->s->engine.prefill_tokens_per_s;
	return p->spread * wait_share(r, g->nodes) / (g->nodes * (1 - r)) * each_us;
}

static void work_on(struct flows *p, struct group *g, double us)
{
	double itl = itl_us(p, g), tokens = us / itl, done = 0;
	while (tokens > 0) {
		double *left = &g->calendar[g->bin % p->bins], room = p->bin - g->into;
		double part = tokens >= room ? *left : *left * tokens / room;
		*left -= part;
		done += part;
		if (tokens >= room) {
			g->bin++;
			g->into = 0;
		} else {
			g->into += tokens;
		}
		tokens -= room;
	}
	g->running -= done;
	if (g->running < DUST)
		g->running = 0;
	if (done > 0)
		histogram_add(&p->f->itl, itl, done);
}

static void enter(struct flows *p, struct group *g, double count, double local_us)
{
	double itl = itl_us(p, g), share = count / QUANTILES;
	double begin = g->into + local_us / itl;
	g->running += count;
	for (unsigned i = 0; i < QUANTILES; i++) {
		uint64_t after = (uint64_t)((begin + p->lengths[i]) / p->bin);
		after = after < p->bins ? after : p->bins - 1;
		g->calendar[(g->bin + after) % p->bins] += share;
	}
}

/* With its first token it counts as served. */
static void admit(struct flows *p, uint32_t at, const struct waiting *v, double count)
{
	struct group *g = &p->groups[at];
	uint32_t site = p->w.nodes[at].site;
	double share = wait_share(rho(p, g), g->nodes), mean_us = wait_us(p, g);
	double base_us = (double)(p->now_us - v->since_us + v->way_us) + g->backlog / prefill_rate(p, g);
	double us_per_token = 1e6 / p->s->engine.prefill_tokens_per_s;
	for (unsigned i = 0; i < PROMPTS; i++) {
		double us = base_us + p->prompts[i] * us_per_token, each = count / PROMPTS;
		figures_ttft(p->f, us, each * (1 - share));
		for (unsigned k = 0; k < WAITS && share > DUST; k++)
			figures_ttft(p->f, us - log(1 - (k + 0.5) / WAITS) * mean_us / share, each * share / WAITS);
	}
	figures_served(p->f, &p->w, v->city, site, v->model, count);
	enter(p, g, count, g->backlog / prefill_rate(p, g) + mean_us + p->uncached * us_per_token);
}

static double free_slots(const struct flows *p, const struct group *g)
{
	double left = g->nodes * p->slots - g->running;
	return left > 0 ? left : 0;
}

static double free_places(const struct flows *p, const struct group *g)
{
	double most = g->nodes * admission_ceiling((int32_t)p->s->engine.queue, CLASS_NORMAL);
	return g->queued < most ? most - g->queued : 0;
}

static void refill(struct flows *p, uint32_t at)
{
	struct group *g = &p->groups[at];
	while (g->count > 0) {
		struct waiting *v = &g->waiting[g->first];
		double room = free_slots(p, g), count = v->count < room ? v->count : room;
		bool late = p->now_us - v->since_us >= p->s->engine.queue_wait_us;
		if (late)
			figures_busy(p->f, v->count, false);
		else if (count > DUST)
			admit(p, at, v, count);
		else
			return;
		count = late ? v->count : count;
		v->count -= count;
		g->queued -= count;
		if (v->count > DUST)
			return;
		g->first = (g->first + 1) % g->cap;
		g->count--;
	}
	g->queued = 0;
}

static void pass(struct flows *p, uint32_t at)
{
	struct group *g = &p->groups[at];
	double us = (double)(p->now_us - g->at_us);
	if (us <= 0 || g->dead)
		return;
	if (p->now_us <= p->s->duration_us)
		p->f->lines[p->f->line].streams += g->running * us;
	g->backlog += (g->rate - prefill_rate(p, g)) * us;
	if (g->backlog < 0)
		g->backlog = 0;
	g->rate *= exp(-us / RATE_US);
	work_on(p, g, us);
	g->at_us = p->now_us;
	refill(p, at);
}

static void wait_in(struct group *g, const struct waiting *v)
{
	if (g->count == g->cap) {
		uint32_t cap = g->cap ? g->cap * 2 : 8;
		struct waiting *items = mem_resize(NULL, cap, sizeof(*items));
		for (uint32_t i = 0; i < g->count; i++)
			items[i] = g->waiting[(g->first + i) % g->cap];
		free(g->waiting);
		g->waiting = items;
		g->first = 0;
		g->cap = cap;
	}
	g->waiting[(g->first + g->count++) % g->cap] = *v;
	g->queued += v->count;
}

/* ---- reports --------------------------------------------------------------------------------- */

static void report(struct flows *p, uint32_t at)
{
	struct group *g = &p->groups[at];
	const struct scenario_engine *e = &p->s->engine;
	struct model_report *models = p->report.models;
	struct error err;
	double tokens =
	    g->backlog / g->nodes + rho(p, g) * p->spread * p->uncached + wait_us(p, g) * g->rate / g->nodes;
	if (g->dead)
		return;
	dispatch_report(&p->d, at, &p->report);
	p->report.models = models;
	for (uint32_t m = 0; m < p->s->model_count; m++) {
		if (!(p->w.nodes[at].models >> m & 1))
			continue;
		struct model_report *to = &models[p->report.model_count++];
		str_copy(str_from(p->w.model_names[m]), to->name, sizeof(to->name));
		to->state = MODEL_READY;
		to->running = (int32_t)(g->running / g->nodes);
		to->waiting = (int32_t)ceil(g->queued / g->nodes);
		to->slots = (int32_t)p->slots;
		to->kv_usage = fmin(g->running / g->nodes / p->slots, 1);
		to->tokens_to_prefill = (int64_t)tokens;
		to->prefill_tokens_per_s = e->prefill_tokens_per_s;
		to->itl_us = itl_us(p, g);
		to->decode_tokens_per_s = 1e6 / to->itl_us;
	}
	p->report.seq = ++g->seq;
	int rc = node_map_report(p->d.map, &p->report, p->now_us, &err);
	assert(rc == 0);
}

/* ---- parcels --------------------------------------------------------------------------------- */

static double exact_load(const void *arg, uint32_t at)
{
	const struct flows *p = arg;
	const struct group *g = &p->groups[at];
	return g->dead ? 1e9 : (g->running + g->queued) / g->nodes;
}

static bool room_anywhere(const struct flows *p, uint32_t model)
{
	for (uint32_t i = 0; i < p->w.node_count; i++)
		if (!p->groups[i].dead && p->w.nodes[i].models >> model & 1 &&
		    free_slots(p, &p->groups[i]) + free_places(p, &p->groups[i]) >= 1)
			return true;
	return false;
}

/* The gateway whose address answers; NONE: none does. */
static uint32_t entry(struct flows *p, const struct parcel *v, int64_t *ret_way_us)
{
	struct dispatch_answer a = dispatch_resolve(&p->d, v->city, v->model, p->now_us);
	for (unsigned i = 0; i < a.count; i++) {
		uint32_t site = p->w.nodes[a.nodes[i]].site;
		if (p->groups[a.nodes[i]].dead)
			continue;
		*ret_way_us = sim_rtt_us(&p->w, v->city, site) + p->s->network.access_us;
		return site;
	}
	return NONE;
}

static double take(struct flows *p, uint32_t at, const struct waiting *v, double count)
{
	struct group *g = &p->groups[at];
	pass(p, at);
	double now = g->count > 0 ? 0 : fmin(count, free_slots(p, g));
	double later = fmin(count - now, free_places(p, g));
	g->rate += (now + later) * p->uncached / RATE_US;
	if (now > 0)
		admit(p, at, v, now);
	if (later > DUST) {
		struct waiting waits = *v;
		waits.count = later;
		wait_in(g, &waits);
	}
	report(p, at);
	return now + later;
}

static void send(struct flows *p, const struct parcel *v)
{
	uint32_t excluded[SCENARIO_TRIES_MAX], tries = 0;
	int64_t entry_us = 0;
	uint32_t site = entry(p, v, &entry_us);
	double left = v->count;
	if (site == NONE) {
		figures_lost(p->f, left);
		return;
	}
	while (left > DUST && tries < p->s->gateway.tries) {
		uint32_t at = dispatch_decide(&p->d, site, v->model, (int32_t)p->uncached, excluded, tries, p->now_us,
		                              exact_load, p);
		if (at == NONE)
			break;
		p->f->wrong += !(p->w.nodes[at].models >> v->model & 1);
		struct waiting w = {left, v->city, v->model, p->now_us,
		                    entry_us + sim_rtt_us(&p->w, site, p->w.nodes[at].site)};
		left -= take(p, at, &w, left);
		excluded[tries++] = at;
		p->f->retries += left > DUST ? left : 0;
	}
	if (left > DUST)
		figures_busy(p->f, left, room_anywhere(p, v->model));
}

static double poisson(struct rng *rng, double mean)
{
	if (mean > 64) {
		double x = mean + sqrt(mean) * sim_normal_at(rng_unit(rng)) + 0.5;
		return x > 0 ? floor(x) : 0;
	}
	double limit = exp(-mean), product = rng_unit(rng), n = 0;
	while (product > limit) {
		product *= rng_unit(rng);
		n += 1;
	}
	return n;
}

static void add_parcel(struct flows *p, double count, uint32_t city, uint32_t model)
{
	if (p->parcel_count == p->parcel_cap) {
		p->parcel_cap = p->parcel_cap ? p->parcel_cap * 2 : 256;
		p->parcels = mem_resize(p->parcels, p->parcel_cap, sizeof(*p->parcels));
	}
	uint32_t at = (uint32_t)rng_below(&p->rng, ++p->parcel_count); /* shuffled as it grows */
	p->parcels[p->parcel_count - 1] = p->parcels[at];
	p->parcels[at] = (struct parcel){count, city, model};
}

static void arrivals(struct flows *p, double step_us)
{
	double largest = PARCEL_SHARE * p->slots * p->world->node_count / p->w.site_count;
	double rate = sim_rate(p->s, p->now_us);
	for (uint32_t m = 0; m < p->s->model_count; m++) {
		for (uint32_t c = 0; c < p->w.city_count; c++) {
			const struct sim_city *city = &p->w.cities[c];
			double flash = p->s->flash_count ? sim_flash(p->s, p->now_us, m, city->region) : 1;
			double mean = rate * flash * city->weight * p->s->models[m].share * step_us / 1e6;
			double n = poisson(&p->rng, mean), cuts = ceil(n / fmax(largest, 1));
			cuts = cuts > PARCELS_MOST ? PARCELS_MOST : cuts;
			figures_request(p->f, n);
			for (uint32_t i = 0; i < (uint32_t)cuts; i++) {
				double from = floor(n * i / cuts);
				add_parcel(p, floor(n * (i + 1) / cuts) - from, c, m);
			}
		}
	}
}

/* ---- mishaps --------------------------------------------------------------------------------- */

static void lose(struct flows *p, uint32_t at)
{
	struct group *g = &p->groups[at];
	char id[NODE_ID_SIZE];
	p->f->served -= g->running; /* counted with their first tokens */
	figures_lost(p->f, g->running);
	for (; g->count > 0; g->count--) { /* no token yet: elsewhere */
		add_parcel(p, g->waiting[g->first].count, g->waiting[g->first].city, g->waiting[g->first].model);
		g->first = (g->first + 1) % g->cap;
	}
	memset(g->calendar, 0, p->bins * sizeof(double));
	g->running = g->queued = g->rate = g->backlog = 0;
	dispatch_node_id(at, id);
	node_map_remove(p->d.map, str_from(id));
}

static void mishaps(struct flows *p)
{
	for (uint32_t at = 0; at < p->w.node_count; at++) {
		struct group *g = &p->groups[at];
		bool dead = false;
		for (uint32_t i = 0; i < p->s->failure_count; i++) {
			const struct scenario_failure *f = &p->s->failures[i];
			dead = dead || (p->w.nodes[at].site + 1 == (uint32_t)f->site && p->now_us >= f->at_us &&
			                p->now_us < f->at_us + f->lasts_us);
		}
		if (dead && !g->dead)
			lose(p, at);
		if (!dead && g->dead)
			g->at_us = p->now_us;
		g->dead = dead;
	}
}

/* ---- all of it ------------------------------------------------------------------------------- */

static void make_groups(struct flows *p)
{
	const struct sim_world *w = p->world;
	struct sim_node *nodes = mem_new(w->node_count * sizeof(*nodes));
	uint32_t count = 0;
	p->groups = mem_new(w->node_count * sizeof(*p->groups));
	p->w.site_first = mem_new(w->site_count * sizeof(uint32_t));
	p->w.site_nodes = mem_new(w->site_count * sizeof(uint32_t));
	for (uint32_t s = 0; s < w->site_count; s++) {
		p->w.site_first[s] = count;
		for (uint32_t n = w->site_first[s]; n < w->site_first[s] + w->site_nodes[s]; n++) {
			uint32_t g = p->w.site_first[s];
			while (g < count && nodes[g].models != w->nodes[n].models)
				g++;
			if (g == count)
				nodes[count++] = w->nodes[n];
			p->groups[g].nodes++;
		}
		p->w.site_nodes[s] = count - p->w.site_first[s];
	}
	p->w.nodes = nodes;
	p->w.node_count = count;
	p->groups = mem_resize(p->groups, count, sizeof(*p->groups));
}

static void settle_lengths(struct flows *p)
{
	const struct scenario_tokens *t = &p->s->tokens;
	double mean = sim_tokens_mean(t->output_median, t->output_sigma, t->output_most), sum = 0, squares = 0;
	double kv = mean + sim_tokens_mean(t->prompt_median, t->prompt_sigma, t->prompt_most);
	for (unsigned i = 0; i < QUANTILES; i++)
		sum += p->lengths[i] =
		    sim_tokens_at(t->output_median, t->output_sigma, t->output_most, (i + 0.5) / QUANTILES);
	for (unsigned i = 0; i < QUANTILES; i++) /* the last stands for its tail: the mean must be right */
		p->lengths[i] *= i + 1 < QUANTILES ? 1 : (mean * QUANTILES - sum + p->lengths[i]) / p->lengths[i];
	for (unsigned i = 0; i < 512; i++) {
		double x = sim_tokens_at(t->prompt_median, t->prompt_sigma, t->prompt_most, (i + 0.5) / 512);
		p->uncached += x * (1 - t->cached_share) / 512;
		squares += x * x * (1 - t->cached_share) * (1 - t->cached_share) / 512;
	}
	for (unsigned i = 0; i < PROMPTS; i++)
		p->prompts[i] = sim_tokens_at(t->prompt_median, t->prompt_sigma, t->prompt_most, (i + 0.5) / PROMPTS) *
		                (1 - t->cached_share);
	p->uncached = fmax(p->uncached, 1);
	p->spread = fmax(squares / (p->uncached * p->uncached), 1) / 2;
	p->slots = fmin(p->s->engine.slots, p->s->engine.kv_tokens / kv);
	p->bin = fmax(1, mean * BIN_SHARE);
	double wait_tokens = 600e6 / (double)p->s->engine.itl_base_us; /* of prefill, at most */
	p->bins = (uint32_t)((fmax(t->output_most, p->lengths[QUANTILES - 1]) + wait_tokens) / p->bin) + 4;
}

static void flows_init(struct flows *p, const struct sim_world *w, enum sim_policy policy, struct figures *f)
{
	*p = (struct flows){.world = w, .w = *w, .s = w->scenario, .f = f};
	rng_init(&p->rng, p->s->seed * 104729 + 2);
	make_groups(p);
	settle_lengths(p);
	dispatch_init(&p->d, &p->w, policy, true);
	p->report.models = mem_new(p->s->model_count * sizeof(struct model_report));
	p->d.weights = mem_new(p->w.node_count * sizeof(double));
	for (uint32_t i = 0; i < p->w.node_count; i++) {
		p->d.weights[i] = p->groups[i].nodes;
		p->groups[i].calendar = mem_new(p->bins * sizeof(double));
		report(p, i);
	}
}

static void flows_fini(struct flows *p)
{
	for (uint32_t i = 0; i < p->w.node_count; i++) {
		free(p->groups[i].calendar);
		free(p->groups[i].waiting);
	}
	dispatch_fini(&p->d);
	free(p->groups);
	free(p->parcels);
	free(p->report.models);
	free(p->w.nodes);
	free(p->w.site_first);
	free(p->w.site_nodes);
}

static void step(struct flows *p, int64_t begin_us, bool open)
{
	int64_t step_us = p->s->step_us;
	p->now_us = begin_us;
	p->parcel_count = 0;
	figures_turn(p->f, p->world, begin_us);
	if (p->s->failure_count > 0)
		mishaps(p);
	for (uint32_t i = 0; i < p->w.node_count; i++) {
		pass(p, i);
		report(p, i);
	}
	if (open)
		arrivals(p, (double)step_us);
	for (uint32_t i = 0; i < p->parcel_count; i++) {
		p->now_us = begin_us + (int64_t)((double)step_us * (i + 0.5) / p->parcel_count);
		struct parcel v = p->parcels[i];
		send(p, &v);
	}
}

void sim_serve_flows(const struct sim_world *w, enum sim_policy policy, struct figures *f)
{
	struct flows p;
	int64_t now_us = 0, end_us = w->scenario->duration_us;
	flows_init(&p, w, policy, f);
	for (; now_us < end_us; now_us += w->scenario->step_us)
		step(&p, now_us, true);
	for (; now_us < end_us + w->scenario->engine.queue_wait_us + 2 * w->scenario->step_us;
	     now_us += w->scenario->step_us)
		step(&p, now_us, false); /* who waits is answered, or told that it is too late */
	f->decisions = p.d.decisions;
	f->decision_s = p.d.decision_s;
	flows_fini(&p);
}
