/* SPDX-License-Identifier: Apache-2.0 */
/* Traffic that yields to all other: on the wire by DSCP 1, "lower effort" (RFC 8622), in this machine's queues by
 * SO_PRIORITY, at bottlenecks by a congestion control that gives way (TCP-LP, Kuzmanovic & Knightly 2003) where the
 * kernel has it, and evenly by pacing. Without it by one that takes losses for full queues: a system that is set to
 * BBR, which fills them, had sent one byte in fourteen in vain when many sent to many, and one in twenty between sites.
 * All of it is advice: what the system refuses is left out.
 */
#include "net/conn.h"

#include "net/conn_internal.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#define DSCP_LOWER_EFFORT 1
#define PRIORITY_BULK 2 /* TC_PRIO_BULK: pfifo_fast's last band */
#define WAITS_LEAST 16384
#define WAITS_USUAL 131072
#define WAITS_MOST (4 << 20)

static bool set(int fd, int level, int option, const void *value, socklen_t size)
{
	return setsockopt(fd, level, option, value, size) == 0;
}

static void control_choose(int fd)
{
	static const char *const names[] = {"lp", "cubic", "reno"};
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (set(fd, IPPROTO_TCP, TCP_CONGESTION, names[i], (socklen_t)strlen(names[i])))
			return;
}

static void mark(int fd, uint8_t dscp)
{
	const int tos = dscp << 2; /* the other two bits are ECN's */

	set(fd, IPPROTO_IP, IP_TOS, &tos, sizeof(tos));
	set(fd, IPPROTO_IPV6, IPV6_TCLASS, &tos, sizeof(tos));
}

void conn_mark(struct conn *c, uint8_t dscp)
{
	uv_os_fd_t fd;

	if (c->dscp == dscp || c->is_background || !c->socket || uv_fileno((uv_handle_t *)&c->socket->tcp, &fd) != 0)
		return;
	mark(fd, dscp);
	c->dscp = dscp;
}

void conn_background(struct conn *c, uint64_t most_bytes_per_s)
{
	uv_os_fd_t fd;
	if (!c->socket || uv_fileno((uv_handle_t *)&c->socket->tcp, &fd) != 0)
		return;
	bool was_background = c->is_background;
	if (!was_background) {
		const int priority = PRIORITY_BULK;
		mark(fd, DSCP_LOWER_EFFORT);
		set(fd, SOL_SOCKET, SO_PRIORITY, &priority, sizeof(priority)); /* after IP_TOS, which sets it, too */
		control_choose(fd);
		c->is_background = true;
	}
	if (was_background && c->pacing == most_bytes_per_s)
		return;
	c->pacing = most_bytes_per_s;
	const uint64_t rate = most_bytes_per_s ? most_bytes_per_s : UINT64_MAX;
	set(fd, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, sizeof(rate));
	/* What is written but waits would be sent for seconds yet, and whoever counts who sends would be wrong: so it
	 * is bounded, but not the buffer, which also holds what is on its way over a long line. */
	const uint64_t waits = most_bytes_per_s / 50;
	const int most = most_bytes_per_s == 0 ? WAITS_USUAL
	                 : waits > WAITS_MOST  ? WAITS_MOST
	                 : waits < WAITS_LEAST ? WAITS_LEAST
	                                       : (int)waits;
	set(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &most, sizeof(most));
}
