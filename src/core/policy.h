/* SPDX-License-Identifier: Apache-2.0 */
/* policy.h - other people's ways to choose a node, by name, so that they can be compared with ours and used instead.
 *
 *   mdn            core/score: predicted time to first token, sticky until saturated
 *   round_robin    one after the other
 *   random
 *   power_of_two   two at random, the less loaded
 *   least_load     the least loaded, equals in turns
 *   cache_aware    who holds most of the prompt, if that is 30 % of it; the least loaded when loads are far apart or
 *                  nobody does (SGLang's router, vllm-router)
 *   prefix_hash    the prompt's first KiB decides, by rendezvous hashing, among those below 1.25 times the mean load
 *                  (consistent hashing with bounded loads, Mirrokni et al. 2018): several dispatchers agree unasked
 *   session        where the session was, else as its name hashes; without one the least loaded
 *
 * Load is requests over slots, with our own dispatches that no report has seen. Policies know of no distance. Pure.
 */
#ifndef MDN_CORE_POLICY_H
#define MDN_CORE_POLICY_H

#include "base/rng.h"
#include "core/affinity.h"
#include "core/ledger.h"
#include "core/node_map_index.h"

struct policy_pool {
	const struct node_map *map;
	const struct map_model *model;
	const struct ledger *ledger; /* NULL: nothing in flight */
	struct str self_id;          /* the dispatcher, for the ledger */
	const uint32_t *fit;         /* places of the model that can take the request */
	uint32_t fit_count;          /* at least 1 */
	const struct route_warm *warm;
	size_t warm_count;
	int32_t prompt_tokens;
	uint64_t key, session_key;                         /* affinity.h; 0: none */
	double (*weight)(const void *arg, uint32_t place); /* how often it counts in draws; NULL: all alike */
	const void *arg;
	uint32_t *turn;  /* of round robin, kept by the dispatcher; NULL: drawn */
	struct rng *rng; /* NULL: the first is drawn */
};

typedef uint32_t policy_choose(const struct policy_pool *p); /* the place */
struct route_policy {
	const char *name;
	policy_choose *choose; /* NULL: the score */
};
extern const struct route_policy route_policies[];             /* the first is the default; ends with name NULL */
const struct route_policy *route_policy_find(struct str name); /* NULL: none is called so */
/* Highest random weight: which of the nodes a key belongs to is decided by the greatest. */
uint64_t policy_rank(const struct node_map *map, uint32_t node, uint64_t key);

#endif
