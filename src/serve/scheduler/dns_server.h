/* SPDX-License-Identifier: Apache-2.0 */
/* dns_server.h - DNS over UDP and TCP for one zone (dns_zone.h), from pictures of a node map.
 *
 * UDP: `threads` threads of our own, each with a socket of the address (SO_REUSEPORT) and its own zone; they share
 * nothing but the newest scene, which never changes and is swapped whole. TCP (RFC 7766) is on the loop: pipelined, at
 * most LIMIT_DNS_TCP_CONNS, of which the longest idle makes room; a connection without a whole query for
 * DNS_TCP_IDLE_US is closed. The map is looked at every tenth of a second on the loop. Loop thread.
 */
#ifndef MDN_SERVE_DNS_SERVER_H
#define MDN_SERVE_DNS_SERVER_H

#include "net/loop.h"
#include "serve/scheduler/dns_zone.h"

#define DNS_TCP_IDLE_US (10 * INT64_C(1000) * 1000)
#define DNS_THREADS_MAX 64

struct dns_settings {
	int64_t ttl_us;
	uint32_t rate; /* see dns_scene; all threads together */
	bool why;
	/* 32 hex digits, or two such with a comma: the newest makes cookies, both are taken. Empty: made up, and anew
	 * every day. */
	struct str cookie_secret;
};

struct dns_server_options {
	struct str address; /* "127.0.0.1:5353", "[::1]:0"; port 0 picks one, the same for UDP and TCP */
	struct str zone;
	unsigned threads;           /* 1 to DNS_THREADS_MAX */
	const struct node_map *map; /* the caller's; outlives the server */
	int64_t young_us;           /* since now: see dns_scene */
	struct dns_settings settings;
};

struct dns_server;
int dns_server_new(struct loop *loop, const struct dns_server_options *options, struct dns_server **ret_server,
                   struct error *err);
void dns_server_free(struct dns_server *s);
int dns_settings_check(const struct dns_settings *settings, struct error *err);
int dns_server_set(struct dns_server *s, const struct dns_settings *settings, struct error *err); /* all or nothing */
struct str dns_server_address(const struct dns_server *s);
size_t dns_server_conns(const struct dns_server *s);
/* Sums over all threads. */
struct dns_totals {
	uint64_t udp, tcp, dropped, limited, slipped, cookies_good, cache_hits, cache_misses;
	uint64_t rcodes[24];
};
void dns_server_totals(const struct dns_server *s, struct dns_totals *ret_totals);

#endif
