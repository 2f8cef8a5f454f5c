/* SPDX-License-Identifier: Apache-2.0 */
/* driver.c - see the header. Waiting is by loop_run and loop_stop; a watchdog ends a test that hangs. */
#include "driver.h"

#include "base/clock.h"
#include "base/limits.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

struct wait {
	struct driver *driver;
	bool (*fn)(void *arg);
	void *arg;
	int64_t until_us;
	bool met, late;
};

static void wait_check(void *arg)
{
	struct wait *w = arg;

	w->met = w->fn && w->fn(w->arg);
	w->late = clock_mono_us() > w->until_us;
	if (w->met || w->late)
		loop_stop(w->driver->loop);
}

static void driver_wait(struct driver *d, bool (*fn)(void *arg), void *arg, int64_t us)
{
	struct wait w = {d, fn, arg, clock_mono_us() + us, false, false};
	struct loop_timer *timer = loop_timer_new(d->loop, wait_check, &w);

	if (!fn || !fn(arg)) {
		loop_timer_start(timer, 0, 1000);
		loop_run(d->loop);
	}
	loop_timer_free(timer);
	if (fn && !w.met && !fn(arg))
		fail_msg("waited in vain");
}

void driver_until(struct driver *d, bool (*fn)(void *arg), void *arg)
{
	driver_wait(d, fn, arg, 60 * US_PER_S);
}

void driver_turns(struct driver *d, int64_t us)
{
	driver_wait(d, NULL, NULL, us);
}

static void on_state(void *arg, enum engine_state state, const struct error *err)
{
	struct driver *d = arg;

	d->state = state;
	d->states++;
	if (err)
		d->err = *err;
}

static bool is_settled(void *arg)
{
	return ((struct driver *)arg)->state != ENGINE_LOADING;
}

void driver_init(struct driver *d, const struct engine_options *options)
{
	struct error err = {0};

	*d = (struct driver){.state = ENGINE_LOADING};
	assert_int_equal(loop_new(&d->loop), 0);
	if (engine_new(d->loop, options, on_state, d, &d->engine, &err) < 0)
		fail_msg("engine_new: %s", err.text);
	driver_until(d, is_settled, d);
}

char *model_path(const char *name)
{
	static char paths[8][4096];
	static unsigned turn;
	char *path = paths[turn++ % 8];

	snprintf(path, sizeof(paths[0]), "%s/%s.gguf", getenv("MDN_TEST_MODELS"), name);
	return path;
}

struct engine_options options_for(const char *name)
{
	return (struct engine_options){.kind = STR("llama"),
	                               .model_path = str_from(model_path(name)),
	                               .slots = 4,
	                               .context_tokens = 256,
	                               .batch_tokens = 64,
	                               .threads = 1};
}

void driver_start(struct driver *d, const struct engine_options *options)
{
	driver_init(d, options);
	if (d->state != ENGINE_READY)
		fail_msg(STR_FMT ": %s", STR_ARG(options->model_path), d->err.text);
}

void driver_model(struct driver *d, const char *name)
{
	struct engine_options options = options_for(name);

	driver_start(d, &options);
}

void driver_fini(struct driver *d)
{
	engine_free(d->engine);
	loop_free(d->loop);
}

static void on_event(void *arg, const struct engine_event *event)
{
	struct ask *ask = arg;
	int64_t now = clock_mono_us();

	assert_int_equal(ask->done, 0);
	if (event->kind == ENGINE_STARTED) {
		ask->started++;
		ask->started_us = now;
		ask->prompt_tokens = event->prompt_tokens;
		ask->cached_tokens = event->cached_tokens;
	} else if (event->kind == ENGINE_TEXT) {
		assert_int_equal(ask->started, 1);
		if (!ask->texts++)
			ask->first_us = now;
		assert_int_equal(utf8_valid_prefix(event->text), event->text.len);
		buf_append_str(&ask->text, event->text);
		buf_append_str(&ask->reasoning, event->reasoning);
		buf_append_str(&ask->tools, event->tool_calls_json);
		for (size_t i = 0; i < event->logprob_count && ask->logprob_count < 512; i++) {
			float sum = 0;
			for (size_t j = 0; j < event->logprobs[i].top_count; j++)
				sum += expf(event->logprobs[i].top[j].logprob);
			ask->logprob_sums[ask->logprob_count] = sum;
			ask->logprobs[ask->logprob_count++] = event->logprobs[i].logprob;
		}
		if (ask->on_text)
			ask->on_text(ask, event);
	} else {
		ask->done = 1;
		ask->done_us = now;
		ask->last = *event;
		if (event->err)
			ask->err = *event->err;
	}
}

int ask_submit(struct ask *ask, struct driver *d, const struct engine_params *params, struct error *err)
{
	ask->driver = d;
	return engine_submit(d->engine, params, on_event, ask, &ask->request, err);
}

void ask_start(struct ask *ask, struct driver *d, const struct engine_params *params)
{
	struct error err = {0};

	if (ask_submit(ask, d, params, &err) < 0)
		fail_msg("engine_submit: %s", err.text);
}

static bool is_done(void *arg)
{
	return ((struct ask *)arg)->done;
}

void ask_wait(struct ask *ask)
{
	struct buf *texts[] = {&ask->text, &ask->reasoning, &ask->tools};

	driver_until(ask->driver, is_done, ask);
	for (int i = 0; i < 3; i++) { /* a NUL behind, for string functions */
		buf_append(texts[i], "", 1);
		texts[i]->len--;
	}
}

void say(struct driver *d, struct ask *ask, struct engine_params params)
{
	ask_start(ask, d, &params);
	ask_wait(ask);
}

void ask_fini(struct ask *ask)
{
	buf_fini(&ask->text);
	buf_fini(&ask->reasoning);
	buf_fini(&ask->tools);
}

struct engine_params completion(const char *prompt, int32_t max_tokens)
{
	return (struct engine_params){.task = ENGINE_COMPLETION,
	                              .prompt = str_from(prompt),
	                              .sampling = {.top_p = 1, .repeat_penalty = 1},
	                              .max_tokens = max_tokens,
	                              .logprobs = -1};
}

struct engine_params chat_of(const char *messages_json, int32_t max_tokens)
{
	struct engine_params p = completion("", max_tokens);

	p.task = ENGINE_CHAT;
	p.messages_json = str_from(messages_json);
	return p;
}
