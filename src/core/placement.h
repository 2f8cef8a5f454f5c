/* SPDX-License-Identifier: Apache-2.0 */
/* placement.h - which nodes should hold which model: selectors, and rules applied to a node.
 *
 * A selector is text for people: "role=edge,site=paris,node=NAME-or-ID,all". Terms of different kinds must all hold;
 * terms of one kind are alternatives; `all` always holds. Rules are kept, not node lists, so a node that joins later
 * gets its share. A selector owns its lists. Pure; any thread. Source: docs/wire.md, "Center".
 */
#ifndef MDN_CORE_PLACEMENT_H
#define MDN_CORE_PLACEMENT_H

#include "core/report.h"

#define SELECTOR_TERMS_MAX 256 /* E_LIMIT beyond */

struct selector {
	uint32_t roles;                /* any of these; 0: roles do not matter */
	char (*sites)[NODE_TEXT_SIZE]; /* any of these; none: sites do not matter */
	size_t site_count;
	char (*nodes)[NODE_TEXT_SIZE]; /* names or ids, as sites */
	size_t node_count;
};

int selector_parse(struct str text, struct selector *ret_selector, struct error *err);
void selector_fini(struct selector *s);
/* The one way to write it: kinds in order, terms sorted, no repeats; equal selectors give equal texts. */
void selector_format(const struct selector *s, struct buf *out);

struct placement_node {
	struct str id, name, site;
	uint32_t roles;
};
bool selector_match(const struct selector *s, const struct placement_node *node);

struct placement_rule {
	char model[NODE_TEXT_SIZE]; /* "name:tag" */
	struct selector on;
};
/* Edges run models. A center does when a rule names it (its role or itself), repositories and schedulers never: what a
 * node with several roles gets follows from the one that may. */
bool placement_rule_holds(const struct placement_rule *rule, const struct placement_node *node);
/* Models the node should hold: pointers into the rules, sorted, each once. At most max (LIMIT_NODE_MODELS); how many.
 */
size_t placement_of(const struct placement_rule *rules, size_t rule_count, const struct placement_node *node,
                    const char **ret_models, size_t max);

#endif
