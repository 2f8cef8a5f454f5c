/* SPDX-License-Identifier: Apache-2.0 */
/* process.h - child processes of `mdn dev up`: started, watched, restarted, and never left behind.
 *
 * A child is in its own process group (Ctrl-C reaches only the parent, which ends all in order) and gets SIGTERM when
 * the parent dies, however it dies. stdout and stderr go to a log file. Main thread.
 */
#ifndef MDN_CLI_PROCESS_H
#define MDN_CLI_PROCESS_H

#include "base/error.h"
#include "base/str.h"

#include <sys/types.h>

struct process {
	pid_t pid; /* 0: not running */
	char *log_path;
	int exit_status; /* of waitpid, once it ended */
};

/* argv[0] is this very binary. */
int process_start(struct process *p, char *const argv[], const char *log_path, struct error *err);
bool process_runs(struct process *p); /* reaps it when it has ended */
/* SIGTERM to all, up to wait_ms for them, then SIGKILL. */
void process_stop_all(struct process *list, size_t count, int wait_ms);
void process_fini(struct process *p);
/* The last lines of its log, indented, for an error message. */
void process_log_tail(const struct process *p, int lines);

#endif
