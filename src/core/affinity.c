/* SPDX-License-Identifier: Apache-2.0 */
/* Pairs (block, number of a node) live in core/recent.h. They are renewed from a prompt's end to its beginning, so that
 * of two blocks of a prompt the later one always goes first, and what is left is a beginning. A node has another number
 * for each life: pairs of an old life then age away unfound. */
#include "core/affinity.h"

#include "core/recent.h"

#include <stdlib.h>

#define BLOCK_BYTES 256
#define BLOCKS_ALIKE 64 /* then they double */

struct holder {
	char id[NODE_ID_SIZE];
	uint64_t boot;
	uint32_t made; /* times this place was given away: part of its number */
};

struct affinity {
	uint64_t secret;
	struct recent *pairs;
	struct recent *known; /* (hash of id, place) */
	struct holder *holders;
	uint32_t holder_count, holder_cap, turn;
};

/* A number is a place and how often that was given away. */
#define PLACE_BITS 12
_Static_assert(AFFINITY_NODES_MAX == 1 << PLACE_BITS, "a place fits its bits");

static uint32_t number_of(const struct affinity *a, uint32_t place)
{
	return a->holders[place].made << PLACE_BITS | place;
}

struct affinity *affinity_new(uint64_t secret)
{
	struct affinity *a = NEW(struct affinity);
	*a = (struct affinity){
	    .secret = secret, .pairs = recent_new(AFFINITY_PAIRS_MAX), .known = recent_new(AFFINITY_NODES_MAX)};
	return a;
}

void affinity_free(struct affinity *a)
{
	if (!a)
		return;
	recent_free(a->pairs);
	recent_free(a->known);
	free(a->holders);
	free(a);
}

size_t affinity_count(const struct affinity *a)
{
	return recent_count(a->pairs);
}

/* ---- prompts ------------------------------------------------------------------------------------- */

static uint32_t block_size(uint32_t block)
{
	return (uint32_t)BLOCK_BYTES << block / BLOCKS_ALIKE;
}

uint32_t affinity_block_end(uint32_t block)
{
	uint32_t end = 0, size = BLOCK_BYTES;
	for (; block >= BLOCKS_ALIKE; block -= BLOCKS_ALIKE, size *= 2)
		end += size * BLOCKS_ALIKE;
	return end + (block + 1) * size;
}

void affinity_begin(const struct affinity *a, struct affinity_prompt *p, struct str model, struct str tenant,
                    struct str salt)
{
	uint64_t whose = hash_join(hash_str(model), hash_join(hash_str(tenant), hash_str(salt)));
	p->count = p->filled = 0;
	p->part = p->word = p->session = p->key = p->session_key = 0;
	p->plain = whose;
	p->chain = hash_join(a->secret, whose);
}

void affinity_session(struct affinity_prompt *p, struct str session)
{
	if (session.len == 0)
		return;
	uint64_t hash = hash_str(session);
	p->session = hash_join(~p->chain, hash);
	p->session_key = hash_join(~p->plain, hash);
}

static void block_end(struct affinity_prompt *p)
{
	p->blocks[p->count++] = p->chain = hash_join(p->chain, p->part);
	if (p->count <= AFFINITY_KEY_BLOCKS)
		p->plain = hash_join(p->plain, p->part);
	if (p->count == AFFINITY_KEY_BLOCKS)
		p->key = p->plain;
	p->filled = 0;
	p->part = 0;
}

void affinity_feed(struct affinity_prompt *p, const void *bytes, size_t len)
{
	const uint8_t *at = bytes, *end = at + len;
	while (at < end && p->count < AFFINITY_BLOCKS_MAX) {
		if (p->filled % 8 == 0 && end - at >= 8) {
			memcpy(&p->word, at, 8);
			at += 8;
			p->filled += 8;
		} else {
			p->word = p->word >> 8 | (uint64_t)*at++ << 56; /* as the copy above lays them */
			p->filled++;
		}
		if (p->filled % 8 == 0) {
			p->part = hash_join(p->part, p->word);
			if (p->filled == block_size(p->count))
				block_end(p);
		}
	}
}

/* ---- who ------------------------------------------------------------------------------------------- */

static uint32_t holder_find(const struct affinity *a, uint64_t hash, struct str id)
{
	uint32_t place;
	for (size_t cursor = 0; recent_next(a->known, hash, &cursor, &place);)
		if (str_equal(str_from(a->holders[place].id), id))
			return place;
	return UINT32_MAX;
}

/* A place for one that has none: a new one, or in turn one that is no longer known, or any. */
static uint32_t holder_take(struct affinity *a)
{
	if (a->holder_count == AFFINITY_NODES_MAX)
		return a->turn++ % AFFINITY_NODES_MAX;
	if (a->holder_count == a->holder_cap) {
		a->holder_cap = a->holder_cap ? a->holder_cap * 2 : 16;
		a->holders = mem_resize(a->holders, a->holder_cap, sizeof(*a->holders));
	}
	a->holders[a->holder_count] = (struct holder){0};
	return a->holder_count++;
}

static uint32_t holder_of(struct affinity *a, struct str id, uint64_t boot, int64_t now_us)
{
	uint64_t hash = hash_str(id);
	uint32_t place = holder_find(a, hash, id);
	if (place == UINT32_MAX || a->holders[place].boot != boot) {
		if (place == UINT32_MAX)
			place = holder_take(a);
		struct holder *h = &a->holders[place];
		h->made = (h->made + 1) & ((1u << (32 - PLACE_BITS)) - 1);
		h->boot = boot;
		str_copy(id, h->id, sizeof(h->id));
	}
	recent_touch(a->known, hash, place, now_us);
	return number_of(a, place);
}

/* NULL: the number is of a former life. */
static const struct holder *holder_at(const struct affinity *a, uint32_t number)
{
	uint32_t place = number & (AFFINITY_NODES_MAX - 1);
	return place < a->holder_count && number_of(a, place) == number ? &a->holders[place] : NULL;
}

/* The one of this node in the list, or one more while there is room. */
static struct route_warm *warm_of(struct route_warm *list, size_t *count, const struct holder *h)
{
	for (size_t i = 0; i < *count; i++)
		if (strcmp(list[i].id, h->id) == 0)
			return &list[i];
	if (*count == AFFINITY_HOLDERS_MAX)
		return NULL;
	struct route_warm *w = &list[(*count)++];
	*w = (struct route_warm){.boot = h->boot};
	memcpy(w->id, h->id, sizeof(w->id));
	return w;
}

size_t affinity_find(struct affinity *a, const struct affinity_prompt *p, int64_t now_us,
                     struct route_warm ret_warm[static AFFINITY_HOLDERS_MAX])
{
	size_t count = 0, cursor;
	uint32_t number;
	recent_expire(a->pairs, now_us - AFFINITY_AGE_US);
	if (recent_count(a->pairs) == 0)
		return 0;
	for (uint32_t block = p->count; block-- > 0 && count < AFFINITY_HOLDERS_MAX;) {
		for (cursor = 0; recent_next(a->pairs, p->blocks[block], &cursor, &number);) {
			const struct holder *h = holder_at(a, number);
			struct route_warm *w = h ? warm_of(ret_warm, &count, h) : NULL;
			if (w && w->tokens == 0)
				w->tokens = (int32_t)(affinity_block_end(block) / AFFINITY_TOKEN_BYTES);
		}
	}
	for (cursor = 0; p->session && recent_next(a->pairs, p->session, &cursor, &number);) {
		const struct holder *h = holder_at(a, number);
		struct route_warm *w = h ? warm_of(ret_warm, &count, h) : NULL;
		if (w)
			w->session = true;
	}
	return count;
}

void affinity_learn(struct affinity *a, const struct affinity_prompt *p, struct str node, uint64_t boot, int64_t now_us)
{
	uint32_t number = holder_of(a, node, boot, now_us);
	for (uint32_t block = p->count; block-- > 0;)
		recent_touch(a->pairs, p->blocks[block], number, now_us);
	if (p->session) {
		recent_forget(a->pairs, p->session); /* it was elsewhere before */
		recent_touch(a->pairs, p->session, number, now_us);
	}
}
