/* SPDX-License-Identifier: Apache-2.0 */
/* conn_dial.c - from a host name to an open connection.
 *
 * Addresses are tried in getaddrinfo's order; refused or unreachable ones cost nothing, silent ones their
 * share of the time that is left. One timer covers resolving, connecting and the TLS handshake.
 */
#include "net/conn_internal.h"
#include "net/tls_internal.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>

#define ADDRESSES_MAX 8

struct conn_dial;

struct lookup { /* outlives a canceled dial: getaddrinfo cannot be stopped */
	uv_getaddrinfo_t request;
	struct conn_dial *dial;
};

struct conn_dial {
	struct conn *conn;
	struct lookup *lookup;
	struct loop_timer *timer;
	struct tls_context *tls;
	int64_t deadline_us;
	struct sockaddr_storage addresses[ADDRESSES_MAX];
	unsigned count, next;
	int last_error;
	bool literal, compare_host;
	uint16_t port;
	char host[256];
};

static void dial_next(struct conn_dial *d);

static void dial_fail(struct conn_dial *d, int code, const char *why)
{
	bool six = strchr(d->host, ':') != NULL;
	conn_fail(d->conn, code, "cannot reach %s%s%s:%u: %s", six ? "[" : "", d->host, six ? "]" : "", d->port, why);
}

static void dial_connected(struct conn_dial *d)
{
	struct conn *c = d->conn;
	uv_tcp_nodelay(&c->socket->tcp, 1);
	if (c->wants_background)
		conn_background(c, 0);
	if (!d->tls) {
		c->open = true;
		conn_dial_done(c);
		conn_read_start(c);
		c->events->on_open(c->arg);
		if (c->events)
			conn_flush(c);
		return;
	}
	loop_timer_start(d->timer, d->deadline_us - loop_now_us(c->loop), 0);
	SSL *ssl = tls_session_new(d->tls, false, d->compare_host ? d->host : NULL);
	if (!ssl) {
		dial_fail(d, E_INTERNAL, "no TLS session could be made");
		return;
	}
	conn_tls_begin(c, ssl);
	conn_read_start(c);
	conn_tls_pump(c);
}

static void dial_answer(uv_connect_t *request, int status)
{
	struct conn_socket *s = request->data;
	struct conn *c = s->conn;
	if (!c || !c->dial)
		return;
	struct conn_dial *d = c->dial;
	if (status == 0) {
		dial_connected(d);
		return;
	}
	d->last_error = status;
	dial_next(d);
}

static void dial_drop_socket(struct conn_dial *d)
{
	if (d->conn->socket)
		conn_socket_close(d->conn->socket, false);
	d->conn->socket = NULL;
}

static void dial_next(struct conn_dial *d)
{
	struct conn *c = d->conn;
	int64_t left_us = d->deadline_us - loop_now_us(c->loop);
	dial_drop_socket(d);
	while (d->next < d->count && left_us > 0) {
		const struct sockaddr *address = (const struct sockaddr *)&d->addresses[d->next++];
		c->socket = conn_socket_new(c->loop, c);
		c->socket->connect.data = c->socket;
		int rc = uv_tcp_connect(&c->socket->connect, &c->socket->tcp, address, dial_answer);
		if (rc == 0) {
			loop_timer_start(d->timer, left_us / (d->count - d->next + 1), 0);
			return;
		}
		d->last_error = rc;
		dial_drop_socket(d);
	}
	loop_timer_stop(d->timer);
	if (d->last_error == UV_ETIMEDOUT || left_us <= 0)
		dial_fail(d, E_TIMEOUT, "no answer in time");
	else
		dial_fail(d, E_UNAVAILABLE, uv_strerror(d->last_error));
}

static void dial_timeout(void *arg)
{
	struct conn_dial *d = arg;
	d->last_error = UV_ETIMEDOUT;
	if (d->lookup)
		dial_fail(d, E_TIMEOUT, "its name was not resolved in time");
	else if (d->conn->ssl)
		dial_fail(d, E_TIMEOUT, "the TLS handshake was not finished in time");
	else
		dial_next(d);
}

static void dial_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *found)
{
	struct lookup *lookup = request->data;
	struct conn_dial *d = lookup->dial;
	if (d)
		d->lookup = NULL;
	for (struct addrinfo *a = found; d && a && d->count < ADDRESSES_MAX; a = a->ai_next)
		if (a->ai_addrlen <= sizeof(d->addresses[0]))
			memcpy(&d->addresses[d->count++], a->ai_addr, a->ai_addrlen);
	uv_freeaddrinfo(found);
	free(lookup);
	if (!d || d->conn->error)
		return;
	if (status == 0 && d->count)
		dial_next(d);
	else
		dial_fail(d, E_UNAVAILABLE, status ? uv_strerror(status) : "its name has no address");
}

static bool dial_literal(struct conn_dial *d)
{
	struct sockaddr_in *four = (struct sockaddr_in *)&d->addresses[0];
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)&d->addresses[0];
	if (uv_ip4_addr(d->host, d->port, four) != 0 && uv_ip6_addr(d->host, d->port, six) != 0) {
		memset(&d->addresses[0], 0, sizeof(d->addresses[0]));
		return false;
	}
	d->count = 1;
	return true;
}

static void dial_start(struct conn_dial *d)
{
	char port[8];
	if (dial_literal(d)) {
		dial_next(d);
		return;
	}
	snprintf(port, sizeof(port), "%u", d->port);
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
	d->lookup = NEW(struct lookup);
	d->lookup->dial = d;
	d->lookup->request.data = d->lookup;
	loop_timer_start(d->timer, d->deadline_us - loop_now_us(d->conn->loop), 0);
	int rc = uv_getaddrinfo(loop_uv(d->conn->loop), &d->lookup->request, dial_resolved, d->host, port, &hints);
	if (rc != 0) {
		free(d->lookup);
		d->lookup = NULL;
		dial_fail(d, E_UNAVAILABLE, uv_strerror(rc));
	}
}

struct conn *conn_dial(struct loop *loop, const struct conn_options *options)
{
	struct conn *c = conn_new(loop, options);
	struct conn_dial *d = NEW(struct conn_dial);
	c->dial = d;
	d->conn = c;
	d->tls = options->tls;
	d->port = options->port;
	d->timer = loop_timer_new(loop, dial_timeout, d);
	d->deadline_us = loop_now_us(loop) + options->connect_timeout_us;
	d->compare_host = options->peer_identity.len == 0;
	c->expect_identity = d->compare_host ? NULL : str_dup(options->peer_identity);
	if (!str_copy(options->host, d->host, sizeof(d->host)) || options->peer_identity.len >= TLS_IDENTITY_SIZE)
		conn_fail(c, E_INVAL, "the host name or the identity of the peer is too long");
	else
		dial_start(d);
	return c;
}

void conn_dial_done(struct conn *c)
{
	conn_dial_cancel(c);
}

void conn_dial_cancel(struct conn *c)
{
	struct conn_dial *d = c->dial;
	if (!d)
		return;
	if (d->lookup)
		d->lookup->dial = NULL;
	loop_timer_free(d->timer);
	free(d);
	c->dial = NULL;
}
