/* SPDX-License-Identifier: Apache-2.0 */
/* residence.h - which models stay in memory when another one is wanted: the least recently used of the idle ones go.
 *
 * Never one that is pinned or busy (loads, serves, is being switched). None goes that need not: of the least recently
 * used ones that together make room, those whose room is not needed stay. So the answer can be told in a sentence.
 * Sizes are bytes as computed before loading; times the caller's monotonic microseconds. Pure; any thread.
 */
#ifndef MDN_CORE_RESIDENCE_H
#define MDN_CORE_RESIDENCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct resident {
	uint64_t bytes;
	int64_t used_us;   /* when a request last came or ended; 0: never */
	int64_t loaded_us; /* when it became ready */
	bool pinned, busy;
	bool leaving; /* busy, and takes no more requests: its room is on its way */
	bool goes;    /* out: unload it */
};

enum residence {
	RESIDENCE_FITS,   /* after those that `goes` are unloaded, perhaps none */
	RESIDENCE_WAIT,   /* it would if busy ones were idle */
	RESIDENCE_PINNED, /* it never does beside the pinned ones */
	RESIDENCE_NEVER,  /* it is larger than everything */
};
enum residence residence_plan(struct resident *all, size_t count, uint64_t max, uint64_t need);

/* While it has to wait: the busy one that should take no more requests, so that those that wait get their turn, too:
 * the one that is here longest, and at least `stay_us`. `count`: none now, for example because one leaves already. */
size_t residence_give_way(const struct resident *all, size_t count, int64_t now_us, int64_t stay_us);

#endif
