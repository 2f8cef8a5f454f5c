/* SPDX-License-Identifier: Apache-2.0 */
/* chunk_plan.c - bitmaps for what is held, asked for and offered; a rarity count per chunk; a short list in flight.
 *
 * One call looks at a bounded sample of the chunks that may be asked for, from a random place; what grows with the file
 * is skipping those at home elsewhere (a hash or two each) and full words. It does not know sites beyond near/far, nor
 * rates other than what it saw itself.
 */
#include "core/chunk_plan.h"

#include "base/rng.h"
#include "base/str.h"

#include <assert.h>
#include <stdlib.h>

#define SAMPLE 96
#define FLIGHT_MAX 256 /* requests at once; the caller's own limit is far below */
#define LAG_CHUNKS 8   /* behind by half counts only past this many */
#define STALLED_US INT64_C(3000000)
#define BACKOFF_MIN_US INT64_C(500000)
#define BACKOFF_MAX_US INT64_C(10000000)
#define CORRUPT_US INT64_C(60000000)
#define TYPICAL_FIRST_US INT64_C(1000000) /* assumed until a chunk has come */

struct source {
	bool used, origin, near, complete;
	uint64_t key;
	uint64_t *offers;
	uint32_t offered;
	uint32_t running, limit;
	int64_t gained_us, blocked_until_us, backoff_us;
};

struct flight {
	uint32_t chunk, source;
	int64_t started_us;
};

struct chunk_plan {
	uint32_t count, words, held_count;
	uint64_t *held, *asked;
	uint16_t *rarity; /* peers (not origins) offering it */
	uint64_t self_key;
	struct rng rng;
	struct source sources[CHUNK_SOURCES_MAX];
	struct flight flights[FLIGHT_MAX];
	uint32_t flight_count;
	int64_t typical_us; /* how long one chunk takes, moving average */
	int64_t idle_since_us;
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
	if (bytes) {
		word = 0;
		memcpy(&word, bytes + (size_t)at * 8, (bits + 7) / 8);
	}
	return bits < 64 ? word & ((UINT64_C(1) << bits) - 1) : word;
}

struct chunk_plan *chunk_plan_new(uint32_t count, const uint8_t *held, uint64_t self_key, uint64_t seed)
{
	assert(count > 0);
	struct chunk_plan *p = NEW(struct chunk_plan);
	p->count = count;
	p->words = (count + 63) / 64;
	p->held = mem_new(p->words * sizeof *p->held);
	p->asked = mem_new(p->words * sizeof *p->asked);
	p->rarity = mem_new(count * sizeof *p->rarity);
	p->self_key = self_key;
	rng_init(&p->rng, seed);
	for (uint32_t w = 0; held && w < p->words; w++) {
		p->held[w] = word_of(held, count, w);
		p->held_count += (uint32_t)__builtin_popcountll(p->held[w]);
	}
	return p;
}

void chunk_plan_free(struct chunk_plan *p)
{
	if (!p)
		return;
	for (uint32_t i = 0; i < CHUNK_SOURCES_MAX; i++)
		free(p->sources[i].offers);
	free(p->held);
	free(p->asked);
	free(p->rarity);
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

void chunk_plan_add_source(struct chunk_plan *p, uint32_t source, uint64_t key, bool origin, bool near, int64_t now_us)
{
	assert(source < CHUNK_SOURCES_MAX && !p->sources[source].used);
	p->sources[source] = (struct source){
	    .used = true,
	    .origin = origin,
	    .near = near,
	    .key = key,
	    .limit = 1,
	    .gained_us = now_us,
	    .offers = mem_new(p->words * sizeof(uint64_t)),
	};
}

/* A word of what the source offers becomes `now`; only what changed is counted. */
static void offer_word(struct chunk_plan *p, struct source *s, uint32_t at, uint64_t now)
{
	uint64_t changed = s->offers[at] ^ now;
	for (uint64_t left = s->origin ? 0 : changed; left; left &= left - 1) {
		uint32_t bit = (uint32_t)__builtin_ctzll(left);
		uint16_t *rarity = &p->rarity[at * 64 + bit];
		*rarity = (uint16_t)((now >> bit) & 1 ? *rarity + 1 : *rarity - 1);
	}
	s->offered += (uint32_t)__builtin_popcountll(now & changed);
	s->offered -= (uint32_t)__builtin_popcountll(s->offers[at] & changed);
	s->offers[at] = now;
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
	for (uint32_t w = 0; w < p->words; w++)
		offer_word(p, s, w, 0);
	free(s->offers);
	*s = (struct source){0};
}

void chunk_plan_offer(struct chunk_plan *p, uint32_t source, const uint8_t *bitmap, int64_t now_us)
{
	struct source *s = &p->sources[source];
	assert(s->used);
	uint32_t before = s->offered;
	for (uint32_t w = 0; w < p->words; w++)
		offer_word(p, s, w, word_of(bitmap, p->count, w));
	s->complete = s->offered == p->count;
	if (s->offered > before)
		s->gained_us = now_us;
}

/* splitmix64's finaliser: one good mix of receiver and chunk. */
static uint64_t weight(uint64_t key, uint32_t chunk)
{
	uint64_t z = key ^ ((uint64_t)chunk + 1) * UINT64_C(0x9e3779b97f4a7c15);
	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

/* A receiver that can be a chunk's home: it is moving, and not far behind us (a slow one's chunks move to the quick).
 */
static bool source_is_home(const struct chunk_plan *p, const struct source *s, int64_t now_us)
{
	return s->used && !s->origin && !s->complete && now_us - s->gained_us < STALLED_US &&
	       s->offered + LAG_CHUNKS >= p->held_count / 2;
}

/* The keys of the others that can be homes now. */
struct homes {
	uint64_t keys[CHUNK_SOURCES_MAX];
	uint32_t count;
};

static void homes_list(const struct chunk_plan *p, int64_t now_us, struct homes *ret_homes)
{
	ret_homes->count = 0;
	for (uint32_t i = 0; i < CHUNK_SOURCES_MAX; i++)
		if (source_is_home(p, &p->sources[i], now_us))
			ret_homes->keys[ret_homes->count++] = p->sources[i].key;
}

/* How many homes come before this node for the chunk: 0 means that it is at home here. Counts no further than most. */
static uint32_t home_rank(const struct chunk_plan *p, const struct homes *homes, uint32_t chunk, uint32_t most)
{
	uint64_t mine = weight(p->self_key, chunk);
	uint32_t rank = 0;
	for (uint32_t i = 0; i < homes->count && rank < most; i++)
		rank += weight(homes->keys[i], chunk) > mine;
	return rank;
}

static bool source_free(const struct source *s, int64_t now_us)
{
	return s->used && s->running < s->limit && now_us >= s->blocked_until_us;
}

/* The best open chunk of a source from a sample; origins give home chunks, and others only when `steal`. */
static bool pick_chunk(struct chunk_plan *p, const struct source *s, bool steal, int64_t now_us, uint32_t *ret_chunk)
{
	uint32_t start = (uint32_t)rng_below(&p->rng, p->words), seen = 0;
	uint64_t best = UINT64_MAX;
	struct homes homes = {.count = 0};
	if (s->origin)
		homes_list(p, now_us, &homes);
	for (uint32_t w = 0; w < p->words && seen < SAMPLE; w++) {
		uint32_t at = (start + w) % p->words;
		uint64_t open = s->offers[at] & ~p->held[at] & ~p->asked[at];
		while (open) {
			uint32_t chunk = at * 64 + (uint32_t)__builtin_ctzll(open);
			open &= open - 1;
			bool may_steal = steal && p->rarity[chunk] == 0;
			uint32_t rank = home_rank(p, &homes, chunk, may_steal ? CHUNK_SOURCES_MAX : 1);
			if (rank > 0 && !may_steal)
				continue;
			seen++;
			/* order: nearest to home, then rarest, then by chance so that equal nodes part ways */
			uint64_t cost =
			    ((uint64_t)rank << 48) | ((uint64_t)p->rarity[chunk] << 24) | rng_below(&p->rng, 1 << 24);
			if (cost < best) {
				best = cost;
				*ret_chunk = chunk;
			}
		}
	}
	return best != UINT64_MAX;
}

/* Less is better: near peers, then far ones, then origins; among those, the least busy. */
static uint32_t source_cost(const struct source *s)
{
	return (s->origin ? 2000u : s->near ? 0u : 1000u) + s->running;
}

static void take(struct chunk_plan *p, uint32_t chunk, uint32_t source, int64_t now_us,
                 struct chunk_request *ret_request)
{
	p->flights[p->flight_count++] = (struct flight){chunk, source, now_us};
	p->sources[source].running++;
	bit_set(p->asked, chunk);
	p->idle_since_us = 0;
	*ret_request = (struct chunk_request){chunk, source};
}

/* One pass over the sources in order of cost; `tried` keeps it from asking one twice. */
static bool next_from(struct chunk_plan *p, bool origins, bool steal, int64_t now_us, struct chunk_request *ret_request)
{
	uint64_t tried = 0;
	for (;;) {
		uint32_t best = CHUNK_SOURCES_MAX;
		for (uint32_t i = 0; i < CHUNK_SOURCES_MAX; i++) {
			const struct source *s = &p->sources[i];
			if (((tried >> i) & 1) || s->origin != origins || !source_free(s, now_us))
				continue;
			if (best == CHUNK_SOURCES_MAX || source_cost(s) < source_cost(&p->sources[best]))
				best = i;
		}
		if (best == CHUNK_SOURCES_MAX)
			return false;
		tried |= UINT64_C(1) << best;
		uint32_t chunk;
		if (pick_chunk(p, &p->sources[best], steal, now_us, &chunk)) {
			take(p, chunk, best, now_us, ret_request);
			return true;
		}
	}
}

static int64_t patience_us(const struct chunk_plan *p)
{
	return p->typical_us ? p->typical_us : TYPICAL_FIRST_US;
}

/* A request that takes three times as long as usual is made once more elsewhere. */
static bool next_twin(struct chunk_plan *p, int64_t now_us, struct chunk_request *ret_request)
{
	for (uint32_t k = 0; k < p->flight_count; k++) {
		struct flight f = p->flights[k];
		uint32_t copies = 0;
		for (uint32_t j = 0; j < p->flight_count; j++)
			copies += p->flights[j].chunk == f.chunk;
		if (copies > 1 || now_us - f.started_us < 3 * patience_us(p) + BACKOFF_MIN_US)
			continue;
		for (uint32_t i = 0; i < CHUNK_SOURCES_MAX; i++) {
			const struct source *s = &p->sources[i];
			if (i != f.source && source_free(s, now_us) && bit_get(s->offers, f.chunk)) {
				take(p, f.chunk, i, now_us, ret_request);
				return true;
			}
		}
	}
	return false;
}

bool chunk_plan_next(struct chunk_plan *p, int64_t now_us, struct chunk_request *ret_request)
{
	if (p->held_count == p->count || p->flight_count == FLIGHT_MAX)
		return false;
	/* The origin first: its home chunks are what nobody else can bring into the crowd. */
	if (next_from(p, true, false, now_us, ret_request) || next_from(p, false, false, now_us, ret_request))
		return true;
	if (!p->idle_since_us)
		p->idle_since_us = now_us;
	if (now_us - p->idle_since_us >= patience_us(p) && next_from(p, true, true, now_us, ret_request))
		return true;
	return next_twin(p, now_us, ret_request);
}

int64_t chunk_plan_wait_us(const struct chunk_plan *p, int64_t now_us)
{
	int64_t at = now_us + patience_us(p);
	if (p->idle_since_us && p->idle_since_us + patience_us(p) > now_us)
		at = p->idle_since_us + patience_us(p);
	for (uint32_t i = 0; i < CHUNK_SOURCES_MAX; i++) {
		const struct source *s = &p->sources[i];
		if (s->used && s->blocked_until_us > now_us && s->blocked_until_us < at)
			at = s->blocked_until_us;
	}
	return at - now_us < 20000 ? 20000 : at - now_us;
}

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

bool chunk_plan_arrived(struct chunk_plan *p, uint32_t chunk, uint32_t source, int64_t first_us, int64_t took_us)
{
	struct source *s = &p->sources[source];
	uint32_t i;
	assert(chunk < p->count);
	if (flight_find(p, chunk, source, &i))
		flight_end(p, i);
	if (s->used) {
		s->backoff_us = 0;
		s->blocked_until_us = 0;
		/* Waiting for first bytes is a share of the time that one more request at once would fill. */
		if (took_us > 0)
			s->limit = 1 + (uint32_t)(first_us * 4 / took_us);
	}
	p->typical_us = p->typical_us ? (p->typical_us * 7 + took_us) / 8 : took_us;
	p->idle_since_us = 0;
	if (bit_get(p->held, chunk))
		return false;
	bit_set(p->held, chunk);
	p->held_count++;
	return true;
}

void chunk_plan_failed(struct chunk_plan *p, uint32_t chunk, uint32_t source, bool corrupt, int64_t now_us)
{
	struct source *s = &p->sources[source];
	uint32_t i;
	if (flight_find(p, chunk, source, &i))
		flight_end(p, i);
	if (!s->used)
		return;
	s->backoff_us = s->backoff_us ? s->backoff_us * 2 : BACKOFF_MIN_US;
	if (s->backoff_us > BACKOFF_MAX_US)
		s->backoff_us = BACKOFF_MAX_US;
	s->blocked_until_us = now_us + (corrupt ? CORRUPT_US : s->backoff_us);
}
