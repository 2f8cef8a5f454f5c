/* SPDX-License-Identifier: Apache-2.0 */
/* http.h - HTTP/1.1, both sides, streaming, with backpressure in the types.
 *
 * Server: a handler gets an exchange once its head is complete; it reads the body or not, then
 * responds at once or in pieces. Client: a call pools and re-uses connections per origin.
 * Producers write only after the consumer said go on: http_write tells whether to go on; when it
 * says no, wait for on_writable. Body readers pause by returning false from on_data and go on with
 * http_body_resume / http_call_resume. All on the loop's thread. Strings given out live until the
 * exchange or call ends; strings taken in are copied. Parsing is llhttp, strict (RFC 9112): what its
 * lenient flags would let through is refused with 400 and the connection is closed.
 */
#ifndef MDN_NET_HTTP_H
#define MDN_NET_HTTP_H

#include "base/error.h"
#include "base/str.h"
#include "net/loop.h"
#include "net/tls.h"

struct http_header {
	struct str name, value;
};

/* ---- server ---------------------------------------------------------------------------------- */

struct http_server;
struct http_exchange;

typedef void http_handler(void *arg, struct http_exchange *x);

struct http_server_options {
	struct str address;      /* "127.0.0.1:8080", "[::1]:0"; port 0 picks one */
	int inherited_fd;        /* >= 0: a listening socket from systemd, address is ignored; else -1 */
	struct tls_context *tls; /* NULL: plain; not owned */
	http_handler *handler;
	void *handler_arg;
	size_t conns_max;         /* 0: LIMIT_CONNS */
	size_t bodies_max;        /* bytes of collected bodies at once; 0: LIMIT_BODIES */
	size_t ahead_max;         /* bytes of unfinished heads and requests to come; 0: LIMIT_HTTP_AHEAD */
	size_t unread_max;        /* bytes that slow readers have not taken; 0: LIMIT_HTTP_UNREAD */
	const char *room;         /* for log lines */
	int64_t head_timeout_us;  /* 0: LIMIT_HTTP_HEAD_MS; until a request head is complete */
	int64_t idle_us;          /* 0: LIMIT_HTTP_IDLE_MS; between requests, and for a reader that takes nothing */
	int64_t stall_timeout_us; /* 0: LIMIT_HTTP_BODY_STALL_MS; between bytes of a request body */
};

int http_server_new(struct loop *loop, const struct http_server_options *options, struct http_server **ret_server,
                    struct error *err);
/* Without a port: only clients of this process that are made with `inside` reach it, in memory. address, inherited_fd
 * and tls are ignored. */
struct http_server *http_server_inside(struct loop *loop, const struct http_server_options *options);
/* Stops accepting: who comes from now on is reset by the kernel at once, and knows to go elsewhere. Connections that
 * live are answered once more, with "Connection: close". */
void http_server_refuse_new(struct http_server *server);
/* The same, and closes idle connections; running exchanges go on. */
void http_server_drain(struct http_server *server);
void http_server_free(struct http_server *server); /* cuts what is left */
/* "127.0.0.1:8080", the port really bound. */
struct str http_server_address(const struct http_server *server);
size_t http_server_exchanges(const struct http_server *server); /* running now */
/* Closes every live connection whose verified identity equals this one; how many. */
size_t http_server_cut(struct http_server *server, struct str identity);

/* Request side. */
struct str http_method(const struct http_exchange *x);
struct str http_target(const struct http_exchange *x); /* as sent */
struct str http_path(const struct http_exchange *x);   /* percent-decoded, "." and ".." refused before */
/* A query parameter, percent-decoded; false when absent. */
bool http_query(struct http_exchange *x, const char *name, struct str *ret_value);
bool http_header(const struct http_exchange *x, const char *name, struct str *ret_value); /* first one */
size_t http_headers(const struct http_exchange *x, const struct http_header **ret_headers);
/* Its connection yields to other traffic from now on and sends at most so fast; 0: as fast as it may (conn_background).
 */
void http_background(struct http_exchange *x, uint64_t most_bytes_per_s);
uint64_t http_connection(const struct http_exchange *x);      /* a number of its own; 0: the client is gone */
struct str http_peer_identity(const struct http_exchange *x); /* verified SAN URI; empty without TLS client cert */
struct str http_peer_address(const struct http_exchange *x);  /* "1.2.3.4" or "::1" */
int64_t http_peer_rtt_us(const struct http_exchange *x);      /* as conn_rtt_us (conn.h) */
bool http_has_body(const struct http_exchange *x);
int64_t http_content_length(const struct http_exchange *x); /* -1: chunked or none */
struct loop *http_loop(const struct http_exchange *x);
/* The exchange's own memory, zeroed, gone with it. */
void *http_alloc(struct http_exchange *x, size_t size);

/* on_done: err is NULL at the end of the body, else why it broke (client gone, too large, stalled). */
typedef bool http_on_data(void *arg, struct str data); /* false: pause until http_body_resume */
typedef void http_on_done(void *arg, const struct error *err);
void http_body_read(struct http_exchange *x, uint64_t max_bytes, http_on_data *on_data, http_on_done *on_done,
                    void *arg);
void http_body_resume(struct http_exchange *x);
/* Whole body in memory, up to max_bytes; the text lives as long as the exchange. 413 beyond: err->code E_LIMIT. */
typedef void http_on_body(void *arg, struct http_exchange *x, struct str body, const struct error *err);
void http_body_collect(struct http_exchange *x, size_t max_bytes, http_on_body *on_body, void *arg);

/* Response side. An unread body is drained (small) or the connection closed (large): who streams both ways calls
 * http_body_read before http_respond_begin. Once answered, no more body callbacks come; on_gone comes on a later turn.
 */
void http_respond(struct http_exchange *x, int status, const char *content_type, struct str body);
void http_respond_headers(struct http_exchange *x, int status, const struct http_header *headers, size_t count,
                          struct str body);
/* {"error":{"message","type","code"}} with the status of err->code: OpenAI's shape. */
void http_respond_error(struct http_exchange *x, const struct error *err);
/* A header to go out with whatever response comes; call before responding. */
void http_add_header(struct http_exchange *x, const char *name, struct str value);
/* In pieces. content_length -1: chunked. HEAD requests: headers only, writes are dropped. */
void http_respond_begin(struct http_exchange *x, int status, const char *content_type, int64_t content_length);
bool http_write(struct http_exchange *x, struct str data); /* false: full, wait for on_writable (data was taken) */
void http_end(struct http_exchange *x);
void http_abort(struct http_exchange *x); /* cut the connection: the only honest end of a broken stream */
/* Part of a file as the body (sendfile without TLS, reads in jobs with). Takes over fd, closes it when done. */
void http_respond_file(struct http_exchange *x, int status, const char *content_type, int fd, uint64_t offset,
                       uint64_t length);
/* The same from anywhere: `read` runs in jobs, one at a time, and fills all of `out`; when it fails (not 0) the
 * connection is cut, for the length was promised. `close` comes once, when no read will follow. */
struct http_source {
	int (*read)(void *arg, uint64_t offset, void *out, size_t len);
	void (*close)(void *arg);
	void *arg;
};
void http_respond_source(struct http_exchange *x, int status, const char *content_type,
                         const struct http_source *source, uint64_t offset, uint64_t length);
/* on_writable: buffered bytes fell below half of LIMIT_WRITE_BUFFER. on_gone: the client left or the
 * exchange ended; called exactly once, after which x must not be touched. Either may be NULL. */
void http_watch(struct http_exchange *x, loop_fn *on_writable, loop_fn *on_gone, void *arg);

/* ---- client ---------------------------------------------------------------------------------- */

struct http_client;
struct http_call;

struct http_client_options {
	struct tls_context *tls;    /* for https:// origins; not owned; NULL: only http:// */
	size_t conns_per_origin;    /* 0: 64 */
	int64_t connect_timeout_us; /* 0: 3 s */
	int64_t idle_us;            /* 0: 60 s */
	bool background;            /* its connections yield to other traffic (conn_background) */
	struct http_server *inside; /* every call goes there, whatever host it names; outlives the client */
};

struct http_call_options {
	struct str method; /* empty: GET */
	struct str url;    /* http://host:port/path?query or https://... */
	/* When set, the peer's SAN URI must equal it (node identity); host names are then not compared. */
	struct str peer_identity;
	const struct http_header *headers;
	size_t header_count;
	struct str body;          /* whole body; copied */
	bool body_lent;           /* not copied: the caller keeps `body` where it is until the call is over */
	bool body_streams;        /* body comes by http_call_write/http_call_end, chunked or body_length */
	int64_t body_length;      /* with body_streams: -1 chunked */
	int64_t head_timeout_us;  /* until response head; 0: 30 s */
	int64_t stall_timeout_us; /* between body bytes; 0: 60 s */
	bool (*on_head)(void *arg, struct http_call *call, int status); /* NULL is fine; false: abort the call */
	http_on_data *on_data;                                          /* NULL: body dropped */
	/* May be NULL. Where the body's next bytes should be, if it is convenient: on_data then tells of them there. */
	char *(*on_room)(void *arg, size_t *ret_size);
	/* Once, last: err NULL when the whole response arrived. The call is freed after it returns. */
	void (*on_done)(void *arg, struct http_call *call, const struct error *err);
	loop_fn *on_writable; /* with body_streams */
	void *arg;
};

struct http_client *http_client_new(struct loop *loop, const struct http_client_options *options);
void http_client_free(struct http_client *client); /* running calls end with E_CANCELED first */
/* Never calls back before it returns. A bad URL is told through on_done, too. */
struct http_call *http_call_start(struct http_client *client, const struct http_call_options *options);
bool http_call_write(struct http_call *call, struct str data); /* false: full, wait for on_writable */
void http_call_end(struct http_call *call);
void http_call_resume(struct http_call *call);
void http_call_cancel(struct http_call *call);      /* on_done will not be called; the call is gone */
int http_call_status(const struct http_call *call); /* 0 before the head */
bool http_call_header(const struct http_call *call, const char *name, struct str *ret_value);
size_t http_call_headers(const struct http_call *call, const struct http_header **ret_headers);
/* True when nothing of an answer can exist (refused, unreachable, closed before a byte came back): a caller whose
 * requests do no harm twice may repeat elsewhere. The client itself goes again only on a re-used connection, and for
 * methods that are not idempotent only when the peer provably read nothing. */
bool http_call_unsent(const struct http_call *call);
/* Closes pooled and live connections to peers of that identity. */
size_t http_client_cut(struct http_client *client, struct str identity);

/* A whole exchange for control traffic: JSON in, JSON out, bounded by max_bytes. on_done gets the body. */
typedef void http_fetch_done(void *arg, int status, struct str body, const struct error *err);
struct http_call *http_fetch(struct http_client *client, const struct http_call_options *options, size_t max_bytes,
                             http_fetch_done *on_done, void *arg);

#endif
