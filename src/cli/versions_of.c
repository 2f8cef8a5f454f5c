/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/versions_of.h"

#include "base/limits.h"
#include "store/ociname.h"

#include <stdio.h>

int repository_client(const struct args *args, struct client **ret_client, struct error *err)
{
	const char *url = args_value(args, "repository");
	if (url && !str_starts(str_from(url), STR("https:")))
		return client_open_plain(ret_client, err);
	return client_open(args_value(args, "operator"), ret_client, err);
}

int repository_version(struct client *c, const struct repository_at *at, const char *model, struct version *ret_version,
                       struct error *err)
{
	char url[1024];
	struct buf body = {0};
	struct str repo, tag, name, its_tag;
	yyjson_doc *doc = NULL;
	yyjson_val *list = NULL, *item, *found = NULL;
	size_t i, max;
	if (!oci_reference_parse(str_from(model), &repo, &tag))
		return error_set(err, E_INVAL, "`%s` is no file or folder here, and not NAME:TAG either", model);
	snprintf(url, sizeof url, "%s/mdn/v1/catalog", at->url);
	struct client_call call = {
	    .url = url, .node_id = at->id[0] ? at->id : NULL, .body_max = LIMIT_CONTROL_DOCUMENT};
	int rc = client_run(c, &call, NULL, &body, err);
	if (!rc)
		rc = json_parse(buf_str(&body), &doc, err);
	if (!rc)
		rc = json_arr(yyjson_doc_get_root(doc), "versions", &list, err);
	yyjson_arr_foreach(list, i, max, item)
	{
		if (!found && yyjson_is_obj(item) && !json_str(item, "name", &name, NULL) && str_equal(name, repo) &&
		    !json_str(item, "tag", &its_tag, NULL) && str_equal(its_tag, tag))
			found = item;
	}
	if (!rc && !found)
		rc = error_set(err, E_NOTFOUND, "the repository has no model " STR_FMT ":" STR_FMT, STR_ARG(repo),
		               STR_ARG(tag));
	if (!rc)
		rc = version_parse(found, ret_version, err);
	yyjson_doc_free(doc);
	buf_fini(&body);
	return rc;
}

int repository_get_blob(struct client *c, const struct repository_at *at, const char *name, const struct digest *d,
                        size_t max_bytes, struct buf *out, struct error *err)
{
	char url[1024], text[DIGEST_TEXT_SIZE];
	digest_format(d, text);
	snprintf(url, sizeof url, "%s/v2/%s/blobs/%s", at->url, name, text);
	struct client_call call = {.url = url, .node_id = at->id[0] ? at->id : NULL, .body_max = max_bytes};
	int rc = client_run(c, &call, NULL, out, err);
	struct digest got = digest_of(out->base, out->len);
	if (!rc && !digest_equal(&got, d))
		rc = error_set(err, E_CORRUPT, "what the repository sent is not %s", text);
	return rc;
}

int repository_put_blob(struct client *c, const struct repository_at *at, const char *name, struct str content,
                        struct error *err)
{
	char text[DIGEST_TEXT_SIZE];
	struct digest d = digest_of(content.base, content.len);
	digest_format(&d, text);
	return blob_push(c, at, name, text, 0, 0, content, NULL, err);
}

int repository_put_manifest(struct client *c, const struct repository_at *at, const char *name, struct str manifest,
                            struct error *err)
{
	char url[1024], text[DIGEST_TEXT_SIZE];
	struct digest d = digest_of(manifest.base, manifest.len);
	digest_format(&d, text);
	snprintf(url, sizeof url, "%s/v2/%s/manifests/%s", at->url, name, text);
	struct client_call put = {
	    .method = "PUT",
	    .url = url,
	    .node_id = at->id[0] ? at->id : NULL,
	    .content_type = "application/vnd.oci.image.manifest.v1+json",
	    .body = manifest,
	};
	return client_run(c, &put, NULL, NULL, err);
}
