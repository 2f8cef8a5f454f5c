/* SPDX-License-Identifier: Apache-2.0 */
/* The records of (site, name, type) are made once per scene and tick, with the owner as a pointer to the question, so
 * that an answer is header, question and three copies. Only names that exist get a place in the cache: a flood of
 * random ones costs a hash lookup each and fills nothing. Equally good addresses take turns from answer to answer.
 *
 * HTTPS and SVCB (RFC 9460) speak of the nodes with TLS only: one record in ServiceMode with the name itself as target,
 * the port of the best of them, and as hints those that listen on that port. */
#include "serve/scheduler/dns_zone.h"

#include "base/clock.h"
#include "net/dns.h"
#include "net/dns_cookie.h"
#include "serve/scheduler/dns_limit.h"

#include <stdio.h>
#include <stdlib.h>

#define CACHE_SLOTS 4096 /* direct mapped */
#define CACHE_TICK_US (100 * US_PER_MS)
#define ZONE_WIRE_MAX 160 /* leaves room for MODEL-LABEL.api. */
#define APEX_TTL_S 3600
#define RECORD_HEAD 12
#define RECORD_MAX (RECORD_HEAD + 16)
#define ROWS_BYTES_MAX (64u << 20)
#define HTTPS_PORT 443
#define KIND_NEGATIVE 1 /* of replies, for the limit */
#define KIND_ERROR 2

struct cached {
	char label[MODEL_LABEL_SIZE]; /* "": api.ZONE */
	uint32_t site;
	uint16_t type; /* 0: empty */
	uint64_t scene;
	int64_t tick;
	uint8_t records[DNS_CHOICES_MAX * RECORD_MAX]; /* all of one size */
	uint8_t size, count, equal, other;
};

struct dns_zone {
	uint8_t wire[DNS_NAME_MAX], ns[DNS_NAME_MAX], mailbox[DNS_NAME_MAX];
	size_t wire_len;
	const struct dns_scene *scene;
	const struct distances *distances; /* that rows are of */
	uint32_t **rows;                   /* by site; NULL: not made */
	uint32_t row_count;
	size_t row_bytes;
	struct dns_limit *limit;
	struct dns_cookies *cookies;
	int64_t why_second;
	unsigned why_count;
	uint64_t turn;
	struct dns_counts counts;
	struct cached cache[CACHE_SLOTS];
};

/* One question on its way through. */
struct asking {
	const struct dns_query *query;
	const struct ip *from;
	struct str label; /* of the model, or empty */
	int64_t now_us;
	struct dns_reply *reply;
	uint8_t scope;
};

static void count(_Atomic uint64_t *counter, uint64_t more)
{
	/* One writer: no locked instruction is needed. */
	uint64_t now = atomic_load_explicit(counter, memory_order_relaxed);
	atomic_store_explicit(counter, now + more, memory_order_relaxed);
}

static size_t prefixed(uint8_t *to, struct str label, const uint8_t *zone, size_t zone_len)
{
	to[0] = (uint8_t)label.len;
	memcpy(to + 1, label.base, label.len);
	memcpy(to + 1 + label.len, zone, zone_len);
	return 1 + label.len + zone_len;
}

int dns_zone_new(struct str name, struct dns_zone **ret_zone, struct error *err)
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
	z->cookies = dns_cookies_new();
	*ret_zone = z;
	return 0;
}

static void rows_drop(struct dns_zone *z)
{
	for (uint32_t i = 0; i < z->row_count; i++)
		free(z->rows[i]);
	free(z->rows);
	z->rows = NULL;
	z->row_count = 0;
	z->row_bytes = 0;
}

void dns_zone_free(struct dns_zone *z)
{
	if (!z)
		return;
	rows_drop(z);
	dns_limit_free(z->limit);
	dns_cookies_free(z->cookies);
	free(z);
}

void dns_zone_set(struct dns_zone *z, const struct dns_scene *scene)
{
	z->scene = scene;
	if (z->distances != scene->view->distances) {
		rows_drop(z);
		z->distances = scene->view->distances;
	}
	if (scene->rate > 0 && !z->limit)
		z->limit = dns_limit_new();
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
	dns_reply_u32(r, (uint32_t)z->scene->view->version); /* serial */
	dns_reply_u32(r, 3600);                              /* refresh */
	dns_reply_u32(r, 600);                               /* retry */
	dns_reply_u32(r, 86400);                             /* expire */
	dns_reply_u32(r, DNS_NEGATIVE_TTL_S);
	dns_reply_record_end(r);
}

static void put_own(const struct dns_zone *z, struct dns_reply *r, enum dns_section section)
{
	dns_reply_record(r, section, z->ns, z->scene->own.bits == 32 ? DNS_A : DNS_AAAA, APEX_TTL_S);
	dns_reply_bytes(r, z->scene->own.bytes, z->scene->own.bits / 8u);
	dns_reply_record_end(r);
}

static void put_ns(const struct dns_zone *z, struct dns_reply *r)
{
	dns_reply_record(r, DNS_ANSWER, NULL, DNS_NS, APEX_TTL_S);
	dns_reply_name(r, z->ns);
	dns_reply_record_end(r);
	if (z->scene->own.bits)
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

/* The distances from a site, made when it is first a client's. */
static const uint32_t *row_of(struct dns_zone *z, uint32_t site)
{
	const struct distances *d = z->distances;
	if (site == MAP_NONE)
		return NULL;
	if (!z->rows || z->row_bytes > ROWS_BYTES_MAX) {
		rows_drop(z);
		z->row_count = d->count;
		z->rows = mem_new(d->count * sizeof(*z->rows));
	}
	if (!z->rows[site]) {
		z->rows[site] = mem_resize(NULL, d->count, sizeof(**z->rows));
		distances_row(d, site, z->rows[site]);
		z->row_bytes += d->count * sizeof(**z->rows);
	}
	return z->rows[site];
}

static void choose(struct dns_zone *z, struct str label, uint32_t site, unsigned bits, bool tls, int64_t now_us,
                   struct dns_choices *ret_choices)
{
	const struct dns_wish wish = {.label = label, .bits = bits, .tls = tls, .row = row_of(z, site)};
	dns_choose(z->scene->view, &wish, now_us, ret_choices);
}

static uint8_t *head_put(uint8_t *to, uint16_t type, uint32_t ttl_s, size_t size)
{
	const uint8_t head[RECORD_HEAD] = {0xC0,
	                                   DNS_HEADER_SIZE,
	                                   0,
	                                   (uint8_t)type,
	                                   0,
	                                   DNS_CLASS_IN,
	                                   (uint8_t)(ttl_s >> 24),
	                                   (uint8_t)(ttl_s >> 16),
	                                   (uint8_t)(ttl_s >> 8),
	                                   (uint8_t)ttl_s,
	                                   0,
	                                   (uint8_t)size};
	memcpy(to, head, sizeof(head));
	return to + sizeof(head);
}

static void addresses_fill(struct dns_zone *z, struct cached *c, struct str label, int64_t now_us)
{
	struct dns_choices choices;
	size_t bytes = c->type == DNS_A ? 4 : 16;
	choose(z, label, c->site, c->type == DNS_A ? 32 : 128, false, now_us, &choices);
	uint32_t ttl_s = dns_ttl_s(z->scene->ttl_us, choices.failing);
	c->count = (uint8_t)choices.count;
	c->equal = (uint8_t)choices.equal;
	c->other = (uint8_t)choices.other;
	c->size = (uint8_t)(RECORD_HEAD + bytes);
	for (size_t i = 0; i < choices.count; i++)
		memcpy(head_put(c->records + i * c->size, c->type, ttl_s, bytes), choices.list[i].ip.bytes, bytes);
}

/* A parameter of addresses; nothing when there is none on that port. */
static uint8_t *hint_put(uint8_t *to, uint8_t key, const struct dns_choices *choices, uint16_t port, size_t bytes)
{
	uint8_t *at = to + 4;
	for (size_t i = 0, named = 0; i < choices->count && named < DNS_ADDRESSES_MAX; i++) {
		if (choices->list[i].port != port)
			continue;
		memcpy(at, choices->list[i].ip.bytes, bytes);
		at += bytes;
		named++;
	}
	if (at == to + 4)
		return to;
	const uint8_t head[4] = {0, key, 0, (uint8_t)(at - to - 4)};
	memcpy(to, head, sizeof(head));
	return at;
}

static void service_fill(struct dns_zone *z, struct cached *c, struct str label, int64_t now_us)
{
	/* Priority 1, target ".": the name itself; alpn. Keys must rise: 1 alpn, 3 port, 4 and 6 the hints. */
	static const uint8_t first[] = {0, 1, 0, 0, 1, 0, 9, 8, 'h', 't', 't', 'p', '/', '1', '.', '1'};
	struct dns_choices v4, v6;
	choose(z, label, c->site, 32, true, now_us, &v4);
	choose(z, label, c->site, 128, true, now_us, &v6);
	c->count = c->equal = v4.count + v6.count > 0;
	c->other = 0;
	if (!c->count)
		return;
	const struct dns_choice *best = &v4.list[0];
	if (v4.count == 0 || (v6.count > 0 && (v6.list[0].tier < best->tier ||
	                                       (v6.list[0].tier == best->tier && v6.list[0].cost_us < best->cost_us))))
		best = &v6.list[0];
	uint8_t *rdata = c->records + RECORD_HEAD, *at = rdata + sizeof(first);
	memcpy(rdata, first, sizeof(first));
	if (best->port != HTTPS_PORT) {
		const uint8_t port[6] = {0, 3, 0, 2, (uint8_t)(best->port >> 8), (uint8_t)best->port};
		memcpy(at, port, sizeof(port));
		at += sizeof(port);
	}
	at = hint_put(at, 4, &v4, best->port, 4);
	at = hint_put(at, 6, &v6, best->port, 16);
	head_put(c->records, c->type, dns_ttl_s(z->scene->ttl_us, v4.failing || v6.failing), (size_t)(at - rdata));
	c->size = (uint8_t)(at - c->records);
}

static const struct cached *cached_of(struct dns_zone *z, struct str label, uint32_t site, uint16_t type,
                                      int64_t now_us)
{
	struct cached *c = &z->cache[hash_join(hash_str(label) + type, site) & (CACHE_SLOTS - 1)];
	if (c->type == type && c->site == site && c->scene == z->scene->number && c->tick == now_us / CACHE_TICK_US &&
	    str_equal(str_from(c->label), label)) {
		count(&z->counts.cache_hits, 1);
		return c;
	}
	count(&z->counts.cache_misses, 1);
	memcpy(c->label, label.base, label.len);
	c->label[label.len] = '\0';
	c->site = site;
	c->type = type;
	c->scene = z->scene->number;
	c->tick = now_us / CACHE_TICK_US;
	if (type == DNS_A || type == DNS_AAAA)
		addresses_fill(z, c, label, now_us);
	else
		service_fill(z, c, label, now_us);
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

/* The scope stays 0 when the name has the same for everybody. */
static void put_cached(struct dns_zone *z, struct asking *a)
{
	uint8_t scope;
	const struct dns_query *q = a->query;
	struct ip client = client_of(q, a->from);
	uint32_t site = dns_view_site_of(z->scene->view, &client, &scope);
	const struct cached *c = cached_of(z, a->label, site, q->qtype, a->now_us);
	size_t named = c->count < DNS_ADDRESSES_MAX ? c->count : DNS_ADDRESSES_MAX;
	uint64_t turn = z->turn++;
	for (size_t i = 0; i < named; i++)
		dns_reply_ready(a->reply, DNS_ANSWER,
		                c->records + dns_nth(i, named, c->equal, c->other, turn) * c->size, c->size);
	if (named > 0 && q->ecs && q->ecs_source > 0)
		a->scope = scope;
}

/* ---- why ------------------------------------------------------------------------------------- */

static void put_text(struct dns_reply *r, const char *text)
{
	uint8_t len = (uint8_t)strlen(text);
	dns_reply_record(r, DNS_ANSWER, NULL, DNS_TXT, 0);
	dns_reply_bytes(r, &len, 1);
	dns_reply_bytes(r, text, len);
	dns_reply_record_end(r);
}

static void put_why_choices(const struct dns_zone *z, struct dns_reply *r, const struct dns_choices *choices)
{
	char text[250], address[IP_TEXT_SIZE];
	for (size_t i = 0; i < choices->count && i < DNS_ADDRESSES_MAX; i++) {
		const struct dns_choice *c = &choices->list[i];
		struct str site = distances_site_name(z->distances, c->site);
		ip_format(&c->ip, address);
		snprintf(text, sizeof(text), "%zu. %s site %.64s %s, %s %lld.%03lld ms%s", i + 1, address, site.base,
		         dns_tier_name(c->tier), c->tier == DNS_TIER_DOWN ? "not heard of for" : "costs",
		         (long long)(c->cost_us / 1000), (long long)(c->cost_us % 1000),
		         i < choices->equal && choices->equal > 1 ? ", takes turns" : "");
		put_text(r, text);
	}
}

static void put_why(struct dns_zone *z, struct asking *a)
{
	uint8_t scope;
	char text[250], address[IP_TEXT_SIZE];
	struct dns_choices choices;
	const struct dns_query *q = a->query;
	if (a->now_us / US_PER_S != z->why_second) {
		z->why_second = a->now_us / US_PER_S;
		z->why_count = 0;
	}
	if (!z->scene->why || z->why_count++ >= DNS_WHY_PER_S)
		return;
	struct ip client = client_of(q, a->from);
	bool ecs = q->ecs && q->ecs_source > 0;
	uint32_t site = dns_view_site_of(z->scene->view, &client, &scope);
	ip_format(&client, address);
	snprintf(text, sizeof(text), "client %s/%u by %s: site %.64s, scope %u; map %llu", address,
	         (unsigned)(ecs ? q->ecs_source : client.bits), ecs ? "its subnet" : "its resolver's address",
	         site == MAP_NONE ? "unknown" : distances_site_name(z->distances, site).base, scope,
	         (unsigned long long)z->scene->view->version);
	put_text(a->reply, text);
	for (unsigned bits = 32; bits <= 128; bits += 96) {
		choose(z, a->label, site, bits, false, a->now_us, &choices);
		put_why_choices(z, a->reply, &choices);
	}
	if (ecs)
		a->scope = q->ecs_source < client.bits ? q->ecs_source : client.bits; /* the client is in the answer */
}

/* ---- the zone -------------------------------------------------------------------------------- */

static int answer_place(struct dns_zone *z, enum dns_place place, struct asking *a)
{
	uint16_t type = a->query->qtype;
	struct dns_reply *r = a->reply;
	bool address = type == DNS_A || type == DNS_AAAA, served = place == DNS_PLACE_API || place == DNS_PLACE_MODEL;
	if (place == DNS_PLACE_NOWHERE && z->scene->young)
		return DNS_SERVFAIL; /* the resolver asks another server, and keeps nothing */
	if (place == DNS_PLACE_NOWHERE) {
		put_soa(z, r, DNS_AUTHORITY, DNS_NEGATIVE_TTL_S);
		return DNS_NXDOMAIN;
	}
	if (served && (address || type == DNS_HTTPS || type == DNS_SVCB))
		put_cached(z, a);
	else if (type == DNS_ANY)
		put_any(r);
	else if (place == DNS_PLACE_APEX && type == DNS_SOA)
		put_soa(z, r, DNS_ANSWER, APEX_TTL_S);
	else if (place == DNS_PLACE_APEX && type == DNS_NS)
		put_ns(z, r);
	else if (place == DNS_PLACE_NS && address && z->scene->own.bits == (type == DNS_A ? 32 : 128))
		put_own(z, r, DNS_ANSWER);
	else if (served && type == DNS_TXT)
		put_why(z, a);
	if (r->counts[DNS_ANSWER] > 0 || r->truncated)
		return DNS_NOERROR;
	if (served && type == DNS_A && z->scene->young)
		return DNS_SERVFAIL;
	put_soa(z, r, DNS_AUTHORITY, DNS_NEGATIVE_TTL_S);
	return DNS_NOERROR;
}

static enum dns_place locate(const struct dns_zone *z, const struct dns_query *q, struct str *ret_label)
{
	struct str labels[2] = {{0}};
	int count_before = dns_name_under(q->lower, q->qname_len, z->wire, z->wire_len);
	const uint8_t *at = q->lower;
	for (int i = 0; i < count_before && i < 2; i++, at += 1u + *at)
		labels[i] = (struct str){(const char *)at + 1, *at};
	return dns_locate(z->scene->view, labels, count_before, ret_label);
}

/* Gives the reply a cookie of ours; whether the client showed a good one. */
static bool cookie_answer(struct dns_zone *z, const struct asking *a)
{
	const struct dns_query *q = a->query;
	uint8_t cookie[DNS_COOKIE_SERVER];
	uint32_t now_s = (uint32_t)(clock_wall_us() / US_PER_S);
	size_t bytes = a->from->bits / 8u;
	for (int i = 0; i < 2 && q->server_cookie_len == DNS_COOKIE_SERVER; i++) {
		if (!dns_cookie_check(z->cookies, z->scene->secrets[i], q->client_cookie, a->from->bytes, bytes, now_s,
		                      q->server_cookie))
			continue;
		count(&z->counts.cookies_good, 1);
		if (i == 0 && (int32_t)(now_s - dns_cookie_time(q->server_cookie)) < DNS_COOKIE_RENEW_S) {
			dns_reply_cookie(a->reply, q->server_cookie);
			return true;
		}
		dns_cookie_make(z->cookies, z->scene->secrets[0], q->client_cookie, a->from->bytes, bytes, now_s,
		                cookie);
		dns_reply_cookie(a->reply, cookie);
		return true;
	}
	dns_cookie_make(z->cookies, z->scene->secrets[0], q->client_cookie, a->from->bytes, bytes, now_s, cookie);
	dns_reply_cookie(a->reply, cookie);
	return false;
}

/* A stranger's reply over UDP: as it is, with TC in place of its records, or none. */
static size_t limited(struct dns_zone *z, const struct asking *a, enum dns_place place, int rcode, size_t len,
                      uint8_t *out)
{
	struct dns_reply *r = a->reply;
	uint64_t kind = rcode == DNS_NXDOMAIN  ? KIND_NEGATIVE
	                : rcode != DNS_NOERROR ? KIND_ERROR
	                                       : hash_join(hash_str(a->label), 16u + (unsigned)place);
	enum dns_limit_verdict v = dns_limit_check(z->limit, a->from, kind, z->scene->rate, a->now_us);
	if (v == DNS_LIMIT_SEND)
		return len;
	count(&z->counts.limited, 1);
	if (v == DNS_LIMIT_DROP)
		return 0;
	count(&z->counts.slipped, 1);
	uint8_t cookie[DNS_COOKIE_SERVER];
	if (a->query->cookie)
		memcpy(cookie, r->cookie, sizeof(cookie));
	dns_reply_begin(r, out, DNS_UDP_PLAIN, a->query);
	if (a->query->cookie)
		dns_reply_cookie(r, cookie);
	r->truncated = true;
	return dns_reply_end(r, rcode, place != DNS_PLACE_OUTSIDE, 0);
}

size_t dns_zone_answer(struct dns_zone *z, const uint8_t *query, size_t len, const struct ip *from, bool tcp,
                       int64_t now_us, uint8_t *out)
{
	struct dns_query q;
	struct dns_reply r;
	struct asking a = {.query = &q, .from = from, .label = {"", 0}, .now_us = now_us, .reply = &r};
	bool known = tcp;
	count(tcp ? &z->counts.tcp : &z->counts.udp, 1);
	int rcode = dns_query_parse(query, len, &q);
	if (rcode == DNS_DROP) {
		count(&z->counts.dropped, 1);
		return 0;
	}
	dns_reply_begin(&r, out, tcp ? DNS_REPLY_SIZE : dns_udp_limit(&q), &q);
	if (q.cookie)
		known |= cookie_answer(z, &a);
	enum dns_place place = DNS_PLACE_OUTSIDE;
	if (rcode == DNS_NOERROR && q.question) {
		place = locate(z, &q, &a.label);
		rcode = place == DNS_PLACE_OUTSIDE ? DNS_REFUSED : answer_place(z, place, &a);
	}
	count(&z->counts.rcodes[rcode < 24 ? rcode : 23], 1);
	len = dns_reply_end(&r, rcode, place != DNS_PLACE_OUTSIDE, a.scope);
	return known || z->scene->rate == 0 ? len : limited(z, &a, place, rcode, len, out);
}
