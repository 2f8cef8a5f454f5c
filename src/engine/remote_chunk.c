/* SPDX-License-Identifier: Apache-2.0 */
/* remote_chunk.c - the peer is a server we do not control: every type is checked, every count bounded. */
#include "engine/remote_chunk.h"

#include "base/json.h"
#include "base/limits.h"

#include <stdlib.h>

enum { TOKENS_MAX = 4096 }; /* logprobs in one event */

static struct str string_of(yyjson_val *object, const char *key)
{
	yyjson_val *value = yyjson_obj_get(object, key);

	return yyjson_is_str(value) ? (struct str){yyjson_get_str(value), yyjson_get_len(value)} : (struct str){0};
}

static int32_t count_of(yyjson_val *object, const char *key)
{
	yyjson_val *value = yyjson_obj_get(object, key);
	int64_t count = yyjson_is_int(value) ? yyjson_get_sint(value) : 0;

	return count < 0 ? 0 : count > INT32_MAX ? INT32_MAX : (int32_t)count;
}

static float logprob_of(yyjson_val *value)
{
	/* A prompt's first token has null; OpenAI writes -9999 for "never". */
	double logprob = yyjson_is_num(value) ? yyjson_get_num(value) : 0;
	return logprob < -9999 ? -9999.0f : logprob > 0 ? 0.0f : (float)logprob;
}

/* ---- logprobs ---------------------------------------------------------------------------------- */

static bool logprobs_alloc(struct remote_chunk *chunk, size_t count)
{
	if (!count || count > TOKENS_MAX)
		return false;
	chunk->logprobs = mem_new(count * sizeof(*chunk->logprobs));
	chunk->tops = mem_new(count * LIMIT_LOGPROBS * sizeof(struct engine_logprob_alternative));
	return true;
}

static struct engine_logprob_alternative *tops_of(struct remote_chunk *chunk, size_t i)
{
	return (struct engine_logprob_alternative *)chunk->tops + i * LIMIT_LOGPROBS;
}

/* {"content":[{"token","logprob","top_logprobs":[{"token","logprob"}]}]} */
static void logprobs_chat(struct remote_chunk *chunk, yyjson_val *content)
{
	size_t i, n, j, m;
	yyjson_val *item, *other;

	if (!logprobs_alloc(chunk, yyjson_arr_size(content)))
		return;
	yyjson_arr_foreach(content, i, n, item)
	{
		struct engine_logprob *to = &chunk->logprobs[chunk->logprob_count];
		struct engine_logprob_alternative *top = tops_of(chunk, chunk->logprob_count++);
		*to = (struct engine_logprob){string_of(item, "token"), logprob_of(yyjson_obj_get(item, "logprob")),
		                              top, 0};
		yyjson_val *tops = yyjson_obj_get(item, "top_logprobs");
		yyjson_arr_foreach(tops, j, m, other)
		{
			if (to->top_count == LIMIT_LOGPROBS)
				break;
			top[to->top_count++] = (struct engine_logprob_alternative){
			    string_of(other, "token"), logprob_of(yyjson_obj_get(other, "logprob"))};
		}
	}
}

/* {"tokens":[],"token_logprobs":[],"top_logprobs":[{TOKEN: LOGPROB}]} */
static void logprobs_completion(struct remote_chunk *chunk, yyjson_val *logprobs)
{
	yyjson_val *tokens = yyjson_obj_get(logprobs, "tokens"), *values = yyjson_obj_get(logprobs, "token_logprobs");
	yyjson_val *tops = yyjson_obj_get(logprobs, "top_logprobs"), *token;
	size_t i, n, j, m;

	if (!logprobs_alloc(chunk, yyjson_arr_size(tokens)))
		return;
	yyjson_arr_foreach(tokens, i, n, token)
	{
		struct engine_logprob *to = &chunk->logprobs[chunk->logprob_count];
		struct engine_logprob_alternative *top = tops_of(chunk, chunk->logprob_count++);
		struct str text = {yyjson_get_str(token), yyjson_get_len(token)};
		yyjson_val *key, *value;
		*to = (struct engine_logprob){text, logprob_of(yyjson_arr_get(values, i)), top, 0};
		yyjson_obj_foreach(yyjson_arr_get(tops, i), j, m, key, value)
		{
			if (to->top_count == LIMIT_LOGPROBS)
				break;
			struct str other = {yyjson_get_str(key), yyjson_get_len(key)};
			top[to->top_count++] = (struct engine_logprob_alternative){other, logprob_of(value)};
		}
	}
}

/* ---- errors ------------------------------------------------------------------------------------ */

static int code_for(int status)
{
	switch (status) {
	case 400:
	case 405:
		return E_INVAL;
	case 404:
		return E_NOTFOUND;
	case 408:
	case 504:
		return E_TIMEOUT;
	case 413:
		return E_LIMIT;
	case 422:
		return E_UNSUPPORTED;
	case 429:
	case 529: /* Dynamo's */
		return E_BUSY;
	case 501:
		return E_UNSUPPORTED;
	case 503:
		return E_UNAVAILABLE;
	default:
		return E_PEER;
	}
}

static bool contains(struct str text, struct str part)
{
	return text.len >= part.len && memmem(text.base, text.len, part.base, part.len);
}

/* vLLM: "maximum context length is"; SGLang: "longer than the model's context length"; llama-server's type;
 * TensorRT-LLM: "max_seq_len"; Ollama: "input length exceeds". */
static bool is_too_long(struct str name, struct str type, struct str message)
{
	static const struct str words[] = {{"context length", 14},      {"context size", 12},
	                                   {"max_seq_len", 11},         {"maximum model length", 20},
	                                   {"max_model_len", 13},       {"input length exceeds", 20},
	                                   {"too large to process", 20}};

	if (contains(name, STR("context_length")) || contains(type, STR("exceed_context")))
		return true;
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (contains(message, words[i]))
			return true;
	return false;
}

static int error_from(int status, yyjson_val *error, struct error *ret_err)
{
	struct str message = yyjson_is_str(error) ? (struct str){yyjson_get_str(error), yyjson_get_len(error)}
	                                          : string_of(error, "message");
	struct str type = string_of(error, "type"), name = string_of(error, "code");
	int code;

	if (!status) /* in a stream: the status hides in "code", or nowhere */
		status = count_of(error, "code");
	code = code_for(status);
	if ((code == E_INVAL || code == E_UNSUPPORTED || status == 500) && is_too_long(name, type, message))
		code = E_LIMIT;
	if (code == E_UNAVAILABLE && (contains(message, STR("busy")) || contains(message, STR("queue is full")) ||
	                              contains(message, STR("pending requests"))))
		code = E_BUSY; /* Ollama's 503 */
	if (status == 401 || status == 403)
		return error_set(ret_err, E_PEER, "the remote engine refuses our key (%d): check remote_key", status);
	char text[400];
	size_t n = 0;
	for (size_t i = 0; i < message.len && n < sizeof(text) - 1; i++)
		text[n++] = (unsigned char)message.base[i] < 0x20 ? ' ' : message.base[i];
	n = utf8_complete_prefix((struct str){text, n});
	if (!n)
		return error_set(ret_err, code, "the remote engine answered with status %d", status);
	return error_set(ret_err, code, "the remote engine: %.*s", (int)n, text);
}

int remote_error(int status, struct str body, struct error *ret_err)
{
	yyjson_doc *doc = NULL;
	yyjson_val *error = NULL;

	if (body.len && json_parse(body, &doc, NULL) == 0) {
		yyjson_val *root = yyjson_doc_get_root(doc);
		error = yyjson_obj_get(root, "error");
		if (!error) /* vLLM's older shape: the error is the body; FastAPI's: {"detail"} */
			error = yyjson_obj_get(root, "detail") ? yyjson_obj_get(root, "detail") : root;
	}
	int code = error_from(status, error, ret_err);
	yyjson_doc_free(doc);
	return code;
}

/* ---- the chunk --------------------------------------------------------------------------------- */

static void parse_usage(struct remote_chunk *chunk, yyjson_val *usage)
{
	if (!yyjson_is_obj(usage))
		return;
	chunk->has_usage = true;
	chunk->prompt_tokens = count_of(usage, "prompt_tokens");
	chunk->completion_tokens = count_of(usage, "completion_tokens");
	chunk->cached_tokens = count_of(yyjson_obj_get(usage, "prompt_tokens_details"), "cached_tokens");
	if (chunk->cached_tokens > chunk->prompt_tokens)
		chunk->cached_tokens = chunk->prompt_tokens;
}

static void parse_choice(struct remote_chunk *chunk, yyjson_val *choice)
{
	yyjson_val *delta = yyjson_obj_get(choice, "delta"), *logprobs = yyjson_obj_get(choice, "logprobs");
	struct str reason = string_of(choice, "finish_reason");

	chunk->text = delta ? string_of(delta, "content") : string_of(choice, "text");
	chunk->reasoning = string_of(delta, "reasoning_content");
	if (!chunk->reasoning.len)
		chunk->reasoning = string_of(delta, "reasoning");
	yyjson_val *calls = yyjson_obj_get(delta, "tool_calls");
	if (yyjson_is_arr(calls) && yyjson_arr_size(calls)) {
		size_t len = 0;
		chunk->calls = yyjson_val_write(calls, 0, &len);
		chunk->tool_calls_json = (struct str){chunk->calls, chunk->calls ? len : 0};
	}
	yyjson_val *content = yyjson_obj_get(logprobs, "content");
	if (yyjson_is_arr(content))
		logprobs_chat(chunk, content);
	else if (yyjson_is_arr(yyjson_obj_get(logprobs, "tokens")))
		logprobs_completion(chunk, logprobs);
	if (reason.len) {
		chunk->finished = true;
		chunk->finish = str_equal(reason, STR("length"))       ? FINISH_LENGTH
		                : str_equal(reason, STR("tool_calls")) ? FINISH_TOOL_CALLS
		                                                       : FINISH_STOP;
	}
}

int remote_chunk_parse(struct str data, struct remote_chunk *chunk, struct error *err)
{
	yyjson_doc *doc;
	struct error json_err;

	*chunk = (struct remote_chunk){0};
	if (json_parse(data, &doc, &json_err) < 0)
		return error_set(err, E_PEER, "the remote engine sends broken JSON: %s", json_err.text);
	yyjson_val *root = yyjson_doc_get_root(doc), *error = yyjson_obj_get(root, "error");
	chunk->doc = doc;
	if (!yyjson_is_obj(root)) {
		remote_chunk_fini(chunk);
		return error_set(err, E_PEER, "the remote engine sends something that is no completion chunk");
	}
	if (error && !yyjson_is_null(error)) {
		error_from(0, error, &chunk->told);
		return 0;
	}
	parse_usage(chunk, yyjson_obj_get(root, "usage"));
	yyjson_val *choice = yyjson_arr_get_first(yyjson_obj_get(root, "choices"));
	if (yyjson_is_obj(choice))
		parse_choice(chunk, choice);
	return 0;
}

void remote_chunk_fini(struct remote_chunk *chunk)
{
	free(chunk->logprobs);
	free(chunk->tops);
	free(chunk->calls);
	yyjson_doc_free(chunk->doc);
	*chunk = (struct remote_chunk){0};
}
