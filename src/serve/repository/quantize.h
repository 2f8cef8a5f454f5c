/* SPDX-License-Identifier: Apache-2.0 */
/* quantize.h - quantizing as a job: a version in, a smaller version of it out, linked to its parent.
 *
 * The work is done by a child process (`mdn quantize-file`), one at a time; others wait in line. A job goes on when
 * the client that asked has gone, ends with the repository, and leaves nothing half done: its files lie in a folder of
 * its own below `work`, which is emptied when the repository starts. Loop thread; disk in jobs.
 */
#ifndef MDN_SERVE_REPOSITORY_QUANTIZE_H
#define MDN_SERVE_REPOSITORY_QUANTIZE_H

#include "serve/repository/repository_private.h"

struct quantizer;
void quantize_init(struct repository *r, const struct repository_options *options);
void quantize_fini(struct repository *r);
/* Below VERSIONS_PATH: "quantize", "jobs", "jobs/ID", "jobs/ID/events". False: something else. */
bool quantize_handle(struct repository *r, struct http_exchange *x, struct str path);

#endif
