/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/model_watch.h"

#include "base/clock.h"
#include "base/limits.h"
#include "cli/answers.h"
#include "cli/node_table.h"
#include "cli/progress.h"
#include "cli/table.h"
#include "net/sse.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* ---- one document --------------------------------------------------------------------------------------- */

static void format_eta(yyjson_val *o, char ret_text[static 16])
{
	int64_t eta = yyjson_get_sint(yyjson_obj_get(o, "eta_us")), left = eta - clock_wall_us();
	if (eta > 0)
		format_duration(left > 0 ? left : 0, ret_text);
	else
		snprintf(ret_text, 16, "%s", eta < 0 ? "?" : "");
}

static void add_sources(struct table *t, yyjson_val *node)
{
	struct buf text = {0};
	yyjson_val *source;
	size_t i, max;
	yyjson_arr_foreach(yyjson_obj_get(node, "sources"), i, max, source)
	{
		struct str name = answer_text(source, "name"), id = answer_text(source, "id");
		struct str shown = name.len ? name : id;
		buf_printf(&text, "%s" STR_FMT, i ? " " : "", STR_ARG(shown));
	}
	table_add(t, STR_FMT, STR_ARG(buf_str(&text)));
	buf_fini(&text);
}

static void add_node(struct table *t, yyjson_val *node)
{
	char bar[15], have[16], rate[16], eta[16];
	struct str name = answer_text(node, "name"), site = answer_text(node, "site"),
		   state = answer_text(node, "state"), error = answer_text(node, "error");
	int64_t bytes = answer_number(node, "have_bytes"), total = answer_number(node, "total_bytes");
	double speed = answer_rate(node, "fetch_rate");
	bool stays =
	    str_equal(answer_text(node, "want"), STR("old")); /* with the version before, which is what it has */
	struct str old = answer_text(node, "old_state");
	format_bar(total > 0 ? (double)bytes / (double)total : 0, bar, sizeof bar);
	format_bytes((uint64_t)bytes, have);
	format_bytes((uint64_t)speed, rate);
	format_eta(node, eta);
	table_add(t, STR_FMT, STR_ARG(name));
	table_add(t, STR_FMT, STR_ARG(site));
	if (stays)
		table_add(t, "old%s" STR_FMT, old.len ? ": " : "", STR_ARG(old));
	else
		table_add(t, STR_FMT, STR_ARG(state));
	table_add(t, "%s", bar);
	table_add(t, "%s", have);
	table_add(t, speed > 0 ? "%s/s" : "", rate);
	table_add(t, "%s", eta);
	add_sources(t, node);
	if (stays)
		error = answer_text(node, "old_error");
	table_add(t, STR_FMT, STR_ARG(error));
}

static struct table *nodes_table(yyjson_val *document)
{
	struct table *t = table_new("NODE,SITE,STATE,PROGRESS,>HAVE,>RATE,>LEFT,~FROM,~ERROR");
	size_t count;
	yyjson_val **sorted = nodes_sorted(document, &count);
	for (size_t i = 0; i < count; i++)
		add_node(t, sorted[i]);
	free(sorted);
	return t;
}

static void summary(yyjson_val *document, FILE *out)
{
	char have[16], total[16], rate[16], eta[16];
	yyjson_val *rollout = yyjson_obj_get(document, "rollout");
	struct str verdict = answer_text(document, "verdict");
	format_bytes((uint64_t)answer_number(document, "have_bytes"), have);
	format_bytes((uint64_t)answer_number(document, "total_bytes"), total);
	format_bytes((uint64_t)answer_rate(document, "fetch_rate"), rate);
	format_eta(document, eta);
	if (answer_number(document, "eta_us") || yyjson_get_sint(yyjson_obj_get(document, "eta_us")) < 0)
		fprintf(out, "%s of %s, %s/s, left: %s%s\n", have, total, rate, eta,
		        yyjson_get_bool(yyjson_obj_get(document, "paused")) ? " (paused)" : "");
	else if (yyjson_get_bool(yyjson_obj_get(document, "paused")))
		fprintf(out, "paused\n");
	if (verdict.len)
		fprintf(out, "deadline: " STR_FMT "\n", STR_ARG(verdict));
	if (rollout) {
		struct str phase = answer_text(rollout, "phase"), why = answer_text(rollout, "why");
		fprintf(out, "roll-out: " STR_FMT ", wave %lld of %lld%s" STR_FMT "\n", STR_ARG(phase),
		        (long long)answer_number(rollout, "wave"), (long long)answer_number(rollout, "waves"),
		        why.len ? ": " : "", STR_ARG(why));
		if (str_equal(phase, STR("returned")))
			fprintf(out, "the tag still names the new version: `mdn rollback` moves it back, "
			             "`mdn rollout continue` tries it again\n");
	}
}

void model_print(yyjson_val *document)
{
	struct table *t = nodes_table(document);
	table_print(t, stdout);
	table_free(t);
	summary(document, stdout);
}

/* ---- live ------------------------------------------------------------------------------------------------- */

struct watch {
	struct sse_parser parser;
	bool json, terminal, done;
	unsigned drawn; /* lines */
	char *before;   /* without a terminal: what was printed last */
	struct error err;
};

static unsigned terminal_width(void)
{
	struct winsize size;
	return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 80;
}

static void draw(struct watch *w, yyjson_val *document)
{
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);
	struct table *t = nodes_table(document);
	table_print_width(t, out, terminal_width(), true);
	table_free(t);
	summary(document, out);
	fclose(out);
	if (w->drawn)
		printf("\033[%uA\033[J", w->drawn);
	w->drawn = 0;
	for (size_t i = 0; i < len; i++)
		w->drawn += text[i] == '\n';
	fwrite(text, 1, len, stdout);
	fflush(stdout);
	free(text);
}

/* For logs and pipes: how many nodes are in which state, when that changes. */
static void tell(struct watch *w, yyjson_val *document)
{
	struct buf line = {0};
	yyjson_val *node;
	size_t i, max;
	yyjson_arr_foreach(yyjson_obj_get(document, "nodes"), i, max, node)
	{
		struct str name = answer_text(node, "name"), state = answer_text(node, "state");
		int64_t total = answer_number(node, "total_bytes"), have = answer_number(node, "have_bytes");
		buf_printf(&line, "%s" STR_FMT " " STR_FMT, i ? ", " : "", STR_ARG(name), STR_ARG(state));
		if (str_equal(state, STR("fetching")) && total > 0)
			buf_printf(&line, " %d %%", (int)(have * 10 / total * 10));
	}
	buf_append(&line, "", 1);
	if (!w->before || strcmp(w->before, line.base) != 0) {
		printf("%s\n", line.base);
		fflush(stdout);
		free(w->before);
		w->before = str_dup(str_from(line.base));
	}
	buf_fini(&line);
}

static bool is_settled(yyjson_val *document)
{
	struct str phase = answer_text(yyjson_obj_get(document, "rollout"), "phase");
	yyjson_val *node;
	size_t i, max;
	if (str_equal(phase, STR("moving")) || str_equal(phase, STR("soaking")) || str_equal(phase, STR("returning")))
		return false;
	yyjson_arr_foreach(yyjson_obj_get(document, "nodes"), i, max, node)
	{
		struct str state = answer_text(node, "state"), want = answer_text(node, "want");
		if (!str_equal(want, STR("old")) && !str_equal(state, STR("ready")) &&
		    !str_equal(state, STR("cached")) && !str_equal(state, STR("failed")))
			return false;
	}
	return yyjson_arr_size(yyjson_obj_get(document, "nodes")) > 0;
}

static int on_event(void *arg, struct str event, struct str data)
{
	struct watch *w = arg;
	yyjson_doc *doc;
	if (!str_equal(event, STR("progress")))
		return 0;
	if (json_parse(data, &doc, &w->err) < 0)
		return w->err.code;
	yyjson_val *document = yyjson_doc_get_root(doc);
	if (w->json)
		printf(STR_FMT "\n", STR_ARG(data));
	else if (w->terminal)
		draw(w, document);
	else
		tell(w, document);
	fflush(stdout);
	w->done = is_settled(document);
	yyjson_doc_free(doc);
	return w->done;
}

static bool on_data(void *arg, int status, struct str data)
{
	struct watch *w = arg;
	struct error ignored = {0};
	(void)status;
	return sse_parser_feed(&w->parser, data, &ignored) == 0;
}

int model_watch(struct client *c, const char *name_tag, bool json, struct error *err)
{
	struct watch w = {.json = json, .terminal = isatty(STDOUT_FILENO)};
	struct buf url = {0};
	buf_append_str(&url, STR("/mdn/v1/events?model="));
	buf_append_escaped(&url, str_from(name_tag), URL_SEGMENT);
	buf_append(&url, "", 1);
	sse_parser_init(&w.parser, LIMIT_CONTROL_DOCUMENT, on_event, &w);
	struct client_call call = {.url = url.base, .on_data = on_data, .arg = &w, .endless = true};
	int rc = client_run(c, &call, NULL, NULL, err);
	if (w.done)
		rc = 0;
	else if (w.err.code)
		rc = error_set(err, w.err.code, "%s", w.err.text);
	sse_parser_fini(&w.parser);
	buf_fini(&url);
	free(w.before);
	return rc;
}
