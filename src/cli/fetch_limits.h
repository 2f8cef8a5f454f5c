/* SPDX-License-Identifier: Apache-2.0 */
/* fetch_limits.h - how fast this node may receive and send models now: the center's calendars and the configuration.
 *
 * The calendars are the node's own to keep, so that they go on when the center is away. Bytes per second. Loop thread.
 */
#ifndef MDN_CLI_FETCH_LIMITS_H
#define MDN_CLI_FETCH_LIMITS_H

#include "serve/member/member.h"

struct fetch_limits {
	struct assigned_limit *limits;
	size_t count;
};
void fetch_limits_set(struct fetch_limits *l, const struct assignment *a);
void fetch_limits_fini(struct fetch_limits *l);
/* The least that holds at wall_us; CALENDAR_NONE: no limit. Limits of traffic with other sites, or with one, hold for
 * `site` (that of the other end) only; empty: of any site, the least of all. */
uint64_t fetch_limits_receive(const struct fetch_limits *l, struct str own_site, struct str site, int64_t wall_us);
uint64_t fetch_limits_send(const struct fetch_limits *l, struct str own_site, struct str site, int64_t wall_us);

#endif
