/* SPDX-License-Identifier: Apache-2.0 */
/* multipart.h - reading multipart/form-data (RFC 7578, RFC 2046 section 5.1) as it comes, from strangers.
 *
 * The owner's memory. Parts are told in order: on_part once their head is there, on_data in pieces, on_end. Each may
 * return an error, which ends the reading. Names live for the call. Pure; any thread.
 */
#ifndef MDN_GATEWAY_MULTIPART_H
#define MDN_GATEWAY_MULTIPART_H

#include "base/error.h"
#include "base/str.h"

struct multipart_events {
	/* filename.base NULL: the part is a plain field */
	int (*on_part)(void *arg, struct str name, struct str filename, struct error *err);
	int (*on_data)(void *arg, struct str data, struct error *err);
	int (*on_end)(void *arg, struct error *err);
};

enum multipart_state { MULTIPART_BEFORE, MULTIPART_HEAD, MULTIPART_DATA, MULTIPART_AFTER };
struct multipart {
	const struct multipart_events *events;
	void *arg;
	enum multipart_state state;
	unsigned parts;
	char delimiter[80]; /* CR LF -- and the boundary */
	size_t delimiter_len;
	struct buf rest;
};

/* content_type as in the header. E_INVAL: it is none, or has no boundary of 1 to 70 characters. */
int multipart_init(struct multipart *m, struct str content_type, const struct multipart_events *events, void *arg,
                   struct error *err);
void multipart_fini(struct multipart *m);
int multipart_feed(struct multipart *m, struct str data, struct error *err);
int multipart_finish(struct multipart *m, struct error *err); /* E_INVAL: the last boundary is missing */

#endif
