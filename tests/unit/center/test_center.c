/* SPDX-License-Identifier: Apache-2.0 */
/* The center over real TLS: init, joining, renewal, who may call what, keys, restarts. Nodes as clients are in
 * tests/unit/member. */
#include "world.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "core/api_key.h"
#include "net/x509.h"
#include "store/state.h"

#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- kill -9 at every step that reaches the disk: the n-th fsync or rename is the last thing the process does ---- */

static int steps_left = -1;
int __real_rename(const char *from, const char *to);
int __wrap_fsync(int fd);
int __wrap_rename(const char *from, const char *to);

int __wrap_fsync(int fd)
{
	if (steps_left >= 0 && steps_left-- == 0)
		raise(SIGKILL);
	return 0; /* processes die here, machines do not: what was written stays without the wait */
}

int __wrap_rename(const char *from, const char *to)
{
	if (steps_left >= 0 && steps_left-- == 0)
		raise(SIGKILL);
	return __real_rename(from, to);
}

static int init(const char *folder, struct error *err)
{
	char data[96], operators[96];
	snprintf(data, sizeof(data), "%s/data", folder);
	snprintf(operators, sizeof(operators), "%s/operator", folder);
	return center_init(str_from(data), STR("test.mdn"), STR("https://127.0.0.1:7300"), STR("c1"), STR("core"),
	                   ROLE_CENTER, str_from(operators), err);
}

static bool whole_network(const char *folder)
{
	char path[128], pin[65];
	struct center *c = NULL;
	struct loop *loop;
	struct error err = {0};
	snprintf(path, sizeof(path), "%s/data", folder);
	struct center_options options = {.data = str_from(path)};
	assert_int_equal(loop_new(&loop), 0);
	bool fine = center_new(loop, &options, &c, &err) == 0;
	center_free(c);
	loop_free(loop);
	if (!fine)
		return false;
	snprintf(path, sizeof(path), "%s/operator", folder);
	char *ca = read_file(path, "ca.pem"), *key = read_file(path, "key.pem");
	snprintf(path, sizeof(path), "%s/data/ca", folder);
	char *mine = read_file(path, "cert.pem");
	fine = strcmp(ca, mine) == 0 && x509_cert_pin(str_from(mine), pin, NULL) == 0 && strlen(key) > 100;
	free(ca);
	free(key);
	free(mine);
	return fine;
}

static void test_init_killed_anywhere_leaves_no_half_network(void **unused)
{
	bool finished = false;
	for (int step = 0; !finished; step++) {
		char folder[64];
		struct error err = {0};
		assert_true(step < 100);
		temporary_folder(folder);
		pid_t child = fork();
		if (child == 0) {
			steps_left = step;
			_exit(init(folder, NULL) == 0 ? 0 : 1);
		}
		int status;
		assert_int_equal(waitpid(child, &status, 0), child);
		finished = WIFEXITED(status);
		if (finished)
			assert_int_equal(WEXITSTATUS(status), 0);
		int rc = init(folder, &err); /* the way on is always: run it again */
		if (rc != 0 && rc != E_CONFLICT)
			fail_msg("after a kill at step %d: %s", step, err.text);
		assert_true(whole_network(folder));
		assert_int_equal(init(folder, NULL), E_CONFLICT);
		folder_remove(folder, NULL);
	}
}

static void test_secrets_are_for_the_owner_only(void **state)
{
	struct world *w = *state;
	const char *files[] = {"center/ca/key.pem", "center/identity/key.pem", "operator/key.pem"};
	for (size_t i = 0; i < 3; i++) {
		struct stat st;
		char *path = file_join(str_from(w->folder), files[i]);
		assert_int_equal(stat(path, &st), 0);
		assert_int_equal(st.st_mode & 0777, 0600);
		free(path);
	}
}

/* ---- joining ---------------------------------------------------------------------------------------------- */

struct applicant {
	char *key, *csr;
};

static struct applicant applicant_new(void)
{
	struct applicant a;
	assert_int_equal(x509_key_new(&a.key, NULL), 0);
	assert_int_equal(x509_request_new(str_from(a.key), STR("x"), &a.csr, NULL), 0);
	return a;
}

static void applicant_free(struct applicant *a)
{
	free(a->key);
	free(a->csr);
}

static int join(struct world *w, const struct applicant *a, const char *token, const char *name, const char *more,
                struct buf *reply)
{
	struct buf body = {0};
	buf_printf(&body, "{\"token\":\"%s\",\"name\":\"%s\",\"csr\":", token, name);
	buf_append_json(&body, str_from(a->csr));
	buf_printf(&body, ",%s}", more);
	buf_append(&body, "", 1);
	int status = ask(w, NULL, "POST", "/mdn/v1/join", body.base, reply);
	buf_fini(&body);
	return status;
}

#define EDGE "\"roles\":\"edge\",\"site\":\"paris\""

static void test_a_lost_reply_is_repeated_by_the_same_key_only(void **state)
{
	struct world *w = *state;
	struct applicant mine = applicant_new(), thief = applicant_new();
	struct buf reply = {0};
	char *token = world_token(w, "{}");
	assert_int_equal(join(w, &mine, token, "lost", EDGE, &reply), 200);
	char *id = json_get(&reply, "id"), *cert = json_get(&reply, "certificate");
	assert_int_equal(join(w, &thief, token, "thief", EDGE, &reply), 403);
	assert_non_null(strstr(reply.base, "another key"));
	assert_int_equal(join(w, &mine, token, "lost", EDGE, &reply), 200);
	char *id2 = json_get(&reply, "id"), *cert2 = json_get(&reply, "certificate");
	assert_string_equal(id, id2);
	assert_string_not_equal(cert, cert2);

	char who[TLS_IDENTITY_SIZE], wanted[TLS_IDENTITY_SIZE];
	int64_t from, to, now = clock_wall_us();
	assert_int_equal(x509_cert_info(str_from(cert), who, sizeof(who), &from, &to, NULL), 0);
	snprintf(wanted, sizeof(wanted), "spiffe://test.mdn/node/%s", id);
	assert_string_equal(who, wanted);
	assert_true(from <= now - 590 * US_PER_S && to > now && to <= now + 3600 * US_PER_S);
	free(id);
	free(id2);
	free(cert);
	free(cert2);
	free(token);
	applicant_free(&mine);
	applicant_free(&thief);
	buf_fini(&reply);
}

static void test_tokens_that_do_not_fit_are_refused_in_words(void **state)
{
	struct world *w = *state;
	struct applicant a = applicant_new();
	struct buf reply = {0};
	char *expired = world_token(w, "{\"ttl_us\":1000}"),
	     *bound = world_token(w, "{\"roles\":\"edge\",\"site\":\"paris\"}");
	char *good = world_token(w, "{}");
	usleep(20000);
	assert_int_equal(join(w, &a, expired, "e", EDGE, &reply), 401);
	assert_non_null(strstr(reply.base, "expired"));
	assert_int_equal(join(w, &a, bound, "e", "\"roles\":\"repository\"", &reply), 403);
	assert_int_equal(join(w, &a, bound, "e", "\"roles\":\"edge\",\"site\":\"lyon\"", &reply), 403);
	assert_non_null(strstr(reply.base, "paris"));
	assert_int_equal(join(w, &a, "mdn1.x.y.z", "e", EDGE, &reply), 401);
	good[8] = good[8] == 'A' ? 'B' : 'A';
	assert_int_equal(join(w, &a, good, "e", EDGE, &reply), 401);
	assert_int_equal(join(w, &a, bound, "bad name", EDGE, &reply), 400);
	assert_int_equal(join(w, &a, bound, "e", "\"roles\":\"king\"", &reply), 400);
	assert_int_equal(join(w, &(struct applicant){.csr = (char *)"rubbish"}, bound, "e", EDGE, &reply), 400);
	assert_int_equal(ask(w, NULL, "POST", "/mdn/v1/join", "[]", &reply), 400);
	assert_int_equal(ask(w, NULL, "POST", "/mdn/v1/join", "{\"token\":1}", &reply), 400);
	/* None of these spent the token. */
	assert_int_equal(join(w, &a, bound, "bound-one", EDGE, &reply), 200);
	/* The name is taken now, but not for its own key. */
	struct applicant b = applicant_new();
	char *second = world_token(w, "{}");
	assert_int_equal(join(w, &b, second, "bound-one", EDGE, &reply), 409);
	assert_int_equal(join(w, &a, second, "bound-one", EDGE, &reply), 200);
	free(expired);
	free(bound);
	free(good);
	free(second);
	applicant_free(&a);
	applicant_free(&b);
	buf_fini(&reply);
}

/* ---- identities ----------------------------------------------------------------------------------------------- */

static int renew(struct world *w, const char *id, const struct applicant *a, struct buf *reply)
{
	struct buf body = {0};
	buf_printf(&body, "{\"id\":\"%s\",\"csr\":", id);
	buf_append_json(&body, str_from(a->csr));
	buf_append_str(&body, STR("}"));
	buf_append(&body, "", 1);
	int status = ask(w, NULL, "POST", "/mdn/v1/renew", body.base, reply);
	buf_fini(&body);
	return status;
}

static void test_renewal_needs_the_registered_key_and_ends_with_removal(void **state)
{
	struct world *w = *state;
	struct applicant a = applicant_new(), other = applicant_new();
	struct buf reply = {0};
	char *token = world_token(w, "{}"), path[128];
	assert_int_equal(join(w, &a, token, "renewer", EDGE, &reply), 200);
	char *id = json_get(&reply, "id");
	assert_int_equal(renew(w, id, &a, &reply), 200);
	assert_int_equal(renew(w, id, &other, &reply), 403);
	assert_int_equal(renew(w, "n-0000", &a, &reply), 403);
	snprintf(path, sizeof(path), "/mdn/v1/nodes/%s", id);
	assert_int_equal(ask(w, w->operators, "DELETE", path, NULL, &reply), 204);
	assert_int_equal(ask(w, w->operators, "DELETE", path, NULL, &reply), 204);
	assert_int_equal(renew(w, id, &a, &reply), 403);
	assert_non_null(strstr(reply.base, "removed"));
	char *again = world_token(w, "{}");
	assert_int_equal(join(w, &a, again, "renewer", EDGE, &reply), 403);
	assert_int_equal(join(w, &other, again, "renewer", EDGE, &reply), 200); /* the name is free again */
	free(id);
	free(token);
	free(again);
	applicant_free(&a);
	applicant_free(&other);
	buf_fini(&reply);
}

/* A folder that can `ask` as this identity, with dates of our choice. */
static void forge(struct world *w, const struct applicant *a, const char *kind, const char *id, int64_t from,
                  int64_t to, char ret_folder[static 96])
{
	char ca_folder[128], identity[TLS_IDENTITY_SIZE], *cert;
	snprintf(ca_folder, sizeof(ca_folder), "%s/ca", w->data);
	char *ca_cert = read_file(ca_folder, "cert.pem"), *ca_key = read_file(ca_folder, "key.pem");
	snprintf(identity, sizeof(identity), "spiffe://test.mdn/%s/%s", kind, id);
	struct x509_issue issue = {.ca_cert_pem = str_from(ca_cert),
	                           .ca_key_pem = str_from(ca_key),
	                           .csr_pem = str_from(a->csr),
	                           .identity = str_from(identity),
	                           .not_before_wall_us = from,
	                           .not_after_wall_us = to};
	assert_int_equal(x509_issue(&issue, &cert, NULL), 0);
	snprintf(ret_folder, 96, "%s/forged", w->folder);
	assert_int_equal(folder_make(ret_folder, 0700, NULL), 0);
	const struct {
		const char *name, *text;
	} files[] = {{"cert.pem", cert}, {"key.pem", a->key}, {"ca.pem", ca_cert}};
	for (size_t i = 0; i < 3; i++) {
		char *path = file_join(str_from(ret_folder), files[i].name);
		assert_int_equal(file_write(path, 0600, str_from(files[i].text), NULL), 0);
		free(path);
	}
	free(cert);
	free(ca_cert);
	free(ca_key);
}

static void test_clocks_may_differ_by_ten_minutes_and_expired_nodes_have_a_day(void **state)
{
	struct world *w = *state;
	struct applicant a = applicant_new();
	struct buf reply = {0};
	char *token = world_token(w, "{}"), folder[96];
	int64_t now = clock_wall_us(), minute = 60 * US_PER_S, hour = 60 * minute;
	assert_int_equal(join(w, &a, token, "skewed", EDGE, &reply), 200);
	char *id = json_get(&reply, "id");
	forge(w, &a, "node", id, now + 9 * minute, now + hour, folder);
	assert_int_equal(ask(w, folder, "POST", "/mdn/v1/report", "{}", &reply),
	                 400); /* TLS let it in, the report is bad */
	forge(w, &a, "node", id, now - 20 * hour, now - 19 * hour, folder);
	assert_int_equal(ask(w, folder, "POST", "/mdn/v1/report", "{}", &reply), 400);
	forge(w, &a, "node", id, now - 27 * hour, now - 26 * hour, folder);
	assert_true(ask(w, folder, "POST", "/mdn/v1/report", "{}", &reply) < 0);
	forge(w, &a, "operator", "late", now - hour, now - minute, folder);
	assert_true(ask(w, folder, "GET", "/mdn/v1/nodes", NULL, &reply) < 0);
	free(id);
	free(token);
	applicant_free(&a);
	buf_fini(&reply);
}

/* Its last certificate may be older, and longer, than the one that was renewed last: it must not outlive its entry. */
static void test_removal_is_kept_as_long_as_any_certificate(void **unused)
{
	struct world w = {.cert_life_us = 60 * US_PER_S};
	struct buf record = {0};
	struct error err = {0};
	struct state *s;
	char data[96], path[128];
	world_new(&w);
	world_join(&w, "gone", "x", ROLE_EDGE, data);
	snprintf(path, sizeof(path), "%s/identity", data);
	char *node = read_file(path, "node.json");
	buf_append_str(&record, str_from(node));
	char *id = json_get(&record, "id");
	snprintf(path, sizeof(path), "/mdn/v1/nodes/%s", id);
	assert_int_equal(ask(&w, w.operators, "DELETE", path, NULL, NULL), 204);
	int64_t removed = clock_wall_us();
	world_stop(&w);
	snprintf(path, sizeof(path), "%s/center.db", w.data);
	assert_int_equal(state_open(str_from(path), &s, &err), 0);
	buf_clear(&record);
	assert_int_equal(state_get(s, "node", str_from(id), &record, &err), 0);
	buf_append(&record, "", 1);
	const char *expires = strstr(record.base, "\"cert_expires_us\":");
	assert_true(atoll(expires + strlen("\"cert_expires_us\":")) > removed + 23 * 3600 * US_PER_S);
	state_close(s);
	free(id);
	free(node);
	buf_fini(&record);
	world_free(&w);
}

static void test_strangers_send_no_large_bodies(void **state)
{
	char body[9000];
	memset(body, ' ', sizeof(body) - 1);
	body[sizeof(body) - 1] = '\0';
	assert_int_equal(ask(*state, NULL, "POST", "/mdn/v1/join", body, NULL), 413);
	assert_int_equal(ask(*state, NULL, "POST", "/mdn/v1/renew", body, NULL), 413);
}

static void test_calls_are_for_those_they_are_for(void **state)
{
	struct world *w = *state;
	struct applicant a = applicant_new();
	struct buf reply = {0};
	char *token = world_token(w, "{}"), folder[96];
	int64_t now = clock_wall_us();
	assert_int_equal(join(w, &a, token, "caller", EDGE, &reply), 200);
	char *id = json_get(&reply, "id");
	forge(w, &a, "node", id, now - US_PER_S, now + 60 * US_PER_S, folder);
	assert_int_equal(ask(w, folder, "POST", "/mdn/v1/tokens", "{}", &reply), 403);
	assert_int_equal(ask(w, folder, "GET", "/mdn/v1/nodes", NULL, &reply), 403);
	assert_int_equal(ask(w, w->operators, "GET", "/mdn/v1/watch", NULL, &reply), 403);
	assert_int_equal(ask(w, NULL, "GET", "/mdn/v1/nodes", NULL, &reply), 401);
	assert_int_equal(ask(w, w->operators, "PUT", "/mdn/v1/nodes", NULL, &reply), 405);
	assert_int_equal(ask(w, NULL, "GET", "/mdn/v1/nothing", NULL, &reply), 401);
	/* A node reports for itself only. */
	assert_int_equal(
	    ask(w, folder, "POST", "/mdn/v1/report",
	        "{\"id\":\"n-1\",\"name\":\"x\",\"site\":\"y\",\"roles\":\"edge\",\"state\":\"ready\",\"boot\":1,"
	        "\"seq\":1,\"wall_us\":1,\"node_url\":\"https://"
	        "127.0.0.1:1\",\"api_url\":\"\",\"models\":[],\"seen\":[],"
	        "\"rtts\":[]}",
	        &reply),
	    403);
	/* A certificate of this CA for a node that never joined. */
	forge(w, &a, "node", "n-stranger", now - US_PER_S, now + 60 * US_PER_S, folder);
	assert_int_equal(ask(w, folder, "GET", "/mdn/v1/watch", NULL, &reply), 403);
	free(id);
	free(token);
	applicant_free(&a);
	buf_fini(&reply);
}

/* ---- keys, rules, restarts ----------------------------------------------------------------------------------- */

static void test_api_keys_are_shown_once_kept_as_hashes_and_revoked(void **state)
{
	struct world *w = *state;
	struct buf reply = {0};
	char path[96], public_id[API_KEY_ID_SIZE], hash[API_KEY_HASH_SIZE];
	assert_int_equal(ask(w, w->operators, "POST", "/mdn/v1/keys", "{\"name\":\"alice\"}", &reply), 200);
	char *key = json_get(&reply, "key"), *id = json_get(&reply, "id");
	assert_int_equal(api_key_parse(str_from(key), public_id, NULL), 0);
	assert_string_equal(public_id, id);
	api_key_hash(str_from(key), hash);

	world_stop(w);
	struct buf db = {0};
	const char *files[] = {"center.db", "center.db-wal"};
	for (size_t i = 0; i < 2; i++) {
		char *at = file_join(str_from(w->data), files[i]);
		file_read(at, 64 << 20, &db, NULL);
		free(at);
	}
	assert_non_null(memmem(db.base, db.len, hash, strlen(hash)));
	assert_null(memmem(db.base, db.len, key, strlen(key)));
	assert_null(memmem(db.base, db.len, key + 16, 48));
	buf_fini(&db);
	world_start(w);

	assert_int_equal(ask(w, w->operators, "GET", "/mdn/v1/keys", NULL, &reply), 200);
	assert_non_null(strstr(reply.base, id));
	assert_null(strstr(reply.base, key + 16));
	snprintf(path, sizeof(path), "/mdn/v1/keys/%s", id);
	assert_int_equal(ask(w, w->operators, "DELETE", path, NULL, &reply), 204);
	assert_int_equal(ask(w, w->operators, "DELETE", path, NULL, &reply), 404);
	assert_int_equal(ask(w, w->operators, "POST", "/mdn/v1/keys", "{}", &reply), 400);
	free(key);
	free(id);
	buf_fini(&reply);
}

static void test_tokens_and_nodes_survive_a_restart(void **state)
{
	struct world *w = *state;
	struct applicant a = applicant_new();
	struct buf reply = {0};
	char *used = world_token(w, "{}"), *open = world_token(w, "{}");
	assert_int_equal(join(w, &a, used, "survivor", EDGE, &reply), 200);
	char *id = json_get(&reply, "id");
	world_stop(w);
	world_start(w);
	assert_int_equal(join(w, &a, used, "survivor", EDGE, &reply), 200);
	char *id2 = json_get(&reply, "id");
	assert_string_equal(id, id2);
	assert_int_equal(renew(w, id, &a, &reply), 200);
	struct applicant b = applicant_new();
	assert_int_equal(join(w, &b, open, "second", EDGE, &reply), 200);
	assert_int_equal(ask(w, w->operators, "GET", "/mdn/v1/nodes", NULL, &reply), 200);
	assert_non_null(strstr(reply.base, id));
	assert_non_null(strstr(reply.base, "\"name\":\"c1\""));
	free(used);
	free(open);
	free(id);
	free(id2);
	applicant_free(&a);
	applicant_free(&b);
	buf_fini(&reply);
}

static void test_placing_what_nobody_has_is_refused(void **state)
{
	struct world *w = *state;
	struct buf reply = {0};
	assert_int_equal(
	    ask(w, w->operators, "POST", "/mdn/v1/place", "{\"model\":\"No Such\",\"on\":\"all\"}", &reply), 400);
	assert_int_equal(
	    ask(w, w->operators, "POST", "/mdn/v1/place", "{\"model\":\"none:1\",\"on\":\"edge\"}", &reply), 400);
	assert_int_equal(ask(w, w->operators, "POST", "/mdn/v1/place", "{\"model\":\"none:1\",\"on\":\"all\"}", &reply),
	                 404);
	assert_non_null(strstr(reply.base, "mdn push"));
	assert_int_equal(ask(w, w->operators, "POST", "/mdn/v1/place",
	                     "{\"model\":\"none:1\",\"on\":\"all\",\"remove\":true}", &reply),
	                 404);
	assert_int_equal(ask(w, w->operators, "GET", "/mdn/v1/models/none:1", NULL, &reply), 404);
	assert_int_equal(ask(w, w->operators, "GET", "/mdn/v1/events?model=none:1", NULL, &reply), 404);
	assert_int_equal(ask(w, w->operators, "POST", "/mdn/v1/nodes/none/drain", "", &reply), 404);
	assert_int_equal(ask(w, w->operators, "DELETE", "/mdn/v1/nodes/c1", NULL, &reply), 409);
	buf_fini(&reply);
}

static void test_another_operator_is_made_on_the_centers_machine(void **state)
{
	struct world *w = *state;
	char folder[96];
	struct buf reply = {0};
	snprintf(folder, sizeof(folder), "%s/second", w->folder);
	assert_int_equal(center_operator_new(str_from(w->data), STR("eve"), str_from(folder), NULL), 0);
	assert_int_equal(ask(w, folder, "GET", "/mdn/v1/nodes", NULL, &reply), 200);
	assert_int_equal(center_operator_new(str_from(w->data), STR("eve"), str_from(folder), NULL), E_CONFLICT);
	buf_fini(&reply);
}

/* ---- a center in a process of its own, killed ---------------------------------------------------------------- */

static pid_t center_process(struct world *w)
{
	struct buf reply = {0};
	pid_t child = fork();
	if (child == 0) {
		world_start(w);
		for (;;)
			pause();
	}
	for (int i = 0; ask(w, w->operators, "GET", "/mdn/v1/nodes", NULL, &reply) != 200; i++) {
		assert_true(i < 500);
		usleep(10000);
	}
	buf_fini(&reply);
	return child;
}

static void kill_center(pid_t child)
{
	assert_int_equal(kill(child, SIGKILL), 0);
	assert_int_equal(waitpid(child, NULL, 0), child);
}

static void test_what_was_answered_survives_kill_9(void **unused)
{
	struct world w = {0};
	struct buf reply = {0};
	struct applicant a = applicant_new(), thief = applicant_new();
	world_init(&w);
	pid_t child = center_process(&w);
	char *token = world_token(&w, "{}");
	assert_int_equal(join(&w, &a, token, "tough", EDGE, &reply), 200);
	char *id = json_get(&reply, "id");
	assert_int_equal(ask(&w, w.operators, "POST", "/mdn/v1/keys", "{\"name\":\"alice\"}", &reply), 200);
	char *key = json_get(&reply, "id");
	kill_center(child);

	child = center_process(&w);
	assert_int_equal(join(&w, &thief, token, "thief", EDGE, &reply), 403);
	assert_int_equal(join(&w, &a, token, "tough", EDGE, &reply), 200);
	assert_non_null(strstr(reply.base, id));
	assert_int_equal(ask(&w, w.operators, "GET", "/mdn/v1/keys", NULL, &reply), 200);
	assert_non_null(strstr(reply.base, key));
	char path[96];
	snprintf(path, sizeof(path), "/mdn/v1/nodes/%s", id);
	assert_int_equal(ask(&w, w.operators, "DELETE", path, NULL, &reply), 204);
	kill_center(child);

	child = center_process(&w);
	assert_int_equal(renew(&w, id, &a, &reply), 403);
	kill_center(child);
	free(token);
	free(id);
	free(key);
	applicant_free(&a);
	applicant_free(&thief);
	buf_fini(&reply);
	world_free(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_secrets_are_for_the_owner_only),
	    cmocka_unit_test(test_a_lost_reply_is_repeated_by_the_same_key_only),
	    cmocka_unit_test(test_tokens_that_do_not_fit_are_refused_in_words),
	    cmocka_unit_test(test_renewal_needs_the_registered_key_and_ends_with_removal),
	    cmocka_unit_test(test_clocks_may_differ_by_ten_minutes_and_expired_nodes_have_a_day),
	    cmocka_unit_test(test_strangers_send_no_large_bodies),
	    cmocka_unit_test(test_calls_are_for_those_they_are_for),
	    cmocka_unit_test(test_api_keys_are_shown_once_kept_as_hashes_and_revoked),
	    cmocka_unit_test(test_tokens_and_nodes_survive_a_restart),
	    cmocka_unit_test(test_placing_what_nobody_has_is_refused),
	    cmocka_unit_test(test_another_operator_is_made_on_the_centers_machine),
	};
	const struct CMUnitTest init_tests[] = {
	    cmocka_unit_test(test_init_killed_anywhere_leaves_no_half_network),
	    cmocka_unit_test(test_what_was_answered_survives_kill_9),
	    cmocka_unit_test(test_removal_is_kept_as_long_as_any_certificate),
	};
	log_set_level(LOG_ERROR);
	int failed = cmocka_run_group_tests_name("init", init_tests, NULL, NULL);
	return failed + cmocka_run_group_tests_name("center", tests, world_setup, world_teardown);
}
