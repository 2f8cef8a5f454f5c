/* SPDX-License-Identifier: Apache-2.0 */
/* dns_server.h - DNS over UDP and TCP on one loop, for one zone (dns_zone.h).
 *
 * UDP goes in batches (recvmmsg, sendmmsg). TCP (RFC 7766): pipelined, at most LIMIT_DNS_TCP_CONNS, of which the
 * longest idle makes room; a connection without a whole query for DNS_TCP_IDLE_US is closed. The sockets are opened
 * with SO_REUSEPORT, so that several loops can each have a server of the same address. Does not own the zone. Loop
 * thread.
 */
#ifndef MDN_SERVE_DNS_SERVER_H
#define MDN_SERVE_DNS_SERVER_H

#include "net/loop.h"
#include "serve/scheduler/dns_zone.h"

#define DNS_TCP_IDLE_US (10 * INT64_C(1000) * 1000)

struct dns_server;
/* address: "127.0.0.1:5353", "[::1]:0"; port 0 picks one, the same for both. */
int dns_server_new(struct loop *loop, struct str address, struct dns_zone *zone, struct dns_server **ret_server,
                   struct error *err);
void dns_server_free(struct dns_server *s);
struct str dns_server_address(const struct dns_server *s);
size_t dns_server_conns(const struct dns_server *s);

#endif
