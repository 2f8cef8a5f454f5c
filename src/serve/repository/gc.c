/* SPDX-License-Identifier: Apache-2.0 */
/* The order that makes it safe beside a push:
 *
 *   A push looks at every blob before it names it (the store renews its time of use), and then writes the manifest.
 *   The line between old and used is drawn once, a lease before marking begins. So a blob that a manifest names which
 *   marking did not see was used after the line, and condemning it fails.
 *   Condemned blobs are not found any more, so nobody can begin to rely on one. Their links go in one transaction that
 *   asks again whether they are still condemned; then the files go.
 *
 * A manifest that cannot be read (`mdn fsck` names it) might need anything: all that its repository has is kept.
 */
#include "serve/repository/gc.h"

#include "base/limits.h"
#include "serve/repository/manifest.h"
#include "store/catalog_keep.h"
#include "store/digest_set.h"
#include "store/spool.h"

#include <stdlib.h>

#define PAGE 128

enum step { MANIFESTS, CHILDREN, UNREADABLE, VERSIONS, LISTS, PRUNE, LINKS, BLOBS, SPOOLS, DONE };

struct pending { /* an untagged manifest whose fate is open */
	struct kept_manifest m;
	bool kept;
};

struct gc {
	struct gc_options o;
	struct gc_result result;
	enum step step;
	int64_t line_us;              /* what was used since stays */
	struct digest_set needed;     /* blobs */
	struct digest_set named;      /* pairs of repository and what a kept manifest of it names */
	struct digest_set unreadable; /* repositories */
	struct pending *pending;
	size_t pending_count, pending_size;
	struct kept_manifest at_manifest;
	struct kept_list at_list;
	struct kept_link at_link;
	struct kept_version at_version;
	bool begun;            /* the at_ of this step is set */
	unsigned folder;       /* of BLOBS */
	struct blob_info *old; /* of that folder */
	size_t old_count, old_size;
};

struct gc *gc_new(const struct gc_options *options)
{
	struct gc *g = NEW(struct gc);
	g->o = *options;
	g->line_us = blob_store_now_us(options->store) - options->lease_us;
	g->result.phase = "mark";
	return g;
}

void gc_free(struct gc *g)
{
	if (!g)
		return;
	blob_pardon_all(g->o.store);
	digest_set_fini(&g->needed);
	digest_set_fini(&g->named);
	digest_set_fini(&g->unreadable);
	free(g->pending);
	free(g->old);
	free(g);
}

const struct gc_result *gc_result(const struct gc *g)
{
	return &g->result;
}

/* ---- marking ---------------------------------------------------------------------------------- */

static struct digest pair_of(const char *repo, const struct digest *d)
{
	struct digest_stream *hash = digest_stream_new();
	digest_stream_add(hash, d->bytes, DIGEST_SIZE);
	digest_stream_add(hash, repo, strlen(repo));
	struct digest pair = digest_stream_end(hash);
	digest_stream_free(hash);
	return pair;
}

static void name(struct gc *g, const char *repo, const struct digest *d)
{
	struct digest pair = pair_of(repo, d);
	digest_set_add(&g->needed, d);
	digest_set_add(&g->named, &pair);
}

static bool is_named(const struct gc *g, const char *repo, const struct digest *d)
{
	struct digest pair = pair_of(repo, d);
	return digest_set_has(&g->named, &pair);
}

static void give_up_on(struct gc *g, const char *repo)
{
	struct digest d = digest_of(repo, strlen(repo));
	digest_set_add(&g->unreadable, &d);
	g->result.unreadable++;
}

static void name_version(struct gc *g, const char *repo, const struct version *v)
{
	digest_set_add(&g->needed, &v->manifest);
	for (size_t i = 0; i < v->file_count; i++) {
		name(g, repo, &v->files[i].digest);
		digest_set_add(&g->needed, &v->files[i].chunks);
	}
}

static void keep_manifest(struct gc *g, const struct kept_manifest *m)
{
	struct buf text = {0};
	struct manifest parsed;
	name(g, m->repo, &m->digest);
	g->result.manifests++;
	if (blob_peek_all(g->o.store, &m->digest, LIMIT_MANIFEST, &text, NULL) ||
	    manifest_parse(buf_str(&text), &parsed, NULL)) {
		give_up_on(g, m->repo);
		buf_fini(&text);
		return;
	}
	manifest_resolve(&parsed, g->o.catalog);
	for (size_t i = 0; i < parsed.item_count; i++) {
		const struct manifest_item *item = &parsed.items[i];
		struct digest d;
		if (!item->elsewhere && catalog_find_name(g->o.catalog, &item->name, &d, NULL))
			give_up_on(g, m->repo); /* another name whose blob is not known */
		name(g, m->repo, &item->digest);
	}
	manifest_fini(&parsed);
	buf_fini(&text);
}

static void add_pending(struct gc *g, const struct kept_manifest *m)
{
	if (g->pending_count == g->pending_size) {
		g->pending_size = g->pending_size ? 2 * g->pending_size : 64;
		g->pending = mem_resize(g->pending, g->pending_size, sizeof *g->pending);
	}
	g->pending[g->pending_count++] = (struct pending){*m, false};
}

static void next_step(struct gc *g, enum step step)
{
	g->step = step;
	g->begun = false;
	g->result.phase = step < PRUNE ? "mark" : step < DONE ? "sweep" : "done";
}

static int step_manifests(struct gc *g, struct error *err)
{
	struct kept_manifest page[PAGE];
	size_t n;
	int rc = catalog_page_manifests(g->o.catalog, g->begun ? &g->at_manifest : NULL, PAGE, page, &n, err);
	if (rc)
		return rc;
	for (size_t i = 0; i < n; i++) {
		if (g->o.untagged && !page[i].tagged)
			add_pending(g, &page[i]);
		else
			keep_manifest(g, &page[i]);
	}
	g->begun = true;
	if (n)
		g->at_manifest = page[n - 1];
	if (n < PAGE)
		next_step(g, CHILDREN);
	return 0;
}

/* What the subject of a referrer is; false: it has none, or cannot be read. */
static bool subject_of(struct gc *g, const struct digest *d, struct digest *ret_subject)
{
	struct buf text = {0};
	struct manifest parsed;
	bool has = !blob_peek_all(g->o.store, d, LIMIT_MANIFEST, &text, NULL) &&
	           !manifest_parse(buf_str(&text), &parsed, NULL);
	buf_fini(&text);
	if (!has)
		return false;
	has = parsed.has_subject && !catalog_find_name(g->o.catalog, &parsed.subject, ret_subject, NULL);
	manifest_fini(&parsed);
	return has;
}

/* Nobody has looked at it since the line, or it is gone anyway. */
static bool is_old(void *arg, const struct digest *d)
{
	struct gc *g = arg;
	struct blob_info info;
	return blob_info(g->o.store, d, &info, NULL) || info.used_us < g->line_us;
}

/* Untagged manifests that something kept leads to; again until a round finds no more. */
static int step_children(struct gc *g, struct error *err)
{
	bool found = false;
	for (size_t i = 0; i < g->pending_count; i++) {
		struct pending *p = &g->pending[i];
		struct digest subject;
		if (p->kept)
			continue;
		p->kept = !is_old(g, &p->m.digest) || is_named(g, p->m.repo, &p->m.digest) ||
		          (subject_of(g, &p->m.digest, &subject) && is_named(g, p->m.repo, &subject));
		if (p->kept)
			keep_manifest(g, &p->m);
		found = found || p->kept;
	}
	if (!found)
		next_step(g, UNREADABLE);
	return 0;
}

static int step_unreadable(struct gc *g, struct error *err)
{
	struct kept_link page[PAGE];
	size_t n = 0;
	int rc = g->result.unreadable
	             ? catalog_page_links(g->o.catalog, g->begun ? &g->at_link : NULL, PAGE, page, &n, err)
	             : 0;
	if (rc)
		return rc;
	for (size_t i = 0; i < n; i++) {
		struct digest repo = digest_of(page[i].repo, strlen(page[i].repo));
		if (digest_set_has(&g->unreadable, &repo))
			name(g, page[i].repo, &page[i].digest);
	}
	g->begun = true;
	if (n)
		g->at_link = page[n - 1];
	if (n < PAGE)
		next_step(g, VERSIONS);
	return 0;
}

static int step_versions(struct gc *g, struct error *err)
{
	struct kept_version page[PAGE];
	size_t n;
	int rc = catalog_page_versions(g->o.catalog, g->begun ? &g->at_version : NULL, PAGE, page, &n, err);
	if (rc)
		return rc;
	for (size_t i = 0; i < n; i++) {
		struct version v;
		if (catalog_get_version(g->o.catalog, str_from(page[i].name), str_from(page[i].tag), &v, NULL))
			continue; /* deleted meanwhile */
		name_version(g, page[i].name, &v);
		version_fini(&v);
	}
	g->begun = true;
	if (n)
		g->at_version = page[n - 1];
	if (n < PAGE)
		next_step(g, LISTS);
	return 0;
}

static int step_lists(struct gc *g, struct error *err)
{
	struct kept_list page[PAGE];
	size_t n;
	int rc = catalog_page_lists(g->o.catalog, g->begun ? &g->at_list : NULL, PAGE, page, &n, err);
	if (rc)
		return rc;
	for (size_t i = 0; i < n; i++)
		if (digest_set_has(&g->needed, &page[i].file))
			digest_set_add(&g->needed, &page[i].list);
	g->begun = true;
	if (n)
		g->at_list = page[n - 1];
	if (n < PAGE)
		next_step(g, PRUNE);
	return 0;
}

/* ---- sweeping --------------------------------------------------------------------------------- */

static bool is_condemned(void *arg, const struct digest *d)
{
	struct gc *g = arg;
	return blob_is_condemned(g->o.store, d);
}

static int step_prune(struct gc *g, struct error *err)
{
	struct kept_manifest page[PAGE];
	size_t n = 0, gone = 0;
	while (n < PAGE && g->pending_count) {
		struct pending *p = &g->pending[--g->pending_count];
		if (!p->kept)
			page[n++] = p->m;
	}
	int rc = g->o.dry_run || !n ? 0 : catalog_forget_manifests(g->o.catalog, page, n, is_old, g, &gone, err);
	g->result.manifests_gone += g->o.dry_run ? n : gone;
	if (!rc && !g->pending_count)
		next_step(g, LINKS);
	return rc;
}

/* A repository that no longer needs a blob no longer shows it, though others may need it. */
static int step_links(struct gc *g, struct error *err)
{
	struct kept_link page[PAGE], old[PAGE];
	size_t n, count = 0;
	int rc = catalog_page_links(g->o.catalog, g->begun ? &g->at_link : NULL, PAGE, page, &n, err);
	if (rc)
		return rc;
	for (size_t i = 0; i < n; i++)
		if (!is_named(g, page[i].repo, &page[i].digest) && is_old(g, &page[i].digest))
			old[count++] = page[i];
	if (count && !g->o.dry_run)
		rc = catalog_forget_links(g->o.catalog, old, count, is_old, g, err);
	g->begun = true;
	if (n)
		g->at_link = page[n - 1];
	if (!rc && n < PAGE)
		next_step(g, BLOBS);
	return rc;
}

static bool see_blob(void *arg, const struct blob_info *info)
{
	struct gc *g = arg;
	bool needed = digest_set_has(&g->needed, &info->digest), leased = !needed && info->used_us >= g->line_us;
	if (needed) {
		g->result.blobs_kept++;
		g->result.bytes_kept += info->size;
	} else if (leased) {
		g->result.blobs_leased++;
		g->result.bytes_leased += info->size;
	} else {
		if (g->old_count == g->old_size) {
			g->old_size = g->old_size ? 2 * g->old_size : 64;
			g->old = mem_resize(g->old, g->old_size, sizeof *g->old);
		}
		g->old[g->old_count++] = *info;
	}
	return true;
}

static void count_gone(struct gc *g, const struct blob_info *info, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		g->result.blobs_gone++;
		g->result.bytes_gone += info[i].size;
	}
}

/* The last of g->old, as many as may be condemned at once. */
static int sweep_some(struct gc *g, struct error *err)
{
	size_t n = g->old_count < BLOB_CONDEMNED_MAX ? g->old_count : BLOB_CONDEMNED_MAX, count = 0;
	struct blob_info *some = g->old + g->old_count - n;
	struct digest list[BLOB_CONDEMNED_MAX];
	g->old_count -= n;
	for (size_t i = 0; i < n; i++) {
		if (!blob_condemn(g->o.store, &some[i].digest, g->line_us))
			continue;
		list[count] = some[i].digest;
		some[count++] = some[i];
	}
	int rc = count ? catalog_forget_blobs(g->o.catalog, list, count, is_condemned, g, err) : 0;
	if (rc) {
		blob_pardon_all(g->o.store);
		return rc;
	}
	blob_sweep(g->o.store);
	count_gone(g, some, count);
	return 0;
}

static int step_blobs(struct gc *g, struct error *err)
{
	if (!g->old_count) {
		blob_each_of(g->o.store, (uint8_t)g->folder++, see_blob, g);
		if (g->o.dry_run) {
			count_gone(g, g->old, g->old_count);
			g->old_count = 0;
		}
	}
	int rc = g->old_count ? sweep_some(g, err) : 0;
	if (!rc && !g->old_count && g->folder == 256)
		next_step(g, SPOOLS);
	return rc;
}

static void see_spool(void *arg, const struct digest *d, const struct spool_info *info)
{
	struct gc *g = arg;
	if (digest_set_has(&g->needed, d) || info->used_us >= g->line_us)
		return;
	g->result.blobs_gone++;
	g->result.bytes_gone += info->disk_bytes;
	if (!g->o.dry_run)
		spool_forget(g->o.store, d);
}

/* Blobs that began to come from elsewhere and that no manifest names any more. */
static int step_spools(struct gc *g, struct error *err)
{
	spool_each(g->o.store, see_spool, g);
	next_step(g, DONE);
	return 0;
}

int gc_step(struct gc *g, bool *ret_more, struct error *err)
{
	static int (*const steps[])(struct gc *, struct error *) = {
	    [MANIFESTS] = step_manifests, [CHILDREN] = step_children, [UNREADABLE] = step_unreadable,
	    [VERSIONS] = step_versions,   [LISTS] = step_lists,       [PRUNE] = step_prune,
	    [LINKS] = step_links,         [BLOBS] = step_blobs,       [SPOOLS] = step_spools,
	};
	int rc = g->step == DONE ? 0 : steps[g->step](g, err);
	*ret_more = !rc && g->step != DONE;
	return rc;
}
