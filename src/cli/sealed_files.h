/* SPDX-License-Identifier: Apache-2.0 */
/* sealed_files.h - model files that are encrypted at rest, decrypted into memory for the engine.
 *
 * An engine maps a file by its path; a decrypted one has the path /proc/self/fd/N, is on no disk, and goes with the
 * process. It costs as much memory as the file is long, which the engine maps and does not copy. Loop thread; decrypts
 * in jobs. The store is borrowed and must live until the loop is freed.
 */
#ifndef MDN_CLI_SEALED_FILES_H
#define MDN_CLI_SEALED_FILES_H

#include "net/loop.h"
#include "store/blob.h"

struct sealed_files;
struct sealed_files *sealed_files_new(struct loop *loop, struct blob_store *store,
                                      void (*on_ready)(void *arg, const struct digest *d, const struct error *err),
                                      void *arg);
void sealed_files_free(struct sealed_files *f);
/* A path the engine can open: the blob's own, or of its copy in memory. E_BUSY: it is being decrypted, and on_ready
 * tells when to ask again, or why not (err not NULL). */
int sealed_files_path(struct sealed_files *f, const struct digest *d, char **ret_path, struct error *err);
/* Only these are needed from now on. What an engine has mapped stays until it lets go, but its path names nothing any
 * more, or something else: keep what may be opened again. */
void sealed_files_keep(struct sealed_files *f, bool (*needed)(void *arg, const struct digest *d), void *arg);

#endif
