/* SPDX-License-Identifier: Apache-2.0 */
/* llama_shelf.c - a plain array: at most 256 items, and a comparison usually ends at the first differing token. Blobs
 * are large and written once, so they ask for huge pages: page faults would otherwise cost more than the copy. */
#include "engine/llama_shelf.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HUGE_PAGE = 2 << 20 };

static void shelf_remove(struct shelf *shelf, struct shelf_item *item)
{
	shelf->bytes -= item->size;
	free(item->blob);
	free(item->tokens);
	*item = shelf->items[--shelf->count];
}

void shelf_fini(struct shelf *shelf)
{
	while (shelf->count)
		shelf_remove(shelf, shelf->items);
}

static void shelf_drop_oldest(struct shelf *shelf)
{
	struct shelf_item *oldest = shelf->items;

	for (size_t i = 1; i < shelf->count; i++)
		if (shelf->items[i].used < oldest->used)
			oldest = &shelf->items[i];
	shelf_remove(shelf, oldest);
}

uint8_t *shelf_room(struct shelf *shelf, size_t size)
{
	void *blob;

	if (!size || size > shelf->bytes_max)
		return NULL;
	while (shelf->count && (shelf->bytes + size > shelf->bytes_max || shelf->count == SHELF_ITEMS_MAX))
		shelf_drop_oldest(shelf);
	if (posix_memalign(&blob, size < HUGE_PAGE ? 64 : HUGE_PAGE, size) != 0)
		return NULL;
	if (size >= HUGE_PAGE)
		madvise(blob, size, MADV_HUGEPAGE);
	return blob;
}

void shelf_put(struct shelf *shelf, int32_t *tokens, int32_t count, uint8_t *blob, size_t size)
{
	for (size_t i = shelf->count; i-- > 0;) {
		struct shelf_item *item = &shelf->items[i];
		if (tokens_common(item->tokens, item->count, tokens, count) == item->count)
			shelf_remove(shelf, item);
	}
	if (shelf->count == SHELF_ITEMS_MAX)
		shelf_drop_oldest(shelf);
	shelf->items[shelf->count++] = (struct shelf_item){tokens, count, blob, size, ++shelf->clock};
	shelf->bytes += size;
}

struct shelf_item *shelf_find(struct shelf *shelf, const int32_t *tokens, int32_t count, int32_t more_than,
                              int32_t *ret_common)
{
	struct shelf_item *best = NULL;

	for (size_t i = 0; i < shelf->count; i++) {
		struct shelf_item *item = &shelf->items[i];
		int32_t common = tokens_common(item->tokens, item->count, tokens, count);
		if (common > more_than) {
			best = item;
			more_than = *ret_common = common;
		}
	}
	if (best)
		best->used = ++shelf->clock;
	return best;
}

int32_t *shelf_take(struct shelf *shelf, struct shelf_item *item)
{
	int32_t *tokens = item->tokens;

	item->tokens = NULL;
	shelf_remove(shelf, item);
	return tokens;
}

int32_t tokens_common(const int32_t *a, int32_t a_count, const int32_t *b, int32_t b_count)
{
	int32_t most = a_count < b_count ? a_count : b_count, n = 0;

	while (n < most && a[n] == b[n])
		n++;
	return n;
}
