/* SPDX-License-Identifier: Apache-2.0 */
/* What there is to know of a model: model_info, refs, commits, and the list with search. Numbers that only a public
 * site has (downloads, likes) are left out, which clients take for "not known". */
#include "serve/repository/hf_private.h"

#include "base/clock.h"
#include "serve/repository/access.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void append_text(struct buf *out, const char *key, const char *text)
{
	if (!text[0])
		return;
	buf_printf(out, ",\"%s\":", key);
	buf_append_json(out, str_from(text));
}

static void append_date(struct buf *out, const char *key, int64_t wall_us)
{
	char date[25];
	if (!wall_us)
		return;
	clock_format(wall_us, date);
	buf_printf(out, ",\"%s\":\"%s\"", key, date);
}

static void append_tag(struct buf *out, const char *before, const char *text)
{
	struct buf tag = {0};
	if (!text[0])
		return;
	if (out->base[out->len - 1] != '[')
		buf_append_str(out, STR(","));
	buf_printf(&tag, "%s%s", before, text);
	buf_append_json(out, buf_str(&tag));
	buf_fini(&tag);
}

static bool has_suffix(const struct version *v, const char *suffix)
{
	for (size_t i = 0; i < v->file_count; i++)
		if (str_ends(str_from(v->files[i].path), str_from(suffix)))
			return true;
	return false;
}

/* What the list and the info of a model both say. */
static void append_common(struct buf *out, const char *id, const struct version *v)
{
	const char *slash = strchr(id, '/');
	char author[REPO_NAME_SIZE] = "", commit[COMMIT_SIZE];
	bool gguf = has_suffix(v, ".gguf"), safetensors = has_suffix(v, ".safetensors");
	if (slash)
		str_copy((struct str){id, (size_t)(slash - id)}, author, sizeof author);
	snapshot_commit(&v->manifest, commit);
	buf_append_str(out, STR("{\"id\":"));
	buf_append_json(out, str_from(id));
	append_text(out, "modelId", id);
	append_text(out, "_id", commit);
	append_text(out, "author", author);
	append_text(out, "sha", commit);
	append_date(out, "createdAt", v->created_wall_us);
	append_date(out, "lastModified", v->created_wall_us);
	buf_append_str(out, STR(",\"tags\":["));
	append_tag(out, "", gguf ? "gguf" : "");
	append_tag(out, "", safetensors ? "safetensors" : "");
	append_tag(out, "", v->architecture);
	append_tag(out, "license:", v->license);
	buf_append_str(out, STR("]"));
	if (safetensors)
		append_text(out, "library_name", "transformers");
	if (gguf && v->architecture[0]) {
		buf_printf(out, ",\"gguf\":{\"total\":%llu,\"context_length\":%u", (unsigned long long)v->parameters,
		           v->context_tokens);
		append_text(out, "architecture", v->architecture);
		buf_append_str(out, STR("}"));
	}
}

int hf_info_work(struct hf_task *h)
{
	struct buf *out = &h->body;
	append_common(out, h->id, &h->version);
	buf_append_str(out, STR(",\"siblings\":["));
	for (size_t i = 0; i < h->version.file_count; i++) {
		const struct version_file *f = &h->version.files[i];
		buf_append_str(out, i ? STR(",{\"rfilename\":") : STR("{\"rfilename\":"));
		buf_append_json(out, str_from(f->path));
		if (h->blobs) {
			buf_append_str(out, STR(","));
			hf_append_lfs(out, f);
		}
		buf_append_str(out, STR("}"));
	}
	buf_append_str(out, STR("]}\n"));
	return 0;
}

/* ---- refs and commits ------------------------------------------------------------------------ */

static void append_ref(struct buf *out, const char *kind, struct str name, const char *commit)
{
	struct buf ref = {0};
	buf_printf(&ref, "refs/%s/" STR_FMT, kind, STR_ARG(name));
	buf_append_str(out, out->base[out->len - 1] == '[' ? STR("{\"name\":") : STR(",{\"name\":"));
	buf_append_json(out, name);
	buf_append_str(out, STR(",\"ref\":"));
	buf_append_json(out, buf_str(&ref));
	append_text(out, "targetCommit", commit);
	buf_append_str(out, STR("}"));
	buf_fini(&ref);
}

static void add_tag(void *arg, struct str tag)
{
	struct hf_task *h = arg;
	struct digest manifest;
	char commit[COMMIT_SIZE];
	if (catalog_get_tag(h->t.r->catalog, str_from(h->t.repo), tag, &manifest, NULL))
		return;
	snapshot_commit(&manifest, commit);
	append_ref(&h->body, "tags", tag, commit);
}

int hf_refs_work(struct hf_task *h)
{
	struct buf *out = &h->body;
	buf_append_str(out, STR("{\"branches\":["));
	append_ref(out, "heads", STR("main"), h->commit);
	buf_append_str(out, STR("],\"converts\":[],\"pullRequests\":[],\"tags\":["));
	int rc = catalog_tags(h->t.r->catalog, str_from(h->t.repo), STR(""), HF_PAGE_MAX, add_tag, h, &h->t.err);
	buf_append_str(out, STR("]}\n"));
	return rc;
}

/* A version has no history of its own: it is its one commit. */
int hf_commits_work(struct hf_task *h)
{
	char date[25];
	clock_format(h->version.created_wall_us, date);
	buf_printf(&h->body, "[{\"id\":\"%s\",\"title\":", h->commit);
	buf_append_json(&h->body, str_from(h->version.tag[0] ? h->version.tag : h->commit));
	buf_printf(&h->body, ",\"message\":\"\",\"authors\":[],\"date\":\"%s\"}]\n", date);
	return 0;
}

/* ---- the list -------------------------------------------------------------------------------- */

struct rows {
	struct hf_task *h;
	char name[REPO_NAME_SIZE]; /* of the versions seen last */
	char tag[129];             /* of them the best so far */
	int64_t created_us;
};

static bool contains_nocase(const char *text, const char *part)
{
	return !part[0] || strcasestr(text, part);
}

static bool wanted(const struct hf_task *h, const char *name)
{
	const char *slash = strchr(name, '/');
	size_t author = slash ? (size_t)(slash - name) : 0;
	if (slash && strchr(slash + 1, '/'))
		return false; /* names of this world have two parts at most */
	if (h->author[0] && !str_equal_nocase((struct str){name, author}, str_from(h->author)))
		return false;
	return contains_nocase(name, h->search) && strcmp(name, h->after) > 0;
}

static void name_ends(struct rows *rows)
{
	if (rows->name[0] && wanted(rows->h, rows->name))
		buf_printf(&rows->h->form, "%s\n%s\n", rows->name, rows->tag);
}

static void see_version(void *arg, const struct version *v)
{
	struct rows *rows = arg;
	if (v->retired)
		return;
	if (strcmp(rows->name, v->name)) {
		name_ends(rows);
		str_copy(str_from(v->name), rows->name, sizeof rows->name);
		rows->tag[0] = 0;
		rows->created_us = 0;
	}
	bool usual = !strcmp(v->tag, "main") || !strcmp(v->tag, "latest");
	int64_t rank = usual ? INT64_MAX - !strcmp(v->tag, "latest") : v->created_wall_us;
	if (rows->tag[0] && rank < rows->created_us)
		return;
	rows->created_us = rank;
	str_copy(str_from(v->tag), rows->tag, sizeof rows->tag);
}

int hf_list_work(struct hf_task *h)
{
	struct rows rows = {.h = h};
	int rc = catalog_each_version(h->t.r->catalog, see_version, &rows, &h->t.err);
	if (!rc)
		name_ends(&rows);
	return rc;
}

static void add_next(struct hf_task *h, struct str last)
{
	buf_printf(&h->link, "<%s/api/models?limit=%zu&search=", h->base, h->limit);
	buf_append_escaped(&h->link, str_from(h->search), URL_PATH);
	buf_append_str(&h->link, STR("&author="));
	buf_append_escaped(&h->link, str_from(h->author), URL_PATH);
	buf_append_str(&h->link, STR("&cursor="));
	buf_append_escaped(&h->link, last, URL_PATH);
	buf_append_str(&h->link, STR(">; rel=\"next\""));
}

/* On the loop: only now is it known what this caller may see. */
void hf_list_filter(struct hf_task *h)
{
	struct buf all = h->form;
	struct str rest = buf_str(&all), last = STR("");
	size_t told = 0;
	h->form = (struct buf){0};
	while (rest.len && told <= h->limit) {
		struct str name = str_cut(rest, '\n', &rest), tag = str_cut(rest, '\n', &rest);
		if (access_check(h->t.r, h->t.x, name, ACCESS_PULL, NULL))
			continue;
		if (told++ == h->limit) {
			if (h->limit)
				add_next(h, last);
			break;
		}
		buf_printf(&h->form, STR_FMT "\n" STR_FMT "\n", STR_ARG(name), STR_ARG(tag));
		last = name;
	}
	buf_fini(&all);
}

int hf_list_format(struct hf_task *h)
{
	struct str rest = buf_str(&h->form);
	buf_append_str(&h->body, STR("["));
	while (rest.len) {
		struct str name = str_cut(rest, '\n', &rest), tag = str_cut(rest, '\n', &rest);
		char id[REPO_NAME_SIZE];
		struct version v;
		if (catalog_get_version(h->t.r->catalog, name, tag, &v, NULL))
			continue; /* went meanwhile */
		if (h->body.len > 1)
			buf_append_str(&h->body, STR(","));
		str_copy(name, id, sizeof id);
		append_common(&h->body, id, &v);
		buf_append_str(&h->body, STR("}"));
		version_fini(&v);
	}
	buf_append_str(&h->body, STR("]\n"));
	return 0;
}
