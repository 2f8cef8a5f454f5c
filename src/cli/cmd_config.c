/* SPDX-License-Identifier: Apache-2.0 */
/* `mdn config show|check|explain`: base/config.h does the work. */
#include "cli/help.h"
#include "cli/options.h"
#include "cli/trust_gate.h"
#include "serve/gateway/gateway.h"

#include <stdio.h>

int cmd_config_show(const struct args *args)
{
	struct config *config;
	struct error err = {0};

	if (args_config(args, &config, &err) != 0) {
		args_fail(args, &err);
		return EXIT_USAGE;
	}
	config_show(config, stdout, args_has(args, "json"));
	config_free(config);
	return EXIT_DONE;
}

int cmd_config_check(const struct args *args)
{
	const char *path = args_operand(args, 0) != NULL ? args_operand(args, 0) : args_config_path(args);
	struct config *config;
	struct error err = {0};

	if (path == NULL && args->override_count == 0)
		return args_usage(args, "there is no mdn.yaml here: name the FILE to check");
	if (config_load(path, args->overrides, args->override_count, &config, &err) != 0) {
		args_fail(args, &err);
		return EXIT_USAGE;
	}
	int rc = trust_gate_try(NULL, config->trust_policy, &err); /* a node does not start without it, either */
	if (rc)
		error_prefix(&err, "trust_policy: ");
	else
		rc = gateway_try_services(config->service_classes, &err);
	config_free(config);
	if (rc) {
		args_fail(args, &err);
		return EXIT_USAGE;
	}
	printf("%s: right\n", path != NULL ? path : "options");
	return EXIT_DONE;
}

int cmd_config_explain(const struct args *args)
{
	struct error err = {0};

	if (args_has(args, "markdown")) {
		help_markdown_keys(stdout);
		return EXIT_DONE;
	}
	if (args->operand_count == 0)
		config_explain(NULL, stdout, &err);
	for (unsigned i = 0; i < args->operand_count; i++)
		if (config_explain(args->operands[i], stdout, &err) != 0)
			return args_fail(args, &err);
	return EXIT_DONE;
}
