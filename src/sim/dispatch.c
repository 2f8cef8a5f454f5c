/* SPDX-License-Identifier: Apache-2.0 */
/* Ids are made of numbers, so that an answer's id or address is a node's number again. */
#include "sim/dispatch.h"

#include "core/dns_answer.h"
#include "core/node_map_index.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define VIEW_US INT64_C(1000000)
#define TIMED_EVERY 64 /* decisions: reading the clock costs as much as one */

static struct node_map *map_made(const struct sim_world *w, bool still)
{
	struct node_map *map = NULL;
	if (still) {
		struct error err;
		int rc = node_map_parse(STR("{\"nodes\":[]}"), 0, &map, &err);
		assert(rc == 0);
	} else {
		map = node_map_new();
	}
	sim_world_tell(w, map);
	return map;
}

void dispatch_init(struct dispatch *d, const struct sim_world *w, enum sim_policy policy, bool still)
{
	*d = (struct dispatch){.world = w, .policy = policy, .map = map_made(w, still)};
	rng_init(&d->rng, w->scenario->seed * 7919 + 1);
	d->ledgers = mem_new(w->site_count * sizeof(struct ledger *));
	for (uint32_t i = 0; i < w->site_count; i++)
		d->ledgers[i] = ledger_new(1);
	d->answers = mem_new((size_t)w->city_count * 2 * w->scenario->model_count * sizeof(*d->answers));
	d->next = mem_new(w->site_count * sizeof(uint32_t));
	d->pool_nodes = mem_new(w->node_count * sizeof(uint32_t));
}

void dispatch_fini(struct dispatch *d)
{
	for (uint32_t i = 0; i < d->world->site_count; i++)
		ledger_free(d->ledgers[i]);
	node_map_free(d->map);
	free(d->ledgers);
	free(d->answers);
	free(d->next);
	free(d->pool_nodes);
	free(d->row);
	free(d->weights);
	dns_view_free(d->view);
	*d = (struct dispatch){0};
}

void dispatch_node_id(uint32_t node, char ret_id[static NODE_ID_SIZE])
{
	snprintf(ret_id, NODE_ID_SIZE, "n-%u", node);
}

void dispatch_site_id(uint32_t site, char ret_id[static NODE_ID_SIZE])
{
	snprintf(ret_id, NODE_ID_SIZE, "g-%u", site);
}

void dispatch_report(const struct dispatch *d, uint32_t node, struct node_report *r)
{
	*r = (struct node_report){.roles = ROLE_EDGE, .state = NODE_READY, .boot = 1};
	dispatch_node_id(node, r->id);
	dispatch_node_id(node, r->name);
	snprintf(r->site, sizeof(r->site), "%s", d->world->cities[d->world->nodes[node].site].name);
	snprintf(r->node_url, sizeof(r->node_url), "https://192.168.%u.%u:7443", node >> 8 & 255, node & 255);
	snprintf(r->api_url, sizeof(r->api_url), "https://192.168.%u.%u", node >> 8 & 255, node & 255);
}

/* ---- names ----------------------------------------------------------------------------------- */

static uint32_t node_of_address(const struct ip *ip)
{
	return (uint32_t)ip->bytes[2] << 8 | ip->bytes[3];
}

/* The picture the name server answers from, as old as its scheduler's at most. */
static void view_renew(struct dispatch *d, int64_t now_us)
{
	if (d->view && now_us - d->view_us < VIEW_US)
		return;
	struct dns_view *next = dns_view_new(d->map, d->view, now_us);
	dns_view_free(d->view);
	d->view = next;
	d->view_us = now_us;
	if (d->row_count < next->distances->count) {
		d->row_count = next->distances->count;
		d->row = mem_resize(d->row, d->row_count, sizeof(*d->row));
	}
}

/* The authoritative server's answer to a resolver that is seen to be in `city`. */
static void ask(struct dispatch *d, uint32_t city, uint32_t model, int64_t now_us, struct dispatch_answer *a)
{
	const struct sim_world *w = d->world;
	char text[32];
	struct ip ip;
	uint8_t scope;
	struct dns_choices choices;
	struct dns_wish wish = {.label = str_from(w->labels[model]), .bits = 32};
	view_renew(d, now_us);
	snprintf(text, sizeof(text), "10.%u.%u.53", city >> 8, city & 255);
	int rc = ip_parse(str_from(text), &ip);
	assert(rc == 0);
	uint32_t site = dns_view_site_of(d->view, &ip, &scope);
	if (site != MAP_NONE) {
		distances_row(d->view->distances, site, d->row);
		wish.row = d->row;
	}
	dns_choose(d->view, &wish, now_us, &choices);
	a->count = (uint8_t)(choices.count < DISPATCH_ADDRESSES ? choices.count : DISPATCH_ADDRESSES);
	size_t alike = choices.other > 0 ? a->count - 1u : a->count;
	a->equal = (uint8_t)(choices.equal < alike ? choices.equal : alike);
	for (unsigned i = 0; i < a->count; i++) {
		size_t nth = dns_nth(i, a->count, choices.equal, choices.other, 0);
		a->nodes[i] = node_of_address(&choices.list[nth].ip);
	}
	a->until_us = now_us + dns_ttl_s(w->scenario->dns.ttl_us, choices.failing) * INT64_C(1000000);
}

/* All addresses of the pool, in turns. */
static void ask_pool(struct dispatch *d, int64_t now_us, struct dispatch_answer *a)
{
	const struct sim_world *w = d->world;
	a->count = (uint8_t)(w->site_count < DISPATCH_ADDRESSES ? w->site_count : DISPATCH_ADDRESSES);
	a->equal = 1; /* the resolver gives what it holds, in that order */
	for (unsigned i = 0; i < a->count; i++)
		a->nodes[i] = w->site_first[(d->turn + i) % w->site_count];
	d->turn++;
	a->until_us = now_us + w->scenario->dns.ttl_us;
}

struct dispatch_answer dispatch_resolve(struct dispatch *d, uint32_t city, uint32_t model, int64_t now_us)
{
	const struct scenario *s = d->world->scenario;
	bool public = s->dns.public_share > 0 && rng_unit(&d->rng) < s->dns.public_share;
	uint32_t seen = public && rng_unit(&d->rng) >= s->dns.ecs_share ? 0 : city;
	struct dispatch_answer *a = &d->answers[((size_t)seen * 2 + public) * s->model_count + model];
	if (a->count == 0 || now_us >= a->until_us) {
		if (d->policy == SIM_SINGLE_POOL)
			ask_pool(d, now_us, a);
		else
			ask(d, seen, model, now_us, a);
	}
	struct dispatch_answer mine = *a;
	if (mine.equal > 1) { /* resolvers turn them */
		uint32_t first = (uint32_t)rng_below(&d->rng, mine.equal), swap = mine.nodes[0];
		mine.nodes[0] = mine.nodes[first];
		mine.nodes[first] = swap;
	}
	return mine;
}

/* ---- nodes ----------------------------------------------------------------------------------- */

static bool is_among(uint32_t node, const uint32_t *list, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		if (list[i] == node)
			return true;
	return false;
}

static uint32_t number_of(const char *id)
{
	return (uint32_t)strtoul(id + 2, NULL, 10);
}

static uint32_t by_score(struct dispatch *d, uint32_t site, const struct route_query *query, int64_t now_us)
{
	struct route_decision decision;
	struct timespec begin, end;
	struct error err;
	bool timed = (uint64_t)d->decisions % TIMED_EVERY == 0;
	if (timed)
		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin);
	int rc = route_decide(d->map, d->ledgers[site], query, now_us, &d->rng, &decision, &err);
	if (timed) {
		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
		d->decision_s +=
		    ((double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9) * TIMED_EVERY;
	}
	d->decisions++;
	uint32_t node = rc == 0 ? number_of(decision.candidates[decision.choice].id) : UINT32_MAX;
	route_decision_fini(&decision);
	return node;
}

struct rival {
	const struct dispatch *d;
	const struct map_model *model;
};

static uint32_t rival_number(const struct rival *r, uint32_t place)
{
	return number_of(map_node_at(r->d->map, r->model->places[place].node)->entry.report.id);
}

/* A group of nodes is drawn as often as it has nodes. */
static double rival_weight(const void *arg, uint32_t place)
{
	const struct rival *r = arg;
	return r->d->weights[rival_number(r, place)];
}

static bool may_take(const struct rival *r, uint32_t place, const uint32_t *excluded, uint32_t count, int64_t now_us)
{
	const struct map_place *p = &r->model->places[place];
	return p->ready && map_health(r->d->map, &map_hots(r->d->map)[p->node], now_us) != NODE_DOWN &&
	       !is_among(rival_number(r, place), excluded, count);
}

static uint32_t by_rival(struct dispatch *d, uint32_t site, uint32_t model, const uint32_t *excluded, uint32_t count,
                         int64_t now_us)
{
	char self[NODE_ID_SIZE];
	const struct rival r = {d, map_model_find(d->map, str_from(d->world->model_names[model]))};
	const struct route_policy *policy = route_policy_find(str_from(sim_policy_names[d->policy]));
	uint32_t fit = 0;
	assert(policy && policy->choose);
	if (!r.model)
		return UINT32_MAX;
	for (uint32_t i = 0; i < r.model->count; i++)
		if (may_take(&r, i, excluded, count, now_us))
			d->pool_nodes[fit++] = i;
	if (fit == 0)
		return UINT32_MAX;
	dispatch_site_id(site, self);
	const struct policy_pool pool = {
	    .map = d->map,
	    .model = r.model,
	    .ledger = d->ledgers[site],
	    .self_id = str_from(self),
	    .fit = d->pool_nodes,
	    .fit_count = fit,
	    .weight = d->weights ? rival_weight : NULL,
	    .arg = &r,
	    .turn = &d->next[site],
	    .rng = &d->rng,
	};
	return rival_number(&r, policy->choose(&pool));
}

static uint32_t by_pool(const struct dispatch *d, uint32_t site, uint32_t model, const uint32_t *excluded,
                        uint32_t count, dispatch_exact_fn *exact, const void *arg)
{
	const struct sim_world *w = d->world;
	uint32_t best = UINT32_MAX;
	double least = 1e300;
	for (uint32_t n = w->site_first[site]; n < w->site_first[site] + w->site_nodes[site]; n++) {
		if (!(w->nodes[n].models >> model & 1) || is_among(n, excluded, count))
			continue;
		double load = exact(arg, n);
		if (load < least) {
			least = load;
			best = n;
		}
	}
	return best;
}

/* One map stands for those of all gateways: each has its part of what is in flight. Groups of nodes (weights) report
 * after each parcel: there is nothing to guess. */
static void estimate(struct dispatch *d, int64_t now_us)
{
	size_t own = 0;
	if (d->weights || now_us - d->estimated_us < NODE_ESTIMATE_US)
		return;
	for (uint32_t i = 0; i < d->world->site_count; i++)
		own += ledger_count(d->ledgers[i]);
	node_map_estimate(d->map, own / d->world->site_count, now_us);
	d->estimated_us = now_us;
}

uint32_t dispatch_decide(struct dispatch *d, uint32_t site, uint32_t model, int32_t prompt_tokens,
                         const uint32_t *excluded, uint32_t excluded_count, int64_t now_us, dispatch_exact_fn *exact,
                         const void *arg)
{
	char self[NODE_ID_SIZE], ids[SCENARIO_TRIES_MAX][NODE_ID_SIZE];
	struct str names[SCENARIO_TRIES_MAX];
	assert(excluded_count < SCENARIO_TRIES_MAX);
	estimate(d, now_us);
	if (d->policy == SIM_SINGLE_POOL)
		return by_pool(d, site, model, excluded, excluded_count, exact, arg);
	if (d->policy != SIM_MDN)
		return by_rival(d, site, model, excluded, excluded_count, now_us);
	for (uint32_t i = 0; i < excluded_count; i++) {
		dispatch_node_id(excluded[i], ids[i]);
		names[i] = str_from(ids[i]);
	}
	dispatch_site_id(site, self);
	const struct route_query query = {
	    .model = str_from(d->world->model_names[model]),
	    .client_site = str_from(d->world->cities[site].name),
	    .self_id = str_from(self),
	    .prompt_tokens = prompt_tokens,
	    .excluded = names,
	    .excluded_count = excluded_count,
	    .brief = true,
	};
	return by_score(d, site, &query, now_us);
}
