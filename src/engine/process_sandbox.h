/* SPDX-License-Identifier: Apache-2.0 */
/* process_sandbox.h - a process gives up what it does not need, before it looks at a file of a stranger.
 *
 * In this order: no new privileges; landlock, so that only the named paths can be opened (and no port, on newer
 * kernels); another uid where it is root; seccomp, so that it can make no socket, start no program and no process,
 * trace or signal nobody else, and change nothing of the system. What the kernel cannot do is named in `missing`.
 * There is no way back. One thread, at the start.
 */
#ifndef MDN_ENGINE_PROCESS_SANDBOX_H
#define MDN_ENGINE_PROCESS_SANDBOX_H

#include "base/error.h"
#include "base/str.h"

enum { SANDBOX_PATHS_MAX = 512 };

struct sandbox {
	const char *reads[SANDBOX_PATHS_MAX]; /* files and folders to read, besides what a C program needs */
	size_t read_count;
	const char *folder; /* to write in; NULL: none. It is made, and given to the new uid */
	const char *user;   /* name or number to become where root; empty: SANDBOX_UID; NULL: stay */
	bool lock_memory;   /* may mlock */
};

#define SANDBOX_UID \
	1900000000u /* where no range of systemd or a distribution lies; nobody where that is impossible \
	             */

/* E_INVAL: there is no such user; E_INTERNAL: the kernel refused what it should not. ret_missing: words, or "". */
int sandbox_enter(const struct sandbox *sandbox, char *ret_missing, size_t size, struct error *err);

#endif
