/* SPDX-License-Identifier: Apache-2.0 */
/* hub.h - asks a place that models come from, with the key or token that it wants.
 *
 * Over net/outside. A registry that answers 401 with a Bearer challenge is asked for a token at the place it names
 * (distribution-spec, "token authentication"), once for each scope, and then again. Keys are the operator's, by host;
 * nothing of a client of ours is passed on. Loop thread.
 */
#ifndef MDN_SERVE_REPOSITORY_HUB_H
#define MDN_SERVE_REPOSITORY_HUB_H

#include "net/outside.h"

struct hub;
struct hub_call;

/* keys: HOST=KEY, separated by commas. KEY is a Bearer key, or USER:PASSWORD. Takes over `outside`. */
int hub_new(struct outside *outside, struct str keys, struct hub **ret_hub, struct error *err);
void hub_free(struct hub *h); /* running calls end with E_CANCELED first */
int hub_allows(const struct hub *h, struct str url, struct error *err);

struct hub_request {
	struct str url;
	struct str scope; /* of the token, e.g. "repository:library/x:pull"; empty: what the challenge says */
	bool head;        /* HEAD */
	const struct http_header *headers;
	size_t header_count;
	uint64_t bytes_max;
	/* Not called for answers that lead to a token. False: end with E_CANCELED. */
	bool (*on_head)(void *arg, struct hub_call *call, int status);
	http_on_data *on_data;
	/* err NULL: a whole answer came, whatever its status. */
	void (*on_done)(void *arg, struct hub_call *call, const struct error *err);
	void *arg;
};
struct hub_call *hub_start(struct hub *h, const struct hub_request *request);
void hub_cancel(struct hub_call *call); /* on_done will not be called */
void hub_resume(struct hub_call *call);
int hub_status(const struct hub_call *call);
bool hub_header(const struct hub_call *call, const char *name, struct str *ret_value);

/* A whole answer in memory. status 0 with err. The body lives for the call. */
typedef void hub_got(void *arg, int status, struct str body, struct str digest_header, struct str link_header,
                     const struct error *err);
struct hub_get;
struct hub_get *hub_get(struct hub *h, struct str url, struct str scope, struct str accept, size_t bytes_max,
                        hub_got *got, void *arg);
void hub_get_cancel(struct hub_get *g);

/* Words and a code for a status that is no success: 404 E_NOTFOUND, 401 and 403 E_FORBIDDEN, 429 E_BUSY, else E_PEER.
 */
int hub_refused(struct str url, int status, struct error *err);

#endif
