/* SPDX-License-Identifier: Apache-2.0 */
/* How: scalars come from a table (key, kind, range, place), the rest has a function each. Words are formatted only when
 * there is blame. */
#include "serve/gateway/fields.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

int refuse(struct fault *f, const char *param, const char *format, ...)
{
	char text[sizeof(f->err.text)];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	snprintf(f->param, sizeof(f->param), "%s", param);
	return error_set(&f->err, E_INVAL, "%s", text);
}

int refuse_at(struct fault *f, const char *words, const char *param, ...)
{
	va_list args;

	va_start(args, param);
	vsnprintf(f->param, sizeof(f->param), param, args);
	va_end(args);
	return error_set(&f->err, E_INVAL, "%s", words);
}

int blame(struct fault *f, const char *param)
{
	snprintf(f->param, sizeof(f->param), "%s", param);
	return f->err.code;
}

void append_val(yyjson_val *v, struct buf *out)
{
	size_t len = 0;
	char *text = yyjson_val_write(v, 0, &len);

	if (text)
		buf_append(out, text, len);
	free(text);
}

/* ---- scalars ------------------------------------------------------------------------------------ */

static int scalar_str(yyjson_val *obj, const struct scalar *s, struct str *at, struct fault *f)
{
	if (json_str(obj, s->key, at, &f->err) < 0)
		return f->err.code;
	if ((double)at->len > s->most || (at->len && memchr(at->base, '\0', at->len)))
		return error_set(&f->err, E_INVAL, "\"%s\" is longer than %.0f bytes, or holds a NUL", s->key, s->most);
	return 0;
}

static int scalar_i32(yyjson_val *obj, const struct scalar *s, int32_t *at, struct fault *f)
{
	int64_t whole = *at;
	int rc = json_i64(obj, s->key, (int64_t)s->least, (int64_t)s->most, &whole, &f->err);

	if (rc == 0)
		*at = (int32_t)whole;
	return rc;
}

int fields_scalars(yyjson_val *obj, const struct scalar *scalars, size_t count, struct api_request *r, struct fault *f)
{
	for (size_t i = 0; i < count; i++) {
		const struct scalar *s = &scalars[i];
		void *at = (char *)r + s->place;
		int rc = 0;

		switch (s->kind) {
		case SCALAR_NUM:
			rc = json_num(obj, s->key, s->least, s->most, at, &f->err);
			break;
		case SCALAR_BOOL:
			rc = json_bool(obj, s->key, at, &f->err);
			break;
		case SCALAR_I32:
			rc = scalar_i32(obj, s, at, f);
			break;
		case SCALAR_STR:
			rc = scalar_str(obj, s, at, f);
			break;
		}
		if (rc < 0)
			return blame(f, s->key);
	}
	if (r->sampling.top_k < 0)
		r->sampling.top_k = 0;
	return 0;
}

int fields_model(yyjson_val *root, struct api_request *r, struct fault *f)
{
	if (json_str(root, "model", &r->model, &f->err) < 0)
		return blame(f, "model");
	if (r->model.len == 0)
		return refuse(f, "model", "\"model\" is missing; GET /v1/models lists the names");
	if (r->model.len > LIMIT_NAME || memchr(r->model.base, '\0', r->model.len))
		return refuse(f, "model", "\"model\" is longer than %d bytes, or holds a NUL", LIMIT_NAME);
	return 0;
}

int fields_seed(yyjson_val *obj, struct api_request *r, struct fault *f)
{
	int64_t seed = 0;

	if (!present(yyjson_obj_get(obj, "seed")))
		return 0;
	if (json_i64(obj, "seed", INT64_MIN, INT64_MAX, &seed, &f->err) < 0)
		return blame(f, "seed");
	r->sampling.seed = (uint64_t)seed;
	r->sampling.has_seed = true;
	return 0;
}

int fields_stops(yyjson_val *obj, const char *key, struct api_request *r, struct fault *f)
{
	yyjson_val *stop = yyjson_obj_get(obj, key), *each = stop;
	size_t count = yyjson_is_arr(stop) ? yyjson_arr_size(stop) : 1;

	if (!present(stop))
		return 0;
	if (!yyjson_is_str(stop) && !yyjson_is_arr(stop))
		return refuse(f, key, "\"%s\" must be a string or an array of strings", key);
	if (count > LIMIT_STOPS)
		return refuse(f, key, "\"%s\" has %zu sequences; at most %d are allowed", key, count, LIMIT_STOPS);
	if (yyjson_is_arr(stop))
		each = yyjson_arr_get_first(stop);
	for (size_t i = 0; i < count; i++, each = unsafe_yyjson_get_next(each)) {
		if (!yyjson_is_str(each) || yyjson_get_len(each) == 0)
			return refuse(f, key, "\"%s\" must hold strings that are not empty", key);
		if (yyjson_get_len(each) > LIMIT_STOP_LENGTH)
			return refuse(f, key, "a stop sequence is longer than %d bytes", LIMIT_STOP_LENGTH);
		r->stops[r->stop_count++] = val_str(each);
	}
	return 0;
}

/* ---- urgency ------------------------------------------------------------------------------------- */

enum { PRIORITY_MOST = 999 };
static const struct class_line {
	const char *name;
	enum engine_class value;
} classes[] = {
    {"interactive", ENGINE_INTERACTIVE}, {"default", ENGINE_DEFAULT}, {"bulk", ENGINE_BULK}, {"system", ENGINE_SYSTEM}};

const char *class_name(enum engine_class c)
{
	for (size_t i = 0; i < sizeof(classes) / sizeof(classes[0]); i++)
		if (classes[i].value == c)
			return classes[i].name;
	return "default";
}

bool class_parse(struct str text, enum engine_class *ret_class, int32_t *ret_priority)
{
	int64_t number;

	for (size_t i = 0; i < sizeof(classes) / sizeof(classes[0]); i++) {
		if (str_equal_nocase(text, str_from(classes[i].name))) {
			*ret_class = classes[i].value;
			*ret_priority = 0;
			return true;
		}
	}
	if (str_to_i64(text, &number) < 0)
		return false;
	*ret_class = number < 0 ? ENGINE_INTERACTIVE : number > 0 ? ENGINE_BULK : ENGINE_DEFAULT;
	*ret_priority = number < -PRIORITY_MOST  ? -PRIORITY_MOST
	                : number > PRIORITY_MOST ? PRIORITY_MOST
	                                         : (int32_t)number;
	return true;
}

static const char *tier_class(yyjson_val *tier)
{
	return str_is(tier, "flex") ? "bulk" : str_is(tier, "priority") ? "interactive" : NULL;
}

int fields_priority(yyjson_val *root, struct api_request *r, struct fault *f)
{
	yyjson_val *priority = yyjson_obj_get(root, "priority");
	const char *tier = tier_class(yyjson_obj_get(root, "service_tier"));
	struct str text = tier ? str_from(tier) : STR("");
	char number[24];

	if (yyjson_is_str(priority)) {
		text = val_str(priority);
	} else if (yyjson_is_int(priority)) {
		snprintf(number, sizeof(number), "%lld", (long long)yyjson_get_sint(priority));
		text = str_from(number);
	} else if (present(priority)) {
		return refuse(f, "priority",
		              "\"priority\" must be \"interactive\", \"default\", \"bulk\" or a whole number");
	}
	if (text.len == 0)
		return 0;
	if (!class_parse(text, &r->service_class, &r->priority))
		return refuse(f, "priority",
		              "\"priority\" must be \"interactive\", \"default\", \"bulk\" or a whole number");
	if (r->service_class == ENGINE_SYSTEM)
		return refuse(f, "priority",
		              "the priority \"system\" is the network's own; the highest here is \"interactive\"");
	r->has_class = true;
	return 0;
}

/* ---- tools ---------------------------------------------------------------------------------------- */

int fields_tools(yyjson_val *tools, struct str only, tool_check *check, tool_write *write, struct api_request *r,
                 struct fault *f)
{
	yyjson_val *tool;
	yyjson_arr_iter it;

	if (yyjson_arr_size(tools) > LIMIT_TOOLS)
		return refuse(f, "tools", "\"tools\" has %zu entries; at most %d are allowed", yyjson_arr_size(tools),
		              LIMIT_TOOLS);
	yyjson_arr_iter_init(tools, &it);
	for (size_t i = 0; (tool = yyjson_arr_iter_next(&it)) != NULL; i++) {
		if (check(tool, i, f) < 0)
			return f->err.code;
		if (write && (only.len == 0 || str_equal(val_str(yyjson_obj_get(tool, "name")), only)))
			write(tool, &r->tools_text);
	}
	if (r->tools_text.len)
		buf_append_str(&r->tools_text, STR("]"));
	return 0;
}

yyjson_val *tool_by_name(yyjson_val *tools, struct str name)
{
	yyjson_val *tool;
	yyjson_arr_iter it;

	yyjson_arr_iter_init(tools, &it);
	while ((tool = yyjson_arr_iter_next(&it)) != NULL)
		if (str_equal(val_str(yyjson_obj_get(yyjson_obj_get(tool, "function"), "name")), name))
			return tool;
	return NULL;
}
