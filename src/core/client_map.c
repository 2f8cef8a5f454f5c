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

void client_map_tell(struct client_map *m, const struct demand *d, int64_t now_us)
{
	for (uint32_t i = 0; i < d->count; i++) {
		struct client_unit *u = unit_of(m, &d->lines[i].prefix);
		if (!u) {
			m->turned_away++;
			continue;
		}
		u->pending_us += d->lines[i].busy_us;
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

static void take_units(struct client_map *m, const struct node_map *nodes, const struct lpm *pins,
                       struct client_round *r)
{
	r->units = mem_resize(NULL, m->count + 1u, sizeof(*r->units));
	r->index = mem_resize(NULL, m->count + 1u, sizeof(*r->index));
	r->prefixes = mem_resize(NULL, m->count + 1u, sizeof(*r->prefixes));
	for (uint32_t i = 0; i < m->count; i++) {
		const struct client_unit *u = &m->units[i];
		struct making_unit *to = &r->units[r->unit_count];
		uint8_t scope;
		*to = (struct making_unit){.demand = u->demand, .pin = MAKING_NONE, .site = u->site, .named = u->named};
		if (!lpm_find(map_zones(nodes), &u->prefix.ip, &to->home, &scope) || scope > u->prefix.length)
			continue;
		if (!lpm_find(pins, &u->prefix.ip, &to->pin, &scope) || scope > u->prefix.length)
			to->pin = MAKING_NONE;
		r->prefixes[r->unit_count] = u->prefix;
		r->index[r->unit_count++] = i;
	}
}

/* Of the homes that units have. */
static int take_rows(const struct node_map *nodes, struct client_round *r, struct error *err)
{
	uint64_t homes = 0;
	for (uint32_t i = 0; i < r->unit_count; i++) {
		uint32_t **row = &r->rows[r->units[i].home];
		if (*row)
			continue;
		if (++homes * r->site_count > MAP_ROWS_MAX)
			return error_set(err, E_LIMIT,
			                 "clients of %llu sites and %u sites to send them to are too many",
			                 (unsigned long long)homes, r->site_count);
		*row = mem_resize(NULL, r->site_count, sizeof(**row));
		distances_row(map_distances_all(nodes), r->units[i].home, *row);
	}
	return 0;
}

int client_map_begin(struct client_map *m, struct node_map *nodes, const struct steer *steer, int64_t now_us,
                     uint64_t seed, struct client_round **ret_round, struct error *err)
{
	struct client_round *r = NEW(struct client_round);
	struct lpm *pins = lpm_new();
	forget_quiet(m, now_us);
	settle(m, now_us);
	r->change = m->change;
	rng_init(&r->rng, seed);
	int rc = take_pins(nodes, steer, r, pins, err);
	r->site_count = map_distances_all(nodes)->count;
	r->sites = mem_new(r->site_count * sizeof(*r->sites) + 1);
	r->capacities = mem_new(r->site_count * sizeof(*r->capacities) + 1);
	r->rows = mem_new(r->site_count * sizeof(*r->rows) + 1);
	size_up_sites(m, nodes, steer, now_us, r);
	take_units(m, nodes, pins, r);
	lpm_free(pins);
	if (rc == 0)
		rc = take_rows(nodes, r, err);
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
	for (uint32_t i = 0; i < r->site_count; i++)
		free(r->rows[i]);
	free(r->rows);
	free(r->units);
	free(r->index);
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
	                                .home_count = r->site_count};
	r->rc = map_make(&in, &r->rng, &r->result, &r->err);
	if (r->rc < 0)
		return;
	r->list = mem_resize(r->list, r->pin_count + r->unit_count + 1u, sizeof(*r->list));
	for (uint32_t i = 0; i < r->unit_count; i++) {
		const struct making_unit *u = &r->units[i];
		r->sites[u->site].demand += u->demand;
		if (u->named != (u->pin != MAKING_NONE ? u->pin : u->home))
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
	if (r->change != m->change)
		return error_set(err, E_CONFLICT, "something was said after the round began");
	if (r->rc < 0)
		return error_set(err, r->rc, "%s", r->err.text);
	for (uint32_t i = 0; i < r->unit_count; i++) {
		struct client_unit *u = &m->units[r->index[i]];
		u->site = r->units[i].site;
		u->named = r->units[i].named;
	}
	*ret_changed = !same_list(m->named, m->named_count, r->list, r->list_count);
	if (!*ret_changed)
		return 0;
	m->number++;
	free(m->named);
	m->named = r->list;
	m->named_count = r->list_count;
	*ret_named = r->named;
	r->list = NULL;
	r->named = NULL;
	return 0;
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
