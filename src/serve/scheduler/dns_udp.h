/* SPDX-License-Identifier: Apache-2.0 */
/* dns_udp.h - one thread that answers DNS on one UDP socket, and how it comes by a new scene.
 *
 * The publisher gives scenes; the thread takes the newest before each batch and lets go of the one before. A scene
 * counts who has it, and the publisher frees those that nobody has (dns_scene_idle). All functions: publisher's thread.
 */
#ifndef MDN_SERVE_DNS_UDP_H
#define MDN_SERVE_DNS_UDP_H

#include "serve/scheduler/dns_zone.h"

struct dns_shared {
	struct dns_scene scene;
	_Atomic unsigned holders;
	struct dns_shared *next; /* the publisher's list */
};

struct dns_udp;
/* Owns the socket and the zone from now on, also when it fails (no thread to be had). */
int dns_udp_new(int fd, bool wildcard, struct dns_zone *zone, struct dns_shared *first, struct dns_udp **ret_udp,
                struct error *err);
void dns_udp_free(struct dns_udp *u); /* waits for the thread */
void dns_udp_give(struct dns_udp *u, struct dns_shared *scene);
const struct dns_counts *dns_udp_counts(const struct dns_udp *u);

/* A sender's address as bytes; a mapped one as IPv4. */
struct sockaddr;
struct ip dns_ip_of(const struct sockaddr *address);

#endif
