/* SPDX-License-Identifier: Apache-2.0 */
/* The list of a repository's tags in pages (distribution-spec end-8a, end-8b; RFC 8288 Link). */
#include "serve/repository/repository_private.h"

#define PAGE_MAX 1000

struct page {
	struct buf *body;
	size_t left; /* of the page; the tag after it only shows that there is more */
	bool more;
	char last[129];
};

static void add_tag(void *arg, struct str tag)
{
	struct page *p = arg;
	if (!p->left) {
		p->more = true;
		return;
	}
	p->left--;
	if (p->last[0])
		buf_append_str(p->body, STR(","));
	buf_append_json(p->body, tag);
	str_copy(tag, p->last, sizeof p->last);
}

void tags_handle(struct repository *r, struct http_exchange *x, struct str repo)
{
	struct str method = http_method(x), text, last = STR("");
	struct buf body = {0}, link = {0};
	struct error err = {0};
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
	struct page page = {.body = &body, .left = n < PAGE_MAX ? (size_t)n : PAGE_MAX};
	size_t wanted = page.left;
	buf_append_str(&body, STR("{\"name\":"));
	buf_append_json(&body, repo);
	buf_append_str(&body, STR(",\"tags\":["));
	if (wanted && catalog_tags(r->catalog, repo, last, wanted + 1, add_tag, &page, &err)) {
		oci_fail(x, "UNKNOWN", &err);
	} else {
		buf_append_str(&body, STR("]}\n"));
		if (page.more) { /* a tag has no character that needs escaping */
			buf_printf(&link, "</v2/" STR_FMT "/tags/list?n=%zu&last=%s>; rel=\"next\"", STR_ARG(repo),
			           wanted, page.last);
			http_add_header(x, "Link", buf_str(&link));
		}
		http_respond(x, 200, "application/json", buf_str(&body));
	}
	buf_fini(&link);
	buf_fini(&body);
}
