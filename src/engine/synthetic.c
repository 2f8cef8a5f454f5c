/* SPDX-License-Identifier: Apache-2.0 */
/* synthetic.c - an engine without arithmetic: the timing of a model, for load tests and simulations in real time.
 *
 * Prompts are prefilled one after another, `prefill_us_per_token` for each token that the prefix cache does not hold.
 * Running requests get one token each per step of itl_base_us + itl_slope_us x running. A request is admitted
 * when it is its turn (core/request_queue.h), a slot is free and its prompt and whole answer fit into what is left of
 * the KV cache. A token is four bytes of prompt. The answer is a fixed sequence of words chosen by the prompt:
 * max_tokens of them, or ANSWER_TOKENS. The prefix cache is the blocks of as many tokens as the KV cache has (at most
 * CACHE_BLOCKS_MAX), by their hashes, the least recently used go first. Timings of -1 mean none at all, then tokens
 * come in runs of RUN_TOKENS, one run a turn of the loop. All on the loop's thread, one timer an engine. Vectors and
 * ranks are made of the text's bytes and take the time of their tokens, one request after another. The id of an
 * answer's token is the word's number. It will not do tools or schemas: there is no model that could honour them.
 */
#include "core/recent.h"
#include "engine/answer.h"
#include "engine/engine_ops.h"

#include <math.h>
#include <stdlib.h>

enum {
	VECTOR_SIZE = 32,
	ANSWER_TOKENS = 128,
	RUN_TOKENS = 16,
	WORDS = 32,
	BLOCK_BYTES = 64, /* 16 tokens */
	TOKEN_BYTES = 4,
	CACHE_BLOCKS_MAX = 1 << 20,
};

struct synthetic_request {
	struct engine_request base;
	struct engine_copy copy;
	uint64_t *blocks; /* chained hashes of the prompt's whole blocks */
	size_t block_count;
	uint64_t words;                                                     /* where its sequence of words begins */
	int32_t prompt_tokens, cached_tokens, answer_tokens, made, charged; /* charged: of what was made */
	int32_t kv_tokens;                                                  /* it occupies */
	float *vectors; /* embeds or ranks: the answer, ready from the start */
	size_t vector_size, vector_count;
	int64_t since_us;
	bool echo_due, replay_due;
	int32_t *untold; /* tokens that no event has told yet */
	size_t untold_count, untold_room;
	struct answer answer;
};

struct synthetic {
	struct engine base;
	int64_t prefill_us, itl_base_us, itl_slope_us;
	int32_t kv_tokens, kv_used;
	struct loop_timer *timer;
	struct request_queue queue;
	struct synthetic_request *prefilling;
	struct synthetic_request **running; /* `slots` places, NULL where canceled or done; compacted after a pass */
	int32_t running_count;
	int64_t prefill_end_us; /* also when the last one ended */
	int64_t step_us;        /* when the next token is due */
	int64_t load_us, ready_us;
	struct recent *cache;
	bool in_pass;
};

static const char synthetic_words[WORDS][10] = {
    " the",   " model", " sends", " words", " near", " you",   " from", " an",    " edge",   " node", " where",
    " every", " token", " comes", " in",    " time", " and",   " no",   " one",   " waits",  " for",  " it",
    " while", " links", " carry", " what",  " is",   " asked", " back", " again", " slowly", " now",
};

static int64_t timing(int64_t given, int64_t fallback)
{
	return given < 0 ? 0 : given ? given : fallback;
}

static int32_t or_default(int32_t given, int32_t fallback)
{
	return given > 0 ? given : fallback;
}

int engine_synthetic_new(const struct engine_options *options, struct engine **ret_engine, struct error *err)
{
	struct synthetic *s = NEW(struct synthetic);
	int32_t slots = or_default(options->slots, 8), context = or_default(options->context_tokens, 4096);
	(void)err;

	s->base.ops = &engine_synthetic_ops;
	s->base.info = (struct engine_info){.architecture = "synthetic",
	                                    .context_tokens = context,
	                                    .slots = slots,
	                                    .chat = true,
	                                    .embedding_size = VECTOR_SIZE,
	                                    .rerank = true};
	s->prefill_us = timing(options->prefill_us_per_token, 200);
	s->itl_base_us = timing(options->itl_base_us, 10 * 1000);
	s->itl_slope_us = timing(options->itl_slope_us, 1000);
	s->load_us = options->load_us;
	int64_t kv = options->kv_tokens > 0 ? options->kv_tokens : (int64_t)slots * context;
	s->kv_tokens = kv > INT32_MAX ? INT32_MAX : (int32_t)kv;
	s->running = mem_new((size_t)slots * sizeof(*s->running));
	uint32_t blocks = (uint32_t)s->kv_tokens / (BLOCK_BYTES / TOKEN_BYTES) + 1;
	s->cache = recent_new(blocks < CACHE_BLOCKS_MAX ? blocks : CACHE_BLOCKS_MAX);
	*ret_engine = &s->base;
	return 0;
}

static int64_t synthetic_itl(const struct synthetic *s)
{
	return s->itl_base_us + s->itl_slope_us * s->running_count;
}

/* ---- requests ------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t h, const char *at)
{
	uint64_t word;
	memcpy(&word, at, sizeof(word));
	h = (h ^ word) * UINT64_C(0x9e3779b97f4a7c15);
	return h ^ (h >> 29);
}

static void synthetic_hash(struct synthetic_request *r, struct str prompt)
{
	uint64_t h = 1;

	r->block_count = prompt.len / BLOCK_BYTES;
	r->blocks = mem_new(r->block_count * sizeof(*r->blocks) + 1);
	for (size_t i = 0; i < r->block_count; i++) {
		for (size_t j = 0; j < BLOCK_BYTES; j += sizeof(h))
			h = mix(h, prompt.base + i * BLOCK_BYTES + j);
		r->blocks[i] = h | 1; /* 0 is an empty place */
	}
}

static struct synthetic_request *synthetic_first(const struct synthetic *s)
{
	struct queued *first = request_queue_first(&s->queue);

	return first ? (struct synthetic_request *)engine_request_of(first) : NULL;
}

/* Could the one whose turn it is begin now? One that can never fit may: to be told so. */
static bool synthetic_fits(const struct synthetic *s)
{
	const struct synthetic_request *r = synthetic_first(s);

	return r && !s->prefilling && s->running_count < s->base.info.slots &&
	       (r->answer_tokens < 0 || (int64_t)s->kv_used + r->kv_tokens <= s->kv_tokens);
}

static void synthetic_arm(struct synthetic *s)
{
	int64_t now = loop_now_us(s->base.loop), due = INT64_MAX;

	if (s->in_pass)
		return;
	if (s->prefilling)
		due = s->prefill_end_us;
	else if (s->base.state == ENGINE_LOADING)
		due = s->ready_us;
	else if (synthetic_fits(s))
		due = now;
	for (int32_t i = 0; i < s->running_count && due > now; i++)
		if (s->running[i] && !s->running[i]->base.paused) {
			due = s->step_us < due ? s->step_us : due;
			break;
		}
	if (due == INT64_MAX)
		loop_timer_stop(s->timer);
	else
		loop_timer_start(s->timer, due > now ? due - now : 0, 0);
}

/* Numbers between -1 and 1 that only the text decides. */
static void vector_fill(struct str text, uint64_t h, float *to, size_t size)
{
	double sum = 0;

	for (size_t i = 0; i < text.len; i++)
		h = (h ^ (unsigned char)text.base[i]) * UINT64_C(0x100000001b3);
	for (size_t i = 0; i < size; i++) {
		h = h * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		to[i] = (float)((double)(h >> 40) / (1 << 23) - 1);
		sum += (double)to[i] * (double)to[i];
	}
	for (size_t i = 0; size > 1 && i < size; i++)
		to[i] = (float)((double)to[i] / sqrt(sum));
}

static int synthetic_embed(struct synthetic_request *r, const struct engine_params *p, struct error *err)
{
	size_t size = p->task == ENGINE_RERANK ? 1 : p->dimensions ? (size_t)p->dimensions : VECTOR_SIZE, at = 0;
	int64_t tokens = 0;

	if (size > VECTOR_SIZE)
		return error_set(err, E_INVAL, "dimensions is %zu, this model's vectors have %d", size, VECTOR_SIZE);
	r->vector_size = size;
	r->vector_count = p->input_count;
	r->vectors = mem_new(p->input_count * size * sizeof(*r->vectors) + 1);
	for (size_t i = 0; i < p->input_count; i++) {
		struct str text;
		if (p->input_lengths) {
			text = (struct str){(const char *)(p->prompt_tokens + at),
			                    (size_t)p->input_lengths[i] * sizeof(int32_t)};
			at += (size_t)p->input_lengths[i];
		} else {
			text = p->inputs[i];
		}
		vector_fill(text, 1 + p->prompt.len, r->vectors + i * size, size);
		tokens += (int64_t)((text.len + p->prompt.len + TOKEN_BYTES - 1) / TOKEN_BYTES);
	}
	r->prompt_tokens = tokens > INT32_MAX ? INT32_MAX : (int32_t)tokens;
	return 0;
}

static int32_t synthetic_cached(const struct synthetic *s, const struct synthetic_request *r)
{
	size_t held = 0;

	while (held < r->block_count && recent_has(s->cache, r->blocks[held]))
		held++;
	int32_t tokens = (int32_t)(held * BLOCK_BYTES / TOKEN_BYTES);
	return tokens < r->prompt_tokens ? tokens : r->prompt_tokens > 0 ? r->prompt_tokens - 1 : 0;
}

static int32_t synthetic_word(const struct synthetic_request *r, int32_t number)
{
	return (int32_t)((r->words + (uint64_t)number * 7) % WORDS);
}

/* The answer's first words have been said elsewhere. */
static int synthetic_resume(struct synthetic_request *r, const struct engine_params *p, struct error *err)
{
	for (size_t i = 0; i < p->resumed_count; i++)
		if ((int64_t)i >= r->answer_tokens || p->resumed[i] != synthetic_word(r, (int32_t)i))
			return error_set(err, E_INVAL, "%d cannot be token %zu of this answer", p->resumed[i], i);
	r->made = r->charged = (int32_t)p->resumed_count;
	r->replay_due = r->made > 0;
	return 0;
}

static int synthetic_submit(struct engine *engine, const struct engine_params *p, struct engine_request *request,
                            struct error *err)
{
	struct synthetic *s = (struct synthetic *)engine;
	struct synthetic_request *r = (struct synthetic_request *)request;
	struct str prompt = p->task == ENGINE_CHAT ? p->messages_json : p->prompt;
	struct engine_params kept = {.stops = p->stops, .stop_count = p->stop_count};

	if (p->json_schema.len || str_equal(p->tool_choice, STR("required")))
		return error_set(err, E_INVAL, "the synthetic engine cannot honour response_format or tool_choice");
	if (p->task == ENGINE_TOKENIZE || p->task == ENGINE_DETOKENIZE)
		return error_set(err, E_UNSUPPORTED, "the synthetic engine has no vocabulary");
	if (p->echo && p->task == ENGINE_COMPLETION) {
		kept.prompt = prompt;
		r->echo_due = true;
	}
	kept.logprobs = p->logprobs;
	kept.max_tokens = p->max_tokens;
	engine_copy_init(&r->copy, &kept);
	answer_init(&r->answer, r->copy.params.stops, r->copy.params.stop_count);
	r->since_us = loop_now_us(engine->loop);
	if (p->task == ENGINE_EMBED || p->task == ENGINE_RERANK) {
		int rc = synthetic_embed(r, p, err);
		if (rc < 0)
			return rc;
		r->copy.params.max_tokens = 0; /* nothing is said */
		request_queue_join(&s->queue, &r->base.turn, p->tenant, p->tenant_weight);
		synthetic_arm(s);
		return 0;
	}
	r->prompt_tokens = (int32_t)((prompt.len + TOKEN_BYTES - 1) / TOKEN_BYTES);
	r->answer_tokens = p->max_tokens >= 0 ? p->max_tokens : ANSWER_TOKENS;
	int32_t room = engine->info.context_tokens < s->kv_tokens ? engine->info.context_tokens : s->kv_tokens;
	if (r->answer_tokens > room - r->prompt_tokens)
		r->answer_tokens = room - r->prompt_tokens; /* < 1: told when its turn comes */
	r->kv_tokens = r->prompt_tokens + r->answer_tokens;
	if (s->prefill_us)
		synthetic_hash(r, prompt);
	r->cached_tokens = synthetic_cached(s, r); /* as it looks now */
	r->words = prompt.len + (prompt.len ? (unsigned char)prompt.base[prompt.len / 2] : 0);
	int rc = synthetic_resume(r, p, err);
	if (rc < 0)
		return rc;
	request_queue_join(&s->queue, &r->base.turn, p->tenant, p->tenant_weight);
	synthetic_arm(s);
	return 0;
}

static void synthetic_leave(struct synthetic_request *r)
{
	struct synthetic *s = (struct synthetic *)r->base.engine;

	bool waited = r->base.turn.waits;

	request_queue_leave(&s->queue, &r->base.turn);
	if (waited)
		return;
	s->kv_used -= r->kv_tokens;
	if (s->prefilling == r) {
		s->prefilling = NULL;
		return;
	}
	for (int32_t i = 0; i < s->running_count; i++)
		if (s->running[i] == r)
			s->running[i] = NULL;
}

static void synthetic_compact(struct synthetic *s)
{
	int32_t kept = 0;

	for (int32_t i = 0; i < s->running_count; i++)
		if (s->running[i])
			s->running[kept++] = s->running[i];
	s->running_count = kept;
}

static void synthetic_cancel(struct engine_request *request)
{
	struct synthetic *s = (struct synthetic *)request->engine;

	synthetic_leave((struct synthetic_request *)request);
	engine_request_free(request);
	if (!s->in_pass && !s->base.closing) {
		synthetic_compact(s);
		synthetic_arm(s);
	}
}

static void synthetic_paused(struct engine_request *request)
{
	synthetic_arm((struct synthetic *)request->engine);
}

static void synthetic_request_fini(struct engine_request *request)
{
	struct synthetic_request *r = (struct synthetic_request *)request;

	answer_fini(&r->answer);
	engine_copy_fini(&r->copy);
	free(r->blocks);
	free(r->vectors);
	free(r->untold);
}

static void synthetic_done(struct synthetic_request *r, enum engine_finish finish, const struct error *err)
{
	synthetic_leave(r);
	r->base.stop = (int32_t)r->answer.hit;
	engine_finish(&r->base, finish, err, r->prompt_tokens, r->cached_tokens, r->made);
}

static void synthetic_charge(struct synthetic_request *r, int32_t cost)
{
	request_queue_charge(&((struct synthetic *)r->base.engine)->queue, &r->base.turn, cost);
}

/* ---- time ----------------------------------------------------------------------------------- */

static void untold_add(struct synthetic_request *r, int32_t token)
{
	if (r->untold_count == r->untold_room) {
		r->untold_room = 2 * r->untold_room + RUN_TOKENS;
		r->untold = mem_resize(r->untold, r->untold_room, sizeof(*r->untold));
	}
	r->untold[r->untold_count++] = token;
}

static void synthetic_echo(struct synthetic_request *r)
{
	if (r->echo_due)
		buf_append_str(&r->answer.ready, r->copy.params.prompt);
	r->echo_due = false;
}

/* What was said elsewhere; false when it is no longer running. */
static bool synthetic_replay(struct synthetic_request *r)
{
	struct engine_event event = {.kind = ENGINE_TEXT,
	                             .replayed = true,
	                             .prompt_tokens = r->prompt_tokens,
	                             .cached_tokens = r->cached_tokens,
	                             .completion_tokens = r->made};

	if (!r->replay_due)
		return true;
	r->replay_due = false;
	synthetic_echo(r);
	for (int32_t i = 0; i < r->made; i++)
		answer_add(&r->answer, str_from(synthetic_words[synthetic_word(r, i)]));
	event.text = answer_ready(&r->answer);
	if (event.text.len && !engine_emit(&r->base, &event))
		return false;
	answer_taken(&r->answer);
	return true;
}

/* `count` tokens for one request; false when it is no longer running. */
static bool synthetic_speak(struct synthetic_request *r, int32_t count)
{
	struct engine_logprob logprobs[RUN_TOKENS];
	bool stopped = false;
	struct engine_event event = {
	    .kind = ENGINE_TEXT, .prompt_tokens = r->prompt_tokens, .cached_tokens = r->cached_tokens};

	if (!synthetic_replay(r))
		return false;
	synthetic_echo(r);
	for (int32_t i = 0; i < count && r->made < r->answer_tokens && !stopped; i++) {
		int32_t token = synthetic_word(r, r->made);
		struct str word = str_from(synthetic_words[token]);
		untold_add(r, token);
		logprobs[event.logprob_count++] = (struct engine_logprob){.token = word};
		stopped = answer_add(&r->answer, word);
		r->made++;
	}
	synthetic_charge(r, FAIRNESS_OUTPUT * (r->made - r->charged));
	r->charged = r->made;
	if (!stopped && r->made == r->answer_tokens)
		answer_end(&r->answer);
	event.text = answer_ready(&r->answer);
	event.completion_tokens = r->made;
	if (r->copy.params.logprobs >= 0)
		event.logprobs = logprobs;
	else
		event.logprob_count = 0;
	if (event.text.len || event.logprob_count) {
		event.tokens = r->untold;
		event.token_count = r->untold_count;
		r->untold_count = 0;
		if (!engine_emit(&r->base, &event))
			return false;
	}
	answer_taken(&r->answer);
	if (!stopped && r->made < r->answer_tokens)
		return true;
	synthetic_done(r, stopped || r->copy.params.max_tokens < 0 ? FINISH_STOP : FINISH_LENGTH, NULL);
	return false;
}

/* Takes the head of the queue if it fits; false when nothing more can begin now. */
static bool synthetic_begin(struct synthetic *s, int64_t now)
{
	struct synthetic_request *r = synthetic_first(s);

	if (!synthetic_fits(s))
		return false;
	if (r->answer_tokens < 0 || (r->answer_tokens == 0 && r->copy.params.max_tokens != 0)) {
		struct error err;
		error_set(&err, E_LIMIT, "the prompt has %d tokens, the context %d: shorten the prompt",
		          r->prompt_tokens, s->base.info.context_tokens);
		synthetic_done(r, FINISH_ERROR, &err);
		return true;
	}
	request_queue_begin(&s->queue, &r->base.turn);
	s->prefilling = r;
	s->kv_used += r->kv_tokens;
	r->cached_tokens = synthetic_cached(s, r);
	synthetic_charge(r, FAIRNESS_INPUT * (r->prompt_tokens - r->cached_tokens));
	/* Timers are late by up to a millisecond; a busy prefill must not lose that time each time. */
	int64_t from = s->prefill_end_us > r->since_us ? s->prefill_end_us : r->since_us;
	if (now - from > 20 * 1000)
		from = now;
	s->prefill_end_us = from + s->prefill_us * (r->prompt_tokens - r->cached_tokens + r->made);
	struct engine_event event = {.kind = ENGINE_STARTED,
	                             .prompt_tokens = r->prompt_tokens,
	                             .cached_tokens = r->cached_tokens,
	                             .completion_tokens = r->made};
	engine_emit(&r->base, &event);
	return true;
}

/* Nothing to say, all is known: the vectors. */
static void synthetic_vectors(struct synthetic_request *r)
{
	const struct engine_event event = {
	    .kind = ENGINE_DONE,
	    .finish = FINISH_STOP,
	    .prompt_tokens = r->prompt_tokens,
	    .vectors = r->vectors,
	    .vector_size = r->vector_size,
	    .vector_count = r->vector_count,
	};

	synthetic_leave(r);
	engine_finish_event(&r->base, &event);
}

static void synthetic_prefilled(struct synthetic *s, int64_t now)
{
	struct synthetic_request *r = s->prefilling;

	if (r->vectors) {
		synthetic_vectors(r);
		return;
	}
	s->prefilling = NULL;
	for (size_t i = r->block_count; i-- > 0;) /* so that a prompt's end goes before its beginning */
		recent_touch(s->cache, r->blocks[i], 0, now);
	s->running[s->running_count++] = r;
	if (s->running_count == 1)
		s->step_us = now + synthetic_itl(s);
	if (!r->base.paused)
		synthetic_speak(r, synthetic_itl(s) || r->answer_tokens < 2 ? 1 : RUN_TOKENS);
}

static void synthetic_step(struct synthetic *s, int64_t now)
{
	int64_t itl = synthetic_itl(s);
	int64_t due = itl ? 1 + (now - s->step_us) / itl : RUN_TOKENS;

	if (due > RUN_TOKENS)
		due = RUN_TOKENS; /* the loop was held up; do not flood */
	s->step_us = now - (s->step_us + due * itl) > itl ? now + itl : s->step_us + due * itl;
	for (int32_t i = 0; i < s->running_count; i++)
		if (s->running[i] && !s->running[i]->base.paused)
			synthetic_speak(s->running[i], (int32_t)due);
}

static void synthetic_pass(void *arg)
{
	struct synthetic *s = arg;
	int64_t now = loop_now_us(s->base.loop);

	if (s->base.state == ENGINE_LOADING && now < s->ready_us) {
		synthetic_arm(s);
		return;
	}
	if (s->base.state == ENGINE_LOADING)
		engine_tell_state(&s->base, ENGINE_READY, NULL);
	s->in_pass = true;
	if (s->running_count && now >= s->step_us)
		synthetic_step(s, now);
	synthetic_compact(s);
	do {
		if (s->prefilling && now >= s->prefill_end_us) {
			synthetic_prefilled(s, now);
			synthetic_compact(s);
		}
	} while (synthetic_begin(s, now));
	s->in_pass = false;
	synthetic_arm(s);
}

void engine_synthetic_start(struct engine *engine, const struct engine_options *options)
{
	struct synthetic *s = (struct synthetic *)engine;
	(void)options;

	s->timer = loop_timer_new(engine->loop, synthetic_pass, s);
	s->ready_us = loop_now_us(engine->loop) + s->load_us;
	loop_timer_start(s->timer, s->load_us, 0);
}

static void synthetic_load(const struct engine *engine, struct engine_load *load)
{
	const struct synthetic *s = (const struct synthetic *)engine;
	int64_t itl = synthetic_itl(s), now = loop_now_us(engine->loop);

	if (engine->state == ENGINE_LOADING && s->load_us)
		load->load_progress = 1 - (double)(s->ready_us > now ? s->ready_us - now : 0) / (double)s->load_us;
	load->kv_usage = (double)s->kv_used / s->kv_tokens;
	load->itl_us = (double)itl;
	load->prefill_tokens_per_s = s->prefill_us ? 1e6 / (double)s->prefill_us : 0;
	load->decode_tokens_per_s = itl ? 1e6 * s->running_count / (double)itl : 0;
	for (const struct queued *q = NULL; (q = request_queue_next(&s->queue, q)) != NULL;) {
		const struct synthetic_request *r = (const struct synthetic_request *)engine_request_of(q);
		load->tokens_to_prefill += r->prompt_tokens - r->cached_tokens;
	}
	if (s->prefilling && s->prefill_us && s->prefill_end_us > now)
		load->tokens_to_prefill += (s->prefill_end_us - now) / s->prefill_us;
}

static void synthetic_free(struct engine *engine)
{
	struct synthetic *s = (struct synthetic *)engine;

	loop_timer_free(s->timer);
	request_queue_fini(&s->queue);
	free(s->running);
	recent_free(s->cache);
	free(s);
}

const struct engine_ops engine_synthetic_ops = {
    .submit = synthetic_submit,
    .cancel = synthetic_cancel,
    .paused = synthetic_paused,
    .load = synthetic_load,
    .request_fini = synthetic_request_fini,
    .free = synthetic_free,
    .request_size = sizeof(struct synthetic_request),
    .resumes = true,
};
