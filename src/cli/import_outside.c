/* SPDX-License-Identifier: Apache-2.0 */
/* The repository does the work and tells how far it is (docs/wire.md, "Import"); it gives up when we go, and keeps what
 * came, so that the same command goes on. */
#include "cli/import_outside.h"

#include "cli/answers.h"
#include "cli/client.h"
#include "cli/progress.h"
#include "cli/push.h"
#include "net/sse.h"

#include <stdio.h>

#define EVENT_MAX 65536

struct following {
	struct sse_parser parser;
	struct progress progress;
	bool started, quiet;
	uint64_t done;
	char model[300];
	struct error err;
};

bool import_is_outside(const char *source)
{
	static const char *const kinds[] = {"hf:", "oci:", "ollama:", "http://", "https://"};
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
		if (str_starts(str_from(source), str_from(kinds[i])))
			return true;
	return false;
}

static void show(struct following *f, yyjson_val *at)
{
	int64_t done = answer_number(at, "done"), total = answer_number(at, "total");
	if (f->quiet || total <= 0)
		return;
	if (!f->started)
		progress_start(&f->progress, "importing", (uint64_t)total);
	f->started = true;
	f->done = (uint64_t)done;
	progress_show(&f->progress, f->done);
}

static int on_event(void *arg, struct str event, struct str data)
{
	struct following *f = arg;
	yyjson_doc *doc;
	int rc = json_parse(data, &doc, &f->err);
	if (rc)
		return rc;
	yyjson_val *root = yyjson_doc_get_root(doc);
	struct str name = answer_text(root, "name"), tag = answer_text(root, "tag"),
		   words = answer_text(root, "message");
	if (str_equal(event, STR("result")))
		snprintf(f->model, sizeof f->model, STR_FMT ":" STR_FMT, STR_ARG(name), STR_ARG(tag));
	else if (str_equal(event, STR("error")))
		rc = error_set(&f->err, str_equal(answer_text(root, "code"), STR("not_found")) ? E_NOTFOUND : E_PEER,
		               STR_FMT, STR_ARG(words));
	else
		show(f, root);
	yyjson_doc_free(doc);
	return rc;
}

static bool on_data(void *arg, int status, struct str data)
{
	struct following *f = arg;
	return sse_parser_feed(&f->parser, data, &f->err) == 0 && !f->err.code;
}

static void append(struct buf *body, const char *key, const char *value)
{
	if (!value)
		return;
	buf_printf(body, "%s\"%s\":", body->len > 1 ? "," : "", key);
	buf_append_json(body, str_from(value));
}

static int follow(struct client *c, const struct repository_at *at, struct str body, struct following *f,
                  struct error *err)
{
	char url[700];
	snprintf(url, sizeof url, "%s/mdn/v1/repository/import", at->url);
	sse_parser_init(&f->parser, EVENT_MAX, on_event, f);
	struct client_call call = {.method = "POST",
	                           .url = url,
	                           .node_id = at->id[0] ? at->id : NULL,
	                           .body = body,
	                           .on_data = on_data,
	                           .arg = f,
	                           .endless = true};
	int rc = client_run(c, &call, NULL, NULL, err);
	sse_parser_fini(&f->parser);
	if (f->started)
		progress_end(&f->progress, f->err.code || !f->model[0] ? f->done : f->progress.total);
	if (f->err.code && (!rc || rc == E_CANCELED)) {
		*err = f->err;
		return f->err.code;
	}
	if (rc == E_CANCELED)
		return error_set(err, rc, "given up; what came is kept: the same command goes on");
	if (!rc && !f->model[0])
		rc = error_set(err, E_PEER,
		               "the repository broke off before the end; say it again, it goes on where it was");
	return rc;
}

int import_outside(const struct args *args, const char *source, struct error *err)
{
	struct client *c;
	struct repository_at at;
	struct following f = {.quiet = args_has(args, "quiet") || args_has(args, "json")};
	struct buf body = {0};
	int rc = client_open(args_value(args, "operator"), &c, err);
	if (rc)
		return rc;
	buf_append_str(&body, STR("{"));
	append(&body, "from", source);
	append(&body, "to", args_operand(args, 1));
	append(&body, "include", args_value(args, "include"));
	append(&body, "sha256", args_value(args, "sha256"));
	buf_append_str(&body, STR("}"));
	rc = repository_find(c, args_value(args, "repository"), &at, err);
	if (!rc)
		rc = follow(c, &at, buf_str(&body), &f, err);
	if (!rc && args_has(args, "json"))
		printf("{\"model\":\"%s\"}\n", f.model);
	else if (!rc)
		printf("%s is in the repository\nPlace it: mdn place %s --on role=edge\n", f.model, f.model);
	buf_fini(&body);
	client_close(c);
	return rc;
}
