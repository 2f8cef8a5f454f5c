/* SPDX-License-Identifier: Apache-2.0 */
/* vLLM's /tokenize and /detokenize: what a prompt, or messages by the model's template, are in tokens, and back. As
 * there, special tokens are added to a prompt and not to messages, whose template has them. And its
 * /v1/chat/completions/render: a chat's body as it would be asked, for routers that choose a node by a prompt's tokens;
 * of vLLM's answer they read token_ids, so that is all there is. Source: vLLM, "entrypoints/serve/tokenize", "render".
 */
#include "serve/gateway/dialect_openai.h"

#include "serve/gateway/fields.h"

#include <stdlib.h>

static int parse_messages(yyjson_val *root, struct api_request *r, struct fault *f)
{
	bool prompted = true, goes_on = false;

	if (json_bool(root, "add_generation_prompt", &prompted, &f->err) < 0)
		return blame(f, "add_generation_prompt");
	if (json_bool(root, "continue_final_message", &goes_on, &f->err) < 0)
		return blame(f, "continue_final_message");
	if (goes_on)
		return refuse(f, "continue_final_message", "\"continue_final_message\" is not supported");
	r->no_generation_prompt = !prompted;
	return openai_parse_messages(root, r, f);
}

static int parse_tokenize(yyjson_val *root, struct api_request *r, struct fault *f)
{
	bool messages = present(yyjson_obj_get(root, "messages")), special = !messages;

	if (fields_model(root, r, f) < 0)
		return f->err.code;
	if (json_bool(root, "add_special_tokens", &special, &f->err) < 0)
		return blame(f, "add_special_tokens");
	if (json_bool(root, "return_token_strs", &r->pieces, &f->err) < 0)
		return blame(f, "return_token_strs");
	r->plain_tokens = !special;
	if (messages)
		return parse_messages(root, r, f);
	if (!yyjson_is_str(yyjson_obj_get(root, "prompt")))
		return refuse(f, "prompt", "\"prompt\", a string, or \"messages\" is missing");
	r->prompts[0].text = val_str(yyjson_obj_get(root, "prompt"));
	return 0;
}

static int parse_render(yyjson_val *root, struct api_request *r, struct fault *f)
{
	if (fields_model(root, r, f) < 0)
		return f->err.code;
	r->plain_tokens = true;
	return parse_messages(root, r, f);
}

static void put_tokens(struct buf *out, const struct engine_event *e)
{
	for (size_t i = 0; i < e->token_count; i++)
		buf_printf(out, i ? ",%d" : "%d", e->tokens[i]);
}

static void whole_render(struct buf *out, struct api_answer *a)
{
	put(out, "{\"token_ids\":[");
	put_tokens(out, a->done);
	put(out, "]}");
}

static void whole_tokenize(struct buf *out, struct api_answer *a)
{
	const struct engine_event *e = a->done;

	buf_printf(out, "{\"count\":%zu,\"max_model_len\":%d,\"tokens\":[", e->token_count, a->context_tokens);
	put_tokens(out, e);
	put(out, "],\"token_strs\":");
	for (size_t i = 0; i < e->logprob_count; i++) {
		put(out, i ? "," : "[");
		buf_append_json(out, e->logprobs[i].token);
	}
	put(out, e->logprob_count ? "]}" : a->in->pieces ? "[]}" : "null}");
}

static int parse_detokenize(yyjson_val *root, struct api_request *r, struct fault *f)
{
	yyjson_val *tokens = yyjson_obj_get(root, "tokens"), *token;
	size_t count = yyjson_arr_size(tokens), at = 0;
	yyjson_arr_iter it;

	if (fields_model(root, r, f) < 0)
		return f->err.code;
	if (!yyjson_is_arr(tokens) || count > LIMIT_PROMPT_TOKENS)
		return refuse(f, "tokens", "\"tokens\" must be an array of at most %d token ids", LIMIT_PROMPT_TOKENS);
	r->token_ids = mem_new(count * sizeof(*r->token_ids) + 1);
	yyjson_arr_iter_init(tokens, &it);
	while ((token = yyjson_arr_iter_next(&it)) != NULL) {
		if (!yyjson_is_uint(token) || yyjson_get_uint(token) > INT32_MAX)
			return refuse_at(f, "a token id must be an integer from 0", "tokens[%zu]", at);
		r->token_ids[at++] = (int32_t)yyjson_get_uint(token);
	}
	r->prompts[0] = (struct api_prompt){.tokens = r->token_ids, .token_count = count};
	return 0;
}

static void whole_detokenize(struct buf *out, struct api_answer *a)
{
	put(out, "{\"prompt\":");
	buf_append_json(out, a->done->text.len ? a->done->text : STR(""));
	put(out, "}");
}

const struct dialect dialect_tokenize = {
    .name = "tokenize",
    .id_prefix = "tokenize-",
    .prompt_field = "prompt",
    .task = ENGINE_TOKENIZE,
    .parse = parse_tokenize,
    .whole = whole_tokenize,
    .fault = api_fault,
};

const struct dialect dialect_render = {
    .name = "render",
    .id_prefix = "render-",
    .prompt_field = "messages",
    .task = ENGINE_TOKENIZE,
    .parse = parse_render,
    .whole = whole_render,
    .fault = api_fault,
};

const struct dialect dialect_detokenize = {
    .name = "detokenize",
    .id_prefix = "detokenize-",
    .prompt_field = "tokens",
    .task = ENGINE_DETOKENIZE,
    .parse = parse_detokenize,
    .whole = whole_detokenize,
    .fault = api_fault,
};
