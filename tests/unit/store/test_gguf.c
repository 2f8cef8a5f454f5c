/* SPDX-License-Identifier: Apache-2.0 */
/* GGUF headers: what is read from a good one, and that a bad one is refused with the place of its fault. */
#include "base/limits.h"
#include "store/gguf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "gguf_build.h"

static void test_header_of_a_model_is_read(void **state)
{
	struct buf b = {0};
	struct gguf_info info = {0};
	struct error err = {0};
	gguf_small(&b, 'x');
	assert_int_equal(gguf_parse_bytes(buf_str(&b), &info, &err), 0);
	assert_string_equal(info.architecture, "llama");
	assert_string_equal(info.name, "Small Test");
	assert_string_equal(info.license, "apache-2.0");
	assert_string_equal(info.quantization, "Q8_0");
	assert_int_equal(info.context_tokens, 2048);
	assert_int_equal(info.layers, 2);
	assert_int_equal(info.embedding, 0);
	assert_int_equal(info.parameters, 12 + 128);
	assert_int_equal(info.data_offset, b.len - 200);
	assert_true(info.chat_template);
	assert_true(str_equal(buf_str(&info.chat_template_text), STR("{{ messages }}")));
	gguf_info_fini(&info);
	buf_fini(&b);
}

static void test_every_truncation_is_refused(void **state)
{
	struct buf b = {0};
	gguf_small(&b, 'x');
	for (size_t len = 0; len < b.len; len++) {
		struct gguf_info info = {0};
		struct error err = {0};
		char *copy = malloc(len + 1); /* exact size, so that reading past it is seen */
		copy = realloc(copy, len ? len : 1);
		memcpy(copy, b.base, len);
		assert_int_equal(gguf_parse_bytes((struct str){copy, len}, &info, &err), E_INVAL);
		assert_non_null(strstr(err.text, "at byte"));
		free(copy);
	}
	buf_fini(&b);
}

static void test_every_changed_byte_is_survived(void **state)
{
	struct buf b = {0};
	gguf_small(&b, 'x');
	size_t header = b.len - 200;
	for (size_t i = 0; i < header; i++) {
		static const unsigned char values[] = {0, 1, 0x7f, 0x80, 0xff};
		for (size_t k = 0; k < sizeof values; k++) {
			struct gguf_info info = {0};
			char kept = b.base[i];
			b.base[i] = (char)values[k];
			if (!gguf_parse_bytes(buf_str(&b), &info, NULL))
				gguf_info_fini(&info);
			b.base[i] = kept;
		}
	}
	buf_fini(&b);
}

static void refuse(struct buf *b, int code, const char *words)
{
	struct gguf_info info = {0};
	struct error err = {0};
	int rc = gguf_parse_bytes(buf_str(b), &info, &err);
	if (rc != code || !strstr(err.text, words))
		fail_msg("got %d \"%s\", wanted %d \"%s\"", rc, err.text, code, words);
	buf_clear(b);
}

static void test_claims_are_not_believed(void **state)
{
	struct buf b = {0};
	gguf_start(&b, 3, UINT64_MAX, 0);
	refuse(&b, E_LIMIT, "at byte 8: it claims");
	gguf_start(&b, 3, 0, LIMIT_GGUF_KVS + 1);
	refuse(&b, E_LIMIT, "at byte 16: it claims");
	gguf_start(&b, 3, LIMIT_GGUF_TENSORS, LIMIT_GGUF_KVS);
	refuse(&b, E_INVAL, "at byte 24");
	gguf_start(&b, 1, 0, 0);
	refuse(&b, E_INVAL, "convert the model again");
	gguf_start(&b, 0x03000000, 0, 0);
	refuse(&b, E_INVAL, "big-endian");
	gguf_start(&b, 3, 0, 1);
	gguf_u64(&b, UINT64_MAX);
	refuse(&b, E_INVAL, "at byte 24: a key claims");
	gguf_start(&b, 3, 0, 1);
	gguf_key(&b, "a", G_STRING);
	gguf_u64(&b, UINT64_MAX - 7);
	refuse(&b, E_INVAL, "at byte 45");
	gguf_start(&b, 3, 0, 1);
	gguf_key(&b, "a", 13);
	refuse(&b, E_INVAL, "at byte 33: a value of type 13");
	gguf_start(&b, 3, 0, 1);
	gguf_key(&b, "a", G_ARRAY);
	gguf_u32(&b, G_U64);
	gguf_u64(&b, UINT64_MAX / 8 + 2);
	refuse(&b, E_INVAL, "an array claims");
	gguf_start(&b, 3, 0, 1);
	gguf_key(&b, "a", G_ARRAY);
	gguf_u32(&b, G_ARRAY);
	gguf_u64(&b, 1);
	refuse(&b, E_INVAL, "an array of type 9");
	buf_fini(&b);
}

static void test_ambiguous_metadata_is_refused(void **state)
{
	struct buf b = {0};
	gguf_start(&b, 3, 0, 2);
	gguf_kv_text(&b, "general.architecture", "llama");
	gguf_kv_text(&b, "general.architecture", "qwen2");
	refuse(&b, E_INVAL, "the key general.architecture comes twice");
	gguf_start(&b, 3, 0, 1);
	gguf_kv_u32(&b, "general.architecture", 1);
	refuse(&b, E_INVAL, "general.architecture has type 4");
	gguf_start(&b, 3, 0, 1);
	gguf_kv_text(&b, "general.architecture", "\x1b[31mllama");
	refuse(&b, E_INVAL, "must be letters");
	gguf_start(&b, 3, 0, 1);
	gguf_kv_u32(&b, "general.alignment", 24);
	refuse(&b, E_INVAL, "power of two");
	gguf_start(&b, 3, 0, 1);
	gguf_key(&b, "", G_U32);
	refuse(&b, E_INVAL, "a key is empty");
	buf_fini(&b);
}

static void test_tensors_must_fill_the_file_without_holes(void **state)
{
	struct buf b = {0};
	gguf_start(&b, 3, 1, 0);
	gguf_tensor(&b, "t", 0, 4, 1, 32);
	refuse(&b, E_INVAL, "tensor t starts at 32");
	gguf_start(&b, 3, 1, 0);
	gguf_tensor(&b, "t", 0, UINT64_C(1) << 62, 1, 0);
	refuse(&b, E_INVAL, "more bytes than any file");
	gguf_start(&b, 3, 1, 0);
	gguf_tensor(&b, "t", 0, UINT64_C(1) << 40, UINT64_C(1) << 40, 0);
	refuse(&b, E_INVAL, "more elements than any file");
	gguf_start(&b, 3, 1, 0);
	gguf_tensor(&b, "t", 0, 1 << 20, 1, 0);
	refuse(&b, E_INVAL, "cut short");
	gguf_start(&b, 3, 1, 0);
	gguf_tensor(&b, "t", 8, 48, 1, 0);
	refuse(&b, E_INVAL, "not a multiple of 32");
	gguf_start(&b, 3, 1, 0);
	gguf_tensor(&b, "t", 4, 32, 1, 0);
	refuse(&b, E_INVAL, "type 4, which is unknown");
	gguf_start(&b, 3, 2, 0);
	gguf_tensor(&b, "t", 0, 1, 1, 0);
	gguf_tensor(&b, "t", 0, 1, 1, 32);
	gguf_pad(&b, 32);
	for (int i = 0; i < 64; i++)
		buf_append(&b, "", 1);
	refuse(&b, E_INVAL, "two tensors have the same name");
	buf_fini(&b);
}

static void test_words_for_people_are_cut_and_cleaned(void **state)
{
	struct buf b = {0};
	struct gguf_info info = {0};
	char name[600];
	for (size_t i = 0; i < sizeof name - 1; i++)
		name[i] = "\xe2\x82\xac"[i % 3];
	name[sizeof name - 1] = 0;
	gguf_start(&b, 3, 0, 3);
	gguf_kv_text(&b, "general.name", name);
	gguf_kv_text(&b, "general.license", "a\x1b]0;b");
	gguf_kv_u32(&b, "general.file_type", 15);
	assert_int_equal(gguf_parse_bytes(buf_str(&b), &info, NULL), 0);
	assert_int_equal(strlen(info.name), 126); /* 42 whole characters */
	assert_string_equal(info.license, "a?]0;b");
	assert_string_equal(info.quantization, "Q4_K_M");
	assert_string_equal(info.architecture, "");
	gguf_info_fini(&info);
	buf_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_header_of_a_model_is_read),
	    cmocka_unit_test(test_every_truncation_is_refused),
	    cmocka_unit_test(test_every_changed_byte_is_survived),
	    cmocka_unit_test(test_claims_are_not_believed),
	    cmocka_unit_test(test_ambiguous_metadata_is_refused),
	    cmocka_unit_test(test_tensors_must_fill_the_file_without_holes),
	    cmocka_unit_test(test_words_for_people_are_cut_and_cleaned),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
