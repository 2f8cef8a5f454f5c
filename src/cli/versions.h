/* SPDX-License-Identifier: Apache-2.0 */
/* versions.h - searching the repository, for `mdn models`. */
#ifndef MDN_CLI_VERSIONS_H
#define MDN_CLI_VERSIONS_H

#include "cli/options.h"

bool versions_is_search(const struct args *args);
int versions_search(const struct args *args); /* an exit code */

#endif
