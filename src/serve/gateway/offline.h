/* SPDX-License-Identifier: Apache-2.0 */
/* offline.h - requests that nobody waits for: files of them, and batches that answer them when there is time.
 *
 *   files.c, files_upload.c, multipart.c  /v1/files             sink.c         files that grow
 *   batches.c                             /v1/batches           batch_line.c   a line in, a line out
 *   batch_scan.c                          a file is checked, and what is done already found
 *   batch_run.c                           lines are asked, answers written
 *
 * All of it lives in one folder of the node. A batch is worked on by the node that took it; its requests go the way of
 * all others (they may be answered by other nodes), in class bulk.
 */
#ifndef MDN_GATEWAY_OFFLINE_H
#define MDN_GATEWAY_OFFLINE_H

#include "serve/gateway/batches.h"
#include "serve/gateway/files.h"

struct offline {
	struct files files;
	struct batches batches;
};

int offline_open(struct gateway *g, struct str folder, uint64_t bytes_max, struct error *err);
void offline_close(struct gateway *g);
void offline_tick(struct gateway *g);
struct files *offline_files(const struct gateway *g);

#endif
