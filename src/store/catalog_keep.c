/* SPDX-License-Identifier: Apache-2.0 */
/* Statements are made for each call: a page is hundreds of rows. */
#include "store/catalog_keep.h"

#include "store/catalog_private.h"

/* ---- pages ------------------------------------------------------------------------------------ */

/* Takes the lock; page_end gives it back. NULL: failed, and the lock is back already. */
static sqlite3_stmt *page_begin(struct catalog *c, const char *text, size_t limit, struct error *err)
{
	sqlite3_stmt *stmt;
	pthread_mutex_lock(&c->read_lock);
	if (sql_prepare(c->reader, text, &stmt, err)) {
		pthread_mutex_unlock(&c->read_lock);
		return NULL;
	}
	sqlite3_bind_int64(stmt, 9, (int64_t)limit);
	return stmt;
}

static int page_end(struct catalog *c, sqlite3_stmt *stmt, int step, struct error *err)
{
	int rc = step == SQLITE_DONE || step == SQLITE_ROW ? 0 : sql_fail(c->reader, "cannot read the catalog", err);
	sqlite3_finalize(stmt);
	pthread_mutex_unlock(&c->read_lock);
	return rc;
}

static void take_digest(sqlite3_stmt *stmt, int column, struct digest *d)
{
	struct str bytes = sql_bytes(stmt, column);
	*d = (struct digest){0};
	if (bytes.len == DIGEST_SIZE)
		memcpy(d->bytes, bytes.base, DIGEST_SIZE);
}

static const struct digest before_all;

int catalog_page_manifests(struct catalog *c, const struct kept_manifest *after, size_t limit,
                           struct kept_manifest *out, size_t *ret_count, struct error *err)
{
	sqlite3_stmt *stmt = page_begin(
	    c,
	    "SELECT repo, digest, size, EXISTS(SELECT 1 FROM tags t WHERE t.repo = m.repo AND t.digest = m.digest) "
	    "FROM manifests m WHERE (repo, digest) > (?1, ?2) ORDER BY repo, digest LIMIT ?9",
	    limit, err);
	size_t n = 0;
	int step = SQLITE_DONE;
	if (!stmt)
		return err ? err->code : E_IO;
	sql_bind_text(stmt, 1, str_from(after ? after->repo : ""));
	sql_bind_digest(stmt, 2, after ? &after->digest : &before_all);
	while (n < limit && (step = sqlite3_step(stmt)) == SQLITE_ROW) {
		struct kept_manifest *m = &out[n++];
		str_copy(sql_bytes(stmt, 0), m->repo, sizeof m->repo);
		take_digest(stmt, 1, &m->digest);
		m->size = (uint64_t)sqlite3_column_int64(stmt, 2);
		m->tagged = sqlite3_column_int(stmt, 3);
	}
	*ret_count = n;
	return page_end(c, stmt, step, err);
}

int catalog_page_lists(struct catalog *c, const struct kept_list *after, size_t limit, struct kept_list *out,
                       size_t *ret_count, struct error *err)
{
	sqlite3_stmt *stmt = page_begin(c,
	                                "SELECT file, chunk_size, list FROM chunk_lists WHERE (file, chunk_size) > "
	                                "(?1, ?2) ORDER BY file, chunk_size LIMIT ?9",
	                                limit, err);
	size_t n = 0;
	int step = SQLITE_DONE;
	if (!stmt)
		return err ? err->code : E_IO;
	sql_bind_digest(stmt, 1, after ? &after->file : &before_all);
	sqlite3_bind_int64(stmt, 2, after ? (int64_t)after->chunk_size : -1);
	while (n < limit && (step = sqlite3_step(stmt)) == SQLITE_ROW) {
		take_digest(stmt, 0, &out[n].file);
		out[n].chunk_size = (uint64_t)sqlite3_column_int64(stmt, 1);
		take_digest(stmt, 2, &out[n++].list);
	}
	*ret_count = n;
	return page_end(c, stmt, step, err);
}

int catalog_page_links(struct catalog *c, const struct kept_link *after, size_t limit, struct kept_link *out,
                       size_t *ret_count, struct error *err)
{
	sqlite3_stmt *stmt = page_begin(c,
	                                "SELECT repo, digest FROM blobs WHERE (repo, digest) > (?1, ?2) "
	                                "ORDER BY repo, digest LIMIT ?9",
	                                limit, err);
	size_t n = 0;
	int step = SQLITE_DONE;
	if (!stmt)
		return err ? err->code : E_IO;
	sql_bind_text(stmt, 1, str_from(after ? after->repo : ""));
	sql_bind_digest(stmt, 2, after ? &after->digest : &before_all);
	while (n < limit && (step = sqlite3_step(stmt)) == SQLITE_ROW) {
		str_copy(sql_bytes(stmt, 0), out[n].repo, sizeof out[n].repo);
		take_digest(stmt, 1, &out[n++].digest);
	}
	*ret_count = n;
	return page_end(c, stmt, step, err);
}

int catalog_page_versions(struct catalog *c, const struct kept_version *after, size_t limit, struct kept_version *out,
                          size_t *ret_count, struct error *err)
{
	sqlite3_stmt *stmt = page_begin(
	    c, "SELECT name, tag FROM versions WHERE (name, tag) > (?1, ?2) ORDER BY name, tag LIMIT ?9", limit, err);
	size_t n = 0;
	int step = SQLITE_DONE;
	if (!stmt)
		return err ? err->code : E_IO;
	sql_bind_text(stmt, 1, str_from(after ? after->name : ""));
	sql_bind_text(stmt, 2, str_from(after ? after->tag : ""));
	while (n < limit && (step = sqlite3_step(stmt)) == SQLITE_ROW) {
		str_copy(sql_bytes(stmt, 0), out[n].name, sizeof out[n].name);
		str_copy(sql_bytes(stmt, 1), out[n].tag, sizeof out[n].tag);
		n++;
	}
	*ret_count = n;
	return page_end(c, stmt, step, err);
}

/* ---- forgetting ------------------------------------------------------------------------------- */

/* Runs one statement bound to (repo, digest), or to the digest alone as ?2. */
static int run_on(struct catalog *c, const char *text, const char *repo, const struct digest *d, struct error *err)
{
	sqlite3_stmt *stmt;
	int rc = sql_prepare(c->writer, text, &stmt, err);
	if (rc)
		return rc;
	if (repo)
		sql_bind_text(stmt, 1, str_from(repo));
	sql_bind_digest(stmt, 2, d);
	rc = sql_run(stmt, "cannot write the catalog", err);
	sqlite3_finalize(stmt);
	return rc;
}

int catalog_forget_blobs(struct catalog *c, const struct digest *d, size_t count, catalog_still *still, void *arg,
                         struct error *err)
{
	static const char *const texts[] = {
	    "DELETE FROM blobs WHERE digest = ?2",
	    "DELETE FROM blob_sizes WHERE digest = ?2",
	    "DELETE FROM chunk_lists WHERE file = ?2",
	    "DELETE FROM other_names WHERE digest = ?2",
	};
	int rc = catalog_write_begin(c, err);
	if (rc)
		return rc;
	for (size_t i = 0; !rc && i < count; i++)
		for (size_t k = 0; !rc && still(arg, &d[i]) && k < sizeof texts / sizeof *texts; k++)
			rc = run_on(c, texts[k], NULL, &d[i], err);
	return catalog_write_end(c, rc, err);
}

int catalog_forget_manifests(struct catalog *c, const struct kept_manifest *m, size_t count, catalog_still *still,
                             void *arg, size_t *ret_count, struct error *err)
{
	size_t gone = 0;
	int rc = catalog_write_begin(c, err);
	if (rc)
		return rc;
	for (size_t i = 0; !rc && i < count; i++) {
		if (!still(arg, &m[i].digest))
			continue;
		rc = run_on(c,
		            "DELETE FROM manifests WHERE repo = ?1 AND digest = ?2 AND NOT EXISTS "
		            "(SELECT 1 FROM tags WHERE repo = ?1 AND digest = ?2)",
		            m[i].repo, &m[i].digest, err);
		if (!rc && sqlite3_changes(c->writer)) {
			gone++;
			rc = catalog_forget_manifest(c, str_from(m[i].repo), &m[i].digest, err);
			if (!rc)
				rc = catalog_forget_names(c, str_from(m[i].repo), &m[i].digest, err);
		}
	}
	rc = catalog_write_end(c, rc, err);
	if (!rc)
		*ret_count = gone;
	return rc;
}

int catalog_forget_links(struct catalog *c, const struct kept_link *l, size_t count, catalog_still *still, void *arg,
                         struct error *err)
{
	int rc = catalog_write_begin(c, err);
	if (rc)
		return rc;
	for (size_t i = 0; !rc && i < count; i++)
		if (still(arg, &l[i].digest))
			rc = run_on(c, "DELETE FROM blobs WHERE repo = ?1 AND digest = ?2", l[i].repo, &l[i].digest,
			            err);
	return catalog_write_end(c, rc, err);
}
