/* SPDX-License-Identifier: Apache-2.0 */
/* cut.h - where a file is cut into chunks, so that versions of one model share most of them.
 *
 * GGUF and safetensors: cut where tensors begin and inside a tensor every chunk_size bytes, counted from its start;
 * neighbouring small tensors together, never with a part of a large one. Their header is cut by its content. Whatever
 * lies where, a tensor that did not change gives the same chunks. Everything else: every chunk_size bytes.
 * Pure over a reader callback; the same file and chunk_size always give the same cuts. Bytes.
 */
#ifndef MDN_STORE_CUT_H
#define MDN_STORE_CUT_H

#include "base/error.h"
#include "base/str.h"

#include <stdbool.h>

/* Fills `out` with exactly len bytes from offset, or fails. */
typedef int cut_read(void *arg, uint64_t offset, void *out, size_t len, struct error *err);

/* `held`: how many of the file's first bytes can be read yet. False: not enough to know, ask again with twice as many;
 * never when held is file_size. *ret_count 0 for a file that would have more than LIMIT_CHUNKS even in chunks of
 * CHUNK_SIZE_MAX (and for an empty one). ends: heap, the caller's. */
bool cut_file(cut_read *read, void *arg, uint64_t file_size, uint64_t held, uint64_t chunk_size, uint64_t **ret_ends,
              uint32_t *ret_count);

#endif
