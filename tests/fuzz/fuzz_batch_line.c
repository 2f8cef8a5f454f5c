/* SPDX-License-Identifier: Apache-2.0 */
/* A line of a batch's input, and the beginning of one that came out: what is taken must be found again in its answer.
 */
#include "serve/gateway/batch_line.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str text = {(const char *)data, size};
	struct buf out = {0}, id = {0};
	struct batch_line line;
	struct fault fault;

	batch_line_answered(text, &id);
	if (batch_line_parse(text, STR("/v1/chat/completions"), &line, &fault) == 0) {
		batch_line_answer(&out, STR("batch_req_000000000000000000000000"), line.custom_id, 200, STR("{}"));
		if (!batch_line_answered(buf_str(&out), &id) || !str_equal(buf_str(&id), line.custom_id))
			abort();
		batch_line_fini(&line);
	}
	buf_fini(&out);
	buf_fini(&id);
	return 0;
}
