/* SPDX-License-Identifier: Apache-2.0 */
/* Both ways between struct version and its JSON (docs/wire.md, "Version"). Parsing trusts nothing: names follow the OCI
 * grammar, paths stay below the folder they will be written to, no path comes twice, digests are SHA-256. */
#include "store/version.h"

#include "base/json.h"
#include "store/ociname.h"

#include <stdlib.h>

void version_fini(struct version *v)
{
	if (!v)
		return;
	free(v->files);
	*v = (struct version){0};
}

int version_copy(const struct version *from, struct version *ret_to)
{
	struct version to = *from;
	to.files = NULL;
	if (from->file_count) {
		to.files = mem_resize(NULL, from->file_count, sizeof *to.files);
		memcpy(to.files, from->files, from->file_count * sizeof *to.files);
	}
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
	if (!rc)
		rc = take_text(obj, "license", false, v->license, sizeof v->license, err);
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
		rc = parse_numbers(object, &v, err);
	if (rc) {
		version_fini(&v);
		return rc;
	}
	*ret_version = v;
	return 0;
}
