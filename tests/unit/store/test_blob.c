/* SPDX-License-Identifier: Apache-2.0 */
/* Blobs, uploads, chunk lists and partial blobs, with processes killed in the middle of them. */
#include "store/blob.h"

#include "base/limits.h"

#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "folder.h"

static struct folder folder;

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

static struct blob_store *open_store(void)
{
	struct blob_store *s = NULL;
	struct error err = {0};
	if (blob_store_open(str_from(folder.path), &s, &err))
		fail_msg("%s", err.text);
	return s;
}

static void digest_name(const struct digest *d, const char *under, char out[static 256], const char *suffix)
{
	char hex[65];
	hex_encode(d->bytes, 32, hex);
	if (!strcmp(under, "blobs"))
		snprintf(out, 256, "%s/blobs/sha256/%.2s/%s", folder.path, hex, hex);
	else
		snprintf(out, 256, "%s/%s/%s%s", folder.path, under, hex, suffix);
}

/* ---- blobs and uploads ----------------------------------------------------------------------- */

static void test_blob_is_found_under_its_digest(void **state)
{
	struct blob_store *s = open_store();
	struct digest d, absent = digest_of("no", 2);
	struct buf out = {0};
	uint64_t size;
	char *path;
	struct stat st;
	assert_int_equal(blob_put(s, STR("hello"), &d, NULL), 0);
	assert_int_equal(blob_put(s, STR("hello"), &d, NULL), 0);
	assert_int_equal(blob_stat(s, &d, &size, NULL), 0);
	assert_int_equal(size, 5);
	assert_int_equal(blob_read_all(s, &d, 5, &out, NULL), 0);
	assert_true(str_equal(buf_str(&out), STR("hello")));
	assert_int_equal(blob_read_all(s, &d, 4, &out, NULL), E_LIMIT);
	assert_int_equal(blob_stat(s, &absent, &size, NULL), E_NOTFOUND);
	assert_int_equal(blob_path(s, &d, &path, NULL), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0222, 0);
	assert_int_equal(blob_delete(s, &d, NULL), 0);
	assert_int_equal(blob_delete(s, &d, NULL), E_NOTFOUND);
	assert_int_equal(blob_path(s, &d, &(char *){0}, NULL), E_NOTFOUND);
	free(path);
	buf_fini(&out);
	blob_store_close(s);
}

static void test_upload_of_other_bytes_leaves_nothing(void **state)
{
	struct blob_store *s = open_store();
	struct blob_upload *u;
	struct digest claimed = digest_of("hello", 5);
	uint64_t size;
	assert_int_equal(blob_upload_new(s, &u, NULL), 0);
	assert_int_equal(blob_upload_append(u, STR("hel"), NULL), 0);
	assert_int_equal(blob_upload_append(u, STR("lp"), NULL), 0);
	assert_int_equal(blob_upload_offset(u), 5);
	assert_int_equal(blob_upload_finish(u, &claimed, NULL), E_CORRUPT);
	assert_int_equal(blob_stat(s, &claimed, &size, NULL), E_NOTFOUND);
	assert_int_equal(folder_count(folder.path), 0);
	blob_store_close(s);
}

static void test_failed_write_does_not_count(void **state)
{
	pid_t pid = fork();
	if (!pid) { /* a file size limit fails a write in its middle, as a full disk does */
		struct blob_store *s = open_store();
		struct blob_upload *u;
		struct str content = bytes_make(3, 12000);
		struct digest d = digest_of(content.base, 12000);
		struct rlimit limit = {10000, RLIM_INFINITY};
		bool good =
		    !blob_upload_new(s, &u, NULL) && !blob_upload_append(u, (struct str){content.base, 8000}, NULL);
		struct str rest = {content.base + 8000, 4000};
		signal(SIGXFSZ, SIG_IGN);
		setrlimit(RLIMIT_FSIZE, &limit);
		good = good && blob_upload_append(u, rest, NULL) == E_IO && blob_upload_offset(u) == 8000;
		limit.rlim_cur = RLIM_INFINITY;
		setrlimit(RLIMIT_FSIZE, &limit);
		good = good && !blob_upload_append(u, rest, NULL) && !blob_upload_finish(u, &d, NULL);
		_exit(good ? 0 : 1);
	}
	int status;
	waitpid(pid, &status, 0);
	assert_int_equal(status, 0);
}

static void test_two_uploads_of_one_content_both_succeed(void **state)
{
	struct blob_store *s = open_store();
	struct blob_upload *a, *b;
	struct digest d = digest_of("same", 4);
	assert_int_equal(blob_upload_new(s, &a, NULL), 0);
	assert_int_equal(blob_upload_new(s, &b, NULL), 0);
	assert_int_equal(blob_upload_append(a, STR("same"), NULL), 0);
	assert_int_equal(blob_upload_append(b, STR("same"), NULL), 0);
	assert_int_equal(blob_upload_finish(a, &d, NULL), 0);
	assert_int_equal(blob_upload_finish(b, &d, NULL), 0);
	assert_int_equal(folder_count(folder.path), 1);
	blob_store_close(s);
}

static void test_leftovers_are_swept_at_start(void **state)
{
	struct blob_store *s = open_store();
	blob_store_close(s);
	file_write_at(folder_file(&folder, "uploads/0123"), 0, "half", 4);
	file_write_at(folder_file(&folder, "partial/abcd.map"), 0, "orphan", 6);
	file_write_at(folder_file(&folder, "partial/abcd.map.new"), 0, "orphan", 6);
	blob_store_close(open_store());
	assert_int_equal(folder_count(folder.path), 0);
}

static void test_a_folder_in_use_is_refused_in_words(void **state)
{
	struct blob_store *s = open_store(), *other;
	struct error err = {0};
	assert_int_equal(blob_store_open(str_from(folder.path), &other, &err), E_CONFLICT);
	assert_non_null(strstr(err.text, "used by another mdn process"));
	blob_store_close(s);
	assert_int_equal(blob_store_open(STR("/proc/nowhere/store"), &other, &err), E_IO);
}

static void test_a_disk_too_small_is_refused_in_words(void **state)
{
	struct blob_store *s = open_store();
	struct error err = {0};
	assert_int_equal(blob_store_room(s, 0, &err), 0);
	assert_int_equal(blob_store_room(s, UINT64_C(1) << 60, &err), E_NOSPACE);
	assert_non_null(strstr(err.text, "remove models"));
	blob_store_close(s);
}

static bool check_blob(void *arg, const struct digest *d, uint64_t size)
{
	struct buf content = {0};
	assert_int_equal(blob_read_all(arg, d, 1 << 20, &content, NULL), 0);
	struct digest got = digest_of(content.base, content.len);
	assert_true(digest_equal(&got, d));
	buf_fini(&content);
	return true;
}

/* The child tells every digest after its blob was finished, until it dies. */
static void child_uploads(int pipe_fd)
{
	struct blob_store *s = open_store();
	for (uint64_t seed = 1;; seed++) {
		struct digest d;
		struct str content = bytes_make(seed, 1 + seed * 7919 % 300000);
		if (blob_put(s, content, &d, NULL) || write(pipe_fd, &d, sizeof d) != sizeof d)
			_exit(1);
		free((char *)content.base);
	}
}

static void test_killed_process_loses_no_finished_blob(void **state)
{
	for (int round = 0; round < 4; round++) {
		int fds[2], got = 0;
		assert_int_equal(pipe(fds), 0);
		pid_t pid = fork();
		if (!pid) {
			close(fds[0]);
			child_uploads(fds[1]);
		}
		close(fds[1]);
		struct pollfd first = {.fd = fds[0], .events = POLLIN}; /* however slow the machine is */
		assert_int_equal(poll(&first, 1, 30000), 1);
		usleep(20000 + (unsigned)round * 17000);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		struct blob_store *s = open_store();
		struct digest d;
		uint64_t size;
		while (read(fds[0], &d, sizeof d) == sizeof d) {
			assert_int_equal(blob_stat(s, &d, &size, NULL), 0);
			got++;
		}
		close(fds[0]);
		assert_true(got > 0);
		blob_each(s, check_blob, s);
		assert_int_equal(folder_count(folder_file(&folder, "uploads")), 0);
		blob_store_close(s);
	}
}

/* ---- chunk lists ----------------------------------------------------------------------------- */

static struct chunk_list list_of(struct blob_store *s, struct str content, uint64_t chunk_size)
{
	struct digest d;
	struct chunk_list list;
	assert_int_equal(blob_put(s, content, &d, NULL), 0);
	assert_int_equal(chunk_list_build(s, &d, chunk_size, &list, NULL), 0);
	return list;
}

static void test_chunk_list_has_one_text(void **state)
{
	struct blob_store *s = open_store();
	struct chunk_list list = list_of(s, STR("abcdefghij"), 4), again = {0};
	struct buf text = {0};
	chunk_list_format(&list, &text);
	assert_int_equal(list.count, 3);
	assert_int_equal(chunk_length(&list, 2), 2);
	struct digest last = digest_of("ij", 2);
	assert_true(digest_equal(&list.digests[2], &last));
	assert_int_equal(chunk_list_parse(buf_str(&text), &again, NULL), 0);
	assert_int_equal(again.count, 3);
	assert_memory_equal(again.digests, list.digests, 3 * sizeof(struct digest));
	assert_memory_equal(again.ends, list.ends, 3 * sizeof *list.ends);
	for (uint64_t at = 0; at < list.size; at++)
		assert_int_equal(chunk_at(&list, at), at / 4);
	chunk_list_fini(&again);
	for (size_t len = 0; len < text.len; len++)
		assert_int_not_equal(chunk_list_parse((struct str){text.base, len}, &again, NULL), 0);
	for (size_t i = 0; i < text.len; i++) { /* any other text is another list or none */
		char kept = text.base[i];
		text.base[i] ^= 0x20;
		if (!chunk_list_parse(buf_str(&text), &again, NULL)) {
			struct buf other = {0};
			chunk_list_format(&again, &other);
			assert_true(str_equal(buf_str(&other), buf_str(&text)));
			buf_fini(&other);
			chunk_list_fini(&again);
		}
		text.base[i] = kept;
	}
	buf_fini(&text);
	chunk_list_fini(&list);
	blob_store_close(s);
}

static void test_upload_makes_its_chunk_list_as_it_comes(void **state)
{
	struct blob_store *s = open_store();
	struct blob_upload *u;
	struct str content = bytes_make(9, 10007);
	struct digest d = digest_of(content.base, content.len);
	struct chunk_list made = {0}, built;
	struct buf text = {0}, wanted = {0};
	assert_int_equal(blob_upload_new(s, &u, NULL), 0);
	assert_false(blob_upload_list(u, &d, &made)); /* nobody asked for one */
	blob_upload_chunk(u, content.len, 1000);
	blob_upload_chunk(u, content.len, 4096); /* before the first byte one may think again */
	for (size_t at = 0, n = 1; at < content.len; at += n, n = n * 3 + 1) {
		n = n < content.len - at ? n : content.len - at;
		assert_int_equal(blob_upload_append(u, (struct str){content.base + at, n}, NULL), 0);
	}
	assert_true(blob_upload_list(u, &d, &made));
	assert_int_equal(blob_upload_finish(u, &d, NULL), 0);
	assert_int_equal(chunk_list_build(s, &d, 4096, &built, NULL), 0);
	chunk_list_format(&made, &text);
	chunk_list_format(&built, &wanted);
	assert_true(str_equal(buf_str(&text), buf_str(&wanted)));
	buf_fini(&text);
	buf_fini(&wanted);
	chunk_list_fini(&made);
	chunk_list_fini(&built);
	free((char *)content.base);
	blob_store_close(s);
}

static void test_hostile_chunk_lists_are_refused(void **state)
{
#define FILE_LINE "file sha256:0000000000000000000000000000000000000000000000000000000000000000\n"
#define HEX "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n"
	static const char *const texts[] = {
	    "",
	    "mdn-chunks 1\n" FILE_LINE "size 0\nchunk-size 4\n",
	    "mdn-chunks 2\n" FILE_LINE "size 00\n",
	    "mdn-chunks 2\n" FILE_LINE "size -1\n",
	    "mdn-chunks 2\n" FILE_LINE "size 99999999999999999999\n",
	    "mdn-chunks 2\n" FILE_LINE "size 9223372036854775808\n",
	    "mdn-chunks 2\n" FILE_LINE "size 1\n",
	    "mdn-chunks 2\n" FILE_LINE "size 0\n\n",
	    "mdn-chunks 2\n" FILE_LINE "size 0\n0 " HEX,
	    "mdn-chunks 2\n" FILE_LINE "size 4\n0 " HEX "4 " HEX,
	    "mdn-chunks 2\n" FILE_LINE "size 4\n" HEX,
	    "mdn-chunks 2\n" FILE_LINE "size 4\n " HEX,
	    "mdn-chunks 2\n" FILE_LINE "size 4\n04 " HEX,
	    "mdn-chunks 2\n" FILE_LINE "size 4\n4  " HEX,
	    "mdn-chunks 2\n" FILE_LINE "size 4\n3 " HEX,
	    "mdn-chunks 2\n" FILE_LINE "size 4\n5 " HEX,
	    "mdn-chunks 2\n" FILE_LINE "size 4\n3 " HEX "2 " HEX,
	    "mdn-chunks 2\n" FILE_LINE "size 4\n2 " HEX "18446744073709551615 " HEX "3 " HEX,
	    "mdn-chunks 2\n" FILE_LINE "size 67108865\n67108865 " HEX,
	};
	struct chunk_list list;
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
		if (!chunk_list_parse(str_from(texts[i]), &list, NULL))
			fail_msg("accepted %s", texts[i]);
	assert_int_equal(chunk_list_parse(STR("mdn-chunks 2\n" FILE_LINE "size 0\n"), &list, NULL), 0);
	chunk_list_fini(&list);
	assert_int_equal(chunk_list_parse(STR("mdn-chunks 2\n" FILE_LINE "size 4\n1 " HEX "3 " HEX), &list, NULL), 0);
	assert_int_equal(chunk_offset(&list, 1), 1);
	assert_int_equal(chunk_length(&list, 1), 3);
	chunk_list_fini(&list);
}

static void test_rotten_blob_gets_no_chunk_list(void **state)
{
	struct blob_store *s = open_store();
	struct digest d;
	struct chunk_list list;
	char path[256];
	assert_int_equal(blob_put(s, STR("good bytes"), &d, NULL), 0);
	digest_name(&d, "blobs", path, "");
	file_write_at(path, 0, "b", 1);
	assert_int_equal(chunk_list_build(s, &d, 4, &list, NULL), E_CORRUPT);
	blob_store_close(s);
}

/* ---- partial blobs --------------------------------------------------------------------------- */

#define CHUNK 4096
#define CHUNKS 40
#define LENGTH (CHUNK * CHUNKS - 100)

/* The list of a file this store does not have (it is put and deleted again). */
static struct chunk_list foreign_list(struct str *ret_content)
{
	struct blob_store *s = open_store();
	*ret_content = bytes_make(42, LENGTH);
	struct chunk_list list = list_of(s, *ret_content, CHUNK);
	assert_int_equal(blob_delete(s, &list.file, NULL), 0);
	blob_store_close(s);
	return list;
}

static struct str chunk_of(const struct chunk_list *list, struct str content, uint32_t i)
{
	return (struct str){content.base + chunk_offset(list, i), chunk_length(list, i)};
}

static struct blob_partial *open_partial(struct blob_store *s, const struct chunk_list *list)
{
	struct blob_partial *p;
	struct error err = {0};
	if (blob_partial_open(s, list, &p, &err))
		fail_msg("%s", err.text);
	return p;
}

static void test_chunks_in_any_order_become_the_blob(void **state)
{
	struct str content;
	struct chunk_list list = foreign_list(&content);
	struct blob_store *s = open_store();
	struct blob_partial *p = open_partial(s, &list);
	uint64_t size;
	assert_int_equal(blob_partial_finish(p, NULL), E_CONFLICT);
	for (uint32_t n = 0; n < list.count; n++) {
		uint32_t i = n * 7 % list.count;
		struct str wrong = chunk_of(&list, content, (i + 1) % list.count);
		assert_int_equal(blob_partial_write(p, i, wrong, NULL), E_CORRUPT);
		assert_false(blob_partial_has(p, i));
		assert_int_equal(blob_partial_write(p, i, chunk_of(&list, content, i), NULL), 0);
		assert_true(blob_partial_has(p, i));
		assert_int_equal(blob_partial_bitmap(p)[i / 8] >> i % 8 & 1, 1);
		if (n == list.count / 2) { /* a clean restart loses nothing */
			blob_partial_close(p);
			p = open_partial(s, &list);
		}
		assert_int_equal(blob_partial_count(p), n + 1);
	}
	assert_int_equal(blob_partial_write(p, list.count, STR("x"), NULL), E_INVAL);
	assert_int_equal(blob_stat(s, &list.file, &size, NULL), E_NOTFOUND);
	assert_int_equal(blob_partial_finish(p, NULL), 0);
	blob_partial_close(p);
	assert_int_equal(blob_stat(s, &list.file, &size, NULL), 0);
	assert_int_equal(folder_count(folder_file(&folder, "partial")), 0);
	check_blob(s, &list.file, size);
	blob_store_close(s);
	chunk_list_fini(&list);
	free((char *)content.base);
}

static void check_held(struct blob_partial *p, const struct chunk_list *list, struct str content)
{
	for (uint32_t i = 0; i < list->count; i++) {
		char got[CHUNK];
		struct str wanted = chunk_of(list, content, i);
		if (!blob_partial_has(p, i))
			continue;
		assert_int_equal(pread(blob_partial_fd(p), got, wanted.len, (off_t)chunk_offset(list, i)),
		                 (ssize_t)wanted.len);
		assert_memory_equal(got, wanted.base, wanted.len);
	}
}

static void test_killed_process_keeps_the_chunks_it_wrote(void **state)
{
	struct str content;
	struct chunk_list list = foreign_list(&content);
	uint32_t done = 0;
	for (int round = 0; done < list.count && round < 50; round++) {
		int fds[2];
		assert_int_equal(pipe(fds), 0);
		pid_t pid = fork();
		if (!pid) {
			struct blob_store *s = open_store();
			struct blob_partial *p = open_partial(s, &list);
			for (uint32_t i = 0; i < list.count; i++) {
				if (blob_partial_has(p, i))
					continue;
				if (blob_partial_write(p, i, chunk_of(&list, content, i), NULL) ||
				    write(fds[1], &i, sizeof i) != sizeof i)
					_exit(1);
				usleep(300);
			}
			pause();
		}
		close(fds[1]);
		usleep(20000 + (unsigned)round * 3000);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		struct blob_store *s = open_store();
		struct blob_partial *p = open_partial(s, &list);
		uint32_t told;
		while (read(fds[0], &told, sizeof told) == sizeof told)
			assert_true(blob_partial_has(p, told)); /* nothing is fetched twice */
		close(fds[0]);
		check_held(p, &list, content);
		assert_true(blob_partial_count(p) >= done);
		done = blob_partial_count(p);
		blob_partial_close(p);
		blob_store_close(s);
	}
	assert_int_equal(done, list.count);
	chunk_list_fini(&list);
	free((char *)content.base);
}

/* Leaves `count` chunks, killed before any barrier when `settled` is false. */
static void leave_chunks(const struct chunk_list *list, struct str content, uint32_t count, bool settled)
{
	pid_t pid = fork();
	if (!pid) {
		struct blob_store *s = open_store();
		struct blob_partial *p = open_partial(s, list);
		for (uint32_t i = 0; i < count; i++)
			if (blob_partial_write(p, i, chunk_of(list, content, i), NULL))
				_exit(1);
		if (settled)
			blob_partial_close(p);
		_exit(0);
	}
	int status;
	waitpid(pid, &status, 0);
	assert_int_equal(status, 0);
}

static void test_unsettled_chunk_that_never_reached_the_disk_is_not_held(void **state)
{
	struct str content;
	struct chunk_list list = foreign_list(&content);
	char data[256];
	leave_chunks(&list, content, 10, false);
	digest_name(&list.file, "partial", data, "");
	file_write_at(data, 3 * CHUNK + 5, "lost", 4); /* what a power cut can do */
	struct blob_store *s = open_store();
	struct blob_partial *p = open_partial(s, &list);
	assert_int_equal(blob_partial_count(p), 9);
	assert_false(blob_partial_has(p, 3));
	check_held(p, &list, content);
	blob_partial_close(p);
	blob_store_close(s);
	chunk_list_fini(&list);
	free((char *)content.base);
}

static void test_damaged_map_costs_only_hashing(void **state)
{
	struct str content;
	struct chunk_list list = foreign_list(&content);
	char data[256], map[256];
	digest_name(&list.file, "partial", data, "");
	digest_name(&list.file, "partial", map, ".map");
	for (int damage = 0; damage < 4; damage++) {
		leave_chunks(&list, content, 20, true);
		if (damage == 0)
			file_write_at(map, 40 + 8 * 5 + 1, "\xff", 1); /* a record */
		else if (damage == 1)
			file_write_at(map, 3, "X", 1); /* the head */
		else if (damage == 2)
			assert_int_equal(truncate(map, 40 + 8 * 7 + 3), 0); /* torn */
		else
			unlink(map);
		file_write_at(data, 12 * CHUNK, "Z", 1); /* and one chunk is rotten, too */
		struct blob_store *s = open_store();
		struct blob_partial *p = open_partial(s, &list);
		if (damage != 3) {
			assert_int_equal(blob_partial_count(p), 19);
			assert_false(blob_partial_has(p, 12));
			check_held(p, &list, content);
		} else { /* a map swept or lost: found again all the same */
			assert_int_equal(blob_partial_count(p), 19);
		}
		blob_partial_discard(p);
		assert_int_equal(folder_count(folder_file(&folder, "partial")), 0);
		blob_store_close(s);
	}
	chunk_list_fini(&list);
	free((char *)content.base);
}

static void test_file_too_large_for_the_disk_is_refused_at_once(void **state)
{
	struct blob_store *s = open_store();
	struct blob_partial *p;
	struct chunk_list list = {.size = UINT64_C(1) << 43, .count = (UINT64_C(1) << 43) / CHUNK_SIZE_MAX};
	list.ends = calloc(list.count, sizeof *list.ends);
	list.digests = calloc(list.count, sizeof *list.digests);
	for (uint32_t i = 0; i < list.count; i++)
		list.ends[i] = (i + 1) * CHUNK_SIZE_MAX;
	assert_int_equal(blob_partial_open(s, &list, &p, NULL), E_NOSPACE);
	chunk_list_fini(&list);
	blob_store_close(s);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(test_blob_is_found_under_its_digest),
	    TEST(test_upload_of_other_bytes_leaves_nothing),
	    TEST(test_failed_write_does_not_count),
	    TEST(test_two_uploads_of_one_content_both_succeed),
	    TEST(test_leftovers_are_swept_at_start),
	    TEST(test_a_folder_in_use_is_refused_in_words),
	    TEST(test_a_disk_too_small_is_refused_in_words),
	    TEST(test_killed_process_loses_no_finished_blob),
	    TEST(test_chunk_list_has_one_text),
	    TEST(test_upload_makes_its_chunk_list_as_it_comes),
	    TEST(test_hostile_chunk_lists_are_refused),
	    TEST(test_rotten_blob_gets_no_chunk_list),
	    TEST(test_chunks_in_any_order_become_the_blob),
	    TEST(test_killed_process_keeps_the_chunks_it_wrote),
	    TEST(test_unsettled_chunk_that_never_reached_the_disk_is_not_held),
	    TEST(test_damaged_map_costs_only_hashing),
	    TEST(test_file_too_large_for_the_disk_is_refused_at_once),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
