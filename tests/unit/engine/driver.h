/* SPDX-License-Identifier: Apache-2.0 */
/* driver.h - what the engine's tests share: a loop, an engine made and awaited, requests that record their events. */
#ifndef MDN_TESTS_ENGINE_DRIVER_H
#define MDN_TESTS_ENGINE_DRIVER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/engine.h"

struct driver {
	struct loop *loop;
	struct engine *engine;
	enum engine_state state;
	struct error err;
	int states; /* how often on_state came */
};

struct ask {
	struct driver *driver;
	struct engine_request *request;
	struct buf text, reasoning, tools;
	float logprobs[512];
	float logprob_sums[512]; /* of the alternatives' probabilities */
	size_t logprob_count;
	int started, texts, done;
	struct engine_event last; /* DONE: strings gone */
	struct error err;
	int32_t prompt_tokens, cached_tokens;
	int64_t started_us, first_us, done_us;
	void (*on_text)(struct ask *ask, const struct engine_event *event); /* may cancel, pause */
	void *arg;
};

/* A file that models.py has made; good until the eighth call from now. */
char *model_path(const char *name);
/* Of that model: 4 slots of 256 tokens, batches of 64, one thread. */
struct engine_options options_for(const char *name);
void driver_init(struct driver *d, const struct engine_options *options);  /* waits for READY or FAILED */
void driver_start(struct driver *d, const struct engine_options *options); /* must become READY */
void driver_model(struct driver *d, const char *name);                     /* the same with options_for */
void driver_fini(struct driver *d);
int ask_submit(struct ask *ask, struct driver *d, const struct engine_params *params, struct error *err);
void ask_start(struct ask *ask, struct driver *d, const struct engine_params *params); /* must be taken */
void ask_wait(struct ask *ask);
void say(struct driver *d, struct ask *ask, struct engine_params params); /* ask_start and ask_wait */
/* Runs the loop until `fn` says true; fails the test after 60 s. */
void driver_until(struct driver *d, bool (*fn)(void *arg), void *arg);
void driver_turns(struct driver *d, int64_t us); /* lets the loop run that long */
void ask_fini(struct ask *ask);
/* A completion, greedy, that many tokens. */
struct engine_params completion(const char *prompt, int32_t max_tokens);
struct engine_params chat_of(const char *messages_json, int32_t max_tokens);

#endif
