/* SPDX-License-Identifier: Apache-2.0 */
/* The history of tags is a table of moves. Rolling back undoes the last move that was not undone yet: read from the
 * newest on, each rollback stands for one move before it, as closing brackets do for opening ones. What a tag named is
 * known by its manifest, so a channel can go back to a version that no other tag names any more.
 *
 * A quota is checked where a blob becomes part of a repository, in the transaction that does it: writers come one after
 * the other there, so that together they never pass it.
 */
#include "store/catalog_private.h"

#include "base/clock.h"
#include "base/limits.h"

#include <stdlib.h>

static sqlite3_stmt *bind2(struct catalog *c, enum catalog_statement which, struct str repo, struct str tag)
{
	sql_bind_text(c->stmt[which], 1, repo);
	sql_bind_text(c->stmt[which], 2, tag);
	return c->stmt[which];
}

static sqlite3_stmt *bind_manifest(struct catalog *c, enum catalog_statement which, struct str repo,
                                   const struct digest *d)
{
	sql_bind_text(c->stmt[which], 1, repo);
	sql_bind_digest(c->stmt[which], 2, d);
	return c->stmt[which];
}

static bool digest_at(sqlite3_stmt *stmt, int column, struct digest *ret_digest)
{
	struct str bytes = sql_bytes(stmt, column);
	if (bytes.len != DIGEST_SIZE)
		return false;
	memcpy(ret_digest->bytes, bytes.base, DIGEST_SIZE);
	return true;
}

static bool row_exists(sqlite3_stmt *stmt)
{
	bool exists = sqlite3_step(stmt) == SQLITE_ROW;
	sql_reset(stmt);
	return exists;
}

/* ---- moving a tag ------------------------------------------------------------------------------ */

bool catalog_pattern_matches(const char *pattern, struct str text)
{
	size_t i = 0, star_at = 0;
	const char *star = NULL;
	while (i < text.len) {
		if (*pattern == '*') {
			star = ++pattern;
			star_at = i;
		} else if (*pattern && *pattern == text.base[i]) {
			pattern++;
			i++;
		} else if (star) {
			pattern = star;
			i = ++star_at;
		} else {
			return false;
		}
	}
	while (*pattern == '*')
		pattern++;
	return !*pattern;
}

static bool is_immutable(struct catalog *c, struct str repo, struct str tag)
{
	struct buf whole = {0};
	bool matches = false;
	buf_printf(&whole, STR_FMT ":" STR_FMT, STR_ARG(repo), STR_ARG(tag));
	pthread_mutex_lock(&c->rules_lock);
	for (size_t i = 0; i < c->rules.immutable_count && !matches; i++) {
		const char *pattern = c->rules.immutable[i];
		matches = catalog_pattern_matches(pattern, strchr(pattern, ':') ? buf_str(&whole) : tag);
	}
	pthread_mutex_unlock(&c->rules_lock);
	buf_fini(&whole);
	return matches;
}

static bool current(struct catalog *c, struct str repo, struct str tag, struct digest *ret_digest)
{
	sqlite3_stmt *stmt = bind2(c, WRITE_GET_TAG, repo, tag);
	bool found = sqlite3_step(stmt) == SQLITE_ROW && digest_at(stmt, 0, ret_digest);
	sql_reset(stmt);
	return found;
}

static int add_move(struct catalog *c, struct str who, const char *what, struct str repo, struct str tag,
                    const struct digest *before, const struct digest *after, struct error *err)
{
	sqlite3_stmt *stmt = bind2(c, ADD_MOVE, repo, tag);
	sqlite3_bind_int64(stmt, 3, clock_wall_us());
	if (before)
		sql_bind_digest(stmt, 4, before);
	if (after)
		sql_bind_digest(stmt, 5, after);
	sql_bind_text(stmt, 6, who);
	sql_bind_text(stmt, 7, str_from(what));
	int rc = catalog_run(c, ADD_MOVE, err);
	if (rc)
		return rc;
	sqlite3_bind_int64(bind2(c, TRIM_MOVES, repo, tag), 3, CATALOG_MOVES_MAX);
	return catalog_run(c, TRIM_MOVES, err);
}

int catalog_move_tag(struct catalog *c, struct str who, const char *what, struct str repo, struct str tag,
                     const struct digest *d, struct error *err)
{
	struct digest before;
	bool was = current(c, repo, tag, &before);
	if (was && d && digest_equal(&before, d))
		return 0;
	if (!was && !d)
		return error_set(err, E_NOTFOUND, "it is not in the catalog");
	if (was && d && is_immutable(c, repo, tag))
		return error_set(err, E_CONFLICT,
		                 STR_FMT ":" STR_FMT " is immutable here (immutable_tags) and names something else; "
		                         "push under another tag",
		                 STR_ARG(repo), STR_ARG(tag));
	if (d)
		sql_bind_digest(bind2(c, PUT_TAG, repo, tag), 3, d);
	else
		bind2(c, DELETE_TAG, repo, tag);
	int rc = catalog_run(c, d ? PUT_TAG : DELETE_TAG, err);
	bind2(c, DELETE_RETIRED, repo, tag); /* what it names now was not retired */
	if (!rc)
		rc = catalog_run(c, DELETE_RETIRED, err);
	return rc ? rc : add_move(c, who, what, repo, tag, was ? &before : NULL, d, err);
}

int catalog_forget_manifest(struct catalog *c, struct str repo, const struct digest *d, struct error *err)
{
	bind_manifest(c, FORGET_KNOWN, repo, d);
	int rc = catalog_run(c, FORGET_KNOWN, err);
	if (rc)
		return rc;
	sqlite3_bind_int64(bind_manifest(c, ADD_DELETIONS, repo, d), 3, clock_wall_us());
	return catalog_run(c, ADD_DELETIONS, err);
}

/* ---- versions by their manifest ------------------------------------------------------------------ */

static int get_known(struct catalog *c, struct str repo, const struct digest *d, struct version *ret_version,
                     struct error *err)
{
	sqlite3_stmt *stmt = bind_manifest(c, GET_KNOWN, repo, d);
	int rc = E_NOTFOUND;
	if (sqlite3_step(stmt) == SQLITE_ROW)
		rc = catalog_parse_version(sql_bytes(stmt, 0), ret_version, err);
	else
		error_set(err, E_NOTFOUND, "that version is no longer here: its manifest was deleted");
	sql_reset(stmt);
	return rc;
}

static int put_known(struct catalog *c, const struct version *v, struct error *err)
{
	struct buf json = {0};
	version_format(v, &json);
	sql_bind_text(bind_manifest(c, PUT_KNOWN, str_from(v->name), &v->manifest), 3, buf_str(&json));
	int rc = catalog_run(c, PUT_KNOWN, err);
	buf_fini(&json);
	return rc;
}

int catalog_remember_version(struct catalog *c, struct version *v, struct error *err)
{
	struct version known;
	if (!get_known(c, str_from(v->name), &v->manifest, &known, NULL)) {
		version_take_labels(v, &known);
		version_fini(&known);
	}
	v->retired = false;
	int rc = put_known(c, v, err);
	v->retired = row_exists(bind2(c, IS_RETIRED, str_from(v->name), str_from(v->tag)));
	return rc;
}

/* The row of the tag says what the manifest it names is. */
static int refresh_tag(struct catalog *c, struct str name, struct str tag, const struct digest *d, struct error *err)
{
	struct version v;
	int rc = get_known(c, name, d, &v, NULL);
	if (rc == E_NOTFOUND)
		return catalog_drop_version(c, name, tag, err); /* it is no model */
	if (rc)
		return error_set(err, rc, "what the catalog knows of " STR_FMT ":" STR_FMT " is damaged", STR_ARG(name),
		                 STR_ARG(tag));
	str_copy(tag, v.tag, sizeof v.tag);
	v.retired = row_exists(bind2(c, IS_RETIRED, name, tag));
	rc = catalog_write_version(c, &v, err);
	version_fini(&v);
	return rc;
}

/* ---- channels ------------------------------------------------------------------------------------ */

static int unknown_tag(struct str name, struct str tag, struct error *err)
{
	return error_set(err, E_NOTFOUND, "the repository has no " STR_FMT ":" STR_FMT "; see `mdn models`",
	                 STR_ARG(name), STR_ARG(tag));
}

static int promote(struct catalog *c, struct str who, struct str name, struct str from, struct str to,
                   struct digest *ret_digest, struct error *err)
{
	struct digest d;
	if (!current(c, name, from, &d))
		return unknown_tag(name, from, err);
	if (row_exists(bind2(c, IS_RETIRED, name, from)))
		return error_set(err, E_CONFLICT,
		                 STR_FMT ":" STR_FMT " is retired; take that back first with `mdn retire --undo`",
		                 STR_ARG(name), STR_ARG(from));
	int rc = catalog_move_tag(c, who, "promote", name, to, &d, err);
	if (!rc)
		rc = refresh_tag(c, name, to, &d, err);
	if (!rc)
		*ret_digest = d;
	return rc;
}

int catalog_promote(struct catalog *c, struct str who, struct str name, struct str from, struct str to,
                    struct digest *ret_digest, struct error *err)
{
	int rc = catalog_write_begin(c, err);
	return rc ? rc : catalog_write_end(c, promote(c, who, name, from, to, ret_digest, err), err);
}

/* What the last move that was not undone yet changed. */
static int before_last(struct catalog *c, struct str name, struct str tag, struct digest *ret_digest, struct error *err)
{
	sqlite3_stmt *stmt = bind2(c, MOVE_BEFORE, name, tag);
	size_t undone = 0;
	bool any = false, found = false;
	while (!found && sqlite3_step(stmt) == SQLITE_ROW) {
		any = true;
		if (str_equal(sql_bytes(stmt, 1), STR("rollback"))) {
			undone++;
		} else if (undone) {
			undone--;
		} else {
			found = digest_at(stmt, 0, ret_digest);
			break;
		}
	}
	sql_reset(stmt);
	if (!any)
		return unknown_tag(name, tag, err);
	return found ? 0
	             : error_set(err, E_CONFLICT, STR_FMT ":" STR_FMT " named nothing before; see `mdn history`",
	                         STR_ARG(name), STR_ARG(tag));
}

static int rollback(struct catalog *c, struct str who, struct str name, struct str tag, struct digest *ret_digest,
                    struct error *err)
{
	struct digest d;
	struct version v;
	int rc = before_last(c, name, tag, &d, err);
	if (rc || (rc = get_known(c, name, &d, &v, err)))
		return rc;
	version_fini(&v);
	rc = catalog_move_tag(c, who, "rollback", name, tag, &d, err);
	if (!rc)
		rc = refresh_tag(c, name, tag, &d, err);
	if (!rc)
		*ret_digest = d;
	return rc;
}

int catalog_rollback(struct catalog *c, struct str who, struct str name, struct str tag, struct digest *ret_digest,
                     struct error *err)
{
	int rc = catalog_write_begin(c, err);
	return rc ? rc : catalog_write_end(c, rollback(c, who, name, tag, ret_digest, err), err);
}

static int retire(struct catalog *c, struct str name, struct str tag, bool retired, struct error *err)
{
	struct digest d;
	if (!current(c, name, tag, &d))
		return unknown_tag(name, tag, err);
	enum catalog_statement which = retired ? PUT_RETIRED : DELETE_RETIRED;
	bind2(c, which, name, tag);
	int rc = catalog_run(c, which, err);
	return rc ? rc : refresh_tag(c, name, tag, &d, err);
}

int catalog_retire(struct catalog *c, struct str name, struct str tag, bool retired, struct error *err)
{
	int rc = catalog_write_begin(c, err);
	return rc ? rc : catalog_write_end(c, retire(c, name, tag, retired, err), err);
}

/* All tags of a manifest; collected first, for writing needs the statements. */
static int refresh_tags(struct catalog *c, struct str name, const struct digest *d, struct error *err)
{
	struct buf tags = {0};
	sqlite3_stmt *stmt = bind_manifest(c, ACTUAL_TAGS, name, d);
	while (sqlite3_step(stmt) == SQLITE_ROW) {
		buf_append_str(&tags, sql_bytes(stmt, 0));
		buf_append(&tags, "\n", 1);
	}
	sql_reset(stmt);
	int rc = 0;
	for (struct str rest = buf_str(&tags), tag; !rc && rest.len;) {
		tag = str_cut(rest, '\n', &rest);
		rc = refresh_tag(c, name, tag, d, err);
	}
	buf_fini(&tags);
	return rc;
}

static int label(struct catalog *c, struct str name, struct str tag, const struct str *keys, const struct str *values,
                 size_t count, struct error *err)
{
	struct digest d;
	struct version v;
	if (!current(c, name, tag, &d))
		return unknown_tag(name, tag, err);
	int rc = get_known(c, name, &d, &v, NULL);
	if (rc)
		return error_set(err, rc, STR_FMT ":" STR_FMT " is not a model; only models have labels", STR_ARG(name),
		                 STR_ARG(tag));
	for (size_t i = 0; i < count && !rc; i++)
		rc = version_label_set(&v, keys[i], values[i], err);
	if (!rc)
		rc = put_known(c, &v, err);
	version_fini(&v);
	return rc ? rc : refresh_tags(c, name, &d, err);
}

int catalog_label(struct catalog *c, struct str name, struct str tag, const struct str *keys, const struct str *values,
                  size_t count, struct error *err)
{
	int rc = catalog_write_begin(c, err);
	return rc ? rc : catalog_write_end(c, label(c, name, tag, keys, values, count, err), err);
}

/* ---- history ------------------------------------------------------------------------------------- */

struct kept_move {
	int64_t wall_us;
	struct digest before, after;
	bool has_before, has_after;
	char who[160], what[16];
};

int catalog_history(struct catalog *c, struct str name, struct str tag, size_t limit,
                    void (*fn)(void *arg, const struct catalog_move *m), void *arg, struct error *err)
{
	size_t count = 0, most = limit && limit < CATALOG_MOVES_MAX ? limit : CATALOG_MOVES_MAX;
	struct kept_move *moves = mem_new(most * sizeof *moves);
	int step = SQLITE_DONE;
	pthread_mutex_lock(&c->read_lock);
	sqlite3_stmt *stmt = bind2(c, MOVES, name, tag);
	sqlite3_bind_int64(stmt, 3, (int64_t)most);
	while (count < most && (step = sqlite3_step(stmt)) == SQLITE_ROW) {
		struct kept_move *m = &moves[count++];
		m->wall_us = sqlite3_column_int64(stmt, 0);
		m->has_before = digest_at(stmt, 1, &m->before);
		m->has_after = digest_at(stmt, 2, &m->after);
		str_copy(sql_bytes(stmt, 3), m->who, sizeof m->who);
		str_copy(sql_bytes(stmt, 4), m->what, sizeof m->what);
	}
	int rc = step == SQLITE_DONE || step == SQLITE_ROW ? 0 : sql_fail(c->reader, "cannot read the catalog", err);
	sql_reset(stmt);
	pthread_mutex_unlock(&c->read_lock);
	for (size_t i = 0; i < count && !rc; i++) {
		const struct kept_move *m = &moves[i];
		fn(arg, &(struct catalog_move){m->wall_us, m->has_before ? &m->before : NULL,
		                               m->has_after ? &m->after : NULL, m->who, m->what});
	}
	free(moves);
	return rc || count ? rc : unknown_tag(name, tag, err);
}

/* ---- rules --------------------------------------------------------------------------------------- */

void catalog_rules_fini(struct catalog_rules *rules)
{
	for (size_t i = 0; i < rules->immutable_count; i++)
		free(rules->immutable[i]);
	free(rules->immutable);
	free(rules->quotas);
}

void catalog_set_rules(struct catalog *c, const char *const *immutable, size_t immutable_count,
                       const struct catalog_quota *quotas, size_t quota_count)
{
	struct catalog_rules fresh = {.immutable = mem_new((immutable_count + 1) * sizeof *fresh.immutable),
	                              .immutable_count = immutable_count,
	                              .quotas = mem_new((quota_count + 1) * sizeof *fresh.quotas),
	                              .quota_count = quota_count};
	for (size_t i = 0; i < immutable_count; i++)
		fresh.immutable[i] = str_dup(str_from(immutable[i]));
	if (quota_count)
		memcpy(fresh.quotas, quotas, quota_count * sizeof *quotas);
	pthread_mutex_lock(&c->rules_lock);
	struct catalog_rules old = c->rules;
	fresh.size_of = old.size_of;
	fresh.size_arg = old.size_arg;
	c->rules = fresh;
	pthread_mutex_unlock(&c->rules_lock);
	catalog_rules_fini(&old);
}

void catalog_set_size_of(struct catalog *c, catalog_size_of *fn, void *arg)
{
	pthread_mutex_lock(&c->rules_lock);
	c->rules.size_of = fn;
	c->rules.size_arg = arg;
	pthread_mutex_unlock(&c->rules_lock);
}

struct str catalog_space_of(struct str repo)
{
	const char *slash = repo.len ? memchr(repo.base, '/', repo.len) : NULL;
	return slash ? (struct str){repo.base, (size_t)(slash - repo.base)} : STR("library");
}

static uint64_t quota_of(struct catalog *c, struct str space)
{
	uint64_t bytes = UINT64_MAX;
	pthread_mutex_lock(&c->rules_lock);
	for (size_t i = 0; i < c->rules.quota_count; i++)
		if (str_equal(str_from(c->rules.quotas[i].space), space))
			bytes = c->rules.quotas[i].bytes;
	pthread_mutex_unlock(&c->rules_lock);
	return bytes;
}

static uint64_t used(struct catalog *c, enum catalog_statement which, struct str space)
{
	sqlite3_stmt *stmt = c->stmt[which];
	sql_bind_text(stmt, 1, space);
	uint64_t bytes = sqlite3_step(stmt) == SQLITE_ROW ? (uint64_t)sqlite3_column_int64(stmt, 0) : 0;
	sql_reset(stmt);
	return bytes;
}

static int over(struct str space, uint64_t has, uint64_t wants, uint64_t quota, struct error *err)
{
	return error_set(err, E_FORBIDDEN,
	                 "the quota of " STR_FMT " is %llu bytes: %llu are used and %llu more do not fit; delete "
	                 "versions, or have `repository_quotas` raised",
	                 STR_ARG(space), (unsigned long long)quota, (unsigned long long)has, (unsigned long long)wants);
}

/* In a transaction. *ret_size 0: it was known, or the blob is not here. */
static int note_size(struct catalog *c, const struct digest *d, uint64_t *ret_size, struct error *err)
{
	int rc = 0;
	*ret_size = 0;
	sql_bind_digest(c->stmt[HAS_SIZE], 1, d);
	if (c->rules.size_of && !row_exists(c->stmt[HAS_SIZE]) && !c->rules.size_of(c->rules.size_arg, d, ret_size)) {
		sql_bind_digest(c->stmt[PUT_SIZE], 1, d);
		sqlite3_bind_int64(c->stmt[PUT_SIZE], 2, (int64_t)*ret_size);
		rc = catalog_run(c, PUT_SIZE, err);
	}
	sql_reset(c->stmt[HAS_SIZE]);
	return rc;
}

int catalog_check_quota(struct catalog *c, struct str repo, const struct digest *d, struct error *err)
{
	struct str space = catalog_space_of(repo);
	uint64_t size, quota = quota_of(c, space);
	int rc = note_size(c, d, &size, err);
	if (rc || quota == UINT64_MAX)
		return rc;
	uint64_t now = used(c, USED, space);
	return now > quota ? over(space, size < now ? now - size : 0, size, quota, err) : 0;
}

int catalog_quota_room(struct catalog *c, struct str repo, uint64_t bytes, struct error *err)
{
	struct str space = catalog_space_of(repo);
	uint64_t quota = quota_of(c, space);
	if (quota == UINT64_MAX)
		return 0;
	pthread_mutex_lock(&c->read_lock);
	uint64_t now = used(c, READ_USED, space);
	pthread_mutex_unlock(&c->read_lock);
	return now > quota || bytes > quota - now ? over(space, now, bytes, quota, err) : 0;
}

/* Of a namespace without anything, too, when it has a quota. */
static void add_quota_names(struct catalog *c, struct buf *names)
{
	pthread_mutex_lock(&c->rules_lock);
	for (size_t i = 0; i < c->rules.quota_count; i++) {
		struct buf line = {0};
		buf_printf(&line, "%s\n", c->rules.quotas[i].space);
		if (!names->len || !memmem(names->base, names->len, line.base, line.len))
			buf_append_str(names, buf_str(&line));
		buf_fini(&line);
	}
	pthread_mutex_unlock(&c->rules_lock);
}

int catalog_each_space(struct catalog *c, void (*fn)(void *arg, struct str space, uint64_t used, uint64_t quota),
                       void *arg, struct error *err)
{
	struct buf names = {0};
	pthread_mutex_lock(&c->read_lock);
	sqlite3_stmt *stmt = c->stmt[NAMESPACES];
	int step;
	while ((step = sqlite3_step(stmt)) == SQLITE_ROW) {
		buf_append_str(&names, sql_bytes(stmt, 0));
		buf_append(&names, "\n", 1);
	}
	sql_reset(stmt);
	pthread_mutex_unlock(&c->read_lock);
	add_quota_names(c, &names);
	for (struct str rest = buf_str(&names), space; rest.len;) {
		space = str_cut(rest, '\n', &rest);
		pthread_mutex_lock(&c->read_lock);
		uint64_t bytes = used(c, READ_USED, space);
		pthread_mutex_unlock(&c->read_lock);
		fn(arg, space, bytes, quota_of(c, space));
	}
	buf_fini(&names);
	return step == SQLITE_DONE ? 0 : error_set(err, E_IO, "cannot read the catalog");
}
