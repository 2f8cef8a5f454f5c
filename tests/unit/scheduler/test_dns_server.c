/* SPDX-License-Identifier: Apache-2.0 */
/* DNS over real sockets on loopback: bursts over UDP, pipelined and sliced TCP, rude and too many connections. */
#include "../core/fixture.h"
#include "base/clock.h"
#include "base/limits.h"
#include "dns_tools.h"
#include "serve/scheduler/dns_server.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

static struct {
	struct loop *loop;
	struct node_map *map;
	struct dns_server *server;
	bool (*done)(void);
	int64_t deadline_us;
	int fd;
	size_t got, wanted;
	uint8_t in[65536];
	size_t in_len;
	bool closed;
} w;

static int open_at(const char *address, unsigned threads, struct dns_server **ret_server, struct error *err)
{
	const struct dns_server_options o = {
	    .address = str_from(address),
	    .zone = STR("mdn.test"),
	    .threads = threads,
	    .map = w.map,
	    .settings = {.ttl_us = 20000000},
	};
	return dns_server_new(w.loop, &o, ret_server, err);
}

static int setup(void **unused)
{
	struct error err = {0};
	memset(&w, 0, sizeof(w));
	assert_int_equal(loop_new(&w.loop), 0);
	w.map = node_map_new();
	w.fd = -1;
	report_at(w.map, &(struct node_spec){.id = "a", .seq = 1, .api = "http://10.0.0.1:80"}, clock_mono_us());
	if (open_at("127.0.0.1:0", 1, &w.server, &err) < 0)
		fail_msg("%s", err.text);
	return 0;
}

static int teardown(void **unused)
{
	if (w.fd >= 0)
		close(w.fd);
	dns_server_free(w.server);
	loop_free(w.loop);
	node_map_free(w.map);
	return 0;
}

static void on_check(void *arg)
{
	if (w.done() || clock_mono_us() > w.deadline_us)
		loop_stop(w.loop);
}

static void run_until(bool (*done)(void), int64_t ms)
{
	struct loop_timer *t = loop_timer_new(w.loop, on_check, NULL);
	w.done = done;
	w.deadline_us = clock_mono_us() + ms * 1000;
	loop_timer_start(t, 1000, 1000);
	loop_run(w.loop);
	loop_timer_free(t);
}

static int dial_address(struct str address, int type)
{
	struct sockaddr_storage to = {0};
	socklen_t size;
	size_t colon = address.len;
	uint64_t port;
	while (address.base[colon - 1] != ':')
		colon--;
	assert_int_equal(str_to_u64((struct str){address.base + colon, address.len - colon}, &port), 0);
	if (address.base[0] == '[') {
		struct sockaddr_in6 *v6 = (void *)&to;
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons((uint16_t)port);
		v6->sin6_addr = in6addr_loopback;
		size = sizeof(*v6);
	} else {
		struct sockaddr_in *v4 = (void *)&to;
		v4->sin_family = AF_INET;
		v4->sin_port = htons((uint16_t)port);
		v4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		size = sizeof(*v4);
	}
	int fd = socket(to.ss_family, type, 0);
	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&to, size),
	                 0); /* the kernel's queue takes TCP without the loop */
	fcntl(fd, F_SETFL, O_NONBLOCK);
	return fd;
}

static void dial(int type)
{
	w.fd = dial_address(dns_server_address(w.server), type);
}

static bool udp_all_here(void)
{
	ssize_t n;
	while ((n = recv(w.fd, w.in, sizeof(w.in), 0)) > 0) {
		struct told t = told_read(w.in, (size_t)n);
		assert_string_equal(t.answers, "10.0.0.1");
		w.got++;
	}
	return w.got == w.wanted;
}

static void send_ask(uint16_t id)
{
	uint8_t query[600];
	size_t len = ask_write(&(struct ask){.name = "api.mdn.test", .subnet = "10.1.2.0", .source = 24}, id, query);
	assert_int_equal(send(w.fd, query, len, 0), (ssize_t)len);
}

static void test_bursts_over_udp_are_answered_whole(void **unused)
{
	dial(SOCK_DGRAM);
	for (uint16_t i = 0; i < 150; i++)
		send_ask(i);
	/* Between them: what must not be answered, and what must not stop the batch. */
	send(w.fd, "x", 1, 0);
	send(w.fd, "\0\1\x81\0\0\1\0\0\0\0\0\0\3api\3mdn\4test\0\0\1\0\1", 30, 0);
	send(w.fd, NULL, 0, 0);
	w.wanted = 150;
	run_until(udp_all_here, 3000);
	assert_int_equal(w.got, 150);
	struct dns_totals t;
	dns_server_totals(w.server, &t);
	assert_int_equal(t.udp, 153);
	assert_int_equal(t.dropped, 3);
	assert_true(t.cache_hits >= 140);
}

static void read_tcp(void)
{
	ssize_t n;
	while ((n = recv(w.fd, w.in + w.in_len, sizeof(w.in) - w.in_len, 0)) > 0)
		w.in_len += (size_t)n;
	if (n == 0 || (n < 0 && errno != EAGAIN))
		w.closed = true;
}

static bool tcp_all_here(void)
{
	read_tcp();
	size_t at = 0;
	w.got = 0;
	while (at + 2 <= w.in_len) {
		size_t len = (size_t)w.in[at] << 8 | w.in[at + 1];
		if (at + 2 + len > w.in_len)
			break;
		struct told t = told_read(w.in + at + 2, len);
		assert_int_equal(t.id, w.got); /* in order */
		assert_string_equal(t.answers, "10.0.0.1");
		w.got++;
		at += 2 + len;
	}
	return w.got == w.wanted || w.closed;
}

static bool tcp_closed(void)
{
	read_tcp();
	return w.closed;
}

static size_t frames(uint8_t *out, uint16_t count)
{
	size_t len = 0;
	for (uint16_t i = 0; i < count; i++) {
		size_t n = ask_write(&(struct ask){.name = "api.mdn.test"}, i, out + len + 2);
		out[len] = (uint8_t)(n >> 8);
		out[len + 1] = (uint8_t)n;
		len += 2 + n;
	}
	return len;
}

static void test_tcp_answers_pipelined_queries_in_order(void **unused)
{
	static uint8_t out[40000];
	size_t len = frames(out, 600);
	dial(SOCK_STREAM);
	assert_int_equal(send(w.fd, out, len, 0), (ssize_t)len);
	shutdown(w.fd, SHUT_WR); /* answers still come, then the end */
	w.wanted = 600;
	run_until(tcp_all_here, 3000);
	assert_int_equal(w.got, 600);
	run_until(tcp_closed, 3000);
	assert_true(w.closed);
	assert_int_equal(dns_server_conns(w.server), 0);
}

static uint8_t sliced[200];
static size_t sliced_len, sliced_sent;

static bool slice(void)
{
	if (sliced_sent < sliced_len && send(w.fd, sliced + sliced_sent, 1, 0) == 1)
		sliced_sent++;
	return tcp_all_here();
}

static void test_tcp_takes_queries_byte_by_byte(void **unused)
{
	sliced_len = frames(sliced, 2);
	sliced_sent = 0;
	dial(SOCK_STREAM);
	w.wanted = 2;
	run_until(slice, 5000);
	assert_int_equal(w.got, 2);
	assert_false(w.closed);
}

static void test_tcp_that_is_not_dns_is_closed(void **unused)
{
	static const struct {
		const char *text;
		size_t len;
	} rude[] = {{"GET / HTTP/1.1\r\n\r\n", 18}, {"\0\0", 2}, {"\0\13abcdefghijk", 13}, {"\xff\xff", 2}};
	for (size_t i = 0; i < 4; i++) {
		dial(SOCK_STREAM);
		assert_int_equal(send(w.fd, rude[i].text, rude[i].len, 0), (ssize_t)rude[i].len);
		w.closed = false;
		run_until(tcp_closed, 3000);
		assert_true(w.closed);
		close(w.fd);
		w.fd = -1;
	}
	assert_int_equal(dns_server_conns(w.server), 0);
}

static bool conns_settled(void)
{
	return dns_server_conns(w.server) == LIMIT_DNS_TCP_CONNS && tcp_closed();
}

static void test_too_many_connections_cost_the_longest_idle_its_place(void **unused)
{
	static int fds[LIMIT_DNS_TCP_CONNS + 1];
	for (size_t i = 0; i <= LIMIT_DNS_TCP_CONNS; i++) {
		dial(SOCK_STREAM);
		fds[i] = w.fd;
		if (i % 100 == 99) /* let the listen queue empty */
			run_until(tcp_closed, 20);
	}
	w.fd = fds[0];
	run_until(conns_settled, 3000);
	assert_true(w.closed);
	assert_int_equal(dns_server_conns(w.server), LIMIT_DNS_TCP_CONNS);
	/* The newest is served. */
	uint8_t out[100];
	size_t len = frames(out, 1);
	w.fd = fds[LIMIT_DNS_TCP_CONNS];
	w.closed = false;
	send(w.fd, out, len, 0);
	w.wanted = 1;
	run_until(tcp_all_here, 3000);
	assert_int_equal(w.got, 1);
	for (size_t i = 0; i <= LIMIT_DNS_TCP_CONNS; i++)
		close(fds[i]);
	w.fd = -1;
}

static void test_ipv6_wildcards_and_taken_ports(void **unused)
{
	struct dns_server *other;
	struct error err = {0};
	if (open_at("[::1]:0", 2, &other, &err) == 0) { /* where the machine has IPv6 */
		w.fd = dial_address(dns_server_address(other), SOCK_DGRAM);
		send_ask(1);
		w.wanted = 1;
		run_until(udp_all_here, 3000);
		assert_int_equal(w.got, 1);
		close(w.fd);
		dns_server_free(other);
	}
	assert_int_equal(open_at("0.0.0.0:0", 2, &other, &err), 0);
	w.fd =
	    dial_address(dns_server_address(other), SOCK_DGRAM); /* connected: takes replies from where it asked only */
	send_ask(1);
	w.got = 0;
	w.wanted = 1;
	run_until(udp_all_here, 3000);
	assert_int_equal(w.got, 1);
	dns_server_free(other);
	/* Someone else's port, bound without SO_REUSEPORT. */
	struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof(any);
	char text[32];
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&any, size), 0);
	getsockname(fd, (struct sockaddr *)&any, &size);
	snprintf(text, sizeof(text), "127.0.0.1:%u", ntohs(any.sin_port));
	assert_true(open_at(text, 1, &other, &err) < 0);
	assert_non_null(strstr(err.text, "dns_listen"));
	close(fd);
	static const char *const bad[] = {"", "127.0.0.1", "localhost:53", "127.0.0.1:99999", "[::1:53", "127.0.0.1:"};
	for (size_t i = 0; i < 6; i++)
		assert_int_equal(open_at(bad[i], 1, &other, &err), E_INVAL);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(test_bursts_over_udp_are_answered_whole),
	    TEST(test_tcp_answers_pipelined_queries_in_order),
	    TEST(test_tcp_takes_queries_byte_by_byte),
	    TEST(test_tcp_that_is_not_dns_is_closed),
	    TEST(test_too_many_connections_cost_the_longest_idle_its_place),
	    TEST(test_ipv6_wildcards_and_taken_ports),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
