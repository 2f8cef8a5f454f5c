/* SPDX-License-Identifier: Apache-2.0 */
/* What OCI clients call things, and what they attach to them. Content is kept under its SHA-256; a SHA-512 that was
 * verified once is another name of it for ever, in every repository. `called` says which manifests of a repository were
 * last put under such a name, for answers that are asked by tag. A referrer's row may be there before its manifest is
 * (it is written first, so that both survive a crash or neither shows) and is looked at only together with it.
 */
#include "store/catalog_private.h"

#include <stdlib.h>

static int take_name(struct catalog *c, sqlite3_stmt *stmt, size_t len, uint8_t *ret_bytes, struct error *err)
{
	int step = sqlite3_step(stmt);
	if (step == SQLITE_DONE)
		return error_set(err, E_NOTFOUND, "there is nothing of that name");
	if (step != SQLITE_ROW)
		return sql_fail(c->reader, "cannot read the catalog", err);
	struct str bytes = sql_bytes(stmt, 0);
	if (bytes.len != len)
		return error_set(err, E_CORRUPT, "the catalog holds a digest of %zu bytes", bytes.len);
	memcpy(ret_bytes, bytes.base, len);
	return 0;
}

int catalog_find_name(struct catalog *c, const struct digest_name *name, struct digest *ret_digest, struct error *err)
{
	if (!name->sha512) {
		memcpy(ret_digest->bytes, name->bytes, DIGEST_SIZE);
		return 0;
	}
	pthread_mutex_lock(&c->read_lock);
	sqlite3_stmt *stmt = c->stmt[FIND_NAME];
	sql_bind_blob(stmt, 1, digest_name_bytes(name));
	int rc = take_name(c, stmt, DIGEST_SIZE, ret_digest->bytes, err);
	sql_reset(stmt);
	pthread_mutex_unlock(&c->read_lock);
	return rc;
}

int catalog_put_name(struct catalog *c, const struct digest_name *name, const struct digest *d, struct error *err)
{
	struct digest known;
	if (!catalog_find_name(c, name, &known, NULL))
		return 0;
	int rc = catalog_write_begin(c, err);
	if (rc)
		return rc;
	sql_bind_blob(c->stmt[PUT_NAME], 1, digest_name_bytes(name));
	sql_bind_digest(c->stmt[PUT_NAME], 2, d);
	return catalog_write_end(c, catalog_run(c, PUT_NAME, err), err);
}

struct digest_name catalog_called(struct catalog *c, struct str repo, const struct digest *d)
{
	struct digest_name name = {.sha512 = true};
	pthread_mutex_lock(&c->read_lock);
	sqlite3_stmt *stmt = c->stmt[GET_CALLED];
	sql_bind_text(stmt, 1, repo);
	sql_bind_digest(stmt, 2, d);
	int rc = take_name(c, stmt, sizeof name.bytes, name.bytes, NULL);
	sql_reset(stmt);
	pthread_mutex_unlock(&c->read_lock);
	return rc ? digest_name_of(d) : name;
}

int catalog_call(struct catalog *c, struct str repo, const struct digest *d, const struct digest_name *name,
                 struct error *err)
{
	struct digest_name before = catalog_called(c, repo, d);
	enum catalog_statement which = name->sha512 ? PUT_CALLED : FORGET_CALLED;
	if (digest_name_equal(&before, name))
		return 0;
	int rc = catalog_write_begin(c, err);
	if (rc)
		return rc;
	sql_bind_text(c->stmt[which], 1, repo);
	sql_bind_digest(c->stmt[which], 2, d);
	if (name->sha512)
		sql_bind_blob(c->stmt[which], 3, digest_name_bytes(name));
	return catalog_write_end(c, catalog_run(c, which, err), err);
}

/* ---- referrers ------------------------------------------------------------------------------- */

int catalog_put_referrer(struct catalog *c, struct str repo, const struct digest_name *subject, const struct digest *d,
                         struct str artifact_type, struct str descriptor, struct error *err)
{
	int rc = catalog_write_begin(c, err);
	if (rc)
		return rc;
	sqlite3_stmt *stmt = c->stmt[PUT_REFERRER];
	sql_bind_text(stmt, 1, repo);
	sql_bind_blob(stmt, 2, digest_name_bytes(subject));
	sql_bind_digest(stmt, 3, d);
	sql_bind_text(stmt, 4, artifact_type);
	sql_bind_text(stmt, 5, descriptor);
	return catalog_write_end(c, catalog_run(c, PUT_REFERRER, err), err);
}

int catalog_referrers(struct catalog *c, struct str repo, const struct digest_name *subject, struct str artifact_type,
                      struct catalog_page *page, struct buf *out, struct error *err)
{
	int step = SQLITE_DONE;
	size_t n = 0, begin = out->len;
	pthread_mutex_lock(&c->read_lock);
	sqlite3_stmt *stmt = c->stmt[REFERRERS];
	sql_bind_text(stmt, 1, repo);
	sql_bind_blob(stmt, 2, digest_name_bytes(subject));
	sql_bind_blob(stmt, 3, page->begun ? (struct str){(char *)page->last.bytes, DIGEST_SIZE} : STR(""));
	sql_bind_text(stmt, 4, artifact_type);
	page->more = false;
	while (!page->more && (step = sqlite3_step(stmt)) == SQLITE_ROW) {
		struct str json = sql_bytes(stmt, 1), digest = sql_bytes(stmt, 0);
		page->more = n > 0 && (n >= page->rows_max || out->len - begin + json.len > page->bytes_max);
		if (page->more)
			break;
		if (n++)
			buf_append_str(out, STR(","));
		buf_append_str(out, json);
		if (digest.len == DIGEST_SIZE)
			memcpy(page->last.bytes, digest.base, DIGEST_SIZE);
	}
	int rc = step == SQLITE_DONE || step == SQLITE_ROW ? 0 : sql_fail(c->reader, "cannot read the catalog", err);
	sql_reset(stmt);
	pthread_mutex_unlock(&c->read_lock);
	return rc;
}

int catalog_forget_names(struct catalog *c, struct str repo, const struct digest *d, struct error *err)
{
	static const enum catalog_statement all[] = {FORGET_CALLED, FORGET_REFERRER};
	int rc = 0;
	for (size_t i = 0; !rc && i < sizeof all / sizeof *all; i++) {
		sql_bind_text(c->stmt[all[i]], 1, repo);
		sql_bind_digest(c->stmt[all[i]], 2, d);
		rc = catalog_run(c, all[i], err);
	}
	return rc;
}

int catalog_first_repo_with(struct catalog *c, const struct digest *d, bool (*may)(void *arg, struct str repo),
                            void *arg, char *ret_repo, size_t size, struct error *err)
{
	struct buf names = {0};
	int step, rc;
	pthread_mutex_lock(&c->read_lock);
	sqlite3_stmt *stmt = c->stmt[REPOS_WITH];
	sql_bind_digest(stmt, 1, d);
	while ((step = sqlite3_step(stmt)) == SQLITE_ROW) {
		buf_append_str(&names, sql_bytes(stmt, 0));
		buf_append_str(&names, STR("\n"));
	}
	rc = step == SQLITE_DONE ? E_NOTFOUND : sql_fail(c->reader, "cannot read the catalog", err);
	sql_reset(stmt);
	pthread_mutex_unlock(&c->read_lock);
	struct str rest = buf_str(&names);
	while (rc == E_NOTFOUND && rest.len) {
		struct str repo = str_cut(rest, '\n', &rest);
		if (may(arg, repo) && str_copy(repo, ret_repo, size))
			rc = 0;
	}
	buf_fini(&names);
	return rc;
}
