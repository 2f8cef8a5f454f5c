/* SPDX-License-Identifier: Apache-2.0 */
/* loop.c - libuv with our words.
 *
 * Posts from other threads go through one list under a mutex (its only holder besides the posting
 * thread is the loop, for the time of a pointer swap) and wake the loop with uv_async. Tasks put off
 * to the next turn sit in a ring that an idle handle empties. loop_now_us refines libuv's millisecond
 * clock: asked first in a millisecond, it reads the real clock and keeps that until libuv's moves.
 */
#include "net/loop.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/str.h"
#include "net/loop_internal.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <uv.h>

struct post {
	struct post *next;
	loop_fn *fn;
	void *arg;
};

struct signal_watch {
	uv_signal_t handle;
	struct signal_watch *next;
	loop_fn *fn;
	void *arg;
};

struct loop {
	uv_loop_t uv;
	uv_async_t wake;
	uv_idle_t turn;
	pthread_mutex_t lock; /* guards posts and posts_tail */
	struct post *posts, **posts_tail;
	struct loop_task tasks; /* ring head */
	struct signal_watch *signals;
	uint64_t now_ms;
	int64_t now_us;
	bool stopping;
	char read_buffer[LOOP_READ_BUFFER], cipher_buffer[LOOP_READ_BUFFER];
};

struct loop_timer {
	uv_timer_t handle;
	struct loop *loop;
	loop_fn *fn;
	void *arg;
};

struct loop_job {
	uv_work_t request;
	loop_fn *work, *done;
	void *arg;
};

static void posts_run(uv_async_t *handle)
{
	struct loop *loop = handle->data;
	pthread_mutex_lock(&loop->lock);
	struct post *post = loop->posts;
	loop->posts = NULL;
	loop->posts_tail = &loop->posts;
	pthread_mutex_unlock(&loop->lock);
	while (post) {
		struct post *next = post->next;
		post->fn(post->arg);
		free(post);
		post = next;
	}
}

static void tasks_run(uv_idle_t *handle)
{
	struct loop *loop = handle->data;
	struct loop_task batch = {&batch, &batch, NULL, NULL};
	if (loop->tasks.next != &loop->tasks) {
		batch.next = loop->tasks.next;
		batch.prev = loop->tasks.prev;
		batch.next->prev = &batch;
		batch.prev->next = &batch;
		loop->tasks.next = loop->tasks.prev = &loop->tasks;
	}
	uv_idle_stop(handle); /* a task that adds a task starts it again */
	while (batch.next != &batch) {
		struct loop_task *task = batch.next;
		loop_task_cancel(task);
		task->fn(task->arg);
	}
}

int loop_new(struct loop **ret_loop)
{
	struct loop *loop = NEW(struct loop);
	if (uv_loop_init(&loop->uv) != 0) {
		free(loop);
		return E_INTERNAL;
	}
	/* Writing to a closed connection is an error code for us, never a signal; one set by the program stays. */
	struct sigaction old;
	if (sigaction(SIGPIPE, NULL, &old) == 0 && old.sa_handler == SIG_DFL)
		signal(SIGPIPE, SIG_IGN);
	pthread_mutex_init(&loop->lock, NULL);
	loop->posts_tail = &loop->posts;
	loop->tasks.next = loop->tasks.prev = &loop->tasks;
	if (uv_async_init(&loop->uv, &loop->wake, posts_run) != 0) {
		uv_loop_close(&loop->uv);
		pthread_mutex_destroy(&loop->lock);
		free(loop);
		return E_INTERNAL;
	}
	uv_idle_init(&loop->uv, &loop->turn);
	loop->wake.data = loop->turn.data = loop;
	*ret_loop = loop;
	return 0;
}

void loop_free(struct loop *loop)
{
	if (!loop)
		return;
	/* Posts and jobs under way, and what closing objects still owe, run to their end first. */
	for (struct signal_watch *w = loop->signals; w; w = w->next)
		uv_close((uv_handle_t *)&w->handle, NULL);
	uv_unref((uv_handle_t *)&loop->wake);
	posts_run(&loop->wake);
	uv_run(&loop->uv, UV_RUN_DEFAULT);
	posts_run(&loop->wake);
	uv_close((uv_handle_t *)&loop->wake, NULL);
	uv_close((uv_handle_t *)&loop->turn, NULL);
	uv_run(&loop->uv, UV_RUN_DEFAULT);
	int rc = uv_loop_close(&loop->uv);
	assert(rc == 0 && "every object of a loop is freed before the loop");
	(void)rc;
	while (loop->signals) {
		struct signal_watch *w = loop->signals;
		loop->signals = w->next;
		free(w);
	}
	pthread_mutex_destroy(&loop->lock);
	free(loop);
}

void loop_run(struct loop *loop)
{
	while (!loop->stopping)
		uv_run(&loop->uv, UV_RUN_DEFAULT);
	loop->stopping = false;
}

void loop_stop(struct loop *loop)
{
	loop->stopping = true;
	uv_stop(&loop->uv);
}

int64_t loop_now_us(struct loop *loop)
{
	uint64_t now_ms = uv_now(&loop->uv);
	if (now_ms != loop->now_ms) {
		loop->now_ms = now_ms;
		loop->now_us = clock_mono_us();
	}
	return loop->now_us;
}

struct uv_loop_s *loop_uv(struct loop *loop)
{
	return &loop->uv;
}

char *loop_read_buffer(struct loop *loop)
{
	return loop->read_buffer;
}

char *loop_cipher_buffer(struct loop *loop)
{
	return loop->cipher_buffer;
}

/* ---- timers ---- */

static void timer_fired(uv_timer_t *handle)
{
	struct loop_timer *timer = handle->data;
	timer->fn(timer->arg);
}

static void timer_closed(uv_handle_t *handle)
{
	free(handle->data);
}

struct loop_timer *loop_timer_new(struct loop *loop, loop_fn *fn, void *arg)
{
	struct loop_timer *timer = NEW(struct loop_timer);
	*timer = (struct loop_timer){.loop = loop, .fn = fn, .arg = arg};
	uv_timer_init(&loop->uv, &timer->handle);
	timer->handle.data = timer;
	return timer;
}

void loop_timer_start(struct loop_timer *timer, int64_t after_us, int64_t repeat_us)
{
	/* libuv counts from its own cached millisecond, which lies a little before loop_now_us: make up for it,
	 * so that a timer never fires before loop_now_us has moved by after_us. */
	int64_t late_us = loop_now_us(timer->loop) - (int64_t)uv_now(&timer->loop->uv) * US_PER_MS;
	int64_t wait_us = after_us <= 0 ? 0 : after_us + (late_us > 0 ? late_us : 0);
	uint64_t after_ms = (uint64_t)((wait_us + US_PER_MS - 1) / US_PER_MS);
	uint64_t repeat_ms = repeat_us <= 0 ? 0 : (uint64_t)((repeat_us + US_PER_MS - 1) / US_PER_MS);
	uv_timer_start(&timer->handle, timer_fired, after_ms, repeat_ms);
}

void loop_timer_stop(struct loop_timer *timer)
{
	uv_timer_stop(&timer->handle);
}

void loop_timer_free(struct loop_timer *timer)
{
	if (timer)
		uv_close((uv_handle_t *)&timer->handle, timer_closed);
}

/* ---- posts, jobs, signals, tasks ---- */

void loop_post(struct loop *loop, loop_fn *fn, void *arg)
{
	struct post *post = NEW(struct post);
	post->fn = fn;
	post->arg = arg;
	pthread_mutex_lock(&loop->lock);
	*loop->posts_tail = post;
	loop->posts_tail = &post->next;
	uv_async_send(&loop->wake); /* under the lock: once a post is taken out, its poster is done with the loop */
	pthread_mutex_unlock(&loop->lock);
}

static void job_work(uv_work_t *request)
{
	struct loop_job *job = request->data;
	job->work(job->arg);
}

static void job_done(uv_work_t *request, int status)
{
	struct loop_job *job = request->data;
	(void)status; /* jobs are never canceled */
	job->done(job->arg);
	free(job);
}

void loop_job(struct loop *loop, loop_fn *work, loop_fn *done, void *arg)
{
	struct loop_job *job = NEW(struct loop_job);
	*job = (struct loop_job){.work = work, .done = done, .arg = arg};
	job->request.data = job;
	uv_queue_work(&loop->uv, &job->request, job_work, job_done);
}

static void signal_came(uv_signal_t *handle, int signum)
{
	struct signal_watch *w = handle->data;
	(void)signum;
	w->fn(w->arg);
}

void loop_on_signal(struct loop *loop, int signum, loop_fn *fn, void *arg)
{
	struct signal_watch *w = loop->signals;
	while (w && w->handle.signum != signum)
		w = w->next;
	if (!w) {
		w = NEW(struct signal_watch);
		uv_signal_init(&loop->uv, &w->handle);
		w->handle.data = w;
		w->next = loop->signals;
		loop->signals = w;
		uv_signal_start(&w->handle, signal_came, signum);
		uv_unref((uv_handle_t *)&w->handle);
	}
	w->fn = fn;
	w->arg = arg;
}

void loop_task_init(struct loop_task *task, loop_fn *fn, void *arg)
{
	*task = (struct loop_task){.fn = fn, .arg = arg};
}

void loop_task_add(struct loop *loop, struct loop_task *task)
{
	if (task->next)
		return;
	task->prev = loop->tasks.prev;
	task->next = &loop->tasks;
	task->prev->next = task;
	loop->tasks.prev = task;
	uv_idle_start(&loop->turn, tasks_run); /* no-op while running */
}

void loop_task_cancel(struct loop_task *task)
{
	if (!task->next)
		return;
	task->prev->next = task->next;
	task->next->prev = task->prev;
	task->prev = task->next = NULL;
}
