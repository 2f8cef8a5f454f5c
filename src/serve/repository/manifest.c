/* SPDX-License-Identifier: Apache-2.0 */
#include "serve/repository/manifest.h"

#include "serve/repository/modelpack.h"

#include "base/json.h"
#include "store/ociname.h"

#include <stdio.h>
#include <stdlib.h>

/* Newest first; the first one present is taken. */
static const char *const title_keys[] = {"org.opencontainers.image.title", "org.cncf.model.filepath",
                                         "org.cnai.model.filepath"};

/* What a ModelPack archive is called is what it holds, perhaps a folder. */
static void name_archives(struct manifest *m)
{
	for (size_t i = 0; i < m->item_count; i++) {
		struct manifest_item *item = &m->items[i];
		const char *ending = modelpack_ending(str_from(item->media_type));
		size_t len = strlen(item->path);
		if (len && !str_ends(str_from(item->path), str_from(ending)) &&
		    len + strlen(ending) < sizeof item->path)
			strcpy(item->path + len, ending);
	}
}

/* Ollama's layers have a type and no title. */
#define OLLAMA_LAYER "application/vnd.ollama.image."
static const struct {
	const char *kind, *name, *ending;
} ollama_names[] = {
    {"model", "model", ".gguf"}, {"projector", "mmproj-model", ".gguf"}, {"adapter", "adapter", ".gguf"},
    {"draft", "draft", ".gguf"}, {"template", "template", ""},           {"system", "system", ""},
    {"params", "params", ""},    {"messages", "messages", ""},           {"license", "LICENSE", ""},
    {"prompt", "prompt", ""},
};

/* The first of a kind is NAME, the next NAME-2. */
static void name_by_type(struct manifest *m)
{
	unsigned counts[sizeof ollama_names / sizeof *ollama_names] = {0};
	for (size_t i = m->has_config ? 1 : 0; i < m->item_count; i++) {
		struct manifest_item *item = &m->items[i];
		if (item->path[0] || item->path_refused || !str_starts(str_from(item->media_type), STR(OLLAMA_LAYER)))
			continue;
		const char *kind = item->media_type + sizeof OLLAMA_LAYER - 1;
		for (size_t k = 0; k < sizeof counts / sizeof *counts; k++) {
			char number[16] = "";
			if (strcmp(kind, ollama_names[k].kind))
				continue;
			if (++counts[k] > 1)
				snprintf(number, sizeof number, "-%u", counts[k]);
			snprintf(item->path, sizeof item->path, "%s%s%s", ollama_names[k].name, number,
			         ollama_names[k].ending);
		}
	}
}

void manifest_fini(struct manifest *m)
{
	if (!m)
		return;
	free(m->items);
	*m = (struct manifest){0};
}

static int take_title(yyjson_val *descriptor, struct manifest_item *item, struct error *err)
{
	yyjson_val *annotations = NULL;
	int rc = json_obj(descriptor, "annotations", &annotations, err);
	if (rc || !annotations)
		return rc;
	for (size_t i = 0; i < sizeof title_keys / sizeof *title_keys; i++) {
		struct str title = {0};
		rc = json_str(annotations, title_keys[i], &title, err);
		if (rc)
			return rc;
		if (!title.base)
			continue;
		item->path_refused = !path_safe(title);
		if (!item->path_refused)
			str_copy(title, item->path, sizeof item->path);
		return 0;
	}
	return 0;
}

static int take_digest(yyjson_val *descriptor, struct digest_name *ret_name, struct error *err)
{
	struct str text = {0};
	int rc = json_str(descriptor, "digest", &text, err);
	if (rc)
		return rc;
	if (!text.base)
		return error_set(err, E_INVAL, "a descriptor of the manifest has no \"digest\"");
	rc = digest_name_parse(text, ret_name);
	if (rc == E_UNSUPPORTED)
		return error_set(
		    err, E_INVAL,
		    "a descriptor of the manifest has a digest that is neither sha256 nor sha512, which are all "
		    "we keep");
	return rc ? error_set(
			err, rc,
			"a descriptor of the manifest has a digest that is not sha256: and 64, or sha512: and 128 "
			"hex digits")
	          : 0;
}

static int take_item(yyjson_val *descriptor, struct manifest_item *item, struct error *err)
{
	int64_t size = -1;
	struct str type = {0};
	if (!yyjson_is_obj(descriptor))
		return error_set(err, E_INVAL, "a descriptor of the manifest is not an object");
	int rc = json_str(descriptor, "mediaType", &type, err);
	if (!rc && (!type.len || !str_copy(type, item->media_type, sizeof item->media_type)))
		rc = error_set(err, E_INVAL, "a descriptor of the manifest needs a \"mediaType\" of at most 127 bytes");
	if (!rc)
		rc = take_digest(descriptor, &item->name, err);
	if (!rc && !item->name.sha512)
		memcpy(item->digest.bytes, item->name.bytes, DIGEST_SIZE);
	if (!rc)
		rc = json_i64(descriptor, "size", 0, INT64_MAX / (2 * MANIFEST_LAYERS_MAX), &size, err);
	if (!rc && size < 0)
		rc = error_set(err, E_INVAL, "a descriptor of the manifest has no \"size\"");
	if (!rc)
		rc = take_title(descriptor, item, err);
	item->size = (uint64_t)size;
	item->elsewhere = strstr(item->media_type, ".nondistributable.") || strstr(item->media_type, ".foreign.");
	return rc;
}

static int take_items(yyjson_val *root, struct manifest *m, struct error *err)
{
	yyjson_val *config = NULL, *list = NULL;
	int rc = json_obj(root, "config", &config, err);
	if (!rc)
		rc = json_arr(root, "manifests", &list, err);
	m->index = list != NULL;
	if (!rc && !list)
		rc = json_arr(root, "layers", &list, err);
	if (rc)
		return rc;
	if (!list || m->index == (config != NULL))
		return error_set(err, E_INVAL, "a manifest needs either \"config\" and \"layers\", or \"manifests\"");
	if (yyjson_arr_size(list) > MANIFEST_LAYERS_MAX)
		return error_set(err, E_LIMIT, "the manifest names %zu items, at most %d are allowed",
		                 yyjson_arr_size(list), MANIFEST_LAYERS_MAX);
	m->items = mem_new((yyjson_arr_size(list) + 1) * sizeof *m->items);
	m->has_config = config != NULL;
	if (config)
		rc = take_item(config, &m->items[m->item_count++], err);
	size_t i, max;
	yyjson_val *item;
	yyjson_arr_foreach(list, i, max, item)
	{
		if (rc)
			return rc;
		rc = take_item(item, &m->items[m->item_count++], err);
	}
	return rc;
}

static int take_subject(yyjson_val *root, struct manifest *m, struct error *err)
{
	struct str type = {0};
	yyjson_val *subject = NULL;
	int rc = json_str(root, "artifactType", &type, err);
	if (!rc && !str_copy(type, m->artifact_type, sizeof m->artifact_type))
		rc = error_set(err, E_INVAL, "\"artifactType\" of a manifest is longer than 255 bytes");
	if (!rc && !m->artifact_type[0] && m->has_config)
		str_copy(str_from(m->items[0].media_type), m->artifact_type, sizeof m->artifact_type);
	if (!rc)
		rc = json_obj(root, "subject", &subject, err);
	m->has_subject = subject != NULL;
	return rc || !subject ? rc : take_digest(subject, &m->subject, err);
}

static int take_manifest(yyjson_val *root, struct manifest *m, struct error *err)
{
	int64_t schema = 0;
	struct str type = {0};
	if (!yyjson_is_obj(root))
		return error_set(err, E_INVAL, "a manifest must be a JSON object");
	int rc = json_i64(root, "schemaVersion", 0, INT64_MAX, &schema, err);
	if (!rc && schema != 2)
		rc = error_set(err, E_INVAL, "\"schemaVersion\" of a manifest must be 2");
	if (!rc)
		rc = json_str(root, "mediaType", &type, err);
	if (!rc && !str_copy(type, m->media_type, sizeof m->media_type))
		rc = error_set(err, E_INVAL, "\"mediaType\" of a manifest is longer than 127 bytes");
	if (!rc)
		rc = take_items(root, m, err);
	return rc ? rc : take_subject(root, m, err);
}

int manifest_parse(struct str text, struct manifest *ret_manifest, struct error *err)
{
	yyjson_doc *doc;
	struct manifest m = {0};
	int rc = json_parse(text, &doc, err);
	if (rc)
		return rc;
	rc = take_manifest(yyjson_doc_get_root(doc), &m, err);
	yyjson_doc_free(doc);
	if (rc) {
		manifest_fini(&m);
		return rc;
	}
	name_by_type(&m);
	name_archives(&m);
	*ret_manifest = m;
	return 0;
}

int manifest_describe(struct str text, const struct manifest *m, const struct digest_name *name, struct str media_type,
                      struct buf *out, struct error *err)
{
	yyjson_doc *doc;
	char digest[DIGEST_NAME_SIZE];
	int rc = json_parse(text, &doc, err);
	if (rc)
		return rc;
	yyjson_val *annotations = yyjson_obj_get(yyjson_doc_get_root(doc), "annotations");
	char *json = annotations ? yyjson_val_write(annotations, 0, NULL) : NULL;
	digest_name_format(name, digest);
	buf_append_str(out, STR("{\"mediaType\":"));
	buf_append_json(out, media_type);
	buf_printf(out, ",\"digest\":\"%s\",\"size\":%zu", digest, text.len);
	if (m->artifact_type[0]) {
		buf_append_str(out, STR(",\"artifactType\":"));
		buf_append_json(out, str_from(m->artifact_type));
	}
	if (json) {
		buf_append_str(out, STR(",\"annotations\":"));
		buf_append_str(out, str_from(json));
	}
	buf_append_str(out, STR("}"));
	free(json);
	yyjson_doc_free(doc);
	return 0;
}
