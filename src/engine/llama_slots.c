/* SPDX-License-Identifier: Apache-2.0 */
/* llama_slots.c - slots and their KV: which slot a request gets, what of its KV stays, what goes when room is short.
 *
 * An idle slot keeps its tokens and KV until a request with another beginning needs the slot; then a copy goes to the
 * shelf. Idle KV is dropped before a busy request loses its own.
 */
#include "engine/llama_batch.h"

#include <stdlib.h>

enum { SHELVE_LEAST = 48 }; /* tokens; fewer are computed again as fast */

int32_t slot_seq(const struct batch *b, const struct slot *slot)
{
	return (int32_t)(slot - b->slots);
}

static void slot_keep(struct batch *b, struct slot *slot, int32_t position)
{
	if (slot->past > position)
		slot->past = llama_core_keep(b->core, slot_seq(b, slot), position) ? position : 0;
}

void slot_empty(struct batch *b, struct slot *slot)
{
	if (slot->past) {
		llama_core_keep(b->core, slot_seq(b, slot), 0);
		slot->past = 0;
	}
	free(slot->tokens);
	slot->tokens = NULL;
}

/* The request leaves; what it has computed stays until somebody needs the slot or the room. */
struct llama_request *slot_release(struct batch *b, struct slot *slot)
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

int32_t kv_held(const struct batch *b)
{
	int64_t held = 0;

	for (int32_t i = 0; i < b->settings.slots; i++)
		held += b->slots[i].past;
	return (int32_t)held;
}

/* Drops the KV of the slot idle for longest; false: none has any. */
bool kv_evict(struct batch *b)
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
bool kv_preempt(struct batch *b)
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
bool kv_fits(const struct batch *b, const struct llama_request *r)
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
struct slot *slot_choose(struct batch *b, const struct llama_request *r)
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
