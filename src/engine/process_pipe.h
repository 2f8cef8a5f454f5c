/* SPDX-License-Identifier: Apache-2.0 */
/* process_pipe.h - frames over one end of a socket pair, on a loop; the same for a node and its engine's process.
 *
 * What is written goes out at the end of the loop's turn, so the tokens of one step of the batch cost one system call.
 * Nothing waits: what the socket does not take stays in `out`, whose length the owner watches. Loop thread.
 */
#ifndef MDN_ENGINE_PROCESS_PIPE_H
#define MDN_ENGINE_PROCESS_PIPE_H

#include "engine/process_wire.h"

struct pipe_end;
struct pipe_options {
	/* False: the frame makes no sense, and the pipe ends. The body is 8-aligned and lives for the callback. */
	bool (*on_frame)(void *arg, const struct wire_head *head, struct str body);
	void (*on_end)(void *arg, bool nonsense); /* once: closed by the other side, or `nonsense` came */
	void (*on_flushed)(void *arg);            /* all is written; NULL is fine */
	void *arg;
};

struct pipe_end *pipe_end_new(struct loop *loop, int fd, const struct pipe_options *options); /* owns fd */
void pipe_end_free(struct pipe_end *pipe);       /* no callback comes any more; from a callback, too */
struct buf *pipe_end_out(struct pipe_end *pipe); /* append frames, then pipe_end_wrote */
void pipe_end_wrote(struct pipe_end *pipe);
/* The other side reads to the end of what was written and then sees the end; frames still come from it. */
void pipe_end_shut(struct pipe_end *pipe);

#endif
