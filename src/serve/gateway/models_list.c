/* SPDX-License-Identifier: Apache-2.0 */
/* How: the list clients see is the union of what answers here, or would after it is loaded, and what the map says of
 * nodes that are not down. Texts in a listing are the map's, fresh until it changes.
 */
#include "core/hash.h"
#include "serve/gateway/internal.h"

#include <stdio.h>
#include <stdlib.h>

struct listed {
	const char *name;
	const struct model_report *report; /* the first that was found */
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
	l->items[l->count++] = (struct listed){r->name, r, r->context_tokens, 1, here};
}

static int listed_order(const void *a, const void *b)
{
	return strcmp(((const struct listed *)a)->name, ((const struct listed *)b)->name);
}

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
			if (model_report_serves(&e->report.models[j]))
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

/* What a model that is loaded here is for; of others that is not known. */
static void put_task(const struct gateway *g, const struct listed *m, struct buf *out)
{
	const struct model *own = m->here ? model_find(g, str_from(m->name)) : NULL;

	if (!own || !own->engine || own->state != MODEL_READY)
		return;
	const struct engine_info *info = engine_info(own->engine);
	buf_printf(out, ",\"task\":\"%s\"",
	           !info->no_generation   ? "generate"
	           : info->embedding_size ? "embed"
	                                  : "rerank");
	if (info->embedding_size)
		buf_printf(out, ",\"dimensions\":%d", info->embedding_size);
	if (info->server[0]) {
		buf_append_str(out, STR(",\"server\":"));
		buf_append_json(out, str_from(info->server));
	}
}

static void put_model(const struct gateway *g, const struct listed *m, struct buf *out)
{
	buf_append_str(out, STR("{\"id\":"));
	buf_append_json(out, str_from(m->name));
	buf_printf(out,
	           ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"mdn\",\"max_model_len\":%d,"
	           "\"mdn\":{\"nodes\":%u,\"here\":%s",
	           (long long)g->begun_wall_s, m->context_tokens, m->nodes, m->here ? "true" : "false");
	put_task(g, m, out);
	buf_append_str(out, STR("}}"));
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

void models_each(struct gateway *g, void (*each)(void *arg, const struct model_report *r, bool here), void *arg)
{
	struct listing l = {0};

	list_make(g, &l);
	for (uint32_t i = 0; i < l.count; i++)
		each(arg, l.items[i].report, l.items[i].here);
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
