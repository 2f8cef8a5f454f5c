/* SPDX-License-Identifier: Apache-2.0 */
/* Queries in raw bytes, and a strict reader of replies, for the tests of this room. */
#ifndef MDN_TEST_DNS_TOOLS_H
#define MDN_TEST_DNS_TOOLS_H

#include "net/dns.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

struct ask {
	const char *name;
	uint16_t type; /* DNS_A by default */
	bool edns;
	const char *subnet; /* IPv4 address for ECS, or NULL */
	uint8_t source;
};

static inline size_t ask_write(const struct ask *a, uint16_t id, uint8_t *out)
{
	const uint8_t head[12] = {(uint8_t)(id >> 8), (uint8_t)id, 1, 0, 0, 1, 0, 0, 0, 0, 0, a->edns || a->subnet};
	size_t len = 12;
	memcpy(out, head, 12);
	for (struct str rest = str_from(a->name); rest.len > 0;) { /* case is kept, unlike dns_name_parse */
		struct str label = str_cut(rest, '.', &rest);
		out[len++] = (uint8_t)label.len;
		memcpy(out + len, label.base, label.len);
		len += label.len;
	}
	uint16_t type = a->type ? a->type : DNS_A;
	const uint8_t tail[5] = {0, (uint8_t)(type >> 8), (uint8_t)type, 0, 1};
	memcpy(out + len, tail, 5);
	len += 5;
	if (!out[11])
		return len;
	uint8_t opt[11] = {0, 0, DNS_OPT, 4, 0xd0}, bytes = (uint8_t)((a->source + 7) / 8);
	opt[10] = a->subnet ? (uint8_t)(8 + bytes) : 0;
	memcpy(out + len, opt, 11);
	len += 11;
	if (a->subnet) {
		const uint8_t ecs[8] = {0, 8, 0, (uint8_t)(4 + bytes), 0, 1, a->source, 0};
		uint8_t address[4];
		assert_int_equal(inet_pton(AF_INET, a->subnet, address), 1);
		memcpy(out + len, ecs, 8);
		memcpy(out + len + 8, address, bytes);
		len += 8u + bytes;
	}
	return len;
}

struct told {
	unsigned id, rcode, aa, counts[4];
	char answers[512];  /* "10.0.0.1 ..." or type numbers of others, answer section only */
	char authority[64]; /* type numbers */
	uint32_t ttl;       /* of the first record */
	int scope;          /* -1: no client subnet in the reply */
};

static inline size_t skip_name(const uint8_t *m, size_t len, size_t at)
{
	for (;;) {
		assert_true(at < len);
		if ((m[at] & 0xC0) == 0xC0)
			return at + 2;
		if (m[at] == 0)
			return at + 1;
		at += 1u + m[at];
	}
}

static inline struct told told_read(const uint8_t *m, size_t len)
{
	struct told t = {.scope = -1};
	assert_true(len >= 12);
	t.id = (unsigned)m[0] << 8 | m[1];
	t.aa = m[2] & 4;
	t.rcode = m[3] & 15;
	for (int i = 0; i < 4; i++)
		t.counts[i] = (unsigned)m[4 + 2 * i] << 8 | m[5 + 2 * i];
	size_t at = 12;
	for (unsigned i = 0; i < t.counts[0]; i++)
		at = skip_name(m, len, at) + 4;
	for (unsigned i = 0, all = t.counts[1] + t.counts[2] + t.counts[3]; i < all; i++) {
		at = skip_name(m, len, at);
		assert_true(at + 10 <= len);
		unsigned type = (unsigned)m[at] << 8 | m[at + 1], size = (unsigned)m[at + 8] << 8 | m[at + 9];
		const uint8_t *rdata = m + at + 10;
		assert_true(at + 10 + size <= len);
		if (i == 0)
			t.ttl = (uint32_t)m[at + 4] << 24 | (uint32_t)m[at + 5] << 16 | (uint32_t)m[at + 6] << 8 |
			        m[at + 7];
		char text[64];
		if ((type == DNS_A && size == 4) || (type == DNS_AAAA && size == 16))
			inet_ntop(type == DNS_A ? AF_INET : AF_INET6, rdata, text, sizeof(text));
		else
			snprintf(text, sizeof(text), "%u", type);
		char *to = i < t.counts[1] ? t.answers : i < t.counts[1] + t.counts[2] ? t.authority : NULL;
		if (to)
			strcat(strcat(to, to[0] ? " " : ""), text);
		if (type == DNS_OPT) {
			t.rcode |= (unsigned)m[at + 4] << 4;
			if (size >= 8 && rdata[1] == 8)
				t.scope = rdata[7];
		}
		at += 10 + size;
	}
	assert_int_equal(at, len);
	return t;
}

#endif
