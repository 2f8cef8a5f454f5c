/* SPDX-License-Identifier: Apache-2.0 */
/* folder.h - a temporary folder for a test, and small things every store test needs. Header only, cmocka included
 * before. */
#ifndef MDN_TESTS_STORE_FOLDER_H
#define MDN_TESTS_STORE_FOLDER_H

#include "base/digest.h"
#include "base/file.h"
#include "base/rng.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct folder {
	char path[64];
};

static inline void folder_init(struct folder *f)
{
	snprintf(f->path, sizeof f->path, "%s", "/tmp/mdn-test-XXXXXX");
	assert_non_null(mkdtemp(f->path));
}

static inline void folder_fini(struct folder *f)
{
	assert_int_equal(folder_remove(f->path, NULL), 0);
}

/* "FOLDER/NAME", valid until the fourth call after this one. */
static inline const char *folder_file(const struct folder *f, const char *name)
{
	static char paths[4][256];
	static unsigned turn;
	char *path = paths[turn++ % 4];
	snprintf(path, sizeof paths[0], "%s/%s", f->path, name);
	return path;
}

static inline void file_write_at(const char *path, long at, const void *data, size_t len)
{
	chmod(path, 0644);
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, data, len, at), (ssize_t)len);
	close(fd);
}

static inline void site_key_write(const char *path)
{
	file_write_at(path, 0, "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n", 65);
	chmod(path, 0600);
}

static inline int folder_count(const char *path)
{
	struct buf command = {0};
	int count = -1;
	buf_printf(&command, "find '%s' -type f | wc -l", path);
	FILE *p = popen(command.base, "r");
	assert_non_null(p);
	assert_int_equal(fscanf(p, "%d", &count), 1);
	pclose(p);
	buf_fini(&command);
	return count;
}

/* Bytes that follow from a seed; heap. */
static inline struct str bytes_make(uint64_t seed, size_t len)
{
	struct rng r;
	char *base = malloc(len + 8);
	rng_init(&r, seed);
	for (size_t i = 0; i < len; i += 8) {
		uint64_t v = rng_next(&r);
		memcpy(base + i, &v, 8);
	}
	return (struct str){base, len};
}

#endif
