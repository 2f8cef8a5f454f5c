/* SPDX-License-Identifier: Apache-2.0 */
/* election.h - which of several processes leads: whoever holds a key under a lease in etcd.
 *
 * A thread of its own keeps the lease, however busy the caller is; what is known is copied under the one mutex, which
 * nobody holds while waiting for anything. Leading ends by the clock, before etcd can let
 * another lead: whoever slept (SIGSTOP) or is cut off knows by looking at its clock. `revision` fences: a write that
 * compares the key's create_revision with it is refused once another leads, or we anew (store/state.h).
 * One thread calls. Algorithm: etcd clientv3/concurrency election, without the queue.
 */
#ifndef MDN_STORE_ELECTION_H
#define MDN_STORE_ELECTION_H

#include "store/etcd.h"

#define ELECTION_TERM_US (5 * INT64_C(1000000)) /* how long one leads after etcd was last heard */

struct election_options {
	struct etcd_options etcd;
	struct str key;   /* in etcd */
	struct str value; /* what others are told of us when we lead; up to 1,023 bytes */
};

struct election_view {
	int64_t revision;     /* of our leading; 0: we do not lead */
	int64_t until_us;     /* monotonic: until then */
	char leader[1024];    /* the value of who leads, when that is another; "" */
	struct error problem; /* why nothing is known of who leads; code 0: nothing is wrong */
};

struct election;
int election_new(const struct election_options *options, struct election **ret_election, struct error *err);
void election_free(struct election *e); /* stops leading: another may at once. Waits at most 1.5 s */
void election_look(struct election *e, struct election_view *ret_view);
/* Stops leading and stands again under a new revision: after a write of which nobody knows whether it was done. */
void election_yield(struct election *e);

#endif
