/* SPDX-License-Identifier: Apache-2.0 */
/* turns.c - two lists; an exchange that ends makes room for the next one. */
#include "serve/peer/turns.h"

#include "base/clock.h"
#include "store/blob_answer.h"

#define AT_ONCE 8u
#define AT_ONCE_BESIDE 3u /* while some go to other sites */
#define AT_ONCE_FAR 4u
#define TURN_US US_PER_S
#define TURN_FAR_US (4 * US_PER_S)
#define LOOK_US (US_PER_S / 8)
#define SMALL_BYTES (UINT64_C(64) << 10) /* goes at once */

struct turn { /* in the exchange's memory */
	struct turns *turns;
	struct turn *next;
	struct http_exchange *x;
	struct blob_file *file; /* NULL: it is being sent */
	bool part, near;
	uint64_t from, length;
	int64_t since_us;
};

static void turn_push(struct turn **list, struct turn *turn)
{
	while (*list)
		list = &(*list)->next;
	turn->next = NULL;
	*list = turn;
}

static bool turn_unlink(struct turn **list, const struct turn *turn)
{
	while (*list && *list != turn)
		list = &(*list)->next;
	if (!*list)
		return false;
	*list = turn->next;
	return true;
}

static bool may_send(const struct turns *t, const struct turn *next, int64_t now_us)
{
	int64_t patience = next->near ? TURN_US : TURN_FAR_US;
	uint32_t busy = 0, far = 0;
	for (const struct turn *turn = t->sending; turn; turn = turn->next) {
		busy += turn->near == next->near && now_us - turn->since_us < patience;
		far += !turn->near;
	}
	uint32_t most = !next->near ? AT_ONCE_FAR : far ? AT_ONCE_BESIDE : AT_ONCE;
	return busy < most || now_us - next->since_us >= patience;
}

static struct turn *next_due(const struct turns *t, int64_t now_us)
{
	struct turn *next = t->waiting;
	while (next && !may_send(t, next, now_us))
		next = next->next;
	return next;
}

static void turn_begin(struct turns *t, struct turn *turn, int64_t now_us)
{
	struct blob_file *file = turn->file;
	turn_unlink(&t->waiting, turn);
	turn->file = NULL;
	turn->since_us = now_us;
	turn_push(&t->sending, turn);
	blob_answer(turn->x, file, turn->part, turn->from, turn->length);
}

static void turns_go(void *arg)
{
	struct turns *t = arg;
	int64_t now_us = loop_now_us(t->loop);
	for (struct turn *next; (next = next_due(t, now_us));)
		turn_begin(t, next, now_us);
	if (t->waiting)
		loop_timer_start(t->timer, LOOK_US, 0);
}

static void on_gone(void *arg)
{
	struct turn *turn = arg;
	struct turns *t = turn->turns;
	if (!t)
		return;
	if (turn_unlink(&t->waiting, turn))
		blob_file_close(turn->file);
	else
		turn_unlink(&t->sending, turn);
	turns_go(t);
}

void turns_init(struct turns *t, struct loop *loop)
{
	*t = (struct turns){.loop = loop, .timer = loop_timer_new(loop, turns_go, t)};
}

void turns_fini(struct turns *t)
{
	for (struct turn *turn = t->sending; turn; turn = turn->next)
		turn->turns = NULL;
	while (t->waiting) {
		struct turn *turn = t->waiting;
		t->waiting = turn->next;
		turn->turns = NULL;
		blob_file_close(turn->file);
		http_abort(turn->x);
	}
	loop_timer_free(t->timer);
}

void turns_answer(struct turns *t, struct http_exchange *x, struct blob_file *file, bool part, uint64_t from,
                  uint64_t length, bool near)
{
	if (length <= SMALL_BYTES) {
		blob_answer(x, file, part, from, length);
		return;
	}
	struct turn *turn = http_alloc(x, sizeof *turn);
	*turn = (struct turn){t, NULL, x, file, part, near, from, length, loop_now_us(t->loop)};
	turn_push(&t->waiting, turn);
	http_watch(x, NULL, on_gone, turn);
	turns_go(t);
}
