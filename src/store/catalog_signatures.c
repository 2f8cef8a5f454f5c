/* SPDX-License-Identifier: Apache-2.0 */
/* Signatures and channel statements by the manifest they are about. A version's row is written again when what is
 * attached to it changes, so that its serial moves and nodes hear of it. Of a channel's statements one is listed, the
 * highest; of signatures the newest, as many as a version may have. */
#include "store/catalog_private.h"

#include <stdlib.h>

static sqlite3_stmt *bind_both(struct catalog *c, enum catalog_statement which, struct str repo, const struct digest *d)
{
	sql_bind_text(c->stmt[which], 1, repo);
	sql_bind_digest(c->stmt[which], 2, d);
	return c->stmt[which];
}

int catalog_signatures(struct catalog *c, const struct version *v, struct version_signature **ret_list,
                       size_t *ret_count, struct error *err)
{
	struct version_signature list[VERSION_SIGNATURES_MAX];
	size_t count = 0, signatures = 0;
	bool stated = false;
	struct buf channel = {0};
	int step;
	buf_printf(&channel, "%s:%s", v->name, v->tag);
	sqlite3_stmt *stmt = bind_both(c, SIGNATURES, str_from(v->name), &v->manifest);
	sql_bind_text(stmt, 3, buf_str(&channel));
	while ((step = sqlite3_step(stmt)) == SQLITE_ROW) {
		struct str bundle = sql_bytes(stmt, 0);
		bool statement = sqlite3_column_bytes(stmt, 2) > 0;
		/* one place is kept for the statement, which comes last */
		if (bundle.len != DIGEST_SIZE || (statement ? stated : signatures == VERSION_SIGNATURES_MAX - 1))
			continue;
		memcpy(list[count].digest.bytes, bundle.base, DIGEST_SIZE);
		list[count++].size = (uint64_t)sqlite3_column_int64(stmt, 1);
		stated |= statement;
		signatures += !statement;
	}
	int rc = step == SQLITE_DONE ? 0 : sql_fail(c->writer, "cannot read the catalog", err);
	sql_reset(stmt);
	buf_fini(&channel);
	if (rc)
		return rc;
	*ret_list = count ? mem_resize(NULL, count, sizeof **ret_list) : NULL;
	if (count)
		memcpy(*ret_list, list, count * sizeof *list);
	*ret_count = count;
	return 0;
}

/* Writes the versions of all tags that name the manifest, as it is known. */
static int rewrite(struct catalog *c, struct str repo, const struct digest *manifest, struct error *err)
{
	struct version v;
	struct buf tags = {0};
	sqlite3_stmt *stmt = bind_both(c, GET_KNOWN, repo, manifest);
	bool known = sqlite3_step(stmt) == SQLITE_ROW && !catalog_parse_version(sql_bytes(stmt, 0), &v, NULL);
	sql_reset(stmt);
	if (!known)
		return 0;
	stmt = bind_both(c, ACTUAL_TAGS, repo, manifest);
	while (sqlite3_step(stmt) == SQLITE_ROW) {
		buf_append_str(&tags, sql_bytes(stmt, 0));
		buf_append_str(&tags, STR("\n"));
	}
	sql_reset(stmt);
	int rc = 0;
	for (struct str rest = buf_str(&tags), tag; !rc && rest.len;) {
		tag = str_cut(rest, '\n', &rest);
		sql_bind_text(c->stmt[IS_RETIRED], 1, repo);
		sql_bind_text(c->stmt[IS_RETIRED], 2, tag);
		bool retired = sqlite3_step(c->stmt[IS_RETIRED]) == SQLITE_ROW;
		sql_reset(c->stmt[IS_RETIRED]);
		if (retired)
			continue;
		str_copy(tag, v.tag, sizeof v.tag);
		rc = catalog_write_version(c, &v, err);
	}
	version_fini(&v);
	buf_fini(&tags);
	return rc;
}

static int add(struct catalog *c, struct str repo, const struct catalog_signature *s, struct error *err)
{
	sqlite3_stmt *stmt = bind_both(c, PUT_SIGNATURE, repo, &s->manifest);
	sql_bind_digest(stmt, 3, &s->referrer);
	sql_bind_digest(stmt, 4, &s->bundle.digest);
	sqlite3_bind_int64(stmt, 5, (int64_t)s->bundle.size);
	sql_bind_text(stmt, 6, s->channel.len ? s->channel : STR(""));
	sqlite3_bind_int64(stmt, 7, (int64_t)s->rank);
	int rc = catalog_run(c, PUT_SIGNATURE, err);
	return rc ? rc : rewrite(c, repo, &s->manifest, err);
}

int catalog_add_signature(struct catalog *c, struct str repo, const struct catalog_signature *s, struct error *err)
{
	int rc = catalog_write_begin(c, err);
	return rc ? rc : catalog_write_end(c, add(c, repo, s, err), err);
}

static int drop(struct catalog *c, struct str repo, const struct digest *referrer, struct error *err)
{
	struct digest manifest;
	sqlite3_stmt *stmt = bind_both(c, DELETE_SIGNATURE, repo, referrer);
	bool had = sqlite3_step(stmt) == SQLITE_ROW;
	if (had)
		memcpy(manifest.bytes, sql_bytes(stmt, 0).base, DIGEST_SIZE);
	while (had && sqlite3_step(stmt) == SQLITE_ROW)
		;
	sql_reset(stmt);
	bind_both(c, FORGET_SIGNATURES, repo, referrer);
	int rc = catalog_run(c, FORGET_SIGNATURES, err);
	return rc || !had ? rc : rewrite(c, repo, &manifest, err);
}

int catalog_drop_signature(struct catalog *c, struct str repo, const struct digest *referrer, struct error *err)
{
	int rc = catalog_write_begin(c, err);
	return rc ? rc : catalog_write_end(c, drop(c, repo, referrer, err), err);
}
