/* SPDX-License-Identifier: Apache-2.0 */
/* sends.h - how fast bytes go out: the connections that send blobs share the rate, each paced by the kernel.
 *
 * A connection counts for ACTIVE_US after a request, and gets its share with each; so when many begin at once more goes
 * out than may until each has asked twice, and what a slow receiver does not use is not given to others. Nothing is
 * held back here: receivers would take the wait for a dead sender. Loop thread. Bytes per second.
 */
#ifndef MDN_SERVE_PEER_SENDS_H
#define MDN_SERVE_PEER_SENDS_H

#include "net/http.h"

#define SENDS_MAX 1024 /* connections told apart; more get what these leave them */

struct sends {
	uint64_t rate_max; /* 0: no limit */
	struct sender {
		uint64_t connection;
		int64_t asked_us;
	} * senders;
	size_t count;
};
void sends_set(struct sends *s, uint64_t rate_max); /* live */
void sends_begin(struct sends *s, struct http_exchange *x, int64_t now_us);
void sends_fini(struct sends *s);

#endif
