/* SPDX-License-Identifier: Apache-2.0 */
/* llama_shelf.h - KV of finished requests, kept in ordinary memory until a request with the same beginning comes.
 *
 * Idle KV in the unified cache slows every batch, since each row looks at the cells of all sequences; copied out it
 * costs nothing, and copying it back is hundreds of times faster than computing it. Bounded in bytes, least recently
 * used goes first. Knows no llama.h: blobs are bytes. Engine thread only.
 */
#ifndef MDN_ENGINE_LLAMA_SHELF_H
#define MDN_ENGINE_LLAMA_SHELF_H

#include <stddef.h>
#include <stdint.h>

enum { SHELF_ITEMS_MAX = 256 };

struct shelf_item {
	int32_t *tokens; /* what the blob holds; owned, as is the blob */
	int32_t count;
	uint8_t *blob;
	size_t size;
	uint64_t used;
};

struct shelf {
	struct shelf_item items[SHELF_ITEMS_MAX];
	size_t count, bytes, bytes_max;
	uint64_t clock;
};

void shelf_fini(struct shelf *shelf);
/* Room for a blob; makes it by dropping old items. NULL when it is larger than the shelf. */
uint8_t *shelf_room(struct shelf *shelf, size_t size);
/* Takes over both; items whose tokens are a beginning of these go. */
void shelf_put(struct shelf *shelf, int32_t *tokens, int32_t count, uint8_t *blob, size_t size);
/* The item with the longest common beginning, if that is longer than `more_than`. */
struct shelf_item *shelf_find(struct shelf *shelf, const int32_t *tokens, int32_t count, int32_t more_than,
                              int32_t *ret_common);
/* Takes an item off: its tokens are the caller's now, its blob is freed. */
int32_t *shelf_take(struct shelf *shelf, struct shelf_item *item);
int32_t tokens_common(const int32_t *a, int32_t a_count, const int32_t *b, int32_t b_count);

#endif
