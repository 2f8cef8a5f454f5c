/* SPDX-License-Identifier: Apache-2.0 */
/* api_key.h - the form of an API key, and what is kept of it.
 *
 *   mdn-IIIIIIIIIIIISSSSSSSS...SSSSCCCCCCCC     id: 12 hex digits, public; secret: 48 (192 bits); checksum: 8
 *
 * The checksum (the first 4 bytes of SHA-256 of all before it) lets a gateway, a person or a secret scanner tell a
 * mistyped key without asking anybody. Kept and sent to gateways is only HMAC-SHA-256 keyed with the id, over the whole
 * key: with 192 random bits nobody guesses the key from it, so gateways check offline and need no shared pepper. Pure;
 * any thread.
 */
#ifndef MDN_CORE_API_KEY_H
#define MDN_CORE_API_KEY_H

#include "base/error.h"
#include "base/str.h"

#define API_KEY_ID_SIZE 13
#define API_KEY_SECRET_BYTES 24
#define API_KEY_SIZE (4 + 12 + 48 + 8 + 1)
#define API_KEY_HASH_SIZE 65

/* Form and checksum; E_AUTH with words otherwise. */
int api_key_parse(struct str key, char ret_id[static API_KEY_ID_SIZE], struct error *err);
void api_key_format(const uint8_t id[static 6], const uint8_t secret[static API_KEY_SECRET_BYTES],
                    char ret_key[static API_KEY_SIZE]);
/* Hex HMAC-SHA-256(key: id, message: the whole key). The key must have passed api_key_parse. */
void api_key_hash(struct str key, char ret_hex[static API_KEY_HASH_SIZE]);
/* The same hash, compared in constant time. */
bool api_key_matches(struct str key, struct str hash_hex);

#endif
