/* SPDX-License-Identifier: Apache-2.0 */
/* How: one pass over the fields in OpenAI's order; scalars come from a table, the rest has a function each. The first
 * wrong field ends it, named in `param` the way OpenAI does: messages[2].content[0].type. Images, audio and the old
 * functions are refused: silently leaving them out would change the answer. The extensions min_p, top_k, typical_p,
 * mirostat, repetition_penalty, priority, cache_salt are those of vLLM and llama-server.
 */
#include "serve/gateway/dialect_openai.h"

#include "serve/gateway/fields.h"

#include <stdlib.h>

static const struct scalar scalars[] = {
    {"stream", SCALAR_BOOL, 0, 0, PLACE(stream)},
    {"n", SCALAR_I32, 1, LIMIT_CHOICES, PLACE(n)},
    {"temperature", SCALAR_NUM, 0, 2, PLACE(sampling.temperature)},
    {"top_p", SCALAR_NUM, 0, 1, PLACE(sampling.top_p)},
    {"min_p", SCALAR_NUM, 0, 1, PLACE(sampling.min_p)},
    {"top_k", SCALAR_I32, -1, INT32_MAX, PLACE(sampling.top_k)},
    {"typical_p", SCALAR_NUM, 0, 1, PLACE(sampling.typical_p)},
    {"mirostat", SCALAR_I32, 0, 2, PLACE(sampling.mirostat)},
    {"mirostat_tau", SCALAR_NUM, 0, 100, PLACE(sampling.mirostat_tau)},
    {"mirostat_eta", SCALAR_NUM, 0, 1, PLACE(sampling.mirostat_eta)},
    {"presence_penalty", SCALAR_NUM, -2, 2, PLACE(sampling.presence_penalty)},
    {"frequency_penalty", SCALAR_NUM, -2, 2, PLACE(sampling.frequency_penalty)},
    {"repeat_penalty", SCALAR_NUM, 0.01, 10, PLACE(sampling.repeat_penalty)},
    {"repetition_penalty", SCALAR_NUM, 0.01, 10, PLACE(sampling.repeat_penalty)},
    {"max_tokens", SCALAR_I32, 0, INT32_MAX, PLACE(max_tokens)},
    {"max_completion_tokens", SCALAR_I32, 0, INT32_MAX, PLACE(max_tokens)},
    {"cache_salt", SCALAR_STR, 0, LIMIT_CACHE_SALT, PLACE(cache_salt)},
    {"prompt_cache_key", SCALAR_STR, 0, LIMIT_SESSION, PLACE(session)},
    {"session_id", SCALAR_STR, 0, LIMIT_SESSION, PLACE(session)},
};

static int parse_stream_options(yyjson_val *root, struct api_request *r, struct fault *f)
{
	yyjson_val *options = NULL;

	if (json_obj(root, "stream_options", &options, &f->err) < 0)
		return blame(f, "stream_options");
	if (!options)
		return 0;
	if (!r->stream)
		return refuse(f, "stream_options", "\"stream_options\" is only allowed when \"stream\" is true");
	if (json_bool(options, "include_usage", &r->include_usage, &f->err) < 0)
		return blame(f, "stream_options.include_usage");
	return 0;
}

static int parse_logit_bias(yyjson_val *root, struct api_request *r, struct fault *f)
{
	yyjson_val *bias = NULL, *key, *value;
	yyjson_obj_iter it;
	size_t count;

	if (json_obj(root, "logit_bias", &bias, &f->err) < 0)
		return blame(f, "logit_bias");
	if (!bias || (count = yyjson_obj_size(bias)) == 0)
		return 0;
	if (count > LIMIT_LOGIT_BIAS)
		return refuse(f, "logit_bias", "\"logit_bias\" has %zu tokens; at most %d are allowed", count,
		              LIMIT_LOGIT_BIAS);
	r->bias_tokens = mem_new(count * sizeof(*r->bias_tokens));
	r->bias_values = mem_new(count * sizeof(*r->bias_values));
	yyjson_obj_iter_init(bias, &it);
	for (size_t i = 0; (key = yyjson_obj_iter_next(&it)) != NULL; i++) {
		uint64_t token;

		value = yyjson_obj_iter_get_val(key);
		if (str_to_u64(val_str(key), &token) < 0 || token > INT32_MAX)
			return refuse(f, "logit_bias", "\"logit_bias\" must map token ids (as strings) to numbers");
		if (!yyjson_is_num(value) || yyjson_get_num(value) < -100 || yyjson_get_num(value) > 100)
			return refuse(f, "logit_bias", "a bias must be a number from -100 to 100");
		r->bias_tokens[i] = (int32_t)token;
		r->bias_values[i] = (float)yyjson_get_num(value);
	}
	r->sampling.bias_tokens = r->bias_tokens;
	r->sampling.bias_values = r->bias_values;
	r->sampling.bias_count = count;
	return 0;
}

/* Chat: logprobs is a switch and top_logprobs the count; completions: logprobs is the count. */
static int parse_logprobs(yyjson_val *root, struct api_request *r, struct fault *f)
{
	int64_t top = -1;
	bool on = false;

	if (r->task == ENGINE_COMPLETION) {
		if (json_i64(root, "logprobs", 0, LIMIT_LOGPROBS, &top, &f->err) < 0)
			return blame(f, "logprobs");
		r->logprobs = (int32_t)top;
		return 0;
	}
	if (json_bool(root, "logprobs", &on, &f->err) < 0)
		return blame(f, "logprobs");
	if (json_i64(root, "top_logprobs", 0, LIMIT_LOGPROBS, &top, &f->err) < 0)
		return blame(f, "top_logprobs");
	if (top >= 0 && !on)
		return refuse(f, "top_logprobs", "\"top_logprobs\" needs \"logprobs\": true");
	r->logprobs = !on ? -1 : top < 0 ? 0 : (int32_t)top;
	return 0;
}

/* ---- messages ----------------------------------------------------------------------------------- */

static const char *part_words(yyjson_val *type)
{
	if (str_is(type, "image_url"))
		return "an image " NOT_TEXT;
	if (str_is(type, "input_audio"))
		return "audio " NOT_TEXT;
	if (str_is(type, "video_url") || str_is(type, "file"))
		return "a file " NOT_TEXT;
	return "a content part needs \"type\": \"text\"";
}

static int parse_part(yyjson_val *part, size_t at, size_t i, size_t *bytes, struct fault *f)
{
	yyjson_val *type = yyjson_obj_get(part, "type"), *text;

	if (!yyjson_is_obj(part))
		return refuse_at(f, "a content part must be an object", "messages[%zu].content[%zu]", at, i);
	if (!str_is(type, "text") && !str_is(type, "refusal"))
		return refuse_at(f, part_words(type), "messages[%zu].content[%zu].type", at, i);
	text = yyjson_obj_get(part, str_is(type, "refusal") ? "refusal" : "text");
	if (!yyjson_is_str(text))
		return refuse_at(f, "a text part needs \"text\", a string", "messages[%zu].content[%zu].text", at, i);
	*bytes += yyjson_get_len(text);
	return 0;
}

static int parse_content(yyjson_val *message, size_t at, bool optional, size_t *bytes, struct api_request *r,
                         struct fault *f)
{
	static const char words[] = "a message needs \"content\": a string or an array of text parts";
	yyjson_val *content = yyjson_obj_get(message, "content"), *part;
	yyjson_arr_iter it;

	if (yyjson_is_str(content)) {
		*bytes += yyjson_get_len(content);
		return 0;
	}
	if (!present(content) && optional)
		return 0;
	if (!yyjson_is_arr(content))
		return refuse_at(f, words, "messages[%zu].content", at);
	r->rewrite = true;
	yyjson_arr_iter_init(content, &it);
	for (size_t i = 0; (part = yyjson_arr_iter_next(&it)) != NULL; i++)
		if (parse_part(part, at, i, bytes, f) < 0)
			return f->err.code;
	return 0;
}

static int parse_tool_calls(yyjson_val *calls, size_t at, size_t *bytes, struct fault *f)
{
	yyjson_val *call;
	yyjson_arr_iter it;

	if (!yyjson_is_arr(calls) || yyjson_arr_size(calls) == 0)
		return refuse_at(f, "\"tool_calls\" must be an array with at least one call",
		                 "messages[%zu].tool_calls", at);
	yyjson_arr_iter_init(calls, &it);
	for (size_t i = 0; (call = yyjson_arr_iter_next(&it)) != NULL; i++) {
		yyjson_val *function = yyjson_obj_get(call, "function");
		yyjson_val *arguments = yyjson_obj_get(function, "arguments");

		if (!yyjson_is_str(yyjson_obj_get(call, "id")) || !yyjson_is_str(yyjson_obj_get(function, "name")) ||
		    !yyjson_is_str(arguments))
			return refuse_at(
			    f, "a tool call needs \"id\" and \"function\" with \"name\" and \"arguments\", all strings",
			    "messages[%zu].tool_calls[%zu]", at, i);
		*bytes += yyjson_get_len(arguments);
	}
	return 0;
}

static bool is_role(yyjson_val *role)
{
	static const char *const roles[] = {"user", "assistant", "system", "tool", "developer", "function"};

	for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]); i++)
		if (str_is(role, roles[i]))
			return true;
	return false;
}

static int parse_message(yyjson_val *message, size_t at, size_t *bytes, struct api_request *r, struct fault *f)
{
	yyjson_val *role = yyjson_obj_get(message, "role"), *name = yyjson_obj_get(message, "name");
	yyjson_val *calls = yyjson_obj_get(message, "tool_calls");
	bool assistant = str_is(role, "assistant");

	if (!yyjson_is_obj(message))
		return refuse_at(f, "a message must be an object with \"role\" and \"content\"", "messages[%zu]", at);
	if (!is_role(role))
		return refuse_at(f, "\"role\" must be one of system, developer, user, assistant, tool",
		                 "messages[%zu].role", at);
	r->rewrite = r->rewrite || str_is(role, "developer");
	if (str_is(role, "tool") && !yyjson_is_str(yyjson_obj_get(message, "tool_call_id")))
		return refuse_at(f, "a tool's message needs \"tool_call_id\", a string", "messages[%zu].tool_call_id",
		                 at);
	if (present(name) && !yyjson_is_str(name))
		return refuse_at(f, "\"name\" must be a string", "messages[%zu].name", at);
	if (assistant && present(calls) && parse_tool_calls(calls, at, bytes, f) < 0)
		return f->err.code;
	return parse_content(message, at, assistant && present(calls), bytes, r, f);
}

static int parse_messages(yyjson_val *root, struct api_request *r, struct fault *f)
{
	size_t bytes = 0, count;
	yyjson_val *message;
	yyjson_arr_iter it;

	if (json_arr(root, "messages", &r->messages, &f->err) < 0)
		return blame(f, "messages");
	if (!r->messages)
		return refuse(f, "messages", "\"messages\" is missing: an array of {\"role\", \"content\"} objects");
	count = yyjson_arr_size(r->messages);
	if (count == 0)
		return refuse(f, "messages", "\"messages\" is empty; at least one message is needed");
	if (count > LIMIT_MESSAGES)
		return refuse(f, "messages", "\"messages\" has %zu entries; at most %d are allowed", count,
		              LIMIT_MESSAGES);
	yyjson_arr_iter_init(r->messages, &it);
	for (size_t i = 0; (message = yyjson_arr_iter_next(&it)) != NULL; i++)
		if (parse_message(message, i, &bytes, r, f) < 0)
			return f->err.code;
	r->prompt_count = 1;
	r->prompt_tokens = (int32_t)(bytes / TOKEN_BYTES + count * MESSAGE_TOKENS);
	return 0;
}

/* ---- tools and response format ------------------------------------------------------------------- */

static int check_tool(yyjson_val *tool, size_t i, struct fault *f)
{
	yyjson_val *function = yyjson_obj_get(tool, "function");
	yyjson_val *parameters = yyjson_obj_get(function, "parameters");

	if (!str_is(yyjson_obj_get(tool, "type"), "function"))
		return refuse_at(f, "a tool must be an object with \"type\": \"function\"", "tools[%zu].type", i);
	if (!yyjson_is_str(yyjson_obj_get(function, "name")))
		return refuse_at(f, "a tool needs \"function\" with \"name\", a string", "tools[%zu].function.name", i);
	if (present(parameters) && !yyjson_is_obj(parameters))
		return refuse_at(f, "\"parameters\" must be a JSON schema object", "tools[%zu].function.parameters", i);
	return 0;
}

static int parse_tools(yyjson_val *root, struct api_request *r, struct fault *f)
{
	if (json_arr(root, "tools", &r->tools, &f->err) < 0)
		return blame(f, "tools");
	if (fields_tools(r->tools, STR(""), check_tool, NULL, r, f) < 0)
		return f->err.code;
	if (yyjson_arr_size(r->tools) == 0)
		r->tools = NULL;
	return 0;
}

int openai_parse_messages(yyjson_val *root, struct api_request *r, struct fault *f)
{
	return parse_messages(root, r, f) < 0 || parse_tools(root, r, f) < 0 ? f->err.code : 0;
}

static int parse_tool_choice(yyjson_val *root, struct api_request *r, struct fault *f)
{
	yyjson_val *choice = yyjson_obj_get(root, "tool_choice"), *name;

	if (!present(choice))
		return 0;
	if (str_is(choice, "none") || str_is(choice, "auto") || str_is(choice, "required")) {
		r->tool_choice = val_str(choice);
		if (str_is(choice, "required") && !r->tools)
			return refuse(f, "tool_choice", "\"tool_choice\": \"required\" needs \"tools\"");
		return 0;
	}
	name = yyjson_obj_get(yyjson_obj_get(choice, "function"), "name");
	if (!yyjson_is_str(name))
		return refuse(f, "tool_choice",
		              "\"tool_choice\" must be \"none\", \"auto\", \"required\" or "
		              "{\"type\": \"function\", \"function\": {\"name\": ...}}");
	if (!r->tools || !tool_by_name(r->tools, val_str(name)))
		return refuse(f, "tool_choice",
		              "\"tool_choice\" names the function \"%.64s\", which is not in \"tools\"",
		              yyjson_get_str(name));
	r->tool_name = val_str(name);
	r->tool_choice = STR("required");
	return 0;
}

static int parse_response_format(yyjson_val *root, struct api_request *r, struct fault *f)
{
	yyjson_val *format = NULL, *type, *wrapper;

	if (json_obj(root, "response_format", &format, &f->err) < 0)
		return blame(f, "response_format");
	if (!format)
		return 0;
	type = yyjson_obj_get(format, "type");
	if (str_is(type, "text"))
		return 0;
	if (str_is(type, "json_object")) {
		r->json_object = true;
		return 0;
	}
	if (!str_is(type, "json_schema"))
		return refuse(f, "response_format.type",
		              "\"type\" must be \"text\", \"json_object\" or \"json_schema\"");
	wrapper = yyjson_obj_get(format, "json_schema");
	r->schema = yyjson_obj_get(wrapper, "schema");
	if (!yyjson_is_str(yyjson_obj_get(wrapper, "name")))
		return refuse(f, "response_format.json_schema.name", "\"json_schema\" needs \"name\", a string");
	if (!yyjson_is_obj(r->schema))
		return refuse(f, "response_format.json_schema.schema", "\"json_schema\" needs \"schema\", an object");
	return 0;
}

static int parse_chat(yyjson_val *root, struct api_request *r, struct fault *f)
{
	if (present(yyjson_obj_get(root, "functions")))
		return refuse(f, "functions", "\"functions\" is no longer supported; use \"tools\"");
	if (parse_messages(root, r, f) < 0 || parse_tools(root, r, f) < 0 || parse_tool_choice(root, r, f) < 0)
		return f->err.code;
	return parse_response_format(root, r, f);
}

/* ---- completions --------------------------------------------------------------------------------- */

static const char prompt_words[] =
    "\"prompt\" must be a string, an array of strings, an array of token ids or an array of "
    "arrays of token ids";

/* One prompt of token ids, at `at` of those gathered. */
static int parse_token_ids(yyjson_val *ids, struct api_request *r, size_t *at, struct fault *f)
{
	struct api_prompt *prompt = &r->prompts[r->prompt_count++];
	yyjson_val *id;
	yyjson_arr_iter it;

	prompt->tokens = r->token_ids + *at;
	prompt->token_count = yyjson_arr_size(ids);
	if (prompt->token_count == 0)
		return refuse(f, "prompt", "a prompt of token ids must not be empty");
	yyjson_arr_iter_init(ids, &it);
	while ((id = yyjson_arr_iter_next(&it)) != NULL) {
		if (!yyjson_is_uint(id) || yyjson_get_uint(id) > INT32_MAX)
			return refuse(f, "prompt", "%s", prompt_words);
		r->token_ids[(*at)++] = (int32_t)yyjson_get_uint(id);
	}
	return 0;
}

static int parse_token_prompts(yyjson_val *prompt, struct api_request *r, struct fault *f)
{
	bool several = yyjson_is_arr(yyjson_arr_get_first(prompt));
	size_t total = several ? 0 : yyjson_arr_size(prompt), at = 0;
	yyjson_val *each;
	yyjson_arr_iter it;

	yyjson_arr_iter_init(prompt, &it);
	while (several && (each = yyjson_arr_iter_next(&it)) != NULL)
		total += yyjson_arr_size(each);
	if (total > LIMIT_PROMPT_TOKENS)
		return refuse(f, "prompt", "\"prompt\" has %zu token ids; at most %d are allowed", total,
		              LIMIT_PROMPT_TOKENS);
	r->token_ids = mem_new((total + 1) * sizeof(*r->token_ids));
	r->prompt_tokens = (int32_t)total;
	if (!several)
		return parse_token_ids(prompt, r, &at, f);
	yyjson_arr_iter_init(prompt, &it);
	while ((each = yyjson_arr_iter_next(&it)) != NULL) {
		if (!yyjson_is_arr(each))
			return refuse(f, "prompt", "%s", prompt_words);
		if (parse_token_ids(each, r, &at, f) < 0)
			return f->err.code;
	}
	return 0;
}

static int parse_prompt(yyjson_val *root, struct api_request *r, struct fault *f)
{
	yyjson_val *prompt = yyjson_obj_get(root, "prompt"), *each = prompt;
	bool array = yyjson_is_arr(prompt), tokens = false;
	size_t count = 1, bytes = 0;

	if (!present(prompt))
		return refuse(f, "prompt", "\"prompt\" is missing: a string, or an array of strings");
	if (array) {
		each = yyjson_arr_get_first(prompt);
		tokens = yyjson_is_num(each) || yyjson_is_arr(each);
		count = yyjson_is_num(each) ? 1 : yyjson_arr_size(prompt);
	}
	if (count == 0 || count > LIMIT_CHOICES)
		return refuse(f, "prompt", "\"prompt\" must hold 1 to %d prompts", LIMIT_CHOICES);
	r->prompt_count = 0;
	if (tokens)
		return parse_token_prompts(prompt, r, f);
	for (size_t i = 0; i < count; i++, each = unsafe_yyjson_get_next(each)) {
		if (!yyjson_is_str(each))
			return refuse(f, "prompt", "%s", prompt_words);
		r->prompts[r->prompt_count++].text = val_str(each);
		bytes += yyjson_get_len(each);
	}
	r->prompt_tokens = (int32_t)(bytes / TOKEN_BYTES + 1);
	return 0;
}

static int parse_completion(yyjson_val *root, struct api_request *r, struct fault *f)
{
	int64_t best_of = r->n;

	if (parse_prompt(root, r, f) < 0)
		return f->err.code;
	if (json_bool(root, "echo", &r->echo, &f->err) < 0)
		return blame(f, "echo");
	if (json_str(root, "suffix", &r->suffix, &f->err) < 0)
		return blame(f, "suffix");
	if (json_i64(root, "best_of", 1, LIMIT_CHOICES, &best_of, &f->err) < 0)
		return blame(f, "best_of");
	if (best_of < r->n)
		return refuse(f, "best_of", "\"best_of\" must not be less than \"n\"");
	if (best_of > r->n && r->stream)
		return refuse(f, "best_of", "\"best_of\" above \"n\" cannot be streamed: the best is known at the end");
	r->best_of = (int32_t)best_of;
	if (api_request_answers(r) > LIMIT_CHOICES)
		return refuse(f, "n", "prompts times \"n\" (or \"best_of\") must not pass %d answers", LIMIT_CHOICES);
	return 0;
}

static int parse_root(yyjson_val *root, struct api_request *r, struct fault *f)
{
	if (fields_model(root, r, f) < 0)
		return f->err.code;
	if (json_str(root, "user", &r->user, &f->err) < 0)
		return blame(f, "user");
	if (fields_scalars(root, scalars, sizeof(scalars) / sizeof(scalars[0]), r, f) < 0 ||
	    fields_seed(root, r, f) < 0 || fields_priority(root, r, f) < 0 || parse_stream_options(root, r, f) < 0 ||
	    fields_stops(root, "stop", r, f) < 0 || parse_logit_bias(root, r, f) < 0 || parse_logprobs(root, r, f) < 0)
		return f->err.code;
	return 0;
}

int openai_parse_chat(yyjson_val *root, struct api_request *r, struct fault *f)
{
	int rc = parse_root(root, r, f);

	return rc < 0 ? rc : parse_chat(root, r, f);
}

int openai_parse_completion(yyjson_val *root, struct api_request *r, struct fault *f)
{
	r->max_tokens = 16;
	int rc = parse_root(root, r, f);
	return rc < 0 ? rc : parse_completion(root, r, f);
}
