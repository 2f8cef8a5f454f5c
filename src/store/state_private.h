/* SPDX-License-Identifier: Apache-2.0 */
/* state_private.h - what an implementation of store/state.h gives; for state*.c only. */
#ifndef MDN_STORE_STATE_PRIVATE_H
#define MDN_STORE_STATE_PRIVATE_H

#include "store/state.h"

typedef void state_space_fn(void *arg, const char *space);

struct state_ops { /* as the functions of state.h; sizes were checked */
	void (*close)(struct state *s);
	int (*get)(struct state *s, const char *space, struct str key, struct buf *out, struct error *err);
	int (*put)(struct state *s, const char *space, struct str key, struct str value, struct error *err);
	int (*delete)(struct state *s, const char *space, struct str key, struct error *err);
	int (*each)(struct state *s, const char *space, state_fn *fn, void *arg, struct error *err);
	/* Every space that holds something, once. */
	int (*spaces)(struct state *s, state_space_fn *fn, void *arg, struct error *err);
	int (*begin)(struct state *s, struct error *err);
	int (*commit)(struct state *s, struct error *err);
	void (*undo)(struct state *s);
};

struct state {
	const struct state_ops *ops;
};

#endif
