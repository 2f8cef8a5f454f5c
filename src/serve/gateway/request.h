/* SPDX-License-Identifier: Apache-2.0 */
/* request.h - a chat or completion request read from JSON and checked: every wrong field is named.
 *
 * Parsed once. A request owns its document; all texts in it live as long as it does. What OpenAI does not know
 * is ignored, what it knows must have the right type and range. Pure; any thread. Source: OpenAI API
 * reference; the extensions min_p, top_k, repetition_penalty are those of vLLM.
 */
#ifndef MDN_GATEWAY_REQUEST_H
#define MDN_GATEWAY_REQUEST_H

#include "base/json.h"
#include "base/limits.h"
#include "engine/engine.h"

/* An error as OpenAI tells it. status 0: the one of err.code. */
struct fault {
	struct error err;
	int status;
	char param[96];    /* the field to blame, or empty */
	const char *code;  /* "model_not_found" and the like, or NULL; a constant */
	int retry_after_s; /* 0: no Retry-After */
};

struct chat_request {
	yyjson_doc *doc;
	enum engine_task task;
	struct str model; /* as asked for */
	struct str user;
	yyjson_val *messages, *tools, *schema;
	struct str prompts[LIMIT_CHOICES];
	size_t prompt_count;    /* completion: one or more; chat: 1, without text */
	bool rewrite;           /* messages need rewriting for engines: developer role, text parts */
	struct str tool_choice; /* "auto", "none", "required" or empty */
	struct str tool_name;   /* the one function to be called, or empty */
	bool json_object;       /* response_format: any object */
	bool stream, include_usage, echo;
	int32_t n, max_tokens, logprobs;
	struct engine_sampling sampling;
	int32_t *bias_tokens; /* owned; sampling points at them */
	float *bias_values;
	struct str stops[LIMIT_STOPS];
	size_t stop_count;
	int32_t prompt_tokens; /* estimate, for routing */
};

int chat_request_parse(struct str body, enum engine_task task, struct chat_request *ret_request, struct fault *fault);
void chat_request_fini(struct chat_request *r);
/* The JSON texts an engine wants; appended only when the request is answered here. */
void chat_request_messages(const struct chat_request *r, struct buf *out);
void chat_request_tools(const struct chat_request *r, struct buf *out);
void chat_request_schema(const struct chat_request *r, struct buf *out);

#endif
