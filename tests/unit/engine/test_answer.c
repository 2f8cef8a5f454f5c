/* SPDX-License-Identifier: Apache-2.0 */
/* test_answer.c - text leaves in whole characters and never shows a stop string, wherever the pieces are cut. */
#include "driver.h"

#include "engine/answer.h"

/* Feeds `text` in pieces of `step` bytes; what was shown, NUL-terminated, in out. */
static bool feed(const char *text, size_t step, const struct str *stops, size_t stop_count, struct buf *out)
{
	struct answer a;
	bool stopped = false;
	size_t len = strlen(text);

	answer_init(&a, stops, stop_count);
	for (size_t at = 0; at < len && !stopped; at += step) {
		stopped = answer_add(&a, (struct str){text + at, step < len - at ? step : len - at});
		assert_int_equal(utf8_valid_prefix(answer_ready(&a)), answer_ready(&a).len);
		buf_append_str(out, answer_ready(&a));
		answer_taken(&a);
	}
	answer_end(&a);
	buf_append_str(out, answer_ready(&a));
	buf_append(out, "", 1);
	answer_fini(&a);
	return stopped;
}

static void expect(const char *text, const struct str *stops, size_t stop_count, const char *shown, bool stops_it)
{
	for (size_t step = 1; step <= strlen(text); step++) {
		struct buf out = {0};
		assert_int_equal(feed(text, step, stops, stop_count, &out), stops_it);
		assert_string_equal(out.base, shown);
		buf_fini(&out);
	}
}

static void test_stop_strings_are_found_across_any_cut(void **state)
{
	struct str stops[] = {STR("END"), STR("\n\n"), STR("ENDE!")};
	(void)state;

	expect("one END two", stops, 3, "one ", true);
	expect("EN EN\nEND", stops, 3, "EN EN\n", true);
	expect("a\n\nb", stops, 3, "a", true);
	expect("EEND", stops, 3, "E", true);
	expect("almost EN", stops, 3, "almost EN", false);
	expect("nothing of it", stops, 3, "nothing of it", false);
	expect("", stops, 3, "", false);
}

static void test_earliest_stop_wins(void **state)
{
	struct str stops[] = {STR("abcX"), STR("bc")};
	(void)state;

	expect("-abcX-", stops, 2, "-", true);
	expect("-abc!", stops, 2, "-a", true);
}

static void test_characters_are_not_cut(void **state)
{
	struct str stop = STR("\xe2\x82\xac"); /* the euro sign */
	(void)state;

	expect("gr\xc3\xbc\xc3\x9f \xf0\x9f\x8c\x8d dich", NULL, 0, "gr\xc3\xbc\xc3\x9f \xf0\x9f\x8c\x8d dich", false);
	expect("5 \xe2\x82\xac", &stop, 1, "5 ", true);
	/* Same first bytes as the stop, another character. */
	expect("5 \xe2\x82\xab.", &stop, 1, "5 \xe2\x82\xab.", false);
}

static void test_bytes_that_are_no_text_become_replacements(void **state)
{
	(void)state;
	expect("a\xff!", NULL, 0, "a\xef\xbf\xbd!", false);
	expect("a\xe2\x82", NULL, 0, "a\xef\xbf\xbd", false); /* cut off by the end */
	expect("\xc3(", NULL, 0, "\xef\xbf\xbd(", false);
	expect("\xed\xa0\x80", NULL, 0, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", false); /* a surrogate */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_stop_strings_are_found_across_any_cut),
	    cmocka_unit_test(test_earliest_stop_wins),
	    cmocka_unit_test(test_characters_are_not_cut),
	    cmocka_unit_test(test_bytes_that_are_no_text_become_replacements),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
