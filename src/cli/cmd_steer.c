/* SPDX-License-Identifier: Apache-2.0 */
/* `mdn clients`, `mdn weight`, `mdn pin`, `mdn unpin`: where clients are sent.
 *
 * A word goes to every scheduler. Who they are, the center says; what it said last is kept beside the operator's
 * identity (nodes.json), so that all of this works while the center is away. */
#include "base/clock.h"
#include "base/file.h"
#include "cli/answers.h"
#include "cli/client.h"
#include "cli/options.h"
#include "cli/table.h"
#include "core/report.h"

#include <stdio.h>
#include <stdlib.h>

#define NODES_MAX (64u << 20)

struct network {
	struct client *client;
	yyjson_doc *nodes;
};

static char *nodes_path(const struct args *args)
{
	char buffer[4096];
	const char *folder = args_value(args, "operator");
	return file_join(str_from(folder ? folder : client_operator_dir_default(buffer, sizeof buffer)), "nodes.json");
}

/* Only what is needed to find nodes again. A folder that cannot be written to costs only that. */
static void nodes_keep(const char *path, yyjson_val *root)
{
	struct buf out = {0};
	yyjson_val *node;
	size_t i, max;
	buf_append_str(&out, STR("{\"nodes\":["));
	yyjson_arr_foreach(yyjson_obj_get(root, "nodes"), i, max, node)
	{
		static const char *const keys[] = {"id", "name", "roles", "node_url"};
		for (size_t k = 0; k < 4; k++) {
			buf_printf(&out, "%s\"%s\":", k > 0 ? "," : i > 0 ? ",{" : "{", keys[k]);
			buf_append_json(&out, answer_text(node, keys[k]));
		}
		buf_append_str(&out, STR("}"));
	}
	buf_append_str(&out, STR("]}\n"));
	file_write(path, 0600, buf_str(&out), NULL);
	buf_fini(&out);
}

static int nodes_read(const char *path, yyjson_doc **ret_doc)
{
	struct buf text = {0};
	int rc = file_read(path, NODES_MAX, &text, NULL);
	if (rc == 0)
		rc = json_parse(buf_str(&text), ret_doc, NULL);
	buf_fini(&text);
	return rc;
}

static int network_open(const struct args *args, struct network *n, struct error *err)
{
	int rc = client_open(args_value(args, "operator"), &n->client, err);
	if (rc)
		return rc;
	char *path = nodes_path(args);
	rc = client_json(n->client, "GET", "/mdn/v1/nodes", STR(""), &n->nodes, err);
	if (rc == 0) {
		nodes_keep(path, yyjson_doc_get_root(n->nodes));
	} else if (rc != E_CANCELED && rc != E_AUTH && rc != E_FORBIDDEN && nodes_read(path, &n->nodes) == 0) {
		fprintf(stderr, "The center does not answer (%s); using the schedulers it named last.\n", err->text);
		rc = 0;
	}
	free(path);
	return rc;
}

static void network_close(struct network *n)
{
	yyjson_doc_free(n->nodes);
	client_close(n->client);
}

static bool is_scheduler(yyjson_val *node)
{
	uint32_t roles = 0;
	return node_roles_parse(answer_text(node, "roles"), &roles, NULL) == 0 && (roles & ROLE_SCHEDULER) &&
	       answer_text(node, "node_url").len > 0;
}

static int call(struct network *n, yyjson_val *node, const char *method, struct str body, struct buf *ret_answer,
                struct error *err)
{
	char url[NODE_URL_SIZE + 32], id[NODE_ID_SIZE];
	struct str base = answer_text(node, "node_url");
	str_copy(answer_text(node, "id"), id, sizeof id);
	snprintf(url, sizeof url, STR_FMT "/mdn/v1/steer", (int)(base.len < NODE_URL_SIZE ? base.len : NODE_URL_SIZE),
	         base.base);
	const struct client_call c = {
	    .method = method, .url = url, .node_id = id, .body = body, .timeout_us = 5 * US_PER_S};
	return client_run(n->client, &c, NULL, ret_answer, err);
}

/* To all of them, also after one failed; the first failure is told. */
static int say(struct network *n, struct str body, struct error *err)
{
	yyjson_val *node;
	size_t i, max, told = 0, all = 0;
	int rc = 0;
	yyjson_arr_foreach(yyjson_obj_get(yyjson_doc_get_root(n->nodes), "nodes"), i, max, node)
	{
		struct error its = {0};
		if (!is_scheduler(node))
			continue;
		all++;
		int one = call(n, node, "POST", body, NULL, &its);
		told += one == 0;
		if (one == E_CANCELED || (one && rc == 0)) {
			rc = one;
			*err = its;
			error_prefix(err, "scheduler " STR_FMT, STR_ARG(answer_text(node, "name")));
		}
		if (one == E_CANCELED)
			break;
	}
	if (all == 0)
		return error_set(err, E_NOTFOUND, "the network has no scheduler that ever started");
	if (rc && told > 0)
		error_prefix(err, "%zu of %zu schedulers heard it; say it again", told, all);
	return rc;
}

/* Says `subject` and what follows it in the document. */
static int steer(const struct args *args, struct network *n, struct str subject, const char *rest, const char *done)
{
	struct error err = {0};
	struct buf body = {0};
	buf_append_str(&body, STR("{\"subject\":"));
	buf_append_json(&body, subject);
	buf_printf(&body, ",%s,\"at_us\":%lld}", rest, (long long)clock_wall_us());
	int rc = say(n, buf_str(&body), &err);
	buf_fini(&body);
	if (rc)
		return args_fail(args, &err);
	printf("%s %s\n", args_operand(args, 0), done);
	return EXIT_DONE;
}

/* site=NAME, or a node by name or id. */
static int subject_of(const struct network *n, const char *what, struct buf *ret_subject, struct error *err)
{
	yyjson_val *node;
	size_t i, max;
	if (str_starts(str_from(what), STR("site="))) {
		buf_append_str(ret_subject, str_from(what));
		return 0;
	}
	yyjson_arr_foreach(yyjson_obj_get(yyjson_doc_get_root(n->nodes), "nodes"), i, max, node)
	{
		struct str id = answer_text(node, "id");
		if (str_equal(id, str_from(what)) || str_equal(answer_text(node, "name"), str_from(what))) {
			buf_printf(ret_subject, "node=" STR_FMT, STR_ARG(id));
			return 0;
		}
	}
	return error_set(err, E_NOTFOUND, "no node is called %s (a site is site=NAME): see `mdn nodes`", what);
}

int cmd_weight(const struct args *args)
{
	struct network n = {0};
	struct error err = {0};
	struct buf subject = {0};
	uint64_t weight;
	char rest[32];
	struct str text = str_from(args_operand(args, 1));
	if (str_ends(text, STR("%")))
		text.len--;
	if (str_to_u64(text, &weight) || weight > 100)
		return args_usage(args, "%s is not a weight from 0 to 100", args_operand(args, 1));
	snprintf(rest, sizeof rest, "\"weight\":%d", (int)weight);
	int rc = network_open(args, &n, &err);
	if (rc == 0)
		rc = subject_of(&n, args_operand(args, 0), &subject, &err);
	int code = rc ? args_fail(args, &err)
	              : steer(args, &n, buf_str(&subject), rest,
	                      weight == 0     ? "takes no new clients; those who come are answered"
	                      : weight == 100 ? "is given clients as usual"
	                                      : "is given fewer clients");
	buf_fini(&subject);
	network_close(&n);
	return code;
}

static int pin(const struct args *args, const char *site, const char *done)
{
	struct network n = {0};
	struct error err = {0};
	struct buf subject = {0}, rest = {0};
	buf_printf(&subject, "prefix=%s", args_operand(args, 0));
	buf_append_str(&rest, STR("\"site\":"));
	buf_append_json(&rest, str_from(site));
	buf_append(&rest, "", 1);
	int code =
	    network_open(args, &n, &err) ? args_fail(args, &err) : steer(args, &n, buf_str(&subject), rest.base, done);
	buf_fini(&subject);
	buf_fini(&rest);
	network_close(&n);
	return code;
}

int cmd_pin(const struct args *args)
{
	return pin(args, args_operand(args, 1), "is sent there, while it takes anybody");
}

int cmd_unpin(const struct args *args)
{
	return pin(args, "", "goes where the map says");
}

/* ---- the map --------------------------------------------------------------------------------- */

static void print_words(yyjson_val *root)
{
	yyjson_val *word;
	size_t i, max;
	yyjson_arr_foreach(yyjson_obj_get(root, "words"), i, max, word)
	{
		struct str subject = answer_text(word, "subject"), site = answer_text(word, "site");
		if (site.len > 0)
			printf("pinned    " STR_FMT " to " STR_FMT "\n", STR_ARG(subject), STR_ARG(site));
		else if (yyjson_obj_get(word, "weight") && answer_number(word, "weight") < 100)
			printf("weight    " STR_FMT " %lld %%\n", STR_ARG(subject),
			       (long long)answer_number(word, "weight"));
	}
}

static void print_map(yyjson_val *root)
{
	yyjson_val *site;
	size_t i, max;
	printf("map       number %lld: %lld prefixes known, %lld sent elsewhere than their own site\n"
	       "demand    %.1f requests in work, room for %.1f\n",
	       (long long)answer_number(root, "number"), (long long)answer_number(root, "prefixes"),
	       (long long)answer_number(root, "named"), answer_rate(root, "demand"), answer_rate(root, "capacity"));
	print_words(root);
	if (yyjson_arr_size(yyjson_obj_get(root, "sites")) == 0)
		return;
	struct table *t = table_new("SITE,>NODES,>ROOM,>DEMAND,>WEIGHT");
	yyjson_arr_foreach(yyjson_obj_get(root, "sites"), i, max, site)
	{
		struct str name = answer_text(site, "site");
		table_add(t, STR_FMT, STR_ARG(name));
		table_add(t, "%lld", (long long)answer_number(site, "nodes"));
		table_add(t, "%.1f", answer_rate(site, "capacity"));
		table_add(t, "%.1f", answer_rate(site, "demand"));
		table_add(t, "%lld %%", (long long)answer_number(site, "weight"));
	}
	table_print(t, stdout);
	table_free(t);
}

/* Of the first scheduler that answers: all are told the same. */
int cmd_clients(const struct args *args)
{
	struct network n = {0};
	struct error err = {0};
	struct buf answer = {0};
	yyjson_val *node;
	yyjson_doc *doc = NULL;
	size_t i, max;
	int rc = network_open(args, &n, &err);
	if (rc == 0)
		rc = error_set(&err, E_NOTFOUND, "the network has no scheduler that ever started");
	yyjson_arr_foreach(yyjson_obj_get(yyjson_doc_get_root(n.nodes), "nodes"), i, max, node)
	{
		if (rc && rc != E_CANCELED && is_scheduler(node))
			rc = call(&n, node, "GET", STR(""), &answer, &err);
	}
	if (rc == 0)
		rc = json_parse(buf_str(&answer), &doc, &err);
	if (rc == 0 && args_has(args, "json"))
		printf(STR_FMT, STR_ARG(buf_str(&answer)));
	else if (rc == 0)
		print_map(yyjson_doc_get_root(doc));
	yyjson_doc_free(doc);
	buf_fini(&answer);
	network_close(&n);
	return rc ? args_fail(args, &err) : EXIT_DONE;
}
