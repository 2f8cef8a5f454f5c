/* SPDX-License-Identifier: Apache-2.0 */
/* How: the fields that Ollama has beside "options" are few; what is in "options" has its defaults there, and those that
 * tell an engine how to load a model (num_ctx, num_gpu and the like) are the operator's here and ignored. A prompt of
 * /api/generate is a chat of one turn unless it is raw. An empty one loads the model and says so. Messages are written
 * down as OpenAI's while they are checked. Streams unless told not to.
 */
#include "serve/gateway/dialect_ollama.h"

#include "serve/gateway/fields.h"
#include "serve/gateway/messages.h"

#include <stdio.h>

static const struct scalar scalars[] = {
    {"stream", SCALAR_BOOL, 0, 0, PLACE(stream)},
    {"cache_salt", SCALAR_STR, 0, LIMIT_CACHE_SALT, PLACE(cache_salt)},
};

static const struct scalar options[] = {
    {"num_predict", SCALAR_I32, -2, INT32_MAX, PLACE(max_tokens)},
    {"temperature", SCALAR_NUM, 0, 100, PLACE(sampling.temperature)},
    {"top_k", SCALAR_I32, -1, INT32_MAX, PLACE(sampling.top_k)},
    {"top_p", SCALAR_NUM, 0, 1, PLACE(sampling.top_p)},
    {"min_p", SCALAR_NUM, 0, 1, PLACE(sampling.min_p)},
    {"typical_p", SCALAR_NUM, 0, 1, PLACE(sampling.typical_p)},
    {"mirostat", SCALAR_I32, 0, 2, PLACE(sampling.mirostat)},
    {"mirostat_tau", SCALAR_NUM, 0, 100, PLACE(sampling.mirostat_tau)},
    {"mirostat_eta", SCALAR_NUM, 0, 1, PLACE(sampling.mirostat_eta)},
    {"presence_penalty", SCALAR_NUM, -2, 2, PLACE(sampling.presence_penalty)},
    {"frequency_penalty", SCALAR_NUM, -2, 2, PLACE(sampling.frequency_penalty)},
    {"repeat_penalty", SCALAR_NUM, 0.01, 10, PLACE(sampling.repeat_penalty)},
};

/* ---- common fields --------------------------------------------------------------------------------------------- */

static int parse_options(yyjson_val *root, struct api_request *r, struct fault *f)
{
	yyjson_val *given = NULL;

	r->sampling.temperature = 0.8;
	r->sampling.top_k = 40;
	r->sampling.top_p = 0.9;
	r->sampling.min_p = 0;
	r->sampling.repeat_penalty = 1.1;
	if (json_obj(root, "options", &given, &f->err) < 0)
		return blame(f, "options");
	if (!given)
		return 0;
	if (fields_scalars(given, options, sizeof(options) / sizeof(options[0]), r, f) < 0 ||
	    fields_seed(given, r, f) < 0)
		return f->err.code;
	if (r->max_tokens < 0)
		r->max_tokens = -1; /* both of Ollama's words for "as long as it takes" */
	return fields_stops(given, "stop", r, f);
}

static int parse_format(yyjson_val *root, struct api_request *r, struct fault *f)
{
	yyjson_val *format = yyjson_obj_get(root, "format");

	if (yyjson_is_obj(format))
		r->schema = format;
	else if (str_is(format, "json"))
		r->json_object = true;
	else if (present(format) && !str_is(format, ""))
		return refuse(f, "format", "\"format\" must be \"json\" or a JSON schema object");
	return 0;
}

static int parse_logprobs(yyjson_val *root, struct api_request *r, struct fault *f)
{
	bool on = false;
	int64_t top = 0;

	if (json_bool(root, "logprobs", &on, &f->err) < 0)
		return blame(f, "logprobs");
	if (json_i64(root, "top_logprobs", 0, LIMIT_LOGPROBS, &top, &f->err) < 0)
		return blame(f, "top_logprobs");
	if (on)
		r->logprobs = (int32_t)top;
	return 0;
}

static int refuse_images(yyjson_val *obj, struct fault *f)
{
	if (yyjson_arr_size(yyjson_obj_get(obj, "images")))
		return refuse(f, "images", "an image " NOT_TEXT);
	return 0;
}

static int parse_common(yyjson_val *root, struct api_request *r, struct fault *f)
{
	r->stream = true;
	if (fields_model(root, r, f) < 0 ||
	    fields_scalars(root, scalars, sizeof(scalars) / sizeof(scalars[0]), r, f) < 0 ||
	    fields_priority(root, r, f) < 0 || parse_options(root, r, f) < 0 || parse_format(root, r, f) < 0 ||
	    parse_logprobs(root, r, f) < 0)
		return f->err.code;
	return refuse_images(root, f);
}

/* Nothing is asked: the model is only to be there. What tokenizes nothing has waited for it. */
static int only_load(struct api_request *r)
{
	r->task = ENGINE_TOKENIZE;
	r->stream = false;
	r->prompts[0].text = STR("");
	buf_clear(&r->messages_text);
	return 0;
}

/* ---- chat ---------------------------------------------------------------------------------------------------------
 */

static int read_calls(yyjson_val *calls, size_t at, struct messages *m, struct fault *f)
{
	yyjson_val *call;
	yyjson_arr_iter it;

	yyjson_arr_iter_init(calls, &it);
	while ((call = yyjson_arr_iter_next(&it)) != NULL) {
		yyjson_val *function = yyjson_obj_get(call, "function"), *name = yyjson_obj_get(function, "name");
		yyjson_val *arguments = yyjson_obj_get(function, "arguments"), *id = yyjson_obj_get(call, "id");
		struct buf text = {0};
		char made[32];

		if (!yyjson_is_str(name) || !yyjson_is_obj(arguments))
			return refuse_at(
			    f, "a tool call needs \"function\" with \"name\", a string, and \"arguments\", an object",
			    "messages[%zu].tool_calls", at);
		snprintf(made, sizeof(made), "call_%zu_%zu", at, it.idx - 1);
		append_val(arguments, &text);
		messages_call(m, yyjson_is_str(id) ? val_str(id) : str_from(made), val_str(name), text_or_empty(&text));
		buf_fini(&text);
	}
	return 0;
}

static int read_message(yyjson_val *message, size_t at, struct messages *m, struct fault *f)
{
	yyjson_val *role = yyjson_obj_get(message, "role"), *content = yyjson_obj_get(message, "content");
	yyjson_val *thinking = yyjson_obj_get(message, "thinking"), *name = yyjson_obj_get(message, "tool_name");
	bool assistant = str_is(role, "assistant"), tool = str_is(role, "tool");

	if (!yyjson_is_obj(message))
		return refuse_at(f, "a message must be an object with \"role\" and \"content\"", "messages[%zu]", at);
	if (!assistant && !tool && !str_is(role, "user") && !str_is(role, "system"))
		return refuse_at(f, "\"role\" must be one of system, user, assistant, tool", "messages[%zu].role", at);
	if (present(content) && !yyjson_is_str(content))
		return refuse_at(f, "\"content\" must be a string", "messages[%zu].content", at);
	if (refuse_images(message, f) < 0)
		return f->err.code;
	if (tool) {
		messages_tool(m, val_str(yyjson_obj_get(message, "tool_call_id")), val_str(name), val_str(content));
		return 0;
	}
	if (!assistant) {
		messages_line(&m->text, val_str(content));
		messages_say(m, str_is(role, "user") ? "user" : "system");
		return 0;
	}
	messages_assistant(m);
	messages_line(&m->said, val_str(content));
	if (yyjson_is_str(thinking))
		messages_line(&m->thinking, val_str(thinking));
	return read_calls(yyjson_obj_get(message, "tool_calls"), at, m, f);
}

static int read_messages(yyjson_val *messages, struct messages *m, struct fault *f)
{
	yyjson_val *message;
	yyjson_arr_iter it;

	if (yyjson_arr_size(messages) > LIMIT_MESSAGES)
		return refuse(f, "messages", "\"messages\" has %zu entries; at most %d are allowed",
		              yyjson_arr_size(messages), LIMIT_MESSAGES);
	yyjson_arr_iter_init(messages, &it);
	for (size_t i = 0; (message = yyjson_arr_iter_next(&it)) != NULL; i++)
		if (read_message(message, i, m, f) < 0)
			return f->err.code;
	return 0;
}

static int check_tool(yyjson_val *tool, size_t i, struct fault *f)
{
	if (!yyjson_is_str(yyjson_obj_get(yyjson_obj_get(tool, "function"), "name")))
		return refuse_at(f, "a tool needs \"function\" with \"name\", a string", "tools[%zu].function.name", i);
	return 0;
}

static int parse_tools(yyjson_val *root, struct api_request *r, struct fault *f)
{
	yyjson_val *tools = NULL;

	if (json_arr(root, "tools", &tools, &f->err) < 0)
		return blame(f, "tools");
	if (fields_tools(tools, STR(""), check_tool, NULL, r, f) < 0)
		return f->err.code;
	if (yyjson_arr_size(tools))
		r->tools = tools;
	return 0;
}

int ollama_parse_chat(yyjson_val *root, struct api_request *r, struct fault *f)
{
	struct messages m = {.out = &r->messages_text};
	yyjson_val *messages = NULL;

	if (parse_common(root, r, f) < 0 || parse_tools(root, r, f) < 0)
		return f->err.code;
	if (json_arr(root, "messages", &messages, &f->err) < 0)
		return blame(f, "messages");
	if (yyjson_arr_size(messages) == 0)
		return only_load(r);
	int rc = read_messages(messages, &m, f);
	messages_end(&m);
	messages_fini(&m);
	r->prompt_tokens = (int32_t)(r->messages_text.len / TOKEN_BYTES);
	return rc;
}

/* ---- generate ------------------------------------------------------------------------------------------------------
 */

int ollama_parse_generate(yyjson_val *root, struct api_request *r, struct fault *f)
{
	struct str prompt = STR(""), system = STR("");
	struct messages m = {.out = &r->messages_text};
	bool raw = false;

	if (parse_common(root, r, f) < 0)
		return f->err.code;
	if (json_str(root, "prompt", &prompt, &f->err) < 0)
		return blame(f, "prompt");
	if (json_str(root, "system", &system, &f->err) < 0)
		return blame(f, "system");
	if (json_str(root, "suffix", &r->suffix, &f->err) < 0)
		return blame(f, "suffix");
	if (json_bool(root, "raw", &raw, &f->err) < 0)
		return blame(f, "raw");
	if (yyjson_get_len(yyjson_obj_get(root, "template")))
		return refuse(f, "template",
		              "\"template\" is not supported: the model's own is used; with \"raw\" none is");
	r->prompt_tokens = (int32_t)((prompt.len + system.len) / TOKEN_BYTES + 1);
	if (prompt.len == 0 && r->suffix.len == 0)
		return only_load(r);
	if (raw || r->suffix.len) {
		r->task = ENGINE_COMPLETION;
		r->prompts[0].text = prompt;
		return 0;
	}
	if (system.len) {
		messages_line(&m.text, system);
		messages_say(&m, "system");
	}
	messages_line(&m.text, prompt);
	messages_say(&m, "user");
	messages_end(&m);
	messages_fini(&m);
	return 0;
}
