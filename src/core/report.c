/* SPDX-License-Identifier: Apache-2.0 */
/* One table a direction: what is written is what is read. Required are the keys without which a report means nothing
 * (id, roles, state, boot, seq); the rest has a harmless default. Texts with control characters, and everything past
 * the limit table, are refused, except a model's error text, which is for people and is cut to fit. */
#include "core/report.h"

#include "base/json.h"
#include "base/limits.h"

#include <math.h>
#include <stdlib.h>

#define RATE_MOST 1e15
#define TOKENS_MOST INT64_C(1000000000000)
#define LOAD_MOST_US (INT64_C(3600) * 1000 * 1000)
#define RTT_MOST_US (INT64_C(3600) * 1000 * 1000)

static const char *const state_names[] = {"starting", "ready", "draining"};
static const char *const model_state_names[] = {"waiting", "fetching", "loading", "ready",
                                                "failed",  "cached",   "paused"};
static const struct {
	uint32_t role;
	struct str name;
} role_names[] = {
    {ROLE_REPOSITORY, {"repository", 10}},
    {ROLE_CENTER, {"center", 6}},
    {ROLE_EDGE, {"edge", 4}},
    {ROLE_SCHEDULER, {"scheduler", 9}},
};
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

const char *node_state_name(enum node_state s)
{
	return (size_t)s < COUNT(state_names) ? state_names[s] : "unknown";
}

const char *model_state_name(enum model_state s)
{
	return (size_t)s < COUNT(model_state_names) ? model_state_names[s] : "unknown";
}

int node_roles_parse(struct str text, uint32_t *ret_roles, struct error *err)
{
	uint32_t roles = 0;
	for (struct str rest = text; rest.len > 0;) {
		struct str item = str_trim(str_cut(rest, ',', &rest));
		size_t i = 0;
		while (i < COUNT(role_names) && !str_equal(item, role_names[i].name))
			i++;
		if (i == COUNT(role_names))
			return error_set(err, E_INVAL,
			                 "\"" STR_FMT "\" is not a role; roles are repository, center, edge, scheduler",
			                 (int)(item.len < 64 ? item.len : 64), item.base ? item.base : "");
		roles |= role_names[i].role;
	}
	*ret_roles = roles;
	return 0;
}

void node_roles_format(uint32_t roles, struct buf *out)
{
	const char *separator = "";
	for (size_t i = 0; i < COUNT(role_names); i++) {
		if (!(roles & role_names[i].role))
			continue;
		buf_printf(out, "%s%s", separator, role_names[i].name.base);
		separator = ",";
	}
}

void node_report_fini(struct node_report *r)
{
	if (!r)
		return;
	free(r->labels);
	free(r->models);
	free(r->seen);
	free(r->rtts);
	r->labels = NULL;
	r->models = NULL;
	r->seen = NULL;
	r->rtts = NULL;
	r->label_count = r->model_count = r->seen_count = r->rtt_count = 0;
}

static void *array_copy(const void *from, size_t count, size_t size)
{
	if (count == 0)
		return NULL;
	void *to = mem_resize(NULL, count, size);
	memcpy(to, from, count * size);
	return to;
}

int node_report_copy(const struct node_report *from, struct node_report *ret_to)
{
	if (from->label_count > NODE_LABELS_MAX || from->model_count > LIMIT_NODE_MODELS ||
	    from->seen_count > REPORT_PEERS_MAX || from->rtt_count > REPORT_PEERS_MAX)
		return E_LIMIT;
	*ret_to = *from;
	ret_to->labels = array_copy(from->labels, from->label_count, sizeof(*from->labels));
	ret_to->models = array_copy(from->models, from->model_count, sizeof(*from->models));
	ret_to->seen = array_copy(from->seen, from->seen_count, sizeof(*from->seen));
	ret_to->rtts = array_copy(from->rtts, from->rtt_count, sizeof(*from->rtts));
	return 0;
}

/* ---- writing --------------------------------------------------------------------------------- */

static void put_text(struct buf *out, const char *key, const char *value)
{
	buf_printf(out, "\"%s\":", key);
	buf_append_json(out, str_from(value));
}

static void put_number(struct buf *out, const char *key, double value)
{
	buf_printf(out, ",\"%s\":%.9g", key, isfinite(value) ? value : 0.0);
}

static void format_sums(const struct model_report *m, struct buf *out)
{
	buf_printf(out, ",\"served\":%llu,\"errors\":%llu,\"ttft_sum_us\":%llu,\"tokens\":%llu,\"decode_sum_us\":%llu",
	           (unsigned long long)m->served, (unsigned long long)m->errors, (unsigned long long)m->ttft_sum_us,
	           (unsigned long long)m->tokens, (unsigned long long)m->decode_sum_us);
}

static void format_memory(const struct model_report *m, struct buf *out)
{
	if (m->load_progress > 0)
		put_number(out, "load_progress", m->load_progress);
	if (m->memory_bytes)
		buf_printf(out, ",\"memory_bytes\":%llu", (unsigned long long)m->memory_bytes);
	if (m->used_wall_us)
		buf_printf(out, ",\"used_wall_us\":%lld", (long long)m->used_wall_us);
	if (m->pinned)
		buf_append_str(out, STR(",\"pinned\":true"));
}

static void format_fetch(const struct model_report *m, struct buf *out)
{
	if (m->file[0]) {
		buf_append_str(out, STR(","));
		put_text(out, "file", m->file);
	}
	if (m->source_count == 0)
		return;
	buf_append_str(out, STR(",\"sources\":["));
	for (size_t i = 0; i < m->source_count; i++) {
		buf_append_str(out, i > 0 ? STR(",{") : STR("{"));
		put_text(out, "id", m->sources[i].id);
		put_number(out, "rate", m->sources[i].rate);
		buf_append_str(out, STR("}"));
	}
	buf_append_str(out, STR("]"));
}

static void format_model(const struct model_report *m, bool brief, struct buf *out)
{
	buf_append_str(out, STR("{"));
	put_text(out, "name", m->name);
	buf_append_str(out, STR(","));
	put_text(out, "digest", m->digest);
	buf_printf(out, ",\"state\":\"%s\",\"have_bytes\":%llu,\"total_bytes\":%llu", model_state_name(m->state),
	           (unsigned long long)m->have_bytes, (unsigned long long)m->total_bytes);
	put_number(out, "fetch_rate", m->fetch_rate);
	if (m->error[0]) {
		buf_append_str(out, STR(","));
		put_text(out, "error", m->error);
	}
	buf_printf(out, ",\"running\":%d,\"waiting\":%d,\"slots\":%d,\"context_tokens\":%d", m->running, m->waiting,
	           m->slots, m->context_tokens);
	put_number(out, "kv_usage", m->kv_usage);
	buf_printf(out, ",\"tokens_to_prefill\":%lld", (long long)m->tokens_to_prefill);
	put_number(out, "prefill_tokens_per_s", m->prefill_tokens_per_s);
	put_number(out, "decode_tokens_per_s", m->decode_tokens_per_s);
	put_number(out, "itl_us", m->itl_us);
	if (m->load_us)
		buf_printf(out, ",\"load_us\":%lld", (long long)m->load_us);
	if (!brief)
		format_memory(m, out);
	if (!brief && (m->served || m->errors))
		format_sums(m, out);
	if (!brief)
		format_fetch(m, out);
	buf_append_str(out, STR("}"));
}

static void format_place(const struct node_report *r, struct buf *out)
{
	if (r->label_count)
		buf_append_str(out, STR(",\"labels\":["));
	for (size_t i = 0; i < r->label_count; i++) {
		buf_append_str(out, i > 0 ? STR(",") : STR(""));
		buf_append_json(out, str_from(r->labels[i]));
	}
	if (r->label_count)
		buf_append_str(out, STR("]"));
	if (r->memory_bytes)
		buf_printf(out, ",\"memory_bytes\":%llu", (unsigned long long)r->memory_bytes);
	if (r->accelerator[0]) {
		buf_append_str(out, STR(","));
		put_text(out, "accelerator", r->accelerator);
	}
}

static void format_open(const struct node_report *r, bool brief, struct buf *out)
{
	buf_append_str(out, STR("{"));
	put_text(out, "id", r->id);
	buf_append_str(out, STR(","));
	put_text(out, "name", r->name);
	buf_append_str(out, STR(","));
	put_text(out, "site", r->site);
	buf_append_str(out, STR(",\"roles\":\""));
	node_roles_format(r->roles, out);
	buf_printf(out, "\",\"state\":\"%s\",\"boot\":%llu,\"seq\":%llu,\"wall_us\":%lld,", node_state_name(r->state),
	           (unsigned long long)r->boot, (unsigned long long)r->seq, (long long)r->wall_us);
	put_text(out, "node_url", r->node_url);
	buf_append_str(out, STR(","));
	put_text(out, "api_url", r->api_url);
	if (!brief)
		format_place(r, out);
	buf_append_str(out, STR(",\"models\":["));
	for (size_t i = 0; i < r->model_count; i++) {
		if (i > 0)
			buf_append_str(out, STR(","));
		format_model(&r->models[i], brief, out);
	}
	buf_append_str(out, STR("],\"seen\":["));
	for (size_t i = 0; i < r->seen_count; i++) {
		buf_append_str(out, i > 0 ? STR(",{") : STR("{"));
		put_text(out, "id", r->seen[i].id);
		buf_printf(out, ",\"dispatched\":%llu}", (unsigned long long)r->seen[i].dispatched);
	}
	buf_append_str(out, STR("],\"rtts\":["));
	for (size_t i = 0; i < r->rtt_count; i++) {
		buf_append_str(out, i > 0 ? STR(",{") : STR("{"));
		put_text(out, "id", r->rtts[i].id);
		buf_printf(out, ",\"rtt_us\":%lld}", (long long)r->rtts[i].rtt_us);
	}
	buf_append_str(out, STR("]"));
}

void node_report_format_open(const struct node_report *r, struct buf *out)
{
	format_open(r, false, out);
}

void node_report_format_brief_open(const struct node_report *r, struct buf *out)
{
	format_open(r, true, out);
}

void node_report_format(const struct node_report *r, struct buf *out)
{
	node_report_format_open(r, out);
	buf_append_str(out, STR("}"));
}

/* ---- reading --------------------------------------------------------------------------------- */

static int missing(const char *key, struct error *err)
{
	return error_set(err, E_INVAL, "the report has no \"%s\"; it is required", key);
}

/* Absent: "". */
static int take_text(yyjson_val *obj, const char *key, char *to, size_t size, struct error *err)
{
	struct str s = {0};
	int rc = json_str(obj, key, &s, err);
	if (rc < 0)
		return rc;
	for (size_t i = 0; i < s.len; i++) {
		if ((unsigned char)s.base[i] < 0x20 || s.base[i] == 0x7f)
			return error_set(err, E_INVAL, "\"%s\" of a report holds a control character", key);
	}
	if (!str_copy(s, to, size))
		return error_set(err, E_LIMIT, "\"%s\" of a report is longer than %zu bytes", key, size - 1);
	return 0;
}

static int take_id(yyjson_val *obj, char to[static NODE_ID_SIZE], struct error *err)
{
	int rc = take_text(obj, "id", to, NODE_ID_SIZE, err);
	if (rc < 0)
		return rc;
	if (!to[0])
		return missing("id", err);
	static const char good[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
	if (strspn(to, good) != strlen(to))
		return error_set(err, E_INVAL, "\"id\" of a report may hold letters, digits, '.', '_' and '-' only");
	return 0;
}

static int take_url(yyjson_val *obj, const char *key, char to[static NODE_URL_SIZE], struct error *err)
{
	int rc = take_text(obj, key, to, NODE_URL_SIZE, err);
	if (rc < 0 || !to[0])
		return rc;
	struct str s = str_from(to);
	if ((!str_starts(s, STR("http://")) && !str_starts(s, STR("https://"))) || strpbrk(to, " \"<>\\"))
		return error_set(err, E_INVAL, "\"%s\" of a report is not an http:// or https:// URL", key);
	return 0;
}

/* For people: cut to fit, control characters become blanks. */
static int take_words(yyjson_val *obj, const char *key, char *to, size_t size, struct error *err)
{
	struct str s = {0};
	int rc = json_str(obj, key, &s, err);
	if (rc < 0)
		return rc;
	if (s.len > size - 1)
		s.len = utf8_valid_prefix((struct str){s.base, size - 1});
	for (size_t i = 0; i < s.len; i++)
		to[i] = (unsigned char)s.base[i] < 0x20 || s.base[i] == 0x7f ? ' ' : s.base[i];
	to[s.len] = '\0';
	return 0;
}

static int take_name_of(yyjson_val *obj, const char *key, const char *const *names, size_t count, size_t *ret_index,
                        struct error *err)
{
	struct str s = {0};
	int rc = json_str(obj, key, &s, err);
	if (rc < 0)
		return rc;
	if (!s.base)
		return missing(key, err);
	for (size_t i = 0; i < count; i++) {
		if (str_equal(s, str_from(names[i]))) {
			*ret_index = i;
			return 0;
		}
	}
	return error_set(err, E_INVAL, "\"%s\" of a report is none of the known states", key);
}

static int take_u64(yyjson_val *obj, const char *key, uint64_t *ret, struct error *err)
{
	int64_t v = (int64_t)*ret;
	int rc = json_i64(obj, key, 0, INT64_MAX, &v, err);
	if (rc == 0)
		*ret = (uint64_t)v;
	return rc;
}

static int take_i32(yyjson_val *obj, const char *key, int32_t *ret, struct error *err)
{
	int64_t v = *ret;
	int rc = json_i64(obj, key, 0, INT32_MAX, &v, err);
	if (rc == 0)
		*ret = (int32_t)v;
	return rc;
}

/* Measured numbers: a null or absent one is 0. */
static int take_rate(yyjson_val *obj, const char *key, double *ret, struct error *err)
{
	return json_num(obj, key, 0, RATE_MOST, ret, err);
}

static int parse_sources(yyjson_val *obj, struct model_report *m, struct error *err)
{
	yyjson_val *array = NULL, *item;
	size_t i, n;
	int rc = json_arr(obj, "sources", &array, err);
	yyjson_arr_foreach(array, i, n, item)
	{
		struct model_source *s = &m->sources[m->source_count];
		if (rc < 0 || m->source_count == REPORT_SOURCES_MAX)
			break;
		if (!yyjson_is_obj(item))
			return error_set(err, E_INVAL, "\"sources\" of a report must be an array of objects");
		if ((rc = take_id(item, s->id, err)) == 0 && (rc = take_rate(item, "rate", &s->rate, err)) == 0)
			m->source_count++;
	}
	return rc;
}

static int parse_sums(yyjson_val *obj, struct model_report *m, struct error *err)
{
	int rc;
	if ((rc = take_u64(obj, "served", &m->served, err)) < 0 ||
	    (rc = take_u64(obj, "errors", &m->errors, err)) < 0 ||
	    (rc = take_u64(obj, "ttft_sum_us", &m->ttft_sum_us, err)) < 0 ||
	    (rc = take_u64(obj, "tokens", &m->tokens, err)) < 0 ||
	    (rc = take_u64(obj, "decode_sum_us", &m->decode_sum_us, err)) < 0 ||
	    (rc = take_words(obj, "file", m->file, sizeof(m->file), err)) < 0)
		return rc;
	return parse_sources(obj, m, err);
}

static int parse_memory(yyjson_val *obj, struct model_report *m, struct error *err)
{
	int rc;
	if ((rc = json_i64(obj, "load_us", 0, LOAD_MOST_US, &m->load_us, err)) < 0 ||
	    (rc = json_num(obj, "load_progress", 0, 1, &m->load_progress, err)) < 0 ||
	    (rc = take_u64(obj, "memory_bytes", &m->memory_bytes, err)) < 0 ||
	    (rc = json_i64(obj, "used_wall_us", 0, INT64_MAX, &m->used_wall_us, err)) < 0)
		return rc;
	return json_bool(obj, "pinned", &m->pinned, err);
}

static int parse_labels(yyjson_val *obj, struct node_report *r, struct error *err)
{
	yyjson_val *array = NULL, *item;
	size_t i, n;
	int rc = json_arr(obj, "labels", &array, err);
	size_t most = array ? yyjson_arr_size(array) : 0;
	if (rc < 0 || most == 0)
		return rc;
	r->labels = mem_new((most < NODE_LABELS_MAX ? most : NODE_LABELS_MAX) * sizeof(*r->labels));
	yyjson_arr_foreach(array, i, n, item)
	{
		struct str text = {yyjson_get_str(item), yyjson_get_len(item)};
		if (r->label_count == NODE_LABELS_MAX)
			break;
		if (!text.base || !str_copy(text, r->labels[r->label_count], NODE_TEXT_SIZE))
			return error_set(err, E_INVAL, "\"labels\" of a report must be texts of at most %d bytes",
			                 NODE_TEXT_SIZE - 1);
		str_blank_controls(r->labels[r->label_count], text.len);
		r->label_count++;
	}
	return 0;
}

static int parse_model(yyjson_val *obj, struct model_report *m, struct error *err)
{
	size_t state = MODEL_WAITING;
	int rc;
	if ((rc = take_text(obj, "name", m->name, sizeof(m->name), err)) < 0 ||
	    (rc = take_text(obj, "digest", m->digest, sizeof(m->digest), err)) < 0 ||
	    (rc = take_name_of(obj, "state", model_state_names, COUNT(model_state_names), &state, err)) < 0 ||
	    (rc = take_u64(obj, "have_bytes", &m->have_bytes, err)) < 0 ||
	    (rc = take_u64(obj, "total_bytes", &m->total_bytes, err)) < 0 ||
	    (rc = take_rate(obj, "fetch_rate", &m->fetch_rate, err)) < 0 ||
	    (rc = take_words(obj, "error", m->error, sizeof(m->error), err)) < 0 ||
	    (rc = take_i32(obj, "running", &m->running, err)) < 0 ||
	    (rc = take_i32(obj, "waiting", &m->waiting, err)) < 0 ||
	    (rc = take_i32(obj, "slots", &m->slots, err)) < 0 ||
	    (rc = take_i32(obj, "context_tokens", &m->context_tokens, err)) < 0 ||
	    (rc = take_rate(obj, "kv_usage", &m->kv_usage, err)) < 0 ||
	    (rc = json_i64(obj, "tokens_to_prefill", 0, TOKENS_MOST, &m->tokens_to_prefill, err)) < 0 ||
	    (rc = take_rate(obj, "prefill_tokens_per_s", &m->prefill_tokens_per_s, err)) < 0 ||
	    (rc = take_rate(obj, "decode_tokens_per_s", &m->decode_tokens_per_s, err)) < 0 ||
	    (rc = take_rate(obj, "itl_us", &m->itl_us, err)) < 0 || (rc = parse_sums(obj, m, err)) < 0 ||
	    (rc = parse_memory(obj, m, err)) < 0)
		return rc;
	if (!m->name[0])
		return missing("models[].name", err);
	m->state = (enum model_state)state;
	return 0;
}

static int parse_seen(yyjson_val *obj, struct node_seen *s, struct error *err)
{
	int rc = take_id(obj, s->id, err);
	return rc < 0 ? rc : take_u64(obj, "dispatched", &s->dispatched, err);
}

static int parse_rtt(yyjson_val *obj, struct node_rtt *t, struct error *err)
{
	int rc = take_id(obj, t->id, err);
	return rc < 0 ? rc : json_i64(obj, "rtt_us", 0, RTT_MOST_US, &t->rtt_us, err);
}

/* An array of objects: its length (0 when absent) checked, zeroed memory for it made. */
static int take_array(yyjson_val *obj, const char *key, size_t most, size_t size, yyjson_val **ret_array,
                      void **ret_memory, size_t *ret_count, struct error *err)
{
	yyjson_val *array = NULL, *item;
	int rc = json_arr(obj, key, &array, err);
	if (rc < 0)
		return rc;
	size_t count = array ? yyjson_arr_size(array) : 0, i, n;
	if (count > most)
		return error_set(err, E_LIMIT, "\"%s\" of a report has %zu entries; at most %zu are taken", key, count,
		                 most);
	if (count > 0) {
		yyjson_arr_foreach(array, i, n, item)
		{
			if (!yyjson_is_obj(item))
				return error_set(err, E_INVAL, "\"%s\" of a report must be an array of objects", key);
		}
		*ret_memory = mem_new(count * size);
	}
	*ret_array = array;
	*ret_count = count;
	return 0;
}

static int parse_arrays(yyjson_val *obj, struct node_report *r, struct error *err)
{
	yyjson_val *array, *item;
	size_t i, n, count;
	void *memory = NULL;
	int rc = take_array(obj, "models", LIMIT_NODE_MODELS, sizeof(*r->models), &array, &memory, &count, err);
	if (rc < 0)
		return rc;
	r->models = memory;
	r->model_count = count;
	yyjson_arr_foreach(array, i, n, item)
	{
		if ((rc = parse_model(item, &r->models[i], err)) < 0)
			return rc;
	}
	memory = NULL;
	if ((rc = take_array(obj, "seen", REPORT_PEERS_MAX, sizeof(*r->seen), &array, &memory, &count, err)) < 0)
		return rc;
	r->seen = memory;
	r->seen_count = count;
	yyjson_arr_foreach(array, i, n, item)
	{
		if ((rc = parse_seen(item, &r->seen[i], err)) < 0)
			return rc;
	}
	memory = NULL;
	if ((rc = take_array(obj, "rtts", REPORT_PEERS_MAX, sizeof(*r->rtts), &array, &memory, &count, err)) < 0)
		return rc;
	r->rtts = memory;
	r->rtt_count = count;
	yyjson_arr_foreach(array, i, n, item)
	{
		if ((rc = parse_rtt(item, &r->rtts[i], err)) < 0)
			return rc;
	}
	return 0;
}

static int parse_head(yyjson_val *obj, struct node_report *r, struct error *err)
{
	struct str roles = {0};
	size_t state = NODE_STARTING;
	int rc;
	if ((rc = take_id(obj, r->id, err)) < 0 || (rc = take_text(obj, "name", r->name, sizeof(r->name), err)) < 0 ||
	    (rc = take_text(obj, "site", r->site, sizeof(r->site), err)) < 0 ||
	    (rc = json_str(obj, "roles", &roles, err)) < 0 ||
	    (rc = take_name_of(obj, "state", state_names, COUNT(state_names), &state, err)) < 0)
		return rc;
	if (!roles.base)
		return missing("roles", err);
	if (!yyjson_obj_get(obj, "boot"))
		return missing("boot", err);
	if (!yyjson_obj_get(obj, "seq"))
		return missing("seq", err);
	if ((rc = node_roles_parse(roles, &r->roles, err)) < 0 || (rc = take_u64(obj, "boot", &r->boot, err)) < 0 ||
	    (rc = take_u64(obj, "seq", &r->seq, err)) < 0 ||
	    (rc = json_i64(obj, "wall_us", 0, INT64_MAX, &r->wall_us, err)) < 0 ||
	    (rc = take_url(obj, "node_url", r->node_url, err)) < 0 ||
	    (rc = take_url(obj, "api_url", r->api_url, err)) < 0 || (rc = parse_labels(obj, r, err)) < 0 ||
	    (rc = take_u64(obj, "memory_bytes", &r->memory_bytes, err)) < 0 ||
	    (rc = take_words(obj, "accelerator", r->accelerator, sizeof(r->accelerator), err)) < 0)
		return rc;
	r->state = (enum node_state)state;
	if (!r->name[0])
		memcpy(r->name, r->id, sizeof(r->id));
	return 0;
}

int node_report_from_json(yyjson_val *obj, struct node_report *ret_report, struct error *err)
{
	if (!yyjson_is_obj(obj))
		return error_set(err, E_INVAL, "a report must be a JSON object");
	struct node_report r = {0};
	int rc = parse_head(obj, &r, err);
	if (rc == 0)
		rc = parse_arrays(obj, &r, err);
	if (rc < 0) {
		node_report_fini(&r);
		return rc;
	}
	*ret_report = r;
	return 0;
}

int node_report_parse(struct str json, struct node_report *ret_report, struct error *err)
{
	yyjson_doc *doc;
	int rc = json_parse(json, &doc, err);
	if (rc < 0)
		return rc;
	rc = node_report_from_json(yyjson_doc_get_root(doc), ret_report, err);
	yyjson_doc_free(doc);
	return rc;
}
