/* SPDX-License-Identifier: Apache-2.0 */
/* How: every model has a need computed from its file (models_fit.c). Those in memory, also those that load or leave,
 * never need more than the budget together: memory_max, or nine tenths of what the machine has free. A request for one
 * that is on disk puts it in line; the first in line gets the room of idle ones (core/residence.h). If those that work
 * hold the room, it waits; after GIVE_WAY_US the one that is here longest takes no more requests, so that the line
 * moves, however busy the others are. Requests for that one then stand in line as well, behind.
 *
 * A place in line lasts as long as somebody asks: requests that wait ask again at every tick (waiting.c).
 */
#include "serve/gateway/internal.h"

#include "base/memory.h"

#include <stdio.h>
#include <stdlib.h>

#define GIVE_WAY_US (2 * US_PER_S)
#define STAY_LEAST_US (10 * US_PER_S) /* and five times its loading: else the node does nothing but load */
#define ASKED_US (1 * US_PER_S)
#define LOAD_GUESS (400.0 * 1024 * 1024) /* bytes a second, until one is measured */
#define LOAD_LEAST_US (100 * US_PER_MS)
#define ROUND_US (100 * US_PER_MS) /* of what is told: a report that differs is sent on */

static int64_t now_us(const struct gateway *g)
{
	return loop_now_us(g->loop);
}

static bool is_llama(const struct gateway *g)
{
	return str_equal(g->engine.kind, STR("llama"));
}

/* ---- pins -------------------------------------------------------------------------------------- */

bool model_is_pinned(const struct model *m)
{
	char with_tag[NODE_TEXT_SIZE + sizeof(":latest")];

	for (size_t i = 0; i < m->g->room.pin_count; i++) {
		const char *pin = m->g->room.pins[i];
		snprintf(with_tag, sizeof(with_tag), "%.128s%s", pin, strchr(pin, ':') ? "" : ":latest");
		if (strcmp(with_tag, m->name) == 0)
			return true;
	}
	return false;
}

void room_fini(struct gateway *g)
{
	for (size_t i = 0; i < g->room.pin_count; i++)
		free(g->room.pins[i]);
	free(g->room.pins);
	g->room.pins = NULL;
	g->room.pin_count = 0;
}

void gateway_set_residence(struct gateway *g, const struct str *pins, size_t pin_count, int64_t idle_unload_us)
{
	room_fini(g);
	g->room.pins = mem_new((pin_count + 1) * sizeof(*g->room.pins));
	for (size_t i = 0; i < pin_count; i++)
		g->room.pins[g->room.pin_count++] = str_dup(pins[i]);
	g->room.idle_unload_us = idle_unload_us;
	models_settle_soon(g);
	gateway_changed(g);
}

void gateway_set_memory(struct gateway *g, uint64_t memory_max)
{
	g->room.max = memory_max;
}

/* ---- what is there ----------------------------------------------------------------------------- */

uint64_t model_memory(const struct model *m)
{
	if (!m->engine)
		return 0;
	uint64_t told = m->state == MODEL_READY ? engine_info(m->engine)->memory_bytes : 0;
	return told > m->fit.need ? told : m->fit.need;
}

struct table { /* of what is in memory */
	struct resident *residents;
	struct model **models;
	size_t count;
};

static void table_add(struct table *t, struct model *m, bool switching)
{
	if (!m || !m->engine)
		return;
	t->models[t->count] = m;
	t->residents[t->count++] = (struct resident){
	    .bytes = model_memory(m),
	    .used_us = m->used_us > m->loaded_us ? m->used_us : m->loaded_us,
	    .loaded_us = m->state == MODEL_READY ? m->loaded_us : 0,
	    .pinned = model_is_pinned(m) && !m->removing,
	    .busy = m->requests > 0 || m->state != MODEL_READY || m->removing || switching,
	    .leaving = m->gives_way,
	};
}

static struct table table_new(const struct gateway *g, const struct model *without)
{
	struct table t = {0};
	size_t most = 0;

	for (const struct model *m = g->models; m; m = m->following)
		most += 2;
	for (const struct model *m = g->leaving; m; m = m->following)
		most++;
	t.residents = mem_new((most + 1) * sizeof(*t.residents));
	t.models = mem_new((most + 1) * sizeof(struct model *));
	for (struct model *m = g->models; m; m = m->following) {
		if (m != without)
			table_add(&t, m, model_switching(m));
		if (m->next && m->next != without)
			table_add(&t, m->next, true);
	}
	for (struct model *m = g->leaving; m; m = m->following)
		if (m != without)
			table_add(&t, m, true);
	return t;
}

static void table_fini(struct table *t)
{
	free(t->residents);
	free(t->models);
}

static uint64_t used_memory(const struct gateway *g)
{
	struct table t = table_new(g, NULL);
	uint64_t sum = 0;

	for (size_t i = 0; i < t.count; i++)
		sum += t.residents[i].bytes;
	table_fini(&t);
	return sum;
}

/* Weights are mapped, so the kernel calls their pages available though we need them: never more than the machine. */
static uint64_t budget_of(const struct gateway *g)
{
	if (g->room.max)
		return g->room.max;
	if (!is_llama(g))
		return UINT64_MAX;
	uint64_t machine = memory_of_machine();
	uint64_t free_now = used_memory(g) + memory_available();
	uint64_t least = !machine || free_now < machine ? free_now : machine;
	return least - least / 10;
}

/* ---- measuring --------------------------------------------------------------------------------- */

struct measuring {
	struct model *model; /* NULL: it went meanwhile */
	char *path;
	struct engine_options options;
	struct model_fit fit;
};

static void measure(void *arg)
{
	struct measuring *job = arg;

	fit_read(&job->fit, job->path, &job->options);
}

static void measured(void *arg)
{
	struct measuring *job = arg;
	struct model *m = job->model;

	if (m) {
		m->measuring = NULL;
		m->fit = job->fit;
		models_settle_soon(m->g);
	}
	free(job->path);
	free(job);
}

void model_measure(struct model *m)
{
	struct gateway *g = m->g;

	m->state = MODEL_LOADING;
	if (!is_llama(g)) { /* its file is not looked into: what others say of it is no need */
		fit_read(&m->fit, m->path, &g->engine);
		m->fit = (struct model_fit){.weights = m->fit.weights, .need = m->fit.weights};
		return;
	}
	struct measuring *job = NEW(struct measuring);
	*job = (struct measuring){.model = m, .path = str_dup(str_from(m->path))};
	job->options.slots = g->engine.slots;
	job->options.batch_tokens = g->engine.batch_tokens;
	m->measuring = job;
	loop_job(g->loop, measure, measured, job);
}

void model_measure_stop(struct model *m)
{
	if (m->measuring)
		m->measuring->model = NULL;
	m->measuring = NULL;
}

/* ---- who goes ---------------------------------------------------------------------------------- */

void model_unload(struct model *m, const char *why)
{
	log_info(ROOM, "model %s is unloaded (%s): last asked %lld s ago", m->name, why,
	         (long long)((now_us(m->g) - (m->used_us > m->loaded_us ? m->used_us : m->loaded_us)) / US_PER_S));
	model_stop(m);
	m->state = MODEL_CACHED;
	m->gives_way = false;
	m->g->room.unloads++;
	gateway_changed(m->g);
}

enum residence room_make(struct model *m, const struct model *instead, bool evict)
{
	struct gateway *g = m->g;
	struct table t = table_new(g, instead);
	uint64_t budget = budget_of(g);
	char why[NODE_TEXT_SIZE + 16];

	if (is_llama(g))
		fit_choose(&m->fit, &g->engine, budget);
	m->fit.need += is_llama(g) ? lora_bytes(m) : 0;
	enum residence r = residence_plan(t.residents, t.count, budget, m->fit.need);
	snprintf(why, sizeof(why), "room for %s", m->name);
	for (size_t i = 0; r == RESIDENCE_FITS && i < t.count; i++) {
		if (!t.residents[i].goes)
			continue;
		if (evict)
			model_unload(t.models[i], why);
		else
			r = RESIDENCE_WAIT;
	}
	table_fini(&t);
	return r;
}

void room_refuse(struct model *m, enum residence why)
{
	char figures[160];

	fit_describe(&m->fit, budget_of(m->g), figures, sizeof(figures));
	m->state = MODEL_FAILED;
	m->misfit = true;
	snprintf(m->error, sizeof(m->error),
	         "%s%s; lower `context` or `slots`, raise `memory_max`, or place it elsewhere", figures,
	         why == RESIDENCE_PINNED ? ", pinned models included" : "");
	log_error(ROOM, "model %s cannot be used: %s", m->name, m->error);
	models_settle_soon(m->g); /* those that wait for it are told */
	gateway_changed(m->g);
}

/* ---- the line ---------------------------------------------------------------------------------- */

void model_want(struct model *m)
{
	if (m->fit.adapter)
		m = lora_base(m); /* there is one, or nobody could wait */
	m->asked_us = now_us(m->g);
	if (m->state != MODEL_CACHED && !m->gives_way)
		return;
	if (m->wanted_us)
		return;
	m->wanted_us = m->asked_us;
	m->g->room.line = true;
	models_settle_soon(m->g);
}

static struct model *first_in_line(struct gateway *g)
{
	struct model *first = NULL;

	for (struct model *m = g->models; m; m = m->following) {
		if (!m->wanted_us || m->removing || m->state != MODEL_CACHED)
			continue;
		if (!first || m->wanted_us < first->wanted_us)
			first = m;
	}
	return first;
}

/* New models, and those that did not fit: loaded if there is room as it is, else on disk, or failed for good. */
static void look_at_new(struct model *m)
{
	enum residence r;

	if (m->fit.adapter || m->engine || m->measuring || m->removing || (m->state != MODEL_LOADING && !m->misfit) ||
	    model_switching(m))
		return;
	r = room_make(m, NULL, false);
	if (m->misfit && (r == RESIDENCE_NEVER || r == RESIDENCE_PINNED))
		return;
	m->misfit = false;
	m->error[0] = '\0';
	if (r == RESIDENCE_FITS) {
		model_start(m, NULL);
	} else if (r == RESIDENCE_WAIT) {
		m->state = MODEL_CACHED;
		log_info(ROOM, "model %s stays on disk until it is asked for: no memory beside the others", m->name);
		gateway_changed(m->g);
	} else {
		room_refuse(m, r);
	}
}

static void load_first(struct gateway *g)
{
	for (struct model *m; (m = first_in_line(g)) != NULL;) {
		enum residence r = room_make(m, NULL, true);

		if (r == RESIDENCE_WAIT)
			return;
		m->wanted_us = 0;
		if (r == RESIDENCE_FITS)
			model_start(m, NULL);
		else
			room_refuse(m, r);
	}
}

void room_settle(struct gateway *g, bool freed)
{
	for (struct model *m = g->models; m; m = m->following)
		if (freed || !m->misfit)
			look_at_new(m);
	load_first(g);
	g->room.line = first_in_line(g) != NULL;
}

static void give_way(struct gateway *g)
{
	const struct model *first = first_in_line(g);
	struct table t;

	if (!first) {
		for (struct model *m = g->models; m; m = m->following)
			m->gives_way = false;
		return;
	}
	if (now_us(g) - first->wanted_us < GIVE_WAY_US)
		return;
	t = table_new(g, NULL);
	for (size_t i = 0; i < t.count; i++) /* each has its own least stay: as if it had come so much later */
		if (t.residents[i].loaded_us && 5 * t.models[i]->load_us > STAY_LEAST_US)
			t.residents[i].loaded_us += 5 * t.models[i]->load_us - STAY_LEAST_US;
	size_t at = residence_give_way(t.residents, t.count, now_us(g), STAY_LEAST_US);
	if (at < t.count && !model_switching(t.models[at]) && !t.models[at]->removing) {
		t.models[at]->gives_way = true;
		log_info(ROOM, "model %s takes no more requests, so that %s can be loaded", t.models[at]->name,
		         first->name);
		gateway_changed(g);
	}
	table_fini(&t);
}

void room_tick(struct gateway *g)
{
	int64_t now = now_us(g);

	for (struct model *m = g->models; m; m = m->following) {
		int64_t used = m->used_us > m->loaded_us ? m->used_us : m->loaded_us;

		if (m->wanted_us && now - m->asked_us > ASKED_US)
			m->wanted_us = 0;
		if (g->room.idle_unload_us && m->state == MODEL_READY && m->engine && !model_switching(m) &&
		    !m->requests && !m->removing && !model_is_pinned(m) && now - used >= g->room.idle_unload_us)
			model_unload(m, "idle");
	}
	give_way(g);
	if (g->room.line)
		models_settle_soon(g);
}

/* ---- how long it takes ------------------------------------------------------------------------- */

static int64_t load_guess_us(const struct model *m)
{
	double rate = m->g->room.load_rate > 0 ? m->g->room.load_rate : LOAD_GUESS;
	int64_t us = m->load_us ? m->load_us : (int64_t)((double)m->fit.weights / rate * US_PER_S);

	return us < LOAD_LEAST_US ? LOAD_LEAST_US : us;
}

int64_t model_load_us(const struct model *m)
{
	if (m->fit.adapter)
		return m->state != MODEL_READY && lora_comes(m) ? model_load_us(lora_base(m)) : 0;
	int64_t us = load_guess_us(m);

	if (m->removing || model_switching(m) || m->came_after)
		return 0;
	if (m->state == MODEL_LOADING && m->engine)
		us -= now_us(m->g) - m->begun_us;
	else if (m->gives_way)
		us += STAY_LEAST_US;
	else if (m->state != MODEL_CACHED)
		return 0;
	us = us / ROUND_US * ROUND_US;
	return us < LOAD_LEAST_US ? LOAD_LEAST_US : us;
}
