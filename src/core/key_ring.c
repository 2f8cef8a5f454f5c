/* SPDX-License-Identifier: Apache-2.0 */
/* Hashes are compared in constant time (api_key.c); which ids exist is no secret. */
#include "core/key_ring.h"

#include "core/api_key.h"

#include <stdlib.h>

static int order(const void *a, const void *b)
{
	return strcmp(((const struct key_ring_key *)a)->id, ((const struct key_ring_key *)b)->id);
}

void key_ring_set(struct key_ring *ring, const struct key_ring_key *keys, size_t count)
{
	key_ring_fini(ring);
	ring->keys = mem_new(count * sizeof *keys + 1);
	ring->count = count;
	if (count) {
		memcpy(ring->keys, keys, count * sizeof *keys);
		qsort(ring->keys, count, sizeof *keys, order);
	}
}

void key_ring_fini(struct key_ring *ring)
{
	free(ring->keys);
	*ring = (struct key_ring){0};
}

const struct key_ring_key *key_ring_get(const struct key_ring *ring, const char *id)
{
	struct key_ring_key wanted = {0};
	if (!ring->count || !str_copy(str_from(id), wanted.id, sizeof wanted.id))
		return NULL;
	return bsearch(&wanted, ring->keys, ring->count, sizeof wanted, order);
}

bool key_ring_find(const struct key_ring *ring, struct str key, char ret_id[static 32])
{
	struct key_ring_key wanted = {0};
	if (!ring->count || api_key_parse(key, wanted.id, NULL))
		return false;
	const struct key_ring_key *found = key_ring_get(ring, wanted.id);
	if (!found || !api_key_matches(key, str_from(found->hash)))
		return false;
	memcpy(ret_id, wanted.id, sizeof wanted.id);
	return true;
}
