/* SPDX-License-Identifier: Apache-2.0 */
/* remote_private.h - what the files of the remote kind share; loop thread only.
 *
 *   remote.c        queue, calls, streams, the engine's face     remote_chunk.c  one event of a stream, error bodies
 *   remote_body.c   bodies of requests, for each kind of server  remote_whole.c  answers that are no stream
 *   remote_probe.c  is it there, what is it, what can it do      remote_load.c   its metrics and ORCA headers, read
 */
#ifndef MDN_ENGINE_REMOTE_PRIVATE_H
#define MDN_ENGINE_REMOTE_PRIVATE_H

#include "engine/engine_ops.h"
#include "engine/remote_load.h"
#include "net/http.h"
#include "net/sse.h"

/* Servers differ in a few names and habits. */
enum server_kind {
	SERVER_UNKNOWN, /* says OpenAI's words; more is not known */
	SERVER_VLLM,
	SERVER_SGLANG,
	SERVER_LLAMA,
	SERVER_TENSORRT,
	SERVER_OLLAMA,
	SERVER_MDN,
	SERVER_KINDS,
};

enum { REMOTE_URL_MAX = 1024, REMOTE_HEADERS_MAX = 8 };

struct remote {
	struct engine base;
	char *url, *key, *model; /* url without "/v1" and slashes at the end */
	bool model_given;        /* by the operator: else it is looked up among the server's */
	struct tls_context *tls;
	struct http_client *client;
	struct remote_request *queue; /* sorted */
	int32_t open;
	double prefill_rate, itl_us;
	struct { /* remote_probe.c */
		struct loop_timer *timer, *load_timer;
		struct http_call *call, *load_call, *ability_call;
		bool asks_health; /* the server has no /v1/models */
		int lost;         /* probes, in a row */
		int64_t pause_ms;
		enum server_kind kind;
		bool identified;
		size_t ability;        /* the next to be tried */
		bool load_unsupported; /* it tells no metrics: asked again seldom */
	} probe;
	struct remote_told told;
	int64_t told_us; /* loop clock; 0: never */
};

struct remote_request {
	struct engine_request base;
	struct engine_copy copy;
	struct remote_request *queue_next;
	struct http_call *call; /* NULL: waiting */
	struct sse_parser parser;
	struct buf error_body;
	struct buf whole; /* of an answer that is no stream */
	int status, tries;
	int32_t prompt_tokens, cached_tokens, completion_tokens, pieces;
	int64_t sent_us, first_us;
	bool finished, last; /* finish_reason came; [DONE] came */
	enum engine_finish finish;
	struct error err;
};

/* ---- remote.c ---------------------------------------------------------------------------------- */

void remote_serve(struct remote *e);
void remote_fail_queue(struct remote *e, const struct error *err);
/* Headers that every call carries; `bearer` must outlive the call's start. Returns how many. */
size_t remote_headers(const struct remote *e, struct http_header *headers, char *bearer, size_t size);
void remote_hears(struct remote *e, const struct remote_told *told); /* news of its load */

/* ---- remote_body.c ----------------------------------------------------------------------------- */

/* Does it stream? The others answer whole. */
bool remote_task_streams(enum engine_task task);
const char *remote_path(enum engine_task task);
/* E_UNSUPPORTED: this kind of server has no such thing. */
int remote_can(const struct remote *e, const struct engine_params *p, struct error *err);
void remote_body(struct buf *b, const struct remote *e, const struct engine_params *p);

/* ---- remote_whole.c ---------------------------------------------------------------------------- */

/* A whole answer, read; memory is the caller's to free by remote_whole_fini. E_PEER. */
struct remote_whole {
	float *vectors;
	size_t vector_size, vector_count;
	int32_t *tokens;
	size_t token_count;
	struct engine_logprob *pieces;
	size_t piece_count;
	struct str text;
	int32_t prompt_tokens;
	void *doc;
};
int remote_whole_parse(struct str body, const struct engine_params *p, struct remote_whole *ret_whole,
                       struct error *err);
void remote_whole_fini(struct remote_whole *whole);

/* ---- remote_probe.c ---------------------------------------------------------------------------- */

void probe_init(struct remote *e);
void probe_fini(struct remote *e);
void probe_start(struct remote *e); /* now, unless one is under way */

#endif
