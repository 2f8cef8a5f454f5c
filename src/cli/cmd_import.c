/* SPDX-License-Identifier: Apache-2.0 */
/* `mdn import`: models from elsewhere into the repository. Which kind of source it is decides who does it. */
#include "cli/import_bundle.h"
#include "cli/import_outside.h"
#include "cli/options.h"

#include <stdlib.h>

static const char *const of_bundles[] = {"key", "root", "subject", NULL};
static const char *const of_outside[] = {"include", "sha256", NULL};

static const struct import_kind {
	bool (*is)(const char *source);
	int (*run)(const struct args *args, const char *source, struct error *err);
	const char *const
	    *others; /* options that mean nothing to it: one that is not heeded would be a false promise */
	const char *where;
} kinds[] = {
    {import_is_outside, import_outside, of_bundles, "a bundle"},
    {import_is_bundle, import_bundle, of_outside, "hf: and https: sources"},
};

/* NULL: nothing is wrong. */
static const char *wrong_option(const struct args *args, const struct import_kind *kind)
{
	for (size_t i = 0; kind->others[i]; i++)
		if (args_has(args, kind->others[i]))
			return kind->others[i];
	return NULL;
}

int cmd_import(const struct args *args)
{
	struct error err = {0};
	const char *source = args_operand(args, 0);
	int rc = error_set(&err, E_NOTFOUND,
	                   "%s is no bundle (an OCI image layout in a tar, or its first part) and no hf:, oci:, "
	                   "ollama: or https: source; put a model file or folder in with `mdn push`",
	                   source);
	if (args_value(args, "key") && args_value(args, "root"))
		return args_usage(args, "--key or --root, one of them");
	if (args_value(args, "subject") && !args_value(args, "root"))
		return args_usage(args, "--subject goes with --root");
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		if (!kinds[i].is(source))
			continue;
		if (wrong_option(args, &kinds[i]))
			return args_usage(args, "--%s goes with %s", wrong_option(args, &kinds[i]), kinds[i].where);
		rc = kinds[i].run(args, source, &err);
		break;
	}
	return rc ? args_fail(args, &err) : EXIT_DONE;
}
