/* SPDX-License-Identifier: Apache-2.0 */
/* fetch_limits.h - how fast this node may receive and send models now: the center's calendars and the configuration.
 *
 * The calendars are the node's own to keep, so that they go on when the center is away. Bytes per second. Loop thread.
 */
#ifndef MDN_CLI_FETCH_LIMITS_H
#define MDN_CLI_FETCH_LIMITS_H

#include "serve/member/member.h"
#include "serve/peer/peer.h"

struct fetch_limits {
	struct assigned_limit *limits;
	size_t count;
};
void fetch_limits_set(struct fetch_limits *l, const struct assignment *a);
void fetch_limits_fini(struct fetch_limits *l);
/* What holds at wall_us for all that is received; CALENDAR_NONE: no limit. */
uint64_t fetch_limits_receive(const struct fetch_limits *l, int64_t wall_us);
/* The same for what comes from other sites, or from one; how many, at most max. */
size_t fetch_limits_classes(const struct fetch_limits *l, int64_t wall_us, struct peer_class *ret, size_t max);
/* The same two for what is sent. */
uint64_t fetch_limits_send(const struct fetch_limits *l, int64_t wall_us);
size_t fetch_limits_send_classes(const struct fetch_limits *l, int64_t wall_us, struct peer_class *ret, size_t max);

#endif
