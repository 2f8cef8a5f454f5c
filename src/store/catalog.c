/* SPDX-License-Identifier: Apache-2.0 */
/* Rows and prepared statements; a version is kept as its wire JSON, which is also how it leaves. Two locks, because
 * jobs write (and wait for the disk) while the loop reads; neither is ever taken while the other is held. */
#include "store/catalog_private.h"

#include "base/json.h"
#include "base/limits.h"

#include <stdlib.h>

static const char schema[] =
    "CREATE TABLE manifests(repo TEXT NOT NULL, digest BLOB NOT NULL, media_type TEXT NOT NULL, size INTEGER NOT NULL, "
    "PRIMARY KEY(repo, digest)) WITHOUT ROWID;"
    "CREATE TABLE tags(repo TEXT NOT NULL, tag TEXT NOT NULL, digest BLOB NOT NULL, PRIMARY KEY(repo, tag)) WITHOUT "
    "ROWID;"
    "CREATE INDEX tags_by_digest ON tags(repo, digest);"
    "CREATE TABLE blobs(repo TEXT NOT NULL, digest BLOB NOT NULL, PRIMARY KEY(repo, digest)) WITHOUT ROWID;"
    "CREATE TABLE versions(name TEXT NOT NULL, tag TEXT NOT NULL, json TEXT NOT NULL, PRIMARY KEY(name, tag)) WITHOUT "
    "ROWID;"
    "CREATE TABLE chunk_lists(file BLOB NOT NULL, chunk_size INTEGER NOT NULL, list BLOB NOT NULL, "
    "PRIMARY KEY(file, chunk_size)) WITHOUT ROWID;"
    "CREATE TABLE meta(serial INTEGER NOT NULL);"
    "INSERT INTO meta VALUES(0)";

/* Tables that came later; made when they are missing. known: every version by its manifest, whatever names it now.
 * moves: what each tag named, when, by whom; digest NULL: nothing any more. */
static const char schema_later[] =
    "CREATE TABLE IF NOT EXISTS known(repo TEXT NOT NULL, digest BLOB NOT NULL, json TEXT NOT NULL, "
    "PRIMARY KEY(repo, digest)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS moves(id INTEGER PRIMARY KEY AUTOINCREMENT, repo TEXT NOT NULL, tag TEXT NOT NULL, "
    "wall_us INTEGER NOT NULL, before BLOB, digest BLOB, who TEXT NOT NULL, what TEXT NOT NULL);"
    "CREATE INDEX IF NOT EXISTS moves_by_tag ON moves(repo, tag, id);"
    "CREATE TABLE IF NOT EXISTS retired(repo TEXT NOT NULL, tag TEXT NOT NULL, PRIMARY KEY(repo, tag)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS blob_sizes(digest BLOB PRIMARY KEY, size INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS signatures(repo TEXT NOT NULL, manifest BLOB NOT NULL, referrer BLOB NOT NULL, "
    "bundle BLOB NOT NULL, size INTEGER NOT NULL, channel TEXT NOT NULL, rank INTEGER NOT NULL, "
    "PRIMARY KEY(repo, manifest, referrer)) WITHOUT ROWID;"
    "CREATE INDEX IF NOT EXISTS signatures_by_referrer ON signatures(repo, referrer);"
    "CREATE TABLE IF NOT EXISTS other_names(name BLOB PRIMARY KEY, digest BLOB NOT NULL) WITHOUT ROWID;"
    "CREATE INDEX IF NOT EXISTS other_names_by_digest ON other_names(digest);"
    "CREATE TABLE IF NOT EXISTS called(repo TEXT NOT NULL, digest BLOB NOT NULL, name BLOB NOT NULL, "
    "PRIMARY KEY(repo, digest)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS referrers(repo TEXT NOT NULL, subject BLOB NOT NULL, digest BLOB NOT NULL, "
    "artifact_type TEXT NOT NULL, json TEXT NOT NULL, PRIMARY KEY(repo, subject, digest)) WITHOUT ROWID;"
    "CREATE INDEX IF NOT EXISTS referrers_by_digest ON referrers(repo, digest);"
    "CREATE INDEX IF NOT EXISTS blobs_by_digest ON blobs(digest);"
    "CREATE INDEX IF NOT EXISTS tags_in_order ON tags(repo, tag COLLATE NOCASE, tag);"
    "INSERT OR IGNORE INTO known SELECT v.name, t.digest, v.json FROM versions v "
    "JOIN tags t ON t.repo = v.name AND t.tag = v.tag";

/* Bytes of the different blobs of a namespace, by ?1: the first part of two-part names; one-part names are in
 * "library". "0" follows "/". */
#define USED_SQL \
	"SELECT coalesce(sum(size), 0) FROM blob_sizes WHERE digest IN (SELECT digest FROM blobs WHERE " \
	"(repo >= ?1 || '/' AND repo < ?1 || '0') OR (?1 = 'library' AND instr(repo, '/') = 0))"

static const char *const statements[STATEMENTS] = {
    [PUT_MANIFEST] = "INSERT OR REPLACE INTO manifests VALUES(?1, ?2, ?3, ?4)",
    [DELETE_MANIFEST] = "DELETE FROM manifests WHERE repo = ?1 AND digest = ?2",
    [DELETE_MANIFEST_VERSIONS] =
	"DELETE FROM versions WHERE name = ?1 AND tag IN (SELECT tag FROM tags WHERE repo = ?1 AND digest = ?2)",
    [DELETE_MANIFEST_TAGS] = "DELETE FROM tags WHERE repo = ?1 AND digest = ?2",
    [PUT_TAG] = "INSERT OR REPLACE INTO tags VALUES(?1, ?2, ?3)",
    [DELETE_TAG] = "DELETE FROM tags WHERE repo = ?1 AND tag = ?2",
    [LINK_BLOB] = "INSERT OR IGNORE INTO blobs VALUES(?1, ?2)",
    [UNLINK_BLOB] = "DELETE FROM blobs WHERE repo = ?1 AND digest = ?2",
    [PUT_VERSION] = "INSERT OR REPLACE INTO versions VALUES(?1, ?2, ?3)",
    [DELETE_VERSION] = "DELETE FROM versions WHERE name = ?1 AND tag = ?2",
    [COUNT_VERSIONS] = "SELECT count(*) FROM versions WHERE NOT (name = ?1 AND tag = ?2)",
    [WRITE_GET_TAG] = "SELECT digest FROM tags WHERE repo = ?1 AND tag = ?2",
    [PUT_KNOWN] = "INSERT OR REPLACE INTO known VALUES(?1, ?2, ?3)",
    [GET_KNOWN] = "SELECT json FROM known WHERE repo = ?1 AND digest = ?2",
    [ADD_MOVE] = "INSERT INTO moves(repo, tag, wall_us, before, digest, who, what) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    [TRIM_MOVES] = "DELETE FROM moves WHERE repo = ?1 AND tag = ?2 AND id <= "
		   "(SELECT id FROM moves WHERE repo = ?1 AND tag = ?2 ORDER BY id DESC LIMIT 1 OFFSET ?3)",
    [FORGET_KNOWN] = "DELETE FROM known WHERE repo = ?1 AND digest = ?2",
    [ADD_DELETIONS] = "INSERT INTO moves(repo, tag, wall_us, before, digest, who, what) "
		      "SELECT repo, tag, ?3, digest, NULL, '', 'delete' FROM tags WHERE repo = ?1 AND digest = ?2",
    [MOVE_BEFORE] = "SELECT before, what FROM moves WHERE repo = ?1 AND tag = ?2 ORDER BY id DESC",
    [ACTUAL_TAGS] = "SELECT tag FROM tags WHERE repo = ?1 AND digest = ?2 ORDER BY tag",
    [PUT_RETIRED] = "INSERT OR IGNORE INTO retired VALUES(?1, ?2)",
    [DELETE_RETIRED] = "DELETE FROM retired WHERE repo = ?1 AND tag = ?2",
    [IS_RETIRED] = "SELECT 1 FROM retired WHERE repo = ?1 AND tag = ?2",
    [PUT_SIZE] = "INSERT OR REPLACE INTO blob_sizes VALUES(?1, ?2)",
    [HAS_SIZE] = "SELECT 1 FROM blob_sizes WHERE digest = ?1",
    [USED] = USED_SQL,
    [MOVES] =
	"SELECT wall_us, before, digest, who, what FROM moves WHERE repo = ?1 AND tag = ?2 ORDER BY id DESC LIMIT ?3",
    [NAMESPACES] = "SELECT DISTINCT CASE WHEN instr(repo, '/') THEN substr(repo, 1, instr(repo, '/') - 1) "
		   "ELSE 'library' END AS ns FROM blobs ORDER BY ns LIMIT 4096",
    [READ_USED] = USED_SQL,
    [TAGS_OF] = "SELECT tag FROM tags WHERE repo = ?1 AND digest = ?2 ORDER BY tag LIMIT 100",
    [PUT_SIGNATURE] = "INSERT OR REPLACE INTO signatures VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    [DELETE_SIGNATURE] = "DELETE FROM signatures WHERE repo = ?1 AND referrer = ?2 RETURNING manifest",
    [FORGET_SIGNATURES] = "DELETE FROM signatures WHERE repo = ?1 AND manifest = ?2",
    [SIGNATURES] = "SELECT bundle, size, channel FROM signatures WHERE repo = ?1 AND manifest = ?2 AND channel IN ('', "
		   "?3) AND EXISTS(SELECT 1 FROM manifests m WHERE m.repo = ?1 AND m.digest = signatures.referrer) "
		   "ORDER BY channel, rank DESC",
    [PUT_NAME] = "INSERT OR REPLACE INTO other_names VALUES(?1, ?2)",
    [PUT_CALLED] = "INSERT OR REPLACE INTO called VALUES(?1, ?2, ?3)",
    [FORGET_CALLED] = "DELETE FROM called WHERE repo = ?1 AND digest = ?2",
    [PUT_REFERRER] = "INSERT OR REPLACE INTO referrers VALUES(?1, ?2, ?3, ?4, ?5)",
    [FORGET_REFERRER] = "DELETE FROM referrers WHERE repo = ?1 AND digest = ?2",
    [FIND_NAME] = "SELECT digest FROM other_names WHERE name = ?1",
    [GET_CALLED] = "SELECT name FROM called WHERE repo = ?1 AND digest = ?2",
    [REFERRERS] = "SELECT digest, json FROM referrers WHERE repo = ?1 AND subject IN (?2, "
		  "(SELECT digest FROM other_names WHERE name = ?2), (SELECT name FROM other_names WHERE digest = ?2)) "
		  "AND digest > ?3 AND (?4 = '' OR artifact_type = ?4) AND EXISTS(SELECT 1 FROM manifests m "
		  "WHERE m.repo = referrers.repo AND m.digest = referrers.digest) ORDER BY digest",
    [REPOS_WITH] = "SELECT repo FROM blobs WHERE digest = ?1 LIMIT 64",
    [PUT_CHUNKS] = "INSERT OR REPLACE INTO chunk_lists VALUES(?1, ?2, ?3)",
    [BUMP] = "UPDATE meta SET serial = serial + 1",
    [GET_MANIFEST] = "SELECT media_type FROM manifests WHERE repo = ?1 AND digest = ?2",
    [FIND_MANIFEST] = "SELECT digest FROM manifests WHERE repo = ?1 AND substr(digest, 1, 20) = ?2",
    [GET_TAG] = "SELECT digest FROM tags WHERE repo = ?1 AND tag = ?2",
    [TAGS] =
	"SELECT tag FROM tags WHERE repo = ?1 AND tag COLLATE NOCASE >= ?2 AND (tag COLLATE NOCASE > ?2 OR tag > ?2) "
	"AND (NOT EXISTS(SELECT 1 FROM retired WHERE repo = ?1) OR NOT EXISTS(SELECT 1 FROM retired r WHERE "
	"r.repo = tags.repo AND r.tag = tags.tag)) ORDER BY tag COLLATE NOCASE, tag LIMIT ?3",
    [HAS_BLOB] = "SELECT 1 FROM blobs WHERE repo = ?1 AND digest = ?2",
    [HAS_REPO] =
	"SELECT EXISTS(SELECT 1 FROM manifests WHERE repo = ?1) OR EXISTS(SELECT 1 FROM blobs WHERE repo = ?1)",
    [GET_VERSION] = "SELECT json FROM versions WHERE name = ?1 AND tag = ?2",
    [EACH_VERSION] = "SELECT json FROM versions ORDER BY name, tag",
    [GET_CHUNKS] = "SELECT list FROM chunk_lists WHERE file = ?1 AND chunk_size = ?2",
    [GET_SERIAL] = "SELECT serial FROM meta",
};

/* ---- opening --------------------------------------------------------------------------------- */

int catalog_open(struct str path, struct catalog **ret_catalog, struct error *err)
{
	struct catalog *c = NEW(struct catalog);
	char *file = str_dup(path);
	pthread_mutex_init(&c->write_lock, NULL);
	pthread_mutex_init(&c->read_lock, NULL);
	pthread_mutex_init(&c->rules_lock, NULL);
	int rc = sql_open(file, 1, schema, &c->writer, err);
	if (!rc)
		rc = sql_exec(c->writer, schema_later, err);
	if (!rc)
		rc = sql_open_reader(file, &c->reader, err);
	for (int i = 0; !rc && i < STATEMENTS; i++)
		rc = sql_prepare(i < WRITES ? c->writer : c->reader, statements[i], &c->stmt[i], err);
	free(file);
	if (rc) {
		catalog_close(c);
		return rc;
	}
	*ret_catalog = c;
	return 0;
}

void catalog_close(struct catalog *c)
{
	if (!c)
		return;
	for (int i = 0; i < STATEMENTS; i++)
		sqlite3_finalize(c->stmt[i]);
	sqlite3_close(c->reader); /* first, so that the writer, closing last, folds the WAL into the file */
	sqlite3_close(c->writer);
	pthread_mutex_destroy(&c->read_lock);
	pthread_mutex_destroy(&c->write_lock);
	catalog_rules_fini(&c->rules);
	pthread_mutex_destroy(&c->rules_lock);
	free(c);
}

/* ---- reading --------------------------------------------------------------------------------- */

/* Takes the lock, binds (repo, second), and leaves stepping to the caller, who ends with read_end. */
static sqlite3_stmt *read_text(struct catalog *c, int which, struct str repo, struct str second)
{
	pthread_mutex_lock(&c->read_lock);
	sql_bind_text(c->stmt[which], 1, repo);
	sql_bind_text(c->stmt[which], 2, second);
	return c->stmt[which];
}

static sqlite3_stmt *read_digest(struct catalog *c, int which, struct str repo, const struct digest *d)
{
	pthread_mutex_lock(&c->read_lock);
	sql_bind_text(c->stmt[which], 1, repo);
	sql_bind_digest(c->stmt[which], 2, d);
	return c->stmt[which];
}

static void read_end(struct catalog *c, sqlite3_stmt *stmt)
{
	sql_reset(stmt);
	pthread_mutex_unlock(&c->read_lock);
}

/* 0: there is a row. E_NOTFOUND: none. */
static int step_row(struct catalog *c, sqlite3_stmt *stmt, struct error *err)
{
	int step = sqlite3_step(stmt);
	if (step == SQLITE_ROW)
		return 0;
	if (step == SQLITE_DONE)
		return error_set(err, E_NOTFOUND, "it is not in the catalog");
	return sql_fail(c->reader, "cannot read the catalog", err);
}

static int take_digest(sqlite3_stmt *stmt, struct digest *ret_digest, struct error *err)
{
	struct str bytes = sql_bytes(stmt, 0);
	if (bytes.len != DIGEST_SIZE)
		return error_set(err, E_CORRUPT, "the catalog holds a digest of %zu bytes", bytes.len);
	memcpy(ret_digest->bytes, bytes.base, DIGEST_SIZE);
	return 0;
}

/* Column 0 of all rows: bytes one after the other in *ret_bytes, their lengths (size_t) in *ret_lengths. */
static int step_all(struct catalog *c, sqlite3_stmt *stmt, struct buf *bytes, struct buf *lengths, struct error *err)
{
	int step;
	while ((step = sqlite3_step(stmt)) == SQLITE_ROW) {
		struct str text = sql_bytes(stmt, 0);
		buf_append_str(bytes, text);
		buf_append(lengths, &text.len, sizeof text.len);
	}
	return step == SQLITE_DONE ? 0 : sql_fail(c->reader, "cannot read the catalog", err);
}

static bool next_text(const struct buf *bytes, const struct buf *lengths, size_t *i, size_t *at, struct str *ret_text)
{
	if (*i * sizeof(size_t) >= lengths->len)
		return false;
	memcpy(&ret_text->len, lengths->base + *i * sizeof(size_t), sizeof(size_t));
	ret_text->base = ret_text->len ? bytes->base + *at : "";
	*at += ret_text->len;
	++*i;
	return true;
}

static uint64_t read_serial(struct catalog *c)
{
	sqlite3_stmt *stmt = c->stmt[GET_SERIAL];
	uint64_t serial = step_row(c, stmt, NULL) ? 0 : (uint64_t)sqlite3_column_int64(stmt, 0);
	sql_reset(stmt);
	return serial;
}

uint64_t catalog_serial(struct catalog *c)
{
	pthread_mutex_lock(&c->read_lock);
	uint64_t serial = read_serial(c);
	pthread_mutex_unlock(&c->read_lock);
	return serial;
}

int catalog_get_manifest(struct catalog *c, struct str repo, const struct digest *d, char ret_media_type[static 128],
                         struct error *err)
{
	sqlite3_stmt *stmt = read_digest(c, GET_MANIFEST, repo, d);
	int rc = step_row(c, stmt, err);
	if (!rc)
		str_copy(sql_bytes(stmt, 0), ret_media_type, 128);
	read_end(c, stmt);
	return rc;
}

int catalog_find_manifest(struct catalog *c, struct str repo, const uint8_t beginning[static 20],
                          struct digest *ret_digest, struct error *err)
{
	sqlite3_stmt *stmt = c->stmt[FIND_MANIFEST];
	pthread_mutex_lock(&c->read_lock);
	sql_bind_text(stmt, 1, repo);
	sqlite3_bind_blob(stmt, 2, beginning, 20, SQLITE_STATIC);
	int rc = step_row(c, stmt, err);
	if (!rc)
		rc = take_digest(stmt, ret_digest, err);
	read_end(c, stmt);
	return rc;
}

int catalog_get_tag(struct catalog *c, struct str repo, struct str tag, struct digest *ret_digest, struct error *err)
{
	sqlite3_stmt *stmt = read_text(c, GET_TAG, repo, tag);
	int rc = step_row(c, stmt, err);
	if (!rc)
		rc = take_digest(stmt, ret_digest, err);
	read_end(c, stmt);
	return rc;
}

int catalog_tags(struct catalog *c, struct str repo, struct str last, size_t limit,
                 void (*fn)(void *arg, struct str tag), void *arg, struct error *err)
{
	struct buf bytes = {0}, lengths = {0};
	sqlite3_stmt *stmt = read_text(c, TAGS, repo, last);
	sqlite3_bind_int64(stmt, 3, limit > INT32_MAX ? INT32_MAX : (int64_t)limit);
	int rc = step_all(c, stmt, &bytes, &lengths, err);
	read_end(c, stmt);
	struct str tag;
	for (size_t i = 0, at = 0; !rc && next_text(&bytes, &lengths, &i, &at, &tag);)
		fn(arg, tag);
	buf_fini(&bytes);
	buf_fini(&lengths);
	return rc;
}

int catalog_tags_of(struct catalog *c, struct str repo, const struct digest *d, void (*fn)(void *arg, struct str tag),
                    void *arg, struct error *err)
{
	struct buf bytes = {0}, lengths = {0};
	sqlite3_stmt *stmt = read_digest(c, TAGS_OF, repo, d);
	int rc = step_all(c, stmt, &bytes, &lengths, err);
	read_end(c, stmt);
	struct str tag;
	for (size_t i = 0, at = 0; !rc && next_text(&bytes, &lengths, &i, &at, &tag);)
		fn(arg, tag);
	buf_fini(&bytes);
	buf_fini(&lengths);
	return rc;
}

bool catalog_has_blob(struct catalog *c, struct str repo, const struct digest *d)
{
	sqlite3_stmt *stmt = read_digest(c, HAS_BLOB, repo, d);
	bool has = !step_row(c, stmt, NULL);
	read_end(c, stmt);
	return has;
}

bool catalog_has_repo(struct catalog *c, struct str repo)
{
	pthread_mutex_lock(&c->read_lock);
	sqlite3_stmt *stmt = c->stmt[HAS_REPO];
	sql_bind_text(stmt, 1, repo);
	bool has = !step_row(c, stmt, NULL) && sqlite3_column_int(stmt, 0);
	read_end(c, stmt);
	return has;
}

int catalog_get_chunks(struct catalog *c, const struct digest *file, uint64_t chunk_size, struct digest *ret_list,
                       struct error *err)
{
	pthread_mutex_lock(&c->read_lock);
	sqlite3_stmt *stmt = c->stmt[GET_CHUNKS];
	sql_bind_digest(stmt, 1, file);
	sqlite3_bind_int64(stmt, 2, (int64_t)chunk_size);
	int rc = step_row(c, stmt, err);
	if (!rc)
		rc = take_digest(stmt, ret_list, err);
	read_end(c, stmt);
	return rc;
}

int catalog_parse_version(struct str json, struct version *ret_version, struct error *err)
{
	yyjson_doc *doc;
	int rc = json_parse(json, &doc, err);
	if (rc)
		return rc;
	rc = version_parse(yyjson_doc_get_root(doc), ret_version, err);
	yyjson_doc_free(doc);
	return rc;
}

int catalog_get_version(struct catalog *c, struct str name, struct str tag, struct version *ret_version,
                        struct error *err)
{
	sqlite3_stmt *stmt = read_text(c, GET_VERSION, name, tag);
	int rc = step_row(c, stmt, err);
	if (!rc)
		rc = catalog_parse_version(sql_bytes(stmt, 0), ret_version, err);
	read_end(c, stmt);
	return rc;
}

int catalog_each_version(struct catalog *c, void (*fn)(void *arg, const struct version *v), void *arg,
                         struct error *err)
{
	struct buf bytes = {0}, lengths = {0};
	pthread_mutex_lock(&c->read_lock);
	int rc = step_all(c, c->stmt[EACH_VERSION], &bytes, &lengths, err);
	read_end(c, c->stmt[EACH_VERSION]);
	struct str json;
	for (size_t i = 0, at = 0; !rc && next_text(&bytes, &lengths, &i, &at, &json);) {
		struct version v;
		rc = catalog_parse_version(json, &v, err);
		if (rc)
			break;
		fn(arg, &v);
		version_fini(&v);
	}
	buf_fini(&bytes);
	buf_fini(&lengths);
	return rc;
}

/* serial and rows of one moment */
static int append_versions(sqlite3 *db, struct buf *out, uint64_t *ret_serial, struct error *err)
{
	sqlite3_stmt *serial = NULL, *rows = NULL;
	int step = SQLITE_DONE, rc = sql_exec(db, "BEGIN", err);
	if (!rc)
		rc = sql_prepare(db, statements[GET_SERIAL], &serial, err);
	if (!rc)
		rc = sql_prepare(db, statements[EACH_VERSION], &rows, err);
	if (!rc && sqlite3_step(serial) != SQLITE_ROW)
		rc = sql_fail(db, "cannot read the catalog", err);
	if (!rc)
		*ret_serial = (uint64_t)sqlite3_column_int64(serial, 0);
	for (const char *comma = ""; !rc && (step = sqlite3_step(rows)) == SQLITE_ROW; comma = ",") {
		buf_append_str(out, str_from(comma));
		buf_append_str(out, sql_bytes(rows, 0));
	}
	if (!rc && step != SQLITE_DONE)
		rc = sql_fail(db, "cannot read the catalog", err);
	sqlite3_finalize(serial);
	sqlite3_finalize(rows);
	return rc;
}

int catalog_append_versions(struct catalog *c, struct buf *out, uint64_t *ret_serial, struct error *err)
{
	sqlite3 *db;
	int rc = sql_open_reader(sqlite3_db_filename(c->reader, "main"), &db, err);
	if (rc)
		return rc;
	rc = append_versions(db, out, ret_serial, err);
	sqlite3_close(db);
	return rc;
}

/* ---- writing --------------------------------------------------------------------------------- */

int catalog_run(struct catalog *c, enum catalog_statement which, struct error *err)
{
	return sql_run(c->stmt[which], "cannot write the catalog", err);
}

/* Ran; E_NOTFOUND when it changed nothing. */
static int run_on_some(struct catalog *c, int which, struct error *err)
{
	int rc = catalog_run(c, which, err);
	return !rc && !sqlite3_changes(c->writer) ? error_set(err, E_NOTFOUND, "it is not in the catalog") : rc;
}

int catalog_write_begin(struct catalog *c, struct error *err)
{
	pthread_mutex_lock(&c->write_lock);
	int rc = sql_exec(c->writer, "BEGIN IMMEDIATE", err);
	if (rc)
		pthread_mutex_unlock(&c->write_lock);
	return rc;
}

int catalog_write_end(struct catalog *c, int rc, struct error *err)
{
	if (!rc)
		rc = sql_exec(c->writer, "COMMIT", err);
	if (rc)
		sql_exec(c->writer, "ROLLBACK", NULL);
	pthread_mutex_unlock(&c->write_lock);
	return rc;
}

static void bind_text(struct catalog *c, int which, struct str repo, struct str second)
{
	sql_bind_text(c->stmt[which], 1, repo);
	sql_bind_text(c->stmt[which], 2, second);
}

static void bind_digest(struct catalog *c, int which, struct str repo, const struct digest *d)
{
	sql_bind_text(c->stmt[which], 1, repo);
	sql_bind_digest(c->stmt[which], 2, d);
}

static int put_manifest(struct catalog *c, struct str repo, const struct digest *d, struct str media_type,
                        uint64_t size, struct error *err)
{
	if (media_type.len > 127)
		return error_set(err, E_INVAL, "a media type has %zu bytes, at most 127 are allowed", media_type.len);
	bind_digest(c, PUT_MANIFEST, repo, d);
	sql_bind_text(c->stmt[PUT_MANIFEST], 3, media_type);
	sqlite3_bind_int64(c->stmt[PUT_MANIFEST], 4, (int64_t)size);
	return catalog_run(c, PUT_MANIFEST, err);
}

int catalog_drop_version(struct catalog *c, struct str name, struct str tag, struct error *err)
{
	bind_text(c, DELETE_VERSION, name, tag);
	int rc = catalog_run(c, DELETE_VERSION, err);
	return !rc && sqlite3_changes(c->writer) ? catalog_run(c, BUMP, err) : rc;
}

int catalog_write_version(struct catalog *c, const struct version *v, struct error *err)
{
	struct str name = str_from(v->name), tag = str_from(v->tag);
	sqlite3_stmt *count = c->stmt[COUNT_VERSIONS];
	bind_text(c, COUNT_VERSIONS, name, tag);
	bool full = sqlite3_step(count) == SQLITE_ROW && sqlite3_column_int64(count, 0) >= LIMIT_MODELS;
	sql_reset(count);
	if (full)
		return error_set(err, E_LIMIT, "the catalog holds %d versions, which is all it can; delete old ones",
		                 LIMIT_MODELS);
	struct buf json = {0};
	struct version own = *v;
	int rc = catalog_signatures(c, v, &own.signatures, &own.signature_count, err);
	if (rc)
		return rc;
	version_format(&own, &json);
	free(own.signatures);
	bind_text(c, PUT_VERSION, name, tag);
	sql_bind_text(c->stmt[PUT_VERSION], 3, buf_str(&json));
	rc = catalog_run(c, PUT_VERSION, err);
	buf_fini(&json);
	return rc ? rc : catalog_run(c, BUMP, err);
}

static int push(struct catalog *c, struct str who, struct str repo, const struct digest *d, struct str media_type,
                uint64_t size, struct str tag, const struct version *v, struct error *err)
{
	int rc = put_manifest(c, repo, d, media_type, size, err);
	if (!rc && tag.len)
		rc = catalog_move_tag(c, who, "push", repo, tag, d, err);
	if (rc || !tag.len)
		return rc;
	if (!v)
		return catalog_drop_version(c, repo, tag, err);
	struct version known;
	version_copy(v, &known);
	rc = catalog_remember_version(c, &known, err);
	if (!rc)
		rc = catalog_write_version(c, &known, err);
	version_fini(&known);
	return rc;
}

int catalog_push_as(struct catalog *c, struct str who, struct str repo, const struct digest *d, struct str media_type,
                    uint64_t size, struct str tag, const struct version *v, struct error *err)
{
	int rc = catalog_write_begin(c, err);
	return rc ? rc : catalog_write_end(c, push(c, who, repo, d, media_type, size, tag, v, err), err);
}

int catalog_push(struct catalog *c, struct str repo, const struct digest *d, struct str media_type, uint64_t size,
                 struct str tag, const struct version *v, struct error *err)
{
	return catalog_push_as(c, STR(""), repo, d, media_type, size, tag, v, err);
}

static int delete_manifest(struct catalog *c, struct str repo, const struct digest *d, struct error *err)
{
	bind_digest(c, DELETE_MANIFEST, repo, d);
	int rc = run_on_some(c, DELETE_MANIFEST, err);
	if (rc)
		return rc;
	bind_digest(c, DELETE_MANIFEST_VERSIONS, repo, d);
	rc = catalog_run(c, DELETE_MANIFEST_VERSIONS, err);
	if (!rc && sqlite3_changes(c->writer))
		rc = catalog_run(c, BUMP, err);
	if (!rc)
		rc = catalog_forget_manifest(c, repo, d, err);
	if (!rc)
		rc = catalog_forget_names(c, repo, d, err);
	bind_digest(c, DELETE_MANIFEST_TAGS, repo, d);
	return rc ? rc : catalog_run(c, DELETE_MANIFEST_TAGS, err);
}

int catalog_delete_manifest(struct catalog *c, struct str repo, const struct digest *d, struct error *err)
{
	int rc = catalog_write_begin(c, err);
	return rc ? rc : catalog_write_end(c, delete_manifest(c, repo, d, err), err);
}

int catalog_put_tag(struct catalog *c, struct str repo, struct str tag, const struct digest *d, struct error *err)
{
	int rc = catalog_write_begin(c, err);
	return rc ? rc : catalog_write_end(c, catalog_move_tag(c, STR(""), "push", repo, tag, d, err), err);
}

int catalog_delete_tag_as(struct catalog *c, struct str who, struct str repo, struct str tag, struct error *err)
{
	int rc = catalog_write_begin(c, err);
	if (rc)
		return rc;
	rc = catalog_move_tag(c, who, "delete", repo, tag, NULL, err);
	if (!rc)
		rc = catalog_drop_version(c, repo, tag, err);
	return catalog_write_end(c, rc, err);
}

int catalog_delete_tag(struct catalog *c, struct str repo, struct str tag, struct error *err)
{
	return catalog_delete_tag_as(c, STR(""), repo, tag, err);
}

int catalog_link_blob(struct catalog *c, struct str repo, const struct digest *d, struct error *err)
{
	int rc = catalog_write_begin(c, err);
	if (rc)
		return rc;
	bind_digest(c, LINK_BLOB, repo, d);
	rc = catalog_run(c, LINK_BLOB, err);
	if (!rc && sqlite3_changes(c->writer))
		rc = catalog_check_quota(c, repo, d, err);
	return catalog_write_end(c, rc, err);
}

int catalog_unlink_blob(struct catalog *c, struct str repo, const struct digest *d, struct error *err)
{
	int rc = catalog_write_begin(c, err);
	if (rc)
		return rc;
	bind_digest(c, UNLINK_BLOB, repo, d);
	return catalog_write_end(c, run_on_some(c, UNLINK_BLOB, err), err);
}

int catalog_put_chunks(struct catalog *c, const struct digest *file, uint64_t chunk_size, const struct digest *list,
                       struct error *err)
{
	int rc = catalog_write_begin(c, err);
	if (rc)
		return rc;
	sql_bind_digest(c->stmt[PUT_CHUNKS], 1, file);
	sqlite3_bind_int64(c->stmt[PUT_CHUNKS], 2, (int64_t)chunk_size);
	sql_bind_digest(c->stmt[PUT_CHUNKS], 3, list);
	return catalog_write_end(c, catalog_run(c, PUT_CHUNKS, err), err);
}
