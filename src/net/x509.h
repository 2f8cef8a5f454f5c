/* SPDX-License-Identifier: Apache-2.0 */
/* x509.h - EC P-256 keys, certificate requests, a small CA, identities in SAN URIs.
 *
 * All PEM texts are heap strings owned by the caller (free()). Pure computation, any thread.
 * Source: RFC 5280, SPIFFE X509-SVID. Identities look like "spiffe://DOMAIN/node/ID".
 */
#ifndef MDN_NET_X509_H
#define MDN_NET_X509_H

#include "base/error.h"
#include "base/str.h"

int x509_key_new(char **ret_key_pem, struct error *err);
int x509_request_new(struct str key_pem, struct str common_name, char **ret_csr_pem, struct error *err);
/* A self-signed root: CN "MDN DOMAIN CA", keyCertSign, path length 0. */
int x509_ca_new(struct str domain, int64_t not_before_wall_us, int64_t life_us, char **ret_cert_pem, char **ret_key_pem,
                struct error *err);

struct x509_issue {
	struct str ca_cert_pem, ca_key_pem;
	struct str csr_pem;  /* its signature is checked; only its public key is taken over */
	struct str identity; /* SAN URI */
	struct str dns_name; /* also SAN DNS; may be empty */
	struct str ip;       /* also SAN IP, text; may be empty */
	int64_t not_before_wall_us, not_after_wall_us;
};
int x509_issue(const struct x509_issue *issue, char **ret_cert_pem, struct error *err);

/* Hex SHA-256 of the SubjectPublicKeyInfo: of a certificate's, of a request's key. 65 bytes with NUL. */
int x509_cert_pin(struct str cert_pem, char ret_hex[static 65], struct error *err);
int x509_request_pin(struct str csr_pem, char ret_hex[static 65], struct error *err);
/* The SAN URI (exactly one) and the dates of the leaf. */
int x509_cert_info(struct str cert_pem, char *ret_identity, size_t identity_size, int64_t *ret_not_before_us,
                   int64_t *ret_not_after_us, struct error *err);

#endif
