/* SPDX-License-Identifier: Apache-2.0 */
/* How: yyjson gets its memory from a budget in proportion to the text, since a text of nothing but brackets would
 * otherwise become sixteen times its size. It reads strictly (RFC 8259, no comments, no trailing commas) and checks
 * UTF-8; it does not recurse, and lays all values out one after the other, so that the depth is checked in one pass
 * over them afterwards. Numbers may be written as 3.0 where an integer is wanted, because clients do that; 3.5 may not.
 */
#include "base/json.h"

#include "base/limits.h"

#include <stdlib.h>

/* Room for values of 16 bytes each: enough for an array of three-digit numbers. */
#define MEMORY_FACTOR 8
#define MEMORY_SPARE (1 << 20)

static void *budget_alloc(void *ctx, size_t size)
{
	size_t *left = ctx;

	if (size > *left)
		return NULL;
	*left -= size;
	return malloc(size);
}

static void *budget_resize(void *ctx, void *p, size_t old_size, size_t size)
{
	size_t *left = ctx;

	if (size > old_size && size - old_size > *left)
		return NULL;
	*left += old_size;
	*left -= size;
	return realloc(p, size);
}

/* Also called when the document is freed, and the budget is gone. */
static void budget_free(void *ctx, void *p)
{
	free(p);
}

static bool depth_is_fine(yyjson_doc *doc)
{
	yyjson_val *ends[LIMIT_JSON_DEPTH], *val = yyjson_doc_get_root(doc);
	yyjson_val *end = unsafe_yyjson_get_next(val);
	size_t depth = 0;

	for (; val < end; val++) {
		while (depth > 0 && val >= ends[depth - 1])
			depth--;
		if (!unsafe_yyjson_is_ctn(val))
			continue;
		if (depth == LIMIT_JSON_DEPTH)
			return false;
		ends[depth++] = unsafe_yyjson_get_next(val);
	}
	return true;
}

static void locate(struct str text, size_t pos, size_t *ret_line, size_t *ret_column)
{
	*ret_line = *ret_column = 1;
	for (size_t i = 0; i < pos && i < text.len; i++) {
		if (text.base[i] == '\n') {
			*ret_line += 1;
			*ret_column = 1;
		} else if (((unsigned char)text.base[i] & 0xc0) != 0x80) { /* columns count characters */
			*ret_column += 1;
		}
	}
}

int json_parse(struct str text, yyjson_doc **ret_doc, struct error *err)
{
	yyjson_read_err failure = {0};
	size_t left = text.len * MEMORY_FACTOR + MEMORY_SPARE;
	const yyjson_alc memory = {budget_alloc, budget_resize, budget_free, &left};
	size_t line, column;

	if (text.len > SIZE_MAX / 16)
		return error_set(err, E_LIMIT, "JSON of %zu bytes", text.len);
	if (text.len == 0)
		return error_set(err, E_INVAL, "JSON is missing: the text is empty");
	/* Without YYJSON_READ_INSITU the text is only read. */
	yyjson_doc *doc = yyjson_read_opts((char *)(uintptr_t)text.base, text.len, 0, &memory, &failure);
	if (doc == NULL && failure.code == YYJSON_READ_ERROR_MEMORY_ALLOCATION)
		return error_set(err, E_LIMIT, "JSON has too many values for its %zu bytes", text.len);
	if (doc == NULL) {
		locate(text, failure.pos, &line, &column);
		return error_set(err, E_INVAL, "not valid JSON at line %zu, column %zu: %s", line, column, failure.msg);
	}
	if (!depth_is_fine(doc)) {
		yyjson_doc_free(doc);
		return error_set(err, E_INVAL, "JSON is nested deeper than %d levels", LIMIT_JSON_DEPTH);
	}
	*ret_doc = doc;
	return 0;
}

static const char *type_words(yyjson_val *val)
{
	switch (yyjson_get_type(val)) {
	case YYJSON_TYPE_BOOL:
		return "a boolean";
	case YYJSON_TYPE_NUM:
		return "a number";
	case YYJSON_TYPE_STR:
		return "a string";
	case YYJSON_TYPE_ARR:
		return "an array";
	case YYJSON_TYPE_OBJ:
		return "an object";
	default:
		return "null";
	}
}

/* NULL and 0: absent. NULL and E_INVAL: `obj` is no object. */
static yyjson_val *member(yyjson_val *obj, const char *key, int *ret_code, struct error *err)
{
	*ret_code = 0;
	if (!yyjson_is_obj(obj)) {
		*ret_code = error_set(err, E_INVAL, "expected an object with key \"%s\", got %s", key, type_words(obj));
		return NULL;
	}
	yyjson_val *val = yyjson_obj_get(obj, key);
	return yyjson_is_null(val) ? NULL : val;
}

static int wrong_type(struct error *err, const char *key, const char *wanted, yyjson_val *val)
{
	return error_set(err, E_INVAL, "\"%s\" must be %s, not %s", key, wanted, type_words(val));
}

int json_str(yyjson_val *obj, const char *key, struct str *ret, struct error *err)
{
	int rc;
	yyjson_val *val = member(obj, key, &rc, err);

	if (val == NULL)
		return rc;
	if (!yyjson_is_str(val))
		return wrong_type(err, key, "a string", val);
	*ret = (struct str){yyjson_get_str(val), yyjson_get_len(val)};
	return 0;
}

int json_bool(yyjson_val *obj, const char *key, bool *ret, struct error *err)
{
	int rc;
	yyjson_val *val = member(obj, key, &rc, err);

	if (val == NULL)
		return rc;
	if (!yyjson_is_bool(val))
		return wrong_type(err, key, "true or false", val);
	*ret = yyjson_get_bool(val);
	return 0;
}

/* False: not a whole number, or past int64_t. */
static bool whole_number(yyjson_val *val, int64_t *ret)
{
	double real = yyjson_get_num(val);

	if (yyjson_is_sint(val)) {
		*ret = yyjson_get_sint(val);
		return true;
	}
	if (yyjson_is_uint(val)) {
		*ret = (int64_t)yyjson_get_uint(val);
		return yyjson_get_uint(val) <= INT64_MAX;
	}
	if (!(real >= -9223372036854775808.0 && real < 9223372036854775808.0))
		return false;
	*ret = (int64_t)real;
	return (double)*ret == real;
}

int json_i64(yyjson_val *obj, const char *key, int64_t least, int64_t most, int64_t *ret, struct error *err)
{
	int rc;
	yyjson_val *val = member(obj, key, &rc, err);
	int64_t value;

	if (val == NULL)
		return rc;
	if (!yyjson_is_num(val))
		return wrong_type(err, key, "a whole number", val);
	if (!whole_number(val, &value) || value < least || value > most)
		return error_set(err, E_INVAL, "\"%s\" must be a whole number from %lld to %lld", key, (long long)least,
		                 (long long)most);
	*ret = value;
	return 0;
}

int json_num(yyjson_val *obj, const char *key, double least, double most, double *ret, struct error *err)
{
	int rc;
	yyjson_val *val = member(obj, key, &rc, err);

	if (val == NULL)
		return rc;
	if (!yyjson_is_num(val))
		return wrong_type(err, key, "a number", val);
	double value = yyjson_get_num(val);
	if (!(value >= least && value <= most))
		return error_set(err, E_INVAL, "\"%s\" must be a number from %g to %g", key, least, most);
	*ret = value;
	return 0;
}

int json_obj(yyjson_val *obj, const char *key, yyjson_val **ret, struct error *err)
{
	int rc;
	yyjson_val *val = member(obj, key, &rc, err);

	if (val == NULL)
		return rc;
	if (!yyjson_is_obj(val))
		return wrong_type(err, key, "an object", val);
	*ret = val;
	return 0;
}

int json_arr(yyjson_val *obj, const char *key, yyjson_val **ret, struct error *err)
{
	int rc;
	yyjson_val *val = member(obj, key, &rc, err);

	if (val == NULL)
		return rc;
	if (!yyjson_is_arr(val))
		return wrong_type(err, key, "an array", val);
	*ret = val;
	return 0;
}
