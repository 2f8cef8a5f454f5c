/* SPDX-License-Identifier: Apache-2.0 */
/* held_models.h - what this node was told to hold, and what it says of it in reports.
 *
 * Of one name there may be two versions while one follows the other; at most one of them is to be loaded. Owns copies.
 * Loop thread.
 */
#ifndef MDN_CLI_HELD_MODELS_H
#define MDN_CLI_HELD_MODELS_H

#include "serve/gateway/gateway.h"
#include "serve/member/member.h"
#include "serve/peer/peer.h"

struct held_model {
	struct version version;
	struct assigned_how how;
	char *unloadable;    /* why the gateway would not take it; NULL: nothing said */
	bool allowed;        /* by the trust policy as it is now */
	uint64_t have_bytes; /* when it was paused */
};
struct held_models {
	struct held_model *items;
	size_t count;
	struct version *lingering; /* no longer assigned, but used by an engine when last looked at */
	size_t lingering_count;
};

void held_models_fini(struct held_models *h);
/* Takes what the assignment says, and over what is known of the versions that stay. */
void held_models_assign(struct held_models *h, const struct assignment *a, const struct peer *peer,
                        const struct gateway *gateway);
/* The one with that manifest under that name; NULL. */
struct held_model *held_models_find(const struct held_models *h, const struct version *v);
bool held_models_loads(const struct held_models *h, const struct version *like); /* some version of that name */
bool held_models_has_file(const struct held_models *h, const struct digest *d);
/* A file, its chunk list, or a signature of a version that is assigned, or that an engine still uses. */
bool held_models_needs(const struct held_models *h, const struct gateway *gateway, const struct digest *d);
/* One that is no longer assigned, and that no engine uses any more, becomes the caller's. False: there is none. */
bool held_models_take_gone(struct held_models *h, const struct gateway *gateway, struct version *ret_version);
bool held_models_lingers(const struct held_models *h, const struct digest *manifest);
bool held_models_has_manifest(const struct held_models *h, const struct digest *manifest);
/* "name:tag", cut to fit what a report takes. */
void held_name(const struct version *v, char ret_text[static NODE_TEXT_SIZE]);
bool held_same_files(const struct version *a, const struct version *b);
bool held_is_on_disk(const struct peer *peer, const struct version *v);
/* Fills models and model_count, those that answer first. */
void held_models_report(const struct held_models *h, const struct peer *peer, const struct gateway *gateway,
                        struct node_report *report);

#endif
