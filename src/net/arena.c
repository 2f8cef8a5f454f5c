/* SPDX-License-Identifier: Apache-2.0 */
/* arena.c - bump allocation; a large piece gets a block of its own. */
#include "net/arena.h"

#include <stdalign.h>
#include <stdlib.h>

#define BLOCK_BYTES 8192

struct arena_block {
	struct arena_block *next;
	alignas(16) char bytes[];
};

void arena_init(struct arena *a, char *first, size_t size)
{
	*a = (struct arena){first, first + size, NULL};
}

void arena_fini(struct arena *a)
{
	while (a->blocks) {
		struct arena_block *block = a->blocks;
		a->blocks = block->next;
		free(block);
	}
	a->at = a->end = NULL;
}

static void *arena_block_new(struct arena *a, size_t size)
{
	struct arena_block *block = mem_new(sizeof(*block) + size);
	block->next = a->blocks;
	a->blocks = block;
	return block->bytes;
}

static void *arena_take(struct arena *a, size_t size)
{
	size = (size + 15) & ~(size_t)15;
	if (size <= (size_t)(a->end - a->at)) {
		void *p = a->at;
		a->at += size;
		return p;
	}
	if (size > BLOCK_BYTES / 4)
		return arena_block_new(a, size);
	a->at = arena_block_new(a, BLOCK_BYTES);
	a->end = a->at + BLOCK_BYTES;
	return arena_take(a, size);
}

void *arena_alloc(struct arena *a, size_t size)
{
	return memset(arena_take(a, size), 0, size);
}

struct str arena_copy(struct arena *a, struct str s)
{
	char *p = arena_take(a, s.len + 1);
	if (s.len)
		memcpy(p, s.base, s.len);
	p[s.len] = '\0';
	return (struct str){p, s.len};
}
