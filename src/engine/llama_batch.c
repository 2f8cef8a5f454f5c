/* SPDX-License-Identifier: Apache-2.0 */
/* llama_batch.c - the engine thread: a queue, N slots, one batch after another.
 *
 * A slot holds a request, or the KV of its last one, which a request with a common beginning takes up again. A request
 * is a row of tokens; the KV cache holds the first `past` of them. One token missing and something generated: it is a
 * running stream, and its token goes into every batch. More missing: it is prefilling, and gets what llama_plan gives.
 * The row that reaches the end wants logits; from them the next token is sampled. So a request that lost its KV
 * (interrupted, with no room in host memory) simply goes back to the queue with its tokens and is prefilled again.
 *
 * Paused requests and those whose events the loop has not taken keep their KV and stay out of the batch.
 */
#include "engine/llama_batch.h"
#include "engine/llama_plan.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"

#include <math.h>
#include <stdlib.h>

enum {
	CACHE_SHARE =
	    8, /* of the memory available at the start, if nobody says; as much for KV of interrupted requests */
	CACHE_MOST = 4, /* of it, whatever somebody says */
	CACHE_BYTES_MAX = 1 << 30,
};

/* ---- one batch --------------------------------------------------------------------------------- */

bool slot_computes(const struct slot *slot)
{
	const struct llama_request *r = slot->request;

	return r && !atomic_load(&r->paused) && atomic_load(&r->undelivered) < UNDELIVERED_MAX;
}

static void slot_add(struct batch *b, struct slot *slot, int32_t count)
{
	struct llama_request *r = slot->request;

	slot->first_row = llama_core_used(b->core);
	for (int32_t i = 0; i < count; i++) {
		int32_t position = slot->past + i;
		bool last = position == r->token_count - 1;
		int32_t row = llama_core_add(b->core, r->tokens[position], position, slot_seq(b, slot),
		                             last || request_scores(r, position));
		if (last)
			slot->row = row;
	}
	slot->added = count;
}

/* A stream's token, and the guesses that come after it. */
static void slot_add_stream(struct batch *b, struct slot *slot)
{
	slot_add(b, slot, 1);
	for (int32_t i = 0; i < slot->drafted; i++)
		llama_core_add(b->core, slot->draft[i], slot->past + 1 + i, slot_seq(b, slot), true);
	slot->added += slot->drafted;
}

/* What a prompt wants of this batch; `scores` rows of it may be looked at, besides the last. */
static int32_t slot_wants(const struct batch *b, const struct slot *slot, int32_t *scores)
{
	const struct llama_request *r = slot->request;
	int32_t chunk = llama_core_chunk(b->core), missing = slot_goal(b, slot) - slot->past;

	/* The same pieces each time: of the prompt in chunks, of what was generated (and lost) one by one. */
	if (chunk && slot->past >= r->prompt_count)
		missing = 1;
	else if (chunk && missing > chunk - slot->past % chunk)
		missing = chunk - slot->past % chunk;
	if (chunk && slot->past + missing > r->prompt_count && slot->past < r->prompt_count)
		missing = r->prompt_count - slot->past;
	if (request_scores(r, slot->past)) {
		if (missing > *scores)
			missing = chunk && *scores < LLAMA_SPARE_OUTPUTS ? 0 : *scores;
		*scores -= missing;
	}
	return missing;
}

/* Where pieces must be whole, the oldest prompt gets its own. */
static void share_whole(struct llama_share *shares, size_t count, int32_t room)
{
	struct llama_share *first = NULL;

	for (size_t i = 0; i < count; i++)
		if (shares[i].wants > 0 && shares[i].wants <= room && (!first || shares[i].order < first->order))
			first = &shares[i];
	if (first)
		first->gets = first->wants;
}

/* Fills the batch; *ret_prompt of its tokens belong to prompts, the result are streams. */
static int32_t batch_fill(struct batch *b, int32_t *ret_prompt)
{
	size_t prefilling = 0;
	int32_t streams = 0, scores = LLAMA_SPARE_OUTPUTS;

	llama_core_clear(b->core);
	*ret_prompt = 0;
	for (struct slot *slot = b->slots; slot < b->slots + b->settings.slots; slot++) {
		slot->row = -1;
		slot->added = 0;
		if (!slot_computes(slot) || slot_waits(slot))
			continue;
		if (!slot_has_turn(b, slot)) {
			slot->drafted = 0;
			continue;
		}
		int32_t missing = slot->request->token_count - slot->past;
		if (missing == 1 && slot->request->thread.made) {
			slot_add_stream(b, slot);
			streams++;
		} else {
			const struct queued *turn = &slot->request->base.turn;
			missing = slot_wants(b, slot, &scores);
			b->shares[prefilling++] = (struct llama_share){.slot = slot_seq(b, slot),
			                                               .wants = missing,
			                                               .order = turn->order,
			                                               .service_class = turn->service_class,
			                                               .service = turn->tenant->service,
			                                               .tenant = turn->tenant};
		}
	}
	if (llama_core_chunk(b->core))
		share_whole(b->shares, prefilling, llama_core_room(b->core));
	else
		llama_plan_share(b->shares, prefilling,
		                 llama_plan_budget(llama_core_room(b->core), streams, b->row_rate, b->decode_us,
		                                   b->settings.itl_target_us));
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

static void batch_count(struct llama_numbers *n, int32_t tokens)
{
	size_t i = 0;

	for (int32_t most = 1; i < ENGINE_BATCH_SIZES - 1 && tokens > most; most = most == 1 ? 8 : 2 * most)
		i++;
	n->batches[i]++;
	n->batch_tokens += (uint64_t)tokens;
}

static void batch_measure(struct batch *b, int32_t streams, int32_t prompt, int32_t accepted, int64_t took_us)
{
	struct llama_numbers *n = &b->numbers;
	double took = (double)(took_us > 0 ? took_us : 1);

	n->steps++;
	batch_count(n, prompt + streams + accepted);
	if (streams && !prompt) {
		ewma(&b->decode_us, took, 0.1);
		ewma(&n->decode_rate, (streams + accepted) * 1e6 / took, 0.05);
	} else if (prompt >= 16) {
		/* A row of a stream costs what one of a prompt costs: both are rows of the same products. */
		ewma(&b->row_rate, (prompt + streams) * 1e6 / took, 0.2);
		ewma(&n->prefill_rate, prompt * 1e6 / took, 0.2);
	}
	n->prompt_computed += (uint64_t)prompt;
	if (prompt)
		n->prefill_steps++;
	if (prompt && streams)
		n->mixed_steps++;
	if (streams)
		ewma(&n->itl_us, took * streams / (streams + accepted), 0.1);
}

static void batch_publish(struct batch *b)
{
	struct prefix_numbers cached = cache_numbers(b->cache);

	b->numbers.cache_memory_bytes = cached.bytes[PREFIX_MEMORY];
	b->numbers.cache_disk_bytes = cached.bytes[PREFIX_DISK];
	b->numbers.tokens_to_prefill = 0;
	for (int32_t i = 0; i < b->settings.slots; i++) {
		const struct slot *slot = &b->slots[i];
		if (!slot->request)
			continue;
		int32_t missing = slot->request->token_count - slot->past;
		if (missing > 1 || !slot->request->thread.made)
			b->numbers.tokens_to_prefill += missing;
	}
	b->numbers.tokens_to_prefill += queue_tokens(b);
	b->numbers.kv_usage = (double)kv_busy(b) / b->settings.kv_tokens;
}

/* How many guesses came true. */
static int32_t batch_results(struct batch *b)
{
	int32_t accepted = 0;

	for (struct slot *slot = b->slots; slot < b->slots + b->settings.slots; slot++) {
		if (!slot->added)
			continue;
		slot_score(b, slot);
		slot_grew(b, slot);
		if (slot->row >= 0)
			accepted += drafts_verify(b, slot);
		if (slot->request)
			request_charge(b, slot->request);
	}
	return accepted;
}

/* False: nothing to compute now. */
static bool batch_step(struct batch *b)
{
	int32_t prompt, streams;
	int64_t begun_us = clock_mono_us();

	turns_next(b);
	drafts_make(b);
	do {
		streams = batch_fill(b, &prompt);
		if (streams + prompt == 0)
			return false;
	} while (!batch_room(b, llama_core_used(b->core)));
	int32_t drafted = llama_core_used(b->core) - streams - prompt;
	int rc = llama_core_decode(b->core);
	while (rc == 1 && kv_evict(b))
		rc = llama_core_decode(b->core);
	if (rc == 1 && kv_preempt(b))
		return true;
	if (rc == 2) { /* we are being stopped */
		slots_undo(b);
		return true;
	}
	if (rc != 0) {
		batch_fail(b, rc);
		return true;
	}
	int32_t accepted = batch_results(b);
	int64_t took_us = clock_mono_us() - begun_us;
	batch_measure(b, streams, prompt, accepted, took_us);
	turns_used(b, took_us);
	if (!prompt)
		drafts_measure(b, streams, drafted, accepted, took_us);
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
		cache_collect(b->cache, slot_fetched, b);
		slots_check(b);
		queue_purge(b);
		queue_serve(b);
		slots_follow(b);
		if (b->events)
			batch_send(b); /* started and released ones need not wait for the batch */
		idle = !batch_step(b);
		batch_publish(b);
		batch_send(b);
		idle = !slots_save_some(b) && idle;
	}
}

/* Every request that is still here goes back to the loop. */
static void batch_give_back(struct batch *b)
{
	for (struct llama_request *r = llama_mail_receive(&b->engine->mail, false), *next; r; r = next) {
		next = r->thread.next;
		event_new(b, r, LLAMA_RELEASED, (struct str){0});
	}
	for (; b->asks; b->asks = b->asks->thread.next)
		event_new(b, b->asks, LLAMA_RELEASED, (struct str){0});
	queue_give_back(b);
	for (int32_t i = 0; b->slots && i < b->settings.slots; i++)
		if (b->slots[i].request)
			event_new(b, slot_release(b, &b->slots[i]), LLAMA_RELEASED, (struct str){0});
	batch_send(b);
	if (b->slots)
		slots_save(b);
}

/* How fast is this model here? Also brings its weights into memory. */
static int batch_warm(struct batch *b, struct digest *ret_fingerprint, struct error *err)
{
	static const int32_t tokens[] = {2, 16}; /* the weights come in; the rate: more would delay the model */

	for (int round = 0; round < 2; round++) {
		int32_t room = llama_core_room(b->core), count = room < tokens[round] ? room : tokens[round];
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
		b->numbers.prefill_rate = b->row_rate = count * 1e6 / (double)(clock_mono_us() - begun_us + 1);
		if (round == 1)
			*ret_fingerprint = llama_core_fingerprint(b->core, b->settings.model_path, 0);
		llama_core_keep(b->core, 0, 0);
	}
	return 0;
}

static void cache_arrived(void *mail)
{
	llama_mail_wake(mail);
}

static void batch_make_cache(struct batch *b, const struct digest *fingerprint)
{
	uint64_t available = memory_available();
	uint64_t share = available / CACHE_SHARE, most = available / CACHE_MOST;

	share = share < CACHE_BYTES_MAX ? share : CACHE_BYTES_MAX;
	b->swap_max = b->settings.swap_bytes ? b->settings.swap_bytes : share;
	struct error err;
	struct cache_options options = {
	    .core = b->core,
	    .memory_bytes = share,
	    .disk_bytes = b->settings.cache_disk_bytes,
	    .folder = b->settings.cache_folder[0] ? b->settings.cache_folder : NULL,
	    .model = b->settings.model_name,
	    .fingerprint = *fingerprint,
	    .wake = cache_arrived,
	    .arg = &b->engine->mail,
	};

	if (b->settings.cache_memory_bytes)
		options.memory_bytes = b->settings.cache_memory_bytes < most ? b->settings.cache_memory_bytes : most;
	if (cache_new(&options, &b->cache, &err) < 0)
		log_warn("engine", "no prefix cache on disk: %s", err.text);
}

static int batch_load(struct batch *b, struct error *err)
{
	const atomic_bool *stop = &b->engine->mail.stop;
	struct digest fingerprint;
	int rc = llama_box_load(&b->settings, stop, &b->box, err);

	if (rc < 0)
		return rc;
	if ((rc = llama_core_new(b->box, &b->settings, stop, &b->core, err)) < 0)
		return rc;
	if (llama_box_embeds(b->box))
		return llama_embed_warm(b, err);
	b->slots = mem_new((size_t)b->settings.slots * sizeof(*b->slots));
	b->shares = mem_new((size_t)b->settings.slots * sizeof(*b->shares));
	sample_scratch_init(&b->scratch, llama_box_vocab(b->box));
	cells_init(&b->cells, b->settings.slots);
	turns_start(b);
	if ((rc = batch_warm(b, &fingerprint, err)) < 0)
		return rc;
	batch_make_cache(b, &fingerprint);
	return llama_core_speculate(b->core, &b->settings, &b->speculate, err);
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
		if (!llama_box_embeds(b.box)) {
			event->info.kv_tokens = b.settings.kv_tokens;
			event->info.kv_block = CACHE_BLOCK;
		}
		event->info.memory_bytes += llama_core_kv_bytes(b.core);
		llama_box_ref(b.box);
		event->box = b.box;
		batch_send(&b);
		if (llama_box_embeds(b.box))
			llama_embed_run(&b);
		else
			batch_run(&b);
		batch_give_back(&b);
	}
	request_queue_fini(&b.queue);
	sample_scratch_fini(&b.scratch);
	speculate_free(b.speculate);
	cache_free(b.cache);
	cells_fini(&b.cells);
	buf_fini(&b.piece);
	free(b.slots);
	free(b.shares);
	free(b.turns);
	llama_core_free(b.core);
	if (b.box)
		llama_box_unref(b.box);
	return NULL;
}
