/* SPDX-License-Identifier: Apache-2.0 */
/* How: a frame is a line of fixed fields and the tokens, then the piece as the client shall have it:
 *
 *   LENGTH(8 hex) SEQUENCE(8 hex) KIND SHOWN TOKEN TOKEN ...\n
 *
 * Notes only grow. Where something is missing (tokens not told, too many) the stream is `lost`: it is passed on as
 * before, and ends in an error when its node dies. */
#include "serve/gateway/resume.h"

#include "base/limits.h"
#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

enum { FIXED_FIELDS = 8 + 1 + 8 + 1 + 1 + 1 }; /* up to SHOWN */

/* ---- frames ---------------------------------------------------------------------------------------- */

static void put_frame(struct buf *out, enum frame_kind kind, const struct frame *f, struct str piece)
{
	buf_printf(out, "%08zx %08x %c %llu", piece.len, f->sequence, kind, (unsigned long long)f->shown);
	for (size_t i = 0; kind != FRAME_LOST && i < f->token_count; i++)
		buf_printf(out, " %d", f->tokens[i]);
	buf_append(out, "\n", 1);
	buf_append_str(out, piece);
}

void frame_put(struct buf *out, const struct frame *f)
{
	enum frame_kind kind = f->token_count > FRAME_TOKENS_MAX ? FRAME_LOST : f->kind;
	struct str rest = f->piece;

	for (; rest.len > FRAME_PIECE_MAX; rest = (struct str){rest.base + FRAME_PIECE_MAX, rest.len - FRAME_PIECE_MAX})
		put_frame(out, FRAME_LOST, f, (struct str){rest.base, FRAME_PIECE_MAX});
	put_frame(out, kind, f, rest);
}

static bool take_hex(struct str at, uint32_t *ret_value)
{
	uint32_t value = 0;

	for (size_t i = 0; i < 8; i++) {
		char c = at.base[i];
		if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
			return false;
		value = value << 4 | (uint32_t)(c <= '9' ? c - '0' : c - 'a' + 10);
	}
	*ret_value = value;
	return true;
}

static bool take_head(struct str line, struct frame *f, uint32_t *ret_length)
{
	if (line.len <= FIXED_FIELDS || line.base[8] != ' ' || line.base[17] != ' ' || line.base[19] != ' ')
		return false;
	if (!take_hex(line, ret_length) || *ret_length > FRAME_PIECE_MAX ||
	    !take_hex((struct str){line.base + 9, 8}, &f->sequence))
		return false;
	f->kind = (enum frame_kind)line.base[18];
	if (f->kind != FRAME_TEXT && f->kind != FRAME_LOST && f->kind != FRAME_LAST && f->kind != FRAME_BROKEN)
		return false;
	struct str shown =
	    str_cut((struct str){line.base + FIXED_FIELDS, line.len - FIXED_FIELDS}, ' ', &f->token_text);
	return str_to_u64(shown, &f->shown) == 0;
}

int frame_take(struct str data, struct frame *ret_frame, size_t *ret_used, struct error *err)
{
	size_t look = data.len < FRAME_HEAD_MAX ? data.len : FRAME_HEAD_MAX;
	const char *end = look ? memchr(data.base, '\n', look) : NULL;
	struct frame f = {0};
	uint32_t length;

	if (!end && data.len < FRAME_HEAD_MAX)
		return 0;
	if (!end || !take_head((struct str){data.base, (size_t)(end - data.base)}, &f, &length))
		return error_set(err, E_PEER, "it sent something that is not a frame");
	size_t head = (size_t)(end - data.base) + 1;
	if (data.len - head < length)
		return 0;
	f.piece = (struct str){data.base + head, length};
	*ret_frame = f;
	*ret_used = head + length;
	return 1;
}

/* ---- notes ------------------------------------------------------------------------------------------- */

struct resume *resume_new(struct str digest)
{
	struct resume *resume = NEW(struct resume);

	resume->lost = !str_copy(digest, resume->digest, sizeof(resume->digest)) || digest.len == 0;
	return resume;
}

void resume_free(struct resume *resume)
{
	if (!resume)
		return;
	free(resume->tokens);
	free(resume);
}

static void resume_lose(struct resume *resume)
{
	resume->lost = true;
	free(resume->tokens);
	resume->tokens = NULL;
	resume->count = resume->room = 0;
}

/* Room for more; false: there is no going on, and nothing to note. */
static bool resume_room(struct resume *resume, size_t more)
{
	if (resume->lost)
		return false;
	if (more > LIMIT_PROMPT_TOKENS - resume->count) {
		resume_lose(resume);
		return false;
	}
	if (resume->count + more > resume->room) {
		resume->room = 2 * (resume->count + more) + 64;
		resume->tokens = mem_resize(resume->tokens, resume->room, sizeof(*resume->tokens));
	}
	return true;
}

void resume_note(struct resume *resume, const int32_t *tokens, size_t count, uint64_t shown, uint32_t sequence)
{
	if (!resume_room(resume, count))
		return;
	if (count)
		memcpy(resume->tokens + resume->count, tokens, count * sizeof(*tokens));
	resume->count += count;
	resume->shown = shown;
	resume->sequence = sequence;
}

int resume_note_frame(struct resume *resume, const struct frame *f, struct error *err)
{
	int32_t tokens[FRAME_TOKENS_MAX];
	struct str rest = f->token_text;
	size_t count = 0;

	if (f->kind == FRAME_LOST)
		resume_lose(resume);
	while (rest.len) {
		int64_t token;
		if (count == FRAME_TOKENS_MAX || str_to_i64(str_cut(rest, ' ', &rest), &token) < 0 || token < 0 ||
		    token > INT32_MAX)
			return error_set(err, E_PEER, "it sent a frame with tokens that are none");
		tokens[count++] = (int32_t)token;
	}
	resume_note(resume, tokens, count, f->shown, f->sequence);
	return 0;
}

bool resume_again(struct resume *resume)
{
	return !resume->lost && resume->count > 0 && ++resume->times <= RESUMES_MAX;
}

/* ---- on its way elsewhere -------------------------------------------------------------------------------- */

void resume_append_body(const struct resume *resume, struct str body, struct buf *out)
{
	const char *open = memchr(body.base, '{', body.len);
	size_t from = (size_t)(open - body.base) + 1;

	buf_printf(out, "{\"mdn_resume\":{\"digest\":\"%s\",\"sequence\":%u,\"shown\":%llu,\"tokens\":[",
	           resume->digest, resume->sequence, (unsigned long long)resume->shown);
	for (size_t i = 0; i < resume->count; i++)
		buf_printf(out, i ? ",%d" : "%d", resume->tokens[i]);
	buf_append_str(out, STR("]},"));
	buf_append(out, body.base + from, body.len - from);
}

int resume_read_body(yyjson_val *root, struct resume **ret_resume, struct error *err)
{
	yyjson_val *given = yyjson_obj_get(root, "mdn_resume"), *tokens = yyjson_obj_get(given, "tokens"), *token;
	const char *digest = yyjson_get_str(yyjson_obj_get(given, "digest"));
	size_t i, n;

	if (!digest || !yyjson_is_arr(tokens) || yyjson_arr_size(tokens) == 0 ||
	    yyjson_arr_size(tokens) > LIMIT_PROMPT_TOKENS)
		return error_set(err, E_INVAL, "mdn_resume must have a digest and at least one token");
	struct resume *resume = resume_new(str_from(digest));
	resume->sequence = (uint32_t)yyjson_get_uint(yyjson_obj_get(given, "sequence"));
	resume->shown = yyjson_get_uint(yyjson_obj_get(given, "shown"));
	if (!resume->lost)
		resume_room(resume, yyjson_arr_size(tokens));
	yyjson_arr_foreach(tokens, i, n, token)
	{
		if (resume->lost || !yyjson_is_uint(token) || yyjson_get_uint(token) > INT32_MAX) {
			resume_free(resume);
			return error_set(err, E_INVAL, "mdn_resume has a token or a digest that is none");
		}
		resume->tokens[resume->count++] = (int32_t)yyjson_get_uint(token);
	}
	*ret_resume = resume;
	return 0;
}
