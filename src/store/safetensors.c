/* SPDX-License-Identifier: Apache-2.0 */
/* The header is read whole (its length is checked first), parsed as JSON, and turned into a table sorted by offset;
 * then one pass over the table finds holes, overlaps and what is missing at the end. Names that come twice are found by
 * sorting as well, since two readers could otherwise see two different models. It accepts what the reference reader
 * accepts, or less.
 */
#include "store/safetensors.h"

#include "base/json.h"
#include "base/limits.h"

#include <stdlib.h>

/* Bits, not bytes: the narrow floats are packed. */
static const struct dtype {
	const char *name;
	uint32_t bits;
} dtypes[] = {
    {"BOOL", 8},    {"F4", 4},          {"F6_E2M3", 6},     {"F6_E3M2", 6}, {"U8", 8},   {"I8", 8},
    {"F8_E5M2", 8}, {"F8_E4M3", 8},     {"F8_E8M0", 8},     {"I16", 16},    {"U16", 16}, {"F16", 16},
    {"BF16", 16},   {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I32", 32},    {"U32", 32}, {"F32", 32},
    {"C64", 64},    {"F64", 64},        {"I64", 64},        {"U64", 64},
};

#define SHOWN_MAX 128

static int fault(struct error *err, struct str name, const char *why)
{
	size_t len = utf8_valid_prefix((struct str){name.base, name.len < SHOWN_MAX ? name.len : SHOWN_MAX});
	char shown[SHOWN_MAX + 1];
	for (size_t i = 0; i < len; i++)
		shown[i] = (unsigned char)name.base[i] < 0x20 || name.base[i] == 0x7f ? '?' : name.base[i];
	shown[len] = 0;
	return error_set(err, E_INVAL, "not a usable safetensors file: tensor \"%s\" %s", shown, why);
}

bool safetensors_begins(struct str start, uint64_t file_size, uint64_t *ret_header_end)
{
	uint64_t len = 0;
	if (start.len < 9 || start.base[8] != '{')
		return false;
	for (size_t i = 8; i-- > 0;)
		len = len << 8 | (uint8_t)start.base[i];
	if (len < 2 || len > LIMIT_SAFETENSORS_HEADER || file_size < 8 || len > file_size - 8)
		return false;
	*ret_header_end = 8 + len;
	return true;
}

/* ---- one tensor ------------------------------------------------------------------------------- */

/* Natural numbers only: not 1.0, not -0. */
static bool natural(yyjson_val *val, uint64_t *ret)
{
	if (!yyjson_is_uint(val) || yyjson_get_uint(val) > INT64_MAX)
		return false;
	*ret = yyjson_get_uint(val);
	return true;
}

static int take_shape(struct safetensors_tensor *t, yyjson_val *shape, struct error *err)
{
	size_t i, n;
	yyjson_val *val;
	if (!yyjson_is_arr(shape) || yyjson_arr_size(shape) > SAFETENSORS_DIMS_MAX)
		return fault(err, t->name, "must have a shape of at most 16 dimensions");
	t->elements = 1;
	yyjson_arr_foreach(shape, i, n, val)
	{
		uint64_t d;
		if (!natural(val, &d) || __builtin_mul_overflow(t->elements, d, &t->elements) ||
		    t->elements > INT64_MAX)
			return fault(err, t->name, "has a shape that no file can hold");
		t->shape[t->dims++] = d;
	}
	return 0;
}

static int take_dtype(struct safetensors_tensor *t, yyjson_val *dtype, uint32_t *ret_bits, struct error *err)
{
	for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
		if (!yyjson_equals_str(dtype, dtypes[i].name))
			continue;
		t->dtype = dtypes[i].name;
		*ret_bits = dtypes[i].bits;
		return 0;
	}
	return fault(err, t->name, "has a dtype that is unknown here; a newer MDN may know it");
}

static int take_tensor(struct safetensors_tensor *t, yyjson_val *o, struct error *err)
{
	uint32_t bits = 0;
	uint64_t bits_all;
	if (!yyjson_is_obj(o) || yyjson_obj_size(o) != 3)
		return fault(err, t->name, "must have dtype, shape and data_offsets and nothing else");
	int rc = take_dtype(t, yyjson_obj_get(o, "dtype"), &bits, err);
	if (!rc)
		rc = take_shape(t, yyjson_obj_get(o, "shape"), err);
	if (rc)
		return rc;
	yyjson_val *offsets = yyjson_obj_get(o, "data_offsets");
	if (!yyjson_is_arr(offsets) || yyjson_arr_size(offsets) != 2 ||
	    !natural(yyjson_arr_get(offsets, 0), &t->from) || !natural(yyjson_arr_get(offsets, 1), &t->to) ||
	    t->to < t->from)
		return fault(err, t->name, "must have data_offsets [from, to]");
	if (__builtin_mul_overflow(t->elements, (uint64_t)bits, &bits_all) || bits_all % 8 ||
	    bits_all / 8 != t->to - t->from)
		return fault(err, t->name, "does not have the bytes its shape says");
	return 0;
}

/* ---- the table -------------------------------------------------------------------------------- */

static int by_place(const void *a, const void *b)
{
	const struct safetensors_tensor *x = a, *y = b;
	if (x->from != y->from)
		return x->from < y->from ? -1 : 1;
	return (x->to > y->to) - (x->to < y->to);
}

static int by_text(const void *a, const void *b)
{
	const struct str *x = a, *y = b;
	int order = memcmp(x->base, y->base, x->len < y->len ? x->len : y->len);
	return order ? order : (x->len > y->len) - (x->len < y->len);
}

static int names_differ(const struct safetensors *st, struct error *err)
{
	int rc = 0;
	struct str *names = mem_new((st->count + 1u) * sizeof *names);
	for (uint32_t i = 0; i < st->count; i++)
		names[i] = st->tensors[i].name;
	qsort(names, st->count, sizeof *names, by_text);
	for (uint32_t i = 1; i < st->count && !rc; i++)
		if (!by_text(&names[i - 1], &names[i]))
			rc = fault(err, names[i], "comes twice");
	free(names);
	return rc;
}

static int no_holes(const struct safetensors *st, uint64_t data_bytes, struct error *err)
{
	uint64_t at = 0;
	for (uint32_t i = 0; i < st->count; i++) {
		const struct safetensors_tensor *t = &st->tensors[i];
		if (t->from != at)
			return fault(err, t->name, "does not begin where the one before ends");
		at = t->to;
	}
	if (at != data_bytes)
		return error_set(err, E_INVAL,
		                 "not a usable safetensors file: its tensors need %llu bytes but %llu follow the "
		                 "header; it is cut short or has something behind",
		                 (unsigned long long)at, (unsigned long long)data_bytes);
	return 0;
}

static int take_metadata(yyjson_val *o, struct error *err)
{
	size_t i, n;
	yyjson_val *key, *val;
	if (!yyjson_is_obj(o))
		return fault(err, STR("__metadata__"), "must be an object of texts");
	yyjson_obj_foreach(o, i, n, key, val)
	{
		if (!yyjson_is_str(val))
			return fault(err, STR("__metadata__"), "must be an object of texts");
	}
	return 0;
}

static int take_all(struct safetensors *st, yyjson_val *root, uint64_t data_bytes, struct error *err)
{
	size_t i, n;
	int metadata = 0;
	yyjson_val *key, *val;
	if (!yyjson_is_obj(root))
		return error_set(err, E_INVAL, "not a usable safetensors file: its header is not an object");
	if (yyjson_obj_size(root) > LIMIT_GGUF_TENSORS)
		return error_set(err, E_LIMIT, "a safetensors file of %zu tensors, at most %d are allowed",
		                 yyjson_obj_size(root), LIMIT_GGUF_TENSORS);
	st->tensors = mem_new((yyjson_obj_size(root) + 1) * sizeof *st->tensors);
	yyjson_obj_foreach(root, i, n, key, val)
	{
		struct safetensors_tensor *t = &st->tensors[st->count];
		int rc;
		*t = (struct safetensors_tensor){.name = {yyjson_get_str(key), yyjson_get_len(key)}};
		if (str_equal(t->name, STR("__metadata__")))
			rc = metadata++ ? fault(err, t->name, "comes twice") : take_metadata(val, err);
		else if (!(rc = take_tensor(t, val, err)))
			st->count++;
		if (!rc && __builtin_add_overflow(st->parameters, t->elements, &st->parameters))
			rc = fault(err, t->name, "has more elements than can be counted");
		if (rc)
			return rc;
	}
	qsort(st->tensors, st->count, sizeof *st->tensors, by_place);
	int rc = names_differ(st, err);
	return rc ? rc : no_holes(st, data_bytes, err);
}

/* ---- the whole -------------------------------------------------------------------------------- */

static int parse_header(struct safetensors *st, struct str text, uint64_t file_size, struct error *err)
{
	yyjson_doc *doc;
	int rc = json_parse(text, &doc, err);
	if (rc)
		return error_prefix(err, "the header of a safetensors file");
	st->doc = doc;
	return take_all(st, yyjson_doc_get_root(doc), file_size - st->data_offset, err);
}

int safetensors_parse(safetensors_read *read, void *arg, uint64_t file_size, struct safetensors *ret_st,
                      struct error *err)
{
	char start[9];
	struct safetensors st = {0};
	int rc = file_size < sizeof start ? 0 : read(arg, 0, start, sizeof start, err);
	if (rc)
		return rc;
	if (file_size < sizeof start ||
	    !safetensors_begins((struct str){start, sizeof start}, file_size, &st.data_offset))
		return error_set(err, E_INVAL,
		                 "not a usable safetensors file: it must begin with its header's length (at most %d "
		                 "bytes, inside the file) and \"{\"",
		                 LIMIT_SAFETENSORS_HEADER);
	size_t len = (size_t)st.data_offset - 8;
	char *text = malloc(len); /* a size that a file chose, within the limit */
	if (!text)
		return error_set(err, E_LIMIT, "there is no memory for a safetensors header of %zu bytes", len);
	rc = read(arg, 8, text, len, err);
	if (!rc)
		rc = parse_header(&st, (struct str){text, len}, file_size, err);
	free(text);
	if (rc) {
		safetensors_fini(&st);
		return rc;
	}
	*ret_st = st;
	return 0;
}

static int read_bytes(void *arg, uint64_t offset, void *out, size_t len, struct error *err)
{
	const struct str *bytes = arg;
	memcpy(out, bytes->base + offset, len); /* the parser stays below the size it was given */
	return 0;
}

int safetensors_parse_bytes(struct str bytes, struct safetensors *ret_st, struct error *err)
{
	return safetensors_parse(read_bytes, &bytes, bytes.len, ret_st, err);
}

void safetensors_fini(struct safetensors *st)
{
	if (!st)
		return;
	free(st->tensors);
	yyjson_doc_free(st->doc);
	*st = (struct safetensors){0};
}
