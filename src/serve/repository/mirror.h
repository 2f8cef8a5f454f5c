/* SPDX-License-Identifier: Apache-2.0 */
/* mirror.h - pulls through: what a client asks one of the doors for and is not here is taken from elsewhere.
 *
 * In front of the doors, which know nothing of it: the first question for a name and revision waits until its manifest
 * is here (asked for once, however many wait); blobs are answered while they come (through.h). A revision is asked for
 * again when it was last found good longer ago than `fresh_us`; when the other side does not answer, what is here is
 * given. A name under which something was pushed here is never asked for elsewhere: it would be told to others, and
 * theirs would mix with ours. Also /mdn/v1/repository/import. Loop thread.
 */
#ifndef MDN_SERVE_REPOSITORY_MIRROR_H
#define MDN_SERVE_REPOSITORY_MIRROR_H

#include "serve/repository/through.h"

int mirror_new(struct repository *r, const struct repository_mirror *options, struct error *err); /* sets r->mirror */
void mirror_free(struct repository *r); /* answers who waits; jobs may still run */
void mirror_drop(struct repository *r); /* after the last job */
/* True: answered, or waits and goes to `then` by itself. */
typedef void mirror_then(struct repository *r, struct http_exchange *x);
bool mirror_first(struct repository *r, struct http_exchange *x, mirror_then *then);
bool mirror_import(struct repository *r, struct http_exchange *x); /* VERSIONS_PATH "import" */

#endif
