/* SPDX-License-Identifier: Apache-2.0 */
/* dispatch.h - who answers: names by core/dns_answer behind resolvers with caches, nodes by core/score or by a rival.
 *
 * Shared by both ways of playing. The map is the one that all gateways see: as it comes, or (map_age) a copy that is
 * renewed all at once, as a gateway's is whose scheduler is slow. Rivals (those of core/policy.h that need no prompt)
 * see the same map and the same ledger, and know of no distance; the single pool knows the exact load of its
 * nodes. Owned by the caller.
 */
#ifndef MDN_SIM_DISPATCH_H
#define MDN_SIM_DISPATCH_H

#include "core/dns_view.h"
#include "core/ledger.h"
#include "core/score.h"
#include "sim/figures.h"

enum { DISPATCH_ADDRESSES = 3 }; /* of an answer */

struct dispatch_answer { /* of a resolver's cache */
	int64_t until_us;
	uint32_t nodes[DISPATCH_ADDRESSES];
	uint8_t count, equal;
};

struct dispatch {
	const struct sim_world *world;
	enum sim_policy policy;
	struct node_map *map;
	struct ledger **ledgers;         /* of each site */
	struct dispatch_answer *answers; /* [(city * 2 + public) * models + model] */
	struct dns_view *view;           /* of the map, for names */
	int64_t view_us, estimated_us;
	uint32_t *row, row_count; /* scratch: distances */
	uint32_t *next;           /* round robin, of each site */
	uint32_t *pool_nodes;     /* scratch */
	uint32_t turn;            /* of the pool's addresses */
	double *weights;          /* of nodes, for rivals; NULL: all alike. Freed by dispatch_fini */
	struct rng rng;
	double decisions, decision_s;
};

/* still: reports do not age in the map, as in a gateway's copy of it. */
void dispatch_init(struct dispatch *d, const struct sim_world *w, enum sim_policy policy, bool still);
void dispatch_fini(struct dispatch *d);
void dispatch_node_id(uint32_t node, char ret_id[static NODE_ID_SIZE]); /* "n-17" */
void dispatch_site_id(uint32_t site, char ret_id[static NODE_ID_SIZE]); /* "g-3" */
/* A report with all that does not change; the caller's models and seen. */
void dispatch_report(const struct dispatch *d, uint32_t node, struct node_report *r);
/* The addresses a user of the city gets: nodes whose gateway he may go to, best first. Drawn: which resolver he has. */
struct dispatch_answer dispatch_resolve(struct dispatch *d, uint32_t city, uint32_t model, int64_t now_us);
/* The node; UINT32_MAX: none can take it. `exact` tells the running and waiting of a node, for the single pool. */
typedef double dispatch_exact_fn(const void *arg, uint32_t node);
uint32_t dispatch_decide(struct dispatch *d, uint32_t site, uint32_t model, int32_t prompt_tokens,
                         const uint32_t *excluded, uint32_t excluded_count, int64_t now_us, dispatch_exact_fn *exact,
                         const void *arg);

#endif
