/* SPDX-License-Identifier: Apache-2.0 */
/* test_strict.c - what a client may say on the wire: raw sockets against a server on its own thread. */
#include "net_test.h"

#include <semaphore.h>

static struct {
	pthread_t thread;
	sem_t ready;
	struct loop *loop;
	struct http_server *server;
	int port;
	int handled;
	int flood_gone;
} s;

static void answer_body(void *arg, struct http_exchange *x, struct str body, const struct error *err)
{
	(void)arg;
	if (err)
		http_respond_error(x, err);
	else
		http_respond(x, 200, "text/plain", body.len ? body : STR("empty"));
}

static char block[65536];
static void flood(void *arg)
{
	while (http_write(arg, (struct str){block, sizeof(block)}))
		;
}
static void flood_gone(void *arg)
{
	(void)arg;
	__atomic_add_fetch(&s.flood_gone, 1, __ATOMIC_SEQ_CST);
}

static void handler(void *arg, struct http_exchange *x)
{
	(void)arg;
	__atomic_add_fetch(&s.handled, 1, __ATOMIC_SEQ_CST);
	if (str_equal(http_path(x), STR("/unread")))
		http_respond(x, 200, "text/plain", STR("unread"));
	else if (str_equal(http_path(x), STR("/big")))
		http_respond(x, 200, NULL, (struct str){block, sizeof(block)});
	else if (str_equal(http_path(x), STR("/flood"))) {
		http_respond_begin(x, 200, NULL, -1);
		http_watch(x, flood, flood_gone, x);
		flood(x);
	} else if (str_equal(http_path(x), STR("/stream"))) {
		http_respond_begin(x, 200, NULL, -1);
		http_write(x, STR("streamed"));
		http_end(x);
	} else if (http_has_body(x))
		http_body_collect(x, 1 << 20, answer_body, NULL);
	else
		http_respond(x, 200, "text/plain", http_path(x));
}

static void *serve(void *arg)
{
	(void)arg;
	struct error err;
	loop_new(&s.loop);
	struct http_server_options options = {.address = STR("127.0.0.1:0"),
	                                      .inherited_fd = -1,
	                                      .handler = handler,
	                                      .conns_max = 20,
	                                      .head_timeout_us = 300 * US_PER_MS,
	                                      .idle_us = 600 * US_PER_MS,
	                                      .stall_timeout_us = 300 * US_PER_MS};
	int rc = http_server_new(s.loop, &options, &s.server, &err);
	s.port = rc == 0 ? port_of(http_server_address(s.server)) : 0;
	sem_post(&s.ready);
	loop_run(s.loop);
	http_server_free(s.server);
	loop_free(s.loop);
	return NULL;
}

static int setup(void **state)
{
	(void)state;
	sem_init(&s.ready, 0, 0);
	pthread_create(&s.thread, NULL, serve, NULL);
	sem_wait(&s.ready);
	return s.port ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	loop_post(s.loop, (loop_fn *)loop_stop, s.loop);
	pthread_join(s.thread, NULL);
	return 0;
}

/* Sends and reads until the server closes; returns the status, 0 without an answer, -1 when it stayed open. */
static int ask(const char *data, size_t len, char *answer, size_t size)
{
	int fd = raw_connect(s.port), status = 0;
	raw_send(fd, data, len);
	bool closed = raw_read(fd, answer, size, NULL);
	close(fd);
	sscanf(answer, "HTTP/1.1 %d", &status);
	return closed ? status : -1;
}

#define H "Host: a\r\n"
#define POST "POST /x HTTP/1.1\r\n" H

static const struct {
	int status;
	const char *name, *data;
	size_t len; /* 0: strlen */
} refused[] = {
    {400, "Content-Length with Transfer-Encoding",
     POST "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0},
    {400, "Transfer-Encoding with Content-Length",
     POST "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 0},
    {400, "two equal Content-Lengths", POST "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 0},
    {400, "two Content-Lengths", POST "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 0},
    {400, "list of Content-Lengths", POST "Content-Length: 3, 3\r\n\r\nabc", 0},
    {400, "signed Content-Length", POST "Content-Length: +3\r\n\r\nabc", 0},
    {400, "negative Content-Length", POST "Content-Length: -3\r\n\r\nabc", 0},
    {400, "hex Content-Length", POST "Content-Length: 0x3\r\n\r\nabc", 0},
    {400, "empty Content-Length", POST "Content-Length:\r\n\r\n", 0},
    {400, "huge Content-Length", POST "Content-Length: 99999999999999999999\r\n\r\n", 0},
    {400, "identity coding", POST "Transfer-Encoding: identity\r\n\r\n", 0},
    {400, "gzip, chunked", POST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 0},
    {400, "chunked twice", POST "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 0},
    {400, "two Transfer-Encodings", POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
     0},
    {400, "xchunked", POST "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 0},
    {400, "chunked with tab tricks",
     POST "Transfer-Encoding: \x0b"
          "chunked\r\n\r\n0\r\n\r\n",
     0},
    {400, "quoted chunked", POST "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", 0},
    {400, "HTTP/1.0 chunked", "POST /x HTTP/1.0\r\n" H "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0},
    {400, "obs-fold", "GET / HTTP/1.1\r\n" H "X: a\r\n b\r\n\r\n", 0},
    {400, "obs-fold of the first header", "GET / HTTP/1.1\r\n " H "\r\n", 0},
    {400, "bare LF after the request line", "GET / HTTP/1.1\n" H "\r\n", 0},
    {400, "bare LF after a header", "GET / HTTP/1.1\r\nHost: a\n\r\n", 0},
    {400, "bare LF at the end", "GET / HTTP/1.1\r\n" H "\n", 0},
    {400, "bare CR in a value", "GET / HTTP/1.1\r\n" H "X: a\rb\r\n\r\n", 0},
    {400, "CR CR LF", "GET / HTTP/1.1\r\n" H "X: a\r\r\n\r\n", 0},
    {400, "NUL in a value", "GET / HTTP/1.1\r\n" H "X: a\0b\r\n\r\n",
     sizeof("GET / HTTP/1.1\r\n" H "X: a\0b\r\n\r\n") - 1},
    {400, "NUL in the target", "GET /\0 HTTP/1.1\r\n" H "\r\n", sizeof("GET /\0 HTTP/1.1\r\n" H "\r\n") - 1},
    {400, "control character in a value",
     "GET / HTTP/1.1\r\n" H "X: a\x01"
     "b\r\n\r\n",
     0},
    {400, "space before the colon", "GET / HTTP/1.1\r\nHost : a\r\n\r\n", 0},
    {400, "space before TE's colon", POST "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 0},
    {400, "header without colon", "GET / HTTP/1.1\r\n" H "novalue\r\n\r\n", 0},
    {400, "empty header name", "GET / HTTP/1.1\r\n" H ": x\r\n\r\n", 0},
    {400, "bad header name", "GET / HTTP/1.1\r\n" H "a(b): x\r\n\r\n", 0},
    {400, "no Host", "GET / HTTP/1.1\r\n\r\n", 0},
    {400, "two Hosts", "GET / HTTP/1.1\r\n" H H "\r\n", 0},
    {400, "Host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 0},
    {400, "Host with a user", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 0},
    {400, "absolute-form of another host", "GET http://b/ HTTP/1.1\r\n" H "\r\n", 0},
    {400, "target without slash", "GET x HTTP/1.1\r\n" H "\r\n", 0},
    {400, "two spaces", "GET  / HTTP/1.1\r\n" H "\r\n", 0},
    {400, "space in the target", "GET /a b HTTP/1.1\r\n" H "\r\n", 0},
    {400, "fragment", "GET /#x HTTP/1.1\r\n" H "\r\n", 0},
    {400, "backslash", "GET /a\\..\\b HTTP/1.1\r\n" H "\r\n", 0},
    {400, "angle bracket", "GET /<x> HTTP/1.1\r\n" H "\r\n", 0},
    {400, "raw UTF-8 in the target", "GET /\xc3\xa9 HTTP/1.1\r\n" H "\r\n", 0},
    {400, "dot dot", "GET /a/../b HTTP/1.1\r\n" H "\r\n", 0},
    {400, "dot dot at the end", "GET /a/.. HTTP/1.1\r\n" H "\r\n", 0},
    {400, "encoded dot dot", "GET /a/%2e%2E/b HTTP/1.1\r\n" H "\r\n", 0},
    {400, "dot dot with encoded slash", "GET /a%2f..%2Fb HTTP/1.1\r\n" H "\r\n", 0},
    {400, "dot dot with encoded backslash", "GET /a%5c..%5cb HTTP/1.1\r\n" H "\r\n", 0},
    {400, "dot segment", "GET /./a HTTP/1.1\r\n" H "\r\n", 0},
    {400, "encoded NUL", "GET /%00 HTTP/1.1\r\n" H "\r\n", 0},
    {400, "encoded LF", "GET /%0a HTTP/1.1\r\n" H "\r\n", 0},
    {400, "half an escape", "GET /%4 HTTP/1.1\r\n" H "\r\n", 0},
    {400, "no escape", "GET /%zz HTTP/1.1\r\n" H "\r\n", 0},
    {400, "star for GET", "GET * HTTP/1.1\r\n" H "\r\n", 0},
    {405, "CONNECT", "CONNECT a:1 HTTP/1.1\r\n" H "\r\n", 0},
    {400, "lower-case method", "get / HTTP/1.1\r\n" H "\r\n", 0},
    {505, "HTTP/0.9", "GET /\r\n\r\n", 0},
    {505, "HTTP/2.0", "GET / HTTP/2.0\r\n" H "\r\n", 0},
    {400, "HTTP/1.9", "GET / HTTP/1.9\r\n" H "\r\n", 0},
    {400, "h2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0},
    {400, "TLS hello on a plain port", "\x16\x03\x01\x02", 0},
    {417, "strange expectation", POST "Expect: magic\r\nContent-Length: 1\r\n\r\na", 0},
    {400, "chunk size with plus", POST "Transfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n", 0},
    {400, "chunk size with 0x", POST "Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", 0},
    {400, "chunk size with a space before", POST "Transfer-Encoding: chunked\r\n\r\n 3\r\nabc\r\n0\r\n\r\n", 0},
    {400, "chunk size with a space behind", POST "Transfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n", 0},
    {400, "empty chunk size", POST "Transfer-Encoding: chunked\r\n\r\n\r\nabc\r\n0\r\n\r\n", 0},
    {400, "chunk size that overflows", POST "Transfer-Encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n",
     0},
    {400, "bare LF after a chunk size", POST "Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n", 0},
    {400, "bare LF after a chunk", POST "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n", 0},
    {400, "chunk longer than its size", POST "Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", 0},
    {400, "bare LF in a chunk extension", POST "Transfer-Encoding: chunked\r\n\r\n3;a\nabc\r\n0\r\n\r\n", 0},
    {400, "NUL in a chunk extension", POST "Transfer-Encoding: chunked\r\n\r\n3;a=\x01\r\nabc\r\n0\r\n\r\n", 0},
    {400, "bare LF in trailers", POST "Transfer-Encoding: chunked\r\n\r\n0\r\nA: b\n\r\n", 0},
};

static void test_doubtful_requests_are_refused_and_closed(void **state)
{
	(void)state;
	char answer[4096];
	int failures = 0;
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		/* A smuggled second request must never be answered, wherever the first is thought to end. */
		struct buf data = {0};
		buf_append(&data, refused[i].data, refused[i].len ? refused[i].len : strlen(refused[i].data));
		buf_append_str(&data, STR("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"));
		int status = ask(data.base, data.len, answer, sizeof(answer));
		bool twice = status > 0 && strstr(answer, "HTTP/1.1 200");
		if (status != refused[i].status || twice || !strstr(answer, "Connection: close\r\n")) {
			print_error("%s: got %d%s, expected %d\n%s\n", refused[i].name, status,
			            twice ? " and a second answer" : "", refused[i].status, answer);
			failures++;
		}
		buf_fini(&data);
	}
	assert_int_equal(failures, 0);
}

static void test_unusual_but_right_requests_are_answered(void **state)
{
	(void)state;
	static const char *const fine[][2] = {
	    {"\r\nGET /a HTTP/1.1\r\n" H "Connection: close\r\n\r\n", "/a"},
	    {"GET http://A/b%20c HTTP/1.1\r\n" H "Connection: close\r\n\r\n", "/b c"},
	    {"GET http://a HTTP/1.1\r\n" H "Connection: close\r\n\r\n", "/"},
	    {"OPTIONS * HTTP/1.1\r\n" H "Connection: close\r\n\r\n", "*"},
	    {"GET /a...b/..c HTTP/1.0\r\n\r\n", "/a...b/..c"},
	    {"GET /q?x=[1]|{2}&%zz HTTP/1.1\r\n" H "Connection: close\r\n\r\n", "/q"},
	    {"GET /u HTTP/1.1\r\n" H "Connection: upgrade, close\r\nUpgrade: h2c\r\n\r\n", "/u"},
	    {POST "Connection: close\r\nTransfer-Encoding: "
	          "Chunked\r\n\r\n3;ext=1;b=\"q\"\r\nabc\r\n00a\r\n0123456789\r\n0\r\nT: x\r\n\r\n",
	     "abc0123456789"},
	    {POST "Connection: close\r\nContent-Length:  3 \r\n\r\nabc", "abc"},
	    {POST "Connection: close\r\n\r\n", "/x"},
	    {"GET /stream HTTP/1.0\r\n\r\n", "streamed"},
	};
	char answer[4096];
	for (size_t i = 0; i < sizeof(fine) / sizeof(fine[0]); i++) {
		int status = ask(fine[i][0], strlen(fine[i][0]), answer, sizeof(answer));
		char *body = strstr(answer, "\r\n\r\n");
		if (status != 200 || !body || strcmp(body + 4, fine[i][1]) != 0)
			fail_msg("%s: %d %s", fine[i][0], status, answer);
	}
}

static void test_limits_have_their_statuses(void **state)
{
	(void)state;
	char answer[4096];
	struct buf b = {0};
	buf_append_str(&b, STR("GET /"));
	for (int i = 0; i < LIMIT_HTTP_TARGET; i++)
		buf_append(&b, "a", 1);
	buf_append_str(&b, STR(" HTTP/1.1\r\n" H "\r\n"));
	assert_int_equal(ask(b.base, b.len, answer, sizeof(answer)), 414);
	for (int i = 0; i < 1000; i++)
		buf_append(&b, "a", 1);
	b.len -= 1000;
	assert_int_equal(ask(b.base, 5 + LIMIT_HTTP_TARGET + 100, answer, sizeof(answer)),
	                 414); /* no line end in sight */
	buf_clear(&b);
	buf_append_str(&b, STR("GET / HTTP/1.1\r\n" H));
	for (int i = 0; i < 60; i++)
		buf_printf(&b, "X-%d: %01000d\r\n", i, i);
	buf_append_str(&b, STR("\r\n"));
	assert_int_equal(ask(b.base, b.len, answer, sizeof(answer)), 431);
	for (int longer = 0; longer < 2; longer++) { /* all headers and the empty line, whatever the target's length */
		buf_clear(&b);
		buf_append_str(&b, STR("GET /plain HTTP/1.1\r\n"));
		size_t first = b.len;
		buf_append_str(&b, STR(H "X: "));
		while (b.len - first < (size_t)(LIMIT_HTTP_HEADERS - 4 + longer))
			buf_append(&b, "y", 1);
		buf_append_str(&b, STR("\r\n\r\n"));
		assert_int_equal(ask(b.base, b.len, answer, sizeof(answer)), longer ? 431 : 200);
	}
	buf_clear(&b);
	buf_append_str(&b, STR("GET / HTTP/1.1\r\n" H));
	for (int i = 0; i < 100; i++)
		buf_printf(&b, "X-%d: 1\r\n", i);
	buf_append_str(&b, STR("\r\n"));
	assert_int_equal(ask(b.base, b.len, answer, sizeof(answer)), 431);
	buf_clear(&b);
	buf_append_str(&b, STR(POST "Transfer-Encoding: chunked\r\n\r\n1;"));
	for (int i = 0; i < 20000; i++)
		buf_append(&b, "e", 1);
	buf_append_str(&b, STR("\r\na\r\n0\r\n\r\n"));
	assert_int_equal(ask(b.base, b.len, answer, sizeof(answer)), 400);
	buf_clear(&b);
	buf_append_str(&b, STR(POST "Content-Length: 1048577\r\n\r\n"));
	assert_int_equal(ask(b.base, b.len, answer, sizeof(answer)), 413);
	buf_fini(&b);
}

static void test_slow_heads_and_bodies_get_408(void **state)
{
	(void)state;
	char answer[4096];
	int64_t start = clock_mono_us();
	int fd = raw_connect(s.port), status = 0;
	raw_send(fd, "GET / HTTP/1.1\r\n", 16);
	for (int i = 0; i < 40 && !status; i++) { /* a header every 20 ms never makes a head */
		raw_send(fd, "X: y\r\n", 6);
		usleep(20000);
		if (recv(fd, answer, sizeof(answer), MSG_DONTWAIT) > 0)
			sscanf(answer, "HTTP/1.1 %d", &status);
	}
	assert_int_equal(status, 408);
	assert_true(clock_mono_us() - start < 700000);
	close(fd);
	assert_int_equal(ask(POST "Content-Length: 5\r\n\r\nab", 29 + 21, answer, sizeof(answer)), 408);
	assert_int_equal(ask("", 0, answer, sizeof(answer)), 0); /* silence: closed without a word */
}

static void test_reader_that_takes_nothing_is_cut(void **state)
{
	(void)state;
	int fd = raw_connect(s.port);
	raw_send(fd, "GET /flood HTTP/1.1\r\n" H "\r\n", 32);
	for (int i = 0; i < 40 && !__atomic_load_n(&s.flood_gone, __ATOMIC_SEQ_CST); i++)
		usleep(50000);
	assert_int_equal(s.flood_gone, 1);
	close(fd);
}

static void test_keep_alive_ends_when_idle(void **state)
{
	(void)state;
	char answer[4096];
	int64_t start = clock_mono_us();
	int fd = raw_connect(s.port);
	raw_send(fd, "GET /k HTTP/1.1\r\n" H "\r\n", 28);
	assert_true(raw_read(fd, answer, sizeof(answer), NULL));
	assert_non_null(strstr(answer, "\r\n\r\n/k"));
	assert_in_range(clock_mono_us() - start, 550000, 1500000);
	close(fd);
}

static size_t count(const char *text, const char *what)
{
	size_t n = 0;
	for (const char *p = text; (p = strstr(p, what)); p += strlen(what))
		n++;
	return n;
}

static void test_pipelined_requests_are_answered_in_order(void **state)
{
	(void)state;
	struct buf b = {0};
	static char answer[2 << 20];
	for (int i = 0; i < 2000; i++)
		buf_printf(&b,
		           i % 3 == 0 ? "POST /x HTTP/1.1\r\n" H "Content-Length: 6\r\n\r\n<%04d>"
		                      : "GET /<%04d HTTP/1.1\r\n" H "\r\n",
		           i);
	for (char *p = b.base; (p = memmem(p, b.len - (size_t)(p - b.base), "/<", 2));)
		p[1] = '-';
	buf_append_str(&b, STR("GET /last HTTP/1.1\r\n" H "Connection: close\r\n\r\n"));
	int fd = raw_connect(s.port);
	raw_send(fd, b.base, b.len);
	assert_true(raw_read(fd, answer, sizeof(answer), NULL));
	assert_int_equal(count(answer, "HTTP/1.1 200 OK"), 2001);
	char *p = answer;
	for (int i = 0; i < 2000; i++) {
		char expect[16];
		snprintf(expect, sizeof(expect), i % 3 == 0 ? "<%04d>" : "/-%04d", i);
		p = strstr(p, expect);
		assert_non_null(p);
	}
	assert_non_null(strstr(p, "/last"));
	close(fd);
	buf_fini(&b);
}

static void test_pipelining_client_that_reads_late_gets_all(void **state)
{
	(void)state;
	struct buf b = {0};
	static char answer[65536];
	for (int i = 0; i < 300; i++)
		buf_append_str(&b, i < 299 ? STR("GET /big HTTP/1.1\r\n" H "\r\n")
		                           : STR("GET /big HTTP/1.1\r\n" H "Connection: close\r\n\r\n"));
	int fd = raw_connect(s.port);
	raw_send(fd, b.base, b.len);
	usleep(100000);
	int before = __atomic_load_n(&s.handled, __ATOMIC_SEQ_CST);
	usleep(50000);
	assert_int_equal(__atomic_load_n(&s.handled, __ATOMIC_SEQ_CST), before); /* it waits for us */
	size_t total = 0;
	ssize_t n;
	while ((n = recv(fd, answer, sizeof(answer), 0)) > 0)
		total += (size_t)n;
	assert_true(total > 300 * sizeof(block));
	close(fd);
	buf_fini(&b);
}

static void test_head_byte_by_byte(void **state)
{
	(void)state;
	char answer[4096];
	static const char request[] = POST "Content-Length: 3\r\nConnection: close\r\n\r\nabc";
	int fd = raw_connect(s.port);
	for (size_t i = 0; i < sizeof(request) - 1; i++) {
		raw_send(fd, request + i, 1);
		usleep(500);
	}
	assert_true(raw_read(fd, answer, sizeof(answer), NULL));
	assert_non_null(strstr(answer, "\r\n\r\nabc"));
	close(fd);
}

static void test_continue_is_said_when_the_body_is_wanted(void **state)
{
	(void)state;
	char answer[4096];
	int fd = raw_connect(s.port);
	raw_send(fd, POST "Expect: 100-continue\r\nContent-Length: 3\r\n\r\n", 27 + 43);
	assert_false(raw_read(fd, answer, sizeof(answer), "HTTP/1.1 100 Continue\r\n\r\n"));
	raw_send(fd, "abc", 3);
	assert_false(raw_read(fd, answer, sizeof(answer), "\r\n\r\nabc"));
	close(fd);
	/* Answered without asking for the body: the connection cannot be used again. */
	static const char unread[] = "POST /unread HTTP/1.1\r\n" H "Expect: 100-continue\r\nContent-Length: 3\r\n\r\n";
	assert_int_equal(ask(unread, sizeof(unread) - 1, answer, sizeof(answer)), 200);
	assert_null(strstr(answer, "100 Continue"));
}

static void test_unread_bodies_are_drained_when_small(void **state)
{
	(void)state;
	char answer[4096];
	struct buf b = {0};
	buf_append_str(&b, STR("POST /unread HTTP/1.1\r\n" H "Content-Length: 60000\r\n\r\n"));
	for (int i = 0; i < 6000; i++)
		buf_append_str(&b, STR("0123456789"));
	buf_append_str(&b, STR("POST /unread HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n"
	                       "GET /after HTTP/1.1\r\n" H "Connection: close\r\n\r\n"));
	assert_int_equal(ask(b.base, b.len, answer, sizeof(answer)), 200);
	assert_int_equal(count(answer, "HTTP/1.1 200"), 3);
	assert_non_null(strstr(answer, "/after"));
	buf_clear(&b);
	buf_append_str(&b, STR("POST /unread HTTP/1.1\r\n" H "Content-Length: 100000000\r\n\r\n"));
	assert_int_equal(ask(b.base, b.len, answer, sizeof(answer)), 200);
	assert_non_null(strstr(answer, "Connection: close"));
	buf_fini(&b);
}

static void test_too_many_connections_get_503(void **state)
{
	(void)state;
	int fds[20];
	char answer[4096];
	for (int i = 0; i < 20; i++)
		fds[i] = raw_connect(s.port);
	usleep(20000);
	assert_int_equal(ask("GET / HTTP/1.1\r\n" H "\r\n", 27, answer, sizeof(answer)), 503);
	for (int i = 0; i < 20; i++)
		close(fds[i]);
	usleep(20000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_doubtful_requests_are_refused_and_closed),
	    cmocka_unit_test(test_unusual_but_right_requests_are_answered),
	    cmocka_unit_test(test_limits_have_their_statuses),
	    cmocka_unit_test(test_slow_heads_and_bodies_get_408),
	    cmocka_unit_test(test_reader_that_takes_nothing_is_cut),
	    cmocka_unit_test(test_keep_alive_ends_when_idle),
	    cmocka_unit_test(test_pipelined_requests_are_answered_in_order),
	    cmocka_unit_test(test_pipelining_client_that_reads_late_gets_all),
	    cmocka_unit_test(test_head_byte_by_byte),
	    cmocka_unit_test(test_continue_is_said_when_the_body_is_wanted),
	    cmocka_unit_test(test_unread_bodies_are_drained_when_small),
	    cmocka_unit_test(test_too_many_connections_get_503),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
