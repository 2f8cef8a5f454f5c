/* SPDX-License-Identifier: Apache-2.0 */
/* import_bundle.h - a bundle (or any OCI image layout in a tar) into a repository; one of the kinds of `mdn import`. */
#ifndef MDN_CLI_IMPORT_BUNDLE_H
#define MDN_CLI_IMPORT_BUNDLE_H

#include "cli/options.h"

/* A file, or the first of the parts of one. */
bool import_is_bundle(const char *source);
int import_bundle(const struct args *args, const char *source, struct error *err);

#endif
