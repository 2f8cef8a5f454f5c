/* SPDX-License-Identifier: Apache-2.0 */
/* http_client_internal.h - what http_client.c (pool) and http_call.c (one call) share.
 *
 * A link is one connection, owned by its origin; a call holds a link from assignment to its end. Calls wait in
 * their origin's queue when all its links are busy. Links and calls are freed on a turn of their own.
 */
#ifndef MDN_NET_HTTP_CLIENT_INTERNAL_H
#define MDN_NET_HTTP_CLIENT_INTERNAL_H

#include "net/conn.h"
#include "net/http_message.h"
#include "net/loop_internal.h"

struct origin;

struct link {
	struct origin *origin;
	struct link *prev, *next; /* in origin->links */
	struct link *idle_next;   /* in origin->idle, last used first */
	struct conn *conn;        /* NULL: closed, to be freed */
	struct http_call *call;   /* NULL: idle */
	bool used;                /* served a call before */
	bool idle;
	struct buf rest; /* the head so far, or what a pause left over */
	size_t scanned;
	struct loop_task feed_task, free_task;
};

struct origin {
	struct http_client *client;
	struct origin *next;
	char *host;
	char *identity;
	uint16_t port;
	bool tls;
	struct link *links, *idle;
	size_t link_count;
	struct http_call *waiting, **waiting_tail;
};

struct http_client {
	struct loop *loop;
	struct http_client_options options;
	struct origin *origins;
	struct http_call *calls;       /* all, running or waiting */
	struct loop_timer *wait_timer; /* while calls wait */
	bool wait_timed;
};

struct http_call {
	struct http_client *client;
	struct origin *origin;
	struct link *link;
	struct http_call *prev, *next; /* in client->calls */
	struct http_call *wait_next;
	bool waiting;
	struct http_call_options options; /* strings copied */
	struct arena arena;
	struct buf
	    request; /* head and whole body, ready to send (again); or what is streamed before the link is open */
	size_t head_len;
	bool streams_ended, want_writable, replayable, idempotent;
	unsigned tries, interim;
	int64_t deadline_us, last_us;
	struct http_message message;
	bool got_byte, headed, body_paused, sent;
	bool unsent;        /* as told by http_call_unsent, once it failed */
	bool over;          /* on_done told, or canceled */
	struct error early; /* found before the start: told on the next turn */
	struct fetch *fetch;
	struct loop_task start_task, free_task;
	char first[];
};

#define HTTP_CALL_BYTES 4096

/* http_client.c */
struct origin *origin_get(struct http_client *client, bool tls, struct str host, uint16_t port, struct str identity);
void origin_assign(struct http_call *call); /* a link now, or a place in the queue */
void origin_forget(struct http_call *call); /* out of the queue */
void link_return(struct link *l);           /* its call is over and it can serve another */
void link_close(struct link *l);
/* A link whose connection, with these events, is its maker's to give. */
struct link *link_add(struct origin *o);
extern const struct conn_events link_events;
void client_wait_tick(struct http_client *client);

/* http_call.c */
void call_begin(struct http_call *call, struct link *l);
void call_feed(struct http_call *call, struct str data, bool from_rest);
char *call_room(struct http_call *call, size_t *ret_size); /* for what is surely its body; NULL: none */
void call_lost(struct http_call *call, const struct error *why);
void call_deadline(struct http_call *call);
void call_writable(struct http_call *call);
void call_fail(struct http_call *call, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* http_fetch.c */
void http_fetch_free(struct fetch *fetch);

#endif
