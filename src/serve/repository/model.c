/* SPDX-License-Identifier: Apache-2.0 */
/* A layer is a model file when its bytes begin with "GGUF", whatever its media type says: packagers disagree on types.
 * All files with a title belong to the version, GGUF files also without one. What the catalog says of a model comes
 * from the first GGUF file that names an architecture (of a split model only part 1 does); parameters are summed over
 * all.
 */
#include "serve/repository/model.h"

#include "base/clock.h"
#include "store/gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int read_layer(struct blob_store *store, const struct manifest_item *item, bool *ret_is_gguf,
                      struct gguf_info *ret_info, struct error *err)
{
	int fd;
	char magic[4];
	uint64_t size;
	*ret_is_gguf = false;
	int rc = blob_open(store, &item->digest, &fd, &size, err);
	if (rc)
		return rc;
	if (pread(fd, magic, 4, 0) == 4 && !memcmp(magic, "GGUF", 4)) {
		rc = gguf_parse_fd(fd, ret_info, err);
		*ret_is_gguf = !rc;
		if (rc)
			error_prefix(err, "%s: ", item->path[0] ? item->path : "a layer");
	}
	close(fd);
	return rc;
}

/* A node passes on only whole chunks: until the first ones are there, receivers have nothing to give each other. So a
 * file has CHUNKS_FEW pieces or more, as far as they stay worth a request each; chunk_size is the most. */
#define CHUNKS_FEW 1024
#define CHUNK_SIZE_LEAST (UINT64_C(1) << 20)

uint64_t model_chunk_size(uint64_t file_size, uint64_t most)
{
	uint64_t size = most;
	while (size / 2 >= CHUNK_SIZE_LEAST && file_size / size < CHUNKS_FEW)
		size /= 2;
	return size;
}

static int keep_list(struct blob_store *store, struct catalog *catalog, uint64_t chunk_size,
                     const struct chunk_list *list, struct digest *ret_list, struct error *err)
{
	struct buf text = {0};
	chunk_list_format(list, &text);
	int rc = blob_put(store, buf_str(&text), ret_list, err);
	if (!rc)
		rc = catalog_put_chunks(catalog, &list->file, chunk_size, ret_list, err);
	buf_fini(&text);
	return rc;
}

void model_keep_list(struct blob_store *store, struct catalog *catalog, uint64_t chunk_size,
                     const struct chunk_list *list)
{
	struct digest d;
	keep_list(store, catalog, model_chunk_size(list->size, chunk_size), list, &d, NULL);
}

static int chunks_of(struct blob_store *store, struct catalog *catalog, uint64_t chunk_size, const struct digest *file,
                     struct digest *ret_list, struct error *err)
{
	uint64_t size;
	struct chunk_list list;
	if (!catalog_get_chunks(catalog, file, chunk_size, ret_list, NULL) && !blob_stat(store, ret_list, &size, NULL))
		return 0;
	int rc = chunk_list_build(store, file, chunk_size, &list, err);
	if (rc)
		return rc;
	rc = keep_list(store, catalog, chunk_size, &list, ret_list, err);
	chunk_list_fini(&list);
	return rc;
}

static void add_info(struct version *v, const struct gguf_info *info)
{
	v->parameters += info->parameters;
	if (v->architecture[0] || !info->architecture[0])
		return;
	str_copy(str_from(info->architecture), v->architecture, sizeof v->architecture);
	str_copy(str_from(info->quantization), v->quantization, sizeof v->quantization);
	str_copy(str_from(info->license), v->license, sizeof v->license);
	v->context_tokens = info->context_tokens;
	v->chat_template = info->chat_template;
}

static int add_file(struct version *v, const struct manifest_item *item, size_t gguf_number, struct error *err)
{
	struct version_file *f = &v->files[v->file_count];
	if (item->path_refused)
		return error_set(err, E_INVAL,
		                 "a layer's title is not a relative path without \"..\" and control characters");
	if (item->path[0])
		str_copy(str_from(item->path), f->path, sizeof f->path);
	else
		snprintf(f->path, sizeof f->path, gguf_number > 1 ? "model-%zu.gguf" : "model.gguf", gguf_number);
	for (size_t i = 0; i < v->file_count; i++)
		if (!strcmp(v->files[i].path, f->path))
			return error_set(err, E_INVAL, "two layers have the title %s", f->path);
	str_copy(str_from(item->media_type), f->media_type, sizeof f->media_type);
	f->digest = item->digest;
	f->size = item->size;
	v->file_count++;
	return 0;
}

/* Headers of all layers into v; is_gguf[i] and the number of them. */
static int read_layers(struct blob_store *store, const struct manifest *m, struct version *v, bool *is_gguf,
                       size_t *ret_ggufs, struct error *err)
{
	size_t ggufs = 0;
	for (size_t i = m->has_config ? 1 : 0; i < m->item_count; i++) {
		struct gguf_info info;
		if (m->items[i].elsewhere)
			continue;
		int rc = read_layer(store, &m->items[i], &is_gguf[i], &info, err);
		if (rc)
			return rc;
		if (!is_gguf[i])
			continue;
		add_info(v, &info);
		gguf_info_fini(&info);
		ggufs++;
	}
	*ret_ggufs = ggufs;
	return 0;
}

/* Titles matter only now that it is a model: other artefacts may call their layers what they like. is_gguf, which was
 * about items, is about v's files afterwards (there are never more files than items before them). */
static int name_files(const struct manifest *m, struct version *v, bool *is_gguf, struct error *err)
{
	size_t ggufs = 0;
	for (size_t i = m->has_config ? 1 : 0; i < m->item_count; i++) {
		const struct manifest_item *item = &m->items[i];
		ggufs += is_gguf[i];
		if (item->elsewhere || !(is_gguf[i] || item->path[0] || item->path_refused))
			continue;
		is_gguf[v->file_count] = is_gguf[i];
		int rc = add_file(v, item, ggufs, err);
		if (rc)
			return rc;
	}
	return 0;
}

static int add_chunks(struct blob_store *store, struct catalog *catalog, uint64_t chunk_size, const bool *is_gguf,
                      struct version *v, struct error *err)
{
	for (size_t i = 0; i < v->file_count; i++) {
		struct version_file *f = &v->files[i];
		if (!is_gguf[i] && f->size <= chunk_size)
			continue; /* fetched whole */
		int rc = chunks_of(store, catalog, model_chunk_size(f->size, chunk_size), &f->digest, &f->chunks, err);
		if (rc)
			return rc;
	}
	return 0;
}

int model_version(struct blob_store *store, struct catalog *catalog, uint64_t chunk_size, const struct manifest *m,
                  bool *ret_is_model, struct version *ret_version, struct error *err)
{
	size_t ggufs = 0;
	struct version v = {.created_wall_us = clock_wall_us()};
	*ret_is_model = false;
	if (m->index)
		return 0;
	v.files = mem_new((m->item_count + 1) * sizeof *v.files);
	bool *is_gguf = mem_new(m->item_count + 1);
	int rc = read_layers(store, m, &v, is_gguf, &ggufs, err);
	if (!rc && ggufs && !v.architecture[0])
		rc = error_set(err, E_INVAL, "no GGUF file of this model says general.architecture; convert it again");
	if (!rc && ggufs)
		rc = name_files(m, &v, is_gguf, err);
	if (!rc && ggufs)
		rc = add_chunks(store, catalog, chunk_size, is_gguf, &v, err);
	free(is_gguf);
	if (rc || !ggufs) {
		version_fini(&v);
		return rc;
	}
	*ret_is_model = true;
	*ret_version = v;
	return 0;
}
