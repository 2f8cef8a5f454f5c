/* SPDX-License-Identifier: Apache-2.0 */
/* How: one table, and beside it sums by month and key that change in the same transaction, so that a budget is one row
 * to read however many requests there were.
 */
#include "store/usage.h"

#include "store/sql.h"

#include <stdlib.h>

enum { ADD, TALLY, DROP, EACH, OF_KEY, OF_TEAM, SUMS, STATEMENTS };

static const char schema[] =
    "CREATE TABLE usage(serial INTEGER PRIMARY KEY AUTOINCREMENT, node TEXT NOT NULL, boot INTEGER NOT NULL, "
    "seq INTEGER NOT NULL, at_us INTEGER NOT NULL, month INTEGER NOT NULL, key TEXT NOT NULL, team TEXT NOT NULL, "
    "model TEXT NOT NULL, api TEXT NOT NULL, request TEXT NOT NULL, status INTEGER NOT NULL, prompt INTEGER NOT NULL, "
    "cached INTEGER NOT NULL, completion INTEGER NOT NULL, UNIQUE(node, boot, seq));"
    "CREATE TABLE tally(month INTEGER NOT NULL, key TEXT NOT NULL, team TEXT NOT NULL, requests INTEGER NOT NULL, "
    "prompt INTEGER NOT NULL, cached INTEGER NOT NULL, completion INTEGER NOT NULL, PRIMARY KEY(month, key, team)) "
    "WITHOUT ROWID;"
    "CREATE INDEX tally_team ON tally(month, team)";

static const char *const statements[STATEMENTS] = {
    [ADD] =
	"INSERT OR IGNORE INTO usage(node, boot, seq, at_us, month, key, team, model, api, request, status, prompt, "
	"cached, completion) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
    [TALLY] = "INSERT INTO tally VALUES(?1, ?2, ?3, 1, ?4, ?5, ?6) ON CONFLICT DO UPDATE SET requests = requests + 1, "
	      "prompt = prompt + ?4, cached = cached + ?5, completion = completion + ?6",
    [DROP] = "DELETE FROM usage WHERE serial <= ?1",
    [EACH] = "SELECT serial, node, boot, seq, at_us, month, key, team, model, api, request, status, prompt, cached, "
	     "completion FROM usage WHERE serial > ?1 AND at_us >= ?2 AND (?3 = 0 OR at_us < ?3) AND "
	     "(?4 = '' OR key = ?4) AND (?5 = '' OR team = ?5) ORDER BY serial LIMIT ?6",
    [OF_KEY] = "SELECT coalesce(sum(prompt + completion), 0) FROM tally WHERE month = ?1 AND key = ?2",
    [OF_TEAM] = "SELECT coalesce(sum(prompt + completion), 0) FROM tally WHERE month = ?1 AND team = ?2",
    [SUMS] = "SELECT key, team, requests, prompt, cached, completion FROM tally WHERE month = ?1 ORDER BY key, team",
};

struct usage {
	sqlite3 *db;
	sqlite3_stmt *stmt[STATEMENTS];
};

int usage_open(struct str path, bool durable, struct usage **ret_usage, struct error *err)
{
	struct usage *u = NEW(struct usage);
	char *file = str_dup(path);
	int rc = sql_open(file, 1, schema, &u->db, err);
	if (!rc && !durable)
		rc = sql_exec(u->db, "PRAGMA synchronous=NORMAL", err);
	for (int i = 0; !rc && i < STATEMENTS; i++)
		rc = sql_prepare(u->db, statements[i], &u->stmt[i], err);
	free(file);
	if (rc) {
		usage_close(u);
		return rc;
	}
	*ret_usage = u;
	return 0;
}

void usage_close(struct usage *u)
{
	if (!u)
		return;
	for (int i = 0; i < STATEMENTS; i++)
		sqlite3_finalize(u->stmt[i]);
	sqlite3_close(u->db);
	free(u);
}

int usage_begin(struct usage *u, struct error *err)
{
	return sql_exec(u->db, "BEGIN IMMEDIATE", err);
}

int usage_commit(struct usage *u, struct error *err)
{
	int rc = sql_exec(u->db, "COMMIT", err);
	if (rc)
		usage_undo(u);
	return rc;
}

void usage_undo(struct usage *u)
{
	struct error ignored;
	if (!sqlite3_get_autocommit(u->db))
		sql_exec(u->db, "ROLLBACK", &ignored);
}

static int tally(struct usage *u, const struct usage_record *r, struct error *err)
{
	sqlite3_stmt *s = u->stmt[TALLY];
	sqlite3_bind_int64(s, 1, r->month);
	sql_bind_text(s, 2, str_from(r->key));
	sql_bind_text(s, 3, str_from(r->team));
	sqlite3_bind_int64(s, 4, r->prompt_tokens);
	sqlite3_bind_int64(s, 5, r->cached_tokens);
	sqlite3_bind_int64(s, 6, r->completion_tokens);
	return sql_run(s, "cannot count the usage", err);
}

int usage_add(struct usage *u, const struct usage_record *r, bool *ret_new, struct error *err)
{
	sqlite3_stmt *s = u->stmt[ADD];
	sql_bind_text(s, 1, str_from(r->node));
	sqlite3_bind_int64(s, 2, (int64_t)r->boot);
	sqlite3_bind_int64(s, 3, (int64_t)r->seq);
	sqlite3_bind_int64(s, 4, r->at_us);
	sqlite3_bind_int64(s, 5, r->month);
	sql_bind_text(s, 6, str_from(r->key));
	sql_bind_text(s, 7, str_from(r->team));
	sql_bind_text(s, 8, str_from(r->model));
	sql_bind_text(s, 9, str_from(r->api));
	sql_bind_text(s, 10, str_from(r->request));
	sqlite3_bind_int(s, 11, r->status);
	sqlite3_bind_int64(s, 12, r->prompt_tokens);
	sqlite3_bind_int64(s, 13, r->cached_tokens);
	sqlite3_bind_int64(s, 14, r->completion_tokens);
	int rc = sql_run(s, "cannot write down the usage", err);
	if (rc)
		return rc;
	*ret_new = sqlite3_changes(u->db) > 0;
	return *ret_new ? tally(u, r, err) : 0;
}

int usage_drop(struct usage *u, uint64_t up_to, struct error *err)
{
	sqlite3_bind_int64(u->stmt[DROP], 1, (int64_t)up_to);
	return sql_run(u->stmt[DROP], "cannot let go of usage records", err);
}

static void read_record(sqlite3_stmt *s, struct usage_record *r)
{
	r->serial = (uint64_t)sqlite3_column_int64(s, 0);
	str_copy(sql_bytes(s, 1), r->node, sizeof(r->node));
	r->boot = (uint64_t)sqlite3_column_int64(s, 2);
	r->seq = (uint64_t)sqlite3_column_int64(s, 3);
	r->at_us = sqlite3_column_int64(s, 4);
	r->month = sqlite3_column_int64(s, 5);
	str_copy(sql_bytes(s, 6), r->key, sizeof(r->key));
	str_copy(sql_bytes(s, 7), r->team, sizeof(r->team));
	str_copy(sql_bytes(s, 8), r->model, sizeof(r->model));
	str_copy(sql_bytes(s, 9), r->api, sizeof(r->api));
	str_copy(sql_bytes(s, 10), r->request, sizeof(r->request));
	r->status = sqlite3_column_int(s, 11);
	r->prompt_tokens = sqlite3_column_int64(s, 12);
	r->cached_tokens = sqlite3_column_int64(s, 13);
	r->completion_tokens = sqlite3_column_int64(s, 14);
}

/* Resets s; step: what it said last. */
static int ended(struct usage *u, sqlite3_stmt *s, int step, struct error *err)
{
	int rc = step == SQLITE_DONE || step == SQLITE_ROW ? 0 : sql_fail(u->db, "cannot read the usage", err);
	sql_reset(s);
	return rc;
}

int usage_each(struct usage *u, const struct usage_query *q, void (*fn)(void *arg, const struct usage_record *r),
               void *arg, struct error *err)
{
	sqlite3_stmt *s = u->stmt[EACH];
	int step;
	sqlite3_bind_int64(s, 1, (int64_t)q->after);
	sqlite3_bind_int64(s, 2, q->from_us);
	sqlite3_bind_int64(s, 3, q->to_us);
	sql_bind_text(s, 4, q->key);
	sql_bind_text(s, 5, q->team);
	sqlite3_bind_int64(s, 6, (int64_t)q->limit);
	while ((step = sqlite3_step(s)) == SQLITE_ROW) {
		struct usage_record r = {0};
		read_record(s, &r);
		fn(arg, &r);
	}
	return ended(u, s, step, err);
}

int usage_month_tokens(struct usage *u, int64_t month, struct str key, struct str team, int64_t *ret_tokens,
                       struct error *err)
{
	sqlite3_stmt *s = u->stmt[key.len ? OF_KEY : OF_TEAM];
	sqlite3_bind_int64(s, 1, month);
	sql_bind_text(s, 2, key.len ? key : team);
	int step = sqlite3_step(s);
	if (step == SQLITE_ROW)
		*ret_tokens = sqlite3_column_int64(s, 0);
	return ended(u, s, step, err);
}

int usage_sums(struct usage *u, int64_t month, void (*fn)(void *arg, const struct usage_sum *s), void *arg,
               struct error *err)
{
	sqlite3_stmt *s = u->stmt[SUMS];
	int step;
	sqlite3_bind_int64(s, 1, month);
	while ((step = sqlite3_step(s)) == SQLITE_ROW) {
		struct usage_sum sum = {
		    .requests = sqlite3_column_int64(s, 2),
		    .prompt_tokens = sqlite3_column_int64(s, 3),
		    .cached_tokens = sqlite3_column_int64(s, 4),
		    .completion_tokens = sqlite3_column_int64(s, 5),
		};
		str_copy(sql_bytes(s, 0), sum.key, sizeof(sum.key));
		str_copy(sql_bytes(s, 1), sum.team, sizeof(sum.team));
		fn(arg, &sum);
	}
	return ended(u, s, step, err);
}
