/* SPDX-License-Identifier: Apache-2.0 */
/* inside.h - what the files of this room share; nobody outside includes it.
 *
 * Everything durable is written through store/state before an answer goes out; memory is a cache of it. What people see
 * changes in two steps: a handler changes the registry, rules, versions or keys and calls center_touch; a moment later
 * streams_flush makes the documents anew and sends each stream what differs. Loop thread.
 *
 * Spaces of the state (DATA/center.db, or etcd): node, token, rule, version, key, team, spent, rollout, pause,
 * limit, meta. Usage records are in DATA/usage.db.
 */
#ifndef MDN_SERVE_CENTER_INSIDE_H
#define MDN_SERVE_CENTER_INSIDE_H

#include "core/api_key.h"
#include "core/calendar.h"
#include "core/node_map.h"
#include "core/placement.h"
#include "core/quota.h"
#include "core/rollout.h"
#include "serve/center/center.h"
#include "store/election.h"
#include "store/state.h"

#define ROOM "center"
#define CERT_BACKDATE_US (10 * 60 * INT64_C(1000000)) /* clocks may differ by this much */
#define CERT_LIFE_MAX_US (24 * 3600 * INT64_C(1000000))
/* Nodes accept each other's certificates this long past their dates (docs/rooms/member.md), so a removed node stays
 * listed until any certificate it can have is older than that, and an hour for clocks. */
#define CERT_GRACE_US (25 * 3600 * INT64_C(1000000))
#define NAME_TAG_SIZE NODE_TEXT_SIZE

struct registered { /* a node that joined */
	char id[NODE_ID_SIZE], name[NODE_TEXT_SIZE], site[NODE_TEXT_SIZE];
	uint32_t roles;
	char pin[65]; /* of its key: what renewals must be signed with */
	char node_url[NODE_URL_SIZE], api_url[NODE_URL_SIZE];
	enum node_state state; /* as last reported; not durable */
	bool removed, away;
	/* What placing asks, as last reported and kept: after a restart nothing may be taken from a node for want of
	 * it. */
	char (*labels)[NODE_TEXT_SIZE]; /* the kept record's own */
	size_t label_count;
	uint64_t memory_bytes;
	char accelerator[32];
	int64_t cert_expires_wall_us;
	int64_t urls_us;         /* when its reports last changed its URLs */
	bool misses;             /* something it should hold; while there are limits */
	struct watcher *watcher; /* its open stream; NULL */
	struct feed *feed;       /* repositories: the catalog followed; NULL */
};

struct rule { /* a placing */
	struct placement_rule where;
	bool loads; /* of an order: it said in words that it is to be loaded, not only on disk */
	bool has_policy;
	struct rollout_policy policy; /* for the next version under the name */
	struct selector canary;
	int64_t by_wall_us; /* wanted to be done then; 0: whenever */
	struct demand demand;
	bool *chosen; /* of replicas: per c->nodes; NULL: all that hold. Good while !c->places_stale */
};

struct held_rollout {
	char name_tag[NAME_TAG_SIZE];
	struct rollout r;
	bool has_old;
	struct version old;
	struct digest fresh; /* manifest of the version it goes to */
	struct selector canary;
	struct grant {
		char id[NODE_ID_SIZE];
		int64_t us;
	} * grants; /* sorted by id */
	size_t grant_count;
	struct rollout_node *nodes; /* by rank, of the last look; names point into the registry's ids */
	size_t node_count, target;
	int64_t measured_us; /* when the measures were last written down */
	bool measures_stale;
};

#define LIMIT_SCOPE_SIZE (2 * NODE_TEXT_SIZE + 8)
struct kept_limit {
	char scope[LIMIT_SCOPE_SIZE]; /* "node=NAME", "site=NAME", "link=SITE/SITE" */
	enum limit_kind { LIMIT_OF_NODE, LIMIT_OF_SITE, LIMIT_OF_LINK } kind; /* the same, taken apart */
	char name[NODE_TEXT_SIZE], other[NODE_TEXT_SIZE];
	struct calendar calendar;
	struct buf text; /* as it is sent */
};

struct site_share { /* nodes of a site that miss something, and that can send */
	char site[NODE_TEXT_SIZE];
	uint32_t receivers, senders, receivers_now, senders_now;
};

struct known_version {
	struct version version;
	char name_tag[NAME_TAG_SIZE];
	char source[NODE_ID_SIZE]; /* the repository that has it */
	uint64_t mark;             /* the last feed reply that named it */
};

struct kept_key {
	char id[API_KEY_ID_SIZE], hash[API_KEY_HASH_SIZE], name[NODE_TEXT_SIZE];
	char team[QUOTA_TEAM_SIZE]; /* empty: none */
	struct quota_limits limits;
	int64_t created_wall_us;
};

struct kept_team {
	char name[QUOTA_TEAM_SIZE];
	struct quota_limits limits;
	int64_t created_wall_us;
};

struct ca {
	char *cert_pem, *key_pem;
	char pin[65];
};

struct self { /* DATA/ca/self.json: the node the center runs on */
	char id[NODE_ID_SIZE], name[NODE_TEXT_SIZE], site[NODE_TEXT_SIZE], pin[65], center_url[NODE_URL_SIZE];
	char domain[NODE_TEXT_SIZE];
	char founder[NODE_ID_SIZE]; /* the node that `mdn init` made; center_url is that one's, too */
	uint32_t roles;
};

struct center {
	struct loop *loop;
	struct http_client *client;
	struct state *state; /* NULL until the first load */
	struct lead *lead;   /* lead.c; NULL: there is one center, and it leads */
	bool loaded, leads;
	struct ca ca;
	struct self self;
	int64_t token_life_us, cert_life_us;
	void (*on_removed)(void *arg, struct str identity);
	void *on_removed_arg;

	struct registered **nodes; /* sorted by id */
	size_t node_count;
	struct node_map *map; /* last reports */
	struct rule *rules;   /* sorted by model */
	size_t rule_count;
	bool places_stale;             /* rules' `chosen` and the roll-outs' ranks */
	struct held_rollout *rollouts; /* sorted by name_tag */
	size_t rollout_count;
	char (*paused)[NAME_TAG_SIZE]; /* models that are not fetched further */
	size_t paused_count;
	struct kept_limit *limits; /* sorted by scope */
	size_t limit_count;
	struct site_share *shares; /* sorted by site */
	size_t share_count;
	int64_t begun_us;               /* loop's clock */
	struct known_version *versions; /* sorted by name_tag */
	size_t version_count;
	uint64_t mark; /* rises with every feed reply */
	struct kept_key *keys;
	size_t key_count;
	struct kept_team *teams;
	size_t team_count;
	struct quotas *quotas; /* quotas.c */
	char *usage_path;

	uint64_t revision;        /* of the documents; rises for ever, also over restarts */
	uint64_t revisions_kept;  /* the state says: up to here */
	uint64_t roster_revision; /* when the roster last changed */
	struct buf roster;        /* that document */
	struct loop_timer *flush, *beat, *tick, *sweep, *second, *rollouts_timer;
	bool flush_armed, progress_stale;
	struct watcher *watchers;
	struct progress *progresses;
	struct pending_place *pending;
	size_t watcher_count, progress_count, pending_count;
	struct spreads *spreads; /* spread.c */
};

/* lead.c: one center leads; the others wait with nothing loaded */
int lead_new(struct center *c, const struct center_options *options, struct error *err);
void lead_free(struct center *c);
bool center_leads(struct center *c);                       /* now, by the clock */
int center_refuse(struct center *c, struct error *err);    /* E_UNAVAILABLE in words: why it does not lead */
void lead_name(struct center *c, struct http_exchange *x); /* x-mdn-centers: who leads, if that is known */
bool center_others(struct center *c);                      /* another leads: what is loaded here is old */
int center_start(struct center *c, struct error *err);     /* loads all and begins to work */
void center_stop(struct center *c);                        /* ends what runs; what is loaded stays for readers */

/* center.c */
void center_touch(struct center *c); /* documents are stale: new ones in a moment */
int center_name(struct str text, const char *what, char *to, size_t size, struct error *err); /* checked and copied */
void center_identity(const struct center *c, const char *kind, const char *id,
                     struct buf *out); /* spiffe://DOMAIN/kind/id */
/* The node whose certificate the call came with; NULL: none that is registered and not removed. */
struct registered *center_caller(struct center *c, struct http_exchange *x);
/* Collects the JSON object a call carries and hands it on with the exchange; errors are answered here. */
typedef int center_json_fn(struct center *c, struct http_exchange *x, yyjson_val *body, struct error *err);
void center_with_json(struct center *c, struct http_exchange *x, size_t max_bytes, center_json_fn *fn);
void center_answer(struct http_exchange *x, struct buf *json); /* 200; empties the buffer */

/* Reads a space: `fn` gets each value's object; `what` is for words. */
typedef int center_load_fn(struct center *c, yyjson_val *o, struct str key, struct error *err);
int center_load(struct center *c, const char *space, const char *what, center_load_fn *fn, struct error *err);

/* ca.c: files of DATA/ca */
int ca_load(struct str data, struct ca *ret_ca, struct self *ret_self, struct error *err);
void ca_fini(struct ca *ca);
/* A certificate for a node's request; *ret_cert is the caller's to free. */
int ca_issue_node(struct center *c, const char *id, struct str csr, char **ret_cert, int64_t *ret_expires_wall_us,
                  struct error *err);

/* registry.c */
int registry_load(struct center *c, struct error *err);
void registry_free(struct center *c);
struct registered *registry_find(struct center *c, struct str id);
struct registered *registry_find_name(struct center *c, struct str name); /* not removed */
struct registered *registry_find_pin(struct center *c, const char *pin);
struct registered *registry_resolve(struct center *c, struct str id_or_name);
int registry_put(struct center *c, const struct registered *r, struct registered **ret_kept, struct error *err);
void registry_sweep(struct center *c); /* forgets long removed nodes */
struct placement_node registry_view(const struct registered *r);
bool registry_is_away(const struct center *c, const struct registered *r);
int registry_remove(struct center *c, struct http_exchange *x, struct str rest,
                    struct error *err);                                                /* DELETE nodes/ID */
void registry_list(struct center *c, struct http_exchange *x);                         /* GET nodes */
void registry_report(struct center *c, struct http_exchange *x, struct registered *r); /* POST report */

/* join.c */
int join_token_new(struct center *c, struct http_exchange *x, yyjson_val *body, struct error *err);
int join_join(struct center *c, struct http_exchange *x, yyjson_val *body, struct error *err);
int join_renew(struct center *c, struct http_exchange *x, yyjson_val *body, struct error *err);
void join_sweep(struct center *c); /* drops tokens nobody can use any more */

#define TOKEN_PART_MAX 64
struct token {
	char id[TOKEN_PART_MAX];
	char secret_hash[65]; /* hex SHA-256 of the secret's text */
	char ca_pin[65];      /* hex */
};
int token_parse(struct str text, struct token *ret_token, struct error *err);

struct asked { /* a join request; csr lives in the body */
	struct token token;
	struct str csr;
	char name[NODE_TEXT_SIZE], site[NODE_TEXT_SIZE];
	char pin[65]; /* of csr; once the token is known to be good */
	uint32_t roles;
};
int join_asked_parse(const struct center *c, yyjson_val *body, struct asked *a, struct error *err);

/* places.c: rules, and what each node is told to hold */
int places_load(struct center *c, struct error *err);
void places_free(struct center *c);
void places_refuse(struct center *c, const struct error *why); /* placings that wait */
int places_place(struct center *c, struct http_exchange *x, yyjson_val *body, struct error *err);
void places_retry(struct center *c);   /* versions changed: placings that wait for one look again */
void places_refresh(struct center *c); /* makes `chosen` and ranks anew when they are stale */
void places_tick(struct center *c);    /* once a second: demand */
void places_assign(struct center *c, struct registered *r, struct buf *out); /* the assign document's inside */
bool places_holds(struct center *c, const struct registered *r, const char *name_tag, bool *ret_load);
const struct rule *places_rule(const struct center *c, const char *name_tag, bool with_policy); /* the first; NULL */
int places_remove_all(struct center *c, const char *name_tag, size_t *ret_count, struct error *err);
bool places_paused(const struct center *c, const char *name_tag);
int places_command(struct center *c, struct http_exchange *x, struct str rest, struct error *err); /* POST models/... */

/* versions.c */
int versions_load(struct center *c, struct error *err);
void versions_free(struct center *c);
int places_name_tag(struct str text, char ret[static NAME_TAG_SIZE], struct error *err);
struct known_version *version_find(struct center *c, struct str name_tag);
int version_unknown(const struct center *c, const char *model, struct error *err); /* E_NOTFOUND in words */
void version_set(struct center *c, const struct version *v, const char *source);
void version_drop_unmarked(struct center *c, const char *source); /* what its last reply no longer named */

/* models.c: documents for people */
void models_answer(struct center *c, struct http_exchange *x);
int models_format(struct center *c, struct str name_tag, struct buf *out, struct error *err);
/* The node's line of that very version; NULL: none. */
const struct model_report *models_reported(const struct center *c, const struct registered *r, const char *name_tag,
                                           const struct digest *manifest);

/* keys.c */
void keys_free(struct center *c);
int keys_load(struct center *c, struct error *err);
int keys_new(struct center *c, struct http_exchange *x, yyjson_val *body, struct error *err);
int keys_delete(struct center *c, struct http_exchange *x, struct str id, struct error *err);
void keys_list(struct center *c, struct http_exchange *x);
int keys_set(struct center *c, struct http_exchange *x, yyjson_val *body, struct error *err);
void keys_roster(const struct center *c, struct buf *out); /* ,"keys":[...],"teams":[...] */
int teams_set(struct center *c, struct http_exchange *x, yyjson_val *body, struct error *err);
int teams_delete(struct center *c, struct http_exchange *x, struct str name, struct error *err);
void teams_list(struct center *c, struct http_exchange *x);

/* quotas.c */
int quotas_open(struct center *c, struct error *err);
void quotas_close(struct center *c);
void quotas_set(struct center *c, const char *account, const struct quota_limits *limits); /* NULL: none any more */
int quotas_call(struct center *c, struct http_exchange *x, yyjson_val *body, struct error *err); /* POST quota */
int quotas_usage(struct center *c, struct http_exchange *x, struct error *err);                  /* GET usage */
int quotas_sums(struct center *c, struct http_exchange *x, struct error *err);                   /* GET usage/sums */
void quotas_tick(struct center *c);                                                              /* once a second */

/* rollouts.c */
int rollouts_load(struct center *c, struct error *err);
void rollouts_free(struct center *c);
struct held_rollout *rollouts_find(struct center *c, const char *name_tag); /* NULL: none */
/* The tag moved; within the caller's transaction. */
void rollouts_moved(struct center *c, const char *name_tag, const struct version *old, const struct version *fresh);
/* Nothing ran before; only gates make it a roll-out. The rule may be NULL, or not be kept yet. */
void rollouts_begin_first(struct center *c, const struct rule *rule, const struct version *fresh);
void rollouts_forget(struct center *c, const char *name_tag);
void rollouts_rank(struct center *c);                         /* nodes or rules changed */
void rollouts_look(struct center *c, struct held_rollout *h); /* at its nodes as they are now, for rollouts_format */
void rollouts_tick(struct center *c);                         /* once a second */
void rollouts_soon(struct center *c);                         /* a report brought something: look again in a moment */
enum rollout_want rollouts_want(const struct held_rollout *h, const char *id);
/* What was measured on a node since its report before. */
void rollouts_measure(struct center *c, const char *name_tag, const char *digest, const struct rollout_measure *m);
void rollouts_answer(struct center *c, struct http_exchange *x);
int rollouts_one(struct center *c, struct http_exchange *x, struct str name_tag, struct error *err);
int rollouts_command(struct center *c, struct http_exchange *x, struct str rest, struct error *err);
int rollouts_cancel(struct center *c, const char *name_tag, bool *ret_was_one, struct error *err);
void rollouts_format(struct center *c, const struct held_rollout *h, bool with_nodes, struct buf *out);
int rollout_policy_read(yyjson_val *o, struct rollout_policy *ret_policy, struct selector *ret_canary,
                        struct error *err);
void rollout_policy_write(const struct rollout_policy *p, const struct selector *canary, struct buf *out);

/* limits.c */
int limits_load(struct center *c, struct error *err);
void limits_free(struct center *c);
int limits_set(struct center *c, struct http_exchange *x, yyjson_val *body, struct error *err);
void limits_list(struct center *c, struct http_exchange *x);
void limits_assign(struct center *c, struct registered *r, struct buf *out); /* ,"limits":[...]; or nothing */
void limits_refresh(struct center *c);                                       /* with places_refresh */
void limits_tick(struct center *c); /* once a second: shares of sites follow who fetches */
/* Calendars that hold for what comes to the node, directly or through others of its site; how many, at most max. */
size_t limits_of(const struct center *c, const struct registered *r, struct calendar *ret, size_t max);

/* spread.c: who takes a version from whom */
void spreads_free(struct center *c);
void spreads_refresh(struct center *c); /* before documents go out */
void spreads_tick(struct center *c);    /* once a second: rates, who is behind */
void spreads_format(struct center *c, const struct registered *r, struct buf *out); /* the document's inside */

/* feed.c: catalogs of the repositories */
void feeds_update(struct center *c); /* one per repository that has a URL */
void feed_stop(struct registered *r);
void feeds_again(struct center *c, const char *but_source); /* whole documents anew */

/* streams.c: watch and events */
void streams_watch(struct center *c, struct http_exchange *x, struct registered *r);
int streams_events(struct center *c, struct http_exchange *x, struct error *err);
bool streams_flush(struct center *c); /* false: the disk refuses; try again */
void streams_beat(struct center *c);
void streams_tick(struct center *c);    /* progress, four times a second */
void streams_end(struct registered *r); /* the node is removed: its stream ends now */
void streams_end_all(struct center *c);
int streams_drain(struct center *c, struct registered *r, struct error *err);

#endif
