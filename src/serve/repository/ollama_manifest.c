/* SPDX-License-Identifier: Apache-2.0 */
/* A version in the form Ollama reads. Its GGUF file is the model, a projector ("mmproj...") the projector; files named
 * `template`, `system`, `params`, `messages`, `adapter.gguf` and LICENSE... are the layers of those names, as on
 * Hugging Face; no other file is of use to it. Nothing is invented: where a version has no template, Ollama takes the
 * one of the GGUF file or none. The config is a few hundred bytes that follow from the version, kept in memory for
 * when they are fetched: reading writes nothing, counts towards no quota, and no collector comes between.
 *
 * Ollama loads single files. A version in parts is refused in words; of several models the tag must name one, by a
 * part of the file's name ("q4_k_m"), which also works where no such tag exists. */
#include "serve/repository/ollama.h"

#include "base/json.h"
#include "base/limits.h"
#include "serve/repository/snapshot.h"
#include "store/ociname.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define DOCKER_CONFIG "application/vnd.docker.container.image.v1+json"
#define LAYER "application/vnd.ollama.image."

struct ollama_task {
	struct task t;
	char tag[129];
	char media_type[128];
	struct digest digest;
	struct buf body, config; /* config: empty when the manifest is as it was pushed */
};

/* ---- which layer a file is ------------------------------------------------------------------- */

static const struct {
	const char *beginning; /* of the path, without regard to case; the whole of it when `whole` */
	bool whole;
	const char *kind;
} kinds[] = {
    {"template", true, "template"}, {"system", true, "system"},         {"params", true, "params"},
    {"messages", true, "messages"}, {"adapter.gguf", false, "adapter"}, {"license", false, "license"},
};

/* NULL: none. */
static const char *kind_of(const struct version_file *f)
{
	struct str path = str_from(f->path), type = str_from(f->media_type);
	if (str_starts(type, STR(LAYER)))
		return f->media_type + sizeof LAYER - 1;
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		struct str name = str_from(kinds[i].beginning);
		struct str part = {path.base, kinds[i].whole || path.len < name.len ? path.len : name.len};
		if (str_equal_nocase(part, name))
			return kinds[i].kind;
	}
	if (!str_ends(path, STR(".gguf")))
		return NULL;
	const char *slash = strrchr(f->path, '/');
	return str_starts(str_from(slash ? slash + 1 : f->path), STR("mmproj")) ? "projector" : "model";
}

static bool named_by(const struct version_file *f, const char *tag)
{
	return strcasestr(f->path, tag) != NULL;
}

/* The one model of the version, or the one that the tag names. */
static int choose_model(const struct version *v, const char *tag, bool tag_exists,
                        const struct version_file **ret_model, struct error *err)
{
	const struct version_file *named = NULL, *only = NULL;
	size_t models = 0;
	uint32_t part, parts;
	for (size_t i = 0; i < v->file_count; i++) {
		const struct version_file *f = &v->files[i];
		const char *kind = kind_of(f);
		if (!kind || strcmp(kind, "model"))
			continue;
		if (version_part(str_from(f->path), &part, &parts))
			return error_set(err, E_INVAL,
			                 "%s is in %u parts, and Ollama loads single files only: push it merged "
			                 "(llama-gguf-split --merge)",
			                 v->name, parts);
		models++;
		only = f;
		if (named_by(f, tag) && !named)
			named = f;
	}
	if (!models)
		return error_set(err, E_INVAL, "%s has no GGUF file, and Ollama needs one", v->name);
	*ret_model = named ? named : tag_exists && models == 1 ? only : NULL;
	if (!*ret_model && models == 1)
		return error_set(err, E_NOTFOUND, "%s has no version %s", v->name, tag);
	return *ret_model ? 0
	                  : error_set(err, E_INVAL,
	                              "%s has %zu models: say which by a part of its file's name, as in %s:q4_k_m",
	                              v->name, models, v->name);
}

/* ---- config and manifest --------------------------------------------------------------------- */

/* As Ollama writes it: 134.52M, 7B, 7.2B. */
static void append_count(struct buf *out, uint64_t n)
{
	static const struct {
		double unit;
		char letter;
		int places;
	} units[] = {{1e9, 'B', 1}, {1e6, 'M', 2}, {1e3, 'K', 0}};
	for (size_t i = 0; i < 3; i++) {
		double value = (double)n / units[i].unit;
		if (value < 1)
			continue;
		buf_printf(out, "%.*f%c", value == floor(value) ? 0 : units[i].places, value, units[i].letter);
		return;
	}
	buf_printf(out, "%llu", (unsigned long long)n);
}

static void append_descriptor(struct buf *out, const char *type, const struct digest *d, uint64_t size)
{
	char text[DIGEST_TEXT_SIZE];
	digest_format(d, text);
	buf_append_str(out, STR("{\"mediaType\":"));
	buf_append_json(out, str_from(type));
	buf_printf(out, ",\"digest\":\"%s\",\"size\":%llu}", text, (unsigned long long)size);
}

/* Layers of the manifest, comma-separated, the model first; their digests for the config. */
static void append_layers(const struct version *v, const struct version_file *model, struct buf *out,
                          struct buf *diff_ids)
{
	for (size_t i = 0; i <= v->file_count; i++) {
		const struct version_file *f = i ? &v->files[i - 1] : model;
		const char *kind = i ? kind_of(f) : "model";
		char type[160], text[DIGEST_TEXT_SIZE];
		if (!kind || (i && !strcmp(kind, "model")))
			continue;
		snprintf(type, sizeof type, LAYER "%s", kind);
		if (out->len)
			buf_append_str(out, STR(","));
		append_descriptor(out, type, &f->digest, f->size);
		digest_format(&f->digest, text);
		buf_printf(diff_ids, "%s\"%s\"", diff_ids->len ? "," : "", text);
	}
}

static void append_config(const struct version *v, struct str diff_ids, struct buf *out)
{
	struct buf family = {0}, count = {0};
	buf_append_json(&family, str_from(v->architecture));
	append_count(&count, v->parameters);
	buf_append_str(out, STR("{\"model_format\":\"gguf\",\"model_family\":"));
	buf_append_str(out, buf_str(&family));
	buf_append_str(out, STR(",\"model_families\":["));
	if (v->architecture[0])
		buf_append_str(out, buf_str(&family));
	buf_append_str(out, STR("],\"model_type\":"));
	buf_append_json(out, v->parameters ? buf_str(&count) : STR(""));
	buf_append_str(out, STR(",\"file_type\":"));
	buf_append_json(out, str_from(v->quantization));
	if (v->context_tokens)
		buf_printf(out, ",\"context_length\":%u", v->context_tokens);
	buf_printf(out,
	           ",\"architecture\":\"amd64\",\"os\":\"linux\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[" STR_FMT
	           "]}}",
	           STR_ARG(diff_ids));
	buf_fini(&family);
	buf_fini(&count);
}

static int make_manifest(struct ollama_task *o, const struct version *v, bool tag_exists)
{
	struct task *t = &o->t;
	const struct version_file *model;
	struct buf layers = {0}, diff_ids = {0};
	int rc = choose_model(v, o->tag, tag_exists, &model, &t->err);
	if (rc)
		return rc;
	append_layers(v, model, &layers, &diff_ids);
	append_config(v, buf_str(&diff_ids), &o->config);
	struct digest d = digest_of(o->config.base, o->config.len);
	buf_append_str(&o->body, STR("{\"schemaVersion\":2,\"mediaType\":\"" OLLAMA_MANIFEST "\",\"config\":"));
	append_descriptor(&o->body, DOCKER_CONFIG, &d, o->config.len);
	buf_append_str(&o->body, STR(",\"layers\":["));
	buf_append_str(&o->body, buf_str(&layers));
	buf_append_str(&o->body, STR("]}"));
	buf_fini(&layers);
	buf_fini(&diff_ids);
	str_copy(str_from(OLLAMA_MANIFEST), o->media_type, sizeof o->media_type);
	return 0;
}

/* ---- the request ----------------------------------------------------------------------------- */

static bool of_ollama(const struct version *v)
{
	for (size_t i = 0; i < v->file_count; i++)
		if (str_starts(str_from(v->files[i].media_type), STR(LAYER)))
			return true;
	return false;
}

static int as_stored(struct ollama_task *o, const struct digest *manifest)
{
	struct task *t = &o->t;
	int rc = catalog_get_manifest(t->r->catalog, str_from(t->repo), manifest, o->media_type, &t->err);
	return rc ? rc : blob_read_all(t->r->store, manifest, LIMIT_MANIFEST, &o->body, &t->err);
}

static void work(struct task *t)
{
	struct ollama_task *o = (struct ollama_task *)t;
	struct catalog *catalog = t->r->catalog;
	struct str repo = str_from(t->repo), tag = str_from(o->tag);
	struct digest manifest;
	struct version v;
	char found[129];
	bool latest = str_equal(tag, STR("latest"));
	bool exists = !snapshot_find(catalog, repo, latest ? STR("main") : tag, found, &manifest, NULL);
	t->rc = exists ? 0 : snapshot_find(catalog, repo, STR("main"), found, &manifest, &t->err);
	if (t->rc)
		return;
	if (snapshot_read(t->r->store, catalog, repo, str_from(found), &manifest, &v, NULL)) {
		t->rc = exists ? as_stored(o, &manifest) /* an image, for Docker */
		               : error_set(&t->err, E_NOTFOUND, "%s has no version %s", t->repo, o->tag);
		return;
	}
	t->rc = of_ollama(&v) && exists ? as_stored(o, &manifest) : make_manifest(o, &v, exists);
	version_fini(&v);
}

static void done(struct task *t)
{
	struct ollama_task *o = (struct ollama_task *)t;
	if (t->rc) {
		oci_fail(t->x, t->rc == E_NOTFOUND ? "MANIFEST_UNKNOWN" : "UNSUPPORTED", &t->err);
	} else {
		if (o->config.len)
			ollama_keep_config(t->r, str_from(t->repo), buf_str(&o->config));
		o->digest = digest_of(o->body.base, o->body.len);
		oci_add_digest(t->x, &o->digest);
		http_respond_begin(t->x, 200, o->media_type, (int64_t)o->body.len);
		http_write(t->x, buf_str(&o->body));
		http_end(t->x);
	}
	buf_fini(&o->body);
	buf_fini(&o->config);
	free(o);
}

bool ollama_asks(const struct http_exchange *x)
{
	struct str accept;
	return http_header(x, "accept", &accept) && str_equal(accept, STR(OLLAMA_MANIFEST));
}

bool ollama_manifest(struct repository *r, struct http_exchange *x, struct str repo, struct str reference)
{
	struct str method = http_method(x);
	if ((!str_equal(method, STR("GET")) && !str_equal(method, STR("HEAD"))) || !oci_tag_valid(reference) ||
	    !ollama_asks(x))
		return false;
	struct ollama_task *o = task_new(r, x, repo, sizeof *o);
	str_copy(reference, o->tag, sizeof o->tag);
	task_run(&o->t, work, done);
	return true;
}
