/* SPDX-License-Identifier: Apache-2.0 */
/* show.h - the whole of a command that asks the center once and prints: JSON as it comes, else what `print` makes of
 * it.
 */
#ifndef MDN_CLI_SHOW_H
#define MDN_CLI_SHOW_H

#include "base/json.h"
#include "cli/options.h"

/* The command's exit code. */
int center_show(const struct args *args, const char *path, void (*print)(yyjson_val *root));

#endif
