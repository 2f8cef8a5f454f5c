/* SPDX-License-Identifier: Apache-2.0 */
/* constrained.c - tokens per second with and without a JSON schema, of one engine in turns.
 *
 *   bench_constrained MODEL [ROUNDS [STREAMS [SPECULATE]]]
 *
 * The same prompt and seeds for both; only tokens after each stream's first count, so prefill does not. Prints a line a
 * round and the ratio of the medians.
 */
#include "base/clock.h"
#include "engine/engine.h"

#include <stdio.h>
#include <stdlib.h>

enum { TOKENS = 160, STREAMS_MAX = 64, ROUNDS_MAX = 100 };

static const char schema[] =
    "{\"type\":\"object\",\"properties\":{\"people\":{\"type\":\"array\",\"minItems\":8,\"maxItems\":12,\"items\":{"
    "\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\",\"maxLength\":24},\"age\":{\"type\":\"integer\"}"
    ","
    "\"city\":{\"enum\":[\"Paris\",\"Rome\",\"Berlin\",\"Madrid\"]},\"tags\":{\"type\":\"array\",\"items\":{\"type\":"
    "\"string\",\"maxLength\":12},\"minItems\":1,\"maxItems\":3}},\"required\":[\"name\",\"age\",\"city\",\"tags\"],"
    "\"additionalProperties\":false}}},\"required\":[\"people\"],\"additionalProperties\":false}";

static struct loop *loop;
static struct engine *engine;

struct stream {
	int64_t first_us, last_us;
	int32_t first_tokens, tokens;
};

static int running;

static void on_event(void *arg, const struct engine_event *event)
{
	struct stream *s = arg;

	if (event->kind == ENGINE_STARTED)
		return;
	s->last_us = clock_mono_us();
	s->tokens = event->completion_tokens;
	if (event->kind == ENGINE_TEXT && !s->first_us) {
		s->first_us = s->last_us;
		s->first_tokens = event->completion_tokens;
	}
	if (event->kind != ENGINE_DONE)
		return;
	if (event->err) {
		fprintf(stderr, "bench_constrained: %s\n", event->err->text);
		exit(1);
	}
	if (--running == 0)
		loop_stop(loop);
}

static void on_state(void *arg, enum engine_state state, const struct error *err)
{
	(void)arg;
	if (state == ENGINE_FAILED) {
		fprintf(stderr, "bench_constrained: %s\n", err->text);
		exit(1);
	}
	loop_stop(loop);
}

static double round_rate(int streams, bool constrained, int round)
{
	static struct stream all[STREAMS_MAX];
	struct engine_params params = {
	    .task = ENGINE_CHAT,
	    .messages_json = STR("[{\"role\":\"user\",\"content\":\"List ten invented people as a JSON object with "
	                         "the key people: name, age, city (Paris, Rome, Berlin or Madrid) and tags.\"}]"),
	    .max_tokens = TOKENS,
	    .logprobs = -1,
	    .sampling = {.temperature = 0.8, .top_p = 0.95, .min_p = -1, .repeat_penalty = 1, .has_seed = true},
	};
	double tokens = 0;
	int64_t first_us = INT64_MAX, last_us = 0;
	struct error err;

	if (constrained)
		params.json_schema = str_from(schema);
	for (int i = 0; i < streams; i++) {
		struct engine_request *request;
		all[i] = (struct stream){0};
		params.sampling.seed = (uint64_t)(round * STREAMS_MAX + i);
		if (engine_submit(engine, &params, on_event, &all[i], &request, &err) < 0) {
			fprintf(stderr, "bench_constrained: %s\n", err.text);
			exit(1);
		}
		running++;
	}
	loop_run(loop);
	for (int i = 0; i < streams; i++) {
		tokens += all[i].tokens - all[i].first_tokens;
		first_us = all[i].first_us < first_us ? all[i].first_us : first_us;
		last_us = all[i].last_us > last_us ? all[i].last_us : last_us;
	}
	return tokens * 1e6 / (double)(last_us - first_us);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

int main(int argc, char **argv)
{
	int rounds = argc > 2 ? atoi(argv[2]) : 5, streams = argc > 3 ? atoi(argv[3]) : 1;
	double rates[2][ROUNDS_MAX];
	struct error err;

	if (argc < 2 || rounds < 1 || rounds > ROUNDS_MAX || streams < 1 || streams > STREAMS_MAX) {
		fprintf(stderr, "usage: bench_constrained MODEL [ROUNDS [STREAMS [SPECULATE]]]\n");
		return 2;
	}
	struct engine_options options = {.kind = STR("llama"),
	                                 .model_path = str_from(argv[1]),
	                                 .slots = streams,
	                                 .context_tokens = 1024,
	                                 .in_process = true};
	if (argc > 4)
		options.speculate = str_from(argv[4]);
	if (loop_new(&loop) < 0 || engine_new(loop, &options, on_state, NULL, &engine, &err) < 0) {
		fprintf(stderr, "bench_constrained: %s\n", err.text);
		return 1;
	}
	loop_run(loop);
	for (int i = 0; i < rounds; i++) {
		for (int constrained = 0; constrained < 2; constrained++)
			rates[constrained][i] = round_rate(streams, constrained, i);
		printf("round %d: %.1f tokens/s free, %.1f constrained\n", i + 1, rates[0][i], rates[1][i]);
	}
	for (int i = 0; i < 2; i++)
		qsort(rates[i], (size_t)rounds, sizeof(double), by_value);
	printf("median: %.1f free, %.1f constrained, ratio %.3f\n", rates[0][rounds / 2], rates[1][rounds / 2],
	       rates[1][rounds / 2] / rates[0][rounds / 2]);
	engine_free(engine);
	loop_free(loop);
	return 0;
}
