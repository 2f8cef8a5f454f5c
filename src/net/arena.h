/* SPDX-License-Identifier: Apache-2.0 */
/* arena.h - for net/ only: small zeroed memory that goes all at once, with its exchange or call. */
#ifndef MDN_NET_ARENA_H
#define MDN_NET_ARENA_H

#include "base/str.h"

#include <stdarg.h>

struct arena_block;
struct arena {
	char *at, *end;             /* what is free; may begin inside the owner's own memory */
	struct arena_block *blocks; /* from the heap */
};

void arena_init(struct arena *a, char *first, size_t size);
void arena_fini(struct arena *a);
void *arena_alloc(struct arena *a, size_t size);
struct str arena_copy(struct arena *a, struct str s); /* with a NUL behind it */

#endif
