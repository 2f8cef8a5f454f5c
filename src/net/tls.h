/* SPDX-License-Identifier: Apache-2.0 */
/* tls.h - TLS 1.3 settings shared by many connections, and who is at the other end.
 *
 * A `tls_context` holds a certificate, its key and the CAs it trusts, and can be swapped while
 * connections live (tls_context_replace): those keep what they began with, new ones use the new.
 * Identity is the one SAN URI of the peer's verified certificate (SPIFFE X509-SVID, section 2: more than one is none).
 * OpenSSL 3; loop thread only, but contexts may be shared by loops after creation.
 */
#ifndef MDN_NET_TLS_H
#define MDN_NET_TLS_H

#include "base/error.h"
#include "base/str.h"

#define TLS_IDENTITY_SIZE 256

struct tls_context;

enum tls_peer {
	TLS_PEER_NONE,     /* server: do not ask; client: verify the server, send no certificate */
	TLS_PEER_OPTIONAL, /* server: ask, and verify what comes */
	TLS_PEER_REQUIRED, /* server: refuse without one; client: send ours */
};

struct tls_options {
	struct str cert_pem; /* chain, leaf first; empty for an anonymous client */
	struct str key_pem;
	struct str ca_pem; /* trust anchors; empty: verify nothing but the pin below */
	/* Hex SHA-256 of a CA certificate's SubjectPublicKeyInfo that must be in the peer's chain (joining). The host
	 * name is compared, too: every node of the network has such a chain, only the center has its host name. */
	struct str ca_pin_hex;
	enum tls_peer peer;
	int64_t skew_us;     /* a certificate is accepted this long before and after its dates */
	struct str skew_for; /* only when its identity begins so; empty: every certificate */
	bool any_version;    /* public API port: TLS 1.2 too */
};

int tls_context_new(const struct tls_options *options, struct tls_context **ret_tls, struct error *err);
void tls_context_free(struct tls_context *tls);
/* Same object, new certificate: what `mdn` does at renewal. On error nothing changes. */
int tls_context_replace(struct tls_context *tls, const struct tls_options *options, struct error *err);

#endif
