/* SPDX-License-Identifier: Apache-2.0 */
/* client_map.h - which site each prefix of clients is sent to: the scheduler's map of clients, kept from round to
 * round.
 *
 * Edges tell what prefixes ask (demand.h); a round weighs it against what sites have room for (map_making.h) and names
 * sites that are another than where the client is. Rounds are made in three steps, so that the costly one may run on
 * another thread: begin (copies), make (any thread), take. What was begun before the last client_map_change is not
 * taken. `number` rises with each round that named something else, also over restarts: it is saved with the sites.
 *
 * How far a prefix is from a site: as its zone is, where that is configured; else what edges there measured counts the
 * more, the more often it was. So a prefix that no zone covers has a place, too, once it was measured.
 *
 * Demand is requests in work at a time, with a half-life of MAP_DEMAND_LIFE_US; a prefix that was quiet for
 * MAP_UNIT_LIFE_US is forgotten. Bounded by LIMIT_DEMAND_PREFIXES. Microseconds, monotonic. Pure.
 */
#ifndef MDN_CORE_CLIENT_MAP_H
#define MDN_CORE_CLIENT_MAP_H

#include "core/demand.h"
#include "core/map_making.h"
#include "core/node_map.h"
#include "core/steer.h"

#define MAP_DEMAND_LIFE_US (60 * INT64_C(1000) * 1000)
#define MAP_UNIT_LIFE_US (3600 * INT64_C(1000) * 1000)
#define MAP_ROWS_MAX (32u << 20) /* distances that a round looks at; more sites than that allows are an error */

#define CLIENT_RTTS 3 /* sites that a prefix was measured from: the last ones */
#define CLIENT_RTT_LIFE_US (3600 * INT64_C(1000) * 1000)

struct client_unit {
	struct ip_prefix prefix;
	double demand;
	int64_t pending_us; /* told since the last round */
	int64_t seen_us;
	uint32_t site, named; /* as in making_unit */
	bool fresh;           /* not settled yet */
	struct client_rtt {
		int64_t at_us;
		uint32_t site, count; /* 0: none */
		int64_t us;           /* the least */
	} rtts[CLIENT_RTTS];
};

struct client_named {
	struct ip_prefix prefix;
	uint32_t site;
};

struct client_map {
	struct client_unit *units;
	uint32_t count, cap;
	struct hash_index by_prefix;
	uint64_t number, change;
	struct client_named *named; /* other sites than where the client is, and pins */
	uint32_t named_count;
	uint64_t turned_away; /* lines for which there was no room */
	int64_t settled_us;
	struct making_ramp *ramps; /* by site */
	uint32_t ramp_count;
};

struct client_site { /* of a round, for people */
	double capacity, demand;
	uint32_t nodes; /* up */
	int32_t weight;
};

struct client_round {
	uint64_t change;
	bool hold; /* by the caller, before it is made: only pins may change */
	struct making_unit *units;
	uint32_t *index; /* units[i] is the map's units[index[i]] */
	uint32_t unit_count, map_count;
	double *capacities;
	uint32_t site_count, row_count, **rows; /* those after site_count: of units that were measured */
	uint32_t *bases;                        /* of units: their zone's site, MAKING_NONE: no zone */
	struct ip_prefix *prefixes;             /* of units */
	struct client_named *list;              /* pins first; then, once made, what is named */
	uint32_t pin_count, list_count;
	struct rng rng;
	struct client_site *sites;
	/* made */
	int rc;
	struct error err;
	struct making_result result;
	struct lpm *named;
};

void client_map_fini(struct client_map *m);
/* site: of the edge that tells, for its round trips; MAKING_NONE: not known. */
void client_map_tell(struct client_map *m, const struct demand *d, uint32_t site, int64_t now_us);
void client_map_change(struct client_map *m); /* an operator said something: what is under way counts no more */
/* Sums up demand, and copies. E_LIMIT: MAP_ROWS_MAX. */
int client_map_begin(struct client_map *m, struct node_map *nodes, const struct steer *steer, int64_t now_us,
                     uint64_t seed, struct client_round **ret_round, struct error *err);
void client_round_make(struct client_round *r);
/* E_CONFLICT: begun before the last change, so not taken. E_UNAVAILABLE: no site takes anybody, so the last map stays,
 * but for pins. *ret_changed: *ret_named is for node_map_set_named (NULL: nothing is named). */
int client_map_take(struct client_map *m, struct client_round *r, bool *ret_changed, struct lpm **ret_named,
                    struct error *err);
void client_round_free(struct client_round *r);

/* {"number":N,"named":[{"prefix","site"}]}: what is needed to go on after a restart. */
void client_map_format(const struct client_map *m, const struct node_map *nodes, struct buf *out);
/* Into an empty map; *ret_named as above. Sites are made in `nodes`. */
int client_map_parse(struct client_map *m, struct str json, struct node_map *nodes, int64_t now_us,
                     struct lpm **ret_named, struct error *err);

#endif
