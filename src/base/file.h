/* SPDX-License-Identifier: Apache-2.0 */
/* file.h - small files and folders: read whole, write so that a crash shows the old or the new, make and remove
 * folders.
 *
 * For identities, saved documents and the like, not for models. Blocks on the disk. Any thread. Paths are text without
 * NUL.
 */
#ifndef MDN_BASE_FILE_H
#define MDN_BASE_FILE_H

#include "base/error.h"
#include "base/str.h"

#include <sys/types.h>

/* "folder/name" on the heap; aborts when memory is out. */
char *file_join(struct str folder, const char *name);
/* Appends the content to *out; E_NOTFOUND, E_LIMIT past max_bytes, E_IO. */
int file_read(const char *path, size_t max_bytes, struct buf *out, struct error *err);
/* Reads until `len` bytes are there or the file ends; how many, or -1 with errno. */
ssize_t file_read_at(int fd, uint64_t offset, void *out, size_t len);
/* Written to PATH.tmp with `mode`, fsynced, renamed, folder fsynced. One writer of a path at a time. */
int file_write(const char *path, unsigned mode, struct str content, struct error *err);
bool file_exists(const char *path);
/* The folder and its missing parents, durably; one that exists is fine. */
int folder_make(const char *path, unsigned mode, struct error *err);
/* With everything in it, never through links; missing is fine. */
int folder_remove(const char *path, struct error *err);
int folder_sync(const char *path, struct error *err);

#endif
