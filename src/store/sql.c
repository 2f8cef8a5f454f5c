/* SPDX-License-Identifier: Apache-2.0 */
#include "store/sql.h"

#include <stdlib.h>

#define BUSY_MS 2000

int sql_fail(sqlite3 *db, const char *doing, struct error *err)
{
	const char *file = db ? sqlite3_db_filename(db, "main") : NULL;
	const char *what = db ? sqlite3_errmsg(db) : "out of memory";
	int code = db ? sqlite3_errcode(db) & 0xff : SQLITE_NOMEM;
	if (!file || !*file)
		file = "the database";
	switch (code) {
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return error_set(err, E_UNAVAILABLE,
		                 "%s: %s is locked by another process; is a second mdn using this folder?", doing,
		                 file);
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		return error_set(err, E_CORRUPT,
		                 "%s: %s is damaged (%s); restore it from a copy, or move it away to begin anew", doing,
		                 file, what);
	case SQLITE_READONLY:
	case SQLITE_PERM:
	case SQLITE_AUTH:
		return error_set(err, E_IO,
		                 "%s: %s cannot be written; give this user the right to write the file and its folder",
		                 doing, file);
	case SQLITE_FULL:
		return error_set(err, E_NOSPACE, "%s: the disk of %s is full; free some space", doing, file);
	case SQLITE_CANTOPEN:
		return error_set(err, E_IO,
		                 "%s: %s cannot be opened; does its folder exist, and may this user write there?",
		                 doing, file);
	default:
		return error_set(err, E_IO, "%s: %s: %s", doing, file, what);
	}
}

int sql_exec(sqlite3 *db, const char *text, struct error *err)
{
	return sqlite3_exec(db, text, NULL, NULL, NULL) == SQLITE_OK ? 0 : sql_fail(db, "cannot use a database", err);
}

static int user_version(sqlite3 *db, int *ret_version, struct error *err)
{
	sqlite3_stmt *stmt;
	int rc = sql_prepare(db, "PRAGMA user_version", &stmt, err);
	if (rc)
		return rc;
	if (sqlite3_step(stmt) == SQLITE_ROW)
		*ret_version = sqlite3_column_int(stmt, 0);
	else
		rc = sql_fail(db, "cannot read a database", err);
	sqlite3_finalize(stmt);
	return rc;
}

static int open_plain(const char *path, int flags, sqlite3 **ret_db, struct error *err)
{
	sqlite3 *db = NULL;
	if (sqlite3_open_v2(path, &db, flags | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK) {
		int rc = sql_fail(db, "cannot open a database", err);
		sqlite3_close(db);
		return rc;
	}
	sqlite3_busy_timeout(db, BUSY_MS);
	*ret_db = db;
	return 0;
}

/* The schema and its number appear together or not at all. */
static int create_schema(sqlite3 *db, int version, const char *schema, struct error *err)
{
	struct buf text = {0};
	buf_printf(&text, "BEGIN IMMEDIATE; %s; PRAGMA user_version=%d; COMMIT", schema, version);
	int rc = sql_exec(db, text.base, err);
	buf_fini(&text);
	return rc;
}

int sql_open(const char *path, int schema_version, const char *schema, sqlite3 **ret_db, struct error *err)
{
	sqlite3 *db;
	int version = 0;
	int rc = open_plain(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, &db, err);
	if (rc)
		return rc;
	rc = sql_exec(db, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA trusted_schema=OFF", err);
	if (!rc)
		rc = user_version(db, &version, err);
	if (!rc && version > schema_version)
		rc = error_set(err, E_UNSUPPORTED,
		               "%s was written by a newer mdn (form %d, this one knows %d); update mdn", path, version,
		               schema_version);
	if (!rc && !version)
		rc = create_schema(db, schema_version, schema, err);
	if (rc) {
		sqlite3_close(db);
		return rc;
	}
	*ret_db = db;
	return 0;
}

int sql_open_reader(const char *path, sqlite3 **ret_db, struct error *err)
{
	return open_plain(path, SQLITE_OPEN_READWRITE, ret_db, err);
}

int sql_prepare(sqlite3 *db, const char *text, sqlite3_stmt **ret_stmt, struct error *err)
{
	if (sqlite3_prepare_v3(db, text, -1, SQLITE_PREPARE_PERSISTENT, ret_stmt, NULL) == SQLITE_OK)
		return 0;
	return sql_fail(db, "cannot use a database", err);
}

void sql_bind_text(sqlite3_stmt *stmt, int i, struct str text)
{
	sqlite3_bind_text64(stmt, i, text.base ? text.base : "", text.len, SQLITE_STATIC, SQLITE_UTF8);
}

void sql_bind_blob(sqlite3_stmt *stmt, int i, struct str bytes)
{
	sqlite3_bind_blob64(stmt, i, bytes.base ? bytes.base : "", bytes.len, SQLITE_STATIC);
}

void sql_bind_digest(sqlite3_stmt *stmt, int i, const struct digest *d)
{
	sql_bind_blob(stmt, i, (struct str){(const char *)d->bytes, DIGEST_SIZE});
}

struct str sql_bytes(sqlite3_stmt *stmt, int column)
{
	const char *base = sqlite3_column_blob(stmt, column);
	return (struct str){base ? base : "", base ? (size_t)sqlite3_column_bytes(stmt, column) : 0};
}

void sql_reset(sqlite3_stmt *stmt)
{
	sqlite3_reset(stmt);
	sqlite3_clear_bindings(stmt);
}

int sql_run(sqlite3_stmt *stmt, const char *doing, struct error *err)
{
	int step = sqlite3_step(stmt), rc = 0;
	if (step != SQLITE_DONE && step != SQLITE_ROW)
		rc = sql_fail(sqlite3_db_handle(stmt), doing, err);
	sql_reset(stmt);
	return rc;
}
