/* SPDX-License-Identifier: Apache-2.0 */
/* Two places a bucket may be; a full one (nobody asked for a second) is free for anybody, and when both are in use the
 * older goes. The seed keeps strangers from choosing whom they collide with. Buckets hold one second's worth. */
#include "serve/scheduler/dns_limit.h"

#include "base/clock.h"
#include "base/rng.h"
#include "core/hash.h"

#include <stdlib.h>

#define BUCKETS 32768 /* 512 KiB */

struct bucket {
	uint32_t tag;
	uint32_t over;   /* replies held back in a row */
	int64_t full_us; /* when it will be full again: the tokens missing, as time */
};

struct dns_limit {
	uint64_t seed;
	struct bucket buckets[BUCKETS];
};

struct dns_limit *dns_limit_new(void)
{
	struct dns_limit *l = NEW(struct dns_limit);
	l->seed = rng_seed();
	return l;
}

void dns_limit_free(struct dns_limit *l)
{
	free(l);
}

static struct bucket *bucket_of(struct dns_limit *l, uint64_t hash, int64_t now_us)
{
	struct bucket *a = &l->buckets[hash % BUCKETS], *b = &l->buckets[(hash >> 16) % BUCKETS];
	uint32_t tag = (uint32_t)(hash >> 32) | 1;
	if (a->tag == tag)
		return a;
	if (b->tag == tag)
		return b;
	if (b->full_us < a->full_us)
		a = b;
	*a = (struct bucket){.tag = tag, .full_us = now_us};
	return a;
}

enum dns_limit_verdict dns_limit_check(struct dns_limit *l, const struct ip *from, uint64_t kind, uint32_t rate,
                                       int64_t now_us)
{
	uint64_t network;
	memcpy(&network, from->bytes, sizeof(network));
	network = __builtin_bswap64(network) >> (from->bits == 32 ? 40 : 8);
	struct bucket *b = bucket_of(l, hash_join(hash_join(network, from->bits + l->seed), kind), now_us);
	int64_t cost_us = US_PER_S / rate > 0 ? US_PER_S / rate : 1;
	if (b->full_us < now_us)
		b->full_us = now_us;
	if (b->full_us + cost_us - now_us > US_PER_S) {
		b->over++;
		return b->over % 2 == 0 ? DNS_LIMIT_SLIP : DNS_LIMIT_DROP;
	}
	b->over = 0;
	b->full_us += cost_us;
	return DNS_LIMIT_SEND;
}
