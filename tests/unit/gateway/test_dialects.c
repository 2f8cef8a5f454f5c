/* SPDX-License-Identifier: Apache-2.0 */
/* What other APIs ask becomes OpenAI's messages; what engines say becomes their answers and events. */
#include "asks.h"

#include <stdlib.h>

static void assert_buf(const struct buf *out, const char *expected)
{
	if (!str_equal(buf_str(out), str_from(expected)))
		fail_msg("\n%.*s\nis not\n%s", (int)out->len, out->base, expected);
}

/* Request in, the three texts an engine gets out; NULL: not looked at. */
static const struct translation {
	const struct dialect *dialect;
	const char *body, *messages, *tools, *choice, *schema;
} translations[] = {
    {&dialect_messages, "{\"model\":\"m\",\"max_tokens\":5,\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}",
     "[{\"role\":\"user\",\"content\":\"hi\"}]", "", "", ""},
    {&dialect_messages,
     "{\"model\":\"m\",\"max_tokens\":5,\"system\":[{\"type\":\"text\",\"text\":\"be\"},{\"type\":\"text\",\"text\":"
     "\"brief\",\"cache_control\":{}}],\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}"
     ","
     "{\"type\":\"text\",\"text\":\"b\"}]},{\"role\":\"assistant\",\"content\":[{\"type\":\"thinking\",\"thinking\":"
     "\"hm\","
     "\"signature\":\"\"},{\"type\":\"text\",\"text\":\"c\"},{\"type\":\"tool_use\",\"id\":\"t1\",\"name\":\"f\","
     "\"input\":"
     "{\"x\":1}},{\"type\":\"tool_use\",\"id\":\"t2\",\"name\":\"g\",\"input\":{}}]},{\"role\":\"user\",\"content\":["
     "{\"type\":\"tool_result\",\"tool_use_id\":\"t1\",\"content\":\"1\"},{\"type\":\"tool_result\",\"tool_use_id\":"
     "\"t2\","
     "\"content\":[{\"type\":\"text\",\"text\":\"2\"}]},{\"type\":\"text\",\"text\":\"go "
     "on\"}]}],\"tools\":[{\"name\":\"f\","
     "\"description\":\"d\",\"input_schema\":{\"type\":\"object\"}},{\"name\":\"g\",\"input_schema\":{}}],\"tool_"
     "choice\":"
     "{\"type\":\"any\"},\"output_config\":{\"format\":{\"type\":\"json_schema\",\"schema\":{\"type\":\"object\"}}}}",
     "[{\"role\":\"system\",\"content\":\"be\\nbrief\"},{\"role\":\"user\",\"content\":\"a\\nb\"},{\"role\":"
     "\"assistant\","
     "\"content\":\"c\",\"reasoning_content\":\"hm\",\"tool_calls\":[{\"id\":\"t1\",\"type\":\"function\",\"function\":"
     "{"
     "\"name\":\"f\",\"arguments\":\"{\\\"x\\\":1}\"}},{\"id\":\"t2\",\"type\":\"function\",\"function\":{\"name\":"
     "\"g\","
     "\"arguments\":\"{}\"}}]},{\"role\":\"tool\",\"content\":\"1\",\"tool_call_id\":\"t1\"},{\"role\":\"tool\","
     "\"content\":"
     "\"2\",\"tool_call_id\":\"t2\"},{\"role\":\"user\",\"content\":\"go on\"}]",
     "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":\"d\",\"parameters\":{\"type\":\"object\"}}}"
     ","
     "{\"type\":\"function\",\"function\":{\"name\":\"g\",\"parameters\":{}}}]",
     "required", "{\"type\":\"object\"}"},
    {&dialect_messages,
     "{\"model\":\"m\",\"max_tokens\":5,\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"tools\":[{\"name\":"
     "\"f\","
     "\"input_schema\":{}},{\"name\":\"g\",\"input_schema\":{}}],\"tool_choice\":{\"type\":\"tool\",\"name\":\"g\"}}",
     "[{\"role\":\"user\",\"content\":\"hi\"}]",
     "[{\"type\":\"function\",\"function\":{\"name\":\"g\",\"parameters\":{}}}]", "required", ""},
    {&dialect_responses, "{\"model\":\"m\",\"input\":\"hi\",\"instructions\":\"be brief\",\"store\":true}",
     "[{\"role\":\"system\",\"content\":\"be brief\"},{\"role\":\"user\",\"content\":\"hi\"}]", "", "", ""},
    {&dialect_responses,
     "{\"model\":\"m\",\"input\":[{\"role\":\"developer\",\"content\":\"d\"},{\"type\":\"message\",\"role\":\"user\","
     "\"content\":[{\"type\":\"input_text\",\"text\":\"a\"}]},{\"type\":\"reasoning\",\"id\":\"r\",\"summary\":[],"
     "\"content\":"
     "[{\"type\":\"reasoning_text\",\"text\":\"hm\"}]},{\"type\":\"message\",\"role\":\"assistant\",\"content\":[{"
     "\"type\":"
     "\"output_text\",\"text\":\"b\",\"annotations\":[]}]},{\"type\":\"function_call\",\"call_id\":\"c1\",\"name\":"
     "\"f\","
     "\"arguments\":\"{}\"},{\"type\":\"function_call_output\",\"call_id\":\"c1\",\"output\":\"1\"}],\"tools\":[{"
     "\"type\":"
     "\"function\",\"name\":\"f\",\"parameters\":{},\"strict\":true}],\"tool_choice\":{\"type\":\"function\",\"name\":"
     "\"f\"},"
     "\"text\":{\"format\":{\"type\":\"json_schema\",\"name\":\"n\",\"schema\":{\"a\":1}}}}",
     "[{\"role\":\"system\",\"content\":\"d\"},{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\","
     "\"content\":\"b\","
     "\"reasoning_content\":\"hm\",\"tool_calls\":[{\"id\":\"c1\",\"type\":\"function\",\"function\":{\"name\":\"f\","
     "\"arguments\":\"{}\"}}]},{\"role\":\"tool\",\"content\":\"1\",\"tool_call_id\":\"c1\"}]",
     "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{},\"strict\":true}}]", "required",
     "{\"a\":1}"},
    {&dialect_ollama_chat,
     "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"\","
     "\"thinking\":\"hm\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"x\":1}}}]},{\"role\":\"tool\","
     "\"tool_name\":\"f\",\"content\":\"1\"}],\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],"
     "\"format\":\"json\"}",
     "[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":null,\"reasoning_content\":\"hm\","
     "\"tool_calls\":[{\"id\":\"call_1_0\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":"
     "\"{\\\"x\\\":1}\"}}]},{\"role\":\"tool\",\"content\":\"1\",\"name\":\"f\"}]",
     "[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]", "", "{}"},
    {&dialect_ollama_generate,
     "{\"model\":\"m\",\"prompt\":\"a\",\"system\":\"s\",\"keep_alive\":\"5m\",\"format\":{\"type\":\"array\"}}",
     "[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"a\"}]", "", "", "{\"type\":\"array\"}"},
};

static void test_every_dialect_asks_in_openai_messages(void **state)
{
	struct buf out = {0};

	(void)state;
	for (size_t i = 0; i < sizeof(translations) / sizeof(translations[0]); i++) {
		const struct translation *t = &translations[i];
		struct api_request r;

		assert_taken(t->dialect, t->body, &r);
		buf_clear(&out);
		api_request_messages(&r, &out);
		assert_buf(&out, t->messages);
		buf_clear(&out);
		api_request_tools(&r, &out);
		assert_buf(&out, t->tools);
		buf_clear(&out);
		api_request_schema(&r, &out);
		assert_buf(&out, t->schema);
		assert_true(str_equal(r.tool_choice, str_from(t->choice)));
		api_request_fini(&r);
	}
	buf_fini(&out);
}

static const struct bad_ask bads[] = {
#define HI "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"
#define ASK(rest) "{\"model\":\"m\",\"max_tokens\":5," rest "}"
#define SAY(content) ASK("\"messages\":[{\"role\":\"user\",\"content\":" content "}]")
#define INPUT(item) "{\"model\":\"m\",\"input\":[" item "]}"
    {&dialect_messages, "{\"model\":\"m\"," HI "}", "max_tokens"},
    {&dialect_messages, ASK("\"messages\":[]"), "messages"},
    {&dialect_messages, ASK("\"messages\":{}"), "messages"},
    {&dialect_messages, ASK("\"messages\":[7]"), "messages[0]"},
    {&dialect_messages, ASK("\"messages\":[{\"role\":\"tool\",\"content\":\"\"}]"), "messages[0].role"},
    {&dialect_messages,
     ASK("\"messages\":[{\"role\":\"user\",\"content\":\"\"},{\"role\":\"assistant\",\"content\":\"\"}]"), "messages"},
    {&dialect_messages, SAY("7"), "messages[0].content"},
    {&dialect_messages, SAY("[7]"), "messages[0].content[0]"},
    {&dialect_messages, SAY("[{\"type\":\"image\"}]"), "messages[0].content[0].type"},
    {&dialect_messages, SAY("[{\"type\":\"text\"}]"), "messages[0].content[0].text"},
    {&dialect_messages, SAY("[{\"type\":\"tool_use\",\"id\":\"i\",\"name\":\"n\",\"input\":{}}]"),
     "messages[0].content[0].type"},
    {&dialect_messages, SAY("[{\"type\":\"tool_result\"}]"), "messages[0].content[0].tool_use_id"},
    {&dialect_messages, SAY("[{\"type\":\"tool_result\",\"tool_use_id\":\"i\",\"content\":[{\"type\":\"image\"}]}]"),
     "messages[0].content[0].content[0].type"},
    {&dialect_messages, ASK(HI ",\"system\":7"), "system"},
    {&dialect_messages, ASK(HI ",\"stop_sequences\":[7]"), "stop_sequences"},
    {&dialect_messages, ASK(HI ",\"tools\":[{\"type\":\"web_search_20250305\",\"name\":\"web_search\"}]"),
     "tools[0].type"},
    {&dialect_messages, ASK(HI ",\"tools\":[{\"name\":\"f\"}]"), "tools[0].input_schema"},
    {&dialect_messages, ASK(HI ",\"tool_choice\":{\"type\":\"any\"}"), "tool_choice"},
    {&dialect_messages, ASK(HI ",\"tool_choice\":{\"type\":\"tool\",\"name\":\"x\"}"), "tool_choice"},
    {&dialect_messages, ASK(HI ",\"tool_choice\":\"auto\""), "tool_choice"},
    {&dialect_messages, ASK(HI ",\"mcp_servers\":[{}]"), "mcp_servers"},
    {&dialect_messages, ASK(HI ",\"output_config\":{\"format\":{\"type\":\"xml\"}}"), "output_config.format"},
    {&dialect_count_tokens, "{\"model\":\"m\"}", "messages"},
    {&dialect_responses, "{\"model\":\"m\"}", "input"},
    {&dialect_responses, "{\"model\":\"m\",\"input\":[]}", "input"},
    {&dialect_responses, INPUT("7"), "input[0]"},
    {&dialect_responses, INPUT("{\"type\":\"item_reference\",\"id\":\"x\"}"), "input[0].type"},
    {&dialect_responses, INPUT("{\"role\":\"tool\",\"content\":\"x\"}"), "input[0].role"},
    {&dialect_responses, INPUT("{\"role\":\"user\"}"), "input[0].content"},
    {&dialect_responses, INPUT("{\"role\":\"user\",\"content\":[{\"type\":\"input_image\"}]}"),
     "input[0].content[0].type"},
    {&dialect_responses, INPUT("{\"type\":\"function_call\",\"call_id\":\"c\"}"), "input[0]"},
    {&dialect_responses, INPUT("{\"type\":\"function_call_output\",\"output\":\"c\"}"), "input[0].call_id"},
    {&dialect_responses, "{\"model\":\"m\",\"input\":\"x\",\"previous_response_id\":\"resp_1\"}",
     "previous_response_id"},
    {&dialect_responses, "{\"model\":\"m\",\"input\":\"x\",\"background\":true}", "background"},
    {&dialect_responses, "{\"model\":\"m\",\"input\":\"x\",\"tools\":[{\"type\":\"web_search\"}]}", "tools[0].type"},
    {&dialect_responses, "{\"model\":\"m\",\"input\":\"x\",\"text\":{\"format\":{\"type\":\"xml\"}}}",
     "text.format.type"},
    {&dialect_ollama_chat, "{\"messages\":[]}", "model"},
    {&dialect_ollama_chat, "{\"model\":\"m\",\"messages\":[{\"role\":\"x\"}]}", "messages[0].role"},
    {&dialect_ollama_chat, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":[]}]}",
     "messages[0].content"},
    {&dialect_ollama_chat, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"\",\"images\":[\"x\"]}]}",
     "images"},
    {&dialect_ollama_chat, "{\"model\":\"m\",\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{}]}]}",
     "messages[0].tool_calls"},
    {&dialect_ollama_chat, "{\"model\":\"m\",\"options\":{\"top_p\":7}}", "top_p"},
    {&dialect_ollama_chat, "{\"model\":\"m\",\"format\":\"xml\"}", "format"},
    {&dialect_ollama_generate, "{\"model\":\"m\",\"prompt\":7}", "prompt"},
    {&dialect_ollama_generate, "{\"model\":\"m\",\"prompt\":\"x\",\"template\":\"{{ .Prompt }}\"}", "template"},
};

static void test_every_wrong_field_is_named(void **state)
{
	(void)state;
	assert_refused(bads, sizeof(bads) / sizeof(bads[0]));
}

static void test_options_of_ollama_have_its_names_and_defaults(void **state)
{
	struct api_request r;

	(void)state;
	assert_taken(&dialect_ollama_generate, "{\"model\":\"m\",\"prompt\":\"x\",\"raw\":true}", &r);
	assert_true(r.stream);
	assert_int_equal(r.task, ENGINE_COMPLETION);
	assert_true(r.sampling.temperature == 0.8 && r.sampling.top_p == 0.9 && r.sampling.repeat_penalty == 1.1);
	assert_int_equal(r.sampling.top_k, 40);
	assert_int_equal(r.max_tokens, -1);
	api_request_fini(&r);
	assert_taken(
	    &dialect_ollama_generate,
	    "{\"model\":\"m\",\"prompt\":\"x\",\"stream\":false,\"options\":{\"num_predict\":-2,\"seed\":3,\"stop\":["
	    "\"a\"],"
	    "\"mirostat\":2,\"mirostat_tau\":4,\"num_ctx\":99,\"temperature\":0}}",
	    &r);
	assert_true(!r.stream && r.sampling.has_seed && r.sampling.temperature == 0);
	assert_int_equal(r.task, ENGINE_CHAT);
	assert_int_equal(r.sampling.mirostat, 2);
	assert_int_equal(r.max_tokens, -1);
	assert_int_equal(r.stop_count, 1);
	api_request_fini(&r);
	assert_taken(&dialect_ollama_chat, "{\"model\":\"m\",\"messages\":[],\"keep_alive\":0}", &r);
	assert_int_equal(r.task, ENGINE_TOKENIZE);
	assert_false(r.stream);
	api_request_fini(&r);
}

static void test_the_best_of_several_answers_are_kept(void **state)
{
	static const float likely[] = {-3, -1, -2, -5, -4, -6}; /* two prompts, best_of 3, n 2 */
	static const char *const kept[] = {"1", "2", "4", "3"};
	struct api_answer a = {0};
	char text[2] = "";

	(void)state;
	api_answer_init(&a, 6);
	for (int i = 0; i < 6; i++) {
		struct engine_logprob lp = {.logprob = likely[i]};
		text[0] = (char)('0' + i);
		api_choice_add(&a.choices[i], &(struct engine_event){.kind = ENGINE_TEXT,
		                                                     .text = {text, 1},
		                                                     .logprobs = &lp,
		                                                     .logprob_count = 1,
		                                                     .completion_tokens = 1});
	}
	api_answer_keep_best(&a, 3, 2);
	assert_int_equal(a.count, 4);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(a.choices[i].index, i);
		assert_true(str_equal(buf_str(&a.choices[i].content), str_from(kept[i])));
	}
	api_answer_fini(&a);
}

/* ---- streams ----------------------------------------------------------------------------------------------------- */

/* Thinks, speaks, calls two functions. */
static const struct engine_event said[] = {
    {.kind = ENGINE_TEXT, .reasoning = {"hm", 2}, .completion_tokens = 1},
    {.kind = ENGINE_TEXT, .text = {"I ", 2}, .completion_tokens = 2},
    {.kind = ENGINE_TEXT, .text = {"look", 4}, .completion_tokens = 3},
    {.kind = ENGINE_TEXT,
     .tool_calls_json = {"[{\"index\":0,\"id\":\"c0\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":"
                         "\"{\\\"x\\\":\"}}]",
                         88},
     .completion_tokens = 4},
    {.kind = ENGINE_TEXT,
     .tool_calls_json = {"[{\"index\":0,\"function\":{\"arguments\":\"1}\"}},{\"index\":1,\"id\":\"c1\",\"function\":{"
                         "\"name\":\"g\",\"arguments\":\"{}\"}}]",
                         112},
     .completion_tokens = 5},
};

static void stream(const struct dialect *d, struct api_request *in, struct buf *out)
{
	struct api_answer a = {.dialect = d, .in = in, .model = "m:1", .fingerprint = "fp", .created_s = 7};
	struct api_choice *c;

	a.id = d == &dialect_responses ? "resp_1" : "msg_1";
	api_answer_init(&a, 1);
	c = &a.choices[0];
	c->usage = (struct api_usage){10, 4, 0};
	if (d->begin)
		d->begin(out, &a, c);
	for (size_t i = 0; i < sizeof(said) / sizeof(said[0]); i++) {
		struct engine_event e = said[i];

		e.tool_calls_json.len = e.tool_calls_json.base ? strlen(e.tool_calls_json.base) : 0;
		if (d->keeps)
			api_choice_add(c, &e);
		d->text(out, &a, c, &e);
	}
	c->usage.completion_tokens = 5;
	c->finish = FINISH_TOOL_CALLS;
	d->finish(out, &a, c);
	a.usage = c->usage;
	d->end(out, &a);
	api_answer_fini(&a);
}

static void test_a_stream_of_anthropic_opens_one_block_after_the_other(void **state)
{
	struct api_request in = {.logprobs = -1};
	struct buf out = {0};

	(void)state;
	stream(&dialect_messages, &in, &out);
#define EVENT(name, rest) "event: " name "\ndata: {\"type\":\"" name "\"" rest "}\n\n"
#define USAGE(n) \
	"\"usage\":{\"input_tokens\":6,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":4,\"output_" \
	"tokens\":" n "}"
#define DELTA(i, type, key, text) \
	EVENT("content_block_delta", ",\"index\":" i ",\"delta\":{\"type\":\"" type "\",\"" key "\":" text "}")
	assert_buf(
	    &out,
	    EVENT("message_start",
	          ",\"message\":{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"m:1\","
	          "\"content\":[],\"stop_reason\":null,\"stop_sequence\":null," USAGE("0") "}") EVENT("ping", "")
		EVENT("content_block_start",
	              ",\"index\":0,\"content_block\":{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}")
		    DELTA("0", "thinking_delta", "thinking", "\"hm\"") EVENT("content_block_stop", ",\"index\":0")
			EVENT("content_block_start", ",\"index\":1,\"content_block\":{\"type\":\"text\",\"text\":\"\"}")
			    DELTA("1", "text_delta", "text", "\"I \"") DELTA("1", "text_delta", "text", "\"look\"")
				EVENT("content_block_stop", ",\"index\":1")
				    EVENT("content_block_start",
	                                  ",\"index\":2,\"content_block\":{\"type\":\"tool_use\",\"id\":"
	                                  "\"c0\",\"name\":\"f\",\"input\":{}}")
					DELTA("2", "input_json_delta", "partial_json", "\"{\\\"x\\\":\"")
					    DELTA("2", "input_json_delta", "partial_json",
	                                          "\"1}\"") EVENT("content_block_stop", ",\"index\":2")
						EVENT("content_block_start",
	                                              ",\"index\":3,\"content_block\":{\"type\":\"tool_use\",\"id\":"
	                                              "\"c1\",\"name\":\"g\",\"input\":{}}")
						    DELTA("3", "input_json_delta", "partial_json", "\"{}\"")
							EVENT("content_block_stop", ",\"index\":3") EVENT(
							    "message_delta", ",\"delta\":{\"stop_reason\":\"tool_use\","
									     "\"stop_sequence\":null}," USAGE("5"))
							    EVENT("message_stop", ""));
	buf_fini(&out);
}

/* Types in order, each numbered; the last repeats every item that was told. */
static void test_a_stream_of_responses_is_numbered_and_its_end_repeats_it(void **state)
{
	static const char *const types[] = {"response.created",
	                                    "response.in_progress",
	                                    "response.output_item.added",
	                                    "response.reasoning_text.delta",
	                                    "response.reasoning_text.done",
	                                    "response.output_item.done",
	                                    "response.output_item.added",
	                                    "response.content_part.added",
	                                    "response.output_text.delta",
	                                    "response.output_text.delta",
	                                    "response.output_text.done",
	                                    "response.content_part.done",
	                                    "response.output_item.done",
	                                    "response.output_item.added",
	                                    "response.function_call_arguments.delta",
	                                    "response.function_call_arguments.delta",
	                                    "response.function_call_arguments.done",
	                                    "response.output_item.done",
	                                    "response.output_item.added",
	                                    "response.function_call_arguments.delta",
	                                    "response.function_call_arguments.done",
	                                    "response.output_item.done",
	                                    "response.completed"};
	struct api_request in = {.logprobs = -1};
	struct buf out = {0};
	size_t count = 0;
	yyjson_doc *doc = NULL;

	(void)state;
	stream(&dialect_responses, &in, &out);
	buf_append(&out, "", 1);
	for (const char *at = out.base; (at = strstr(at, "data: ")) != NULL; count++) {
		const char *end = strchr(at, '\n');

		yyjson_doc_free(doc);
		doc = yyjson_read(at + 6, (size_t)(end - at - 6), 0);
		yyjson_val *root = yyjson_doc_get_root(doc);
		assert_non_null(root);
		assert_true(count < sizeof(types) / sizeof(types[0]));
		assert_string_equal(yyjson_get_str(yyjson_obj_get(root, "type")), types[count]);
		assert_int_equal(yyjson_get_uint(yyjson_obj_get(root, "sequence_number")), count);
		at = end;
	}
	assert_int_equal(count, sizeof(types) / sizeof(types[0]));
	yyjson_val *response = yyjson_obj_get(yyjson_doc_get_root(doc), "response"),
		   *output = yyjson_obj_get(response, "output");
	size_t len;
	char *text = yyjson_val_write(output, 0, &len);
	assert_string_equal(
	    text, "[{\"id\":\"rs_1_0\",\"type\":\"reasoning\",\"summary\":[],\"content\":[{\"type\":\"reasoning_text\","
		  "\"text\":"
		  "\"hm\"}],\"status\":\"completed\"},{\"id\":\"msg_1_1\",\"type\":\"message\",\"role\":\"assistant\","
		  "\"content\":"
		  "[{\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[],\"text\":\"I "
		  "look\"}],\"status\":\"completed\"},"
		  "{\"id\":\"fc_1_2\",\"type\":\"function_call\",\"call_id\":\"c0\",\"name\":\"f\",\"arguments\":"
		  "\"{\\\"x\\\":1}\",\"status\":\"completed\"},{\"id\":\"fc_1_3\",\"type\":\"function_call\",\"call_"
		  "id\":\"c1\","
		  "\"name\":\"g\",\"arguments\":\"{}\",\"status\":\"completed\"}]");
	assert_string_equal(yyjson_get_str(yyjson_obj_get(response, "status")), "completed");
	free(text);
	yyjson_doc_free(doc);
	buf_fini(&out);
}

static void test_a_stream_of_ollama_is_an_object_a_line(void **state)
{
	struct api_request in = {.logprobs = -1, .task = ENGINE_CHAT};
	struct buf out = {0};

	(void)state;
	stream(&dialect_ollama_chat, &in, &out);
#define HEAD "{\"model\":\"m:1\",\"created_at\":\"1970-01-01T00:00:07.000Z\",\"message\":{\"role\":\"assistant\","
	assert_buf(&out,
	           HEAD "\"content\":\"\",\"thinking\":\"hm\"},\"done\":false}\n" HEAD
	                "\"content\":\"I \"},\"done\":false}\n" HEAD "\"content\":\"look\"},\"done\":false}\n" HEAD
	                "\"content\":\"\",\"tool_calls\":[{\"id\":\"c0\",\"function\":{\"index\":0,\"name\":\"f\","
	                "\"arguments\":{\"x\":1}}},{\"id\":\"c1\",\"function\":{\"index\":1,\"name\":\"g\","
	                "\"arguments\":{}}}]},\"done\":false}\n" HEAD
	                "\"content\":\"\"},\"done\":true,\"done_reason\":\"stop\",\"total_duration\":0,"
	                "\"load_duration\":0,\"prompt_eval_count\":10,\"prompt_eval_duration\":0,\"eval_count\":5,"
	                "\"eval_duration\":0}\n");
	buf_fini(&out);
}

static void test_errors_have_each_dialects_shape(void **state)
{
	struct fault fault = {.param = "model", .code = "model_not_found"};
	struct buf out = {0};

	(void)state;
	error_set(&fault.err, E_NOTFOUND, "no \"such\"");
	dialect_messages.fault(&out, &fault);
	assert_buf(
	    &out,
	    "{\"type\":\"error\",\"error\":{\"type\":\"not_found_error\",\"message\":\"model: no \\\"such\\\"\"}}");
	buf_clear(&out);
	dialect_ollama_chat.fault(&out, &fault);
	assert_buf(&out, "{\"error\":\"no \\\"such\\\"\"}");
	buf_clear(&out);
	error_set(&fault.err, E_UNAVAILABLE, "busy");
	dialect_messages.broken(&out, &fault.err);
	assert_buf(
	    &out,
	    "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"busy\"}}"
	    "\n\n");
	buf_clear(&out);
	dialect_responses.broken(&out, &fault.err);
	assert_buf(&out, "event: error\ndata: {\"type\":\"error\",\"sequence_number\":0,\"code\":\"overloaded_error\","
	                 "\"message\":\"busy\",\"param\":null}\n\n");
	buf_fini(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_every_dialect_asks_in_openai_messages),
	    cmocka_unit_test(test_every_wrong_field_is_named),
	    cmocka_unit_test(test_options_of_ollama_have_its_names_and_defaults),
	    cmocka_unit_test(test_the_best_of_several_answers_are_kept),
	    cmocka_unit_test(test_a_stream_of_anthropic_opens_one_block_after_the_other),
	    cmocka_unit_test(test_a_stream_of_responses_is_numbered_and_its_end_repeats_it),
	    cmocka_unit_test(test_a_stream_of_ollama_is_an_object_a_line),
	    cmocka_unit_test(test_errors_have_each_dialects_shape),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
