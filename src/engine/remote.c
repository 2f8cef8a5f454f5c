/* SPDX-License-Identifier: Apache-2.0 */
/* remote.c - an engine that is somebody else's OpenAI server: vLLM, SGLang, TensorRT-LLM, llama-server, Ollama, or
 * another of ours.
 *
 * At most `slots` calls are open, the others wait here, by priority. What generates always streams; vectors, ranks and
 * tokens come whole. remote_probe.c knows whether the server is there, and what it is. Cancel closes the connection,
 * which is how such servers learn of it. Load is what the server tells, where it does; calls, time to first token and
 * token rate are counted here.
 */
#include "engine/remote_private.h"

#include "base/clock.h"
#include "base/limits.h"
#include "engine/remote_chunk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum {
	EVENT_MAX = 1 << 20,   /* bytes of one event */
	ERROR_MAX = 64 * 1024, /* bytes of an error body */
	WHOLE_MAX = 64 << 20,  /* bytes of an answer that is no stream: two thousand vectors of a thousand numbers */
	SLOTS_MAX = 4096,
	TRIES_MAX = 3,
};

#define IDLE_US (3 * US_PER_S)        /* some servers close idle connections after 5 s, and say so too late */
#define TOLD_FRESH_US (15 * US_PER_S) /* older news of the load are as good as none */

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
	e->model_given = options->remote_model.len > 0;
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

void remote_fail_queue(struct remote *e, const struct error *err)
{
	while (e->queue && e->base.state == ENGINE_FAILED) {
		struct remote_request *r = e->queue;
		e->queue = r->queue_next;
		engine_finish(&r->base, FINISH_ERROR, err, 0, 0, 0);
	}
}

size_t remote_headers(const struct remote *e, struct http_header *headers, char *bearer, size_t size)
{
	size_t n = 0;

	headers[n++] = (struct http_header){STR("accept"), STR("text/event-stream, application/json, text/plain")};
	if (e->key[0]) {
		snprintf(bearer, size, "Bearer %s", e->key);
		headers[n++] = (struct http_header){STR("authorization"), str_from(bearer)};
	}
	return n;
}

void engine_remote_start(struct engine *engine, const struct engine_options *options)
{
	struct remote *e = (struct remote *)engine;
	struct http_client_options client = {
	    .tls = e->tls, .conns_per_origin = (size_t)engine->info.slots + 3, .idle_us = IDLE_US};
	(void)options;

	e->client = http_client_new(engine->loop, &client);
	probe_init(e);
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

void remote_hears(struct remote *e, const struct remote_told *told)
{
	e->told = *told;
	e->told_us = loop_now_us(e->base.loop);
}

/* Answers bring the load along where a server can: vLLM with those that are whole, we with all. */
static void remote_hears_orca(struct remote *e, struct http_call *call)
{
	struct remote_told told, old = e->told;
	struct str header;

	if (!http_call_header(call, "endpoint-load-metrics", &header) || !remote_orca_parse(header, &told))
		return;
	if (!told.has_running) { /* vLLM leaves it out */
		told.has_running = old.has_running;
		told.running = old.running;
	}
	remote_hears(e, &told);
}

static bool remote_head(void *arg, struct http_call *call, int status)
{
	struct remote_request *r = arg;
	struct str type = {0};

	r->status = status;
	remote_hears_orca(remote_of(r), call);
	if (status != 200 || !remote_task_streams(r->copy.params.task))
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

	if (r->status != 200 || !remote_task_streams(r->copy.params.task)) {
		buf_append_str(r->status != 200 ? &r->error_body : &r->whole, data);
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

/* Servers without a path have no words for that but their web framework's. */
static void remote_refused(struct remote_request *r)
{
	struct remote *e = remote_of(r);
	bool framework = r->error_body.len < 200 && !memmem(r->error_body.base, r->error_body.len, "model", 5);

	if (!remote_task_streams(r->copy.params.task) && (r->status == 404 || r->status == 405) && framework)
		error_set(&r->err, E_UNSUPPORTED, "the remote engine%s%s has no %s", e->base.info.server[0] ? ", " : "",
		          e->base.info.server, remote_path(r->copy.params.task));
	else
		remote_error(r->status, buf_str(&r->error_body), &r->err);
	if (r->err.code == E_NOTFOUND) {
		struct error theirs = r->err;
		error_set(&r->err, E_NOTFOUND, "%.380s: is remote_model (\"%.64s\") right?", theirs.text, e->model);
	}
}

/* An answer that came whole. */
static void remote_end_whole(struct remote_request *r)
{
	struct remote *e = remote_of(r);
	struct remote_whole w;
	struct engine_event started = {.kind = ENGINE_STARTED};

	if (r->whole.failed)
		error_set(&r->err, E_PEER, "the remote engine's answer has more than %d MiB", WHOLE_MAX >> 20);
	else
		remote_whole_parse(buf_str(&r->whole), &r->copy.params, &w, &r->err);
	if (r->err.code) {
		remote_end(r, false);
		return;
	}
	started.prompt_tokens = w.prompt_tokens;
	if (engine_emit(&r->base, &started)) {
		const struct engine_event event = {
		    .kind = ENGINE_DONE,
		    .finish = FINISH_STOP,
		    .prompt_tokens = w.prompt_tokens,
		    .vectors = w.vectors,
		    .vector_size = w.vector_size,
		    .vector_count = w.vector_count,
		    .tokens = w.tokens,
		    .token_count = w.token_count,
		    .logprobs = w.pieces,
		    .logprob_count = w.piece_count,
		    .text = w.text,
		};
		engine_finish_event(&r->base, &event);
	}
	remote_whole_fini(&w);
	remote_serve(e);
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
		remote_refused(r);
	} else if (!r->err.code && !remote_task_streams(r->copy.params.task)) {
		remote_end_whole(r);
		return;
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
	struct http_header headers[REMOTE_HEADERS_MAX];
	char url[REMOTE_URL_MAX], bearer[REMOTE_URL_MAX];
	struct buf body = {0};

	snprintf(url, sizeof(url), "%s%s", e->url, remote_path(p->task));
	if (remote_can(e, p, &r->err) < 0) { /* waited for a server that turned out to be another one */
		struct error err = r->err;
		engine_finish(&r->base, FINISH_ERROR, &err, 0, 0, 0);
		return;
	}
	remote_body(&body, e, p);
	size_t n = remote_headers(e, headers, bearer, sizeof(bearer));
	headers[n++] = (struct http_header){STR("content-type"), STR("application/json")};
	headers[n++] = (struct http_header){STR("endpoint-load-metrics-format"), STR("TEXT")};
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

void remote_serve(struct remote *e)
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
	int rc = engine->state == ENGINE_READY ? remote_can(e, params, err) : 0;

	if (rc < 0)
		return rc;

	engine_copy_init(&r->copy, params);
	sse_parser_init(&r->parser, EVENT_MAX, remote_event, r);
	r->error_body.max = ERROR_MAX;
	r->whole.max = WHOLE_MAX;
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
	buf_fini(&r->whole);
	engine_copy_fini(&r->copy);
}

/* What the server tells counts all its clients, what is counted here only ours: the larger one is true. */
static void load_told(const struct remote *e, int32_t unsent, struct engine_load *load)
{
	int64_t age = e->told_us ? loop_now_us(e->base.loop) - e->told_us : INT64_MAX;
	int32_t sent = load->waiting - unsent;

	if (age > TOLD_FRESH_US)
		return;
	load->told_age_us = age > 0 ? age : 1;
	if (e->told.has_running && e->told.running > load->running)
		load->running = (int32_t)e->told.running;
	if (e->told.has_waiting && e->told.waiting > sent)
		load->waiting = unsent + (int32_t)e->told.waiting;
	if (e->told.has_kv)
		load->kv_usage = e->told.kv_usage;
}

static void remote_load(const struct engine *engine, struct engine_load *load)
{
	const struct remote *e = (const struct remote *)engine;
	int32_t unsent = 0;

	load->prefill_tokens_per_s = e->prefill_rate;
	load->itl_us = e->itl_us;
	load->decode_tokens_per_s = e->itl_us > 0 ? engine->running * 1e6 / e->itl_us : 0;
	for (const struct engine_request *q = engine->requests; q; q = q->next) {
		const struct remote_request *r = (const struct remote_request *)q;
		unsent += !r->call;
		if (!r->first_us) /* four bytes a token */
			load->tokens_to_prefill +=
			    (int64_t)(r->copy.params.prompt.len + r->copy.params.messages_json.len) / 4;
	}
	load_told(e, unsent, load);
}

static void remote_free(struct engine *engine)
{
	struct remote *e = (struct remote *)engine;

	probe_fini(e);
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
