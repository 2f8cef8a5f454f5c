/* SPDX-License-Identifier: Apache-2.0 */
/* The prefix map against a table that tries every entry, and the promise of the RFC 7871 scope. */
#include "core/lpm.h"

#include "base/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static struct ip ip_from(const char *text)
{
	struct ip ip;
	assert_int_equal(ip_parse(str_from(text), &ip), 0);
	return ip;
}

static struct ip_prefix prefix_from(const char *text)
{
	struct ip_prefix p;
	assert_int_equal(ip_prefix_parse(str_from(text), &p), 0);
	return p;
}

static void test_addresses_and_prefixes_are_read_strictly(void **unused)
{
	char text[IP_TEXT_SIZE];
	struct ip ip = ip_from("::ffff:10.1.2.3");
	struct ip_prefix p;
	ip_format(&ip, text);
	assert_string_equal(text, "10.1.2.3");
	ip = ip_from("2001:DB8::1");
	ip_format(&ip, text);
	assert_string_equal(text, "2001:db8::1");
	assert_int_equal(prefix_from("10.0.0.7").length, 32);
	assert_true(ip_is_loopback(&(struct ip){.bits = 32, .bytes = {127, 9}}));
	static const char *const bad[] = {
	    "",         "10.0.0.1/8", "10.0.0.0/33",    "10.0.0.0/", "10.0.0.0/-1", "10.0.0",
	    "1.2.3.4 ", "::1/129",    "2001:db8::1/32", "x",         "10.0.0.0/8/8"};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(ip_prefix_parse(str_from(bad[i]), &p), E_INVAL);
	assert_int_equal(ip_parse((struct str){"1.2.3.4\0", 8}, &ip), E_INVAL);
}

static unsigned scope_of(const struct lpm *l, const char *address)
{
	uint32_t value;
	uint8_t scope;
	struct ip ip = ip_from(address);
	lpm_find(l, &ip, &value, &scope);
	return scope;
}

static void put(struct lpm *l, const char *prefix, uint32_t value)
{
	struct ip_prefix p = prefix_from(prefix);
	assert_int_equal(lpm_set(l, &p, value), 0);
}

/* A /16 with an odd /24: neighbours carry the split prefix, not the /16; equal neighbours merge. */
static void test_scope_never_covers_an_exception_and_widens_over_equals(void **unused)
{
	struct lpm *l = lpm_new();
	assert_int_equal(scope_of(l, "10.0.0.1"), 0);
	put(l, "10.1.0.0/16", 1);
	put(l, "10.1.128.0/24", 2);
	lpm_seal(l);
	assert_int_equal(scope_of(l, "10.1.128.9"), 24);
	assert_int_equal(scope_of(l, "10.1.129.9"), 24);
	assert_int_equal(scope_of(l, "10.1.130.9"), 23);
	assert_int_equal(scope_of(l, "10.1.1.1"), 17);
	assert_int_equal(scope_of(l, "10.0.0.1"), 16);
	assert_int_equal(scope_of(l, "192.0.2.1"), 1);
	assert_int_equal(scope_of(l, "2001:db8::1"), 0);
	put(l, "10.1.128.0/24", 1); /* the exception goes */
	put(l, "10.0.0.0/16", 1);
	lpm_seal(l);
	assert_int_equal(scope_of(l, "10.1.1.1"), 15);
	put(l, "0.0.0.0/0", 1);
	lpm_seal(l);
	assert_int_equal(scope_of(l, "10.1.1.1"), 0);
	lpm_free(l);
}

#define PREFIXES 90
struct naive {
	struct ip_prefix p[PREFIXES];
	uint32_t value[PREFIXES];
	size_t count;
};

static bool inside(const struct ip_prefix *p, const struct ip *ip)
{
	for (unsigned i = 0; i < p->length; i++) {
		if (((p->ip.bytes[i / 8] ^ ip->bytes[i / 8]) >> (7 - i % 8)) & 1)
			return false;
	}
	return p->ip.bits == ip->bits;
}

/* -1: none */
static int64_t naive_find(const struct naive *n, const struct ip *ip)
{
	int64_t found = -1;
	int length = -1;
	for (size_t i = 0; i < n->count; i++) {
		if (inside(&n->p[i], ip) && n->p[i].length >= length) { /* later ones replace */
			length = n->p[i].length;
			found = n->value[i];
		}
	}
	return found;
}

/* Addresses of few bits, so that tables are dense: at the front, or in the middle where lookups jump. */
static bool in_the_middle;

static struct ip random_ip(struct rng *rng, unsigned bits)
{
	struct ip ip = {.bits = (uint8_t)bits};
	uint64_t v = rng_next(rng);
	if (in_the_middle) {
		ip.bytes[0] = 10;
		ip.bytes[1] = (uint8_t)(v & 3);
		ip.bytes[2] = (uint8_t)(v >> 8);
	} else {
		ip.bytes[0] = (uint8_t)v;
		ip.bytes[1] = (uint8_t)(v >> 8) & 0xc0;
	}
	if (v >> 63)
		ip.bytes[bits / 8 - 1] = (uint8_t)(v >> 16);
	return ip;
}

static void cut(struct ip *ip, unsigned length)
{
	for (unsigned i = length; i < ip->bits; i++)
		ip->bytes[i / 8] &= (uint8_t) ~(1u << (7 - i % 8));
}

static struct ip filled(struct ip ip, unsigned from, struct rng *rng)
{
	struct ip noise = random_ip(rng, ip.bits);
	for (unsigned i = from; i < ip.bits; i++) {
		uint8_t bit = (uint8_t)(1u << (7 - i % 8));
		ip.bytes[i / 8] = (uint8_t)((ip.bytes[i / 8] & ~bit) | (noise.bytes[i / 8] & bit));
	}
	return ip;
}

static void test_map_agrees_with_trying_every_entry_and_scope_holds(void **unused)
{
	struct rng rng;
	rng_init(&rng, 20261124);
	for (int round = 0; round < 300; round++) {
		struct lpm *l = lpm_new();
		struct naive n = {.count = 1 + rng_below(&rng, PREFIXES)};
		unsigned bits = rng_below(&rng, 2) ? 32 : 128;
		in_the_middle = rng_below(&rng, 2);
		for (size_t i = 0; i < n.count; i++) {
			n.p[i].ip = random_ip(&rng, bits);
			n.p[i].length = (uint8_t)(rng_below(&rng, 8) ? (in_the_middle ? 13 : 0) + rng_below(&rng, 12)
			                                             : rng_below(&rng, bits + 1));
			cut(&n.p[i].ip, n.p[i].length);
			n.value[i] = (uint32_t)rng_below(&rng, 3);
			assert_int_equal(lpm_set(l, &n.p[i], n.value[i]), 0);
		}
		bool sealed = rng_below(&rng, 2);
		if (sealed)
			lpm_seal(l);
		for (int probe = 0; probe < 60; probe++) {
			struct ip ip = random_ip(&rng, bits);
			uint32_t value = 99;
			uint8_t scope;
			int64_t want = naive_find(&n, &ip);
			bool found = lpm_find(l, &ip, &value, &scope);
			assert_int_equal(found ? (int64_t)value : -1, want);
			/* Everything under the scope has the same answer ... */
			for (int k = 0; k < 60; k++) {
				struct ip other = filled(ip, scope, &rng);
				assert_int_equal(naive_find(&n, &other), want);
			}
			for (size_t k = 0; k < n.count; k++) { /* (border cases: ends of each entry) */
				struct ip low = n.p[k].ip, block = ip;
				cut(&block, scope);
				struct ip_prefix around = {block, scope};
				if (inside(&around, &low))
					assert_int_equal(naive_find(&n, &low), want);
			}
			/* ... and one bit shorter would not do: the other half, or part of it, differs. */
			if (scope == 0)
				continue;
			struct ip sibling = ip;
			sibling.bytes[(scope - 1) / 8] ^= (uint8_t)(1u << (7 - (scope - 1) % 8));
			bool differs = false;
			struct ip_prefix half = {sibling, scope};
			cut(&half.ip, scope);
			differs = naive_find(&n, &half.ip) != want;
			for (size_t k = 0; k < n.count && !differs; k++) {
				struct ip low = n.p[k].ip, past = low;
				for (unsigned b = n.p[k].length; b < bits; b++)
					past.bytes[b / 8] |= (uint8_t)(1u << (7 - b % 8));
				for (int b = (int)bits - 1; b >= 0; b--) { /* the address after the block */
					past.bytes[b / 8] ^= (uint8_t)(1u << (7 - b % 8));
					if (past.bytes[b / 8] & (1u << (7 - b % 8)))
						break;
				}
				differs = (inside(&half, &low) && naive_find(&n, &low) != want) ||
				          (inside(&half, &past) && naive_find(&n, &past) != want);
			}
			assert_true(differs);
		}
		lpm_free(l);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_addresses_and_prefixes_are_read_strictly),
	    cmocka_unit_test(test_scope_never_covers_an_exception_and_widens_over_equals),
	    cmocka_unit_test(test_map_agrees_with_trying_every_entry_and_scope_holds),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
