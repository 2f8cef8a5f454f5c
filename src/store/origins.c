/* SPDX-License-Identifier: Apache-2.0 */
/* Two tables on one connection behind one lock. */
#include "store/origins.h"

#include "store/sql.h"

#include <pthread.h>
#include <stdlib.h>

static const char schema[] =
    "CREATE TABLE origins(repo TEXT NOT NULL, digest BLOB NOT NULL, url TEXT NOT NULL, scope TEXT NOT NULL, "
    "size INTEGER NOT NULL, PRIMARY KEY(repo, digest)) WITHOUT ROWID;"
    "CREATE TABLE asked(key TEXT PRIMARY KEY, wall_us INTEGER NOT NULL) WITHOUT ROWID";

enum { PUT, GET, ANY, KNOWS, SET_ASKED, ASKED, STATEMENTS };
static const char *const statements[STATEMENTS] = {
    [PUT] = "INSERT OR REPLACE INTO origins VALUES(?1, ?2, ?3, ?4, ?5)",
    [GET] = "SELECT url, scope, size FROM origins WHERE repo = ?1 AND digest = ?2",
    [ANY] = "SELECT repo, url FROM origins WHERE digest = ?1",
    [KNOWS] = "SELECT 1 FROM origins WHERE repo = ?1 LIMIT 1",
    [SET_ASKED] = "INSERT OR REPLACE INTO asked VALUES(?1, ?2)",
    [ASKED] = "SELECT wall_us FROM asked WHERE key = ?1",
};

struct origins {
	sqlite3 *db;
	sqlite3_stmt *stmt[STATEMENTS];
	pthread_mutex_t lock;
};

int origins_open(struct str path, struct origins **ret_origins, struct error *err)
{
	struct origins *o = NEW(struct origins);
	char *file = str_dup(path);
	pthread_mutex_init(&o->lock, NULL);
	int rc = sql_open(file, 1, schema, &o->db, err);
	if (!rc) /* hints: not worth a wait for the disk, with the loop behind the lock */
		rc = sql_exec(o->db, "PRAGMA synchronous=NORMAL", err);
	if (!rc)
		rc = sql_exec(o->db, "CREATE INDEX IF NOT EXISTS by_digest ON origins(digest)", err);
	for (int i = 0; !rc && i < STATEMENTS; i++)
		rc = sql_prepare(o->db, statements[i], &o->stmt[i], err);
	free(file);
	if (rc) {
		origins_close(o);
		return rc;
	}
	*ret_origins = o;
	return 0;
}

void origins_close(struct origins *o)
{
	if (!o)
		return;
	for (int i = 0; i < STATEMENTS; i++)
		sqlite3_finalize(o->stmt[i]);
	sqlite3_close(o->db);
	pthread_mutex_destroy(&o->lock);
	free(o);
}

static int run(struct origins *o, sqlite3_stmt *stmt, struct error *err)
{
	int rc = sqlite3_step(stmt) == SQLITE_DONE ? 0 : sql_fail(o->db, "cannot write where blobs come from", err);
	sql_reset(stmt);
	return rc;
}

int origins_put(struct origins *o, struct str repo, const struct digest *d, const struct origin *origin,
                struct error *err)
{
	pthread_mutex_lock(&o->lock);
	sqlite3_stmt *stmt = o->stmt[PUT];
	sql_bind_text(stmt, 1, repo);
	sql_bind_digest(stmt, 2, d);
	sql_bind_text(stmt, 3, str_from(origin->url));
	sql_bind_text(stmt, 4, str_from(origin->scope));
	sqlite3_bind_int64(stmt, 5, (sqlite3_int64)origin->size);
	int rc = run(o, stmt, err);
	pthread_mutex_unlock(&o->lock);
	return rc;
}

int origins_get(struct origins *o, struct str repo, const struct digest *d, struct origin *ret_origin,
                struct error *err)
{
	int rc = 0;
	pthread_mutex_lock(&o->lock);
	sqlite3_stmt *stmt = o->stmt[GET];
	sql_bind_text(stmt, 1, repo);
	sql_bind_digest(stmt, 2, d);
	if (sqlite3_step(stmt) != SQLITE_ROW)
		rc = error_set(err, E_NOTFOUND, "nobody is known to have this blob");
	if (!rc) {
		ret_origin->size = (uint64_t)sqlite3_column_int64(stmt, 2);
		if (!str_copy(sql_bytes(stmt, 0), ret_origin->url, sizeof ret_origin->url) ||
		    !str_copy(sql_bytes(stmt, 1), ret_origin->scope, sizeof ret_origin->scope))
			rc = error_set(err, E_CORRUPT, "where this blob comes from cannot be read");
	}
	sql_reset(stmt);
	pthread_mutex_unlock(&o->lock);
	return rc;
}

bool origins_any(struct origins *o, const struct digest *d, bool (*fn)(void *arg, struct str repo, struct str url),
                 void *arg)
{
	struct buf rows = {0};
	bool any = false;
	pthread_mutex_lock(&o->lock);
	sqlite3_stmt *stmt = o->stmt[ANY];
	sql_bind_digest(stmt, 1, d);
	while (sqlite3_step(stmt) == SQLITE_ROW) { /* a name has no space, an address no line break */
		buf_append_str(&rows, sql_bytes(stmt, 0));
		buf_append_str(&rows, STR(" "));
		buf_append_str(&rows, sql_bytes(stmt, 1));
		buf_append_str(&rows, STR("\n"));
	}
	sql_reset(stmt);
	pthread_mutex_unlock(&o->lock);
	for (struct str rest = buf_str(&rows), url; rest.len && !any;) {
		struct str repo = str_cut(str_cut(rest, '\n', &rest), ' ', &url);
		any = fn(arg, repo, url);
	}
	buf_fini(&rows);
	return any;
}

bool origins_knows(struct origins *o, struct str repo)
{
	pthread_mutex_lock(&o->lock);
	sqlite3_stmt *stmt = o->stmt[KNOWS];
	sql_bind_text(stmt, 1, repo);
	bool knows = sqlite3_step(stmt) == SQLITE_ROW;
	sql_reset(stmt);
	pthread_mutex_unlock(&o->lock);
	return knows;
}

int64_t origins_asked(struct origins *o, struct str key)
{
	pthread_mutex_lock(&o->lock);
	sqlite3_stmt *stmt = o->stmt[ASKED];
	sql_bind_text(stmt, 1, key);
	int64_t us = sqlite3_step(stmt) == SQLITE_ROW ? sqlite3_column_int64(stmt, 0) : 0;
	sql_reset(stmt);
	pthread_mutex_unlock(&o->lock);
	return us;
}

int origins_set_asked(struct origins *o, struct str key, int64_t wall_us, struct error *err)
{
	pthread_mutex_lock(&o->lock);
	sqlite3_stmt *stmt = o->stmt[SET_ASKED];
	sql_bind_text(stmt, 1, key);
	sqlite3_bind_int64(stmt, 2, wall_us);
	int rc = run(o, stmt, err);
	pthread_mutex_unlock(&o->lock);
	return rc;
}
