/* SPDX-License-Identifier: Apache-2.0 */
/* spread.c - one way of growing a tree, used for the nodes of a site and for the sites.
 *
 * A tree is a line: roots, then those that feed in this stripe (quick ones first), then all others; each takes the
 * first in the line that has room. Room is shared out by rate so that it suffices. Which stripe a node feeds in is its
 * own preference (rendezvous hashing), bounded so that stripes have equally many; hence a change elsewhere moves it
 * seldom. Stand-ins come from earlier in the line, so that nobody waits for one that waits for it.
 */
#include "core/spread.h"

#include "base/str.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#define STEP_UP (5.0 / 3)
#define STEP_MIDDLE 32

struct member {
	uint32_t node; /* the caller's index; of a site: its index in sites */
	uint64_t key, rack;
	double rate;
	uint32_t quick;  /* the step of its rate: what counts as equally quick */
	uint32_t stripe; /* it feeds there; SPREAD_STRIPES: nowhere */
	uint32_t spare;  /* room it has left for other stripes */
	bool root;
};

struct site {
	uint64_t key;
	struct member *members;
	uint32_t count, roots, feeding; /* roots come first, then those that may feed */
	bool whole;                     /* a root of it is a receiver that has everything */
};

/* A tree as it grows. Indexes are into members. */
struct line {
	struct member *members;
	uint32_t *at;    /* place in the line -> member */
	uint32_t *room;  /* of that place */
	uint32_t *above; /* of that place: the place of its parent, or SPREAD_NONE */
	uint32_t count, first, helper, rooted, feeding;
};

struct spread {
	size_t count;
	uint32_t (*parents)[SPREAD_STRIPES][SPREAD_PARENTS];
	uint32_t (*ranks)[SPREAD_STRIPES];
};

static uint64_t mix(uint64_t a, uint64_t b)
{
	uint64_t z = a ^ (b + 1) * UINT64_C(0x9e3779b97f4a7c15);
	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

uint32_t spread_stripe(uint32_t chunk)
{
	_Static_assert((SPREAD_STRIPES & (SPREAD_STRIPES - 1)) == 0, "an odd step meets each stripe once");
	uint64_t turn = mix(7, chunk / SPREAD_STRIPES), step = turn >> 32 | 1;
	return (uint32_t)((turn + step * (chunk % SPREAD_STRIPES)) % SPREAD_STRIPES);
}

const uint32_t *spread_parents(const struct spread *s, size_t node, uint32_t stripe)
{
	assert(node < s->count && stripe < SPREAD_STRIPES);
	return s->parents[node][stripe];
}

uint32_t spread_rank(const struct spread *s, size_t node, uint32_t stripe)
{
	assert(node < s->count && stripe < SPREAD_STRIPES);
	return s->ranks[node][stripe];
}

void spread_free(struct spread *s)
{
	if (!s)
		return;
	free(s->parents);
	free(s->ranks);
	free(s);
}

/* until: fifths of the middle, at which it has caught up. */
static bool is_far_behind(uint64_t have, uint64_t median, uint64_t size, bool was, uint64_t until)
{
	return was ? have + size / 64 < median / 5 * until : have + size / 256 < median / 5 * 2;
}

static int by_site_and_have(const void *a, const void *b)
{
	const struct spread_progress *x = *(struct spread_progress *const *)a, *y = *(struct spread_progress *const *)b;
	if (x->site != y->site)
		return x->site < y->site ? -1 : 1;
	return x->have < y->have ? -1 : x->have > y->have;
}

static int by_have(const void *a, const void *b)
{
	const struct spread_progress *x = *(struct spread_progress *const *)a, *y = *(struct spread_progress *const *)b;
	return x->have < y->have ? -1 : x->have > y->have;
}

static int by_number(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

static uint64_t permille(const struct spread_progress *p)
{
	return p->rate ? p->measured * 1000 / p->rate : 1000;
}

static bool judge_rate(struct spread_progress *p, uint64_t usual)
{
	p->most = p->measured > p->most ? p->measured : p->most;
	p->low = permille(p) < usual / 2 ? p->low + 1 : 0;
	if (p->low >= SPREAD_LOW_LOOKS)
		p->most = p->measured;
	else if (p->most <= p->rate + p->rate / 8)
		return false;
	p->rate = p->most;
	p->low = 0;
	return true;
}

/* Of one site: the middle of what its nodes take of their rates is what is usual now. */
static bool judge_rates(struct spread_progress **order, size_t count, uint64_t *shares)
{
	size_t looked = 0;
	bool changed = false;
	for (size_t i = 0; i < count; i++)
		if (order[i]->measured)
			shares[looked++] = permille(order[i]);
	qsort(shares, looked, sizeof *shares, by_number);
	uint64_t usual = looked && shares[looked / 2] < 1000 ? shares[looked / 2] : 1000;
	for (size_t i = 0; i < count; i++)
		if (order[i]->measured)
			changed |= judge_rate(order[i], usual);
	return changed;
}

bool spread_judge(struct spread_progress *progresses, size_t count, uint64_t size)
{
	struct spread_progress **order = mem_new((count + 1) * sizeof *order);
	uint64_t *shares = mem_new((count + 1) * sizeof *shares);
	bool changed = false;
	for (size_t i = 0; i < count; i++)
		order[i] = &progresses[i];
	qsort(order, count, sizeof *order, by_have);
	uint64_t all = count ? order[count / 2]->have : 0;
	qsort(order, count, sizeof *order, by_site_and_have);
	for (size_t from = 0, to; from < count; from = to) {
		for (to = from; to < count && order[to]->site == order[from]->site;)
			to++;
		uint64_t here = order[(from + to) / 2]->have;
		for (size_t i = from; i < to; i++) {
			bool late = is_far_behind(order[i]->have, here, size, order[i]->late, 4);
			bool behind = is_far_behind(order[i]->have, all, size, order[i]->behind, 3);
			changed |= late != order[i]->late || behind != order[i]->behind;
			order[i]->late = late;
			order[i]->behind = behind;
		}
		changed |= judge_rates(&order[from], to - from, shares);
	}
	free(order);
	free(shares);
	return changed;
}

/* ---- who feeds in which stripe -------------------------------------------------------------------- */

static int by_quickness(const void *a, const void *b)
{
	const struct member *x = a, *y = b;
	if (x->root != y->root)
		return x->root ? -1 : 1;
	bool x_feeds = x->stripe != SPREAD_STRIPES, y_feeds = y->stripe != SPREAD_STRIPES;
	if (x_feeds != y_feeds)
		return x_feeds ? -1 : 1;
	if (x->quick != y->quick)
		return x->quick > y->quick ? -1 : 1;
	return x->key < y->key ? -1 : x->key > y->key;
}

/* Members [from, to) get the stripe they like most among those with a place left; all stripes the same number, or one
 * more. */
static void stripes_give(struct member *members, uint32_t from, uint32_t to, uint64_t salt)
{
	uint32_t each = (to - from) / SPREAD_STRIPES, extra = (to - from) % SPREAD_STRIPES;
	uint32_t given[SPREAD_STRIPES] = {0};
	for (uint32_t i = from; i < to; i++) {
		uint32_t best = SPREAD_STRIPES;
		for (uint32_t s = 0; s < SPREAD_STRIPES; s++) {
			if (given[s] > each || (given[s] == each && extra == 0))
				continue;
			if (best == SPREAD_STRIPES || mix(members[i].key ^ salt, s) > mix(members[i].key ^ salt, best))
				best = s;
		}
		extra -= given[best] == each;
		given[best]++;
		members[i].stripe = best;
	}
}

/* Fewer than the stripes: each serves in several. */
static bool feeds(const struct member *members, uint32_t i, uint32_t from, uint32_t to, uint32_t stripe)
{
	if (i < from || i >= to)
		return false;
	if (to - from >= SPREAD_STRIPES)
		return members[i].stripe == stripe;
	return stripe % (to - from) == i - from;
}

/* ---- growing a tree ------------------------------------------------------------------------------- */

static void line_push(struct line *l, uint32_t member, uint32_t above, uint32_t room)
{
	l->at[l->count] = member;
	l->above[l->count] = above;
	l->room[l->count] = room;
	l->count++;
}

/* Room is out: somebody of another stripe who has some to spare helps; else the feeding ones take more than a share. */
static void line_more(struct line *l)
{
	for (; l->helper < l->count; l->helper++) {
		struct member *m = &l->members[l->at[l->helper]];
		if (m->spare == 0)
			continue;
		m->spare--;
		l->first = l->helper;
		l->room[l->first]++;
		return;
	}
	l->first = l->rooted < l->feeding ? l->rooted : 0; /* roots are spared */
	for (uint32_t i = l->first; i < l->feeding; i++)
		l->room[i] += l->members[l->at[i]].rate < 1 ? 1 : (uint32_t)(l->members[l->at[i]].rate + 0.5);
}

/* The place that the next one hangs on: of the same rack near the front if there is one, else the first with room. */
static uint32_t line_place(struct line *l, const struct member *m)
{
	while (l->first < l->count && l->room[l->first] == 0)
		l->first++;
	if (l->first == l->count)
		line_more(l);
	for (uint32_t i = l->first; m->rack && i < l->feeding && i < l->first + 64; i++)
		if (l->room[i] && l->members[l->at[i]].rack == m->rack)
			return i;
	return l->first;
}

static void line_add(struct line *l, uint32_t member, uint32_t room)
{
	uint32_t above = SPREAD_NONE;
	if (l->count) {
		above = line_place(l, &l->members[member]);
		l->room[above]--;
	}
	line_push(l, member, above, room);
}

/* In how many stripes the i-th of so many feeds. */
static uint32_t stripes_of(uint32_t i, uint32_t feeding)
{
	return i < SPREAD_STRIPES && feeding < SPREAD_STRIPES ? (SPREAD_STRIPES - i + feeding - 1) / feeding : 1;
}

/* Of the ways up in a stripe, by rate, what one with this rate gives; never more than a copy's worth in all its
 * stripes. */
static uint32_t room_of(double each, double rate, double mean, uint32_t stripes)
{
	uint32_t share = (uint32_t)(each * rate + 0.999),
		 most = (uint32_t)(SPREAD_STRIPES * rate / mean + 0.5) / stripes;
	return share > most ? most ? most : 1 : share;
}

/* Members: roots first (`roots`), then those that may feed (up to `feeding`), then the others. Roots that are few give
 * one copy: a child in each stripe; many have a stripe each, as the others. Where few feed, one of them has two stripes
 * and no time to spare: there slow ones, who take little of it, come before those that others could help. */
static void line_grow(struct line *l, struct member *members, uint32_t count, uint32_t roots, uint32_t feeding,
                      uint32_t stripe)
{
	bool few = roots < SPREAD_STRIPES && count > roots;
	uint32_t best = 0;
	double sum = 0, all = 0;
	l->members = members;
	l->count = l->first = l->helper = l->rooted = l->feeding = 0;
	for (uint32_t i = 1; few && i < roots; i++)
		if (mix(members[i].key, stripe) > mix(members[best].key, stripe))
			best = i;
	for (uint32_t i = few ? roots : 0; i < feeding; i++) {
		all += members[i].rate;
		if (feeds(members, i, i < roots ? 0 : roots, i < roots ? roots : feeding, stripe))
			sum += members[i].rate;
	}
	double each = sum > 0 ? (double)(count - roots - few) / sum : 0,
	       mean = all / (feeding - (few ? roots : 0) + 1e-9);
	for (uint32_t i = 0; i < roots; i++)
		if (few ? i == best : feeds(members, i, 0, roots, stripe))
			line_push(l, i, SPREAD_NONE, few ? 1 : room_of(each, members[i].rate, mean, 1));
	l->rooted = l->feeding = l->helper = l->count;
	for (uint32_t i = roots; i < feeding; i++)
		if (feeds(members, i, roots, feeding, stripe))
			line_add(l, i, room_of(each, members[i].rate, mean, stripes_of(i - roots, feeding - roots)));
	l->feeding = l->count;
	uint32_t others = count - roots, first = feeding - roots < SPREAD_STRIPES ? feeding - roots : 0;
	for (uint32_t k = 0; k < others; k++) {
		uint32_t i = roots + (first + k) % others;
		if (feeds(members, i, roots, feeding, stripe))
			continue;
		line_add(l, i, 0);
		if (!l->feeding)
			l->feeding = 1; /* nobody may feed: then the first does */
	}
}

/* What each has left over from its own stripes. */
static void spare_count(struct member *members, uint32_t count, uint32_t roots, uint32_t feeding)
{
	double sums[SPREAD_STRIPES] = {0}, all = 0;
	uint32_t left[SPREAD_STRIPES], need = count - roots - (roots < SPREAD_STRIPES && count > roots);
	for (uint32_t s = 0; s < SPREAD_STRIPES; s++) {
		left[s] = need;
		for (uint32_t i = roots; i < feeding; i++)
			sums[s] += feeds(members, i, roots, feeding, s) ? members[i].rate : 0;
	}
	for (uint32_t i = roots; i < feeding; i++)
		all += members[i].rate;
	for (uint32_t i = roots; i < feeding; i++) {
		double mean = all / (feeding - roots);
		uint32_t most = (uint32_t)(SPREAD_STRIPES * members[i].rate / mean + 0.5), given = 0;
		for (uint32_t s = 0; s < SPREAD_STRIPES; s++) {
			if (!feeds(members, i, roots, feeding, s))
				continue;
			uint32_t share =
			    room_of(need / sums[s], members[i].rate, mean, stripes_of(i - roots, feeding - roots));
			share = share < left[s] ? share : left[s];
			left[s] -= share;
			given += share;
		}
		members[i].spare = most > given ? most - given : 0;
	}
}

static void line_init(struct line *l, uint32_t most)
{
	*l = (struct line){.at = mem_new((most + 1) * sizeof(uint32_t)),
	                   .room = mem_new((most + 1) * sizeof(uint32_t)),
	                   .above = mem_new((most + 1) * sizeof(uint32_t))};
}

static void line_fini(struct line *l)
{
	free(l->at);
	free(l->room);
	free(l->above);
}

/* ---- sites ---------------------------------------------------------------------------------------- */

struct build {
	struct spread *s;
	const struct spread_node *nodes;
	struct member *members;
	struct site *sites;
	struct member *tops; /* the sites as members of their own tree; rooted ones first */
	uint32_t site_count, rooted, top_feeding;
	struct line line, top_line;
	uint32_t (*head)[SPREAD_STRIPES]; /* by site: the first of its line */
	uint32_t *given;                  /* by node: how many take a stripe from it */
	uint64_t salt;
};

static int by_site(const void *a, const void *b)
{
	const struct member *x = a, *y = b; /* rack holds the site for now */
	if (x->rack != y->rack)
		return x->rack < y->rack ? -1 : 1;
	return x->key < y->key ? -1 : x->key > y->key;
}

/* The middle of the rates known at a site; 0 when none is. */
static uint64_t median_rate(const struct spread_node *nodes, const struct site *site)
{
	uint64_t *rates = mem_new((site->count + 1) * sizeof *rates);
	size_t known = 0;
	for (uint32_t i = 0; i < site->count; i++) {
		const struct spread_node *n = &nodes[site->members[i].node];
		if (n->rate && !n->origin)
			rates[known++] = n->rate;
	}
	qsort(rates, known, sizeof *rates, by_number);
	uint64_t median = known ? rates[known / 2] : 0;
	free(rates);
	return median;
}

/* Rates come in steps, of which one is about the middle, so that what is measured a little differently gives no other
 * trees. The number of the step, from 1. */
static uint32_t step_of(uint64_t rate, uint64_t median)
{
	double below = (double)median * 0.75, up = STEP_UP;
	uint32_t step = STEP_MIDDLE;
	while (step > 1 && (double)rate < below)
		below /= up, step--;
	while (step < 2 * STEP_MIDDLE && (double)rate >= below * up)
		below *= up, step++;
	return step;
}

static bool is_slow(const struct spread_node *n, uint64_t median)
{
	return n->leaf || (n->rate && n->rate < median / 2);
}

/* Origins root a site only while no node of it has everything: they are to be spared. */
static void site_order(struct build *b, struct site *site)
{
	uint64_t median = median_rate(b->nodes, site); /* a site that is fed too little has no quick ones, nor slow */
	bool has_complete = false;
	uint32_t kept = 0;
	for (uint32_t i = 0; i < site->count; i++)
		has_complete = has_complete || b->nodes[site->members[i].node].complete;
	for (uint32_t i = 0; i < site->count; i++) {
		struct member *m = &site->members[i];
		const struct spread_node *n = &b->nodes[m->node];
		if (n->origin && has_complete && !n->complete)
			continue;
		m->root = n->origin || n->complete;
		m->rack = n->rack;
		m->stripe = !m->root && is_slow(n, median) ? SPREAD_STRIPES : 0;
		uint64_t rate = n->rate ? n->rate : median ? median : 1;
		m->quick = step_of(rate, median ? median : 1);
		m->rate = pow(STEP_UP, (double)m->quick - STEP_MIDDLE);
		site->members[kept++] = *m;
	}
	site->count = kept;
	site->whole = has_complete;
	qsort(site->members, kept, sizeof *site->members, by_quickness);
	while (site->roots < kept && site->members[site->roots].root)
		site->roots++;
	site->feeding = site->roots;
	while (site->feeding < kept && site->members[site->feeding].stripe != SPREAD_STRIPES)
		site->feeding++;
	stripes_give(site->members, 0, site->roots, b->salt);
	stripes_give(site->members, site->roots, site->feeding, b->salt);
	spare_count(site->members, site->count, site->roots, site->feeding);
}

static void sites_find(struct build *b, size_t count)
{
	for (size_t i = 0; i < count; i++)
		b->members[i] = (struct member){
		    .node = (uint32_t)i, .key = mix(b->nodes[i].key, b->salt), .rack = b->nodes[i].site};
	qsort(b->members, count, sizeof *b->members, by_site);
	for (size_t i = 0; i < count;) {
		struct site *site = &b->sites[b->site_count++];
		size_t to = i;
		while (to < count && b->members[to].rack == b->members[i].rack)
			to++;
		*site =
		    (struct site){.key = b->members[i].rack, .members = &b->members[i], .count = (uint32_t)(to - i)};
		i = to;
	}
	for (uint32_t i = 0; i < b->site_count; i++)
		site_order(b, &b->sites[i]);
}

/* A site is as quick as its quickest node that feeds; one without such is a leaf. */
static void sites_order(struct build *b)
{
	for (uint32_t i = 0; i < b->site_count; i++) {
		const struct site *site = &b->sites[i];
		struct member *top = &b->tops[i];
		*top = (struct member){.node = i, .key = mix(site->key, b->salt), .rate = 1, .root = site->roots > 0};
		bool feeds_others = top->root;
		for (uint32_t k = 0; k < site->feeding; k++)
			feeds_others = feeds_others || !b->nodes[site->members[k].node].behind;
		top->stripe = feeds_others ? 0 : SPREAD_STRIPES;
		b->rooted += top->root;
		b->top_feeding += top->stripe == 0;
	}
	qsort(b->tops, b->site_count, sizeof *b->tops, by_quickness);
	stripes_give(b->tops, 0, b->rooted, b->salt);
	stripes_give(b->tops, b->rooted, b->top_feeding, b->salt);
	spare_count(b->tops, b->site_count, b->rooted, b->top_feeding);
}

/* ---- what comes of it ----------------------------------------------------------------------------- */

static void parents_add(uint32_t parents[SPREAD_PARENTS], uint32_t node)
{
	for (uint32_t i = 0; i < SPREAD_PARENTS; i++) {
		if (parents[i] == node)
			return;
		if (parents[i] == SPREAD_NONE) {
			parents[i] = node;
			return;
		}
	}
}

/* A node's parent, somebody else from before it in the line, and the parent's parent. */
static void line_read(struct build *b, const struct site *site, uint32_t stripe)
{
	const struct line *l = &b->line;
	uint32_t roots = l->rooted;
	for (uint32_t i = roots; i < l->count; i++) {
		const struct member *m = &site->members[l->at[i]];
		uint32_t *parents = b->s->parents[m->node][stripe], above = l->above[i];
		b->s->ranks[m->node][stripe] = i - roots;
		if (above == SPREAD_NONE)
			continue;
		parents_add(parents, site->members[l->at[above]].node);
		uint32_t before = i < l->feeding ? i : l->feeding;
		uint32_t other = (uint32_t)(mix(m->key, stripe) % before);
		if (other == above)
			other = (other + 1) % before;
		parents_add(parents, site->members[l->at[other]].node);
		if (l->above[above] != SPREAD_NONE)
			parents_add(parents, site->members[l->at[l->above[above]]].node);
	}
}

static void sites_grow(struct build *b, uint32_t stripe)
{
	for (uint32_t i = 0; i < b->site_count; i++) {
		const struct site *site = &b->sites[i];
		line_grow(&b->line, site->members, site->count, site->roots, site->feeding, stripe);
		line_read(b, site, stripe);
		b->head[i][stripe] = b->line.count ? site->members[b->line.at[0]].node : SPREAD_NONE;
	}
}

/* The node of a site that another one takes the stripe from: one that gives less than a copy so far, as near to the
 * head as there is. One that has it all gives at once. */
static uint32_t gate_choose(struct build *b, const struct site *site, uint32_t stripe)
{
	double mean = 0;
	uint32_t best = SPREAD_NONE, best_over = UINT32_MAX, best_rank = UINT32_MAX;
	for (uint32_t i = site->roots; i < site->feeding; i++)
		mean += site->members[i].rate / (site->feeding - site->roots);
	for (uint32_t i = site->roots; i < site->feeding; i++) {
		uint32_t node = site->members[i].node, rank = b->s->ranks[node][stripe];
		uint32_t most = (uint32_t)(SPREAD_STRIPES * site->members[i].rate / mean + 0.5);
		uint32_t over = b->given[node] < most ? 0 : b->given[node] - most + 1;
		if (over < best_over || (over == best_over && rank < best_rank)) {
			best = node;
			best_over = over;
			best_rank = rank;
		}
	}
	return best;
}

/* Counts who gives how much within the sites. */
static void givers_count(struct build *b)
{
	for (size_t i = 0; i < b->s->count; i++)
		for (uint32_t s = 0; s < SPREAD_STRIPES; s++)
			if (b->s->parents[i][s][0] != SPREAD_NONE)
				b->given[b->s->parents[i][s][0]]++;
}

static void sites_join(struct build *b, uint32_t stripe)
{
	struct line *l = &b->top_line;
	if (b->rooted == 0)
		return; /* nobody has it */
	line_grow(l, b->tops, b->site_count, b->rooted, b->top_feeding, stripe);
	for (uint32_t i = 0; i < l->count; i++) {
		uint32_t to = b->tops[l->at[i]].node, head = b->head[to][stripe];
		for (uint32_t k = 0; i >= l->rooted && k < b->sites[to].count; k++)
			b->s->ranks[b->sites[to].members[k].node][stripe] += i - l->rooted;
		if (l->above[i] == SPREAD_NONE || head == SPREAD_NONE)
			continue;
		for (uint32_t up = l->above[i]; up != SPREAD_NONE; up = l->above[up]) {
			uint32_t from = b->tops[l->at[up]].node, gate = SPREAD_NONE;
			if (up == l->above[i] && !b->sites[from].whole && b->sites[from].feeding > b->sites[from].roots)
				gate = gate_choose(b, &b->sites[from], stripe);
			if (gate != SPREAD_NONE) {
				b->given[gate]++;
				parents_add(b->s->parents[head][stripe], gate);
			}
			if (b->head[from][stripe] != SPREAD_NONE)
				parents_add(b->s->parents[head][stripe], b->head[from][stripe]);
		}
	}
}

struct spread *spread_new(const struct spread_node *nodes, size_t count, uint64_t salt)
{
	struct spread *s = NEW(struct spread);
	struct build b = {.s = s, .nodes = nodes, .salt = salt};
	s->count = count;
	s->parents = mem_new((count + 1) * sizeof *s->parents);
	s->ranks = mem_new((count + 1) * sizeof *s->ranks);
	memset(s->parents, 0xff, (count + 1) * sizeof *s->parents);
	b.members = mem_new((count + 1) * sizeof *b.members);
	b.sites = mem_new((count + 1) * sizeof *b.sites);
	b.tops = mem_new((count + 1) * sizeof *b.tops);
	b.given = mem_new((count + 1) * sizeof *b.given);
	b.head = mem_new((count + 1) * sizeof *b.head);
	line_init(&b.line, (uint32_t)count);
	line_init(&b.top_line, (uint32_t)count);
	sites_find(&b, count);
	sites_order(&b);
	for (uint32_t stripe = 0; stripe < SPREAD_STRIPES; stripe++)
		sites_grow(&b, stripe);
	givers_count(&b);
	for (uint32_t stripe = 0; stripe < SPREAD_STRIPES; stripe++)
		sites_join(&b, stripe);
	line_fini(&b.line);
	line_fini(&b.top_line);
	free(b.members);
	free(b.sites);
	free(b.tops);
	free(b.given);
	free(b.head);
	return s;
}
