/* SPDX-License-Identifier: Apache-2.0 */
/* Two servers of ours stand for two hosts of the world: 127.0.0.1 with two ports. */
#include "net/outside.h"

#include "net_test.h"

static struct {
	struct loop *loop;
	struct http_server *one, *two;
	int port_one, port_two;
	struct outside *outside;
	char seen_key[64], seen_agent[64];
	struct buf body;
	int done, code, status, served;
	bool pause, cancel_in_data;
	char error[512], header[64];
} w;

static void on_gone(void *arg) {}

static void handler(void *arg, struct http_exchange *x)
{
	struct str path = http_path(x), key = {0};
	char to[128];
	w.served++;
	http_header(x, "authorization", &key);
	str_copy(key, w.seen_key, sizeof w.seen_key);
	if (str_equal(path, STR("/near"))) {
		http_add_header(x, "Location", STR("/here"));
		http_respond(x, 307, "text/plain", STR("go on"));
	} else if (str_equal(path, STR("/far"))) {
		snprintf(to, sizeof to, "http://127.0.0.1:%d/here", w.port_two);
		http_add_header(x, "Location", str_from(to));
		http_respond(x, 302, "text/plain", STR("go on"));
	} else if (str_equal(path, STR("/metadata"))) {
		http_add_header(x, "Location", STR("http://169.254.169.254/latest"));
		http_respond(x, 302, "text/plain", STR(""));
	} else if (str_equal(path, STR("/round"))) {
		http_add_header(x, "Location", STR("/round"));
		http_respond(x, 302, "text/plain", STR(""));
	} else if (str_equal(path, STR("/big"))) {
		char *big = calloc(1, 3 << 20);
		http_respond(x, 200, "application/octet-stream", (struct str){big, 3 << 20});
		free(big);
	} else if (str_equal(path, STR("/hang"))) {
		http_watch(x, NULL, on_gone, NULL);
	} else {
		http_add_header(x, "X-Repo-Commit", STR("abc"));
		http_respond(x, 200, "text/plain", STR("hello"));
	}
}

static bool on_head(void *arg, struct outside_call *call, int status)
{
	struct str value;
	w.status = status;
	if (outside_header(call, "x-repo-COMMIT", &value))
		str_copy(value, w.header, sizeof w.header);
	return true;
}

static struct outside_call *running;

static bool on_data(void *arg, struct str data)
{
	buf_append_str(&w.body, data);
	if (w.cancel_in_data) {
		outside_cancel(running);
		w.done = 1;
		return true;
	}
	return !w.pause;
}

static void on_done(void *arg, struct outside_call *call, const struct error *err)
{
	w.done = 1;
	w.code = err ? err->code : 0;
	if (err)
		str_copy(str_from(err->text), w.error, sizeof w.error);
}

static struct outside_request ask(const char *format, int port)
{
	static char url[256];
	snprintf(url, sizeof url, format, port);
	buf_clear(&w.body);
	w.done = w.code = w.status = w.served = 0;
	w.error[0] = w.header[0] = w.seen_key[0] = '\0';
	return (struct outside_request){
	    .url = str_from(url), .on_head = on_head, .on_data = on_data, .on_done = on_done};
}

static void allow(const char *format, int port)
{
	char list[128];
	struct error err;
	outside_free(w.outside);
	snprintf(list, sizeof list, format, port);
	assert_int_equal(outside_new(w.loop, &(struct outside_options){.allowed = str_from(list)}, &w.outside, &err),
	                 0);
}

static void go(const struct outside_request *r)
{
	running = outside_start(w.outside, r);
	assert_int_equal(w.done, 0);
	run_until(w.loop, &w.done);
}

static int setup(void **state)
{
	struct http_server_options options = {
	    .address = STR("127.0.0.1:0"), .inherited_fd = -1, .handler = handler, .room = "test"};
	memset(&w, 0, sizeof w);
	loop_new(&w.loop);
	assert_int_equal(http_server_new(w.loop, &options, &w.one, NULL), 0);
	assert_int_equal(http_server_new(w.loop, &options, &w.two, NULL), 0);
	w.port_one = port_of(http_server_address(w.one));
	w.port_two = port_of(http_server_address(w.two));
	return 0;
}

static int teardown(void **state)
{
	outside_free(w.outside);
	http_server_free(w.one);
	http_server_free(w.two);
	buf_fini(&w.body);
	loop_free(w.loop);
	return 0;
}

static void test_an_allowed_host_answers(void **state)
{
	allow("127.0.0.1:%d", w.port_one);
	for (int i = 0; i < 3; i++) {
		struct outside_request r = ask("http://127.0.0.1:%d/here", w.port_one);
		go(&r);
		assert_int_equal(w.code, 0);
		assert_int_equal(w.status, 200);
		assert_string_equal(w.header, "abc");
		assert_true(str_equal(buf_str(&w.body), STR("hello")));
	}
}

static void test_others_are_refused_before_a_byte_is_sent(void **state)
{
	static const char *const urls[] = {
	    "http://127.0.0.1:%d/here", "http://localhost:%d/here",       "http://[::1]:%d/", "ftp://127.0.0.1:%d/",
	    "file:///etc/passwd?%d",    "http://me:secret@127.0.0.1:%d/", "http://127.1:%d/", "nonsense %d"};
	allow("127.0.0.1:%d,good.example", w.port_one);
	for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
		struct outside_request r = ask(urls[i], i == 6 ? 1 : w.port_two);
		go(&r);
		assert_true(w.code == E_FORBIDDEN || w.code == E_INVAL);
		assert_int_equal(w.served, 0);
	}
}

static void test_a_name_that_leads_inside_is_refused(void **state)
{
	allow("localhost:%d", w.port_one);
	struct outside_request r = ask("http://localhost:%d/here", w.port_one);
	go(&r);
	assert_int_equal(w.code, E_FORBIDDEN);
	assert_non_null(strstr(w.error, "private:HOST"));
	assert_int_equal(w.served, 0);
	allow("private:localhost:%d", w.port_one);
	r = ask("http://localhost:%d/here", w.port_one);
	go(&r);
	assert_int_equal(w.code, 0);
}

static void test_redirects_are_followed_within_the_list(void **state)
{
	char list[64];
	snprintf(list, sizeof list, "127.0.0.1:%d, 127.0.0.1:%%d", w.port_one);
	allow(list, w.port_two);
	struct outside_request r = ask("http://127.0.0.1:%d/near", w.port_one);
	r.authorization = STR("Bearer key");
	go(&r);
	assert_int_equal(w.code, 0);
	assert_string_equal(w.seen_key, "Bearer key");
	assert_true(str_equal(buf_str(&w.body), STR("hello")));
	r = ask("http://127.0.0.1:%d/far", w.port_one); /* another host: the key is not for that one */
	r.authorization = STR("Bearer key");
	go(&r);
	assert_int_equal(w.code, 0);
	assert_int_equal(w.served, 2);
	assert_string_equal(w.seen_key, "");
	r = ask("http://127.0.0.1:%d/metadata", w.port_one);
	go(&r);
	assert_int_equal(w.code, E_FORBIDDEN);
	r = ask("http://127.0.0.1:%d/round", w.port_one);
	go(&r);
	assert_int_equal(w.code, E_LOOP);
	r = ask("http://127.0.0.1:%d/far", w.port_one);
	r.keep_redirect = true;
	go(&r);
	assert_int_equal(w.status, 302);
}

static void test_bytes_are_bounded_and_can_wait(void **state)
{
	allow("127.0.0.1:%d", w.port_one);
	struct outside_request r = ask("http://127.0.0.1:%d/big", w.port_one);
	r.bytes_max = 1 << 20;
	go(&r);
	assert_int_equal(w.code, E_LIMIT);
	assert_true(w.body.len <= 1 << 20);
	r = ask("http://127.0.0.1:%d/big", w.port_one);
	w.pause = true;
	running = outside_start(w.outside, &r);
	run_for(w.loop, 100000);
	assert_int_equal(w.done, 0);
	assert_true(w.body.len <= 256 << 10); /* what was read already */
	w.pause = false;
	outside_resume(running);
	run_until(w.loop, &w.done);
	assert_int_equal(w.code, 0);
	assert_int_equal(w.body.len, 3 << 20);
}

static void test_calls_end_when_asked_to(void **state)
{
	allow("127.0.0.1:%d", w.port_one);
	struct outside_request r = ask("http://127.0.0.1:%d/hang", w.port_one);
	running = outside_start(w.outside, &r);
	run_for(w.loop, 20000);
	outside_cancel(running);
	r = ask("http://127.0.0.1:%d/big", w.port_one);
	w.cancel_in_data = true;
	go(&r); /* canceled from its own callback */
	w.cancel_in_data = false;
	r = ask("http://127.0.0.1:%d/hang", w.port_one);
	outside_start(w.outside, &r);
	run_for(w.loop, 20000);
	outside_free(w.outside);
	w.outside = NULL;
	assert_int_equal(w.code, E_CANCELED);
}

static void test_lists_are_checked(void **state)
{
	static const char *const bad[] = {"a b", "host:0", "host:99999", "http://host", "*.", "private:", "[::1"};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct outside *o = NULL;
		struct error err;
		assert_int_equal(outside_new(w.loop, &(struct outside_options){.allowed = str_from(bad[i])}, &o, &err),
		                 E_INVAL);
	}
	allow("*.hub.example,hub.example:8443,[::1]:%d", 80);
	assert_int_equal(outside_allows(w.outside, STR("https://cdn.a.hub.example/x"), NULL), 0);
	assert_int_equal(outside_allows(w.outside, STR("https://HUB.example:8443/x"), NULL), 0);
	assert_int_equal(outside_allows(w.outside, STR("http://[::1]/x"), NULL), 0);
	assert_int_equal(outside_allows(w.outside, STR("https://hub.example/x"), NULL), E_FORBIDDEN);
	assert_int_equal(outside_allows(w.outside, STR("https://evilhub.example/x"), NULL), E_FORBIDDEN);
	assert_int_equal(outside_allows(w.outside, STR("https://cdn.hub.example:22/x"), NULL), E_FORBIDDEN);
	assert_int_equal(outside_allows(w.outside, STR("https://cdn.hub.example.evil/x"), NULL), E_FORBIDDEN);
}

static void test_private_addresses_are_known(void **state)
{
	static const char *const inside[] = {
	    "127.0.0.1",       "10.1.2.3",        "172.31.0.1",    "192.168.1.1", "169.254.169.254", "100.64.0.1",
	    "0.0.0.0",         "255.255.255.255", "224.0.0.1",     "::1",         "fe80::1",         "fd00::1",
	    "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "::",          "ff02::1",         "2001:db8::1"};
	static const char *const public[] = {"8.8.8.8",         "172.32.0.1",     "100.128.0.1",
	                                     "2606:4700::1111", "::ffff:8.8.8.8", "2001:4860:4860::8888"};
	for (size_t i = 0; i < sizeof inside / sizeof *inside + sizeof public / sizeof *public; i++) {
		bool want = i < sizeof inside / sizeof *inside;
		const char *text = want ? inside[i] : public[i - sizeof inside / sizeof *inside];
		struct sockaddr_in v4 = {.sin_family = AF_INET};
		struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
		bool four = inet_pton(AF_INET, text, &v4.sin_addr) == 1;
		if (!four)
			assert_int_equal(inet_pton(AF_INET6, text, &v6.sin6_addr), 1);
		bool is = outside_address_private(four ? (void *)&v4 : (void *)&v6);
		if (is != want)
			fail_msg("%s", text);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_an_allowed_host_answers, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_others_are_refused_before_a_byte_is_sent, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_a_name_that_leads_inside_is_refused, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_redirects_are_followed_within_the_list, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_bytes_are_bounded_and_can_wait, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_calls_end_when_asked_to, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_lists_are_checked, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_private_addresses_are_known, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
