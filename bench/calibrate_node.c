/* SPDX-License-Identifier: Apache-2.0 */
/* calibrate_node.c - the network of a scenario of `mdn sim`, for real: gateways, nodes and engines on loopback.
 *
 *   calibrate_node SCENARIO PORT FILE
 *
 * Each site has a gateway without an engine, each node a synthetic one with the scenario's timings; requests go over
 * HTTP from one to the other. All follow the scenario's map, with its zones and distances, renewed whole every
 * `map_age`. At PORT: /mdn/v1/map; /world, who is where and how far (JSON); /plan?seed=N, what users would ask for and
 * when (JSON); /resolve?city=N, the gateways of DNS's answer in its order and how many of them are as good as the
 * first. Loopback has no distance: who asks adds it to what was measured.
 */
#include "base/log.h"
#include "core/dns_answer.h"
#include "net/sse.h"
#include "serve/gateway/gateway.h"
#include "sim/dispatch.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#define GATEWAYS_MAX 64

static struct {
	struct loop *loop;
	struct scenario *scenario;
	struct sim_world world;
	struct dispatch names;                  /* for its map and its answers; no request is decided here */
	struct gateway *gateways[GATEWAYS_MAX]; /* of sites, then of nodes */
	struct http_exchange *watchers[GATEWAYS_MAX];
	uint32_t count;
	int port;
	uint64_t seq;
} bench;

static void die(const struct error *err)
{
	fprintf(stderr, "calibrate_node: %s\n", err->text);
	exit(1);
}

/* ---- the map ------------------------------------------------------------------------------------- */

static void report(uint32_t node)
{
	struct model_report model;
	struct node_seen seen[GATEWAYS_MAX];
	struct node_report r;
	struct error err;
	struct gateway *g = bench.gateways[bench.world.site_count + node];
	if (!gateway_model_report(g, str_from(bench.world.model_names[0]), &model))
		return;
	dispatch_report(&bench.names, node, &r);
	r.seq = bench.seq;
	r.models = &model;
	r.model_count = 1;
	r.seen = seen;
	r.seen_count = gateway_seen(g, seen, GATEWAYS_MAX);
	snprintf(r.node_url, sizeof(r.node_url), "http://127.0.0.1:%u",
	         (unsigned)bench.port + 1 + bench.world.site_count + node);
	if (node_map_report(bench.names.map, &r, loop_now_us(bench.loop), &err) < 0)
		die(&err);
}

static void publish(void *arg)
{
	struct buf map = {0}, event = {0};
	(void)arg;
	bench.seq++;
	for (uint32_t n = 0; n < bench.world.node_count; n++)
		report(n);
	node_map_estimate(bench.names.map, 0, loop_now_us(bench.loop));
	node_map_format(bench.names.map, loop_now_us(bench.loop), &map);
	sse_append(&event, STR("map"), buf_str(&map));
	for (uint32_t i = 0; i < GATEWAYS_MAX; i++)
		if (bench.watchers[i])
			http_write(bench.watchers[i], buf_str(&event));
	buf_fini(&map);
	buf_fini(&event);
}

static void watcher_gone(void *arg)
{
	*(struct http_exchange **)arg = NULL;
}

static void watch(struct http_exchange *x)
{
	for (uint32_t i = 0; i < GATEWAYS_MAX; i++) {
		if (bench.watchers[i])
			continue;
		bench.watchers[i] = x;
		http_watch(x, NULL, watcher_gone, &bench.watchers[i]);
		http_respond_begin(x, 200, "text/event-stream", -1);
		return;
	}
}

/* ---- what those that ask want to know ------------------------------------------------------------ */

static void respond(struct http_exchange *x, struct buf *out)
{
	http_respond(x, 200, "application/json", buf_str(out));
	buf_fini(out);
}

static uint64_t number(struct http_exchange *x, const char *name)
{
	struct str text;
	uint64_t value = 0;
	return http_query(x, name, &text) && str_to_u64(text, &value) == 0 ? value : 0;
}

static void tell_world(struct http_exchange *x)
{
	const struct sim_world *w = &bench.world;
	struct buf out = {0};
	buf_printf(&out, "{\"access_us\":%lld,\"sites\":%u,\"node_sites\":[",
	           (long long)bench.scenario->network.access_us, w->site_count);
	for (uint32_t n = 0; n < w->node_count; n++)
		buf_printf(&out, "%s%u", n ? "," : "", w->nodes[n].site);
	buf_append_str(&out, STR("],\"rtt_us\":["));
	for (uint32_t c = 0; c < w->city_count; c++)
		for (uint32_t s = 0; s < w->site_count; s++)
			buf_printf(&out, "%s%lld%s",
			           s   ? ","
			           : c ? ",["
			               : "[",
			           (long long)sim_rtt_us(w, c, s), s + 1 < w->site_count ? "" : "]");
	buf_append_str(&out, STR("]}\n"));
	respond(x, &out);
}

/* [at in us, city, prompt, answer], drawn as sim/serve_requests.c does. */
static void tell_plan(struct http_exchange *x)
{
	const struct scenario *s = bench.scenario;
	const struct scenario_tokens *t = &s->tokens;
	struct buf out = {0};
	struct rng rng;
	double at_us = 0, rate = sim_rate_most(s);
	rng_init(&rng, number(x, "seed") * 104729 + 2);
	buf_append_str(&out, STR("["));
	for (;;) {
		at_us += -1e6 / rate * log(1 - rng_unit(&rng));
		if (at_us >= (double)s->duration_us)
			break;
		uint32_t city = sim_city_draw(&bench.world, &rng);
		int prompt = sim_tokens_at(t->prompt_median, t->prompt_sigma, t->prompt_most, rng_unit(&rng));
		int output = sim_tokens_at(t->output_median, t->output_sigma, t->output_most, rng_unit(&rng));
		buf_printf(&out, "%s[%.0f,%u,%d,%d]", out.len > 1 ? "," : "", at_us, city, prompt, output);
	}
	buf_append_str(&out, STR("]\n"));
	respond(x, &out);
}

static void tell_names(struct http_exchange *x)
{
	struct buf out = {0};
	uint32_t city = (uint32_t)number(x, "city");
	if (city >= bench.world.city_count) {
		http_respond(x, 400, "text/plain", STR("no such city\n"));
		return;
	}
	struct dispatch_answer a = dispatch_resolve(&bench.names, city, 0, loop_now_us(bench.loop));
	buf_append_str(&out, STR("["));
	for (unsigned i = 0; i < a.count; i++)
		buf_printf(&out, "%s%u", i ? "," : "", bench.world.nodes[a.nodes[i]].site);
	buf_append_str(&out, STR("]\n"));
	respond(x, &out);
}

static void on_control(void *arg, struct http_exchange *x)
{
	struct str path = http_path(x);
	(void)arg;
	if (str_equal(path, STR("/mdn/v1/map")))
		watch(x);
	else if (str_equal(path, STR("/world")))
		tell_world(x);
	else if (str_equal(path, STR("/plan")))
		tell_plan(x);
	else if (str_equal(path, STR("/resolve")))
		tell_names(x);
	else
		http_respond(x, 404, "text/plain", STR("map, world, plan, resolve\n"));
}

/* ---- gateways and nodes -------------------------------------------------------------------------- */

static void on_request(void *arg, struct http_exchange *x)
{
	struct str hop;
	struct gateway *g = arg;
	if (!(http_header(x, "x-mdn-hop", &hop) ? gateway_handle_node(g, x) : gateway_handle_public(g, x)))
		http_respond(x, 404, "text/plain", STR("not the gateway's"));
}

static void listen_on(int port, http_handler *handler, void *arg)
{
	char address[32];
	struct http_server *server;
	struct error err;
	snprintf(address, sizeof(address), "127.0.0.1:%d", port);
	const struct http_server_options options = {
	    .address = str_from(address), .inherited_fd = -1, .handler = handler, .handler_arg = arg, .room = "bench"};
	if (http_server_new(bench.loop, &options, &server, &err) < 0)
		die(&err);
}

static void start(const char *id, uint32_t site, const struct engine_options *engine, const char *file)
{
	static const struct http_client_options client = {.conns_per_origin = 1024};
	struct gateway **g = &bench.gateways[bench.count];
	struct error err;
	const struct gateway_options options = {.client = file ? NULL : http_client_new(bench.loop, &client),
	                                        .self_id = str_from(id),
	                                        .self_name = str_from(id),
	                                        .site = str_from(bench.world.cities[site].name),
	                                        .domain = STR("bench.test"),
	                                        .engine = *engine,
	                                        .open = true,
	                                        .plain_hops = true};
	if (gateway_new(bench.loop, &options, g, &err) < 0 ||
	    (file &&
	     gateway_model_add(*g, str_from(bench.world.model_names[0]), STR("sha256:b"), str_from(file), &err) < 0))
		die(&err);
	listen_on(bench.port + 1 + (int)bench.count++, on_request, *g);
}

static void start_all(const char *file)
{
	static char ids[GATEWAYS_MAX][NODE_ID_SIZE], url[1][NODE_URL_SIZE];
	const struct scenario_engine *e = &bench.scenario->engine;
	const struct engine_options engine = {.kind = STR("synthetic"),
	                                      .slots = (int32_t)e->slots,
	                                      .context_tokens = 32768,
	                                      .prefill_us_per_token = (int32_t)(1e6 / e->prefill_tokens_per_s),
	                                      .itl_base_us = (int32_t)e->itl_base_us,
	                                      .itl_slope_us = (int32_t)e->itl_slope_us,
	                                      .kv_tokens = (int32_t)fmin(e->kv_tokens, 1e9)};
	for (uint32_t s = 0; s < bench.world.site_count; s++) {
		dispatch_site_id(s, ids[s]);
		start(ids[s], s, &engine, NULL);
	}
	for (uint32_t n = 0; n < bench.world.node_count; n++) {
		char *id = ids[bench.world.site_count + n];
		dispatch_node_id(n, id);
		start(id, bench.world.nodes[n].site, &engine, file);
	}
	snprintf(url[0], sizeof(url[0]), "http://127.0.0.1:%d", bench.port);
	for (uint32_t s = 0; s < bench.world.site_count; s++)
		gateway_set_schedulers(bench.gateways[s], (const char(*)[NODE_URL_SIZE])url, 1);
}

int main(int argc, char **argv)
{
	struct error err;
	if (argc != 4) {
		fprintf(stderr, "usage: calibrate_node SCENARIO PORT FILE\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	log_set_level(LOG_WARN);
	loop_new(&bench.loop);
	bench.port = atoi(argv[2]);
	if (scenario_read(argv[1], &bench.scenario, &err) < 0)
		die(&err);
	sim_world_init(&bench.world, bench.scenario, 0);
	if (bench.world.site_count + bench.world.node_count > GATEWAYS_MAX || bench.scenario->model_count != 1 ||
	    bench.scenario->reports.map_age_us == 0) {
		fprintf(stderr, "calibrate_node: one model, a map_age, and at most %d sites and nodes\n", GATEWAYS_MAX);
		return 2;
	}
	dispatch_init(&bench.names, &bench.world, SIM_MDN, true);
	start_all(argv[3]);
	listen_on(bench.port, on_control, NULL);
	loop_timer_start(loop_timer_new(bench.loop, publish, NULL), bench.scenario->reports.map_age_us,
	                 bench.scenario->reports.map_age_us);
	loop_run(bench.loop);
	return 0;
}
