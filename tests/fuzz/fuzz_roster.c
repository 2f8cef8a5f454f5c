/* SPDX-License-Identifier: Apache-2.0 */
/* A roster: whole or refused, and sorted where it is searched. */
#include "serve/member/member.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct roster r;
	struct error err = {0};
	if (roster_parse((struct str){(const char *)data, size}, &r, &err) < 0)
		return 0;
	for (size_t i = 1; i < r.removed_count; i++)
		if (strcmp(r.removed[i - 1], r.removed[i]) > 0)
			abort();
	for (size_t i = 0; i < r.node_count; i++)
		if (r.nodes[i].id[0] == '\0' || r.nodes[i].node_url[0] == '\0')
			abort();
	roster_fini(&r);
	return 0;
}
