/* SPDX-License-Identifier: Apache-2.0 */
/* child.h - one child process on a loop: its lines come, its end is told, and it can be killed.
 *
 * For work that must not take this process down with it. The child's stdout comes line by line, the end of its stderr
 * is kept for the words of its failure; stdin is empty unless given. It is in a process group of its own, so that
 * Ctrl-C reaches only us. It does not outlive a child_free; that it does not outlive a crash of ours is the child's to
 * see to (prctl PR_SET_PDEATHSIG). Loop thread.
 */
#ifndef MDN_NET_CHILD_H
#define MDN_NET_CHILD_H

#include "base/error.h"
#include "base/str.h"
#include "net/loop.h"

#define CHILD_LINE_MAX 4096
#define CHILD_ERRORS_MAX 400
#define CHILD_KEPT_MAX 1024 /* descriptors are below that */

struct child;
struct child_options {
	const char *file; /* what is run */
	char **argv;      /* NULL at the end; copied */
	char **env;       /* NULL: ours */
	bool has_stdin;   /* stdin_fd is its stdin; both it and these stay the caller's */
	int stdin_fd;
	const int *kept; /* descriptors (above 2) it has, too, by the same numbers; up to CHILD_KEPT_MAX */
	size_t kept_count;
	void (*on_line)(void *arg, struct str line);       /* without its newline; longer ones are cut */
	void (*on_error_line)(void *arg, struct str line); /* the same of stderr; NULL is fine */
	/* Once, last; errors: the end of stderr, in one line. signal 0: it ended by itself. */
	void (*on_exit)(void *arg, int64_t status, int signal, struct str errors);
	void *arg;
};
int child_start(struct loop *loop, const struct child_options *options, struct child **ret_child, struct error *err);
void child_kill(struct child *child); /* SIGKILL; on_exit still comes */
int child_pid(const struct child *child);
/* Kills it if it runs; no callback comes any more. After on_exit or before; not from on_line. */
void child_free(struct child *child);

#endif
