/* SPDX-License-Identifier: Apache-2.0 */
/* openapi.h - openapi.json, built in: tools/embed writes it when MDN is built. OpenAPI Specification 3.1. */
#ifndef MDN_GATEWAY_OPENAPI_H
#define MDN_GATEWAY_OPENAPI_H

#include <stddef.h>

extern const unsigned char openapi_json[];
extern const size_t openapi_json_size;

#endif
