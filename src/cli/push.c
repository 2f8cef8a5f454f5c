/* SPDX-License-Identifier: Apache-2.0 */
/* push.c - config blob, files, manifest, in that order: a version exists only when all of it does. The same files
 * always give the same manifest: they are sorted, and no time is noted. */
#include "cli/push.h"

#include "base/clock.h"
#include "cli/progress.h"
#include "core/report.h"
#include "serve/repository/compose.h"
#include "serve/repository/model.h"
#include "store/ociname.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define SHOWN_FROM (UINT64_C(64) << 20) /* hashing smaller files of a folder shows no progress */

int name_tag_split(const char *text, char *ret_name, size_t name_size, char *ret_tag, size_t tag_size,
                   struct error *err)
{
	struct str tag, name = str_from(text);
	const char *slash = strrchr(text, '/'), *colon = strrchr(text, ':'), *at = strchr(text, '@');
	struct digest_name digest;
	if (at) {
		tag = str_from(at + 1);
		name.len = (size_t)(at - text);
	} else if (colon && (!slash || colon > slash)) {
		tag = str_from(colon + 1);
		name.len = (size_t)(colon - text);
	} else {
		tag = STR("latest");
	}
	if (!oci_repo_valid(name) || !(at ? digest_name_parse(tag, &digest) == 0 : oci_tag_valid(tag)) ||
	    !str_copy(name, ret_name, name_size) || !str_copy(tag, ret_tag, tag_size))
		return error_set(
		    err, E_INVAL,
		    "`%s` is not NAME:TAG (lower case letters, digits and . _ - between them, / in NAME; at "
		    "most 128 bytes each)",
		    text);
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

int digest_of_file(struct client *c, int fd, uint64_t size, const char *what, bool quiet, struct digest *ret_digest,
                   struct error *err)
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
		if (rc == 0 && done % (64 * sizeof piece) == 0)
			rc = client_sleep(c, 0, err);
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
	if (!rc && there && progress)
		progress->found += size;
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

/* ---- files --------------------------------------------------------------------------------------- */

#define FILES_MAX 1024 /* of a version */
#define DEPTH_MAX 16

struct push_file {
	char *path; /* as the version names it */
	uint64_t size;
	struct digest digest;
};

struct push_list {
	int folder_fd; /* -1: one file */
	struct push_file *files;
	size_t count;
	uint64_t size;
};

static void list_fini(struct push_list *l)
{
	for (size_t i = 0; i < l->count; i++)
		free(l->files[i].path);
	free(l->files);
	if (l->folder_fd >= 0)
		close(l->folder_fd);
}

static int list_add(struct push_list *l, const char *path, uint64_t size, struct error *err)
{
	if (strlen(path) > 255 || !path_safe(str_from(path)))
		return error_set(err, E_INVAL, "%s: a model's file has a path of at most 255 bytes of plain UTF-8",
		                 path);
	if (l->count == FILES_MAX)
		return error_set(err, E_LIMIT, "the folder has more than %d files, the most a version can have",
		                 FILES_MAX);
	l->files = mem_resize(l->files, l->count + 1, sizeof *l->files);
	l->files[l->count++] = (struct push_file){.path = str_dup(str_from(path)), .size = size};
	l->size += size;
	return 0;
}

static int list_folder(struct push_list *l, int folder_fd, const char *prefix, int depth, struct error *err);

static int list_entry(struct push_list *l, int folder_fd, const char *name, const char *path, int depth,
                      struct error *err)
{
	struct stat st;
	if (fstatat(folder_fd, name, &st, AT_SYMLINK_NOFOLLOW))
		return error_errno(err, errno, "cannot read %s", path);
	if (S_ISLNK(st.st_mode))
		return error_set(err, E_INVAL,
		                 "%s is a symbolic link; put the file itself there (`cp -L` copies a folder so)", path);
	if (S_ISREG(st.st_mode))
		return list_add(l, path, (uint64_t)st.st_size, err);
	if (!S_ISDIR(st.st_mode))
		return error_set(err, E_INVAL, "%s is neither a file nor a folder", path);
	if (depth == DEPTH_MAX)
		return error_set(err, E_LIMIT, "%s: folders are nested more than %d deep", path, DEPTH_MAX);
	int fd = openat(folder_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? error_errno(err, errno, "cannot open %s", path) : list_folder(l, fd, path, depth + 1, err);
}

/* Takes over folder_fd. */
static int list_folder(struct push_list *l, int folder_fd, const char *prefix, int depth, struct error *err)
{
	DIR *folder = fdopendir(folder_fd);
	struct dirent *entry;
	int rc = 0;
	if (!folder) {
		close(folder_fd);
		return error_errno(err, errno, "cannot read the folder %s", prefix);
	}
	while (!rc && (entry = readdir(folder))) {
		struct buf path = {0};
		if (entry->d_name[0] == '.')
			continue;
		buf_printf(&path, "%s%s%s", prefix, prefix[0] ? "/" : "", entry->d_name);
		buf_append(&path, "", 1);
		rc = list_entry(l, folder_fd, entry->d_name, path.base, depth, err);
		buf_fini(&path);
	}
	closedir(folder);
	return rc;
}

static int by_path(const void *a, const void *b)
{
	return strcmp(((const struct push_file *)a)->path, ((const struct push_file *)b)->path);
}

/* The repository reads the whole header; here only what would otherwise be sent and stored for nothing. */
static int check_file(const char *file, uint64_t *ret_size, struct error *err)
{
	struct stat st;
	char magic[4];
	int fd = open(file, O_RDONLY | O_CLOEXEC), rc = 0;
	if (fd < 0)
		return error_errno(err, errno, "cannot open %s", file);
	if (fstat(fd, &st))
		rc = error_errno(err, errno, "cannot read %s", file);
	else if (!S_ISREG(st.st_mode) || st.st_size == 0)
		rc = error_set(err, E_INVAL, "%s is not a file with content", file);
	else if (pread(fd, magic, sizeof magic, 0) != sizeof magic || memcmp(magic, "GGUF", sizeof magic) != 0)
		rc = error_set(err, E_INVAL, "%s is not a GGUF model file; other models are pushed as a folder", file);
	*ret_size = rc ? 0 : (uint64_t)st.st_size;
	close(fd);
	return rc;
}

static int list_make(struct push_list *l, const char *file, struct error *err)
{
	const char *slash = strrchr(file, '/');
	uint64_t size;
	int rc;
	*l = (struct push_list){.folder_fd = open(file, O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
	if (l->folder_fd < 0) {
		rc = check_file(file, &size, err);
		return rc ? rc : list_add(l, slash ? slash + 1 : file, size, err);
	}
	int fd = openat(l->folder_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	rc = fd < 0 ? error_errno(err, errno, "cannot read %s", file) : list_folder(l, fd, "", 0, err);
	if (rc == 0 && l->count == 0)
		rc = error_set(err, E_INVAL, "the folder %s has no files", file);
	if (rc == 0)
		qsort(l->files, l->count, sizeof *l->files, by_path);
	return rc;
}

static int list_open(const struct push_list *l, const char *file, size_t i, int *ret_fd, struct error *err)
{
	struct stat st;
	const char *path = l->folder_fd < 0 ? file : l->files[i].path;
	int fd = openat(l->folder_fd < 0 ? AT_FDCWD : l->folder_fd, path,
	                O_RDONLY | O_CLOEXEC | (l->folder_fd < 0 ? 0 : O_NOFOLLOW));
	if (fd < 0 || fstat(fd, &st)) {
		int rc = error_errno(err, errno, "cannot open %s", path);
		if (fd >= 0)
			close(fd);
		return rc;
	}
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != l->files[i].size) {
		close(fd);
		return error_set(err, E_CONFLICT, "%s changed while it was pushed; push again", path);
	}
	*ret_fd = fd;
	return 0;
}

/* ---- manifest ------------------------------------------------------------------------------------- */

static bool ends_with(const char *path, const char *end)
{
	return str_ends(str_from(path), str_from(end));
}

static const char *format_of(const struct push_list *l)
{
	bool safetensors = false;
	for (size_t i = 0; i < l->count; i++) {
		if (ends_with(l->files[i].path, ".gguf") || l->folder_fd < 0)
			return "gguf";
		safetensors = safetensors || ends_with(l->files[i].path, ".safetensors");
	}
	return safetensors ? "safetensors" : "";
}

static int list_versioned(const struct push_list *l, struct version_file **ret_files, struct error *err)
{
	struct version_file *files = mem_new(l->count * sizeof *files);
	for (size_t i = 0; i < l->count; i++) {
		const struct push_file *f = &l->files[i];
		files[i].digest = f->digest;
		files[i].size = f->size;
		if (str_copy(str_from(f->path), files[i].path, sizeof files[i].path))
			continue;
		free(files);
		return error_set(err, E_INVAL, "%s: the path of a file has at most %zu bytes", f->path,
		                 sizeof files[i].path - 1);
	}
	*ret_files = files;
	return 0;
}

static void format_manifest(const struct push_options *o, struct str config, const struct version_file *files,
                            size_t count, struct buf *out)
{
	struct compose_note *notes = mem_new((3 + o->label_count) * sizeof *notes);
	notes[0] = (struct compose_note){"org.opencontainers.image.licenses", compose_some(o->license)};
	notes[1] = (struct compose_note){MODEL_BASE, compose_some(o->base)};
	notes[2] = (struct compose_note){MODEL_DISTILLED, compose_some(o->distilled)};
	for (size_t i = 0; i < o->label_count; i++) {
		struct str value, key = str_cut(str_from(o->labels[i]), '=', &value);
		notes[3 + i] = (struct compose_note){str_dup(key), str_dup(value)};
	}
	compose_manifest(config, files, count, notes, 3 + o->label_count, out);
	for (size_t i = 3; i < 3 + o->label_count; i++) {
		free((char *)notes[i].key);
		free((char *)notes[i].value);
	}
	free(notes);
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
	    .content_type = COMPOSE_MANIFEST,
	    .body = manifest,
	    .timeout_us = 600 * US_PER_S, /* the repository reads the weights once, to cut them into chunks */
	};
	return client_run(c, &put, NULL, NULL, err);
}

/* ---- the whole -------------------------------------------------------------------------------------- */

static int hash_files(struct client *c, const struct push_options *o, struct push_list *l, struct error *err)
{
	for (size_t i = 0; i < l->count; i++) {
		struct push_file *f = &l->files[i];
		int fd, rc = list_open(l, o->file, i, &fd, err);
		if (rc)
			return rc;
		rc = digest_of_file(c, fd, f->size, l->count > 1 ? f->path : "hashing",
		                    o->quiet || (l->count > 1 && f->size < SHOWN_FROM), &f->digest, err);
		close(fd);
		if (rc)
			return l->count > 1 ? error_prefix(err, "%s: ", f->path) : rc;
	}
	return 0;
}

static int push_files(struct client *c, const struct repository_at *at, const struct push_options *o,
                      const struct push_list *l, struct error *err)
{
	struct progress p;
	progress_start(&p, "pushing", l->size);
	for (size_t i = 0; i < l->count; i++) {
		const struct push_file *f = &l->files[i];
		char digest[DIGEST_TEXT_SIZE];
		int fd, rc = list_open(l, o->file, i, &fd, err);
		if (rc)
			return rc;
		digest_format(&f->digest, digest);
		rc = blob_push(c, at, o->name, digest, f->size ? fd : 0, f->size, STR(""), o->quiet ? NULL : &p, err);
		close(fd);
		if (rc)
			return l->count > 1 ? error_prefix(err, "%s: ", f->path) : rc;
		p.before += f->size;
	}
	if (!o->quiet)
		progress_end(&p, 0);
	return 0;
}

int push_model(struct client *c, const struct repository_at *at, const struct push_options *o,
               struct digest *ret_manifest, struct error *err)
{
	struct push_list l;
	struct version_file *files = NULL;
	struct digest d;
	char digest[DIGEST_TEXT_SIZE];
	struct buf config = {0}, manifest = {0};
	int rc = list_make(&l, o->file, err);
	if (rc == 0)
		rc = hash_files(c, o, &l, err);
	if (rc == 0)
		rc = list_versioned(&l, &files, err);
	if (rc == 0) {
		compose_config(str_from(o->name), str_from(o->tag), str_from(format_of(&l)), str_from(o->license),
		               files, l.count, &config);
		format_manifest(o, buf_str(&config), files, l.count, &manifest);
		d = digest_of(config.base, config.len);
		digest_format(&d, digest);
		rc = blob_push(c, at, o->name, digest, 0, 0, buf_str(&config), NULL, err);
	}
	if (rc == 0)
		rc = push_files(c, at, o, &l, err);
	if (rc == 0)
		rc = manifest_push(c, at, o, buf_str(&manifest), err);
	if (rc == 0)
		*ret_manifest = digest_of(manifest.base, manifest.len);
	list_fini(&l);
	free(files);
	buf_fini(&config);
	buf_fini(&manifest);
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
