/* SPDX-License-Identifier: Apache-2.0 */
/* A remote server's answer that is no stream, as each task reads it. What is taken is what was asked for. */
#include "engine/remote_private.h"

#include <math.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const enum engine_task tasks[] = {ENGINE_EMBED, ENGINE_RERANK, ENGINE_TOKENIZE, ENGINE_DETOKENIZE};

	for (size_t i = 0; i < 4; i++) {
		struct engine_params p = {.task = tasks[i], .input_count = 2, .pieces = true};
		struct remote_whole w;
		struct error err = {0};
		if (remote_whole_parse((struct str){(const char *)data, size}, &p, &w, &err) < 0) {
			if (!err.text[0])
				__builtin_trap();
			continue;
		}
		if (i < 2 && (w.vector_count != 2 || !w.vector_size))
			__builtin_trap();
		for (size_t j = 0; j < w.vector_size * w.vector_count; j++)
			if (!isfinite(w.vectors[j]))
				__builtin_trap();
		remote_whole_fini(&w);
	}
	return 0;
}
