/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes and a center over real TLS on loopback: what is placed arrives, what is removed is cut off, and a center that
 * is away or started anew stops nothing. The nodes of a test share its loop, the center has a thread
 * (tests/unit/center/world.h). */
#include "../center/world.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "core/api_key.h"
#include "net/x509.h"
#include "serve/member/inside.h"

#include <stdio.h>
#include <unistd.h>

struct node {
	char data[96], url[64];
	struct loop *loop;
	struct member *member;
	struct http_server *server;
	struct http_exchange *held; /* a repository's long poll, or a scheduler's slow answer */
	int rosters, drains, reports, flying, flying_most;
	bool slow, cutting; /* answers reports late; cuts removed nodes */
	char models[4][NODE_TEXT_SIZE * 2];
	size_t model_count, assigns;
	char catalog[2048]; /* what it answers as a repository */
	uint64_t serial;
	uint64_t last_seq, have_bytes;
};

static void fill_report(void *arg, struct node_report *r)
{
	struct node *n = arg;
	r->state = n->drains ? NODE_DRAINING : NODE_READY;
	r->models = mem_resize(NULL, n->model_count + 1, sizeof(*r->models));
	r->model_count = n->model_count;
	for (size_t i = 0; i < n->model_count; i++) {
		r->models[i] = (struct model_report){
		    .state = MODEL_READY, .have_bytes = 7 + n->have_bytes, .total_bytes = 7, .slots = 1};
		str_copy(str_from(n->models[i]), r->models[i].name, sizeof(r->models[i].name));
	}
}

static void on_roster(void *arg, const struct roster *roster)
{
	struct node *n = arg;
	n->rosters++;
	for (size_t i = 0; n->cutting && i < roster->removed_count; i++) {
		char identity[TLS_IDENTITY_SIZE];
		snprintf(identity, sizeof(identity), "spiffe://test.mdn/node/%s", roster->removed[i]);
		http_server_cut(n->server, str_from(identity));
		http_client_cut(member_client(n->member), str_from(identity));
	}
}

static void on_assign(void *arg, const struct assignment *a)
{
	struct node *n = arg;
	n->assigns++;
	n->model_count = a->count < 4 ? a->count : 4;
	for (size_t i = 0; i < n->model_count; i++)
		snprintf(n->models[i], sizeof(n->models[i]), "%s:%s", a->versions[i].name, a->versions[i].tag);
	member_report_soon(n->member);
}

static void on_drain(void *arg)
{
	((struct node *)arg)->drains++;
}

static void answer_catalog(struct node *n, struct http_exchange *x)
{
	struct buf out = {0};
	buf_printf(&out, "{\"serial\":%u,\"versions\":[%s]}", (unsigned)n->serial, n->catalog);
	http_respond(x, 200, "application/json", buf_str(&out));
	buf_fini(&out);
}

struct late {
	struct node *n;
	struct http_exchange *x;
	struct loop_timer *timer;
};

static void late_answer(void *arg)
{
	struct late *l = arg;
	l->n->flying--;
	loop_timer_free(l->timer);
	http_respond(l->x, 204, NULL, (struct str){0});
	free(l);
}

static void on_report(void *arg, struct http_exchange *x, struct str body, const struct error *err)
{
	struct node *n = arg;
	struct node_report r;
	assert_null(err);
	assert_int_equal(node_report_parse(body, &r, NULL), 0);
	bool watched = strcmp(r.name, "busy") == 0; /* the scheduler and the center report here, too */
	if (watched)
		assert_true(r.seq > n->last_seq); /* newest wins: never an older one after it */
	n->last_seq = watched ? r.seq : n->last_seq;
	node_report_fini(&r);
	if (!watched) {
		http_respond(x, 204, NULL, (struct str){0});
		return;
	}
	n->reports++;
	n->flying++;
	n->flying_most = n->flying > n->flying_most ? n->flying : n->flying_most;
	struct late *l = NEW(struct late);
	*l = (struct late){n, x, NULL};
	l->timer = loop_timer_new(http_loop(x), late_answer, l);
	loop_timer_start(l->timer, n->slow ? 300 * US_PER_MS : 0, 0);
}

static void nothing(void *arg)
{
	(void)arg;
}

static void held_gone(void *arg)
{
	((struct node *)arg)->held = NULL;
}

static void serve_node(void *arg, struct http_exchange *x)
{
	struct node *n = arg;
	struct str after;
	uint64_t serial = 0;
	struct error err = {0};
	if (member_admit(n->member, http_peer_identity(x), &err) < 0) {
		http_respond_error(x, &err);
	} else if (str_equal(http_path(x), STR("/mdn/v1/catalog"))) {
		assert_true(http_query(x, "after", &after));
		assert_int_equal(str_to_u64(after, &serial), 0);
		if (serial < n->serial) {
			answer_catalog(n, x);
		} else {
			n->held = x;
			http_watch(x, NULL, held_gone, n);
		}
	} else if (str_equal(http_path(x), STR("/mdn/v1/report"))) {
		http_body_collect(x, 1 << 20, on_report, n);
	} else if (str_equal(http_path(x), STR("/hold"))) {
		http_respond_begin(x, 200, "text/plain", -1);
		http_watch(x, NULL, nothing, NULL);
		http_write(x, STR("."));
	} else {
		http_respond(x, 204, NULL, (struct str){0});
	}
}

static void node_start(struct node *n, struct loop *loop, const char *data)
{
	struct error err = {0};
	int port = n->url[0] ? atoi(strrchr(n->url, ':') + 1) : free_port();
	char address[32];
	if (data != n->data)
		strcpy(n->data, data);
	n->loop = loop;
	snprintf(n->url, sizeof(n->url), "https://127.0.0.1:%d", port);
	snprintf(address, sizeof(address), "127.0.0.1:%d", port);
	struct member_options options = {.data = str_from(n->data),
	                                 .fill_report = fill_report,
	                                 .on_roster = on_roster,
	                                 .on_assign = on_assign,
	                                 .on_drain = on_drain,
	                                 .arg = n,
	                                 .node_url = str_from(n->url)};
	if (member_new(loop, &options, &n->member, &err) < 0)
		fail_msg("%s", err.text);
	struct http_server_options server = {.address = str_from(address),
	                                     .inherited_fd = -1,
	                                     .tls = member_tls(n->member),
	                                     .handler = serve_node,
	                                     .handler_arg = n,
	                                     .room = "test"};
	if (http_server_new(loop, &server, &n->server, &err) < 0)
		fail_msg("%s", err.text);
}

static void node_stop(struct node *n)
{
	http_server_free(n->server);
	member_free(n->member);
	n->server = NULL;
	n->member = NULL;
}

static void node_join(struct node *n, struct world *w, struct loop *loop, const char *name, const char *site,
                      uint32_t roles)
{
	char data[96];
	world_join(w, name, site, roles, data);
	node_start(n, loop, data);
}

#define HEX64(c) \
	c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c \
	    c c c c c c c c c

static void put_version(struct node *repository, const char *name)
{
	size_t at = strlen(repository->catalog);
	snprintf(
	    repository->catalog + at, sizeof(repository->catalog) - at,
	    "%s{\"name\":\"%s\",\"tag\":\"1\",\"manifest\":\"sha256:" HEX64(
		"a") "\",\"files\":[{\"path\":\"m.gguf\",\"media_type\":"
		     "\"application/octet-stream\",\"digest\":\"sha256:" HEX64(
			 "b") "\",\"size\":7,\"chunks\":\"sha256:" HEX64("c") "\"}],"
									      "\"architecture\":\"llama\","
									      "\"quantization\":\"Q4_1\",\"license\":"
									      "\"apache-2.0\",\"parameters\":1,"
									      "\"context_tokens\":2,"
									      "\"chat_template\":true,\"created_us\":"
									      "3}",
	    at ? "," : "", name);
	repository->serial++;
	if (repository->held) {
		struct http_exchange *x = repository->held;
		repository->held = NULL;
		answer_catalog(repository, x);
	}
}

/* ---- claims ----------------------------------------------------------------------------------------------------- */

static bool has_roster(void *arg)
{
	return ((struct node *)arg)->rosters > 0;
}
static bool has_model(void *arg)
{
	return ((struct node *)arg)->model_count == 1;
}
static bool has_two_models(void *arg)
{
	return ((struct node *)arg)->model_count == 2;
}
static bool has_none(void *arg)
{
	return ((struct node *)arg)->model_count == 0;
}
static bool has_drained(void *arg)
{
	return ((struct node *)arg)->drains > 0;
}

struct said { /* a call to the center, from a thread, while the test's loop runs */
	struct world *w;
	const char *method, *path, *body;
	struct buf reply;
	int status;
	pthread_t thread;
	volatile bool done;
};

static void *say_thread(void *arg)
{
	struct said *s = arg;
	s->status = ask(s->w, s->w->operators, s->method, s->path, s->body, &s->reply);
	__atomic_store_n(&s->done, true, __ATOMIC_RELEASE);
	return NULL;
}

static bool said_done(void *arg)
{
	return __atomic_load_n(&((struct said *)arg)->done, __ATOMIC_ACQUIRE);
}

static int say(struct world *w, struct loop *loop, const char *method, const char *path, const char *body,
               char **ret_reply)
{
	struct said s = {.w = w, .method = method, .path = path, .body = body};
	pthread_create(&s.thread, NULL, say_thread, &s);
	run_until(loop, said_done, &s, 15 * US_PER_S);
	pthread_join(s.thread, NULL);
	if (ret_reply)
		*ret_reply = s.reply.base;
	else
		buf_fini(&s.reply);
	return s.status;
}

struct progress_seen {
	struct buf text;
	int events;
};

static bool on_progress(void *arg, struct str data)
{
	struct progress_seen *p = arg;
	buf_append_str(&p->text, data);
	return true;
}

static void on_progress_done(void *arg, struct http_call *call, const struct error *err) {}

static int count_of(const struct buf *text, const char *what)
{
	int count = 0;
	for (const char *at = text->base;
	     at && (at = memmem(at, (size_t)(text->base + text->len - at), what, strlen(what))); at += strlen(what))
		count++;
	return count;
}

/* Many changes a second at a node are at most four events a second for who looks on. */
static void assert_progress_is_bounded(struct world *w, struct node *n)
{
	struct progress_seen seen = {0};
	char url[128], center[TLS_IDENTITY_SIZE], *self = read_file(w->operators, "center.id");
	struct tls_context *tls = tls_of(w->operators, TLS_PEER_REQUIRED);
	struct http_client *client = http_client_new(n->loop, &(struct http_client_options){.tls = tls});
	snprintf(url, sizeof(url), "%s/mdn/v1/events?model=small:1", w->url);
	snprintf(center, sizeof(center), "%s", self);
	http_call_start(client, &(struct http_call_options){.url = str_from(url),
	                                                    .peer_identity = str_from(center),
	                                                    .on_data = on_progress,
	                                                    .on_done = on_progress_done,
	                                                    .arg = &seen});
	for (int i = 0; i < 60; i++) {
		n->have_bytes++;
		member_report_soon(n->member);
		run_for(n->loop, 25 * US_PER_MS);
	}
	http_client_free(client);
	tls_context_free(tls);
	int events = count_of(&seen.text, "event: progress");
	assert_in_range(events, 4, 8); /* in a bit over 1.5 s */
	buf_fini(&seen.text);
	free(self);
}

/* ---- tests ---------------------------------------------------------------------------------------------------------
 */

static void test_placed_models_reach_nodes_and_later_joiners(void **state)
{
	struct world *w = *state;
	struct loop *loop;
	struct node repository = {0}, paris = {0}, lyon = {0}, late = {0};
	char *reply;
	assert_int_equal(loop_new(&loop), 0);
	node_join(&repository, w, loop, "repo", "core", ROLE_REPOSITORY);
	node_join(&paris, w, loop, "paris-1", "paris", ROLE_EDGE);
	node_join(&lyon, w, loop, "lyon-1", "lyon", ROLE_EDGE);
	put_version(&repository, "small");
	run_until(loop, has_roster, &paris, 3 * US_PER_S);
	assert_int_equal(
	    say(w, loop, "POST", "/mdn/v1/place", "{\"model\":\"small:1\",\"on\":\"role=edge,site=paris\"}", &reply),
	    200);
	assert_non_null(strstr(reply, member_id(paris.member).base));
	free(reply);
	run_until(loop, has_model, &paris, 3 * US_PER_S);
	assert_string_equal(paris.models[0], "small:1");
	node_join(&late, w, loop, "paris-2", "paris", ROLE_EDGE);
	run_until(loop, has_model, &late, 3 * US_PER_S);
	assert_int_equal(lyon.model_count, 0);
	assert_int_equal(repository.model_count, 0);

	/* A version nobody has yet is waited for: push and place may come in either order. */
	struct said s = {.w = w,
	                 .method = "POST",
	                 .path = "/mdn/v1/place",
	                 .body = "{\"model\":\"extra:1\",\"on\":\"node=paris-2\"}"};
	pthread_create(&s.thread, NULL, say_thread, &s);
	run_for(loop, 200 * US_PER_MS);
	put_version(&repository, "extra");
	run_until(loop, has_two_models, &late, 3 * US_PER_S);
	run_until(loop, said_done, &s, 3 * US_PER_S);
	pthread_join(s.thread, NULL);
	assert_int_equal(s.status, 200);
	buf_fini(&s.reply);

	run_for(loop, 100 * US_PER_MS);
	assert_int_equal(say(w, loop, "GET", "/mdn/v1/models", NULL, &reply), 200);
	assert_non_null(strstr(reply, "\"placed\":2,\"ready\":2,\"failed\":0"));
	free(reply);
	assert_int_equal(say(w, loop, "GET", "/mdn/v1/models/small:1", NULL, &reply), 200);
	assert_non_null(strstr(reply, "\"name\":\"paris-2\",\"site\":\"paris\",\"state\":\"ready\",\"have_bytes\":7"));
	assert_null(strstr(reply, "lyon"));
	free(reply);

	assert_progress_is_bounded(w, &late);

	const char *off = "{\"model\":\"small:1\",\"on\":\"site=paris,role=edge\",\"remove\":true}";
	assert_int_equal(say(w, loop, "POST", "/mdn/v1/place", off, NULL), 200);
	run_until(loop, has_none, &paris, 3 * US_PER_S);
	run_until(loop, has_model, &late, 3 * US_PER_S);
	assert_int_equal(say(w, loop, "POST", "/mdn/v1/nodes/paris-1/drain", "", NULL), 204);
	run_until(loop, has_drained, &paris, 3 * US_PER_S);

	node_stop(&repository);
	node_stop(&paris);
	node_stop(&lyon);
	node_stop(&late);
	loop_free(loop);
}

static void test_what_the_center_said_outlives_it(void **state)
{
	struct world *w = *state;
	struct loop *loop;
	struct node repository = {0}, edge = {0};
	assert_int_equal(loop_new(&loop), 0);
	node_join(&repository, w, loop, "keep-repo", "core", ROLE_REPOSITORY);
	node_join(&edge, w, loop, "keep-edge", "nice", ROLE_EDGE);
	put_version(&repository, "kept");
	run_until(loop, has_roster, &edge, 3 * US_PER_S);
	assert_int_equal(
	    say(w, loop, "POST", "/mdn/v1/place", "{\"model\":\"kept:1\",\"on\":\"node=keep-edge\"}", NULL), 200);
	run_until(loop, has_model, &edge, 3 * US_PER_S);
	run_for(loop, 200 * US_PER_MS); /* the copy on disk */

	world_stop(w);
	node_stop(&repository);
	node_stop(&edge);
	edge.model_count = 0;
	edge.rosters = 0;
	node_start(&edge, loop, edge.data); /* no center, no repository */
	assert_true(member_roster(edge.member)->node_count >= 2);
	run_until(loop, has_model, &edge, US_PER_S);
	assert_true(edge.rosters > 0);

	/* The center comes back with nobody but this edge: rules and versions are still there. */
	world_start(w);
	char *reply = NULL;
	assert_int_equal(say(w, loop, "GET", "/mdn/v1/models/kept:1", NULL, &reply), 200);
	free(reply);
	node_stop(&edge);
	struct buf assign = {0};
	char *path = file_join(str_from(edge.data), "control/assign.json");
	unlink(path);
	free(path);
	edge.model_count = 0;
	node_start(&edge, loop, edge.data);
	run_until(loop, has_model, &edge, 3 * US_PER_S);
	buf_fini(&assign);
	node_stop(&edge);
	loop_free(loop);
}

static bool knows_one_key(void *arg)
{
	return member_roster(((struct node *)arg)->member)->key_count == 1;
}
static bool knows_no_key(void *arg)
{
	return member_roster(((struct node *)arg)->member)->key_count == 0;
}

static void test_api_keys_reach_nodes_as_hashes_and_leave_them(void **state)
{
	struct world *w = *state;
	struct loop *loop;
	struct node edge = {0};
	char *reply, path[96];
	assert_int_equal(loop_new(&loop), 0);
	node_join(&edge, w, loop, "keys-edge", "x", ROLE_EDGE);
	run_until(loop, has_roster, &edge, 3 * US_PER_S);
	assert_int_equal(say(w, loop, "POST", "/mdn/v1/keys", "{\"name\":\"alice\"}", &reply), 200);
	struct buf made = {reply, strlen(reply), 0, 0, false};
	char *key = json_get(&made, "key"), *id = json_get(&made, "id");
	run_until(loop, knows_one_key, &edge, 3 * US_PER_S);
	const struct roster_key *kept = &member_roster(edge.member)->keys[0];
	assert_string_equal(kept->id, id);
	assert_true(api_key_matches(str_from(key), str_from(kept->hash)));
	snprintf(path, sizeof(path), "/mdn/v1/keys/%s", id);
	assert_int_equal(say(w, loop, "DELETE", path, NULL, NULL), 204);
	run_until(loop, knows_no_key, &edge, 3 * US_PER_S);
	free(reply);
	free(key);
	free(id);
	node_stop(&edge);
	loop_free(loop);
}

static bool cert_changed(void *arg)
{
	struct node *n = ((void **)arg)[0];
	char *now = read_file(n->data, "identity/cert.pem");
	bool changed = strcmp(now, ((void **)arg)[1]) != 0;
	free(now);
	return changed;
}

struct fetched {
	int status;
	bool done;
	struct error err;
};

static void on_fetched(void *arg, int status, struct str body, const struct error *err)
{
	struct fetched *f = arg;
	f->status = status;
	f->done = true;
	if (err)
		f->err = *err;
}

static bool fetch_is_done(void *arg)
{
	return ((struct fetched *)arg)->done;
}

/* On a connection of its own, so that the handshake happens now. */
static struct fetched call_node(struct node *from, struct node *to)
{
	struct fetched f = {0};
	char url[96], identity[TLS_IDENTITY_SIZE];
	struct http_client *client =
	    http_client_new(from->loop, &(struct http_client_options){.tls = member_tls(from->member)});
	snprintf(url, sizeof(url), "%s/mdn/v1/ping", to->url);
	snprintf(identity, sizeof(identity), "spiffe://test.mdn/node/%s", member_id(to->member).base);
	http_fetch(client, &(struct http_call_options){.url = str_from(url), .peer_identity = str_from(identity)}, 1024,
	           on_fetched, &f);
	run_until(from->loop, fetch_is_done, &f, 5 * US_PER_S);
	http_client_free(client);
	return f;
}

static void test_certificates_renew_and_expiry_without_a_center_stops_nothing(void **state)
{
	struct world *w = *state;
	struct loop *loop;
	struct node a = {0}, b = {0};
	world_stop(w);
	w->cert_life_us = 2 * US_PER_S;
	world_start(w);
	assert_int_equal(loop_new(&loop), 0);
	node_join(&a, w, loop, "short-a", "x", ROLE_EDGE);
	node_join(&b, w, loop, "short-b", "y", ROLE_EDGE);
	char *first = read_file(a.data, "identity/cert.pem");
	run_until(loop, cert_changed, (void *[]){&a, first}, 4 * US_PER_S);
	free(first);

	world_stop(w);
	run_for(loop, 3 * US_PER_S); /* both certificates are over */
	char who[TLS_IDENTITY_SIZE], *cert = read_file(a.data, "identity/cert.pem");
	int64_t from, to;
	assert_int_equal(x509_cert_info(str_from(cert), who, sizeof(who), &from, &to, NULL), 0);
	assert_true(to < clock_wall_us());
	struct fetched f = call_node(&a, &b);
	assert_int_equal(f.status, 204);

	w->cert_life_us = 3600 * US_PER_S;
	world_start(w); /* nobody restarts: the nodes come back by themselves */
	run_until(loop, cert_changed, (void *[]){&a, cert}, 15 * US_PER_S);
	free(cert);
	f = call_node(&b, &a);
	assert_int_equal(f.status, 204);
	node_stop(&a);
	node_stop(&b);
	loop_free(loop);
}

static void test_a_removed_node_is_cut_off_within_five_seconds(void **state)
{
	struct world *w = *state;
	struct loop *loop;
	struct node good = {.cutting = true}, bad = {0};
	struct fetched held = {0};
	char url[96], path[128], identity[TLS_IDENTITY_SIZE];
	assert_int_equal(loop_new(&loop), 0);
	node_join(&good, w, loop, "good", "x", ROLE_EDGE);
	node_join(&bad, w, loop, "bad", "x", ROLE_EDGE);
	run_until(loop, has_roster, &good, 3 * US_PER_S);
	snprintf(url, sizeof(url), "%s/hold", good.url);
	snprintf(identity, sizeof(identity), "spiffe://test.mdn/node/%s", member_id(good.member).base);
	http_fetch(member_client(bad.member),
	           &(struct http_call_options){.url = str_from(url), .peer_identity = str_from(identity)}, 1024,
	           on_fetched, &held);
	run_for(loop, 300 * US_PER_MS);
	assert_false(held.done); /* a live connection, mid-stream */

	snprintf(path, sizeof(path), "/mdn/v1/nodes/%s", member_id(bad.member).base);
	int64_t began = clock_mono_us();
	assert_int_equal(say(w, loop, "DELETE", path, NULL, NULL), 204);
	run_until(loop, fetch_is_done, &held, 5 * US_PER_S);
	print_message("removed node cut after %d ms\n", (int)((clock_mono_us() - began) / US_PER_MS));
	assert_int_not_equal(held.err.code, 0);
	struct fetched f = call_node(&bad, &good);
	assert_int_equal(f.status, 403);
	/* The center, which lets strangers in to join, has nothing for it behind any path, its own or another room's.
	 */
	static const char *const calls[][2] = {{"GET", "/mdn/v1/watch"},
	                                       {"POST", "/mdn/v1/report"},
	                                       {"GET", "/mdn/v1/nodes"},
	                                       {"GET", "/mdn/v1/ping"},
	                                       {"GET", "/v2/"},
	                                       {"GET", "/mdn/v1/catalog"},
	                                       {"GET", "/mdn/v1/blobs/x/have"}};
	for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++) {
		int status;
		snprintf(path, sizeof(path), "%s/identity", bad.data);
		while ((status = ask(w, path, calls[i][0], calls[i][1], "{}", NULL)) != 403 &&
		       clock_mono_us() < began + 5 * US_PER_S)
			run_for(loop, 20 * US_PER_MS);
		assert_int_equal(status, 403);
	}
	node_stop(&good);
	node_stop(&bad);
	loop_free(loop);
}

static bool three_reports(void *arg)
{
	return ((struct node *)arg)->reports >= 3;
}

static void test_reports_go_to_schedulers_one_at_a_time_with_round_trips(void **state)
{
	struct world *w = *state;
	struct loop *loop;
	struct node scheduler = {.slow = true}, edge = {0};
	char *reply;
	assert_int_equal(loop_new(&loop), 0);
	node_join(&edge, w, loop, "busy", "far", ROLE_EDGE);
	node_start(&scheduler, loop, (world_join(w, "sched", "near", ROLE_SCHEDULER, scheduler.data), scheduler.data));
	run_until(loop, has_roster, &edge, 3 * US_PER_S);
	/* Many changes in a row towards a scheduler that takes 300 ms for each report. */
	for (int i = 0; i < 60; i++) {
		member_report_soon(edge.member);
		run_for(loop, 25 * US_PER_MS);
	}
	run_until(loop, three_reports, &scheduler, 5 * US_PER_S);
	assert_int_equal(scheduler.flying_most, 1);
	assert_true(scheduler.reports <= 12);
	assert_int_equal(say(w, loop, "GET", "/mdn/v1/nodes", NULL, &reply), 200);
	assert_non_null(strstr(reply, "\"health\":\"up\""));
	assert_non_null(strstr(reply, "\"rtt_us\":"));
	free(reply);
	node_stop(&edge);
	node_stop(&scheduler);
	loop_free(loop);
}

static void test_joining_again_after_a_lost_reply_uses_the_same_key(void **state)
{
	struct world *w = *state;
	struct buf body = {0}, reply = {0};
	struct error err = {0};
	char data[96], *token = world_token(w, "{}"), *key, *csr, *path;
	snprintf(data, sizeof(data), "%s/unlucky", w->folder);
	/* The node made its key and asked; the reply was lost with the process. */
	path = file_join(str_from(data), "identity");
	assert_int_equal(folder_make(path, 0700, NULL), 0);
	free(path);
	assert_int_equal(x509_key_new(&key, NULL), 0);
	assert_int_equal(x509_request_new(str_from(key), STR("unlucky"), &csr, NULL), 0);
	path = file_join(str_from(data), "identity/key.pem");
	assert_int_equal(file_write(path, 0600, str_from(key), NULL), 0);
	free(path);
	buf_printf(&body, "{\"token\":\"%s\",\"name\":\"unlucky\",\"roles\":\"edge\",\"csr\":", token);
	buf_append_json(&body, str_from(csr));
	buf_append(&body, "}", 2);
	assert_int_equal(ask(w, NULL, "POST", "/mdn/v1/join", body.base, &reply), 200);
	char *id = json_get(&reply, "id");

	struct str url = str_from(w->url);
	if (member_join(url, str_from(token), str_from(data), STR("unlucky"), STR("x"), ROLE_EDGE, &err) < 0)
		fail_msg("%s", err.text);
	char *node = read_file(data, "identity/node.json");
	assert_non_null(strstr(node, id));
	assert_int_equal(member_join(url, str_from(token), str_from(data), STR("unlucky"), STR("x"), ROLE_EDGE, NULL),
	                 E_CONFLICT);
	free(node);
	free(id);
	free(csr);
	free(key);

	/* Refusals arrive as words, and a wrong center never sees the token. */
	char other[96];
	snprintf(other, sizeof(other), "%s/other", w->folder);
	assert_int_equal(member_join(url, str_from(token), str_from(other), STR("other"), STR("x"), ROLE_EDGE, &err),
	                 E_FORBIDDEN);
	assert_non_null(strstr(err.text, "another key"));
	token[strlen(token) - 5] = token[strlen(token) - 5] == 'A' ? 'B' : 'A';
	assert_true(member_join(url, str_from(token), str_from(other), STR("other"), STR("x"), ROLE_EDGE, &err) < 0);
	assert_null(strstr(err.text, "refuses"));
	assert_int_equal(member_join(url, STR("nonsense"), str_from(other), STR("other"), STR("x"), ROLE_EDGE, &err),
	                 E_AUTH);
	free(token);
	buf_fini(&body);
	buf_fini(&reply);
}

/* Who holds a center's old key may answer a renewal, but not say whom to trust. */
static void test_a_renewal_brings_no_other_ca(void **state)
{
	struct world *w = *state;
	struct identity i;
	struct error err = {0};
	struct buf answer = {0};
	char data[96], *ca, *key;
	world_join(w, "faithful", "x", ROLE_EDGE, data);
	assert_int_equal(identity_load(str_from(data), &i, &err), 0);
	assert_int_equal(x509_ca_new(STR("test.mdn"), clock_wall_us(), 3600 * US_PER_S, &ca, &key, &err), 0);
	const char *cas[] = {i.ca_pem, ca, ""};
	for (int k = 2; k >= 0; k--) {
		char *cert = str_dup(str_from(i.cert_pem)), *trusted = str_dup(str_from(cas[k]));
		buf_clear(&answer);
		buf_printf(&answer, "{\"id\":\"%s\",\"domain\":\"test.mdn\",\"certificate\":", i.id);
		buf_append_json(&answer, str_from(cert));
		buf_append_str(&answer, STR(",\"ca\":"));
		buf_append_json(&answer, str_from(trusted));
		buf_append_str(&answer, STR("}"));
		assert_int_equal(identity_take(&i, buf_str(&answer), &err) == 0, k == 0);
		free(cert);
		free(trusted);
	}
	identity_fini(&i);
	buf_fini(&answer);
	free(ca);
	free(key);
}

static void test_rosters_are_whole_or_refused(void **unused)
{
	struct roster r;
	struct error err = {0};
	const char *good = "{\"version\":3,\"domain\":\"d\",\"nodes\":[{\"id\":\"n-1\",\"name\":\"a\",\"site\":\"s\","
			   "\"roles\":\"edge,center\","
			   "\"node_url\":\"https://"
			   "h:1\",\"api_url\":\"\",\"state\":\"ready\",\"new\":1}],\"removed\":[\"n-3\",\"n-2\"],"
			   "\"keys\":[{\"id\":\"k\",\"hash\":\"h\"}]}";
	assert_int_equal(roster_parse(str_from(good), &r, &err), 0);
	assert_int_equal(r.version, 3);
	assert_int_equal(r.nodes[0].roles, ROLE_EDGE | ROLE_CENTER);
	assert_string_equal(r.removed[0], "n-2");
	roster_fini(&r);
	const char *bad[] = {"",
	                     "[]",
	                     "{}",
	                     "{\"version\":1}",
	                     "{\"version\":-1,\"nodes\":[],\"removed\":[],\"keys\":[]}",
	                     "{\"version\":1,\"nodes\":[{}],\"removed\":[],\"keys\":[]}",
	                     "{\"version\":1,\"nodes\":[],\"removed\":[1],\"keys\":[]}",
	                     "{\"version\":1,\"nodes\":[],\"removed\":[],\"keys\":[{\"id\":"
	                     "\"0123456789012345678901234567890123\",\"hash\":\"h\"}]}",
	                     "{\"version\":1,\"nodes\":[{\"id\":\"a "
	                     "b\",\"name\":\"a\",\"site\":\"s\",\"roles\":\"edge\",\"node_url\":\"u\"}],\"removed\":[],"
	                     "\"keys\":[]}"};
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		assert_true(roster_parse(str_from(bad[i]), &r, &err) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_rosters_are_whole_or_refused),
	    cmocka_unit_test(test_joining_again_after_a_lost_reply_uses_the_same_key),
	    cmocka_unit_test(test_a_renewal_brings_no_other_ca),
	    cmocka_unit_test(test_placed_models_reach_nodes_and_later_joiners),
	    cmocka_unit_test(test_what_the_center_said_outlives_it),
	    cmocka_unit_test(test_api_keys_reach_nodes_as_hashes_and_leave_them),
	    cmocka_unit_test(test_reports_go_to_schedulers_one_at_a_time_with_round_trips),
	    cmocka_unit_test(test_a_removed_node_is_cut_off_within_five_seconds),
	    cmocka_unit_test(test_certificates_renew_and_expiry_without_a_center_stops_nothing),
	};
	return cmocka_run_group_tests_name("member", tests, world_setup, world_teardown);
}
