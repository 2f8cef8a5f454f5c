/* SPDX-License-Identifier: Apache-2.0 */
/* remote_load.c - one pass over lines; a sample whose name is not in the table costs one comparison each. */
#include "engine/remote_load.h"

#include "base/json.h"

#include <math.h>
#include <stdlib.h>

enum what { RUNNING, WAITING, KV, KINDS };
enum { NAMED_MAX = 64 }; /* of an ORCA report that are looked at */

static const struct metric {
	const char *name;
	enum what what;
} metrics[] = {
    {"vllm:num_requests_running", RUNNING},
    {"vllm:num_requests_waiting", WAITING},
    {"vllm:kv_cache_usage_perc", KV},
    {"vllm:gpu_cache_usage_perc", KV}, /* before vLLM 0.10 */
    {"sglang:num_running_reqs", RUNNING},
    {"sglang:num_queue_reqs", WAITING},
    {"sglang:token_usage", KV},
    {"llamacpp:requests_processing", RUNNING},
    {"llamacpp:requests_deferred", WAITING},
    {"llamacpp:kv_cache_usage_ratio", KV}, /* older ones */
    {"trtllm_num_requests_running", RUNNING},
    {"trtllm_num_requests_waiting", WAITING},
    {"trtllm_kv_cache_utilization", KV},
};

static void told_add(struct remote_told *t, enum what what, double value)
{
	if (what == KV) {
		value = value > 1 ? 1 : value;
		t->kv_usage = t->has_kv && t->kv_usage > value ? t->kv_usage : value;
		t->has_kv = true;
	} else if (what == RUNNING) {
		t->running += value;
		t->has_running = true;
	} else {
		t->waiting += value;
		t->has_waiting = true;
	}
}

static bool told_any(const struct remote_told *t)
{
	return t->has_running || t->has_waiting || t->has_kv;
}

/* A number that is one, not below 0, and no more than anybody has requests. */
static bool number_of(struct str text, double *ret)
{
	char digits[40];

	while (text.len && (text.base[text.len - 1] == ' ' || text.base[text.len - 1] == '\r'))
		text.len--;
	while (text.len && text.base[0] == ' ')
		text = (struct str){text.base + 1, text.len - 1};
	if (!text.len || text.len >= sizeof(digits))
		return false;
	memcpy(digits, text.base, text.len);
	digits[text.len] = '\0';
	char *end;
	double value = strtod(digits, &end);
	if ((*end && *end != ' ') || !isfinite(value) || value < 0) /* a time stamp may follow */
		return false;
	*ret = value > 1e6 ? 1e6 : value;
	return true;
}

/* ---- Prometheus -------------------------------------------------------------------------------- */

struct sample {
	struct str name, value;
	struct str model, rank; /* labels; base NULL: not there */
};

static void sample_label(struct sample *s, struct str key, struct str value)
{
	if (str_equal(key, STR("model_name")))
		s->model = value;
	else if (str_equal(key, STR("tp_rank")))
		s->rank = value;
}

/* {key="value",...}: `at` stands behind the brace; returns where the value begins, NULL if it is no such thing. */
static const char *sample_labels(struct sample *s, const char *at, const char *end)
{
	while (at < end && *at != '}') {
		const char *key = at;
		while (at < end && *at != '=')
			at++;
		struct str name = {key, (size_t)(at - key)};
		if (end - at < 3 || at[1] != '"')
			return NULL;
		const char *value = at += 2;
		while (at < end && *at != '"')
			at += *at == '\\' && end - at > 1 ? 2 : 1;
		if (at >= end)
			return NULL;
		sample_label(s, name, (struct str){value, (size_t)(at - value)});
		at++;
		if (at < end && *at == ',')
			at++;
	}
	return at < end ? at + 1 : NULL;
}

static bool sample_read(struct str line, struct sample *s)
{
	const char *at = line.base, *end = line.base + line.len;

	*s = (struct sample){0};
	while (at < end && *at != '{' && *at != ' ')
		at++;
	s->name = (struct str){line.base, (size_t)(at - line.base)};
	if (at < end && *at == '{' && !(at = sample_labels(s, at + 1, end)))
		return false;
	s->value = (struct str){at, (size_t)(end - at)};
	return true;
}

static const struct metric *metric_of(struct str name)
{
	for (size_t i = 0; i < sizeof(metrics) / sizeof(metrics[0]); i++)
		if (str_equal(name, str_from(metrics[i].name)))
			return &metrics[i];
	return NULL;
}

bool remote_metrics_parse(struct str text, struct str model, struct remote_told *ret_told)
{
	struct remote_told own = {0}, all = {0};

	while (text.len) {
		struct str rest, line = str_cut(text, '\n', &rest);
		struct sample s;
		double value;

		text = rest;
		if (!line.len || line.base[0] == '#' || !sample_read(line, &s))
			continue;
		const struct metric *metric = metric_of(s.name);
		/* Each rank of a tensor-parallel engine tells the same. */
		if (!metric || !number_of(s.value, &value) || (s.rank.base && !str_equal(s.rank, STR("0"))))
			continue;
		told_add(&all, metric->what, value);
		if (!s.model.base || str_equal(s.model, model))
			told_add(&own, metric->what, value);
	}
	*ret_told = told_any(&own) ? own : all;
	return told_any(ret_told);
}

/* ---- ORCA -------------------------------------------------------------------------------------- */

static void orca_add(struct remote_told *t, struct str name, double value)
{
	static const struct metric names[] = {
	    {"num_requests_running", RUNNING}, {"num_requests_waiting", WAITING}, {"kv_cache_usage_perc", KV}};

	if (str_starts(name, STR("named_metrics.")))
		name = (struct str){name.base + 14, name.len - 14};
	for (size_t i = 0; i < KINDS; i++)
		if (str_equal(name, str_from(names[i].name)))
			told_add(t, names[i].what, value);
}

static void orca_text(struct str text, struct remote_told *t)
{
	for (int i = 0; i < NAMED_MAX && text.len; i++) {
		struct str rest, value, part = str_cut(text, ',', &rest), name = str_cut(part, '=', &value);
		double number;

		while (name.len && name.base[0] == ' ')
			name = (struct str){name.base + 1, name.len - 1};
		if (number_of(value, &number))
			orca_add(t, name, number);
		text = rest;
	}
}

static void orca_json(struct str text, struct remote_told *t)
{
	yyjson_doc *doc;
	yyjson_val *key, *value;
	size_t i, n;

	if (json_parse(text, &doc, NULL) < 0)
		return;
	yyjson_val *named = yyjson_obj_get(yyjson_doc_get_root(doc), "named_metrics");
	yyjson_obj_foreach(named, i, n, key, value)
	{
		double number = yyjson_is_num(value) ? yyjson_get_num(value) : -1;
		if (i < NAMED_MAX && number >= 0)
			orca_add(t, (struct str){yyjson_get_str(key), yyjson_get_len(key)},
			         number < 1e6 ? number : 1e6);
	}
	yyjson_doc_free(doc);
}

bool remote_orca_parse(struct str header, struct remote_told *ret_told)
{
	*ret_told = (struct remote_told){0};
	if (str_starts(header, STR("TEXT ")))
		orca_text((struct str){header.base + 5, header.len - 5}, ret_told);
	else if (str_starts(header, STR("JSON ")))
		orca_json((struct str){header.base + 5, header.len - 5}, ret_told);
	else
		orca_text(header, ret_told);
	return told_any(ret_told);
}
