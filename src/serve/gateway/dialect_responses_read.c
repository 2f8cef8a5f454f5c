/* SPDX-License-Identifier: Apache-2.0 */
/* How: instructions and input items are written down as chat messages while they are checked; what the assistant said,
 * thought and called between two others is one message. Nothing is stored here: what would need an earlier answer, or
 * somebody's servers (background, conversations, built-in tools), is refused, since leaving it out would change the
 * answer. `store` is taken and the answer says false.
 */
#include "serve/gateway/dialect_responses.h"

#include "serve/gateway/fields.h"
#include "serve/gateway/messages.h"

#include <stdio.h>

static const struct scalar scalars[] = {
    {"stream", SCALAR_BOOL, 0, 0, PLACE(stream)},
    {"max_output_tokens", SCALAR_I32, 1, INT32_MAX, PLACE(max_tokens)},
    {"temperature", SCALAR_NUM, 0, 2, PLACE(sampling.temperature)},
    {"top_p", SCALAR_NUM, 0, 1, PLACE(sampling.top_p)},
    {"min_p", SCALAR_NUM, 0, 1, PLACE(sampling.min_p)},
    {"top_k", SCALAR_I32, -1, INT32_MAX, PLACE(sampling.top_k)},
    {"prompt_cache_key", SCALAR_STR, 0, LIMIT_SESSION, PLACE(session)},
    {"cache_salt", SCALAR_STR, 0, LIMIT_CACHE_SALT, PLACE(cache_salt)},
};

/* ---- input items ----------------------------------------------------------------------------------------- */

static const char *part_words(yyjson_val *type)
{
	if (str_is(type, "input_image"))
		return "an image " NOT_TEXT;
	if (str_is(type, "input_audio"))
		return "audio " NOT_TEXT;
	if (str_is(type, "input_file"))
		return "a file " NOT_TEXT;
	return "a content part needs \"type\": \"input_text\", or \"output_text\" where the assistant speaks";
}

static bool is_text(yyjson_val *type)
{
	return str_is(type, "input_text") || str_is(type, "output_text") || str_is(type, "text") ||
	       str_is(type, "summary_text") || str_is(type, "reasoning_text") || str_is(type, "refusal");
}

/* A string, or parts that are texts. */
static int read_texts(yyjson_val *content, size_t at, const char *key, struct buf *to, struct fault *f)
{
	yyjson_val *part, *type, *text;
	yyjson_arr_iter it;

	if (yyjson_is_str(content)) {
		messages_line(to, val_str(content));
		return 0;
	}
	if (!yyjson_is_arr(content))
		return refuse_at(f, "it must be a string or an array of text parts", "input[%zu].%s", at, key);
	yyjson_arr_iter_init(content, &it);
	for (size_t i = 0; (part = yyjson_arr_iter_next(&it)) != NULL; i++) {
		type = yyjson_obj_get(part, "type");
		text = yyjson_obj_get(part, str_is(type, "refusal") ? "refusal" : "text");
		if (!is_text(type))
			return refuse_at(f, part_words(type), "input[%zu].%s[%zu].type", at, key, i);
		if (!yyjson_is_str(text))
			return refuse_at(f, "a text part needs \"text\", a string", "input[%zu].%s[%zu].text", at, key,
			                 i);
		messages_line(to, val_str(text));
	}
	return 0;
}

static int read_message(yyjson_val *item, size_t at, struct messages *m, struct fault *f)
{
	yyjson_val *role = yyjson_obj_get(item, "role"), *content = yyjson_obj_get(item, "content");
	bool assistant = str_is(role, "assistant");

	if (!assistant && !str_is(role, "user") && !str_is(role, "system") && !str_is(role, "developer"))
		return refuse_at(f, "\"role\" must be one of user, assistant, system, developer", "input[%zu].role",
		                 at);
	if (assistant)
		messages_assistant(m);
	if (read_texts(content, at, "content", assistant ? &m->said : &m->text, f) < 0)
		return f->err.code;
	if (!assistant)
		messages_say(m, str_is(role, "user") ? "user" : "system");
	return 0;
}

static int read_call(yyjson_val *item, size_t at, struct messages *m, struct fault *f)
{
	yyjson_val *id = yyjson_obj_get(item, "call_id"), *name = yyjson_obj_get(item, "name");
	yyjson_val *arguments = yyjson_obj_get(item, "arguments");

	if (!yyjson_is_str(id) || !yyjson_is_str(name) || !yyjson_is_str(arguments))
		return refuse_at(f, "a function_call needs \"call_id\", \"name\" and \"arguments\", all strings",
		                 "input[%zu]", at);
	messages_call(m, val_str(id), val_str(name), val_str(arguments));
	return 0;
}

static int read_output(yyjson_val *item, size_t at, struct messages *m, struct fault *f)
{
	yyjson_val *id = yyjson_obj_get(item, "call_id");
	struct buf text = {0};

	if (!yyjson_is_str(id))
		return refuse_at(f, "a function_call_output needs \"call_id\", a string", "input[%zu].call_id", at);
	int rc = read_texts(yyjson_obj_get(item, "output"), at, "output", &text, f);
	if (rc == 0)
		messages_tool(m, val_str(id), STR(""), text_or_empty(&text));
	buf_fini(&text);
	return rc;
}

static int read_reasoning(yyjson_val *item, size_t at, struct messages *m, struct fault *f)
{
	yyjson_val *content = yyjson_obj_get(item, "content"), *summary = yyjson_obj_get(item, "summary");

	if (yyjson_arr_size(content))
		return read_texts(content, at, "content", &m->thinking, f);
	return present(summary) ? read_texts(summary, at, "summary", &m->thinking, f) : 0;
}

static int read_item(yyjson_val *item, size_t at, struct messages *m, struct fault *f)
{
	yyjson_val *type = yyjson_obj_get(item, "type");

	if (!yyjson_is_obj(item))
		return refuse_at(f, "an item must be an object", "input[%zu]", at);
	if (!present(type) || str_is(type, "message"))
		return read_message(item, at, m, f);
	if (str_is(type, "function_call"))
		return read_call(item, at, m, f);
	if (str_is(type, "function_call_output"))
		return read_output(item, at, m, f);
	if (str_is(type, "reasoning"))
		return read_reasoning(item, at, m, f);
	return refuse_at(
	    f,
	    "an item of this type cannot be answered here; send message, function_call, function_call_output or "
	    "reasoning items",
	    "input[%zu].type", at);
}

static int read_input(yyjson_val *input, struct messages *m, struct fault *f)
{
	yyjson_val *item;
	yyjson_arr_iter it;

	if (yyjson_is_str(input)) {
		messages_line(&m->text, val_str(input));
		messages_say(m, "user");
		return 0;
	}
	if (!yyjson_is_arr(input) || yyjson_arr_size(input) == 0)
		return refuse(f, "input", "\"input\" is missing or empty: a string or an array of items");
	if (yyjson_arr_size(input) > LIMIT_MESSAGES)
		return refuse(f, "input", "\"input\" has %zu items; at most %d are allowed", yyjson_arr_size(input),
		              LIMIT_MESSAGES);
	yyjson_arr_iter_init(input, &it);
	for (size_t i = 0; (item = yyjson_arr_iter_next(&it)) != NULL; i++)
		if (read_item(item, i, m, f) < 0)
			return f->err.code;
	return 0;
}

static int parse_input(yyjson_val *root, struct api_request *r, struct fault *f)
{
	struct messages m = {.out = &r->messages_text};
	struct str instructions = STR("");

	if (json_str(root, "instructions", &instructions, &f->err) < 0)
		return blame(f, "instructions");
	if (instructions.len) {
		messages_line(&m.text, instructions);
		messages_say(&m, "system");
	}
	int rc = read_input(yyjson_obj_get(root, "input"), &m, f);
	messages_end(&m);
	messages_fini(&m);
	r->prompt_tokens = (int32_t)(r->messages_text.len / TOKEN_BYTES);
	return rc;
}

/* ---- tools ------------------------------------------------------------------------------------------------- */

static void write_tool(yyjson_val *tool, struct buf *out)
{
	static const char *const keys[] = {"name", "description", "parameters", "strict"};

	put(out, out->len ? ",{\"type\":\"function\",\"function\":{" : "[{\"type\":\"function\",\"function\":{");
	for (size_t i = 0, written = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		yyjson_val *value = yyjson_obj_get(tool, keys[i]);
		if (!present(value))
			continue;
		buf_printf(out, written++ ? ",\"%s\":" : "\"%s\":", keys[i]);
		append_val(value, out);
	}
	put(out, "}}");
}

static int check_tool(yyjson_val *tool, size_t i, struct fault *f)
{
	yyjson_val *parameters = yyjson_obj_get(tool, "parameters");

	if (!str_is(yyjson_obj_get(tool, "type"), "function"))
		return refuse_at(f, "only tools with \"type\": \"function\" can be called from here", "tools[%zu].type",
		                 i);
	if (!yyjson_is_str(yyjson_obj_get(tool, "name")))
		return refuse_at(f, "a tool needs \"name\", a string", "tools[%zu].name", i);
	if (present(parameters) && !yyjson_is_obj(parameters))
		return refuse_at(f, "\"parameters\" must be a JSON schema object", "tools[%zu].parameters", i);
	return 0;
}

static int parse_tools(yyjson_val *root, struct api_request *r, struct fault *f)
{
	yyjson_val *choice = yyjson_obj_get(root, "tool_choice"), *tools = NULL;
	struct str only = val_str(yyjson_obj_get(choice, "name"));

	if (json_arr(root, "tools", &tools, &f->err) < 0)
		return blame(f, "tools");
	if (fields_tools(tools, only, check_tool, write_tool, r, f) < 0)
		return f->err.code;
	if (!present(choice))
		return 0;
	if (str_is(choice, "auto") || str_is(choice, "none") || str_is(choice, "required"))
		r->tool_choice = val_str(choice);
	else if (only.len && str_is(yyjson_obj_get(choice, "type"), "function"))
		r->tool_choice = STR("required");
	else
		return refuse(
		    f, "tool_choice",
		    "\"tool_choice\" must be \"none\", \"auto\", \"required\" or {\"type\": \"function\", \"name\": "
		    "...}");
	if (str_equal(r->tool_choice, STR("required")) && r->tools_text.len == 0)
		return refuse(f, "tool_choice", "\"tool_choice\" wants a function that is not in \"tools\"");
	return 0;
}

/* ---- the rest ------------------------------------------------------------------------------------------------ */

static int parse_format(yyjson_val *root, struct api_request *r, struct fault *f)
{
	yyjson_val *text = NULL, *format, *type;

	if (json_obj(root, "text", &text, &f->err) < 0)
		return blame(f, "text");
	format = yyjson_obj_get(text, "format");
	type = yyjson_obj_get(format, "type");
	if (!present(format) || str_is(type, "text"))
		return 0;
	if (str_is(type, "json_object")) {
		r->json_object = true;
		return 0;
	}
	r->schema = yyjson_obj_get(format, "schema");
	if (!str_is(type, "json_schema"))
		return refuse(f, "text.format.type", "\"type\" must be \"text\", \"json_object\" or \"json_schema\"");
	if (!yyjson_is_obj(r->schema))
		return refuse(f, "text.format.schema", "\"json_schema\" needs \"schema\", an object");
	return 0;
}

static int parse_logprobs(yyjson_val *root, struct api_request *r, struct fault *f)
{
	yyjson_val *include = NULL, *what;
	yyjson_arr_iter it;
	int64_t top = 0;

	if (json_arr(root, "include", &include, &f->err) < 0)
		return blame(f, "include");
	if (json_i64(root, "top_logprobs", 0, LIMIT_LOGPROBS, &top, &f->err) < 0)
		return blame(f, "top_logprobs");
	yyjson_arr_iter_init(include, &it);
	while ((what = yyjson_arr_iter_next(&it)) != NULL)
		if (str_is(what, "message.output_text.logprobs"))
			r->logprobs = (int32_t)top;
	return 0;
}

/* Fields that would need something kept from one request to the next, or done after it. */
static int refuse_state(yyjson_val *root, struct fault *f)
{
	static const char *const keys[] = {"previous_response_id", "conversation", "prompt"};

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		if (present(yyjson_obj_get(root, keys[i])))
			return refuse(f, keys[i],
			              "\"%s\" is not supported: nothing is stored here; send the whole conversation as "
			              "\"input\"",
			              keys[i]);
	if (yyjson_is_true(yyjson_obj_get(root, "background")))
		return refuse(f, "background", "\"background\" is not supported: an answer is given while you wait");
	return 0;
}

int responses_parse(yyjson_val *root, struct api_request *r, struct fault *f)
{
	if (fields_model(root, r, f) < 0 || refuse_state(root, f) < 0 ||
	    fields_scalars(root, scalars, sizeof(scalars) / sizeof(scalars[0]), r, f) < 0 ||
	    fields_priority(root, r, f) < 0 || parse_logprobs(root, r, f) < 0)
		return f->err.code;
	if (json_str(root, "user", &r->user, &f->err) < 0)
		return blame(f, "user");
	if (parse_input(root, r, f) < 0 || parse_tools(root, r, f) < 0)
		return f->err.code;
	return parse_format(root, r, f);
}
