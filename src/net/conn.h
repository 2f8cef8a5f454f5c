/* SPDX-License-Identifier: Apache-2.0 */
/* conn.h - for net/ only: one connection as a stream of bytes: TCP, TLS over TCP, or an in-memory pair.
 *
 * The owner gets events, never from inside a conn_* call. Writes are corked until conn_flush or the
 * loop's next turn; data is always taken, conn_buffered tells when to wait for on_writable (it comes
 * once less than half of LIMIT_WRITE_BUFFER is left). A peer that takes next to nothing (LIMIT_WRITE_RATE)
 * for stall_us ends the connection. conn_close lets the owner go at once, also from inside its own events.
 * Loop thread only.
 */
#ifndef MDN_NET_CONN_H
#define MDN_NET_CONN_H

#include "base/error.h"
#include "base/str.h"
#include "net/loop.h"
#include "net/tls.h"

struct conn;
struct uv_stream_s;

struct conn_events {
	void (*on_open)(void *arg); /* connected, TLS done, identity known */
	void (*on_data)(void *arg, struct str data);
	/* May be NULL. Where the owner wants the next bytes to be, asked right before they are read: on_data then tells
	 * of them there. NULL, or little room: anywhere. */
	char *(*on_room)(void *arg, size_t *ret_size);
	/* Nothing more will come: err NULL when the peer said goodbye, else why. Once. Only conn_close is left to do,
	 * but after a goodbye what is written still goes out. */
	void (*on_end)(void *arg, const struct error *err);
	void (*on_writable)(void *arg);
	void (*on_deadline)(void *arg);
};

struct conn_options {
	struct tls_context *tls; /* NULL: plain */
	int64_t stall_us;        /* of writes */
	const struct conn_events *events;
	void *arg;
	/* conn_dial only */
	struct str host; /* name or address, IPv6 without brackets */
	uint16_t port;
	struct str peer_identity;   /* when set, checked in place of the host name */
	int64_t connect_timeout_us; /* for names, every address and TLS together */
	bool background;            /* conn_background once connected */
};

/* Takes the connection a listener announced; NULL when it is gone again. */
struct conn *conn_accept(struct loop *loop, struct uv_stream_s *listener, const struct conn_options *options);
struct conn *conn_dial(struct loop *loop, const struct conn_options *options);
/* Two ends that talk to each other in memory. */
void conn_pair(struct loop *loop, const struct conn_options *a, const struct conn_options *b, struct conn **ret_a,
               struct conn **ret_b);
void conn_close(struct conn *c);
void conn_close_reset(struct conn *c); /* the peer sees an error, not an end */

void conn_write(struct conn *c, const struct str *parts, size_t count);
void conn_flush(struct conn *c);
size_t conn_buffered(const struct conn *c);
void conn_rest(struct conn *c);         /* nothing will be written for a while: buffers that are empty are given back */
void conn_want_drained(struct conn *c); /* on_writable comes once nothing is buffered any more */
/* Half-close once all is written; reading goes on. on_writable comes when everything is out. */
void conn_finish(struct conn *c);
void conn_pause(struct conn *c);
void conn_resume(struct conn *c);
/* on_deadline at this time of loop_now_us; 0: never. */
void conn_deadline(struct conn *c, int64_t at_us);

/* Sends part of a file after what is written (plain TCP only); done(arg, err) once, not after conn_close.
 * The fd stays the caller's until done, or until conn_close, which takes it over. */
typedef void conn_file_done(void *arg, const struct error *err);
void conn_send_file(struct conn *c, int fd, uint64_t offset, uint64_t length, conn_file_done *done, void *arg);
bool conn_can_send_file(const struct conn *c);

/* From now on it yields to other traffic, and sends at most so fast (0: as fast as it may). Sockets only; as
 * far as the system lets. */
void conn_background(struct conn *c, uint64_t most_bytes_per_s);

/* Marks what it sends from now on with this code point (DSCP, RFC 2474); background connections have their own. */
void conn_mark(struct conn *c, uint8_t dscp);

bool conn_is_open(const struct conn *c);
const char *conn_identity(const struct conn *c);    /* verified SAN URI or "" */
const char *conn_address(const struct conn *c);     /* the peer's IP address, text */
const char *conn_server_name(const struct conn *c); /* accepted: the name asked for in TLS; NULL: none */
int64_t conn_rtt_us(const struct conn *c);          /* the least that the kernel saw; 0: unknown. A system call */
int64_t conn_fd_rtt_us(int fd);                     /* the same of a socket */

#endif
