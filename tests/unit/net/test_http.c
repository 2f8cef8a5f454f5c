/* SPDX-License-Identifier: Apache-2.0 */
/* test_http.c - server and client against each other over loopback, on one loop. */
#include "net_test.h"

#include "net/http_range.h"

#include <fcntl.h>

struct world {
	struct loop *loop;
	struct http_server *server;
	struct http_client *client;
	char origin[64];
	/* what the last call saw */
	int done, status, code, calls;
	bool unsent;
	struct buf body;
	struct http_call *call;
	char header[128];
	char error[512];
	/* what the server saw */
	int gone, writable;
	struct http_exchange *x;
	uint64_t produced, limit;
	size_t connections;
};

static struct world w;

static void world_reset(void)
{
	w.done = w.status = w.code = 0;
	w.unsent = false;
	w.call = NULL;
	w.header[0] = w.error[0] = '\0';
	buf_clear(&w.body);
}

/* ---- the server's side ---- */

static void gone(void *arg)
{
	(void)arg;
	w.gone++;
	w.x = NULL;
}

static void echo_body(void *arg, struct http_exchange *x, struct str body, const struct error *err)
{
	(void)arg;
	if (err)
		http_respond_error(x, err);
	else
		http_respond(x, 200, "application/octet-stream", body);
}

static bool stream_data(void *arg, struct str data)
{
	struct http_exchange *x = arg;
	return http_write(x, data);
}

static void stream_done(void *arg, const struct error *err)
{
	struct http_exchange *x = arg;
	if (err)
		http_abort(x);
	else
		http_end(x);
}

static void stream_writable(void *arg)
{
	http_body_resume(arg);
}

static char pattern[65536];

static void produce(void *arg)
{
	(void)arg;
	w.writable++;
	while (w.x && w.produced < w.limit) {
		w.produced += sizeof(pattern);
		if (!http_write(w.x, (struct str){pattern, sizeof(pattern)}))
			return;
	}
	if (w.x)
		http_end(w.x);
}

static void handler(void *arg, struct http_exchange *x)
{
	(void)arg;
	struct str path = http_path(x), value;
	w.calls++;
	if (str_equal(path, STR("/echo"))) {
		http_body_collect(x, 8 << 20, echo_body, NULL);
	} else if (str_equal(path, STR("/small"))) {
		http_body_collect(x, 10, echo_body, NULL);
	} else if (str_equal(path, STR("/pipe"))) {
		http_body_read(x, UINT64_MAX, stream_data, stream_done, x);
		http_respond_begin(x, 200, "application/octet-stream", -1);
		http_watch(x, stream_writable, gone, x);
	} else if (str_equal(path, STR("/produce"))) {
		w.x = x;
		w.produced = 0;
		http_watch(x, produce, gone, NULL);
		http_respond_begin(x, 200, NULL, -1);
		produce(NULL);
	} else if (str_equal(path, STR("/hold"))) {
		w.x = x;
		http_watch(x, NULL, gone, NULL);
	} else if (str_equal(path, STR("/hold-unwatched"))) {
		w.x = x;
	} else if (str_equal(path, STR("/query"))) {
		http_respond(x, 200, "text/plain", http_query(x, "a", &value) ? value : STR("none"));
	} else if (str_equal(path, STR("/range"))) {
		char text[64] = "whole";
		uint64_t from, length;
		enum http_range range = http_range(x, 100, &from, &length);
		if (range == HTTP_RANGE_PART)
			snprintf(text, sizeof(text), "%d+%d", (int)from, (int)length);
		http_respond(x, 200, "text/plain", range == HTTP_RANGE_BAD ? STR("bad") : str_from(text));
	} else if (str_equal(path, STR("/error"))) {
		struct error err;
		error_set(&err, E_NOTFOUND, "there is no \"%s\"", "thing");
		http_add_header(x, "x-request-id", STR("r1\r\nevil: 1"));
		http_respond_error(x, &err);
	} else if (str_equal(path, STR("/abort"))) {
		http_respond_begin(x, 200, NULL, -1);
		http_write(x, STR("half"));
		http_abort(x);
	} else if (str_equal(path, STR("/file")) || str_equal(path, STR("/file-small"))) {
		int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
		http_respond_file(x, 206, "application/octet-stream", fd, 16, path.len > 5 ? 1000 : w.limit);
	} else {
		http_respond(x, 200, "text/plain", STR("hello"));
	}
}

/* ---- the client's side ---- */

static bool on_head(void *arg, struct http_call *call, int status)
{
	struct str value;
	(void)arg;
	w.status = status;
	if (http_call_header(call, "x-request-id", &value))
		str_copy(value, w.header, sizeof(w.header));
	return true;
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
	w.done = 1;
	w.code = err ? err->code : 0;
	w.unsent = http_call_unsent(call);
	if (err)
		str_copy(str_from(err->text), w.error, sizeof(w.error));
}

static struct http_call_options call_to(const char *path, char *url, size_t size)
{
	snprintf(url, size, "%s%s", w.origin, path);
	return (struct http_call_options){
	    .url = str_from(url), .on_head = on_head, .on_data = on_data, .on_done = on_done, .body_length = -1};
}

static void call_wait(struct http_call_options *options)
{
	world_reset();
	w.call = http_call_start(w.client, options);
	run_until(w.loop, &w.done);
}

static int setup(void **state)
{
	(void)state;
	struct error err;
	memset(&w, 0, sizeof(w));
	for (size_t i = 0; i < sizeof(pattern); i++)
		pattern[i] = (char)(i * 31 + i / 256);
	loop_new(&w.loop);
	struct http_server_options options = {
	    .address = STR("127.0.0.1:0"), .inherited_fd = -1, .handler = handler, .room = "test"};
	assert_int_equal(http_server_new(w.loop, &options, &w.server, &err), 0);
	w.client = http_client_new(w.loop, &(struct http_client_options){0});
	snprintf(w.origin, sizeof(w.origin), "http://" STR_FMT, STR_ARG(http_server_address(w.server)));
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	http_client_free(w.client);
	http_server_free(w.server);
	buf_fini(&w.body);
	loop_free(w.loop);
	return 0;
}

static void test_small_request_and_response(void **state)
{
	(void)state;
	char url[128];
	struct http_call_options o = call_to("/", url, sizeof(url));
	for (int i = 0; i < 3; i++) {
		call_wait(&o);
		assert_int_equal(w.code, 0);
		assert_int_equal(w.status, 200);
		assert_true(str_equal(buf_str(&w.body), STR("hello")));
	}
	o = call_to("/query?b=2&a=x%20y%2Bz+w", url, sizeof(url));
	call_wait(&o);
	assert_true(str_equal(buf_str(&w.body), STR("x y+z w")));
}

static void test_one_byte_range_is_understood(void **state)
{
	(void)state;
	static const char *const cases[][2] = {
	    {"bytes=0-0", "0+1"},      {"bytes=10-", "10+90"},     {"bytes=-7", "93+7"}, {"bytes=-500", "0+100"},
	    {"bytes=90-900", "90+10"}, {"bytes=100-", "bad"},      {"bytes=5-4", "bad"}, {"bytes=-0", "bad"},
	    {"bytes=-", "bad"},        {"bytes=x-1", "bad"},       {"bytes=1-x", "bad"}, {"bytes=1", "whole"},
	    {"lines=1-2", "whole"},    {"bytes=0-1,3-4", "whole"}, {"", "whole"},
	};
	char url[128];
	struct http_call_options o = call_to("/range", url, sizeof(url));
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct http_header range = {STR("range"), str_from(cases[i][0])};
		o.headers = &range;
		o.header_count = cases[i][0][0] != '\0';
		call_wait(&o);
		assert_true(str_equal(buf_str(&w.body), str_from(cases[i][1])));
	}
}

static void test_whole_body_is_echoed(void **state)
{
	(void)state;
	char url[128];
	struct http_call_options o = call_to("/echo", url, sizeof(url));
	o.method = STR("POST");
	char *big = malloc(5 << 20);
	for (size_t i = 0; i < 5 << 20; i += sizeof(pattern))
		memcpy(big + i, pattern, sizeof(pattern));
	o.body = (struct str){big, 5 << 20};
	call_wait(&o);
	assert_int_equal(w.code, 0);
	assert_true(str_equal(buf_str(&w.body), o.body));
	o.body_lent = true; /* also when it waits for its connection, and when that is there already */
	for (int i = 0; i < 2; i++) {
		call_wait(&o);
		assert_int_equal(w.code, 0);
		assert_true(str_equal(buf_str(&w.body), o.body));
	}
	o.body_lent = false;
	o.body = STR("");
	call_wait(&o);
	assert_int_equal(w.code, 0);
	assert_int_equal(w.body.len, 0);
	free(big);
}

static void test_too_large_body_gets_413(void **state)
{
	(void)state;
	char url[128];
	struct http_call_options o = call_to("/small", url, sizeof(url));
	o.method = STR("POST");
	o.body = STR("twelve bytes");
	call_wait(&o);
	assert_int_equal(w.code, 0);
	assert_int_equal(w.status, 413);
	o.body = (struct str){pattern, sizeof(pattern)};
	call_wait(&o);
	assert_int_equal(w.status, 413);
}

static int first_done, first_status;

static void on_first_done(void *arg, struct http_call *call, const struct error *err)
{
	(void)arg;
	first_done = 1;
	first_status = err ? 0 : http_call_status(call);
}

static void test_bodies_together_are_bounded(void **state)
{
	(void)state;
	char url[128];
	struct http_server *small;
	struct http_server_options options = {.address = STR("127.0.0.1:0"),
	                                      .inherited_fd = -1,
	                                      .handler = handler,
	                                      .bodies_max = 200000,
	                                      .room = "test"};
	assert_int_equal(http_server_new(w.loop, &options, &small, NULL), 0);
	snprintf(url, sizeof(url), "http://" STR_FMT "/echo", STR_ARG(http_server_address(small)));
	struct http_call_options first = {.method = STR("POST"),
	                                  .url = str_from(url),
	                                  .body_streams = true,
	                                  .body_length = 150000,
	                                  .on_done = on_first_done};
	struct http_call *call = http_call_start(w.client, &first);
	for (int i = 0; i < 2; i++)
		http_call_write(call, (struct str){pattern, sizeof(pattern)});
	struct http_call_options o = {.method = STR("POST"),
	                              .url = str_from(url),
	                              .body = {pattern, sizeof(pattern)},
	                              .on_head = on_head,
	                              .on_data = on_data,
	                              .on_done = on_done};
	for (int i = 0; i < 50 && w.status != 503; i++) /* until the first one's bytes are there */
		call_wait(&o);
	assert_int_equal(w.status, 503);
	http_call_write(call, (struct str){pattern, 150000 - 2 * sizeof(pattern)});
	http_call_end(call);
	run_until(w.loop, &first_done);
	assert_int_equal(first_status, 200);
	call_wait(&o);
	assert_int_equal(w.status, 200); /* what the first one held is free again */
	http_server_free(small);
}

struct upload {
	uint64_t left;
};

static void upload_more(void *arg)
{
	struct upload *u = arg;
	while (u->left) {
		size_t n = u->left < 10000 ? (size_t)u->left : 10000;
		u->left -= n;
		if (!http_call_write(w.call, (struct str){pattern, n}))
			return;
	}
	http_call_end(w.call);
}

static uint64_t received;
static bool count_data(void *arg, struct str data)
{
	(void)arg;
	received += data.len;
	return true;
}

static void streams_both_ways(int64_t body_length)
{
	char url[128];
	struct upload u = {20 << 20};
	struct http_call_options o = call_to("/pipe", url, sizeof(url));
	o.method = STR("POST");
	o.body_streams = true;
	o.body_length = body_length;
	o.on_writable = upload_more;
	o.on_data = count_data;
	o.arg = &u;
	received = 0;
	world_reset();
	w.call = http_call_start(w.client, &o);
	upload_more(&u);
	run_until(w.loop, &w.done);
	assert_int_equal(w.code, 0);
	assert_int_equal(received, 20 << 20);
}

static void test_bodies_stream_both_ways_chunked(void **state)
{
	(void)state;
	streams_both_ways(-1);
	run_until(w.loop, &w.gone);
	assert_int_equal(w.gone, 1);
}

static void test_bodies_stream_both_ways_with_length(void **state)
{
	(void)state;
	streams_both_ways(20 << 20);
}

static int pieces, empty_pieces;
static void resume_call(void *arg)
{
	(void)arg;
	if (!w.done)
		http_call_resume(w.call);
}

static bool pausing_data(void *arg, struct str data)
{
	(void)arg;
	pieces++;
	empty_pieces += data.len == 0;
	buf_append_str(&w.body, data);
	loop_post(w.loop, resume_call, NULL);
	return false;
}

static void test_reader_that_pauses_gets_everything_once(void **state)
{
	(void)state;
	static const char *const paths[] = {"/echo", "/pipe"}; /* with length, and chunked */
	for (int i = 0; i < 2; i++) {
		char url[128];
		struct http_call_options o = call_to(paths[i], url, sizeof(url));
		struct buf all = {0};
		for (int n = 0; n < 30; n++)
			buf_append(&all, pattern, sizeof(pattern));
		o.method = STR("POST");
		o.body = buf_str(&all);
		o.on_data = pausing_data;
		pieces = empty_pieces = 0;
		call_wait(&o);
		assert_int_equal(w.code, 0);
		assert_true(str_equal(buf_str(&w.body), buf_str(&all)));
		assert_true(pieces > 10);
		assert_int_equal(empty_pieces, 0);
		buf_fini(&all);
	}
}

static void test_error_has_openai_shape_and_no_header_can_be_injected(void **state)
{
	(void)state;
	char url[128];
	struct http_call_options o = call_to("/error", url, sizeof(url));
	call_wait(&o);
	assert_int_equal(w.status, 404);
	buf_append(&w.body, "", 1);
	assert_string_equal(w.body.base,
	                    "{\"error\":{\"message\":\"there is no \\\"thing\\\"\",\"type\":\"not_found_error\","
	                    "\"code\":\"not_found\"}}");
	assert_string_equal(w.header, "r1  evil: 1");
}

static void test_head_has_length_and_no_body(void **state)
{
	(void)state;
	char url[128];
	struct http_call_options o = call_to("/", url, sizeof(url));
	o.method = STR("HEAD");
	call_wait(&o);
	assert_int_equal(w.code, 0);
	assert_int_equal(w.body.len, 0);
	o.method = STR("GET");
	call_wait(&o);
	assert_int_equal(w.body.len, 5);
}

static void test_file_goes_out_whole(void **state)
{
	(void)state;
	char url[128], *expect = malloc(1 << 20);
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	ssize_t size = pread(fd, expect, 1 << 20, 16);
	close(fd);
	assert_true(size > 70000);
	w.limit = (uint64_t)size;
	struct http_call_options o = call_to("/file", url, sizeof(url));
	call_wait(&o);
	assert_int_equal(w.code, 0);
	assert_int_equal(w.status, 206);
	assert_int_equal(w.body.len, size);
	assert_memory_equal(w.body.base, expect, (size_t)size);
	o = call_to("/file-small", url, sizeof(url));
	call_wait(&o);
	assert_int_equal(w.body.len, 1000);
	assert_memory_equal(w.body.base, expect, 1000);
	w.limit = 1 << 30; /* longer than the file: the promise cannot be kept, the connection must break */
	o = call_to("/file", url, sizeof(url));
	call_wait(&o);
	assert_int_equal(w.code, E_PEER);
	free(expect);
}

static void test_aborted_response_is_an_error(void **state)
{
	(void)state;
	char url[128];
	struct http_call_options o = call_to("/abort", url, sizeof(url));
	call_wait(&o);
	assert_int_equal(w.code, E_PEER);
	assert_int_equal(w.status, 200);
	assert_false(w.unsent);
}

static void test_slow_reader_bounds_memory(void **state)
{
	(void)state;
	w.limit = 100 << 20;
	int fd = raw_connect(port_of(http_server_address(w.server)));
	raw_send(fd, "GET /produce HTTP/1.1\r\nHost: a\r\n\r\n", 35);
	run_for(w.loop, 300000);
	assert_non_null(w.x);
	/* What was produced lies in the kernel's two socket buffers and at most one write past our limit. */
	assert_true(w.produced < 16 << 20);
	uint64_t before = w.produced;
	run_for(w.loop, 100000);
	assert_int_equal(w.produced, before);
	close(fd);
	run_until(w.loop, &w.gone);
	assert_int_equal(w.gone, 1);
}

static void test_client_that_leaves_is_noticed_while_we_think(void **state)
{
	(void)state;
	int fd = raw_connect(port_of(http_server_address(w.server)));
	raw_send(fd, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n", 32);
	run_for(w.loop, 20000);
	assert_non_null(w.x);
	close(fd);
	run_until(w.loop, &w.gone);
	assert_int_equal(http_server_exchanges(w.server), 0);
}

static void test_unwatched_exchange_stays_valid_after_the_client_left(void **state)
{
	(void)state;
	int fd = raw_connect(port_of(http_server_address(w.server)));
	raw_send(fd, "GET /hold-unwatched HTTP/1.1\r\nHost: a\r\n\r\n", 42);
	run_for(w.loop, 20000);
	close(fd);
	run_for(w.loop, 20000);
	assert_non_null(w.x);
	assert_true(str_equal(http_path(w.x), STR("/hold-unwatched")));
	assert_int_equal(http_server_exchanges(w.server), 1);
	http_respond(w.x, 200, NULL, STR("nobody"));
	run_for(w.loop, 5000);
	assert_int_equal(http_server_exchanges(w.server), 0);
}

static void test_exchange_outlives_its_server(void **state)
{
	(void)state;
	int fd = raw_connect(port_of(http_server_address(w.server)));
	raw_send(fd, "GET /hold-unwatched HTTP/1.1\r\nHost: a\r\n\r\n", 42);
	run_for(w.loop, 20000);
	http_server_free(w.server);
	w.server = NULL;
	run_for(w.loop, 5000);
	http_respond(w.x, 200, NULL, STR("nobody"));
	run_for(w.loop, 5000);
	close(fd);
}

static void test_canceled_call_is_noticed_by_the_server(void **state)
{
	(void)state;
	char url[128];
	struct http_call_options o = call_to("/hold", url, sizeof(url));
	world_reset();
	w.call = http_call_start(w.client, &o);
	run_for(w.loop, 20000);
	assert_non_null(w.x);
	http_call_cancel(w.call);
	run_until(w.loop, &w.gone);
	assert_int_equal(w.done, 0);
}

static void test_head_timeout_and_refused_port(void **state)
{
	(void)state;
	char url[128];
	struct http_call_options o = call_to("/hold", url, sizeof(url));
	o.head_timeout_us = 50000;
	call_wait(&o);
	assert_int_equal(w.code, E_TIMEOUT);
	assert_false(w.unsent);
	int fd = socket(AF_INET, SOCK_STREAM, 0); /* bound and not listening: refuses */
	struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(name);
	assert_int_equal(bind(fd, (struct sockaddr *)&name, sizeof(name)), 0);
	getsockname(fd, (struct sockaddr *)&name, &len);
	snprintf(url, sizeof(url), "http://127.0.0.1:%d/", ntohs(name.sin_port));
	o.url = str_from(url);
	call_wait(&o);
	assert_int_equal(w.code, E_UNAVAILABLE);
	assert_true(w.unsent);
	assert_non_null(strstr(w.error, "connection refused"));
	snprintf(url, sizeof(url), "http://localhost:%d/", port_of(http_server_address(w.server)));
	o.url = str_from(url); /* may resolve to ::1 first, where nobody listens: the next address is tried */
	o.head_timeout_us = 0;
	call_wait(&o);
	assert_int_equal(w.code, 0);
	close(fd);
}

static void test_bad_urls_are_told_through_on_done(void **state)
{
	(void)state;
	static const char *const bad[] = {"",
	                                  "http://",
	                                  "ftp://a/",
	                                  "http://a:0/",
	                                  "http://a:99999/",
	                                  "http://u@h/",
	                                  "http://a/\r\nx",
	                                  "http://[::1/",
	                                  "http://[::1]x:1/",
	                                  "https://a/"};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct http_call_options o = {.url = str_from(bad[i]), .on_done = on_done};
		world_reset();
		http_call_start(w.client, &o);
		assert_int_equal(w.done, 0);
		run_until(w.loop, &w.done);
		assert_true(w.code == E_INVAL || w.code == E_UNSUPPORTED);
		assert_true(w.unsent);
	}
}

static void fetched(void *arg, int status, struct str body, const struct error *err)
{
	(void)arg;
	w.done = 1;
	w.status = status;
	w.code = err ? err->code : 0;
	buf_append_str(&w.body, body);
}

static void test_fetch_collects_and_bounds(void **state)
{
	(void)state;
	char url[128];
	struct http_call_options o = call_to("/", url, sizeof(url));
	world_reset();
	http_fetch(w.client, &o, 100, fetched, NULL);
	run_until(w.loop, &w.done);
	assert_int_equal(w.code, 0);
	assert_true(str_equal(buf_str(&w.body), STR("hello")));
	world_reset();
	http_fetch(w.client, &o, 4, fetched, NULL);
	run_until(w.loop, &w.done);
	assert_int_equal(w.code, E_PEER);
}

static void test_used_port_says_so(void **state)
{
	(void)state;
	struct http_server *other;
	struct error err;
	struct http_server_options options = {
	    .address = http_server_address(w.server), .inherited_fd = -1, .handler = handler};
	assert_int_equal(http_server_new(w.loop, &options, &other, &err), E_CONFLICT);
	assert_non_null(strstr(err.text, "is in use by another program"));
	options.address = STR("nonsense");
	assert_int_equal(http_server_new(w.loop, &options, &other, &err), E_INVAL);
	options.address = STR("192.0.2.1:80");
	assert_int_equal(http_server_new(w.loop, &options, &other, &err), E_NOTFOUND);
}

static void test_ipv6_and_inherited_sockets(void **state)
{
	(void)state;
	char url[128];
	struct http_server *other = NULL;
	struct error err;
	struct http_server_options options = {.address = STR("[::1]:0"), .inherited_fd = -1, .handler = handler};
	if (http_server_new(w.loop, &options, &other, &err) == 0) { /* a container may have no ::1 */
		struct http_call_options o = call_to("", url, sizeof(url));
		snprintf(url, sizeof(url), "http://" STR_FMT "/", STR_ARG(http_server_address(other)));
		o.url = str_from(url);
		call_wait(&o);
		assert_int_equal(w.code, 0);
		http_server_free(other);
	}
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	assert_int_equal(bind(fd, (struct sockaddr *)&name, sizeof(name)), 0);
	listen(fd, 8);
	options = (struct http_server_options){.inherited_fd = fd, .handler = handler};
	assert_int_equal(http_server_new(w.loop, &options, &other, &err), 0);
	struct http_call_options o = call_to("", url, sizeof(url));
	snprintf(url, sizeof(url), "http://" STR_FMT "/", STR_ARG(http_server_address(other)));
	o.url = str_from(url);
	call_wait(&o);
	assert_int_equal(w.code, 0);
	http_server_free(other);
}

static void test_drain_finishes_what_runs(void **state)
{
	(void)state;
	char url[128];
	struct http_call_options o = call_to("/hold", url, sizeof(url));
	world_reset();
	w.call = http_call_start(w.client, &o);
	run_for(w.loop, 20000);
	http_server_drain(w.server);
	run_for(w.loop, 5000);
	assert_int_equal(w.done, 0);
	http_respond(w.x, 200, NULL, STR("last"));
	run_until(w.loop, &w.done);
	assert_int_equal(w.code, 0);
	assert_true(str_equal(buf_str(&w.body), STR("last")));
	o = call_to("/", url, sizeof(url));
	call_wait(&o);
	assert_int_equal(w.code, E_UNAVAILABLE);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    T(test_small_request_and_response),
	    T(test_one_byte_range_is_understood),
	    T(test_whole_body_is_echoed),
	    T(test_too_large_body_gets_413),
	    T(test_bodies_together_are_bounded),
	    T(test_bodies_stream_both_ways_chunked),
	    T(test_bodies_stream_both_ways_with_length),
	    T(test_error_has_openai_shape_and_no_header_can_be_injected),
	    T(test_head_has_length_and_no_body),
	    T(test_file_goes_out_whole),
	    T(test_aborted_response_is_an_error),
	    T(test_slow_reader_bounds_memory),
	    T(test_client_that_leaves_is_noticed_while_we_think),
	    T(test_unwatched_exchange_stays_valid_after_the_client_left),
	    T(test_exchange_outlives_its_server),
	    T(test_canceled_call_is_noticed_by_the_server),
	    T(test_head_timeout_and_refused_port),
	    T(test_bad_urls_are_told_through_on_done),
	    T(test_fetch_collects_and_bounds),
	    T(test_used_port_says_so),
	    T(test_reader_that_pauses_gets_everything_once),
	    T(test_ipv6_and_inherited_sockets),
	    T(test_drain_finishes_what_runs),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
