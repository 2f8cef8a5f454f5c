/* SPDX-License-Identifier: Apache-2.0 */
/* Tables: aligned, fitted, and never broken by what a node calls itself. */
#include "cli/table.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void check(struct table *t, unsigned width, const char *want)
{
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	table_print_width(t, out, width, false);
	fclose(out);
	assert_string_equal(text, want);
	free(text);
}

static struct table *nodes(void)
{
	struct table *t = table_new("NAME,>LOAD,~MODELS");

	table_add(t, "%s",
	          "\xc3\xa9"
	          "dge-1");
	table_add(t, "%d%%", 7);
	table_add(t, "%s", "smollm2:135m gemma3:270m");
	table_add(t, "%s", "center");
	table_add(t, "%d%%", 100);
	table_add(t, "%s", "");
	return t;
}

static void test_columns_are_aligned_and_empty_cells_shown(void **state)
{
	struct table *t = nodes();

	check(t, 0,
	      "NAME    LOAD  MODELS\n"
	      "\xc3\xa9"
	      "dge-1    7%  smollm2:135m gemma3:270m\n"
	      "center  100%  -\n");
	table_free(t);
	table_free(NULL);
}

static void test_narrow_terminal_shortens_only_what_may_be(void **state)
{
	struct table *t = nodes();

	check(t, 28,
	      "NAME    LOAD  MODELS\n"
	      "\xc3\xa9"
	      "dge-1    7%  smollm2:135m \xe2\x80\xa6\n"
	      "center  100%  -\n");
	check(t, 5, /* no narrower than six */
	      "NAME    LOAD  MODELS\n"
	      "\xc3\xa9"
	      "dge-1    7%  smoll\xe2\x80\xa6\n"
	      "center  100%  -\n");
	table_free(t);
}

static void test_cells_cannot_move_the_cursor_and_rows_are_filled(void **state)
{
	struct table *t = table_new("A,B");

	table_add(t, "%s", "x\n\x1b[2J");
	check(t, 0, "A       B\nx  [2J  -\n");
	table_free(t);
}

static void test_long_cells_are_cut_at_a_character(void **state)
{
	static char text[3 * 2000 + 1];
	struct table *t = table_new("~A");

	for (size_t i = 0; i + 1 < sizeof(text); i++)
		text[i] = "\xe2\x82\xac"[i % 3];
	table_add(t, "%s", text);
	check(t, 7, "A\n\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x80\xa6\n");
	table_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_columns_are_aligned_and_empty_cells_shown),
	    cmocka_unit_test(test_narrow_terminal_shortens_only_what_may_be),
	    cmocka_unit_test(test_cells_cannot_move_the_cursor_and_rows_are_filled),
	    cmocka_unit_test(test_long_cells_are_cut_at_a_character),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
