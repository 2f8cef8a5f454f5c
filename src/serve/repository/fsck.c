/* SPDX-License-Identifier: Apache-2.0 */
/* Blobs first, folder by folder and STEP_BYTES at a time; then, with what is left, everything that names them. */
#include "serve/repository/fsck.h"

#include "base/file.h"
#include "base/limits.h"
#include "serve/repository/manifest.h"
#include "store/catalog_keep.h"
#include "store/digest_set.h"
#include "store/origins.h"
#include "store/spool.h"

#include <stdio.h>
#include <stdlib.h>

#define PAGE 64
#define STEP_BYTES (UINT64_C(128) << 20)
#define PIECE (1u << 20)
#define WANTED_MAX 65536

enum step { BLOBS, MANIFESTS, VERSIONS, LISTS, PARTIALS, DONE };

struct fsck {
	struct fsck_options o;
	struct fsck_result result;
	enum step step;
	bool begun;
	struct kept_manifest at_manifest;
	struct kept_version at_version;
	struct kept_list at_list;
	unsigned folder; /* the next one */
	struct blob_info *infos;
	size_t info_count, info_size;
	struct blob_file *file; /* being hashed: the last of infos */
	struct digest_stream *hash;
	uint64_t at;
	char *piece;
	struct origins *origins;   /* NULL: nothing is mirrored */
	struct digest_set missing; /* told already */
	struct version_file *wanted;
	size_t wanted_count, wanted_size;
};

const char *fsck_kind_name(enum fsck_kind kind)
{
	static const char *const names[FSCK_KINDS] = {"corrupt-blob", "missing-blob", "wrong-size", "bad-manifest",
	                                              "bad-chunk-list"};
	return names[kind];
}

struct fsck *fsck_new(const struct fsck_options *options)
{
	struct fsck *f = NEW(struct fsck);
	f->o = *options;
	f->piece = mem_new(PIECE);
	f->result.phase = "blobs";
	return f;
}

void fsck_free(struct fsck *f)
{
	if (!f)
		return;
	blob_file_close(f->file);
	digest_stream_free(f->hash);
	digest_set_fini(&f->missing);
	origins_close(f->origins);
	free(f->piece);
	free(f->infos);
	free(f->wanted);
	free(f);
}

const struct fsck_result *fsck_result(const struct fsck *f)
{
	return &f->result;
}

const struct version_file *fsck_wanted(const struct fsck *f, size_t *ret_count)
{
	*ret_count = f->wanted_count;
	return f->wanted;
}

static void next_step(struct fsck *f)
{
	static const char *const phases[] = {"blobs", "manifests", "versions", "lists", "partials", "done"};
	f->step++;
	if (!f->o.catalog && f->step < PARTIALS)
		f->step = PARTIALS;
	f->result.phase = phases[f->step];
	f->begun = false;
}

static void tell(struct fsck *f, enum fsck_kind kind, const struct digest *d, const char *where, const char *words,
                 const char *done)
{
	struct fsck_fault fault = {.kind = kind, .digest = *d, .done = done};
	snprintf(fault.where, sizeof fault.where, "%s", where);
	snprintf(fault.words, sizeof fault.words, "%s", words);
	f->result.faults++;
	f->result.repaired += done[0] != 0;
	if (f->o.on_fault)
		f->o.on_fault(f->o.arg, &fault);
}

static void want(struct fsck *f, const struct digest *d, uint64_t size, const struct digest *chunks)
{
	if (f->wanted_count == WANTED_MAX)
		return;
	if (f->wanted_count == f->wanted_size) {
		f->wanted_size = f->wanted_size ? 2 * f->wanted_size : 16;
		f->wanted = mem_resize(f->wanted, f->wanted_size, sizeof *f->wanted);
	}
	struct version_file *w = &f->wanted[f->wanted_count++];
	*w = (struct version_file){.digest = *d, .size = size};
	if (chunks)
		w->chunks = *chunks;
	hex_encode(d->bytes, DIGEST_SIZE, w->path);
}

/* ---- blobs ------------------------------------------------------------------------------------ */

static bool add_info(void *arg, const struct blob_info *info)
{
	struct fsck *f = arg;
	if (f->info_count == f->info_size) {
		f->info_size = f->info_size ? 2 * f->info_size : 64;
		f->infos = mem_resize(f->infos, f->info_size, sizeof *f->infos);
	}
	f->infos[f->info_count++] = *info;
	return true;
}

/* Ends the blob at hand. A key that is not there or not the right one is no fault of the blob. */
static int blob_over(struct fsck *f, int rc, struct error *err)
{
	const struct digest d = f->infos[--f->info_count].digest;
	struct error why = {0};
	blob_file_close(f->file);
	digest_stream_free(f->hash);
	f->file = NULL;
	f->hash = NULL;
	if (rc != E_CORRUPT && rc != E_IO)
		return rc;
	const char *done = f->o.repair && !blob_quarantine(f->o.store, &d, &why) ? "quarantined" : "";
	tell(f, FSCK_CORRUPT_BLOB, &d, "", err->text, done);
	if (done[0] && !f->o.catalog)
		want(f, &d, 0, NULL); /* with a catalog, what names it says more */
	return 0;
}

static int hash_some(struct fsck *f, struct error *err)
{
	uint64_t size = blob_file_size(f->file), end = f->at + STEP_BYTES;
	int rc = 0;
	while (!rc && f->at < size && f->at < end) {
		size_t n = size - f->at < PIECE ? (size_t)(size - f->at) : PIECE;
		rc = blob_file_read(f->file, f->at, f->piece, n, err);
		if (!rc)
			digest_stream_add(f->hash, f->piece, n);
		f->at += n;
		f->result.bytes += n;
	}
	if (rc || f->at < size)
		return rc;
	struct digest got = digest_stream_end(f->hash);
	if (!digest_equal(&got, &f->infos[f->info_count - 1].digest))
		rc = error_set(err, E_CORRUPT, "its bytes are not what its name says");
	return rc;
}

static int step_blobs(struct fsck *f, struct error *err)
{
	if (!f->info_count) {
		if (f->folder < 256)
			blob_each_of(f->o.store, (uint8_t)f->folder++, add_info, f);
		else
			next_step(f);
		return 0;
	}
	const struct blob_info *info = &f->infos[f->info_count - 1];
	struct error why = {0};
	int rc = 0;
	if (!f->file) {
		f->result.blobs++;
		f->result.sealed += info->sealed;
		rc = blob_file_peek(f->o.store, &info->digest, &f->file, &why);
		f->hash = digest_stream_new();
		f->at = 0;
	}
	if (rc == E_NOTFOUND) /* collected meanwhile */
		return blob_over(f, 0, NULL);
	if (!rc)
		rc = hash_some(f, &why);
	if (!rc && f->at < blob_file_size(f->file))
		return 0;
	rc = blob_over(f, rc, &why);
	if (rc)
		*err = why;
	return rc;
}

/* ---- what names them --------------------------------------------------------------------------- */

/* size UINT64_MAX: not known. */
static void check_named(struct fsck *f, const char *where, const struct digest *d, uint64_t size,
                        const struct digest *chunks)
{
	struct blob_info info;
	struct error why = {0};
	int rc = blob_info(f->o.store, d, &info, &why);
	if (!rc && (size == UINT64_MAX || info.size == size))
		return;
	if (!digest_set_add(&f->missing, d))
		return;
	if (!rc) {
		char words[120];
		snprintf(words, sizeof words, "it has %llu bytes, %llu are said", (unsigned long long)info.size,
		         (unsigned long long)size);
		tell(f, FSCK_WRONG_SIZE, d, where, words, "");
		return;
	}
	tell(f, FSCK_MISSING_BLOB, d, where, why.text, "");
	if (size != UINT64_MAX)
		want(f, d, size, chunks);
}

/* Named by a manifest that was taken from elsewhere; a version of it would be whole. */
static bool is_elsewhere(struct fsck *f, const char *repo, const struct digest *d)
{
	struct origin from;
	struct blob_info info;
	return f->origins && blob_info(f->o.store, d, &info, NULL) == E_NOTFOUND &&
	       !origins_get(f->origins, str_from(repo), d, &from, NULL);
}

static void check_manifest(struct fsck *f, const struct kept_manifest *m)
{
	char where[300], text[DIGEST_TEXT_SIZE];
	struct buf bytes = {0};
	struct manifest parsed;
	struct error why = {0};
	digest_format(&m->digest, text);
	snprintf(where, sizeof where, "%s@%s", m->repo, text);
	f->result.manifests++;
	check_named(f, where, &m->digest, m->size, NULL);
	int rc = blob_peek_all(f->o.store, &m->digest, LIMIT_MANIFEST, &bytes, &why);
	if (!rc && manifest_parse(buf_str(&bytes), &parsed, &why)) {
		tell(f, FSCK_BAD_MANIFEST, &m->digest, m->repo, why.text, "");
	} else if (!rc) {
		manifest_resolve(&parsed, f->o.catalog);
		for (size_t i = 0; i < parsed.item_count; i++) {
			const struct manifest_item *item = &parsed.items[i];
			if (!item->elsewhere && is_elsewhere(f, m->repo, &item->digest))
				f->result.elsewhere++;
			else if (!item->elsewhere)
				check_named(f, where, &item->digest, item->size, NULL);
		}
		manifest_fini(&parsed);
	}
	buf_fini(&bytes);
}

static int step_manifests(struct fsck *f, struct error *err)
{
	struct kept_manifest page[PAGE];
	size_t n;
	if (!f->begun && f->o.origins && file_exists(f->o.origins) &&
	    origins_open(str_from(f->o.origins), &f->origins, err))
		return err ? err->code : E_IO;
	int rc = catalog_page_manifests(f->o.catalog, f->begun ? &f->at_manifest : NULL, PAGE, page, &n, err);
	for (size_t i = 0; !rc && i < n; i++)
		check_manifest(f, &page[i]);
	f->begun = true;
	if (!rc && n)
		f->at_manifest = page[n - 1];
	if (!rc && n < PAGE)
		next_step(f);
	return rc;
}

/* Versions know chunk lists, manifests do not: large files that are wanted are found by them. */
static void add_chunks(struct fsck *f, const struct version_file *file)
{
	for (size_t i = 0; i < f->wanted_count; i++)
		if (digest_equal(&f->wanted[i].digest, &file->digest))
			f->wanted[i].chunks = file->chunks;
}

static void check_version(struct fsck *f, const struct version *v)
{
	static const struct digest none;
	char where[300];
	snprintf(where, sizeof where, "%s:%s", v->name, v->tag);
	f->result.versions++;
	for (size_t i = 0; i < v->file_count; i++) {
		const struct version_file *file = &v->files[i];
		check_named(f, where, &file->digest, file->size, &file->chunks);
		add_chunks(f, file);
		if (!digest_equal(&file->chunks, &none))
			check_named(f, where, &file->chunks, UINT64_MAX, NULL);
	}
}

static int step_versions(struct fsck *f, struct error *err)
{
	struct kept_version page[PAGE];
	size_t n;
	int rc = catalog_page_versions(f->o.catalog, f->begun ? &f->at_version : NULL, PAGE, page, &n, err);
	for (size_t i = 0; !rc && i < n; i++) {
		struct version v;
		if (catalog_get_version(f->o.catalog, str_from(page[i].name), str_from(page[i].tag), &v, NULL))
			continue;
		check_version(f, &v);
		version_fini(&v);
	}
	f->begun = true;
	if (!rc && n)
		f->at_version = page[n - 1];
	if (!rc && n < PAGE)
		next_step(f);
	return rc;
}

static bool rebuild(struct fsck *f, const struct kept_list *l)
{
	struct chunk_list list = {0};
	struct buf text = {0};
	struct digest d;
	bool good = !chunk_list_build(f->o.store, &l->file, l->chunk_size, &list, NULL);
	if (good) {
		chunk_list_format(&list, &text);
		d = digest_of(text.base, text.len);
		good = digest_equal(&d, &l->list) && !blob_put(f->o.store, buf_str(&text), &d, NULL);
	}
	chunk_list_fini(&list);
	buf_fini(&text);
	return good;
}

static void check_list(struct fsck *f, const struct kept_list *l)
{
	struct buf text = {0};
	struct chunk_list list = {0};
	struct blob_info info;
	struct error why = {0};
	char where[DIGEST_TEXT_SIZE];
	f->result.lists++;
	if (blob_info(f->o.store, &l->file, &info, NULL))
		return; /* a list of a file that is gone hurts nobody */
	int rc = blob_peek_all(f->o.store, &l->list, LIMIT_CONTROL_DOCUMENT, &text, &why);
	if (!rc)
		rc = chunk_list_parse(buf_str(&text), &list, &why);
	if (!rc && !digest_equal(&list.file, &l->file))
		rc = error_set(&why, E_CORRUPT, "it is the chunk list of another file");
	if (rc) {
		digest_format(&l->file, where);
		tell(f, FSCK_BAD_LIST, &l->list, where, why.text, f->o.repair && rebuild(f, l) ? "rebuilt" : "");
	}
	chunk_list_fini(&list);
	buf_fini(&text);
}

static int step_lists(struct fsck *f, struct error *err)
{
	struct kept_list page[PAGE];
	size_t n;
	int rc = catalog_page_lists(f->o.catalog, f->begun ? &f->at_list : NULL, PAGE, page, &n, err);
	for (size_t i = 0; !rc && i < n; i++)
		check_list(f, &page[i]);
	f->begun = true;
	if (!rc && n)
		f->at_list = page[n - 1];
	if (!rc && n < PAGE)
		next_step(f);
	return rc;
}

static void add_partial(void *arg, const struct digest *d, uint64_t size, uint64_t disk_bytes)
{
	struct fsck *f = arg;
	f->result.partials++;
	f->result.partial_bytes += disk_bytes;
}

static void add_spool(void *arg, const struct digest *d, const struct spool_info *info)
{
	add_partial(arg, d, info->size, info->disk_bytes);
}

static int step_partials(struct fsck *f, struct error *err)
{
	blob_each_partial(f->o.store, add_partial, f);
	spool_each(f->o.store, add_spool, f);
	next_step(f);
	return 0;
}

int fsck_step(struct fsck *f, bool *ret_more, struct error *err)
{
	static int (*const steps[])(struct fsck *, struct error *) = {
	    [BLOBS] = step_blobs, [MANIFESTS] = step_manifests, [VERSIONS] = step_versions,
	    [LISTS] = step_lists, [PARTIALS] = step_partials,
	};
	int rc = f->step == DONE ? 0 : steps[f->step](f, err);
	*ret_more = !rc && f->step != DONE;
	return rc;
}
