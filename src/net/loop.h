/* SPDX-License-Identifier: Apache-2.0 */
/* loop.h - one event loop on one thread: timers, posts from other threads, jobs in the pool.
 *
 * Over libuv. Everything but loop_post must be called on the loop's own thread. Callbacks run on
 * the loop, never from inside the call that registered them. Times are microseconds (libuv rounds
 * up to milliseconds). The loop outlives every object made on it.
 */
#ifndef MDN_NET_LOOP_H
#define MDN_NET_LOOP_H

#include <stdint.h>

struct loop;
struct loop_timer;
struct loop_job;
typedef void loop_fn(void *arg);
struct uv_loop_s;

int loop_new(struct loop **ret_loop);
void loop_free(struct loop *loop); /* runs until closing handles are gone; NULL is fine */
void loop_run(struct loop *loop);  /* until loop_stop */
void loop_stop(struct loop *loop);
int64_t loop_now_us(struct loop *loop); /* monotonic, cached once per turn; same scale as clock_mono_us */
struct uv_loop_s *loop_uv(struct loop *loop);

/* Fires after `after_us`, then every `repeat_us` (0: once). The timer is freed by loop_timer_free,
 * which may be called from its own callback; a one-shot timer is not freed by firing. */
struct loop_timer *loop_timer_new(struct loop *loop, loop_fn *fn, void *arg);
void loop_timer_start(struct loop_timer *timer, int64_t after_us, int64_t repeat_us);
void loop_timer_stop(struct loop_timer *timer);
void loop_timer_free(struct loop_timer *timer);

/* Runs fn on the loop soon. Any thread; never blocks; order per posting thread is kept. */
void loop_post(struct loop *loop, loop_fn *fn, void *arg);

/* Runs `work` in the job pool (blocking allowed), then `done` on the loop. */
void loop_job(struct loop *loop, loop_fn *work, loop_fn *done, void *arg);

/* Signals arrive on the loop; one handler a signal. */
void loop_on_signal(struct loop *loop, int signum, loop_fn *fn, void *arg);

#endif
