/* SPDX-License-Identifier: Apache-2.0 */
/* `mdn push`, `mdn pull`, `mdn models`, `mdn place`: models into the network, out of it, and where they are. */
#include "base/clock.h"
#include "base/file.h"
#include "base/limits.h"
#include "cli/answers.h"
#include "cli/model_watch.h"
#include "cli/models_loaded.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/push.h"
#include "cli/show.h"
#include "cli/table.h"
#include "cli/versions.h"
#include "core/report.h"
#include "store/ociname.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* A client that may reach the repository: the operator, or nobody when a plain URL is named. */
static int open_for(const struct args *args, struct client **ret_client, struct error *err)
{
	const char *url = args_value(args, "repository");
	if (url && !str_starts(str_from(url), STR("https:")))
		return client_open_plain(ret_client, err);
	return client_open(args_value(args, "operator"), ret_client, err);
}

#define LABELS_MAX 64

/* ---- push ----------------------------------------------------------------------------------------- */

int cmd_push(const struct args *args)
{
	struct client *c;
	struct error err = {0};
	struct repository_at at;
	struct digest manifest;
	char name[NODE_TEXT_SIZE], tag[NODE_TEXT_SIZE], model[2 * NODE_TEXT_SIZE], digest[DIGEST_TEXT_SIZE];
	const char *selector = args_value(args, "on");
	size_t nodes = 0;
	if (name_tag_split(args_operand(args, 1), name, sizeof name, tag, sizeof tag, &err))
		return args_fail_words(args, &err);
	if (strchr(args_operand(args, 1), '@'))
		return args_usage(args, "a version is pushed under NAME:TAG; its digest comes of itself");
	if (open_for(args, &c, &err))
		return args_fail(args, &err);
	const char *labels[LABELS_MAX], *label;
	struct push_options o = {.file = args_operand(args, 0),
	                         .name = name,
	                         .tag = tag,
	                         .license = args_value(args, "license"),
	                         .base = args_value(args, "base"),
	                         .distilled = args_value(args, "distilled-from"),
	                         .labels = labels,
	                         .quiet = args_has(args, "quiet")};
	while (o.label_count < LABELS_MAX && (label = args_nth(args, "label", (unsigned)o.label_count)))
		labels[o.label_count++] = label;
	snprintf(model, sizeof model, "%s:%s", name, tag);
	int rc = repository_find(c, args_value(args, "repository"), &at, &err);
	if (rc == 0)
		rc = push_model(c, &at, &o, &manifest, &err);
	if (rc == 0 && selector)
		rc = place_model(c, model, selector, false, &nodes, &err);
	if (rc == 0) {
		digest_format(&manifest, digest);
		if (args_has(args, "json"))
			printf("{\"model\":\"%s\",\"digest\":\"%s\"}\n", model, digest);
		else
			printf("%s is in the repository: %s\n", model, digest);
		if (selector && !args_has(args, "json"))
			printf("Placed on %zu nodes; watch with: mdn models %s\n", nodes, model);
		else if (!args_has(args, "json"))
			printf("Place it: mdn place %s --on role=edge\n", model);
	}
	client_close(c);
	return rc ? args_fail(args, &err) : EXIT_DONE;
}

/* ---- models --------------------------------------------------------------------------------------- */

static void print_models(yyjson_val *root)
{
	struct table *t = table_new("~MODEL,ARCHITECTURE,QUANTIZATION,>PARAMETERS,>SIZE,>PLACED,>READY,>FAILED");
	yyjson_val *model, *file;
	size_t i, max, k, files;
	yyjson_arr_foreach(yyjson_obj_get(root, "models"), i, max, model)
	{
		char size[16];
		uint64_t bytes = 0;
		struct str name = answer_text(model, "name"), tag = answer_text(model, "tag");
		struct str arch = answer_text(model, "architecture"), quant = answer_text(model, "quantization");
		int64_t parameters = answer_number(model, "parameters");
		yyjson_arr_foreach(yyjson_obj_get(model, "files"), k, files, file) bytes +=
		    (uint64_t)answer_number(file, "size");
		format_bytes(bytes, size);
		bool retired = yyjson_get_bool(yyjson_obj_get(model, "retired"));
		table_add(t, STR_FMT ":" STR_FMT "%s", STR_ARG(name), STR_ARG(tag), retired ? " (retired)" : "");
		table_add(t, STR_FMT, STR_ARG(arch));
		table_add(t, STR_FMT, STR_ARG(quant));
		if (parameters >= 1000000000)
			table_add(t, "%.1f B", (double)parameters / 1e9);
		else if (parameters >= 1000000)
			table_add(t, "%.0f M", (double)parameters / 1e6);
		else
			table_add(t, parameters ? "%.0f K" : "", (double)parameters / 1e3);
		table_add(t, "%s", size);
		table_add(t, "%lld", (long long)answer_number(model, "placed"));
		table_add(t, "%lld", (long long)answer_number(model, "ready"));
		table_add(t, "%lld", (long long)answer_number(model, "failed"));
	}
	table_print(t, stdout);
	table_free(t);
}

/* What is said of a version, in a line each; what nobody said is left out. */
static void print_said(yyjson_val *root)
{
	static const struct {
		const char *key, *words;
	} said[] = {{"license", "License"},
	            {"base_model", "Made from"},
	            {"quantized_from", "Quantized from"},
	            {"distilled_from", "Distilled from"},
	            {"revision", "Revision"}};
	yyjson_val *labels = yyjson_obj_get(root, "labels"), *key, *value;
	size_t i, max;
	if (yyjson_get_bool(yyjson_obj_get(root, "retired")))
		printf("Retired\n");
	for (i = 0; i < sizeof said / sizeof *said; i++) {
		struct str text = answer_text(root, said[i].key);
		if (text.len)
			printf("%s: " STR_FMT "\n", said[i].words, STR_ARG(text));
	}
	if (!yyjson_obj_size(labels))
		return;
	printf("Labels:");
	yyjson_obj_foreach(labels, i, max, key, value)
	    printf(" %s=%s", yyjson_get_str(key), yyjson_get_str(value) ? yyjson_get_str(value) : "");
	printf("\n");
}

static void print_one(yyjson_val *root)
{
	print_said(root);
	model_print(root);
}

/* model has its tag. */
static int watch(const struct args *args, const char *model)
{
	struct client *c;
	struct error err = {0};
	if (client_open(args_value(args, "operator"), &c, &err))
		return args_fail(args, &err);
	int rc = model_watch(c, model, args_has(args, "json"), &err);
	client_close(c);
	return rc ? args_fail(args, &err) : EXIT_DONE;
}

int cmd_models(const struct args *args)
{
	struct buf path = {0};
	const char *model = args_operand(args, 0);
	if (versions_is_search(args))
		return versions_search(args);
	if (args_has(args, "watch") && !model)
		return args_usage(args, "say which model to watch");
	if (args_has(args, "loaded") && model)
		return args_usage(args, "--loaded lists all models");
	if (args_has(args, "loaded"))
		return center_show(args, "/mdn/v1/nodes", models_loaded_print);
	if (!model)
		return center_show(args, "/mdn/v1/models", print_models);
	buf_printf(&path, "/mdn/v1/models/%s%s", model, strchr(model, ':') ? "" : ":latest");
	buf_append(&path, "", 1);
	int code = args_has(args, "watch") ? watch(args, path.base + sizeof "/mdn/v1/models/" - 1)
	                                   : center_show(args, path.base, print_one);
	buf_fini(&path);
	return code;
}

/* ---- pull ----------------------------------------------------------------------------------------- */

struct pulling {
	int fd;
	uint64_t from, size;
	struct progress *progress;
	uint64_t done;
	struct error error;
};

static bool on_pulled(void *arg, int status, struct str data)
{
	struct pulling *p = arg;
	if (status == 200 && p->done == 0 && p->from > 0) {
		/* the server sends it all: begin again */
		p->from = 0;
		if (ftruncate(p->fd, 0) || lseek(p->fd, 0, SEEK_SET) < 0)
			return error_errno(&p->error, errno, "cannot begin the file again") == 0;
	}
	if (data.len > p->size - p->from - p->done)
		return error_set(&p->error, E_CORRUPT, "more comes than the manifest says") == 0;
	for (size_t at = 0; at < data.len;) {
		ssize_t put = write(p->fd, data.base + at, data.len - at);
		if (put < 0)
			return error_errno(&p->error, errno, "cannot write the file") == 0;
		at += (size_t)put;
	}
	p->done += data.len;
	progress_show(p->progress, p->from + p->done);
	return true;
}

/* The layer as FILE.part until its digest is right; what an earlier try left is gone on with. */
static int pull_blob(struct client *c, const struct repository_at *at, const char *name, const char *digest,
                     uint64_t size, const char *file, struct error *err)
{
	struct buf url = {0}, part = {0};
	struct progress progress;
	struct digest want, got;
	struct stat st;
	buf_printf(&part, "%s.part", file);
	buf_append(&part, "", 1);
	struct pulling p = {.progress = &progress, .size = size};
	p.fd = open(part.base, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	int rc = p.fd < 0 || fstat(p.fd, &st) ? error_errno(err, errno, "cannot write %s", part.base) : 0;
	if (rc == 0)
		rc = digest_parse(str_from(digest), &want) ? error_set(err, E_PEER, "`%s` is not a digest", digest) : 0;
	if (rc == 0) {
		p.from = (uint64_t)st.st_size <= size ? (uint64_t)st.st_size : 0;
		if (ftruncate(p.fd, (off_t)p.from) || lseek(p.fd, (off_t)p.from, SEEK_SET) < 0)
			rc = error_errno(err, errno, "cannot go on with %s", part.base);
	}
	progress_start(&progress, "pulling", size);
	if (rc == 0 && p.from < size) {
		char range[64];
		snprintf(range, sizeof range, "bytes=%llu-", (unsigned long long)p.from);
		buf_printf(&url, "%s/v2/%s/blobs/%s", at->url, name, digest);
		buf_append(&url, "", 1);
		struct client_call call = {
		    .url = url.base,
		    .node_id = at->id[0] ? at->id : NULL,
		    .range = p.from ? range : NULL,
		    .on_data = on_pulled,
		    .arg = &p,
		};
		rc = client_run(c, &call, NULL, NULL, err);
		if (p.error.code)
			rc = error_set(err, p.error.code, "%s", p.error.text);
	}
	if (rc == 0)
		progress_end(&progress, size);
	if (rc == 0)
		rc = digest_of_file(c, p.fd, size, "checking", false, &got, err);
	if (rc == 0 && !digest_equal(&want, &got)) {
		unlink(part.base);
		rc = error_set(err, E_CORRUPT, "what came is not %s; nothing was kept, try again", digest);
	}
	if (rc == 0 && (fsync(p.fd) || rename(part.base, file)))
		rc = error_errno(err, errno, "cannot finish %s", file);
	if (p.fd >= 0)
		close(p.fd);
	buf_fini(&url);
	buf_fini(&part);
	return rc;
}

/* The name a layer gives itself, with its folders when those may be, and nothing that leaves the folder. */
static void layer_title(yyjson_val *layer, const char *fallback, char *ret_title, size_t size)
{
	yyjson_val *annotations = yyjson_obj_get(layer, "annotations");
	struct str title = {0};
	if (annotations)
		json_str(annotations, "org.opencontainers.image.title", &title, NULL);
	if (!path_safe(title) || title.base[0] == '.' || title.len >= size)
		title = str_from(fallback);
	snprintf(ret_title, size, STR_FMT, STR_ARG(title));
}

/* FOLDER/TITLE on the heap, its folders made. */
static int place_of(const char *folder, const char *title, char **ret_path, struct error *err)
{
	char *path = file_join(str_from(folder), title), *slash = strrchr(path, '/');
	int rc = 0;
	*slash = 0;
	if (!file_exists(path))
		rc = folder_make(path, 0755, err);
	*slash = '/';
	if (rc) {
		free(path);
		return rc;
	}
	*ret_path = path;
	return 0;
}

static int pull_layer(struct client *c, const struct repository_at *at, const char *name, yyjson_val *layer,
                      const char *file, const char *folder, struct error *err)
{
	char title[256], digest[DIGEST_TEXT_SIZE], *path = NULL;
	int rc = 0;
	if (!str_copy(answer_text(layer, "digest"), digest, sizeof digest) ||
	    !str_starts(str_from(digest), STR("sha256:")))
		return error_set(err, E_PEER, "the manifest names a layer by something else than a sha256 digest");
	layer_title(layer, digest + 7, title, sizeof title);
	if (!file)
		rc = place_of(folder, title, &path, err);
	if (rc == 0)
		rc = pull_blob(c, at, name, digest, (uint64_t)answer_number(layer, "size"), file ? file : path, err);
	if (rc == 0)
		printf("%s\n", file ? file : str_starts(str_from(path), STR("./")) ? path + 2 : path);
	free(path);
	return rc;
}

static bool is_folder(const char *path)
{
	struct stat st;
	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static int pull(struct client *c, const struct args *args, const struct repository_at *at, const char *name,
                const char *tag, struct error *err)
{
	struct buf url = {0}, answer = {0};
	yyjson_doc *doc = NULL;
	yyjson_val *layers = NULL, *layer;
	const char *named = args_value(args, "output");
	size_t i, max;
	buf_printf(&url, "%s/v2/%s/manifests/%s", at->url, name, tag);
	buf_append(&url, "", 1);
	struct client_call call = {.url = url.base, .node_id = at->id[0] ? at->id : NULL, .body_max = LIMIT_MANIFEST};
	int rc = client_run(c, &call, NULL, &answer, err);
	if (rc == 0 && (rc = json_parse(buf_str(&answer), &doc, err)) == 0)
		rc = json_arr(yyjson_doc_get_root(doc), "layers", &layers, err);
	yyjson_arr_foreach(layers, i, max, layer)
	{
		/* One file goes where -o says, unless that is a folder; several go below it. */
		bool one = named && max == 1 && !str_ends(str_from(named), STR("/")) && !is_folder(named);
		if (rc)
			break;
		rc = pull_layer(c, at, name, layer, one ? named : NULL, named ? named : ".", err);
	}
	yyjson_doc_free(doc);
	buf_fini(&url);
	buf_fini(&answer);
	return rc;
}

int cmd_pull(const struct args *args)
{
	struct client *c;
	struct error err = {0};
	struct repository_at at;
	char name[NODE_TEXT_SIZE], tag[NODE_TEXT_SIZE];
	if (name_tag_split(args_operand(args, 0), name, sizeof name, tag, sizeof tag, &err))
		return args_fail_words(args, &err);
	if (open_for(args, &c, &err))
		return args_fail(args, &err);
	int rc = repository_find(c, args_value(args, "repository"), &at, &err);
	if (rc == 0)
		rc = pull(c, args, &at, name, tag, &err);
	client_close(c);
	return rc ? args_fail(args, &err) : EXIT_DONE;
}
