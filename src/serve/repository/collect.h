/* SPDX-License-Identifier: Apache-2.0 */
/* collect.h - fetches every blob of a manifest that was taken from elsewhere, then makes a version of it.
 *
 * Some blobs at a time, each once however many want it (through.h). Loop thread.
 */
#ifndef MDN_SERVE_REPOSITORY_COLLECT_H
#define MDN_SERVE_REPOSITORY_COLLECT_H

#include "serve/repository/upstream.h"

struct collect;
typedef void collect_fn(void *arg, const struct error *err); /* once; err NULL: the version is there */
/* Copies what it needs. Never calls back before it returns. */
struct collect *collect_start(struct mirror *m, const struct upstream_source *source,
                              const struct upstream_found *found, collect_fn *fn, void *arg);
void collect_cancel(struct collect *c); /* fn will not be called; what was fetched stays */
/* {"done":BYTES,"total":BYTES,"files":N,"files_done":N,"file":"..."}, the file now on its way. */
void collect_format(const struct collect *c, struct buf *out);

#endif
