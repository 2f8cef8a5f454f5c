/* SPDX-License-Identifier: Apache-2.0 */
/* Both ways between struct version and its JSON (docs/wire.md, "Version"). Parsing trusts nothing: names follow the OCI
 * grammar, paths stay below the folder they will be written to, no path comes twice, digests are SHA-256. */
#include "store/version.h"

#include "base/json.h"
#include "base/limits.h"
#include "store/ociname.h"

#include <stdlib.h>

static void labels_fini(struct version *v)
{
	for (size_t i = 0; i < v->label_count; i++) {
		free(v->labels[i].key);
		free(v->labels[i].value);
	}
	free(v->labels);
	v->labels = NULL;
	v->label_count = 0;
}

static void labels_copy(const struct version *from, struct version *to)
{
	to->labels = mem_new((from->label_count + 1) * sizeof *to->labels);
	to->label_count = from->label_count;
	for (size_t i = 0; i < from->label_count; i++)
		to->labels[i] = (struct version_label){str_dup(str_from(from->labels[i].key)),
		                                       str_dup(str_from(from->labels[i].value))};
}

void version_fini(struct version *v)
{
	if (!v)
		return;
	free(v->files);
	free(v->signatures);
	labels_fini(v);
	*v = (struct version){0};
}

int version_copy(const struct version *from, struct version *ret_to)
{
	struct version to = *from;
	to.files = NULL;
	to.signatures = NULL;
	if (from->file_count) {
		to.files = mem_resize(NULL, from->file_count, sizeof *to.files);
		memcpy(to.files, from->files, from->file_count * sizeof *to.files);
	}
	if (from->signature_count) {
		to.signatures = mem_resize(NULL, from->signature_count, sizeof *to.signatures);
		memcpy(to.signatures, from->signatures, from->signature_count * sizeof *to.signatures);
	}
	labels_copy(from, &to);
	*ret_to = to;
	return 0;
}

uint64_t version_size(const struct version *v)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < v->file_count; i++)
		sum += v->files[i].size;
	return sum;
}

static void append_text(struct buf *out, const char *key, const char *text)
{
	buf_printf(out, ",\"%s\":", key);
	buf_append_json(out, str_from(text));
}

static void append_digest(struct buf *out, const char *key, const struct digest *d)
{
	char text[DIGEST_TEXT_SIZE];
	digest_format(d, text);
	buf_printf(out, ",\"%s\":\"%s\"", key, text);
}

static bool digest_is_zero(const struct digest *d)
{
	static const struct digest zero;
	return digest_equal(d, &zero);
}

static void append_file(struct buf *out, const struct version_file *f)
{
	buf_append_str(out, STR("{\"path\":"));
	buf_append_json(out, str_from(f->path));
	append_text(out, "media_type", f->media_type);
	append_digest(out, "digest", &f->digest);
	buf_printf(out, ",\"size\":%llu", (unsigned long long)f->size);
	if (!digest_is_zero(&f->chunks))
		append_digest(out, "chunks", &f->chunks);
	buf_append_str(out, STR("}"));
}

static const char *const kinds[] = {
    [VERSION_FILES] = "files", [VERSION_GGUF] = "gguf", [VERSION_SAFETENSORS] = "safetensors"};
#define KINDS (sizeof kinds / sizeof *kinds)

const char *version_kind_text(enum version_kind kind)
{
	return kinds[kind];
}

static void append_some(struct buf *out, const char *key, const char *text)
{
	if (text[0])
		append_text(out, key, text);
}

/* What not every version has: left out when it is empty. */
static void append_said(const struct version *v, struct buf *out)
{
	append_some(out, "revision", v->revision);
	append_some(out, "base_model", v->base_model);
	append_some(out, "quantized_from", v->quantized_from);
	append_some(out, "distilled_from", v->distilled_from);
	if (v->retired)
		buf_append_str(out, STR(",\"retired\":true"));
	if (!v->label_count)
		return;
	buf_append_str(out, STR(",\"labels\":{"));
	for (size_t i = 0; i < v->label_count; i++) {
		buf_append_str(out, i ? STR(",") : STR(""));
		buf_append_json(out, str_from(v->labels[i].key));
		buf_append_str(out, STR(":"));
		buf_append_json(out, str_from(v->labels[i].value));
	}
	buf_append_str(out, STR("}"));
}

static void append_signatures(struct buf *out, const struct version *v)
{
	for (size_t i = 0; i < v->signature_count; i++) {
		char text[DIGEST_TEXT_SIZE];
		digest_format(&v->signatures[i].digest, text);
		buf_append_str(out, i ? STR(",") : STR(",\"signatures\":["));
		buf_printf(out, "{\"digest\":\"%s\",\"size\":%llu}", text, (unsigned long long)v->signatures[i].size);
	}
	if (v->signature_count)
		buf_append_str(out, STR("]"));
}

void version_format(const struct version *v, struct buf *out)
{
	buf_append_str(out, STR("{\"name\":"));
	buf_append_json(out, str_from(v->name));
	append_text(out, "tag", v->tag);
	append_digest(out, "manifest", &v->manifest);
	buf_append_str(out, STR(",\"files\":["));
	for (size_t i = 0; i < v->file_count; i++) {
		if (i)
			buf_append_str(out, STR(","));
		append_file(out, &v->files[i]);
	}
	buf_append_str(out, STR("]"));
	append_text(out, "kind", kinds[v->kind]);
	append_said(v, out);
	append_signatures(out, v);
	append_text(out, "architecture", v->architecture);
	append_text(out, "quantization", v->quantization);
	append_text(out, "license", v->license);
	buf_printf(out, ",\"parameters\":%llu,\"context_tokens\":%u,\"chat_template\":%s,\"created_us\":%lld}",
	           (unsigned long long)v->parameters, v->context_tokens, v->chat_template ? "true" : "false",
	           (long long)v->created_wall_us);
}

/* A text of at most size - 1 bytes; absent is an error only when `needed`. */
static int take_text(yyjson_val *obj, const char *key, bool needed, char *to, size_t size, struct error *err)
{
	struct str text = {0};
	int rc = json_str(obj, key, &text, err);
	if (rc)
		return rc;
	if (!text.base && needed)
		return error_set(err, E_INVAL, "a version needs \"%s\"", key);
	if (text.len && memchr(text.base, 0, text.len))
		return error_set(err, E_INVAL, "\"%s\" of a version has a NUL character", key);
	if (!str_copy(text, to, size))
		return error_set(err, E_INVAL, "\"%s\" of a version is longer than %zu bytes", key, size - 1);
	return 0;
}

static int take_digest(yyjson_val *obj, const char *key, bool needed, struct digest *to, struct error *err)
{
	struct str text = {0};
	int rc = json_str(obj, key, &text, err);
	if (rc || (!text.base && !needed))
		return rc;
	if (!text.base)
		return error_set(err, E_INVAL, "a version needs \"%s\"", key);
	rc = digest_parse(text, to);
	return rc ? error_set(err, rc, "\"%s\" of a version is not sha256: and 64 hex digits", key) : 0;
}

static int parse_file(yyjson_val *obj, struct version_file *f, struct error *err)
{
	int64_t size = -1;
	int rc = take_text(obj, "path", true, f->path, sizeof f->path, err);
	if (!rc && !path_safe(str_from(f->path)))
		rc =
		    error_set(err, E_INVAL, "a file's \"path\" must be relative, without \"..\" or control characters");
	if (!rc)
		rc = take_text(obj, "media_type", false, f->media_type, sizeof f->media_type, err);
	if (!rc)
		rc = take_digest(obj, "digest", true, &f->digest, err);
	if (!rc)
		rc = take_digest(obj, "chunks", false, &f->chunks, err);
	if (!rc)
		rc = json_i64(obj, "size", 0, INT64_MAX / VERSION_FILES_MAX, &size, err);
	if (!rc && size < 0)
		rc = error_set(err, E_INVAL, "a version's file needs \"size\"");
	f->size = (uint64_t)size;
	return rc;
}

static int parse_files(yyjson_val *obj, struct version *v, struct error *err)
{
	yyjson_val *files = NULL;
	int rc = json_arr(obj, "files", &files, err);
	if (rc)
		return rc;
	if (!files)
		return error_set(err, E_INVAL, "a version needs \"files\"");
	size_t count = yyjson_arr_size(files);
	if (count > VERSION_FILES_MAX)
		return error_set(err, E_LIMIT, "a version has %zu files, at most %d are allowed", count,
		                 VERSION_FILES_MAX);
	if (count)
		v->files = mem_new(count * sizeof *v->files);
	size_t i, max;
	yyjson_val *file;
	yyjson_arr_foreach(files, i, max, file)
	{
		if (!yyjson_is_obj(file))
			return error_set(err, E_INVAL, "\"files\" of a version must hold objects");
		rc = parse_file(file, &v->files[i], err);
		if (rc)
			return rc;
		for (size_t k = 0; k < i; k++)
			if (!strcmp(v->files[k].path, v->files[i].path))
				return error_set(err, E_INVAL, "a version names the file %s twice", v->files[i].path);
		v->file_count = i + 1;
	}
	return 0;
}

static int parse_kind(yyjson_val *obj, struct version *v, struct error *err)
{
	struct str text = {0};
	int rc = json_str(obj, "kind", &text, err);
	if (rc)
		return rc;
	v->kind = VERSION_GGUF; /* all there was before there were kinds */
	for (size_t i = 0; text.base && i < KINDS; i++)
		if (str_equal(text, str_from(kinds[i]))) {
			v->kind = (enum version_kind)i;
			return 0;
		}
	if (text.base)
		v->kind = VERSION_FILES; /* a newer one's word */
	return 0;
}

static int parse_labels(yyjson_val *obj, struct version *v, struct error *err)
{
	yyjson_val *labels = NULL, *key, *value;
	size_t i, max;
	int rc = json_obj(obj, "labels", &labels, err);
	if (rc || !labels)
		return rc;
	yyjson_obj_foreach(labels, i, max, key, value)
	{
		if (!yyjson_is_str(value))
			return error_set(err, E_INVAL, "\"labels\" of a version must hold texts");
		struct str k = {yyjson_get_str(key), yyjson_get_len(key)};
		struct str text = {yyjson_get_str(value), yyjson_get_len(value)};
		rc = version_label_set(v, k, text, err);
		if (rc)
			return rc;
	}
	return 0;
}

static int parse_said(yyjson_val *obj, struct version *v, struct error *err)
{
	int rc = take_text(obj, "license", false, v->license, sizeof v->license, err);
	if (!rc)
		rc = take_text(obj, "revision", false, v->revision, sizeof v->revision, err);
	if (!rc)
		rc = take_text(obj, "base_model", false, v->base_model, sizeof v->base_model, err);
	if (!rc)
		rc = take_text(obj, "quantized_from", false, v->quantized_from, sizeof v->quantized_from, err);
	if (!rc)
		rc = take_text(obj, "distilled_from", false, v->distilled_from, sizeof v->distilled_from, err);
	if (!rc)
		rc = json_bool(obj, "retired", &v->retired, err);
	if (!rc)
		rc = parse_kind(obj, v, err);
	return rc ? rc : parse_labels(obj, v, err);
}

static int parse_signatures(yyjson_val *obj, struct version *v, struct error *err)
{
	yyjson_val *list = NULL, *item;
	size_t i, max;
	int rc = json_arr(obj, "signatures", &list, err);
	if (!rc && yyjson_arr_size(list) > VERSION_SIGNATURES_MAX)
		rc = error_set(err, E_LIMIT, "a version has at most %d signatures", VERSION_SIGNATURES_MAX);
	if (!rc && yyjson_arr_size(list))
		v->signatures = mem_new(yyjson_arr_size(list) * sizeof *v->signatures);
	yyjson_arr_foreach(list, i, max, item)
	{
		int64_t size = -1;
		if (!rc && !yyjson_is_obj(item))
			rc = error_set(err, E_INVAL, "\"signatures\" of a version must hold objects");
		if (!rc)
			rc = take_digest(item, "digest", true, &v->signatures[i].digest, err);
		if (!rc)
			rc = json_i64(item, "size", 1, LIMIT_SIGNATURE, &size, err);
		if (!rc && size < 0)
			rc = error_set(err, E_INVAL, "a version's signature needs \"size\"");
		if (rc)
			break;
		v->signatures[i].size = (uint64_t)size;
		v->signature_count = i + 1;
	}
	return rc;
}

static int parse_numbers(yyjson_val *obj, struct version *v, struct error *err)
{
	int64_t parameters = 0, context = 0;
	int rc = json_i64(obj, "parameters", 0, INT64_MAX, &parameters, err);
	if (!rc)
		rc = json_i64(obj, "context_tokens", 0, UINT32_MAX, &context, err);
	if (!rc)
		rc = json_bool(obj, "chat_template", &v->chat_template, err);
	if (!rc)
		rc = json_i64(obj, "created_us", 0, INT64_MAX, &v->created_wall_us, err);
	v->parameters = (uint64_t)parameters;
	v->context_tokens = (uint32_t)context;
	return rc;
}

static int parse_names(yyjson_val *obj, struct version *v, struct error *err)
{
	int rc = take_text(obj, "name", true, v->name, sizeof v->name, err);
	if (!rc && !oci_repo_valid(str_from(v->name)))
		rc = error_set(err, E_INVAL, "\"name\" of a version must be lower case letters, digits and separators");
	if (!rc)
		rc = take_text(obj, "tag", true, v->tag, sizeof v->tag, err);
	if (!rc && !oci_tag_valid(str_from(v->tag)))
		rc = error_set(err, E_INVAL, "\"tag\" of a version must be letters, digits, '_', '.' and '-'");
	if (!rc)
		rc = take_digest(obj, "manifest", true, &v->manifest, err);
	if (!rc)
		rc = take_text(obj, "architecture", false, v->architecture, sizeof v->architecture, err);
	if (!rc)
		rc = take_text(obj, "quantization", false, v->quantization, sizeof v->quantization, err);
	return rc;
}

int version_parse(yyjson_val *object, struct version *ret_version, struct error *err)
{
	if (!yyjson_is_obj(object))
		return error_set(err, E_INVAL, "a version must be a JSON object");
	struct version v = {0};
	int rc = parse_names(object, &v, err);
	if (!rc)
		rc = parse_files(object, &v, err);
	if (!rc)
		rc = parse_signatures(object, &v, err);
	if (!rc)
		rc = parse_numbers(object, &v, err);
	if (!rc)
		rc = parse_said(object, &v, err);
	if (rc) {
		version_fini(&v);
		return rc;
	}
	*ret_version = v;
	return 0;
}

/* ---- labels ---------------------------------------------------------------------------------- */

const char *version_label(const struct version *v, const char *key)
{
	for (size_t i = 0; i < v->label_count; i++)
		if (!strcmp(v->labels[i].key, key))
			return v->labels[i].value;
	return NULL;
}

static bool has_controls(struct str text)
{
	for (size_t i = 0; i < text.len; i++)
		if ((unsigned char)text.base[i] < 0x20 || text.base[i] == 0x7f)
			return true;
	return utf8_valid_prefix(text) != text.len;
}

/* The fields that are set like labels. */
static bool field_of(struct version *v, struct str key, char **ret_field, size_t *ret_size)
{
	struct {
		struct str key;
		char *field;
		size_t size;
	} fields[] = {
	    {STR("license"), v->license, sizeof v->license},
	    {STR("revision"), v->revision, sizeof v->revision},
	    {STR("base-model"), v->base_model, sizeof v->base_model},
	    {STR("quantized-from"), v->quantized_from, sizeof v->quantized_from},
	    {STR("distilled-from"), v->distilled_from, sizeof v->distilled_from},
	};
	for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
		if (!str_equal(key, fields[i].key))
			continue;
		*ret_field = fields[i].field;
		*ret_size = fields[i].size;
		return true;
	}
	return false;
}

/* Where the key is, or would be. */
static size_t label_position(const struct version *v, struct str key, bool *ret_found)
{
	size_t low = 0, high = v->label_count;
	*ret_found = false;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		struct str there = str_from(v->labels[middle].key);
		int order = memcmp(there.base, key.base, there.len < key.len ? there.len : key.len);
		if (!order)
			order = there.len < key.len ? -1 : there.len > key.len;
		if (!order) {
			*ret_found = true;
			return middle;
		}
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static void label_remove(struct version *v, size_t at)
{
	free(v->labels[at].key);
	free(v->labels[at].value);
	v->label_count--;
	memmove(v->labels + at, v->labels + at + 1, (v->label_count - at) * sizeof *v->labels);
}

int version_label_set(struct version *v, struct str key, struct str value, struct error *err)
{
	char *field;
	size_t size, at;
	bool found;
	if (!key.len || key.len > VERSION_LABEL_KEY_MAX || has_controls(key) || memchr(key.base, '=', key.len))
		return error_set(err, E_INVAL,
		                 "a label's key is 1 to %d bytes of text without '=' and control characters",
		                 VERSION_LABEL_KEY_MAX);
	if (value.base && (value.len > VERSION_LABEL_VALUE_MAX || has_controls(value)))
		return error_set(err, E_INVAL, "the label " STR_FMT " is not at most %d bytes of text in one line",
		                 STR_ARG(key), VERSION_LABEL_VALUE_MAX);
	if (field_of(v, key, &field, &size)) {
		if (!str_copy(value.base ? value : STR(""), field, size))
			return error_set(err, E_INVAL, STR_FMT " is longer than %zu bytes", STR_ARG(key), size - 1);
		return 0;
	}
	at = label_position(v, key, &found);
	if (!value.base) {
		if (found)
			label_remove(v, at);
		return 0;
	}
	if (found) {
		free(v->labels[at].value);
		v->labels[at].value = str_dup(value);
		return 0;
	}
	if (v->label_count >= VERSION_LABELS_MAX)
		return error_set(err, E_LIMIT, "a version has at most %d labels", VERSION_LABELS_MAX);
	v->labels = mem_resize(v->labels, v->label_count + 1, sizeof *v->labels);
	memmove(v->labels + at + 1, v->labels + at, (v->label_count - at) * sizeof *v->labels);
	v->labels[at] = (struct version_label){str_dup(key), str_dup(value)};
	v->label_count++;
	return 0;
}

void version_take_labels(struct version *v, const struct version *from)
{
	labels_fini(v);
	labels_copy(from, v);
	memcpy(v->license, from->license, sizeof v->license);
	memcpy(v->revision, from->revision, sizeof v->revision);
	memcpy(v->base_model, from->base_model, sizeof v->base_model);
	memcpy(v->quantized_from, from->quantized_from, sizeof v->quantized_from);
	memcpy(v->distilled_from, from->distilled_from, sizeof v->distilled_from);
}

/* ---- files ----------------------------------------------------------------------------------- */

static bool five_digits(struct str text, uint32_t *ret_number)
{
	uint32_t n = 0;
	for (size_t i = 0; i < 5; i++) {
		if (text.base[i] < '0' || text.base[i] > '9')
			return false;
		n = n * 10 + (uint32_t)(text.base[i] - '0');
	}
	*ret_number = n;
	return true;
}

bool version_part(struct str path, uint32_t *ret_part, uint32_t *ret_parts)
{
	static const size_t tail = sizeof "-00001-of-00002" - 1;
	uint32_t part, parts;
	size_t suffix = str_ends(path, STR(".gguf")) ? 5 : str_ends(path, STR(".safetensors")) ? 12 : 0;
	if (!suffix || path.len <= suffix + tail)
		return false;
	struct str end = {path.base + path.len - suffix - tail, tail};
	if (end.base[0] != '-' || memcmp(end.base + 6, "-of-", 4) ||
	    !five_digits((struct str){end.base + 1, 5}, &part) ||
	    !five_digits((struct str){end.base + 10, 5}, &parts) || part < 1 || part > parts)
		return false;
	*ret_part = part;
	*ret_parts = parts;
	return true;
}

const struct version_file *version_main_file(const struct version *v)
{
	const struct version_file *first = NULL, *largest = NULL;
	for (size_t i = 0; i < v->file_count; i++) {
		const struct version_file *f = &v->files[i];
		const char *slash = strrchr(f->path, '/'), *name = slash ? slash + 1 : f->path;
		uint32_t part, parts;
		if (!largest || f->size > largest->size)
			largest = f;
		if (!str_ends(str_from(f->path), STR(".gguf")) || !strncmp(name, "mmproj", 6) ||
		    (version_part(str_from(f->path), &part, &parts) && part != 1))
			continue;
		if (!first || strcmp(f->path, first->path) < 0)
			first = f;
	}
	return first ? first : largest;
}
