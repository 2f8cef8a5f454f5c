/* SPDX-License-Identifier: Apache-2.0 */
/* A layer is a GGUF file when its bytes begin with "GGUF", whatever its media type says: packagers disagree on types;
 * a safetensors file when it is called so. All files with a title belong to the version, GGUF files also without one.
 *
 * Of GGUF models, the first file that names an architecture speaks (of a split model only part 1 does); projectors
 * ("mmproj") do not. Of safetensors models, config.json speaks, and the headers say how many parameters there are and
 * of which type. Parameters are summed over all files. Parts that are missing are named.
 */
#include "serve/repository/model.h"

#include "serve/repository/modelpack.h"

#include "base/clock.h"
#include "base/json.h"
#include "store/gguf.h"
#include "store/safetensors.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#define SMALL_FILE_MAX (16u << 20) /* configs and index files that are read */
#define CARD_MAX (1u << 20)
#define DTYPES_MAX 32

/* What is found out of a manifest's layers, before it is a version. */
struct finding {
	struct blob_store *store;
	const struct manifest *manifest;
	struct version *v;
	bool *is_weights; /* of manifest items; later of v's files */
	size_t ggufs, safetensors;
	struct {
		const char *name;
		uint64_t bytes;
	} dtypes[DTYPES_MAX]; /* of safetensors */
	size_t dtype_count;
};

static int read_layer_bytes(void *arg, uint64_t offset, void *out, size_t len, struct error *err)
{
	return blob_file_read(arg, offset, out, len, err);
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash ? slash + 1 : path;
}

static void add_gguf(struct finding *f, const struct manifest_item *item, const struct gguf_info *info)
{
	struct version *v = f->v;
	f->ggufs++;
	if (!strncmp(base_name(item->path), "mmproj", 6))
		return;
	v->parameters += info->parameters;
	if (v->architecture[0] || !info->architecture[0])
		return;
	str_copy(str_from(info->architecture), v->architecture, sizeof v->architecture);
	str_copy(str_from(info->quantization), v->quantization, sizeof v->quantization);
	str_copy(str_from(info->license), v->license, sizeof v->license);
	v->context_tokens = info->context_tokens;
	v->chat_template = info->chat_template;
}

static void add_safetensors(struct finding *f, const struct safetensors *st)
{
	f->safetensors++;
	f->v->parameters += st->parameters;
	for (uint32_t i = 0; i < st->count; i++) {
		const struct safetensors_tensor *t = &st->tensors[i];
		size_t k = 0;
		while (k < f->dtype_count && strcmp(f->dtypes[k].name, t->dtype))
			k++;
		if (k == DTYPES_MAX)
			continue;
		if (k == f->dtype_count)
			f->dtypes[f->dtype_count++].name = t->dtype;
		f->dtypes[k].bytes += t->to - t->from;
	}
}

static int read_layer(struct finding *f, const struct manifest_item *item, bool *ret_is_weights, struct error *err)
{
	struct blob_file *file;
	struct gguf_info info;
	struct safetensors st;
	char magic[4];
	int rc = blob_file_open(f->store, &item->digest, &file, err);
	if (rc)
		return rc;
	uint64_t size = blob_file_size(file);
	bool is_gguf = size >= sizeof magic && !blob_file_read(file, 0, magic, sizeof magic, NULL) &&
	               !memcmp(magic, "GGUF", sizeof magic);
	bool is_safetensors = !is_gguf && str_ends(str_from(item->path), STR(".safetensors"));
	if (is_gguf && !(rc = gguf_parse(read_layer_bytes, file, size, &info, err))) {
		add_gguf(f, item, &info);
		gguf_info_fini(&info);
	}
	if (is_safetensors && !(rc = safetensors_parse(read_layer_bytes, file, size, &st, err))) {
		add_safetensors(f, &st);
		safetensors_fini(&st);
	}
	if (rc)
		error_prefix(err, "%s: ", item->path[0] ? item->path : "a layer");
	blob_file_close(file);
	*ret_is_weights = is_gguf || is_safetensors;
	return rc;
}

/* A node passes on only whole chunks: until the first ones are there, receivers have nothing to give each other. So a
 * file has CHUNKS_FEW pieces or more, as far as they stay worth a request each; chunk_size is the most. */
#define CHUNKS_FEW 1024
#define CHUNK_SIZE_LEAST (UINT64_C(512) << 10)

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

static int read_layers(struct finding *f, struct error *err)
{
	const struct manifest *m = f->manifest;
	for (size_t i = m->has_config ? 1 : 0; i < m->item_count; i++) {
		if (m->items[i].elsewhere)
			continue;
		int rc = read_layer(f, &m->items[i], &f->is_weights[i], err);
		if (rc)
			return rc;
	}
	return 0;
}

/* Titles matter only now that it is a model: other artefacts may call their layers what they like. is_weights, which
 * was about items, is about v's files afterwards (there are never more files than items before them). */
static int name_files(struct finding *f, struct error *err)
{
	const struct manifest *m = f->manifest;
	size_t weights = 0;
	for (size_t i = m->has_config ? 1 : 0; i < m->item_count; i++) {
		const struct manifest_item *item = &m->items[i];
		weights += f->is_weights[i];
		if (item->elsewhere || !(f->is_weights[i] || item->path[0] || item->path_refused))
			continue;
		f->is_weights[f->v->file_count] = f->is_weights[i];
		int rc = add_file(f->v, item, weights, err);
		if (rc)
			return rc;
	}
	return 0;
}

/* ---- parts ------------------------------------------------------------------------------------ */

static const struct version_file *find_file(const struct version *v, const char *path)
{
	for (size_t i = 0; i < v->file_count; i++)
		if (!strcmp(v->files[i].path, path))
			return &v->files[i];
	return NULL;
}

/* Each part asks only for the next one and the first, so the work is linear; together they ask for all. */
static int check_parts(const struct version *v, struct error *err)
{
	for (size_t i = 0; i < v->file_count; i++) {
		const char *path = v->files[i].path;
		struct str name = str_from(path);
		uint32_t part, parts;
		if (!version_part(name, &part, &parts))
			continue;
		size_t at = name.len - (str_ends(name, STR(".gguf")) ? 5 : 12) - 15; /* "-00001-of-00002" */
		uint32_t wanted[] = {1, part < parts ? part + 1 : part};
		for (size_t k = 0; k < 2; k++) {
			char other[sizeof v->files->path];
			snprintf(other, sizeof other, "%.*s-%05u%s", (int)at, path, wanted[k], path + at + 6);
			if (!find_file(v, other))
				return error_set(err, E_INVAL,
				                 "the model is split into %u parts and %s is missing; push all parts "
				                 "together, as a folder",
				                 parts, other);
		}
	}
	return 0;
}

/* A JSON file of the version; *ret_doc NULL when there is none. */
static int read_json(struct finding *f, const char *path, yyjson_doc **ret_doc, struct error *err)
{
	const struct version_file *file = find_file(f->v, path);
	struct buf text = {0};
	*ret_doc = NULL;
	if (!file)
		return 0;
	int rc = blob_read_all(f->store, &file->digest, SMALL_FILE_MAX, &text, err);
	if (!rc)
		rc = json_parse(buf_str(&text), ret_doc, err);
	if (rc)
		error_prefix(err, "%s: ", path);
	buf_fini(&text);
	return rc;
}

/* model.safetensors.index.json says which file each tensor is in. */
static int check_index(struct finding *f, struct error *err)
{
	yyjson_doc *doc;
	yyjson_val *map = NULL, *key, *file;
	size_t i, max;
	const char *last = "";
	int rc = read_json(f, "model.safetensors.index.json", &doc, err);
	if (rc || !doc)
		return rc;
	rc = json_obj(yyjson_doc_get_root(doc), "weight_map", &map, err);
	yyjson_obj_foreach(map, i, max, key, file)
	{
		const char *path = yyjson_get_str(file);
		if (rc || !path || !strcmp(path, last))
			continue;
		if (!find_file(f->v, path))
			rc = error_set(
			    err, E_INVAL,
			    "model.safetensors.index.json names %.200s, which is missing; push the whole folder", path);
		last = path;
	}
	yyjson_doc_free(doc);
	return rc;
}

/* ---- what a safetensors model says of itself ----------------------------------------------------- */

static void take_quantization(struct finding *f, yyjson_val *root)
{
	struct version *v = f->v;
	yyjson_val *how = NULL;
	struct str method = {0};
	int64_t bits = 0;
	uint64_t most = 0;
	json_obj(root, "quantization_config", &how, NULL);
	if (how)
		json_str(how, "quant_method", &method, NULL);
	if (method.len && method.len < 16) {
		json_i64(how, "bits", 0, 64, &bits, NULL);
		snprintf(v->quantization, sizeof v->quantization, bits ? STR_FMT "-%lld" : STR_FMT, STR_ARG(method),
		         (long long)bits);
		for (char *c = v->quantization; *c; c++)
			*c = (char)toupper((unsigned char)*c);
		return;
	}
	for (size_t i = 0; i < f->dtype_count; i++)
		if (f->dtypes[i].bytes > most) {
			most = f->dtypes[i].bytes;
			str_copy(str_from(f->dtypes[i].name), v->quantization, sizeof v->quantization);
		}
}

static void take_config(struct finding *f, yyjson_val *root)
{
	struct version *v = f->v;
	struct str type = {0};
	yyjson_val *names = NULL, *text_config = NULL;
	int64_t context = 0;
	json_str(root, "model_type", &type, NULL);
	json_arr(root, "architectures", &names, NULL);
	if (!type.len && names && yyjson_is_str(yyjson_arr_get_first(names)))
		type = str_from(yyjson_get_str(yyjson_arr_get_first(names)));
	str_copy(type, v->architecture, sizeof v->architecture);
	str_blank_controls(v->architecture, strlen(v->architecture));
	json_obj(root, "text_config", &text_config, NULL);
	json_i64(root, "max_position_embeddings", 0, UINT32_MAX, &context, NULL);
	if (text_config)
		json_i64(text_config, "max_position_embeddings", 0, UINT32_MAX, &context, NULL);
	v->context_tokens = (uint32_t)context;
}

/* Files that are damaged are refused; those that say less say less. */
static int describe_safetensors(struct finding *f, struct error *err)
{
	yyjson_doc *config = NULL, *tokenizer = NULL;
	struct error dropped;
	int rc = read_json(f, "config.json", &config, err);
	if (rc)
		return rc;
	if (config)
		take_config(f, yyjson_doc_get_root(config));
	take_quantization(f, yyjson_doc_get_root(config));
	read_json(f, "tokenizer_config.json", &tokenizer, &dropped);
	f->v->chat_template = find_file(f->v, "chat_template.jinja") ||
	                      (tokenizer && yyjson_obj_get(yyjson_doc_get_root(tokenizer), "chat_template"));
	yyjson_doc_free(config);
	yyjson_doc_free(tokenizer);
	return check_index(f, err);
}

/* One line "key: value" of the YAML at the beginning of a model card. */
static bool card_line(struct str line, const char *key, struct str *ret_value)
{
	struct str value, name = str_cut(line, ':', &value);
	value = str_trim(value);
	if (value.len && value.base[value.len - 1] == '\r')
		value.len--;
	if (value.len >= 2 && (value.base[0] == '"' || value.base[0] == '\'') &&
	    value.base[value.len - 1] == value.base[0])
		value = (struct str){value.base + 1, value.len - 2};
	*ret_value = value;
	return value.len && str_equal(name, str_from(key));
}

static void read_card(struct finding *f)
{
	const struct version_file *file = find_file(f->v, "README.md");
	struct buf text = {0};
	struct str line, value;
	if (!file || file->size > CARD_MAX || blob_read_all(f->store, &file->digest, CARD_MAX, &text, NULL) ||
	    !str_starts(buf_str(&text), STR("---\n"))) {
		buf_fini(&text);
		return;
	}
	for (struct str rest = {text.base + 4, text.len - 4}; rest.len;) {
		line = str_cut(rest, '\n', &rest);
		if (str_starts(line, STR("---")))
			break;
		if (!f->v->license[0] && card_line(line, "license", &value))
			version_label_set(f->v, STR("license"), value, NULL);
		if (!f->v->base_model[0] && card_line(line, "base_model", &value))
			version_label_set(f->v, STR("base-model"), value, NULL);
	}
	buf_fini(&text);
}

/* ---- what a manifest says ------------------------------------------------------------------------- */

static bool is_model_config(const struct manifest *m)
{
	struct str kind, form;
	return m->has_config && modelpack_type(str_from(m->items[0].media_type), &kind, &form) &&
	       str_equal(kind, STR("config"));
}

/* ModelPack's descriptor: its licence counts more than the file's own. */
static void read_model_config(struct finding *f)
{
	struct buf text = {0};
	yyjson_doc *doc = NULL;
	yyjson_val *descriptor = NULL, *licenses = NULL;
	struct str revision = {0};
	if (is_model_config(f->manifest) &&
	    !blob_read_all(f->store, &f->manifest->items[0].digest, CARD_MAX, &text, NULL) &&
	    !json_parse(buf_str(&text), &doc, NULL)) {
		json_obj(yyjson_doc_get_root(doc), "descriptor", &descriptor, NULL);
		json_arr(descriptor, "licenses", &licenses, NULL);
		json_str(descriptor, "revision", &revision, NULL);
		const char *license = yyjson_get_str(yyjson_arr_get_first(licenses));
		if (license)
			version_label_set(f->v, STR("license"), str_from(license), NULL);
		if (revision.len)
			version_label_set(f->v, STR("revision"), revision, NULL);
	}
	yyjson_doc_free(doc);
	buf_fini(&text);
}

void model_annotate(struct str manifest, struct version *v)
{
	static const struct {
		const char *annotation, *key;
	} fields[] = {
	    {"org.opencontainers.image.licenses", "license"},
	    {"org.opencontainers.image.revision", "revision"},
	    {MODEL_BASE, "base-model"},
	    {MODEL_QUANTIZED, "quantized-from"},
	    {MODEL_DISTILLED, "distilled-from"},
	};
	yyjson_doc *doc;
	yyjson_val *annotations = NULL, *key, *value;
	size_t i, max;
	if (json_parse(manifest, &doc, NULL))
		return;
	json_obj(yyjson_doc_get_root(doc), "annotations", &annotations, NULL);
	yyjson_obj_foreach(annotations, i, max, key, value)
	{
		const char *name = yyjson_get_str(key);
		if (!yyjson_is_str(value))
			continue;
		for (size_t k = 0; k < sizeof fields / sizeof *fields; k++)
			if (!strcmp(name, fields[k].annotation))
				name = fields[k].key;
		/* What does not fit into a label stays in the manifest. */
		version_label_set(v, str_from(name), (struct str){yyjson_get_str(value), yyjson_get_len(value)}, NULL);
	}
	yyjson_doc_free(doc);
}

/* ---- the version ---------------------------------------------------------------------------------- */

static int add_chunks(struct finding *f, struct catalog *catalog, uint64_t chunk_size, struct error *err)
{
	for (size_t i = 0; i < f->v->file_count; i++) {
		struct version_file *file = &f->v->files[i];
		if (!f->is_weights[i] && file->size <= chunk_size)
			continue; /* fetched whole */
		int rc = chunks_of(f->store, catalog, model_chunk_size(file->size, chunk_size), &file->digest,
		                   &file->chunks, err);
		if (rc)
			return rc;
	}
	return 0;
}

static int describe(struct finding *f, struct error *err)
{
	f->v->kind = f->ggufs ? VERSION_GGUF : f->safetensors ? VERSION_SAFETENSORS : VERSION_FILES;
	int rc = name_files(f, err);
	if (!rc)
		rc = check_parts(f->v, err);
	if (!rc && f->ggufs && !f->v->architecture[0])
		rc = error_set(err, E_INVAL, "no GGUF file of this model says general.architecture; convert it again");
	if (!rc && f->v->kind == VERSION_SAFETENSORS)
		rc = describe_safetensors(f, err);
	if (!rc) {
		read_card(f);
		read_model_config(f);
	}
	return rc;
}

int model_version(struct blob_store *store, struct catalog *catalog, uint64_t chunk_size, const struct manifest *m,
                  bool *ret_is_model, struct version *ret_version, struct error *err)
{
	struct version v = {.created_wall_us = clock_wall_us()};
	struct finding f = {.store = store, .manifest = m, .v = &v};
	*ret_is_model = false;
	if (m->index)
		return 0;
	v.files = mem_new((m->item_count + 1) * sizeof *v.files);
	f.is_weights = mem_new(m->item_count + 1);
	int rc = modelpack_check(m, err);
	if (!rc)
		rc = read_layers(&f, err);
	bool is_model = f.ggufs || f.safetensors || is_model_config(m);
	if (!rc && is_model)
		rc = describe(&f, err);
	if (!rc && is_model)
		rc = add_chunks(&f, catalog, chunk_size, err);
	free(f.is_weights);
	if (rc || !is_model) {
		version_fini(&v);
		return rc;
	}
	*ret_is_model = true;
	*ret_version = v;
	return 0;
}
