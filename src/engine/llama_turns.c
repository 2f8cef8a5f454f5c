/* SPDX-License-Identifier: Apache-2.0 */
/* llama_turns.c - requests with different LoRA adapters cannot share a batch, so the adapters take turns.
 *
 * A context has one adapter at a time. The base model (turn 0) and each adapter with something to compute get batches
 * for as long as the others: the one that used least time is next. One that had nothing to do begins with the least
 * of the others, so that it saves no time up. With one adapter in use nothing changes hands.
 */
#include "engine/llama_batch.h"

#include <stdlib.h>

void turns_start(struct batch *b)
{
	b->turn_count = (int32_t)llama_box_adapters(b->box) + 1;
	b->turns = mem_new((size_t)b->turn_count * sizeof(*b->turns));
}

bool slot_has_turn(const struct batch *b, const struct slot *slot)
{
	return slot->request->adapter == b->turn;
}

static int64_t least_used(const struct batch *b)
{
	int64_t least = INT64_MAX;

	for (int32_t i = 0; i < b->turn_count; i++)
		if (b->turns[i].wanted && b->turns[i].used_us < least)
			least = b->turns[i].used_us;
	return least == INT64_MAX ? 0 : least;
}

void turns_next(struct batch *b)
{
	int64_t least = least_used(b); /* of those that were wanted the last time */
	int32_t next = -1;

	if (b->turn_count == 1)
		return;
	for (int32_t i = 0; i < b->turn_count; i++) {
		bool wanted = false;

		for (const struct slot *slot = b->slots; slot < b->slots + b->settings.slots && !wanted; slot++)
			wanted = slot_computes(slot) && !slot_waits(slot) && slot->request->adapter == i;
		if (wanted && !b->turns[i].wanted && b->turns[i].used_us < least)
			b->turns[i].used_us = least;
		b->turns[i].wanted = wanted;
		if (wanted && (next < 0 || b->turns[i].used_us < b->turns[next].used_us))
			next = i;
	}
	if (next < 0 || next == b->turn)
		return;
	b->turn = next;
	llama_core_adapt(b->core, next);
}

void turns_used(struct batch *b, int64_t took_us)
{
	b->turns[b->turn].used_us += took_us;
}
