/* SPDX-License-Identifier: Apache-2.0 */
/* How: all numbers are sums since a window began, so a message that is lost or comes twice changes nothing. An edge may
 * lower what it holds by itself, and only the pool raises it; so the pool's sum is never below what edges can spend.
 */
#include "core/quota.h"

#include <inttypes.h>

#define US_PER_MINUTE INT64_C(60000000)
#define US_PER_DAY (1440 * US_PER_MINUTE)
#define MONTH_SHARE 32 /* of an absent edge: about a day's part */

static int64_t least(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static int64_t most(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

static bool of_minute(int kind)
{
	return kind == QUOTA_REQUESTS || kind == QUOTA_TOKENS;
}

/* Of what a request takes, by kind. */
static int64_t part(int kind, int64_t tokens)
{
	return kind == QUOTA_TOKENS || kind == QUOTA_MONTH ? tokens : 1;
}

bool quota_team_account(const char *team, char ret_id[static QUOTA_ACCOUNT_SIZE])
{
	struct str name = str_from(team);

	memcpy(ret_id, QUOTA_TEAM, sizeof(QUOTA_TEAM));
	return str_copy(name, ret_id + sizeof(QUOTA_TEAM) - 1, QUOTA_TEAM_SIZE);
}

/* ---- JSON --------------------------------------------------------------------------------------------------- */

const char *quota_kind_name(enum quota_kind k)
{
	static const char *const names[QUOTA_KINDS] = {
	    [QUOTA_REQUESTS] = "requests_per_minute",
	    [QUOTA_TOKENS] = "tokens_per_minute",
	    [QUOTA_CONCURRENT] = "concurrent",
	    [QUOTA_MONTH] = "tokens_per_month",
	};

	return names[k];
}

int quota_limits_read(yyjson_val *o, struct quota_limits *l, struct error *err)
{
	int rc = 0;

	for (int k = 0; rc == 0 && k < QUOTA_KINDS; k++)
		rc = json_i64(o, quota_kind_name(k), 0, QUOTA_MOST, &l->most[k], err);
	return rc;
}

void quota_limits_write(const struct quota_limits *l, struct buf *out)
{
	const char *between = "";

	buf_append_str(out, STR("{"));
	for (int k = 0; k < QUOTA_KINDS; k++) {
		if (!l->most[k])
			continue;
		buf_printf(out, "%s\"%s\":%" PRId64, between, quota_kind_name(k), l->most[k]);
		between = ",";
	}
	buf_append_str(out, STR("}"));
}

int quota_numbers_read(yyjson_val *o, const char *key, int64_t ret[static QUOTA_KINDS], struct error *err)
{
	yyjson_val *array = NULL, *item;
	size_t i, count;
	int rc = json_arr(o, key, &array, err);

	if (rc < 0)
		return rc;
	if (!array || yyjson_arr_size(array) != QUOTA_KINDS)
		return error_set(err, E_INVAL, "\"%s\" wants %d numbers", key, QUOTA_KINDS);
	yyjson_arr_foreach(array, i, count, item)
	{
		if (!yyjson_is_int(item) || yyjson_get_sint(item) < 0 || yyjson_get_sint(item) > QUOTA_MOST)
			return error_set(err, E_INVAL, "\"%s\" wants numbers from 0 to %" PRId64, key, QUOTA_MOST);
		ret[i] = yyjson_get_sint(item);
	}
	return 0;
}

void quota_numbers_write(const int64_t numbers[static QUOTA_KINDS], struct buf *out)
{
	for (int k = 0; k < QUOTA_KINDS; k++)
		buf_printf(out, "%c%" PRId64, k ? ',' : '[', numbers[k]);
	buf_append_str(out, STR("]"));
}

bool quota_is_limited(const struct quota_limits *l)
{
	for (int k = 0; k < QUOTA_KINDS; k++)
		if (l->most[k])
			return true;
	return false;
}

/* ---- windows ------------------------------------------------------------------------------------------------ */

/* Days since 1970 of the first of a month (Hinnant, "chrono-compatible low-level date algorithms"). */
static int64_t month_days(int64_t month)
{
	int64_t m = month + 10, year = m / 12, from_march = m % 12; /* years begin in March: leap days come last */

	return (year + 1969) * 365 + (year + 1969) / 4 - (year + 1969) / 100 + (year + 1969) / 400 +
	       (153 * from_march + 2) / 5 - 719468;
}

struct quota_window quota_window_at(int64_t wall_us)
{
	int64_t wall = most(wall_us, 0), days = wall / US_PER_DAY, month = days * 12 / 366;

	while (month_days(month + 1) <= days)
		month++;
	return (struct quota_window){wall / US_PER_MINUTE, month};
}

int64_t quota_minute_end_us(struct quota_window w)
{
	return (w.minute + 1) * US_PER_MINUTE;
}

int64_t quota_month_end_us(struct quota_window w)
{
	return month_days(w.month + 1) * US_PER_DAY;
}

/* ---- an edge ------------------------------------------------------------------------------------------------ */

void quota_purse_roll(struct quota_purse *p, struct quota_window now)
{
	for (int k = 0; k < QUOTA_KINDS; k++) {
		if (of_minute(k) ? now.minute == p->window.minute
		                 : k == QUOTA_CONCURRENT || now.month == p->window.month)
			continue;
		p->held[k] = p->taken[k] = p->lately[k] = 0;
	}
	p->window = now;
}

enum quota_kind quota_short(const struct quota_purse *p, int64_t tokens)
{
	for (int k = 0; k < QUOTA_KINDS; k++)
		if (p->limits.most[k] && p->taken[k] + part(k, tokens) > p->held[k])
			return k;
	return QUOTA_KINDS;
}

struct quota_hold quota_reserve(struct quota_purse *p, int64_t tokens)
{
	for (int k = 0; k < QUOTA_KINDS; k++) {
		p->taken[k] += part(k, tokens);
		p->lately[k] = k == QUOTA_CONCURRENT ? most(p->lately[k], p->taken[k]) : p->lately[k] + part(k, tokens);
	}
	return (struct quota_hold){tokens, p->window};
}

void quota_settle(struct quota_purse *p, const struct quota_hold *hold, int64_t tokens, bool worked)
{
	int64_t more = (worked ? tokens : 0) - hold->tokens;

	p->taken[QUOTA_CONCURRENT]--;
	if (hold->window.minute == p->window.minute) {
		p->taken[QUOTA_TOKENS] += more;
		p->taken[QUOTA_REQUESTS] -= !worked;
	}
	if (hold->window.month == p->window.month)
		p->taken[QUOTA_MONTH] += more;
}

void quota_need(struct quota_purse *p, int64_t tokens)
{
	for (int k = 0; k < QUOTA_KINDS; k++)
		p->needed[k] = least(p->needed[k] + part(k, tokens), QUOTA_MOST);
}

void quota_purse_ask(struct quota_purse *p, bool rest, int64_t ret_need[static QUOTA_KINDS])
{
	for (int k = 0; k < QUOTA_KINDS; k++) {
		bool at_once = k == QUOTA_CONCURRENT;
		int64_t wanted = p->taken[k] + p->needed[k] + (at_once ? 0 : p->lately[k]);
		int64_t enough = at_once ? most(p->lately[k], p->taken[k]) + p->needed[k] : wanted + p->lately[k];

		ret_need[k] = p->limits.most[k] ? least(most(wanted - p->held[k], 0), QUOTA_MOST) : 0;
		p->needed[k] = 0;
		if (!rest)
			continue;
		p->held[k] = least(p->held[k], enough);
		p->lately[k] = at_once ? p->taken[k] : 0;
	}
}

void quota_purse_answer(struct quota_purse *p, struct quota_window window, const int64_t held[static QUOTA_KINDS])
{
	if (window.minute > p->window.minute || window.month > p->window.month)
		quota_purse_roll(p, window);
	for (int k = 0; k < QUOTA_KINDS; k++)
		if (of_minute(k) ? window.minute == p->window.minute
		                 : k == QUOTA_CONCURRENT || window.month == p->window.month)
			p->held[k] = held[k];
}

void quota_purse_recorded(struct quota_purse *p, int64_t month, int64_t tokens)
{
	if (month != p->window.month)
		return;
	p->held[QUOTA_MONTH] = most(p->held[QUOTA_MONTH] - tokens, 0);
	p->taken[QUOTA_MONTH] = most(p->taken[QUOTA_MONTH] - tokens, 0);
}

void quota_share(struct quota_purse *p, size_t edges, bool with_month)
{
	int64_t among = most((int64_t)edges, 1);

	for (int k = 0; k < QUOTA_MONTH; k++)
		p->held[k] = most(p->held[k], most(p->limits.most[k] / among, 1));
	if (with_month)
		p->held[QUOTA_MONTH] += p->limits.most[QUOTA_MONTH] / MONTH_SHARE / among;
}

/* ---- a center ------------------------------------------------------------------------------------------------- */

void quota_pool_roll(struct quota_pool *p, struct quota_window now, int64_t recorded_of_month)
{
	for (int k = 0; k < QUOTA_KINDS; k++) {
		if (of_minute(k) ? now.minute == p->window.minute
		                 : k == QUOTA_CONCURRENT || now.month == p->window.month)
			continue;
		p->given[k] = p->lost[k] = 0;
	}
	if (now.month != p->window.month)
		p->recorded = recorded_of_month;
	p->window = now;
}

void quota_holder_roll(struct quota_holder *h, struct quota_window from, struct quota_window to)
{
	if (from.minute != to.minute)
		h->held[QUOTA_REQUESTS] = h->held[QUOTA_TOKENS] = 0;
	if (from.month != to.month)
		h->held[QUOTA_MONTH] = 0;
}

int64_t quota_left(const struct quota_pool *p, enum quota_kind k)
{
	return p->limits.most[k] - p->given[k] - p->lost[k] - (k == QUOTA_MONTH ? p->recorded : 0);
}

void quota_give(struct quota_pool *p, struct quota_holder *h, struct quota_window window,
                const int64_t held[static QUOTA_KINDS], const int64_t need[static QUOTA_KINDS])
{
	for (int k = 0; k < QUOTA_KINDS; k++) {
		int64_t apart = of_minute(k)            ? window.minute - p->window.minute
		                : k == QUOTA_CONCURRENT ? 0
		                                        : window.month - p->window.month;

		if (apart > 0) /* it will be here soon, and holds nothing there */
			continue;
		p->given[k] -= h->held[k];
		h->held[k] = apart == 0 && p->limits.most[k] ? held[k] : 0;
		int64_t free =
		    p->limits.most[k] - p->given[k] - p->lost[k] - h->held[k] - (k == QUOTA_MONTH ? p->recorded : 0);
		h->held[k] += most(least(need[k], free), 0);
		p->given[k] += h->held[k];
	}
}

void quota_holder_silent(struct quota_pool *p, struct quota_holder *h)
{
	p->given[QUOTA_CONCURRENT] -= h->held[QUOTA_CONCURRENT];
	h->held[QUOTA_CONCURRENT] = 0;
}

void quota_holder_gone(struct quota_pool *p, struct quota_holder *h, bool month_known)
{
	for (int k = 0; k < QUOTA_KINDS; k++) {
		p->given[k] -= h->held[k];
		if (of_minute(k) || (k == QUOTA_MONTH && !month_known))
			p->lost[k] += h->held[k];
		h->held[k] = 0;
	}
}
