/* SPDX-License-Identifier: Apache-2.0 */
/* llama_queue.c - who is next: requests that wait for a slot, and who has to give one up for them.
 *
 * core/request_queue.h says whose turn it is and whose place it may take. One that gives its place up keeps what it has
 * computed, in host memory where there is room (slot_yield), and waits again, before those of its tenant that came
 * later. Those that were interrupted and whose reader is slow rest apart until the reader goes on.
 */
#include "engine/llama_batch.h"

#include "base/rng.h"

#include <stdlib.h>

static struct llama_request *request_of(const struct queued *turn)
{
	return (struct llama_request *)engine_request_of(turn);
}

/* The sampler is where the one was that drew these tokens; mirostat's number, which nobody knows, begins anew. */
static void request_resume(struct llama_request *r)
{
	double mu = r->thread.sampler.mu;

	for (int32_t i = r->prompt_count; i < r->token_count; i++)
		sampler_accept(&r->thread.sampler, r->tokens[i]);
	r->thread.sampler.mu = mu;
	r->thread.made = r->thread.charged = r->token_count - r->prompt_count;
	r->thread.replay_due = r->thread.made > 0;
}

void request_accept(struct batch *b, struct llama_request *r)
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
	sampler_prompt(&r->thread.sampler, r->tokens, (size_t)r->prompt_count);
	r->thread.echo_due = p->echo && p->task == ENGINE_COMPLETION;
	r->thread.scores = r->thread.echo_due && p->logprobs >= 0 && !p->suffix.len && !p->resumed_count;
	request_resume(r);
	request_queue_join(&b->queue, &r->base.turn, p->tenant, p->tenant_weight);
}

void request_charge(struct batch *b, struct llama_request *r)
{
	int32_t made = r->thread.made - r->thread.charged;

	if (!r->base.turn.tenant || !made)
		return;
	request_queue_charge(&b->queue, &r->base.turn, FAIRNESS_OUTPUT * made);
	r->thread.charged = r->thread.made;
	r->base.turn.answering = true;
}

void request_leave(struct batch *b, struct llama_request *r)
{
	request_charge(b, r);
	request_queue_leave(&b->queue, &r->base.turn);
	swap_drop(b, r);
}

static void request_start(struct batch *b, struct slot *slot, struct llama_request *r)
{
	request_queue_begin(&b->queue, &r->base.turn);
	free(slot->tokens);
	slot->tokens = NULL;
	slot->request = r;
	slot->row = -1;
	slot_begin(b, slot);
}

static void request_back(struct batch *b, struct llama_request *r)
{
	if (atomic_load(&r->paused)) {
		r->thread.next = b->resting;
		b->resting = r;
	} else {
		request_queue_back(&b->queue, &r->base.turn);
	}
}

void slot_yield(struct batch *b, struct slot *slot)
{
	struct llama_request *r = slot->request;

	slot_leave(b, slot);
	b->numbers.preemptions++;
	request_back(b, r);
}

static void request_release(struct batch *b, struct llama_request *r)
{
	request_leave(b, r);
	event_new(b, r, LLAMA_RELEASED, (struct str){0});
}

/* Those whose reader goes on, or who are canceled, need not rest any more. */
static void resting_check(struct batch *b)
{
	struct llama_request **at = &b->resting;

	while (*at) {
		struct llama_request *r = *at;
		bool canceled = atomic_load(&r->canceled);
		if (!canceled && atomic_load(&r->paused)) {
			at = &r->thread.next;
			continue;
		}
		*at = r->thread.next;
		if (canceled)
			request_release(b, r);
		else
			request_queue_back(&b->queue, &r->base.turn);
	}
}

void queue_purge(struct batch *b)
{
	resting_check(b);
	for (struct queued *turn = request_queue_next(&b->queue, NULL), *next; turn; turn = next) {
		next = request_queue_next(&b->queue, turn);
		if (atomic_load(&request_of(turn)->canceled))
			request_release(b, request_of(turn));
	}
}

void queue_give_back(struct batch *b)
{
	for (struct queued *turn; (turn = request_queue_first(&b->queue)) != NULL;)
		request_release(b, request_of(turn));
	while (b->resting) {
		struct llama_request *r = b->resting;
		b->resting = r->thread.next;
		request_release(b, r);
	}
}

int64_t queue_tokens(const struct batch *b)
{
	int64_t tokens = 0;

	for (const struct queued *turn = NULL; (turn = request_queue_next(&b->queue, turn)) != NULL;) {
		const struct llama_request *r = request_of(turn);
		tokens += r->token_count - r->thread.swap.past;
	}
	return tokens;
}

/* The best of those whose place the one whose turn it is may take; NULL: none, or all of them together would not do. */
static struct slot *queue_victim(const struct batch *b, const struct llama_request *r)
{
	struct slot *best = NULL;
	int64_t freed = 0;

	for (struct slot *slot = b->slots; slot < b->slots + b->settings.slots; slot++) {
		if (!slot->request || !queued_may_displace(&r->base.turn, &slot->request->base.turn))
			continue;
		freed += slot_promised(b, slot);
		if (!best || queued_yields_before(&slot->request->base.turn, &best->request->base.turn))
			best = slot;
	}
	return best && kv_fits(b, r, freed) ? best : NULL;
}

void queue_serve(struct batch *b)
{
	for (struct queued *first; (first = request_queue_first(&b->queue)) != NULL;) {
		struct llama_request *r = request_of(first);
		struct slot *slot = NULL;

		if (kv_fits(b, r, 0))
			slot = r->thread.swap.blob ? swap_in(b, r) : slot_choose(b, r);
		if (slot) {
			request_start(b, slot, r);
			continue;
		}
		struct slot *victim = queue_victim(b, r);
		if (!victim)
			return;
		slot_yield(b, victim);
	}
}

void slots_check(struct batch *b)
{
	for (struct slot *slot = b->slots; slot < b->slots + b->settings.slots; slot++)
		if (slot->request && atomic_load(&slot->request->canceled))
			event_new(b, slot_release(b, slot), LLAMA_RELEASED, (struct str){0});
}
