/* SPDX-License-Identifier: Apache-2.0 */
/* jwt.h - JSON Web Tokens of an identity provider: whose signature, for whom, until when.
 *
 * RFC 7519 (JWT), 7515 (JWS, compact form), 7517 (JWKS), 8725 (what goes wrong elsewhere). RS256 and ES256 with public
 * keys, nothing else: an algorithm that a token names counts only if the key is of its kind, so there is no `none` and
 * no HMAC with a public key. Pure computation, any thread; keys do not change once they are read.
 * Errors: E_AUTH with words that never repeat the token; E_INVAL: the keys are none.
 */
#ifndef MDN_NET_JWT_H
#define MDN_NET_JWT_H

#include "base/error.h"
#include "base/json.h"
#include "base/str.h"

enum { JWT_MAX = 16384, JWT_KEYS_MAX = 64 };

struct jwt_keys;

/* A JWKS document. Keys of other kinds and uses are passed over; E_INVAL when none is left. */
int jwt_keys_parse(struct str jwks, struct jwt_keys **ret_keys, struct error *err);
void jwt_keys_free(struct jwt_keys *keys);
size_t jwt_keys_count(const struct jwt_keys *keys);

struct jwt_rules {
	struct str issuer, audience; /* both must be met */
	int64_t skew_us;             /* clocks differ */
};

bool jwt_is_one(struct str token); /* by its look: three parts, the first an object */
/* The claims, to be freed with yyjson_doc_free, and when the token ends. ret_unknown_key: it failed because no key is
 * called as it says; newer keys may help. */
int jwt_verify(const struct jwt_keys *keys, const struct jwt_rules *rules, struct str token, int64_t now_wall_us,
               yyjson_doc **ret_claims, int64_t *ret_until_us, bool *ret_unknown_key, struct error *err);

#endif
