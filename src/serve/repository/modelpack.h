/* SPDX-License-Identifier: Apache-2.0 */
/* modelpack.h - what the media types of ModelPack say, in its names of today and those before.
 *
 *   application/vnd.cncf.model.KIND.v1.FORM    kind: weight, weight.config, doc, code, dataset
 *   application/vnd.cncf.cnai.model..., application/vnd.cnai.model...    form: raw, tar, tar+gzip, tar+zstd
 *
 * Weights must be raw here: only then can they be read in ranges, mapped and shared between versions. Other layers may
 * be archives; they stay one file. Pure. Source: github.com/modelpack/model-spec, docs/spec.md.
 */
#ifndef MDN_SERVE_MODELPACK_H
#define MDN_SERVE_MODELPACK_H

#include "serve/repository/manifest.h"

/* "weight.config" and "tar+gzip"; for the config and the manifest: "config" and "v1+json" or so. False: another type.
 */
bool modelpack_type(struct str media_type, struct str *ret_kind, struct str *ret_form);
/* ".tar", ".tar.gz", ".tar.zst", or "" for a layer that is no archive. */
const char *modelpack_ending(struct str media_type);
/* E_INVAL with words that say how to pack it when its weights are in an archive. */
int modelpack_check(const struct manifest *m, struct error *err);

#endif
