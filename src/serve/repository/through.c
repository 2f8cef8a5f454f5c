/* SPDX-License-Identifier: Apache-2.0 */
/* A through has workers, each with one call for a run of pieces. Bytes gather in a worker's buffer and are written by
 * a job while the call is paused; then readers are looked after. One worker asks first: only when it got its range do
 * the others begin. A server that sends the whole file for a range is read in order by one worker.
 *
 * Everything that a job uses lives until the job is done: a through that ends waits for its jobs (`jobs`). It stays in
 * the list that long, so that no other one begins on its files while an old job may still write there.
 *
 * Who reads the whole file gets its last byte only when the digest was found right: clients that check nothing but the
 * length (Hugging Face's) must not take wrong bytes for the file. Who asks for a part puts it together, and checks.
 */
#include "serve/repository/through.h"

#include "base/clock.h"
#include "base/log.h"
#include "net/http_range.h"
#include "serve/repository/access.h"
#include "serve/repository/hf_private.h"
#include "store/spool.h"

#include <stdio.h>
#include <stdlib.h>

#define WORKERS 4
#define RUN_PIECES 16
#define STEP (1u << 20) /* written at once; a multiple of a sealed file's segments */
#define READ_STEP (256u << 10)
#define FAILURES_MAX 8
#define RETRY_US (500 * US_PER_MS)
#define THROUGHS_MAX 64
#define NAMES_MAX 64

struct worker {
	struct through *t;
	struct hub_call *call;  /* NULL: none */
	uint32_t piece, end;    /* the run: [piece, end) is claimed and not held yet */
	uint64_t at;            /* written up to here */
	struct buf in, out;     /* coming; being written */
	bool writing, complete; /* complete: all of the answer is in `in` */
	struct error err;
};

struct reader {
	struct reader *next;
	struct through *t;
	struct http_exchange *x; /* NULL: gone, or answered; the job that still runs frees it */
	uint64_t at, end;
	bool whole, reading, full;
	char *piece;
	size_t len;
};

struct through_watch {
	struct through_watch *next;
	struct through *t;
	through_fn *fn;
	void *arg;
};

struct through {
	struct through *next;
	struct mirror *m; /* NULL: the repository has stopped */
	struct digest digest;
	char (*names)[REPO_NAME_SIZE];   /* repositories that wait for it; more than NAMES_MAX learn of it when asked */
	size_t name_count, finish_count; /* finish_count: those whose blob it is when it is one */
	struct origin from;
	struct spool *spool; /* NULL while it is opened */
	uint8_t *claimed;    /* one a piece */
	struct worker workers[WORKERS];
	struct reader *readers;
	struct through_watch *watches;
	struct loop_timer *retry;
	int failures;
	size_t jobs, writes;                           /* writes: of the jobs */
	bool probed, no_ranges, over, finishing, anew; /* anew: what an earlier one left is not for this one */
	struct error err;                              /* over: why, code 0 when it is a blob */
};

/* ---- life ------------------------------------------------------------------------------------------ */

static void unlist(struct through *t)
{
	struct through **at = &t->m->throughs;
	while (*at != t)
		at = &(*at)->next;
	*at = t->next;
	t->m = NULL;
}

static void through_free(struct through *t)
{
	if (t->m)
		unlist(t);
	for (size_t i = 0; i < WORKERS; i++) {
		buf_fini(&t->workers[i].in);
		buf_fini(&t->workers[i].out);
	}
	loop_timer_free(t->retry);
	spool_close(t->spool);
	free(t->names);
	free(t->claimed);
	free(t);
}

/* When nobody uses it any more. */
static void let_go(struct through *t)
{
	if (t->over && !t->jobs && !t->readers)
		through_free(t);
}

struct io { /* a job */
	struct through *t;
	struct repository *r;
	struct worker *w;
	struct reader *reader;
	int rc;
	struct error err;
	void (*done)(struct io *io);
};

static void io_done(void *arg)
{
	struct io *io = arg;
	struct repository *r = io->r;
	struct through *t = io->t;
	t->jobs--;
	io->done(io);
	free(io);
	let_go(t);
	repository_release(r);
}

static void io_run(struct through *t, struct worker *w, struct reader *reader, loop_fn *work,
                   void (*done)(struct io *io))
{
	struct io *io = NEW(struct io);
	*io = (struct io){.t = t, .r = t->m->r, .w = w, .reader = reader, .done = done};
	t->jobs++;
	t->m->r->refs++;
	loop_job(t->m->r->loop, work, io_done, io);
}

static void stop_workers(struct through *t)
{
	for (size_t i = 0; i < WORKERS; i++) {
		struct worker *w = &t->workers[i];
		if (w->call)
			hub_cancel(w->call);
		w->call = NULL;
	}
}

static void pump_all(struct through *t);

/* Readers that have all they need already go on; the others cannot. */
static void end(struct through *t, const struct error *err)
{
	if (t->over)
		return;
	t->over = true;
	if (err)
		t->err = *err;
	stop_workers(t);
	loop_timer_stop(t->retry);
	t->m->through_count--;
	for (size_t i = 0; i < t->name_count && !err; i++)
		t->m->on_blob(t->m, str_from(t->names[i]), &t->digest);
	pump_all(t);
	while (t->watches) {
		struct through_watch *w = t->watches;
		t->watches = w->next;
		w->fn(w->arg, err);
		free(w);
	}
}

/* ---- readers ---------------------------------------------------------------------------------------- */

static void reader_free(struct reader *reader)
{
	struct reader **at = &reader->t->readers;
	while (*at != reader)
		at = &(*at)->next;
	*at = reader->next;
	free(reader->piece);
	free(reader);
}

static bool is_blob(const struct through *t)
{
	return t->over && !t->err.code;
}

static uint64_t readable(const struct through *t, uint64_t at)
{
	uint32_t piece = (uint32_t)(at / SPOOL_PIECE);
	uint64_t end = piece * SPOOL_PIECE;
	if (!t->spool)
		return 0;
	end += spool_length(t->spool, piece);
	if (t->err.code == E_CORRUPT)
		return 0;
	if (is_blob(t) || spool_has(t->spool, piece))
		return end - at;
	for (size_t i = 0; i < WORKERS; i++) {
		const struct worker *w = &t->workers[i];
		if (w->piece < w->end && piece == w->piece && w->at > at)
			return w->at < end ? w->at - at : end - at;
	}
	return 0;
}

static void pump(struct reader *reader);

static void read_work(void *arg)
{
	struct io *io = arg;
	io->rc = spool_read(io->t->spool, io->reader->at, io->reader->piece, io->reader->len, &io->err);
}

static void read_done(struct io *io)
{
	struct reader *reader = io->reader;
	reader->reading = false;
	if (!reader->x) {
		reader_free(reader);
		return;
	}
	if (io->rc) {
		struct http_exchange *x = reader->x;
		http_watch(x, NULL, NULL, NULL);
		reader_free(reader);
		http_abort(x);
		return;
	}
	reader->at += reader->len;
	reader->full = !http_write(reader->x, (struct str){reader->piece, reader->len});
	pump(reader);
}

/* May free the reader. */
static void pump(struct reader *reader)
{
	struct through *t = reader->t;
	struct http_exchange *x = reader->x;
	if (!x || reader->reading || reader->full)
		return;
	uint64_t n = reader->at < reader->end ? readable(t, reader->at) : 0;
	if (reader->whole && n && reader->at + n == reader->end && !is_blob(t))
		n--;
	if (reader->at == reader->end || (!n && t->over)) {
		bool whole = reader->at == reader->end;
		http_watch(x, NULL, NULL, NULL);
		reader_free(reader);
		if (whole)
			http_end(x);
		else
			http_abort(x); /* the only honest end of what was promised */
		return;
	}
	if (!n)
		return;
	uint64_t left = reader->end - reader->at;
	n = n < left ? n : left;
	reader->len = n < READ_STEP ? (size_t)n : READ_STEP;
	reader->reading = true;
	io_run(t, NULL, reader, read_work, read_done);
}

static void pump_all(struct through *t)
{
	for (struct reader *reader = t->readers, *next; reader; reader = next) {
		next = reader->next;
		pump(reader);
	}
}

static void on_reader_gone(void *arg)
{
	struct reader *reader = arg;
	struct through *t = reader->t;
	reader->x = NULL;
	if (!reader->reading) {
		reader_free(reader);
		let_go(t);
	}
}

static void on_reader_writable(void *arg)
{
	struct reader *reader = arg;
	struct through *t = reader->t;
	reader->full = false;
	t->jobs++; /* pump may free the reader, not the through */
	pump(reader);
	t->jobs--;
	let_go(t);
}

static void answer(struct through *t, struct http_exchange *x, bool part, uint64_t from, uint64_t length)
{
	struct reader *reader = NEW(struct reader);
	reader->t = t;
	reader->x = x;
	reader->at = from;
	reader->end = from + length;
	reader->whole = length == t->from.size;
	reader->piece = mem_new(READ_STEP);
	reader->next = t->readers;
	t->readers = reader;
	http_add_header(x, "Accept-Ranges", STR("bytes"));
	if (part)
		http_add_content_range(x, from, length, t->from.size);
	http_respond_begin(x, part ? 206 : 200, "application/octet-stream", (int64_t)length);
	http_watch(x, on_reader_writable, on_reader_gone, reader);
	pump(reader);
}

/* ---- workers ------------------------------------------------------------------------------------------ */

static void work_on(struct through *t);

static void finish_work(void *arg)
{
	struct io *io = arg;
	struct through *t = io->t;
	struct error err = {0};
	io->rc = spool_finish(t->spool, &io->err);
	if (io->rc == E_CORRUPT)
		spool_remove(t->spool);
	for (size_t i = 0; i < t->finish_count && !io->rc; i++)
		if (catalog_link_blob(io->r->catalog, str_from(t->names[i]), &t->digest, &err))
			log_warn("repository", "a blob came for %s, which cannot have it: %s", t->names[i], err.text);
}

static void finish_done(struct io *io)
{
	struct through *t = io->t;
	if (io->rc)
		log_warn("repository", "%s: %s", t->from.url, io->err.text);
	end(t, io->rc ? &io->err : NULL);
}

static void worker_stop(struct worker *w)
{
	for (uint32_t i = w->piece; i < w->end; i++)
		w->t->claimed[i] = 0;
	w->piece = w->end = 0;
	buf_clear(&w->in);
	buf_clear(&w->out);
}

static void on_retry(void *arg)
{
	struct through *t = arg;
	t->jobs++; /* it may end, but not go */
	work_on(t);
	t->jobs--;
	let_go(t);
}

/* The worker's run ended early. */
static void worker_failed(struct worker *w, const struct error *err)
{
	struct through *t = w->t;
	struct error why = *err;
	worker_stop(w);
	bool lasting = why.code == E_NOTFOUND || why.code == E_FORBIDDEN || why.code == E_INVAL ||
	               why.code == E_NOSPACE || why.code == E_LIMIT;
	if (lasting || ++t->failures >= FAILURES_MAX) {
		end(t, &why);
		return;
	}
	if (why.code != E_CANCELED)
		log_info("repository", "%s: %s; going on soon", t->from.url, why.text);
	int shift = t->failures < 5 ? t->failures : 5;
	loop_timer_start(t->retry, RETRY_US << shift >> 1, 0);
}

static void write_work(void *arg)
{
	struct io *io = arg;
	struct worker *w = io->w;
	struct spool *spool = io->t->spool;
	struct str data = buf_str(&w->out);
	uint64_t at = w->at;
	while (data.len && !io->rc) { /* a piece after the other */
		uint32_t piece = (uint32_t)(at / SPOOL_PIECE);
		uint64_t end = piece * SPOOL_PIECE + spool_length(spool, piece);
		size_t n = data.len < end - at ? data.len : (size_t)(end - at);
		io->rc = spool_write(spool, at, (struct str){data.base, n}, &io->err);
		at += n;
		data = (struct str){data.base + n, data.len - n};
		if (!io->rc && at == end)
			io->rc = spool_keep(spool, piece, &io->err);
	}
}

static void worker_go_on(struct worker *w);

static void write_done(struct io *io)
{
	struct worker *w = io->w;
	struct through *t = io->t;
	w->writing = false;
	t->writes--;
	if (t->over)
		return;
	if (io->rc) {
		if (w->call)
			hub_cancel(w->call);
		w->call = NULL;
		worker_failed(w, &io->err);
		return;
	}
	w->at += w->out.len;
	buf_clear(&w->out);
	t->failures = 0;
	while (w->piece < w->end && spool_has(t->spool, w->piece))
		w->piece++;
	pump_all(t);
	worker_go_on(w);
}

/* Writes what has gathered, or waits for more, or takes the next run. */
static void worker_go_on(struct worker *w)
{
	struct through *t = w->t;
	size_t n = w->complete ? w->in.len : w->in.len / STEP * STEP;
	if (w->writing)
		return;
	if (n) {
		w->writing = true;
		t->writes++;
		buf_append(&w->out, w->in.base, n);
		buf_consume(&w->in, n);
		io_run(t, w, NULL, write_work, write_done);
	} else if (w->call) {
		hub_resume(w->call);
	} else if (w->err.code) {
		struct error err = w->err;
		worker_failed(w, &err);
	} else if (w->piece < w->end) {
		struct error err = {0};
		error_set(&err, E_PEER, "the answer ended early");
		worker_failed(w, &err);
	} else {
		worker_stop(w);
		work_on(t);
	}
}

static bool range_is(const struct worker *w)
{
	struct str text;
	unsigned long long from, to, size;
	char line[100];
	return hub_header(w->call, "content-range", &text) && str_copy(text, line, sizeof line) &&
	       sscanf(line, "bytes %llu-%llu/%llu", &from, &to, &size) == 3 && from == w->at && size == w->t->from.size;
}

static bool on_head(void *arg, struct hub_call *call, int status)
{
	struct worker *w = arg;
	struct through *t = w->t;
	w->call = call;
	if (status == 206 && !t->no_ranges && range_is(w)) {
		t->probed = true;
		return true;
	}
	if (status == 200 && (t->no_ranges || (w->at == 0 && w->end == spool_count(t->spool))))
		return true;
	if (status == 200 || status == 206) {
		t->no_ranges = true;
		error_set(&w->err, E_CANCELED, "%s gives no ranges", t->from.url);
	} else {
		hub_refused(str_from(t->from.url), status, &w->err);
	}
	return false;
}

static bool on_data(void *arg, struct str data)
{
	struct worker *w = arg;
	buf_append_str(&w->in, data);
	if (w->in.len < STEP)
		return true;
	if (!w->writing)
		worker_go_on(w);
	return false;
}

static void on_done(void *arg, struct hub_call *call, const struct error *err)
{
	struct worker *w = arg;
	struct through *t = w->t;
	w->call = NULL;
	w->complete = true;
	t->jobs++; /* it may end, but not go */
	if (err && !w->err.code)
		w->err = *err;
	if (w->err.code) /* what came before is good all the same, but for a part of a sealed segment */
		w->complete = false;
	worker_go_on(w);
	if (t->probed)
		work_on(t);
	t->jobs--;
	let_go(t);
}

static void worker_start(struct worker *w, uint32_t piece, uint32_t end)
{
	struct through *t = w->t;
	char range[64];
	uint64_t from = piece * SPOOL_PIECE, to = (end - 1) * SPOOL_PIECE + spool_length(t->spool, end - 1);
	struct http_header headers[] = {{STR("Accept-Encoding"), STR("identity")}, {STR("Range"), STR("")}};
	snprintf(range, sizeof range, "bytes=%llu-%llu", (unsigned long long)from, (unsigned long long)to - 1);
	headers[1].value = str_from(range);
	memset(t->claimed + piece, 1, end - piece);
	w->piece = piece;
	w->end = end;
	w->at = from;
	w->complete = false;
	w->err = (struct error){0};
	bool whole = t->no_ranges || (piece == 0 && end == spool_count(t->spool));
	struct hub_request r = {.url = str_from(t->from.url),
	                        .scope = str_from(t->from.scope),
	                        .headers = headers,
	                        .header_count = whole ? 1 : 2,
	                        .bytes_max = to - from,
	                        .on_head = on_head,
	                        .on_data = on_data,
	                        .on_done = on_done,
	                        .arg = w};
	w->call = hub_start(t->m->hub, &r);
}

static bool is_free(const struct through *t, uint32_t piece)
{
	return piece < spool_count(t->spool) && !t->claimed[piece] && !spool_has(t->spool, piece);
}

/* Where somebody waits, else the first. */
static bool next_run(const struct through *t, uint32_t *ret_piece, uint32_t *ret_end)
{
	uint32_t piece = UINT32_MAX, count = spool_count(t->spool);
	for (const struct reader *reader = t->readers; reader; reader = reader->next)
		if (is_free(t, (uint32_t)(reader->at / SPOOL_PIECE)))
			piece = (uint32_t)(reader->at / SPOOL_PIECE);
	for (uint32_t i = 0; i < count && piece == UINT32_MAX; i++)
		if (is_free(t, i))
			piece = i;
	if (piece == UINT32_MAX)
		return false;
	*ret_piece = piece;
	for (*ret_end = piece; *ret_end < count && *ret_end < piece + RUN_PIECES && is_free(t, *ret_end);)
		++*ret_end;
	return true;
}

static bool is_idle(const struct worker *w)
{
	return !w->call && !w->writing && w->piece == w->end;
}

/* Gives every idle worker something, or ends when all is there. */
static void work_on(struct through *t)
{
	bool busy = false;
	uint32_t piece, end;
	if (t->over || t->finishing || !t->spool)
		return;
	for (size_t i = 0; i < WORKERS; i++)
		busy = busy || !is_idle(&t->workers[i]);
	if (!busy && spool_held(t->spool) == t->from.size) {
		t->finishing = true;
		t->finish_count = t->name_count;
		io_run(t, NULL, NULL, finish_work, finish_done);
		return;
	}
	if (t->no_ranges) { /* from the beginning, in order; what is held is written once more */
		if (!busy)
			worker_start(&t->workers[0], 0, spool_count(t->spool));
		return;
	}
	for (size_t i = 0; i < (t->probed ? WORKERS : 1); i++)
		if (is_idle(&t->workers[i]) && next_run(t, &piece, &end))
			worker_start(&t->workers[i], piece, end);
}

/* ---- opening --------------------------------------------------------------------------------------------- */

static void open_work(void *arg)
{
	struct io *io = arg;
	struct through *t = io->t;
	if (t->anew)
		spool_forget(io->r->store, &t->digest);
	io->rc = spool_open(io->r->store, &t->digest, t->from.size, &t->spool, &io->err);
}

static void open_done(struct io *io)
{
	struct through *t = io->t;
	if (t->over)
		return;
	if (io->rc) {
		end(t, &io->err);
		return;
	}
	t->claimed = mem_new(spool_count(t->spool) + 1u);
	pump_all(t);
	work_on(t);
}

static void add_name(struct through *t, struct str repo)
{
	for (size_t i = 0; i < t->name_count; i++)
		if (str_equal(str_from(t->names[i]), repo))
			return;
	if (t->name_count == NAMES_MAX)
		return;
	str_copy(repo, t->names[t->name_count++], sizeof *t->names);
}

struct sharing {
	struct mirror *m;
	struct str repo;
	const struct origin *from;
};

static bool is_shared(void *arg, struct str other)
{
	struct sharing *s = arg;
	return access_shares(s->m->r, s->repo, other);
}

bool through_knows(struct mirror *m, struct str repo, const struct digest *d)
{
	struct origin from;
	return m && !origins_get(m->origins, repo, d, &from, NULL);
}

bool through_may_give(struct mirror *m, struct str repo, const struct digest *d)
{
	char found[REPO_NAME_SIZE];
	struct sharing s = {m, repo, NULL};
	return !m || catalog_has_blob(m->r->catalog, repo, d) || !through_knows(m, repo, d) ||
	       !catalog_first_repo_with(m->r->catalog, d, is_shared, &s, found, sizeof found, NULL);
}

/* What comes for `other`, from `url`, is not for this one: it would not be proof. */
static bool is_others(void *arg, struct str other, struct str url)
{
	struct sharing *s = arg;
	return !is_shared(s, other) && !str_equal(url, str_from(s->from->url));
}

int through_open(struct mirror *m, struct str repo, const struct digest *d, const struct origin *from,
                 struct through **ret_through, struct error *err)
{
	struct sharing s = {m, repo, from};
	for (struct through *t = m->throughs; t; t = t->next) {
		if (!digest_equal(&t->digest, d) || (t->over && !t->writes))
			continue;
		if (t->over)
			return error_set(err, E_BUSY, "the blob failed to come a moment ago; try again");
		if (is_others(&s, str_from(t->names[0]), str_from(t->from.url)))
			return error_set(err, E_BUSY, "the blob is coming for a private repository; try again later");
		add_name(t, repo);
		*ret_through = t;
		return 0;
	}
	if (m->through_count >= THROUGHS_MAX)
		return error_set(err, E_BUSY, "%d blobs are being fetched from elsewhere; try again later",
		                 THROUGHS_MAX);
	int rc = catalog_quota_room(m->r->catalog, repo, from->size, err);
	if (rc)
		return rc;
	struct through *t = NEW(struct through);
	t->m = m;
	t->digest = *d;
	t->from = *from;
	t->anew = origins_any(m->origins, d, is_others, &s);
	t->names = mem_new(NAMES_MAX * sizeof *t->names); /* a job reads the first of them while more come */
	add_name(t, repo);
	for (size_t i = 0; i < WORKERS; i++)
		t->workers[i].t = t;
	t->retry = loop_timer_new(m->r->loop, on_retry, t);
	t->next = m->throughs;
	m->throughs = t;
	m->through_count++;
	io_run(t, NULL, NULL, open_work, open_done);
	*ret_through = t;
	return 0;
}

struct through_watch *through_watch(struct through *t, through_fn *fn, void *arg)
{
	struct through_watch *w = NEW(struct through_watch);
	*w = (struct through_watch){t->watches, t, fn, arg};
	t->watches = w;
	return w;
}

void through_unwatch(struct through_watch *w)
{
	struct through_watch **at = &w->t->watches;
	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
	free(w);
}

uint64_t through_held(const struct through *t)
{
	uint64_t held = t->spool ? spool_held(t->spool) : 0;
	for (size_t i = 0; i < WORKERS; i++) {
		const struct worker *w = &t->workers[i];
		if (w->piece < w->end && w->at > w->piece * SPOOL_PIECE)
			held += w->at - w->piece * SPOOL_PIECE;
	}
	return held < t->from.size ? held : t->from.size;
}

static bool is_oci(const struct http_exchange *x)
{
	return str_starts(http_path(x), STR("/v2/"));
}

void through_fail(struct http_exchange *x, const struct error *err)
{
	if (is_oci(x))
		oci_fail(x, "UNKNOWN", err);
	else
		hf_error(x, error_http_status(err->code), NULL, err->text);
}

bool through_offer(struct mirror *m, struct http_exchange *x, struct str repo, const struct digest *d)
{
	struct origin from;
	struct through *t;
	struct error err = {0};
	uint64_t size, at = 0, length;
	if (!m || origins_get(m->origins, repo, d, &from, NULL))
		return false;
	if (!blob_stat(m->r->store, d, &size, NULL) && through_may_give(m, repo, d))
		return false;
	length = from.size;
	if (str_equal(http_method(x), STR("HEAD"))) {
		http_add_header(x, "Accept-Ranges", STR("bytes"));
		http_respond_begin(x, 200, "application/octet-stream", (int64_t)from.size);
		http_end(x);
		return true;
	}
	enum http_range range = http_range(x, from.size, &at, &length);
	if (range == HTTP_RANGE_BAD) {
		http_add_no_range(x, from.size);
		if (is_oci(x))
			oci_error(x, 416, "RANGE_INVALID", "the blob has no such bytes");
		else
			hf_error(x, 416, NULL, "the file has no such bytes");
	} else if (through_open(m, repo, d, &from, &t, &err)) {
		through_fail(x, &err);
	} else {
		answer(t, x, range == HTTP_RANGE_PART, at, length);
	}
	return true;
}

void through_fini(struct mirror *m)
{
	struct error err = {0};
	error_set(&err, E_CANCELED, "the repository stops");
	while (m->throughs) {
		struct through *t = m->throughs;
		t->jobs++;
		end(t, &err);
		unlist(t);
		for (struct reader *reader = t->readers, *next; reader; reader = next) { /* whom pump left */
			struct http_exchange *x = reader->x;
			next = reader->next;
			reader->x = NULL;
			if (x)
				http_watch(x, NULL, NULL, NULL);
			if (!reader->reading)
				reader_free(reader);
			if (x)
				http_abort(x);
		}
		t->jobs--;
		let_go(t);
	}
}
