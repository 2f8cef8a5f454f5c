/* SPDX-License-Identifier: Apache-2.0 */
/* version.h - a model version: a named set of files, as the catalog keeps it and the center assigns it.
 *
 * A version owns its arrays. Pure. Wire form: docs/wire.md, "Version". Files of a version are
 * content-addressed; `chunks` names the chunk list (docs/wire.md, "Chunk list") by its SHA-256.
 */
#ifndef MDN_STORE_VERSION_H
#define MDN_STORE_VERSION_H

#include "base/digest.h"
#include "base/error.h"
#include "base/str.h"

#include <yyjson.h>

#define VERSION_FILES_MAX 1024
#define VERSION_LABELS_MAX 64
#define VERSION_LABEL_KEY_MAX 128   /* bytes */
#define VERSION_LABEL_VALUE_MAX 512 /* bytes */
#define VERSION_REFERENCE_SIZE 280  /* "name:tag" or a digest, and NUL */

/* What its files are, as far as an engine cares. */
enum version_kind { VERSION_FILES, VERSION_GGUF, VERSION_SAFETENSORS };

struct version_label {
	char *key, *value; /* owned by the version */
};

struct version_file {
	char path[256]; /* relative, no "..", as it was pushed */
	char media_type[128];
	struct digest digest;
	uint64_t size;
	struct digest chunks; /* of the chunk list; all zero for small files fetched whole */
};

/* A signature or channel statement attached to the manifest: a small blob, fetched whole (store/envelope.h). */
#define VERSION_SIGNATURES_MAX 16
struct version_signature {
	struct digest digest;
	uint64_t size;
};

struct version {
	char name[129]; /* repository name, OCI grammar */
	char tag[129];
	struct digest manifest;
	struct version_file *files;
	size_t file_count;
	struct version_signature *signatures; /* owned */
	size_t signature_count;
	enum version_kind kind;
	/* From the GGUF header, or config.json and safetensors headers; empty or 0 when it is something else. */
	char architecture[64], quantization[32], license[64];
	uint64_t parameters;
	uint32_t context_tokens;
	bool chat_template;
	bool retired; /* not placeable any more, hidden from listings, kept */
	int64_t created_wall_us;
	char revision[129]; /* of its source, as the pusher said; often a git commit */
	/* Lineage: what it was made from, "name:tag" or a digest; empty when not known. */
	char base_model[VERSION_REFERENCE_SIZE], quantized_from[VERSION_REFERENCE_SIZE],
	    distilled_from[VERSION_REFERENCE_SIZE];
	struct version_label *labels; /* by key */
	size_t label_count;
};

void version_fini(struct version *v);
int version_copy(const struct version *from, struct version *ret_to);
uint64_t version_size(const struct version *v);
void version_format(const struct version *v, struct buf *out); /* one JSON object */
int version_parse(yyjson_val *object, struct version *ret_version, struct error *err);

const char *version_kind_text(enum version_kind kind);
const char *version_label(const struct version *v, const char *key); /* NULL: it has none */
/* Sets, replaces, or with value NULL removes. "license", "revision", "base-model", "quantized-from" and
 * "distilled-from" are the fields of that name. E_INVAL with words for a key or value that cannot be; E_LIMIT past
 * VERSION_LABELS_MAX. */
int version_label_set(struct version *v, struct str key, struct str value, struct error *err);
/* What people said of the version, not what its files say: labels, licence, lineage, revision. */
void version_take_labels(struct version *v, const struct version *from);

/* "name-00002-of-00005.gguf" (or ".safetensors"): part 2 of 5; false when it is no part of a split file. */
bool version_part(struct str path, uint32_t *ret_part, uint32_t *ret_parts);
/* The file an engine opens: the first part of the first GGUF model (projectors, "mmproj-...", are none); else the
 * largest file. NULL: it has no files. */
const struct version_file *version_main_file(const struct version *v);

#endif
