/* SPDX-License-Identifier: Apache-2.0 */
/* buffers.c - memory of the chunks that are on their way, over all files.
 *
 * A chunk is verified before it is written, so it lies in memory whole. What is lent counts from the request on, since
 * a source may answer at once; past BUFFERS_MAX a file still has one chunk on its way, so that all go on. Buffers are
 * used again: fresh pages for every chunk cost a tenth of the time it takes to receive it. The last one back takes the
 * spare ones along.
 */
#include "serve/peer/room.h"

#include <assert.h>

#define BUFFERS_MAX (UINT64_C(48) << 20)
#define WORTH_KEEPING (UINT64_C(256) << 10)

bool buffers_room(const struct buffers *b, uint64_t length)
{
	return b->lent + length <= BUFFERS_MAX;
}

static void drop_spare(struct buffers *b, uint32_t i)
{
	b->spare_bytes -= b->spare[i].cap;
	buf_fini(&b->spare[i]);
	b->spare[i] = b->spare[--b->spare_count];
}

void buffers_take(struct buffers *b, uint64_t length, struct buf *ret_buf)
{
	struct buf got = {0};
	for (uint32_t i = 0; i < b->spare_count && !got.base; i++) {
		if (b->spare[i].cap <= length || b->spare[i].cap > 2 * length + WORTH_KEEPING)
			continue;
		got = b->spare[i];
		b->spare_bytes -= got.cap;
		b->spare[i] = b->spare[--b->spare_count];
	}
	while (!got.base && b->spare_count && b->lent + b->spare_bytes + length > BUFFERS_MAX)
		drop_spare(b, 0);
	buf_reserve(&got, (size_t)length);
	got.max = (size_t)length;
	b->lent += got.cap;
	*ret_buf = got;
}

void buffers_give(struct buffers *b, struct buf *buf)
{
	assert(buf->cap <= b->lent);
	b->lent -= buf->cap;
	if (buf->cap > WORTH_KEEPING && b->spare_count < BUFFERS_SPARE &&
	    b->lent + b->spare_bytes + buf->cap <= BUFFERS_MAX) {
		b->spare[b->spare_count++] = (struct buf){.base = buf->base, .cap = buf->cap};
		b->spare_bytes += buf->cap;
	} else {
		buf_fini(buf);
	}
	*buf = (struct buf){0};
	while (!b->lent && b->spare_count)
		drop_spare(b, 0);
}
