/* SPDX-License-Identifier: Apache-2.0 */
/* versions_of.h - what a repository says of a version, and small things put into it. Blocking; as push.h. */
#ifndef MDN_CLI_VERSIONS_OF_H
#define MDN_CLI_VERSIONS_OF_H

#include "cli/options.h"
#include "cli/push.h"
#include "store/version.h"

/* The operator's client, or nobody's when --repository names a plain URL. */
int repository_client(const struct args *args, struct client **ret_client, struct error *err);
/* "name:tag"; E_NOTFOUND when the repository has no such version of a model. */
int repository_version(struct client *c, const struct repository_at *at, const char *model, struct version *ret_version,
                       struct error *err);
int repository_get_blob(struct client *c, const struct repository_at *at, const char *name, const struct digest *d,
                        size_t max_bytes, struct buf *out, struct error *err);
int repository_put_blob(struct client *c, const struct repository_at *at, const char *name, struct str content,
                        struct error *err);
int repository_put_manifest(struct client *c, const struct repository_at *at, const char *name, struct str manifest,
                            struct error *err); /* by its digest, without a tag */

#endif
