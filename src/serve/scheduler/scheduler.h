/* SPDX-License-Identifier: Apache-2.0 */
/* scheduler.h - keeps the node map from reports; answers "where should this request go?" by HTTP and DNS; publishes the
 * map.
 *
 * Decisions are core/ (node_map, score, health, ecs, dns_answer); this room only speaks. Loop thread. Wire:
 * docs/wire.md, "Scheduler".
 */
#ifndef MDN_SERVE_SCHEDULER_H
#define MDN_SERVE_SCHEDULER_H

#include "core/report.h"
#include "net/http.h"

#define SCHEDULER_YOUNG_US (2 * INT64_C(1000000)) /* nodes report every second */

struct scheduler;
struct scheduler_options {
	struct str dns_listen, dns_zone, dns_cookie_secret;
	int64_t dns_ttl_us;
	int64_t dns_threads; /* 0: as many as cores */
	int64_t dns_rate_limit;
	bool dns_why;
	int64_t
	    young_us; /* since its start: what it has not heard of may still come, so it does not say "there is none" */
	const struct str *zones, *distances; /* as configured */
	size_t zone_count, distance_count;
	struct str folder;         /* for what is kept; empty: nothing is */
	const char *coverage_file; /* NULL or empty: none */
};
int scheduler_new(struct loop *loop, const struct scheduler_options *options, struct scheduler **ret_scheduler,
                  struct error *err);
void scheduler_free(struct scheduler *s);
bool scheduler_handle(struct scheduler *s, struct http_exchange *x);        /* node port: report, demand, map, steer */
bool scheduler_handle_public(struct scheduler *s, struct http_exchange *x); /* /v1/route, /metrics, /health */
void scheduler_set_removed(struct scheduler *s, const char (*ids)[NODE_ID_SIZE], size_t count);
int scheduler_reload(struct scheduler *s, const struct scheduler_options *options, struct error *err);
struct str scheduler_dns_address(const struct scheduler *s);

#endif
