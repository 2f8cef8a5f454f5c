/* SPDX-License-Identifier: Apache-2.0 */
#include "world.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

int free_port(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, len), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	close(fd);
	return ntohs(a.sin_port);
}

static void handle(void *arg, struct http_exchange *x)
{
	struct world *w = arg;
	struct error err = {0};
	if (w->center && center_handle(w->center, x))
		return;
	if (member_admit(w->member, http_peer_identity(x), &err) < 0)
		http_respond_error(x, &err);
	else
		http_respond(x, 204, NULL, (struct str){0});
}

static void on_removed(void *arg, struct str identity)
{
	struct world *w = arg;
	http_server_cut(w->server, identity);
	http_client_cut(member_client(w->member), identity);
}

static void *center_thread(void *arg)
{
	struct world *w = arg;
	struct error err = {0};
	struct member_options member = {.data = str_from(w->data),
	                                .center_url = str_from(w->url),
	                                .node_url = str_from(w->url),
	                                .roles = ROLE_CENTER};
	char address[32];
	snprintf(address, sizeof(address), "127.0.0.1:%d", w->port);
	if (loop_new(&w->loop) < 0 || member_new(w->loop, &member, &w->member, &err) < 0)
		fail_msg("%s", err.text);
	struct center_options center = {.data = str_from(w->data),
	                                .domain = STR("test.mdn"),
	                                .cert_life_us = w->cert_life_us,
	                                .client = member_client(w->member)};
	struct http_server_options server = {.address = str_from(address),
	                                     .inherited_fd = -1,
	                                     .tls = member_tls(w->member),
	                                     .handler = handle,
	                                     .handler_arg = w,
	                                     .room = "test"};
	if (center_new(w->loop, &center, &w->center, &err) < 0 ||
	    http_server_new(w->loop, &server, &w->server, &err) < 0)
		fail_msg("%s", err.text);
	center_on_removed(w->center, on_removed, w);
	sem_post(&w->ready);
	loop_run(w->loop);
	http_server_free(w->server);
	center_free(w->center);
	member_free(w->member);
	loop_free(w->loop);
	w->center = NULL;
	return NULL;
}

void world_start(struct world *w)
{
	sem_init(&w->ready, 0, 0);
	assert_int_equal(pthread_create(&w->thread, NULL, center_thread, w), 0);
	sem_wait(&w->ready);
	w->running = true;
}

static void stop(void *arg)
{
	loop_stop(arg);
}

void world_stop(struct world *w)
{
	if (!w->running)
		return;
	loop_post(w->loop, stop, w->loop);
	pthread_join(w->thread, NULL);
	sem_destroy(&w->ready);
	w->running = false;
}

/* In memory where that can be had: these tests are not about the disk's speed. */
void temporary_folder(char ret_folder[static 64])
{
	snprintf(ret_folder, 64, "%s/mdn-test-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	assert_non_null(mkdtemp(ret_folder));
}

void world_init(struct world *w)
{
	struct error err = {0};
	log_set_level(getenv("TEST_LOG") ? LOG_DEBUG : LOG_ERROR);
	int64_t life = w->cert_life_us;
	*w = (struct world){.cert_life_us = life};
	temporary_folder(w->folder);
	w->port = free_port();
	snprintf(w->data, sizeof(w->data), "%s/center", w->folder);
	snprintf(w->operators, sizeof(w->operators), "%s/operator", w->folder);
	snprintf(w->url, sizeof(w->url), "https://127.0.0.1:%d", w->port);
	if (center_init(str_from(w->data), STR("test.mdn"), str_from(w->url), STR("c1"), STR("core"), ROLE_CENTER,
	                str_from(w->operators), &err) < 0)
		fail_msg("%s", err.text);
}

void world_new(struct world *w)
{
	world_init(w);
	world_start(w);
}

void world_free(struct world *w)
{
	world_stop(w);
	assert_int_equal(folder_remove(w->folder, NULL), 0);
}

int world_setup(void **state)
{
	static struct world w;
	world_new(&w);
	*state = &w;
	return 0;
}

int world_teardown(void **state)
{
	world_free(*state);
	return 0;
}

char *read_file(const char *folder, const char *name)
{
	struct buf b = {0};
	struct error err = {0};
	char *path = file_join(str_from(folder), name);
	if (file_read(path, 1 << 20, &b, &err) < 0)
		fail_msg("%s", err.text);
	free(path);
	buf_append(&b, "", 1);
	return b.base;
}

struct tls_context *tls_of(const char *folder, enum tls_peer peer)
{
	char *cert = read_file(folder, "cert.pem"), *key = read_file(folder, "key.pem"),
	     *ca = read_file(folder, "ca.pem");
	struct tls_context *tls = NULL;
	struct error err = {0};
	struct tls_options options = {.cert_pem = str_from(cert),
	                              .key_pem = str_from(key),
	                              .ca_pem = str_from(ca),
	                              .peer = peer,
	                              .skew_us = 24 * 3600 * US_PER_S};
	if (peer == TLS_PEER_NONE)
		options.cert_pem = options.key_pem = (struct str){0};
	if (tls_context_new(&options, &tls, &err) < 0)
		fail_msg("%s", err.text);
	free(cert);
	free(key);
	free(ca);
	return tls;
}

struct asking {
	struct loop *loop;
	struct buf *reply;
	int status;
};

static void on_reply(void *arg, int status, struct str body, const struct error *failure)
{
	struct asking *a = arg;
	a->status = failure ? failure->code : status;
	if (failure)
		buf_append_str(a->reply, str_from(failure->text));
	else
		buf_append_str(a->reply, body);
	loop_stop(a->loop);
}

int ask(struct world *w, const char *as, const char *method, const char *path, const char *body, struct buf *reply)
{
	struct buf scratch = {0}, url = {0};
	struct asking a = {.reply = reply ? reply : &scratch};
	struct tls_context *tls = tls_of(as ? as : w->operators, as ? TLS_PEER_REQUIRED : TLS_PEER_NONE);
	assert_int_equal(loop_new(&a.loop), 0);
	struct http_client *client = http_client_new(a.loop, &(struct http_client_options){.tls = tls});
	buf_clear(a.reply);
	buf_printf(&url, "%s%s", w->url, path);
	struct http_call_options options = {
	    .method = str_from(method), .url = buf_str(&url), .body = str_from(body), .head_timeout_us = 10 * US_PER_S};
	http_fetch(client, &options, 1 << 20, on_reply, &a);
	loop_run(a.loop);
	http_client_free(client);
	loop_free(a.loop);
	tls_context_free(tls);
	buf_fini(&url);
	buf_append(a.reply, "", 1);
	a.reply->len--;
	buf_fini(&scratch);
	return a.status;
}

char *json_get(const struct buf *json, const char *key)
{
	yyjson_doc *doc;
	struct str text = {0};
	assert_int_equal(json_parse(buf_str(json), &doc, NULL), 0);
	json_str(yyjson_doc_get_root(doc), key, &text, NULL);
	char *copy = text.base ? str_dup(text) : NULL;
	yyjson_doc_free(doc);
	return copy;
}

char *world_token(struct world *w, const char *options)
{
	struct buf reply = {0};
	assert_int_equal(ask(w, w->operators, "POST", "/mdn/v1/tokens", options, &reply), 200);
	char *token = json_get(&reply, "token");
	buf_fini(&reply);
	assert_non_null(token);
	return token;
}

void world_join(struct world *w, const char *name, const char *site, uint32_t roles, char ret_data[static 96])
{
	struct error err = {0};
	char *token = world_token(w, "{}");
	snprintf(ret_data, 96, "%s/%s", w->folder, name);
	if (member_join(str_from(w->url), str_from(token), str_from(ret_data), str_from(name), str_from(site), roles,
	                &err) < 0)
		fail_msg("%s", err.text);
	free(token);
}

struct waiting {
	struct loop *loop;
	bool (*claim)(void *arg);
	void *arg;
	int64_t until_us;
	bool held;
};

static void on_look(void *arg)
{
	struct waiting *g = arg;
	g->held = g->claim && g->claim(g->arg);
	if (g->held || clock_mono_us() > g->until_us)
		loop_stop(g->loop);
}

static bool wait_on(struct loop *loop, bool (*claim)(void *arg), void *arg, int64_t timeout_us)
{
	struct waiting g = {loop, claim, arg, clock_mono_us() + timeout_us, false};
	struct loop_timer *timer = loop_timer_new(loop, on_look, &g);
	loop_timer_start(timer, 0, 5 * US_PER_MS);
	loop_run(loop);
	loop_timer_free(timer);
	return g.held;
}

void run_until(struct loop *loop, bool (*claim)(void *arg), void *arg, int64_t timeout_us)
{
	if (!wait_on(loop, claim, arg, timeout_us))
		fail_msg("what the test waits for did not happen within %d ms", (int)(timeout_us / US_PER_MS));
}

void run_for(struct loop *loop, int64_t us)
{
	wait_on(loop, NULL, NULL, us);
}
