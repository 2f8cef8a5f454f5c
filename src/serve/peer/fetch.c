/* SPDX-License-Identifier: Apache-2.0 */
/* fetch.c - one file on its way: check, chunk list, chunks that other files here have, chunks from several sources.
 *
 *   CHECK --on disk--> DONE
 *     | (list known) -> REUSE -> CHUNKS --all held--> FINISH --> DONE
 *     +--> LIST --------^
 *           +--(small file)-------------------------------> DONE
 *   any failure --> FAILED --RETRY_US--> CHECK
 *
 * A file that is dropped and wanted again begins anew, but only once the job of the dropped fetch is over: one partial
 * blob is open once.
 *
 * Disk and hashing run in one job at a time per fetch, writing in several threads: chunks that arrive meanwhile wait in
 * `arrived` and count as running, so memory stays within `parallel` chunks. Each source is asked "what do you hold?" by
 * long poll; origins hold everything. A chunk counts, and is shown to others, only after the store verified it. The
 * version names the list by its digest and the list names every chunk, so the file needs no second hashing at its end.
 */
#include "serve/peer/fetch.h"

#include "base/json.h"
#include "base/limits.h"
#include "base/log.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#define POLL_US INT64_C(500000)       /* between two questions to a source what it holds */
#define POLL_NEEDY_US INT64_C(100000) /* the same, while a stripe needs others than its parent */
#define LIST_AGAIN_US INT64_C(250000)
#define WAIT_MS 8000             /* a parent may take so long until it has a chunk */
#define LONG_US INT64_C(1000000) /* who says no after that has waited */
#define HEAD_US (4 * US_PER_S)
#define STALL_US (3 * US_PER_S)
#define LIST_FROM_PEERS (UINT64_C(8) << 30) /* lists of larger files are asked of peers first: they are large, too */
#define SAY_EVERY_US (5 * US_PER_S)
#define OFFER_MAX (LIMIT_CHUNKS / 6 + 1024) /* a bitmap of LIMIT_CHUNKS in base64url, and some words */
#define ROOM_MOST 131072                    /* of one read */
#define CORRUPT_RETRY_US (600 * US_PER_S)   /* the same list would bring the same bytes, all of them again */

static void check_start(struct fetch *f);
static void pump(void *arg);
static void job_start(struct fetch *f, enum job_kind kind);

/* ---- small questions -------------------------------------------------------------------------- */

struct fetch *fetch_next(const struct fetch *f)
{
	return f->next;
}

bool fetch_is(const struct fetch *f, const struct digest *d)
{
	return digest_equal(&f->file.digest, d);
}

enum fetch_stage fetch_stage(const struct fetch *f)
{
	return f->stage;
}

double fetch_rate(const struct fetch *f)
{
	return f->stage == FETCH_CHUNKS ? f->rate : 0;
}

const struct digest *fetch_digest(const struct fetch *f)
{
	return &f->file.digest;
}

static void report_source(struct model_report *r, const char *id, double rate)
{
	size_t at = r->source_count;
	while (at > 0 && r->sources[at - 1].rate < rate)
		at--;
	if (at == REPORT_SOURCES_MAX)
		return;
	if (r->source_count < REPORT_SOURCES_MAX)
		r->source_count++;
	memmove(&r->sources[at + 1], &r->sources[at], (r->source_count - at - 1) * sizeof *r->sources);
	memcpy(r->sources[at].id, id, sizeof r->sources[at].id);
	r->sources[at].rate = rate;
}

void fetch_sources(const struct fetch *f, struct model_report *r)
{
	if (f->stage != FETCH_CHUNKS)
		return;
	snprintf(r->file, sizeof r->file, "%.*s", (int)sizeof r->file - 1, f->file.path);
	for (uint32_t i = 0; i < CHUNK_SOURCES_MAX; i++) {
		const struct source *s = &f->peer->sources[i];
		if (!f->polls[i].used || !s->used)
			continue;
		if (f->polls[i].rate >= 1)
			report_source(r, s->at.id, f->polls[i].rate);
		if (s->wrong && !r->error[0])
			snprintf(r->error, sizeof r->error,
			         "node %s sent bytes that are not the file's; it is left alone", s->at.id);
	}
}

const char *fetch_error(const struct fetch *f)
{
	return f->error.text;
}

int fetch_file(const struct fetch *f, struct blob_file **ret_file, struct error *err)
{
	return blob_partial_file(f->partial, ret_file, err);
}

uint64_t fetch_have_bytes(const struct fetch *f)
{
	if (f->stage == FETCH_DONE)
		return f->file.size;
	return f->plan || f->stage == FETCH_REUSE ? blob_partial_bytes(f->partial) : 0;
}

bool fetch_view(const struct fetch *f, const struct chunk_list **ret_list, const struct chunk_plan **ret_plan)
{
	if (!f->plan || !f->partial)
		return false;
	*ret_list = &f->list;
	*ret_plan = f->plan;
	return true;
}

static bool all_zero(const struct digest *d)
{
	static const struct digest zero;
	return digest_equal(d, &zero);
}

/* ---- ends -------------------------------------------------------------------------------------- */

static void call_free(struct fetch *f, struct chunk_call *c)
{
	rate_forget(&f->peer->rate, &c->hold);
	for (size_t i = 0; i < PEER_CLASSES_MAX; i++)
		rate_forget(&f->peer->class_rates[i], &c->class_holds[i]);
	if (c->call)
		http_call_cancel(c->call);
	buffers_give(&f->peer->buffers, &c->data);
	free(c);
	f->call_count--;
}

static void calls_free(struct fetch *f, struct chunk_call **list)
{
	for (struct chunk_call *c = *list, *next; c; c = next) {
		next = c->next;
		call_free(f, c);
	}
	*list = NULL;
}

static void poll_stop(struct poll *q)
{
	if (q->call)
		http_call_cancel(q->call);
	*q = (struct poll){0};
}

/* Leaves the network; the store objects may still be in use by the job. */
static void quiet(struct fetch *f)
{
	calls_free(f, &f->calls);
	calls_free(f, &f->arrived);
	for (uint32_t i = 0; i < CHUNK_SOURCES_MAX; i++)
		poll_stop(&f->polls[i]);
	if (f->list_call)
		http_call_cancel(f->list_call);
	f->list_call = NULL;
	loop_timer_stop(f->pump_timer);
	loop_timer_stop(f->news_timer);
	f->news_armed = false;
}

static void close_partial(struct fetch *f)
{
	assert(!f->job_running);
	waiters_tell(f, 0, true);
	chunk_plan_free(f->plan);
	f->plan = NULL;
	blob_partial_close(f->partial);
	f->partial = NULL;
	chunk_list_fini(&f->list);
	f->list = (struct chunk_list){0};
}

static void fetch_unlink(struct fetch **list, struct fetch *f)
{
	for (struct fetch **at = list; *at; at = &(*at)->next) {
		if (*at == f) {
			*at = f->next;
			return;
		}
	}
}

static void fetch_fini(struct fetch *f)
{
	calls_free(f, &f->writing);
	close_partial(f);
	buf_fini(&f->list_bytes);
	loop_timer_free(f->pump_timer);
	loop_timer_free(f->news_timer);
	sem_destroy(&f->job_ended);
}

static void fetch_destroy(struct fetch *f)
{
	fetch_unlink(f->dropped ? &f->peer->dropped : &f->peer->fetches, f);
	fetch_fini(f);
	free(f);
}

void fetch_free(struct fetch *f)
{
	if (!f->job_running) {
		quiet(f);
		fetch_destroy(f);
		return;
	}
	__atomic_store_n(&f->job_stop, true, __ATOMIC_RELAXED);
	fetch_unlink(&f->peer->fetches, f);
	quiet(f);
	waiters_tell(f, 0, true);
	f->dropped = true;
	f->next = f->peer->dropped;
	f->peer->dropped = f;
}

void fetch_abandon(struct fetch *f)
{
	if (!f->job_running) {
		fetch_free(f);
		return;
	}
	__atomic_store_n(&f->job_stop, true, __ATOMIC_RELAXED);
	quiet(f);
	for (uint32_t left = f->job_parts_left; left; left--)
		while (sem_wait(&f->job_ended)) /* interrupted by a signal */
			continue;
	fetch_unlink(f->dropped ? &f->peer->dropped : &f->peer->fetches, f);
	f->job_running = false;
	fetch_fini(f);
	f->peer = NULL; /* job_done is still to come for each part, and frees it with the last */
}

static void fail(struct fetch *f, const struct error *why)
{
	f->error = *why;
	f->stage = FETCH_FAILED;
	f->retry_at_us = loop_now_us(f->peer->loop) + (why->code == E_CORRUPT ? CORRUPT_RETRY_US : RETRY_US);
	quiet(f);
	buf_fini(&f->list_bytes);
	calls_free(f, &f->writing);
	close_partial(f);
	log_warn("peer", "%s: %s; trying again", f->file.path, why->text);
	peer_fetched(f->peer);
}

static void done(struct fetch *f)
{
	f->stage = FETCH_DONE;
	quiet(f);
	close_partial(f);
	peer_fetched(f->peer);
}

/* ---- jobs: everything that touches the disk ------------------------------------------------------ */

static void job_work(void *arg)
{
	struct job_part *part = arg;
	fetch_work(part);
	sem_post(&part->fetch->job_ended);
}

static void chunks_start(struct fetch *f)
{
	struct peer *p = f->peer;
	int64_t now = loop_now_us(p->loop);
	f->stage = FETCH_CHUNKS;
	f->said_us = now;
	f->plan = chunk_plan_new(f->list.count, blob_partial_bitmap(f->partial), rng_next(&p->rng), now);
	if (chunk_plan_held(f->plan))
		log_info("peer", "%s: %u of %u chunks are here already", f->file.path, chunk_plan_held(f->plan),
		         f->list.count);
	fetch_replan(f);
	waiters_serve(f);
	pump(f);
}

static void reuse_start(struct fetch *f)
{
	f->stage = FETCH_REUSE;
	job_start(f, JOB_REUSE);
}

static void corrupt(struct fetch *f, const struct chunk_call *c)
{
	if (c->orphan)
		return; /* who sent it is gone, and so is its request in the plan */
	struct source *s = &f->peer->sources[c->at.source];
	s->wrong++;
	log_warn("peer",
	         "%s: chunk %u from node %s is not what was asked for (%u wrong ones so far); it is left alone for a "
	         "while: check its disk, and whether it is to be trusted",
	         f->file.path, c->at.chunk, s->at.id, s->wrong);
	chunk_plan_failed(f->plan, c->at.chunk, c->at.source, CHUNK_CORRUPT, loop_now_us(f->peer->loop));
}

static void written(struct fetch *f)
{
	struct chunk_call *list = f->writing;
	int64_t now = loop_now_us(f->peer->loop);
	f->writing = NULL;
	for (struct chunk_call *c = list, *next; c; c = next) {
		next = c->next;
		if (c->result == 0) {
			chunk_plan_arrived(f->plan, c->at.chunk, c->at.source, c->first_us, c->took_us, now);
		} else {
			corrupt(f, c);
		}
		call_free(f, c);
	}
	waiters_serve(f);
	waiters_news(f);
	pump(f);
}

/* The same file may be wanted again, and wait for this. */
static void dropped_done(struct fetch *f)
{
	struct peer *p = f->peer;
	struct digest d = f->file.digest;
	fetch_destroy(f);
	struct fetch *next = peer_fetch(p, &d);
	if (next && next->stage == FETCH_CHECK && !next->job_running)
		check_start(next);
}

static void job_done(void *arg)
{
	const struct job_part *part = arg;
	struct fetch *f = part->fetch;
	bool last = --f->job_parts_left == 0;
	if (!f->peer) {
		if (last)
			free(f);
		return;
	}
	sem_wait(&f->job_ended); /* posted already: for the next job's count */
	if (part->error.code && !f->job_error.code)
		f->job_error = part->error;
	if (!last)
		return;
	f->job_running = false;
	if (f->dropped) {
		dropped_done(f);
		return;
	}
	if (f->job_error.code) {
		fail(f, &f->job_error);
		return;
	}
	switch (f->job) {
	case JOB_CHECK:
	case JOB_LIST:
		if (f->job_on_disk || (f->job == JOB_LIST && !f->chunked))
			done(f);
		else if (f->partial)
			reuse_start(f);
		else
			f->stage = FETCH_LIST;
		break;
	case JOB_REUSE:
		chunks_start(f);
		break;
	case JOB_WRITE:
		written(f);
		return;
	case JOB_FINISH:
		done(f);
		return;
	}
	buf_fini(&f->list_bytes);
	pump(f);
}

static uint32_t writers_for(const struct chunk_call *list)
{
	uint32_t count = 0;
	for (; list && count < WRITERS; list = list->next)
		count++;
	return count;
}

static void job_start(struct fetch *f, enum job_kind kind)
{
	assert(!f->job_running);
	f->job = kind;
	f->job_running = true;
	f->job_error = (struct error){0};
	f->job_part_count = kind == JOB_WRITE ? writers_for(f->writing) : 1;
	f->job_parts_left = f->job_part_count;
	for (uint32_t i = 0; i < f->job_part_count; i++) {
		f->job_parts[i] = (struct job_part){.fetch = f, .number = i};
		loop_job(f->peer->loop, job_work, job_done, &f->job_parts[i]);
	}
}

static void check_start(struct fetch *f)
{
	f->stage = FETCH_CHECK;
	f->job_on_disk = false;
	for (const struct fetch *d = f->peer->dropped; d; d = d->next)
		if (fetch_is(d, &f->file.digest))
			return; /* dropped_done goes on */
	job_start(f, JOB_CHECK);
}

/* ---- the chunk list, or a small file, whole ------------------------------------------------------ */

static void on_list(void *arg, int status, struct str body, const struct error *err)
{
	struct fetch *f = arg;
	const struct digest *want = f->chunked ? &f->file.chunks : &f->file.digest;
	f->list_call = NULL;
	if (err || status != 200) {
		loop_timer_start(f->pump_timer, LIST_AGAIN_US, 0); /* the next source then */
		return;
	}
	struct digest got = digest_of(body.base, body.len);
	if (!digest_equal(&got, want)) {
		log_warn("peer", "%s: %s sent something else", f->file.path, f->peer->sources[f->list_source].at.id);
		loop_timer_start(f->pump_timer, LIST_AGAIN_US, 0);
		return;
	}
	buf_append_str(&f->list_bytes, body);
	job_start(f, JOB_LIST);
}

static struct http_call_options call_options(const struct source *s, const char *url)
{
	return (struct http_call_options){
	    .url = str_from(url),
	    .peer_identity = str_from(str_starts(str_from(s->at.url), STR("https:")) ? s->identity : ""),
	    .head_timeout_us = HEAD_US,
	    .stall_timeout_us = STALL_US,
	};
}

/* Round robin over the sources: origins are the first of them, but for large files the last. */
static uint32_t list_first(const struct fetch *f)
{
	uint32_t i = 0;
	while (f->file.size >= LIST_FROM_PEERS && i + 1 < CHUNK_SOURCES_MAX && f->peer->sources[i].used &&
	       f->peer->sources[i].at.origin)
		i++;
	return (i + CHUNK_SOURCES_MAX - 1) % CHUNK_SOURCES_MAX;
}

static void list_ask(struct fetch *f)
{
	struct peer *p = f->peer;
	if (f->list_call || f->job_running)
		return;
	if (!f->chunked && f->file.size > SMALL_MAX) {
		struct error err = {0};
		error_set(&err, E_LIMIT, "a file of %llu bytes came without a chunk list; push it again",
		          (unsigned long long)f->file.size);
		fail(f, &err);
		return;
	}
	for (uint32_t k = 1; k <= CHUNK_SOURCES_MAX; k++) {
		uint32_t i = (f->list_source + k) % CHUNK_SOURCES_MAX;
		char url[NODE_URL_SIZE + 128], name[DIGEST_TEXT_SIZE];
		if (!p->sources[i].used)
			continue;
		f->list_source = i;
		digest_format(f->chunked ? &f->file.chunks : &f->file.digest, name);
		snprintf(url, sizeof url, "%s/mdn/v1/blobs/%s", p->sources[i].at.url, name);
		struct http_call_options o = call_options(&p->sources[i], url);
		f->list_call = http_fetch(p->o.client, &o, SMALL_MAX, on_list, f);
		return;
	}
}

/* ---- what sources hold --------------------------------------------------------------------------- */

static int offer_load(struct poll *q, struct str body, struct error *err)
{
	struct fetch *f = q->fetch;
	yyjson_doc *doc;
	bool complete = false;
	struct str text = {0};
	int64_t count = 0;
	int rc = json_parse(body, &doc, err);
	if (rc)
		return rc;
	yyjson_val *o = yyjson_doc_get_root(doc);
	if ((rc = json_bool(o, "complete", &complete, err)) == 0 &&
	    (rc = json_i64(o, "count", 0, LIMIT_CHUNKS, &count, err)) == 0)
		rc = json_str(o, "bitmap", &text, err);
	if (rc == 0 && complete) {
		q->complete = true;
		chunk_plan_offer(f->plan, q->source, NULL);
	} else if (rc == 0) {
		size_t size = (f->list.count + 7) / 8, got = 0;
		uint8_t *bitmap = mem_new(size + 3);
		rc = count == f->list.count ? base64url_decode(text, bitmap, size, &got) : E_INVAL;
		if (rc == 0 && got == size) {
			chunk_plan_offer(f->plan, q->source, bitmap);
		} else {
			rc = error_set(err, E_PEER, "its chunks are cut otherwise");
		}
		free(bitmap);
	}
	yyjson_doc_free(doc);
	return rc;
}

static void on_offer(void *arg, int status, struct str body, const struct error *err)
{
	struct poll *q = arg;
	struct fetch *f = q->fetch;
	q->call = NULL;
	if (err) /* it does not answer: no chunk is expected from it either */
		chunk_plan_failed(f->plan, UINT32_MAX, q->source, CHUNK_BROKEN, loop_now_us(f->peer->loop));
	else if (status == 200)
		offer_load(q, body, NULL);
	pump(f);
}

static void poll_ask(struct fetch *f, struct poll *q, int64_t now_us)
{
	const struct source *s = &f->peer->sources[q->source];
	char url[NODE_URL_SIZE + 160], name[DIGEST_TEXT_SIZE];
	digest_format(&f->file.digest, name);
	snprintf(url, sizeof url, "%s/mdn/v1/blobs/%s/have", s->at.url, name);
	struct http_call_options o = call_options(s, url);
	q->asked_us = now_us;
	q->call = http_fetch(f->peer->o.client, &o, OFFER_MAX, on_offer, q);
}

static void add_source(struct fetch *f, uint32_t source)
{
	const struct source *s = &f->peer->sources[source];
	f->polls[source] = (struct poll){.fetch = f, .source = source, .used = true, .complete = s->at.origin};
	chunk_plan_add_source(f->plan, source, s->at.origin, strcmp(s->at.site, f->peer->site) != 0);
}

/* What flows from somebody may come to its end, whatever the plan says now. */
static bool source_busy(const struct fetch *f, uint32_t source)
{
	for (const struct chunk_call *c = f->calls; c; c = c->next)
		if (c->at.source == source && c->data.len)
			return true;
	return false;
}

void fetch_replan(struct fetch *f)
{
	struct peer *p = f->peer;
	uint32_t parents[SPREAD_STRIPES][SPREAD_PARENTS], counts[SPREAD_STRIPES], ranks[SPREAD_STRIPES];
	bool wanted[CHUNK_SOURCES_MAX] = {false};
	if (!f->plan)
		return;
	/* The only repository, repairing what it holds: no tree begins anywhere else, so whoever offers a chunk is
	 * asked. */
	bool any_origin = false;
	for (uint32_t i = 0; i < CHUNK_SOURCES_MAX; i++)
		any_origin = any_origin || (p->sources[i].used && p->sources[i].at.origin);
	for (uint32_t s = 0; s < SPREAD_STRIPES; s++) {
		counts[s] = peer_parents(p, f, s, parents[s], &ranks[s]);
		counts[s] = any_origin ? counts[s] : 0;
		for (uint32_t i = 0; i < counts[s]; i++)
			wanted[parents[s][i]] = true;
	}
	for (uint32_t i = 0; i < CHUNK_SOURCES_MAX; i++) {
		wanted[i] =
		    p->sources[i].used && (wanted[i] || p->sources[i].at.origin || !any_origin || source_busy(f, i));
		if (f->polls[i].used && !wanted[i])
			fetch_drop_source(f, i);
		else if (!f->polls[i].used && wanted[i])
			add_source(f, i);
	}
	for (uint32_t s = 0; s < SPREAD_STRIPES; s++)
		chunk_plan_set_parents(f->plan, s, parents[s], counts[s], ranks[s]);
	loop_timer_start(f->pump_timer, 0, 0);
}

void fetch_drop_source(struct fetch *f, uint32_t source)
{
	if (!f->polls[source].used)
		return;
	poll_stop(&f->polls[source]);
	for (struct chunk_call **at = &f->calls; *at;) {
		struct chunk_call *c = *at;
		if (c->at.source != source) {
			at = &c->next;
			continue;
		}
		*at = c->next;
		call_free(f, c);
	}
	for (struct chunk_call *c = f->arrived; c; c = c->next)
		c->orphan = c->orphan || c->at.source == source;
	for (struct chunk_call *c = f->writing; c; c = c->next)
		c->orphan = c->orphan || c->at.source == source;
	chunk_plan_drop_source(f->plan, source);
	loop_timer_start(f->pump_timer, 0, 0);
}

/* ---- chunks -------------------------------------------------------------------------------------- */

static void call_unlink(struct chunk_call *c)
{
	for (struct chunk_call **at = &c->fetch->calls; *at; at = &(*at)->next) {
		if (*at == c) {
			*at = c->next;
			c->next = NULL;
			return;
		}
	}
}

static bool on_chunk_head(void *arg, struct http_call *call, int status)
{
	struct chunk_call *c = arg;
	c->first_us = loop_now_us(c->fetch->peer->loop) - c->started_us;
	c->refused = status != 206;
	c->missing = status == 404;
	if (!c->refused && c->at.wait)
		chunk_plan_began(c->fetch->plan, c->at.chunk, c->at.source, c->started_us + c->first_us);
	return !c->refused;
}

/* Without a detour through another buffer, but not so much at once that others wait. */
static char *on_chunk_room(void *arg, size_t *ret_size)
{
	struct chunk_call *c = arg;
	size_t left = c->data.max - c->data.len;
	*ret_size = left < ROOM_MOST ? left : ROOM_MOST;
	return c->data.base + c->data.len;
}

static bool on_chunk_data(void *arg, struct str data)
{
	struct chunk_call *c = arg;
	struct peer *p = c->fetch->peer;
	if (data.base == c->data.base + c->data.len) /* in the room that we gave */
		c->data.len += data.len;
	else
		buf_append_str(&c->data, data); /* max latches what is too long; the length is checked at the end */
	c->fetch->counted_bytes += data.len;
	c->fetch->polls[c->at.source].counted_bytes += data.len;
	bool goes_on = rate_take(&p->rate, &c->hold, data.len);
	for (size_t i = 0; i < PEER_CLASSES_MAX; i++)
		if (c->classes & 1u << i)
			goes_on = rate_take(&p->class_rates[i], &c->class_holds[i], data.len) && goes_on;
	return goes_on;
}

/* Too much of it, or an end before its length, is nothing that an honest node sends. */
static void chunk_failed(struct fetch *f, struct chunk_call *c, const struct error *err)
{
	int64_t now = loop_now_us(f->peer->loop);
	bool waited = c->at.wait && now - c->started_us > LONG_US;
	if (!c->missing)
		log_debug("peer", "%s: chunk %u from %s: %s", f->file.path, c->at.chunk,
		          f->peer->sources[c->at.source].at.id, err ? err->text : "not the bytes asked for");
	if (!c->refused && (c->data.failed || (!err && c->data.len != chunk_length(&f->list, c->at.chunk))))
		corrupt(f, c);
	else
		chunk_plan_failed(f->plan, c->at.chunk, c->at.source,
		                  !c->missing ? CHUNK_BROKEN
		                  : waited    ? CHUNK_GIVEN_UP
		                              : CHUNK_NOT_YET,
		                  now);
}

static void on_chunk_done(void *arg, struct http_call *call, const struct error *err)
{
	struct chunk_call *c = arg;
	struct fetch *f = c->fetch;
	c->call = NULL;
	call_unlink(c);
	if (err || c->refused || c->data.failed || c->data.len != chunk_length(&f->list, c->at.chunk)) {
		chunk_failed(f, c, err);
		call_free(f, c);
	} else {
		c->took_us = loop_now_us(f->peer->loop) - c->started_us;
		if (c->at.wait) { /* most of that was the source's own waiting */
			c->took_us -= c->first_us;
			c->first_us = 0;
		}
		c->next = f->arrived;
		f->arrived = c;
	}
	pump(f);
}

static void chunk_ask(struct fetch *f, struct chunk_request at)
{
	const struct source *s = &f->peer->sources[at.source];
	struct chunk_call *c = NEW(struct chunk_call);
	uint64_t from = chunk_offset(&f->list, at.chunk), length = chunk_length(&f->list, at.chunk);
	char url[NODE_URL_SIZE + 128], name[DIGEST_TEXT_SIZE], range[64], wait[32];
	c->fetch = f;
	c->at = at;
	buffers_take(&f->peer->buffers, length, &c->data);
	c->started_us = loop_now_us(f->peer->loop);
	c->next = f->calls;
	f->calls = c;
	f->call_count++;
	digest_format(&f->file.digest, name);
	snprintf(url, sizeof url, "%s/mdn/v1/blobs/%s", s->at.url, name);
	snprintf(wait, sizeof wait, "wait=%d", WAIT_MS / 1000); /* RFC 7240 */
	snprintf(range, sizeof range, "bytes=%llu-%llu", (unsigned long long)from,
	         (unsigned long long)(from + length - 1));
	struct http_header headers[2] = {{STR("range"), str_from(range)}, {STR("prefer"), str_from(wait)}};
	struct http_call_options o = call_options(s, url);
	o.headers = headers;
	o.header_count = at.wait ? 2 : 1;
	o.head_timeout_us += at.wait ? WAIT_MS * US_PER_MS : 0;
	o.on_head = on_chunk_head;
	o.on_data = on_chunk_data;
	o.on_room = on_chunk_room;
	o.on_done = on_chunk_done;
	o.arg = c;
	c->call = c->hold.call = http_call_start(f->peer->o.client, &o);
	for (size_t i = 0; i < PEER_CLASSES_MAX; i++)
		c->class_holds[i].call = c->call;
	c->classes = peer_classes_of(f->peer, s->at.site);
}

/* Twins of a chunk that came from elsewhere are of no use any more. */
static void calls_drop_held(struct fetch *f)
{
	for (struct chunk_call **at = &f->calls; *at;) {
		struct chunk_call *c = *at;
		if (!chunk_plan_has(f->plan, c->at.chunk)) {
			at = &c->next;
			continue;
		}
		*at = c->next;
		chunk_plan_failed(f->plan, c->at.chunk, c->at.source, CHUNK_GIVEN_UP, loop_now_us(f->peer->loop));
		call_free(f, c);
	}
}

/* How long until the next one is due. */
static int64_t polls_ask(struct fetch *f, int64_t now_us)
{
	int64_t wait_us = INT64_MAX, every = chunk_plan_in_need(f->plan) ? POLL_NEEDY_US : POLL_US;
	for (uint32_t i = 0; i < CHUNK_SOURCES_MAX; i++) {
		struct poll *q = &f->polls[i];
		if (!q->used || q->complete || q->call)
			continue;
		if (now_us >= q->asked_us + every)
			poll_ask(f, q, now_us);
		else if (q->asked_us + every - now_us < wait_us)
			wait_us = q->asked_us + every - now_us;
	}
	return wait_us;
}

/* One more chunk of the usual length. */
static bool may_ask(const struct fetch *f)
{
	uint64_t usual = f->list.size / f->list.count;
	return f->call_count == 0 ||
	       (f->call_count < (uint32_t)f->peer->o.parallel && buffers_room(&f->peer->buffers, usual));
}

static void pump_chunks(struct fetch *f, int64_t now_us)
{
	struct chunk_request at;
	calls_drop_held(f);
	if (chunk_plan_held(f->plan) == f->list.count) {
		if (!f->job_running && f->stage == FETCH_CHUNKS) {
			f->stage = FETCH_FINISH;
			job_start(f, JOB_FINISH);
		}
		return;
	}
	if (f->arrived && !f->job_running) {
		f->writing = f->arrived;
		f->arrived = NULL;
		job_start(f, JOB_WRITE);
	}
	while (may_ask(f) && chunk_plan_next(f->plan, now_us, &at))
		chunk_ask(f, at);
	int64_t wait_us = chunk_plan_wait_us(f->plan, now_us), poll_us = polls_ask(f, now_us);
	loop_timer_start(f->pump_timer, wait_us < poll_us ? wait_us : poll_us, 0);
}

static void pump(void *arg)
{
	struct fetch *f = arg;
	if (f->stage == FETCH_LIST)
		list_ask(f);
	else if (f->stage == FETCH_CHUNKS)
		pump_chunks(f, loop_now_us(f->peer->loop));
}

/* ---- life ---------------------------------------------------------------------------------------- */

struct fetch *fetch_new(struct peer *p, const struct version_file *file)
{
	struct fetch *f = NEW(struct fetch);
	f->peer = p;
	f->file = *file;
	f->chunked = !all_zero(&file->chunks);
	f->list_source = list_first(f);
	f->pump_timer = loop_timer_new(p->loop, pump, f);
	f->news_timer = loop_timer_new(p->loop, waiters_on_news, f);
	f->next = p->fetches;
	p->fetches = f;
	sem_init(&f->job_ended, 0, 0);
	check_start(f);
	return f;
}

void fetch_tick(struct fetch *f, int64_t now_us)
{
	double now_rate = (double)f->counted_bytes * (double)US_PER_S / (double)TICK_US;
	f->rate = f->rate > 0 ? f->rate * 0.6 + now_rate * 0.4 : now_rate;
	f->counted_bytes = 0;
	for (uint32_t i = 0; i < CHUNK_SOURCES_MAX; i++) {
		struct poll *q = &f->polls[i];
		q->rate = q->rate * 0.6 + (double)q->counted_bytes * 0.4 * (double)US_PER_S / (double)TICK_US;
		q->counted_bytes = 0;
	}
	waiters_tell(f, now_us, false);
	if (f->stage == FETCH_CHUNKS && now_us - f->said_us >= SAY_EVERY_US) {
		f->said_us = now_us;
		log_info("peer", "%s: %d %%, %.1f MB/s", f->file.path, (int)(fetch_have_bytes(f) * 100 / f->file.size),
		         f->rate / 1e6);
	}
	if (f->stage == FETCH_FAILED && now_us >= f->retry_at_us)
		check_start(f);
	else if (f->stage == FETCH_LIST || f->stage == FETCH_CHUNKS)
		pump(f);
}
