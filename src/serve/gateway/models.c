/* SPDX-License-Identifier: Apache-2.0 */
/* How: a list, since a node holds few models. An engine is only freed when no request uses it and never from
 * inside its own callback: model_leave arms the settle timer, which replaces and frees what has become idle. A model
 * being removed is unseen by new requests at once. The list clients see is the union of what is ready here and what the
 * map says is ready on nodes that are not down.
 */
#include "core/hash.h"
#include "serve/gateway/internal.h"

#include <stdio.h>
#include <stdlib.h>

static void on_state(void *arg, enum engine_state state, const struct error *err)
{
	struct model *m = arg;

	m->state = state == ENGINE_READY ? MODEL_READY : state == ENGINE_FAILED ? MODEL_FAILED : MODEL_LOADING;
	snprintf(m->error, sizeof(m->error), "%.255s", err ? err->text : "");
	if (state == ENGINE_READY)
		log_info(ROOM, "model %s is ready", m->name);
	else if (state == ENGINE_FAILED)
		log_error(ROOM, "model %s cannot be used: %s", m->name, m->error);
	gateway_changed(m->g);
}

static int model_start(struct model *m, struct error *err)
{
	struct gateway *g = m->g;
	struct engine_options options = g->engine;
	struct error own = {0};
	struct str hex, algorithm = str_cut(str_from(m->digest), ':', &hex);

	(void)algorithm;
	snprintf(m->fingerprint, sizeof(m->fingerprint), "fp_%.10s", hex.len ? hex.base : "0000000000");
	options.model_path = str_from(m->path);
	options.model_name = str_from(m->name);
	m->state = MODEL_LOADING;
	m->error[0] = '\0';
	int rc = engine_new(g->loop, &options, on_state, m, &m->engine, &own);
	if (rc < 0) {
		m->engine = NULL;
		m->state = MODEL_FAILED;
		snprintf(m->error, sizeof(m->error), "%.255s", own.text);
		if (err)
			*err = own;
	}
	return rc;
}

static void model_stop(struct model *m)
{
	engine_free(m->engine);
	m->engine = NULL;
}

static void model_free(struct model *m)
{
	model_stop(m);
	free(m->path);
	free(m->next_path);
	free(m);
}

static struct model *model_find_exact(const struct gateway *g, struct str name)
{
	for (struct model *m = g->models; m; m = m->next)
		if (str_equal(str_from(m->name), name))
			return m;
	return NULL;
}

struct model *model_find(const struct gateway *g, struct str name)
{
	char full[NODE_TEXT_SIZE + sizeof(":latest")];
	struct model *m;

	if (name.len == 0 || name.len >= NODE_TEXT_SIZE)
		return NULL;
	if (!memchr(name.base, ':', name.len)) {
		snprintf(full, sizeof(full), STR_FMT ":latest", STR_ARG(name));
		name = str_from(full);
	}
	m = model_find_exact(g, name);
	return m && !m->removing ? m : NULL;
}

static void settle_soon(struct gateway *g)
{
	loop_timer_start(g->settle, 0, 0);
}

void model_leave(struct model *m)
{
	if (--m->requests == 0 && (m->removing || m->next_path))
		settle_soon(m->g);
}

static void model_replace(struct model *m)
{
	model_stop(m);
	free(m->path);
	m->path = m->next_path;
	m->next_path = NULL;
	memcpy(m->digest, m->next_digest, sizeof(m->digest));
	struct error err = {0};
	if (model_start(m, &err) < 0)
		log_error(ROOM, "model %s cannot be used: %s", m->name, err.text);
}

void models_settle(struct gateway *g)
{
	bool changed = false;

	for (struct model **at = &g->models; *at;) {
		struct model *m = *at;

		if (m->requests == 0 && m->removing) {
			*at = m->next;
			model_free(m);
			changed = true;
			continue;
		}
		if (m->requests == 0 && m->next_path) {
			model_replace(m);
			changed = true;
		}
		at = &m->next;
	}
	if (changed)
		gateway_changed(g);
}

void models_free(struct gateway *g)
{
	while (g->models) {
		struct model *m = g->models;

		g->models = m->next;
		model_free(m);
	}
}

static int model_add_new(struct gateway *g, struct str name, struct str digest, struct str path, struct error *err)
{
	struct model *m = NEW(struct model);

	m->g = g;
	str_copy(name, m->name, sizeof(m->name));
	str_copy(digest, m->digest, sizeof(m->digest));
	m->path = str_dup(path);
	m->next = g->models;
	g->models = m;
	int rc = model_start(m, err); /* one that cannot start stays, to be reported as failed */
	gateway_changed(g);
	return rc;
}

int gateway_model_add(struct gateway *g, struct str name_tag, struct str digest, struct str path, struct error *err)
{
	struct model *m = model_find_exact(g, name_tag);
	size_t count = 0;

	if (name_tag.len == 0 || name_tag.len > LIMIT_NAME || !memchr(name_tag.base, ':', name_tag.len))
		return error_set(err, E_INVAL, "a model is named NAME:TAG with at most %d bytes", LIMIT_NAME);
	if (digest.len >= sizeof(m->digest))
		return error_set(err, E_INVAL, "the digest of %.*s is too long", STR_ARG(name_tag));
	for (struct model *each = g->models; each; each = each->next)
		count++;
	if (!m && count >= LIMIT_NODE_MODELS)
		return error_set(err, E_LIMIT, "this node holds %d models, its limit; remove some", LIMIT_NODE_MODELS);
	if (!m)
		return model_add_new(g, name_tag, digest, path, err);
	m->removing = false;
	free(m->next_path);
	m->next_path = NULL;
	if (str_equal(str_from(m->digest), digest) && m->state != MODEL_FAILED)
		return 0;
	m->next_path = str_dup(path);
	str_copy(digest, m->next_digest, sizeof(m->next_digest));
	settle_soon(g);
	return 0;
}

void gateway_model_remove(struct gateway *g, struct str name_tag)
{
	struct model *m = model_find_exact(g, name_tag);

	if (!m || m->removing)
		return;
	m->removing = true;
	settle_soon(g);
	gateway_changed(g);
}

void model_fill_report(const struct model *m, struct model_report *r)
{
	memset(r, 0, sizeof(*r));
	memcpy(r->name, m->name, sizeof(r->name));
	memcpy(r->digest, m->digest, sizeof(r->digest));
	memcpy(r->error, m->error, sizeof(r->error));
	r->state = m->state;
	if (m->state != MODEL_READY)
		return;
	const struct engine_load load = engine_load(m->engine);
	r->running = load.running;
	r->waiting = load.waiting;
	r->slots = load.slots;
	r->context_tokens = engine_info(m->engine)->context_tokens;
	r->kv_usage = load.kv_usage;
	r->tokens_to_prefill = load.tokens_to_prefill;
	r->prefill_tokens_per_s = load.prefill_tokens_per_s;
	r->decode_tokens_per_s = load.decode_tokens_per_s;
	r->itl_us = load.itl_us;
}

bool gateway_model_report(const struct gateway *g, struct str name_tag, struct model_report *ret_report)
{
	const struct model *m = model_find(g, name_tag);

	if (m)
		model_fill_report(m, ret_report);
	return m != NULL;
}

/* ---- what clients see ---------------------------------------------------------------------------------------- */

struct listed {
	const char *name;
	int32_t context_tokens;
	uint32_t nodes;
	bool here;
};

struct listing {
	struct listed *items;
	uint32_t count, cap;
	struct hash_index index;
};

static void list_add(struct listing *l, const struct model_report *r, bool here)
{
	uint64_t hash = hash_str(str_from(r->name));
	uint32_t at;

	for (size_t cursor = 0; hash_index_next(&l->index, hash, &cursor, &at);) {
		if (strcmp(l->items[at].name, r->name) == 0) {
			l->items[at].nodes++;
			l->items[at].here = l->items[at].here || here;
			return;
		}
	}
	if (l->count >= LIMIT_MODELS)
		return;
	if (l->count == l->cap) {
		l->cap = l->cap ? l->cap * 2 : 16;
		l->items = mem_resize(l->items, l->cap, sizeof(*l->items));
	}
	hash_index_add(&l->index, hash, l->count);
	l->items[l->count++] = (struct listed){r->name, r->context_tokens, 1, here};
}

static int listed_order(const void *a, const void *b)
{
	return strcmp(((const struct listed *)a)->name, ((const struct listed *)b)->name);
}

/* Texts in the listing are the map's, where the own entry is, too: fresh until the map changes. */
static void list_make(struct gateway *g, struct listing *l)
{
	int64_t now = loop_now_us(g->loop);

	map_refresh_self(g);
	for (size_t i = 0; i < node_map_count(g->map.map); i++) {
		const struct node_entry *e = node_map_at(g->map.map, i);
		bool here = strcmp(e->report.id, g->id) == 0;

		if (!here && (node_map_health(g->map.map, e, now) == NODE_DOWN || e->report.state != NODE_READY))
			continue;
		for (size_t j = 0; j < e->report.model_count; j++)
			if (e->report.models[j].state == MODEL_READY)
				list_add(l, &e->report.models[j], here);
	}
	if (l->count)
		qsort(l->items, l->count, sizeof(*l->items), listed_order);
}

static void list_fini(struct listing *l)
{
	free(l->items);
	hash_index_fini(&l->index);
}

static void put_model(const struct gateway *g, const struct listed *m, struct buf *out)
{
	buf_append_str(out, STR("{\"id\":"));
	buf_append_json(out, str_from(m->name));
	buf_printf(out,
	           ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"mdn\",\"max_model_len\":%d,"
	           "\"mdn\":{\"nodes\":%u,\"here\":%s}}",
	           (long long)g->begun_wall_s, m->context_tokens, m->nodes, m->here ? "true" : "false");
}

void models_list(struct gateway *g, struct buf *out)
{
	struct listing l = {0};

	list_make(g, &l);
	buf_append_str(out, STR("{\"object\":\"list\",\"data\":["));
	for (uint32_t i = 0; i < l.count; i++) {
		if (i)
			buf_append_str(out, STR(","));
		put_model(g, &l.items[i], out);
	}
	buf_append_str(out, STR("]}"));
	list_fini(&l);
}

bool models_one(struct gateway *g, struct str name, struct buf *out)
{
	char full[NODE_TEXT_SIZE + sizeof(":latest")];
	struct listing l = {0};
	bool found = false;

	if (name.len == 0 || name.len > LIMIT_NAME)
		return false;
	snprintf(full, sizeof(full), STR_FMT "%s", STR_ARG(name), memchr(name.base, ':', name.len) ? "" : ":latest");
	list_make(g, &l);
	for (uint32_t i = 0; i < l.count && !found; i++) {
		found = strcmp(l.items[i].name, full) == 0;
		if (found)
			put_model(g, &l.items[i], out);
	}
	list_fini(&l);
	return found;
}

void models_names(struct gateway *g, struct str separator, struct buf *out)
{
	struct listing l = {0};

	list_make(g, &l);
	for (uint32_t i = 0; i < l.count && !out->failed; i++) {
		if (i)
			buf_append_str(out, separator);
		buf_append_str(out, str_from(l.items[i].name));
	}
	list_fini(&l);
}

bool models_any_ready(struct gateway *g)
{
	struct listing l = {0};

	list_make(g, &l);
	bool any = l.count > 0;
	list_fini(&l);
	return any;
}
