/* SPDX-License-Identifier: Apache-2.0 */
/* dns_answer.h - what a name of the zone is answered with: which of our names it is, and the addresses behind it.
 *
 *   ZONE                  SOA, NS
 *   ns.ZONE               the name server's own address
 *   api.ZONE              any node with a public API
 *   MODEL-LABEL.api.ZONE  nodes that have the model (label: node_map_index.h); exists while the map knows the model
 *   m-MODEL-LABEL.ZONE    the same, one label deep: a wildcard certificate *.ZONE covers it
 *
 * Addresses are those of healthy nodes' api_url, near and unloaded first; a node whose api_url names no address (a host
 * name) cannot be answered. Never empty while any node could be named: with none healthy, late ones, then draining
 * ones, then the last known dead ones are (an unhelpful answer can be retried, an empty one is cached). Pure.
 * Source: RFC 1034, 4.3.2; 2308; 9460.
 */
#ifndef MDN_CORE_DNS_ANSWER_H
#define MDN_CORE_DNS_ANSWER_H

#include "core/dns_view.h"

#define DNS_CHOICES_MAX 8    /* kept for rotation */
#define DNS_ADDRESSES_MAX 3  /* in one answer */
#define DNS_NEGATIVE_TTL_S 5 /* a model may come any moment */

enum dns_place {
	DNS_PLACE_OUTSIDE, /* REFUSED */
	DNS_PLACE_APEX,
	DNS_PLACE_NS,
	DNS_PLACE_API,
	DNS_PLACE_MODEL,
	DNS_PLACE_NOWHERE, /* NXDOMAIN */
};

/* `labels`: those before the zone, leftmost first (lower case); count < 0: not under the zone. *ret_model (MODEL only):
 * its label, pointing into labels. */
enum dns_place dns_locate(const struct dns_view *v, const struct str *labels, int count, struct str *ret_model);

enum dns_tier { DNS_TIER_UP, DNS_TIER_SUSPECT, DNS_TIER_DRAINING, DNS_TIER_DOWN };
const char *dns_tier_name(enum dns_tier tier);

struct dns_choice {
	struct ip ip;
	uint16_t port;
	enum dns_tier tier;
	uint32_t site;
	int64_t cost_us; /* DOWN: since it was heard of */
};

struct dns_choices {
	struct dns_choice list[DNS_CHOICES_MAX]; /* best first, no two addresses alike */
	size_t count;
	size_t equal; /* the first so many are as good as the best: take turns */
	size_t
	    other; /* the best of another site, when those before it could fill an answer; 0: named anyway, or none */
	bool failing; /* a node behind this name went away lately: halve the TTL */
};
struct dns_wish {
	struct str label;    /* of the model; empty: any node (api.ZONE) */
	unsigned bits;       /* 32 for A, 128 for AAAA */
	bool tls;            /* only nodes that speak it */
	const uint32_t *row; /* distances from the client's site, by site (distances_row); NULL: unknown */
};
void dns_choose(const struct dns_view *v, const struct dns_wish *w, int64_t now_us, struct dns_choices *ret_choices);
/* Which is the i-th of an answer of `named`, in this turn. */
size_t dns_nth(size_t i, size_t named, size_t equal, size_t other, uint64_t turn);
uint32_t dns_ttl_s(int64_t ttl_us, bool failing); /* at least 1 */

#endif
