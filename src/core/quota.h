/* SPDX-License-Identifier: Apache-2.0 */
/* quota.h - how much an account (an API key, or a team) may still use: requests and tokens a minute, requests at once,
 * tokens a month; exact though many edges spend at the same time.
 *
 * A center keeps one pool for each account. An edge keeps a purse and spends only what the pool gave it: `held` is how
 * much it may use in all in the current window, and what all edges hold never exceeds the limit. A request reserves its
 * prompt and the most it may answer, and settles what it really took. What is left of a purse goes back when it is not
 * needed. So at any time, in every window,
 *
 *   used + reserved at all edges <= limit + what running requests took beyond their reservations
 *                                         + shares that edges gave themselves while they could not ask (quota_share)
 *
 * and after a window nothing but what was really used has been counted. Minutes are of the clock (wall / 60 s), months
 * of the calendar in UTC; both as the center's clock says. What was reserved in one window is never charged to the
 * next.
 *
 *   held[], taken[]     minute kinds: since the window began. QUOTA_CONCURRENT: now. QUOTA_MONTH: not yet in the
 *                       pool's `recorded`, where it gets by usage records; purse_recorded takes it out of the purse.
 *
 * Pure; one thread. Units: requests, tokens.
 */
#ifndef MDN_CORE_QUOTA_H
#define MDN_CORE_QUOTA_H

#include "base/json.h"

enum quota_kind { QUOTA_REQUESTS, QUOTA_TOKENS, QUOTA_CONCURRENT, QUOTA_MONTH, QUOTA_KINDS };
#define QUOTA_MOST (INT64_C(1) << 50) /* of any number here, so that sums cannot overflow */

/* Of an account: a key's id, or "team:NAME". One call of an edge carries so many accounts and usage records. */
#define QUOTA_TEAM "team:"
#define QUOTA_TEAM_SIZE 49
#define QUOTA_ACCOUNT_SIZE 64
#define QUOTA_ACCOUNTS_MAX 256
#define QUOTA_RECORDS_MAX 256
bool quota_team_account(const char *team, char ret_id[static QUOTA_ACCOUNT_SIZE]); /* false: too long */

struct quota_limits {
	int64_t most[QUOTA_KINDS]; /* 0: no limit */
};
struct quota_window {
	int64_t minute, month; /* since 1970; month: year * 12 + month from 0 */
};
const char *quota_kind_name(enum quota_kind k); /* "requests_per_minute" and so on */
/* {"requests_per_minute":N,...}: what is named is set, 0 takes it away; written is what there is. */
int quota_limits_read(yyjson_val *o, struct quota_limits *l, struct error *err);
void quota_limits_write(const struct quota_limits *l, struct buf *out);
/* [N,N,N,N], by kind. */
int quota_numbers_read(yyjson_val *o, const char *key, int64_t ret[static QUOTA_KINDS], struct error *err);
void quota_numbers_write(const int64_t numbers[static QUOTA_KINDS], struct buf *out);
bool quota_is_limited(const struct quota_limits *l);
struct quota_window quota_window_at(int64_t wall_us);
int64_t quota_minute_end_us(struct quota_window w); /* wall clock */
int64_t quota_month_end_us(struct quota_window w);

/* ---- an edge ------------------------------------------------------------------------------------------------ */

struct quota_purse { /* zeroed, then limits set */
	struct quota_limits limits;
	struct quota_window window;
	int64_t held[QUOTA_KINDS], taken[QUOTA_KINDS];
	int64_t lately[QUOTA_KINDS]; /* reserved since the last rest; QUOTA_CONCURRENT: most taken */
	int64_t needed[QUOTA_KINDS]; /* by requests that wait, since the last quota_purse_ask */
};
struct quota_hold { /* one request's reservation */
	int64_t tokens;
	struct quota_window window;
};

void quota_purse_roll(struct quota_purse *p, struct quota_window now); /* a new window begins with nothing held */
/* Which kind is short of one request of so many tokens; QUOTA_KINDS: none. */
enum quota_kind quota_short(const struct quota_purse *p, int64_t tokens);
struct quota_hold quota_reserve(struct quota_purse *p, int64_t tokens);
/* Its end. worked false: nothing was done for it, so it is no request either. */
void quota_settle(struct quota_purse *p, const struct quota_hold *hold, int64_t tokens, bool worked);
void quota_need(struct quota_purse *p, int64_t tokens); /* one more request waits */
/* What to ask for: what those that wait need, and as much as was spent lately. Nobody waits unasked then. rest: once a
 * period; twice what was spent in it is enough to hold, so the rest of it goes back. */
void quota_purse_ask(struct quota_purse *p, bool rest, int64_t ret_need[static QUOTA_KINDS]);
/* The answer: what is held from now on, in that window. Between the two nothing goes back. */
void quota_purse_answer(struct quota_purse *p, struct quota_window window, const int64_t held[static QUOTA_KINDS]);
/* Tokens of that month are in the pool's books now. */
void quota_purse_recorded(struct quota_purse *p, int64_t month, int64_t tokens);
/* The center cannot be asked: this edge's part of each limit; of a month, a 32nd of that, once per absence. */
void quota_share(struct quota_purse *p, size_t edges, bool with_month);

/* ---- a center ------------------------------------------------------------------------------------------------- */

struct quota_holder { /* an edge, as one pool knows it; zeroed at first */
	int64_t held[QUOTA_KINDS];
};
struct quota_pool {
	struct quota_limits limits;
	struct quota_window window;
	int64_t given[QUOTA_KINDS]; /* sum over the holders */
	int64_t lost[QUOTA_KINDS];  /* held in this window by edges that are no more */
	int64_t recorded;           /* tokens of this month, by usage records */
};
void quota_pool_roll(struct quota_pool *p, struct quota_window now, int64_t recorded_of_month);
/* The same for each of its holders, before. */
void quota_holder_roll(struct quota_holder *h, struct quota_window from, struct quota_window to);
/* An edge says what it holds itself to in a window, and what it needs; h->held is the answer. Its word counts: after a
 * restart only the edges know. Who is in a window that the pool is not in gets nothing of it. */
void quota_give(struct quota_pool *p, struct quota_holder *h, struct quota_window window,
                const int64_t held[static QUOTA_KINDS], const int64_t need[static QUOTA_KINDS]);
int64_t quota_left(const struct quota_pool *p, enum quota_kind k); /* in nobody's hands */
/* It has not been heard of: the places it held for requests at once are free. The rest may have been used. */
void quota_holder_silent(struct quota_pool *p, struct quota_holder *h);
/* The edge's process is no more: what it held of the minute may have been spent, what ran there runs no longer.
 * month_known: all that it used this month is recorded. */
void quota_holder_gone(struct quota_pool *p, struct quota_holder *h, bool month_known);

#endif
