/* SPDX-License-Identifier: Apache-2.0 */
/* Strings and buffers: the borders, where bugs live. */
#include "base/error.h"
#include "base/rng.h"
#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static void assert_str(struct str s, const char *want)
{
	assert_int_equal(s.len, strlen(want));
	assert_memory_equal(s.len > 0 ? s.base : "", want, s.len);
}

static void test_str_compares_bytes_and_survives_nothing(void **state)
{
	struct str none = {0}, rest;

	assert_true(str_equal(none, STR("")));
	assert_true(str_equal_nocase(STR("Content-Type"), STR("content-tYPE")));
	assert_false(str_equal_nocase(STR("a\x80"), STR("A\xa0")));
	assert_true(str_starts(STR("abc"), STR("ab")) && str_starts(none, none) && !str_starts(STR("a"), STR("ab")));
	assert_true(str_ends(STR("abc"), STR("bc")) && str_ends(none, none) && !str_ends(STR("c"), STR("bc")));
	assert_str(str_trim(STR(" \t a b\t ")), "a b");
	assert_str(str_trim(STR("  ")), "");
	assert_str(str_cut(STR("a=b=c"), '=', &rest), "a");
	assert_str(rest, "b=c");
	assert_str(str_cut(STR("abc"), '=', &rest), "abc");
	assert_str(rest, "");
	assert_str(str_cut(none, '=', &rest), "");
}

static void test_str_copy_never_cuts_silently(void **state)
{
	char to[4] = "xyz";

	assert_true(str_copy(STR("abc"), to, sizeof(to)));
	assert_string_equal(to, "abc");
	assert_false(str_copy(STR("abcd"), to, sizeof(to)));
	assert_string_equal(to, "");
}

static void test_numbers_refuse_signs_spaces_and_overflow(void **state)
{
	static const char *const bad[] = {"", " 1", "1 ", "+1", "-", "0x1", "1e3", "18446744073709551616", "-1"};
	uint64_t u = 7;
	int64_t i = 7;

	for (size_t n = 0; n < sizeof(bad) / sizeof(bad[0]); n++)
		assert_int_equal(str_to_u64(str_from(bad[n]), &u), E_INVAL);
	assert_int_equal(u, 7);
	assert_int_equal(str_to_u64(STR("18446744073709551615"), &u), 0);
	assert_true(u == UINT64_MAX);
	assert_int_equal(str_to_i64(STR("-9223372036854775808"), &i), 0);
	assert_true(i == INT64_MIN);
	assert_int_equal(str_to_i64(STR("9223372036854775807"), &i), 0);
	assert_true(i == INT64_MAX);
	assert_int_equal(str_to_i64(STR("9223372036854775808"), &i), E_INVAL);
	assert_int_equal(str_to_i64(STR("-9223372036854775809"), &i), E_INVAL);
	assert_int_equal(str_to_i64(STR("--1"), &i), E_INVAL);
}

static void test_sizes_and_durations_refuse_overflow_and_bare_numbers(void **state)
{
	uint64_t bytes;
	int64_t us;

	assert_int_equal(str_to_bytes(STR("4M"), &bytes), 0);
	assert_true(bytes == 4 << 20);
	assert_int_equal(str_to_bytes(STR("16777215T"), &bytes), 0);
	assert_int_equal(str_to_bytes(STR("16777216T"), &bytes), E_INVAL);
	assert_int_equal(str_to_bytes(STR("M"), &bytes), E_INVAL);
	assert_int_equal(str_to_bytes(STR("1.5M"), &bytes), E_INVAL);
	assert_int_equal(str_to_bytes((struct str){"4\0", 2}, &bytes), E_INVAL);
	static const struct {
		const char *text;
		int64_t us;
	} good[] = {{"250us", 250},    {"30ms", 30000},    {"10s", 10000000},
	            {"5m", 300000000}, {"1h", 3600000000}, {"1d", 86400000000}};
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		assert_int_equal(str_to_duration_us(str_from(good[i].text), &us), 0);
		assert_true(us == good[i].us);
	}
	assert_int_equal(str_to_duration_us(STR("106751991d"), &us), 0);
	assert_int_equal(str_to_duration_us(STR("106751992d"), &us), E_INVAL);
	assert_int_equal(str_to_duration_us(STR("18446744073709551615us"), &us), E_INVAL);
	static const char *const bad[] = {"", "10", "s", "10 s", "-1s", "1.5s", "10S", "1w"};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(str_to_duration_us(str_from(bad[i]), &us), E_INVAL);
}

static void test_buf_stops_at_its_limit_and_remembers(void **state)
{
	struct buf b = {.max = 10};

	buf_append(&b, "12345678", 8);
	assert_non_null(buf_reserve(&b, 2));
	assert_null(buf_reserve(&b, 3));
	assert_false(b.failed);
	buf_printf(&b, "%d", 123);
	assert_true(b.failed);
	buf_append(&b, "9", 1); /* would fit; but a text with a hole is worse than a short one */
	assert_str(buf_str(&b), "12345678");
	buf_clear(&b);
	buf_printf(&b, "%010d", 1);
	assert_false(b.failed);
	assert_str(buf_str(&b), "0000000001");
	buf_consume(&b, 9);
	assert_str(buf_str(&b), "1");
	buf_consume(&b, 1);
	assert_int_equal(b.len, 0);
	buf_fini(&b);
	buf_fini(NULL);
}

static void test_buf_grows_through_many_sizes(void **state)
{
	struct buf b = {0};

	for (int i = 0; i < 3000; i++)
		buf_printf(&b, "%d,", i);
	assert_false(b.failed);
	assert_true(str_starts(buf_str(&b), STR("0,1,2,")) && str_ends(buf_str(&b), STR("2998,2999,")));
	assert_int_equal(b.len, 10 * 2 + 90 * 3 + 900 * 4 + 2000 * 5);
	buf_fini(&b);
}

static void check_json(struct str in, const char *want)
{
	struct buf b = {0};

	buf_append_json(&b, in);
	assert_str(buf_str(&b), want);
	buf_fini(&b);
}

static void test_json_strings_escape_and_mend(void **state)
{
	check_json((struct str){0}, "\"\"");
	check_json((struct str){"a\0b", 3}, "\"a\\u0000b\"");
	check_json(STR("say \"hi\"\\\n\t\x1b\x7f"), "\"say \\\"hi\\\"\\\\\\n\\t\\u001b\\u007f\"");
	check_json(STR("d\xc3\xa9j\xc3\xa0 \xf0\x9f\x99\x82"), "\"d\xc3\xa9j\xc3\xa0 \xf0\x9f\x99\x82\"");
	check_json(STR("\xc2\x9b\xe2\x80\xa8\xef\xbb\xbf\xc2\xa0"), "\"\\u009b\\u2028\\ufeff\xc2\xa0\"");
	/* one U+FFFD for each maximal subpart: Unicode 15, table 3-8 */
	check_json(STR("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41"),
	           "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\x41\"");
	check_json(STR("\xc0\xaf"), "\"\xef\xbf\xbd\xef\xbf\xbd\"");                 /* overlong / */
	check_json(STR("\xed\xa0\x80"), "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""); /* surrogate */
	check_json(STR("x\xf0\x9f"), "\"x\xef\xbf\xbd\"");
}

static void test_utf8_prefix_holds_back_half_characters(void **state)
{
	static const char text[] = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x99\x82z"; /* characters begin at 0 1 3 6 10 */
	static const size_t whole[] = {0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 11};

	for (size_t i = 0; i < sizeof(whole) / sizeof(whole[0]); i++) {
		assert_int_equal(utf8_valid_prefix((struct str){text, i}), whole[i]);
		assert_int_equal(utf8_complete_prefix((struct str){text, i}), whole[i]);
	}
	/* Bad bytes are never valid, but waiting would not make them so. */
	assert_int_equal(utf8_valid_prefix(STR("ab\xff")), 2);
	assert_int_equal(utf8_complete_prefix(STR("ab\xff")), 3);
	assert_int_equal(utf8_complete_prefix(STR("\xf4\x90")), 2); /* past U+10FFFF already */
	assert_int_equal(utf8_complete_prefix(STR("\xff\xe2\x82")), 1);
	assert_int_equal(utf8_valid_prefix((struct str){0}), 0);
}

static void test_hex_and_base64url_round_trip(void **state)
{
	uint8_t in[70], out[70];
	char text[2 * 70 + 1];
	struct rng r;
	size_t len;

	rng_init(&r, 1);
	for (size_t n = 0; n <= sizeof(in); n++) {
		for (size_t i = 0; i < n; i++)
			in[i] = (uint8_t)rng_next(&r);
		hex_encode(in, n, text);
		assert_int_equal(hex_decode(str_from(text), out, n), 0);
		assert_memory_equal(in, out, n);
		assert_int_equal(base64url_encode(in, n, text), (n * 8 + 5) / 6);
		assert_int_equal(strlen(text), (n * 8 + 5) / 6);
		assert_int_equal(base64url_decode(str_from(text), out, n, &len), 0);
		assert_int_equal(len, n);
		assert_memory_equal(in, out, n);
		if (n > 0)
			assert_int_equal(base64url_decode(str_from(text), out, n - 1, &len), E_INVAL);
	}
}

static void test_hex_and_base64url_refuse_other_spellings(void **state)
{
	uint8_t out[16];
	size_t len;

	assert_int_equal(hex_decode(STR("0a0"), out, 1), E_INVAL);
	assert_int_equal(hex_decode(STR("0g"), out, 1), E_INVAL);
	assert_int_equal(hex_decode(STR("0a"), out, 2), E_INVAL);
	assert_int_equal(base64url_decode(STR("-_8"), out, 16, &len), 0);
	assert_int_equal(base64url_decode(STR("+/8"), out, 16, &len), E_INVAL);
	assert_int_equal(base64url_decode(STR("AA=="), out, 16, &len), E_INVAL);
	assert_int_equal(base64url_decode(STR("AAAAA"), out, 16, &len), E_INVAL);
	assert_int_equal(base64url_decode(STR("AB"), out, 16, &len), E_INVAL); /* stray bits: a second name for "AA" */
	assert_int_equal(base64url_decode((struct str){"A\0", 2}, out, 16, &len), E_INVAL);
}

static void test_distance_counts_typing_slips(void **state)
{
	assert_int_equal(str_distance(STR("log_level"), STR("LOG-level")), 0);
	assert_int_equal(str_distance(STR("silent"), STR("slient")), 1);
	assert_int_equal(str_distance(STR("kitten"), STR("sitting")), 3);
	assert_int_equal(str_distance(STR(""), STR("abc")), 3);
}

static void test_what_is_escaped_stands_in_urls(void **state)
{
	struct buf b = {0};
	buf_append_escaped(&b, (struct str){"a/B-9 ~\0\xc3%", 10}, URL_SEGMENT);
	assert_true(str_equal(buf_str(&b), STR("a%2FB-9%20~%00%C3%25")));
	buf_clear(&b);
	buf_append_escaped(&b, STR("a/b:c?d"), URL_PATH);
	assert_true(str_equal(buf_str(&b), STR("a/b%3Ac%3Fd")));
	buf_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_str_compares_bytes_and_survives_nothing),
	    cmocka_unit_test(test_str_copy_never_cuts_silently),
	    cmocka_unit_test(test_numbers_refuse_signs_spaces_and_overflow),
	    cmocka_unit_test(test_sizes_and_durations_refuse_overflow_and_bare_numbers),
	    cmocka_unit_test(test_buf_stops_at_its_limit_and_remembers),
	    cmocka_unit_test(test_buf_grows_through_many_sizes),
	    cmocka_unit_test(test_json_strings_escape_and_mend),
	    cmocka_unit_test(test_utf8_prefix_holds_back_half_characters),
	    cmocka_unit_test(test_hex_and_base64url_round_trip),
	    cmocka_unit_test(test_hex_and_base64url_refuse_other_spellings),
	    cmocka_unit_test(test_distance_counts_typing_slips),
	    cmocka_unit_test(test_what_is_escaped_stands_in_urls),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
