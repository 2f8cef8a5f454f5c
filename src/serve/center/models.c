/* SPDX-License-Identifier: Apache-2.0 */
/* How far each model is, for people: the list, and one model's document, which the event stream repeats. The console's
 * map of a running distribution is drawn from the latter.
 *
 * When a node will be done: what is missing, at the rate that was measured, or that the calendars allow where they are
 * what held it back. A node that waits goes by the mean of the others.
 */
#include "serve/center/inside.h"

#include "base/clock.h"
#include "base/json.h"

#include <inttypes.h>
#include <stdlib.h>

#define NODE_LIMITS_MAX 8
#define AT_CAP 0.8 /* of what is allowed: the cap is what holds it back */

const struct model_report *models_reported(const struct center *c, const struct registered *r, const char *name_tag,
                                           const struct digest *manifest)
{
	const struct node_entry *e = node_map_find(c->map, str_from(r->id));
	char digest[DIGEST_TEXT_SIZE];
	digest_format(manifest, digest);
	for (size_t i = 0; e && i < e->report.model_count; i++) {
		const struct model_report *m = &e->report.models[i];
		if (strcmp(m->name, name_tag) == 0 && (m->digest[0] == '\0' || strcmp(m->digest, digest) == 0))
			return m;
	}
	return NULL;
}

static const struct model_report *reported(const struct center *c, const struct registered *r,
                                           const struct known_version *k)
{
	return models_reported(c, r, k->name_tag, &k->version.manifest);
}

/* One JSON object without its closing brace. */
static void version_format_open(const struct known_version *k, struct buf *out)
{
	version_format(&k->version, out);
	out->len--;
}

/* ---- when it will be there --------------------------------------------------------------------------------- */

struct way { /* of a model to its nodes */
	int64_t now_us;
	uint64_t have, total;
	double rate;
	uint64_t mean_rate; /* of those that receive; 0: nobody does */
	int64_t eta_us;     /* of the last; -1: not known, 0: all are there */
	uint64_t worst_missing, worst_rate;
};

static bool is_there(const struct model_report *m)
{
	return m && (m->state == MODEL_READY || m->state == MODEL_CACHED || m->state == MODEL_LOADING);
}

/* -1: nobody can know. */
static int64_t node_eta(struct center *c, struct registered *r, const struct way *w, const struct model_report *m,
                        uint64_t missing, uint64_t *ret_rate)
{
	struct calendar calendars[NODE_LIMITS_MAX];
	const struct calendar *all[NODE_LIMITS_MAX];
	size_t count = limits_of(c, r, calendars, NODE_LIMITS_MAX);
	uint64_t allowed = CALENDAR_NONE, rate = m ? (uint64_t)m->fetch_rate : 0;
	bool limited = false;
	for (size_t i = 0; i < count; i++) {
		uint64_t one = calendar_rate(&calendars[i], w->now_us);
		all[i] = &calendars[i];
		allowed = one < allowed ? one : allowed;
		limited = limited || one != CALENDAR_NONE || calendars[i].count > 0;
	}
	if (rate == 0)
		rate = w->mean_rate;
	*ret_rate = rate < allowed ? rate : allowed;
	bool held_back = allowed != CALENDAR_NONE && (double)rate >= AT_CAP * (double)allowed;
	if (held_back || rate == 0) {
		if (!limited)
			return -1;
		*ret_rate = allowed;
		rate = CALENDAR_NONE;
	}
	int64_t when = calendar_when(all, count, rate, missing, w->now_us);
	return when == CALENDAR_NEVER ? -1 : when;
}

static bool is_wanted(const struct held_rollout *h, const struct registered *r)
{
	return !h || rollouts_want(h, r->id) != WANT_OLD;
}

static void add_to_way(struct center *c, struct registered *r, const struct known_version *k, struct way *w,
                       bool rates_only, int64_t *ret_eta_us)
{
	const struct model_report *m = reported(c, r, k);
	uint64_t total = version_size(&k->version), have = is_there(m) ? total : m ? m->have_bytes : 0, rate;
	*ret_eta_us = 0;
	if (rates_only) {
		w->have += have < total ? have : total;
		w->total += total;
		w->rate += m ? m->fetch_rate : 0;
		return;
	}
	if (have >= total)
		return;
	int64_t eta = node_eta(c, r, w, m, total - have, &rate);
	*ret_eta_us = eta;
	bool later = w->eta_us != -1 && (eta == -1 || eta > w->eta_us);
	if (later) {
		w->eta_us = eta;
		w->worst_missing = total - have;
		w->worst_rate = rate;
	}
}

static size_t count_receiving(const struct center *c, const struct known_version *k)
{
	size_t count = 0;
	for (size_t n = 0; n < c->node_count; n++) {
		const struct model_report *m = c->nodes[n]->removed ? NULL : reported(c, c->nodes[n], k);
		count += m && m->fetch_rate >= 1;
	}
	return count;
}

static void clock_short(int64_t wall_us, char ret_text[static 25])
{
	clock_format(wall_us, ret_text);
	memcpy(ret_text + 19, "Z", 2);
}

static void deadline_format(const struct way *w, int64_t by_us, struct buf *out)
{
	char at[25], needs[32], has[32];
	buf_printf(out, ",\"by_us\":%" PRId64 ",\"verdict\":\"", by_us);
	clock_short(w->eta_us > 0 ? w->eta_us : w->now_us, at);
	if (w->eta_us == 0) {
		buf_append_str(out, STR("made it\""));
	} else if (w->eta_us > 0 && w->eta_us <= by_us) {
		buf_printf(out, "will make it at %s\"", at);
	} else if (by_us <= w->now_us) {
		buf_printf(out, "too late%s%s\"", w->eta_us > 0 ? ": done at " : "", w->eta_us > 0 ? at : "");
	} else {
		double s = (double)(by_us - w->now_us) / US_PER_S;
		uint64_t wants = (uint64_t)((double)w->worst_missing / s) + 1;
		rate_format(wants / 12500 * 12500 + 12500, needs);
		rate_format(w->worst_rate / 12500 * 12500, has);
		if (w->eta_us > 0)
			buf_printf(out, "will not make it: needs %s, has %s; done at %s\"", needs,
			           w->worst_rate < 12500 ? "less than 0.1Mbit/s" : has, at);
		else
			buf_printf(out, "not known yet: needs %s\"", needs);
	}
}

/* ---- one model ------------------------------------------------------------------------------------------------- */

static void sources_format(struct center *c, const struct model_report *m, struct buf *out)
{
	for (size_t i = 0; i < m->source_count; i++) {
		const struct registered *from = registry_find(c, str_from(m->sources[i].id));
		buf_printf(out, "%s{\"id\":\"%s\",\"name\":\"%s\",\"site\":\"%s\",\"rate\":%.0f}",
		           i ? "," : ",\"sources\":[", m->sources[i].id, from ? from->name : "", from ? from->site : "",
		           m->sources[i].rate);
	}
	if (m->source_count)
		buf_append_str(out, STR("]"));
}

static void node_line(struct center *c, const struct registered *r, const struct known_version *k, int64_t eta_us,
                      struct buf *out)
{
	static const struct model_report nothing;
	static const char *const wants[] = {"old", "fetch", "new"};
	const struct model_report *m = reported(c, r, k);
	const struct held_rollout *h = rollouts_find(c, k->name_tag);
	uint64_t total = m && m->total_bytes ? m->total_bytes : version_size(&k->version);
	if (!m)
		m = &nothing;
	buf_printf(out, "{\"id\":\"%s\",\"name\":\"%s\",\"site\":\"%s\",\"state\":\"%s\",", r->id, r->name, r->site,
	           model_state_name(m->state));
	buf_printf(out, "\"have_bytes\":%" PRIu64 ",\"total_bytes\":%" PRIu64 ",\"fetch_rate\":%.0f,\"error\":",
	           m->have_bytes, total, m->fetch_rate);
	buf_append_json(out, str_from(m->error));
	buf_printf(out, ",\"eta_us\":%" PRId64 ",\"want\":\"%s\"", eta_us, h ? wants[rollouts_want(h, r->id)] : "new");
	if (m->file[0]) {
		buf_append_str(out, STR(",\"file\":"));
		buf_append_json(out, str_from(m->file));
	}
	sources_format(c, m, out);
	const struct model_report *old = h && h->has_old ? models_reported(c, r, k->name_tag, &h->old.manifest) : NULL;
	if (old) {
		buf_printf(out, ",\"old_state\":\"%s\",\"old_error\":", model_state_name(old->state));
		buf_append_json(out, str_from(old->error));
	}
	buf_append_str(out, STR("}"));
}

static int64_t deadline_of(const struct center *c, const char *name_tag)
{
	int64_t by = 0;
	for (size_t i = 0; i < c->rule_count; i++)
		if (strcmp(c->rules[i].where.model, name_tag) == 0 && c->rules[i].by_wall_us &&
		    (by == 0 || c->rules[i].by_wall_us < by))
			by = c->rules[i].by_wall_us;
	return by;
}

static void rules_format(const struct center *c, const char *name_tag, struct buf *out)
{
	bool first = true;
	buf_append_str(out, STR(",\"on\":["));
	for (size_t i = 0; i < c->rule_count; i++) {
		const struct rule *rule = &c->rules[i];
		struct buf text = {0};
		if (strcmp(rule->where.model, name_tag) != 0)
			continue;
		selector_format(&rule->where.on, &text);
		buf_append_str(out, first ? STR("") : STR(","));
		buf_append_json(out, buf_str(&text));
		buf_fini(&text);
		first = false;
	}
	buf_append_str(out, STR("]"));
}

/* Everything behind the nodes. */
static void way_format(struct center *c, const struct known_version *k, const struct way *w, struct buf *out)
{
	struct held_rollout *h = rollouts_find(c, k->name_tag);
	int64_t by = deadline_of(c, k->name_tag);
	buf_printf(out,
	           ",\"have_bytes\":%" PRIu64 ",\"total_bytes\":%" PRIu64 ",\"fetch_rate\":%.0f,\"eta_us\":%" PRId64
	           ",\"paused\":%s",
	           w->have, w->total, w->rate, w->eta_us, places_paused(c, k->name_tag) ? "true" : "false");
	rules_format(c, k->name_tag, out);
	if (by)
		deadline_format(w, by, out);
	if (h) {
		rollouts_look(c, h);
		buf_append_str(out, STR(",\"rollout\":"));
		rollouts_format(c, h, false, out);
	}
}

int models_format(struct center *c, struct str text, struct buf *out, struct error *err)
{
	char name_tag[NAME_TAG_SIZE];
	int rc = places_name_tag(text, name_tag, err);
	if (rc < 0)
		return rc;
	const struct known_version *k = version_find(c, str_from(name_tag));
	if (!k)
		return version_unknown(c, name_tag, err);
	places_refresh(c);
	const struct held_rollout *h = rollouts_find(c, name_tag);
	struct way w = {.now_us = clock_wall_us()};
	int64_t eta;
	for (size_t n = 0; n < c->node_count; n++) {
		struct registered *r = c->nodes[n];
		if (!r->removed && places_holds(c, r, name_tag, NULL) && is_wanted(h, r))
			add_to_way(c, r, k, &w, true, &eta);
	}
	size_t receiving = count_receiving(c, k);
	w.mean_rate = receiving ? (uint64_t)(w.rate / (double)receiving) : 0;
	version_format_open(k, out);
	buf_append_str(out, STR(",\"nodes\":["));
	bool first = true;
	for (size_t n = 0; n < c->node_count; n++) {
		struct registered *r = c->nodes[n];
		bool holds = !r->removed && places_holds(c, r, name_tag, NULL);
		if (r->removed || (!holds && !reported(c, r, k)))
			continue;
		eta = 0;
		if (holds && is_wanted(h, r))
			add_to_way(c, r, k, &w, false, &eta);
		buf_append_str(out, first ? STR("") : STR(","));
		node_line(c, r, k, eta, out);
		first = false;
	}
	buf_append_str(out, STR("]"));
	way_format(c, k, &w, out);
	buf_append_str(out, STR("}"));
	return 0;
}

/* ---- all of them ----------------------------------------------------------------------------------------------- */

void models_answer(struct center *c, struct http_exchange *x)
{
	struct buf out = {0};
	buf_append_str(&out, STR("{\"models\":["));
	for (size_t i = 0; i < c->version_count; i++) {
		const struct known_version *k = &c->versions[i];
		size_t placed = 0, ready = 0, failed = 0;
		struct way w = {0};
		int64_t ignored;
		bool anywhere =
		    places_rule(c, k->name_tag, false) != NULL; /* most are not: no look at the nodes then */
		for (size_t n = 0; n < c->node_count && anywhere; n++) {
			struct registered *r = c->nodes[n];
			if (r->removed || !places_holds(c, r, k->name_tag, NULL))
				continue;
			const struct model_report *m = reported(c, r, k);
			add_to_way(c, r, k, &w, true, &ignored);
			placed++;
			ready += m && model_report_serves(m);
			failed += m && m->state == MODEL_FAILED;
		}
		if (i)
			buf_append_str(&out, STR(","));
		version_format_open(k, &out);
		buf_printf(&out,
		           ",\"placed\":%zu,\"ready\":%zu,\"failed\":%zu,\"have_bytes\":%" PRIu64
		           ",\"total_bytes\":%" PRIu64 ",\"fetch_rate\":%.0f,\"paused\":%s}",
		           placed, ready, failed, w.have, w.total, w.rate,
		           places_paused(c, k->name_tag) ? "true" : "false");
	}
	buf_append_str(&out, STR("]}"));
	center_answer(x, &out);
}
