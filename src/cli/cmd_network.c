/* SPDX-License-Identifier: Apache-2.0 */
/* `mdn init`, `mdn token`, `mdn join`, `mdn serve`: how a network comes to be, and how nodes come to it. */
#include "base/clock.h"
#include "base/log.h"
#include "cli/client.h"
#include "cli/node.h"
#include "cli/options.h"
#include "core/report.h"
#include "serve/center/center.h"
#include "serve/member/member.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* The options given, once more, for the command to type next. */
static void print_options(const struct args *args)
{
	if (args_config_path(args))
		printf(" --config %s", args_config_path(args));
	for (unsigned i = 0; i < args->override_count; i++) {
		char key[64];
		snprintf(key, sizeof key, "%s", args->overrides[i].key);
		for (char *p = key; *p; p++)
			*p = *p == '_' ? '-' : *p;
		printf(" --%s %s", key, args->overrides[i].value);
	}
}

int cmd_init(const struct args *args)
{
	struct config *c;
	struct error err = {0};
	uint32_t roles;
	char url[512], operator_dir[4096];
	if (args_config(args, &c, &err)) {
		args_fail(args, &err);
		return EXIT_USAGE;
	}
	const char *dir = args_value(args, "operator");
	if (!dir)
		dir = client_operator_dir_default(operator_dir, sizeof operator_dir);
	snprintf(url, sizeof url, "https://%s", c->node_advertise[0] ? c->node_advertise : c->node_listen);
	int rc = node_roles_of(c, &roles, &err);
	if (rc == 0)
		rc = center_init(str_from(c->data), str_from(c->domain), str_from(url), str_from(c->name),
		                 str_from(c->site), roles | ROLE_CENTER, str_from(dir), &err);
	if (rc == 0) {
		printf("A new network, %s, with its center in %s.\n"
		       "Your operator identity is in %s: keep it safe; whoever has it runs the network.\n\n"
		       "Start the center:\n  mdn serve",
		       c->domain, c->data, dir);
		print_options(args);
		if (!(roles & ROLE_CENTER))
			printf(" --roles center");
		printf("\nThen make a token for the next node:\n  mdn token\n");
	}
	config_free(c);
	return rc ? args_fail(args, &err) : EXIT_DONE;
}

int cmd_token(const struct args *args)
{
	struct client *c;
	struct error err = {0};
	struct buf body = {0};
	struct str token = {0};
	yyjson_doc *doc = NULL;
	int64_t life_us = 0;
	const char *life = args_value(args, "life"), *roles = args_value(args, "roles"),
		   *site = args_value(args, "site");
	if (life && str_to_duration_us(str_from(life), &life_us))
		return args_usage(args, "--life %s is not a duration such as 10m or 1h", life);
	if (client_open(args_value(args, "operator"), &c, &err))
		return args_fail(args, &err);
	buf_append_str(&body, STR("{"));
	if (life)
		buf_printf(&body, "\"ttl_us\":%lld", (long long)life_us);
	if (roles) {
		buf_printf(&body, "%s\"roles\":", body.len > 1 ? "," : "");
		buf_append_json(&body, str_from(roles));
	}
	if (site) {
		buf_printf(&body, "%s\"site\":", body.len > 1 ? "," : "");
		buf_append_json(&body, str_from(site));
	}
	buf_append_str(&body, STR("}"));
	int rc = client_json(c, "POST", "/mdn/v1/tokens", buf_str(&body), &doc, &err);
	if (rc == 0)
		rc = json_str(yyjson_doc_get_root(doc), "token", &token, &err);
	if (rc == 0 && args_has(args, "json"))
		printf("{\"token\":\"" STR_FMT "\",\"center\":\"%s\"}\n", STR_ARG(token), client_center_url(c));
	else if (rc == 0)
		printf("On the new node, before the token expires (it works once):\n  mdn join %s " STR_FMT
		       " --name NAME --site %s --roles %s\n",
		       client_center_url(c), STR_ARG(token), site ? site : "SITE", roles ? roles : "edge");
	yyjson_doc_free(doc);
	buf_fini(&body);
	client_close(c);
	return rc ? args_fail_words(args, &err) : EXIT_DONE;
}

int cmd_join(const struct args *args)
{
	struct config *c;
	struct error err = {0};
	uint32_t roles;
	if (args_config(args, &c, &err)) {
		args_fail(args, &err);
		return EXIT_USAGE;
	}
	int rc = node_roles_of(c, &roles, &err);
	if (rc == 0 && roles == 0)
		rc = error_set(&err, E_INVAL, "say with --roles what this node will do: edge, repository, scheduler");
	if (rc == 0)
		rc = member_join(str_from(args_operand(args, 0)), str_from(args_operand(args, 1)), str_from(c->data),
		                 str_from(c->name), str_from(c->site), roles, &err);
	if (rc == 0) {
		printf("%s is a node of the network now; its identity is in %s.\n\nStart it:\n  mdn serve", c->name,
		       c->data);
		print_options(args);
		printf("\n");
	}
	config_free(c);
	return rc ? args_fail_words(args, &err) : EXIT_DONE;
}

int cmd_serve(const struct args *args)
{
	struct config *c;
	struct error err = {0};
	enum log_level level = LOG_INFO;
	if (args_config(args, &c, &err)) {
		args_fail(args, &err);
		return EXIT_USAGE;
	}
	bool json =
	    strcmp(c->log_format, "json") == 0 || (strcmp(c->log_format, "auto") == 0 && !isatty(STDERR_FILENO));
	if (log_level_parse(c->log_level, &level)) {
		error_set(&err, E_INVAL, "log_level: `%s` is not debug, info, warn or error", c->log_level);
		config_free(c);
		return args_fail(args, &err);
	}
	log_setup(level, json, c->name);
	struct node_source source = {args_config_path(args), args->overrides, args->override_count};
	int rc = node_run(c, &source, &err);
	config_free(c);
	return rc ? args_fail_words(args, &err) : EXIT_DONE;
}
