/* SPDX-License-Identifier: Apache-2.0 */
#include "serve/repository/collect.h"

#include "base/log.h"

#include <stdlib.h>

#define AT_ONCE 3

struct want {
	struct collect *c;
	char path[256];
	struct digest digest;
	uint64_t size;
	bool done;
	struct through *through; /* running */
	struct through_watch *watch;
};

struct collect {
	struct mirror *m;
	struct upstream_source source;
	struct digest manifest;
	struct want *wants;
	size_t count, next, running;
	collect_fn *fn;
	void *arg;
	struct loop_timer *start;
	bool in_job, canceled, over;
	int rc;
	struct error err;
};

static void collect_free(struct collect *c)
{
	for (size_t i = 0; i < c->count; i++)
		if (c->wants[i].watch)
			through_unwatch(c->wants[i].watch);
	loop_timer_free(c->start);
	free(c->wants);
	free(c);
}

static void end(struct collect *c)
{
	if (c->over)
		return;
	c->over = true;
	if (!c->canceled)
		c->fn(c->arg, c->err.code ? &c->err : NULL);
	collect_free(c);
}

struct finish {
	struct collect *c;
	struct repository *r;
	struct error err;
	int rc;
};

static void complete_work(void *arg)
{
	struct finish *f = arg;
	const struct upstream_source *s = &f->c->source;
	for (size_t i = 0; i < f->c->count && !f->rc; i++) /* all came, or may be shared */
		f->rc = catalog_link_blob(f->r->catalog, str_from(s->to_name), &f->c->wants[i].digest, &f->err);
	if (f->rc)
		return;
	f->rc = upstream_complete(f->r, str_from(s->who), str_from(s->to_name), str_from(s->to_tag), &f->c->manifest,
	                          &f->err);
}

static void complete_done(void *arg)
{
	struct finish *f = arg;
	struct repository *r = f->r;
	f->c->in_job = false;
	if (f->rc)
		f->c->err = f->err;
	else if (!r->freed)
		feed_wake(r);
	end(f->c);
	free(f);
	repository_release(r);
}

static void complete(struct collect *c)
{
	struct finish *f = NEW(struct finish);
	*f = (struct finish){.c = c, .r = c->m->r};
	c->in_job = true;
	f->r->refs++;
	loop_job(f->r->loop, complete_work, complete_done, f);
}

static void go_on(struct collect *c);

static void on_blob(void *arg, const struct error *err)
{
	struct want *w = arg;
	struct collect *c = w->c;
	w->watch = NULL;
	w->through = NULL;
	w->done = !err;
	c->running--;
	if (err && !c->err.code) {
		c->err = *err;
		error_prefix(&c->err, "%s", w->path);
	}
	loop_timer_start(c->start, 0, 0); /* not from inside the call of one that ends */
}

/* 0 also when it is here already. */
static int fetch(struct collect *c, struct want *w)
{
	struct origin from;
	uint64_t size;
	w->done = !blob_stat(c->m->r->store, &w->digest, &size, NULL) &&
	          through_may_give(c->m, str_from(c->source.to_name), &w->digest);
	if (w->done)
		return 0;
	int rc = origins_get(c->m->origins, str_from(c->source.to_name), &w->digest, &from, &c->err);
	if (!rc)
		rc = through_open(c->m, str_from(c->source.to_name), &w->digest, &from, &w->through, &c->err);
	if (rc)
		return rc;
	w->watch = through_watch(w->through, on_blob, w);
	c->running++;
	return 0;
}

static void go_on(struct collect *c)
{
	while (c->next < c->count && c->running < AT_ONCE && !c->err.code)
		fetch(c, &c->wants[c->next++]);
	if (c->running || c->in_job)
		return;
	if (c->err.code)
		end(c);
	else
		complete(c);
}

static void on_start(void *arg)
{
	go_on(arg);
}

struct collect *collect_start(struct mirror *m, const struct upstream_source *source,
                              const struct upstream_found *found, collect_fn *fn, void *arg)
{
	struct collect *c = NEW(struct collect);
	c->m = m;
	c->source = *source;
	c->manifest = found->manifest;
	c->fn = fn;
	c->arg = arg;
	c->count = found->file_count;
	c->wants = mem_new((c->count + 1) * sizeof *c->wants);
	for (size_t i = 0; i < c->count; i++) {
		const struct version_file *f = &found->files[i];
		c->wants[i].c = c;
		c->wants[i].digest = f->digest;
		c->wants[i].size = f->size;
		memcpy(c->wants[i].path, f->path[0] ? f->path : f->media_type,
		       f->path[0] ? sizeof f->path : sizeof f->media_type);
	}
	c->start = loop_timer_new(m->r->loop, on_start, c);
	loop_timer_start(c->start, 0, 0);
	return c;
}

void collect_cancel(struct collect *c)
{
	c->canceled = true;
	if (!c->in_job)
		collect_free(c);
}

void collect_format(const struct collect *c, struct buf *out)
{
	uint64_t done = 0, total = 0;
	size_t files = 0;
	const char *now = "";
	for (size_t i = 0; i < c->count; i++) {
		const struct want *w = &c->wants[i];
		total += w->size;
		done += w->done ? w->size : w->through ? through_held(w->through) : 0;
		files += w->done;
		if (w->through && !now[0])
			now = w->path;
	}
	buf_printf(out,
	           "{\"done\":%llu,\"total\":%llu,\"files\":%zu,\"files_done\":%zu,\"file\":", (unsigned long long)done,
	           (unsigned long long)total, c->count, files);
	buf_append_json(out, str_from(now));
	buf_append_str(out, STR("}"));
}
