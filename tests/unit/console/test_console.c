/* SPDX-License-Identifier: Apache-2.0 */
/* Who may see the console: tickets and cookies, with the time as they are told it. */
#include "base/clock.h"
#include "base/file.h"
#include "serve/console/files.h"
#include "serve/console/session.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define NOW (INT64_C(1700000000) * US_PER_S)

static char folder[64], path[128];

static int make_folder(void **state)
{
	snprintf(folder, sizeof folder, "/tmp/mdn-console-XXXXXX");
	if (!mkdtemp(folder))
		return -1;
	snprintf(path, sizeof path, "%s/console.secret", folder);
	return 0;
}

static int remove_folder(void **state)
{
	return folder_remove(folder, NULL);
}

static struct sessions begin(void)
{
	struct sessions s = {0};
	assert_int_equal(sessions_init(&s, str_from(path), NULL), 0);
	return s;
}

static void test_a_ticket_is_good_once_and_for_five_minutes(void **state)
{
	struct sessions s = begin();
	char first[TICKET_SIZE], second[TICKET_SIZE];
	memcpy(first, sessions_ticket_new(&s, NOW), TICKET_SIZE);
	memcpy(second, sessions_ticket_new(&s, NOW), TICKET_SIZE);
	assert_int_equal(strlen(first), TICKET_SIZE - 1);
	assert_string_not_equal(first, second);
	assert_false(sessions_ticket_take(&s, STR(""), NOW));
	assert_false(sessions_ticket_take(&s, STR("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"), NOW));
	assert_true(sessions_ticket_take(&s, str_from(first), NOW));
	assert_false(sessions_ticket_take(&s, str_from(first), NOW));
	assert_false(sessions_ticket_take(&s, str_from(second), NOW + TICKET_LIFE_US));
	/* An unused place of the table is no ticket. */
	char zeros[TICKET_SIZE] = {0};
	assert_false(sessions_ticket_take(&s, (struct str){zeros, TICKET_SIZE - 1}, NOW));
	sessions_fini(&s);
}

static void test_of_many_tickets_the_newest_are_kept(void **state)
{
	struct sessions s = begin();
	char tickets[SESSION_TICKETS + 1][TICKET_SIZE];
	for (size_t i = 0; i <= SESSION_TICKETS; i++)
		memcpy(tickets[i], sessions_ticket_new(&s, NOW), TICKET_SIZE);
	assert_false(sessions_ticket_take(&s, str_from(tickets[0]), NOW));
	for (size_t i = 1; i <= SESSION_TICKETS; i++)
		assert_true(sessions_ticket_take(&s, str_from(tickets[i]), NOW));
	sessions_fini(&s);
}

static int64_t left(const struct sessions *s, const char *format, const char *value, int64_t now)
{
	char header[512];
	snprintf(header, sizeof header, format, s->name, value);
	return sessions_left_s(s, str_from(header), now);
}

static void test_a_cookie_is_good_for_a_day_and_for_its_own_center(void **state)
{
	struct sessions s = begin();
	char value[COOKIE_SIZE], bent[COOKIE_SIZE];
	sessions_cookie(&s, NOW, value);
	assert_int_equal(left(&s, "%s=%s", value, NOW), SESSION_LIFE_S);
	assert_int_equal(left(&s, "theme=dark; %s=%s; a", value, NOW + US_PER_S), SESSION_LIFE_S - 1);
	assert_int_equal(left(&s, "%s=%s", value, NOW + SESSION_LIFE_S * US_PER_S), 0);
	assert_int_equal(left(&s, "%s=%s", value, NOW - 10 * US_PER_S), 0); /* longer than any that was made */
	assert_int_equal(left(&s, "x%s=%s", value, NOW), 0);
	for (size_t i = 0; value[i]; i++) {
		memcpy(bent, value, sizeof bent);
		bent[i] = bent[i] == '1' ? '2' : '1';
		assert_int_equal(left(&s, "%s=%s", bent, NOW), 0);
	}
	memcpy(bent, value, sizeof bent);
	bent[strlen(bent) - 1] = 0;
	assert_int_equal(left(&s, "%s=%s", bent, NOW), 0);
	assert_int_equal(left(&s, "%s=%s", "", NOW), 0);
	assert_int_equal(sessions_left_s(&s, STR(";;=;=="), NOW), 0);
	sessions_fini(&s);
}

static void test_sessions_outlive_a_restart_until_all_are_ended(void **state)
{
	struct sessions s = begin();
	char value[COOKIE_SIZE];
	struct stat st;
	sessions_cookie(&s, NOW, value);
	sessions_fini(&s);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	s = begin();
	assert_true(left(&s, "%s=%s", value, NOW) > 0);
	char ticket[TICKET_SIZE];
	memcpy(ticket, sessions_ticket_new(&s, NOW), TICKET_SIZE);
	assert_int_equal(sessions_end_all(&s, NULL), 0);
	assert_int_equal(left(&s, "%s=%s", value, NOW), 0);
	assert_false(sessions_ticket_take(&s, str_from(ticket), NOW));
	sessions_fini(&s);
	/* A damaged file ends them, too, but not the center. */
	assert_int_equal(file_write(path, 0600, STR("short"), NULL), 0);
	s = begin();
	sessions_cookie(&s, NOW, value);
	assert_true(left(&s, "%s=%s", value, NOW) > 0);
	sessions_fini(&s);
}

static void test_the_page_is_built_in_with_nothing_inline(void **state)
{
	bool page = false;
	for (const struct console_file *f = console_files; f->name; f++) {
		assert_true(f->size > 0 && f->etag[0] == '"' && strchr(f->type, '/'));
		if (strcmp(f->name, "index.html") != 0)
			continue;
		page = true;
		assert_null(memmem(f->data, f->size, "<style", 6));
		assert_null(memmem(f->data, f->size, "://", 3));
	}
	assert_true(page);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_a_ticket_is_good_once_and_for_five_minutes, make_folder,
	                                    remove_folder),
	    cmocka_unit_test_setup_teardown(test_of_many_tickets_the_newest_are_kept, make_folder, remove_folder),
	    cmocka_unit_test_setup_teardown(test_a_cookie_is_good_for_a_day_and_for_its_own_center, make_folder,
	                                    remove_folder),
	    cmocka_unit_test_setup_teardown(test_sessions_outlive_a_restart_until_all_are_ended, make_folder,
	                                    remove_folder),
	    cmocka_unit_test(test_the_page_is_built_in_with_nothing_inline),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
