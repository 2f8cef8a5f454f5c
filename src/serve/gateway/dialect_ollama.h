/* SPDX-License-Identifier: Apache-2.0 */
/* dialect_ollama.h - the reading half of Ollama's API, in a file of its own, and what its answers share. */
#ifndef MDN_GATEWAY_DIALECT_OLLAMA_H
#define MDN_GATEWAY_DIALECT_OLLAMA_H

#include "serve/gateway/dialect.h"

int ollama_parse_chat(yyjson_val *root, struct api_request *r, struct fault *fault);
int ollama_parse_generate(yyjson_val *root, struct api_request *r, struct fault *fault);

#endif
