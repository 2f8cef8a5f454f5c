/* SPDX-License-Identifier: Apache-2.0 */
/* tls.c - an SSL_CTX that can be swapped, and the two ways to trust a peer.
 *
 * With CAs: OpenSSL's own verification, except that dates are compared with a tolerance. With a pin only: the
 * peer's chain must hold a CA certificate with that key, and the chain is then verified with that one as
 * its anchor, so a stranger cannot just enclose it. Sessions are never resumed where clients show
 * certificates: a resumed session would not look at them again.
 */
#include "net/tls.h"

#include "base/clock.h"
#include "net/tls_internal.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdlib.h>

struct policy { /* belongs to one SSL_CTX */
	int64_t skew_us;
	char skew_for[TLS_IDENTITY_SIZE];
	enum tls_peer peer;
	bool pinned, has_ca;
	uint8_t pin[32];
};

struct tls_context {
	pthread_mutex_t lock; /* loops take the SSL_CTX while a renewal may swap it; held for a pointer's copy */
	SSL_CTX *ctx;
};

static int policy_index = -1;
static pthread_once_t policy_once = PTHREAD_ONCE_INIT;

static void policy_free(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int index, long argl, void *argp)
{
	(void)parent, (void)ad, (void)index, (void)argl, (void)argp;
	free(ptr);
}

static void policy_setup(void)
{
	policy_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, policy_free);
}

static int fail(struct error *err, const char *what)
{
	unsigned long code = ERR_get_error();
	const char *why = code ? ERR_reason_error_string(code) : NULL;
	ERR_clear_error();
	return error_set(err, E_INVAL, "%s%s%s", what, why ? ": " : "", why ? why : "");
}

/* ---- verification ---- */

static const struct policy *policy_of(X509_STORE_CTX *store)
{
	SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
	return SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), policy_index);
}

/* The dates with their tolerance: each is compared with a clock moved in its favour. */
static bool dates_hold(X509 *cert, int64_t skew_us)
{
	int64_t now_us = clock_wall_us();
	time_t late = (time_t)((now_us + skew_us) / US_PER_S), early = (time_t)((now_us - skew_us) / US_PER_S);
	return X509_cmp_time(X509_get0_notBefore(cert), &late) < 0 &&
	       X509_cmp_time(X509_get0_notAfter(cert), &early) > 0;
}

/* Is there a tolerance for this one? For the CA above a certificate always. */
static bool dates_bend(const struct policy *p, X509_STORE_CTX *store, X509 *cert)
{
	char identity[TLS_IDENTITY_SIZE];
	if (!p->skew_for[0] || X509_STORE_CTX_get_error_depth(store) > 0)
		return true;
	return tls_cert_identity(cert, identity, sizeof(identity)) &&
	       str_starts(str_from(identity), str_from(p->skew_for));
}

static int verify_step(int ok, X509_STORE_CTX *store)
{
	int why = X509_STORE_CTX_get_error(store);
	X509 *cert = X509_STORE_CTX_get_current_cert(store);
	if (ok || (why != X509_V_ERR_CERT_NOT_YET_VALID && why != X509_V_ERR_CERT_HAS_EXPIRED) || !cert)
		return ok;
	const struct policy *p = policy_of(store);
	if (!dates_bend(p, store, cert) || !dates_hold(cert, p->skew_us))
		return 0;
	X509_STORE_CTX_set_error(store, X509_V_OK);
	return 1;
}

static bool cert_pinned(X509 *cert, const uint8_t pin[static 32])
{
	uint8_t *der = NULL, hash[32];
	int len = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(cert), &der);
	bool same = len > 0 && EVP_Digest(der, (size_t)len, hash, NULL, EVP_sha256(), NULL) == 1 &&
	            memcmp(hash, pin, sizeof(hash)) == 0;
	OPENSSL_free(der);
	return same;
}

static X509 *pinned_of(STACK_OF(X509) * chain, const uint8_t pin[static 32])
{
	for (int i = 0; i < sk_X509_num(chain); i++)
		if (cert_pinned(sk_X509_value(chain, i), pin))
			return sk_X509_value(chain, i);
	return NULL;
}

static int verify_chain(X509_STORE_CTX *store, void *arg)
{
	(void)arg;
	const struct policy *p = policy_of(store);
	if (!p->pinned)
		return p->has_ca ? X509_verify_cert(store) : 1;
	if (p->has_ca) {
		if (X509_verify_cert(store) != 1)
			return 0;
		if (pinned_of(X509_STORE_CTX_get0_chain(store), p->pin))
			return 1;
		X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_UNTRUSTED);
		return 0;
	}
	X509 *anchor = pinned_of(X509_STORE_CTX_get0_untrusted(store), p->pin);
	STACK_OF(X509) *anchors = sk_X509_new_null();
	int rc = 0;
	if (anchor && anchors && X509_check_ca(anchor) == 1 && sk_X509_push(anchors, anchor) > 0) {
		X509_STORE_CTX_set0_trusted_stack(store, anchors);
		rc = X509_verify_cert(store);
	} else {
		X509_STORE_CTX_set_error(store, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT);
	}
	sk_X509_free(anchors);
	return rc;
}

/* ---- contexts ---- */

/* A name that is taken stays with the session: one of TLS 1.2 that is resumed has it, too (conn_server_name). */
static int keep_server_name(SSL *ssl, int *alert, void *arg)
{
	(void)ssl;
	(void)alert;
	(void)arg;
	return SSL_TLSEXT_ERR_OK;
}

static int alpn_select(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *in,
                       unsigned in_len, void *arg)
{
	static const unsigned char ours[] = "\x08http/1.1";
	(void)ssl, (void)arg;
	unsigned char *chosen = NULL;
	if (SSL_select_next_proto(&chosen, out_len, ours, sizeof(ours) - 1, in, in_len) != OPENSSL_NPN_NEGOTIATED)
		return SSL_TLSEXT_ERR_ALERT_FATAL;
	*out = chosen;
	return SSL_TLSEXT_ERR_OK;
}

static BIO *pem_open(struct str pem)
{
	return BIO_new_mem_buf(pem.base, (int)pem.len);
}

static int load_chain(SSL_CTX *ctx, struct str pem, struct error *err)
{
	BIO *in = pem_open(pem);
	X509 *cert = PEM_read_bio_X509(in, NULL, NULL, NULL);
	bool fine = cert && SSL_CTX_use_certificate(ctx, cert) == 1;
	X509_free(cert);
	while (fine && (cert = PEM_read_bio_X509(in, NULL, NULL, NULL))) {
		fine = SSL_CTX_add1_chain_cert(ctx, cert) == 1;
		X509_free(cert);
	}
	BIO_free(in);
	if (!fine)
		return fail(err, "the certificate is no valid PEM text");
	ERR_clear_error(); /* the end of the PEM text */
	return 0;
}

static int load_key(SSL_CTX *ctx, struct str pem, struct error *err)
{
	BIO *in = pem_open(pem);
	EVP_PKEY *key = PEM_read_bio_PrivateKey(in, NULL, NULL, NO_PASSWORD);
	BIO_free(in);
	int rc = 0;
	if (!key)
		rc = fail(err, "the private key is no valid PEM text, or is encrypted: store it without a password");
	else if (SSL_CTX_use_PrivateKey(ctx, key) != 1 || SSL_CTX_check_private_key(ctx) != 1)
		rc = fail(err, "the private key is not that of the certificate, which must come first in its file");
	EVP_PKEY_free(key);
	return rc;
}

static int load_cas(SSL_CTX *ctx, struct str pem, struct error *err)
{
	BIO *in = pem_open(pem);
	X509 *cert;
	int count = 0;
	bool fine = true;
	while (fine && (cert = PEM_read_bio_X509(in, NULL, NULL, NULL))) {
		fine = X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx), cert) == 1 &&
		       SSL_CTX_add_client_CA(ctx, cert) == 1;
		X509_free(cert);
		count++;
	}
	BIO_free(in);
	if (!fine || count == 0)
		return fail(err, "the CA certificates are no valid PEM text");
	ERR_clear_error();
	return 0;
}

static int load_policy(SSL_CTX *ctx, const struct tls_options *options, struct error *err)
{
	struct policy *p = NEW(struct policy);
	SSL_CTX_set_ex_data(ctx, policy_index, p);
	p->skew_us = options->skew_us;
	p->peer = options->peer;
	p->has_ca = options->ca_pem.len > 0;
	p->pinned = options->ca_pin_hex.len > 0;
	if (!str_copy(options->skew_for, p->skew_for, sizeof(p->skew_for)))
		return error_set(err, E_INVAL, "an identity is shorter than %d bytes", TLS_IDENTITY_SIZE);
	if (p->pinned && hex_decode(options->ca_pin_hex, p->pin, sizeof(p->pin)) != 0)
		return error_set(err, E_INVAL, "a CA pin is 64 hex digits");
	return 0;
}

static void set_rules(SSL_CTX *ctx, const struct tls_options *options)
{
	SSL_CTX_set_min_proto_version(ctx, options->any_version ? TLS1_2_VERSION : TLS1_3_VERSION);
	SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE);
	SSL_CTX_set_mode(ctx, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	if (options->peer != TLS_PEER_NONE) {
		SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
		SSL_CTX_set_num_tickets(ctx, 0);
	}
	SSL_CTX_set_alpn_select_cb(ctx, alpn_select, NULL);
	SSL_CTX_set_alpn_protos(ctx, (const unsigned char *)"\x08http/1.1", 9);
	SSL_CTX_set_tlsext_servername_callback(ctx, keep_server_name);
	SSL_CTX_set_cert_verify_callback(ctx, verify_chain, NULL);
	SSL_CTX_set_verify_depth(ctx, 4);
}

/* What a server asks of clients; tls_session_new sets what a client asks of servers. */
static int server_verify_mode(enum tls_peer peer)
{
	if (peer == TLS_PEER_NONE)
		return SSL_VERIFY_NONE;
	return SSL_VERIFY_PEER | (peer == TLS_PEER_REQUIRED ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0);
}

static int ctx_new(const struct tls_options *options, SSL_CTX **ret_ctx, struct error *err)
{
	pthread_once(&policy_once, policy_setup);
	ERR_clear_error();
	SSL_CTX *ctx = SSL_CTX_new(TLS_method());
	if (!ctx)
		return fail(err, "OpenSSL makes no context");
	set_rules(ctx, options);
	SSL_CTX_set_verify(ctx, server_verify_mode(options->peer), verify_step);
	int rc = load_policy(ctx, options, err);
	if (rc == 0 && options->ca_pem.len)
		rc = load_cas(ctx, options->ca_pem, err);
	if (rc == 0 && options->cert_pem.len)
		rc = load_chain(ctx, options->cert_pem, err);
	if (rc == 0 && options->cert_pem.len)
		rc = load_key(ctx, options->key_pem, err);
	if (rc != 0) {
		SSL_CTX_free(ctx);
		return rc;
	}
	*ret_ctx = ctx;
	return 0;
}

int tls_context_new(const struct tls_options *options, struct tls_context **ret_tls, struct error *err)
{
	SSL_CTX *ctx;
	int rc = ctx_new(options, &ctx, err);
	if (rc != 0)
		return rc;
	struct tls_context *tls = NEW(struct tls_context);
	pthread_mutex_init(&tls->lock, NULL);
	tls->ctx = ctx;
	*ret_tls = tls;
	return 0;
}

void tls_context_free(struct tls_context *tls)
{
	if (!tls)
		return;
	SSL_CTX_free(tls->ctx);
	pthread_mutex_destroy(&tls->lock);
	free(tls);
}

int tls_context_replace(struct tls_context *tls, const struct tls_options *options, struct error *err)
{
	SSL_CTX *ctx;
	int rc = ctx_new(options, &ctx, err);
	if (rc != 0)
		return rc;
	pthread_mutex_lock(&tls->lock);
	SSL_CTX *old = tls->ctx;
	tls->ctx = ctx;
	pthread_mutex_unlock(&tls->lock);
	SSL_CTX_free(old); /* sessions made from it keep it alive */
	return 0;
}

/* ---- sessions ---- */

static void expect_host(SSL *ssl, const char *host)
{
	uint8_t address[16];
	X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
	if (inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1) {
		X509_VERIFY_PARAM_set1_ip_asc(param, host);
		return;
	}
	X509_VERIFY_PARAM_set1_host(param, host, 0);
	X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	SSL_set_tlsext_host_name(ssl, host);
}

SSL *tls_session_new(struct tls_context *tls, bool server, const char *host)
{
	pthread_mutex_lock(&tls->lock);
	SSL *ssl = SSL_new(tls->ctx);
	pthread_mutex_unlock(&tls->lock);
	if (!ssl)
		return NULL;
	if (server) {
		SSL_set_accept_state(ssl);
		return ssl;
	}
	const struct policy *p = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), policy_index);
	SSL_set_connect_state(ssl);
	if (p->peer == TLS_PEER_NONE)
		SSL_certs_clear(ssl);
	SSL_set_verify(ssl, p->has_ca || p->pinned ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, verify_step);
	if (host && (p->has_ca || p->pinned))
		expect_host(ssl, host);
	return ssl;
}

bool tls_cert_identity(X509 *cert, char *ret_identity, size_t size)
{
	int uris = 0;
	bool found = false;
	GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
	for (int i = 0; names && i < sk_GENERAL_NAME_num(names); i++) {
		const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
		if (name->type != GEN_URI || uris++ > 0)
			continue;
		const char *base = (const char *)ASN1_STRING_get0_data(name->d.uniformResourceIdentifier);
		struct str uri = {base, (size_t)ASN1_STRING_length(name->d.uniformResourceIdentifier)};
		found = uri.len > 0 && !memchr(uri.base, '\0', uri.len) && str_copy(uri, ret_identity, size);
	}
	GENERAL_NAMES_free(names);
	return found && uris == 1;
}

void tls_session_identity(SSL *ssl, char ret_identity[static TLS_IDENTITY_SIZE])
{
	X509 *cert = SSL_get0_peer_certificate(ssl);
	ret_identity[0] = '\0';
	bool verified = SSL_get_verify_mode(ssl) != SSL_VERIFY_NONE && SSL_get_verify_result(ssl) == X509_V_OK;
	const struct policy *p = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), policy_index);
	if (cert && verified && (p->has_ca || p->pinned))
		tls_cert_identity(cert, ret_identity, TLS_IDENTITY_SIZE);
}

void tls_session_error(SSL *ssl, char *ret_text, size_t size)
{
	unsigned long code = ERR_peek_last_error();
	long verify = SSL_get_verify_result(ssl);
	const char *why = code ? ERR_reason_error_string(code) : NULL;
	if (code && ERR_GET_REASON(code) == SSL_R_CERTIFICATE_VERIFY_FAILED && verify != X509_V_OK)
		why = X509_verify_cert_error_string(verify);
	str_copy(str_from(why ? why : "the connection ended"), ret_text, size);
	ERR_clear_error();
}
