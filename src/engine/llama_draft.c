/* SPDX-License-Identifier: Apache-2.0 */
/* llama_draft.c - speculative decoding: guesses ride in the batch behind a stream's token, and stay if they come true.
 *
 * A stream whose next token is known is computed with its guesses at the tokens after it, each row with logits. Then
 * the request's own sampler draws from the first row; while it draws what was guessed, the next row holds right logits
 * and it draws from that, too. The KV of wrong guesses is cut off again. So what comes out is what would have come out
 * without, seed and grammar included, but for the roundings of a wider batch.
 *
 * Guesses cost time that others could use: none are made while a prompt is computed or waits, and all streams together
 * have so many rows that more than half of them get none. What a step with guesses takes and yields is measured
 * against one without; whichever is slower is only tried now and then.
 */
#include "engine/llama_batch.h"

enum {
	ROWS = LLAMA_SPARE_OUTPUTS, /* guesses in one batch */
	LEAST = 2,                  /* for one stream */
	PROBE_EVERY = 48,           /* steps */
};

static bool slot_streams(const struct slot *slot)
{
	return slot->request->thread.made && slot->request->token_count - slot->past == 1;
}

static bool slot_rests(const struct batch *b, const struct slot *slot)
{
	return !slot_computes(slot) || slot_waits(slot) || !slot_has_turn(b, slot);
}

/* How many guesses each stream may have; 0: the batch has better things to compute. */
static int32_t drafts_most(const struct batch *b)
{
	int32_t streams = 0;

	if (b->queue.waiting)
		return 0;
	for (const struct slot *slot = b->slots; slot < b->slots + b->settings.slots; slot++) {
		if (slot_rests(b, slot))
			continue;
		if (!slot_streams(slot))
			return 0;
		streams++;
	}
	if (!streams)
		return 0;
	int32_t most = ROWS / streams, room = llama_core_room(b->core) / streams - 1;
	most = most < room ? most : room;
	return most >= LEAST ? most : 0;
}

static bool drafts_pay(struct batch *b)
{
	const struct draft_gain *gain = &b->gain;
	bool pays = gain->drafted_us <= 0 || gain->yield * gain->plain_us > gain->drafted_us;
	bool probes = ++b->gain.steps % PROBE_EVERY == 0; /* the other way, to know what it takes */

	return pays != probes || atomic_load(&b->engine->drafts_always);
}

static int32_t slot_most(const struct batch *b, const struct slot *slot, int32_t most)
{
	const struct llama_request *r = slot->request;
	int32_t room = b->settings.context_tokens - r->token_count - 1, wanted = r->copy.params.max_tokens;

	if (wanted >= 0 && wanted - r->thread.made - 1 < room)
		room = wanted - r->thread.made - 1;
	return room < most ? room : most;
}

void drafts_make(struct batch *b)
{
	for (struct slot *slot = b->slots; slot < b->slots + b->settings.slots; slot++)
		slot->drafted = 0;
	if (!b->speculate)
		return;
	llama_core_clear(b->core);
	int32_t most = drafts_most(b);
	if (!most || !drafts_pay(b))
		return;
	for (struct slot *slot = b->slots; slot < b->slots + b->settings.slots; slot++)
		if (!slot_rests(b, slot) && slot_most(b, slot, most) > 0)
			speculate_want(b->speculate, slot_seq(b, slot), slot->request->tokens,
			               slot->request->token_count, slot_most(b, slot, most));
	speculate_run(b->speculate);
	for (struct slot *slot = b->slots; slot < b->slots + b->settings.slots; slot++)
		if (!slot_rests(b, slot))
			slot->drafted = speculate_get(b->speculate, slot_seq(b, slot), slot->draft);
}

void drafts_settle(struct batch *b, struct slot *slot)
{
	if (!slot->drafted)
		return;
	slot->drafted = 0;
	slot_cut(b, slot, slot->settled);
}

int32_t drafts_verify(struct batch *b, struct slot *slot)
{
	int32_t drafted = slot->drafted, accepted = 0;

	slot->settled = slot->past - drafted;
	for (;;) {
		slot_next(b, slot);
		const struct llama_request *r = slot->request;
		if (!r || accepted == drafted || r->tokens[r->token_count - 1] != slot->draft[accepted])
			break;
		accepted++;
		slot->settled++;
		slot->row++;
	}
	drafts_settle(b, slot);
	if (drafted) {
		speculate_tell(b->speculate, slot_seq(b, slot), accepted);
		b->numbers.drafts++;
		b->numbers.drafted += (uint64_t)drafted;
		b->numbers.accepted += (uint64_t)accepted;
	}
	return accepted;
}

static void mean_move(double *mean, double sample)
{
	*mean = *mean > 0 ? *mean + 0.1 * (sample - *mean) : sample;
}

void drafts_measure(struct batch *b, int32_t streams, int32_t drafted, int32_t accepted, int64_t took_us)
{
	if (!b->speculate || streams == 0)
		return;
	if (drafted) {
		mean_move(&b->gain.drafted_us, (double)took_us);
		mean_move(&b->gain.yield, 1 + (double)accepted / streams);
	} else {
		mean_move(&b->gain.plain_us, (double)took_us);
	}
}
