/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants those first */
#include <cmocka.h>

#include "folder.h"
#include "store/spool.h"

#include <dirent.h>
#include <stdlib.h>

#define SIZE (2 * SPOOL_PIECE + 70001)

static struct folder folder;
static struct blob_store *store;
static char *content;
static struct digest digest;

static void open_store(bool seals)
{
	struct error err = {0};
	assert_int_equal(blob_store_open(str_from(folder_file(&folder, "store")), &store, &err), 0);
	if (seals)
		assert_int_equal(blob_store_unlock(store, folder_file(&folder, "key"), true, &err), 0);
}

static int setup(void **state)
{
	folder_init(&folder);
	site_key_write(folder_file(&folder, "key"));
	content = malloc(SIZE);
	for (size_t i = 0; i < SIZE; i++)
		content[i] = (char)(i * 2654435761u >> 13);
	digest = digest_of(content, SIZE);
	return 0;
}

static int teardown(void **state)
{
	blob_store_close(store);
	store = NULL;
	folder_fini(&folder);
	free(content);
	return 0;
}

static void put(struct spool *p, uint32_t piece)
{
	struct error err = {0};
	uint64_t at = piece * SPOOL_PIECE, end = at + spool_length(p, piece);
	assert_false(spool_has(p, piece));
	for (size_t n; at < end; at += n) {
		n = end - at < 1 << 20 ? (size_t)(end - at) : 1 << 20;
		assert_int_equal(spool_write(p, at, (struct str){content + at, n}, &err), 0);
	}
	assert_int_equal(spool_keep(p, piece, &err), 0);
	assert_true(spool_has(p, piece));
}

static void pieces_in_any_order(bool seals)
{
	struct spool *p;
	struct error err = {0};
	char back[1000];
	struct buf all = {0};
	open_store(seals);
	assert_int_equal(spool_open(store, &digest, SIZE, &p, &err), 0);
	assert_int_equal(spool_count(p), 3);
	put(p, 2);
	put(p, 0);
	assert_int_equal(spool_held(p), SPOOL_PIECE + 70001);
	assert_int_equal(spool_read(p, SIZE - 1000, back, 1000, &err), 0);
	assert_memory_equal(back, content + SIZE - 1000, 1000);
	assert_int_equal(spool_finish(p, &err), E_INTERNAL); /* one is missing */
	spool_close(p);
	blob_store_close(store); /* the process ends; a new one goes on */
	open_store(seals);
	assert_int_equal(spool_open(store, &digest, SIZE, &p, &err), 0);
	assert_true(spool_has(p, 0) && !spool_has(p, 1) && spool_has(p, 2));
	put(p, 1);
	assert_int_equal(spool_finish(p, &err), 0);
	spool_close(p);
	assert_int_equal(blob_read_all(store, &digest, SIZE, &all, &err), 0);
	assert_memory_equal(all.base, content, SIZE);
	buf_fini(&all);
}

static void test_pieces_come_in_any_order_and_over_restarts(void **state)
{
	pieces_in_any_order(false);
}

static void test_so_they_do_encrypted(void **state)
{
	pieces_in_any_order(true);
}

static void test_other_bytes_become_no_blob(void **state)
{
	struct spool *p;
	struct error err = {0};
	uint64_t size;
	open_store(false);
	content[SPOOL_PIECE + 5] ^= 1;
	assert_int_equal(spool_open(store, &digest, SIZE, &p, &err), 0);
	for (uint32_t i = 0; i < 3; i++)
		put(p, i);
	assert_int_equal(spool_write(p, SIZE - 1, STR("xx"), &err), E_CORRUPT);
	assert_int_equal(spool_finish(p, &err), E_CORRUPT);
	spool_remove(p);
	spool_close(p);
	assert_int_equal(blob_stat(store, &digest, &size, &err), E_NOTFOUND);
	assert_int_equal(spool_open(store, &digest, SIZE, &p, &err), 0); /* from the beginning */
	assert_int_equal(spool_held(p), 0);
	spool_remove(p);
	spool_close(p);
}

static void test_an_empty_one_is_there_at_once(void **state)
{
	struct spool *p;
	struct error err = {0};
	struct digest empty = digest_of("", 0);
	open_store(false);
	assert_int_equal(spool_open(store, &empty, 0, &p, &err), 0);
	assert_int_equal(spool_finish(p, &err), 0);
	spool_close(p);
}

static size_t files_on_their_way(void)
{
	size_t count = 0;
	DIR *dir = opendir(folder_file(&folder, "store/partial"));
	for (struct dirent *e; (e = readdir(dir));)
		count += e->d_name[0] != '.';
	closedir(dir);
	return count;
}

/* A server that gives no ranges sends all once more, and may send something else. */
static void test_what_is_held_stays_what_was_hashed(void **state)
{
	struct spool *p;
	struct error err = {0};
	struct buf all = {0};
	open_store(false);
	assert_int_equal(spool_open(store, &digest, SIZE, &p, &err), 0);
	put(p, 0);
	assert_int_equal(spool_write(p, 10, STR("other bytes"), &err), 0);
	assert_int_equal(spool_keep(p, 0, &err), 0);
	assert_int_equal(spool_held(p), SPOOL_PIECE);
	put(p, 1);
	put(p, 2);
	assert_int_equal(spool_finish(p, &err), 0);
	spool_close(p);
	assert_int_equal(blob_read_all(store, &digest, SIZE, &all, &err), 0);
	assert_memory_equal(all.base, content, SIZE);
	buf_fini(&all);
}

static void test_absurd_sizes_are_refused_and_leave_nothing(void **state)
{
	struct spool *p;
	struct error err = {0};
	open_store(false);
	assert_int_equal(spool_open(store, &digest, UINT64_MAX, &p, &err), E_LIMIT);
	assert_int_equal(spool_open(store, &digest, UINT64_C(1) << 54, &p, &err), E_LIMIT);
	assert_int_equal(spool_open(store, &digest, UINT64_C(1) << 44, &p, &err), E_NOSPACE);
	assert_int_equal(files_on_their_way(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_pieces_come_in_any_order_and_over_restarts, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_so_they_do_encrypted, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_other_bytes_become_no_blob, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_an_empty_one_is_there_at_once, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_what_is_held_stays_what_was_hashed, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_absurd_sizes_are_refused_and_leave_nothing, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
