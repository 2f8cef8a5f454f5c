/* SPDX-License-Identifier: Apache-2.0 */
/* How: the tar is scanned, its lists and manifests are read and checked, then blobs go up, then manifests, tags last;
 * the repository checks every digest again. So nothing can be seen before all of it is there, and a second try finds
 * what the first one brought. Of a delta bundle, a blob is put together in a file without a name, from its pack and
 * from what the repository has.
 */
#include "cli/import_bundle.h"

#include "base/file.h"
#include "base/limits.h"
#include "cli/bundle_file.h"
#include "cli/progress.h"
#include "cli/versions_of.h"
#include "serve/repository/manifest.h"
#include "store/blob.h"
#include "store/envelope.h"
#include "store/ociname.h"
#include "store/signature.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define MANIFESTS_MAX 4096
#define PEM_MAX (1 << 20)
#define SHOWN_FROM (1 << 20) /* bytes: what is smaller is there before a line could be read */

struct import_manifest {
	char repo[129], tag[129], media_type[128];
	bool image; /* takes the name of the command line */
	struct digest digest;
	struct buf body;
	struct manifest parsed;
};

/* Where the repository has a chunk: in which of its files. */
struct place {
	struct digest chunk, file;
	uint64_t offset;
	char repo[129];
};

struct import {
	struct bundle_in in;
	struct bundle_entry *entries;
	size_t entry_count;
	struct bundle_contents contents;
	struct import_manifest *manifests;
	size_t manifest_count;
	struct client *c;
	struct repository_at at;
	struct place *places;
	size_t place_count;
	bool places_known;
	bool quiet, json;
};

bool import_is_bundle(const char *source)
{
	struct stat st;
	char first[PATH_MAX];
	snprintf(first, sizeof first, "%s.001", source);
	return (stat(source, &st) == 0 && S_ISREG(st.st_mode)) || (errno == ENOENT && stat(first, &st) == 0);
}

/* ---- what is in it ---------------------------------------------------------------------------------- */

static int read_entry(struct import *x, const struct bundle_entry *e, size_t max, struct buf *out, struct error *err)
{
	if (e->size > max)
		return error_set(err, E_LIMIT, "%s in the bundle is larger than %zu bytes", e->name, max);
	char *to = buf_reserve(out, (size_t)e->size + 1);
	int rc = bundle_in_read(&x->in, e->offset, to, (size_t)e->size, err);
	out->len += rc ? 0 : (size_t)e->size;
	return rc;
}

static int read_named(struct import *x, const char *name, size_t max, struct buf *out, struct error *err)
{
	const struct bundle_entry *e = bundle_find(x->entries, x->entry_count, name);
	return e ? read_entry(x, e, max, out, err) : error_set(err, E_NOTFOUND, "the bundle has no %s", name);
}

static int read_blob(struct import *x, const struct digest *d, size_t max, struct buf *out, struct error *err)
{
	char name[BUNDLE_NAME_SIZE];
	bundle_blob_name(d, name);
	int rc = read_named(x, name, max, out, err);
	struct digest got = digest_of(out->base, out->len);
	return !rc && !digest_equal(&got, d) ? error_set(err, E_CORRUPT, "%s in the bundle is not that", name) : rc;
}

/* The signature is over both lists; through them, over every blob. */
static int check_signature(const struct args *args, struct import *x, const struct buf *index,
                           const struct buf *contents, struct error *err)
{
	const char *key_file = args_value(args, "key"), *root_file = args_value(args, "root");
	const char *subject = args_value(args, "subject");
	struct buf pem = {0}, bundle = {0};
	struct envelope e = {0};
	struct signed_model want = {0}, have = {0};
	char who[ENVELOPE_NAME_SIZE];
	bool is_signed = bundle_find(x->entries, x->entry_count, BUNDLE_SIGNATURE) != NULL;
	if (!key_file && !root_file) {
		if (is_signed)
			fprintf(stderr, "the bundle is signed; --key or --root would check by whom\n");
		return 0;
	}
	if (!is_signed)
		return error_set(err, E_FORBIDDEN, "the bundle is not signed; nothing was taken from it");
	int rc = file_read(key_file ? key_file : root_file, PEM_MAX, &pem, err);
	struct envelope_trust trust = {.subject = subject ? str_from(subject) : STR("")};
	*(key_file ? &trust.key_pem : &trust.roots_pem) = buf_str(&pem);
	if (!rc)
		rc = read_named(x, BUNDLE_SIGNATURE, LIMIT_SIGNATURE, &bundle, err);
	if (!rc)
		rc = envelope_parse(buf_str(&bundle), &e, err);
	if (!rc)
		rc = envelope_verify(&e, &trust, who, err);
	if (!rc)
		rc = signed_model_parse(buf_str(&e.payload), &want, err);
	if (!rc) {
		struct digest d = digest_of(index->base, index->len);
		signed_model_add(&have, STR("index.json"), 0, 0, &d);
		d = digest_of(contents->base, contents->len);
		signed_model_add(&have, STR(BUNDLE_CONTENTS), 0, 0, &d);
		signed_model_sort(&have);
		rc = signed_model_compare(&want, &have, err);
	}
	if (rc)
		error_prefix(err, "the bundle's signature: ");
	else
		fprintf(stderr, "the bundle is signed by %s\n", who);
	signed_model_fini(&want);
	signed_model_fini(&have);
	envelope_fini(&e);
	buf_fini(&pem);
	buf_fini(&bundle);
	return rc;
}

/* Where it goes, as the bundle says. With a name from the command line it need not say. */
static int take_name(bool named, yyjson_val *annotations, struct import_manifest *m, struct error *err)
{
	struct str reference = {0}, repo = {0}, tag = {0}, own = {0};
	if (annotations) {
		json_str(annotations, "org.opencontainers.image.ref.name", &reference, NULL);
		json_str(annotations, "mdn.repository", &own, NULL);
	}
	if (own.len && !reference.len)
		repo = own; /* attached to another: by its digest alone */
	else if (named)
		m->image = true;
	else if (!memchr(reference.base ? reference.base : "", ':', reference.len) ||
	         !oci_reference_parse(reference, &repo, &tag))
		return error_set(err, E_INVAL,
		                 "the bundle does not say NAME:TAG of an image; say it after the bundle's file");
	if (m->image)
		return 0;
	if (!oci_repo_valid(repo) || !str_copy(repo, m->repo, sizeof m->repo) || !str_copy(tag, m->tag, sizeof m->tag))
		return error_set(err, E_INVAL, "the bundle has an image of a name that a repository cannot have");
	return 0;
}

static int take_manifest(const struct args *args, struct import *x, yyjson_val *item, struct error *err)
{
	struct import_manifest *m = &x->manifests[x->manifest_count++];
	yyjson_val *annotations = NULL;
	struct str digest = {0}, type = {0};
	if (!yyjson_is_obj(item))
		return error_set(err, E_INVAL, "index.json must list objects");
	int rc = json_str(item, "digest", &digest, err);
	if (!rc && digest_parse(digest, &m->digest))
		rc = error_set(err, E_INVAL, "index.json names a manifest by something else than a sha256 digest");
	if (!rc)
		rc = json_str(item, "mediaType", &type, err);
	if (!rc &&
	    (!type.len || memchr(type.base, 0, type.len) || !str_copy(type, m->media_type, sizeof m->media_type)))
		rc = error_set(err, E_INVAL, "index.json names a manifest without a media type");
	if (!rc)
		rc = json_obj(item, "annotations", &annotations, err);
	if (!rc)
		rc = take_name(args_operand(args, 1) != NULL, annotations, m, err);
	if (!rc)
		rc = read_blob(x, &m->digest, LIMIT_MANIFEST, &m->body, err);
	if (!rc)
		rc = manifest_parse(buf_str(&m->body), &m->parsed, err);
	if (!rc && m->parsed.index)
		rc = error_set(err, E_UNSUPPORTED, "an index of several images cannot be imported");
	return rc;
}

/* The one image of the bundle, and what is attached to it, under another name. */
static int rename_image(struct import *x, const char *name, struct error *err)
{
	struct str repo, tag;
	size_t images = 0;
	if (!oci_reference_parse(str_from(name), &repo, &tag))
		return error_set(err, E_INVAL, "`%s` is not NAME:TAG", name);
	for (size_t i = 0; i < x->manifest_count; i++)
		images += x->manifests[i].image;
	if (images != 1)
		return error_set(err, E_INVAL, "the bundle has %zu models, so one name does not fit; leave it out",
		                 images);
	for (size_t i = 0; i < x->manifest_count; i++) {
		struct import_manifest *m = &x->manifests[i];
		str_copy(repo, m->repo, sizeof m->repo);
		if (m->image)
			str_copy(tag, m->tag, sizeof m->tag);
	}
	return 0;
}

static int read_lists(const struct args *args, struct import *x, struct error *err)
{
	struct buf index = {0}, contents = {0};
	yyjson_doc *doc = NULL;
	yyjson_val *list = NULL, *item;
	size_t i, max;
	int rc = read_named(x, "index.json", BUNDLE_META_MAX, &index, err);
	if (!rc && bundle_find(x->entries, x->entry_count, BUNDLE_CONTENTS)) {
		rc = read_named(x, BUNDLE_CONTENTS, BUNDLE_META_MAX, &contents, err);
		if (!rc)
			rc = bundle_contents_parse(buf_str(&contents), &x->contents, err);
	}
	if (!rc)
		rc = check_signature(args, x, &index, &contents, err);
	if (!rc)
		rc = json_parse(buf_str(&index), &doc, err);
	if (!rc && !yyjson_is_obj(yyjson_doc_get_root(doc)))
		rc = error_set(err, E_INVAL, "index.json is not a JSON object");
	if (!rc)
		rc = json_arr(yyjson_doc_get_root(doc), "manifests", &list, err);
	if (!rc && (!list || yyjson_arr_size(list) == 0 || yyjson_arr_size(list) > MANIFESTS_MAX))
		rc = error_set(err, E_INVAL, "index.json names no manifest, or more than %d", MANIFESTS_MAX);
	if (!rc)
		x->manifests = mem_new(yyjson_arr_size(list) * sizeof *x->manifests);
	yyjson_arr_foreach(list, i, max, item)
	{
		if (rc)
			break;
		rc = take_manifest(args, x, item, err);
	}
	if (!rc && args_operand(args, 1))
		rc = rename_image(x, args_operand(args, 1), err);
	yyjson_doc_free(doc);
	buf_fini(&index);
	buf_fini(&contents);
	return rc;
}

/* ---- deltas ----------------------------------------------------------------------------------------- */

static const struct bundle_blob *delta_of(const struct import *x, const struct digest *d)
{
	for (size_t i = 0; i < x->contents.count; i++)
		if (x->contents.blobs[i].delta && digest_equal(&x->contents.blobs[i].digest, d))
			return &x->contents.blobs[i];
	return NULL;
}

static int by_chunk(const void *a, const void *b)
{
	return memcmp(a, b, DIGEST_SIZE); /* the chunk's digest comes first */
}

static int add_places(struct import *x, const struct version *v, const struct version_file *f, struct error *err)
{
	static const struct digest none;
	char url[1024], text[DIGEST_TEXT_SIZE];
	struct buf body = {0};
	struct chunk_list list;
	if (digest_equal(&f->chunks, &none))
		return 0;
	digest_format(&f->chunks, text);
	snprintf(url, sizeof url, "%s/mdn/v1/blobs/%s", x->at.url, text);
	struct client_call call = {.url = url, .node_id = x->at.id[0] ? x->at.id : NULL, .body_max = CHUNK_LIST_MAX};
	int rc = client_run(x->c, &call, NULL, &body, err);
	if (!rc)
		rc = chunk_list_parse(buf_str(&body), &list, err);
	buf_fini(&body);
	if (rc)
		return rc;
	x->places = mem_resize(x->places, x->place_count + list.count + 1, sizeof *x->places);
	for (uint32_t i = 0; i < list.count; i++) {
		struct place *p = &x->places[x->place_count++];
		*p = (struct place){list.digests[i], f->digest, chunk_offset(&list, i), ""};
		memcpy(p->repo, v->name, sizeof p->repo);
	}
	chunk_list_fini(&list);
	return 0;
}

/* Where the repository has which chunk; asked once. */
static int learn_places(struct import *x, struct error *err)
{
	char url[1024];
	struct buf body = {0};
	yyjson_doc *doc = NULL;
	yyjson_val *list = NULL, *item;
	size_t i, max;
	if (x->places_known)
		return 0;
	x->places_known = true;
	snprintf(url, sizeof url, "%s/mdn/v1/catalog", x->at.url);
	struct client_call call = {
	    .url = url, .node_id = x->at.id[0] ? x->at.id : NULL, .body_max = LIMIT_CONTROL_DOCUMENT};
	int rc = client_run(x->c, &call, NULL, &body, err);
	if (!rc)
		rc = json_parse(buf_str(&body), &doc, err);
	if (!rc)
		rc = json_arr(yyjson_doc_get_root(doc), "versions", &list, err);
	yyjson_arr_foreach(list, i, max, item)
	{
		struct version v;
		if (rc || (rc = version_parse(item, &v, err)))
			break;
		for (size_t k = 0; !rc && k < v.file_count; k++)
			rc = add_places(x, &v, &v.files[k], err);
		version_fini(&v);
	}
	yyjson_doc_free(doc);
	buf_fini(&body);
	if (x->place_count)
		qsort(x->places, x->place_count, sizeof *x->places, by_chunk);
	return rc;
}

static int fetch_chunk(struct import *x, const struct digest *chunk, uint64_t len, struct buf *out, struct error *err)
{
	char url[1024], text[DIGEST_TEXT_SIZE], range[64];
	const struct place *p =
	    x->place_count ? bsearch(chunk, x->places, x->place_count, sizeof *x->places, by_chunk) : NULL;
	if (!p)
		return error_set(
		    err, E_NOTFOUND,
		    "the bundle builds on what this repository does not have; export it whole, or against a "
		    "newer list of `mdn export --have-list`");
	digest_format(&p->file, text);
	snprintf(url, sizeof url, "%s/v2/%s/blobs/%s", x->at.url, p->repo, text);
	snprintf(range, sizeof range, "bytes=%llu-%llu", (unsigned long long)p->offset,
	         (unsigned long long)(p->offset + len - 1));
	struct client_call call = {
	    .url = url, .node_id = x->at.id[0] ? x->at.id : NULL, .range = range, .body_max = CHUNK_SIZE_MAX};
	return client_run(x->c, &call, NULL, out, err);
}

static int build_delta(struct import *x, const struct bundle_blob *b, const struct chunk_list *list, int fd,
                       struct error *err)
{
	char name[BUNDLE_NAME_SIZE];
	bundle_pack_name(&b->digest, name);
	const struct bundle_entry *pack = bundle_find(x->entries, x->entry_count, name);
	if (!pack || pack->size != b->pack_size)
		return error_set(err, E_INVAL, "the bundle has no %s of the size it says", name);
	uint64_t packed = 0;
	int rc = learn_places(x, err);
	for (uint32_t i = 0; !rc && i < list->count; i++) {
		struct buf data = {0};
		uint64_t len = chunk_length(list, i);
		bool in_pack = false;
		/* the pack has, in order, the chunks that the other list did not; so the next of it either is this one
		 * or not */
		if (packed + len <= pack->size) {
			char *to = buf_reserve(&data, (size_t)len);
			rc = bundle_in_read(&x->in, pack->offset + packed, to, (size_t)len, err);
			data.len = (size_t)len;
			struct digest got = digest_of(data.base, data.len);
			in_pack = !rc && digest_equal(&got, &list->digests[i]);
		}
		if (!rc && !in_pack) {
			buf_clear(&data);
			rc = fetch_chunk(x, &list->digests[i], len, &data, err);
		}
		packed += in_pack ? len : 0;
		struct digest got = digest_of(data.base, data.len);
		if (!rc && (data.len != len || !digest_equal(&got, &list->digests[i])))
			rc = error_set(err, E_CORRUPT, "chunk %u of the delta is not what its list says", i);
		if (!rc && write(fd, data.base, data.len) != (ssize_t)data.len)
			rc = error_errno(err, errno, "cannot put the delta together");
		if (!rc)
			rc = client_sleep(x->c, 0, err); /* is it interrupted? */
		buf_fini(&data);
	}
	return rc;
}

/* Nobody finds it by a name, and no link that lies there already is followed. Beside the bundle, where there is room
 * for large things; where nothing can be written, in $TMPDIR. */
static int scratch_open(const char *bundle, int *ret_fd, struct error *err)
{
	const char *temporary = getenv("TMPDIR");
	char path[PATH_MAX];
	snprintf(path, sizeof path, "%s.XXXXXX", bundle);
	int fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0) {
		snprintf(path, sizeof path, "%s/mdn-import-XXXXXX", temporary && temporary[0] ? temporary : "/tmp");
		fd = mkostemp(path, O_CLOEXEC);
	}
	if (fd < 0)
		return error_errno(err, errno, "cannot write %s, where the delta is to be put together", path);
	unlink(path);
	*ret_fd = fd;
	return 0;
}

static int send_delta(struct import *x, const char *repo, const struct bundle_blob *b, const char *digest,
                      struct progress *progress, struct error *err)
{
	struct buf text = {0};
	struct chunk_list list;
	int fd = -1, rc = read_blob(x, &b->chunks, CHUNK_LIST_MAX, &text, err);
	if (!rc)
		rc = chunk_list_parse(buf_str(&text), &list, err);
	buf_fini(&text);
	if (rc)
		return rc;
	if (!digest_equal(&list.file, &b->digest) || list.size != b->size)
		rc = error_set(err, E_INVAL, "a chunk list of the bundle is not of %s", digest);
	if (!rc)
		rc = scratch_open(x->in.path, &fd, err);
	if (!rc)
		rc = build_delta(x, b, &list, fd, err);
	if (!rc && lseek(fd, 0, SEEK_SET) < 0)
		rc = error_errno(err, errno, "cannot read the delta that was put together");
	if (!rc)
		rc = blob_push(x->c, &x->at, repo, digest, fd, b->size, STR(""), progress, err);
	if (fd >= 0)
		close(fd);
	chunk_list_fini(&list);
	return rc;
}

/* ---- into the repository ---------------------------------------------------------------------------- */

static bool is_there(struct import *x, const char *repo, const char *digest)
{
	char url[1024];
	snprintf(url, sizeof url, "%s/v2/%s/blobs/%s", x->at.url, repo, digest);
	struct client_call call = {.method = "HEAD", .url = url, .node_id = x->at.id[0] ? x->at.id : NULL};
	return client_run(x->c, &call, NULL, NULL, NULL) == 0;
}

/* A repository that has the blob elsewhere gives it here without a byte sent (distribution-spec end-11). */
static bool mounted(struct import *x, const char *repo, const char *digest)
{
	char url[1024];
	int status = 0;
	learn_places(x, NULL);
	for (size_t i = 0; i < x->place_count; i++) {
		char own[DIGEST_TEXT_SIZE];
		digest_format(&x->places[i].file, own);
		if (strcmp(own, digest) || x->places[i].offset)
			continue;
		snprintf(url, sizeof url, "%s/v2/%s/blobs/uploads/?mount=%s&from=%s", x->at.url, repo, digest,
		         x->places[i].repo);
		struct client_call call = {.method = "POST", .url = url, .node_id = x->at.id[0] ? x->at.id : NULL};
		return client_run(x->c, &call, &status, NULL, NULL) == 0 && status == 201;
	}
	return false;
}

static int send_item(struct import *x, const char *repo, const struct manifest_item *item, struct error *err)
{
	char digest[DIGEST_TEXT_SIZE];
	struct progress shown, *progress = x->quiet || item->size < SHOWN_FROM ? NULL : &shown;
	digest_format(&item->digest, digest);
	if (item->elsewhere || is_there(x, repo, digest))
		return 0;
	const struct bundle_entry *e = bundle_find_blob(x->entries, x->entry_count, &item->digest);
	const struct bundle_blob *delta = e ? NULL : delta_of(x, &item->digest);
	progress_start(&shown, "importing", item->size);
	int rc = 0, fd = -1;
	if (e && e->size != item->size) {
		rc = error_set(err, E_INVAL, "%s in the bundle has not the size that its manifest says", digest);
	} else if (e && e->size == 0) {
		rc = repository_put_blob(x->c, &x->at, repo, STR(""), err);
	} else if (e) {
		rc = bundle_in_stream(&x->in, e->offset, e->size, &fd, err);
		if (!rc) {
			rc = blob_push(x->c, &x->at, repo, digest, fd, e->size, STR(""), progress, err);
			close(fd);
		}
	} else if (delta) {
		rc = send_delta(x, repo, delta, digest, progress, err);
	} else if (!mounted(x, repo, digest)) {
		rc = error_set(err, E_NOTFOUND, "neither the bundle nor the repository has %s", digest);
	}
	if (!rc && progress)
		progress_end(progress, item->size);
	return rc;
}

static int put_manifest(struct import *x, const struct import_manifest *m, bool tag, struct error *err)
{
	char url[1024], digest[DIGEST_TEXT_SIZE];
	digest_format(&m->digest, digest);
	snprintf(url, sizeof url, "%s/v2/%s/manifests/%s", x->at.url, m->repo, tag ? m->tag : digest);
	struct client_call put = {
	    .method = "PUT",
	    .url = url,
	    .node_id = x->at.id[0] ? x->at.id : NULL,
	    .content_type = m->media_type,
	    .body = buf_str(&m->body),
	    .timeout_us = INT64_C(600) * 1000000, /* the repository reads the weights, to cut them into chunks */
	};
	return client_run(x->c, &put, NULL, NULL, err);
}

/* Attached ones come before the tag, so that a node never sees a version without its signatures. */
static int send_all(struct import *x, struct error *err)
{
	int rc = 0;
	for (size_t i = 0; !rc && i < x->manifest_count; i++)
		for (size_t k = 0; !rc && k < x->manifests[i].parsed.item_count; k++)
			rc = send_item(x, x->manifests[i].repo, &x->manifests[i].parsed.items[k], err);
	for (size_t i = 0; !rc && i < x->manifest_count; i++)
		rc = put_manifest(x, &x->manifests[i], false, err);
	for (size_t i = 0; !rc && i < x->manifest_count; i++) {
		if (!x->manifests[i].tag[0])
			continue;
		rc = put_manifest(x, &x->manifests[i], true, err);
		if (!rc)
			printf(x->json ? "{\"model\":\"%s:%s\"}\n" : "%s:%s is in the repository\n",
			       x->manifests[i].repo, x->manifests[i].tag);
	}
	return rc;
}

static int check_kind(struct import *x, const char *source, struct error *err)
{
	char magic[4];
	if (bundle_in_size(&x->in) < sizeof magic || bundle_in_read(&x->in, 0, magic, sizeof magic, NULL) ||
	    memcmp(magic, "GGUF", sizeof magic))
		return 0;
	return error_set(err, E_INVAL,
	                 "%s is a model and no bundle: `mdn push FILE NAME:TAG` puts it into the repository", source);
}

int import_bundle(const struct args *args, const char *source, struct error *err)
{
	struct import x = {.quiet = args_has(args, "quiet") || args_has(args, "json"), .json = args_has(args, "json")};
	int rc = bundle_in_open(&x.in, source, err);
	struct bundle_reader reader = {bundle_in_read, &x.in, bundle_in_size(&x.in)};
	if (!rc)
		rc = check_kind(&x, source, err);
	if (!rc)
		rc = bundle_scan(&reader, &x.entries, &x.entry_count, err);
	if (!rc)
		rc = read_lists(args, &x, err);
	if (!rc)
		rc = repository_client(args, &x.c, err);
	if (!rc)
		rc = repository_find(x.c, args_value(args, "repository"), &x.at, err);
	if (!rc)
		rc = send_all(&x, err);
	for (size_t i = 0; i < x.manifest_count; i++) {
		manifest_fini(&x.manifests[i].parsed);
		buf_fini(&x.manifests[i].body);
	}
	if (x.c)
		client_close(x.c);
	free(x.manifests);
	free(x.places);
	free(x.entries);
	bundle_contents_fini(&x.contents);
	bundle_in_close(&x.in);
	return rc;
}
