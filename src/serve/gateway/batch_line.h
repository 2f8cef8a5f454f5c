/* SPDX-License-Identifier: Apache-2.0 */
/* batch_line.h - one line of a batch's input, and one of what comes out. OpenAI's Batch API, "request input object".
 *
 *   in:  {"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{...}}
 *   out:
 * {"id":"batch_req_...","custom_id":"a","response":{"status_code":200,"request_id":"...","body":{...}},"error":null}
 *
 * Pure; any thread.
 */
#ifndef MDN_GATEWAY_BATCH_LINE_H
#define MDN_GATEWAY_BATCH_LINE_H

#include "base/json.h"
#include "serve/gateway/request.h"

struct batch_line {
	struct str custom_id; /* of the document */
	yyjson_val *body;
	yyjson_doc *doc;
};
int batch_line_parse(struct str text, struct str endpoint, struct batch_line *ret_line, struct fault *fault);
void batch_line_fini(struct batch_line *line);

/* body: JSON text; its line ends become spaces. */
void batch_line_answer(struct buf *out, struct str id, struct str custom_id, int status, struct str body);
void batch_line_error(struct buf *out, struct str id, struct str custom_id, const char *code, const char *message);
/* Which request a line that came out belongs to; its beginning is enough. False: not one of ours. */
bool batch_line_answered(struct str beginning, struct buf *ret_custom_id);

#endif
