/* SPDX-License-Identifier: Apache-2.0 */
/* conn_internal.h - what conn.c, conn_tls.c, conn_dial.c and conn_file.c share. */
#ifndef MDN_NET_CONN_INTERNAL_H
#define MDN_NET_CONN_INTERNAL_H

#include "net/conn.h"
#include "net/loop_internal.h"

#include <netinet/in.h>
#include <openssl/ssl.h>
#include <uv.h>

/* The libuv side outlives the conn until libuv has closed it, with the bytes of a write under way. */
struct conn_socket {
	uv_tcp_t tcp;
	uv_write_t write;
	uv_shutdown_t shutdown;
	uv_connect_t connect;
	struct buf sending;
	bool writing;
	bool shut;
	struct conn *conn; /* NULL: let go */
};

struct conn {
	struct loop *loop;
	const struct conn_events *events; /* NULL after conn_close */
	void *arg;
	struct conn_socket *socket; /* NULL: memory, dialing or dead */
	struct conn *peer;          /* the other end in memory */
	struct buf inbox;           /* in memory: what the peer sent */
	bool memory;
	struct buf out; /* corked; with TLS: not yet encrypted */
	SSL *ssl;
	struct str cipher_in;   /* came, and SSL has not taken it yet: in the loop's buffer or in cipher_rest */
	struct buf cipher_rest; /* what a pause left over */
	struct buf cipher_out;
	bool open; /* on_open was told, or accepted without TLS */
	bool paused, ended, peer_done, finishing, want_writable, want_drained;
	struct error *error; /* NULL: the end is a goodbye */
	struct loop_task flush_task, end_task, pump_task, free_task;
	struct loop_timer *timer;
	int64_t timer_due_us, deadline_us;
	int64_t stall_us, stall_at_us; /* 0: no write under way */
	size_t stall_mark;
	struct conn_dial *dial;
	struct conn_file *file; /* asked for; running once all before it is written */
	bool file_running;
	bool wants_background, is_background;
	uint8_t dscp;
	uint64_t pacing;                  /* bytes per second; 0: none */
	char *expect_identity, *identity; /* NULL: none; most have none, and many are kept */
	char address[INET6_ADDRSTRLEN];
};

struct conn *conn_new(struct loop *loop, const struct conn_options *options);
struct conn_socket *conn_socket_new(struct loop *loop, struct conn *c);
void conn_socket_close(struct conn_socket *s, bool reset);
void conn_fail(struct conn *c, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
void conn_read_start(struct conn *c);
void conn_stall_mark(struct conn *c); /* a write waits for the peer from now on */
void conn_arm(struct conn *c);
void conn_push(struct conn *c, const struct str *parts, size_t count); /* bytes for the wire, now */
void conn_push_buf(struct conn *c, struct buf *b);                     /* the same; empties it */
void conn_tell_end(struct conn *c);
char *conn_room(struct conn *c, size_t *ret_size); /* where what is read goes */

/* conn_tls.c */
void conn_tls_begin(struct conn *c, SSL *ssl);
void conn_tls_feed(struct conn *c, struct str data);
void conn_tls_pump(void *conn);
void conn_tls_encrypt(struct conn *c, struct str plain);
void conn_tls_push(struct conn *c);
void conn_tls_eof(struct conn *c);
void conn_tls_free(struct conn *c);

void conn_dial_cancel(struct conn *c);
void conn_dial_done(struct conn *c); /* the connection is open */
void conn_file_detach(struct conn *c);
void conn_file_go(struct conn *c); /* called when all before the file is written */

#endif
