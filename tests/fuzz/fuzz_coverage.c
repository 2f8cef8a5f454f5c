/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a coverage-zone file: read or refused. */
#include "core/coverage.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct coverage c;
	struct error err;
	if (coverage_parse((struct str){(const char *)data, size}, &c, &err) == 0)
		coverage_fini(&c);
	return 0;
}
