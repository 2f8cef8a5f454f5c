/* SPDX-License-Identifier: Apache-2.0 */
/* test_pool.c - how the client uses connections: against a scripted server on a thread, one step a request. */
#include "net_test.h"

enum step {
	ANSWER,       /* a response, connection kept */
	ANSWER_CLOSE, /* a response with Connection: close */
	HANG_UP,      /* reads the request, closes without a word */
	RESET,        /* closes with the request unread */
	NONSENSE,
	CUT_SHORT, /* half of the promised body */
	UNTIL_CLOSE,
	CONTINUE_FIRST,
	CONTINUE_ALWAYS,
	EXTRA_BYTES,
	SMUGGLE, /* Content-Length and Transfer-Encoding */
	NO_BODY_304,
};

static struct {
	int listener, port;
	pthread_t thread;
	const enum step *steps;
	int step_count;
	int step, connections;
} server;

static struct {
	struct loop *loop;
	struct http_client *client;
	char url[64];
	int done, left, code;
	int status;
	bool unsent;
	struct buf body;
} w;

static bool request_read(int fd)
{
	char text[4096];
	size_t len = 0;
	while (len < sizeof(text) - 1) {
		ssize_t n = recv(fd, text + len, sizeof(text) - 1 - len, 0);
		if (n <= 0)
			return false;
		len += (size_t)n;
		text[len] = '\0';
		char *end = strstr(text, "\r\n\r\n"), *size = strstr(text, "Content-Length: ");
		if (end && (!size || len >= (size_t)(end + 4 - text) + strtoul(size + 16, NULL, 10)))
			return true;
	}
	return false;
}

#define HINT "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
#define HINTS HINT HINT HINT HINT

/* False: the connection is over. */
static bool step_play(int fd, enum step step)
{
	static const char *const text[] = {
	    [ANSWER] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
	    [ANSWER_CLOSE] = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
	    [HANG_UP] = "",
	    [RESET] = "",
	    [NONSENSE] = "220 smtp ready\n",
	    [CUT_SHORT] = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok",
	    [UNTIL_CLOSE] = "HTTP/1.1 200 OK\r\n\r\nok",
	    [CONTINUE_FIRST] = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: "
			       "chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
	    [CONTINUE_ALWAYS] = HINTS HINTS HINTS HINTS "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
	    [EXTRA_BYTES] =
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
	    [SMUGGLE] =
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
	    [NO_BODY_304] = "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
	};
	raw_send(fd, text[step], strlen(text[step]));
	return step == ANSWER || step == CONTINUE_FIRST || step == EXTRA_BYTES || step == SMUGGLE ||
	       step == NO_BODY_304;
}

static void *serve(void *arg)
{
	(void)arg;
	while (server.step < server.step_count) {
		int fd = accept(server.listener, NULL, NULL);
		if (fd < 0)
			break;
		server.connections++;
		bool more = true;
		while (more && server.step < server.step_count) {
			enum step step = server.steps[server.step];
			char one;
			if (step == RESET ? recv(fd, &one, 1, MSG_PEEK) <= 0 : !request_read(fd))
				break;
			server.step++;
			more = step_play(fd, step);
		}
		close(fd);
	}
	return NULL;
}

static void script(const enum step *steps, int count)
{
	struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(name);
	server.steps = steps;
	server.step_count = count;
	server.step = server.connections = 0;
	server.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(server.listener, (struct sockaddr *)&name, sizeof(name)), 0);
	listen(server.listener, 16);
	getsockname(server.listener, (struct sockaddr *)&name, &len);
	snprintf(w.url, sizeof(w.url), "http://127.0.0.1:%d/x", ntohs(name.sin_port));
	pthread_create(&server.thread, NULL, serve, NULL);
}
#define SCRIPT(...) \
	script((const enum step[]){__VA_ARGS__}, sizeof((const enum step[]){__VA_ARGS__}) / sizeof(enum step))

static void script_end(void)
{
	http_client_free(w.client);
	w.client = NULL;
	run_for(w.loop, 2000);
	shutdown(server.listener, SHUT_RDWR);
	pthread_join(server.thread, NULL);
	close(server.listener);
}

static bool on_data(void *arg, struct str data)
{
	(void)arg;
	buf_append_str(&w.body, data);
	return true;
}

static void on_done(void *arg, struct http_call *call, const struct error *err)
{
	(void)arg;
	w.code = err ? err->code : 0;
	w.unsent = http_call_unsent(call);
	w.status = http_call_status(call);
	w.done = --w.left <= 0;
}

static void call(const char *method)
{
	struct http_call_options o = {.method = str_from(method),
	                              .url = str_from(w.url),
	                              .on_data = on_data,
	                              .on_done = on_done,
	                              .body_length = -1};
	if (strcmp(method, "POST") == 0)
		o.body = STR("abc");
	buf_clear(&w.body);
	w.done = 0;
	w.left = 1;
	http_call_start(w.client, &o);
	run_until(w.loop, &w.done);
}

static int setup(void **state)
{
	(void)state;
	memset(&w, 0, sizeof(w));
	loop_new(&w.loop);
	w.client = http_client_new(w.loop, &(struct http_client_options){.conns_per_origin = 2});
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	buf_fini(&w.body);
	loop_free(w.loop);
	return 0;
}

static void test_connection_is_used_again(void **state)
{
	(void)state;
	SCRIPT(ANSWER, CONTINUE_FIRST, NO_BODY_304, ANSWER, ANSWER_CLOSE, UNTIL_CLOSE);
	static const int status[] = {200, 200, 304, 200, 200, 200};
	for (int i = 0; i < 6; i++) {
		call(i == 3 ? "POST" : "GET");
		assert_int_equal(w.code, 0);
		assert_int_equal(w.status, status[i]);
		assert_true(str_equal(buf_str(&w.body), i == 2 ? STR("") : STR("ok")));
	}
	script_end();
	assert_int_equal(server.connections, 2);
}

static void test_endless_interim_answers_are_no_answer(void **state)
{
	(void)state;
	SCRIPT(CONTINUE_ALWAYS);
	call("GET");
	assert_int_equal(w.code, E_PEER);
	script_end();
}

static void test_stale_connection_is_retried_unseen(void **state)
{
	(void)state;
	SCRIPT(ANSWER, HANG_UP, ANSWER, RESET, ANSWER);
	call("GET");
	call("GET"); /* hung up on the used connection: again on a fresh one */
	assert_int_equal(w.code, 0);
	call("POST"); /* reset with the request unread: not even POST can have been acted upon */
	assert_int_equal(w.code, 0);
	assert_true(str_equal(buf_str(&w.body), STR("ok")));
	script_end();
	assert_int_equal(server.connections, 3);
	assert_int_equal(server.step, 5);
}

static void test_post_read_by_a_server_that_hung_up_is_not_repeated(void **state)
{
	(void)state;
	SCRIPT(ANSWER, HANG_UP, ANSWER);
	call("GET");
	call("POST");
	assert_int_equal(w.code, E_PEER);
	assert_int_equal(w.status, 0);
	script_end();
	assert_int_equal(server.step, 2);
}

static void test_fresh_connection_is_not_retried(void **state)
{
	(void)state;
	SCRIPT(HANG_UP, ANSWER);
	call("GET");
	assert_int_equal(w.code, E_PEER);
	assert_true(w.unsent);
	script_end();
	assert_int_equal(server.step, 1);
}

static void test_bad_answers_are_errors(void **state)
{
	(void)state;
	SCRIPT(NONSENSE, CUT_SHORT, SMUGGLE, ANSWER);
	for (int i = 0; i < 3; i++) {
		call("GET");
		assert_int_equal(w.code, E_PEER);
		assert_false(w.unsent);
	}
	call("GET");
	assert_int_equal(w.code, 0);
	script_end();
}

static void test_bytes_nobody_asked_for_end_the_connection(void **state)
{
	(void)state;
	SCRIPT(EXTRA_BYTES, ANSWER);
	call("GET");
	assert_int_equal(w.code, 0);
	assert_true(str_equal(buf_str(&w.body), STR("ok")));
	call("GET");
	assert_int_equal(w.code, 0);
	assert_true(str_equal(buf_str(&w.body), STR("ok")));
	script_end();
	assert_int_equal(server.connections, 2);
}

static void test_calls_wait_when_all_connections_are_busy(void **state)
{
	(void)state;
	SCRIPT(ANSWER, ANSWER, ANSWER, ANSWER, ANSWER, ANSWER, ANSWER, ANSWER);
	http_client_free(w.client);
	w.client = http_client_new(w.loop, &(struct http_client_options){.conns_per_origin = 1});
	w.left = 7;
	struct http_call_options o = {.url = str_from(w.url), .on_done = on_done};
	struct http_call *last = NULL;
	for (int i = 0; i < 8; i++)
		last = http_call_start(w.client, &o);
	http_call_cancel(last); /* from the queue */
	run_until(w.loop, &w.done);
	assert_int_equal(w.code, 0);
	script_end();
	assert_int_equal(server.connections, 1);
	assert_int_equal(server.step, 7);
}

static void test_waiting_call_times_out(void **state)
{
	(void)state;
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(name);
	assert_int_equal(bind(listener, (struct sockaddr *)&name, sizeof(name)), 0);
	listen(listener, 16); /* accepts in the kernel, never answers */
	getsockname(listener, (struct sockaddr *)&name, &len);
	snprintf(w.url, sizeof(w.url), "http://127.0.0.1:%d/", ntohs(name.sin_port));
	struct http_call_options o = {.url = str_from(w.url), .on_done = on_done};
	w.left = 1;
	http_call_start(w.client, &o);
	http_call_start(w.client, &o);
	o.head_timeout_us = 60000;
	http_call_start(w.client, &o);
	run_until(w.loop, &w.done);
	assert_int_equal(w.code, E_TIMEOUT);
	w.left = 2;
	http_client_free(w.client);
	assert_int_equal(w.left, 0);
	assert_int_equal(w.code, E_CANCELED);
	close(listener);
}

static void test_silent_host_costs_no_more_than_the_timeout(void **state)
{
	(void)state;
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), full[8];
	struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(name);
	assert_int_equal(bind(listener, (struct sockaddr *)&name, sizeof(name)), 0);
	listen(listener, 0);
	getsockname(listener, (struct sockaddr *)&name, &len);
	for (int i = 0; i < 8; i++) { /* its queue is full: it drops what comes next */
		full[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		connect(full[i], (struct sockaddr *)&name, sizeof(name));
	}
	snprintf(w.url, sizeof(w.url), "http://127.0.0.1:%d/", ntohs(name.sin_port));
	int64_t start = clock_mono_us();
	struct http_call_options o = {.url = str_from(w.url), .on_done = on_done, .head_timeout_us = 100000};
	w.left = 1;
	http_call_start(w.client, &o);
	run_until(w.loop, &w.done);
	assert_int_equal(w.code, E_TIMEOUT);
	assert_true(w.unsent);
	http_client_free(w.client);
	w.client = http_client_new(w.loop, &(struct http_client_options){.connect_timeout_us = 100000});
	w.done = 0;
	w.left = 1;
	o.head_timeout_us = 0;
	http_call_start(w.client, &o);
	run_until(w.loop, &w.done);
	assert_int_equal(w.code, E_TIMEOUT);
	assert_true(w.unsent);
	assert_true(clock_mono_us() - start < 2000000);
	for (int i = 0; i < 8; i++)
		close(full[i]);
	close(listener);
	http_client_free(w.client);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    T(test_connection_is_used_again),
	    T(test_endless_interim_answers_are_no_answer),
	    T(test_stale_connection_is_retried_unseen),
	    T(test_post_read_by_a_server_that_hung_up_is_not_repeated),
	    T(test_fresh_connection_is_not_retried),
	    T(test_bad_answers_are_errors),
	    T(test_bytes_nobody_asked_for_end_the_connection),
	    T(test_calls_wait_when_all_connections_are_busy),
	    T(test_waiting_call_times_out),
	    T(test_silent_host_costs_no_more_than_the_timeout),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
