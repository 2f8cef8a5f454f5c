/* SPDX-License-Identifier: Apache-2.0 */
/* conn_tls.c - TLS in the middle of a connection: OpenSSL on a BIO of our own.
 *
 * SSL takes what the socket read from where it lies (cipher_in), and SSL_read fills the owner's room, or the loop's
 * read buffer, with as many records as fit before the owner sees them. What SSL writes collects in cipher_out and goes
 * to the socket in one piece. (OpenSSL's memory BIOs would copy all once more, and write zeros over it each time.) The
 * identity is taken once, after the handshake, and compared before on_open.
 */
#include "net/conn_internal.h"
#include "net/tls_internal.h"

#include <openssl/err.h>
#include <pthread.h>

#define RECORD_MAX 16384
#define RECORD_EXTRA 64 /* header, tag and content type are less */

/* ---- the BIO ---- */

static BIO_METHOD *between;
static pthread_once_t between_once = PTHREAD_ONCE_INIT;

static int between_read(BIO *bio, char *to, size_t size, size_t *ret_got)
{
	struct conn *c = BIO_get_data(bio);
	size_t len = size < c->cipher_in.len ? size : c->cipher_in.len;
	BIO_clear_retry_flags(bio);
	if (!len) {
		BIO_set_retry_read(bio);
		return 0;
	}
	memcpy(to, c->cipher_in.base, len);
	c->cipher_in = (struct str){c->cipher_in.base + len, c->cipher_in.len - len};
	*ret_got = len;
	return 1;
}

static int between_write(BIO *bio, const char *data, size_t size, size_t *ret_written)
{
	struct conn *c = BIO_get_data(bio);
	buf_append(&c->cipher_out, data, size);
	*ret_written = size;
	return 1;
}

static long between_ctrl(BIO *bio, int command, long number, void *arg)
{
	(void)bio, (void)number, (void)arg;
	return command == BIO_CTRL_FLUSH;
}

static void between_setup(void)
{
	between = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "connection");
	BIO_meth_set_read_ex(between, between_read);
	BIO_meth_set_write_ex(between, between_write);
	BIO_meth_set_ctrl(between, between_ctrl);
}

/* ---- a connection's ---- */

void conn_tls_begin(struct conn *c, SSL *ssl)
{
	c->ssl = ssl;
	pthread_once(&between_once, between_setup);
	BIO *bio = BIO_new(between);
	BIO_set_data(bio, c);
	BIO_set_init(bio, 1);
	SSL_set_bio(ssl, bio, bio);
}

void conn_tls_free(struct conn *c)
{
	SSL_free(c->ssl); /* and its BIO */
	c->ssl = NULL;
	buf_fini(&c->cipher_rest);
	buf_fini(&c->cipher_out);
}

void conn_tls_push(struct conn *c)
{
	if (!c->socket || c->socket->writing || c->error)
		return;
	if (c->cipher_out.len)
		conn_push_buf(c, &c->cipher_out);
}

void conn_tls_encrypt(struct conn *c, struct str plain)
{
	size_t done = 0;
	ERR_clear_error();
	if (plain.len)
		buf_reserve(&c->cipher_out, plain.len + (plain.len / RECORD_MAX + 1) * RECORD_EXTRA);
	if (plain.len && SSL_write_ex(c->ssl, plain.base, plain.len, &done) != 1) {
		char why[256];
		tls_session_error(c->ssl, why, sizeof(why));
		conn_fail(c, E_PEER, "the TLS connection broke: %s", why);
	}
}

static void tls_fail(struct conn *c, const char *what)
{
	char why[256];
	tls_session_error(c->ssl, why, sizeof(why));
	conn_tls_push(c); /* the alert */
	conn_fail(c, E_PEER, "%s: %s", what, why);
}

/* False: not there yet, or failed. */
static bool tls_handshake(struct conn *c)
{
	ERR_clear_error();
	int rc = SSL_do_handshake(c->ssl);
	if (rc != 1) {
		int why = SSL_get_error(c->ssl, rc);
		if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE)
			conn_tls_push(c);
		else
			tls_fail(c, "the TLS handshake failed");
		return false;
	}
	conn_tls_push(c);
	char identity[TLS_IDENTITY_SIZE];
	tls_session_identity(c->ssl, identity);
	c->identity = identity[0] ? str_dup(str_from(identity)) : NULL;
	if (c->expect_identity && strcmp(c->expect_identity, identity) != 0) {
		conn_fail(c, E_PEER, "the peer is %s, not %s", c->identity ? c->identity : "nobody we can verify",
		          c->expect_identity);
		return false;
	}
	c->open = true;
	if (c->dial)
		conn_dial_done(c);
	c->events->on_open(c->arg);
	if (c->events)
		conn_flush(c);
	return c->events && !c->error;
}

/* One buffer full at most; false: nothing more to read now. */
static bool tls_read(struct conn *c)
{
	size_t size, filled = 0;
	char *buffer = conn_room(c, &size);
	int rc = 1;
	ERR_clear_error();
	while (rc == 1 && filled + RECORD_MAX <= size) {
		size_t got = 0;
		rc = SSL_read_ex(c->ssl, buffer + filled, size - filled, &got);
		filled += rc == 1 ? got : 0;
	}
	/* Said now, told after the data before it; never while the data is with its owner. */
	int why = rc == 1 ? SSL_ERROR_NONE : SSL_get_error(c->ssl, rc);
	if (why == SSL_ERROR_ZERO_RETURN)
		c->peer_done = true;
	else if (why != SSL_ERROR_NONE && why != SSL_ERROR_WANT_READ)
		tls_fail(c, "the TLS connection broke");
	else
		conn_tls_push(c); /* key updates and the like */
	if (filled)
		c->events->on_data(c->arg, (struct str){buffer, filled});
	if (c->events && c->peer_done && !c->paused)
		conn_tell_end(c);
	return rc == 1;
}

void conn_tls_pump(void *conn)
{
	struct conn *c = conn;
	if (c->ended || c->error || (!c->open && !tls_handshake(c)))
		return;
	/* All of it: what stays behind would be overtaken by the end of the connection. */
	while (c->events && !c->paused && !c->ended && !c->error && tls_read(c))
		;
}

/* The loop's buffer is the next one's when we return. */
static void cipher_keep(struct conn *c)
{
	if (!c->cipher_in.len) {
		buf_fini(&c->cipher_rest);
	} else if (!c->cipher_rest.len) {
		buf_append_str(&c->cipher_rest, c->cipher_in);
		c->cipher_in = buf_str(&c->cipher_rest);
	}
}

void conn_tls_feed(struct conn *c, struct str data)
{
	if (c->cipher_in.len) {
		buf_consume(&c->cipher_rest, c->cipher_rest.len - c->cipher_in.len);
		buf_append_str(&c->cipher_rest, data);
		c->cipher_in = buf_str(&c->cipher_rest);
	} else {
		buf_clear(&c->cipher_rest);
		c->cipher_in = data;
	}
	conn_tls_pump(c);
	cipher_keep(c);
}

/* TCP ended. Without TLS's own goodbye before it, a body that ends with the connection may be cut short. */
void conn_tls_eof(struct conn *c)
{
	if (!c->peer_done)
		conn_fail(c, E_PEER,
		          c->open ? "the peer closed the connection without a TLS goodbye"
		                  : "the peer closed the connection during the TLS handshake");
}
