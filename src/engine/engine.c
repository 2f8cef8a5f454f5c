/* SPDX-License-Identifier: Apache-2.0 */
/* engine.c - the front of every engine: dispatch by kind, life of requests, counters, the queue limit.
 *
 * A callback may cancel any request, its own included. So the delivering functions hold the request while
 * user code runs, and freeing waits until the last hold is gone.
 */
#include "engine/engine_ops.h"

#include "base/limits.h"

#include <assert.h>
#include <stdlib.h>

static const struct engine_kind {
	const char *name;
	int (*create)(const struct engine_options *options, struct engine **ret_engine, struct error *err);
	void (*start)(struct engine *engine, const struct engine_options *options);
} engine_kinds[] = {
    {"llama", engine_llama_new, engine_llama_start},
    {"remote", engine_remote_new, engine_remote_start},
    {"synthetic", engine_synthetic_new, engine_synthetic_start},
};

int engine_new(struct loop *loop, const struct engine_options *options, engine_on_state *on_state, void *arg,
               struct engine **ret_engine, struct error *err)
{
	for (size_t i = 0; i < sizeof(engine_kinds) / sizeof(engine_kinds[0]); i++) {
		const struct engine_kind *kind = &engine_kinds[i];
		struct engine *engine;

		if (!str_equal(options->kind, str_from(kind->name)))
			continue;
		int rc = kind->create(options, &engine, err);
		if (rc < 0)
			return rc;
		engine->loop = loop;
		engine->on_state = on_state;
		engine->state_arg = arg;
		engine->state = ENGINE_LOADING;
		kind->start(engine, options);
		*ret_engine = engine;
		return 0;
	}
	return error_set(err, E_INVAL, "unknown engine \"" STR_FMT "\": use llama, remote or synthetic",
	                 STR_ARG(options->kind));
}

void engine_free(struct engine *engine)
{
	static const struct error closing = {E_CANCELED, "the engine is being closed; ask another node"};

	if (!engine)
		return;
	engine->closing = true;
	while (engine->requests) {
		struct engine_request *request = engine->requests;
		struct engine_event event = {.kind = ENGINE_DONE,
		                             .finish = FINISH_ERROR,
		                             .err = &closing,
		                             .completion_tokens = request->completion_tokens};
		request->done = true;
		request->on_event(request->arg, &event);
		request->done = false;
		engine_cancel(request);
	}
	engine->ops->free(engine);
}

enum engine_state engine_state(const struct engine *engine)
{
	return engine->state;
}

const struct engine_info *engine_info(const struct engine *engine)
{
	return &engine->info;
}

struct engine_load engine_load(const struct engine *engine)
{
	struct engine_load load = {
	    .running = engine->running,
	    .waiting = engine->waiting,
	    .slots = engine->info.slots,
	    .prompt_tokens_total = engine->prompt_tokens_total,
	    .cached_tokens_total = engine->cached_tokens_total,
	    .generation_tokens_total = engine->generation_tokens_total,
	    .requests_total = engine->requests_total,
	    .cancels_total = engine->cancels_total,
	};
	engine->ops->load(engine, &load);
	return load;
}

static void engine_unlink(struct engine_request *request)
{
	struct engine *engine = request->engine;

	if (request->prev)
		request->prev->next = request->next;
	else
		engine->requests = request->next;
	if (request->next)
		request->next->prev = request->prev;
	request->prev = request->next = NULL;
	if (request->started)
		engine->running--;
	else
		engine->waiting--;
}

int engine_submit(struct engine *engine, const struct engine_params *params, engine_on_event *on_event, void *arg,
                  struct engine_request **ret_request, struct error *err)
{
	if (engine->closing || engine->state == ENGINE_FAILED)
		return error_set(err, E_UNAVAILABLE, "this model is not available here: %s",
		                 engine->closing ? "it is being unloaded" : engine->state_err.text);
	if (engine->waiting >= LIMIT_QUEUE)
		return error_set(err, E_BUSY, "%d requests wait for this model already; try again soon",
		                 engine->waiting);

	struct engine_request *request = mem_new(engine->ops->request_size);
	request->engine = engine;
	request->on_event = on_event;
	request->arg = arg;
	request->priority = params->priority;
	request->arrival = engine->arrivals++;
	int rc = engine->ops->submit(engine, params, request, err);
	if (rc < 0) {
		engine_request_free(request);
		return rc;
	}
	request->next = engine->requests;
	if (request->next)
		request->next->prev = request;
	engine->requests = request;
	engine->waiting++;
	engine->requests_total++;
	*ret_request = request;
	return 0;
}

void engine_cancel(struct engine_request *request)
{
	if (request->done || request->gone)
		return;
	request->gone = true;
	request->engine->cancels_total++;
	engine_unlink(request);
	request->engine->ops->cancel(request);
}

static void engine_set_paused(struct engine_request *request, bool paused)
{
	if (request->done || request->gone || request->paused == paused)
		return;
	request->paused = paused;
	request->engine->ops->paused(request);
}

void engine_pause(struct engine_request *request)
{
	engine_set_paused(request, true);
}

void engine_continue(struct engine_request *request)
{
	engine_set_paused(request, false);
}

void engine_tell_state(struct engine *engine, enum engine_state state, const struct error *err)
{
	engine->state = state;
	if (err)
		engine->state_err = *err;
	if (engine->on_state)
		engine->on_state(engine->state_arg, state, state == ENGINE_FAILED ? &engine->state_err : NULL);
}

bool engine_emit(struct engine_request *request, const struct engine_event *event)
{
	struct engine *engine = request->engine;

	assert(event->kind != ENGINE_DONE && !request->gone);
	if (event->kind == ENGINE_STARTED) {
		request->started = true;
		engine->waiting--;
		engine->running++;
		engine->prompt_tokens_total += (uint64_t)event->prompt_tokens;
		engine->cached_tokens_total += (uint64_t)event->cached_tokens;
	} else {
		engine->generation_tokens_total += (uint64_t)(event->completion_tokens - request->completion_tokens);
		request->completion_tokens = event->completion_tokens;
	}
	request->holds++;
	request->on_event(request->arg, event);
	request->holds--;
	bool alive = !request->gone;
	if (request->free_pending && !request->holds)
		engine_request_free(request);
	return alive;
}

void engine_finish_event(struct engine_request *request, const struct engine_event *event)
{
	int32_t made = event->completion_tokens;

	assert(event->kind == ENGINE_DONE && !request->gone && !request->done);
	if (made > request->completion_tokens)
		request->engine->generation_tokens_total += (uint64_t)(made - request->completion_tokens);
	engine_unlink(request);
	request->done = true;
	request->on_event(request->arg, event);
	engine_request_free(request);
}

void engine_finish(struct engine_request *request, enum engine_finish finish, const struct error *err,
                   int32_t prompt_tokens, int32_t cached_tokens, int32_t completion_tokens)
{
	const struct engine_event event = {
	    .kind = ENGINE_DONE,
	    .finish = finish,
	    .err = err,
	    .prompt_tokens = prompt_tokens,
	    .cached_tokens = cached_tokens,
	    .completion_tokens = completion_tokens,
	};

	engine_finish_event(request, &event);
}

void engine_request_free(struct engine_request *request)
{
	if (request->holds) {
		request->free_pending = true;
		return;
	}
	request->engine->ops->request_fini(request);
	free(request);
}

bool engine_before(const struct engine_request *a, const struct engine_request *b)
{
	return a->priority != b->priority ? a->priority < b->priority : a->arrival < b->arrival;
}

/* ---- copies --------------------------------------------------------------------------------- */

static size_t copy_put(char *memory, size_t at, struct str *s)
{
	if (!s->len) {
		*s = (struct str){"", 0};
		return at;
	}
	if (memory) {
		memcpy(memory + at, s->base, s->len);
		memory[at + s->len] = 0;
		s->base = memory + at;
	}
	return at + s->len + 1;
}

static size_t copy_array(char *memory, size_t at, const void **array, size_t size)
{
	if (memory && *array)
		*array = size ? memcpy(memory + at, *array, size) : memory + at;
	/* The next one is aligned as this one is. */
	return *array ? at + (size + sizeof(void *) - 1) / sizeof(void *) * sizeof(void *) : at;
}

static size_t copy_texts(char *memory, size_t at, const struct str **texts, size_t count)
{
	struct str *to = (struct str *)*texts;

	for (size_t i = 0; to && i < count; i++) {
		struct str text = to[i];
		at = copy_put(memory, at, &text);
		if (memory)
			to[i] = text;
	}
	return at;
}

/* One pass to measure (memory NULL), one to copy: the same walk, so the sizes agree. Arrays come first: aligned. */
static size_t copy_walk(char *memory, struct engine_params *p)
{
	struct str *texts[] = {&p->prompt,      &p->suffix,      &p->messages_json, &p->tools_json,
	                       &p->tool_choice, &p->json_schema, &p->tenant,        &p->cache_salt,
	                       &p->adapter,     &p->request_id,  &p->traceparent};
	size_t at = 0;

	at = copy_array(memory, at, (const void **)&p->stops, p->stop_count * sizeof(struct str));
	at = copy_array(memory, at, (const void **)&p->inputs, p->input_count * sizeof(struct str));
	at = copy_array(memory, at, (const void **)&p->input_lengths, p->input_count * sizeof(int32_t));
	at = copy_array(memory, at, (const void **)&p->prompt_tokens, p->prompt_token_count * sizeof(int32_t));
	at = copy_array(memory, at, (const void **)&p->sampling.bias_tokens, p->sampling.bias_count * sizeof(int32_t));
	at = copy_array(memory, at, (const void **)&p->sampling.bias_values, p->sampling.bias_count * sizeof(float));
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		at = copy_put(memory, at, texts[i]);
	at = copy_texts(memory, at, &p->stops, p->stop_count);
	return copy_texts(memory, at, &p->inputs, p->input_count);
}

void engine_copy_init(struct engine_copy *copy, const struct engine_params *params)
{
	struct engine_params measured = *params;

	copy->params = *params;
	copy->memory = mem_new(copy_walk(NULL, &measured) + 1);
	copy_walk(copy->memory, &copy->params);
}

void engine_copy_fini(struct engine_copy *copy)
{
	free(copy->memory);
	*copy = (struct engine_copy){0};
}
