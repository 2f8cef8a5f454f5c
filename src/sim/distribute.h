/* SPDX-License-Identifier: Apache-2.0 */
/* distribute.h - a model on its way to many nodes: the shipping plan (core/spread, core/chunk_plan) over fluid links.
 *
 * What is real: who asks whom for what and when, and the center's replanning. What is a model: links (each node's way
 * up and down, each site's WAN link both ways, a round trip), that a request costs a round trip, that peers hear twice
 * a second what others hold. One origin at a site of its own. Chunks may be coarser than real ones, which only makes
 * it look slower. Bytes, seconds, bytes per second.
 */
#ifndef MDN_SIM_DISTRIBUTE_H
#define MDN_SIM_DISTRIBUTE_H

#include <stdbool.h>
#include <stdint.h>

struct sim_options {
	uint32_t nodes, sites, chunks;
	double size;
	double origin_rate, wan_rate; /* wan_rate of each site, both ways; 0: as the sum of its nodes */
	const double *rates;          /* nodes are given these in turn; both ways */
	uint32_t rate_count;
	double slow_share, slow_factor; /* so many of the nodes have so much of their rate */
	double failing;                 /* share of nodes that die on the way, silently */
	double late;                    /* share of nodes that come halfway */
	double origin_dies_copies;      /* the origin dies once it sent so many; 0: never */
	bool center_dies;               /* after the first plan: nobody replans */
	double rtt_s, wan_rtt_s;
	uint64_t seed;
	double give_up_s; /* 0: 50 bounds */
};

/* Nodes, rates and links, as drawn from the seed. Node 0 is the origin, at site 0. */
struct sim_network {
	double *rates, *wan, *population; /* of each node; of each site: its link, its nodes */
	uint32_t *sites;                  /* of each node */
};
void sim_network_init(struct sim_network *n, const struct sim_options *o);
void sim_network_fini(struct sim_network *n);

struct sim_result {
	double last_s, median_s, bound_s;                 /* of nodes that lived */
	double origin_copies, wan_copies, wan_copies_out; /* the most that any site took in, gave out */
	uint32_t alive, finished;
	double duplicates; /* bytes that came twice, of all */
};

void sim_distribute(const struct sim_options *o, struct sim_result *ret_result);

/* On the same network, nobody failing. star, tree (two children each), chain: by calculation; BitTorrent: by the same
 * fluid, 20 random neighbours, 5 uploads at once, rarest first. */
struct sim_rivals {
	double star_s, tree_s, chain_s, torrent_s, torrent_copies, torrent_wan_copies;
};
void sim_rivals(const struct sim_options *o, struct sim_rivals *ret_rivals);

#endif
