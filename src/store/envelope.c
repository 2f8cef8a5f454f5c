/* SPDX-License-Identifier: Apache-2.0 */
/* How: JSON is read strictly and bounded, base64 by OpenSSL after a look at every character. What a public key's hint
 * is: the hex SHA-256 of its PEM text as every library prints it (64 columns). A hint only tells two keys apart in
 * words; the signature decides.
 */
#include "store/envelope.h"

#include "base/digest.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/pattern.h"

#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>
#include <stdlib.h>

#define PAYLOAD_TYPE "application/vnd.in-toto+json"
#define CERT_MAX 65536

/* What OpenSSL says last; its queue is emptied. */
static int openssl_fail(struct error *err, int code, const char *doing)
{
	unsigned long why = ERR_peek_last_error();
	const char *reason = why ? ERR_reason_error_string(why) : NULL;
	ERR_clear_error();
	return error_set(err, code, "%s: %s", doing, reason ? reason : "OpenSSL gives no reason");
}

/* ---- base64 ------------------------------------------------------------------------------------- */

static bool base64_well_formed(struct str text)
{
	static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	size_t len = text.len;
	if (len % 4)
		return false;
	for (int pad = 0; pad < 2 && len && text.base[len - 1] == '='; pad++)
		len--;
	for (size_t i = 0; i < len; i++)
		if (!text.base[i] || !strchr(letters, text.base[i]))
			return false;
	return true;
}

static int base64_decode(struct str text, const char *what, struct buf *out, struct error *err)
{
	if (!base64_well_formed(text) || text.len > INT32_MAX)
		return error_set(err, E_INVAL, "%s of the signature is not base64", what);
	char *to = buf_reserve(out, text.len / 4 * 3 + 1);
	int len = text.len ? EVP_DecodeBlock((unsigned char *)to, (const unsigned char *)text.base, (int)text.len) : 0;
	if (len < 0)
		return error_set(err, E_INVAL, "%s of the signature is not base64", what);
	for (size_t i = text.len; i > 0 && text.base[i - 1] == '='; i--)
		len--;
	out->len += (size_t)len;
	return 0;
}

static void base64_append(struct buf *out, const void *data, size_t len)
{
	char *to = buf_reserve(out, (len + 2) / 3 * 4 + 1);
	out->len += (size_t)EVP_EncodeBlock((unsigned char *)to, data, (int)len);
}

/* ---- reading a bundle --------------------------------------------------------------------------- */

void envelope_fini(struct envelope *e)
{
	if (!e)
		return;
	buf_fini(&e->payload);
	for (size_t i = 0; i < e->cert_count; i++)
		buf_fini(&e->certs[i]);
	*e = (struct envelope){0};
}

static int need_str(yyjson_val *obj, const char *key, struct str *ret, struct error *err)
{
	*ret = (struct str){0};
	int rc = json_str(obj, key, ret, err);
	return rc || ret->base ? rc : error_set(err, E_INVAL, "the signature bundle has no \"%s\"", key);
}

static int need_obj(yyjson_val *obj, const char *key, yyjson_val **ret, struct error *err)
{
	*ret = NULL;
	int rc = json_obj(obj, key, ret, err);
	return rc || *ret ? rc : error_set(err, E_INVAL, "the signature bundle has no \"%s\"", key);
}

static int take_cert(yyjson_val *cert, struct envelope *e, struct error *err)
{
	struct str text;
	if (!yyjson_is_obj(cert))
		return error_set(err, E_INVAL, "a certificate of the signature is not an object");
	if (e->cert_count == ENVELOPE_CERTS_MAX)
		return error_set(err, E_LIMIT, "the signature carries more than %d certificates", ENVELOPE_CERTS_MAX);
	int rc = need_str(cert, "rawBytes", &text, err);
	if (!rc && text.len > CERT_MAX)
		rc = error_set(err, E_LIMIT, "a certificate of the signature is larger than %d bytes", CERT_MAX);
	return rc ? rc : base64_decode(text, "a certificate", &e->certs[e->cert_count++], err);
}

static int take_material(yyjson_val *material, struct envelope *e, struct error *err)
{
	yyjson_val *key = NULL, *chain = NULL, *cert = NULL, *list = NULL, *item;
	size_t i, max;
	struct str hint = {0};
	int rc = json_obj(material, "publicKey", &key, err);
	if (!rc)
		rc = json_obj(material, "x509CertificateChain", &chain, err);
	if (!rc)
		rc = json_obj(material, "certificate", &cert, err);
	if (!rc && !!key + !!chain + !!cert != 1)
		rc = error_set(err, E_INVAL, "the signature must name one of a public key, a certificate, and a chain");
	if (!rc && key && !(rc = json_str(key, "hint", &hint, err)) && !str_copy(hint, e->hint, sizeof e->hint))
		rc = error_set(err, E_INVAL, "the signature's key hint is longer than 64 letters");
	if (!rc && cert)
		rc = take_cert(cert, e, err);
	if (!rc && chain && !(rc = json_arr(chain, "certificates", &list, err)) && !yyjson_arr_size(list))
		rc = error_set(err, E_INVAL, "the signature's certificate chain is empty");
	yyjson_arr_foreach(list, i, max, item)
	{
		if (rc)
			break;
		rc = take_cert(item, e, err);
	}
	return rc;
}

static int take_signature(yyjson_val *dsse, struct envelope *e, struct error *err)
{
	yyjson_val *list = NULL;
	struct str text = {0};
	struct buf bytes = {0};
	int rc = json_arr(dsse, "signatures", &list, err);
	if (!rc && yyjson_arr_size(list) != 1)
		rc = error_set(err, E_INVAL, "the envelope must have exactly one signature");
	if (!rc && !yyjson_is_obj(yyjson_arr_get_first(list)))
		rc = error_set(err, E_INVAL, "the envelope's signature is not an object");
	if (!rc)
		rc = need_str(yyjson_arr_get_first(list), "sig", &text, err);
	if (!rc && text.len > sizeof e->signature)
		rc = error_set(err, E_INVAL, "the envelope's signature is longer than one by P-521");
	if (!rc)
		rc = base64_decode(text, "\"sig\"", &bytes, err);
	if (!rc) {
		memcpy(e->signature, bytes.base ? bytes.base : "", bytes.len);
		e->signature_len = bytes.len;
	}
	buf_fini(&bytes);
	return rc;
}

static int take_bundle(yyjson_val *root, struct envelope *e, struct error *err)
{
	yyjson_val *material, *dsse;
	struct str text;
	if (!yyjson_is_obj(root))
		return error_set(err, E_INVAL, "a signature bundle must be a JSON object");
	int rc = need_str(root, "mediaType", &text, err);
	if (!rc && !str_equal(text, STR(ENVELOPE_TYPE)))
		rc = error_set(err, E_UNSUPPORTED, "the signature is not a Sigstore bundle v0.3 (" ENVELOPE_TYPE ")");
	if (!rc)
		rc = need_obj(root, "verificationMaterial", &material, err);
	if (!rc)
		rc = take_material(material, e, err);
	if (!rc)
		rc = need_obj(root, "dsseEnvelope", &dsse, err);
	if (!rc)
		rc = need_str(dsse, "payloadType", &text, err);
	if (!rc && !str_equal(text, STR(PAYLOAD_TYPE)))
		rc = error_set(err, E_UNSUPPORTED, "the signature's payload is not " PAYLOAD_TYPE);
	if (!rc)
		rc = take_signature(dsse, e, err);
	if (!rc)
		rc = need_str(dsse, "payload", &text, err);
	return rc ? rc : base64_decode(text, "the payload", &e->payload, err);
}

int envelope_parse(struct str json, struct envelope *ret_envelope, struct error *err)
{
	struct envelope e = {0};
	yyjson_doc *doc;
	if (json.len > LIMIT_SIGNATURE)
		return error_set(err, E_LIMIT, "a signature is at most %d bytes", LIMIT_SIGNATURE);
	int rc = json_parse(json, &doc, err);
	if (rc)
		return error_prefix(err, "the signature bundle: ");
	rc = take_bundle(yyjson_doc_get_root(doc), &e, err);
	yyjson_doc_free(doc);
	if (rc) {
		envelope_fini(&e);
		return rc;
	}
	*ret_envelope = e;
	return 0;
}

/* ---- keys --------------------------------------------------------------------------------------- */

static BIO *bio_of(struct str pem)
{
	return BIO_new_mem_buf(pem.len ? pem.base : "", (int)pem.len);
}

/* A key file with a passphrase is refused, not asked for: there may be nobody at the terminal. */
static int no_passphrase(char *to, int size, int writes, void *arg)
{
	return -1;
}

static const EVP_MD *hash_for(const EVP_PKEY *key)
{
	char curve[32] = "";
	if (EVP_PKEY_get_base_id(key) != EVP_PKEY_EC || !EVP_PKEY_get_group_name(key, curve, sizeof curve, NULL))
		return NULL;
	if (!strcmp(curve, "prime256v1"))
		return EVP_sha256();
	if (!strcmp(curve, "secp384r1"))
		return EVP_sha384();
	return strcmp(curve, "secp521r1") ? NULL : EVP_sha512();
}

static int check_key(EVP_PKEY *key, const char *what, struct error *err)
{
	if (!key)
		return openssl_fail(err, E_INVAL, what);
	return hash_for(key) ? 0 : error_set(err, E_UNSUPPORTED, "%s: it must be EC on P-256, P-384 or P-521", what);
}

static EVP_PKEY *read_public(struct str pem, struct error *err)
{
	BIO *bio = bio_of(pem);
	EVP_PKEY *key = PEM_read_bio_PUBKEY(bio, NULL, no_passphrase, NULL);
	BIO_free(bio);
	if (!check_key(key,
	               "this is no public key in PEM, with BEGIN PUBLIC KEY (a private one signs, it does not verify)",
	               err))
		return key;
	EVP_PKEY_free(key);
	return NULL;
}

static EVP_PKEY *read_private(struct str pem, struct error *err)
{
	BIO *bio = bio_of(pem);
	EVP_PKEY *key = PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL);
	BIO_free(bio);
	if (!check_key(key,
	               "this is no private key in PEM, without a passphrase (a public one verifies, it does not sign)",
	               err))
		return key;
	EVP_PKEY_free(key);
	return NULL;
}

static void append_bio(BIO *bio, struct buf *out)
{
	char *data;
	long len = BIO_get_mem_data(bio, &data);
	buf_append(out, data, len > 0 ? (size_t)len : 0);
}

static void hint_of(EVP_PKEY *key, char ret_hint[static 65])
{
	BIO *bio = BIO_new(BIO_s_mem());
	struct buf pem = {0};
	PEM_write_bio_PUBKEY(bio, key);
	append_bio(bio, &pem);
	struct digest d = digest_of(pem.base, pem.len);
	hex_encode(d.bytes, DIGEST_SIZE, ret_hint);
	buf_fini(&pem);
	BIO_free(bio);
}

int signing_key_new(struct str curve, struct buf *ret_private, struct buf *ret_public, struct error *err)
{
	static const char *const curves[][2] = {{"p256", "P-256"}, {"p384", "P-384"}, {"p521", "P-521"}};
	const char *group = NULL;
	for (size_t i = 0; i < 3; i++)
		if (str_equal(curve, str_from(curves[i][0])))
			group = curves[i][1];
	if (!group)
		return error_set(err, E_INVAL, "`" STR_FMT "` is not a curve: p256, p384 or p521", STR_ARG(curve));
	EVP_PKEY *key = EVP_EC_gen(group);
	if (!key)
		return openssl_fail(err, E_INTERNAL, "cannot make a key");
	BIO *secret = BIO_new(BIO_s_secmem()), *open = BIO_new(BIO_s_mem());
	bool good = PEM_write_bio_PKCS8PrivateKey(secret, key, NULL, NULL, 0, NULL, NULL) == 1 &&
	            PEM_write_bio_PUBKEY(open, key) == 1;
	if (good) {
		append_bio(secret, ret_private);
		append_bio(open, ret_public);
	}
	BIO_free(secret);
	BIO_free(open);
	EVP_PKEY_free(key);
	return good ? 0 : openssl_fail(err, E_INTERNAL, "cannot write the key");
}

/* ---- certificates ------------------------------------------------------------------------------- */

static STACK_OF(X509) * read_certs(struct str pem, struct error *err)
{
	STACK_OF(X509) *list = sk_X509_new_null();
	BIO *bio = bio_of(pem);
	X509 *cert;
	while ((cert = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL)) != NULL)
		sk_X509_push(list, cert);
	BIO_free(bio);
	/* the end of the text is told as a missing start line */
	bool ended = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
	if (sk_X509_num(list) > 0 && ended) {
		ERR_clear_error();
		return list;
	}
	openssl_fail(err, E_INVAL, "cannot read the certificates (PEM)");
	sk_X509_pop_free(list, X509_free);
	return NULL;
}

static X509 *read_der(const struct buf *der, struct error *err)
{
	const unsigned char *at = (const unsigned char *)der->base;
	X509 *cert = der->len ? d2i_X509(NULL, &at, (long)der->len) : NULL;
	if (!cert)
		openssl_fail(err, E_INVAL, "a certificate of the signature cannot be read");
	return cert;
}

static bool may_sign(X509 *cert)
{
	uint32_t flags = X509_get_extension_flags(cert);
	if ((flags & EXFLAG_KUSAGE) && (X509_get_key_usage(cert) & KU_DIGITAL_SIGNATURE))
		return true;
	return (flags & EXFLAG_XKUSAGE) && (X509_get_extended_key_usage(cert) & XKU_CODE_SIGN);
}

/* The first of the certificate's names that fits: alternative names, then the subject. */
static bool name_fits(X509 *cert, struct str pattern, char ret_who[static ENVELOPE_NAME_SIZE])
{
	bool fits = false;
	char subject[ENVELOPE_NAME_SIZE] = "";
	GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
	for (int i = 0; !fits && i < sk_GENERAL_NAME_num(names); i++) {
		const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
		if (name->type != GEN_EMAIL && name->type != GEN_DNS && name->type != GEN_URI)
			continue;
		struct str text = {(const char *)ASN1_STRING_get0_data(name->d.ia5),
		                   (size_t)ASN1_STRING_length(name->d.ia5)};
		fits = text.len && !memchr(text.base, 0, text.len) && (!pattern.len || pattern_match(pattern, text)) &&
		       str_copy(text, ret_who, ENVELOPE_NAME_SIZE);
	}
	GENERAL_NAMES_free(names);
	if (fits)
		return true;
	BIO *bio = BIO_new(BIO_s_mem());
	struct buf line = {0};
	X509_NAME_print_ex(bio, X509_get_subject_name(cert), 0, XN_FLAG_RFC2253);
	append_bio(bio, &line);
	str_copy(buf_str(&line), subject, sizeof subject);
	buf_fini(&line);
	BIO_free(bio);
	fits = subject[0] && (!pattern.len || pattern_match(pattern, str_from(subject)));
	if (fits)
		str_copy(str_from(subject), ret_who, ENVELOPE_NAME_SIZE);
	return fits;
}

static int check_chain(X509 *leaf, STACK_OF(X509) * others, STACK_OF(X509) * roots, struct error *err)
{
	X509_STORE *store = X509_STORE_new();
	X509_STORE_CTX *ctx = X509_STORE_CTX_new();
	struct tm from;
	int rc = 0;
	for (int i = 0; i < sk_X509_num(roots); i++)
		X509_STORE_add_cert(store, sk_X509_value(roots, i));
	if (!ASN1_TIME_to_tm(X509_get0_notBefore(leaf), &from))
		rc = error_set(err, E_INVAL, "the signing certificate has no date it is valid from");
	if (!rc && !X509_STORE_CTX_init(ctx, store, leaf, others))
		rc = openssl_fail(err, E_INTERNAL, "cannot check certificates");
	if (!rc) {
		X509_STORE_CTX_set_time(ctx, 0, timegm(&from));
		if (X509_verify_cert(ctx) != 1)
			rc = error_set(err, E_FORBIDDEN, "the signer's certificate does not lead to a trusted root: %s",
			               X509_verify_cert_error_string(X509_STORE_CTX_get_error(ctx)));
	}
	ERR_clear_error();
	X509_STORE_CTX_free(ctx);
	X509_STORE_free(store);
	return rc;
}

/* The key of the signing certificate, when certificates and name are good. */
static int trusted_cert_key(const struct envelope *e, const struct envelope_trust *trust, EVP_PKEY **ret_key,
                            char ret_who[static ENVELOPE_NAME_SIZE], struct error *err)
{
	STACK_OF(X509) *others = sk_X509_new_null(), *roots = read_certs(trust->roots_pem, err);
	X509 *leaf = roots ? read_der(&e->certs[0], err) : NULL;
	int rc = leaf ? 0 : E_INVAL;
	for (size_t i = 1; !rc && i < e->cert_count; i++) {
		X509 *other = read_der(&e->certs[i], err);
		rc = other ? 0 : E_INVAL;
		if (other)
			sk_X509_push(others, other);
	}
	if (!rc)
		rc = check_chain(leaf, others, roots, err);
	if (!rc && !may_sign(leaf))
		rc = error_set(err, E_FORBIDDEN,
		               "the signer's certificate is not for signing (key usage digitalSignature)");
	if (!rc && !name_fits(leaf, trust->subject, ret_who))
		rc = error_set(err, E_FORBIDDEN, "the signer's certificate has no name that fits `" STR_FMT "`",
		               STR_ARG(trust->subject));
	if (!rc) {
		*ret_key = X509_get_pubkey(leaf);
		rc = check_key(*ret_key, "the key of the signer's certificate", err);
		if (rc)
			EVP_PKEY_free(*ret_key);
	}
	X509_free(leaf);
	sk_X509_pop_free(others, X509_free);
	sk_X509_pop_free(roots, X509_free);
	return rc;
}

/* ---- signing and verifying ---------------------------------------------------------------------- */

/* DSSE's pre-authentication encoding: what is really signed. */
static void append_pae(struct buf *out, struct str payload)
{
	buf_printf(out, "DSSEv1 %zu " PAYLOAD_TYPE " %zu ", sizeof PAYLOAD_TYPE - 1, payload.len);
	buf_append_str(out, payload);
}

static bool signature_good(const struct envelope *e, EVP_PKEY *key)
{
	struct buf pae = {0};
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	append_pae(&pae, buf_str(&e->payload));
	bool good =
	    EVP_DigestVerifyInit(ctx, NULL, hash_for(key), NULL, key) == 1 &&
	    EVP_DigestVerify(ctx, e->signature, e->signature_len, (const unsigned char *)pae.base, pae.len) == 1;
	ERR_clear_error();
	EVP_MD_CTX_free(ctx);
	buf_fini(&pae);
	return good;
}

static int trusted_key(const struct envelope *e, const struct envelope_trust *trust, EVP_PKEY **ret_key,
                       char ret_who[static ENVELOPE_NAME_SIZE], struct error *err)
{
	char hint[65];
	if (e->cert_count)
		return error_set(err, E_FORBIDDEN, "it is signed with a certificate, not with that key");
	*ret_key = read_public(trust->key_pem, err);
	if (!*ret_key)
		return E_INVAL;
	hint_of(*ret_key, hint);
	if (e->hint[0] && strcmp(e->hint, hint)) {
		EVP_PKEY_free(*ret_key);
		return error_set(err, E_FORBIDDEN, "it is signed with another key (%.16s..., not %.16s...)", e->hint,
		                 hint);
	}
	str_copy(str_from(hint), ret_who, ENVELOPE_NAME_SIZE);
	return 0;
}

int envelope_verify(const struct envelope *e, const struct envelope_trust *trust, char ret_who[ENVELOPE_NAME_SIZE],
                    struct error *err)
{
	EVP_PKEY *key;
	char who[ENVELOPE_NAME_SIZE] = "";
	if (!trust->key_pem.len && !e->cert_count)
		return error_set(err, E_FORBIDDEN, "it is signed with a key, not with a certificate");
	int rc =
	    trust->key_pem.len ? trusted_key(e, trust, &key, who, err) : trusted_cert_key(e, trust, &key, who, err);
	if (rc)
		return rc;
	if (!signature_good(e, key))
		rc = error_set(err, E_FORBIDDEN,
		               "the signature does not fit what it signs: it was changed, or is somebody else's");
	EVP_PKEY_free(key);
	if (!rc && ret_who)
		memcpy(ret_who, who, sizeof who);
	return rc;
}

int envelope_trust_check(const struct envelope_trust *trust, struct error *err)
{
	if (trust->key_pem.len) {
		EVP_PKEY *key = read_public(trust->key_pem, err);
		EVP_PKEY_free(key);
		return key ? 0 : E_INVAL;
	}
	STACK_OF(X509) *roots = read_certs(trust->roots_pem, err);
	sk_X509_pop_free(roots, X509_free);
	return roots ? 0 : E_INVAL;
}

static int sign_bytes(EVP_PKEY *key, struct str payload, uint8_t *ret_sig, size_t *len, struct error *err)
{
	struct buf pae = {0};
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	append_pae(&pae, payload);
	bool good = EVP_DigestSignInit(ctx, NULL, hash_for(key), NULL, key) == 1 &&
	            EVP_DigestSign(ctx, ret_sig, len, (const unsigned char *)pae.base, pae.len) == 1;
	EVP_MD_CTX_free(ctx);
	buf_fini(&pae);
	return good ? 0 : openssl_fail(err, E_INTERNAL, "cannot sign");
}

static int append_material(EVP_PKEY *key, struct str chain_pem, struct buf *out, struct error *err)
{
	char hint[65];
	if (!chain_pem.len) {
		hint_of(key, hint);
		buf_printf(out, "{\"publicKey\":{\"hint\":\"%s\"},\"tlogEntries\":[]}", hint);
		return 0;
	}
	STACK_OF(X509) *chain = read_certs(chain_pem, err);
	if (!chain)
		return E_INVAL;
	int rc = 0;
	if (sk_X509_num(chain) > ENVELOPE_CERTS_MAX)
		rc = error_set(err, E_LIMIT, "a signature carries at most %d certificates", ENVELOPE_CERTS_MAX);
	else if (EVP_PKEY_eq(X509_get0_pubkey(sk_X509_value(chain, 0)), key) != 1)
		rc = error_set(err, E_INVAL, "the first certificate is not the private key's");
	else if (!may_sign(sk_X509_value(chain, 0)))
		rc = error_set(err, E_INVAL,
		               "the certificate is not for signing: it needs the key usage digitalSignature");
	buf_append_str(out, STR("{\"x509CertificateChain\":{\"certificates\":["));
	for (int i = 0; !rc && i < sk_X509_num(chain); i++) {
		unsigned char *der = NULL;
		int len = i2d_X509(sk_X509_value(chain, i), &der);
		buf_append_str(out, i ? STR(",{\"rawBytes\":\"") : STR("{\"rawBytes\":\""));
		base64_append(out, der, len > 0 ? (size_t)len : 0);
		buf_append_str(out, STR("\"}"));
		OPENSSL_free(der);
	}
	buf_append_str(out, STR("]},\"tlogEntries\":[]}"));
	ERR_clear_error();
	sk_X509_pop_free(chain, X509_free);
	return rc;
}

int envelope_sign(struct str payload, struct str key_pem, struct str chain_pem, struct buf *out, struct error *err)
{
	uint8_t sig[256];
	size_t len = sizeof sig;
	EVP_PKEY *key = read_private(key_pem, err);
	if (!key)
		return E_INVAL;
	int rc = sign_bytes(key, payload, sig, &len, err);
	buf_append_str(out, STR("{\"mediaType\":\"" ENVELOPE_TYPE "\",\"verificationMaterial\":"));
	if (!rc)
		rc = append_material(key, chain_pem, out, err);
	buf_append_str(out, STR(",\"dsseEnvelope\":{\"payload\":\""));
	base64_append(out, payload.base, payload.len);
	buf_append_str(out, STR("\",\"payloadType\":\"" PAYLOAD_TYPE "\",\"signatures\":[{\"sig\":\""));
	base64_append(out, sig, rc ? 0 : len);
	buf_append_str(out, STR("\",\"keyid\":\"\"}]}}"));
	EVP_PKEY_free(key);
	return rc;
}
