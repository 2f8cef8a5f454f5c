/* SPDX-License-Identifier: Apache-2.0 */
/* A prefix takes part in a round when one zone covers all of it: else naming a site for it would overrule zones within
 * it. Pins lie below, and what the round says of a prefix is named only where it differs from pins and zones, so that
 * the list stays short: nobody who is well served at home stands in it. */
#include "core/client_map.h"

#include "base/json.h"
#include "base/limits.h"
#include "core/distance.h"
#include "core/node_map_index.h"

#include <math.h>
#include <stdlib.h>

#define PENDING_MOST_US (INT64_MAX / 2) /* edges say what they like */
#define RTT_WINDOW_US (600 * INT64_C(1000) * 1000)
#define RTT_COUNT_MOST 100
#define RTT_SHRINK 2.0 /* what was told so often counts as much as what is believed without */

void client_map_fini(struct client_map *m)
{
	free(m->units);
	free(m->named);
	free(m->ramps);
	hash_index_fini(&m->by_prefix);
	*m = (struct client_map){0};
}

void client_map_change(struct client_map *m)
{
	m->change++;
}

/* ---- demand ---------------------------------------------------------------------------------- */

static struct client_unit *unit_of(struct client_map *m, const struct ip_prefix *p)
{
	uint64_t hash = demand_hash(p);
	uint32_t at;
	for (size_t cursor = 0; hash_index_next(&m->by_prefix, hash, &cursor, &at);) {
		if (ip_prefix_equal(&m->units[at].prefix, p))
			return &m->units[at];
	}
	if (m->count == LIMIT_DEMAND_PREFIXES)
		return NULL;
	if (m->count == m->cap) {
		m->cap = m->cap ? m->cap * 2 : 64;
		m->units = mem_resize(m->units, m->cap, sizeof(*m->units));
	}
	m->units[m->count] =
	    (struct client_unit){.prefix = *p, .site = MAKING_NONE, .named = MAKING_NONE, .fresh = true};
	hash_index_add(&m->by_prefix, hash, m->count);
	return &m->units[m->count++];
}

/* The place of what was measured from the site, or of what is oldest. */
static struct client_rtt *rtt_of(struct client_unit *u, uint32_t site)
{
	struct client_rtt *oldest = &u->rtts[0];
	for (int i = 0; i < CLIENT_RTTS; i++) {
		struct client_rtt *t = &u->rtts[i];
		if (t->count > 0 && t->site == site)
			return t;
		if (t->count == 0 || (oldest->count > 0 && t->at_us < oldest->at_us))
			oldest = t;
	}
	oldest->count = 0;
	return oldest;
}

/* The least of about RTT_WINDOW_US, so that it follows a longer way. */
static void learn(struct client_unit *u, uint32_t site, int64_t rtt_us, int64_t now_us)
{
	struct client_rtt *t = rtt_of(u, site);
	if (t->count == 0 || rtt_us < t->us || now_us - t->at_us > RTT_WINDOW_US) {
		t->us = rtt_us;
		t->at_us = now_us;
	}
	t->site = site;
	t->count += t->count < RTT_COUNT_MOST;
}

void client_map_tell(struct client_map *m, const struct demand *d, uint32_t site, int64_t now_us)
{
	for (uint32_t i = 0; i < d->count; i++) {
		struct client_unit *u = unit_of(m, &d->lines[i].prefix);
		if (!u) {
			m->turned_away++;
			continue;
		}
		if (site != MAKING_NONE && d->lines[i].rtt_us > 0)
			learn(u, site, d->lines[i].rtt_us, now_us);
		int64_t room = PENDING_MOST_US - u->pending_us;
		u->pending_us += d->lines[i].busy_us < room ? d->lines[i].busy_us : room;
		u->seen_us = now_us;
	}
}

static void forget_quiet(struct client_map *m, int64_t now_us)
{
	for (uint32_t i = m->count; i-- > 0;) {
		struct client_unit *u = &m->units[i], *last = &m->units[m->count - 1];
		if (now_us - u->seen_us < MAP_UNIT_LIFE_US)
			continue;
		hash_index_remove(&m->by_prefix, demand_hash(&u->prefix), i);
		if (u != last) {
			hash_index_remove(&m->by_prefix, demand_hash(&last->prefix), m->count - 1);
			hash_index_add(&m->by_prefix, demand_hash(&last->prefix), i);
			*u = *last;
		}
		m->count--;
	}
}

static void settle(struct client_map *m, int64_t now_us)
{
	double since_us = m->settled_us ? (double)(now_us - m->settled_us) : 1e7;
	double keep = exp2(-since_us / MAP_DEMAND_LIFE_US);
	m->settled_us = now_us;
	for (uint32_t i = 0; i < m->count && since_us > 0; i++) {
		struct client_unit *u = &m->units[i];
		double rate = (double)u->pending_us / since_us;
		u->demand = u->fresh ? rate : u->demand * keep + rate * (1 - keep);
		u->pending_us = 0;
		u->fresh = false;
	}
}

/* ---- a round begins -------------------------------------------------------------------------- */

static double slots_of(const struct node_map *nodes, uint32_t node)
{
	const struct node_report *report = &map_node_at(nodes, node)->entry.report;
	double slots = 0;
	for (size_t i = 0; i < report->model_count; i++) {
		if (report->models[i].state == MODEL_READY)
			slots += report->models[i].slots;
	}
	return slots;
}

/* A site without an address for clients has no room for them, whatever stands there. */
static void size_up_sites(struct client_map *m, const struct node_map *nodes, const struct steer *steer, int64_t now_us,
                          struct client_round *r)
{
	bool *reached = mem_new(r->site_count + 1u);
	const struct map_hot *hots = map_hots(nodes);
	for (uint32_t i = 0; i < node_map_count(nodes); i++) {
		const struct map_hot *h = &hots[i];
		if (h->draining || h->starting || map_health(nodes, h, now_us) == NODE_DOWN)
			continue;
		int32_t weight = steer_weight(steer, STEER_NODE, str_from(map_node_at(nodes, i)->entry.report.id));
		r->sites[h->site].nodes++;
		r->sites[h->site].capacity += slots_of(nodes, i) * weight / 100;
		reached[h->site] |= h->has_api;
	}
	if (m->ramp_count < r->site_count) {
		m->ramps = mem_resize(m->ramps, r->site_count, sizeof(*m->ramps));
		memset(m->ramps + m->ramp_count, 0, (r->site_count - m->ramp_count) * sizeof(*m->ramps));
		m->ramp_count = r->site_count;
	}
	for (uint32_t i = 0; i < r->site_count; i++) {
		struct client_site *s = &r->sites[i];
		s->weight = steer_weight(steer, STEER_SITE, distances_site_name(map_distances_all(nodes), i));
		s->capacity *= s->weight / 100.0 * reached[i];
		s->capacity *= making_ramp(&m->ramps[i], s->capacity > 0, now_us);
		r->capacities[i] = s->capacity;
	}
	free(reached);
}

static int take_pins(struct node_map *nodes, const struct steer *steer, struct client_round *r, struct lpm *pins,
                     struct error *err)
{
	r->list = mem_resize(NULL, steer->count + 1u, sizeof(*r->list));
	for (uint32_t i = 0; i < steer->count; i++) {
		const struct steer_word *w = &steer->words[i];
		uint32_t site;
		if (w->kind != STEER_PREFIX || !steer_word_speaks(w))
			continue;
		int rc = node_map_site(nodes, str_from(w->site), &site, err);
		if (rc < 0 || (rc = lpm_set(pins, &w->prefix, site)) < 0)
			return rc;
		r->list[r->list_count++] = (struct client_named){w->prefix, site};
	}
	r->pin_count = r->list_count;
	lpm_seal(pins);
	return 0;
}

/* Configured distances are an operator's word. */
static bool rtt_counts(const struct node_map *nodes, const struct client_rtt *t, uint32_t base, int64_t now_us)
{
	return t->count > 0 && now_us - t->at_us < CLIENT_RTT_LIFE_US &&
	       (base == MAKING_NONE || !distances_is_configured(map_distances_all(nodes), base, t->site));
}

static unsigned rtts_count(const struct node_map *nodes, const struct client_unit *u, uint32_t base, int64_t now_us)
{
	unsigned count = 0;
	for (int i = 0; i < CLIENT_RTTS; i++)
		count += rtt_counts(nodes, &u->rtts[i], base, now_us);
	return count;
}

static void take_units(struct client_map *m, const struct node_map *nodes, const struct lpm *pins, int64_t now_us,
                       struct client_round *r)
{
	r->units = mem_resize(NULL, m->count + 1u, sizeof(*r->units));
	r->index = mem_resize(NULL, m->count + 1u, sizeof(*r->index));
	r->bases = mem_resize(NULL, m->count + 1u, sizeof(*r->bases));
	r->prefixes = mem_resize(NULL, m->count + 1u, sizeof(*r->prefixes));
	for (uint32_t i = 0; i < m->count; i++) {
		const struct client_unit *u = &m->units[i];
		struct making_unit *to = &r->units[r->unit_count];
		uint32_t base;
		uint8_t scope;
		*to = (struct making_unit){.demand = u->demand, .pin = MAKING_NONE, .site = u->site, .named = u->named};
		if (!lpm_find(map_zones(nodes), &u->prefix.ip, &base, &scope))
			base = MAKING_NONE;
		unsigned measured = rtts_count(nodes, u, base, now_us);
		if (scope > u->prefix.length || (base == MAKING_NONE && measured == 0))
			continue;
		if (!lpm_find(pins, &u->prefix.ip, &to->pin, &scope) || scope > u->prefix.length)
			to->pin = MAKING_NONE;
		to->home = base;
		to->explore = measured > 0 && measured < CLIENT_RTTS;
		r->bases[r->unit_count] = base;
		r->prefixes[r->unit_count] = u->prefix;
		r->index[r->unit_count++] = i;
	}
}

static bool row_fits(const struct client_round *r, uint64_t rows)
{
	return (rows + 1) * r->site_count <= MAP_ROWS_MAX;
}

/* Of the homes that units have. */
static int take_rows(const struct node_map *nodes, struct client_round *r, uint64_t *rows, struct error *err)
{
	for (uint32_t i = 0; i < r->unit_count; i++) {
		if (r->bases[i] == MAKING_NONE || r->rows[r->bases[i]])
			continue;
		if (!row_fits(r, (*rows)++))
			return error_set(err, E_LIMIT,
			                 "clients of %llu sites and %u sites to send them to are too many",
			                 (unsigned long long)*rows, r->site_count);
		r->rows[r->bases[i]] = mem_resize(NULL, r->site_count, sizeof(**r->rows));
		distances_row(map_distances_all(nodes), r->bases[i], r->rows[r->bases[i]]);
	}
	return 0;
}

/* Sites are as far as from where the prefix is, its zone or else the nearest that measured it, and the way to there on
 * top, which is on every way; where it was measured itself, that counts the more, the more often. */
static uint32_t *measured_row(const struct client_map *m, const struct node_map *nodes, const struct client_round *r,
                              uint32_t unit, int64_t now_us)
{
	const struct client_unit *u = &m->units[r->index[unit]];
	const struct client_rtt *nearest = NULL;
	uint32_t base = r->bases[unit], *row = mem_resize(NULL, r->site_count, sizeof(*row));
	for (int i = 0; i < CLIENT_RTTS; i++) {
		const struct client_rtt *t = &u->rtts[i];
		if (rtt_counts(nodes, t, base, now_us) && (!nearest || t->us < nearest->us))
			nearest = t;
	}
	/* Kept rows: looking up every pair for every prefix would take seconds of the loop. */
	memcpy(row, distances_from(map_distances_all(nodes), base == MAKING_NONE ? nearest->site : base),
	       r->site_count * sizeof(*row));
	uint32_t way_us = nearest->us > row[nearest->site] ? (uint32_t)nearest->us - row[nearest->site] : 0;
	for (uint32_t s = 0; s < r->site_count; s++)
		row[s] += way_us;
	for (int i = 0; i < CLIENT_RTTS; i++) {
		const struct client_rtt *t = &u->rtts[i];
		double share = t->count / (t->count + RTT_SHRINK);
		if (rtt_counts(nodes, t, base, now_us))
			row[t->site] = (uint32_t)((double)t->us * share + row[t->site] * (1 - share));
	}
	return row;
}

/* Of units that were measured, as far as there is room for rows; without one a unit is where its zone is, or out. */
static void take_measured(const struct client_map *m, const struct node_map *nodes, struct client_round *r,
                          uint64_t rows, int64_t now_us)
{
	uint32_t kept = 0;
	for (uint32_t i = 0; i < r->unit_count; i++) {
		bool own = rtts_count(nodes, &m->units[r->index[i]], r->bases[i], now_us) > 0 && row_fits(r, rows);
		if (!own && r->bases[i] == MAKING_NONE)
			continue;
		if (own) {
			rows++;
			r->rows[r->row_count] = measured_row(m, nodes, r, i, now_us);
			r->units[i].home = r->row_count++;
		}
		r->units[kept] = r->units[i];
		r->index[kept] = r->index[i];
		r->bases[kept] = r->bases[i];
		r->prefixes[kept++] = r->prefixes[i];
	}
	r->unit_count = kept;
}

int client_map_begin(struct client_map *m, struct node_map *nodes, const struct steer *steer, int64_t now_us,
                     uint64_t seed, struct client_round **ret_round, struct error *err)
{
	struct client_round *r = NEW(struct client_round);
	struct lpm *pins = lpm_new();
	uint64_t rows = 0;
	forget_quiet(m, now_us);
	settle(m, now_us);
	r->change = m->change;
	rng_init(&r->rng, seed);
	int rc = take_pins(nodes, steer, r, pins, err);
	r->site_count = map_distances_all(nodes)->count;
	r->sites = mem_new(r->site_count * sizeof(*r->sites) + 1);
	r->capacities = mem_new(r->site_count * sizeof(*r->capacities) + 1);
	r->row_count = r->site_count;
	r->rows = mem_new((r->site_count + (size_t)m->count) * sizeof(*r->rows) + 1);
	size_up_sites(m, nodes, steer, now_us, r);
	take_units(m, nodes, pins, now_us, r);
	lpm_free(pins);
	if (rc == 0)
		rc = take_rows(nodes, r, &rows, err);
	if (rc == 0)
		take_measured(m, nodes, r, rows, now_us);
	if (rc < 0) {
		client_round_free(r);
		return rc;
	}
	*ret_round = r;
	return 0;
}

void client_round_free(struct client_round *r)
{
	if (!r)
		return;
	for (uint32_t i = 0; i < r->row_count; i++)
		free(r->rows[i]);
	free(r->rows);
	free(r->units);
	free(r->index);
	free(r->bases);
	free(r->prefixes);
	free(r->capacities);
	free(r->sites);
	free(r->list);
	lpm_free(r->named);
	free(r);
}

/* ---- made, taken ----------------------------------------------------------------------------- */

static struct lpm *lpm_of(const struct client_named *list, uint32_t count)
{
	struct lpm *l = count > 0 ? lpm_new() : NULL;
	for (uint32_t i = 0; i < count; i++)
		lpm_set(l, &list[i].prefix, list[i].site); /* fewer than its limit, see below */
	if (l)
		lpm_seal(l);
	return l;
}

_Static_assert(LIMIT_DEMAND_PREFIXES + LIMIT_STEERS < LIMIT_ZONES, "all that can be named has room");

void client_round_make(struct client_round *r)
{
	const struct making_input in = {.units = r->units,
	                                .unit_count = r->unit_count,
	                                .capacities = r->capacities,
	                                .site_count = r->site_count,
	                                .rows = (const uint32_t *const *)r->rows,
	                                .home_count = r->row_count};
	if (!r->hold)
		r->rc = map_make(&in, &r->rng, &r->result, &r->err); /* failed: units are as they were */
	r->list = mem_resize(r->list, r->pin_count + r->unit_count + 1u, sizeof(*r->list));
	for (uint32_t i = 0; i < r->unit_count; i++) {
		const struct making_unit *u = &r->units[i];
		if (u->named == MAKING_NONE || (u->pin != MAKING_NONE && (r->hold || r->rc < 0)))
			continue; /* a pin stands in the list */
		r->sites[u->site].demand += u->demand;
		if (u->named != (u->pin != MAKING_NONE ? u->pin : r->bases[i]))
			r->list[r->list_count++] = (struct client_named){r->prefixes[i], u->named};
	}
	r->named = lpm_of(r->list, r->list_count);
}

static bool same_list(const struct client_named *a, uint32_t a_count, const struct client_named *b, uint32_t b_count)
{
	bool same = a_count == b_count;
	for (uint32_t i = 0; i < a_count && same; i++)
		same = a[i].site == b[i].site && ip_prefix_equal(&a[i].prefix, &b[i].prefix);
	return same;
}

int client_map_take(struct client_map *m, struct client_round *r, bool *ret_changed, struct lpm **ret_named,
                    struct error *err)
{
	*ret_changed = false;
	if (r->change != m->change)
		return error_set(err, E_CONFLICT, "something was said after the round began");
	for (uint32_t i = 0; i < r->unit_count; i++) {
		struct client_unit *u = &m->units[r->index[i]];
		u->site = r->units[i].site;
		u->named = r->units[i].named;
	}
	if (!same_list(m->named, m->named_count, r->list, r->list_count)) {
		m->number++;
		free(m->named);
		m->named = r->list;
		m->named_count = r->list_count;
		*ret_named = r->named;
		*ret_changed = true;
		r->list = NULL;
		r->named = NULL;
	}
	return r->rc < 0 ? error_set(err, r->rc, "%s", r->err.text) : 0;
}

/* ---- over restarts --------------------------------------------------------------------------- */

void client_map_format(const struct client_map *m, const struct node_map *nodes, struct buf *out)
{
	buf_printf(out, "{\"number\":%llu,\"named\":[", (unsigned long long)m->number);
	for (uint32_t i = 0; i < m->named_count; i++) {
		char text[IP_TEXT_SIZE];
		ip_format(&m->named[i].prefix.ip, text);
		buf_printf(out, "%s{\"prefix\":\"%s/%u\",\"site\":", i > 0 ? ",\n" : "\n", text,
		           m->named[i].prefix.length);
		buf_append_json(out, distances_site_name(map_distances_all(nodes), m->named[i].site));
		buf_append_str(out, STR("}"));
	}
	buf_append_str(out, STR("]}\n"));
}

static int named_parse(struct client_map *m, yyjson_val *item, struct node_map *nodes, int64_t now_us,
                       struct error *err)
{
	struct client_named *n = &m->named[m->named_count];
	struct str prefix = {0}, site = {0};
	int rc;
	if ((rc = json_str(item, "prefix", &prefix, err)) < 0 || (rc = json_str(item, "site", &site, err)) < 0)
		return rc;
	if (site.len == 0 || ip_prefix_parse(prefix, &n->prefix) < 0)
		return error_set(err, E_INVAL, "a line needs a \"prefix\" and a \"site\"");
	if ((rc = node_map_site(nodes, site, &n->site, err)) < 0)
		return rc;
	m->named_count++;
	const struct ip_prefix whole = demand_prefix(&n->prefix.ip);
	struct client_unit *u = ip_prefix_equal(&whole, &n->prefix) ? unit_of(m, &whole) : NULL;
	if (u) {
		u->site = u->named = n->site;
		u->seen_us = now_us;
	}
	return 0;
}

int client_map_parse(struct client_map *m, struct str json, struct node_map *nodes, int64_t now_us,
                     struct lpm **ret_named, struct error *err)
{
	struct client_map fresh = {0};
	yyjson_doc *doc;
	yyjson_val *list = NULL, *item;
	int64_t number = 0;
	size_t i, n;
	int rc = json_parse(json, &doc, err);
	if (rc < 0)
		return rc;
	if (!yyjson_is_obj(yyjson_doc_get_root(doc)))
		rc = error_set(err, E_INVAL, "a map of clients must be a JSON object");
	else if ((rc = json_i64(yyjson_doc_get_root(doc), "number", 0, INT64_MAX, &number, err)) == 0)
		rc = json_arr(yyjson_doc_get_root(doc), "named", &list, err);
	if (rc == 0 && list && yyjson_arr_size(list) > LIMIT_DEMAND_PREFIXES + LIMIT_STEERS)
		rc = error_set(err, E_LIMIT, "%zu prefixes; more than are ever named", yyjson_arr_size(list));
	if (rc == 0 && list) {
		fresh.named = mem_resize(NULL, yyjson_arr_size(list) + 1, sizeof(*fresh.named));
		yyjson_arr_foreach(list, i, n, item)
		{
			if (rc == 0)
				rc = named_parse(&fresh, item, nodes, now_us, err);
		}
	}
	yyjson_doc_free(doc);
	if (rc < 0) {
		client_map_fini(&fresh);
		return rc;
	}
	fresh.number = (uint64_t)number;
	fresh.change = m->change;
	*ret_named = lpm_of(fresh.named, fresh.named_count);
	client_map_fini(m);
	*m = fresh;
	return 0;
}
