/* SPDX-License-Identifier: Apache-2.0 */
/* How: a list, since a node holds few models. An engine is only freed when no request uses it and never from
 * inside its own callback: the settle timer does what follows from a change. A model being removed is unseen by new
 * requests at once. One that comes is looked at first (models_fit.c), then loaded or left on disk (models_room.c);
 * another version of a name that is here follows it (models_switch.c).
 */
#include "serve/gateway/internal.h"

#include <stdio.h>
#include <stdlib.h>

void models_settle_soon(struct gateway *g)
{
	loop_timer_start(g->settle, 0, 0);
}

static void model_loaded(struct model *m)
{
	struct model_room *room = &m->g->room;

	m->loaded_us = loop_now_us(m->g->loop);
	m->load_us = m->loaded_us > m->begun_us ? m->loaded_us - m->begun_us : 1;
	double rate = (double)m->fit.weights * US_PER_S / (double)m->load_us;
	room->load_rate = room->load_rate > 0 ? (room->load_rate + rate) / 2 : rate;
	room->loads++;
	m->came_after = false;
}

static void on_state(void *arg, enum engine_state state, const struct error *err)
{
	struct model *m = arg;

	m->state = state == ENGINE_READY ? MODEL_READY : state == ENGINE_FAILED ? MODEL_FAILED : MODEL_LOADING;
	snprintf(m->error, sizeof(m->error), "%.255s", err ? err->text : "");
	if (state == ENGINE_READY)
		model_loaded(m);
	if (state == ENGINE_READY)
		log_info(ROOM, "model %s is ready (%.19s)", m->name, m->digest);
	else if (state == ENGINE_FAILED)
		log_error(ROOM, "model %s cannot be used: %s", m->name, m->error);
	models_settle_soon(m->g);
	gateway_changed(m->g);
}

/* The template has a list, "MODEL=ngram, OTHER=/its/draft.gguf"; what it says of this model. */
static void set_speculation(const struct model *m, struct engine_options *options)
{
	struct str rest = options->speculate;

	options->speculate = (struct str){0};
	while (rest.len) {
		struct str way, name = str_cut(str_cut(rest, ',', &rest), '=', &way);
		char with_tag[LIMIT_NAME + 16];
		name = str_trim(name);
		way = str_trim(way);
		snprintf(with_tag, sizeof(with_tag), "%.*s%s", (int)(name.len < LIMIT_NAME ? name.len : LIMIT_NAME),
		         name.base, memchr(name.base, ':', name.len) ? "" : ":latest");
		if (!str_equal(name, str_from(m->name)) && strcmp(with_tag, m->name) != 0)
			continue;
		bool path = memchr(way.base, '/', way.len);
		options->speculate = path ? STR("draft") : way;
		options->draft_path = path ? way : (struct str){0};
	}
}

int model_start(struct model *m, struct error *err)
{
	struct gateway *g = m->g;
	struct engine_options options = g->engine;
	struct error own = {0};
	struct str hex, algorithm = str_cut(str_from(m->digest), ':', &hex);

	(void)algorithm;
	snprintf(m->fingerprint, sizeof(m->fingerprint), "fp_%.10s", hex.len ? hex.base : "0000000000");
	options.model_path = str_from(m->path);
	options.model_name = str_from(m->name);
	set_speculation(m, &options);
	if (options.kv_tokens == 0)
		options.kv_tokens = m->fit.kv_tokens;
	m->waits = false;
	m->state = MODEL_LOADING;
	m->error[0] = '\0';
	m->sums = (struct model_sums){0};
	m->misfit = m->gives_way = false;
	m->wanted_us = 0;
	m->begun_us = loop_now_us(g->loop);
	struct lora_list adapters;
	lora_list_init(&adapters, m, &options);
	int rc = engine_new(g->loop, &options, on_state, m, &m->engine, &own);
	lora_list_fini(&adapters);
	if (rc < 0) {
		m->engine = NULL;
		m->state = MODEL_FAILED;
		snprintf(m->error, sizeof(m->error), "%.255s", own.text);
		if (err)
			*err = own;
	}
	return rc;
}

void model_stop(struct model *m)
{
	engine_free(m->engine);
	m->engine = NULL;
	lora_forget(m);
}

static void model_free(struct model *m)
{
	if (!m)
		return;
	model_free(m->next);
	model_stop(m);
	model_measure_stop(m);
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

bool model_answers(const struct model *m)
{
	if (m->fit.adapter)
		return lora_runs(m) != NULL;
	return m->state == MODEL_READY && m->engine && !m->yielding_us && !m->gives_way;
}

bool model_comes(const struct model *m)
{
	if (m->removing || model_answers(m))
		return false;
	if (m->fit.adapter)
		return lora_comes(m);
	return m->state == MODEL_CACHED || m->state == MODEL_LOADING || m->yielding_us || m->gives_way;
}

double model_progress(const struct model *m)
{
	return m->state == MODEL_LOADING && m->engine ? engine_load(m->engine).load_progress : 0;
}

void model_leave(struct model *m)
{
	m->used_us = loop_now_us(m->g->loop);
	if (--m->requests == 0 && (m->removing || m->yielding_us || m->g->room.line))
		models_settle_soon(m->g);
}

static struct model **place_of(struct gateway *g, const struct model *m)
{
	struct model **at = &g->models;

	while (*at != m)
		at = &(*at)->following;
	return at;
}

static bool leaving_free(struct gateway *g)
{
	bool changed = false;

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
	return changed;
}

void models_settle(struct gateway *g)
{
	bool changed = false;

	for (struct model *m = g->models, *following; m; m = following) {
		following = m->following;
		if (!m->removing)
			continue;
		model_next_drop(m);
		*place_of(g, m) = following;
		model_depart(m);
	}
	changed = leaving_free(g); /* before the others look for room */
	for (struct model *m = g->models, *following; m; m = following) {
		following = m->following;
		model_settle(m);
	}
	requests_unpark(g); /* before room is looked for: what came in for them is not idle */
	room_settle(g, changed);
	lora_settle(g);
	changed = leaving_free(g) || changed;
	if (changed)
		gateway_changed(g);
}

/* Versions that share their requests, or wait for memory, go on with time. */
void models_tick(struct gateway *g)
{
	for (struct model *m = g->models; m; m = m->following)
		if (m->next && (m->shared_us || m->yielding_us))
			models_settle_soon(g);
	room_tick(g);
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

static struct model *model_new(struct gateway *g, struct str name, struct str digest, struct str path, struct str base)
{
	struct model *m = NEW(struct model), *same = model_find_exact(g, name);

	m->g = g;
	str_copy(name, m->name, sizeof(m->name));
	str_copy(digest, m->digest, sizeof(m->digest));
	m->path = str_dup(path);
	if (base.len < sizeof(m->base))
		str_copy(base, m->base, sizeof(m->base));
	m->metrics = same ? same->metrics : NEW(struct model_metrics);
	m->metrics->users++;
	return m;
}

static int model_add_new(struct gateway *g, struct str name, struct str digest, struct str path, struct str base,
                         struct error *err)
{
	struct model *m = model_new(g, name, digest, path, base);

	m->following = g->models;
	g->models = m;
	model_measure(m);
	if (!m->measuring)
		models_settle(g);
	gateway_changed(g);
	/* One that cannot start stays, to be reported as failed. */
	return m->state == MODEL_FAILED && !m->misfit ? error_set(err, E_INVAL, "%s", m->error) : 0;
}

/* Another version of m's name. */
static void model_add_next(struct model *m, struct str digest, struct str path, struct str base)
{
	if (m->next && m->next->state != MODEL_FAILED && str_equal(str_from(m->next->digest), digest))
		return;
	bool gone = m->yielding_us && !m->engine;
	model_next_drop(m);
	m->next = model_new(m->g, str_from(m->name), digest, path, base);
	m->next->waits = true;
	model_measure(m->next);
	if (gone)
		m->yielding_us = 1; /* long ago */
	models_settle_soon(m->g);
}

/* What was to come in m's place does not: m again, if it had gone for it. */
static void model_take_back(struct model *m)
{
	bool gone = !m->engine && m->state == MODEL_LOADING && m->yielding_us;

	model_next_drop(m);
	if (!gone)
		return;
	m->came_after = true;
	models_settle_soon(m->g);
}

void model_renew(struct model *m)
{
	if (!m->next && !m->removing)
		model_add_next(m, str_from(m->digest), str_from(m->path), str_from(m->base));
}

int gateway_model_add(struct gateway *g, struct str name_tag, struct str digest, struct str path, struct error *err)
{
	return gateway_model_add_on(g, name_tag, digest, path, STR(""), err);
}

int gateway_model_add_on(struct gateway *g, struct str name_tag, struct str digest, struct str path, struct str base,
                         struct error *err)
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
		return model_add_new(g, name_tag, digest, path, base, err);
	m->removing = false;
	if (!str_equal(str_from(m->digest), digest) || m->state == MODEL_FAILED) {
		model_add_next(m, digest, path, base);
		return 0;
	}
	/* It answers already, or did and was to be replaced, or is on disk. */
	model_take_back(m);
	gateway_changed(g);
	return 0;
}

void gateway_model_remove(struct gateway *g, struct str name_tag)
{
	struct model *m = model_find_exact(g, name_tag);

	if (!m || m->removing)
		return;
	m->removing = true;
	models_settle_soon(g);
	gateway_changed(g);
}

bool gateway_model_drop(struct gateway *g, struct str name_tag, struct str digest)
{
	struct model *m = model_find_exact(g, name_tag);

	if (m && str_equal(str_from(m->digest), digest)) {
		m->removing = true;
		models_settle(g); /* at once: a version added after this must not find it */
	} else if (m && m->next && str_equal(str_from(m->next->digest), digest)) {
		model_take_back(m);
	} else {
		return false;
	}
	gateway_changed(g);
	return true;
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
	r->state = m->state != MODEL_READY ? m->state
	           : m->gives_way          ? MODEL_CACHED
	           : m->yielding_us        ? MODEL_LOADING
	                                   : MODEL_READY;
	r->load_us = r->state == MODEL_READY ? 0 : model_load_us(m);
	r->load_progress = (double)(int)(model_progress(m) * 100) / 100;
	r->memory_bytes = m->engine ? model_memory(m) : m->fit.need;
	r->used_wall_us = m->used_wall_us;
	r->pinned = model_is_pinned(m);
	r->served = m->sums.served;
	r->errors = m->sums.errors;
	r->ttft_sum_us = m->sums.ttft_us;
	r->tokens = m->sums.tokens;
	r->decode_sum_us = m->sums.decode_us;
	const struct model *runs = m->fit.adapter ? lora_runs(m) : m;
	if (m->state != MODEL_READY || !runs || !runs->engine)
		return;
	const struct engine_load load = engine_load(runs->engine);
	r->running = load.running;
	r->waiting = load.waiting;
	r->slots = load.slots;
	r->context_tokens = engine_info(runs->engine)->context_tokens;
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
