/* SPDX-License-Identifier: Apache-2.0 */
/* http_server_internal.h - what http_server.c, http_exchange.c, http_respond.c and http_file.c share.
 *
 * A session is one connection; it has at most one exchange, and bytes of the next requests wait in
 * `rest`, bounded. An exchange outlives its session when its owner did not ask to be told (http_watch) and has
 * not answered yet. Both are freed on a turn of their own, so any callback may end either.
 */
#ifndef MDN_NET_HTTP_SERVER_INTERNAL_H
#define MDN_NET_HTTP_SERVER_INTERNAL_H

#include "net/conn.h"
#include "net/http_message.h"
#include "net/loop_internal.h"

#define HTTP_REST_MAX 65536    /* read ahead of the exchange that runs */
#define HTTP_DRAIN_MAX 65536   /* of an unread body, to keep the connection */
#define HTTP_LINGER_US 2000000 /* to let the client read our last words */

struct session {
	struct http_server *server;
	struct session *prev, *next;
	struct conn *conn; /* NULL: closed, to be freed */
	struct http_exchange *x;
	struct buf rest;
	size_t counted; /* of rest.cap, in server->ahead */
	size_t unread;  /* in server->unread */
	size_t scanned; /* of rest, in search of the head's end */
	bool head_timed, lingering, eof, feeding, blank_skipped;
	struct loop_task feed_task, free_task;
};

struct http_server {
	struct loop *loop;
	struct http_server_options options;
	int64_t head_us, idle_us, stall_us;
	struct uv_tcp_s *listener;
	char address[64];
	struct session sessions; /* ring head */
	size_t session_count;
	struct http_exchange *exchanges; /* all not yet released */
	size_t exchange_count;
	size_t bodies; /* bytes of collected bodies, of all exchanges */
	size_t ahead;  /* bytes of `rest`, of all sessions */
	size_t unread; /* bytes of answers, of all sessions; what went out since each one's last write is still in it */
	struct loop_task relief_task;
	struct http_exchange *spare;
	unsigned spare_count;
	bool draining;
	struct buf scratch; /* response heads */
	int64_t date_s;
	char date[40];
};

enum http_reader { READER_NONE, READER_DATA, READER_COLLECT };

struct http_exchange {
	struct http_server *server; /* NULL: freed before us */
	struct session *session;    /* NULL: the client is gone */
	struct loop *loop;
	struct http_exchange *prev, *next;
	struct arena arena;
	struct http_message message;
	struct str path, query;
	struct str identity, address;
	bool is_head, expects_continue;
	/* request body */
	enum http_reader reader;
	bool body_paused, body_told, draining, stalled;
	uint64_t body_max, body_got, drained;
	int64_t body_from_us; /* when its first bytes came, if it is collected */
	http_on_data *on_data;
	http_on_done *on_done;
	http_on_body *on_body;
	void *body_arg;
	struct buf body;
	size_t body_counted;     /* of body.cap, in server->bodies */
	struct error body_error; /* code 0: none */
	/* response */
	bool begun, ended, aborted, chunked, bare, close;
	int64_t left; /* of a declared length; -1: none declared */
	struct buf extra;
	struct http_file *file;
	/* the owner's watch */
	loop_fn *on_writable, *on_gone;
	void *watch_arg;
	bool gone_told, released;
	struct loop_task settle_task;
	char first[]; /* of the arena */
};

#define HTTP_EXCHANGE_BYTES 8192 /* with the first piece of its arena */

/* http_server.c */
void session_close(struct session *s, bool reset);
void session_linger(struct session *s);
void session_count_unread(struct session *s); /* something was written to it */
void session_feed_soon(struct session *s);
void session_next(struct session *s); /* its exchange is released */
const char *server_date(struct http_server *server);
struct http_server *http_server_bare(struct loop *loop, const struct http_server_options *options);
/* A connection that came otherwise than through the listener. */
extern const struct conn_events session_events;
struct session *session_new(struct http_server *server);
void session_begin(struct session *s, struct conn *conn);
/* The client's end of a connection in memory, with these options. */
struct conn *server_connect(struct http_server *server, const struct conn_options *options);

/* http_exchange.c */
struct http_exchange *exchange_new(struct session *s);
void exchange_lost(struct http_exchange *x, const struct error *why); /* the client is gone */
void exchange_settle(void *x);
bool exchange_body_data(void *x, struct str data);
void exchange_body_end(struct http_exchange *x); /* tells what is there to tell, once */
void exchange_body_fail(struct http_exchange *x, int code, const char *text);
bool exchange_wants_body(const struct http_exchange *x);
void exchange_forget_spares(struct http_server *server);

/* http_respond.c */
void exchange_end(struct http_exchange *x);
void exchange_head(struct http_exchange *x, int status, const char *type, int64_t length,
                   const struct http_header *headers, size_t count);
/* A whole error response for a request that never became an exchange. */
void server_refusal(struct http_server *server, int status, const struct error *err, struct buf *out);

/* http_file.c */
void http_file_writable(struct http_exchange *x);
void http_file_detach(struct http_exchange *x);

#endif
