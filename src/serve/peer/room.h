/* SPDX-License-Identifier: Apache-2.0 */
/* room.h - what the files of this room share: the peer, its sources, and one file on its way (a fetch).
 *
 * Loop thread, except that a fetch's one running job may use its store objects. A fetch that is dropped while its job
 * runs lives until the job is done.
 */
#ifndef MDN_SERVE_PEER_ROOM_H
#define MDN_SERVE_PEER_ROOM_H

#include "base/clock.h"
#include "base/rng.h"
#include "core/chunk_plan.h"
#include "core/spread.h"
#include "serve/peer/peer.h"
#include "serve/peer/rate.h"
#include "serve/peer/sends.h"
#include "serve/peer/turns.h"

enum fetch_stage {
	FETCH_CHECK,  /* is it on disk already? */
	FETCH_LIST,   /* asking for the chunk list, or for a small file whole */
	FETCH_REUSE,  /* copying what other files here have of it */
	FETCH_CHUNKS, /* chunks on their way */
	FETCH_FINISH, /* on the disk, rename */
	FETCH_DONE,
	FETCH_FAILED, /* tried again after RETRY_US */
};

struct source {
	bool used;
	struct peer_source at;
	char identity[TLS_IDENTITY_SIZE];
	uint32_t wrong; /* chunks that were not what was asked for */
};

/* buffers.c */
#define BUFFERS_SPARE 16
struct buffers {
	uint64_t lent, spare_bytes;
	struct buf spare[BUFFERS_SPARE];
	uint32_t spare_count;
};
bool buffers_room(const struct buffers *b, uint64_t length);
void buffers_take(struct buffers *b, uint64_t length, struct buf *ret_buf); /* takes `length` bytes and no more */
void buffers_give(struct buffers *b, struct buf *buf);                      /* back */

struct fetch;
struct peer {
	struct loop *loop;
	struct peer_options o;
	char site[NODE_TEXT_SIZE], domain[NODE_TEXT_SIZE];
	uint64_t self_key;
	struct peer_source *known; /* all that the roster names */
	size_t known_count;
	struct spread_place *spreads; /* what the center plans */
	size_t spread_count;
	struct source sources[CHUNK_SOURCES_MAX];
	struct version *versions;
	bool *version_told;
	size_t version_count;
	struct fetch *fetches; /* list */
	struct fetch *dropped; /* no longer wanted, but a job of theirs still runs */
	struct loop_timer *tick;
	struct rng rng;
	struct rate rate;
	struct peer_class classes[PEER_CLASSES_MAX];
	struct rate class_rates[PEER_CLASSES_MAX];
	struct sends sends;
	struct turns turns;
	struct peer_class send_classes[PEER_CLASSES_MAX];
	bool sends_by_class; /* some of those have a limit */
	struct buffers buffers;
};

/* fetch.c */
struct fetch *fetch_new(struct peer *p, const struct version_file *file);
void fetch_free(struct fetch *f);    /* stops; what is held stays on disk */
void fetch_abandon(struct fetch *f); /* the same when peer and store go next: waits for the job's thread */
bool fetch_is(const struct fetch *f, const struct digest *d);
enum fetch_stage fetch_stage(const struct fetch *f);
uint64_t fetch_have_bytes(const struct fetch *f);
double fetch_rate(const struct fetch *f);
const char *fetch_error(const struct fetch *f);
void fetch_tick(struct fetch *f, int64_t now_us); /* every TICK_US: rates, retries, stalled plans */
void fetch_replan(struct fetch *f);               /* sources or the center's plan changed */
void fetch_drop_source(struct fetch *f, uint32_t source);
const struct digest *fetch_digest(const struct fetch *f);
/* The fastest sources, and words on what is wrong with one of them (empty: nothing). */
void fetch_sources(const struct fetch *f, struct model_report *r);
struct fetch *fetch_next(const struct fetch *f);
/* What another node may read of it now: chunk list and held bitmap, or false before both are known. */
bool fetch_view(const struct fetch *f, const struct chunk_list **ret_list, const struct chunk_plan **ret_plan);
/* The partial file, the caller's to close. */
int fetch_file(const struct fetch *f, struct blob_file **ret_file, struct error *err);
/* Exchanges that wait: for more than `after` chunks, or for the chunks from `from` on (`length` of 0: not known yet).
 */
void fetch_wait_count(struct fetch *f, struct http_exchange *x, uint32_t after, int64_t wait_us);
void fetch_wait_bytes(struct fetch *f, struct http_exchange *x, int64_t wait_us);

/* peer.c */
uint32_t peer_sends_to(const struct peer *p, struct str identity); /* rates (sends.h) that hold for that node */
bool peer_is_near(const struct peer *p, struct str identity);      /* of this site, as far as is known */
uint32_t peer_classes_of(const struct peer *p, const char *site);  /* bits of those a source of that site belongs to */
struct fetch *peer_fetch(const struct peer *p, const struct digest *d); /* NULL: not on its way here */
void peer_fetched(struct peer *p);                                      /* some fetch changed its stage */

/* Who to take a stripe of the file from: numbers of sources, best first; how many. */
uint32_t peer_parents(const struct peer *p, const struct fetch *f, uint32_t stripe, uint32_t ret[SPREAD_PARENTS],
                      uint32_t *ret_rank);

/* answer.c */
/* The bytes asked for, if they are here; else false, and nothing is answered. */
bool answer_bytes(struct peer *p, struct http_exchange *x, const struct digest *d);
/* The chunks asked for, of a file on its way. False: not all are held. */
bool answer_held(struct peer *p, struct http_exchange *x, const struct fetch *f);
void answer_have(struct http_exchange *x, const struct chunk_list *list, const struct chunk_plan *plan);

#define TICK_US INT64_C(500000)
#define RETRY_US INT64_C(5000000)

#endif
