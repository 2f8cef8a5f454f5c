/* SPDX-License-Identifier: Apache-2.0 */
/* How: one engine request for every answer asked for (n, prompts), their events put into OpenAI's shapes as they come.
 * The response head leaves with the first token, not before: until then a failing engine is still a clean error or
 * another node's turn. A slow reader pauses every engine request of it, so nothing piles up beyond the connection's
 * buffer. One buffer of the gateway holds the piece being written; there is no allocation a token.
 */
#include "serve/gateway/internal.h"

#include <stdlib.h>

struct choice {
	struct local *local;
	struct engine_request *engine; /* NULL: done */
	int32_t index;
	bool spoken;
	enum engine_finish finish;
	struct answer_usage usage;
	struct choice_text text;
	int64_t last_us;
};

struct local {
	struct request *r;
	struct model *model;
	struct answer_head head;
	size_t count, done;
	bool begun, paused;
	int64_t submitted_us, started_us;
	struct choice choices[];
};

static double seconds(int64_t us)
{
	return (double)us / US_PER_S;
}

static void measure(struct local *l, enum model_histogram which, int64_t us)
{
	histogram_add(&l->model->metrics->histograms[which], which, seconds(us > 0 ? us : 0));
}

void local_cancel(struct local *l)
{
	if (!l)
		return;
	for (size_t i = 0; i < l->count; i++) {
		struct choice *c = &l->choices[i];

		if (c->engine) {
			engine_cancel(c->engine);
			l->model->metrics->aborted++;
		}
		choice_text_fini(&c->text);
	}
	model_leave(l->model);
	free(l);
}

static struct answer_usage local_usage(const struct local *l)
{
	struct answer_usage sum = {0};

	for (size_t i = 0; i < l->count; i++) {
		const struct answer_usage *u = &l->choices[i].usage;

		sum.completion_tokens += u->completion_tokens;
		if (i % (size_t)l->r->in.n == 0) { /* OpenAI counts a prompt once, however many answers it gets */
			sum.prompt_tokens += u->prompt_tokens;
			sum.cached_tokens += u->cached_tokens;
		}
	}
	return sum;
}

/* ---- streams -------------------------------------------------------------------------------------------- */

static void local_head(struct local *l)
{
	struct request *r = l->r;
	struct gateway *g = r->g;

	l->begun = true;
	request_name_node(r, str_from(g->id), str_from(g->name), str_from(g->site));
	if (r->hop) {
		struct buf orca = {0};
		map_format_orca(l->model, &orca);
		http_add_header(r->x, "endpoint-load-metrics", buf_str(&orca));
		buf_fini(&orca);
	}
	if (!r->in.stream)
		return;
	http_add_header(r->x, "cache-control", STR("no-cache"));
	http_add_header(r->x, "x-accel-buffering", STR("no"));
	http_respond_begin(r->x, 200, "text/event-stream; charset=utf-8", -1);
}

static void local_write(struct local *l)
{
	if (http_write(l->r->x, buf_str(&l->r->g->scratch)) || l->paused)
		return;
	l->paused = true;
	for (size_t i = 0; i < l->count; i++)
		if (l->choices[i].engine)
			engine_pause(l->choices[i].engine);
}

void local_writable(struct local *l)
{
	if (!l->paused)
		return;
	l->paused = false;
	for (size_t i = 0; i < l->count; i++)
		if (l->choices[i].engine)
			engine_continue(l->choices[i].engine);
}

/* Fills the scratch with what must come before the first words of an answer. */
static void stream_begin(struct choice *c)
{
	struct local *l = c->local;
	struct buf *out = &l->r->g->scratch;

	buf_clear(out);
	if (!l->begun)
		local_head(l);
	if (!c->spoken && l->head.task == ENGINE_CHAT)
		chunk_role(out, &l->head, c->index);
	c->spoken = true;
}

/* ---- ends --------------------------------------------------------------------------------------------------- */

static void local_count(struct local *l, const struct answer_usage *usage)
{
	struct model_metrics *m = l->model->metrics;
	struct request *r = l->r;
	int64_t now = clock_mono_us();

	l->model->sums.served++;
	r->prompt_tokens = usage->prompt_tokens;
	r->cached_tokens = usage->cached_tokens;
	r->completion_tokens = usage->completion_tokens;
	m->prompt_tokens += (uint64_t)usage->prompt_tokens;
	m->cached_tokens += (uint64_t)usage->cached_tokens;
	m->generation_tokens += (uint64_t)usage->completion_tokens;
	measure(l, H_E2E, now - r->begun_us);
	if (r->first_us)
		measure(l, H_DECODE, now - r->first_us);
}

static void local_end_stream(struct local *l)
{
	struct request *r = l->r;
	struct http_exchange *x = r->x;
	struct answer_usage usage = local_usage(l);
	struct buf *out = &r->g->scratch;

	buf_clear(out);
	if (r->in.include_usage)
		chunk_usage(out, &l->head, &usage);
	chunk_done(out);
	http_write(x, buf_str(out));
	local_count(l, &usage);
	request_finish(r, 200);
	http_end(x);
}

static void local_end_whole(struct local *l)
{
	struct request *r = l->r;
	struct http_exchange *x = r->x;
	struct answer_usage usage = local_usage(l);
	struct buf out = {0};

	request_first_token(r);
	local_head(l);
	answer_open(&out, &l->head);
	for (size_t i = 0; i < l->count; i++)
		answer_choice(&out, l->head.task, (int32_t)i, &l->choices[i].text, l->choices[i].finish,
		              r->in.logprobs >= 0);
	answer_close(&out, &usage);
	local_count(l, &usage);
	request_finish(r, 200);
	http_respond(x, 200, "application/json", buf_str(&out));
	buf_fini(&out);
}

static void local_failed(struct local *l, const struct error *err)
{
	struct request *r = l->r;
	struct fault fault = {.err = *err};

	if (err->code != E_LIMIT && err->code != E_INVAL && err->code != E_UNSUPPORTED && err->code != E_CANCELED)
		l->model->sums.errors++;
	if (l->begun) {
		request_break(r, &fault.err, true);
		return;
	}
	if (fault.err.code == E_LIMIT) { /* only the engine knows how many tokens a prompt has */
		fault.status = 400;
		fault.code = "context_length_exceeded";
		strcpy(fault.param, l->head.task == ENGINE_CHAT ? "messages" : "prompt");
	}
	r->local = NULL;
	local_cancel(l);
	request_retry(r, &fault);
}

/* ---- events --------------------------------------------------------------------------------------------------- */

static void on_started(struct choice *c, const struct engine_event *e)
{
	struct local *l = c->local;

	c->usage.prompt_tokens = e->prompt_tokens;
	c->usage.cached_tokens = e->cached_tokens;
	if (l->started_us)
		return;
	l->started_us = clock_mono_us();
	measure(l, H_QUEUE, l->started_us - l->submitted_us);
}

static void on_first_token(struct local *l)
{
	struct request *r = l->r;

	request_first_token(r);
	measure(l, H_TTFT, r->first_us - r->begun_us);
	l->model->sums.ttft_us += (uint64_t)(r->first_us - l->submitted_us);
	if (l->started_us)
		measure(l, H_PREFILL, r->first_us - l->started_us);
}

static void on_text(struct choice *c, const struct engine_event *e)
{
	struct local *l = c->local;
	int64_t now = clock_mono_us();

	if (!l->r->first_us)
		on_first_token(l);
	if (c->last_us && e->completion_tokens > c->usage.completion_tokens) {
		measure(l, H_ITL, (now - c->last_us) / (e->completion_tokens - c->usage.completion_tokens));
		l->model->sums.tokens += (uint64_t)(e->completion_tokens - c->usage.completion_tokens);
		l->model->sums.decode_us += (uint64_t)(now - c->last_us);
	}
	c->last_us = now;
	c->usage.completion_tokens = e->completion_tokens;
	if (!l->r->in.stream) {
		choice_text_add(&c->text, l->head.task, e);
		return;
	}
	stream_begin(c);
	chunk_text(&l->r->g->scratch, &l->head, c->index, &c->text, e);
	local_write(l);
}

static void on_done(struct choice *c, const struct engine_event *e)
{
	struct local *l = c->local;

	c->engine = NULL;
	if (e->finish == FINISH_ERROR) {
		local_failed(l, e->err);
		return;
	}
	c->finish = e->finish;
	c->usage = (struct answer_usage){e->prompt_tokens, e->cached_tokens, e->completion_tokens};
	l->model->metrics->finished[e->finish]++;
	l->done++;
	if (!l->r->first_us)
		on_first_token(l); /* an answer without a word */
	if (l->r->in.stream) {
		stream_begin(c);
		chunk_finish(&l->r->g->scratch, &l->head, c->index, e->finish);
		local_write(l);
	}
	if (l->done < l->count)
		return;
	if (l->r->in.stream)
		local_end_stream(l);
	else
		local_end_whole(l);
}

static void on_event(void *arg, const struct engine_event *e)
{
	struct choice *c = arg;

	if (e->kind == ENGINE_STARTED)
		on_started(c, e);
	else if (e->kind == ENGINE_TEXT)
		on_text(c, e);
	else
		on_done(c, e);
}

/* ---- start ------------------------------------------------------------------------------------------------------- */

static struct engine_params local_params(const struct request *r)
{
	const struct chat_request *in = &r->in;

	return (struct engine_params){
	    .task = in->task,
	    .tool_choice = in->tool_choice,
	    .sampling = in->sampling,
	    .max_tokens = in->max_tokens,
	    .logprobs = in->logprobs,
	    .stops = in->stops,
	    .stop_count = in->stop_count,
	    .echo = in->echo,
	    .tenant = str_from(r->tenant),
	    .priority = r->priority,
	    .request_id = str_from(r->id),
	    .traceparent = str_from(r->traceparent),
	};
}

static int local_submit(struct local *l, struct engine_params *p, struct error *err)
{
	const struct chat_request *in = &l->r->in;

	for (size_t i = 0; i < l->count; i++) {
		struct choice *c = &l->choices[i];

		p->prompt = in->prompts[i / (size_t)in->n];
		if (in->echo)
			choice_text_echo(&c->text, p->prompt);
		p->sampling.seed =
		    in->sampling.seed + i % (size_t)in->n; /* the same seed n times would be one answer n times */
		int rc = engine_submit(l->model->engine, p, on_event, c, &c->engine, err);
		if (rc < 0) {
			c->engine = NULL;
			return rc;
		}
	}
	return 0;
}

int local_start(struct request *r, struct model *m, struct fault *fault)
{
	size_t count = r->in.prompt_count * (size_t)r->in.n;
	struct local *l = mem_new(sizeof(*l) + count * sizeof(l->choices[0]));
	struct engine_params p = local_params(r);
	struct buf messages = {0}, tools = {0}, schema = {0};

	l->r = r;
	l->model = m;
	l->count = count;
	l->head =
	    (struct answer_head){r->in.task, r->answer_id, r->model, m->fingerprint, r->created_s, r->in.include_usage};
	l->submitted_us = clock_mono_us();
	for (size_t i = 0; i < count; i++) {
		l->choices[i].local = l;
		l->choices[i].index = (int32_t)i;
	}
	m->requests++;
	chat_request_messages(&r->in, &messages);
	chat_request_tools(&r->in, &tools);
	chat_request_schema(&r->in, &schema);
	p.messages_json = buf_str(&messages);
	p.tools_json = buf_str(&tools);
	p.json_schema = buf_str(&schema);
	int rc = m->engine ? local_submit(l, &p, &fault->err) : error_set(&fault->err, E_UNAVAILABLE, "%s", m->error);
	buf_fini(&messages);
	buf_fini(&tools);
	buf_fini(&schema);
	if (rc == 0)
		r->local = l;
	else
		local_cancel(l);
	return rc;
}
