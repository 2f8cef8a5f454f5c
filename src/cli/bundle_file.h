/* SPDX-License-Identifier: Apache-2.0 */
/* bundle_file.h - a bundle's tar on disk: one file, or parts PATH.001, PATH.002, ... that together are the tar.
 *
 * While it is written the last file is called .part, so that a name without it is always whole. What an interrupted
 * export left is found again: `size` says how much is there. Blocking; main thread.
 */
#ifndef MDN_CLI_BUNDLE_FILE_H
#define MDN_CLI_BUNDLE_FILE_H

#include "store/bundle.h"

struct bundle_out {
	const char *path;
	uint64_t split; /* bytes of a part; 0: one file */
	uint64_t size;  /* bytes of the tar so far */
	int fd;         /* of the part being written; -1: none */
};
/* E_CONFLICT when a whole bundle of that name is there. */
int bundle_out_open(struct bundle_out *o, const char *path, uint64_t split, struct error *err);
int bundle_out_write(struct bundle_out *o, struct str data, struct error *err);
int bundle_out_restart(struct bundle_out *o, struct error *err); /* removes what was there */
int bundle_out_finish(struct bundle_out *o, struct error *err);
void bundle_out_close(struct bundle_out *o); /* what is there stays, to be gone on with */
/* What was written, while it is written. */
int bundle_out_read(void *out, uint64_t offset, void *to, size_t len, struct error *err);

struct bundle_in {
	const char *path;
	int *fds; /* of all parts */
	uint64_t *ends;
	size_t count;
};
/* PATH, or PATH.001 and all that follow it. */
int bundle_in_open(struct bundle_in *in, const char *path, struct error *err);
void bundle_in_close(struct bundle_in *in);
uint64_t bundle_in_size(const struct bundle_in *in);
int bundle_in_read(void *in, uint64_t offset, void *to, size_t len, struct error *err);
/* An fd from which exactly these bytes can be read, wherever parts end: another thread feeds it. Closing it is the
 * caller's, before bundle_in_close. */
int bundle_in_stream(struct bundle_in *in, uint64_t offset, uint64_t len, int *ret_fd, struct error *err);

#endif
