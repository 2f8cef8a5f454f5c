/* SPDX-License-Identifier: Apache-2.0 */
/* rivals.c - star, tree and chain by calculation; a BitTorrent-like swarm over the same fluid.
 *
 * The swarm is kind to BitTorrent: no messages, no choking rounds, every neighbour's pieces known at once. Each node
 * has NEIGHBOURS random ones, sends to at most UPLOADS at a time, any piece the other lacks, the rarest of a few drawn.
 */
#include "base/rng.h"
#include "base/str.h"
#include "sim/distribute.h"
#include "sim/fluid.h"

#include <stdlib.h>

#define NEIGHBOURS 20u
#define UPLOADS 5u
#define DRAWN 8u
#define RETRY_STEPS 4u

static double rate_at(const struct sim_network *n, uint32_t node)
{
	return n->rates[node];
}

/* Everybody from the origin at once; a site's share of its link among its nodes. */
static double star(const struct sim_options *o, const struct sim_network *n)
{
	double last = o->size * (double)o->nodes / n->rates[0];
	for (uint32_t i = 1; i <= o->nodes; i++) {
		double alone = o->size / rate_at(n, i),
		       site = o->size * n->population[n->sites[i]] / n->wan[n->sites[i]];
		last = alone > last ? alone : last;
		last = site > last ? site : last;
	}
	return last;
}

/* Each node from (order - 1) / fanout in a random order that knows nothing of sites or rates. */
static double tree(const struct sim_options *o, const struct sim_network *n, uint32_t fanout)
{
	uint32_t *order = mem_new((o->nodes + 1) * sizeof *order);
	double *rate = mem_new((o->nodes + 1) * sizeof *rate), *in = mem_new((o->sites + 1) * sizeof *in), last = 0;
	double *out = mem_new((o->sites + 1) * sizeof *out), *depth = mem_new((o->nodes + 1) * sizeof *depth);
	struct rng rng;
	rng_init(&rng, o->seed);
	for (uint32_t i = 1; i <= o->nodes; i++)
		order[i] = i;
	for (uint32_t i = o->nodes; i > 1; i--) {
		uint32_t k = 1 + (uint32_t)rng_below(&rng, i), swap = order[i];
		order[i] = order[k];
		order[k] = swap;
	}
	for (uint32_t i = 1; i <= o->nodes; i++) {
		uint32_t from = n->sites[order[(i - 1) / fanout]], to = n->sites[order[i]];
		in[to] += from != to;
		out[from] += from != to;
	}
	rate[0] = n->rates[0];
	for (uint32_t i = 1; i <= o->nodes; i++) {
		uint32_t above = (i - 1) / fanout, a = order[above], b = order[i];
		uint32_t children = o->nodes - above * fanout < fanout ? o->nodes - above * fanout : fanout;
		double r = n->rates[a] / children;
		r = r < rate[above] ? r : rate[above];
		r = r < n->rates[b] ? r : n->rates[b];
		if (n->sites[a] != n->sites[b]) {
			double w = n->wan[n->sites[b]] / in[n->sites[b]], v = n->wan[n->sites[a]] / out[n->sites[a]];
			r = w < r ? w : r;
			r = v < r ? v : r;
		}
		rate[i] = r;
		depth[i] = depth[above] + o->size / o->chunks / r;
		double done = o->size / r + depth[above];
		last = done > last ? done : last;
	}
	free(order);
	free(rate);
	free(in);
	free(out);
	free(depth);
	return last;
}

/* ---- the swarm -------------------------------------------------------------------------------------- */

struct swarm {
	const struct sim_options *o;
	const struct sim_network *n;
	struct fluid fluid;
	uint64_t **have, **coming;
	uint32_t *held, *rarity, *uploads, *idle;
	uint32_t (*near)[NEIGHBOURS];
	uint32_t (*flows)[3]; /* from, to, piece */
	uint32_t flow_cap, words, done;
	struct rng rng;
	double last_s;
	int64_t now_us;
};

static bool wants(const struct swarm *s, uint32_t from, uint32_t to, uint32_t word, uint64_t *ret_bits)
{
	uint64_t all = from ? s->have[from][word] : UINT64_MAX;
	if (word == s->words - 1 && s->o->chunks % 64)
		all &= (UINT64_C(1) << (s->o->chunks % 64)) - 1;
	*ret_bits = all & ~s->have[to][word] & ~s->coming[to][word];
	return *ret_bits != 0;
}

/* The rarest of the first few found from a random place on. */
static bool choose_piece(struct swarm *s, uint32_t from, uint32_t to, uint32_t *ret_piece)
{
	uint32_t start = (uint32_t)rng_below(&s->rng, s->words), seen = 0, best = UINT32_MAX;
	for (uint32_t k = 0; k < s->words && seen < DRAWN; k++) {
		uint32_t w = (start + k) % s->words;
		uint64_t bits;
		if (!wants(s, from, to, w, &bits))
			continue;
		for (; bits && seen < DRAWN; bits &= bits - 1, seen++) {
			uint32_t piece = w * 64 + (uint32_t)__builtin_ctzll(bits);
			if (s->rarity[piece] < best) {
				best = s->rarity[piece];
				*ret_piece = piece;
			}
		}
	}
	return best != UINT32_MAX;
}

static void upload(struct swarm *s, uint32_t from)
{
	for (uint32_t tries = 0; tries < NEIGHBOURS && s->uploads[from] < UPLOADS; tries++) {
		uint32_t to = s->near[from][rng_below(&s->rng, NEIGHBOURS)], piece;
		if (to == 0 || to == from || s->held[to] == s->o->chunks || !choose_piece(s, from, to, &piece))
			continue;
		uint32_t a = s->n->sites[from], b = s->n->sites[to], base = 2 * (s->o->nodes + 1);
		uint32_t uses[4] = {2 * from, 2 * to + 1, base + 2 * a, base + 2 * b + 1};
		uint32_t flow = fluid_start(&s->fluid, uses, a == b ? 2 : 4, s->o->size / s->o->chunks,
		                            s->now_us + (int64_t)(1e6 * (a == b ? s->o->rtt_s : s->o->wan_rtt_s)));
		if (flow >= s->flow_cap) {
			s->flow_cap = 2 * flow + 1024;
			s->flows = realloc(s->flows, s->flow_cap * sizeof *s->flows);
			if (!s->flows)
				abort();
		}
		s->flows[flow][0] = from;
		s->flows[flow][1] = to;
		s->flows[flow][2] = piece;
		s->coming[to][piece / 64] |= UINT64_C(1) << piece % 64;
		s->uploads[from]++;
	}
}

static void on_piece(void *arg, uint32_t flow)
{
	struct swarm *s = arg;
	uint32_t from = s->flows[flow][0], to = s->flows[flow][1], piece = s->flows[flow][2];
	s->uploads[from]--;
	s->have[to][piece / 64] |= UINT64_C(1) << piece % 64;
	s->rarity[piece]++;
	if (++s->held[to] == s->o->chunks) {
		s->done++;
		s->last_s = (double)s->now_us / 1e6;
	}
	upload(s, from);
}

static void swarm_run(struct swarm *s, int64_t step_us)
{
	for (uint32_t turn = 0; s->done < s->o->nodes; turn++) {
		for (uint32_t i = turn % RETRY_STEPS; i <= s->o->nodes; i += RETRY_STEPS)
			if (s->uploads[i] < UPLOADS && (i == 0 || s->held[i]))
				upload(s, i);
		s->now_us += step_us;
		fluid_step(&s->fluid, s->now_us, step_us, on_piece, s);
	}
}

static void torrent(const struct sim_options *o, const struct sim_network *n, struct sim_rivals *r)
{
	uint32_t count = o->nodes + 1;
	struct swarm s = {.o = o, .n = n, .words = (o->chunks + 63) / 64};
	double quickest = 0;
	rng_init(&s.rng, o->seed);
	fluid_init(&s.fluid, 2 * count + 2 * (o->sites + 1));
	s.have = mem_new(count * sizeof *s.have);
	s.coming = mem_new(count * sizeof *s.coming);
	s.held = mem_new(count * sizeof *s.held);
	s.uploads = mem_new(count * sizeof *s.uploads);
	s.near = mem_new(count * sizeof *s.near);
	s.rarity = mem_new(o->chunks * sizeof *s.rarity);
	for (uint32_t i = 0; i < count; i++) {
		s.have[i] = mem_new(s.words * sizeof(uint64_t));
		s.coming[i] = mem_new(s.words * sizeof(uint64_t));
		s.fluid.caps[2 * i] = s.fluid.caps[2 * i + 1] = n->rates[i];
		quickest = i && n->rates[i] > quickest ? n->rates[i] : quickest;
		for (uint32_t k = 0; k < NEIGHBOURS; k++)
			s.near[i][k] = (uint32_t)rng_below(&s.rng, count);
	}
	for (uint32_t k = 0; k <= o->sites; k++)
		s.fluid.caps[2 * count + 2 * k] = s.fluid.caps[2 * count + 2 * k + 1] = n->wan[k];
	quickest = quickest < n->rates[0] ? quickest : n->rates[0];
	swarm_run(&s, (int64_t)(o->size / o->chunks / quickest * 1e6) + 1);
	r->torrent_s = s.last_s;
	r->torrent_copies = s.fluid.sent[0] / o->size;
	for (uint32_t k = 1; k <= o->sites; k++) {
		double in = s.fluid.sent[2 * count + 2 * k + 1] / o->size;
		r->torrent_wan_copies = in > r->torrent_wan_copies ? in : r->torrent_wan_copies;
	}
	for (uint32_t i = 0; i < count; i++) {
		free(s.have[i]);
		free(s.coming[i]);
	}
	free(s.have);
	free(s.coming);
	free(s.held);
	free(s.uploads);
	free(s.near);
	free(s.rarity);
	free(s.flows);
	fluid_fini(&s.fluid);
}

void sim_rivals(const struct sim_options *o, struct sim_rivals *ret_rivals)
{
	struct sim_network n;
	sim_network_init(&n, o);
	*ret_rivals = (struct sim_rivals){.star_s = star(o, &n), .tree_s = tree(o, &n, 2), .chain_s = tree(o, &n, 1)};
	torrent(o, &n, ret_rivals);
	sim_network_fini(&n);
}
