/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes are copied as they lie; of models only the ready places, one run a model, to which each of its labels points.
 */
#include "core/dns_view.h"

#include <stdlib.h>

struct view_distances {
	unsigned views;
	int64_t made_us;
	uint32_t sites;
	struct distances distances;
};

static void models_copy(struct dns_view *v, const struct node_map *m)
{
	size_t places = 0, models = map_model_count(m);
	uint32_t used = 0;
	for (size_t i = 0; i < models; i++)
		places += map_model_at(m, i)->count;
	v->places = mem_resize(NULL, places + 1, sizeof(*v->places));
	v->labels = mem_resize(NULL, models * 2 + 1, sizeof(*v->labels));
	for (size_t i = 0; i < models; i++) {
		const struct map_model *model = map_model_at(m, i);
		char texts[2][MODEL_LABEL_SIZE];
		uint32_t first = used;
		if (!model->name)
			continue;
		for (uint32_t at = 0; at < model->count; at++) {
			const struct map_place *p = &model->places[at];
			if (p->ready)
				v->places[used++] = (struct view_place){p->node, p->queue_us};
		}
		for (size_t n = map_model_labels(model, texts); n-- > 0;) {
			struct view_label *l = &v->labels[v->label_count];
			memcpy(l->text, texts[n], sizeof(l->text));
			l->first = first;
			l->count = used - first;
			hash_index_add(&v->by_label, hash_str(str_from(l->text)), v->label_count++);
		}
	}
}

static struct view_distances *distances_of(const struct node_map *m, const struct dns_view *before, int64_t now_us)
{
	const struct distances *all = map_distances_all(m);
	struct view_distances *old = before ? before->shared : NULL;
	/* A site the old ones do not know must not wait: nodes point to it. */
	if (old && old->sites == all->count &&
	    (old->distances.changes == all->changes || now_us - old->made_us < VIEW_DISTANCES_US)) {
		old->views++;
		return old;
	}
	struct view_distances *d = NEW(struct view_distances);
	d->views = 1;
	d->made_us = now_us;
	d->sites = all->count;
	distances_copy(all, &d->distances);
	return d;
}

struct dns_view *dns_view_new(const struct node_map *m, const struct dns_view *before, int64_t now_us)
{
	struct dns_view *v = NEW(struct dns_view);
	v->version = node_map_version(m);
	v->copy = map_is_copy(m);
	v->node_count = (uint32_t)node_map_count(m);
	v->hots = mem_resize(NULL, v->node_count + 1u, sizeof(*v->hots));
	if (v->node_count > 0)
		memcpy(v->hots, map_hots(m), v->node_count * sizeof(*v->hots));
	models_copy(v, m);
	v->zones = lpm_share(map_zones(m));
	v->named = map_named(m) ? lpm_share(map_named(m)) : NULL;
	v->shared = distances_of(m, before, now_us);
	v->distances = &v->shared->distances;
	return v;
}

void dns_view_free(struct dns_view *v)
{
	if (!v)
		return;
	if (--v->shared->views == 0) {
		distances_fini(&v->shared->distances);
		free(v->shared);
	}
	lpm_free(v->zones);
	lpm_free(v->named);
	hash_index_fini(&v->by_label);
	free(v->labels);
	free(v->places);
	free(v->hots);
	free(v);
}

const struct view_label *dns_view_labelled(const struct dns_view *v, struct str label, size_t *cursor)
{
	uint32_t at;
	while (hash_index_next(&v->by_label, hash_str(label), cursor, &at)) {
		if (str_equal(str_from(v->labels[at].text), label))
			return &v->labels[at];
	}
	return NULL;
}

uint32_t dns_view_site_of(const struct dns_view *v, const struct ip *client, uint8_t *ret_scope)
{
	return map_find_site(v->named, v->zones, client, ret_scope);
}
