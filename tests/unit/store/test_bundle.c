/* SPDX-License-Identifier: Apache-2.0 */
/* Bundles: what may be in one, and where it lies. Whole bundles, with other tools: tests/e2e/test_airgap.py. */
#include "store/bundle.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static int read_data(void *arg, uint64_t offset, void *out, size_t len, struct error *err)
{
	const struct buf *all = arg;
	assert_true(offset <= all->len && len <= all->len - offset);
	memcpy(out, all->base + offset, len);
	return 0;
}

static void add(struct buf *tar, const char *name, struct str content)
{
	static const char zeros[BUNDLE_BLOCK];
	assert_int_equal(bundle_header(name, content.len, tar, NULL), 0);
	buf_append_str(tar, content);
	buf_append(tar, zeros, bundle_padding(content.len));
}

static int scan(struct buf *tar, struct bundle_entry **entries, size_t *count, struct error *err)
{
	struct bundle_reader reader = {read_data, tar, tar->len};
	*err = (struct error){0};
	return bundle_scan(&reader, entries, count, err);
}

static void end(struct buf *tar)
{
	static const char zeros[BUNDLE_END_SIZE];
	buf_append(tar, zeros, sizeof zeros);
}

static void test_what_is_written_is_found_where_it_lies(void **state)
{
	struct buf tar = {0};
	struct bundle_entry *entries;
	size_t count;
	struct error err;
	char name[BUNDLE_NAME_SIZE];
	struct digest d = digest_of("content", 7);
	bundle_blob_name(&d, name);
	add(&tar, "oci-layout", STR(BUNDLE_LAYOUT));
	add(&tar, name, STR("content"));
	add(&tar, "index.json", STR(""));
	for (int ended = 0; ended < 2; ended++) {
		assert_int_equal(scan(&tar, &entries, &count, &err), 0);
		assert_int_equal(count, 3);
		const struct bundle_entry *e = bundle_find_blob(entries, count, &d);
		assert_non_null(e);
		assert_int_equal(e->size, 7);
		assert_memory_equal(tar.base + e->offset, "content", 7);
		e = bundle_find(entries, count, "oci-layout");
		assert_memory_equal(tar.base + e->offset, BUNDLE_LAYOUT, sizeof BUNDLE_LAYOUT - 1);
		assert_null(bundle_find(entries, count, "mdn-bundle.json"));
		free(entries);
		end(&tar);
	}
	buf_fini(&tar);
}

static void test_a_header_of_more_than_eight_gigabytes_is_read_back(void **state)
{
	struct buf header = {0};
	struct error err;
	assert_int_equal(bundle_header("index.json", UINT64_C(700) << 30, &header, &err), 0);
	assert_true(header.len % BUNDLE_BLOCK == 0 && header.len >= BUNDLE_BLOCK);
	buf_fini(&header);
}

static void refuse(const char *name, const char *words)
{
	struct buf tar = {0};
	struct bundle_entry *entries;
	size_t count;
	struct error err;
	add(&tar, "oci-layout", STR(BUNDLE_LAYOUT));
	add(&tar, name, STR("x"));
	if (!strcmp(name, "index.json"))
		add(&tar, name, STR("y"));
	end(&tar);
	assert_true(scan(&tar, &entries, &count, &err) < 0);
	assert_non_null(strstr(err.text, words));
	buf_fini(&tar);
}

static void test_names_that_are_not_a_bundles_are_refused(void **state)
{
	refuse("/etc/passwd", "no file /etc/passwd");
	refuse("../index.json", "no file ../index.json");
	refuse("blobs/sha256/../../x", "no file");
	refuse("blobs/sha256/abc", "no file");
	refuse("index.json", "twice");
}

static void test_contents_and_what_a_place_has_survive_their_text(void **state)
{
	struct bundle_blob blobs[2] = {{.digest = digest_of("a", 1), .size = 1},
	                               {.digest = digest_of("b", 1),
	                                .size = UINT64_C(700) << 30,
	                                .delta = true,
	                                .chunks = digest_of("c", 1),
	                                .pack_size = 5}};
	struct bundle_contents c = {blobs, 2}, back;
	struct bundle_have have = {0}, again;
	struct buf text = {0};
	bundle_contents_format(&c, &text);
	assert_int_equal(bundle_contents_parse(buf_str(&text), &back, NULL), 0);
	assert_int_equal(back.count, 2);
	assert_false(back.blobs[0].delta);
	assert_true(back.blobs[1].delta && back.blobs[1].pack_size == 5 && back.blobs[1].size == blobs[1].size);
	bundle_contents_fini(&back);
	buf_clear(&text);
	for (int i = 0; i < 200; i++) {
		char byte = (char)(i % 100);
		struct digest d = digest_of(&byte, 1);
		bundle_have_add(&have.chunks, &have.chunk_count, &d);
	}
	bundle_have_format(&have, &text);
	assert_int_equal(bundle_have_parse(buf_str(&text), &again, NULL), 0);
	assert_int_equal(again.chunk_count, 100);
	struct digest seven = digest_of("\7", 1), none = digest_of("none", 4);
	assert_true(bundle_have_has(again.chunks, again.chunk_count, &seven));
	assert_false(bundle_have_has(again.chunks, again.chunk_count, &none));
	assert_false(bundle_have_has(again.blobs, again.blob_count, &seven));
	bundle_have_fini(&have);
	bundle_have_fini(&again);
	buf_fini(&text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_what_is_written_is_found_where_it_lies),
	    cmocka_unit_test(test_a_header_of_more_than_eight_gigabytes_is_read_back),
	    cmocka_unit_test(test_names_that_are_not_a_bundles_are_refused),
	    cmocka_unit_test(test_contents_and_what_a_place_has_survive_their_text),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
