/* SPDX-License-Identifier: Apache-2.0 */
/* How: what a token says about itself is only used to choose a key; everything else is believed after the signature has
 * been checked with that key, by OpenSSL. An ES256 signature is two plain numbers and becomes DER for it.
 */
#include "net/jwt.h"

#include "base/clock.h"

#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <stdlib.h>

#define KEY_ID_MAX 256
#define RSA_LEAST 256 /* bytes: RFC 7518, section 3.3 */
#define RSA_MOST 1024
#define EC_SIZE 32
#define WALL_MOST_S 253402300799.0 /* the year 9999 */

struct jwt_key {
	char *id; /* NULL: it has none */
	bool rsa; /* else EC P-256 */
	EVP_PKEY *key;
};

struct jwt_keys {
	struct jwt_key keys[JWT_KEYS_MAX];
	size_t count;
};

/* ---- keys ------------------------------------------------------------------------------------------------ */

static bool bytes_of(yyjson_val *obj, const char *name, uint8_t *to, size_t size, size_t *ret_len)
{
	struct str text = {0};

	return json_str(obj, name, &text, NULL) == 0 && base64url_decode(text, to, size, ret_len) == 0;
}

static EVP_PKEY *key_from(const char *kind, OSSL_PARAM_BLD *params)
{
	OSSL_PARAM *list = OSSL_PARAM_BLD_to_param(params);
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, kind, NULL), *check = NULL;
	EVP_PKEY *key = NULL;

	if (!list || !ctx || EVP_PKEY_fromdata_init(ctx) != 1 ||
	    EVP_PKEY_fromdata(ctx, &key, EVP_PKEY_PUBLIC_KEY, list) != 1 ||
	    !(check = EVP_PKEY_CTX_new_from_pkey(NULL, key, NULL)) || EVP_PKEY_public_check(check) != 1) {
		EVP_PKEY_free(key);
		key = NULL;
	}
	EVP_PKEY_CTX_free(check);
	EVP_PKEY_CTX_free(ctx);
	OSSL_PARAM_free(list);
	return key;
}

static EVP_PKEY *rsa_key(yyjson_val *jwk)
{
	uint8_t n[RSA_MOST], e[4];
	size_t n_len, e_len;
	EVP_PKEY *key = NULL;

	if (!bytes_of(jwk, "n", n, sizeof(n), &n_len) || n_len < RSA_LEAST || n[0] == 0 ||
	    !bytes_of(jwk, "e", e, sizeof(e), &e_len) || e_len == 0)
		return NULL;
	OSSL_PARAM_BLD *params = OSSL_PARAM_BLD_new();
	BIGNUM *modulus = BN_bin2bn(n, (int)n_len, NULL), *exponent = BN_bin2bn(e, (int)e_len, NULL);
	if (params && modulus && exponent && OSSL_PARAM_BLD_push_BN(params, OSSL_PKEY_PARAM_RSA_N, modulus) == 1 &&
	    OSSL_PARAM_BLD_push_BN(params, OSSL_PKEY_PARAM_RSA_E, exponent) == 1)
		key = key_from("RSA", params);
	BN_free(modulus);
	BN_free(exponent);
	OSSL_PARAM_BLD_free(params);
	return key;
}

static EVP_PKEY *ec_key(yyjson_val *jwk)
{
	uint8_t point[1 + 2 * EC_SIZE] = {POINT_CONVERSION_UNCOMPRESSED};
	size_t x_len, y_len;
	EVP_PKEY *key = NULL;

	if (!yyjson_equals_str(yyjson_obj_get(jwk, "crv"), "P-256") ||
	    !bytes_of(jwk, "x", point + 1, EC_SIZE, &x_len) || x_len != EC_SIZE ||
	    !bytes_of(jwk, "y", point + 1 + EC_SIZE, EC_SIZE, &y_len) || y_len != EC_SIZE)
		return NULL;
	OSSL_PARAM_BLD *params = OSSL_PARAM_BLD_new();
	if (params && OSSL_PARAM_BLD_push_utf8_string(params, OSSL_PKEY_PARAM_GROUP_NAME, "prime256v1", 0) == 1 &&
	    OSSL_PARAM_BLD_push_octet_string(params, OSSL_PKEY_PARAM_PUB_KEY, point, sizeof(point)) == 1)
		key = key_from("EC", params); /* a point that is not on the curve makes none */
	OSSL_PARAM_BLD_free(params);
	return key;
}

static bool is_absent_or(yyjson_val *jwk, const char *name, const char *text)
{
	yyjson_val *v = yyjson_obj_get(jwk, name);

	return !v || yyjson_equals_str(v, text);
}

static void take_key(struct jwt_keys *keys, yyjson_val *jwk)
{
	bool rsa = yyjson_equals_str(yyjson_obj_get(jwk, "kty"), "RSA");
	struct str id = {0};

	if (!is_absent_or(jwk, "use", "sig") || !is_absent_or(jwk, "alg", rsa ? "RS256" : "ES256") ||
	    (!rsa && !yyjson_equals_str(yyjson_obj_get(jwk, "kty"), "EC")) || json_str(jwk, "kid", &id, NULL) < 0 ||
	    id.len > KEY_ID_MAX || keys->count == JWT_KEYS_MAX)
		return;
	EVP_PKEY *key = rsa ? rsa_key(jwk) : ec_key(jwk);
	ERR_clear_error();
	if (key)
		keys->keys[keys->count++] =
		    (struct jwt_key){.id = id.base ? str_dup(id) : NULL, .rsa = rsa, .key = key};
}

int jwt_keys_parse(struct str jwks, struct jwt_keys **ret_keys, struct error *err)
{
	yyjson_doc *doc;
	yyjson_val *list = NULL, *jwk;
	yyjson_arr_iter it;
	int rc = json_parse(jwks, &doc, err);

	if (rc < 0)
		return rc;
	struct jwt_keys *keys = NEW(struct jwt_keys);
	rc = json_arr(yyjson_doc_get_root(doc), "keys", &list, err);
	yyjson_arr_iter_init(list, &it);
	while (rc == 0 && (jwk = yyjson_arr_iter_next(&it)) != NULL)
		take_key(keys, jwk);
	yyjson_doc_free(doc);
	if (rc == 0 && keys->count == 0)
		rc = error_set(err, E_INVAL, "no key for RS256 (RSA, 2048 bits or more) or ES256 (P-256) is in it");
	if (rc < 0)
		jwt_keys_free(keys);
	else
		*ret_keys = keys;
	return rc;
}

void jwt_keys_free(struct jwt_keys *keys)
{
	for (size_t i = 0; keys && i < keys->count; i++) {
		free(keys->keys[i].id);
		EVP_PKEY_free(keys->keys[i].key);
	}
	free(keys);
}

size_t jwt_keys_count(const struct jwt_keys *keys)
{
	return keys->count;
}

/* ---- tokens ------------------------------------------------------------------------------------------------ */

struct token {
	struct str head, claims, signature; /* base64url */
	struct str is_signed;               /* the first two with their dot */
};

static bool cut(struct str text, struct token *ret_token)
{
	struct str rest, more;

	ret_token->head = str_cut(text, '.', &rest);
	ret_token->claims = str_cut(rest, '.', &more);
	ret_token->signature = more;
	ret_token->is_signed = (struct str){text.base, ret_token->head.len + 1 + ret_token->claims.len};
	return text.len <= JWT_MAX && ret_token->head.len && ret_token->claims.len && more.len &&
	       !memchr(more.base, '.', more.len);
}

bool jwt_is_one(struct str text)
{
	struct token t;

	return str_starts(text, STR("eyJ")) && cut(text, &t);
}

static int read_part(struct str part, const char *what, yyjson_doc **ret_doc, struct error *err)
{
	uint8_t *bytes = mem_new(part.len + 1);
	size_t len = 0;
	int rc = base64url_decode(part, bytes, part.len, &len);

	if (rc == 0)
		rc = json_parse((struct str){(const char *)bytes, len}, ret_doc, NULL);
	free(bytes);
	if (rc == 0 && !yyjson_is_obj(yyjson_doc_get_root(*ret_doc))) {
		yyjson_doc_free(*ret_doc);
		rc = E_INVAL;
	}
	return rc < 0 ? error_set(err, E_AUTH, "the token's %s cannot be read", what) : 0;
}

/* r and s, 32 bytes each (RFC 7518, section 3.4), as DER. Freed with OPENSSL_free. */
static uint8_t *der_of(const uint8_t *plain, size_t *ret_len)
{
	ECDSA_SIG *sig = ECDSA_SIG_new();
	BIGNUM *r = BN_bin2bn(plain, EC_SIZE, NULL), *s = BN_bin2bn(plain + EC_SIZE, EC_SIZE, NULL);
	uint8_t *der = NULL;

	if (!sig || !r || !s || ECDSA_SIG_set0(sig, r, s) != 1) {
		BN_free(r);
		BN_free(s);
	} else {
		int len = i2d_ECDSA_SIG(sig, &der);

		*ret_len = len > 0 ? (size_t)len : 0;
	}
	ECDSA_SIG_free(sig);
	return der;
}

static bool signature_holds(const struct jwt_key *key, const struct token *t)
{
	uint8_t raw[RSA_MOST], *der = NULL;
	size_t len, der_len = 0;
	bool good = false;

	if (base64url_decode(t->signature, raw, sizeof(raw), &len) < 0 || (!key->rsa && len != 2 * EC_SIZE))
		return false;
	if (!key->rsa && !(der = der_of(raw, &der_len)))
		return false;
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	if (ctx && EVP_DigestVerifyInit_ex(ctx, NULL, "SHA256", NULL, NULL, key->key, NULL) == 1)
		good = EVP_DigestVerify(ctx, der ? der : raw, der ? der_len : len, (const uint8_t *)t->is_signed.base,
		                        t->is_signed.len) == 1;
	EVP_MD_CTX_free(ctx);
	OPENSSL_free(der);
	ERR_clear_error();
	return good;
}

static int check_signature(const struct jwt_keys *keys, yyjson_val *head, const struct token *t, bool *ret_unknown_key,
                           struct error *err)
{
	yyjson_val *alg = yyjson_obj_get(head, "alg");
	bool rsa = yyjson_equals_str(alg, "RS256"), tried = false;
	struct str id = {0};

	if (!rsa && !yyjson_equals_str(alg, "ES256"))
		return error_set(err, E_AUTH, "the token is not signed with RS256 or ES256");
	if (yyjson_obj_get(head, "crit"))
		return error_set(err, E_AUTH, "the token wants something to be understood (crit) that is not");
	if (json_str(head, "kid", &id, NULL) < 0)
		return error_set(err, E_AUTH, "the token's key id is not a text");
	for (size_t i = 0; i < keys->count; i++) {
		const struct jwt_key *key = &keys->keys[i];

		if (key->rsa != rsa || (id.base && (!key->id || !str_equal(id, str_from(key->id)))))
			continue;
		tried = true;
		if (signature_holds(key, t))
			return 0;
	}
	*ret_unknown_key = !tried;
	return error_set(err, E_AUTH,
	                 tried ? "the token's signature does not hold"
	                       : "no key is known of the name that the token gives");
}

/* ---- claims -------------------------------------------------------------------------------------------------- */

static bool is_for(yyjson_val *audience, struct str own)
{
	yyjson_val *v;
	yyjson_arr_iter it;

	if (yyjson_is_str(audience))
		return str_equal((struct str){yyjson_get_str(audience), yyjson_get_len(audience)}, own);
	yyjson_arr_iter_init(audience, &it);
	while ((v = yyjson_arr_iter_next(&it)) != NULL)
		if (yyjson_is_str(v) && str_equal((struct str){yyjson_get_str(v), yyjson_get_len(v)}, own))
			return true;
	return false;
}

/* Seconds, perhaps with a fraction; false: there, but none. */
static bool date_of(yyjson_val *claims, const char *name, int64_t *ret_us)
{
	yyjson_val *v = yyjson_obj_get(claims, name);

	if (!v)
		return true;
	double seconds = yyjson_get_num(v);
	if (!yyjson_is_num(v) || !(seconds >= 0 && seconds <= WALL_MOST_S))
		return false;
	*ret_us = (int64_t)(seconds * US_PER_S);
	return true;
}

static int check_claims(yyjson_val *claims, const struct jwt_rules *rules, int64_t now_us, int64_t *ret_until_us,
                        struct error *err)
{
	int64_t until = -1, from = 0;
	struct str issuer = {0};

	if (json_str(claims, "iss", &issuer, NULL) < 0 || !str_equal(issuer, rules->issuer))
		return error_set(err, E_AUTH, "the token is of another issuer (iss)");
	if (!is_for(yyjson_obj_get(claims, "aud"), rules->audience))
		return error_set(err, E_AUTH, "the token is not meant for this service (aud)");
	if (!date_of(claims, "exp", &until) || !date_of(claims, "nbf", &from) || until < 0)
		return error_set(err, E_AUTH, "the token does not say in seconds until when it is good (exp, nbf)");
	if (now_us >= until + rules->skew_us)
		return error_set(err, E_AUTH, "the token has expired (exp)");
	if (now_us < from - rules->skew_us)
		return error_set(err, E_AUTH, "the token is not good yet (nbf)");
	*ret_until_us = until + rules->skew_us;
	return 0;
}

int jwt_verify(const struct jwt_keys *keys, const struct jwt_rules *rules, struct str text, int64_t now_wall_us,
               yyjson_doc **ret_claims, int64_t *ret_until_us, bool *ret_unknown_key, struct error *err)
{
	yyjson_doc *head = NULL, *claims = NULL;
	struct token t;

	*ret_unknown_key = false;
	if (!cut(text, &t))
		return error_set(err, E_AUTH, "the token does not have three parts, or is longer than %d bytes",
		                 JWT_MAX);
	int rc = read_part(t.head, "head", &head, err);
	if (rc < 0)
		return rc;
	rc = check_signature(keys, yyjson_doc_get_root(head), &t, ret_unknown_key, err);
	yyjson_doc_free(head);
	if (rc < 0 || (rc = read_part(t.claims, "claims", &claims, err)) < 0)
		return rc;
	rc = check_claims(yyjson_doc_get_root(claims), rules, now_wall_us, ret_until_us, err);
	if (rc < 0)
		yyjson_doc_free(claims);
	else
		*ret_claims = claims;
	return rc;
}
