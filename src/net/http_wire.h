/* SPDX-License-Identifier: Apache-2.0 */
/* http_wire.h - what lies under an exchange of a server: the name asked for in TLS, the mark on packets. Loop thread.
 */
#ifndef MDN_NET_HTTP_WIRE_H
#define MDN_NET_HTTP_WIRE_H

#include "net/http.h"

struct str http_server_name(const struct http_exchange *x); /* that the client asked for in TLS (SNI); empty: none */
/* What is sent on its connection from now on is marked so (DSCP, 0 to 63). */
void http_mark(struct http_exchange *x, uint8_t dscp);

#endif
