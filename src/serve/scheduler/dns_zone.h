/* SPDX-License-Identifier: Apache-2.0 */
/* dns_zone.h - a DNS query in, the reply out: the zone of core/dns_answer.h over a node map, with no socket in sight.
 *
 * Holds the map by reference (the owner changes it between calls) and a cache of ready records that lives no longer
 * than the map's version and a tenth of a second. One per thread that answers.
 */
#ifndef MDN_SERVE_DNS_ZONE_H
#define MDN_SERVE_DNS_ZONE_H

#include "core/dns_answer.h"

struct dns_counts {
	uint64_t udp, tcp, dropped;
	uint64_t rcodes[24];
	uint64_t cache_hits, cache_misses;
};

struct dns_zone;
/* E_INVAL: not a domain name, or too long to put labels before it. */
int dns_zone_new(struct str name, int64_t ttl_us, const struct node_map *map, struct dns_zone **ret_zone,
                 struct error *err);
void dns_zone_free(struct dns_zone *z);
void dns_zone_set_ttl(struct dns_zone *z, int64_t ttl_us);
void dns_zone_set_own(struct dns_zone *z, const struct ip *own); /* address of ns.ZONE */
/* Bytes written to out (DNS_REPLY_SIZE of room); 0: no reply. `from`: the resolver, taken for the client without ECS.
 */
#define DNS_REPLY_SIZE 4096
size_t dns_zone_answer(struct dns_zone *z, const uint8_t *query, size_t len, const struct ip *from, bool tcp,
                       int64_t now_us, uint8_t *out);
const struct dns_counts *dns_zone_counts(const struct dns_zone *z);

#endif
