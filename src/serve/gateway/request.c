/* SPDX-License-Identifier: Apache-2.0 */
/* How: one pass over the fields in OpenAI's order; scalars come from a table (key, kind, range, place), the rest has a
 * function each. The first wrong field ends it, named in `param` the way OpenAI does: messages[2].content[0].type.
 * Content in parts is joined and the role "developer" becomes "system" when texts are made for an engine, since chat
 * templates know neither. Images, audio, suffix, token-id prompts and the old functions are refused: silently
 * leaving them out would change the answer.
 */
#include "serve/gateway/request.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static int refuse(struct fault *f, const char *param, const char *format, ...) __attribute__((format(printf, 3, 4)));
static int refuse(struct fault *f, const char *param, const char *format, ...)
{
	char text[sizeof(f->err.text)];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	snprintf(f->param, sizeof(f->param), "%s", param);
	return error_set(&f->err, E_INVAL, "%s", text);
}

/* The blame for part of a message or tool: formatted only when there is some. */
static int refuse_at(struct fault *f, const char *words, const char *param, ...) __attribute__((format(printf, 3, 4)));
static int refuse_at(struct fault *f, const char *words, const char *param, ...)
{
	va_list args;

	va_start(args, param);
	vsnprintf(f->param, sizeof(f->param), param, args);
	va_end(args);
	return error_set(&f->err, E_INVAL, "%s", words);
}

/* A getter of base/json failed and wrote the words: add whose fault it is. */
static int blame(struct fault *f, const char *param)
{
	snprintf(f->param, sizeof(f->param), "%s", param);
	return f->err.code;
}

static struct str val_str(yyjson_val *v)
{
	return (struct str){yyjson_get_str(v), yyjson_get_len(v)};
}

static bool present(yyjson_val *v)
{
	return v != NULL && !yyjson_is_null(v);
}

static bool str_is(yyjson_val *v, const char *text)
{
	return yyjson_is_str(v) && yyjson_equals_str(v, text);
}

/* ---- scalars ------------------------------------------------------------------------------------ */

enum scalar_kind { SCALAR_NUM, SCALAR_I32, SCALAR_BOOL };
static const struct scalar {
	const char *key;
	enum scalar_kind kind;
	double least, most;
	size_t place;
} scalars[] = {
#define PLACE(member) offsetof(struct chat_request, member)
    {"stream", SCALAR_BOOL, 0, 0, PLACE(stream)},
    {"n", SCALAR_I32, 1, LIMIT_CHOICES, PLACE(n)},
    {"temperature", SCALAR_NUM, 0, 2, PLACE(sampling.temperature)},
    {"top_p", SCALAR_NUM, 0, 1, PLACE(sampling.top_p)},
    {"min_p", SCALAR_NUM, 0, 1, PLACE(sampling.min_p)},
    {"top_k", SCALAR_I32, -1, INT32_MAX, PLACE(sampling.top_k)},
    {"presence_penalty", SCALAR_NUM, -2, 2, PLACE(sampling.presence_penalty)},
    {"frequency_penalty", SCALAR_NUM, -2, 2, PLACE(sampling.frequency_penalty)},
    {"repeat_penalty", SCALAR_NUM, 0.01, 10, PLACE(sampling.repeat_penalty)},
    {"repetition_penalty", SCALAR_NUM, 0.01, 10, PLACE(sampling.repeat_penalty)},
    {"max_tokens", SCALAR_I32, 0, INT32_MAX, PLACE(max_tokens)},
    {"max_completion_tokens", SCALAR_I32, 0, INT32_MAX, PLACE(max_tokens)},
#undef PLACE
};

static int parse_scalars(yyjson_val *root, struct chat_request *r, struct fault *f)
{
	for (size_t i = 0; i < sizeof(scalars) / sizeof(scalars[0]); i++) {
		const struct scalar *s = &scalars[i];
		void *at = (char *)r + s->place;
		int64_t whole = INT64_MIN;
		int rc = 0;

		if (s->kind == SCALAR_NUM) {
			rc = json_num(root, s->key, s->least, s->most, at, &f->err);
		} else if (s->kind == SCALAR_BOOL) {
			rc = json_bool(root, s->key, at, &f->err);
		} else {
			rc = json_i64(root, s->key, (int64_t)s->least, (int64_t)s->most, &whole, &f->err);
			if (rc == 0 && whole != INT64_MIN)
				*(int32_t *)at = (int32_t)whole;
		}
		if (rc < 0)
			return blame(f, s->key);
	}
	if (r->sampling.top_k < 0)
		r->sampling.top_k = 0;
	return 0;
}

static int parse_seed(yyjson_val *root, struct chat_request *r, struct fault *f)
{
	int64_t seed = 0;

	if (!present(yyjson_obj_get(root, "seed")))
		return 0;
	if (json_i64(root, "seed", INT64_MIN, INT64_MAX, &seed, &f->err) < 0)
		return blame(f, "seed");
	r->sampling.seed = (uint64_t)seed;
	r->sampling.has_seed = true;
	return 0;
}

static int parse_stream_options(yyjson_val *root, struct chat_request *r, struct fault *f)
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

static int parse_stop(yyjson_val *root, struct chat_request *r, struct fault *f)
{
	yyjson_val *stop = yyjson_obj_get(root, "stop"), *each = stop;
	size_t count = yyjson_is_arr(stop) ? yyjson_arr_size(stop) : 1;

	if (!present(stop))
		return 0;
	if (!yyjson_is_str(stop) && !yyjson_is_arr(stop))
		return refuse(f, "stop", "\"stop\" must be a string or an array of strings");
	if (count > LIMIT_STOPS)
		return refuse(f, "stop", "\"stop\" has %zu sequences; at most %d are allowed", count, LIMIT_STOPS);
	if (yyjson_is_arr(stop))
		each = yyjson_arr_get_first(stop);
	for (size_t i = 0; i < count; i++, each = unsafe_yyjson_get_next(each)) {
		if (!yyjson_is_str(each) || yyjson_get_len(each) == 0)
			return refuse(f, "stop", "\"stop\" must hold strings that are not empty");
		if (yyjson_get_len(each) > LIMIT_STOP_LENGTH)
			return refuse(f, "stop", "a stop sequence is longer than %d bytes", LIMIT_STOP_LENGTH);
		r->stops[r->stop_count++] = val_str(each);
	}
	return 0;
}

static int parse_logit_bias(yyjson_val *root, struct chat_request *r, struct fault *f)
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
static int parse_logprobs(yyjson_val *root, struct chat_request *r, struct fault *f)
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

static int parse_part(yyjson_val *part, size_t at, size_t i, size_t *bytes, struct fault *f)
{
	yyjson_val *type = yyjson_obj_get(part, "type"), *text;

	if (!yyjson_is_obj(part))
		return refuse_at(f, "a content part must be an object", "messages[%zu].content[%zu]", at, i);
	if (!str_is(type, "text") && !str_is(type, "refusal"))
		return refuse_at(
		    f, "a content part needs \"type\": \"text\"; images, audio and files cannot be answered here",
		    "messages[%zu].content[%zu].type", at, i);
	text = yyjson_obj_get(part, str_is(type, "refusal") ? "refusal" : "text");
	if (!yyjson_is_str(text))
		return refuse_at(f, "a text part needs \"text\", a string", "messages[%zu].content[%zu].text", at, i);
	*bytes += yyjson_get_len(text);
	return 0;
}

static int parse_content(yyjson_val *message, size_t at, bool optional, size_t *bytes, struct chat_request *r,
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

static int parse_message(yyjson_val *message, size_t at, size_t *bytes, struct chat_request *r, struct fault *f)
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

enum { TOKEN_BYTES = 4, MESSAGE_TOKENS = 4 }; /* a rule of thumb; only routing looks at it */

static int parse_messages(yyjson_val *root, struct chat_request *r, struct fault *f)
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

static int parse_tools(yyjson_val *root, struct chat_request *r, struct fault *f)
{
	yyjson_val *tool;
	yyjson_arr_iter it;

	if (json_arr(root, "tools", &r->tools, &f->err) < 0)
		return blame(f, "tools");
	if (!r->tools)
		return 0;
	if (yyjson_arr_size(r->tools) > LIMIT_TOOLS)
		return refuse(f, "tools", "\"tools\" has %zu entries; at most %d are allowed",
		              yyjson_arr_size(r->tools), LIMIT_TOOLS);
	yyjson_arr_iter_init(r->tools, &it);
	for (size_t i = 0; (tool = yyjson_arr_iter_next(&it)) != NULL; i++) {
		yyjson_val *function = yyjson_obj_get(tool, "function");
		yyjson_val *parameters = yyjson_obj_get(function, "parameters");

		if (!str_is(yyjson_obj_get(tool, "type"), "function"))
			return refuse_at(f, "a tool must be an object with \"type\": \"function\"", "tools[%zu].type",
			                 i);
		if (!yyjson_is_str(yyjson_obj_get(function, "name")))
			return refuse_at(f, "a tool needs \"function\" with \"name\", a string",
			                 "tools[%zu].function.name", i);
		if (present(parameters) && !yyjson_is_obj(parameters))
			return refuse_at(f, "\"parameters\" must be a JSON schema object",
			                 "tools[%zu].function.parameters", i);
	}
	if (yyjson_arr_size(r->tools) == 0)
		r->tools = NULL;
	return 0;
}

static yyjson_val *tool_by_name(yyjson_val *tools, struct str name)
{
	yyjson_val *tool;
	yyjson_arr_iter it;

	yyjson_arr_iter_init(tools, &it);
	while ((tool = yyjson_arr_iter_next(&it)) != NULL)
		if (str_equal(val_str(yyjson_obj_get(yyjson_obj_get(tool, "function"), "name")), name))
			return tool;
	return NULL;
}

static int parse_tool_choice(yyjson_val *root, struct chat_request *r, struct fault *f)
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

static int parse_response_format(yyjson_val *root, struct chat_request *r, struct fault *f)
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

static int parse_chat(yyjson_val *root, struct chat_request *r, struct fault *f)
{
	if (present(yyjson_obj_get(root, "functions")))
		return refuse(f, "functions", "\"functions\" is no longer supported; use \"tools\"");
	if (parse_messages(root, r, f) < 0 || parse_tools(root, r, f) < 0 || parse_tool_choice(root, r, f) < 0)
		return f->err.code;
	return parse_response_format(root, r, f);
}

/* ---- completions --------------------------------------------------------------------------------- */

static int parse_prompt(yyjson_val *root, struct chat_request *r, struct fault *f)
{
	yyjson_val *prompt = yyjson_obj_get(root, "prompt"), *each = prompt;
	size_t count = 1, bytes = 0;

	if (!present(prompt))
		return refuse(f, "prompt", "\"prompt\" is missing: a string, or an array of strings");
	if (yyjson_is_arr(prompt)) {
		count = yyjson_arr_size(prompt);
		each = yyjson_arr_get_first(prompt);
	}
	if (count == 0 || count > LIMIT_CHOICES)
		return refuse(f, "prompt", "\"prompt\" must hold 1 to %d strings", LIMIT_CHOICES);
	for (size_t i = 0; i < count; i++, each = unsafe_yyjson_get_next(each)) {
		if (!yyjson_is_str(each))
			return refuse(
			    f, "prompt",
			    "\"prompt\" must be a string or an array of strings; token ids are not supported");
		r->prompts[r->prompt_count++] = val_str(each);
		bytes += yyjson_get_len(each);
	}
	r->prompt_tokens = (int32_t)(bytes / TOKEN_BYTES + 1);
	return 0;
}

static int parse_completion(yyjson_val *root, struct chat_request *r, struct fault *f)
{
	int64_t best_of = r->n;

	if (parse_prompt(root, r, f) < 0)
		return f->err.code;
	if (json_bool(root, "echo", &r->echo, &f->err) < 0)
		return blame(f, "echo");
	if (present(yyjson_obj_get(root, "suffix")))
		return refuse(f, "suffix", "\"suffix\" is not supported");
	if (json_i64(root, "best_of", 1, LIMIT_CHOICES, &best_of, &f->err) < 0)
		return blame(f, "best_of");
	if (best_of != r->n)
		return refuse(f, "best_of", "\"best_of\" is only supported when it equals \"n\"");
	if ((size_t)r->n * r->prompt_count > LIMIT_CHOICES)
		return refuse(f, "n", "prompts times \"n\" must not pass %d answers", LIMIT_CHOICES);
	return 0;
}

static int parse_root(yyjson_val *root, struct chat_request *r, struct fault *f)
{
	if (!yyjson_is_obj(root)) {
		f->param[0] = '\0';
		return error_set(&f->err, E_INVAL, "the request body must be a JSON object");
	}
	if (json_str(root, "model", &r->model, &f->err) < 0)
		return blame(f, "model");
	if (r->model.len == 0)
		return refuse(f, "model", "\"model\" is missing; GET /v1/models lists the names");
	if (r->model.len > LIMIT_NAME || memchr(r->model.base, '\0', r->model.len))
		return refuse(f, "model", "\"model\" is longer than %d bytes, or holds a NUL", LIMIT_NAME);
	if (json_str(root, "user", &r->user, &f->err) < 0)
		return blame(f, "user");
	if (parse_scalars(root, r, f) < 0 || parse_seed(root, r, f) < 0 || parse_stream_options(root, r, f) < 0 ||
	    parse_stop(root, r, f) < 0 || parse_logit_bias(root, r, f) < 0 || parse_logprobs(root, r, f) < 0)
		return f->err.code;
	return r->task == ENGINE_CHAT ? parse_chat(root, r, f) : parse_completion(root, r, f);
}

int chat_request_parse(struct str body, enum engine_task task, struct chat_request *ret_request, struct fault *fault)
{
	struct chat_request r = {.task = task, .n = 1, .logprobs = -1, .max_tokens = task == ENGINE_CHAT ? -1 : 16};

	memset(fault, 0, sizeof(*fault));
	r.sampling.temperature = 1;
	r.sampling.top_p = 1;
	r.sampling.min_p = -1;
	r.sampling.repeat_penalty = 1;
	if (json_parse(body, &r.doc, &fault->err) < 0)
		return fault->err.code;
	if (parse_root(yyjson_doc_get_root(r.doc), &r, fault) < 0) {
		chat_request_fini(&r);
		return fault->err.code;
	}
	*ret_request = r;
	return 0;
}

void chat_request_fini(struct chat_request *r)
{
	if (!r)
		return;
	yyjson_doc_free(r->doc);
	free(r->bias_tokens);
	free(r->bias_values);
	memset(r, 0, sizeof(*r));
}

/* ---- texts for the engine -------------------------------------------------------------------------- */

static void append_val(const yyjson_val *v, struct buf *out)
{
	size_t len = 0;
	char *text = yyjson_val_write(v, 0, &len);

	if (text)
		buf_append(out, text, len);
	free(text);
}

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
	buf_append_json(out, joined.base ? buf_str(&joined) : STR(""));
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

void chat_request_messages(const struct chat_request *r, struct buf *out)
{
	yyjson_val *message;
	yyjson_arr_iter it;

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

void chat_request_tools(const struct chat_request *r, struct buf *out)
{
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

void chat_request_schema(const struct chat_request *r, struct buf *out)
{
	if (r->schema)
		append_val(r->schema, out);
	else if (r->json_object)
		buf_append_str(out, STR("{}"));
}
