/* SPDX-License-Identifier: Apache-2.0 */
/* envelope.h - a signed text: Sigstore bundle v0.3 around a DSSE envelope, by a key or by a certificate.
 *
 * Signing and verifying are OpenSSL: ECDSA over P-256, P-384 or P-521 with SHA-256, -384 or -512. Certificates count as
 * of the moment the signing one became valid, as the model-signing package does it: a signature does not end with its
 * certificate. No transparency log is asked. Sources: sigstore protobuf-specs (Bundle, JSON form), DSSE v1.0.0. Any
 * thread.
 */
#ifndef MDN_STORE_ENVELOPE_H
#define MDN_STORE_ENVELOPE_H

#include "base/error.h"
#include "base/str.h"

#include <stdbool.h>

#define ENVELOPE_TYPE "application/vnd.dev.sigstore.bundle.v0.3+json"
#define ENVELOPE_CERTS_MAX 16
#define ENVELOPE_NAME_SIZE 256

struct envelope {
	struct buf payload; /* owned; an in-toto statement, not yet looked at */
	uint8_t signature[256];
	size_t signature_len;
	char hint[65];                        /* hex SHA-256 of the public key's PEM; empty: the bundle does not say */
	struct buf certs[ENVELOPE_CERTS_MAX]; /* DER, the signing one first; none: signed by a key */
	size_t cert_count;
};

/* E_INVAL in words; nothing is verified. */
int envelope_parse(struct str json, struct envelope *ret_envelope, struct error *err);
void envelope_fini(struct envelope *e);

/* Whom to believe: the owner of one key, or whoever has a certificate below one of the roots. */
struct envelope_trust {
	struct str key_pem;   /* public key; empty: certificates */
	struct str roots_pem; /* one or more self-signed certificates */
	struct str subject;   /* `*` stands for any text; matched with subject, mail, DNS and URI names; empty: all */
};
/* E_FORBIDDEN: not signed by them. ret_who (may be NULL): the certificate's name, or the key's hint. */
int envelope_verify(const struct envelope *e, const struct envelope_trust *trust, char ret_who[ENVELOPE_NAME_SIZE],
                    struct error *err);
/* chain_pem: the certificate of this key first, then those that signed it; empty: by key. */
int envelope_sign(struct str payload, struct str key_pem, struct str chain_pem, struct buf *out, struct error *err);

/* curve: p256, p384 or p521. PEM texts are appended (PKCS#8, SubjectPublicKeyInfo). */
int signing_key_new(struct str curve, struct buf *ret_private, struct buf *ret_public, struct error *err);
/* Whether the PEM text holds a public key (or certificates) that envelope_verify can use. */
int envelope_trust_check(const struct envelope_trust *trust, struct error *err);

#endif
