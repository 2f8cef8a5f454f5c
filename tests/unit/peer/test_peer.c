/* SPDX-License-Identifier: Apache-2.0 */
/* Peers over loopback: a file comes whole and verified from an origin, from each other, past liars, across restarts. */
#include "serve/peer/room.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/rng.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#define CHUNK (64u << 10)
#define CHUNKS 40u
#define SIZE (CHUNK * (CHUNKS - 1) + 1234)
#define LIMIT_US (120 * US_PER_S) /* on a busy machine, under sanitizers */

struct node {
	struct world *world;
	char *folder, id[NODE_ID_SIZE];
	struct blob_store *store;
	struct http_server *server;
	struct http_client *client;
	struct peer *peer;
	bool ready;
	bool lies;     /* blob bytes are turned over on their way out */
	bool chatters; /* says at once, whenever asked, that it holds nothing new */
	bool shortens; /* sends less than what was asked for, and says so */
	bool boasts;   /* says that it has everything, and has nothing */
	bool stalls;   /* answers with a head and then no more */
	unsigned have_asked;
	unsigned blobs_asked;      /* requests for bytes answered here */
	unsigned stop_after_blobs; /* 0: never; then it refuses */
};

struct world {
	struct loop *loop;
	char folder[64];
	struct node nodes[4];
	size_t count;
	struct version version;
	struct buf content;
	bool (*until)(struct world *w);
	int64_t limit_us;
	bool timed_out;
};

static void on_stalled_gone(void *arg)
{
	(void)arg;
}

static void on_request(void *arg, struct http_exchange *x)
{
	struct node *n = arg;
	struct error err = {0};
	bool bytes = str_starts(http_path(x), STR("/mdn/v1/blobs/")) && !str_ends(http_path(x), STR("/have"));
	struct str range;
	if (bytes && n->stop_after_blobs && n->blobs_asked >= n->stop_after_blobs) {
		error_set(&err, E_UNAVAILABLE, "test: closed");
		http_respond_error(x, &err);
		return;
	}
	n->blobs_asked += bytes;
	n->have_asked += str_ends(http_path(x), STR("/have"));
	if (n->chatters && str_ends(http_path(x), STR("/have"))) {
		http_respond(x, 200, "application/json", STR("{\"count\":40,\"held\":0,\"bitmap\":\"AAAAAAA\"}"));
		return;
	}
	if (n->lies && bytes && http_header(x, "range", &range)) {
		static char wrong[CHUNK];
		memset(wrong, 'x', sizeof wrong);
		http_respond(x, 206, "application/octet-stream", (struct str){wrong, sizeof wrong});
		return;
	}
	if (n->boasts && str_ends(http_path(x), STR("/have"))) {
		http_respond(x, 200, "application/json", STR("{\"complete\":true}"));
		return;
	}
	if (n->shortens && bytes && http_header(x, "range", &range)) {
		http_respond(x, 206, "application/octet-stream", STR("only this"));
		return;
	}
	if (n->stalls && bytes && http_header(x, "range", &range)) {
		http_watch(x, NULL, on_stalled_gone, n); /* somebody's, so that it goes with its client */
		http_respond_begin(x, 206, "application/octet-stream", CHUNK);
		return;
	}
	if (!peer_handle(n->peer, x)) {
		error_set(&err, E_NOTFOUND, "nothing here");
		http_respond_error(x, &err);
	}
}

static void on_ready(void *arg, const struct version *v)
{
	struct node *n = arg;
	assert_string_equal(v->name, "tiny");
	assert_false(n->ready);
	n->ready = true;
}

static void node_open(struct world *w, struct node *n)
{
	struct error err = {0};
	assert_int_equal(blob_store_open(str_from(n->folder), &n->store, &err), 0);
	struct peer_options o = {
	    .store = n->store,
	    .client = n->client,
	    .self_id = str_from(n->id),
	    .site = STR("here"),
	    .domain = STR("test"),
	    .parallel = 4,
	    .on_ready = on_ready,
	    .arg = n,
	};
	assert_int_equal(peer_new(w->loop, &o, &n->peer, &err), 0);
}

static void node_close(struct node *n)
{
	peer_free(n->peer);
	blob_store_close(n->store);
	n->peer = NULL;
}

static struct node *node_add(struct world *w)
{
	struct node *n = &w->nodes[w->count];
	struct error err = {0};
	n->world = w;
	snprintf(n->id, sizeof n->id, "n-%zu", w->count++);
	n->folder = file_join(str_from(w->folder), n->id);
	struct http_client_options client = {0};
	n->client = http_client_new(w->loop, &client);
	struct http_server_options server = {
	    .address = STR("127.0.0.1:0"), .inherited_fd = -1, .handler = on_request, .handler_arg = n, .room = "test"};
	assert_int_equal(http_server_new(w->loop, &server, &n->server, &err), 0);
	node_open(w, n);
	return n;
}

static void node_knows(struct node *n, struct node **others, size_t count)
{
	struct peer_source sources[4] = {0};
	for (size_t i = 0; i < count; i++) {
		struct str at = http_server_address(others[i]->server);
		memcpy(sources[i].id, others[i]->id, sizeof sources[i].id);
		snprintf(sources[i].site, sizeof sources[i].site, "here");
		snprintf(sources[i].url, sizeof sources[i].url, "http://" STR_FMT, STR_ARG(at));
		sources[i].origin = others[i] == &n->world->nodes[0];
		sources[i].receiver = !sources[i].origin;
	}
	peer_set_sources(n->peer, sources, count);
}

/* The content, and its chunk list, as the repository has them. */
static void publish(struct world *w, struct version_file *f)
{
	struct blob_store *store = w->nodes[0].store;
	struct error err = {0};
	struct chunk_list list;
	struct buf text = {0};
	assert_int_equal(blob_put(store, buf_str(&w->content), &f->digest, &err), 0);
	assert_int_equal(chunk_list_build(store, &f->digest, CHUNK, &list, &err), 0);
	assert_int_equal(list.count, CHUNKS);
	chunk_list_format(&list, &text);
	assert_int_equal(blob_put(store, buf_str(&text), &f->chunks, &err), 0);
	chunk_list_fini(&list);
	buf_fini(&text);
}

static int setup(void **state)
{
	struct world *w = NEW(struct world);
	struct rng rng;
	snprintf(w->folder, sizeof w->folder, "/tmp/mdn-test-peer-XXXXXX");
	assert_non_null(mkdtemp(w->folder));
	assert_int_equal(loop_new(&w->loop), 0);
	rng_init(&rng, 7);
	uint64_t *words = (uint64_t *)buf_reserve(&w->content, SIZE + 8);
	for (size_t i = 0; i < SIZE / 8 + 1; i++)
		words[i] = rng_next(&rng);
	w->content.len = SIZE;

	node_add(w);
	struct version_file *f = mem_new(sizeof *f);
	snprintf(f->path, sizeof f->path, "tiny.gguf");
	snprintf(f->media_type, sizeof f->media_type, "application/octet-stream");
	f->size = SIZE;
	publish(w, f);
	w->version = (struct version){.name = "tiny", .tag = "latest", .files = f, .file_count = 1};
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;
	for (size_t i = 0; i < w->count; i++) {
		struct node *n = &w->nodes[i];
		http_server_free(n->server);
		node_close(n);
		http_client_free(n->client);
		free(n->folder);
	}
	loop_free(w->loop);
	version_fini(&w->version);
	buf_fini(&w->content);
	folder_remove(w->folder, NULL);
	free(w);
	return 0;
}

static void on_check(void *arg)
{
	struct world *w = arg;
	w->timed_out = clock_mono_us() > w->limit_us;
	if (w->timed_out || w->until(w))
		loop_stop(w->loop);
}

static void run_until(struct world *w, bool (*until)(struct world *w))
{
	struct loop_timer *t = loop_timer_new(w->loop, on_check, w);
	w->until = until;
	w->limit_us = clock_mono_us() + LIMIT_US;
	loop_timer_start(t, 1000, 2000);
	loop_run(w->loop);
	loop_timer_free(t);
	assert_false(w->timed_out);
}

static bool all_ready(struct world *w)
{
	for (size_t i = 1; i < w->count; i++)
		if (!w->nodes[i].ready && !w->nodes[i].lies)
			return false;
	return true;
}

static void assert_whole(struct world *w, struct node *n)
{
	struct buf got = {0};
	struct model_report report;
	assert_int_equal(blob_read_all(n->store, &w->version.files[0].digest, SIZE, &got, NULL), 0);
	assert_int_equal(got.len, SIZE);
	assert_memory_equal(got.base, w->content.base, SIZE);
	buf_fini(&got);
	assert_true(peer_progress(n->peer, STR("tiny:latest"), &report));
	assert_int_equal(report.state, MODEL_READY);
	assert_int_equal(report.have_bytes, SIZE);
}

static void test_crowd_gets_it_whole_and_the_origin_sends_about_one_copy(void **state)
{
	struct world *w = *state;
	struct node *n[4] = {&w->nodes[0], node_add(w), node_add(w), node_add(w)};
	for (size_t i = 1; i < 4; i++) {
		struct node *others[3];
		size_t count = 0;
		for (size_t k = 0; k < 4; k++)
			if (k != i)
				others[count++] = n[k];
		node_knows(n[i], others, count);
		peer_set_assigned(n[i]->peer, &w->version, 1);
	}
	run_until(w, all_ready);
	for (size_t i = 1; i < 4; i++)
		assert_whole(w, n[i]);
	/* three chunk lists, the chunks once, and slack for what the crowd did not know yet: it is over in a few polls
	 */
	assert_in_range(n[0]->blobs_asked, CHUNKS, CHUNKS * 5 / 2 + 3);
	print_message("origin answered %u requests for %u chunks to 3 receivers\n", n[0]->blobs_asked, CHUNKS);
}

static void test_receiver_gives_on_what_it_holds_while_the_origin_is_closed(void **state)
{
	struct world *w = *state;
	struct node *a = node_add(w), *b = node_add(w), *origin = &w->nodes[0];
	node_knows(a, (struct node *[]){origin}, 1);
	node_knows(b, (struct node *[]){a}, 1);
	peer_set_assigned(a->peer, &w->version, 1);
	peer_set_assigned(b->peer, &w->version, 1);
	run_until(w, all_ready);
	assert_whole(w, b);
	assert_true(a->blobs_asked >= CHUNKS);
}

static void test_liar_is_not_believed_and_not_passed_on(void **state)
{
	struct world *w = *state;
	struct node *liar = node_add(w), *b = node_add(w), *origin = &w->nodes[0];
	struct error err = {0};
	struct digest d;
	liar->lies = true;
	/* it claims to hold all: the blob is in its store, but other bytes leave */
	assert_int_equal(blob_put(liar->store, buf_str(&w->content), &d, &err), 0);
	node_knows(b, (struct node *[]){origin, liar}, 2);
	peer_set_assigned(b->peer, &w->version, 1);
	run_until(w, all_ready);
	assert_whole(w, b);
}

/* Seconds until everybody honest has it, with one hostile node that all others know as a peer. */
static double with_hostile(struct world *w, struct node *hostile)
{
	struct node *origin = &w->nodes[0], *a = node_add(w), *b = node_add(w);
	int64_t began = clock_mono_us();
	node_knows(a, (struct node *[]){origin, hostile, b}, 3);
	node_knows(b, (struct node *[]){origin, hostile, a}, 3);
	peer_set_assigned(a->peer, &w->version, 1);
	peer_set_assigned(b->peer, &w->version, 1);
	run_until(w, all_ready);
	assert_whole(w, a);
	assert_whole(w, b);
	return (double)(clock_mono_us() - began) / US_PER_S;
}

static void test_hostile_peers_cost_little(void **state)
{
	struct world *w = *state;
	struct node *hostile = node_add(w);
	struct error err = {0};
	struct digest d;
	hostile->lies = true; /* all_ready does not wait for it */
	hostile->boasts = true;
	assert_int_equal(blob_put(hostile->store, buf_str(&w->content), &d, &err), 0);
	double took = with_hostile(w, hostile);
	print_message("wrong bytes: %.2f s, %u chunks asked of it\n", took, hostile->blobs_asked);
	assert_in_range(hostile->blobs_asked, 0, 24);
}

static void test_wrong_lengths_are_as_bad_as_wrong_bytes(void **state)
{
	struct world *w = *state;
	struct node *hostile = node_add(w);
	hostile->shortens = hostile->boasts = hostile->lies = true;
	double took = with_hostile(w, hostile);
	print_message("wrong lengths: %.2f s, %u chunks asked of it\n", took, hostile->blobs_asked);
	assert_in_range(hostile->blobs_asked, 0, 24);
}

static void test_who_says_it_has_everything_and_has_nothing_is_passed_by(void **state)
{
	struct world *w = *state;
	struct node *hostile = node_add(w);
	hostile->boasts = true;
	hostile->ready = true; /* nobody waits for it */
	double took = with_hostile(w, hostile);
	print_message("boasts: %.2f s, %u chunks asked of it\n", took, hostile->blobs_asked);
}

static void test_who_stalls_is_passed_by(void **state)
{
	struct world *w = *state;
	struct node *hostile = node_add(w);
	hostile->boasts = hostile->stalls = hostile->ready = true;
	double took = with_hostile(w, hostile);
	print_message("stalls: %.2f s, %u chunks asked of it\n", took, hostile->blobs_asked);
}

static void test_wrong_bytes_are_named_in_progress(void **state)
{
	struct world *w = *state;
	struct node *liar = node_add(w), *b = node_add(w), *origin = &w->nodes[0];
	struct model_report r;
	liar->lies = liar->boasts = true;
	origin->stop_after_blobs = 6; /* so that it is seen under way */
	node_knows(b, (struct node *[]){origin, liar}, 2);
	peer_set_assigned(b->peer, &w->version, 1);
	for (int64_t until = clock_mono_us() + LIMIT_US; clock_mono_us() < until;) {
		struct loop_timer *t = loop_timer_new(w->loop, (loop_fn *)loop_stop, w->loop);
		loop_timer_start(t, 50 * US_PER_MS, 0);
		loop_run(w->loop);
		loop_timer_free(t);
		assert_true(peer_progress(b->peer, STR("tiny:latest"), &r));
		if (r.error[0])
			break;
	}
	print_message("said: %s\n", r.error);
	assert_non_null(strstr(r.error, liar->id));
}

static bool half(struct world *w)
{
	struct model_report r;
	return peer_progress(w->nodes[1].peer, STR("tiny:latest"), &r) && r.have_bytes >= SIZE / 2;
}

static void test_restart_goes_on_where_it_was(void **state)
{
	struct world *w = *state;
	struct node *a = node_add(w), *origin = &w->nodes[0];
	origin->stop_after_blobs = CHUNKS / 2 + 4; /* with the chunk list, and chunks on their way */
	node_knows(a, (struct node *[]){origin}, 1);
	peer_set_assigned(a->peer, &w->version, 1);
	run_until(w, half);
	node_close(a);
	node_open(w, a);
	unsigned before = origin->blobs_asked;
	origin->stop_after_blobs = 0;
	node_knows(a, (struct node *[]){origin}, 1);
	peer_set_assigned(a->peer, &w->version, 1);
	run_until(w, all_ready);
	assert_whole(w, a);
	assert_true(origin->blobs_asked - before <= CHUNKS / 2 + 4);
}

static bool assigned_none(struct world *w)
{
	struct model_report r;
	return !peer_progress(w->nodes[1].peer, STR("tiny:latest"), &r);
}

static void test_dropping_an_assignment_midway_leaves_nothing_behind(void **state)
{
	struct world *w = *state;
	struct node *a = node_add(w);
	node_knows(a, (struct node *[]){&w->nodes[0]}, 1);
	for (int i = 0; i < 20; i++) {
		peer_set_assigned(a->peer, &w->version, 1);
		peer_set_assigned(a->peer, NULL, 0);
	}
	run_until(w, assigned_none);
	peer_set_assigned(a->peer, &w->version, 1);
	run_until(w, all_ready);
	assert_whole(w, a);
}

/* How often this process has the partial file of the digest open. */
static unsigned partial_opens(const struct digest *d)
{
	char hex[65], link[64], target[512];
	unsigned count = 0;
	DIR *dir = opendir("/proc/self/fd");
	hex_encode(d->bytes, sizeof d->bytes, hex);
	for (struct dirent *e; (e = readdir(dir));) {
		snprintf(link, sizeof link, "/proc/self/fd/%.32s", e->d_name);
		ssize_t len = readlink(link, target, sizeof target);
		count += len > 0 && str_ends((struct str){target, (size_t)len}, str_from(hex));
	}
	closedir(dir);
	return count;
}

static void test_file_wanted_again_waits_for_the_job_of_the_dropped_fetch(void **state)
{
	struct world *w = *state;
	struct node *a = node_add(w);
	struct buf text = {0};
	struct error err = {0};
	struct digest d;
	assert_int_equal(blob_read_all(w->nodes[0].store, &w->version.files[0].chunks, 1 << 20, &text, &err), 0);
	assert_int_equal(blob_put(a->store, buf_str(&text), &d, &err), 0); /* so that a check opens the partial blob */
	buf_fini(&text);
	node_knows(a, (struct node *[]){&w->nodes[0]}, 1);
	for (int i = 0; i < 20; i++) {
		peer_set_assigned(a->peer, &w->version, 1);
		peer_set_assigned(a->peer, NULL, 0);
	}
	peer_set_assigned(a->peer, &w->version, 1);
	usleep(200 * 1000); /* the pool runs what it was given; the loop has not turned yet */
	assert_in_range(partial_opens(&w->version.files[0].digest), 0, 1);
	run_until(w, all_ready);
	assert_whole(w, a);
}

static bool chattered(struct world *w)
{
	return w->nodes[2].have_asked >= 6;
}

static void test_source_that_answers_at_once_is_not_asked_in_a_circle(void **state)
{
	struct world *w = *state;
	struct node *a = node_add(w), *chatterer = node_add(w);
	int64_t from = clock_mono_us();
	chatterer->chatters = true;
	w->nodes[0].stop_after_blobs = 2; /* so that it stays unfinished */
	node_knows(a, (struct node *[]){&w->nodes[0], chatterer}, 2);
	peer_set_assigned(a->peer, &w->version, 1);
	run_until(w, chattered);
	assert_true(clock_mono_us() - from > 5 * 90 * US_PER_MS);
}

/* A narrow line to another site says nothing of what goes to the neighbours. */
static void test_what_is_sent_is_divided_among_those_it_is_limited_for(void **state)
{
	struct world *w = *state;
	struct peer *p = w->nodes[0].peer;
	struct peer_source known[2] = {{.id = "n-near", .site = "here"}, {.id = "n-far", .site = "there"}};
	struct peer_class line = {.site = "there", .rate_max = 1000};
	peer_set_sources(p, known, 2);
	assert_int_equal(peer_sends_to(p, STR("spiffe://test/node/n-far")), 1);
	assert_int_equal(sends_share(&p->sends, 1, 1, 0), 0);
	peer_set_send_rates(p, 0, &line, 1);
	uint32_t near = peer_sends_to(p, STR("spiffe://test/node/n-near")),
		 far = peer_sends_to(p, STR("spiffe://test/node/n-far"));
	assert_int_equal(sends_share(&p->sends, 1, near, 0), 0);
	assert_int_equal(sends_share(&p->sends, 2, far, 0), 1000);
	assert_int_equal(sends_share(&p->sends, 3, far, 0), 500);
	assert_int_equal(sends_share(&p->sends, 3, far, 60 * US_PER_S), 1000); /* the other asks no more */
	peer_set_send_rates(p, 900, &line, 1);
	assert_int_equal(sends_share(&p->sends, 1, near, 60 * US_PER_S), 450);
	assert_int_equal(sends_share(&p->sends, 3, far, 60 * US_PER_S), 450);
	peer_set_send_rates(p, 0, NULL, 0);
	assert_int_equal(sends_share(&p->sends, 3, far, 60 * US_PER_S), 0);
}

static void test_rate_limit_holds_back_and_still_finishes(void **state)
{
	struct world *w = *state;
	struct node *a = node_add(w);
	peer_set_limits(a->peer, 4, SIZE / 2); /* bytes a second */
	node_knows(a, (struct node *[]){&w->nodes[0]}, 1);
	peer_set_assigned(a->peer, &w->version, 1);
	run_until(w, all_ready);
	assert_whole(w, a);
}

static void test_next_version_moves_only_what_changed(void **state)
{
	struct world *w = *state;
	struct node *a = node_add(w), *origin = &w->nodes[0];
	node_knows(a, (struct node *[]){origin}, 1);
	peer_set_assigned(a->peer, &w->version, 1);
	run_until(w, all_ready);
	w->content.base[7 * CHUNK + 1] ^= 1;
	w->content.base[SIZE - 1] ^= 1;
	publish(w, &w->version.files[0]);
	w->version.manifest.bytes[0]++;
	a->ready = false;
	unsigned before = origin->blobs_asked;
	peer_set_assigned(a->peer, &w->version, 1);
	run_until(w, all_ready);
	assert_whole(w, a);
	assert_int_equal(origin->blobs_asked - before, 3); /* the list and two chunks */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_crowd_gets_it_whole_and_the_origin_sends_about_one_copy, setup,
	                                    teardown),
	    cmocka_unit_test_setup_teardown(test_receiver_gives_on_what_it_holds_while_the_origin_is_closed, setup,
	                                    teardown),
	    cmocka_unit_test_setup_teardown(test_liar_is_not_believed_and_not_passed_on, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_hostile_peers_cost_little, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_wrong_lengths_are_as_bad_as_wrong_bytes, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_who_says_it_has_everything_and_has_nothing_is_passed_by, setup,
	                                    teardown),
	    cmocka_unit_test_setup_teardown(test_who_stalls_is_passed_by, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_wrong_bytes_are_named_in_progress, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_restart_goes_on_where_it_was, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_dropping_an_assignment_midway_leaves_nothing_behind, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_file_wanted_again_waits_for_the_job_of_the_dropped_fetch, setup,
	                                    teardown),
	    cmocka_unit_test_setup_teardown(test_source_that_answers_at_once_is_not_asked_in_a_circle, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_next_version_moves_only_what_changed, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_what_is_sent_is_divided_among_those_it_is_limited_for, setup,
	                                    teardown),
	    cmocka_unit_test_setup_teardown(test_rate_limit_holds_back_and_still_finishes, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
