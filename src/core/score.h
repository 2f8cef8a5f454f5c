/* SPDX-License-Identifier: Apache-2.0 */
/* score.h - which node answers this request best: filter, then predicted time to first token.
 *
 *   T(node) = distance + queue + prefill, each in microseconds, of the load it must have by now (place.c), with our
 * own dispatches since its report counted in; a node whose use u nears 1 pays the barrier u/(1-u), so that the near one
 * wins until its queue costs more than the way. What a node has of the prompt already (query.warm) it need not prefill,
 * and the others pay for it twice, for they would also keep those behind it waiting: the warm one wins until its queue
 * costs more than twice what that saves. bench/prefixes.py: with once, prompts were computed again that p90 felt.
 *
 * Candidates within SCORE_NEAR of the best are as good: of those the warm one, else the one a long prompt's key
 * belongs to, else two are drawn at random, against herds; the busiest ones are left out (Prequal's hot-cold rule). A
 * policy by another name (policy.h) chooses in the score's place, which is then only told. A decision owns
 * its arrays; texts in it are copies. Pure. The reasons are words for people: "why did I get this answer?".
 */
#ifndef MDN_CORE_SCORE_H
#define MDN_CORE_SCORE_H

#include "core/policy.h"

struct route_query {
	struct str model;           /* "name" or "name:tag" */
	struct str client_site;     /* empty: unknown; all nodes are then equally far */
	struct str self_id;         /* the dispatcher, whose `seen` counter to look up; empty: none */
	int32_t prompt_tokens;      /* uncached, estimated; 0 unknown */
	const struct str *excluded; /* ids not to choose: already tried */
	size_t excluded_count;
	const struct route_policy *policy; /* NULL: the score */
	const struct route_warm *warm;     /* who has computed some of it, from affinity_find */
	size_t warm_count;
	uint64_t key, session_key; /* affinity.h; 0: none */
	uint32_t *turn;            /* of policy.h */
	bool brief;                /* candidates without their reasons: for those that only send the request on */
	bool for_client; /* the client will connect by itself: only nodes with an api_url, and self is as far as any */
};

#define ROUTE_CANDIDATES_MAX 8 /* a decision names this many of the best */
#define ROUTE_REFUSED_MAX 16   /* and this many of those that have the model and were turned down */

struct route_candidate {
	char id[NODE_ID_SIZE], name[NODE_TEXT_SIZE], site[NODE_TEXT_SIZE];
	char node_url[NODE_URL_SIZE], api_url[NODE_URL_SIZE];
	char model[NODE_TEXT_SIZE]; /* the name:tag it has */
	int64_t score_us, rtt_us, queue_us, prefill_us;
	int64_t age_us;      /* of its load; beyond NODE_STALE_AGE_US that is not believed */
	int32_t warm_tokens; /* of the prompt it need not prefill */
	bool session;        /* the session was there last */
	char reason[288];
};

struct route_refusal {
	char id[NODE_ID_SIZE], name[NODE_TEXT_SIZE];
	char reason[160];
};

struct route_decision {
	struct route_candidate *candidates; /* best first; [choice] is the drawn one */
	size_t candidate_count, choice;
	struct route_refusal *refused;
	size_t refused_count;
};

/* E_NOTFOUND: no node has the model; E_UNAVAILABLE: some have, none can take it now. The decision is filled in
 * every case (refused tells why); the caller finishes it. */
int route_decide(const struct node_map *map, const struct ledger *ledger, const struct route_query *query,
                 int64_t now_us, struct rng *rng, struct route_decision *ret_decision, struct error *err);
void route_decision_fini(struct route_decision *d);

#endif
