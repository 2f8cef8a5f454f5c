/* SPDX-License-Identifier: Apache-2.0 */
/* compose.h - writes the manifest of a set of files as ModelPack has it. Pure.
 *
 * Source: modelpack/model-spec v0.0.7, "spec.md" and "annotations.md".
 */
#ifndef MDN_SERVE_REPOSITORY_COMPOSE_H
#define MDN_SERVE_REPOSITORY_COMPOSE_H

#include "base/digest.h"
#include "base/str.h"
#include "store/version.h"

#define COMPOSE_MANIFEST "application/vnd.oci.image.manifest.v1+json"

struct compose_note { /* an annotation of the manifest */
	const char *key;
	const char *value; /* NULL: it is left out */
};
static inline const char *compose_some(const char *text) /* NULL for an empty one */
{
	return text && text[0] ? text : NULL;
}
/* The config, a blob of its own. name and tag: what people call it. format: "gguf", "safetensors"; license may be
 * empty. */
void compose_config(struct str name, struct str tag, struct str format, struct str license,
                    const struct version_file *files, size_t count, struct buf *out);
/* Files without a media type get ModelPack's by their names. */
void compose_manifest(struct str config, const struct version_file *files, size_t count,
                      const struct compose_note *notes, size_t note_count, struct buf *out);

#endif
