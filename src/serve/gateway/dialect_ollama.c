/* SPDX-License-Identifier: Apache-2.0 */
/* Ollama's chat and generate: a stream is one JSON object a line, the last says why it ended and how long it took
 * (nanoseconds). Tool calls have their arguments as an object, so they are told whole, before the last line. Source:
 * Ollama's docs/api.md. */
#include "serve/gateway/dialect_ollama.h"

#include "base/clock.h"
#include "serve/gateway/fields.h"

static bool is_chat(const struct api_answer *a)
{
	return a->dialect == &dialect_ollama_chat;
}

static void put_head(struct buf *out, const struct api_answer *a)
{
	char time[25];

	clock_format(a->created_s * US_PER_S, time);
	put(out, "{\"model\":");
	buf_append_json(out, str_from(a->model));
	buf_printf(out, ",\"created_at\":\"%s\"", time);
}

static void put_calls(struct buf *out, const struct api_choice *c)
{
	put(out, ",\"tool_calls\":[");
	for (size_t i = 0; i < c->call_count; i++) {
		struct str arguments = text_or_empty(&c->calls[i].arguments);
		yyjson_doc *doc = NULL;
		bool object = json_parse(arguments, &doc, NULL) == 0 && yyjson_is_obj(yyjson_doc_get_root(doc));

		put(out, i ? ",{" : "{");
		if (c->calls[i].id.len) {
			put(out, "\"id\":");
			buf_append_json(out, buf_str(&c->calls[i].id));
			put(out, ",");
		}
		buf_printf(out, "\"function\":{\"index\":%zu,\"name\":", i);
		buf_append_json(out, text_or_empty(&c->calls[i].name));
		put(out, ",\"arguments\":");
		buf_append_str(out, object ? arguments : STR("{}"));
		put(out, "}}");
		yyjson_doc_free(doc);
	}
	put(out, "]");
}

/* What is said, in the place each of the two calls has for it. */
static void put_said(struct buf *out, const struct api_answer *a, struct str text, struct str thinking,
                     const struct api_choice *calls)
{
	put(out, is_chat(a) ? ",\"message\":{\"role\":\"assistant\",\"content\":" : ",\"response\":");
	buf_append_json(out, text.len ? text : STR(""));
	if (thinking.len) {
		put(out, ",\"thinking\":");
		buf_append_json(out, thinking);
	}
	if (calls && calls->call_count)
		put_calls(out, calls);
	put(out, is_chat(a) ? "}" : "");
}

static long long between(int64_t from_us, int64_t to_us)
{
	return from_us && to_us > from_us ? (long long)(to_us - from_us) * 1000 : 0;
}

static void put_end(struct buf *out, const struct api_answer *a, const char *reason)
{
	const struct api_usage *u = &a->usage;
	int64_t started = a->started_us ? a->started_us : a->begun_us, first = a->first_us ? a->first_us : a->ended_us;

	buf_printf(out, ",\"done\":true,\"done_reason\":\"%s\",\"total_duration\":%lld,\"load_duration\":%lld", reason,
	           between(a->begun_us, a->ended_us), between(a->begun_us, started));
	buf_printf(out,
	           ",\"prompt_eval_count\":%d,\"prompt_eval_duration\":%lld,\"eval_count\":%d,\"eval_duration\":%lld}",
	           u->prompt_tokens, between(started, first), u->completion_tokens, between(first, a->ended_us));
}

static const char *reason(const struct api_answer *a)
{
	return a->in->task == ENGINE_TOKENIZE ? "load" : a->choices[0].finish == FINISH_LENGTH ? "length" : "stop";
}

static void put_logprobs(struct buf *out, const struct buf *logprobs)
{
	if (!logprobs->len)
		return;
	put(out, ",\"logprobs\":[");
	buf_append_str(out, buf_str(logprobs));
	put(out, "]");
}

static void gather(struct api_choice *c, const struct engine_event *e)
{
	api_logprobs(&c->logprobs, e);
}

static void whole(struct buf *out, struct api_answer *a)
{
	const struct api_choice *c = &a->choices[0];

	put_head(out, a);
	put_said(out, a, buf_str(&c->content), buf_str(&c->reasoning), c);
	put_logprobs(out, &c->logprobs);
	put_end(out, a, reason(a));
}

static void text(struct buf *out, struct api_answer *a, struct api_choice *c, const struct engine_event *e)
{
	if (!e->text.len && !e->reasoning.len)
		return; /* calls are told at the end */
	put_head(out, a);
	put_said(out, a, e->text, e->reasoning, NULL);
	buf_clear(&c->logprobs);
	if (a->in->logprobs >= 0)
		gather(c, e);
	put_logprobs(out, &c->logprobs);
	put(out, ",\"done\":false}\n");
}

static void finish(struct buf *out, struct api_answer *a, struct api_choice *c)
{
	if (!c->call_count)
		return;
	put_head(out, a);
	put_said(out, a, STR(""), STR(""), c);
	put(out, ",\"done\":false}\n");
}

static void end(struct buf *out, struct api_answer *a)
{
	put_head(out, a);
	put_said(out, a, STR(""), STR(""), NULL);
	put_end(out, a, reason(a));
	put(out, "\n");
}

static void fault(struct buf *out, const struct fault *f)
{
	put(out, "{\"error\":");
	buf_append_json(out, str_from(f->err.text));
	put(out, "}");
}

static void broken(struct buf *out, const struct error *err)
{
	const struct fault f = {.err = *err};

	fault(out, &f);
	put(out, "\n");
}

#define COMMON \
	.id_prefix = "ollama-", .stream_type = "application/x-ndjson", .task = ENGINE_CHAT, .keeps = true, \
	.gather = gather, .whole = whole, .text = text, .finish = finish, .end = end, .broken = broken, \
	.fault = fault, .usage = {"\"done\":true,", "\"prompt_eval_count\":", "\"eval_count\":", NULL, false}, \
	.error_mark = "\n{\"error\":"

const struct dialect dialect_ollama_chat = {
    .name = "ollama_chat", .prompt_field = "messages", .parse = ollama_parse_chat, COMMON};
const struct dialect dialect_ollama_generate = {
    .name = "ollama_generate", .prompt_field = "prompt", .parse = ollama_parse_generate, COMMON};
const struct dialect dialect_ollama = {.name = "ollama", .fault = fault};
