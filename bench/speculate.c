/* SPDX-License-Identifier: Apache-2.0 */
/* speculate.c - tokens per second with and without guesses (n-grams), of two engines in turns, one stream.
 *
 *   bench_speculate MODEL [ROUNDS [COPY|FREE]]
 *
 * COPY asks for a text to be written out again, where most guesses come true; FREE for a story, where few do. Greedy,
 * so both give the same text but where two tokens are nearly as likely; only tokens after the first count. Prints a
 * line a round, the ratio of the medians, and what share of the guesses came true.
 */
#include "base/clock.h"
#include "engine/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { TOKENS = 200, ROUNDS_MAX = 100 };

#define TEXT \
	"The harbour of Lindholm has four piers. The first pier belongs to the fishing fleet, which leaves at five " \
	"in the " \
	"morning and returns before noon. The second pier is for the ferry to the islands of Grena, Tolv and Little " \
	"Ansa. " \
	"The third pier was closed in 1987 after a storm broke its outer wall, and it was opened again in 1994 with " \
	"a new " \
	"wall of granite from the quarry at Morrum. The fourth pier is used by the pilots, the customs boat and the " \
	"harbour " \
	"master, whose name is Ingrid Falkenberg and who has worked there for thirty-one years."

static const char copy[] =
    "[{\"role\":\"user\",\"content\":\"Write out the following text again, word by word, without "
    "changes:\\n\\n" TEXT "\"}]";
static const char story[] = "[{\"role\":\"user\",\"content\":\"Tell me a long story about a lighthouse keeper.\"}]";

static struct loop *loop;

struct stream {
	int64_t first_us, last_us;
	int32_t first_tokens, tokens;
};

static void die(const struct error *err)
{
	fprintf(stderr, "bench_speculate: %s\n", err->text);
	exit(1);
}

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
	if (event->err)
		die(event->err);
	loop_stop(loop);
}

static void on_state(void *arg, enum engine_state state, const struct error *err)
{
	(void)arg;
	if (state == ENGINE_FAILED)
		die(err);
	loop_stop(loop);
}

static struct engine *engine_start(const char *model, struct str speculate)
{
	struct engine_options options = {.kind = STR("llama"),
	                                 .model_path = str_from(model),
	                                 .slots = 1,
	                                 .context_tokens = 1024,
	                                 .speculate = speculate,
	                                 .threads = getenv("THREADS") ? atoi(getenv("THREADS")) : 0,
	                                 .in_process = true};
	struct engine *engine;
	struct error err;

	if (engine_new(loop, &options, on_state, NULL, &engine, &err) < 0)
		die(&err);
	loop_run(loop);
	return engine;
}

/* Of all threads, ms. */
static double cpu_ms(void)
{
	struct rusage use;

	getrusage(RUSAGE_SELF, &use);
	return (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1e3 +
	       (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e3;
}

static double round_rate(struct engine *engine, const char *messages, double *ret_cpu_ms)
{
	double begun_ms = cpu_ms();
	struct stream s = {0};
	struct engine_request *request;
	struct engine_params params = {
	    .task = ENGINE_CHAT,
	    .messages_json = str_from(messages),
	    .max_tokens = TOKENS,
	    .logprobs = -1,
	    .sampling = {.temperature = 0, .top_p = 1, .min_p = -1, .repeat_penalty = 1},
	};
	struct error err;

	if (engine_submit(engine, &params, on_event, &s, &request, &err) < 0)
		die(&err);
	loop_run(loop);
	*ret_cpu_ms = (cpu_ms() - begun_ms) / s.tokens;
	return (s.tokens - s.first_tokens) * 1e6 / (double)(s.last_us - s.first_us);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

int main(int argc, char **argv)
{
	int rounds = argc > 2 ? atoi(argv[2]) : 5;
	const char *messages = argc > 3 && strcmp(argv[3], "FREE") == 0 ? story : copy;
	double rates[2][ROUNDS_MAX], costs[2][ROUNDS_MAX], warm;
	struct engine *engines[2];

	if (argc < 2 || rounds < 1 || rounds > ROUNDS_MAX) {
		fprintf(stderr, "usage: bench_speculate MODEL [ROUNDS [COPY|FREE]]\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (loop_new(&loop) < 0)
		return 1;
	for (int i = 0; i < 2; i++)
		engines[i] = engine_start(argv[1], i ? STR("ngram") : STR("none"));
	for (int way = 0; way < 2; way++)
		round_rate(engines[way], messages, &warm);
	for (int i = 0; i < rounds; i++) {
		for (int way = 0; way < 2; way++)
			rates[way][i] = round_rate(engines[way], messages, &costs[way][i]);
		printf("round %d: %.1f tokens/s without, %.1f with guesses; CPU ms a token %.2f, %.2f\n", i + 1,
		       rates[0][i], rates[1][i], costs[0][i], costs[1][i]);
	}
	for (int i = 0; i < 2; i++) {
		qsort(rates[i], (size_t)rounds, sizeof(double), by_value);
		qsort(costs[i], (size_t)rounds, sizeof(double), by_value);
	}
	int mid = rounds / 2;
	struct engine_load load = engine_load(engines[1]);
	printf("median: %.1f without, %.1f with guesses, ratio %.3f; CPU %.2f, %.2f, ratio %.3f; %llu of %llu guesses "
	       "came "
	       "true\n",
	       rates[0][mid], rates[1][mid], rates[1][mid] / rates[0][mid], costs[0][mid], costs[1][mid],
	       costs[0][mid] / costs[1][mid], (unsigned long long)load.accepted_tokens_total,
	       (unsigned long long)load.drafted_tokens_total);
	for (int i = 0; i < 2; i++)
		engine_free(engines[i]);
	loop_free(loop);
	return 0;
}
