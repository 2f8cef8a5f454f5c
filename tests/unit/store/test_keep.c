/* SPDX-License-Identifier: Apache-2.0 */
/* Leases, condemning and sweeping of blobs; sealed files and what happens to those who touch them; changing the key. */
#include "store/blob.h"
#include "store/digest_set.h"
#include "store/seal.h"

#include "base/clock.h"
#include "base/rng.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

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
	static const char *const names[] = {"key", "other"};
	for (int i = 0; i < 2; i++) {
		char path[300];
		snprintf(path, sizeof path, "%s.%s", folder.path, names[i]);
		unlink(path);
	}
	folder_fini(&folder);
	return 0;
}

static void key_file(const char *name, char c, char ret_path[static 300])
{
	snprintf(ret_path, 300, "%s.%s", folder.path, name);
	FILE *f = fopen(ret_path, "w");
	for (int i = 0; i < 64; i++)
		fputc(c, f);
	fputc('\n', f);
	fclose(f);
	chmod(ret_path, 0600);
}

static struct blob_store *open_store(const char *key)
{
	struct blob_store *s = NULL;
	struct error err = {0};
	if (blob_store_open(str_from(folder.path), &s, &err) || blob_store_unlock(s, key, key[0] != 0, &err))
		fail_msg("%s", err.text);
	return s;
}

static void path_of(const struct digest *d, const char *ending, char ret_path[static 300])
{
	char hex[65];
	hex_encode(d->bytes, 32, hex);
	snprintf(ret_path, 300, "%s/blobs/sha256/%.2s/%s%s", folder.path, hex, hex, ending);
}

static struct str random_bytes(size_t len)
{
	struct rng rng;
	char *bytes = malloc(len + 1);
	rng_init(&rng, 7);
	for (size_t i = 0; i < len; i++)
		bytes[i] = (char)rng_next(&rng);
	return (struct str){bytes, len};
}

/* ---- leases ----------------------------------------------------------------------------------- */

static void age(const struct digest *d, int64_t seconds)
{
	char path[300];
	struct timespec when[2];
	path_of(d, "", path);
	clock_gettime(CLOCK_REALTIME, &when[0]);
	when[0].tv_sec -= seconds;
	when[1] = when[0];
	assert_int_equal(utimensat(AT_FDCWD, path, when, 0), 0);
}

static void test_a_blob_asked_for_is_safe_from_the_collector(void **state)
{
	struct blob_store *s = open_store("");
	struct digest d;
	uint64_t size;
	int64_t line;
	assert_int_equal(blob_put(s, STR("hello"), &d, NULL), 0);
	line = blob_store_now_us(s) - 3600 * US_PER_S;
	assert_false(blob_condemn(s, &d, line)); /* just pushed */
	age(&d, 7200);
	assert_int_equal(blob_stat(s, &d, &size, NULL), 0);
	assert_false(blob_condemn(s, &d, line)); /* just asked for */
	age(&d, 7200);
	assert_int_equal(blob_put(s, STR("hello"), &d, NULL), 0);
	assert_false(blob_condemn(s, &d, line)); /* just pushed again */
	age(&d, 7200);
	assert_true(blob_condemn(s, &d, line));
	assert_int_equal(blob_stat(s, &d, &size, NULL), E_NOTFOUND); /* nobody may rely on it any more */
	assert_int_equal(blob_sweep(s), 5);
	assert_int_equal(folder_count(folder.path), 0);
	blob_store_close(s);
}

static void test_a_push_pardons_the_condemned(void **state)
{
	struct blob_store *s = open_store("");
	struct digest d;
	uint64_t size;
	assert_int_equal(blob_put(s, STR("hello"), &d, NULL), 0);
	assert_true(blob_condemn(s, &d, INT64_MAX));
	assert_int_equal(blob_put(s, STR("hello"), &d, NULL), 0);
	assert_false(blob_is_condemned(s, &d));
	assert_int_equal(blob_sweep(s), 0);
	assert_int_equal(blob_stat(s, &d, &size, NULL), 0);
	blob_store_close(s);
}

static void test_who_reads_keeps_what_is_swept(void **state)
{
	struct blob_store *s = open_store("");
	struct digest d;
	struct blob_file *f;
	char got[5];
	assert_int_equal(blob_put(s, STR("hello"), &d, NULL), 0);
	assert_int_equal(blob_file_open(s, &d, &f, NULL), 0);
	assert_true(blob_condemn(s, &d, INT64_MAX));
	assert_int_equal(blob_sweep(s), 5);
	assert_int_equal(blob_file_read(f, 0, got, 5, NULL), 0);
	assert_memory_equal(got, "hello", 5);
	blob_file_close(f);
	blob_store_close(s);
}

static void test_quarantine_is_out_of_sight_but_not_gone(void **state)
{
	struct blob_store *s = open_store("");
	struct digest d;
	struct stat st;
	char path[400], hex[65];
	uint64_t size;
	assert_int_equal(blob_put(s, STR("hello"), &d, NULL), 0);
	assert_int_equal(blob_quarantine(s, &d, NULL), 0);
	assert_int_equal(blob_stat(s, &d, &size, NULL), E_NOTFOUND);
	hex_encode(d.bytes, 32, hex);
	snprintf(path, sizeof path, "%s/quarantine/%s", folder.path, hex);
	assert_int_equal(stat(path, &st), 0);
	blob_store_close(s);
}

static void test_digest_set_finds_what_was_added(void **state)
{
	struct digest_set set = {0};
	struct digest zero = {0};
	for (int i = 0; i < 1000; i++) {
		struct digest d = digest_of(&i, sizeof i);
		assert_true(digest_set_add(&set, &d));
		assert_false(digest_set_add(&set, &d));
	}
	for (int i = 0; i < 2000; i++) {
		struct digest d = digest_of(&i, sizeof i);
		assert_int_equal(digest_set_has(&set, &d), i < 1000);
	}
	assert_false(digest_set_has(&set, &zero));
	assert_true(digest_set_add(&set, &zero));
	assert_true(digest_set_has(&set, &zero));
	digest_set_fini(&set);
}

/* ---- encryption ------------------------------------------------------------------------------- */

static const size_t lengths[] = {0, 1, 65535, 65536, 65537, 3 * 65536, 300001};

static void upload(struct blob_store *s, struct str bytes, size_t piece, struct digest *ret_digest)
{
	struct blob_upload *u;
	*ret_digest = digest_of(bytes.base, bytes.len);
	assert_int_equal(blob_upload_new(s, &u, NULL), 0);
	for (size_t at = 0; at < bytes.len; at += piece)
		assert_int_equal(
		    blob_upload_append(
			u, (struct str){bytes.base + at, bytes.len - at < piece ? bytes.len - at : piece}, NULL),
		    0);
	assert_int_equal(blob_upload_finish(u, ret_digest, NULL), 0);
}

static void check_ranges(const struct blob_file *f, struct str bytes)
{
	static const size_t at[] = {0, 1, 65535, 65536, 65537, 131072, 200000};
	char *got = malloc(bytes.len + 1);
	for (size_t i = 0; i < sizeof at / sizeof *at; i++)
		for (size_t k = 0; k < sizeof at / sizeof *at; k++) {
			if (at[i] + at[k] > bytes.len)
				continue;
			assert_int_equal(blob_file_read(f, at[i], got, at[k], NULL), 0);
			assert_memory_equal(got, bytes.base + at[i], at[k]);
		}
	assert_int_equal(blob_file_read(f, bytes.len, got, 1, NULL), E_CORRUPT);
	free(got);
}

static void test_sealed_blob_reads_as_its_content(void **state)
{
	char key[300], path[300];
	key_file("key", 'a', key);
	struct blob_store *s = open_store(key);
	for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
		struct str bytes = random_bytes(lengths[i]);
		struct digest d;
		struct blob_file *f;
		struct buf all = {0};
		uint64_t size;
		int fd;
		upload(s, bytes, 1000 + 77777 * (i % 3), &d);
		assert_int_equal(blob_stat(s, &d, &size, NULL), 0);
		assert_int_equal(size, bytes.len);
		assert_int_equal(blob_file_open(s, &d, &f, NULL), 0);
		assert_int_equal(blob_file_fd(f), -1);
		check_ranges(f, bytes);
		assert_int_equal(blob_file_in_memory(f, &fd, NULL), 0);
		snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
		assert_int_equal(open(path, O_RDONLY | O_CLOEXEC), fd + 1);
		close(fd + 1);
		assert_int_equal(pwrite(fd, "x", 1, 0), -1); /* nor by anybody through /proc */
		assert_int_equal(ftruncate(fd, (off_t)size + 1), -1);
		close(fd);
		blob_file_close(f);
		assert_int_equal(blob_read_all(s, &d, 1 << 20, &all, NULL), 0);
		assert_int_equal(all.len, bytes.len);
		assert_int_equal(blob_open(s, &d, &fd, &size, NULL), E_UNSUPPORTED);
		buf_fini(&all);
		free((char *)bytes.base);
	}
	blob_store_close(s);
}

static bool on_disk(const char *path, const char *word)
{
	char text[65536 + 1024] = {0};
	FILE *f = fopen(path, "r");
	size_t n = f ? fread(text, 1, sizeof text, f) : 0;
	if (f)
		fclose(f);
	return memmem(text, n, word, strlen(word)) != NULL;
}

static void test_content_is_not_on_the_disk(void **state)
{
	char key[300], path[300];
	struct digest d;
	key_file("key", 'a', key);
	struct blob_store *s = open_store(key);
	assert_int_equal(blob_put(s, STR("a secret weight"), &d, NULL), 0);
	path_of(&d, ".sealed", path);
	assert_false(on_disk(path, "secret"));
	assert_true(on_disk(path, "mdn-seal"));
	blob_store_close(s);
}

static int read_it(struct blob_store *s, const struct digest *d, struct error *err)
{
	struct buf all = {0};
	int rc = blob_read_all(s, d, 1 << 20, &all, err);
	buf_fini(&all);
	return rc;
}

static void flip(const char *path, off_t at)
{
	char c;
	chmod(path, 0600);
	int fd = open(path, O_RDWR);
	assert_int_equal(pread(fd, &c, 1, at), 1);
	c ^= 1;
	assert_int_equal(pwrite(fd, &c, 1, at), 1);
	close(fd);
}

static void test_every_change_of_a_sealed_file_is_found(void **state)
{
	char key[300], path[300];
	struct str bytes = random_bytes(70000);
	struct digest d;
	struct error err;
	struct stat st;
	key_file("key", 'a', key);
	struct blob_store *s = open_store(key);
	upload(s, bytes, 65536, &d);
	path_of(&d, ".sealed", path);
	assert_int_equal(stat(path, &st), 0);
	static const off_t at[] = {0,           9,    13, 16, 30, 41, 60, 90, 120, 128, 140, 200, 65536 + 128 + 20,
	                           65536 + 160, 70183};
	for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
		flip(path, at[i]);
		int rc = read_it(s, &d, &err);
		if (rc == 0)
			fail_msg("byte %lld was changed and nobody noticed", (long long)at[i]);
		flip(path, at[i]);
		assert_int_equal(read_it(s, &d, &err), 0);
	}
	/* cut off, also where a segment ends */
	assert_int_equal(truncate(path, st.st_size - 1), 0);
	assert_int_not_equal(read_it(s, &d, &err), 0);
	assert_int_equal(truncate(path, 128 + 65536 + 28), 0);
	assert_int_equal(read_it(s, &d, &err), E_CORRUPT);
	/* a segment of zeros is no hole here */
	int fd = open(path, O_RDWR);
	assert_int_equal(ftruncate(fd, 128), 0);
	assert_int_equal(ftruncate(fd, st.st_size), 0);
	close(fd);
	assert_int_equal(read_it(s, &d, &err), E_CORRUPT);
	blob_store_close(s);
	free((char *)bytes.base);
}

static void test_one_sealed_file_cannot_stand_for_another(void **state)
{
	char key[300], from[300], to[300];
	struct digest a, b;
	struct error err;
	key_file("key", 'a', key);
	struct blob_store *s = open_store(key);
	assert_int_equal(blob_put(s, STR("old version"), &a, NULL), 0);
	assert_int_equal(blob_put(s, STR("new version"), &b, NULL), 0);
	path_of(&a, ".sealed", from);
	path_of(&b, ".sealed", to);
	assert_int_equal(rename(from, to), 0);
	assert_int_equal(read_it(s, &b, &err), E_CORRUPT);
	blob_store_close(s);
}

static void test_the_wrong_key_is_told_in_words(void **state)
{
	char key[300], other[300];
	struct digest d;
	struct error err = {0};
	struct blob_store *s;
	key_file("key", 'a', key);
	key_file("other", 'b', other);
	s = open_store(key);
	assert_int_equal(blob_put(s, STR("hello"), &d, NULL), 0);
	blob_store_close(s);
	assert_int_equal(blob_store_open(str_from(folder.path), &s, NULL), 0);
	assert_int_equal(blob_store_unlock(s, other, true, &err), E_FORBIDDEN);
	assert_non_null(strstr(err.text, "site_key"));
	blob_store_close(s);
	assert_int_equal(blob_store_open(str_from(folder.path), &s, NULL), 0);
	assert_int_equal(blob_store_unlock(s, "", false, &err), E_FORBIDDEN);
	assert_int_equal(blob_store_unlock(s, "", true, &err), E_INVAL);
	chmod(key, 0644);
	assert_int_equal(blob_store_unlock(s, key, true, &err), E_FORBIDDEN);
	assert_non_null(strstr(err.text, "chmod 600"));
	blob_store_close(s);
}

static void test_plain_and_sealed_blobs_live_together(void **state)
{
	char key[300], plain_path[300];
	struct digest plain, sealed;
	struct stat st;
	key_file("key", 'a', key);
	struct blob_store *s = open_store("");
	assert_int_equal(blob_put(s, STR("plain"), &plain, NULL), 0);
	blob_store_close(s);
	s = open_store(key);
	assert_int_equal(blob_put(s, STR("sealed"), &sealed, NULL), 0);
	assert_int_equal(read_it(s, &plain, NULL), 0);
	assert_int_equal(read_it(s, &sealed, NULL), 0);
	struct blob_upload *u; /* pushed again, it is sealed, and the plain file goes */
	assert_int_equal(blob_upload_new(s, &u, NULL), 0);
	assert_int_equal(blob_upload_append(u, STR("plain"), NULL), 0);
	assert_int_equal(blob_upload_finish(u, &plain, NULL), 0);
	path_of(&plain, "", plain_path);
	assert_int_not_equal(stat(plain_path, &st), 0);
	assert_int_equal(read_it(s, &plain, NULL), 0);
	assert_true(blob_condemn(s, &plain, INT64_MAX));
	assert_true(blob_sweep(s) > 0);
	assert_int_equal(blob_delete(s, &sealed, NULL), 0);
	assert_int_equal(folder_count(folder.path), 0);
	blob_store_close(s);
}

static void test_key_changes_without_writing_the_content(void **state)
{
	char key[300], other[300];
	struct digest d[3];
	size_t count;
	struct error err = {0};
	key_file("key", 'a', key);
	key_file("other", 'b', other);
	struct blob_store *s = open_store(key);
	for (int i = 0; i < 3; i++)
		assert_int_equal(blob_put(s, (struct str){"abc" + i, 1}, &d[i], NULL), 0);
	assert_int_equal(blob_store_rekey(s, other, &count, &err), 0);
	assert_int_equal(count, 3);
	for (int i = 0; i < 3; i++)
		assert_int_equal(read_it(s, &d[i], NULL), 0);
	blob_store_close(s);
	s = open_store(other);
	assert_int_equal(read_it(s, &d[0], NULL), 0);
	blob_store_close(s);
}

/* ---- encrypted partial blobs ------------------------------------------------------------------ */

#define CHUNKS 23

/* Chunks of odd lengths, so that they share segments; some lie within one. */
static void odd_list(struct str bytes, struct chunk_list *list)
{
	*list = (struct chunk_list){.file = digest_of(bytes.base, bytes.len), .size = bytes.len, .count = CHUNKS};
	list->ends = calloc(CHUNKS, sizeof *list->ends);
	list->digests = calloc(CHUNKS, sizeof *list->digests);
	for (uint32_t i = 0; i < CHUNKS; i++) {
		uint64_t from = i ? list->ends[i - 1] : 0;
		list->ends[i] = i + 1 == CHUNKS ? bytes.len : from + (i % 3 ? 50001 + 777 * i : 1000);
		list->digests[i] = digest_of(bytes.base + from, (size_t)(list->ends[i] - from));
	}
}

static struct str chunk_of(const struct chunk_list *list, struct str bytes, uint32_t i)
{
	return (struct str){bytes.base + chunk_offset(list, i), (size_t)chunk_length(list, i)};
}

static void partial_path(const struct chunk_list *list, char ret_path[static 300])
{
	char hex[65];
	hex_encode(list->file.bytes, 32, hex);
	snprintf(ret_path, 300, "%s/partial/%s.sealed", folder.path, hex);
}

static void test_sealed_chunks_in_any_order_become_the_blob(void **state)
{
	char key[300], path[300];
	struct str bytes = random_bytes(1200000);
	struct chunk_list list;
	struct blob_partial *p;
	struct blob_file *f;
	key_file("key", 'a', key);
	struct blob_store *s = open_store(key);
	memcpy((char *)bytes.base + 20000, "THE SECRET", 10);
	odd_list(bytes, &list);
	for (uint32_t n = 0; n < CHUNKS; n++) {
		uint32_t i = n * 7 % CHUNKS;
		char *got = malloc((size_t)chunk_length(&list, i));
		assert_int_equal(blob_partial_open(s, &list, &p, NULL), 0);
		assert_int_equal(blob_partial_count(p), n);
		assert_int_equal(blob_partial_write(p, i, chunk_of(&list, bytes, i), NULL), 0);
		assert_int_equal(blob_partial_file(p, &f, NULL), 0);
		assert_int_equal(blob_file_read(f, chunk_offset(&list, i), got, (size_t)chunk_length(&list, i), NULL),
		                 0);
		assert_memory_equal(got, chunk_of(&list, bytes, i).base, (size_t)chunk_length(&list, i));
		blob_file_close(f);
		if (n + 1 == CHUNKS)
			assert_int_equal(blob_partial_finish(p, NULL), 0);
		blob_partial_close(p);
		free(got);
	}
	path_of(&list.file, ".sealed", path);
	assert_false(on_disk(path, "THE SECRET"));
	assert_int_equal(blob_file_open(s, &list.file, &f, NULL), 0);
	check_ranges(f, bytes);
	blob_file_close(f);
	chunk_list_fini(&list);
	blob_store_close(s);
	free((char *)bytes.base);
}

/* A write of a shared segment that was cut off takes both chunks with it; nothing else, and nothing silently. */
static void test_torn_segment_costs_the_chunks_that_share_it(void **state)
{
	char key[300], path[300];
	struct str bytes = random_bytes(1200000);
	struct chunk_list list;
	struct blob_partial *p;
	key_file("key", 'a', key);
	struct blob_store *s = open_store(key);
	odd_list(bytes, &list);
	assert_int_equal(blob_partial_open(s, &list, &p, NULL), 0);
	for (uint32_t i = 0; i < CHUNKS - 1; i++)
		assert_int_equal(blob_partial_write(p, i, chunk_of(&list, bytes, i), NULL), 0);
	blob_partial_close(p);
	partial_path(&list, path);
	flip(path, (off_t)seal_position(chunk_offset(&list, 11)) + 100);
	assert_int_equal(blob_partial_open(s, &list, &p, NULL), 0);
	uint64_t torn = chunk_offset(&list, 11) / SEAL_SEGMENT;
	for (uint32_t i = 0; i < CHUNKS - 1; i++) {
		bool shares =
		    chunk_offset(&list, i) / SEAL_SEGMENT <= torn && (list.ends[i] - 1) / SEAL_SEGMENT >= torn;
		assert_int_equal(blob_partial_has(p, i), !shares);
	}
	for (uint32_t i = 0; i < CHUNKS; i++)
		assert_int_equal(blob_partial_write(p, i, chunk_of(&list, bytes, i), NULL), 0);
	assert_int_equal(blob_partial_finish(p, NULL), 0);
	blob_partial_close(p);
	struct buf all = {0};
	assert_int_equal(blob_read_all(s, &list.file, bytes.len, &all, NULL), 0);
	assert_memory_equal(all.base, bytes.base, bytes.len);
	buf_fini(&all);
	chunk_list_fini(&list);
	blob_store_close(s);
	free((char *)bytes.base);
}

static void test_killed_while_receiving_sealed_chunks(void **state)
{
	char key[300];
	struct str bytes = random_bytes(1200000);
	struct chunk_list list;
	key_file("key", 'a', key);
	odd_list(bytes, &list);
	for (int round = 0; round < 6; round++) {
		pid_t pid = fork();
		if (!pid) {
			struct blob_partial *p;
			struct blob_store *s = open_store(key);
			if (blob_partial_open(s, &list, &p, NULL))
				_exit(1);
			for (uint32_t i = 0; i < CHUNKS; i++)
				blob_partial_write(p, (i * 5 + (uint32_t)round) % CHUNKS,
				                   chunk_of(&list, bytes, (i * 5 + (uint32_t)round) % CHUNKS), NULL);
			pause();
		}
		usleep(2000 * (useconds_t)(round + 1));
		kill(pid, SIGKILL);
		int status;
		waitpid(pid, &status, 0);
		assert_true(WIFSIGNALED(status));
		struct blob_store *s = open_store(key);
		struct blob_partial *p;
		struct blob_file *f;
		assert_int_equal(blob_partial_open(s, &list, &p, NULL), 0);
		assert_int_equal(blob_partial_file(p, &f, NULL), 0);
		for (uint32_t i = 0; i < CHUNKS; i++) {
			char *got = malloc((size_t)chunk_length(&list, i));
			if (blob_partial_has(p, i)) {
				assert_int_equal(blob_file_read(f, chunk_offset(&list, i), got,
				                                (size_t)chunk_length(&list, i), NULL),
				                 0);
				assert_memory_equal(got, chunk_of(&list, bytes, i).base,
				                    (size_t)chunk_length(&list, i));
			}
			free(got);
		}
		blob_file_close(f);
		if (round % 2)
			blob_partial_discard(p);
		else
			blob_partial_close(p);
		blob_store_close(s);
	}
	chunk_list_fini(&list);
	free((char *)bytes.base);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(test_a_blob_asked_for_is_safe_from_the_collector),
	    TEST(test_a_push_pardons_the_condemned),
	    TEST(test_who_reads_keeps_what_is_swept),
	    TEST(test_quarantine_is_out_of_sight_but_not_gone),
	    TEST(test_digest_set_finds_what_was_added),
	    TEST(test_sealed_blob_reads_as_its_content),
	    TEST(test_content_is_not_on_the_disk),
	    TEST(test_every_change_of_a_sealed_file_is_found),
	    TEST(test_one_sealed_file_cannot_stand_for_another),
	    TEST(test_the_wrong_key_is_told_in_words),
	    TEST(test_plain_and_sealed_blobs_live_together),
	    TEST(test_sealed_chunks_in_any_order_become_the_blob),
	    TEST(test_torn_segment_costs_the_chunks_that_share_it),
	    TEST(test_killed_while_receiving_sealed_chunks),
	    TEST(test_key_changes_without_writing_the_content),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
