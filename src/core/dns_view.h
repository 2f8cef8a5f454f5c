/* SPDX-License-Identifier: Apache-2.0 */
/* dns_view.h - a picture of the node map with all that DNS answers need, which never changes: so any number of threads
 * may answer from it while the map goes on.
 *
 * Made and freed by the map's thread only; it outlives changes of the map, and the map. Zones and distances are big and
 * change seldom: a new view shares them with the one before, distances for up to VIEW_DISTANCES_US (load and health
 * are always of now). Sites are numbered as in the map. Microseconds. Pure.
 */
#ifndef MDN_CORE_DNS_VIEW_H
#define MDN_CORE_DNS_VIEW_H

#include "core/distance.h"
#include "core/node_map_index.h"

#define VIEW_DISTANCES_US (10 * INT64_C(1000) * 1000)

struct view_place {
	uint32_t node; /* hots[node] */
	int64_t queue_us;
};

struct view_label {
	char text[MODEL_LABEL_SIZE];
	uint32_t first, count; /* places that are ready, of one of the models of this name */
};

struct view_distances;

struct dns_view {
	uint64_t version; /* the map's */
	bool copy;        /* see map_hot_health */
	struct map_hot *hots;
	uint32_t node_count;
	struct view_place *places;
	struct view_label *labels; /* two models may have the same */
	uint32_t label_count;
	struct hash_index by_label;
	struct lpm *zones, *named;
	struct view_distances *shared;
	const struct distances *distances;
};

/* before: the last one of the same map, or NULL. */
struct dns_view *dns_view_new(const struct node_map *m, const struct dns_view *before, int64_t now_us);
void dns_view_free(struct dns_view *v);
/* The labels that are `label`, one a call while *cursor (start: 0) goes on. */
const struct view_label *dns_view_labelled(const struct dns_view *v, struct str label, size_t *cursor);
/* The site of a client, as the map names it, else by zones; MAP_NONE when nothing covers it; and the scope of that
 * (lpm.h). */
uint32_t dns_view_site_of(const struct dns_view *v, const struct ip *client, uint8_t *ret_scope);

#endif
