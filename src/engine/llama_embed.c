/* SPDX-License-Identifier: Apache-2.0 */
/* llama_embed.c - what does not generate: embeddings and ranks on the engine thread; tokens and texts in the job pool.
 *
 * A model that pools is never asked for words, so its thread runs this loop in place of the batch's: many short inputs
 * make one batch, each a sequence of its own, whole (a model that looks both ways must see an input at once), and
 * nothing stays in the KV cache. Classes, and tenants within a class, go as at a model that generates, charged by the
 * input; a tenant's requests take turns. None is paused: there is nothing but its end to be read. Vectors leave with
 * length 1, ranks as the model's head gives them.
 *
 * It will not cut an input that is too long: what was cut would silently be missing from the vector.
 */
#include "engine/llama_batch.h"

#include "base/clock.h"

#include <math.h>
#include <stdlib.h>

struct embed_place { /* a sequence of the batch */
	struct llama_request *request;
	size_t input;
};

struct embed {
	struct batch *b;
	struct embed_place *places;
	int32_t used;
	uint64_t served; /* inputs, ever */
};

/* ---- in the job pool --------------------------------------------------------------------------- */

int engine_task_check(const struct engine_info *info, const struct engine_params *p, struct error *err)
{
	switch (p->task) {
	case ENGINE_EMBED:
		if (info->embedding_size)
			return 0;
		return error_set(err, E_INVAL, "this model does not embed%s",
		                 info->rerank ? ": it ranks, use /v1/rerank"
		                              : ": ask one that pools, or set `pooling` where it is loaded");
	case ENGINE_RERANK:
		return info->rerank ? 0 : error_set(err, E_INVAL, "this model does not rank: ask a reranker");
	case ENGINE_CHAT:
	case ENGINE_COMPLETION:
		if (info->no_generation)
			return error_set(err, E_INVAL, "this model does not generate text: use %s",
			                 info->rerank ? "/v1/rerank" : "/v1/embeddings");
		if (p->task == ENGINE_CHAT && !info->chat)
			return error_set(err, E_INVAL, "this model has no chat template: use /v1/completions");
		return 0;
	default:
		if (p->task == ENGINE_TOKENIZE && p->messages_json.len && !info->chat)
			return error_set(err, E_INVAL, "this model has no chat template: send a prompt");
		return 0;
	}
}

static int input_append(struct llama_request *r, size_t input, const int32_t *tokens, int32_t count, int32_t context,
                        struct error *err)
{
	if (count == 0)
		return error_set(err, E_INVAL, "input %zu is empty", input);
	if (count > context)
		return error_set(err, E_LIMIT, "input %zu has %d tokens, the model takes %d: shorten it", input, count,
		                 context);
	if (r->token_room - r->token_count < count) {
		r->token_room += r->token_room / 2 + count + 64;
		r->tokens = mem_resize(r->tokens, (size_t)r->token_room, sizeof(*r->tokens));
	}
	memcpy(r->tokens + r->token_count, tokens, (size_t)count * sizeof(*tokens));
	r->token_count += count;
	r->embed.lengths[input] = count;
	return 0;
}

static int prepare_given(struct llama_request *r, const struct llama_box *box, int32_t context, struct error *err)
{
	const struct engine_params *p = &r->copy.params;
	const int32_t *at = p->prompt_tokens;

	for (size_t i = 0; i < p->input_count; at += p->input_lengths[i++]) {
		for (int32_t j = 0; j < p->input_lengths[i]; j++)
			if (at[j] < 0 || at[j] >= llama_box_vocab(box))
				return error_set(err, E_INVAL, "input %zu: %d is no token of this model (0..%d)", i,
				                 at[j], llama_box_vocab(box) - 1);
		int rc = input_append(r, i, at, p->input_lengths[i], context, err);
		if (rc < 0)
			return rc;
	}
	return 0;
}

int llama_embed_prepare(struct llama_request *r, const struct llama_box *box, int32_t context, struct error *err)
{
	const struct engine_params *p = &r->copy.params;
	size_t size = llama_box_vector_size(box);
	int rc = 0;

	if (p->task == ENGINE_EMBED && p->dimensions > 0 && (size_t)p->dimensions > size)
		return error_set(err, E_INVAL, "dimensions is %d, this model's vectors have %zu", p->dimensions, size);
	r->embed.size = p->task == ENGINE_RERANK ? 1 : p->dimensions > 0 ? (size_t)p->dimensions : size;
	r->embed.lengths = mem_new(p->input_count * sizeof(*r->embed.lengths) + 1);
	if (p->input_lengths) {
		rc = prepare_given(r, box, context, err);
	} else if (p->task == ENGINE_RERANK) {
		int32_t *query = NULL, query_count = 0;
		/* Alone first: every document brings it along. */
		rc = llama_box_tokenize(box, p->prompt, context, &query, &query_count, err);
		free(query);
		if (rc == 0 && query_count > context)
			rc = error_set(err, E_LIMIT, "the query has %d tokens, the model takes %d with a document",
			               query_count, context);
	}
	for (size_t i = 0; rc == 0 && !p->input_lengths && i < p->input_count; i++) {
		int32_t *tokens = NULL, count = 0;
		if (atomic_load(&r->canceled))
			return error_set(err, E_CANCELED, "canceled");
		rc = p->task == ENGINE_RERANK
		         ? llama_box_pair(box, p->prompt, p->inputs[i], context, &tokens, &count, err)
		         : llama_box_tokenize(box, p->inputs[i], context, &tokens, &count, err);
		if (rc == 0)
			rc = input_append(r, i, tokens, count, context, err);
		free(tokens);
	}
	r->prompt_count = r->token_count;
	return rc;
}

/* Each token's text as a list of "logprobs": one block with all they point to. */
static void pieces_fill(struct llama_request *r, const struct llama_box *box)
{
	struct buf piece = {0}, all = {0};
	size_t *ends = mem_new((size_t)r->token_count * sizeof(*ends) + 1);

	for (int32_t i = 0; i < r->token_count; i++) {
		buf_append_str(&all, llama_box_piece(box, r->tokens[i], true, &piece));
		ends[i] = all.len;
	}
	r->embed.pieces = mem_new((size_t)r->token_count * sizeof(*r->embed.pieces) + 1);
	r->embed.text = all;
	for (int32_t i = 0; i < r->token_count; i++) {
		size_t from = i ? ends[i - 1] : 0;
		r->embed.pieces[i].token = (struct str){all.base ? all.base + from : "", ends[i] - from};
	}
	free(ends);
	buf_fini(&piece);
}

int llama_tokens_prepare(struct llama_request *r, const struct llama_box *box, int32_t context, struct error *err)
{
	const struct engine_params *p = &r->copy.params;
	struct str text = p->prompt;
	int rc = 0;

	if (p->task == ENGINE_DETOKENIZE)
		return llama_box_detokenize(box, p->prompt_tokens, p->prompt_token_count, &r->embed.text, err);
	if (p->messages_json.len) {
		struct chat_ask ask = {.messages_json = p->messages_json,
		                       .tools_json = p->tools_json,
		                       .no_generation_prompt = p->no_generation_prompt};
		if ((rc = chat_render(llama_box_chat(box), &ask, &r->prompt, err)) < 0)
			return rc;
		text = r->prompt->text;
	}
	/* A text that fits no context may still be counted, but not without end. */
	rc = llama_box_tokenize_as(box, text, 16 * context, !p->plain_tokens, true, &r->tokens, &r->token_count, err);
	r->prompt_count = r->token_room = r->token_count;
	if (rc == 0 && p->pieces)
		pieces_fill(r, box);
	return rc;
}

void llama_embed_fini(struct llama_embedding *e)
{
	free(e->lengths);
	free(e->vectors);
	free(e->pieces);
	buf_fini(&e->text);
	*e = (struct llama_embedding){0};
}

/* ---- one batch --------------------------------------------------------------------------------- */

/* Out of the list and the queue. */
static void embed_unlink(struct batch *b, struct llama_request *r)
{
	struct llama_request **at = &b->asks;

	while (*at != r)
		at = &(*at)->thread.next;
	*at = r->thread.next;
	request_queue_leave(&b->queue, &r->base.turn);
}

/* Of the tenant whose turn it is (core/request_queue.h): among equals of that tenant the one served longest ago, so
 * that a request with two thousand texts does not stand before one with a single text. */
static struct llama_request *embed_next(const struct batch *b)
{
	const struct queued *first = request_queue_first(&b->queue);
	struct llama_request *best = NULL;

	for (struct llama_request *r = first ? b->asks : NULL; r; r = r->thread.next) {
		const struct queued *turn = &r->base.turn;
		if (turn->waits && turn->tenant == first->tenant && turn->service_class == first->service_class &&
		    turn->priority == first->priority && (!best || r->embed.served < best->embed.served))
			best = r;
	}
	return best;
}

/* The request's next input into the batch; false: there is no room. */
static bool embed_place(struct embed *e, struct llama_request *r)
{
	struct batch *b = e->b;
	struct llama_embedding *t = &r->embed;
	/* One long input makes a batch larger than that of many short ones. */
	int32_t held = llama_core_used(b->core), count = t->lengths[t->placed];

	if (e->used == b->settings.slots || (held && held + count > b->settings.batch_tokens))
		return false;
	for (int32_t i = 0; i < count; i++)
		llama_core_add(b->core, r->tokens[t->token_at + i], i, e->used, true);
	t->token_at += count;
	t->served = ++e->served;
	e->places[e->used++] = (struct embed_place){r, t->placed++};
	request_queue_charge(&b->queue, &r->base.turn, FAIRNESS_INPUT * count);
	if (t->placed == r->copy.params.input_count)
		request_queue_begin(&b->queue, &r->base.turn);
	if (!r->thread.started) {
		r->thread.started = true;
		event_new(b, r, LLAMA_STARTED, (struct str){0});
	}
	return true;
}

static void embed_fill(struct embed *e)
{
	struct llama_request *r;

	llama_core_clear(e->b->core);
	e->used = 0;
	while ((r = embed_next(e->b)) && embed_place(e, r))
		;
}

/* As the cosine wants it: length 1. False: not numbers. */
static bool vector_take(float *to, const float *from, size_t size)
{
	double sum = 0;

	for (size_t i = 0; i < size; i++)
		sum += (double)from[i] * (double)from[i];
	double scale = sum > 0 ? 1 / sqrt(sum) : 0;
	for (size_t i = 0; i < size; i++)
		to[i] = (float)((double)from[i] * scale);
	return isfinite(sum);
}

static bool embed_take(struct batch *b, const struct embed_place *place, int32_t seq)
{
	struct llama_request *r = place->request;
	struct llama_embedding *t = &r->embed;
	const float *found = llama_core_embedding(b->core, seq);

	if (!found)
		return false;
	if (!t->vectors)
		t->vectors = mem_new(r->copy.params.input_count * t->size * sizeof(float));
	t->done++;
	if (r->copy.params.task == ENGINE_EMBED)
		return vector_take(t->vectors + place->input * t->size, found, t->size);
	t->vectors[place->input] = found[0];
	return isfinite(found[0]);
}

static void embed_results(struct embed *e)
{
	static const struct error nonsense = {E_INTERNAL, "the model computes nonsense (not a number) for an input"};
	struct batch *b = e->b;

	for (int32_t seq = 0; seq < e->used; seq++)
		if (!embed_take(b, &e->places[seq], seq))
			e->places[seq].request->thread.failed = true;
	for (struct llama_request *r = b->asks, *next; r; r = next) {
		bool done = r->embed.done == r->copy.params.input_count;
		next = r->thread.next;
		if (!done && !r->thread.failed)
			continue;
		embed_unlink(b, r);
		request_end(b, r, r->thread.failed ? FINISH_ERROR : FINISH_STOP, r->thread.failed ? &nonsense : NULL);
	}
}

/* False: nothing to compute now. */
static bool embed_step(struct embed *e)
{
	struct batch *b = e->b;

	embed_fill(e);
	if (!e->used)
		return false;
	if (b->events)
		batch_send(b); /* started and released ones need not wait for the batch */
	int32_t count = llama_core_used(b->core);
	int64_t begun_us = clock_mono_us();
	int rc = llama_core_decode(b->core);
	llama_core_forget(b->core);
	if (rc == 2)
		return true; /* we are being stopped */
	if (rc != 0) {
		struct error err;
		error_set(&err, E_INTERNAL, "the model could not compute this batch (llama_decode: %d)", rc);
		for (int32_t i = 0; i < e->used; i++) {
			struct llama_request *r = e->places[i].request;
			if (r->thread.failed)
				continue; /* it had several */
			r->thread.failed = true;
			embed_unlink(b, r);
			request_end(b, r, FINISH_ERROR, &err);
		}
		return true;
	}
	embed_results(e);
	double rate = count * 1e6 / (double)(clock_mono_us() - begun_us + 1);
	b->numbers.prefill_rate += b->numbers.prefill_rate > 0 ? 0.2 * (rate - b->numbers.prefill_rate) : rate;
	b->numbers.steps++;
	b->numbers.prefill_steps++;
	return true;
}

/* ---- life -------------------------------------------------------------------------------------- */

static void embed_accept(struct batch *b, struct llama_request *r)
{
	r->thread.next = b->asks;
	b->asks = r;
	request_queue_join(&b->queue, &r->base.turn, r->copy.params.tenant, r->copy.params.tenant_weight);
}

static void embed_purge(struct batch *b)
{
	b->numbers.tokens_to_prefill = 0;
	for (struct llama_request *r = b->asks, *next; r; r = next) {
		next = r->thread.next;
		if (atomic_load(&r->canceled)) {
			embed_unlink(b, r);
			event_new(b, r, LLAMA_RELEASED, (struct str){0});
		} else {
			b->numbers.tokens_to_prefill += r->token_count - r->embed.token_at;
		}
	}
}

int llama_embed_warm(struct batch *b, struct error *err)
{
	llama_core_clear(b->core);
	for (int32_t i = 0; i < 8 && i < llama_core_room(b->core); i++)
		llama_core_add(b->core, i % llama_box_vocab(b->box), i, 0, true);
	int rc = llama_core_decode(b->core);
	if (rc != 0)
		return error_set(err, rc == 2 ? E_CANCELED : E_UNSUPPORTED,
		                 "the model loads but does not compute (llama_decode: %d)", rc);
	const float *found = llama_core_embedding(b->core, 0);
	if (!found || !isfinite(found[0]))
		return error_set(err, E_CORRUPT, "the model computes nonsense (not a number): is the file damaged?");
	llama_core_forget(b->core);
	return 0;
}

void llama_embed_run(struct batch *b)
{
	struct llama_mail *mail = &b->engine->mail;
	struct embed e = {.b = b, .places = mem_new((size_t)b->settings.slots * sizeof(*e.places))};
	bool idle = true;

	while (!atomic_load(&mail->stop)) {
		for (struct llama_request *r = llama_mail_receive(mail, idle), *next; r; r = next) {
			next = r->thread.next;
			embed_accept(b, r);
		}
		embed_purge(b);
		idle = !embed_step(&e);
		batch_send(b);
	}
	for (struct llama_request *r = b->asks; r; r = r->thread.next)
		request_queue_leave(&b->queue, &r->base.turn);
	free(e.places);
}
