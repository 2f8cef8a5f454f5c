/* SPDX-License-Identifier: Apache-2.0 */
/* test_remote.c - the remote engine against a server of our own in the same loop that says what the prompt tells it to:
 * prompts are small scripts ("status 429", "cut", ...), so each test shows its fault. */
#include "driver.h"

#include "base/clock.h"
#include "base/json.h"
#include "engine/remote_chunk.h"
#include "net/http.h"

#include <stdio.h>
#include <stdlib.h>

struct fake {
	struct loop *loop;
	struct http_server *server;
	char url[64];
	char body[8192], auth[64], trace[64]; /* of the last completion */
	int completions, open, gone, probes;
	int probe_status; /* 0: 200 */
	bool streams_forever;
	struct http_exchange *forever;
};

static void fake_gone(void *arg)
{
	struct fake *f = arg;

	f->open--;
	f->gone++;
	f->forever = NULL;
}

static void event(struct http_exchange *x, const char *json)
{
	struct buf out = {0};

	buf_printf(&out, "data: %s\n\n", json);
	http_write(x, buf_str(&out));
	buf_fini(&out);
}

static void answer_stream(struct http_exchange *x, const char *script)
{
	bool chat = str_starts(http_path(x), STR("/v1/chat"));

	http_respond_begin(x, 200, "text/event-stream; charset=utf-8", -1);
	if (strstr(script, "tools")) {
		event(x, "{\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":null}}]}");
		event(x, "{\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"}}]}");
		event(x, "{\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"c1\",\"type\":\"function\","
		         "\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]}}]}");
		event(x, "{\"choices\":[{\"delta\":{},\"finish_reason\":\"tool_calls\"}]}");
	} else {
		event(x,
		      chat
		          ? "{\"choices\":[{\"delta\":{\"content\":\"Hello\"},\"logprobs\":{\"content\":[{\"token\":"
		            "\"Hello\",\"logprob\":-0.5,\"top_logprobs\":[{\"token\":\"Hello\",\"logprob\":-0.5}]}]}}]}"
		          : "{\"choices\":[{\"text\":\"Hello\",\"logprobs\":{\"tokens\":[\"Hello\"],\"token_logprobs\":"
		            "[-0.5],\"top_logprobs\":[{\"Hello\":-0.5}]}}]}");
		if (strstr(script, "garbage"))
			event(x, "{\"choices\":[{");
		if (strstr(script, "error"))
			event(x, "{\"error\":{\"message\":\"engine fell\\nover\",\"code\":503}}");
		if (strstr(script, "cut")) {
			http_abort(x);
			return;
		}
		if (strstr(script, "forever"))
			return;
		event(x, chat ? "{\"choices\":[{\"delta\":{\"content\":\" you\"},\"finish_reason\":null}]}"
		              : "{\"choices\":[{\"text\":\" you\"}]}");
		if (strstr(script, "no end")) {
			http_end(x);
			return;
		}
		event(x, chat ? "{\"choices\":[{\"delta\":{},\"finish_reason\":\"length\"}]}"
		              : "{\"choices\":[{\"text\":\"\",\"finish_reason\":\"length\"}]}");
	}
	event(x, "{\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2,\"prompt_tokens_details\":"
	         "{\"cached_tokens\":4}}}");
	http_write(x, STR("data: [DONE]\n\n"));
	http_end(x);
}

static void fake_completion(void *arg, struct http_exchange *x, struct str body, const struct error *err)
{
	struct fake *f = arg;
	struct str value = {0};
	int status;
	(void)err;

	f->completions++;
	f->open++;
	http_watch(x, NULL, fake_gone, f);
	str_copy(body, f->body, sizeof(f->body));
	if (http_header(x, "authorization", &value))
		str_copy(value, f->auth, sizeof(f->auth));
	if (http_header(x, "traceparent", &value))
		str_copy(value, f->trace, sizeof(f->trace));
	const char *script = strstr(f->body, "script: ");
	script = script ? script + 8 : "";
	if (strstr(script, "forever"))
		f->forever = x;
	if (sscanf(script, "status %d", &status) == 1)
		http_respond(x, status, "application/json",
		             strstr(script, "context")
		                 ? STR("{\"error\":{\"message\":\"too long\",\"code\":\"context_length_exceeded\"}}")
		             : strstr(script, "bare") ? STR("<html>")
		                                      : STR("{\"error\":{\"message\":\"said so\",\"type\":\"t\"}}"));
	else if (strstr(script, "plain json"))
		http_respond(x, 200, "application/json", STR("{}"));
	else
		answer_stream(x, script);
}

static void fake_handler(void *arg, struct http_exchange *x)
{
	struct fake *f = arg;
	struct str id = {0};

	if (http_header(x, "x-request-id", &id) && str_equal(id, STR("mdn-probe")) &&
	    !str_equal(http_path(x), STR("/v1/models")) && !str_equal(http_path(x), STR("/health"))) {
		http_respond(x, 404, "application/json", STR("{}")); /* test_remote_kinds.c is about these */
	} else if (str_equal(http_path(x), STR("/v1/models"))) {
		f->probes++;
		if (f->probe_status)
			http_respond(x, f->probe_status, "application/json",
			             STR("{\"error\":{\"message\":\"loading\"}}"));
		else
			http_respond(x, 200, "application/json",
			             STR("{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"max_model_len\":777}]}"));
	} else if (str_equal(http_path(x), STR("/health"))) {
		http_respond(x, 200, "text/plain", STR("ok"));
	} else {
		http_body_collect(x, 1 << 20, fake_completion, f);
	}
}

static void fake_start(struct fake *f, struct loop *loop, const char *address)
{
	struct http_server_options options = {.address = str_from(address),
	                                      .inherited_fd = -1,
	                                      .handler = fake_handler,
	                                      .handler_arg = f,
	                                      .room = "test"};
	struct error err = {0};

	f->loop = loop;
	if (http_server_new(loop, &options, &f->server, &err) < 0)
		fail_msg("%s", err.text);
	struct str bound = http_server_address(f->server);
	snprintf(f->url, sizeof(f->url), "http://" STR_FMT "/v1/", STR_ARG(bound));
}

static void on_state(void *arg, enum engine_state state, const struct error *err)
{
	struct driver *d = arg;

	d->state = state;
	d->states++;
	if (err)
		d->err = *err;
}

static bool is_ready(void *arg)
{
	return ((struct driver *)arg)->state == ENGINE_READY;
}

static bool has_failed(void *arg)
{
	return ((struct driver *)arg)->state == ENGINE_FAILED;
}

static void begin(struct driver *d, struct fake *f, int32_t slots)
{
	struct engine_options options = {.kind = STR("remote"),
	                                 .model_name = STR("local"),
	                                 .remote_model = STR("m"),
	                                 .remote_key = STR("sk-1"),
	                                 .slots = slots};
	struct error err = {0};

	*d = (struct driver){0};
	assert_int_equal(loop_new(&d->loop), 0);
	fake_start(f, d->loop, "127.0.0.1:0");
	options.remote_url = str_from(f->url);
	if (engine_new(d->loop, &options, on_state, d, &d->engine, &err) < 0)
		fail_msg("%s", err.text);
}

static void end(struct driver *d, struct fake *f)
{
	engine_free(d->engine);
	http_server_free(f->server);
	loop_free(d->loop);
}

static void run(struct driver *d, struct ask *ask, struct engine_params p)
{
	ask_start(ask, d, &p);
	ask_wait(ask);
}

static void test_streams_chat_and_completion_with_usage_and_logprobs(void **state)
{
	struct driver d;
	struct fake f = {0};
	struct ask a = {0}, b = {0}, c = {0};
	(void)state;

	begin(&d, &f, 2);
	struct engine_params p = chat_of("[{\"role\":\"user\",\"content\":\"script: x\"}]", 10);
	p.logprobs = 1;
	p.traceparent = STR("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
	p.sampling.has_seed = true;
	p.sampling.seed = 5;
	run(&d, &a, p); /* taken while the probe is under way */
	assert_string_equal(a.text.base, "Hello you");
	assert_int_equal(a.last.finish, FINISH_LENGTH);
	assert_int_equal(a.last.prompt_tokens, 9);
	assert_int_equal(a.last.cached_tokens, 4);
	assert_int_equal(a.last.completion_tokens, 2);
	assert_int_equal(a.logprob_count, 1);
	assert_float_equal(a.logprobs[0], -0.5, 1e-6);
	assert_string_equal(f.auth, "Bearer sk-1");
	assert_memory_equal(f.trace, "00-0af7", 7);
	assert_non_null(strstr(f.body, "\"model\":\"m\""));
	assert_non_null(strstr(f.body, "\"include_usage\":true"));
	assert_non_null(strstr(f.body, "\"seed\":5"));
	assert_int_equal(engine_info(d.engine)->context_tokens, 777);
	p = completion("script: \"y\"", 10);
	p.logprobs = 1;
	p.echo = true;
	run(&d, &b, p);
	assert_string_equal(b.text.base, "script: \"y\"Hello you");
	assert_int_equal(b.logprob_count, 1);
	p = chat_of("[{\"role\":\"user\",\"content\":\"script: tools\"}]", 10);
	p.tools_json = STR("[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]");
	run(&d, &c, p);
	assert_int_equal(c.last.finish, FINISH_TOOL_CALLS);
	assert_string_equal(c.reasoning.base, "hm");
	assert_non_null(strstr(c.tools.base, "\"c1\""));
	assert_int_equal(engine_load(d.engine).prompt_tokens_total, 27);
	ask_fini(&a);
	ask_fini(&b);
	ask_fini(&c);
	end(&d, &f);
}

static void test_faults_have_codes_and_words(void **state)
{
	static const struct {
		const char *script;
		int code;
		const char *words;
	} faults[] = {
	    {"status 400", E_INVAL, "said so"},        {"status 400 context", E_LIMIT, "too long"},
	    {"status 401", E_PEER, "remote_key"},      {"status 404", E_NOTFOUND, "said so"},
	    {"status 422", E_UNSUPPORTED, "said so"},  {"status 429", E_BUSY, "said so"},
	    {"status 500 bare", E_PEER, "status 500"}, {"status 503", E_UNAVAILABLE, "said so"},
	    {"status 504", E_TIMEOUT, "said so"},      {"plain json", E_PEER, "does not stream"},
	    {"garbage", E_PEER, "broken JSON"},        {"error", E_UNAVAILABLE, "engine fell over"},
	    {"cut", E_PEER, "remote engine"},          {"no end", E_PEER, "before its end"},
	};
	struct driver d;
	struct fake f = {0};
	char prompt[64];
	(void)state;

	begin(&d, &f, 2);
	for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
		struct ask a = {0};
		snprintf(prompt, sizeof(prompt), "script: %s", faults[i].script);
		run(&d, &a, completion(prompt, 5));
		assert_int_equal(a.last.finish, FINISH_ERROR);
		if (a.err.code != faults[i].code || !strstr(a.err.text, faults[i].words))
			fail_msg("%s: %d %s", faults[i].script, a.err.code, a.err.text);
		ask_fini(&a);
	}
	assert_int_equal(engine_load(d.engine).running + engine_load(d.engine).waiting, 0);
	end(&d, &f);
}

static void note_text(struct ask *ask, const struct engine_event *e)
{
	(void)e;
	ask->arg = ask;
}

static void cancel_now(struct ask *ask, const struct engine_event *e)
{
	(void)e;
	engine_cancel(ask->request);
	ask->arg = ask;
}

static bool is_marked(void *arg)
{
	return ((struct ask *)arg)->arg != NULL;
}

static bool is_gone(void *arg)
{
	return ((struct fake *)arg)->gone >= 2;
}

static void test_cancel_closes_the_connection_and_lets_the_next_in(void **state)
{
	struct driver d;
	struct fake f = {0};
	struct ask a = {.on_text = note_text}, b = {.on_text = cancel_now}, c = {0};
	struct engine_params forever = completion("script: forever", 5), p = completion("script: x", 5);
	(void)state;

	begin(&d, &f, 1);
	ask_start(&a, &d, &forever);
	ask_start(&b, &d, &forever);
	ask_start(&c, &d, &p);
	driver_until(&d, is_marked, &a);
	assert_int_equal(f.completions, 1); /* one slot: the others wait here */
	assert_int_equal(engine_load(d.engine).waiting, 2);
	engine_cancel(a.request);
	ask_wait(&c); /* b was canceled by its own event in between */
	assert_string_equal(c.text.base, "Hello you");
	driver_until(&d, is_gone, &f);
	assert_int_equal(a.done + b.done, 0);
	assert_int_equal(b.texts, 1);
	ask_fini(&a);
	ask_fini(&b);
	ask_fini(&c);
	end(&d, &f);
}

static bool is_flowing(void *arg)
{
	return ((struct ask *)arg)->texts >= 1;
}

static void test_paused_request_leaves_the_rest_in_the_socket(void **state)
{
	struct driver d;
	struct fake f = {0};
	struct ask a = {0};
	struct engine_params p = completion("script: forever", 5);
	struct buf piece = {0};
	int written = 0;
	(void)state;

	begin(&d, &f, 1);
	ask_start(&a, &d, &p);
	driver_until(&d, is_flowing, &a);
	engine_pause(a.request);
	buf_printf(&piece, "data: {\"choices\":[{\"text\":\"%0*d\"}]}\n\n", 30000, 7);
	while (http_write(f.forever, buf_str(&piece)) && written < 1000)
		written++;
	driver_turns(&d, 50000);
	/* The server's buffer is still full: nobody read on. */
	int texts = a.texts;
	for (int i = 0; i < 1000 && http_write(f.forever, buf_str(&piece)); i++)
		written++;
	driver_turns(&d, 50000);
	assert_int_equal(a.texts, texts);
	assert_true(written < 1000);
	engine_continue(a.request);
	driver_turns(&d, 50000);
	assert_true(a.texts > texts);
	engine_cancel(a.request);
	buf_fini(&piece);
	ask_fini(&a);
	end(&d, &f);
}

static void test_state_follows_the_server(void **state)
{
	struct driver d;
	struct fake f = {.probe_status = 503};
	struct ask early = {0}, late = {0};
	struct error err = {0};
	struct engine_params p = completion("script: x", 5);
	(void)state;

	begin(&d, &f, 1);
	ask_start(&early, &d, &p);
	driver_until(&d, has_failed, &d); /* three bad answers */
	assert_non_null(strstr(d.err.text, "loading"));
	assert_int_equal(early.err.code, E_UNAVAILABLE);
	assert_int_equal(ask_submit(&late, &d, &p, &err), E_UNAVAILABLE);
	f.probe_status = 404; /* no such path: /health is asked instead */
	driver_until(&d, is_ready, &d);
	run(&d, &late, p);
	assert_string_equal(late.text.base, "Hello you");
	ask_fini(&early);
	ask_fini(&late);

	/* The server goes away: the request in flight fails, then the state. */
	struct ask cut = {0};
	http_server_free(f.server);
	run(&d, &cut, p);
	assert_true(cut.err.code == E_UNAVAILABLE || cut.err.code == E_PEER);
	driver_until(&d, has_failed, &d);
	engine_free(d.engine);
	loop_free(d.loop);
	ask_fini(&cut);
}

static void test_freeing_ends_what_is_open(void **state)
{
	struct driver d;
	struct fake f = {0};
	struct ask a = {0}, b = {0};
	struct engine_params p = completion("script: forever", 5);
	struct engine *none;
	struct error err = {0};
	struct engine_options bad = {.kind = STR("remote"), .remote_url = STR("ftp://x")};
	(void)state;

	begin(&d, &f, 1);
	assert_int_equal(engine_new(d.loop, &bad, NULL, NULL, &none, &err), E_INVAL);
	ask_start(&a, &d, &p);
	ask_start(&b, &d, &p);
	driver_until(&d, is_flowing, &a);
	engine_free(d.engine);
	assert_int_equal(a.err.code, E_CANCELED);
	assert_int_equal(b.err.code, E_CANCELED);
	http_server_free(f.server);
	loop_free(d.loop);
	ask_fini(&a);
	ask_fini(&b);
}

static void test_odd_chunks_are_survived(void **state)
{
	static const char *const odd[] = {
	    "{}",
	    "{\"choices\":null}",
	    "{\"choices\":[]}",
	    "{\"choices\":[7]}",
	    "{\"choices\":[{\"delta\":[]}]}",
	    "{\"choices\":[{\"delta\":{\"content\":5,\"tool_calls\":{}},\"finish_reason\":3,\"logprobs\":{\"content\":["
	    "1,null]}}]}",
	    "{\"choices\":[{\"text\":\"a\",\"logprobs\":{\"tokens\":[1,\"b\"],\"token_logprobs\":{},\"top_logprobs\":[{"
	    "\"x\":\"y\"}]}}]}",
	    "{\"usage\":{\"prompt_tokens\":-5,\"completion_tokens\":1e99,\"prompt_tokens_details\":{\"cached_tokens\":"
	    "7}}}",
	};
	struct remote_chunk chunk;
	struct error err;
	(void)state;

	for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
		assert_int_equal(remote_chunk_parse(str_from(odd[i]), &chunk, &err), 0);
		assert_true(chunk.prompt_tokens >= 0 && chunk.cached_tokens <= chunk.prompt_tokens);
		remote_chunk_fini(&chunk);
	}
	assert_int_equal(remote_chunk_parse(STR("[1]"), &chunk, &err), E_PEER);
	assert_int_equal(remote_chunk_parse(STR("nope"), &chunk, &err), E_PEER);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_streams_chat_and_completion_with_usage_and_logprobs),
	    cmocka_unit_test(test_faults_have_codes_and_words),
	    cmocka_unit_test(test_cancel_closes_the_connection_and_lets_the_next_in),
	    cmocka_unit_test(test_paused_request_leaves_the_rest_in_the_socket),
	    cmocka_unit_test(test_state_follows_the_server),
	    cmocka_unit_test(test_freeing_ends_what_is_open),
	    cmocka_unit_test(test_odd_chunks_are_survived),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
