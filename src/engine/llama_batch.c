/* SPDX-License-Identifier: Apache-2.0 */
/* llama_batch.c - the engine thread: a queue, N slots, one batch after another.
 *
 * A slot holds a request, or the KV of its last one, which a request with a common beginning takes up again. A request
 * is a row of tokens; the KV cache holds the first `past` of them. One token missing and something generated: it is a
 * running stream, and its token goes into every batch. More missing: it is prefilling, and gets what llama_plan gives.
 * The row that reaches the end wants logits; from them the next token is sampled. So a request that lost its KV
 * (preempted when the cache was full) simply goes back to the queue with its tokens and is prefilled again.
 *
 * Paused requests and those whose events the loop has not taken keep their KV and stay out of the batch.
 */
#include "engine/llama_parts.h"
#include "engine/llama_plan.h"
#include "engine/llama_shelf.h"

#include "base/clock.h"
#include "base/limits.h"
#include "base/rng.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

enum {
	SHELVE_LEAST = 48, /* tokens; fewer are computed again as fast */
	SHELF_SHARE = 8,   /* of the memory available at the start */
	SHELF_BYTES_MAX = 1 << 30,
};

struct slot {
	struct llama_request *request; /* NULL: idle */
	int32_t *tokens;               /* idle: what the KV holds, owned; busy: NULL, the request has them */
	int32_t past;                  /* tokens in the KV */
	int32_t row;                   /* in this batch; -1: no logits asked */
	int32_t added;                 /* tokens in this batch */
	uint64_t used;                 /* when it was last given back */
};

struct batch {
	struct llama_engine *engine;
	struct llama_box *box;
	struct llama_core *core;
	struct llama_settings settings;
	struct slot *slots;
	struct llama_request *queue; /* sorted */
	struct llama_share *shares;
	struct sample_scratch scratch;
	struct shelf shelf;
	struct buf piece;
	struct llama_event *events, **events_last;
	struct llama_numbers numbers;
	uint64_t releases;
};

/* ---- events ------------------------------------------------------------------------------------ */

static struct llama_event *event_new(struct batch *b, struct llama_request *r, enum llama_event_kind kind,
                                     struct str text)
{
	struct llama_event *event = mem_new(sizeof(*event) + text.len + 1);

	event->request = r;
	event->kind = kind;
	event->text_len = text.len;
	if (text.len)
		memcpy(event->text, text.base, text.len);
	if (r) {
		event->prompt_count = r->prompt_count;
		event->cached_count = r->thread.cached;
		event->made = r->thread.made;
	}
	*b->events_last = event;
	b->events_last = &event->next;
	return event;
}

static void batch_send(struct batch *b)
{
	llama_mail_send(&b->engine->mail, b->events, &b->numbers);
	b->events = NULL;
	b->events_last = &b->events;
}

static struct error *error_copy(const struct error *err)
{
	struct error *copy = NEW(struct error);
	*copy = *err;
	return copy;
}

/* ---- logprobs ---------------------------------------------------------------------------------- */

static struct llama_logprob_entry *logprob_entry(struct batch *b, struct llama_logprob_log *log, int32_t token,
                                                 float logprob)
{
	struct str piece = llama_box_piece(b->box, token, true, &b->piece);

	if (log->count == log->room) {
		log->room = log->room ? 2 * log->room : 32;
		log->entries = mem_resize(log->entries, log->room, sizeof(*log->entries));
	}
	struct llama_logprob_entry *entry = &log->entries[log->count++];
	*entry = (struct llama_logprob_entry){
	    .at = (uint32_t)log->bytes.len, .len = (uint32_t)piece.len, .logprob = logprob};
	buf_append_str(&log->bytes, piece);
	return entry;
}

/* From the model's own logits, before penalties and temperature. `top` was chosen then. */
static void logprobs_note(struct batch *b, struct llama_request *r, int32_t token, float logit, float log_sum,
                          const struct sample_candidate *top, size_t top_count)
{
	struct llama_logprob_log *log = &r->thread.logprobs;

	struct llama_logprob_entry *entry = logprob_entry(b, log, token, logit - log_sum);
	entry->top_count = (uint32_t)top_count;
	entry->start = r->thread.answer.decided + r->thread.answer.held.len;
	for (size_t i = 0; i < top_count; i++)
		logprob_entry(b, log, top[i].token, top[i].value - log_sum);
	log->tokens++;
}

/* A stop string was met: tokens that begin behind the text that is shown are not shown either. */
static void logprobs_trim(struct llama_request *r)
{
	struct llama_logprob_log *log = &r->thread.logprobs;

	for (size_t i = 0, tokens = 0; i < log->count; i += 1 + log->entries[i].top_count, tokens++)
		if (log->entries[i].start >= r->thread.answer.decided) {
			log->count = i;
			log->tokens = tokens;
			return;
		}
}

/* The log as one block: tokens, then alternatives, then their bytes. */
static void logprobs_flush(struct llama_request *r, struct llama_event *event)
{
	struct llama_logprob_log *log = &r->thread.logprobs;
	size_t tops = log->count - log->tokens;

	if (!log->tokens)
		return;
	struct engine_logprob *out =
	    mem_new(log->tokens * sizeof(*out) + tops * sizeof(struct engine_logprob_alternative) + log->bytes.len + 1);
	struct engine_logprob_alternative *top = (struct engine_logprob_alternative *)(out + log->tokens);
	char *bytes = (char *)(top + tops);

	if (log->bytes.len)
		memcpy(bytes, log->bytes.base, log->bytes.len);
	for (size_t i = 0; i < log->count; event->logprob_count++) {
		const struct llama_logprob_entry *entry = &log->entries[i++];
		struct engine_logprob *to = &out[event->logprob_count];
		*to = (struct engine_logprob){{bytes + entry->at, entry->len}, entry->logprob, top, entry->top_count};
		for (uint32_t j = 0; j < entry->top_count; j++, i++)
			*top++ = (struct engine_logprob_alternative){{bytes + log->entries[i].at, log->entries[i].len},
			                                             log->entries[i].logprob};
	}
	event->logprobs = out;
	log->count = log->tokens = 0;
	buf_clear(&log->bytes);
}

/* ---- slots and queue --------------------------------------------------------------------------- */

static int32_t slot_seq(const struct batch *b, const struct slot *slot)
{
	return (int32_t)(slot - b->slots);
}

static void slot_keep(struct batch *b, struct slot *slot, int32_t position)
{
	if (slot->past > position)
		slot->past = llama_core_keep(b->core, slot_seq(b, slot), position) ? position : 0;
}

static void slot_empty(struct batch *b, struct slot *slot)
{
	if (slot->past) {
		llama_core_keep(b->core, slot_seq(b, slot), 0);
		slot->past = 0;
	}
	free(slot->tokens);
	slot->tokens = NULL;
}

/* The request leaves; what it has computed stays until somebody needs the slot or the room. */
static struct llama_request *slot_release(struct batch *b, struct slot *slot)
{
	struct llama_request *r = slot->request;

	slot->request = NULL;
	slot->tokens = r->tokens;
	slot->used = ++b->releases;
	r->tokens = NULL;
	if (!slot->past)
		slot_empty(b, slot);
	return r;
}

static void request_end(struct batch *b, struct llama_request *r, enum engine_finish finish, const struct error *err)
{
	struct llama_event *event = event_new(b, r, LLAMA_DONE, (struct str){0});

	event->finish = finish;
	if (err)
		event->err = error_copy(err);
}

static void queue_add(struct batch *b, struct llama_request *r)
{
	struct llama_request **at = &b->queue;

	while (*at && engine_before(&(*at)->base, &r->base))
		at = &(*at)->thread.next;
	r->thread.next = *at;
	*at = r;
}

/* A request has come: what the thread needs besides its tokens. */
static void request_accept(struct batch *b, struct llama_request *r)
{
	const struct engine_params *p = &r->copy.params;
	size_t own = r->prompt ? r->prompt->stop_count : 0;

	r->thread.stops = mem_new((p->stop_count + own) * sizeof(struct str) + 1);
	if (p->stop_count)
		memcpy(r->thread.stops, p->stops, p->stop_count * sizeof(struct str));
	if (own)
		memcpy(r->thread.stops + p->stop_count, r->prompt->stops, own * sizeof(struct str));
	answer_init(&r->thread.answer, r->thread.stops, p->stop_count + own);
	sampler_init(&r->thread.sampler, &p->sampling, p->sampling.has_seed ? p->sampling.seed : rng_seed());
	sampler_prompt(&r->thread.sampler, r->tokens, (size_t)r->token_count);
	r->thread.echo_due = p->echo && p->task == ENGINE_COMPLETION;
	queue_add(b, r);
}

static int32_t kv_held(const struct batch *b)
{
	int64_t held = 0;

	for (int32_t i = 0; i < b->settings.slots; i++)
		held += b->slots[i].past;
	return (int32_t)held;
}

/* Drops the KV of the slot idle for longest; false: none has any. */
static bool kv_evict(struct batch *b)
{
	struct slot *oldest = NULL;

	for (struct slot *slot = b->slots; slot < b->slots + b->settings.slots; slot++)
		if (!slot->request && slot->past && (!oldest || slot->used < oldest->used))
			oldest = slot;
	if (oldest)
		slot_empty(b, oldest);
	return oldest;
}

/* Sends the least important running request back to the queue; false: only one is left. */
static bool kv_preempt(struct batch *b)
{
	struct slot *least = NULL;
	int32_t busy = 0;

	for (struct slot *slot = b->slots; slot < b->slots + b->settings.slots; slot++) {
		if (!slot->request)
			continue;
		busy++;
		if (!slot->past)
			continue;
		bool rests = atomic_load(&slot->request->paused),
		     least_rests = least && atomic_load(&least->request->paused);
		if (!least ||
		    (rests != least_rests ? rests : engine_before(&least->request->base, &slot->request->base)))
			least = slot;
	}
	if (busy < 2 || !least)
		return false;
	struct llama_request *r = least->request;
	least->request = NULL;
	slot_empty(b, least);
	queue_add(b, r);
	return true;
}

/* Could this request be computed to its end of prompt with what is left once idle KV is dropped? */
static bool kv_fits(const struct batch *b, const struct llama_request *r)
{
	int64_t promised = 0;
	bool busy = false;

	for (int32_t i = 0; i < b->settings.slots; i++) {
		const struct slot *slot = &b->slots[i];
		if (slot->request) {
			busy = true;
			promised += slot->request->token_count > slot->past ? slot->request->token_count : slot->past;
		}
	}
	return !busy || promised + r->token_count + b->settings.slots <= b->settings.kv_tokens;
}

static int32_t *tokens_copy(const int32_t *tokens, int32_t count)
{
	return memcpy(mem_new((size_t)count * sizeof(*tokens)), tokens, (size_t)count * sizeof(*tokens));
}

/* A copy of a slot's KV goes to the shelf, when it is worth that and fits. */
static void slot_shelve(struct batch *b, const struct slot *slot)
{
	int32_t seq = slot_seq(b, slot);
	size_t size = slot->past >= SHELVE_LEAST ? llama_core_size(b->core, seq) : 0;
	uint8_t *blob = shelf_room(&b->shelf, size);

	if (!blob)
		return;
	if (llama_core_export(b->core, seq, blob, size) == size) {
		shelf_put(&b->shelf, tokens_copy(slot->tokens, slot->past), slot->past, blob, size);
	} else {
		free(blob);
	}
}

/* Takes a request's beginning off the shelf into an empty slot, if it is there and longer than `than`. */
static void slot_unshelve(struct batch *b, struct slot *slot, const struct llama_request *r, int32_t than)
{
	int32_t common;
	struct shelf_item *item = shelf_find(&b->shelf, r->tokens, r->token_count - 1, than, &common);

	if (!item || kv_held(b) + item->count > b->settings.kv_tokens)
		return;
	slot_empty(b, slot);
	if (!llama_core_import(b->core, slot_seq(b, slot), item->blob, item->size)) {
		llama_core_keep(b->core, slot_seq(b, slot), 0);
		free(shelf_take(&b->shelf, item));
		return;
	}
	slot->past = item->count;
	/* What only begins alike (a system prompt) stays for the next one, too. */
	slot->tokens =
	    item->count - common < SHELVE_LEAST ? shelf_take(&b->shelf, item) : tokens_copy(item->tokens, item->count);
	slot_keep(b, slot, common);
}

/* The idle slot whose KV begins most like the request, or an empty one; NULL: all are busy. Its KV is cut to the common
 * beginning, the other idle slots lose theirs to the shelf. */
static struct slot *slot_choose(struct batch *b, const struct llama_request *r)
{
	struct slot *best = NULL;
	int32_t best_common = 0;

	for (struct slot *slot = b->slots; slot < b->slots + b->settings.slots; slot++) {
		if (slot->request)
			continue;
		int32_t common =
		    slot->tokens ? tokens_common(slot->tokens, slot->past, r->tokens, r->token_count - 1) : 0;
		if (!best || common > best_common || (common == best_common && slot->past < best->past)) {
			best = slot;
			best_common = common;
		}
	}
	if (!best)
		return NULL;
	/* What the best one holds beyond may be of use to others, too. */
	if (best->past - best_common >= SHELVE_LEAST)
		slot_shelve(b, best);
	for (struct slot *slot = b->slots; slot < b->slots + b->settings.slots; slot++)
		if (!slot->request && slot->past && slot != best) {
			slot_shelve(b, slot);
			slot_empty(b, slot);
		}
	slot_keep(b, best, best_common);
	slot_unshelve(b, best, r, best->past + SHELVE_LEAST / 2);
	return best;
}

static void request_start(struct batch *b, struct slot *slot, struct llama_request *r)
{
	free(slot->tokens);
	slot->tokens = NULL;
	slot->request = r;
	slot->row = -1;
	if (r->thread.started)
		return; /* it was preempted */
	r->thread.started = true;
	r->thread.cached = slot->past;
	event_new(b, r, LLAMA_STARTED, (struct str){0});
}

static void queue_purge(struct batch *b)
{
	struct llama_request **at = &b->queue;

	while (*at) {
		struct llama_request *r = *at;
		if (atomic_load(&r->canceled)) {
			*at = r->thread.next;
			event_new(b, r, LLAMA_RELEASED, (struct str){0});
		} else {
			at = &r->thread.next;
		}
	}
}

static void queue_serve(struct batch *b)
{
	struct llama_request **at = &b->queue;

	while (*at) {
		struct llama_request *r = *at;

		if (atomic_load(&r->paused) && r->thread.started) { /* preempted for being paused: let others in */
			at = &r->thread.next;
			continue;
		}
		if (!kv_fits(b, r))
			return;
		struct slot *slot = slot_choose(b, r);
		if (!slot)
			return;
		*at = r->thread.next;
		request_start(b, slot, r);
	}
}

static void slots_check(struct batch *b)
{
	for (struct slot *slot = b->slots; slot < b->slots + b->settings.slots; slot++)
		if (slot->request && atomic_load(&slot->request->canceled))
			event_new(b, slot_release(b, slot), LLAMA_RELEASED, (struct str){0});
}

/* ---- one batch --------------------------------------------------------------------------------- */

static bool slot_runs(const struct slot *slot)
{
	const struct llama_request *r = slot->request;

	return r && !atomic_load(&r->paused) && atomic_load(&r->undelivered) < UNDELIVERED_MAX;
}

static void slot_add(struct batch *b, struct slot *slot, int32_t count)
{
	struct llama_request *r = slot->request;

	for (int32_t i = 0; i < count; i++) {
		int32_t position = slot->past + i;
		bool last = position == r->token_count - 1;
		int32_t row = llama_core_add(b->core, r->tokens[position], position, slot_seq(b, slot), last);
		if (last)
			slot->row = row;
	}
	slot->added = count;
}

/* Fills the batch; *ret_prompt of its tokens belong to prompts, the result are streams. */
static int32_t batch_fill(struct batch *b, int32_t *ret_prompt)
{
	size_t prefilling = 0;
	int32_t streams = 0;

	llama_core_clear(b->core);
	*ret_prompt = 0;
	for (struct slot *slot = b->slots; slot < b->slots + b->settings.slots; slot++) {
		slot->row = -1;
		slot->added = 0;
		if (!slot_runs(slot))
			continue;
		int32_t missing = slot->request->token_count - slot->past;
		if (missing == 1 && slot->request->thread.made) {
			slot_add(b, slot, 1);
			streams++;
		} else {
			b->shares[prefilling++] =
			    (struct llama_share){slot_seq(b, slot), missing, slot->request->base.arrival, 0};
		}
	}
	llama_plan_share(b->shares, prefilling,
	                 llama_plan_budget(llama_core_room(b->core) + streams, streams, b->numbers.prefill_rate));
	for (size_t i = 0; i < prefilling; i++) {
		slot_add(b, &b->slots[b->shares[i].slot], b->shares[i].gets);
		*ret_prompt += b->shares[i].gets;
	}
	return streams;
}

static void batch_fail(struct batch *b, int rc)
{
	struct error err;

	error_set(&err, E_INTERNAL, "the model could not compute this batch (llama_decode: %d)", rc);
	for (struct slot *slot = b->slots; slot < b->slots + b->settings.slots; slot++)
		if (slot->request && slot->added) {
			struct llama_request *r = slot_release(b, slot);
			/* What of the batch was computed is unknown. */
			llama_core_keep(b->core, slot_seq(b, slot), 0);
			slot_empty(b, slot);
			request_end(b, r, FINISH_ERROR, &err);
		}
}

/* Makes room for a batch of `count` tokens; false: slots were lost, the batch must be filled again. */
static bool batch_room(struct batch *b, int32_t count)
{
	bool same = true;

	while (kv_held(b) + count > b->settings.kv_tokens) {
		if (kv_evict(b))
			continue;
		if (!kv_preempt(b))
			break; /* one request alone always fits: its context is not larger than the cache */
		same = false;
	}
	return same;
}

static void ewma(double *value, double sample, double weight)
{
	*value = *value > 0 ? *value + weight * (sample - *value) : sample;
}

static void batch_measure(struct batch *b, int32_t streams, int32_t prompt, int64_t took_us)
{
	struct llama_numbers *n = &b->numbers;
	double took = (double)(took_us > 0 ? took_us : 1);

	n->steps++;
	if (streams && !prompt) {
		ewma(&n->decode_rate, streams * 1e6 / took, 0.05);
	} else if (prompt >= 16) {
		double decode = streams ? n->itl_us : 0;
		ewma(&n->prefill_rate, prompt * 1e6 / (took - (decode < took / 2 ? decode : took / 2)), 0.2);
	}
	if (prompt)
		n->prefill_steps++;
	if (prompt && streams)
		n->mixed_steps++;
	if (streams)
		ewma(&n->itl_us, took, 0.1);
}

static void batch_publish(struct batch *b)
{
	int64_t busy = 0;

	b->numbers.tokens_to_prefill = 0;
	for (int32_t i = 0; i < b->settings.slots; i++) {
		const struct slot *slot = &b->slots[i];
		if (!slot->request)
			continue;
		busy += slot->past;
		int32_t missing = slot->request->token_count - slot->past;
		if (missing > 1 || !slot->request->thread.made)
			b->numbers.tokens_to_prefill += missing;
	}
	for (const struct llama_request *r = b->queue; r; r = r->thread.next)
		b->numbers.tokens_to_prefill += r->token_count;
	b->numbers.kv_usage = (double)busy / b->settings.kv_tokens;
}

/* ---- from logits to text ------------------------------------------------------------------------ */

static int32_t request_sample(struct batch *b, struct llama_request *r, float *logits, struct error *err)
{
	struct sample_candidate top[LIMIT_LOGPROBS];
	int32_t wanted = r->copy.params.logprobs, vocab = b->scratch.vocab;
	struct sampler *s = &r->thread.sampler;
	float log_sum = 0, *raw = NULL;
	size_t top_count = 0;

	if (wanted >= 0) {
		log_sum = sample_log_sum(logits, vocab);
		top_count = sample_top(logits, vocab, (size_t)(wanted < LIMIT_LOGPROBS ? wanted : LIMIT_LOGPROBS), top);
		if (s->penalizes || s->params.bias_count || r->thread.grammar) {
			raw = mem_new((size_t)vocab * sizeof(float));
			memcpy(raw, logits, (size_t)vocab * sizeof(float));
		}
	}
	sampler_adjust(s, logits, vocab);
	int32_t token = sampler_pick(s, &b->scratch, logits);
	if (r->thread.grammar && !chat_grammar_allows(r->thread.grammar, token)) {
		chat_grammar_mask(r->thread.grammar, logits, vocab);
		token = sampler_pick(s, &b->scratch, logits);
	}
	sampler_accept(s, token);
	if (r->thread.grammar && chat_grammar_accept(r->thread.grammar, token, err) < 0)
		token = -1;
	if (wanted >= 0 && token >= 0 && !llama_box_ends(b->box, token))
		logprobs_note(b, r, token, (raw ? raw : logits)[token], log_sum, top, top_count);
	free(raw);
	return token;
}

static bool token_is_shown(const struct llama_request *r, int32_t token)
{
	if (r->prompt)
		for (size_t i = 0; i < r->prompt->shown_count; i++)
			if (r->prompt->shown[i] == token)
				return true;
	return false;
}

static void token_append(struct llama_request *r, int32_t token)
{
	if (r->token_count == r->token_room) {
		r->token_room += r->token_room / 2 + 64;
		r->tokens = mem_resize(r->tokens, (size_t)r->token_room, sizeof(*r->tokens));
	}
	r->tokens[r->token_count++] = token;
}

static void request_tell(struct batch *b, struct llama_request *r, int32_t tokens)
{
	struct str ready = answer_ready(&r->thread.answer);

	/* Logprobs wait with the text that is held back. */
	if (!ready.len && (!r->thread.logprobs.tokens || r->thread.answer.held.len))
		return;
	struct llama_event *event = event_new(b, r, LLAMA_TEXT, ready);
	logprobs_flush(r, event);
	event->tokens = tokens;
	atomic_fetch_add(&r->undelivered, tokens);
	answer_taken(&r->thread.answer);
}

static void request_echo(struct llama_request *r)
{
	if (!r->thread.echo_due)
		return;
	r->thread.echo_due = false;
	buf_append_str(&r->thread.answer.ready, r->copy.params.prompt);
}

/* The next token of a request whose logits are there. */
static void slot_next(struct batch *b, struct slot *slot)
{
	struct llama_request *r = slot->request;
	const struct engine_params *p = &r->copy.params;
	struct error err = {0};
	bool ended = true;
	enum engine_finish finish = FINISH_STOP;

	request_echo(r);
	if (p->max_tokens == 0) {
		finish = FINISH_LENGTH;
	} else {
		int32_t token = request_sample(b, r, llama_core_logits(b->core, slot->row), &err);
		bool stopped = false;
		if (token < 0) {
			finish = FINISH_ERROR;
		} else if (!llama_box_ends(b->box, token)) {
			token_append(r, token);
			r->thread.made++;
			stopped = answer_add(&r->thread.answer,
			                     llama_box_piece(b->box, token, token_is_shown(r, token), &b->piece));
			bool full = r->thread.made == p->max_tokens || r->token_count >= b->settings.context_tokens;
			ended = stopped || full;
			finish = stopped ? FINISH_STOP : FINISH_LENGTH;
		}
	}
	if (ended)
		answer_end(&r->thread.answer);
	if (r->thread.answer.stopped)
		logprobs_trim(r);
	request_tell(b, r, 1);
	if (ended) {
		slot_release(b, slot);
		request_end(b, r, finish, finish == FINISH_ERROR ? &err : NULL);
	}
}

static void batch_results(struct batch *b)
{
	for (struct slot *slot = b->slots; slot < b->slots + b->settings.slots; slot++) {
		if (!slot->added)
			continue;
		slot->past += slot->added;
		if (slot->row >= 0)
			slot_next(b, slot);
	}
}

/* False: nothing to compute now. */
static bool batch_step(struct batch *b)
{
	int32_t prompt, streams;

	do {
		streams = batch_fill(b, &prompt);
		if (streams + prompt == 0)
			return false;
	} while (!batch_room(b, streams + prompt));
	int64_t begun_us = clock_mono_us();
	int rc = llama_core_decode(b->core);
	while (rc == 1 && kv_evict(b))
		rc = llama_core_decode(b->core);
	if (rc == 1 && kv_preempt(b))
		return true;
	if (rc == 2)
		return true; /* we are being stopped */
	if (rc != 0) {
		batch_fail(b, rc);
		return true;
	}
	batch_results(b);
	batch_measure(b, streams, prompt, clock_mono_us() - begun_us);
	return true;
}

/* ---- life -------------------------------------------------------------------------------------- */

static void batch_run(struct batch *b)
{
	struct llama_mail *mail = &b->engine->mail;
	bool idle = true;

	while (!atomic_load(&mail->stop)) {
		for (struct llama_request *r = llama_mail_receive(mail, idle), *next; r; r = next) {
			next = r->thread.next;
			request_accept(b, r);
		}
		slots_check(b);
		queue_purge(b);
		queue_serve(b);
		if (b->events)
			batch_send(b); /* started and released ones need not wait for the batch */
		idle = !batch_step(b);
		batch_publish(b);
		batch_send(b);
	}
}

/* Every request that is still here goes back to the loop. */
static void batch_give_back(struct batch *b)
{
	for (struct llama_request *r = llama_mail_receive(&b->engine->mail, false), *next; r; r = next) {
		next = r->thread.next;
		event_new(b, r, LLAMA_RELEASED, (struct str){0});
	}
	for (; b->queue; b->queue = b->queue->thread.next)
		event_new(b, b->queue, LLAMA_RELEASED, (struct str){0});
	for (int32_t i = 0; i < b->settings.slots; i++) {
		if (b->slots[i].request)
			event_new(b, slot_release(b, &b->slots[i]), LLAMA_RELEASED, (struct str){0});
		free(b->slots[i].tokens);
	}
	batch_send(b);
}

/* How fast is this model here? Also brings its weights into memory. */
static int batch_warm(struct batch *b, struct error *err)
{
	int32_t count = llama_core_room(b->core) < 64 ? llama_core_room(b->core) : 64;

	for (int round = 0; round < 2; round++) {
		llama_core_clear(b->core);
		for (int32_t i = 0; i < count; i++)
			llama_core_add(b->core, i % b->scratch.vocab, i, 0, i == count - 1);
		int64_t begun_us = clock_mono_us();
		int rc = llama_core_decode(b->core);
		if (rc != 0)
			return error_set(err, rc == 2 ? E_CANCELED : E_UNSUPPORTED,
			                 "the model loads but does not compute (llama_decode: %d)", rc);
		float *logits = llama_core_logits(b->core, count - 1);
		if (!isfinite(sample_log_sum(logits, b->scratch.vocab)))
			return error_set(err, E_CORRUPT,
			                 "the model computes nonsense (not a number): is the file damaged?");
		b->numbers.prefill_rate = count * 1e6 / (double)(clock_mono_us() - begun_us + 1);
		llama_core_keep(b->core, 0, 0);
	}
	return 0;
}

static int batch_load(struct batch *b, struct error *err)
{
	const atomic_bool *stop = &b->engine->mail.stop;
	int rc = llama_box_load(&b->settings, stop, &b->box, err);

	if (rc < 0)
		return rc;
	if ((rc = llama_core_new(b->box, &b->settings, stop, &b->core, err)) < 0)
		return rc;
	b->slots = mem_new((size_t)b->settings.slots * sizeof(*b->slots));
	b->shares = mem_new((size_t)b->settings.slots * sizeof(*b->shares));
	sample_scratch_init(&b->scratch, llama_box_vocab(b->box));
	uint64_t share = llama_memory_available() / SHELF_SHARE;
	b->shelf.bytes_max = share < SHELF_BYTES_MAX ? (size_t)share : SHELF_BYTES_MAX;
	return batch_warm(b, err);
}

void *llama_thread(void *arg)
{
	struct llama_engine *engine = arg;
	struct batch b = {.engine = engine, .settings = engine->settings, .events_last = &b.events};
	struct error err = {0};

	if (batch_load(&b, &err) < 0) {
		event_new(&b, NULL, LLAMA_LOADED, (struct str){0})->err = error_copy(&err);
		batch_send(&b);
	} else {
		struct llama_event *event = event_new(&b, NULL, LLAMA_LOADED, (struct str){0});
		llama_box_info(b.box, &event->info);
		event->info.slots = b.settings.slots;
		event->info.context_tokens = b.settings.context_tokens;
		event->info.memory_bytes += llama_core_kv_bytes(b.core);
		llama_box_ref(b.box);
		event->box = b.box;
		batch_send(&b);
		batch_run(&b);
		batch_give_back(&b);
	}
	sample_scratch_fini(&b.scratch);
	shelf_fini(&b.shelf);
	buf_fini(&b.piece);
	free(b.slots);
	free(b.shares);
	llama_core_free(b.core);
	if (b.box)
		llama_box_unref(b.box);
	return NULL;
}
