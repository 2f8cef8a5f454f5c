/* SPDX-License-Identifier: Apache-2.0 */
/* process.c - see process.h. */
#include "cli/process.h"

#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define STEP_MS 20
#define TAIL_BYTES 16384

static _Noreturn void child(char *const argv[], int log_fd, pid_t parent)
{
	sigset_t none;
	static const int handled[] = {SIGTERM, SIGINT, SIGHUP};
	/* The parent's handlers would tell the parent's loops: until exec replaces them, a signal must end this
	 * process. */
	for (size_t i = 0; i < sizeof handled / sizeof *handled; i++)
		signal(handled[i], SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent)
		_exit(1); /* it died before the line above */
	int null_fd = open("/dev/null", O_RDONLY);
	dup2(null_fd, STDIN_FILENO);
	dup2(log_fd, STDOUT_FILENO);
	dup2(log_fd, STDERR_FILENO);
	execv("/proc/self/exe", argv);
	_exit(127);
}

int process_start(struct process *p, char *const argv[], const char *log_path, struct error *err)
{
	pid_t parent = getpid();
	int log_fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
	if (log_fd < 0)
		return error_errno(err, errno, "cannot write %s", log_path);
	free(p->log_path);
	p->log_path = str_dup(str_from(log_path));
	p->pid = fork();
	if (p->pid == 0)
		child(argv, log_fd, parent);
	int saved_errno = errno;
	close(log_fd);
	if (p->pid < 0) {
		p->pid = 0;
		return error_errno(err, saved_errno, "cannot start a process");
	}
	return 0;
}

bool process_runs(struct process *p)
{
	if (p->pid == 0)
		return false;
	if (waitpid(p->pid, &p->exit_status, WNOHANG) == 0)
		return true;
	p->pid = 0;
	return false;
}

static bool any_runs(struct process *list, size_t count)
{
	bool any = false;
	for (size_t i = 0; i < count; i++)
		any = process_runs(&list[i]) || any;
	return any;
}

static void signal_all(struct process *list, size_t count, int signum)
{
	for (size_t i = 0; i < count; i++)
		if (process_runs(&list[i]))
			kill(list[i].pid, signum);
}

void process_stop_all(struct process *list, size_t count, int wait_ms)
{
	signal_all(list, count, SIGTERM);
	for (int waited = 0; waited < wait_ms && any_runs(list, count); waited += STEP_MS)
		usleep(STEP_MS * 1000);
	signal_all(list, count, SIGKILL);
	for (size_t i = 0; i < count; i++)
		if (list[i].pid)
			waitpid(list[i].pid, &list[i].exit_status, 0);
}

void process_fini(struct process *p)
{
	free(p->log_path);
	*p = (struct process){0};
}

void process_log_tail(const struct process *p, int lines)
{
	static char text[TAIL_BYTES + 1];
	int fd = open(p->log_path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	off_t size = lseek(fd, 0, SEEK_END);
	ssize_t got = pread(fd, text, TAIL_BYTES, size > TAIL_BYTES ? size - TAIL_BYTES : 0);
	close(fd);
	if (got <= 0)
		return;
	text[got] = 0;
	char *from = text + got;
	for (int seen = 0; from > text; from--)
		if (from[-1] == '\n' && from != text + got && ++seen == lines)
			break;
	for (char *line = strtok(from, "\n"); line; line = strtok(NULL, "\n"))
		fprintf(stderr, "  | %s\n", line);
}
