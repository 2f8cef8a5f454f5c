/* SPDX-License-Identifier: Apache-2.0 */
/* Child processes of a loop: lines, ends, killing, letting go. */
#include "net/child.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

static struct loop *loop;
static struct child *child;

struct seen {
	struct buf lines;
	int64_t status;
	int signal, exits;
	char errors[512];
	bool kill_on_line;
};

static void on_line(void *arg, struct str line)
{
	struct seen *s = arg;
	buf_append_str(&s->lines, line);
	buf_append(&s->lines, "|", 1);
	if (s->kill_on_line)
		child_kill(child);
}

static void on_exit_child(void *arg, int64_t status, int signum, struct str errors)
{
	struct seen *s = arg;
	s->status = status;
	s->signal = signum;
	s->exits++;
	str_copy(errors, s->errors, sizeof s->errors);
	child_free(child);
	child = NULL;
	loop_stop(loop);
}

static int start(struct seen *s, const char *script, struct error *err)
{
	char *argv[] = {"sh", "-c", (char *)script, NULL};
	struct child_options o = {
	    .file = "/bin/sh", .argv = argv, .on_line = on_line, .on_exit = on_exit_child, .arg = s};
	return child_start(loop, &o, &child, err);
}

static int setup(void **state)
{
	return loop_new(&loop);
}

static int teardown(void **state)
{
	loop_free(loop);
	return 0;
}

static void test_lines_and_last_words_come_before_the_end(void **state)
{
	struct seen s = {0};
	assert_int_equal(start(&s, "echo 1 2; echo 3; printf rest; echo 'it failed' >&2; exit 3", NULL), 0);
	loop_run(loop);
	assert_true(str_equal(buf_str(&s.lines), STR("1 2|3|")));
	assert_int_equal(s.status, 3);
	assert_int_equal(s.signal, 0);
	assert_string_equal(s.errors, "it failed");
	assert_int_equal(s.exits, 1);
	buf_fini(&s.lines);
}

static void test_a_killed_child_ends_with_its_signal(void **state)
{
	struct seen s = {.kill_on_line = true};
	assert_int_equal(start(&s, "echo x; exec sleep 60", NULL), 0);
	loop_run(loop);
	assert_int_equal(s.signal, SIGKILL);
	buf_fini(&s.lines);
}

static void test_much_output_is_bounded(void **state)
{
	struct seen s = {0};
	assert_int_equal(
	    start(&s, "head -c 100000 /dev/zero | tr '\\0' a; echo; head -c 100000 /dev/zero | tr '\\0' b >&2", NULL),
	    0);
	loop_run(loop);
	assert_int_equal(s.lines.len, CHILD_LINE_MAX + 1);
	assert_int_equal(strlen(s.errors), CHILD_ERRORS_MAX);
	buf_fini(&s.lines);
}

static void test_who_is_let_go_says_nothing_more(void **state)
{
	struct seen s = {0};
	assert_int_equal(start(&s, "sleep 60", NULL), 0);
	child_free(child);
	child = NULL;
	assert_int_equal(s.exits, 0); /* and loop_free waits for its end */
}

static void test_what_cannot_be_started_is_told(void **state)
{
	struct error err = {0};
	char *argv[] = {"x", NULL};
	struct child_options o = {.file = "/nonexistent/x", .argv = argv, .on_exit = on_exit_child};
	assert_int_equal(child_start(loop, &o, &child, &err), E_IO);
	assert_non_null(strstr(err.text, "cannot start"));
	child = NULL;
}

/* The last one: our own nice cannot be taken back. */
static void test_a_niced_parent_has_niced_children(void **state)
{
	struct seen s = {0};

	if (access("/proc/self/autogroup", R_OK) != 0)
		skip(); /* this kernel has no autogroups */
	assert_int_not_equal(nice(3), -1);
	assert_int_equal(start(&s, "sleep 0.3; read -r group word nice < /proc/self/autogroup; echo $nice", NULL), 0);
	loop_run(loop);
	char expected[32];
	snprintf(expected, sizeof(expected), "%d|", getpriority(PRIO_PROCESS, 0));
	assert_true(str_equal(buf_str(&s.lines), str_from(expected)));
	buf_fini(&s.lines);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(test_lines_and_last_words_come_before_the_end),
	    TEST(test_a_killed_child_ends_with_its_signal),
	    TEST(test_much_output_is_bounded),
	    TEST(test_who_is_let_go_says_nothing_more),
	    TEST(test_what_cannot_be_started_is_told),
	    TEST(test_a_niced_parent_has_niced_children),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
