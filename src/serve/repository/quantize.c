/* SPDX-License-Identifier: Apache-2.0 */
/* A job is prepared (disk), run (child), stored (disk), and then told of for a while. Each step belongs to the job
 * alone; what may happen at any time is that it is canceled or that the repository goes: then the step's end sees the
 * mark and the folder is removed.
 *
 *   WAITING -> PREPARING -> RUNNING -> STORING -> DONE | FAILED | CANCELED
 */
#include "serve/repository/quantize.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/rng.h"
#include "engine/engine.h"
#include "net/child.h"
#include "net/sse.h"
#include "serve/repository/access.h"
#include "serve/repository/compose.h"
#include "serve/repository/model.h"
#include "serve/repository/versions.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define BODY_MAX 65536
#define JOBS_MAX 64 /* with those that are over */
#define WAITING_MAX 16
#define WATCHERS_MAX 64 /* of one job */
#define TELL_US (250 * US_PER_MS)
#define ALIVE_US (2 * US_PER_S)
#define PIECE (1u << 20)

enum job_state { WAITING, PREPARING, RUNNING, STORING, DONE, FAILED, CANCELED };
static const char *const state_names[] = {"waiting", "preparing", "running", "storing", "done", "failed", "canceled"};

struct watcher {
	struct watcher *next;
	struct job *job;
	struct http_exchange *x;
	bool full;
};

struct job {
	struct job *next;
	struct repository *r;
	char id[17], who[64], type[16];
	char name[129], tag[129], to_name[129], to_tag[129];
	enum job_state state;
	int done, total; /* tensors */
	bool canceled;
	char *folder, *in, *out;
	struct version parent;
	struct digest manifest; /* of the result */
	uint64_t size;
	struct error err;
	struct child *child;
	struct watcher *watchers;
	size_t watcher_count;
	int64_t told_us;
};

struct quantizer {
	char *work, *program; /* work NULL: not offered */
	struct job *jobs;     /* oldest first */
	struct loop_timer *alive;
};

static bool is_over(const struct job *j)
{
	return j->state >= DONE;
}

static void job_free(struct job *j)
{
	version_fini(&j->parent);
	free(j->folder);
	free(j->in);
	free(j->out);
	free(j);
}

/* ---- telling -------------------------------------------------------------------------------------- */

static void job_format(const struct job *j, struct buf *out)
{
	buf_printf(out,
	           "{\"id\":\"%s\",\"state\":\"%s\",\"model\":\"%s:%s\",\"type\":\"%s\",\"to\":\"%s:%s\",\"done\":%d,"
	           "\"total\":%d",
	           j->id, state_names[j->state], j->name, j->tag, j->type, j->to_name, j->to_tag, j->done, j->total);
	if (j->state == DONE) {
		char digest[DIGEST_TEXT_SIZE];
		digest_format(&j->manifest, digest);
		buf_printf(out, ",\"digest\":\"%s\",\"size\":%llu", digest, (unsigned long long)j->size);
	}
	if (j->err.code) {
		buf_append_str(out, STR(",\"error\":"));
		buf_append_json(out, str_from(j->err.text));
	}
	buf_append_str(out, STR("}"));
}

static void watcher_free(struct watcher *w)
{
	struct watcher **at = &w->job->watchers;
	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
	w->job->watcher_count--;
	free(w);
}

static void on_watcher_gone(void *arg)
{
	watcher_free(arg);
}

static void on_watcher_writable(void *arg)
{
	((struct watcher *)arg)->full = false;
}

/* The last word is said to everybody, and ends their streams. */
static void job_tell(struct job *j)
{
	struct buf document = {0}, event = {0};
	job_format(j, &document);
	sse_append(&event, STR("progress"), buf_str(&document));
	for (struct watcher *w = j->watchers, *next; w; w = next) {
		next = w->next;
		if (!w->full || is_over(j))
			w->full = !http_write(w->x, buf_str(&event));
		if (is_over(j)) {
			struct http_exchange *x = w->x;
			http_watch(x, NULL, NULL, NULL);
			watcher_free(w);
			http_end(x);
		}
	}
	j->told_us = loop_now_us(j->r->loop);
	buf_fini(&document);
	buf_fini(&event);
}

/* So that a connection that is gone is noticed, and one that is not, is not taken for gone. */
static void on_alive(void *arg)
{
	struct repository *r = arg;
	for (struct job *j = r->quantizer->jobs; j; j = j->next)
		for (struct watcher *w = j->watchers; w; w = w->next)
			if (!w->full)
				w->full = !http_write(w->x, STR(":\n\n"));
}

/* ---- disk ------------------------------------------------------------------------------------------- */

struct job_task {
	struct task t;
	struct job *job;
};

static void job_task_run(struct job *j, void (*work)(struct task *t), void (*done)(struct task *t))
{
	struct job_task *jt = task_new(j->r, NULL, str_from(j->name), sizeof *jt);
	jt->job = j;
	task_run(&jt->t, work, done);
}

/* The GGUF under its own name: llama.cpp finds the other parts of a split one by it. */
static int link_file(struct job *j, const struct version_file *f, struct error *err)
{
	char *blob = NULL;
	const char *slash = strrchr(f->path, '/');
	int rc = blob_path(j->r->store, &f->digest, &blob, err);
	if (rc == E_UNSUPPORTED)
		return error_set(err, rc,
		                 "this repository is encrypted at rest, and quantizing would write the model in the "
		                 "clear; quantize it elsewhere and push the result");
	if (rc)
		return rc;
	char *absolute = realpath(blob, NULL);
	char *link = file_join(str_from(j->folder), slash ? slash + 1 : f->path);
	if (!absolute || (symlink(absolute, link) && errno != EEXIST))
		rc = error_errno(err, errno, "cannot prepare %s", link);
	if (!rc && f == version_main_file(&j->parent))
		j->in = str_dup(str_from(link));
	free(absolute);
	free(blob);
	free(link);
	return rc;
}

static int prepare(struct job *j, struct error *err)
{
	struct repository *r = j->r;
	int rc = catalog_get_version(r->catalog, str_from(j->name), str_from(j->tag), &j->parent, err);
	if (rc)
		return error_set(err, rc, "the repository has no model %s:%s", j->name, j->tag);
	if (j->parent.kind != VERSION_GGUF)
		return error_set(err, E_UNSUPPORTED, "%s:%s is not GGUF; convert it first", j->name, j->tag);
	rc = blob_store_room(r->store, 2 * version_size(&j->parent), err);
	if (!rc)
		rc = catalog_quota_room(r->catalog, str_from(j->to_name), 1, err);
	if (!rc)
		rc = folder_make(j->folder, 0700, err);
	for (size_t i = 0; i < j->parent.file_count && !rc; i++)
		if (str_ends(str_from(j->parent.files[i].path), STR(".gguf")))
			rc = link_file(j, &j->parent.files[i], err);
	if (!rc && !j->in)
		rc = link_file(j, version_main_file(&j->parent), err);
	j->out = file_join(str_from(j->folder), "quantized");
	return rc;
}

/* The file as a blob; read twice by nobody: hash and copy go together. */
static int store_file(struct job *j, struct digest *ret_digest, struct error *err)
{
	struct blob_upload *upload = NULL;
	struct digest_stream *hash = digest_stream_new();
	char *piece = mem_new(PIECE);
	int fd = open(j->out, O_RDONLY | O_CLOEXEC), rc = 0;
	ssize_t got = 0;
	if (fd < 0)
		rc = error_errno(err, errno, "cannot read what was quantized");
	if (!rc)
		rc = blob_upload_new(j->r->store, &upload, err);
	while (!rc && (got = file_read_at(fd, j->size, piece, PIECE)) > 0) {
		digest_stream_add(hash, piece, (size_t)got);
		rc = blob_upload_append(upload, (struct str){piece, (size_t)got}, err);
		j->size += (uint64_t)got;
	}
	if (!rc && got < 0)
		rc = error_errno(err, errno, "cannot read what was quantized");
	if (!rc) {
		*ret_digest = digest_stream_end(hash);
		rc = blob_upload_finish(upload, ret_digest, err);
	} else if (upload) {
		blob_upload_abort(upload);
	}
	digest_stream_free(hash);
	free(piece);
	if (fd >= 0)
		close(fd);
	return rc;
}

/* The result's files. Those of the parent that are not weights come along: licence, model card. */
static struct version_file *list_files(const struct job *j, const struct digest *weights, size_t *ret_count)
{
	struct version_file *files = mem_new((j->parent.file_count + 1) * sizeof *files);
	char type[16];
	const char *last = strrchr(j->to_name, '/');
	size_t count = 1;
	for (size_t i = 0; i < sizeof type; i++)
		type[i] = (char)toupper((unsigned char)j->type[i]);
	files[0] = (struct version_file){.digest = *weights, .size = j->size};
	snprintf(files[0].path, sizeof files[0].path, "%s-%s.gguf", last ? last + 1 : j->to_name, type);
	for (size_t i = 0; i < j->parent.file_count; i++) {
		const struct version_file *f = &j->parent.files[i];
		if (!str_ends(str_from(f->path), STR(".gguf")) && f != version_main_file(&j->parent))
			files[count++] = *f;
	}
	*ret_count = count;
	return files;
}

static void format_manifest(const struct job *j, struct str config, const struct version_file *files, size_t count,
                            struct buf *out)
{
	char digest[DIGEST_TEXT_SIZE], parent[300];
	digest_format(&j->parent.manifest, digest);
	snprintf(parent, sizeof parent, "%s:%s", j->name, j->tag);
	const struct compose_note notes[] = {
	    {MODEL_QUANTIZED, parent},
	    {MODEL_BASE, compose_some(j->parent.base_model)},
	    {MODEL_DISTILLED, compose_some(j->parent.distilled_from)},
	    {"org.opencontainers.image.licenses", compose_some(j->parent.license)},
	    {"quantized-from-digest", digest},
	};
	compose_manifest(config, files, count, notes, sizeof notes / sizeof *notes, out);
}

static int link_all(struct job *j, const struct manifest *m, struct error *err)
{
	int rc = 0;
	for (size_t i = 0; i < m->item_count && !rc; i++)
		rc = catalog_link_blob(j->r->catalog, str_from(j->to_name), &m->items[i].digest, err);
	return rc;
}

static int publish(struct job *j, struct str text, struct error *err)
{
	struct manifest m;
	struct version v = {0};
	bool is_model;
	struct repository *r = j->r;
	int rc = manifest_parse(text, &m, err);
	if (rc)
		return rc;
	manifest_resolve(&m, r->catalog);
	rc = link_all(j, &m, err);
	if (!rc)
		rc = model_version(r->store, r->catalog, r->chunk_size, &m, &is_model, &v, err);
	if (!rc)
		rc = blob_put(r->store, text, &j->manifest, err);
	if (!rc) {
		model_annotate(text, &v);
		str_copy(str_from(j->to_name), v.name, sizeof v.name);
		str_copy(str_from(j->to_tag), v.tag, sizeof v.tag);
		v.manifest = j->manifest;
		rc = catalog_push_as(r->catalog, str_from(j->who), str_from(j->to_name), &j->manifest,
		                     STR(COMPOSE_MANIFEST), text.len, str_from(j->to_tag), &v, err);
	}
	version_fini(&v);
	manifest_fini(&m);
	return rc;
}

static int store(struct job *j, struct error *err)
{
	struct digest weights, config;
	struct buf text = {0}, manifest = {0};
	size_t count;
	int rc = store_file(j, &weights, err);
	if (rc)
		return rc;
	struct version_file *files = list_files(j, &weights, &count);
	compose_config(str_from(j->to_name), str_from(j->to_tag), STR("gguf"), str_from(j->parent.license), files,
	               count, &text);
	rc = blob_put(j->r->store, buf_str(&text), &config, err);
	if (!rc) {
		format_manifest(j, buf_str(&text), files, count, &manifest);
		rc = publish(j, buf_str(&manifest), err);
	}
	free(files);
	buf_fini(&text);
	buf_fini(&manifest);
	return rc;
}

/* ---- the steps --------------------------------------------------------------------------------------- */

static void start_next(struct repository *r);

static void clean_work(struct task *t)
{
	folder_remove(((struct job_task *)t)->job->folder, NULL);
}

/* The files are gone: only now the job is over, so that who sees that finds nothing left. */
static void clean_done(struct task *t)
{
	struct job *j = ((struct job_task *)t)->job;
	struct repository *r = j->r;
	free(t);
	if (r->freed) {
		job_free(j);
		return;
	}
	j->state = j->canceled ? CANCELED : j->err.code ? FAILED : DONE;
	if (j->state == DONE)
		log_info("repository", "%s:%s is quantized to %s as %s:%s", j->name, j->tag, j->type, j->to_name,
		         j->to_tag);
	else
		log_warn("repository", "quantizing %s:%s to %s: %s", j->name, j->tag, j->type,
		         j->canceled ? "canceled" : j->err.text);
	job_tell(j);
	if (j->state == DONE)
		feed_wake(r);
	start_next(r);
}

static void finish(struct job *j)
{
	job_task_run(j, clean_work, clean_done);
}

static void store_work(struct task *t)
{
	struct job *j = ((struct job_task *)t)->job;
	t->rc = store(j, &t->err);
}

static void store_done(struct task *t)
{
	struct job *j = ((struct job_task *)t)->job;
	if (t->rc)
		j->err = t->err;
	else
		j->canceled = false; /* too late: it is there */
	free(t);
	finish(j);
}

static void on_line(void *arg, struct str line)
{
	struct job *j = arg;
	struct str total, done = str_cut(line, ' ', &total);
	uint64_t a, b;
	if (str_to_u64(done, &a) || str_to_u64(total, &b) || b > LIMIT_GGUF_TENSORS || a > b)
		return;
	j->done = (int)a;
	j->total = (int)b;
	if (loop_now_us(j->r->loop) - j->told_us >= TELL_US)
		job_tell(j);
}

static void on_exit_child(void *arg, int64_t status, int signal, struct str errors)
{
	struct job *j = arg;
	child_free(j->child);
	j->child = NULL;
	if (signal)
		error_set(&j->err, E_INTERNAL,
		          "the process that quantizes ended with signal %d%s" STR_FMT "; nothing was kept", signal,
		          errors.len ? ": " : "", STR_ARG(errors));
	else if (status)
		error_set(&j->err, E_INVAL, STR_FMT, STR_ARG(errors.len ? errors : STR("it failed without words")));
	if (j->canceled || j->err.code || j->r->freed) {
		finish(j);
		return;
	}
	j->done = j->total;
	j->state = STORING;
	job_tell(j);
	job_task_run(j, store_work, store_done);
}

static void run_child(struct job *j)
{
	char *argv[] = {"mdn", "quantize-file", j->in, j->out, j->type, NULL};
	struct child_options o = {
	    .file = j->r->quantizer->program, .argv = argv, .on_line = on_line, .on_exit = on_exit_child, .arg = j};
	j->state = RUNNING;
	if (child_start(j->r->loop, &o, &j->child, &j->err))
		finish(j);
	else
		job_tell(j);
}

static void prepare_work(struct task *t)
{
	struct job *j = ((struct job_task *)t)->job;
	t->rc = prepare(j, &t->err);
}

static void prepare_done(struct task *t)
{
	struct job *j = ((struct job_task *)t)->job;
	if (t->rc)
		j->err = t->err;
	free(t);
	if (j->err.code || j->canceled || j->r->freed)
		finish(j);
	else
		run_child(j);
}

static void start_next(struct repository *r)
{
	struct job *first = NULL;
	for (struct job *j = r->quantizer->jobs; j; j = j->next) {
		if (j->state > WAITING && !is_over(j))
			return;
		if (j->state == WAITING && !first)
			first = j;
	}
	if (!first)
		return;
	first->state = PREPARING;
	job_tell(first);
	job_task_run(first, prepare_work, prepare_done);
}

static void cancel(struct job *j)
{
	if (is_over(j) || j->canceled)
		return;
	j->canceled = true;
	if (j->state == WAITING) {
		j->state = CANCELED;
		job_tell(j);
	} else if (j->child) {
		child_kill(j->child);
	}
}

/* ---- requests ---------------------------------------------------------------------------------------------- */

static struct job *job_find(struct repository *r, struct str id)
{
	for (struct job *j = r->quantizer->jobs; j; j = j->next)
		if (str_equal(str_from(j->id), id))
			return j;
	return NULL;
}

/* Room for one more: the oldest that is over goes. */
static int make_room(struct repository *r, struct error *err)
{
	size_t count = 0, waiting = 0;
	struct job **oldest = NULL;
	for (struct job **at = &r->quantizer->jobs; *at; at = &(*at)->next) {
		count++;
		waiting += (*at)->state == WAITING;
		if (!oldest && is_over(*at) && !(*at)->watchers)
			oldest = at;
	}
	if (waiting >= WAITING_MAX || (count >= JOBS_MAX && !oldest))
		return error_set(err, E_BUSY, "%zu models wait to be quantized already; try again later", waiting);
	if (count >= JOBS_MAX) {
		struct job *j = *oldest;
		*oldest = j->next;
		job_free(j);
	}
	return 0;
}

static int read_target(struct job *j, struct str to, struct error *err)
{
	char type[16];
	if (to.len)
		return versions_name(to, j->to_name, j->to_tag, err);
	for (size_t i = 0; i < sizeof type; i++)
		type[i] = (char)tolower((unsigned char)j->type[i]);
	memcpy(j->to_name, j->name, sizeof j->to_name);
	if (snprintf(j->to_tag, sizeof j->to_tag, "%s-%s", j->tag, type) >= (int)sizeof j->to_tag)
		return error_set(err, E_INVAL, "the tag %s is too long to be added to; say \"to\"", j->tag);
	return 0;
}

static int read_job(struct job *j, yyjson_val *root, struct error *err)
{
	struct str model = STR(""), type = STR(""), to = STR("");
	if (!yyjson_is_obj(root))
		return error_set(err, E_INVAL, "send a JSON object");
	int rc = json_str(root, "model", &model, err);
	if (!rc)
		rc = json_str(root, "type", &type, err);
	if (!rc)
		rc = json_str(root, "to", &to, err);
	if (!rc)
		rc = versions_name(model, j->name, j->tag, err);
	if (!rc && (!str_copy(type, j->type, sizeof j->type) || !engine_quantize_known(j->type)))
		rc = error_set(err, E_INVAL, "`" STR_FMT "` is no type to quantize to; there are: %s", STR_ARG(type),
		               engine_quantize_types());
	if (!rc)
		rc = read_target(j, to, err);
	if (!rc && !strcmp(j->name, j->to_name) && !strcmp(j->tag, j->to_tag))
		rc =
		    error_set(err, E_CONFLICT, "the result needs another name than its parent, %s:%s", j->name, j->tag);
	return rc;
}

static void add_job(struct repository *r, struct job *j)
{
	struct job **last = &r->quantizer->jobs;
	uint8_t random[8];
	rng_secret(random, sizeof random);
	hex_encode(random, sizeof random, j->id);
	j->folder = file_join(str_from(r->quantizer->work), j->id);
	while (*last)
		last = &(*last)->next;
	*last = j;
}

static void answer_job(struct http_exchange *x, int status, const struct job *j)
{
	struct buf out = {0};
	job_format(j, &out);
	buf_append_str(&out, STR("\n"));
	http_respond(x, status, "application/json", buf_str(&out));
	buf_fini(&out);
}

struct asking {
	struct repository *r;
	char who[64];
};

static void on_body(void *arg, struct http_exchange *x, struct str body, const struct error *failure)
{
	struct asking *a = arg;
	struct repository *r = a->r;
	struct error err = {0};
	yyjson_doc *doc = NULL;
	struct job *j = NEW(struct job);
	j->r = r;
	memcpy(j->who, a->who, sizeof j->who);
	int rc = failure    ? error_set(&err, failure->code, "%s", failure->text)
	         : r->freed ? error_set(&err, E_UNAVAILABLE, "the repository stops; ask again in a moment")
	                    : json_parse(body, &doc, &err);
	if (!rc)
		rc = read_job(j, yyjson_doc_get_root(doc), &err);
	if (!rc)
		rc = make_room(r, &err);
	yyjson_doc_free(doc);
	if (rc) {
		job_free(j);
		http_respond_error(x, &err);
	} else {
		add_job(r, j);
		answer_job(x, 202, j);
		start_next(r);
	}
	free(a);
	repository_release(r);
}

static void watch(struct http_exchange *x, struct job *j)
{
	struct error err = {0};
	struct buf document = {0}, event = {0};
	if (j->watcher_count >= WATCHERS_MAX) {
		error_set(&err, E_UNAVAILABLE, "%d clients watch this job already", WATCHERS_MAX);
		http_respond_error(x, &err);
		return;
	}
	job_format(j, &document);
	sse_append(&event, STR("progress"), buf_str(&document));
	http_respond_begin(x, 200, "text/event-stream", -1);
	if (is_over(j)) {
		http_write(x, buf_str(&event));
		http_end(x);
	} else {
		struct watcher *w = NEW(struct watcher);
		*w = (struct watcher){.next = j->watchers, .job = j, .x = x};
		j->watchers = w;
		j->watcher_count++;
		http_watch(x, on_watcher_writable, on_watcher_gone, w);
		w->full = !http_write(x, buf_str(&event));
	}
	buf_fini(&document);
	buf_fini(&event);
}

static void list_jobs(struct repository *r, struct http_exchange *x)
{
	struct buf out = {0};
	buf_append_str(&out, STR("{\"jobs\":["));
	for (struct job *j = r->quantizer->jobs; j; j = j->next) {
		job_format(j, &out);
		if (j->next)
			buf_append_str(&out, STR(","));
	}
	buf_append_str(&out, STR("]}\n"));
	http_respond(x, 200, "application/json", buf_str(&out));
	buf_fini(&out);
}

static void handle_job(struct repository *r, struct http_exchange *x, struct str path)
{
	struct error err = {0};
	struct str what, id = str_cut(path, '/', &what);
	struct job *j = job_find(r, id);
	bool reads = str_equal(http_method(x), STR("GET"));
	if (!j)
		error_set(&err, E_NOTFOUND, "there is no such job (any more)");
	else if (str_equal(what, STR("events")) && reads)
		watch(x, j);
	else if (!what.len && reads)
		answer_job(x, 200, j);
	else if (!what.len && str_equal(http_method(x), STR("DELETE"))) {
		cancel(j);
		answer_job(x, 200, j);
	} else {
		error_set(&err, E_METHOD, "a job is read with GET and canceled with DELETE");
	}
	if (err.code)
		http_respond_error(x, &err);
}

bool quantize_handle(struct repository *r, struct http_exchange *x, struct str path)
{
	struct error err = {0};
	bool starts = str_equal(path, STR("quantize")), lists = str_equal(path, STR("jobs"));
	if (!starts && !lists && !str_starts(path, STR("jobs/")))
		return false;
	if (!r->quantizer->work) {
		error_set(&err, E_UNSUPPORTED, "this repository does not quantize");
		http_respond_error(x, &err);
	} else if (lists) {
		list_jobs(r, x);
	} else if (!starts) {
		handle_job(r, x, (struct str){path.base + 5, path.len - 5});
	} else if (str_equal(http_method(x), STR("POST"))) {
		struct asking *a = NEW(struct asking);
		a->r = r;
		access_who(r, x, a->who);
		r->refs++;
		http_body_collect(x, BODY_MAX, on_body, a);
	} else {
		error_set(&err, E_METHOD, "quantize is called with POST");
		http_respond_error(x, &err);
	}
	return true;
}

/* ---- life ---------------------------------------------------------------------------------------------------- */

void quantize_init(struct repository *r, const struct repository_options *options)
{
	struct quantizer *q = r->quantizer = NEW(struct quantizer);
	struct error err = {0};
	q->program = str_dup(options->program.len ? options->program : STR("/proc/self/exe"));
	if (!options->work.len)
		return;
	char *work = str_dup(options->work);
	int rc = folder_remove(work, &err); /* what was not finished when this process last ended */
	if (!rc)
		rc = folder_make(work, 0700, &err);
	if (rc) {
		log_error("repository", "no quantizing: %s", err.text);
		free(work);
		return;
	}
	q->work = work;
	q->alive = loop_timer_new(r->loop, on_alive, r);
	loop_timer_start(q->alive, ALIVE_US, ALIVE_US);
}

/* Jobs with a step in a job or a child go when that ends; the others now. */
void quantize_fini(struct repository *r)
{
	struct quantizer *q = r->quantizer;
	for (struct job *j = q->jobs, *next; j; j = next) {
		next = j->next;
		while (j->watchers) {
			struct http_exchange *x = j->watchers->x;
			http_watch(x, NULL, NULL, NULL);
			watcher_free(j->watchers);
			http_end(x);
		}
		if (j->child) { /* its folder is swept at the next start */
			child_free(j->child);
			job_free(j);
		} else if (is_over(j) || j->state == WAITING) {
			job_free(j);
		}
	}
	loop_timer_free(q->alive);
	free(q->work);
	free(q->program);
	free(q);
	r->quantizer = NULL;
}
