/* SPDX-License-Identifier: Apache-2.0 */
/* How: one table of routes says who may call what; bodies are JSON objects, collected with a bound and parsed before
 * the handler runs. Who calls is the verified SAN URI: .../operator/NAME, or .../node/ID of a node that is registered
 * and not removed. Certificates of removed nodes stay cryptographically good until they expire, so the registry is
 * asked every time.
 */
#include "serve/center/inside.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define BODY_MAX 65536
#define NODE_BODY_MAX 524288   /* usage records and leases (quotas.c) */
#define STRANGER_BODY_MAX 8192 /* a token and a certificate request */
#define FLUSH_AFTER_US (30 * US_PER_MS)
#define FLUSH_PER_WATCHER_US (1 * US_PER_MS) /* whole documents to many nodes: the more, the rarer; at most */
#define FLUSH_MOST_US (2 * US_PER_S)         /* this, so that a removed node is cut off in time */
#define BEAT_US (2 * US_PER_S)
#define TICK_US (250 * US_PER_MS)
#define SWEEP_US (600 * US_PER_S)

/* ---- helpers shared in the room ---------------------------------------------------------------- */

int center_name(struct str text, const char *what, char *to, size_t size, struct error *err)
{
	bool fine = text.len > 0 && text.len < size && text.base[0] != '.' && text.base[0] != '-';
	for (size_t i = 0; fine && i < text.len; i++) {
		char c = text.base[i];
		fine = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
		       c == '-' || c == '_';
	}
	if (!fine)
		return error_set(err, E_INVAL,
		                 "%s must be 1 to %zu letters, digits, '.', '-' or '_', the first a letter or digit",
		                 what, size - 1);
	str_copy(text, to, size);
	return 0;
}

void center_identity(const struct center *c, const char *kind, const char *id, struct buf *out)
{
	buf_printf(out, "spiffe://%s/%s/%s", c->self.domain, kind, id);
}

void center_answer(struct http_exchange *x, struct buf *json)
{
	http_respond(x, 200, "application/json", buf_str(json));
	buf_fini(json);
}

struct json_call {
	struct center *c;
	center_json_fn *fn;
};

static void on_json(void *arg, struct http_exchange *x, struct str body, const struct error *failure)
{
	struct json_call *call = arg;
	struct error err = {0};
	yyjson_doc *doc = NULL;
	int rc;
	if (failure) {
		http_respond_error(x, failure);
		return;
	}
	if (!center_leads(call->c)) /* any more */
		rc = center_refuse(call->c, &err);
	else if ((rc = json_parse(body, &doc, &err)) == 0) {
		if (!yyjson_is_obj(yyjson_doc_get_root(doc)))
			rc = error_set(&err, E_INVAL, "the body must be a JSON object");
		else
			rc = call->fn(call->c, x, yyjson_doc_get_root(doc), &err);
	}
	yyjson_doc_free(doc);
	if (rc < 0)
		http_respond_error(x, &err);
}

void center_with_json(struct center *c, struct http_exchange *x, size_t max_bytes, center_json_fn *fn)
{
	struct json_call *call = http_alloc(x, sizeof(*call));
	*call = (struct json_call){c, fn};
	http_body_collect(x, max_bytes, on_json, call);
}

struct loading {
	struct center *c;
	const char *what;
	center_load_fn *fn;
	struct error *err;
	int rc;
};

static void load_one(void *arg, struct str key, struct str value)
{
	struct loading *l = arg;
	yyjson_doc *doc = NULL;
	if (l->rc < 0)
		return;
	if ((l->rc = json_parse(value, &doc, l->err)) == 0)
		l->rc = l->fn(l->c, yyjson_doc_get_root(doc), key, l->err);
	yyjson_doc_free(doc);
	if (l->rc < 0)
		error_prefix(l->err,
		             "the center's record of %s " STR_FMT " is damaged, restore center.db from a backup",
		             l->what, STR_ARG(key));
}

int center_load(struct center *c, const char *space, const char *what, center_load_fn *fn, struct error *err)
{
	struct loading l = {c, what, fn, err, 0};
	int rc = state_each(c->state, space, load_one, &l, err);
	return rc < 0 ? rc : l.rc;
}

static void on_flush(void *arg)
{
	struct center *c = arg;
	c->flush_armed = !streams_flush(c);
	if (c->flush_armed)
		loop_timer_start(c->flush, FLUSH_MOST_US, 0);
}

void center_touch(struct center *c)
{
	c->progress_stale = true;
	c->places_stale = true;
	if (c->flush_armed)
		return;
	c->flush_armed = true;
	int64_t after = FLUSH_AFTER_US + (int64_t)c->watcher_count * FLUSH_PER_WATCHER_US;
	loop_timer_start(c->flush, after < FLUSH_MOST_US ? after : FLUSH_MOST_US, 0);
}

/* ---- routes ------------------------------------------------------------------------------------ */

enum who { WHO_ANYBODY, WHO_NODE, WHO_OPERATOR };

struct request {
	struct http_exchange *x;
	struct registered *node; /* WHO_NODE */
	struct str rest;         /* of the path, after a route that ends in '/' */
};

static int do_watch(struct center *c, struct request *q, struct error *err)
{
	streams_watch(c, q->x, q->node);
	return 0;
}

static int do_report(struct center *c, struct request *q, struct error *err)
{
	registry_report(c, q->x, q->node);
	return 0;
}

static int do_nodes(struct center *c, struct request *q, struct error *err)
{
	registry_list(c, q->x);
	return 0;
}

static int do_remove(struct center *c, struct request *q, struct error *err)
{
	return registry_remove(c, q->x, q->rest, err);
}

static int do_drain(struct center *c, struct request *q, struct error *err)
{
	struct str id = q->rest;
	if (!str_ends(id, STR("/drain")))
		return error_set(err, E_NOTFOUND, "there is no such call: POST /mdn/v1/nodes/ID/drain is one");
	id.len -= strlen("/drain");
	struct registered *r = registry_resolve(c, id);
	if (!r)
		return error_set(err, E_NOTFOUND, "there is no node \"" STR_FMT "\": see `mdn nodes`", STR_ARG(id));
	int rc = streams_drain(c, r, err);
	if (rc == 0)
		http_respond(q->x, 204, NULL, (struct str){0});
	return rc;
}

static int do_models(struct center *c, struct request *q, struct error *err)
{
	models_answer(c, q->x);
	return 0;
}

static int do_model(struct center *c, struct request *q, struct error *err)
{
	struct buf out = {0};
	int rc = models_format(c, q->rest, &out, err);
	if (rc == 0)
		center_answer(q->x, &out);
	buf_fini(&out);
	return rc;
}

static int do_model_command(struct center *c, struct request *q, struct error *err)
{
	return places_command(c, q->x, q->rest, err);
}

static int do_rollouts(struct center *c, struct request *q, struct error *err)
{
	rollouts_answer(c, q->x);
	return 0;
}

static int do_rollout(struct center *c, struct request *q, struct error *err)
{
	return rollouts_one(c, q->x, q->rest, err);
}

static int do_rollout_command(struct center *c, struct request *q, struct error *err)
{
	return rollouts_command(c, q->x, q->rest, err);
}

static int do_limits(struct center *c, struct request *q, struct error *err)
{
	limits_list(c, q->x);
	return 0;
}

static int do_events(struct center *c, struct request *q, struct error *err)
{
	return streams_events(c, q->x, err);
}

static int do_keys(struct center *c, struct request *q, struct error *err)
{
	keys_list(c, q->x);
	return 0;
}

static int do_teams(struct center *c, struct request *q, struct error *err)
{
	teams_list(c, q->x);
	return 0;
}

static int do_team_delete(struct center *c, struct request *q, struct error *err)
{
	return teams_delete(c, q->x, q->rest, err);
}

static int do_usage(struct center *c, struct request *q, struct error *err)
{
	return quotas_usage(c, q->x, err);
}

static int do_sums(struct center *c, struct request *q, struct error *err)
{
	return quotas_sums(c, q->x, err);
}

static int do_key_delete(struct center *c, struct request *q, struct error *err)
{
	return keys_delete(c, q->x, q->rest, err);
}

static const struct route {
	const char *method, *path;
	enum who who;
	center_json_fn *json; /* with a body */
	int (*plain)(struct center *c, struct request *q, struct error *err);
	bool shown; /* in the console, too */
} routes[] = {
    {"POST", "/mdn/v1/join", WHO_ANYBODY, join_join, NULL, false},
    {"POST", "/mdn/v1/renew", WHO_ANYBODY, join_renew, NULL, false},
    {"GET", "/mdn/v1/watch", WHO_NODE, NULL, do_watch, false},
    {"POST", "/mdn/v1/report", WHO_NODE, NULL, do_report, false},
    {"POST", "/mdn/v1/tokens", WHO_OPERATOR, join_token_new, NULL, false},
    {"GET", "/mdn/v1/nodes", WHO_OPERATOR, NULL, do_nodes, true},
    {"DELETE", "/mdn/v1/nodes/", WHO_OPERATOR, NULL, do_remove, false},
    {"POST", "/mdn/v1/nodes/", WHO_OPERATOR, NULL, do_drain, false},
    {"POST", "/mdn/v1/place", WHO_OPERATOR, places_place, NULL, false},
    {"GET", "/mdn/v1/models", WHO_OPERATOR, NULL, do_models, true},
    {"GET", "/mdn/v1/models/", WHO_OPERATOR, NULL, do_model, true},
    {"POST", "/mdn/v1/models/", WHO_OPERATOR, NULL, do_model_command, false},
    {"GET", "/mdn/v1/rollouts", WHO_OPERATOR, NULL, do_rollouts, true},
    {"GET", "/mdn/v1/rollouts/", WHO_OPERATOR, NULL, do_rollout, true},
    {"POST", "/mdn/v1/rollouts/", WHO_OPERATOR, NULL, do_rollout_command, false},
    {"GET", "/mdn/v1/limits", WHO_OPERATOR, NULL, do_limits, true},
    {"POST", "/mdn/v1/limits", WHO_OPERATOR, limits_set, NULL, false},
    {"GET", "/mdn/v1/events", WHO_OPERATOR, NULL, do_events, true},
    {"GET", "/mdn/v1/keys", WHO_OPERATOR, NULL, do_keys, false},
    {"POST", "/mdn/v1/keys", WHO_OPERATOR, keys_new, NULL, false},
    {"POST", "/mdn/v1/keys/", WHO_OPERATOR, keys_set, NULL, false},
    {"DELETE", "/mdn/v1/keys/", WHO_OPERATOR, NULL, do_key_delete, false},
    {"GET", "/mdn/v1/teams", WHO_OPERATOR, NULL, do_teams, false},
    {"POST", "/mdn/v1/teams", WHO_OPERATOR, teams_set, NULL, false},
    {"DELETE", "/mdn/v1/teams/", WHO_OPERATOR, NULL, do_team_delete, false},
    {"POST", "/mdn/v1/quota", WHO_NODE, quotas_call, NULL, false},
    {"GET", "/mdn/v1/usage", WHO_OPERATOR, NULL, do_usage, false},
    {"GET", "/mdn/v1/usage/sums", WHO_OPERATOR, NULL, do_sums, false},
};

/* The path of a route, and what follows one that ends in '/'. */
static bool route_fits(const struct route *r, struct str path, struct str *ret_rest)
{
	struct str mine = str_from(r->path);
	if (mine.base[mine.len - 1] != '/')
		return str_equal(path, mine);
	if (!str_starts(path, mine) || path.len == mine.len)
		return false;
	*ret_rest = (struct str){path.base + mine.len, path.len - mine.len};
	return true;
}

/* A center that lost etcd goes on to show what it knew, and what nodes report to it, until it hears that another leads.
 */
static bool may_read(struct center *c, const struct route *route)
{
	return c->loaded && !center_others(c) &&
	       (route->plain == do_report || (route->shown && route->plain != do_events));
}

/* What follows spiffe://DOMAIN/KIND/ in the caller's identity; false when it is none of this kind. */
static bool identity_part(const struct center *c, struct str identity, const char *kind, struct str *ret_part)
{
	struct buf prefix = {0};
	center_identity(c, kind, "", &prefix);
	bool fits = str_starts(identity, buf_str(&prefix)) && identity.len > prefix.len;
	if (fits)
		*ret_part = (struct str){identity.base + prefix.len, identity.len - prefix.len};
	buf_fini(&prefix);
	return fits;
}

struct registered *center_caller(struct center *c, struct http_exchange *x)
{
	struct str id;
	if (!identity_part(c, http_peer_identity(x), "node", &id))
		return NULL;
	struct registered *r = registry_find(c, id);
	return r && !r->removed ? r : NULL;
}

static int admit(struct center *c, const struct route *route, struct request *q, struct error *err)
{
	struct str identity = http_peer_identity(q->x), part;
	enum who who = route->who;
	if (!center_leads(c) && !may_read(c, route)) {
		if (who == WHO_OPERATOR)
			lead_name(c, q->x);
		return center_refuse(c, err);
	}
	if (who == WHO_ANYBODY)
		return 0;
	if (identity.len == 0)
		return error_set(err, E_AUTH, "this call needs a client certificate of the network %s", c->self.domain);
	if (who == WHO_OPERATOR)
		return identity_part(c, identity, "operator", &part)
		           ? 0
		           : error_set(err, E_FORBIDDEN,
		                       "this call is for operators: use the operator identity made by `mdn init`");
	if (!identity_part(c, identity, "node", &part))
		return error_set(err, E_FORBIDDEN, "this call is for nodes of the network %s", c->self.domain);
	q->node = registry_find(c, part);
	if (!q->node || q->node->removed)
		return error_set(err, E_FORBIDDEN, "node " STR_FMT " is not, or no longer, part of this network",
		                 STR_ARG(part));
	return 0;
}

/* So that operators' commands know whom to ask when this center is gone. */
static void name_centers(const struct center *c, struct http_exchange *x)
{
	struct buf list = {0};
	for (size_t i = 0; i < c->node_count && list.len < LIMIT_HTTP_TARGET; i++) {
		const struct registered *r = c->nodes[i];
		if (!r->removed && (r->roles & ROLE_CENTER) && r->node_url[0])
			buf_printf(&list, "%s%s %s", list.len ? ", " : "", r->id, r->node_url);
	}
	http_add_header(x, "x-mdn-centers", buf_str(&list));
	buf_fini(&list);
}

static bool is_for_scheduler(struct http_exchange *x, struct str path)
{
	struct str to;
	return str_equal(path, STR("/mdn/v1/report")) && http_query(x, "to", &to) && str_equal(to, STR("scheduler"));
}

bool center_handle(struct center *c, struct http_exchange *x)
{
	struct str path = http_path(x), method = http_method(x);
	const struct route *found = NULL;
	struct request q = {.x = x};
	struct error err = {0};
	bool known = false;
	int rc;
	for (size_t i = 0; !found && i < sizeof(routes) / sizeof(*routes); i++) {
		if (!route_fits(&routes[i], path, &q.rest))
			continue;
		known = true;
		if (str_equal(method, str_from(routes[i].method)))
			found = &routes[i];
	}
	if (!known || is_for_scheduler(x, path))
		return false;
	if (!found)
		rc = error_set(&err, E_METHOD, STR_FMT " does not take " STR_FMT, STR_ARG(path), STR_ARG(method));
	else if ((rc = admit(c, found, &q, &err)) == 0 && c->lead && found->who == WHO_OPERATOR)
		name_centers(c, x);
	if (found && rc == 0 && found->json)
		center_with_json(c, x,
		                 found->who == WHO_ANYBODY ? STRANGER_BODY_MAX
		                 : found->who == WHO_NODE  ? NODE_BODY_MAX
		                                           : BODY_MAX,
		                 found->json);
	else if (found && rc == 0)
		rc = found->plain(c, &q, &err);
	if (rc < 0)
		http_respond_error(x, &err);
	return true;
}

bool center_read(struct center *c, struct http_exchange *x)
{
	struct request q = {.x = x};
	struct error err = {0};
	for (size_t i = 0; i < sizeof(routes) / sizeof(*routes); i++) {
		if (!routes[i].shown || !str_equal(http_method(x), STR("GET")) ||
		    !route_fits(&routes[i], http_path(x), &q.rest))
			continue;
		bool shows = center_leads(c) || may_read(c, &routes[i]);
		if ((shows ? routes[i].plain(c, &q, &err) : center_refuse(c, &err)) < 0)
			http_respond_error(x, &err);
		return true;
	}
	return false;
}

/* ---- life -------------------------------------------------------------------------------------- */

static void on_beat(void *arg)
{
	streams_beat(arg);
}
static void on_tick(void *arg)
{
	streams_tick(arg);
}

static void on_second(void *arg)
{
	struct center *c = arg;
	places_tick(c);
	rollouts_tick(c);
	limits_tick(c);
	spreads_tick(c);
	quotas_tick(c);
}

static void on_sweep(void *arg)
{
	join_sweep(arg);
	registry_sweep(arg);
}

/* The node the center runs on is a node like others; `mdn init` made its identity before there was a state. */
static int register_self(struct center *c, struct error *err)
{
	if (registry_find(c, str_from(c->self.id)))
		return 0;
	if (!c->self.pin[0])
		return error_set(err, E_CONFLICT,
		                 "this center's node %s is not registered: join it to the network of the first center",
		                 c->self.id);
	struct registered r = {.roles = c->self.roles}, *kept;
	str_copy(str_from(c->self.id), r.id, sizeof(r.id));
	str_copy(str_from(c->self.name), r.name, sizeof(r.name));
	str_copy(str_from(c->self.site), r.site, sizeof(r.site));
	str_copy(str_from(c->self.pin), r.pin, sizeof(r.pin));
	return registry_put(c, &r, &kept, err);
}

static int load_revision(struct center *c, struct error *err)
{
	struct buf text = {0};
	int rc = state_get(c->state, "meta", STR("revision"), &text, err);
	if (rc == E_NOTFOUND)
		rc = 0;
	else if (rc == 0 && str_to_u64(buf_str(&text), &c->revision) < 0)
		rc = error_set(err, E_CORRUPT,
		               "the center's state has a damaged revision: restore center.db from a backup");
	c->revisions_kept = c->revision;
	buf_fini(&text);
	return rc;
}

static int check_domain(const struct center *c, struct str domain, struct error *err)
{
	if (domain.len == 0 || str_equal(domain, str_from(c->self.domain)))
		return 0;
	return error_set(err, E_INVAL,
	                 "the configured domain \"" STR_FMT "\" is not the one of this network (\"%s\"): correct it",
	                 STR_ARG(domain), c->self.domain);
}

static void unload(struct center *c)
{
	c->loaded = false;
	rollouts_free(c);
	limits_free(c);
	spreads_free(c);
	registry_free(c);
	places_free(c);
	versions_free(c);
	keys_free(c);
	quotas_close(c);
	node_map_free(c->map);
	c->map = NULL;
	buf_clear(&c->roster);
	c->roster_revision = 0;
}

int center_start(struct center *c, struct error *err)
{
	int rc;
	unload(c);
	c->map = node_map_new();
	c->begun_us = loop_now_us(c->loop);
	c->revision = 0;
	if ((rc = load_revision(c, err)) < 0 || (rc = registry_load(c, err)) < 0 || (rc = versions_load(c, err)) < 0 ||
	    (rc = places_load(c, err)) < 0 || (rc = rollouts_load(c, err)) < 0 || (rc = limits_load(c, err)) < 0 ||
	    (rc = quotas_open(c, err)) < 0 || (rc = keys_load(c, err)) < 0 || (rc = register_self(c, err)) < 0)
		return rc;
	c->loaded = c->leads = true;
	loop_timer_start(c->beat, BEAT_US, BEAT_US);
	loop_timer_start(c->tick, TICK_US, TICK_US);
	loop_timer_start(c->second, US_PER_S, US_PER_S);
	loop_timer_start(c->sweep, US_PER_S, SWEEP_US);
	on_flush(c); /* the first documents, under a revision of their own */
	feeds_update(c);
	log_info(ROOM, "network %s: %zu nodes, %zu rules, %zu versions, revision %" PRIu64, c->self.domain,
	         c->node_count, c->rule_count, c->version_count, c->revision);
	return 0;
}

void center_stop(struct center *c)
{
	struct error why = {0};
	c->leads = false;
	loop_timer_stop(c->flush);
	loop_timer_stop(c->beat);
	loop_timer_stop(c->tick);
	loop_timer_stop(c->second);
	loop_timer_stop(c->sweep);
	if (c->rollouts_timer)
		loop_timer_stop(c->rollouts_timer);
	c->flush_armed = false;
	for (size_t i = 0; i < c->node_count; i++)
		feed_stop(c->nodes[i]);
	center_refuse(c, &why);
	places_refuse(c, &why);
	streams_end_all(c);
}

static int open_alone(struct center *c, struct str data, struct error *err)
{
	char *db = file_join(data, "center.db");
	struct buf moved = {0};
	int rc = state_open(str_from(db), &c->state, err);
	if (rc == 0 && state_get(c->state, "meta", STR("moved"), &moved, NULL) == 0)
		rc = error_set(err, E_CONFLICT,
		               "the state of this network was moved to etcd: set state: etcd and etcd_endpoints again");
	buf_fini(&moved);
	free(db);
	return rc < 0 ? rc : center_start(c, err);
}

int center_new(struct loop *loop, const struct center_options *options, struct center **ret_center, struct error *err)
{
	struct center *c = NEW(struct center);
	int rc;
	c->loop = loop;
	c->client = options->client;
	c->usage_path = file_join(options->data, "usage.db");
	center_set_lives(c, options->token_life_us, options->cert_life_us);
	c->flush = loop_timer_new(loop, on_flush, c);
	c->beat = loop_timer_new(loop, on_beat, c);
	c->tick = loop_timer_new(loop, on_tick, c);
	c->sweep = loop_timer_new(loop, on_sweep, c);
	c->second = loop_timer_new(loop, on_second, c);
	if ((rc = ca_load(options->data, &c->ca, &c->self, err)) < 0 ||
	    (rc = check_domain(c, options->domain, err)) < 0 ||
	    (rc = options->etcd ? lead_new(c, options, err) : open_alone(c, options->data, err)) < 0) {
		center_free(c);
		return rc;
	}
	*ret_center = c;
	return 0;
}

void center_free(struct center *c)
{
	if (!c)
		return;
	lead_free(c);
	loop_timer_free(c->flush);
	loop_timer_free(c->beat);
	loop_timer_free(c->tick);
	loop_timer_free(c->sweep);
	loop_timer_free(c->second);
	unload(c);
	free(c->usage_path);
	state_close(c->state);
	ca_fini(&c->ca);
	buf_fini(&c->roster);
	free(c);
}

void center_on_removed(struct center *c, void (*fn)(void *arg, struct str identity), void *arg)
{
	c->on_removed = fn;
	c->on_removed_arg = arg;
}

void center_set_lives(struct center *c, int64_t token_life_us, int64_t cert_life_us)
{
	c->token_life_us = token_life_us > 0 ? token_life_us : 600 * US_PER_S;
	c->cert_life_us = cert_life_us > 0 ? cert_life_us : 3600 * US_PER_S;
	if (c->cert_life_us > CERT_LIFE_MAX_US)
		c->cert_life_us = CERT_LIFE_MAX_US;
}
