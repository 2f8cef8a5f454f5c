/* SPDX-License-Identifier: Apache-2.0 */
/* How: printf-like appends with fixed texts, because the shapes never change; strings go through buf_append_json.
 * Log probabilities of completions are four parallel lists, so they are kept as four texts. Tool calls arrive as
 * deltas; a stream passes them on, a whole answer joins them by index. */
#include "serve/gateway/answer.h"

#include <math.h>
#include <stdlib.h>

enum { TOOL_CALLS_MAX = 128 };

static void put(struct buf *out, const char *text)
{
	buf_append(out, text, strlen(text));
}

static const char *finish_text(enum engine_finish finish)
{
	return finish == FINISH_LENGTH ? "length" : finish == FINISH_TOOL_CALLS ? "tool_calls" : "stop";
}

/* JSON has no infinity; OpenAI writes -9999.0 for "never". */
static void put_logprob(struct buf *out, float logprob)
{
	buf_printf(out, "%.6g", isfinite(logprob) && logprob > -9999 ? (double)logprob : -9999.0);
}

static size_t characters(struct str s)
{
	size_t count = 0;

	for (size_t i = 0; i < s.len; i++)
		count += ((unsigned char)s.base[i] & 0xc0) != 0x80;
	return count;
}

/* ---- log probabilities ---------------------------------------------------------------------------- */

static void put_token(struct buf *out, struct str token, float logprob)
{
	put(out, "{\"token\":");
	buf_append_json(out, token);
	put(out, ",\"logprob\":");
	put_logprob(out, logprob);
	put(out, ",\"bytes\":[");
	for (size_t i = 0; i < token.len; i++)
		buf_printf(out, i ? ",%u" : "%u", (unsigned)(unsigned char)token.base[i]);
	put(out, "]");
}

static void chat_logprobs(struct buf *out, const struct engine_event *e)
{
	for (size_t i = 0; i < e->logprob_count; i++) {
		const struct engine_logprob *lp = &e->logprobs[i];

		if (out->len && out->base[out->len - 1] == '}')
			put(out, ",");
		put_token(out, lp->token, lp->logprob);
		put(out, ",\"top_logprobs\":[");
		for (size_t j = 0; j < lp->top_count; j++) {
			if (j)
				put(out, ",");
			put_token(out, lp->top[j].token, lp->top[j].logprob);
			put(out, "}");
		}
		put(out, "]}");
	}
}

static void completion_logprobs(struct choice_text *c, const struct engine_event *e)
{
	for (size_t i = 0; i < e->logprob_count; i++) {
		const struct engine_logprob *lp = &e->logprobs[i];
		const char *comma = c->lp_tokens.len ? "," : "";

		put(&c->lp_tokens, comma);
		buf_append_json(&c->lp_tokens, lp->token);
		put(&c->lp_values, comma);
		put_logprob(&c->lp_values, lp->logprob);
		put(&c->lp_tops, comma);
		put(&c->lp_tops, "{");
		for (size_t j = 0; j < lp->top_count; j++) {
			put(&c->lp_tops, j ? "," : "");
			buf_append_json(&c->lp_tops, lp->top[j].token);
			put(&c->lp_tops, ":");
			put_logprob(&c->lp_tops, lp->top[j].logprob);
		}
		put(&c->lp_tops, "}");
		buf_printf(&c->lp_offsets, "%s%zu", comma, c->offset);
		c->offset += characters(lp->token);
	}
}

static void put_completion_logprobs(struct buf *out, const struct choice_text *c)
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

/* ---- gathering ------------------------------------------------------------------------------------- */

void choice_text_fini(struct choice_text *c)
{
	struct buf *bufs[] = {&c->content,   &c->reasoning, &c->logprobs,  &c->lp_tokens,
	                      &c->lp_values, &c->lp_tops,   &c->lp_offsets};

	for (size_t i = 0; i < sizeof(bufs) / sizeof(bufs[0]); i++)
		buf_fini(bufs[i]);
	for (size_t i = 0; i < c->call_count; i++) {
		buf_fini(&c->calls[i].id);
		buf_fini(&c->calls[i].name);
		buf_fini(&c->calls[i].arguments);
	}
	free(c->calls);
	memset(c, 0, sizeof(*c));
}

static void append_val(struct buf *out, yyjson_val *v)
{
	if (yyjson_is_str(v))
		buf_append(out, yyjson_get_str(v), yyjson_get_len(v));
}

static void join_tool_calls(struct choice_text *c, struct str json)
{
	yyjson_doc *doc;
	yyjson_val *delta;
	yyjson_arr_iter it;

	if (json_parse(json, &doc, NULL) < 0)
		return;
	yyjson_arr_iter_init(yyjson_doc_get_root(doc), &it);
	for (size_t at = 0; (delta = yyjson_arr_iter_next(&it)) != NULL; at++) {
		yyjson_val *function = yyjson_obj_get(delta, "function"), *index = yyjson_obj_get(delta, "index");
		size_t i = yyjson_is_uint(index) ? yyjson_get_uint(index) : at;

		if (i > c->call_count || i >= TOOL_CALLS_MAX)
			continue;
		if (i == c->call_count) {
			c->calls = mem_resize(c->calls, ++c->call_count, sizeof(*c->calls));
			memset(&c->calls[i], 0, sizeof(c->calls[i]));
		}
		append_val(&c->calls[i].id, yyjson_obj_get(delta, "id"));
		append_val(&c->calls[i].name, yyjson_obj_get(function, "name"));
		append_val(&c->calls[i].arguments, yyjson_obj_get(function, "arguments"));
	}
	yyjson_doc_free(doc);
}

void choice_text_echo(struct choice_text *c, struct str prompt)
{
	c->offset = characters(prompt);
}

void choice_text_add(struct choice_text *c, enum engine_task task, const struct engine_event *e)
{
	buf_append_str(&c->content, e->text);
	buf_append_str(&c->reasoning, e->reasoning);
	if (e->tool_calls_json.len)
		join_tool_calls(c, e->tool_calls_json);
	if (task == ENGINE_CHAT)
		chat_logprobs(&c->logprobs, e);
	else
		completion_logprobs(c, e);
}

/* ---- whole answers --------------------------------------------------------------------------------- */

static void put_head(struct buf *out, const struct answer_head *h, const char *object)
{
	put(out, "{\"id\":\"");
	put(out, h->id);
	put(out, "\",\"object\":\"");
	put(out, object);
	buf_printf(out, "\",\"created\":%lld,\"model\":", (long long)h->created_s);
	buf_append_json(out, str_from(h->model));
	put(out, ",\"system_fingerprint\":\"");
	put(out, h->fingerprint);
	put(out, "\",\"choices\":[");
}

void answer_open(struct buf *out, const struct answer_head *h)
{
	put_head(out, h, h->task == ENGINE_CHAT ? "chat.completion" : "text_completion");
}

static struct str text_or_empty(const struct buf *b)
{
	return b->base ? buf_str(b) : STR("");
}

static void put_tool_calls(struct buf *out, const struct choice_text *c)
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

static void put_message(struct buf *out, const struct choice_text *c)
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

void answer_choice(struct buf *out, enum engine_task task, int32_t index, const struct choice_text *c,
                   enum engine_finish finish, bool logprobs)
{
	buf_printf(out, index ? ",{\"index\":%d," : "{\"index\":%d,", index);
	if (task == ENGINE_CHAT) {
		put_message(out, c);
	} else {
		put(out, "\"text\":");
		buf_append_json(out, text_or_empty(&c->content));
	}
	put(out, ",\"logprobs\":");
	if (!logprobs) {
		put(out, "null");
	} else if (task == ENGINE_CHAT) {
		put(out, "{\"content\":[");
		buf_append_str(out, buf_str(&c->logprobs));
		put(out, "],\"refusal\":null}");
	} else {
		put_completion_logprobs(out, c);
	}
	buf_printf(out, ",\"finish_reason\":\"%s\"}", finish_text(finish));
}

static void put_usage(struct buf *out, const struct answer_usage *u)
{
	buf_printf(out,
	           "\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d,"
	           "\"prompt_tokens_details\":{\"cached_tokens\":%d}}",
	           u->prompt_tokens, u->completion_tokens, u->prompt_tokens + u->completion_tokens, u->cached_tokens);
}

void answer_close(struct buf *out, const struct answer_usage *usage)
{
	put(out, "],");
	put_usage(out, usage);
	put(out, "}");
}

/* ---- streams --------------------------------------------------------------------------------------- */

static void chunk_open(struct buf *out, const struct answer_head *h)
{
	put(out, "data: ");
	put_head(out, h, h->task == ENGINE_CHAT ? "chat.completion.chunk" : "text_completion");
}

static void chunk_close(struct buf *out, const struct answer_head *h)
{
	put(out, h->usage ? "],\"usage\":null}\n\n" : "]}\n\n");
}

void chunk_role(struct buf *out, const struct answer_head *h, int32_t index)
{
	chunk_open(out, h);
	buf_printf(out,
	           "{\"index\":%d,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_"
	           "reason\":null}",
	           index);
	chunk_close(out, h);
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

void chunk_text(struct buf *out, const struct answer_head *h, int32_t index, struct choice_text *c,
                const struct engine_event *e)
{
	chunk_open(out, h);
	buf_printf(out, "{\"index\":%d,", index);
	if (h->task == ENGINE_CHAT) {
		put_delta(out, e);
	} else {
		put(out, "\"text\":");
		buf_append_json(out, e->text.len ? e->text : STR(""));
	}
	put(out, ",\"logprobs\":");
	if (!e->logprob_count) {
		put(out, "null");
	} else if (h->task == ENGINE_CHAT) {
		put(out, "{\"content\":[");
		buf_clear(&c->logprobs);
		chat_logprobs(&c->logprobs, e);
		buf_append_str(out, buf_str(&c->logprobs));
		put(out, "],\"refusal\":null}");
	} else {
		buf_clear(&c->lp_tokens);
		buf_clear(&c->lp_values);
		buf_clear(&c->lp_tops);
		buf_clear(&c->lp_offsets);
		completion_logprobs(c, e);
		put_completion_logprobs(out, c);
	}
	put(out, ",\"finish_reason\":null}");
	chunk_close(out, h);
}

void chunk_finish(struct buf *out, const struct answer_head *h, int32_t index, enum engine_finish finish)
{
	chunk_open(out, h);
	buf_printf(out, "{\"index\":%d,%s,\"logprobs\":null,\"finish_reason\":\"%s\"}", index,
	           h->task == ENGINE_CHAT ? "\"delta\":{}" : "\"text\":\"\"", finish_text(finish));
	chunk_close(out, h);
}

void chunk_usage(struct buf *out, const struct answer_head *h, const struct answer_usage *usage)
{
	chunk_open(out, h);
	put(out, "],");
	put_usage(out, usage);
	put(out, "}\n\n");
}

void chunk_done(struct buf *out)
{
	put(out, "data: [DONE]\n\n");
}

void chunk_error(struct buf *out, const struct error *err)
{
	struct fault fault = {.err = *err};

	put(out, "data: ");
	answer_fault(out, &fault);
	put(out, "\n\n");
}

/* ---- errors ---------------------------------------------------------------------------------------- */

int fault_status(const struct fault *fault)
{
	return fault->status ? fault->status : error_http_status(fault->err.code);
}

void answer_fault(struct buf *out, const struct fault *fault)
{
	const char *type = error_openai_type(fault->err.code);

	put(out, "{\"error\":{\"message\":");
	buf_append_json(out, str_from(fault->err.text));
	buf_printf(out, ",\"type\":\"%s\",\"param\":",
	           fault->code && fault->err.code == E_NOTFOUND ? "invalid_request_error" : type);
	if (fault->param[0])
		buf_append_json(out, str_from(fault->param));
	else
		put(out, "null");
	put(out, ",\"code\":");
	if (fault->code)
		buf_append_json(out, str_from(fault->code));
	else
		put(out, "null");
	put(out, "}}");
}
