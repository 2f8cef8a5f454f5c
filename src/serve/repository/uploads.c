/* SPDX-License-Identifier: Apache-2.0 */
/* Blob uploads (distribution-spec end-4, 5, 6, 11, 13, 14): whole in one POST or PUT, in chunks by PATCH, or mounted.
 *
 * A writer is a request whose body goes into an upload. Bytes collect in `coming` while a job hashes and writes
 * `going`; past COMING_MAX the body is paused, so an upload costs two buffers however fast it comes. What was written
 * counts: a PATCH that breaks off leaves its bytes, GET tells how far it came, and the next PATCH goes on from there.
 * One writer an upload at a time. An upload that was begun by POST outlives the process, by a crash too: its offset is
 * its file's size, and it is read once more (for the hash) when somebody goes on with it.
 */
#include "serve/repository/access.h"
#include "serve/repository/model.h"
#include "serve/repository/ollama.h"
#include "serve/repository/repository_private.h"

#include "base/limits.h"
#include "base/log.h"
#include "store/ociname.h"

#include <stdio.h>
#include <stdlib.h>

#define COMING_MAX (1u << 20)
#define UPLOAD_BYTES_MAX ((uint64_t)LIMIT_CHUNKS * CHUNK_SIZE_MAX)

struct writer;

struct upload {
	struct upload *next, **link;
	struct repository *r;
	struct blob_upload *blob; /* NULL: left by an earlier run, and opened when somebody asks for it */
	bool waking;
	char id[33];
	char repo[REPO_NAME_SIZE];
	uint64_t offset; /* blob_upload_offset, which only the writer's job may ask while one runs */
	int64_t used_us;
	struct writer *writer; /* NULL: nobody writes */
};

struct writer {
	struct task t;
	struct upload *upload; /* NULL once `blob` is being finished: the id is used up then */
	struct blob_upload *blob;
	struct buf coming, going;
	bool in_job, paused, ended;
	struct error broke; /* how the body ended; code 0: well */
	bool finishes;      /* this request ends the upload under `claimed` */
	bool alone;         /* nobody knows the upload's id: it goes when this request fails */
	struct digest_name claimed;
};

/* ---- the list -------------------------------------------------------------------------------- */

static struct upload *upload_add(struct repository *r, struct blob_upload *blob, const char *id, struct str repo)
{
	struct upload *u = NEW(struct upload);
	*u = (struct upload){
	    .next = r->uploads, .link = &r->uploads, .r = r, .blob = blob, .used_us = loop_now_us(r->loop)};
	str_copy(repo, u->repo, sizeof u->repo);
	str_copy(str_from(id), u->id, sizeof u->id);
	if (u->next)
		u->next->link = &u->next;
	r->uploads = u;
	return u;
}

static void upload_remove(struct upload *u)
{
	if (u->next)
		u->next->link = u->link;
	*u->link = u->next;
	u->r->upload_count--;
	free(u);
}

static struct upload *upload_find(struct repository *r, struct str repo, struct str id)
{
	for (struct upload *u = r->uploads; u; u = u->next)
		if (str_equal(str_from(u->id), id) && str_equal(str_from(u->repo), repo))
			return u;
	return NULL;
}

/* Removing a large file can take a while: a job, too. */
struct abort_task {
	struct task t;
	struct blob_upload *blob;
	char id[33];
};

static void abort_work(struct task *t)
{
	struct abort_task *a = (struct abort_task *)t;
	if (a->blob)
		blob_upload_abort(a->blob);
	else
		blob_upload_drop(t->r->store, a->id);
}

static void abort_done(struct task *t)
{
	if (t->x)
		http_respond(t->x, 204, NULL, STR(""));
	free(t);
}

/* x: who asked for it; NULL: nobody. */
static void upload_abort(struct upload *u, struct http_exchange *x)
{
	struct abort_task *a = task_new(u->r, x, str_from(u->repo), sizeof *a);
	a->blob = u->blob;
	memcpy(a->id, u->id, sizeof a->id);
	upload_remove(u);
	task_run(&a->t, abort_work, abort_done);
}

/* For the next run, which begins where it stopped. */
static void upload_leave(struct upload *u)
{
	if (u->blob)
		blob_upload_close(u->blob);
	upload_remove(u);
}

static void drop_idle(void *arg)
{
	struct repository *r = arg;
	int64_t now = loop_now_us(r->loop);
	for (struct upload *u = r->uploads, *next; u; u = next) {
		next = u->next;
		if (u->writer || u->waking || now - u->used_us < r->upload_idle_us)
			continue;
		log_info("repository", "an upload to %s was given up after %llu bytes: nobody went on with it", u->repo,
		         (unsigned long long)u->offset);
		upload_abort(u, NULL);
	}
}

static void take_kept(void *arg, const char *id, struct str note)
{
	struct repository *r = arg;
	if (r->upload_count >= LIMIT_UPLOADS || !oci_repo_valid(note)) {
		blob_upload_drop(r->store, id);
		return;
	}
	r->upload_count++;
	upload_add(r, NULL, id, note);
}

void uploads_init(struct repository *r)
{
	blob_upload_each_kept(r->store, take_kept, r);
	int64_t every = r->upload_idle_us / 4;
	r->upload_timer = loop_timer_new(r->loop, drop_idle, r);
	loop_timer_start(r->upload_timer, every, every);
}

/* ---- answers --------------------------------------------------------------------------------- */

static void add_location(struct http_exchange *x, const struct upload *u)
{
	char location[256], range[32];
	snprintf(location, sizeof location, "/v2/%s/blobs/uploads/%s", u->repo, u->id);
	snprintf(range, sizeof range, "0-%llu", (unsigned long long)(u->offset ? u->offset - 1 : 0));
	http_add_header(x, "Location", str_from(location));
	ollama_add_upload(u->r, x, str_from(location));
	http_add_header(x, "Range", str_from(range));
	http_add_header(x, "Docker-Upload-UUID", str_from(u->id));
}

static void answer_created(struct http_exchange *x, const char *repo, const struct digest_name *name)
{
	char location[384], digest[DIGEST_NAME_SIZE];
	digest_name_format(name, digest);
	snprintf(location, sizeof location, "/v2/%s/blobs/%s", repo, digest);
	http_add_header(x, "Location", str_from(location));
	oci_add_name(x, "Docker-Content-Digest", name);
	http_respond(x, 201, NULL, STR(""));
}

/* ---- a writer -------------------------------------------------------------------------------- */

static void writer_free(struct writer *w)
{
	struct repository *r = w->t.r;
	buf_fini(&w->coming);
	buf_fini(&w->going);
	free(w);
	repository_release(r);
}

/* The request failed; its upload stays where others can go on with it. w->t.err says why. */
static void writer_fail(struct writer *w)
{
	struct http_exchange *x = w->t.x;
	struct upload *u = w->upload;
	u->writer = NULL;
	u->used_us = loop_now_us(u->r->loop);
	if (!w->alone)
		add_location(x, u);
	oci_fail(x,
	         w->t.err.code == E_LIMIT   ? "SIZE_INVALID"
	         : w->t.err.code == E_RANGE ? "RANGE_INVALID"
	                                    : "BLOB_UPLOAD_INVALID",
	         &w->t.err);
	if (w->alone)
		upload_abort(u, NULL);
	else if (u->r->freed)
		upload_leave(u);
	writer_free(w);
}

static int finish_sha256(struct writer *w, struct digest *ret_digest)
{
	struct task *t = &w->t;
	struct chunk_list list = {0};
	struct digest claimed;
	memcpy(claimed.bytes, w->claimed.bytes, DIGEST_SIZE);
	bool listed = blob_upload_list(w->blob, &claimed, &list);
	int rc = blob_upload_finish(w->blob, &claimed, &t->err);
	if (!rc && listed)
		model_keep_list(t->r->store, t->r->catalog, t->r->chunk_size, &list);
	chunk_list_fini(&list);
	*ret_digest = claimed;
	return rc;
}

static int hash_sha512(struct blob_file *f, struct digest_name *ret_name, struct error *err)
{
	int rc = 0;
	uint64_t size = blob_file_size(f);
	char *piece = mem_new(COMING_MAX);
	struct digest_stream *hash = digest_stream_new_sha512();
	for (uint64_t at = 0; !rc && at < size;) {
		size_t n = size - at < COMING_MAX ? (size_t)(size - at) : COMING_MAX;
		rc = blob_file_read(f, at, piece, n, err);
		if (!rc)
			digest_stream_add(hash, piece, n);
		at += n;
	}
	*ret_name = digest_stream_end_sha512(hash);
	digest_stream_free(hash);
	free(piece);
	return rc;
}

/* Content is kept under its SHA-256, so what was claimed is checked by one more reading. What fails is linked nowhere
 * and goes with the next collection. */
static int finish_sha512(struct writer *w, struct digest *ret_digest)
{
	struct task *t = &w->t;
	struct blob_file *f = NULL;
	struct digest_name got;
	int rc = blob_upload_finish_any(w->blob, ret_digest, &t->err);
	if (!rc)
		rc = blob_file_open(t->r->store, ret_digest, &f, &t->err);
	if (!rc)
		rc = hash_sha512(f, &got, &t->err);
	blob_file_close(f);
	if (!rc && !digest_name_equal(&got, &w->claimed))
		rc = error_set(&t->err, E_CORRUPT,
		               "the bytes that arrived have another digest than was claimed; send them again");
	return rc ? rc : catalog_put_name(t->r->catalog, &w->claimed, ret_digest, &t->err);
}

static void finish_work(struct task *t)
{
	struct writer *w = (struct writer *)t;
	struct digest d;
	t->rc = w->claimed.sha512 ? finish_sha512(w, &d) : finish_sha256(w, &d);
	if (!t->rc)
		t->rc = catalog_link_blob(t->r->catalog, str_from(t->repo), &d, &t->err);
}

static void finish_done(struct task *t)
{
	struct writer *w = (struct writer *)t;
	if (t->rc == E_CORRUPT)
		oci_error(t->x, 400, "DIGEST_INVALID", t->err.text);
	else if (t->rc)
		oci_fail(t->x, "BLOB_UPLOAD_INVALID", &t->err);
	else
		answer_created(t->x, t->repo, &w->claimed);
	writer_free(w);
}

/* All bytes are written. */
static void writer_complete(struct writer *w)
{
	struct upload *u = w->upload;
	if (w->broke.code || u->r->freed) {
		w->t.err = w->broke;
		if (!w->broke.code)
			error_set(&w->t.err, E_UNAVAILABLE, "the repository stops; go on with the upload in a moment");
		writer_fail(w);
		return;
	}
	if (w->finishes) {
		w->upload = NULL;
		upload_remove(u);
		task_run(&w->t, finish_work, finish_done);
		return;
	}
	u->writer = NULL;
	u->used_us = loop_now_us(u->r->loop);
	add_location(w->t.x, u);
	http_respond(w->t.x, 202, NULL, STR(""));
	writer_free(w);
}

static void writer_next(struct writer *w);

static void append_work(struct task *t)
{
	struct writer *w = (struct writer *)t;
	t->rc = blob_upload_append(w->blob, buf_str(&w->going), &t->err);
}

static void append_done(struct task *t)
{
	struct writer *w = (struct writer *)t;
	w->in_job = false;
	w->upload->offset = blob_upload_offset(w->blob);
	buf_clear(&w->going);
	if (!t->rc && t->r->freed)
		t->rc = error_set(&t->err, E_UNAVAILABLE, "the repository stops; push again in a moment");
	if (t->rc)
		writer_fail(w); /* answered early: the rest of the body is not read */
	else
		writer_next(w);
}

static void writer_next(struct writer *w)
{
	if (w->in_job)
		return;
	if (w->coming.len) {
		struct buf empty = w->going;
		w->going = w->coming;
		w->coming = empty;
		w->in_job = true;
		task_run(&w->t, append_work, append_done);
		if (w->paused) {
			w->paused = false;
			http_body_resume(w->t.x);
		}
	} else if (w->ended) {
		writer_complete(w);
	}
}

static bool writer_data(void *arg, struct str data)
{
	struct writer *w = arg;
	buf_append_str(&w->coming, data);
	writer_next(w);
	w->paused = w->coming.len >= COMING_MAX;
	return !w->paused;
}

static void writer_end(void *arg, const struct error *err)
{
	struct writer *w = arg;
	w->ended = true;
	if (err)
		w->broke = *err;
	writer_next(w);
}

/* What is too large to be fetched whole may be a model: its chunk list is made as it comes, if its size is known. */
static void expect_chunks(struct upload *u, int64_t length)
{
	uint64_t most = u->r->chunk_size;
	if (u->offset == 0 && length > 0 && (uint64_t)length > most)
		blob_upload_chunk(u->blob, (uint64_t)length, model_chunk_size((uint64_t)length, most));
}

static void writer_begin(struct writer *w, struct upload *u, uint64_t max_bytes)
{
	w->upload = u;
	w->blob = u->blob;
	u->writer = w;
	w->t.r->refs++;
	expect_chunks(u, http_content_length(w->t.x));
	if (http_has_body(w->t.x)) {
		http_body_read(w->t.x, max_bytes, writer_data, writer_end, w);
	} else {
		w->ended = true;
		writer_complete(w);
	}
}

/* ---- POST ------------------------------------------------------------------------------------ */

struct post_task {
	struct task t;
	bool single, mounts;   /* mounts: some repository that this client may read has it */
	struct oci_name named; /* to mount, or of the whole body */
	uint64_t length;
	bool mounted;
	struct blob_upload *blob;
};

struct reader {
	struct repository *r;
	struct http_exchange *x;
};

static bool may_read(void *arg, struct str repo)
{
	struct reader *who = arg;
	return !access_check(who->r, who->x, repo, ACCESS_PULL, NULL);
}

/* end-11. Without "from": any repository will do. What cannot be mounted is uploaded. */
static bool can_mount(struct repository *r, struct http_exchange *x, const struct oci_name *named)
{
	char found[REPO_NAME_SIZE];
	struct str from;
	struct reader who = {r, x};
	if (!named->known)
		return false;
	if (http_query(x, "from", &from) && from.len) {
		from = ollama_name(from);
		return oci_repo_valid(from) && may_read(&who, from) &&
		       catalog_has_blob(r->catalog, from, &named->digest);
	}
	return !catalog_first_repo_with(r->catalog, &named->digest, may_read, &who, found, sizeof found, NULL);
}

static bool mount(struct post_task *p)
{
	struct task *t = &p->t;
	uint64_t size;
	if (blob_stat(t->r->store, &p->named.digest, &size, NULL))
		return false;
	t->rc = catalog_link_blob(t->r->catalog, str_from(t->repo), &p->named.digest, &t->err);
	return true;
}

static void post_work(struct task *t)
{
	struct post_task *p = (struct post_task *)t;
	p->mounted = p->mounts && mount(p);
	if (p->mounted)
		return;
	t->rc = blob_store_room(t->r->store, p->length, &t->err);
	if (!t->rc)
		t->rc = catalog_quota_room(t->r->catalog, str_from(t->repo), p->length, &t->err);
	if (!t->rc)
		t->rc = blob_upload_new(t->r->store, &p->blob, &t->err);
	if (!t->rc && !p->single)
		t->rc = blob_upload_keep(p->blob, str_from(t->repo), &t->err);
	if (t->rc && p->blob)
		blob_upload_abort(p->blob);
}

static void post_single(struct post_task *p, struct upload *u)
{
	struct writer *w = task_new(p->t.r, p->t.x, str_from(p->t.repo), sizeof *w);
	w->finishes = w->alone = true;
	w->claimed = p->named.name;
	writer_begin(w, u, UPLOAD_BYTES_MAX);
}

static void post_done(struct task *t)
{
	struct post_task *p = (struct post_task *)t;
	if (t->rc || p->mounted) {
		t->r->upload_count--;
		if (t->rc)
			oci_fail(t->x, "BLOB_UPLOAD_INVALID", &t->err);
		else
			answer_created(t->x, t->repo, &p->named.name);
	} else {
		struct upload *u = upload_add(t->r, p->blob, blob_upload_id(p->blob), str_from(t->repo));
		if (t->r->freed) {
			oci_error(t->x, 503, "UNKNOWN", "the repository stops; push again in a moment");
			upload_abort(u, NULL);
		} else if (p->single) {
			post_single(p, u);
		} else {
			add_location(t->x, u);
			http_respond(t->x, 202, NULL, STR(""));
		}
	}
	free(p);
}

/* end-4c: which digest the upload will end with. Both are made when it ends, so this only tells early. */
static bool check_algorithm(struct http_exchange *x)
{
	struct str algorithm;
	if (!http_query(x, "digest-algorithm", &algorithm) || str_equal(algorithm, STR("sha256")) ||
	    str_equal(algorithm, STR("sha512")))
		return true;
	oci_error(x, 400, "UNSUPPORTED", "\"digest-algorithm\" must be sha256 or sha512");
	return false;
}

static void post(struct repository *r, struct http_exchange *x, struct str repo)
{
	struct str digest;
	struct oci_name named = {0};
	bool mounts = http_query(x, "mount", &digest);
	bool single = !mounts && http_query(x, "digest", &digest);
	if (r->upload_count >= LIMIT_UPLOADS) {
		oci_error(x, 429, "TOOMANYREQUESTS", "too many uploads are open; finish or delete some, or wait");
		return;
	}
	if (((mounts || single) && !oci_name(r, x, digest, &named)) || !check_algorithm(x))
		return;
	struct post_task *p = task_new(r, x, repo, sizeof *p);
	p->mounts = mounts && can_mount(r, x, &named);
	p->single = single;
	p->named = named;
	p->length = single && http_content_length(x) > 0 ? (uint64_t)http_content_length(x) : 0;
	r->upload_count++;
	task_run(&p->t, post_work, post_done);
}

/* ---- PATCH and PUT --------------------------------------------------------------------------- */

/* "A-B" as OCI writes it, or "bytes A-B/TOTAL" as HTTP does. */
static bool content_range_parse(struct str text, uint64_t *ret_from, uint64_t *ret_to)
{
	struct str last, total;
	if (str_starts(text, STR("bytes "))) {
		text.base += 6;
		text.len -= 6;
	}
	struct str first = str_cut(str_cut(text, '/', &total), '-', &last);
	return !str_to_u64(first, ret_from) && !str_to_u64(last, ret_to) && *ret_from <= *ret_to;
}

/* How many bytes this request may bring; answers and returns false when they would not fit where the upload stands. */
static bool check_range(struct upload *u, struct http_exchange *x, uint64_t *ret_max)
{
	uint64_t from, to, offset = u->offset;
	struct error err = {0};
	struct str text;
	int64_t length = http_content_length(x);
	*ret_max = UPLOAD_BYTES_MAX - offset;
	if (length > 0 && (blob_store_room(u->r->store, (uint64_t)length, &err) ||
	                   catalog_quota_room(u->r->catalog, str_from(u->repo), offset + (uint64_t)length, &err))) {
		oci_fail(x, "BLOB_UPLOAD_INVALID", &err);
		return false;
	}
	if (!http_header(x, "content-range", &text))
		return true;
	if (content_range_parse(text, &from, &to) && from == offset &&
	    (length < 0 || (uint64_t)length == to - from + 1)) {
		*ret_max = to - from + 1;
		return true;
	}
	add_location(x, u);
	oci_error(x, 416, "RANGE_INVALID",
	          "Content-Range must go on where the upload stands (see Range) and fit the body");
	return false;
}

static void write_to(struct upload *u, struct http_exchange *x, bool finishes)
{
	struct str text;
	struct oci_name claimed = {0};
	uint64_t max;
	if (finishes && !http_query(x, "digest", &text)) {
		oci_error(x, 400, "DIGEST_INVALID", "the request that ends an upload needs \"digest\"");
		return;
	}
	if ((finishes && !oci_name(u->r, x, text, &claimed)) || !check_range(u, x, &max))
		return;
	struct writer *w = task_new(u->r, x, str_from(u->repo), sizeof *w);
	w->finishes = finishes;
	w->claimed = claimed.name;
	writer_begin(w, u, max);
}

/* ---- an upload of an earlier run ------------------------------------------------------------- */

struct wake_task {
	struct task t;
	struct upload *upload;
	struct blob_upload *blob;
};

static void wake_work(struct task *t)
{
	struct wake_task *w = (struct wake_task *)t;
	t->rc = blob_upload_reopen(t->r->store, w->upload->id, &w->blob, &t->err);
}

static void wake_done(struct task *t)
{
	struct wake_task *w = (struct wake_task *)t;
	struct upload *u = w->upload;
	u->waking = false;
	if (t->rc) {
		upload_remove(u);
		oci_fail(t->x, "BLOB_UPLOAD_UNKNOWN", &t->err);
	} else {
		u->blob = w->blob;
		u->offset = blob_upload_offset(u->blob);
		if (t->r->freed) {
			oci_error(t->x, 503, "UNKNOWN", "the repository stops; go on with the upload in a moment");
			upload_leave(u);
		} else {
			uploads_handle(t->r, t->x, str_from(t->repo), str_from(u->id));
		}
	}
	free(w);
}

static void wake(struct upload *u, struct http_exchange *x)
{
	struct wake_task *w = task_new(u->r, x, str_from(u->repo), sizeof *w);
	w->upload = u;
	u->waking = true;
	task_run(&w->t, wake_work, wake_done);
}

void uploads_handle(struct repository *r, struct http_exchange *x, struct str repo, struct str id)
{
	struct str method = http_method(x);
	bool is_patch = str_equal(method, STR("PATCH")), is_put = str_equal(method, STR("PUT"));
	if (!id.len) {
		if (str_equal(method, STR("POST")))
			post(r, x, repo);
		else
			oci_method(x, "POST");
		return;
	}
	struct upload *u = upload_find(r, repo, id);
	if (!u) {
		oci_error(x, 404, "BLOB_UPLOAD_UNKNOWN",
		          "there is no such upload (it may have been finished, or idle for too long); begin anew");
	} else if (u->waking) {
		oci_error(x, 409, "BLOB_UPLOAD_INVALID",
		          "another request is opening this upload again; wait for its end");
	} else if (!u->blob && !str_equal(method, STR("DELETE"))) {
		wake(u, x);
	} else if (str_equal(method, STR("GET"))) {
		add_location(x, u);
		http_respond(x, 204, NULL, STR(""));
	} else if (u->writer) {
		oci_error(x, 409, "BLOB_UPLOAD_INVALID", "another request is writing to this upload; wait for its end");
	} else if (str_equal(method, STR("DELETE"))) {
		upload_abort(u, x);
	} else if (is_patch || is_put) {
		write_to(u, x, is_put);
	} else {
		oci_method(x, "GET, PATCH, PUT, DELETE");
	}
}

/* Writers in a job answer when it ends; the others now. */
void uploads_fini(struct repository *r)
{
	loop_timer_free(r->upload_timer);
	for (struct upload *u = r->uploads, *next; u; u = next) {
		next = u->next;
		if (u->waking) {
			continue;
		} else if (!u->writer) {
			upload_leave(u);
		} else if (!u->writer->in_job) {
			error_set(&u->writer->t.err, E_UNAVAILABLE, "the repository stops; push again in a moment");
			writer_fail(u->writer);
		}
	}
}
