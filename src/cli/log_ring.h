/* SPDX-License-Identifier: Apache-2.0 */
/* log_ring.h - the last lines a node logged, for `mdn logs`: GET /mdn/v1/logs?lines=N&follow=true on the node port.
 *
 * Lines come from any thread (a mutex guards the ring; nothing else is held with it); answers are on the loop's thread.
 * Bounded: LOG_RING_LINES lines; a follower that is too slow misses lines and is told how many.
 */
#ifndef MDN_CLI_LOG_RING_H
#define MDN_CLI_LOG_RING_H

#include "net/http.h"

#define LOG_RING_LINES 2000

struct log_ring;
struct log_ring *log_ring_new(struct loop *loop); /* takes over the log's tap */
void log_ring_free(struct log_ring *r);
void log_ring_answer(struct log_ring *r, struct http_exchange *x);

#endif
