/* SPDX-License-Identifier: Apache-2.0 */
/* Chunk lists from strangers: what is accepted is written again byte by byte. */
#include "store/blob.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str text = {(const char *)data, size};
	struct chunk_list list;
	struct buf again = {0};
	uint64_t sum = 0;
	if (chunk_list_parse(text, &list, NULL))
		return 0;
	for (uint32_t i = 0; i < list.count; i++)
		sum += chunk_length(&list, i);
	chunk_list_format(&list, &again);
	if (sum != list.size || !str_equal(buf_str(&again), text))
		abort();
	buf_fini(&again);
	chunk_list_fini(&list);
	return 0;
}
