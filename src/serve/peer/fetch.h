/* SPDX-License-Identifier: Apache-2.0 */
/* fetch.h - what the files of one fetch share: fetch.c on the loop, fetch_work.c in its jobs, waiters.c for those who
 * wait for what it brings.
 *
 * Loop thread, but for fetch_work: that runs in up to WRITERS threads, and touches the partial blob, the list, the
 * chunks in `writing` and its own part only.
 */
#ifndef MDN_SERVE_PEER_FETCH_H
#define MDN_SERVE_PEER_FETCH_H

#include "serve/peer/room.h"

#include <semaphore.h>

#define SMALL_MAX CHUNK_LIST_MAX /* what comes in one piece: chunk lists, small files */
#define WRITERS 4                /* threads that hash and write chunks of one file at once */

struct chunk_call {
	struct fetch *fetch;
	struct chunk_call *next; /* in fetch->calls or fetch->arrived */
	struct rate_hold hold, class_holds[PEER_CLASSES_MAX];
	uint32_t classes; /* bits: those its source belongs to */
	struct chunk_request at;
	struct http_call *call;
	struct buf data;
	int64_t started_us, first_us, took_us;
	bool refused; /* the head was not what was asked for */
	bool missing; /* the source does not have it */
	bool orphan;  /* its source was dropped: the number may be another's by now */
	int result;   /* of the write */
};

struct poll {
	struct fetch *fetch;
	uint32_t source;
	bool used, complete;
	struct http_call *call;
	int64_t asked_us;
	uint64_t counted_bytes; /* since the last tick */
	double rate;
};

struct waiter {
	struct fetch *fetch;
	struct waiter *next;
	struct http_exchange *x;
	bool bytes; /* waits for the bytes it asked for, else for more than `after` chunks */
	uint32_t after;
	int64_t until_us;
};

enum job_kind { JOB_CHECK, JOB_LIST, JOB_REUSE, JOB_WRITE, JOB_FINISH };

/* Of a job; chunks are written by several at once. */
struct job_part {
	struct fetch *fetch;
	uint32_t number;
	struct error error;
};

struct fetch {
	struct fetch *next;
	struct peer *peer;
	struct version_file file;
	enum fetch_stage stage;
	struct error error;
	int64_t retry_at_us;
	bool chunked;

	struct chunk_list list;
	struct blob_partial *partial;
	struct chunk_plan *plan;
	struct chunk_call *calls, *arrived, *writing;
	uint32_t call_count; /* asked for, arrived or being written */
	struct poll polls[CHUNK_SOURCES_MAX];
	struct loop_timer *pump_timer, *news_timer;
	bool news_armed;
	struct waiter *waiters;

	struct http_call *list_call;
	struct buf list_bytes;
	uint32_t list_source;

	enum job_kind job;
	bool job_running, job_on_disk, dropped;
	bool job_stop;   /* its work is no longer wanted */
	sem_t job_ended; /* posted by each of the job's threads, for fetch_abandon only */
	struct job_part job_parts[WRITERS];
	uint32_t job_part_count, job_parts_left;
	struct error job_error;

	uint64_t counted_bytes; /* received since the last tick */
	double rate;
	int64_t said_us; /* progress was logged */
};

/* fetch_work.c: the work of a job; what went wrong is in the part. */
void fetch_work(struct job_part *part);

/* waiters.c */
void waiters_tell(struct fetch *f, int64_t now_us, bool all); /* all: answered whatever is held */
void waiters_serve(struct fetch *f); /* those who wait for chunks that came are answered at once */
void waiters_news(struct fetch *f);  /* more is held: others are told in a moment */
void waiters_on_news(void *arg);     /* of news_timer */

#endif
