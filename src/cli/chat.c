/* SPDX-License-Identifier: Apache-2.0 */
/* chat.c - see chat.h. */
#include "cli/chat.h"

#include "base/clock.h"
#include "net/sse.h"

#include <stdlib.h>
#include <unistd.h>

#define EVENT_MAX (1 << 20)

struct asking {
	FILE *out;
	struct sse_parser sse;
	struct chat_result *r;
	int64_t started_us;
	struct error error;
};

void chat_say(struct chat *c, const char *role, struct str content)
{
	c->messages = mem_resize(c->messages, c->message_count + 1, sizeof *c->messages);
	c->messages[c->message_count++] = (struct chat_message){str_dup(str_from(role)), str_dup(content)};
}

void chat_fini(struct chat *c)
{
	for (size_t i = 0; i < c->message_count; i++) {
		free(c->messages[i].role);
		free(c->messages[i].content);
	}
	free(c->messages);
	c->messages = NULL;
	c->message_count = 0;
}

/* A model may say anything; on a terminal it must not move the cursor or more. */
static void print_text(FILE *out, struct str text)
{
	char *copy = str_dup(text);
	if (isatty(fileno(out))) {
		for (size_t at = 0; at < text.len; at++) {
			size_t line = strcspn(copy + at, "\n\t");
			str_blank_controls(copy + at, line);
			at += line;
		}
	}
	fwrite(copy, 1, text.len, out);
	fflush(out);
	free(copy);
}

static int on_event(void *arg, struct str event, struct str data)
{
	struct asking *a = arg;
	yyjson_doc *doc;
	struct str text = {0}, words = {0};
	int64_t prompt = a->r->prompt_tokens, completion = a->r->completion_tokens;
	if (str_equal(data, STR("[DONE]")))
		return 0;
	if (json_parse(data, &doc, &a->error))
		return a->error.code;
	yyjson_val *root = yyjson_doc_get_root(doc);
	yyjson_val *delta = yyjson_obj_get(yyjson_arr_get_first(yyjson_obj_get(root, "choices")), "delta");
	if (yyjson_obj_get(root, "error") && json_str(yyjson_obj_get(root, "error"), "message", &words, NULL) == 0)
		error_set(&a->error, E_PEER, STR_FMT, STR_ARG(words));
	if (delta)
		json_str(delta, "content", &text, NULL);
	if (text.len) {
		if (!a->r->ttft_us)
			a->r->ttft_us = clock_mono_us() - a->started_us;
		buf_append_str(&a->r->text, text);
		print_text(a->out, text);
	}
	yyjson_val *usage = yyjson_obj_get(root, "usage");
	if (usage && !yyjson_is_null(usage)) {
		json_i64(usage, "prompt_tokens", 0, INT32_MAX, &prompt, NULL);
		json_i64(usage, "completion_tokens", 0, INT32_MAX, &completion, NULL);
	}
	a->r->prompt_tokens = (int)prompt;
	a->r->completion_tokens = (int)completion;
	yyjson_doc_free(doc);
	return a->error.code;
}

static bool on_data(void *arg, int status, struct str data)
{
	struct asking *a = arg;
	return sse_parser_feed(&a->sse, data, a->error.code ? NULL : &a->error) == 0;
}

static void format_request(const struct chat *c, struct buf *out)
{
	buf_append_str(out, STR("{\"model\":"));
	buf_append_json(out, str_from(c->model));
	buf_append_str(out, STR(",\"stream\":true,\"stream_options\":{\"include_usage\":true}"));
	if (c->max_tokens)
		buf_printf(out, ",\"max_tokens\":%d", c->max_tokens);
	if (c->temperature)
		buf_printf(out, ",\"temperature\":%g", *c->temperature);
	buf_append_str(out, STR(",\"messages\":["));
	for (size_t i = 0; i < c->message_count; i++) {
		buf_append_str(out, i ? STR(",{\"role\":") : STR("{\"role\":"));
		buf_append_json(out, str_from(c->messages[i].role));
		buf_append_str(out, STR(",\"content\":"));
		buf_append_json(out, str_from(c->messages[i].content));
		buf_append_str(out, STR("}"));
	}
	buf_append_str(out, STR("]}"));
}

int chat_ask(struct client *client, const struct chat *c, FILE *out, struct chat_result *ret_result, struct error *err)
{
	char url[1024];
	struct buf body = {0};
	struct str value;
	struct asking a = {.out = out, .r = ret_result, .started_us = clock_mono_us()};
	*ret_result = (struct chat_result){0};
	snprintf(url, sizeof url, "%s/v1/chat/completions", c->api_url);
	format_request(c, &body);
	sse_parser_init(&a.sse, EVENT_MAX, on_event, &a);
	struct client_call call = {
	    .method = "POST",
	    .url = url,
	    .bearer = c->key,
	    .body = buf_str(&body),
	    .on_data = on_data,
	    .arg = &a,
	    .timeout_us = 300 * US_PER_S,
	};
	int rc = client_run(client, &call, NULL, NULL, err);
	ret_result->total_us = clock_mono_us() - a.started_us;
	if (a.error.code)
		rc = error_set(err, a.error.code, "%s: %s", url, a.error.text);
	if (client_header(client, "x-mdn-node-name", &value))
		str_copy(value, ret_result->node, sizeof ret_result->node);
	if (client_header(client, "x-mdn-site", &value))
		str_copy(value, ret_result->site, sizeof ret_result->site);
	sse_parser_fini(&a.sse);
	buf_fini(&body);
	return rc;
}

static int route_parse(yyjson_val *root, struct chat_route *ret_route, struct error *err)
{
	yyjson_val *choice = NULL, *other;
	size_t i, max;
	struct str best = {0}, api;
	int rc = json_obj(root, "choice", &choice, err);
	if (rc == 0)
		rc = json_str(choice, "api_url", &best, err);
	if (rc)
		return rc;
	ret_route->count = best.len > 0 && str_copy(best, ret_route->api_urls[0], CHAT_URL_SIZE);
	yyjson_arr_foreach(yyjson_obj_get(root, "candidates"), i, max, other)
	{
		if (ret_route->count == 0 || ret_route->count == CHAT_ROUTES)
			break;
		if (json_str(other, "api_url", &api, NULL) == 0 && api.len > 0 && !str_equal(api, best) &&
		    str_copy(api, ret_route->api_urls[ret_route->count], CHAT_URL_SIZE))
			ret_route->count++;
	}
	return 0;
}

int chat_route(struct client *client, const char *scheduler_url, const char *model, struct chat_route *ret_route,
               struct error *err)
{
	struct buf url = {0}, answer = {0};
	yyjson_doc *doc = NULL;
	*ret_route = (struct chat_route){0};
	buf_printf(&url, "%s/v1/route?model=", scheduler_url);
	buf_append_escaped(&url, str_from(model), URL_SEGMENT);
	buf_append(&url, "", 1);
	struct client_call call = {.url = url.base};
	int rc = client_run(client, &call, NULL, &answer, err);
	if (rc == 0)
		rc = json_parse(buf_str(&answer), &doc, err);
	if (rc == 0)
		rc = route_parse(yyjson_doc_get_root(doc), ret_route, err);
	if (rc == 0 && ret_route->count == 0)
		rc = error_set(err, E_PEER, "%s names no node for %s", scheduler_url, model);
	yyjson_doc_free(doc);
	buf_fini(&url);
	buf_fini(&answer);
	return rc;
}
