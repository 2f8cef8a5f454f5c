/* SPDX-License-Identifier: Apache-2.0 */
/* Anthropic's Messages, and the counting of their tokens. An answer is a list of blocks: thinking, text, tool_use. In a
 * stream one block is open at a time; another kind of words, or another tool call, closes it and opens the next.
 * Source: Anthropic API reference, "Messages" and "Streaming messages". */
#include "serve/gateway/dialect_anthropic.h"

enum { BLOCK_NONE, BLOCK_THINKING, BLOCK_TEXT, BLOCK_TOOL };

static const char *stop_reason(const struct api_choice *c)
{
	return c->finish == FINISH_LENGTH       ? "max_tokens"
	       : c->finish == FINISH_TOOL_CALLS ? "tool_use"
	       : c->stop.len                    ? "stop_sequence"
	                                        : "end_turn";
}

static void put_stop(struct buf *out, const struct api_choice *c)
{
	buf_printf(out, "\"stop_reason\":\"%s\",\"stop_sequence\":", stop_reason(c));
	if (c->stop.len)
		buf_append_json(out, c->stop);
	else
		put(out, "null");
}

/* What was found in the cache is told apart, not within input_tokens. */
static void put_usage(struct buf *out, const struct api_usage *u)
{
	buf_printf(out,
	           "\"usage\":{\"input_tokens\":%d,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":%d,"
	           "\"output_tokens\":%d}",
	           u->prompt_tokens - u->cached_tokens, u->cached_tokens, u->completion_tokens);
}

static void put_head(struct buf *out, const struct api_answer *a)
{
	buf_printf(out, "{\"id\":\"%s\",\"type\":\"message\",\"role\":\"assistant\",\"model\":", a->id);
	buf_append_json(out, str_from(a->model));
	put(out, ",\"content\":[");
}

/* Templates without ids of their own leave them to us. */
static void put_tool_head(struct buf *out, const struct api_answer *a, size_t index, struct str id, struct str name)
{
	put(out, "{\"type\":\"tool_use\",\"id\":");
	if (id.len)
		buf_append_json(out, id);
	else
		buf_printf(out, "\"toolu_%s_%zu\"", a->id, index);
	put(out, ",\"name\":");
	buf_append_json(out, name);
	put(out, ",\"input\":");
}

/* ---- whole -------------------------------------------------------------------------------------------------- */

/* Arguments are JSON text; what is not an object (a model may write anything) is wrapped in one. */
static void put_input(struct buf *out, struct str arguments)
{
	yyjson_doc *doc = NULL;

	if (json_parse(arguments, &doc, NULL) == 0 && yyjson_is_obj(yyjson_doc_get_root(doc))) {
		buf_append_str(out, arguments);
	} else if (str_trim(arguments).len == 0) {
		put(out, "{}");
	} else {
		put(out, "{\"arguments\":");
		buf_append_json(out, arguments);
		put(out, "}");
	}
	yyjson_doc_free(doc);
}

static void whole(struct buf *out, struct api_answer *a)
{
	const struct api_choice *c = &a->choices[0];
	const char *comma = "";

	put_head(out, a);
	if (c->reasoning.len) {
		put(out, "{\"type\":\"thinking\",\"thinking\":");
		buf_append_json(out, buf_str(&c->reasoning));
		put(out, ",\"signature\":\"\"}");
		comma = ",";
	}
	if (c->content.len || (!c->reasoning.len && !c->call_count)) {
		put(out, comma);
		put(out, "{\"type\":\"text\",\"text\":");
		buf_append_json(out, text_or_empty(&c->content));
		put(out, "}");
		comma = ",";
	}
	for (size_t i = 0; i < c->call_count; i++, comma = ",") {
		put(out, comma);
		put_tool_head(out, a, i, buf_str(&c->calls[i].id), text_or_empty(&c->calls[i].name));
		put_input(out, text_or_empty(&c->calls[i].arguments));
		put(out, "}");
	}
	put(out, "],");
	put_stop(out, c);
	put(out, ",");
	put_usage(out, &a->usage);
	put(out, "}");
}

/* ---- streams ------------------------------------------------------------------------------------------------ */

static void begin(struct buf *out, struct api_answer *a, struct api_choice *c)
{
	put(out, "event: message_start\ndata: {\"type\":\"message_start\",\"message\":");
	put_head(out, a);
	put(out, "],\"stop_reason\":null,\"stop_sequence\":null,");
	put_usage(out, &c->usage);
	put(out, "}}\n\nevent: ping\ndata: {\"type\":\"ping\"}\n\n");
}

static void close_block(struct buf *out, struct api_answer *a)
{
	if (a->stream.open == BLOCK_NONE)
		return;
	buf_printf(out, "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":%u}\n\n",
	           a->stream.item++);
	a->stream.open = BLOCK_NONE;
}

/* Up to the block itself. */
static void open_block(struct buf *out, struct api_answer *a, int kind)
{
	close_block(out, a);
	a->stream.open = kind;
	buf_printf(
	    out, "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":%u,\"content_block\":",
	    a->stream.item);
}

static void put_delta(struct buf *out, const struct api_answer *a, const char *type, const char *key, struct str text)
{
	buf_printf(out,
	           "event: content_block_delta\ndata: "
	           "{\"type\":\"content_block_delta\",\"index\":%u,\"delta\":{\"type\":\"%s\","
	           "\"%s\":",
	           a->stream.item, type, key);
	buf_append_json(out, text);
	put(out, "}}\n\n");
}

struct tool_stream {
	struct buf *out;
	struct api_answer *a;
};

static void tool_piece(void *arg, const struct tool_delta *d)
{
	struct tool_stream *t = arg;
	struct api_answer *a = t->a;

	if (a->stream.open != BLOCK_TOOL || a->stream.at != d->index) {
		if (d->name.len == 0)
			return; /* the rest of a call that is closed */
		open_block(t->out, a, BLOCK_TOOL);
		put_tool_head(t->out, a, d->index, d->id, d->name);
		put(t->out, "{}}}\n\n");
		a->stream.at = d->index;
	}
	if (d->arguments.len)
		put_delta(t->out, a, "input_json_delta", "partial_json", d->arguments);
}

static void text(struct buf *out, struct api_answer *a, struct api_choice *c, const struct engine_event *e)
{
	if (e->reasoning.len) {
		if (a->stream.open != BLOCK_THINKING) {
			open_block(out, a, BLOCK_THINKING);
			put(out, "{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}}\n\n");
		}
		put_delta(out, a, "thinking_delta", "thinking", e->reasoning);
	}
	if (e->text.len) {
		if (a->stream.open != BLOCK_TEXT) {
			open_block(out, a, BLOCK_TEXT);
			put(out, "{\"type\":\"text\",\"text\":\"\"}}\n\n");
		}
		put_delta(out, a, "text_delta", "text", e->text);
	}
	if (e->tool_calls_json.len)
		api_tool_deltas(e->tool_calls_json, tool_piece, &(struct tool_stream){out, a});
}

static void finish(struct buf *out, struct api_answer *a, struct api_choice *c)
{
	close_block(out, a);
	put(out, "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{");
	put_stop(out, c);
	put(out, "},");
	put_usage(out, &c->usage);
	put(out, "}\n\n");
}

static void end(struct buf *out, struct api_answer *a)
{
	put(out, "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
}

/* ---- errors -------------------------------------------------------------------------------------------------- */

static const char *error_type(int status)
{
	static const struct {
		int status;
		const char *type;
	} types[] = {{400, "invalid_request_error"}, {401, "authentication_error"}, {403, "permission_error"},
	             {404, "not_found_error"},       {413, "request_too_large"},    {429, "rate_limit_error"},
	             {503, "overloaded_error"},      {504, "timeout_error"}};

	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (types[i].status == status)
			return types[i].type;
	return status >= 500 ? "api_error" : "invalid_request_error";
}

static void fault(struct buf *out, const struct fault *f)
{
	struct buf words = {0};

	buf_printf(&words, f->param[0] ? "%s: " : "%s", f->param);
	buf_append_str(&words, str_from(f->err.text));
	buf_printf(out, "{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":", error_type(fault_status(f)));
	buf_append_json(out, buf_str(&words));
	put(out, "}}");
	buf_fini(&words);
}

static void broken(struct buf *out, const struct error *err)
{
	const struct fault f = {.err = *err};

	put(out, "event: error\ndata: ");
	fault(out, &f);
	put(out, "\n\n");
}

/* ---- counting --------------------------------------------------------------------------------------------- */

static void count(struct buf *out, struct api_answer *a)
{
	buf_printf(out, "{\"input_tokens\":%zu}", a->done->token_count);
}

const struct dialect dialect_messages = {
    .name = "messages",
    .id_prefix = "msg_",
    .stream_type = "text/event-stream; charset=utf-8",
    .prompt_field = "messages",
    .id_header = "request-id",
    .task = ENGINE_CHAT,
    .parse = anthropic_parse,
    .whole = whole,
    .begin = begin,
    .text = text,
    .finish = finish,
    .end = end,
    .broken = broken,
    .fault = fault,
    .usage = {"\"usage\":{", "\"input_tokens\":", "\"output_tokens\":", "\"cache_read_input_tokens\":", true},
    .error_mark = "event: error\n",
};

const struct dialect dialect_count_tokens = {
    .name = "count_tokens",
    .id_prefix = "msg_",
    .prompt_field = "messages",
    .id_header = "request-id",
    .task = ENGINE_TOKENIZE,
    .parse = anthropic_parse_count,
    .whole = count,
    .fault = fault,
};
