/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes sit in a dense array and are found by a hash of their id; models likewise, each with its places
 * (node_map_index.h). A report that names the same models in the same order, the usual case, updates its places in
 * place. Distances live in distance.c. Versions count what a reader would care about: a report that only renews its
 * number does not. */
#include "core/coverage.h"
#include "core/distance.h"
#include "core/node_map_index.h"

#include "base/json.h"
#include "base/limits.h"

#include <stdlib.h>

#define REFUSED_DOWN_US (1000 * INT64_C(1000))
#define TIMEOUT_SUSPECT_US (1000 * INT64_C(1000))
#define TIMEOUTS_COUNTED 10
#define AGE_MOST_US INT64_C(1000000000000000) /* what a publisher may say; keeps sums far from overflow */

struct zone {
	struct ip_prefix prefix;
	uint32_t site;
};

struct node_map {
	struct map_node **nodes;
	struct map_hot *hots;
	uint32_t count, cap;
	struct hash_index by_id;

	struct map_model *models;
	uint32_t model_count, model_cap, model_free; /* free slots are few: searched */
	struct hash_index by_model;

	struct distances distances; /* and the names of sites */
	struct zone *zones;
	size_t zone_count;
	struct lpm *lpm, *named;
	bool *closed_sites;
	uint32_t closed_cap;

	uint64_t version;
	bool copy; /* made by node_map_parse */
};

struct node_map *node_map_new(void)
{
	struct node_map *m = NEW(struct node_map);
	m->lpm = lpm_new();
	return m;
}

static void node_free(struct map_node *n)
{
	node_report_fini(&n->entry.report);
	free(n->links);
	free(n);
}

void node_map_free(struct node_map *m)
{
	if (!m)
		return;
	for (uint32_t i = 0; i < m->count; i++)
		node_free(m->nodes[i]);
	for (uint32_t i = 0; i < m->model_count; i++) {
		free(m->models[i].name);
		free(m->models[i].places);
		free(m->models[i].keys);
	}
	free(m->nodes);
	free(m->hots);
	free(m->models);
	free(m->zones);
	hash_index_fini(&m->by_id);
	hash_index_fini(&m->by_model);
	distances_fini(&m->distances);
	lpm_free(m->lpm);
	lpm_free(m->named);
	free(m->closed_sites);
	free(m);
}

uint64_t node_map_version(const struct node_map *m)
{
	return m->version;
}

/* ---- models ---------------------------------------------------------------------------------- */

static uint32_t model_lookup(const struct node_map *m, struct str name, uint64_t hash)
{
	uint32_t at;
	for (size_t cursor = 0; hash_index_next(&m->by_model, hash, &cursor, &at);) {
		if (str_equal(str_from(m->models[at].name), name))
			return at;
	}
	return MAP_NONE;
}

const struct map_model *map_model_find(const struct node_map *m, struct str name_tag)
{
	char full[NODE_TEXT_SIZE + sizeof(":latest")];
	if (name_tag.len == 0 || name_tag.len >= NODE_TEXT_SIZE)
		return NULL;
	if (!memchr(name_tag.base, ':', name_tag.len)) {
		memcpy(full, name_tag.base, name_tag.len);
		memcpy(full + name_tag.len, ":latest", 7);
		name_tag = (struct str){full, name_tag.len + 7};
	}
	uint32_t at = model_lookup(m, name_tag, hash_str(name_tag));
	return at == MAP_NONE ? NULL : &m->models[at];
}

const struct map_place *map_place_find(const struct node_map *m, uint32_t node, const struct map_model *model)
{
	const struct map_node *n = m->nodes[node];
	for (size_t i = 0; i < n->link_count; i++) {
		if (n->links[i].model != MAP_NONE && &m->models[n->links[i].model] == model)
			return &model->places[n->links[i].place];
	}
	return NULL;
}

bool model_label(struct str name, char ret_label[static MODEL_LABEL_SIZE])
{
	size_t len = 0;
	bool gap = false;
	for (size_t i = 0; i < name.len; i++) {
		char c = name.base[i];
		if (c >= 'A' && c <= 'Z')
			c = (char)(c + 32);
		if (!(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9')) {
			gap = len > 0;
			continue;
		}
		if (len + gap + 1 >= MODEL_LABEL_SIZE)
			return false;
		if (gap)
			ret_label[len++] = '-';
		ret_label[len++] = c;
		gap = false;
	}
	ret_label[len] = '\0';
	return len > 0;
}

size_t map_model_labels(const struct map_model *model, char ret_labels[static 2][MODEL_LABEL_SIZE])
{
	struct str tag, full = str_from(model->name), bare = str_cut(full, ':', &tag);
	size_t count = model_label(full, ret_labels[0]);
	if (str_equal(tag, STR("latest")))
		count += model_label(bare, ret_labels[count]);
	return count;
}

static uint32_t model_of(struct node_map *m, struct str name)
{
	uint64_t hash = hash_str(name);
	uint32_t at = model_lookup(m, name, hash);
	if (at != MAP_NONE)
		return at;
	if (m->model_free > 0) {
		for (at = 0; m->models[at].name; at++)
			;
		m->model_free--;
	} else {
		if (m->model_count == m->model_cap) {
			m->model_cap = m->model_cap ? m->model_cap * 2 : 16;
			m->models = mem_resize(m->models, m->model_cap, sizeof(*m->models));
		}
		at = m->model_count++;
	}
	m->models[at] = (struct map_model){.name = str_dup(name), .hash = hash};
	hash_index_add(&m->by_model, hash, at);
	return at;
}

static void link_remove(struct node_map *m, struct map_link *link)
{
	if (link->model == MAP_NONE)
		return;
	struct map_model *model = &m->models[link->model];
	struct map_place *hole = &model->places[link->place], *last = &model->places[model->count - 1];
	if (hole != last) {
		*hole = *last;
		model->keys[link->place] = model->keys[model->count - 1];
		m->nodes[hole->node]->links[hole->link].place = link->place;
	}
	if (--model->count > 0)
		return;
	hash_index_remove(&m->by_model, model->hash, link->model);
	free(model->name);
	free(model->places);
	free(model->keys);
	*model = (struct map_model){0};
	m->model_free++;
}

static void links_drop(struct node_map *m, struct map_node *n)
{
	for (size_t i = 0; i < n->link_count; i++)
		link_remove(m, &n->links[i]);
	free(n->links);
	n->links = NULL;
	n->link_count = 0;
}

static void links_make(struct node_map *m, struct map_node *n, uint32_t at)
{
	const struct node_report *r = &n->entry.report;
	n->links = r->model_count ? mem_resize(NULL, r->model_count, sizeof(*n->links)) : NULL;
	for (size_t i = 0; i < r->model_count; i++) {
		uint32_t model_at = model_of(m, str_from(r->models[i].name));
		struct map_model *model = &m->models[model_at];
		n->link_count = i + 1;
		n->links[i] = (struct map_link){MAP_NONE, MAP_NONE};
		/* A name repeated: this node came last. The first line counts. */
		if (model->count > 0 && model->places[model->count - 1].node == at)
			continue;
		if (model->count == model->cap) {
			model->cap = model->cap ? model->cap * 2 : 4;
			model->places = mem_resize(model->places, model->cap, sizeof(*model->places));
			model->keys = mem_resize(model->keys, model->cap, sizeof(*model->keys));
		}
		n->links[i] = (struct map_link){model_at, model->count};
		model->places[model->count] = (struct map_place){.node = at, .link = (uint32_t)i};
		place_load(model, model->count++, &r->models[i], m->hots[at].site);
	}
}

static bool same_models(const struct node_report *a, const struct node_report *b)
{
	if (a->model_count != b->model_count)
		return false;
	for (size_t i = 0; i < a->model_count; i++) {
		if (strcmp(a->models[i].name, b->models[i].name) != 0)
			return false;
	}
	return true;
}

static void links_update(struct node_map *m, struct map_node *n, uint32_t at)
{
	for (size_t i = 0; i < n->link_count; i++) {
		struct map_link *link = &n->links[i];
		if (link->model != MAP_NONE)
			place_load(&m->models[link->model], link->place, &n->entry.report.models[i], m->hots[at].site);
	}
}

/* ---- nodes ----------------------------------------------------------------------------------- */

uint32_t map_node_find(const struct node_map *m, struct str id)
{
	uint32_t at;
	uint64_t hash = hash_str(id);
	for (size_t cursor = 0; hash_index_next(&m->by_id, hash, &cursor, &at);) {
		if (str_equal(str_from(m->nodes[at]->entry.report.id), id))
			return at;
	}
	return MAP_NONE;
}

static uint32_t node_add(struct node_map *m, struct str id)
{
	if (m->count == m->cap) {
		m->cap = m->cap ? m->cap * 2 : 16;
		m->nodes = mem_resize(m->nodes, m->cap, sizeof(struct map_node *));
		m->hots = mem_resize(m->hots, m->cap, sizeof(*m->hots));
	}
	struct map_node *n = NEW(struct map_node);
	n->hash = hash_str(id);
	hash_index_add(&m->by_id, n->hash, m->count);
	m->nodes[m->count] = n;
	return m->count++;
}

/* The host of a URL when it is an address, and how it is spoken to. */
static void hot_address(struct map_hot *h, struct str url)
{
	struct str rest, host, after, port = {0};
	uint64_t number;
	h->api_tls = str_starts(url, STR("https://"));
	h->api_port = h->api_tls ? 443 : 80;
	rest = h->api_tls                        ? (struct str){url.base + 8, url.len - 8}
	       : str_starts(url, STR("http://")) ? (struct str){url.base + 7, url.len - 7}
	                                         : (struct str){0};
	host = str_cut(rest, '/', &after);
	if (host.len > 0 && host.base[0] == '[') {
		host = str_cut((struct str){host.base + 1, host.len - 1}, ']', &after);
		if (after.len > 0 && after.base[0] == ':')
			port = (struct str){after.base + 1, after.len - 1};
	} else {
		host = str_cut(host, ':', &port);
	}
	if (port.len > 0 && str_to_u64(port, &number) == 0 && number > 0 && number < 65536)
		h->api_port = (uint16_t)number;
	if (ip_parse(host, &h->api) < 0)
		h->api = (struct ip){0};
}

static void hot_queue(struct node_map *m, uint32_t at)
{
	struct map_hot *h = &m->hots[at];
	h->least_queue_us = -1;
	for (size_t i = 0; i < m->nodes[at]->link_count; i++) {
		const struct map_link *link = &m->nodes[at]->links[i];
		if (link->model == MAP_NONE)
			continue;
		const struct map_place *p = &m->models[link->model].places[link->place];
		if (p->ready && (h->least_queue_us < 0 || p->queue_us < h->least_queue_us))
			h->least_queue_us = p->queue_us;
	}
}

static bool is_closed(const struct node_map *m, uint32_t at)
{
	uint32_t site = m->hots[at].site;
	return m->nodes[at]->closed || (site < m->closed_cap && m->closed_sites[site]);
}

static void hot_update(struct node_map *m, uint32_t at)
{
	const struct node_entry *e = &m->nodes[at]->entry;
	struct map_hot *h = &m->hots[at];
	h->received_us = e->received_us;
	h->refused_us = e->refused_us;
	h->timeout_us = e->timeout_us;
	h->timeouts = e->timeouts;
	h->said_down = e->said_down;
	h->said_suspect = e->said_suspect;
	h->draining = e->report.state == NODE_DRAINING || is_closed(m, at);
	h->starting = e->report.state == NODE_STARTING;
	h->has_api = e->report.api_url[0] != '\0';
	hot_address(h, str_from(e->report.api_url));
	hot_queue(m, at);
}

static bool is_newer(const struct node_report *r, const struct node_report *held)
{
	return r->boot != held->boot ? r->boot > held->boot : r->seq > held->seq;
}

static bool same_array(const void *a, size_t a_count, const void *b, size_t b_count, size_t size)
{
	return a_count == b_count && (a_count == 0 || memcmp(a, b, a_count * size) == 0);
}

/* Equal but for number and time. */
static bool says_the_same(const struct node_report *a, const struct node_report *b)
{
	return a->boot == b->boot && a->state == b->state && a->roles == b->roles && strcmp(a->name, b->name) == 0 &&
	       strcmp(a->site, b->site) == 0 && strcmp(a->node_url, b->node_url) == 0 &&
	       strcmp(a->api_url, b->api_url) == 0 &&
	       same_array(a->models, a->model_count, b->models, b->model_count, sizeof(*a->models)) &&
	       same_array(a->seen, a->seen_count, b->seen, b->seen_count, sizeof(*a->seen)) &&
	       same_array(a->rtts, a->rtt_count, b->rtts, b->rtt_count, sizeof(*a->rtts));
}

static int seen_order(const void *a, const void *b)
{
	return strcmp(((const struct node_seen *)a)->id, ((const struct node_seen *)b)->id);
}

static void seen_sort(struct node_report *r)
{
	for (size_t i = 1; i < r->seen_count; i++) {
		if (seen_order(&r->seen[i - 1], &r->seen[i]) > 0) {
			qsort(r->seen, r->seen_count, sizeof(*r->seen), seen_order);
			return;
		}
	}
}

uint64_t map_seen(const struct map_node *n, struct str self)
{
	struct node_seen key;
	if (n->entry.report.seen_count == 0 || !str_copy(self, key.id, sizeof(key.id)))
		return 0;
	const struct node_seen *s =
	    bsearch(&key, n->entry.report.seen, n->entry.report.seen_count, sizeof(key), seen_order);
	return s ? s->dispatched : 0;
}

static void take_rtts(struct node_map *m, uint32_t at, int64_t now_us)
{
	const struct node_report *r = &m->nodes[at]->entry.report;
	for (size_t i = 0; i < r->rtt_count; i++) {
		uint32_t to = map_node_find(m, str_from(r->rtts[i].id));
		if (to != MAP_NONE && to != at)
			distances_measured(&m->distances, m->hots[at].site, m->hots[to].site, r->rtts[i].rtt_us,
			                   now_us);
	}
}

int node_map_report(struct node_map *m, const struct node_report *r, int64_t now_us, struct error *err)
{
	struct str id = str_from(r->id);
	uint32_t at = map_node_find(m, id), site;
	if (id.len == 0)
		return error_set(err, E_INVAL, "the report has no \"id\"; it is required");
	if (at == MAP_NONE && m->count >= LIMIT_NODES)
		return error_set(err, E_LIMIT, "the map holds %d nodes, its limit; remove some from the network",
		                 LIMIT_NODES);
	if (at != MAP_NONE && !is_newer(r, &m->nodes[at]->entry.report))
		return error_set(err, E_CONFLICT, "a newer report of node %s is already here", r->id);
	int rc = distances_site(&m->distances, str_from(r->site), &site, err);
	if (rc < 0)
		return rc;
	struct node_report copy;
	if ((rc = node_report_copy(r, &copy)) < 0)
		return error_set(err, rc, "the report of node %s is larger than the limits allow", r->id);
	seen_sort(&copy);

	bool fresh = at == MAP_NONE;
	if (fresh)
		at = node_add(m, id);
	struct map_node *n = m->nodes[at];
	struct node_report old = n->entry.report;
	bool same_shape = !fresh && same_models(&old, &copy);
	m->version += fresh || !says_the_same(&old, &copy);
	n->entry.report = copy;
	n->entry.received_us = now_us;
	m->hots[at].site = site;
	if (same_shape) {
		links_update(m, n, at);
	} else {
		links_drop(m, n);
		links_make(m, n, at);
	}
	node_report_fini(&old);
	hot_update(m, at);
	take_rtts(m, at, now_us);
	return 0;
}

void node_map_remove(struct node_map *m, struct str id)
{
	uint32_t at = map_node_find(m, id);
	if (at == MAP_NONE)
		return;
	struct map_node *n = m->nodes[at];
	links_drop(m, n);
	hash_index_remove(&m->by_id, n->hash, at);
	uint32_t last = --m->count;
	if (at != last) {
		struct map_node *moved = m->nodes[last];
		hash_index_remove(&m->by_id, moved->hash, last);
		hash_index_add(&m->by_id, moved->hash, at);
		m->nodes[at] = moved;
		m->hots[at] = m->hots[last];
		for (size_t i = 0; i < moved->link_count; i++) {
			if (moved->links[i].model != MAP_NONE)
				m->models[moved->links[i].model].places[moved->links[i].place].node = at;
		}
	}
	node_free(n);
	m->version++;
}

void node_map_evidence(struct node_map *m, struct str id, enum node_evidence e, int64_t now_us)
{
	uint32_t at = map_node_find(m, id);
	if (at == MAP_NONE)
		return;
	struct node_entry *entry = &m->nodes[at]->entry;
	bool changed = e != EVIDENCE_OK || entry->refused_us || entry->timeouts;
	switch (e) {
	case EVIDENCE_OK:
		entry->refused_us = entry->timeout_us = 0;
		entry->timeouts = 0;
		break;
	case EVIDENCE_REFUSED:
		entry->refused_us = now_us;
		break;
	case EVIDENCE_TIMEOUT:
		entry->timeout_us = now_us;
		if (entry->timeouts < UINT32_MAX)
			entry->timeouts++;
		break;
	}
	m->version += changed;
	hot_update(m, at);
}

void node_map_keep_evidence(struct node_map *m, const struct node_map *before)
{
	for (uint32_t i = 0; i < before->count; i++) {
		const struct node_entry *old = &before->nodes[i]->entry;
		if (!old->refused_us && !old->timeouts)
			continue;
		uint32_t at = map_node_find(m, str_from(old->report.id));
		if (at == MAP_NONE)
			continue;
		struct node_entry *entry = &m->nodes[at]->entry;
		entry->refused_us = old->refused_us;
		entry->timeout_us = old->timeout_us;
		entry->timeouts = old->timeouts;
		hot_update(m, at);
	}
}

void node_map_estimate(struct node_map *m, size_t own, int64_t now_us)
{
	double all = 0;
	for (uint32_t i = 0; i < m->model_count; i++)
		for (uint32_t k = 0; k < m->models[i].count; k++)
			all += m->models[i].places[k].busy;
	double share = (double)own < all ? (double)own / all : 1;
	for (uint32_t i = 0; i < m->model_count; i++)
		places_estimate(&m->models[i], m->hots, m->copy, share, now_us);
	for (uint32_t i = 0; i < m->count; i++)
		hot_queue(m, i);
}

size_t node_map_stale(const struct node_map *m, int64_t now_us)
{
	size_t count = 0;
	for (uint32_t i = 0; i < m->count; i++)
		count += now_us - m->hots[i].received_us > NODE_STALE_AGE_US;
	return count;
}

/* The held entry, as it is, in place of what the copy says of that node. */
static uint32_t take_over(struct node_map *m, const struct node_entry *held)
{
	if (node_map_report(m, &held->report, held->received_us, NULL) < 0)
		return MAP_NONE;
	uint32_t at = map_node_find(m, str_from(held->report.id));
	m->nodes[at]->entry.told_seq = held->told_seq;
	return at;
}

static void judge(struct node_map *m, uint32_t at, bool down, bool suspect)
{
	m->nodes[at]->entry.said_down = down;
	m->nodes[at]->entry.said_suspect = suspect;
	hot_update(m, at);
}

static void merge_node(struct node_map *m, uint32_t at, const struct node_entry *held, bool recent)
{
	const struct node_entry told = m->nodes[at]->entry;
	bool same_boot = told.report.boot == held->report.boot;
	bool newer = same_boot ? held->told_seq > told.told_seq : held->report.boot > told.report.boot;
	bool same = same_boot && held->told_seq == told.told_seq;
	if (!newer && !same)
		return;
	take_over(m, held); /* of the same report: what replies told since */
	if (newer && recent)
		judge(m, at, held->said_down, held->said_suspect);
	else
		judge(m, at, told.said_down || (same && held->said_down),
		      told.said_suspect || (same && held->said_suspect));
}

void node_map_merge(struct node_map *m, const struct node_map *before, bool young, int64_t now_us)
{
	uint64_t version = m->version;
	for (uint32_t i = 0; i < before->count; i++) {
		const struct node_entry *held = &before->nodes[i]->entry;
		uint32_t at = map_node_find(m, str_from(held->report.id));
		bool recent = now_us - held->received_us < NODE_DISPUTE_US;
		if (at != MAP_NONE)
			merge_node(m, at, held, recent);
		else if ((recent || young) && (at = take_over(m, held)) != MAP_NONE)
			judge(m, at, held->said_down, held->said_suspect);
	}
	node_map_keep_evidence(m, before);
	m->version = version;
}

void node_map_slept(struct node_map *m, int64_t us)
{
	for (uint32_t i = 0; i < m->count; i++) {
		m->nodes[i]->entry.received_us += us;
		m->hots[i].received_us += us;
	}
}

size_t node_map_count(const struct node_map *m)
{
	return m->count;
}

const struct node_entry *node_map_at(const struct node_map *m, size_t i)
{
	return &m->nodes[i]->entry;
}

const struct map_node *map_node_at(const struct node_map *m, uint32_t i)
{
	return m->nodes[i];
}

const struct map_hot *map_hots(const struct node_map *m)
{
	return m->hots;
}

const struct node_entry *node_map_find(const struct node_map *m, struct str id)
{
	uint32_t at = map_node_find(m, id);
	return at == MAP_NONE ? NULL : &m->nodes[at]->entry;
}

const struct model_report *node_model(const struct node_entry *e, struct str name_tag)
{
	struct str tag, name = str_cut(name_tag, ':', &tag);
	if (name.len == name_tag.len)
		tag = STR("latest");
	for (size_t i = 0; i < e->report.model_count; i++) {
		struct str its_tag, its_name = str_cut(str_from(e->report.models[i].name), ':', &its_tag);
		if (str_equal(its_name, name) && str_equal(its_tag, tag))
			return &e->report.models[i];
	}
	return NULL;
}

/* ---- health ---------------------------------------------------------------------------------- */

enum node_health map_health(const struct node_map *m, const struct map_hot *h, int64_t now_us)
{
	return map_hot_health(h, m->copy, now_us);
}

bool map_is_copy(const struct node_map *m)
{
	return m->copy;
}

enum node_health map_hot_health(const struct map_hot *h, bool copy, int64_t now_us)
{
	int64_t age_us = now_us - h->received_us;
	if (h->said_down || (!copy && age_us > NODE_DOWN_AGE_US))
		return NODE_DOWN;
	if (h->refused_us && h->refused_us > h->received_us && now_us - h->refused_us < REFUSED_DOWN_US)
		return NODE_DOWN;
	if (h->said_suspect || (!copy && age_us > NODE_SUSPECT_AGE_US))
		return NODE_SUSPECT;
	int64_t counted = h->timeouts < TIMEOUTS_COUNTED ? h->timeouts : TIMEOUTS_COUNTED;
	return now_us - h->timeout_us < counted * TIMEOUT_SUSPECT_US ? NODE_SUSPECT : NODE_UP;
}

enum node_health node_map_health(const struct node_map *m, const struct node_entry *e, int64_t now_us)
{
	const struct map_hot h = {
	    .received_us = e->received_us,
	    .refused_us = e->refused_us,
	    .timeout_us = e->timeout_us,
	    .timeouts = e->timeouts,
	    .said_down = e->said_down,
	    .said_suspect = e->said_suspect,
	};
	return map_health(m, &h, now_us);
}

const char *node_health_name(enum node_health h)
{
	return h == NODE_UP ? "up" : h == NODE_SUSPECT ? "suspect" : "down";
}

/* ---- where clients and sites are ------------------------------------------------------------- */

static int zone_parse(struct node_map *m, struct str line, struct zone *ret_zone, struct error *err)
{
	struct str site, prefix = str_trim(str_cut(line, '=', &site));
	site = str_trim(site);
	if (site.len == 0 || ip_prefix_parse(prefix, &ret_zone->prefix) < 0)
		return error_set(err, E_INVAL,
		                 "zone \"" STR_FMT
		                 "\": write PREFIX=SITE, such as 10.1.0.0/16=west, without bits past the length",
		                 (int)(line.len < 128 ? line.len : 128), line.base ? line.base : "");
	return distances_site(&m->distances, site, &ret_zone->site, err);
}

/* From the last on, so that of one prefix twice the first counts. */
static int coverage_nets(struct node_map *m, const struct coverage *c, struct lpm *lpm, struct zone *list,
                         struct error *err)
{
	int rc = 0;
	uint32_t *sites = mem_resize(NULL, c->zone_count + 1u, sizeof(*sites));
	for (uint32_t i = 0; i < c->zone_count && rc == 0; i++)
		rc = distances_site(&m->distances, str_from(c->zones[i].site), &sites[i], err);
	for (uint32_t i = c->net_count; i-- > 0 && rc == 0;) {
		list[i] = (struct zone){c->nets[i].prefix, sites[c->nets[i].zone]};
		rc = lpm_set(lpm, &list[i].prefix, list[i].site);
	}
	for (uint32_t i = 0; i < c->zone_count && rc == 0; i++) {
		if (c->zones[i].placed)
			distances_place(&m->distances, sites[i], c->zones[i].latitude, c->zones[i].longitude);
	}
	free(sites);
	return rc;
}

int node_map_set_places(struct node_map *m, const struct coverage *coverage, const struct str *zones, size_t count,
                        struct error *err)
{
	static const struct coverage none;
	const struct coverage *c = coverage ? coverage : &none;
	size_t total = c->net_count + count;
	if (total > LIMIT_ZONES)
		return error_set(err, E_LIMIT, "%zu zones; at most %d are taken", total, LIMIT_ZONES);
	struct zone *list = mem_resize(NULL, total + 1, sizeof(*list));
	struct lpm *lpm = lpm_new();
	distances_unplace(&m->distances);
	int rc = coverage_nets(m, c, lpm, list, err);
	for (size_t i = 0; i < count && rc == 0; i++) {
		struct zone *z = &list[c->net_count + i];
		if ((rc = zone_parse(m, zones[i], z, err)) == 0)
			rc = lpm_set(lpm, &z->prefix, z->site);
	}
	if (rc < 0) {
		free(list);
		lpm_free(lpm);
		return rc;
	}
	lpm_seal(lpm);
	lpm_free(m->lpm);
	free(m->zones);
	m->lpm = lpm;
	m->zones = list;
	m->zone_count = total;
	m->version++;
	return 0;
}

int node_map_set_zones(struct node_map *m, const struct str *zones, size_t count, struct error *err)
{
	return node_map_set_places(m, NULL, zones, count, err);
}

int node_map_set_distances(struct node_map *m, const struct str *distances, size_t count, struct error *err)
{
	int rc = distances_configure(&m->distances, distances, count, err);
	if (rc == 0)
		m->version++;
	return rc;
}

int node_map_close_site(struct node_map *m, struct str site, bool closed, struct error *err)
{
	uint32_t at;
	int rc = distances_site(&m->distances, site, &at, err);
	if (rc < 0)
		return rc;
	if (at >= m->closed_cap) {
		uint32_t cap = m->distances.cap;
		m->closed_sites = mem_resize(m->closed_sites, cap, sizeof(*m->closed_sites));
		memset(m->closed_sites + m->closed_cap, 0, (cap - m->closed_cap) * sizeof(*m->closed_sites));
		m->closed_cap = cap;
	}
	if (m->closed_sites[at] == closed)
		return 0;
	m->closed_sites[at] = closed;
	m->version++;
	for (uint32_t i = 0; i < m->count; i++) {
		if (m->hots[i].site == at)
			hot_update(m, i);
	}
	return 0;
}

void node_map_close_node(struct node_map *m, struct str id, bool closed)
{
	uint32_t at = map_node_find(m, id);
	if (at == MAP_NONE || m->nodes[at]->closed == closed)
		return;
	m->nodes[at]->closed = closed;
	m->version++;
	hot_update(m, at);
}

int node_map_site(struct node_map *m, struct str name, uint32_t *ret_site, struct error *err)
{
	return distances_site(&m->distances, name, ret_site, err);
}

void node_map_set_named(struct node_map *m, struct lpm *named)
{
	lpm_free(m->named);
	m->named = named;
	m->version++;
}

/* Neither speaks for more than the region where it has one answer. */
uint32_t map_find_site(const struct lpm *named, const struct lpm *zones, const struct ip *client, uint8_t *ret_scope)
{
	uint32_t site;
	uint8_t scope = 0;
	if (named && lpm_find(named, client, &site, &scope)) {
		*ret_scope = scope;
		return site;
	}
	bool found = lpm_find(zones, client, &site, ret_scope);
	if (scope > *ret_scope)
		*ret_scope = scope;
	return found ? site : MAP_NONE;
}

bool node_map_site_of(const struct node_map *m, const struct ip *client, struct str *ret_site, uint8_t *ret_scope)
{
	uint32_t site = map_find_site(m->named, m->lpm, client, ret_scope);
	if (site == MAP_NONE)
		return false;
	*ret_site = distances_site_name(&m->distances, site);
	return true;
}

size_t map_model_count(const struct node_map *m)
{
	return m->model_count;
}

const struct map_model *map_model_at(const struct node_map *m, size_t i)
{
	return &m->models[i];
}

struct lpm *map_zones(const struct node_map *m)
{
	return m->lpm;
}

struct lpm *map_named(const struct node_map *m)
{
	return m->named;
}

const struct distances *map_distances_all(const struct node_map *m)
{
	return &m->distances;
}

uint32_t map_site_find(const struct node_map *m, struct str site)
{
	return distances_site_find(&m->distances, site);
}

const uint32_t *map_distances(const struct node_map *m, uint32_t site)
{
	return distances_from(&m->distances, site);
}

int64_t node_map_distance_us(const struct node_map *m, struct str from_site, const struct node_entry *to)
{
	uint32_t from = distances_site_find(&m->distances, from_site);
	uint32_t site = distances_site_find(&m->distances, str_from(to->report.site));
	if (from == MAP_NONE || site == MAP_NONE)
		return NODE_DISTANCE_UNKNOWN_US;
	return distances_between(&m->distances, from, site);
}

/* ---- wire form ------------------------------------------------------------------------------- */

void node_map_format(const struct node_map *m, int64_t now_us, struct buf *out)
{
	buf_printf(out, "{\"version\":%llu,\"nodes\":[", (unsigned long long)m->version);
	for (uint32_t i = 0; i < m->count; i++) {
		const struct node_entry *e = &m->nodes[i]->entry;
		int64_t age_us = now_us - e->received_us;
		if (i > 0)
			buf_append_str(out, STR(","));
		struct node_report told = e->report; /* shallow */
		if (is_closed(m, i))
			told.state = NODE_DRAINING;
		node_report_format_brief_open(&told, out);
		buf_printf(out, ",\"health\":\"%s\",\"age_us\":%lld}",
		           node_health_name(map_health(m, &m->hots[i], now_us)), (long long)(age_us > 0 ? age_us : 0));
	}
	buf_append_str(out, STR("],\"distances\":["));
	distances_format(&m->distances, out);
	buf_append_str(out, STR("],\"zones\":["));
	for (size_t i = 0; i < m->zone_count && m->zone_count <= ZONES_PUBLISHED_MAX; i++) {
		char text[IP_TEXT_SIZE];
		ip_format(&m->zones[i].prefix.ip, text);
		buf_printf(out, "%s{\"prefix\":\"%s/%u\",\"site\":", i > 0 ? "," : "", text, m->zones[i].prefix.length);
		buf_append_json(out, distances_site_name(&m->distances, m->zones[i].site));
		buf_append_str(out, STR("}"));
	}
	buf_append_str(out, STR("]}"));
}

static int parse_node(struct node_map *m, yyjson_val *item, int64_t now_us, struct error *err)
{
	struct node_report r;
	struct str health = {0};
	int64_t age_us = 0;
	int rc = node_report_from_json(item, &r, err);
	if (rc < 0)
		return rc;
	if ((rc = json_str(item, "health", &health, err)) == 0 &&
	    (rc = json_i64(item, "age_us", 0, INT64_MAX, &age_us, err)) == 0 &&
	    (rc = node_map_report(m, &r, now_us - (age_us < AGE_MOST_US ? age_us : AGE_MOST_US), err)) == 0) {
		uint32_t at = map_node_find(m, str_from(r.id));
		m->nodes[at]->entry.told_seq = r.seq;
		judge(m, at, str_equal(health, STR("down")), str_equal(health, STR("suspect")));
	}
	node_report_fini(&r);
	return rc;
}

static int parse_zones(struct node_map *m, yyjson_val *array, struct error *err)
{
	size_t i, n, count = array ? yyjson_arr_size(array) : 0;
	yyjson_val *item;
	if (count > ZONES_PUBLISHED_MAX)
		return error_set(err, E_LIMIT, "the map has %zu zones; at most %d are taken", count,
		                 ZONES_PUBLISHED_MAX);
	if (count == 0)
		return 0;
	m->zones = mem_resize(NULL, count, sizeof(*m->zones));
	yyjson_arr_foreach(array, i, n, item)
	{
		struct str prefix = {0}, site = {0};
		struct zone *z = &m->zones[i];
		int rc;
		if ((rc = json_str(item, "prefix", &prefix, err)) < 0 || (rc = json_str(item, "site", &site, err)) < 0)
			return rc;
		if (ip_prefix_parse(prefix, &z->prefix) < 0)
			return error_set(err, E_INVAL, "\"prefix\" of a zone of the map is not an address prefix");
		if ((rc = distances_site(&m->distances, site, &z->site, err)) < 0)
			return rc;
		if ((rc = lpm_set(m->lpm, &z->prefix, z->site)) < 0)
			return error_set(err, rc, "the zones of the map are past the limit");
		m->zone_count = i + 1;
	}
	lpm_seal(m->lpm);
	return 0;
}

static int parse_map(struct node_map *m, yyjson_val *root, int64_t now_us, struct error *err)
{
	yyjson_val *nodes = NULL, *distances = NULL, *zones = NULL, *item;
	int64_t version = 0;
	size_t i, n;
	int rc;
	if (!yyjson_is_obj(root))
		return error_set(err, E_INVAL, "a map must be a JSON object");
	if ((rc = json_i64(root, "version", 0, INT64_MAX, &version, err)) < 0 ||
	    (rc = json_arr(root, "nodes", &nodes, err)) < 0 ||
	    (rc = json_arr(root, "distances", &distances, err)) < 0 || (rc = json_arr(root, "zones", &zones, err)) < 0)
		return rc;
	if (!nodes)
		return error_set(err, E_INVAL, "the map has no \"nodes\"; it is required");
	yyjson_arr_foreach(nodes, i, n, item)
	{
		rc = parse_node(m, item, now_us, err);
		if (rc < 0 && rc != E_CONFLICT) /* the same node twice: the newer report stays */
			return rc;
	}
	for (uint32_t at = 0; at < m->count; at++)
		take_rtts(m, at, now_us);
	if ((rc = distances_parse(&m->distances, distances, err)) < 0 || (rc = parse_zones(m, zones, err)) < 0)
		return rc;
	m->version = (uint64_t)version;
	m->copy = true;
	return 0;
}

int node_map_parse(struct str json, int64_t now_us, struct node_map **ret_map, struct error *err)
{
	yyjson_doc *doc;
	int rc = json_parse(json, &doc, err);
	if (rc < 0)
		return rc;
	struct node_map *m = node_map_new();
	rc = parse_map(m, yyjson_doc_get_root(doc), now_us, err);
	yyjson_doc_free(doc);
	if (rc < 0) {
		node_map_free(m);
		return rc;
	}
	*ret_map = m;
	return 0;
}
