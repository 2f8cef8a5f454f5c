/* SPDX-License-Identifier: Apache-2.0 */
/* DNS messages: what RFC 8906 says a server must make of odd queries, client subnets, compression, truncation, damage.
 */
#include "net/dns.h"

#include "base/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

struct packet {
	uint8_t bytes[600];
	size_t len;
};

static void add(struct packet *p, const void *data, size_t len)
{
	if (len > 0)
		memcpy(p->bytes + p->len, data, len);
	p->len += len;
}

#define ADD(p, ...) add(p, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

/* ID 0x1234, RD; one question for aPi.mdn.TEST, type, IN; `additional` more records to come. */
static struct packet query(uint8_t type, uint8_t additional)
{
	struct packet p = {.len = 0};
	ADD(&p, 0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, additional);
	ADD(&p, 3, 'a', 'P', 'i', 3, 'm', 'd', 'n', 4, 'T', 'E', 'S', 'T', 0, 0, type, 0, 1);
	return p;
}

static void add_opt(struct packet *p, unsigned size, uint8_t version, uint8_t flags, const uint8_t *options,
                    uint8_t len)
{
	ADD(p, 0, 0, DNS_OPT, (uint8_t)(size >> 8), (uint8_t)size, 0, version, flags, 0, 0, len);
	add(p, options, len);
}

static int parse(const struct packet *p, struct dns_query *q)
{
	/* Exactly as much memory as the packet has, so that ASan sees a read past it. */
	uint8_t *exact = malloc(p->len ? p->len : 1);
	memcpy(exact, p->bytes, p->len);
	int rc = dns_query_parse(exact, p->len, q);
	free(exact);
	return rc;
}

static void test_plain_query_is_read_and_keeps_its_case(void **unused)
{
	struct packet p = query(DNS_A, 0);
	struct dns_query q;
	assert_int_equal(parse(&p, &q), DNS_NOERROR);
	assert_int_equal(q.id, 0x1234);
	assert_true(q.rd && q.question && !q.edns);
	assert_int_equal(q.qtype, DNS_A);
	assert_memory_equal(q.qname, "\3aPi\3mdn\4TEST", 14);
	assert_memory_equal(q.lower, "\3api\3mdn\4test", 14);
	assert_int_equal(dns_udp_limit(&q), 512);
	uint8_t zone[DNS_NAME_MAX];
	size_t len;
	assert_int_equal(dns_name_parse(STR("MDN.test."), zone, &len), 0);
	assert_int_equal(dns_name_under(q.lower, q.qname_len, zone, len), 1);
	assert_int_equal(dns_name_under(zone, len, zone, len), 0);
	assert_int_equal(dns_name_under(zone, len, q.lower, q.qname_len), -1);
	/* "xmdn.test" ends like the zone but is not under it; nor is a label that holds the zone's bytes. */
	assert_int_equal(dns_name_under((const uint8_t *)"\4xmdn\4test", 11, zone, len), -1);
	assert_int_equal(dns_name_under((const uint8_t *)"\12\1\3mdn\4test", 12, zone, len), -1);
	assert_int_equal(dns_name_parse(STR("a..b"), zone, &len), E_INVAL);
	assert_int_equal(dns_name_parse(STR("a b"), zone, &len), E_INVAL);
}

static void test_odd_queries_get_the_rcode_of_rfc_8906(void **unused)
{
	struct dns_query q;
	struct packet p = query(DNS_A, 0);
	p.bytes[2] |= 0x80; /* a reply: silence, or two servers talk for ever */
	assert_int_equal(parse(&p, &q), DNS_DROP);
	p = query(DNS_A, 0);
	p.bytes[2] |= 5 << 3; /* UPDATE */
	assert_int_equal(parse(&p, &q), DNS_NOTIMP);
	p.bytes[2] |= 15 << 3;
	assert_int_equal(parse(&p, &q), DNS_NOTIMP);
	p = query(DNS_A, 0);
	p.bytes[5] = 2;
	assert_int_equal(parse(&p, &q), DNS_FORMERR);
	p.bytes[5] = 0;
	assert_int_equal(parse(&p, &q), DNS_FORMERR);
	p = query(DNS_A, 0);
	p.bytes[7] = 1;
	assert_int_equal(parse(&p, &q), DNS_FORMERR);
	p = query(DNS_A, 0);
	p.bytes[3] |= 0x70; /* Z, AD, CD: no matter */
	assert_int_equal(parse(&p, &q), DNS_NOERROR);
	p.bytes[2] |= 0x06; /* AA, TC: no matter */
	assert_int_equal(parse(&p, &q), DNS_NOERROR);
	p = query(200, 0); /* unknown type */
	assert_int_equal(parse(&p, &q), DNS_NOERROR);
	p = query(DNS_AXFR, 0);
	assert_int_equal(parse(&p, &q), DNS_REFUSED);
	p = query(DNS_OPT, 0);
	assert_int_equal(parse(&p, &q), DNS_FORMERR);
	p = query(DNS_A, 0);
	p.bytes[p.len - 1] = 3; /* CHAOS */
	assert_int_equal(parse(&p, &q), DNS_REFUSED);
	p = query(DNS_A, 0);
	ADD(&p, 0); /* a byte too many */
	assert_int_equal(parse(&p, &q), DNS_FORMERR);
	/* Names: a pointer, a reserved label type, too long in sum. */
	p = query(DNS_A, 0);
	p.bytes[12] = 0xC0;
	assert_int_equal(parse(&p, &q), DNS_FORMERR);
	p.bytes[12] = 0x40;
	assert_int_equal(parse(&p, &q), DNS_FORMERR);
}

static void long_name(struct packet *p, int last)
{
	p->len = 12;
	for (int i = 0; i < 3; i++) {
		ADD(p, 63);
		for (int k = 0; k < 63; k++)
			ADD(p, 'a');
	}
	ADD(p, (uint8_t)last);
	for (int k = 0; k < last; k++)
		ADD(p, 'b');
	ADD(p, 0, 0, 1, 0, 1);
}

static void test_names_end_at_255_bytes(void **unused)
{
	struct dns_query q;
	struct packet p = query(DNS_A, 0);
	long_name(&p, 61); /* 3 * 64 + 62 + 1 = 255 */
	assert_int_equal(parse(&p, &q), DNS_NOERROR);
	assert_int_equal(q.qname_len, 255);
	long_name(&p, 62);
	assert_int_equal(parse(&p, &q), DNS_FORMERR);
}

static void test_edns_is_read_strictly(void **unused)
{
	struct dns_query q;
	struct packet p = query(DNS_A, 1);
	static const uint8_t cookie[] = {0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8}, broken[] = {0, 10, 0, 9, 1, 2};
	add_opt(&p, 4096, 0, 0x80, cookie, sizeof(cookie));
	assert_int_equal(parse(&p, &q), DNS_NOERROR);
	assert_true(q.edns && q.dnssec_ok && !q.ecs);
	assert_int_equal(dns_udp_limit(&q), 1232);
	p = query(DNS_A, 1);
	add_opt(&p, 100, 0, 0, NULL, 0);
	assert_int_equal(parse(&p, &q), DNS_NOERROR);
	assert_int_equal(dns_udp_limit(&q), 512);
	p = query(DNS_A, 1);
	add_opt(&p, 1232, 1, 0, broken, sizeof(broken)); /* another version: its options are not ours to judge */
	assert_int_equal(parse(&p, &q), DNS_BADVERS);
	assert_true(q.edns);
	p = query(DNS_A, 1);
	add_opt(&p, 1232, 0, 0, broken, sizeof(broken));
	assert_int_equal(parse(&p, &q), DNS_FORMERR);
	assert_true(q.edns);
	p = query(DNS_A, 2);
	add_opt(&p, 1232, 0, 0, NULL, 0);
	add_opt(&p, 1232, 0, 0, NULL, 0);
	assert_int_equal(parse(&p, &q), DNS_FORMERR);
	p = query(DNS_A, 1);
	ADD(&p, 1, 'x', 0, 0, DNS_OPT, 4, 0xd0, 0, 0, 0, 0, 0, 0); /* not at the root */
	assert_int_equal(parse(&p, &q), DNS_FORMERR);
	p = query(DNS_A, 2);
	ADD(&p, 0xC0, 12, 0, 250, 0, 255, 0, 0, 0, 0, 0, 3, 1, 2, 3); /* a signature we do not know: stepped over */
	add_opt(&p, 1232, 0, 0, NULL, 0);
	assert_int_equal(parse(&p, &q), DNS_NOERROR);
	assert_true(q.edns);
	p = query(DNS_A, 2); /* one record missing */
	add_opt(&p, 1232, 0, 0, NULL, 0);
	assert_int_equal(parse(&p, &q), DNS_FORMERR);
}

static int parse_ecs(const uint8_t *option, uint8_t len, struct dns_query *q)
{
	struct packet p = query(DNS_A, 1);
	uint8_t options[64] = {0, 8, 0, len};
	memcpy(options + 4, option, len);
	add_opt(&p, 1232, 0, 0, options, (uint8_t)(4 + len));
	return parse(&p, q);
}

#define ECS(q, ...) parse_ecs((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}), q)

static void test_client_subnet_rules_of_rfc_7871(void **unused)
{
	struct dns_query q;
	assert_int_equal(ECS(&q, 0, 1, 24, 0, 10, 1, 2), DNS_NOERROR);
	assert_true(q.ecs);
	assert_int_equal(q.ecs_source, 24);
	assert_memory_equal(q.ecs_address, "\x0a\x01\x02\x00", 4);
	assert_int_equal(ECS(&q, 0, 1, 0, 0), DNS_NOERROR);
	assert_int_equal(ECS(&q, 0, 0, 0, 0), DNS_NOERROR); /* "tell nobody", without a family */
	assert_int_equal(ECS(&q, 0, 1, 20, 0, 10, 1, 0x20), DNS_NOERROR);
	assert_int_equal(ECS(&q, 0, 2, 56, 0, 0x20, 1, 0xd, 0xb8, 0, 0, 0), DNS_NOERROR);
	static const uint8_t full6[20] = {0, 2, 128, 0, 0x20, 1, [19] = 1};
	assert_int_equal(parse_ecs(full6, 20, &q), DNS_NOERROR);
	/* scope set in a query; bits past the source; wrong lengths; wrong family; too long a source */
	assert_int_equal(ECS(&q, 0, 1, 24, 24, 10, 1, 2), DNS_FORMERR);
	assert_int_equal(ECS(&q, 0, 1, 20, 0, 10, 1, 0x21), DNS_FORMERR);
	assert_int_equal(ECS(&q, 0, 1, 24, 0, 10, 1), DNS_FORMERR);
	assert_int_equal(ECS(&q, 0, 1, 24, 0, 10, 1, 2, 0), DNS_FORMERR);
	assert_int_equal(ECS(&q, 0, 3, 0, 0), DNS_FORMERR);
	assert_int_equal(ECS(&q, 0, 0, 8, 0, 10), DNS_FORMERR);
	assert_int_equal(ECS(&q, 0, 1, 33, 0, 10, 1, 2, 3, 0), DNS_FORMERR);
	assert_int_equal(ECS(&q, 0, 1, 24), DNS_FORMERR);
	static const uint8_t long6[21] = {0, 2, 129, 0};
	assert_int_equal(parse_ecs(long6, 21, &q), DNS_FORMERR);
	assert_false(q.ecs);
	/* twice */
	struct packet p = query(DNS_A, 1);
	static const uint8_t twice[] = {0, 8, 0, 4, 0, 1, 0, 0, 0, 8, 0, 4, 0, 1, 0, 0};
	add_opt(&p, 1232, 0, 0, twice, sizeof(twice));
	assert_int_equal(parse(&p, &q), DNS_FORMERR);
}

/* A reader of replies, as strict as a resolver: every count, length and pointer must hold. */
static size_t read_name(const uint8_t *m, size_t len, size_t at, char *text)
{
	size_t end = 0;
	int jumps = 0;
	*text = '\0';
	for (;;) {
		assert_true(at < len);
		uint8_t label = m[at];
		if ((label & 0xC0) == 0xC0) {
			assert_true(at + 1 < len && ++jumps < 20);
			if (!end)
				end = at + 2;
			size_t to = (size_t)(label & 0x3F) << 8 | m[at + 1];
			assert_true(to < at);
			at = to;
			continue;
		}
		assert_true(label <= 63 && at + 1 + label <= len);
		if (label == 0)
			return end ? end : at + 1;
		strncat(text, (const char *)m + at + 1, label);
		strcat(text, ".");
		at += 1u + label;
	}
}

struct seen {
	unsigned rcode, counts[4], flags, records, opt_len;
	char names[1200];
	const uint8_t *opt;
};

static struct seen read_reply(const uint8_t *m, size_t len)
{
	struct seen s = {0};
	char text[300];
	assert_true(len >= 12);
	s.flags = (unsigned)m[2] << 8 | m[3];
	s.rcode = m[3] & 15;
	for (int i = 0; i < 4; i++)
		s.counts[i] = (unsigned)m[4 + 2 * i] << 8 | m[5 + 2 * i];
	size_t at = 12;
	for (unsigned i = 0; i < s.counts[0]; i++)
		at = read_name(m, len, at, text) + 4;
	for (unsigned i = 0; i < s.counts[1] + s.counts[2] + s.counts[3]; i++) {
		at = read_name(m, len, at, text);
		assert_true(at + 10 <= len);
		unsigned type = (unsigned)m[at] << 8 | m[at + 1], rdlen = (unsigned)m[at + 8] << 8 | m[at + 9];
		assert_true(at + 10 + rdlen <= len);
		if (type == DNS_OPT) {
			s.opt = m + at - 1;
			s.opt_len = rdlen;
			s.rcode |= (unsigned)m[at + 4] << 4;
		} else {
			strcat(strcat(s.names, text), " ");
		}
		if (type == DNS_NS) {
			char target[300];
			assert_int_equal(read_name(m, len, at + 10, target), at + 10 + rdlen);
			strcat(strcat(strcat(s.names, "-> "), target), " ");
		}
		at += 10 + rdlen;
		s.records++;
	}
	assert_int_equal(at, len);
	return s;
}

static void test_replies_compress_names_and_echo_the_subnet(void **unused)
{
	struct packet p = query(DNS_NS, 1);
	struct dns_query q;
	struct dns_reply r;
	uint8_t out[DNS_UDP_SIZE], zone[DNS_NAME_MAX], ns[DNS_NAME_MAX];
	size_t len;
	static const uint8_t ecs[] = {0, 8, 0, 7, 0, 1, 24, 0, 10, 1, 2};
	add_opt(&p, 1232, 0, 0x80, ecs, sizeof(ecs));
	assert_int_equal(parse(&p, &q), DNS_NOERROR);
	dns_name_parse(STR("mdn.test"), zone, &len);
	dns_name_parse(STR("ns.mdn.test"), ns, &len);
	dns_reply_begin(&r, out, dns_udp_limit(&q), &q);
	dns_reply_record(&r, DNS_ANSWER, zone, DNS_NS, 60);
	dns_reply_name(&r, ns);
	dns_reply_record_end(&r);
	size_t first = r.len;
	dns_reply_record(&r, DNS_ADDITIONAL, ns, DNS_A, 60);
	dns_reply_bytes(&r, "\x7f\0\0\1", 4);
	dns_reply_record_end(&r);
	assert_int_equal(r.len - first, 2 + 10 + 4); /* the name is one pointer */
	len = dns_reply_end(&r, DNS_NOERROR, true, 16);
	struct seen s = read_reply(out, len);
	assert_int_equal(s.flags, 0x8500); /* QR AA RD, as asked */
	assert_string_equal(s.names, "mdn.TEST. -> ns.mdn.TEST. ns.mdn.TEST. ");
	assert_memory_equal(out + 12, p.bytes + 12, 18); /* the question's case is kept */
	assert_int_equal(s.opt_len, 11);
	assert_memory_equal(s.opt, "\0\0\x29\x04\xd0\0\0\x80\0\0\x0b\0\x08\0\x07\0\1\x18\x10\x0a\1\2", 22);
	/* BADVERS and malformed options: OPT, but no subnet. */
	dns_reply_begin(&r, out, 512, &q);
	s = read_reply(out, dns_reply_end(&r, DNS_BADVERS, false, 0));
	assert_int_equal(s.rcode, DNS_BADVERS);
	assert_int_equal(s.opt_len, 0);
}

static void test_a_reply_that_is_too_long_is_cut_at_a_record(void **unused)
{
	for (size_t cap = 512; cap < 640; cap++) {
		struct packet p = query(DNS_A, 1);
		struct dns_query q;
		struct dns_reply r;
		uint8_t out[DNS_UDP_SIZE], name[DNS_NAME_MAX];
		size_t len;
		unsigned added = 0;
		add_opt(&p, 1232, 0, 0, (const uint8_t *)"\0\x08\0\x07\0\1\x18\0\x0a\1\2", 11);
		assert_int_equal(parse(&p, &q), DNS_NOERROR);
		dns_reply_begin(&r, out, cap, &q);
		for (; !r.truncated; added++) {
			char text[40];
			snprintf(text, sizeof(text), "n%u.x%u.mdn.test", added, added % 3);
			dns_name_parse(str_from(text), name, &len);
			dns_reply_record(&r, DNS_ANSWER, name, DNS_NS, 1);
			dns_reply_name(&r, name);
			dns_reply_record_end(&r);
		}
		len = dns_reply_end(&r, DNS_NOERROR, true, 24);
		struct seen s = read_reply(out, len);
		assert_true(len <= cap && len + 64 > cap);
		assert_true(s.flags & 0x0200);
		assert_int_equal(s.counts[1], added - 1);
		assert_non_null(s.opt);
	}
}

/* Whatever comes, parsing ends, and a reply to what was understood is well formed. */
static void feed(const struct packet *p)
{
	struct dns_query q;
	struct dns_reply r;
	uint8_t out[DNS_UDP_SIZE];
	int rc = parse(p, &q);
	if (rc == DNS_DROP)
		return;
	dns_reply_begin(&r, out, dns_udp_limit(&q), &q);
	dns_reply_ready(&r, DNS_ANSWER, "\xc0\x0c\0\1\0\1\0\0\0\1\0\4\1\2\3\4", q.question ? 16 : 0);
	if (!q.question)
		r.counts[DNS_ANSWER] = 0;
	struct seen s = read_reply(out, dns_reply_end(&r, rc, rc == 0, 0));
	assert_int_equal(s.opt != NULL, q.edns);
}

static void test_truncated_and_damaged_packets_never_crash(void **unused)
{
	struct packet whole = query(DNS_A, 1), p;
	struct dns_query q;
	struct rng rng;
	rng_init(&rng, 53);
	add_opt(&whole, 1232, 0, 0x80, (const uint8_t *)"\0\x0a\0\2\1\2\0\x08\0\x07\0\1\x18\0\x0a\1\2", 17);
	for (size_t len = 0; len < whole.len; len++) {
		p = whole;
		p.len = len;
		int rc = parse(&p, &q);
		assert_int_equal(rc, len < 12 ? DNS_DROP : DNS_FORMERR);
		feed(&p);
	}
	for (int i = 0; i < 60000; i++) {
		p = whole;
		for (uint64_t n = 1 + rng_below(&rng, 6); n > 0; n--)
			p.bytes[rng_below(&rng, p.len)] = (uint8_t)rng_next(&rng);
		if (rng_below(&rng, 4) == 0)
			p.len = rng_below(&rng, p.len + 1);
		p.bytes[2] &= 0x87; /* mostly queries */
		if (rng_below(&rng, 10))
			p.bytes[2] &= 0x7f;
		feed(&p);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_plain_query_is_read_and_keeps_its_case),
	    cmocka_unit_test(test_odd_queries_get_the_rcode_of_rfc_8906),
	    cmocka_unit_test(test_names_end_at_255_bytes),
	    cmocka_unit_test(test_edns_is_read_strictly),
	    cmocka_unit_test(test_client_subnet_rules_of_rfc_7871),
	    cmocka_unit_test(test_replies_compress_names_and_echo_the_subnet),
	    cmocka_unit_test(test_a_reply_that_is_too_long_is_cut_at_a_record),
	    cmocka_unit_test(test_truncated_and_damaged_packets_never_crash),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
