/* SPDX-License-Identifier: Apache-2.0 */
/* How: a line is read in a job, goes through the door inside as a request of class bulk, and its answer is a line of
 * the output or error file. So much is under way as the engines here have slots for beyond what others ask, less one,
 * and always one: the class keeps it behind everybody else's. Where nodes are busy or away (429, 503) the batch pauses,
 * longer each time, and asks again until its time is over; other failures of nodes are tried TRIES times. What is wrong
 * with a request itself is its answer. When the time is over what is left is told as expired, line by line.
 */
#include "serve/gateway/batch_line.h"
#include "serve/gateway/batches.h"
#include "serve/gateway/fields.h"
#include "serve/gateway/offline.h"
#include "serve/gateway/sink.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define TRIES 5
#define LATE_TRIES 3 /* to write to a full disk what expired */
#define PAUSE_LEAST_US (1 * US_PER_S)
#define PAUSE_MOST_US (60 * US_PER_S)
#define UNWRITTEN_MAX (16u << 20) /* bytes of answers that wait for the disk */
#define SLOTS 8                   /* of engines that do not say */

struct task { /* one line under way */
	struct task *prev, *next;
	struct batch_run *run;
	uint32_t index;
	struct batch_place place; /* a copy: the job reads it */
	int fd;
	char endpoint[32];
	bool in_job, expired;
	struct http_call *call;
	char id[OFFLINE_ID_SIZE];
	struct buf custom_id, body;
	struct error err;
};

struct batch_run {
	struct batches *b;
	struct batch *batch; /* NULL: stopped; waits for its jobs */
	struct batch_scan *scan;
	int fd;
	uint32_t next, *again, again_count; /* lines not yet asked from next on; to be asked once more */
	struct task *tasks;
	uint32_t jobs;
	int64_t pause_us, until_us;
	int64_t since_us;
	uint32_t late_tries; /* to write, after its time was over */
	bool expired, told_full, yields;
	struct sink *output, *errors;
};

/* ---- life ------------------------------------------------------------------------------------------------- */

static void run_free(struct batch_run *run)
{
	if (run->fd >= 0)
		close(run->fd);
	batch_scan_free(run->scan);
	free(run->again);
	free(run);
}

static void task_free(struct task *t)
{
	struct batch_run *run = t->run;

	if (t->call)
		http_call_cancel(t->call);
	if (t->prev)
		t->prev->next = t->next;
	else
		run->tasks = t->next;
	if (t->next)
		t->next->prev = t->prev;
	if (run->batch)
		run->b->asking--;
	buf_fini(&t->custom_id);
	buf_fini(&t->body);
	free(t);
}

/* Those in jobs end with them. */
static void give_up_tasks(struct batch_run *run, bool again)
{
	for (struct task *t = run->tasks, *next; t; t = next) {
		next = t->next;
		if (t->in_job)
			continue;
		if (again)
			run->again[run->again_count++] = t->index;
		task_free(t);
	}
}

void run_stop(struct batches *b, struct batch *batch)
{
	struct batch_run *run = batch->run;

	if (!run)
		return;
	give_up_tasks(run, false);
	b->asking -= run->jobs;
	b->runs--;
	sink_free(run->output);
	sink_free(run->errors);
	run->output = run->errors = NULL;
	run->batch = NULL;
	batch->run = NULL;
	if (run->jobs == 0)
		run_free(run);
}

static void on_written(void *arg);

/* What a crash cut off stays behind the end until it is overwritten; so that it is never read, it goes now. */
static struct sink *open_sink(struct batch_run *run, const char *id, uint64_t size, struct error *err)
{
	char *path = files_path(run->b->files, id);
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0 || ftruncate(fd, (off_t)size) < 0) {
		error_errno(err, errno, "%s cannot be written", path);
		if (fd >= 0)
			close(fd);
		free(path);
		return NULL;
	}
	free(path);
	return sink_new(run->b->g->loop, fd, size, on_written, run);
}

int run_start(struct batches *b, struct batch *batch, struct batch_scan *scan, struct error *err)
{
	struct batch_run *run = NEW(struct batch_run);

	run->b = b;
	run->batch = batch;
	run->since_us = loop_now_us(b->g->loop);
	run->fd = open(scan->input, O_RDONLY | O_CLOEXEC);
	if (run->fd < 0)
		error_errno(err, errno, "its input cannot be read");
	run->output = run->fd < 0 ? NULL : open_sink(run, batch->output, scan->output_bytes, err);
	run->errors = run->output ? open_sink(run, batch->error, scan->error_bytes, err) : NULL;
	if (!run->errors) {
		sink_free(run->output);
		run_free(run);
		return err->code;
	}
	run->scan = scan;
	run->again = mem_new(scan->count * sizeof(*run->again) + 1);
	batch->run = run;
	b->runs++;
	return 0;
}

/* ---- answers ------------------------------------------------------------------------------------------------- */

static void line_done(struct task *t, bool answered)
{
	struct batch_run *run = t->run;

	run->scan->places[t->index].done = true;
	if (answered)
		run->batch->completed++;
	else
		run->batch->failed++;
}

static void line_failed(struct task *t, const char *code, const char *message)
{
	struct buf line = {0};

	batch_line_error(&line, str_from(t->id), buf_str(&t->custom_id), code, message);
	sink_add(t->run->errors, buf_str(&line));
	buf_fini(&line);
	line_done(t, false);
}

static void run_pause(struct batch_run *run)
{
	int64_t now = loop_now_us(run->b->g->loop);

	if (now < run->until_us)
		return; /* another line said so a moment ago */
	run->pause_us = run->pause_us ? run->pause_us * 2 : PAUSE_LEAST_US;
	if (run->pause_us > PAUSE_MOST_US)
		run->pause_us = PAUSE_MOST_US;
	run->until_us = now + run->pause_us;
}

static void ask_again(struct task *t)
{
	t->run->again[t->run->again_count++] = t->index;
	run_pause(t->run);
}

static void on_answer(void *arg, int status, struct str body, const struct error *err)
{
	struct task *t = arg;
	struct batch_run *run = t->run;
	struct batches *b = run->b;
	bool nobody = !err && (status == 429 || status == 503);

	t->call = NULL;
	if (nobody || ((err || status >= 500) && ++run->scan->places[t->index].tries < TRIES)) {
		ask_again(t);
	} else if (err) {
		line_failed(t, "no_answer", err->text);
	} else {
		struct buf line = {0};

		batch_line_answer(&line, str_from(t->id), buf_str(&t->custom_id), status, body);
		sink_add(status == 200 ? run->output : run->errors, buf_str(&line));
		buf_fini(&line);
		line_done(t, status == 200);
		run->pause_us = 0;
	}
	task_free(t);
	run_pump(b);
}

/* ---- asking ---------------------------------------------------------------------------------------------------- */

static void read_work(void *arg)
{
	struct task *t = arg;
	char *text = mem_resize(NULL, t->place.len + 1, 1);
	struct batch_line line;
	struct fault fault;
	size_t at = 0;

	while (at < t->place.len) {
		ssize_t n = pread(t->fd, text + at, t->place.len - at, (off_t)(t->place.offset + at));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		at += (size_t)n;
	}
	if (at < t->place.len) {
		error_errno(&t->err, errno, "the input file cannot be read");
	} else if (batch_line_parse((struct str){text, at}, str_from(t->endpoint), &line, &fault) < 0) {
		t->err = fault.err; /* it was fine when it was checked */
	} else {
		buf_append_str(&t->custom_id, line.custom_id);
		append_val(line.body, &t->body);
		batch_line_fini(&line);
	}
	free(text);
}

static void ask(struct task *t)
{
	struct batch *batch = t->run->batch;
	int64_t left_us = batch->expires_s * US_PER_S - clock_wall_us();
	char url[64];
	const struct http_header headers[] = {{STR("content-type"), STR("application/json")},
	                                      {STR("x-mdn-tenant"), str_from(batch->tenant)},
	                                      {STR("x-request-id"), str_from(t->id)}};

	snprintf(url, sizeof(url), "http://batch%s", batch->endpoint);
	const struct http_call_options options = {
	    .method = STR("POST"),
	    .url = str_from(url),
	    .headers = headers,
	    .header_count = sizeof(headers) / sizeof(headers[0]),
	    .body = buf_str(&t->body),
	    .body_lent = true,
	    .head_timeout_us = left_us > US_PER_S ? left_us : US_PER_S,
	};
	t->call = http_fetch(t->run->b->client, &options, LIMIT_BATCH_ANSWER, on_answer, t);
}

static void read_done(void *arg)
{
	struct task *t = arg;
	struct batch_run *run = t->run;

	t->in_job = false;
	run->jobs--;
	if (!run->batch) {
		task_free(t);
		if (run->jobs == 0)
			run_free(run);
		return;
	}
	if (run->batch->status == BATCH_CANCELLING) {
		task_free(t);
	} else if (t->err.code) {
		log_warn(ROOM, "line %u of %s: %s", t->place.line, run->batch->id, t->err.text);
		ask_again(t);
		task_free(t);
	} else if (run->expired) {
		line_failed(t, "batch_expired",
		            "This request could not be executed before the completion window expired.");
		task_free(t);
		run_pump(run->b);
	} else {
		ask(t);
	}
}

static bool disk_is_full(struct batch_run *run)
{
	const struct files *f = run->b->files;
	uint64_t own = sink_size(run->output) + sink_size(run->errors);
	bool full = f->bytes + own > f->bytes_max;

	if (full && !run->told_full)
		log_warn(ROOM, "%s pauses: the files of clients fill files_max (%llu bytes)", run->batch->id,
		         (unsigned long long)f->bytes_max);
	run->told_full = full;
	return full;
}

static bool has_work(struct batch_run *run, int64_t now_us)
{
	if (run->batch->status == BATCH_CANCELLING || run->yields || now_us < run->until_us)
		return false;
	while (run->next < run->scan->count && run->scan->places[run->next].done)
		run->next++;
	if (run->again_count == 0 && run->next >= run->scan->count)
		return false;
	return !sink_error(run->output) && !sink_error(run->errors) &&
	       sink_waiting(run->output) + sink_waiting(run->errors) < UNWRITTEN_MAX &&
	       (run->expired || !disk_is_full(run)); /* that it expired is told in a few bytes a line */
}

static void task_start(struct batch_run *run)
{
	struct task *t = NEW(struct task);

	t->run = run;
	t->index = run->again_count ? run->again[--run->again_count] : run->next++;
	t->place = run->scan->places[t->index];
	t->fd = run->fd;
	memcpy(t->endpoint, run->batch->endpoint, sizeof(t->endpoint));
	offline_id("batch_req_", t->id);
	t->next = run->tasks;
	if (t->next)
		t->next->prev = t;
	run->tasks = t;
	run->b->asking++;
	run->jobs++;
	t->in_job = true;
	loop_job(run->b->g->loop, read_work, read_done, t);
}

/* What the node's engines have free but for one slot, so that who comes next need not wait; one in any case. */
static uint32_t room_for(const struct batches *b)
{
	uint32_t slots = b->g->engine.slots > 0 ? (uint32_t)b->g->engine.slots : SLOTS;
	size_t others = b->g->request_count > b->asking ? b->g->request_count - b->asking : 0;

	return others + 2 < slots ? slots - (uint32_t)others - 1 : 1;
}

void run_pump(struct batches *b)
{
	int64_t now = loop_now_us(b->g->loop);
	struct batch *from = b->first, *batch;
	uint32_t room = room_for(b);
	size_t idle = 0;

	if (b->g->draining || b->runs == 0)
		return;
	for (batch = b->first; batch; batch = batch->next) /* after who was served last */
		if (strcmp(batch->id, b->turn) == 0)
			from = batch->next ? batch->next : b->first;
	for (batch = from; batch && b->asking < room && idle <= b->count;
	     batch = batch->next ? batch->next : b->first) {
		idle++;
		if (!batch->run || !has_work(batch->run, now))
			continue;
		task_start(batch->run);
		memcpy(b->turn, batch->id, sizeof(b->turn));
		idle = 0;
	}
}

/* ---- the end ------------------------------------------------------------------------------------------------------
 */

static bool all_written(const struct batch_run *run)
{
	return sink_waiting(run->output) == 0 && sink_waiting(run->errors) == 0;
}

static void run_end(struct batches *b, struct batch *batch, enum batch_status status)
{
	uint64_t output = sink_size(batch->run->output), errors = sink_size(batch->run->errors);

	run_stop(b, batch);
	batch_end(b, batch, status, output, errors);
}

/* May end the run. */
static void settle(struct batches *b, struct batch *batch)
{
	struct batch_run *run = batch->run;

	if (batch->status == BATCH_CANCELLING) {
		give_up_tasks(run, false);
		if (!run->tasks && all_written(run))
			run_end(b, batch, BATCH_CANCELLED);
		return;
	}
	while (run->next < run->scan->count && run->scan->places[run->next].done)
		run->next++;
	if (run->next >= run->scan->count && run->again_count == 0 && !run->tasks && all_written(run)) {
		run_end(b, batch, run->expired ? BATCH_EXPIRED : BATCH_COMPLETED);
	} else if (run->yields && !run->tasks && all_written(run)) {
		log_info(ROOM, "%s of %s waits: another tenant's turn", batch->id, batch->tenant);
		batch->yielded_us = loop_now_us(b->g->loop);
		run_stop(b, batch);
	}
}

void run_yield(struct batch *batch)
{
	batch->run->yields = true;
}

int64_t run_since(const struct batch *batch)
{
	return batch->run->yields ? INT64_MAX : batch->run->since_us;
}

static void on_written(void *arg)
{
	struct batch_run *run = arg;
	struct batches *b = run->b;

	if (!sink_error(run->output) && !sink_error(run->errors))
		settle(b, run->batch);
	run_pump(b);
}

void run_check(struct batches *b, struct batch *batch, int64_t now_us)
{
	struct batch_run *run = batch->run;
	const struct error *err = sink_error(run->output) ? sink_error(run->output) : sink_error(run->errors);

	if (err && now_us >= run->until_us) {
		log_warn(ROOM, "%s waits: %s", batch->id, err->text);
		if (run->expired && ++run->late_tries > LATE_TRIES) {
			batch->failed += run->scan->count - batch->completed - batch->failed;
			run_end(b, batch, BATCH_EXPIRED); /* with what could be written */
			return;
		}
		run_pause(run);
		sink_retry(run->output);
		sink_retry(run->errors);
	}
	if (!run->expired && clock_wall_us() / US_PER_S >= batch->expires_s && batch->status == BATCH_IN_PROGRESS) {
		run->expired = true;
		run->until_us = 0;
		give_up_tasks(run, true);
	}
	settle(b, batch);
}

/* ---- the door inside ------------------------------------------------------------------------------------------------
 */

void run_on_inside(void *arg, struct http_exchange *x)
{
	struct batches *b = arg;
	struct str tenant = STR("anonymous");

	http_header(x, "x-mdn-tenant", &tenant);
	request_open(b->g, x, gateway_dialect(http_path(x)), false, STR(""), tenant)->offline = true;
}
