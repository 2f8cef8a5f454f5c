/* SPDX-License-Identifier: Apache-2.0 */
/* The reader walks a query once, front to back, with a cursor that latches failure; compression pointers are never
 * followed (queries have no use for them), so there is nothing to loop on.
 *
 *     header  ID | QR opcode AA TC RD RA Z AD CD rcode | QDCOUNT | ANCOUNT | NSCOUNT | ARCOUNT     12 bytes
 *     question  name, type, class
 *     OPT  00 | 41 | UDP size | extended rcode, version, DO.. | length | {code, length, data}*
 *     cookie (option 10)  8 bytes of the client's | 8 to 32 of the server's, or none
 *     client subnet (option 8)  family | source length | scope length | address, only as many bytes as the source needs
 *
 * The writer keeps room for its OPT from the start, so that a full message can always be ended. */
#include "net/dns.h"

#include <assert.h>

#define OPTION_ECS 8
#define OPTION_COOKIE 10
#define OPT_FIXED 11
#define ECS_FIXED 8 /* option header and the three fields */
#define COOKIE_SIZE (4 + 8 + 16)
#define POINTER 0xC000u
#define POINTER_REACH 0x3FFFu

struct cursor {
	const uint8_t *at, *end;
	bool failed;
};

static const uint8_t *take(struct cursor *c, size_t len)
{
	if (c->failed || (size_t)(c->end - c->at) < len) {
		c->failed = true;
		return NULL;
	}
	const uint8_t *p = c->at;
	c->at += len;
	return p;
}

static uint8_t take_u8(struct cursor *c)
{
	const uint8_t *p = take(c, 1);
	return p ? p[0] : 0;
}

static uint16_t take_u16(struct cursor *c)
{
	const uint8_t *p = take(c, 2);
	return p ? (uint16_t)((unsigned)p[0] << 8 | p[1]) : 0;
}

static uint8_t lower(uint8_t c)
{
	return c >= 'A' && c <= 'Z' ? (uint8_t)(c + 32) : c;
}

static bool take_question(struct cursor *c, struct dns_query *q)
{
	size_t len = 0;
	for (;;) {
		uint8_t label = take_u8(c);
		if (c->failed || label > 63 || len + 1 + label > DNS_NAME_MAX)
			return false;
		q->qname[len] = q->lower[len] = label;
		len++;
		if (label == 0)
			break;
		const uint8_t *text = take(c, label);
		if (!text || len + label >= DNS_NAME_MAX) /* the root must still fit */
			return false;
		for (size_t i = 0; i < label; i++) {
			q->qname[len + i] = text[i];
			q->lower[len + i] = lower(text[i]);
		}
		len += label;
	}
	q->qname_len = len;
	q->qtype = take_u16(c);
	q->qclass = take_u16(c);
	return !c->failed;
}

/* RFC 7871, 7.1.1 and 7.2.1: every way in which the option can be wrong is FORMERR. */
static bool take_ecs(struct cursor *c, struct dns_query *q)
{
	if (q->ecs)
		return false;
	uint16_t family = take_u16(c);
	uint8_t source = take_u8(c), scope = take_u8(c);
	size_t bytes = (size_t)(c->end - c->at), most = family == 1 ? 32 : family == 2 ? 128 : 0;
	if (c->failed || family > 2 || scope != 0 || source > most || bytes != (source + 7u) / 8)
		return false;
	memset(q->ecs_address, 0, sizeof(q->ecs_address));
	if (bytes > 0)
		memcpy(q->ecs_address, take(c, bytes), bytes);
	if (source % 8 && (q->ecs_address[bytes - 1] & (0xffu >> source % 8)))
		return false;
	q->ecs = true;
	q->ecs_family = family;
	q->ecs_source = source;
	return true;
}

/* RFC 7873, 5.2.2: other lengths are FORMERR. The first of several counts. */
static bool take_cookie(struct cursor *c, struct dns_query *q)
{
	size_t len = (size_t)(c->end - c->at);
	if (len != 8 && (len < 16 || len > 40))
		return false;
	if (q->cookie)
		return true;
	q->cookie = true;
	q->server_cookie_len = (uint8_t)(len - 8);
	memcpy(q->client_cookie, take(c, 8), 8);
	if (len > 8)
		memcpy(q->server_cookie, take(c, len - 8), len - 8);
	return true;
}

static int take_opt(struct cursor *c, struct dns_query *q)
{
	if (q->edns)
		return DNS_FORMERR;
	uint16_t size = take_u16(c);
	take_u8(c); /* extended rcode: nothing in a query */
	uint8_t version = take_u8(c);
	uint16_t flags = take_u16(c), len = take_u16(c);
	const uint8_t *options = take(c, len);
	if (!options)
		return DNS_FORMERR;
	q->edns = true;
	q->udp_size = size < DNS_UDP_PLAIN ? DNS_UDP_PLAIN : size;
	q->dnssec_ok = flags & 0x8000;
	if (version != 0)
		return DNS_BADVERS;
	struct cursor inside = {options, options + len, false};
	while (inside.at < inside.end) {
		uint16_t code = take_u16(&inside), size_bytes = take_u16(&inside);
		const uint8_t *data = take(&inside, size_bytes);
		if (!data)
			return DNS_FORMERR;
		struct cursor option = {data, data + size_bytes, false};
		if (code == OPTION_ECS && !take_ecs(&option, q)) {
			q->ecs = q->cookie = false;
			return DNS_FORMERR;
		}
		if (code == OPTION_COOKIE && !take_cookie(&option, q)) {
			q->ecs = q->cookie = false;
			return DNS_FORMERR;
		}
	}
	return DNS_NOERROR;
}

/* Owner names of additional records are only stepped over. */
static bool skip_name(struct cursor *c, bool *ret_root)
{
	*ret_root = c->at < c->end && *c->at == 0;
	for (;;) {
		uint8_t label = take_u8(c);
		if (c->failed)
			return false;
		if (label == 0)
			return true;
		if ((label & 0xC0) == 0xC0)
			return take(c, 1) != NULL;
		if (label > 63 || !take(c, label))
			return false;
	}
}

static int take_additional(struct cursor *c, uint16_t count, struct dns_query *q)
{
	int rcode = DNS_NOERROR;
	for (; count > 0; count--) {
		bool root;
		if (!skip_name(c, &root))
			return DNS_FORMERR;
		uint16_t type = take_u16(c);
		if (type == DNS_OPT) {
			int said = root ? take_opt(c, q) : DNS_FORMERR;
			if (said == DNS_FORMERR)
				return said;
			rcode = said;
			continue;
		}
		take(c, 6); /* class, TTL */
		take(c, take_u16(c));
		if (c->failed)
			return DNS_FORMERR;
	}
	return c->at == c->end ? rcode : DNS_FORMERR;
}

int dns_query_parse(const uint8_t *packet, size_t len, struct dns_query *q)
{
	struct cursor c = {packet, packet + len, false};
	if (len < DNS_HEADER_SIZE || packet[2] & 0x80)
		return DNS_DROP;
	q->id = take_u16(&c);
	uint16_t flags = take_u16(&c);
	q->opcode = (flags >> 11) & 15;
	q->rd = flags & 0x0100;
	q->cd = flags & 0x0010;
	q->question = q->edns = q->dnssec_ok = q->ecs = q->cookie = false;
	q->udp_size = DNS_UDP_PLAIN;
	q->qname_len = 0;
	q->qtype = q->qclass = 0;
	uint16_t questions = take_u16(&c), answers = take_u16(&c), authorities = take_u16(&c),
		 additional = take_u16(&c);
	if (q->opcode != 0)
		return DNS_NOTIMP;
	if (questions > 1 || answers != 0 || authorities != 0 || len > DNS_QUERY_MAX ||
	    (questions == 1 && !take_question(&c, q)))
		return DNS_FORMERR;
	q->question = questions == 1;
	int rcode = take_additional(&c, additional, q);
	if (rcode != DNS_NOERROR)
		return rcode;
	if (!q->question) /* RFC 7873, 5.4 */
		return q->cookie ? DNS_NOERROR : DNS_FORMERR;
	if (q->qtype == DNS_OPT || q->qtype == 0)
		return DNS_FORMERR;
	if ((q->qclass != DNS_CLASS_IN && q->qclass != DNS_CLASS_ANY) || q->qtype == DNS_AXFR || q->qtype == DNS_IXFR)
		return DNS_REFUSED;
	return DNS_NOERROR;
}

size_t dns_udp_limit(const struct dns_query *q)
{
	return q->udp_size < DNS_UDP_SIZE ? q->udp_size : DNS_UDP_SIZE;
}

int dns_name_parse(struct str text, uint8_t ret_wire[static DNS_NAME_MAX], size_t *ret_len)
{
	size_t len = 0;
	if (text.len > 0 && text.base[text.len - 1] == '.')
		text.len--;
	while (text.len > 0) {
		struct str label = str_cut(text, '.', &text);
		if (label.len == 0 || label.len > 63 || len + 1 + label.len >= DNS_NAME_MAX)
			return E_INVAL;
		ret_wire[len++] = (uint8_t)label.len;
		for (size_t i = 0; i < label.len; i++) {
			uint8_t c = lower((uint8_t)label.base[i]);
			if (!(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && c != '-' && c != '_')
				return E_INVAL;
			ret_wire[len++] = c;
		}
	}
	ret_wire[len++] = 0;
	*ret_len = len;
	return 0;
}

int dns_name_under(const uint8_t *name, size_t name_len, const uint8_t *zone, size_t zone_len)
{
	int labels = 0;
	if (name_len < zone_len || memcmp(name + name_len - zone_len, zone, zone_len) != 0)
		return -1;
	/* The suffix must begin where a label does. */
	for (size_t at = 0; at < name_len - zone_len; at += 1u + name[at]) {
		labels++;
		if (at + 1u + name[at] > name_len - zone_len)
			return -1;
	}
	return labels;
}

/* ---- replies --------------------------------------------------------------------------------- */

static size_t opt_size(const struct dns_query *q)
{
	if (!q->edns)
		return 0;
	return OPT_FIXED + (q->ecs ? ECS_FIXED + (q->ecs_source + 7u) / 8 : 0) + (q->cookie ? COOKIE_SIZE : 0);
}

static void put(struct dns_reply *r, const void *data, size_t len)
{
	if (r->truncated)
		return;
	if (r->cap - r->len < len + opt_size(r->query)) {
		r->truncated = true;
		return;
	}
	memcpy(r->out + r->len, data, len);
	r->len += len;
}

static void put_u16(struct dns_reply *r, unsigned value)
{
	uint8_t bytes[2] = {(uint8_t)(value >> 8), (uint8_t)value};
	put(r, bytes, 2);
}

void dns_reply_u32(struct dns_reply *r, uint32_t value)
{
	put_u16(r, value >> 16);
	put_u16(r, value & 0xffff);
}

static void remember(struct dns_reply *r, size_t at)
{
	if (r->name_count < sizeof(r->names) / sizeof(r->names[0]) && at <= POINTER_REACH)
		r->names[r->name_count++] = (uint16_t)at;
}

void dns_reply_begin(struct dns_reply *r, uint8_t *out, size_t cap, const struct dns_query *q)
{
	assert(cap >= DNS_UDP_PLAIN); /* header, a longest question and OPT always fit */
	r->out = out;
	r->cap = cap;
	r->len = DNS_HEADER_SIZE;
	r->query = q;
	memset(r->counts, 0, sizeof(r->counts));
	r->truncated = false;
	r->name_count = 0;
	if (q->cookie)
		memset(r->cookie, 0, sizeof(r->cookie));
	if (!q->question)
		return;
	for (size_t at = 0; q->qname[at]; at += 1u + q->qname[at])
		remember(r, DNS_HEADER_SIZE + at);
	put(r, q->qname, q->qname_len);
	put_u16(r, q->qtype);
	put_u16(r, q->qclass);
}

/* Whether the name written at `at` (our own pointers followed) is `name`. */
static bool is_name_at(const struct dns_reply *r, size_t at, const uint8_t *name)
{
	for (;;) {
		uint8_t label = r->out[at];
		if ((label & 0xC0) == 0xC0) {
			at = (size_t)(label & 0x3F) << 8 | r->out[at + 1];
			continue;
		}
		if (label != *name)
			return false;
		if (label == 0)
			return true;
		for (size_t i = 1; i <= label; i++) {
			if (lower(r->out[at + i]) != lower(name[i]))
				return false;
		}
		at += 1u + label;
		name += 1u + label;
	}
}

void dns_reply_name(struct dns_reply *r, const uint8_t *name)
{
	size_t known = r->name_count;
	for (; *name; name += 1u + *name) {
		for (size_t i = 0; i < known; i++) {
			if (is_name_at(r, r->names[i], name)) {
				put_u16(r, POINTER | r->names[i]);
				return;
			}
		}
		size_t at = r->len;
		put(r, name, 1u + *name);
		if (!r->truncated)
			remember(r, at);
	}
	put(r, name, 1);
}

void dns_reply_record(struct dns_reply *r, enum dns_section section, const uint8_t *owner, uint16_t type,
                      uint32_t ttl_s)
{
	r->section = section;
	r->record = r->len;
	if (owner)
		dns_reply_name(r, owner);
	else
		put_u16(r, POINTER | DNS_HEADER_SIZE);
	put_u16(r, type);
	put_u16(r, DNS_CLASS_IN);
	dns_reply_u32(r, ttl_s);
	put_u16(r, 0);
	r->rdata = r->len;
}

void dns_reply_bytes(struct dns_reply *r, const void *data, size_t len)
{
	put(r, data, len);
}

void dns_reply_record_end(struct dns_reply *r)
{
	if (r->truncated) { /* the names of the lost record go with it */
		while (r->name_count > 0 && r->names[r->name_count - 1] >= r->record)
			r->name_count--;
		if (r->record < r->len)
			r->len = r->record;
		return;
	}
	size_t len = r->len - r->rdata;
	r->out[r->rdata - 2] = (uint8_t)(len >> 8);
	r->out[r->rdata - 1] = (uint8_t)len;
	r->counts[r->section]++;
}

void dns_reply_ready(struct dns_reply *r, enum dns_section section, const void *record, size_t len)
{
	put(r, record, len);
	if (!r->truncated)
		r->counts[section]++;
}

void dns_reply_cookie(struct dns_reply *r, const uint8_t cookie[static 16])
{
	memcpy(r->cookie, cookie, sizeof(r->cookie));
}

static void put_opt(struct dns_reply *r, int rcode, uint8_t ecs_scope)
{
	const struct dns_query *q = r->query;
	bool ecs = q->ecs && (rcode == DNS_NOERROR || rcode == DNS_NXDOMAIN || rcode == DNS_REFUSED);
	size_t address = ecs ? (q->ecs_source + 7u) / 8 : 0, subnet = ecs ? ECS_FIXED + address : 0;
	bool cookie = q->cookie && r->cookie[0];
	size_t rdata = subnet + (cookie ? COOKIE_SIZE : 0);
	uint8_t *o = r->out + r->len;
	const uint8_t fixed[OPT_FIXED] = {0,
	                                  0,
	                                  DNS_OPT,
	                                  DNS_UDP_SIZE >> 8,
	                                  DNS_UDP_SIZE & 0xff,
	                                  (uint8_t)(rcode >> 4),
	                                  0,
	                                  q->dnssec_ok ? 0x80 : 0,
	                                  0,
	                                  0,
	                                  (uint8_t)rdata};
	memcpy(o, fixed, OPT_FIXED);
	r->len += OPT_FIXED + rdata;
	r->counts[DNS_ADDITIONAL]++;
	if (cookie) {
		static const uint8_t option[4] = {0, OPTION_COOKIE, 0, COOKIE_SIZE - 4};
		uint8_t *to = o + OPT_FIXED + subnet;
		memcpy(to, option, 4);
		memcpy(to + 4, q->client_cookie, 8);
		memcpy(to + 12, r->cookie, 16);
	}
	if (!ecs)
		return;
	const uint8_t option[ECS_FIXED] = {0,
	                                   OPTION_ECS,
	                                   0,
	                                   (uint8_t)(4 + address),
	                                   (uint8_t)(q->ecs_family >> 8),
	                                   (uint8_t)q->ecs_family,
	                                   q->ecs_source,
	                                   ecs_scope};
	memcpy(o + OPT_FIXED, option, ECS_FIXED);
	memcpy(o + OPT_FIXED + ECS_FIXED, q->ecs_address, address);
}

size_t dns_reply_end(struct dns_reply *r, int rcode, bool authoritative, uint8_t ecs_scope)
{
	const struct dns_query *q = r->query;
	if (q->edns)
		put_opt(r, rcode, ecs_scope);
	unsigned flags = 0x8000u | (unsigned)q->opcode << 11 | (authoritative ? 0x0400u : 0) |
	                 (r->truncated ? 0x0200u : 0) | (q->rd ? 0x0100u : 0) | (q->cd ? 0x0010u : 0) |
	                 ((unsigned)rcode & 15);
	const unsigned fields[6] = {q->id, flags, q->question, r->counts[0], r->counts[1], r->counts[2]};
	for (size_t i = 0; i < 6; i++) {
		r->out[i * 2] = (uint8_t)(fields[i] >> 8);
		r->out[i * 2 + 1] = (uint8_t)fields[i];
	}
	return r->len;
}
