/* SPDX-License-Identifier: Apache-2.0 */
/* The body of a chat or completion request, as anybody may send it, read both ways. What is taken must
 * also give the texts an engine wants. */
#include "serve/gateway/request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct chat_request r;
	struct fault fault;
	struct buf out = {0};

	for (int task = ENGINE_CHAT; task <= ENGINE_COMPLETION; task++) {
		if (chat_request_parse((struct str){(const char *)data, size}, (enum engine_task)task, &r, &fault) <
		    0) {
			if (fault.err.text[0] == '\0')
				__builtin_trap();
			continue;
		}
		chat_request_messages(&r, &out);
		chat_request_tools(&r, &out);
		chat_request_schema(&r, &out);
		chat_request_fini(&r);
		buf_clear(&out);
	}
	buf_fini(&out);
	return 0;
}
