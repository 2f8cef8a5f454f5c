/* SPDX-License-Identifier: Apache-2.0 */
/* OpenAI's chat completions and completions, byte for byte what the `openai` client expects; `reasoning_content` is the
 * extension of vLLM and DeepSeek. Log probabilities of completions are four parallel lists, so they are kept as four
 * texts. A stream passes tool calls on as the deltas they come in. Source: OpenAI API reference, "The chat completion
 * object" and on. */
#include "serve/gateway/dialect_openai.h"

static bool is_chat(const struct api_answer *a)
{
	return a->dialect->task == ENGINE_CHAT;
}

static const char *finish_text(enum engine_finish finish)
{
	return finish == FINISH_LENGTH ? "length" : finish == FINISH_TOOL_CALLS ? "tool_calls" : "stop";
}

/* ---- log probabilities ---------------------------------------------------------------------------- */

static void gather_chat(struct api_choice *c, const struct engine_event *e)
{
	api_logprobs(&c->logprobs, e);
}

static void put_top(struct buf *out, const struct engine_logprob *lp)
{
	if (lp->top_count == 0 && lp->logprob != lp->logprob) { /* the first token of a prompt follows nothing */
		put(out, "null");
		return;
	}
	put(out, "{");
	for (size_t j = 0; j < lp->top_count; j++) {
		put(out, j ? "," : "");
		buf_append_json(out, lp->top[j].token);
		put(out, ":");
		api_logprob(out, lp->top[j].logprob);
	}
	put(out, "}");
}

/* What a first piece holds before its tokens is the prompt, echoed: offsets count from behind it. */
static size_t echoed(const struct engine_event *e)
{
	size_t tokens = 0;

	for (size_t i = 0; i < e->logprob_count; i++)
		tokens += e->logprobs[i].token.len;
	return e->text.len > tokens ? api_characters((struct str){e->text.base, e->text.len - tokens}) : 0;
}

static void gather_completion(struct api_choice *c, const struct engine_event *e)
{
	if (c->offset == 0)
		c->offset = echoed(e);
	for (size_t i = 0; i < e->logprob_count; i++) {
		const struct engine_logprob *lp = &e->logprobs[i];
		const char *comma = c->lp_tokens.len ? "," : "";

		put(&c->lp_tokens, comma);
		buf_append_json(&c->lp_tokens, lp->token);
		put(&c->lp_values, comma);
		api_logprob(&c->lp_values, lp->logprob);
		put(&c->lp_tops, comma);
		put_top(&c->lp_tops, lp);
		buf_printf(&c->lp_offsets, "%s%zu", comma, c->offset);
		c->offset += api_characters(lp->token);
	}
}

static void put_completion_logprobs(struct buf *out, const struct api_choice *c)
{
	put(out, "{\"text_offset\":[");
	buf_append_str(out, buf_str(&c->lp_offsets));
	put(out, "],\"token_logprobs\":[");
	buf_append_str(out, buf_str(&c->lp_values));
	put(out, "],\"tokens\":[");
	buf_append_str(out, buf_str(&c->lp_tokens));
	put(out, "],\"top_logprobs\":[");
	buf_append_str(out, buf_str(&c->lp_tops));
	put(out, "]}");
}

/* ---- whole answers --------------------------------------------------------------------------------- */

static void put_head(struct buf *out, const struct api_answer *a, const char *object)
{
	put(out, "{\"id\":\"");
	put(out, a->id);
	put(out, "\",\"object\":\"");
	put(out, object);
	buf_printf(out, "\",\"created\":%lld,\"model\":", (long long)a->created_s);
	buf_append_json(out, str_from(a->model));
	put(out, ",\"system_fingerprint\":\"");
	put(out, a->fingerprint);
	put(out, "\",\"choices\":[");
}

static void put_tool_calls(struct buf *out, const struct api_choice *c)
{
	put(out, ",\"tool_calls\":[");
	for (size_t i = 0; i < c->call_count; i++) {
		put(out, i ? ",{\"id\":" : "{\"id\":");
		buf_append_json(out, text_or_empty(&c->calls[i].id));
		put(out, ",\"type\":\"function\",\"function\":{\"name\":");
		buf_append_json(out, text_or_empty(&c->calls[i].name));
		put(out, ",\"arguments\":");
		buf_append_json(out, text_or_empty(&c->calls[i].arguments));
		put(out, "}}");
	}
	put(out, "]");
}

static void put_message(struct buf *out, const struct api_choice *c)
{
	put(out, "\"message\":{\"role\":\"assistant\",\"content\":");
	if (c->call_count && !c->content.len)
		put(out, "null");
	else
		buf_append_json(out, text_or_empty(&c->content));
	put(out, ",\"refusal\":null");
	if (c->reasoning.len) {
		put(out, ",\"reasoning_content\":");
		buf_append_json(out, buf_str(&c->reasoning));
	}
	if (c->call_count)
		put_tool_calls(out, c);
	put(out, "}");
}

static void put_choice(struct buf *out, const struct api_answer *a, const struct api_choice *c)
{
	buf_printf(out, c->index ? ",{\"index\":%d," : "{\"index\":%d,", c->index);
	if (is_chat(a)) {
		put_message(out, c);
	} else {
		put(out, "\"text\":");
		buf_append_json(out, text_or_empty(&c->content));
	}
	put(out, ",\"logprobs\":");
	if (a->in->logprobs < 0) {
		put(out, "null");
	} else if (is_chat(a)) {
		put(out, "{\"content\":[");
		buf_append_str(out, buf_str(&c->logprobs));
		put(out, "],\"refusal\":null}");
	} else {
		put_completion_logprobs(out, c);
	}
	buf_printf(out, ",\"finish_reason\":\"%s\"}", finish_text(c->finish));
}

static void put_usage(struct buf *out, const struct api_usage *u)
{
	buf_printf(out,
	           "\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d,"
	           "\"prompt_tokens_details\":{\"cached_tokens\":%d}}",
	           u->prompt_tokens, u->completion_tokens, u->prompt_tokens + u->completion_tokens, u->cached_tokens);
}

static void whole(struct buf *out, struct api_answer *a)
{
	put_head(out, a, is_chat(a) ? "chat.completion" : "text_completion");
	for (size_t i = 0; i < a->count; i++)
		put_choice(out, a, &a->choices[i]);
	put(out, "],");
	put_usage(out, &a->usage);
	put(out, "}");
}

/* ---- streams --------------------------------------------------------------------------------------- */

static void chunk_open(struct buf *out, const struct api_answer *a)
{
	put(out, "data: ");
	put_head(out, a, is_chat(a) ? "chat.completion.chunk" : "text_completion");
}

/* With usage asked for, every chunk but the last says null. */
static void chunk_close(struct buf *out, const struct api_answer *a)
{
	put(out, a->in->include_usage ? "],\"usage\":null}\n\n" : "]}\n\n");
}

static void chunk_role(struct buf *out, struct api_answer *a, struct api_choice *c)
{
	chunk_open(out, a);
	buf_printf(out,
	           "{\"index\":%d,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_"
	           "reason\":null}",
	           c->index);
	chunk_close(out, a);
}

static void put_delta(struct buf *out, const struct engine_event *e)
{
	const char *comma = "";

	put(out, "\"delta\":{");
	if (e->text.len || (!e->reasoning.len && !e->tool_calls_json.len)) {
		put(out, "\"content\":");
		buf_append_json(out, e->text.len ? e->text : STR(""));
		comma = ",";
	}
	if (e->reasoning.len) {
		put(out, comma);
		put(out, "\"reasoning_content\":");
		buf_append_json(out, e->reasoning);
		comma = ",";
	}
	if (e->tool_calls_json.len) {
		put(out, comma);
		put(out, "\"tool_calls\":");
		buf_append_str(out, e->tool_calls_json);
	}
	put(out, "}");
}

static void put_chunk_logprobs(struct buf *out, const struct api_answer *a, struct api_choice *c,
                               const struct engine_event *e)
{
	if (!e->logprob_count) {
		put(out, "null");
	} else if (is_chat(a)) {
		put(out, "{\"content\":[");
		buf_clear(&c->logprobs);
		gather_chat(c, e);
		buf_append_str(out, buf_str(&c->logprobs));
		put(out, "],\"refusal\":null}");
	} else {
		buf_clear(&c->lp_tokens);
		buf_clear(&c->lp_values);
		buf_clear(&c->lp_tops);
		buf_clear(&c->lp_offsets);
		gather_completion(c, e);
		put_completion_logprobs(out, c);
	}
}

static void chunk_text(struct buf *out, struct api_answer *a, struct api_choice *c, const struct engine_event *e)
{
	chunk_open(out, a);
	buf_printf(out, "{\"index\":%d,", c->index);
	if (is_chat(a)) {
		put_delta(out, e);
	} else {
		put(out, "\"text\":");
		buf_append_json(out, e->text.len ? e->text : STR(""));
		if (!e->logprob_count)
			gather_completion(c, e); /* counts an echo */
	}
	put(out, ",\"logprobs\":");
	put_chunk_logprobs(out, a, c, e);
	put(out, ",\"finish_reason\":null}");
	chunk_close(out, a);
}

static void chunk_finish(struct buf *out, struct api_answer *a, struct api_choice *c)
{
	chunk_open(out, a);
	buf_printf(out, "{\"index\":%d,%s,\"logprobs\":null,\"finish_reason\":\"%s\"}", c->index,
	           is_chat(a) ? "\"delta\":{}" : "\"text\":\"\"", finish_text(c->finish));
	chunk_close(out, a);
}

static void chunk_end(struct buf *out, struct api_answer *a)
{
	if (a->in->include_usage) {
		chunk_open(out, a);
		put(out, "],");
		put_usage(out, &a->usage);
		put(out, "}\n\n");
	}
	put(out, "data: [DONE]\n\n");
}

static void chunk_broken(struct buf *out, const struct error *err)
{
	const struct fault fault = {.err = *err};

	put(out, "data: ");
	api_fault(out, &fault);
	put(out, "\n\n");
}

#define USAGE \
	{ \
		"\"usage\":{", "\"prompt_tokens\":", "\"completion_tokens\":", "\"cached_tokens\":", false \
	}

const struct dialect dialect_chat = {
    .name = "chat",
    .id_prefix = "chatcmpl-",
    .stream_type = "text/event-stream; charset=utf-8",
    .prompt_field = "messages",
    .task = ENGINE_CHAT,
    .parse = openai_parse_chat,
    .gather = gather_chat,
    .whole = whole,
    .begin = chunk_role,
    .text = chunk_text,
    .finish = chunk_finish,
    .end = chunk_end,
    .broken = chunk_broken,
    .fault = api_fault,
    .usage = USAGE,
    .error_mark = "data: {\"error\":{",
};

const struct dialect dialect_completion = {
    .name = "completion",
    .id_prefix = "cmpl-",
    .stream_type = "text/event-stream; charset=utf-8",
    .prompt_field = "prompt",
    .task = ENGINE_COMPLETION,
    .parse = openai_parse_completion,
    .gather = gather_completion,
    .whole = whole,
    .text = chunk_text,
    .finish = chunk_finish,
    .end = chunk_end,
    .broken = chunk_broken,
    .fault = api_fault,
    .usage = USAGE,
    .error_mark = "data: {\"error\":{",
};
