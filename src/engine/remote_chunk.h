/* SPDX-License-Identifier: Apache-2.0 */
/* remote_chunk.h - one event of an OpenAI stream, chat or completion, as vLLM, SGLang, llama-server and OpenAI write
 * it.
 *
 * Pure. Strings live until remote_chunk_fini. Unknown keys are ignored; null is absent. Source: OpenAI API reference,
 * "chat completion chunk object" and "completion object"; "reasoning_content" as DeepSeek, "reasoning" as vLLM name it.
 */
#ifndef MDN_ENGINE_REMOTE_CHUNK_H
#define MDN_ENGINE_REMOTE_CHUNK_H

#include "engine/engine.h"

struct remote_chunk {
	struct str text, reasoning, tool_calls_json;
	struct engine_logprob *logprobs;
	size_t logprob_count;
	bool finished, has_usage;
	enum engine_finish finish;
	int32_t prompt_tokens, cached_tokens, completion_tokens;
	struct error told; /* the stream carries an error: code is ours for it */
	void *doc, *calls, *tops;
};

int remote_chunk_parse(struct str data, struct remote_chunk *ret_chunk, struct error *err); /* E_PEER */
void remote_chunk_fini(struct remote_chunk *chunk);
/* Our code for an HTTP status of theirs, and the words of an OpenAI error body (any bytes). Returns the code. */
int remote_error(int status, struct str body, struct error *ret_err);

#endif
