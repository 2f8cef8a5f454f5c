/* SPDX-License-Identifier: Apache-2.0 */
/* What keys and teams may still use, handed out to edges in leases (core/quota.h), and the books of what they used.
 *
 * One call does both, so that a token is never in a lease and in the books at once: an edge brings usage records and
 * says what it holds; the records are written down, then its leases are made anew. Calls of an edge are numbered; one
 * that comes after a later one changes nothing. What edges hold is not kept on disk: after a start they are heard for
 * LEARN_US before anybody gets more. Spent months are sums in DATA/usage.db; where several centers share the state,
 * they are written there, too, every KEEP_US, for the books are with who led.
 */
#include "serve/center/inside.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/log.h"
#include "store/usage.h"

#include <inttypes.h>
#include <stdlib.h>

#define LEARN_US (2 * US_PER_S + US_PER_S / 2)
#define KEEP_US (5 * US_PER_S)
#define KEEP_TOGETHER 1000 /* accounts; one wait for etcd is for a hundred of them */
#define SILENT_US (30 * US_PER_S)
#define USAGE_PAGE 1000

struct holder {
	char node[NODE_ID_SIZE];
	uint64_t boot;
	int64_t heard_us;
	struct quota_holder h;
};

struct account { /* a key or a team with limits */
	char id[QUOTA_ACCOUNT_SIZE];
	bool known;   /* this month is in the pool */
	int64_t kept; /* of it, in the shared state */
	struct quota_pool pool;
	struct holder *holders;
	size_t holder_count;
};

struct caller {
	char node[NODE_ID_SIZE];
	uint64_t boot, seq;
};

struct quotas {
	struct usage *books;
	struct account *accounts; /* sorted by id */
	struct caller *callers;   /* sorted by node */
	size_t account_count, caller_count;
	int64_t kept_us;
};

/* ---- accounts ----------------------------------------------------------------------------------------------- */

static size_t place_of(const void *items, size_t count, size_t size, const char *id, bool *ret_found)
{
	size_t low = 0, high = count;
	while (low < high) {
		size_t middle = (low + high) / 2;
		int order = strcmp((const char *)items + middle * size, id); /* an item begins with its id */
		if (order == 0) {
			*ret_found = true;
			return middle;
		}
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	*ret_found = false;
	return low;
}

static void account_drop(struct quotas *q, size_t at)
{
	free(q->accounts[at].holders);
	memmove(&q->accounts[at], &q->accounts[at + 1], (--q->account_count - at) * sizeof(*q->accounts));
}

void quotas_set(struct center *c, const char *id, const struct quota_limits *limits)
{
	struct quotas *q = c->quotas;
	bool found;
	size_t at = place_of(q->accounts, q->account_count, sizeof(*q->accounts), id, &found);
	if (!limits || !quota_is_limited(limits)) {
		if (found)
			account_drop(q, at);
		return;
	}
	if (!found) {
		q->accounts = mem_resize(q->accounts, q->account_count + 1, sizeof(*q->accounts));
		memmove(&q->accounts[at + 1], &q->accounts[at], (q->account_count++ - at) * sizeof(*q->accounts));
		q->accounts[at] = (struct account){0};
		str_copy(str_from(id), q->accounts[at].id, sizeof(q->accounts[at].id));
	}
	q->accounts[at].pool.limits = *limits;
}

/* As another center left it; 0 where there is none. */
static int64_t kept_of(struct center *c, const struct account *a, int64_t month)
{
	struct buf text = {0};
	yyjson_doc *doc = NULL;
	int64_t of = -1, tokens = 0;
	if (c->lead && state_get(c->state, "spent", str_from(a->id), &text, NULL) == 0 &&
	    json_parse(buf_str(&text), &doc, NULL) == 0) {
		json_i64(yyjson_doc_get_root(doc), "month", 0, QUOTA_MOST, &of, NULL);
		json_i64(yyjson_doc_get_root(doc), "tokens", 0, QUOTA_MOST, &tokens, NULL);
	}
	yyjson_doc_free(doc);
	buf_fini(&text);
	return of == month ? tokens : 0;
}

static void keep(struct center *c, struct account *a)
{
	struct buf text = {0};
	struct error err = {0};
	if (!a->known || !a->pool.limits.most[QUOTA_MONTH] || a->kept == a->pool.recorded)
		return;
	buf_printf(&text, "{\"month\":%" PRId64 ",\"tokens\":%" PRId64 "}", a->pool.window.month, a->pool.recorded);
	if (state_put(c->state, "spent", str_from(a->id), buf_str(&text), &err) == 0)
		a->kept = a->pool.recorded;
	else
		log_warn(ROOM, "what %s has spent is only in this center's books: %s", a->id, err.text);
	buf_fini(&text);
}

static int account_roll(struct center *c, struct account *a, struct quota_window now, struct error *err)
{
	struct quotas *q = c->quotas;
	int64_t recorded = 0;
	if (a->known && now.minute == a->pool.window.minute && now.month == a->pool.window.month)
		return 0;
	if (!a->known || now.month != a->pool.window.month) {
		struct str id = str_from(a->id), team = STR(QUOTA_TEAM);
		bool is_team = str_starts(id, team);
		struct str name = is_team ? (struct str){id.base + team.len, id.len - team.len} : STR("");
		int rc = usage_month_tokens(q->books, now.month, is_team ? STR("") : id, name, &recorded, err);
		if (rc < 0)
			return rc;
		a->kept = kept_of(c, a, now.month);
		recorded = recorded > a->kept ? recorded : a->kept;
	}
	for (size_t i = 0; i < a->holder_count; i++)
		quota_holder_roll(&a->holders[i].h, a->pool.window, now);
	quota_pool_roll(&a->pool, now, recorded);
	a->known = true;
	return 0;
}

static struct holder *holder_of(struct account *a, const char *node)
{
	for (size_t i = 0; i < a->holder_count; i++)
		if (strcmp(a->holders[i].node, node) == 0)
			return &a->holders[i];
	a->holders = mem_resize(a->holders, a->holder_count + 1, sizeof(*a->holders));
	struct holder *h = &a->holders[a->holder_count++];
	*h = (struct holder){0};
	str_copy(str_from(node), h->node, sizeof(h->node));
	return h;
}

/* ---- records -------------------------------------------------------------------------------------------------- */

static int take_text(yyjson_val *o, const char *key, char *to, size_t size, struct error *err)
{
	struct str text = {0};
	int rc = json_str(o, key, &text, err);
	if (rc < 0)
		return rc;
	return str_copy(text, to, size) ? 0 : error_set(err, E_LIMIT, "\"%s\" is longer than %zu bytes", key, size - 1);
}

static int record_read(yyjson_val *o, struct usage_record *r, struct error *err)
{
	int64_t boot = 0, seq = 0, status = 0;
	int rc;
	if ((rc = json_i64(o, "boot", 1, INT64_MAX, &boot, err)) == 0 &&
	    (rc = json_i64(o, "seq", 1, INT64_MAX, &seq, err)) == 0 &&
	    (rc = json_i64(o, "at_us", 0, INT64_MAX, &r->at_us, err)) == 0 &&
	    (rc = json_i64(o, "month", 0, 100000, &r->month, err)) == 0 &&
	    (rc = json_i64(o, "status", 0, 999, &status, err)) == 0 &&
	    (rc = json_i64(o, "prompt_tokens", 0, INT32_MAX, &r->prompt_tokens, err)) == 0 &&
	    (rc = json_i64(o, "cached_tokens", 0, INT32_MAX, &r->cached_tokens, err)) == 0 &&
	    (rc = json_i64(o, "completion_tokens", 0, INT32_MAX, &r->completion_tokens, err)) == 0 &&
	    (rc = take_text(o, "key", r->key, sizeof(r->key), err)) == 0 &&
	    (rc = take_text(o, "team", r->team, sizeof(r->team), err)) == 0 &&
	    (rc = take_text(o, "model", r->model, sizeof(r->model), err)) == 0 &&
	    (rc = take_text(o, "api", r->api, sizeof(r->api), err)) == 0)
		rc = take_text(o, "request_id", r->request, sizeof(r->request), err);
	if (rc == 0 && (!boot || !seq || !r->key[0]))
		rc = error_set(err, E_INVAL, "a usage record wants \"boot\", \"seq\" and \"key\"");
	r->boot = (uint64_t)boot;
	r->seq = (uint64_t)seq;
	r->status = (int32_t)status;
	return rc;
}

static void count_for(struct quotas *q, const char *id, const struct usage_record *r)
{
	bool found;
	size_t at = place_of(q->accounts, q->account_count, sizeof(*q->accounts), id, &found);
	if (found && q->accounts[at].known && q->accounts[at].pool.window.month == r->month)
		q->accounts[at].pool.recorded += r->prompt_tokens + r->completion_tokens;
}

static int take_records(struct quotas *q, const char *node, yyjson_val *records, struct error *err)
{
	size_t count = yyjson_arr_size(records), i, max, fresh = 0;
	yyjson_val *item;
	int rc;
	if (count == 0)
		return 0;
	if (count > QUOTA_RECORDS_MAX)
		return error_set(err, E_LIMIT, "\"records\" has more than %d entries", QUOTA_RECORDS_MAX);
	if ((rc = usage_begin(q->books, err)) < 0)
		return rc;
	struct usage_record *taken = mem_new(count * sizeof(*taken));
	yyjson_arr_foreach(records, i, max, item)
	{
		struct usage_record *r = &taken[fresh];
		bool is_new = false;
		*r = (struct usage_record){0};
		str_copy(str_from(node), r->node, sizeof(r->node));
		if ((rc = record_read(item, r, err)) < 0 || (rc = usage_add(q->books, r, &is_new, err)) < 0)
			break;
		fresh += is_new;
	}
	if (rc == 0)
		rc = usage_commit(q->books, err);
	else
		usage_undo(q->books);
	for (i = 0; rc == 0 && i < fresh; i++) {
		char team[QUOTA_ACCOUNT_SIZE];
		count_for(q, taken[i].key, &taken[i]);
		if (taken[i].team[0] && quota_team_account(taken[i].team, team))
			count_for(q, team, &taken[i]);
	}
	free(taken);
	return rc;
}

/* ---- leases ----------------------------------------------------------------------------------------------------- */

/* The number of the call, and whether the edge's process is a new one. */
static int admit_call(struct quotas *q, const char *node, yyjson_val *body, uint64_t *ret_boot, struct error *err)
{
	int64_t boot = 0, seq = 0;
	bool found;
	int rc;
	if ((rc = json_i64(body, "boot", 1, INT64_MAX, &boot, err)) < 0 ||
	    (rc = json_i64(body, "seq", 1, INT64_MAX, &seq, err)) < 0)
		return rc;
	if (!boot || !seq)
		return error_set(err, E_INVAL, "\"boot\" and \"seq\" are needed");
	size_t at = place_of(q->callers, q->caller_count, sizeof(*q->callers), node, &found);
	if (!found) {
		q->callers = mem_resize(q->callers, q->caller_count + 1, sizeof(*q->callers));
		memmove(&q->callers[at + 1], &q->callers[at], (q->caller_count++ - at) * sizeof(*q->callers));
		q->callers[at] = (struct caller){0};
		str_copy(str_from(node), q->callers[at].node, sizeof(q->callers[at].node));
	}
	struct caller *k = &q->callers[at];
	if ((uint64_t)boot < k->boot || ((uint64_t)boot == k->boot && (uint64_t)seq <= k->seq))
		return error_set(err, E_CONFLICT, "this call was overtaken by a later one");
	k->boot = (uint64_t)boot;
	k->seq = (uint64_t)seq;
	*ret_boot = k->boot;
	return 0;
}

struct lease_call {
	struct center *c;
	const char *node;
	uint64_t boot;
	struct quota_window now, window; /* ours; the caller's */
	bool learning;
};

static int make_lease(const struct lease_call *l, yyjson_val *item, struct buf *out, struct error *err)
{
	struct quotas *q = l->c->quotas;
	int64_t held[QUOTA_KINDS], need[QUOTA_KINDS];
	char id[QUOTA_ACCOUNT_SIZE] = "";
	bool found;
	int rc;
	if ((rc = take_text(item, "id", id, sizeof(id), err)) < 0 ||
	    (rc = quota_numbers_read(item, "held", held, err)) < 0 ||
	    (rc = quota_numbers_read(item, "need", need, err)) < 0)
		return rc;
	size_t at = place_of(q->accounts, q->account_count, sizeof(*q->accounts), id, &found);
	if (!found) /* its limits went; the roster tells */
		return 0;
	struct account *a = &q->accounts[at];
	if ((rc = account_roll(l->c, a, l->now, err)) < 0)
		return rc;
	struct holder *h = holder_of(a, l->node);
	if (h->boot != l->boot) { /* records of its life before came first */
		quota_holder_gone(&a->pool, &h->h, true);
		h->boot = l->boot;
	}
	h->heard_us = loop_now_us(l->c->loop);
	if (l->learning)
		memset(need, 0, sizeof(need));
	quota_give(&a->pool, &h->h, l->window, held, need);
	buf_printf(out, "%s{\"id\":", out->base[out->len - 1] == '[' ? "" : ",");
	buf_append_json(out, str_from(a->id));
	buf_append_str(out, STR(",\"held\":"));
	quota_numbers_write(h->h.held, out);
	for (int k = 0; k < QUOTA_KINDS; k++)
		held[k] = quota_left(&a->pool, k) > 0 ? quota_left(&a->pool, k) : 0;
	buf_append_str(out, STR(",\"left\":"));
	quota_numbers_write(held, out);
	buf_append_str(out, STR("}"));
	return 0;
}

static int make_leases(struct lease_call *l, yyjson_val *body, struct buf *out, struct error *err)
{
	yyjson_val *accounts = NULL, *item;
	size_t i, max;
	int rc;
	if ((rc = json_i64(body, "minute", 0, QUOTA_MOST, &l->window.minute, err)) < 0 ||
	    (rc = json_i64(body, "month", 0, QUOTA_MOST, &l->window.month, err)) < 0 ||
	    (rc = json_arr(body, "accounts", &accounts, err)) < 0)
		return rc;
	if (yyjson_arr_size(accounts) > QUOTA_ACCOUNTS_MAX)
		return error_set(err, E_LIMIT, "\"accounts\" has more than %d entries", QUOTA_ACCOUNTS_MAX);
	int64_t wall = clock_wall_us();
	l->now = quota_window_at(wall);
	buf_printf(out,
	           "{\"minute\":%" PRId64 ",\"minute_left_us\":%" PRId64 ",\"month\":%" PRId64
	           ",\"month_left_us\":%" PRId64 ",\"learning\":%s,\"accounts\":[",
	           l->now.minute, quota_minute_end_us(l->now) - wall, l->now.month, quota_month_end_us(l->now) - wall,
	           l->learning ? "true" : "false");
	yyjson_arr_foreach(accounts, i, max, item) if ((rc = make_lease(l, item, out, err)) < 0) return rc;
	buf_append_str(out, STR("]}"));
	return 0;
}

int quotas_call(struct center *c, struct http_exchange *x, yyjson_val *body, struct error *err)
{
	struct registered *r = center_caller(c, x);
	struct lease_call l = {.c = c, .learning = loop_now_us(c->loop) - c->begun_us < LEARN_US};
	yyjson_val *records = NULL;
	struct buf out = {0};
	int rc;
	if (!r)
		return error_set(err, E_FORBIDDEN, "this call is for nodes");
	l.node = r->id;
	if ((rc = admit_call(c->quotas, r->id, body, &l.boot, err)) == 0 &&
	    (rc = json_arr(body, "records", &records, err)) == 0 &&
	    (rc = take_records(c->quotas, r->id, records, err)) == 0)
		rc = make_leases(&l, body, &out, err);
	if (rc == 0)
		center_answer(x, &out);
	buf_fini(&out);
	return rc;
}

/* An edge that is gone for good, or for now. */
static void hear_again(struct center *c, struct account *a)
{
	for (size_t i = 0; i < a->holder_count;) {
		struct holder *h = &a->holders[i];
		const struct registered *r = registry_find(c, str_from(h->node));
		bool keep = false;
		if (!r || r->removed)
			quota_holder_gone(&a->pool, &h->h, false);
		else if (loop_now_us(c->loop) - h->heard_us > SILENT_US)
			quota_holder_silent(&a->pool, &h->h);
		else
			keep = true;
		for (int k = 0; k < QUOTA_KINDS; k++)
			keep = keep || h->h.held[k];
		if (keep)
			i++;
		else
			*h = a->holders[--a->holder_count];
	}
}

void quotas_tick(struct center *c)
{
	struct quotas *q = c->quotas;
	struct error err = {0};
	bool keeps = c->lead && loop_now_us(c->loop) - q->kept_us >= KEEP_US;
	if (keeps)
		q->kept_us = loop_now_us(c->loop);
	for (size_t i = 0; i < q->account_count; i++)
		hear_again(c, &q->accounts[i]);
	for (size_t i = 0; keeps && i < q->account_count; i += KEEP_TOGETHER) {
		if (state_begin(c->state, &err) < 0)
			return;
		for (size_t k = i; k < q->account_count && k < i + KEEP_TOGETHER; k++)
			keep(c, &q->accounts[k]);
		if (state_commit(c->state, &err) < 0) { /* who leads next has what was kept before */
			log_warn(ROOM, "what keys have spent is only in this center's books: %s", err.text);
			return;
		}
	}
}

/* ---- for people ---------------------------------------------------------------------------------------------------
 */

static void put_record(void *arg, const struct usage_record *r)
{
	struct buf *out = arg;
	char time[25];
	clock_format(r->at_us, time);
	buf_printf(out,
	           "%s{\"serial\":%" PRIu64 ",\"node\":\"%s\",\"boot\":%" PRIu64 ",\"seq\":%" PRIu64
	           ",\"time\":\"%s\",\"key\":",
	           out->base[out->len - 1] == '[' ? "" : ",", r->serial, r->node, r->boot, r->seq, time);
	buf_append_json(out, str_from(r->key));
	buf_append_str(out, STR(",\"team\":"));
	buf_append_json(out, str_from(r->team));
	buf_append_str(out, STR(",\"model\":"));
	buf_append_json(out, str_from(r->model));
	buf_append_str(out, STR(",\"api\":"));
	buf_append_json(out, str_from(r->api));
	buf_append_str(out, STR(",\"request_id\":"));
	buf_append_json(out, str_from(r->request));
	buf_printf(out,
	           ",\"status\":%d,\"prompt_tokens\":%" PRId64 ",\"cached_tokens\":%" PRId64
	           ",\"completion_tokens\":%" PRId64 "}",
	           r->status, r->prompt_tokens, r->cached_tokens, r->completion_tokens);
}

static int query_number(struct http_exchange *x, const char *name, uint64_t *ret, struct error *err)
{
	struct str text;
	if (http_query(x, name, &text) && (str_to_u64(text, ret) < 0 || *ret > INT64_MAX))
		return error_set(err, E_INVAL, "%s wants a number", name);
	return 0;
}

int quotas_usage(struct center *c, struct http_exchange *x, struct error *err)
{
	struct usage_query q = {.limit = USAGE_PAGE};
	uint64_t from = 0, to = 0;
	struct buf out = {0};
	int rc;
	http_query(x, "key", &q.key);
	http_query(x, "team", &q.team);
	if ((rc = query_number(x, "after", &q.after, err)) < 0 || (rc = query_number(x, "from_us", &from, err)) < 0 ||
	    (rc = query_number(x, "to_us", &to, err)) < 0)
		return rc;
	q.from_us = (int64_t)from;
	q.to_us = (int64_t)to;
	buf_append_str(&out, STR("{\"records\":["));
	if ((rc = usage_each(c->quotas->books, &q, put_record, &out, err)) == 0) {
		buf_append_str(&out, STR("]}"));
		center_answer(x, &out);
	}
	buf_fini(&out);
	return rc;
}

static void put_sum(void *arg, const struct usage_sum *s)
{
	struct buf *out = arg;
	buf_printf(out, "%s{\"key\":", out->base[out->len - 1] == '[' ? "" : ",");
	buf_append_json(out, str_from(s->key));
	buf_append_str(out, STR(",\"team\":"));
	buf_append_json(out, str_from(s->team));
	buf_printf(out,
	           ",\"requests\":%" PRId64 ",\"prompt_tokens\":%" PRId64 ",\"cached_tokens\":%" PRId64
	           ",\"completion_tokens\":%" PRId64 "}",
	           s->requests, s->prompt_tokens, s->cached_tokens, s->completion_tokens);
}

int quotas_sums(struct center *c, struct http_exchange *x, struct error *err)
{
	uint64_t month = (uint64_t)quota_window_at(clock_wall_us()).month;
	struct buf out = {0};
	int rc = query_number(x, "month", &month, err);
	if (rc < 0)
		return rc;
	buf_printf(&out, "{\"month\":%" PRIu64 ",\"sums\":[", month);
	if ((rc = usage_sums(c->quotas->books, (int64_t)month, put_sum, &out, err)) == 0) {
		buf_append_str(&out, STR("]}"));
		center_answer(x, &out);
	}
	buf_fini(&out);
	return rc;
}

/* ---- life ---------------------------------------------------------------------------------------------------------
 */

int quotas_open(struct center *c, struct error *err)
{
	c->quotas = NEW(struct quotas);
	return usage_open(str_from(c->usage_path), true, &c->quotas->books, err);
}

void quotas_close(struct center *c)
{
	struct quotas *q = c->quotas;
	if (!q)
		return;
	while (q->account_count)
		account_drop(q, q->account_count - 1);
	free(q->accounts);
	free(q->callers);
	usage_close(q->books);
	free(q);
	c->quotas = NULL;
}
