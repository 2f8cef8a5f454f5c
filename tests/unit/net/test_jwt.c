/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens of RFC 7515, tokens of our own making, and what people forge. */
#include "net/jwt.h"

#include "base/clock.h"

#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rsa.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define NOW_S 1000000000ll
#define CLAIMS "\"iss\":\"https://id\",\"aud\":\"mdn\",\"sub\":\"ann\",\"exp\":1000000100"

static const struct jwt_rules rules = {{"https://id", 10}, {"mdn", 3}, 30 * US_PER_S};

struct fixture {
	EVP_PKEY *rsa, *ec, *other;
	struct jwt_keys *keys;
	char jwks[4096];
};

static void part(struct buf *out, const void *bytes, size_t len)
{
	char *text = malloc(len * 4 / 3 + 5);

	size_t n = base64url_encode(bytes, len, text);
	buf_append(out, text, n);
	free(text);
}

static void put_number(struct buf *out, const char *name, EVP_PKEY *key, const char *param, int size)
{
	BIGNUM *n = NULL;
	unsigned char bytes[512];

	assert_int_equal(EVP_PKEY_get_bn_param(key, param, &n), 1);
	int len = size ? BN_bn2binpad(n, bytes, size) : BN_bn2bin(n, bytes);
	BN_free(n);
	buf_printf(out, ",\"%s\":\"", name);
	part(out, bytes, (size_t)len);
	buf_append_str(out, STR("\""));
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct buf out = {0};
	struct error err;

	f->rsa = EVP_RSA_gen(2048);
	f->ec = EVP_EC_gen("P-256");
	f->other = EVP_EC_gen("P-256");
	buf_append_str(
	    &out, STR("{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\"},{\"kty\":\"RSA\",\"kid\":\"r\",\"use\":\"sig\""));
	put_number(&out, "n", f->rsa, OSSL_PKEY_PARAM_RSA_N, 0);
	put_number(&out, "e", f->rsa, OSSL_PKEY_PARAM_RSA_E, 0);
	buf_append_str(&out, STR("},{\"kty\":\"EC\",\"crv\":\"P-256\",\"kid\":\"e\",\"alg\":\"ES256\""));
	put_number(&out, "x", f->ec, OSSL_PKEY_PARAM_EC_PUB_X, 32);
	put_number(&out, "y", f->ec, OSSL_PKEY_PARAM_EC_PUB_Y, 32);
	buf_append_str(&out, STR("}]}"));
	assert_int_equal(jwt_keys_parse(buf_str(&out), &f->keys, &err), 0);
	assert_int_equal(jwt_keys_count(f->keys), 2);
	str_copy(buf_str(&out), f->jwks, sizeof(f->jwks));
	buf_fini(&out);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	jwt_keys_free(f->keys);
	EVP_PKEY_free(f->rsa);
	EVP_PKEY_free(f->ec);
	EVP_PKEY_free(f->other);
	free(f);
	return 0;
}

/* EC signatures come as DER and leave as two numbers. */
static void put_signature(struct buf *out, EVP_PKEY *key, struct str text)
{
	unsigned char sig[512];
	size_t len = sizeof(sig);
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();

	assert_int_equal(EVP_DigestSignInit_ex(ctx, NULL, "SHA256", NULL, NULL, key, NULL), 1);
	assert_int_equal(EVP_DigestSign(ctx, sig, &len, (const unsigned char *)text.base, text.len), 1);
	EVP_MD_CTX_free(ctx);
	if (EVP_PKEY_is_a(key, "EC")) {
		const unsigned char *at = sig;
		ECDSA_SIG *two = d2i_ECDSA_SIG(NULL, &at, (long)len);
		unsigned char plain[64];

		BN_bn2binpad(ECDSA_SIG_get0_r(two), plain, 32);
		BN_bn2binpad(ECDSA_SIG_get0_s(two), plain + 32, 32);
		ECDSA_SIG_free(two);
		part(out, plain, 64);
	} else {
		part(out, sig, len);
	}
}

static struct buf token(EVP_PKEY *key, const char *head, const char *claims)
{
	struct buf out = {0};

	part(&out, head, strlen(head));
	buf_append_str(&out, STR("."));
	part(&out, claims, strlen(claims));
	if (key) {
		struct buf text = {0};

		buf_append_str(&text, buf_str(&out));
		buf_append_str(&out, STR("."));
		put_signature(&out, key, buf_str(&text));
		buf_fini(&text);
	}
	return out;
}

/* words NULL: it is good. */
static void expect_of(const struct jwt_keys *keys, struct str text, int64_t now_s, const char *words)
{
	yyjson_doc *claims;
	struct error err = {0};
	int64_t until;
	bool unknown;
	int rc = jwt_verify(keys, &rules, text, now_s * US_PER_S, &claims, &until, &unknown, &err);

	if (rc == 0) {
		if (words)
			fail_msg("a bad token is good, where it should be: %s", words);
		assert_int_equal(until, 1000000130ll * US_PER_S);
		yyjson_doc_free(claims);
		return;
	}
	assert_int_equal(rc, E_AUTH);
	if (!words || !strstr(err.text, words))
		fail_msg("\"%s\" is not \"%s\"", err.text, words ? words : "good");
}

static void expect(struct fixture *f, EVP_PKEY *key, const char *head, const char *claims, const char *words)
{
	struct buf text = token(key, head, claims);

	expect_of(f->keys, buf_str(&text), NOW_S, words);
	buf_fini(&text);
}

#define RS "{\"alg\":\"RS256\",\"kid\":\"r\"}"
#define ES "{\"alg\":\"ES256\",\"kid\":\"e\"}"

static void test_signatures_of_both_kinds_are_checked(void **state)
{
	struct fixture *f = *state;

	expect(f, f->rsa, RS, "{" CLAIMS "}", NULL);
	expect(f, f->ec, ES, "{" CLAIMS "}", NULL);
	expect(f, f->ec, "{\"alg\":\"ES256\"}", "{" CLAIMS "}", NULL); /* without a name all are tried */
	expect(f, f->other, ES, "{" CLAIMS "}", "signature does not hold");
	expect(f, f->ec, "{\"alg\":\"ES256\",\"kid\":\"old\"}", "{" CLAIMS "}", "no key is known");
	expect(f, f->ec, "{\"alg\":\"ES256\",\"kid\":\"r\"}", "{" CLAIMS "}", "no key is known");
	expect(f, f->ec, "{\"alg\":\"ES256\",\"kid\":\"e\",\"crit\":[\"b64\"]}", "{" CLAIMS "}", "crit");
}

/* RFC 7515, appendixes A.2 and A.3; they name no audience, which is looked at after the signature. */
static void test_the_tokens_of_rfc_7515(void **state)
{
#define PAYLOAD "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
	static const char rs[] = "eyJhbGciOiJSUzI1NiJ9." PAYLOAD
				 ".cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-"
				 "0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_"
				 "nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBM"
				 "Hlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-"
				 "eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6"
				 "LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
	static const char es[] =
	    "eyJhbGciOiJFUzI1NiJ9." PAYLOAD
	    ".DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
	static const char jwks[] =
	    "{\"keys\":[{\"kty\":\"RSA\",\"n\":\"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-"
	    "4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHS"
	    "XndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-"
	    "DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ\",\"e\":\"AQAB\"},"
	    "{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\","
	    "\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"}]}";
	struct jwt_keys *keys;
	struct error err;

	(void)state;
	assert_int_equal(jwt_keys_parse(str_from(jwks), &keys, &err), 0);
	assert_int_equal(jwt_keys_count(keys), 2);
	expect_of(keys, str_from(rs), NOW_S, "another issuer");
	expect_of(keys, str_from(es), NOW_S, "another issuer");
	char bent[sizeof(es)];
	memcpy(bent, es, sizeof(es));
	bent[30] ^= 1; /* of what is signed */
	expect_of(keys, (struct str){bent, sizeof(es) - 1}, NOW_S, "signature does not hold");
	jwt_keys_free(keys);
}

static void test_who_when_and_for_whom_must_be_right(void **state)
{
	struct fixture *f = *state;

#define OF(iss, aud, rest) "{\"iss\":" iss ",\"aud\":" aud rest "}"
#define EXP ",\"exp\":1000000100"
	expect(f, f->ec, ES, OF("\"https://id\"", "[\"x\",\"mdn\"]", EXP), NULL);
	expect(f, f->ec, ES, OF("\"https://id/\"", "\"mdn\"", EXP), "issuer");
	expect(f, f->ec, ES, OF("null", "\"mdn\"", EXP), "issuer");
	expect(f, f->ec, ES, OF("\"https://id\"", "\"mdn2\"", EXP), "aud");
	expect(f, f->ec, ES, OF("\"https://id\"", "[]", EXP), "aud");
	expect(f, f->ec, ES, OF("\"https://id\"", "{\"a\":\"mdn\"}", EXP), "aud");
	expect(f, f->ec, ES, OF("\"https://id\"", "\"mdn\"", ""), "until when");
	expect(f, f->ec, ES, OF("\"https://id\"", "\"mdn\"", ",\"exp\":\"1000000100\""), "until when");
	expect(f, f->ec, ES, OF("\"https://id\"", "\"mdn\"", ",\"exp\":1e300"), "until when");
	expect(f, f->ec, ES, OF("\"https://id\"", "\"mdn\"", ",\"exp\":-1"), "until when");
	expect(f, f->ec, ES, OF("\"https://id\"", "\"mdn\"", EXP ",\"nbf\":1000000031"), "not good yet");
	expect(f, f->ec, ES, OF("\"https://id\"", "\"mdn\"", EXP ",\"nbf\":1000000030"), NULL); /* clocks differ */
	struct buf text = token(f->ec, ES, "{" CLAIMS "}");
	expect_of(f->keys, buf_str(&text), 1000000129, NULL);
	expect_of(f->keys, buf_str(&text), 1000000130, "expired");
	buf_fini(&text);
}

/* RFC 8725, section 2. */
static void test_forged_tokens_are_refused(void **state)
{
	struct fixture *f = *state;
	struct buf text = token(NULL, "{\"alg\":\"none\"}", "{" CLAIMS "}"), parts;
	unsigned char mac[32];
	unsigned mac_len = sizeof(mac);

	buf_append_str(&text, STR("."));
	expect_of(f->keys, buf_str(&text), NOW_S, "three parts");
	buf_append_str(&text, STR("AA"));
	expect_of(f->keys, buf_str(&text), NOW_S, "RS256 or ES256");
	buf_fini(&text);
	/* The public key as the secret of an HMAC. */
	text = token(NULL, "{\"alg\":\"HS256\",\"kid\":\"r\"}", "{" CLAIMS "}");
	HMAC(EVP_sha256(), f->jwks, (int)strlen(f->jwks), (const unsigned char *)text.base, text.len, mac, &mac_len);
	buf_append_str(&text, STR("."));
	part(&text, mac, mac_len);
	expect_of(f->keys, buf_str(&text), NOW_S, "RS256 or ES256");
	buf_fini(&text);
	/* r and s zero (CVE-2022-21449), DER in place of two numbers, one byte more. */
	text = token(NULL, ES, "{" CLAIMS "}");
	buf_append_str(&text, STR("."));
	size_t at = text.len;
	const unsigned char zero[96] = {0}, der[70] = {0x30, 68, 2, 32, 1};
	part(&text, zero, 64);
	expect_of(f->keys, buf_str(&text), NOW_S, "signature does not hold");
	text.len = at;
	part(&text, der, 70);
	expect_of(f->keys, buf_str(&text), NOW_S, "signature does not hold");
	text.len = at;
	part(&text, zero, 65);
	expect_of(f->keys, buf_str(&text), NOW_S, "signature does not hold");
	buf_fini(&text);
	/* Claims of one under the signature of another; spellings of the same bytes. */
	text = token(f->ec, ES, "{" CLAIMS "}");
	parts = token(NULL, ES, "{" CLAIMS ",\"admin\":1}");
	for (at = text.len; text.base[at - 1] != '.'; at--)
		;
	buf_append(&parts, text.base + at - 1, text.len - at + 1);
	expect_of(f->keys, buf_str(&parts), NOW_S, "signature does not hold");
	buf_fini(&parts);
	buf_append_str(&text, STR("="));
	expect_of(f->keys, buf_str(&text), NOW_S, "signature does not hold");
	text.len--;
	buf_append_str(&text, STR(".AA"));
	expect_of(f->keys, buf_str(&text), NOW_S, "three parts");
	buf_fini(&text);
	expect(f, f->ec, "[]", "{" CLAIMS "}", "head cannot be read");
	expect(f, f->ec, "{\"alg\":[\"ES256\"]}", "{" CLAIMS "}", "RS256 or ES256");
	expect(f, f->ec, "{\"alg\":\"ES256\",\"kid\":7}", "{" CLAIMS "}", "key id");
	expect(f, f->ec, ES, "[1]", "claims cannot be read");
	expect_of(f->keys, STR(""), NOW_S, "three parts");
	expect_of(f->keys, STR(".."), NOW_S, "three parts");
	char *large = calloc(1, JWT_MAX + 8);
	memset(large, 'a', JWT_MAX + 1);
	large[3] = large[9] = '.';
	expect_of(f->keys, str_from(large), NOW_S, "three parts");
	free(large);
}

static void expect_no_keys(const char *jwks)
{
	struct jwt_keys *keys;
	struct error err = {0};

	assert_int_equal(jwt_keys_parse(str_from(jwks), &keys, &err), E_INVAL);
	assert_true(err.text[0]);
}

static void test_weak_and_strange_keys_are_passed_over(void **state)
{
	(void)state;
	expect_no_keys("");
	expect_no_keys("{}");
	expect_no_keys("{\"keys\":{}}");
	expect_no_keys("{\"keys\":[]}");
	expect_no_keys("{\"keys\":[1,null,{}]}");
	/* 512 bits; a point that is not on the curve; for encryption */
	expect_no_keys("{\"keys\":[{\"kty\":\"RSA\",\"e\":\"AQAB\",\"n\":"
	               "\"v9LQhFfPn0r4Sn7Yy2GqHkY7o1jQ1mI0m4m0Y0c3l2b1X5Q9ZQm1s0d1B8p4zqf3Jx8k2v7n6m5b4v3c2x1z0w\"}]}");
	expect_no_keys(
	    "{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\","
	    "\"y\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\"}]}");
	expect_no_keys("{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"use\":\"enc\","
	               "\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\","
	               "\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"}]}");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_signatures_of_both_kinds_are_checked),
	    cmocka_unit_test(test_the_tokens_of_rfc_7515),
	    cmocka_unit_test(test_who_when_and_for_whom_must_be_right),
	    cmocka_unit_test(test_forged_tokens_are_refused),
	    cmocka_unit_test(test_weak_and_strange_keys_are_passed_over),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
