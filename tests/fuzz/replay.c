/* SPDX-License-Identifier: Apache-2.0 */
/* replay.c - feeds a corpus folder to a fuzz target, without a fuzzer: what once was found stays fixed.
 *
 * Each file is given whole, then (up to TRUNCATED_MAX bytes of it) cut short at every length, because input that ends
 * too early is what a parser meets most. The bytes live in a heap block of just their size, so that a sanitizer sees
 * a read past the end. A missing or empty folder is an error: a target without a corpus tests nothing.
 */
#include <dirent.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define FILE_BYTES_MAX (16u << 20)
#define TRUNCATED_MAX 2048u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void replay_bytes(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1);
	if (!copy)
		abort();
	memcpy(copy, data, size);
	LLVMFuzzerTestOneInput(copy, size);
	free(copy);
}

static int replay_file(const char *path)
{
	FILE *file = fopen(path, "rb");
	if (!file) {
		perror(path);
		return -1;
	}
	uint8_t *data = malloc(FILE_BYTES_MAX);
	if (!data)
		abort();
	size_t size = fread(data, 1, FILE_BYTES_MAX, file);
	fclose(file);
	printf("%s: %zu bytes\n", path, size);
	fflush(stdout); /* so that the file that crashes is named */
	replay_bytes(data, size);
	for (size_t cut = 0; cut < size && cut < TRUNCATED_MAX; cut++)
		replay_bytes(data, cut);
	free(data);
	return 0;
}

static int replay_folder(const char *folder)
{
	struct dirent **entries;
	int count = scandir(folder, &entries, NULL, alphasort);
	if (count < 0) {
		perror(folder);
		return -1;
	}
	int files = 0;
	int failed = 0;
	for (int i = 0; i < count; i++) {
		char path[PATH_MAX];
		struct stat status;
		snprintf(path, sizeof(path), "%s/%s", folder, entries[i]->d_name);
		if (!stat(path, &status) && S_ISREG(status.st_mode)) {
			files++;
			failed |= replay_file(path);
		}
		free(entries[i]);
	}
	free(entries);
	if (!files)
		fprintf(stderr, "%s: no file; give the fuzz target a few seeds\n", folder);
	return files && !failed ? 0 : -1;
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
		return 2;
	}
	return replay_folder(argv[1]) ? 1 : 0;
}
