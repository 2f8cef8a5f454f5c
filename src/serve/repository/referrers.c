/* SPDX-License-Identifier: Apache-2.0 */
/* What is attached to a manifest: signatures, model cards, evaluations (distribution-spec end-12a, end-12b). The list
 * is an index made for each question, in pages by the digest of the referrer; a page ends at 4 MiB, as a manifest
 * would. A subject that is not here has an empty list, as the spec demands.
 */
#include "serve/repository/repository_private.h"

#include "base/limits.h"

#include <stdlib.h>

#define PAGE_ROWS 1000
#define INDEX_TYPE "application/vnd.oci.image.index.v1+json"

struct referrers_task {
	struct task t;
	struct digest_name subject;
	char artifact_type[256]; /* empty: any */
	struct catalog_page page;
	struct buf body;
};

static void work(struct task *t)
{
	struct referrers_task *q = (struct referrers_task *)t;
	buf_append_str(&q->body, STR("{\"schemaVersion\":2,\"mediaType\":\"" INDEX_TYPE "\",\"manifests\":["));
	t->rc = catalog_referrers(t->r->catalog, str_from(t->repo), &q->subject, str_from(q->artifact_type), &q->page,
	                          &q->body, &t->err);
	buf_append_str(&q->body, STR("]}\n"));
}

static void add_link(const struct referrers_task *q)
{
	struct buf link = {0};
	char subject[DIGEST_NAME_SIZE], last[DIGEST_TEXT_SIZE];
	digest_name_format(&q->subject, subject);
	digest_format(&q->page.last, last);
	buf_printf(&link, "</v2/%s/referrers/%s?last=%s", q->t.repo, subject, last);
	if (q->artifact_type[0]) {
		buf_append_str(&link, STR("&artifactType="));
		buf_append_escaped(&link, str_from(q->artifact_type), "-._");
	}
	buf_append_str(&link, STR(">; rel=\"next\""));
	http_add_header(q->t.x, "Link", buf_str(&link));
	buf_fini(&link);
}

static void done(struct task *t)
{
	struct referrers_task *q = (struct referrers_task *)t;
	if (t->rc) {
		oci_fail(t->x, "UNKNOWN", &t->err);
	} else {
		if (q->artifact_type[0])
			http_add_header(t->x, "OCI-Filters-Applied", STR("artifactType"));
		if (q->page.more)
			add_link(q);
		http_respond(t->x, 200, INDEX_TYPE, buf_str(&q->body));
	}
	buf_fini(&q->body);
	free(q);
}

void referrers_handle(struct repository *r, struct http_exchange *x, struct str repo, struct str digest)
{
	struct str method = http_method(x), type = STR(""), last;
	struct oci_name subject;
	struct catalog_page page = {.rows_max = PAGE_ROWS, .bytes_max = LIMIT_MANIFEST - 1024};
	if (!str_equal(method, STR("GET")) && !str_equal(method, STR("HEAD"))) {
		oci_method(x, "GET, HEAD");
		return;
	}
	if (!oci_name(r, x, digest, &subject))
		return;
	page.begun = http_query(x, "last", &last) && last.len;
	if (page.begun && digest_parse(last, &page.last)) {
		oci_error(x, 400, "UNSUPPORTED", "\"last\" must be the digest that a page before this one ended with");
		return;
	}
	struct referrers_task *q = task_new(r, x, repo, sizeof *q);
	q->subject = subject.name;
	q->page = page;
	http_query(x, "artifactType", &type);
	if (!str_copy(type, q->artifact_type, sizeof q->artifact_type)) {
		oci_error(x, 400, "UNSUPPORTED", "\"artifactType\" is longer than 255 bytes");
		free(q);
		return;
	}
	task_run(&q->t, work, done);
}
