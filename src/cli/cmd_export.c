/* SPDX-License-Identifier: Apache-2.0 */
/* `mdn export`: versions of the repository, with what is attached to them, as a bundle.
 *
 * All that comes before the blobs is made first, and the same models make the same bytes; so an export that was
 * interrupted is gone on with when what is there begins like that, at the byte where it stopped. A signature differs
 * each time, so the one of the first try is kept beside the bundle until it is whole.
 */
#include "base/file.h"
#include "base/limits.h"
#include "cli/bundle_file.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/versions_of.h"
#include "serve/repository/manifest.h"
#include "store/blob.h"
#include "store/envelope.h"
#include "store/ociname.h"
#include "store/signature.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define MANIFESTS_MAX 4096
#define PEM_MAX (1 << 20)
#define SPLIT_LEAST (UINT64_C(1) << 20)

struct export_manifest {
	char repo[129], reference[260]; /* reference empty: attached to another */
	char media_type[128];
	struct digest digest;
	struct buf body;
};

struct export_blob {
	struct bundle_blob b;
	char repo[129];
	const struct buf *body; /* of a manifest or chunk list; NULL: fetched */
	struct chunk_list list; /* of a delta */
};

struct export
{
	struct client *c;
	struct repository_at at;
	struct export_manifest *manifests[MANIFESTS_MAX];
	size_t manifest_count;
	struct export_blob *blobs;
	size_t blob_count, blob_room;
	struct bundle_have have;
	bool delta;
	struct buf *lists[BUNDLE_ENTRIES_MAX]; /* texts of chunk lists */
	size_t list_count;
	struct buf catalog;
	struct bundle_out out;
	struct progress progress;
	uint64_t total;
};

static const char *node_of(const struct export *x)
{
	return x->at.id[0] ? x->at.id : NULL;
}

/* ---- what belongs into it --------------------------------------------------------------------------- */

static bool known_blob(const struct export *x, const struct digest *d)
{
	for (size_t i = 0; i < x->blob_count; i++)
		if (digest_equal(&x->blobs[i].b.digest, d))
			return true;
	return false;
}

static int add_blob(struct export *x, const char *repo, const struct digest *d, uint64_t size, const struct buf *body,
                    struct export_blob **ret_blob, struct error *err)
{
	*ret_blob = NULL;
	if (known_blob(x, d))
		return 0;
	if (x->blob_count >= BUNDLE_ENTRIES_MAX - 8)
		return error_set(err, E_LIMIT, "a bundle has at most %d files", BUNDLE_ENTRIES_MAX);
	if (x->blob_count == x->blob_room) {
		x->blob_room = x->blob_room ? 2 * x->blob_room : 64;
		x->blobs = mem_resize(x->blobs, x->blob_room, sizeof *x->blobs);
	}
	struct export_blob *b = &x->blobs[x->blob_count++];
	*b = (struct export_blob){.b = {.digest = *d, .size = size}, .body = body};
	str_copy(str_from(repo), b->repo, sizeof b->repo);
	*ret_blob = b;
	return 0;
}

static int get(struct export *x, const char *url, size_t max, struct buf *out, struct error *err)
{
	struct client_call call = {.url = url, .node_id = node_of(x), .body_max = max};
	return client_run(x->c, &call, NULL, out, err);
}

/* The chunk list of a file, as the catalog names it; E_NOTFOUND: it has none, or this way does not give it. */
static int get_list(struct export *x, const struct digest *file, struct buf *ret_text, struct digest *ret_digest,
                    struct chunk_list *ret_list, struct error *err)
{
	yyjson_doc *doc = NULL;
	yyjson_val *list = NULL, *v;
	size_t i, max;
	bool found = false;
	char url[1024], text[DIGEST_TEXT_SIZE];
	int rc = json_parse(buf_str(&x->catalog), &doc, err);
	if (!rc)
		rc = json_arr(yyjson_doc_get_root(doc), "versions", &list, err);
	yyjson_arr_foreach(list, i, max, v)
	{
		struct version version;
		if (found || rc || version_parse(v, &version, NULL))
			continue;
		static const struct digest none;
		for (size_t k = 0; k < version.file_count && !found; k++)
			if (digest_equal(&version.files[k].digest, file) &&
			    !digest_equal(&version.files[k].chunks, &none)) {
				*ret_digest = version.files[k].chunks;
				found = true;
			}
		version_fini(&version);
	}
	yyjson_doc_free(doc);
	if (!rc && !found)
		return error_set(err, E_NOTFOUND, "it has no chunk list");
	if (rc)
		return rc;
	digest_format(ret_digest, text);
	snprintf(url, sizeof url, "%s/mdn/v1/blobs/%s", x->at.url, text);
	rc = get(x, url, CHUNK_LIST_MAX, ret_text, err);
	struct digest got = digest_of(ret_text->base, ret_text->len);
	if (!rc && !digest_equal(&got, ret_digest))
		rc = error_set(err, E_CORRUPT, "the repository's chunk list is not %s", text);
	return rc ? rc : chunk_list_parse(buf_str(ret_text), ret_list, err);
}

/* Only what the other side does not have: the blob's chunk list, and those of its chunks. */
static int make_delta(struct export *x, const char *repo, size_t index, struct error *err)
{
	struct chunk_list list;
	struct digest list_digest;
	struct buf *text = NEW(struct buf);
	struct export_blob *listed;
	int rc = get_list(x, &x->blobs[index].b.digest, text, &list_digest, &list, err);
	if (rc == E_NOTFOUND) {
		free(text);
		if (node_of(x))
			return 0; /* small: whole */
		return error_set(err, E_UNSUPPORTED,
		                 "--against needs the operator's way to the repository: leave --repository out");
	}
	if (rc) {
		buf_fini(text);
		free(text);
		return rc;
	}
	struct export_blob *b = &x->blobs[index];
	b->list = list;
	b->b.delta = true;
	b->b.chunks = list_digest;
	for (uint32_t i = 0; i < list.count; i++)
		if (!bundle_have_has(x->have.chunks, x->have.chunk_count, &list.digests[i]))
			b->b.pack_size += chunk_length(&list, i);
	x->lists[x->list_count++] = text;
	return add_blob(x, repo, &list_digest, text->len, text, &listed, err);
}

static int add_items(struct export *x, const struct export_manifest *m, struct error *err)
{
	struct manifest parsed;
	int rc = manifest_parse(buf_str(&m->body), &parsed, err);
	if (rc)
		return rc;
	for (size_t i = 0; !rc && !parsed.index && i < parsed.item_count; i++) {
		const struct manifest_item *item = &parsed.items[i];
		struct export_blob *b;
		if (item->elsewhere || (x->delta && bundle_have_has(x->have.blobs, x->have.blob_count, &item->digest)))
			continue;
		rc = add_blob(x, m->repo, &item->digest, item->size, NULL, &b, err);
		if (!rc && b && x->delta)
			rc = make_delta(x, m->repo, (size_t)(b - x->blobs), err);
	}
	if (!rc && parsed.index)
		rc = error_set(err, E_UNSUPPORTED, "%s is an index of several images, which a bundle cannot hold",
		               m->repo);
	manifest_fini(&parsed);
	return rc;
}

/* by: a tag or a digest. */
static int add_manifest(struct export *x, const char *repo, const char *by, const char *reference, struct error *err)
{
	char url[1024];
	struct str type;
	struct export_blob *b;
	if (x->manifest_count == MANIFESTS_MAX)
		return error_set(err, E_LIMIT, "a bundle holds at most %d manifests", MANIFESTS_MAX);
	struct export_manifest *m = NEW(struct export_manifest);
	x->manifests[x->manifest_count++] = m;
	str_copy(str_from(repo), m->repo, sizeof m->repo);
	str_copy(str_from(reference), m->reference, sizeof m->reference);
	snprintf(url, sizeof url, "%s/v2/%s/manifests/%s", x->at.url, repo, by);
	int rc = get(x, url, LIMIT_MANIFEST, &m->body, err);
	m->digest = digest_of(m->body.base, m->body.len);
	struct digest asked;
	if (!rc && !digest_parse(str_from(by), &asked) && !digest_equal(&asked, &m->digest))
		rc = error_set(err, E_CORRUPT, "what the repository sent is not %s", by);
	if (!rc &&
	    (!client_header(x->c, "content-type", &type) || !str_copy(type, m->media_type, sizeof m->media_type)))
		rc = error_set(err, E_PEER, "the repository did not say what kind of manifest %s is", by);
	if (!rc)
		rc = add_blob(x, repo, &m->digest, m->body.len, &m->body, &b, err);
	return rc ? rc : add_items(x, m, err);
}

static int add_referrers(struct export *x, const char *repo, const struct digest *of, struct error *err)
{
	char url[1024], digest[DIGEST_TEXT_SIZE];
	struct buf body = {0};
	yyjson_doc *doc = NULL;
	yyjson_val *list = NULL, *item;
	size_t i, max;
	digest_format(of, digest);
	snprintf(url, sizeof url, "%s/v2/%s/referrers/%s", x->at.url, repo, digest);
	int rc = get(x, url, LIMIT_MANIFEST, &body, err);
	if (rc == E_NOTFOUND || rc == E_METHOD) {
		buf_fini(&body);
		return 0; /* a registry without referrers */
	}
	if (!rc)
		rc = json_parse(buf_str(&body), &doc, err);
	if (!rc)
		rc = json_arr(yyjson_doc_get_root(doc), "manifests", &list, err);
	yyjson_arr_foreach(list, i, max, item)
	{
		struct str text = {0};
		struct digest d;
		if (rc)
			break;
		if (json_str(item, "digest", &text, NULL) || digest_parse(text, &d))
			rc = error_set(err, E_PEER, "a referrer of %s has no sha256 digest", digest);
		if (!rc) {
			char by[DIGEST_TEXT_SIZE];
			digest_format(&d, by);
			rc = add_manifest(x, repo, by, "", err);
		}
	}
	yyjson_doc_free(doc);
	buf_fini(&body);
	return rc;
}

static int add_model(struct export *x, const char *model, struct error *err)
{
	struct str repo, tag;
	char name[129], tag_text[129], reference[260];
	if (!oci_reference_parse(str_from(model), &repo, &tag))
		return error_set(err, E_INVAL, "`%s` is not NAME:TAG", model);
	str_copy(repo, name, sizeof name);
	str_copy(tag, tag_text, sizeof tag_text);
	snprintf(reference, sizeof reference, "%s:%s", name, tag_text);
	int rc = add_manifest(x, name, tag_text, reference, err);
	if (rc)
		return error_prefix(err, "%s: ", reference);
	return add_referrers(x, name, &x->manifests[x->manifest_count - 1]->digest, err);
}

/* ---- the tar ---------------------------------------------------------------------------------------- */

static void format_index(const struct export *x, struct buf *out)
{
	buf_append_str(
	    out, STR("{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":["));
	for (size_t i = 0; i < x->manifest_count; i++) {
		const struct export_manifest *m = x->manifests[i];
		char digest[DIGEST_TEXT_SIZE];
		digest_format(&m->digest, digest);
		buf_append_str(out, i ? STR(",{\"mediaType\":") : STR("{\"mediaType\":"));
		buf_append_json(out, str_from(m->media_type));
		buf_printf(out, ",\"digest\":\"%s\",\"size\":%zu,\"annotations\":{\"mdn.repository\":\"%s\"", digest,
		           m->body.len, m->repo);
		if (m->reference[0])
			buf_printf(out, ",\"org.opencontainers.image.ref.name\":\"%s\"", m->reference);
		buf_append_str(out, STR("}}"));
	}
	buf_append_str(out, STR("]}"));
}

static int append_file(struct buf *out, const char *name, struct str content, struct error *err)
{
	static const char zeros[BUNDLE_BLOCK];
	int rc = bundle_header(name, content.len, out, err);
	buf_append_str(out, content);
	buf_append(out, zeros, bundle_padding(content.len));
	return rc;
}

/* The signature of an earlier try, when it is by this key and of the same; else a new one. */
static int sign_head(const struct args *args, const char *output, struct str payload, struct buf *bundle,
                     struct error *err)
{
	struct buf key = {0}, chain = {0}, path = {0};
	struct envelope e;
	const char *cert = args_value(args, "cert");
	buf_printf(&path, "%s.sig.part", output);
	buf_append(&path, "", 1);
	bool same = false;
	if (!file_read(path.base, LIMIT_SIGNATURE, bundle, NULL) && !envelope_parse(buf_str(bundle), &e, NULL)) {
		same = str_equal(buf_str(&e.payload), payload);
		envelope_fini(&e);
	}
	int rc = 0;
	if (!same) {
		buf_clear(bundle);
		rc = file_read(args_value(args, "key"), PEM_MAX, &key, err);
		if (!rc && cert)
			rc = file_read(cert, PEM_MAX, &chain, err);
		if (!rc)
			rc = envelope_sign(payload, buf_str(&key), buf_str(&chain), bundle, err);
		if (!rc)
			rc = file_write(path.base, 0644, buf_str(bundle), err);
		if (key.base)
			explicit_bzero(key.base, key.len);
	}
	buf_fini(&key);
	buf_fini(&chain);
	buf_fini(&path);
	return rc;
}

/* All up to the first blob. */
static int make_head(const struct args *args, const struct export *x, struct buf *head, struct error *err)
{
	struct buf index = {0}, contents = {0}, payload = {0}, bundle = {0};
	struct bundle_contents c = {mem_new((x->blob_count + 1) * sizeof *c.blobs), x->blob_count};
	for (size_t i = 0; i < x->blob_count; i++)
		c.blobs[i] = x->blobs[i].b;
	format_index(x, &index);
	bundle_contents_format(&c, &contents);
	int rc = index.len > BUNDLE_META_MAX || contents.len > BUNDLE_META_MAX
	             ? error_set(err, E_LIMIT, "these are too many models for one bundle")
	             : append_file(head, "oci-layout", STR(BUNDLE_LAYOUT), err);
	if (!rc)
		rc = append_file(head, "index.json", buf_str(&index), err);
	if (!rc)
		rc = append_file(head, BUNDLE_CONTENTS, buf_str(&contents), err);
	if (!rc && args_value(args, "key")) {
		struct signed_model m = {.name = "mdn-bundle"};
		struct digest d = digest_of(index.base, index.len);
		signed_model_add(&m, STR("index.json"), 0, 0, &d);
		d = digest_of(contents.base, contents.len);
		signed_model_add(&m, STR(BUNDLE_CONTENTS), 0, 0, &d);
		signed_model_format(&m, &payload);
		signed_model_fini(&m);
		rc = sign_head(args, args_value(args, "output"), buf_str(&payload), &bundle, err);
		if (!rc)
			rc = append_file(head, BUNDLE_SIGNATURE, buf_str(&bundle), err);
	}
	free(c.blobs);
	buf_fini(&index);
	buf_fini(&contents);
	buf_fini(&payload);
	buf_fini(&bundle);
	return rc;
}

static bool begins_with(struct bundle_out *o, const struct buf *head)
{
	size_t len = o->size < head->len ? (size_t)o->size : head->len;
	char *there = mem_new(len + 1);
	bool same = !bundle_out_read(o, 0, there, len, NULL) && !memcmp(there, head->base, len);
	free(there);
	return same;
}

/* Writes what of `data`, which belongs at `offset`, is not there yet. */
static int put(struct bundle_out *o, uint64_t offset, struct str data, struct error *err)
{
	if (offset + data.len <= o->size)
		return 0;
	size_t skip = o->size > offset ? (size_t)(o->size - offset) : 0;
	return bundle_out_write(o, (struct str){data.base + skip, data.len - skip}, err);
}

struct receiving {
	struct export *x;
	struct digest_stream *digest;
	uint64_t left;
	struct error err;
};

static bool on_piece(void *arg, int status, struct str data)
{
	struct receiving *r = arg;
	if (data.len > r->left)
		return error_set(&r->err, E_PEER, "the repository sends more than it said") == 0;
	r->left -= data.len;
	digest_stream_add(r->digest, data.base, data.len);
	bool good = bundle_out_write(&r->x->out, data, &r->err) == 0;
	progress_show(&r->x->progress, r->x->out.size);
	return good;
}

/* [from, end) of a blob to where the tar ends. */
static int receive(struct export *x, const struct export_blob *b, uint64_t from, uint64_t end,
                   struct digest_stream *digest, struct error *err)
{
	char url[1024], text[DIGEST_TEXT_SIZE], range[64];
	struct receiving r = {x, digest, end - from, {0}};
	digest_format(&b->b.digest, text);
	snprintf(url, sizeof url, "%s/v2/%s/blobs/%s", x->at.url, b->repo, text);
	snprintf(range, sizeof range, "bytes=%llu-%llu", (unsigned long long)from, (unsigned long long)end - 1);
	bool whole = from == 0 && end == b->b.size;
	struct client_call call = {
	    .url = url, .node_id = node_of(x), .range = whole ? NULL : range, .on_data = on_piece, .arg = &r};
	if (from == end)
		return 0;
	int rc = client_run(x->c, &call, NULL, NULL, err);
	if (r.err.code)
		return error_set(err, r.err.code, "%s", r.err.text);
	return !rc && r.left ? error_set(err, E_PEER, "the repository sends less than it said") : rc;
}

/* What of the content is there from an earlier try goes into the digest first. */
static int hash_written(struct export *x, uint64_t offset, uint64_t len, struct digest_stream *digest,
                        struct error *err)
{
	char *piece = mem_new(1 << 20);
	int rc = 0;
	for (uint64_t at = 0; !rc && at < len;) {
		size_t want = len - at < 1 << 20 ? (size_t)(len - at) : 1 << 20;
		rc = bundle_out_read(&x->out, offset + at, piece, want, err);
		if (!rc)
			digest_stream_add(digest, piece, want);
		at += want;
		if (!rc && at % (64 << 20) == 0)
			rc = client_sleep(x->c, 0, err);
	}
	free(piece);
	return rc;
}

static int put_blob(struct export *x, const struct export_blob *b, uint64_t offset, struct error *err)
{
	char text[DIGEST_TEXT_SIZE];
	uint64_t have = x->out.size - offset;
	if (b->body)
		return put(&x->out, offset, buf_str(b->body), err);
	if (have >= b->b.size)
		return 0;
	struct digest_stream *digest = digest_stream_new();
	int rc = hash_written(x, offset, have, digest, err);
	if (!rc)
		rc = receive(x, b, have, b->b.size, digest, err);
	struct digest got = digest_stream_end(digest);
	digest_stream_free(digest);
	digest_format(&b->b.digest, text);
	if (!rc && !digest_equal(&got, &b->b.digest)) {
		bundle_out_restart(&x->out, NULL);
		rc = error_set(err, E_CORRUPT, "what came is not %s; the bundle was removed, begin again", text);
	}
	return rc;
}

/* The chunks that the other side lacks, one after the other; one that is cut short is fetched anew. */
static int put_pack(struct export *x, const struct export_blob *b, uint64_t offset, struct error *err)
{
	int rc = 0;
	for (uint32_t i = 0; !rc && i < b->list.count; i++) {
		uint64_t len = chunk_length(&b->list, i), from = chunk_offset(&b->list, i);
		if (bundle_have_has(x->have.chunks, x->have.chunk_count, &b->list.digests[i]))
			continue;
		if (x->out.size < offset + len) {
			uint64_t have = x->out.size - offset;
			struct digest_stream *digest = digest_stream_new();
			rc = hash_written(x, offset, have, digest, err);
			if (!rc)
				rc = receive(x, b, from + have, from + len, digest, err);
			struct digest got = digest_stream_end(digest);
			digest_stream_free(digest);
			if (!rc && !digest_equal(&got, &b->list.digests[i]))
				rc = error_set(err, E_CORRUPT, "a chunk that came is not what its list says");
		}
		offset += len;
	}
	return rc;
}

static int put_all(struct export *x, const struct buf *head, struct error *err)
{
	static const char zeros[BUNDLE_END_SIZE];
	uint64_t at = head->len;
	int rc = put(&x->out, 0, buf_str(head), err);
	for (size_t i = 0; !rc && i < x->blob_count; i++) {
		const struct export_blob *b = &x->blobs[i];
		char name[BUNDLE_NAME_SIZE];
		struct buf header = {0};
		uint64_t size = b->b.delta ? b->b.pack_size : b->b.size;
		if (b->b.delta)
			bundle_pack_name(&b->b.digest, name);
		else
			bundle_blob_name(&b->b.digest, name);
		rc = bundle_header(name, size, &header, err);
		if (!rc)
			rc = put(&x->out, at, buf_str(&header), err);
		at += header.len;
		buf_fini(&header);
		if (!rc && x->out.size < at + size)
			rc = b->b.delta ? put_pack(x, b, at, err) : put_blob(x, b, at, err);
		at += size;
		if (!rc)
			rc = put(&x->out, at, (struct str){zeros, bundle_padding(size)}, err);
		at += bundle_padding(size);
	}
	if (!rc)
		rc = put(&x->out, at, (struct str){zeros, sizeof zeros}, err);
	return rc;
}

static uint64_t total_of(const struct export *x, const struct buf *head)
{
	uint64_t total = head->len + BUNDLE_END_SIZE;
	for (size_t i = 0; i < x->blob_count; i++) {
		uint64_t size = x->blobs[i].b.delta ? x->blobs[i].b.pack_size : x->blobs[i].b.size;
		total += BUNDLE_BLOCK + size + bundle_padding(size);
	}
	return total;
}

static int write_bundle(const struct args *args, struct export *x, uint64_t split, struct error *err)
{
	struct buf head = {0}, sig = {0};
	const char *output = args_value(args, "output");
	int rc = bundle_out_open(&x->out, output, split, err);
	if (!rc)
		rc = make_head(args, x, &head, err);
	if (!rc && x->out.size && !begins_with(&x->out, &head))
		rc = bundle_out_restart(&x->out, err);
	if (!rc && x->out.size)
		fprintf(stderr, "going on after %llu bytes\n", (unsigned long long)x->out.size);
	progress_start(&x->progress, "exporting", total_of(x, &head));
	if (!rc)
		rc = put_all(x, &head, err);
	if (!rc)
		rc = bundle_out_finish(&x->out, err);
	if (!rc) {
		progress_end(&x->progress, x->out.size);
		buf_printf(&sig, "%s.sig.part", output);
		buf_append(&sig, "", 1);
		unlink(sig.base);
		printf("%s%s: %zu manifests, %zu blobs, %llu bytes\n", output, split ? ".001 and on" : "",
		       x->manifest_count, x->blob_count, (unsigned long long)x->out.size);
	}
	bundle_out_close(&x->out);
	buf_fini(&head);
	buf_fini(&sig);
	return rc;
}

/* ---- what this place has ---------------------------------------------------------------------------- */

static int have_list(struct export *x, struct error *err)
{
	yyjson_doc *doc = NULL;
	yyjson_val *list = NULL, *item;
	struct buf out = {0};
	size_t i, max;
	int rc = json_parse(buf_str(&x->catalog), &doc, err);
	if (!rc)
		rc = json_arr(yyjson_doc_get_root(doc), "versions", &list, err);
	yyjson_arr_foreach(list, i, max, item)
	{
		struct version v;
		if (rc || (rc = version_parse(item, &v, err)))
			break;
		for (size_t k = 0; !rc && k < v.file_count; k++) {
			struct buf text = {0};
			struct digest d;
			struct chunk_list chunks;
			bundle_have_add(&x->have.blobs, &x->have.blob_count, &v.files[k].digest);
			int listed = get_list(x, &v.files[k].digest, &text, &d, &chunks, err);
			for (uint32_t n = 0; !listed && n < chunks.count; n++)
				bundle_have_add(&x->have.chunks, &x->have.chunk_count, &chunks.digests[n]);
			if (!listed)
				chunk_list_fini(&chunks);
			rc = listed == E_NOTFOUND ? 0 : listed;
			buf_fini(&text);
		}
		version_fini(&v);
	}
	yyjson_doc_free(doc);
	if (!rc) {
		bundle_have_format(&x->have, &out);
		fwrite(out.base, 1, out.len, stdout);
	}
	buf_fini(&out);
	return rc;
}

static int open_export(const struct args *args, struct export *x, struct error *err)
{
	char url[1024];
	const char *against = args_value(args, "against");
	struct buf text = {0};
	int rc = repository_client(args, &x->c, err);
	if (rc)
		return rc;
	rc = repository_find(x->c, args_value(args, "repository"), &x->at, err);
	if (!rc && against) {
		x->delta = true;
		rc = file_read(against, BUNDLE_HAVE_MAX, &text, err);
		if (!rc && (rc = bundle_have_parse(buf_str(&text), &x->have, err)))
			error_prefix(err, "%s: ", against);
	}
	buf_fini(&text);
	snprintf(url, sizeof url, "%s/mdn/v1/catalog", x->at.url);
	if (!rc && (against || args_has(args, "have-list")))
		rc = get(x, url, LIMIT_CONTROL_DOCUMENT, &x->catalog, err);
	return rc;
}

static void close_export(struct export *x)
{
	for (size_t i = 0; i < x->blob_count; i++)
		chunk_list_fini(&x->blobs[i].list);
	for (size_t i = 0; i < x->manifest_count; i++) {
		buf_fini(&x->manifests[i]->body);
		free(x->manifests[i]);
	}
	for (size_t i = 0; i < x->list_count; i++) {
		buf_fini(x->lists[i]);
		free(x->lists[i]);
	}
	bundle_have_fini(&x->have);
	buf_fini(&x->catalog);
	free(x->blobs);
	client_close(x->c);
	free(x);
}

int cmd_export(const struct args *args)
{
	struct error err = {0};
	uint64_t split = 0;
	bool lists = args_has(args, "have-list");
	const char *size = args_value(args, "split");
	if (lists != (args_operand(args, 0) == NULL))
		return args_usage(args, lists ? "--have-list takes no model" : "say which models, NAME:TAG each");
	if (!lists && !args_value(args, "output"))
		return args_usage(args, "say where to: -o FILE");
	if (size && (str_to_bytes(str_from(size), &split) || split < SPLIT_LEAST))
		return args_usage(args, "--split is a size of at least 1M: 4G");
	if (lists && (args_value(args, "output") || size || args_value(args, "against") || args_value(args, "key")))
		return args_usage(args, "--have-list goes alone: it prints a list");
	if (args_value(args, "cert") && !args_value(args, "key"))
		return args_usage(args, "--cert goes with --key");
	struct export *x = NEW(struct export);
	int rc = open_export(args, x, &err);
	if (!rc && lists)
		rc = have_list(x, &err);
	for (unsigned i = 0; !rc && args_operand(args, i); i++)
		rc = add_model(x, args_operand(args, i), &err);
	if (!rc && !lists)
		rc = write_bundle(args, x, split, &err);
	if (x->c)
		close_export(x);
	else
		free(x);
	return rc ? args_fail(args, &err) : EXIT_DONE;
}
