/* SPDX-License-Identifier: Apache-2.0 */
/* A question is (door, name, revision). Who asks the same at once waits together. A question that failed is not put
 * again for some seconds, so that a missing name costs the other side one request however often it is asked for here.
 *
 * When the tag names a whole version already and the other side has a newer one, the old one is given until all of the
 * new one is here (collect.h): nothing that nodes hold is taken away by a move somewhere else.
 */
#include "serve/repository/mirror.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "net/sse.h"
#include "serve/repository/access.h"
#include "serve/repository/collect.h"
#include "serve/repository/hf_path.h"
#include "serve/repository/ollama.h"
#include "serve/repository/snapshot.h"
#include "serve/repository/versions.h"
#include "store/ociname.h"

#include <stdio.h>
#include <stdlib.h>

#define ASKS_MAX 64
#define WAITERS_MAX 4096
#define FAILED_MAX 256
#define FAILED_US (10 * US_PER_S)
#define PAGE 100
#define TELL_US (500 * US_PER_MS)
#define BODY_MAX 65536
#define HF "https://huggingface.co"
#define OLLAMA "https://registry.ollama.ai"

struct waiter {
	struct waiter *next;
	struct ask *ask;
	struct http_exchange *x;
	mirror_then *then;
};

static void on_manifest(struct mirror *m, struct str repo, const struct upstream_found *found);

struct ask { /* one question, or one import */
	struct ask *next;
	struct state *s;
	struct upstream_source source; /* its key empty: an import */
	struct upstream *upstream;
	struct collect *collect;
	struct waiter *waiters;
	struct http_exchange *x; /* an import's stream; NULL: gone */
	bool full, local;        /* local: there is something to give when this fails */
};

struct failed {
	char key[512];
	int64_t until_us;
	struct error err;
};

struct state {
	struct mirror m; /* first: what r->mirror points to */
	char *hf, *ollama, *oci;
	int64_t fresh_us;
	struct ask *asks;
	size_t ask_count, waiter_count;
	struct failed failed[FAILED_MAX];
	size_t failed_next;
	struct loop_timer *tell;
	bool stopped; /* jobs may still use what is here */
};

/* ---- asking ------------------------------------------------------------------------------------------ */

static void ask_free(struct ask *a)
{
	struct ask **at = &a->s->asks;
	while (*at != a)
		at = &(*at)->next;
	*at = a->next;
	a->s->ask_count--;
	free(a);
}

/* Nobody wants it any more; what came is kept. */
static void ask_stop(struct ask *a)
{
	if (a->upstream)
		upstream_cancel(a->upstream);
	if (a->collect)
		collect_cancel(a->collect);
	a->upstream = NULL;
	a->collect = NULL;
}

static void release_waiters(struct ask *a, const struct error *err)
{
	while (a->waiters) {
		struct waiter *w = a->waiters;
		struct http_exchange *x = w->x;
		mirror_then *then = w->then;
		a->waiters = w->next;
		a->s->waiter_count--;
		free(w);
		http_watch(x, NULL, NULL, NULL);
		if (err && !a->local && err->code != E_NOTFOUND)
			through_fail(x, err);
		else
			then(a->s->m.r, x); /* 404s have the door's own shape */
	}
}

static void remember_failure(struct ask *a, const struct error *err)
{
	struct failed *f = &a->s->failed[a->s->failed_next++ % FAILED_MAX];
	memcpy(f->key, a->source.key, sizeof f->key);
	f->until_us = clock_mono_us() + FAILED_US;
	f->err = *err;
	log_info("repository", "not mirrored: %s: %s", a->source.key, err->text);
}

static void say(struct ask *a, const char *event, struct str json)
{
	struct buf out = {0};
	sse_append(&out, str_from(event), json);
	a->full = !http_write(a->x, buf_str(&out));
	buf_fini(&out);
}

static void say_end(struct ask *a, const struct error *err)
{
	struct buf json = {0};
	if (!a->x)
		return;
	if (err) {
		buf_printf(&json, "{\"code\":\"%s\",\"message\":", error_label(err->code));
		buf_append_json(&json, str_from(err->text));
		buf_append_str(&json, STR("}"));
	} else {
		buf_printf(&json, "{\"name\":\"%s\",\"tag\":\"%s\"}", a->source.to_name, a->source.to_tag);
	}
	say(a, err ? "error" : "result", buf_str(&json));
	buf_fini(&json);
	http_watch(a->x, NULL, NULL, NULL);
	http_end(a->x);
}

static void on_collected(void *arg, const struct error *err)
{
	struct ask *a = arg;
	if (err)
		log_warn("repository", "%s:%s from %s: %s", a->source.to_name, a->source.to_tag, a->source.base,
		         err->text);
	else
		log_info("repository", "%s:%s is here now, from %s", a->source.to_name, a->source.to_tag,
		         a->source.base);
	say_end(a, err);
	ask_free(a);
}

/* The tag names a version, whole and here; of that manifest, when one is given. */
static bool names_version(struct repository *r, struct str name, struct str tag, const struct digest *manifest)
{
	struct version v;
	if (catalog_get_version(r->catalog, name, tag, &v, NULL))
		return false;
	bool same = !manifest || digest_equal(&v.manifest, manifest);
	version_fini(&v);
	return same;
}

static void on_taken(void *arg, const struct upstream_found *found, const struct error *err)
{
	struct ask *a = arg;
	struct state *s = a->s;
	struct str name = str_from(a->source.to_name), tag = str_from(a->source.to_tag);
	a->upstream = NULL;
	if (err && !a->source.key[0]) {
		say_end(a, err);
		ask_free(a);
		return;
	}
	if (err)
		remember_failure(a, err);
	else if (a->source.key[0])
		origins_set_asked(s->m.origins, str_from(a->source.key), clock_wall_us(), NULL);
	release_waiters(a, err);
	bool same = !err && names_version(s->m.r, name, tag, &found->manifest);
	if (err || (a->source.key[0] && (a->source.tag_at_once || same))) {
		if (!err && !same)
			on_manifest(&s->m, name, found);
		ask_free(a);
		return;
	}
	a->collect = collect_start(&s->m, &a->source, found, on_collected, a);
}

static struct ask *ask_new(struct state *s, const struct upstream_source *source)
{
	struct ask *a = NEW(struct ask);
	a->s = s;
	a->source = *source;
	a->next = s->asks;
	s->asks = a;
	s->ask_count++;
	a->upstream = upstream_take(&s->m, source, on_taken, a);
	return a;
}

/* ---- versions --------------------------------------------------------------------------------------------- */

struct completing {
	struct repository *r;
	char repo[REPO_NAME_SIZE];
	char tags[PAGE][129];
	size_t tag_count;
	struct digest *came; /* blobs that are the repository's now */
	size_t came_count;
	bool any;
};

static void take_tag(void *arg, struct str tag)
{
	struct completing *c = arg;
	str_copy(tag, c->tags[c->tag_count++], sizeof c->tags[0]);
}

static bool key_of(int kind, const char *name, const char *tag, char ret_key[static 512])
{
	return snprintf(ret_key, 512, "%d|%s|%s", kind, name, tag) < 512;
}

/* What was pushed here is left as it is. A revision of Hugging Face has its commit as a second tag. */
static bool is_mirrored(struct origins *origins, const char *repo, const char *tag)
{
	char key[512];
	uint8_t commit[20];
	for (int kind = UPSTREAM_OCI; kind <= UPSTREAM_HF; kind++)
		if (key_of(kind, repo, tag, key) && origins_asked(origins, str_from(key)))
			return true;
	return !hex_decode(str_from(tag), commit, sizeof commit);
}

static void complete_work(void *arg)
{
	struct completing *c = arg;
	struct str repo = str_from(c->repo);
	struct digest d;
	char after[129] = "";
	struct error err = {0};
	uint64_t size;
	for (size_t i = 0; i < c->came_count; i++)
		if (!blob_stat(c->r->store, &c->came[i], &size, NULL) &&
		    catalog_link_blob(c->r->catalog, repo, &c->came[i], &err))
			log_warn("repository", "%s cannot have a blob that its manifest names: %s", c->repo, err.text);
	do {
		c->tag_count = 0;
		catalog_tags(c->r->catalog, repo, str_from(after), PAGE, take_tag, c, NULL);
		for (size_t i = 0; i < c->tag_count; i++) {
			struct str tag = str_from(c->tags[i]);
			if (is_mirrored(c->r->mirror->origins, c->repo, c->tags[i]) &&
			    !catalog_get_tag(c->r->catalog, repo, tag, &d, NULL) && !names_version(c->r, repo, tag, &d))
				c->any |= !upstream_complete(c->r, STR("mirror"), repo, tag, &d, NULL);
		}
		if (c->tag_count)
			memcpy(after, c->tags[c->tag_count - 1], sizeof after);
	} while (c->tag_count == PAGE);
}

static void complete_done(void *arg)
{
	struct completing *c = arg;
	struct repository *r = c->r;
	if (c->any && !r->freed)
		feed_wake(r);
	free(c->came);
	free(c);
	repository_release(r);
}

/* The last blob of a manifest that came because clients asked makes a version of it, to be placed like any other. Also
 * looked for when a manifest came: its blobs may all be here, of another name or of a run that was killed. */
static void complete_start(struct mirror *m, struct str repo, struct digest *came, size_t count)
{
	struct completing *c = NEW(struct completing);
	c->r = m->r;
	str_copy(repo, c->repo, sizeof c->repo);
	c->came = came;
	c->came_count = count;
	m->r->refs++;
	loop_job(m->r->loop, complete_work, complete_done, c);
}

static void on_blob(struct mirror *m, struct str repo, const struct digest *d)
{
	struct digest *came = NEW(struct digest);
	*came = *d;
	complete_start(m, repo, came, 1);
}

static void on_manifest(struct mirror *m, struct str repo, const struct upstream_found *found)
{
	struct digest *came = mem_new((found->file_count + 1) * sizeof *came);
	size_t count = 0;
	for (size_t i = 0; i < found->file_count; i++)
		if (through_may_give(m, repo, &found->files[i].digest))
			came[count++] = found->files[i].digest;
	complete_start(m, repo, came, count);
}

/* ---- in front of the doors ----------------------------------------------------------------------------- */

struct question {
	struct upstream_source source; /* with its key */
	bool local;
};

static bool source_is(struct question *q, enum upstream_kind kind, const char *base, struct str id, struct str revision)
{
	struct upstream_source *s = &q->source;
	struct digest d;
	char named[256];
	s->kind = kind;
	if (!base[0] || !str_copy(str_from(base), s->base, sizeof s->base) || !snapshot_name(id, s->to_name))
		return false;
	if (kind == UPSTREAM_OLLAMA && !memchr(id.base, '/', id.len))
		snprintf(named, sizeof named, "library/%.*s", (int)(id.len < 200 ? id.len : 200), id.base);
	else if (!str_copy(id, named, sizeof named))
		return false;
	/* A manifest by its digest is never new: it comes with the tag or index that names it. */
	if (!digest_parse(revision, &d) || !oci_tag_valid(revision))
		return false;
	str_copy(str_from(named), s->id, sizeof s->id);
	str_copy(revision, s->revision, sizeof s->revision);
	str_copy(revision, s->to_tag, sizeof s->to_tag);
	snprintf(s->who, sizeof s->who, "mirror");
	return key_of(kind, s->to_name, s->to_tag, s->key);
}

/* Which of the mirrored places would know what this request is about. */
static bool question_of(struct state *s, const struct http_exchange *x, struct question *q)
{
	struct str path = http_path(x);
	if (!str_equal(http_method(x), STR("GET")) && !str_equal(http_method(x), STR("HEAD")))
		return false;
	if (str_starts(path, STR("/v2/"))) {
		const char *found = memmem(path.base, path.len, "/manifests/", 11);
		if (!found)
			return false;
		size_t end = (size_t)(found - path.base);
		struct str id = {path.base + 4, end - 4}, revision = {found + 11, path.len - end - 11};
		if (end < 5 || memchr(revision.base, '/', revision.len))
			return false;
		return ollama_asks(x) && s->ollama[0] ? source_is(q, UPSTREAM_OLLAMA, s->ollama, id, revision)
		                                      : source_is(q, UPSTREAM_OCI, s->oci, id, revision);
	}
	struct hf_path p = hf_path_parse(path);
	bool one = p.ask == HF_INFO || p.ask == HF_TREE || p.ask == HF_FILE;
	return one && source_is(q, UPSTREAM_HF, s->hf, p.id, p.revision);
}

static void see_tag(void *arg, struct str tag)
{
	*(bool *)arg = true;
}

/* There is something here to give. Any tag is good enough for "main" (snapshot.h), so which one need not be found. */
static bool is_local(struct state *s, const struct upstream_source *source)
{
	char tag[129];
	struct digest d;
	bool any = false;
	struct catalog *catalog = s->m.r->catalog;
	struct str name = str_from(source->to_name), revision = str_from(source->revision);
	if (!catalog_has_repo(catalog, name))
		return false;
	if (!str_equal(revision, STR("main")))
		return !snapshot_find(catalog, name, revision, tag, &d, NULL);
	catalog_tags(catalog, name, STR(""), 1, see_tag, &any, NULL);
	return any;
}

static const struct error *failed_lately(const struct state *s, const char *key)
{
	for (size_t i = 0; i < FAILED_MAX; i++)
		if (s->failed[i].until_us > clock_mono_us() && !strcmp(s->failed[i].key, key))
			return &s->failed[i].err;
	return NULL;
}

static void on_waiter_gone(void *arg)
{
	struct waiter *w = arg;
	struct waiter **at = &w->ask->waiters;
	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
	w->ask->s->waiter_count--;
	free(w);
}

static void wait_for(struct ask *a, struct http_exchange *x, mirror_then *then)
{
	struct waiter *w = NEW(struct waiter);
	*w = (struct waiter){a->waiters, a, x, then};
	a->waiters = w;
	a->s->waiter_count++;
	http_watch(x, NULL, on_waiter_gone, w);
}

static struct ask *find_ask(struct state *s, const char *key)
{
	for (struct ask *a = s->asks; a; a = a->next)
		if (!strcmp(a->source.key, key))
			return a;
	return NULL;
}

/* Something was pushed here under the name: who may have the same name elsewhere does not add to it. */
static bool is_own(struct state *s, const char *name)
{
	return catalog_has_repo(s->m.r->catalog, str_from(name)) && !origins_knows(s->m.origins, str_from(name));
}

static bool must_ask(struct state *s, struct question *q)
{
	int64_t asked = origins_asked(s->m.origins, str_from(q->source.key)), now = clock_wall_us();
	q->local = is_local(s, &q->source);
	if (!asked && (q->local || is_own(s, q->source.to_name)))
		return false;
	return !(q->local && now - asked < s->fresh_us && now >= asked);
}

bool mirror_first(struct repository *r, struct http_exchange *x, mirror_then *then)
{
	struct state *s = (struct state *)r->mirror;
	struct question q = {0};
	if (!s || s->stopped || !question_of(s, x, &q))
		return false;
	if (access_check(r, x, str_from(q.source.to_name), ACCESS_PULL, NULL) || !must_ask(s, &q))
		return false; /* the door says what is to be said */
	struct ask *a = find_ask(s, q.source.key);
	const struct error *failure = a ? NULL : failed_lately(s, q.source.key);
	if (failure && !q.local && failure->code != E_NOTFOUND) {
		through_fail(x, failure);
		return true;
	}
	if (failure || (a && a->collect) || (!a && s->ask_count >= ASKS_MAX) || s->waiter_count >= WAITERS_MAX)
		return false; /* what is here has to do */
	if (!a) {
		q.source.tag_at_once = !names_version(r, str_from(q.source.to_name), str_from(q.source.to_tag), NULL);
		a = ask_new(s, &q.source);
		a->local = q.local;
	}
	wait_for(a, x, then);
	return true;
}

/* ---- imports --------------------------------------------------------------------------------------------- */

static void on_import_gone(void *arg)
{
	struct ask *a = arg;
	log_info("repository", "import of %s:%s given up: nobody waits for it; what came is kept", a->source.to_name,
	         a->source.to_tag);
	ask_stop(a);
	ask_free(a);
}

static void on_import_writable(void *arg)
{
	((struct ask *)arg)->full = false;
}

static void on_tell(void *arg)
{
	struct state *s = arg;
	for (struct ask *a = s->asks; a; a = a->next) {
		struct buf json = {0};
		if (!a->x || a->full)
			continue;
		if (a->collect)
			collect_format(a->collect, &json);
		else
			buf_append_str(&json, STR("{}"));
		say(a, "progress", buf_str(&json));
		buf_fini(&json);
	}
}

struct importing {
	struct repository *r;
	char who[64];
};

static int read_import(struct state *s, yyjson_val *root, struct upstream_source *source, struct error *err)
{
	struct str from = {0}, to = {0}, include = {0}, sha256 = {0};
	if (!yyjson_is_obj(root))
		return error_set(err, E_INVAL, "send a JSON object");
	int rc = json_str(root, "from", &from, err);
	if (!rc)
		rc = json_str(root, "to", &to, err);
	if (!rc)
		rc = json_str(root, "include", &include, err);
	if (!rc)
		rc = json_str(root, "sha256", &sha256, err);
	if (!rc)
		rc = upstream_parse(from, str_from(s->hf[0] ? s->hf : HF), str_from(s->ollama[0] ? s->ollama : OLLAMA),
		                    source, err);
	if (!rc && to.len)
		rc = versions_name(to, source->to_name, source->to_tag, err);
	if (!rc && !str_copy(include, source->include, sizeof source->include))
		rc = error_set(err, E_INVAL, "`include` is too long");
	if (!rc && include.len && source->kind != UPSTREAM_HF)
		rc = error_set(err, E_INVAL, "`include` is for hf: sources; others are taken whole");
	if (!rc && source->kind == UPSTREAM_FILE && hex_decode(sha256, source->sha256.bytes, DIGEST_SIZE))
		rc = error_set(
		    err, E_INVAL,
		    "say what the file must be with --sha256 (\"sha256\"), 64 hex digits: nothing else vouches for it");
	return rc ? rc : hub_allows(s->m.hub, str_from(source->base), err);
}

static void on_import_body(void *arg, struct http_exchange *x, struct str body, const struct error *failure)
{
	struct importing *i = arg;
	struct repository *r = i->r;
	struct state *s = (struct state *)r->mirror;
	struct error err = {0};
	struct upstream_source source = {0};
	yyjson_doc *doc = NULL;
	int rc = failure ? error_set(&err, failure->code, "%s", failure->text)
	         : r->freed || !s || s->stopped
	             ? error_set(&err, E_UNAVAILABLE, "the repository stops; ask again in a moment")
	             : json_parse(body, &doc, &err);
	if (!rc)
		rc = read_import(s, yyjson_doc_get_root(doc), &source, &err);
	if (!rc && s->ask_count >= ASKS_MAX)
		rc = error_set(&err, E_BUSY, "%d things are being fetched from elsewhere; try again later", ASKS_MAX);
	yyjson_doc_free(doc);
	if (rc) {
		http_respond_error(x, &err);
	} else {
		memcpy(source.who, i->who, sizeof i->who);
		struct ask *a = ask_new(s, &source);
		a->x = x;
		http_respond_begin(x, 200, "text/event-stream", -1);
		http_watch(x, on_import_writable, on_import_gone, a);
	}
	free(i);
	repository_release(r);
}

bool mirror_import(struct repository *r, struct http_exchange *x)
{
	struct error err = {0};
	if (!str_equal(http_path(x), STR(VERSIONS_PATH "import")))
		return false;
	if (!str_equal(http_method(x), STR("POST"))) {
		error_set(&err, E_METHOD, "import is called with POST");
		http_respond_error(x, &err);
		return true;
	}
	struct importing *i = NEW(struct importing);
	i->r = r;
	access_who(r, x, i->who);
	r->refs++;
	http_body_collect(x, BODY_MAX, on_import_body, i);
	return true;
}

/* ---- life ---------------------------------------------------------------------------------------------------- */

static char *base_of(struct str url)
{
	while (url.len && url.base[url.len - 1] == '/')
		url.len--;
	return str_dup(url);
}

int mirror_new(struct repository *r, const struct repository_mirror *options, struct error *err)
{
	struct outside_options oo = {.allowed = options->allowed, .proxy = options->proxy, .ca_file = options->ca_file};
	struct outside *outside = NULL;
	struct state *s = NEW(struct state);
	char *folder = str_dup(options->folder), *file = NULL;
	s->m.r = r;
	s->m.on_blob = on_blob;
	s->hf = base_of(options->hf);
	s->ollama = base_of(options->ollama);
	s->oci = base_of(options->oci);
	s->fresh_us = options->fresh_us;
	int rc = folder_make(folder, 0700, err);
	if (!rc) {
		file = file_join(str_from(folder), "origins.db");
		rc = origins_open(str_from(file), &s->m.origins, err);
	}
	if (!rc)
		rc = outside_new(r->loop, &oo, &outside, err);
	if (!rc)
		rc = hub_new(outside, options->keys, &s->m.hub, err);
	if (rc)
		outside_free(outside);
	const char *const bases[] = {s->hf, s->ollama, s->oci};
	for (size_t i = 0; i < 3 && !rc; i++)
		if (bases[i][0] && (rc = hub_allows(s->m.hub, str_from(bases[i]), err)))
			error_prefix(err, "a mirror of %s", bases[i]);
	s->tell = loop_timer_new(r->loop, on_tell, s);
	loop_timer_start(s->tell, TELL_US, TELL_US);
	free(folder);
	free(file);
	r->mirror = &s->m;
	if (rc)
		mirror_free(r);
	return rc;
}

void mirror_free(struct repository *r)
{
	struct state *s = (struct state *)r->mirror;
	struct error err = {0};
	if (!s || s->stopped)
		return;
	s->stopped = true;
	error_set(&err, E_UNAVAILABLE, "the repository stops; ask again in a moment");
	while (s->asks) {
		struct ask *a = s->asks;
		ask_stop(a);
		while (a->waiters) {
			struct waiter *w = a->waiters;
			a->waiters = w->next;
			http_watch(w->x, NULL, NULL, NULL);
			through_fail(w->x, &err);
			free(w);
		}
		say_end(a, &err);
		ask_free(a);
	}
	through_fini(&s->m);
	hub_free(s->m.hub);
	s->m.hub = NULL;
	loop_timer_free(s->tell);
}

void mirror_drop(struct repository *r)
{
	struct state *s = (struct state *)r->mirror;
	if (!s)
		return;
	origins_close(s->m.origins);
	free(s->hf);
	free(s->ollama);
	free(s->oci);
	free(s);
	r->mirror = NULL;
}
