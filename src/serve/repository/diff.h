/* SPDX-License-Identifier: Apache-2.0 */
/* diff.h - what changed between two versions: metadata keys, tensors, files, and the bytes a holder of one needs for
 * the other.
 *
 * Reads headers and chunk lists; bytes of a tensor only where chunks do not tell whether it is the same, and then up to
 * the first difference. Blocks: in jobs. JSON: docs/wire.md, "Versions".
 */
#ifndef MDN_SERVE_REPOSITORY_DIFF_H
#define MDN_SERVE_REPOSITORY_DIFF_H

#include "store/blob.h"
#include "store/version.h"

#define DIFF_LINES_MAX 10000 /* of each list; "more" counts the others */

int diff_versions(struct blob_store *store, const struct version *from, const struct version *to, struct buf *out,
                  struct error *err);

#endif
