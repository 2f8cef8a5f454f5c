/* SPDX-License-Identifier: Apache-2.0 */
/* `mdn import`: models from elsewhere into the repository. Which kind of source it is decides who does it. */
#include "cli/import_bundle.h"
#include "cli/import_outside.h"
#include "cli/options.h"

static const struct import_kind {
	bool (*is)(const char *source);
	int (*run)(const struct args *args, const char *source, struct error *err);
} kinds[] = {
    {import_is_outside, import_outside},
    {import_is_bundle, import_bundle},
};

int cmd_import(const struct args *args)
{
	struct error err = {0};
	const char *source = args_operand(args, 0);
	int rc = error_set(&err, E_NOTFOUND,
	                   "%s is no bundle (an OCI image layout in a tar, or its first part) and no hf:, oci:, "
	                   "ollama: or https: source; put a model file or folder in with `mdn push`",
	                   source);
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		if (!kinds[i].is(source))
			continue;
		rc = kinds[i].run(args, source, &err);
		break;
	}
	return rc ? args_fail(args, &err) : EXIT_DONE;
}
