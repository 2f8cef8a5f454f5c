/* SPDX-License-Identifier: Apache-2.0 */
/* remote_probe.c - is the server there, what is it, what can it do, how loaded is it.
 *
 * GET /v1/models every 5 s: the first good answer leads to READY, PROBES_LOST bad ones in a row to FAILED; it goes on
 * with a longer pause, and a good answer leads to READY again. Before READY one more question names the kind and its
 * version: "owned_by" of the model says whose words to ask with. After READY each ability is tried once with the
 * smallest request there is: nothing else tells reliably. Those carry the request id "mdn-probe".
 *
 * Metrics are asked for every second while something runs there, every 5 s otherwise, and not at all while answers
 * bring the ORCA header. A server without them is asked again each minute.
 */
#include "engine/remote_private.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/limits.h"
#include "engine/remote_chunk.h"

#include <stdio.h>
#include <stdlib.h>

enum {
	PROBE_LEAST_MS = 500,
	PROBE_MOST_MS = 30 * 1000,
	PROBE_READY_MS = 5 * 1000,
	PROBES_LOST = 3,
	MODELS_MAX = 1 << 20,
	METRICS_MAX = 4 << 20,
	LOAD_BUSY_MS = 1000,
	LOAD_IDLE_MS = 5000,
	LOAD_UNSUPPORTED_MS = 60 * 1000,
};

static const struct kind {
	const char *name, *owner;
	const char *path, *key; /* where it tells its version, and as what */
	const char *metrics;
} kinds[SERVER_KINDS] = {
    [SERVER_UNKNOWN] = {"", "", "/api/version", "version", "/metrics"}, /* Ollama's models are owned by anybody */
    [SERVER_VLLM] = {"vllm", "vllm", "/version", "version", "/metrics"},
    [SERVER_SGLANG] = {"sglang", "sglang", "/get_server_info", "version", "/metrics"},
    [SERVER_LLAMA] = {"llama-server", "llamacpp", "/props", "build_info", "/metrics"},
    [SERVER_TENSORRT] = {"tensorrt-llm", "tensorrt_llm", "/version", "version", "/prometheus/metrics"},
    [SERVER_OLLAMA] = {"ollama", "library", "/api/version", "version", NULL},
    [SERVER_MDN] = {"mdn", "mdn", NULL, NULL, "/metrics"},
};

/* One call of the probe's: GET, or POST of a body. */
static struct http_call *probe_call(struct remote *e, const char *path, struct str body, int64_t timeout_us,
                                    size_t size_max, http_fetch_done *done)
{
	struct http_header headers[REMOTE_HEADERS_MAX];
	char url[REMOTE_URL_MAX], bearer[REMOTE_URL_MAX];

	snprintf(url, sizeof(url), "%s%s", e->url, path);
	struct http_call_options options = {
	    .method = body.len ? STR("POST") : STR("GET"),
	    .url = str_from(url),
	    .headers = headers,
	    .body = body,
	    .head_timeout_us = timeout_us,
	};
	options.header_count = remote_headers(e, headers, bearer, sizeof(bearer));
	headers[options.header_count++] = (struct http_header){STR("x-request-id"), STR("mdn-probe")};
	if (body.len)
		headers[options.header_count++] = (struct http_header){STR("content-type"), STR("application/json")};
	return http_fetch(e->client, &options, size_max, done, e);
}

/* ---- what can it do ---------------------------------------------------------------------------- */

#define HELLO "\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],\"max_tokens\":1"

static void judge_embed(struct remote *e, int status, yyjson_val *root)
{
	yyjson_val *first = yyjson_arr_get_first(yyjson_obj_get(root, "data"));
	size_t size = yyjson_arr_size(yyjson_obj_get(first, "embedding"));

	e->base.info.embedding_size = status == 200 && size <= INT32_MAX ? (int32_t)size : 0;
}

static void judge_rerank(struct remote *e, int status, yyjson_val *root)
{
	e->base.info.rerank = status == 200 && yyjson_arr_size(yyjson_obj_get(root, "results")) == 1;
}

static bool refused(int status)
{
	return status == 400 || status == 404 || status == 405 || status == 422 || status == 500 || status == 501;
}

static void judge_chat(struct remote *e, int status, yyjson_val *root)
{
	yyjson_val *choice = yyjson_arr_get_first(yyjson_obj_get(root, "choices"));

	if (status == 200) {
		e->base.info.chat = true;
		e->base.info.no_logprobs =
		    yyjson_arr_size(yyjson_obj_get(yyjson_obj_get(choice, "logprobs"), "content")) == 0;
	} else if (refused(status) && (e->base.info.embedding_size || e->base.info.rerank)) {
		e->base.info.no_generation = true;
		e->base.info.chat = false;
	}
}

static void judge_tools(struct remote *e, int status, yyjson_val *root)
{
	(void)root;
	e->base.info.no_tools = !e->base.info.no_generation && refused(status);
}

static const struct ability {
	const char *path, *body; /* behind the model's name */
	void (*judge)(struct remote *e, int status, yyjson_val *root);
} abilities[] = {
    {"/v1/embeddings", "\"input\":\"a\"", judge_embed},
    {"/v1/rerank", "\"query\":\"a\",\"documents\":[\"b\"]", judge_rerank},
    {"/v1/chat/completions", HELLO ",\"logprobs\":true,\"top_logprobs\":1", judge_chat},
    {"/v1/chat/completions",
     HELLO ",\"tool_choice\":\"auto\",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":"
           "\"Does nothing.\",\"parameters\":{\"type\":\"object\",\"properties\":{}}}}]",
     judge_tools},
};

static void ability_next(struct remote *e);

static void ability_done(void *arg, int status, struct str body, const struct error *err)
{
	struct remote *e = arg;
	yyjson_doc *doc = NULL;

	e->probe.ability_call = NULL;
	if (!err) {
		json_parse(body, &doc, NULL);
		abilities[e->probe.ability].judge(e, status, yyjson_doc_get_root(doc));
		yyjson_doc_free(doc);
	}
	e->probe.ability++;
	ability_next(e);
}

static void ability_next(struct remote *e)
{
	struct buf body = {0};

	if (e->probe.ability == sizeof(abilities) / sizeof(abilities[0]) || e->base.state != ENGINE_READY ||
	    e->probe.ability_call)
		return;
	const struct ability *ability = &abilities[e->probe.ability];
	buf_append_str(&body, STR("{\"model\":"));
	buf_append_json(&body, str_from(e->model));
	buf_printf(&body, ",%s}", ability->body);
	e->probe.ability_call = probe_call(e, ability->path, buf_str(&body), 30 * US_PER_S, MODELS_MAX, ability_done);
	buf_fini(&body);
}

/* ---- how loaded is it -------------------------------------------------------------------------- */

static void load_again(struct remote *e)
{
	bool busy = e->base.running + e->base.waiting > 0 || e->told.running + e->told.waiting > 0;
	int64_t ms = e->probe.load_unsupported ? LOAD_UNSUPPORTED_MS : busy ? LOAD_BUSY_MS : LOAD_IDLE_MS;

	loop_timer_start(e->probe.load_timer, ms * US_PER_MS, 0);
}

static void load_done(void *arg, int status, struct str body, const struct error *err)
{
	struct remote *e = arg;
	struct remote_told told;

	e->probe.load_call = NULL;
	bool good = !err && status == 200 && remote_metrics_parse(body, str_from(e->model), &told);
	if (good)
		remote_hears(e, &told);
	e->probe.load_unsupported = !err && !good && status != 503; /* 503: it loads */
	load_again(e);
}

static void load_start(void *arg)
{
	struct remote *e = arg;
	const char *path = kinds[e->probe.kind].metrics;

	if (!path || e->probe.load_call || e->base.state != ENGINE_READY)
		return;
	if (e->told_us && loop_now_us(e->base.loop) - e->told_us < LOAD_BUSY_MS * US_PER_MS / 2)
		load_again(e); /* an answer has just brought it along */
	else
		e->probe.load_call = probe_call(e, path, (struct str){0}, 5 * US_PER_S, METRICS_MAX, load_done);
}

/* ---- what is it -------------------------------------------------------------------------------- */

static void probe_ready(struct remote *e)
{
	bool news = e->base.state != ENGINE_READY;

	e->probe.lost = 0;
	e->probe.pause_ms = PROBE_READY_MS;
	loop_timer_start(e->probe.timer, PROBE_READY_MS * US_PER_MS, 0);
	if (news) {
		engine_tell_state(&e->base, ENGINE_READY, NULL);
		e->probe.ability = 0; /* another server may stand there now */
		ability_next(e);
		e->probe.load_unsupported = false;
		load_start(e);
	}
	remote_serve(e);
}

static void identify_text(struct remote *e, struct str version)
{
	char *to = e->base.info.server;
	size_t room = sizeof(e->base.info.server), at = (size_t)snprintf(to, room, "%s", kinds[e->probe.kind].name);

	if (version.len)
		to[at++] = ' ';
	for (size_t i = 0; i < version.len && at < room - 1; i++)
		to[at++] = version.base[i] > ' ' && version.base[i] < 0x7f ? version.base[i] : '?';
	to[at] = '\0';
}

static void identified(void *arg, int status, struct str body, const struct error *err)
{
	struct remote *e = arg;
	const struct kind *kind = &kinds[e->probe.kind];
	yyjson_doc *doc = NULL;
	struct str version = {0};
	int64_t context = 0;

	e->probe.call = NULL;
	if (!err && status == 200 && json_parse(body, &doc, NULL) == 0) {
		yyjson_val *root = yyjson_doc_get_root(doc);
		json_str(root, kind->key, &version, NULL);
		/* Of a slot: what the model's entry tells is all of them together. */
		if (e->probe.kind == SERVER_LLAMA)
			json_i64(yyjson_obj_get(root, "default_generation_settings"), "n_ctx", 1, INT32_MAX, &context,
			         NULL);
	}
	if (context)
		e->base.info.context_tokens = (int32_t)context;
	if (e->probe.kind == SERVER_UNKNOWN && version.len)
		e->probe.kind = SERVER_OLLAMA;
	identify_text(e, version);
	e->probe.identified = true;
	yyjson_doc_free(doc);
	probe_ready(e);
}

static void identify(struct remote *e)
{
	const char *path = kinds[e->probe.kind].path;

	if (path) {
		e->probe.call = probe_call(e, path, (struct str){0}, 5 * US_PER_S, MODELS_MAX, identified);
		return;
	}
	identify_text(e, (struct str){0});
	e->probe.identified = true;
	probe_ready(e);
}

/* ---- is it there ------------------------------------------------------------------------------- */

static void probe_bad(struct remote *e, const struct error *err)
{
	int64_t pause = e->probe.pause_ms ? 2 * e->probe.pause_ms : PROBE_LEAST_MS;

	if (e->base.state == ENGINE_READY)
		pause = PROBE_LEAST_MS;
	e->probe.pause_ms = pause < PROBE_MOST_MS ? pause : PROBE_MOST_MS;
	loop_timer_start(e->probe.timer, e->probe.pause_ms * US_PER_MS, 0);
	if (++e->probe.lost < PROBES_LOST || e->base.state == ENGINE_FAILED)
		return;
	e->probe.identified = false;
	e->told_us = 0;
	e->told = (struct remote_told){0};
	engine_tell_state(&e->base, ENGINE_FAILED, err);
	remote_fail_queue(e, &e->base.state_err);
}

static enum server_kind kind_by_owner(yyjson_val *owner)
{
	for (int i = SERVER_UNKNOWN + 1; i < SERVER_KINDS; i++)
		if (yyjson_equals_str(owner, kinds[i].owner))
			return (enum server_kind)i;
	return SERVER_UNKNOWN;
}

/* Which of the server's models is ours: by its name, by its name without the tag, or because there is no other. */
static yyjson_val *model_choose(const struct remote *e, yyjson_val *data)
{
	struct str name = str_from(e->model), tag, bare = str_cut(name, ':', &tag);
	yyjson_val *item, *by_bare = NULL;
	size_t i, n;

	yyjson_arr_foreach(data, i, n, item)
	{
		yyjson_val *id = yyjson_obj_get(item, "id");
		if (yyjson_equals_strn(id, name.base, name.len))
			return item;
		if (yyjson_equals_strn(id, bare.base, bare.len) && str_equal(tag, STR("latest")))
			by_bare = item;
	}
	return by_bare ? by_bare : yyjson_arr_size(data) == 1 ? yyjson_arr_get_first(data) : NULL;
}

/* vLLM, SGLang and we tell max_model_len, llama-server meta.n_ctx. */
static void probe_learn(struct remote *e, struct str body)
{
	yyjson_doc *doc;
	int64_t context = 0;
	struct str id = {0};

	if (json_parse(body, &doc, NULL) < 0)
		return;
	yyjson_val *data = yyjson_obj_get(yyjson_doc_get_root(doc), "data"), *ours = model_choose(e, data);
	json_i64(ours, "max_model_len", 1, INT32_MAX, &context, NULL);
	json_i64(yyjson_obj_get(ours, "meta"), "n_ctx", 1, INT32_MAX, &context, NULL);
	json_str(ours, "id", &id, NULL);
	e->probe.kind = kind_by_owner(yyjson_obj_get(ours ? ours : yyjson_arr_get_first(data), "owned_by"));
	if (id.len && id.len <= LIMIT_NAME * 4 && !e->model_given) {
		free(e->model);
		e->model = str_dup(id);
	}
	yyjson_doc_free(doc);
	if (context)
		e->base.info.context_tokens = (int32_t)context;
}

static void probe_done(void *arg, int status, struct str body, const struct error *err)
{
	struct remote *e = arg;
	struct error words = {0};

	e->probe.call = NULL;
	if (!err && status == 200) {
		if (e->probe.identified) {
			probe_ready(e);
		} else {
			if (!e->probe.asks_health)
				probe_learn(e, body);
			identify(e);
		}
		return;
	}
	if (!err && status == 404 && !e->probe.asks_health) {
		e->probe.asks_health = true;
		loop_timer_start(e->probe.timer, US_PER_MS, 0);
		return;
	}
	if (err)
		error_set(&words, E_UNAVAILABLE, "%s does not answer: %s", e->url, err->text);
	else
		remote_error(status, body, &words);
	probe_bad(e, &words);
}

static void probe_timer(void *arg)
{
	probe_start(arg);
}

void probe_start(struct remote *e)
{
	if (!e->probe.call)
		e->probe.call = probe_call(e, e->probe.asks_health ? "/health" : "/v1/models", (struct str){0},
		                           5 * US_PER_S, MODELS_MAX, probe_done);
}

void probe_init(struct remote *e)
{
	e->probe.timer = loop_timer_new(e->base.loop, probe_timer, e);
	e->probe.load_timer = loop_timer_new(e->base.loop, load_start, e);
	probe_start(e);
}

void probe_fini(struct remote *e)
{
	struct http_call *calls[] = {e->probe.call, e->probe.load_call, e->probe.ability_call};

	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		if (calls[i])
			http_call_cancel(calls[i]);
	loop_timer_free(e->probe.timer);
	loop_timer_free(e->probe.load_timer);
}
