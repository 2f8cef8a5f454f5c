/* SPDX-License-Identifier: Apache-2.0 */
/* llama_slots.c - slots and their KV: which slot a request gets, where its beginning comes from, what goes when room is
 * short.
 *
 * A request's beginning is looked for, under its salt only, where it costs least: in an idle slot, which goes on from
 * it; in a busy one, whose cells it then shares; in the cache in memory or on disk (llama_cache.h). When another
 * request is just computing it, the slot waits for that one, its leader, since two computing the same takes as long as
 * both; when the disk has it, the slot waits for the read if that is faster. A waiting slot is in no batch.
 *
 * Where KV is not divisible (sliding windows, recurrent states) nothing is shared and a sequence cannot go back, so
 * states are saved on the way: where a prompt leaves what is known, where others wait, at the prompt's end. Batches end
 * there: slot_goal.
 *
 * An idle slot keeps its KV until a request with another beginning starts. Meanwhile the cache gets what it lacks of
 * it, a little after each batch, so that nobody waits for a long copy. Idle KV is dropped before a busy request loses
 * its own. One that is interrupted takes its KV with it into host memory and brings it back into any slot, so nothing
 * is computed twice: slot_leave, swap_in.
 */
#include "engine/llama_batch.h"

#include <assert.h>
#include <stdlib.h>

enum {
	WAIT_LEAST = 32, /* tokens; fewer are computed as fast as waited for or copied */
	MARK_LEAST = 48,
	SAVE_AT_ONCE = 2, /* blocks between two batches: streams wait for it */
};

int32_t slot_seq(const struct batch *b, const struct slot *slot)
{
	return (int32_t)(slot - b->slots);
}

static int32_t tokens_common(const int32_t *a, int32_t a_count, const int32_t *b, int32_t b_count)
{
	int32_t most = a_count < b_count ? a_count : b_count, n = 0;

	while (n < most && a[n] == b[n])
		n++;
	return n;
}

static const int32_t *slot_tokens(const struct slot *slot)
{
	return slot->request ? slot->request->tokens : slot->tokens;
}

static double us_per_token(const struct batch *b)
{
	return b->numbers.prefill_rate > 0 ? 1e6 / b->numbers.prefill_rate : 1000;
}

/* ---- a slot's KV ------------------------------------------------------------------------------- */

static void slot_keep(struct batch *b, struct slot *slot, int32_t position)
{
	if (slot->past <= position)
		return;
	int32_t kept = llama_core_keep(b->core, slot_seq(b, slot), position) ? position : 0;
	cells_cut(&b->cells, slot_seq(b, slot), slot->past, kept);
	slot->past = kept;
}

void slot_cut(struct batch *b, struct slot *slot, int32_t position)
{
	slot_keep(b, slot, position);
}

void slot_empty(struct batch *b, struct slot *slot)
{
	slot_keep(b, slot, 0);
	free(slot->tokens);
	slot->tokens = NULL;
}

static void slot_save(struct batch *b, const struct slot *slot)
{
	if (slot->past)
		cache_save(b->cache, slot_seq(b, slot), &slot->salt, slot_tokens(slot), slot->past, us_per_token(b), 0);
}

bool slots_save_some(struct batch *b)
{
	for (struct slot *slot = b->slots; slot < b->slots + b->settings.slots; slot++) {
		if (slot->request || slot->saved || !slot->past)
			continue;
		slot->saved = cache_save(b->cache, slot_seq(b, slot), &slot->salt, slot->tokens, slot->past,
		                         us_per_token(b), SAVE_AT_ONCE) <= 0;
		return true;
	}
	return false;
}

void slots_save(struct batch *b)
{
	for (struct slot *slot = b->slots; slot < b->slots + b->settings.slots; slot++) {
		if (!slot->request)
			slot_save(b, slot);
		slot_empty(b, slot);
	}
	assert(b->cells.held == 0 && llama_core_idle(b->core));
}

/* A batch that was broken off may have added to them. */
void slots_undo(struct batch *b)
{
	for (struct slot *slot = b->slots; slot < b->slots + b->settings.slots; slot++)
		if (slot->added && !llama_core_keep(b->core, slot_seq(b, slot), slot->past)) {
			cells_cut(&b->cells, slot_seq(b, slot), slot->past, 0);
			slot->past = 0;
		}
}

static void slot_unwait(struct batch *b, struct slot *slot)
{
	if (slot->awaited)
		cache_hold(b->cache, slot->awaited, false);
	slot->awaited = NULL;
	slot->leader = NULL;
}

bool slot_waits(const struct slot *slot)
{
	return slot->leader || slot->awaited;
}

/* The request leaves; what it has computed stays until somebody needs the slot or the room. */
struct llama_request *slot_release(struct batch *b, struct slot *slot)
{
	struct llama_request *r = slot->request;

	slot_unwait(b, slot);
	slot->request = NULL;
	slot->tokens = r->tokens;
	slot->used = ++b->releases;
	slot->saved = false;
	r->tokens = NULL;
	request_leave(b, r);
	if (!slot->past)
		slot_empty(b, slot);
	return r;
}

int32_t kv_held(const struct batch *b)
{
	return (int32_t)b->cells.held;
}

int32_t kv_busy(const struct batch *b)
{
	int64_t busy = b->cells.held;

	for (int32_t i = 0; i < b->settings.slots; i++) {
		const struct slot *slot = &b->slots[i];
		int32_t shared = slot->request ? slot->past : cells_shared(&b->cells, i);
		if (slot->past > shared)
			busy -= slot->past - shared;
	}
	return (int32_t)busy;
}

/* Drops the KV of the slot idle for longest, into the cache; false: none has any. */
bool kv_evict(struct batch *b)
{
	struct slot *oldest = NULL;

	for (struct slot *slot = b->slots; slot < b->slots + b->settings.slots; slot++)
		if (!slot->request && slot->past && (!oldest || slot->used < oldest->used))
			oldest = slot;
	if (oldest) {
		slot_save(b, oldest);
		slot_empty(b, oldest);
	}
	return oldest;
}

/* Sends the least important running request back to the queue, its KV into the cache; false: only one is left. */
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
		if (!least || (rests != least_rests
		                   ? rests
		                   : queued_yields_before(&slot->request->base.turn, &least->request->base.turn)))
			least = slot;
	}
	if (busy < 2 || !least)
		return false;
	slot_yield(b, least);
	return true;
}

/* ---- KV of interrupted requests ------------------------------------------------------------------ */

void swap_drop(struct batch *b, struct llama_request *r)
{
	b->numbers.swapped_bytes -= r->thread.swap.size;
	free(r->thread.swap.blob);
	r->thread.swap.blob = NULL;
	r->thread.swap.size = 0;
	r->thread.swap.past = 0;
}

static bool swap_out(struct batch *b, struct slot *slot)
{
	struct llama_request *r = slot->request;
	uint64_t room = b->swap_max - b->numbers.swapped_bytes;
	size_t size;

	if (!slot->past || (uint64_t)slot->past * llama_core_kv_bytes(b->core) / (uint64_t)b->settings.kv_tokens > room)
		return false;
	uint8_t *blob = llama_core_export(b->core, slot_seq(b, slot), 0, slot->past, &size);
	if (!blob || size > room) {
		free(blob);
		return false;
	}
	r->thread.swap.blob = blob;
	r->thread.swap.size = size;
	r->thread.swap.past = slot->past;
	b->numbers.swapped_bytes += size;
	b->numbers.swaps++;
	return true;
}

void slot_leave(struct batch *b, struct slot *slot)
{
	if (!swap_out(b, slot))
		slot_save(b, slot); /* as much of it as the cache takes; the rest is computed again */
	slot_unwait(b, slot);
	slot->request = NULL;
	slot_empty(b, slot);
}

struct slot *swap_in(struct batch *b, struct llama_request *r)
{
	struct slot *slot = NULL;

	for (struct slot *s = b->slots; s < b->slots + b->settings.slots; s++)
		if (!s->request && (!slot || s->past < slot->past))
			slot = s;
	if (!slot)
		return NULL;
	slot_save(b, slot);
	slot_empty(b, slot);
	while (kv_held(b) + r->thread.swap.past > b->settings.kv_tokens && kv_evict(b))
		;
	slot->salt = r->salt;
	slot->from_memory = slot->from_disk = 0;
	if (llama_core_import(b->core, slot_seq(b, slot), r->thread.swap.blob, r->thread.swap.size)) {
		slot->past = r->thread.swap.past;
		cells_grow(&b->cells, slot->past);
	}
	swap_drop(b, r);
	return slot;
}

/* ---- where a beginning comes from -------------------------------------------------------------- */

static bool same_salt(const struct slot *slot, const struct llama_request *r)
{
	return memcmp(&slot->salt, &r->salt, sizeof(r->salt)) == 0;
}

/* How much of a request (but its last token, whose logits are wanted) a slot's KV holds. */
static int32_t slot_common(const struct slot *slot, const struct llama_request *r)
{
	return slot->past && same_salt(slot, r)
	           ? tokens_common(slot_tokens(slot), slot->past, r->tokens, r->token_count - 1)
	           : 0;
}

static bool slot_runs(const struct slot *slot)
{
	const struct llama_request *r = slot->request;

	return r && !atomic_load(&r->paused) && atomic_load(&r->undelivered) < UNDELIVERED_MAX;
}

/* How much a busy slot holds of a request's beginning or will, soon. */
static int32_t slot_will_hold(const struct slot *slot, const struct llama_request *r)
{
	const struct llama_request *other = slot->request;

	if (!other || !same_salt(slot, r))
		return 0;
	return tokens_common(other->tokens, other->token_count, r->tokens, r->token_count - 1);
}

/* Cells that a busy slot will take before it is at the end of its prompt. */
static int32_t slot_missing(const struct batch *b, const struct slot *slot)
{
	int32_t have = slot->leader && llama_core_divisible(b->core) ? slot->wait_to : slot->past;

	return slot->request->token_count > have ? slot->request->token_count - have : 0;
}

int32_t slot_promised(const struct batch *b, const struct slot *slot)
{
	int32_t shared = cells_shared(&b->cells, slot_seq(b, slot));

	return slot_missing(b, slot) + (slot->past > shared ? slot->past - shared : 0);
}

bool kv_fits(const struct batch *b, const struct llama_request *r, int64_t freed)
{
	bool busy = false, divisible = llama_core_divisible(b->core);
	int64_t promised = kv_busy(b) - freed;
	int32_t shared = 0;

	for (int32_t i = 0; i < b->settings.slots; i++) {
		const struct slot *slot = &b->slots[i];
		if (!slot->request)
			continue;
		busy = true;
		promised += slot_missing(b, slot);
		int32_t common = divisible ? slot_will_hold(slot, r) : 0;
		shared = common > shared ? common : shared;
	}
	return !busy || promised + r->token_count - shared + b->settings.slots <= b->settings.kv_tokens;
}

/* Copies of the cache that are in memory, behind what the slot holds. */
static void slot_import(struct batch *b, struct slot *slot, const struct llama_request *r, struct prefix_match match)
{
	int32_t most = r->token_count / 8 + 2, seq = slot_seq(b, slot), had = slot->past;
	struct prefix_node **nodes = mem_new((size_t)most * sizeof(*nodes));
	int32_t count = cache_path(b->cache, match.node, slot->past, nodes, most);

	cache_hold(b->cache, match.node, true);
	if (count && cache_blob(nodes[0]))
		slot_keep(b, slot, llama_core_divisible(b->core) ? prefix_begin(nodes[0]) : 0);
	for (int32_t i = 0; i < count; i++) {
		const struct kv_blob *blob = cache_blob(nodes[i]);
		int32_t tokens = prefix_end(nodes[i]) - slot->past;
		if (!blob || b->cells.held + tokens > b->settings.kv_tokens)
			break;
		if (!llama_core_import(b->core, seq, blob->bytes, blob->size)) {
			cache_spoiled(b->cache, nodes[i]);
			break;
		}
		cells_grow(&b->cells, tokens);
		slot->past += tokens;
	}
	slot_keep(b, slot, match.common);
	if (slot->past > had)
		cache_hit(b->cache, match.node);
	cache_hold(b->cache, match.node, false);
	free(nodes);
}

/* From the cache, if it has more than the slot. What only the disk has is waited for, if that takes less time. */
static void slot_load(struct batch *b, struct slot *slot, const struct llama_request *r, bool may_wait)
{
	struct prefix_match match = cache_find(b->cache, &r->salt, r->tokens, r->token_count - 1);
	double read_us;

	if (match.common < slot->past + WAIT_LEAST / 2)
		return;
	if (!cache_on_disk(b->cache, match.node, slot->past, &read_us)) {
		int32_t had = slot->past;
		slot_import(b, slot, r, match);
		if (slot->past > had)
			slot->from_memory += slot->past - had;
	} else if (may_wait && read_us < (match.common - slot->past) * us_per_token(b)) {
		slot->awaited = match.node;
		slot->ticket = ++b->tickets;
		cache_hold(b->cache, match.node, true);
		slot->reads = cache_fetch(b->cache, match.node, slot->past, slot->ticket);
	}
}

/* Another request that is computing the beginning of this one, further than anything that is there. */
static struct slot *find_leader(struct batch *b, const struct slot *slot, const struct llama_request *r, int32_t have,
                                int32_t *ret_to)
{
	struct slot *best = NULL;
	int32_t most = have + WAIT_LEAST;

	for (struct slot *other = b->slots; other < b->slots + b->settings.slots; other++) {
		if (other == slot || !slot_runs(other) || other->leader ||
		    other->request->copy.params.service_class > r->copy.params.service_class)
			continue;
		int32_t to = slot_will_hold(other, r);
		if (to > most && to > other->past) {
			best = other;
			most = to;
		}
	}
	*ret_to = most;
	return best;
}

/* States worth keeping on the way, where KV goes only whole: where this prompt leaves what others began with, and its
 * end, from which the next turn goes on. */
static void slot_mark(struct batch *b, struct slot *slot, const struct llama_request *r)
{
	slot->marks[0] = slot->marks[1] = 0;
	if (llama_core_divisible(b->core) || b->settings.deterministic)
		return;
	int32_t known = cache_find(b->cache, &r->salt, r->tokens, r->token_count - 1).known, end = r->token_count - 1;
	if (known >= slot->past + MARK_LEAST)
		slot->marks[0] = known;
	if (end >= (slot->marks[0] ? slot->marks[0] : slot->past) + MARK_LEAST)
		slot->marks[1] = end;
}

static bool slot_is_marked(const struct batch *b, const struct slot *slot)
{
	bool marked = slot->past == slot->marks[0] || slot->past == slot->marks[1];

	for (const struct slot *other = b->slots; other < b->slots + b->settings.slots && !marked; other++)
		marked = other->leader == slot && other->led == slot->request && other->wait_to == slot->past;
	return marked;
}

void slot_grew(struct batch *b, struct slot *slot)
{
	slot->past += slot->added;
	cells_grow(&b->cells, slot->added);
	if (!llama_core_divisible(b->core) && slot->past && slot_is_marked(b, slot))
		slot_save(b, slot);
}

int32_t slot_goal(const struct batch *b, const struct slot *slot)
{
	int32_t goal = slot->request->token_count;

	for (int i = 0; i < 2; i++)
		if (slot->marks[i] > slot->past && slot->marks[i] < goal)
			goal = slot->marks[i];
	for (const struct slot *other = b->slots; other < b->slots + b->settings.slots; other++)
		if (other->leader == slot && other->led == slot->request && other->wait_to > slot->past &&
		    other->wait_to < goal)
			goal = other->wait_to;
	return goal;
}

static void slot_share(struct batch *b, struct slot *from, struct slot *to, int32_t count)
{
	slot_keep(b, to, 0);
	llama_core_share(b->core, slot_seq(b, from), slot_seq(b, to), count);
	cells_share(&b->cells, slot_seq(b, from), slot_seq(b, to), count);
	to->past = count;
}

/* ---- a request gets a slot --------------------------------------------------------------------- */

struct choice {
	struct slot *own, *empty, *busy; /* idle with the most in common, idle with the least KV, busy to share with */
	int32_t own_common, busy_common;
};

static struct choice choose(struct batch *b, const struct llama_request *r)
{
	struct choice c = {.own_common = -1};

	for (struct slot *slot = b->slots; slot < b->slots + b->settings.slots; slot++) {
		int32_t common = slot_common(slot, r);
		if (slot->request) {
			if (llama_core_divisible(b->core) && common > c.busy_common) {
				c.busy = slot;
				c.busy_common = common;
			}
			continue;
		}
		if (!llama_core_reaches(b->core, slot_seq(b, slot), slot->past, common))
			common = 0;
		if (common > c.own_common) {
			c.own = slot;
			c.own_common = common;
		}
		if (!c.empty || slot->past < c.empty->past ||
		    (slot->past == c.empty->past && slot->used < c.empty->used))
			c.empty = slot;
	}
	if (c.own_common <= 0)
		c.own = c.empty;
	return c;
}

/* Without looking for what others have computed: its bits depend on how that was cut into batches, and logits of the
 * prompt are not kept. */
static struct slot *slot_choose_fresh(struct batch *b, const struct llama_request *r)
{
	for (struct slot *slot = b->slots; slot < b->slots + b->settings.slots; slot++) {
		if (slot->request)
			continue;
		slot_save(b, slot);
		slot_empty(b, slot);
		slot->salt = r->salt;
		slot->from_memory = slot->from_disk = 0;
		return slot;
	}
	return NULL;
}

struct slot *slot_choose(struct batch *b, const struct llama_request *r)
{
	if (b->settings.deterministic || r->thread.scores)
		return slot_choose_fresh(b, r);
	struct choice c = choose(b, r);
	bool shares = c.busy_common > c.own_common;
	struct slot *slot = shares ? c.empty : c.own;

	if (!slot)
		return NULL;
	if (slot->past > (shares ? 0 : c.own_common))
		slot_save(b, slot);
	for (struct slot *other = b->slots; other < b->slots + b->settings.slots; other++)
		if (!other->request && other->past && other != slot) {
			slot_save(b, other);
			slot_empty(b, other);
		}
	if (shares)
		slot_share(b, c.busy, slot, c.busy_common);
	else
		slot_keep(b, slot, c.own_common);
	slot->salt = r->salt;
	slot->from_memory = slot->from_disk = 0;
	struct prefix_match match = cache_find(b->cache, &r->salt, r->tokens, r->token_count - 1);
	int32_t have = match.common > slot->past ? match.common : slot->past;
	slot->leader = find_leader(b, slot, r, have, &slot->wait_to);
	if (slot->leader)
		slot->led = slot->leader->request;
	else
		slot_load(b, slot, r, true);
	return slot;
}

void slot_begin(struct batch *b, struct slot *slot)
{
	struct llama_request *r = slot->request;

	if (slot_waits(slot))
		return;
	slot_mark(b, slot, r);
	if (r->thread.started)
		return; /* it was preempted */
	r->thread.started = true;
	r->thread.cached = slot->past < r->prompt_count ? slot->past : r->prompt_count;
	request_queue_charge(&b->queue, &r->base.turn, FAIRNESS_INPUT * (r->token_count - slot->past));
	b->numbers.cached_memory += (uint64_t)slot->from_memory;
	b->numbers.cached_disk += (uint64_t)slot->from_disk;
	b->numbers.cached_cells += (uint64_t)(slot->past - slot->from_memory - slot->from_disk);
	event_new(b, r, LLAMA_STARTED, (struct str){0});
}

/* ---- waiting ----------------------------------------------------------------------------------- */

/* The leader is there, or gone, or rests: what it has is taken, the rest is computed here. */
static void slot_follow(struct batch *b, struct slot *slot)
{
	struct llama_request *r = slot->request;
	struct slot *leader = slot->leader;
	int32_t have = slot_common(leader, r);

	if (leader->request == slot->led && have < slot->wait_to && slot_runs(leader))
		return;
	slot->leader = NULL;
	if (llama_core_divisible(b->core) && have > slot->past)
		slot_share(b, leader, slot, have);
	slot_load(b, slot, r, true);
	slot_begin(b, slot);
}

void slots_follow(struct batch *b)
{
	for (struct slot *slot = b->slots; slot < b->slots + b->settings.slots; slot++)
		if (slot->request && slot->leader)
			slot_follow(b, slot);
}

/* A read for that slot is done, well or not. */
void slot_fetched(void *arg, uint64_t ticket)
{
	struct batch *b = arg;

	for (struct slot *slot = b->slots; slot < b->slots + b->settings.slots; slot++) {
		if (!slot->awaited || slot->ticket != ticket || --slot->reads > 0)
			continue;
		struct prefix_match match =
		    cache_find(b->cache, &slot->salt, slot->request->tokens, slot->request->token_count - 1);
		int32_t had = slot->past;
		if (match.node && match.common > had)
			slot_import(b, slot, slot->request, match);
		slot_unwait(b, slot);
		slot->from_disk = slot->past > had ? slot->past - had : 0;
		slot_begin(b, slot);
	}
}
