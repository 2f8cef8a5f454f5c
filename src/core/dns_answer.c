/* SPDX-License-Identifier: Apache-2.0 */
/* One sweep over the places of the model (or all nodes), keeping the DNS_CHOICES_MAX best by (tier, cost). Tiers part
 * the healthy from the late, the draining and the dead; only the best tier found is answered. A further address is
 * worth naming while it is about as good as the best: resolvers shuffle, so each will get its share of the clients. */
#include "core/dns_answer.h"

#define FAILING_US (60 * INT64_C(1000) * 1000) /* a node that is dead for longer is no news */
#define EQUAL_US (2 * INT64_C(1000))           /* ranked alike: take turns */
#define NAMED_US (20 * INT64_C(1000))          /* or a half more than the best: still named */
#define IDLE_US (1000 * INT64_C(1000))         /* api.ZONE: a node without a ready model can only forward */

struct choosing {
	const struct dns_view *view;
	const struct dns_wish *wish;
	int64_t now_us;
	struct dns_choice best[DNS_CHOICES_MAX]; /* sorted */
	size_t count;
	bool failing;
};

const char *dns_tier_name(enum dns_tier tier)
{
	static const char *const names[] = {"up", "suspect", "draining", "down"};
	return names[tier];
}

static enum dns_place model_place(const struct dns_view *v, struct str label, struct str *ret_model)
{
	size_t cursor = 0;
	if (!dns_view_labelled(v, label, &cursor))
		return DNS_PLACE_NOWHERE;
	*ret_model = label;
	return DNS_PLACE_MODEL;
}

enum dns_place dns_locate(const struct dns_view *v, const struct str *labels, int count, struct str *ret_model)
{
	if (count < 0)
		return DNS_PLACE_OUTSIDE;
	if (count == 0)
		return DNS_PLACE_APEX;
	if (count == 1 && str_equal(labels[0], STR("ns")))
		return DNS_PLACE_NS;
	if (count == 1 && str_starts(labels[0], STR("m-")))
		return model_place(v, (struct str){labels[0].base + 2, labels[0].len - 2}, ret_model);
	if (count > 2 || !str_equal(labels[count - 1], STR("api")))
		return DNS_PLACE_NOWHERE;
	if (count == 1)
		return DNS_PLACE_API;
	return model_place(v, labels[0], ret_model);
}

static bool is_before(const struct dns_choice *a, const struct dns_choice *b)
{
	return a->tier != b->tier ? a->tier < b->tier : a->cost_us < b->cost_us;
}

static bool same_address(const struct ip *a, const struct ip *b)
{
	return a->bits == b->bits && memcmp(a->bytes, b->bytes, a->bits / 8u) == 0;
}

/* Insertion into a short sorted list; an address already there keeps its better rank. */
static void keep(struct choosing *s, const struct dns_choice *c)
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
	enum node_health health = map_hot_health(h, s->view->copy, s->now_us);
	if (health != NODE_UP && s->now_us - h->received_us < FAILING_US)
		s->failing = true;
	if (h->api.bits != s->wish->bits || (s->wish->tls && !h->api_tls))
		return;
	struct dns_choice c = {.ip = h->api, .port = h->api_port, .site = h->site};
	c.tier = health == NODE_DOWN          ? DNS_TIER_DOWN
	         : h->draining || h->starting ? DNS_TIER_DRAINING
	         : health == NODE_SUSPECT     ? DNS_TIER_SUSPECT
	                                      : DNS_TIER_UP;
	c.cost_us = (s->wish->row ? s->wish->row[h->site] : NODE_DISTANCE_UNKNOWN_US) + queue_us;
	if (c.tier == DNS_TIER_DOWN) /* the one heard of last is the likeliest to be back */
		c.cost_us = s->now_us - h->received_us;
	keep(s, &c);
}

static void sweep_model(struct choosing *s)
{
	const struct view_label *l;
	for (size_t cursor = 0; (l = dns_view_labelled(s->view, s->wish->label, &cursor));) {
		for (uint32_t i = l->first; i < l->first + l->count; i++)
			consider(s, &s->view->hots[s->view->places[i].node], s->view->places[i].queue_us);
	}
}

static void sweep_all(struct choosing *s)
{
	for (uint32_t i = 0; i < s->view->node_count; i++) {
		const struct map_hot *h = &s->view->hots[i];
		if (h->has_api)
			consider(s, h, h->least_queue_us >= 0 ? h->least_queue_us : IDLE_US);
	}
}

/* A client whose address is dead takes the next one: one site must not be all that it was told. */
static size_t other_site(const struct dns_choices *c)
{
	size_t i = 1;
	while (i < c->count && c->list[i].site == c->list[0].site)
		i++;
	return i < c->count && i >= DNS_ADDRESSES_MAX && i >= c->equal ? i : 0;
}

void dns_choose(const struct dns_view *v, const struct dns_wish *w, int64_t now_us, struct dns_choices *ret_choices)
{
	struct choosing s;
	s.view = v;
	s.wish = w;
	s.now_us = now_us;
	s.count = 0;
	s.failing = false;
	if (w->label.len > 0)
		sweep_model(&s);
	if (s.count == 0) /* nobody is ready with it: any API, which can forward or queue */
		sweep_all(&s);

	ret_choices->count = ret_choices->equal = ret_choices->other = 0;
	ret_choices->failing = s.failing;
	if (s.count == 0)
		return;
	int64_t best_us = s.best[0].cost_us;
	int64_t named_us = best_us / 2 > NAMED_US ? best_us / 2 : NAMED_US;
	for (size_t i = 0; i < s.count && s.best[i].tier == s.best[0].tier && s.best[i].cost_us <= best_us + named_us;
	     i++) {
		ret_choices->list[ret_choices->count++] = s.best[i];
		ret_choices->equal += s.best[i].cost_us <= best_us + EQUAL_US;
	}
	ret_choices->other = other_site(ret_choices);
}

size_t dns_nth(size_t i, size_t named, size_t equal, size_t other, uint64_t turn)
{
	if (other > 0 && i + 1 == named)
		return other;
	return i < equal ? (turn + i) % equal : i;
}

uint32_t dns_ttl_s(int64_t ttl_us, bool failing)
{
	int64_t s = (failing ? ttl_us / 2 : ttl_us) / 1000000;
	return s < 1 ? 1 : s > 604800 ? 604800 : (uint32_t)s;
}
