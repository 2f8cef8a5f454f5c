/* SPDX-License-Identifier: Apache-2.0 */
/* Reuse: a new version takes from files that are here what it shares with them, and only that. */
#include "store/reuse.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "folder.h"

#define CHUNK 4096
#define CHUNKS 30
#define LENGTH (CHUNK * CHUNKS - 77)

static struct folder folder;
static bool never, always = true;

static int setup(void **state)
{
	folder_init(&folder);
	return 0;
}

static int teardown(void **state)
{
	folder_fini(&folder);
	return 0;
}

static struct blob_store *open_store(const char *name)
{
	struct blob_store *s;
	assert_int_equal(blob_store_open(str_from(folder_file(&folder, name)), &s, NULL), 0);
	return s;
}

/* A file with its list, as a finished fetch leaves them. */
static struct chunk_list put(struct blob_store *s, struct str content)
{
	struct digest d;
	struct chunk_list list;
	struct buf text = {0};
	assert_int_equal(blob_put(s, content, &d, NULL), 0);
	assert_int_equal(chunk_list_build(s, &d, CHUNK, &list, NULL), 0);
	chunk_list_format(&list, &text);
	assert_int_equal(blob_put(s, buf_str(&text), &d, NULL), 0);
	buf_fini(&text);
	return list;
}

/* The next version: chunk 7 is another, 11 and 12 have changed places, 20 comes twice. */
static void edit(char *content)
{
	char kept[CHUNK];
	content[7 * CHUNK + 3] ^= 1;
	memcpy(kept, content + 11 * CHUNK, CHUNK);
	memcpy(content + 11 * CHUNK, content + 12 * CHUNK, CHUNK);
	memcpy(content + 12 * CHUNK, kept, CHUNK);
	memcpy(content + 21 * CHUNK, content + 20 * CHUNK, CHUNK);
}

static struct chunk_list next_version(struct str content)
{
	struct blob_store *elsewhere = open_store("elsewhere");
	edit((char *)content.base);
	struct chunk_list list = put(elsewhere, content);
	blob_store_close(elsewhere);
	return list;
}

static void rot(const struct digest *d, long at)
{
	char hex[65], path[256];
	hex_encode(d->bytes, DIGEST_SIZE, hex);
	snprintf(path, sizeof path, "%s/here/blobs/sha256/%.2s/%s", folder.path, hex, hex);
	file_write_at(path, at, "rot", 3);
}

static uint64_t reuse(struct blob_partial *p, const bool *stop)
{
	uint64_t bytes = 0;
	assert_int_equal(blob_partial_reuse(p, stop, &bytes, NULL), 0);
	return bytes;
}

static void check_reuse(bool seals)
{
	struct blob_store *s = open_store("here");
	struct str content = bytes_make(3, LENGTH);
	struct buf got = {0};
	struct blob_partial *p;
	if (seals) {
		site_key_write(folder_file(&folder, "key"));
		assert_int_equal(blob_store_unlock(s, folder_file(&folder, "key"), true, NULL), 0);
	}
	struct chunk_list old = put(s, content), new = next_version(content);
	assert_int_equal(blob_partial_open(s, &new, &p, NULL), 0);
	assert_int_equal(reuse(p, &always), 0);
	assert_int_equal(reuse(p, &never), LENGTH - CHUNK);
	assert_int_equal(blob_partial_count(p), CHUNKS - 1);
	assert_false(blob_partial_has(p, 7));
	assert_int_equal(reuse(p, &never), 0);
	assert_int_equal(blob_partial_write(p, 7, (struct str){content.base + 7 * CHUNK, CHUNK}, NULL), 0);
	assert_int_equal(blob_partial_finish(p, NULL), 0);
	blob_partial_close(p);
	assert_int_equal(blob_read_all(s, &new.file, LENGTH, &got, NULL), 0);
	assert_true(str_equal(buf_str(&got), content));
	buf_fini(&got);
	chunk_list_fini(&old);
	chunk_list_fini(&new);
	free((char *)content.base);
	blob_store_close(s);
}

static void test_a_new_version_takes_all_but_what_changed(void **state)
{
	check_reuse(false);
}

static void test_encrypted_files_are_reused_too(void **state)
{
	check_reuse(true);
}

static void test_rotten_and_vanished_files_give_nothing(void **state)
{
	struct blob_store *s = open_store("here");
	struct str content = bytes_make(3, LENGTH);
	struct blob_partial *p;
	struct chunk_list old = put(s, content), new = next_version(content);
	rot(&old.file, 4 * CHUNK);
	assert_int_equal(blob_partial_open(s, &new, &p, NULL), 0);
	assert_int_equal(reuse(p, &never), LENGTH - 2 * CHUNK);
	assert_false(blob_partial_has(p, 4));
	blob_partial_discard(p);
	assert_int_equal(blob_delete(s, &old.file, NULL), 0);
	assert_int_equal(blob_partial_open(s, &new, &p, NULL), 0);
	assert_int_equal(reuse(p, &never), 0); /* only its list is left */
	blob_partial_discard(p);
	chunk_list_fini(&old);
	chunk_list_fini(&new);
	free((char *)content.base);
	blob_store_close(s);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(test_a_new_version_takes_all_but_what_changed),
	    TEST(test_encrypted_files_are_reused_too),
	    TEST(test_rotten_and_vanished_files_give_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
