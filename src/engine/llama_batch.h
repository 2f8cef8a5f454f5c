/* SPDX-License-Identifier: Apache-2.0 */
/* llama_batch.h - what the files of the engine thread share; everything here is that thread's alone.
 *
 * llama_batch.c forms and computes batches, llama_queue.c says who is next, llama_slots.c owns the slots and their KV,
 * llama_tell.c turns logits into events. How they work together is told at the top of llama_batch.c.
 */
#ifndef MDN_ENGINE_LLAMA_BATCH_H
#define MDN_ENGINE_LLAMA_BATCH_H

#include "engine/llama_cache.h"
#include "engine/llama_cells.h"
#include "engine/llama_parts.h"

struct llama_share;

struct slot {
	struct llama_request *request; /* NULL: idle */
	int32_t *tokens;               /* idle: what the KV holds, owned; busy: NULL, the request has them */
	int32_t past;                  /* tokens in the KV */
	int32_t row;                   /* in this batch; -1: no logits asked */
	int32_t first_row;
	int32_t added;                          /* tokens in this batch, guesses too */
	int32_t drafted, draft[SPECULATE_MOST]; /* guesses behind its token */
	int32_t settled;                        /* while they are verified: tokens in the KV that are right */
	uint64_t used;                          /* when it was last given back */
	struct prefix_salt salt;                /* whose tokens these are */
	bool saved;                             /* idle: its KV is in the cache, as far as that is possible */
	/* Waiting for its beginning, in no batch: */
	struct slot *leader; /* that computes it, for this request, up to there */
	struct llama_request *led;
	int32_t wait_to;
	struct prefix_node *awaited; /* pinned: that is read from disk, by so many reads of this ticket */
	int32_t reads;
	uint64_t ticket;
	int32_t marks[2];               /* where its state is to be saved; 0: nowhere */
	int32_t from_memory, from_disk; /* tokens */
};

struct draft_gain {                         /* of steps that compute streams only; means */
	double plain_us, drafted_us, yield; /* yield: tokens a stream in a step with guesses */
	uint32_t steps;
};

struct batch {
	struct llama_engine *engine;
	struct llama_box *box;
	struct llama_core *core;
	struct llama_settings settings;
	struct slot *slots;
	struct llama_request *asks; /* of a model that embeds: llama_embed.c keeps them sorted */
	struct request_queue queue;
	struct llama_request *resting; /* interrupted, and their readers are slow */
	struct llama_share *shares;
	struct sample_scratch scratch;
	struct cache *cache;
	struct cells cells;
	uint64_t tickets;
	struct speculate *speculate; /* NULL: off */
	struct draft_gain gain;
	struct buf piece;
	struct llama_event *events, **events_last;
	struct llama_numbers numbers;
	double row_rate;  /* rows per second of batches with prompts in them, EWMA */
	double decode_us; /* a step without prompts, EWMA */
	uint64_t releases;
	size_t swap_max; /* bytes */
	struct turn {    /* of the base model and each LoRA adapter */
		int64_t used_us;
		bool wanted;
	} * turns;
	int32_t turn_count, turn; /* whose this batch is */
};

bool slot_computes(const struct slot *slot); /* llama_batch.c: it may compute */

/* ---- llama_tell.c ------------------------------------------------------------------------------ */

struct llama_event *event_new(struct batch *b, struct llama_request *r, enum llama_event_kind kind, struct str text);
void batch_send(struct batch *b); /* all events so far, and the numbers */
struct error *error_copy(const struct error *err);
void request_end(struct batch *b, struct llama_request *r, enum engine_finish finish, const struct error *err);
/* The next token of a request whose logits are there; the slot is released when it was the last. */
void slot_next(struct batch *b, struct slot *slot);
/* Is the logprob of the token behind that position of the prompt wanted? */
bool request_scores(const struct llama_request *r, int32_t position);
void slot_score(struct batch *b, struct slot *slot); /* those of the rows just computed */

/* ---- llama_slots.c ----------------------------------------------------------------------------- */

int32_t slot_seq(const struct batch *b, const struct slot *slot);
void slot_empty(struct batch *b, struct slot *slot); /* of its KV and the tokens of an idle one */
/* The request leaves; what it has computed stays until somebody needs the slot or the room. */
struct llama_request *slot_release(struct batch *b, struct slot *slot);
/* An idle slot for the request, with as much of its beginning as is found anywhere; NULL: all are busy. The other idle
 * slots lose their KV to the cache. */
struct slot *slot_choose(struct batch *b, const struct llama_request *r);
void slot_begin(struct batch *b, struct slot *slot); /* it has its request now: tells that it starts unless it waits */
bool slot_waits(const struct slot *slot);            /* for its beginning: not in a batch */
int32_t slot_goal(const struct batch *b, const struct slot *slot);   /* prefill goes no further for now */
void slot_cut(struct batch *b, struct slot *slot, int32_t position); /* drops KV behind it */
void slot_grew(struct batch *b, struct slot *slot);                  /* by what was in the batch */
void slots_follow(struct batch *b); /* ends the waiting of those whose leader is far enough */
void slot_fetched(void *batch, uint64_t ticket);
void slots_undo(struct batch *b);       /* what a batch that was broken off may have added */
bool slots_save_some(struct batch *b);  /* of what idle ones hold, to the cache; false: all is there */
void slots_save(struct batch *b);       /* the end: all KV to the cache, and none is left */
int32_t kv_held(const struct batch *b); /* cells taken */
int32_t kv_busy(const struct batch *b); /* those that requests use */
bool kv_evict(struct batch *b);         /* drops the KV of the slot idle for longest; false: none has any */
bool kv_preempt(struct batch *b);       /* the least important running request yields; false: only one is left */
int32_t slot_promised(const struct batch *b, const struct slot *slot); /* cells that are free when a busy one leaves */
/* Could this request be computed to its end of prompt with what is left once idle KV is dropped and `freed` more? */
bool kv_fits(const struct batch *b, const struct llama_request *r, int64_t freed);
/* The request of a busy slot goes without having ended; its KV to host memory, if there is room. */
void slot_leave(struct batch *b, struct slot *slot);
struct slot *swap_in(struct batch *b, struct llama_request *r); /* into an idle slot; NULL: all are busy */
void swap_drop(struct batch *b, struct llama_request *r);

/* ---- llama_draft.c ----------------------------------------------------------------------------- */

void drafts_make(struct batch *b); /* for the batch that is filled next */
/* A row's token, and those that its guesses make known; how many guesses came true. */
int32_t drafts_verify(struct batch *b, struct slot *slot);
void drafts_settle(struct batch *b, struct slot *slot); /* wrong guesses leave the KV; before the slot is released */
void drafts_measure(struct batch *b, int32_t streams, int32_t drafted, int32_t accepted, int64_t took_us);

/* ---- llama_turns.c ----------------------------------------------------------------------------- */

void turns_start(struct batch *b);
void turns_next(struct batch *b); /* whose requests the next batch computes */
void turns_used(struct batch *b, int64_t took_us);
bool slot_has_turn(const struct batch *b, const struct slot *slot);

/* ---- llama_queue.c ----------------------------------------------------------------------------- */

/* It has come: what the thread needs besides its tokens. */
void request_accept(struct batch *b, struct llama_request *r);
void request_charge(struct batch *b, struct llama_request *r); /* for what it has said since */
void request_leave(struct batch *b, struct llama_request *r);  /* it ends, wherever it was */
void slot_yield(struct batch *b, struct slot *slot);           /* its request is interrupted, and waits again */
void queue_purge(struct batch *b);                             /* of canceled ones */
void queue_serve(struct batch *b);                             /* puts those who are next into free slots */
void slots_check(struct batch *b);                             /* frees the slots of canceled ones */
void queue_give_back(struct batch *b);
int64_t queue_tokens(const struct batch *b); /* waiting, to be computed */

/* ---- llama_embed.c ----------------------------------------------------------------------------- */

int llama_embed_warm(struct batch *b, struct error *err);
void llama_embed_run(struct batch *b);

#endif
