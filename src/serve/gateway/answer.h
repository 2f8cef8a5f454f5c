/* SPDX-License-Identifier: Apache-2.0 */
/* answer.h - an answer under way: what engines say, gathered until a dialect writes it down.
 *
 * Also the few shapes that several dialects share. Pure: everything is appended to a buffer.
 */
#ifndef MDN_GATEWAY_ANSWER_H
#define MDN_GATEWAY_ANSWER_H

#include "engine/engine.h"
#include "serve/gateway/request.h"

struct api_usage {
	int32_t prompt_tokens, cached_tokens, completion_tokens;
};

struct tool_call {
	struct buf id, name, arguments;
};

/* One of the answers of a request: gathered until it is whole; also counts what a stream has shown. */
struct api_choice {
	int32_t index;
	enum engine_finish finish;
	struct str stop; /* the stop sequence that ended it, or empty; lives with the request */
	struct api_usage usage;
	struct buf content, reasoning, logprobs;              /* logprobs: entries, comma separated */
	struct buf lp_tokens, lp_values, lp_tops, lp_offsets; /* completions: four lists */
	struct tool_call *calls;
	size_t call_count;
	size_t offset;      /* characters shown so far: text_offset */
	double logprob_sum; /* of the tokens generated */
	size_t logprob_count;
};

struct api_answer {
	const struct dialect *dialect;
	const struct api_request *in;
	const char *id, *model, *fingerprint; /* the model as resolved */
	int32_t context_tokens;
	int64_t created_s;
	int64_t begun_us, started_us, first_us; /* monotonic: received, prefill, first token; 0: not yet */
	struct api_choice *choices;
	size_t count;
	struct api_usage usage;          /* of all choices; final for `whole` and `end` */
	const struct engine_event *done; /* for `whole` of a task that does not generate */
	/* A stream's own state, as its dialect likes. */
	struct {
		uint32_t sequence; /* events so far */
		uint32_t item;     /* blocks or items finished */
		int open;          /* the kind of block that is open, 0: none */
		size_t at;         /* where in a gathered text the open one began; or which tool call it is */
	} stream;
	struct buf items; /* what a stream has finished, for its last event */
	int64_t ended_us; /* monotonic; for `whole` and `end` */
};

/* One piece of a tool call: id and name come with the first, arguments (JSON text) in pieces. */
struct tool_delta {
	size_t index;
	struct str id, name, arguments;
};
void api_tool_deltas(struct str json, void (*each)(void *arg, const struct tool_delta *delta), void *arg);

void api_answer_init(struct api_answer *a, size_t count);
void api_answer_fini(struct api_answer *a);
/* Gathers text, reasoning and tool calls, and weighs. */
void api_choice_add(struct api_choice *c, const struct engine_event *e);
void api_choice_weigh(struct api_choice *c, const struct engine_event *e); /* a stream: nothing else is kept */
/* Leaves, for each prompt, the `n` most likely of its `best_of` answers (mean log probability a token), best first. */
void api_answer_keep_best(struct api_answer *a, size_t best_of, size_t n);

/* {"token","logprob","bytes","top_logprobs":[...]} for each token, comma separated from what is there. */
void api_logprobs(struct buf *out, const struct engine_event *e);
void api_logprob(struct buf *out, float logprob); /* -9999 for never, null for unknown */
size_t api_characters(struct str s);              /* of UTF-8 */
/* OpenAI's, and of all that have no shape of their own: {"error":{"message","type","param","code"}}. */
void api_fault(struct buf *out, const struct fault *fault);
int fault_status(const struct fault *fault);

static inline void put(struct buf *out, const char *text)
{
	buf_append(out, text, strlen(text));
}

/* The text gathered in a buffer that may never have been touched. */
static inline struct str text_or_empty(const struct buf *b)
{
	return b->base ? buf_str(b) : STR("");
}

#endif
