/* SPDX-License-Identifier: Apache-2.0 */
/* A report survives the wire unchanged, and hostile ones are refused in words. */
#include "core/report.h"

#include "base/limits.h"
#include "base/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define HEAD "\"id\":\"n-1\",\"roles\":\"edge\",\"state\":\"ready\",\"boot\":7,\"seq\":9"

static struct node_report full(void)
{
	struct node_report r = {
	    .roles = ROLE_EDGE | ROLE_CENTER, .state = NODE_DRAINING, .boot = 1790000000000001, .seq = 42};
	r.wall_us = 1790000000123456;
	strcpy(r.id, "n-0123456789abcdef");
	strcpy(r.name, "Zürich \"1\" \\ edge");
	strcpy(r.site, "zürich");
	strcpy(r.node_url, "https://[::1]:7300");
	strcpy(r.api_url, "http://10.1.2.3:8080");
	r.models = mem_new(2 * sizeof(*r.models));
	r.model_count = 2;
	r.models[0] = (struct model_report){.state = MODEL_READY,
	                                    .have_bytes = 1ull << 40,
	                                    .total_bytes = 1ull << 40,
	                                    .fetch_rate = 1.25e8,
	                                    .running = 3,
	                                    .waiting = 4,
	                                    .slots = 8,
	                                    .context_tokens = 4096,
	                                    .kv_usage = 0.5,
	                                    .tokens_to_prefill = 123456789,
	                                    .prefill_tokens_per_s = 1024,
	                                    .decode_tokens_per_s = 220.5,
	                                    .itl_us = 4500};
	strcpy(r.models[0].name, "smollm2:latest");
	strcpy(r.models[0].digest, "sha256:00");
	r.models[0].memory_bytes = UINT64_C(3) << 30;
	r.models[0].used_wall_us = 1790000000000777;
	r.models[0].pinned = true;
	r.models[1].load_us = 2500000;
	r.models[1].load_progress = 0.5;
	r.models[0].served = 12;
	r.models[0].errors = 1;
	r.models[0].ttft_sum_us = 99000;
	r.models[0].tokens = 400;
	r.models[0].decode_sum_us = 5000000;
	strcpy(r.models[0].file, "weights.gguf");
	r.models[0].source_count = 1;
	strcpy(r.models[0].sources[0].id, "n-9");
	r.models[0].sources[0].rate = 12500000;
	r.label_count = 1;
	r.labels = mem_new(sizeof(*r.labels));
	strcpy(r.labels[0], "rack:7");
	r.memory_bytes = UINT64_C(64) << 30;
	strcpy(r.accelerator, "none");
	r.models[1].state = MODEL_FAILED;
	strcpy(r.models[1].name, "b:1");
	strcpy(r.models[1].error, "no memory for 4 GB");
	r.seen = mem_new(sizeof(*r.seen));
	r.seen_count = 1;
	strcpy(r.seen[0].id, "n-2");
	r.seen[0].dispatched = UINT64_C(9007199254740993); /* past a double's integers */
	r.rtts = mem_new(sizeof(*r.rtts));
	r.rtt_count = 1;
	strcpy(r.rtts[0].id, "n-3");
	r.rtts[0].rtt_us = 20500;
	return r;
}

static void test_report_survives_the_wire_unchanged(void **unused)
{
	struct node_report r = full(), back, copy;
	struct buf one = {0}, two = {0};
	struct error err = {0};
	node_report_format(&r, &one);
	if (node_report_parse(buf_str(&one), &back, &err) < 0)
		fail_msg("%s", err.text);
	node_report_format(&back, &two);
	assert_true(str_equal(buf_str(&one), buf_str(&two)));
	assert_string_equal(back.name, r.name);
	assert_string_equal(back.labels[0], r.labels[0]);
	assert_int_equal(back.memory_bytes, r.memory_bytes);
	assert_int_equal(back.boot, r.boot);
	assert_int_equal(back.seen[0].dispatched, r.seen[0].dispatched);
	assert_memory_equal(back.models, r.models, 2 * sizeof(*r.models));
	assert_int_equal(node_report_copy(&back, &copy), 0);
	assert_ptr_not_equal(copy.models, back.models);
	assert_ptr_not_equal(copy.labels, back.labels);
	assert_string_equal(copy.labels[0], r.labels[0]);
	assert_memory_equal(copy.models, back.models, 2 * sizeof(*r.models));
	node_report_fini(&copy);
	node_report_fini(&back);
	node_report_fini(&r);
	buf_fini(&one);
	buf_fini(&two);
}

static void refused(const char *json, int code, const char *word)
{
	struct node_report r;
	struct error err = {0};
	if (node_report_parse(str_from(json), &r, &err) != code || !strstr(err.text, word))
		fail_msg("%.80s: %d \"%s\"", json, err.code, err.text);
}

static void test_hostile_reports_are_refused_in_words(void **unused)
{
	refused("", E_INVAL, "empty");
	refused("[]", E_INVAL, "object");
	refused("{}", E_INVAL, "\"id\"");
	refused("{\"id\":\"n-1\",\"roles\":\"edge\",\"state\":\"ready\",\"seq\":1}", E_INVAL, "\"boot\"");
	refused("{\"id\":\"n-1\",\"state\":\"ready\",\"boot\":1,\"seq\":1}", E_INVAL, "\"roles\"");
	refused("{\"id\":\"n-1\",\"roles\":\"king\",\"state\":\"ready\",\"boot\":1,\"seq\":1}", E_INVAL, "king");
	refused("{\"id\":\"n-1\",\"roles\":\"edge\",\"state\":\"asleep\",\"boot\":1,\"seq\":1}", E_INVAL, "\"state\"");
	refused("{\"id\":\"../etc\",\"roles\":\"edge\",\"state\":\"ready\",\"boot\":1,\"seq\":1}", E_INVAL, "letters");
	refused("{\"id\":\"n\\u0000x\",\"roles\":\"edge\",\"state\":\"ready\",\"boot\":1,\"seq\":1}", E_INVAL,
	        "control");
	refused("{\"id\":\"n-1\",\"roles\":\"edge\",\"state\":\"ready\",\"boot\":-1,\"seq\":1}", E_INVAL, "boot");
	refused("{\"id\":\"n-1\",\"roles\":\"edge\",\"state\":\"ready\",\"boot\":1e30,\"seq\":1}", E_INVAL, "boot");
	refused("{" HEAD ",\"api_url\":\"javascript:alert(1)\"}", E_INVAL, "URL");
	refused("{" HEAD ",\"api_url\":\"http://a\\\"b\"}", E_INVAL, "URL");
	refused("{" HEAD ",\"models\":{}}", E_INVAL, "models");
	refused("{" HEAD ",\"models\":[1]}", E_INVAL, "models");
	refused("{" HEAD ",\"models\":[{\"state\":\"ready\"}]}", E_INVAL, "name");
	refused("{" HEAD ",\"models\":[{\"name\":\"a\",\"state\":\"ready\",\"slots\":-1}]}", E_INVAL, "slots");
	refused("{" HEAD ",\"models\":[{\"name\":\"a\",\"state\":\"ready\",\"itl_us\":1e300}]}", E_INVAL, "itl_us");
	refused("{" HEAD ",\"rtts\":[{\"id\":\"n-2\",\"rtt_us\":-5}]}", E_INVAL, "rtt_us");
	refused("{" HEAD ",\"seen\":[{\"dispatched\":5}]}", E_INVAL, "\"id\"");
}

static void test_arrays_of_a_report_are_bounded(void **unused)
{
	struct buf json = {0};
	buf_append_str(&json, STR("{" HEAD ",\"models\":["));
	for (int i = 0; i <= LIMIT_NODE_MODELS; i++)
		buf_printf(&json, "%s{\"name\":\"m%d\",\"state\":\"ready\"}", i ? "," : "", i);
	buf_append_str(&json, STR("]}"));
	buf_append(&json, "", 1);
	refused(json.base, E_LIMIT, "257");
	buf_clear(&json);
	buf_append_str(&json, STR("{" HEAD ",\"seen\":["));
	for (int i = 0; i <= REPORT_PEERS_MAX; i++)
		buf_printf(&json, "%s{\"id\":\"n%d\"}", i ? "," : "", i);
	buf_append_str(&json, STR("]}"));
	buf_append(&json, "", 1);
	refused(json.base, E_LIMIT, "4097");
	buf_fini(&json);
}

static void test_long_error_text_is_cut_between_characters(void **unused)
{
	struct buf json = {0};
	struct node_report r;
	buf_append_str(&json, STR("{" HEAD ",\"models\":[{\"name\":\"a\",\"state\":\"failed\",\"error\":\"x\\n"));
	for (int i = 0; i < 200; i++)
		buf_append_str(&json, STR("\xc3\xbc"));
	buf_append_str(&json, STR("\"}]}"));
	assert_int_equal(node_report_parse(buf_str(&json), &r, NULL), 0);
	struct str text = str_from(r.models[0].error);
	assert_true(text.len >= 253 && text.len <= 255);
	assert_int_equal(utf8_valid_prefix(text), text.len);
	assert_memory_equal(text.base, "x ", 2);
	node_report_fini(&r);
	buf_fini(&json);
}

/* Any damage ends in a report or an error, never in a crash; what is accepted can be written and read again. */
static void test_damaged_reports_never_crash(void **unused)
{
	struct node_report r = full(), got;
	struct buf good = {0};
	struct rng rng;
	node_report_format(&r, &good);
	rng_init(&rng, 11);
	for (size_t cut = 0; cut < good.len; cut++) {
		if (node_report_parse((struct str){good.base, cut}, &got, NULL) == 0)
			fail_msg("a report of %zu of %zu bytes was taken", cut, good.len);
	}
	for (int i = 0; i < 4000; i++) {
		char *text = mem_new(good.len);
		memcpy(text, good.base, good.len);
		for (uint64_t n = 1 + rng_below(&rng, 3); n > 0; n--)
			text[rng_below(&rng, good.len)] = "0123456789-\"{}[],:.eE\\ \x80nz"[rng_below(&rng, 27)];
		if (node_report_parse((struct str){text, good.len}, &got, NULL) == 0) {
			struct buf again = {0};
			struct node_report back;
			node_report_format(&got, &again);
			assert_int_equal(node_report_parse(buf_str(&again), &back, NULL), 0);
			node_report_fini(&back);
			node_report_fini(&got);
			buf_fini(&again);
		}
		free(text);
	}
	node_report_fini(&r);
	buf_fini(&good);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_report_survives_the_wire_unchanged),
	    cmocka_unit_test(test_hostile_reports_are_refused_in_words),
	    cmocka_unit_test(test_arrays_of_a_report_are_bounded),
	    cmocka_unit_test(test_long_error_text_is_cut_between_characters),
	    cmocka_unit_test(test_damaged_reports_never_crash),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
