/* SPDX-License-Identifier: Apache-2.0 */
/* turns.h - chunks go out a few at a time, in the order in which they were asked for.
 *
 * TCP shares a way up unevenly among many connections, for minutes; whoever gets less falls behind, and with it all
 * that it feeds. Here each has had its chunk before another one has two. A chunk is also there sooner, and can be
 * passed on, when it does not travel beside fifteen others. What goes to other sites has turns of its own, and fewer go
 * out beside it: a connection over a long line gets little of a way up that it shares with many over short ones. Nobody
 * waits longer than TURN_US for somebody who takes what is sent slowly or not at all. Loop thread.
 */
#ifndef MDN_SERVE_PEER_TURNS_H
#define MDN_SERVE_PEER_TURNS_H

#include "net/http.h"
#include "store/blob.h"

struct turn;
struct turns {
	struct loop *loop;
	struct loop_timer *timer;
	struct turn *waiting, *sending; /* oldest first */
};
void turns_init(struct turns *t, struct loop *loop);
void turns_fini(struct turns *t); /* what waits is not sent any more */
/* As blob_answer, in its turn. Takes the file. */
void turns_answer(struct turns *t, struct http_exchange *x, struct blob_file *file, bool part, uint64_t from,
                  uint64_t length, bool near);

#endif
