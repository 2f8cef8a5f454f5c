/* SPDX-License-Identifier: Apache-2.0 */
/* rate.h - how fast bytes may come in: calls are held back once a tick's share is used up, first come, first released.
 *
 * The owner ticks it; calls count what they got. Loop thread. A `rate_hold` lives in what it holds back.
 */
#ifndef MDN_SERVE_PEER_RATE_H
#define MDN_SERVE_PEER_RATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct http_call;
struct rate_hold {
	struct http_call *call;
	struct rate_hold *next;
	bool held;
};
struct rate {
	uint64_t bytes_per_s; /* 0: no limit */
	int64_t allowance;
	struct rate_hold *first;
};

void rate_set(struct rate *r, uint64_t bytes_per_s);
void rate_tick(struct rate *r, int64_t tick_us);                      /* a new share; the held ones go on */
bool rate_take(struct rate *r, struct rate_hold *hold, size_t bytes); /* false: the call is to pause */
void rate_forget(struct rate *r, struct rate_hold *hold);             /* the call ends */

#endif
