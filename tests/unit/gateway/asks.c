/* SPDX-License-Identifier: Apache-2.0 */
/* asks.c - see the header. */
#include "asks.h"

void assert_taken(const struct dialect *dialect, const char *body, struct api_request *ret_request)
{
	struct fault fault;

	if (api_request_parse(str_from(body), dialect, ret_request, &fault) < 0)
		fail_msg("%s: %s (%s)", body, fault.err.text, fault.param);
}

void assert_refused(const struct bad_ask *bads, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		struct api_request r;
		struct fault fault;

		if (api_request_parse(str_from(bads[i].body), bads[i].dialect, &r, &fault) == 0)
			fail_msg("taken: %s", bads[i].body);
		if (strcmp(fault.param, bads[i].param) != 0)
			fail_msg("%s: blamed \"%s\", not \"%s\"", bads[i].body, fault.param, bads[i].param);
		assert_int_equal(fault_status(&fault), 400);
		assert_true(strlen(fault.err.text) > 10);
	}
}
