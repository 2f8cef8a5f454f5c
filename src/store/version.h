/* SPDX-License-Identifier: Apache-2.0 */
/* version.h - a model version: a named set of files, as the catalog keeps it and the center assigns it.
 *
 * A version owns its file array. Pure. Wire form: docs/wire.md, "Version". Files of a version are
 * content-addressed; `chunks` names the chunk list (docs/wire.md, "Chunk list") by its SHA-256.
 */
#ifndef MDN_STORE_VERSION_H
#define MDN_STORE_VERSION_H

#include "base/digest.h"
#include "base/error.h"
#include "base/str.h"

#include <yyjson.h>

#define VERSION_FILES_MAX 1024

struct version_file {
	char path[256]; /* relative, no "..", as it was pushed */
	char media_type[128];
	struct digest digest;
	uint64_t size;
	struct digest chunks; /* of the chunk list; all zero for small files fetched whole */
};

struct version {
	char name[129]; /* repository name, OCI grammar */
	char tag[129];
	struct digest manifest;
	struct version_file *files;
	size_t file_count;
	/* From the GGUF header; empty or 0 when it is something else. */
	char architecture[64], quantization[32], license[64];
	uint64_t parameters;
	uint32_t context_tokens;
	bool chat_template;
	int64_t created_wall_us;
};

void version_fini(struct version *v);
int version_copy(const struct version *from, struct version *ret_to);
uint64_t version_size(const struct version *v);
void version_format(const struct version *v, struct buf *out); /* one JSON object */
int version_parse(yyjson_val *object, struct version *ret_version, struct error *err);

#endif
