/* SPDX-License-Identifier: Apache-2.0 */
/* sql.h - SQLite as catalog and state use it: opening with our settings, prepared statements, failures in words.
 *
 * Not for other rooms. Databases run in WAL mode with synchronous=FULL: what was answered "done" survives a power
 * cut, and writes here are rare and small. One thread at a time per connection.
 */
#ifndef MDN_STORE_SQL_H
#define MDN_STORE_SQL_H

#include "base/digest.h"
#include "base/error.h"
#include "base/str.h"

#include <sqlite3.h>

/* Opens or creates; runs `schema` when the file is new. E_UNSUPPORTED when a newer MDN wrote it (user_version). */
int sql_open(const char *path, int schema_version, const char *schema, sqlite3 **ret_db, struct error *err);
/* A second, reading connection to a file sql_open has opened. */
int sql_open_reader(const char *path, sqlite3 **ret_db, struct error *err);
int sql_prepare(sqlite3 *db, const char *text, sqlite3_stmt **ret_stmt, struct error *err);
int sql_fail(sqlite3 *db, const char *doing, struct error *err); /* what the connection's last failure means */
int sql_exec(sqlite3 *db, const char *text, struct error *err);

void sql_bind_text(sqlite3_stmt *stmt, int i, struct str text); /* must live until the statement is reset */
void sql_bind_digest(sqlite3_stmt *stmt, int i, const struct digest *d);
void sql_bind_blob(sqlite3_stmt *stmt, int i, struct str bytes);
struct str sql_bytes(sqlite3_stmt *stmt, int column); /* until the next step */
/* Steps once and resets. */
int sql_run(sqlite3_stmt *stmt, const char *doing, struct error *err);
void sql_reset(sqlite3_stmt *stmt);

#endif
