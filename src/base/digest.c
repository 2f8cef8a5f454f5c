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

static pthread_once_t sha256_once = PTHREAD_ONCE_INIT;
static EVP_MD *sha256;

static void fetch_sha256(void)
{
	sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
}

static void must(bool good)
{
	if (!good)
		abort();
}

static const EVP_MD *get_sha256(void)
{
	must(pthread_once(&sha256_once, fetch_sha256) == 0 && sha256 != NULL);
	return sha256;
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

int digest_parse(struct str text, struct digest *ret_digest)
{
	struct str encoded, algorithm = str_cut(text, ':', &encoded);
	uint8_t bytes[DIGEST_SIZE];

	if (!is_one_of(algorithm, "+._-", false) || !is_one_of(encoded, "=_-", true))
		return E_INVAL;
	if (!str_equal(algorithm, STR("sha256")))
		return E_UNSUPPORTED;
	/* Lower case only, so that one content has one name. */
	if (!is_one_of(encoded, "", false) || hex_decode(encoded, bytes, sizeof(bytes)) != 0)
		return E_INVAL;
	memcpy(ret_digest->bytes, bytes, sizeof(bytes));
	return 0;
}

struct digest_stream *digest_stream_new(void)
{
	struct digest_stream *s = NEW(struct digest_stream);

	s->ctx = EVP_MD_CTX_new();
	must(s->ctx != NULL && EVP_DigestInit_ex2(s->ctx, get_sha256(), NULL) == 1);
	return s;
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
