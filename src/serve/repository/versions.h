/* SPDX-License-Identifier: Apache-2.0 */
/* versions.h - what operators ask and change about versions: search, channels, history, labels, quotas, differences.
 *
 * /mdn/v1/repository/... (docs/wire.md, "Versions"). Who may call is decided before: operators only, and over the node
 * port. Loop thread; catalog and disk in jobs.
 */
#ifndef MDN_SERVE_REPOSITORY_VERSIONS_H
#define MDN_SERVE_REPOSITORY_VERSIONS_H

#include "serve/repository/repository_private.h"

#define VERSIONS_PATH "/mdn/v1/repository/"

/* False: the path is not below VERSIONS_PATH. */
bool versions_handle(struct repository *r, struct http_exchange *x);
/* "NAME:TAG" or "NAME" of a request; E_INVAL in words. */
int versions_name(struct str text, char ret_name[static 129], char ret_tag[static 129], struct error *err);

#endif
