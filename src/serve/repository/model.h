/* SPDX-License-Identifier: Apache-2.0 */
/* model.h - from a manifest to a version: finds GGUF and safetensors files, reads their headers, makes chunk lists.
 * Blocks: in jobs. */
#ifndef MDN_SERVE_MODEL_H
#define MDN_SERVE_MODEL_H

#include "serve/repository/manifest.h"
#include "store/blob.h"
#include "store/catalog.h"

/* Manifest annotations of ours, for lineage: "NAME:TAG" or a digest. */
#define MODEL_BASE "mdn.base-model"
#define MODEL_QUANTIZED "mdn.quantized-from"
#define MODEL_DISTILLED "mdn.distilled-from"

/* *ret_is_model false: no layer is GGUF or safetensors and the config is not ModelPack's; nothing else is written. All
 * items of m must be in the store. E_INVAL with words when a model file is bad, a part is missing or a file name cannot
 * be used. Sets all of the version but its name, tag and manifest, and what model_annotate does. */
int model_version(struct blob_store *store, struct catalog *catalog, uint64_t chunk_size, const struct manifest *m,
                  bool *ret_is_model, struct version *ret_version, struct error *err);

/* A manifest's annotations: licence, revision, lineage, and the others as labels. */
void model_annotate(struct str manifest, struct version *v);

/* The size of a file's pieces; `most` is the configured one. */
uint64_t model_chunk_size(uint64_t file_size, uint64_t most);
/* A chunk list that was made while its file came in, so that model_version need not read it again. What fails here is
 * made up for there. */
void model_keep_list(struct blob_store *store, struct catalog *catalog, uint64_t chunk_size,
                     const struct chunk_list *list);

#endif
