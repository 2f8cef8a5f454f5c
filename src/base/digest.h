/* SPDX-License-Identifier: Apache-2.0 */
/* digest.h - SHA-256 content names (OCI image-spec "descriptor", section "Digests"). Any thread.
 *
 * Content is known by its SHA-256 everywhere. OCI clients may also call it by its SHA-512: a `digest_name` is either.
 */
#ifndef MDN_BASE_DIGEST_H
#define MDN_BASE_DIGEST_H

#include "base/str.h"

#include <stdbool.h>
#include <stdint.h>

#define DIGEST_SIZE 32
#define DIGEST_TEXT_SIZE (7 + 64 + 1) /* "sha256:" + hex + NUL */

struct digest {
	uint8_t bytes[DIGEST_SIZE];
};

#define DIGEST_NAME_SIZE (7 + 128 + 1)

struct digest_name {
	bool sha512;
	uint8_t bytes[64]; /* without sha512 the first 32 are it, the rest is 0 */
};

struct digest_stream; /* a running hash; heap, one owner, one thread at a time */

struct digest digest_of(const void *data, size_t len);
bool digest_equal(const struct digest *a, const struct digest *b);
void digest_format(const struct digest *d, char ret_text[static DIGEST_TEXT_SIZE]);
int digest_parse(struct str text, struct digest *ret_digest); /* E_INVAL; E_UNSUPPORTED: other algorithm */

struct digest_name digest_name_of(const struct digest *d);
struct digest_name digest_name_sha512(const void *data, size_t len);
bool digest_name_equal(const struct digest_name *a, const struct digest_name *b);
void digest_name_format(const struct digest_name *n, char ret_text[static DIGEST_NAME_SIZE]);
int digest_name_parse(struct str text, struct digest_name *ret_name); /* as digest_parse */
static inline struct str digest_name_bytes(const struct digest_name *n)
{
	return (struct str){(const char *)n->bytes, n->sha512 ? 64 : DIGEST_SIZE};
}

struct digest_stream *digest_stream_new(void);
struct digest_stream *digest_stream_new_sha512(void);
void digest_stream_free(struct digest_stream *s);
void digest_stream_add(struct digest_stream *s, const void *data, size_t len);
struct digest digest_stream_end(struct digest_stream *s); /* then only free may follow */
struct digest_name digest_stream_end_sha512(struct digest_stream *s);

#endif
