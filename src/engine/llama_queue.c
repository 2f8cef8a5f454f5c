/* SPDX-License-Identifier: Apache-2.0 */
/* llama_queue.c - who is next: requests that wait for a slot. */
#include "engine/llama_batch.h"

#include "base/rng.h"

#include <stdlib.h>

void queue_add(struct batch *b, struct llama_request *r)
{
	struct llama_request **at = &b->queue;

	while (*at && engine_before(&(*at)->base, &r->base))
		at = &(*at)->thread.next;
	r->thread.next = *at;
	*at = r;
}

/* A request has come: what the thread needs besides its tokens. */
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
	sampler_prompt(&r->thread.sampler, r->tokens, (size_t)r->token_count);
	r->thread.echo_due = p->echo && p->task == ENGINE_COMPLETION;
	queue_add(b, r);
}

static void request_start(struct batch *b, struct slot *slot, struct llama_request *r)
{
	free(slot->tokens);
	slot->tokens = NULL;
	slot->request = r;
	slot->row = -1;
	slot_begin(b, slot);
}

void queue_purge(struct batch *b)
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

void queue_serve(struct batch *b)
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

void slots_check(struct batch *b)
{
	for (struct slot *slot = b->slots; slot < b->slots + b->settings.slots; slot++)
		if (slot->request && atomic_load(&slot->request->canceled))
			event_new(b, slot_release(b, slot), LLAMA_RELEASED, (struct str){0});
}
