/* SPDX-License-Identifier: Apache-2.0 */
/* fields.h - how dialects read the fields of a request: checked, and the first wrong one named in the fault.
 *
 * Each returns 0 or the fault's code. A field that is absent or null leaves what it would have filled. Pure; any
 * thread.
 */
#ifndef MDN_GATEWAY_FIELDS_H
#define MDN_GATEWAY_FIELDS_H

#include "serve/gateway/request.h"

int refuse(struct fault *f, const char *param, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* The blame for part of an array, `param` being formatted only now. */
int refuse_at(struct fault *f, const char *words, const char *param, ...) __attribute__((format(printf, 3, 4)));
/* A getter of base/json failed and wrote the words: adds whose fault it is. */
int blame(struct fault *f, const char *param);

static inline struct str val_str(yyjson_val *v)
{
	return (struct str){yyjson_get_str(v), yyjson_get_len(v)};
}
static inline bool present(yyjson_val *v)
{
	return v != NULL && !yyjson_is_null(v);
}
static inline bool str_is(yyjson_val *v, const char *text)
{
	return yyjson_is_str(v) && yyjson_equals_str(v, text);
}
void append_val(yyjson_val *v, struct buf *out); /* as JSON text */

enum scalar_kind { SCALAR_NUM, SCALAR_I32, SCALAR_BOOL, SCALAR_STR };
struct scalar {
	const char *key;
	enum scalar_kind kind;
	double least, most; /* strings: bytes */
	size_t place;       /* in struct api_request: double, int32_t, bool, struct str */
};
#define PLACE(member) offsetof(struct api_request, member)
int fields_scalars(yyjson_val *obj, const struct scalar *scalars, size_t count, struct api_request *r, struct fault *f);

int fields_model(yyjson_val *root, struct api_request *r, struct fault *f);
int fields_seed(yyjson_val *obj, struct api_request *r, struct fault *f);
int fields_stops(yyjson_val *obj, const char *key, struct api_request *r, struct fault *f); /* a string, or several */
/* "priority" and "service_tier": the class and the place within it. */
int fields_priority(yyjson_val *root, struct api_request *r, struct fault *f);
/* A class by name, or a number as vLLM has it: below 0 sooner, above later. False: neither. */
bool class_parse(struct str text, enum engine_class *ret_class, int32_t *ret_priority);
const char *class_name(enum engine_class c);

/* "tools": not too many, each well formed by `check`. `write` (NULL: none) writes those named `only`, or all when that
 * is empty, into r->tools_text as OpenAI's array: "[" and the first, or "," and one more. */
typedef int tool_check(yyjson_val *tool, size_t i, struct fault *f);
typedef void tool_write(yyjson_val *tool, struct buf *out);
int fields_tools(yyjson_val *tools, struct str only, tool_check *check, tool_write *write, struct api_request *r,
                 struct fault *f);
/* Of an array of tools as OpenAI has them; NULL. */
yyjson_val *tool_by_name(yyjson_val *tools, struct str name);

enum { TOKEN_BYTES = 4, MESSAGE_TOKENS = 4 }; /* a rule of thumb for prompt_tokens; only routing looks at it */

/* One word for each kind of content that no model here can read. */
#define NOT_TEXT "is not supported by this model; only text is"

#endif
