/* SPDX-License-Identifier: Apache-2.0 */
/* OpenAI's Responses, as far as one request can be answered without another. An answer is a list of items: reasoning, a
 * message, function calls. A stream opens one item at a time, tells its pieces, then tells it whole; the last event
 * repeats all, which is why what was said is kept. Every event has its number. Source: OpenAI API reference,
 * "The response object" and "Streaming events". */
#include "serve/gateway/dialect_responses.h"

#include "serve/gateway/fields.h"

enum { ITEM_NONE, ITEM_REASONING, ITEM_MESSAGE, ITEM_CALL };

/* ---- the response object --------------------------------------------------------------------------------------- */

static const char *status_of(const struct api_choice *c)
{
	return c->finish == FINISH_LENGTH ? "incomplete" : "completed";
}

static void put_own(struct buf *out, const struct api_answer *a, const char *key, const char *otherwise)
{
	yyjson_val *given = yyjson_obj_get(a->in->root, key);

	buf_printf(out, ",\"%s\":", key);
	if (present(given))
		append_val(given, out);
	else
		put(out, otherwise);
}

static void put_usage(struct buf *out, const struct api_usage *u)
{
	buf_printf(
	    out,
	    ",\"usage\":{\"input_tokens\":%d,\"input_tokens_details\":{\"cached_tokens\":%d},\"output_tokens\":%d,"
	    "\"output_tokens_details\":{\"reasoning_tokens\":0},\"total_tokens\":%d}",
	    u->prompt_tokens, u->cached_tokens, u->completion_tokens, u->prompt_tokens + u->completion_tokens);
}

/* `status` NULL: it goes on, nothing is known yet. */
static void put_response(struct buf *out, const struct api_answer *a, const char *status, struct str items)
{
	const struct api_request *in = a->in;
	bool cut = status && strcmp(status, "incomplete") == 0;

	buf_printf(out,
	           "{\"id\":\"%s\",\"object\":\"response\",\"created_at\":%lld,\"status\":\"%s\",\"background\":false",
	           a->id, (long long)a->created_s, status ? status : "in_progress");
	buf_printf(out, ",\"error\":null,\"incomplete_details\":%s",
	           cut ? "{\"reason\":\"max_output_tokens\"}" : "null");
	put_own(out, a, "instructions", "null");
	put_own(out, a, "max_output_tokens", "null");
	put(out, ",\"model\":");
	buf_append_json(out, str_from(a->model));
	put(out, ",\"output\":[");
	buf_append_str(out, items);
	put(out, "],\"parallel_tool_calls\":true,\"previous_response_id\":null");
	put_own(out, a, "reasoning", "{\"effort\":null,\"summary\":null}");
	buf_printf(out, ",\"service_tier\":\"default\",\"store\":false,\"temperature\":%.6g,\"top_p\":%.6g",
	           in->sampling.temperature, in->sampling.top_p);
	put_own(out, a, "text", "{\"format\":{\"type\":\"text\"}}");
	put_own(out, a, "tool_choice", "\"auto\"");
	put_own(out, a, "tools", "[]");
	put_own(out, a, "metadata", "{}");
	put_own(out, a, "user", "null");
	buf_printf(out, ",\"top_logprobs\":%d,\"truncation\":\"disabled\"", in->logprobs > 0 ? in->logprobs : 0);
	if (status)
		put_usage(out, &a->usage);
	else
		put(out, ",\"usage\":null");
	put(out, "}");
}

/* ---- items -------------------------------------------------------------------------------------------------- */

static void put_item_id(struct buf *out, const struct api_answer *a, int kind, uint32_t index)
{
	static const char *const prefixes[] = {"", "rs_", "msg_", "fc_"};

	buf_printf(out, "\"%s%s_%u\"", prefixes[kind], a->id + strlen(a->dialect->id_prefix), index);
}

static void put_text_part(struct buf *out, struct str text, const struct buf *logprobs)
{
	put(out, "{\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[");
	buf_append_str(out, buf_str(logprobs));
	put(out, "],\"text\":");
	buf_append_json(out, text);
	put(out, "}");
}

static void put_call(struct buf *out, const struct api_answer *a, size_t index, const struct tool_call *call,
                     bool whole)
{
	if (call->id.len) {
		put(out, ",\"call_id\":");
		buf_append_json(out, buf_str(&call->id));
	} else {
		buf_printf(out, ",\"call_id\":\"call_%s_%zu\"", a->id + strlen(a->dialect->id_prefix), index);
	}
	put(out, ",\"name\":");
	buf_append_json(out, text_or_empty(&call->name));
	put(out, ",\"arguments\":");
	buf_append_json(out, whole ? text_or_empty(&call->arguments) : STR(""));
}

/* An item as it is when it begins, with nothing in it, or whole. `from`: where its text begins in what was gathered;
 * of a call: which it is. */
static void put_item(struct buf *out, const struct api_answer *a, const struct api_choice *c, int kind, uint32_t index,
                     size_t from, bool whole)
{
	put(out, "{\"id\":");
	put_item_id(out, a, kind, index);
	if (kind == ITEM_REASONING) {
		put(out, ",\"type\":\"reasoning\",\"summary\":[],\"content\":[");
		if (whole) {
			put(out, "{\"type\":\"reasoning_text\",\"text\":");
			buf_append_json(out, (struct str){c->reasoning.base + from, c->reasoning.len - from});
			put(out, "}");
		}
		put(out, "]");
	} else if (kind == ITEM_MESSAGE) {
		put(out, ",\"type\":\"message\",\"role\":\"assistant\",\"content\":[");
		if (whole)
			put_text_part(
			    out, c->content.len ? (struct str){c->content.base + from, c->content.len - from} : STR(""),
			    &c->logprobs);
		put(out, "]");
	} else {
		put(out, ",\"type\":\"function_call\"");
		put_call(out, a, from, &c->calls[from], whole);
	}
	buf_printf(out, ",\"status\":\"%s\"}", whole ? "completed" : "in_progress");
}

static void whole(struct buf *out, struct api_answer *a)
{
	const struct api_choice *c = &a->choices[0];
	uint32_t index = 0;

	if (c->reasoning.len)
		put_item(&a->items, a, c, ITEM_REASONING, index++, 0, true);
	if (c->content.len || (!c->reasoning.len && !c->call_count)) {
		put(&a->items, index ? "," : "");
		put_item(&a->items, a, c, ITEM_MESSAGE, index++, 0, true);
	}
	for (size_t i = 0; i < c->call_count; i++) {
		put(&a->items, index ? "," : "");
		put_item(&a->items, a, c, ITEM_CALL, index++, i, true);
	}
	put_response(out, a, status_of(c), buf_str(&a->items));
}

static void gather(struct api_choice *c, const struct engine_event *e)
{
	api_logprobs(&c->logprobs, e);
}

/* ---- streams -------------------------------------------------------------------------------------------------- */

static void event_open(struct buf *out, struct api_answer *a, const char *type)
{
	buf_printf(out, "event: %s\ndata: {\"type\":\"%s\",\"sequence_number\":%u", type, type, a->stream.sequence++);
}

static void event_close(struct buf *out)
{
	put(out, "}\n\n");
}

static void response_event(struct buf *out, struct api_answer *a, const char *type, const char *status)
{
	event_open(out, a, type);
	put(out, ",\"response\":");
	put_response(out, a, status, status ? buf_str(&a->items) : STR(""));
	event_close(out);
}

static void begin(struct buf *out, struct api_answer *a, struct api_choice *c)
{
	(void)c;
	response_event(out, a, "response.created", NULL);
	response_event(out, a, "response.in_progress", NULL);
}

/* An event about the open item. */
static void item_event(struct buf *out, struct api_answer *a, const char *type)
{
	event_open(out, a, type);
	put(out, ",\"item_id\":");
	put_item_id(out, a, a->stream.open, a->stream.item);
	buf_printf(out, ",\"output_index\":%u", a->stream.item);
}

static void piece_event(struct buf *out, struct api_answer *a, const char *type, const char *key, struct str text)
{
	item_event(out, a, type);
	buf_printf(out, a->stream.open == ITEM_CALL ? ",\"%s\":" : ",\"content_index\":0,\"%s\":", key);
	buf_append_json(out, text);
}

static void part_event(struct buf *out, struct api_answer *a, const char *type, struct str text,
                       const struct buf *logprobs)
{
	item_event(out, a, type);
	put(out, ",\"content_index\":0,\"part\":");
	put_text_part(out, text, logprobs);
	event_close(out);
}

static void whole_item_event(struct buf *out, struct api_answer *a, const struct api_choice *c, const char *type,
                             bool done)
{
	event_open(out, a, type);
	buf_printf(out, ",\"output_index\":%u,\"item\":", a->stream.item);
	put_item(out, a, c, a->stream.open, a->stream.item, a->stream.at, done);
	event_close(out);
}

static void close_message(struct buf *out, struct api_answer *a, struct api_choice *c)
{
	struct str text =
	    c->content.len ? (struct str){c->content.base + a->stream.at, c->content.len - a->stream.at} : STR("");

	piece_event(out, a, "response.output_text.done", "text", text);
	put(out, ",\"logprobs\":[");
	buf_append_str(out, buf_str(&c->logprobs));
	put(out, "]");
	event_close(out);
	part_event(out, a, "response.content_part.done", text, &c->logprobs);
}

static void close_item(struct buf *out, struct api_answer *a, struct api_choice *c)
{
	size_t from = a->stream.at;

	if (a->stream.open == ITEM_NONE)
		return;
	if (a->stream.open == ITEM_REASONING) {
		piece_event(out, a, "response.reasoning_text.done", "text",
		            (struct str){c->reasoning.base + from, c->reasoning.len - from});
		event_close(out);
	} else if (a->stream.open == ITEM_MESSAGE) {
		close_message(out, a, c);
	} else {
		piece_event(out, a, "response.function_call_arguments.done", "arguments",
		            text_or_empty(&c->calls[from].arguments));
		put(out, ",\"name\":");
		buf_append_json(out, text_or_empty(&c->calls[from].name));
		event_close(out);
	}
	whole_item_event(out, a, c, "response.output_item.done", true);
	put(&a->items, a->items.len ? "," : "");
	put_item(&a->items, a, c, a->stream.open, a->stream.item, from, true);
	a->stream.item++;
	a->stream.open = ITEM_NONE;
	buf_clear(&c->logprobs);
}

static void open_item(struct buf *out, struct api_answer *a, struct api_choice *c, int kind, size_t at)
{
	static const struct buf none;

	close_item(out, a, c);
	a->stream.open = kind;
	a->stream.at = at;
	whole_item_event(out, a, c, "response.output_item.added", false);
	if (kind == ITEM_MESSAGE)
		part_event(out, a, "response.content_part.added", STR(""), &none);
}

struct call_stream {
	struct buf *out;
	struct api_answer *a;
	struct api_choice *c;
};

static void call_piece(void *arg, const struct tool_delta *d)
{
	struct call_stream *s = arg;

	if (d->index >= s->c->call_count)
		return;
	if (s->a->stream.open != ITEM_CALL || s->a->stream.at != d->index) {
		if (d->name.len == 0)
			return; /* the rest of a call that is closed */
		open_item(s->out, s->a, s->c, ITEM_CALL, d->index);
	}
	if (d->arguments.len) {
		piece_event(s->out, s->a, "response.function_call_arguments.delta", "delta", d->arguments);
		event_close(s->out);
	}
}

static void text(struct buf *out, struct api_answer *a, struct api_choice *c, const struct engine_event *e)
{
	if (e->reasoning.len) {
		if (a->stream.open != ITEM_REASONING)
			open_item(out, a, c, ITEM_REASONING, c->reasoning.len - e->reasoning.len);
		piece_event(out, a, "response.reasoning_text.delta", "delta", e->reasoning);
		event_close(out);
	}
	if (e->text.len) {
		size_t before = a->stream.open == ITEM_MESSAGE ? c->logprobs.len : 0;

		if (a->stream.open != ITEM_MESSAGE)
			open_item(out, a, c, ITEM_MESSAGE, c->content.len - e->text.len);
		piece_event(out, a, "response.output_text.delta", "delta", e->text);
		put(out, ",\"logprobs\":[");
		if (a->in->logprobs >= 0) {
			gather(c, e);
			before += before && c->logprobs.len > before; /* the comma */
			buf_append(out, c->logprobs.base + before, c->logprobs.len - before);
		}
		put(out, "]");
		event_close(out);
	}
	if (e->tool_calls_json.len)
		api_tool_deltas(e->tool_calls_json, call_piece, &(struct call_stream){out, a, c});
}

static void finish(struct buf *out, struct api_answer *a, struct api_choice *c)
{
	close_item(out, a, c);
}

static void end(struct buf *out, struct api_answer *a)
{
	const char *status = status_of(&a->choices[0]);

	response_event(out, a, strcmp(status, "incomplete") == 0 ? "response.incomplete" : "response.completed",
	               status);
}

static void broken(struct buf *out, const struct error *err)
{
	put(out, "event: error\ndata: {\"type\":\"error\",\"sequence_number\":0,\"code\":");
	buf_append_json(out, str_from(error_openai_type(err->code)));
	put(out, ",\"message\":");
	buf_append_json(out, str_from(err->text));
	put(out, ",\"param\":null}\n\n");
}

const struct dialect dialect_responses = {
    .name = "responses",
    .id_prefix = "resp_",
    .stream_type = "text/event-stream; charset=utf-8",
    .prompt_field = "input",
    .task = ENGINE_CHAT,
    .keeps = true,
    .parse = responses_parse,
    .gather = gather,
    .whole = whole,
    .begin = begin,
    .text = text,
    .finish = finish,
    .end = end,
    .broken = broken,
    .fault = api_fault,
    .usage = {"\"usage\":{", "\"input_tokens\":", "\"output_tokens\":", "\"cached_tokens\":", false},
    .error_mark = "event: error\n",
};
