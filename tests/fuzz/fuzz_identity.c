/* SPDX-License-Identifier: Apache-2.0 */
/* What a center may answer to a node: certificates, refusals; and tokens as the joining side reads them. */
#include "serve/member/inside.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str text = {(const char *)data, size};
	struct identity i = {.pin = "0000000000000000000000000000000000000000000000000000000000000000"};
	struct error err = {0};
	char pin[65];
	if (identity_take(&i, text, &err) == 0)
		abort(); /* nobody has a certificate with this key */
	if (i.id[0] || i.cert_pem)
		abort(); /* and nothing was taken over */
	if (identity_refusal(400, text, &err) != E_INVAL)
		abort();
	identity_token_pin(text, pin, &err);
	return 0;
}
