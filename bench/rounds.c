/* SPDX-License-Identifier: Apache-2.0 */
/* rounds.c - see the header. */
#include "rounds.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

static struct loop *loop;
static int running;

static void die(const struct error *err)
{
	fprintf(stderr, "bench: %s\n", err->text);
	exit(1);
}

static void on_state(void *arg, enum engine_state state, const struct error *err)
{
	(void)arg;
	if (state == ENGINE_FAILED)
		die(err);
	loop_stop(loop);
}

struct engine *rounds_engine(const char *model_path, int slots, struct str speculate)
{
	const struct engine_options options = {.kind = STR("llama"),
	                                       .model_path = str_from(model_path),
	                                       .slots = slots,
	                                       .context_tokens = 1024,
	                                       .speculate = speculate,
	                                       .threads = getenv("THREADS") ? atoi(getenv("THREADS")) : 0,
	                                       .in_process = true};
	struct engine *engine;
	struct error err = {0};

	if (!loop && loop_new(&loop) < 0)
		exit(1);
	if (engine_new(loop, &options, on_state, NULL, &engine, &err) < 0)
		die(&err);
	loop_run(loop);
	return engine;
}

void rounds_end(void)
{
	loop_free(loop);
	loop = NULL;
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
	if (--running == 0)
		loop_stop(loop);
}

void rounds_submit(struct engine *engine, const struct engine_params *params, struct stream *ret_stream)
{
	struct engine_request *request;
	struct error err;

	*ret_stream = (struct stream){0};
	if (engine_submit(engine, params, on_event, ret_stream, &request, &err) < 0)
		die(&err);
	running++;
}

void rounds_wait(void)
{
	loop_run(loop);
}

static double cpu_ms(void)
{
	struct rusage use;

	getrusage(RUSAGE_SELF, &use);
	return (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1e3 +
	       (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e3;
}

struct result {
	double rate, cost; /* tokens/s; CPU ms a token */
};

static struct result result_of(rounds_answer *answer, void *arg, int way, int round)
{
	struct stream *all;
	double begun_ms = cpu_ms(), counted = 0, tokens = 0;
	int64_t first_us = INT64_MAX, last_us = 0;
	int count = answer(arg, way, round, &all);
	double cost_ms = cpu_ms() - begun_ms;

	for (int i = 0; i < count; i++) {
		counted += all[i].tokens - all[i].first_tokens;
		tokens += all[i].tokens;
		first_us = all[i].first_us < first_us ? all[i].first_us : first_us;
		last_us = all[i].last_us > last_us ? all[i].last_us : last_us;
	}
	return (struct result){counted * 1e6 / (double)(last_us - first_us), cost_ms / tokens};
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(double *values, int count)
{
	qsort(values, (size_t)count, sizeof(double), by_value);
	return values[count / 2];
}

void rounds_compare(int rounds, const char *const names[2], rounds_answer *answer, void *arg)
{
	double rates[2][ROUNDS_MAX], costs[2][ROUNDS_MAX], rate[2], cost[2];

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (int way = 0; way < 2; way++)
		result_of(answer, arg, way, 0);
	for (int i = 0; i < rounds; i++) {
		for (int way = 0; way < 2; way++) {
			struct result r = result_of(answer, arg, way, i);
			rates[way][i] = r.rate;
			costs[way][i] = r.cost;
		}
		printf("round %d: %.1f tokens/s %s, %.1f %s; CPU ms a token %.2f, %.2f\n", i + 1, rates[0][i], names[0],
		       rates[1][i], names[1], costs[0][i], costs[1][i]);
	}
	for (int way = 0; way < 2; way++) {
		rate[way] = median(rates[way], rounds);
		cost[way] = median(costs[way], rounds);
	}
	printf("median: %.1f %s, %.1f %s, ratio %.3f; CPU %.2f, %.2f, ratio %.3f\n", rate[0], names[0], rate[1],
	       names[1], rate[1] / rate[0], cost[0], cost[1], cost[0] / cost[1]);
}
