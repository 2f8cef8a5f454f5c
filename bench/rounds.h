/* SPDX-License-Identifier: Apache-2.0 */
/* rounds.h - two ways to have an engine answer, in turns: tokens per second and CPU time a token of each, and the
 * ratios of their medians.
 *
 * Only tokens after each stream's first count for the rate, so prefill does not. CPU time is of all threads of the
 * process, which a busy machine disturbs less. What fails ends the program with words. THREADS=n sets the engine's.
 */
#ifndef MDN_BENCH_ROUNDS_H
#define MDN_BENCH_ROUNDS_H

#include "engine/engine.h"

enum { ROUNDS_MAX = 100 };

struct stream {
	int64_t first_us, last_us;
	int32_t first_tokens, tokens;
};

/* A llama engine in this process, of contexts of 1,024 tokens; ready. The caller frees it before rounds_end. */
struct engine *rounds_engine(const char *model_path, int slots, struct str speculate);
void rounds_submit(struct engine *engine, const struct engine_params *params, struct stream *ret_stream);
void rounds_wait(void); /* until all that was submitted is done */
void rounds_end(void);
/* Has `answer(arg, way, round)` run its streams for both ways, `rounds` times after a first that does not count; it
 * returns how many streams. Prints a line a round, and the medians. */
typedef int rounds_answer(void *arg, int way, int round, struct stream **ret_streams);
void rounds_compare(int rounds, const char *const names[2], rounds_answer *answer, void *arg);

#endif
