/* SPDX-License-Identifier: Apache-2.0 */
/* While another leads, the key is read twice a second; when it is gone, a lease is made and the key put, if it is still
 * gone. Who wins is etcd's word. A leader keeps its lease once a second. The lease is a second longer than a term, and
 * a term is counted from before the call that began or kept it, so that a slow answer shortens it.
 */
#include "store/election.h"

#include "base/clock.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define LEASE_S 6
#define KEEP_US (1 * US_PER_S)
#define LOOK_US (500 * US_PER_MS)
#define CALL_US (1400 * US_PER_MS)

struct election {
	struct etcd *etcd;
	char *key, *value;
	pthread_t thread;

	pthread_mutex_t lock; /* of what follows; a leaf */
	pthread_cond_t wake;
	bool stops, yields;
	struct election_view view;
};

static void e_free(struct election *e)
{
	pthread_cond_destroy(&e->wake);
	pthread_mutex_destroy(&e->lock);
	etcd_free(e->etcd);
	free(e->key);
	free(e->value);
	free(e);
}

/* ---- the thread ------------------------------------------------------------------------------------------ */

static void publish(struct election *e, const struct election_view *v)
{
	pthread_mutex_lock(&e->lock);
	if (!e->yields) /* else it is over already */
		e->view = *v;
	pthread_mutex_unlock(&e->lock);
}

/* False: it is over. */
static bool sleep_for(struct election *e, int64_t us, bool *ret_yields)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	int64_t ns = until.tv_nsec + us % US_PER_S * 1000;
	until.tv_sec += us / US_PER_S + ns / 1000000000;
	until.tv_nsec = ns % 1000000000;
	pthread_mutex_lock(&e->lock);
	while (!e->stops && !e->yields && pthread_cond_timedwait(&e->wake, &e->lock, &until) == 0)
		;
	bool stops = e->stops;
	*ret_yields = e->yields;
	e->yields = false;
	pthread_mutex_unlock(&e->lock);
	return !stops;
}

static int lease_call(struct election *e, const char *path, int64_t lease, int64_t ttl, yyjson_doc **ret_doc,
                      struct error *err)
{
	struct buf body = {0};
	buf_printf(&body, "{\"ID\":\"%" PRId64 "\"", lease);
	if (ttl)
		buf_printf(&body, ",\"TTL\":\"%" PRId64 "\"", ttl); /* other calls refuse it */
	buf_append_str(&body, STR("}"));
	int rc = etcd_call(e->etcd, path, buf_str(&body), CALL_US, ret_doc, err);
	buf_fini(&body);
	return rc;
}

static void lease_revoke(struct election *e, int64_t *lease)
{
	yyjson_doc *doc = NULL;
	if (*lease && lease_call(e, "/v3/lease/revoke", *lease, 0, &doc, NULL) != E_UNAVAILABLE)
		*lease = 0; /* else it ends by itself, if not before */
	yyjson_doc_free(doc);
}

static int lease_grant(struct election *e, int64_t *ret_lease, struct error *err)
{
	yyjson_doc *doc = NULL;
	int rc = lease_call(e, "/v3/lease/grant", 0, LEASE_S, &doc, err);
	if (rc == 0)
		*ret_lease = etcd_number(yyjson_doc_get_root(doc), "ID");
	if (rc == 0 && *ret_lease == 0)
		rc = error_set(err, E_PEER, "etcd granted no lease");
	yyjson_doc_free(doc);
	return rc;
}

/* The stream's one answer: {"result":{"ID":"7","TTL":"6"}}; without TTL when the lease is gone. */
static int lease_keep(struct election *e, int64_t lease, bool *ret_kept, struct error *err)
{
	yyjson_doc *doc = NULL;
	int rc = lease_call(e, "/v3/lease/keepalive", lease, 0, &doc, err);
	if (rc == 0)
		*ret_kept = etcd_number(yyjson_obj_get(yyjson_doc_get_root(doc), "result"), "TTL") > 0;
	yyjson_doc_free(doc);
	return rc;
}

/* Who holds the key: {"kvs":[{"create_revision","value","lease"}]}, as range and a failed transaction answer. */
static int holder(struct election *e, yyjson_val *range, int64_t lease, struct election_view *v, struct error *err)
{
	yyjson_val *kv = yyjson_arr_get_first(yyjson_obj_get(range, "kvs"));
	struct buf value = {0};
	if (!kv)
		return 0;
	int rc = etcd_bytes(kv, "value", &value, err);
	if (lease && etcd_number(kv, "lease") == lease)
		v->revision = etcd_number(kv, "create_revision"); /* an answer to us was lost */
	else if (!str_copy(buf_str(&value), v->leader, sizeof(v->leader)))
		rc = error_set(err, E_CORRUPT, "etcd: what %s holds is no center's word", e->key);
	buf_fini(&value);
	return rc;
}

static int look(struct election *e, struct election_view *v, struct error *err)
{
	struct buf body = {0};
	yyjson_doc *doc = NULL;
	buf_append_str(&body, STR("{\"key\":"));
	etcd_append_bytes(&body, str_from(e->key));
	buf_append_str(&body, STR("}"));
	int rc = etcd_call(e->etcd, "/v3/kv/range", buf_str(&body), CALL_US, &doc, err);
	if (rc == 0)
		rc = holder(e, yyjson_doc_get_root(doc), 0, v, err);
	yyjson_doc_free(doc);
	buf_fini(&body);
	return rc;
}

static int stand(struct election *e, int64_t lease, struct election_view *v, struct error *err)
{
	struct buf key = {0}, body = {0};
	yyjson_doc *doc = NULL;
	etcd_append_bytes(&key, str_from(e->key));
	buf_printf(&body,
	           "{\"compare\":[{\"key\":%.*s,\"target\":\"CREATE\",\"result\":\"EQUAL\",\"create_revision\":\"0\"}],"
	           "\"success\":[{\"request_put\":{\"key\":%.*s,\"lease\":\"%" PRId64 "\",\"value\":",
	           STR_ARG(buf_str(&key)), STR_ARG(buf_str(&key)), lease);
	etcd_append_bytes(&body, str_from(e->value));
	buf_printf(&body, "}}],\"failure\":[{\"request_range\":{\"key\":%.*s}}]}", STR_ARG(buf_str(&key)));
	int rc = etcd_call(e->etcd, "/v3/kv/txn", buf_str(&body), CALL_US, &doc, err);
	yyjson_val *o = yyjson_doc_get_root(doc);
	if (rc == 0 && yyjson_is_true(yyjson_obj_get(o, "succeeded")))
		v->revision = etcd_number(yyjson_obj_get(o, "header"), "revision");
	else if (rc == 0)
		rc = holder(e, yyjson_obj_get(yyjson_arr_get_first(yyjson_obj_get(o, "responses")), "response_range"),
		            lease, v, err);
	yyjson_doc_free(doc);
	buf_fini(&key);
	buf_fini(&body);
	return rc;
}

/* False: leading is over. */
static bool go_on(struct election *e, int64_t lease, struct election_view *v)
{
	int64_t begun = clock_mono_us();
	bool kept = false;
	struct error err = {0};
	int rc = lease_keep(e, lease, &kept, &err);
	if (rc == 0 && kept)
		v->until_us = begun + ELECTION_TERM_US;
	return rc == 0 ? kept : clock_mono_us() < v->until_us;
}

static void try_to_lead(struct election *e, int64_t *lease, struct election_view *v)
{
	struct error err = {0};
	int64_t begun = 0;
	lease_revoke(e, lease); /* of leading before */
	int rc = look(e, v, &err);
	if (rc == 0 && !v->leader[0] && (rc = lease_grant(e, lease, &err)) == 0) {
		begun = clock_mono_us();
		rc = stand(e, *lease, v, &err);
	}
	if (rc < 0)
		v->problem = err;
	else if (v->revision)
		v->until_us = begun + ELECTION_TERM_US - US_PER_S; /* the lease began before */
	if (!v->revision)
		lease_revoke(e, lease);
}

static void *run(void *arg)
{
	struct election *e = arg;
	struct election_view v = {0};
	int64_t lease = 0, pause = 0;
	bool yields = false;
	while (sleep_for(e, pause, &yields)) {
		if (v.revision && (yields || !go_on(e, lease, &v))) {
			v = (struct election_view){.problem = {E_UNAVAILABLE, "etcd was not heard in time"}};
			publish(e, &v); /* before another can lead */
			lease_revoke(e, &lease);
		}
		if (!v.revision) {
			v = (struct election_view){0};
			try_to_lead(e, &lease, &v);
		}
		publish(e, &v);
		pause = v.revision && v.until_us - clock_mono_us() > ELECTION_TERM_US / 2 ? KEEP_US : LOOK_US;
	}
	lease_revoke(e, &lease);
	return NULL;
}

/* ---- the loop's side --------------------------------------------------------------------------------------- */

int election_new(const struct election_options *o, struct election **ret_election, struct error *err)
{
	struct election *e = NEW(struct election);
	pthread_condattr_t clock;
	e->key = str_dup(o->key);
	e->value = str_dup(o->value);
	pthread_mutex_init(&e->lock, NULL);
	pthread_condattr_init(&clock);
	pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
	pthread_cond_init(&e->wake, &clock);
	pthread_condattr_destroy(&clock);
	int rc = etcd_new(&o->etcd, &e->etcd, err);
	if (rc == 0 && pthread_create(&e->thread, NULL, run, e) != 0)
		rc = error_set(err, E_INTERNAL, "cannot start a thread");
	if (rc < 0) {
		e_free(e);
		return rc;
	}
	*ret_election = e;
	return 0;
}

static void tell(struct election *e, bool *what)
{
	pthread_mutex_lock(&e->lock);
	*what = true;
	pthread_cond_signal(&e->wake);
	pthread_mutex_unlock(&e->lock);
}

void election_free(struct election *e)
{
	if (!e)
		return;
	tell(e, &e->stops);
	pthread_join(e->thread, NULL);
	e_free(e);
}

void election_look(struct election *e, struct election_view *ret_view)
{
	pthread_mutex_lock(&e->lock);
	*ret_view = e->view;
	pthread_mutex_unlock(&e->lock);
}

void election_yield(struct election *e)
{
	pthread_mutex_lock(&e->lock);
	e->view = (struct election_view){.problem = {E_UNAVAILABLE, "etcd did not say whether a write was done"}};
	e->yields = true; /* with it: the thread must not say in between that we lead */
	pthread_cond_signal(&e->wake);
	pthread_mutex_unlock(&e->lock);
}
