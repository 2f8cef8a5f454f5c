/* SPDX-License-Identifier: Apache-2.0 */
/* placement.h - which nodes should hold which model: selectors, and rules applied to a node.
 *
 * A selector is text for people. Its terms, separated by commas:
 *   all, role=edge, site=paris, node=NAME-or-ID, label=KEY:VALUE, accelerator=cuda, memory>=16G, and !TERM
 * Terms of different kinds must all hold; terms of one kind are alternatives; none of those with ! may hold. Rules are
 * kept, not node lists, so a node that joins later gets its share. A selector owns its terms. Pure; any thread. Source:
 * docs/wire.md, "Center".
 */
#ifndef MDN_CORE_PLACEMENT_H
#define MDN_CORE_PLACEMENT_H

#include "core/report.h"

#define SELECTOR_TERMS_MAX 256 /* E_LIMIT beyond */

enum selector_kind { TERM_ROLE, TERM_SITE, TERM_NODE, TERM_LABEL, TERM_ACCELERATOR, TERM_MEMORY };
struct selector_term {
	enum selector_kind kind;
	bool negated;
	uint32_t role;             /* TERM_ROLE */
	uint64_t bytes;            /* TERM_MEMORY: at least */
	char text[NODE_TEXT_SIZE]; /* the others */
};
struct selector {
	struct selector_term *terms; /* sorted, each once; none: all nodes */
	size_t count;
};

int selector_parse(struct str text, struct selector *ret_selector, struct error *err);
void selector_fini(struct selector *s);
/* The one way to write it: kinds in order, terms sorted, no repeats; equal selectors give equal texts. */
void selector_format(const struct selector *s, struct buf *out);

struct placement_node {
	struct str id, name, site;
	uint32_t roles;
	const char (*labels)[NODE_TEXT_SIZE];
	size_t label_count;
	uint64_t memory_bytes;  /* 0: unknown; holds no memory term */
	struct str accelerator; /* empty: unknown */
	bool away;              /* has not reported for long: a replica there counts no more */
};
bool selector_match(const struct selector *s, const struct placement_node *node);

struct placement_rule {
	char model[NODE_TEXT_SIZE]; /* "name:tag" */
	struct selector on;
	uint32_t replicas_min, replicas_max; /* 0: on all of them. Different ones: by demand */
	bool per_site;                       /* replicas of each site, not of all */
	bool preheat;                        /* on disk only */
};
/* Edges run models. A center does when a rule names it (its role or itself), repositories and schedulers never: what a
 * node with several roles gets follows from the one that may. Whether replicas are enough elsewhere is not asked. */
bool placement_rule_holds(const struct placement_rule *rule, const struct placement_node *node);
/* Those of the nodes that hold the rule which are to have it: ret_chosen[i]. `replicas` is how many now (0: all).
 * Chosen by weighted rendezvous hashing over memory, so that each node's place depends on nobody else and little moves
 * when nodes come and go; too small a memory for `size_bytes` counts against a node. */
void placement_choose(const struct placement_rule *rule, uint32_t replicas, uint64_t size_bytes,
                      const struct placement_node *nodes, size_t count, bool *ret_chosen);

/* How many replicas a model's measured load needs; hysteresis: more at once when they are busy, fewer, one at a time,
 * after ten quiet minutes. */
struct demand {
	uint32_t replicas;
	double busy;                   /* average requests at once, all nodes */
	int64_t measured_us, quiet_us; /* last sample; since when fewer would do (0: not) */
};
#define DEMAND_WINDOW_US (INT64_C(30) * 1000000)
#define DEMAND_QUIET_US (INT64_C(600) * 1000000)
/* busy: requests running and waiting on all nodes now; slots: of one node (0: unknown). True when replicas changed. */
bool demand_step(struct demand *d, uint32_t least, uint32_t most, double busy, uint32_t slots, int64_t now_us);

#endif
