/* SPDX-License-Identifier: Apache-2.0 */
/* One table in one SQLite file. */
#include "store/sql.h"
#include "store/state_private.h"

#include <stdlib.h>

enum { GET, PUT, DELETE, EACH, SPACES, STATEMENTS };

static const char schema[] = "CREATE TABLE state(space TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, "
			     "PRIMARY KEY(space, key)) WITHOUT ROWID";

static const char *const statements[STATEMENTS] = {
    [GET] = "SELECT value FROM state WHERE space = ?1 AND key = ?2",
    [PUT] = "INSERT OR REPLACE INTO state(space, key, value) VALUES(?1, ?2, ?3)",
    [DELETE] = "DELETE FROM state WHERE space = ?1 AND key = ?2",
    [EACH] = "SELECT key, value FROM state WHERE space = ?1 ORDER BY key",
    [SPACES] = "SELECT DISTINCT space FROM state",
};

struct lite {
	struct state state;
	sqlite3 *db;
	sqlite3_stmt *stmt[STATEMENTS];
};

static struct lite *lite_of(struct state *s)
{
	return (struct lite *)s; /* its first member */
}

static void lite_close(struct state *state)
{
	struct lite *s = lite_of(state);
	for (int i = 0; i < STATEMENTS; i++)
		sqlite3_finalize(s->stmt[i]);
	sqlite3_close(s->db);
	free(s);
}

static sqlite3_stmt *bind(struct lite *s, int which, const char *space, struct str key)
{
	sql_bind_text(s->stmt[which], 1, str_from(space));
	sql_bind_text(s->stmt[which], 2, key);
	return s->stmt[which];
}

static int lite_get(struct state *state, const char *space, struct str key, struct buf *out, struct error *err)
{
	struct lite *s = lite_of(state);
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

static int lite_put(struct state *state, const char *space, struct str key, struct str value, struct error *err)
{
	sqlite3_stmt *put = bind(lite_of(state), PUT, space, key);
	sql_bind_blob(put, 3, value);
	return sql_run(put, "cannot write the state", err);
}

static int lite_begin(struct state *state, struct error *err)
{
	return sql_exec(lite_of(state)->db, "BEGIN IMMEDIATE", err);
}

static void lite_undo(struct state *state)
{
	sql_exec(lite_of(state)->db, "ROLLBACK", NULL); /* fails where SQLite has done so by itself */
}

static int lite_commit(struct state *state, struct error *err)
{
	int rc = sql_exec(lite_of(state)->db, "COMMIT", err);
	if (rc)
		lite_undo(state);
	return rc;
}

static int lite_delete(struct state *state, const char *space, struct str key, struct error *err)
{
	return sql_run(bind(lite_of(state), DELETE, space, key), "cannot write the state", err);
}

/* The callback may change the state: rows are copied out first. */
static int lite_each(struct state *state, const char *space, state_fn *fn, void *arg, struct error *err)
{
	struct lite *s = lite_of(state);
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

static int lite_spaces(struct state *state, state_space_fn *fn, void *arg, struct error *err)
{
	struct lite *s = lite_of(state);
	sqlite3_stmt *spaces = s->stmt[SPACES];
	int step;
	while ((step = sqlite3_step(spaces)) == SQLITE_ROW) {
		char *space = str_dup(sql_bytes(spaces, 0));
		fn(arg, space);
		free(space);
	}
	int rc = step == SQLITE_DONE ? 0 : sql_fail(s->db, "cannot read the state", err);
	sql_reset(spaces);
	return rc;
}

int state_open(struct str path, struct state **ret_state, struct error *err)
{
	static const struct state_ops ops = {lite_close,  lite_get,   lite_put,    lite_delete, lite_each,
	                                     lite_spaces, lite_begin, lite_commit, lite_undo};
	struct lite *s = NEW(struct lite);
	char *file = str_dup(path);
	int rc = sql_open(file, 1, schema, &s->db, err);
	for (int i = 0; !rc && i < STATEMENTS; i++)
		rc = sql_prepare(s->db, statements[i], &s->stmt[i], err);
	free(file);
	s->state.ops = &ops;
	if (rc) {
		lite_close(&s->state);
		return rc;
	}
	*ret_state = &s->state;
	return 0;
}
