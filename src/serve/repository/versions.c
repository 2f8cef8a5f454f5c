/* SPDX-License-Identifier: Apache-2.0 */
/* One table of calls; each is read on the loop, done in a job, and answered with the JSON that the job made. */
#include "serve/repository/versions.h"

#include "base/json.h"
#include "base/limits.h"
#include "base/log.h"
#include "serve/repository/access.h"
#include "serve/repository/diff.h"
#include "serve/repository/quantize.h"
#include "store/ociname.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#define BODY_MAX (256u << 10)
#define LIST_MAX 1000
#define TAGS_MAX 1000

struct call;
struct op {
	const char *path, *method;
	/* On the loop: what the job needs out of query or body. NULL: nothing. */
	int (*read)(struct call *c, yyjson_val *body, struct error *err);
	void (*work)(struct task *t); /* the answer goes into out */
	bool changes;
};

struct call {
	struct task t; /* t.repo: the model's name */
	const struct op *op;
	char tag[129], other_name[129], other_tag[129], who[64];
	bool undo;
	struct version labels; /* to be set; what a search wants */
	struct buf removed;    /* keys, a line each */
	char *search, *after_name, *after_tag;
	bool retired_too;
	uint64_t limit;
	struct buf out;
};

static void call_free(struct call *c)
{
	version_fini(&c->labels);
	buf_fini(&c->removed);
	buf_fini(&c->out);
	free(c->search);
	free(c->after_name);
	free(c->after_tag);
	free(c);
}

int versions_name(struct str text, char ret_name[static 129], char ret_tag[static 129], struct error *err)
{
	struct str name, tag;
	if (!oci_reference_parse(text, &name, &tag) || !str_copy(name, ret_name, 129) || !str_copy(tag, ret_tag, 129))
		return error_set(err, E_INVAL, "`" STR_FMT "` is not NAME:TAG (at most 128 bytes each)", STR_ARG(text));
	return 0;
}

/* ---- reading a request -------------------------------------------------------------------------- */

static int take_model(struct call *c, struct str text, struct error *err)
{
	if (!text.len)
		return error_set(err, E_INVAL, "\"model\" is missing: NAME:TAG");
	return versions_name(text, c->t.repo, c->tag, err);
}

static int read_model(struct call *c, yyjson_val *body, struct error *err)
{
	struct str model = STR("");
	if (!body)
		http_query(c->t.x, "model", &model);
	else if (json_str(body, "model", &model, err))
		return E_INVAL;
	return take_model(c, model, err);
}

static int read_name(struct call *c, yyjson_val *body, struct error *err)
{
	struct str name = STR("");
	http_query(c->t.x, "name", &name);
	if (!oci_repo_valid(name) || !str_copy(name, c->t.repo, sizeof c->t.repo))
		return error_set(err, E_INVAL, "\"name\" must be a model's name, without its tag");
	return 0;
}

static int read_promote(struct call *c, yyjson_val *body, struct error *err)
{
	struct str channel = STR("");
	int rc = read_model(c, body, err);
	if (!rc)
		rc = json_str(body, "channel", &channel, err);
	if (!rc && (!oci_tag_valid(channel) || !str_copy(channel, c->other_tag, sizeof c->other_tag)))
		rc =
		    error_set(err, E_INVAL, "\"channel\" must be a tag: at most 128 letters, digits, '_', '.' and '-'");
	return rc;
}

static int read_retire(struct call *c, yyjson_val *body, struct error *err)
{
	int rc = read_model(c, body, err);
	return rc ? rc : json_bool(body, "undo", &c->undo, err);
}

static int read_label(struct call *c, yyjson_val *body, struct error *err)
{
	yyjson_val *set = NULL, *removed = NULL, *key, *value;
	size_t i, max;
	int rc = read_model(c, body, err);
	if (!rc)
		rc = json_obj(body, "set", &set, err);
	if (!rc)
		rc = json_arr(body, "remove", &removed, err);
	if (rc)
		return rc;
	yyjson_obj_foreach(set, i, max, key, value)
	{
		if (!yyjson_is_str(value))
			return error_set(err, E_INVAL, "\"set\" must hold texts");
		rc = version_label_set(&c->labels, (struct str){yyjson_get_str(key), yyjson_get_len(key)},
		                       (struct str){yyjson_get_str(value), yyjson_get_len(value)}, err);
		if (rc)
			return rc;
	}
	yyjson_arr_foreach(removed, i, max, value)
	{
		if (!yyjson_is_str(value) || memchr(yyjson_get_str(value), '\n', yyjson_get_len(value)))
			return error_set(err, E_INVAL, "\"remove\" must hold keys");
		buf_append(&c->removed, yyjson_get_str(value), yyjson_get_len(value));
		buf_append(&c->removed, "\n", 1);
	}
	return 0;
}

static int read_diff(struct call *c, yyjson_val *body, struct error *err)
{
	struct str from = STR(""), to = STR("");
	http_query(c->t.x, "from", &from);
	http_query(c->t.x, "to", &to);
	int rc = take_model(c, from, err);
	return rc ? rc : versions_name(to, c->other_name, c->other_tag, err);
}

static int read_limit(struct call *c, struct error *err)
{
	struct str text;
	c->limit = LIST_MAX;
	if (!http_query(c->t.x, "limit", &text))
		return 0;
	if (str_to_u64(text, &c->limit) || !c->limit)
		return error_set(err, E_INVAL, "\"limit\" must be a number from 1 to %d", LIST_MAX);
	c->limit = c->limit < LIST_MAX ? c->limit : LIST_MAX;
	return 0;
}

static int read_history(struct call *c, yyjson_val *body, struct error *err)
{
	int rc = read_model(c, NULL, err);
	return rc ? rc : read_limit(c, err);
}

static int read_search(struct call *c, yyjson_val *body, struct error *err)
{
	struct str text, label, value;
	struct http_exchange *x = c->t.x;
	int rc = read_limit(c, err);
	if (!rc && http_query(x, "label", &text))
		while (!rc && text.len) {
			label = str_cut(text, ',', &text);
			label = str_cut(label, '=', &value);
			rc = version_label_set(&c->labels, label, value.len ? value : STR(""), err); /* any */
		}
	if (!rc && http_query(x, "license", &text))
		rc = version_label_set(&c->labels, STR("license"), text, err);
	if (!rc && http_query(x, "arch", &text))
		rc = str_copy(text, c->labels.architecture, sizeof c->labels.architecture)
		         ? 0
		         : error_set(err, E_INVAL, "no architecture has so long a name");
	if (http_query(x, "search", &text) && text.len)
		c->search = str_dup(text);
	c->retired_too = http_query(x, "retired", &text) && str_equal(text, STR("1"));
	if (!rc && http_query(x, "after", &text)) {
		char name[129], tag[129];
		rc = versions_name(text, name, tag, err);
		if (!rc) {
			c->after_name = str_dup(str_from(name));
			c->after_tag = str_dup(str_from(tag));
		}
	}
	return rc;
}

/* ---- channels ------------------------------------------------------------------------------------- */

static void answer_moved(struct call *c, const char *tag, const struct digest *d)
{
	char text[DIGEST_TEXT_SIZE];
	digest_format(d, text);
	buf_printf(&c->out, "{\"model\":\"%s:%s\",\"digest\":\"%s\"}\n", c->t.repo, tag, text);
	log_info("repository", "%s:%s is %s now, says %s", c->t.repo, tag, text, c->who[0] ? c->who : "somebody");
}

static void promote_work(struct task *t)
{
	struct call *c = (struct call *)t;
	struct digest d;
	t->rc = catalog_promote(t->r->catalog, str_from(c->who), str_from(t->repo), str_from(c->tag),
	                        str_from(c->other_tag), &d, &t->err);
	if (!t->rc)
		answer_moved(c, c->other_tag, &d);
}

static void rollback_work(struct task *t)
{
	struct call *c = (struct call *)t;
	struct digest d;
	t->rc = catalog_rollback(t->r->catalog, str_from(c->who), str_from(t->repo), str_from(c->tag), &d, &t->err);
	if (!t->rc)
		answer_moved(c, c->tag, &d);
}

struct tag_list {
	struct buf *out;
	const char *but; /* this one not; NULL: all */
	size_t count;
};

static void append_tag(void *arg, struct str tag)
{
	struct tag_list *l = arg;
	if (l->but && str_equal(tag, str_from(l->but)))
		return;
	buf_append_str(l->out, l->count++ ? STR(",") : STR(""));
	buf_append_json(l->out, tag);
}

static void append_tags_of(struct call *c, const struct digest *d, const char *but)
{
	struct tag_list l = {&c->out, but, 0};
	buf_append_str(&c->out, STR("["));
	catalog_tags_of(c->t.r->catalog, str_from(c->t.repo), d, append_tag, &l, NULL);
	buf_append_str(&c->out, STR("]"));
}

static void retire_work(struct task *t)
{
	struct call *c = (struct call *)t;
	struct digest d;
	struct str name = str_from(t->repo), tag = str_from(c->tag);
	t->rc = catalog_retire(t->r->catalog, name, tag, !c->undo, &t->err);
	if (!t->rc)
		t->rc = catalog_get_tag(t->r->catalog, name, tag, &d, &t->err);
	if (t->rc)
		return;
	buf_printf(&c->out, "{\"model\":\"%s:%s\",\"retired\":%s,\"also\":", t->repo, c->tag,
	           c->undo ? "false" : "true");
	append_tags_of(c, &d, c->tag);
	buf_append_str(&c->out, STR("}\n"));
}

static void append_digest(struct call *c, const char *key, const struct digest *d)
{
	char text[DIGEST_TEXT_SIZE];
	if (!d)
		return;
	digest_format(d, text);
	buf_printf(&c->out, ",\"%s\":\"%s\",\"%s_tags\":", key, text, key);
	append_tags_of(c, d, c->tag);
}

static void append_move(void *arg, const struct catalog_move *m)
{
	struct call *c = arg;
	bool first = c->out.len && c->out.base[c->out.len - 1] == '[';
	buf_printf(&c->out, "%s{\"at_us\":%lld,\"what\":\"%s\",\"who\":", first ? "" : ",", (long long)m->wall_us,
	           m->what);
	buf_append_json(&c->out, str_from(m->who));
	append_digest(c, "from", m->before);
	append_digest(c, "to", m->after);
	buf_append_str(&c->out, STR("}"));
}

static void history_work(struct task *t)
{
	struct call *c = (struct call *)t;
	buf_printf(&c->out, "{\"model\":\"%s:%s\",\"moves\":[", t->repo, c->tag);
	t->rc = catalog_history(t->r->catalog, str_from(t->repo), str_from(c->tag), (size_t)c->limit, append_move, c,
	                        &t->err);
	buf_append_str(&c->out, STR("]}\n"));
}

static void collect_tag(void *arg, struct str tag)
{
	buf_append_str(arg, tag);
	buf_append(arg, "\n", 1);
}

static void append_last_move(void *arg, const struct catalog_move *m)
{
	struct call *c = arg;
	buf_printf(&c->out, ",\"moved_us\":%lld,\"what\":\"%s\",\"who\":", (long long)m->wall_us, m->what);
	buf_append_json(&c->out, str_from(m->who));
}

/* All tags of a name: what each names, and since when. */
static void tags_work(struct task *t)
{
	struct call *c = (struct call *)t;
	struct buf tags = {0};
	struct str name = str_from(t->repo), tag;
	bool first = true;
	t->rc = catalog_tags(t->r->catalog, name, STR(""), TAGS_MAX, collect_tag, &tags, &t->err);
	if (!t->rc && !tags.len && !catalog_has_repo(t->r->catalog, name))
		t->rc =
		    error_set(&t->err, E_NOTFOUND, "the repository has nothing called %s; see `mdn models`", t->repo);
	buf_printf(&c->out, "{\"name\":\"%s\",\"tags\":[", t->repo);
	for (struct str rest = buf_str(&tags); !t->rc && rest.len; first = false) {
		struct digest d;
		tag = str_cut(rest, '\n', &rest);
		if (catalog_get_tag(t->r->catalog, name, tag, &d, NULL))
			continue; /* just deleted */
		str_copy(tag, c->tag, sizeof c->tag);
		buf_printf(&c->out, "%s{\"tag\":\"%s\"", first ? "" : ",", c->tag);
		append_digest(c, "digest", &d);
		catalog_history(t->r->catalog, name, tag, 1, append_last_move, c, NULL);
		buf_append_str(&c->out, STR("}"));
	}
	buf_append_str(&c->out, STR("]}\n"));
	buf_fini(&tags);
}

/* ---- labels and search ---------------------------------------------------------------------------- */

static const struct {
	const char *key;
	size_t offset;
} fields[] = {
    {"license", offsetof(struct version, license)},
    {"revision", offsetof(struct version, revision)},
    {"base-model", offsetof(struct version, base_model)},
    {"quantized-from", offsetof(struct version, quantized_from)},
    {"distilled-from", offsetof(struct version, distilled_from)},
};
#define FIELDS (sizeof fields / sizeof *fields)

static const char *field_of(const struct version *v, size_t i)
{
	return (const char *)v + fields[i].offset;
}

static void label_work(struct task *t)
{
	struct call *c = (struct call *)t;
	struct str keys[2 * VERSION_LABELS_MAX + FIELDS], values[2 * VERSION_LABELS_MAX + FIELDS];
	struct version v;
	size_t count = 0;
	for (struct str rest = buf_str(&c->removed); rest.len && count < VERSION_LABELS_MAX; count++) {
		keys[count] = str_cut(rest, '\n', &rest);
		values[count] = (struct str){0};
	}
	for (size_t i = 0; i < c->labels.label_count; i++, count++) {
		keys[count] = str_from(c->labels.labels[i].key);
		values[count] = str_from(c->labels.labels[i].value);
	}
	for (size_t i = 0; i < FIELDS; i++)
		if (field_of(&c->labels, i)[0]) {
			keys[count] = str_from(fields[i].key);
			values[count++] = str_from(field_of(&c->labels, i));
		}
	struct str name = str_from(t->repo), tag = str_from(c->tag);
	t->rc = catalog_label(t->r->catalog, name, tag, keys, values, count, &t->err);
	if (!t->rc)
		t->rc = catalog_get_version(t->r->catalog, name, tag, &v, &t->err);
	if (t->rc)
		return;
	version_format(&v, &c->out);
	version_fini(&v);
}

/* Without regard to case; needle is not empty. */
static bool holds(const char *text, const char *needle)
{
	size_t len = strlen(needle);
	for (; *text; text++)
		if (!strncasecmp(text, needle, len))
			return true;
	return false;
}

static bool found_in(const struct version *v, const char *needle)
{
	char name[300];
	snprintf(name, sizeof name, "%s:%s", v->name, v->tag);
	bool found = holds(name, needle) || holds(v->architecture, needle) || holds(v->quantization, needle);
	for (size_t i = 0; i < FIELDS && !found; i++)
		found = holds(field_of(v, i), needle);
	for (size_t i = 0; i < v->label_count && !found; i++)
		found = holds(v->labels[i].key, needle) || holds(v->labels[i].value, needle);
	return found;
}

static bool wanted(const struct call *c, const struct version *v)
{
	const struct version *w = &c->labels;
	if ((v->retired && !c->retired_too) || (w->architecture[0] && strcasecmp(w->architecture, v->architecture)) ||
	    (w->license[0] && strcasecmp(w->license, v->license)))
		return false;
	for (size_t i = 0; i < w->label_count; i++) {
		const char *has = version_label(v, w->labels[i].key);
		if (!has || (w->labels[i].value[0] && strcmp(has, w->labels[i].value)))
			return false;
	}
	return !c->search || found_in(v, c->search);
}

/* Past the limit only the name of the last one shown is told: where to go on. */
static void search_one(void *arg, const struct version *v)
{
	struct call *c = arg;
	if (c->after_name) {
		int order = strcmp(v->name, c->after_name);
		if (order < 0 || (!order && strcmp(v->tag, c->after_tag) <= 0))
			return;
	}
	if (!wanted(c, v))
		return;
	if (!c->limit) {
		c->undo = true; /* there are more */
		return;
	}
	c->limit--;
	if (c->out.base[c->out.len - 1] != '[')
		buf_append_str(&c->out, STR(","));
	version_format(v, &c->out);
	snprintf(c->other_name, sizeof c->other_name, "%s", v->name);
	snprintf(c->other_tag, sizeof c->other_tag, "%s", v->tag);
}

static void search_work(struct task *t)
{
	struct call *c = (struct call *)t;
	buf_append_str(&c->out, STR("{\"models\":["));
	t->rc = catalog_each_version(t->r->catalog, search_one, c, &t->err);
	buf_append_str(&c->out, STR("]"));
	if (c->undo)
		buf_printf(&c->out, ",\"next\":\"%s:%s\"", c->other_name, c->other_tag);
	buf_append_str(&c->out, STR("}\n"));
}

/* ---- the rest --------------------------------------------------------------------------------------- */

static void append_space(void *arg, struct str space, uint64_t used, uint64_t quota)
{
	struct call *c = arg;
	buf_append_str(&c->out, c->out.base[c->out.len - 1] == '[' ? STR("{\"name\":") : STR(",{\"name\":"));
	buf_append_json(&c->out, space);
	buf_printf(&c->out, ",\"used\":%llu", (unsigned long long)used);
	if (quota != UINT64_MAX)
		buf_printf(&c->out, ",\"quota\":%llu", (unsigned long long)quota);
	buf_append_str(&c->out, STR("}"));
}

static void quota_work(struct task *t)
{
	struct call *c = (struct call *)t;
	buf_append_str(&c->out, STR("{\"spaces\":["));
	t->rc = catalog_each_space(t->r->catalog, append_space, c, &t->err);
	buf_append_str(&c->out, STR("]}\n"));
}

static void diff_work(struct task *t)
{
	struct call *c = (struct call *)t;
	struct version a = {0}, b = {0};
	t->rc = catalog_get_version(t->r->catalog, str_from(t->repo), str_from(c->tag), &a, &t->err);
	if (t->rc)
		error_set(&t->err, t->rc, "the repository has no model %s:%s", t->repo, c->tag);
	else if ((t->rc =
	              catalog_get_version(t->r->catalog, str_from(c->other_name), str_from(c->other_tag), &b, &t->err)))
		error_set(&t->err, t->rc, "the repository has no model %s:%s", c->other_name, c->other_tag);
	else
		t->rc = diff_versions(t->r->store, &a, &b, &c->out, &t->err);
	version_fini(&a);
	version_fini(&b);
}

static const struct op ops[] = {
    {"models", "GET", read_search, search_work, false},
    {"tags", "GET", read_name, tags_work, false},
    {"history", "GET", read_history, history_work, false},
    {"diff", "GET", read_diff, diff_work, false},
    {"quota", "GET", NULL, quota_work, false},
    {"promote", "POST", read_promote, promote_work, true},
    {"rollback", "POST", read_model, rollback_work, true},
    {"retire", "POST", read_retire, retire_work, true},
    {"label", "POST", read_label, label_work, true},
};

static void answer(struct task *t)
{
	struct call *c = (struct call *)t;
	if (t->rc)
		http_respond_error(t->x, &t->err);
	else
		http_respond(t->x, 200, "application/json", buf_str(&c->out));
	if (c->op->changes)
		feed_wake(t->r);
	call_free(c);
}

static void refuse(struct call *c, const struct error *err)
{
	http_respond_error(c->t.x, err);
	call_free(c);
}

static void on_body(void *arg, struct http_exchange *x, struct str body, const struct error *failure)
{
	struct call *c = arg;
	struct repository *r = c->t.r;
	struct error err = {0};
	yyjson_doc *doc = NULL;
	int rc = 0;
	if (failure)
		rc = error_set(&err, failure->code, "%s", failure->text);
	else if (r->freed)
		rc = error_set(&err, E_UNAVAILABLE, "the repository stops; ask again in a moment");
	if (!rc && !(rc = json_parse(body, &doc, &err)))
		rc = yyjson_is_obj(yyjson_doc_get_root(doc)) ? c->op->read(c, yyjson_doc_get_root(doc), &err)
		                                             : error_set(&err, E_INVAL, "send a JSON object");
	yyjson_doc_free(doc);
	if (rc)
		refuse(c, &err);
	else
		task_run(&c->t, c->op->work, answer);
	repository_release(r);
}

static void begin(struct repository *r, struct http_exchange *x, const struct op *op)
{
	struct error err = {0};
	struct call *c = task_new(r, x, STR(""), sizeof *c);
	c->op = op;
	access_who(r, x, c->who);
	if (!strcmp(op->method, "POST")) {
		r->refs++;
		http_body_collect(x, BODY_MAX, on_body, c);
	} else if (op->read && op->read(c, NULL, &err)) {
		refuse(c, &err);
	} else {
		task_run(&c->t, op->work, answer);
	}
}

bool versions_handle(struct repository *r, struct http_exchange *x)
{
	struct str path = http_path(x);
	struct error err = {0};
	if (!str_starts(path, STR(VERSIONS_PATH)))
		return false;
	path = (struct str){path.base + sizeof VERSIONS_PATH - 1, path.len - sizeof VERSIONS_PATH + 1};
	if (quantize_handle(r, x, path))
		return true;
	for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
		if (!str_equal(path, str_from(ops[i].path)))
			continue;
		if (str_equal(http_method(x), str_from(ops[i].method))) {
			begin(r, x, &ops[i]);
			return true;
		}
		http_add_header(x, "Allow", str_from(ops[i].method));
		error_set(&err, E_METHOD, "%s%s is called with %s", VERSIONS_PATH, ops[i].path, ops[i].method);
		http_respond_error(x, &err);
		return true;
	}
	error_set(&err, E_NOTFOUND, "nothing is served at this path");
	http_respond_error(x, &err);
	return true;
}
