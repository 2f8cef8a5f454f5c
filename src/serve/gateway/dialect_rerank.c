/* SPDX-License-Identifier: Apache-2.0 */
/* Jina's and Cohere's rerank, as vLLM and llama-server answer it: documents sorted by how well they fit the query. The
 * scores are the model's own numbers, as llama-server gives them: larger is better, and only models that end in a
 * softmax keep them between 0 and 1. Documents come back with the results unless "return_documents" is false, which is
 * vLLM's way. */
#include "serve/gateway/dialect.h"

#include "serve/gateway/fields.h"

#include <stdlib.h>

/* A text, or {"text": ...}. */
static yyjson_val *document_text(yyjson_val *document)
{
	return yyjson_is_obj(document) ? yyjson_obj_get(document, "text") : document;
}

static int parse_documents(yyjson_val *root, struct api_request *r, struct fault *f)
{
	yyjson_val *documents = yyjson_obj_get(root, "documents"), *document;
	yyjson_arr_iter it;
	size_t bytes = 0;

	if (!yyjson_is_arr(documents) || yyjson_arr_size(documents) == 0 || yyjson_arr_size(documents) > LIMIT_INPUTS)
		return refuse(f, "documents", "\"documents\" must be an array of 1 to %d texts", LIMIT_INPUTS);
	r->inputs = mem_new(yyjson_arr_size(documents) * sizeof(*r->inputs));
	yyjson_arr_iter_init(documents, &it);
	while ((document = yyjson_arr_iter_next(&it)) != NULL) {
		if (!yyjson_is_str(document_text(document)))
			return refuse_at(f, "a document must be a string or {\"text\": ...}", "documents[%zu]",
			                 r->input_count);
		r->inputs[r->input_count] = val_str(document_text(document));
		bytes += r->inputs[r->input_count++].len + r->prompts[0].text.len;
	}
	r->prompt_tokens = bytes / TOKEN_BYTES < INT32_MAX ? (int32_t)(bytes / TOKEN_BYTES) : INT32_MAX;
	return 0;
}

static int parse(yyjson_val *root, struct api_request *r, struct fault *f)
{
	int64_t top_n;
	bool with;

	if (fields_model(root, r, f) < 0)
		return f->err.code;
	if (json_str(root, "query", &r->prompts[0].text, &f->err) < 0)
		return blame(f, "query");
	if (!r->prompts[0].text.len)
		return refuse(f, "query", "\"query\" is missing: a string");
	if (parse_documents(root, r, f) < 0)
		return f->err.code;
	if (json_i64(root, "top_n", 1, INT32_MAX, &top_n, &f->err) < 0)
		return blame(f, "top_n");
	if (json_bool(root, "return_documents", &with, &f->err) < 0)
		return blame(f, "return_documents");
	return fields_priority(root, r, f);
}

struct place {
	float score;
	size_t index;
};

static int place_order(const void *left, const void *right)
{
	const struct place *a = left, *b = right;

	if (a->score != b->score)
		return a->score > b->score ? -1 : 1;
	return a->index < b->index ? -1 : 1;
}

static void whole(struct buf *out, struct api_answer *a)
{
	const struct engine_event *e = a->done;
	struct place *places = mem_new(e->vector_count * sizeof(*places) + 1);
	int64_t top_n = (int64_t)e->vector_count;
	bool with = true;

	json_i64(a->in->root, "top_n", 1, top_n, &top_n, NULL);
	json_bool(a->in->root, "return_documents", &with, NULL);
	for (size_t i = 0; i < e->vector_count; i++)
		places[i] = (struct place){e->vectors[i], i};
	qsort(places, e->vector_count, sizeof(*places), place_order);
	buf_printf(out, "{\"id\":\"%s\",\"object\":\"list\",\"results\":[", a->id);
	for (size_t i = 0; i < (size_t)top_n; i++) {
		buf_printf(out, "%s{\"index\":%zu,\"relevance_score\":%.9g", i ? "," : "", places[i].index,
		           (double)places[i].score);
		if (with) {
			put(out, ",\"document\":{\"text\":");
			buf_append_json(out, a->in->inputs[places[i].index]);
			put(out, "}");
		}
		put(out, "}");
	}
	free(places);
	put(out, "],\"model\":");
	buf_append_json(out, str_from(a->model));
	buf_printf(out, ",\"usage\":{\"prompt_tokens\":%d,\"total_tokens\":%d}}", e->prompt_tokens, e->prompt_tokens);
}

const struct dialect dialect_rerank = {
    .name = "rerank",
    .id_prefix = "rerank-",
    .prompt_field = "documents",
    .task = ENGINE_RERANK,
    .parse = parse,
    .whole = whole,
    .fault = api_fault,
    .usage = {"\"usage\":{", "\"prompt_tokens\":", "\"completion_tokens\":", "\"cached_tokens\":", false},
};
