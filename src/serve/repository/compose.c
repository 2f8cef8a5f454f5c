/* SPDX-License-Identifier: Apache-2.0 */
#include "serve/repository/compose.h"

#define CONFIG "application/vnd.cncf.model.config.v1+json"
#define LAYER "application/vnd.cncf.model."

static const char *type_of(const struct version_file *f)
{
	static const struct {
		struct str end;
		const char *type;
	} types[] = {
	    {STR(".gguf"), LAYER "weight.v1.raw"}, {STR(".safetensors"), LAYER "weight.v1.raw"},
	    {STR(".bin"), LAYER "weight.v1.raw"},  {STR(".md"), LAYER "doc.v1.raw"},
	    {STR(".py"), LAYER "code.v1.raw"},
	};
	const char *slash = strrchr(f->path, '/');
	struct str name = str_from(slash ? slash + 1 : f->path);
	if (f->media_type[0])
		return f->media_type;
	if (str_starts(name, STR("LICENSE")) || str_starts(name, STR("NOTICE")))
		return LAYER "doc.v1.raw";
	for (size_t i = 0; i < sizeof types / sizeof *types; i++)
		if (str_ends(name, types[i].end))
			return types[i].type;
	return LAYER "weight.config.v1.raw";
}

void compose_config(struct str name, struct str tag, struct str format, struct str license,
                    const struct version_file *files, size_t count, struct buf *out)
{
	char digest[DIGEST_TEXT_SIZE];
	buf_append_str(out, STR("{\"descriptor\":{\"name\":"));
	buf_append_json(out, name);
	buf_append_str(out, STR(",\"version\":"));
	buf_append_json(out, tag);
	if (license.len) {
		buf_append_str(out, STR(",\"licenses\":["));
		buf_append_json(out, license);
		buf_append_str(out, STR("]"));
	}
	buf_append_str(out, STR("},\"config\":{\"format\":"));
	buf_append_json(out, format);
	buf_append_str(out, STR("},\"modelfs\":{\"type\":\"layers\",\"diffIds\":["));
	for (size_t i = 0; i < count; i++) {
		digest_format(&files[i].digest, digest);
		buf_printf(out, "%s\"%s\"", i ? "," : "", digest);
	}
	buf_append_str(out, STR("]}}"));
}

static void append_descriptor(const char *type, const struct digest *d, uint64_t size, struct buf *out)
{
	char digest[DIGEST_TEXT_SIZE];
	digest_format(d, digest);
	buf_append_str(out, STR("{\"mediaType\":"));
	buf_append_json(out, str_from(type));
	buf_printf(out, ",\"digest\":\"%s\",\"size\":%llu", digest, (unsigned long long)size);
}

void compose_manifest(struct str config, const struct version_file *files, size_t count,
                      const struct compose_note *notes, size_t note_count, struct buf *out)
{
	struct digest d = digest_of(config.base, config.len);
	bool first = true;
	buf_append_str(out, STR("{\"schemaVersion\":2,\"mediaType\":\"" COMPOSE_MANIFEST
	                        "\",\"artifactType\":\"application/vnd.cncf.model.manifest.v1+json\",\"config\":"));
	append_descriptor(CONFIG, &d, config.len, out);
	buf_append_str(out, STR("},\"layers\":["));
	for (size_t i = 0; i < count; i++) {
		buf_append_str(out, i ? STR(",") : STR(""));
		append_descriptor(type_of(&files[i]), &files[i].digest, files[i].size, out);
		buf_append_str(out, STR(",\"annotations\":{\"org.opencontainers.image.title\":"));
		buf_append_json(out, str_from(files[i].path));
		buf_append_str(out, STR(",\"org.cncf.model.filepath\":"));
		buf_append_json(out, str_from(files[i].path));
		buf_append_str(out, STR("}}"));
	}
	buf_append_str(out, STR("],\"annotations\":{"));
	for (size_t i = 0; i < note_count; i++) {
		if (!notes[i].value)
			continue;
		buf_append_str(out, first ? STR("") : STR(","));
		first = false;
		buf_append_json(out, str_from(notes[i].key));
		buf_append_str(out, STR(":"));
		buf_append_json(out, str_from(notes[i].value));
	}
	buf_append_str(out, STR("}}"));
}
