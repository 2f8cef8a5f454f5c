/* SPDX-License-Identifier: Apache-2.0 */
/* hash.h - a hash of bytes, and an index from hashes to small numbers.
 *
 * The index knows no keys: it yields every value stored under a hash and the caller compares what those stand for.
 * Zeroed is empty and valid; owns its two arrays. The hash is fixed (no seed), so only what authenticated nodes or the
 * configuration name is ever inserted; strangers merely look up. Pure; one thread writes.
 */
#ifndef MDN_CORE_HASH_H
#define MDN_CORE_HASH_H

#include "base/str.h"

struct hash_index {
	uint64_t *hashes; /* 0: free */
	uint32_t *values;
	size_t cap; /* power of two */
	size_t count;
};

uint64_t hash_bytes(const void *data, size_t len); /* never 0 */
static inline uint64_t hash_str(struct str s)
{
	return hash_bytes(s.base, s.len);
}
uint64_t hash_join(uint64_t a, uint64_t b); /* of a pair; never 0 */

void hash_index_fini(struct hash_index *x);
void hash_index_copy(const struct hash_index *x, struct hash_index *ret_copy);
void hash_index_add(struct hash_index *x, uint64_t hash, uint32_t value);
void hash_index_remove(struct hash_index *x, uint64_t hash, uint32_t value); /* absent: nothing */
/* Values under `hash`, one a call, while *cursor (start: 0) goes on; false at the end. */
bool hash_index_next(const struct hash_index *x, uint64_t hash, size_t *cursor, uint32_t *ret_value);

#endif
