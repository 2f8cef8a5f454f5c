/* SPDX-License-Identifier: Apache-2.0 */
/* llama_parts.h - the pieces of the llama kind, inside the room: loop side, mailboxes, engine thread.
 *
 * llama_front.c runs on the loop: it takes requests, has them rendered and tokenized in the job pool, hands them
 * over, and delivers what comes back. llama_batch.c is the engine thread: slots, queue, continuous batch. llama.c is
 * the only file that includes llama.h; it gives the thread a small face on the model. Two mailboxes join the sides,
 * under one lock: requests in, events out, each woken once per turn, not per item.
 *
 * Ownership: a request belongs to the loop until llama_mail_submit; then its `thread` part belongs to the engine
 * thread, which gives the request back exactly once, with LLAMA_DONE or LLAMA_RELEASED. Both queues are bounded by
 * LIMIT_QUEUE and slots; events by UNDELIVERED_MAX tokens a request, beyond which its slot rests.
 */
#ifndef MDN_ENGINE_LLAMA_PARTS_H
#define MDN_ENGINE_LLAMA_PARTS_H

#include "engine/answer.h"
#include "engine/chat.h"
#include "engine/engine_ops.h"
#include "engine/sample.h"

#include "base/digest.h"
#include "core/prefix.h"

#include "engine/speculate.h"

#include <pthread.h>
#include <stdatomic.h>

enum {
	UNDELIVERED_MAX = 64,
	LLAMA_SPARE_OUTPUTS = 16, /* rows of a batch that may want logits besides one a slot */
};

enum llama_speculation { LLAMA_SPECULATE_NONE, LLAMA_SPECULATE_NGRAM, LLAMA_SPECULATE_DRAFT };

/* ---- llama.c: the model ----------------------------------------------------------------------- */

struct llama_model;
struct llama_box; /* model, vocabulary, templates; counted references; immutable once loaded */

struct llama_settings {
	char *model_path;
	int32_t slots, context_tokens, batch_tokens, threads, kv_tokens; /* 0: choose */
	int64_t itl_target_us;
	uint64_t swap_bytes;
	char *model_name, *cache_folder; /* empty: no cache on disk */
	uint64_t cache_memory_bytes, cache_disk_bytes;
	bool mlock;
	bool deterministic;
	enum llama_speculation speculation;
	char *draft_path;
	char **adapters; /* names and paths by turns */
	size_t adapter_count;
	atomic_int *permille; /* of loading; NULL: nobody asks */
	int32_t pooling;      /* of models that have none of their own: llama_pooling_named; 0: they generate */
};

/* Blocks. `stop` may be set by another thread to give up. */
int llama_box_load(const struct llama_settings *settings, const atomic_bool *stop, struct llama_box **ret_box,
                   struct error *err);
void llama_box_ref(struct llama_box *box);
void llama_box_unref(struct llama_box *box);
const struct chat *llama_box_chat(const struct llama_box *box); /* NULL: none */
struct chat_pieces *llama_box_pieces(const struct llama_box *box);
const struct llama_model *llama_box_model(const struct llama_box *box);
/* E_LIMIT when it cannot fit into `context` tokens whatever the text; any thread. */
int llama_box_tokenize(const struct llama_box *box, struct str text, int32_t context, int32_t **ret_tokens,
                       int32_t *ret_count, struct error *err);
int llama_box_tokenize_as(const struct llama_box *box, struct str text, int32_t context, bool add_special,
                          bool parse_special, int32_t **ret_tokens, int32_t *ret_count, struct error *err);
/* A completion's prompt and suffix around a gap, as the model was trained to fill it: E_INVAL where it was not. */
int llama_box_infill(const struct llama_box *box, const struct engine_params *params, int32_t context,
                     int32_t **ret_tokens, int32_t *ret_count, struct error *err);
/* A query and a document as the model was trained to compare them. */
int llama_box_pair(const struct llama_box *box, struct str query, struct str document, int32_t context,
                   int32_t **ret_tokens, int32_t *ret_count, struct error *err);
/* Valid UTF-8 whatever the tokens: U+FFFD in place of what is not. E_INVAL: no token of this model. */
int llama_box_detokenize(const struct llama_box *box, const int32_t *tokens, size_t count, struct buf *ret_text,
                         struct error *err);
bool llama_pooling_named(struct str name, int32_t *ret_pooling); /* empty: 0 */
bool llama_box_embeds(const struct llama_box *box);              /* or ranks; it does not generate */
size_t llama_box_vector_size(const struct llama_box *box);
/* The number of a LoRA adapter; 0: no name, none. E_INVAL: there is no such one, or it could not be read. */
int llama_box_adapter(const struct llama_box *box, struct str name, int32_t *ret_adapter, struct error *err);
size_t llama_box_adapters(const struct llama_box *box);
bool llama_box_ends(const struct llama_box *box, int32_t token); /* end of generation */
/* The token's bytes, empty for control tokens unless `special`; valid until the next call with the same buf. */
struct str llama_box_piece(const struct llama_box *box, int32_t token, bool special, struct buf *buf);
int32_t llama_box_vocab(const struct llama_box *box);
void llama_box_info(const struct llama_box *box, struct engine_info *info);

/* The context: engine thread only. */
struct llama_core;
int llama_core_new(struct llama_box *box, struct llama_settings *settings, const atomic_bool *stop,
                   struct llama_core **ret_core, struct error *err); /* fills in what was 0 in settings */
void llama_core_free(struct llama_core *core);
uint64_t llama_core_kv_bytes(const struct llama_core *core);
/* The batch under construction; -1 when full. Returns the row, for llama_core_logits. */
int32_t llama_core_room(const struct llama_core *core);
int32_t llama_core_add(struct llama_core *core, int32_t token, int32_t position, int32_t seq, bool wants_logits);
void llama_core_clear(struct llama_core *core);
void llama_core_adapt(struct llama_core *core, int32_t adapter); /* for the batches that come; 0: none */
int llama_core_decode(struct llama_core *core);         /* llama_decode's result: 0, 1 no room, 2 stopped, < 0 failed */
int32_t llama_core_used(const struct llama_core *core); /* tokens in the batch */
/* Tokens of a prompt that are always computed together, however busy the batch is; 0: any number may be. */
int32_t llama_core_chunk(const struct llama_core *core);
/* What settings ask for; *ret is NULL where they ask for nothing. */
int llama_core_speculate(struct llama_core *core, const struct llama_settings *settings, struct speculate **ret,
                         struct error *err);
float *llama_core_logits(struct llama_core *core, int32_t row);
const float *llama_core_embedding(struct llama_core *core, int32_t seq); /* pooled; NULL: none */
void llama_core_forget(struct llama_core *core);                         /* all of the KV cache */
/* Can the KV of any range be taken alone? Else a sequence's only goes whole, at its end. */
bool llama_core_divisible(const struct llama_core *core);
/* KV as bytes, on the heap: of [begin, end) where divisible, else of all; NULL: failed. And back, behind what the
 * sequence holds where divisible, else into an empty one; false: nothing was added. */
uint8_t *llama_core_export(struct llama_core *core, int32_t seq, int32_t begin, int32_t end, size_t *ret_size);
bool llama_core_import(struct llama_core *core, int32_t seq, const uint8_t *blob, size_t size);
/* The first `count` cells of one sequence are an empty one's, too. Only where divisible. */
void llama_core_share(struct llama_core *core, int32_t from, int32_t to, int32_t count);
/* What KV depends on besides tokens; `seq` holds what the warm-up computed. */
struct digest llama_core_fingerprint(struct llama_core *core, const char *path, int32_t seq);
bool llama_core_idle(const struct llama_core *core); /* no cell belongs to anybody */
/* Would llama_core_keep go back to `position` in a sequence of `past` tokens? */
bool llama_core_reaches(const struct llama_core *core, int32_t seq, int32_t past, int32_t position);
/* Keeps [0, position) of a sequence; false: could only be dropped whole, and was. */
bool llama_core_keep(struct llama_core *core, int32_t seq, int32_t position);

/* ---- requests and mail ------------------------------------------------------------------------ */

enum llama_stage { LLAMA_HELD, LLAMA_IN_JOB, LLAMA_HANDED };

struct llama_logprob_log { /* tokens whose logprobs were not sent yet */
	struct buf bytes;
	struct llama_logprob_entry {
		uint32_t at, len; /* in bytes */
		float logprob;
		uint32_t top_count; /* entries that follow */
		size_t start;       /* where its text begins in the answer */
	} * entries;
	size_t count, room, tokens;
};

struct llama_embedding {     /* what tasks need that do not generate; the job's, then the thread's, then the loop's */
	int32_t *lengths;    /* tokens of each input */
	size_t placed, done; /* inputs in batches so far, and computed */
	int32_t token_at;    /* of the next to be placed */
	uint64_t served;     /* when one of its was placed last; 0: never */
	float *vectors;
	size_t size;
	struct buf text; /* detokenize: the answer; tokenize: what pieces point at */
	struct engine_logprob *pieces;
};

struct llama_request {
	struct engine_request base;
	struct engine_copy copy;
	enum llama_stage stage;
	struct llama_request *held_next; /* loop: until the model is loaded */
	/* Written by the job, then read by the loop, then the thread's. */
	struct chat_prompt *prompt; /* NULL: plain completion */
	struct chat_reader *reader; /* loop side */
	int32_t *tokens, token_count, token_room, prompt_count;
	int32_t adapter; /* llama_box_adapter */
	struct prefix_salt salt;
	struct error err;
	struct llama_embedding embed;
	int32_t cached_count; /* told by STARTED */
	int32_t *untold;      /* loop: tokens that no event has told yet, because nothing was shown of them */
	size_t untold_count, untold_room;
	/* Both sides. */
	atomic_bool canceled, paused;
	atomic_int undelivered; /* tokens in events that the loop has not seen */
	/* Engine thread. */
	struct {
		struct llama_request *next; /* mail; resting ones */
		struct sampler sampler;
		struct chat_grammar *grammar;
		struct answer answer;
		struct str *stops;
		struct llama_logprob_log logprobs;
		struct {
			uint8_t *blob; /* NULL: none */
			size_t size;
			int32_t past; /* tokens it holds */
		} swap;               /* KV while it waits again */
		int32_t made, cached, charged;
		bool started, echo_due, replay_due, failed;
		bool scores;      /* logprobs of the prompt are wanted */
		int32_t scored;   /* tokens of it that have theirs */
		int32_t *pending; /* tokens that no event has told yet */
		size_t pending_count, pending_room;
	} thread;
};

enum llama_event_kind { LLAMA_STARTED, LLAMA_TEXT, LLAMA_DONE, LLAMA_RELEASED, LLAMA_LOADED };

struct llama_event {
	struct llama_event *next;
	struct llama_request *request;
	enum llama_event_kind kind;
	int32_t prompt_count, cached_count, made, tokens; /* tokens: of this event */
	enum engine_finish finish;
	int32_t stop;
	struct engine_logprob *logprobs; /* one block with all they point to */
	size_t logprob_count;
	bool replayed;
	int32_t *token_ids; /* heap */
	size_t token_count;
	struct error *err;     /* DONE, LOADED; heap */
	struct llama_box *box; /* LOADED: a reference */
	struct engine_info info;
	size_t text_len;
	char text[];
};

struct llama_numbers { /* what the thread publishes */
	int64_t tokens_to_prefill;
	double kv_usage, prefill_rate, decode_rate, itl_us;
	uint64_t cached_cells, cached_memory, cached_disk; /* prompt tokens found there */
	uint64_t cache_memory_bytes, cache_disk_bytes;
	uint64_t drafts, drafted, accepted;         /* guesses; tokens guessed; those that came true */
	uint64_t steps, prefill_steps, mixed_steps; /* batches; those with prompt tokens; those with both kinds */
	uint64_t prompt_computed;                   /* tokens */
	uint64_t preemptions, swaps, swapped_bytes; /* see struct engine_load */
	uint64_t batch_tokens, batches[ENGINE_BATCH_SIZES];
};

struct llama_mail {
	pthread_mutex_t lock; /* leaf: nothing else is taken while it is held */
	pthread_cond_t wake;
	struct loop *loop;
	struct llama_request *in_first, **in_last;
	struct llama_event *out_first, **out_last;
	bool changed; /* a flag of some request has changed, or in is not empty */
	bool posted;
	atomic_bool stop;
	struct llama_numbers numbers;
	loop_fn *on_mail;
	void *arg;
};

void llama_mail_init(struct llama_mail *mail, struct loop *loop, loop_fn *on_mail, void *arg);
void llama_mail_fini(struct llama_mail *mail);
/* Loop. */
void llama_mail_submit(struct llama_mail *mail, struct llama_request *request);
void llama_mail_wake(struct llama_mail *mail);
struct llama_event *llama_mail_take(struct llama_mail *mail); /* all, oldest first */
bool llama_mail_is_posted(struct llama_mail *mail);
struct llama_numbers llama_mail_numbers(struct llama_mail *mail);
/* Engine thread. */
struct llama_request *llama_mail_receive(struct llama_mail *mail, bool wait); /* all, oldest first */
/* Appends a list and wakes the loop if it is not awake yet; publishes the numbers. */
void llama_mail_send(struct llama_mail *mail, struct llama_event *first, const struct llama_numbers *numbers);

/* ---- llama_batch.c: the engine thread ------------------------------------------------------------ */

struct llama_engine {
	struct engine base;
	struct llama_settings settings; /* the thread's after start, given back with LOADED */
	struct llama_mail mail;
	pthread_t thread;
	struct llama_box *box; /* loop side's reference; NULL while loading */
	struct llama_request *held;
	int refs; /* loop side: the engine itself, jobs, a post on its way */
	bool delivering;
	atomic_int loaded_permille;
	atomic_bool drafts_always;
};

/* ---- llama_embed.c ----------------------------------------------------------------------------- */

/* Job pool: tokens of all inputs; tokens or text of the request. */
int llama_embed_prepare(struct llama_request *r, const struct llama_box *box, int32_t context, struct error *err);
int llama_tokens_prepare(struct llama_request *r, const struct llama_box *box, int32_t context, struct error *err);
void llama_embed_fini(struct llama_embedding *embedding);

void *llama_thread(void *engine);
void llama_event_free(struct llama_event *event);

/* For tests: counters of the batch; zero for other kinds of engine. */
struct llama_numbers engine_llama_numbers(struct engine *engine);
/* For tests: guesses even where they do not pay. */
void engine_llama_draft_always(struct engine *engine);

#endif
