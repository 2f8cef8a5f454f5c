/* SPDX-License-Identifier: Apache-2.0 */
#include "asks.h"

#include <stdlib.h>

#define MESSAGES "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"
#define CHAT(rest) "{\"model\":\"m\"," MESSAGES "," rest "}"
#define TEXT(rest) "{\"model\":\"m\",\"prompt\":\"p\"," rest "}"
#define TOOLS "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]"

static const struct bad_ask bads[] = {
    {&dialect_chat, "", ""},
    {&dialect_chat, "{", ""},
    {&dialect_chat, "[]", ""},
    {&dialect_chat, "{}", "model"},
    {&dialect_chat, "{\"model\":1}", "model"},
    {&dialect_chat, "{\"model\":\"\"}", "model"},
    {&dialect_chat, "{\"model\":\"m\"}", "messages"},
    {&dialect_chat, "{\"model\":\"m\",\"messages\":{}}", "messages"},
    {&dialect_chat, "{\"model\":\"m\",\"messages\":[]}", "messages"},
    {&dialect_chat, "{\"model\":\"m\",\"messages\":[1]}", "messages[0]"},
    {&dialect_chat, "{\"model\":\"m\",\"messages\":[{\"content\":\"x\"}]}", "messages[0].role"},
    {&dialect_chat, "{\"model\":\"m\",\"messages\":[{\"role\":\"wizard\",\"content\":\"x\"}]}", "messages[0].role"},
    {&dialect_chat, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\"}]}", "messages[0].content"},
    {&dialect_chat, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":5}]}", "messages[0].content"},
    {&dialect_chat, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":[1]}]}", "messages[0].content[0]"},
    {&dialect_chat, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}",
     "messages[0].content[0].type"},
    {&dialect_chat, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]}",
     "messages[0].content[0].text"},
    {&dialect_chat, "{\"model\":\"m\",\"messages\":[{\"role\":\"tool\",\"content\":\"x\"}]}",
     "messages[0].tool_call_id"},
    {&dialect_chat, "{\"model\":\"m\",\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{}]}]}",
     "messages[0].tool_calls[0]"},
    {&dialect_chat, CHAT("\"stream\":\"yes\""), "stream"},
    {&dialect_chat, CHAT("\"stream_options\":{}"), "stream_options"},
    {&dialect_chat, CHAT("\"stream\":true,\"stream_options\":{\"include_usage\":1}"), "stream_options.include_usage"},
    {&dialect_chat, CHAT("\"n\":0"), "n"},
    {&dialect_chat, CHAT("\"n\":17"), "n"},
    {&dialect_chat, CHAT("\"temperature\":\"hot\""), "temperature"},
    {&dialect_chat, CHAT("\"temperature\":2.1"), "temperature"},
    {&dialect_chat, CHAT("\"top_p\":-0.1"), "top_p"},
    {&dialect_chat, CHAT("\"min_p\":2"), "min_p"},
    {&dialect_chat, CHAT("\"top_k\":1.5"), "top_k"},
    {&dialect_chat, CHAT("\"presence_penalty\":3"), "presence_penalty"},
    {&dialect_chat, CHAT("\"frequency_penalty\":[]"), "frequency_penalty"},
    {&dialect_chat, CHAT("\"repetition_penalty\":0"), "repetition_penalty"},
    {&dialect_chat, CHAT("\"max_tokens\":-1"), "max_tokens"},
    {&dialect_chat, CHAT("\"max_completion_tokens\":\"9\""), "max_completion_tokens"},
    {&dialect_chat, CHAT("\"seed\":1.5"), "seed"},
    {&dialect_chat, CHAT("\"stop\":5"), "stop"},
    {&dialect_chat, CHAT("\"stop\":\"\""), "stop"},
    {&dialect_chat, CHAT("\"stop\":[\"a\",null]"), "stop"},
    {&dialect_chat, CHAT("\"logit_bias\":[]"), "logit_bias"},
    {&dialect_chat, CHAT("\"logit_bias\":{\"x\":1}"), "logit_bias"},
    {&dialect_chat, CHAT("\"logit_bias\":{\"5\":101}"), "logit_bias"},
    {&dialect_chat, CHAT("\"logprobs\":3"), "logprobs"},
    {&dialect_chat, CHAT("\"top_logprobs\":3"), "top_logprobs"},
    {&dialect_chat, CHAT("\"logprobs\":true,\"top_logprobs\":21"), "top_logprobs"},
    {&dialect_chat, CHAT("\"user\":7"), "user"},
    {&dialect_chat, CHAT("\"tools\":{}"), "tools"},
    {&dialect_chat, CHAT("\"tools\":[{\"type\":\"web\"}]"), "tools[0].type"},
    {&dialect_chat, CHAT("\"tools\":[{\"type\":\"function\"}]"), "tools[0].function.name"},
    {&dialect_chat, CHAT("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":1}}]"),
     "tools[0].function.parameters"},
    {&dialect_chat, CHAT("\"tool_choice\":\"required\""), "tool_choice"},
    {&dialect_chat, CHAT("\"tool_choice\":3"), "tool_choice"},
    {&dialect_chat, CHAT(TOOLS ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"g\"}}"),
     "tool_choice"},
    {&dialect_chat, CHAT("\"functions\":[]"), "functions"},
    {&dialect_chat, CHAT("\"response_format\":\"json\""), "response_format"},
    {&dialect_chat, CHAT("\"response_format\":{\"type\":\"xml\"}"), "response_format.type"},
    {&dialect_chat, CHAT("\"response_format\":{\"type\":\"json_schema\"}"), "response_format.json_schema.name"},
    {&dialect_chat, CHAT("\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"x\"}}"),
     "response_format.json_schema.schema"},
    {&dialect_completion, "{\"model\":\"m\"}", "prompt"},
    {&dialect_completion, "{\"model\":\"m\",\"prompt\":[]}", "prompt"},
    {&dialect_completion, "{\"model\":\"m\",\"prompt\":[1,-2]}", "prompt"},
    {&dialect_completion, "{\"model\":\"m\",\"prompt\":[1,\"a\"]}", "prompt"},
    {&dialect_completion, "{\"model\":\"m\",\"prompt\":[1.5]}", "prompt"},
    {&dialect_completion, "{\"model\":\"m\",\"prompt\":[[1],2]}", "prompt"},
    {&dialect_completion, "{\"model\":\"m\",\"prompt\":[[1],[]]}", "prompt"},
    {&dialect_completion, "{\"model\":\"m\",\"prompt\":[4294967296]}", "prompt"},
    {&dialect_completion, "{\"model\":\"m\",\"prompt\":[\"a\",\"b\",\"c\"],\"n\":6}", "n"},
    {&dialect_completion, TEXT("\"echo\":1"), "echo"},
    {&dialect_completion, TEXT("\"suffix\":5"), "suffix"},
    {&dialect_completion, TEXT("\"best_of\":1,\"n\":2"), "best_of"},
    {&dialect_completion, TEXT("\"best_of\":2,\"stream\":true"), "best_of"},
    {&dialect_completion, TEXT("\"best_of\":17"), "best_of"},
    {&dialect_chat, CHAT("\"typical_p\":2"), "typical_p"},
    {&dialect_chat, CHAT("\"mirostat\":3"), "mirostat"},
    {&dialect_chat, CHAT("\"mirostat_tau\":-1"), "mirostat_tau"},
    {&dialect_chat, CHAT("\"priority\":\"system\""), "priority"},
    {&dialect_chat, CHAT("\"priority\":\"soon\""), "priority"},
    {&dialect_chat, CHAT("\"priority\":1.5"), "priority"},
    {&dialect_chat, CHAT("\"cache_salt\":1"), "cache_salt"},
    {&dialect_completion, TEXT("\"logprobs\":true"), "logprobs"},
};

static void test_every_wrong_field_is_named(void **state)
{
	(void)state;
	assert_refused(bads, sizeof(bads) / sizeof(bads[0]));
}

static void test_a_full_request_is_read(void **state)
{
	static const char body[] =
	    CHAT("\"stream\":true,\"stream_options\":{\"include_usage\":true,\"later\":1},\"n\":2,\"temperature\":0,"
	         "\"top_p\":0.5,"
	         "\"top_k\":-1,\"min_p\":0.1,\"presence_penalty\":-1,\"frequency_penalty\":1,\"repeat_penalty\":1.1,"
	         "\"seed\":-5,\"stop\":[\"a\",\"b\"],\"logit_bias\":{\"7\":-100},\"logprobs\":true,\"top_logprobs\":2,"
	         "\"max_tokens\":5,\"max_completion_tokens\":9,\"user\":\"u\"," TOOLS
	         ",\"tool_choice\":{\"type\":\"function\","
	         "\"function\":{\"name\":\"f\"}},\"response_format\":{\"type\":\"json_object\"},\"not_of_this_year\":{}"
	         ",\"stream_x\":null");
	struct api_request r;
	struct fault fault;
	struct buf out = {0};

	(void)state;
	if (api_request_parse(str_from(body), &dialect_chat, &r, &fault) < 0)
		fail_msg("%s", fault.err.text);
	assert_true(r.stream && r.include_usage && r.json_object && r.sampling.has_seed);
	assert_int_equal(r.n, 2);
	assert_int_equal(r.max_tokens, 9);
	assert_int_equal(r.logprobs, 2);
	assert_int_equal(r.sampling.top_k, 0);
	assert_int_equal(r.stop_count, 2);
	assert_int_equal(r.sampling.bias_tokens[0], 7);
	assert_true(str_equal(r.tool_choice, STR("required")));
	api_request_tools(&r, &out);
	assert_true(str_equal(buf_str(&out), STR("[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]")));
	buf_clear(&out);
	api_request_schema(&r, &out);
	assert_true(str_equal(buf_str(&out), STR("{}")));
	buf_fini(&out);
	api_request_fini(&r);
}

static void test_messages_are_rewritten_for_templates(void **state)
{
	static const char body[] =
	    "{\"model\":\"m\",\"messages\":[{\"role\":\"developer\",\"content\":\"be \\\"kind\\\"\"},"
	    "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"one\"},{\"type\":\"text\",\"text\":\"two\"}]"
	    "},"
	    "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"c\",\"type\":\"function\",\"function\":"
	    "{\"name\":\"f\",\"arguments\":\"{}\"}}]},{\"role\":\"tool\",\"tool_call_id\":\"c\",\"content\":[]}]}";
	static const char expected[] =
	    "[{\"role\":\"system\",\"content\":\"be \\\"kind\\\"\"},{\"role\":\"user\",\"content\":\"one\\ntwo\"},"
	    "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"c\",\"type\":\"function\",\"function\":"
	    "{\"name\":\"f\",\"arguments\":\"{}\"}}]},{\"role\":\"tool\",\"tool_call_id\":\"c\",\"content\":\"\"}]";
	struct api_request r;
	struct fault fault;
	struct buf out = {0};

	(void)state;
	if (api_request_parse(str_from(body), &dialect_chat, &r, &fault) < 0)
		fail_msg("%s", fault.err.text);
	api_request_messages(&r, &out);
	buf_append(&out, "", 1);
	assert_string_equal(out.base, expected);
	buf_fini(&out);
	api_request_fini(&r);
}

static struct api_answer answer_of(const struct dialect *dialect, const struct api_request *in)
{
	struct api_answer a = {.dialect = dialect, .in = in, .id = "chatcmpl-1", .model = "m:1", .fingerprint = "fp_1"};

	a.created_s = 7;
	api_answer_init(&a, 1);
	return a;
}

static void test_tool_call_deltas_join_into_a_whole_answer(void **state)
{
	struct engine_event e = {.kind = ENGINE_TEXT};
	struct api_request in = {.logprobs = -1};
	struct api_answer a = answer_of(&dialect_chat, &in);
	struct api_choice *c = &a.choices[0];
	struct buf out = {0};

	(void)state;
	e.reasoning = STR("hm");
	e.tool_calls_json = STR("[{\"index\":0,\"id\":\"a\",\"type\":\"function\",\"function\":{\"name\":\"f\","
	                        "\"arguments\":\"{\\\"x\"}}]");
	api_choice_add(c, &e);
	e.reasoning = STR("");
	e.tool_calls_json =
	    STR("[{\"index\":0,\"function\":{\"arguments\":\"\\\":1}\"}},{\"index\":1,\"id\":\"b\",\"function\":"
	        "{\"name\":\"g\",\"arguments\":\"{}\"}},{\"index\":9,\"id\":\"skips\"}]");
	api_choice_add(c, &e);
	c->finish = FINISH_TOOL_CALLS;
	a.usage = (struct api_usage){10, 4, 3};
	dialect_chat.whole(&out, &a);
	buf_append(&out, "", 1);
	assert_string_equal(
	    out.base,
	    "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":7,\"model\":\"m:1\",\"system_"
	    "fingerprint\":\"fp_1\","
	    "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":null,\"refusal\":null,"
	    "\"reasoning_content\":\"hm\",\"tool_calls\":[{\"id\":\"a\",\"type\":\"function\",\"function\":{\"name\":"
	    "\"f\","
	    "\"arguments\":\"{\\\"x\\\":1}\"}},{\"id\":\"b\",\"type\":\"function\",\"function\":{\"name\":\"g\","
	    "\"arguments\":\"{}\"}}]},\"logprobs\":null,\"finish_reason\":\"tool_calls\"}],\"usage\":{\"prompt_"
	    "tokens\":10,"
	    "\"completion_tokens\":3,\"total_tokens\":13,\"prompt_tokens_details\":{\"cached_tokens\":4}}}");
	buf_fini(&out);
	api_answer_fini(&a);
}

static void test_log_probabilities_have_openai_shape(void **state)
{
	static const struct engine_logprob_alternative top[] = {{STR(" a"), -0.5f}, {STR("\xc3"), -1e30f}};
	static const struct engine_logprob lps[] = {{STR(" a"), -0.5f, top, 2}, {STR("\xc3\xa9"), -1.0f, NULL, 0}};
	struct engine_event e = {.kind = ENGINE_TEXT,
	                         .text = STR(" a\xc3\xa9"),
	                         .logprobs = lps,
	                         .logprob_count = 2,
	                         .completion_tokens = 2};
	struct api_request in = {.logprobs = 2};
	struct api_answer chat = answer_of(&dialect_chat, &in), text = answer_of(&dialect_completion, &in);
	struct buf out = {0};

	(void)state;
	dialect_chat.text(&out, &chat, &chat.choices[0], &e);
	buf_append(&out, "", 1);
	assert_non_null(strstr(out.base,
	                       "\"logprobs\":{\"content\":[{\"token\":\" a\",\"logprob\":-0.5,\"bytes\":[32,97],"
	                       "\"top_logprobs\":[{\"token\":\" a\",\"logprob\":-0.5,\"bytes\":[32,97]},"));
	assert_non_null(strstr(out.base, "\"logprob\":-9999,\"bytes\":[195]}]},{\"token\":\"\xc3\xa9\",\"logprob\":-1,"
	                                 "\"bytes\":[195,169],\"top_logprobs\":[]}],\"refusal\":null}"));
	buf_clear(&out);
	dialect_completion.text(&out, &text, &text.choices[0], &e);
	buf_clear(&out);
	dialect_completion.text(&out, &text, &text.choices[0], &e); /* offsets go on from one chunk to the next */
	buf_append(&out, "", 1);
	assert_non_null(strstr(out.base,
	                       "\"logprobs\":{\"text_offset\":[3,5],\"token_logprobs\":[-0.5,-1],\"tokens\":[\" a\","
	                       "\"\xc3\xa9\"],\"top_logprobs\":[{\" a\":-0.5,"));
	buf_fini(&out);
	api_answer_fini(&chat);
	api_answer_fini(&text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_every_wrong_field_is_named),
	    cmocka_unit_test(test_a_full_request_is_read),
	    cmocka_unit_test(test_messages_are_rewritten_for_templates),
	    cmocka_unit_test(test_tool_call_deltas_join_into_a_whole_answer),
	    cmocka_unit_test(test_log_probabilities_have_openai_shape),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
