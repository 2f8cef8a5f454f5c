/* SPDX-License-Identifier: Apache-2.0 */
/* How: system text, messages and tools are written down in OpenAI's shape while they are checked, because that is what
 * chat templates take: a tool_result becomes a message of role "tool", tool_use a tool call, thinking
 * reasoning_content. Blocks of several texts are joined by newlines. What runs on Anthropic's servers (web search,
 * code, MCP) is refused.
 */
#include "serve/gateway/dialect_anthropic.h"

#include "serve/gateway/fields.h"
#include "serve/gateway/messages.h"

#include <stdio.h>

static const struct scalar scalars[] = {
    {"stream", SCALAR_BOOL, 0, 0, PLACE(stream)},
    {"max_tokens", SCALAR_I32, 1, INT32_MAX, PLACE(max_tokens)},
    {"temperature", SCALAR_NUM, 0, 2, PLACE(sampling.temperature)},
    {"top_p", SCALAR_NUM, 0, 1, PLACE(sampling.top_p)},
    {"top_k", SCALAR_I32, -1, INT32_MAX, PLACE(sampling.top_k)},
    {"cache_salt", SCALAR_STR, 0, LIMIT_CACHE_SALT, PLACE(cache_salt)},
};

/* Where in the request a block stands: "messages[2].content[1]". */
struct place {
	const char *path;
	size_t at;
};

/* ---- blocks ---------------------------------------------------------------------------------------------- */

static int refuse_block(struct fault *f, const char *words, struct place at, const char *more)
{
	return refuse_at(f, words, "%s[%zu]%s", at.path, at.at, more);
}

static const char *block_words(yyjson_val *type)
{
	if (str_is(type, "image"))
		return "an image " NOT_TEXT;
	if (str_is(type, "document"))
		return "a document " NOT_TEXT;
	return "a block of this type cannot be answered here; send text, tool_use, tool_result or thinking blocks";
}

static int read_text(yyjson_val *block, struct place at, struct buf *to, struct fault *f)
{
	yyjson_val *text = yyjson_obj_get(block, "text");

	if (!str_is(yyjson_obj_get(block, "type"), "text"))
		return refuse_block(f, block_words(yyjson_obj_get(block, "type")), at, ".type");
	if (!yyjson_is_str(text))
		return refuse_block(f, "a text block needs \"text\", a string", at, ".text");
	messages_line(to, val_str(text));
	return 0;
}

/* A string, or text blocks: of a system prompt, or of what a tool answered. */
static int read_texts(yyjson_val *content, const char *path, struct buf *to, struct fault *f)
{
	yyjson_val *block;
	yyjson_arr_iter it;

	if (yyjson_is_str(content)) {
		messages_line(to, val_str(content));
		return 0;
	}
	if (present(content) && !yyjson_is_arr(content))
		return refuse(f, path, "\"%s\" must be a string or an array of text blocks", path);
	yyjson_arr_iter_init(content, &it);
	for (size_t i = 0; (block = yyjson_arr_iter_next(&it)) != NULL; i++)
		if (read_text(block, (struct place){path, i}, to, f) < 0)
			return f->err.code;
	return 0;
}

static int read_tool_result(yyjson_val *block, struct place at, struct messages *m, struct fault *f)
{
	yyjson_val *id = yyjson_obj_get(block, "tool_use_id");
	struct buf text = {0};
	char path[96];

	if (!yyjson_is_str(id))
		return refuse_block(f, "a tool_result block needs \"tool_use_id\", a string", at, ".tool_use_id");
	snprintf(path, sizeof(path), "%s[%zu].content", at.path, at.at);
	int rc = read_texts(yyjson_obj_get(block, "content"), path, &text, f);
	if (rc == 0) {
		if (m->text.len)
			messages_say(m, "user");
		messages_tool(m, val_str(id), STR(""), text_or_empty(&text));
	}
	buf_fini(&text);
	return rc;
}

static int read_tool_use(yyjson_val *block, struct place at, struct messages *m, struct fault *f)
{
	yyjson_val *id = yyjson_obj_get(block, "id"), *name = yyjson_obj_get(block, "name");
	yyjson_val *input = yyjson_obj_get(block, "input");
	struct buf arguments = {0};

	if (!yyjson_is_str(id) || !yyjson_is_str(name) || !yyjson_is_obj(input))
		return refuse_block(f, "a tool_use block needs \"id\" and \"name\", strings, and \"input\", an object",
		                    at, "");
	append_val(input, &arguments);
	messages_call(m, val_str(id), val_str(name), text_or_empty(&arguments));
	buf_fini(&arguments);
	return 0;
}

static int read_block(yyjson_val *block, struct place at, bool assistant, struct messages *m, struct fault *f)
{
	yyjson_val *type = yyjson_obj_get(block, "type"), *thinking = yyjson_obj_get(block, "thinking");

	if (!yyjson_is_obj(block))
		return refuse_block(f, "a block must be an object with a \"type\"", at, "");
	if (assistant && str_is(type, "tool_use"))
		return read_tool_use(block, at, m, f);
	if (!assistant && str_is(type, "tool_result"))
		return read_tool_result(block, at, m, f);
	if (assistant && str_is(type, "redacted_thinking"))
		return 0;
	if (!assistant || !str_is(type, "thinking"))
		return read_text(block, at, assistant ? &m->said : &m->text, f);
	if (!yyjson_is_str(thinking))
		return refuse_block(f, "a thinking block needs \"thinking\", a string", at, ".thinking");
	messages_line(&m->thinking, val_str(thinking));
	return 0;
}

/* ---- messages -------------------------------------------------------------------------------------------- */

static int read_content(yyjson_val *content, const char *path, bool assistant, struct messages *m, struct fault *f)
{
	yyjson_val *block;
	yyjson_arr_iter it;

	if (yyjson_is_str(content)) {
		messages_line(assistant ? &m->said : &m->text, val_str(content));
		return 0;
	}
	if (!yyjson_is_arr(content))
		return refuse(f, path, "a message needs \"content\": a string or an array of blocks");
	yyjson_arr_iter_init(content, &it);
	for (size_t i = 0; (block = yyjson_arr_iter_next(&it)) != NULL; i++)
		if (read_block(block, (struct place){path, i}, assistant, m, f) < 0)
			return f->err.code;
	return 0;
}

static int read_message(yyjson_val *message, size_t at, struct messages *m, struct fault *f)
{
	yyjson_val *role = yyjson_obj_get(message, "role");
	bool assistant = str_is(role, "assistant"), system = str_is(role, "system");
	size_t before = m->count;
	char path[64];

	if (!yyjson_is_obj(message))
		return refuse_at(f, "a message must be an object with \"role\" and \"content\"", "messages[%zu]", at);
	if (!assistant && !system && !str_is(role, "user"))
		return refuse_at(f, "\"role\" must be \"user\" or \"assistant\"", "messages[%zu].role", at);
	snprintf(path, sizeof(path), "messages[%zu].content", at);
	if (assistant)
		messages_assistant(m);
	if (read_content(yyjson_obj_get(message, "content"), path, assistant, m, f) < 0)
		return f->err.code;
	if (!assistant && (m->text.len || m->count == before))
		messages_say(m, system ? "system" : "user");
	return 0;
}

static int read_messages(yyjson_val *messages, struct messages *m, struct fault *f)
{
	size_t count = yyjson_arr_size(messages);
	yyjson_val *message;
	yyjson_arr_iter it;

	if (!yyjson_is_arr(messages) || count == 0)
		return refuse(f, "messages",
		              "\"messages\" is missing or empty: an array of {\"role\", \"content\"} objects");
	if (count > LIMIT_MESSAGES)
		return refuse(f, "messages", "\"messages\" has %zu entries; at most %d are allowed", count,
		              LIMIT_MESSAGES);
	if (str_is(yyjson_obj_get(yyjson_arr_get_last(messages), "role"), "assistant"))
		return refuse(
		    f, "messages",
		    "the last message must be the user's: beginning the answer for the model is not supported");
	yyjson_arr_iter_init(messages, &it);
	for (size_t i = 0; (message = yyjson_arr_iter_next(&it)) != NULL; i++)
		if (read_message(message, i, m, f) < 0)
			return f->err.code;
	return 0;
}

static int parse_messages(yyjson_val *root, struct api_request *r, struct fault *f)
{
	struct messages m = {.out = &r->messages_text};
	int rc = read_texts(yyjson_obj_get(root, "system"), "system", &m.text, f);

	if (rc == 0) {
		if (m.text.len)
			messages_say(&m, "system");
		rc = read_messages(yyjson_obj_get(root, "messages"), &m, f);
		messages_end(&m);
	}
	messages_fini(&m);
	r->prompt_tokens = (int32_t)(r->messages_text.len / TOKEN_BYTES);
	return rc;
}

/* ---- tools -------------------------------------------------------------------------------------------------- */

static void write_tool(yyjson_val *tool, struct buf *out)
{
	yyjson_val *description = yyjson_obj_get(tool, "description");

	put(out, out->len ? ",{\"type\":\"function\",\"function\":{\"name\":"
	                  : "[{\"type\":\"function\",\"function\":{\"name\":");
	buf_append_json(out, val_str(yyjson_obj_get(tool, "name")));
	if (yyjson_is_str(description)) {
		put(out, ",\"description\":");
		buf_append_json(out, val_str(description));
	}
	put(out, ",\"parameters\":");
	append_val(yyjson_obj_get(tool, "input_schema"), out);
	put(out, "}}");
}

static int check_tool(yyjson_val *tool, size_t i, struct fault *f)
{
	yyjson_val *type = yyjson_obj_get(tool, "type");

	if (present(type) && !str_is(type, "custom"))
		return refuse_at(
		    f, "tools that run on Anthropic's servers are not here; describe it with \"input_schema\"",
		    "tools[%zu].type", i);
	if (!yyjson_is_str(yyjson_obj_get(tool, "name")))
		return refuse_at(f, "a tool needs \"name\", a string", "tools[%zu].name", i);
	if (!yyjson_is_obj(yyjson_obj_get(tool, "input_schema")))
		return refuse_at(f, "a tool needs \"input_schema\", a JSON schema object", "tools[%zu].input_schema",
		                 i);
	return 0;
}

static int parse_tools(yyjson_val *root, struct api_request *r, struct fault *f)
{
	yyjson_val *tools = NULL, *choice = NULL, *type;
	struct str only = STR("");

	if (json_arr(root, "tools", &tools, &f->err) < 0)
		return blame(f, "tools");
	if (json_obj(root, "tool_choice", &choice, &f->err) < 0)
		return blame(f, "tool_choice");
	type = yyjson_obj_get(choice, "type");
	if (str_is(type, "tool"))
		only = val_str(yyjson_obj_get(choice, "name"));
	if (choice && !str_is(type, "auto") && !str_is(type, "any") && !str_is(type, "none") && only.len == 0)
		return refuse(f, "tool_choice",
		              "\"tool_choice\" must have \"type\" auto, any, none, or tool with the \"name\" of one");
	if (fields_tools(tools, only, check_tool, write_tool, r, f) < 0)
		return f->err.code;
	if (!choice)
		return 0;
	r->tool_choice = str_is(type, "auto") || str_is(type, "none") ? val_str(type) : STR("required");
	if (r->tools_text.len == 0 && str_equal(r->tool_choice, STR("required")))
		return refuse(f, "tool_choice", "\"tool_choice\" wants a tool that is not in \"tools\"");
	return 0;
}

/* ---- the rest --------------------------------------------------------------------------------------------- */

static int parse_format(yyjson_val *root, struct api_request *r, struct fault *f)
{
	yyjson_val *config = yyjson_obj_get(root, "output_config");
	yyjson_val *format = config ? yyjson_obj_get(config, "format") : yyjson_obj_get(root, "output_format");

	if (!present(format))
		return 0;
	r->schema = yyjson_obj_get(format, "schema");
	if (!str_is(yyjson_obj_get(format, "type"), "json_schema") || !yyjson_is_obj(r->schema))
		return refuse(f, config ? "output_config.format" : "output_format",
		              "the format must be {\"type\": \"json_schema\", \"schema\": {...}}");
	return 0;
}

int anthropic_parse_count(yyjson_val *root, struct api_request *r, struct fault *f)
{
	if (fields_model(root, r, f) < 0 || parse_messages(root, r, f) < 0)
		return f->err.code;
	return parse_tools(root, r, f);
}

int anthropic_parse(yyjson_val *root, struct api_request *r, struct fault *f)
{
	yyjson_val *servers = yyjson_obj_get(root, "mcp_servers");

	if (fields_model(root, r, f) < 0 ||
	    fields_scalars(root, scalars, sizeof(scalars) / sizeof(scalars[0]), r, f) < 0 ||
	    fields_priority(root, r, f) < 0 || fields_stops(root, "stop_sequences", r, f) < 0)
		return f->err.code;
	if (r->max_tokens < 0)
		return refuse(f, "max_tokens", "\"max_tokens\" is missing: how long the answer may be, in tokens");
	if (yyjson_arr_size(servers))
		return refuse(f, "mcp_servers", "MCP servers cannot be called from here; call them and send \"tools\"");
	if (parse_messages(root, r, f) < 0 || parse_tools(root, r, f) < 0)
		return f->err.code;
	r->user = val_str(yyjson_obj_get(yyjson_obj_get(root, "metadata"), "user_id"));
	return parse_format(root, r, f);
}
