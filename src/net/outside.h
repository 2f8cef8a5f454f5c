/* SPDX-License-Identifier: Apache-2.0 */
/* outside.h - HTTP to hosts that are not ours: hubs, registries, file servers. libcurl on a loop.
 *
 * Only hosts that the list allows are spoken to, on every hop of a redirect, and only at public addresses unless the
 * list says `private:`, so that nobody who can name a URL reaches into the network this runs in (SSRF). A key goes to
 * the host it is for and no further. Nothing of a client of ours is sent along. Loop thread. Owns its connections.
 * Errors: E_FORBIDDEN: not on the list; E_PEER, E_TIMEOUT: the other side; E_LIMIT: more bytes than asked for.
 */
#ifndef MDN_NET_OUTSIDE_H
#define MDN_NET_OUTSIDE_H

#include "base/error.h"
#include "net/http.h"

struct outside;
struct outside_call;

struct outside_options {
	/* Separated by commas: HOST, HOST:PORT, *.HOST (of any depth), each with `private:` before it where addresses
	 * of private networks are meant. A HOST without PORT stands for 443 with https:// and 80 with http://. An
	 * address that stands there itself is as good as private:. */
	struct str allowed;
	struct str proxy;         /* http://HOST:PORT; empty: none, the environment does not count */
	struct str ca_file;       /* PEM; empty: the system's */
	int64_t stall_timeout_us; /* less than a byte a second for so long; 0: 30 s */
};

struct outside_request {
	struct str method;                 /* empty: GET; HEAD; POST with body */
	struct str url;                    /* http:// or https:// */
	const struct http_header *headers; /* copied */
	size_t header_count;
	struct str authorization; /* goes to the first host only */
	struct str body;          /* copied; sent with POST */
	bool keep_redirect;       /* a 3xx is the answer, not to be followed */
	uint64_t bytes_max;       /* of the body; 0: no limit */
	/* The last head, after redirects. False: enough, end with E_CANCELED. NULL is fine. */
	bool (*on_head)(void *arg, struct outside_call *call, int status);
	http_on_data *on_data; /* false: taken; a buffer more may come, then none until outside_resume. NULL: dropped */
	/* Once, last; err NULL when the whole answer came, whatever its status. The call is freed after it. */
	void (*on_done)(void *arg, struct outside_call *call, const struct error *err);
	void *arg;
};

/* E_INVAL names the entry of `allowed` that is none. */
int outside_new(struct loop *loop, const struct outside_options *options, struct outside **ret_outside,
                struct error *err);
void outside_free(struct outside *o); /* running calls end with E_CANCELED first */

/* Never calls back before it returns. A URL that is bad or not allowed is told through on_done, too. */
struct outside_call *outside_start(struct outside *o, const struct outside_request *request);
void outside_cancel(struct outside_call *call); /* on_done will not be called; the call is gone */
void outside_resume(struct outside_call *call);
int outside_status(const struct outside_call *call);
/* Of the last head; lives until the call ends. */
bool outside_header(const struct outside_call *call, const char *name, struct str *ret_value);
/* The host (lower case, with the port when one is written) of a URL on the list, or E_FORBIDDEN with words. */
int outside_allows(const struct outside *o, struct str url, struct error *err);

/* True for loopback, private, link-local, shared, multicast and reserved addresses (RFC 6890). family as in sockaddr.
 */
bool outside_address_private(const void *sockaddr);

#endif
