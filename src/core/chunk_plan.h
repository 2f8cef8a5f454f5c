/* SPDX-License-Identifier: Apache-2.0 */
/* chunk_plan.h - which chunk of a file should this node ask for next, and from whom.
 *
 * Chunks are in stripes (core/spread.h); each stripe has a parent and who stands in for it. A parent is asked in order
 * and ahead of what it holds: it answers the moment a chunk is verified there. A stripe that falls behind the others,
 * or whose parent is gone, is taken from whoever offers it; what hangs is asked for twice; what nobody brings any more
 * comes from the origin, for which nodes step forward one after the other. Pure: no I/O, no clock. The plan owns what
 * it holds; bitmaps are LSB first. Times are microseconds.
 */
#ifndef MDN_CORE_CHUNK_PLAN_H
#define MDN_CORE_CHUNK_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CHUNK_SOURCES_MAX 64

struct chunk_plan;

struct chunk_request {
	uint32_t chunk, source;
	bool wait; /* the source may not have it yet: ask it to answer when it does */
};

enum chunk_failure {
	CHUNK_NOT_YET, /* the source does not have it (any more, so far) */
	CHUNK_BROKEN,  /* refused, cut, stalled: the source is left alone for 0.5 s, growing to 10 s */
	CHUNK_CORRUPT, /* not that chunk: left alone for a minute, growing to an hour */
	CHUNK_GIVEN_UP /* nobody's fault: not wanted from there any more, or waited for long enough */
};

/* held: (count+7)/8 bytes, or NULL for nothing. count > 0. */
struct chunk_plan *chunk_plan_new(uint32_t count, const uint8_t *held, uint64_t seed, int64_t now_us);
void chunk_plan_free(struct chunk_plan *p);

bool chunk_plan_has(const struct chunk_plan *p, uint32_t chunk);
uint32_t chunk_plan_held(const struct chunk_plan *p);
const uint8_t *chunk_plan_bitmap(const struct chunk_plan *p);

/* A source is known by the caller's number below CHUNK_SOURCES_MAX. An origin offers everything, a peer nothing until
 * chunk_plan_offer. far: beyond a line that is to carry one copy; asked as a parent and in need only. */
void chunk_plan_add_source(struct chunk_plan *p, uint32_t source, bool origin, bool far);
void chunk_plan_drop_source(struct chunk_plan *p, uint32_t source); /* its requests count as given up */
/* bitmap NULL: it has everything. */
void chunk_plan_offer(struct chunk_plan *p, uint32_t source, const uint8_t *bitmap);
/* parents: numbers of sources, best first. rank: how many others stand nearer to the origin (spread_rank). */
void chunk_plan_set_parents(struct chunk_plan *p, uint32_t stripe, const uint32_t *parents, uint32_t count,
                            uint32_t rank);

/* The next request to make; false when nothing useful is to be asked for now (then try again after chunk_plan_wait_us,
 * or when something changed). The chunk counts as asked for until it arrived or failed. */
bool chunk_plan_next(struct chunk_plan *p, int64_t now_us, struct chunk_request *ret_request);
int64_t chunk_plan_wait_us(const struct chunk_plan *p, int64_t now_us);
/* Some stripe needs others than its parent: the plan should hear more often what they offer. */
bool chunk_plan_in_need(const struct chunk_plan *p);
/* Its first byte came: a source that was waited for has it now, and from here on it is to hurry. */
void chunk_plan_began(struct chunk_plan *p, uint32_t chunk, uint32_t source, int64_t now_us);
/* It came (verified by the caller). first_us: from asking to the first byte, 0 when it waited for the source; took_us:
 * without that wait. False when it was held already. */
bool chunk_plan_arrived(struct chunk_plan *p, uint32_t chunk, uint32_t source, int64_t first_us, int64_t took_us,
                        int64_t now_us);
void chunk_plan_failed(struct chunk_plan *p, uint32_t chunk, uint32_t source, enum chunk_failure why, int64_t now_us);

#endif
