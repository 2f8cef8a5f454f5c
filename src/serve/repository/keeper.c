/* SPDX-License-Identifier: Apache-2.0 */
/* A run is a chain of jobs: a job takes steps until BUSY_US are over, the loop tells the caller how far it is, and
 * starts the next one. Faults are written as events by the job and sent by the loop. */
#include "serve/repository/keeper.h"

#include "base/clock.h"
#include "base/log.h"
#include "net/sse.h"
#include "serve/repository/fsck.h"
#include "serve/repository/gc.h"

#include <stdlib.h>

#define BUSY_US (20 * US_PER_MS)
#define TELL_US (200 * US_PER_MS)

struct run {
	struct keeper *k;
	struct http_exchange *x; /* NULL: nobody asked, or who asked is gone */
	bool gone;
	struct gc *gc; /* one of the two */
	struct fsck *fsck;
	bool more;
	int rc;
	struct error err;
	struct buf events;
	int64_t began_us, told_us;
};

struct keeper {
	struct loop *loop;
	struct keeper_options o;
	char *origins;
	struct loop_timer *timer;
	struct run *run;
	struct http_exchange *waiting; /* for the end of a run that nobody waits for */
	bool freed;
};

static void run_next(struct run *r);
static void on_time(void *arg);

static void timer_set(struct keeper *k)
{
	loop_timer_stop(k->timer);
	if (k->o.gc_every_us > 0 && k->o.catalog)
		loop_timer_start(k->timer, k->o.gc_every_us, k->o.gc_every_us);
}

struct keeper *keeper_new(struct loop *loop, const struct keeper_options *options)
{
	struct keeper *k = NEW(struct keeper);
	k->loop = loop;
	k->o = *options;
	k->origins = str_dup(options->origins);
	k->timer = loop_timer_new(loop, on_time, k);
	blob_store_lease(k->o.store, k->o.gc_lease_us);
	timer_set(k);
	return k;
}

static void drop(struct keeper *k)
{
	free(k->origins);
	free(k);
}

void keeper_free(struct keeper *k)
{
	if (!k)
		return;
	struct error err = {0};
	error_set(&err, E_UNAVAILABLE, "the node stops; ask again in a moment");
	loop_timer_free(k->timer);
	k->freed = true;
	if (k->waiting) {
		http_watch(k->waiting, NULL, NULL, NULL);
		http_respond_error(k->waiting, &err);
		k->waiting = NULL;
	}
	if (!k->run)
		drop(k);
}

void keeper_set_times(struct keeper *k, int64_t gc_every_us, int64_t gc_lease_us)
{
	bool same = k->o.gc_every_us == gc_every_us;
	k->o.gc_every_us = gc_every_us;
	k->o.gc_lease_us = gc_lease_us;
	blob_store_lease(k->o.store, gc_lease_us);
	if (!same)
		timer_set(k);
}

/* ---- what a run says --------------------------------------------------------------------------- */

static void add_event(struct run *r, struct str event, const struct buf *data)
{
	sse_append(&r->events, event, buf_str(data));
}

static void write_gc(const struct run *r, struct buf *out)
{
	const struct gc_result *g = gc_result(r->gc);
	buf_printf(out,
	           "{\"phase\":\"%s\",\"manifests\":%llu,\"unreadable\":%llu,\"manifests_gone\":%llu,\"kept\":%llu,"
	           "\"kept_bytes\":%llu,\"leased\":%llu,\"leased_bytes\":%llu,\"freed\":%llu,\"freed_bytes\":%llu}",
	           g->phase, (unsigned long long)g->manifests, (unsigned long long)g->unreadable,
	           (unsigned long long)g->manifests_gone, (unsigned long long)g->blobs_kept,
	           (unsigned long long)g->bytes_kept, (unsigned long long)g->blobs_leased,
	           (unsigned long long)g->bytes_leased, (unsigned long long)g->blobs_gone,
	           (unsigned long long)g->bytes_gone);
}

static void write_fsck(const struct run *r, struct buf *out)
{
	const struct fsck_result *f = fsck_result(r->fsck);
	size_t wanted;
	fsck_wanted(r->fsck, &wanted);
	buf_printf(out,
	           "{\"phase\":\"%s\",\"blobs\":%llu,\"bytes\":%llu,\"sealed\":%llu,\"manifests\":%llu,"
	           "\"versions\":%llu,\"lists\":%llu,\"partials\":%llu,\"partial_bytes\":%llu,\"elsewhere\":%llu,"
	           "\"faults\":%llu,\"repaired\":%llu,\"wanted\":%zu}",
	           f->phase, (unsigned long long)f->blobs, (unsigned long long)f->bytes, (unsigned long long)f->sealed,
	           (unsigned long long)f->manifests, (unsigned long long)f->versions, (unsigned long long)f->lists,
	           (unsigned long long)f->partials, (unsigned long long)f->partial_bytes,
	           (unsigned long long)f->elsewhere, (unsigned long long)f->faults, (unsigned long long)f->repaired,
	           wanted);
}

static void tell(struct run *r, struct str event)
{
	struct buf data = {0};
	if (r->gc)
		write_gc(r, &data);
	else
		write_fsck(r, &data);
	add_event(r, event, &data);
	buf_fini(&data);
}

static void tell_error(struct run *r)
{
	struct buf data = {0};
	buf_printf(&data, "{\"error\":{\"code\":\"%s\",\"message\":", error_label(r->err.code));
	buf_append_json(&data, str_from(r->err.text));
	buf_append_str(&data, STR("}}"));
	add_event(r, STR("error"), &data);
	buf_fini(&data);
}

/* In the job. */
static void on_fault(void *arg, const struct fsck_fault *fault)
{
	struct run *r = arg;
	struct buf data = {0};
	char digest[DIGEST_TEXT_SIZE];
	digest_format(&fault->digest, digest);
	buf_printf(&data, "{\"fault\":\"%s\",\"digest\":\"%s\",\"where\":", fsck_kind_name(fault->kind), digest);
	buf_append_json(&data, str_from(fault->where));
	buf_append_str(&data, STR(",\"words\":"));
	buf_append_json(&data, str_from(fault->words));
	buf_printf(&data, ",\"done\":\"%s\"}", fault->done);
	add_event(r, STR("fault"), &data);
	buf_fini(&data);
}

/* ---- runs ------------------------------------------------------------------------------------- */

static void log_over(const struct run *r)
{
	if (r->rc == E_CANCELED) {
		log_info("keeper", "%s ended early: %s", r->gc ? "collecting garbage" : "checking the store",
		         r->err.text);
	} else if (r->rc) {
		log_error("keeper", "%s ended early: %s", r->gc ? "collecting garbage" : "checking the store",
		          r->err.text);
	} else if (r->gc) {
		const struct gc_result *g = gc_result(r->gc);
		log_info("keeper", "garbage collected: %llu blobs, %llu bytes freed; %llu blobs kept by their lease",
		         (unsigned long long)g->blobs_gone, (unsigned long long)g->bytes_gone,
		         (unsigned long long)g->blobs_leased);
	} else {
		const struct fsck_result *f = fsck_result(r->fsck);
		log_info("keeper", "store checked: %llu blobs, %llu faults, %llu repaired",
		         (unsigned long long)f->blobs, (unsigned long long)f->faults, (unsigned long long)f->repaired);
	}
}

static void start_waiting(struct keeper *k)
{
	struct http_exchange *x = k->waiting;
	k->waiting = NULL;
	if (!x)
		return;
	http_watch(x, NULL, NULL, NULL);
	keeper_handle(k, x);
}

static void run_over(struct run *r)
{
	struct keeper *k = r->k;
	size_t wanted;
	log_over(r);
	if (r->fsck && !r->rc && !k->freed && k->o.on_wanted) {
		const struct version_file *files = fsck_wanted(r->fsck, &wanted);
		if (wanted)
			k->o.on_wanted(k->o.arg, files, wanted);
	}
	if (r->x) {
		http_watch(r->x, NULL, NULL, NULL);
		if (r->rc)
			tell_error(r);
		else
			tell(r, STR("result"));
		http_write(r->x, buf_str(&r->events));
		http_end(r->x);
	}
	gc_free(r->gc);
	fsck_free(r->fsck);
	buf_fini(&r->events);
	k->run = NULL;
	free(r);
	if (k->freed)
		drop(k);
	else
		start_waiting(k);
}

static void work(void *arg)
{
	struct run *r = arg;
	int64_t until = clock_mono_us() + BUSY_US;
	do
		r->rc = r->gc ? gc_step(r->gc, &r->more, &r->err) : fsck_step(r->fsck, &r->more, &r->err);
	while (!r->rc && r->more && clock_mono_us() < until);
}

static void worked(void *arg)
{
	struct run *r = arg;
	int64_t now = loop_now_us(r->k->loop);
	if (!r->rc && r->more && (r->gone || r->k->waiting || r->k->freed)) {
		r->rc = error_set(&r->err, E_CANCELED, "%s",
		                  r->gone       ? "who asked for it is gone"
		                  : r->k->freed ? "the node stops"
		                                : "an operator asks for something else; the next one makes up for it");
		r->more = false;
	}
	if (r->rc || !r->more) {
		run_over(r);
		return;
	}
	if (now - r->told_us >= TELL_US) {
		r->told_us = now;
		tell(r, STR("progress"));
	}
	if (r->x && r->events.len)
		http_write(r->x, buf_str(&r->events));
	buf_clear(&r->events);
	run_next(r);
}

static void run_next(struct run *r)
{
	loop_job(r->k->loop, work, worked, r);
}

static struct run *run_new(struct keeper *k, struct http_exchange *x)
{
	struct run *r = NEW(struct run);
	*r = (struct run){.k = k, .x = x, .began_us = loop_now_us(k->loop), .told_us = loop_now_us(k->loop)};
	k->run = r;
	return r;
}

static void gc_begin(struct keeper *k, struct http_exchange *x, bool dry_run, bool untagged)
{
	struct run *r = run_new(k, x);
	r->gc = gc_new(&(struct gc_options){.store = k->o.store,
	                                    .catalog = k->o.catalog,
	                                    .lease_us = k->o.gc_lease_us,
	                                    .dry_run = dry_run,
	                                    .untagged = untagged});
	run_next(r);
}

static void on_time(void *arg)
{
	struct keeper *k = arg;
	if (!k->run)
		gc_begin(k, NULL, false, false);
}

/* ---- requests --------------------------------------------------------------------------------- */

static void on_gone(void *arg)
{
	struct run *r = arg;
	r->x = NULL;
	r->gone = true;
}

static void on_waiting_gone(void *arg)
{
	((struct keeper *)arg)->waiting = NULL;
}

static bool asks(struct http_exchange *x, const char *name)
{
	struct str value;
	return http_query(x, name, &value) && str_equal(value, STR("true"));
}

static bool refuse(struct http_exchange *x, const struct error *err)
{
	http_respond_error(x, err);
	return true;
}

bool keeper_handle(struct keeper *k, struct http_exchange *x)
{
	bool collects = str_equal(http_path(x), STR("/mdn/v1/gc"));
	struct error err = {0};
	if (!collects && !str_equal(http_path(x), STR("/mdn/v1/fsck")))
		return false;
	if (!str_equal(http_method(x), STR("POST")))
		error_set(&err, E_METHOD, "the store is looked after with POST");
	else if (collects && !k->o.catalog)
		error_set(&err, E_UNSUPPORTED, "only a repository has garbage to collect; this node is none");
	else if (k->run && (k->run->x || k->waiting))
		error_set(&err, E_CONFLICT, "the store is being %s already; wait for its end",
		          k->run->gc ? "collected" : "checked");
	if (err.code)
		return refuse(x, &err);
	if (k->run) {
		k->waiting = x;
		http_watch(x, NULL, on_waiting_gone, k);
		return true;
	}
	http_respond_begin(x, 200, "text/event-stream", -1);
	if (collects) {
		gc_begin(k, x, asks(x, "dry_run"), asks(x, "untagged"));
	} else {
		struct run *r = run_new(k, x);
		r->fsck = fsck_new(&(struct fsck_options){.store = k->o.store,
		                                          .catalog = k->o.catalog,
		                                          .origins = k->origins[0] ? k->origins : NULL,
		                                          .repair = asks(x, "repair"),
		                                          .on_fault = on_fault,
		                                          .arg = r});
		run_next(r);
	}
	http_watch(x, NULL, on_gone, k->run);
	return true;
}
