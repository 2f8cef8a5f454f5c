/* SPDX-License-Identifier: Apache-2.0 */
/* Times are compared as serial numbers (RFC 1982), so that 2106 passes unnoticed. */
#include "net/dns_cookie.h"

#include "base/str.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <stdlib.h>

#define HEAD 8 /* version, reserved, time */
#define HASH 8

struct dns_cookies {
	EVP_MAC *mac;
	EVP_MAC_CTX *ctx;
};

struct dns_cookies *dns_cookies_new(void)
{
	struct dns_cookies *c = NEW(struct dns_cookies);
	c->mac = EVP_MAC_fetch(NULL, "SIPHASH", NULL);
	c->ctx = c->mac ? EVP_MAC_CTX_new(c->mac) : NULL;
	if (!c->ctx)
		abort(); /* OpenSSL's default provider always has it */
	return c;
}

void dns_cookies_free(struct dns_cookies *c)
{
	if (!c)
		return;
	EVP_MAC_CTX_free(c->ctx);
	EVP_MAC_free(c->mac);
	free(c);
}

static void hash(struct dns_cookies *c, const uint8_t *secret, const uint8_t *client, const uint8_t *head,
                 const uint8_t *address, size_t address_len, uint8_t ret_hash[static HASH])
{
	size_t size = HASH, len;
	const OSSL_PARAM params[] = {OSSL_PARAM_size_t("size", &size), OSSL_PARAM_END};
	if (EVP_MAC_init(c->ctx, secret, DNS_COOKIE_SECRET, params) != 1 ||
	    EVP_MAC_update(c->ctx, client, DNS_COOKIE_CLIENT) != 1 || EVP_MAC_update(c->ctx, head, HEAD) != 1 ||
	    EVP_MAC_update(c->ctx, address, address_len) != 1 || EVP_MAC_final(c->ctx, ret_hash, &len, HASH) != 1 ||
	    len != HASH)
		abort();
}

void dns_cookie_make(struct dns_cookies *c, const uint8_t secret[static DNS_COOKIE_SECRET],
                     const uint8_t client[static DNS_COOKIE_CLIENT], const uint8_t *address, size_t address_len,
                     uint32_t now_s, uint8_t ret_cookie[static DNS_COOKIE_SERVER])
{
	const uint8_t head[HEAD] = {
	    1, 0, 0, 0, (uint8_t)(now_s >> 24), (uint8_t)(now_s >> 16), (uint8_t)(now_s >> 8), (uint8_t)now_s};
	memcpy(ret_cookie, head, HEAD);
	hash(c, secret, client, head, address, address_len, ret_cookie + HEAD);
}

uint32_t dns_cookie_time(const uint8_t cookie[static DNS_COOKIE_SERVER])
{
	return (uint32_t)cookie[4] << 24 | (uint32_t)cookie[5] << 16 | (uint32_t)cookie[6] << 8 | cookie[7];
}

bool dns_cookie_check(struct dns_cookies *c, const uint8_t secret[static DNS_COOKIE_SECRET],
                      const uint8_t client[static DNS_COOKIE_CLIENT], const uint8_t *address, size_t address_len,
                      uint32_t now_s, const uint8_t cookie[static DNS_COOKIE_SERVER])
{
	uint8_t want[HASH];
	int32_t age_s = (int32_t)(now_s - dns_cookie_time(cookie));
	if (cookie[0] != 1 || age_s > DNS_COOKIE_AGE_S || age_s < -DNS_COOKIE_AHEAD_S)
		return false;
	hash(c, secret, client, cookie, address, address_len, want);
	return CRYPTO_memcmp(want, cookie + HEAD, HASH) == 0;
}
