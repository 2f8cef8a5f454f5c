/* SPDX-License-Identifier: Apache-2.0 */
/* attached.h - the signatures that hang on a manifest in another registry come along with it.
 *
 * Its referrers of Sigstore's bundle type, by the referrers API, or by the tag that stands for it where there is none
 * (distribution-spec, "Referrers Tag Schema"). Every byte is checked by its digest, and believed by nobody here: nodes
 * judge signatures. What cannot be had is left out, and said in the log; the model comes without. Loop thread.
 */
#ifndef MDN_SERVE_REPOSITORY_ATTACHED_H
#define MDN_SERVE_REPOSITORY_ATTACHED_H

#include "serve/repository/through.h"

struct attached_source {
	struct str base, id, to_name; /* https://HOST; its name there, and here */
	struct digest manifest;
};
struct attached;
typedef void attached_fn(void *arg);
/* fn is called once, never before it returns, when all that can be had is in memory. */
struct attached *attached_take(struct mirror *m, const struct attached_source *source, attached_fn *fn, void *arg);
void attached_free(struct attached *a); /* also when it still runs */
/* As if they were pushed to the repository. Blocks: in a job. */
int attached_publish(struct attached *a, struct repository *r, struct str who, struct error *err);

#endif
