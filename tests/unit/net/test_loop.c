/* SPDX-License-Identifier: Apache-2.0 */
/* test_loop.c - timers, posts from other threads, jobs, signals. */
#include "net_test.h"

#include <signal.h>

static struct loop *loop;
static int fired, thrice, order_ok, posted, stopped;
static int64_t fired_at;
static struct loop_timer *timer;

static void on_timer(void *arg)
{
	(void)arg;
	fired++;
	fired_at = loop_now_us(loop);
	thrice = fired == 3;
	if (thrice)
		loop_timer_free(timer); /* from its own callback */
}

static void test_timer_never_fires_early(void **state)
{
	(void)state;
	loop_new(&loop);
	for (int i = 0; i < 20; i++) {
		fired = 0;
		timer = loop_timer_new(loop, on_timer, NULL);
		usleep(300);
		int64_t start = loop_now_us(loop);
		loop_timer_start(timer, 3000, 0);
		run_until(loop, &fired);
		assert_true(fired_at - start >= 3000);
		loop_timer_free(timer);
	}
	fired = 0;
	timer = loop_timer_new(loop, on_timer, NULL);
	loop_timer_start(timer, 1000, 1000);
	run_until(loop, &thrice);
	run_for(loop, 5000);
	assert_int_equal(fired, 3);
	int64_t now = loop_now_us(loop);
	assert_true(now <= clock_mono_us());
	loop_free(loop);
}

#define POSTS 2000
#define POSTERS 4
struct post_arg {
	int poster, number;
};
static struct post_arg args[POSTERS][POSTS];
static int last[POSTERS];

static void on_post(void *arg)
{
	struct post_arg *a = arg;
	order_ok = order_ok && last[a->poster] == a->number;
	last[a->poster] = a->number + 1;
	if (++posted == POSTS * POSTERS)
		loop_stop(loop);
}

static void *poster(void *arg)
{
	int me = (int)(intptr_t)arg;
	for (int i = 0; i < POSTS; i++) {
		args[me][i] = (struct post_arg){me, i};
		loop_post(loop, on_post, &args[me][i]);
	}
	return NULL;
}

static void test_posts_of_each_thread_keep_their_order(void **state)
{
	(void)state;
	pthread_t threads[POSTERS];
	loop_new(&loop);
	posted = 0;
	order_ok = 1;
	memset(last, 0, sizeof(last));
	for (int i = 0; i < POSTERS; i++)
		pthread_create(&threads[i], NULL, poster, (void *)(intptr_t)i);
	loop_run(loop);
	for (int i = 0; i < POSTERS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(posted, POSTS * POSTERS);
	assert_true(order_ok);
	loop_post(loop, on_post, &args[0][0]); /* still under way when the loop goes: runs */
	loop_free(loop);
	assert_int_equal(posted, POSTS * POSTERS + 1);
}

static pthread_t job_thread;
static int job_done_;
static void job_work(void *arg)
{
	(void)arg;
	job_thread = pthread_self();
}
static void job_done(void *arg)
{
	(void)arg;
	job_done_ = 1;
}

static void test_jobs_run_elsewhere_and_end_here(void **state)
{
	(void)state;
	loop_new(&loop);
	loop_job(loop, job_work, job_done, NULL);
	assert_int_equal(job_done_, 0);
	run_until(loop, &job_done_);
	assert_false(pthread_equal(job_thread, pthread_self()));
	loop_free(loop);
}

static void on_signal(void *arg)
{
	(void)arg;
	stopped++;
}

static void test_signals_arrive_on_the_loop(void **state)
{
	(void)state;
	loop_new(&loop);
	loop_on_signal(loop, SIGUSR1, on_signal, NULL);
	kill(getpid(), SIGUSR1);
	run_until(loop, &stopped);
	loop_free(loop);
	loop_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_timer_never_fires_early),
	    cmocka_unit_test(test_posts_of_each_thread_keep_their_order),
	    cmocka_unit_test(test_jobs_run_elsewhere_and_end_here),
	    cmocka_unit_test(test_signals_arrive_on_the_loop),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
