/* SPDX-License-Identifier: Apache-2.0 */
/* Which path is whose, and the shape of errors. The paths of the distribution-spec end in a fixed form and begin with a
 * name of any depth, so they are matched from their end:
 *
 *   /v2/                                  blobs.c:     /v2/NAME/blobs/DIGEST
 *   uploads.c: /v2/NAME/blobs/uploads/[ID]   manifests.c: /v2/NAME/manifests/REFERENCE   tags.c: /v2/NAME/tags/list
 *   referrers.c: /v2/NAME/referrers/DIGEST
 */
#include "serve/repository/access.h"
#include "serve/repository/hf.h"
#include "serve/repository/mirror.h"
#include "serve/repository/ollama.h"
#include "serve/repository/quantize.h"
#include "serve/repository/repository_private.h"
#include "serve/repository/versions.h"

#include "store/ociname.h"

#include <stdlib.h>

int repository_new(struct loop *loop, const struct repository_options *options, struct repository **ret_repository,
                   struct error *err)
{
	struct repository *r = NEW(struct repository);
	r->loop = loop;
	r->refs = 1;
	r->store = options->store;
	r->catalog = options->catalog;
	r->chunk_size = options->chunk_size ? options->chunk_size : CHUNK_SIZE_DEFAULT;
	r->upload_idle_us = options->upload_idle_us ? options->upload_idle_us : 3600 * INT64_C(1000000);
	if (r->chunk_size > CHUNK_SIZE_MAX) {
		free(r);
		return error_set(err, E_INVAL, "chunks of a repository are at most 64 MiB");
	}
	int rc = ollama_init(r, options->secret_path, err);
	if (rc) {
		free(r);
		return rc;
	}
	access_init(r, options);
	uploads_init(r);
	quantize_init(r, options);
	if (options->mirror.folder.len && (rc = mirror_new(r, &options->mirror, err))) {
		repository_free(r);
		return rc;
	}
	*ret_repository = r;
	return 0;
}

void repository_free(struct repository *r)
{
	if (!r)
		return;
	r->freed = true;
	feed_fini(r);
	uploads_fini(r);
	quantize_fini(r);
	mirror_free(r);
	buf_fini(&r->feed);
	access_fini(r);
	ollama_fini(r);
	repository_release(r);
}

void repository_release(struct repository *r)
{
	if (--r->refs)
		return;
	mirror_drop(r);
	free(r);
}

/* ---- tasks ----------------------------------------------------------------------------------- */

void *task_new(struct repository *r, struct http_exchange *x, struct str repo, size_t size)
{
	struct task *t = mem_new(size);
	t->r = r;
	t->x = x;
	str_copy(repo, t->repo, sizeof t->repo);
	return t;
}

static void task_work(void *arg)
{
	struct task *t = arg;
	t->work(t);
}

static void task_done(void *arg)
{
	struct task *t = arg;
	struct repository *r = t->r;
	t->done(t);
	repository_release(r);
}

void task_run(struct task *t, void (*work)(struct task *t), void (*done)(struct task *t))
{
	t->work = work;
	t->done = done;
	t->r->refs++;
	loop_job(t->r->loop, task_work, task_done, t);
}

/* ---- errors ---------------------------------------------------------------------------------- */

void oci_error(struct http_exchange *x, int status, const char *code, const char *message)
{
	struct buf body = {0};
	buf_printf(&body, "{\"errors\":[{\"code\":\"%s\",\"message\":", code);
	buf_append_json(&body, str_from(message));
	buf_append_str(&body, STR("}]}\n"));
	http_respond(x, status, "application/json", buf_str(&body));
	buf_fini(&body);
}

void oci_fail(struct http_exchange *x, const char *code, const struct error *err)
{
	oci_error(x, error_http_status(err->code), err->code == E_FORBIDDEN ? "DENIED" : code, err->text);
}

void oci_refuse(struct repository *r, struct http_exchange *x, const struct error *err)
{
	if (err->code != E_AUTH) {
		oci_error(x, error_http_status(err->code), "DENIED", err->text);
		return;
	}
	struct buf challenge = {0};
	if (!ollama_challenge(r, x, &challenge))
		access_challenge(r, x, &challenge);
	http_add_header(x, "WWW-Authenticate", buf_str(&challenge));
	buf_fini(&challenge);
	oci_error(x, 401, "UNAUTHORIZED", err->text);
}

void oci_method(struct http_exchange *x, const char *allowed)
{
	http_add_header(x, "Allow", str_from(allowed));
	oci_error(x, 405, "UNSUPPORTED", "this method is not offered here");
}

/* ---- paths ----------------------------------------------------------------------------------- */

/* Cuts the last part off: "a/b/c" -> "a/b" and "c". */
static struct str cut_last(struct str *path)
{
	size_t i = path->len;
	while (i && path->base[i - 1] != '/')
		i--;
	struct str last = {path->base + i, path->len - i};
	path->len = i ? i - 1 : 0;
	return last;
}

static bool is_read(struct http_exchange *x)
{
	return str_equal(http_method(x), STR("GET")) || str_equal(http_method(x), STR("HEAD"));
}

/* Clients learn here whether and how to log in, and take the answer for all that follows. */
static void route_ping(struct repository *r, struct http_exchange *x)
{
	struct error err = {0};
	if (!is_read(x))
		oci_method(x, "GET, HEAD");
	else if (access_ping(r, x, &err))
		oci_refuse(r, x, &err);
	else
		http_respond(x, 200, "application/json", STR("{}\n"));
}

/* The token service of Docker's registry protocol, for clients that want one: who has a key gets it back as the token,
 * who has none gets one that stands for nobody. So anonymous pulls work where pushes need a login. */
static void route_token(struct repository *r, struct http_exchange *x)
{
	struct error err = {0};
	struct buf body = {0};
	if (!is_read(x))
		oci_method(x, "GET, HEAD");
	else if (access_token(r, x, &body, &err))
		oci_refuse(r, x, &err);
	else
		http_respond(x, 200, "application/json", buf_str(&body));
	buf_fini(&body);
}

static void get_blob(struct repository *r, struct http_exchange *x, struct str repo, struct str digest)
{
	ollama_add_location(r, x, repo, digest);
	if (!ollama_config(r, x, repo, digest))
		blobs_handle(r, x, repo, digest);
}

/* rest: what follows "/v2/". */
static void route(struct repository *r, struct http_exchange *x, struct str rest)
{
	struct str repo = rest, last = cut_last(&repo), kind = cut_last(&repo);
	struct str before = repo, before_kind = cut_last(&before);
	struct error err = {0};
	enum { UPLOADS, BLOBS, MANIFESTS, REFERRERS, TAGS, NONE } where = NONE;
	if (str_equal(kind, STR("uploads")) && str_equal(before_kind, STR("blobs"))) {
		where = UPLOADS;
		repo = before;
	} else if (str_equal(kind, STR("blobs"))) {
		where = BLOBS;
		if (str_equal(last, STR("uploads"))) { /* the trailing slash forgotten */
			where = UPLOADS;
			last = STR("");
		}
	} else if (str_equal(kind, STR("manifests"))) {
		where = MANIFESTS;
	} else if (str_equal(kind, STR("referrers"))) {
		where = REFERRERS;
	} else if (str_equal(kind, STR("tags")) && str_equal(last, STR("list"))) {
		where = TAGS;
	}
	repo = ollama_name(repo);
	if (where == NONE)
		oci_error(x, 404, "UNSUPPORTED", "there is no such endpoint");
	else if (!oci_repo_valid(repo))
		oci_error(x, 400, "NAME_INVALID",
		          "a repository name is at most 128 lower case letters, digits and separators");
	else if (!(where == BLOBS && ollama_is_signed(r, x, repo, last)) &&
	         access_check(r, x, repo, is_read(x) ? ACCESS_PULL : ACCESS_PUSH, &err))
		oci_refuse(r, x, &err);
	else if (where == UPLOADS)
		uploads_handle(r, x, repo, last);
	else if (where == BLOBS)
		get_blob(r, x, repo, last);
	else if (where == MANIFESTS && !ollama_manifest(r, x, repo, last))
		manifests_handle(r, x, repo, last);
	else if (where == REFERRERS)
		referrers_handle(r, x, repo, last);
	else if (where == TAGS)
		tags_handle(r, x, repo);
}

static bool dispatch(struct repository *r, struct http_exchange *x)
{
	struct str path = http_path(x);
	if (str_equal(path, STR("/mdn/v1/catalog"))) {
		struct error err = {0};
		if (access_check(r, x, STR(""), ACCESS_PULL, &err))
			http_respond_error(x, &err);
		else
			feed_handle(r, x);
		return true;
	}
	if (mirror_import(r, x) || versions_handle(r, x))
		return true;
	if (str_equal(path, STR(OLLAMA_TOKEN_PATH))) {
		ollama_token(r, x);
		return true;
	}
	bool ping = str_equal(path, STR("/v2")) || str_equal(path, STR("/v2/"));
	if (!ping && !str_starts(path, STR("/v2/")))
		return hf_handle(r, x);
	http_add_header(x, "Docker-Distribution-API-Version", STR("registry/2.0"));
	if (ping)
		route_ping(r, x);
	else if (str_equal(path, STR("/v2/token")))
		route_token(r, x);
	else
		route(r, x, (struct str){path.base + 4, path.len - 4});
	return true;
}

/* A waiting request whose manifest has come. */
static void dispatch_again(struct repository *r, struct http_exchange *x)
{
	dispatch(r, x);
}

bool repository_handle(struct repository *r, struct http_exchange *x)
{
	return mirror_first(r, x, dispatch_again) || dispatch(r, x);
}
