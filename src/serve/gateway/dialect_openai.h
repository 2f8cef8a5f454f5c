/* SPDX-License-Identifier: Apache-2.0 */
/* dialect_openai.h - the reading half of OpenAI's chat and completions, in a file of its own. */
#ifndef MDN_GATEWAY_DIALECT_OPENAI_H
#define MDN_GATEWAY_DIALECT_OPENAI_H

#include "serve/gateway/dialect.h"

int openai_parse_chat(yyjson_val *root, struct api_request *r, struct fault *fault);
/* Messages and tools alone. */
int openai_parse_messages(yyjson_val *root, struct api_request *r, struct fault *fault);
int openai_parse_completion(yyjson_val *root, struct api_request *r, struct fault *fault);

#endif
