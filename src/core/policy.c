/* SPDX-License-Identifier: Apache-2.0 */
/* Each policy is a function of the places that can take the request; who those are is the caller's. */
#include "core/policy.h"

#include <math.h>

#define CACHE_SHARE 0.3    /* of a prompt that must be held to go there (vllm-router's default) */
#define UNEVEN_REQUESTS 64 /* loads are far apart by so many requests */
#define UNEVEN_TIMES 1.5   /* and so many times */
#define BOUND_OVER_MEAN 1.25

static double requests_at(const struct policy_pool *p, uint32_t place)
{
	const struct map_place *at = &p->model->places[place];
	if (!p->ledger || ledger_count(p->ledger) == 0)
		return at->busy;
	const struct map_node *n = map_node_at(p->map, at->node);
	struct ledger_load own =
	    ledger_unseen(p->ledger, str_from(n->entry.report.id), str_from(p->model->name), map_seen(n, p->self_id));
	return (double)at->busy + own.running;
}

static double load_at(const struct policy_pool *p, uint32_t place)
{
	return requests_at(p, place) / p->model->places[place].slots;
}

static uint32_t below(const struct policy_pool *p, uint32_t count)
{
	return p->rng ? (uint32_t)rng_below(p->rng, count) : 0;
}

static uint32_t draw(const struct policy_pool *p)
{
	double all = 0;
	if (!p->weight || !p->rng)
		return p->fit[below(p, p->fit_count)];
	for (uint32_t i = 0; i < p->fit_count; i++)
		all += p->weight(p->arg, p->fit[i]);
	double left = rng_unit(p->rng) * all;
	for (uint32_t i = 0; i < p->fit_count; i++)
		if ((left -= p->weight(p->arg, p->fit[i])) <= 0)
			return p->fit[i];
	return p->fit[p->fit_count - 1];
}

/* Groups of nodes behind one place have no turns: each is drawn as often as it has nodes. */
static uint32_t round_robin(const struct policy_pool *p)
{
	return p->turn && !p->weight ? p->fit[(*p->turn)++ % p->fit_count] : draw(p);
}

static uint32_t power_of_two(const struct policy_pool *p)
{
	uint32_t a = draw(p), b = draw(p);
	return load_at(p, b) < load_at(p, a) ? b : a;
}

static uint32_t least_load(const struct policy_pool *p)
{
	uint32_t first = below(p, p->fit_count), best = p->fit[0];
	double least = 1e300;
	for (uint32_t i = 0; i < p->fit_count; i++) {
		uint32_t at = p->fit[(first + i) % p->fit_count];
		double load = load_at(p, at);
		if (load < least) {
			least = load;
			best = at;
		}
	}
	return best;
}

/* ---- by what they hold --------------------------------------------------------------------------- */

static const struct route_warm *warm_at(const struct policy_pool *p, uint32_t place)
{
	const struct node_report *r = &map_node_at(p->map, p->model->places[place].node)->entry.report;
	for (size_t i = 0; i < p->warm_count; i++)
		if (p->warm[i].boot == r->boot && strcmp(p->warm[i].id, r->id) == 0)
			return &p->warm[i];
	return NULL;
}

static bool uneven(const struct policy_pool *p)
{
	double least = 1e300, most = 0;
	for (uint32_t i = 0; i < p->fit_count; i++) {
		double n = requests_at(p, p->fit[i]);
		least = n < least ? n : least;
		most = n > most ? n : most;
	}
	return most - least > UNEVEN_REQUESTS && most > UNEVEN_TIMES * least;
}

static uint32_t cache_aware(const struct policy_pool *p)
{
	int32_t most = 0;
	uint32_t best = 0;
	if (p->warm_count == 0 || uneven(p))
		return least_load(p);
	for (uint32_t i = 0; i < p->fit_count; i++) {
		const struct route_warm *w = warm_at(p, p->fit[i]);
		if (w && w->tokens > most) {
			most = w->tokens;
			best = p->fit[i];
		}
	}
	return most > CACHE_SHARE * p->prompt_tokens ? best : least_load(p);
}

uint64_t policy_rank(const struct node_map *map, uint32_t node, uint64_t key)
{
	return hash_join(key, map_node_at(map, node)->hash);
}

/* Of those that bound leaves, the one the key belongs to. The least loaded one is always left. */
static uint32_t by_key(const struct policy_pool *p, uint64_t key)
{
	double all = 1;
	for (uint32_t i = 0; i < p->fit_count; i++)
		all += requests_at(p, p->fit[i]);
	double bound = ceil(BOUND_OVER_MEAN * all / p->fit_count);
	uint64_t most = 0;
	uint32_t best = UINT32_MAX;
	for (uint32_t i = 0; i < p->fit_count; i++) {
		uint64_t rank = policy_rank(p->map, p->model->places[p->fit[i]].node, key);
		if (rank > most && requests_at(p, p->fit[i]) < bound) {
			most = rank;
			best = p->fit[i];
		}
	}
	return best == UINT32_MAX ? least_load(p) : best;
}

static uint32_t prefix_hash(const struct policy_pool *p)
{
	return p->key ? by_key(p, p->key) : draw(p);
}

static uint32_t session(const struct policy_pool *p)
{
	if (!p->session_key)
		return least_load(p);
	for (uint32_t i = 0; i < p->fit_count && p->warm_count > 0; i++) {
		const struct route_warm *w = warm_at(p, p->fit[i]);
		if (w && w->session)
			return p->fit[i];
	}
	return by_key(p, p->session_key);
}

const struct route_policy route_policies[] = {
    {"mdn", NULL},
    {"round_robin", round_robin},
    {"random", draw},
    {"power_of_two", power_of_two},
    {"least_load", least_load},
    {"cache_aware", cache_aware},
    {"prefix_hash", prefix_hash},
    {"session", session},
    {NULL, NULL},
};

const struct route_policy *route_policy_find(struct str name)
{
	for (const struct route_policy *p = route_policies; p->name; p++)
		if (str_equal(str_from(p->name), name))
			return p;
	return NULL;
}
