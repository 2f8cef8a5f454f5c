/* SPDX-License-Identifier: Apache-2.0 */
/* `mdn place`, `mdn pause`, `mdn resume`, `mdn cancel`, `mdn limit ...`, `mdn rollout ...`: where models go, when, how
 * fast, and what is done about a new version that turns out bad. */
#include "base/clock.h"
#include "cli/answers.h"
#include "cli/client.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/show.h"
#include "cli/table.h"
#include "core/calendar.h"

#include <stdio.h>
#include <stdlib.h>

static void append_model(struct buf *out, const char *model)
{
	buf_printf(out, "%s%s", model, strchr(model, ':') ? "" : ":latest");
}

/* ---- place ------------------------------------------------------------------------------------------ */

static int append_number(struct buf *out, const char *key, struct str text, const char *option, struct error *err)
{
	uint64_t value;
	if (str_to_u64(text, &value) || value == 0 || value > 1000000)
		return error_set(err, E_INVAL, "--%s wants a number", option);
	buf_printf(out, ",\"%s\":%llu", key, (unsigned long long)value);
	return 0;
}

static int append_replicas(const struct args *args, struct buf *out, struct error *err)
{
	const char *replicas = args_value(args, "replicas"), *demand = args_value(args, "demand");
	int rc = 0;
	if (replicas && demand)
		return error_set(err, E_INVAL, "--replicas is a fixed number, --demand a range: give one of them");
	if (replicas)
		rc = append_number(out, "replicas", str_from(replicas), "replicas", err);
	if (demand) {
		const char *dots = strstr(demand, "..");
		if (!dots)
			return error_set(err, E_INVAL, "--demand wants MIN..MAX, such as 2..20");
		struct str least = {demand, (size_t)(dots - demand)};
		rc = append_number(out, "replicas", least, "demand", err);
		if (rc == 0)
			rc = append_number(out, "replicas_max", str_from(dots + 2), "demand", err);
		uint64_t low = 0, high = 0;
		if (rc == 0 && !str_to_u64(least, &low) && !str_to_u64(str_from(dots + 2), &high) && high < low)
			rc = error_set(err, E_INVAL,
			               "--demand %s: the second number is the most, so not the smaller one", demand);
	}
	if (args_has(args, "per-site"))
		buf_append_str(out, STR(",\"per_site\":true"));
	return rc;
}

static int append_deadline(const struct args *args, struct buf *out, struct error *err)
{
	const char *by = args_value(args, "by"), *within = args_value(args, "within");
	int64_t at;
	int rc;
	if (!by && !within)
		return 0;
	if (by && within)
		return error_set(err, E_INVAL, "--by is a time, --within a duration: give one of them");
	if ((rc = moment_parse(str_from(by ? by : within), clock_wall_us(), &at, err)) == 0)
		buf_printf(out, ",\"by_us\":%lld", (long long)at);
	return rc;
}

static int append_factor(const struct args *args, const char *option, const char *key, struct buf *out,
                         struct error *err)
{
	const char *text = args_value(args, option);
	char *end;
	if (!text)
		return 0;
	double value = strtod(text, &end);
	if (end == text || *end || !(value >= 0 && value <= 1000))
		return error_set(err, E_INVAL, "--%s wants a factor such as 1.5", option);
	buf_printf(out, ",\"%s\":%g", key, value);
	return 0;
}

static int append_policy(const struct args *args, struct buf *out, struct error *err)
{
	static const char *const options[] = {"canary",         "percent",    "soak",       "error-factor",
	                                      "latency-factor", "on-failure", "unavailable"};
	const char *soak = args_value(args, "soak"), *unavailable = args_value(args, "unavailable");
	bool any = false;
	int64_t us;
	int rc = 0;
	for (size_t i = 0; i < sizeof options / sizeof *options; i++)
		any = any || args_value(args, options[i]);
	if (!any)
		return 0;
	buf_append_str(out, STR(",\"rollout\":{\"gated\":true"));
	for (size_t i = 0; i < 2; i++) {
		if (!args_value(args, options[i]))
			continue;
		buf_printf(out, ",\"%s\":", i ? "percents" : "canary");
		buf_append_json(out, str_from(args_value(args, options[i])));
	}
	if (args_value(args, "on-failure")) {
		buf_append_str(out, STR(",\"on_failure\":"));
		buf_append_json(out, str_from(args_value(args, "on-failure")));
	}
	if (soak && str_to_duration_us(str_from(soak), &us))
		return error_set(err, E_INVAL, "--soak wants a duration such as 10m");
	if (soak)
		buf_printf(out, ",\"soak_us\":%lld", (long long)us);
	if (unavailable)
		rc = append_number(out, "unavailable_percent", str_from(unavailable), "unavailable", err);
	if (rc == 0)
		rc = append_factor(args, "error-factor", "error_factor", out, err);
	if (rc == 0)
		rc = append_factor(args, "latency-factor", "latency_factor", out, err);
	buf_append_str(out, STR("}"));
	return rc;
}

static int place_body(const struct args *args, struct buf *out, struct error *err)
{
	int rc;
	buf_append_str(out, STR("{\"model\":"));
	buf_append_json(out, str_from(args_operand(args, 0)));
	buf_append_str(out, STR(",\"on\":"));
	buf_append_json(out, str_from(args_value(args, "on")));
	buf_printf(out, ",\"remove\":%s", args_has(args, "remove") ? "true" : "false");
	/* Said in either case: what was only on disk is loaded when it is placed without. */
	buf_printf(out, ",\"preheat\":%s", args_has(args, "preheat") ? "true" : "false");
	if ((rc = append_replicas(args, out, err)) == 0 && (rc = append_deadline(args, out, err)) == 0)
		rc = append_policy(args, out, err);
	buf_append_str(out, STR("}"));
	return rc;
}

/* The verdict on a deadline, when one was given. */
static void print_verdict(struct client *c, const char *model)
{
	struct buf path = {0};
	yyjson_doc *doc = NULL;
	buf_append_str(&path, STR("/mdn/v1/models/"));
	append_model(&path, model);
	buf_append(&path, "", 1);
	if (client_json(c, NULL, path.base, STR(""), &doc, NULL) == 0) {
		struct str verdict = answer_text(yyjson_doc_get_root(doc), "verdict");
		if (verdict.len)
			printf("Deadline: " STR_FMT "\n", STR_ARG(verdict));
	}
	yyjson_doc_free(doc);
	buf_fini(&path);
}

int cmd_place(const struct args *args)
{
	struct client *c;
	struct error err = {0};
	struct buf body = {0};
	yyjson_doc *doc = NULL;
	bool removes = args_has(args, "remove");
	if (!args_value(args, "on"))
		return args_usage(args, "say where with --on: role=edge, site=NAME, node=NAME, or all");
	int rc = place_body(args, &body, &err);
	if (rc == 0 && (rc = client_open(args_value(args, "operator"), &c, &err)) == 0) {
		rc = client_json(c, "POST", "/mdn/v1/place", buf_str(&body), &doc, &err);
		size_t nodes = yyjson_arr_size(yyjson_obj_get(yyjson_doc_get_root(doc), "nodes"));
		if (rc == 0 && args_has(args, "json"))
			printf("{\"model\":\"%s\",\"nodes\":%zu}\n", args_operand(args, 0), nodes);
		else if (rc == 0)
			printf("%s %s %zu nodes%s\n", args_operand(args, 0), removes ? "was placed on" : "is placed on",
			       nodes,
			       removes  ? "; that rule is gone"
			       : !nodes ? ": none fits yet (`mdn nodes`); those that join later will count"
			                : "");
		if (rc == 0 && !args_has(args, "json") && !removes)
			print_verdict(c, args_operand(args, 0));
		client_close(c);
	}
	yyjson_doc_free(doc);
	buf_fini(&body);
	return rc ? args_fail_words(args, &err) : EXIT_DONE;
}

/* ---- one word to the center ------------------------------------------------------------------------------ */

/* POST /mdn/v1/KIND/MODEL/VERB; `instead`: what to say when rules went and no roll-out goes back. */
static int say(const struct args *args, const char *kind, const char *verb, const char *done, const char *instead)
{
	struct client *c;
	yyjson_doc *doc = NULL;
	struct error err = {0};
	struct buf path = {0};
	if (client_open(args_value(args, "operator"), &c, &err))
		return args_fail(args, &err);
	buf_printf(&path, "/mdn/v1/%s/", kind);
	append_model(&path, args_operand(args, 0));
	buf_printf(&path, "/%s", verb);
	buf_append(&path, "", 1);
	int rc = client_json(c, "POST", path.base, STR("{}"), instead ? &doc : NULL, &err);
	bool removed = doc && answer_number(yyjson_doc_get_root(doc), "rules_removed") > 0;
	if (rc == 0)
		printf("%s: %s\n", args_operand(args, 0), removed ? instead : done);
	yyjson_doc_free(doc);
	client_close(c);
	buf_fini(&path);
	return rc ? args_fail(args, &err) : EXIT_DONE;
}

int cmd_pause(const struct args *args)
{
	return say(args, "models", "pause", "nodes fetch no more of it until `mdn resume`", NULL);
}

int cmd_resume(const struct args *args)
{
	return say(args, "models", "resume", "nodes fetch it again", NULL);
}

int cmd_cancel(const struct args *args)
{
	return say(args, "models", "cancel", "nodes go back to what they had before",
	           "no roll-out was under way, so it is placed nowhere any more; `mdn place` places it again");
}

int cmd_rollout_halt(const struct args *args)
{
	return say(args, "rollouts", "halt", "halted; nodes that have the new version keep it", NULL);
}

int cmd_rollout_continue(const struct args *args)
{
	return say(args, "rollouts", "continue", "goes on", NULL);
}

int cmd_rollout_rollback(const struct args *args)
{
	return say(args, "rollouts", "rollback", "nodes go back to the version before", NULL);
}

/* ---- rollout list, show ------------------------------------------------------------------------------------- */

static void add_measure(struct table *t, yyjson_val *m)
{
	int64_t requests = answer_number(m, "requests"), errors = answer_number(m, "errors");
	table_add(t, "%lld", (long long)requests);
	table_add(t, "%lld", (long long)errors);
	table_add(t, requests ? "%.1f ms" : "", (double)answer_number(m, "ttft_us") / 1000);
	table_add(t, requests ? "%.1f ms" : "", (double)answer_number(m, "itl_us") / 1000);
}

static void print_rollouts(yyjson_val *root)
{
	struct table *t = table_new("~MODEL,PHASE,WAVE,NODES,>REQUESTS,>ERRORS,>TTFT,>ITL,~WHY");
	yyjson_val *o;
	size_t i, max;
	yyjson_arr_foreach(yyjson_obj_get(root, "rollouts"), i, max, o)
	{
		struct str model = answer_text(o, "model"), phase = answer_text(o, "phase"),
			   why = answer_text(o, "why");
		table_add(t, STR_FMT, STR_ARG(model));
		table_add(t, STR_FMT, STR_ARG(phase));
		table_add(t, "%lld of %lld", (long long)answer_number(o, "wave"), (long long)answer_number(o, "waves"));
		table_add(t, "%lld of %lld", (long long)answer_number(o, "ready"),
		          (long long)answer_number(o, "placed"));
		add_measure(t, yyjson_obj_get(o, "new_measured"));
		table_add(t, STR_FMT, STR_ARG(why));
	}
	table_print(t, stdout);
	table_free(t);
}

static void print_rollout(yyjson_val *o)
{
	static const char *const rows[] = {"model", "phase", "why", "old", "new"};
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct str text = answer_text(o, rows[i]);
		if (text.len)
			printf("%-8s " STR_FMT "\n", rows[i], STR_ARG(text));
	}
	printf("%-8s %lld of %lld, %lld of %lld nodes have the new version\n\n", "wave",
	       (long long)answer_number(o, "wave"), (long long)answer_number(o, "waves"),
	       (long long)answer_number(o, "ready"), (long long)answer_number(o, "placed"));
	struct table *t = table_new("VERSION,>REQUESTS,>ERRORS,>TTFT,>ITL");
	table_add(t, "old");
	add_measure(t, yyjson_obj_get(o, "old_measured"));
	table_add(t, "new");
	add_measure(t, yyjson_obj_get(o, "new_measured"));
	table_print(t, stdout);
	table_free(t);
	printf("\n");
	t = table_new("NODE,CANARY,TOLD,OLD,NEW");
	yyjson_val *node;
	size_t i, max;
	yyjson_arr_foreach(yyjson_obj_get(o, "nodes"), i, max, node)
	{
		struct str name = answer_text(node, "name"), old = answer_text(node, "old"),
			   fresh = answer_text(node, "new");
		if (!name.len)
			name = answer_text(node, "id");
		table_add(t, STR_FMT, STR_ARG(name));
		table_add(t, "%s", yyjson_get_bool(yyjson_obj_get(node, "canary")) ? "yes" : "");
		table_add(t, "%s", yyjson_get_bool(yyjson_obj_get(node, "granted")) ? "new" : "old");
		table_add(t, STR_FMT, STR_ARG(old));
		table_add(t, STR_FMT, STR_ARG(fresh));
	}
	table_print(t, stdout);
	table_free(t);
}

int cmd_rollout_list(const struct args *args)
{
	return center_show(args, "/mdn/v1/rollouts", print_rollouts);
}

int cmd_rollout_show(const struct args *args)
{
	struct buf path = {0};
	buf_append_str(&path, STR("/mdn/v1/rollouts/"));
	append_model(&path, args_operand(args, 0));
	buf_append(&path, "", 1);
	int rc = center_show(args, path.base, print_rollout);
	buf_fini(&path);
	return rc;
}

/* ---- limits ---------------------------------------------------------------------------------------------------- */

static void print_limits(yyjson_val *root)
{
	struct table *t = table_new("LIMIT OF,>NOW,UNTIL,~CALENDAR");
	yyjson_val *o;
	size_t i, max;
	yyjson_arr_foreach(yyjson_obj_get(root, "limits"), i, max, o)
	{
		char rate[32], until[25] = "";
		struct str scope = answer_text(o, "scope"), calendar = answer_text(o, "calendar");
		int64_t changes = answer_number(o, "changes_us");
		rate_format(yyjson_obj_get(o, "rate") ? (uint64_t)answer_number(o, "rate") : CALENDAR_NONE, rate);
		if (changes)
			clock_format(changes, until);
		table_add(t, STR_FMT, STR_ARG(scope));
		table_add(t, "%s", rate);
		table_add(t, "%.16s%s", until, changes ? "Z" : "");
		table_add(t, STR_FMT, STR_ARG(calendar));
	}
	table_print(t, stdout);
	table_free(t);
}

int cmd_limit_list(const struct args *args)
{
	return center_show(args, "/mdn/v1/limits", print_limits);
}

static int limit_set(const struct args *args, const char *calendar)
{
	struct client *c;
	struct error err = {0};
	struct buf body = {0};
	struct calendar parsed;
	if (calendar && calendar_parse(str_from(calendar), &parsed, &err))
		return args_fail_words(args, &err);
	if (client_open(args_value(args, "operator"), &c, &err))
		return args_fail(args, &err);
	buf_append_str(&body, STR("{\"scope\":"));
	buf_append_json(&body, str_from(args_operand(args, 0)));
	buf_append_str(&body, STR(",\"calendar\":"));
	buf_append_json(&body, calendar ? str_from(calendar) : STR(""));
	buf_append_str(&body, STR("}"));
	int rc = client_json(c, "POST", "/mdn/v1/limits", buf_str(&body), NULL, &err);
	client_close(c);
	buf_fini(&body);
	return rc ? args_fail_words(args, &err) : EXIT_DONE;
}

int cmd_limit_set(const struct args *args)
{
	return limit_set(args, args_operand(args, 1));
}

int cmd_limit_remove(const struct args *args)
{
	return limit_set(args, NULL);
}
