/* SPDX-License-Identifier: Apache-2.0 */
/* batches.h - batches of requests, as OpenAI's Batch API has them: created, worked on, ended; /v1/batches.
 *
 *   validating ─▶ in_progress ─▶ completed      What is known of a batch is in the state (SQLite), written at each
 *        │             ├───────▶ expired        arrow. Done lines are in its output and error files alone: after a
 *        ▼             ▼                        crash they are read again, so that no line is asked twice that was
 *      failed      cancelled                    answered, and none is lost.
 *
 * Loop thread.
 */
#ifndef MDN_GATEWAY_BATCHES_H
#define MDN_GATEWAY_BATCHES_H

#include "serve/gateway/batch_scan.h"
#include "serve/gateway/files.h"

enum batch_status {
	BATCH_VALIDATING,
	BATCH_FAILED,
	BATCH_IN_PROGRESS,
	BATCH_COMPLETED,
	BATCH_EXPIRED,
	BATCH_CANCELLING,
	BATCH_CANCELLED,
	BATCH_STATES
};

struct batch_run;
struct batch {
	struct batch *next; /* newest first */
	char id[OFFLINE_ID_SIZE], tenant[OFFLINE_TENANT_SIZE], input[OFFLINE_ID_SIZE];
	char output[OFFLINE_ID_SIZE], error[OFFLINE_ID_SIZE]; /* where answers go; files only once it is over */
	char endpoint[32];
	enum batch_status status;
	int64_t created_us, expires_s, begun_s, ended_s, cancelling_s;
	int64_t output_life_s;
	bool has_output, has_error; /* once it is over */
	uint32_t total, completed, failed;
	char *metadata;        /* JSON object; NULL: none */
	char *errors;          /* JSON array of what is wrong with the input; NULL: nothing */
	struct batch_run *run; /* it is worked on */
	int64_t again_us;      /* its input cannot be read now: not before */
	uint32_t unread;       /* times that it could not be */
	int64_t yielded_us;    /* when it last made place for another tenant's; 0: never */
};

struct batches {
	struct gateway *g;
	struct files *files;
	struct batch *first;
	size_t count;
	struct http_server *inside; /* where its requests arrive, in memory */
	struct http_client *client;
	struct batch_scanning *scanning; /* one at a time */
	uint32_t runs, asking;           /* batches worked on; requests under way */
	char turn[OFFLINE_ID_SIZE];      /* who was served last */
};

int batches_open(struct batches *b, struct gateway *g, struct files *files, struct error *err);
void batches_close(struct batches *b);
void batches_tick(struct batches *b);
bool batches_writes(const struct gateway *g, const char *file_name); /* it is output of a batch under way */
int batch_save(struct batches *b, const struct batch *batch, struct error *err);
bool batch_is_over(const struct batch *batch);

/* Routes: /v1/batches, /v1/batches/{batch_id}, /v1/batches/{batch_id}/cancel */
void batches_collection(struct gateway *g, struct http_exchange *x, struct str tenant, struct str id);
void batches_one(struct gateway *g, struct http_exchange *x, struct str tenant, struct str id);
void batches_cancel(struct gateway *g, struct http_exchange *x, struct str tenant, struct str id);

/* ---- batch_run.c --------------------------------------------------------------------------------- */

/* Takes over the scan. */
int run_start(struct batches *b, struct batch *batch, struct batch_scan *scan, struct error *err);
void run_pump(struct batches *b);                      /* asks as many as there is room for */
void run_stop(struct batches *b, struct batch *batch); /* what is under way is given up; NULL run is fine */
void run_check(struct batches *b, struct batch *batch, int64_t now_us); /* retries, expiry, the end */
/* Another tenant's turn: what is under way is finished, nothing new begun, then it waits again. */
void run_yield(struct batch *batch);
int64_t run_since(const struct batch *batch); /* INT64_MAX: it is yielding already */
/* It is over: its files become known and the state is written, together. */
void batch_end(struct batches *b, struct batch *batch, enum batch_status status, uint64_t output_bytes,
               uint64_t error_bytes);
/* A request of ours that came through the door inside. */
void run_on_inside(void *arg, struct http_exchange *x);

#endif
