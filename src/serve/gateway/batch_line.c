/* SPDX-License-Identifier: Apache-2.0 */
/* How: a line out begins with an id and the custom_id, so that its beginning tells what is done already, however large
 * the answer behind it is. */
#include "serve/gateway/batch_line.h"

#include "serve/gateway/fields.h"

static int wrong(struct fault *f, const char *param, const char *code, const char *words)
{
	refuse(f, param, "%s", words);
	f->code = code;
	return E_INVAL;
}

static int check(yyjson_val *root, struct str endpoint, struct batch_line *line, struct fault *f)
{
	yyjson_val *id = yyjson_obj_get(root, "custom_id"), *url = yyjson_obj_get(root, "url");

	if (!yyjson_is_obj(root))
		return wrong(f, "", "invalid_json_line", "each line must be a JSON object");
	if (!yyjson_is_str(id) || yyjson_get_len(id) == 0)
		return wrong(f, "custom_id", "missing_required_parameter",
		             "custom_id must be a string that is not empty");
	if (yyjson_get_len(id) > LIMIT_CUSTOM_ID)
		return wrong(f, "custom_id", "invalid_custom_id", "custom_id is too long");
	if (!str_is(yyjson_obj_get(root, "method"), "POST"))
		return wrong(f, "method", "invalid_method", "method must be \"POST\"");
	if (!yyjson_is_str(url) || !str_equal(val_str(url), endpoint))
		return wrong(f, "url", "mismatched_url", "url must be the endpoint of the batch");
	line->body = yyjson_obj_get(root, "body");
	if (!yyjson_is_obj(line->body))
		return wrong(f, "body", "missing_required_parameter", "body must be an object: the request");
	if (!yyjson_is_str(yyjson_obj_get(line->body, "model")))
		return wrong(f, "body.model", "missing_required_parameter", "body.model must name a model");
	if (yyjson_get_bool(yyjson_obj_get(line->body, "stream")))
		return wrong(f, "body.stream", "invalid_request", "a batch cannot stream");
	line->custom_id = val_str(id);
	return 0;
}

int batch_line_parse(struct str text, struct str endpoint, struct batch_line *ret_line, struct fault *fault)
{
	memset(fault, 0, sizeof(*fault));
	memset(ret_line, 0, sizeof(*ret_line));
	int rc = json_parse(text, &ret_line->doc, &fault->err);
	if (rc < 0)
		fault->code = "invalid_json_line";
	else
		rc = check(yyjson_doc_get_root(ret_line->doc), endpoint, ret_line, fault);
	if (rc < 0)
		batch_line_fini(ret_line);
	return rc;
}

void batch_line_fini(struct batch_line *line)
{
	yyjson_doc_free(line->doc);
	memset(line, 0, sizeof(*line));
}

static void begin(struct buf *out, struct str id, struct str custom_id)
{
	buf_append_str(out, STR("{\"id\":"));
	buf_append_json(out, id);
	buf_append_str(out, STR(",\"custom_id\":"));
	buf_append_json(out, custom_id);
}

void batch_line_answer(struct buf *out, struct str id, struct str custom_id, int status, struct str body)
{
	begin(out, id, custom_id);
	buf_printf(out, ",\"response\":{\"status_code\":%d,\"request_id\":", status);
	buf_append_json(out, id);
	buf_append_str(out, STR(",\"body\":"));
	size_t from = out->len;
	buf_append_str(out, body.len ? body : STR("null"));
	for (size_t i = from; i < out->len; i++) /* between values: within strings they are escaped */
		if (out->base[i] == '\n' || out->base[i] == '\r')
			out->base[i] = ' ';
	buf_append_str(out, STR("},\"error\":null}\n"));
}

void batch_line_error(struct buf *out, struct str id, struct str custom_id, const char *code, const char *message)
{
	begin(out, id, custom_id);
	buf_append_str(out, STR(",\"response\":null,\"error\":{\"code\":"));
	buf_append_json(out, str_from(code));
	buf_append_str(out, STR(",\"message\":"));
	buf_append_json(out, str_from(message));
	buf_append_str(out, STR("}}\n"));
}

bool batch_line_answered(struct str beginning, struct buf *ret_custom_id)
{
	static const char mark[] = "\"custom_id\":";
	const char *at = beginning.len > 64 ? memmem(beginning.base, 64, mark, sizeof(mark) - 1) : NULL;
	size_t from, end;
	yyjson_doc *doc;

	if (!at)
		return false;
	from = (size_t)(at - beginning.base) + sizeof(mark) - 1;
	if (from >= beginning.len || beginning.base[from] != '"')
		return false;
	for (end = from + 1; end < beginning.len && beginning.base[end] != '"'; end++)
		if (beginning.base[end] == '\\')
			end++;
	if (end >= beginning.len)
		return false;
	if (json_parse((struct str){beginning.base + from, end + 1 - from}, &doc, NULL) < 0)
		return false;
	buf_clear(ret_custom_id);
	buf_append_str(ret_custom_id, val_str(yyjson_doc_get_root(doc)));
	yyjson_doc_free(doc);
	return true;
}
