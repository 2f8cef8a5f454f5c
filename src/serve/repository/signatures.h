/* SPDX-License-Identifier: Apache-2.0 */
/* signatures.h - signature bundles that come in as OCI referrers become part of the version they are about.
 *
 * A bundle is the one layer of a manifest with a subject, both of Sigstore's type. Nothing is believed here: nodes
 * judge signatures by their policy; the repository only reads which kind a bundle is. Blocks: in jobs.
 */
#ifndef MDN_SERVE_SIGNATURES_H
#define MDN_SERVE_SIGNATURES_H

#include "store/blob.h"
#include "store/catalog.h"

/* After a manifest was stored. 0 also when it is something else, or a bundle we cannot read. */
int signatures_note(struct blob_store *store, struct catalog *catalog, struct str repo, const struct digest *manifest,
                    struct str body, struct error *err);

#endif
