/* SPDX-License-Identifier: Apache-2.0 */
/* How: the JSON is parsed here, its fields by the dialect. Chat messages stay values of the document until an engine
 * here wants them as text, so that a request that is forwarded pays for neither. Content in parts is joined then and
 * the role "developer" becomes "system", since chat templates know neither.
 */
#include "serve/gateway/request.h"

#include "serve/gateway/dialect.h"
#include "serve/gateway/fields.h"

#include <stdlib.h>

int api_request_parse(struct str body, const struct dialect *dialect, struct api_request *ret_request,
                      struct fault *fault)
{
	struct api_request *r = ret_request;

	memset(fault, 0, sizeof(*fault));
	memset(r, 0, sizeof(*r));
	r->dialect = dialect;
	r->task = dialect->task;
	r->n = 1;
	r->max_tokens = r->logprobs = -1;
	r->prompt_count = 1;
	r->sampling.temperature = r->sampling.top_p = r->sampling.repeat_penalty = 1;
	r->sampling.min_p = -1;
	int rc = json_parse(body, &r->doc, &fault->err);
	if (rc < 0)
		return rc;
	r->root = yyjson_doc_get_root(r->doc);
	if (!yyjson_is_obj(r->root))
		rc = error_set(&fault->err, E_INVAL, "the request body must be a JSON object");
	else
		rc = dialect->parse(r->root, r, fault);
	if (rc < 0)
		api_request_fini(r);
	return rc;
}

void api_request_fini(struct api_request *r)
{
	if (!r)
		return;
	yyjson_doc_free(r->doc);
	free(r->bias_tokens);
	free(r->bias_values);
	free(r->token_ids);
	free(r->inputs);
	free(r->input_lengths);
	buf_fini(&r->messages_text);
	buf_fini(&r->tools_text);
	buf_fini(&r->schema_text);
	buf_fini(&r->own);
	memset(r, 0, sizeof(*r));
}

size_t api_request_answers(const struct api_request *r)
{
	return r->prompt_count * (size_t)(r->best_of > r->n ? r->best_of : r->n);
}

/* ---- texts for the engine -------------------------------------------------------------------------- */

/* Text parts become one string, joined by newlines as vLLM and llama-server do. */
static void append_content(yyjson_val *parts, struct buf *out)
{
	struct buf joined = {0};
	yyjson_val *part;
	yyjson_arr_iter it;

	yyjson_arr_iter_init(parts, &it);
	while ((part = yyjson_arr_iter_next(&it)) != NULL) {
		yyjson_val *text = yyjson_obj_get(part, "text");
		if (joined.len)
			buf_append(&joined, "\n", 1);
		buf_append_str(&joined, val_str(text ? text : yyjson_obj_get(part, "refusal")));
	}
	buf_append_json(out, text_or_empty(&joined));
	buf_fini(&joined);
}

static void append_message(yyjson_val *message, struct buf *out)
{
	yyjson_obj_iter it;
	yyjson_val *key;
	bool first = true;

	buf_append(out, "{", 1);
	yyjson_obj_iter_init(message, &it);
	while ((key = yyjson_obj_iter_next(&it)) != NULL) {
		yyjson_val *value = yyjson_obj_iter_get_val(key);

		if (!first)
			buf_append(out, ",", 1);
		first = false;
		buf_append_json(out, val_str(key));
		buf_append(out, ":", 1);
		if (yyjson_equals_str(key, "content") && yyjson_is_arr(value))
			append_content(value, out);
		else if (yyjson_equals_str(key, "role") && str_is(value, "developer"))
			buf_append_str(out, STR("\"system\""));
		else
			append_val(value, out);
	}
	buf_append(out, "}", 1);
}

void api_request_messages(const struct api_request *r, struct buf *out)
{
	yyjson_val *message;
	yyjson_arr_iter it;

	buf_append_str(out, buf_str(&r->messages_text));
	if (!r->messages)
		return;
	if (!r->rewrite) {
		append_val(r->messages, out);
		return;
	}
	yyjson_arr_iter_init(r->messages, &it);
	for (size_t i = 0; (message = yyjson_arr_iter_next(&it)) != NULL; i++) {
		buf_append(out, i ? "," : "[", 1);
		append_message(message, out);
	}
	buf_append(out, "]", 1);
}

void api_request_tools(const struct api_request *r, struct buf *out)
{
	buf_append_str(out, buf_str(&r->tools_text));
	if (!r->tools)
		return;
	if (!r->tool_name.len) {
		append_val(r->tools, out);
		return;
	}
	buf_append(out, "[", 1);
	append_val(tool_by_name(r->tools, r->tool_name), out);
	buf_append(out, "]", 1);
}

void api_request_schema(const struct api_request *r, struct buf *out)
{
	buf_append_str(out, buf_str(&r->schema_text));
	if (r->schema)
		append_val(r->schema, out);
	else if (r->json_object)
		buf_append_str(out, STR("{}"));
}
