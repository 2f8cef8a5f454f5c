/* SPDX-License-Identifier: Apache-2.0 */
/* Connections that yield: what the kernel was told, and that a limit which goes leaves nothing behind. */
#include "net_test.h"

#include "net/conn.h"
#include "net/conn_internal.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

struct world {
	struct loop *loop;
	int listener;
	struct conn *conn;
};

static void on_open(void *arg)
{
	struct world *w = arg;
	loop_stop(w->loop);
}

static void on_end(void *arg, const struct error *err)
{
	(void)arg;
	fail_msg("the connection ended: %s", err ? err->text : "goodbye");
}

static void world_init(struct world *w)
{
	static const struct conn_events events = {.on_open = on_open, .on_end = on_end};
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof(at);
	*w = (struct world){.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
	assert_int_equal(bind(w->listener, (struct sockaddr *)&at, size), 0);
	assert_int_equal(listen(w->listener, 1), 0);
	assert_int_equal(getsockname(w->listener, (struct sockaddr *)&at, &size), 0);
	assert_int_equal(loop_new(&w->loop), 0);
	w->conn = conn_dial(w->loop, &(struct conn_options){.events = &events,
	                                                    .arg = w,
	                                                    .host = STR("127.0.0.1"),
	                                                    .port = ntohs(at.sin_port),
	                                                    .connect_timeout_us = 60 * US_PER_S});
	loop_run(w->loop);
}

static void world_fini(struct world *w)
{
	conn_close(w->conn);
	loop_free(w->loop);
	close(w->listener);
}

static int option(const struct world *w, int level, int name)
{
	uv_os_fd_t fd;
	int value = -1;
	socklen_t size = sizeof(value);
	assert_int_equal(uv_fileno((uv_handle_t *)&w->conn->socket->tcp, &fd), 0);
	assert_int_equal(getsockopt(fd, level, name, &value, &size), 0);
	return value;
}

/* The buffer holds what is on its way, too, which over a long line is much more than waits to be sent. */
static void test_a_limit_bounds_what_waits_not_what_is_on_its_way(void **state)
{
	(void)state;
	struct world w;
	world_init(&w);
	int buffer = option(&w, SOL_SOCKET, SO_SNDBUF);
	conn_background(w.conn, 10000000);
	assert_int_equal(option(&w, SOL_SOCKET, SO_MAX_PACING_RATE), 10000000);
	assert_int_equal(option(&w, IPPROTO_TCP, TCP_NOTSENT_LOWAT), 200000);
	assert_int_equal(option(&w, SOL_SOCKET, SO_SNDBUF), buffer);
	conn_background(w.conn, 0);
	assert_int_equal(option(&w, SOL_SOCKET, SO_MAX_PACING_RATE), -1); /* none */
	assert_int_equal(option(&w, IPPROTO_TCP, TCP_NOTSENT_LOWAT), 131072);
	assert_int_equal(option(&w, SOL_SOCKET, SO_SNDBUF), buffer);
	world_fini(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_a_limit_bounds_what_waits_not_what_is_on_its_way),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
