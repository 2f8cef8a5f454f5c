/* SPDX-License-Identifier: Apache-2.0 */
/* asks.h - what tests of dialects share: bodies that must be taken, and bodies that must be refused with the right
 * blame. */
#ifndef MDN_TESTS_GATEWAY_ASKS_H
#define MDN_TESTS_GATEWAY_ASKS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "serve/gateway/dialect.h"

/* The request is the caller's, as from api_request_parse. */
void assert_taken(const struct dialect *dialect, const char *body, struct api_request *ret_request);

struct bad_ask {
	const struct dialect *dialect;
	const char *body, *param; /* which field is to be blamed */
};
/* Each with status 400 and words. */
void assert_refused(const struct bad_ask *bads, size_t count);

#endif
