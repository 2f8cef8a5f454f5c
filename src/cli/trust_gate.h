/* SPDX-License-Identifier: Apache-2.0 */
/* trust_gate.h - no model reaches an engine before the trust policy has said yes to it.
 *
 * Signatures are read and the content of a version is hashed once, in a job; what was found good is remembered in
 * DATA/trust.db by version and policy, as are the highest channel statements of what was loaded, which outlive every
 * policy. Without a policy everything is let through. Loop thread.
 */
#ifndef MDN_CLI_TRUST_GATE_H
#define MDN_CLI_TRUST_GATE_H

#include "core/placement.h"
#include "net/loop.h"
#include "store/blob.h"
#include "store/version.h"

struct trust_gate;
struct trust_gate_options {
	struct loop *loop;
	struct blob_store *blobs;
	const char *data;
	struct placement_node self; /* its texts are borrowed */
	/* err NULL: it may be loaded. On a later turn of the loop when the content had to be looked at. */
	void (*on_verdict)(void *arg, const struct version *v, const struct error *err);
	void *arg;
};
/* policy_path empty: none. */
int trust_gate_new(const struct trust_gate_options *o, const char *policy_path, struct trust_gate **ret_gate,
                   struct error *err);
void trust_gate_free(struct trust_gate *g); /* jobs may still run: the memory goes with the last */
/* Whether the file could be used; nothing changes. g may be NULL. */
int trust_gate_try(const struct trust_gate *g, const char *policy_path, struct error *err);
/* Reads it again. On error the old one stays. */
int trust_gate_reload(struct trust_gate *g, const char *policy_path, struct error *err);
bool trust_gate_has_policy(const struct trust_gate *g);
/* loads: it is to be loaded now, so that older statements on its channel are not believed any more; a version that is
 * only to be on disk does not shut out the one before. serves: it answers requests now; then neither the age of its
 * statement counts nor whether there was a newer one. */
void trust_gate_ask(struct trust_gate *g, const struct version *v, bool loads, bool serves);

#endif
