/* SPDX-License-Identifier: Apache-2.0 */
/* chunk_plan.h - which chunk of a file should this node ask for next, and from whom.
 *
 * Every receiver runs the same rule, so a crowd moves a file in about the time one copy takes and the origin sends
 * about one copy: each chunk has a *home* among those receiving (rendezvous hashing); the home takes it from the
 * origin, all others from whoever has it already, rarest first. What a slow home delays is stolen at the end; what
 * hangs is asked for twice. Pure: no I/O, no clock. The plan owns what it holds; bitmaps are LSB first. Times are
 * microseconds. Why: receivers' total bandwidth is the floor (Mundinger & Weber); docs/rooms/peer.md.
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
};

/* held: (count+7)/8 bytes, or NULL for nothing. self_key names this node among receivers; count > 0. */
struct chunk_plan *chunk_plan_new(uint32_t count, const uint8_t *held, uint64_t self_key, uint64_t seed);
void chunk_plan_free(struct chunk_plan *p);

bool chunk_plan_has(const struct chunk_plan *p, uint32_t chunk);
uint32_t chunk_plan_held(const struct chunk_plan *p);
const uint8_t *chunk_plan_bitmap(const struct chunk_plan *p);

/* A source is known by the caller's number below CHUNK_SOURCES_MAX. It offers nothing until chunk_plan_offer. */
void chunk_plan_add_source(struct chunk_plan *p, uint32_t source, uint64_t key, bool origin, bool near, int64_t now_us);
void chunk_plan_drop_source(struct chunk_plan *p, uint32_t source); /* its requests count as failed */
/* bitmap NULL: it has everything. */
void chunk_plan_offer(struct chunk_plan *p, uint32_t source, const uint8_t *bitmap, int64_t now_us);

/* The next request to make; false when nothing useful is to be asked for now (then try again after chunk_plan_wait_us,
 * or when something changed). The chunk counts as asked for until it arrived or failed. */
bool chunk_plan_next(struct chunk_plan *p, int64_t now_us, struct chunk_request *ret_request);
int64_t chunk_plan_wait_us(const struct chunk_plan *p, int64_t now_us);
/* It came (verified by the caller): first byte after first_us, all after took_us. False when it was held already. */
bool chunk_plan_arrived(struct chunk_plan *p, uint32_t chunk, uint32_t source, int64_t first_us, int64_t took_us);
/* corrupt: the bytes were not that chunk; the source is left alone for a minute. */
void chunk_plan_failed(struct chunk_plan *p, uint32_t chunk, uint32_t source, bool corrupt, int64_t now_us);

#endif
