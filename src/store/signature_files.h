/* SPDX-License-Identifier: Apache-2.0 */
/* signature_files.h - the files of a folder (or one file) as a signature names them. Blocks on the disk; any thread. */
#ifndef MDN_STORE_SIGNATURE_FILES_H
#define MDN_STORE_SIGNATURE_FILES_H

#include "store/signature.h"

struct signature_files {
	const char *path;                           /* folder or file */
	const char *left_out;                       /* a signature file, which may lie in the folder; NULL: none */
	void (*on_bytes)(void *arg, uint64_t done); /* NULL is fine */
	void *arg;
	uint64_t done;
	bool counts; /* only adds up sizes in `done` */
};

/* m says how (shards, ignored paths, symbolic links) and gets the items, sorted. E_FORBIDDEN: a symbolic link or
 * something that is no file. With a left-out file inside the folder, its path is added to what is ignored. */
int signature_files_read(struct signature_files *files, struct signed_model *m, struct error *err);
/* The items of one open file. */
int signature_files_add(struct signature_files *files, struct signed_model *m, int fd, uint64_t size, struct str path,
                        struct error *err);

#endif
