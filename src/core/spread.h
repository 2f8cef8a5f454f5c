/* SPDX-License-Identifier: Apache-2.0 */
/* spread.h - who takes a file's chunks from whom: a tree per stripe in each site, and one over the sites.
 *
 * Chunks belong to one of SPREAD_STRIPES stripes. A node feeds others in one stripe only and is a leaf in the rest
 * (interior-disjoint trees, as in SplitStream), so everybody's way up is used once and the way is logarithmic. A
 * stripe enters a site once, by its head; sites are a tree of the same kind, so each sends and gets about one copy.
 * Pure, deterministic: the same nodes in any order give the same trees, and one node more or less moves few edges.
 * Rates are bytes per second. The result owns its memory. Why trees: docs/rooms/peer.md.
 */
#ifndef MDN_CORE_SPREAD_H
#define MDN_CORE_SPREAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SPREAD_STRIPES 8u
#define SPREAD_PARENTS 3u      /* the parent, then who stands in for it */
#define SPREAD_NONE UINT32_MAX /* no such parent */
#define SPREAD_VERSION 3       /* of the rule: nodes of different versions must not both compute */

struct spread_node {
	uint64_t key, site, rack; /* unique; same number: near each other; rack 0: unknown */
	uint64_t rate;            /* measured; 0: unknown, as the others */
	bool origin;              /* a repository: feeds, and takes nothing */
	bool complete;            /* has all of it */
	bool leaf;                /* slow, or late: feeds nobody */
	bool behind;              /* a site all of which is behind feeds no other */
};

struct spread;

struct spread *spread_new(const struct spread_node *nodes, size_t count, uint64_t salt);
void spread_free(struct spread *s);
/* Indexes into `nodes`, best first, then SPREAD_NONE. Nothing for who has it all. */
const uint32_t *spread_parents(const struct spread *s, size_t node, uint32_t stripe);
/* How many would stand in for a dead head of the stripe before this node does. 0: it is the head. */
uint32_t spread_rank(const struct spread *s, size_t node, uint32_t stripe);
/* The stripe of a chunk: in every eight that follow each other each stripe once, in changing order. */
uint32_t spread_stripe(uint32_t chunk);

/* How far receivers are and how quick, and what follows. Late ones are far behind the middle of their site, and feed
 * nobody; those behind are so behind the middle of all. They stay so until they caught up. What a node takes shows less
 * than it could whenever it is fed too little: so its rate rises at once, and falls only after SPREAD_LOW_LOOKS looks
 * in a row at which it fell by half more than its site did. */
#define SPREAD_LOW_LOOKS 6u
struct spread_progress {
	uint64_t site, have;
	uint64_t measured;   /* 0: not looked at now */
	uint64_t rate, most; /* to plan with, and the most since; 0: not known */
	uint32_t low;
	bool late, behind;
};
/* True when something changed that asks for a new plan. */
bool spread_judge(struct spread_progress *progresses, size_t count, uint64_t size);

#endif
