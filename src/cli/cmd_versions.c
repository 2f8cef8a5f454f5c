/* SPDX-License-Identifier: Apache-2.0 */
/* `mdn channel`, `promote`, `rollback`, `retire`, `history`, `label`, `diff`, `quota`, `quantize` and searching: calls
 * to the repository's node, as the operator. */
#include "base/clock.h"
#include "cli/answers.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/push.h"
#include "cli/table.h"
#include "cli/versions.h"
#include "net/sse.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define API "/mdn/v1/repository/"
#define DIFF_TIMEOUT_US (600 * US_PER_S) /* two large models are read for it */
#define DIFF_BODY_MAX (256u << 20)

struct session {
	struct client *c;
	struct repository_at at;
};

static int session_open(const struct args *args, struct session *s, struct error *err)
{
	*s = (struct session){0};
	int rc = client_open(args_value(args, "operator"), &s->c, err);
	return rc ? rc : repository_find(s->c, args_value(args, "repository"), &s->at, err);
}

/* body NULL: GET. */
static int call(struct session *s, const char *method, const char *path, struct str body, struct buf *ret_answer,
                struct error *err)
{
	struct buf url = {0};
	buf_printf(&url, "%s" API "%s", s->at.url, path);
	buf_append(&url, "", 1);
	struct client_call o = {.method = method,
	                        .url = url.base,
	                        .node_id = s->at.id[0] ? s->at.id : NULL,
	                        .body = body,
	                        .body_max = DIFF_BODY_MAX,
	                        .timeout_us = DIFF_TIMEOUT_US};
	int rc = client_run(s->c, &o, NULL, ret_answer, err);
	buf_fini(&url);
	return rc;
}

static int finish(const struct args *args, struct session *s, int rc, const struct error *err)
{
	client_close(s->c);
	return rc ? args_fail_words(args, err) : EXIT_DONE;
}

/* The whole of a command that asks once and prints: JSON as it comes, else what `print` makes of it. */
static int ask(const struct args *args, const char *method, const char *path, struct str body,
               void (*print)(const struct args *args, yyjson_val *root))
{
	struct session s;
	struct error err = {0};
	struct buf answer = {0};
	yyjson_doc *doc = NULL;
	int rc = session_open(args, &s, &err);
	if (rc == 0)
		rc = call(&s, method, path, body, &answer, &err);
	if (rc == 0 && args_has(args, "json"))
		printf(STR_FMT "\n", STR_ARG(str_trim(buf_str(&answer))));
	else if (rc == 0 && (rc = json_parse(buf_str(&answer), &doc, &err)) == 0)
		print(args, yyjson_doc_get_root(doc));
	yyjson_doc_free(doc);
	buf_fini(&answer);
	return finish(args, &s, rc, &err);
}

static void append_query(struct buf *path, const char *key, struct str value)
{
	bool first = !path->len || !memchr(path->base, '?', path->len);
	buf_printf(path, "%s%s=", first ? "?" : "&", key);
	buf_append_escaped(path, value, URL_SEGMENT);
}

static void end_text(struct buf *b)
{
	buf_append(b, "", 1);
}

/* {"model":"..."} and more keys, of operands. */
static void begin_body(struct buf *body, const char *model)
{
	buf_append_str(body, STR("{\"model\":"));
	buf_append_json(body, str_from(model));
}

static void add_text(struct buf *body, const char *key, const char *value)
{
	buf_printf(body, ",\"%s\":", key);
	buf_append_json(body, str_from(value));
}

/* ---- channels ------------------------------------------------------------------------------------- */

static void format_time(int64_t wall_us, char ret_text[static 32])
{
	time_t seconds = (time_t)(wall_us / US_PER_S);
	struct tm tm;
	if (!wall_us || !localtime_r(&seconds, &tm) || !strftime(ret_text, 32, "%Y-%m-%d %H:%M:%S", &tm))
		ret_text[0] = 0;
}

/* "v2, latest", or the beginning of the digest when no other tag names it. */
static void add_version_cell(struct table *t, yyjson_val *o, const char *key)
{
	char tags_key[16];
	struct buf text = {0};
	struct str digest = answer_text(o, key);
	yyjson_val *tag;
	size_t i, max;
	snprintf(tags_key, sizeof tags_key, "%s_tags", key);
	yyjson_arr_foreach(yyjson_obj_get(o, tags_key), i, max, tag)
	    buf_printf(&text, "%s%s", i ? ", " : "", yyjson_get_str(tag) ? yyjson_get_str(tag) : "");
	if (!text.len && digest.len > 19)
		buf_append(&text, digest.base + 7, 12);
	table_add(t, STR_FMT, STR_ARG(buf_str(&text)));
	buf_fini(&text);
}

static void print_tags(const struct args *args, yyjson_val *root)
{
	struct table *t = table_new("TAG,DIGEST,~ALSO,SINCE,BY,~WHO");
	yyjson_val *tag;
	size_t i, max;
	yyjson_arr_foreach(yyjson_obj_get(root, "tags"), i, max, tag)
	{
		char since[32];
		struct str name = answer_text(tag, "tag"), digest = answer_text(tag, "digest");
		struct str what = answer_text(tag, "what"), who = answer_text(tag, "who");
		yyjson_val *also = yyjson_obj_get(tag, "digest_tags");
		format_time(answer_number(tag, "moved_us"), since);
		table_add(t, STR_FMT, STR_ARG(name));
		table_add(t, "%.12s", digest.len > 19 ? digest.base + 7 : "");
		if (yyjson_arr_size(also))
			add_version_cell(t, tag, "digest");
		else
			table_add(t, "%s", "");
		table_add(t, "%s", since);
		table_add(t, STR_FMT, STR_ARG(what));
		table_add(t, STR_FMT, STR_ARG(who));
	}
	table_print(t, stdout);
	table_free(t);
}

int cmd_channel(const struct args *args)
{
	struct buf path = {0};
	buf_append_str(&path, STR("tags"));
	append_query(&path, "name", str_from(args_operand(args, 0)));
	end_text(&path);
	int code = ask(args, "GET", path.base, STR(""), print_tags);
	buf_fini(&path);
	return code;
}

static void print_moved(const struct args *args, yyjson_val *root)
{
	struct str model = answer_text(root, "model"), digest = answer_text(root, "digest");
	printf(STR_FMT " is now " STR_FMT "\n", STR_ARG(model), STR_ARG(digest));
}

int cmd_promote(const struct args *args)
{
	struct buf body = {0};
	begin_body(&body, args_operand(args, 0));
	add_text(&body, "channel", args_operand(args, 1));
	buf_append_str(&body, STR("}"));
	int code = ask(args, "POST", "promote", buf_str(&body), print_moved);
	buf_fini(&body);
	return code;
}

int cmd_rollback(const struct args *args)
{
	struct buf body = {0};
	begin_body(&body, args_operand(args, 0));
	buf_append_str(&body, STR("}"));
	int code = ask(args, "POST", "rollback", buf_str(&body), print_moved);
	buf_fini(&body);
	return code;
}

static void print_retired(const struct args *args, yyjson_val *root)
{
	struct str model = answer_text(root, "model");
	yyjson_val *also = yyjson_obj_get(root, "also"), *tag;
	size_t i, max;
	printf(STR_FMT " is %s\n", STR_ARG(model), args_has(args, "undo") ? "in use again" : "retired");
	if (args_has(args, "undo") || !yyjson_arr_size(also))
		return;
	printf("Other tags name the same version and are not retired:");
	yyjson_arr_foreach(also, i, max, tag) printf(" %s", yyjson_get_str(tag));
	printf("\n");
}

int cmd_retire(const struct args *args)
{
	struct buf body = {0};
	begin_body(&body, args_operand(args, 0));
	buf_printf(&body, ",\"undo\":%s}", args_has(args, "undo") ? "true" : "false");
	int code = ask(args, "POST", "retire", buf_str(&body), print_retired);
	buf_fini(&body);
	return code;
}

static void print_history(const struct args *args, yyjson_val *root)
{
	struct table *t = table_new("WHEN,WHAT,~FROM,~TO,~WHO");
	yyjson_val *move;
	size_t i, max;
	yyjson_arr_foreach(yyjson_obj_get(root, "moves"), i, max, move)
	{
		char when[32];
		struct str what = answer_text(move, "what"), who = answer_text(move, "who");
		format_time(answer_number(move, "at_us"), when);
		table_add(t, "%s", when);
		table_add(t, STR_FMT, STR_ARG(what));
		add_version_cell(t, move, "from");
		add_version_cell(t, move, "to");
		table_add(t, STR_FMT, STR_ARG(who));
	}
	table_print(t, stdout);
	table_free(t);
}

int cmd_history(const struct args *args)
{
	struct buf path = {0};
	const char *limit = args_value(args, "limit");
	buf_append_str(&path, STR("history"));
	append_query(&path, "model", str_from(args_operand(args, 0)));
	if (limit)
		append_query(&path, "limit", str_from(limit));
	end_text(&path);
	int code = ask(args, "GET", path.base, STR(""), print_history);
	buf_fini(&path);
	return code;
}

/* ---- labels and search ------------------------------------------------------------------------------ */

static void print_labels(const struct args *args, yyjson_val *root)
{
	static const char *const fields[] = {"license", "revision", "base_model", "quantized_from", "distilled_from"};
	yyjson_val *key, *value;
	size_t i, max;
	for (i = 0; i < sizeof fields / sizeof *fields; i++) {
		struct str text = answer_text(root, fields[i]);
		if (text.len)
			printf("%s=" STR_FMT "\n", fields[i], STR_ARG(text));
	}
	yyjson_obj_foreach(yyjson_obj_get(root, "labels"), i, max, key, value)
	    printf("%s=%s\n", yyjson_get_str(key), yyjson_get_str(value) ? yyjson_get_str(value) : "");
}

int cmd_label(const struct args *args)
{
	struct buf body = {0}, removed = {0};
	size_t set = 0;
	begin_body(&body, args_operand(args, 0));
	buf_append_str(&body, STR(",\"set\":{"));
	for (unsigned i = 1; i < args->operand_count; i++) {
		struct str value, key = str_cut(str_from(args->operands[i]), '=', &value);
		bool sets = strchr(args->operands[i], '=') != NULL;
		if (!sets && !str_ends(key, STR("-"))) {
			buf_fini(&body);
			buf_fini(&removed);
			return args_usage(args, "`%s` is neither KEY=VALUE nor KEY-", args->operands[i]);
		}
		struct buf *to = sets ? &body : &removed;
		if (!sets)
			key.len--;
		buf_append_str(to, (sets ? set++ : removed.len) ? STR(",") : STR(""));
		buf_append_json(to, key);
		if (sets) {
			buf_append_str(to, STR(":"));
			buf_append_json(to, value);
		}
	}
	buf_append_str(&body, STR("},\"remove\":["));
	buf_append_str(&body, buf_str(&removed));
	buf_append_str(&body, STR("]}"));
	int code = ask(args, "POST", "label", buf_str(&body), print_labels);
	buf_fini(&body);
	buf_fini(&removed);
	return code;
}

static void print_found(const struct args *args, yyjson_val *root)
{
	struct table *t = table_new("~MODEL,KIND,ARCHITECTURE,QUANTIZATION,LICENSE,>SIZE,~FROM,~LABELS");
	yyjson_val *model, *file, *key, *value;
	size_t i, max, k, count;
	yyjson_arr_foreach(yyjson_obj_get(root, "models"), i, max, model)
	{
		char size[16];
		uint64_t bytes = 0;
		struct buf labels = {0};
		struct str name = answer_text(model, "name"), tag = answer_text(model, "tag");
		struct str kind = answer_text(model, "kind"), arch = answer_text(model, "architecture");
		struct str quant = answer_text(model, "quantization"), license = answer_text(model, "license");
		struct str from = answer_text(model, "quantized_from");
		bool retired = yyjson_get_bool(yyjson_obj_get(model, "retired"));
		yyjson_arr_foreach(yyjson_obj_get(model, "files"), k, count, file) bytes +=
		    (uint64_t)answer_number(file, "size");
		yyjson_obj_foreach(yyjson_obj_get(model, "labels"), k, count, key, value)
		    buf_printf(&labels, "%s%s=%s", labels.len ? " " : "", yyjson_get_str(key),
		               yyjson_get_str(value) ? yyjson_get_str(value) : "");
		if (!from.len)
			from = answer_text(model, "base_model");
		format_bytes(bytes, size);
		table_add(t, STR_FMT ":" STR_FMT "%s", STR_ARG(name), STR_ARG(tag), retired ? " (retired)" : "");
		table_add(t, STR_FMT, STR_ARG(kind));
		table_add(t, STR_FMT, STR_ARG(arch));
		table_add(t, STR_FMT, STR_ARG(quant));
		table_add(t, STR_FMT, STR_ARG(license));
		table_add(t, "%s", size);
		table_add(t, STR_FMT, STR_ARG(from));
		table_add(t, STR_FMT, STR_ARG(buf_str(&labels)));
		buf_fini(&labels);
	}
	table_print(t, stdout);
	table_free(t);
	struct str next = answer_text(root, "next");
	if (next.len)
		printf("There are more than %zu: ask for less.\n", max);
}

bool versions_is_search(const struct args *args)
{
	return args_has(args, "search") || args_has(args, "label") || args_has(args, "license") ||
	       args_has(args, "arch") || args_has(args, "retired");
}

int versions_search(const struct args *args)
{
	static const char *const plain[] = {"search", "license", "arch"};
	struct buf path = {0}, labels = {0};
	const char *label;
	buf_append_str(&path, STR("models"));
	for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
		if (args_has(args, plain[i]))
			append_query(&path, plain[i], str_from(args_value(args, plain[i])));
	for (unsigned i = 0; (label = args_nth(args, "label", i)); i++)
		buf_printf(&labels, "%s%s", i ? "," : "", label);
	if (labels.len)
		append_query(&path, "label", buf_str(&labels));
	if (args_has(args, "retired"))
		append_query(&path, "retired", STR("1"));
	end_text(&path);
	int code = ask(args, "GET", path.base, STR(""), print_found);
	buf_fini(&path);
	buf_fini(&labels);
	return code;
}

/* ---- differences -------------------------------------------------------------------------------------- */

static void print_metadata(yyjson_val *list)
{
	struct table *t;
	yyjson_val *line;
	size_t i, max;
	if (!yyjson_arr_size(list))
		return;
	t = table_new("KEY,CHANGE,~OLD,~NEW");
	yyjson_arr_foreach(list, i, max, line)
	{
		struct str key = answer_text(line, "key"), change = answer_text(line, "change");
		struct str from = answer_text(line, "from"), to = answer_text(line, "to");
		table_add(t, STR_FMT, STR_ARG(key));
		table_add(t, STR_FMT, STR_ARG(change));
		table_add(t, STR_FMT, STR_ARG(from));
		table_add(t, STR_FMT, STR_ARG(to));
	}
	table_print(t, stdout);
	table_free(t);
	printf("\n");
}

static void add_tensor_cells(struct table *t, yyjson_val *side)
{
	char size[16] = "";
	struct str type = answer_text(side, "type");
	if (side)
		format_bytes((uint64_t)answer_number(side, "bytes"), size);
	table_add(t, STR_FMT, STR_ARG(type));
	table_add(t, "%s", size);
}

static void print_tensors(yyjson_val *list)
{
	struct table *t;
	yyjson_val *line;
	size_t i, max;
	if (!yyjson_arr_size(list))
		return;
	t = table_new("~TENSOR,CHANGE,OLD,>SIZE,NEW,>SIZE");
	yyjson_arr_foreach(list, i, max, line)
	{
		struct str name = answer_text(line, "name"), change = answer_text(line, "change");
		table_add(t, STR_FMT, STR_ARG(name));
		table_add(t, STR_FMT, STR_ARG(change));
		add_tensor_cells(t, yyjson_obj_get(line, "from"));
		add_tensor_cells(t, yyjson_obj_get(line, "to"));
	}
	table_print(t, stdout);
	table_free(t);
	printf("\n");
}

static void print_files(yyjson_val *list)
{
	struct table *t;
	yyjson_val *line;
	size_t i, max;
	if (!yyjson_arr_size(list))
		return;
	t = table_new("~FILE,CHANGE,>OLD,>NEW");
	yyjson_arr_foreach(list, i, max, line)
	{
		char from[16] = "", to[16] = "";
		struct str path = answer_text(line, "path"), change = answer_text(line, "change");
		if (yyjson_obj_get(line, "from_bytes"))
			format_bytes((uint64_t)answer_number(line, "from_bytes"), from);
		if (yyjson_obj_get(line, "to_bytes"))
			format_bytes((uint64_t)answer_number(line, "to_bytes"), to);
		table_add(t, STR_FMT, STR_ARG(path));
		table_add(t, STR_FMT, STR_ARG(change));
		table_add(t, "%s", from);
		table_add(t, "%s", to);
	}
	table_print(t, stdout);
	table_free(t);
	printf("\n");
}

static void print_diff(const struct args *args, yyjson_val *root)
{
	char from[16], to[16], move[16];
	struct str a = answer_text(root, "from"), b = answer_text(root, "to");
	print_metadata(yyjson_obj_get(root, "metadata"));
	print_tensors(yyjson_obj_get(root, "tensors"));
	print_files(yyjson_obj_get(root, "files"));
	format_bytes((uint64_t)answer_number(root, "from_bytes"), from);
	format_bytes((uint64_t)answer_number(root, "to_bytes"), to);
	format_bytes((uint64_t)answer_number(root, "move_bytes"), move);
	printf("Tensors: %lld added, %lld removed, %lld changed, %lld the same.\n",
	       (long long)answer_number(root, "tensors_added"), (long long)answer_number(root, "tensors_removed"),
	       (long long)answer_number(root, "tensors_changed"), (long long)answer_number(root, "tensors_same"));
	printf(STR_FMT " has %s, " STR_FMT " has %s: a node with the first fetches %s.\n", STR_ARG(a), from, STR_ARG(b),
	       to, move);
}

int cmd_diff(const struct args *args)
{
	struct buf path = {0};
	buf_append_str(&path, STR("diff"));
	append_query(&path, "from", str_from(args_operand(args, 0)));
	append_query(&path, "to", str_from(args_operand(args, 1)));
	end_text(&path);
	int code = ask(args, "GET", path.base, STR(""), print_diff);
	buf_fini(&path);
	return code;
}

static void print_quota(const struct args *args, yyjson_val *root)
{
	struct table *t = table_new("NAMESPACE,>USED,>QUOTA,SHARE");
	yyjson_val *space;
	size_t i, max;
	yyjson_arr_foreach(yyjson_obj_get(root, "spaces"), i, max, space)
	{
		char used[16], quota[16] = "", bar[15] = "";
		struct str name = answer_text(space, "name");
		int64_t most = answer_number(space, "quota"), has = answer_number(space, "used");
		format_bytes((uint64_t)has, used);
		if (yyjson_obj_get(space, "quota")) {
			format_bytes((uint64_t)most, quota);
			format_bar(most ? (double)has / (double)most : 1, bar, sizeof bar);
		}
		table_add(t, STR_FMT, STR_ARG(name));
		table_add(t, "%s", used);
		table_add(t, "%s", quota);
		table_add(t, "%s", bar);
	}
	table_print(t, stdout);
	table_free(t);
}

int cmd_quota(const struct args *args)
{
	return ask(args, "GET", "quota", STR(""), print_quota);
}

/* ---- quantizing ------------------------------------------------------------------------------------------ */

struct watching {
	struct sse_parser parser;
	struct buf last; /* the newest document */
	bool quiet, terminal;
	struct error err;
};

static void show_job(struct watching *w, yyjson_val *job)
{
	char bar[27];
	struct str state = answer_text(job, "state"), type = answer_text(job, "type");
	int64_t done = answer_number(job, "done"), total = answer_number(job, "total");
	if (w->quiet || !w->terminal)
		return;
	format_bar(total ? (double)done / (double)total : 0, bar, sizeof bar);
	fprintf(stderr, "\r\033[K" STR_FMT " to " STR_FMT " %s %lld of %lld tensors", STR_ARG(state), STR_ARG(type),
	        bar, (long long)done, (long long)total);
	fflush(stderr);
}

static int on_event(void *arg, struct str event, struct str data)
{
	struct watching *w = arg;
	yyjson_doc *doc;
	if (!str_equal(event, STR("progress")))
		return 0;
	buf_clear(&w->last);
	buf_append_str(&w->last, data);
	if (json_parse(data, &doc, NULL) == 0) {
		show_job(w, yyjson_doc_get_root(doc));
		yyjson_doc_free(doc);
	}
	return 0;
}

static bool on_events(void *arg, int status, struct str data)
{
	struct watching *w = arg;
	return sse_parser_feed(&w->parser, data, &w->err) == 0;
}

/* After Ctrl-C this client makes no calls any more: another one says that it is over. */
static void cancel_job(const struct args *args, const char *id)
{
	struct session s;
	struct error err = {0};
	char path[64];
	snprintf(path, sizeof path, "jobs/%s", id);
	if (session_open(args, &s, &err) || call(&s, "DELETE", path, STR(""), NULL, &err))
		fprintf(stderr, "\nmdn quantize: could not cancel the job %s: %s\n", id, err.text);
	else
		fprintf(stderr, "\nmdn quantize: canceled\n");
	client_close(s.c);
}

static int watch_job(struct session *s, const char *id, struct watching *w, struct error *err)
{
	char url[700];
	sse_parser_init(&w->parser, 65536, on_event, w);
	snprintf(url, sizeof url, "%s" API "jobs/%s/events", s->at.url, id);
	struct client_call o = {
	    .url = url, .node_id = s->at.id[0] ? s->at.id : NULL, .on_data = on_events, .arg = w, .endless = true};
	int rc = client_run(s->c, &o, NULL, NULL, err);
	sse_parser_fini(&w->parser);
	if (w->terminal && !w->quiet)
		fprintf(stderr, "\n");
	return rc;
}

/* The last document says how it ended. */
static int job_result(const struct args *args, struct str text, struct error *err)
{
	yyjson_doc *doc;
	int rc = json_parse(text, &doc, err);
	if (rc)
		return error_set(err, E_PEER, "the repository ended without saying how the job is; see `mdn models`");
	yyjson_val *job = yyjson_doc_get_root(doc);
	struct str state = answer_text(job, "state"), to = answer_text(job, "to"), error = answer_text(job, "error");
	char size[16];
	format_bytes((uint64_t)answer_number(job, "size"), size);
	if (str_equal(state, STR("done")) && args_has(args, "json"))
		printf(STR_FMT "\n", STR_ARG(text));
	else if (str_equal(state, STR("done")))
		printf(STR_FMT " is in the repository: %s\n", STR_ARG(to), size);
	else if (str_equal(state, STR("canceled")))
		rc = error_set(err, E_CANCELED, "the job was canceled");
	else
		rc = error_set(err, E_INVAL, STR_FMT,
		               STR_ARG(error.len ? error : STR("the job was not finished; see the repository's log")));
	yyjson_doc_free(doc);
	return rc;
}

static int start_job(const struct args *args, struct session *s, char *ret_id, size_t size, struct error *err)
{
	struct buf body = {0}, answer = {0};
	yyjson_doc *doc = NULL;
	begin_body(&body, args_operand(args, 0));
	add_text(&body, "type", args_operand(args, 1));
	if (args_has(args, "to"))
		add_text(&body, "to", args_value(args, "to"));
	buf_append_str(&body, STR("}"));
	int rc = call(s, "POST", "quantize", buf_str(&body), &answer, err);
	if (rc == 0)
		rc = json_parse(buf_str(&answer), &doc, err);
	if (rc == 0 && !str_copy(answer_text(yyjson_doc_get_root(doc), "id"), ret_id, size))
		rc = error_set(err, E_PEER, "the repository gave no job id");
	if (rc == 0 && args_has(args, "detach"))
		printf(STR_FMT, STR_ARG(buf_str(&answer)));
	yyjson_doc_free(doc);
	buf_fini(&body);
	buf_fini(&answer);
	return rc;
}

int cmd_quantize(const struct args *args)
{
	struct session s;
	struct error err = {0};
	char id[32] = "";
	struct watching w = {.quiet = args_has(args, "json"), .terminal = isatty(STDERR_FILENO)};
	int rc = session_open(args, &s, &err);
	if (rc == 0)
		rc = start_job(args, &s, id, sizeof id, &err);
	if (rc == 0 && !args_has(args, "detach")) {
		rc = watch_job(&s, id, &w, &err);
		if (rc == E_CANCELED)
			cancel_job(args, id);
		if (rc == 0)
			rc = job_result(args, buf_str(&w.last), &err);
	}
	buf_fini(&w.last);
	return finish(args, &s, rc, &err);
}
