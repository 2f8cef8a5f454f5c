/* SPDX-License-Identifier: Apache-2.0 */
/* One sweep over the places of the model (or all nodes), keeping the DNS_CHOICES_MAX best by (tier, cost). Tiers part
 * the healthy from the late, the draining and the dead; only the best tier found is answered. A further address is
 * worth naming while it is about as good as the best: resolvers shuffle, so each will get its share of the clients. */
#include "core/dns_answer.h"

#include "core/node_map_index.h"

#define FAILING_US (60 * INT64_C(1000) * 1000) /* a node that is dead for longer is no news */
#define EQUAL_US (2 * INT64_C(1000))           /* ranked alike: take turns */
#define NAMED_US (20 * INT64_C(1000))          /* or a half more than the best: still named */
#define IDLE_US (1000 * INT64_C(1000))         /* api.ZONE: a node without a ready model can only forward */

enum tier { TIER_UP, TIER_SUSPECT, TIER_DRAINING, TIER_DOWN, TIER_NONE };

struct choice {
	struct ip ip;
	enum tier tier;
	int64_t cost_us;
};

struct choosing {
	const struct node_map *map;
	const uint32_t *row;
	int64_t now_us;
	unsigned bits;
	struct choice best[DNS_CHOICES_MAX]; /* sorted */
	size_t count;
	bool failing;
};

enum dns_place dns_locate(const struct node_map *m, const struct str *labels, int count, struct str *ret_model)
{
	size_t cursor = 0;
	if (count < 0)
		return DNS_PLACE_OUTSIDE;
	if (count == 0)
		return DNS_PLACE_APEX;
	if (count == 1 && str_equal(labels[0], STR("ns")))
		return DNS_PLACE_NS;
	if (count > 2 || !str_equal(labels[count - 1], STR("api")))
		return DNS_PLACE_NOWHERE;
	if (count == 1)
		return DNS_PLACE_API;
	if (!map_model_labelled(m, labels[0], &cursor))
		return DNS_PLACE_NOWHERE;
	*ret_model = labels[0];
	return DNS_PLACE_MODEL;
}

static bool is_before(const struct choice *a, const struct choice *b)
{
	return a->tier != b->tier ? a->tier < b->tier : a->cost_us < b->cost_us;
}

static bool same_address(const struct ip *a, const struct ip *b)
{
	return a->bits == b->bits && memcmp(a->bytes, b->bytes, a->bits / 8u) == 0;
}

/* Insertion into a short sorted list; an address already there keeps its better rank. */
static void keep(struct choosing *s, const struct choice *c)
{
	size_t at = s->count;
	if (at == DNS_CHOICES_MAX && !is_before(c, &s->best[at - 1]))
		return;
	for (size_t i = 0; i < s->count; i++) {
		if (!same_address(&s->best[i].ip, &c->ip))
			continue;
		if (!is_before(c, &s->best[i]))
			return;
		at = i;
		s->count--; /* the old one is overwritten below */
		break;
	}
	if (at == DNS_CHOICES_MAX)
		at--;
	else
		s->count++;
	for (; at > 0 && is_before(c, &s->best[at - 1]); at--)
		s->best[at] = s->best[at - 1];
	s->best[at] = *c;
}

static void consider(struct choosing *s, const struct map_hot *h, int64_t queue_us)
{
	enum node_health health = map_health(s->map, h, s->now_us);
	if (health != NODE_UP && s->now_us - h->received_us < FAILING_US)
		s->failing = true;
	if (h->api.bits != s->bits)
		return;
	struct choice c = {.ip = h->api};
	c.tier = health == NODE_DOWN          ? TIER_DOWN
	         : h->draining || h->starting ? TIER_DRAINING
	         : health == NODE_SUSPECT     ? TIER_SUSPECT
	                                      : TIER_UP;
	c.cost_us = (s->row ? s->row[h->site] : NODE_DISTANCE_UNKNOWN_US) + queue_us;
	if (c.tier == TIER_DOWN) /* the one heard of last is the likeliest to be back */
		c.cost_us = s->now_us - h->received_us;
	keep(s, &c);
}

static void sweep_model(struct choosing *s, struct str label)
{
	const struct map_model *model;
	for (size_t cursor = 0; (model = map_model_labelled(s->map, label, &cursor));) {
		for (uint32_t i = 0; i < model->count; i++) {
			const struct map_place *p = &model->places[i];
			if (p->ready)
				consider(s, &map_hots(s->map)[p->node], p->queue_us);
		}
	}
}

static void sweep_all(struct choosing *s)
{
	size_t count = node_map_count(s->map);
	const struct map_hot *hots = map_hots(s->map);
	for (size_t i = 0; i < count; i++) {
		if (hots[i].has_api)
			consider(s, &hots[i], hots[i].least_queue_us >= 0 ? hots[i].least_queue_us : IDLE_US);
	}
}

void dns_choose(const struct node_map *m, struct str model, unsigned bits, struct str client_site, int64_t now_us,
                struct dns_choices *ret_choices)
{
	struct choosing s;
	s.map = m;
	s.row = NULL;
	s.now_us = now_us;
	s.bits = bits;
	s.count = 0;
	s.failing = false;
	uint32_t site = client_site.len > 0 ? map_site_find(m, client_site) : MAP_NONE;
	if (site != MAP_NONE)
		s.row = map_distances(m, site);
	if (model.len > 0)
		sweep_model(&s, model);
	if (s.count == 0) /* nobody is ready with it: any API, which can forward or queue */
		sweep_all(&s);

	ret_choices->count = ret_choices->equal = 0;
	ret_choices->failing = s.failing;
	if (s.count == 0)
		return;
	int64_t best_us = s.best[0].cost_us;
	int64_t named_us = best_us / 2 > NAMED_US ? best_us / 2 : NAMED_US;
	for (size_t i = 0; i < s.count && s.best[i].tier == s.best[0].tier && s.best[i].cost_us <= best_us + named_us;
	     i++) {
		ret_choices->addresses[ret_choices->count++] = s.best[i].ip;
		ret_choices->equal += s.best[i].cost_us <= best_us + EQUAL_US;
	}
}

uint32_t dns_ttl_s(int64_t ttl_us, bool failing)
{
	int64_t s = (failing ? ttl_us / 2 : ttl_us) / 1000000;
	return s < 1 ? 1 : s > 604800 ? 604800 : (uint32_t)s;
}
