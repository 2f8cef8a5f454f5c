/* SPDX-License-Identifier: Apache-2.0 */
/* key_ring.h - the API keys of a network, as far as a node knows them: public id, keyed hash, team and limits of each.
 *
 * A key carries its id, so one binary search and one hash decide, whatever the number of keys. The ring owns a sorted
 * copy. Pure; one thread at a time.
 */
#ifndef MDN_CORE_KEY_RING_H
#define MDN_CORE_KEY_RING_H

#include "base/error.h"
#include "base/str.h"
#include "core/quota.h"

struct key_ring_key {
	char id[32];
	char hash[72]; /* api_key_hash */
	char team[QUOTA_TEAM_SIZE];
	struct quota_limits limits;
};
struct key_ring {
	struct key_ring_key *keys;
	size_t count;
};

void key_ring_set(struct key_ring *ring, const struct key_ring_key *keys, size_t count); /* replaces all */
void key_ring_fini(struct key_ring *ring);
/* The id of a key that is in the ring, or false: not the form of a key, not known, or not its hash. */
bool key_ring_find(const struct key_ring *ring, struct str key, char ret_id[static 32]);
const struct key_ring_key *key_ring_get(const struct key_ring *ring, const char *id); /* NULL: none has that id */

#endif
