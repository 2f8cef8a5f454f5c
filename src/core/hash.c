/* SPDX-License-Identifier: Apache-2.0 */
/* Linear probing over a power of two, at most half full, so that a miss costs one or two cache lines; removal shifts
 * the rest of the run back instead of leaving tombstones. The hash folds 8 bytes a step with a 64x64->128 multiply
 * (the "mum" step of wyhash). */
#include "core/hash.h"

#include <stdlib.h>

#define INDEX_LEAST 16

static uint64_t mix(uint64_t a, uint64_t b)
{
	__extension__ unsigned __int128 p = (unsigned __int128)a * b;
	return (uint64_t)p ^ (uint64_t)(p >> 64);
}

uint64_t hash_bytes(const void *data, size_t len)
{
	const uint8_t *p = data;
	uint64_t h = UINT64_C(0x9e3779b97f4a7c15) ^ len;
	for (size_t left = len; left > 0;) {
		uint64_t word = 0;
		size_t n = left < 8 ? left : 8;
		memcpy(&word, p, n);
		h = mix(h ^ word, UINT64_C(0xa0761d6478bd642f));
		p += n;
		left -= n;
	}
	h = mix(h, UINT64_C(0xe7037ed1a0b428db));
	return h ? h : 1;
}

uint64_t hash_join(uint64_t a, uint64_t b)
{
	uint64_t h = mix(a ^ UINT64_C(0x8ebc6af09c88c6e3), b ^ UINT64_C(0x589965cc75374cc3));
	return h ? h : 1;
}

void hash_index_fini(struct hash_index *x)
{
	free(x->hashes);
	free(x->values);
	*x = (struct hash_index){0};
}

void hash_index_copy(const struct hash_index *x, struct hash_index *ret_copy)
{
	struct hash_index c = {.cap = x->cap, .count = x->count};
	if (x->cap > 0) {
		c.hashes = mem_resize(NULL, c.cap, sizeof(*c.hashes));
		c.values = mem_resize(NULL, c.cap, sizeof(*c.values));
		memcpy(c.hashes, x->hashes, c.cap * sizeof(*c.hashes));
		memcpy(c.values, x->values, c.cap * sizeof(*c.values));
	}
	*ret_copy = c;
}

static void place(struct hash_index *x, uint64_t hash, uint32_t value)
{
	size_t at = hash & (x->cap - 1);
	while (x->hashes[at])
		at = (at + 1) & (x->cap - 1);
	x->hashes[at] = hash;
	x->values[at] = value;
}

void hash_index_add(struct hash_index *x, uint64_t hash, uint32_t value)
{
	if ((x->count + 1) * 2 > x->cap) {
		struct hash_index grown = {.cap = x->cap ? x->cap * 2 : INDEX_LEAST, .count = x->count};
		grown.hashes = mem_new(grown.cap * sizeof(*grown.hashes));
		grown.values = mem_new(grown.cap * sizeof(*grown.values));
		for (size_t i = 0; i < x->cap; i++) {
			if (x->hashes[i])
				place(&grown, x->hashes[i], x->values[i]);
		}
		free(x->hashes);
		free(x->values);
		*x = grown;
	}
	place(x, hash, value);
	x->count++;
}

void hash_index_remove(struct hash_index *x, uint64_t hash, uint32_t value)
{
	if (!x->cap)
		return;
	size_t mask = x->cap - 1, at = hash & mask;
	while (x->hashes[at] && (x->hashes[at] != hash || x->values[at] != value))
		at = (at + 1) & mask;
	if (!x->hashes[at])
		return;
	/* Shift back what would no longer be found across the hole. */
	for (size_t next = (at + 1) & mask; x->hashes[next]; next = (next + 1) & mask) {
		size_t home = x->hashes[next] & mask;
		if (((next - home) & mask) < ((next - at) & mask))
			continue;
		x->hashes[at] = x->hashes[next];
		x->values[at] = x->values[next];
		at = next;
	}
	x->hashes[at] = 0;
	x->count--;
}

bool hash_index_next(const struct hash_index *x, uint64_t hash, size_t *cursor, uint32_t *ret_value)
{
	if (!x->cap)
		return false;
	size_t mask = x->cap - 1;
	for (;;) {
		size_t at = (hash + *cursor) & mask;
		if (!x->hashes[at])
			return false;
		(*cursor)++;
		if (x->hashes[at] == hash) {
			*ret_value = x->values[at];
			return true;
		}
	}
}
