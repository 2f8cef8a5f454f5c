/* SPDX-License-Identifier: Apache-2.0 */
/* How: engines' events come in pieces; text is appended, tool calls arrive as OpenAI's deltas and are joined by index.
 * Shapes are written by appends of fixed texts, because they never change; strings go through buf_append_json. */
#include "serve/gateway/answer.h"

#include "serve/gateway/fields.h"

#include <math.h>
#include <stdlib.h>

enum { TOOL_CALLS_MAX = 128 };

void api_answer_init(struct api_answer *a, size_t count)
{
	a->choices = mem_new(count * sizeof(*a->choices));
	a->count = count;
	for (size_t i = 0; i < count; i++)
		a->choices[i].index = (int32_t)i;
}

static void choice_fini(struct api_choice *c)
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
}

void api_answer_fini(struct api_answer *a)
{
	for (size_t i = 0; i < a->count; i++)
		choice_fini(&a->choices[i]);
	free(a->choices);
	buf_fini(&a->items);
	a->choices = NULL;
	a->count = 0;
}

/* ---- gathering ------------------------------------------------------------------------------------- */

void api_tool_deltas(struct str json, void (*each)(void *arg, const struct tool_delta *delta), void *arg)
{
	yyjson_doc *doc;
	yyjson_val *delta;
	yyjson_arr_iter it;

	if (json_parse(json, &doc, NULL) < 0)
		return;
	yyjson_arr_iter_init(yyjson_doc_get_root(doc), &it);
	for (size_t at = 0; (delta = yyjson_arr_iter_next(&it)) != NULL; at++) {
		yyjson_val *function = yyjson_obj_get(delta, "function"), *index = yyjson_obj_get(delta, "index");
		const struct tool_delta d = {
		    .index = yyjson_is_uint(index) ? yyjson_get_uint(index) : at,
		    .id = val_str(yyjson_obj_get(delta, "id")),
		    .name = val_str(yyjson_obj_get(function, "name")),
		    .arguments = val_str(yyjson_obj_get(function, "arguments")),
		};
		if (d.index < TOOL_CALLS_MAX)
			each(arg, &d);
	}
	yyjson_doc_free(doc);
}

static void join_tool_call(void *arg, const struct tool_delta *d)
{
	struct api_choice *c = arg;

	if (d->index > c->call_count)
		return;
	if (d->index == c->call_count) {
		c->calls = mem_resize(c->calls, ++c->call_count, sizeof(*c->calls));
		memset(&c->calls[d->index], 0, sizeof(*c->calls));
	}
	struct tool_call *call = &c->calls[d->index];
	buf_append_str(&call->id, d->id);
	buf_append_str(&call->name, d->name);
	buf_append_str(&call->arguments, d->arguments);
}

void api_choice_weigh(struct api_choice *c, const struct engine_event *e)
{
	if (e->completion_tokens == 0) /* an echo: the prompt was not generated */
		return;
	for (size_t i = 0; i < e->logprob_count; i++)
		c->logprob_sum += isfinite(e->logprobs[i].logprob) ? (double)e->logprobs[i].logprob : -9999;
	c->logprob_count += e->logprob_count;
}

void api_choice_add(struct api_choice *c, const struct engine_event *e)
{
	buf_append_str(&c->content, e->text);
	buf_append_str(&c->reasoning, e->reasoning);
	if (e->tool_calls_json.len)
		api_tool_deltas(e->tool_calls_json, join_tool_call, c);
	api_choice_weigh(c, e);
}

static double likelihood(const struct api_choice *c)
{
	return c->logprob_count ? c->logprob_sum / (double)c->logprob_count : -INFINITY;
}

static void swap(struct api_choice *a, struct api_choice *b)
{
	const struct api_choice other = *a;

	*a = *b;
	*b = other;
}

void api_answer_keep_best(struct api_answer *a, size_t best_of, size_t n)
{
	size_t kept = 0;

	for (size_t group = 0; group < a->count; group += best_of) {
		for (size_t i = group; i < group + n; i++, kept++) {
			size_t best = i;
			for (size_t j = i + 1; j < group + best_of; j++)
				if (likelihood(&a->choices[j]) > likelihood(&a->choices[best]))
					best = j;
			swap(&a->choices[i], &a->choices[best]);
			swap(&a->choices[kept], &a->choices[i]);
			a->choices[kept].index = (int32_t)kept;
		}
	}
	for (size_t i = kept; i < a->count; i++)
		choice_fini(&a->choices[i]);
	a->count = kept;
}

/* ---- shapes that several have ------------------------------------------------------------------------ */

/* JSON has no infinity; OpenAI writes -9999.0 for "never", and null before the first token of a prompt. */
void api_logprob(struct buf *out, float logprob)
{
	if (isnan(logprob))
		put(out, "null");
	else
		buf_printf(out, "%.6g", isfinite(logprob) && logprob > -9999 ? (double)logprob : -9999.0);
}

size_t api_characters(struct str s)
{
	size_t count = 0;

	for (size_t i = 0; i < s.len; i++)
		count += ((unsigned char)s.base[i] & 0xc0) != 0x80;
	return count;
}

static void put_token(struct buf *out, struct str token, float logprob)
{
	put(out, "{\"token\":");
	buf_append_json(out, token);
	put(out, ",\"logprob\":");
	api_logprob(out, logprob);
	put(out, ",\"bytes\":[");
	for (size_t i = 0; i < token.len; i++)
		buf_printf(out, i ? ",%u" : "%u", (unsigned)(unsigned char)token.base[i]);
	put(out, "]");
}

void api_logprobs(struct buf *out, const struct engine_event *e)
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

/* ---- errors ---------------------------------------------------------------------------------------- */

int fault_status(const struct fault *fault)
{
	return fault->status ? fault->status : error_http_status(fault->err.code);
}

void api_fault(struct buf *out, const struct fault *fault)
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
