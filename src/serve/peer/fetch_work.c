/* SPDX-License-Identifier: Apache-2.0 */
/* fetch_work.c - everything of a fetch that touches the disk, in job threads. */
#include "serve/peer/fetch.h"

#include "base/log.h"
#include "store/reuse.h"

static int list_load(struct fetch *f, struct str text, struct error *err)
{
	struct chunk_list list = {0};
	int rc = chunk_list_parse(text, &list, err);
	if (rc)
		return rc;
	if (!digest_equal(&list.file, &f->file.digest) || list.size != f->file.size || list.count == 0) {
		chunk_list_fini(&list);
		return error_set(err, E_CORRUPT, "its chunk list is of another file");
	}
	rc = blob_partial_open(f->peer->o.store, &list, &f->partial, err);
	if (rc)
		chunk_list_fini(&list);
	else
		f->list = list;
	return rc;
}

static int work_check(struct fetch *f, struct error *err)
{
	uint64_t size;
	struct buf text = {0};
	if (blob_stat(f->peer->o.store, &f->file.digest, &size, NULL) == 0) {
		f->job_on_disk = true;
		return 0;
	}
	if (!f->chunked)
		return 0;
	int rc = blob_read_all(f->peer->o.store, &f->file.chunks, SMALL_MAX, &text, NULL);
	if (rc == 0)
		rc = list_load(f, buf_str(&text), err);
	else
		rc = 0; /* the list is not here yet: it will be asked for */
	buf_fini(&text);
	return rc;
}

static int work_list(struct fetch *f, struct error *err)
{
	struct digest d;
	int rc = blob_put(f->peer->o.store, buf_str(&f->list_bytes), &d, err);
	if (rc == 0 && f->chunked)
		rc = list_load(f, buf_str(&f->list_bytes), err);
	return rc;
}

static int work_reuse(struct fetch *f, struct error *err)
{
	uint64_t bytes = 0;
	int rc = blob_partial_reuse(f->partial, &f->job_stop, &bytes, err);
	if (bytes)
		log_info("peer", "%s: %llu of its %llu bytes were in other files here", f->file.path,
		         (unsigned long long)bytes, (unsigned long long)f->file.size);
	return rc;
}

static int work_write(struct fetch *f, uint32_t part, struct error *err)
{
	uint32_t i = 0;
	for (struct chunk_call *c = f->writing; c; c = c->next) {
		struct error why = {0};
		if (i++ % f->job_part_count != part)
			continue;
		c->result = blob_partial_has(f->partial, c->at.chunk)
		                ? 0
		                : blob_partial_write(f->partial, c->at.chunk, buf_str(&c->data), &why);
		if (c->result && c->result != E_CORRUPT) {
			*err = why;
			return c->result;
		}
	}
	return 0;
}

void fetch_work(struct job_part *part)
{
	struct fetch *f = part->fetch;
	switch (f->job) {
	case JOB_CHECK:
		work_check(f, &part->error);
		break;
	case JOB_LIST:
		work_list(f, &part->error);
		break;
	case JOB_REUSE:
		work_reuse(f, &part->error);
		break;
	case JOB_WRITE:
		work_write(f, part->number, &part->error);
		break;
	case JOB_FINISH:
		blob_partial_finish(f->partial, &part->error);
		break;
	}
}
