/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_remote_chunk.c - what another OpenAI server streams to us, as an event stream, and its error bodies. */
#include "engine/remote_chunk.h"
#include "net/sse.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int on_event(void *arg, struct str event, struct str text)
{
	struct remote_chunk chunk;
	struct error err;
	(void)arg;
	(void)event;

	if (remote_chunk_parse(text, &chunk, &err) < 0)
		return 0;
	if (chunk.cached_tokens > chunk.prompt_tokens || chunk.prompt_tokens < 0 || chunk.completion_tokens < 0)
		abort();
	for (size_t i = 0; i < chunk.logprob_count; i++)
		if (!(chunk.logprobs[i].logprob <= 0))
			abort();
	remote_chunk_fini(&chunk);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str text = {(const char *)data, size};
	struct sse_parser parser;
	struct error err;

	sse_parser_init(&parser, 1 << 16, on_event, NULL);
	sse_parser_feed(&parser, text, &err);
	sse_parser_fini(&parser);
	if (remote_error(size ? 400 + data[0] % 105 : 500, text, &err) >= 0)
		abort();
	return 0;
}
