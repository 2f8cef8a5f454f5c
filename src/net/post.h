/* SPDX-License-Identifier: Apache-2.0 */
/* post.h - one POST of JSON at a time that waits for its answer; for threads that may wait. libcurl, HTTP/1.1.
 *
 * For servers that an operator configured (etcd), so no list of allowed hosts: net/outside.h is for others. Keeps its
 * connections. One thread at a time.
 */
#ifndef MDN_NET_POST_H
#define MDN_NET_POST_H

#include "base/error.h"
#include "base/str.h"

struct post_options {
	struct str ca_file;             /* PEM; empty: the system's */
	struct str cert_file, key_file; /* PEM; empty: no client certificate */
	size_t answer_max;
};

struct poster;
int poster_new(const struct post_options *options, struct poster **ret_poster, struct error *err);
void poster_free(struct poster *p); /* NULL is fine */
/* The answer's body is put into *out, whatever its status. E_UNAVAILABLE: nobody there; E_TIMEOUT; E_PEER: it was cut
 * off or is no HTTP; E_LIMIT: longer than answer_max. */
int poster_post(struct poster *p, const char *url, struct str body, int64_t within_us, struct buf *out, int *ret_status,
                struct error *err);

#endif
