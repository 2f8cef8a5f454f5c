/* SPDX-License-Identifier: Apache-2.0 */
/* How: a LoRA adapter is a model of its own name without an engine of its own: it is answered by its base's, which
 * reads all adapters that are there when it starts. So its state is its base's, and one that comes later has the base
 * loaded anew, as a new version of itself: beside the old one where memory allows, else after it (models_switch.c). An
 * adapter that goes stays in the engine, unseen, until that is loaded the next time.
 */
#include "serve/gateway/internal.h"

#include <stdio.h>
#include <stdlib.h>

/* What an engine calls it: another version of an adapter is another adapter. */
static void key_of(const struct model *m, char *to, size_t size)
{
	join(to, size, (const char *const[]){m->name, "@", m->digest, NULL});
}

static bool has_adapter(const struct model *base, const struct model *adapter)
{
	char key[LORA_KEY_SIZE];

	key_of(adapter, key, sizeof(key));
	for (size_t i = 0; base->engine && i < base->adapter_count; i++)
		if (strcmp(base->adapters[i], key) == 0)
			return true;
	return false;
}

static struct model *base_of(const struct model *m)
{
	struct model *base = model_find(m->g, str_from(m->base));

	return base && !base->fit.adapter ? base : NULL;
}

static bool is_for(const struct model *adapter, const struct model *base)
{
	return adapter && adapter->fit.adapter && !adapter->removing && base_of(adapter) &&
	       strcmp(base_of(adapter)->name, base->name) == 0;
}

/* ---- the base's engine --------------------------------------------------------------------------- */

uint64_t lora_bytes(const struct model *base)
{
	uint64_t sum = 0;

	for (const struct model *m = base->g->models; m; m = m->following) {
		sum += is_for(m, base) ? m->fit.weights : 0;
		sum += is_for(m->next, base) ? m->next->fit.weights : 0;
	}
	return sum;
}

static void take(struct model *base, struct lora_list *list, const struct model *adapter)
{
	char key[LORA_KEY_SIZE];

	if (!is_for(adapter, base))
		return;
	key_of(adapter, key, sizeof(key));
	base->adapters = mem_resize(base->adapters, base->adapter_count + 1, sizeof(*base->adapters));
	base->adapters[base->adapter_count++] = str_dup(str_from(key));
	list->paths = mem_resize(list->paths, base->adapter_count, sizeof(*list->paths));
	list->paths[base->adapter_count - 1] = str_from(adapter->path);
}

void lora_list_init(struct lora_list *list, struct model *base, struct engine_options *options)
{
	*list = (struct lora_list){0};
	lora_forget(base);
	for (const struct model *m = base->g->models; m; m = m->following) {
		take(base, list, m);
		take(base, list, m->next);
	}
	list->names = mem_new((base->adapter_count + 1) * sizeof(*list->names));
	for (size_t i = 0; i < base->adapter_count; i++)
		list->names[i] = str_from(base->adapters[i]);
	options->adapter_names = list->names;
	options->adapter_paths = list->paths;
	options->adapter_count = base->adapter_count;
}

void lora_list_fini(struct lora_list *list)
{
	free(list->names);
	free(list->paths);
}

void lora_forget(struct model *base)
{
	for (size_t i = 0; i < base->adapter_count; i++)
		free(base->adapters[i]);
	free(base->adapters);
	base->adapters = NULL;
	base->adapter_count = 0;
}

/* ---- who answers --------------------------------------------------------------------------------- */

struct model *lora_runs(const struct model *m)
{
	struct model *base = base_of(m);

	if (!base)
		return NULL;
	if (base->next && base->next->state == MODEL_READY && has_adapter(base->next, m) &&
	    (!has_adapter(base, m) || model_pick(base) == base->next))
		return base->next;
	return model_answers(base) && has_adapter(base, m) ? base : NULL;
}

struct model *model_enter(struct model *m)
{
	struct model *runs = m->fit.adapter ? lora_runs(m) : m;

	m->requests++;
	if (runs && runs != m) {
		runs->requests++;
		runs->used_us = m->used_us;
		runs->used_wall_us = m->used_wall_us;
	}
	return runs;
}

void lora_name(const struct model *m, char *to, size_t size)
{
	to[0] = '\0';
	if (m->fit.adapter)
		key_of(m, to, size);
}

/* ---- its state ----------------------------------------------------------------------------------- */

static void fail(struct model *m, const char *why)
{
	m->state = MODEL_FAILED;
	snprintf(m->error, sizeof(m->error), "it is a LoRA adapter %s", why);
}

static void settle(struct model *m)
{
	struct model *base = base_of(m);
	enum model_state before = m->state;
	char why[200];

	m->error[0] = '\0';
	if (!m->base[0]) {
		fail(m, "and does not say of what: push it with --base NAME:TAG");
	} else if (!base) {
		snprintf(why, sizeof(why), "of %.128s, which is not on this node: place that here, too", m->base);
		fail(m, why);
	} else if (base->state == MODEL_FAILED && !base->next) {
		snprintf(why, sizeof(why), "of %.100s, which cannot be used", base->name);
		fail(m, why);
	} else if (has_adapter(base, m) || (base->next && has_adapter(base->next, m))) {
		m->state = lora_runs(m) ? MODEL_READY : base->gives_way ? MODEL_CACHED : MODEL_LOADING;
	} else if (base->engine && base->next && base->next->state == MODEL_FAILED) {
		snprintf(why, sizeof(why), "that %.60s could not be loaded with: %.100s", base->name,
		         base->next->error);
		fail(m, why);
	} else if (base->engine) {
		m->state = MODEL_LOADING;
		model_renew(base);
	} else {
		m->state = base->state == MODEL_CACHED ? MODEL_CACHED : MODEL_LOADING;
	}
	if (m->state != before)
		gateway_changed(m->g);
}

void lora_settle(struct gateway *g)
{
	for (struct model *m = g->models; m; m = m->following) {
		if (m->fit.adapter && !m->measuring && !m->removing)
			settle(m);
		if (m->next && m->next->fit.adapter && !m->next->measuring)
			settle(m->next);
	}
}

bool lora_comes(const struct model *m)
{
	const struct model *base = base_of(m);

	return base && !m->removing && (model_comes(base) || (base->engine && m->state == MODEL_LOADING));
}

struct model *lora_base(const struct model *m)
{
	return base_of(m);
}
