/* SPDX-License-Identifier: Apache-2.0 */
/* What a center tells a node to hold (serve/member). */
#include "serve/member/member.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct assignment a;
	struct error err = {0};
	if (assignment_parse((struct str){(const char *)data, size}, &a, &err) < 0)
		return 0;
	for (size_t i = 0; i < a.limit_count; i++)
		if (a.limits[i].receivers == 0 || a.limits[i].senders == 0) /* rates are divided by them */
			abort();
	assignment_fini(&a);
	return 0;
}
