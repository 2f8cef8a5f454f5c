/* SPDX-License-Identifier: Apache-2.0 */
/* trust.h - the trust policy: which signers a node wants on which models before it loads them. One YAML file.
 *
 * Rules are read from the top; the first whose models and nodes fit a model on this node counts. A model that no rule
 * fits is refused. A policy owns all its texts and is immutable once read; any thread. docs/signing.md shows a file.
 */
#ifndef MDN_STORE_TRUST_H
#define MDN_STORE_TRUST_H

#include "store/channel.h"
#include "store/envelope.h"

struct trust_signer {
	char *name;
	struct buf key_pem, roots_pem; /* one of them */
	char *subject;                 /* NULL: any */
};

struct trust_rule {
	char **models; /* patterns of NAME:TAG; `*` stands for any text */
	unsigned model_count;
	char *nodes; /* a selector, which the caller understands; NULL: all */
	char **signers;
	unsigned signer_count;
	bool require;             /* a signature by one of the signers */
	bool statements_required; /* of one of them on the channel, too */
};

struct trust_policy {
	struct trust_signer *signers;
	size_t signer_count;
	struct trust_rule *rules;
	size_t rule_count;
	struct digest digest; /* of the file and of all keys and roots it names */
};

/* Reads the file and the PEM files it names (relative to it). E_INVAL in words with the file's name. */
int trust_policy_read(const char *path, struct trust_policy **ret_policy, struct error *err);
/* The same from memory; PEM files are looked for in `folder`, NULL: there are none, keys are taken as they come. */
int trust_policy_parse(const char *name, struct str text, const char *folder, struct trust_policy **ret_policy,
                       struct error *err);
void trust_policy_free(struct trust_policy *p);

/* The rule for name:tag on this node; NULL: none fits. */
const struct trust_rule *trust_rule_for(const struct trust_policy *p, struct str name_tag,
                                        bool (*is_here)(void *arg, const char *nodes), void *arg);
/* Whether one of the rule's signers signed this; E_FORBIDDEN with the last reason. */
int trust_rule_verify(const struct trust_policy *p, const struct trust_rule *rule, const struct envelope *e,
                      char ret_who[ENVELOPE_NAME_SIZE], struct error *err);

/* ---- a whole verdict --------------------------------------------------------------------------- */

#define TRUST_SIGNATURES_MAX 16

struct trust_question {
	const struct version *version;
	const struct trust_policy *policy;
	const struct trust_rule *rule; /* requires a signature */
	const struct str *bundles;     /* what is attached to the version */
	size_t bundle_count;
	struct channel_seen seen;
	bool serves; /* it answers requests now: the age of its statement does not count */
	int64_t now_wall_us;
};
struct trust_answer {
	char who[ENVELOPE_NAME_SIZE];
	struct signed_model model; /* owned: the signature that counted, for the check of the content */
	struct channel_seen seen;  /* to be remembered */
};
/* E_FORBIDDEN: not to be loaded, in words. Content is not read. */
int trust_decide(const struct trust_question *q, struct trust_answer *ret_answer, struct error *err);

#endif
