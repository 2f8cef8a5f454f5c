/* SPDX-License-Identifier: Apache-2.0 */
/* OpenAI's embeddings. Vectors leave as numbers with nine digits, which is every bit of a float, or as base64 of
 * little-endian floats, which is what the `openai` client asks for by itself. An answer may hold two million numbers,
 * so they are not printed by printf. Source: OpenAI API reference, "Embeddings". */
#include "serve/gateway/dialect.h"

#include "serve/gateway/fields.h"

#include <math.h>
#include <stdlib.h>

enum { NUMBER_BYTES = 24 };

static const char input_words[] = "\"input\" must be a string, an array of strings, an array of token ids or an array "
				  "of arrays of token ids, none of "
				  "them empty";

/* ---- reading ---------------------------------------------------------------------------------------- */

static int parse_texts(yyjson_val *first, size_t count, struct api_request *r, struct fault *f)
{
	size_t bytes = 0;

	r->inputs = mem_new(count * sizeof(*r->inputs));
	for (size_t i = 0; i < count; i++, first = unsafe_yyjson_get_next(first)) {
		if (!yyjson_is_str(first) || yyjson_get_len(first) == 0)
			return refuse(f, "input", "%s", input_words);
		r->inputs[i] = val_str(first);
		bytes += r->inputs[i].len;
	}
	r->prompt_tokens = (int32_t)(bytes / TOKEN_BYTES + count);
	return 0;
}

static int parse_ids(yyjson_val *ids, size_t at, struct api_request *r, struct fault *f)
{
	yyjson_arr_iter it;
	yyjson_val *id;

	yyjson_arr_iter_init(ids, &it);
	while ((id = yyjson_arr_iter_next(&it)) != NULL) {
		if (!yyjson_is_uint(id) || yyjson_get_uint(id) > INT32_MAX)
			return refuse(f, "input", "%s", input_words);
		r->token_ids[at++] = (int32_t)yyjson_get_uint(id);
	}
	return 0;
}

static int parse_tokens(yyjson_val *first, size_t count, struct api_request *r, struct fault *f)
{
	yyjson_val *each = first;
	size_t total = 0;

	r->input_lengths = mem_new(count * sizeof(*r->input_lengths));
	for (size_t i = 0; i < count; i++, each = unsafe_yyjson_get_next(each)) {
		if (!yyjson_is_arr(each) || yyjson_arr_size(each) == 0)
			return refuse(f, "input", "%s", input_words);
		r->input_lengths[i] = (int32_t)yyjson_arr_size(each);
		total += yyjson_arr_size(each);
	}
	if (total > LIMIT_PROMPT_TOKENS)
		return refuse(f, "input", "\"input\" has %zu token ids; at most %d are allowed", total,
		              LIMIT_PROMPT_TOKENS);
	r->token_ids = mem_new(total * sizeof(*r->token_ids));
	each = first;
	for (size_t i = 0, at = 0; i < count; at += (size_t)r->input_lengths[i++], each = unsafe_yyjson_get_next(each))
		if (parse_ids(each, at, r, f) < 0)
			return f->err.code;
	r->prompts[0] = (struct api_prompt){.tokens = r->token_ids, .token_count = total};
	r->prompt_tokens = (int32_t)total;
	return 0;
}

static int parse_input(yyjson_val *root, struct api_request *r, struct fault *f)
{
	yyjson_val *input = yyjson_obj_get(root, "input"), *first = input;
	size_t count = 1;

	if (!present(input))
		return refuse(f, "input", "\"input\" is missing: a string, or an array of strings");
	if (yyjson_is_arr(input) && !yyjson_is_num(yyjson_arr_get_first(input))) {
		first = yyjson_arr_get_first(input);
		count = yyjson_arr_size(input);
	}
	if (count == 0 || count > LIMIT_INPUTS)
		return refuse(f, "input", "\"input\" must hold 1 to %d inputs", LIMIT_INPUTS);
	r->input_count = count;
	return yyjson_is_arr(first) ? parse_tokens(first, count, r, f) : parse_texts(first, count, r, f);
}

static int parse(yyjson_val *root, struct api_request *r, struct fault *f)
{
	static const struct scalar scalars[] = {
	    {"dimensions", SCALAR_I32, 1, 65536, PLACE(dimensions)},
	    {"user", SCALAR_STR, 0, INT32_MAX, PLACE(user)},
	};
	yyjson_val *format = yyjson_obj_get(root, "encoding_format");

	if (fields_model(root, r, f) < 0 || parse_input(root, r, f) < 0)
		return f->err.code;
	if (present(format) && !str_is(format, "float") && !str_is(format, "base64"))
		return refuse(f, "encoding_format", "\"encoding_format\" must be \"float\" or \"base64\"");
	if (fields_scalars(root, scalars, sizeof(scalars) / sizeof(scalars[0]), r, f) < 0)
		return f->err.code;
	return fields_priority(root, r, f);
}

/* ---- writing ---------------------------------------------------------------------------------------- */

/* Nine digits behind as many zeros as it takes; numbers of a vector of length 1 hardly need another way. */
static size_t number_text(char *to, float number)
{
	double size = fabs((double)number), scale = 1e9;
	char digits[9];
	size_t at = 0, zeros = 0, used = 9;

	if (!(size >= 1e-5 && size < 1))
		return (size_t)snprintf(to, NUMBER_BYTES, "%.9g", (double)number);
	while (size * scale < 1e8) {
		scale *= 10;
		zeros++;
	}
	uint64_t whole = (uint64_t)(size * scale + 0.5);
	if (whole >= 1000000000) /* rounded up to the next power of ten */
		return (size_t)snprintf(to, NUMBER_BYTES, "%.9g", (double)number);
	for (size_t i = 9; i-- > 0; whole /= 10)
		digits[i] = (char)('0' + whole % 10);
	while (used > 1 && digits[used - 1] == '0')
		used--;
	if (number < 0)
		to[at++] = '-';
	to[at++] = '0';
	to[at++] = '.';
	memset(to + at, '0', zeros);
	memcpy(to + at + zeros, digits, used);
	return at + zeros + used;
}

static void put_numbers(struct buf *out, const float *vector, size_t size)
{
	char *to = buf_reserve(out, size * (NUMBER_BYTES + 1) + 2);
	size_t at = 0;

	to[at++] = '[';
	for (size_t i = 0; i < size; i++) {
		if (i)
			to[at++] = ',';
		at += number_text(to + at, vector[i]);
	}
	to[at++] = ']';
	out->len += at;
}

static void put_base64(struct buf *out, const float *vector, size_t size)
{
	size_t bytes = size * sizeof(*vector);
	char *to = buf_reserve(out, (bytes + 2) / 3 * 4 + 3);

	to[0] = '"';
	size_t len = base64url_encode((const uint8_t *)vector, bytes, to + 1) + 1;
	for (size_t i = 1; i < len; i++)
		to[i] = to[i] == '-' ? '+' : to[i] == '_' ? '/' : to[i];
	while ((len - 1) % 4)
		to[len++] = '=';
	to[len++] = '"';
	out->len += len;
}

static void whole(struct buf *out, struct api_answer *a)
{
	const struct engine_event *e = a->done;
	bool base64 = str_is(yyjson_obj_get(a->in->root, "encoding_format"), "base64");

	put(out, "{\"object\":\"list\",\"data\":[");
	for (size_t i = 0; i < e->vector_count; i++) {
		buf_printf(out, "%s{\"object\":\"embedding\",\"index\":%zu,\"embedding\":", i ? "," : "", i);
		(base64 ? put_base64 : put_numbers)(out, e->vectors + i * e->vector_size, e->vector_size);
		put(out, "}");
	}
	put(out, "],\"model\":");
	buf_append_json(out, str_from(a->model));
	buf_printf(out, ",\"usage\":{\"prompt_tokens\":%d,\"total_tokens\":%d}}", e->prompt_tokens, e->prompt_tokens);
}

const struct dialect dialect_embeddings = {
    .name = "embeddings",
    .id_prefix = "embd-",
    .prompt_field = "input",
    .task = ENGINE_EMBED,
    .parse = parse,
    .whole = whole,
    .fault = api_fault,
    .usage = {"\"usage\":{", "\"prompt_tokens\":", "\"completion_tokens\":", "\"cached_tokens\":", false},
};
