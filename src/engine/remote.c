/* SPDX-License-Identifier: Apache-2.0 */
/* remote.c - an engine that is somebody else's OpenAI server: vLLM, SGLang, llama-server, or another of ours.
 *
 * At most `slots` calls are open, the others wait here, by priority. Every call streams. A probe asks for
 * /v1/models: the first good answer means READY, PROBES_LOST bad ones in a row FAILED; it goes on with a longer pause,
 * and a good answer means READY again. Cancel closes the connection, which is how such servers learn of it. What the
 * remote tells about itself is little, so load is counted here: calls, time to first token, token rate.
 */
#include "engine/engine_ops.h"
#include "engine/remote_chunk.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/limits.h"
#include "net/http.h"
#include "net/sse.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum {
	PROBE_LEAST_MS = 500,
	PROBE_MOST_MS = 30 * 1000,
	PROBE_READY_MS = 5 * 1000,
	PROBES_LOST = 3,
	EVENT_MAX = 1 << 20,   /* bytes of one event */
	ERROR_MAX = 64 * 1024, /* bytes of an error body */
	MODELS_MAX = 1 << 20,
	SLOTS_MAX = 4096,
	TRIES_MAX = 3,
	IDLE_US = 3 * US_PER_S, /* some servers close idle connections after 5 s, and say so too late */
};

struct remote {
	struct engine base;
	char *url, *key, *model; /* url without "/v1" and slashes at the end */
	struct tls_context *tls;
	struct http_client *client;
	struct loop_timer *timer;
	struct http_call *probe;
	bool asks_health; /* the server has no /v1/models */
	int lost;         /* probes, in a row */
	int64_t pause_ms;
	struct remote_request *queue; /* sorted */
	int32_t open;
	double prefill_rate, itl_us;
};

struct remote_request {
	struct engine_request base;
	struct engine_copy copy;
	struct remote_request *queue_next;
	struct http_call *call; /* NULL: waiting */
	struct sse_parser parser;
	struct buf error_body;
	int status, tries;
	int32_t prompt_tokens, cached_tokens, completion_tokens, pieces;
	int64_t sent_us, first_us;
	bool finished, last; /* finish_reason came; [DONE] came */
	enum engine_finish finish;
	struct error err;
};

static void remote_serve(struct remote *e);
static void remote_end(struct remote_request *r, bool unsent);
static void remote_send(struct remote *e, struct remote_request *r);

/* ---- making ------------------------------------------------------------------------------------ */

static int remote_tls(struct remote *e, struct error *err)
{
	static const char *bundles[] = {"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"};
	struct buf pem = {.max = 8 << 20};
	char piece[8192];
	size_t n;

	for (size_t i = 0; i < 2 && !pem.len; i++) {
		FILE *file = fopen(bundles[i], "rb");
		while (file && (n = fread(piece, 1, sizeof(piece), file)) > 0)
			buf_append(&pem, piece, n);
		if (file)
			fclose(file);
	}
	if (!pem.len)
		return error_set(err, E_UNAVAILABLE,
		                 "https:// needs the system's CA certificates: install ca-certificates");
	struct tls_options options = {.ca_pem = buf_str(&pem), .peer = TLS_PEER_NONE, .any_version = true};
	int rc = tls_context_new(&options, &e->tls, err);
	buf_fini(&pem);
	return rc;
}

int engine_remote_new(const struct engine_options *options, struct engine **ret_engine, struct error *err)
{
	struct str url = options->remote_url;
	bool tls = str_starts(url, STR("https://"));

	if (!tls && !str_starts(url, STR("http://")))
		return error_set(err, E_INVAL, "remote_url \"" STR_FMT "\" is not a URL like http://127.0.0.1:8081",
		                 STR_ARG(url));
	while (str_ends(url, STR("/")))
		url.len--;
	if (str_ends(url, STR("/v1")))
		url.len -= 3;
	struct remote *e = NEW(struct remote);
	int rc = tls ? remote_tls(e, err) : 0;
	if (rc < 0) {
		free(e);
		return rc;
	}
	e->base.ops = &engine_remote_ops;
	e->url = str_dup(url);
	e->key = str_dup(options->remote_key);
	e->model = str_dup(options->remote_model.len ? options->remote_model : options->model_name);
	int32_t slots = options->slots > 0 ? options->slots : 64;
	e->base.info = (struct engine_info){
	    .architecture = "remote",
	    .context_tokens = options->context_tokens,
	    .slots = slots < SLOTS_MAX ? slots : SLOTS_MAX,
	    .chat = true,
	};
	*ret_engine = &e->base;
	return 0;
}

/* ---- the probe --------------------------------------------------------------------------------- */

static void probe_again(struct remote *e, int64_t ms)
{
	e->pause_ms = ms;
	loop_timer_start(e->timer, ms * US_PER_MS, 0);
}

static void remote_fail_queue(struct remote *e, const struct error *err)
{
	while (e->queue && e->base.state == ENGINE_FAILED) {
		struct remote_request *r = e->queue;
		e->queue = r->queue_next;
		engine_finish(&r->base, FINISH_ERROR, err, 0, 0, 0);
	}
}

static void probe_bad(struct remote *e, const struct error *err)
{
	int64_t pause = e->pause_ms ? 2 * e->pause_ms : PROBE_LEAST_MS;

	if (e->base.state == ENGINE_READY)
		pause = PROBE_LEAST_MS;
	probe_again(e, pause < PROBE_MOST_MS ? pause : PROBE_MOST_MS);
	if (++e->lost < PROBES_LOST || e->base.state == ENGINE_FAILED)
		return;
	engine_tell_state(&e->base, ENGINE_FAILED, err);
	remote_fail_queue(e, &e->base.state_err);
}

/* vLLM tells max_model_len, llama-server meta.n_ctx. */
static void probe_learn(struct remote *e, struct str body)
{
	yyjson_doc *doc;
	yyjson_val *item;
	size_t i, n;
	int64_t context = 0;

	if (e->base.info.context_tokens > 0 || json_parse(body, &doc, NULL) < 0)
		return;
	yyjson_val *data = yyjson_obj_get(yyjson_doc_get_root(doc), "data");
	yyjson_arr_foreach(data, i, n, item)
	{
		yyjson_val *id = yyjson_obj_get(item, "id");
		if (n > 1 && !yyjson_equals_str(id, e->model))
			continue;
		json_i64(item, "max_model_len", 1, INT32_MAX, &context, NULL);
		json_i64(yyjson_obj_get(item, "meta"), "n_ctx", 1, INT32_MAX, &context, NULL);
	}
	yyjson_doc_free(doc);
	e->base.info.context_tokens = (int32_t)context;
}

static void probe_done(void *arg, int status, struct str body, const struct error *err)
{
	struct remote *e = arg;
	struct error words = {0};

	e->probe = NULL;
	if (!err && status == 200) {
		if (!e->asks_health)
			probe_learn(e, body);
		e->lost = 0;
		probe_again(e, PROBE_READY_MS);
		if (e->base.state != ENGINE_READY)
			engine_tell_state(&e->base, ENGINE_READY, NULL);
		remote_serve(e);
		return;
	}
	if (!err && status == 404 && !e->asks_health) {
		e->asks_health = true;
		probe_again(e, 1);
		return;
	}
	if (err)
		error_set(&words, E_UNAVAILABLE, "%s does not answer: %s", e->url, err->text);
	else
		remote_error(status, body, &words);
	probe_bad(e, &words);
}

/* Fills headers that every call carries; `bearer` must outlive the call's start. */
static size_t remote_headers(const struct remote *e, struct http_header *headers, char *bearer, size_t size)
{
	size_t n = 0;

	headers[n++] = (struct http_header){STR("accept"), STR("text/event-stream, application/json")};
	if (e->key[0]) {
		snprintf(bearer, size, "Bearer %s", e->key);
		headers[n++] = (struct http_header){STR("authorization"), str_from(bearer)};
	}
	return n;
}

static void probe_start(void *arg)
{
	struct remote *e = arg;
	struct http_header headers[2];
	char url[1024], bearer[1024];

	if (e->probe)
		return;
	snprintf(url, sizeof(url), "%s%s", e->url, e->asks_health ? "/health" : "/v1/models");
	struct http_call_options options = {.url = str_from(url), .headers = headers, .head_timeout_us = 5 * US_PER_S};
	options.header_count = remote_headers(e, headers, bearer, sizeof(bearer));
	e->probe = http_fetch(e->client, &options, MODELS_MAX, probe_done, e);
}

void engine_remote_start(struct engine *engine, const struct engine_options *options)
{
	struct remote *e = (struct remote *)engine;
	struct http_client_options client = {
	    .tls = e->tls, .conns_per_origin = (size_t)engine->info.slots + 1, .idle_us = IDLE_US};
	(void)options;

	e->client = http_client_new(engine->loop, &client);
	e->timer = loop_timer_new(engine->loop, probe_start, e);
	probe_start(e);
}

/* ---- the request body -------------------------------------------------------------------------- */

static void body_number(struct buf *b, const char *key, double value)
{
	buf_printf(b, ",\"%s\":%.9g", key, value);
}

static void body_sampling(struct buf *b, const struct engine_sampling *s)
{
	body_number(b, "temperature", s->temperature);
	body_number(b, "top_p", s->top_p);
	if (s->min_p > 0)
		body_number(b, "min_p", s->min_p);
	if (s->top_k > 0)
		body_number(b, "top_k", s->top_k);
	if (s->presence_penalty != 0)
		body_number(b, "presence_penalty", s->presence_penalty);
	if (s->frequency_penalty != 0)
		body_number(b, "frequency_penalty", s->frequency_penalty);
	if (s->repeat_penalty > 0 && s->repeat_penalty != 1) { /* vLLM's name, llama-server's name */
		body_number(b, "repetition_penalty", s->repeat_penalty);
		body_number(b, "repeat_penalty", s->repeat_penalty);
	}
	if (s->has_seed)
		buf_printf(b, ",\"seed\":%lld", (long long)(s->seed & INT64_MAX));
	for (size_t i = 0; i < s->bias_count; i++)
		buf_printf(b, "%s\"%d\":%.9g", i ? "," : ",\"logit_bias\":{", s->bias_tokens[i],
		           (double)s->bias_values[i]);
	if (s->bias_count)
		buf_append_str(b, STR("}"));
}

static void body_schema(struct buf *b, struct str schema)
{
	if (str_equal(schema, STR("{}"))) {
		buf_append_str(b, STR(",\"response_format\":{\"type\":\"json_object\"}"));
	} else if (schema.len) {
		buf_append_str(
		    b, STR(",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"answer\","
		           "\"strict\":true,\"schema\":"));
		buf_append_str(b, schema);
		buf_append_str(b, STR("}}"));
	}
}

static void body_write(struct buf *b, const struct remote *e, const struct engine_params *p)
{
	buf_append_str(b, STR("{\"model\":"));
	buf_append_json(b, str_from(e->model));
	buf_append_str(b, STR(",\"stream\":true,\"stream_options\":{\"include_usage\":true}"));
	if (p->task == ENGINE_CHAT) {
		buf_append_str(b, STR(",\"messages\":"));
		buf_append_str(b, p->messages_json);
		if (p->logprobs >= 0)
			buf_printf(b, ",\"logprobs\":true,\"top_logprobs\":%d", p->logprobs);
	} else {
		buf_append_str(b, STR(",\"prompt\":"));
		buf_append_json(b, p->prompt);
		if (p->logprobs >= 0)
			buf_printf(b, ",\"logprobs\":%d", p->logprobs);
	}
	if (p->tools_json.len) {
		buf_append_str(b, STR(",\"tools\":"));
		buf_append_str(b, p->tools_json);
	}
	if (p->tool_choice.len && p->tools_json.len) {
		buf_append_str(b, STR(",\"tool_choice\":"));
		buf_append_json(b, p->tool_choice);
	}
	body_schema(b, p->json_schema);
	body_sampling(b, &p->sampling);
	if (p->max_tokens >= 0)
		buf_printf(b, ",\"max_tokens\":%d", p->max_tokens);
	for (size_t i = 0; i < p->stop_count; i++) {
		buf_append_str(b, i ? STR(",") : STR(",\"stop\":["));
		buf_append_json(b, p->stops[i]);
	}
	buf_append_str(b, p->stop_count ? STR("]}") : STR("}"));
}

/* ---- the stream -------------------------------------------------------------------------------- */

static struct remote *remote_of(const struct remote_request *r)
{
	return (struct remote *)r->base.engine;
}

static int remote_emit(struct remote_request *r, const struct remote_chunk *chunk)
{
	struct engine_event event = {
	    .kind = ENGINE_TEXT,
	    .text = chunk->text,
	    .reasoning = chunk->reasoning,
	    .tool_calls_json = chunk->tool_calls_json,
	    .logprobs = chunk->logprobs,
	    .logprob_count = chunk->logprob_count,
	};

	if (!event.text.len && !event.reasoning.len && !event.tool_calls_json.len && !event.logprob_count)
		return 0;
	if (!r->first_us)
		r->first_us = loop_now_us(r->base.engine->loop);
	/* One piece is one token with most servers; the usage at the end tells for sure. */
	r->pieces += event.logprob_count ? (int32_t)event.logprob_count : 1;
	r->completion_tokens = r->pieces;
	event.completion_tokens = r->pieces;
	return engine_emit(&r->base, &event) ? 0 : 1;
}

static int remote_event(void *arg, struct str name, struct str data)
{
	struct remote_request *r = arg;
	struct remote_chunk chunk;
	int rc = 0;
	(void)name;

	if (str_equal(data, STR("[DONE]"))) {
		r->last = true;
		return 0;
	}
	if (r->last || !data.len)
		return 0;
	if (remote_chunk_parse(data, &chunk, &r->err) < 0)
		return 1;
	if (chunk.told.code) {
		r->err = chunk.told;
		rc = 1;
	} else {
		if (chunk.has_usage) {
			r->prompt_tokens = chunk.prompt_tokens;
			r->cached_tokens = chunk.cached_tokens;
		}
		if (chunk.finished) {
			r->finished = true;
			r->finish = chunk.finish;
		}
		rc = remote_emit(r, &chunk);
		if (!rc && chunk.has_usage && chunk.completion_tokens > r->completion_tokens)
			r->completion_tokens = chunk.completion_tokens;
	}
	remote_chunk_fini(&chunk);
	return rc;
}

static bool remote_head(void *arg, struct http_call *call, int status)
{
	struct remote_request *r = arg;
	struct str type = {0};

	r->status = status;
	if (status != 200)
		return true;
	http_call_header(call, "content-type", &type);
	if (!str_starts(type, STR("text/event-stream"))) {
		error_set(&r->err, E_PEER, "the remote engine does not stream (content-type " STR_FMT ")",
		          STR_ARG(type));
		return false;
	}
	return true;
}

/* The first bytes of an answer: prefill is over, or the server says that it has begun. */
static bool remote_started(struct remote_request *r)
{
	struct engine_event event = {.kind = ENGINE_STARTED};

	if (r->base.started)
		return true;
	if (!engine_emit(&r->base, &event))
		return false;
	if (!r->copy.params.echo || r->copy.params.task != ENGINE_COMPLETION || !r->copy.params.prompt.len)
		return true;
	event = (struct engine_event){.kind = ENGINE_TEXT, .text = r->copy.params.prompt};
	return engine_emit(&r->base, &event);
}

static bool remote_data(void *arg, struct str data)
{
	struct remote_request *r = arg;
	struct error err = {0};

	if (r->status != 200) {
		buf_append_str(&r->error_body, data);
		return true;
	}
	/* Callbacks may cancel the request, and the parser lives in it. */
	r->base.holds++;
	if (remote_started(r) && !r->err.code && sse_parser_feed(&r->parser, data, &err) < 0 && !r->err.code &&
	    !r->base.gone && err.code)
		r->err = err;
	r->base.holds--;
	if (r->base.gone) {
		engine_request_free(&r->base);
		return true;
	}
	if (r->err.code) { /* nothing better will come, and it may come for ever */
		http_call_cancel(r->call);
		r->call = NULL;
		remote_of(r)->open--;
		remote_end(r, false);
		return true;
	}
	return !r->base.paused;
}

static void remote_measure(struct remote *e, const struct remote_request *r)
{
	int64_t now = loop_now_us(e->base.loop), ttft = r->first_us - r->sent_us;
	int32_t computed = r->prompt_tokens - r->cached_tokens;

	if (!r->first_us || r->completion_tokens < 1)
		return;
	if (computed > 0 && ttft > 0) {
		double rate = computed * 1e6 / (double)ttft;
		e->prefill_rate += e->prefill_rate > 0 ? 0.2 * (rate - e->prefill_rate) : rate;
	}
	if (r->completion_tokens > 1) {
		double itl = (double)(now - r->first_us) / (r->completion_tokens - 1);
		e->itl_us += e->itl_us > 0 ? 0.2 * (itl - e->itl_us) : itl;
	}
}

static void remote_done(void *arg, struct http_call *call, const struct error *err)
{
	struct remote_request *r = arg;
	struct remote *e = remote_of(r);
	bool unsent = http_call_unsent(call);

	r->call = NULL;
	e->open--;
	/* An idle connection that the server was closing just then: nothing was done, so once more. */
	if (unsent && r->tries < TRIES_MAX && !e->base.closing && e->base.state == ENGINE_READY) {
		remote_send(e, r);
		return;
	}
	if (!r->err.code && err) {
		r->err = *err;
		if (unsent)
			r->err.code = E_UNAVAILABLE;
		else if (r->err.code != E_TIMEOUT)
			r->err.code = E_PEER;
		error_prefix(&r->err, "the remote engine at %s: ", e->url);
	} else if (!r->err.code && r->status != 200) {
		remote_error(r->status, buf_str(&r->error_body), &r->err);
	} else if (!r->err.code && !r->finished) {
		error_set(&r->err, E_PEER, "the remote engine cut the stream before its end");
	}
	remote_end(r, unsent);
}

/* The call is over; r->err tells how. */
static void remote_end(struct remote_request *r, bool unsent)
{
	struct remote *e = remote_of(r);

	if (r->err.code && r->finished && r->last)
		r->err.code = 0; /* what goes wrong after the end is not the answer's fault */
	if (unsent && e->base.state == ENGINE_READY && !e->base.closing)
		probe_start(e);
	if (!r->err.code) {
		remote_measure(e, r);
		e->base.prompt_tokens_total += (uint64_t)r->prompt_tokens;
		e->base.cached_tokens_total += (uint64_t)r->cached_tokens;
	}
	struct error told = r->err;
	engine_finish(&r->base, told.code ? FINISH_ERROR : r->finish, told.code ? &told : NULL, r->prompt_tokens,
	              r->cached_tokens, r->completion_tokens);
	remote_serve(e);
}

static void remote_send(struct remote *e, struct remote_request *r)
{
	const struct engine_params *p = &r->copy.params;
	struct http_header headers[6];
	char url[1024], bearer[1024];
	struct buf body = {0};

	snprintf(url, sizeof(url), "%s%s", e->url, p->task == ENGINE_CHAT ? "/v1/chat/completions" : "/v1/completions");
	body_write(&body, e, p);
	size_t n = remote_headers(e, headers, bearer, sizeof(bearer));
	headers[n++] = (struct http_header){STR("content-type"), STR("application/json")};
	if (p->request_id.len)
		headers[n++] = (struct http_header){STR("x-request-id"), p->request_id};
	if (p->traceparent.len)
		headers[n++] = (struct http_header){STR("traceparent"), p->traceparent};
	struct http_call_options options = {
	    .method = STR("POST"),
	    .url = str_from(url),
	    .headers = headers,
	    .header_count = n,
	    .body = buf_str(&body),
	    .head_timeout_us = 300 * US_PER_S, /* servers queue, and some tell the head with the first token */
	    .stall_timeout_us = 120 * US_PER_S,
	    .on_head = remote_head,
	    .on_data = remote_data,
	    .on_done = remote_done,
	    .arg = r,
	};
	r->sent_us = loop_now_us(e->base.loop);
	e->open++;
	r->tries++;
	r->call = http_call_start(e->client, &options);
	buf_fini(&body);
}

static void remote_serve(struct remote *e)
{
	while (e->queue && e->base.state == ENGINE_READY && e->open < e->base.info.slots && !e->base.closing) {
		struct remote_request *r = e->queue;
		e->queue = r->queue_next;
		remote_send(e, r);
	}
}

/* ---- the engine's face ------------------------------------------------------------------------- */

static int remote_submit(struct engine *engine, const struct engine_params *params, struct engine_request *request,
                         struct error *err)
{
	struct remote *e = (struct remote *)engine;
	struct remote_request *r = (struct remote_request *)request;
	struct remote_request **at = &e->queue;
	(void)err;

	engine_copy_init(&r->copy, params);
	sse_parser_init(&r->parser, EVENT_MAX, remote_event, r);
	r->error_body.max = ERROR_MAX;
	while (*at && engine_before(&(*at)->base, request))
		at = &(*at)->queue_next;
	r->queue_next = *at;
	*at = r;
	remote_serve(e);
	return 0;
}

static void remote_cancel(struct engine_request *request)
{
	struct remote_request *r = (struct remote_request *)request;
	struct remote *e = remote_of(r);

	if (r->call) {
		http_call_cancel(r->call);
		r->call = NULL;
		e->open--;
	} else {
		for (struct remote_request **at = &e->queue; *at; at = &(*at)->queue_next)
			if (*at == r) {
				*at = r->queue_next;
				break;
			}
	}
	engine_request_free(request);
	remote_serve(e);
}

static void remote_paused(struct engine_request *request)
{
	struct remote_request *r = (struct remote_request *)request;

	if (!request->paused && r->call)
		http_call_resume(r->call);
}

static void remote_request_fini(struct engine_request *request)
{
	struct remote_request *r = (struct remote_request *)request;

	sse_parser_fini(&r->parser);
	buf_fini(&r->error_body);
	engine_copy_fini(&r->copy);
}

static void remote_load(const struct engine *engine, struct engine_load *load)
{
	const struct remote *e = (const struct remote *)engine;

	load->prefill_tokens_per_s = e->prefill_rate;
	load->itl_us = e->itl_us;
	load->decode_tokens_per_s = e->itl_us > 0 ? engine->running * 1e6 / e->itl_us : 0;
	for (const struct engine_request *q = engine->requests; q; q = q->next) {
		const struct remote_request *r = (const struct remote_request *)q;
		if (!r->first_us) /* four bytes a token */
			load->tokens_to_prefill +=
			    (int64_t)(r->copy.params.prompt.len + r->copy.params.messages_json.len) / 4;
	}
}

static void remote_free(struct engine *engine)
{
	struct remote *e = (struct remote *)engine;

	if (e->probe)
		http_call_cancel(e->probe);
	loop_timer_free(e->timer);
	http_client_free(e->client);
	tls_context_free(e->tls);
	free(e->url);
	free(e->key);
	free(e->model);
	free(e);
}

const struct engine_ops engine_remote_ops = {
    .submit = remote_submit,
    .cancel = remote_cancel,
    .paused = remote_paused,
    .load = remote_load,
    .request_fini = remote_request_fini,
    .free = remote_free,
    .request_size = sizeof(struct remote_request),
};
