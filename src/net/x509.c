/* SPDX-License-Identifier: Apache-2.0 */
/* x509.c - OpenSSL's X.509 calls, in the four shapes we need: key, request, CA, node certificate.
 *
 * A node certificate takes nothing but the public key from its request; name, identity and dates are the
 * issuer's. Serial numbers are 127 random bits (RFC 5280 section 4.1.2.2: positive, at most 20 bytes).
 */
#include "net/x509.h"

#include "base/clock.h"
#include "base/rng.h"
#include "net/tls_internal.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdlib.h>

static int fail(struct error *err, int code, const char *what)
{
	unsigned long number = ERR_get_error();
	const char *why = number ? ERR_reason_error_string(number) : NULL;
	ERR_clear_error();
	return error_set(err, code, "%s%s%s", what, why ? ": " : "", why ? why : "");
}

/* ---- PEM ---- */

static char *bio_text(BIO *bio)
{
	char *base = NULL;
	long len = BIO_get_mem_data(bio, &base);
	char *text = str_dup((struct str){base, len > 0 ? (size_t)len : 0});
	BIO_free(bio);
	return text;
}

static EVP_PKEY *key_read(struct str pem)
{
	BIO *in = BIO_new_mem_buf(pem.base, (int)pem.len);
	EVP_PKEY *key = PEM_read_bio_PrivateKey(in, NULL, NULL, NO_PASSWORD);
	BIO_free(in);
	return key;
}

static X509 *cert_read(struct str pem)
{
	BIO *in = BIO_new_mem_buf(pem.base, (int)pem.len);
	X509 *cert = PEM_read_bio_X509(in, NULL, NULL, NULL);
	BIO_free(in);
	return cert;
}

static X509_REQ *request_read(struct str pem)
{
	BIO *in = BIO_new_mem_buf(pem.base, (int)pem.len);
	X509_REQ *request = PEM_read_bio_X509_REQ(in, NULL, NULL, NULL);
	BIO_free(in);
	return request;
}

static char *key_text(EVP_PKEY *key)
{
	BIO *out = BIO_new(BIO_s_mem());
	PEM_write_bio_PrivateKey(out, key, NULL, NULL, 0, NULL, NULL);
	return bio_text(out);
}

static char *cert_text(X509 *cert)
{
	BIO *out = BIO_new(BIO_s_mem());
	PEM_write_bio_X509(out, cert);
	return bio_text(out);
}

/* ---- keys and requests ---- */

int x509_key_new(char **ret_key_pem, struct error *err)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	if (!key)
		return fail(err, E_INTERNAL, "no EC key could be made");
	*ret_key_pem = key_text(key);
	EVP_PKEY_free(key);
	return 0;
}

static bool name_set(X509_NAME *name, struct str common_name)
{
	return X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, (const unsigned char *)common_name.base,
	                                  (int)common_name.len, -1, 0) == 1;
}

int x509_request_new(struct str key_pem, struct str common_name, char **ret_csr_pem, struct error *err)
{
	EVP_PKEY *key = key_read(key_pem);
	X509_REQ *request = X509_REQ_new();
	/* CN holds at most 64 characters (ub-common-name); the issuer does not use it */
	struct str cn = {common_name.base, common_name.len < 64 ? common_name.len : 64};
	bool fine = key && request && name_set(X509_REQ_get_subject_name(request), cn) &&
	            X509_REQ_set_pubkey(request, key) == 1 && X509_REQ_sign(request, key, EVP_sha256()) > 0;
	int rc = fine ? 0 : fail(err, E_INVAL, "no certificate request could be made");
	if (fine) {
		BIO *out = BIO_new(BIO_s_mem());
		PEM_write_bio_X509_REQ(out, request);
		*ret_csr_pem = bio_text(out);
	}
	X509_REQ_free(request);
	EVP_PKEY_free(key);
	return rc;
}

/* ---- certificates ---- */

static bool serial_set(X509 *cert)
{
	uint8_t bytes[16];
	rng_secret(bytes, sizeof(bytes));
	bytes[0] = (uint8_t)((bytes[0] & 0x7f) | 0x40); /* positive, and never shortened */
	BIGNUM *number = BN_bin2bn(bytes, sizeof(bytes), NULL);
	bool fine = number && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(cert));
	BN_free(number);
	return fine;
}

static bool dates_set(X509 *cert, int64_t from_us, int64_t until_us)
{
	return ASN1_TIME_set(X509_getm_notBefore(cert), (time_t)(from_us / US_PER_S)) &&
	       ASN1_TIME_set(X509_getm_notAfter(cert), (time_t)(until_us / US_PER_S));
}

static bool extension_add(X509 *cert, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
	X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	bool fine = extension && X509_add_ext(cert, extension, -1) == 1;
	X509_EXTENSION_free(extension);
	return fine;
}

int x509_ca_new(struct str domain, int64_t not_before_wall_us, int64_t life_us, char **ret_cert_pem, char **ret_key_pem,
                struct error *err)
{
	struct buf cn = {0};
	buf_printf(&cn, "MDN " STR_FMT " CA", STR_ARG(domain));
	struct str name = {cn.base, cn.len < 64 ? cn.len : 64};
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *cert = X509_new();
	bool fine = key && cert && X509_set_version(cert, X509_VERSION_3) && serial_set(cert) &&
	            dates_set(cert, not_before_wall_us, not_before_wall_us + life_us) &&
	            name_set(X509_get_subject_name(cert), name) &&
	            X509_set_issuer_name(cert, X509_get_subject_name(cert)) && X509_set_pubkey(cert, key) &&
	            extension_add(cert, cert, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
	            extension_add(cert, cert, NID_key_usage, "critical,keyCertSign,cRLSign") &&
	            extension_add(cert, cert, NID_subject_key_identifier, "hash") &&
	            X509_sign(cert, key, EVP_sha256()) > 0;
	int rc = fine ? 0 : fail(err, E_INVAL, "no CA certificate could be made");
	if (fine) {
		*ret_cert_pem = cert_text(cert);
		*ret_key_pem = key_text(key);
	}
	X509_free(cert);
	EVP_PKEY_free(key);
	buf_fini(&cn);
	return rc;
}

static bool name_push(GENERAL_NAMES *names, int type, struct str text)
{
	ASN1_IA5STRING *value = ASN1_IA5STRING_new();
	GENERAL_NAME *name = GENERAL_NAME_new();
	if (!value || !name || !ASN1_STRING_set(value, text.base, (int)text.len)) {
		ASN1_IA5STRING_free(value);
		GENERAL_NAME_free(name);
		return false;
	}
	GENERAL_NAME_set0_value(name, type, value);
	return sk_GENERAL_NAME_push(names, name) > 0;
}

static bool address_push(GENERAL_NAMES *names, struct str text)
{
	char address[64];
	ASN1_OCTET_STRING *value = str_copy(text, address, sizeof(address)) ? a2i_IPADDRESS(address) : NULL;
	GENERAL_NAME *name = value ? GENERAL_NAME_new() : NULL;
	if (!name) {
		ASN1_OCTET_STRING_free(value);
		return false;
	}
	GENERAL_NAME_set0_value(name, GEN_IPADD, value);
	return sk_GENERAL_NAME_push(names, name) > 0;
}

/* Built by hand: the text form would let a comma in a name add names. */
static bool names_set(X509 *cert, const struct x509_issue *issue)
{
	GENERAL_NAMES *names = GENERAL_NAMES_new();
	bool fine = names && name_push(names, GEN_URI, issue->identity) &&
	            (!issue->dns_name.len || name_push(names, GEN_DNS, issue->dns_name)) &&
	            (!issue->ip.len || address_push(names, issue->ip)) &&
	            X509_add1_ext_i2d(cert, NID_subject_alt_name, names, 0, X509V3_ADD_DEFAULT) == 1;
	GENERAL_NAMES_free(names);
	return fine;
}

static bool text_plain(struct str s)
{
	for (size_t i = 0; i < s.len; i++)
		if (s.base[i] <= ' ' || s.base[i] > '~')
			return false;
	return true;
}

static int issue_check(const struct x509_issue *issue, struct error *err)
{
	if (!str_starts(issue->identity, STR("spiffe://")) || issue->identity.len >= TLS_IDENTITY_SIZE ||
	    !text_plain(issue->identity) || !text_plain(issue->dns_name))
		return error_set(err, E_INVAL, "\"" STR_FMT "\" is no identity like spiffe://DOMAIN/node/ID",
		                 STR_ARG(issue->identity));
	if (issue->not_after_wall_us <= issue->not_before_wall_us)
		return error_set(err, E_INVAL, "a certificate must end after it begins");
	return 0;
}

static bool issue_fill(X509 *cert, X509 *ca, EVP_PKEY *ca_key, EVP_PKEY *subject_key, const struct x509_issue *issue)
{
	size_t last = issue->identity.len; /* the subject is the identity's last part, for people */
	while (last > 0 && issue->identity.base[last - 1] != '/')
		last--;
	struct str cn = {issue->identity.base + last, issue->identity.len - last};
	cn.len = cn.len < 64 ? cn.len : 64;
	return X509_set_version(cert, X509_VERSION_3) && serial_set(cert) &&
	       dates_set(cert, issue->not_before_wall_us, issue->not_after_wall_us) && cn.len > 0 &&
	       name_set(X509_get_subject_name(cert), cn) && X509_set_issuer_name(cert, X509_get_subject_name(ca)) &&
	       X509_set_pubkey(cert, subject_key) &&
	       extension_add(cert, ca, NID_basic_constraints, "critical,CA:FALSE") &&
	       extension_add(cert, ca, NID_key_usage, "critical,digitalSignature") &&
	       extension_add(cert, ca, NID_ext_key_usage, "serverAuth,clientAuth") &&
	       extension_add(cert, ca, NID_subject_key_identifier, "hash") &&
	       extension_add(cert, ca, NID_authority_key_identifier, "keyid:always") && names_set(cert, issue) &&
	       X509_sign(cert, ca_key, EVP_sha256()) > 0;
}

int x509_issue(const struct x509_issue *issue, char **ret_cert_pem, struct error *err)
{
	int rc = issue_check(issue, err);
	if (rc != 0)
		return rc;
	ERR_clear_error();
	X509 *ca = cert_read(issue->ca_cert_pem), *cert = X509_new();
	EVP_PKEY *ca_key = key_read(issue->ca_key_pem);
	X509_REQ *request = request_read(issue->csr_pem);
	EVP_PKEY *subject_key = request ? X509_REQ_get0_pubkey(request) : NULL;
	if (!ca || !ca_key || X509_check_private_key(ca, ca_key) != 1)
		rc = fail(err, E_INTERNAL, "the CA's certificate or key cannot be used");
	else if (!subject_key || X509_REQ_verify(request, subject_key) != 1)
		rc = fail(err, E_INVAL, "the certificate request is not valid or not signed by its own key");
	else if (EVP_PKEY_get_security_bits(subject_key) < 112)
		rc = error_set(err, E_INVAL, "the key of the certificate request is too weak");
	else if (!issue_fill(cert, ca, ca_key, subject_key, issue))
		rc = fail(err, E_INVAL, "no certificate could be issued");
	else
		*ret_cert_pem = cert_text(cert);
	X509_REQ_free(request);
	EVP_PKEY_free(ca_key);
	X509_free(cert);
	X509_free(ca);
	return rc;
}

/* ---- asking ---- */

static int pin_of(X509_PUBKEY *key, char ret_hex[static 65], struct error *err)
{
	uint8_t *der = NULL, hash[32];
	int len = key ? i2d_X509_PUBKEY(key, &der) : -1;
	if (len <= 0 || EVP_Digest(der, (size_t)len, hash, NULL, EVP_sha256(), NULL) != 1)
		return fail(err, E_INVAL, "there is no public key to pin");
	OPENSSL_free(der);
	hex_encode(hash, sizeof(hash), ret_hex);
	return 0;
}

int x509_cert_pin(struct str cert_pem, char ret_hex[static 65], struct error *err)
{
	X509 *cert = cert_read(cert_pem);
	int rc = cert ? pin_of(X509_get_X509_PUBKEY(cert), ret_hex, err) : fail(err, E_INVAL, "this is no certificate");
	X509_free(cert);
	return rc;
}

int x509_request_pin(struct str csr_pem, char ret_hex[static 65], struct error *err)
{
	X509_REQ *request = request_read(csr_pem);
	int rc = request ? pin_of(X509_REQ_get_X509_PUBKEY(request), ret_hex, err)
	                 : fail(err, E_INVAL, "this is no certificate request");
	X509_REQ_free(request);
	return rc;
}

static bool time_us(const ASN1_TIME *time, int64_t *ret_us)
{
	struct tm tm;
	if (ASN1_TIME_to_tm(time, &tm) != 1)
		return false;
	*ret_us = (int64_t)timegm(&tm) * US_PER_S;
	return true;
}

int x509_cert_info(struct str cert_pem, char *ret_identity, size_t identity_size, int64_t *ret_not_before_us,
                   int64_t *ret_not_after_us, struct error *err)
{
	X509 *cert = cert_read(cert_pem);
	int64_t from, until;
	if (!cert)
		return fail(err, E_INVAL, "this is no certificate");
	bool dated = time_us(X509_get0_notBefore(cert), &from) && time_us(X509_get0_notAfter(cert), &until);
	bool named = tls_cert_identity(cert, ret_identity, identity_size);
	X509_free(cert);
	if (!dated)
		return error_set(err, E_INVAL, "the certificate's dates cannot be read");
	if (!named)
		return error_set(err, E_INVAL, "the certificate holds no identity (SAN URI)");
	*ret_not_before_us = from;
	*ret_not_after_us = until;
	return 0;
}
