/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/store_events.h"

#include "cli/answers.h"
#include "cli/progress.h"
#include "net/sse.h"

#include <stdio.h>
#include <unistd.h>

#define EVENT_MAX (1 << 20)

struct follow {
	const struct store_events *e;
	struct sse_parser parser;
	yyjson_doc *result;
	struct error err;
	bool terminal;
};

static void show(yyjson_val *at)
{
	char bytes[16];
	struct str phase = answer_text(at, "phase");
	int64_t read = answer_number(at, "bytes"), freed = answer_number(at, "freed_bytes");
	format_bytes((uint64_t)(read > 0 ? read : freed > 0 ? freed : 0), bytes);
	fprintf(stderr, "\r" STR_FMT ", %s%s\033[K", STR_ARG(phase), bytes, read > 0 ? " read" : "");
	fflush(stderr);
}

static int on_event(void *arg, struct str event, struct str data)
{
	struct follow *f = arg;
	yyjson_doc *doc;
	int rc = json_parse(data, &doc, &f->err);
	if (rc)
		return rc;
	yyjson_val *root = yyjson_doc_get_root(doc);
	if (str_equal(event, STR("result"))) {
		yyjson_doc_free(f->result);
		f->result = doc;
		return 0;
	}
	if (str_equal(event, STR("error"))) {
		struct str words = answer_text(yyjson_obj_get(root, "error"), "message");
		rc = error_set(&f->err, E_IO, STR_FMT, STR_ARG(words));
	} else if (str_equal(event, STR("fault")) && f->e->on_fault) {
		f->e->on_fault(f->e->arg, root);
	} else if (f->terminal) {
		show(root);
	}
	yyjson_doc_free(doc);
	return rc;
}

static bool on_data(void *arg, int status, struct str data)
{
	struct follow *f = arg;
	return sse_parser_feed(&f->parser, data, &f->err) == 0 && !f->err.code;
}

int store_events_run(struct client *c, const struct store_events *e, yyjson_doc **ret_result, struct error *err)
{
	struct follow f = {.e = e, .terminal = isatty(STDERR_FILENO)};
	sse_parser_init(&f.parser, EVENT_MAX, on_event, &f);
	struct client_call call = {.method = "POST",
	                           .url = e->url,
	                           .node_id = e->node_id && e->node_id[0] ? e->node_id : NULL,
	                           .on_data = on_data,
	                           .arg = &f,
	                           .endless = true};
	int rc = client_run(c, &call, NULL, NULL, err);
	if (f.terminal)
		fprintf(stderr, "\r\033[K");
	if (f.err.code && (!rc || rc == E_CANCELED)) {
		*err = f.err;
		rc = f.err.code;
	}
	if (!rc && !f.result)
		rc = error_set(err, E_PEER, "the node broke off before the end; see `mdn logs`");
	sse_parser_fini(&f.parser);
	if (rc)
		yyjson_doc_free(f.result);
	else
		*ret_result = f.result;
	return rc;
}
