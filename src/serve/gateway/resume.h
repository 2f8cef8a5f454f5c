/* SPDX-License-Identifier: Apache-2.0 */
/* resume.h - what a stream has said so far, so that another engine can go on with it; and the frames that tell it.
 *
 * A node that answers for another one sends its stream in frames (docs/wire.md, "Frames"): the piece for the client and
 * the tokens it was made of come together or not at all. Who holds the client's stream notes them here. When the
 * engine or its node is gone, the request is sent elsewhere with what was noted, and goes on behind it.
 * Pure: no I/O, no clock. Everything a peer says is bounded by the constants below; E_PEER: it said nonsense.
 */
#ifndef MDN_GATEWAY_RESUME_H
#define MDN_GATEWAY_RESUME_H

#include "base/error.h"
#include "base/json.h"
#include "base/str.h"

#include <stdbool.h>
#include <stdint.h>

enum {
	RESUMES_MAX = 2, /* a stream's, after its first words */
	FRAME_PIECE_MAX = 1 << 20,
	FRAME_TOKENS_MAX = 4096, /* of one frame; more are not told, and the stream cannot be gone on with */
	FRAME_HEAD_MAX = 32 + 12 * FRAME_TOKENS_MAX,
};

enum frame_kind {
	FRAME_TEXT = 't',
	FRAME_LOST = 'x', /* its tokens are not known: from here on there is no going on */
	FRAME_LAST = 'd', /* the answer is complete */
	FRAME_BROKEN =
	    'b', /* it ends here with an error; the piece is the words for it, for whom there is no going on */
};

struct frame {
	enum frame_kind kind;
	uint32_t sequence;     /* events so far, as the dialect counts */
	uint64_t shown;        /* bytes of text and reasoning so far */
	const int32_t *tokens; /* put: those of the piece */
	size_t token_count;
	struct str token_text; /* taken: the same, for resume_note_frame */
	struct str piece;
};

/* Appends; a piece past FRAME_PIECE_MAX in several, which nobody can go on behind before the last. */
void frame_put(struct buf *out, const struct frame *f);
/* 1: one was taken, it points into `data`; 0: it is not whole yet; E_PEER. */
int frame_take(struct str data, struct frame *ret_frame, size_t *ret_used, struct error *err);

struct resume {
	int32_t *tokens;
	size_t count, room;
	uint32_t sequence;
	uint64_t shown;
	char digest[72]; /* of the version whose tokens these are */
	int times;       /* it was gone on with */
	bool lost;       /* it cannot be, any more */
};

struct resume *resume_new(struct str digest);
void resume_free(struct resume *resume); /* NULL is fine */
void resume_note(struct resume *resume, const int32_t *tokens, size_t count, uint64_t shown, uint32_t sequence);
int resume_note_frame(struct resume *resume, const struct frame *f, struct error *err);
/* It was cut off: may it be gone on with once more? Counts. */
bool resume_again(struct resume *resume);
/* The request's body (a JSON object) with what was noted as its first member, and back. */
void resume_append_body(const struct resume *resume, struct str body, struct buf *out);
int resume_read_body(yyjson_val *root, struct resume **ret_resume, struct error *err);

#endif
