/* SPDX-License-Identifier: Apache-2.0 */
/* answer.h - from token pieces to text that may be shown: whole UTF-8 characters, without stop strings.
 *
 * Pieces may end inside a character or inside a stop string; both are held back until they are decided.
 * Bytes that are not UTF-8 become U+FFFD. Pure; caller's memory; one thread at a time.
 */
#ifndef MDN_ENGINE_ANSWER_H
#define MDN_ENGINE_ANSWER_H

#include "base/str.h"

struct answer {
	const struct str *stops; /* borrowed */
	size_t stop_count;
	struct buf held;  /* not decided yet */
	struct buf ready; /* may be shown */
	size_t decided;   /* bytes of pieces that went to `ready`, since the start */
	bool stopped;
	size_t hit; /* which stop string it was, from 1; 0: none yet */
};

void answer_init(struct answer *a, const struct str *stops, size_t stop_count);
void answer_fini(struct answer *a);
/* True once a stop string was met; what came before it is ready, the rest is dropped. */
bool answer_add(struct answer *a, struct str piece);
void answer_end(struct answer *a); /* no more pieces: what was held back is ready */
static inline struct str answer_ready(const struct answer *a)
{
	return buf_str(&a->ready);
}
void answer_taken(struct answer *a); /* `ready` was shown */

#endif
