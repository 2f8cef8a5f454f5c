/* SPDX-License-Identifier: Apache-2.0 */
/* How: fixed offsets. HMAC is RFC 2104 over the base's SHA-256; the id is shorter than a block, so it is padded, never
 * hashed. */
#include "core/api_key.h"

#include "base/digest.h"

#define PREFIX "mdn-"
#define ID_AT 4
#define SECRET_AT (ID_AT + 12)
#define CHECK_AT (SECRET_AT + 48)
#define HMAC_BLOCK 64

static void checksum_of(const char *key, char ret_hex[static 9])
{
	struct digest d = digest_of(key, CHECK_AT);
	hex_encode(d.bytes, 4, ret_hex);
}

void api_key_format(const uint8_t id[static 6], const uint8_t secret[static API_KEY_SECRET_BYTES],
                    char ret_key[static API_KEY_SIZE])
{
	memcpy(ret_key, PREFIX, ID_AT);
	hex_encode(id, 6, ret_key + ID_AT);
	hex_encode(secret, API_KEY_SECRET_BYTES, ret_key + SECRET_AT);
	checksum_of(ret_key, ret_key + CHECK_AT);
}

int api_key_parse(struct str key, char ret_id[static API_KEY_ID_SIZE], struct error *err)
{
	if (key.len != API_KEY_SIZE - 1 || !str_starts(key, STR(PREFIX)))
		return error_set(
		    err, E_AUTH,
		    "this is not an API key of this network: those are %d characters and start with " PREFIX,
		    API_KEY_SIZE - 1);
	for (size_t i = ID_AT; i < key.len; i++)
		if (!(key.base[i] >= '0' && key.base[i] <= '9') && !(key.base[i] >= 'a' && key.base[i] <= 'f'))
			return error_set(err, E_AUTH,
			                 "the API key has a character that keys never have: copy it again");
	char check[9];
	checksum_of(key.base, check);
	if (memcmp(check, key.base + CHECK_AT, 8) != 0)
		return error_set(err, E_AUTH, "the API key is mistyped (its checksum does not fit): copy it again");
	memcpy(ret_id, key.base + ID_AT, API_KEY_ID_SIZE - 1);
	ret_id[API_KEY_ID_SIZE - 1] = '\0';
	return 0;
}

static struct digest hash_pair(const uint8_t pad[static HMAC_BLOCK], const void *data, size_t len)
{
	struct digest_stream *s = digest_stream_new();
	digest_stream_add(s, pad, HMAC_BLOCK);
	digest_stream_add(s, data, len);
	struct digest d = digest_stream_end(s);
	digest_stream_free(s);
	return d;
}

void api_key_hash(struct str key, char ret_hex[static API_KEY_HASH_SIZE])
{
	uint8_t inner[HMAC_BLOCK], outer[HMAC_BLOCK];
	memset(inner, 0x36, sizeof(inner));
	memset(outer, 0x5c, sizeof(outer));
	for (size_t i = 0; i < API_KEY_ID_SIZE - 1; i++) {
		inner[i] ^= (uint8_t)key.base[ID_AT + i];
		outer[i] ^= (uint8_t)key.base[ID_AT + i];
	}
	struct digest d = hash_pair(inner, key.base, key.len);
	d = hash_pair(outer, d.bytes, sizeof(d.bytes));
	hex_encode(d.bytes, sizeof(d.bytes), ret_hex);
}

bool api_key_matches(struct str key, struct str hash_hex)
{
	char mine[API_KEY_HASH_SIZE];
	if (hash_hex.len != API_KEY_HASH_SIZE - 1)
		return false;
	api_key_hash(key, mine);
	uint8_t difference = 0;
	for (size_t i = 0; i < hash_hex.len; i++)
		difference |= (uint8_t)(mine[i] ^ hash_hex.base[i]);
	return difference == 0;
}
