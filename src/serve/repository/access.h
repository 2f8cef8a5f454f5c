/* SPDX-License-Identifier: Apache-2.0 */
/* access.h - may this request read or change that repository?
 *
 * Decides only; each door (OCI, Hugging Face, Ollama) gives the answer its own shape. On the node port the caller is
 * known by its certificate and was let in before; on the plain port a key of the network counts (Bearer, or the
 * password of Basic, whatever the user name). Whatever the rules, a browser that another site leads here is refused:
 * by its Host where ours are known, and by its Origin when it would write. Loop thread.
 */
#ifndef MDN_SERVE_REPOSITORY_ACCESS_H
#define MDN_SERVE_REPOSITORY_ACCESS_H

#include "serve/repository/repository_private.h"

enum access_need { ACCESS_PULL, ACCESS_PUSH };

/* 0: go on. E_AUTH: no key, or none we know: say who you are. E_FORBIDDEN: known, but not for this, or a browser led
 * astray. repo may be empty: anything at all, private names included. */
int access_check(struct repository *r, struct http_exchange *x, struct str repo, enum access_need need,
                 struct error *err);
/* Whoever may read `repo` may read `other` too. */
bool access_shares(const struct repository *r, struct str repo, struct str other);
/* Whose key came along (its id), or "" when none that we know did. Over the node port: "". */
void access_tenant(struct repository *r, struct http_exchange *x, char ret_tenant[static 32]);
/* For records of who did what: the id of the key, "operator/NAME" over the node port, or "". */
void access_who(struct repository *r, struct http_exchange *x, char ret_who[static 64]);
/* A key is given, whether we know it or not: a door tells "log in" from "that key is wrong" by it. */
bool access_has_key(const struct http_exchange *x);

/* The name in Host is certainly this repository's: one of `hosts`, or loopback from loopback. */
bool access_host_is_ours(struct repository *r, struct http_exchange *x);

/* /v2/: whether this client must log in before it goes on. */
int access_ping(struct repository *r, struct http_exchange *x, struct error *err);
/* Appends what WWW-Authenticate says: Basic where everybody needs a key; else Bearer with our token service, because
 * clients without a login can get on only with that. */
void access_challenge(struct repository *r, struct http_exchange *x, struct buf *out);
/* The token service's answer (JSON). E_AUTH: a key that we do not know. */
int access_token(struct repository *r, struct http_exchange *x, struct buf *out, struct error *err);

void access_init(struct repository *r, const struct repository_options *options);
void access_fini(struct repository *r);

#endif
