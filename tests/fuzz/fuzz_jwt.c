/* SPDX-License-Identifier: Apache-2.0 */
/* A token on the first line, the keys that are to check it below. */
#include "net/jwt.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct jwt_rules rules = {STR("joe"), STR("mdn"), 0};
	struct str jwks, token = str_cut((struct str){(const char *)data, size}, '\n', &jwks);
	struct jwt_keys *keys;
	yyjson_doc *claims;
	int64_t until;
	bool unknown;

	jwt_is_one(token);
	if (jwt_keys_parse(jwks, &keys, NULL) < 0)
		return 0;
	if (jwt_verify(keys, &rules, token, 1000000, &claims, &until, &unknown, NULL) == 0)
		yyjson_doc_free(claims);
	jwt_keys_free(keys);
	return 0;
}
