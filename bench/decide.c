/* SPDX-License-Identifier: Apache-2.0 */
/* decide.c - how long one decision takes on a map of SITES sites that each have all of MODELS models.
 *
 * Between decisions reports come in and dispatches open and close, as they would: each decision meets a map that has
 * just changed and a ledger that is not empty. Prints the 99th percentile by the clock, and by the CPU time that it
 * took, which says more on a machine with other work.
 */
#include "core/score.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define SITES 1000
#define MODELS 100
#define DECISIONS 100000
#define WARM SITES /* each site asks once before it counts: its table of distances is made then */
#define OPEN_DISPATCHES 4000
#define GOAL_US 20.0

static int64_t clock_ns(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void report(struct node_map *map, struct node_report *r, unsigned site, uint64_t seq, int64_t now_us,
                   struct rng *rng)
{
	snprintf(r->id, sizeof(r->id), "n-%016x", site);
	snprintf(r->name, sizeof(r->name), "edge-%u", site);
	snprintf(r->site, sizeof(r->site), "site-%u", site);
	snprintf(r->api_url, sizeof(r->api_url), "http://10.%u.%u.1:8080", site / 256, site % 256);
	snprintf(r->node_url, sizeof(r->node_url), "https://10.%u.%u.1:7300", site / 256, site % 256);
	r->seq = seq;
	for (size_t i = 0; i < r->model_count; i++)
		r->models[i].running = (int32_t)rng_below(rng, 9);
	for (size_t i = 0; i < r->rtt_count; i++) {
		snprintf(r->rtts[i].id, sizeof(r->rtts[i].id), "n-%016x", (unsigned)rng_below(rng, SITES));
		r->rtts[i].rtt_us = 500 + (int64_t)rng_below(rng, 60000);
	}
	node_map_report(map, r, now_us, NULL);
}

static int by_value(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return (x > y) - (x < y);
}

static void print_figures(const char *name, int64_t *ns)
{
	qsort(ns, DECISIONS, sizeof(*ns), by_value);
	double p50_us = (double)ns[DECISIONS / 2] / 1e3, p99_us = (double)ns[DECISIONS / 100 * 99] / 1e3;
	printf("figure %s_p50 = %.2f us\n", name, p50_us);
	printf("figure %s_p99 = %.2f us, goal %.0f us: %s\n", name, p99_us, GOAL_US,
	       p99_us < GOAL_US ? "met" : "missed");
}

int main(void)
{
	struct node_map *map = node_map_new();
	struct ledger *ledger = ledger_new(1);
	struct node_report r = {
	    .roles = ROLE_EDGE, .state = NODE_READY, .boot = 1, .model_count = MODELS, .rtt_count = 50};
	static struct ledger_ticket *open[OPEN_DISPATCHES];
	static int64_t took_ns[DECISIONS], cpu_ns[DECISIONS];
	struct rng rng;
	int64_t now_us = 1000000000;
	uint64_t seq = 1;
	rng_init(&rng, 1);
	r.models = mem_new(MODELS * sizeof(*r.models));
	r.rtts = mem_new(r.rtt_count * sizeof(*r.rtts));
	for (unsigned i = 0; i < MODELS; i++) {
		r.models[i] = (struct model_report){
		    .state = MODEL_READY, .slots = 8, .prefill_tokens_per_s = 2000, .itl_us = 20000};
		snprintf(r.models[i].name, sizeof(r.models[i].name), "model-%u:latest", i);
	}
	for (unsigned i = 0; i < SITES; i++)
		report(map, &r, i, seq, now_us, &rng);
	int64_t estimate_ns = 0, estimates = 0, estimated_us = 0;
	for (size_t i = 0; i < WARM + DECISIONS; i++) {
		char model[32], site[32];
		now_us += 20;
		if (now_us - estimated_us >= NODE_ESTIMATE_US) {
			int64_t began = clock_ns(CLOCK_MONOTONIC);
			node_map_estimate(map, OPEN_DISPATCHES, now_us);
			estimate_ns += clock_ns(CLOCK_MONOTONIC) - began;
			estimates++;
			estimated_us = now_us;
		}
		if (i % 50 == 0) /* a thousand reports a second */
			report(map, &r, (unsigned)rng_below(&rng, SITES), ++seq, now_us, &rng);
		snprintf(model, sizeof(model), "model-%u", (unsigned)rng_below(&rng, MODELS));
		snprintf(site, sizeof(site), "site-%u", i < WARM ? (unsigned)i : (unsigned)rng_below(&rng, SITES));
		struct route_query q = {.model = str_from(model),
		                        .client_site = str_from(site),
		                        .self_id = STR("n-x"),
		                        .prompt_tokens = 300};
		struct route_decision d;
		int64_t cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID), began = clock_ns(CLOCK_MONOTONIC);
		int rc = route_decide(map, ledger, &q, now_us, &rng, &d, NULL);
		took_ns[i < WARM ? 0 : i - WARM] = clock_ns(CLOCK_MONOTONIC) - began;
		cpu_ns[i < WARM ? 0 : i - WARM] = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
		if (rc == 0) {
			struct ledger_ticket **slot = &open[i % OPEN_DISPATCHES];
			ledger_close(*slot);
			*slot = ledger_open(ledger, str_from(d.candidates[d.choice].id),
			                    str_from(d.candidates[d.choice].model), 300, NULL);
		}
		route_decision_fini(&d);
	}
	printf("%d sites x %d models, %d decisions, a report every 50, %d dispatches open\n", SITES, MODELS, DECISIONS,
	       OPEN_DISPATCHES);
	print_figures("decide", took_ns);
	print_figures("decide_cpu", cpu_ns);
	printf("figure estimate = %.2f ms, four times a second\n", (double)estimate_ns / 1e6 / (double)estimates);
	ledger_free(ledger);
	node_map_free(map);
	node_report_fini(&r);
	return 0;
}
