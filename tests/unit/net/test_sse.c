/* SPDX-License-Identifier: Apache-2.0 */
/* test_sse.c - event streams: the standard's cases, in every cut. */
#include "net_test.h"

#include "net/sse.h"

static struct buf seen;

static int on_event(void *arg, struct str event, struct str data)
{
	(void)arg;
	buf_printf(&seen, "[" STR_FMT "|" STR_FMT "]", STR_ARG(event), STR_ARG(data));
	return str_equal(data, STR("stop")) ? -77 : 0;
}

static int parse(const char *text, size_t len, size_t cut, size_t max)
{
	struct sse_parser p;
	struct error err;
	int rc = 0;
	buf_clear(&seen);
	sse_parser_init(&p, max, on_event, NULL);
	for (size_t at = 0; at < len && rc == 0; at += cut) {
		char *piece = malloc(cut); /* exact, so that a read past it is seen */
		size_t n = len - at < cut ? len - at : cut;
		memcpy(piece, text + at, n);
		rc = sse_parser_feed(&p, (struct str){piece, n}, &err);
		free(piece);
	}
	sse_parser_fini(&p);
	buf_append(&seen, "", 1);
	return rc;
}

static void test_events_in_any_cut(void **state)
{
	(void)state;
	static const char *const cases[][2] = {
	    {"data: a\n\n", "[|a]"},
	    {"data:a\r\n\r\ndata: b\r\rdata:  c\n\n", "[|a][|b][| c]"},
	    {"event: x\ndata: 1\ndata\ndata: 3\n\ndata: y\n\n", "[x|1\n\n3][|y]"},
	    {": comment\n\nid: 1\nretry: 5\nevent: lost\n\ndata: kept\n\n", "[|kept]"},
	    {"\xEF\xBB\xBF"
	     "data: bom\n\n",
	     "[|bom]"},
	    {"data\n\n", "[|]"},
	    {"data: a\n\r\ndata: b\n\ndata: never finished", "[|a][|b]"},
	    {"foo: bar\ndata : no\ndata: yes\n\n", "[|yes]"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		for (size_t cut = 1; cut < 40; cut++) {
			assert_int_equal(parse(cases[i][0], strlen(cases[i][0]), cut, 1000), 0);
			assert_string_equal(seen.base, cases[i][1]);
		}
}

static void test_callback_stops_and_size_is_bounded(void **state)
{
	(void)state;
	assert_int_equal(parse("data: stop\n\ndata: x\n\n", 21, 100, 1000), -77);
	assert_string_equal(seen.base, "[|stop]");
	assert_int_equal(parse("data: 12345678901234567890\n\n", 28, 5, 20), E_LIMIT);
	assert_int_equal(parse("data: 123456\ndata: 123456\ndata: 123456\n\n", 40, 100, 20), E_LIMIT);
}

static void test_what_is_written_is_read_back(void **state)
{
	(void)state;
	struct buf out = {0};
	sse_append(&out, STR("roster"), STR("one\ntwo\r\nthree\n"));
	sse_append(&out, STR(""), STR(""));
	sse_append(&out, STR(""), STR("{\"a\":1}"));
	assert_int_equal(parse(out.base, out.len, 3, 1000), 0);
	assert_string_equal(seen.base, "[roster|one\ntwo\nthree\n][|][|{\"a\":1}]");
	buf_fini(&out);
	buf_fini(&seen);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_events_in_any_cut),
	    cmocka_unit_test(test_callback_stops_and_size_is_bounded),
	    cmocka_unit_test(test_what_is_written_is_read_back),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
