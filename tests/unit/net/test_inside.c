/* SPDX-License-Identifier: Apache-2.0 */
/* A server without a port, and the one client that reaches it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "net/http.h"

#include <stdlib.h>

struct inside {
	struct loop *loop;
	struct http_server *server;
	struct http_client *client;
	struct loop_timer *watchdog;
	struct http_call *call;
	struct buf answer;
	int status;
	bool gone;
	size_t asked;
};

static void too_long(void *arg)
{
	(void)arg;
	fail_msg("nothing happened for 20 s");
}

static void on_body(void *arg, struct http_exchange *x, struct str body, const struct error *err)
{
	(void)arg;
	assert_null(err);
	http_respond(x, 201, "text/plain", body);
}

static void on_gone(void *arg)
{
	struct inside *t = arg;

	t->gone = true;
	loop_stop(t->loop);
}

static void give_up(void *arg)
{
	struct inside *t = arg;

	http_call_cancel(t->call);
}

static void on_request(void *arg, struct http_exchange *x)
{
	struct inside *t = arg;

	t->asked++;
	assert_int_equal(http_peer_address(x).len, 0);
	if (str_equal(http_path(x), STR("/never"))) {
		http_watch(x, NULL, on_gone, t);
		loop_post(t->loop, give_up, t);
	} else {
		http_body_collect(x, 1 << 22, on_body, t);
	}
}

static void on_answer(void *arg, int status, struct str body, const struct error *err)
{
	struct inside *t = arg;

	assert_null(err);
	t->status = status;
	buf_clear(&t->answer);
	buf_append_str(&t->answer, body);
	loop_stop(t->loop);
}

static int setup(void **state)
{
	struct inside *t = NEW(struct inside);

	assert_int_equal(loop_new(&t->loop), 0);
	t->server = http_server_inside(t->loop, &(struct http_server_options){.handler = on_request, .handler_arg = t});
	t->client = http_client_new(t->loop, &(struct http_client_options){.inside = t->server});
	t->watchdog = loop_timer_new(t->loop, too_long, NULL);
	loop_timer_start(t->watchdog, 20 * US_PER_S, 0);
	*state = t;
	return 0;
}

static int teardown(void **state)
{
	struct inside *t = *state;

	http_client_free(t->client);
	http_server_free(t->server);
	loop_timer_free(t->watchdog);
	loop_free(t->loop);
	buf_fini(&t->answer);
	free(t);
	return 0;
}

static void ask(struct inside *t, struct str url, struct str body)
{
	const struct http_call_options options = {.method = STR("POST"), .url = url, .body = body};

	t->call = http_fetch(t->client, &options, 1 << 22, on_answer, t);
	loop_run(t->loop);
}

static void test_a_large_body_goes_there_and_back(void **state)
{
	struct inside *t = *state;
	char *body = mem_resize(NULL, 3 << 20, 1);

	for (size_t i = 0; i < 3 << 20; i++)
		body[i] = (char)(i * 31 % 251);
	for (int i = 0; i < 2; i++) {
		ask(t, STR("http://any.host.at.all/x"), (struct str){body, 3 << 20});
		assert_int_equal(t->status, 201);
		assert_int_equal(t->answer.len, 3 << 20);
		assert_memory_equal(t->answer.base, body, 3 << 20);
	}
	assert_int_equal(t->asked, 2);
	free(body);
}

static void test_a_call_that_is_given_up_is_gone_at_the_server(void **state)
{
	struct inside *t = *state;

	ask(t, STR("http://x/never"), STR("{}"));
	assert_true(t->gone);
	ask(t, STR("http://x/again"), STR("{}"));
	assert_int_equal(t->status, 201);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_a_large_body_goes_there_and_back, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_a_call_that_is_given_up_is_gone_at_the_server, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
