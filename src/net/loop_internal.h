/* SPDX-License-Identifier: Apache-2.0 */
/* loop_internal.h - for net/ only: work put off to the loop's next turn, and the shared read buffer.
 *
 * A task lives inside its owner's memory; adding one twice is adding it once; cancel before the
 * memory goes. Tasks run before the loop polls again, so putting off costs no system call.
 */
#ifndef MDN_NET_LOOP_INTERNAL_H
#define MDN_NET_LOOP_INTERNAL_H

#include "net/loop.h"

#include <stddef.h>

#define LOOP_READ_BUFFER 65536

struct loop_task {
	struct loop_task *prev, *next; /* NULL: not queued */
	loop_fn *fn;
	void *arg;
};

void loop_task_init(struct loop_task *task, loop_fn *fn, void *arg);
void loop_task_add(struct loop *loop, struct loop_task *task);
void loop_task_cancel(struct loop_task *task);
/* LOOP_READ_BUFFER bytes that any read on this loop uses; what is there lasts until the callback returns. */
char *loop_read_buffer(struct loop *loop);
char *loop_cipher_buffer(struct loop *loop); /* as long; for what is decrypted into the other */

#endif
