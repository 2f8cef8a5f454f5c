/* SPDX-License-Identifier: Apache-2.0 */
/* How: OpenSSL's EVP, which uses the CPU's SHA instructions. The algorithm is fetched once: with OpenSSL 3 a fetch
 * for every hash costs more than hashing a small text. OpenSSL fails here only without memory, so that aborts.
 */
#include "base/digest.h"

#include "base/error.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <stdlib.h>

struct digest_stream {
	EVP_MD_CTX *ctx;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static EVP_MD *sha256, *sha512;

static void fetch(void)
{
	sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
	sha512 = EVP_MD_fetch(NULL, "SHA512", NULL);
}

static void must(bool good)
{
	if (!good)
		abort();
}

static const EVP_MD *get_sha256(void)
{
	must(pthread_once(&once, fetch) == 0 && sha256 != NULL);
	return sha256;
}

static const EVP_MD *get_sha512(void)
{
	must(pthread_once(&once, fetch) == 0 && sha512 != NULL);
	return sha512;
}

struct digest digest_of(const void *data, size_t len)
{
	struct digest d;

	must(EVP_Digest(len > 0 ? data : "", len, d.bytes, NULL, get_sha256(), NULL) == 1);
	return d;
}

bool digest_equal(const struct digest *a, const struct digest *b)
{
	return memcmp(a, b, sizeof(*a)) == 0;
}

void digest_format(const struct digest *d, char ret_text[static DIGEST_TEXT_SIZE])
{
	memcpy(ret_text, "sha256:", 7);
	hex_encode(d->bytes, DIGEST_SIZE, ret_text + 7);
}

static bool is_one_of(struct str s, const char *also, bool upper)
{
	for (size_t i = 0; i < s.len; i++) {
		char c = s.base[i];
		bool good = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (upper && c >= 'A' && c <= 'Z') ||
		            (c != '\0' && strchr(also, c) != NULL);
		if (!good)
			return false;
	}
	return s.len > 0;
}

/* Lower case only, so that one content has one name. */
static int parse_hex(struct str encoded, uint8_t *ret_bytes, size_t size)
{
	uint8_t bytes[64];

	if (!is_one_of(encoded, "", false) || hex_decode(encoded, bytes, size) != 0)
		return E_INVAL;
	memcpy(ret_bytes, bytes, size);
	return 0;
}

/* Cuts "algorithm:encoded"; E_INVAL when it is not of that form. */
static int cut_digest(struct str text, struct str *ret_algorithm, struct str *ret_encoded)
{
	*ret_algorithm = str_cut(text, ':', ret_encoded);
	return is_one_of(*ret_algorithm, "+._-", false) && is_one_of(*ret_encoded, "=_-", true) ? 0 : E_INVAL;
}

int digest_parse(struct str text, struct digest *ret_digest)
{
	struct str algorithm, encoded;

	if (cut_digest(text, &algorithm, &encoded) != 0)
		return E_INVAL;
	if (!str_equal(algorithm, STR("sha256")))
		return E_UNSUPPORTED;
	return parse_hex(encoded, ret_digest->bytes, DIGEST_SIZE);
}

/* ---- either name --------------------------------------------------------------------------------- */

struct digest_name digest_name_of(const struct digest *d)
{
	struct digest_name n = {0};

	memcpy(n.bytes, d->bytes, DIGEST_SIZE);
	return n;
}

struct digest_name digest_name_sha512(const void *data, size_t len)
{
	struct digest_name n = {.sha512 = true};

	must(EVP_Digest(len > 0 ? data : "", len, n.bytes, NULL, get_sha512(), NULL) == 1);
	return n;
}

bool digest_name_equal(const struct digest_name *a, const struct digest_name *b)
{
	return a->sha512 == b->sha512 && str_equal(digest_name_bytes(a), digest_name_bytes(b));
}

void digest_name_format(const struct digest_name *n, char ret_text[static DIGEST_NAME_SIZE])
{
	memcpy(ret_text, n->sha512 ? "sha512:" : "sha256:", 7);
	hex_encode(n->bytes, n->sha512 ? 64 : DIGEST_SIZE, ret_text + 7);
}

int digest_name_parse(struct str text, struct digest_name *ret_name)
{
	struct str algorithm, encoded;
	struct digest_name n = {0};

	if (cut_digest(text, &algorithm, &encoded) != 0)
		return E_INVAL;
	n.sha512 = str_equal(algorithm, STR("sha512"));
	if (!n.sha512 && !str_equal(algorithm, STR("sha256")))
		return E_UNSUPPORTED;
	if (parse_hex(encoded, n.bytes, n.sha512 ? 64 : DIGEST_SIZE) != 0)
		return E_INVAL;
	*ret_name = n;
	return 0;
}

/* ---- streams ------------------------------------------------------------------------------------- */

static struct digest_stream *stream_new(const EVP_MD *algorithm)
{
	struct digest_stream *s = NEW(struct digest_stream);

	s->ctx = EVP_MD_CTX_new();
	must(s->ctx != NULL && EVP_DigestInit_ex2(s->ctx, algorithm, NULL) == 1);
	return s;
}

struct digest_stream *digest_stream_new(void)
{
	return stream_new(get_sha256());
}

struct digest_stream *digest_stream_new_sha512(void)
{
	return stream_new(get_sha512());
}

void digest_stream_free(struct digest_stream *s)
{
	if (s == NULL)
		return;
	EVP_MD_CTX_free(s->ctx);
	free(s);
}

void digest_stream_add(struct digest_stream *s, const void *data, size_t len)
{
	must(EVP_DigestUpdate(s->ctx, data, len) == 1);
}

struct digest digest_stream_end(struct digest_stream *s)
{
	struct digest d;

	must(EVP_DigestFinal_ex(s->ctx, d.bytes, NULL) == 1);
	return d;
}

struct digest_name digest_stream_end_sha512(struct digest_stream *s)
{
	struct digest_name n = {.sha512 = true};

	must(EVP_DigestFinal_ex(s->ctx, n.bytes, NULL) == 1);
	return n;
}
