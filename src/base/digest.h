/* SPDX-License-Identifier: Apache-2.0 */
/* digest.h - SHA-256 content names (OCI image-spec "descriptor", section "Digests"). Any thread. */
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

struct digest_stream; /* a running hash; heap, one owner, one thread at a time */

struct digest digest_of(const void *data, size_t len);
bool digest_equal(const struct digest *a, const struct digest *b);
void digest_format(const struct digest *d, char ret_text[static DIGEST_TEXT_SIZE]);
int digest_parse(struct str text, struct digest *ret_digest); /* E_INVAL; E_UNSUPPORTED: other algorithm */

struct digest_stream *digest_stream_new(void);
void digest_stream_free(struct digest_stream *s);
void digest_stream_add(struct digest_stream *s, const void *data, size_t len);
struct digest digest_stream_end(struct digest_stream *s); /* then only free may follow */

#endif
