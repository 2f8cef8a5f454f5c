/* SPDX-License-Identifier: Apache-2.0 */
/* models_loaded.h - what is in memory where, from the center's list of nodes. */
#ifndef MDN_CLI_MODELS_LOADED_H
#define MDN_CLI_MODELS_LOADED_H

#include <yyjson.h>

void models_loaded_print(yyjson_val *root);

#endif
