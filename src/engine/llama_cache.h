/* SPDX-License-Identifier: Apache-2.0 */
/* llama_cache.h - KV of the past outside the KV cache: in memory, and on disk if there is a folder. Engine thread only.
 *
 * Idle KV in the unified cache slows every batch, since each row looks at the cells of all sequences; copied out it
 * costs nothing, and copying it back is hundreds of times faster than computing it. core/prefix says what is there and
 * what goes, llama_disk.h reads and writes. Where the model's KV is divisible, copies are of CACHE_BLOCK tokens each,
 * so what many prompts begin with is kept once; else a copy is a whole state at one place.
 */
#ifndef MDN_ENGINE_LLAMA_CACHE_H
#define MDN_ENGINE_LLAMA_CACHE_H

#include "core/prefix.h"
#include "engine/llama_disk.h"

enum { CACHE_BLOCK = 32 };

struct llama_core;
struct cache;

struct cache_options {
	struct llama_core *core;
	uint64_t memory_bytes, disk_bytes;
	const char *folder, *model, *path; /* folder NULL: no disk */
	struct digest fingerprint;
	disk_wake *wake; /* any thread: there is something for cache_collect */
	void *arg;
};

/* One bit of a salt says that what is under it never goes to disk. */
static inline void cache_salt_stays_in_memory(struct prefix_salt *salt, bool stays)
{
	salt->bytes[PREFIX_SALT_SIZE - 1] = (uint8_t)((salt->bytes[PREFIX_SALT_SIZE - 1] & 0xfe) | stays);
}
static inline bool cache_salt_in_memory_only(const struct prefix_salt *salt)
{
	return salt->bytes[PREFIX_SALT_SIZE - 1] & 1;
}

/* Always makes one; < 0: it has no disk, for this reason. */
int cache_new(const struct cache_options *options, struct cache **ret_cache, struct error *err);
void cache_free(struct cache *cache); /* what waits to be written is, within seconds; NULL is fine */

struct prefix_match cache_find(const struct cache *cache, const struct prefix_salt *salt, const int32_t *tokens,
                               int32_t count);
/* Takes what a sequence holds, its first `count` tokens, as far as it is not there yet; whole states: only if that is
 * worth it. `blocks`: at most so many at once, 0: all. > 0: there are more to be saved; < 0: it was not possible. */
int cache_save(struct cache *cache, int32_t seq, const struct prefix_salt *salt, const int32_t *tokens, int32_t count,
               double us_per_token, int32_t blocks);
/* The copies that make up the match behind `past` tokens, first to last; at most `most` of them. */
int32_t cache_path(const struct cache *cache, struct prefix_node *node, int32_t past, struct prefix_node **ret_nodes,
                   int32_t most);
/* NULL: not in memory. Valid until the cache is called again. */
const struct kv_blob *cache_blob(const struct prefix_node *node);
void cache_hit(struct cache *cache, struct prefix_node *node);
void cache_hold(struct cache *cache, struct prefix_node *node, bool hold); /* pins and unpins */
void cache_spoiled(struct cache *cache, struct prefix_node *node);         /* it could not be imported */
/* Bytes of the path that only the disk has, and the microseconds that reading them takes. */
uint64_t cache_on_disk(const struct cache *cache, struct prefix_node *node, int32_t past, double *ret_us);
/* Orders them into memory; how many calls of `fetched` with this ticket will come. */
int32_t cache_fetch(struct cache *cache, struct prefix_node *node, int32_t past, uint64_t ticket);
typedef void cache_fetched(void *arg, uint64_t ticket);
void cache_collect(struct cache *cache, cache_fetched *fetched, void *arg);
struct prefix_numbers cache_numbers(const struct cache *cache);

#endif
