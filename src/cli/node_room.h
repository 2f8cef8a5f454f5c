/* SPDX-License-Identifier: Apache-2.0 */
/* node_room.h - what the files of a node share: its rooms, and what each file does for the others.
 *
 *   node.c         start, stop, and the order of both
 *   node_doors.c   ports, and which room answers what comes in
 *   node_orders.c  what the control plane says: roster, assignment, limits
 *   node_models.c  from files on the disk to a loaded model: trust, decryption, engine
 *   node_reload.c  configuration that can change while the node runs
 *
 * All of it on the loop thread. Names without a comment are callbacks, told in the header of the room they are given
 * to.
 */
#ifndef MDN_CLI_NODE_ROOM_H
#define MDN_CLI_NODE_ROOM_H

#include "cli/blob_cache.h"
#include "cli/fetch_limits.h"
#include "cli/held_models.h"
#include "cli/log_ring.h"
#include "cli/machine.h"
#include "cli/node.h"
#include "cli/sealed_files.h"
#include "cli/trust_gate.h"
#include "core/key_ring.h"
#include "serve/center/center.h"
#include "serve/console/console.h"
#include "serve/gateway/gateway.h"
#include "serve/member/member.h"
#include "serve/peer/peer.h"
#include "serve/repository/keeper.h"
#include "serve/repository/repository.h"
#include "serve/scheduler/scheduler.h"

struct node {
	struct config *config;  /* as at start: rooms keep views of its texts */
	struct config *current; /* as last reloaded; often the same */
	const struct node_source *source;
	uint32_t roles;
	int lock_fd;
	struct loop *loop;
	struct log_ring *log_ring;
	struct member *member;
	struct blob_store *blobs;
	struct catalog *catalog;
	struct repository *repository;
	struct keeper *keeper;
	struct sealed_files *sealed;
	struct version wanted; /* files a repair asks for */
	struct center *center;
	struct console *console; /* with the center */
	struct peer *peer;
	struct gateway *gateway;
	struct trust_gate *gate; /* with the gateway */
	struct scheduler *scheduler;
	struct key_ring keys; /* for the repository; the gateway has its own */
	struct tls_context *api_tls;
	struct http_server *node_server, *api_server, *repository_server, *scheduler_server, *console_server;
	struct held_models held;
	struct blob_cache *cache; /* edges that are no repository */
	struct fetch_limits limits;
	struct machine machine;
	struct loop_timer *second;
	unsigned seconds; /* since start */
	bool draining, started;
	int64_t drain_from_us;
	struct loop_timer *drain_timer;
};

static inline bool node_has(const struct node *n, enum node_role role)
{
	return n->roles & role;
}

/* ---- node_doors.c ---- */
/* All ports; member and rooms are there. */
int node_listen(struct node *n, struct error *err);

/* ---- node_orders.c ---- */
void node_fill_report(void *arg, struct node_report *report);
void node_on_roster(void *arg, const struct roster *r);
void node_on_spread(void *arg, const struct spread_place *places, size_t count);
void node_on_assign(void *arg, const struct assignment *a);
void node_on_wanted(void *arg, const struct version_file *files, size_t count);
bool node_needs_blob(void *arg, const struct digest *d);
bool node_check_key(void *arg, struct str key, char ret_tenant[static 32]);
/* The stricter of what is configured and what the calendars of the center say now. */
void node_set_rates(struct node *n, const struct config *c);
void node_on_second(void *arg);
/* Tells the peer what is to be here: what is assigned, with signatures where a policy asks for them, and repairs. */
void node_fetch_assigned(struct node *n);

/* ---- node_models.c ---- */
void node_on_model_here(void *arg, const struct version *v);
/* What is on the disk, and what still answers, by the policy as it is now. */
void node_judge_again(struct node *n);
void node_on_verdict(void *arg, const struct version *v, const struct error *err);
void node_on_decrypted(void *arg, const struct digest *d, const struct error *err);

/* ---- node_reload.c ---- */
/* Over lists, which the caller frees. */
struct scheduler_options node_scheduler_options(const struct config *c, struct str **ret_lists);
void node_set_repository_rules(struct node *n, const struct config *c);
struct gateway_tokens node_gateway_tokens(const struct config *c);
void node_set_residence(struct node *n, const struct config *c); /* which models stay in memory */
int node_set_ollama_keys(struct node *n, const struct config *c, struct error *err);
/* try_only: says whether it would work. */
int node_load_api_tls(struct node *n, const struct config *c, bool try_only, struct error *err);
void node_on_reload(void *arg);

#endif
