/* SPDX-License-Identifier: Apache-2.0 */
/* Forms, lines and files of batches; the whole of them is in tests/e2e/test_batches.py. And the description of the API
 * against the table of routes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "serve/gateway/batch_line.h"
#include "serve/gateway/batch_scan.h"
#include "serve/gateway/internal.h"
#include "serve/gateway/multipart.h"
#include "serve/gateway/openapi.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- multipart ------------------------------------------------------------------------------------- */

struct form {
	struct buf told;
};

static int on_part(void *arg, struct str name, struct str filename, struct error *err)
{
	struct form *f = arg;

	(void)err;
	buf_printf(&f->told, "[" STR_FMT "|%s" STR_FMT ":", STR_ARG(name), filename.base ? "" : "-", STR_ARG(filename));
	return 0;
}

static int on_data(void *arg, struct str data, struct error *err)
{
	(void)err;
	buf_append_str(&((struct form *)arg)->told, data);
	return 0;
}

static int on_end(void *arg, struct error *err)
{
	(void)err;
	buf_append(&((struct form *)arg)->told, "]", 1);
	return 0;
}

static const struct multipart_events events = {on_part, on_data, on_end};

static int read_form(const char *type, struct str body, size_t step, struct form *f)
{
	struct multipart m;
	struct error err;
	int rc = multipart_init(&m, str_from(type), &events, f, &err);

	for (size_t at = 0; rc == 0 && at < body.len; at += step)
		rc =
		    multipart_feed(&m, (struct str){body.base + at, body.len - at < step ? body.len - at : step}, &err);
	if (rc == 0)
		rc = multipart_finish(&m, &err);
	multipart_fini(&m);
	return rc;
}

#define FORM \
	"--b\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n" \
	"--b \t\r\ncontent-type: x/y\r\nCONTENT-DISPOSITION: form-data; name=file; " \
	"filename=\"a\\\"b;c.jsonl\"\r\n\r\n" \
	"one\r\n--\r\n--c\r\n-\r\r\n--b\r\nContent-Disposition: form-data; " \
	"name=\"empty\"\r\n\r\n\r\n--b--\r\nepilogue --b"
#define TOLD "[purpose|-:batch][file|a\"b;c.jsonl:one\r\n--\r\n--c\r\n-\r][empty|-:]"

static void test_a_form_is_read_the_same_however_it_is_cut(void **state)
{
	(void)state;
	for (size_t step = 1; step < sizeof(FORM); step++) {
		struct form f = {0};

		assert_int_equal(read_form("multipart/form-data; boundary=b", STR(FORM), step, &f), 0);
		assert_int_equal(f.told.len, sizeof(TOLD) - 1);
		assert_memory_equal(f.told.base, TOLD, sizeof(TOLD) - 1);
		buf_fini(&f.told);
	}
}

static void test_what_is_no_form_is_refused(void **state)
{
	static const struct {
		const char *type, *body;
	} bad[] = {
	    {"multipart/form-data", ""},
	    {"multipart/form-data; boundary=", ""},
	    {"multipart/form-data; boundary=0123456789012345678901234567890123456789012345678901234567890123456789012",
	     ""},
	    {"application/json", "{}"},
	    {"multipart/form-data; boundary=b", ""},
	    {"multipart/form-data; boundary=b", "--b"},
	    {"multipart/form-data; boundary=b", "--b\r\nContent-Disposition: form-data; name=a\r\n\r\nx"},
	    {"multipart/form-data; boundary=b", "--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--"},
	    {"multipart/form-data; boundary=b", "--b\r\nX: y\r\n\r\nx\r\n--b--"},
	    {"multipart/form-data; boundary=b", "--bx\r\nContent-Disposition: form-data; name=a\r\n\r\nx\r\n--b--"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct form f = {0};

		assert_int_equal(read_form(bad[i].type, str_from(bad[i].body), 7, &f), E_INVAL);
		buf_fini(&f.told);
	}
}

/* ---- lines -------------------------------------------------------------------------------------------- */

#define URL "/v1/chat/completions"
#define LINE(id, body) "{\"custom_id\":" id ",\"method\":\"POST\",\"url\":\"" URL "\",\"body\":" body "}"

static void test_a_line_that_came_out_tells_whose_it_is(void **state)
{
	static const char *const ids[] = {"a", "\"quoted\\\"", "line\nend \t", "\xc3\xbc", "a\",\"response\":null"};
	struct buf line = {0}, id = {0};

	(void)state;
	for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
		buf_clear(&line);
		batch_line_answer(&line, STR("batch_req_000000000000000000000000"), str_from(ids[i]), 200,
		                  STR("{\n \"a\": \"\\n\"\r\n}"));
		assert_ptr_equal(memchr(line.base, '\n', line.len), line.base + line.len - 1);
		assert_true(batch_line_answered(buf_str(&line), &id));
		assert_true(str_equal(buf_str(&id), str_from(ids[i])));
		buf_clear(&line);
		batch_line_error(&line, STR("batch_req_000000000000000000000000"), str_from(ids[i]), "code", "words");
		assert_true(batch_line_answered(buf_str(&line), &id));
		assert_true(str_equal(buf_str(&id), str_from(ids[i])));
	}
	assert_false(batch_line_answered((struct str){line.base, 50}, &id));
	buf_fini(&line);
	buf_fini(&id);
}

static void write_file(const char *path, const char *text)
{
	struct error err;

	assert_int_equal(file_write(path, 0600, str_from(text), &err), 0);
}

static struct batch_scan *scan_new(const char *folder)
{
	struct batch_scan *s = NEW(struct batch_scan);

	s->input = file_join(str_from(folder), "in");
	s->output = file_join(str_from(folder), "out");
	s->errors = file_join(str_from(folder), "errors");
	strcpy(s->endpoint, URL);
	return s;
}

#define DONE(id) \
	"{\"id\":\"batch_req_000000000000000000000000\",\"custom_id\":\"" id "\",\"response\":null,\"error\":null}\n"

static void test_what_was_answered_before_a_crash_is_found_again(void **state)
{
	char folder[] = "/tmp/mdn-scan-XXXXXX";

	(void)state;
	assert_non_null(mkdtemp(folder));
	struct batch_scan *s = scan_new(folder);
	write_file(s->input, LINE("\"a\"", "{\"model\":\"m\"}") "\r\n\n" LINE("\"b\"", "{\"model\":\"m\"}") "\n" LINE(
				 "\"c\"", "{\"model\":\"m\"}"));
	write_file(s->output, DONE("b") "{\"id\":\"batch_req_000000000000000000000000\",\"custom_id\":\"c\",\"respo");
	write_file(s->errors, DONE("a") DONE("a") DONE("stranger"));
	batch_scan_work(s);
	assert_int_equal(s->err.code, 0);
	assert_int_equal(s->wrong_count, 0);
	assert_int_equal(s->count, 3);
	assert_true(s->places[0].done && s->places[1].done && !s->places[2].done);
	assert_int_equal(s->completed, 1);
	assert_int_equal(s->failed, 1);
	assert_int_equal(s->output_bytes, strlen(DONE("b"))); /* what was cut off is written again */
	assert_int_equal(s->places[2].line, 4);
	batch_scan_free(s);
	assert_int_equal(folder_remove(folder, NULL), 0);
}

static void test_a_batch_has_so_many_lines_and_no_more(void **state)
{
	char folder[] = "/tmp/mdn-scan-XXXXXX";
	struct buf text = {0};
	struct error err;

	(void)state;
	assert_non_null(mkdtemp(folder));
	for (int more = 0; more < 2; more++) {
		struct batch_scan *s = scan_new(folder);

		buf_clear(&text);
		for (int i = 0; i < LIMIT_BATCH_LINES + more; i++)
			buf_printf(&text, LINE("\"%d\"", "{\"model\":\"m\"}") "\n", i);
		assert_int_equal(file_write(s->input, 0600, buf_str(&text), &err), 0);
		batch_scan_work(s);
		assert_int_equal(s->count, LIMIT_BATCH_LINES);
		assert_int_equal(s->wrong_count > 0, more);
		assert_true(!more || memmem(s->wrong.base, s->wrong.len, "too_many_requests", 17) != NULL);
		batch_scan_free(s);
	}
	buf_fini(&text);
	assert_int_equal(folder_remove(folder, NULL), 0);
}

/* ---- the description of the API ------------------------------------------------------------------------- */

static bool describes(yyjson_val *paths, const char *path, const char *methods)
{
	static const char *const names[][2] = {{"GET", "get"}, {"POST", "post"}, {"DELETE", "delete"}};
	const char *dots = strstr(path, "...}");
	char as[128];

	snprintf(as, sizeof(as), "%.*s%s", (int)(dots ? (size_t)(dots - path) : strlen(path)), path, dots ? "}" : "");
	yyjson_val *item = yyjson_obj_get(paths, as);
	for (size_t i = 0; item && i < 3; i++)
		if ((strstr(methods, names[i][0]) != NULL) != (yyjson_obj_get(item, names[i][1]) != NULL))
			return false;
	return item != NULL;
}

static void test_the_description_has_every_route_and_no_other(void **state)
{
	struct error err;
	yyjson_doc *doc;
	const char *path, *methods;
	size_t count = 0;

	(void)state;
	assert_int_equal(json_parse((struct str){(const char *)openapi_json, openapi_json_size}, &doc, &err), 0);
	yyjson_val *paths = yyjson_obj_get(yyjson_doc_get_root(doc), "paths");
	for (; gateway_route(count, &path, &methods); count++)
		if (!describes(paths, path, methods))
			fail_msg("openapi.json does not describe %s with %s", path, methods);
	assert_int_equal(count, yyjson_obj_size(paths));
	yyjson_doc_free(doc);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_a_form_is_read_the_same_however_it_is_cut),
	    cmocka_unit_test(test_what_is_no_form_is_refused),
	    cmocka_unit_test(test_a_line_that_came_out_tells_whose_it_is),
	    cmocka_unit_test(test_what_was_answered_before_a_crash_is_found_again),
	    cmocka_unit_test(test_a_batch_has_so_many_lines_and_no_more),
	    cmocka_unit_test(test_the_description_has_every_route_and_no_other),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
