/* SPDX-License-Identifier: Apache-2.0 */
/* dns.h - DNS messages: a strict reader of queries and a writer of replies, for an authoritative server.
 *
 * Names are in wire form (length-prefixed labels, root last), at most DNS_NAME_MAX bytes; `qname` keeps the case it was
 * asked in ("0x20") and `lower` is for comparing. No I/O, no allocation, any thread. Sources: RFC 1035, 2308, 3225,
 * 6891 (EDNS), 7871 (client subnet), 7873 (cookies), 8482 (ANY), 8906 (what a server must answer), 9619 (one question).
 */
#ifndef MDN_NET_DNS_H
#define MDN_NET_DNS_H

#include "base/error.h"
#include "base/str.h"

#define DNS_NAME_MAX 255
#define DNS_HEADER_SIZE 12
#define DNS_UDP_PLAIN 512  /* without EDNS */
#define DNS_UDP_SIZE 1232  /* the most we send and announce: fits every path unfragmented */
#define DNS_QUERY_MAX 4096 /* longer queries are nobody's */

enum dns_type {
	DNS_A = 1,
	DNS_NS = 2,
	DNS_SOA = 6,
	DNS_HINFO = 13,
	DNS_TXT = 16,
	DNS_AAAA = 28,
	DNS_OPT = 41,
	DNS_SVCB = 64,
	DNS_HTTPS = 65,
	DNS_IXFR = 251,
	DNS_AXFR = 252,
	DNS_ANY = 255,
};
enum { DNS_CLASS_IN = 1, DNS_CLASS_ANY = 255 };
enum dns_rcode {
	DNS_NOERROR = 0,
	DNS_FORMERR = 1,
	DNS_SERVFAIL = 2,
	DNS_NXDOMAIN = 3,
	DNS_NOTIMP = 4,
	DNS_REFUSED = 5,
	DNS_BADVERS = 16, /* needs EDNS */
};

struct dns_query {
	uint16_t id;
	uint8_t opcode;
	bool rd, cd;
	bool question; /* it could be read and is repeated in the reply; without one and NOERROR it asks for a cookie */
	uint8_t qname[DNS_NAME_MAX], lower[DNS_NAME_MAX];
	size_t qname_len;
	uint16_t qtype, qclass;
	bool edns, dnssec_ok;
	uint16_t udp_size; /* theirs, at least 512 */
	bool ecs;
	uint16_t ecs_family; /* 1 IPv4, 2 IPv6, 0 only with source 0 */
	uint8_t ecs_source;
	uint8_t ecs_address[16]; /* zero-filled */
	bool cookie;             /* of the client; server_cookie_len 0: it has none of ours yet */
	uint8_t client_cookie[8], server_cookie[32], server_cookie_len;
};

#define DNS_DROP (-1)
/* DNS_NOERROR: answer it. Another rcode: reply with that. DNS_DROP: say nothing (too short, or itself a reply). */
int dns_query_parse(const uint8_t *packet, size_t len, struct dns_query *ret_query);
size_t dns_udp_limit(const struct dns_query *q); /* bytes of a reply over UDP */

/* "Mdn.Test" or "mdn.test." -> lower-case wire form; E_INVAL. */
int dns_name_parse(struct str text, uint8_t ret_wire[static DNS_NAME_MAX], size_t *ret_len);
/* Labels of `name` before the suffix `zone` (both lower-case wire form, roots included); -1 when not under it. */
int dns_name_under(const uint8_t *name, size_t name_len, const uint8_t *zone, size_t zone_len);

enum dns_section { DNS_ANSWER, DNS_AUTHORITY, DNS_ADDITIONAL };

/* Records are added in the order of their sections. One that does not fit sets TC and it and all later ones are left
 * out. */
struct dns_reply {
	uint8_t *out;
	size_t cap, len;
	const struct dns_query *query;
	uint16_t counts[3];
	bool truncated;
	size_t record; /* start of the one being written */
	size_t rdata;
	enum dns_section section;
	uint16_t names[32]; /* where names begin that later ones may point to */
	size_t name_count;
	uint8_t cookie[16]; /* ours, for a query that has a client's */
};

/* cap: dns_udp_limit, or 65535 for TCP; at least DNS_UDP_PLAIN. */
void dns_reply_begin(struct dns_reply *r, uint8_t *out, size_t cap, const struct dns_query *q);
/* owner NULL: the question's name. */
void dns_reply_record(struct dns_reply *r, enum dns_section section, const uint8_t *owner, uint16_t type,
                      uint32_t ttl_s);
void dns_reply_bytes(struct dns_reply *r, const void *data, size_t len); /* rdata */
void dns_reply_u32(struct dns_reply *r, uint32_t value);
void dns_reply_name(struct dns_reply *r, const uint8_t *name); /* rdata, compressed */
void dns_reply_record_end(struct dns_reply *r);
/* A whole record made before: owner 0xC00C (the question's name), type, class, TTL, rdata. */
void dns_reply_ready(struct dns_reply *r, enum dns_section section, const void *record, size_t len);
/* Goes with the reply when the query has a cookie; without it (say, malformed) there is none. */
void dns_reply_cookie(struct dns_reply *r, const uint8_t cookie[static 16]);
/* Adds OPT when the query had it (with its client subnet and `ecs_scope`, unless rcode says that it was malformed). */
size_t dns_reply_end(struct dns_reply *r, int rcode, bool authoritative, uint8_t ecs_scope);

#endif
