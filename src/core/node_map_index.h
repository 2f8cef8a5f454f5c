/* SPDX-License-Identifier: Apache-2.0 */
/* node_map_index.h - inside of the node map, for score.c and dns_answer.c: what a decision reads, laid out for one
 * sweep.
 *
 * A decision must not touch every node's report (megabytes), so each model keeps an array of `map_place`, one per node
 * that has it, with the load already turned into costs, and each node a `map_hot` with all that health needs.
 */
#ifndef MDN_CORE_NODE_MAP_INDEX_H
#define MDN_CORE_NODE_MAP_INDEX_H

#include "core/hash.h"
#include "core/node_map.h"

#define MAP_NONE UINT32_MAX

struct map_hot {
	int64_t received_us, refused_us, timeout_us;
	uint32_t timeouts, site;
	bool said_down, said_suspect, draining, starting, has_api;
	struct ip api; /* of api_url when that names an address; else bits 0 */
	uint16_t api_port;
	bool api_tls;
	int64_t least_queue_us; /* of its ready models; -1: none is ready */
};

/* A model on a node. Cost is linear in tokens and steep in use; see place_queue_us. */
struct map_place {
	uint32_t node, link;      /* the node's links[link] is this */
	bool ready;               /* takes requests: now, or once it is loaded */
	int64_t load_us;          /* until it is loaded; 0: it is */
	int32_t busy, slots;      /* requests running or waiting, as reported; slots >= 1 */
	int64_t tokens;           /* to prefill before us, as reported */
	double load, load_tokens; /* what the two must be by now */
	bool takes_more;          /* scratch of places_estimate */
	double us_per_token;      /* prefill */
	double us_per_ahead;      /* until one more of the requests before us is done */
	int64_t queue_us;         /* place_queue_us(., 0, 0) */
};

/* The least that a place can cost, for the sweep: a few bytes a node. Rounded down where it does not fit. */
struct map_key {
	uint32_t site;
	uint32_t queue_us;
	float us_per_token;
};

struct map_model {
	char *name; /* NULL: free slot */
	uint64_t hash;
	struct map_place *places;
	struct map_key *keys; /* keys[i] is of places[i] */
	uint32_t count, cap;
};

struct map_node {
	struct node_entry entry;
	uint64_t hash;
	struct map_link {
		uint32_t model, place; /* MAP_NONE: a name repeated within the report */
	} * links;
	size_t link_count;
	bool closed; /* by an operator */
};

/* place.c: as reported just now; and all places of a model as they must be by now. own_share: of the requests that came
 * since the reports, those the ledger tells of. */
void place_load(struct map_model *model, uint32_t at, const struct model_report *r, uint32_t site);
void places_estimate(struct map_model *model, const struct map_hot *hots, bool copy, double own_share, int64_t now_us);
/* Estimated wait before a new request's own prefill begins, with this much more in flight than reported. */
int64_t place_queue_us(const struct map_place *p, int32_t more_running, int64_t more_tokens);

const struct map_model *map_model_find(const struct node_map *m, struct str name_tag); /* "name" means "name:latest" */
/* NULL: the node does not have it. */
const struct map_place *map_place_find(const struct node_map *m, uint32_t node, const struct map_model *model);
/* A model's name as a DNS label: lower case, each run of other characters than [a-z0-9] one '-', none at the ends.
 * False: nothing is left, or more than 63 bytes. */
#define MODEL_LABEL_SIZE 64
bool model_label(struct str name, char ret_label[static MODEL_LABEL_SIZE]);
uint32_t map_node_find(const struct node_map *m, struct str id); /* its number; MAP_NONE */
const struct map_node *map_node_at(const struct node_map *m, uint32_t i);
const struct map_hot *map_hots(const struct node_map *m);
/* copy: of a map that was made by node_map_parse, where reports do not age. */
enum node_health map_hot_health(const struct map_hot *h, bool copy, int64_t now_us);
bool map_is_copy(const struct node_map *m);
/* All models by number, free slots (name NULL) among them. */
size_t map_model_count(const struct node_map *m);
const struct map_model *map_model_at(const struct node_map *m, size_t i);
/* Those it answers to, one or two: "a:latest" to "a-latest" and "a", "a:7b" to "a-7b"; how many. */
size_t map_model_labels(const struct map_model *model, char ret_labels[static 2][MODEL_LABEL_SIZE]);
/* For pictures of the map that outlive it: dns_view.h. */
struct lpm *map_zones(const struct node_map *m);
struct lpm *map_named(const struct node_map *m); /* NULL: none */
/* The site of a client by both (named may be NULL), MAP_NONE: none; and the scope of that. */
uint32_t map_find_site(const struct lpm *named, const struct lpm *zones, const struct ip *client, uint8_t *ret_scope);
const struct distances *map_distances_all(const struct node_map *m);
enum node_health map_health(const struct node_map *m, const struct map_hot *h, int64_t now_us);
uint32_t map_site_find(const struct node_map *m, struct str site); /* MAP_NONE when never heard of */
/* Distances from a site to every site, by number, in microseconds; lives until the next change. */
const uint32_t *map_distances(const struct node_map *m, uint32_t site);
/* The dispatch counter of `self` that the node's report has seen. */
uint64_t map_seen(const struct map_node *n, struct str self);

#endif
