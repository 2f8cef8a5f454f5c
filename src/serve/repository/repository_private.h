/* SPDX-License-Identifier: Apache-2.0 */
/* repository_private.h - what the files of this room share: the repository, jobs that answer a request, OCI errors.
 *
 * An exchange we do not watch lives until we answer it, gone client or not; so a task may keep it while its job runs.
 */
#ifndef MDN_SERVE_REPOSITORY_PRIVATE_H
#define MDN_SERVE_REPOSITORY_PRIVATE_H

#include "serve/repository/repository.h"

#define REPO_NAME_SIZE 129

struct upload;
struct feed_ask;
struct feed_wait;
struct quantizer;
struct mirror;

struct names {
	char **items;
	size_t count;
};

struct repository {
	struct loop *loop;
	struct { /* access.c */
		enum repository_access need;
		struct names private_names, hosts;
		bool loopback, tls;
		bool (*check_key)(void *arg, struct str key, char ret_tenant[static 32]);
		void *arg;
	} access;
	struct { /* ollama.c */
		uint8_t secret[32];
		uint8_t (*keys)[32];
		size_t key_count;
		struct ollama_config *configs; /* a ring */
		size_t config_next;
	} ollama;
	struct blob_store *store;
	struct catalog *catalog;
	uint64_t chunk_size;
	int64_t upload_idle_us;
	size_t refs; /* of the owner, and of all that may still call back; the memory goes with the last one */
	bool freed;
	struct upload *uploads;
	size_t upload_count; /* with those being made */
	struct loop_timer *upload_timer;
	struct quantizer *quantizer;
	struct mirror *mirror; /* NULL: nothing is taken from elsewhere */
	struct feed_wait *waits;
	size_t wait_count;
	struct feed_ask *feed_asks; /* wait for the document that a job makes */
	struct buf feed;            /* the answer for feed_serial; empty: to be made */
	uint64_t feed_serial;
};

/* The disk's part of a request: embed it first in a struct of your own. work runs in the job pool, done on the loop;
 * done answers x (or hands it on) and frees the task. */
struct task {
	struct repository *r;
	struct http_exchange *x;
	char repo[REPO_NAME_SIZE];
	void (*work)(struct task *t);
	void (*done)(struct task *t);
	int rc;
	struct error err;
};

void repository_release(struct repository *r);
void *task_new(struct repository *r, struct http_exchange *x, struct str repo, size_t size);
void task_run(struct task *t, void (*work)(struct task *t), void (*done)(struct task *t));

/* {"errors":[{"code","message"}]} (distribution-spec, "Error codes"). */
void oci_error(struct http_exchange *x, int status, const char *code, const char *message);
/* The status follows from err->code. */
void oci_fail(struct http_exchange *x, const char *code, const struct error *err);
/* What access_check said: 401 with a challenge, or 403. */
void oci_refuse(struct repository *r, struct http_exchange *x, const struct error *err);
void oci_method(struct http_exchange *x, const char *allowed);

/* A digest of a query or path, and the content it names. */
struct oci_name {
	struct digest_name name;
	struct digest digest;
	bool known; /* false: a SHA-512 that nothing was pushed under; digest is not set then */
};
/* Answers 400 DIGEST_INVALID and returns false when it is none we keep. */
bool oci_name(struct repository *r, struct http_exchange *x, struct str text, struct oci_name *ret_name);
void oci_add_digest(struct http_exchange *x, const struct digest *d); /* Docker-Content-Digest */
void oci_add_name(struct http_exchange *x, const char *header, const struct digest_name *name);

void blobs_handle(struct repository *r, struct http_exchange *x, struct str repo, struct str digest);
void manifests_handle(struct repository *r, struct http_exchange *x, struct str repo, struct str reference);
void referrers_handle(struct repository *r, struct http_exchange *x, struct str repo, struct str digest);
void tags_handle(struct repository *r, struct http_exchange *x, struct str repo);

/* id empty: POST makes a new one. */
void uploads_handle(struct repository *r, struct http_exchange *x, struct str repo, struct str id);
void uploads_init(struct repository *r);
void uploads_fini(struct repository *r); /* ends them all, answers who still sends */

void feed_handle(struct repository *r, struct http_exchange *x);
void feed_wake(struct repository *r); /* the catalog may have changed */
void feed_fini(struct repository *r);

#endif
