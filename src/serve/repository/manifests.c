/* SPDX-License-Identifier: Apache-2.0 */
/* PUT, GET, HEAD and DELETE of manifests (distribution-spec end-3, end-7, end-9). A manifest's bytes are a blob; the
 * catalog says which repository has it, under which media type, and which tags name it.
 *
 * GET answers what is stored whatever Accept says (RFC 9110 section 12.5.1 allows it): there is one form of each
 * manifest, and Ollama asks for Docker's type while it reads any. */
#include "serve/repository/access.h"
#include "serve/repository/model.h"
#include "serve/repository/repository_private.h"
#include "serve/repository/signatures.h"

#include "base/limits.h"
#include "base/log.h"
#include "store/ociname.h"

#include <stdio.h>
#include <stdlib.h>

#define DEFAULT_TYPE "application/vnd.oci.image.manifest.v1+json"
#define TAGS_MAX 64 /* of one PUT */

typedef char tag_text[129];

struct manifest_task {
	struct task t;
	struct digest digest;
	struct digest_name name; /* by digest: as the client says it; then: as it is called here */
	tag_text tag;            /* empty: named by digest */
	tag_text *tags;          /* PUT: that tag, or those it is put with */
	size_t tag_count;
	char who[64];
	bool has_subject;
	struct digest_name subject;
	char media_type[128];
	bool head;
	uint64_t size;
	struct buf body;
	const char *code; /* OCI's, of t.err */
	bool is_model;
	struct version version;
};

static void manifest_task_free(struct manifest_task *m)
{
	buf_fini(&m->body);
	version_fini(&m->version);
	free(m->tags);
	free(m);
}

/* Answers and returns NULL when the reference is no tag and no digest. */
static struct manifest_task *manifest_task_new(struct repository *r, struct http_exchange *x, struct str repo,
                                               struct str reference)
{
	struct oci_name name = {0};
	bool by_digest = reference.len && memchr(reference.base, ':', reference.len);
	if (by_digest && !oci_name(r, x, reference, &name))
		return NULL;
	if (!by_digest && !oci_tag_valid(reference)) {
		oci_error(x, 400, "MANIFEST_INVALID",
		          "a tag is 1 to 128 letters, digits, '_', '.' and '-', beginning with none of the last two");
		return NULL;
	}
	struct manifest_task *m = task_new(r, x, repo, sizeof *m);
	m->digest = name.digest;
	m->name = name.name;
	m->code = "UNKNOWN";
	access_who(r, x, m->who);
	if (!by_digest)
		str_copy(reference, m->tag, sizeof m->tag);
	return m;
}

/* ---- GET and HEAD ---------------------------------------------------------------------------- */

static void get_work(struct task *t)
{
	struct manifest_task *m = (struct manifest_task *)t;
	t->rc = m->head ? blob_stat(t->r->store, &m->digest, &m->size, &t->err)
	                : blob_read_all(t->r->store, &m->digest, LIMIT_MANIFEST, &m->body, &t->err);
}

static void get_done(struct task *t)
{
	struct manifest_task *m = (struct manifest_task *)t;
	if (t->rc) {
		oci_fail(t->x, "MANIFEST_UNKNOWN", &t->err);
	} else {
		oci_add_name(t->x, "Docker-Content-Digest", &m->name);
		http_respond_begin(t->x, 200, m->media_type, (int64_t)(m->head ? m->size : m->body.len));
		http_write(t->x, buf_str(&m->body));
		http_end(t->x);
	}
	manifest_task_free(m);
}

static void get(struct manifest_task *m, bool head)
{
	struct task *t = &m->t;
	struct str repo = str_from(t->repo);
	m->head = head;
	if ((m->tag[0] && catalog_get_tag(t->r->catalog, repo, str_from(m->tag), &m->digest, NULL)) ||
	    catalog_get_manifest(t->r->catalog, repo, &m->digest, m->media_type, NULL)) {
		oci_error(t->x, 404, "MANIFEST_UNKNOWN", "this repository has no such manifest; is the tag right?");
		manifest_task_free(m);
		return;
	}
	if (m->tag[0])
		m->name = catalog_called(t->r->catalog, repo, &m->digest);
	task_run(t, get_work, get_done);
}

/* ---- DELETE ---------------------------------------------------------------------------------- */

static void delete_work(struct task *t)
{
	struct manifest_task *m = (struct manifest_task *)t;
	struct str repo = str_from(t->repo);
	t->rc = m->tag[0] ? catalog_delete_tag_as(t->r->catalog, str_from(m->who), repo, str_from(m->tag), &t->err)
	                  : catalog_delete_manifest(t->r->catalog, repo, &m->digest, &t->err);
	if (!t->rc && !m->tag[0])
		t->rc = catalog_drop_signature(t->r->catalog, repo, &m->digest, &t->err);
}

static void delete_done(struct task *t)
{
	struct manifest_task *m = (struct manifest_task *)t;
	if (t->rc == E_NOTFOUND)
		oci_error(t->x, 404, "MANIFEST_UNKNOWN", "this repository has no such manifest");
	else if (t->rc)
		oci_fail(t->x, "UNKNOWN", &t->err);
	else
		http_respond(t->x, 202, NULL, STR(""));
	feed_wake(t->r);
	manifest_task_free(m);
}

/* ---- PUT ------------------------------------------------------------------------------------- */

static int refuse(struct manifest_task *m, const char *code, int rc)
{
	m->code = code;
	return rc;
}

/* Everything it refers to is in this repository, and as large as it says. */
static int check_items(struct manifest_task *m, const struct manifest *parsed)
{
	struct repository *r = m->t.r;
	struct str repo = str_from(m->t.repo);
	for (size_t i = 0; i < parsed->item_count; i++) {
		const struct manifest_item *item = &parsed->items[i];
		char text[DIGEST_NAME_SIZE], type[128];
		uint64_t size;
		if (item->elsewhere)
			continue;
		digest_name_format(&item->name, text);
		bool here = parsed->index ? !catalog_get_manifest(r->catalog, repo, &item->digest, type, NULL)
		                          : catalog_has_blob(r->catalog, repo, &item->digest);
		if (!here || blob_stat(r->store, &item->digest, &size, NULL))
			return refuse(m, "MANIFEST_BLOB_UNKNOWN",
			              error_set(&m->t.err, E_INVAL,
			                        "the manifest names %s, which is not in %s; push it first", text,
			                        m->t.repo));
		if (size != item->size)
			return refuse(m, "MANIFEST_INVALID",
			              error_set(&m->t.err, E_INVAL, "the manifest says %s has %llu bytes, it has %llu",
			                        text, (unsigned long long)item->size, (unsigned long long)size));
	}
	return 0;
}

static int settle_type(struct manifest_task *m, const struct manifest *parsed)
{
	if (!m->media_type[0])
		str_copy(str_from(parsed->media_type[0] ? parsed->media_type : DEFAULT_TYPE), m->media_type,
		         sizeof m->media_type);
	if (parsed->media_type[0] && strcmp(parsed->media_type, m->media_type))
		return refuse(m, "MANIFEST_INVALID",
		              error_set(&m->t.err, E_INVAL, "the Content-Type is %s but the manifest says it is %s",
		                        m->media_type, parsed->media_type));
	return 0;
}

static int make_version(struct manifest_task *m, const struct manifest *parsed)
{
	struct task *t = &m->t;
	if (!m->tag_count)
		return 0; /* a version needs a name people can say */
	int rc =
	    model_version(t->r->store, t->r->catalog, t->r->chunk_size, parsed, &m->is_model, &m->version, &t->err);
	if (rc)
		return refuse(m, rc == E_INVAL || rc == E_LIMIT ? "MANIFEST_INVALID" : "UNKNOWN", rc);
	model_annotate(buf_str(&m->body), &m->version);
	str_copy(str_from(t->repo), m->version.name, sizeof m->version.name);
	m->version.manifest = m->digest;
	return 0;
}

/* Its other name and what it is about, before it is there: then a crash between leaves nothing that shows. */
static int put_names(struct manifest_task *m, const struct manifest *parsed)
{
	struct task *t = &m->t;
	struct catalog *catalog = t->r->catalog;
	struct str repo = str_from(t->repo);
	struct buf descriptor = {0};
	int rc = m->name.sha512 ? catalog_put_name(catalog, &m->name, &m->digest, &t->err) : 0;
	if (!rc)
		rc = catalog_call(catalog, repo, &m->digest, &m->name, &t->err);
	m->has_subject = parsed->has_subject;
	m->subject = parsed->subject;
	if (rc || !parsed->has_subject)
		return rc;
	rc = manifest_describe(buf_str(&m->body), parsed, &m->name, str_from(m->media_type), &descriptor, &t->err);
	if (!rc)
		rc = catalog_put_referrer(catalog, repo, &parsed->subject, &m->digest, str_from(parsed->artifact_type),
		                          buf_str(&descriptor), &t->err);
	buf_fini(&descriptor);
	return rc;
}

static int push_as(struct manifest_task *m, const char *tag)
{
	struct task *t = &m->t;
	if (m->is_model)
		str_copy(str_from(tag), m->version.tag, sizeof m->version.tag);
	return catalog_push_as(t->r->catalog, str_from(m->who), str_from(t->repo), &m->digest, str_from(m->media_type),
	                       m->body.len, str_from(tag), m->is_model ? &m->version : NULL, &t->err);
}

static int put_parsed(struct manifest_task *m, const struct manifest *parsed)
{
	struct task *t = &m->t;
	int rc = settle_type(m, parsed);
	if (!rc)
		rc = check_items(m, parsed);
	if (!rc)
		rc = make_version(m, parsed);
	if (!rc)
		rc = blob_put(t->r->store, buf_str(&m->body), &m->digest, &t->err);
	if (!rc)
		rc = put_names(m, parsed);
	if (!rc && !m->tag_count)
		rc = push_as(m, "");
	for (size_t i = 0; !rc && i < m->tag_count; i++)
		rc = push_as(m, m->tags[i]);
	if (!rc)
		rc = signatures_note(t->r->store, t->r->catalog, str_from(t->repo), &m->digest, buf_str(&m->body),
		                     &t->err);
	return rc;
}

/* What arrived, under the name it came by: a digest that must be its own, or (a tag) its SHA-256. */
static bool settle_name(struct manifest_task *m)
{
	struct digest got = digest_of(m->body.base, m->body.len);
	struct digest_name own =
	    !m->tag[0] && m->name.sha512 ? digest_name_sha512(m->body.base, m->body.len) : digest_name_of(&got);
	if (!m->tag[0] && !digest_name_equal(&own, &m->name))
		return false;
	m->digest = got;
	m->name = own;
	return true;
}

static void put_work(struct task *t)
{
	struct manifest_task *m = (struct manifest_task *)t;
	struct manifest parsed;
	if (!settle_name(m)) {
		t->rc = refuse(
		    m, "DIGEST_INVALID",
		    error_set(&t->err, E_INVAL, "the manifest that arrived does not have the digest it was put under"));
		return;
	}
	t->rc = manifest_parse(buf_str(&m->body), &parsed, &t->err);
	if (t->rc) {
		refuse(m, "MANIFEST_INVALID", t->rc);
		return;
	}
	manifest_resolve(&parsed, t->r->catalog);
	t->rc = put_parsed(m, &parsed);
	manifest_fini(&parsed);
}

static void put_done(struct task *t)
{
	struct manifest_task *m = (struct manifest_task *)t;
	char digest[DIGEST_NAME_SIZE], location[384];
	if (t->rc) {
		/* What the client sent is at fault, or too much: 400; the rest as the table says. */
		bool bad = !strcmp(m->code, "MANIFEST_INVALID");
		/* An immutable tag: OCI has no word of its own for it. */
		oci_error(t->x, bad ? 400 : error_http_status(t->rc), t->rc == E_CONFLICT ? "DENIED" : m->code,
		          t->err.text);
		manifest_task_free(m);
		return;
	}
	if (m->is_model)
		log_info("repository", "%s:%s is here: %s %s, %zu files, %llu bytes", m->version.name, m->tags[0],
		         m->version.architecture, m->version.quantization, m->version.file_count,
		         (unsigned long long)version_size(&m->version));
	digest_name_format(&m->name, digest);
	snprintf(location, sizeof location, "/v2/%s/manifests/%s", t->repo, digest);
	http_add_header(t->x, "Location", str_from(location));
	oci_add_name(t->x, "Docker-Content-Digest", &m->name);
	if (m->has_subject)
		oci_add_name(t->x, "OCI-Subject", &m->subject);
	for (size_t i = 0; !m->tag[0] && i < m->tag_count; i++)
		http_add_header(t->x, "OCI-Tag", str_from(m->tags[i]));
	http_respond(t->x, 201, NULL, STR(""));
	feed_wake(t->r);
	manifest_task_free(m);
}

static void put_body(void *arg, struct http_exchange *x, struct str body, const struct error *err)
{
	struct manifest_task *m = arg;
	struct repository *r = m->t.r;
	if (!err && !r->freed) {
		buf_append_str(&m->body, body);
		task_run(&m->t, put_work, put_done);
	} else {
		if (!err)
			oci_error(x, 503, "UNKNOWN", "the repository stops; push again in a moment");
		else if (err->code == E_LIMIT)
			oci_error(x, 413, "SIZE_INVALID", "a manifest is at most 4 MiB");
		else
			oci_fail(x, "MANIFEST_INVALID", err);
		manifest_task_free(m);
	}
	repository_release(r);
}

/* The tag of the path, or every "tag" of the query (end-7b). Tags have no character that needs escaping. Answers and
 * returns false when one is none, or they are too many. */
static bool take_tags(struct manifest_task *m)
{
	struct http_exchange *x = m->t.x;
	struct str target = http_target(x), rest, value;
	m->tags = mem_new(TAGS_MAX * sizeof *m->tags);
	if (m->tag[0]) {
		memcpy(m->tags[m->tag_count++], m->tag, sizeof m->tag);
		return true;
	}
	str_cut(target, '?', &rest);
	while (rest.len) {
		struct str name = str_cut(str_cut(rest, '&', &rest), '=', &value);
		if (!str_equal(name, STR("tag")))
			continue;
		if (m->tag_count == TAGS_MAX)
			oci_error(x, 414, "TAG_INVALID", "a manifest is put with at most 64 tags at once");
		else if (!oci_tag_valid(value))
			oci_error(x, 400, "TAG_INVALID", "a \"tag\" of the query is not one");
		if (m->tag_count == TAGS_MAX || !oci_tag_valid(value))
			return false;
		str_copy(value, m->tags[m->tag_count++], sizeof *m->tags);
	}
	return true;
}

static void put(struct manifest_task *m)
{
	struct http_exchange *x = m->t.x;
	struct str type = STR(""), rest;
	http_header(x, "content-type", &type);
	type = str_trim(str_cut(type, ';', &rest));
	if (!str_copy(type, m->media_type, sizeof m->media_type)) {
		oci_error(x, 400, "MANIFEST_INVALID", "the Content-Type is longer than 127 bytes");
		manifest_task_free(m);
		return;
	}
	if (!take_tags(m)) {
		manifest_task_free(m);
		return;
	}
	m->t.r->refs++;
	http_body_collect(x, LIMIT_MANIFEST, put_body, m);
}

void manifests_handle(struct repository *r, struct http_exchange *x, struct str repo, struct str reference)
{
	struct str method = http_method(x);
	bool head = str_equal(method, STR("HEAD")), is_get = head || str_equal(method, STR("GET"));
	bool is_put = str_equal(method, STR("PUT")), is_delete = str_equal(method, STR("DELETE"));
	if (!is_get && !is_put && !is_delete) {
		oci_method(x, "GET, HEAD, PUT, DELETE");
		return;
	}
	struct manifest_task *m = manifest_task_new(r, x, repo, reference);
	if (!m)
		return;
	if (is_get)
		get(m, head);
	else if (is_put)
		put(m);
	else
		task_run(&m->t, delete_work, delete_done);
}
