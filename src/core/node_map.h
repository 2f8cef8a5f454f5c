/* SPDX-License-Identifier: Apache-2.0 */
/* node_map.h - what is known of every node: its last report, how old that is, how far it is, whether it lives.
 *
 * A scheduler keeps one from reports; every gateway keeps a copy from the scheduler's map stream, so that it can
 * decide alone. Owns all it holds; pointers given out live until the next change. Times are the caller's monotonic
 * microseconds. Pure, one thread. Wire form: docs/wire.md, "map".
 */
#ifndef MDN_CORE_NODE_MAP_H
#define MDN_CORE_NODE_MAP_H

#include "core/lpm.h"
#include "core/report.h"

enum node_health { NODE_UP, NODE_SUSPECT, NODE_DOWN };

/* What was seen of a node from outside; a report is evidence of its own. */
enum node_evidence {
	EVIDENCE_OK,      /* it answered */
	EVIDENCE_REFUSED, /* connect refused or reset: the strongest sign of death */
	EVIDENCE_TIMEOUT, /* no connection, no first byte, or a stalled stream */
};

#define NODE_SUSPECT_AGE_US (1500 * INT64_C(1000)) /* report older than this: used only when nothing better is left */
#define NODE_DOWN_AGE_US (2500 * INT64_C(1000))    /* and than this: not used, not named in DNS answers */
#define NODE_STALE_AGE_US (3000 * INT64_C(1000))   /* and than this, in a map copy: its load is ignored */
#define NODE_DISTANCE_UNKNOWN_US (50 * INT64_C(1000))
#define NODE_DISTANCE_LOCAL_US INT64_C(200) /* same site, not measured */

struct node_entry {
	struct node_report report;
	int64_t received_us;          /* when the report came in (map copies: minus its age then) */
	int64_t refused_us;           /* last refusal; 0 never. Down for a second after it, or until a newer report */
	uint32_t timeouts;            /* in a row; suspect for that many seconds (at most 10) after the last */
	int64_t timeout_us;           /* the last one; 0 never */
	bool said_down, said_suspect; /* map copies: the scheduler's own judgement */
	uint64_t told_seq;            /* map copies: the report's number as told; what replies tell since is newer */
};

struct coverage; /* coverage.h */
struct node_map;
struct node_map *node_map_new(void);
void node_map_free(struct node_map *m);
/* Rises with every change that a reader of the map would care about. */
uint64_t node_map_version(const struct node_map *m);

/* Copies. E_CONFLICT: not newer than what is held (nothing changes); E_LIMIT: LIMIT_NODES. */
int node_map_report(struct node_map *m, const struct node_report *r, int64_t now_us, struct error *err);
void node_map_remove(struct node_map *m, struct str id); /* unknown: nothing */
/* Turns reports of all ages into loads of now, for decisions (place.c); wanted every NODE_ESTIMATE_US. own: requests
 * the caller's ledger has in flight. */
#define NODE_ESTIMATE_US (250 * INT64_C(1000))
void node_map_estimate(struct node_map *m, size_t own, int64_t now_us);
size_t node_map_stale(const struct node_map *m, int64_t now_us); /* nodes whose load is older than NODE_STALE_AGE_US */
void node_map_evidence(struct node_map *m, struct str id, enum node_evidence e, int64_t now_us);

size_t node_map_count(const struct node_map *m);
const struct node_entry *node_map_at(const struct node_map *m, size_t i);
const struct node_entry *node_map_find(const struct node_map *m, struct str id);
enum node_health node_map_health(const struct node_map *m, const struct node_entry *e, int64_t now_us);
const char *node_health_name(enum node_health h);
/* The model's line in a node's report; "name" alone means "name:latest". NULL when it has none. */
const struct model_report *node_model(const struct node_entry *e, struct str name_tag);

/* Configuration lines: "PREFIX=SITE" and "SITE-SITE=DURATION"; when a site's name has a '-' itself,
 * "SITE/SITE=DURATION" (more than one '-' without a '/' is refused). Each call replaces all of its kind, or nothing on
 * error. */
int node_map_set_zones(struct node_map *m, const struct str *zones, size_t count, struct error *err);
/* The same with a coverage-zone file (NULL: none) below the lines, which count more; and where its sites lie, which
 * tells their distance where it is neither configured nor measured. */
int node_map_set_places(struct node_map *m, const struct coverage *coverage, const struct str *zones, size_t count,
                        struct error *err);
int node_map_set_distances(struct node_map *m, const struct str *distances, size_t count, struct error *err);
int node_map_site(struct node_map *m, struct str name, uint32_t *ret_site, struct error *err); /* found or made */
/* Sites that clients are sent to, whatever the zones say: taken over, sealed; NULL: none. */
void node_map_set_named(struct node_map *m, struct lpm *named);
/* A closed site or node takes nobody who is not there yet: it counts, and is told to others, as draining. Sites stay
 * so, a node for as long as it is known. */
int node_map_close_site(struct node_map *m, struct str site, bool closed, struct error *err);
void node_map_close_node(struct node_map *m, struct str id, bool closed); /* unknown: nothing */
/* The site of a client; false when no zone covers it. */
bool node_map_site_of(const struct node_map *m, const struct ip *client, struct str *ret_site, uint8_t *ret_scope);
/* Round trip between a site and a node: configured, else the least measured between the two sites in the last 30 to 60
 * s of measurements, else a default. */
int64_t node_map_distance_us(const struct node_map *m, struct str from_site, const struct node_entry *to);

/* One JSON object. Zones are left out past ZONES_PUBLISHED_MAX; measured distances travel in the reports. */
#define ZONES_PUBLISHED_MAX 4096
void node_map_format(const struct node_map *m, int64_t now_us, struct buf *out);
/* A copy. Its nodes do not age: the publisher's judgement of them holds, and our own evidence, so that a reader whose
 * scheduler is away can go on with the last map. */
int node_map_parse(struct str json, int64_t now_us, struct node_map **ret_map, struct error *err);
/* A new copy takes over what the one before it had learned by evidence. */
void node_map_keep_evidence(struct node_map *m, const struct node_map *before);
/* A copy from one of several publishers takes over from the copy in use what that one knows better: of each node the
 * newer report; of one report the worse judgement, for who judges worse waited longer for the next; and nodes that this
 * publisher has not heard of. For NODE_DISPUTE_US without a newer report that stands against this publisher's word;
 * against one that is `young`, and so may not have heard of everybody yet, what it has not heard of stays. */
#define NODE_DISPUTE_US (4000 * INT64_C(1000))
void node_map_merge(struct node_map *m, const struct node_map *before, bool young, int64_t now_us);
/* The map's owner itself stood still for this long (stopped, suspended): that silence was not the nodes'. */
void node_map_slept(struct node_map *m, int64_t us);

#endif
