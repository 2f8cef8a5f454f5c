/* SPDX-License-Identifier: Apache-2.0 */
/* One gateway, a real server and client on loopback, the synthetic engine. */
#include "world.h"

#include "base/limits.h"
#include "base/log.h"
#include "core/api_key.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECRET "xylophone-of-the-prompt"
#define CHAT "/v1/chat/completions"
#define TEXT "/v1/completions"
#define ASK(rest) "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"" SECRET "\"}]" rest "}"
#define CONTINUE(rest) "{\"model\":\"m\",\"prompt\":\"" SECRET "\"" rest "}"

/* Lines go to a file while a test runs, and back to where cmocka writes after it. */
static char log_path[] = "/tmp/mdn-test-log-XXXXXX";
static int stderr_before, log_fd;

static int group_setup(void **state)
{
	(void)state;
	log_setup(LOG_DEBUG, true, "test");
	stderr_before = dup(2);
	log_fd = mkstemp(log_path);
	return log_fd < 0;
}

static int quiet(void **state)
{
	(void)state;
	return dup2(log_fd, 2) < 0;
}

static int loud(void **state)
{
	(void)state;
	return dup2(stderr_before, 2) < 0;
}

struct fixture {
	struct world w;
	struct place p;
};

static int setup_with(void **state, int32_t context)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct gateway_options o = place_options("n-1", "west");

	o.engine.context_tokens = context;
	o.access_log = true;
	quiet(NULL);
	world_init(&f->w);
	place_start(&f->w, &f->p, &o);
	place_model(&f->w, &f->p, "m:latest");
	*state = f;
	return 0;
}

static int setup(void **state)
{
	return setup_with(state, 4096);
}

/* Room for answers that no buffer on the way can swallow. */
static int setup_endless(void **state)
{
	return setup_with(state, 8000000);
}

#define ENDLESS ",\"max_tokens\":7000000,\"stream\":true"

static int32_t engine_busy(struct place *p)
{
	struct model_report r;

	assert_true(gateway_model_report(p->g, STR("m:latest"), &r));
	return r.running + r.waiting;
}

static double metric(struct fixture *f, const char *name)
{
	struct reply r = {0};
	double value = -1;

	ask(&f->w, &r, "GET", f->p.api, "/metrics", NULL);
	assert_int_equal(r.status, 200);
	for (char *line = r.body.base; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
		if (strncmp(line, name, strlen(name)) == 0 && line[strlen(name)] == ' ')
			value = strtod(line + strlen(name), NULL);
	reply_fini(&r);
	return value;
}

/* Pieces the engine has delivered: every one but the first is measured. */
static int64_t gateway_spoken(struct fixture *f)
{
	return (int64_t)metric(f, "vllm:inter_token_latency_seconds_count{model_name=\"m:latest\",engine=\"0\"}") * 16;
}

/* Nothing is in flight when a test ends, or something leaks. */
static int teardown(void **state)
{
	struct fixture *f = *state;

	world_wait(&f->w, 10 * US_PER_MS);
	assert_int_equal(gateway_running(f->p.g), 0);
	assert_int_equal(engine_busy(&f->p), 0);
	assert_true(metric(f, "mdn_ledger_open") == 0);
	place_stop(&f->p);
	world_fini(&f->w);
	free(f);
	return loud(NULL);
}

/* ---- shapes --------------------------------------------------------------------------------------------------- */

static void test_models_are_listed_and_found(void **state)
{
	struct fixture *f = *state;
	struct reply r = {0};

	ask(&f->w, &r, "GET", f->p.api, "/v1/models", NULL);
	assert_int_equal(r.status, 200);
	yyjson_doc *doc = reply_doc(&r);
	assert_text(at(doc, "object"), "list");
	assert_text(at(doc, "data.0.id"), "m:latest");
	assert_text(at(doc, "data.0.object"), "model");
	assert_true(yyjson_is_int(at(doc, "data.0.created")));
	assert_text(at(doc, "data.0.owned_by"), "mdn");
	yyjson_doc_free(doc);
	reply_fini(&r);
	ask(&f->w, &r, "GET", f->p.api, "/v1/models/m", NULL);
	doc = reply_doc(&r);
	assert_text(at(doc, "id"), "m:latest");
	yyjson_doc_free(doc);
	reply_fini(&r);
	ask(&f->w, &r, "GET", f->p.api, "/v1/models/other", NULL);
	assert_int_equal(r.status, 404);
	doc = reply_doc(&r);
	assert_text(at(doc, "error.code"), "model_not_found");
	yyjson_doc_free(doc);
	reply_fini(&r);
}

static void test_a_chat_answer_has_every_field(void **state)
{
	struct fixture *f = *state;
	struct reply r = {0};
	char text[128];

	ask_with(&f->w, &r, f->p.api, CHAT, ASK(",\"max_tokens\":5"), "x-request-id: abc-1");
	assert_int_equal(r.status, 200);
	assert_true(reply_header(&r, "x-request-id", text, sizeof(text)));
	assert_string_equal(text, "abc-1");
	assert_true(reply_header(&r, "x-mdn-node", text, sizeof(text)));
	assert_string_equal(text, "n-1");
	assert_true(reply_header(&r, "content-type", text, sizeof(text)));
	assert_string_equal(text, "application/json");
	assert_false(reply_header(&r, "endpoint-load-metrics", text, sizeof(text))); /* nobody asked */
	yyjson_doc *doc = reply_doc(&r);
	assert_int_equal(strncmp(yyjson_get_str(at(doc, "id")), "chatcmpl-", 9), 0);
	assert_text(at(doc, "object"), "chat.completion");
	assert_true(yyjson_get_sint(at(doc, "created")) > 1600000000);
	assert_text(at(doc, "model"), "m:latest");
	assert_text(at(doc, "system_fingerprint"), "fp_0123456789");
	assert_int_equal(yyjson_get_int(at(doc, "choices.0.index")), 0);
	assert_text(at(doc, "choices.0.message.role"), "assistant");
	assert_true(yyjson_get_len(at(doc, "choices.0.message.content")) > 0);
	assert_true(yyjson_is_null(at(doc, "choices.0.logprobs")));
	assert_text(at(doc, "choices.0.finish_reason"), "length");
	assert_int_equal(yyjson_get_int(at(doc, "usage.completion_tokens")), 5);
	int64_t prompt = yyjson_get_int(at(doc, "usage.prompt_tokens"));
	assert_true(prompt > 5);
	assert_int_equal(yyjson_get_int(at(doc, "usage.total_tokens")), prompt + 5);
	assert_true(yyjson_is_int(at(doc, "usage.prompt_tokens_details.cached_tokens")));
	yyjson_doc_free(doc);
	reply_fini(&r);
}

/* What a stream must be to the byte, but for the id, the second and the words. */
static void expect_stream(struct reply *r, bool usage)
{
	struct buf expected = {0}, head = {0};
	struct str data;
	const char *null = usage ? ",\"usage\":null" : "";
	const char *cursor = stream_next(r->body.base, &data);
	yyjson_doc *doc;

	assert_non_null(cursor);
	assert_int_equal(json_parse(data, &doc, NULL), 0);
	buf_printf(&head,
	           "data: {\"id\":\"%s\",\"object\":\"chat.completion.chunk\",\"created\":%lld,\"model\":\"m:latest\","
	           "\"system_fingerprint\":\"fp_0123456789\",\"choices\":[",
	           yyjson_get_str(at(doc, "id")), (long long)yyjson_get_sint(at(doc, "created")));
	yyjson_doc_free(doc);
	buf_append(&head, "", 1);
	buf_printf(&expected,
	           "%s{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_"
	           "reason\":null}]%s}\n\n",
	           head.base, null);
	int64_t prompt_tokens = 0, cached = 0;
	while ((cursor = stream_next(cursor, &data)) != NULL) {
		if (str_equal(data, STR("[DONE]")))
			break;
		assert_int_equal(json_parse(data, &doc, NULL), 0);
		yyjson_val *content = at(doc, "choices.0.delta.content");
		if (content) {
			buf_printf(&expected,
			           "%s{\"index\":0,\"delta\":{\"content\":\"%s\"},\"logprobs\":null,\"finish_reason\":"
			           "null}]%s}\n\n",
			           head.base, yyjson_get_str(content), null);
		} else if (at(doc, "usage.prompt_tokens")) {
			prompt_tokens = yyjson_get_int(at(doc, "usage.prompt_tokens"));
			cached = yyjson_get_int(at(doc, "usage.prompt_tokens_details.cached_tokens"));
		}
		yyjson_doc_free(doc);
	}
	buf_printf(&expected, "%s{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"length\"}]%s}\n\n",
	           head.base, null);
	if (usage)
		buf_printf(&expected,
		           "%s],\"usage\":{\"prompt_tokens\":%lld,\"completion_tokens\":3,\"total_tokens\":%lld,"
		           "\"prompt_tokens_details\":{\"cached_tokens\":%lld}}}\n\n",
		           head.base, (long long)prompt_tokens, (long long)prompt_tokens + 3, (long long)cached);
	buf_printf(&expected, "data: [DONE]\n\n");
	buf_append(&expected, "", 1);
	assert_string_equal(r->body.base, expected.base);
	buf_fini(&expected);
	buf_fini(&head);
}

static void test_a_stream_is_right_to_the_byte(void **state)
{
	struct fixture *f = *state;
	struct reply r = {0};
	char type[64];

	ask(&f->w, &r, "POST", f->p.api, CHAT, ASK(",\"max_tokens\":3,\"stream\":true"));
	assert_int_equal(r.status, 200);
	assert_true(reply_header(&r, "content-type", type, sizeof(type)));
	assert_string_equal(type, "text/event-stream; charset=utf-8");
	expect_stream(&r, false);
	reply_fini(&r);
	ask(&f->w, &r, "POST", f->p.api, CHAT,
	    ASK(",\"max_tokens\":3,\"stream\":true,\"stream_options\":{\"include_usage\":true}"));
	expect_stream(&r, true);
	reply_fini(&r);
}

static void test_n_answers_keep_their_indexes(void **state)
{
	struct fixture *f = *state;
	struct reply r = {0};

	ask(&f->w, &r, "POST", f->p.api, CHAT, ASK(",\"n\":3,\"max_tokens\":4"));
	assert_int_equal(r.status, 200);
	yyjson_doc *doc = reply_doc(&r);
	assert_int_equal(yyjson_arr_size(at(doc, "choices")), 3);
	for (unsigned i = 0; i < 3; i++) {
		yyjson_val *choice = yyjson_arr_get(at(doc, "choices"), i);
		assert_int_equal(yyjson_get_int(yyjson_obj_get(choice, "index")), i);
	}
	assert_int_equal(yyjson_get_int(at(doc, "usage.completion_tokens")), 12);
	assert_true(yyjson_get_int(at(doc, "usage.prompt_tokens")) < 40); /* counted once */
	yyjson_doc_free(doc);
	reply_fini(&r);
	ask(&f->w, &r, "POST", f->p.api, CHAT, ASK(",\"n\":3,\"max_tokens\":4,\"stream\":true"));
	for (int i = 0; i < 3; i++) {
		char needle[64];
		snprintf(needle, sizeof(needle), "[{\"index\":%d,\"delta\":{\"role\"", i);
		assert_int_equal(stream_count(&r, needle), 1);
		snprintf(needle, sizeof(needle), "[{\"index\":%d,\"delta\":{},", i);
		assert_int_equal(stream_count(&r, needle), 1);
	}
	assert_int_equal(stream_count(&r, "data: [DONE]\n\n"), 1);
	reply_fini(&r);
}

static void test_completions_stop_echo_and_log_probabilities(void **state)
{
	struct fixture *f = *state;
	struct reply r = {0};
	char body[512], stop[32];

	ask(&f->w, &r, "POST", f->p.api, TEXT, CONTINUE(",\"max_tokens\":8,\"echo\":true,\"logprobs\":2"));
	assert_int_equal(r.status, 200);
	yyjson_doc *doc = reply_doc(&r);
	const char *text = yyjson_get_str(at(doc, "choices.0.text"));
	assert_text(at(doc, "object"), "text_completion");
	assert_int_equal(strncmp(yyjson_get_str(at(doc, "id")), "cmpl-", 5), 0);
	assert_int_equal(strncmp(text, SECRET, strlen(SECRET)), 0);
	assert_int_equal(yyjson_arr_size(at(doc, "choices.0.logprobs.tokens")), 8);
	assert_int_equal(yyjson_arr_size(at(doc, "choices.0.logprobs.text_offset")), 8);
	assert_int_equal(yyjson_get_int(at(doc, "choices.0.logprobs.text_offset.0")), strlen(SECRET));
	const char *word = strrchr(text, ' '); /* the last word is where the next answer stops */
	snprintf(stop, sizeof(stop), "%s", word + 1);
	const char *first = strstr(text, stop);
	size_t kept = (size_t)(first - text) - strlen(SECRET);
	char expected[256];
	snprintf(expected, sizeof(expected), "%.*s", (int)kept, text + strlen(SECRET));
	snprintf(body, sizeof(body), CONTINUE(",\"max_tokens\":8,\"stop\":\"%s\""), stop);
	yyjson_doc_free(doc);
	reply_fini(&r);
	ask(&f->w, &r, "POST", f->p.api, TEXT, body);
	doc = reply_doc(&r);
	assert_text(at(doc, "choices.0.finish_reason"), "stop");
	assert_text(at(doc, "choices.0.text"), expected);
	yyjson_doc_free(doc);
	reply_fini(&r);
	ask(&f->w, &r, "POST", f->p.api, TEXT,
	    "{\"model\":\"m:latest\",\"prompt\":[\"a\",\"b\"],\"n\":2,\"stream\":true,\"max_tokens\":1}");
	assert_int_equal(stream_count(&r, "\"index\":3,\"text\":\"\""), 1);
	assert_int_equal(stream_count(&r, "\"object\":\"text_completion\""), 8);
	reply_fini(&r);
}

/* ---- errors ----------------------------------------------------------------------------------------------------- */

static void expect_error(struct reply *r, int status, const char *param, const char *code)
{
	yyjson_doc *doc = reply_doc(r);

	assert_int_equal(r->status, status);
	assert_true(yyjson_is_str(at(doc, "error.message")));
	assert_true(yyjson_is_str(at(doc, "error.type")));
	assert_non_null(at(doc, "error.param"));
	assert_non_null(at(doc, "error.code"));
	if (param)
		assert_text(at(doc, "error.param"), param);
	if (code)
		assert_text(at(doc, "error.code"), code);
	yyjson_doc_free(doc);
	reply_fini(r);
}

static void test_errors_have_openai_shape(void **state)
{
	struct fixture *f = *state;
	struct reply r = {0};
	char text[64];

	ask(&f->w, &r, "POST", f->p.api, CHAT, ASK(",\"temperature\":\"warm\""));
	expect_error(&r, 400, "temperature", NULL);
	ask(&f->w, &r, "POST", f->p.api, CHAT, "{\"model\":");
	expect_error(&r, 400, NULL, NULL);
	ask(&f->w, &r, "POST", f->p.api, CHAT,
	    "{\"model\":\"nope\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}");
	assert_non_null(strstr(r.body.base, "m:latest"));
	expect_error(&r, 404, "model", "model_not_found");
	ask(&f->w, &r, "GET", f->p.api, CHAT, NULL);
	assert_true(reply_header(&r, "allow", text, sizeof(text)));
	expect_error(&r, 405, NULL, NULL);
	ask(&f->w, &r, "POST", f->p.api, "/v1/models", "{}");
	expect_error(&r, 405, NULL, NULL);
	ask(&f->w, &r, "POST", f->p.api, CHAT,
	    ASK(",\"response_format\":{\"type\":\"json_object\"}")); /* synthetic cannot */
	expect_error(&r, 400, NULL, NULL);
	ask_with(&f->w, &r, f->p.api, CHAT, ASK(""), "x-mdn-hop: 1");
	expect_error(&r, 400, NULL, NULL);
	ask(&f->w, &r, "GET", f->p.api, "/v1/files", NULL);
	assert_int_equal(r.status, 404);
	reply_fini(&r);
}

static void test_a_prompt_past_the_context_is_told_as_openai_does(void **state)
{
	struct fixture *f = *state;
	struct reply r = {0};
	struct buf body = {0};

	buf_printf(&body, "{\"model\":\"m\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"");
	for (int i = 0; i < 5000; i++)
		buf_printf(&body, "word ");
	buf_printf(&body, "\"}]}");
	buf_append(&body, "", 1);
	ask(&f->w, &r, "POST", f->p.api, CHAT, body.base);
	expect_error(&r, 400, "messages", "context_length_exceeded");
	buf_fini(&body);
}

static void test_a_body_past_the_limit_is_refused(void **state)
{
	struct fixture *f = *state;
	struct reply r = {0};
	struct buf body = {0};

	char *room = buf_reserve(&body, LIMIT_JSON_BODY + 2);
	memset(room, ' ', LIMIT_JSON_BODY + 1);
	room[LIMIT_JSON_BODY + 1] = '\0';
	ask(&f->w, &r, "POST", f->p.api, CHAT, room);
	assert_true(r.status == 413 || r.broken);
	reply_fini(&r);
	buf_fini(&body);
}

static void test_keys_are_checked_and_never_repeated(void **state)
{
	struct fixture *f = *state;
	const uint8_t id[6] = {1, 2, 3, 4, 5, 6}, secret[API_KEY_SECRET_BYTES] = {9}, other[API_KEY_SECRET_BYTES] = {8};
	struct key_ring_key kept[2] = {{.id = "ffffffffffff", .hash = "00"}, {.id = "010203040506"}};
	char key[API_KEY_SIZE], wrong[API_KEY_SIZE], header[128];
	struct reply r = {0};

	api_key_format(id, secret, key);
	api_key_format(id, other, wrong);
	api_key_hash(str_from(key), kept[1].hash);
	gateway_set_keys(f->p.g, kept, 2);
	gateway_set_open(f->p.g, false);
	ask(&f->w, &r, "GET", f->p.api, "/v1/models", NULL);
	expect_error(&r, 401, NULL, "invalid_api_key");
	snprintf(header, sizeof(header), "authorization: Bearer %s", wrong);
	ask_with(&f->w, &r, f->p.api, CHAT, ASK(""), header);
	assert_null(strstr(r.body.base, wrong + 4));
	expect_error(&r, 401, NULL, "invalid_api_key");
	ask_with(&f->w, &r, f->p.api, CHAT, ASK(""), "authorization: Bearer mdn-short");
	expect_error(&r, 401, NULL, "invalid_api_key");
	snprintf(header, sizeof(header), "authorization: bearer %s", key);
	ask_with(&f->w, &r, f->p.api, CHAT, ASK(",\"max_tokens\":1"), header);
	assert_int_equal(r.status, 200);
	reply_fini(&r);
	ask(&f->w, &r, "GET", f->p.api, "/health", NULL); /* needs none */
	assert_int_equal(r.status, 200);
	reply_fini(&r);
}

static void test_a_model_that_failed_is_503_with_its_reason(void **state)
{
	struct world w;
	struct place p;
	struct reply r = {0};
	struct error err;
	char text[32];
	struct gateway_options o = place_options("n-1", "west");

	(void)state;
	o.engine.kind = STR("nonsense");
	world_init(&w);
	place_start(&w, &p, &o);
	assert_int_equal(gateway_model_add(p.g, STR("m:latest"), STR("sha256:00"), STR("/x"), &err), E_INVAL);
	ask(&w, &r, "POST", p.api, CHAT, ASK(""));
	assert_true(reply_header(&r, "retry-after", text, sizeof(text)));
	expect_error(&r, 503, NULL, NULL);
	ask(&w, &r, "GET", p.api, "/ready", NULL);
	assert_int_equal(r.status, 503);
	reply_fini(&r);
	place_stop(&p);
	world_fini(&w);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static void until_busy(struct fixture *f, bool busy)
{
	for (int i = 0; i < 500 && (engine_busy(&f->p) > 0) != busy; i++)
		world_wait(&f->w, US_PER_MS);
	assert_int_equal(engine_busy(&f->p) > 0, busy);
}

static void test_a_client_that_leaves_frees_the_engine(void **state)
{
	struct fixture *f = *state;
	struct reply r = {.hold = true};

	reply_start(&f->w, &r, "POST", f->p.api, CHAT, ASK(",\"n\":2" ENDLESS), NULL);
	until_busy(f, true);
	http_call_cancel(r.call);
	until_busy(f, false);
	reply_fini(&r);
}

static void test_a_slow_reader_is_waited_for_in_bounded_memory(void **state)
{
	struct fixture *f = *state;
	struct reply r = {.hold = true};
	int64_t tokens = 0, before = -1;

	reply_start(&f->w, &r, "POST", f->p.api, CHAT, ASK(ENDLESS), NULL);
	until_busy(f, true);
	for (int i = 0; i < 100 && tokens != before; i++) { /* until buffers of the kernel are full, too */
		before = tokens;
		world_wait(&f->w, 50 * US_PER_MS);
		tokens = gateway_spoken(f);
	}
	assert_int_equal(tokens, before);
	assert_true(tokens > 0 && tokens < 1000000);
	r.hold = false; /* it wakes up: the stream goes on where it stopped */
	uint64_t bytes = r.bytes;
	http_call_resume(r.call);
	world_wait(&f->w, 50 * US_PER_MS);
	assert_true(r.bytes > bytes);
	http_call_cancel(r.call);
	until_busy(f, false);
	reply_fini(&r);
}

static bool answers_with(struct fixture *f, const char *digest)
{
	struct model_report m;
	return gateway_model_report(f->p.g, STR("m"), &m) && m.state == MODEL_READY && strcmp(m.digest, digest) == 0;
}

/* Asks without a pause until `digest` answers; every single request must succeed. */
static void ask_until(struct fixture *f, const char *digest)
{
	int asked = 0;
	for (int64_t began = clock_mono_us(); !answers_with(f, digest);) {
		struct reply r = {0};
		assert_true(clock_mono_us() - began < 10 * US_PER_S);
		reply_start(&f->w, &r, "POST", f->p.api, CHAT, ASK(",\"max_tokens\":2"), NULL);
		reply_wait(&r);
		if (r.status != 200)
			fail_msg("request %d: status %d " STR_FMT, asked, r.status, STR_ARG(buf_str(&r.body)));
		reply_fini(&r);
		asked++;
	}
	assert_true(asked > 0);
}

static void test_a_new_version_comes_beside_the_old_one_which_ends_its_streams(void **state)
{
	struct fixture *f = *state;
	struct reply r = {.hold = true};
	struct model_report m;
	struct error err;

	reply_start(&f->w, &r, "POST", f->p.api, CHAT, ASK(ENDLESS), NULL);
	until_busy(f, true);
	assert_int_equal(gateway_model_add(f->p.g, STR("m:latest"), STR("sha256:ffff"), STR("/y"), &err), 0);
	assert_true(gateway_model_next(f->p.g, STR("m"), &m));
	assert_string_equal(m.digest, "sha256:ffff");
	assert_true(answers_with(f, "sha256:0123456789abcdef"));
	ask_until(f, "sha256:ffff");
	assert_false(gateway_model_next(f->p.g, STR("m"), &m));
	assert_true(gateway_holds(f->p.g, STR("sha256:0123456789abcdef"))); /* its stream runs on */
	assert_false(r.done);
	http_call_cancel(r.call);
	for (int i = 0; i < 500 && gateway_holds(f->p.g, STR("sha256:0123456789abcdef")); i++)
		world_wait(&f->w, US_PER_MS);
	assert_false(gateway_holds(f->p.g, STR("sha256:0123456789abcdef")));
	gateway_model_add(f->p.g, STR("gone:1"), STR("sha256:ab"), STR("/z"), &err);
	gateway_model_remove(f->p.g, STR("gone:1"));
	world_wait(&f->w, 20 * US_PER_MS);
	assert_false(gateway_model_report(f->p.g, STR("gone:1"), &m));
	reply_fini(&r);
}

static void test_a_version_that_must_not_answer_goes_at_once(void **state)
{
	struct fixture *f = *state;
	struct model_report m;
	struct error err;

	/* one that waits goes alone, also while the old one makes room for it */
	gateway_set_memory(f->p.g, 1);
	assert_int_equal(gateway_model_add(f->p.g, STR("m:latest"), STR("sha256:eeee"), STR("/proc/self/exe"), &err),
	                 0);
	world_wait(&f->w, 20 * US_PER_MS);
	assert_true(gateway_model_next(f->p.g, STR("m"), &m));
	assert_true(gateway_model_drop(f->p.g, STR("m:latest"), STR("sha256:eeee")));
	assert_false(gateway_model_next(f->p.g, STR("m"), &m));
	assert_true(answers_with(f, "sha256:0123456789abcdef"));
	assert_false(gateway_model_drop(f->p.g, STR("m:latest"), STR("sha256:eeee")));
	/* one that answers goes; what is added in the same breath does not keep it */
	assert_true(gateway_model_drop(f->p.g, STR("m:latest"), STR("sha256:0123456789abcdef")));
	assert_int_equal(gateway_model_add(f->p.g, STR("m:latest"), STR("sha256:ffff"), STR("/y"), &err), 0);
	assert_true(gateway_model_report(f->p.g, STR("m"), &m));
	assert_string_equal(m.digest, "sha256:ffff");
	ask_until(f, "sha256:ffff");
	/* also one that is being loaded still */
	assert_int_equal(gateway_model_add(f->p.g, STR("n:1"), STR("sha256:ab"), STR("/z"), &err), 0);
	assert_true(gateway_model_drop(f->p.g, STR("n:1"), STR("sha256:ab")));
	assert_false(gateway_model_report(f->p.g, STR("n:1"), &m));
}

static void test_without_memory_for_two_requests_wait_for_the_new_version(void **state)
{
	struct fixture *f = *state;
	struct model_report m;
	struct error err;
	struct stat st;

	assert_int_equal(stat("/proc/self/exe", &st), 0);
	gateway_set_memory(f->p.g, (uint64_t)st.st_size + 1);
	assert_int_equal(gateway_model_add(f->p.g, STR("m:latest"), STR("sha256:ffff"), STR("/proc/self/exe"), &err),
	                 0);
	world_wait(&f->w, 20 * US_PER_MS);
	assert_true(gateway_model_next(f->p.g, STR("m"), &m));
	/* the first has no file, so there is room beside it; for two with one there is not */
	ask_until(f, "sha256:ffff");
	assert_int_equal(gateway_model_add(f->p.g, STR("m:latest"), STR("sha256:eeee"), STR("/proc/self/exe"), &err),
	                 0);
	world_wait(&f->w, 20 * US_PER_MS);
	assert_true(gateway_model_next(f->p.g, STR("m"), &m));
	assert_int_equal(m.state, MODEL_CACHED);
	assert_true(gateway_model_report(f->p.g, STR("m"), &m));
	assert_int_equal(m.state, MODEL_LOADING); /* for others: do not send any more */
	ask_until(f, "sha256:eeee");
	/* and back again while it yields: as if nothing had been */
	assert_int_equal(gateway_model_add(f->p.g, STR("m:latest"), STR("sha256:dddd"), STR("/proc/self/exe"), &err),
	                 0);
	world_wait(&f->w, 20 * US_PER_MS);
	assert_int_equal(gateway_model_add(f->p.g, STR("m:latest"), STR("sha256:eeee"), STR("/proc/self/exe"), &err),
	                 0);
	assert_true(answers_with(f, "sha256:eeee"));
	assert_false(gateway_model_next(f->p.g, STR("m"), &m));
}

static void test_freeing_a_busy_gateway_ends_everything(void **state)
{
	struct world w;
	struct place p;
	struct reply r[3] = {{.hold = true}, {.hold = true}, {.hold = true}};
	struct gateway_options o = place_options("n-1", "west");

	(void)state;
	o.engine.itl_base_us = 5000;
	world_init(&w);
	place_start(&w, &p, &o);
	place_model(&w, &p, "m:latest");
	for (int i = 0; i < 3; i++)
		reply_start(&w, &r[i], "POST", p.api, CHAT,
		            i ? ASK(",\"max_tokens\":4000,\"stream\":true") : ASK(",\"n\":3"), NULL);
	world_wait(&w, 50 * US_PER_MS);
	assert_int_equal(gateway_running(p.g), 3);
	place_stop(&p);
	for (int i = 0; i < 3; i++) {
		r[i].hold = false;
		if (r[i].call)
			http_call_resume(r[i].call);
		reply_wait(&r[i]);
		assert_true(r[i].broken);
		reply_fini(&r[i]);
	}
	world_fini(&w);
}

static void test_load_is_told_in_the_format_asked_for(void **state)
{
	static const struct {
		const char *asked, *begins;
	} cases[] = {{"TEXT", "TEXT named_metrics.kv_cache_usage_perc="},
	             {"text", "TEXT named_metrics.kv_cache_usage_perc="},
	             {"JSON", "JSON {\"named_metrics\":{\"kv_cache_usage_perc\":"},
	             {"XML", NULL}};
	struct fixture *f = *state;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct reply r = {0};
		char header[64], text[256];

		snprintf(header, sizeof(header), "endpoint-load-metrics-format: %s", cases[i].asked);
		ask_with(&f->w, &r, f->p.api, CHAT, ASK(",\"max_tokens\":1"), header);
		assert_int_equal(r.status, 200);
		bool told = reply_header(&r, "endpoint-load-metrics", text, sizeof(text));
		assert_int_equal(told, cases[i].begins != NULL);
		if (told)
			assert_int_equal(strncmp(text, cases[i].begins, strlen(cases[i].begins)), 0);
		reply_fini(&r);
	}
}

static long number_header(struct reply *r, const char *name)
{
	char text[32] = "-1";

	reply_header(r, name, text, sizeof(text));
	return strtol(text, NULL, 10);
}

/* The queue is the limit: full, what would be let in is none, and that is what a refusal says. */
static void test_what_may_still_be_asked_is_what_the_queue_has_room_for(void **state)
{
	struct fixture *f = *state;
	static struct reply waiting[20], r;
	char text[64];
	long most, left, before;
	size_t count = 0;

	ask(&f->w, &r, "POST", f->p.api, CHAT, ASK(",\"max_tokens\":1,\"priority\":\"bulk\""));
	most = number_header(&r, "x-ratelimit-limit-requests");
	left = number_header(&r, "x-ratelimit-remaining-requests");
	assert_int_equal(most, 256);
	assert_in_range(left, 1, most);
	assert_true(reply_header(&r, "x-ratelimit-reset-requests", text, sizeof(text)));
	assert_string_equal(text, "0s");
	assert_false(reply_header(&r, "x-ratelimit-limit-tokens", text, sizeof(text)));
	assert_false(reply_header(&r, "x-llm-d-request-dropped-reason", text, sizeof(text)));
	reply_fini(&r);
	for (; count < 20; count++) {
		waiting[count].hold = true;
		reply_start(&f->w, &waiting[count], "POST", f->p.api, CHAT,
		            ASK(ENDLESS ",\"n\":16,\"priority\":\"bulk\""), NULL);
	}
	world_wait(&f->w, 300 * US_PER_MS);
	before = (long)metric(f, "vllm:num_requests_waiting{model_name=\"m:latest\",engine=\"0\"}");
	assert_in_range(before, left - 16, left); /* 16 at a time */
	ask(&f->w, &r, "POST", f->p.api, CHAT, ASK(",\"max_tokens\":1,\"n\":16,\"priority\":\"bulk\""));
	assert_int_equal(r.status, 429);
	assert_in_range(number_header(&r, "x-ratelimit-remaining-requests"), 0, 15);
	assert_int_equal(number_header(&r, "x-ratelimit-limit-requests"), most);
	assert_true(reply_header(&r, "x-llm-d-request-dropped-reason", text, sizeof(text)));
	assert_string_equal(text, "rejected-saturated");
	reply_fini(&r);
	while (count--) {
		if (!waiting[count].done)
			http_call_cancel(waiting[count].call);
		reply_fini(&waiting[count]);
	}
}

/* ---- what can be watched --------------------------------------------------------------------------------------------
 */

static void test_metrics_parse_and_count(void **state)
{
	struct fixture *f = *state;
	struct reply r = {0};
	char type[128] = "";
	size_t samples = 0;

	ask(&f->w, &r, "POST", f->p.api, CHAT, ASK(",\"max_tokens\":6,\"stream\":true"));
	reply_fini(&r);
	ask(&f->w, &r, "POST", f->p.api, CHAT, "{}");
	reply_fini(&r);
	assert_true(metric(f, "vllm:generation_tokens_total{model_name=\"m:latest\",engine=\"0\"}") == 6);
	assert_true(metric(f, "vllm:time_to_first_token_seconds_count{model_name=\"m:latest\",engine=\"0\"}") == 1);
	assert_true(
	    metric(f, "vllm:e2e_request_latency_seconds_bucket{model_name=\"m:latest\",engine=\"0\",le=\"+Inf\"}") ==
	    1);
	assert_true(
	    metric(f, "vllm:request_success_total{model_name=\"m:latest\",engine=\"0\",finished_reason=\"length\"}") ==
	    1);
	assert_true(metric(f, "vllm:num_requests_running{model_name=\"m:latest\",engine=\"0\"}") == 0);
	assert_true(metric(f, "vllm:request_generation_tokens_sum{model_name=\"m:latest\",engine=\"0\"}") == 6);
	assert_true(
	    metric(f, "vllm:request_params_max_tokens_bucket{model_name=\"m:latest\",engine=\"0\",le=\"5.0\"}") == 0);
	assert_true(
	    metric(f, "vllm:request_params_max_tokens_bucket{model_name=\"m:latest\",engine=\"0\",le=\"10.0\"}") == 1);
	assert_true(
	    metric(f, "vllm:request_params_max_tokens_bucket{model_name=\"m:latest\",engine=\"0\",le=\"1e+06\"}") == 1);
	assert_true(metric(f, "vllm:engine_sleep_state{model_name=\"m:latest\",engine=\"0\",sleep_state=\"awake\"}") ==
	            1);
	assert_true(metric(f, "mdn_requests_total{route=\"local\",status=\"2xx\"}") == 1);
	assert_true(metric(f, "mdn_errors_total{error=\"invalid\"}") == 1);
	ask(&f->w, &r, "GET", f->p.api, "/metrics", NULL);
	struct str rest = buf_str(&r.body);
	while (rest.len) {
		struct str line = str_cut(rest, '\n', &rest), value, name;
		if (str_starts(line, STR("# TYPE "))) {
			name = str_cut((struct str){line.base + 7, line.len - 7}, ' ', &value);
			assert_true(str_copy(name, type, sizeof(type)));
			assert_true(str_equal(value, STR("counter")) || str_equal(value, STR("gauge")) ||
			            str_equal(value, STR("histogram")));
		} else if (!str_starts(line, STR("# "))) {
			char number[64], *end;
			assert_true(str_starts(line, str_from(type))); /* samples stand under their TYPE */
			const char *space = memrchr(line.base, ' ', line.len);
			assert_non_null(space);
			snprintf(number, sizeof(number), "%.*s", (int)(line.base + line.len - space - 1), space + 1);
			strtod(number, &end);
			assert_true(end != number && *end == '\0');
			samples++;
		}
	}
	assert_true(samples > 100);
	reply_fini(&r);
}

static void test_trace_goes_on_and_root_points_at_the_api(void **state)
{
	struct fixture *f = *state;
	struct reply r = {0};

	ask(&f->w, &r, "GET", f->p.api, "/", NULL);
	assert_non_null(strstr(r.body.base, "/v1/chat/completions"));
	reply_fini(&r);
	ask(&f->w, &r, "GET", f->p.api, "/ready", NULL);
	assert_int_equal(r.status, 200);
	reply_fini(&r);
	gateway_drain(f->p.g);
	ask(&f->w, &r, "GET", f->p.api, "/ready", NULL);
	assert_int_equal(r.status, 503);
	reply_fini(&r);
	ask(&f->w, &r, "POST", f->p.api, CHAT, ASK("")); /* nobody else to point at */
	expect_error(&r, 503, NULL, NULL);
	ask_with(&f->w, &r, f->p.api, CHAT, ASK(""),
	         "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
	reply_fini(&r);
}

/* ---- the log
 * --------------------------------------------------------------------------------------------------------- */

/* Runs last: all tests above have written to it. */
static void test_logs_hold_no_prompt_and_no_key(void **state)
{
	struct buf text = {0};
	char piece[4096];
	size_t len, lines = 0;
	FILE *log = fopen(log_path, "r");

	(void)state;
	assert_non_null(log);
	while ((len = fread(piece, 1, sizeof(piece), log)) > 0)
		buf_append(&text, piece, len);
	fclose(log);
	buf_append(&text, "", 1);
	assert_null(strstr(text.base, SECRET));
	assert_null(strstr(text.base, "mdn-0102"));
	assert_non_null(strstr(text.base, "\"trace_id\":\"0af7651916cd43dd8448eb211c80319c\""));
	assert_non_null(strstr(text.base, "\"tenant\":\"010203040506\""));
	assert_non_null(strstr(text.base, "\"status\":499"));
	struct str rest = buf_str(&text);
	while (rest.len > 1) {
		struct str line = str_cut(rest, '\n', &rest);
		yyjson_doc *doc;
		if (!str_starts(line, STR("{")))
			continue;
		assert_int_equal(json_parse(line, &doc, NULL), 0);
		lines += yyjson_equals_str(at(doc, "event"), "access");
		yyjson_doc_free(doc);
	}
	assert_true(lines > 20);
	buf_fini(&text);
}

static int group_teardown(void **state)
{
	(void)state;
	close(log_fd);
	return unlink(log_path);
}

int main(void)
{
#define ALONE(name) cmocka_unit_test_setup_teardown(name, quiet, loud)
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(test_models_are_listed_and_found),
	    TEST(test_a_chat_answer_has_every_field),
	    TEST(test_a_stream_is_right_to_the_byte),
	    TEST(test_n_answers_keep_their_indexes),
	    TEST(test_completions_stop_echo_and_log_probabilities),
	    TEST(test_errors_have_openai_shape),
	    TEST(test_a_prompt_past_the_context_is_told_as_openai_does),
	    TEST(test_a_body_past_the_limit_is_refused),
	    TEST(test_keys_are_checked_and_never_repeated),
	    ALONE(test_a_model_that_failed_is_503_with_its_reason),
	    cmocka_unit_test_setup_teardown(test_a_client_that_leaves_frees_the_engine, setup_endless, teardown),
	    cmocka_unit_test_setup_teardown(test_a_slow_reader_is_waited_for_in_bounded_memory, setup_endless,
	                                    teardown),
	    cmocka_unit_test_setup_teardown(test_a_new_version_comes_beside_the_old_one_which_ends_its_streams,
	                                    setup_endless, teardown),
	    cmocka_unit_test_setup_teardown(test_a_version_that_must_not_answer_goes_at_once, setup_endless, teardown),
	    cmocka_unit_test_setup_teardown(test_without_memory_for_two_requests_wait_for_the_new_version,
	                                    setup_endless, teardown),
	    ALONE(test_freeing_a_busy_gateway_ends_everything),
	    TEST(test_load_is_told_in_the_format_asked_for),
	    cmocka_unit_test_setup_teardown(test_what_may_still_be_asked_is_what_the_queue_has_room_for, setup_endless,
	                                    teardown),
	    TEST(test_metrics_parse_and_count),
	    TEST(test_trace_goes_on_and_root_points_at_the_api),
	    cmocka_unit_test(test_logs_hold_no_prompt_and_no_key),
	};
	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
