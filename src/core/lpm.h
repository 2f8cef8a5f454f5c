/* SPDX-License-Identifier: Apache-2.0 */
/* lpm.h - IP addresses, prefixes, and the longest-prefix map that says where a client is.
 *
 * `struct ip` and `struct ip_prefix` are plain values; an IPv4-mapped IPv6 address is read as IPv4. The map owns its
 * nodes. lpm_find also tells the RFC 7871 scope: the shortest prefix around the address whose whole subtree has the
 * same answer, so that a cache never spreads it over an exception. Pure; readers may share a map that nobody changes.
 */
#ifndef MDN_CORE_LPM_H
#define MDN_CORE_LPM_H

#include "base/error.h"
#include "base/str.h"

#define IP_TEXT_SIZE 48

struct ip {
	uint8_t bits; /* 32 or 128 */
	uint8_t bytes[16];
};

struct ip_prefix {
	struct ip ip; /* bits past `length` are zero */
	uint8_t length;
};

int ip_parse(struct str text, struct ip *ret_ip); /* E_INVAL */
void ip_format(const struct ip *ip, char ret_text[static IP_TEXT_SIZE]);
/* "10.0.0.0/8", "2001:db8::/32", or a bare address; E_INVAL, also for bits set past the length. */
int ip_prefix_parse(struct str text, struct ip_prefix *ret_prefix);
bool ip_prefix_equal(const struct ip_prefix *a, const struct ip_prefix *b);
bool ip_is_loopback(const struct ip *ip);

struct lpm;
struct lpm *lpm_new(void);
void lpm_free(struct lpm *l);
struct lpm *lpm_share(struct lpm *l); /* one more owner: each calls lpm_free, all on one thread; no lpm_set any more */
/* Replaces; E_LIMIT past LIMIT_ZONES. Values are below UINT32_MAX - 1. */
int lpm_set(struct lpm *l, const struct ip_prefix *prefix, uint32_t value);
/* After the last lpm_set: makes lpm_find fast. Finding without it is correct but slow. */
void lpm_seal(struct lpm *l);
/* False when nothing covers the address; *ret_scope is set in both cases (ECS answers need it for "no" too). */
bool lpm_find(const struct lpm *l, const struct ip *ip, uint32_t *ret_value, uint8_t *ret_scope);

#endif
