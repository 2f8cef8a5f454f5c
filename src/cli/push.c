/* SPDX-License-Identifier: Apache-2.0 */
/* push.c - config blob, weights, manifest, in that order: a version exists only when all of it does. */
#include "cli/push.h"

#include "base/clock.h"
#include "cli/progress.h"
#include "core/report.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define CONFIG_TYPE "application/vnd.cncf.model.config.v1+json"
#define WEIGHT_TYPE "application/vnd.cncf.model.weight.v1.raw"
#define MANIFEST_TYPE "application/vnd.oci.image.manifest.v1+json"

int name_tag_split(const char *text, char *ret_name, size_t name_size, char *ret_tag, size_t tag_size,
                   struct error *err)
{
	struct str tag, name = str_from(text);
	const char *slash = strrchr(text, '/'), *colon = strrchr(text, ':');
	if (colon && (!slash || colon > slash)) {
		tag = str_from(colon + 1);
		name.len = (size_t)(colon - text);
	} else {
		tag = STR("latest");
	}
	if (name.len == 0 || tag.len == 0 || !str_copy(name, ret_name, name_size) || !str_copy(tag, ret_tag, tag_size))
		return error_set(err, E_INVAL, "`%s` is not NAME:TAG (lower case, at most 128 bytes each)", text);
	return 0;
}

int repository_find(struct client *c, const char *url, struct repository_at *ret_at, struct error *err)
{
	yyjson_doc *doc;
	yyjson_val *nodes = NULL, *node;
	size_t i, max;
	*ret_at = (struct repository_at){0};
	if (url) {
		if (!str_copy(str_from(url), ret_at->url, sizeof ret_at->url))
			return error_set(err, E_INVAL, "the repository's URL is too long");
		return 0;
	}
	int rc = client_json(c, "GET", "/mdn/v1/nodes", STR(""), &doc, err);
	if (rc)
		return rc;
	rc = json_arr(yyjson_doc_get_root(doc), "nodes", &nodes, err);
	yyjson_arr_foreach(nodes, i, max, node)
	{
		struct str roles = {0}, at = {0}, id = {0};
		uint32_t bits;
		json_str(node, "roles", &roles, NULL);
		json_str(node, "node_url", &at, NULL);
		json_str(node, "id", &id, NULL);
		if (node_roles_parse(roles, &bits, NULL) || !(bits & ROLE_REPOSITORY) || at.len == 0)
			continue;
		if (str_copy(at, ret_at->url, sizeof ret_at->url) && str_copy(id, ret_at->id, sizeof ret_at->id))
			break;
	}
	yyjson_doc_free(doc);
	if (rc == 0 && !ret_at->url[0])
		rc = error_set(err, E_NOTFOUND,
		               "no node of this network has the role repository (yet): see `mdn nodes`");
	return rc;
}

int digest_of_file(int fd, uint64_t size, const char *what, bool quiet, struct digest *ret_digest, struct error *err)
{
	static char piece[1 << 20];
	struct digest_stream *s = digest_stream_new();
	struct progress p;
	uint64_t done = 0;
	int rc = 0;
	progress_start(&p, what, size);
	while (rc == 0 && done < size) {
		ssize_t got = pread(fd, piece, sizeof piece, (off_t)done);
		if (got <= 0)
			rc = error_errno(err, got < 0 ? errno : EIO, "cannot read the file at byte %llu",
			                 (unsigned long long)done);
		else
			digest_stream_add(s, piece, (size_t)got);
		done += got > 0 ? (uint64_t)got : 0;
		if (!quiet)
			progress_show(&p, done);
	}
	if (rc == 0)
		*ret_digest = digest_stream_end(s);
	digest_stream_free(s);
	return rc;
}

/* ---- blobs ---------------------------------------------------------------------------------------- */

static void on_sent(void *arg, uint64_t done)
{
	if (arg)
		progress_show(arg, done);
}

static int blob_is_there(struct client *c, const struct repository_at *at, const char *name, const char *digest,
                         bool *ret_there, struct error *err)
{
	char url[1024];
	struct error why = {0};
	snprintf(url, sizeof url, "%s/v2/%s/blobs/%s", at->url, name, digest);
	struct client_call call = {.method = "HEAD", .url = url, .node_id = at->id[0] ? at->id : NULL};
	int rc = client_run(c, &call, NULL, NULL, &why);
	*ret_there = rc == 0;
	if (rc && rc != E_NOTFOUND)
		return error_set(err, rc, "%s", why.text);
	return 0;
}

/* Location may be relative (RFC 9110 section 10.2.2). */
static int upload_url(struct client *c, const struct repository_at *at, const char *digest, char *ret_url, size_t size,
                      struct error *err)
{
	struct str location;
	if (!client_header(c, "location", &location))
		return error_set(err, E_PEER, "%s gave no Location for the upload", at->url);
	bool absolute = str_starts(location, STR("http"));
	bool query = memchr(location.base, '?', location.len) != NULL;
	int len = snprintf(ret_url, size, "%s" STR_FMT "%cdigest=%s", absolute ? "" : at->url, STR_ARG(location),
	                   query ? '&' : '?', digest);
	return len < (int)size ? 0 : error_set(err, E_PEER, "%s gave a Location that is too long", at->url);
}

int blob_push(struct client *c, const struct repository_at *at, const char *name, const char *digest, int fd,
                     uint64_t size, struct str content, struct progress *progress, struct error *err)
{
	char url[2048];
	bool there;
	int rc = blob_is_there(c, at, name, digest, &there, err);
	if (rc || there)
		return rc;
	snprintf(url, sizeof url, "%s/v2/%s/blobs/uploads/", at->url, name);
	struct client_call start = {.method = "POST", .url = url, .node_id = at->id[0] ? at->id : NULL};
	rc = client_run(c, &start, NULL, NULL, err);
	if (rc == 0)
		rc = upload_url(c, at, digest, url, sizeof url, err);
	if (rc)
		return rc;
	struct client_call put = {
	    .method = "PUT",
	    .url = url,
	    .node_id = at->id[0] ? at->id : NULL,
	    .content_type = "application/octet-stream",
	    .body = content,
	    .fd = fd,
	    .length = size,
	    .on_progress = on_sent,
	    .arg = progress,
	    .timeout_us = 600 * US_PER_S, /* after the last byte the repository still makes it durable */
	};
	return client_run(c, &put, NULL, NULL, err);
}

/* ---- manifest ------------------------------------------------------------------------------------- */

static void format_config(const struct push_options *o, const char *digest, struct buf *out)
{
	buf_append_str(out, STR("{\"descriptor\":{\"name\":"));
	buf_append_json(out, str_from(o->name));
	buf_append_str(out, STR(",\"version\":"));
	buf_append_json(out, str_from(o->tag));
	if (o->license) {
		buf_append_str(out, STR(",\"licenses\":["));
		buf_append_json(out, str_from(o->license));
		buf_append_str(out, STR("]"));
	}
	buf_printf(out, "},\"config\":{\"format\":\"gguf\"},\"modelfs\":{\"type\":\"layers\",\"diffIds\":[\"%s\"]}}",
	           digest);
}

static void format_manifest(const struct push_options *o, const char *config, size_t config_size, const char *weight,
                            uint64_t weight_size, struct buf *out)
{
	const char *slash = strrchr(o->file, '/');
	struct str title = str_from(slash ? slash + 1 : o->file);
	buf_printf(out,
	           "{\"schemaVersion\":2,\"mediaType\":\"" MANIFEST_TYPE
	           "\",\"artifactType\":\"application/vnd.cncf.model.manifest.v1+json\",\"config\":{\"mediaType\":"
	           "\"" CONFIG_TYPE "\",\"digest\":\"%s\",\"size\":%zu},\"layers\":[{\"mediaType\":\"" WEIGHT_TYPE
	           "\",\"digest\":\"%s\",\"size\":%llu,\"annotations\":{\"org.cncf.model.filepath\":",
	           config, config_size, weight, (unsigned long long)weight_size);
	buf_append_json(out, title);
	buf_append_str(out, STR(",\"org.opencontainers.image.title\":"));
	buf_append_json(out, title);
	buf_append_str(out, STR("}}]}"));
}

static int manifest_push(struct client *c, const struct repository_at *at, const struct push_options *o,
                         struct str manifest, struct error *err)
{
	char url[1024];
	snprintf(url, sizeof url, "%s/v2/%s/manifests/%s", at->url, o->name, o->tag);
	struct client_call put = {
	    .method = "PUT",
	    .url = url,
	    .node_id = at->id[0] ? at->id : NULL,
	    .content_type = MANIFEST_TYPE,
	    .body = manifest,
	    .timeout_us = 600 * US_PER_S, /* the repository reads the weights once, to cut them into chunks */
	};
	return client_run(c, &put, NULL, NULL, err);
}

static int push_open(struct client *c, const struct repository_at *at, const struct push_options *o, int fd,
                     uint64_t size, struct digest *ret_manifest, struct error *err)
{
	struct digest weight_digest, config_digest;
	char weight[DIGEST_TEXT_SIZE], config[DIGEST_TEXT_SIZE];
	struct buf config_text = {0}, manifest = {0};
	struct progress p;
	int rc = digest_of_file(fd, size, "hashing", o->quiet, &weight_digest, err);
	if (rc)
		return rc;
	digest_format(&weight_digest, weight);
	format_config(o, weight, &config_text);
	config_digest = digest_of(config_text.base, config_text.len);
	digest_format(&config_digest, config);
	format_manifest(o, config, config_text.len, weight, size, &manifest);
	rc = blob_push(c, at, o->name, config, 0, 0, buf_str(&config_text), NULL, err);
	progress_start(&p, "pushing", size);
	if (rc == 0)
		rc = blob_push(c, at, o->name, weight, fd, size, STR(""), o->quiet ? NULL : &p, err);
	if (rc == 0 && !o->quiet)
		progress_end(&p, size);
	if (rc == 0)
		rc = manifest_push(c, at, o, buf_str(&manifest), err);
	if (rc == 0)
		*ret_manifest = digest_of(manifest.base, manifest.len);
	buf_fini(&config_text);
	buf_fini(&manifest);
	return rc;
}

/* The repository reads the whole header; here only what would otherwise be sent and stored for nothing. */
static int check_file(int fd, const char *file, uint64_t *ret_size, struct error *err)
{
	struct stat st;
	char magic[4];
	if (fstat(fd, &st))
		return error_errno(err, errno, "cannot read %s", file);
	if (!S_ISREG(st.st_mode) || st.st_size == 0)
		return error_set(err, E_INVAL, "%s is not a file with content", file);
	if (pread(fd, magic, sizeof magic, 0) != sizeof magic || memcmp(magic, "GGUF", sizeof magic) != 0)
		return error_set(err, E_INVAL, "%s is not a GGUF model file", file);
	*ret_size = (uint64_t)st.st_size;
	return 0;
}

int push_model(struct client *c, const struct repository_at *at, const struct push_options *o,
               struct digest *ret_manifest, struct error *err)
{
	uint64_t size = 0;
	int fd = open(o->file, O_RDONLY | O_CLOEXEC), rc;
	if (fd < 0)
		return error_errno(err, errno, "cannot open %s", o->file);
	rc = check_file(fd, o->file, &size, err);
	if (rc == 0)
		rc = push_open(c, at, o, fd, size, ret_manifest, err);
	close(fd);
	return rc;
}

int place_model(struct client *c, const char *model, const char *selector, bool removes, size_t *ret_count,
                struct error *err)
{
	struct buf body = {0};
	yyjson_doc *doc = NULL;
	yyjson_val *nodes = NULL;
	buf_append_str(&body, STR("{\"model\":"));
	buf_append_json(&body, str_from(model));
	buf_append_str(&body, STR(",\"on\":"));
	buf_append_json(&body, str_from(selector));
	buf_printf(&body, ",\"remove\":%s}", removes ? "true" : "false");
	int rc = client_json(c, "POST", "/mdn/v1/place", buf_str(&body), &doc, err);
	if (rc == 0 && (rc = json_arr(yyjson_doc_get_root(doc), "nodes", &nodes, err)) == 0)
		*ret_count = yyjson_arr_size(nodes);
	yyjson_doc_free(doc);
	buf_fini(&body);
	return rc;
}
