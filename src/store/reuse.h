/* SPDX-License-Identifier: Apache-2.0 */
/* reuse.h - what a file on its way shares with files that are here already: most of it, when it is the next version.
 *
 * Chunks are found by their digests in the chunk lists this store keeps as blobs, of any finished file, and are
 * verified like those that come over the network. What is reused counts as held at once. Blocks: in jobs.
 */
#ifndef MDN_STORE_REUSE_H
#define MDN_STORE_REUSE_H

#include "store/blob.h"

/* Copies what it can; ends early when *stop becomes true. What cannot be read or is rotten is left to be fetched; an
 * error is one of the disk that is written to. */
int blob_partial_reuse(struct blob_partial *p, const bool *stop, uint64_t *ret_bytes, struct error *err);

#endif
