/* SPDX-License-Identifier: Apache-2.0 */
/* Header, 128 bytes, little-endian:
 *
 *   0 "mdn-seal"   8 u32 form (1)   12 u32 segment size   16 u64 content size   24 key id (16)
 *  40 nonce (12)  52 the file's key, encrypted (32)  84 tag (16)  100 zeros
 *
 * The wrapping authenticates bytes 0 to 39 and the content's digest, which is the file's name and not in it. A segment
 * is nonce (12), ciphertext, tag (16), and authenticates its number; the last one is shorter. Nonces are random: a key
 * is one file's, which has far fewer than 2^32 segments (NIST SP 800-38D section 8.3), also when some are rewritten. */
#include "store/seal.h"

#include "base/file.h"
#include "base/rng.h"

#include <assert.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define NONCE 12
#define TAG 16
#define FORM 1
#define AT_ID 24
#define AT_NONCE 40
#define AT_KEY 52
#define AT_TAG 84
#define AT_ZEROS 100

static const char magic[8] = {'m', 'd', 'n', '-', 's', 'e', 'a', 'l'};

/* ---- AES-256-GCM ------------------------------------------------------------------------------ */

struct sealed_piece {
	const uint8_t *key;
	uint8_t *nonce, *tag;
	struct str bound; /* authenticated, not encrypted */
};

static void encrypt(EVP_CIPHER_CTX *ctx, const struct sealed_piece *p, struct str plain, uint8_t *out)
{
	int n;
	bool done = EVP_EncryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, p->key, p->nonce) == 1 &&
	            EVP_EncryptUpdate(ctx, NULL, &n, (const uint8_t *)p->bound.base, (int)p->bound.len) == 1 &&
	            EVP_EncryptUpdate(ctx, out, &n, (const uint8_t *)plain.base, (int)plain.len) == 1 &&
	            EVP_EncryptFinal_ex(ctx, out + n, &n) == 1 &&
	            EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_GET_TAG, TAG, p->tag) == 1;
	assert(done && "AES-256-GCM is there");
}

static bool decrypt(EVP_CIPHER_CTX *ctx, const struct sealed_piece *p, struct str cipher, uint8_t *out)
{
	int n;
	return EVP_DecryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, p->key, p->nonce) == 1 &&
	       EVP_DecryptUpdate(ctx, NULL, &n, (const uint8_t *)p->bound.base, (int)p->bound.len) == 1 &&
	       EVP_DecryptUpdate(ctx, out, &n, (const uint8_t *)cipher.base, (int)cipher.len) == 1 &&
	       EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_SET_TAG, TAG, p->tag) == 1 &&
	       EVP_DecryptFinal_ex(ctx, out + n, &n) == 1;
}

static EVP_CIPHER_CTX *cipher_new(void)
{
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	assert(ctx);
	return ctx;
}

static void put_number(uint8_t *to, uint64_t v, int bytes)
{
	for (int i = 0; i < bytes; i++)
		to[i] = (uint8_t)(v >> 8 * i);
}

static uint64_t get_number(const uint8_t *from, int bytes)
{
	uint64_t v = 0;
	for (int i = 0; i < bytes; i++)
		v |= (uint64_t)from[i] << 8 * i;
	return v;
}

/* ---- the site key ----------------------------------------------------------------------------- */

static void key_name(struct seal_key *key)
{
	uint8_t text[16 + 32] = "mdn site key id:";
	memcpy(text + 16, key->bytes, 32);
	struct digest d = digest_of(text, sizeof text);
	memcpy(key->id, d.bytes, sizeof key->id);
	OPENSSL_cleanse(text, sizeof text);
}

int seal_key_read(const char *path, struct seal_key *ret_key, struct error *err)
{
	struct buf text = {0};
	struct seal_key key;
	struct stat st;
	int rc = file_read(path, 4096, &text, err);
	if (rc)
		return error_prefix(err, "site_key (make one with: umask 077; openssl rand -hex 32 > FILE): ");
	if (!stat(path, &st) && st.st_mode & 077)
		rc = error_set(err, E_FORBIDDEN, "site_key: others may read %s; run: chmod 600 %s", path, path);
	struct str hex = buf_str(&text);
	while (hex.len && (hex.base[hex.len - 1] == '\n' || hex.base[hex.len - 1] == '\r'))
		hex.len--;
	if (!rc && hex_decode(hex, key.bytes, sizeof key.bytes))
		rc = error_set(err, E_INVAL, "site_key: %s does not hold 64 hex digits", path);
	if (text.base)
		OPENSSL_cleanse(text.base, text.len);
	buf_fini(&text);
	if (rc)
		return rc;
	key_name(&key);
	*ret_key = key;
	OPENSSL_cleanse(&key, sizeof key);
	return 0;
}

/* ---- sizes ------------------------------------------------------------------------------------ */

void seal_new(uint64_t size, struct seal *ret_seal)
{
	rng_secret(ret_seal->key, sizeof ret_seal->key);
	ret_seal->size = size;
	ret_seal->sparse = false;
}

void seal_forget(struct seal *s)
{
	OPENSSL_cleanse(s, sizeof *s);
}

static uint64_t segments_of(uint64_t size)
{
	return size / SEAL_SEGMENT + (size % SEAL_SEGMENT != 0);
}

uint64_t seal_file_size(uint64_t size)
{
	return SEAL_HEADER + size + segments_of(size) * SEAL_EXTRA;
}

bool seal_content_size(uint64_t file_size, uint64_t *ret_size)
{
	const uint64_t whole = SEAL_SEGMENT + SEAL_EXTRA;
	if (file_size < SEAL_HEADER || file_size > INT64_MAX)
		return false;
	uint64_t body = file_size - SEAL_HEADER, rest = body % whole;
	if (rest && rest <= SEAL_EXTRA)
		return false;
	*ret_size = body / whole * SEAL_SEGMENT + (rest ? rest - SEAL_EXTRA : 0);
	return true;
}

uint64_t seal_position(uint64_t offset)
{
	return SEAL_HEADER + offset / SEAL_SEGMENT * (SEAL_SEGMENT + SEAL_EXTRA);
}

static size_t segment_length(const struct seal *s, uint64_t i)
{
	uint64_t left = s->size - i * SEAL_SEGMENT;
	return left < SEAL_SEGMENT ? (size_t)left : SEAL_SEGMENT;
}

/* ---- header ----------------------------------------------------------------------------------- */

static void bound_of(const uint8_t *header, const struct digest *d, uint8_t ret_bound[static AT_NONCE + DIGEST_SIZE])
{
	memcpy(ret_bound, header, AT_NONCE);
	memcpy(ret_bound + AT_NONCE, d->bytes, DIGEST_SIZE);
}

void seal_header_make(const struct seal *s, const struct seal_key *site, const struct digest *d,
                      uint8_t ret_header[static SEAL_HEADER])
{
	uint8_t bound[AT_NONCE + DIGEST_SIZE];
	memset(ret_header, 0, SEAL_HEADER);
	memcpy(ret_header, magic, sizeof magic);
	put_number(ret_header + 8, FORM, 4);
	put_number(ret_header + 12, SEAL_SEGMENT, 4);
	put_number(ret_header + 16, s->size, 8);
	memcpy(ret_header + AT_ID, site->id, sizeof site->id);
	rng_secret(ret_header + AT_NONCE, NONCE);
	bound_of(ret_header, d, bound);
	struct sealed_piece p = {
	    site->bytes, ret_header + AT_NONCE, ret_header + AT_TAG, {(const char *)bound, sizeof bound}};
	EVP_CIPHER_CTX *ctx = cipher_new();
	encrypt(ctx, &p, (struct str){(const char *)s->key, sizeof s->key}, ret_header + AT_KEY);
	EVP_CIPHER_CTX_free(ctx);
}

static bool zeros(const uint8_t *at, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (at[i])
			return false;
	return true;
}

int seal_header_open(struct str header, const struct seal_key *site, const struct digest *d, struct seal *ret_seal,
                     struct error *err)
{
	uint8_t copy[SEAL_HEADER], bound[AT_NONCE + DIGEST_SIZE], key[32];
	if (header.len != SEAL_HEADER || memcmp(header.base, magic, sizeof magic))
		return error_set(err, E_CORRUPT, "a sealed file does not begin with a header");
	memcpy(copy, header.base, SEAL_HEADER);
	if (get_number(copy + 8, 4) != FORM || get_number(copy + 12, 4) != SEAL_SEGMENT)
		return error_set(err, E_UNSUPPORTED, "a sealed file has a form of a newer mdn; update mdn");
	if (get_number(copy + 16, 8) > INT64_MAX / 2 || !zeros(copy + AT_ZEROS, SEAL_HEADER - AT_ZEROS))
		return error_set(err, E_CORRUPT, "the header of a sealed file is damaged");
	if (memcmp(copy + AT_ID, site->id, sizeof site->id)) {
		char theirs[33], ours[33];
		hex_encode(copy + AT_ID, 16, theirs);
		hex_encode(site->id, 16, ours);
		return error_set(err, E_FORBIDDEN,
		                 "a file is sealed with the site key %.8s, this node has the key %.8s; set site_key to "
		                 "the right file",
		                 theirs, ours);
	}
	bound_of(copy, d, bound);
	struct sealed_piece p = {site->bytes, copy + AT_NONCE, copy + AT_TAG, {(const char *)bound, sizeof bound}};
	EVP_CIPHER_CTX *ctx = cipher_new();
	bool good = decrypt(ctx, &p, (struct str){(const char *)copy + AT_KEY, sizeof key}, key);
	EVP_CIPHER_CTX_free(ctx);
	if (good) {
		memcpy(ret_seal->key, key, sizeof key);
		ret_seal->size = get_number(copy + 16, 8);
		ret_seal->sparse = false;
	}
	OPENSSL_cleanse(key, sizeof key); /* also what a changed tag did not let through */
	return good ? 0
	            : error_set(err, E_CORRUPT, "the header of a sealed file was changed, or belongs to another file");
}

/* ---- segments --------------------------------------------------------------------------------- */

struct work {
	EVP_CIPHER_CTX *ctx;
	uint8_t *disk;  /* nonce, ciphertext, tag */
	uint8_t *plain; /* of a segment that is needed in part */
};

static struct work work_new(void)
{
	return (struct work){cipher_new(), mem_new(SEAL_SEGMENT + SEAL_EXTRA), mem_new(SEAL_SEGMENT)};
}

static void work_free(struct work *w)
{
	EVP_CIPHER_CTX_free(w->ctx);
	OPENSSL_cleanse(w->plain, SEAL_SEGMENT);
	free(w->plain);
	free(w->disk);
}

static int segment_read(const struct seal *s, int fd, uint64_t i, struct work *w, uint8_t *out, struct error *err)
{
	size_t len = segment_length(s, i);
	uint8_t number[8];
	ssize_t got = file_read_at(fd, seal_position(i * SEAL_SEGMENT), w->disk, len + SEAL_EXTRA);
	if (got < 0)
		return error_errno(err, errno, "cannot read a sealed file");
	if ((size_t)got < len + SEAL_EXTRA)
		return error_set(err, E_CORRUPT, "a sealed file is shorter than it must be");
	if (s->sparse && zeros(w->disk, NONCE) && zeros(w->disk + NONCE, len + TAG)) {
		memset(out, 0, len);
		return 0;
	}
	put_number(number, i, 8);
	struct sealed_piece p = {s->key, w->disk, w->disk + NONCE + len, {(const char *)number, sizeof number}};
	if (!decrypt(w->ctx, &p, (struct str){(const char *)w->disk + NONCE, len}, out)) {
		memset(out, 0, len);
		return error_set(err, E_CORRUPT, "segment %llu of a sealed file was changed on the disk",
		                 (unsigned long long)i);
	}
	return 0;
}

static int segment_write(const struct seal *s, int fd, uint64_t i, struct work *w, struct str plain, struct error *err)
{
	uint8_t number[8];
	rng_secret(w->disk, NONCE);
	put_number(number, i, 8);
	struct sealed_piece p = {s->key, w->disk, w->disk + NONCE + plain.len, {(const char *)number, sizeof number}};
	encrypt(w->ctx, &p, plain, w->disk + NONCE);
	for (size_t at = 0, len = plain.len + SEAL_EXTRA; at < len;) {
		ssize_t n = pwrite(fd, w->disk + at, len - at, (off_t)(seal_position(i * SEAL_SEGMENT) + at));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_errno(err, errno, "cannot write to the blob store");
		at += (size_t)n;
	}
	return 0;
}

int seal_read(const struct seal *s, int fd, uint64_t offset, void *out, size_t len, struct error *err)
{
	if (offset > s->size || len > s->size - offset)
		return error_set(err, E_CORRUPT, "a file of the blob store is shorter than it must be");
	struct work w = work_new();
	uint8_t *to = out;
	int rc = 0;
	while (len && !rc) {
		uint64_t i = offset / SEAL_SEGMENT;
		size_t from = offset % SEAL_SEGMENT, have = segment_length(s, i),
		       n = have - from < len ? have - from : len;
		if (n == have) {
			rc = segment_read(s, fd, i, &w, to, err);
		} else {
			rc = segment_read(s, fd, i, &w, w.plain, err);
			memcpy(to, w.plain + from, n);
		}
		to += n;
		offset += n;
		len -= n;
	}
	work_free(&w);
	return rc;
}

int seal_write(const struct seal *s, int fd, uint64_t offset, struct str data, struct error *err)
{
	assert(offset <= s->size && data.len <= s->size - offset);
	struct work w = work_new();
	int rc = 0;
	while (data.len && !rc) {
		uint64_t i = offset / SEAL_SEGMENT;
		size_t from = offset % SEAL_SEGMENT, have = segment_length(s, i);
		size_t n = have - from < data.len ? have - from : data.len;
		if (n == have) {
			rc = segment_write(s, fd, i, &w, (struct str){data.base, n}, err);
		} else {
			rc = segment_read(s, fd, i, &w, w.plain, err);
			memcpy(w.plain + from, data.base, n);
			if (!rc)
				rc = segment_write(s, fd, i, &w, (struct str){(char *)w.plain, have}, err);
		}
		data.base += n;
		data.len -= n;
		offset += n;
	}
	work_free(&w);
	return rc;
}

int seal_write_segment(const struct seal *s, int fd, uint64_t i, struct str plain, struct error *err)
{
	assert(plain.len && plain.len <= SEAL_SEGMENT);
	struct work w = work_new();
	int rc = segment_write(s, fd, i, &w, plain, err);
	work_free(&w);
	return rc;
}
