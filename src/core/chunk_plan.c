/* SPDX-License-Identifier: Apache-2.0 */
/* chunk_plan.c - bitmaps for what is held, asked for, offered, and of each stripe; a short list in flight.
 *
 * Rules in order: parents, in order of chunks; what others offer of a stripe in need; once more what hangs; the origin.
 * One call scans bitmaps a word at a time from the first chunk missing. It knows no sites: who is whose parent says it
 * all. What it takes for slow is what it saw itself.
 */
#include "core/chunk_plan.h"

#include "base/rng.h"
#include "base/str.h"
#include "core/spread.h"

#include <assert.h>
#include <stdlib.h>

#define FLIGHT_MAX 256 /* requests at once; the caller's own limit is far below */
#define AHEAD_MIN 2u   /* requests to a parent at once, in a stripe */
#define AHEAD_MAX 8u
#define AHEAD_LAG 4u      /* so many more while the stripe is behind others */
#define LAG_CHUNKS 6u     /* behind counts only past this many */
#define COMPARE_CHUNKS 4u /* and a part of all: stripes are compared over so many */
#define IDLE_ASKS 2u      /* to somebody who is no parent */
#define NOT_YET_US INT64_C(250000)
#define NOT_YET_MANY 4u /* in a row: that parent takes no part */
#define BACKOFF_MIN_US INT64_C(500000)
#define BACKOFF_MAX_US INT64_C(10000000)
#define CORRUPT_MIN_US INT64_C(60000000)
#define CORRUPT_MAX_US INT64_C(3600000000)
#define TYPICAL_FIRST_US INT64_C(1000000) /* assumed until a chunk has come */
#define STARVED_US INT64_C(1000000)
#define STARVED_FIRST_US INT64_C(30000000) /* while nothing has come at all: the first chunks are on a long way */
#define STARVED_WAY_US INT64_C(5000000)    /* and 24 hops: while nothing of a stripe has come */
#define STARVED_RANK_US INT64_C(800000)    /* between one who steps forward and the next */
#define STARVED_RANKS 64u
#define STAND_INS 8u /* of lower rank: they take a stripe over */
#define WAIT_MIN_US INT64_C(20000)
#define WAIT_MAX_US INT64_C(200000)

struct source {
	bool used, origin, far;
	uint64_t *offers;
	uint32_t offered, running, not_yet;
	int64_t blocked_until_us, backoff_us, corrupt_us;
	uint32_t ahead;
};

struct flight {
	uint32_t chunk, source;
	int64_t started_us;
};

struct stripe {
	uint64_t *mask;
	uint32_t count, held, first; /* first: word before which all of it is held */
	uint32_t parents[SPREAD_PARENTS];
	uint32_t parent_count, rank;
	int64_t progress_us;           /* when it last got on */
	bool begun;                    /* a chunk of it came */
	uint32_t way;                  /* by how many chunks it was then behind the furthest one */
	uint32_t mark_held, mark_most; /* it and the furthest one, when they were last compared */
	bool slow;                     /* it came on clearly less than that one since */
	bool adopted;                  /* its parents bring nothing: this node takes it from the origin */
};

struct chunk_plan {
	uint32_t count, words, held_count, widest; /* widest: chunks of the largest stripe */
	uint64_t *held, *asked;
	struct stripe stripes[SPREAD_STRIPES];
	struct source sources[CHUNK_SOURCES_MAX];
	struct flight flights[FLIGHT_MAX];
	uint32_t flight_count, turn, source_end;
	int64_t typical_us; /* how long one chunk takes, moving average */
	struct rng rng;
};

static bool bit_get(const uint64_t *bits, uint32_t i)
{
	return (bits[i / 64] >> (i % 64)) & 1;
}

static void bit_set(uint64_t *bits, uint32_t i)
{
	bits[i / 64] |= UINT64_C(1) << (i % 64);
}

static void bit_clear(uint64_t *bits, uint32_t i)
{
	bits[i / 64] &= ~(UINT64_C(1) << (i % 64));
}

/* The wire's bitmap is bytes, LSB first: on this (little-endian) machine that is the words' own layout. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "bitmaps are sent as they lie in memory");

/* A word of a bitmap of bytes, LSB first (NULL: all set); bits past count stay zero whatever the peer sent. */
static uint64_t word_of(const uint8_t *bytes, uint32_t count, uint32_t at)
{
	uint32_t bits = count - at * 64 < 64 ? count - at * 64 : 64;
	uint64_t word = UINT64_MAX;
	if (bytes && bits == 64) {
		memcpy(&word, bytes + (size_t)at * 8, 8);
		return word;
	}
	if (bytes) {
		word = 0;
		memcpy(&word, bytes + (size_t)at * 8, (bits + 7) / 8);
	}
	return bits < 64 ? word & ((UINT64_C(1) << bits) - 1) : word;
}

struct chunk_plan *chunk_plan_new(uint32_t count, const uint8_t *held, uint64_t seed, int64_t now_us)
{
	assert(count > 0);
	struct chunk_plan *p = NEW(struct chunk_plan);
	p->count = count;
	rng_init(&p->rng, seed);
	p->words = (count + 63) / 64;
	p->held = mem_new(p->words * sizeof *p->held);
	p->asked = mem_new(p->words * sizeof *p->asked);
	for (uint32_t s = 0; s < SPREAD_STRIPES; s++) {
		p->stripes[s].mask = mem_new(p->words * sizeof(uint64_t));
		p->stripes[s].progress_us = now_us;
	}
	for (uint32_t i = 0; i < count; i++) {
		struct stripe *stripe = &p->stripes[spread_stripe(i)];
		bit_set(stripe->mask, i);
		stripe->count++;
	}
	for (uint32_t s = 0; s < SPREAD_STRIPES; s++)
		p->widest = p->stripes[s].count > p->widest ? p->stripes[s].count : p->widest;
	for (uint32_t w = 0; held && w < p->words; w++) {
		p->held[w] = word_of(held, count, w);
		p->held_count += (uint32_t)__builtin_popcountll(p->held[w]);
		for (uint32_t s = 0; s < SPREAD_STRIPES; s++)
			p->stripes[s].held += (uint32_t)__builtin_popcountll(p->held[w] & p->stripes[s].mask[w]);
	}
	return p;
}

void chunk_plan_free(struct chunk_plan *p)
{
	if (!p)
		return;
	for (uint32_t i = 0; i < CHUNK_SOURCES_MAX; i++)
		free(p->sources[i].offers);
	for (uint32_t s = 0; s < SPREAD_STRIPES; s++)
		free(p->stripes[s].mask);
	free(p->held);
	free(p->asked);
	free(p);
}

bool chunk_plan_has(const struct chunk_plan *p, uint32_t chunk)
{
	return chunk < p->count && bit_get(p->held, chunk);
}

uint32_t chunk_plan_held(const struct chunk_plan *p)
{
	return p->held_count;
}

const uint8_t *chunk_plan_bitmap(const struct chunk_plan *p)
{
	return (const uint8_t *)p->held;
}

/* ---- sources -------------------------------------------------------------------------------------- */

void chunk_plan_add_source(struct chunk_plan *p, uint32_t source, bool origin, bool far)
{
	assert(source < CHUNK_SOURCES_MAX && !p->sources[source].used);
	p->sources[source] = (struct source){.used = true,
	                                     .origin = origin,
	                                     .far = far,
	                                     .offers = mem_new(p->words * sizeof(uint64_t)),
	                                     .ahead = AHEAD_MIN};
	if (source >= p->source_end)
		p->source_end = source + 1;
	if (origin)
		chunk_plan_offer(p, source, NULL);
}

static void flight_end(struct chunk_plan *p, uint32_t i)
{
	struct flight f = p->flights[i];
	p->flights[i] = p->flights[--p->flight_count];
	p->sources[f.source].running--;
	for (uint32_t k = 0; k < p->flight_count; k++)
		if (p->flights[k].chunk == f.chunk)
			return;
	bit_clear(p->asked, f.chunk);
}

void chunk_plan_drop_source(struct chunk_plan *p, uint32_t source)
{
	struct source *s = &p->sources[source];
	if (!s->used)
		return;
	for (uint32_t i = p->flight_count; i-- > 0;)
		if (p->flights[i].source == source)
			flight_end(p, i);
	free(s->offers);
	*s = (struct source){0};
	for (uint32_t k = 0; k < SPREAD_STRIPES; k++) {
		struct stripe *t = &p->stripes[k];
		uint32_t kept = 0;
		for (uint32_t i = 0; i < t->parent_count; i++)
			if (t->parents[i] != source)
				t->parents[kept++] = t->parents[i];
		t->parent_count = kept;
	}
}

void chunk_plan_offer(struct chunk_plan *p, uint32_t source, const uint8_t *bitmap)
{
	struct source *s = &p->sources[source];
	assert(s->used);
	for (uint32_t w = 0; w < p->words; w++) {
		uint64_t now = word_of(bitmap, p->count, w), before = s->offers[w];
		if (now == before)
			continue;
		s->offers[w] = now;
		s->offered += (uint32_t)(__builtin_popcountll(now) - __builtin_popcountll(before));
	}
}

void chunk_plan_set_parents(struct chunk_plan *p, uint32_t stripe, const uint32_t *parents, uint32_t count,
                            uint32_t rank)
{
	struct stripe *t = &p->stripes[stripe];
	t->rank = rank;
	t->adopted = false;
	t->parent_count = 0;
	for (uint32_t i = 0; i < count && t->parent_count < SPREAD_PARENTS; i++)
		if (parents[i] < CHUNK_SOURCES_MAX && p->sources[parents[i]].used)
			t->parents[t->parent_count++] = parents[i];
}

/* ---- what may be asked of whom ---------------------------------------------------------------------- */

static bool source_alive(const struct source *s, int64_t now_us)
{
	return s->used && now_us >= s->blocked_until_us;
}

/* The first chunk of the stripe that is neither here nor asked for, and that the source offers (NULL: whoever). */
static bool find_open(struct chunk_plan *p, struct stripe *t, const uint64_t *offers, uint32_t *ret_chunk)
{
	while (t->first < p->words && (t->mask[t->first] & ~p->held[t->first]) == 0)
		t->first++;
	for (uint32_t w = t->first; w < p->words; w++) {
		uint64_t open = t->mask[w] & ~p->held[w] & ~p->asked[w];
		if (offers)
			open &= offers[w];
		if (open) {
			*ret_chunk = w * 64 + (uint32_t)__builtin_ctzll(open);
			return true;
		}
	}
	return false;
}

/* As find_open, but any of them, so that those in need get different ones and can exchange them. */
static bool find_any(struct chunk_plan *p, struct stripe *t, const uint64_t *offers, uint32_t *ret_chunk)
{
	if (!find_open(p, t, offers, ret_chunk))
		return false;
	uint32_t from = *ret_chunk / 64, span = p->words - from, start = (uint32_t)rng_below(&p->rng, span);
	for (uint32_t k = 0; k < span; k++) {
		uint32_t w = from + (start + k) % span, turn = (uint32_t)rng_below(&p->rng, 64);
		uint64_t open = t->mask[w] & ~p->held[w] & ~p->asked[w] & offers[w];
		if (!open)
			continue;
		uint64_t later = open & (UINT64_MAX << turn);
		*ret_chunk = w * 64 + (uint32_t)__builtin_ctzll(later ? later : open);
		break;
	}
	return true;
}

/* As find_open, of what no peer is known to have (near: none on this side of the line). */
static bool find_unoffered(struct chunk_plan *p, const struct stripe *t, const uint64_t *offers, bool near,
                           int64_t now_us, uint32_t *ret_chunk)
{
	for (uint32_t w = t->first; w < p->words; w++) {
		uint64_t open = t->mask[w] & ~p->held[w] & ~p->asked[w];
		if (offers)
			open &= offers[w];
		for (uint32_t i = 0; open && i < p->source_end; i++) {
			const struct source *s = &p->sources[i];
			if (!s->origin && !(near && s->far) && source_alive(s, now_us))
				open &= ~s->offers[w];
		}
		if (open) {
			*ret_chunk = w * 64 + (uint32_t)__builtin_ctzll(open);
			return true;
		}
	}
	return false;
}

static uint32_t flights_of(const struct chunk_plan *p, uint32_t stripe, uint32_t source)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < p->flight_count; i++)
		n += p->flights[i].source == source && bit_get(p->stripes[stripe].mask, p->flights[i].chunk);
	return n;
}

/* Behind by half: such a node leaves the origin to others. */
static bool is_late(const struct chunk_plan *p, int64_t now_us)
{
	uint32_t most = 0;
	for (uint32_t i = 0; i < p->source_end; i++) {
		const struct source *s = &p->sources[i];
		if (!s->origin && source_alive(s, now_us) && s->offered > most)
			most = s->offered;
	}
	return most > 2 * p->held_count + 2 * AHEAD_MAX;
}

/* Who the stripe is asked from now; CHUNK_SOURCES_MAX: nobody of the plan. */
static uint32_t parent_now(const struct chunk_plan *p, const struct stripe *t, int64_t now_us)
{
	for (uint32_t i = 0; i < t->parent_count; i++) {
		const struct source *s = &p->sources[t->parents[i]];
		if (source_alive(s, now_us) && s->not_yet < NOT_YET_MANY && !(s->origin && is_late(p, now_us)))
			return t->parents[i];
	}
	return CHUNK_SOURCES_MAX;
}

static uint32_t origin_now(const struct chunk_plan *p, int64_t now_us)
{
	uint32_t best = CHUNK_SOURCES_MAX;
	for (uint32_t i = 0; i < p->source_end; i++) {
		const struct source *s = &p->sources[i];
		if (s->origin && source_alive(s, now_us) &&
		    (best == CHUNK_SOURCES_MAX || s->running < p->sources[best].running))
			best = i;
	}
	return best;
}

static bool stripe_done(const struct stripe *t)
{
	return t->held == t->count;
}

static uint32_t most_held(const struct chunk_plan *p)
{
	uint32_t most = 0;
	for (uint32_t s = 0; s < SPREAD_STRIPES; s++)
		if (p->stripes[s].held > most)
			most = p->stripes[s].held;
	return most;
}

/* Behind the stripe that is furthest, by more than the length of its way explains: that showed with its first chunk.
 * And it falls back further, or the furthest one is through: what was lost once comes late but comes, and who asks
 * others for it takes their time from those they feed. */
static bool stripe_lags(const struct chunk_plan *p, const struct stripe *t)
{
	uint32_t way = t->begun ? t->way : t->count / 8, most = most_held(p);
	return t->held + way + LAG_CHUNKS + t->count / 64 < most && (t->slow || most == p->widest);
}

static void stripes_compare(struct chunk_plan *p)
{
	uint32_t most = most_held(p);
	for (uint32_t s = 0; s < SPREAD_STRIPES; s++) {
		struct stripe *t = &p->stripes[s];
		uint32_t on = most - t->mark_most;
		if (on < COMPARE_CHUNKS + t->count / 32)
			continue;
		t->slow = (uint64_t)(t->held - t->mark_held) * 4 < (uint64_t)on * 3;
		t->mark_held = t->held;
		t->mark_most = most;
	}
}

static void stripe_begin(const struct chunk_plan *p, struct stripe *t)
{
	uint32_t behind = most_held(p) - t->held;
	t->begun = true;
	t->way = behind < t->count / 4 ? behind : t->count / 4;
}

static int64_t typical_us(const struct chunk_plan *p)
{
	return p->typical_us ? p->typical_us : TYPICAL_FIRST_US;
}

static int64_t starved_at(const struct chunk_plan *p, const struct stripe *t)
{
	uint32_t rank = t->rank < STARVED_RANKS ? t->rank : STARVED_RANKS;
	int64_t patience = t->begun        ? STARVED_US + 4 * p->typical_us
	                   : p->typical_us ? STARVED_WAY_US + 24 * p->typical_us
	                                   : STARVED_FIRST_US;
	return t->progress_us + patience + (int64_t)rank * (STARVED_RANK_US + p->typical_us / 2);
}

/* ---- the rules -------------------------------------------------------------------------------------- */

static void take(struct chunk_plan *p, uint32_t chunk, uint32_t source, bool wait, int64_t now_us,
                 struct chunk_request *ret_request)
{
	p->flights[p->flight_count++] = (struct flight){chunk, source, now_us};
	p->sources[source].running++;
	bit_set(p->asked, chunk);
	*ret_request = (struct chunk_request){chunk, source, wait};
}

/* Who is to be spared brings what is new here: one that became a head has the rest from those that it follows. */
static bool is_spared(const struct chunk_plan *p, uint32_t source)
{
	return source != CHUNK_SOURCES_MAX && (p->sources[source].origin || p->sources[source].far);
}

static bool find_from_parent(struct chunk_plan *p, struct stripe *t, const struct source *parent, int64_t now_us,
                             uint32_t *ret_chunk)
{
	bool lags = stripe_lags(p, t) && !parent->origin;
	if (!find_open(p, t, NULL, ret_chunk))
		return false;
	if (parent->origin || parent->far)
		return find_unoffered(p, t, parent->offers, true, now_us, ret_chunk) ||
		       find_unoffered(p, t, NULL, true, now_us, ret_chunk);
	return (lags ? find_any(p, t, parent->offers, ret_chunk) : find_open(p, t, parent->offers, ret_chunk)) ||
	       find_open(p, t, NULL, ret_chunk);
}

/* TCP shares a line unevenly among many connections, for minutes: a stripe that gets less asks for more at once. */
static uint32_t ahead_of(const struct chunk_plan *p, const struct stripe *t, const struct source *parent)
{
	uint32_t behind = most_held(p) - t->held, lag = t->begun && behind > t->way ? (behind - t->way) / 2 : 0;
	return parent->ahead + (lag < AHEAD_LAG ? lag : AHEAD_LAG);
}

static bool next_from_parent(struct chunk_plan *p, int64_t now_us, struct chunk_request *ret_request)
{
	for (uint32_t k = 0; k < SPREAD_STRIPES; k++) {
		uint32_t at = (p->turn + k) % SPREAD_STRIPES, chunk;
		struct stripe *t = &p->stripes[at];
		uint32_t parent = stripe_done(t) ? CHUNK_SOURCES_MAX : parent_now(p, t, now_us);
		if (parent == CHUNK_SOURCES_MAX || flights_of(p, at, parent) >= ahead_of(p, t, &p->sources[parent]))
			continue;
		if (!find_from_parent(p, t, &p->sources[parent], now_us, &chunk))
			continue;
		p->turn = at + 1;
		take(p, chunk, parent, !bit_get(p->sources[parent].offers, chunk), now_us, ret_request);
		return true;
	}
	return false;
}

static bool next_from_others(struct chunk_plan *p, int64_t now_us, struct chunk_request *ret_request)
{
	for (uint32_t k = 0; k < SPREAD_STRIPES; k++) {
		struct stripe *t = &p->stripes[(p->turn + k) % SPREAD_STRIPES];
		uint32_t parent = parent_now(p, t, now_us);
		bool alone = t->adopted || parent == CHUNK_SOURCES_MAX, needy = alone || stripe_lags(p, t);
		if (stripe_done(t) || !(needy || is_spared(p, parent)))
			continue;
		uint32_t best = CHUNK_SOURCES_MAX, best_chunk = 0, chunk;
		for (uint32_t i = 0; i < p->source_end; i++) {
			const struct source *s = &p->sources[i];
			if (s->origin || (s->far && !alone) || !source_alive(s, now_us) ||
			    s->running >= s->ahead + IDLE_ASKS ||
			    (best != CHUNK_SOURCES_MAX && s->running >= p->sources[best].running))
				continue;
			if (needy ? find_any(p, t, s->offers, &chunk) : find_open(p, t, s->offers, &chunk)) {
				best = i;
				best_chunk = chunk;
			}
		}
		if (best != CHUNK_SOURCES_MAX) {
			take(p, best_chunk, best, false, now_us, ret_request);
			return true;
		}
	}
	return false;
}

/* How long a request may take before it is made once more elsewhere; less once there is nothing else to ask for. */
static int64_t patience_us(const struct chunk_plan *p)
{
	bool tail = p->held_count + p->flight_count >= p->count;
	return tail ? 3 * typical_us(p) / 2 + BACKOFF_MIN_US / 5 : 3 * typical_us(p) + BACKOFF_MIN_US;
}

static bool next_twin(struct chunk_plan *p, int64_t now_us, struct chunk_request *ret_request)
{
	int64_t patience = patience_us(p);
	for (uint32_t k = 0; k < p->flight_count; k++) {
		struct flight f = p->flights[k];
		uint32_t copies = 0;
		if (now_us - f.started_us < patience)
			continue;
		for (uint32_t j = 0; j < p->flight_count; j++)
			copies += p->flights[j].chunk == f.chunk;
		if (copies > 1)
			continue;
		for (uint32_t i = 0; i < p->source_end; i++) {
			const struct source *s = &p->sources[i];
			bool too_far = s->far && now_us - f.started_us < 4 * patience;
			if (i != f.source && !s->origin && !too_far && source_alive(s, now_us) &&
			    s->running < s->ahead + IDLE_ASKS && bit_get(s->offers, f.chunk)) {
				take(p, f.chunk, i, false, now_us, ret_request);
				return true;
			}
		}
	}
	return false;
}

/* The oldest request of the stripe to somebody who is no origin. */
static bool find_hanging(const struct chunk_plan *p, const struct stripe *t, int64_t now_us, uint32_t *ret_chunk)
{
	int64_t oldest = now_us - patience_us(p);
	bool found = false;
	for (uint32_t i = 0; i < p->flight_count; i++) {
		const struct flight *f = &p->flights[i];
		uint32_t copies = 0;
		if (!bit_get(t->mask, f->chunk) || p->sources[f->source].origin || f->started_us > oldest)
			continue;
		for (uint32_t j = 0; j < p->flight_count; j++)
			copies += p->flights[j].chunk == f->chunk;
		if (copies > 1)
			continue;
		oldest = f->started_us;
		*ret_chunk = f->chunk;
		found = true;
	}
	return found;
}

/* Those nearest to the origin go on taking the stripe from it until a parent brings something; the others take one
 * chunk and wait again, so that a crowd in need does not press upon it. */
static bool next_from_origin(struct chunk_plan *p, int64_t now_us, struct chunk_request *ret_request)
{
	uint32_t origin = origin_now(p, now_us), chunk;
	if (origin == CHUNK_SOURCES_MAX)
		return false;
	for (uint32_t k = 0; k < SPREAD_STRIPES; k++) {
		uint32_t at = (p->turn + k) % SPREAD_STRIPES;
		struct stripe *t = &p->stripes[at];
		if (stripe_done(t))
			continue;
		bool alone = parent_now(p, t, now_us) == CHUNK_SOURCES_MAX && !is_late(p, now_us);
		if (!t->adopted && now_us < starved_at(p, t) && !alone)
			continue;
		if (flights_of(p, at, origin) >= (alone ? p->sources[origin].ahead : 1))
			continue;
		if (!find_unoffered(p, t, NULL, false, now_us, &chunk) && !find_hanging(p, t, now_us, &chunk))
			continue;
		t->adopted = t->rank < STAND_INS;
		t->progress_us = t->adopted ? t->progress_us : now_us;
		take(p, chunk, origin, false, now_us, ret_request);
		return true;
	}
	return false;
}

bool chunk_plan_next(struct chunk_plan *p, int64_t now_us, struct chunk_request *ret_request)
{
	if (p->held_count == p->count || p->flight_count == FLIGHT_MAX)
		return false;
	return next_from_parent(p, now_us, ret_request) || next_from_others(p, now_us, ret_request) ||
	       next_twin(p, now_us, ret_request) || next_from_origin(p, now_us, ret_request);
}

bool chunk_plan_in_need(const struct chunk_plan *p)
{
	for (uint32_t s = 0; s < SPREAD_STRIPES; s++)
		if (p->stripes[s].adopted || stripe_lags(p, &p->stripes[s]))
			return true;
	return false;
}

int64_t chunk_plan_wait_us(const struct chunk_plan *p, int64_t now_us)
{
	int64_t at = now_us + WAIT_MAX_US;
	for (uint32_t i = 0; i < p->source_end; i++) {
		const struct source *s = &p->sources[i];
		if (s->used && s->blocked_until_us > now_us && s->blocked_until_us < at)
			at = s->blocked_until_us;
	}
	return at - now_us < WAIT_MIN_US ? WAIT_MIN_US : at - now_us;
}

/* ---- what came of it -------------------------------------------------------------------------------- */

static bool flight_find(const struct chunk_plan *p, uint32_t chunk, uint32_t source, uint32_t *ret_i)
{
	for (uint32_t i = 0; i < p->flight_count; i++) {
		if (p->flights[i].chunk == chunk && p->flights[i].source == source) {
			*ret_i = i;
			return true;
		}
	}
	return false;
}

void chunk_plan_began(struct chunk_plan *p, uint32_t chunk, uint32_t source, int64_t now_us)
{
	uint32_t i;
	if (flight_find(p, chunk, source, &i))
		p->flights[i].started_us = now_us;
}

static void source_good(struct source *s, int64_t first_us, int64_t took_us)
{
	s->backoff_us = 0;
	s->not_yet = 0;
	if (s->corrupt_us == 0)
		s->blocked_until_us = 0;
	/* Waiting for first bytes is a share of the time that one more request at once would fill. */
	if (took_us > 0) {
		uint64_t ahead = AHEAD_MIN + (uint64_t)(first_us > 0 ? first_us : 0) * 2 / (uint64_t)took_us;
		s->ahead = ahead < AHEAD_MAX ? (uint32_t)ahead : AHEAD_MAX;
	}
}

bool chunk_plan_arrived(struct chunk_plan *p, uint32_t chunk, uint32_t source, int64_t first_us, int64_t took_us,
                        int64_t now_us)
{
	struct source *s = &p->sources[source];
	struct stripe *t = &p->stripes[spread_stripe(chunk)];
	uint32_t i;
	assert(chunk < p->count);
	if (flight_find(p, chunk, source, &i))
		flight_end(p, i);
	if (s->used) {
		source_good(s, first_us, took_us);
		s->offered += !bit_get(s->offers, chunk);
		bit_set(s->offers, chunk);
		for (i = 0; i < t->parent_count; i++)
			if (t->parents[i] == source)
				t->adopted = false;
	}
	p->typical_us = p->typical_us ? (p->typical_us * 7 + took_us) / 8 : took_us;
	t->progress_us = now_us;
	if (!t->begun)
		stripe_begin(p, t);
	if (bit_get(p->held, chunk))
		return false;
	bit_set(p->held, chunk);
	p->held_count++;
	t->held++;
	stripes_compare(p);
	return true;
}

void chunk_plan_failed(struct chunk_plan *p, uint32_t chunk, uint32_t source, enum chunk_failure why, int64_t now_us)
{
	struct source *s = &p->sources[source];
	uint32_t i;
	if (flight_find(p, chunk, source, &i))
		flight_end(p, i);
	if (!s->used || why == CHUNK_GIVEN_UP)
		return;
	int64_t pause = NOT_YET_US;
	if (why == CHUNK_NOT_YET) {
		s->not_yet++;
		if (bit_get(s->offers, chunk)) /* it said that it has it */
			why = CHUNK_BROKEN;
		s->offered -= bit_get(s->offers, chunk);
		bit_clear(s->offers, chunk);
	}
	if (why == CHUNK_NOT_YET) {
		/* it has not begun yet, or takes no part */
	} else if (why == CHUNK_BROKEN) {
		s->backoff_us = s->backoff_us ? s->backoff_us * 2 : BACKOFF_MIN_US;
		pause = s->backoff_us = s->backoff_us < BACKOFF_MAX_US ? s->backoff_us : BACKOFF_MAX_US;
	} else {
		s->corrupt_us = s->corrupt_us ? s->corrupt_us * 2 : CORRUPT_MIN_US;
		pause = s->corrupt_us = s->corrupt_us < CORRUPT_MAX_US ? s->corrupt_us : CORRUPT_MAX_US;
	}
	if (s->blocked_until_us < now_us + pause)
		s->blocked_until_us = now_us + pause;
}
