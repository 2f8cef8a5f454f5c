/* SPDX-License-Identifier: Apache-2.0 */
/* access.h - may this request read or change that repository?
 *
 * Decides only; each door (OCI, Hugging Face, Ollama) gives the answer its own shape. On the node port the caller is
 * known by its certificate and was let in before; on the plain port a key of the network counts (Bearer, or the
 * password of Basic). Loop thread.
 */
#ifndef MDN_SERVE_REPOSITORY_ACCESS_H
#define MDN_SERVE_REPOSITORY_ACCESS_H

#include "serve/repository/repository_private.h"

enum access_need { ACCESS_PULL, ACCESS_PUSH };

/* 0: go on. E_AUTH: no key, or none we know: say who you are. E_FORBIDDEN: known, but not for this. repo may be empty:
 * anything at all. */
int access_check(struct repository *r, struct http_exchange *x, struct str repo, enum access_need need,
                 struct error *err);

#endif
