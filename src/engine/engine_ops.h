/* SPDX-License-Identifier: Apache-2.0 */
/* engine_ops.h - what the three kinds share: the base of an engine and of a request, and how events leave.
 *
 * Inside the room only. A kind embeds `struct engine` and `struct engine_request` as first members. The base
 * keeps the list of live requests, the counters and the queue limit; kinds keep the rest. Everything here is
 * for the loop's thread. Life of a request: engine_submit links it; engine_emit delivers; engine_finish
 * delivers ENGINE_DONE, unlinks and frees; engine_cancel unlinks it, then `cancel` gives it up, and
 * engine_request_free frees it once the kind no longer needs it.
 */
#ifndef MDN_ENGINE_ENGINE_OPS_H
#define MDN_ENGINE_ENGINE_OPS_H

#include "core/request_queue.h"
#include "engine/engine.h"

struct engine_ops {
	int (*submit)(struct engine *engine, const struct engine_params *params, struct engine_request *request,
	              struct error *err);               /* takes the request on 0; else the base frees it */
	void (*cancel)(struct engine_request *request); /* already unlinked; the kind frees it, now or later */
	void (*paused)(struct engine_request *request); /* request->paused has changed */
	void (*load)(const struct engine *engine, struct engine_load *load); /* fills what the base does not know */
	void (*request_fini)(struct engine_request *request);                /* the kind's own fields */
	void (*free)(struct engine *engine);                                 /* every request is gone from the list */
	size_t request_size;
	bool resumes; /* it takes params->resumed */
};

struct engine {
	const struct engine_ops *ops;
	struct loop *loop;
	engine_on_state *on_state;
	void *state_arg;
	enum engine_state state;
	struct error state_err;
	struct engine_info info;
	struct engine_request *requests; /* live ones, newest first */
	int32_t waiting, running;        /* by ENGINE_STARTED and ENGINE_DONE */
	uint64_t arrivals;
	uint64_t prompt_tokens_total, cached_tokens_total, generation_tokens_total, requests_total, cancels_total;
	uint64_t expiries_total;
	int64_t queue_us, expiry_us;     /* limit of waiting; when expiry_timer is due, INT64_MAX: never */
	struct loop_timer *expiry_timer; /* ends what waited too long */
	bool closing;
};

struct engine_request {
	struct engine *engine;
	engine_on_event *on_event;
	void *arg;
	struct engine_request *prev, *next;
	struct queued
	    turn; /* filled in by the base, joined and owned by whoever keeps the kind's queue, on its thread */
	uint64_t tenant_hash;
	int32_t completion_tokens; /* as told so far */
	int32_t stop;              /* for its end, where the kind knows it */
	int holds;                 /* callbacks on the stack */
	bool started, paused, done;
	bool gone; /* canceled; nobody outside knows it any more */
	bool free_pending;
};

extern const struct engine_ops engine_llama_ops, engine_process_ops, engine_remote_ops, engine_synthetic_ops;
int engine_process_new(const struct engine_options *options, struct engine **ret_engine, struct error *err);
void engine_process_start(struct engine *engine, const struct engine_options *options);
int engine_llama_new(const struct engine_options *options, struct engine **ret_engine, struct error *err);
int engine_remote_new(const struct engine_options *options, struct engine **ret_engine, struct error *err);
int engine_synthetic_new(const struct engine_options *options, struct engine **ret_engine, struct error *err);
/* Second half of making: loop and callbacks are set, work may begin. */
void engine_llama_start(struct engine *engine, const struct engine_options *options);
void engine_remote_start(struct engine *engine, const struct engine_options *options);
void engine_synthetic_start(struct engine *engine, const struct engine_options *options);

/* Tells on_state; loop thread, never from inside engine_new. */
void engine_tell_state(struct engine *engine, enum engine_state state, const struct error *err);
/* Delivers STARTED or TEXT. False: the callback canceled the request, do not touch it again. */
bool engine_emit(struct engine_request *request, const struct engine_event *event);
/* Delivers DONE and frees the request. err is for FINISH_ERROR only. */
void engine_finish(struct engine_request *request, enum engine_finish finish, const struct error *err,
                   int32_t prompt_tokens, int32_t cached_tokens, int32_t completion_tokens);
/* The same for answers that are no text: event->kind is DONE. */
void engine_finish_event(struct engine_request *request, const struct engine_event *event);
/* Is it a model for that? E_INVAL: no, and which one is. llama_embed.c */
int engine_task_check(const struct engine_info *info, const struct engine_params *params, struct error *err);
void engine_request_free(struct engine_request *request);
static inline struct engine_request *engine_request_of(const struct queued *turn)
{
	return (struct engine_request *)((char *)turn - offsetof(struct engine_request, turn));
}
/* For kinds that keep a plain list. True when a goes before b: class, priority, deadline, arrival. */
bool engine_before(const struct engine_request *a, const struct engine_request *b);

/* A deep copy of what a request asked for; one owner. */
struct engine_copy {
	struct engine_params params;
	char *memory;
};
void engine_copy_init(struct engine_copy *copy, const struct engine_params *params);
void engine_copy_fini(struct engine_copy *copy);

#endif
