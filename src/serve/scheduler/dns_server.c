/* SPDX-License-Identifier: Apache-2.0 */
/* A tick of the loop makes a picture of the map and gives it, with the settings, to every UDP thread (dns_udp.c) and to
 * the zone of TCP. Making one is cheap until there are very many nodes; then it is done less often, so that it never
 * takes more than a twentieth of the loop. TCP: queries of one read are answered into one write; a reader that lets
 * WRITE_MOST pile up is not read from until it took them, and the idle sweep ends it otherwise. Memory is freed when
 * libuv has closed every handle. */
#include "serve/scheduler/dns_server.h"

#include "base/clock.h"
#include "base/limits.h"
#include "base/rng.h"
#include "net/dns.h"
#include "serve/scheduler/dns_udp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#define UDP_KERNEL_BYTES (4 << 20)
#define TCP_READ_SIZE (2 + DNS_QUERY_MAX)
#define WRITE_MOST 65536
#define BIND_TRIES 16
#define TICK_US (100 * US_PER_MS)
#define TICK_MOST_US (500 * US_PER_MS) /* a report a second must not look late */
#define TICK_SHARE 20
#define SWEEP_US US_PER_S
#define SECRET_LIFE_US (24 * 3600 * US_PER_S)

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
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
	const struct node_map *map;
	char text[72];
	struct dns_zone *zone; /* of TCP */
	struct dns_udp *udp[DNS_THREADS_MAX];
	unsigned udp_count, threads; /* running; wanted */

	struct dns_scene settings; /* for the next scene; no view */
	bool secret_own;           /* ours, renewed by us */
	int64_t secret_us;
	struct dns_shared *newest; /* list: the newest first */
	int64_t look_us;           /* at the map again */
	int64_t young_until_us;
	struct loop_timer *tick, *sweep;

	uv_tcp_t listener;
	bool listening;
	struct dns_conn *conns, *conns_last;
	size_t conn_count;
};

static int64_t now_us(void)
{
	return clock_mono_us();
}

static bool is_wildcard(const union address *a)
{
	static const uint8_t zeros[16];
	struct ip ip = dns_ip_of(&a->any);
	return memcmp(ip.bytes, zeros, sizeof(zeros)) == 0;
}

/* ---- scenes ---------------------------------------------------------------------------------- */

/* All but the newest that nobody answers from any more. */
static void scenes_free_idle(struct dns_server *s)
{
	struct dns_shared **at = s->newest ? &s->newest->next : &s->newest;
	while (*at) {
		struct dns_shared *old = *at;
		if (atomic_load_explicit(&old->holders, memory_order_acquire) > 0) {
			at = &old->next;
			continue;
		}
		*at = old->next;
		dns_view_free((struct dns_view *)(uintptr_t)old->scene.view);
		free(old);
	}
}

static void scene_publish(struct dns_server *s)
{
	struct dns_shared *fresh = NEW(struct dns_shared);
	int64_t begun = now_us();
	s->settings.number++;
	fresh->scene = s->settings;
	fresh->scene.young = begun < s->young_until_us;
	fresh->scene.view = dns_view_new(s->map, s->newest ? s->newest->scene.view : NULL, begun);
	fresh->next = s->newest;
	s->newest = fresh;
	if (s->zone)
		dns_zone_set(s->zone, &fresh->scene);
	for (unsigned i = 0; i < s->udp_count; i++)
		dns_udp_give(s->udp[i], fresh);
	scenes_free_idle(s);
	int64_t wait_us = (now_us() - begun) * TICK_SHARE;
	s->look_us = begun + (wait_us < TICK_US ? 0 : wait_us < TICK_MOST_US ? wait_us : TICK_MOST_US);
}

static void secret_renew(struct dns_server *s, int64_t now)
{
	if (!s->secret_own || now - s->secret_us < SECRET_LIFE_US)
		return;
	memcpy(s->settings.secrets[1], s->settings.secrets[0], DNS_SECRET_SIZE);
	rng_secret(s->settings.secrets[0], DNS_SECRET_SIZE);
	s->secret_us = now;
}

static void on_tick(void *arg)
{
	struct dns_server *s = arg;
	int64_t now = now_us();
	secret_renew(s, now);
	if (now >= s->look_us)
		scene_publish(s);
}

/* ---- settings -------------------------------------------------------------------------------- */

static int hex_digit(char c)
{
	return c >= '0' && c <= '9'   ? c - '0'
	       : c >= 'a' && c <= 'f' ? c - 'a' + 10
	       : c >= 'A' && c <= 'F' ? c - 'A' + 10
	                              : -1;
}

static int hex_parse(struct str text, uint8_t ret_secret[static DNS_SECRET_SIZE])
{
	if (text.len != 2 * DNS_SECRET_SIZE)
		return E_INVAL;
	for (size_t i = 0; i < DNS_SECRET_SIZE; i++) {
		int high = hex_digit(text.base[2 * i]), low = hex_digit(text.base[2 * i + 1]);
		if (high < 0 || low < 0)
			return E_INVAL;
		ret_secret[i] = (uint8_t)(high << 4 | low);
	}
	return 0;
}

static int secrets_parse(struct str text, uint8_t ret_secrets[2][DNS_SECRET_SIZE], struct error *err)
{
	struct str second, first = str_trim(str_cut(text, ',', &second));
	second = str_trim(second);
	if (hex_parse(first, ret_secrets[0]) < 0 || hex_parse(second.len ? second : first, ret_secrets[1]) < 0)
		return error_set(err, E_INVAL,
		                 "dns_cookie_secret must be 32 hex digits (openssl rand -hex 16), or two such with a "
		                 "comma, the new one first");
	return 0;
}

int dns_settings_check(const struct dns_settings *settings, struct error *err)
{
	uint8_t secrets[2][DNS_SECRET_SIZE];
	return settings->cookie_secret.len > 0 ? secrets_parse(settings->cookie_secret, secrets, err) : 0;
}

static int settings_take(struct dns_server *s, const struct dns_settings *settings, struct error *err)
{
	int rc = 0;
	if (settings->cookie_secret.len > 0) {
		if ((rc = dns_settings_check(settings, err)) < 0)
			return rc;
		secrets_parse(settings->cookie_secret, s->settings.secrets, NULL);
		s->secret_own = false;
	} else if (!s->secret_own) {
		rng_secret(s->settings.secrets, sizeof(s->settings.secrets));
		s->secret_own = true;
		s->secret_us = now_us();
	}
	s->settings.ttl_us = settings->ttl_us;
	s->settings.why = settings->why;
	/* The kernel spreads a network's queries over the threads. */
	s->settings.rate = (settings->rate + s->threads - 1) / s->threads;
	return 0;
}

int dns_server_set(struct dns_server *s, const struct dns_settings *settings, struct error *err)
{
	int rc = settings_take(s, settings, err);
	if (rc == 0)
		scene_publish(s);
	return rc;
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
	c->peer = dns_ip_of(&peer.any);
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
	struct str port_text = {0}, host = text;
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

/* A bound socket, or -1 with errno; a port picked by the kernel is written back. shared: one of ours has it already.
 * The first is bound without SO_REUSEPORT, so that a port in use is noticed, even one of another mdn. */
static int socket_bound(union address *a, int type, bool shared)
{
	int on = 1, bytes = UDP_KERNEL_BYTES, fd = socket(a->any.sa_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	socklen_t size = a->any.sa_family == AF_INET ? sizeof(a->v4) : sizeof(a->v6);
	if (fd < 0)
		return -1;
	if (type == SOCK_STREAM) { /* on UDP it would let a stranger's socket take over the port */
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	} else {
		if (shared)
			setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
		if (!is_wildcard(a))
			; /* replies leave from where we are bound */
		else if (a->any.sa_family == AF_INET)
			setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof(on));
		else
			setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof(on));
	}
	if (bind(fd, &a->any, size) < 0 || getsockname(fd, &a->any, &size) < 0 ||
	    (type == SOCK_DGRAM && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) < 0)) {
		int saved = errno;
		close(fd);
		errno = saved;
		return -1;
	}
	return fd;
}

static void sockets_close(const int *fds, unsigned count)
{
	int saved = errno;
	for (unsigned i = 0; i < count; i++)
		close(fds[i]);
	errno = saved;
}

/* udp_count of UDP and then one of TCP, all on one port; -1 with errno. A picked port may be taken on the other
 * protocol: pick again. */
static int sockets_open(const union address *wanted, unsigned udp_count, union address *ret_bound, int *ret_fds)
{
	for (int tries = 0;; tries++) {
		union address bound = *wanted;
		unsigned open = 0;
		for (; open <= udp_count; open++) {
			ret_fds[open] = socket_bound(&bound, open == udp_count ? SOCK_STREAM : SOCK_DGRAM, open > 0);
			if (ret_fds[open] < 0)
				break;
		}
		if (open > udp_count) {
			*ret_bound = bound;
			return 0;
		}
		sockets_close(ret_fds, open);
		if (wanted->v4.sin_port != 0 || tries == BIND_TRIES)
			return -1;
	}
}

static void on_server_closed(uv_handle_t *handle)
{
	struct dns_server *s = handle->data;
	while (s->newest) { /* TCP and all threads are done with them */
		struct dns_shared *old = s->newest;
		s->newest = old->next;
		dns_view_free((struct dns_view *)(uintptr_t)old->scene.view);
		free(old);
	}
	dns_zone_free(s->zone);
	free(s);
}

/* Blocking, as its thread has nothing else to do. */
static int udp_start(struct dns_server *s, struct str zone, int fd, bool wildcard, struct error *err)
{
	struct dns_zone *own;
	int rc = dns_zone_new(zone, &own, err);
	if (rc < 0) {
		close(fd);
		return rc;
	}
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	rc = dns_udp_new(fd, wildcard, own, s->newest, &s->udp[s->udp_count], err);
	s->udp_count += rc == 0;
	return rc;
}

static int server_start(struct dns_server *s, const struct dns_server_options *o, const int *fds, bool wildcard,
                        struct error *err)
{
	uv_tcp_init(loop_uv(s->loop), &s->listener);
	s->listener.data = s;
	uv_tcp_open(&s->listener, fds[o->threads]);
	s->sweep = loop_timer_new(s->loop, on_sweep, s);
	s->tick = loop_timer_new(s->loop, on_tick, s);
	for (unsigned i = 0; i < o->threads; i++) {
		int rc = udp_start(s, o->zone, fds[i], wildcard, err);
		if (rc < 0) {
			sockets_close(fds + i + 1, o->threads - i - 1);
			return rc;
		}
	}
	int said = uv_listen((uv_stream_t *)&s->listener, 128, on_connection);
	if (said < 0)
		return error_set(err, E_IO, "cannot listen for DNS on %s over TCP: %s", s->text, uv_strerror(said));
	loop_timer_start(s->sweep, SWEEP_US, SWEEP_US);
	loop_timer_start(s->tick, TICK_US, TICK_US);
	return 0;
}

static int server_open(struct dns_server *s, const struct dns_server_options *o, struct error *err)
{
	int fds[DNS_THREADS_MAX + 1];
	union address wanted, bound;
	char host[IP_TEXT_SIZE];
	int rc = address_parse(o->address, &wanted, err);
	if (rc < 0)
		return rc;
	if (sockets_open(&wanted, o->threads, &bound, fds) < 0)
		return error_errno(
		    err, errno, "cannot listen for DNS on " STR_FMT " (change dns_listen, or stop what uses the port)",
		    STR_ARG(o->address));
	struct ip own = dns_ip_of(&bound.any);
	ip_format(&own, host);
	snprintf(s->text, sizeof(s->text), bound.any.sa_family == AF_INET ? "%s:%u" : "[%s]:%u", host,
	         ntohs(bound.v4.sin_port));
	if (!is_wildcard(&bound))
		s->settings.own = own;
	scene_publish(s);
	s->listening = true;
	return server_start(s, o, fds, is_wildcard(&bound), err);
}

int dns_server_new(struct loop *loop, const struct dns_server_options *o, struct dns_server **ret_server,
                   struct error *err)
{
	if (o->threads < 1 || o->threads > DNS_THREADS_MAX)
		return error_set(err, E_INVAL, "dns_threads must be 1 to %d", DNS_THREADS_MAX);
	struct dns_server *s = NEW(struct dns_server);
	s->loop = loop;
	s->map = o->map;
	s->threads = o->threads;
	s->young_until_us = now_us() + o->young_us;
	int rc = dns_zone_new(o->zone, &s->zone, err);
	if (rc == 0)
		rc = settings_take(s, &o->settings, err);
	if (rc == 0)
		rc = server_open(s, o, err);
	if (rc < 0) {
		dns_server_free(s);
		return rc;
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
	if (s->sweep)
		loop_timer_free(s->sweep);
	if (s->tick)
		loop_timer_free(s->tick);
	for (unsigned i = 0; i < s->udp_count; i++)
		dns_udp_free(s->udp[i]);
	s->udp_count = 0;
	if (s->listening) {
		uv_close((uv_handle_t *)&s->listener, on_server_closed);
		return;
	}
	dns_zone_free(s->zone);
	free(s);
}

struct str dns_server_address(const struct dns_server *s)
{
	return str_from(s->text);
}

size_t dns_server_conns(const struct dns_server *s)
{
	return s->conn_count;
}

static void totals_add(struct dns_totals *t, const struct dns_counts *c)
{
#define ADD(name) t->name += atomic_load_explicit(&c->name, memory_order_relaxed)
	ADD(udp), ADD(tcp), ADD(dropped), ADD(limited), ADD(slipped), ADD(cookies_good), ADD(cache_hits),
	    ADD(cache_misses);
	for (int i = 0; i < 24; i++)
		ADD(rcodes[i]);
#undef ADD
}

void dns_server_totals(const struct dns_server *s, struct dns_totals *ret_totals)
{
	*ret_totals = (struct dns_totals){0};
	totals_add(ret_totals, dns_zone_counts(s->zone));
	for (unsigned i = 0; i < s->udp_count; i++)
		totals_add(ret_totals, dns_udp_counts(s->udp[i]));
}
