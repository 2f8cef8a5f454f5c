/* SPDX-License-Identifier: Apache-2.0 */
/* One question after the other:
 *
 *   referrers ──(none: the tag sha256-HEX)──▶ a manifest ▶ each of its blobs ▶ the next manifest ...
 *
 * A manifest that is here already is not asked for again. One that is wrong in any way is dropped with its blobs; a
 * place that does not answer ends it all. Memory is bounded by BYTES_MAX over everything.
 */
#include "serve/repository/attached.h"

#include "base/json.h"
#include "base/limits.h"
#include "base/log.h"
#include "serve/repository/manifest.h"
#include "serve/repository/signatures.h"
#include "store/envelope.h"

#include <stdio.h>
#include <stdlib.h>

#define SIGNATURES_MAX 16
#define BLOBS_MAX 4 /* of one: the bundle and a config */
#define BYTES_MAX LIMIT_SIGNATURE
#define INDEX_TYPE "application/vnd.oci.image.index.v1+json"
#define MANIFEST_TYPE "application/vnd.oci.image.manifest.v1+json"

struct piece {
	struct digest digest;
	struct buf bytes;
};

struct signature {
	struct piece manifest;
	struct manifest parsed; /* its items are the blobs */
	struct piece blobs[BLOBS_MAX];
	size_t blob_count;
	bool whole;
};

struct attached {
	struct mirror *m;
	char base[512], id[256], to_name[REPO_NAME_SIZE];
	struct digest subject;
	attached_fn *fn;
	void *arg;
	struct hub_get *get;
	struct signature list[SIGNATURES_MAX];
	size_t count, next;
	size_t bytes;
	bool by_tag;
};

static void on_list(void *arg, int status, struct str body, struct str digest, struct str link,
                    const struct error *err);
static void on_manifest(void *arg, int status, struct str body, struct str digest, struct str link,
                        const struct error *err);
static void on_blob(void *arg, int status, struct str body, struct str digest, struct str link,
                    const struct error *err);

void attached_free(struct attached *a)
{
	if (!a)
		return;
	if (a->get)
		hub_get_cancel(a->get);
	for (size_t i = 0; i < a->count; i++) {
		buf_fini(&a->list[i].manifest.bytes);
		manifest_fini(&a->list[i].parsed);
		for (size_t k = 0; k < BLOBS_MAX; k++)
			buf_fini(&a->list[i].blobs[k].bytes);
	}
	free(a);
}

static void ask(struct attached *a, const char *what, const char *reference, const char *accept, size_t bytes_max,
                hub_got *got)
{
	struct buf url = {0};
	char scope[300];
	snprintf(scope, sizeof scope, "repository:%s:pull", a->id);
	buf_printf(&url, "%s/v2/%s/%s/%s", a->base, a->id, what, reference);
	a->get = hub_get(a->m->hub, buf_str(&url), str_from(scope), str_from(accept), bytes_max, got, a);
	buf_fini(&url);
}

static void end(struct attached *a, const char *why)
{
	if (why)
		log_warn("repository", "signatures of %s from %s: %s", a->to_name, a->base, why);
	a->fn(a->arg);
}

/* ---- which there are ---------------------------------------------------------------------------- */

static void take_descriptor(struct attached *a, yyjson_val *descriptor)
{
	struct str type = {0}, text = {0};
	struct digest d;
	char ignored[128];
	if (!yyjson_is_obj(descriptor) || json_str(descriptor, "artifactType", &type, NULL) ||
	    !str_equal(type, STR(ENVELOPE_TYPE)) || json_str(descriptor, "digest", &text, NULL) ||
	    digest_parse(text, &d) || !catalog_get_manifest(a->m->r->catalog, str_from(a->to_name), &d, ignored, NULL))
		return;
	if (a->count < SIGNATURES_MAX)
		a->list[a->count++].manifest.digest = d;
}

/* False: it is no list of manifests. */
static bool take_list(struct attached *a, struct str body)
{
	yyjson_doc *doc;
	yyjson_val *descriptor;
	yyjson_arr_iter iter;
	if (json_parse(body, &doc, NULL))
		return false;
	yyjson_val *list = yyjson_obj_get(yyjson_doc_get_root(doc), "manifests");
	bool good = yyjson_arr_iter_init(list, &iter);
	while (good && (descriptor = yyjson_arr_iter_next(&iter)))
		take_descriptor(a, descriptor);
	good = good || yyjson_is_arr(list);
	yyjson_doc_free(doc);
	return good;
}

static void go_on(struct attached *a)
{
	char text[DIGEST_TEXT_SIZE];
	if (a->next == a->count) {
		end(a, NULL);
		return;
	}
	struct signature *s = &a->list[a->next];
	size_t left = BYTES_MAX - a->bytes;
	if (s->manifest.bytes.len && s->blob_count == s->parsed.item_count) {
		s->whole = true;
		a->next++;
		go_on(a);
	} else if (s->manifest.bytes.len) {
		digest_format(&s->parsed.items[s->blob_count].digest, text);
		ask(a, "blobs", text, "", (size_t)s->parsed.items[s->blob_count].size, on_blob);
	} else {
		digest_format(&s->manifest.digest, text);
		ask(a, "manifests", text, MANIFEST_TYPE, left < LIMIT_MANIFEST ? left : LIMIT_MANIFEST, on_manifest);
	}
}

static void on_list(void *arg, int status, struct str body, struct str digest, struct str link, const struct error *err)
{
	struct attached *a = arg;
	char tag[DIGEST_TEXT_SIZE];
	a->get = NULL;
	bool good = !err && status == 200 && take_list(a, body);
	if (err) {
		end(a, err->text);
	} else if (good || a->by_tag) { /* no such tag: there are none */
		go_on(a);
	} else {
		a->by_tag = true;
		digest_format(&a->subject, tag);
		tag[6] = '-'; /* sha256-HEX */
		ask(a, "manifests", tag, INDEX_TYPE, LIMIT_MANIFEST, on_list);
	}
}

/* ---- each ----------------------------------------------------------------------------------------- */

static void drop(struct attached *a, const char *why)
{
	struct signature *s = &a->list[a->next++];
	char text[DIGEST_TEXT_SIZE];
	digest_format(&s->manifest.digest, text);
	log_warn("repository", "a signature of %s from %s (%s): %s", a->to_name, a->base, text, why);
	go_on(a);
}

/* It is what was asked for; kept. */
static bool take(struct attached *a, struct piece *p, int status, struct str body)
{
	struct digest got = digest_of(body.base, body.len);
	if (status != 200 || !body.len || !digest_equal(&got, &p->digest))
		return false;
	buf_append_str(&p->bytes, body);
	a->bytes += body.len;
	return true;
}

/* About our manifest, and of a size that a signature has. */
static bool is_fit(const struct attached *a, const struct manifest *m)
{
	struct digest_name subject = digest_name_of(&a->subject);
	uint64_t left = BYTES_MAX - a->bytes;
	if (m->index || !m->has_subject || !digest_name_equal(&m->subject, &subject) || m->item_count > BLOBS_MAX ||
	    strcmp(m->artifact_type, ENVELOPE_TYPE))
		return false;
	for (size_t i = 0; i < m->item_count; i++) {
		if (m->items[i].name.sha512 || m->items[i].elsewhere || !m->items[i].size || m->items[i].size > left)
			return false;
		left -= m->items[i].size;
	}
	return true;
}

static void on_manifest(void *arg, int status, struct str body, struct str digest, struct str link,
                        const struct error *err)
{
	struct attached *a = arg;
	struct signature *s = &a->list[a->next];
	a->get = NULL;
	if (err)
		end(a, err->text);
	else if (!take(a, &s->manifest, status, body))
		drop(a, "its manifest is not there, or another than its digest says");
	else if (manifest_parse(body, &s->parsed, NULL) || !is_fit(a, &s->parsed))
		drop(a, "its manifest is none of a signature of this version, or too large");
	else
		go_on(a);
}

static void on_blob(void *arg, int status, struct str body, struct str digest, struct str link, const struct error *err)
{
	struct attached *a = arg;
	struct signature *s = &a->list[a->next];
	const struct manifest_item *item = &s->parsed.items[s->blob_count];
	struct piece *p = &s->blobs[s->blob_count];
	a->get = NULL;
	p->digest = item->digest;
	if (err) {
		end(a, err->text);
	} else if (body.len != item->size || !take(a, p, status, body)) {
		drop(a, "a blob of it is not there, or another than its digest says");
	} else {
		s->blob_count++;
		go_on(a);
	}
}

struct attached *attached_take(struct mirror *m, const struct attached_source *source, attached_fn *fn, void *arg)
{
	struct attached *a = NEW(struct attached);
	char text[DIGEST_TEXT_SIZE + 200];
	a->m = m;
	str_copy(source->base, a->base, sizeof a->base);
	str_copy(source->id, a->id, sizeof a->id);
	str_copy(source->to_name, a->to_name, sizeof a->to_name);
	a->subject = source->manifest;
	a->fn = fn;
	a->arg = arg;
	digest_format(&a->subject, text);
	strcat(text, "?artifactType=application%2Fvnd.dev.sigstore.bundle.v0.3%2Bjson");
	ask(a, "referrers", text, INDEX_TYPE, LIMIT_MANIFEST, on_list);
	return a;
}

/* ---- publishing ------------------------------------------------------------------------------------- */

static int put_referrer(struct attached *a, const struct signature *s, struct repository *r, struct error *err)
{
	struct digest_name name = digest_name_of(&s->manifest.digest);
	struct buf descriptor = {0};
	struct str type = str_from(s->parsed.media_type[0] ? s->parsed.media_type : MANIFEST_TYPE);
	int rc = manifest_describe(buf_str(&s->manifest.bytes), &s->parsed, &name, type, &descriptor, err);
	if (!rc)
		rc = catalog_put_referrer(r->catalog, str_from(a->to_name), &s->parsed.subject, &s->manifest.digest,
		                          str_from(s->parsed.artifact_type), buf_str(&descriptor), err);
	buf_fini(&descriptor);
	return rc;
}

static int publish(struct attached *a, const struct signature *s, struct repository *r, struct str who,
                   struct error *err)
{
	struct str repo = str_from(a->to_name), text = buf_str(&s->manifest.bytes);
	struct str type = str_from(s->parsed.media_type[0] ? s->parsed.media_type : MANIFEST_TYPE);
	struct digest d;
	int rc = 0;
	for (size_t i = 0; i < s->blob_count && !rc; i++) {
		rc = blob_put(r->store, buf_str(&s->blobs[i].bytes), &d, err);
		if (!rc)
			rc = catalog_link_blob(r->catalog, repo, &d, err);
	}
	if (!rc)
		rc = blob_put(r->store, text, &d, err);
	if (!rc)
		rc = put_referrer(a, s, r, err);
	if (!rc)
		rc = catalog_push_as(r->catalog, who, repo, &d, type, text.len, STR(""), NULL, err);
	return rc ? rc : signatures_note(r->store, r->catalog, repo, &d, text, err);
}

int attached_publish(struct attached *a, struct repository *r, struct str who, struct error *err)
{
	int rc = 0;
	for (size_t i = 0; i < a->count && !rc; i++)
		if (a->list[i].whole)
			rc = publish(a, &a->list[i], r, who, err);
	return rc;
}
