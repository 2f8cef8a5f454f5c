/* SPDX-License-Identifier: Apache-2.0 */
/* manifest.h - reads an OCI or Docker manifest or index without trusting it.
 *
 * Pure, any thread. Keeps what a repository needs: what it refers to, and under which file names. Source: OCI
 * image-spec 1.1 (manifest.md, image-index.md), ModelPack model-spec (annotation ...model.filepath).
 */
#ifndef MDN_SERVE_MANIFEST_H
#define MDN_SERVE_MANIFEST_H

#include "base/digest.h"
#include "base/error.h"
#include "base/str.h"

#define MANIFEST_LAYERS_MAX 1024

struct manifest_item { /* an OCI descriptor */
	char media_type[128];
	char path[256];          /* the file's title; empty when it has none */
	bool path_refused;       /* it has one, but not one a file may have */
	bool elsewhere;          /* bytes that a registry need not hold ("nondistributable") */
	struct digest_name name; /* as it says */
	struct digest digest;    /* of a SHA-512: all zero until manifest_resolve */
	uint64_t size;
};

struct manifest {
	char media_type[128]; /* as the manifest says itself; empty when it does not */
	bool index;           /* items are manifests, not blobs */
	bool has_config;      /* then item 0 is the config */
	bool has_subject;
	struct digest_name subject; /* the manifest it is about; need not exist */
	char artifact_type[256];    /* what kind of referrer it is: artifactType, else the config's media type */
	struct manifest_item *items;
	size_t item_count;
};

int manifest_parse(struct str text, struct manifest *ret_manifest, struct error *err);
void manifest_fini(struct manifest *m);
/* The descriptor by which a manifest stands in the list of its subject's referrers (JSON). */
int manifest_describe(struct str text, const struct manifest *m, const struct digest_name *name, struct str media_type,
                      struct buf *out, struct error *err);

struct catalog;
/* Sets `digest` of the items named by SHA-512; those that were never pushed stay zero, which is nothing's digest. */
void manifest_resolve(struct manifest *m, struct catalog *catalog);

#endif
