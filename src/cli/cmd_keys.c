/* SPDX-License-Identifier: Apache-2.0 */
/* `mdn key ...`, `mdn team ...`, `mdn usage ...`: who may ask, how much, and what they took. */
#include "base/clock.h"
#include "cli/answers.h"
#include "cli/client.h"
#include "cli/options.h"
#include "cli/show.h"
#include "cli/table.h"
#include "core/quota.h"

#include <stdio.h>
#include <stdlib.h>

static const char *const limit_options[QUOTA_KINDS] = {
    [QUOTA_REQUESTS] = "requests-per-minute",
    [QUOTA_TOKENS] = "tokens-per-minute",
    [QUOTA_CONCURRENT] = "concurrent",
    [QUOTA_MONTH] = "tokens-per-month",
};

/* "limits" of the options given; 0, or the exit code of a wrong one. */
static int put_limits(const struct args *args, struct buf *body)
{
	const char *between = "\"limits\":{";
	for (int k = 0; k < QUOTA_KINDS; k++) {
		const char *text = args_value(args, limit_options[k]);
		uint64_t number;
		if (!text)
			continue;
		if (str_to_u64(str_from(text), &number) || number > QUOTA_MOST)
			return args_usage(args, "--%s %s is not a number", limit_options[k], text);
		buf_printf(body, "%s\"%s\":%llu", between, quota_kind_name(k), (unsigned long long)number);
		between = ",";
	}
	buf_append_str(body, between[0] == ',' ? STR("}") : STR("\"limits\":{}"));
	return 0;
}

static int put_terms(const struct args *args, struct buf *body)
{
	const char *team = args_value(args, "team");
	if (team) {
		buf_append_str(body, STR("\"team\":"));
		buf_append_json(body, str_from(team));
		buf_append_str(body, STR(","));
	}
	return put_limits(args, body);
}

/* One call that changes something, its words printed when it is done. */
static int change(const struct args *args, const char *method, const char *path, const char *name, struct str body,
                  const char *words)
{
	struct client *c;
	struct error err = {0};
	struct buf at = {0};
	if (client_open(args_value(args, "operator"), &c, &err))
		return args_fail(args, &err);
	buf_append_str(&at, str_from(path));
	if (name)
		buf_append_escaped(&at, str_from(name), URL_SEGMENT);
	buf_append(&at, "", 1);
	int rc = client_json(c, method, at.base, body, NULL, &err);
	if (rc == 0)
		printf("%s %s\n", args_operand(args, 0), words);
	buf_fini(&at);
	client_close(c);
	return rc ? args_fail_words(args, &err) : EXIT_DONE;
}

/* ---- keys ------------------------------------------------------------------------------------------- */

int cmd_key_new(const struct args *args)
{
	struct client *c;
	struct error err = {0};
	struct buf body = {0};
	struct str key = {0}, id = {0};
	yyjson_doc *doc = NULL;
	buf_append_str(&body, STR("{\"name\":"));
	buf_append_json(&body, str_from(args_operand(args, 0)));
	buf_append_str(&body, STR(","));
	int wrong = put_terms(args, &body);
	buf_append_str(&body, STR("}"));
	if (wrong || client_open(args_value(args, "operator"), &c, &err)) {
		buf_fini(&body);
		return wrong ? wrong : args_fail(args, &err);
	}
	int rc = client_json(c, "POST", "/mdn/v1/keys", buf_str(&body), &doc, &err);
	if (rc == 0 && (rc = json_str(yyjson_doc_get_root(doc), "key", &key, &err)) == 0)
		rc = json_str(yyjson_doc_get_root(doc), "id", &id, &err);
	if (rc == 0 && args_has(args, "json"))
		printf("{\"key\":\"" STR_FMT "\",\"id\":\"" STR_FMT "\"}\n", STR_ARG(key), STR_ARG(id));
	else if (rc == 0) {
		printf(STR_FMT "\n", STR_ARG(key));
		fprintf(stderr, "This is shown once. Revoke it with: mdn key revoke " STR_FMT "\n", STR_ARG(id));
	}
	yyjson_doc_free(doc);
	buf_fini(&body);
	client_close(c);
	return rc ? args_fail(args, &err) : EXIT_DONE;
}

int cmd_key_set(const struct args *args)
{
	struct buf body = {0};
	buf_append_str(&body, STR("{"));
	int rc = put_terms(args, &body);
	buf_append_str(&body, STR("}"));
	if (rc == 0)
		rc = change(args, "POST", "/mdn/v1/keys/", args_operand(args, 0), buf_str(&body),
		            "is changed; edges hear of it within a second");
	buf_fini(&body);
	return rc;
}

static void add_limits(struct table *t, yyjson_val *o)
{
	yyjson_val *limits = yyjson_obj_get(o, "limits");
	for (int k = 0; k < QUOTA_KINDS; k++) {
		int64_t most = answer_number(limits, quota_kind_name(k));
		if (most)
			table_add(t, "%lld", (long long)most);
		else
			table_add(t, "%s", "");
	}
}

static void print_keys(yyjson_val *root)
{
	struct table *t = table_new("ID,~NAME,~TEAM,>REQ/MIN,>TOK/MIN,>AT ONCE,>TOK/MONTH,CREATED");
	yyjson_val *key;
	size_t i, max;
	yyjson_arr_foreach(yyjson_obj_get(root, "keys"), i, max, key)
	{
		char when[25];
		clock_format(answer_number(key, "created_us"), when);
		table_add(t, STR_FMT, STR_ARG(answer_text(key, "id")));
		table_add(t, STR_FMT, STR_ARG(answer_text(key, "name")));
		table_add(t, STR_FMT, STR_ARG(answer_text(key, "team")));
		add_limits(t, key);
		table_add(t, "%s", when);
	}
	table_print(t, stdout);
	table_free(t);
}

int cmd_key_list(const struct args *args)
{
	return center_show(args, "/mdn/v1/keys", print_keys);
}

int cmd_key_revoke(const struct args *args)
{
	return change(args, "DELETE", "/mdn/v1/keys/", args_operand(args, 0), STR(""),
	              "no longer opens anything; edges hear of it within a second");
}

/* ---- teams ------------------------------------------------------------------------------------------ */

int cmd_team_set(const struct args *args)
{
	struct buf body = {0};
	buf_append_str(&body, STR("{\"name\":"));
	buf_append_json(&body, str_from(args_operand(args, 0)));
	buf_append_str(&body, STR(","));
	int rc = put_limits(args, &body);
	buf_append_str(&body, STR("}"));
	if (rc == 0)
		rc = change(args, "POST", "/mdn/v1/teams", NULL, buf_str(&body),
		            "is set; edges hear of it within a second");
	buf_fini(&body);
	return rc;
}

static void print_teams(yyjson_val *root)
{
	struct table *t = table_new("~TEAM,>REQ/MIN,>TOK/MIN,>AT ONCE,>TOK/MONTH");
	yyjson_val *team;
	size_t i, max;
	yyjson_arr_foreach(yyjson_obj_get(root, "teams"), i, max, team)
	{
		table_add(t, STR_FMT, STR_ARG(answer_text(team, "name")));
		add_limits(t, team);
	}
	table_print(t, stdout);
	table_free(t);
}

int cmd_team_list(const struct args *args)
{
	return center_show(args, "/mdn/v1/teams", print_teams);
}

int cmd_team_remove(const struct args *args)
{
	return change(args, "DELETE", "/mdn/v1/teams/", args_operand(args, 0), STR(""), "is removed");
}

/* ---- usage ------------------------------------------------------------------------------------------ */

/* YYYY-MM to months since 1970. */
static bool month_of(const char *text, int64_t *ret_month)
{
	int year, month, used = 0;
	if (sscanf(text, "%4d-%2d%n", &year, &month, &used) != 2 || text[used] || year < 1970 || month < 1 ||
	    month > 12)
		return false;
	*ret_month = (year - 1970) * 12 + month - 1;
	return true;
}

static void print_usage(yyjson_val *root)
{
	struct table *t = table_new("KEY,~TEAM,>REQUESTS,>PROMPT,>CACHED,>ANSWERS,>TOKENS");
	yyjson_val *sum;
	size_t i, max;
	yyjson_arr_foreach(yyjson_obj_get(root, "sums"), i, max, sum)
	{
		long long prompt = (long long)answer_number(sum, "prompt_tokens"),
			  answers = (long long)answer_number(sum, "completion_tokens");
		table_add(t, STR_FMT, STR_ARG(answer_text(sum, "key")));
		table_add(t, STR_FMT, STR_ARG(answer_text(sum, "team")));
		table_add(t, "%lld", (long long)answer_number(sum, "requests"));
		table_add(t, "%lld", prompt);
		table_add(t, "%lld", (long long)answer_number(sum, "cached_tokens"));
		table_add(t, "%lld", answers);
		table_add(t, "%lld", prompt + answers);
	}
	table_print(t, stdout);
	table_free(t);
}

int cmd_usage(const struct args *args)
{
	const char *text = args_value(args, "month");
	char path[64] = "/mdn/v1/usage/sums";
	int64_t month;
	if (text && !month_of(text, &month))
		return args_usage(args, "--month %s is not YYYY-MM", text);
	if (text)
		snprintf(path, sizeof path, "/mdn/v1/usage/sums?month=%lld", (long long)month);
	return center_show(args, path, print_usage);
}

/* Columns are what a record has, in its order. No value has a comma or a quote but what clients name themselves. */
static void print_csv(yyjson_val *record, bool heading)
{
	yyjson_val *key, *value;
	yyjson_obj_iter it = yyjson_obj_iter_with(record);
	const char *between = "";
	while ((key = yyjson_obj_iter_next(&it))) {
		value = heading ? key : yyjson_obj_iter_get_val(key);
		if (yyjson_is_str(value)) {
			bool quote = strpbrk(yyjson_get_str(value), ",\"\r\n") != NULL;
			printf("%s%s", between, quote ? "\"" : "");
			for (const char *p = yyjson_get_str(value); *p; p++)
				printf(*p == '"' ? "\"\"" : "%c", *p);
			printf("%s", quote ? "\"" : "");
		} else {
			printf("%s%lld", between, (long long)yyjson_get_sint(value));
		}
		between = ",";
	}
	printf("\n");
}

static void print_line(yyjson_val *record)
{
	char *text = yyjson_val_write(record, 0, NULL);
	printf("%s\n", text ? text : "");
	free(text);
}

/* Prints a page; *after is its last serial. The number of records, or an error. */
static int print_page(struct client *c, const char *path, bool csv, bool *heading, int64_t *after, struct error *err)
{
	yyjson_doc *doc = NULL;
	yyjson_val *record;
	size_t i, count = 0;
	int rc = client_json(c, "GET", path, STR(""), &doc, err);
	if (rc < 0)
		return rc;
	yyjson_arr_foreach(yyjson_obj_get(yyjson_doc_get_root(doc), "records"), i, count, record)
	{
		*after = answer_number(record, "serial");
		if (csv && *heading)
			print_csv(record, true);
		*heading = false;
		if (csv)
			print_csv(record, false);
		else
			print_line(record);
	}
	yyjson_doc_free(doc);
	return (int)count;
}

int cmd_usage_export(const struct args *args)
{
	const char *format = args_value(args, "format"), *text = args_value(args, "month"),
		   *key = args_value(args, "key"), *team = args_value(args, "team"), *start = args_value(args, "after");
	struct client *c;
	struct error err = {0};
	int64_t month = 0, after = 0, last = -1;
	bool heading = true, csv = !format || strcmp(format, "csv") == 0;
	uint64_t from = 0;
	int rc = 0;
	if (format && !csv && strcmp(format, "jsonl") != 0)
		return args_usage(args, "--format is csv or jsonl");
	if (text && !month_of(text, &month))
		return args_usage(args, "--month %s is not YYYY-MM", text);
	if (start && str_to_u64(str_from(start), &from))
		return args_usage(args, "--after %s is not a number", start);
	if (client_open(args_value(args, "operator"), &c, &err))
		return args_fail(args, &err);
	for (after = (int64_t)from; rc >= 0 && after != last;) {
		struct buf path = {0};
		struct quota_window w = {.month = month}, before = {.month = month - 1};
		last = after;
		buf_printf(&path, "/mdn/v1/usage?after=%lld", (long long)after);
		if (text)
			buf_printf(&path, "&from_us=%lld&to_us=%lld", (long long)quota_month_end_us(before),
			           (long long)quota_month_end_us(w));
		for (int i = 0; i < 2; i++) {
			const char *value = i ? team : key;
			if (!value)
				continue;
			buf_append_str(&path, i ? STR("&team=") : STR("&key="));
			buf_append_escaped(&path, str_from(value), URL_SEGMENT);
		}
		buf_append(&path, "", 1);
		rc = print_page(c, path.base, csv, &heading, &after, &err);
		buf_fini(&path);
	}
	client_close(c);
	return rc < 0 ? args_fail(args, &err) : EXIT_DONE;
}
