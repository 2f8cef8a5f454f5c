/* SPDX-License-Identifier: Apache-2.0 */
/* Authorization of Ollama's login, and lines of id_ed25519.pub. */
#include "serve/repository/ollama.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t key[32], again[32];
	char *text = mem_new(size + 1);
	memcpy(text, data, size);
	struct str line = {text, size}, rest;
	struct error err = {0};
	ollama_key_parse(line, key, &err);
	/* Nobody signs with a key that is no key. */
	if (!ollama_signature_check(line, STR("GET,http://h/t,x"), key, &err) &&
	    ollama_key_parse(str_cut(line, ':', &rest), again, &err))
		abort();
	free(text);
	return 0;
}
