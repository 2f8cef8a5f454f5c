/* SPDX-License-Identifier: Apache-2.0 */
/* Paths, access and the shape of errors. Clients read X-Error-Code, not the status: RepoNotFound (also: no key, so that
 * nobody learns which private names exist), RevisionNotFound, EntryNotFound, GatedRepo (a key, but not for this).
 *
 * No header of Xet is ever sent, and bytes go out as they are, so clients take files by plain HTTP and by range. */
#include "serve/repository/hf.h"

#include "base/limits.h"
#include "serve/repository/access.h"
#include "serve/repository/hf_private.h"

#include <stdio.h>
#include <stdlib.h>

#define FORM_MAX (1u << 20)

/* ---- errors ---------------------------------------------------------------------------------- */

void hf_error(struct http_exchange *x, int status, const char *code, const char *message)
{
	char words[512];
	struct buf body = {0};
	snprintf(words, sizeof words, "%s", message);
	str_blank_controls(words, strlen(words));
	if (code)
		http_add_header(x, "X-Error-Code", str_from(code));
	http_add_header(x, "X-Error-Message", str_from(words));
	buf_append_str(&body, STR("{\"error\":"));
	buf_append_json(&body, str_from(words));
	buf_append_str(&body, STR("}\n"));
	http_respond(x, status, "application/json", buf_str(&body));
	buf_fini(&body);
}

static void not_here(struct http_exchange *x, const char *words)
{
	hf_error(x, 404, "RepoNotFound", words);
}

/* Answers and returns false when the caller may not read it. */
static bool may_read(struct repository *r, struct http_exchange *x, struct str name)
{
	struct error err = {0};
	int rc = access_check(r, x, name, ACCESS_PULL, &err);
	if (rc == E_AUTH && access_has_key(x)) /* these very words tell the client that the key is at fault */
		hf_error(x, 401, NULL, "Invalid credentials in Authorization header");
	else if (rc == E_AUTH)
		hf_error(x, 401, "RepoNotFound", err.text);
	else if (rc)
		hf_error(x, error_http_status(rc), "GatedRepo", err.text);
	return !rc;
}

/* ---- a request ------------------------------------------------------------------------------- */

static void hf_task_free(struct hf_task *h)
{
	blob_file_close(h->blob);
	version_fini(&h->version);
	buf_fini(&h->form);
	buf_fini(&h->body);
	buf_fini(&h->link);
	free(h);
}

static int find(struct hf_task *h)
{
	struct task *t = &h->t;
	struct catalog *catalog = t->r->catalog;
	struct str name = str_from(t->repo);
	char tag[129];
	struct digest manifest;
	h->code = "RepoNotFound";
	if (!catalog_has_repo(catalog, name))
		return error_set(&t->err, E_NOTFOUND, "there is no model %s here", t->repo);
	h->code = "RevisionNotFound";
	int rc = snapshot_find(catalog, name, str_from(h->revision), tag, &manifest, &t->err);
	if (!rc)
		rc = snapshot_read(t->r->store, catalog, name, str_from(tag), &manifest, &h->version, &t->err);
	if (rc)
		return rc;
	snapshot_commit(&manifest, h->commit);
	h->code = "EntryNotFound";
	return 0;
}

static void work(struct task *t)
{
	static int (*const works[])(struct hf_task * h) = {
	    [HF_FILE] = hf_file_work,   [HF_INFO] = hf_info_work, [HF_TREE] = hf_tree_work,
	    [HF_PATHS] = hf_paths_work, [HF_REFS] = hf_refs_work, [HF_COMMITS] = hf_commits_work,
	    [HF_LIST] = hf_list_work,
	};
	struct hf_task *h = (struct hf_task *)t;
	t->rc = h->ask == HF_LIST ? 0 : find(h);
	if (!t->rc)
		t->rc = h->filtered ? hf_list_format(h) : works[h->ask](h);
}

static void done(struct task *t)
{
	struct hf_task *h = (struct hf_task *)t;
	struct http_exchange *x = t->x;
	if (!t->rc && h->ask == HF_LIST && !h->filtered) {
		hf_list_filter(h);
		h->filtered = true;
		task_run(t, work, done);
		return;
	}
	if (h->commit[0])
		http_add_header(x, "X-Repo-Commit", str_from(h->commit));
	if (t->rc) {
		hf_error(x, error_http_status(t->rc), t->rc == E_NOTFOUND ? h->code : NULL, t->err.text);
	} else if (h->ask == HF_FILE) {
		hf_file_answer(h);
	} else {
		if (h->link.len)
			http_add_header(x, "Link", buf_str(&h->link));
		http_respond(x, 200, "application/json; charset=utf-8", buf_str(&h->body));
	}
	hf_task_free(h);
}

/* The address the client knows us by, for links, which this client needs absolute. */
static void take_base(struct http_exchange *x, char *to, size_t size)
{
	struct str host = STR("localhost"), scheme = STR("http");
	http_header(x, "host", &host);
	http_header(x, "x-forwarded-proto", &scheme); /* of a proxy that ends TLS in front of us */
	bool tls = str_equal(scheme, STR("https"));
	for (size_t i = 0; i < host.len; i++)
		if (host.base[i] <= ' ' || strchr("<>\"/\\?#@", host.base[i]))
			host = STR("localhost");
	snprintf(to, size, "http%s://" STR_FMT, tls ? "s" : "", (int)(host.len < 256 ? host.len : 256), host.base);
}

static bool query_is_true(struct http_exchange *x, const char *name)
{
	struct str value;
	return http_query(x, name, &value) && (str_equal_nocase(value, STR("true")) || str_equal(value, STR("1")));
}

static size_t query_number(struct http_exchange *x, const char *name, size_t most, size_t otherwise)
{
	struct str text;
	uint64_t n;
	if (!http_query(x, name, &text) || str_to_u64(text, &n))
		return otherwise;
	return n < most ? (size_t)n : most;
}

static struct hf_task *hf_task_new(struct repository *r, struct http_exchange *x, enum hf_ask ask, struct str id,
                                   const char *name)
{
	struct hf_task *h = task_new(r, x, str_from(name), sizeof *h);
	h->ask = ask;
	h->head = str_equal(http_method(x), STR("HEAD"));
	str_copy(id, h->id, sizeof h->id);
	take_base(x, h->base, sizeof h->base);
	return h;
}

/* Answers and returns NULL when there is no such thing to ask for or the caller may not. */
static struct hf_task *begin(struct repository *r, struct http_exchange *x, const struct hf_path *p)
{
	char name[REPO_NAME_SIZE];
	if (!snapshot_name(p->id, name)) {
		not_here(x, "that cannot be the name of a model here");
		return NULL;
	}
	if (!may_read(r, x, str_from(name)))
		return NULL;
	struct hf_task *h = hf_task_new(r, x, p->ask, p->id, name);
	bool fits =
	    str_copy(p->revision, h->revision, sizeof h->revision) && str_copy(p->path, h->path, sizeof h->path);
	if (fits && strlen(h->revision) == p->revision.len && strlen(h->path) == p->path.len) /* no NUL within */
		return h;
	hf_task_free(h);
	hf_error(x, 404, "EntryNotFound", "no revision or file has such a name");
	return NULL;
}

/* ---- what is asked ----------------------------------------------------------------------------------- */

static void paths_body(void *arg, struct http_exchange *x, struct str body, const struct error *err)
{
	struct hf_task *h = arg;
	struct repository *r = h->t.r;
	if (!err && !r->freed) {
		buf_append_str(&h->form, body);
		task_run(&h->t, work, done);
	} else {
		hf_error(x, err ? error_http_status(err->code) : 503, NULL,
		         err ? err->text : "the repository stops; ask again in a moment");
		hf_task_free(h);
	}
	repository_release(r);
}

static void ask_model(struct repository *r, struct http_exchange *x, const struct hf_path *p)
{
	struct hf_task *h = begin(r, x, p);
	if (!h)
		return;
	h->recursive = query_is_true(x, "recursive");
	h->limit = query_number(x, "limit", HF_PAGE_MAX, HF_PAGE_MAX);
	h->cursor = query_number(x, "cursor", SIZE_MAX / 2, 0);
	h->blobs = query_is_true(x, "blobs");
	if (p->ask == HF_PATHS) {
		r->refs++;
		http_body_collect(x, FORM_MAX, paths_body, h);
	} else {
		task_run(&h->t, work, done);
	}
}

static void list(struct repository *r, struct http_exchange *x)
{
	static const struct {
		const char *query;
		size_t at;
	} texts[] = {{"search", offsetof(struct hf_task, search)},
	             {"author", offsetof(struct hf_task, author)},
	             {"cursor", offsetof(struct hf_task, after)}};
	struct hf_task *h = hf_task_new(r, x, HF_LIST, STR(""), "");
	h->limit = query_number(x, "limit", HF_PAGE_MAX, HF_PAGE_MAX);
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
		struct str value = STR("");
		http_query(x, texts[i].query, &value);
		str_copy(value, (char *)h + texts[i].at, sizeof h->search);
	}
	task_run(&h->t, work, done);
}

static void whoami(struct repository *r, struct http_exchange *x)
{
	char tenant[32];
	struct buf body = {0};
	if (!access_has_key(x)) {
		hf_error(x, 401, NULL, "an API key of this network is needed: `mdn key new NAME` makes one");
		return;
	}
	access_tenant(r, x, tenant);
	if (!tenant[0]) {
		hf_error(x, 401, NULL, "Invalid credentials in Authorization header");
		return;
	}
	buf_printf(&body,
	           "{\"type\":\"user\",\"id\":\"%s\",\"name\":\"%s\",\"fullname\":\"%s\",\"orgs\":[],\"auth\":{"
	           "\"type\":\"access_token\",\"accessToken\":{\"displayName\":\"%s\",\"role\":\"read\"}}}\n",
	           tenant, tenant, tenant, tenant);
	http_respond(x, 200, "application/json", buf_str(&body));
	buf_fini(&body);
}

static bool is_allowed(struct http_exchange *x, enum hf_ask ask)
{
	struct str method = http_method(x);
	if (ask == HF_PATHS ? str_equal(method, STR("POST"))
	                    : str_equal(method, STR("GET")) || str_equal(method, STR("HEAD")))
		return true;
	http_add_header(x, "Allow", ask == HF_PATHS ? STR("POST") : STR("GET, HEAD"));
	hf_error(x, 405, NULL, "models are put here by `mdn push` or an OCI client; this door is for reading");
	return false;
}

bool hf_handle(struct repository *r, struct http_exchange *x)
{
	struct hf_path p = hf_path_parse(http_path(x));
	if (p.ask == HF_NOTHING)
		return false;
	if (!is_allowed(x, p.ask))
		return true;
	if (p.ask == HF_OTHER)
		not_here(x, "this repository has models only, no datasets and spaces");
	else if (p.ask == HF_WHOAMI)
		whoami(r, x);
	else if (p.ask == HF_LIST)
		list(r, x);
	else
		ask_model(r, x, &p);
	return true;
}
