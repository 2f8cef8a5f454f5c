/* SPDX-License-Identifier: Apache-2.0 */
/* state.h - durable small state of a center or node: JSON values under (space, key), and transactions.
 *
 * A seam with two implementations: SQLite, and etcd for several centers of which one leads. Short, blocking, loop
 * thread. Values are opaque bytes up to 1 MiB. `state_put_if` is the compare-and-set every one-time thing is built on.
 *
 * With etcd a write waits for most of the cluster, 2 s at most. One that was refused or of which nobody knows whether
 * it was done is the last one: on_lost is called, and from then on writes fail at once (E_UNAVAILABLE) while reads give
 * what was. Between state_begin and state_commit, at most 100 writes happen together, in their order.
 */
#ifndef MDN_STORE_STATE_H
#define MDN_STORE_STATE_H

#include "base/error.h"
#include "base/str.h"

#include <stdint.h>

struct state;
struct etcd_options;
typedef void state_fn(void *arg, struct str key, struct str value);

int state_open(struct str path, struct state **ret_state, struct error *err); /* SQLite file */
struct state_etcd_options {
	const struct etcd_options *etcd;
	struct str prefix; /* of all keys */
	/* Nothing is written but while this key has this create_revision: store/election.h. */
	struct str leader_key;
	int64_t leader_revision;
	void (*on_lost)(void *arg); /* from within a write: only make a note */
	void *arg;
};
/* Reads everything below the prefix. */
int state_open_etcd(const struct state_etcd_options *options, struct state **ret_state, struct error *err);
void state_close(struct state *s);
int state_get(struct state *s, const char *space, struct str key, struct buf *out, struct error *err); /* E_NOTFOUND */
/* Writes between the two are durable together after the second, for one wait for the disk; state_put_if is not for
 * there. When the second fails, none happened. Who cannot go on between the two must undo, or nothing can begin, or is
 * durable, from then on. */
int state_begin(struct state *s, struct error *err);
int state_commit(struct state *s, struct error *err);
void state_undo(struct state *s);
int state_put(struct state *s, const char *space, struct str key, struct str value, struct error *err);
/* Writes only when the stored value equals `expected` (empty: when there is none). E_CONFLICT otherwise. */
int state_put_if(struct state *s, const char *space, struct str key, struct str expected, struct str value,
                 struct error *err);
/* 0 also when there was none. */
int state_delete(struct state *s, const char *space, struct str key, struct error *err);
/* In the order of keys; fn may change the state meanwhile, and sees it as it was. */
int state_each(struct state *s, const char *space, state_fn *fn, void *arg, struct error *err);

/* Fills an empty state with all that another holds; `last` is the space that comes last, and says by being there that
 * all of it is. */
int state_copy(struct state *to, struct state *from, const char *last, struct error *err);

#endif
