/* SPDX-License-Identifier: Apache-2.0 */
/* How: one engine request for every answer asked for (n, best_of, prompts), their events put into the dialect's shapes
 * as they come. The response head leaves with the first token, not before: until then a failing engine is still a clean
 * error or another node's turn. A slow reader pauses every engine request of it, so nothing piles up beyond the
 * connection's buffer. One buffer of the gateway holds the piece being written; there is no allocation a token. What a
 * stream has said is noted with its tokens: by the node that holds the client's connection (resume.h), told to it in
 * frames by the one that works for it. An engine that goes on with another's answer first tells what that had said; the
 * dialect writes it once more, for its own sake, and nobody gets it.
 */
#include "serve/gateway/internal.h"

#include <stdlib.h>

struct choice {
	struct local *local;
	struct engine_request *engine; /* NULL: done */
	struct api_choice *said;
	bool spoken;
	int64_t last_us;
};

struct local {
	struct request *r;
	struct model *model, *runs; /* runs: whose engine answers; NULL: none does */
	char adapter[LORA_KEY_SIZE];
	struct api_answer answer;
	size_t count, done;
	bool begun, paused;
	bool replay_due; /* it goes on with another's answer, which it has not told yet */
	uint64_t shown;  /* bytes of text and reasoning */
	int32_t told;    /* tokens that events have named */
	int32_t resumed; /* tokens it began with */
	int64_t submitted_us;
	struct choice choices[];
};

static void tally(struct local *l, enum model_histogram which, double value)
{
	vllm_histogram_add(&l->model->metrics->histograms[which], which, value);
}

static void measure(struct local *l, enum model_histogram which, int64_t us)
{
	tally(l, which, (double)(us > 0 ? us : 0) / US_PER_S);
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
	}
	if (l->answer.started_us)
		l->model->metrics->running--;
	api_answer_fini(&l->answer);
	if (l->runs && l->runs != l->model)
		model_leave(l->runs);
	model_leave(l->model);
	free(l);
}

static struct api_usage local_usage(const struct local *l)
{
	size_t of_a_prompt = l->count / l->r->in.prompt_count;
	struct api_usage sum = {0};

	for (size_t i = 0; i < l->count; i++) {
		const struct api_usage *u = &l->choices[i].said->usage;

		sum.completion_tokens += u->completion_tokens;
		if (i % of_a_prompt == 0) { /* OpenAI counts a prompt once, however many answers it gets */
			sum.prompt_tokens += u->prompt_tokens;
			sum.cached_tokens += u->cached_tokens;
		}
	}
	return sum;
}

void local_used(const struct local *l, int32_t *ret_prompt, int32_t *ret_cached, int32_t *ret_completion)
{
	const struct api_usage sum = local_usage(l);

	*ret_prompt = sum.prompt_tokens;
	*ret_cached = sum.cached_tokens;
	*ret_completion = sum.completion_tokens;
}

/* ---- streams -------------------------------------------------------------------------------------------- */

static void local_head(struct local *l)
{
	struct request *r = l->r;
	struct gateway *g = r->g;

	l->begun = true;
	if (r->head_sent)
		return;
	r->head_sent = r->in.stream;
	request_name_node(r, str_from(g->id), str_from(g->name), str_from(g->site));
	if (l->runs && l->runs->engine)
		reply_tell_limits(r, l->runs->engine);
	if (!r->in.stream)
		return;
	http_add_header(r->x, "cache-control", STR("no-cache"));
	http_add_header(r->x, "x-accel-buffering", STR("no"));
	if (r->framed)
		http_add_header(r->x, "x-mdn-frames", str_from(l->model->digest));
	http_respond_begin(r->x, 200, r->dialect->stream_type, -1);
}

/* The scratch, which is of this event; NULL: of none. */
static void local_write(struct local *l, enum frame_kind kind, const struct engine_event *e)
{
	struct request *r = l->r;
	struct frame f = {.kind = kind,
	                  .sequence = l->answer.stream.sequence,
	                  .shown = l->shown,
	                  .tokens = e ? e->tokens : NULL,
	                  .token_count = e ? e->token_count : 0,
	                  .piece = buf_str(&r->g->scratch)};

	if (r->resume && !r->hop) {
		resume_note(r->resume, f.tokens, f.token_count, f.shown, f.sequence);
		if (kind == FRAME_LOST)
			r->resume->lost = true;
	}
	if ((!f.piece.len && !r->framed) || request_write(r, &f) || l->paused)
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
	if (!c->spoken && l->r->dialect->begin)
		l->r->dialect->begin(out, &l->answer, c->said);
	c->spoken = true;
}

/* ---- ends --------------------------------------------------------------------------------------------------- */

/* What only requests that generate have. */
static void count_answers(struct local *l, int64_t now)
{
	const struct request *r = l->r;
	int32_t tokens = l->answer.usage.completion_tokens, longest = 0;

	if (r->in.task != ENGINE_CHAT && r->in.task != ENGINE_COMPLETION)
		return;
	for (size_t i = 0; i < l->answer.count; i++)
		if (l->answer.choices[i].usage.completion_tokens > longest)
			longest = l->answer.choices[i].usage.completion_tokens;
	tally(l, H_GENERATION, tokens);
	tally(l, H_LONGEST, longest);
	tally(l, H_N, r->in.n);
	if (r->in.max_tokens >= 0)
		tally(l, H_MAX_TOKENS, r->in.max_tokens);
	if (longest > 1 && r->first_us)
		measure(l, H_TPOT, (now - r->first_us) / (longest - 1));
}

static void local_count(struct local *l)
{
	const struct api_usage *usage = &l->answer.usage;
	struct model_metrics *m = l->model->metrics;
	struct request *r = l->r;
	int64_t now = clock_mono_us();

	l->model->sums.served++;
	r->prompt_tokens = usage->prompt_tokens;
	r->cached_tokens = usage->cached_tokens;
	r->completion_tokens = usage->completion_tokens;
	m->prompt_tokens += (uint64_t)usage->prompt_tokens;
	m->cached_tokens += (uint64_t)usage->cached_tokens;
	m->generation_tokens += (uint64_t)(usage->completion_tokens - l->resumed);
	measure(l, H_E2E, now - r->begun_us);
	if (r->first_us)
		measure(l, H_DECODE, now - r->first_us);
	if (l->answer.started_us)
		measure(l, H_INFERENCE, now - l->answer.started_us);
	tally(l, H_PROMPT, usage->prompt_tokens);
	tally(l, H_COMPUTED, usage->prompt_tokens - usage->cached_tokens);
	count_answers(l, now);
}

/* The scratch holds the end of the last choice: both go in one piece. */
static void local_end_stream(struct local *l)
{
	struct request *r = l->r;
	struct http_exchange *x = r->x;

	if (r->tells_usage && str_starts(str_from(r->dialect->stream_type), STR("text/event-stream")))
		buf_printf(&r->g->scratch, ": usage %d %d %d\n\n", l->answer.usage.prompt_tokens,
		           l->answer.usage.cached_tokens, l->answer.usage.completion_tokens);
	r->dialect->end(&r->g->scratch, &l->answer);
	local_write(l, FRAME_LAST, NULL);
	local_count(l);
	request_finish(r, 200);
	http_end(x);
}

static void local_end_whole(struct local *l)
{
	struct request *r = l->r;
	struct http_exchange *x = r->x;
	struct buf out = {0};

	request_first_token(r);
	local_head(l);
	if (r->in.best_of > r->in.n)
		api_answer_keep_best(&l->answer, (size_t)r->in.best_of, (size_t)r->in.n);
	r->dialect->whole(&out, &l->answer);
	local_count(l);
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
	if (l->begun && !request_goes_on(r)) {
		request_break(r, &fault.err, true);
		return;
	}
	if (fault.err.code == E_LIMIT) { /* only the engine knows how many tokens a prompt has */
		fault.status = 400;
		fault.code = "context_length_exceeded";
		str_copy(str_from(r->dialect->prompt_field), fault.param, sizeof(fault.param));
	}
	r->local = NULL;
	local_cancel(l);
	request_retry(r, &fault);
}

/* ---- events --------------------------------------------------------------------------------------------------- */

static void on_started(struct choice *c, const struct engine_event *e)
{
	struct local *l = c->local;

	c->said->usage.prompt_tokens = e->prompt_tokens;
	c->said->usage.cached_tokens = e->cached_tokens;
	if (l->answer.started_us)
		return;
	l->answer.started_us = clock_mono_us();
	l->model->metrics->running++;
	l->r->worked = true;
	measure(l, H_QUEUE, l->answer.started_us - l->submitted_us);
}

static void on_first_token(struct local *l)
{
	struct request *r = l->r;

	request_first_token(r);
	l->answer.first_us = r->first_us;
	measure(l, H_TTFT, r->first_us - r->begun_us);
	l->model->sums.ttft_us += (uint64_t)(r->first_us - l->submitted_us);
	if (l->answer.started_us)
		measure(l, H_PREFILL, r->first_us - l->answer.started_us);
}

/* Of a beginning of which nothing can be seen. */
static const struct engine_event nothing_said = {.kind = ENGINE_TEXT, .replayed = true};

/* Brings the dialect to where it was when the answer was cut off. False: the request has ended, because this engine
 * would say something else. */
static bool local_replay(struct choice *c, const struct engine_event *e)
{
	struct local *l = c->local;
	struct request *r = l->r;
	struct buf *out = &r->g->scratch;
	struct error err;

	l->replay_due = false;
	l->shown = e->text.len + e->reasoning.len;
	if (l->shown != r->resume->shown) {
		error_set(&err, E_UNSUPPORTED, "the answer cannot be gone on with here: its beginning reads otherwise");
		local_failed(l, &err);
		return false;
	}
	c->said->usage.completion_tokens = e->completion_tokens;
	c->said->offset += api_characters(e->text); /* log probabilities go on behind it */
	if (r->dialect->keeps)
		api_choice_add(c->said, e);
	buf_clear(out);
	if (r->dialect->begin)
		r->dialect->begin(out, &l->answer, c->said);
	r->dialect->text(out, &l->answer, c->said, e);
	c->spoken = true;
	ledger_first_token(r->ticket);
	l->answer.stream.sequence = r->resume->sequence;
	return true;
}

static void on_text(struct choice *c, const struct engine_event *e)
{
	struct local *l = c->local;
	const struct dialect *d = l->r->dialect;

	if (l->replay_due && !local_replay(c, e->replayed ? e : &nothing_said))
		return;
	if (e->replayed)
		return;
	int32_t tokens = e->completion_tokens - c->said->usage.completion_tokens;
	int64_t now = clock_mono_us();

	if (!l->r->first_us)
		on_first_token(l);
	if (c->last_us && tokens > 0) {
		measure(l, H_ITL, (now - c->last_us) / tokens);
		l->model->sums.tokens += (uint64_t)tokens;
		l->model->sums.decode_us += (uint64_t)(now - c->last_us);
	}
	c->last_us = now;
	c->said->usage.completion_tokens = e->completion_tokens;
	if (!l->r->in.stream || d->keeps)
		api_choice_add(c->said, e);
	if (!l->r->in.stream) {
		if (d->gather && l->r->in.logprobs >= 0)
			d->gather(c->said, e);
		return;
	}
	if (!l->r->resume && !l->r->hop && request_is_resumable(l->r))
		l->r->resume = resume_new(str_from(l->model->digest));
	stream_begin(c);
	d->text(&l->r->g->scratch, &l->answer, c->said, e);
	l->shown += e->text.len + e->reasoning.len;
	l->told += (int32_t)e->token_count;
	local_write(l, l->told == e->completion_tokens ? FRAME_TEXT : FRAME_LOST, e);
}

static void on_done(struct choice *c, const struct engine_event *e)
{
	struct local *l = c->local;

	c->engine = NULL;
	if (e->finish == FINISH_ERROR) {
		l->model->metrics->finished[FINISH_ERROR]++;
		local_failed(l, e->err);
		return;
	}
	if (l->replay_due && !local_replay(c, &nothing_said))
		return;
	c->said->finish = e->finish;
	if (e->stop > 0 && (size_t)e->stop <= l->r->in.stop_count)
		c->said->stop = l->r->in.stops[e->stop - 1];
	c->said->usage = (struct api_usage){e->prompt_tokens, e->cached_tokens, e->completion_tokens};
	l->model->metrics->finished[e->finish]++;
	l->done++;
	if (!l->r->first_us)
		on_first_token(l); /* an answer without a word */
	if (l->r->in.stream) {
		stream_begin(c);
		l->r->dialect->finish(&l->r->g->scratch, &l->answer, c->said);
	}
	if (l->done < l->count) {
		if (l->r->in.stream)
			local_write(l, FRAME_TEXT, NULL);
		return;
	}
	l->answer.usage = local_usage(l);
	l->answer.done = e;
	l->answer.ended_us = clock_mono_us();
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
	const struct api_request *in = &r->in;

	return (struct engine_params){
	    .task = in->task,
	    .suffix = in->suffix,
	    .inputs = in->inputs,
	    .input_count = in->input_count,
	    .input_lengths = in->input_lengths,
	    .dimensions = in->dimensions,
	    .plain_tokens = in->plain_tokens,
	    .pieces = in->pieces,
	    .no_generation_prompt = in->no_generation_prompt,
	    .tool_choice = in->tool_choice,
	    .sampling = in->sampling,
	    .max_tokens = in->max_tokens,
	    .logprobs = in->best_of > in->n && in->logprobs < 0 ? 0 : in->logprobs, /* the best is found by them */
	    .stops = in->stops,
	    .stop_count = in->stop_count,
	    .echo = in->echo,
	    .tenant = str_from(r->tenant),
	    .cache_salt = in->cache_salt,
	    .service_class = in->service_class,
	    .priority = in->priority,
	    .deadline_us = r->resume ? 0 : r->deadline_us, /* it has begun */
	    .request_id = str_from(r->id),
	    .resumed = r->resume ? r->resume->tokens : NULL,
	    .resumed_count = r->resume ? r->resume->count : 0,
	    .answer_id = str_from(r->answer_id),
	    .traceparent = str_from(r->traceparent),
	};
}

static int local_submit(struct local *l, struct engine_params *p, struct error *err)
{
	const struct api_request *in = &l->r->in;
	size_t of_a_prompt = l->count / in->prompt_count;

	for (size_t i = 0; i < l->count; i++) {
		const struct api_prompt *prompt = &in->prompts[i / of_a_prompt];
		struct choice *c = &l->choices[i];

		p->prompt = prompt->text;
		p->prompt_tokens = prompt->tokens;
		p->prompt_token_count = prompt->token_count;
		p->sampling.seed =
		    in->sampling.seed + i % of_a_prompt; /* the same seed n times would be one answer n times */
		int rc = engine_submit(l->runs->engine, p, on_event, c, &c->engine, err);
		if (rc < 0) {
			c->engine = NULL;
			return rc;
		}
	}
	return 0;
}

static void local_init(struct local *l, struct request *r, struct model *m, size_t count)
{
	l->r = r;
	l->model = m;
	l->count = count;
	l->submitted_us = clock_mono_us();
	api_answer_init(&l->answer, count);
	l->answer.dialect = r->dialect;
	l->answer.in = &r->in;
	l->answer.id = r->answer_id;
	l->answer.model = r->model;
	l->answer.fingerprint = m->fingerprint;
	l->answer.created_s = r->created_s;
	l->answer.begun_us = r->begun_us;
	if (r->resume) {
		l->replay_due = true;
		l->told = l->resumed = (int32_t)r->resume->count;
	}
	for (size_t i = 0; i < count; i++) {
		l->choices[i].local = l;
		l->choices[i].said = &l->answer.choices[i];
	}
}

int local_start(struct request *r, struct model *m, struct fault *fault)
{
	size_t count = api_request_answers(&r->in);

	if (r->resume && (!request_is_resumable(r) || strcmp(m->digest, r->resume->digest) != 0))
		return error_set(&fault->err, E_UNAVAILABLE, "the answer was begun by another version of %s", m->name);
	struct local *l = mem_new(sizeof(*l) + count * sizeof(l->choices[0]));
	struct engine_params p = local_params(r);
	struct buf messages = {0}, tools = {0}, schema = {0};

	local_init(l, r, m, count);
	l->runs = model_enter(m);
	if (l->runs && l->runs->engine)
		l->answer.context_tokens = engine_info(l->runs->engine)->context_tokens;
	lora_name(m, l->adapter, sizeof(l->adapter));
	p.adapter = str_from(l->adapter);
	api_request_messages(&r->in, &messages);
	api_request_tools(&r->in, &tools);
	api_request_schema(&r->in, &schema);
	p.messages_json = buf_str(&messages);
	p.tools_json = buf_str(&tools);
	p.json_schema = buf_str(&schema);
	int rc = l->runs && l->runs->engine ? local_submit(l, &p, &fault->err)
	                                    : error_set(&fault->err, E_UNAVAILABLE, "%s", m->error);
	buf_fini(&messages);
	buf_fini(&tools);
	buf_fini(&schema);
	if (rc == 0)
		r->local = l;
	else
		local_cancel(l);
	return rc;
}
