/* SPDX-License-Identifier: Apache-2.0 */
/* llama_cells.h - how many cells of the unified KV cache are taken, when sequences share their beginnings.
 *
 * llama.h does not tell. Sequences share only beginnings, and `same` knows for each two how many cells; so what one
 * gives up is free when it lies behind all that it shares. Counts of tokens; the caller knows how long each sequence
 * is. Pure; one thread; owns the table, which grows with the square of the sequences.
 */
#ifndef MDN_ENGINE_LLAMA_CELLS_H
#define MDN_ENGINE_LLAMA_CELLS_H

#include <stdint.h>

struct cells {
	int32_t sequences;
	int32_t *same; /* [i * sequences + j], both ways */
	int64_t held;
};

void cells_init(struct cells *c, int32_t sequences);
void cells_fini(struct cells *c);
void cells_grow(struct cells *c, int32_t count);                            /* any one took new cells */
void cells_cut(struct cells *c, int32_t i, int32_t past, int32_t position); /* was `past` long */
void cells_share(struct cells *c, int32_t from, int32_t to, int32_t count); /* `to` was empty */
int32_t cells_shared(const struct cells *c, int32_t i);                     /* how far, with any other */

#endif
