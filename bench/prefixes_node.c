/* SPDX-License-Identifier: Apache-2.0 */
/* prefixes_node.c - a few nodes with synthetic engines and one gateway that sends to them, all on one loop.
 *
 *   prefixes_node PORT POLICY NODES PREFILL-US KV-TOKENS FILE
 *
 * The gateway is at PORT, node i at PORT + i: other routers can be put in front of the same nodes. The engines do no
 * arithmetic: a prompt takes PREFILL-US for each token that the node's prefix cache (KV-TOKENS) does not hold. What
 * nodes report is published twice a second, as schedulers do; hops are plain HTTP.
 */
#include "base/clock.h"
#include "base/log.h"
#include "core/node_map.h"
#include "net/sse.h"
#include "serve/gateway/gateway.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#define NODES_MAX 16
#define REPORT_US (500 * US_PER_MS)
#define MODEL STR("m:latest")

static struct {
	struct loop *loop;
	struct gateway *gateways[NODES_MAX + 1]; /* 0: the one that sends */
	int count, port;
	uint64_t seq;
	struct node_map *map;
	struct http_exchange *watcher;
} bench;

static void die(const struct error *err)
{
	fprintf(stderr, "prefixes_node: %s\n", err->text);
	exit(1);
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

/* What vLLM answers to those who ask for a prompt's tokens before they choose a node; as the engines here count them.
 */
static void on_render(void *arg, struct http_exchange *x, struct str body, const struct error *err)
{
	struct buf out = {0};
	const char *at = err ? NULL : memmem(body.base, body.len, "\"messages\"", 10);
	const char *end = err ? NULL : body.base + body.len;

	if (!at) {
		http_respond(x, 400, "text/plain", STR("no messages"));
		return;
	}
	buf_append_str(&out, STR("{\"token_ids\":[1"));
	for (; end - at >= 4; at += 4)
		buf_printf(&out, ",%u", (unsigned)(at[0] | at[1] << 8 | at[2] << 16) & 0x7fffff);
	buf_append_str(&out, STR("]}"));
	http_respond(x, 200, "application/json", buf_str(&out));
	buf_fini(&out);
}

static void on_request(void *arg, struct http_exchange *x)
{
	if (str_equal(http_path(x), STR("/v1/chat/completions/render"))) {
		http_body_collect(x, 1 << 20, on_render, NULL);
		return;
	}
	struct str hop;
	struct gateway *g = arg;
	if (!(http_header(x, "x-mdn-hop", &hop) ? gateway_handle_node(g, x) : gateway_handle_public(g, x)))
		http_respond(x, 404, "text/plain", STR("not the gateway's"));
}

static void report(int node)
{
	struct model_report model;
	struct node_seen seen[4];
	struct error err;
	if (!gateway_model_report(bench.gateways[node], MODEL, &model))
		return;
	struct node_report r = {.site = "bench",
	                        .roles = ROLE_EDGE,
	                        .state = NODE_READY,
	                        .boot = 1,
	                        .seq = bench.seq,
	                        .models = &model,
	                        .model_count = 1,
	                        .seen = seen};
	r.seen_count = gateway_seen(bench.gateways[node], seen, 4);
	snprintf(r.id, sizeof(r.id), "n-%d", node);
	snprintf(r.name, sizeof(r.name), "node-%d", node);
	snprintf(r.node_url, sizeof(r.node_url), "http://127.0.0.1:%d", bench.port + node);
	if (node_map_report(bench.map, &r, loop_now_us(bench.loop), &err) < 0)
		die(&err);
}

static void publish(void *arg)
{
	struct buf map = {0}, event = {0};
	if (!bench.watcher)
		return;
	bench.seq++;
	for (int node = 1; node <= bench.count; node++)
		report(node);
	node_map_format(bench.map, loop_now_us(bench.loop), &map);
	sse_append(&event, STR("map"), buf_str(&map));
	http_write(bench.watcher, buf_str(&event));
	buf_fini(&map);
	buf_fini(&event);
}

static void watcher_gone(void *arg)
{
	bench.watcher = NULL;
}

static void on_map(void *arg, struct http_exchange *x)
{
	bench.watcher = x;
	http_watch(x, NULL, watcher_gone, NULL);
	http_respond_begin(x, 200, "text/event-stream", -1);
	publish(NULL);
}

static void node_start(int node, const struct engine_options *engine)
{
	static char ids[NODES_MAX + 1][8];
	static const struct http_client_options client = {.conns_per_origin = 1024};
	struct error err;
	snprintf(ids[node], sizeof(ids[node]), "n-%d", node);
	const struct gateway_options options = {.client = node == 0 ? http_client_new(bench.loop, &client) : NULL,
	                                        .self_id = str_from(ids[node]),
	                                        .self_name = str_from(ids[node]),
	                                        .site = STR("bench"),
	                                        .domain = STR("bench.test"),
	                                        .engine = *engine,
	                                        .open = true,
	                                        .plain_hops = true};
	if (gateway_new(bench.loop, &options, &bench.gateways[node], &err) < 0)
		die(&err);
	listen_on(bench.port + node, on_request, bench.gateways[node]);
}

int main(int argc, char **argv)
{
	struct error err;
	if (argc != 7 || atoi(argv[3]) < 1 || atoi(argv[3]) > NODES_MAX) {
		fprintf(stderr, "usage: prefixes_node PORT POLICY NODES PREFILL-US KV-TOKENS FILE\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	log_set_level(LOG_WARN);
	loop_new(&bench.loop);
	bench.map = node_map_new();
	bench.port = atoi(argv[1]);
	bench.count = atoi(argv[3]);
	const struct engine_options engine = {.kind = STR("synthetic"),
	                                      .slots = 16,
	                                      .context_tokens = 16384,
	                                      .prefill_us_per_token = atoi(argv[4]),
	                                      .itl_base_us = 5000,
	                                      .itl_slope_us = 200,
	                                      .kv_tokens = atoi(argv[5])};
	for (int node = 0; node <= bench.count; node++)
		node_start(node, &engine);
	for (int node = 1; node <= bench.count; node++)
		if (gateway_model_add(bench.gateways[node], MODEL, STR("sha256:bench"), str_from(argv[6]), &err) < 0)
			die(&err);
	if (gateway_set_policy(bench.gateways[0], str_from(argv[2]), &err) < 0)
		die(&err);
	listen_on(bench.port + bench.count + 1, on_map, NULL);
	char urls[1][NODE_URL_SIZE] = {{0}};
	snprintf(urls[0], sizeof(urls[0]), "http://127.0.0.1:%d", bench.port + bench.count + 1);
	gateway_set_schedulers(bench.gateways[0], (const char(*)[NODE_URL_SIZE])urls, 1);
	loop_timer_start(loop_timer_new(bench.loop, publish, NULL), REPORT_US, REPORT_US);
	loop_run(bench.loop);
	return 0;
}
