/* SPDX-License-Identifier: Apache-2.0 */
/* GET, HEAD and DELETE of a blob (distribution-spec end-2, end-10), with one byte range (RFC 9110 section 14).
 *
 * A blob shows only in the repositories it was pushed to or mounted in. DELETE takes it out of one repository; its
 * bytes go with the next collection (gc.h) when no other repository and no version needs them. */
#include "serve/repository/repository_private.h"
#include "serve/repository/through.h"

#include "net/http_range.h"
#include "store/blob_answer.h"

#include <stdio.h>
#include <stdlib.h>

static void send_part(struct http_exchange *x, struct blob_file *f)
{
	uint64_t size = blob_file_size(f), from = 0, length = size;
	enum http_range range = http_range(x, size, &from, &length);
	if (range == HTTP_RANGE_BAD) {
		blob_file_close(f);
		http_add_header(x, "Accept-Ranges", STR("bytes"));
		http_add_no_range(x, size);
		oci_error(x, 416, "RANGE_INVALID", "the blob has no such bytes");
		return;
	}
	blob_answer(x, f, range == HTTP_RANGE_PART, from, length);
}

static void get(struct repository *r, struct http_exchange *x, struct str repo, const struct oci_name *name, bool head)
{
	const struct digest *d = &name->digest;
	struct blob_file *f;
	struct error err = {0};
	bool linked = name->known && catalog_has_blob(r->catalog, repo, d);
	if (!linked && !(name->known && through_knows(r->mirror, repo, d))) {
		oci_error(x, 404, "BLOB_UNKNOWN", "this repository has no such blob");
		return;
	}
	bool may = linked || through_may_give(r->mirror, repo, d);
	int rc = may ? blob_file_open(r->store, d, &f, &err) : E_NOTFOUND;
	oci_add_name(x, "Docker-Content-Digest", &name->name);
	if (rc == E_NOTFOUND && through_offer(r->mirror, x, repo, d))
		return;
	if (rc == E_NOTFOUND && through_may_give(r->mirror, repo, d)) /* it may have come between the two */
		rc = blob_file_open(r->store, d, &f, &err);
	if (rc) {
		oci_fail(x, "BLOB_UNKNOWN", &err);
		return;
	}
	if (!linked)
		r->mirror->on_blob(r->mirror, repo, d);
	/* Of a cache's copy, too, the Location that ollama.c adds must be good for a while: half of its life. */
	http_add_header(x, "Cache-Control", STR("max-age=43200, immutable"));
	if (!head) {
		send_part(x, f);
		return;
	}
	uint64_t size = blob_file_size(f);
	blob_file_close(f);
	http_add_header(x, "Accept-Ranges", STR("bytes"));
	http_respond_begin(x, 200, "application/octet-stream", (int64_t)size);
	http_end(x);
}

struct delete_task {
	struct task t;
	struct digest digest;
};

static void delete_work(struct task *t)
{
	struct delete_task *d = (struct delete_task *)t;
	t->rc = catalog_unlink_blob(t->r->catalog, str_from(t->repo), &d->digest, &t->err);
}

static void delete_done(struct task *t)
{
	if (t->rc == E_NOTFOUND)
		oci_error(t->x, 404, "BLOB_UNKNOWN", "this repository has no such blob");
	else if (t->rc)
		oci_fail(t->x, "UNKNOWN", &t->err);
	else
		http_respond(t->x, 202, NULL, STR(""));
	free(t);
}

void blobs_handle(struct repository *r, struct http_exchange *x, struct str repo, struct str digest)
{
	struct oci_name name;
	struct str method = http_method(x);
	bool head = str_equal(method, STR("HEAD"));
	if (!oci_name(r, x, digest, &name))
		return;
	if (head || str_equal(method, STR("GET"))) {
		get(r, x, repo, &name, head);
	} else if (str_equal(method, STR("DELETE"))) {
		struct delete_task *t = task_new(r, x, repo, sizeof *t);
		t->digest = name.digest; /* not known: all zero, which is nothing's */
		task_run(&t->t, delete_work, delete_done);
	} else {
		oci_method(x, "GET, HEAD, DELETE");
	}
}
