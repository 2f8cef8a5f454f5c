/* SPDX-License-Identifier: Apache-2.0 */
/* mdn sim distribute - what a distribution would take, by the code that would do it.
 *
 * Chunks are those of a network, of 16 MiB, as long as a run moves no more than WORK of them; beyond that they are
 * coarser, which only makes it look slower: a hop costs more time.
 */
#include "base/clock.h"
#include "base/str.h"
#include "cli/options.h"
#include "sim/distribute.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define CHUNK_BYTES (UINT64_C(16) << 20)
#define WORK UINT64_C(6000000)
#define CHUNKS_MIN UINT64_C(600)
#define NODES_MAX 10000u
#define GBIT (1e9 / 8)

/* What nodes of a site have in turn. */
static const double mixed[] = {10 * GBIT, 10 * GBIT, 5 * GBIT, 10 * GBIT, 2.5 * GBIT};
static const double equal[] = {10 * GBIT};

static uint32_t chunks_of(uint64_t size, uint64_t nodes)
{
	uint64_t real = (size + CHUNK_BYTES - 1) / CHUNK_BYTES, most = WORK / nodes;
	most = most > CHUNKS_MIN ? most : CHUNKS_MIN;
	return (uint32_t)(real < most ? real : most);
}

static int number(const struct args *args, const char *name, uint64_t least, uint64_t most, uint64_t fallback,
                  uint64_t *ret)
{
	const char *text = args_value(args, name);
	*ret = fallback;
	if (text && (str_to_bytes(str_from(text), ret) || *ret < least || *ret > most))
		return args_usage(args, "--%s %s: a number from %" PRIu64 " to %" PRIu64 " is wanted", name, text,
		                  least, most);
	return 0;
}

static void print_json(const struct sim_options *o, const struct sim_result *r, const struct sim_rivals *v, double took)
{
	printf("{\"nodes\":%u,\"sites\":%u,\"size\":%.0f,\"chunks\":%u,\"seed\":%" PRIu64
	       ",\"bound_s\":%.1f,\"last_s\":%.1f,\"median_s\":%.1f,\"ratio\":%.4f,\"origin_copies\":%.3f,"
	       "\"wan_copies\":%.3f,\"alive\":%u,\"finished\":%u,\"star_s\":%.1f,\"tree_s\":%.1f,\"chain_s\":%.1f,"
	       "\"bittorrent_s\":%.1f,\"bittorrent_copies\":%.3f,\"bittorrent_wan_copies\":%.3f,\"took_s\":%.1f}\n",
	       o->nodes, o->sites, o->size, o->chunks, o->seed, r->bound_s, r->last_s, r->median_s,
	       r->last_s / r->bound_s, r->origin_copies, r->wan_copies, r->alive, r->finished, v->star_s, v->tree_s,
	       v->chain_s, v->torrent_s, v->torrent_copies, v->torrent_wan_copies, took);
}

static void print_row(const char *who, double seconds, double bound, const char *copies)
{
	printf("  %-22s %10.1f s  %7.2f x  %s\n", who, seconds, seconds / bound, copies);
}

static void print_table(const struct sim_options *o, const struct sim_result *r, const struct sim_rivals *v,
                        double took)
{
	char copies[96];
	printf("%.1f GB to %u nodes on %u sites in %u chunks, seed %" PRIu64 "; %u lived, %u have it all\n",
	       o->size / 1e9, o->nodes, o->sites, o->chunks, o->seed, r->alive, r->finished);
	print_row("bound (fluid)", r->bound_s, r->bound_s, "");
	snprintf(copies, sizeof copies, "origin %.2f copies, busiest site %.2f in", r->origin_copies, r->wan_copies);
	print_row("mdn, last node", r->last_s, r->bound_s, copies);
	print_row("mdn, median", r->median_s, r->bound_s, "");
	snprintf(copies, sizeof copies, "origin %.2f copies, busiest site %.2f in; nobody fails", v->torrent_copies,
	         v->torrent_wan_copies);
	print_row("BitTorrent (model)", v->torrent_s, r->bound_s, copies);
	print_row("tree of two (model)", v->tree_s, r->bound_s, "nobody fails");
	print_row("chain (model)", v->chain_s, r->bound_s, "nobody fails");
	print_row("star (model)", v->star_s, r->bound_s, "nobody fails");
	printf("computed in %.1f s\n", took);
}

int cmd_sim_distribute(const struct args *args)
{
	uint64_t nodes, sites, size, seed, failing;
	int rc;
	if ((rc = number(args, "nodes", 1, NODES_MAX, 1000, &nodes)) ||
	    (rc = number(args, "sites", 1, nodes, nodes < 50 ? nodes : 50, &sites)) ||
	    (rc = number(args, "size", 1 << 20, UINT64_C(1) << 48, UINT64_C(700) << 30, &size)) ||
	    (rc = number(args, "seed", 0, INT64_MAX, 1, &seed)) || (rc = number(args, "failing", 0, 50, 2, &failing)))
		return rc;
	bool same = args_has(args, "equal");
	struct sim_options o = {
	    .nodes = (uint32_t)nodes,
	    .sites = (uint32_t)sites,
	    .chunks = chunks_of(size, nodes),
	    .size = (double)size,
	    .origin_rate = 10 * GBIT,
	    .wan_rate = 10 * GBIT,
	    .rates = same ? equal : mixed,
	    .rate_count = same ? 1 : sizeof mixed / sizeof *mixed,
	    .failing = (double)failing / 100,
	    .rtt_s = 0.0005,
	    .wan_rtt_s = 0.02,
	    .seed = seed,
	};
	struct sim_result r;
	struct sim_rivals v;
	int64_t began = clock_mono_us();
	sim_distribute(&o, &r);
	sim_rivals(&o, &v);
	double took = (double)(clock_mono_us() - began) / 1e6;
	if (args_has(args, "json"))
		print_json(&o, &r, &v, took);
	else
		print_table(&o, &r, &v, took);
	return r.finished == r.alive ? 0 : EXIT_FAILED;
}
