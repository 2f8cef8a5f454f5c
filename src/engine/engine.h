/* SPDX-License-Identifier: Apache-2.0 */
/* engine.h - what runs a model: one small boundary, three kinds behind it (llama, remote, synthetic).
 *
 * An engine holds one loaded model. Requests go in from the loop's thread; events come back on the
 * same loop, in order, ended by exactly one ENGINE_DONE. Whatever thread the kind uses inside is its
 * own affair. Backpressure: after engine_pause a request gets no more tokens generated (a few on their way may still
 * come) until engine_continue. Cancel frees the slot within one batch and no event follows it. Strings in events live
 * for the callback; those in requests are copied. Requests may be submitted while the model loads: they wait. Callbacks
 * may submit, cancel, pause; not free the engine.
 */
#ifndef MDN_ENGINE_ENGINE_H
#define MDN_ENGINE_ENGINE_H

#include "base/error.h"
#include "base/str.h"
#include "net/loop.h"

struct engine;
struct engine_request;

struct engine_sampling {
	double temperature, top_p, min_p;  /* temperature 0: greedy; min_p < 0: the engine's own */
	int32_t top_k;                     /* 0: off */
	double typical_p;                  /* 0 or 1: off */
	int32_t mirostat;                  /* 0: off; 1, 2: its versions, in place of top-k, top-p, min-p, typical */
	double mirostat_tau, mirostat_eta; /* 0: 5 and 0.1 */
	double presence_penalty, frequency_penalty, repeat_penalty; /* 0, 0, 1: off */
	uint64_t seed;
	bool has_seed;
	const int32_t *bias_tokens;
	const float *bias_values;
	size_t bias_count;
};

/* What is asked. EMBED and RERANK answer with vectors and scores in their DONE event, TOKENIZE and DETOKENIZE with
 * tokens and text; none of these four generates. */
enum engine_task {
	ENGINE_CHAT,
	ENGINE_COMPLETION,
	ENGINE_EMBED,
	ENGINE_RERANK,
	ENGINE_TOKENIZE,
	ENGINE_DETOKENIZE,
};

/* Who goes first when not all can; a class never waits for one below it. As docs/api.md names them. */
enum engine_class { ENGINE_SYSTEM = -2, ENGINE_INTERACTIVE, ENGINE_DEFAULT, ENGINE_BULK };

struct engine_params {
	enum engine_task task;
	struct str prompt; /* completion: text; rerank: the query; tokenize: the text, if there are no messages */
	struct str suffix; /* completion: what the answer is followed by (infill) */
	const int32_t *prompt_tokens; /* completion, detokenize: in place of text; embed: see input_lengths */
	size_t prompt_token_count;
	const struct str *inputs; /* embed: texts; rerank: documents; with input_lengths: NULL */
	size_t input_count;
	int32_t dimensions;           /* embed: the first so many of a vector, of length 1 again; 0: all */
	const int32_t *input_lengths; /* embed: so many of prompt_tokens are each input */
	bool plain_tokens;            /* tokenize: without those a prompt begins and ends with */
	bool pieces;                  /* tokenize: logprobs of the end hold each token's text */
	bool no_generation_prompt;    /* tokenize, of messages: not the words an answer begins with */
	struct str messages_json;     /* chat: the OpenAI "messages" array, checked by the caller */
	struct str tools_json;        /* chat: "tools" array or empty */
	struct str tool_choice;       /* "auto", "none", "required" or empty */
	struct str json_schema;       /* response_format; empty: none; "{}": any JSON object */
	struct engine_sampling sampling;
	int32_t max_tokens; /* < 0: until the context is full */
	int32_t logprobs;   /* -1: none; else how many alternatives (0..LIMIT_LOGPROBS) */
	const struct str *stops;
	size_t stop_count;
	bool echo;         /* completion: prompt first, and its logprobs if there are any */
	struct str tenant; /* fairness id; also whose cached prompts may be found, unless cache_salt says otherwise */
	double tenant_weight;  /* share against other tenants; 0: 1 */
	struct str cache_salt; /* those with the same salt share cached prompts; empty: the tenant's own */
	enum engine_class service_class;
	int priority;          /* among the tenant's own in the class; smaller is served first; 0 default */
	int64_t deadline_us;   /* loop clock: not begun by then, it ends with E_TIMEOUT; 0: the engine's own limit */
	struct str adapter;    /* LoRA adapter by name; empty: none */
	struct str request_id; /* travels to remote engines and logs */
	/* Chat, completion: the answer's first tokens, which another engine of this model drew (with this seed). They
	 * are told once, as replayed text, and the answer goes on behind them. E_UNSUPPORTED where the kind cannot. */
	const int32_t *resumed;
	size_t resumed_count;
	struct str answer_id; /* ids of tool calls are made of it, so that they are the same elsewhere; empty: random */
	struct str traceparent;
};

enum engine_event_kind {
	ENGINE_STARTED, /* prefill begins; prompt_tokens and cached_tokens are known (remote: 0, only the end tells) */
	ENGINE_TEXT,    /* text (whole UTF-8 characters), tokens of it */
	ENGINE_DONE,    /* finish reason or error; usage is final */
};

enum engine_finish { FINISH_STOP, FINISH_LENGTH, FINISH_TOOL_CALLS, FINISH_ERROR };

struct engine_logprob_alternative {
	struct str token;
	float logprob;
};

struct engine_logprob {
	struct str token;
	float logprob; /* NaN: nothing comes before it (a prompt's first token) */
	const struct engine_logprob_alternative *top;
	size_t top_count;
};

struct engine_event {
	enum engine_event_kind kind;
	struct str text;            /* visible answer text */
	struct str reasoning;       /* reasoning text, if the model marks it */
	struct str tool_calls_json; /* an array of OpenAI tool call deltas, or empty */
	const struct engine_logprob *logprobs;
	size_t logprob_count;
	bool replayed; /* TEXT: what the request's resumed tokens said; it comes first, if they said anything */
	/* TEXT: those drawn since the last one, also where their text is held back; the kind may not know them. Who is
	 * given all of them again (`resumed`) has said what was said so far, to the byte. DONE of TOKENIZE: all. */
	const int32_t *tokens;
	size_t token_count;
	const float *vectors; /* DONE of EMBED: one of vector_size for each input; of RERANK: one score each */
	size_t vector_size, vector_count;
	int32_t prompt_tokens, cached_tokens, completion_tokens; /* so far */
	enum engine_finish finish;
	int32_t stop; /* DONE: which of the request's stops ended it, from 1; 0: none of them, or not known */
	const struct error *err; /* FINISH_ERROR */
};

typedef void engine_on_event(void *arg, const struct engine_event *event);

enum { ENGINE_BATCH_SIZES = 14 };

/* What the node reports, and what /metrics shows; cheap, loop thread. */
struct engine_load {
	int32_t running, waiting, slots;
	double kv_usage;             /* 0..1 */
	int64_t tokens_to_prefill;   /* queued and not yet computed */
	int64_t told_age_us;         /* remote: since its server told running, waiting and kv_usage; 0: counted here */
	double prefill_tokens_per_s; /* measured, EWMA; 0 unknown */
	double decode_tokens_per_s;  /* all streams together, EWMA */
	double itl_us;               /* recent inter-token latency of one stream */
	uint64_t prompt_tokens_total, cached_tokens_total, generation_tokens_total, requests_total, cancels_total;
	uint64_t drafts_total;                                /* speculative decoding: guesses, of one token or more */
	uint64_t drafted_tokens_total, accepted_tokens_total; /* ... guessed; come true */
	uint64_t expiries_total;                              /* not begun in time */
	uint64_t preemptions_total;            /* requests that lost their slot to others and went back to the queue */
	uint64_t swaps_total;                  /* ... whose KV waited in host memory meanwhile */
	uint64_t swapped_bytes;                /* KV that waits there now */
	uint64_t prompt_computed_tokens_total; /* by llama: those not cached, and what had to be computed again */
	/* llama: cached_tokens_total by where they were, and what the copies take. */
	uint64_t cached_cells_total, cached_memory_total, cached_disk_total, cache_memory_bytes, cache_disk_bytes;
	double load_progress; /* while LOADING: 0..1, as far as the kind knows */
	/* llama: tokens a batch, prompt and answers: batches of at most 1, 8, 16, 32 ... 16384 tokens, and larger ones.
	 */
	uint64_t batch_tokens_total, batches[ENGINE_BATCH_SIZES];
};

struct engine_info {
	char architecture[64];
	int32_t context_tokens; /* per request */
	int32_t slots;
	uint64_t memory_bytes;
	bool chat; /* has a usable chat template */
	bool infill;
	int32_t embedding_size; /* 0: does not embed */
	bool rerank;
	bool no_generation;          /* embeds or ranks only */
	char server[64];             /* remote: what it is, "vllm 0.32.0"; empty: unknown */
	bool no_tools, no_logprobs;  /* remote: it refused them when it was tried */
	int32_t kv_tokens, kv_block; /* tokens the KV cache holds; the least that is kept of a prompt; 0: not known */
};

enum engine_state { ENGINE_LOADING, ENGINE_READY, ENGINE_FAILED };

struct engine_options {
	struct str kind;         /* "llama", "remote", "synthetic" */
	struct str model_path;   /* llama: GGUF file */
	struct str model_name;   /* as the network knows it */
	struct str remote_url;   /* remote: base URL; "http://127.0.0.1:8081" */
	struct str remote_key;   /* remote: bearer key or empty */
	struct str remote_model; /* remote: its name there; empty: model_name */
	int32_t slots;           /* 0: 8 */
	int32_t context_tokens;  /* per slot; 0: min(model's, 4096) */
	int32_t batch_tokens;    /* prefill budget per step; 0: 512 */
	int64_t itl_target_us;   /* how long a step may take while streams run, so how much prefill it has; 0: 100 ms */
	uint64_t swap_bytes;     /* host memory for KV of interrupted requests; 0: chosen */
	int64_t queue_us;        /* how long a request that names no deadline may wait, bulk apart; 0: no limit */
	int32_t threads;         /* 0: cores */
	/* LoRA adapters that requests may name: GGUF files made for this model. They are read with it. */
	const struct str *adapter_names, *adapter_paths;
	size_t adapter_count;
	bool mlock;              /* keep the weights in memory */
	struct str pooling;      /* llama: "mean", "cls", "last": models that have none of their own embed with it */
	bool deterministic;      /* the same request gives the same bits whatever runs beside it; slower */
	struct str cache_folder; /* KV of prompts that outlives a restart; empty: none */
	uint64_t cache_memory_bytes, cache_disk_bytes; /* 0: chosen; none */
	struct str speculate;                          /* "", "none", "ngram", "draft" */
	struct str draft_path;                         /* GGUF of a small model with the same vocabulary */
	struct str user; /* llama: who its process runs as where the node is root; empty: chosen */
	bool in_process; /* llama: in this process instead of one of its own; for tests and the child itself */
	/* synthetic */
	int64_t prefill_us_per_token, itl_base_us, itl_slope_us; /* 0: 200 us, 10 ms, 1 ms */
	int64_t load_us;                                         /* how long loading takes */
	int32_t kv_tokens;                                       /* finite KV; 0: slots * context_tokens */
};

struct engine_ops; /* engine.c, llama.c, remote.c, synthetic.c */

/* Loading goes on in the background: on_state tells READY, or FAILED with words. */
typedef void engine_on_state(void *arg, enum engine_state state, const struct error *err);
int engine_new(struct loop *loop, const struct engine_options *options, engine_on_state *on_state, void *arg,
               struct engine **ret_engine, struct error *err);
void engine_free(struct engine *engine); /* ends every request with E_CANCELED first */
enum engine_state engine_state(const struct engine *engine);
const struct engine_info *engine_info(const struct engine *engine); /* valid once READY */
struct engine_load engine_load(const struct engine *engine);

/* E_BUSY when the queue is full for this class or tenant (core/admission.h; LIMIT_QUEUE); E_TIMEOUT when the deadline
 * is past; E_INVAL for what the model cannot do; E_LIMIT: prompt does not fit is told by ENGINE_DONE (tokenizing is the
 * engine's). On 0 events will come and *ret_request is valid until ENGINE_DONE's callback returned or engine_cancel. */
int engine_submit(struct engine *engine, const struct engine_params *params, engine_on_event *on_event, void *arg,
                  struct engine_request **ret_request, struct error *err);
/* How many requests of the class may wait, and how many more this tenant could submit now. */
void engine_room(const struct engine *engine, enum engine_class service_class, struct str tenant, int32_t *ret_most,
                 int32_t *ret_left);
void engine_cancel(struct engine_request *request);
void engine_pause(struct engine_request *request); /* a reader is slow: stop generating for it soon */
void engine_continue(struct engine_request *request);

/* Makes a smaller file of a GGUF one (of a split one: its first part, the others beside it). Blocks for minutes, uses
 * all threads, and a bad file may take the process down: for a process of its own. `type` as people write it, either
 * case: "q4_k_m". Progress: tensors. E_INVAL for what cannot be quantized so, in llama.cpp's words. */
bool engine_quantize_known(const char *type);
const char *engine_quantize_types(void); /* "q4_0, q4_1, ..." for messages */
typedef void engine_quantize_progress(void *arg, int done, int total);
int engine_quantize_file(const char *in, const char *out, const char *type, int threads,
                         engine_quantize_progress *progress, void *arg, struct error *err);

#endif
