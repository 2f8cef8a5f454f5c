/* SPDX-License-Identifier: Apache-2.0 */
/* test_process.c - engines in processes of their own, through engine.h, on tiny models; processes that die, and ones
 * that lie: a model whose name begins with "hostile-" is served by this very program's own bad processes.
 */
#include "driver.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/limits.h"
#include "engine/llama_disk.h"
#include "engine/process.h"
#include "engine/process_sandbox.h"
#include "engine/process_wire.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static struct engine_options named(const char *name)
{
	struct engine_options options = options_for(name);

	options.model_name = STR("tiny:latest");
	return options;
}

static void start(struct driver *d, const char *name)
{
	struct engine_options options = named(name);

	driver_start(d, &options);
}

/* The one child of this process; 0: none. */
static pid_t child_now(void)
{
	char path[64];
	int pid = 0;

	snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
	FILE *f = fopen(path, "r");
	assert_non_null(f);
	if (fscanf(f, "%d", &pid) != 1)
		pid = 0;
	fclose(f);
	return pid;
}

static bool status_of(pid_t pid, const char *key, char *ret_value, size_t size)
{
	char path[64], line[256];
	bool found = false;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	FILE *f = fopen(path, "r");
	while (f && !found && fgets(line, sizeof(line), f))
		if (strncmp(line, key, strlen(key)) == 0) {
			snprintf(ret_value, size, "%s", line + strlen(key) + 2);
			found = true;
		}
	if (f)
		fclose(f);
	return found;
}

/* ---- frames ------------------------------------------------------------------------------------- */

#if defined(__GNUC__) && !defined(__clang__)
/* All bits of a value, none of its padding: what no line of the table covers shows. */
#define CHECK_COVERED(type, which) \
	do { \
		type value; \
		uint8_t covered[sizeof(type)] = {0}, bytes[sizeof(type)]; \
		memset(&value, 0xff, sizeof(value)); \
		__builtin_clear_padding(&value); \
		memcpy(bytes, &value, sizeof(value)); \
		wire_cover(which, covered); \
		for (size_t i = 0; i < sizeof(type); i++) \
			if (bytes[i] && !covered[i]) \
				fail_msg("byte %zu of %s has no line in process_wire.c", i, #type); \
	} while (0)

static void test_every_field_of_engine_h_has_its_line(void **state)
{
	(void)state;
	CHECK_COVERED(struct engine_options, WIRE_OF_OPTIONS);
	CHECK_COVERED(struct engine_params, WIRE_OF_PARAMS);
	CHECK_COVERED(struct engine_event, WIRE_OF_EVENT);
	CHECK_COVERED(struct engine_info, WIRE_OF_INFO);
	CHECK_COVERED(struct engine_load, WIRE_OF_LOAD);
}
#endif

static struct str body_of(const struct buf *frame, enum wire_kind kind)
{
	struct wire_head head;
	struct str body = {0};

	assert_int_equal(wire_take(buf_str(frame), &head, &body), 1);
	assert_int_equal(head.kind, kind);
	assert_int_equal(head.size + sizeof(head), frame->len);
	return body;
}

static void test_a_request_crosses_unchanged(void **state)
{
	static const int32_t tokens[] = {1, -2, 3}, lengths[] = {1, 2};
	static const float values[] = {-100, 5, 0.5f};
	const struct str stops[] = {STR("one"), STR(""), STR("thr\xc3\xa9")};
	struct engine_params in = completion("a prompt", 7), out;
	struct wire_memory memory = {0};
	struct buf frame = {0};
	(void)state;

	in.suffix = STR("behind");
	in.prompt_tokens = tokens;
	in.prompt_token_count = 3;
	in.input_lengths = lengths; /* which share a count with inputs, and these are not there */
	in.input_count = 2;
	in.sampling.seed = UINT64_MAX;
	in.sampling.has_seed = true;
	in.sampling.min_p = -1;
	in.sampling.bias_tokens = tokens;
	in.sampling.bias_values = values;
	in.sampling.bias_count = 3;
	in.stops = stops;
	in.stop_count = 3;
	in.service_class = ENGINE_SYSTEM;
	in.priority = -5;
	in.tenant = STR("somebody");
	assert_true(wire_put_params(&frame, 1, &in));
	assert_int_equal(wire_get_params(body_of(&frame, WIRE_SUBMIT), &memory, &out, NULL), 0);
	assert_true(str_equal(out.prompt, in.prompt) && str_equal(out.suffix, in.suffix));
	assert_int_equal(out.prompt.base[out.prompt.len], 0);
	assert_memory_equal(out.prompt_tokens, tokens, sizeof(tokens));
	assert_null(out.inputs);
	assert_int_equal(out.input_count, 2);
	assert_memory_equal(out.input_lengths, lengths, sizeof(lengths));
	assert_memory_equal(out.sampling.bias_values, values, sizeof(values));
	assert_true(out.sampling.seed == UINT64_MAX && out.sampling.has_seed && out.sampling.min_p == -1);
	for (int i = 0; i < 3; i++)
		assert_true(str_equal(out.stops[i], stops[i]));
	assert_int_equal(out.service_class, ENGINE_SYSTEM);
	assert_int_equal(out.priority, -5);
	assert_int_equal(out.logprobs, -1);
	/* Whatever is cut off is refused. */
	struct str body = body_of(&frame, WIRE_SUBMIT);
	for (size_t len = 0; len < body.len; len += 8)
		assert_int_equal(wire_get_params((struct str){body.base, len}, &memory, &out, NULL), E_CORRUPT);
	wire_memory_fini(&memory);
	buf_fini(&frame);
}

static void test_an_event_crosses_unchanged_and_a_bad_one_not(void **state)
{
	static const struct engine_logprob_alternative top[] = {{{"x", 1}, -1}, {{"y", 1}, -2}};
	static const int32_t tokens[] = {5, 6};
	static const float vectors[] = {1, 2, 3, 4, 5, 6};
	const struct engine_logprob logprobs[] = {{STR("x"), -1, top, 2}, {STR("\xff"), -INFINITY, NULL, 0}};
	struct engine_event in = {.kind = ENGINE_DONE,
	                          .text = STR("text"),
	                          .tool_calls_json = STR("[{\"index\":0}]"),
	                          .logprobs = logprobs,
	                          .logprob_count = 2,
	                          .tokens = tokens,
	                          .token_count = 2,
	                          .vectors = vectors,
	                          .vector_size = 3,
	                          .vector_count = 2,
	                          .prompt_tokens = 3,
	                          .cached_tokens = 5,
	                          .completion_tokens = 9,
	                          .finish = FINISH_TOOL_CALLS},
			    out;
	struct wire_memory memory = {0};
	struct error told, err;
	struct buf frame = {0};
	(void)state;

	assert_true(wire_put_event(&frame, 7, &in));
	assert_int_equal(wire_get_event(body_of(&frame, WIRE_EVENT), &memory, &out, &told, NULL), 0);
	assert_true(str_equal(out.text, in.text) && str_equal(out.tool_calls_json, in.tool_calls_json));
	assert_int_equal(out.logprobs[0].top_count, 2);
	assert_true(str_equal(out.logprobs[0].top[1].token, STR("y")));
	assert_true(out.logprobs[1].logprob == -9999); /* JSON has no infinity */
	assert_memory_equal(out.tokens, tokens, sizeof(tokens));
	assert_memory_equal(out.vectors, vectors, sizeof(vectors));
	assert_int_equal(out.cached_tokens, 3); /* not more than the prompt */
	assert_null(out.err);
	/* Every 8 bytes wrong once, in several ways: read, or refused, never more. ASan watches. */
	for (size_t at = sizeof(struct wire_head); at < frame.len; at += 8) {
		static const uint64_t bad[] = {UINT64_MAX,        1, 1u << 20, INT64_MAX, UINT64_C(1) << 61,
		                               0x7ff8000000000000};
		uint64_t good;
		memcpy(&good, frame.base + at, 8);
		for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
			memcpy(frame.base + at, &bad[i], 8);
			wire_get_event(body_of(&frame, WIRE_EVENT), &memory, &out, &told, &err);
		}
		memcpy(frame.base + at, &good, 8);
	}
	const char *const not_arrays[] = {"{}", "[", "[]\n\n", "1"};
	for (size_t i = 0; i < 4; i++) {
		in.tool_calls_json = str_from(not_arrays[i]);
		buf_clear(&frame);
		wire_put_event(&frame, 7, &in);
		assert_int_equal(wire_get_event(body_of(&frame, WIRE_EVENT), &memory, &out, &told, &err), E_CORRUPT);
	}
	wire_memory_fini(&memory);
	buf_fini(&frame);
}

/* ---- answers ------------------------------------------------------------------------------------ */

static void test_it_answers_as_in_process(void **state)
{
	struct driver here, there;
	struct engine_options options = named("tools");
	struct ask a = {0}, b = {0};
	struct engine_params p = chat_of("[{\"role\":\"user\",\"content\":\"Hello\"}]", 40);
	(void)state;

	p.logprobs = 3;
	start(&there, "tools");
	assert_true(child_now() > 0);
	options.in_process = true;
	driver_init(&here, &options);
	assert_memory_equal(engine_info(here.engine), engine_info(there.engine), sizeof(struct engine_info));
	say(&here, &a, p);
	say(&there, &b, p);
	assert_string_equal(a.text.base, b.text.base);
	assert_string_equal(a.reasoning.base, b.reasoning.base);
	assert_int_equal(a.prompt_tokens, b.prompt_tokens);
	assert_int_equal(a.last.completion_tokens, b.last.completion_tokens);
	assert_int_equal(a.logprob_count, b.logprob_count);
	assert_memory_equal(a.logprobs, b.logprobs, a.logprob_count * sizeof(float));
	assert_int_equal(engine_load(there.engine).generation_tokens_total, b.last.completion_tokens);
	ask_fini(&a);
	ask_fini(&b);
	driver_fini(&here);
	driver_fini(&there);
	assert_int_equal(child_now(), 0);
}

static void test_errors_cross(void **state)
{
	struct driver d;
	struct ask long_one = {0}, bad = {0};
	struct buf prompt = {0};
	(void)state;

	start(&d, "llama");
	for (int i = 0; i < 300; i++)
		buf_printf(&prompt, " %c", 'a' + i % 26);
	struct engine_params p = completion("", 5);
	p.prompt = buf_str(&prompt);
	say(&d, &long_one, p);
	assert_int_equal(long_one.err.code, E_LIMIT);
	assert_non_null(strstr(long_one.err.text, "256"));
	p = chat_of("[{\"role\":\"user\",\"content\":\"Hello\"}]", 5);
	p.json_schema = STR("{\"type\": \"nothing there is\"}");
	say(&d, &bad, p);
	assert_int_equal(bad.last.finish, FINISH_ERROR);
	buf_fini(&prompt);
	ask_fini(&long_one);
	ask_fini(&bad);
	driver_fini(&d);
}

static bool has_texts(void *arg)
{
	return ((struct ask *)arg)->texts >= 3;
}

static void pause_now(struct ask *ask, const struct engine_event *event)
{
	(void)event;
	if (ask->texts == 3)
		engine_pause(ask->request);
}

static bool is_idle(void *arg)
{
	struct driver *d = arg;

	return engine_load(d->engine).running == 0 && engine_load(d->engine).kv_usage < 0.9;
}

static void test_streams_side_by_side_are_canceled_and_paused(void **state)
{
	struct driver d;
	struct ask asks[8] = {0}, again = {0};
	char prompts[8][32];
	(void)state;

	start(&d, "llama");
	for (int i = 0; i < 8; i++) { /* eight for four slots */
		snprintf(prompts[i], sizeof(prompts[i]), "%d. the story", i);
		struct engine_params p = completion(prompts[i], 200);
		ask_start(&asks[i], &d, &p);
	}
	assert_int_equal(engine_load(d.engine).waiting, 8);
	asks[0].on_text = pause_now;
	engine_cancel(asks[5].request);
	driver_until(&d, has_texts, &asks[0]);
	for (int texts = -1; asks[0].texts != texts;) { /* a few on their way, at most 64, still come */
		texts = asks[0].texts;
		driver_turns(&d, 200 * US_PER_MS);
	}
	assert_int_equal(asks[0].done, 0);
	asks[0].on_text = NULL;
	engine_continue(asks[0].request);
	for (int i = 0; i < 8; i++) {
		if (i == 5)
			continue;
		ask_wait(&asks[i]);
		assert_true(asks[i].last.finish == FINISH_LENGTH || asks[i].last.finish == FINISH_STOP);
	}
	assert_int_equal(asks[5].done, 0);
	assert_int_equal(engine_load(d.engine).cancels_total, 1);
	driver_until(&d, is_idle, &d);
	say(&d, &again, completion(prompts[0], 200));
	assert_true(again.cached_tokens > 0);
	assert_true(engine_load(d.engine).decode_tokens_per_s > 0);
	for (int i = 0; i < 8; i++)
		ask_fini(&asks[i]);
	ask_fini(&again);
	driver_fini(&d);
}

/* ---- ends --------------------------------------------------------------------------------------- */

static bool is_ready(void *arg)
{
	return ((struct driver *)arg)->state == ENGINE_READY;
}

static bool is_failed(void *arg)
{
	return ((struct driver *)arg)->state == ENGINE_FAILED;
}

static void test_killed_in_the_middle_it_says_so_and_comes_back(void **state)
{
	struct driver d;
	struct ask stream = {.on_text = pause_now}, waiting = {0}, later = {0};
	struct engine_params p = completion("Once", 250);
	struct error err;
	(void)state;

	start(&d, "llama");
	ask_start(&stream, &d, &p);
	driver_until(&d, has_texts, &stream);
	pid_t first = child_now();
	kill(first, SIGSTOP);
	ask_start(&waiting, &d, &p);
	int64_t killed = clock_mono_us();
	kill(first, SIGKILL);
	ask_wait(&stream);
	assert_in_range(clock_mono_us() - killed, 0, US_PER_S);
	assert_int_equal(stream.last.finish, FINISH_ERROR);
	assert_int_equal(stream.err.code, E_UNAVAILABLE);
	assert_non_null(strstr(stream.err.text, "tiny:latest ended by signal 9"));
	assert_non_null(strstr(stream.err.text, "while it worked on 2 requests"));
	ask_wait(&waiting);
	assert_int_equal(waiting.err.code, E_UNAVAILABLE);
	assert_int_equal(d.state, ENGINE_FAILED);
	assert_int_equal(ask_submit(&later, &d, &p, &err), E_UNAVAILABLE);
	driver_until(&d, is_ready, &d);
	assert_in_range(clock_mono_us() - killed, 400 * US_PER_MS, 30 * US_PER_S);
	assert_true(child_now() && child_now() != first);
	say(&d, &later, completion("Twice", 5));
	assert_int_equal(later.last.completion_tokens, 5);
	assert_int_equal(engine_load(d.engine).running, 0);
	kill(child_now(), SIGKILL); /* idle now */
	driver_until(&d, is_failed, &d);
	assert_non_null(strstr(d.err.text, "while it was idle"));
	driver_until(&d, is_ready, &d);
	ask_fini(&stream);
	ask_fini(&waiting);
	ask_fini(&later);
	driver_fini(&d);
	assert_int_equal(child_now(), 0);
}

static bool has_child(void *arg)
{
	(void)arg;
	return child_now() > 0;
}

static bool has_no_child(void *arg)
{
	return !has_child(arg);
}

static void on_state_kept(void *arg, enum engine_state state, const struct error *err)
{
	struct driver *d = arg;

	d->state = state;
	d->states++;
	if (err)
		d->err = *err;
}

static void start_only(struct driver *d, const struct engine_options *options)
{
	struct error err;

	*d = (struct driver){.state = ENGINE_LOADING};
	assert_int_equal(loop_new(&d->loop), 0);
	assert_int_equal(engine_new(d->loop, options, on_state_kept, d, &d->engine, &err), 0);
}

static void test_killed_while_it_loads_it_is_started_again(void **state)
{
	struct driver d;
	struct engine_options options = named("llama");
	struct ask early = {0};
	struct engine_params p = completion("Once", 5);
	(void)state;

	start_only(&d, &options);
	ask_start(&early, &d, &p); /* before there is a process */
	driver_until(&d, has_child, NULL);
	kill(child_now(), SIGKILL);
	ask_wait(&early);
	assert_int_equal(early.err.code, E_UNAVAILABLE);
	assert_non_null(strstr(d.err.text, "while it loaded the model"));
	driver_until(&d, is_ready, &d);
	ask_fini(&early);
	early = (struct ask){0};
	say(&d, &early, completion("Once", 5));
	assert_int_equal(early.last.completion_tokens, 5);
	ask_fini(&early);
	driver_fini(&d);
}

static void test_requests_wait_while_it_loads(void **state)
{
	struct driver d;
	struct engine_options options = named("llama");
	struct ask early = {0}, canceled = {0};
	struct engine_params p = completion("Once", 5);
	(void)state;

	start_only(&d, &options);
	ask_start(&early, &d, &p);
	ask_start(&canceled, &d, &p);
	engine_cancel(canceled.request);
	ask_wait(&early);
	assert_int_equal(early.last.completion_tokens, 5);
	assert_int_equal(canceled.started + canceled.done, 0);
	ask_fini(&early);
	driver_fini(&d);
}

static void test_files_that_are_no_models_are_told_in_words(void **state)
{
	static const char *const names[] = {"cut", "text", "missing", "broken-template"};
	static const char *const words[] = {"cannot load", "is not a GGUF file", "cannot open", "template"};
	(void)state;

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		struct driver d;
		struct engine_options options = named(names[i]);
		driver_init(&d, &options);
		assert_int_equal(d.state, ENGINE_FAILED);
		if (!strstr(d.err.text, words[i]))
			fail_msg("%s: %s", names[i], d.err.text);
		driver_until(&d, has_no_child, NULL);
		driver_turns(&d, 700 * US_PER_MS);
		assert_int_equal(child_now(), 0);
		assert_int_equal(d.states, 1);
		driver_fini(&d);
	}
}

static bool is_settled(void *arg)
{
	struct driver *d = arg;

	return d->state == ENGINE_READY || strstr(d->err.text, "given up") ||
	       (d->err.code && !strstr(d->err.text, "ended by"));
}

/* The corpus of our own parser's fuzzer, and a good model with its header spoilt in many places: whatever llama.cpp
 * makes of them, this process lives and hears of it in words. */
static void test_hostile_files_end_their_process_at_most(void **state)
{
	const char *corpus = getenv("MDN_TEST_GGUF");
	static char data[1 << 20];
	char path[4200];
	struct dirent *entry;
	(void)state;

	DIR *dir = opendir(corpus ? corpus : "");
	assert_non_null(dir);
	for (int i = 0; i < 30; i++) {
		struct driver d;
		struct engine_options options = named("llama");
		while ((entry = readdir(dir)) && entry->d_name[0] == '.')
			;
		if (entry) {
			snprintf(path, sizeof(path), "%s/%s", corpus, entry->d_name);
		} else {
			FILE *in = fopen(model_path("llama"), "rb"), *out;
			size_t len = fread(data, 1, sizeof(data), in);
			fclose(in);
			for (int j = 0; j < 8; j++)
				data[24 + (size_t)(i * 7919 + j * 104729) % 4096] ^= (char)(1 << (i + j) % 8);
			snprintf(path, sizeof(path), "%s/spoilt.gguf", getenv("MDN_TEST_MODELS"));
			out = fopen(path, "wb");
			fwrite(data, 1, len, out);
			fclose(out);
		}
		options.model_path = str_from(path);
		start_only(&d, &options);
		driver_until(&d, is_settled, &d);
		if (d.state != ENGINE_READY)
			assert_true(d.err.code && strlen(d.err.text) > 10);
		driver_fini(&d);
		assert_int_equal(child_now(), 0);
	}
	closedir(dir);
}

static void test_freed_at_any_time_it_leaves_nothing_behind(void **state)
{
	struct driver d;
	struct engine_options options = named("llama");
	struct ask stream = {.on_text = pause_now};
	struct engine_params p = completion("Once", 250);
	(void)state;

	start_only(&d, &options);
	driver_fini(&d);
	assert_int_equal(child_now(), 0);
	start_only(&d, &options);
	driver_until(&d, has_child, NULL);
	driver_fini(&d);
	assert_int_equal(child_now(), 0);
	start(&d, "llama");
	ask_start(&stream, &d, &p);
	driver_until(&d, has_texts, &stream);
	driver_fini(&d);
	assert_int_equal(stream.err.code, E_CANCELED);
	assert_int_equal(child_now(), 0);
	start(&d, "llama");
	kill(child_now(), SIGKILL);
	driver_until(&d, is_failed, &d);
	driver_fini(&d); /* while it waits to start it again */
	assert_int_equal(child_now(), 0);
	ask_fini(&stream);
}

static void test_a_file_in_memory_is_handed_over(void **state)
{
	struct driver d;
	struct engine_options options = named("llama");
	struct ask a = {0};
	char path[64], data[65536];
	int from = open(model_path("llama"), O_RDONLY), fd = memfd_create("model", MFD_CLOEXEC);
	ssize_t got;
	(void)state;

	while ((got = read(from, data, sizeof(data))) > 0)
		assert_int_equal(write(fd, data, (size_t)got), got);
	close(from);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	options.model_path = str_from(path);
	driver_init(&d, &options);
	if (d.state != ENGINE_READY)
		fail_msg("%s", d.err.text);
	say(&d, &a, completion("Once", 5));
	assert_int_equal(a.last.completion_tokens, 5);
	ask_fini(&a);
	driver_fini(&d);
	close(fd);
}

/* With its address space limited as a container's memory would be. A sanitizer needs terabytes of it. */
static void test_without_memory_it_fails_in_words(void **state)
{
	struct rlimit old, tight = {400 << 20, 400 << 20};
	struct driver d;
	struct engine_options options = named("llama");
	(void)state;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) /* they need the address space */
	skip();
#endif
	options.slots = 64;
	options.context_tokens = 256;
	options.kv_tokens = 4 << 20;
	getrlimit(RLIMIT_AS, &old);
	tight.rlim_max = old.rlim_max;
	setrlimit(RLIMIT_AS, &tight);
	start_only(&d, &options);
	driver_until(&d, is_failed, &d);
	setrlimit(RLIMIT_AS, &old);
	assert_true(strlen(d.err.text) > 20);
	print_message("%s\n", d.err.text);
	driver_fini(&d);
	assert_int_equal(child_now(), 0);
}

/* ---- what it may do ------------------------------------------------------------------------------- */

static void test_the_process_is_locked_up(void **state)
{
	struct driver d;
	char value[256], link[64], target[256];
	(void)state;

	setenv("MDN_SECRET", "a key of the node", 1);
	start(&d, "llama");
	pid_t pid = child_now();
	assert_true(status_of(pid, "NoNewPrivs", value, sizeof(value)));
	assert_string_equal(value, "1\n");
	assert_true(status_of(pid, "Seccomp", value, sizeof(value)));
	assert_string_equal(value, "2\n");
	assert_true(status_of(pid, "Name", value, sizeof(value)));
	assert_string_equal(value, "mdn-engine\n");
	if (geteuid() == 0) {
		assert_true(status_of(pid, "Uid", value, sizeof(value)));
		assert_true(atoi(value) != 0);
		assert_true(status_of(pid, "CapEff", value, sizeof(value)));
		assert_true(strtoull(value, NULL, 16) == 0 || strtoull(value, NULL, 16) == 4); /* DAC_READ_SEARCH */
		FILE *f = fopen("/proc/self/oom_score_adj", "r");
		int own = 0, its = 0;
		assert_int_equal(fscanf(f, "%d", &own), 1);
		fclose(f);
		snprintf(link, sizeof(link), "/proc/%d/oom_score_adj", (int)pid);
		f = fopen(link, "r");
		assert_int_equal(fscanf(f, "%d", &its), 1);
		fclose(f);
		assert_true(its > own);
		snprintf(link, sizeof(link), "/proc/%d/environ", (int)pid);
		f = fopen(link, "r");
		char env[8192];
		size_t len = fread(env, 1, sizeof(env), f);
		fclose(f);
		assert_null(memmem(env, len, "MDN_SECRET", 10));
		/* No socket but those to us: frames, stdout, stderr (libuv makes pipes of sockets). */
		int sockets = 0;
		for (int fd = 0; fd < 64; fd++) {
			snprintf(link, sizeof(link), "/proc/%d/fd/%d", (int)pid, fd);
			ssize_t n = readlink(link, target, sizeof(target) - 1);
			if (n > 0 && strncmp(target, "socket:", 7) == 0)
				sockets++;
		}
		assert_int_equal(sockets, 3);
	}
	driver_fini(&d);
}

static int count_kv(const char *folder)
{
	DIR *dir = opendir(folder);
	int count = 0;

	for (struct dirent *entry; dir && (entry = readdir(dir));)
		count += strstr(entry->d_name, ".kv") != NULL;
	if (dir)
		closedir(dir);
	return count;
}

static void test_it_keeps_prompts_in_a_folder_of_its_own(void **state)
{
	char all[] = "mdn-prefix-XXXXXX";
	struct engine_options options = named("llama");
	struct driver d;
	struct ask a = {0};
	struct stat of_all, of_own;
	(void)state;

	assert_non_null(mkdtemp(all));
	options.cache_folder = str_from(all);
	options.cache_disk_bytes = options.cache_memory_bytes = 16 << 20;
	driver_init(&d, &options);
	assert_int_equal(d.state, ENGINE_READY);
	say(&d, &a,
	    completion("Once there was a king who had a house of stone beside the sea, and in it lived a cat, a "
	               "dog and a very old horse that could sing",
	               4));
	assert_int_equal(a.last.finish, FINISH_LENGTH);
	ask_fini(&a);
	driver_fini(&d);
	char *own = disk_folder(all, "tiny:latest");
	for (int i = 0; i < 500 && !count_kv(own); i++)
		usleep(10000);
	assert_true(count_kv(own) > 0);
	assert_int_equal(stat(all, &of_all), 0);
	assert_int_equal(stat(own, &of_own), 0);
	if (geteuid() == 0) { /* those of other models are none of its business, nor is what they are called */
		assert_int_equal(of_all.st_uid, 0);
		assert_int_not_equal(of_own.st_uid, 0);
	}
	assert_int_equal(of_all.st_mode & 077, 0);
	assert_int_equal(of_own.st_mode & 077, 0);
	free(own);
	folder_remove(all, NULL);
}

#define SANDBOXED "sandboxed"

enum {
	CAN_READ_OWN,
	NO_SHADOW,
	NO_SOCKET,
	NO_UNIX,
	NO_EXEC,
	NO_FORK,
	NO_PTRACE,
	NO_KILL,
	NO_WRITE,
	CAN_WRITE,
	CAN_THREAD,
	NO_SIGNAL_AT_ALL,
	NO_OWNER,
	NO_LIMITS,
	CAN_LIMIT_ITSELF,
	CHECKS
};

static void *nothing(void *arg)
{
	return arg;
}

/* One bit for each that is as it should be. */
static int sandboxed(const char *mine, const char *folder, const char *user)
{
	struct sandbox s = {.reads = {mine}, .read_count = 1, .folder = folder, .user = user};
	siginfo_t info = {.si_code = SI_QUEUE};
	struct rlimit limit;
	struct error err;
	char missing[512], path[4200], *const argv[] = {"true", NULL};
	pthread_t thread;
	int good = 0;
	pid_t parent = getppid();

	if (sandbox_enter(&s, missing, sizeof(missing), &err) < 0 || strstr(missing, "seccomp"))
		return 0;
	int landlock = !strstr(missing, "landlock");
	snprintf(path, sizeof(path), "%s/made", folder);
	good |= (open(mine, O_RDONLY) >= 0) << CAN_READ_OWN;
	good |= (open("/etc/shadow", O_RDONLY) < 0 && (!landlock || open("/etc/passwd", O_RDONLY) < 0)) << NO_SHADOW;
	good |= (socket(AF_INET, SOCK_STREAM, 0) < 0) << NO_SOCKET;
	good |= (socket(AF_UNIX, SOCK_STREAM, 0) < 0) << NO_UNIX;
	good |= (execv("/bin/true", argv) < 0) << NO_EXEC;
	good |= (syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) < 0) << NO_FORK;
	good |= (syscall(SYS_ptrace, 0, 0, 0, 0) < 0) << NO_PTRACE;
	good |= (kill(parent, 0) < 0 && syscall(SYS_tgkill, parent, parent, 0) < 0) << NO_KILL;
	good |= (open("/tmp/mdn-sandbox-test", O_WRONLY | O_CREAT, 0600) < 0 || !landlock) << NO_WRITE;
	good |= (open(path, O_WRONLY | O_CREAT, 0600) >= 0) << CAN_WRITE;
	good |= (pthread_create(&thread, NULL, nothing, NULL) == 0 && pthread_join(thread, NULL) == 0) << CAN_THREAD;
	/* Of itself, which would be allowed: so it is not the other uid that forbids it. */
	good |= (syscall(SYS_rt_tgsigqueueinfo, getpid(), getpid(), 0, &info) < 0) << NO_SIGNAL_AT_ALL;
	good |= (fcntl(2, F_SETOWN, getpid()) < 0 && fcntl(2, F_SETSIG, SIGKILL) < 0) << NO_OWNER;
	good |= (prlimit(getpid(), RLIMIT_NOFILE, NULL, &limit) < 0) << NO_LIMITS;
	good |= (prlimit(0, RLIMIT_NOFILE, NULL, &limit) == 0) << CAN_LIMIT_ITSELF;
	return good;
}

/* The fresh process that sandbox_as() starts: a copy of this one may have threads, and then cannot make any (TSan). */
static int sandboxed_main(const char *folder, const char *user)
{
	int good = sandboxed(model_path("llama"), folder, user);

	return write(STDOUT_FILENO, &good, sizeof(good)) != sizeof(good);
}

static void sandbox_as(const char *user)
{
	char folder[] = "mdn-sandbox-XXXXXX", path[64];
	int ends[2], good = 0;

	assert_non_null(mkdtemp(folder));
	assert_int_equal(pipe(ends), 0);
	pid_t pid = fork();
	if (pid == 0) {
		dup2(ends[1], STDOUT_FILENO);
		close(ends[0]);
		close(ends[1]);
		execl("/proc/self/exe", "test_process", SANDBOXED, folder, user, NULL);
		_exit(127);
	}
	close(ends[1]);
	ssize_t got = read(ends[0], &good, sizeof(good));
	close(ends[0]);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(got, sizeof(good));
	for (int i = 0; i < CHECKS; i++)
		if (!(good & 1 << i))
			fail_msg("as \"%s\": number %d is not as it should be", user, i);
	snprintf(path, sizeof(path), "%s/made", folder);
	unlink(path);
	rmdir(folder);
}

static void test_the_sandbox_refuses_what_a_model_does_not_need(void **state)
{
	(void)state;
	sandbox_as("");
	sandbox_as("nobody"); /* by name: the list of users is not among what it may read */
}

/* ---- processes that lie ------------------------------------------------------------------------- */

static void put_ready(struct buf *out)
{
	struct wire_state told = {.state = ENGINE_READY,
	                          .info = {.context_tokens = 64, .slots = 4, .chat = true, .rerank = true}};

	wire_put_state(out, &told);
}

static void put_text(struct buf *out, uint64_t id, enum engine_event_kind kind, int32_t made)
{
	struct engine_event event = {
	    .kind = kind, .text = kind == ENGINE_TEXT ? STR("lie") : (struct str){0}, .completion_tokens = made};

	wire_put_event(out, id, &event);
}

static void put_ranks(struct buf *out, uint64_t id, size_t count, float rank)
{
	const float ranks[3] = {0.25F, rank, 0.5F};
	struct engine_event event = {
	    .kind = ENGINE_DONE, .finish = FINISH_STOP, .vectors = ranks, .vector_size = 1, .vector_count = count};

	put_text(out, id, ENGINE_STARTED, 0);
	wire_put_event(out, id, &event);
}

/* What a bad process says once it was asked: `how` chooses. */
static void put_lie(struct buf *out, uint64_t id, int how)
{
	struct engine_event event = {.kind = ENGINE_TEXT, .text = STR("x")};
	struct wire_head head = {8, 99, 0};
	struct wire_load load = {.load = {.kv_usage = NAN, .itl_us = -1, .expiries_total = 7}, .submits = UINT64_MAX};

	switch (how) {
	case 0: /* text that never began */
		put_text(out, id, ENGINE_TEXT, 1);
		return;
	case 1: /* begins twice */
		put_text(out, id, ENGINE_STARTED, 0);
		put_text(out, id, ENGINE_STARTED, 0);
		return;
	case 2: /* gets shorter */
		put_text(out, id, ENGINE_STARTED, 0);
		put_text(out, id, ENGINE_TEXT, 9);
		put_text(out, id, ENGINE_TEXT, 3);
		return;
	case 3: /* a frame without an end */
		head.size = UINT32_MAX;
		buf_append(out, &head, sizeof(head));
		return;
	case 4: /* a kind there is not */
		buf_append(out, &head, sizeof(head));
		buf_append(out, &head, 8);
		return;
	case 5: /* loads again */
		put_ready(out);
		return;
	case 6: /* lengths that lie */
		wire_put_event(out, id, &event);
		memset(out->base + out->len - 96, 0xff, 64);
		return;
	case 7: /* noise */
		for (int i = 0; i < 4096; i++)
			buf_append(out, &(char){(char)(i * 37)}, 1);
		return;
	case 8: /* requests that nobody made, ends that come twice, and a strange load: harmless, so it goes on */
		for (uint64_t other = 0; other < 100; other++)
			put_text(out, other * 65537 + 3, ENGINE_DONE, 1);
		wire_put_load(out, &load);
		put_text(out, id, ENGINE_DONE, 1);
		put_text(out, id, ENGINE_DONE, 1);
		return;
	case 10: /* a rank for a document that nobody sent */
		put_ranks(out, id, 3, 0.75F);
		return;
	case 11: /* one that is no number */
		put_ranks(out, id, 2, NAN);
		return;
	case 12: /* vectors that were not asked for */
		put_ranks(out, id, 2, 0.75F);
		return;
	case 13: /* words without end */
		put_text(out, id, ENGINE_STARTED, 0);
		for (int i = 0; i < 60; i++) {
			event.text = (struct str){memset(mem_new(1 << 16), 'x', 1 << 16), 1 << 16};
			wire_put_event(out, id, &event);
			free((char *)event.text.base);
		}
		return;
	default: /* ends, with words */
		fprintf(stderr, "GGML_ASSERT(\x1b[31mfailed)\n");
		abort();
	}
}

static int hostile(int how)
{
	static char data[1 << 20];
	struct buf out = {0}, in = {0};
	struct wire_head head;
	struct str body;
	size_t at = 0;
	bool ready = false;

	for (;;) {
		ssize_t got = read(0, data, sizeof(data));
		if (got <= 0)
			return 0;
		buf_append(&in, data, (size_t)got);
		while (wire_take((struct str){in.base + at, in.len - at}, &head, &body) > 0) {
			at += sizeof(head) + body.len;
			if (!ready)
				put_ready(&out);
			else if (head.kind == WIRE_SUBMIT)
				put_lie(&out, head.request, how);
			ready = true;
			if (write(0, out.base, out.len) != (ssize_t)out.len)
				return 1;
			buf_clear(&out);
		}
	}
}

static void test_a_process_that_lies_is_ended_and_the_node_goes_on(void **state)
{
	(void)state;
	static const struct str documents[] = {{"a", 1}, {"b", 1}};
	const struct engine_params rank = {
	    .task = ENGINE_RERANK, .prompt = STR("q"), .inputs = documents, .input_count = 2};

	for (int how = 0; how < 14; how++) {
		struct driver d;
		struct engine_options options = named("llama");
		struct ask a = {0};
		char name[32];
		snprintf(name, sizeof(name), "hostile-%d", how);
		options.model_name = str_from(name);
		driver_init(&d, &options);
		assert_int_equal(d.state, ENGINE_READY);
		say(&d, &a, how == 10 || how == 11 ? rank : completion("Once", 5));
		assert_int_equal(a.done, 1);
		if (how == 8) {
			assert_int_equal(engine_load(d.engine).expiries_total, 0);
			assert_int_equal(a.last.finish, FINISH_STOP);
			assert_true(engine_load(d.engine).kv_usage == 0 && engine_load(d.engine).itl_us == 0);
			assert_int_equal(d.state, ENGINE_READY);
		} else {
			assert_int_equal(a.err.code, E_UNAVAILABLE);
			if (!strstr(a.err.text, how == 9 ? "signal 6" : "nonsense"))
				fail_msg("%d: %s", how, a.err.text);
			assert_null(strchr(a.err.text, '\x1b'));
		}
		if (how == 9)
			assert_non_null(strstr(a.err.text, "GGML_ASSERT"));
		ask_fini(&a);
		driver_fini(&d);
		assert_int_equal(child_now(), 0);
	}
}

static void test_one_that_always_dies_while_loading_is_given_up(void **state)
{
	struct driver d;
	struct engine_options options = named("llama");
	(void)state;

	options.model_name = STR("hostile-dies");
	start_only(&d, &options);
	for (int i = 0; i < 4; i++) { /* 0.5 s, 1 s, 2 s between */
		d.state = ENGINE_LOADING;
		driver_until(&d, is_failed, &d);
	}
	assert_non_null(strstr(d.err.text, "given up after 4 attempts"));
	int states = d.states;
	driver_turns(&d, 5 * US_PER_S);
	assert_int_equal(d.states, states);
	driver_fini(&d);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#if defined(__GNUC__) && !defined(__clang__)
		cmocka_unit_test(test_every_field_of_engine_h_has_its_line),
#endif
		cmocka_unit_test(test_a_request_crosses_unchanged),
		cmocka_unit_test(test_an_event_crosses_unchanged_and_a_bad_one_not),
		cmocka_unit_test(test_it_answers_as_in_process),
		cmocka_unit_test(test_errors_cross),
		cmocka_unit_test(test_streams_side_by_side_are_canceled_and_paused),
		cmocka_unit_test(test_killed_in_the_middle_it_says_so_and_comes_back),
		cmocka_unit_test(test_killed_while_it_loads_it_is_started_again),
		cmocka_unit_test(test_requests_wait_while_it_loads),
		cmocka_unit_test(test_files_that_are_no_models_are_told_in_words),
		cmocka_unit_test(test_hostile_files_end_their_process_at_most),
		cmocka_unit_test(test_freed_at_any_time_it_leaves_nothing_behind),
		cmocka_unit_test(test_a_file_in_memory_is_handed_over),
		cmocka_unit_test(test_without_memory_it_fails_in_words),
		cmocka_unit_test(test_the_process_is_locked_up),
		cmocka_unit_test(test_it_keeps_prompts_in_a_folder_of_its_own),
		cmocka_unit_test(test_the_sandbox_refuses_what_a_model_does_not_need),
		cmocka_unit_test(test_a_process_that_lies_is_ended_and_the_node_goes_on),
		cmocka_unit_test(test_one_that_always_dies_while_loading_is_given_up),
	};

	if (argc > 2 && strcmp(argv[1], ENGINE_PROCESS) == 0 && strncmp(argv[2], "hostile-", 8) == 0)
		return strcmp(argv[2], "hostile-dies") ? hostile(atoi(argv[2] + 8)) : 3;
	if (argc == 4 && strcmp(argv[1], SANDBOXED) == 0)
		return sandboxed_main(argv[2], argv[3]);
	int status = engine_process_hook(argc, argv);
	return status >= 0 ? status : cmocka_run_group_tests(tests, NULL, NULL);
}
