/* SPDX-License-Identifier: Apache-2.0 */
/* What strangers may send to a center: join tokens and join requests, with their certificate requests. */
#include "serve/center/inside.h"

#include "base/json.h"
#include "net/x509.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str text = {(const char *)data, size};
	struct center c = {.ca.pin = "0000000000000000000000000000000000000000000000000000000000000000"};
	struct token token;
	struct asked asked = {0};
	struct error err = {0};
	yyjson_doc *doc = NULL;
	if (token_parse(text, &token, &err) == 0 && (strlen(token.secret_hash) != 64 || strlen(token.ca_pin) != 64))
		abort();
	if (json_parse(text, &doc, &err) == 0 && join_asked_parse(&c, yyjson_doc_get_root(doc), &asked, &err) == 0 &&
	    (asked.name[0] == '\0' || asked.roles == 0 ||
	     (x509_request_pin(asked.csr, asked.pin, &err) == 0 && strlen(asked.pin) != 64)))
		abort();
	yyjson_doc_free(doc);
	return 0;
}
