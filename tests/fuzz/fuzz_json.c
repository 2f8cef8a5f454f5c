/* SPDX-License-Identifier: Apache-2.0 */
/* JSON from strangers, and our own strings: what we write must be read back, mended at most. */
#include "base/json.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_getters(yyjson_val *obj)
{
	static const char *const names[] = {"a", "model", "messages"};
	struct error err = {0};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct str s = STR("");
		int64_t n = 5;
		double d = 0.5;
		bool b = false;
		yyjson_val *val = NULL;
		json_str(obj, names[i], &s, &err);
		json_bool(obj, names[i], &b, &err);
		json_obj(obj, names[i], &val, &err);
		json_arr(obj, names[i], &val, &err);
		json_i64(obj, names[i], 0, 10, &n, &err);
		json_num(obj, names[i], 0, 1, &d, &err);
		if (n < 0 || n > 10 || !(d >= 0 && d <= 1))
			abort();
	}
}

static void check_string(struct str text)
{
	struct buf b = {0};
	yyjson_doc *doc = NULL;

	buf_append_json(&b, text);
	if (json_parse(buf_str(&b), &doc, NULL) != 0)
		abort();
	yyjson_val *root = yyjson_doc_get_root(doc);
	struct str back = {yyjson_get_str(root), yyjson_get_len(root)};
	if (utf8_valid_prefix(text) == text.len && !str_equal(text, back))
		abort();
	if (utf8_valid_prefix(text) > utf8_complete_prefix(text) || text.len - utf8_complete_prefix(text) > 3)
		abort();
	yyjson_doc_free(doc);
	buf_fini(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str text = {(const char *)data, size};
	struct error err = {0};
	yyjson_doc *doc = NULL;

	check_string(text);
	if (json_parse(text, &doc, &err) != 0) {
		if (doc != NULL || err.text[0] == '\0')
			abort();
		return 0;
	}
	check_getters(yyjson_doc_get_root(doc));
	yyjson_doc_free(doc);
	return 0;
}
