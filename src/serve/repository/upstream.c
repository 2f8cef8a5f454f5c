/* SPDX-License-Identifier: Apache-2.0 */
/* Questions one after the other, each with its answer's handler; then one job that writes everything:
 *
 *   OCI, Ollama:  manifest ──(an index: each of its manifests)──▶ (OCI: attached.h) ▶ publish
 *   HF:           revision ▶ tree, page by page ▶ each small file ▶ publish
 *
 * Whatever comes from there is a peer's word: parsed, bounded, checked against the digest it goes by.
 */
#include "serve/repository/upstream.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/log.h"
#include "serve/repository/attached.h"
#include "serve/repository/compose.h"
#include "serve/repository/manifest.h"
#include "serve/repository/model.h"
#include "serve/repository/ollama.h"
#include "serve/repository/snapshot.h"
#include "store/ociname.h"

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>

#define SMALL_MAX (UINT64_C(64) << 20) /* of a file that has no SHA-256 in a tree: git holds such */
#define SMALL_ALL_MAX (UINT64_C(512) << 20)
#define TREE_MAX (UINT64_C(16) << 20)
#define CHILDREN_MAX 128
#define PAGES_MAX 256 /* of a tree */
#define OCI_ACCEPT \
	"application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, " OLLAMA_MANIFEST ", " \
	"application/vnd.docker.distribution.manifest.list.v2+json"

struct text { /* a manifest, as it came */
	char *base;
	size_t len;
	struct digest digest;
};

struct upstream {
	struct mirror *m;
	struct upstream_source from;
	upstream_fn *fn;
	void *arg;
	struct hub_get *get;
	struct hub_call *head; /* of a file */
	struct attached *attached;
	bool canceled, in_job;
	struct text *texts; /* the first is what the tag will name; the others are of its index */
	size_t text_count, text_next;
	struct version_file *files; /* HF: of the tree; OCI: of all manifests */
	bool *small;                /* HF: must be fetched to learn its digest */
	size_t file_count, file_next;
	uint64_t small_bytes;
	int pages;
	char commit[41];
	struct error err;
};

/* ---- names --------------------------------------------------------------------------------------- */

static bool take_base(struct str *text, char *ret_base, size_t size)
{
	struct buf base = {0};
	bool plain = str_starts(*text, STR("http://")), tls = str_starts(*text, STR("https://"));
	if (plain || tls)
		*text = (struct str){text->base + (plain ? 7 : 8), text->len - (plain ? 7 : 8)};
	struct str host = str_cut(*text, '/', text);
	buf_printf(&base, "%s" STR_FMT, plain ? "http://" : "https://", STR_ARG(host));
	bool fits = host.len && text->len && str_copy(buf_str(&base), ret_base, size);
	buf_fini(&base);
	return fits;
}

/* Cuts ":TAG" or "@DIGEST" off. */
static struct str cut_reference(struct str *name, struct str otherwise)
{
	const char *at = memchr(name->base, '@', name->len);
	const char *colon = at ? at : memrchr(name->base, ':', name->len);
	if (!colon || memchr(colon, '/', (size_t)(name->base + name->len - colon)))
		return otherwise;
	struct str reference = {colon + 1, (size_t)(name->base + name->len - colon - 1)};
	name->len = (size_t)(colon - name->base);
	return reference;
}

/* What it is called here: its own name where that can be one, a tag that can be one. */
static int name_here(struct upstream_source *s, struct str name, struct str reference, struct error *err)
{
	char tag[129];
	size_t n = 0;
	if (!snapshot_name(name, s->to_name))
		return error_set(err, E_INVAL, "\"" STR_FMT "\" cannot be a name here; say what to call it",
		                 STR_ARG(name));
	for (size_t i = 0; i < reference.len && n < sizeof tag - 1; i++)
		tag[n++] = strchr("/:@", reference.base[i]) ? '-' : reference.base[i];
	tag[n] = 0;
	str_copy(oci_tag_valid(str_from(tag)) ? str_from(tag) : STR("latest"), s->to_tag, sizeof s->to_tag);
	return 0;
}

static bool path_is_good(struct str s)
{
	for (size_t i = 0; i < s.len; i++)
		if (s.base[i] <= ' ' || s.base[i] == 127 || strchr("?#%\\", s.base[i]))
			return false;
	return s.len && *s.base != '/' && !memmem(s.base, s.len, "..", 2);
}

static int fill(struct upstream_source *s, struct str name, struct str revision, struct error *err)
{
	if (!path_is_good(name) || !path_is_good(revision) || !str_copy(name, s->id, sizeof s->id) ||
	    !str_copy(revision, s->revision, sizeof s->revision))
		return error_set(err, E_INVAL, "\"" STR_FMT "\" is no name of a model there", STR_ARG(name));
	return name_here(s, name, revision, err);
}

/* The file is called as in its address; the model as the file without its ending. */
static int parse_file(struct str text, struct upstream_source *ret_source, struct error *err)
{
	struct upstream_source s = {.kind = UPSTREAM_FILE};
	struct str rest = text;
	size_t end = 0;
	while (end < text.len && text.base[end] != '?' && text.base[end] != '#')
		end++;
	const char *slash = memrchr(text.base, '/', end); /* there is one after the scheme */
	struct str name = {slash ? slash + 1 : text.base, slash ? (size_t)(text.base + end - slash - 1) : end};
	if (!str_copy(text, s.url, sizeof s.url) || !take_base(&rest, s.base, sizeof s.base))
		return error_set(err, E_INVAL, "\"" STR_FMT "\" is no address of a file", STR_ARG(text));
	if (!path_is_good(name) || !path_safe(name))
		return error_set(err, E_INVAL, "\"" STR_FMT "\" cannot be the name of a file", STR_ARG(name));
	const char *dot = memrchr(name.base, '.', name.len);
	struct str model = {name.base, dot ? (size_t)(dot - name.base) : name.len};
	int rc = fill(&s, model, STR("latest"), err);
	str_copy(name, s.id, sizeof s.id);
	if (!rc)
		*ret_source = s;
	return rc;
}

int upstream_parse(struct str text, struct str hf_base, struct str ollama_base, struct upstream_source *ret_source,
                   struct error *err)
{
	struct upstream_source s = {0};
	struct str rest, kind = str_cut(text, ':', &rest);
	if (str_equal(kind, STR("http")) || str_equal(kind, STR("https")))
		return parse_file(text, ret_source, err);
	bool hf = str_equal(kind, STR("hf")), ollama = str_equal(kind, STR("ollama"));
	if (!rest.len || (!hf && !ollama && !str_equal(kind, STR("oci"))))
		return error_set(err, E_INVAL,
		                 "\"" STR_FMT
		                 "\" is no source: write hf:ORG/REPO, oci:HOST/NAME:TAG, ollama:NAME:TAG or a URL",
		                 STR_ARG(text));
	s.kind = hf ? UPSTREAM_HF : ollama ? UPSTREAM_OLLAMA : UPSTREAM_OCI;
	bool says_host =
	    s.kind == UPSTREAM_OCI || str_starts(rest, STR("http://")) || str_starts(rest, STR("https://"));
	if (!says_host && !str_copy(hf ? hf_base : ollama_base, s.base, sizeof s.base))
		return error_set(err, E_INVAL, "the address of that place is too long");
	if (says_host && !take_base(&rest, s.base, sizeof s.base))
		return error_set(err, E_INVAL, "\"" STR_FMT "\" names no host and model", STR_ARG(text));
	struct str revision = cut_reference(&rest, hf ? STR("main") : STR("latest"));
	char with_library[256];
	if (ollama && !memchr(rest.base, '/', rest.len)) {
		snprintf(with_library, sizeof with_library, "library/%.*s", (int)(rest.len < 200 ? rest.len : 200),
		         rest.base);
		rest = str_from(with_library);
	}
	int rc = fill(&s, rest, revision, err);
	if (!rc)
		*ret_source = s;
	return rc;
}

/* ---- life ------------------------------------------------------------------------------------------ */

static void upstream_free(struct upstream *u)
{
	for (size_t i = 0; i < u->text_count; i++)
		free(u->texts[i].base);
	free(u->texts);
	free(u->files);
	free(u->small);
	attached_free(u->attached);
	free(u);
}

static void end(struct upstream *u)
{
	struct upstream_found found = {.files = u->files, .file_count = u->file_count};
	if (u->text_count)
		found.manifest = u->texts[0].digest;
	if (!u->canceled)
		u->fn(u->arg, u->err.code ? NULL : &found, u->err.code ? &u->err : NULL);
	upstream_free(u);
}

void upstream_cancel(struct upstream *u)
{
	u->canceled = true;
	if (u->get)
		hub_get_cancel(u->get);
	if (u->head)
		hub_cancel(u->head);
	u->get = NULL;
	u->head = NULL;
	if (!u->in_job)
		upstream_free(u);
}

/* It comes from there as it is; else one is written here. */
static bool has_manifest(const struct upstream_source *s)
{
	return s->kind == UPSTREAM_OCI || s->kind == UPSTREAM_OLLAMA;
}

static void scope_of(const struct upstream *u, char *to, size_t size)
{
	to[0] = 0;
	if (has_manifest(&u->from))
		snprintf(to, size, "repository:%.200s:pull", u->from.id);
}

static void ask(struct upstream *u, struct str url, struct str accept, size_t bytes_max, hub_got *got)
{
	char scope[256];
	scope_of(u, scope, sizeof scope);
	u->get = hub_get(u->m->hub, url, str_from(scope), accept, bytes_max, got, u);
}

/* True when the answer is a success; else the end has been told. */
static bool succeeded(struct upstream *u, const char *what, int status, const struct error *err)
{
	u->get = NULL;
	if (err)
		u->err = *err;
	else if (status != 200)
		hub_refused(str_from(what), status, &u->err);
	else
		return true;
	end(u);
	return false;
}

/* ---- publishing --------------------------------------------------------------------------------------- */

static int add_file(struct upstream *u, const struct version_file *f, struct error *err)
{
	for (size_t i = 0; i < u->file_count; i++)
		if (digest_equal(&u->files[i].digest, &f->digest) && !strcmp(u->files[i].path, f->path))
			return 0;
	if (u->file_count == VERSION_FILES_MAX)
		return error_set(err, E_LIMIT, "it has over %d files", VERSION_FILES_MAX);
	u->files[u->file_count++] = *f;
	return 0;
}

/* Blobs that a manifest from a registry names. They are linked when they came (through.h). */
static int note_items(struct upstream *u, const struct manifest *parsed, struct error *err)
{
	struct origin o = {0};
	char digest[DIGEST_TEXT_SIZE];
	int rc = 0;
	scope_of(u, o.scope, sizeof o.scope);
	for (size_t i = 0; i < parsed->item_count && !rc; i++) {
		const struct manifest_item *item = &parsed->items[i];
		struct version_file f = {.digest = item->digest, .size = item->size};
		if (item->elsewhere || parsed->index)
			continue;
		if (item->name.sha512)
			return error_set(err, E_UNSUPPORTED, "it names blobs by SHA-512, which cannot be mirrored");
		str_copy(str_from(item->path), f.path, sizeof f.path);
		str_copy(str_from(item->media_type), f.media_type, sizeof f.media_type);
		digest_format(&item->digest, digest);
		o.size = item->size;
		if (snprintf(o.url, sizeof o.url, "%s/v2/%s/blobs/%s", u->from.base, u->from.id, digest) >=
		    (int)sizeof o.url)
			return error_set(err, E_INVAL, "the address of a blob is too long");
		rc = origins_put(u->m->origins, str_from(u->from.to_name), &item->digest, &o, err);
		if (!rc)
			rc = add_file(u, &f, err);
	}
	return rc;
}

static int publish_text(struct upstream *u, const struct text *t, const char *tag, struct error *err)
{
	struct manifest parsed;
	struct repository *r = u->m->r;
	struct str name = str_from(u->from.to_name), text = {t->base, t->len};
	struct digest d;
	int rc = manifest_parse(text, &parsed, err);
	if (rc)
		return rc;
	if (tag[0] && !catalog_get_tag(r->catalog, name, str_from(tag), &d, NULL) && digest_equal(&d, &t->digest))
		tag = ""; /* pushed anew, it would be no version any more until it is complete */
	if (has_manifest(&u->from))
		rc = note_items(u, &parsed, err);
	if (!rc)
		rc = blob_put(r->store, text, &d, err);
	if (!rc)
		rc = catalog_push_as(r->catalog, str_from(u->from.who), name, &d,
		                     str_from(parsed.media_type[0] ? parsed.media_type : COMPOSE_MANIFEST), text.len,
		                     str_from(tag), NULL, err);
	manifest_fini(&parsed);
	return rc;
}

static const char *format_of(const struct upstream *u)
{
	for (size_t i = 0; i < u->file_count; i++)
		if (str_ends(str_from(u->files[i].path), STR(".gguf")))
			return "gguf";
	return "safetensors";
}

/* URLs of a Hugging Face revision; every path is escaped. */
static bool file_url(const struct upstream *u, const char *path, char *ret_url, size_t size)
{
	struct buf url = {0};
	if (u->from.kind == UPSTREAM_FILE)
		return str_copy(str_from(u->from.url), ret_url, size);
	buf_printf(&url, "%s/%s/resolve/%s/", u->from.base, u->from.id, u->commit);
	buf_append_escaped(&url, str_from(path), URL_PATH);
	bool fits = str_copy(buf_str(&url), ret_url, size);
	buf_fini(&url);
	return fits;
}

static int compose(struct upstream *u, struct error *err)
{
	struct repository *r = u->m->r;
	struct buf config = {0}, text = {0};
	struct digest d;
	char source[800];
	if (u->from.kind == UPSTREAM_HF)
		snprintf(source, sizeof source, "%s/%s", u->from.base, u->from.id);
	else /* without what may be a secret in it */
		snprintf(source, sizeof source, "%.*s", (int)strcspn(u->from.url, "?#"), u->from.url);
	struct compose_note notes[] = {{"org.opencontainers.image.source", source},
	                               {"org.opencontainers.image.revision", compose_some(u->commit)}};
	compose_config(str_from(u->from.to_name), str_from(u->commit[0] ? u->commit : u->from.to_tag),
	               str_from(format_of(u)), STR(""), u->files, u->file_count, &config);
	int rc = blob_put(r->store, buf_str(&config), &d, err);
	if (!rc)
		rc = catalog_link_blob(r->catalog, str_from(u->from.to_name), &d, err);
	compose_manifest(buf_str(&config), u->files, u->file_count, notes, 2, &text);
	if (!rc && text.len > LIMIT_MANIFEST)
		rc = error_set(err, E_LIMIT, "it has too many files for a manifest");
	for (size_t i = 0; i < u->file_count && !rc; i++) {
		struct origin o = {.size = u->files[i].size};
		if (!file_url(u, u->files[i].path, o.url, sizeof o.url))
			rc = error_set(err, E_INVAL, "the address of %s is too long", u->files[i].path);
		if (!rc)
			rc = origins_put(u->m->origins, str_from(u->from.to_name), &u->files[i].digest, &o, err);
		if (!rc && u->small && u->small[i]) /* came already */
			rc = catalog_link_blob(r->catalog, str_from(u->from.to_name), &u->files[i].digest, err);
	}
	if (!rc) {
		u->texts = NEW(struct text);
		u->texts[0] = (struct text){str_dup(buf_str(&text)), text.len, digest_of(text.base, text.len)};
		u->text_count = 1;
	}
	buf_fini(&config);
	buf_fini(&text);
	return rc;
}

struct publish {
	struct upstream *u;
	struct repository *r;
	int rc;
	struct error err;
};

static void publish_work(void *arg)
{
	struct publish *p = arg;
	struct upstream *u = p->u;
	if (!has_manifest(&u->from))
		p->rc = compose(u, &p->err);
	/* A kill between tag and answer must not leave a tag that looks like one pushed here. */
	if (!p->rc && u->from.key[0] && !origins_asked(u->m->origins, str_from(u->from.key)))
		p->rc = origins_set_asked(u->m->origins, str_from(u->from.key), 1, &p->err);
	struct error err = {0};
	if (!p->rc && u->attached && attached_publish(u->attached, p->r, str_from(u->from.who), &err))
		log_warn("repository", "signatures of %s: %s", u->from.to_name, err.text);
	for (size_t i = u->text_count; i-- > 0 && !p->rc;) /* what an index names comes before it */
		p->rc = publish_text(u, &u->texts[i], i || !u->from.tag_at_once ? "" : u->from.to_tag, &p->err);
	if (!p->rc && u->from.kind == UPSTREAM_HF && strcmp(u->commit, u->from.to_tag))
		p->rc = publish_text(u, &u->texts[0], u->commit, &p->err);
}

static void publish_done(void *arg)
{
	struct publish *p = arg;
	struct repository *r = p->r;
	p->u->in_job = false;
	if (p->rc)
		p->u->err = p->err;
	if (p->u->attached && !r->freed)
		feed_wake(r); /* a version that was here may have new signatures */
	end(p->u);
	free(p);
	repository_release(r);
}

static void publish(struct upstream *u)
{
	struct publish *p = NEW(struct publish);
	*p = (struct publish){.u = u, .r = u->m->r};
	u->in_job = true;
	p->r->refs++;
	if (!u->files)
		u->files = mem_new(VERSION_FILES_MAX * sizeof *u->files);
	loop_job(p->r->loop, publish_work, publish_done, p);
}

/* ---- OCI and Ollama -------------------------------------------------------------------------------------- */

static void on_manifest(void *arg, int status, struct str body, struct str digest, struct str link,
                        const struct error *err);

static void ask_manifest(struct upstream *u, const char *reference)
{
	struct buf url = {0};
	buf_printf(&url, "%s/v2/%s/manifests/%s", u->from.base, u->from.id, reference);
	ask(u, buf_str(&url), u->from.kind == UPSTREAM_OLLAMA ? STR(OLLAMA_MANIFEST) : STR(OCI_ACCEPT), LIMIT_MANIFEST,
	    on_manifest);
	buf_fini(&url);
}

/* Manifests of an index are asked for one after the other. */
static int add_children(struct upstream *u, const struct manifest *index, struct error *err)
{
	if (u->text_count > 1)
		return error_set(err, E_UNSUPPORTED, "an index of indexes is not mirrored");
	if (index->item_count > CHILDREN_MAX)
		return error_set(err, E_LIMIT, "an index of over %d manifests is not mirrored", CHILDREN_MAX);
	u->texts = mem_resize(u->texts, 1 + index->item_count, sizeof *u->texts);
	for (size_t i = 0; i < index->item_count; i++) {
		if (index->items[i].name.sha512)
			return error_set(err, E_UNSUPPORTED,
			                 "an index that names manifests by SHA-512 is not mirrored");
		u->texts[u->text_count++] = (struct text){.digest = index->items[i].digest};
	}
	return 0;
}

static int take_manifest(struct upstream *u, struct str body, struct str header, struct error *err)
{
	struct manifest parsed;
	struct digest got = digest_of(body.base, body.len), said;
	struct text *t = &u->texts[u->text_next];
	bool by_digest = u->text_next > 0 || !digest_parse(str_from(u->from.revision), &t->digest);
	if (by_digest && !digest_equal(&got, &t->digest))
		return error_set(err, E_CORRUPT, "the manifest that came is another than the one asked for");
	if (header.len && !digest_parse(header, &said) && !digest_equal(&got, &said))
		return error_set(err, E_CORRUPT, "the manifest is not what its Docker-Content-Digest says");
	int rc = manifest_parse(body, &parsed, err);
	if (rc)
		return error_prefix(err, "what %s sent is no manifest", u->from.base);
	t->base = str_dup(body);
	t->len = body.len;
	t->digest = got;
	rc = parsed.index ? add_children(u, &parsed, err) : 0;
	manifest_fini(&parsed);
	return rc;
}

static void on_attached(void *arg)
{
	publish(arg);
}

static void all_manifests_came(struct upstream *u)
{
	struct attached_source source = {.base = str_from(u->from.base),
	                                 .id = str_from(u->from.id),
	                                 .to_name = str_from(u->from.to_name),
	                                 .manifest = u->texts[0].digest};
	if (u->from.kind == UPSTREAM_OCI)
		u->attached = attached_take(u->m, &source, on_attached, u);
	else
		publish(u);
}

static void on_manifest(void *arg, int status, struct str body, struct str digest, struct str link,
                        const struct error *err)
{
	struct upstream *u = arg;
	char text[DIGEST_TEXT_SIZE];
	if (!succeeded(u, u->from.id, status, err))
		return;
	if (take_manifest(u, body, digest, &u->err)) {
		end(u);
		return;
	}
	if (++u->text_next == u->text_count) {
		all_manifests_came(u);
		return;
	}
	digest_format(&u->texts[u->text_next].digest, text);
	ask_manifest(u, text);
}

/* ---- Hugging Face ---------------------------------------------------------------------------------------------- */

static void next_small(struct upstream *u);

static bool wanted(const struct upstream *u, const char *path)
{
	struct str rest = str_from(u->from.include);
	char pattern[256];
	if (!rest.len)
		return true;
	while (rest.len) {
		struct str one = str_trim(str_cut(rest, ',', &rest));
		if (str_copy(one, pattern, sizeof pattern) && fnmatch(pattern, path, 0) == 0)
			return true;
	}
	return false;
}

static int take_entry(struct upstream *u, yyjson_val *entry, struct error *err)
{
	struct version_file f = {0};
	const char *type = yyjson_get_str(yyjson_obj_get(entry, "type"));
	const char *path = yyjson_get_str(yyjson_obj_get(entry, "path"));
	yyjson_val *lfs = yyjson_obj_get(entry, "lfs");
	const char *oid = yyjson_get_str(yyjson_obj_get(lfs, "oid"));
	if (!type || strcmp(type, "file"))
		return 0;
	if (!path || !str_copy(str_from(path), f.path, sizeof f.path) || !path_safe(str_from(f.path)))
		return error_set(err, E_PEER, "its tree has a file whose name cannot be used: \"%.200s\"",
		                 path ? path : "");
	f.size = yyjson_get_uint(yyjson_obj_get(oid ? lfs : entry, "size"));
	if (!wanted(u, f.path))
		return 0;
	bool small = !oid;
	if (!small && hex_decode(str_from(strncmp(oid, "sha256:", 7) ? oid : oid + 7), f.digest.bytes, DIGEST_SIZE))
		return error_set(err, E_PEER, "%s has no SHA-256 in the tree", f.path);
	u->small_bytes += small ? f.size : 0;
	if (small && (f.size > SMALL_MAX || u->small_bytes > SMALL_ALL_MAX))
		return error_set(err, E_LIMIT, "%s is too large for a file that is not in LFS", f.path);
	if (u->file_count == VERSION_FILES_MAX)
		return error_set(err, E_LIMIT, "it has over %d files; choose with --include", VERSION_FILES_MAX);
	u->small[u->file_count] = small;
	u->files[u->file_count++] = f;
	return 0;
}

/* <URL>; rel="next" */
static bool next_page(struct str link, char *ret_url, size_t size)
{
	struct str rest, before = str_cut(link, '<', &rest), url = str_cut(rest, '>', &rest);
	return !before.len && url.len && memmem(rest.base, rest.len, "rel=\"next\"", 10) &&
	       str_copy(url, ret_url, size);
}

static void on_tree(void *arg, int status, struct str body, struct str digest, struct str link, const struct error *err)
{
	struct upstream *u = arg;
	yyjson_doc *doc = NULL;
	yyjson_val *entry;
	yyjson_arr_iter iter;
	char url[ORIGIN_URL_SIZE];
	if (!succeeded(u, u->from.id, status, err))
		return;
	int rc = json_parse(body, &doc, &u->err);
	if (!rc && !yyjson_is_arr(yyjson_doc_get_root(doc)))
		rc = error_set(&u->err, E_PEER, "%s sent no tree of files", u->from.base);
	yyjson_arr_iter_init(yyjson_doc_get_root(doc), &iter);
	while (!rc && (entry = yyjson_arr_iter_next(&iter)))
		rc = take_entry(u, entry, &u->err);
	yyjson_doc_free(doc);
	bool more = !rc && next_page(link, url, sizeof url);
	if (more && ++u->pages == PAGES_MAX)
		rc = error_set(&u->err, E_LIMIT, "its tree has over %d pages", PAGES_MAX);
	if (!rc && more) {
		ask(u, str_from(url), STR("application/json"), TREE_MAX, on_tree);
		return;
	}
	if (!rc && !u->file_count)
		rc = error_set(&u->err, E_NOTFOUND, "%s has no such files", u->from.id);
	if (rc)
		end(u);
	else
		next_small(u);
}

static void on_revision(void *arg, int status, struct str body, struct str digest, struct str link,
                        const struct error *err)
{
	struct upstream *u = arg;
	yyjson_doc *doc = NULL;
	struct str sha = {0};
	uint8_t bytes[20];
	if (!succeeded(u, u->from.id, status, err))
		return;
	int rc = json_parse(body, &doc, &u->err);
	if (!rc)
		rc = json_str(yyjson_doc_get_root(doc), "sha", &sha, &u->err);
	if (!rc && (hex_decode(sha, bytes, sizeof bytes) || !str_copy(sha, u->commit, sizeof u->commit)))
		rc = error_set(&u->err, E_PEER, "%s names no commit", u->from.base);
	yyjson_doc_free(doc);
	if (rc) {
		end(u);
		return;
	}
	struct buf url = {0};
	buf_printf(&url, "%s/api/models/%s/tree/%s?recursive=true&expand=false", u->from.base, u->from.id, u->commit);
	u->files = mem_new(VERSION_FILES_MAX * sizeof *u->files);
	u->small = mem_new(VERSION_FILES_MAX * sizeof *u->small);
	ask(u, buf_str(&url), STR("application/json"), TREE_MAX, on_tree);
	buf_fini(&url);
}

struct small {
	struct upstream *u;
	struct repository *r;
	struct buf body;
	struct digest digest;
	int rc;
	struct error err;
};

static void small_work(void *arg)
{
	struct small *s = arg;
	s->rc = blob_put(s->r->store, buf_str(&s->body), &s->digest, &s->err);
}

static void small_done(void *arg)
{
	struct small *s = arg;
	struct upstream *u = s->u;
	struct repository *r = s->r;
	struct version_file *f = &u->files[u->file_next];
	u->in_job = false;
	f->digest = s->digest;
	f->size = s->body.len;
	u->file_next++;
	if (s->rc)
		u->err = s->err;
	if (s->rc || u->canceled)
		end(u);
	else
		next_small(u);
	buf_fini(&s->body);
	free(s);
	repository_release(r);
}

static void on_small(void *arg, int status, struct str body, struct str digest, struct str link,
                     const struct error *err)
{
	struct upstream *u = arg;
	if (!succeeded(u, u->files[u->file_next].path, status, err))
		return;
	if (body.len != u->files[u->file_next].size) {
		error_set(&u->err, E_PEER, "%s came with %zu bytes, its tree says %llu", u->files[u->file_next].path,
		          body.len, (unsigned long long)u->files[u->file_next].size);
		end(u);
		return;
	}
	struct small *s = NEW(struct small);
	s->u = u;
	s->r = u->m->r;
	buf_append_str(&s->body, body);
	u->in_job = true;
	s->r->refs++;
	loop_job(s->r->loop, small_work, small_done, s);
}

static void next_small(struct upstream *u)
{
	char url[ORIGIN_URL_SIZE];
	while (u->file_next < u->file_count && !u->small[u->file_next])
		u->file_next++;
	if (u->file_next == u->file_count) {
		publish(u);
	} else if (!file_url(u, u->files[u->file_next].path, url, sizeof url)) {
		error_set(&u->err, E_INVAL, "the address of %s is too long", u->files[u->file_next].path);
		end(u);
	} else {
		ask(u, str_from(url), STR(""), SMALL_MAX, on_small);
	}
}

/* ---- a file -------------------------------------------------------------------------------------- */

static void on_size(void *arg, struct hub_call *call, const struct error *err)
{
	struct upstream *u = arg;
	struct str length = {0};
	uint64_t size = 0;
	struct version_file f = {.digest = u->from.sha256};
	u->head = NULL;
	if (!succeeded(u, u->from.url, err ? 0 : hub_status(call), err))
		return;
	if (!hub_header(call, "content-length", &length) || str_to_u64(length, &size)) {
		error_set(&u->err, E_PEER, "%.300s does not say how long it is", u->from.url);
		end(u);
		return;
	}
	f.size = size;
	str_copy(str_from(u->from.id), f.path, sizeof f.path);
	u->files = mem_new(VERSION_FILES_MAX * sizeof *u->files);
	u->files[u->file_count++] = f;
	publish(u);
}

/* ---- all ----------------------------------------------------------------------------------------------------------
 */

struct upstream *upstream_take(struct mirror *m, const struct upstream_source *source, upstream_fn *fn, void *arg)
{
	struct upstream *u = NEW(struct upstream);
	struct buf url = {0};
	u->m = m;
	u->from = *source;
	u->fn = fn;
	u->arg = arg;
	if (source->kind == UPSTREAM_FILE) {
		struct hub_request head = {.url = str_from(u->from.url), .head = true, .on_done = on_size, .arg = u};
		u->head = hub_start(m->hub, &head);
		return u;
	}
	if (has_manifest(source)) {
		u->texts = NEW(struct text);
		u->text_count = 1;
		ask_manifest(u, source->revision);
		return u;
	}
	buf_printf(&url, "%s/api/models/%s/revision/%s", source->base, source->id, source->revision);
	ask(u, buf_str(&url), STR("application/json"), TREE_MAX, on_revision);
	buf_fini(&url);
	return u;
}

static int complete(struct repository *r, struct str who, struct str name, struct str tag, const struct digest *d,
                    struct str text, struct error *err)
{
	struct manifest m;
	struct version v = {0};
	bool is_model = false;
	uint64_t size;
	int rc = manifest_parse(text, &m, err);
	if (rc)
		return rc;
	manifest_resolve(&m, r->catalog);
	for (size_t i = 0; i < m.item_count && !rc && !m.index; i++)
		if (!m.items[i].elsewhere && !catalog_has_blob(r->catalog, name, &m.items[i].digest))
			rc = error_set(err, E_NOTFOUND, "not all of it has come yet");
		else if (!m.items[i].elsewhere)
			rc = blob_stat(r->store, &m.items[i].digest, &size, err);
	if (!rc && !m.index)
		rc = model_version(r->store, r->catalog, r->chunk_size, &m, &is_model, &v, err);
	if (!rc && is_model) {
		model_annotate(text, &v);
		str_copy(name, v.name, sizeof v.name);
		str_copy(tag, v.tag, sizeof v.tag);
		v.manifest = *d;
	}
	if (!rc)
		rc = catalog_push_as(r->catalog, who, name, d,
		                     str_from(m.media_type[0] ? m.media_type : COMPOSE_MANIFEST), text.len, tag,
		                     is_model ? &v : NULL, err);
	version_fini(&v);
	manifest_fini(&m);
	return rc;
}

int upstream_complete(struct repository *r, struct str who, struct str name, struct str tag,
                      const struct digest *manifest, struct error *err)
{
	struct buf text = {0};
	int rc = blob_read_all(r->store, manifest, LIMIT_MANIFEST, &text, err);
	if (!rc)
		rc = complete(r, who, name, tag, manifest, buf_str(&text), err);
	buf_fini(&text);
	return rc;
}
