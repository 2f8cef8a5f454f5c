/* SPDX-License-Identifier: Apache-2.0 */
/* The seam with both of its implementations; etcd is a process of its own, and skipped where it is not installed. */
#include "base/clock.h"
#include "base/file.h"
#include "store/election.h"
#include "store/state.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define PATIENCE_US (60 * US_PER_S)

extern char **environ;

static struct place {
	char folder[64], client[64];
	const char *endpoints[1];
	struct etcd_options etcd;
	pid_t pid; /* 0: none */
	struct state *state;
	int lost;
} w;

static int free_port(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, len), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	close(fd);
	return ntohs(a.sin_port);
}

static void etcd_start(void)
{
	char data[96], peer[64], log[96];
	posix_spawn_file_actions_t files;
	snprintf(data, sizeof data, "%s/etcd", w.folder);
	snprintf(log, sizeof log, "%s/etcd.log", w.folder);
	snprintf(peer, sizeof peer, "http://127.0.0.1:%d", free_port());
	char *const argv[] = {"etcd",   "--data-dir",
	                      data,     "--listen-client-urls",
	                      w.client, "--advertise-client-urls",
	                      w.client, "--listen-peer-urls",
	                      peer,     NULL};
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, 1, log, O_WRONLY | O_CREAT, 0600);
	posix_spawn_file_actions_adddup2(&files, 1, 2);
	if (posix_spawnp(&w.pid, "etcd", &files, NULL, argv, environ) != 0)
		w.pid = 0;
	posix_spawn_file_actions_destroy(&files);
}

static void etcd_stop(void)
{
	if (!w.pid)
		return;
	kill(w.pid, SIGKILL);
	waitpid(w.pid, NULL, 0);
	w.pid = 0;
}

static void on_lost(void *arg)
{
	w.lost++;
}

static struct election *stand(const char *value)
{
	const struct election_options o = {.etcd = w.etcd, .key = STR("t/leader"), .value = str_from(value)};
	struct election *e;
	struct error err = {0};
	if (election_new(&o, &e, &err) < 0)
		fail_msg("%s", err.text);
	return e;
}

static struct election_view view_when(struct election *e, bool (*is)(const struct election_view *v))
{
	struct election_view v;
	int64_t until = clock_mono_us() + PATIENCE_US;
	for (election_look(e, &v); !is(&v); election_look(e, &v)) {
		if (clock_mono_us() > until)
			fail_msg("leads %d, leader \"%s\", problem \"%s\"", v.revision != 0, v.leader, v.problem.text);
		usleep(10000);
	}
	return v;
}

static bool leads(const struct election_view *v)
{
	return v->revision && clock_mono_us() < v->until_us;
}
static bool follows(const struct election_view *v)
{
	return !v->revision && v->leader[0];
}
static bool is_cut_off(const struct election_view *v)
{
	return !v->revision && v->problem.code;
}

static struct state *open_under(int64_t revision)
{
	struct state_etcd_options o = {.etcd = &w.etcd,
	                               .prefix = STR("t/state/"),
	                               .leader_key = STR("t/leader"),
	                               .leader_revision = revision,
	                               .on_lost = on_lost};
	struct state *s;
	struct error err = {0};
	if (state_open_etcd(&o, &s, &err) < 0)
		fail_msg("%s", err.text);
	return s;
}

static void expect(struct state *s, const char *space, const char *key, const char *value)
{
	struct buf b = {0};
	int rc = state_get(s, space, str_from(key), &b, NULL);
	assert_int_equal(rc, value ? 0 : E_NOTFOUND);
	if (value)
		assert_true(str_equal(buf_str(&b), str_from(value)));
	buf_fini(&b);
}

static void note(void *arg, struct str key, struct str value)
{
	buf_printf(arg, STR_FMT "=" STR_FMT " ", STR_ARG(key), STR_ARG(value));
}

/* What every implementation holds to. */
static void behaves(struct state *s)
{
	struct error err = {0};
	struct buf all = {0};
	assert_int_equal(state_put(s, "a", STR("k"), STR("one"), &err), 0);
	assert_int_equal(state_put(s, "ab", STR("k"), STR("other"), &err), 0);
	expect(s, "a", "k", "one");
	assert_int_equal(state_put_if(s, "a", STR("k"), (struct str){0}, STR("two"), &err), E_CONFLICT);
	assert_int_equal(state_put_if(s, "a", STR("k"), STR("one"), STR("two"), &err), 0);
	assert_int_equal(state_put_if(s, "a", STR("new"), STR("one"), STR("two"), &err), E_CONFLICT);
	assert_int_equal(state_put_if(s, "a", STR("new"), (struct str){0}, STR("three"), &err), 0);
	assert_int_equal(state_begin(s, &err), 0);
	state_put(s, "a", STR("k"), STR("lost"), &err);
	state_delete(s, "a", STR("new"), &err);
	expect(s, "a", "k", "lost");
	expect(s, "a", "new", NULL);
	state_undo(s);
	assert_int_equal(state_begin(s, &err), 0);
	state_put(s, "a", STR("m"), STR("1"), &err);
	state_put(s, "a", STR("m"), STR("2"), &err);
	assert_int_equal(state_commit(s, &err), 0);
	assert_int_equal(state_each(s, "a", note, &all, &err), 0);
	assert_true(str_equal(buf_str(&all), STR("k=two m=2 new=three ")));
	buf_fini(&all);
	assert_int_equal(state_delete(s, "a", STR("m"), &err), 0);
	assert_int_equal(state_delete(s, "a", STR("m"), &err), 0);
	expect(s, "a", "m", NULL);
	assert_int_equal(state_put(s, "a", (struct str){0}, STR("x"), &err), E_LIMIT);
}

static void test_sqlite_keeps_what_it_is_told(void **unused)
{
	char path[96];
	struct error err = {0};
	struct state *s;
	snprintf(path, sizeof path, "%s/state.db", w.folder);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(state_open(str_from(path), &s, &err), 0);
		if (i == 0)
			behaves(s);
		expect(s, "a", "new", "three");
		state_close(s);
	}
}

static void need_etcd(void)
{
	if (!w.pid)
		skip();
}

static void test_etcd_keeps_what_it_is_told_by_who_leads(void **unused)
{
	need_etcd();
	struct election *e = stand("one");
	struct election_view v = view_when(e, leads);
	struct error err = {0};
	struct state *s = open_under(v.revision), *again;
	behaves(s);
	/* More than one transaction, and more than one page. */
	assert_int_equal(state_begin(s, &err), 0);
	for (int i = 0; i < 1100; i++) {
		char key[16];
		size_t len = (size_t)snprintf(key, sizeof key, "%04d", i);
		assert_int_equal(state_put(s, "many", (struct str){key, len}, STR("\0binary\0"), &err), 0);
	}
	assert_int_equal(state_commit(s, &err), 0);
	again = open_under(v.revision);
	expect(again, "a", "new", "three");
	for (int i = 0; i < 1100; i++) {
		char key[16];
		struct buf b = {0};
		size_t len = (size_t)snprintf(key, sizeof key, "%04d", i);
		assert_int_equal(state_get(again, "many", (struct str){key, len}, &b, NULL), 0);
		assert_true(str_equal(buf_str(&b), STR("\0binary\0")));
		buf_fini(&b);
	}
	assert_int_equal(w.lost, 0);
	struct state *file;
	char path[96];
	struct buf all = {0};
	snprintf(path, sizeof path, "%s/state.db", w.folder);
	assert_int_equal(state_open(str_from(path), &file, &err), 0);
	assert_int_equal(state_copy(file, again, "a", &err), 0);
	expect(file, "ab", "k", "other");
	assert_int_equal(state_each(file, "a", note, &all, &err), 0);
	assert_true(str_equal(buf_str(&all), STR("k=two new=three ")));
	buf_fini(&all);
	state_close(file);
	state_close(again);
	state_close(s);
	election_free(e);
}

static void test_who_no_longer_leads_writes_nothing(void **unused)
{
	need_etcd();
	struct election *one = stand("one"), *two;
	struct election_view v = view_when(one, leads);
	struct error err = {0};
	struct state *old = open_under(v.revision), *fresh;
	assert_int_equal(state_put(old, "a", STR("k"), STR("old"), &err), 0);
	two = stand("two");
	v = view_when(two, follows);
	assert_string_equal(v.leader, "one");
	election_free(one); /* gives it up at once */
	v = view_when(two, leads);
	assert_int_equal(state_put(old, "a", STR("k"), STR("late"), &err), E_UNAVAILABLE);
	assert_non_null(strstr(err.text, "another center leads"));
	assert_int_equal(w.lost, 1);
	assert_int_equal(state_put(old, "a", STR("other"), STR("late"), &err), E_UNAVAILABLE);
	assert_int_equal(w.lost, 1);
	expect(old, "a", "k", "old"); /* reads go on */
	fresh = open_under(v.revision);
	expect(fresh, "a", "k", "old");
	expect(fresh, "a", "other", NULL);
	/* Who yields leads again under another revision. */
	int64_t before = v.revision;
	election_yield(two);
	election_look(two, &v);
	assert_int_equal(v.revision, 0);
	v = view_when(two, leads);
	assert_true(v.revision > before);
	assert_int_equal(state_put(fresh, "a", STR("k"), STR("late"), &err), E_UNAVAILABLE);
	state_close(fresh);
	state_close(old);
	election_free(two);
}

static void test_leading_ends_when_etcd_is_silent(void **unused)
{
	need_etcd();
	struct election *e = stand("one");
	struct election_view v = view_when(e, leads);
	struct error err = {0};
	struct state *s = open_under(v.revision);
	kill(w.pid, SIGSTOP);
	waitpid(w.pid, NULL, WUNTRACED); /* until it stands */
	int64_t since = clock_mono_us();
	assert_int_equal(state_put(s, "a", STR("k"), STR("v"), &err), E_UNAVAILABLE);
	view_when(e, is_cut_off);
	assert_true(clock_mono_us() - since < PATIENCE_US);
	kill(w.pid, SIGCONT);
	view_when(e, leads);
	state_close(s);
	etcd_stop();
	view_when(e, is_cut_off);
	election_free(e);
}

static void test_wrong_endpoints_are_named(void **unused)
{
	const char *const bad[] = {"localhost:2379"};
	struct etcd_options o = {.endpoints = bad, .endpoint_count = 1};
	struct etcd *e;
	struct error err = {0};
	assert_int_equal(etcd_new(&o, &e, &err), E_INVAL);
	assert_non_null(strstr(err.text, "\"localhost:2379\" is not http://HOST:PORT"));
	o.endpoint_count = 0;
	assert_int_equal(etcd_new(&o, &e, &err), E_INVAL);
}

static int setup(void **unused)
{
	w = (struct place){0};
	snprintf(w.folder, sizeof w.folder, "%s/mdn-test-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	assert_non_null(mkdtemp(w.folder));
	return 0;
}

static int setup_etcd(void **unused)
{
	setup(unused);
	snprintf(w.client, sizeof w.client, "http://127.0.0.1:%d", free_port());
	w.endpoints[0] = w.client;
	w.etcd = (struct etcd_options){.endpoints = w.endpoints, .endpoint_count = 1};
	etcd_start();
	return 0;
}

static int teardown(void **unused)
{
	etcd_stop();
	return folder_remove(w.folder, NULL);
}

int main(void)
{
#define ETCD(f) cmocka_unit_test_setup_teardown(f, setup_etcd, teardown)
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_sqlite_keeps_what_it_is_told, setup, teardown),
	    ETCD(test_etcd_keeps_what_it_is_told_by_who_leads),
	    ETCD(test_who_no_longer_leads_writes_nothing),
	    ETCD(test_leading_ends_when_etcd_is_silent),
	    cmocka_unit_test(test_wrong_endpoints_are_named),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
