/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/model_files.h"

#include "base/file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char *folder_of(const char *data, const struct version *v)
{
	char hex[2 * DIGEST_SIZE + 1], path[2 * DIGEST_SIZE + 16];
	hex_encode(v->manifest.bytes, DIGEST_SIZE, hex);
	snprintf(path, sizeof path, "models/%s", hex);
	return file_join(str_from(data), path);
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash ? slash + 1 : path;
}

/* Are both parts of the same split file? */
static bool siblings(const struct version_file *a, const struct version_file *b)
{
	static const size_t tail = sizeof "-00001-of-00002.gguf" - 1;
	uint32_t part, of_a, of_b;
	struct str x = str_from(a->path), y = str_from(b->path);
	return str_ends(x, STR(".gguf")) && str_ends(y, STR(".gguf")) && version_part(x, &part, &of_a) &&
	       version_part(y, &part, &of_b) && of_a == of_b && x.len == y.len && !memcmp(x.base, y.base, x.len - tail);
}

static int link_part(const char *folder, const struct version_file *f, const char *path, struct error *err)
{
	char *link = file_join(str_from(folder), base_name(f->path)), *absolute = realpath(path, NULL);
	int rc = 0;
	/* /proc/self/fd/N resolves to a file that has no name: it is linked as it is. */
	const char *to = absolute && access(absolute, R_OK) == 0 ? absolute : path;
	unlink(link);
	if (symlink(to, link))
		rc = error_errno(err, errno, "cannot write %s", link);
	free(absolute);
	free(link);
	return rc;
}

static int link_parts(struct sealed_files *sealed, const char *folder, const struct version *v,
                      const struct version_file *first, struct error *err)
{
	int busy = 0, rc = folder_make(folder, 0750, err);
	for (size_t i = 0; i < v->file_count && !rc; i++) {
		const struct version_file *f = &v->files[i];
		char *path = NULL;
		if (!siblings(first, f))
			continue;
		rc = sealed_files_path(sealed, &f->digest, &path, err);
		if (!rc)
			rc = link_part(folder, f, path, err);
		free(path);
		if (rc == E_BUSY) { /* the others may begin, too */
			busy = rc;
			rc = 0;
		}
	}
	return rc ? rc : busy;
}

int model_files_path(struct sealed_files *sealed, const char *data, const struct version *v, char **ret_path,
                     struct error *err)
{
	const struct version_file *first = version_main_file(v);
	uint32_t part, parts;
	if (!first)
		return error_set(err, E_INVAL, "it has no files");
	if (!version_part(str_from(first->path), &part, &parts) || parts < 2)
		return sealed_files_path(sealed, &first->digest, ret_path, err);
	char *folder = folder_of(data, v);
	int rc = link_parts(sealed, folder, v, first, err);
	if (!rc)
		*ret_path = file_join(str_from(folder), base_name(first->path));
	free(folder);
	return rc;
}

bool model_files_has(const struct version *v, const struct digest *file)
{
	for (size_t i = 0; i < v->file_count; i++)
		if (digest_equal(&v->files[i].digest, file))
			return true;
	return false;
}

void model_files_forget(const char *data, const struct version *v)
{
	char *folder = folder_of(data, v);
	folder_remove(folder, NULL);
	free(folder);
}

void model_files_sweep(const char *data)
{
	char *folder = file_join(str_from(data), "models");
	folder_remove(folder, NULL);
	free(folder);
}

static int parse_quota(const char *text, struct catalog_quota *ret_quota, struct error *err)
{
	struct str size, space = str_cut(str_from(text), '=', &size);
	if (!space.len || memchr(space.base, '/', space.len) ||
	    !str_copy(space, ret_quota->space, sizeof ret_quota->space) || str_to_bytes(size, &ret_quota->bytes) ||
	    ret_quota->bytes > INT64_MAX)
		return error_set(err, E_INVAL, "repository_quotas: `%s` is not NAMESPACE=SIZE, such as team=500G",
		                 text);
	return 0;
}

int catalog_rules_apply(struct catalog *c, const struct config *config, struct error *err)
{
	struct catalog_quota *quotas = mem_new((config->repository_quotas.count + 1) * sizeof *quotas);
	int rc = 0;
	for (unsigned i = 0; i < config->repository_quotas.count && !rc; i++)
		rc = parse_quota(config->repository_quotas.items[i], &quotas[i], err);
	if (!rc)
		catalog_set_rules(c, (const char *const *)config->immutable_tags.items, config->immutable_tags.count,
		                  quotas, config->repository_quotas.count);
	free(quotas);
	return rc;
}
