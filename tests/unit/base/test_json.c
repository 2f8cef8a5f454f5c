/* SPDX-License-Identifier: Apache-2.0 */
/* JSON from strangers: refused in words that name the place or the key. */
#include "base/json.h"
#include "base/limits.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static yyjson_doc *parse(const char *text)
{
	struct error err = {0};
	yyjson_doc *doc = NULL;

	assert_int_equal(json_parse(str_from(text), &doc, &err), 0);
	return doc;
}

static void check_refused(struct str text, const char *words)
{
	struct error err = {0};
	yyjson_doc *doc = (yyjson_doc *)&err;

	assert_int_equal(json_parse(text, &doc, &err), E_INVAL);
	assert_ptr_equal(doc, &err); /* untouched */
	if (strstr(err.text, words) == NULL)
		fail_msg("\"%s\" does not say \"%s\"", err.text, words);
}

static void test_bad_json_names_line_and_column(void **state)
{
	check_refused(STR("{\n  \"a\": 1,\n  \"d\xc3\xa9\": tru\n}"), "line 3, column 9");
	check_refused(STR("{\"a\":1,}"), "line 1");
	check_refused(STR("// hi\n{}"), "line 1, column 1");
	check_refused(STR("{} x"), "line 1, column 4");
	check_refused(STR("[NaN]"), "line 1, column 2");
	check_refused(STR("\"\xff\""), "line 1, column 2");
	check_refused(STR("\"\xed\xa0\x80\""), "line 1");
	check_refused((struct str){"[1]\0", 4}, "line 1, column 4");
	check_refused((struct str){0}, "empty");
	check_refused(STR("  \n "), "");
}

static void test_depth_is_bounded_exactly(void **state)
{
	char text[2 * (LIMIT_JSON_DEPTH + 1) + 1];
	yyjson_doc *doc;

	for (size_t depth = LIMIT_JSON_DEPTH; depth <= LIMIT_JSON_DEPTH + 1; depth++) {
		memset(text, '[', depth);
		memset(text + depth, ']', depth);
		if (depth > LIMIT_JSON_DEPTH) {
			check_refused((struct str){text, 2 * depth}, "deeper than 64");
			continue;
		}
		assert_int_equal(json_parse((struct str){text, 2 * depth}, &doc, NULL), 0);
		yyjson_doc_free(doc);
	}
	/* siblings do not add up */
	doc = parse("[[[1],[2]],[[3],{\"a\":[4]}],5,[],{}]");
	yyjson_doc_free(doc);
}

static void test_memory_is_bounded_by_the_text(void **state)
{
	static char text[1 << 20];
	struct error err = {0};
	yyjson_doc *doc;

	memset(text, '[', sizeof(text));
	assert_int_equal(json_parse((struct str){text, sizeof(text)}, &doc, &err), E_LIMIT);
	assert_string_equal(err.text, "JSON has too many values for its 1048576 bytes");
	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = "123,"[i % 4];
	text[0] = '[';
	text[sizeof(text) - 1] = ']';
	assert_int_equal(json_parse((struct str){text, sizeof(text)}, &doc, &err), 0);
	assert_int_equal(yyjson_arr_size(yyjson_doc_get_root(doc)), sizeof(text) / 4);
	yyjson_doc_free(doc);
	memset(text, 'a', sizeof(text));
	text[0] = text[sizeof(text) - 1] = '"';
	assert_int_equal(json_parse((struct str){text, sizeof(text)}, &doc, &err), 0);
	yyjson_doc_free(doc);
}

static void test_absent_and_null_leave_defaults(void **state)
{
	yyjson_doc *doc = parse("{\"n\":null}");
	yyjson_val *root = yyjson_doc_get_root(doc), *obj = root;
	struct str s = STR("default");
	int64_t i = 7;
	double d = 0.5;
	bool b = true;

	assert_int_equal(json_str(root, "n", &s, NULL), 0);
	assert_int_equal(json_str(root, "absent", &s, NULL), 0);
	assert_int_equal(json_i64(root, "n", 0, 9, &i, NULL), 0);
	assert_int_equal(json_num(root, "n", 0, 1, &d, NULL), 0);
	assert_int_equal(json_bool(root, "n", &b, NULL), 0);
	assert_int_equal(json_obj(root, "n", &obj, NULL), 0);
	assert_int_equal(json_arr(root, "n", &obj, NULL), 0);
	assert_true(str_equal(s, STR("default")) && i == 7 && d == 0.5 && b && obj == root);
	yyjson_doc_free(doc);
}

static void test_wrong_type_names_key_and_both_types(void **state)
{
	yyjson_doc *doc = parse("{\"s\":\"x\",\"i\":3.5,\"big\":18446744073709551615,\"whole\":3.0,\"a\":[]}");
	yyjson_val *root = yyjson_doc_get_root(doc), *val;
	struct error err = {0};
	struct str s;
	int64_t i = 7;
	double d;

	assert_int_equal(json_str(root, "a", &s, &err), E_INVAL);
	assert_string_equal(err.text, "\"a\" must be a string, not an array");
	assert_int_equal(json_obj(root, "s", &val, &err), E_INVAL);
	assert_string_equal(err.text, "\"s\" must be an object, not a string");
	assert_int_equal(json_arr(root, "s", &val, &err), E_INVAL);
	assert_int_equal(json_num(root, "i", 0, 2, &d, &err), E_INVAL);
	assert_string_equal(err.text, "\"i\" must be a number from 0 to 2");
	assert_int_equal(json_i64(root, "i", 0, 10, &i, &err), E_INVAL);
	assert_string_equal(err.text, "\"i\" must be a whole number from 0 to 10");
	assert_int_equal(json_i64(root, "big", INT64_MIN, INT64_MAX, &i, &err), E_INVAL);
	assert_int_equal(i, 7);
	assert_int_equal(json_i64(root, "whole", 0, 10, &i, &err), 0);
	assert_int_equal(i, 3);
	yyjson_val *array;
	assert_int_equal(json_arr(root, "a", &array, &err), 0);
	assert_int_equal(json_str(array, "k", &s, &err), E_INVAL);
	assert_string_equal(err.text, "expected an object with key \"k\", got an array");
	yyjson_doc_free(doc);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_bad_json_names_line_and_column),
	    cmocka_unit_test(test_depth_is_bounded_exactly),
	    cmocka_unit_test(test_memory_is_bounded_by_the_text),
	    cmocka_unit_test(test_absent_and_null_leave_defaults),
	    cmocka_unit_test(test_wrong_type_names_key_and_both_types),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
