/* SPDX-License-Identifier: Apache-2.0 */
/* Errors, clock, random numbers and digests against published values. */
#include "base/clock.h"
#include "base/digest.h"
#include "base/error.h"
#include "base/rng.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static void test_error_words_are_one_clean_line(void **state)
{
	struct error err = {0};

	assert_int_equal(error_set(&err, E_PEER, "bad\r\nline %d\x1b[31m", 1), E_PEER);
	assert_string_equal(err.text, "bad  line 1 [31m");
	assert_int_equal(error_prefix(&err, "while joining %s: ", "n1"), E_PEER);
	assert_string_equal(err.text, "while joining n1: bad  line 1 [31m");
	error_set(&err, E_PEER, "it broke");
	error_prefix(&err, "step %d", 1);
	error_prefix(&err, "run:");
	assert_string_equal(err.text, "run: step 1: it broke");
	assert_int_equal(error_prefix(NULL, "x"), E_INTERNAL);
	error_set(&err, E_PEER, "while joining n1: bad  line 1 [31m");
	assert_int_equal(error_set(&err, E_AUTH, "again: %s", err.text), E_AUTH);
	assert_string_equal(err.text, "again: while joining n1: bad  line 1 [31m");
	assert_int_equal(error_set(NULL, E_BUSY, "nobody listens"), E_BUSY);
}

static void test_error_text_is_cut_at_a_whole_character(void **state)
{
	struct error err = {0};
	char text[1200];

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = "\xe2\x82\xac"[i % 3];
	text[sizeof(text) - 1] = '\0';
	error_set(&err, E_INVAL, "x%s", text);
	assert_int_equal(strlen(err.text), 1 + 167 * 3);
	error_prefix(&err, "%s", text);
	assert_true(strlen(err.text) < sizeof(err.text));
	assert_int_equal(utf8_valid_prefix(str_from(err.text)), strlen(err.text));
}

static void test_full_disk_has_its_own_code(void **state)
{
	struct error err = {0};

	assert_int_equal(error_errno(&err, ENOSPC, "cannot write %s", "f"), E_NOSPACE);
	assert_string_equal(err.text, "cannot write f: No space left on device");
	assert_int_equal(error_errno(&err, EDQUOT, "x"), E_NOSPACE);
	assert_int_equal(error_errno(&err, ENOENT, "x"), E_IO);
}

static void test_every_code_has_status_type_and_label(void **state)
{
	assert_int_equal(error_http_status(E_BUSY), 429);
	assert_string_equal(error_openai_type(E_BUSY), "rate_limit_error");
	assert_string_equal(error_label(E_NOSPACE), "no_space");
	assert_string_equal(error_label(0), "ok");
	assert_int_equal(error_http_status(-999), 500);
	assert_string_equal(error_openai_type(-999), "server_error");
}

static void test_clock_writes_rfc3339(void **state)
{
	char text[25];

	clock_format(INT64_C(1795524000123999), text);
	assert_string_equal(text, "2026-11-24T12:40:00.123Z");
	clock_format(INT64_MAX, text);
	assert_string_equal(text, "9999-12-31T23:59:59.999Z");
	clock_format(-5, text);
	assert_string_equal(text, "1970-01-01T00:00:00.000Z");
	int64_t a = clock_mono_us();
	assert_true(clock_mono_us() >= a && clock_wall_us() > INT64_C(1700000000000000));
}

static void test_rng_is_the_published_generator(void **state)
{
	/* xoshiro256** with state {1, 2, 3, 4}: the test values of Rust's rand_xoshiro and numpy's derivations */
	static const uint64_t want[] = {11520, 0, 1509978240, 1215971899390074240};
	struct rng r = {{1, 2, 3, 4}};

	for (int i = 0; i < 4; i++)
		assert_true(rng_next(&r) == want[i]);
	/* splitmix64 from 0: 0xe220a8397b1dcdaf, 0x6e789e6aa1b965f4, ... */
	rng_init(&r, 0);
	assert_true(r.s[0] == UINT64_C(0xe220a8397b1dcdaf) && r.s[1] == UINT64_C(0x6e789e6aa1b965f4));
}

static void test_rng_stays_below_and_covers_all(void **state)
{
	unsigned count[7] = {0};
	struct rng r;

	rng_init(&r, 42);
	for (int i = 0; i < 70000; i++)
		count[rng_below(&r, 7)]++;
	for (int i = 0; i < 7; i++)
		assert_in_range(count[i], 9500, 10500);
	assert_true(rng_below(&r, 1) == 0);
	for (int i = 0; i < 1000; i++) {
		double u = rng_unit(&r);
		assert_true(u >= 0 && u < 1);
		assert_true(rng_below(&r, UINT64_MAX) < UINT64_MAX);
	}
	assert_true(rng_seed() != rng_seed());
}

static void test_digests_match_fips_180(void **state)
{
	char text[DIGEST_TEXT_SIZE];
	struct digest d = digest_of("abc", 3), parsed, empty = digest_of(NULL, 0);

	digest_format(&d, text);
	assert_string_equal(text, "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	assert_int_equal(digest_parse(str_from(text), &parsed), 0);
	assert_true(digest_equal(&d, &parsed));
	digest_format(&empty, text);
	assert_string_equal(text, "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	assert_false(digest_equal(&d, &empty));

	struct digest_stream *s = digest_stream_new();
	digest_stream_add(s, "a", 1);
	digest_stream_add(s, NULL, 0);
	digest_stream_add(s, "bc", 2);
	parsed = digest_stream_end(s);
	digest_stream_free(s);
	assert_true(digest_equal(&d, &parsed));
	digest_stream_free(NULL);
}

static void test_sha512_names_match_fips_180(void **state)
{
	char text[DIGEST_NAME_SIZE];
	struct digest_name n = digest_name_sha512("abc", 3), parsed, other;
	struct digest_stream *s = digest_stream_new_sha512();

	digest_name_format(&n, text);
	assert_string_equal(text,
	                    "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a8"
	                    "36ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f");
	assert_int_equal(digest_name_parse(str_from(text), &parsed), 0);
	assert_true(digest_name_equal(&n, &parsed));
	digest_stream_add(s, "ab", 2);
	digest_stream_add(s, "c", 1);
	other = digest_stream_end_sha512(s);
	digest_stream_free(s);
	assert_true(digest_name_equal(&n, &other));
	text[20] = 'G';
	assert_int_equal(digest_name_parse(str_from(text), &parsed), E_INVAL);
	text[80] = '\0';
	assert_int_equal(digest_name_parse(str_from(text), &parsed), E_INVAL);
	assert_int_equal(digest_name_parse(STR("sha384:00"), &parsed), E_UNSUPPORTED);
	struct digest d = digest_of("abc", 3);
	n = digest_name_of(&d);
	digest_name_format(&n, text);
	assert_int_equal(digest_name_parse(str_from(text), &parsed), 0);
	assert_true(digest_name_equal(&n, &parsed) && !digest_name_equal(&n, &other));
}

static void test_one_content_has_one_name(void **state)
{
	static const char *const bad[] = {"",
	                                  "sha256",
	                                  "sha256:",
	                                  ":",
	                                  "sha256:abc",
	                                  "SHA256:ba7816bf",
	                                  "sha256:BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD",
	                                  "sha256:../../etc/passwd",
	                                  " sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
	                                  "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad0"};
	struct digest d;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(digest_parse(str_from(bad[i]), &d), E_INVAL);
	assert_int_equal(digest_parse(STR("sha512:abcd"), &d), E_UNSUPPORTED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_error_words_are_one_clean_line),
	    cmocka_unit_test(test_error_text_is_cut_at_a_whole_character),
	    cmocka_unit_test(test_full_disk_has_its_own_code),
	    cmocka_unit_test(test_every_code_has_status_type_and_label),
	    cmocka_unit_test(test_clock_writes_rfc3339),
	    cmocka_unit_test(test_rng_is_the_published_generator),
	    cmocka_unit_test(test_rng_stays_below_and_covers_all),
	    cmocka_unit_test(test_digests_match_fips_180),
	    cmocka_unit_test(test_sha512_names_match_fips_180),
	    cmocka_unit_test(test_one_content_has_one_name),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
