/* SPDX-License-Identifier: Apache-2.0 */
/* The list of a repository's tags in pages (distribution-spec end-8a, end-8b; RFC 8288 Link). A page is read in a job,
 * STEP tags at a time, so that nobody waits long for the catalog. */
#include "serve/repository/repository_private.h"

#include <stdlib.h>

#define PAGE_MAX 20000
#define STEP 1000

struct tags_task {
	struct task t;
	struct buf body;
	size_t wanted, count; /* of this page */
	size_t left;          /* of this step */
	bool more;
	char last[129]; /* given by the client, then the last one in the page */
};

/* A tag has no character that needs escaping. */
static void add_tag(void *arg, struct str tag)
{
	struct tags_task *p = arg;
	if (!p->left) {
		p->more = true; /* the one after the last only shows that there is more */
		return;
	}
	p->left--;
	buf_append_str(&p->body, p->count++ ? STR(",\"") : STR("\""));
	buf_append_str(&p->body, tag);
	buf_append_str(&p->body, STR("\""));
	str_copy(tag, p->last, sizeof p->last);
}

static void list_work(struct task *t)
{
	struct tags_task *p = (struct tags_task *)t;
	char after[129];
	buf_append_str(&p->body, STR("{\"name\":"));
	buf_append_json(&p->body, str_from(t->repo));
	buf_append_str(&p->body, STR(",\"tags\":["));
	p->more = p->wanted > 0;
	while (!t->rc && p->more && p->count < p->wanted) {
		size_t step = p->wanted - p->count < STEP ? p->wanted - p->count : STEP;
		p->more = false;
		p->left = step;
		memcpy(after, p->last, sizeof after);
		t->rc = catalog_tags(t->r->catalog, str_from(t->repo), str_from(after), step + 1, add_tag, p, &t->err);
	}
	buf_append_str(&p->body, STR("]}\n"));
}

static void list_done(struct task *t)
{
	struct tags_task *p = (struct tags_task *)t;
	struct buf link = {0};
	if (t->rc) {
		oci_fail(t->x, "UNKNOWN", &t->err);
	} else {
		if (p->more) {
			buf_printf(&link, "</v2/%s/tags/list?n=%zu&last=%s>; rel=\"next\"", t->repo, p->wanted,
			           p->last);
			http_add_header(t->x, "Link", buf_str(&link));
		}
		http_respond(t->x, 200, "application/json", buf_str(&p->body));
	}
	buf_fini(&link);
	buf_fini(&p->body);
	free(p);
}

void tags_handle(struct repository *r, struct http_exchange *x, struct str repo)
{
	struct str method = http_method(x), text, last = STR("");
	uint64_t n = PAGE_MAX;
	if (!str_equal(method, STR("GET")) && !str_equal(method, STR("HEAD"))) {
		oci_method(x, "GET, HEAD");
		return;
	}
	if (http_query(x, "n", &text) && str_to_u64(text, &n)) {
		oci_error(x, 400, "UNSUPPORTED", "\"n\" must be a number");
		return;
	}
	if (!catalog_has_repo(r->catalog, repo)) {
		oci_error(x, 404, "NAME_UNKNOWN", "there is no such repository here");
		return;
	}
	http_query(x, "last", &last);
	struct tags_task *p = task_new(r, x, repo, sizeof *p);
	p->wanted = n < PAGE_MAX ? (size_t)n : PAGE_MAX;
	if (!str_copy(last, p->last, sizeof p->last)) {
		oci_error(x, 400, "UNSUPPORTED", "\"last\" must be a tag");
		free(p);
		return;
	}
	task_run(&p->t, list_work, list_done);
}
