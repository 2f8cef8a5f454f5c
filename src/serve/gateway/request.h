/* SPDX-License-Identifier: Apache-2.0 */
/* request.h - what was asked, whatever dialect it was asked in: read from JSON and checked, every wrong field named.
 *
 * Parsed once, by the dialect of its path (dialect.h). A request owns its document; all texts in it live as long as
 * it does. What a dialect does not know is ignored, what it knows must have the right type and range. Pure; any thread.
 */
#ifndef MDN_GATEWAY_REQUEST_H
#define MDN_GATEWAY_REQUEST_H

#include "base/json.h"
#include "base/limits.h"
#include "engine/engine.h"

/* An error before it has a dialect's shape. status 0: the one of err.code. */
struct fault {
	struct error err;
	int status;
	char param[96];      /* the field to blame, or empty */
	const char *code;    /* "model_not_found" and the like, or NULL; a constant */
	int retry_after_s;   /* 0: no Retry-After */
	const char *dropped; /* why the request was not taken, in llm-d's words; NULL: as the status says; a constant */
};

struct dialect;

struct api_prompt {
	struct str text;
	const int32_t *tokens; /* in place of text; part of the request's token_ids */
	size_t token_count;
};

struct api_request {
	const struct dialect *dialect;
	enum engine_task task;
	yyjson_doc *doc;
	yyjson_val *root;
	struct str model; /* as asked for */
	struct str user;
	/* chat: as values in OpenAI's shape ... */
	yyjson_val *messages, *tools, *schema;
	bool rewrite; /* messages need rewriting for engines: developer role, text parts */
	/* ... or, from a dialect with other shapes, as texts in OpenAI's */
	struct buf messages_text, tools_text, schema_text;
	struct str tool_choice; /* "auto", "none", "required" or empty */
	struct str tool_name;   /* the one function to be called, or empty */
	bool json_object;       /* any object is the answer */
	struct api_prompt prompts[LIMIT_CHOICES];
	size_t prompt_count; /* completion: one or more; others: 1 */
	int32_t *token_ids;  /* owned; prompts point into it */
	struct str suffix;
	struct str *inputs; /* owned; embed: texts, rerank: documents */
	size_t input_count;
	int32_t *input_lengths; /* owned; embed: so many of the first prompt's tokens are each input */
	int32_t dimensions;     /* embed; 0: all */
	bool plain_tokens, pieces, no_generation_prompt; /* tokenize */
	bool stream, include_usage, echo;
	int32_t n, best_of, max_tokens, logprobs;
	struct engine_sampling sampling;
	int32_t *bias_tokens; /* owned; sampling points at them */
	float *bias_values;
	struct str stops[LIMIT_STOPS];
	size_t stop_count;
	bool has_class; /* the body says how urgent it is; else a header may */
	enum engine_class service_class;
	int32_t priority;      /* within the class */
	struct str cache_salt; /* empty: the tenant's own */
	struct str session;    /* what its turns have in common, as the client names it; empty: unknown */
	struct buf own;        /* what a dialect wants to remember for its answer, or texts it had to make */
	int32_t prompt_tokens; /* estimate, for routing */
};

int api_request_parse(struct str body, const struct dialect *dialect, struct api_request *ret_request,
                      struct fault *fault);
void api_request_fini(struct api_request *r);
size_t api_request_answers(const struct api_request *r); /* how many engine requests it is */
/* The JSON texts an engine wants; appended only when the request is answered here. */
void api_request_messages(const struct api_request *r, struct buf *out);
void api_request_tools(const struct api_request *r, struct buf *out);
void api_request_schema(const struct api_request *r, struct buf *out);

#endif
