/* SPDX-License-Identifier: Apache-2.0 */
/* dialect_anthropic.h - the reading half of Anthropic's Messages, in a file of its own. */
#ifndef MDN_GATEWAY_DIALECT_ANTHROPIC_H
#define MDN_GATEWAY_DIALECT_ANTHROPIC_H

#include "serve/gateway/dialect.h"

int anthropic_parse(yyjson_val *root, struct api_request *r, struct fault *fault);
int anthropic_parse_count(yyjson_val *root, struct api_request *r, struct fault *fault);

#endif
