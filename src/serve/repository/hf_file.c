/* SPDX-License-Identifier: Apache-2.0 */
/* /ID/resolve/REV/FILE. The ETag is the SHA-256 of the file, whatever its size, and the same in trees: clients name
 * what they keep by it. */
#include "serve/repository/hf_private.h"

#include "net/http_range.h"
#include "serve/repository/through.h"
#include "store/blob_answer.h"

#include <stdio.h>

int hf_file_work(struct hf_task *h)
{
	struct task *t = &h->t;
	for (size_t i = 0; i < h->version.file_count; i++)
		if (!strcmp(h->version.files[i].path, h->path))
			h->file = &h->version.files[i];
	if (!h->file)
		return error_set(&t->err, E_NOTFOUND, "%s has no file %.200s in this version", t->repo, h->path);
	int rc = blob_file_open(t->r->store, &h->file->digest, &h->blob, &t->err);
	if (!rc)
		h->size = blob_file_size(h->blob);
	if (rc == E_NOTFOUND && t->r->mirror) { /* named, but not here yet: hf_file_answer gets it */
		h->size = h->file->size;
		rc = 0;
	}
	return rc;
}

static const char *type_of(struct str path)
{
	if (str_ends(path, STR(".json")))
		return "application/json";
	if (str_ends(path, STR(".md")) || str_ends(path, STR(".txt")) || str_ends(path, STR(".jinja")))
		return "text/plain; charset=utf-8";
	return NULL;
}

void hf_file_answer(struct hf_task *h)
{
	struct http_exchange *x = h->t.x;
	uint64_t from = 0, length = h->size;
	char hex[65], etag[68], size[24];
	hex_encode(h->file->digest.bytes, DIGEST_SIZE, hex);
	snprintf(etag, sizeof etag, "\"%s\"", hex);
	const struct digest *d = &h->file->digest;
	struct mirror *m = h->t.r->mirror;
	struct str repo = str_from(h->t.repo);
	if (h->blob && !through_may_give(m, repo, d)) { /* what is held is of others; hf_file_work cannot know */
		blob_file_close(h->blob);
		h->blob = NULL;
		h->size = h->file->size;
	}
	bool links = h->blob && m && !catalog_has_blob(h->t.r->catalog, repo, d) && through_knows(m, repo, d);
	snprintf(size, sizeof size, "%llu", (unsigned long long)h->size);
	http_add_header(x, "ETag", str_from(etag));
	http_add_header(x, "X-Linked-Etag", str_from(etag));
	http_add_header(x, "X-Linked-Size", str_from(size));
	http_add_header(x, "X-Content-Type-Options", STR("nosniff"));
	if (h->head) {
		http_add_header(x, "Accept-Ranges", STR("bytes"));
		const char *type = type_of(str_from(h->path));
		http_respond_begin(x, 200, type ? type : "application/octet-stream", (int64_t)h->size);
		http_end(x);
		return;
	}
	if (!h->blob && through_offer(m, x, repo, d))
		return;
	/* Nobody has it, or it has come since hf_file_work looked. */
	if (!h->blob && (!through_may_give(m, repo, d) || blob_file_open(h->t.r->store, d, &h->blob, NULL))) {
		hf_error(x, 404, "EntryNotFound", "this file is not here, and nobody is known to have it");
		return;
	}
	enum http_range range = http_range(x, h->size, &from, &length);
	if (range == HTTP_RANGE_BAD) {
		http_add_no_range(x, h->size);
		hf_error(x, 416, NULL, "the file has no such bytes");
		return;
	}
	if (links)
		m->on_blob(m, repo, d);
	blob_answer(x, h->blob, range == HTTP_RANGE_PART, from, length);
	h->blob = NULL;
}
