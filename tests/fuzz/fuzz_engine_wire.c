/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_engine_wire.c - what an engine's process says to its node: frames, one after another. */
#include "engine/process_wire.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile size_t sink; /* so that every byte is read */

static void use(struct str text)
{
	for (size_t i = 0; i < text.len; i++)
		sink += (unsigned char)text.base[i];
	if (text.base && text.base[text.len] == 1)
		sink++;
}

static void use_event(struct str body, struct wire_memory *memory)
{
	struct engine_event e;
	struct error told, err;

	if (wire_get_event(body, memory, &e, &told, &err) < 0)
		return;
	if (e.cached_tokens > e.prompt_tokens || e.prompt_tokens < 0 || e.completion_tokens < 0)
		abort();
	if ((e.kind == ENGINE_DONE && e.finish == FINISH_ERROR) != (e.err != NULL))
		abort();
	if (utf8_valid_prefix(e.text) != e.text.len || utf8_valid_prefix(e.reasoning) != e.reasoning.len)
		abort();
	use(e.text);
	use(e.reasoning);
	use(e.tool_calls_json);
	for (size_t i = 0; i < e.logprob_count; i++) {
		use(e.logprobs[i].token);
		for (size_t j = 0; j < e.logprobs[i].top_count; j++)
			use(e.logprobs[i].top[j].token);
	}
	for (size_t i = 0; i < e.token_count; i++)
		sink += (size_t)e.tokens[i];
	for (size_t i = 0; i < (e.vector_size ? e.vector_size : 1) * e.vector_count; i++)
		sink += e.vectors[i] > 0;
}

static void use_state(struct str body)
{
	struct wire_state state;
	struct error err;

	if (wire_get_state(body, &state, &err) == 0)
		use((struct str){state.info.architecture, strnlen(state.info.architecture, 64)});
}

static void use_load(struct str body)
{
	struct wire_load load;
	struct error err;

	if (wire_get_load(body, &load, &err) == 0 && (!(load.load.kv_usage >= 0) || load.load.running < 0))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *copy = malloc(size + 1); /* aligned, and with nothing behind it that could be read unseen */
	struct wire_memory memory = {0};
	struct wire_head head;
	struct str body;

	memcpy(copy, data, size);
	for (size_t at = 0; wire_take((struct str){copy + at, size - at}, &head, &body) > 0;) {
		at += sizeof(head) + body.len;
		use_event(body, &memory); /* whatever its kind says */
		use_state(body);
		use_load(body);
	}
	wire_memory_fini(&memory);
	free(copy);
	return 0;
}
