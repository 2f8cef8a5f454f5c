/* SPDX-License-Identifier: Apache-2.0 */
/* Several nodes: forwarding, retries, death before and after the first token, drain. */
#include "world.h"

#include "base/log.h"
#include "net/x509.h"

#include <stdio.h>
#include <stdlib.h>

#define CHAT "/v1/chat/completions"
#define ASK(rest) "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"where am I?\"}]" rest "}"
#define STREAM ",\"max_tokens\":3,\"stream\":true"
#define NOBODY "http://127.0.0.1:1" /* refuses */

struct fixture {
	struct world w;
	struct place a; /* has no model of its own */
	struct scheduler_double s;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct gateway_options o = place_options("n-a", "west");
	static const struct str distances[] = {STR("west-mid=20ms"), STR("west-east=60ms")};

	o.first_token_timeout_us = 200 * US_PER_MS;
	world_init(&f->w);
	place_start(&f->w, &f->a, &o);
	scheduler_double_start(&f->w, &f->s);
	assert_int_equal(node_map_set_distances(f->s.map, distances, 2, NULL), 0);
	*state = f;
	return 0;
}

static double metric(struct fixture *f, struct place *p, const char *name)
{
	struct reply r = {0};
	double value = -1;

	ask(&f->w, &r, "GET", p->api, "/metrics", NULL);
	for (char *line = r.body.base; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
		if (strncmp(line, name, strlen(name)) == 0 && line[strlen(name)] == ' ')
			value = strtod(line + strlen(name), NULL);
	reply_fini(&r);
	return value;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	world_wait(&f->w, 20 * US_PER_MS);
	assert_int_equal(gateway_running(f->a.g), 0);
	assert_true(metric(f, &f->a, "mdn_ledger_open") == 0);
	place_stop(&f->a);
	if (f->s.server)
		scheduler_double_stop(&f->s);
	world_fini(&f->w);
	free(f);
	return 0;
}

static void start_with_model(struct fixture *f, struct place *p, const char *id, int32_t context)
{
	struct gateway_options o = place_options(id, "east");

	o.engine.context_tokens = context;
	place_start(&f->w, p, &o);
	place_model(&f->w, p, "m:latest");
	scheduler_double_report(&f->s, id, "east", p->url, p->api, "m:latest", NODE_READY);
}

static void report(struct fixture *f, const char *id, const char *site, const char *url)
{
	scheduler_double_report(&f->s, id, site, url, "", "m:latest", NODE_READY);
}

static void expect_node(const struct reply *r, const char *id)
{
	char text[64] = "";

	if (r->status != 200)
		fail_msg("status %d: %s", r->status, r->body.base);
	assert_true(reply_header(r, "x-mdn-node", text, sizeof(text)));
	assert_string_equal(text, id);
}

/* ---- forwarding ---------------------------------------------------------------------------------------------- */

static void test_a_request_goes_to_the_node_that_has_the_model(void **state)
{
	struct fixture *f = *state;
	struct place b;
	struct reply r = {0};
	char text[64];

	start_with_model(f, &b, "n-b", 4096);
	follow(&f->a, &f->s);
	ask(&f->w, &r, "GET", f->a.api, "/v1/models", NULL);
	assert_non_null(strstr(r.body.base, "\"id\":\"m:latest\""));
	reply_fini(&r);
	ask(&f->w, &r, "POST", f->a.api, CHAT, ASK(STREAM));
	expect_node(&r, "n-b");
	assert_true(reply_header(&r, "x-mdn-site", text, sizeof(text)));
	assert_string_equal(text, "east");
	assert_int_equal(stream_count(&r, "data: [DONE]\n\n"), 1);
	assert_int_equal(stream_count(&r, "\"role\":\"assistant\""), 1);
	reply_fini(&r);
	ask(&f->w, &r, "POST", f->a.api, CHAT, ASK(",\"max_tokens\":3"));
	expect_node(&r, "n-b");
	yyjson_doc *doc = reply_doc(&r);
	assert_int_equal(yyjson_get_int(at(doc, "usage.completion_tokens")), 3);
	yyjson_doc_free(doc);
	reply_fini(&r);
	assert_true(metric(f, &f->a, "mdn_forwards_total") == 2);
	assert_true(metric(f, &b, "mdn_hops_total") == 2);
	place_stop(&b);
}

static void test_a_model_here_is_preferred(void **state)
{
	struct fixture *f = *state;
	struct place b;
	struct reply r = {0};

	start_with_model(f, &b, "n-b", 4096);
	place_model(&f->w, &f->a, "m:latest");
	follow(&f->a, &f->s);
	ask(&f->w, &r, "POST", f->a.api, CHAT, ASK(STREAM));
	expect_node(&r, "n-a");
	reply_fini(&r);
	place_stop(&b);
}

static void answer_shortly(void *arg, struct http_exchange *x, struct str body, const struct error *err)
{
	http_respond(x, 200, "application/json", STR("{\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}"));
}

static void test_the_body_travels_as_it_came_and_headers_do_not(void **state)
{
	static const char body[] =
	    "{ \"model\" : \"m\",\t\"messages\":[{\"role\":\"user\",\"content\":\"\\u00e9\"}] ,\n\"x\": 1.50 }";
	struct fixture *f = *state;
	struct peer_double p;
	struct reply r = {0};
	const char *const headers[] = {"x-mdn-tenant: root", "x-mdn-priority: -9", "cookie: secret",
	                               "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", NULL};

	peer_double_start(&f->w, &p, answer_shortly);
	report(f, "n-p", "east", p.url);
	follow(&f->a, &f->s);
	reply_start(&f->w, &r, "POST", f->a.api, CHAT, body, headers);
	reply_wait(&r);
	expect_node(&r, "n-p");
	assert_true(str_equal(buf_str(&p.last_body), str_from(body)));
	assert_non_null(strcasestr(p.last_headers.base, "x-mdn-hop: 1\n"));
	assert_non_null(strcasestr(p.last_headers.base, "x-mdn-dispatch: 1"));
	assert_non_null(strcasestr(p.last_headers.base, "x-mdn-tenant: anonymous\n"));
	assert_non_null(strcasestr(p.last_headers.base, "x-mdn-priority: 0\n"));
	assert_non_null(strcasestr(p.last_headers.base, "traceparent: 00-0af7651916cd43dd8448eb211c80319c-"));
	assert_null(strcasestr(p.last_headers.base, "b7ad6b7169203331")); /* the span is ours */
	assert_null(strcasestr(p.last_headers.base, "cookie"));
	reply_fini(&r);
	peer_double_stop(&p);
}

/* The path says the dialect; what headers said of urgency and tenant has been understood and goes on in our own. */
static void test_a_hop_has_the_same_path_and_urgency(void **state)
{
	static const char body[] =
	    "{\"model\":\"m\",\"max_tokens\":5,\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}";
	struct fixture *f = *state;
	struct peer_double p;
	struct reply r = {0};
	const char *const headers[] = {"x-llm-d-inference-objective: bulk", "x-llm-d-inference-fairness-id: team-7",
	                               "x-llm-d-slo-ttft-ms: 60000", "x-mdn-class: system", NULL};

	peer_double_start(&f->w, &p, answer_shortly);
	report(f, "n-p", "east", p.url);
	follow(&f->a, &f->s);
	reply_start(&f->w, &r, "POST", f->a.api, "/v1/messages", body, headers);
	reply_wait(&r);
	expect_node(&r, "n-p");
	assert_string_equal(p.last_path, "/v1/messages");
	assert_true(str_equal(buf_str(&p.last_body), str_from(body)));
	assert_non_null(strcasestr(p.last_headers.base, "x-mdn-class: bulk\n"));
	assert_non_null(strcasestr(p.last_headers.base, "x-mdn-tenant: anon:team-7\n"));
	const char *left = strcasestr(p.last_headers.base, "x-mdn-deadline-us: ");
	assert_non_null(left);
	assert_in_range(strtol(left + strlen("x-mdn-deadline-us: "), NULL, 10), 30000000, 60000000);
	reply_fini(&r);
	static const char urgent[] =
	    "{\"model\":\"m\",\"priority\":-3,\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}";
	reply_start(&f->w, &r, "POST", f->a.api, CHAT, urgent, headers);
	reply_wait(&r);
	assert_string_equal(p.last_path, CHAT);
	assert_non_null(strcasestr(p.last_headers.base, "x-mdn-class: interactive\n"));
	assert_non_null(strcasestr(p.last_headers.base, "x-mdn-priority: -3\n"));
	reply_fini(&r);
	peer_double_stop(&p);
}

static void test_a_hop_is_answered_here_or_refused(void **state)
{
	struct fixture *f = *state;
	struct peer_double p;
	struct place b;
	struct reply r = {0};
	struct gateway_options o = place_options("n-closed", "west");

	peer_double_start(&f->w, &p, answer_shortly);
	report(f, "n-p", "east", p.url);
	follow(&f->a, &f->s);
	ask_with(&f->w, &r, f->a.url, CHAT, ASK(STREAM), "x-mdn-hop: 1");
	assert_int_equal(r.status, 508);
	reply_fini(&r);
	assert_int_equal(p.requests, 0);
	place_model(&f->w, &f->a, "m:latest");
	ask_with(&f->w, &r, f->a.url, CHAT, ASK(STREAM), "x-mdn-hop: 1");
	expect_node(&r, "n-a");
	char orca[256];
	assert_true(reply_header(&r, "endpoint-load-metrics", orca, sizeof(orca)));
	assert_int_equal(strncmp(orca, "JSON {\"named_metrics\":{\"kv_cache_usage_perc\":", 45), 0);
	reply_fini(&r);
	gateway_drain(f->a.g);
	ask_with(&f->w, &r, f->a.url, CHAT, ASK(STREAM), "x-mdn-hop: 1");
	assert_int_equal(r.status, 503);
	assert_true(reply_header(&r, "x-llm-d-request-dropped-reason", orca, sizeof(orca)));
	assert_string_equal(orca, "rejected-shutting-down");
	reply_fini(&r);
	o.plain_hops = false; /* as in a network: no certificate, no answer */
	place_start(&f->w, &b, &o);
	ask_with(&f->w, &r, b.url, CHAT, ASK(STREAM), "x-mdn-hop: 1");
	assert_int_equal(r.status, 403);
	reply_fini(&r);
	place_stop(&b);
	peer_double_stop(&p);
}

/* ---- before the first token ---------------------------------------------------------------------------------------
 */

static void refuse(void *arg, struct http_exchange *x, struct str body, const struct error *err)
{
	http_respond(x, 503, "application/json", STR("{\"error\":{\"message\":\"full\"}}"));
}

static void die_after_head(void *arg, struct http_exchange *x, struct str body, const struct error *err)
{
	http_respond_begin(x, 200, "text/event-stream", -1);
	http_abort(x);
}

static void say_nothing(void *arg, struct http_exchange *x, struct str body, const struct error *err) {}

static void test_two_bad_nodes_are_passed_over_unseen(void **state)
{
	struct fixture *f = *state;
	struct peer_double p;
	struct place b;
	struct reply r = {0};

	peer_double_start(&f->w, &p, refuse);
	report(f, "n-dead", "west", NOBODY);
	report(f, "n-full", "mid", p.url);
	start_with_model(f, &b, "n-b", 4096);
	follow(&f->a, &f->s);
	ask(&f->w, &r, "POST", f->a.api, CHAT, ASK(STREAM));
	expect_node(&r, "n-b");
	assert_int_equal(stream_count(&r, "data: [DONE]\n\n"), 1);
	assert_int_equal(stream_count(&r, "error"), 0);
	assert_int_equal(p.requests, 1);
	reply_fini(&r);
	assert_true(metric(f, &f->a, "mdn_retries_total") == 2);
	/* The dead one is known now and not asked again within a second. */
	ask(&f->w, &r, "POST", f->a.api, CHAT, ASK(STREAM));
	expect_node(&r, "n-b");
	reply_fini(&r);
	assert_true(metric(f, &f->a, "mdn_retries_total") == 3);
	place_stop(&b);
	peer_double_stop(&p);
}

static void test_a_node_that_dies_before_its_first_token_is_replaced(void **state)
{
	struct fixture *f = *state;
	struct peer_double dies, hangs;
	struct place b;
	struct reply r = {0};

	peer_double_start(&f->w, &dies, die_after_head);
	peer_double_start(&f->w, &hangs, say_nothing);
	report(f, "n-dies", "west", dies.url);
	report(f, "n-hangs", "mid", hangs.url);
	start_with_model(f, &b, "n-b", 4096);
	follow(&f->a, &f->s);
	ask(&f->w, &r, "POST", f->a.api, CHAT, ASK(STREAM));
	expect_node(&r, "n-b");
	assert_int_equal(dies.requests, 1);
	assert_int_equal(hangs.requests, 1); /* given up after first_token_timeout_us */
	reply_fini(&r);
	place_stop(&b);
	peer_double_stop(&dies);
	peer_double_stop(&hangs);
}

static void test_a_silent_node_is_left_when_the_map_calls_it_dead(void **state)
{
	struct fixture *f = *state;
	struct peer_double hangs;
	struct place c, b;
	struct reply r = {0};
	struct gateway_options o = place_options("n-c", "west"); /* waits a minute by itself */

	peer_double_start(&f->w, &hangs, say_nothing);
	report(f, "n-hangs", "west", hangs.url);
	start_with_model(f, &b, "n-b", 4096);
	place_start(&f->w, &c, &o);
	follow(&c, &f->s);
	reply_start(&f->w, &r, "POST", c.api, CHAT, ASK(STREAM), NULL);
	for (int i = 0; i < 200 && hangs.requests == 0; i++)
		world_wait(&f->w, US_PER_MS);
	assert_int_equal(hangs.requests, 1);
	scheduler_double_report(&f->s, "n-b", "east", b.url, b.api, "m:latest", NODE_READY);
	f->s.down = "n-hangs";
	scheduler_double_publish(&f->s);
	reply_wait(&r);
	expect_node(&r, "n-b");
	reply_fini(&r);
	place_stop(&c);
	place_stop(&b);
	peer_double_stop(&hangs);
}

static void test_when_nobody_can_answer_the_client_is_told_to_come_back(void **state)
{
	struct fixture *f = *state;
	struct reply r = {0};
	char text[16];

	report(f, "n-1", "west", NOBODY);
	report(f, "n-2", "mid", NOBODY);
	report(f, "n-3", "mid", NOBODY);
	report(f, "n-4", "east", NOBODY);
	follow(&f->a, &f->s);
	ask(&f->w, &r, "POST", f->a.api, CHAT, ASK(STREAM));
	assert_int_equal(r.status, 503);
	assert_true(reply_header(&r, "retry-after", text, sizeof(text)));
	yyjson_doc *doc = reply_doc(&r);
	assert_text(at(doc, "error.type"), "overloaded_error");
	yyjson_doc_free(doc);
	reply_fini(&r);
	assert_true(metric(f, &f->a, "mdn_retries_total") == 2); /* three tries */
}

static void blame_the_request(void *arg, struct http_exchange *x, struct str body, const struct error *err)
{
	http_respond(x, 400, "application/json",
	             STR("{\"error\":{\"message\":\"too long\",\"code\":\"context_length_exceeded\"}}"));
}

static void test_what_is_wrong_with_the_request_is_not_tried_again(void **state)
{
	struct fixture *f = *state;
	struct peer_double p;
	struct reply r = {0};

	peer_double_start(&f->w, &p, blame_the_request);
	report(f, "n-p", "west", p.url);
	report(f, "n-q", "east", p.url);
	follow(&f->a, &f->s);
	ask(&f->w, &r, "POST", f->a.api, CHAT, ASK(STREAM));
	assert_int_equal(r.status, 400);
	assert_string_equal(r.body.base, "{\"error\":{\"message\":\"too long\",\"code\":\"context_length_exceeded\"}}");
	assert_int_equal(p.requests, 1);
	reply_fini(&r);
	peer_double_stop(&p);
}

/* ---- after it -------------------------------------------------------------------------------------------------------
 */

static void die_after_a_word(void *arg, struct http_exchange *x, struct str body, const struct error *err)
{
	http_respond_begin(x, 200, "text/event-stream", -1);
	http_write(x, STR("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"one\"}}]}\n\n"));
	http_abort(x);
}

static void test_a_node_that_dies_after_its_first_token_ends_in_an_error_event(void **state)
{
	struct fixture *f = *state;
	struct peer_double p;
	struct reply r = {0};
	struct str data;
	yyjson_doc *doc;

	peer_double_start(&f->w, &p, die_after_a_word);
	report(f, "n-p", "west", p.url);
	report(f, "n-q", "east", p.url);
	follow(&f->a, &f->s);
	ask(&f->w, &r, "POST", f->a.api, CHAT, ASK(STREAM));
	assert_int_equal(r.status, 200);
	assert_true(r.broken);
	const char *cursor = stream_next(r.body.base, &data);
	assert_non_null(cursor);
	cursor = stream_next(cursor, &data);
	assert_non_null(cursor);
	assert_int_equal(json_parse(data, &doc, NULL), 0);
	assert_true(yyjson_is_str(at(doc, "error.message")));
	yyjson_doc_free(doc);
	assert_int_equal(stream_count(&r, "[DONE]"), 0);
	assert_int_equal(p.requests, 1);
	reply_fini(&r);
	assert_true(metric(f, &f->a, "mdn_broken_total") == 1);
	peer_double_stop(&p);
}

static int32_t busy(struct place *p)
{
	struct model_report m;

	assert_true(gateway_model_report(p->g, STR("m"), &m));
	return m.running + m.waiting;
}

static void test_a_slow_or_leaving_client_reaches_the_far_engine(void **state)
{
	struct fixture *f = *state;
	struct place b;
	struct reply r = {.hold = true};
	int64_t tokens = 0, before = -1;

	start_with_model(f, &b, "n-b", 8000000);
	follow(&f->a, &f->s);
	reply_start(&f->w, &r, "POST", f->a.api, CHAT, ASK(",\"max_tokens\":7000000,\"stream\":true"), NULL);
	for (int i = 0; i < 100 && tokens != before; i++) {
		before = tokens;
		world_wait(&f->w, 80 * US_PER_MS);
		tokens = (int64_t)metric(
			     f, &b, "vllm:inter_token_latency_seconds_count{model_name=\"m:latest\",engine=\"0\"}") *
		         16;
	}
	assert_int_equal(tokens, before);
	assert_true(tokens > 0 && tokens < 1500000);
	assert_int_equal(busy(&b), 1);
	http_call_cancel(r.call);
	for (int i = 0; i < 300 && busy(&b); i++)
		world_wait(&f->w, US_PER_MS);
	assert_int_equal(busy(&b), 0);
	reply_fini(&r);
	place_stop(&b);
}

/* ---- the network changes ------------------------------------------------------------------------------------------
 */

static void test_the_last_map_serves_on_when_the_scheduler_dies(void **state)
{
	struct fixture *f = *state;
	struct place b;
	struct reply r = {0};

	start_with_model(f, &b, "n-b", 4096);
	report(f, "n-dead", "west", NOBODY);
	follow(&f->a, &f->s);
	assert_true(metric(f, &f->a, "mdn_schedulers_live") == 1);
	scheduler_double_stop(&f->s);
	world_wait(&f->w, 2700 * US_PER_MS); /* past the age at which a scheduler would call nodes down */
	assert_true(metric(f, &f->a, "mdn_schedulers_live") == 0);
	for (int i = 0; i < 3; i++) {
		ask(&f->w, &r, "POST", f->a.api, CHAT, ASK(STREAM));
		expect_node(&r, "n-b");
		reply_fini(&r);
	}
	assert_true(metric(f, &f->a, "mdn_retries_total") == 1); /* evidence keeps the dead one out */
	place_stop(&b);
}

static void follow_both(struct fixture *f, struct scheduler_double *second)
{
	char urls[2][NODE_URL_SIZE] = {{0}};

	snprintf(urls[0], sizeof(urls[0]), "%s", f->s.url);
	snprintf(urls[1], sizeof(urls[1]), "%s", second->url);
	gateway_set_schedulers(f->a.g, urls, 2);
	for (int i = 0; i < 400 && metric(f, &f->a, "mdn_schedulers_live") < 2; i++)
		world_wait(&f->w, 2000);
	assert_true(metric(f, &f->a, "mdn_schedulers_live") == 2);
}

static void test_a_scheduler_that_has_just_begun_takes_no_node_away(void **state)
{
	struct fixture *f = *state;
	struct scheduler_double second;
	struct place b;
	struct reply r = {0};

	start_with_model(f, &b, "n-b", 4096);
	follow(&f->a, &f->s);
	scheduler_double_start(&f->w, &second); /* has heard of nobody */
	follow_both(f, &second);
	for (int i = 0; i < 3; i++) {
		scheduler_double_publish(i % 2 ? &f->s : &second);
		world_wait(&f->w, 5000);
		ask(&f->w, &r, "POST", f->a.api, CHAT, ASK(STREAM));
		expect_node(&r, "n-b");
		reply_fini(&r);
	}
	scheduler_double_stop(&f->s);
	scheduler_double_publish(&second); /* the only one left */
	world_wait(&f->w, 20 * US_PER_MS);
	ask(&f->w, &r, "POST", f->a.api, CHAT, ASK(STREAM));
	expect_node(&r, "n-b");
	reply_fini(&r);
	scheduler_double_stop(&second);
	place_stop(&b);
}

static void test_another_scheduler_is_heard_when_the_first_is_silent(void **state)
{
	struct fixture *f = *state;
	struct scheduler_double second;
	struct place b;
	struct reply r = {0};
	int status = 0;

	scheduler_double_start(&f->w, &second);
	follow_both(f, &second);
	start_with_model(f, &b, "n-b", 4096); /* told to f->s only, which says nothing any more */
	scheduler_double_report(&second, "n-b", "east", b.url, b.api, "m:latest", NODE_READY);
	for (int i = 0; i < 100 && status != 200; i++) {
		scheduler_double_publish(&second);
		world_wait(&f->w, 50 * US_PER_MS);
		ask(&f->w, &r, "POST", f->a.api, CHAT, ASK(STREAM));
		status = r.status;
		reply_fini(&r);
	}
	assert_int_equal(status, 200);
	scheduler_double_stop(&second);
	place_stop(&b);
}

static void test_a_draining_node_points_at_another(void **state)
{
	struct fixture *f = *state;
	struct place b;
	struct reply r = {0}, slow = {.hold = true};
	char text[256], expected[256];

	start_with_model(f, &b, "n-b", 4096);
	place_model(&f->w, &f->a, "m:latest");
	follow(&f->a, &f->s);
	reply_start(&f->w, &slow, "POST", f->a.api, CHAT, ASK(",\"max_tokens\":3000,\"stream\":true"), NULL);
	for (int i = 0; i < 200 && gateway_running(f->a.g) == 0 && slow.bytes == 0; i++)
		world_wait(&f->w, 200);
	gateway_drain(f->a.g);
	ask(&f->w, &r, "POST", f->a.api, CHAT, ASK(STREAM));
	assert_int_equal(r.status, 503);
	assert_true(reply_header(&r, "location", text, sizeof(text)));
	snprintf(expected, sizeof(expected), "%s" CHAT, b.api);
	assert_string_equal(text, expected);
	assert_true(reply_header(&r, "x-mdn-redirect", text, sizeof(text)));
	assert_string_equal(text, b.api);
	assert_true(reply_header(&r, "retry-after", text, sizeof(text)));
	reply_fini(&r);
	slow.hold = false; /* what ran goes on to its end */
	if (slow.call)
		http_call_resume(slow.call);
	reply_wait(&slow);
	assert_int_equal(stream_count(&slow, "[DONE]"), 1);
	reply_fini(&slow);
	place_stop(&b);
}

static void test_a_removed_node_gets_nothing(void **state)
{
	struct fixture *f = *state;
	struct peer_double p;
	struct reply r = {0};
	const char removed[1][NODE_ID_SIZE] = {"n-p"};

	peer_double_start(&f->w, &p, answer_shortly);
	report(f, "n-p", "west", p.url);
	follow(&f->a, &f->s);
	gateway_set_removed(f->a.g, removed, 1);
	ask(&f->w, &r, "POST", f->a.api, CHAT, ASK(STREAM));
	assert_int_equal(r.status, 404);
	reply_fini(&r);
	scheduler_double_publish(&f->s); /* a scheduler that has not heard */
	world_wait(&f->w, 20 * US_PER_MS);
	ask(&f->w, &r, "POST", f->a.api, CHAT, ASK(STREAM));
	assert_int_equal(r.status, 404);
	reply_fini(&r);
	assert_int_equal(p.requests, 0);
	peer_double_stop(&p);
}

static void test_load_in_answers_steers_the_next_request(void **state)
{
	struct fixture *f = *state;
	struct place near, far;
	struct gateway_options o = place_options("n-near", "mid");
	struct reply r[8] = {0}, last = {0};

	o.engine.slots = 1;
	o.engine.itl_base_us = 20000;
	place_start(&f->w, &near, &o);
	place_model(&f->w, &near, "m:latest");
	scheduler_double_report(&f->s, "n-near", "mid", near.url, "", "m:latest", NODE_READY);
	start_with_model(f, &far, "n-far", 4096);
	follow(&f->a, &f->s);
	/* No report ever tells of these; own dispatches and answers do. */
	for (int i = 0; i < 8; i++)
		reply_start(&f->w, &r[i], "POST", f->a.api, CHAT, ASK(",\"max_tokens\":10,\"stream\":true"), NULL);
	world_wait(&f->w, 30 * US_PER_MS);
	ask(&f->w, &last, "POST", f->a.api, CHAT, ASK(STREAM));
	expect_node(&last, "n-far");
	reply_fini(&last);
	for (int i = 0; i < 8; i++) {
		reply_wait(&r[i]);
		reply_fini(&r[i]);
	}
	place_stop(&near);
	place_stop(&far);
}

/* ---- certificates
 * ---------------------------------------------------------------------------------------------------- */

/* A CA, and contexts of nodes it knows; what a node port is given in a network. */
struct authority {
	char *cert, *key;
};

static struct tls_context *node_tls(const struct authority *ca, const char *identity)
{
	char *key, *csr, *cert;
	struct tls_context *tls;
	struct error err = {0};
	int64_t now = clock_wall_us();

	assert_int_equal(x509_key_new(&key, &err), 0);
	assert_int_equal(x509_request_new(str_from(key), STR("node"), &csr, &err), 0);
	const struct x509_issue issue = {.ca_cert_pem = str_from(ca->cert),
	                                 .ca_key_pem = str_from(ca->key),
	                                 .csr_pem = str_from(csr),
	                                 .identity = str_from(identity),
	                                 .ip = STR("127.0.0.1"),
	                                 .not_before_wall_us = now - US_PER_S,
	                                 .not_after_wall_us = now + 3600 * US_PER_S};
	assert_int_equal(x509_issue(&issue, &cert, &err), 0);
	const struct tls_options options = {.cert_pem = str_from(cert),
	                                    .key_pem = str_from(key),
	                                    .ca_pem = str_from(ca->cert),
	                                    .peer = TLS_PEER_REQUIRED};
	assert_int_equal(tls_context_new(&options, &tls, &err), 0);
	free(key);
	free(csr);
	free(cert);
	return tls;
}

static void on_node_tls(void *arg, struct http_exchange *x)
{
	struct place *p = arg;

	if (!gateway_handle_node(p->g, x))
		http_respond(x, 404, "text/plain", STR("?"));
}

static void test_scheduler_whose_map_is_broken_is_asked_anew(void **state)
{
	struct fixture *f = *state;

	follow(&f->a, &f->s);
	assert_int_equal(f->s.watcher_count, 1);
	http_write(f->s.watchers[0].x, STR("event: map\ndata: nonsense\n\n"));
	for (int i = 0; i < 200 && f->s.watcher_count == 1; i++) {
		scheduler_double_publish(&f->s); /* bytes go on coming: no stall would end it */
		world_wait(&f->w, 5000);
	}
	assert_int_equal(f->s.watcher_count, 2);
	world_wait(&f->w, 20 * US_PER_MS);
	assert_true(metric(f, &f->a, "mdn_schedulers_live") == 1);
}

static void test_nodes_know_each_other_by_certificate(void **state)
{
	struct fixture *f = *state;
	struct authority ca;
	struct error err;
	struct place b, c;
	struct reply r = {0};
	struct node_seen seen[4];
	char url[96];
	const char removed[1][NODE_ID_SIZE] = {"n-c"};
	struct gateway_options o = place_options("n-b", "east");

	o.plain_hops = false;
	assert_int_equal(
	    x509_ca_new(STR("mdn.test"), clock_wall_us() - US_PER_S, 3600 * US_PER_S, &ca.cert, &ca.key, &err), 0);
	struct tls_context *tls_b = node_tls(&ca, "spiffe://mdn.test/node/n-b");
	struct tls_context *tls_c = node_tls(&ca, "spiffe://mdn.test/node/n-c");
	const struct http_client_options client = {.tls = tls_c};
	struct http_client *plain = f->w.between;
	place_start(&f->w, &b, &o);
	place_model(&f->w, &b, "m:latest");
	http_server_free(b.node_port);
	const struct http_server_options server = {.address = STR("127.0.0.1:0"),
	                                           .inherited_fd = -1,
	                                           .tls = tls_b,
	                                           .handler = on_node_tls,
	                                           .handler_arg = &b,
	                                           .room = "test"};
	assert_int_equal(http_server_new(f->w.loop, &server, &b.node_port, &err), 0);
	snprintf(url, sizeof(url), "https://" STR_FMT, STR_ARG(http_server_address(b.node_port)));

	f->w.between = http_client_new(f->w.loop, &client); /* n-c's, with its certificate */
	o.self_id = o.self_name = STR("n-c");
	o.site = STR("west");
	place_start(&f->w, &c, &o);
	report(f, "n-x", "west", url); /* says it is n-x, but its certificate is n-b's */
	report(f, "n-b", "east", url);
	follow(&c, &f->s);
	ask(&f->w, &r, "POST", c.api, CHAT, ASK(STREAM));
	expect_node(&r, "n-b");
	reply_fini(&r);
	assert_true(metric(f, &c, "mdn_retries_total") == 1);
	ask(&f->w, &r, "POST", c.api, CHAT, ASK(STREAM));
	reply_fini(&r);
	assert_int_equal(gateway_seen(b.g, seen, 4), 1);
	assert_string_equal(seen[0].id, "n-c");
	uint64_t before = seen[0].dispatched;
	place_stop(&c);
	place_start(&f->w, &c, &o); /* numbers rise over a restart */
	follow(&c, &f->s);
	ask(&f->w, &r, "POST", c.api, CHAT, ASK(STREAM));
	expect_node(&r, "n-b");
	reply_fini(&r);
	assert_int_equal(gateway_seen(b.g, seen, 4), 1);
	assert_true(seen[0].dispatched > before);
	gateway_set_removed(b.g, removed, 1);
	ask(&f->w, &r, "POST", c.api, CHAT, ASK(STREAM));
	assert_int_equal(r.status, 503); /* b turns it away */
	reply_fini(&r);
	place_stop(&c);
	place_stop(&b);
	http_client_free(f->w.between);
	f->w.between = plain;
	tls_context_free(tls_b);
	tls_context_free(tls_c);
	free(ca.cert);
	free(ca.key);
}

static int group_setup(void **state)
{
	log_setup(LOG_ERROR, true, "test");
	return 0;
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(test_a_request_goes_to_the_node_that_has_the_model),
	    TEST(test_a_model_here_is_preferred),
	    TEST(test_the_body_travels_as_it_came_and_headers_do_not),
	    TEST(test_a_hop_has_the_same_path_and_urgency),
	    TEST(test_a_hop_is_answered_here_or_refused),
	    TEST(test_two_bad_nodes_are_passed_over_unseen),
	    TEST(test_a_node_that_dies_before_its_first_token_is_replaced),
	    TEST(test_a_silent_node_is_left_when_the_map_calls_it_dead),
	    TEST(test_when_nobody_can_answer_the_client_is_told_to_come_back),
	    TEST(test_what_is_wrong_with_the_request_is_not_tried_again),
	    TEST(test_a_node_that_dies_after_its_first_token_ends_in_an_error_event),
	    TEST(test_a_slow_or_leaving_client_reaches_the_far_engine),
	    TEST(test_the_last_map_serves_on_when_the_scheduler_dies),
	    TEST(test_a_scheduler_that_has_just_begun_takes_no_node_away),
	    TEST(test_another_scheduler_is_heard_when_the_first_is_silent),
	    TEST(test_a_draining_node_points_at_another),
	    TEST(test_a_removed_node_gets_nothing),
	    TEST(test_scheduler_whose_map_is_broken_is_asked_anew),
	    TEST(test_nodes_know_each_other_by_certificate),
	    TEST(test_load_in_answers_steers_the_next_request),
	};
	return cmocka_run_group_tests(tests, group_setup, NULL);
}
