/* SPDX-License-Identifier: Apache-2.0 */
/* engine.c - the front of every engine: dispatch by kind, life of requests, counters, the queue limit.
 *
 * A callback may cancel any request, its own included. So the delivering functions hold the request while
 * user code runs, and freeing waits until the last hold is gone.
 */
#include "engine/engine_ops.h"

#include "base/limits.h"
#include "core/admission.h"
#include "core/hash.h"
#include "engine/process.h"

#include <assert.h>
#include <stdlib.h>

static const struct engine_kind {
	const char *name;
	int (*create)(const struct engine_options *options, struct engine **ret_engine, struct error *err);
	void (*start)(struct engine *engine, const struct engine_options *options);
} engine_kinds[] = {
    {"llama", engine_llama_new, engine_llama_start},
    {"process", engine_process_new, engine_process_start}, /* llama's, elsewhere */
    {"remote", engine_remote_new, engine_remote_start},
    {"synthetic", engine_synthetic_new, engine_synthetic_start},
};

static void engine_expire(void *arg);

int engine_new(struct loop *loop, const struct engine_options *options, engine_on_state *on_state, void *arg,
               struct engine **ret_engine, struct error *err)
{
	bool elsewhere = str_equal(options->kind, STR("llama")) && !options->in_process && engine_process_possible();
	struct str name = elsewhere ? STR("process") : options->kind;

	for (size_t i = 0; i < sizeof(engine_kinds) / sizeof(engine_kinds[0]); i++) {
		const struct engine_kind *kind = &engine_kinds[i];
		struct engine *engine;

		if (!str_equal(name, str_from(kind->name)))
			continue;
		int rc = kind->create(options, &engine, err);
		if (rc < 0)
			return rc;
		engine->loop = loop;
		engine->on_state = on_state;
		engine->state_arg = arg;
		engine->state = ENGINE_LOADING;
		engine->queue_us = options->queue_us;
		engine->expiry_us = INT64_MAX;
		engine->expiry_timer = loop_timer_new(loop, engine_expire, engine);
		kind->start(engine, options);
		*ret_engine = engine;
		return 0;
	}
	return error_set(err, E_INVAL, "unknown engine \"" STR_FMT "\": use llama, remote or synthetic",
	                 STR_ARG(options->kind));
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

static void engine_drop(struct engine_request *request)
{
	request->gone = true;
	engine_unlink(request);
	request->engine->ops->cancel(request);
}

/* Ends a request from our side: the caller gets DONE, the kind a cancel. */
static void engine_give_up(struct engine_request *request, const struct error *err)
{
	struct engine_event event = {
	    .kind = ENGINE_DONE, .finish = FINISH_ERROR, .err = err, .completion_tokens = request->completion_tokens};

	request->done = true;
	request->on_event(request->arg, &event);
	request->done = false;
	engine_drop(request);
}

void engine_free(struct engine *engine)
{
	static const struct error closing = {E_CANCELED, "the engine is being closed; ask another node"};

	if (!engine)
		return;
	engine->closing = true;
	while (engine->requests)
		engine_give_up(engine->requests, &closing);
	loop_timer_free(engine->expiry_timer);
	engine->ops->free(engine);
}

/* ---- who waits too long -------------------------------------------------------------------------- */

static void expiry_arm(struct engine *engine, int64_t due_us)
{
	int64_t now = loop_now_us(engine->loop);

	if (due_us >= engine->expiry_us)
		return;
	engine->expiry_us = due_us;
	loop_timer_start(engine->expiry_timer, due_us > now ? due_us - now : 0, 0);
}

static struct engine_request *expiry_find(const struct engine *engine, int64_t now, int64_t *ret_next)
{
	*ret_next = INT64_MAX;
	for (struct engine_request *r = engine->requests; r; r = r->next) {
		if (r->started)
			continue;
		if (r->turn.deadline_us <= now)
			return r;
		if (r->turn.deadline_us < *ret_next)
			*ret_next = r->turn.deadline_us;
	}
	return NULL;
}

static void engine_expire(void *arg)
{
	struct engine *engine = arg;
	int64_t now = loop_now_us(engine->loop), next;
	struct engine_request *late;
	struct error err;

	engine->expiry_us = INT64_MAX;
	/* Callbacks may end others, so each search begins anew. */
	while ((late = expiry_find(engine, now, &next)) != NULL) {
		if (engine->state == ENGINE_LOADING)
			error_set(&err, E_TIMEOUT,
			          "the model was not loaded before the request's deadline; try again in a while");
		else
			error_set(&err, E_TIMEOUT,
			          "no slot became free before the request's deadline, %d others wait; try again later "
			          "or allow more time",
			          engine->waiting - 1);
		engine->expiries_total++;
		engine_give_up(late, &err);
	}
	if (next < INT64_MAX)
		expiry_arm(engine, next);
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
	    .expiries_total = engine->expiries_total,
	};
	engine->ops->load(engine, &load);
	return load;
}

/* ---- requests ------------------------------------------------------------------------------------ */

static int class_index(enum engine_class service_class)
{
	int index = (int)service_class - (int)ENGINE_SYSTEM;

	return index < 0 ? 0 : index < QUEUE_CLASSES ? index : QUEUE_CLASSES - 1;
}

static int32_t engine_count_waiting(const struct engine *engine, uint64_t tenant_hash)
{
	int32_t count = 0;

	for (const struct engine_request *r = engine->requests; r; r = r->next)
		count += !r->started && r->tenant_hash == tenant_hash;
	return count;
}

static int engine_admit(const struct engine *engine, const struct engine_params *params, struct error *err)
{
	static const char *const class_names[QUEUE_CLASSES] = {"system", "interactive", "default", "bulk"};
	int service_class = class_index(params->service_class);
	int32_t of_tenant = 0;

	if (params->deadline_us > 0 && params->deadline_us <= loop_now_us(engine->loop))
		return error_set(err, E_TIMEOUT, "the request's deadline had passed when it came: allow more time");
	if (admission_counts_tenants(LIMIT_QUEUE, service_class, engine->waiting))
		of_tenant = engine_count_waiting(engine, hash_str(params->tenant));
	switch (admission_check(LIMIT_QUEUE, service_class, engine->waiting, of_tenant)) {
	case ADMISSION_CLASS_FULL:
		return error_set(
		    err, E_BUSY,
		    "%d requests wait for this model already, %d is the most for the class %s; try again soon",
		    engine->waiting, admission_ceiling(LIMIT_QUEUE, service_class), class_names[service_class]);
	case ADMISSION_TENANT_FULL:
		return error_set(
		    err, E_BUSY,
		    "%d requests wait for this model already, %d of them yours; try again when some are done",
		    engine->waiting, of_tenant);
	case ADMISSION_YES:
		break;
	}
	return 0;
}

void engine_room(const struct engine *engine, enum engine_class service_class, struct str tenant, int32_t *ret_most,
                 int32_t *ret_left)
{
	int index = class_index(service_class);
	int32_t of_tenant = engine->waiting ? engine_count_waiting(engine, hash_str(tenant)) : 0;

	*ret_most = admission_ceiling(LIMIT_QUEUE, index);
	*ret_left = admission_room(LIMIT_QUEUE, index, engine->waiting, of_tenant);
}

int engine_submit(struct engine *engine, const struct engine_params *params, engine_on_event *on_event, void *arg,
                  struct engine_request **ret_request, struct error *err)
{
	if (engine->closing || engine->state == ENGINE_FAILED)
		return error_set(err, E_UNAVAILABLE, "this model is not available here: %s",
		                 engine->closing ? "it is being unloaded" : engine->state_err.text);
	if (params->resumed_count && !engine->ops->resumes)
		return error_set(err, E_UNSUPPORTED, "this kind of engine cannot go on with another's answer");
	if (params->resumed_count > LIMIT_PROMPT_TOKENS)
		return error_set(err, E_INVAL, "an answer of %zu tokens is longer than any", params->resumed_count);
	int rc = engine_admit(engine, params, err);
	if (rc < 0)
		return rc;

	struct engine_request *request = mem_new(engine->ops->request_size);
	request->engine = engine;
	request->on_event = on_event;
	request->arg = arg;
	request->tenant_hash = hash_str(params->tenant);
	request->completion_tokens = (int32_t)params->resumed_count;
	request->turn = (struct queued){
	    .service_class = class_index(params->service_class),
	    .priority = params->priority,
	    .order = engine->arrivals++,
	};
	request->turn.deadline_us = admission_deadline(loop_now_us(engine->loop), request->turn.service_class,
	                                               params->deadline_us, engine->queue_us);
	rc = engine->ops->submit(engine, params, request, err);
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
	expiry_arm(engine, request->turn.deadline_us);
	*ret_request = request;
	return 0;
}

void engine_cancel(struct engine_request *request)
{
	if (request->done || request->gone)
		return;
	request->engine->cancels_total++;
	engine_drop(request);
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
	    .stop = request->stop,
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
	const struct queued *x = &a->turn, *y = &b->turn;

	if (x->service_class != y->service_class)
		return x->service_class < y->service_class;
	if (x->priority != y->priority)
		return x->priority < y->priority;
	return x->deadline_us != y->deadline_us ? x->deadline_us < y->deadline_us : x->order < y->order;
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
	                       &p->adapter,     &p->request_id,  &p->traceparent,   &p->answer_id};
	size_t at = 0;

	at = copy_array(memory, at, (const void **)&p->stops, p->stop_count * sizeof(struct str));
	at = copy_array(memory, at, (const void **)&p->inputs, p->input_count * sizeof(struct str));
	at = copy_array(memory, at, (const void **)&p->input_lengths, p->input_count * sizeof(int32_t));
	at = copy_array(memory, at, (const void **)&p->prompt_tokens, p->prompt_token_count * sizeof(int32_t));
	at = copy_array(memory, at, (const void **)&p->resumed, p->resumed_count * sizeof(int32_t));
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
