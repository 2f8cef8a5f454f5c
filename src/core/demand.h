/* SPDX-License-Identifier: Apache-2.0 */
/* demand.h - how much each prefix of clients asks of an edge, and the words in which the edge tells schedulers.
 *
 * Clients are counted by /24 and /48. What a request asks is the time it is in work, so that the sum over a window by
 * the window's length is how many are in work at a time. Bounded: a window holds LIMIT_DEMAND prefixes, of further ones
 * only the sum. Owns its lines; zeroed is empty and valid. Microseconds. Pure. Wire form: docs/wire.md, "demand".
 */
#ifndef MDN_CORE_DEMAND_H
#define MDN_CORE_DEMAND_H

#include "core/hash.h"
#include "core/lpm.h"
#include "core/report.h"

struct demand_line {
	struct ip_prefix prefix;
	int64_t busy_us;
	int64_t rtt_us; /* the least to a client of it; 0: not known */
};

struct demand {
	struct demand_line *lines;
	uint32_t count, cap;
	struct hash_index by_prefix;
	int64_t untold_us; /* of prefixes that found no place */
};

struct ip_prefix demand_prefix(const struct ip *client);
uint64_t demand_hash(const struct ip_prefix *p);
void demand_add(struct demand *d, const struct ip *client, int64_t busy_us, int64_t rtt_us);
void demand_clear(struct demand *d);
void demand_fini(struct demand *d);
void demand_format(const struct demand *d, const char *node_id, int64_t window_us, struct buf *out);
/* E_INVAL, E_LIMIT. The id says whose it is; of a prefix twice the lines are added. */
int demand_parse(struct str json, struct demand *ret_demand, char ret_id[static NODE_ID_SIZE], int64_t *ret_window_us,
                 struct error *err);

#endif
