/* SPDX-License-Identifier: Apache-2.0 */
/* Prefixes at one home see the same distances, so the allocation is worked out for homes, whose demand may be parted:
 * deferred acceptance, where each home asks its sites from the nearest on and a full site turns away whom it is
 * farthest from (a heap). A home never asks a site twice, so homes x sites steps bound it, whatever the number of
 * prefixes. Then each prefix takes of its home's parts, first those that stay where they are; what does not fit whole
 * goes where there is room. Last, the difference to what is becomes moves, the best first, as far as the limit goes.
 *
 * It will not split one prefix over sites, and does not look ahead to the next round. */
#include "core/map_making.h"

#include "base/str.h"

#include <stdlib.h>

#define DEMAND_LEAST 1e-6 /* a prefix that is quiet has a place, too */
#define SLACK 1.02        /* for prefixes that do not fit whole */
#define OVERFULL 1.1      /* so much over its share a site is relieved */
#define TINY 1e-9

struct part { /* of a home's demand at a site */
	uint32_t home, site, cost_us;
	double amount;
};

struct home {
	uint64_t *ranked;      /* cost << 32 | site, nearest first; NULL: no demand */
	uint32_t next;         /* in ranked: whom to ask */
	uint32_t first, count; /* parts */
	double unmet;
	bool queued;
};

struct heap { /* of one site: the farthest on top */
	struct part *parts;
	uint32_t count, cap;
	double sum;
};

struct making {
	const struct making_input *in;
	struct home *homes;
	struct heap *heaps;
	double *rooms; /* what a site is given while all fits; more than its capacity only when nothing else is left */
	double *hards; /* what it is never given more of, but for want of any room */
	double *used;
	uint32_t *open; /* sites that take somebody */
	uint32_t open_count;
	struct part *parts;
	uint32_t *targets; /* by unit */
	double most;       /* demand that may still move this round */
	double returning;  /* that is told its own site again after it explored */
	bool large;        /* a prefix larger than a round's limit wants to move, for which exploring pauses */
};

static double demand_of(const struct making_unit *u)
{
	return u->demand > DEMAND_LEAST ? u->demand : DEMAND_LEAST;
}

static bool is_open(const struct making *m, uint32_t site)
{
	return site < m->in->site_count && m->in->capacities[site] > 0;
}

static uint32_t pin_of(const struct making *m, const struct making_unit *u)
{
	return is_open(m, u->pin) ? u->pin : MAKING_NONE;
}

/* ---- shares ---------------------------------------------------------------------------------- */

static int by_key(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

static void rank(struct making *m, uint32_t home)
{
	struct home *h = &m->homes[home];
	const uint32_t *row = m->in->rows[home];
	h->ranked = mem_resize(NULL, m->open_count, sizeof(*h->ranked));
	for (uint32_t i = 0; i < m->open_count; i++)
		h->ranked[i] = (uint64_t)row[m->open[i]] << 32 | m->open[i];
	qsort(h->ranked, m->open_count, sizeof(*h->ranked), by_key);
}

static bool is_farther(const struct part *a, const struct part *b)
{
	return a->cost_us != b->cost_us ? a->cost_us > b->cost_us : a->home > b->home;
}

static void heap_swap(struct part *a, struct part *b)
{
	struct part t = *a;
	*a = *b;
	*b = t;
}

static void heap_push(struct heap *h, const struct part *p)
{
	if (h->count == h->cap) {
		h->cap = h->cap ? h->cap * 2 : 8;
		h->parts = mem_resize(h->parts, h->cap, sizeof(*h->parts));
	}
	uint32_t at = h->count++;
	h->parts[at] = *p;
	h->sum += p->amount;
	for (; at > 0 && is_farther(&h->parts[at], &h->parts[(at - 1) / 2]); at = (at - 1) / 2)
		heap_swap(&h->parts[at], &h->parts[(at - 1) / 2]);
}

static void heap_pop(struct heap *h)
{
	h->sum -= h->parts[0].amount;
	h->parts[0] = h->parts[--h->count];
	for (uint32_t at = 0, child; (child = at * 2 + 1) < h->count; at = child) {
		if (child + 1 < h->count && is_farther(&h->parts[child + 1], &h->parts[child]))
			child++;
		if (!is_farther(&h->parts[child], &h->parts[at]))
			break;
		heap_swap(&h->parts[child], &h->parts[at]);
	}
}

/* The site keeps whom it is nearest to, as far as its room goes; whom it turns away asks elsewhere. */
static void turn_away(struct making *m, uint32_t site, uint32_t *queue, uint32_t *count)
{
	struct heap *heap = &m->heaps[site];
	while (heap->count > 0 && heap->sum > m->rooms[site] + TINY) {
		struct part *worst = &heap->parts[0];
		struct home *h = &m->homes[worst->home];
		double over = heap->sum - m->rooms[site];
		uint32_t home = worst->home;
		if (worst->amount > over + TINY) {
			worst->amount -= over;
			heap->sum -= over;
			h->unmet += over;
		} else {
			h->unmet += worst->amount;
			heap_pop(heap);
		}
		if (!h->queued) {
			h->queued = true;
			queue[(*count)++] = home;
		}
	}
}

/* Deferred acceptance. */
static void allocate(struct making *m)
{
	uint32_t *queue = mem_resize(NULL, m->in->home_count + 1u, sizeof(*queue)), count = 0;
	for (uint32_t i = 0; i < m->in->home_count; i++) {
		if (m->homes[i].unmet > 0) {
			m->homes[i].queued = true;
			queue[count++] = i;
		}
	}
	while (count > 0) {
		uint32_t home = queue[--count];
		struct home *h = &m->homes[home];
		h->queued = false;
		while (h->unmet > TINY && h->next < m->open_count) {
			uint64_t key = h->ranked[h->next++];
			const struct part p = {home, (uint32_t)key, (uint32_t)(key >> 32), h->unmet};
			h->unmet = 0;
			heap_push(&m->heaps[p.site], &p);
			turn_away(m, p.site, queue, &count);
		}
	}
	free(queue);
}

/* From the sites' heaps to lists by home, nearest first. */
static void collect(struct making *m)
{
	uint32_t total = 0;
	for (uint32_t s = 0; s < m->in->site_count; s++) {
		for (uint32_t i = 0; i < m->heaps[s].count; i++)
			m->homes[m->heaps[s].parts[i].home].count++;
	}
	for (uint32_t i = 0; i < m->in->home_count; i++) {
		m->homes[i].first = total;
		total += m->homes[i].count;
		m->homes[i].count = 0;
	}
	m->parts = mem_resize(NULL, total + 1u, sizeof(*m->parts));
	for (uint32_t s = 0; s < m->in->site_count; s++) {
		for (uint32_t i = 0; i < m->heaps[s].count; i++) {
			const struct part *p = &m->heaps[s].parts[i];
			struct home *h = &m->homes[p->home];
			uint32_t at = h->first + h->count++;
			for (; at > h->first && is_farther(&m->parts[at - 1], p); at--)
				m->parts[at] = m->parts[at - 1];
			m->parts[at] = *p;
		}
	}
}

/* ---- whole prefixes -------------------------------------------------------------------------- */

static void put(struct making *m, uint32_t unit, uint32_t site)
{
	m->targets[unit] = site;
	m->used[site] += demand_of(&m->in->units[unit]);
}

static bool fits(const struct making *m, uint32_t site, double demand, const double *most)
{
	return m->used[site] + demand <= most[site] + TINY;
}

/* The part of the home that the site `only` has (MAKING_NONE: any) with half the prefix left in it at least. */
static bool put_in_part(struct making *m, uint32_t unit, uint32_t only)
{
	const struct making_unit *u = &m->in->units[unit];
	const struct home *h = &m->homes[u->home];
	double demand = demand_of(u);
	for (struct part *p = &m->parts[h->first]; p < &m->parts[h->first + h->count]; p++) {
		if ((only != MAKING_NONE && p->site != only) || p->amount < demand / 2 ||
		    !fits(m, p->site, demand, m->hards))
			continue;
		p->amount -= demand;
		put(m, unit, p->site);
		return true;
	}
	return false;
}

/* Where there is room for it whole, near first; with none anywhere, where it matters least. */
static void put_anywhere(struct making *m, uint32_t unit)
{
	const struct making_unit *u = &m->in->units[unit];
	const uint64_t *ranked = m->homes[u->home].ranked;
	double demand = demand_of(u), least = 0;
	uint32_t best = MAKING_NONE;
	for (int hard = 0; hard < 2; hard++) {
		for (uint32_t i = 0; i < m->open_count; i++) {
			if (fits(m, (uint32_t)ranked[i], demand, hard ? m->hards : m->rooms)) {
				put(m, unit, (uint32_t)ranked[i]);
				return;
			}
		}
	}
	for (uint32_t i = 0; i < m->open_count; i++) {
		uint32_t site = (uint32_t)ranked[i];
		double use = (m->used[site] + demand) / m->in->capacities[site];
		if (best == MAKING_NONE || use < least) {
			best = site;
			least = use;
		}
	}
	put(m, unit, best);
}

static void choose_targets(struct making *m)
{
	const struct making_input *in = m->in;
	for (uint32_t i = 0; i < in->unit_count; i++) {
		const struct making_unit *u = &in->units[i];
		m->targets[i] = MAKING_NONE;
		if (pin_of(m, u) != MAKING_NONE)
			put(m, i, u->pin);
	}
	for (uint32_t i = 0; i < in->unit_count; i++) {
		if (m->targets[i] == MAKING_NONE && is_open(m, in->units[i].site))
			put_in_part(m, i, in->units[i].site);
	}
	for (uint32_t i = 0; i < in->unit_count; i++) {
		if (m->targets[i] == MAKING_NONE && !put_in_part(m, i, MAKING_NONE))
			put_anywhere(m, i);
	}
}

/* ---- moves ----------------------------------------------------------------------------------- */

struct move {
	uint32_t unit;
	int64_t gain_us;
};

/* At once: those without a site that takes them, and pinned ones. The others are moves to be thought of. */
static uint32_t part_moves(struct making *m, struct move *moves, struct making_result *r)
{
	const struct making_input *in = m->in;
	uint32_t count = 0;
	memset(m->used, 0, in->site_count * sizeof(*m->used));
	for (uint32_t i = 0; i < in->unit_count; i++) {
		struct making_unit *u = &in->units[i];
		double demand = demand_of(u);
		const uint32_t *row = in->rows[u->home];
		if (is_open(m, u->site) && u->named != u->site)
			m->returning += demand;
		if (u->site != m->targets[i] && is_open(m, u->site) && pin_of(m, u) == MAKING_NONE) {
			moves[count++] = (struct move){i, (int64_t)row[u->site] - row[m->targets[i]]};
		} else if (u->site != m->targets[i]) {
			*(u->site == MAKING_NONE ? &r->fresh : &r->forced) += demand;
			u->site = m->targets[i];
		}
		m->used[u->site] += demand;
	}
	return count;
}

static int by_gain(const void *a, const void *b)
{
	const struct move *x = a, *y = b;
	if (x->gain_us != y->gain_us)
		return x->gain_us > y->gain_us ? -1 : 1;
	return (x->unit > y->unit) - (x->unit < y->unit);
}

static bool too_full(const struct making *m, uint32_t site)
{
	return m->used[site] > m->hards[site] + TINY || m->used[site] > m->rooms[site] * OVERFULL + TINY;
}

static bool worth_it(const struct making *m, const struct move *v)
{
	const struct making_unit *u = &m->in->units[v->unit];
	int64_t now_us = m->in->rows[u->home][u->site];
	return v->gain_us >= MAKING_GAIN_US && v->gain_us * 10 >= now_us;
}

/* relief: off sites that are too full; else for gain. */
static void move_some(struct making *m, struct move *moves, uint32_t count, bool relief, struct making_result *r)
{
	for (uint32_t i = 0; i < count; i++) {
		struct making_unit *u = &m->in->units[moves[i].unit];
		uint32_t to = m->targets[moves[i].unit];
		double demand = demand_of(u);
		if (u->site == to || (relief ? !too_full(m, u->site) : !worth_it(m, &moves[i])))
			continue;
		bool alone = demand > m->most && r->moves == 0 && m->returning <= 0;
		m->large |= demand > m->most;
		if (!fits(m, to, demand, relief ? m->hards : m->rooms) || (r->moved + demand > m->most && !alone)) {
			r->waiting += !relief;
			continue;
		}
		m->used[u->site] -= demand;
		m->used[to] += demand;
		u->site = to;
		r->moved += demand;
		r->moves++;
	}
}

static void explore(struct making *m, struct rng *rng, struct making_result *r)
{
	const struct making_input *in = m->in;
	double most = r->demand * MAKING_EXPLORED;
	uint32_t from = in->unit_count ? (uint32_t)rng_below(rng, in->unit_count) : 0;
	for (uint32_t i = 0; i < in->unit_count; i++)
		in->units[i].named = in->units[i].site;
	for (uint32_t n = 0; n < in->unit_count && m->open_count > 1 && !m->large; n++) {
		struct making_unit *u = &in->units[(from + n) % in->unit_count];
		double demand = demand_of(u);
		if (!u->explore || rng_below(rng, (uint64_t)(1 / MAKING_EXPLORED)) != 0 ||
		    r->explored + demand > most || pin_of(m, u) != MAKING_NONE)
			continue;
		const uint64_t *ranked = m->homes[u->home].ranked;
		uint32_t second = (uint32_t)ranked[(uint32_t)ranked[0] == u->site];
		if (!fits(m, second, demand, m->hards))
			continue;
		u->named = second;
		r->explored += demand;
	}
}

static void apply(struct making *m, struct rng *rng, struct making_result *r)
{
	struct move *moves = mem_resize(NULL, m->in->unit_count + 1u, sizeof(*moves));
	uint32_t count = part_moves(m, moves, r);
	m->most = r->demand * (MAKING_MOVED_MOST - MAKING_EXPLORED) - m->returning;
	qsort(moves, count, sizeof(*moves), by_gain);
	move_some(m, moves, count, true, r);
	move_some(m, moves, count, false, r);
	free(moves);
	explore(m, rng, r);
}

/* ---- a round --------------------------------------------------------------------------------- */

static void size_up(struct making *m, struct making_result *r)
{
	const struct making_input *in = m->in;
	for (uint32_t s = 0; s < in->site_count; s++) {
		if (is_open(m, s)) {
			m->open[m->open_count++] = s;
			r->capacity += in->capacities[s];
		}
	}
	for (uint32_t i = 0; i < in->unit_count; i++)
		r->demand += demand_of(&in->units[i]);
	double fill = r->demand / (r->capacity > 0 ? r->capacity : 1) * SLACK;
	for (uint32_t s = 0; s < in->site_count; s++) {
		m->rooms[s] = in->capacities[s] * (fill > MAKING_FILL ? fill : MAKING_FILL);
		m->hards[s] = m->rooms[s] > in->capacities[s] && fill > SLACK ? m->rooms[s] : in->capacities[s];
		if (m->rooms[s] > m->hards[s])
			m->rooms[s] = m->hards[s];
	}
	for (uint32_t i = 0; i < in->unit_count && m->open_count > 0; i++) {
		const struct making_unit *u = &in->units[i];
		if (!m->homes[u->home].ranked)
			rank(m, u->home);
		if (pin_of(m, u) == MAKING_NONE) {
			m->homes[u->home].unmet += demand_of(u);
			continue;
		}
		m->heaps[u->pin].sum += demand_of(u); /* takes room, and is never turned away: it is in no heap */
	}
}

int map_make(const struct making_input *in, struct rng *rng, struct making_result *ret_result, struct error *err)
{
	struct making m = {.in = in};
	struct making_result r = {0};
	m.homes = mem_new(in->home_count * sizeof(*m.homes) + 1);
	m.heaps = mem_new(in->site_count * sizeof(*m.heaps) + 1);
	m.rooms = mem_new(in->site_count * sizeof(*m.rooms) + 1);
	m.hards = mem_new(in->site_count * sizeof(*m.hards) + 1);
	m.used = mem_new(in->site_count * sizeof(*m.used) + 1);
	m.open = mem_new(in->site_count * sizeof(*m.open) + 1);
	m.targets = mem_new(in->unit_count * sizeof(*m.targets) + 1);
	size_up(&m, &r);
	if (m.open_count > 0) {
		allocate(&m);
		collect(&m);
		choose_targets(&m);
		apply(&m, rng, &r);
		*ret_result = r;
	}
	for (uint32_t i = 0; i < in->home_count; i++)
		free(m.homes[i].ranked);
	for (uint32_t s = 0; s < in->site_count; s++)
		free(m.heaps[s].parts);
	free(m.homes);
	free(m.heaps);
	free(m.rooms);
	free(m.hards);
	free(m.used);
	free(m.open);
	free(m.parts);
	free(m.targets);
	return m.open_count > 0 ? 0
	                        : error_set(err, E_UNAVAILABLE, "no site takes requests; the last map stays in force");
}

double making_ramp(struct making_ramp *r, bool up, int64_t now_us)
{
	if (!up) {
		r->away = r->known;
		return 0;
	}
	if (r->away)
		r->back_us = now_us > 0 ? now_us : 1;
	r->known = true;
	r->away = false;
	if (!r->back_us)
		return 1;
	double part = (double)(now_us - r->back_us) / (double)MAKING_RAMP_US;
	return part >= 1 ? 1 : part > MAKING_RAMP_LEAST ? part : MAKING_RAMP_LEAST;
}
