/* SPDX-License-Identifier: Apache-2.0 */
/* member.h - a node's side of the control plane: join, certificate renewal, watch stream, reports.
 *
 * Owns the node's identity files in DATA/identity (key.pem, cert.pem, ca.pem, node.json), the last roster and
 * assignment (DATA/control/, used when the center is away) and the shared tls_context of the node port.
 * Loop thread. Callbacks get parsed documents that live for the call. Wire: docs/wire.md, "Center".
 */
#ifndef MDN_SERVE_MEMBER_H
#define MDN_SERVE_MEMBER_H

#include "base/error.h"
#include "core/calendar.h"
#include "core/quota.h"
#include "core/report.h"
#include "core/spread_place.h"
#include "net/http.h"
#include "net/tls.h"
#include "store/version.h"

struct roster_node {
	char id[NODE_ID_SIZE], name[NODE_TEXT_SIZE], site[NODE_TEXT_SIZE];
	uint32_t roles;
	char node_url[NODE_URL_SIZE], api_url[NODE_URL_SIZE];
};
struct roster_key {
	char id[32];
	char hash[72]; /* hex HMAC-SHA-256 of the whole key: api_key_matches (core/api_key.h) compares */
	char team[QUOTA_TEAM_SIZE];
	struct quota_limits limits;
};
struct roster_team {
	char name[QUOTA_TEAM_SIZE];
	struct quota_limits limits;
};
struct roster {
	uint64_t version;
	struct roster_node *nodes;
	size_t node_count;
	char (*removed)[NODE_ID_SIZE];
	size_t removed_count;
	struct roster_key *keys;
	size_t key_count;
	struct roster_team *teams;
	size_t team_count;
};
void roster_fini(struct roster *r);
int roster_parse(struct str json, struct roster *ret_roster, struct error *err);

/* What this node should hold: of one name there may be two versions while one follows the other. */
struct assignment {
	struct version *versions;
	struct assigned_how {
		bool load;   /* false: on disk is enough */
		bool paused; /* not to be fetched further for now */
	} * how;             /* of the version of the same index */
	size_t count;
	struct assigned_limit {
		struct calendar calendar;
		uint32_t receivers, senders; /* nodes among which receiving and sending are divided */
		bool other_sites;            /* traffic with other sites only; else any */
		char site[NODE_TEXT_SIZE];   /* not empty: traffic with this site only */
	} * limits;
	size_t limit_count;
};
void assignment_fini(struct assignment *a);
int assignment_parse(struct str json, struct assignment *ret_assignment, struct error *err);

/* Blocking, for `mdn join` and `mdn dev`: asks the center with a token, writes DATA/identity. Safe to repeat after a
 * lost reply. */
int member_join(struct str center_url, struct str token, struct str data, struct str name, struct str site,
                uint32_t roles, struct error *err);

struct member;
struct member_options {
	struct str data, center_url; /* center_url empty: the one of identity/node.json */
	/* Fills the report's models, seen, rtts, state; the rest is filled by member. Called before each report. */
	void (*fill_report)(void *arg, struct node_report *report);
	void (*on_roster)(void *arg, const struct roster *roster);
	void (*on_assign)(void *arg, const struct assignment *assignment);
	/* Who to take what from; not kept over a restart. */
	void (*on_spread)(void *arg, const struct spread_place *places, size_t count);
	void (*on_drain)(void *arg);
	void *arg;
	struct str name, site, node_url, api_url;
	uint32_t roles;
};
/* Reads the identity; the saved roster and assignment are delivered before the center answers. */
int member_new(struct loop *loop, const struct member_options *options, struct member **ret_member, struct error *err);
void member_free(struct member *m);
struct tls_context *member_tls(struct member *m); /* for servers and clients of the node port; renewed in place */
struct http_client *member_bulk_client(struct member *m); /* the same for what yields to all other traffic: models */
struct http_client *member_client(struct member *m);      /* mutual TLS to other nodes; shared by all rooms */
struct str member_id(const struct member *m);
struct str member_domain(const struct member *m);
/* The center that last took our watch; the id is empty where it is not known yet. */
void member_center_now(const struct member *m, struct str *ret_url, struct str *ret_id);
const struct roster *member_roster(const struct member *m);
void member_report_soon(struct member *m); /* something changed: report within 20 ms */
/* Posts to every scheduler that is done with the last one; what fails is not sent again. */
void member_tell_schedulers(struct member *m, const char *path, struct str body);
bool member_is_removed(const struct member *m, struct str identity);
/* May this peer use the node port? E_AUTH: no certificate, E_FORBIDDEN: another domain, or a removed node. A center's
 * node port lets anonymous peers in for joining and renewal, so the wiring asks this before any handler but
 * center_handle. */
int member_admit(const struct member *m, struct str identity, struct error *err);

#endif
