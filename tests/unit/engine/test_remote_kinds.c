/* SPDX-License-Identifier: Apache-2.0 */
/* test_remote_kinds.c - the remote engine against each kind of server: what it is, can do, how loaded it is, and
 * answers that are no stream.
 *
 * What vLLM (0.32.0) and llama-server say was recorded from the real ones. What SGLang, TensorRT-LLM and Ollama say is
 * written by their pages of metrics and APIs: they have not run here.
 */
#include "driver.h"

#include "base/clock.h"
#include "base/json.h"
#include "engine/remote_chunk.h"
#include "engine/remote_load.h"
#include "net/http.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

struct reply {
	const char *path, *body; /* of the last one with this path, the first that has `asks` in its request */
	int status;              /* 0: 200 */
	const char *asks;
	const char *orca;
};

struct fake {
	struct http_server *server;
	char url[64];
	const struct reply *replies;
	char body[16384], probe[1024]; /* the last request of ours, and of the probe */
	int metrics_asked, waits;      /* waits: requests that get no answer */
	struct http_exchange *waiting;
};

static void fake_gone(void *arg)
{
	((struct fake *)arg)->waiting = NULL;
}

static void fake_body(void *arg, struct http_exchange *x, struct str body, const struct error *err)
{
	struct fake *f = arg;
	struct str id = {0};
	bool probe = http_header(x, "x-request-id", &id) && str_equal(id, STR("mdn-probe"));
	(void)err;

	str_copy(body, probe ? f->probe : f->body, probe ? sizeof(f->probe) : sizeof(f->body));
	if (str_ends(http_path(x), STR("/metrics")))
		f->metrics_asked++;
	if (!probe && f->waits) {
		f->waiting = x;
		http_watch(x, NULL, fake_gone, f);
		return;
	}
	for (const struct reply *r = f->replies; r->path; r++) {
		if (!str_equal(http_path(x), str_from(r->path)) ||
		    (r->asks && !memmem(body.base, body.len, r->asks, strlen(r->asks))))
			continue;
		if (r->orca)
			http_add_header(x, "endpoint-load-metrics", str_from(r->orca));
		http_respond(x, r->status ? r->status : 200, "application/json", str_from(r->body));
		return;
	}
	http_respond(x, 404, "application/json", STR("{\"detail\":\"Not Found\"}"));
}

static void fake_handler(void *arg, struct http_exchange *x)
{
	http_body_collect(x, 1 << 20, fake_body, arg);
}

static void on_state(void *arg, enum engine_state state, const struct error *err)
{
	struct driver *d = arg;

	d->state = state;
	if (err)
		d->err = *err;
}

static bool is_ready(void *arg)
{
	return ((struct driver *)arg)->state == ENGINE_READY;
}

static void begin(struct driver *d, struct fake *f, const struct reply *replies)
{
	struct http_server_options server = {.address = STR("127.0.0.1:0"),
	                                     .inherited_fd = -1,
	                                     .handler = fake_handler,
	                                     .handler_arg = f,
	                                     .room = "test"};
	struct engine_options options = {.kind = STR("remote"), .model_name = STR("m:latest"), .slots = 8};
	struct error err = {0};

	*d = (struct driver){0};
	*f = (struct fake){.replies = replies};
	assert_int_equal(loop_new(&d->loop), 0);
	if (http_server_new(d->loop, &server, &f->server, &err) < 0)
		fail_msg("%s", err.text);
	struct str bound = http_server_address(f->server);
	snprintf(f->url, sizeof(f->url), "http://" STR_FMT, STR_ARG(bound));
	options.remote_url = str_from(f->url);
	if (engine_new(d->loop, &options, on_state, d, &d->engine, &err) < 0)
		fail_msg("%s", err.text);
	driver_until(d, is_ready, d);
	driver_turns(d, 60 * 1000); /* the abilities are tried, the metrics read */
}

static void end(struct driver *d, struct fake *f)
{
	engine_free(d->engine);
	http_server_free(f->server);
	loop_free(d->loop);
}

/* ---- answers that are no stream ----------------------------------------------------------------- */

struct got {
	int done;
	float vectors[64];
	size_t size, count, token_count, piece_count;
	int32_t tokens[16];
	char text[64], piece[16];
	int32_t prompt_tokens;
	struct error err;
};

static void on_event(void *arg, const struct engine_event *e)
{
	struct got *g = arg;

	if (e->kind != ENGINE_DONE)
		return;
	g->done = 1;
	g->size = e->vector_size;
	g->count = e->vector_count;
	for (size_t i = 0; i < g->size * g->count && i < 64; i++)
		g->vectors[i] = e->vectors[i];
	g->token_count = e->token_count;
	for (size_t i = 0; i < e->token_count && i < 16; i++)
		g->tokens[i] = e->tokens[i];
	g->piece_count = e->logprob_count;
	if (e->logprob_count)
		str_copy(e->logprobs[0].token, g->piece, sizeof(g->piece));
	str_copy(e->text, g->text, sizeof(g->text));
	g->prompt_tokens = e->prompt_tokens;
	if (e->err)
		g->err = *e->err;
}

static bool is_done(void *arg)
{
	return ((struct got *)arg)->done;
}

static struct got ask(struct driver *d, struct engine_params p)
{
	struct engine_request *request;
	struct got g = {0};

	if (engine_submit(d->engine, &p, on_event, &g, &request, &g.err) == 0)
		driver_until(d, is_done, &g);
	return g;
}

static const struct str two[] = {{"a", 1}, {"b", 1}};

static struct engine_params embed_two(void)
{
	return (struct engine_params){.task = ENGINE_EMBED, .inputs = two, .input_count = 2, .tenant = STR("t")};
}

/* ---- vLLM, as recorded ----------------------------------------------------------------------------- */

#define VLLM_MODELS \
	"{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\",\"created\":1795570369,\"owned_by\":" \
	"\"vllm\"," \
	"\"root\":\"/m\",\"parent\":null,\"max_model_len\":1024}]}"
#define VLLM_METRICS \
	"# HELP vllm:num_requests_running Number of requests in model execution batches.\n" \
	"# TYPE vllm:num_requests_running gauge\n" \
	"vllm:num_requests_running{engine=\"0\",model_name=\"m\"} 3.0\n" \
	"vllm:num_requests_running{engine=\"1\",model_name=\"m\"} 2.0\n" \
	"# TYPE vllm:num_requests_waiting gauge\n" \
	"vllm:num_requests_waiting{engine=\"0\",model_name=\"m\"} 7.0\n" \
	"vllm:num_requests_waiting_by_reason{engine=\"0\",model_name=\"m\",reason=\"capacity\"} 7.0\n" \
	"vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"m\"} 0.25\n" \
	"vllm:kv_cache_usage_perc{engine=\"1\",model_name=\"m\"} 0.5\n" \
	"vllm:cache_config_info{_block_size_resolved=\"True\",kv_cache_dtype_skip_layers=\"[]\",engine=\"0\"} 1.0\n"
#define HELLO_ANSWER \
	"{\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"{\"},\"logprobs\":{\"content\":" \
	"[{" \
	"\"token\":\"{\",\"logprob\":-1.5,\"top_logprobs\":[]}]},\"finish_reason\":\"length\"}]}"

static const struct reply vllm[] = {
    {.path = "/v1/models", .body = VLLM_MODELS},
    {.path = "/version", .body = "{\"version\":\"0.32.0\"}"},
    {.path = "/metrics", .body = VLLM_METRICS},
    {.path = "/v1/chat/completions",
     .asks = "\"tools\"",
     .status = 400,
     .body = "{\"error\":{\"message\":\"\\\"auto\\\" tool choice requires --enable-auto-tool-choice and "
             "--tool-call-parser to be set\",\"type\":\"BadRequestError\",\"param\":null,\"code\":400}}"},
    {.path = "/v1/chat/completions", .body = HELLO_ANSWER},
    {.path = "/tokenize",
     .body = "{\"count\":3,\"max_model_len\":1024,\"tokens\":[74,130,105],\"token_strs\":[\"h\",\"\xc3\x83\","
             "\"\xc2\xa9\"]}"},
    {.path = "/detokenize", .body = "{\"prompt\":\"de\"}"},
    {0},
};

static void test_vllm_is_known_and_tells_its_load(void **state)
{
	struct driver d;
	struct fake f;
	(void)state;

	begin(&d, &f, vllm);
	const struct engine_info *info = engine_info(d.engine);
	assert_string_equal(info->server, "vllm 0.32.0");
	assert_int_equal(info->context_tokens, 1024);
	assert_int_equal(info->embedding_size, 0);
	assert_false(info->rerank || info->no_logprobs || info->no_generation);
	assert_true(info->no_tools);
	struct engine_load load = engine_load(d.engine);
	assert_int_equal(load.running, 5);
	assert_int_equal(load.waiting, 7);
	assert_true(load.kv_usage == 0.5);
	assert_true(load.told_age_us > 0 && load.told_age_us < 5 * US_PER_S);
	/* Gently: not more often than once a second, though it is busy. */
	driver_turns(&d, 1500 * 1000);
	assert_in_range(f.metrics_asked, 1, 3);
	end(&d, &f);
}

static void test_vllm_tells_tokens_and_refuses_what_it_has_not(void **state)
{
	struct driver d;
	struct fake f;
	int32_t tokens[] = {70, 71};
	(void)state;

	begin(&d, &f, vllm);
	struct got g =
	    ask(&d, (struct engine_params){.task = ENGINE_TOKENIZE, .prompt = STR("h\xc3\xa9"), .pieces = true});
	assert_int_equal(g.err.code, 0);
	assert_int_equal(g.token_count, 3);
	assert_int_equal(g.tokens[1], 130);
	assert_int_equal(g.piece_count, 3);
	assert_string_equal(g.piece, "h");
	assert_non_null(strstr(f.body, "\"add_special_tokens\":true,\"return_token_strs\":true"));
	g = ask(&d,
	        (struct engine_params){.task = ENGINE_DETOKENIZE, .prompt_tokens = tokens, .prompt_token_count = 2});
	assert_string_equal(g.text, "de");
	assert_non_null(strstr(f.body, "\"tokens\":[70,71]"));
	g = ask(&d, embed_two());
	assert_int_equal(g.err.code, E_UNSUPPORTED);
	assert_non_null(strstr(g.err.text, "vllm 0.32.0 has no /v1/embeddings"));
	end(&d, &f);
}

static void test_tenants_do_not_share_prompts_on_vllm(void **state)
{
	struct driver d;
	struct fake f;
	struct engine_params p = completion("x", 1);
	char salts[4][80];
	(void)state;

	begin(&d, &f, vllm);
	for (int i = 0; i < 4; i++) {
		p.tenant = i == 1 ? STR("globex") : STR("acme");
		p.cache_salt = i == 2 ? STR("acme") : i == 3 ? STR("all") : (struct str){0};
		ask(&d, p);
		const char *at = strstr(f.body, "\"cache_salt\":\"");
		assert_non_null(at);
		assert_int_equal(sscanf(at, "\"cache_salt\":\"%64[0-9a-f]\"", salts[i]), 1);
		for (int j = 0; j < i; j++)
			assert_string_not_equal(salts[i], salts[j]); /* nor by a salt that is another's name */
	}
	p.tenant = STR("globex"); /* one salt is one, whoever sends it */
	ask(&d, p);
	assert_non_null(strstr(f.body, salts[3]));
	end(&d, &f);
}

/* ---- llama-server, as recorded -------------------------------------------------------------------- */

#define LLAMA_MODELS \
	"{\"object\":\"list\",\"data\":[{\"id\":\"tiny.gguf\",\"object\":\"model\",\"owned_by\":\"llamacpp\"," \
	"\"meta\":{" \
	"\"vocab_type\":2,\"n_vocab\":4096,\"n_ctx\":2048,\"n_ctx_train\":4096,\"n_embd\":64}}]}"
#define NOT_SUPPORTED(words) "{\"error\":{\"code\":501,\"message\":\"" words "\",\"type\":\"not_supported_error\"}}"

static const struct reply llama[] = {
    {.path = "/v1/models", .body = LLAMA_MODELS},
    {.path = "/props",
     .body = "{\"default_generation_settings\":{\"n_ctx\":1024},\"total_slots\":2,\"build_info\":\"b1-de3ff81\"}"},
    {.path = "/metrics",
     .body = "llamacpp:prompt_tokens_total 0\nllamacpp:requests_processing 2\nllamacpp:requests_deferred 1\n"},
    {.path = "/v1/embeddings",
     .asks = "\"a\",\"b\"",
     .body = "{\"object\":\"list\",\"usage\":{\"prompt_tokens\":9},"
             "\"data\":[{\"index\":1,\"embedding\":[0,1]},{\"index\":0,"
             "\"embedding\":[1,0]}]}"},
    {.path = "/v1/embeddings", .body = "{\"data\":[{\"index\":0,\"embedding\":[1,0]}]}"},
    {.path = "/v1/rerank",
     .status = 501,
     .body = NOT_SUPPORTED("This server does not support reranking. Start it with `--reranking`")},
    {.path = "/v1/chat/completions", .status = 501, .body = NOT_SUPPORTED("This server does not support chat")},
    {.path = "/tokenize", .body = "{\"tokens\":[{\"id\":5,\"piece\":\"th\"},{\"id\":6,\"piece\":[195]}]}"},
    {.path = "/detokenize", .body = "{\"content\":\"the\"}"},
    {0},
};

static void test_llama_server_embeds(void **state)
{
	struct driver d;
	struct fake f;
	int32_t tokens[] = {5, 6, 7}, lengths[] = {2, 1};
	(void)state;

	begin(&d, &f, llama);
	const struct engine_info *info = engine_info(d.engine);
	assert_string_equal(info->server, "llama-server b1-de3ff81");
	assert_int_equal(info->context_tokens, 1024); /* of a slot */
	assert_int_equal(info->embedding_size, 2);
	assert_true(info->no_generation && !info->chat && !info->rerank);
	assert_int_equal(engine_load(d.engine).running, 2);
	assert_int_equal(engine_load(d.engine).waiting, 1);
	struct got g = ask(&d, embed_two());
	assert_int_equal(g.err.code, 0);
	assert_int_equal(g.size, 2);
	assert_int_equal(g.prompt_tokens, 9);
	assert_true(g.vectors[0] == 1 && g.vectors[3] == 1); /* by index, not by order */
	g = ask(&d, (struct engine_params){.task = ENGINE_EMBED,
	                                   .prompt_tokens = tokens,
	                                   .prompt_token_count = 3,
	                                   .input_lengths = lengths,
	                                   .input_count = 2,
	                                   .dimensions = 2});
	assert_non_null(strstr(f.body, "{\"model\":\"tiny.gguf\",")); /* the only one there */
	assert_non_null(strstr(f.body, "\"dimensions\":2,\"input\":[[5,6],[7]]"));
	g = ask(&d, (struct engine_params){
			.task = ENGINE_TOKENIZE, .prompt = STR("the"), .plain_tokens = true, .pieces = true});
	assert_non_null(strstr(f.body, "\"content\":\"the\",\"add_special\":false,\"with_pieces\":true"));
	assert_int_equal(g.tokens[1], 6);
	assert_string_equal(g.piece, "th");
	g = ask(&d,
	        (struct engine_params){.task = ENGINE_DETOKENIZE, .prompt_tokens = tokens, .prompt_token_count = 1});
	assert_string_equal(g.text, "the");
	g = ask(&d, (struct engine_params){.task = ENGINE_TOKENIZE, .messages_json = STR("[]")});
	assert_int_equal(g.err.code, E_UNSUPPORTED);
	g = ask(&d, (struct engine_params){.task = ENGINE_RERANK, .prompt = STR("q"), .inputs = two, .input_count = 2});
	assert_int_equal(g.err.code, E_UNSUPPORTED);
	assert_non_null(strstr(g.err.text, "--reranking"));
	end(&d, &f);
}

/* ---- the others, by their pages ----------------------------------------------------------------------- */

static const struct reply sglang[] = {
    {.path = "/v1/models", .body = "{\"data\":[{\"id\":\"m\",\"owned_by\":\"sglang\",\"max_model_len\":32768}]}"},
    {.path = "/get_server_info", .body = "{\"version\":\"0.5.9\",\"tp_size\":2}"},
    {.path = "/metrics",
     .body = "# TYPE sglang:token_usage gauge\n"
             "sglang:token_usage{engine_type=\"unified\",model_name=\"m\",tp_rank=\"0\"} 0.28\n"
             "sglang:num_running_reqs{engine_type=\"unified\",model_name=\"m\",tp_rank=\"0\"} 4.0\n"
             "sglang:num_running_reqs{engine_type=\"unified\",model_name=\"m\",tp_rank=\"1\"} 4.0\n"
             "sglang:num_queue_reqs{engine_type=\"unified\",model_name=\"m\",tp_rank=\"0\"} 2.0\n"},
    {.path = "/v1/chat/completions", .body = "{\"choices\":[{\"message\":{\"content\":\"x\"},\"logprobs\":null}]}"},
    {.path = "/v1/rerank", .asks = "\"a\",\"b\"", .body = "[{\"score\":0.75,\"index\":1},{\"score\":0.5,\"index\":0}]"},
    {0},
};
static const struct reply tensorrt[] = {
    {.path = "/v1/models", .body = "{\"data\":[{\"id\":\"m\",\"owned_by\":\"tensorrt_llm\"}]}"},
    {.path = "/version", .body = "{\"version\":\"1.2.0\"}"},
    {.path = "/prometheus/metrics",
     .body = "trtllm_kv_cache_utilization{engine_type=\"pytorch\",model_name=\"m\"} 0.5\n"
             "trtllm_num_requests_waiting{engine_type=\"pytorch\",model_name=\"m\"} 3.0\n"},
    {0},
};
static const struct reply ollama[] = {
    {.path = "/v1/models", .body = "{\"data\":[{\"id\":\"m\",\"owned_by\":\"someone\"}]}"},
    {.path = "/api/version", .body = "{\"version\":\"0.12.3\"}"},
    {0},
};
static const struct reply unknown[] = {
    {.path = "/v1/models", .body = "{\"data\":[{\"id\":\"m\"}]}"},
    {0},
};

static void test_other_servers_are_known(void **state)
{
	struct driver d;
	struct fake f;
	(void)state;

	begin(&d, &f, sglang);
	assert_string_equal(engine_info(d.engine)->server, "sglang 0.5.9");
	assert_int_equal(engine_info(d.engine)->context_tokens, 32768);
	assert_true(engine_info(d.engine)->no_logprobs && !engine_info(d.engine)->no_tools);
	struct engine_load load = engine_load(d.engine);
	assert_int_equal(load.running, 4); /* each rank tells the same */
	assert_int_equal(load.waiting, 2);
	assert_true(fabs(load.kv_usage - 0.28) < 1e-9);
	struct got g =
	    ask(&d, (struct engine_params){.task = ENGINE_RERANK, .prompt = STR("q"), .inputs = two, .input_count = 2});
	assert_true(g.count == 2 && g.vectors[0] == 0.5f && g.vectors[1] == 0.75f);
	end(&d, &f);

	begin(&d, &f, tensorrt);
	assert_string_equal(engine_info(d.engine)->server, "tensorrt-llm 1.2.0");
	load = engine_load(d.engine);
	assert_true(load.kv_usage == 0.5 && load.waiting == 3);
	end(&d, &f);

	begin(&d, &f, ollama);
	assert_string_equal(engine_info(d.engine)->server, "ollama 0.12.3");
	assert_int_equal(f.metrics_asked, 0); /* it has none */
	g = ask(&d, (struct engine_params){.task = ENGINE_TOKENIZE, .prompt = STR("x")});
	assert_int_equal(g.err.code, E_UNSUPPORTED);
	assert_int_equal(engine_load(d.engine).told_age_us, 0);
	end(&d, &f);

	begin(&d, &f, unknown);
	assert_string_equal(engine_info(d.engine)->server, "");
	assert_int_equal(engine_load(d.engine).told_age_us, 0);
	end(&d, &f);
}

static void test_answers_bring_the_load_along(void **state)
{
	static const struct reply replies[] = {
	    {.path = "/v1/models", .body = VLLM_MODELS},
	    {.path = "/v1/embeddings",
	     .asks = "\"a\",\"b\"",
	     .orca = "TEXT named_metrics.num_requests_waiting=9.0, named_metrics.kv_cache_usage_perc=0.75",
	     .body = "{\"data\":[{\"embedding\":\"AACAPwAAAAA=\"},{\"embedding\":\"AAAAAAAAgD8=\"}]}"},
	    {0},
	};
	struct driver d;
	struct fake f;
	struct remote_told told;
	(void)state;

	begin(&d, &f, replies);
	assert_int_equal(engine_load(d.engine).told_age_us, 0);
	struct got g = ask(&d, embed_two());
	assert_true(g.size == 2 && g.vectors[0] == 1 && g.vectors[1] == 0 &&
	            g.vectors[3] == 1); /* base64 is fine, too */
	struct engine_load load = engine_load(d.engine);
	assert_int_equal(load.waiting, 9);
	assert_true(load.kv_usage == 0.75 && load.told_age_us > 0);
	end(&d, &f);

	assert_true(remote_orca_parse(
	    STR("JSON {\"named_metrics\":{\"kv_cache_usage_perc\":0.5,\"num_requests_running\":3,\"other\":1}}"),
	    &told));
	assert_true(told.has_running && told.running == 3 && told.kv_usage == 0.5 && !told.has_waiting);
	assert_false(remote_orca_parse(STR("JSON {"), &told));
	assert_false(
	    remote_orca_parse(STR("TEXT cpu_utilization=0.3, x=, =, named_metrics.num_requests_waiting=nan"), &told));
}

static void test_wrong_answers_are_refused(void **state)
{
	static const char *const wrong[] = {
	    "{",
	    "[]",
	    "{\"data\":[]}",
	    "{\"data\":[{\"index\":0,\"embedding\":[1,2]}]}",
	    "{\"data\":[{\"index\":0,\"embedding\":[1,2]},{\"index\":0,\"embedding\":[1,2]}]}",
	    "{\"data\":[{\"index\":0,\"embedding\":[1,2]},{\"index\":2,\"embedding\":[1,2]}]}",
	    "{\"data\":[{\"index\":0,\"embedding\":[1,2]},{\"index\":1,\"embedding\":[1]}]}",
	    "{\"data\":[{\"index\":0,\"embedding\":[1,null]},{\"index\":1,\"embedding\":[1,2]}]}",
	    "{\"data\":[{\"index\":0,\"embedding\":[1,1e999]},{\"index\":1,\"embedding\":[1,2]}]}",
	    "{\"data\":[{\"index\":0,\"embedding\":[]},{\"index\":1,\"embedding\":[]}]}",
	    "{\"data\":[{\"index\":0,\"embedding\":\"AAAA\"},{\"index\":1,\"embedding\":\"AAAA\"}]}",
	    "{\"data\":[{\"index\":0,\"embedding\":\"AACAf!!!!==\"},{\"index\":1,\"embedding\":\"AACAf!!!!==\"}]}",
	};
	struct driver d;
	struct fake f;
	(void)state;

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		const struct reply replies[] = {
		    {.path = "/v1/models", .body = VLLM_MODELS}, {.path = "/v1/embeddings", .body = wrong[i]}, {0}};
		begin(&d, &f, replies);
		struct got g = ask(&d, embed_two());
		if (g.err.code != E_PEER)
			fail_msg("%s gives %d", wrong[i], g.err.code);
		end(&d, &f);
	}
}

static void test_cancel_closes_what_is_no_stream(void **state)
{
	struct driver d;
	struct fake f;
	struct engine_request *request;
	struct engine_params p = embed_two();
	struct error err = {0};
	struct got g = {0};
	(void)state;

	begin(&d, &f, vllm);
	f.waits = 1;
	assert_int_equal(engine_submit(d.engine, &p, on_event, &g, &request, &err), 0);
	driver_turns(&d, 50 * 1000);
	assert_non_null(f.waiting);
	engine_cancel(request);
	driver_turns(&d, 50 * 1000);
	assert_null(f.waiting); /* the server has learned of it */
	assert_int_equal(g.done, 0);
	assert_int_equal(engine_load(d.engine).told_age_us > 0, 1);
	end(&d, &f);
}

static void test_errors_have_our_codes(void **state)
{
	static const struct {
		int status;
		const char *body;
		int code;
	} cases[] = {
	    {400,
	     "{\"error\":{\"message\":\"This model's maximum context length is 1024 tokens. However, your prompt "
	     "contains at "
	     "least 1025 input tokens\",\"type\":\"BadRequestError\",\"param\":\"input_tokens\",\"code\":400}}",
	     E_LIMIT}, /* vLLM, recorded */
	    {400,
	     "{\"error\":{\"code\":400,\"message\":\"request (6000 tokens) exceeds the available context size (1024 "
	     "tokens), "
	     "try increasing it\",\"type\":\"exceed_context_size_error\",\"n_prompt_tokens\":6000,\"n_ctx\":1024}}",
	     E_LIMIT}, /* llama-server, recorded */
	    {500,
	     "{\"error\":{\"code\":500,\"message\":\"input is too large to process. increase the physical batch "
	     "size\"}}",
	     E_LIMIT},
	    {400,
	     "{\"object\":\"error\",\"message\":\"The input (5000 tokens) is longer than the model's context length "
	     "(4096 tokens).\"}",
	     E_LIMIT}, /* SGLang */
	    {404,
	     "{\"error\":{\"message\":\"The model `nope` does not exist.\",\"type\":\"NotFoundError\",\"code\":404}}",
	     E_NOTFOUND}, /* vLLM, recorded */
	    {501, NOT_SUPPORTED("This server does not support embeddings. Start it with `--embeddings`"),
	     E_UNSUPPORTED},
	    {429, "", E_BUSY},
	    {529, "{\"error\":{\"message\":\"overloaded\"}}", E_BUSY},
	    {503, "{\"error\":\"server busy, please try again.  maximum pending requests exceeded\"}",
	     E_BUSY}, /* Ollama */
	    {503, "{\"error\":{\"message\":\"Loading model\",\"code\":503}}", E_UNAVAILABLE},
	};
	struct error err;
	(void)state;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (remote_error(cases[i].status, str_from(cases[i].body), &err) != cases[i].code)
			fail_msg("%d %s gives %d", cases[i].status, cases[i].body, err.code);
}

static void test_odd_metrics_are_survived(void **state)
{
	struct remote_told told;
	(void)state;

	assert_false(remote_metrics_parse(STR(""), STR("m"), &told));
	assert_false(remote_metrics_parse(STR("vllm:num_requests_running{model_name=\"m\" 3\n{\n}\n=\"\n vllm:\n"),
	                                  STR("m"), &told));
	assert_false(remote_metrics_parse(STR("vllm:num_requests_running -1\nvllm:num_requests_waiting NaN\n"),
	                                  STR("m"), &told));
	assert_true(remote_metrics_parse(
	    STR("vllm:num_requests_running{a=\"x\\\"},{\",model_name=\"other\"} 1e99 1234\r\n"), STR("m"), &told));
	assert_true(told.running == 1e6); /* no other sample names the model */
	assert_true(remote_metrics_parse(
	    STR("vllm:num_requests_running{model_name=\"o\"} 5\nvllm:num_requests_running{model_name=\"m\"} 2"),
	    STR("m"), &told));
	assert_true(told.running == 2);
	assert_true(remote_metrics_parse(STR("vllm:kv_cache_usage_perc 17"), STR("m"), &told));
	assert_true(told.kv_usage == 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_vllm_is_known_and_tells_its_load),
	    cmocka_unit_test(test_vllm_tells_tokens_and_refuses_what_it_has_not),
	    cmocka_unit_test(test_tenants_do_not_share_prompts_on_vllm),
	    cmocka_unit_test(test_llama_server_embeds),
	    cmocka_unit_test(test_other_servers_are_known),
	    cmocka_unit_test(test_answers_bring_the_load_along),
	    cmocka_unit_test(test_wrong_answers_are_refused),
	    cmocka_unit_test(test_cancel_closes_what_is_no_stream),
	    cmocka_unit_test(test_errors_have_our_codes),
	    cmocka_unit_test(test_odd_metrics_are_survived),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
