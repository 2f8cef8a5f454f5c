/* SPDX-License-Identifier: Apache-2.0 */
/* gateway_node.c - the gateway of a node alone, over plain HTTP: the room that ships, without a network around it.
 *
 *   gateway_node API-PORT forward MODEL URL...      sends every request for MODEL on to one of the nodes at these URLs
 *   gateway_node API-PORT llama MODEL FILE SLOTS CONTEXT THREADS [KEY...]   answers it with an engine of its own, a
 *                                                                 process; each API key is a tenant
 *   gateway_node API-PORT llama-inside MODEL FILE ...               the same in this process
 *   gateway_node API-PORT synthetic MODEL FILE STREAMS ITL-MS       no arithmetic: each stream has a token every ITL-MS
 *
 * With TLS_CERTIFICATE and TLS_KEY in the environment, two PEM files, clients speak TLS.
 *
 * To forward, it follows a map like any edge: a scheduler that knows these nodes publishes them once a second on the
 * same loop. Hops are plain HTTP here so that proxies without TLS to their upstream can be compared.
 */
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "core/api_key.h"
#include "core/node_map.h"
#include "engine/process.h"
#include "net/sse.h"
#include "serve/gateway/gateway.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#define UPSTREAMS_MAX 8

static struct {
	struct loop *loop;
	struct gateway *gateway;
	struct node_report upstreams[UPSTREAMS_MAX];
	int upstream_count;
	struct node_map *map;
	struct http_exchange *watcher;
} bench;

static void die(const struct error *err)
{
	fprintf(stderr, "gateway_node: %s\n", err->text);
	exit(1);
}

static struct tls_context *read_tls(void)
{
	const char *cert = getenv("TLS_CERTIFICATE"), *key = getenv("TLS_KEY");
	struct buf pem[2] = {0};
	struct tls_context *tls;
	struct error err;
	if (!cert || !key)
		return NULL;
	if (file_read(cert, 1 << 20, &pem[0], &err) < 0 || file_read(key, 1 << 20, &pem[1], &err) < 0)
		die(&err);
	const struct tls_options o = {.cert_pem = buf_str(&pem[0]), .key_pem = buf_str(&pem[1]), .any_version = true};
	if (tls_context_new(&o, &tls, &err) < 0)
		die(&err);
	buf_fini(&pem[0]);
	buf_fini(&pem[1]);
	return tls;
}

static struct http_server *listen_on(int port, struct tls_context *tls, http_handler *handler)
{
	char address[32];
	struct http_server *server;
	struct error err;
	snprintf(address, sizeof(address), "127.0.0.1:%d", port);
	const struct http_server_options options = {
	    .address = str_from(address), .inherited_fd = -1, .tls = tls, .handler = handler, .room = "bench"};
	if (http_server_new(bench.loop, &options, &server, &err) < 0)
		die(&err);
	return server;
}

static void on_request(void *arg, struct http_exchange *x)
{
	if (!gateway_handle_public(bench.gateway, x))
		http_respond(x, 404, "text/plain", STR("not the gateway's"));
}

/* ---- the scheduler --------------------------------------------------------------------------------------- */

static void publish(void *arg)
{
	struct buf map = {0}, event = {0};
	struct error err;
	if (!bench.watcher)
		return;
	for (int i = 0; i < bench.upstream_count; i++) {
		bench.upstreams[i].seq++;
		if (node_map_report(bench.map, &bench.upstreams[i], loop_now_us(bench.loop), &err) < 0)
			die(&err);
	}
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

static void add_upstream(const char *model, const char *url)
{
	struct node_report *r = &bench.upstreams[bench.upstream_count++];
	*r =
	    (struct node_report){.site = "bench", .roles = ROLE_EDGE, .state = NODE_READY, .boot = 1, .model_count = 1};
	r->models = NEW(struct model_report);
	*r->models = (struct model_report){
	    .state = MODEL_READY, .slots = 256, .context_tokens = 1 << 20, .prefill_tokens_per_s = 1e6, .itl_us = 1000};
	snprintf(r->id, sizeof(r->id), "n-upstream-%d", bench.upstream_count);
	snprintf(r->name, sizeof(r->name), "upstream-%d", bench.upstream_count);
	snprintf(r->node_url, sizeof(r->node_url), "%s", url);
	snprintf(r->models->name, sizeof(r->models->name), "%s:latest", model);
}

static void follow_map(void)
{
	char urls[1][NODE_URL_SIZE] = {{0}};
	struct http_server *server = listen_on(0, NULL, on_map);
	struct str address = http_server_address(server);
	bench.map = node_map_new();
	snprintf(urls[0], sizeof(urls[0]), "http://" STR_FMT, STR_ARG(address));
	gateway_set_schedulers(bench.gateway, (const char(*)[NODE_URL_SIZE])urls, 1);
	loop_timer_start(loop_timer_new(bench.loop, publish, NULL), US_PER_S, US_PER_S);
}

static void set_keys(char **keys, int count)
{
	struct key_ring_key ring[16] = {0};
	struct error err;

	for (int i = 0; i < count && i < 16; i++) {
		if (api_key_parse(str_from(keys[i]), ring[i].id, &err) < 0)
			die(&err);
		api_key_hash(str_from(keys[i]), ring[i].hash);
	}
	gateway_set_keys(bench.gateway, ring, (size_t)(count < 16 ? count : 16));
}

/* ---------------------------------------------------------------------------------------------------------- */

int main(int argc, char **argv)
{
	int status = engine_process_hook(argc, argv);
	if (status >= 0)
		return status;
	bool forward = argc >= 5 && argc <= 4 + UPSTREAMS_MAX && strcmp(argv[2], "forward") == 0;
	bool inside = argc >= 8 && strcmp(argv[2], "llama-inside") == 0;
	bool llama = inside || (argc >= 8 && strcmp(argv[2], "llama") == 0);
	struct error err;
	bool synthetic = argc == 7 && strcmp(argv[2], "synthetic") == 0;
	if (!forward && !llama && !synthetic) {
		fprintf(stderr,
		        "usage: gateway_node API-PORT forward MODEL URL...\n"
		        "       gateway_node API-PORT llama|llama-inside MODEL FILE SLOTS CONTEXT THREADS [KEY...]\n"
		        "       gateway_node API-PORT synthetic MODEL FILE STREAMS ITL-MS\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	log_set_level(LOG_WARN);
	loop_new(&bench.loop);
	const struct http_client_options client_options = {.conns_per_origin = 1024};
	struct gateway_options options = {
	    .client = http_client_new(bench.loop, &client_options),
	    .self_id = STR("n-bench"),
	    .self_name = STR("bench"),
	    .site = STR("bench"),
	    .domain = STR("bench.test"),
	    .engine = {.kind = llama ? STR("llama") : STR("synthetic")},
	    .open = true,
	    .plain_hops = true,
	};
	if (llama) {
		options.engine.in_process = inside;
		options.engine.slots = atoi(argv[5]);
		options.engine.context_tokens = atoi(argv[6]);
		options.engine.threads = atoi(argv[7]);
	}
	if (synthetic) {
		options.engine.slots = atoi(argv[5]);
		options.engine.itl_base_us = atoi(argv[6]) * (int64_t)1000;
		options.engine.itl_slope_us = options.engine.prefill_us_per_token = -1;
	}
	if (gateway_new(bench.loop, &options, &bench.gateway, &err) < 0)
		die(&err);
	if (!forward &&
	    gateway_model_add(bench.gateway, str_from(argv[3]), STR("sha256:bench"), str_from(argv[4]), &err) < 0)
		die(&err);
	if (llama)
		set_keys(argv + 8, argc - 8);
	if (forward) {
		for (int i = 4; i < argc; i++)
			add_upstream(argv[3], argv[i]);
		follow_map();
	}
	listen_on(atoi(argv[1]), read_tls(), on_request);
	loop_run(bench.loop);
	return 0;
}
