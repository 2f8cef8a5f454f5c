/* SPDX-License-Identifier: Apache-2.0 */
/* How: a purse for each account with limits, filled by POST /mdn/v1/quota at the center: at once when requests wait for
 * it, and every second while there is something to tell. One call is in flight at a time. Records gather for FLUSH_US,
 * go to the outbox in one transaction, and from there with the next calls; what a crash can lose is that moment. Those
 * of the process before this one go first, for the center takes a new process to hold nothing of a month.
 */
#include "serve/gateway/quotas.h"

#include "base/clock.h"
#include "serve/gateway/internal.h"
#include "store/usage.h"

#include <inttypes.h>
#include <stdlib.h>

#define TICK_US (1 * US_PER_S)
#define FLUSH_US (50 * US_PER_MS)
#define CALL_US (1 * US_PER_S)   /* a waiting request's share of a slow center */
#define DRY_US (250 * US_PER_MS) /* after a no, so that what is refused does not become calls */
#define DRIFT_US (5 * US_PER_S)
#define ANSWER_TOKENS 1024 /* of a request that names no most */
#define RATIO_FIRST 2
#define RATIO_MOST 8
#define FRESH_MAX 65536 /* records held while the disk takes none */

struct purse {
	char account[QUOTA_ACCOUNT_SIZE];
	struct quota_purse p;
	int64_t left[QUOTA_KINDS]; /* at the center, as last told */
	int64_t sent_month;        /* of the records in the call */
	int64_t dry_us[QUOTA_KINDS];
	uint32_t open;              /* requests with a claim on it */
	bool listed, in_call, told; /* told: the center may think it holds something */
	bool month_shared;
};

struct quotas {
	struct gateway *g;
	struct purse **purses; /* sorted by account */
	size_t purse_count, next_purse;
	struct usage *outbox;
	struct usage_record *fresh, *sent; /* not yet on disk; in the call */
	size_t fresh_count, fresh_cap, sent_count;
	uint64_t boot, call_boot, seq, call_seq;
	bool outbox_full, waiting_records;
	char url[NODE_URL_SIZE + 32], identity[TLS_IDENTITY_SIZE];
	struct http_call *call;
	struct quota_window window;
	int64_t minute_ends_us, month_ends_us; /* loop's clock */
	size_t edges;
	double prompt_ratio; /* tokens of prompts to what was estimated */
	bool away;
	struct request *waiters;
	struct loop_timer *tick, *flush;
};

static void call_center(struct quotas *q);

/* ---- purses ------------------------------------------------------------------------------------------------ */

static size_t purse_place(const struct quotas *q, const char *account, bool *ret_found)
{
	size_t low = 0, high = q->purse_count;

	*ret_found = false;
	while (low < high) {
		size_t middle = (low + high) / 2;
		int order = strcmp(q->purses[middle]->account, account);

		if (order == 0) {
			*ret_found = true;
			return middle;
		}
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static struct purse *purse_find(const struct quotas *q, const char *account)
{
	bool found;
	size_t at = purse_place(q, account, &found);

	return found ? q->purses[at] : NULL;
}

static void purse_set(struct quotas *q, const char *account, const struct quota_limits *limits)
{
	bool found;
	size_t at = purse_place(q, account, &found);

	if (!found && !quota_is_limited(limits))
		return;
	if (!found) {
		q->purses = mem_resize(q->purses, q->purse_count + 1, sizeof(struct purse *));
		memmove(&q->purses[at + 1], &q->purses[at], (q->purse_count++ - at) * sizeof(struct purse *));
		q->purses[at] = NEW(struct purse);
		str_copy(str_from(account), q->purses[at]->account, QUOTA_ACCOUNT_SIZE);
		q->purses[at]->p.window = q->window;
	}
	q->purses[at]->p.limits = *limits;
	q->purses[at]->listed = quota_is_limited(limits);
}

void quotas_set_accounts(struct gateway *g)
{
	struct quotas *q = g->quotas;
	size_t kept = 0;

	for (size_t i = 0; i < q->purse_count; i++)
		q->purses[i]->listed = false;
	for (size_t i = 0; i < g->keys.count; i++)
		purse_set(q, g->keys.keys[i].id, &g->keys.keys[i].limits);
	for (size_t i = 0; i < g->team_count; i++) {
		char account[QUOTA_ACCOUNT_SIZE];

		if (quota_team_account(g->teams[i].name, account))
			purse_set(q, account, &g->teams[i].limits);
	}
	for (size_t i = 0; i < q->purse_count; i++) {
		struct purse *p = q->purses[i];

		if (!p->listed)
			p->p.limits = (struct quota_limits){0};
		if (p->listed || p->open)
			q->purses[kept++] = p;
		else
			free(p);
	}
	q->purse_count = kept;
	q->next_purse = 0;
}

/* The center's clock went on since it was told; months are told anew. */
static void roll_clock(struct quotas *q)
{
	int64_t now = loop_now_us(q->g->loop);

	if (now >= q->minute_ends_us) {
		int64_t over = 1 + (now - q->minute_ends_us) / (60 * US_PER_S);

		q->window.minute += over;
		q->minute_ends_us += over * 60 * US_PER_S;
	}
	if (now >= q->month_ends_us) {
		q->window.month++;
		q->month_ends_us = INT64_MAX;
	}
}

/* As the center says. A window that it will end in a moment does not come back when it has ended here. */
static void set_clock(struct quotas *q, struct quota_window w, int64_t minute_left_us, int64_t month_left_us)
{
	int64_t now = loop_now_us(q->g->loop);

	if (w.minute + 1 != q->window.minute || minute_left_us > DRIFT_US) {
		q->window.minute = w.minute;
		q->minute_ends_us = now + minute_left_us;
	}
	if (w.month + 1 != q->window.month || month_left_us > DRIFT_US) {
		q->window.month = w.month;
		q->month_ends_us = now + month_left_us;
	}
}

/* ---- admission ------------------------------------------------------------------------------------------------ */

/* What a request may take, and what it takes at the least if it gets all it asks for. Prompts are estimated by their
 * bytes, which the ratio seen lately makes good. */
static int64_t most_tokens(const struct request *r, int64_t *ret_least)
{
	const struct api_request *in = &r->in;
	int64_t prompt = (int64_t)((double)in->prompt_tokens * r->g->quotas->prompt_ratio) + 1;
	int64_t answers = (int64_t)api_request_answers(in);

	*ret_least = in->prompt_tokens;
	if (in->task == ENGINE_TOKENIZE || in->task == ENGINE_DETOKENIZE)
		return *ret_least = 0;
	if (in->task != ENGINE_CHAT && in->task != ENGINE_COMPLETION)
		return prompt;
	if (in->max_tokens < 0)
		return prompt + ANSWER_TOKENS * answers;
	*ret_least += in->max_tokens * answers;
	return prompt + in->max_tokens * answers;
}

/* A peak that fades: too much is given back at the end, too little would be overspent. */
static void learn_ratio(struct quotas *q, const struct request *r)
{
	if (r->prompt_tokens < 0 || r->in.prompt_tokens <= 0)
		return;
	double seen = (double)r->prompt_tokens / r->in.prompt_tokens;

	seen = seen > RATIO_MOST ? RATIO_MOST : seen;
	q->prompt_ratio = seen > q->prompt_ratio ? seen : q->prompt_ratio + (seen - q->prompt_ratio) / 64;
}

static void put_seconds(int64_t us, int *ret)
{
	int64_t s = (us + US_PER_S - 1) / US_PER_S;

	*ret = (int)(s < 1 ? 1 : s > INT32_MAX ? INT32_MAX : s);
}

static void refuse(struct request *r, const struct purse *p, enum quota_kind k)
{
	static const char *const units[QUOTA_KINDS] = {"requests per minute", "tokens per minute", "requests at once",
	                                               "tokens per month"};
	const struct quotas *q = r->g->quotas;
	int64_t now = loop_now_us(r->g->loop), until = now;
	struct fault fault = {.code = k == QUOTA_MONTH ? "insufficient_quota" : "rate_limit_exceeded",
	                      .dropped = "rejected-quota"};
	const char *whose = str_starts(str_from(p->account), STR(QUOTA_TEAM)) ? "team" : "API key";

	if (k == QUOTA_MONTH && q->month_ends_us != INT64_MAX)
		until = q->month_ends_us;
	else if (k == QUOTA_REQUESTS || k == QUOTA_TOKENS)
		until = q->minute_ends_us;
	put_seconds(until - now, &fault.retry_after_s);
	error_set(&fault.err, E_BUSY,
	          "Rate limit reached: this %s may use %" PRId64 " %s%s. Try again in %d s, or ask for more", whose,
	          p->p.limits.most[k], units[k], q->away ? " (a part of it while the center is away)" : "",
	          fault.retry_after_s);
	r->g->metrics.quota_refused++;
	request_fail(r, &fault);
}

/* Who lacks what; NULL: nobody. */
static struct purse *lacking(struct request *r, enum quota_kind *ret_kind)
{
	struct quota_claim *c = &r->quota;

	for (size_t i = 0; i < 2; i++) {
		if (!c->of[i])
			continue;
		quota_purse_roll(&c->of[i]->p, r->g->quotas->window);
		*ret_kind = quota_short(&c->of[i]->p, c->tokens);
		if (*ret_kind != QUOTA_KINDS)
			return c->of[i];
	}
	return NULL;
}

static void take(struct request *r)
{
	struct quota_claim *c = &r->quota;

	c->taken = true;
	for (size_t i = 0; i < 2; i++)
		if (c->of[i])
			c->hold[i] = quota_reserve(&c->of[i]->p, c->tokens);
}

/* The center is away: what this edge may do alone. */
static void share(struct request *r)
{
	struct quotas *q = r->g->quotas;

	for (size_t i = 0; i < 2; i++) {
		struct purse *p = r->quota.of[i];

		if (!p)
			continue;
		quota_share(&p->p, q->edges, !p->month_shared);
		p->month_shared = true;
	}
}

static void wait(struct request *r)
{
	struct quotas *q = r->g->quotas;
	struct request **end = &q->waiters;

	for (size_t i = 0; i < 2; i++)
		if (r->quota.of[i])
			quota_need(&r->quota.of[i]->p, r->quota.tokens);
	while (*end)
		end = &(*end)->quota.next;
	*end = r;
	r->quota.waits = true;
	r->quota.asked = false;
	r->quota.next = NULL;
	call_center(q);
}

/* May ask the center, or has just done so. */
static bool admit(struct request *r, bool may_ask)
{
	struct quotas *q = r->g->quotas;
	enum quota_kind k;
	struct purse *p;

	roll_clock(q);
	if ((p = lacking(r, &k)) && q->away) {
		share(r);
		p = lacking(r, &k);
		may_ask = false;
	}
	if (!p) {
		take(r);
		return true;
	}
	if (may_ask && q->url[0] && loop_now_us(q->g->loop) >= p->dry_us[k]) {
		wait(r);
		return false;
	}
	if (!may_ask && !q->away)
		p->dry_us[k] = loop_now_us(q->g->loop) + DRY_US;
	refuse(r, p, k);
	return false;
}

/* More than an account may ever have at once is the request's fault. */
static bool fits_ever(struct request *r, int64_t least)
{
	static const enum quota_kind kinds[] = {QUOTA_TOKENS, QUOTA_MONTH};
	struct fault fault = {.code = "request_too_large"};

	for (size_t i = 0; i < 4; i++) {
		const struct purse *p = r->quota.of[i / 2];
		int64_t most = p ? p->p.limits.most[kinds[i % 2]] : 0;

		if (!most || r->quota.tokens <= most)
			continue;
		if (least > most) {
			error_set(&fault.err, E_INVAL,
			          "Request too large: it may take %" PRId64
			          " tokens, and this key or its team has %" PRId64 " %s; send less or lower max_tokens",
			          least, most, quota_kind_name(kinds[i % 2]));
			request_fail(r, &fault);
			return false;
		}
		r->quota.tokens = most;
	}
	return true;
}

void quotas_name(struct request *r)
{
	const struct key_ring_key *key = key_ring_get(&r->g->keys, r->tenant);
	struct quota_claim *c = &r->quota;

	c->billed = key || tokens_named(r->tenant);
	if (key)
		memcpy(c->team, key->team, sizeof(c->team));
	else
		tokens_team(&r->g->tokens, r->tenant, c->team);
}

bool quotas_admit(struct request *r)
{
	struct gateway *g = r->g;
	struct quota_claim *c = &r->quota;
	char account[QUOTA_ACCOUNT_SIZE];
	int64_t least;

	if (!c->billed || !g->quotas->purse_count)
		return true;
	c->of[0] = purse_find(g->quotas, r->tenant); /* tokens have the limits of their team only */
	if (c->team[0] && quota_team_account(c->team, account))
		c->of[1] = purse_find(g->quotas, account);
	for (size_t i = 0; i < 2; i++)
		if (c->of[i]) {
			c->limited = true;
			c->of[i]->open++;
		}
	if (!c->limited)
		return true;
	c->tokens = most_tokens(r, &least);
	return fits_ever(r, least) && admit(r, true);
}

static void unwait(struct request *r)
{
	struct request **at = &r->g->quotas->waiters;

	while (*at != r)
		at = &(*at)->quota.next;
	*at = r->quota.next;
	r->quota.waits = false;
}

/* Those that the call was made for. */
static void waiters_go_on(struct quotas *q)
{
	for (;;) {
		struct request *r = q->waiters;

		while (r && !r->quota.asked)
			r = r->quota.next;
		if (!r)
			break;
		unwait(r);
		if (admit(r, false))
			request_dispatch(r); /* may end others that wait */
	}
}

/* ---- records ---------------------------------------------------------------------------------------------------- */

static void flush(struct quotas *q)
{
	struct error err = {0};
	int rc = q->fresh_count ? usage_begin(q->outbox, &err) : 0;

	for (size_t i = 0; rc == 0 && i < q->fresh_count; i++) {
		bool is_new;

		rc = usage_add(q->outbox, &q->fresh[i], &is_new, &err);
	}
	if (rc == 0 && q->fresh_count)
		rc = usage_commit(q->outbox, &err);
	if (rc < 0) {
		usage_undo(q->outbox);
		if (!q->outbox_full)
			log_error(ROOM, "usage records wait in memory: %s", err.text);
		q->outbox_full = true;
		loop_timer_start(q->flush, US_PER_S, 0);
		return;
	}
	q->waiting_records = q->waiting_records || q->fresh_count;
	q->fresh_count = 0;
	q->outbox_full = false;
}

static void on_flush(void *arg)
{
	flush(arg);
}

static void record(struct request *r, int status, int64_t prompt, int64_t cached, int64_t completion)
{
	struct quotas *q = r->g->quotas;

	if (!q->outbox)
		return;
	if (q->fresh_count == FRESH_MAX) {
		r->g->metrics.usage_lost++;
		return;
	}
	if (q->fresh_count == q->fresh_cap) {
		q->fresh_cap = q->fresh_cap ? 2 * q->fresh_cap : 64;
		q->fresh = mem_resize(q->fresh, q->fresh_cap, sizeof(*q->fresh));
	}
	if (q->fresh_count == 0)
		loop_timer_start(q->flush, FLUSH_US, 0);
	struct usage_record *u = &q->fresh[q->fresh_count++];

	*u = (struct usage_record){
	    .boot = q->boot,
	    .seq = ++q->seq,
	    .at_us = clock_wall_us(),
	    .month = q->window.month,
	    .status = status,
	    .prompt_tokens = prompt,
	    .cached_tokens = cached,
	    .completion_tokens = completion,
	};
	for (size_t i = 0; i < 2; i++)
		if (r->quota.taken && r->quota.of[i])
			u->month = r->quota.hold[i].window.month;
	str_copy(str_from(r->g->id), u->node, sizeof(u->node));
	str_copy(str_from(r->tenant), u->key, sizeof(u->key));
	str_copy(str_from(r->quota.team), u->team, sizeof(u->team));
	str_copy(str_from(r->model), u->model, sizeof(u->model));
	str_copy(str_from(r->dialect->name), u->api, sizeof(u->api));
	str_copy(str_from(r->id), u->request, sizeof(u->request));
}

/* What it took: as counted at its end, else by what there was of it. */
static bool used(const struct request *r, int64_t *ret_prompt, int64_t *ret_cached, int64_t *ret_completion)
{
	int32_t prompt = r->prompt_tokens, cached = r->cached_tokens, completion = r->completion_tokens;
	bool worked = r->worked || r->first_us || prompt >= 0 || r->forward;

	if (r->status >= 400 && r->status != 499 && !r->first_us)
		return false;
	if (prompt < 0 && r->local)
		local_used(r->local, &prompt, &cached, &completion);
	else if (prompt < 0 && r->forward)
		completion = forward_events(r->forward);
	if (prompt < 0 && r->resume && (int64_t)r->resume->count > completion)
		completion = (int32_t)r->resume->count; /* also what others said before */
	*ret_prompt = prompt >= 0 ? prompt : r->in.prompt_tokens;
	*ret_cached = cached > 0 ? cached : 0;
	*ret_completion = completion > 0 ? completion : 0;
	return worked;
}

void quotas_end(struct request *r)
{
	struct quota_claim *c = &r->quota;
	int64_t prompt = 0, cached = 0, completion = 0;

	if (!c->billed)
		return;
	if (c->waits)
		unwait(r);
	roll_clock(r->g->quotas);
	bool worked = used(r, &prompt, &cached, &completion);
	for (size_t i = 0; i < 2; i++) {
		if (!c->of[i])
			continue;
		c->of[i]->open--;
		if (!c->taken)
			continue;
		quota_purse_roll(&c->of[i]->p, r->g->quotas->window);
		quota_settle(&c->of[i]->p, &c->hold[i], prompt + completion, worked);
	}
	learn_ratio(r->g->quotas, r);
	if (worked)
		record(r, r->status, prompt, cached, completion);
	c->billed = false;
}

/* ---- the call ------------------------------------------------------------------------------------------------------
 */

struct gathering {
	struct quotas *q;
	size_t count;
};

static void gather(void *arg, const struct usage_record *r)
{
	struct gathering *g = arg;

	g->q->sent[g->count++] = *r;
}

/* The next records; true: they are all of this process. */
static bool pick_records(struct quotas *q)
{
	const struct usage_query oldest = {.limit = QUOTA_RECORDS_MAX};
	struct gathering g = {q, 0};
	struct error err = {0};

	q->sent_count = 0;
	if (!q->outbox || !q->waiting_records)
		return true;
	if (!q->sent)
		q->sent = mem_new(QUOTA_RECORDS_MAX * sizeof(*q->sent));
	if (usage_each(q->outbox, &oldest, gather, &g, &err) < 0)
		log_error(ROOM, "usage records stay here for now: %s", err.text);
	q->sent_count = g.count;
	q->waiting_records = g.count > 0;
	return g.count == 0 || q->sent[0].boot == q->boot;
}

static void put_records(struct quotas *q, struct buf *out)
{
	buf_append_str(out, STR(",\"records\":["));
	for (size_t i = 0; i < q->sent_count; i++) {
		const struct usage_record *r = &q->sent[i];
		const struct {
			const char *key;
			const char *text;
		} texts[] = {{"key", r->key},
		             {"team", r->team},
		             {"model", r->model},
		             {"api", r->api},
		             {"request_id", r->request}};

		buf_printf(out,
		           "%s{\"boot\":%" PRIu64 ",\"seq\":%" PRIu64 ",\"at_us\":%" PRId64 ",\"month\":%" PRId64
		           ",\"status\":%d,\"prompt_tokens\":%" PRId64 ",\"cached_tokens\":%" PRId64
		           ",\"completion_tokens\":%" PRId64,
		           i ? "," : "", r->boot, r->seq, r->at_us, r->month, r->status, r->prompt_tokens,
		           r->cached_tokens, r->completion_tokens);
		for (size_t t = 0; t < sizeof(texts) / sizeof(texts[0]); t++) {
			buf_printf(out, ",\"%s\":", texts[t].key);
			buf_append_json(out, str_from(texts[t].text));
		}
		buf_append_str(out, STR("}"));
	}
	buf_append_str(out, STR("]"));
}

/* For both accounts of each record in the call that a purse here knows of. */
static void each_sent(struct quotas *q, void (*fn)(struct purse *p, const struct usage_record *r))
{
	for (size_t i = 0; q->purse_count && i < q->sent_count; i++) {
		const struct usage_record *r = &q->sent[i];
		char team[QUOTA_ACCOUNT_SIZE];
		struct purse *p = r->boot == q->boot ? purse_find(q, r->key) : NULL;

		if (p)
			fn(p, r);
		if (r->boot == q->boot && r->team[0] && quota_team_account(r->team, team) && (p = purse_find(q, team)))
			fn(p, r);
	}
}

static void count_sent(struct purse *p, const struct usage_record *r)
{
	if (r->month == p->p.window.month)
		p->sent_month += r->prompt_tokens + r->completion_tokens;
}

static void count_recorded(struct purse *p, const struct usage_record *r)
{
	quota_purse_recorded(&p->p, r->month, r->prompt_tokens + r->completion_tokens);
}

static bool is_idle(const struct purse *p)
{
	for (int k = 0; k < QUOTA_KINDS; k++)
		if (p->p.held[k] || p->p.taken[k] || p->p.needed[k])
			return false;
	return !p->told && !p->sent_month;
}

static void put_purse(struct purse *p, bool rest, bool first, struct buf *out)
{
	int64_t held[QUOTA_KINDS], need[QUOTA_KINDS];

	quota_purse_ask(&p->p, rest, need);
	memcpy(held, p->p.held, sizeof(held));
	held[QUOTA_MONTH] = held[QUOTA_MONTH] > p->sent_month ? held[QUOTA_MONTH] - p->sent_month : 0;
	buf_append_str(out, first ? STR("{\"id\":") : STR(",{\"id\":"));
	buf_append_json(out, str_from(p->account));
	buf_append_str(out, STR(",\"held\":"));
	quota_numbers_write(held, out);
	buf_append_str(out, STR(",\"need\":"));
	quota_numbers_write(need, out);
	buf_append_str(out, STR("}"));
}

static void put_purses(struct quotas *q, bool rest, struct buf *out)
{
	size_t count = 0, seen = 0;

	buf_append_str(out, STR(",\"accounts\":["));
	for (size_t i = 0; i < q->purse_count; i++) {
		quota_purse_roll(&q->purses[i]->p, q->window);
		q->purses[i]->sent_month = 0;
		q->purses[i]->in_call = false;
	}
	each_sent(q, count_sent);
	for (; seen < q->purse_count && count < QUOTA_ACCOUNTS_MAX; seen++) {
		struct purse *p = q->purses[(q->next_purse + seen) % q->purse_count];

		if (is_idle(p))
			continue;
		put_purse(p, rest, count++ == 0, out);
		p->in_call = true;
	}
	q->next_purse = q->purse_count ? (q->next_purse + seen) % q->purse_count : 0;
	buf_append_str(out, STR("]"));
	for (struct request *r = q->waiters; r; r = r->quota.next)
		r->quota.asked =
		    (!r->quota.of[0] || r->quota.of[0]->in_call) && (!r->quota.of[1] || r->quota.of[1]->in_call);
}

static int take_account(struct quotas *q, struct quota_window w, yyjson_val *item, struct error *err)
{
	int64_t held[QUOTA_KINDS], left[QUOTA_KINDS];
	struct str id = {0};
	char account[QUOTA_ACCOUNT_SIZE];
	struct purse *p;
	int rc;

	if ((rc = json_str(item, "id", &id, err)) < 0 || (rc = quota_numbers_read(item, "held", held, err)) < 0 ||
	    (rc = quota_numbers_read(item, "left", left, err)) < 0)
		return rc;
	if (!str_copy(id, account, sizeof(account)) || !(p = purse_find(q, account)) || !p->in_call)
		return 0;
	quota_purse_roll(&p->p, q->window);
	quota_purse_answer(&p->p, w, held);
	memcpy(p->left, left, sizeof(left));
	p->told = held[0] || held[1] || held[2] || held[3];
	p->month_shared = false;
	return 0;
}

static int take_leases(struct quotas *q, yyjson_val *o, bool *ret_learning, struct error *err)
{
	struct quota_window w = q->window;
	int64_t minute_left = 0, month_left = 0;
	yyjson_val *accounts = NULL, *item;
	size_t i, max;
	int rc;

	if ((rc = json_i64(o, "minute", 0, QUOTA_MOST, &w.minute, err)) < 0 ||
	    (rc = json_i64(o, "month", 0, QUOTA_MOST, &w.month, err)) < 0 ||
	    (rc = json_i64(o, "minute_left_us", 0, 60 * US_PER_S, &minute_left, err)) < 0 ||
	    (rc = json_i64(o, "month_left_us", 0, 32 * 86400 * US_PER_S, &month_left, err)) < 0 ||
	    (rc = json_bool(o, "learning", ret_learning, err)) < 0 ||
	    (rc = json_arr(o, "accounts", &accounts, err)) < 0)
		return rc;
	set_clock(q, w, minute_left, month_left);
	yyjson_arr_foreach(accounts, i, max, item)
	{
		if ((rc = take_account(q, w, item, err)) < 0)
			return rc;
	}
	return 0;
}

/* The center has the records: they are in its books, no longer in the purses. */
static void records_arrived(struct quotas *q)
{
	struct error err = {0};

	each_sent(q, count_recorded);
	if (q->sent_count && usage_drop(q->outbox, q->sent[q->sent_count - 1].serial, &err) < 0)
		log_error(ROOM, "usage records are sent again: %s", err.text);
}

static void on_answer(void *arg, int status, struct str body, const struct error *failure)
{
	struct quotas *q = arg;
	struct error err = {0};
	yyjson_doc *doc = NULL;
	bool learning = false, more = false;
	int rc;

	q->call = NULL;
	if (failure)
		rc = error_set(&err, failure->code, "%s", failure->text);
	else if (status != 200)
		rc = error_set(&err, E_PEER, "it answered with status %d", status);
	else if ((rc = json_parse(body, &doc, &err)) == 0) {
		records_arrived(q);
		rc = take_leases(q, yyjson_doc_get_root(doc), &learning, &err);
	}
	yyjson_doc_free(doc);
	if (rc < 0 && !q->away)
		log_warn(ROOM, "budgets: the center does not answer (%s): this edge goes on with its share of them",
		         err.text);
	if (rc == 0 && q->away && !learning)
		log_info(ROOM, "budgets: the center answers again");
	if (status == 409) /* our clock was set back before we started: be later than what it knows */
		q->call_boot += 3600 * US_PER_S;
	q->away = rc < 0 || learning;
	more = rc == 0 && q->sent_count == QUOTA_RECORDS_MAX;
	if (q->away)
		for (struct request *r = q->waiters; r; r = r->quota.next)
			r->quota.asked = true; /* nobody will be told more */
	waiters_go_on(q);
	if (q->waiters || more)
		call_center(q);
}

static void call_with(struct quotas *q, bool rest)
{
	struct buf body = {0};

	if (q->call || !q->url[0] || !q->g->client)
		return;
	roll_clock(q);
	flush(q);
	bool all_ours = pick_records(q);
	buf_printf(&body, "{\"boot\":%" PRIu64 ",\"seq\":%" PRIu64 ",\"minute\":%" PRId64 ",\"month\":%" PRId64,
	           q->call_boot, ++q->call_seq, q->window.minute, q->window.month);
	put_records(q, &body);
	if (all_ours)
		put_purses(q, rest, &body);
	buf_append_str(&body, STR("}"));
	const struct http_call_options options = {
	    .method = STR("POST"),
	    .url = str_from(q->url),
	    .peer_identity = str_from(q->identity),
	    .body = buf_str(&body),
	    .head_timeout_us = CALL_US,
	};
	q->call = http_fetch(q->g->client, &options, LIMIT_JSON_BODY, on_answer, q);
	buf_fini(&body);
}

static void call_center(struct quotas *q)
{
	call_with(q, false);
}

static void on_tick(void *arg)
{
	struct quotas *q = arg;
	bool busy = q->waiting_records || q->fresh_count;

	for (size_t i = 0; !busy && i < q->purse_count; i++)
		busy = !is_idle(q->purses[i]);
	if (busy || q->away)
		call_with(q, true);
}

/* ---- headers
 * --------------------------------------------------------------------------------------------------------- */

bool quotas_tell(struct request *r)
{
	static const struct {
		enum quota_kind kind;
		const char *limit, *left, *reset;
	} kinds[] = {
	    {QUOTA_REQUESTS, "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests",
	     "x-ratelimit-reset-requests"},
	    {QUOTA_TOKENS, "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"},
	};
	const struct quotas *q = r->g->quotas;
	bool told = false;
	char text[32];

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		enum quota_kind k = kinds[i].kind;
		const struct purse *tight = NULL;
		int64_t least = INT64_MAX;

		for (size_t j = 0; j < 2; j++) {
			const struct purse *p = r->quota.of[j];
			int64_t left = p ? p->left[k] + p->p.held[k] - p->p.taken[k] : 0;

			if (!p || !p->p.limits.most[k] || left >= least)
				continue;
			tight = p;
			least = left;
		}
		if (!tight)
			continue;
		told = told || k == QUOTA_REQUESTS;
		snprintf(text, sizeof(text), "%" PRId64, tight->p.limits.most[k]);
		http_add_header(r->x, kinds[i].limit, str_from(text));
		snprintf(text, sizeof(text), "%" PRId64, least > 0 ? least : 0);
		http_add_header(r->x, kinds[i].left, str_from(text));
		reply_duration(q->minute_ends_us - loop_now_us(r->g->loop), text);
		http_add_header(r->x, kinds[i].reset, str_from(text));
	}
	return told;
}

/* ---- life
 * ------------------------------------------------------------------------------------------------------------- */

void quotas_set_center(struct quotas *q, struct str url, struct str id, size_t edges)
{
	q->edges = edges;
	if (!url.len) {
		q->url[0] = '\0';
		return;
	}
	snprintf(q->url, sizeof(q->url), STR_FMT "/mdn/v1/quota", STR_ARG(url));
	snprintf(q->identity, sizeof(q->identity), "spiffe://%s/node/" STR_FMT, q->g->domain, STR_ARG(id));
}

int quotas_new(struct gateway *g, struct str outbox, struct quotas **ret_quotas, struct error *err)
{
	struct quotas *q = NEW(struct quotas);
	int64_t wall = clock_wall_us();
	struct quota_window w = quota_window_at(wall);

	q->g = g;
	q->edges = 1;
	q->prompt_ratio = RATIO_FIRST;
	q->boot = rng_seed() >> 1 | 1;
	q->call_boot = (uint64_t)wall;
	set_clock(q, w, quota_minute_end_us(w) - wall, quota_month_end_us(w) - wall);
	q->tick = loop_timer_new(g->loop, on_tick, q);
	q->flush = loop_timer_new(g->loop, on_flush, q);
	loop_timer_start(q->tick, TICK_US, TICK_US);
	int rc = outbox.len ? usage_open(outbox, false, &q->outbox, err) : 0;
	q->waiting_records = q->outbox != NULL; /* perhaps, of the process before */
	if (rc < 0)
		quotas_free(q);
	else
		*ret_quotas = q;
	return rc;
}

void quotas_free(struct quotas *q)
{
	if (!q)
		return;
	if (q->call)
		http_call_cancel(q->call);
	if (q->outbox)
		flush(q);
	usage_close(q->outbox);
	for (size_t i = 0; i < q->purse_count; i++)
		free(q->purses[i]);
	free(q->purses);
	free(q->fresh);
	free(q->sent);
	loop_timer_free(q->tick);
	loop_timer_free(q->flush);
	free(q);
}
