/* SPDX-License-Identifier: Apache-2.0 */
/* The address records of (site, name, family) are made once per map version and tick, with the owner as a pointer to
 * the question, so that an answer is header, question and three copies. Only names that exist get a place in the cache:
 * a flood of random ones costs a hash lookup each and fills nothing. Equally good addresses take turns from answer to
 * answer. */
#include "serve/scheduler/dns_zone.h"

#include "base/clock.h"
#include "core/node_map_index.h"
#include "net/dns.h"

#include <stdlib.h>

#define CACHE_SLOTS 4096 /* direct mapped */
#define CACHE_TICK_US (100 * US_PER_MS)
#define ZONE_WIRE_MAX 160 /* leaves room for MODEL-LABEL.api. */
#define APEX_TTL_S 3600
#define RECORD_MAX 28

struct cached {
	char label[MODEL_LABEL_SIZE]; /* "": api.ZONE */
	uint32_t site;
	uint8_t bits; /* 0: empty */
	uint64_t version;
	int64_t tick;
	uint8_t records[DNS_CHOICES_MAX][RECORD_MAX];
	uint8_t count, equal;
};

struct dns_zone {
	uint8_t wire[DNS_NAME_MAX], ns[DNS_NAME_MAX], mailbox[DNS_NAME_MAX];
	size_t wire_len;
	int64_t ttl_us;
	struct ip own; /* bits 0: unknown */
	const struct node_map *map;
	uint64_t epoch; /* settings changed: added to the map's version */
	uint64_t turn;
	struct dns_counts counts;
	struct cached cache[CACHE_SLOTS];
};

static size_t prefixed(uint8_t *to, struct str label, const uint8_t *zone, size_t zone_len)
{
	to[0] = (uint8_t)label.len;
	memcpy(to + 1, label.base, label.len);
	memcpy(to + 1 + label.len, zone, zone_len);
	return 1 + label.len + zone_len;
}

int dns_zone_new(struct str name, int64_t ttl_us, const struct node_map *map, struct dns_zone **ret_zone,
                 struct error *err)
{
	struct dns_zone *z = NEW(struct dns_zone);
	if (dns_name_parse(name, z->wire, &z->wire_len) < 0 || z->wire_len < 2 || z->wire_len > ZONE_WIRE_MAX) {
		free(z);
		return error_set(err, E_INVAL,
		                 "dns_zone \"" STR_FMT "\" is not a domain name of at most %d bytes, such as mdn.test",
		                 (int)(name.len < 200 ? name.len : 200), name.base ? name.base : "", ZONE_WIRE_MAX - 2);
	}
	prefixed(z->ns, STR("ns"), z->wire, z->wire_len);
	prefixed(z->mailbox, STR("hostmaster"), z->wire, z->wire_len);
	z->ttl_us = ttl_us;
	z->map = map;
	*ret_zone = z;
	return 0;
}

void dns_zone_free(struct dns_zone *z)
{
	free(z);
}

void dns_zone_set_ttl(struct dns_zone *z, int64_t ttl_us)
{
	z->ttl_us = ttl_us;
	z->epoch++;
}

void dns_zone_set_own(struct dns_zone *z, const struct ip *own)
{
	z->own = *own;
}

const struct dns_counts *dns_zone_counts(const struct dns_zone *z)
{
	return &z->counts;
}

/* ---- records --------------------------------------------------------------------------------- */

static void put_soa(const struct dns_zone *z, struct dns_reply *r, enum dns_section section, uint32_t ttl_s)
{
	dns_reply_record(r, section, z->wire, DNS_SOA, ttl_s);
	dns_reply_name(r, z->ns);
	dns_reply_name(r, z->mailbox);
	dns_reply_u32(r, (uint32_t)node_map_version(z->map)); /* serial */
	dns_reply_u32(r, 3600);                               /* refresh */
	dns_reply_u32(r, 600);                                /* retry */
	dns_reply_u32(r, 86400);                              /* expire */
	dns_reply_u32(r, DNS_NEGATIVE_TTL_S);
	dns_reply_record_end(r);
}

static void put_own(const struct dns_zone *z, struct dns_reply *r, enum dns_section section)
{
	dns_reply_record(r, section, z->ns, z->own.bits == 32 ? DNS_A : DNS_AAAA, APEX_TTL_S);
	dns_reply_bytes(r, z->own.bytes, z->own.bits / 8u);
	dns_reply_record_end(r);
}

static void put_ns(const struct dns_zone *z, struct dns_reply *r)
{
	dns_reply_record(r, DNS_ANSWER, NULL, DNS_NS, APEX_TTL_S);
	dns_reply_name(r, z->ns);
	dns_reply_record_end(r);
	if (z->own.bits)
		put_own(z, r, DNS_ADDITIONAL);
}

/* RFC 8482, 4.2: a small answer that says so. */
static void put_any(struct dns_reply *r)
{
	static const uint8_t hinfo[] = {7, 'R', 'F', 'C', '8', '4', '8', '2', 0};
	dns_reply_record(r, DNS_ANSWER, NULL, DNS_HINFO, APEX_TTL_S);
	dns_reply_bytes(r, hinfo, sizeof(hinfo));
	dns_reply_record_end(r);
}

/* ---- addresses ------------------------------------------------------------------------------- */

static void cache_fill(const struct dns_zone *z, struct cached *c, struct str label, uint32_t site, unsigned bits,
                       int64_t now_us)
{
	struct dns_choices choices;
	struct str name = site == MAP_NONE ? (struct str){0} : map_site_name(z->map, site);
	dns_choose(z->map, label, bits, name, now_us, &choices);
	uint32_t ttl_s = dns_ttl_s(z->ttl_us, choices.failing);
	uint8_t type = bits == 32 ? DNS_A : DNS_AAAA, size = (uint8_t)(bits / 8);
	const uint8_t head[12] = {0xC0,
	                          DNS_HEADER_SIZE,
	                          0,
	                          type,
	                          0,
	                          DNS_CLASS_IN,
	                          (uint8_t)(ttl_s >> 24),
	                          (uint8_t)(ttl_s >> 16),
	                          (uint8_t)(ttl_s >> 8),
	                          (uint8_t)ttl_s,
	                          0,
	                          size};
	memcpy(c->label, label.base, label.len);
	c->label[label.len] = '\0';
	c->site = site;
	c->bits = (uint8_t)bits;
	c->version = node_map_version(z->map) + z->epoch;
	c->tick = now_us / CACHE_TICK_US;
	c->count = (uint8_t)choices.count;
	c->equal = (uint8_t)choices.equal;
	for (size_t i = 0; i < choices.count; i++) {
		memcpy(c->records[i], head, sizeof(head));
		memcpy(c->records[i] + sizeof(head), choices.addresses[i].bytes, size);
	}
}

static const struct cached *cached_of(struct dns_zone *z, struct str label, uint32_t site, unsigned bits,
                                      int64_t now_us)
{
	struct cached *c = &z->cache[hash_join(hash_str(label) + bits, site) & (CACHE_SLOTS - 1)];
	bool hit = c->bits == bits && c->site == site && c->version == node_map_version(z->map) + z->epoch &&
	           c->tick == now_us / CACHE_TICK_US && str_equal(str_from(c->label), label);
	if (!hit)
		cache_fill(z, c, label, site, bits, now_us);
	z->counts.cache_hits += hit;
	z->counts.cache_misses += !hit;
	return c;
}

static struct ip client_of(const struct dns_query *q, const struct ip *from)
{
	if (!q->ecs || q->ecs_source == 0)
		return *from;
	struct ip ip = {.bits = q->ecs_family == 1 ? 32 : 128};
	memcpy(ip.bytes, q->ecs_address, ip.bits / 8u);
	return ip;
}

/* The scope of the answer, 0 when the name has the same for everybody. */
static uint8_t put_addresses(struct dns_zone *z, struct dns_reply *r, const struct dns_query *q, struct str label,
                             const struct ip *from, int64_t now_us)
{
	uint8_t scope;
	struct ip client = client_of(q, from);
	uint32_t site = map_site_of(z->map, &client, &scope);
	const struct cached *c = cached_of(z, label, site, q->qtype == DNS_A ? 32 : 128, now_us);
	size_t size = 12u + c->bits / 8u, named = c->count < DNS_ADDRESSES_MAX ? c->count : DNS_ADDRESSES_MAX;
	uint64_t turn = z->turn++;
	for (size_t i = 0; i < named; i++)
		dns_reply_ready(r, DNS_ANSWER, c->records[i < c->equal ? (turn + i) % c->equal : i], size);
	return named > 0 && q->ecs && q->ecs_source > 0 ? scope : 0;
}

/* ---- the zone -------------------------------------------------------------------------------- */

static int answer_place(struct dns_zone *z, enum dns_place place, struct str label, const struct dns_query *q,
                        const struct ip *from, int64_t now_us, struct dns_reply *r, uint8_t *ret_scope)
{
	bool address = q->qtype == DNS_A || q->qtype == DNS_AAAA;
	if (place == DNS_PLACE_NOWHERE) {
		put_soa(z, r, DNS_AUTHORITY, DNS_NEGATIVE_TTL_S);
		return DNS_NXDOMAIN;
	}
	if (q->qtype == DNS_ANY)
		put_any(r);
	else if (place == DNS_PLACE_APEX && q->qtype == DNS_SOA)
		put_soa(z, r, DNS_ANSWER, APEX_TTL_S);
	else if (place == DNS_PLACE_APEX && q->qtype == DNS_NS)
		put_ns(z, r);
	else if (place == DNS_PLACE_NS && address && z->own.bits == (q->qtype == DNS_A ? 32 : 128))
		put_own(z, r, DNS_ANSWER);
	else if (address && (place == DNS_PLACE_API || place == DNS_PLACE_MODEL))
		*ret_scope = put_addresses(z, r, q, label, from, now_us);
	if (r->counts[DNS_ANSWER] == 0 && !r->truncated)
		put_soa(z, r, DNS_AUTHORITY, DNS_NEGATIVE_TTL_S);
	return DNS_NOERROR;
}

static enum dns_place locate(const struct dns_zone *z, const struct dns_query *q, struct str *ret_label)
{
	struct str labels[2] = {{0}};
	int count = dns_name_under(q->lower, q->qname_len, z->wire, z->wire_len);
	const uint8_t *at = q->lower;
	for (int i = 0; i < count && i < 2; i++, at += 1u + *at)
		labels[i] = (struct str){(const char *)at + 1, *at};
	return dns_locate(z->map, labels, count, ret_label);
}

size_t dns_zone_answer(struct dns_zone *z, const uint8_t *query, size_t len, const struct ip *from, bool tcp,
                       int64_t now_us, uint8_t *out)
{
	struct dns_query q;
	struct dns_reply r;
	struct str label = {"", 0};
	uint8_t scope = 0;
	*(tcp ? &z->counts.tcp : &z->counts.udp) += 1;
	int rcode = dns_query_parse(query, len, &q);
	if (rcode == DNS_DROP) {
		z->counts.dropped++;
		return 0;
	}
	dns_reply_begin(&r, out, tcp ? DNS_REPLY_SIZE : dns_udp_limit(&q), &q);
	enum dns_place place = DNS_PLACE_OUTSIDE;
	if (rcode == DNS_NOERROR) {
		place = locate(z, &q, &label);
		rcode = place == DNS_PLACE_OUTSIDE ? DNS_REFUSED
		                                   : answer_place(z, place, label, &q, from, now_us, &r, &scope);
	}
	z->counts.rcodes[rcode < 24 ? rcode : 23]++;
	return dns_reply_end(&r, rcode, place != DNS_PLACE_OUTSIDE, scope);
}
