/* SPDX-License-Identifier: Apache-2.0 */
/* How: one long call to every scheduler brings its map as events. One scheduler leads: each of its events is used. Of
 * the others one a second is, for the sake of nodes that the leader does not hear; when the leader is silent for
 * LEAD_US, which is more than it ever should be, the next to speak leads. An event replaces the map, but for what the
 * map held knows better (node_map_merge): no node goes back to an older report, and a scheduler that has just begun
 * takes no node away by not having heard of it yet. What we learned ourselves by trying (evidence) stays, too. When
 * every scheduler is away the last map is used on: a copy's nodes do not age (core/node_map), because no report could
 * reach us, and only evidence takes a node out, for a second at a time. A call that breaks is made again after a pause
 * that doubles up to 2 s.
 *
 * The own entry never comes from a scheduler: it is made from the engines' load at each decision.
 */
#include "serve/gateway/internal.h"

#include <stdio.h>
#include <stdlib.h>

#define RETRY_LEAST_US (100 * US_PER_MS)
#define RETRY_MOST_US (2 * US_PER_S)
#define STALL_US (3 * US_PER_S) /* an event comes at least once a second */
#define LEAD_US (1500 * US_PER_MS)
#define OTHERS_US (900 * US_PER_MS)
#define YOUNG_US (4 * US_PER_S) /* since it speaks to us: by then every node has tried its report twice */

struct follower {
	struct gateway *g;
	char url[NODE_URL_SIZE]; /* as given, with #ID */
	struct http_call *call;
	struct sse_parser sse;
	struct loop_timer *retry;
	int64_t pause_us;
	bool live;
	int64_t since_us, used_us; /* live since; its last event that was used */
};

static void follower_start(void *arg);

/* ---- events ------------------------------------------------------------------------------------------------- */

static void drop_removed(struct gateway *g)
{
	for (size_t i = 0; i < g->map.removed_count; i++)
		node_map_remove(g->map.map, str_from(g->map.removed[i]));
}

static bool event_is_due(struct follower *f, int64_t now_us)
{
	struct map_view *v = &f->g->map;

	if (!v->leader || now_us - v->leader->used_us > LEAD_US)
		v->leader = f;
	return v->leader == f || !f->live || now_us - f->used_us >= OTHERS_US;
}

static int on_event(void *arg, struct str event, struct str data)
{
	struct follower *f = arg;
	struct gateway *g = f->g;
	struct node_map *fresh;
	struct error err = {0};
	int64_t now_us = loop_now_us(g->loop);

	if (!str_equal(event, STR("map")) || !event_is_due(f, now_us))
		return 0;
	int rc = node_map_parse(data, now_us, &fresh, &err);
	if (rc < 0) {
		log_warn(ROOM, "map of %s is not used: %s", f->url, err.text);
		return rc;
	}
	if (!f->live) {
		log_info(ROOM, "following the map of %s: %zu nodes", f->url, node_map_count(fresh));
		f->since_us = now_us;
	}
	node_map_remove(g->map.map, str_from(g->id));
	node_map_merge(fresh, g->map.map, now_us - f->since_us < YOUNG_US, now_us);
	node_map_free(g->map.map);
	g->map.map = fresh;
	g->map.received_us = f->used_us = now_us;
	node_map_remove(fresh, str_from(g->id)); /* what a scheduler thinks of us is older than what we know */
	drop_removed(g);
	node_map_estimate(fresh, ledger_count(g->ledger), now_us);
	f->live = true;
	f->pause_us = 0;
	return 0;
}

static bool on_head(void *arg, struct http_call *call, int status)
{
	(void)arg;
	(void)call;
	return status == 200;
}

static void follower_again(struct follower *f)
{
	f->call = NULL;
	sse_parser_fini(&f->sse);
	f->live = false;
	if (f->g->map.leader == f)
		f->g->map.leader = NULL;
	f->pause_us = f->pause_us ? f->pause_us * 2 : RETRY_LEAST_US;
	if (f->pause_us > RETRY_MOST_US)
		f->pause_us = RETRY_MOST_US;
	loop_timer_start(f->retry, f->pause_us + (int64_t)rng_below(&f->g->rng, (uint64_t)f->pause_us / 4 + 1), 0);
}

/* A map that cannot be used ends the call: a stream goes on only whole. */
static bool on_data(void *arg, struct str data)
{
	struct follower *f = arg;

	if (sse_parser_feed(&f->sse, data, NULL) < 0) {
		http_call_cancel(f->call);
		follower_again(f);
	}
	return true;
}

static void on_done(void *arg, struct http_call *call, const struct error *err)
{
	struct follower *f = arg;

	if (f->live || f->pause_us == 0)
		log_warn(ROOM, "scheduler %s is away (%s); going on with the last map", f->url,
		         err                             ? err->text
		         : http_call_status(call) == 200 ? "it ended the stream"
		                                         : "it refused");
	follower_again(f);
}

/* ---- followers ------------------------------------------------------------------------------------------------- */

static void follower_start(void *arg)
{
	struct follower *f = arg;
	struct str id, base = str_cut(str_from(f->url), '#', &id);
	char url[NODE_URL_SIZE + 16], identity[TLS_IDENTITY_SIZE];

	while (base.len && base.base[base.len - 1] == '/')
		base.len--;
	snprintf(url, sizeof(url), STR_FMT "/mdn/v1/map", STR_ARG(base));
	snprintf(identity, sizeof(identity), "spiffe://%s/node/" STR_FMT, f->g->domain, STR_ARG(id));
	bool tls = str_starts(base, STR("https://"));
	const struct http_call_options options = {
	    .url = str_from(url),
	    .peer_identity = tls && id.len ? str_from(identity) : STR(""),
	    .head_timeout_us = STALL_US,
	    .stall_timeout_us = STALL_US,
	    .on_head = on_head,
	    .on_data = on_data,
	    .on_done = on_done,
	    .arg = f,
	};
	sse_parser_init(&f->sse, LIMIT_MAP, on_event, f);
	f->call = http_call_start(f->g->client, &options);
}

static void follower_free(struct follower *f)
{
	if (f->call)
		http_call_cancel(f->call);
	if (f->g->map.leader == f)
		f->g->map.leader = NULL;
	sse_parser_fini(&f->sse);
	loop_timer_free(f->retry);
	free(f);
}

static struct follower *follower_new(struct gateway *g, const char *url)
{
	struct follower *f = NEW(struct follower);

	f->g = g;
	snprintf(f->url, sizeof(f->url), "%s", url);
	f->retry = loop_timer_new(g->loop, follower_start, f);
	loop_timer_start(f->retry, 0, 0);
	return f;
}

static struct follower *follower_take(struct map_view *v, const char *url)
{
	for (size_t i = 0; i < v->follower_count; i++) {
		struct follower *f = v->followers[i];

		if (f && strcmp(f->url, url) == 0) {
			v->followers[i] = NULL;
			return f;
		}
	}
	return NULL;
}

void gateway_set_schedulers(struct gateway *g, const char (*urls)[NODE_URL_SIZE], size_t count)
{
	struct map_view *v = &g->map;
	struct follower **kept;

	if (count > LIMIT_SCHEDULERS)
		count = LIMIT_SCHEDULERS;
	if (!g->client)
		count = 0;
	kept = mem_new(count * sizeof(*kept) + 1);
	for (size_t i = 0; i < count; i++) {
		kept[i] = follower_take(v, urls[i]);
		if (!kept[i])
			kept[i] = follower_new(g, urls[i]);
	}
	for (size_t i = 0; i < v->follower_count; i++)
		if (v->followers[i])
			follower_free(v->followers[i]);
	free(v->followers);
	v->followers = kept;
	v->follower_count = count;
}

void gateway_set_removed(struct gateway *g, const char (*ids)[NODE_ID_SIZE], size_t count)
{
	free(g->map.removed);
	g->map.removed = mem_new(count * sizeof(*ids) + 1);
	if (count)
		memcpy(g->map.removed, ids, count * sizeof(*ids));
	g->map.removed_count = count;
	drop_removed(g);
}

bool map_is_removed(const struct gateway *g, struct str id)
{
	for (size_t i = 0; i < g->map.removed_count; i++)
		if (str_equal(str_from(g->map.removed[i]), id))
			return true;
	return false;
}

size_t map_live_count(const struct gateway *g)
{
	size_t live = 0;

	for (size_t i = 0; i < g->map.follower_count; i++)
		live += g->map.followers[i]->live;
	return live;
}

void map_init(struct gateway *g)
{
	g->map.map = node_map_new();
}

void map_fini(struct gateway *g)
{
	gateway_set_schedulers(g, NULL, 0);
	free(g->map.followers);
	free(g->map.removed);
	free(g->map.own);
	node_map_free(g->map.map);
}

/* ---- the own entry --------------------------------------------------------------------------------------------- */

void map_refresh_self(struct gateway *g)
{
	struct node_seen seen = {.dispatched = g->own_dispatched};
	struct node_report r = {
	    .roles = ROLE_EDGE, .boot = UINT64_MAX, .seq = ++g->map.own_seq, .seen = &seen, .seen_count = 1};
	size_t count = 0;

	for (const struct model *m = g->models; m; m = m->following)
		count++;
	if (g->map.own_cap < count) {
		g->map.own = mem_resize(g->map.own, count, sizeof(*g->map.own));
		g->map.own_cap = count;
	}
	for (const struct model *m = g->models; m; m = m->following)
		if (!m->removing)
			model_fill_report(m, &g->map.own[r.model_count++]);
	r.models = g->map.own;
	memcpy(r.id, g->id, sizeof(r.id));
	memcpy(seen.id, g->id, sizeof(seen.id));
	memcpy(r.name, g->name, sizeof(r.name));
	memcpy(r.site, g->site, sizeof(r.site));
	r.state = g->draining ? NODE_DRAINING : NODE_READY;
	node_map_report(g->map.map, &r, loop_now_us(g->loop), NULL);
}

/* ---- load in answers (ORCA) ---------------------------------------------------------------------------------------
 */

/* On a busy path replies come faster than their numbers are worth; a millisecond old is new enough. */
#define ORCA_PAUSE_US (1 * US_PER_MS)

static bool orca_read(struct str header, struct model_report *m)
{
	yyjson_doc *doc;
	yyjson_val *named = NULL;
	int64_t running = m->running, waiting = m->waiting, tokens = m->tokens_to_prefill;

	if (str_starts(header, STR("JSON ")))
		header = (struct str){header.base + 5, header.len - 5};
	if (json_parse(header, &doc, NULL) < 0)
		return false;
	bool good = json_obj(yyjson_doc_get_root(doc), "named_metrics", &named, NULL) == 0 && named &&
	            json_i64(named, "num_requests_running", 0, INT32_MAX, &running, NULL) == 0 &&
	            json_i64(named, "num_requests_waiting", 0, INT32_MAX, &waiting, NULL) == 0 &&
	            json_i64(named, "tokens_to_prefill", 0, INT64_MAX / 4, &tokens, NULL) == 0 &&
	            json_num(named, "kv_cache_usage_perc", 0, 1, &m->kv_usage, NULL) == 0;
	yyjson_doc_free(doc);
	m->running = (int32_t)running;
	m->waiting = (int32_t)waiting;
	m->tokens_to_prefill = tokens;
	return good;
}

static void seen_set(struct node_report *r, const char *id, uint64_t dispatched)
{
	for (size_t i = 0; i < r->seen_count; i++) {
		if (strcmp(r->seen[i].id, id) == 0) {
			if (r->seen[i].dispatched < dispatched)
				r->seen[i].dispatched = dispatched;
			return;
		}
	}
	r->seen = mem_resize(r->seen, r->seen_count + 1, sizeof(*r->seen));
	r->seen[r->seen_count] = (struct node_seen){.dispatched = dispatched};
	snprintf(r->seen[r->seen_count++].id, NODE_ID_SIZE, "%s", id);
}

void map_feed_orca(struct gateway *g, struct str node, struct str model, struct str header, uint64_t dispatched)
{
	const struct node_entry *e = node_map_find(g->map.map, node);
	struct node_report r;

	if (!e || loop_now_us(g->loop) - e->received_us < ORCA_PAUSE_US || node_report_copy(&e->report, &r) < 0)
		return;
	for (size_t i = 0; i < r.model_count; i++) {
		if (!str_equal(str_from(r.models[i].name), model) || !orca_read(header, &r.models[i]))
			continue;
		r.seq++; /* newer than the report it was made from; the next map replaces it whole */
		seen_set(&r, g->id, dispatched);
		node_map_report(g->map.map, &r, loop_now_us(g->loop), NULL);
	}
	node_report_fini(&r);
}
