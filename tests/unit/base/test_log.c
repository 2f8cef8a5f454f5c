/* SPDX-License-Identifier: Apache-2.0 */
/* Log lines, read back through a socket that keeps writes apart: one line must be one write. */
#include "base/error.h"
#include "base/json.h"
#include "base/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static int real_stderr, reader;

static int capture(void **state)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	real_stderr = dup(STDERR_FILENO);
	assert_true(dup2(pair[1], STDERR_FILENO) >= 0);
	close(pair[1]);
	reader = pair[0];
	return 0;
}

static int release(void **state)
{
	dup2(real_stderr, STDERR_FILENO);
	close(real_stderr);
	close(reader);
	return 0;
}

/* One write's bytes; "" when there is none. */
static const char *next_write(void)
{
	static char text[65536];
	ssize_t len = recv(reader, text, sizeof(text) - 1, MSG_DONTWAIT);

	text[len > 0 ? len : 0] = '\0';
	return text;
}

static void test_json_line_is_one_write_of_valid_json(void **state)
{
	struct error err = {0};
	yyjson_doc *doc;
	struct str message, node, level, room;

	log_setup(LOG_INFO, true, "edge \"1\"");
	log_warn("gateway", "a \"quoted\"\nline \x01 and bad \xff byte");
	const char *line = next_write();
	size_t len = strlen(line);
	assert_true(len > 0 && line[len - 1] == '\n' && memchr(line, '\n', len - 1) == NULL);
	assert_int_equal(json_parse((struct str){line, len}, &doc, &err), 0);
	yyjson_val *root = yyjson_doc_get_root(doc);
	assert_int_equal(json_str(root, "message", &message, &err), 0);
	assert_true(str_equal(message, STR("a \"quoted\"\nline \x01 and bad \xef\xbf\xbd byte")));
	assert_int_equal(json_str(root, "node", &node, &err), 0);
	assert_true(str_equal(node, STR("edge \"1\"")));
	assert_int_equal(json_str(root, "level", &level, &err), 0);
	assert_true(str_equal(level, STR("warn")));
	assert_int_equal(json_str(root, "room", &room, &err), 0);
	assert_true(str_equal(room, STR("gateway")));
	yyjson_doc_free(doc);
	assert_string_equal(next_write(), "");
}

static void test_text_line_cannot_be_forged(void **state)
{
	log_setup(LOG_INFO, false, NULL);
	log_error("net", "peer said %s",
	          "hi\n12:00 info fake\x1b[2J \xc2\x9b"
	          "2J");
	const char *line = next_write();
	assert_non_null(strstr(line, "error"));
	assert_non_null(strstr(line, "net"));
	assert_non_null(strstr(line, "peer said hi 12:00 info fake [2J   2J\n"));
	assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
}

static void test_level_filters_and_can_change(void **state)
{
	enum log_level level;

	log_setup(LOG_WARN, false, NULL);
	log_info("net", "not wanted");
	assert_string_equal(next_write(), "");
	assert_int_equal(log_level_parse("debug", &level), 0);
	log_set_level(level);
	log_debug("net", "wanted");
	assert_non_null(strstr(next_write(), "wanted"));
	assert_int_equal(log_level_parse("Debug", &level), E_INVAL);
}

static void test_long_message_is_cut_and_still_valid_json(void **state)
{
	static char text[20000];
	struct error err = {0};
	yyjson_doc *doc;

	for (size_t i = 0; i + 1 < sizeof(text); i++)
		text[i] = "\xe2\x82\xac"[i % 3];
	log_setup(LOG_INFO, true, NULL);
	log_info("net", "%s", text);
	const char *line = next_write();
	assert_in_range(strlen(line), 4000, 4300);
	assert_int_equal(json_parse(str_from(line), &doc, &err), 0);
	assert_null(strstr(line, "\xef\xbf\xbd"));
	yyjson_doc_free(doc);
}

static void test_ready_record_passes_as_it_is(void **state)
{
	log_setup(LOG_ERROR, true, NULL);
	log_json("{\"path\":\"/v1/models\"}");
	assert_string_equal(next_write(), "{\"path\":\"/v1/models\"}\n");
}

static void keep_line(void *arg, const char *line, size_t len)
{
	snprintf(arg, 256, "%.*s", (int)len, line);
}

static void test_tap_sees_what_is_written(void **state)
{
	char kept[256] = "";

	log_setup(LOG_INFO, true, NULL);
	log_tap(keep_line, kept);
	log_debug("net", "below the level");
	assert_string_equal(kept, "");
	log_json("{\"status\":200}");
	assert_string_equal(kept, "{\"status\":200}");
	log_tap(NULL, NULL);
	log_info("net", "after");
	assert_string_equal(kept, "{\"status\":200}");
	assert_string_equal(next_write(), "{\"status\":200}\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_json_line_is_one_write_of_valid_json, capture, release),
	    cmocka_unit_test_setup_teardown(test_text_line_cannot_be_forged, capture, release),
	    cmocka_unit_test_setup_teardown(test_level_filters_and_can_change, capture, release),
	    cmocka_unit_test_setup_teardown(test_long_message_is_cut_and_still_valid_json, capture, release),
	    cmocka_unit_test_setup_teardown(test_tap_sees_what_is_written, capture, release),
	    cmocka_unit_test_setup_teardown(test_ready_record_passes_as_it_is, capture, release),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
