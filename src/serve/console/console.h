/* SPDX-License-Identifier: Apache-2.0 */
/* console.h - the web console of a center: the page, who may see it, and a way to what it shows.
 *
 * The page is built in. Everybody who reaches the listener gets it, but it shows nothing without a session: an operator
 * asks for a ticket over the node port (`mdn console`), the browser trades it, once, for a cookie. What is shown is
 * read through `read`; nothing can be changed. Loop thread. Wire: docs/wire.md, "Console".
 */
#ifndef MDN_SERVE_CONSOLE_H
#define MDN_SERVE_CONSOLE_H

#include "net/http.h"

struct console;

struct console_options {
	struct str secret_path;   /* what sessions are signed with; made when it is not there */
	const char *const *hosts; /* names it goes by, besides localhost and addresses; lent */
	size_t host_count;
	bool tls;
	/* Answers a GET of the network's state; false: it is none. The caller has a session. */
	bool (*read)(void *arg, struct http_exchange *x);
	void *arg;
};
int console_new(const struct console_options *options, struct console **ret_console, struct error *err);
void console_free(struct console *c); /* after the servers that call it; NULL is fine */
/* Where people open it; until then, and with NULL, `why_not` is what operators are told. Copied. */
void console_set_url(struct console *c, const char *url, const char *why_not);

void console_handle(struct console *c, struct http_exchange *x);          /* all of console_listen */
bool console_handle_operator(struct console *c, struct http_exchange *x); /* node port; the caller is an operator */

#endif
