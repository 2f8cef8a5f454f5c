/* SPDX-License-Identifier: Apache-2.0 */
/* systemd.c - see systemd.h. */
#include "cli/systemd.h"

#include "base/clock.h"
#include "base/str.h"

#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define FIRST_FD 3
#define SOCKETS_MAX 16

void systemd_notify(const char *state)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	if (!path || (path[0] != '/' && path[0] != '@') || !str_copy(str_from(path), to.sun_path, sizeof to.sun_path))
		return;
	socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
	if (path[0] == '@')
		to.sun_path[0] = 0;
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	(void)!sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&to, size);
	close(fd);
}

void systemd_notify_reloading(void)
{
	char state[64];
	snprintf(state, sizeof state, "RELOADING=1\nMONOTONIC_USEC=%lld", (long long)clock_mono_us());
	systemd_notify(state);
}

int systemd_socket(const char *name)
{
	static char *names[SOCKETS_MAX];
	static int count = -1;
	if (count < 0) {
		const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
		struct str rest = str_from(getenv("LISTEN_FDNAMES"));
		count = pid && fds && atol(pid) == (long)getpid() ? atoi(fds) : 0;
		if (count > SOCKETS_MAX)
			count = SOCKETS_MAX;
		for (int i = 0; i < count; i++) {
			names[i] = str_dup(str_cut(rest, ':', &rest));
			fcntl(FIRST_FD + i, F_SETFD, FD_CLOEXEC);
		}
		unsetenv("LISTEN_PID");
		unsetenv("LISTEN_FDS");
		unsetenv("LISTEN_FDNAMES");
	}
	for (int i = 0; i < count; i++)
		if (strcmp(names[i], name) == 0)
			return FIRST_FD + i;
	return -1;
}
