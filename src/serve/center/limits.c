/* SPDX-License-Identifier: Apache-2.0 */
/* Bandwidth of distribution: caps with a calendar per node, per site (what it exchanges with other sites) and per link
 * between two sites (each way). Kept here, told to nodes in the assign document, kept to by the nodes: they have the
 * calendar, so that it goes on when the center is away.
 *
 * A site's or link's cap is divided among the nodes of the site that miss something they should hold, counted from the
 * same rules and reports that the document is made from; one that misses nothing has the share it would get.
 */
#include "serve/center/inside.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- kept -------------------------------------------------------------------------------------------------- */

static size_t position(const struct center *c, const char *scope)
{
	size_t at = 0;
	while (at < c->limit_count && strcmp(c->limits[at].scope, scope) < 0)
		at++;
	return at;
}

/* Once, since it is asked of every node with every document. */
static void take_apart(struct kept_limit *l)
{
	struct str name, other = {0}, kind = str_cut(str_from(l->scope), '=', &name);
	l->kind = LIMIT_OF_NODE;
	if (!str_equal(kind, STR("node")))
		l->kind = str_equal(kind, STR("site")) ? LIMIT_OF_SITE : LIMIT_OF_LINK;
	if (l->kind == LIMIT_OF_LINK)
		name = str_cut(name, '/', &other);
	str_copy(name, l->name, sizeof(l->name));
	str_copy(other, l->other, sizeof(l->other));
}

static void keep(struct center *c, const char *scope, const struct calendar *calendar)
{
	size_t at = position(c, scope);
	if (at == c->limit_count || strcmp(c->limits[at].scope, scope) != 0) {
		c->limits = mem_resize(c->limits, c->limit_count + 1, sizeof(*c->limits));
		memmove(c->limits + at + 1, c->limits + at, (c->limit_count - at) * sizeof(*c->limits));
		c->limits[at] = (struct kept_limit){0};
		str_copy(str_from(scope), c->limits[at].scope, LIMIT_SCOPE_SIZE);
		take_apart(&c->limits[at]);
		c->limit_count++;
	}
	struct kept_limit *l = &c->limits[at];
	l->calendar = *calendar;
	buf_clear(&l->text);
	calendar_format(calendar, &l->text);
}

static void drop(struct center *c, const char *scope)
{
	size_t at = position(c, scope);
	buf_fini(&c->limits[at].text);
	c->limit_count--;
	memmove(c->limits + at, c->limits + at + 1, (c->limit_count - at) * sizeof(*c->limits));
}

static int load_limit(struct center *c, yyjson_val *o, struct str key, struct error *err)
{
	struct str text = {0};
	struct calendar calendar;
	char scope[LIMIT_SCOPE_SIZE];
	int rc;
	if ((rc = json_str(o, "calendar", &text, err)) < 0 || (rc = calendar_parse(text, &calendar, err)) < 0)
		return rc;
	if (!str_copy(key, scope, sizeof(scope)))
		return error_set(err, E_CORRUPT, "its scope is too long");
	keep(c, scope, &calendar);
	return 0;
}

int limits_load(struct center *c, struct error *err)
{
	return center_load(c, "limit", "limit", load_limit, err);
}

void limits_free(struct center *c)
{
	for (size_t i = 0; i < c->limit_count; i++)
		buf_fini(&c->limits[i].text);
	free(c->limits);
	free(c->shares);
	c->limits = NULL;
	c->shares = NULL;
	c->limit_count = c->share_count = 0;
}

/* ---- calls -------------------------------------------------------------------------------------------------- */

static int scope_name(struct str name, const char *what, struct error *err)
{
	char copy[NODE_TEXT_SIZE];
	return center_name(name, what, copy, sizeof(copy), err);
}

/* One way to write each: a link's sites in order. */
static int scope_read(struct str text, char ret[static LIMIT_SCOPE_SIZE], struct error *err)
{
	struct str value, kind = str_cut(text, '=', &value);
	int rc;
	if (str_equal(kind, STR("node")) || str_equal(kind, STR("site"))) {
		if ((rc = scope_name(value, "the name of the node or site", err)) == 0)
			snprintf(ret, LIMIT_SCOPE_SIZE, STR_FMT "=" STR_FMT, STR_ARG(kind), STR_ARG(value));
		return rc;
	}
	if (!str_equal(kind, STR("link")))
		return error_set(err, E_INVAL, "say what the limit is of: node=NAME, site=NAME or link=SITE/SITE");
	struct str second, first = str_cut(value, '/', &second);
	if ((rc = scope_name(first, "the first site of the link", err)) < 0 ||
	    (rc = scope_name(second, "the second site of the link", err)) < 0)
		return rc;
	size_t len = first.len < second.len ? first.len : second.len;
	int order = memcmp(first.base, second.base, len);
	if (order == 0 && first.len == second.len)
		return error_set(err, E_INVAL, "a link is between two sites");
	bool swap = order > 0 || (order == 0 && first.len > second.len);
	struct str a = swap ? second : first, b = swap ? first : second;
	snprintf(ret, LIMIT_SCOPE_SIZE, "link=" STR_FMT "/" STR_FMT, STR_ARG(a), STR_ARG(b));
	return 0;
}

static int known_scope(struct center *c, const char *scope, struct error *err)
{
	struct str value, kind = str_cut(str_from(scope), '=', &value);
	if (str_equal(kind, STR("node")))
		return registry_resolve(c, value)
		           ? 0
		           : error_set(err, E_NOTFOUND, "there is no node \"" STR_FMT "\": see `mdn nodes`",
		                       STR_ARG(value));
	for (struct str rest = value, site = str_cut(rest, '/', &rest); site.len; site = str_cut(rest, '/', &rest)) {
		bool found = false;
		for (size_t i = 0; i < c->node_count && !found; i++)
			found = !c->nodes[i]->removed && str_equal(str_from(c->nodes[i]->site), site);
		if (!found)
			return error_set(err, E_NOTFOUND, "no node is on a site \"" STR_FMT "\": see `mdn nodes`",
			                 STR_ARG(site));
	}
	return 0;
}

static int store(struct center *c, const char *scope, const struct calendar *calendar, struct error *err)
{
	struct buf text = {0}, record = {0};
	calendar_format(calendar, &text);
	buf_append_str(&record, STR("{\"calendar\":"));
	buf_append_json(&record, buf_str(&text));
	buf_append_str(&record, STR("}"));
	int rc = state_put(c->state, "limit", str_from(scope), buf_str(&record), err);
	buf_fini(&text);
	buf_fini(&record);
	return rc;
}

/* {"scope","calendar"}; without a calendar, or with "none", the limit goes. */
int limits_set(struct center *c, struct http_exchange *x, yyjson_val *body, struct error *err)
{
	struct str what = {0}, text = {0};
	char scope[LIMIT_SCOPE_SIZE];
	struct calendar calendar = {.otherwise = CALENDAR_NONE};
	int rc;
	if ((rc = json_str(body, "scope", &what, err)) < 0 || (rc = json_str(body, "calendar", &text, err)) < 0 ||
	    (rc = scope_read(what, scope, err)) < 0)
		return rc;
	if (text.len && (rc = calendar_parse(text, &calendar, err)) < 0)
		return rc;
	bool goes = calendar.count == 0 && calendar.otherwise == CALENDAR_NONE;
	size_t at = position(c, scope);
	bool there = at < c->limit_count && strcmp(c->limits[at].scope, scope) == 0;
	if (goes && !there)
		return error_set(err, E_NOTFOUND, "there is no limit for %s: see `mdn limit list`", scope);
	if (!goes && ((rc = known_scope(c, scope, err)) < 0))
		return rc;
	if (!goes && !there && c->limit_count >= LIMIT_BANDWIDTH_LIMITS)
		return error_set(err, E_BUSY, "there are %d limits, the most there can be: remove some",
		                 LIMIT_BANDWIDTH_LIMITS);
	rc = goes ? state_delete(c->state, "limit", str_from(scope), err) : store(c, scope, &calendar, err);
	if (rc < 0)
		return rc;
	if (goes)
		drop(c, scope);
	else
		keep(c, scope, &calendar);
	log_info(ROOM, "limit of %s: " STR_FMT, scope, STR_ARG(goes ? STR("none") : text));
	center_touch(c);
	http_respond(x, 204, NULL, (struct str){0});
	return 0;
}

void limits_list(struct center *c, struct http_exchange *x)
{
	struct buf out = {0};
	int64_t now = clock_wall_us();
	buf_append_str(&out, STR("{\"limits\":["));
	for (size_t i = 0; i < c->limit_count; i++) {
		const struct kept_limit *l = &c->limits[i];
		uint64_t rate = calendar_rate(&l->calendar, now);
		int64_t next = calendar_next(&l->calendar, now);
		buf_printf(&out, "%s{\"scope\":\"%s\",\"calendar\":", i ? "," : "", l->scope);
		buf_append_json(&out, buf_str(&l->text));
		if (rate != CALENDAR_NONE)
			buf_printf(&out, ",\"rate\":%" PRIu64, rate);
		if (next != CALENDAR_NEVER)
			buf_printf(&out, ",\"changes_us\":%" PRId64, next);
		buf_append_str(&out, STR("}"));
	}
	buf_append_str(&out, STR("]}"));
	center_answer(x, &out);
}

/* ---- shares --------------------------------------------------------------------------------------------------- */

/* Does it miss something that it should hold? */
static bool misses(struct center *c, struct registered *r)
{
	for (size_t i = 0; i < c->rule_count; i++) {
		const char *model = c->rules[i].where.model;
		if (i > 0 && strcmp(model, c->rules[i - 1].where.model) == 0)
			continue;
		const struct known_version *k = version_find(c, str_from(model));
		const struct held_rollout *h = rollouts_find(c, model);
		if (!k || places_paused(c, model) || !places_holds(c, r, model, NULL))
			continue;
		bool fresh = !h || rollouts_want(h, r->id) != WANT_OLD;
		const struct digest *wanted = fresh ? &k->version.manifest : &h->old.manifest;
		const struct model_report *m = fresh || h->has_old ? models_reported(c, r, model, wanted) : NULL;
		if (!m ? fresh || h->has_old : m->state == MODEL_WAITING || m->state == MODEL_FETCHING)
			return true;
	}
	return false;
}

static struct site_share *share_of(struct center *c, const char *site)
{
	size_t low = 0, high = c->share_count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int order = strcmp(c->shares[middle].site, site);
		if (order == 0)
			return &c->shares[middle];
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	c->shares = mem_resize(c->shares, c->share_count + 1, sizeof(*c->shares));
	struct site_share *s = &c->shares[low];
	memmove(s + 1, s, (c->share_count++ - low) * sizeof(*s));
	*s = (struct site_share){0};
	str_copy(str_from(site), s->site, sizeof(s->site));
	return s;
}

/* Counts anew; true when a count differs. */
static bool count_shares(struct center *c)
{
	bool differs = false;
	for (size_t i = 0; i < c->share_count; i++)
		c->shares[i].receivers_now = c->shares[i].senders_now = 0;
	for (size_t i = 0; i < c->node_count; i++) {
		struct registered *r = c->nodes[i];
		bool serves = r->roles & (ROLE_EDGE | ROLE_REPOSITORY | ROLE_CENTER);
		r->misses = false;
		if (r->removed || r->away || !serves)
			continue;
		struct site_share *s = share_of(c, r->site);
		r->misses = (r->roles & (ROLE_EDGE | ROLE_CENTER)) && misses(c, r);
		s->receivers_now += r->misses;
		s->senders_now++;
	}
	for (size_t i = 0; i < c->share_count; i++) {
		struct site_share *s = &c->shares[i];
		differs = differs || s->receivers != s->receivers_now || s->senders != s->senders_now;
		s->receivers = s->receivers_now;
		s->senders = s->senders_now;
	}
	return differs;
}

void limits_refresh(struct center *c)
{
	if (c->limit_count)
		count_shares(c);
}

void limits_tick(struct center *c)
{
	places_refresh(c);
	if (c->limit_count && count_shares(c))
		center_touch(c);
}

static bool fits(const struct kept_limit *l, const struct registered *r)
{
	if (l->kind == LIMIT_OF_NODE)
		return strcmp(l->name, r->name) == 0 || strcmp(l->name, r->id) == 0;
	return strcmp(l->name, r->site) == 0 || (l->kind == LIMIT_OF_LINK && strcmp(l->other, r->site) == 0);
}

static uint32_t receivers_of(struct center *c, const struct registered *r)
{
	return share_of(c, r->site)->receivers + !r->misses;
}

void limits_assign(struct center *c, struct registered *r, struct buf *out)
{
	bool any = false;
	for (size_t i = 0; i < c->limit_count; i++) {
		const struct kept_limit *l = &c->limits[i];
		if (!fits(l, r))
			continue;
		uint32_t receivers = l->kind == LIMIT_OF_NODE ? 1 : receivers_of(c, r), senders = 1;
		if (l->kind != LIMIT_OF_NODE && share_of(c, r->site)->senders)
			senders = share_of(c, r->site)->senders;
		buf_append_str(out, any ? STR(",{") : STR(",\"limits\":[{"));
		any = true;
		buf_append_str(out, STR("\"calendar\":"));
		buf_append_json(out, buf_str(&l->text));
		buf_printf(out, ",\"receivers\":%" PRIu32 ",\"senders\":%" PRIu32, receivers, senders);
		if (l->kind == LIMIT_OF_SITE)
			buf_append_str(out, STR(",\"other_sites\":true"));
		if (l->kind == LIMIT_OF_LINK) {
			buf_append_str(out, STR(",\"site\":"));
			buf_append_json(out, str_from(strcmp(l->name, r->site) == 0 ? l->other : l->name));
		}
		buf_append_str(out, STR("}"));
	}
	if (any)
		buf_append_str(out, STR("]"));
}

/* Nodes of a site pass on to each other what each got of the site's share, so all of it counts for each of them. */
size_t limits_of(const struct center *c, const struct registered *r, struct calendar *ret, size_t max)
{
	size_t count = 0;
	for (size_t i = 0; i < c->limit_count && count < max; i++) {
		if (fits(&c->limits[i], r))
			ret[count++] = c->limits[i].calendar;
	}
	return count;
}
