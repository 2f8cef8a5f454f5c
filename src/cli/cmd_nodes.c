/* SPDX-License-Identifier: Apache-2.0 */
/* `mdn nodes`, `mdn status`, `mdn drain`, `mdn remove`, `mdn logs`: running a network. */
#include "base/clock.h"
#include "cli/answers.h"
#include "cli/client.h"
#include "cli/node_find.h"
#include "cli/node_table.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/show.h"
#include "cli/table.h"
#include "core/report.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- nodes, status -------------------------------------------------------------------------------- */

static void print_nodes(yyjson_val *root)
{
	node_table_print(root, NULL, stdout);
}

int cmd_nodes(const struct args *args)
{
	return center_show(args, "/mdn/v1/nodes", print_nodes);
}

int cmd_status(const struct args *args)
{
	struct client *c;
	struct error err = {0};
	yyjson_doc *nodes = NULL, *models = NULL;
	if (client_open(args_value(args, "operator"), &c, &err))
		return args_fail(args, &err);
	int rc = client_json(c, "GET", "/mdn/v1/nodes", STR(""), &nodes, &err);
	if (rc == 0)
		rc = client_json(c, "GET", "/mdn/v1/models", STR(""), &models, &err);
	if (rc == 0) {
		struct network_summary s = node_table_summary(yyjson_doc_get_root(nodes), yyjson_doc_get_root(models));
		if (args_has(args, "json"))
			printf(
			    "{\"center\":\"%s\",\"nodes\":%zu,\"up\":%zu,\"models\":%zu,\"copies\":%zu,\"ready\":%zu,"
			    "\"running\":%lld,\"waiting\":%lld,\"tokens_per_s\":%.1f}\n",
			    client_center_url(c), s.nodes, s.up, s.models, s.placed, s.ready, (long long)s.running,
			    (long long)s.waiting, s.tokens_per_s);
		else
			printf("center    %s\nnodes     %zu of %zu up\nmodels    %zu, %zu of %zu copies ready\n"
			       "requests  %lld running, %lld waiting, %.0f tokens/s\n",
			       client_center_url(c), s.up, s.nodes, s.models, s.ready, s.placed, (long long)s.running,
			       (long long)s.waiting, s.tokens_per_s);
	}
	yyjson_doc_free(nodes);
	yyjson_doc_free(models);
	client_close(c);
	return rc ? args_fail(args, &err) : EXIT_DONE;
}

/* ---- one node ------------------------------------------------------------------------------------- */

static int node_action(const struct args *args, const char *method, const char *suffix, const char *done_words)
{
	struct client *c;
	struct error err = {0};
	char id[NODE_ID_SIZE], url[NODE_URL_SIZE], path[128];
	if (client_open(args_value(args, "operator"), &c, &err))
		return args_fail(args, &err);
	int rc = node_find(c, args_operand(args, 0), id, sizeof id, url, sizeof url, &err);
	if (rc == 0) {
		snprintf(path, sizeof path, "/mdn/v1/nodes/%s%s", id, suffix);
		rc = client_json(c, method, path, STR(""), NULL, &err);
	}
	if (rc == 0)
		printf("%s %s\n", args_operand(args, 0), done_words);
	client_close(c);
	return rc ? args_fail(args, &err) : EXIT_DONE;
}

int cmd_drain(const struct args *args)
{
	return node_action(args, "POST", "/drain", "is draining: streams finish, new requests go elsewhere");
}

int cmd_remove(const struct args *args)
{
	return node_action(args, "DELETE", "",
	                   "is removed: its connections are cut, its certificate is no longer renewed");
}

static bool on_log(void *arg, int status, struct str data)
{
	fwrite(data.base, 1, data.len, stdout);
	fflush(stdout);
	return true;
}

int cmd_logs(const struct args *args)
{
	struct client *c;
	struct error err = {0};
	char id[NODE_ID_SIZE], at[NODE_URL_SIZE], url[NODE_URL_SIZE + 128];
	uint64_t lines = 100;
	const char *text = args_value(args, "lines");
	bool follow = args_has(args, "follow");
	if (text && str_to_u64(str_from(text), &lines))
		return args_usage(args, "--lines %s is not a number", text);
	if (client_open(args_value(args, "operator"), &c, &err))
		return args_fail(args, &err);
	int rc = node_find(c, args_operand(args, 0), id, sizeof id, at, sizeof at, &err);
	if (rc == 0 && !at[0])
		rc = error_set(&err, E_UNAVAILABLE, "%s has joined but never started; on its machine run: mdn serve",
		               args_operand(args, 0));
	if (rc == 0) {
		snprintf(url, sizeof url, "%s/mdn/v1/logs?lines=%llu%s", at, (unsigned long long)lines,
		         follow ? "&follow=true" : "");
		struct client_call call = {.url = url, .node_id = id, .on_data = on_log, .endless = follow};
		rc = client_run(c, &call, NULL, NULL, &err);
	}
	client_close(c);
	return rc == E_CANCELED ? EXIT_INTERRUPTED : rc ? args_fail(args, &err) : EXIT_DONE;
}
