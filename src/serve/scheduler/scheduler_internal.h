/* SPDX-License-Identifier: Apache-2.0 */
/* scheduler_internal.h - what the files of this room share. */
#ifndef MDN_SERVE_SCHEDULER_INTERNAL_H
#define MDN_SERVE_SCHEDULER_INTERNAL_H

#include "base/rng.h"
#include "core/ledger.h"
#include "core/node_map.h"
#include "serve/scheduler/dns_server.h"
#include "serve/scheduler/scheduler.h"

struct watch;      /* open map streams: watch.c */
struct mapping;    /* the map of clients: mapping.c */
struct dispatches; /* answered routes that no report has seen: route.c */

struct scheduler_counts {
	uint64_t reports_taken, reports_old, reports_refused;
	uint64_t routes_answered, routes_not_found, routes_unavailable, routes_invalid;
	uint64_t decide_us; /* sum */
};

struct scheduler {
	struct loop *loop;
	struct node_map *map;
	struct ledger *ledger;
	struct rng rng;
	struct dns_server *dns; /* NULL: no DNS */
	struct watch *watch;
	struct mapping *mapping;
	struct dispatches *dispatches;
	char (*removed)[NODE_ID_SIZE];
	size_t removed_count;
	struct loop_timer *tick;
	int64_t begun_us, awake_us; /* awake: the last that is known of it */
	int64_t young_us;
	uint64_t health_sum;
	int64_t estimated_us; /* loads of the map */
	struct scheduler_counts counts;
};

/* Before the map's ages are used: time in which this process itself stood still (SIGSTOP, a suspended machine) is not
 * the nodes' silence. */
void scheduler_awake(struct scheduler *s);
bool scheduler_is_young(const struct scheduler *s);
bool scheduler_is_removed(const struct scheduler *s, struct str id);
/* "ID" of "spiffe://DOMAIN/node/ID"; empty for others. */
struct str scheduler_identity_node(struct str identity);
bool scheduler_identity_is_operator(struct str identity);

/* watch.c: the map as an event stream: at once, on change (at most 10 a second), at least once a second. */
struct watch *watch_new(struct scheduler *s);
void watch_free(struct watch *w); /* ends the streams */
void watch_open(struct watch *w, struct http_exchange *x);
void watch_changed(struct watch *w);
void watch_cut_removed(struct watch *w);
size_t watch_count(const struct watch *w);

/* mapping.c: which site each prefix of clients is sent to, in rounds. */
struct mapping_counts {
	uint64_t number, turned_away;
	uint32_t prefixes, named;
	double demand, capacity, moved;
	int64_t took_us;
};
struct mapping *mapping_new(struct scheduler *s, struct str folder); /* folder empty: nothing is kept */
void mapping_free(struct mapping *m);
void mapping_tick(struct mapping *m);
int mapping_demand(struct mapping *m, struct str identity, struct str body, struct error *err);
int mapping_steer(struct mapping *m, struct str body, struct error *err);
void mapping_format(const struct mapping *m, struct buf *out);
void mapping_counts(const struct mapping *m, struct mapping_counts *ret_counts);

/* route.c: GET /v1/route. An answered route is a dispatch that the node will not number for us, so it counts as in
 * flight there until the first report that was made well after it (or DISPATCH_LIFE_US, when none comes): by then the
 * node's own numbers hold it. */
#define DISPATCH_SETTLE_US (200 * INT64_C(1000))
#define DISPATCH_LIFE_US (3 * INT64_C(1000) * 1000)
#define DISPATCHES_PER_NODE 4096 /* more of a node than this are not remembered: it is full by any measure */
struct dispatches *dispatches_new(void);
void dispatches_free(struct dispatches *d);
void dispatches_reported(struct dispatches *d, struct str node, int64_t now_us);
void dispatches_expire(struct dispatches *d, int64_t now_us);
void route_handle(struct scheduler *s, struct http_exchange *x);

/* metrics.c */
void metrics_handle(const struct scheduler *s, struct http_exchange *x);

#endif
