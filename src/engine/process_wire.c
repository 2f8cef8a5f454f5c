/* SPDX-License-Identifier: Apache-2.0 */
/* process_wire.c - a table a struct, and two walks over it.
 *
 * A number is 8 bytes. A text is its length, its bytes, a NUL, and zeros up to the next multiple of 8; arrays of
 * numbers are their count and the numbers, padded alike. So what is decoded can point into the frame, and is aligned.
 * Arrays of texts need `struct str`s, which the memory holds: a text takes at least 16 bytes on the wire, as its
 * `struct str` does, a logprob 32 for 40. Lists take their memory before their items are read, so a bad one may take
 * both for itself and inside it: three times the frame always suffices.
 */
#include "engine/process_wire.h"

#include "base/json.h"
#include "base/limits.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <yyjson.h>

enum field_type {
	FIELD_INT,    /* int32_t and enums */
	FIELD_LONG,   /* int64_t */
	FIELD_ULONG,  /* uint64_t, size_t */
	FIELD_BOOL,   /* bool */
	FIELD_REAL,   /* double */
	FIELD_CHARS,  /* char[most] */
	FIELD_TEXT,   /* struct str of at most `most` bytes */
	FIELD_UTF8,   /* the same, whole characters */
	FIELD_JSON,   /* the same, a JSON array on one line, or empty */
	FIELD_TEXTS,  /* array of struct str with a count */
	FIELD_INTS,   /* array of int32_t with a count */
	FIELD_FLOATS, /* array of float with a count */
	FIELD_VECTORS,
	FIELD_LOGPROBS,
	FIELD_ERROR,
};

struct field {
	enum field_type type;
	bool optional; /* array: may be absent though its count is not 0 */
	size_t at, count_at;
	int64_t least, most; /* of the value, or of count and length */
};

#define TEXT_MAX (48 << 20)
#define NAME_MAX_BYTES 4096
#define ITEMS_MAX (4 << 20)
#define LOGPROBS_MAX (1 << 20)
#define VECTOR_FLOATS_MAX (15 << 20)

#define AT(member) offsetof(struct STRUCT, member)
#define INT(member, low, high) \
	{ \
		FIELD_INT, false, AT(member), 0, low, high \
	}
#define ANY_INT(member) INT(member, INT32_MIN, INT32_MAX)
#define COUNT(member) INT(member, 0, INT32_MAX)
#define LONG(member) \
	{ \
		FIELD_LONG, false, AT(member), 0, 0, INT64_MAX \
	}
#define ULONG(member) \
	{ \
		FIELD_ULONG, false, AT(member), 0, 0, INT64_MAX \
	}
#define BOOL(member) \
	{ \
		FIELD_BOOL, false, AT(member), 0, 0, 1 \
	}
#define REAL(member) \
	{ \
		FIELD_REAL, false, AT(member), 0, INT64_MIN, INT64_MAX \
	}
#define AMOUNT(member) \
	{ \
		FIELD_REAL, false, AT(member), 0, 0, INT64_MAX \
	} /* >= 0 */
#define CHARS(member) \
	{ \
		FIELD_CHARS, false, AT(member), 0, 0, sizeof(((struct STRUCT *)0)->member) \
	}
#define TEXT(member, limit) \
	{ \
		FIELD_TEXT, false, AT(member), 0, 0, limit \
	}
#define UTF8(member) \
	{ \
		FIELD_UTF8, false, AT(member), 0, 0, TEXT_MAX \
	}
#define JSON(member) \
	{ \
		FIELD_JSON, false, AT(member), 0, 0, TEXT_MAX \
	}
/* Arrays of a request may share a count, and be absent though it is not 0; those of an event are never. */
#define TEXTS(member, count) \
	{ \
		FIELD_TEXTS, true, AT(member), AT(count), 0, ITEMS_MAX \
	}
#define INTS(member, count) \
	{ \
		FIELD_INTS, true, AT(member), AT(count), 0, ITEMS_MAX \
	}
#define FLOATS(member, count) \
	{ \
		FIELD_FLOATS, true, AT(member), AT(count), 0, ITEMS_MAX \
	}
#define TOKENS(member, count) \
	{ \
		FIELD_INTS, false, AT(member), AT(count), 0, ITEMS_MAX \
	}
#define VECTORS(member) \
	{ \
		FIELD_VECTORS, false, AT(member), 0, 0, VECTOR_FLOATS_MAX \
	}
#define LOGPROBS(member, count) \
	{ \
		FIELD_LOGPROBS, false, AT(member), AT(count), 0, LOGPROBS_MAX \
	}
#define ERROR(member) \
	{ \
		FIELD_ERROR, false, AT(member), 0, 0, 0 \
	}

#define STRUCT engine_options
static const struct field options_fields[] = {
    TEXT(kind, NAME_MAX_BYTES),
    TEXT(model_path, NAME_MAX_BYTES),
    TEXT(model_name, NAME_MAX_BYTES),
    TEXT(remote_url, NAME_MAX_BYTES),
    TEXT(remote_key, NAME_MAX_BYTES),
    TEXT(remote_model, NAME_MAX_BYTES),
    COUNT(slots),
    COUNT(context_tokens),
    COUNT(batch_tokens),
    LONG(itl_target_us),
    ULONG(swap_bytes),
    LONG(queue_us),
    COUNT(threads),
    TEXTS(adapter_names, adapter_count),
    TEXTS(adapter_paths, adapter_count),
    BOOL(mlock),
    TEXT(pooling, NAME_MAX_BYTES),
    BOOL(deterministic),
    TEXT(cache_folder, NAME_MAX_BYTES),
    ULONG(cache_memory_bytes),
    ULONG(cache_disk_bytes),
    TEXT(speculate, NAME_MAX_BYTES),
    TEXT(draft_path, NAME_MAX_BYTES),
    BOOL(in_process),
    TEXT(user, NAME_MAX_BYTES),
    LONG(prefill_us_per_token),
    LONG(itl_base_us),
    LONG(itl_slope_us),
    LONG(load_us),
    COUNT(kv_tokens),
};
#undef STRUCT

#define STRUCT engine_params
static const struct field params_fields[] = {
    INT(task, ENGINE_CHAT, ENGINE_DETOKENIZE),
    TEXT(prompt, TEXT_MAX),
    TEXT(suffix, TEXT_MAX),
    INTS(prompt_tokens, prompt_token_count),
    TEXTS(inputs, input_count),
    INTS(input_lengths, input_count),
    COUNT(dimensions),
    BOOL(plain_tokens),
    BOOL(pieces),
    BOOL(no_generation_prompt),
    TEXT(messages_json, TEXT_MAX),
    TEXT(tools_json, TEXT_MAX),
    TEXT(tool_choice, TEXT_MAX),
    TEXT(json_schema, TEXT_MAX),
    REAL(sampling.temperature),
    REAL(sampling.top_p),
    REAL(sampling.min_p),
    ANY_INT(sampling.top_k),
    REAL(sampling.typical_p),
    ANY_INT(sampling.mirostat),
    REAL(sampling.mirostat_tau),
    REAL(sampling.mirostat_eta),
    REAL(sampling.presence_penalty),
    REAL(sampling.frequency_penalty),
    REAL(sampling.repeat_penalty),
    {FIELD_ULONG, false, AT(sampling.seed), 0, 0, -1},
    BOOL(sampling.has_seed),
    INTS(sampling.bias_tokens, sampling.bias_count),
    FLOATS(sampling.bias_values, sampling.bias_count),
    ANY_INT(max_tokens),
    INT(logprobs, -1, INT32_MAX),
    TEXTS(stops, stop_count),
    BOOL(echo),
    TEXT(tenant, TEXT_MAX),
    REAL(tenant_weight),
    TEXT(cache_salt, TEXT_MAX),
    INT(service_class, ENGINE_SYSTEM, ENGINE_BULK),
    ANY_INT(priority),
    LONG(deadline_us),
    TEXT(adapter, NAME_MAX_BYTES),
    TEXT(request_id, NAME_MAX_BYTES),
    INTS(resumed, resumed_count),
    TEXT(answer_id, NAME_MAX_BYTES),
    TEXT(traceparent, NAME_MAX_BYTES),
};
#undef STRUCT

#define STRUCT engine_event
static const struct field event_fields[] = {
    INT(kind, ENGINE_STARTED, ENGINE_DONE),
    UTF8(text),
    UTF8(reasoning),
    JSON(tool_calls_json),
    LOGPROBS(logprobs, logprob_count),
    BOOL(replayed),
    TOKENS(tokens, token_count),
    ULONG(vector_size),
    ULONG(vector_count),
    VECTORS(vectors),
    COUNT(prompt_tokens),
    COUNT(cached_tokens),
    COUNT(completion_tokens),
    INT(finish, FINISH_STOP, FINISH_ERROR),
    COUNT(stop),
    ERROR(err),
};
#undef STRUCT

#define STRUCT engine_load
static const struct field load_fields[] = {
    COUNT(running),
    COUNT(waiting),
    COUNT(slots),
    AMOUNT(kv_usage),
    LONG(tokens_to_prefill),
    LONG(told_age_us),
    AMOUNT(prefill_tokens_per_s),
    AMOUNT(decode_tokens_per_s),
    AMOUNT(itl_us),
    ULONG(prompt_tokens_total),
    ULONG(cached_tokens_total),
    ULONG(generation_tokens_total),
    ULONG(requests_total),
    ULONG(cancels_total),
    ULONG(drafts_total),
    ULONG(drafted_tokens_total),
    ULONG(accepted_tokens_total),
    ULONG(expiries_total),
    ULONG(preemptions_total),
    ULONG(swaps_total),
    ULONG(swapped_bytes),
    ULONG(prompt_computed_tokens_total),
    ULONG(cached_cells_total),
    ULONG(cached_memory_total),
    ULONG(cached_disk_total),
    ULONG(cache_memory_bytes),
    ULONG(cache_disk_bytes),
    AMOUNT(load_progress),
    ULONG(batch_tokens_total),
    ULONG(batches[0]),
    ULONG(batches[1]),
    ULONG(batches[2]),
    ULONG(batches[3]),
    ULONG(batches[4]),
    ULONG(batches[5]),
    ULONG(batches[6]),
    ULONG(batches[7]),
    ULONG(batches[8]),
    ULONG(batches[9]),
    ULONG(batches[10]),
    ULONG(batches[11]),
    ULONG(batches[12]),
    ULONG(batches[13]),
};
#undef STRUCT

#define STRUCT engine_info
static const struct field info_fields[] = {
    CHARS(architecture), COUNT(context_tokens), COUNT(slots),     ULONG(memory_bytes), BOOL(chat),
    BOOL(infill),        COUNT(embedding_size), BOOL(rerank),     BOOL(no_generation), CHARS(server),
    BOOL(no_tools),      BOOL(no_logprobs),     COUNT(kv_tokens), COUNT(kv_block),
};
#undef STRUCT

struct table {
	const struct field *fields;
	size_t count;
};
#define TABLE(fields) \
	{ \
		fields, sizeof(fields) / sizeof(fields[0]) \
	}
static const struct table tables[] = {
    [WIRE_OF_OPTIONS] = TABLE(options_fields), [WIRE_OF_PARAMS] = TABLE(params_fields),
    [WIRE_OF_EVENT] = TABLE(event_fields),     [WIRE_OF_INFO] = TABLE(info_fields),
    [WIRE_OF_LOAD] = TABLE(load_fields),
};

static size_t padded(size_t size)
{
	return (size + 7) & ~(size_t)7;
}

/* ---- writing ------------------------------------------------------------------------------------ */

static void put_u64(struct buf *out, uint64_t value)
{
	buf_append(out, &value, sizeof(value));
}

static void put_bytes(struct buf *out, const void *data, size_t len)
{
	static const char zeros[8];

	buf_append(out, data, len);
	buf_append(out, zeros, padded(len) - len);
}

static void put_str(struct buf *out, struct str text)
{
	static const char zeros[8];

	put_u64(out, text.len);
	buf_append(out, text.base, text.len);
	buf_append(out, zeros, padded(text.len + 1) - text.len);
}

static void put_array(struct buf *out, const void *array, size_t count, size_t item)
{
	count = array ? count : 0;
	put_u64(out, count);
	put_bytes(out, array, count * item);
}

static void put_float(struct buf *out, float value)
{
	put_bytes(out, &value, sizeof(value));
}

static void put_logprobs(struct buf *out, const struct engine_logprob *list, size_t count)
{
	count = list ? count : 0;
	put_u64(out, count);
	for (size_t i = 0; i < count; i++) {
		put_str(out, list[i].token);
		put_float(out, list[i].logprob);
		put_u64(out, list[i].top_count);
		for (size_t j = 0; j < list[i].top_count; j++) {
			put_str(out, list[i].top[j].token);
			put_float(out, list[i].top[j].logprob);
		}
	}
}

/* Of embeddings one of vector_size each, of ranks one score each. */
static size_t vector_floats(const struct engine_event *e)
{
	return (e->vector_size ? e->vector_size : 1) * e->vector_count;
}

static void put_error(struct buf *out, const struct error *err)
{
	put_u64(out, err ? (uint64_t)(int64_t)err->code : 0);
	put_str(out, str_from(err ? err->text : ""));
}

static void put_field(struct buf *out, const struct field *f, const char *thing)
{
	const void *at = thing + f->at;
	size_t count = 0;

	if (f->type == FIELD_TEXTS || f->type == FIELD_INTS || f->type == FIELD_FLOATS || f->type == FIELD_LOGPROBS)
		memcpy(&count, thing + f->count_at, sizeof(count));
	switch (f->type) {
	case FIELD_INT:
		put_u64(out, (uint64_t)(int64_t) * (const int32_t *)at);
		return;
	case FIELD_LONG:
	case FIELD_ULONG:
	case FIELD_REAL:
		buf_append(out, at, 8);
		return;
	case FIELD_BOOL:
		put_u64(out, *(const bool *)at);
		return;
	case FIELD_CHARS:
		put_str(out, (struct str){at, strnlen(at, (size_t)f->most)});
		return;
	case FIELD_TEXT:
	case FIELD_UTF8:
	case FIELD_JSON:
		put_str(out, *(const struct str *)at);
		return;
	case FIELD_TEXTS: {
		const struct str *texts = *(const struct str *const *)at;
		put_u64(out, texts ? count : 0);
		for (size_t i = 0; texts && i < count; i++)
			put_str(out, texts[i]);
		put_u64(out, count);
		return;
	}
	case FIELD_INTS:
	case FIELD_FLOATS:
		put_array(out, *(const void *const *)at, count, 4);
		put_u64(out, count);
		return;
	case FIELD_VECTORS:
		put_array(out, *(const void *const *)at, vector_floats((const struct engine_event *)thing), 4);
		return;
	case FIELD_LOGPROBS:
		put_logprobs(out, *(const struct engine_logprob *const *)at, count);
		return;
	case FIELD_ERROR:
		put_error(out, *(const struct error *const *)at);
		return;
	}
}

static void put_struct(struct buf *out, enum wire_struct which, const void *thing)
{
	for (size_t i = 0; i < tables[which].count; i++)
		put_field(out, &tables[which].fields[i], thing);
}

static size_t frame_begin(struct buf *out, enum wire_kind kind, uint64_t request)
{
	struct wire_head head = {0, kind, request};
	size_t at = out->len;

	buf_append(out, &head, sizeof(head));
	return at;
}

static bool frame_end(struct buf *out, size_t at)
{
	size_t size = out->len - at - sizeof(struct wire_head);
	uint32_t size32 = (uint32_t)size;

	if (size > WIRE_FRAME_MAX) {
		out->len = at;
		return false;
	}
	memcpy(out->base + at, &size32, sizeof(size32));
	return true;
}

bool wire_put_empty(struct buf *out, enum wire_kind kind, uint64_t request)
{
	return frame_end(out, frame_begin(out, kind, request));
}

bool wire_put_options(struct buf *out, const struct engine_options *options)
{
	size_t at = frame_begin(out, WIRE_OPTIONS, 0);

	put_struct(out, WIRE_OF_OPTIONS, options);
	return frame_end(out, at);
}

bool wire_put_params(struct buf *out, uint64_t request, const struct engine_params *params)
{
	size_t at = frame_begin(out, WIRE_SUBMIT, request);

	put_struct(out, WIRE_OF_PARAMS, params);
	return frame_end(out, at);
}

bool wire_put_event(struct buf *out, uint64_t request, const struct engine_event *event)
{
	size_t at = frame_begin(out, WIRE_EVENT, request);

	put_struct(out, WIRE_OF_EVENT, event);
	return frame_end(out, at);
}

bool wire_put_state(struct buf *out, const struct wire_state *state)
{
	size_t at = frame_begin(out, WIRE_STATE, 0);

	put_u64(out, state->state);
	put_struct(out, WIRE_OF_INFO, &state->info);
	put_error(out, &state->err);
	return frame_end(out, at);
}

bool wire_put_load(struct buf *out, const struct wire_load *load)
{
	size_t at = frame_begin(out, WIRE_LOAD, 0);

	put_struct(out, WIRE_OF_LOAD, &load->load);
	put_u64(out, load->submits);
	return frame_end(out, at);
}

/* ---- reading ------------------------------------------------------------------------------------ */

struct reader {
	const char *at, *end;
	struct wire_memory *memory;
	const char *wrong; /* the first thing that was */
};

void wire_memory_fini(struct wire_memory *memory)
{
	free(memory->base);
	*memory = (struct wire_memory){0};
}

static bool wrong(struct reader *r, const char *what)
{
	if (!r->wrong)
		r->wrong = what;
	r->at = r->end;
	return false;
}

static bool get_bytes(struct reader *r, size_t len, const char **ret)
{
	if (len > (size_t)(r->end - r->at) || padded(len) > (size_t)(r->end - r->at))
		return wrong(r, "it is cut off");
	*ret = r->at;
	r->at += padded(len);
	return true;
}

static bool get_u64(struct reader *r, uint64_t *ret)
{
	const char *at;

	if (!get_bytes(r, 8, &at))
		return false;
	memcpy(ret, at, 8);
	return true;
}

static bool get_int(struct reader *r, int64_t least, int64_t most, int64_t *ret)
{
	uint64_t value;

	if (!get_u64(r, &value))
		return false;
	if ((int64_t)value < least || (int64_t)value > most)
		return wrong(r, "a number is out of its range");
	*ret = (int64_t)value;
	return true;
}

static bool get_str(struct reader *r, size_t most, struct str *ret)
{
	uint64_t len;
	const char *at;

	if (!get_u64(r, &len))
		return false;
	if (len > most)
		return wrong(r, "a text is too long");
	if (!get_bytes(r, len + 1, &at))
		return false;
	if (at[len] != '\0')
		return wrong(r, "a text does not end");
	*ret = (struct str){at, len};
	return true;
}

static void *memory_take(struct reader *r, size_t size)
{
	struct wire_memory *m = r->memory;

	size = padded(size);
	assert(m && size <= m->cap - m->used); /* see the top */
	m->used += size;
	return m->base + m->used - size;
}

/* A count that the rest of the frame can hold, `item` bytes each. */
static bool get_count(struct reader *r, int64_t most, size_t item, size_t *ret)
{
	int64_t count;

	if (!get_int(r, 0, most, &count))
		return false;
	if ((uint64_t)count > (size_t)(r->end - r->at) / item)
		return wrong(r, "it says more than it holds");
	*ret = (size_t)count;
	return true;
}

/* No infinity leaves here: JSON has none. NaN means that there is none. */
static bool get_logprob(struct reader *r, float *ret)
{
	const char *at;

	if (!get_bytes(r, sizeof(*ret), &at))
		return false;
	memcpy(ret, at, sizeof(*ret));
	if (isinf(*ret))
		*ret = -9999;
	return true;
}

static bool get_tops(struct reader *r, struct engine_logprob *of)
{
	struct engine_logprob_alternative *top;

	if (!get_count(r, LOGPROBS_MAX, 24, &of->top_count))
		return false;
	of->top = top = memory_take(r, of->top_count * sizeof(*top));
	for (size_t i = 0; i < of->top_count; i++)
		if (!get_str(r, TEXT_MAX, &top[i].token) || !get_logprob(r, &top[i].logprob))
			return false;
	return true;
}

static bool get_logprobs(struct reader *r, int64_t most, const struct engine_logprob **ret, size_t *ret_count)
{
	struct engine_logprob *list;
	size_t count;

	if (!get_count(r, most, 32, &count))
		return false;
	list = memory_take(r, count * sizeof(*list));
	for (size_t i = 0; i < count; i++)
		if (!get_str(r, TEXT_MAX, &list[i].token) || !get_logprob(r, &list[i].logprob) ||
		    !get_tops(r, &list[i]))
			return false;
	*ret = count ? list : NULL;
	*ret_count = count;
	return true;
}

static bool get_texts(struct reader *r, int64_t most, const struct str **ret, size_t *ret_count)
{
	struct str *texts;
	size_t count;

	if (!get_count(r, most, 16, &count))
		return false;
	texts = memory_take(r, count * sizeof(*texts));
	for (size_t i = 0; i < count; i++)
		if (!get_str(r, TEXT_MAX, &texts[i]))
			return false;
	*ret = count ? texts : NULL;
	*ret_count = count;
	return true;
}

static bool get_array(struct reader *r, int64_t most, const void **ret, size_t *ret_count)
{
	const char *at;
	size_t count;

	if (!get_count(r, most, 4, &count) || !get_bytes(r, count * 4, &at))
		return false;
	*ret = count ? at : NULL;
	*ret_count = count;
	return true;
}

/* Behind an array stands the count that its struct has, which another array may share: it is that of each that is
 * there. */
static bool get_shared_count(struct reader *r, const struct field *f, size_t here, size_t *ret_count)
{
	int64_t count;

	if (!get_int(r, 0, f->most, &count))
		return false;
	if (here != (size_t)count && (here || !f->optional))
		return wrong(r, "its counts differ");
	*ret_count = (size_t)count;
	return true;
}

static bool get_error(struct reader *r, struct error *ret)
{
	struct str text;
	int64_t code;

	if (!get_int(r, E_LOOP, 0, &code) || !get_str(r, sizeof(ret->text) - 1, &text))
		return false;
	ret->code = (int)code;
	memcpy(ret->text, text.base, text.len);
	ret->text[text.len] = '\0';
	str_blank_controls(ret->text, text.len);
	return true;
}

static bool is_plain_array(struct str json)
{
	struct error err;
	yyjson_doc *doc;

	for (size_t i = 0; i < json.len; i++)
		if ((unsigned char)json.base[i] < ' ')
			return false;
	if (json_parse(json, &doc, &err))
		return false;
	bool good = yyjson_is_arr(yyjson_doc_get_root(doc));
	yyjson_doc_free(doc);
	return good;
}

static bool get_text(struct reader *r, const struct field *f, struct str *ret)
{
	if (!get_str(r, (size_t)f->most, ret))
		return false;
	if (f->type == FIELD_UTF8)
		ret->len = utf8_valid_prefix(*ret);
	if (f->type == FIELD_JSON && ret->len && !is_plain_array(*ret))
		return wrong(r, "tool calls are no JSON array");
	return true;
}

static bool get_real(struct reader *r, const struct field *f, char *ret)
{
	const char *at;
	double value;

	if (!get_bytes(r, sizeof(value), &at))
		return false;
	memcpy(&value, at, sizeof(value));
	if (f->least == 0 && (!isfinite(value) || value < 0)) /* an average of nothing */
		value = 0;
	memcpy(ret, &value, sizeof(value));
	return isfinite(value) || wrong(r, "a number is none");
}

static bool get_chars(struct reader *r, const struct field *f, char *ret)
{
	struct str text;

	if (!get_str(r, (size_t)f->most - 1, &text))
		return false;
	memcpy(ret, text.base, text.len);
	memset(ret + text.len, 0, (size_t)f->most - text.len);
	str_blank_controls(ret, text.len);
	if (utf8_valid_prefix(text) != text.len)
		return wrong(r, "a text is no UTF-8");
	return true;
}

static bool get_vectors(struct reader *r, const struct field *f, struct engine_event *e)
{
	size_t count;

	if (!get_array(r, f->most, (const void **)&e->vectors, &count))
		return false;
	if (e->vector_size > (size_t)f->most || e->vector_count > (size_t)f->most || vector_floats(e) != count)
		return wrong(r, "its vectors are not as many as it says");
	return true;
}

static bool get_number(struct reader *r, const struct field *f, char *at)
{
	int64_t value;
	uint64_t any;

	if (f->most == -1) { /* all 64 bits are good */
		if (!get_u64(r, &any))
			return false;
		memcpy(at, &any, 8);
		return true;
	}
	if (!get_int(r, f->least, f->most, &value))
		return false;
	if (f->type == FIELD_INT)
		*(int32_t *)at = (int32_t)value;
	else if (f->type == FIELD_BOOL)
		*(bool *)at = value;
	else
		memcpy(at, &value, 8);
	return true;
}

static bool get_list(struct reader *r, const struct field *f, char *thing)
{
	void *at = thing + f->at;
	size_t count = 0, *ret_count = (size_t *)(thing + f->count_at);

	if (f->type == FIELD_LOGPROBS)
		return get_logprobs(r, f->most, at, ret_count);
	bool good = f->type == FIELD_TEXTS ? get_texts(r, f->most, at, &count) : get_array(r, f->most, at, &count);
	return good && get_shared_count(r, f, count, ret_count);
}

static bool get_field(struct reader *r, const struct field *f, char *thing)
{
	char *at = thing + f->at;

	switch (f->type) {
	case FIELD_INT:
	case FIELD_LONG:
	case FIELD_ULONG:
	case FIELD_BOOL:
		return get_number(r, f, at);
	case FIELD_REAL:
		return get_real(r, f, at);
	case FIELD_CHARS:
		return get_chars(r, f, at);
	case FIELD_TEXT:
	case FIELD_UTF8:
	case FIELD_JSON:
		return get_text(r, f, (struct str *)at);
	case FIELD_VECTORS:
		return get_vectors(r, f, (struct engine_event *)thing);
	case FIELD_ERROR:
		return get_error(r, *(struct error **)at);
	default:
		return get_list(r, f, thing);
	}
}

static bool get_struct(struct reader *r, enum wire_struct which, void *thing)
{
	for (size_t i = 0; i < tables[which].count; i++)
		if (!get_field(r, &tables[which].fields[i], thing))
			return false;
	return true;
}

static struct reader reader_of(struct str body, struct wire_memory *memory)
{
	if (memory) {
		memory->used = 0;
		if (memory->cap < 3 * body.len + 64) {
			memory->cap = 3 * body.len + 64;
			free(memory->base);
			memory->base = mem_new(memory->cap);
		}
	}
	return (struct reader){body.base, body.base + body.len, memory, NULL};
}

static int reader_end(struct reader *r, const char *what, struct error *err)
{
	if (!r->wrong && r->at != r->end)
		wrong(r, "it is longer than it should be");
	return r->wrong ? error_set(err, E_CORRUPT, "%s cannot be read: %s", what, r->wrong) : 0;
}

int wire_take(struct str in, struct wire_head *ret_head, struct str *ret_body)
{
	if (in.len < sizeof(*ret_head))
		return 0;
	memcpy(ret_head, in.base, sizeof(*ret_head));
	if (ret_head->size > WIRE_FRAME_MAX || ret_head->size % 8)
		return E_CORRUPT;
	if (in.len - sizeof(*ret_head) < ret_head->size)
		return 0;
	*ret_body = (struct str){in.base + sizeof(*ret_head), ret_head->size};
	return 1;
}

int wire_get_options(struct str body, struct wire_memory *memory, struct engine_options *ret, struct error *err)
{
	struct reader r = reader_of(body, memory);

	*ret = (struct engine_options){0};
	get_struct(&r, WIRE_OF_OPTIONS, ret);
	return reader_end(&r, "the options of an engine", err);
}

int wire_get_params(struct str body, struct wire_memory *memory, struct engine_params *ret, struct error *err)
{
	struct reader r = reader_of(body, memory);

	*ret = (struct engine_params){0};
	get_struct(&r, WIRE_OF_PARAMS, ret);
	return reader_end(&r, "a request to an engine", err);
}

int wire_get_event(struct str body, struct wire_memory *memory, struct engine_event *ret, struct error *ret_err,
                   struct error *err)
{
	struct reader r = reader_of(body, memory);

	*ret = (struct engine_event){.err = ret_err};
	*ret_err = (struct error){0};
	if (get_struct(&r, WIRE_OF_EVENT, ret)) {
		if (ret->cached_tokens > ret->prompt_tokens)
			ret->cached_tokens = ret->prompt_tokens;
		if ((ret->kind == ENGINE_DONE && ret->finish == FINISH_ERROR) != (ret_err->code != 0))
			wrong(&r, "it fails without an error, or has one without failing");
	}
	if (!ret_err->code)
		ret->err = NULL;
	return reader_end(&r, "an event of an engine", err);
}

int wire_get_state(struct str body, struct wire_state *ret, struct error *err)
{
	struct reader r = reader_of(body, NULL);
	int64_t state = 0;

	*ret = (struct wire_state){0};
	if (get_int(&r, ENGINE_LOADING, ENGINE_FAILED, &state) && get_struct(&r, WIRE_OF_INFO, &ret->info))
		get_error(&r, &ret->err);
	ret->state = (enum engine_state)state;
	if (!r.wrong && (state == ENGINE_FAILED) != (ret->err.code != 0))
		wrong(&r, "it fails without an error, or has one without failing");
	return reader_end(&r, "the state of an engine", err);
}

int wire_get_load(struct str body, struct wire_load *ret, struct error *err)
{
	struct reader r = reader_of(body, NULL);

	*ret = (struct wire_load){0};
	if (get_struct(&r, WIRE_OF_LOAD, &ret->load))
		get_u64(&r, &ret->submits);
	return reader_end(&r, "the load of an engine", err);
}

void wire_cover(enum wire_struct which, uint8_t *bytes)
{
	for (size_t i = 0; i < tables[which].count; i++) {
		const struct field *f = &tables[which].fields[i];
		static const uint8_t sizes[] = {
		    [FIELD_INT] = 4,   [FIELD_LONG] = 8,  [FIELD_ULONG] = 8,    [FIELD_BOOL] = sizeof(bool),
		    [FIELD_REAL] = 8,  [FIELD_TEXT] = 16, [FIELD_UTF8] = 16,    [FIELD_JSON] = 16,
		    [FIELD_TEXTS] = 8, [FIELD_INTS] = 8,  [FIELD_FLOATS] = 8,   [FIELD_VECTORS] = 8,
		    [FIELD_ERROR] = 8, [FIELD_CHARS] = 0, [FIELD_LOGPROBS] = 8,
		};
		memset(bytes + f->at, 1, f->type == FIELD_CHARS ? (size_t)f->most : sizes[f->type]);
		if (f->count_at)
			memset(bytes + f->count_at, 1, sizeof(size_t));
	}
}
