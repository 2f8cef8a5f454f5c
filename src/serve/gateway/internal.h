/* SPDX-License-Identifier: Apache-2.0 */
/* internal.h - what the files of this room share: the gateway, a request's life, its two ways to an answer.
 *
 *   gateway.c   routes, options, life            dispatch.c  one request: decide, try, retry, close
 *   request.c   what was asked                   local.c     answered by an engine here
 *   answer.c    what is answered                 forward.c   answered by another node
 *   fields.c    how fields are read              dialect_*.c one API each: JSON in, JSON and events out
 *   models.h    engines of this node             map.c       the schedulers' map, own entry, evidence
 *   keys.c      API keys, node identities        metrics*.c  Prometheus text; access.c one log line a request
 *   quotas.c    budgets, usage records
 *   reply.c     headers of answers               sticky.c    who has the prompt's beginning already
 *   services*.c which service a request is of
 *   resume.c    what a stream has said, for the engine that goes on with it
 *
 * A request is born in dispatch.c when its head is there and dies in on_gone of its exchange, whatever happened.
 * request_finish is the one exit: it cancels what still works for it, closes its ledger ticket, counts, logs. It comes
 * before the last http_ call on the exchange, because that call may end it.
 */
#ifndef MDN_GATEWAY_INTERNAL_H
#define MDN_GATEWAY_INTERNAL_H

#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/rng.h"
#include "core/demand.h"
#include "core/score.h"
#include "net/sse.h"
#include "serve/gateway/dialect.h"
#include "serve/gateway/gateway.h"
#include "serve/gateway/models.h"
#include "serve/gateway/quotas.h"
#include "serve/gateway/resume.h"
#include "serve/gateway/services.h"
#include "serve/gateway/tokens.h"

#define ROOM "gateway"
#define TRIES_MAX 3

/* ---- metrics.c ---------------------------------------------------------------------------------- */

enum {
	HISTOGRAM_BOUNDS_MAX = 24,
};
struct histogram {
	uint64_t counts[HISTOGRAM_BOUNDS_MAX + 1]; /* each bucket alone; summed up when shown */
	double sum;
};
enum model_histogram {
	H_TTFT,
	H_ITL,
	H_TPOT,
	H_E2E,
	H_QUEUE,
	H_INFERENCE,
	H_PREFILL,
	H_DECODE,
	H_PROMPT,
	H_GENERATION,
	H_LONGEST,
	H_N,
	H_MAX_TOKENS,
	H_COMPUTED,
	MODEL_HISTOGRAMS
};
struct model_metrics {  /* of a name, over all its versions */
	uint32_t users; /* versions that count into it */
	struct histogram histograms[MODEL_HISTOGRAMS];
	uint64_t finished[4]; /* by enum engine_finish */
	uint64_t aborted;
	uint32_t running; /* requests an engine has begun */
	uint64_t prompt_tokens, cached_tokens, generation_tokens;
};
enum prefix_result { PREFIX_HIT, PREFIX_MOVED, PREFIX_MISS, PREFIX_RESULTS };
enum route { ROUTE_NONE, ROUTE_LOCAL, ROUTE_FORWARD, ROUTES };
struct gateway_metrics {
	uint64_t requests[ROUTES][6]; /* by status class; [0] client gone */
	uint64_t errors[20];          /* by -error code */
	uint64_t prefixes[PREFIX_RESULTS];
	uint64_t quota_refused, usage_lost;
	uint64_t forwards, hops, retries, broken; /* broken: ended after the first token */
	uint64_t resumed;                         /* streams gone on with elsewhere */
	struct histogram forward_ttft;
};
void vllm_histogram_add(struct histogram *h, enum model_histogram which, double value);
void metrics_format(struct gateway *g, struct buf *out);

/* Each model of the list, in order of names, with one of its reports; here: this node has it too. */
void models_each(struct gateway *g, void (*each)(void *arg, const struct model_report *r, bool here), void *arg);

/* ---- ollama_models.c ------------------------------------------------------------------------------ */

void ollama_tags(struct gateway *g, struct http_exchange *x);
void ollama_ps(struct gateway *g, struct http_exchange *x);
void ollama_show(struct gateway *g, struct http_exchange *x);
void ollama_version(struct gateway *g, struct http_exchange *x);

/* ---- map.c -------------------------------------------------------------------------------------- */

struct follower;
struct map_view {
	struct node_map *map;                 /* never NULL */
	struct follower **followers, *leader; /* leader: whose events are all used; NULL: whose comes next */
	size_t follower_count;
	struct model_report *own; /* scratch for the own entry */
	size_t own_cap;
	uint64_t own_seq;
	int64_t received_us; /* last map event, 0 never */
	char (*removed)[NODE_ID_SIZE];
	size_t removed_count;
};
void map_init(struct gateway *g);
void map_fini(struct gateway *g);
void map_refresh_self(struct gateway *g);
size_t map_live_count(const struct gateway *g); /* schedulers that speak to us now */
bool map_is_removed(const struct gateway *g, struct str id);
/* Load as told by a node's own answer (ORCA), newer than its last report. */
void map_feed_orca(struct gateway *g, struct str node, struct str model, struct str header, uint64_t dispatched);

/* ---- keys.c -------------------------------------------------------------------------------------- */

/* The tenant (key id, "jwt:..." or "anonymous") or a fault with OpenAI's 401 words. */
int keys_check(struct gateway *g, struct http_exchange *x, char ret_tenant[static TOKEN_TENANT_SIZE],
               struct fault *fault);
/* The id in spiffe://DOMAIN/node/ID of a sender; empty without identity. E_FORBIDDEN for strangers and the removed. */
int keys_check_node(const struct gateway *g, struct http_exchange *x, struct str *ret_id, struct error *err);

/* ---- one request ---------------------------------------------------------------------------------- */

struct local;
struct forward;
struct request {
	struct gateway *g;
	struct request *prev, *next;
	struct http_exchange *x;
	bool hop, parsed, finished;
	bool tells_usage; /* a hop whose sender wants to know it, though the client does not */
	bool offline;     /* a line of a batch */
	bool worked;      /* an engine here has begun it */
	bool waits;       /* for a model to be loaded (waiting.c) */
	bool head_sent;   /* of a stream: with its first words, or because it was told of the loading */
	bool framed;      /* a hop: its stream goes out in frames */
	/* What a stream has said; a hop: where it is to begin. NULL: nothing yet, or none that can be gone on with. */
	struct resume *resume;
	int64_t parked_us; /* since when it waits, or waited; 0: it did not */
	int64_t told_us;   /* of the loading, last */
	struct str body;   /* as received; lives with the exchange */
	const struct dialect *dialect;
	struct api_request in;
	char id[129];       /* x-request-id */
	char answer_id[48]; /* "chatcmpl-..." */
	char traceparent[56];
	char tenant[64];            /* key id, or what names the client where there are no keys */
	char model[NODE_TEXT_SIZE]; /* as resolved */
	struct service service;     /* name empty: of none */
	int64_t deadline_us;        /* loop clock; 0: none */
	struct ip client;           /* bits 0: another node, or nobody */
	int64_t rtt_us;             /* to it; 0: not measured */
	int64_t created_s, begun_us, first_us;
	struct local *local;
	struct forward *forward;
	struct ledger_ticket *ticket;
	struct quota_claim quota;
	struct affinity_prompt *prompt; /* as sticky.c knows it; NULL: nothing to choose by */
	int32_t uncached_tokens;        /* of the prompt, where it goes */
	int32_t known_tokens;           /* of it, by whoever has most */
	char why[96];                   /* it went there */
	struct str excluded[TRIES_MAX + RESUMES_MAX];
	char excluded_ids[TRIES_MAX + RESUMES_MAX][NODE_ID_SIZE];
	size_t tries;
	struct fault last_fault; /* of the last try */
	/* for the log */
	enum route route;
	char node[NODE_ID_SIZE];
	int status;
	int32_t prompt_tokens, cached_tokens, completion_tokens; /* -1 unknown */
};

void request_dispatch(struct request *r);
void request_answer_hop(struct request *r);
/* Nothing happens to it before the next turn of the loop's handlers. */
struct request *request_open(struct gateway *g, struct http_exchange *x, const struct dialect *dialect, bool hop,
                             struct str sender, struct str tenant);
void request_free_all(struct gateway *g); /* cuts what is left */
/* Nothing went out yet: an error in the dialect's shape. May end the exchange. */
void request_fail(struct request *r, const struct fault *fault);
/* The last try failed before its first token, or the stream can be gone on with: another node, or the client is told.
 */
void request_retry(struct request *r, const struct fault *fault);
/* Its first words are out and whoever said them is gone: may another go on? Counts. */
bool request_goes_on(struct request *r);
bool request_is_resumable(const struct request *r); /* by what was asked */
/* A stream's piece for the client, as a frame where those are wanted; false: full. */
bool request_write(struct request *r, const struct frame *f);
/* After the first token: error event if it is an event stream, then the connection is cut. */
void request_break(struct request *r, const struct error *err, bool event);
/* The first bytes of an answer are about to go out. */
void request_first_token(struct request *r);
/* ---- reply.c */
void reply_tell_limits(struct request *r, const struct engine *engine);
void reply_pass_limits(struct request *r, const struct http_call *call); /* as another node told them */
void reply_duration(int64_t us, char to[static 32]);
void reply_tell_dropped(struct request *r, const struct fault *fault); /* if it was */
/* Headers that tell which node answers, and its load; once, before responding. */
void request_name_node(struct request *r, struct str id, struct str name, struct str site);
/* status 499: the client left. */
void request_finish(struct request *r, int status);
void join(char *to, size_t size, const char *const *parts); /* texts up to NULL, one after the other; cut at size */
void respond_fault(struct http_exchange *x, const struct dialect *dialect,
                   const struct fault *fault); /* NULL: OpenAI's shape */
void access_log(const struct request *r);
bool id_is_sane(struct str id); /* 1 to 128 visible characters that need no quoting anywhere */

int local_start(struct request *r, struct model *m, struct fault *fault);
void local_cancel(struct local *l); /* NULL is fine */
void local_writable(struct local *l);
void local_used(const struct local *l, int32_t *ret_prompt, int32_t *ret_cached, int32_t *ret_completion); /* so far */
int forward_start(struct request *r, const struct route_candidate *to);
void forward_cancel(struct forward *f); /* NULL is fine */
void forward_writable(struct forward *f);
int32_t forward_events(const struct forward *f);       /* passed on so far; counted for requests with a key */
void forward_check(struct forward *f, int64_t now_us); /* gives up on a node that the map says is gone */

/* ---- sticky.c ------------------------------------------------------------------------------------------ */

/* Who has computed some of the prompt, for the query; `warm` must live as long as that. How many. */
size_t sticky_find(struct request *r, struct route_query *query, struct route_warm warm[static AFFINITY_HOLDERS_MAX]);
void sticky_take(struct request *r, const struct route_candidate *to); /* it goes there now */

/* ---- waiting.c ---------------------------------------------------------------------------------------- */

/* Until m answers; asks for it. `alone`: no other node can take it. False: it has waited too long; else it waits, or
 * was refused because too many do. */
bool request_wait(struct request *r, struct model *m, bool alone);
void request_wait_end(struct request *r);
void requests_unpark(struct gateway *g); /* those that wait look again */

/* ---- services.c --------------------------------------------------------------------------------------- */

void request_identify(struct request *r); /* which service it is of, and what that gets */
/* As the node that sent it here identified it. */
void request_identified(struct request *r, struct str name, struct str dscp);
void services_count(const struct request *r); /* it has ended */
void services_metrics(const struct gateway *g, struct buf *out);

/* ---- the gateway ------------------------------------------------------------------------------------ */

struct sender {
	char id[NODE_ID_SIZE];
	uint64_t dispatched;
	int64_t last_us;
};

struct gateway {
	struct loop *loop;
	struct http_client *client;
	char id[NODE_ID_SIZE], name[NODE_TEXT_SIZE], site[NODE_TEXT_SIZE], domain[NODE_TEXT_SIZE];
	struct engine_options engine;
	char *engine_texts[7]; /* what `engine` points at */
	bool open, access_log, plain_hops, draining;
	int64_t first_token_timeout_us;
	void (*on_change)(void *arg);
	void *arg;
	int64_t begun_wall_s;
	struct rng rng;
	struct model *models, *leaving;
	struct model_room room;
	struct offline *offline; /* files and batches (offline.h); NULL: none are taken */
	struct request *requests;
	size_t request_count;
	uint32_t waiting; /* requests that wait for a model */
	struct ledger *ledger;
	struct demand demand; /* of clients, since demand_from_us */
	int64_t demand_from_us;
	uint32_t rtt_turn;
	struct affinity *affinity;
	const struct route_policy *policy; /* never NULL */
	uint32_t policy_turn;
	struct services services;
	uint64_t own_dispatched;
	struct map_view map;
	struct key_ring keys;
	struct tokens tokens;
	struct gateway_team *teams;
	size_t team_count;
	struct quotas *quotas;
	struct sender *senders; /* sorted by id */
	size_t sender_count, sender_cap;
	struct gateway_metrics metrics;
	struct buf scratch; /* one answer piece at a time */
	struct buf frame;   /* the same in its frame */
	struct loop_timer *tick, *settle;
};

const struct dialect *gateway_dialect(struct str path); /* of requests to engines; NULL: no such path */
/* The table of routes, for tests: false past its end. */
bool gateway_route(size_t number, const char **ret_path, const char **ret_methods);
void gateway_saw(struct gateway *g, struct str sender, uint64_t dispatched);

static inline void gateway_changed(const struct gateway *g)
{
	if (g->on_change)
		g->on_change(g->arg);
}

#endif
