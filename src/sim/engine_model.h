/* SPDX-License-Identifier: Apache-2.0 */
/* engine_model.h - a node's engine in virtual time: the timing of engine/synthetic.c without its loop.
 *
 * A request is admitted when a slot is free and its prompt and whole answer fit into the KV cache; until then it waits,
 * first come first served, as many as core/admission lets in, no longer than queue_wait. Prompts are prefilled one
 * after another, each with a first token at its end; then running requests get one token each per base + slope x
 * running. Microseconds. Owned by the caller; engine_model_init/fini. Requests are numbers of the caller's.
 */
#ifndef MDN_SIM_ENGINE_MODEL_H
#define MDN_SIM_ENGINE_MODEL_H

#include "sim/scenario.h"

struct engine_work { /* of a request */
	uint32_t request;
	int32_t uncached, output, kv; /* tokens */
	int64_t since_us;             /* came */
};

struct engine_running {
	double end; /* of the engine's work */
	uint32_t request;
	int32_t kv;
};

struct engine_deque {
	struct engine_work *items;
	uint32_t first, count, cap;
};

struct engine_model {
	const struct scenario_engine *settings;
	struct engine_deque waiting, prefills; /* prefills[0] is under way */
	struct engine_running *running;        /* heap by end */
	uint32_t running_count, running_cap;
	double work; /* tokens each running request has been given since the start */
	int64_t at_us, prefill_ends_us;
	int64_t kv, tokens_to_prefill;
	double busy_us; /* slots x time */
};

enum engine_event { ENGINE_FIRST_TOKEN, ENGINE_DONE, ENGINE_TOO_LATE };
typedef void engine_event_fn(void *arg, uint32_t request, enum engine_event event, int64_t now_us);

void engine_model_init(struct engine_model *e, const struct scenario_engine *settings);
void engine_model_fini(struct engine_model *e);
bool engine_model_has_room(const struct engine_model *e);
bool engine_model_offer(struct engine_model *e, const struct engine_work *work, int64_t now_us); /* false: busy */
int64_t engine_model_next_us(const struct engine_model *e); /* INT64_MAX: nothing to do */
void engine_model_run(struct engine_model *e, int64_t now_us, engine_event_fn *fn, void *arg);
/* All that is on it, and off it. */
void engine_model_drop(struct engine_model *e, int64_t now_us, void (*fn)(void *arg, uint32_t request), void *arg);
uint32_t engine_model_busy(const struct engine_model *e); /* slots taken */

#endif
