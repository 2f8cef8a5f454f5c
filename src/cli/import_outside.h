/* SPDX-License-Identifier: Apache-2.0 */
/* import_outside.h - kinds of `mdn import`: places that the repository itself takes models from, and files here. */
#ifndef MDN_CLI_IMPORT_OUTSIDE_H
#define MDN_CLI_IMPORT_OUTSIDE_H

#include "cli/options.h"

bool import_is_outside(const char *source); /* hf:, oci:, ollama:, http://, https:// */
int import_outside(const struct args *args, const char *source, struct error *err);

#endif
