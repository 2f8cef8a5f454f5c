/* SPDX-License-Identifier: Apache-2.0 */
/* dialect_responses.h - the reading half of OpenAI's Responses, in a file of its own. */
#ifndef MDN_GATEWAY_DIALECT_RESPONSES_H
#define MDN_GATEWAY_DIALECT_RESPONSES_H

#include "serve/gateway/dialect.h"

int responses_parse(yyjson_val *root, struct api_request *r, struct fault *fault);

#endif
