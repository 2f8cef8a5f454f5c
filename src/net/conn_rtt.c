/* SPDX-License-Identifier: Apache-2.0 */
/* In a file of its own: the kernel's header has what libc's lacks, and libuv's wants libc's. */
#include "net/conn.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

int64_t conn_fd_rtt_us(int fd)
{
	struct tcp_info info = {0};
	socklen_t size = sizeof(info);
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0)
		return 0;
	return info.tcpi_min_rtt > 0 && info.tcpi_min_rtt < UINT32_MAX ? info.tcpi_min_rtt : 0;
}
