/* SPDX-License-Identifier: Apache-2.0 */
/* hf.h - the Hugging Face door: HF_ENDPOINT=http://repository serves unmodified clients. Reads only.
 *
 *   /api/models[/ID[/revision/REV | /tree/REV[/FOLDER] | /paths-info/REV | /refs | /commits/REV]]
 *   /ID/resolve/REV/FILE, /ID/raw/REV/FILE     /api/whoami-v2
 *
 * ID is one name or two; snapshot.h says which of ours it means. Loop thread.
 */
#ifndef MDN_SERVE_HF_H
#define MDN_SERVE_HF_H

#include "serve/repository/repository_private.h"

bool hf_handle(struct repository *r, struct http_exchange *x); /* false: not a path of this door */

#endif
