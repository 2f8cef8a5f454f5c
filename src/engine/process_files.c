/* SPDX-License-Identifier: Apache-2.0 */
/* process_files.c - which files an engine's process needs: to be let through by landlock, or, where they are files in
 * memory (decrypted ones, which only a descriptor names), to be handed over by the same number. */
#include "engine/process.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { FILES_MAX = 256, PART_TAIL = sizeof("-00001-of-00002.gguf") - 1 };

static void add(char **files, size_t *count, char *path)
{
	if (*count < FILES_MAX)
		files[(*count)++] = path;
	else
		free(path);
}

/* llama.cpp finds the parts of a split file by the name of the first. */
static void add_parts(char **files, size_t *count, struct str path)
{
	unsigned part, parts;
	char tail[PART_TAIL + 1];

	add(files, count, str_dup(path));
	if (path.len <= PART_TAIL ||
	    !str_copy((struct str){path.base + path.len - PART_TAIL, PART_TAIL}, tail, sizeof(tail)) ||
	    sscanf(tail, "-%5u-of-%5u.gguf", &part, &parts) != 2 || strcmp(tail + PART_TAIL - 5, ".gguf") != 0)
		return;
	for (unsigned i = 1; i <= parts && i <= FILES_MAX; i++) {
		struct buf name = {0};
		if (i == part)
			continue;
		buf_printf(&name, "%.*s-%05u-of-%05u.gguf", (int)(path.len - PART_TAIL), path.base, i, parts);
		add(files, count, name.base);
	}
}

char **engine_process_files(const struct engine_options *options)
{
	const struct str paths[] = {options->model_path, options->draft_path};
	char **files = mem_new((FILES_MAX + 1) * sizeof(*files));
	size_t count = 0;

	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
		if (paths[i].len)
			add_parts(files, &count, paths[i]);
	for (size_t i = 0; i < options->adapter_count; i++)
		add(files, &count, str_dup(options->adapter_paths[i]));
	return files;
}

void engine_process_files_free(char **files)
{
	for (char **file = files; *file; file++)
		free(*file);
	free(files);
}

int engine_process_file_fd(const char *path)
{
	static const struct str prefix = {"/proc/self/fd/", sizeof("/proc/self/fd/") - 1};
	char target[64];
	struct str name = str_from(path);
	uint64_t fd;

	if (!str_starts(name, prefix)) {
		ssize_t len = readlink(path, target, sizeof(target));
		if (len <= 0 || (size_t)len == sizeof(target))
			return -1;
		name = (struct str){target, (size_t)len};
	}
	if (!str_starts(name, prefix))
		return -1;
	name = (struct str){name.base + prefix.len, name.len - prefix.len};
	return str_to_u64(name, &fd) || fd > INT32_MAX ? -1 : (int)fd;
}
