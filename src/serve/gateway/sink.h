/* SPDX-License-Identifier: Apache-2.0 */
/* sink.h - a file that grows: bytes gather while the ones before are written, in jobs, and each write is made durable.
 *
 * Loop thread. A write that failed (the disk is full) keeps its bytes; sink_retry tries again at the same place, so no
 * torn line stays in the middle. After a crash the file ends anywhere: its readers cut the last line.
 */
#ifndef MDN_GATEWAY_SINK_H
#define MDN_GATEWAY_SINK_H

#include "base/error.h"
#include "base/str.h"
#include "net/loop.h"

struct sink;
/* Takes over fd. size: where to go on. on_written after each write, also a failed one; it may free the sink. */
struct sink *sink_new(struct loop *loop, int fd, uint64_t size, loop_fn *on_written, void *arg);
void sink_free(struct sink *s);                       /* NULL is fine; what is not yet written is lost */
void sink_add(struct sink *s, struct str data);       /* copied */
uint64_t sink_size(const struct sink *s);             /* written */
size_t sink_waiting(const struct sink *s);            /* bytes not yet written */
const struct error *sink_error(const struct sink *s); /* of the last write; NULL: it went well */
void sink_retry(struct sink *s);

#endif
