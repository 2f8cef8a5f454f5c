/* SPDX-License-Identifier: Apache-2.0 */
/* One table in one SQLite file. A compare-and-set is one transaction that reads and then writes. */
#include "store/state.h"

#include "store/sql.h"

#include <stdlib.h>

#define VALUE_MAX (1u << 20)
#define KEY_MAX 4096

enum { GET, PUT, DELETE, EACH, STATEMENTS };

static const char schema[] = "CREATE TABLE state(space TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, "
			     "PRIMARY KEY(space, key)) WITHOUT ROWID";

static const char *const statements[STATEMENTS] = {
    [GET] = "SELECT value FROM state WHERE space = ?1 AND key = ?2",
    [PUT] = "INSERT OR REPLACE INTO state(space, key, value) VALUES(?1, ?2, ?3)",
    [DELETE] = "DELETE FROM state WHERE space = ?1 AND key = ?2",
    [EACH] = "SELECT key, value FROM state WHERE space = ?1 ORDER BY key",
};

struct state {
	sqlite3 *db;
	sqlite3_stmt *stmt[STATEMENTS];
};

int state_open(struct str path, struct state **ret_state, struct error *err)
{
	struct state *s = NEW(struct state);
	char *file = str_dup(path);
	int rc = sql_open(file, 1, schema, &s->db, err);
	for (int i = 0; !rc && i < STATEMENTS; i++)
		rc = sql_prepare(s->db, statements[i], &s->stmt[i], err);
	free(file);
	if (rc) {
		state_close(s);
		return rc;
	}
	*ret_state = s;
	return 0;
}

void state_close(struct state *s)
{
	if (!s)
		return;
	for (int i = 0; i < STATEMENTS; i++)
		sqlite3_finalize(s->stmt[i]);
	sqlite3_close(s->db);
	free(s);
}

static sqlite3_stmt *bind(struct state *s, int which, const char *space, struct str key)
{
	sql_bind_text(s->stmt[which], 1, str_from(space));
	sql_bind_text(s->stmt[which], 2, key);
	return s->stmt[which];
}

int state_get(struct state *s, const char *space, struct str key, struct buf *out, struct error *err)
{
	int rc = 0;
	sqlite3_stmt *get = bind(s, GET, space, key);
	int step = sqlite3_step(get);
	if (step == SQLITE_ROW)
		buf_append_str(out, sql_bytes(get, 0));
	else if (step == SQLITE_DONE)
		rc = error_set(err, E_NOTFOUND, "there is no " STR_FMT " in %s", STR_ARG(key), space);
	else
		rc = sql_fail(s->db, "cannot read the state", err);
	sql_reset(get);
	return rc;
}

int state_put(struct state *s, const char *space, struct str key, struct str value, struct error *err)
{
	if (value.len > VALUE_MAX || key.len > KEY_MAX || !key.len)
		return error_set(err, E_LIMIT,
		                 "the state takes keys of 1 to %d and values of up to %u bytes, not %zu and %zu",
		                 KEY_MAX, VALUE_MAX, key.len, value.len);
	sqlite3_stmt *put = bind(s, PUT, space, key);
	sql_bind_blob(put, 3, value);
	return sql_run(put, "cannot write the state", err);
}

int state_begin(struct state *s, struct error *err)
{
	return sql_exec(s->db, "BEGIN IMMEDIATE", err);
}

int state_commit(struct state *s, struct error *err)
{
	int rc = sql_exec(s->db, "COMMIT", err);
	if (rc)
		state_undo(s);
	return rc;
}

void state_undo(struct state *s)
{
	sql_exec(s->db, "ROLLBACK", NULL); /* fails where SQLite has done so by itself */
}

static int put_if(struct state *s, const char *space, struct str key, struct str expected, struct str value,
                  struct error *err)
{
	struct buf now = {0};
	int rc = state_get(s, space, key, &now, err);
	bool absent = rc == E_NOTFOUND;
	if (!rc || absent)
		rc = (absent ? !expected.len : expected.len && str_equal(buf_str(&now), expected))
		         ? state_put(s, space, key, value, err)
		         : error_set(err, E_CONFLICT, STR_FMT " in %s was changed by somebody else meanwhile",
		                     STR_ARG(key), space);
	buf_fini(&now);
	return rc;
}

int state_put_if(struct state *s, const char *space, struct str key, struct str expected, struct str value,
                 struct error *err)
{
	int rc = state_begin(s, err);
	if (rc)
		return rc;
	rc = put_if(s, space, key, expected, value, err);
	if (!rc)
		return state_commit(s, err);
	state_undo(s);
	return rc;
}

int state_delete(struct state *s, const char *space, struct str key, struct error *err)
{
	return sql_run(bind(s, DELETE, space, key), "cannot write the state", err);
}

/* The callback may change the state: rows are copied out first. */
int state_each(struct state *s, const char *space, void (*fn)(void *arg, struct str key, struct str value), void *arg,
               struct error *err)
{
	struct buf bytes = {0}, lengths = {0};
	sqlite3_stmt *each = s->stmt[EACH];
	int step;
	sql_bind_text(each, 1, str_from(space));
	while ((step = sqlite3_step(each)) == SQLITE_ROW) {
		for (int column = 0; column < 2; column++) {
			struct str part = sql_bytes(each, column);
			buf_append(&lengths, &part.len, sizeof part.len);
			buf_append_str(&bytes, part);
		}
	}
	int rc = step == SQLITE_DONE ? 0 : sql_fail(s->db, "cannot read the state", err);
	sql_reset(each);
	const char *at = bytes.base;
	for (size_t i = 0; !rc && i < lengths.len; i += 2 * sizeof(size_t)) {
		size_t len[2];
		memcpy(len, lengths.base + i, sizeof len);
		fn(arg, (struct str){at, len[0]}, (struct str){at + len[0], len[1]});
		at += len[0] + len[1];
	}
	buf_fini(&bytes);
	buf_fini(&lengths);
	return rc;
}
