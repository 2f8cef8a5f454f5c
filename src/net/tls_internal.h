/* SPDX-License-Identifier: Apache-2.0 */
/* tls_internal.h - for net/ only: a session from a context, and who is at its other end. */
#ifndef MDN_NET_TLS_INTERNAL_H
#define MDN_NET_TLS_INTERNAL_H

#include "net/tls.h"

#include <openssl/ssl.h>

/* For PEM_read_bio_PrivateKey: without it OpenSSL asks on the terminal, and the loop waits for somebody to type. */
#define NO_PASSWORD ((void *)(uintptr_t) "")

/* A new session with the context's present settings, client or server side, without BIOs. A client
 * compares the certificate with `host` (name or address) unless that is NULL; NULL when memory is out. */
SSL *tls_session_new(struct tls_context *tls, bool server, const char *host);
/* The SAN URI of the peer's certificate; "" when there is not exactly one or it was not verified. */
void tls_session_identity(SSL *ssl, char ret_identity[static TLS_IDENTITY_SIZE]);
bool tls_cert_identity(X509 *cert, char *ret_identity, size_t size);
/* Why the last call on the session failed, in words. */
void tls_session_error(SSL *ssl, char *ret_text, size_t size);

#endif
