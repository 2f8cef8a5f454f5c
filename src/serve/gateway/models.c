/* SPDX-License-Identifier: Apache-2.0 */
/* How: a list, since a node holds few models. An engine is only freed when no request uses it and never from
 * inside its own callback: the settle timer does what follows from a change. A model being removed is unseen by new
 * requests at once. The list clients see is the union of what is ready here and what the map says is ready on nodes
 * that are not down.
 *
 * A new version beside the old one: the first SHARE_US after it is ready it takes a rising part of the new requests, so
 * that a cold cache does not meet them all at once; then it stands in the list. Where memory is short the old version
 * yields: the own entry of the map says that it does not answer, other nodes take the requests, those that nobody else
 * can take wait here, and when it is idle the new one is loaded. Fails that, the old one comes back.
 */
#include "core/hash.h"
#include "serve/gateway/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define SHARE_US (3 * US_PER_S)
#define YIELD_HOPS_US (1500 * US_PER_MS) /* so long a map may be old that says this node answers */
#define MEMORY_SPARE_PERCENT 10

static void settle_soon(struct gateway *g)
{
	loop_timer_start(g->settle, 0, 0);
}

static void on_state(void *arg, enum engine_state state, const struct error *err)
{
	struct model *m = arg;

	m->state = state == ENGINE_READY ? MODEL_READY : state == ENGINE_FAILED ? MODEL_FAILED : MODEL_LOADING;
	snprintf(m->error, sizeof(m->error), "%.255s", err ? err->text : "");
	if (state == ENGINE_READY)
		log_info(ROOM, "model %s is ready (%.19s)", m->name, m->digest);
	else if (state == ENGINE_FAILED)
		log_error(ROOM, "model %s cannot be used: %s", m->name, m->error);
	settle_soon(m->g);
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
	m->waits = false;
	m->state = MODEL_LOADING;
	m->error[0] = '\0';
	m->sums = (struct model_sums){0};
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
	if (!m)
		return;
	model_free(m->next);
	model_stop(m);
	if (--m->metrics->users == 0)
		free(m->metrics);
	free(m->path);
	free(m);
}

static struct model *model_find_exact(const struct gateway *g, struct str name)
{
	for (struct model *m = g->models; m; m = m->following)
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

static int64_t now_us(const struct model *m)
{
	return loop_now_us(m->g->loop);
}

struct model *model_pick(struct model *m)
{
	if (!m->shared_us || !m->next || m->next->state != MODEL_READY)
		return m;
	int64_t part = now_us(m) - m->shared_us;
	return (int64_t)rng_below(&m->g->rng, SHARE_US) < part ? m->next : m;
}

bool model_switches(const struct model *m)
{
	return m->yielding_us || (m->came_after && m->state == MODEL_LOADING);
}

bool model_takes_hops(const struct model *m)
{
	return m->state == MODEL_READY && (!m->yielding_us || now_us(m) - m->yielding_us < YIELD_HOPS_US);
}

void model_leave(struct model *m)
{
	if (--m->requests == 0 && (m->removing || m->yielding_us))
		settle_soon(m->g);
}

/* ---- room for two ---------------------------------------------------------------------------------------------- */

static uint64_t file_size(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
}

static uint64_t memory_of(const struct model *m)
{
	if (!m->engine)
		return 0;
	uint64_t file = file_size(m->path), told = m->state == MODEL_READY ? engine_info(m->engine)->memory_bytes : 0;
	return told > file ? told : file;
}

static uint64_t memory_used(const struct gateway *g)
{
	uint64_t sum = 0;

	for (const struct model *m = g->models; m; m = m->following)
		sum += memory_of(m) + (m->next ? memory_of(m->next) : 0);
	for (const struct model *m = g->leaving; m; m = m->following)
		sum += memory_of(m);
	return sum;
}

/* What can be had without swapping, by the kernel's own estimate. */
static uint64_t memory_available(void)
{
	FILE *f = fopen("/proc/meminfo", "re");
	unsigned long long kib = 0;
	char line[128];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib * 1024;
}

/* Weights are as large as the file; the KV cache is as large as the old version's, which has the same shape. */
static bool fits_beside(const struct model *old, const struct model *fresh)
{
	const struct gateway *g = old->g;
	uint64_t file = file_size(old->path), used = memory_of(old), need = file_size(fresh->path);

	if ((!str_equal(g->engine.kind, STR("llama")) && !g->memory_max) || !old->engine)
		return true;
	need += used > file ? used - file : 0;
	if (g->memory_max)
		return memory_used(g) + need <= g->memory_max;
	return need + need * MEMORY_SPARE_PERCENT / 100 <= memory_available();
}

/* ---- one version after another --------------------------------------------------------------------------------- */

static struct model **place_of(struct gateway *g, const struct model *m)
{
	struct model **at = &g->models;

	while (*at != m)
		at = &(*at)->following;
	return at;
}

static void model_depart(struct model *m)
{
	m->removing = true;
	m->following = m->g->leaving;
	m->g->leaving = m;
	settle_soon(m->g);
}

/* next stands in the list from now on. */
static void model_succeed(struct model *m)
{
	struct model **at = place_of(m->g, m), *next = m->next;

	next->following = m->following;
	*at = next;
	m->next = NULL;
	m->yielding_us = m->shared_us = 0;
	log_info(ROOM, "model %s: version %.19s in place of %.19s", m->name, next->digest, m->digest);
	model_depart(m);
}

static void next_drop(struct model *m)
{
	if (!m->next)
		return;
	model_depart(m->next);
	m->next = NULL;
	m->yielding_us = m->shared_us = 0;
}

/* Idle, and there is no room for two: one goes, the other comes. */
static void model_exchange(struct model *m)
{
	struct model *next = m->next;
	struct error err = {0};

	model_stop(m);
	next->came_after = true;
	if (model_start(next, &err) < 0)
		log_error(ROOM, "model %s cannot be used: %s", next->name, err.text);
	/* The old one is kept without its engine until it is known that the new one works. */
	m->state = MODEL_LOADING;
}

/* The new version failed after the old one had gone: the old one again. */
static void model_come_back(struct model *m)
{
	struct error err = {0};

	log_warn(ROOM, "model %s: version %.19s failed, %.19s comes back", m->name, m->next->digest, m->digest);
	model_stop(m->next);
	m->yielding_us = 0;
	m->came_after = true;
	if (model_start(m, &err) < 0)
		log_error(ROOM, "model %s cannot be used: %s", m->name, err.text);
}

static void next_begin(struct model *m)
{
	struct model *next = m->next;
	struct error err = {0};

	if (m->state != MODEL_READY || fits_beside(m, next)) {
		if (m->state != MODEL_READY && m->requests == 0)
			model_stop(m); /* it answers nothing: nothing is lost */
		if (model_start(next, &err) < 0)
			log_error(ROOM, "model %s cannot be used: %s", next->name, err.text);
		return;
	}
	log_info(ROOM, "model %s: no memory for two versions, so this node lets others answer", m->name);
	m->yielding_us = now_us(m);
}

static void model_settle(struct model *m)
{
	struct model *next = m->next;

	if (!next)
		return;
	if (next->waits && !m->yielding_us)
		next_begin(m);
	if (m->yielding_us && next->waits && m->requests == 0 && now_us(m) - m->yielding_us >= YIELD_HOPS_US)
		model_exchange(m);
	if (next->state == MODEL_FAILED && !m->engine && !next->waits && m->path)
		model_come_back(m);
	if (next->state != MODEL_READY)
		return;
	if (m->state == MODEL_READY && m->engine && !m->shared_us)
		m->shared_us = now_us(m);
	if (m->state != MODEL_READY || !m->engine || now_us(m) - m->shared_us >= SHARE_US)
		model_succeed(m);
}

void models_settle(struct gateway *g)
{
	bool changed = false;

	for (struct model *m = g->models, *following; m; m = following) {
		following = m->following;
		if (m->removing) {
			next_drop(m);
			*place_of(g, m) = following;
			model_depart(m);
		} else {
			model_settle(m);
		}
	}
	for (struct model **at = &g->leaving; *at;) {
		struct model *m = *at;

		if (m->requests > 0) {
			at = &m->following;
			continue;
		}
		*at = m->following;
		model_free(m);
		changed = true;
	}
	requests_unpark(g);
	if (changed)
		gateway_changed(g);
}

/* Versions that share their requests, or wait for memory, go on with time. */
void models_tick(struct gateway *g)
{
	for (struct model *m = g->models; m; m = m->following)
		if (m->next && (m->shared_us || m->yielding_us))
			settle_soon(g);
	requests_unpark(g);
}

void models_free(struct gateway *g)
{
	struct model **lists[] = {&g->models, &g->leaving};

	for (size_t i = 0; i < 2; i++) {
		while (*lists[i]) {
			struct model *m = *lists[i];

			*lists[i] = m->following;
			model_free(m);
		}
	}
}

static struct model *model_new(struct gateway *g, struct str name, struct str digest, struct str path)
{
	struct model *m = NEW(struct model), *same = model_find_exact(g, name);

	m->g = g;
	str_copy(name, m->name, sizeof(m->name));
	str_copy(digest, m->digest, sizeof(m->digest));
	m->path = str_dup(path);
	m->metrics = same ? same->metrics : NEW(struct model_metrics);
	m->metrics->users++;
	return m;
}

static int model_add_new(struct gateway *g, struct str name, struct str digest, struct str path, struct error *err)
{
	struct model *m = model_new(g, name, digest, path);

	m->following = g->models;
	g->models = m;
	int rc = model_start(m, err); /* one that cannot start stays, to be reported as failed */
	gateway_changed(g);
	return rc;
}

/* Another version of m's name. */
static void model_add_next(struct model *m, struct str digest, struct str path)
{
	if (m->next && m->next->state != MODEL_FAILED && str_equal(str_from(m->next->digest), digest))
		return;
	bool gone = m->yielding_us && !m->engine;
	next_drop(m);
	m->next = model_new(m->g, str_from(m->name), digest, path);
	m->next->waits = true;
	m->next->state = MODEL_LOADING;
	if (gone)
		m->yielding_us = now_us(m) - YIELD_HOPS_US;
	settle_soon(m->g);
}

int gateway_model_add(struct gateway *g, struct str name_tag, struct str digest, struct str path, struct error *err)
{
	struct model *m = model_find_exact(g, name_tag);
	size_t count = 0;

	if (name_tag.len == 0 || name_tag.len > LIMIT_NAME || !memchr(name_tag.base, ':', name_tag.len))
		return error_set(err, E_INVAL, "a model is named NAME:TAG with at most %d bytes", LIMIT_NAME);
	if (digest.len >= sizeof(m->digest))
		return error_set(err, E_INVAL, "the digest of %.*s is too long", STR_ARG(name_tag));
	for (struct model *each = g->models; each; each = each->following)
		count++;
	if (!m && count >= LIMIT_NODE_MODELS)
		return error_set(err, E_LIMIT, "this node holds %d models, its limit; remove some", LIMIT_NODE_MODELS);
	if (!m)
		return model_add_new(g, name_tag, digest, path, err);
	m->removing = false;
	if (!str_equal(str_from(m->digest), digest) || m->state == MODEL_FAILED) {
		model_add_next(m, digest, path);
		return 0;
	}
	/* It answers already, or did and was to be replaced. */
	bool gone = !m->engine;
	next_drop(m);
	if (gone) {
		m->came_after = true;
		if (model_start(m, err) < 0)
			return err ? err->code : E_INTERNAL;
	}
	gateway_changed(g);
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

bool gateway_model_drop(struct gateway *g, struct str name_tag, struct str digest)
{
	struct model *m = model_find_exact(g, name_tag);

	if (m && str_equal(str_from(m->digest), digest)) {
		m->removing = true;
		models_settle(g); /* at once: a version added after this must not find it */
	} else if (m && m->next && str_equal(str_from(m->next->digest), digest)) {
		bool gone = m->yielding_us && !m->engine;
		struct error err = {0};
		next_drop(m);
		m->came_after = m->came_after || gone;
		if (gone && model_start(m, &err) < 0)
			log_error(ROOM, "model %s cannot be used: %s", m->name, err.text);
	} else {
		return false;
	}
	gateway_changed(g);
	return true;
}

void gateway_set_memory(struct gateway *g, uint64_t memory_max)
{
	g->memory_max = memory_max;
}

bool gateway_holds(const struct gateway *g, struct str digest)
{
	for (const struct model *m = g->models; m; m = m->following)
		if (str_equal(str_from(m->digest), digest) || (m->next && str_equal(str_from(m->next->digest), digest)))
			return true;
	for (const struct model *m = g->leaving; m; m = m->following)
		if (str_equal(str_from(m->digest), digest))
			return true;
	return false;
}

void model_fill_report(const struct model *m, struct model_report *r)
{
	memset(r, 0, sizeof(*r));
	memcpy(r->name, m->name, sizeof(r->name));
	memcpy(r->digest, m->digest, sizeof(r->digest));
	memcpy(r->error, m->error, sizeof(r->error));
	/* One that yields answers no new requests: the map must not send any. */
	r->state = m->yielding_us && m->state == MODEL_READY ? MODEL_LOADING : m->state;
	r->served = m->sums.served;
	r->errors = m->sums.errors;
	r->ttft_sum_us = m->sums.ttft_us;
	r->tokens = m->sums.tokens;
	r->decode_sum_us = m->sums.decode_us;
	if (m->state != MODEL_READY || !m->engine)
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

bool gateway_model_next(const struct gateway *g, struct str name_tag, struct model_report *ret_report)
{
	const struct model *m = model_find(g, name_tag);

	if (!m || !m->next)
		return false;
	model_fill_report(m->next, ret_report);
	/* It waits for memory, not for its file: on disk is what it is. */
	if (m->next->waits)
		ret_report->state = MODEL_CACHED;
	return true;
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
