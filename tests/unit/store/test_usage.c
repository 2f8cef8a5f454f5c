/* SPDX-License-Identifier: Apache-2.0 */
/* Usage records: once each, whole groups or nothing, sums that agree with what was written. */
#include "store/usage.h"

#include "base/file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static struct usage *books;
static char path[64];

static int setup(void **state)
{
	struct error err;
	(void)state;
	snprintf(path, sizeof(path), "/tmp/mdn-usage-XXXXXX");
	int fd = mkstemp(path);
	close(fd);
	unlink(path);
	assert_int_equal(usage_open(str_from(path), true, &books, &err), 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	usage_close(books);
	unlink(path);
	return 0;
}

static struct usage_record record(uint64_t seq, const char *key, const char *team)
{
	struct usage_record r = {.node = "n-1",
	                         .boot = UINT64_MAX >> 1,
	                         .seq = seq,
	                         .at_us = (int64_t)seq * 10,
	                         .month = 670,
	                         .model = "m:latest",
	                         .api = "chat",
	                         .request = "r\"1",
	                         .status = 200,
	                         .prompt_tokens = 10,
	                         .cached_tokens = 3,
	                         .completion_tokens = 5};
	str_copy(str_from(key), r.key, sizeof(r.key));
	str_copy(str_from(team), r.team, sizeof(r.team));
	return r;
}

static bool add(uint64_t seq, const char *key, const char *team)
{
	const struct usage_record r = record(seq, key, team);
	struct error err;
	bool is_new = false;
	assert_int_equal(usage_add(books, &r, &is_new, &err), 0);
	return is_new;
}

static int64_t tokens(const char *key, const char *team)
{
	struct error err;
	int64_t sum = -1;
	assert_int_equal(usage_month_tokens(books, 670, str_from(key), str_from(team), &sum, &err), 0);
	return sum;
}

static void collect(void *arg, const struct usage_record *r)
{
	struct usage_record **at = arg;
	*(*at)++ = *r;
}

static size_t list(const struct usage_query *q, struct usage_record *out)
{
	struct usage_record *at = out;
	struct error err;
	assert_int_equal(usage_each(books, q, collect, &at, &err), 0);
	return (size_t)(at - out);
}

static void test_a_record_counts_once(void **state)
{
	(void)state;
	assert_true(add(1, "k1", "t"));
	assert_false(add(1, "k1", "t"));
	assert_true(add(2, "k2", "t"));
	assert_true(add(3, "k1", ""));
	assert_int_equal(tokens("k1", ""), 30);
	assert_int_equal(tokens("", "t"), 30);
	assert_int_equal(tokens("nobody", ""), 0);
}

static void test_a_group_is_there_whole_or_not_at_all(void **state)
{
	struct error err;
	(void)state;
	assert_int_equal(usage_begin(books, &err), 0);
	add(10, "k1", "t");
	usage_undo(books);
	assert_int_equal(tokens("k1", ""), 30);
	assert_int_equal(usage_begin(books, &err), 0);
	assert_true(add(10, "k1", "t"));
	assert_int_equal(usage_commit(books, &err), 0);
	assert_int_equal(tokens("k1", ""), 45);
}

static void test_records_come_back_as_they_were_page_by_page(void **state)
{
	struct usage_record got[8];
	struct usage_query q = {.limit = 3};
	struct error err;
	(void)state;
	assert_int_equal(list(&q, got), 3);
	const struct usage_record expected = record(1, "k1", "t");
	got[0].serial = 0;
	assert_memory_equal(&got[0], &expected, sizeof(expected));
	q.after = got[2].serial;
	assert_int_equal(list(&q, got), 1);
	assert_int_equal(got[0].seq, 10);
	q = (struct usage_query){.limit = 8, .key = STR("k1"), .team = STR("t"), .from_us = 11};
	assert_int_equal(list(&q, got), 1);
	q = (struct usage_query){.limit = 8, .to_us = 30};
	assert_int_equal(list(&q, got), 2);
	assert_int_equal(usage_drop(books, got[1].serial, &err), 0); /* given away: the sums stay */
	q = (struct usage_query){.limit = 8};
	assert_int_equal(list(&q, got), 2);
	assert_int_equal(tokens("k1", ""), 45);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_a_record_counts_once),
	    cmocka_unit_test(test_a_group_is_there_whole_or_not_at_all),
	    cmocka_unit_test(test_records_come_back_as_they_were_page_by_page),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
