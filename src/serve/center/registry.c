/* SPDX-License-Identifier: Apache-2.0 */
/* The nodes of the network: durable records by id, and their last reports in a node map (memory only: a second of
 * silence after a restart fills it again). Name, site and roles are those granted at joining; what a report claims
 * about them is ignored, so a stolen edge cannot call itself a repository. URLs are the node's to say and are kept, for
 * the roster.
 */
#include "serve/center/inside.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/log.h"

#include <inttypes.h>
#include <stdlib.h>

#define REPORT_MAX (2u << 20)
#define URLS_EVERY_US (1 * US_PER_S) /* each change is written to the disk and told to all: no faster from one node */

#define AWAY_US (60 * US_PER_S) /* silent for so long: its work is given to others */

bool registry_is_away(const struct center *c, const struct registered *r)
{
	const struct node_entry *e = node_map_find(c->map, str_from(r->id));
	return loop_now_us(c->loop) - (e ? e->received_us : c->begun_us) > AWAY_US;
}

struct placement_node registry_view(const struct registered *r)
{
	struct placement_node view = {.id = str_from(r->id),
	                              .name = str_from(r->name),
	                              .site = str_from(r->site),
	                              .roles = r->roles,
	                              .labels = r->labels,
	                              .label_count = r->label_count,
	                              .memory_bytes = r->memory_bytes,
	                              .accelerator = str_from(r->accelerator),
	                              .away = r->away};
	return view;
}

/* ---- finding ----------------------------------------------------------------------------------- */

static size_t position(const struct center *c, struct str id)
{
	size_t low = 0, high = c->node_count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		struct str there = str_from(c->nodes[middle]->id);
		size_t len = there.len < id.len ? there.len : id.len;
		int order = memcmp(there.base, id.base, len);
		if (order < 0 || (order == 0 && there.len < id.len))
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

struct registered *registry_find(struct center *c, struct str id)
{
	if (id.len == 0 || id.len >= NODE_ID_SIZE)
		return NULL;
	size_t at = position(c, id);
	return at < c->node_count && str_equal(str_from(c->nodes[at]->id), id) ? c->nodes[at] : NULL;
}

struct registered *registry_find_name(struct center *c, struct str name)
{
	for (size_t i = 0; i < c->node_count; i++)
		if (!c->nodes[i]->removed && str_equal(str_from(c->nodes[i]->name), name))
			return c->nodes[i];
	return NULL;
}

struct registered *registry_find_pin(struct center *c, const char *pin)
{
	for (size_t i = 0; i < c->node_count; i++)
		if (strcmp(c->nodes[i]->pin, pin) == 0)
			return c->nodes[i];
	return NULL;
}

struct registered *registry_resolve(struct center *c, struct str id_or_name)
{
	struct registered *r = registry_find(c, id_or_name);
	if (r && !r->removed)
		return r;
	return registry_find_name(c, id_or_name);
}

/* ---- durable records ---------------------------------------------------------------------------- */

static void record_format(const struct registered *r, struct buf *out)
{
	struct buf roles = {0};
	node_roles_format(r->roles, &roles);
	buf_printf(out,
	           "{\"id\":\"%s\",\"name\":\"%s\",\"site\":\"%s\",\"roles\":\"" STR_FMT
	           "\",\"pin\":\"%s\",\"node_url\":",
	           r->id, r->name, r->site, STR_ARG(buf_str(&roles)), r->pin);
	buf_append_json(out, str_from(r->node_url));
	buf_append_str(out, STR(",\"api_url\":"));
	buf_append_json(out, str_from(r->api_url));
	buf_printf(out, ",\"removed\":%s,\"cert_expires_us\":%" PRId64 ",\"memory_bytes\":%" PRIu64 ",\"accelerator\":",
	           r->removed ? "true" : "false", r->cert_expires_wall_us, r->memory_bytes);
	buf_append_json(out, str_from(r->accelerator));
	buf_append_str(out, STR(",\"labels\":["));
	for (size_t i = 0; i < r->label_count; i++) {
		buf_append_str(out, i ? STR(",") : STR(""));
		buf_append_json(out, str_from(r->labels[i]));
	}
	buf_append_str(out, STR("]}"));
	buf_fini(&roles);
}

/* Absent in records of older nodes. */
static int machine_parse(yyjson_val *o, struct registered *r, struct error *err)
{
	struct str accelerator = {0};
	yyjson_val *labels = NULL, *item;
	int64_t memory = 0;
	size_t i, count;
	int rc;
	if ((rc = json_i64(o, "memory_bytes", 0, INT64_MAX, &memory, err)) < 0 ||
	    (rc = json_str(o, "accelerator", &accelerator, err)) < 0 || (rc = json_arr(o, "labels", &labels, err)) < 0)
		return rc;
	r->memory_bytes = (uint64_t)memory;
	str_copy(accelerator, r->accelerator, sizeof(r->accelerator));
	if (labels)
		r->labels = mem_new((yyjson_arr_size(labels) + 1) * sizeof(*r->labels));
	yyjson_arr_foreach(labels, i, count, item)
	{
		struct str label = {yyjson_get_str(item), yyjson_get_len(item)};
		if (label.base && r->label_count < NODE_LABELS_MAX &&
		    str_copy(label, r->labels[r->label_count], NODE_TEXT_SIZE))
			r->label_count++;
	}
	return 0;
}

static int record_parse(struct str text, struct registered *ret, struct error *err)
{
	yyjson_doc *doc;
	struct registered r = {0};
	struct str id = {0}, name = {0}, site = {0}, roles = {0}, pin = {0}, node_url = {0}, api_url = {0};
	int rc = json_parse(text, &doc, err);
	if (rc < 0)
		return rc;
	yyjson_val *o = yyjson_doc_get_root(doc);
	if ((rc = json_str(o, "id", &id, err)) == 0 && (rc = json_str(o, "name", &name, err)) == 0 &&
	    (rc = json_str(o, "site", &site, err)) == 0 && (rc = json_str(o, "roles", &roles, err)) == 0 &&
	    (rc = json_str(o, "pin", &pin, err)) == 0 && (rc = json_str(o, "node_url", &node_url, err)) == 0 &&
	    (rc = json_str(o, "api_url", &api_url, err)) == 0 && (rc = json_bool(o, "removed", &r.removed, err)) == 0 &&
	    (rc = json_i64(o, "cert_expires_us", INT64_MIN, INT64_MAX, &r.cert_expires_wall_us, err)) == 0 &&
	    (rc = node_roles_parse(roles, &r.roles, err)) == 0 && (rc = machine_parse(o, &r, err)) == 0) {
		if (str_copy(id, r.id, sizeof(r.id)) && str_copy(name, r.name, sizeof(r.name)) &&
		    str_copy(site, r.site, sizeof(r.site)) && str_copy(pin, r.pin, sizeof(r.pin)) &&
		    str_copy(node_url, r.node_url, sizeof(r.node_url)) &&
		    str_copy(api_url, r.api_url, sizeof(r.api_url)) && id.len)
			*ret = r;
		else
			rc = error_set(err, E_CORRUPT, "a record is too long");
	}
	if (rc < 0)
		free(r.labels);
	yyjson_doc_free(doc);
	return rc;
}

/* Its labels become the kept one's. */
static void keep(struct center *c, const struct registered *r, struct registered **ret_kept)
{
	struct registered *kept = NEW(struct registered);
	size_t at = position(c, str_from(r->id));
	*kept = *r;
	c->nodes = mem_resize(c->nodes, c->node_count + 1, sizeof(*c->nodes));
	memmove(c->nodes + at + 1, c->nodes + at, (c->node_count - at) * sizeof(*c->nodes));
	c->nodes[at] = kept;
	c->node_count++;
	c->places_stale = true;
	*ret_kept = kept;
}

static void kept_free(struct registered *r)
{
	free(r->labels);
	free(r);
}

static char (*labels_copy(const struct registered *r))[NODE_TEXT_SIZE]
{
	char(*copy)[NODE_TEXT_SIZE] = mem_new((r->label_count + 1) * sizeof(*copy));
	memcpy(copy, r->labels ? r->labels : copy, r->label_count * sizeof(*copy));
	return copy;
}

/* Durable first; then memory follows. `r` may be the kept record itself, or have its labels or any others: those are
 * copied. */
int registry_put(struct center *c, const struct registered *r, struct registered **ret_kept, struct error *err)
{
	struct registered *kept = registry_find(c, str_from(r->id));
	struct buf text = {0};
	if (!kept && c->node_count >= LIMIT_NODES)
		return error_set(err, E_UNAVAILABLE, "this network has %d nodes, the most it can: remove some",
		                 LIMIT_NODES);
	record_format(r, &text);
	int rc = state_put(c->state, "node", str_from(r->id), buf_str(&text), err);
	buf_fini(&text);
	if (rc < 0)
		return rc;
	struct registered now = *r;
	if (!kept) {
		now.labels = labels_copy(r);
		keep(c, &now, &kept);
	} else if (kept != r) {
		if (r->labels != kept->labels) {
			now.labels = labels_copy(r);
			free(kept->labels);
		}
		now.watcher = kept->watcher;
		now.feed = kept->feed;
		*kept = now;
	}
	*ret_kept = kept;
	return 0;
}

struct loading {
	struct center *c;
	struct error *err;
	int rc;
};

static void load_one(void *arg, struct str key, struct str value)
{
	struct loading *l = arg;
	struct registered r, *kept;
	if (l->rc < 0)
		return;
	if ((l->rc = record_parse(value, &r, l->err)) < 0)
		error_prefix(l->err,
		             "the center's record of node " STR_FMT " is damaged, restore center.db from a backup",
		             STR_ARG(key));
	else
		keep(l->c, &r, &kept);
}

int registry_load(struct center *c, struct error *err)
{
	struct loading l = {c, err, 0};
	int rc = state_each(c->state, "node", load_one, &l, err);
	return rc < 0 ? rc : l.rc;
}

void registry_free(struct center *c)
{
	for (size_t i = 0; i < c->node_count; i++) {
		feed_stop(c->nodes[i]);
		kept_free(c->nodes[i]);
	}
	free(c->nodes);
	c->nodes = NULL;
	c->node_count = 0;
}

void registry_sweep(struct center *c)
{
	int64_t now = clock_wall_us();
	size_t kept = 0;
	for (size_t i = 0; i < c->node_count; i++) {
		struct registered *r = c->nodes[i];
		if (r->removed && now > r->cert_expires_wall_us + CERT_GRACE_US &&
		    state_delete(c->state, "node", str_from(r->id), NULL) == 0) {
			kept_free(r);
			continue;
		}
		c->nodes[kept++] = r;
	}
	if (kept < c->node_count)
		center_touch(c);
	c->node_count = kept; /* what is kept per node by its place here is made anew when asked for: places_stale */
}

/* ---- calls --------------------------------------------------------------------------------------- */

int registry_remove(struct center *c, struct http_exchange *x, struct str rest, struct error *err)
{
	struct registered *r = registry_resolve(c, rest);
	if (!r) {
		r = registry_find(c, rest);
		if (!r)
			return error_set(err, E_NOTFOUND, "there is no node \"" STR_FMT "\": see `mdn nodes`",
			                 STR_ARG(rest));
		http_respond(x, 204, NULL, (struct str){0}); /* removed already */
		return 0;
	}
	if (strcmp(r->id, c->self.id) == 0)
		return error_set(err, E_CONFLICT, "the center cannot remove the node it runs on");
	struct registered changed = *r;
	changed.removed = true;
	/* Whatever life certificates had when its last ones were made. */
	changed.cert_expires_wall_us = clock_wall_us() + CERT_LIFE_MAX_US;
	int rc = registry_put(c, &changed, &r, err);
	if (rc < 0)
		return rc;
	log_info(ROOM, "node %s (%s) removed by an operator", r->id, r->name);
	http_respond(x, 204, NULL, (struct str){0});
	feed_stop(r);
	streams_end(r);
	node_map_remove(c->map, str_from(r->id));
	center_touch(c);
	if (c->on_removed) {
		struct buf identity = {0};
		center_identity(c, "node", r->id, &identity);
		c->on_removed(c->on_removed_arg, buf_str(&identity));
		buf_fini(&identity);
	}
	return 0;
}

/* A node that has not reported since the center began: what the registry knows. */
static void format_silent(const struct registered *r, struct buf *out)
{
	struct node_report empty = {.roles = r->roles, .state = NODE_STARTING};
	str_copy(str_from(r->id), empty.id, sizeof(empty.id));
	str_copy(str_from(r->name), empty.name, sizeof(empty.name));
	str_copy(str_from(r->site), empty.site, sizeof(empty.site));
	str_copy(str_from(r->node_url), empty.node_url, sizeof(empty.node_url));
	str_copy(str_from(r->api_url), empty.api_url, sizeof(empty.api_url));
	node_report_format_open(&empty, out);
	buf_printf(out, ",\"health\":\"down\",\"age_us\":-1,\"cert_expires_us\":%" PRId64 "}", r->cert_expires_wall_us);
}

void registry_list(struct center *c, struct http_exchange *x)
{
	struct buf out = {0};
	int64_t now = loop_now_us(c->loop);
	bool first = true;
	buf_append_str(&out, STR("{\"nodes\":["));
	for (size_t i = 0; i < c->node_count; i++) {
		const struct registered *r = c->nodes[i];
		if (r->removed)
			continue;
		if (!first)
			buf_append_str(&out, STR(","));
		first = false;
		const struct node_entry *e = node_map_find(c->map, str_from(r->id));
		if (!e) {
			format_silent(r, &out);
			continue;
		}
		node_report_format_open(&e->report, &out);
		buf_printf(&out, ",\"health\":\"%s\",\"age_us\":%" PRId64 ",\"cert_expires_us\":%" PRId64 "}",
		           node_health_name(node_map_health(c->map, e, now)), now - e->received_us,
		           r->cert_expires_wall_us);
	}
	buf_append_str(&out, STR("]}"));
	center_answer(x, &out);
}

static bool set_url(char kept[static NODE_URL_SIZE], const char *now)
{
	if (strcmp(kept, now) == 0)
		return false;
	str_copy(str_from(now), kept, NODE_URL_SIZE);
	return true;
}

static bool same_labels(const struct registered *r, const struct node_report *report)
{
	bool same = r->label_count == report->label_count;
	for (size_t i = 0; i < r->label_count && same; i++)
		same = strcmp(r->labels[i], report->labels[i]) == 0;
	return same;
}

/* The labels are the report's, until registry_put. */
static bool set_machine(struct registered *r, const struct node_report *report)
{
	if (r->memory_bytes == report->memory_bytes && strcmp(r->accelerator, report->accelerator) == 0 &&
	    same_labels(r, report))
		return false;
	r->memory_bytes = report->memory_bytes;
	memcpy(r->accelerator, report->accelerator, sizeof(r->accelerator));
	r->labels = report->labels;
	r->label_count = report->label_count;
	return true;
}

/* What was measured since the report before; sums begin anew with each engine. */
static void measure(struct center *c, const struct node_report *before, const struct node_report *now)
{
	for (size_t i = 0; i < now->model_count && c->rollout_count; i++) {
		const struct model_report *m = &now->models[i], *b = NULL;
		for (size_t k = 0; before && k < before->model_count && !b; k++)
			if (strcmp(before->models[k].name, m->name) == 0 &&
			    strcmp(before->models[k].digest, m->digest) == 0)
				b = &before->models[k];
		struct rollout_measure d = {m->served, m->errors, m->ttft_sum_us, m->tokens, m->decode_sum_us};
		if (!before || (d.requests == 0 && d.errors == 0))
			continue; /* how much of it is old is not known */
		if (b && b->served <= m->served && b->errors <= m->errors && b->ttft_sum_us <= m->ttft_sum_us &&
		    b->tokens <= m->tokens && b->decode_sum_us <= m->decode_sum_us) {
			d = (struct rollout_measure){m->served - b->served, m->errors - b->errors,
			                             m->ttft_sum_us - b->ttft_sum_us, m->tokens - b->tokens,
			                             m->decode_sum_us - b->decode_sum_us};
		}
		rollouts_measure(c, m->name, m->digest, &d);
	}
}

/* A model that became ready, failed or came to be on disk moves a roll-out on: no need to wait for the second. */
static bool states_differ(const struct node_report *before, const struct node_report *now)
{
	if (!before || before->model_count != now->model_count)
		return true;
	for (size_t i = 0; i < now->model_count; i++)
		if (before->models[i].state != now->models[i].state ||
		    strcmp(before->models[i].digest, now->models[i].digest) != 0)
			return true;
	return false;
}

/* What the roster says of a node follows its reports. */
static int follow_report(struct center *c, struct registered *r, const struct node_report *report, struct error *err)
{
	struct registered changed = *r;
	bool urls = false;
	changed.urls_us = loop_now_us(c->loop);
	if (changed.urls_us - r->urls_us >= URLS_EVERY_US || r->urls_us == 0) {
		urls = set_url(changed.node_url, report->node_url);
		urls |= set_url(changed.api_url, report->api_url);
		urls |= set_machine(&changed, report);
	}
	if (!urls && r->state == report->state)
		return 0;
	changed.state = report->state;
	int rc = urls ? registry_put(c, &changed, &r, err) : 0;
	if (rc < 0)
		return rc;
	r->state = report->state;
	center_touch(c);
	if (urls)
		feeds_update(c);
	return 0;
}

static int take_report(struct center *c, struct registered *r, struct str body, struct error *err)
{
	struct node_report report;
	int rc = node_report_parse(body, &report, err);
	if (rc < 0)
		return rc;
	if (strcmp(report.id, r->id) != 0)
		rc = error_set(err, E_FORBIDDEN,
		               "a node reports for itself only: the certificate is of %s, the report of %s", r->id,
		               report.id);
	if (rc == 0) {
		str_copy(str_from(r->name), report.name, sizeof(report.name));
		str_copy(str_from(r->site), report.site, sizeof(report.site));
		report.roles = r->roles;
		const struct node_entry *e = node_map_find(c->map, str_from(r->id));
		bool differs = states_differ(e ? &e->report : NULL, &report);
		bool leads = center_leads(c);
		if (leads && e && e->report.boot == report.boot && e->report.seq < report.seq)
			measure(c, &e->report, &report);
		rc = node_map_report(c->map, &report, loop_now_us(c->loop), err);
		if (rc == 0 && differs && leads)
			rollouts_soon(c);
		if (rc == E_CONFLICT)
			rc = 0; /* overtaken by a newer one: nothing to tell the sender */
		else if (rc == 0 && leads)
			rc = follow_report(c, r, &report, err);
		c->progress_stale = true;
	}
	node_report_fini(&report);
	return rc;
}

static void on_report(void *arg, struct http_exchange *x, struct str body, const struct error *failure)
{
	struct center *c = arg;
	struct error err = {0};
	if (failure) {
		http_respond_error(x, failure);
		return;
	}
	/* The identity was checked at the head; the node may have been removed since. */
	struct str identity = http_peer_identity(x);
	const char *slash = memrchr(identity.base, '/', identity.len);
	struct str id = {slash + 1, (size_t)(identity.base + identity.len - (slash + 1))};
	struct registered *r = registry_find(c, id);
	int rc = r && !r->removed ? take_report(c, r, body, &err)
	                          : error_set(&err, E_FORBIDDEN, "this node was removed from the network");
	if (rc < 0)
		http_respond_error(x, &err);
	else
		http_respond(x, 204, NULL, (struct str){0});
}

void registry_report(struct center *c, struct http_exchange *x, struct registered *r)
{
	http_body_collect(x, REPORT_MAX, on_report, c);
}
