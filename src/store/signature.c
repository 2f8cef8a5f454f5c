/* SPDX-License-Identifier: Apache-2.0 */
/* Sorted is as Python's pathlib sorts: part by part, so "a/b" comes before "a.txt". Readers take any order: what
 * counts is that the root digest fits the order given, and that no item comes twice.
 */
#include "store/signature.h"

#include "base/json.h"
#include "base/limits.h"
#include "store/ociname.h"

#include <stdio.h>
#include <stdlib.h>

#define STATEMENT_TYPE "https://in-toto.io/Statement/v1"

static const char *const git_paths[] = {".git", ".gitattributes", ".github", ".gitignore"};

void signed_model_fini(struct signed_model *m)
{
	if (!m)
		return;
	for (size_t i = 0; i < m->ignore_count; i++)
		free(m->ignores[i]);
	for (size_t i = 0; i < m->item_count; i++)
		free(m->items[i].path);
	free(m->ignores);
	free(m->items);
	*m = (struct signed_model){0};
}

/* Room for one more: lists double, beginning with 16. */
static void *grow(void *list, size_t count, size_t size)
{
	bool full = count == 0 || (count >= 16 && (count & (count - 1)) == 0);
	return full ? mem_resize(list, count ? 2 * count : 16, size) : list;
}

void signed_model_add(struct signed_model *m, struct str path, uint64_t start, uint64_t end, const struct digest *d)
{
	m->items = grow(m->items, m->item_count, sizeof *m->items);
	m->items[m->item_count++] = (struct signed_item){str_dup(path), start, end, *d};
}

void signed_model_ignore(struct signed_model *m, struct str path)
{
	while (path.len > 1 && path.base[path.len - 1] == '/')
		path.len--;
	m->ignores = grow(m->ignores, m->ignore_count, sizeof *m->ignores);
	m->ignores[m->ignore_count++] = str_dup(path);
}

void signed_model_ignore_git(struct signed_model *m)
{
	for (size_t i = 0; i < sizeof git_paths / sizeof *git_paths; i++)
		if (!signed_model_ignores(m, str_from(git_paths[i])))
			signed_model_ignore(m, str_from(git_paths[i]));
}

bool signed_model_ignores(const struct signed_model *m, struct str path)
{
	for (size_t i = 0; i < m->ignore_count; i++) {
		struct str under = str_from(m->ignores[i]);
		if (str_starts(path, under) && (path.len == under.len || path.base[under.len] == '/'))
			return true;
	}
	return false;
}

static int path_compare(const char *a, const char *b)
{
	for (;; a++, b++) {
		unsigned char x = (unsigned char)*a, y = (unsigned char)*b;
		if (x != y)
			/* the end of a part is before any letter, the end of the path before that */
			return (x == 0 ? 0 : x == '/' ? 1 : x + 1) - (y == 0 ? 0 : y == '/' ? 1 : y + 1);
		if (!x)
			return 0;
	}
}

static int item_compare(const void *a, const void *b)
{
	const struct signed_item *x = a, *y = b;
	int order = path_compare(x->path, y->path);
	if (order)
		return order;
	if (x->start != y->start)
		return x->start < y->start ? -1 : 1;
	return x->end == y->end ? 0 : x->end < y->end ? -1 : 1;
}

void signed_model_sort(struct signed_model *m)
{
	if (m->item_count)
		qsort(m->items, m->item_count, sizeof *m->items, item_compare);
}

static struct digest root_of(const struct signed_model *m)
{
	struct digest_stream *s = digest_stream_new();
	for (size_t i = 0; i < m->item_count; i++)
		digest_stream_add(s, m->items[i].digest.bytes, DIGEST_SIZE);
	struct digest root = digest_stream_end(s);
	digest_stream_free(s);
	return root;
}

/* ---- writing ------------------------------------------------------------------------------------ */

static void append_item(const struct signed_model *m, const struct signed_item *item, struct buf *out)
{
	char hex[2 * DIGEST_SIZE + 1];
	struct buf name = {0};
	hex_encode(item->digest.bytes, DIGEST_SIZE, hex);
	buf_append_str(&name, str_from(item->path));
	if (m->shards)
		buf_printf(&name, ":%llu:%llu", (unsigned long long)item->start, (unsigned long long)item->end);
	buf_append_str(out, STR("{\"name\":"));
	buf_append_json(out, buf_str(&name));
	buf_append_str(out, STR(",\"algorithm\":\"sha256"));
	if (m->shards)
		buf_printf(out, "-sharded-%llu", (unsigned long long)m->shard_size);
	buf_printf(out, "\",\"digest\":\"%s\"}", hex);
	buf_fini(&name);
}

void signed_statement_format(struct signed_model *m, const char *kind, struct str more, struct buf *out)
{
	char hex[2 * DIGEST_SIZE + 1];
	signed_model_sort(m);
	struct digest root = root_of(m);
	hex_encode(root.bytes, DIGEST_SIZE, hex);
	buf_append_str(out, STR("{\"_type\":\"" STATEMENT_TYPE "\",\"subject\":[{\"name\":"));
	buf_append_json(out, str_from(m->name));
	buf_printf(out,
	           ",\"digest\":{\"sha256\":\"%s\"}}],\"predicateType\":\"%s\",\"predicate\":{" STR_FMT
	           "\"serialization\":{\"method\":\"%s\",\"hash_type\":\"sha256\",\"allow_symlinks\":%s",
	           hex, kind, STR_ARG(more), m->shards ? "shards" : "files", m->allow_symlinks ? "true" : "false");
	if (m->shards)
		buf_printf(out, ",\"shard_size\":%llu", (unsigned long long)m->shard_size);
	for (size_t i = 0; i < m->ignore_count; i++) {
		buf_append_str(out, i ? STR(",") : STR(",\"ignore_paths\":["));
		buf_append_json(out, str_from(m->ignores[i]));
	}
	buf_append_str(out, m->ignore_count ? STR("]},\"resources\":[") : STR("},\"resources\":["));
	for (size_t i = 0; i < m->item_count; i++) {
		if (i)
			buf_append_str(out, STR(","));
		append_item(m, &m->items[i], out);
	}
	buf_append_str(out, STR("]}}"));
}

void signed_model_format(struct signed_model *m, struct buf *out)
{
	signed_statement_format(m, SIGNATURE_PREDICATE, STR(""), out);
}

/* ---- reading ------------------------------------------------------------------------------------ */

static int need_str(yyjson_val *obj, const char *key, struct str *ret, struct error *err)
{
	*ret = (struct str){0};
	int rc = json_str(obj, key, ret, err);
	return rc || ret->base ? rc : error_set(err, E_INVAL, "the signed statement has no \"%s\"", key);
}

static int need_obj(yyjson_val *obj, const char *key, yyjson_val **ret, struct error *err)
{
	*ret = NULL;
	int rc = json_obj(obj, key, ret, err);
	return rc || *ret ? rc : error_set(err, E_INVAL, "the signed statement has no \"%s\"", key);
}

/* "PATH:START:END" */
static int take_shard_name(struct str name, struct str *ret_path, uint64_t *ret_start, uint64_t *ret_end,
                           struct error *err)
{
	struct str rest, numbers, end;
	*ret_path = str_cut(name, ':', &rest);
	numbers = str_cut(rest, ':', &end);
	if (str_to_u64(numbers, ret_start) || str_to_u64(end, ret_end) || *ret_start >= *ret_end)
		return error_set(err, E_INVAL, "a signed shard's name is not PATH:START:END");
	return 0;
}

static int take_digest(struct str text, struct digest *ret_digest, struct error *err)
{
	if (hex_decode(text, ret_digest->bytes, DIGEST_SIZE))
		return error_set(err, E_INVAL, "a digest of the signed statement is not 64 hex digits");
	return 0;
}

static int take_item(yyjson_val *obj, struct signed_model *m, struct error *err)
{
	struct str name, path, algorithm = {0}, text;
	uint64_t start = 0, end = 0;
	struct digest d;
	if (!yyjson_is_obj(obj))
		return error_set(err, E_INVAL, "a resource of the signed statement is not an object");
	int rc = need_str(obj, "name", &name, err);
	if (!rc)
		rc = need_str(obj, "algorithm", &algorithm, err);
	if (!rc && !str_equal(algorithm, STR("sha256")) &&
	    !(m->shards && str_starts(algorithm, STR("sha256-sharded-"))))
		rc = error_set(err, E_UNSUPPORTED, "the model is signed by %.*s; sign it by sha256",
		               (int)(algorithm.len < 40 ? algorithm.len : 40), algorithm.base);
	if (!rc)
		rc = need_str(obj, "digest", &text, err);
	if (!rc)
		rc = take_digest(text, &d, err);
	path = rc ? STR("") : name;
	if (!rc && m->shards)
		rc = take_shard_name(name, &path, &start, &end, err);
	if (!rc && !str_equal(path, STR(".")) && !path_safe(path))
		rc = error_set(err, E_INVAL, "a signed file's name is not a safe relative path");
	if (!rc)
		signed_model_add(m, path, start, end, &d);
	return rc;
}

static int take_serialization(yyjson_val *how, struct signed_model *m, struct error *err)
{
	struct str method = {0}, hash = {0};
	yyjson_val *ignores = NULL, *path;
	double size = SIGNATURE_SHARD_SIZE;
	size_t i, max;
	int rc = need_str(how, "method", &method, err);
	if (!rc)
		rc = need_str(how, "hash_type", &hash, err);
	if (!rc && !str_equal(hash, STR("sha256")))
		rc = error_set(err, E_UNSUPPORTED, "the model is signed by %.*s; sign it by sha256",
		               (int)(hash.len < 40 ? hash.len : 40), hash.base);
	m->shards = !rc && str_equal(method, STR("shards"));
	if (!rc && !m->shards && !str_equal(method, STR("files")))
		rc = error_set(err, E_UNSUPPORTED, "the model is signed neither by \"files\" nor by \"shards\"");
	if (!rc)
		rc = json_bool(how, "allow_symlinks", &m->allow_symlinks, err);
	if (!rc) /* the Python package writes 1000000000.0 */
		rc = json_num(how, "shard_size", 1, 9e15, &size, err);
	m->shard_size = (uint64_t)size;
	if (!rc)
		rc = json_arr(how, "ignore_paths", &ignores, err);
	if (!rc && yyjson_arr_size(ignores) > SIGNATURE_IGNORES_MAX)
		rc = error_set(err, E_LIMIT, "a signature leaves out at most %d paths", SIGNATURE_IGNORES_MAX);
	yyjson_arr_foreach(ignores, i, max, path)
	{
		struct str text = {yyjson_get_str(path), yyjson_get_len(path)};
		if (rc)
			break;
		if (!text.base || !text.len || memchr(text.base, 0, text.len))
			rc = error_set(err, E_INVAL, "an ignored path of the signed statement is not a text");
		else
			signed_model_ignore(m, text);
	}
	return rc;
}

/* The root digest is over the items in the order given. */
static int take_subject(yyjson_val *root, struct signed_model *m, struct digest *ret_root, struct error *err)
{
	yyjson_val *list = NULL, *digest, *first;
	struct str text;
	int rc = json_arr(root, "subject", &list, err);
	first = yyjson_arr_get_first(list);
	if (!rc && (yyjson_arr_size(list) != 1 || !yyjson_is_obj(first)))
		rc = error_set(err, E_INVAL, "the signed statement must have one subject");
	if (!rc)
		rc = need_str(first, "name", &text, err);
	if (!rc && (memchr(text.base, 0, text.len) || !str_copy(text, m->name, sizeof m->name)))
		rc = error_set(err, E_INVAL, "the name of the signed model is longer than 255 bytes");
	if (!rc)
		rc = need_obj(first, "digest", &digest, err);
	if (!rc)
		rc = need_str(digest, "sha256", &text, err);
	return rc ? rc : take_digest(text, ret_root, err);
}

static int check_items(struct signed_model *m, const struct digest *root, struct error *err)
{
	struct digest is = root_of(m);
	if (!digest_equal(&is, root))
		return error_set(err, E_INVAL, "the signed statement's digest does not fit the files it names");
	signed_model_sort(m);
	for (size_t i = 1; i < m->item_count; i++)
		if (!item_compare(&m->items[i - 1], &m->items[i]))
			return error_set(err, E_INVAL, "the signed statement names %s twice", m->items[i].path);
	return 0;
}

static int take_statement(yyjson_val *root, const char *kind, struct signed_model *m, struct error *err)
{
	struct str text;
	struct digest digest;
	yyjson_val *predicate, *how, *list = NULL, *item;
	size_t i, max;
	if (!yyjson_is_obj(root))
		return error_set(err, E_INVAL, "the signed statement is not a JSON object");
	int rc = need_str(root, "_type", &text, err);
	if (!rc && !str_equal(text, STR(STATEMENT_TYPE)))
		rc = error_set(err, E_UNSUPPORTED, "what is signed is not an in-toto statement v1");
	if (!rc)
		rc = need_str(root, "predicateType", &text, err);
	if (!rc && !str_equal(text, str_from(kind)))
		rc = error_set(err, E_NOTFOUND, "what is signed is not a statement of the kind %s", kind);
	if (!rc)
		rc = take_subject(root, m, &digest, err);
	if (!rc)
		rc = need_obj(root, "predicate", &predicate, err);
	if (!rc)
		rc = need_obj(predicate, "serialization", &how, err);
	if (!rc)
		rc = take_serialization(how, m, err);
	if (!rc)
		rc = json_arr(predicate, "resources", &list, err);
	if (!rc && yyjson_arr_size(list) > SIGNATURE_ITEMS_MAX)
		rc = error_set(err, E_LIMIT, "a signature names at most %d files or shards; sign larger shards",
		               SIGNATURE_ITEMS_MAX);
	yyjson_arr_foreach(list, i, max, item)
	{
		if (rc)
			break;
		rc = take_item(item, m, err);
	}
	return rc ? rc : check_items(m, &digest, err);
}

int signed_statement_parse(struct str payload, const char *kind, struct signed_model *ret_model, yyjson_doc **ret_doc,
                           struct error *err)
{
	struct signed_model m = {0};
	yyjson_doc *doc;
	int rc = json_parse(payload, &doc, err);
	if (rc)
		return error_prefix(err, "the signed statement: ");
	rc = take_statement(yyjson_doc_get_root(doc), kind, &m, err);
	if (rc) {
		yyjson_doc_free(doc);
		signed_model_fini(&m);
		return rc;
	}
	*ret_model = m;
	*ret_doc = doc;
	return 0;
}

int signed_model_parse(struct str payload, struct signed_model *ret_model, struct error *err)
{
	yyjson_doc *doc;
	int rc = signed_statement_parse(payload, SIGNATURE_PREDICATE, ret_model, &doc, err);
	if (!rc)
		yyjson_doc_free(doc);
	return rc;
}

/* ---- comparing ---------------------------------------------------------------------------------- */

static const char *what_of(const struct signed_model *m, const struct signed_item *item, char text[static 320])
{
	const char *path = strcmp(item->path, ".") ? item->path : "the file";
	if (m->shards)
		snprintf(text, 320, "%s (bytes %llu to %llu)", path, (unsigned long long)item->start,
		         (unsigned long long)item->end);
	else
		snprintf(text, 320, "%s", path);
	return text;
}

int signed_model_compare(const struct signed_model *is_signed, const struct signed_model *found, struct error *err)
{
	char text[320];
	size_t s = 0, f = 0;
	while (s < is_signed->item_count || f < found->item_count) {
		const struct signed_item *a = &is_signed->items[s], *b = &found->items[f];
		int order = s == is_signed->item_count ? 1 : f == found->item_count ? -1 : item_compare(a, b);
		if (order < 0)
			return error_set(err, E_CORRUPT, "%s is signed but missing", what_of(is_signed, a, text));
		if (order > 0)
			return error_set(err, E_CORRUPT, "%s is there but not signed", what_of(found, b, text));
		if (!digest_equal(&a->digest, &b->digest))
			return error_set(err, E_CORRUPT, "%s is not what was signed: its content was changed",
			                 what_of(is_signed, a, text));
		s++;
		f++;
	}
	return 0;
}

static bool is_git_file(const char *path)
{
	return !strcmp(path, ".gitattributes") || !strcmp(path, ".gitignore");
}

static const struct version_file *file_of(const struct version *v, const char *path)
{
	for (size_t i = 0; i < v->file_count; i++)
		if (!strcmp(v->files[i].path, path) || (v->file_count == 1 && !strcmp(path, ".")))
			return &v->files[i];
	return NULL;
}

static bool is_signed_file(const struct signed_model *m, const struct version *v, const struct version_file *f)
{
	for (size_t i = 0; i < m->item_count; i++)
		if (file_of(v, m->items[i].path) == f)
			return true;
	return false;
}

int signed_model_covers(const struct signed_model *m, const struct version *v, struct error *err)
{
	char text[320];
	for (size_t i = 0; i < m->item_count; i++) {
		const struct version_file *f = file_of(v, m->items[i].path);
		if (!f)
			return error_set(err, E_FORBIDDEN, "the signature names %s, which is not in it",
			                 what_of(m, &m->items[i], text));
		if (!m->shards && !digest_equal(&f->digest, &m->items[i].digest))
			return error_set(err, E_FORBIDDEN, "%s is not the file that was signed", f->path);
	}
	for (size_t i = 0; i < v->file_count; i++) {
		const struct version_file *f = &v->files[i];
		if (!is_git_file(f->path) && !(m->shards && f->size == 0) && !is_signed_file(m, v, f))
			return error_set(err, E_FORBIDDEN, "%s is not signed", f->path);
	}
	return 0;
}

void signed_model_of_version(const struct version *v, struct signed_model *ret_model)
{
	struct signed_model m = {.shard_size = SIGNATURE_SHARD_SIZE};
	snprintf(m.name, sizeof m.name, "%.127s:%.127s", v->name, v->tag);
	for (size_t i = 0; i < v->file_count; i++)
		signed_model_add(&m, str_from(v->files[i].path), 0, 0, &v->files[i].digest);
	signed_model_ignore_git(&m);
	*ret_model = m;
}
