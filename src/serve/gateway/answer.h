/* SPDX-License-Identifier: Apache-2.0 */
/* answer.h - the shapes OpenAI gives an answer: whole objects, stream chunks, log probabilities, usage, errors.
 *
 * Pure: everything is appended to a buffer. Byte for byte what the `openai` client expects; extensions are
 * `reasoning_content` (as vLLM and DeepSeek). Source: OpenAI API reference, "The chat completion object" and on.
 */
#ifndef MDN_GATEWAY_ANSWER_H
#define MDN_GATEWAY_ANSWER_H

#include "engine/engine.h"
#include "serve/gateway/request.h"

/* What is the same in every piece of one answer. */
struct answer_head {
	enum engine_task task;
	const char *id, *model, *fingerprint;
	int64_t created_s;
	bool usage; /* stream with usage: every chunk but the last says null */
};

struct answer_usage {
	int32_t prompt_tokens, cached_tokens, completion_tokens;
};

/* One answer of a request, gathered until it is whole; also counts what a stream has shown. */
struct tool_call {
	struct buf id, name, arguments;
};
struct choice_text {
	struct buf content, reasoning, logprobs;              /* logprobs: entries, comma separated */
	struct buf lp_tokens, lp_values, lp_tops, lp_offsets; /* completions: four lists */
	struct tool_call *calls;
	size_t call_count;
	size_t offset; /* characters shown so far: text_offset */
};
void choice_text_fini(struct choice_text *c);
void choice_text_echo(struct choice_text *c, struct str prompt); /* the text begins with it: offsets count from there */
void choice_text_add(struct choice_text *c, enum engine_task task, const struct engine_event *event);

/* {"id":... up to the open "choices":[ ; then choices; then the end. */
void answer_open(struct buf *out, const struct answer_head *h);
void answer_choice(struct buf *out, enum engine_task task, int32_t index, const struct choice_text *c,
                   enum engine_finish finish, bool logprobs);
void answer_close(struct buf *out, const struct answer_usage *usage);

/* Events of a stream, each with its "data: " and empty line. */
void chunk_role(struct buf *out, const struct answer_head *h, int32_t index);
void chunk_text(struct buf *out, const struct answer_head *h, int32_t index, struct choice_text *c,
                const struct engine_event *event);
void chunk_finish(struct buf *out, const struct answer_head *h, int32_t index, enum engine_finish finish);
void chunk_usage(struct buf *out, const struct answer_head *h, const struct answer_usage *usage);
void chunk_done(struct buf *out);
void chunk_error(struct buf *out, const struct error *err);

void answer_fault(struct buf *out, const struct fault *fault); /* {"error":{...}} */
int fault_status(const struct fault *fault);

#endif
