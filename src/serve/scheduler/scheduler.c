/* SPDX-License-Identifier: Apache-2.0 */
/* Reports change the map; a timer of 100 ms notices what changes by time alone (a node falling silent) and lets old
 * dispatches go. DNS reads the map directly, so its answers follow within its own tick. A node speaks only for itself:
 * the id in a report must be the one of its certificate. */
#include "serve/scheduler/scheduler_internal.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/log.h"
#include "core/coverage.h"
#include "core/hash.h"

#include <stdlib.h>
#include <unistd.h>

#define TICK_US (100 * US_PER_MS)
#define DNS_RATE_MAX 1000000
#define SLEPT_US US_PER_S /* between two ticks: nobody was here */

static const char about[] = "MDN scheduler\n\n"
			    "GET /v1/route?model=NAME&client=ADDRESS   which node should answer, and why\n"
			    "GET /metrics                              Prometheus\n"
			    "GET /health\n\n"
			    "DNS: api.ZONE, and MODEL-LABEL.api.ZONE for the nodes that have a model.\n";

/* "spiffe://DOMAIN/KIND/ID"; the ID, empty when it is of another kind. */
static struct str identity_of(struct str identity, struct str kind)
{
	struct str scheme = STR("spiffe://"), rest, id;
	if (!str_starts(identity, scheme))
		return (struct str){0};
	str_cut((struct str){identity.base + scheme.len, identity.len - scheme.len}, '/', &rest);
	return str_equal(str_cut(rest, '/', &id), kind) ? id : (struct str){0};
}

struct str scheduler_identity_node(struct str identity)
{
	return identity_of(identity, STR("node"));
}

bool scheduler_identity_is_operator(struct str identity)
{
	return identity_of(identity, STR("operator")).len > 0;
}

static int id_order(const void *a, const void *b)
{
	return strcmp(a, b);
}

bool scheduler_is_removed(const struct scheduler *s, struct str id)
{
	char key[NODE_ID_SIZE];
	if (s->removed_count == 0 || !str_copy(id, key, sizeof(key)))
		return false;
	return bsearch(key, s->removed, s->removed_count, NODE_ID_SIZE, id_order) != NULL;
}

void scheduler_set_removed(struct scheduler *s, const char (*ids)[NODE_ID_SIZE], size_t count)
{
	free(s->removed);
	s->removed = NULL;
	s->removed_count = count;
	if (count == 0)
		return;
	s->removed = mem_resize(NULL, count, NODE_ID_SIZE);
	memcpy(s->removed, ids, count * NODE_ID_SIZE);
	qsort(s->removed, count, NODE_ID_SIZE, id_order);
	for (size_t i = 0; i < count; i++)
		node_map_remove(s->map, str_from(ids[i]));
	watch_cut_removed(s->watch);
	watch_changed(s->watch);
}

/* ---- reports --------------------------------------------------------------------------------- */

static int take_report(struct scheduler *s, struct str identity, struct str body, struct error *err)
{
	struct node_report r;
	int64_t now = loop_now_us(s->loop);
	int rc = node_report_parse(body, &r, err);
	if (rc < 0)
		return rc;
	if (!str_equal(scheduler_identity_node(identity), str_from(r.id)))
		rc = error_set(err, E_FORBIDDEN,
		               "the report is of node %s, but the certificate is not; a node reports for itself only",
		               r.id);
	else
		rc = node_map_report(s->map, &r, now, err);
	if (rc == 0)
		dispatches_reported(s->dispatches, str_from(r.id), now);
	node_report_fini(&r);
	return rc;
}

static void on_report(void *arg, struct http_exchange *x, struct str body, const struct error *broken)
{
	struct scheduler *s = arg;
	struct error err = {0};
	if (broken) {
		http_respond_error(x, broken);
		return;
	}
	uint64_t before = node_map_version(s->map);
	int rc = take_report(s, http_peer_identity(x), body, &err);
	if (node_map_version(s->map) != before)
		watch_changed(s->watch);
	/* An older report is nobody's mistake: the newer one overtook it on another connection. */
	if (rc == 0 || rc == E_CONFLICT) {
		s->counts.reports_taken += rc == 0;
		s->counts.reports_old += rc != 0;
		http_respond(x, 204, NULL, (struct str){0});
		return;
	}
	s->counts.reports_refused++;
	http_respond_error(x, &err);
}

static void on_demand(void *arg, struct http_exchange *x, struct str body, const struct error *broken)
{
	struct scheduler *s = arg;
	struct error err = {0};
	if (broken || mapping_demand(s->mapping, http_peer_identity(x), body, &err) < 0)
		http_respond_error(x, broken ? broken : &err);
	else
		http_respond(x, 204, NULL, (struct str){0});
}

static bool method_is(struct http_exchange *x, const char *method)
{
	struct error err = {0};
	struct str m = http_method(x);
	if (str_equal(m, str_from(method)) || (strcmp(method, "GET") == 0 && str_equal(m, STR("HEAD"))))
		return true;
	http_add_header(x, "allow", str_from(method));
	error_set(&err, E_METHOD, "use %s here", method);
	http_respond_error(x, &err);
	return false;
}

/* ---- steering -------------------------------------------------------------------------------- */

static void on_word(void *arg, struct http_exchange *x, struct str body, const struct error *broken)
{
	struct scheduler *s = arg;
	struct error err = {0};
	if (broken || mapping_steer(s->mapping, body, &err) < 0)
		http_respond_error(x, broken ? broken : &err);
	else
		http_respond(x, 204, NULL, (struct str){0});
}

static void steer_handle(struct scheduler *s, struct http_exchange *x)
{
	struct error err = {0};
	if (!scheduler_identity_is_operator(http_peer_identity(x))) {
		error_set(&err, E_FORBIDDEN, "only an operator may do that");
		http_respond_error(x, &err);
	} else if (str_equal(http_method(x), STR("POST"))) {
		http_body_collect(x, LIMIT_SMALL_BODY, on_word, s);
	} else if (method_is(x, "GET")) {
		struct buf out = {0};
		mapping_format(s->mapping, &out);
		http_respond(x, 200, "application/json", buf_str(&out));
		buf_fini(&out);
	}
}

static bool peer_is_welcome(struct scheduler *s, struct http_exchange *x)
{
	struct error err = {0};
	struct str identity = http_peer_identity(x), node = scheduler_identity_node(identity);
	if (identity.len > 0 && !scheduler_is_removed(s, node))
		return true;
	if (identity.len == 0)
		error_set(&err, E_AUTH, "this needs a certificate of the network: run `mdn join`");
	else
		error_set(&err, E_FORBIDDEN, "node " STR_FMT " was removed from the network; join again to come back",
		          STR_ARG(node));
	http_respond_error(x, &err);
	return false;
}

bool scheduler_handle(struct scheduler *s, struct http_exchange *x)
{
	struct str path = http_path(x);
	if (str_equal(path, STR("/mdn/v1/report"))) {
		if (method_is(x, "POST") && peer_is_welcome(s, x))
			http_body_collect(x, LIMIT_JSON_BODY, on_report, s);
		return true;
	}
	if (str_equal(path, STR("/mdn/v1/demand"))) {
		if (method_is(x, "POST") && peer_is_welcome(s, x))
			http_body_collect(x, LIMIT_JSON_BODY, on_demand, s);
		return true;
	}
	if (str_equal(path, STR("/mdn/v1/steer"))) {
		if (peer_is_welcome(s, x))
			steer_handle(s, x);
		return true;
	}
	if (str_equal(path, STR("/mdn/v1/map"))) {
		if (method_is(x, "GET") && peer_is_welcome(s, x))
			watch_open(s->watch, x);
		return true;
	}
	return false;
}

bool scheduler_handle_public(struct scheduler *s, struct http_exchange *x)
{
	struct str path = http_path(x);
	bool route = str_equal(path, STR("/v1/route")), metrics = str_equal(path, STR("/metrics"));
	bool health = str_equal(path, STR("/health")), root = str_equal(path, STR("/"));
	if (!route && !metrics && !health && !root)
		return false;
	if (!method_is(x, "GET"))
		return true;
	if (route)
		route_handle(s, x);
	else if (metrics)
		metrics_handle(s, x);
	else
		http_respond(x, 200, "text/plain; charset=utf-8", health ? STR("ok\n") : str_from(about));
	return true;
}

/* ---- life ------------------------------------------------------------------------------------ */

/* A sum that changes when any node's health does. */
static uint64_t health_sum(const struct scheduler *s, int64_t now_us)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < node_map_count(s->map); i++) {
		enum node_health h = node_map_health(s->map, node_map_at(s->map, i), now_us);
		sum += hash_join(i + 1, (uint64_t)h + 1);
	}
	return sum;
}

void scheduler_awake(struct scheduler *s)
{
	int64_t now = loop_now_us(s->loop), gap = now - s->awake_us;
	s->awake_us = now;
	if (gap < SLEPT_US)
		return;
	log_warn("scheduler",
	         "this scheduler stood still for %lld ms; what nodes said before counts as that much younger",
	         (long long)(gap / US_PER_MS));
	node_map_slept(s->map, gap);
}

bool scheduler_is_young(const struct scheduler *s)
{
	return loop_now_us(s->loop) - s->begun_us < s->young_us;
}

static void on_tick(void *arg)
{
	struct scheduler *s = arg;
	scheduler_awake(s);
	int64_t now = loop_now_us(s->loop);
	uint64_t sum = health_sum(s, now);
	if (sum != s->health_sum)
		watch_changed(s->watch);
	s->health_sum = sum;
	dispatches_expire(s->dispatches, now);
	if (now - s->estimated_us >= NODE_ESTIMATE_US) {
		node_map_estimate(s->map, 0, now); /* what is asked for at nodes is not in our ledger */
		s->estimated_us = now;
	}
	mapping_tick(s->mapping);
}

static int configure_map(struct node_map *m, const struct coverage *c, const struct scheduler_options *o,
                         struct error *err)
{
	int rc = node_map_set_places(m, c, o->zones, o->zone_count, err);
	return rc < 0 ? rc : node_map_set_distances(m, o->distances, o->distance_count, err);
}

static int coverage_read(const char *path, struct coverage *ret_coverage, struct error *err)
{
	struct buf json = {0};
	int rc = 0;
	if (path && path[0] && (rc = file_read(path, LIMIT_COVERAGE, &json, err)) == 0 &&
	    (rc = coverage_parse(buf_str(&json), ret_coverage, err)) < 0)
		error_prefix(err, "coverage_file %s", path);
	buf_fini(&json);
	return rc;
}

/* All or nothing: tried on an empty map first. */
static int configure(struct scheduler *s, const struct scheduler_options *o, struct error *err)
{
	struct coverage coverage = {0};
	int rc = coverage_read(o->coverage_file, &coverage, err);
	if (rc < 0)
		return rc;
	struct node_map *trial = node_map_new();
	rc = configure_map(trial, &coverage, o, err);
	node_map_free(trial);
	if (rc == 0)
		rc = configure_map(s->map, &coverage, o, err);
	coverage_fini(&coverage);
	return rc;
}

static struct dns_settings dns_settings_of(const struct scheduler_options *o)
{
	return (struct dns_settings){
	    .ttl_us = o->dns_ttl_us,
	    .rate = (uint32_t)(o->dns_rate_limit < DNS_RATE_MAX ? o->dns_rate_limit : DNS_RATE_MAX),
	    .why = o->dns_why,
	    .cookie_secret = o->dns_cookie_secret,
	};
}

static unsigned dns_threads(const struct scheduler_options *o)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	int64_t threads = o->dns_threads > 0 ? o->dns_threads : cores > 0 ? cores : 1;
	return (unsigned)(threads < DNS_THREADS_MAX ? threads : DNS_THREADS_MAX);
}

int scheduler_reload(struct scheduler *s, const struct scheduler_options *options, struct error *err)
{
	const struct dns_settings dns = dns_settings_of(options);
	int rc = dns_settings_check(&dns, err);
	if (rc == 0)
		rc = configure(s, options, err);
	if (rc == 0 && s->dns)
		rc = dns_server_set(s->dns, &dns, err);
	if (rc < 0)
		return rc;
	watch_changed(s->watch);
	return 0;
}

static int dns_open(struct scheduler *s, const struct scheduler_options *o, struct error *err)
{
	if (o->dns_listen.len == 0)
		return 0;
	const struct dns_server_options options = {
	    .address = o->dns_listen,
	    .zone = o->dns_zone,
	    .threads = dns_threads(o),
	    .map = s->map,
	    .young_us = o->young_us,
	    .settings = dns_settings_of(o),
	};
	return dns_server_new(s->loop, &options, &s->dns, err);
}

int scheduler_new(struct loop *loop, const struct scheduler_options *options, struct scheduler **ret_scheduler,
                  struct error *err)
{
	struct scheduler *s = NEW(struct scheduler);
	s->loop = loop;
	s->begun_us = s->awake_us = loop_now_us(loop);
	s->young_us = options->young_us;
	s->map = node_map_new();
	s->ledger = ledger_new(1);
	rng_init(&s->rng, rng_seed());
	s->dispatches = dispatches_new();
	s->watch = watch_new(s);
	int rc = configure(s, options, err);
	if (rc == 0) {
		s->mapping = mapping_new(s, options->folder);
		rc = dns_open(s, options, err);
	}
	if (rc < 0) {
		scheduler_free(s);
		return rc;
	}
	s->tick = loop_timer_new(loop, on_tick, s);
	loop_timer_start(s->tick, TICK_US, TICK_US);
	*ret_scheduler = s;
	return 0;
}

void scheduler_free(struct scheduler *s)
{
	if (!s)
		return;
	if (s->tick)
		loop_timer_free(s->tick);
	watch_free(s->watch);
	mapping_free(s->mapping);
	dns_server_free(s->dns);
	dispatches_free(s->dispatches);
	ledger_free(s->ledger);
	node_map_free(s->map);
	free(s->removed);
	free(s);
}

struct str scheduler_dns_address(const struct scheduler *s)
{
	return s->dns ? dns_server_address(s->dns) : (struct str){0};
}
