/* SPDX-License-Identifier: Apache-2.0 */
/* systemd.h - telling the service manager our state, and taking its sockets (sd_notify(3), sd_listen_fds(3)).
 *
 * Both protocols are a datagram and three environment variables; libsystemd is not needed for them. Main thread.
 */
#ifndef MDN_CLI_SYSTEMD_H
#define MDN_CLI_SYSTEMD_H

void systemd_notify(const char *state); /* "READY=1"; nothing when nobody listens */
void systemd_notify_reloading(void);    /* with the time, as Type=notify-reload wants it */
/* The socket passed under that name (FileDescriptorName=), or -1. The first call reads and clears the environment. */
int systemd_socket(const char *name);

#endif
