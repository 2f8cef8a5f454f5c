/* SPDX-License-Identifier: Apache-2.0 */
/* `mdn version`: ours, and those of libraries as they are at run time, for reports of faults. */
#include "base/json.h"
#include "cli/options.h"

#include <openssl/crypto.h>
#include <stdio.h>

int cmd_version(const struct args *args)
{
	uint32_t yyjson = yyjson_version();
	const char *openssl = OpenSSL_version(OPENSSL_VERSION_STRING);

	if (args_has(args, "json"))
		printf("{\"mdn\": \"%s\", \"openssl\": \"%s\", \"yyjson\": \"%u.%u.%u\"}\n", MDN_VERSION, openssl,
		       yyjson >> 16, yyjson >> 8 & 255, yyjson & 255);
	else
		printf("mdn %s (OpenSSL %s, yyjson %u.%u.%u)\n", MDN_VERSION, openssl, yyjson >> 16, yyjson >> 8 & 255,
		       yyjson & 255);
	return EXIT_DONE;
}
