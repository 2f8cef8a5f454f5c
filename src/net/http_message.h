/* SPDX-License-Identifier: Apache-2.0 */
/* http_message.h - for net/ only: one HTTP/1.1 message off the wire, request or response.
 *
 * http_head_find says where a head ends; http_message_head parses it whole, so names and values are
 * runs of that text, which must outlive the message; http_message_body takes the rest in any cut.
 * llhttp parses, strictly; what it leaves to its user is refused here (RFC 9112 sections 2.2, 5.1, 6.1,
 * 6.3, 7.1; RFC 9110 section 7.2 in http_request_check). Pure. Errors: the words, and the status a server answers with.
 */
#ifndef MDN_NET_HTTP_MESSAGE_H
#define MDN_NET_HTTP_MESSAGE_H

#include "base/error.h"
#include "net/arena.h"
#include "net/http.h"

#include <llhttp.h>

struct http_message {
	llhttp_t parser;
	struct arena *arena;
	struct str method, target; /* of a request */
	int status;                /* of a response */
	struct http_header *headers;
	size_t count, room;
	struct str name, value; /* the header being read */
	int64_t content_length; /* -1: none or chunked */
	bool chunked, has_body, keep_alive, version_10;
	bool until_close;  /* a response that ends with its connection */
	bool head_of_head; /* a response to HEAD: no body whatever the headers say */
	bool head_done, complete, paused;
	uint64_t wire_bytes, body_bytes;
	int refuse_status; /* set with every error */
	const char *reason;
	bool (*on_body)(void *arg, struct str data); /* false: stop here, go on with the next http_message_body */
	void *arg;
};

/* 0: goes on; > 0: the head is the first n bytes; < 0: code, with *ret_status to answer. `scanned` starts 0
 * and is kept between calls on the same, growing text. */
int64_t http_head_find(struct str text, size_t *scanned, bool request, int *ret_status, struct error *err);
void http_message_init(struct http_message *m, bool request, struct arena *arena);
int http_message_head(struct http_message *m, struct str head, struct error *err);
/* How many bytes were taken; fewer than data.len when complete or paused. < 0: code. */
int64_t http_message_body(struct http_message *m, struct str data, struct error *err);
/* The connection ended: true when that is the message's proper end. */
bool http_message_eof(struct http_message *m);
bool http_message_header(const struct http_message *m, const char *name, struct str *ret_value);

/* Target and Host of a request; the decoded path goes to the arena. 0, or code with refuse_status set. */
int http_request_check(struct http_message *m, struct str *ret_path, struct str *ret_query, struct error *err);

/* ---- writing ---- */
bool http_name_valid(struct str name);
/* "name: value\r\n"; bytes that would end the line become spaces; an invalid name or one in charge of framing is
 * skipped. */
void http_header_append(struct buf *out, struct str name, struct str value);
bool http_framing_header(struct str name);
const char *http_status_text(int status);

#endif
