/* SPDX-License-Identifier: Apache-2.0 */
/* dns_node.c - the DNS server of a scheduler alone, with nodes that report as live ones do.
 *
 *   dns_node PORT ZONES-FILE SITES [THREADS]
 *
 * ZONES-FILE has a line PREFIX=SITE each. Each site "sNNN" has one node, 192.0.2.N, with one model; it reports once a
 * second, as JSON, with a load that changes: so answers are computed anew all the time. No own socket for reports:
 * they come from a timer on the same loop, so that their whole cost is in the measured process but for HTTP.
 */
#include "base/clock.h"
#include "base/file.h"
#include "base/rng.h"
#include "serve/scheduler/dns_server.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

static struct {
	struct loop *loop;
	struct node_map *map;
	struct rng rng;
	unsigned sites, next;
	uint64_t seq;
} bench;

static void check(int rc, const struct error *err)
{
	if (rc < 0) {
		fprintf(stderr, "dns_node: %s\n", err->text);
		exit(1);
	}
}

static void report(unsigned site)
{
	struct buf json = {0};
	struct node_report r = {
	    .roles = ROLE_EDGE, .state = NODE_READY, .boot = 1, .seq = ++bench.seq, .model_count = 1};
	struct model_report m = {
	    .name = "bench:latest", .state = MODEL_READY, .slots = 8, .prefill_tokens_per_s = 2000, .itl_us = 20000};
	struct node_report parsed;
	struct error err = {0};
	m.running = (int32_t)rng_below(&bench.rng, 8);
	r.models = &m;
	snprintf(r.id, sizeof(r.id), "n-%016x", site);
	snprintf(r.name, sizeof(r.name), "edge-%u", site);
	snprintf(r.site, sizeof(r.site), "s%03u", site);
	snprintf(r.node_url, sizeof(r.node_url), "https://192.0.2.%u:7300", site);
	snprintf(r.api_url, sizeof(r.api_url), "http://192.0.2.%u:8080", site);
	node_report_format(&r, &json);
	check(node_report_parse(buf_str(&json), &parsed, &err), &err);
	check(node_map_report(bench.map, &parsed, loop_now_us(bench.loop), &err), &err);
	node_report_fini(&parsed);
	buf_fini(&json);
}

static void on_tick(void *arg)
{
	report(bench.next++ % bench.sites);
}

static void load_zones(const char *path)
{
	struct buf text = {0};
	struct error err = {0};
	struct str *lines = NULL, rest;
	size_t count = 0;
	check(file_read(path, 16 << 20, &text, &err), &err);
	for (rest = buf_str(&text); rest.len;) {
		struct str line = str_cut(rest, '\n', &rest);
		lines = mem_resize(lines, count + 1, sizeof(*lines));
		lines[count++] = line;
	}
	check(node_map_set_zones(bench.map, lines, count, &err), &err);
	free(lines);
	buf_fini(&text);
}

int main(int argc, char **argv)
{
	struct dns_server *server;
	struct error err = {0};
	char address[32];
	if (argc != 4 && argc != 5) {
		fprintf(stderr, "usage: dns_node PORT ZONES-FILE SITES [THREADS]\n");
		return 2;
	}
	bench.sites = (unsigned)atoi(argv[3]);
	rng_init(&bench.rng, 1);
	loop_new(&bench.loop);
	bench.map = node_map_new();
	load_zones(argv[2]);
	for (unsigned i = 0; i < bench.sites; i++)
		report(i);
	snprintf(address, sizeof(address), "127.0.0.1:%s", argv[1]);
	const struct dns_server_options options = {
	    .address = str_from(address),
	    .zone = STR("mdn.test"),
	    .threads = argc > 4 ? (unsigned)atoi(argv[4]) : 1,
	    .map = bench.map,
	    .settings = {.ttl_us = 20 * US_PER_S, .why = true},
	};
	check(dns_server_new(bench.loop, &options, &server, &err), &err);
	loop_timer_start(loop_timer_new(bench.loop, on_tick, NULL), 0, US_PER_S / bench.sites);
	loop_run(bench.loop);
	return 0;
}
