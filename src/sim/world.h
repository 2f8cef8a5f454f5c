/* SPDX-License-Identifier: Apache-2.0 */
/* world.h - the places, nodes and users of a scenario, drawn from its seed: the same seed, the same world.
 *
 * Cities are places of users; the first `site_count` of them are sites, with nodes. Users come from prefix 10.H.L.0/24
 * of city H * 256 + L; node n's public address is 192.168.H.L of n. Regions lie on a grid; cities around their
 * region's capital, populations by Zipf's law. Times are microseconds of virtual time. Everything is owned by the
 * world; immutable once made.
 */
#ifndef MDN_SIM_WORLD_H
#define MDN_SIM_WORLD_H

#include "base/rng.h"
#include "core/node_map.h"
#include "sim/scenario.h"

struct sim_city {
	double x_km, y_km, weight, weights_before; /* weights: shares of all users */
	uint32_t region, nearest;                  /* from 0; nearest: site */
	char name[16];
};

struct sim_node {
	uint32_t site;
	uint32_t models; /* bits */
};

struct sim_world {
	const struct scenario *scenario;
	struct sim_city *cities;
	uint32_t city_count, site_count, node_count;
	struct sim_node *nodes; /* by site, the largest first */
	uint32_t *site_nodes, *site_first;
	int32_t *rtt_us; /* [city * site_count + site], without access */
	char (*labels)[64];
	char (*model_names)[96]; /* "name:latest" */
};

/* pools: all nodes at so many addresses in the largest cities, instead; 0: at the sites. */
void sim_world_init(struct sim_world *w, const struct scenario *s, uint32_t pools);
void sim_world_fini(struct sim_world *w);
static inline int64_t sim_rtt_us(const struct sim_world *w, uint32_t city, uint32_t site)
{
	return w->rtt_us[(size_t)city * w->site_count + site];
}
/* Tells the map where cities are, how far from one another, and which prefixes belong to them. */
void sim_world_tell(const struct sim_world *w, struct node_map *map);

/* Requests a second: of everything, and the factor of one model and region on top (1: no flash). */
double sim_rate(const struct scenario *s, int64_t now_us);
double sim_flash(const struct scenario *s, int64_t now_us, uint32_t model, uint32_t region);
double sim_rate_most(const struct scenario *s); /* no product of the two is above it */
uint32_t sim_city_draw(const struct sim_world *w, struct rng *rng);
uint32_t sim_model_draw(const struct scenario *s, struct rng *rng);

/* Lognormal lengths, cut off. sim_tokens_at: that of a share of the way through the distribution. */
double sim_normal_at(double share); /* inverse of the normal distribution */
int32_t sim_tokens_at(double median, double sigma, double most, double share);
double sim_tokens_mean(double median, double sigma, double most);

/* Offered load over capacity at a time: streams, prefill and KV, whichever is worst; of all, or of the model that fares
 * worst. Above 1 there is more work than the hardware can do. */
double sim_offered(const struct sim_world *w, int64_t now_us);

#endif
