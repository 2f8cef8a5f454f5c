/* SPDX-License-Identifier: Apache-2.0 */
/* UDP: when the socket is readable, up to BATCHES batches are read, answered and sent, then other events get their
 * turn. What the kernel will not take is dropped, as UDP may. On a wildcard address replies leave from the address that
 * was asked (IP_PKTINFO). TCP: queries of one read are answered into one write; a reader that lets WRITE_MOST pile up
 * is not read from until it took them, and the idle sweep ends it otherwise. Memory is freed when libuv has closed
 * every handle. */
#include "serve/scheduler/dns_server.h"

#include "base/clock.h"
#include "base/limits.h"
#include "net/dns.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#define BATCH 64
#define BATCHES 16
#define UDP_QUERY_SIZE 1500
#define UDP_KERNEL_BYTES (4 << 20)
#define CONTROL_SIZE 64
#define TCP_READ_SIZE (2 + DNS_QUERY_MAX)
#define WRITE_MOST 65536
#define BIND_TRIES 16

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

struct udp_batch {
	struct mmsghdr in[BATCH], out[BATCH];
	struct iovec in_iov[BATCH], out_iov[BATCH];
	union address from[BATCH];
	char control[BATCH][CONTROL_SIZE];
	uint8_t query[BATCH][UDP_QUERY_SIZE];
	uint8_t reply[BATCH][DNS_UDP_SIZE];
};

struct dns_conn {
	uv_tcp_t tcp;
	struct dns_server *server;    /* NULL once closing */
	struct dns_conn *prev, *next; /* newest activity first */
	int64_t active_us;
	struct ip peer;
	size_t unsent;
	size_t len;
	bool paused, ending; /* ending: nothing more comes, close once all is sent */
	uint8_t in[TCP_READ_SIZE];
};

struct dns_server {
	struct loop *loop;
	struct dns_zone *zone;
	char text[72];
	int udp_fd;
	bool wildcard;
	uv_poll_t poll;
	uv_tcp_t listener;
	struct loop_timer *sweep;
	struct dns_conn *conns, *conns_last;
	size_t conn_count;
	int handles; /* not closed yet */
	struct udp_batch batch;
};

static int64_t now_us(void)
{
	return clock_mono_us();
}

static struct ip ip_of(const union address *a)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
	struct ip ip = {.bits = 32};
	if (a->any.sa_family == AF_INET) {
		memcpy(ip.bytes, &a->v4.sin_addr, 4);
	} else if (memcmp(&a->v6.sin6_addr, mapped, 12) == 0) {
		memcpy(ip.bytes, (const uint8_t *)&a->v6.sin6_addr + 12, 4);
	} else {
		ip.bits = 128;
		memcpy(ip.bytes, &a->v6.sin6_addr, 16);
	}
	return ip;
}

static bool is_wildcard(const union address *a)
{
	static const uint8_t zeros[16];
	struct ip ip = ip_of(a);
	return memcmp(ip.bytes, zeros, sizeof(zeros)) == 0;
}

/* ---- UDP ------------------------------------------------------------------------------------- */

static void batch_prepare(struct udp_batch *b, bool wildcard)
{
	for (size_t i = 0; i < BATCH; i++) {
		b->in_iov[i] = (struct iovec){b->query[i], UDP_QUERY_SIZE};
		b->in[i].msg_hdr = (struct msghdr){.msg_name = &b->from[i],
		                                   .msg_namelen = sizeof(b->from[i]),
		                                   .msg_iov = &b->in_iov[i],
		                                   .msg_iovlen = 1};
		if (wildcard) {
			b->in[i].msg_hdr.msg_control = b->control[i];
			b->in[i].msg_hdr.msg_controllen = CONTROL_SIZE;
		}
	}
}

/* Sends from the address that was asked, by whatever way there is. */
static void control_reuse(struct msghdr *h)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(h); c; c = CMSG_NXTHDR(h, c)) {
		if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO)
			((struct in_pktinfo *)(void *)CMSG_DATA(c))->ipi_ifindex = 0;
	}
}

/* Answers one batch; false when the socket is empty. */
static bool batch_run(struct dns_server *s)
{
	struct udp_batch *b = &s->batch;
	batch_prepare(b, s->wildcard);
	int got = recvmmsg(s->udp_fd, b->in, BATCH, MSG_DONTWAIT, NULL);
	if (got <= 0)
		return false;
	unsigned replies = 0;
	int64_t now = now_us();
	for (int i = 0; i < got; i++) {
		struct ip from = ip_of(&b->from[i]);
		/* A source port of 0 cannot be answered, only bounced. */
		if (b->from[i].v4.sin_port == 0)
			continue;
		size_t len =
		    dns_zone_answer(s->zone, b->query[i], b->in[i].msg_len, &from, false, now, b->reply[replies]);
		if (len == 0)
			continue;
		b->out_iov[replies] = (struct iovec){b->reply[replies], len};
		b->out[replies].msg_hdr = b->in[i].msg_hdr;
		b->out[replies].msg_hdr.msg_iov = &b->out_iov[replies];
		b->out[replies].msg_hdr.msg_flags = 0;
		if (s->wildcard)
			control_reuse(&b->out[replies].msg_hdr);
		replies++;
	}
	for (unsigned sent = 0; sent < replies;) {
		int n = sendmmsg(s->udp_fd, b->out + sent, replies - sent, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS))
			break;
		sent += n > 0 ? (unsigned)n : 1; /* an unreachable one must not stop the others */
	}
	return got == BATCH;
}

static void on_udp(uv_poll_t *poll, int status, int events)
{
	struct dns_server *s = poll->data;
	if (status < 0 || !(events & UV_READABLE))
		return;
	for (int i = 0; i < BATCHES && batch_run(s); i++)
		;
}

/* ---- TCP ------------------------------------------------------------------------------------- */

static void conn_unlink(struct dns_conn *c)
{
	struct dns_server *s = c->server;
	*(c->prev ? &c->prev->next : &s->conns) = c->next;
	*(c->next ? &c->next->prev : &s->conns_last) = c->prev;
	c->prev = c->next = NULL;
}

static void conn_link(struct dns_server *s, struct dns_conn *c)
{
	c->next = s->conns;
	*(s->conns ? &s->conns->prev : &s->conns_last) = c;
	s->conns = c;
}

static void server_handle_closed(struct dns_server *s)
{
	if (--s->handles == 0)
		free(s);
}

static void on_conn_closed(uv_handle_t *handle)
{
	free(handle->data);
}

static void conn_close(struct dns_conn *c)
{
	if (!c->server)
		return;
	conn_unlink(c);
	c->server->conn_count--;
	c->server = NULL;
	uv_close((uv_handle_t *)&c->tcp, on_conn_closed);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
	struct dns_conn *c = handle->data;
	*buf = uv_buf_init((char *)c->in + c->len, (unsigned)(sizeof(c->in) - c->len));
}

static void on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buf);

struct dns_write {
	uv_write_t req;
	size_t len;
	char data[];
};

static void on_written(uv_write_t *req, int status)
{
	struct dns_conn *c = req->handle->data;
	struct dns_write *w = req->data;
	c->unsent -= w->len;
	free(w);
	if (!c->server)
		return;
	if (status < 0 || (c->ending && c->unsent == 0)) {
		conn_close(c);
	} else if (c->paused && !c->ending && c->unsent < WRITE_MOST / 2) {
		c->paused = false;
		uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read);
	}
}

static void conn_write(struct dns_conn *c, struct str data)
{
	struct dns_write *w = mem_new(sizeof(*w) + data.len);
	w->len = data.len;
	w->req.data = w;
	memcpy(w->data, data.base, data.len);
	uv_buf_t buf = uv_buf_init(w->data, (unsigned)data.len);
	c->unsent += data.len;
	if (uv_write(&w->req, (uv_stream_t *)&c->tcp, &buf, 1, on_written) < 0) {
		c->unsent -= data.len;
		free(w);
		conn_close(c);
		return;
	}
	if (c->unsent > WRITE_MOST) {
		c->paused = true;
		uv_read_stop((uv_stream_t *)&c->tcp);
	}
}

/* Answers whole queries in the buffer; false: not DNS, close. */
static bool conn_answer(struct dns_conn *c, struct buf *out)
{
	size_t at = 0;
	while (c->len - at >= 2) {
		size_t len = (size_t)c->in[at] << 8 | c->in[at + 1];
		if (len < DNS_HEADER_SIZE || len > DNS_QUERY_MAX)
			return false;
		if (c->len - at - 2 < len)
			break;
		uint8_t reply[2 + DNS_REPLY_SIZE];
		size_t n = dns_zone_answer(c->server->zone, c->in + at + 2, len, &c->peer, true, now_us(), reply + 2);
		reply[0] = (uint8_t)(n >> 8);
		reply[1] = (uint8_t)n;
		if (n > 0)
			buf_append(out, reply, 2 + n);
		at += 2 + len;
		c->active_us = loop_now_us(c->server->loop);
	}
	memmove(c->in, c->in + at, c->len - at);
	c->len -= at;
	return true;
}

static void on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *read)
{
	struct dns_conn *c = stream->data;
	struct buf out = {0};
	if (got == UV_EOF && c->unsent > 0) {
		c->ending = true;
		uv_read_stop(stream);
		return;
	}
	if (got < 0) {
		conn_close(c);
		return;
	}
	c->len += (size_t)got;
	int64_t before_us = c->active_us;
	bool fine = conn_answer(c, &out);
	if (c->active_us != before_us) { /* newest first, for the sweep */
		struct dns_server *s = c->server;
		conn_unlink(c);
		conn_link(s, c);
	}
	if (out.len > 0)
		conn_write(c, buf_str(&out));
	buf_fini(&out);
	if (!fine)
		conn_close(c);
}

static void on_connection(uv_stream_t *listener, int status)
{
	struct dns_server *s = listener->data;
	if (status < 0)
		return;
	if (s->conn_count >= LIMIT_DNS_TCP_CONNS)
		conn_close(s->conns_last);
	struct dns_conn *c = NEW(struct dns_conn);
	uv_tcp_init(loop_uv(s->loop), &c->tcp);
	c->tcp.data = c;
	c->server = s;
	c->active_us = loop_now_us(s->loop);
	s->conn_count++;
	conn_link(s, c);
	union address peer;
	int size = sizeof(peer);
	if (uv_accept(listener, (uv_stream_t *)&c->tcp) < 0 || uv_tcp_getpeername(&c->tcp, &peer.any, &size) < 0) {
		conn_close(c);
		return;
	}
	c->peer = ip_of(&peer);
	uv_tcp_nodelay(&c->tcp, 1);
	if (uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read) < 0)
		conn_close(c);
}

static void on_sweep(void *arg)
{
	struct dns_server *s = arg;
	int64_t now = loop_now_us(s->loop);
	while (s->conns_last && now - s->conns_last->active_us > DNS_TCP_IDLE_US)
		conn_close(s->conns_last);
}

/* ---- opening and closing --------------------------------------------------------------------- */

static int address_parse(struct str text, union address *ret, struct error *err)
{
	struct str port_text, host = text;
	struct ip ip;
	uint64_t port;
	size_t colon = text.len;
	while (colon > 0 && text.base[colon - 1] != ':')
		colon--;
	if (colon > 0) {
		host = (struct str){text.base, colon - 1};
		port_text = (struct str){text.base + colon, text.len - colon};
	}
	if (host.len >= 2 && host.base[0] == '[' && host.base[host.len - 1] == ']')
		host = (struct str){host.base + 1, host.len - 2};
	if (colon == 0 || str_to_u64(port_text, &port) < 0 || port > 65535 || ip_parse(host, &ip) < 0)
		return error_set(err, E_INVAL,
		                 "dns_listen \"" STR_FMT "\": write ADDRESS:PORT, such as 127.0.0.1:5353 or [::1]:53",
		                 (int)(text.len < 100 ? text.len : 100), text.base ? text.base : "");
	memset(ret, 0, sizeof(*ret));
	if (ip.bits == 32) {
		ret->v4.sin_family = AF_INET;
		ret->v4.sin_port = htons((uint16_t)port);
		memcpy(&ret->v4.sin_addr, ip.bytes, 4);
	} else {
		ret->v6.sin6_family = AF_INET6;
		ret->v6.sin6_port = htons((uint16_t)port);
		memcpy(&ret->v6.sin6_addr, ip.bytes, 16);
	}
	return 0;
}

/* A bound socket, or -1 with errno; a port picked by the kernel is written back. */
static int socket_bound(union address *a, int type)
{
	int on = 1, bytes = UDP_KERNEL_BYTES, fd = socket(a->any.sa_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	socklen_t size = a->any.sa_family == AF_INET ? sizeof(a->v4) : sizeof(a->v6);
	if (fd < 0)
		return -1;
	/* SO_REUSEADDR on UDP would let a stranger's socket take over the port; SO_REUSEPORT only one of the same user.
	 */
	if (type == SOCK_STREAM)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (ntohs(a->v4.sin_port) != 0)
		setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
	if (type == SOCK_DGRAM) {
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
		if (!is_wildcard(a))
			; /* replies leave from where we are bound */
		else if (a->any.sa_family == AF_INET)
			setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof(on));
		else
			setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof(on));
	}
	if (bind(fd, &a->any, size) < 0 || getsockname(fd, &a->any, &size) < 0) {
		int saved = errno;
		close(fd);
		errno = saved;
		return -1;
	}
	return fd;
}

/* Both sockets on one port. A picked port may be taken on the other protocol: pick again. */
static int sockets_open(const union address *wanted, union address *ret_bound, int *ret_udp, int *ret_tcp)
{
	for (int tries = 0;; tries++) {
		union address bound = *wanted;
		int udp = socket_bound(&bound, SOCK_DGRAM);
		if (udp < 0)
			return -1;
		int tcp = socket_bound(&bound, SOCK_STREAM);
		if (tcp >= 0) {
			*ret_bound = bound;
			*ret_udp = udp;
			*ret_tcp = tcp;
			return 0;
		}
		int saved = errno;
		close(udp);
		errno = saved;
		if (wanted->v4.sin_port != 0 || tries == BIND_TRIES)
			return -1;
	}
}

static void on_server_closed(uv_handle_t *handle)
{
	server_handle_closed(handle->data);
}

static void server_start(struct dns_server *s, int tcp_fd)
{
	uv_loop_t *uv = loop_uv(s->loop);
	uv_poll_init(uv, &s->poll, s->udp_fd);
	uv_tcp_init(uv, &s->listener);
	s->poll.data = s->listener.data = s;
	s->handles = 2;
	uv_tcp_open(&s->listener, tcp_fd);
	uv_poll_start(&s->poll, UV_READABLE, on_udp);
	s->sweep = loop_timer_new(s->loop, on_sweep, s);
	loop_timer_start(s->sweep, US_PER_S, US_PER_S);
}

int dns_server_new(struct loop *loop, struct str address, struct dns_zone *zone, struct dns_server **ret_server,
                   struct error *err)
{
	union address wanted, bound;
	int udp, tcp, rc = address_parse(address, &wanted, err);
	if (rc < 0)
		return rc;
	if (sockets_open(&wanted, &bound, &udp, &tcp) < 0)
		return error_errno(
		    err, errno, "cannot listen for DNS on " STR_FMT " (change dns_listen, or stop what uses the port)",
		    STR_ARG(address));
	struct dns_server *s = NEW(struct dns_server);
	struct ip own = ip_of(&bound);
	char host[IP_TEXT_SIZE];
	ip_format(&own, host);
	snprintf(s->text, sizeof(s->text), bound.any.sa_family == AF_INET ? "%s:%u" : "[%s]:%u", host,
	         ntohs(bound.v4.sin_port));
	s->loop = loop;
	s->zone = zone;
	s->udp_fd = udp;
	s->wildcard = is_wildcard(&bound);
	if (!s->wildcard)
		dns_zone_set_own(zone, &own);
	server_start(s, tcp);
	if ((rc = uv_listen((uv_stream_t *)&s->listener, 128, on_connection)) < 0) {
		error_set(err, E_IO, "cannot listen for DNS on %s over TCP: %s", s->text, uv_strerror(rc));
		dns_server_free(s);
		return E_IO;
	}
	*ret_server = s;
	return 0;
}

void dns_server_free(struct dns_server *s)
{
	if (!s)
		return;
	while (s->conns)
		conn_close(s->conns);
	loop_timer_free(s->sweep);
	uv_poll_stop(&s->poll);
	close(s->udp_fd);
	uv_close((uv_handle_t *)&s->poll, on_server_closed);
	uv_close((uv_handle_t *)&s->listener, on_server_closed);
}

struct str dns_server_address(const struct dns_server *s)
{
	return str_from(s->text);
}

size_t dns_server_conns(const struct dns_server *s)
{
	return s->conn_count;
}
