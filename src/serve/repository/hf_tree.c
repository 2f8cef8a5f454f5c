/* SPDX-License-Identifier: Apache-2.0 */
/* The tree of a version: files, and the folders their paths make. Every file is told as one in Git LFS, small ones too,
 * so its SHA-256 is known without reading it; `oid` is what Git would call the pointer file, folders get a name made
 * up from commit and path. Entries are sorted by path; a page goes on at the index that `cursor` says. */
#include "serve/repository/hf_private.h"

#include "base/json.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>

/* The Git LFS pointer file ("git-lfs/docs/spec.md") and the SHA-1 of the Git blob that holds it. */
void hf_append_lfs(struct buf *out, const struct version_file *f)
{
	char hex[65], pointer[256], blob[300], oid[41];
	uint8_t sha1[EVP_MAX_MD_SIZE];
	hex_encode(f->digest.bytes, DIGEST_SIZE, hex);
	int len =
	    snprintf(pointer, sizeof pointer, "version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %llu\n",
	             hex, (unsigned long long)f->size);
	int head = snprintf(blob, sizeof blob, "blob %d", len) + 1; /* with its NUL */
	memcpy(blob + head, pointer, (size_t)len);
	if (!EVP_Digest(blob, (size_t)(head + len), sha1, NULL, EVP_sha1(), NULL))
		abort();
	hex_encode(sha1, 20, oid);
	buf_printf(out, "\"oid\":\"%s\",\"blobId\":\"%s\",\"size\":%llu,", oid, oid, (unsigned long long)f->size);
	buf_printf(out, "\"lfs\":{\"oid\":\"%s\",\"sha256\":\"%s\",\"size\":%llu,\"pointerSize\":%d}", hex, hex,
	           (unsigned long long)f->size, len);
}

struct entry {
	struct str path;
	const struct version_file *file; /* NULL: a folder */
};

struct entries {
	struct entry *items;
	size_t count;
};

static void add(struct entries *e, struct str path, const struct version_file *file)
{
	e->items = mem_resize(e->items, e->count + 1, sizeof *e->items);
	e->items[e->count++] = (struct entry){path, file};
}

static int compare_text(struct str a, struct str b)
{
	size_t len = a.len < b.len ? a.len : b.len;
	int order = memcmp(a.base, b.base, len);
	return order ? order : (a.len > b.len) - (a.len < b.len);
}

static int by_path(const void *a, const void *b)
{
	return compare_text(((const struct entry *)a)->path, ((const struct entry *)b)->path);
}

/* Each file and each folder above one, once. */
static struct entries list_all(const struct version *v)
{
	struct entries e = {0}, once = {0};
	for (size_t i = 0; i < v->file_count; i++) {
		struct str path = str_from(v->files[i].path);
		add(&e, path, &v->files[i]);
		for (size_t k = 0; k < path.len; k++)
			if (path.base[k] == '/')
				add(&e, (struct str){path.base, k}, NULL);
	}
	if (e.count)
		qsort(e.items, e.count, sizeof *e.items, by_path);
	for (size_t i = 0; i < e.count; i++)
		if (!i || !str_equal(e.items[i].path, e.items[i - 1].path))
			add(&once, e.items[i].path, e.items[i].file);
	free(e.items);
	return once;
}

static bool below(struct str folder, struct str path, bool deep)
{
	if (folder.len) {
		if (!str_starts(path, folder) || path.len <= folder.len + 1 || path.base[folder.len] != '/')
			return false;
		path = (struct str){path.base + folder.len + 1, path.len - folder.len - 1};
	}
	return deep || !memchr(path.base, '/', path.len);
}

static void append_entry(struct hf_task *h, const struct entry *e)
{
	struct buf *out = &h->body;
	buf_append_str(out, out->len > 1 ? STR(",{") : STR("{"));
	buf_append_str(out, STR("\"path\":"));
	buf_append_json(out, e->path);
	if (e->file) {
		buf_append_str(out, STR(",\"type\":\"file\","));
		hf_append_lfs(out, e->file);
	} else {
		struct buf name = {0};
		char oid[41];
		buf_printf(&name, "%s/" STR_FMT, h->commit, STR_ARG(e->path));
		struct digest d = digest_of(name.base, name.len);
		snapshot_commit(&d, oid);
		buf_fini(&name);
		buf_printf(out, ",\"type\":\"directory\",\"oid\":\"%s\",\"size\":0", oid);
	}
	buf_append_str(out, STR("}"));
}

static void add_next(struct hf_task *h, size_t cursor)
{
	buf_printf(&h->link, "<%s/api/models/", h->base);
	buf_append_escaped(&h->link, str_from(h->id), URL_PATH);
	buf_printf(&h->link, "/tree/%s", h->commit);
	if (h->path[0]) {
		buf_append_str(&h->link, STR("/"));
		buf_append_escaped(&h->link, str_from(h->path), URL_PATH);
	}
	buf_printf(&h->link, "?recursive=%s&limit=%zu&cursor=%zu>; rel=\"next\"", h->recursive ? "true" : "false",
	           h->limit, cursor);
}

int hf_tree_work(struct hf_task *h)
{
	struct entries all = list_all(&h->version);
	struct str folder = str_from(h->path);
	size_t seen = 0, told = 0, found = 0;
	bool exists = !folder.len;
	buf_append_str(&h->body, STR("["));
	for (size_t i = 0; i < all.count; i++) {
		exists = exists || (!all.items[i].file && str_equal(all.items[i].path, folder));
		if (!below(folder, all.items[i].path, h->recursive))
			continue;
		found++;
		if (seen++ < h->cursor || told == h->limit)
			continue;
		append_entry(h, &all.items[i]);
		told++;
	}
	buf_append_str(&h->body, STR("]\n"));
	free(all.items);
	if (told && h->cursor + told < found)
		add_next(h, h->cursor + told);
	return exists ? 0 : error_set(&h->t.err, E_NOTFOUND, "there is no folder %.200s in this version", h->path);
}

/* ---- paths-info ------------------------------------------------------------------------------ */

static void append_path(struct hf_task *h, const struct entries *all, struct str path)
{
	if (str_ends(path, STR("/")))
		path.len--;
	for (size_t i = 0; i < all->count; i++)
		if (str_equal(all->items[i].path, path))
			append_entry(h, &all->items[i]);
}

static int hex_digit(char c)
{
	return c >= '0' && c <= '9'   ? c - '0'
	       : c >= 'a' && c <= 'f' ? c - 'a' + 10
	       : c >= 'A' && c <= 'F' ? c - 'A' + 10
	                              : -1;
}

/* application/x-www-form-urlencoded, in place. */
static struct str form_decode(char *text, size_t len)
{
	size_t to = 0;
	for (size_t i = 0; i < len; i++) {
		int high = i + 2 < len && text[i] == '%' ? hex_digit(text[i + 1]) : -1;
		int low = high >= 0 ? hex_digit(text[i + 2]) : -1;
		if (low >= 0) {
			text[to++] = (char)(high * 16 + low);
			i += 2;
		} else {
			text[to++] = text[i] == '+' ? ' ' : text[i];
		}
	}
	return (struct str){text, to};
}

static void take_form(struct hf_task *h, const struct entries *all)
{
	struct str rest = buf_str(&h->form);
	for (size_t n = 0; rest.len && n < VERSION_FILES_MAX; n++) {
		struct str value, field = str_cut(rest, '&', &rest), key = str_cut(field, '=', &value);
		if (str_equal(key, STR("paths")) || str_equal(key, STR("paths[]")))
			append_path(h, all, form_decode(h->form.base + (value.base - h->form.base), value.len));
	}
}

static int take_json(struct hf_task *h, const struct entries *all)
{
	yyjson_doc *doc;
	yyjson_val *paths = NULL, *path;
	size_t i, max;
	int rc = json_parse(buf_str(&h->form), &doc, &h->t.err);
	if (rc)
		return rc;
	rc = json_arr(yyjson_doc_get_root(doc), "paths", &paths, &h->t.err);
	yyjson_arr_foreach(paths, i, max, path)
	{
		if (!rc && i < VERSION_FILES_MAX && yyjson_is_str(path))
			append_path(h, all, (struct str){yyjson_get_str(path), yyjson_get_len(path)});
	}
	yyjson_doc_free(doc);
	return rc;
}

int hf_paths_work(struct hf_task *h)
{
	struct entries all = list_all(&h->version);
	int rc = 0;
	buf_append_str(&h->body, STR("["));
	if (str_starts(buf_str(&h->form), STR("{")))
		rc = take_json(h, &all);
	else
		take_form(h, &all);
	buf_append_str(&h->body, STR("]\n"));
	free(all.items);
	return rc;
}
