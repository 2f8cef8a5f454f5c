/* SPDX-License-Identifier: Apache-2.0 */
/* constrained.c - tokens per second with and without a JSON schema, of one engine in turns.
 *
 *   bench_constrained MODEL [ROUNDS [STREAMS [SPECULATE]]]
 *
 * The same prompt and seeds for both; only tokens after each stream's first count, so prefill does not. Prints a line a
 * round, the ratio of the medians, and that of the CPU time a token, which a busy machine disturbs less. THREADS=n.
 */
#include "base/clock.h"
#include "engine/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

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

/* Of all threads, ms. */
static double cpu_ms(void)
{
	struct rusage use;

	getrusage(RUSAGE_SELF, &use);
	return (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1e3 +
	       (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e3;
}

static double round_rate(int streams, bool constrained, int round, double *ret_cpu_ms)
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
	double tokens = 0, all_tokens = 0, begun_ms = cpu_ms();
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
		all_tokens += all[i].tokens;
		first_us = all[i].first_us < first_us ? all[i].first_us : first_us;
		last_us = all[i].last_us > last_us ? all[i].last_us : last_us;
	}
	*ret_cpu_ms = (cpu_ms() - begun_ms) / all_tokens;
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
	double rates[2][ROUNDS_MAX], costs[2][ROUNDS_MAX], warm;
	struct error err;

	if (argc < 2 || rounds < 1 || rounds > ROUNDS_MAX || streams < 1 || streams > STREAMS_MAX) {
		fprintf(stderr, "usage: bench_constrained MODEL [ROUNDS [STREAMS [SPECULATE]]]\n");
		return 2;
	}
	struct engine_options options = {.kind = STR("llama"),
	                                 .model_path = str_from(argv[1]),
	                                 .slots = streams,
	                                 .context_tokens = 1024,
	                                 .threads = getenv("THREADS") ? atoi(getenv("THREADS")) : 0,
	                                 .in_process = true};
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc > 4)
		options.speculate = str_from(argv[4]);
	if (loop_new(&loop) < 0 || engine_new(loop, &options, on_state, NULL, &engine, &err) < 0) {
		fprintf(stderr, "bench_constrained: %s\n", err.text);
		return 1;
	}
	loop_run(loop);
	round_rate(1, true, 0, &warm);
	for (int i = 0; i < rounds; i++) {
		for (int constrained = 0; constrained < 2; constrained++)
			rates[constrained][i] = round_rate(streams, constrained, i, &costs[constrained][i]);
		printf("round %d: %.1f tokens/s free, %.1f constrained; CPU ms a token %.2f, %.2f\n", i + 1,
		       rates[0][i], rates[1][i], costs[0][i], costs[1][i]);
	}
	for (int i = 0; i < 2; i++) {
		qsort(rates[i], (size_t)rounds, sizeof(double), by_value);
		qsort(costs[i], (size_t)rounds, sizeof(double), by_value);
	}
	int mid = rounds / 2;
	printf("median: %.1f free, %.1f constrained, ratio %.3f; CPU %.2f, %.2f, ratio %.3f\n", rates[0][mid],
	       rates[1][mid], rates[1][mid] / rates[0][mid], costs[0][mid], costs[1][mid],
	       costs[0][mid] / costs[1][mid]);
	engine_free(engine);
	loop_free(loop);
	return 0;
}
