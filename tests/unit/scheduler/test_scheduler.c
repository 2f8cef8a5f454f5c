/* SPDX-License-Identifier: Apache-2.0 */
/* The scheduler as nodes and clients meet it: mutual TLS on its node port, plain HTTP on its public one, DNS beside
 * them. */
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "core/node_map.h"
#include "dns_tools.h"
#include "net/http.h"
#include "net/sse.h"
#include "net/x509.h"
#include "serve/scheduler/scheduler.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#define HOUR_US (3600 * US_PER_S)

static struct {
	char *ca, *ca_key;
	struct loop *loop;
	struct scheduler *scheduler;
	struct http_server *node_port, *public_port;
	struct tls_context *server_tls, *node_tls, *operator_tls;
	struct http_client *node, *operator, * anonymous;
	bool (*done)(void);
	int64_t deadline_us;
	uint64_t seq;
	/* last fetch */
	int status;
	bool fetched;
	struct buf body;
	/* map stream */
	struct http_call *stream;
	struct sse_parser parser;
	size_t events;
	struct node_map *map;
	int64_t event_us;
	bool stream_ended;
} w;

static char *cert_of(const char *key, const char *identity)
{
	char *csr, *cert;
	struct error err;
	assert_int_equal(x509_request_new(str_from(key), STR("node"), &csr, &err), 0);
	struct x509_issue issue = {.ca_cert_pem = str_from(w.ca),
	                           .ca_key_pem = str_from(w.ca_key),
	                           .csr_pem = str_from(csr),
	                           .identity = str_from(identity),
	                           .ip = STR("127.0.0.1"),
	                           .not_before_wall_us = clock_wall_us() - HOUR_US,
	                           .not_after_wall_us = clock_wall_us() + HOUR_US};
	if (x509_issue(&issue, &cert, &err) != 0)
		fail_msg("%s", err.text);
	free(csr);
	return cert;
}

static struct tls_context *tls_of(const char *identity, enum tls_peer peer)
{
	struct error err;
	struct tls_context *tls;
	char *key, *cert;
	assert_int_equal(x509_key_new(&key, &err), 0);
	cert = cert_of(key, identity);
	struct tls_options o = {
	    .cert_pem = str_from(cert), .key_pem = str_from(key), .ca_pem = str_from(w.ca), .peer = peer};
	if (tls_context_new(&o, &tls, &err) != 0)
		fail_msg("%s", err.text);
	free(key);
	free(cert);
	return tls;
}

static void on_node_port(void *arg, struct http_exchange *x)
{
	if (!scheduler_handle(w.scheduler, x))
		http_respond(x, 404, "text/plain", STR("not the scheduler's"));
}

static void on_public_port(void *arg, struct http_exchange *x)
{
	if (!scheduler_handle_public(w.scheduler, x))
		http_respond(x, 404, "text/plain", STR("not the scheduler's"));
}

static struct http_server *listen_on(struct tls_context *tls, http_handler *handler)
{
	struct error err;
	struct http_server *server;
	struct http_server_options o = {
	    .address = STR("127.0.0.1:0"), .inherited_fd = -1, .tls = tls, .handler = handler, .room = "test"};
	if (http_server_new(w.loop, &o, &server, &err) != 0)
		fail_msg("%s", err.text);
	return server;
}

static int setup(void **unused)
{
	struct error err = {0};
	struct str zones[] = {STR("10.1.0.0/16=west"), STR("10.2.0.0/16=east")}, ways[] = {STR("west-east=200ms")};
	struct scheduler_options o = {.dns_listen = STR("127.0.0.1:0"),
	                              .dns_zone = STR("mdn.test"),
	                              .dns_ttl_us = 20 * US_PER_S,
	                              .zones = zones,
	                              .zone_count = 2,
	                              .distances = ways,
	                              .distance_count = 1};
	memset(&w, 0, sizeof(w));
	assert_int_equal(x509_ca_new(STR("test"), clock_wall_us() - HOUR_US, 24 * HOUR_US, &w.ca, &w.ca_key, &err), 0);
	assert_int_equal(loop_new(&w.loop), 0);
	if (scheduler_new(w.loop, &o, &w.scheduler, &err) != 0)
		fail_msg("%s", err.text);
	w.server_tls = tls_of("spiffe://test/node/n-0", TLS_PEER_OPTIONAL);
	w.node_tls = tls_of("spiffe://test/node/n-1", TLS_PEER_REQUIRED);
	w.operator_tls = tls_of("spiffe://test/operator/ada", TLS_PEER_REQUIRED);
	w.node_port = listen_on(w.server_tls, on_node_port);
	w.public_port = listen_on(NULL, on_public_port);
	w.node = http_client_new(w.loop, &(struct http_client_options){.tls = w.node_tls});
	w.operator= http_client_new(w.loop, &(struct http_client_options){.tls = w.operator_tls});
	w.anonymous = http_client_new(w.loop, &(struct http_client_options){0});
	return 0;
}

static int teardown(void **unused)
{
	if (w.stream)
		http_call_cancel(w.stream);
	sse_parser_fini(&w.parser);
	scheduler_free(w.scheduler);
	http_client_free(w.node);
	http_client_free(w.operator);
	http_client_free(w.anonymous);
	http_server_free(w.node_port);
	http_server_free(w.public_port);
	loop_free(w.loop);
	tls_context_free(w.server_tls);
	tls_context_free(w.node_tls);
	tls_context_free(w.operator_tls);
	node_map_free(w.map);
	buf_fini(&w.body);
	free(w.ca);
	free(w.ca_key);
	return 0;
}

static void on_check(void *arg)
{
	if (w.done() || clock_mono_us() > w.deadline_us)
		loop_stop(w.loop);
}

static void run_until(bool (*done)(void), int64_t ms)
{
	struct loop_timer *t = loop_timer_new(w.loop, on_check, NULL);
	w.done = done;
	w.deadline_us = clock_mono_us() + ms * 1000;
	loop_timer_start(t, 1000, 1000);
	loop_run(w.loop);
	loop_timer_free(t);
}

static bool never(void)
{
	return false;
}

static bool is_fetched(void)
{
	return w.fetched;
}

static void on_fetched(void *arg, int status, struct str body, const struct error *err)
{
	w.status = status;
	w.fetched = true;
	buf_clear(&w.body);
	buf_append_str(&w.body, body);
	if (err)
		buf_append_str(&w.body, str_from(err->text));
	buf_append(&w.body, "", 1);
	w.body.len--;
}

static int fetch(struct http_client *client, const char *method, const struct http_server *server, const char *path,
                 struct str body)
{
	char url[600];
	struct str address = http_server_address(server);
	snprintf(url, sizeof(url), "%s://" STR_FMT "%s", server == w.node_port ? "https" : "http", STR_ARG(address),
	         path);
	struct http_call_options o = {.method = str_from(method), .url = str_from(url), .body = body};
	if (server == w.node_port)
		o.peer_identity = STR("spiffe://test/node/n-0");
	w.fetched = false;
	http_fetch(client, &o, 1 << 20, on_fetched, NULL);
	run_until(is_fetched, 5000);
	assert_true(w.fetched);
	return w.status;
}

static int get(const char *path)
{
	return fetch(w.anonymous, "GET", w.public_port, path, (struct str){0});
}

/* A node's own report, over a client with that node's certificate. */
static int report_as(struct http_client *client, const char *id, const char *site, const char *api, int running,
                     const char *state)
{
	char json[700];
	snprintf(
	    json, sizeof(json),
	    "{\"id\":\"%s\",\"name\":\"%s-name\",\"site\":\"%s\",\"roles\":\"edge\",\"state\":\"%s\",\"boot\":1,"
	    "\"seq\":%llu,"
	    "\"api_url\":\"%s\",\"models\":[{\"name\":\"x:latest\",\"state\":\"ready\",\"slots\":8,\"running\":%d}]}",
	    id, id, site, state, (unsigned long long)++w.seq, api, running);
	return fetch(client, "POST", w.node_port, "/mdn/v1/report", str_from(json));
}

static struct http_client *client_of(const char *id, struct tls_context **ret_tls)
{
	char identity[100];
	snprintf(identity, sizeof(identity), "spiffe://test/node/%s", id);
	*ret_tls = tls_of(identity, TLS_PEER_REQUIRED);
	return http_client_new(w.loop, &(struct http_client_options){.tls = *ret_tls});
}

static int on_event(void *arg, struct str event, struct str data)
{
	struct error err = {0};
	assert_true(str_equal(event, STR("map")));
	node_map_free(w.map);
	if (node_map_parse(data, clock_mono_us(), &w.map, &err) != 0)
		fail_msg("%s", err.text);
	w.events++;
	w.event_us = clock_mono_us();
	return 0;
}

static bool on_stream_data(void *arg, struct str data)
{
	assert_int_equal(sse_parser_feed(&w.parser, data, NULL), 0);
	return true;
}

static void on_stream_done(void *arg, struct http_call *call, const struct error *err)
{
	w.stream = NULL;
	w.stream_ended = true;
}

static void stream_open(struct http_client *client)
{
	char url[200];
	struct str address = http_server_address(w.node_port);
	snprintf(url, sizeof(url), "https://" STR_FMT "/mdn/v1/map", STR_ARG(address));
	sse_parser_init(&w.parser, 1 << 20, on_event, NULL);
	w.stream = http_call_start(client, &(struct http_call_options){.url = str_from(url),
	                                                               .peer_identity = STR("spiffe://test/node/n-0"),
	                                                               .on_data = on_stream_data,
	                                                               .on_done = on_stream_done});
}

static bool has_event(void)
{
	return w.events > 0;
}

static void test_only_a_node_itself_may_report_and_the_removed_may_not(void **unused)
{
	assert_int_equal(report_as(w.node, "n-1", "west", "http://10.0.0.1:80", 0, "ready"), 204);
	assert_int_equal(report_as(w.node, "n-2", "west", "http://10.0.0.2:80", 0, "ready"), 403);
	assert_non_null(strstr(w.body.base, "for itself"));
	assert_int_equal(report_as(w.operator, "n-1", "west", "http://10.0.0.1:80", 0, "ready"), 403);
	assert_int_equal(fetch(w.node, "POST", w.node_port, "/mdn/v1/report", STR("{\"id\":1}")), 400);
	assert_non_null(strstr(w.body.base, "id"));
	w.seq = 0; /* overtaken on the way: no mistake, no effect */
	assert_int_equal(report_as(w.node, "n-1", "west", "http://10.0.0.1:80", 0, "ready"), 204);
	w.seq += 9;
	assert_int_equal(fetch(w.node, "GET", w.node_port, "/mdn/v1/report", (struct str){0}), 405);
	assert_int_equal(fetch(w.node, "GET", w.node_port, "/mdn/v1/other", (struct str){0}), 404);
	assert_int_equal(get("/v1/route?model=x"), 200);

	struct tls_context *plain;
	struct error err;
	struct tls_options o = {.ca_pem = str_from(w.ca), .peer = TLS_PEER_NONE};
	assert_int_equal(tls_context_new(&o, &plain, &err), 0);
	struct http_client *stranger = http_client_new(w.loop, &(struct http_client_options){.tls = plain});
	assert_int_equal(report_as(stranger, "n-1", "west", "http://10.0.0.1:80", 0, "ready"), 401);
	assert_int_equal(fetch(stranger, "GET", w.node_port, "/mdn/v1/map", (struct str){0}), 401);
	http_client_free(stranger);
	tls_context_free(plain);

	stream_open(w.node);
	run_until(has_event, 3000);
	scheduler_set_removed(w.scheduler, (const char[1][NODE_ID_SIZE]){"n-1"}, 1);
	run_until(is_fetched, 50);
	assert_true(w.stream_ended);
	assert_int_equal(report_as(w.node, "n-1", "west", "http://10.0.0.1:80", 0, "ready"), 403);
	assert_int_equal(fetch(w.node, "GET", w.node_port, "/mdn/v1/map", (struct str){0}), 403);
	assert_int_equal(get("/v1/route?model=x"), 404);
}

static void test_a_scheduler_that_has_just_begun_says_ask_again(void **unused)
{
	struct scheduler_options o = {.young_us = HOUR_US};
	struct error err = {0};
	scheduler_free(w.scheduler);
	if (scheduler_new(w.loop, &o, &w.scheduler, &err) != 0)
		fail_msg("%s", err.text);
	assert_int_equal(get("/v1/route?model=x"), 503);
	assert_non_null(strstr(w.body.base, "another scheduler"));
	assert_int_equal(report_as(w.node, "n-1", "west", "http://10.0.0.1:80", 0, "ready"), 204);
	assert_int_equal(get("/v1/route?model=x"), 200);
}

static void test_time_in_which_the_scheduler_stood_still_kills_no_node(void **unused)
{
	assert_int_equal(report_as(w.node, "n-1", "west", "http://10.0.0.1:80", 0, "ready"), 204);
	stream_open(w.node);
	run_until(has_event, 3000);
	usleep(NODE_DOWN_AGE_US + 200000); /* as SIGSTOP would */
	w.events = 0;
	run_until(has_event, 3000);
	assert_int_equal(node_map_health(w.map, node_map_find(w.map, STR("n-1")), clock_mono_us()), NODE_UP);
	assert_int_equal(get("/v1/route?model=x"), 200);
}

static void test_routes_come_with_their_reasons(void **unused)
{
	struct tls_context *tls;
	struct http_client *east = client_of("n-2", &tls);
	assert_int_equal(report_as(w.node, "n-1", "west", "http://10.0.0.1:80", 0, "ready"), 204);
	assert_int_equal(report_as(east, "n-2", "east", "http://10.0.0.2:80", 0, "ready"), 204);
	assert_int_equal(get("/v1/route?model=x&client=10.2.3.4"), 200);
	yyjson_doc *doc;
	assert_int_equal(json_parse(buf_str(&w.body), &doc, NULL), 0);
	yyjson_val *root = yyjson_doc_get_root(doc), *client = yyjson_obj_get(root, "client"),
		   *choice = yyjson_obj_get(root, "choice");
	assert_string_equal(yyjson_get_str(yyjson_obj_get(root, "model")), "x:latest");
	assert_string_equal(yyjson_get_str(yyjson_obj_get(client, "address")), "10.2.3.4");
	assert_string_equal(yyjson_get_str(yyjson_obj_get(client, "site")), "east");
	assert_string_equal(yyjson_get_str(yyjson_obj_get(choice, "id")), "n-2");
	assert_string_equal(yyjson_get_str(yyjson_obj_get(choice, "api_url")), "http://10.0.0.2:80");
	yyjson_val *candidates = yyjson_obj_get(root, "candidates"), *second = yyjson_arr_get(candidates, 1);
	assert_int_equal(yyjson_arr_size(candidates), 2);
	assert_string_equal(yyjson_get_str(yyjson_obj_get(second, "api_url")), "http://10.0.0.1:80");
	assert_int_equal(yyjson_get_sint(yyjson_obj_get(second, "rtt_us")), 200000);
	assert_int_equal(yyjson_get_sint(yyjson_obj_get(second, "score_us")),
	                 yyjson_get_sint(yyjson_obj_get(second, "rtt_us")) +
	                     yyjson_get_sint(yyjson_obj_get(second, "queue_us")) +
	                     yyjson_get_sint(yyjson_obj_get(second, "prefill_us")));
	assert_non_null(strstr(yyjson_get_str(yyjson_obj_get(second, "reason")), "distance 200.0 ms"));
	yyjson_doc_free(doc);

	assert_int_equal(get("/v1/route?model=x&client=10.2.3.4&site=west"), 200);
	assert_non_null(strstr(w.body.base, "\"choice\":{\"id\":\"n-1\""));
	assert_int_equal(report_as(w.node, "n-1", "west", "http://10.0.0.1:80", 0, "draining"), 204);
	assert_int_equal(get("/v1/route?model=x&site=west"), 200);
	assert_non_null(
	    strstr(w.body.base, "\"refused\":[{\"id\":\"n-1\",\"name\":\"n-1-name\",\"reason\":\"draining\"}]"));
	assert_int_equal(report_as(east, "n-2", "east", "http://10.0.0.2:80", 0, "draining"), 204);
	assert_int_equal(get("/v1/route?model=x"), 503);
	assert_non_null(strstr(w.body.base, "\"type\":\"overloaded_error\""));
	assert_non_null(strstr(w.body.base, "draining"));
	assert_int_equal(get("/v1/route?model=nobody"), 404);
	assert_int_equal(get("/v1/route"), 400);
	assert_int_equal(get("/v1/route?model=x&client=moon"), 400);
	assert_int_equal(fetch(w.anonymous, "POST", w.public_port, "/v1/route?model=x", (struct str){0}), 405);
	assert_int_equal(get("/health"), 200);
	assert_int_equal(get("/"), 200);
	assert_non_null(strstr(w.body.base, "/v1/route"));
	assert_int_equal(get("/nothing"), 404);
	assert_int_equal(get("/metrics"), 200);
	assert_non_null(strstr(w.body.base, "mdn_scheduler_routes_total{result=\"answered\"} 3\n"));
	assert_non_null(strstr(w.body.base, "mdn_scheduler_routes_total{result=\"unavailable\"} 1\n"));
	assert_non_null(strstr(w.body.base, "mdn_scheduler_nodes{health=\"up\"} 2\n"));
	http_client_free(east);
	tls_context_free(tls);
}

/* Between two reports the scheduler must not send everybody to the same idle node. */
static void test_answered_routes_count_until_a_later_report(void **unused)
{
	struct tls_context *tls;
	struct http_client *second = client_of("n-2", &tls);
	int to_far = 0;
	assert_int_equal(report_as(w.node, "n-1", "west", "http://10.0.0.1:80", 0, "ready"), 204);
	assert_int_equal(report_as(second, "n-2", "east", "http://10.0.0.2:80", 0, "ready"), 204);
	for (int i = 0; i < 24; i++) {
		assert_int_equal(get("/v1/route?model=x&site=west"), 200);
		bool far = strstr(w.body.base, "\"choice\":{\"id\":\"n-2\"") != NULL;
		assert_true(!far || i >= 4);
		to_far += far;
	}
	assert_in_range(to_far, 8, 16);
	assert_int_equal(get("/metrics"), 200);
	assert_non_null(strstr(w.body.base, "mdn_scheduler_dispatches 24\n"));
	run_until(never, 250);
	assert_int_equal(report_as(w.node, "n-1", "west", "http://10.0.0.1:80", 0, "ready"), 204);
	assert_int_equal(report_as(second, "n-2", "east", "http://10.0.0.2:80", 0, "ready"), 204);
	assert_int_equal(get("/metrics"), 200);
	assert_non_null(strstr(w.body.base, "mdn_scheduler_dispatches 0\n"));
	http_client_free(second);
	tls_context_free(tls);
}

static void test_map_is_streamed_at_once_on_change_and_in_measure(void **unused)
{
	assert_int_equal(report_as(w.node, "n-1", "west", "http://10.0.0.1:80", 0, "ready"), 204);
	stream_open(w.operator); /* operators may look */
	run_until(has_event, 3000);
	assert_int_equal(w.events, 1);
	assert_int_equal(node_map_count(w.map), 1);
	/* A flood of changes: at most ten a second, and the last state arrives. */
	int64_t began = clock_mono_us();
	int running = 0;
	while (clock_mono_us() - began < 600000)
		assert_int_equal(report_as(w.node, "n-1", "west", "http://10.0.0.1:80", ++running % 8, "ready"), 204);
	assert_int_equal(report_as(w.node, "n-1", "west", "http://10.0.0.1:80", 5, "ready"), 204);
	run_until(never, 150);
	assert_true(running > 20);
	assert_in_range(w.events, 3, 10);
	assert_int_equal(node_model(node_map_find(w.map, STR("n-1")), STR("x"))->running, 5);
	/* Silence: still one a second. */
	size_t events = w.events;
	run_until(never, 1100);
	assert_in_range(w.events - events, 1, 2);
}

static uint8_t reply[2000];
static size_t reply_len;
static int dns_fd;

static bool has_reply(void)
{
	ssize_t n = recv(dns_fd, reply, sizeof(reply), 0);
	reply_len = n > 0 ? (size_t)n : 0;
	return n > 0;
}

static struct told dig(const char *name)
{
	uint8_t query[600];
	size_t len = ask_write(&(struct ask){.name = name, .subnet = "10.1.2.0", .source = 24}, 3, query);
	assert_int_equal(send(dns_fd, query, len, 0), (ssize_t)len);
	run_until(has_reply, 3000);
	return told_read(reply, reply_len);
}

static bool says_down(void)
{
	const struct node_entry *e = w.map ? node_map_find(w.map, STR("n-1")) : NULL;
	return e && e->said_down;
}

static void test_node_that_dies_leaves_dns_and_then_is_down_in_the_map(void **unused)
{
	struct tls_context *tls;
	struct http_client *east = client_of("n-2", &tls);
	struct str text = scheduler_dns_address(w.scheduler), port_text;
	uint64_t port;
	str_cut(text, ':', &port_text);
	assert_int_equal(str_to_u64(port_text, &port), 0);
	struct sockaddr_in to = {
	    .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	dns_fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	assert_int_equal(connect(dns_fd, (struct sockaddr *)&to, sizeof(to)), 0);

	stream_open(w.operator);
	struct told t = {0};
	int64_t died = 0, dns_us = 0;
	for (int i = 0; i < 100 && strcmp(t.answers, "10.0.0.1") != 0; i++) { /* DNS follows in a moment */
		died = clock_mono_us();
		assert_int_equal(report_as(w.node, "n-1", "west", "http://10.0.0.1:80", 0, "ready"), 204);
		assert_int_equal(report_as(east, "n-2", "east", "http://10.0.0.2:80", 0, "ready"), 204);
		run_until(says_down, 100);
		t = dig("x.api.mdn.test");
	}
	assert_string_equal(t.answers, "10.0.0.1");
	assert_int_equal(t.scope, 16);
	while (!says_down() && clock_mono_us() - died < 60 * US_PER_S) {
		assert_int_equal(report_as(east, "n-2", "east", "http://10.0.0.2:80", 0, "ready"), 204);
		t = dig("x.api.mdn.test");
		if (!dns_us && strcmp(t.answers, "10.0.0.2") == 0)
			dns_us = clock_mono_us() - died;
		run_until(says_down, 100);
	}
	assert_true(says_down());
	assert_true(dns_us >= 1500000); /* not for one report that is late; and before the map says so */
	assert_true(clock_mono_us() - died >= 2500000);
	assert_int_equal(get("/v1/route?model=x&site=west"), 200);
	assert_non_null(strstr(w.body.base, "\"reason\":\"down: last report "));
	close(dns_fd);
	http_client_free(east);
	tls_context_free(tls);
}

static void test_reload_takes_all_or_nothing(void **unused)
{
	struct error err = {0};
	struct str good = STR("10.2.0.0/16=west"), bad = STR("nonsense"), way = STR("west-east=1ms");
	struct scheduler_options o = {
	    .dns_ttl_us = US_PER_S, .zones = &good, .zone_count = 1, .distances = &bad, .distance_count = 1};
	assert_int_equal(report_as(w.node, "n-1", "east", "http://10.0.0.1:80", 0, "ready"), 204);
	assert_true(scheduler_reload(w.scheduler, &o, &err) < 0);
	assert_int_equal(get("/v1/route?model=x&client=10.2.0.1"), 200);
	assert_non_null(strstr(w.body.base, "\"site\":\"east\"}"));
	o.distances = &way;
	assert_int_equal(scheduler_reload(w.scheduler, &o, &err), 0);
	assert_int_equal(get("/v1/route?model=x&client=10.2.0.1"), 200);
	assert_non_null(strstr(w.body.base, "\"site\":\"west\"}"));
	assert_non_null(strstr(w.body.base, "\"rtt_us\":1000,"));
}

static void test_a_coverage_file_says_where_clients_are_and_a_bad_one_changes_nothing(void **unused)
{
	struct error err = {0};
	char path[] = "/tmp/mdn-coverage-XXXXXX";
	int fd = mkstemp(path);
	struct scheduler_options o = {.dns_ttl_us = US_PER_S, .coverage_file = path};
	assert_true(fd >= 0);
	assert_int_equal(
	    file_write(path, 0600, STR("{\"coverageZones\":{\"west\":{\"network\":[\"10.7.0.0/16\"]}}}"), &err), 0);
	assert_int_equal(report_as(w.node, "n-1", "east", "http://10.0.0.1:80", 0, "ready"), 204);
	assert_int_equal(scheduler_reload(w.scheduler, &o, &err), 0);
	assert_int_equal(get("/v1/route?model=x&client=10.7.0.1"), 200);
	assert_non_null(strstr(w.body.base, "\"site\":\"west\"}"));
	assert_int_equal(file_write(path, 0600, STR("{\"coverageZones\":{\"west\":{\"network\":[7]}}}"), &err), 0);
	assert_true(scheduler_reload(w.scheduler, &o, &err) < 0);
	assert_non_null(strstr(err.text, "network[0]"));
	assert_non_null(strstr(err.text, path));
	assert_int_equal(get("/v1/route?model=x&client=10.7.0.1"), 200);
	assert_non_null(strstr(w.body.base, "\"site\":\"west\"}"));
	close(fd);
	unlink(path);
}

static int steer(struct http_client *client, const char *word)
{
	return fetch(client, "POST", w.node_port, "/mdn/v1/steer", str_from(word));
}

static bool is_at_home(void)
{
	get("/v1/route?model=x&client=10.2.0.1");
	return strstr(w.body.base, "\"10.2.0.1\",\"site\":\"east\"}") != NULL;
}

static bool is_moved(void)
{
	get("/v1/route?model=x&client=10.2.0.1");
	return strstr(w.body.base, "\"10.2.0.1\",\"site\":\"west\"}") != NULL;
}

static void until(bool (*check)(void))
{
	for (int i = 0; i < 200 && !check(); i++)
		run_until(never, 20);
	assert_true(check());
}

static void test_operators_steer_and_only_they(void **unused)
{
	struct tls_context *tls;
	struct http_client *east = client_of("n-2", &tls);
	assert_int_equal(report_as(w.node, "n-1", "west", "http://10.0.0.1:80", 0, "ready"), 204);
	assert_int_equal(report_as(east, "n-2", "east", "http://10.0.0.2:80", 0, "ready"), 204);
	assert_int_equal(steer(w.node, "{\"subject\":\"site=east\",\"weight\":0}"), 403);
	assert_int_equal(fetch(w.node, "GET", w.node_port, "/mdn/v1/steer", (struct str){0}), 403);
	assert_int_equal(steer(w.operator, "{\"subject\":\"site=east\"}"), 400);
	assert_true(is_at_home());
	/* a site that is closed is nobody's choice, though it is nearest */
	assert_int_equal(steer(w.operator, "{\"subject\":\"site=east\",\"weight\":0,\"at_us\":5}"), 204);
	assert_int_equal(get("/v1/route?model=x&client=10.2.0.1"), 200);
	assert_non_null(strstr(w.body.base, "\"choice\":{\"id\":\"n-1\""));
	assert_int_equal(steer(w.operator, "{\"subject\":\"site=east\",\"weight\":100,\"at_us\":4}"), 409);
	assert_int_equal(steer(w.operator, "{\"subject\":\"site=east\",\"weight\":100,\"at_us\":6}"), 204);
	/* the same of a node */
	assert_int_equal(steer(w.operator, "{\"subject\":\"node=n-2\",\"weight\":0}"), 204);
	assert_int_equal(get("/v1/route?model=x&client=10.2.0.1"), 200);
	assert_non_null(strstr(w.body.base, "\"choice\":{\"id\":\"n-1\""));
	assert_int_equal(steer(w.operator, "{\"subject\":\"node=n-2\",\"weight\":100}"), 204);
	/* a prefix goes where it is pinned to */
	assert_int_equal(steer(w.operator, "{\"subject\":\"prefix=10.2.0.0/24\",\"site\":\"west\"}"), 204);
	report_as(w.node, "n-1", "west", "http://10.0.0.1:80", 0, "ready");
	until(is_moved);
	assert_int_equal(steer(w.operator, "{\"subject\":\"prefix=10.2.0.0/24\",\"site\":\"\"}"), 204);
	report_as(w.node, "n-1", "west", "http://10.0.0.1:80", 0, "ready");
	until(is_at_home);
	http_client_free(east);
	tls_context_free(tls);
}

static void test_edges_tell_their_own_demand(void **unused)
{
	assert_int_equal(report_as(w.node, "n-1", "west", "http://10.0.0.1:80", 0, "ready"), 204);
	assert_int_equal(fetch(w.node, "POST", w.node_port, "/mdn/v1/demand",
	                       STR("{\"id\":\"n-2\",\"window_us\":1000,\"demand\":[]}")),
	                 403);
	assert_int_equal(fetch(w.node, "POST", w.node_port, "/mdn/v1/demand",
	                       STR("{\"id\":\"n-1\",\"window_us\":1000,\"demand\":[{}]}")),
	                 400);
	assert_int_equal(fetch(w.node, "POST", w.node_port, "/mdn/v1/demand",
	                       STR("{\"id\":\"n-1\",\"window_us\":5000000,\"demand\":[{\"prefix\":\"10.1.2.0/"
	                           "24\",\"busy_us\":9000000}]}")),
	                 204);
	assert_int_equal(fetch(w.operator, "GET", w.node_port, "/mdn/v1/steer", (struct str){0}), 200);
	assert_non_null(strstr(w.body.base, "\"prefixes\":1"));
	assert_int_equal(get("/metrics"), 200);
	assert_non_null(strstr(w.body.base, "mdn_client_map_prefixes{is=\"known\"} 1\n"));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(test_only_a_node_itself_may_report_and_the_removed_may_not),
	    TEST(test_a_scheduler_that_has_just_begun_says_ask_again),
	    TEST(test_time_in_which_the_scheduler_stood_still_kills_no_node),
	    TEST(test_routes_come_with_their_reasons),
	    TEST(test_answered_routes_count_until_a_later_report),
	    TEST(test_map_is_streamed_at_once_on_change_and_in_measure),
	    TEST(test_node_that_dies_leaves_dns_and_then_is_down_in_the_map),
	    TEST(test_reload_takes_all_or_nothing),
	    TEST(test_operators_steer_and_only_they),
	    TEST(test_edges_tell_their_own_demand),
	    TEST(test_a_coverage_file_says_where_clients_are_and_a_bad_one_changes_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
