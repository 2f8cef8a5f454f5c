/* SPDX-License-Identifier: Apache-2.0 */
/* model_files.h - the path an engine opens a version by.
 *
 * Blobs are named by their content, and llama.cpp finds the parts of a split model by the name of the first: so such a
 * version gets a folder of links with the right names, DATA/models/HEX (of its manifest). Loop thread; quick.
 */
#ifndef MDN_CLI_MODEL_FILES_H
#define MDN_CLI_MODEL_FILES_H

#include "base/config.h"
#include "cli/sealed_files.h"
#include "store/catalog.h"
#include "store/version.h"

/* Heap, the caller's. E_BUSY: parts are being decrypted; ask again when that is told. */
int model_files_path(struct sealed_files *sealed, const char *data, const struct version *v, char **ret_path,
                     struct error *err);
bool model_files_has(const struct version *v, const struct digest *file);
/* What is loaded stays loaded, but is not found again by its path. */
void model_files_forget(const char *data, const struct version *v);
void model_files_sweep(const char *data); /* at start: links of an earlier run */

/* immutable_tags and repository_quotas into the catalog. E_INVAL names the key. */
int catalog_rules_apply(struct catalog *c, const struct config *config, struct error *err);

#endif
