/* SPDX-License-Identifier: Apache-2.0 */
/* inside.h - what the files of this room share; nobody outside includes it. Loop thread, but for the job that saves. */
#ifndef MDN_SERVE_MEMBER_INSIDE_H
#define MDN_SERVE_MEMBER_INSIDE_H

#include "base/rng.h"
#include "net/sse.h"
#include "serve/member/member.h"

#define ROOM "member"
/* Certificates of other nodes (not of operators) are taken this long past their dates: the center may be away.
 * docs/rooms/member.md. */
#define CERT_GRACE_US (24 * 3600 * INT64_C(1000000))
#define CERT_BACKDATE_US (10 * 60 * INT64_C(1000000)) /* the center dates them back by this, for clocks */
#define JOIN_SKEW_US (10 * 60 * INT64_C(1000000))     /* of the joiner's clock; no grace: a center has a fresh one */
#define CENTERS_MAX 8                                 /* of the roster that are asked */
#define PING_TARGETS_MAX 8
#define PING_SAMPLES 4

struct identity {
	char id[NODE_ID_SIZE], domain[NODE_TEXT_SIZE], name[NODE_TEXT_SIZE], site[NODE_TEXT_SIZE];
	char center_url[NODE_URL_SIZE], center_id[NODE_ID_SIZE];
	uint32_t roles;
	char *key_pem, *cert_pem, *ca_pem;
	char pin[65];
};

/* identity.c: the files of DATA/identity */
int identity_load(struct str data, struct identity *ret_identity, struct error *err);
void identity_fini(struct identity *i);
/* The node's key: the one on disk, or a new one put there. *ret_key is the caller's. */
int identity_key(struct str data, char **ret_key, struct error *err);
int identity_write(struct str data, const struct identity *i, struct error *err); /* all but the key; node.json last */
int identity_write_cert(struct str data, const struct identity *i, struct error *err);
bool identity_exists(struct str data);
/* What a center answers to join and renew: checked against our key, written into *i, which keeps its old parts on
 * error. */
int identity_take(struct identity *i, struct str json, struct error *err);
/* A center's refusal as an error: its words, its code. */
int identity_refusal(int status, struct str body, struct error *err);
/* Hex pin of the CA in a token's text; E_AUTH when it is none. */
int identity_token_pin(struct str token, char ret_hex[static 65], struct error *err);

/* A document of the center's and its copy on disk. */
struct document {
	struct member *m;
	const char *file;
	struct buf text;
	struct save *saving; /* the job under way */
	bool stale;          /* changed since that job began */
};

struct target { /* where reports go: the center, or a scheduler */
	struct member *m;
	char id[NODE_ID_SIZE], url[NODE_URL_SIZE];
	bool scheduler, wanted;
	bool waiting; /* a report came while one was in flight: send the newest then */
	bool failing; /* said so in the log */
	struct http_call *call, *tell;
};

struct ping {
	struct member *m;
	char id[NODE_ID_SIZE], url[NODE_URL_SIZE], site[NODE_TEXT_SIZE];
	int64_t samples[PING_SAMPLES], started_us;
	size_t count;
	bool warm; /* the first answer measures the connecting, too, and is not counted */
	struct http_call *call;
};

struct center_place {
	char id[NODE_ID_SIZE], url[NODE_URL_SIZE]; /* id "": not known */
};

struct member {
	struct loop *loop;
	struct rng rng;
	char *data, *control;
	struct identity self;
	struct center_place center;               /* the last that took our watch; at first the configured one */
	struct str name, site, node_url, api_url; /* of options, heap */
	uint32_t roles;
	void (*fill_report)(void *arg, struct node_report *report);
	void (*on_roster)(void *arg, const struct roster *roster);
	void (*on_assign)(void *arg, const struct assignment *assignment);
	void (*on_spread)(void *arg, const struct spread_place *places, size_t count);
	void (*on_drain)(void *arg);
	void *arg;

	struct tls_context *tls, *renew_tls;
	struct http_client *client, *bulk_client, *renew_client;
	struct roster roster;
	struct document roster_document, assign_document;
	bool said_differs; /* configuration and roster were compared */
	struct loop_timer *start;

	/* renew.c */
	struct loop_timer *renew_timer;
	struct http_call *renew_call;
	size_t renew_turn;
	int64_t renew_pause_us;
	bool renew_failing;
	/* watch.c */
	struct loop_timer *watch_timer;
	struct http_call *watch_call;
	size_t watch_turn;
	struct center_place watch_at;
	struct sse_parser watch_parser;
	struct error watch_error;
	int64_t watch_pause_us;
	bool watch_failing;
	/* reports.c */
	uint64_t boot, seq;
	struct buf report;
	struct loop_timer *report_timer, *soon_timer;
	bool soon_armed;
	struct target **targets;
	size_t target_count;
	/* pings.c */
	struct loop_timer *ping_timer;
	struct ping *pings[PING_TARGETS_MAX];
	size_t ping_count;
};

void member_identity_of(const struct member *m, const char *id, struct buf *out); /* spiffe://DOMAIN/node/ID */
int member_tls_set(struct member *m, struct error *err); /* the node port's context, from the identity as it is now */
/* Whom to ask as a center at the n-th try (from 0): first the one that last took our watch, then the next of the
 * configured one and those of the roster, in turn. */
struct center_place member_center(const struct member *m, size_t turn);
int64_t member_jitter(struct member *m, int64_t us); /* between 3/4 and 5/4 of it */

/* documents.c */
int documents_load(struct member *m, struct error *err);
void documents_deliver_saved(struct member *m);
void documents_take(struct member *m, struct str event, struct str data);
void documents_free(struct member *m);

void renew_init(struct member *m);
void renew_start(struct member *m); /* at the half of the certificate's life */
void renew_fini(struct member *m);

void watch_init(struct member *m);
void watch_start(struct member *m);
void watch_fini(struct member *m);

int reports_init(struct member *m, struct error *err);
void reports_start(struct member *m);
void reports_retarget(struct member *m); /* the roster changed */
void reports_fini(struct member *m);

void pings_init(struct member *m);
void pings_start(struct member *m);
void pings_retarget(struct member *m);
void pings_fill(const struct member *m, struct node_report *report);
void pings_fini(struct member *m);

#endif
