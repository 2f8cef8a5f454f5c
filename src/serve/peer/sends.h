/* SPDX-License-Identifier: Apache-2.0 */
/* sends.h - how fast bytes go out: the connections that send blobs share the rates, each paced by the kernel.
 *
 * A rate is of all connections, or of those to some class of nodes (peer_class): bits of a connection say which hold
 * for it, bit 0 that of all; the least share of them counts.
 * A connection counts for ACTIVE_US after a request, and gets its share with each; so when many begin at once more goes
 * out than may until each has asked twice, and what a slow receiver does not use is not given to others. Nothing is
 * held back here: receivers would take the wait for a dead sender. Loop thread. Bytes per second.
 */
#ifndef MDN_SERVE_PEER_SENDS_H
#define MDN_SERVE_PEER_SENDS_H

#include "net/http.h"
#include "serve/peer/peer.h"

#define SENDS_RATES (1 + PEER_CLASSES_MAX)
#define SENDS_MAX 1024 /* connections told apart; more get what these leave them */

struct sends {
	uint64_t rates[SENDS_RATES]; /* 0: no limit */
	struct sender {
		uint64_t connection;
		int64_t asked_us;
		uint32_t rates; /* bits */
	} * senders;
	size_t count;
};
void sends_set(struct sends *s, const uint64_t rates[SENDS_RATES]); /* live */
void sends_begin(struct sends *s, struct http_exchange *x, uint32_t rates, int64_t now_us);
/* What a connection that asks now may send; 0: no limit. */
uint64_t sends_share(struct sends *s, uint64_t connection, uint32_t rates, int64_t now_us);
void sends_fini(struct sends *s);

#endif
