/* SPDX-License-Identifier: Apache-2.0 */
/* net_test.h - what the tests of net/ share: a loop that runs until a flag, a raw client socket. */
#ifndef MDN_TEST_NET_TEST_H
#define MDN_TEST_NET_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants those first */
#include <arpa/inet.h>
#include <cmocka.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/str.h"
#include "net/http.h"
#include "net/loop.h"

struct patience {
	struct loop *loop;
	bool out;
};

static inline void patience_ends(void *arg)
{
	struct patience *p = arg;
	p->out = true;
	loop_stop(p->loop);
}

/* Runs the loop until *flag, at most 10 s; fails the test then. Whoever sets the flag need not stop the loop. */
static inline void run_until(struct loop *loop, const int *flag)
{
	struct patience p = {loop, false};
	struct loop_timer *limit = loop_timer_new(loop, patience_ends, &p);
	struct loop_timer *tick = loop_timer_new(loop, (loop_fn *)loop_stop, loop);
	loop_timer_start(limit, 10 * US_PER_S, 0);
	loop_timer_start(tick, 1000, 1000);
	while (!*flag && !p.out)
		loop_run(loop);
	loop_timer_free(limit);
	loop_timer_free(tick);
	assert_false(p.out);
}

static inline void run_for(struct loop *loop, int64_t us)
{
	int done = 0;
	int64_t until = clock_mono_us() + us;
	struct loop_timer *tick = loop_timer_new(loop, (loop_fn *)loop_stop, loop);
	loop_timer_start(tick, 1000, 1000);
	while (!done) {
		loop_run(loop);
		done = clock_mono_us() >= until;
	}
	loop_timer_free(tick);
}

static inline int port_of(struct str address)
{
	const char *colon = memrchr(address.base, ':', address.len);
	return atoi(colon + 1);
}

static inline int raw_connect(int port)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	return fd;
}

static inline void raw_send(int fd, const char *data, size_t len)
{
	while (len) {
		ssize_t n = send(fd, data, len, MSG_NOSIGNAL);
		if (n <= 0)
			return; /* refused and closed while we still talk: the answer tells */
		data += n;
		len -= (size_t)n;
	}
}

/* Reads until the peer closes, `until` was seen, or 5 s; NUL-terminated. True when the peer closed. */
static inline bool raw_read(int fd, char *to, size_t size, const char *until)
{
	size_t len = 0;
	to[0] = '\0';
	while (len + 1 < size) {
		struct pollfd p = {fd, POLLIN, 0};
		if (poll(&p, 1, 5000) <= 0)
			return false;
		ssize_t n = recv(fd, to + len, size - 1 - len, 0);
		if (n <= 0)
			return true;
		len += (size_t)n;
		to[len] = '\0';
		if (until && strstr(to, until))
			return false;
	}
	return false;
}

#endif
