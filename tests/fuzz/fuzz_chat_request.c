/* SPDX-License-Identifier: Apache-2.0 */
/* The body of a request, as anybody may send it, read in every dialect. What is taken must also give the texts an
 * engine wants. */
#include "serve/gateway/dialect.h"

static const struct dialect *const dialects[] = {
    &dialect_chat,         &dialect_completion,  &dialect_responses,       &dialect_messages,
    &dialect_count_tokens, &dialect_ollama_chat, &dialect_ollama_generate, &dialect_embeddings,
    &dialect_rerank,       &dialect_tokenize,    &dialect_detokenize,      &dialect_render};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct api_request r;
	struct fault fault;
	struct buf out = {0};

	for (size_t i = 0; i < sizeof(dialects) / sizeof(dialects[0]); i++) {
		if (api_request_parse((struct str){(const char *)data, size}, dialects[i], &r, &fault) < 0) {
			if (fault.err.text[0] == '\0')
				__builtin_trap();
			continue;
		}
		api_request_messages(&r, &out);
		api_request_tools(&r, &out);
		api_request_schema(&r, &out);
		api_request_fini(&r);
		buf_clear(&out);
	}
	buf_fini(&out);
	return 0;
}
