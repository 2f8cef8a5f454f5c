/* SPDX-License-Identifier: Apache-2.0 */
/* A version that the catalog has is taken as it stands there; any other manifest (an older one that no tag names now,
 * or files of no model) is read, and its files named by the same rules as model.c's. */
#include "serve/repository/snapshot.h"

#include "base/limits.h"
#include "serve/repository/manifest.h"
#include "store/ociname.h"

#include <stdio.h>
#include <stdlib.h>

#define TAGS_LOOKED_AT 1000 /* for the newest */

bool snapshot_name(struct str id, char ret_name[static 129])
{
	if (!str_copy(id, ret_name, 129))
		return false;
	for (char *c = ret_name; *c; c++)
		if (*c >= 'A' && *c <= 'Z')
			*c = (char)(*c - 'A' + 'a');
	struct str name = str_from(ret_name), library = STR("library/");
	if (str_starts(name, library)) {
		memmove(ret_name, ret_name + library.len, name.len - library.len + 1);
		name.len -= library.len;
	}
	return oci_repo_valid(name);
}

void snapshot_commit(const struct digest *manifest, char ret_commit[static COMMIT_SIZE])
{
	hex_encode(manifest->bytes, 20, ret_commit);
}

/* ---- which manifest -------------------------------------------------------------------------- */

struct newest {
	struct catalog *catalog;
	struct str name;
	char tag[129]; /* the newest version's; else the last one's */
	int64_t created_us;
};

static void look_at(void *arg, struct str tag)
{
	struct newest *n = arg;
	struct version v;
	int64_t created_us = 0;
	if (!catalog_get_version(n->catalog, n->name, tag, &v, NULL)) {
		created_us = v.created_wall_us;
		version_fini(&v);
	}
	if (created_us < n->created_us)
		return;
	n->created_us = created_us;
	str_copy(tag, n->tag, sizeof n->tag);
}

static int find_main(struct catalog *catalog, struct str name, char ret_tag[static 129], struct digest *ret_manifest,
                     struct error *err)
{
	static const char *const usual[] = {"main", "latest"};
	struct newest newest = {.catalog = catalog, .name = name};
	for (size_t i = 0; i < 2; i++)
		if (!catalog_get_tag(catalog, name, str_from(usual[i]), ret_manifest, NULL)) {
			str_copy(str_from(usual[i]), ret_tag, 129);
			return 0;
		}
	int rc = catalog_tags(catalog, name, STR(""), TAGS_LOOKED_AT, look_at, &newest, err);
	if (!rc && !newest.tag[0])
		rc = error_set(err, E_NOTFOUND, STR_FMT " has no version that a tag names", STR_ARG(name));
	if (!rc)
		rc = catalog_get_tag(catalog, name, str_from(newest.tag), ret_manifest, err);
	if (!rc)
		str_copy(str_from(newest.tag), ret_tag, 129);
	return rc;
}

int snapshot_find(struct catalog *catalog, struct str name, struct str revision, char ret_tag[static 129],
                  struct digest *ret_manifest, struct error *err)
{
	uint8_t beginning[20];
	if (str_starts(revision, STR("refs/heads/")))
		revision = (struct str){revision.base + 11, revision.len - 11};
	if (str_starts(revision, STR("refs/tags/")))
		revision = (struct str){revision.base + 10, revision.len - 10};
	if (str_equal(revision, STR("main")))
		return find_main(catalog, name, ret_tag, ret_manifest, err);
	if (oci_tag_valid(revision) && !catalog_get_tag(catalog, name, revision, ret_manifest, NULL)) {
		str_copy(revision, ret_tag, 129);
		return 0;
	}
	ret_tag[0] = 0;
	if (!hex_decode(revision, beginning, sizeof beginning) &&
	    !catalog_find_manifest(catalog, name, beginning, ret_manifest, NULL))
		return 0;
	return error_set(err, E_NOTFOUND, STR_FMT " has no version " STR_FMT, STR_ARG(name),
	                 (int)(revision.len < 128 ? revision.len : 128), revision.base);
}

/* ---- its files ------------------------------------------------------------------------------- */

static bool is_gguf(struct blob_store *store, const struct digest *d)
{
	struct blob_file *f;
	char magic[4];
	if (blob_file_open(store, d, &f, NULL))
		return false;
	bool is = !blob_file_read(f, 0, magic, 4, NULL) && !memcmp(magic, "GGUF", 4);
	blob_file_close(f);
	return is;
}

static void take_file(struct blob_store *store, const struct manifest_item *item, size_t *ggufs, struct version *v)
{
	struct version_file *f = &v->files[v->file_count];
	if (item->elsewhere || item->path_refused)
		return;
	bool gguf = str_ends(str_from(item->path), STR(".gguf")) || (!item->path[0] && is_gguf(store, &item->digest));
	*ggufs += gguf;
	if (item->path[0])
		str_copy(str_from(item->path), f->path, sizeof f->path);
	else if (!gguf)
		return;
	else
		snprintf(f->path, sizeof f->path, *ggufs > 1 ? "model-%zu.gguf" : "model.gguf", *ggufs);
	for (size_t i = 0; i < v->file_count; i++)
		if (!strcmp(v->files[i].path, f->path))
			return;
	str_copy(str_from(item->media_type), f->media_type, sizeof f->media_type);
	f->digest = item->digest;
	f->size = item->size;
	v->file_count++;
}

static int read_manifest(struct blob_store *store, struct catalog *catalog, const struct digest *d, struct version *v,
                         struct error *err)
{
	struct buf text = {0};
	struct manifest m;
	size_t ggufs = 0;
	int rc = blob_read_all(store, d, LIMIT_MANIFEST, &text, err);
	if (!rc)
		rc = manifest_parse(buf_str(&text), &m, err);
	buf_fini(&text);
	if (rc)
		return rc;
	manifest_resolve(&m, catalog);
	v->files = mem_new((m.item_count + 1) * sizeof *v->files);
	for (size_t i = m.has_config ? 1 : 0; !m.index && i < m.item_count; i++)
		take_file(store, &m.items[i], &ggufs, v);
	manifest_fini(&m);
	return 0;
}

int snapshot_read(struct blob_store *store, struct catalog *catalog, struct str name, struct str tag,
                  const struct digest *manifest, struct version *ret_version, struct error *err)
{
	struct version v = {0};
	if (tag.len && !catalog_get_version(catalog, name, tag, &v, NULL)) {
		if (digest_equal(&v.manifest, manifest)) {
			*ret_version = v;
			return 0;
		}
		version_fini(&v);
	}
	str_copy(name, v.name, sizeof v.name);
	str_copy(tag, v.tag, sizeof v.tag);
	v.manifest = *manifest;
	int rc = read_manifest(store, catalog, manifest, &v, err);
	if (!rc && !v.file_count)
		rc = error_set(err, E_NOTFOUND, STR_FMT " holds no files with names: it is an image, not a model",
		               STR_ARG(name));
	if (rc) {
		version_fini(&v);
		return rc;
	}
	*ret_version = v;
	return 0;
}
