/* SPDX-License-Identifier: Apache-2.0 */
/* gateway.h - the OpenAI API of a node: parse, identify, decide {here | another node}, stream the answer, close the
 * ledger.
 *
 * Owns the engines of this node's models. Requests from outside may be forwarded once; those that come over the
 * node port (x-mdn-hop) never. Loop thread. Sources: OpenAI API reference; docs/api.md; docs/wire.md, "Gateway to
 * gateway".
 */
#ifndef MDN_SERVE_GATEWAY_H
#define MDN_SERVE_GATEWAY_H

#include "core/key_ring.h"
#include "core/report.h"
#include "engine/engine.h"
#include "net/http.h"

struct gateway;
struct gateway_options {
	struct http_client *client; /* to other nodes, mutual TLS; NULL: alone */
	struct str self_id, self_name, site, domain;
	struct engine_options engine; /* template for every model: kind, slots, ... */
	bool open, access_log;
	bool plain_hops;                /* take hops without a node certificate: tests, benches; never in a network */
	struct str offline_folder;      /* of files and batches; empty: none are taken. One node at a time */
	uint64_t files_max;             /* bytes of all files in it */
	struct str usage_outbox;        /* file in which usage records wait for the center; empty: none are written */
	int64_t first_token_timeout_us; /* of another node; 0: a minute and four times what was predicted */
	void (*on_change)(void *arg);   /* a report would differ */
	void *arg;
};
int gateway_new(struct loop *loop, const struct gateway_options *options, struct gateway **ret_gateway,
                struct error *err);
void gateway_free(struct gateway *g);
bool gateway_handle_public(struct gateway *g, struct http_exchange *x); /* API port */
bool gateway_handle_node(struct gateway *g, struct http_exchange *x);   /* node port: /v1/... with x-mdn-hop */
/* Load or unload a model whose file is on disk. path is copied. The same name again with another digest is its next
 * version: loaded beside the one that answers and put in its place, or after it where memory is short (models.c); the
 * digest that answers takes such a switch back. */
int gateway_model_add(struct gateway *g, struct str name_tag, struct str digest, struct str path, struct error *err);
/* The same; base: "NAME:TAG" of what it was made from. A LoRA adapter is answered by that model's engine. */
int gateway_model_add_on(struct gateway *g, struct str name_tag, struct str digest, struct str path, struct str base,
                         struct error *err);
void gateway_model_remove(struct gateway *g, struct str name_tag);
/* That version must not answer: one that does goes at once, with what waits behind it; one that waits goes alone. What
 * runs is finished. False: neither. */
bool gateway_model_drop(struct gateway *g, struct str name_tag, struct str digest);
/* Engine part of a model's report: state LOADING/READY/FAILED/CACHED, load, error. False when unknown. */
bool gateway_model_report(const struct gateway *g, struct str name_tag, struct model_report *ret_report);
/* The same of the version that is to come in its place: LOADING, READY, FAILED, or CACHED while it waits for memory. */
bool gateway_model_next(const struct gateway *g, struct str name_tag, struct model_report *ret_report);
bool gateway_holds(const struct gateway *g, struct str digest); /* some engine, also one on its way out, uses it */
/* Names that are never unloaded for others' sake; after so long without a request the others are unloaded, 0: never. */
void gateway_set_residence(struct gateway *g, const struct str *pins, size_t pin_count, int64_t idle_unload_us);
void gateway_set_memory(struct gateway *g, uint64_t memory_max); /* of all models together; 0: what the machine has */
/* Schedulers to follow for the map: "https://HOST:PORT#NODE-ID", the identity that must be met; empty: alone. */
void gateway_set_schedulers(struct gateway *g, const char (*urls)[NODE_URL_SIZE], size_t count);
void gateway_set_keys(struct gateway *g, const struct key_ring_key *keys, size_t count);
struct gateway_team {
	char name[QUOTA_TEAM_SIZE];
	struct quota_limits limits;
};
void gateway_set_teams(struct gateway *g, const struct gateway_team *teams, size_t count); /* before the keys */
/* Who hands out budgets and takes usage records: node port and id; empty: nobody. And how many edges there are: what
 * is one's share while it does not answer. */
void gateway_set_center(struct gateway *g, struct str node_url, struct str id, size_t edges);
void gateway_set_removed(struct gateway *g, const char (*ids)[NODE_ID_SIZE], size_t count);
/* Senders whose dispatches this node has seen, for the report; returns how many there are, fills at most max. */
size_t gateway_seen(const struct gateway *g, struct node_seen *out, size_t max);
/* What clients asked here since the last call, for schedulers: a document of docs/wire.md, "demand". */
void gateway_take_demand(struct gateway *g, struct buf *out);
void gateway_set_open(struct gateway *g, bool open);
/* Tokens (JWT) of an identity provider that are as good as API keys (tokens.h). */
struct gateway_tokens {
	struct str keys;             /* its public keys (JWKS): a file, or a URL; empty: no tokens are taken */
	struct str issuer, audience; /* that a token must name */
	struct str claim;            /* which says who asks */
	struct str team;             /* the one that names the team; empty: none does */
	struct str folder;           /* keys of a URL are kept there over a restart; empty: they are not */
	struct str ca_file, proxy;   /* to get them (net/outside.h) */
};
/* On error nothing changes. */
int gateway_set_tokens(struct gateway *g, const struct gateway_tokens *options, struct error *err);
int gateway_try_tokens(struct gateway *g, const struct gateway_tokens *options, struct error *err); /* only looks */
/* How nodes are chosen from now on, by a name of core/policy.h. E_INVAL: none is called so. */
int gateway_set_policy(struct gateway *g, struct str name, struct error *err);
/* The file of service classes (services.h), from now on; empty: none. On error the old ones stay. try: only looks. */
int gateway_set_services(struct gateway *g, const char *path, struct error *err);
int gateway_try_services(const char *path, struct error *err);
void gateway_set_access_log(struct gateway *g, bool on);
void gateway_drain(
    struct gateway *g); /* new requests: 503 + Location/x-mdn-redirect of another node, or forwarded; streams go on */
size_t gateway_running(const struct gateway *g);

#endif
