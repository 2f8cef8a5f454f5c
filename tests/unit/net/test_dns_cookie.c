/* SPDX-License-Identifier: Apache-2.0 */
/* Server cookies against the vectors of RFC 9018, appendix A, and what must not be taken for one. */
#include "net/dns_cookie.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void bytes_of(const char *hex, uint8_t *ret, size_t len)
{
	assert_int_equal(strlen(hex), 2 * len);
	for (size_t i = 0; i < len; i++)
		assert_int_equal(sscanf(hex + 2 * i, "%2hhx", &ret[i]), 1);
}

static const struct vector {
	const char *secret, *client, *address, *cookie;
	uint32_t made_s;
} vectors[] = {
    {"e5e973e5a6b2a43f48e7dc849e37bfcf", "2464c4abcf10c957", "198.51.100.100", "010000005cf79f111f8130c3eee29480",
     1559731985},
    {"e5e973e5a6b2a43f48e7dc849e37bfcf", "2464c4abcf10c957", "198.51.100.100", "010000005cf7a871d4a564a1442aca77",
     1559734385},
    {"e5e973e5a6b2a43f48e7dc849e37bfcf", "fc93fc62807ddb86", "203.0.113.203", "010000005cf7a9acf73a7810aca2381e",
     1559734700},
    {"445536bcd2513298075a5d379663c962", "22681ab97d52c298", "2001:db8:220:1:59de:d0f4:8769:82b8",
     "010000005cf7c609a6bb79d16625507a", 1559741961},
};

struct held {
	uint8_t secret[16], client[8], address[16], cookie[16];
	size_t address_len;
};

static struct held held_of(const struct vector *v)
{
	struct held h = {.address_len = strchr(v->address, ':') ? 16 : 4};
	bytes_of(v->secret, h.secret, 16);
	bytes_of(v->client, h.client, 8);
	bytes_of(v->cookie, h.cookie, 16);
	assert_int_equal(inet_pton(h.address_len == 4 ? AF_INET : AF_INET6, v->address, h.address), 1);
	return h;
}

static void test_vectors_of_rfc_9018(void **unused)
{
	struct dns_cookies *c = dns_cookies_new();
	for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
		struct held h = held_of(&vectors[i]);
		uint8_t made[16];
		dns_cookie_make(c, h.secret, h.client, h.address, h.address_len, vectors[i].made_s, made);
		assert_memory_equal(made, h.cookie, 16);
		assert_true(
		    dns_cookie_check(c, h.secret, h.client, h.address, h.address_len, vectors[i].made_s, h.cookie));
		assert_int_equal(dns_cookie_time(h.cookie), vectors[i].made_s);
	}
	/* A.3: the reserved bytes count in the hash and are whatever the other server put there. */
	struct held h = held_of(&vectors[2]);
	bytes_of("01abcdef5cf78f71a314227b6679ebf5", h.cookie, 16);
	assert_true(dns_cookie_check(c, h.secret, h.client, h.address, 4, 1559727985 + 3600, h.cookie));
	dns_cookies_free(c);
}

static void test_nothing_else_is_taken(void **unused)
{
	struct dns_cookies *c = dns_cookies_new();
	struct held h = held_of(&vectors[0]);
	uint32_t made_s = vectors[0].made_s;
	assert_true(dns_cookie_check(c, h.secret, h.client, h.address, 4, made_s + DNS_COOKIE_AGE_S, h.cookie));
	assert_false(dns_cookie_check(c, h.secret, h.client, h.address, 4, made_s + DNS_COOKIE_AGE_S + 1, h.cookie));
	assert_true(dns_cookie_check(c, h.secret, h.client, h.address, 4, made_s - DNS_COOKIE_AHEAD_S, h.cookie));
	assert_false(dns_cookie_check(c, h.secret, h.client, h.address, 4, made_s - DNS_COOKIE_AHEAD_S - 1, h.cookie));
	for (size_t i = 0; i < 16; i++) { /* any bit of it, of the client's, of the address, of the secret */
		h.cookie[i] ^= 1;
		assert_false(dns_cookie_check(c, h.secret, h.client, h.address, 4, made_s, h.cookie));
		h.cookie[i] ^= 1;
		uint8_t *others[] = {&h.secret[i], &h.client[i % 8], &h.address[i % 4]};
		for (size_t n = 0; n < 3; n++) {
			*others[n] ^= 0x80;
			assert_false(dns_cookie_check(c, h.secret, h.client, h.address, 4, made_s, h.cookie));
			*others[n] ^= 0x80;
		}
	}
	assert_true(dns_cookie_check(c, h.secret, h.client, h.address, 4, made_s, h.cookie));
	dns_cookies_free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_vectors_of_rfc_9018),
	    cmocka_unit_test(test_nothing_else_is_taken),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
