/* SPDX-License-Identifier: Apache-2.0 */
/* dns_zone.h - a DNS query in, the reply out: the zone of core/dns_answer.h over a picture of the node map, with no
 * socket in sight.
 *
 * Holds the picture it was given last by reference, a cache of ready records that lives no longer than that and a tenth
 * of a second, and what rate limiting remembers. One per thread that answers.
 *
 * Cookies (dns_cookie.h) are given to whoever sends one, over UDP and TCP. A client that shows a good one is not
 * limited. TXT of a name that has addresses says why it gets those it gets ("why" records), at most DNS_WHY_PER_S.
 */
#ifndef MDN_SERVE_DNS_ZONE_H
#define MDN_SERVE_DNS_ZONE_H

#include "core/dns_answer.h"

#include <stdatomic.h>

#define DNS_WHY_PER_S 200
#define DNS_SECRET_SIZE 16

/* Written by the zone's thread, read by any. */
struct dns_counts {
	_Atomic uint64_t udp, tcp, dropped, limited, slipped, cookies_good;
	_Atomic uint64_t rcodes[24];
	_Atomic uint64_t cache_hits, cache_misses;
};

/* What a zone answers from: immutable, and the caller's, who keeps it until the zone has another. */
struct dns_scene {
	const struct dns_view *view;
	uint64_t number; /* another one for each scene */
	int64_t ttl_us;
	struct ip own;                       /* address of ns.ZONE; bits 0: unknown */
	uint32_t rate;                       /* replies a second for one network and name over UDP; 0: no limit */
	bool why;                            /* "why" records */
	bool young;                          /* the map is not whole yet: SERVFAIL in place of "there is none" */
	uint8_t secrets[2][DNS_SECRET_SIZE]; /* of cookies: made with the first, taken with both */
};

struct dns_zone;
/* E_INVAL: not a domain name, or too long to put labels before it. Answers nothing before dns_zone_set. */
int dns_zone_new(struct str name, struct dns_zone **ret_zone, struct error *err);
void dns_zone_free(struct dns_zone *z);
void dns_zone_set(struct dns_zone *z, const struct dns_scene *scene);
/* Bytes written to out (DNS_REPLY_SIZE of room); 0: no reply. `from`: the resolver, taken for the client without ECS.
 */
#define DNS_REPLY_SIZE 4096
size_t dns_zone_answer(struct dns_zone *z, const uint8_t *query, size_t len, const struct ip *from, bool tcp,
                       int64_t now_us, uint8_t *out);
const struct dns_counts *dns_zone_counts(const struct dns_zone *z);

#endif
