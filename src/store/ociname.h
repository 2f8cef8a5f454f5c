/* SPDX-License-Identifier: Apache-2.0 */
/* ociname.h - names as OCI allows them: repositories, tags, and safe relative file paths of a version.
 *
 * Pure. Source: OCI distribution-spec 1.1, "Pulling manifests" (name and reference grammar). A repository
 * name is at most LIMIT_NAME bytes here (the spec's 255 counts the host name, too).
 */
#ifndef MDN_STORE_OCINAME_H
#define MDN_STORE_OCINAME_H

#include "base/str.h"

#include <stdbool.h>

bool oci_repo_valid(struct str name); /* [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/...)* */
bool oci_tag_valid(struct str tag);   /* [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127} */
/* Relative, shorter than 256 bytes, UTF-8, no empty, "." or ".." part, no backslash, no control byte. */
bool path_safe(struct str path);
/* "name:tag" cut at its last colon; "latest" when there is none. False when either part is not valid. */
bool oci_reference_parse(struct str text, struct str *ret_repo, struct str *ret_tag);

#endif
