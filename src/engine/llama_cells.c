/* SPDX-License-Identifier: Apache-2.0 */
/* llama_cells.c - see the header. */
#include "engine/llama_cells.h"

#include "base/str.h"

#include <stdlib.h>

void cells_init(struct cells *c, int32_t sequences)
{
	*c = (struct cells){.sequences = sequences};
	c->same = mem_new((size_t)sequences * (size_t)sequences * sizeof(*c->same));
}

void cells_fini(struct cells *c)
{
	free(c->same);
	*c = (struct cells){0};
}

static int32_t *same(const struct cells *c, int32_t i, int32_t j)
{
	return &c->same[(size_t)i * (size_t)c->sequences + (size_t)j];
}

void cells_grow(struct cells *c, int32_t count)
{
	c->held += count;
}

int32_t cells_shared(const struct cells *c, int32_t i)
{
	int32_t most = 0;

	for (int32_t j = 0; j < c->sequences; j++)
		most = *same(c, i, j) > most ? *same(c, i, j) : most;
	return most;
}

void cells_cut(struct cells *c, int32_t i, int32_t past, int32_t position)
{
	int32_t shared = cells_shared(c, i), kept = shared > position ? shared : position;

	if (past > kept)
		c->held -= past - kept;
	for (int32_t j = 0; j < c->sequences; j++)
		if (*same(c, i, j) > position)
			*same(c, i, j) = *same(c, j, i) = position;
}

void cells_share(struct cells *c, int32_t from, int32_t to, int32_t count)
{
	for (int32_t j = 0; j < c->sequences; j++) {
		int32_t with = *same(c, from, j) < count ? *same(c, from, j) : count;
		if (j != to && j != from)
			*same(c, to, j) = *same(c, j, to) = with;
	}
	*same(c, to, from) = *same(c, from, to) = count;
}
