/* SPDX-License-Identifier: Apache-2.0 */
/* tokens.h - the second way in: tokens (JWT) of an identity provider in place of API keys. OpenID Connect without the
 * dialogue: clients get their tokens elsewhere, here they are checked (net/jwt.h) and a claim names the tenant.
 *
 * The provider's public keys come from a file or a URL. Those of a URL are asked for again every ten minutes, and
 * sooner when a token names one that is not known; the last good ones stay, also over a restart. Loop thread.
 */
#ifndef MDN_GATEWAY_TOKENS_H
#define MDN_GATEWAY_TOKENS_H

#include "base/digest.h"
#include "net/jwt.h"
#include "net/outside.h"
#include "serve/gateway/gateway.h"

enum { TOKEN_TENANT_SIZE = 64, TOKEN_TEAM_SIZE = 27, TOKENS_KNOWN = 1024 }; /* a team and a hash fit a tenant */

struct token_known { /* verified a moment ago; in the place its hash says */
	struct digest digest;
	char tenant[TOKEN_TENANT_SIZE];
	int64_t until_us; /* wall clock; 0: nothing is here */
};

struct tokens {
	struct loop *loop;
	char *source, *issuer, *audience, *claim, *team, *kept; /* source NULL: no tokens are taken */
	struct jwt_keys *keys;                                  /* NULL: none could be had yet */
	struct token_known *known;
	struct outside *outside; /* NULL: source is a file */
	struct outside_call *call;
	struct buf body;
	int64_t asked_us, next_us;
};

int tokens_set(struct tokens *t, struct loop *loop, const struct gateway_tokens *options, struct error *err);
void tokens_fini(struct tokens *t);
void tokens_tick(struct tokens *t);
/* Whose token this is: "jwt:" and the claim, with the team's claim and another colon before it if there is one. E_AUTH;
 * E_UNAVAILABLE: the provider's keys are not here yet. */
int tokens_check(struct tokens *t, struct str token, char ret_tenant[static TOKEN_TENANT_SIZE], struct error *err);
bool tokens_named(const char *tenant); /* it is that of a token */
/* Of a tenant that tokens_check named; false: it is none, or there are no teams. */
bool tokens_team(const struct tokens *t, const char *tenant, char ret_team[static TOKEN_TEAM_SIZE]);

#endif
