/* SPDX-License-Identifier: Apache-2.0 */
/* distribute.c - steps of one chunk's time of the quickest node: flows move, chunks arrive, plans are asked.
 *
 * Node 0 is the origin, at site 0. Capacities: two a node (up, down), two a site (out, in). A transfer is a request of
 * one node to another: waiting there for the chunk, a flow, or hanging because the other is dead.
 */
#include "sim/distribute.h"

#include "base/rng.h"
#include "base/str.h"
#include "core/chunk_plan.h"
#include "core/spread.h"
#include "sim/fluid.h"

#include <assert.h>
#include <stdlib.h>

#define FLIGHTS 32 /* fetch_parallel */
#define NONE UINT32_MAX
#define POLL_US INT64_C(500000)
#define POLL_NEEDY_US INT64_C(100000)
#define WAIT_US INT64_C(8000000)
#define STALL_US INT64_C(3000000)
#define DOWN_US INT64_C(2500000) /* until the center knows that a node is dead */
#define REPLAN_US INT64_C(1000000)
#define MEASURED_US INT64_C(5000000)

enum { WAITING, FLOWING, HANGING };

struct transfer {
	uint32_t from, to, chunk, flow, next; /* next: in from's list of waiting ones, or of spare ones */
	int state;
	int64_t started_us, until_us;
};

struct peer {
	uint32_t site;
	double rate;
	struct chunk_plan *plan;             /* the origin has none */
	uint32_t sources[CHUNK_SOURCES_MAX]; /* source number -> node, or NONE; 0 is the origin */
	uint32_t transfers[FLIGHTS], transfer_count;
	uint32_t waiting; /* transfers that wait for a chunk here */
	bool dead, stale;
	int64_t joins_us, dies_us, done_us;
	struct spread_progress progress;
	double counted, rate_now; /* bytes received when it was last looked; as a node reports it */
};

struct sim {
	const struct sim_options *o;
	struct peer *peers;
	uint32_t count, site_base;
	double chunk_bytes;
	struct fluid fluid;
	uint32_t *owner; /* flow -> transfer */
	uint32_t owner_cap;
	struct transfer *transfers;
	uint32_t transfer_count, transfer_cap, spare;
	int64_t now_us, step_us, replanned_us, rated_us;
	bool replan;
	double duplicates;
	uint32_t done;
};

static uint32_t up_of(uint32_t node)
{
	return 2 * node;
}

static uint32_t down_of(uint32_t node)
{
	return 2 * node + 1;
}

static bool holds(const struct sim *s, uint32_t node, uint32_t chunk)
{
	return node == 0 || chunk_plan_has(s->peers[node].plan, chunk);
}

/* ---- transfers -------------------------------------------------------------------------------------- */

static uint32_t transfer_new(struct sim *s)
{
	if (s->spare != NONE) {
		uint32_t at = s->spare;
		s->spare = s->transfers[at].next;
		return at;
	}
	if (s->transfer_count == s->transfer_cap) {
		s->transfer_cap = s->transfer_cap ? 2 * s->transfer_cap : 4096;
		s->transfers = realloc(s->transfers, s->transfer_cap * sizeof *s->transfers);
		if (!s->transfers)
			abort();
	}
	return s->transfer_count++;
}

static void transfer_flow(struct sim *s, uint32_t at, int64_t delay_us)
{
	struct transfer *t = &s->transfers[at];
	uint32_t from = s->peers[t->from].site, to = s->peers[t->to].site;
	uint32_t uses[4] = {up_of(t->from), down_of(t->to), s->site_base + 2 * from, s->site_base + 2 * to + 1};
	t->state = FLOWING;
	t->started_us = s->now_us;
	t->flow = fluid_start(&s->fluid, uses, from == to ? 2 : 4, s->chunk_bytes, s->now_us + delay_us);
	if (t->flow >= s->owner_cap) {
		s->owner_cap = 2 * t->flow + 1024;
		s->owner = realloc(s->owner, s->owner_cap * sizeof *s->owner);
		if (!s->owner)
			abort();
	}
	s->owner[t->flow] = at;
}

static void waiting_unlink(struct sim *s, uint32_t at)
{
	uint32_t *link = &s->peers[s->transfers[at].from].waiting;
	while (*link != at)
		link = &s->transfers[*link].next;
	*link = s->transfers[at].next;
}

/* Forgets it: from both ends, and the flow. */
static void transfer_end(struct sim *s, uint32_t at)
{
	struct transfer *t = &s->transfers[at];
	struct peer *to = &s->peers[t->to];
	uint32_t i = 0;
	if (t->state == WAITING)
		waiting_unlink(s, at);
	if (t->state == FLOWING && s->fluid.flows[t->flow].live)
		fluid_end(&s->fluid, t->flow);
	while (to->transfers[i] != at)
		i++;
	to->transfers[i] = to->transfers[--to->transfer_count];
	t->next = s->spare;
	s->spare = at;
}

static uint32_t source_of(const struct peer *p, uint32_t node)
{
	for (uint32_t i = 0; i < CHUNK_SOURCES_MAX; i++)
		if (p->sources[i] == node)
			return i;
	return NONE;
}

static void transfer_fail(struct sim *s, uint32_t at, enum chunk_failure why)
{
	struct transfer t = s->transfers[at];
	struct peer *to = &s->peers[t.to];
	transfer_end(s, at);
	uint32_t source = source_of(to, t.from);
	if (source != NONE)
		chunk_plan_failed(to->plan, t.chunk, source, why, s->now_us);
	to->stale = true;
}

static int64_t rtt_us(const struct sim *s, uint32_t a, uint32_t b)
{
	bool near = s->peers[a].site == s->peers[b].site;
	return (int64_t)((near ? s->o->rtt_s : s->o->wan_rtt_s) * 1e6);
}

static void ask(struct sim *s, uint32_t node)
{
	struct peer *p = &s->peers[node];
	struct chunk_request q;
	p->stale = false;
	while (p->transfer_count < FLIGHTS && chunk_plan_next(p->plan, s->now_us, &q)) {
		uint32_t at = transfer_new(s), from = p->sources[q.source];
		struct transfer *t = &s->transfers[at];
		*t = (struct transfer){.from = from, .to = node, .chunk = q.chunk, .started_us = s->now_us};
		p->transfers[p->transfer_count++] = at;
		if (s->peers[from].dead) {
			t->state = HANGING;
			t->until_us = s->now_us + STALL_US;
		} else if (holds(s, from, q.chunk)) {
			transfer_flow(s, at, rtt_us(s, from, node));
		} else if (q.wait) {
			t->state = WAITING;
			t->until_us = s->now_us + WAIT_US;
			t->next = s->peers[from].waiting;
			s->peers[from].waiting = at;
		} else {
			t->state = HANGING;
			transfer_fail(s, at, CHUNK_NOT_YET);
			p->stale = false;
		}
	}
}

/* ---- arrivals --------------------------------------------------------------------------------------- */

static void serve_waiting(struct sim *s, uint32_t node, uint32_t chunk)
{
	for (uint32_t at = s->peers[node].waiting, next; at != NONE; at = next) {
		next = s->transfers[at].next;
		if (s->transfers[at].chunk == chunk) {
			waiting_unlink(s, at);
			transfer_flow(s, at, rtt_us(s, node, s->transfers[at].to) / 2);
		}
	}
}

static void drop_twins(struct sim *s, uint32_t node, uint32_t chunk)
{
	struct peer *p = &s->peers[node];
	for (uint32_t i = p->transfer_count; i-- > 0;) {
		struct transfer *t = &s->transfers[p->transfers[i]];
		if (t->chunk != chunk)
			continue;
		if (t->state == FLOWING)
			s->duplicates += s->chunk_bytes - s->fluid.flows[t->flow].left;
		transfer_fail(s, p->transfers[i], CHUNK_GIVEN_UP);
	}
}

static void on_flow_end(void *arg, uint32_t flow)
{
	struct sim *s = arg;
	uint32_t at = s->owner[flow];
	struct transfer t = s->transfers[at];
	struct peer *p = &s->peers[t.to];
	int64_t rtt = rtt_us(s, t.from, t.to), took = s->now_us - t.started_us;
	assert(holds(s, t.from, t.chunk)); /* nothing leaves that is not verified there */
	transfer_end(s, at);
	uint32_t source = source_of(p, t.from);
	p->stale = true;
	if (source == NONE)
		return;
	if (chunk_plan_arrived(p->plan, t.chunk, source, rtt, took > 0 ? took : 1, s->now_us)) {
		drop_twins(s, t.to, t.chunk);
		serve_waiting(s, t.to, t.chunk);
	}
	if (chunk_plan_held(p->plan) == s->o->chunks && !p->done_us) {
		p->done_us = s->now_us;
		s->done++;
	}
}

/* ---- the center ------------------------------------------------------------------------------------- */

static bool known_dead(const struct sim *s, const struct peer *p)
{
	return p->dead && s->now_us >= p->dies_us + DOWN_US;
}

static bool takes_part(const struct sim *s, uint32_t node)
{
	const struct peer *p = &s->peers[node];
	return s->now_us >= p->joins_us && !known_dead(s, p);
}

/* What reports say: who is late, who is quick. */
static void measure(struct sim *s)
{
	struct spread_progress *all = mem_new((s->count + 1) * sizeof *all);
	uint32_t *nodes = mem_new((s->count + 1) * sizeof *nodes), count = 0;
	double period = (double)(s->now_us - s->replanned_us) / 1e6;
	bool rates = s->now_us >= s->rated_us + MEASURED_US;
	for (uint32_t i = 1; i < s->count; i++) {
		struct peer *p = &s->peers[i];
		if (!takes_part(s, i))
			continue;
		double got = s->fluid.sent[down_of(i)], now = (got - p->counted) / period;
		bool looked = rates && s->now_us > p->joins_us + MEASURED_US && !p->done_us;
		p->counted = got;
		p->rate_now = p->rate_now > 0 ? 0.6 * p->rate_now + 0.4 * now : now;
		p->progress.site = p->site;
		p->progress.have = chunk_plan_held(p->plan);
		p->progress.measured = looked ? (uint64_t)p->rate_now : 0;
		nodes[count] = i;
		all[count++] = p->progress;
	}
	s->replan |= spread_judge(all, count, s->o->chunks);
	s->rated_us = rates ? s->now_us : s->rated_us;
	for (uint32_t k = 0; k < count; k++)
		s->peers[nodes[k]].progress = all[k];
	free(all);
	free(nodes);
}

static void peer_sources(struct sim *s, struct peer *p, const struct spread *plan, uint32_t index,
                         const uint32_t *nodes)
{
	bool wanted[CHUNK_SOURCES_MAX] = {true};
	uint32_t numbers[SPREAD_STRIPES][SPREAD_PARENTS], counts[SPREAD_STRIPES] = {0};
	for (uint32_t t = 0; t < SPREAD_STRIPES; t++) {
		const uint32_t *parents = spread_parents(plan, index, t);
		for (uint32_t k = 0; k < SPREAD_PARENTS && parents[k] != SPREAD_NONE; k++) {
			uint32_t source = source_of(p, nodes[parents[k]]);
			if (source != NONE)
				wanted[source] = true;
		}
	}
	for (uint32_t i = p->transfer_count; i-- > 0;) { /* what flows from somebody may come to its end */
		uint32_t source = source_of(p, s->transfers[p->transfers[i]].from);
		if (source != NONE && s->transfers[p->transfers[i]].state == FLOWING)
			wanted[source] = true;
	}
	for (uint32_t i = p->transfer_count; i-- > 0;) {
		uint32_t source = source_of(p, s->transfers[p->transfers[i]].from);
		if (source != NONE && !wanted[source])
			transfer_fail(s, p->transfers[i], CHUNK_GIVEN_UP);
	}
	for (uint32_t i = 0; i < CHUNK_SOURCES_MAX; i++) {
		if (p->sources[i] != NONE && !wanted[i]) {
			chunk_plan_drop_source(p->plan, i);
			p->sources[i] = NONE;
		}
	}
	for (uint32_t t = 0; t < SPREAD_STRIPES; t++) {
		const uint32_t *parents = spread_parents(plan, index, t);
		for (uint32_t k = 0; k < SPREAD_PARENTS && parents[k] != SPREAD_NONE; k++) {
			uint32_t source = source_of(p, nodes[parents[k]]);
			if (source == NONE) {
				source = source_of(p, NONE);
				p->sources[source] = nodes[parents[k]];
				chunk_plan_add_source(p->plan, source, false,
				                      s->peers[nodes[parents[k]]].site != p->site);
			}
			numbers[t][counts[t]++] = source;
		}
		chunk_plan_set_parents(p->plan, t, numbers[t], counts[t], spread_rank(plan, index, t));
	}
	p->stale = true;
}

static void replan(struct sim *s)
{
	struct spread_node *in = mem_new((s->count + 1) * sizeof *in);
	uint32_t *nodes = mem_new((s->count + 1) * sizeof *nodes), count = 0;
	for (uint32_t i = 0; i < s->count; i++) {
		const struct peer *p = &s->peers[i];
		if (!takes_part(s, i))
			continue;
		nodes[count] = i;
		in[count++] = (struct spread_node){.key = i * UINT64_C(0x9e3779b97f4a7c15) + s->o->seed,
		                                   .site = p->site,
		                                   .rate = p->progress.rate,
		                                   .origin = i == 0,
		                                   .complete = i && p->done_us,
		                                   .leaf = p->progress.late,
		                                   .behind = p->progress.behind};
	}
	struct spread *plan = spread_new(in, count, s->o->seed);
	for (uint32_t k = 0; k < count; k++) {
		struct peer *p = &s->peers[nodes[k]];
		if (nodes[k] && !p->dead && !p->done_us)
			peer_sources(s, p, plan, k, nodes);
	}
	spread_free(plan);
	free(in);
	free(nodes);
}

/* ---- time ------------------------------------------------------------------------------------------- */

static void die(struct sim *s, uint32_t node)
{
	struct peer *p = &s->peers[node];
	p->dead = true;
	while (p->transfer_count)
		transfer_end(s, p->transfers[p->transfer_count - 1]);
	for (uint32_t i = 0; i < s->transfer_count; i++) {
		struct transfer *t = &s->transfers[i];
		struct peer *to = &s->peers[t->to];
		bool in_use = false;
		for (uint32_t k = 0; k < to->transfer_count; k++)
			in_use = in_use || to->transfers[k] == i;
		if (!in_use || t->from != node || t->state == HANGING)
			continue;
		if (t->state == WAITING)
			waiting_unlink(s, i);
		else
			fluid_end(&s->fluid, t->flow);
		t->state = HANGING;
		t->until_us = s->now_us + STALL_US;
	}
}

static void happen(struct sim *s)
{
	for (uint32_t i = 0; i < s->count; i++) {
		struct peer *p = &s->peers[i];
		if (p->dies_us && !p->dead && s->now_us >= p->dies_us && !p->done_us)
			die(s, i);
		if (p->dead && s->now_us >= p->dies_us + DOWN_US && s->now_us < p->dies_us + DOWN_US + s->step_us)
			s->replan = true;
		if (p->joins_us && s->now_us >= p->joins_us && s->now_us < p->joins_us + s->step_us)
			s->replan = true;
	}
	if (s->o->origin_dies_copies > 0 && !s->peers[0].dead &&
	    s->fluid.sent[up_of(0)] >= s->o->origin_dies_copies * s->o->size) {
		s->peers[0].dies_us = s->now_us;
		die(s, 0);
	}
}

static void poll(struct sim *s, uint32_t node)
{
	struct peer *p = &s->peers[node];
	for (uint32_t i = 1; i < CHUNK_SOURCES_MAX; i++)
		if (p->sources[i] != NONE && !s->peers[p->sources[i]].dead)
			chunk_plan_offer(p->plan, i, chunk_plan_bitmap(s->peers[p->sources[i]].plan));
	for (uint32_t i = p->transfer_count; i-- > 0;) {
		struct transfer *t = &s->transfers[p->transfers[i]];
		if (t->state != FLOWING && s->now_us >= t->until_us)
			transfer_fail(s, p->transfers[i], t->state == HANGING ? CHUNK_BROKEN : CHUNK_GIVEN_UP);
	}
	p->stale = true;
}

void sim_network_init(struct sim_network *n, const struct sim_options *o)
{
	struct rng rng;
	rng_init(&rng, o->seed);
	n->rates = mem_new((o->nodes + 1) * sizeof *n->rates);
	n->sites = mem_new((o->nodes + 1) * sizeof *n->sites);
	n->wan = mem_new((o->sites + 1) * sizeof *n->wan);
	n->population = mem_new((o->sites + 1) * sizeof *n->population);
	for (uint32_t i = 0; i <= o->nodes; i++) {
		double rate = i ? o->rates[((i - 1) / o->sites) % o->rate_count] : o->origin_rate;
		n->sites[i] = i ? 1 + (i - 1) % o->sites : 0;
		n->rates[i] = i && rng_unit(&rng) < o->slow_share ? rate * o->slow_factor : rate;
		n->wan[n->sites[i]] += n->rates[i];
		n->population[n->sites[i]]++;
	}
	for (uint32_t k = 1; k <= o->sites && o->wan_rate > 0; k++)
		n->wan[k] = o->wan_rate;
}

void sim_network_fini(struct sim_network *n)
{
	free(n->rates);
	free(n->sites);
	free(n->wan);
	free(n->population);
}

static void capacities(struct sim *s)
{
	struct sim_network n;
	sim_network_init(&n, s->o);
	fluid_init(&s->fluid, 2 * s->count + 2 * (s->o->sites + 1));
	s->site_base = 2 * s->count;
	for (uint32_t i = 0; i < s->count; i++) {
		s->peers[i].site = n.sites[i];
		s->peers[i].rate = s->fluid.caps[up_of(i)] = s->fluid.caps[down_of(i)] = n.rates[i];
	}
	for (uint32_t k = 0; k <= s->o->sites; k++)
		s->fluid.caps[s->site_base + 2 * k] = s->fluid.caps[s->site_base + 2 * k + 1] = n.wan[k];
	sim_network_fini(&n);
}

/* No way of sending is quicker: own way, the site's, the origin's, and all ways up together. */
static double bound_of(const struct sim *s)
{
	double slowest = 1e300, sum = 0, n = 0;
	for (uint32_t i = 0; i < s->count; i++) {
		const struct peer *p = &s->peers[i];
		double in = s->fluid.caps[s->site_base + 2 * p->site + 1];
		sum += i == 0 || p->dies_us == 0 ? p->rate : 0;
		if (i == 0 || p->dies_us)
			continue;
		n++;
		slowest = p->rate < slowest ? p->rate : slowest;
		slowest = in < slowest ? in : slowest;
	}
	slowest = s->peers[0].rate < slowest ? s->peers[0].rate : slowest;
	double together = n * s->o->size / sum, alone = s->o->size / slowest;
	return together > alone ? together : alone;
}

static int by_time(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return x < y ? -1 : x > y;
}

static void conclude(struct sim *s, struct sim_result *r)
{
	const struct sim_options *o = s->o;
	double *times = mem_new((s->count + 1) * sizeof *times);
	for (uint32_t i = 1; i < s->count; i++) {
		r->alive += !s->peers[i].dead;
		if (s->peers[i].done_us)
			times[r->finished++] = (double)(s->peers[i].done_us - s->peers[i].joins_us) / 1e6;
	}
	qsort(times, r->finished, sizeof *times, by_time);
	if (r->finished) {
		r->last_s = times[r->finished - 1];
		r->median_s = times[r->finished / 2];
	}
	r->origin_copies = s->fluid.sent[up_of(0)] / o->size;
	for (uint32_t k = 1; k <= o->sites; k++) {
		double in = s->fluid.sent[s->site_base + 2 * k + 1] / o->size;
		double out = s->fluid.sent[s->site_base + 2 * k] / o->size;
		r->wan_copies = in > r->wan_copies ? in : r->wan_copies;
		r->wan_copies_out = out > r->wan_copies_out ? out : r->wan_copies_out;
	}
	r->duplicates = s->duplicates / (o->size * (double)(s->count - 1));
	free(times);
}

static bool over(const struct sim *s)
{
	for (uint32_t i = 1; i < s->count; i++)
		if (!s->peers[i].done_us && !s->peers[i].dead)
			return false;
	return true;
}

void sim_distribute(const struct sim_options *o, struct sim_result *ret_result)
{
	struct sim s = {.o = o, .count = o->nodes + 1, .spare = NONE, .chunk_bytes = o->size / o->chunks};
	struct rng rng;
	double quickest = 0;
	rng_init(&rng, o->seed + 1);
	*ret_result = (struct sim_result){0};
	s.peers = mem_new(s.count * sizeof *s.peers);
	capacities(&s);
	for (uint32_t i = 0; i < s.count; i++)
		quickest = s.peers[i].rate > quickest && i ? s.peers[i].rate : quickest;
	quickest = quickest < o->origin_rate ? quickest : o->origin_rate;
	s.step_us = (int64_t)(s.chunk_bytes / quickest * 1e6) + 1;
	double bound = bound_of(&s);
	for (uint32_t i = 0; i < s.count; i++) {
		struct peer *p = &s.peers[i];
		p->waiting = NONE;
		memset(p->sources, 0xff, sizeof p->sources);
		if (i == 0)
			continue;
		if (rng_unit(&rng) < o->failing)
			p->dies_us = 1 + (int64_t)(rng_unit(&rng) * bound * 1e6);
		else if (rng_unit(&rng) < o->late)
			p->joins_us = (int64_t)(bound * 0.5e6);
		p->plan = chunk_plan_new(o->chunks, NULL, rng_next(&rng), p->joins_us);
		p->sources[0] = 0;
		chunk_plan_add_source(p->plan, 0, true, true);
	}
	ret_result->bound_s = bound_of(&s);
	double give_up = o->give_up_s > 0 ? o->give_up_s : 50 * ret_result->bound_s;
	uint32_t polls = (uint32_t)(POLL_US / s.step_us) + 1;
	uint32_t needy = (uint32_t)(POLL_NEEDY_US / s.step_us) + 1;
	replan(&s);
	for (uint32_t turn = 0; !over(&s) && (double)s.now_us < give_up * 1e6; turn++) {
		for (uint32_t i = 1; i < s.count; i++) {
			struct peer *p = &s.peers[i];
			if (p->dead || p->done_us || s.now_us < p->joins_us)
				continue;
			if ((turn + i) % (chunk_plan_in_need(p->plan) ? needy : polls) == 0)
				poll(&s, i);
			if (p->stale)
				ask(&s, i);
		}
		s.now_us += s.step_us;
		fluid_step(&s.fluid, s.now_us, s.step_us, on_flow_end, &s);
		happen(&s);
		if (s.now_us - s.replanned_us >= REPLAN_US && !o->center_dies) {
			measure(&s);
			s.replanned_us = s.now_us;
			if (s.replan)
				replan(&s);
			s.replan = false;
		}
	}
	conclude(&s, ret_result);
	for (uint32_t i = 1; i < s.count; i++)
		chunk_plan_free(s.peers[i].plan);
	fluid_fini(&s.fluid);
	free(s.peers);
	free(s.owner);
	free(s.transfers);
}
