/* SPDX-License-Identifier: Apache-2.0 */
/* Chunk lists: made in one pass over the file (whole digest and chunk digests side by side), written and read in one
 * canonical text, so that a list has exactly one digest. Canonical is checked by writing again what was read. */
#include "store/blob_private.h"

#include "base/limits.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define STEP (1u << 20)
#define LINE 65 /* 64 hex digits and a newline */

void chunk_list_fini(struct chunk_list *c)
{
	if (!c)
		return;
	free(c->digests);
	*c = (struct chunk_list){0};
}

static uint64_t chunks_of(uint64_t size, uint64_t chunk_size)
{
	return size / chunk_size + (size % chunk_size != 0);
}

static int read_chunk(int fd, uint64_t at, uint64_t len, char *step, struct digest_stream *whole,
                      struct digest *ret_digest, struct error *err)
{
	int rc = 0;
	struct digest_stream *hash = digest_stream_new();
	while (len && !rc) {
		size_t n = len < STEP ? (size_t)len : STEP;
		rc = blob_read_at(fd, at, step, n, err);
		if (!rc) {
			digest_stream_add(hash, step, n);
			digest_stream_add(whole, step, n);
		}
		at += n;
		len -= n;
	}
	if (!rc)
		*ret_digest = digest_stream_end(hash);
	digest_stream_free(hash);
	return rc;
}

static int hash_file(int fd, struct chunk_list *list, struct error *err)
{
	int rc = 0;
	char *step = mem_new(STEP);
	struct digest_stream *whole = digest_stream_new();
	posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	for (uint32_t i = 0; i < list->count && !rc; i++)
		rc = read_chunk(fd, i * list->chunk_size, chunk_length(list, i), step, whole, &list->digests[i], err);
	if (!rc) {
		struct digest got = digest_stream_end(whole);
		if (!digest_equal(&got, &list->file))
			rc = error_set(err, E_CORRUPT,
			               "a blob on disk is not what its name says; delete it and push it again");
	}
	digest_stream_free(whole);
	free(step);
	return rc;
}

int chunk_list_build(struct blob_store *s, const struct digest *file, uint64_t chunk_size, struct chunk_list *ret_list,
                     struct error *err)
{
	int fd;
	struct chunk_list list = {.file = *file, .chunk_size = chunk_size};
	if (!chunk_size || chunk_size > CHUNK_SIZE_MAX)
		return error_set(err, E_INVAL, "a chunk size must be between 1 byte and 64 MiB");
	int rc = blob_open(s, file, &fd, &list.size, err);
	if (rc)
		return rc;
	while (chunks_of(list.size, list.chunk_size) > LIMIT_CHUNKS && list.chunk_size < CHUNK_SIZE_MAX)
		list.chunk_size = list.chunk_size * 2 < CHUNK_SIZE_MAX ? list.chunk_size * 2 : CHUNK_SIZE_MAX;
	if (chunks_of(list.size, list.chunk_size) > LIMIT_CHUNKS) {
		rc = error_set(err, E_LIMIT, "a file of %llu bytes is too large to distribute; split it",
		               (unsigned long long)list.size);
	} else {
		list.count = (uint32_t)chunks_of(list.size, list.chunk_size);
		list.digests = mem_new((list.count + 1u) * sizeof *list.digests);
		rc = hash_file(fd, &list, err);
	}
	close(fd);
	if (rc) {
		chunk_list_fini(&list);
		return rc;
	}
	*ret_list = list;
	return 0;
}

void chunk_list_format(const struct chunk_list *c, struct buf *out)
{
	char text[DIGEST_TEXT_SIZE];
	digest_format(&c->file, text);
	buf_printf(out, "mdn-chunks 1\nfile %s\nsize %llu\nchunk-size %llu\n", text, (unsigned long long)c->size,
	           (unsigned long long)c->chunk_size);
	for (uint32_t i = 0; i < c->count; i++) {
		char line[LINE];
		hex_encode(c->digests[i].bytes, DIGEST_SIZE, line);
		line[LINE - 1] = '\n';
		buf_append(out, line, LINE);
	}
}

/* The next line without its newline, which must be there. */
static bool take_line(struct str *rest, struct str *ret_line)
{
	const char *end = rest->len ? memchr(rest->base, '\n', rest->len) : NULL;
	if (!end)
		return false;
	*ret_line = (struct str){rest->base, (size_t)(end - rest->base)};
	rest->base = end + 1;
	rest->len -= ret_line->len + 1;
	return true;
}

static bool take_field(struct str *rest, struct str key, struct str *ret_value)
{
	struct str line;
	if (!take_line(rest, &line) || !str_starts(line, key))
		return false;
	*ret_value = (struct str){line.base + key.len, line.len - key.len};
	return true;
}

static int parse_head(struct str *rest, struct chunk_list *list, struct error *err)
{
	struct str line, file, size, chunk_size;
	if (!take_line(rest, &line) || !str_equal(line, STR("mdn-chunks 1")))
		return error_set(err, E_INVAL, "a chunk list must begin with \"mdn-chunks 1\"");
	if (!take_field(rest, STR("file "), &file) || digest_parse(file, &list->file))
		return error_set(err, E_INVAL, "line 2 of a chunk list must be \"file sha256:...\"");
	if (!take_field(rest, STR("size "), &size) || str_to_u64(size, &list->size) || list->size > INT64_MAX)
		return error_set(err, E_INVAL, "line 3 of a chunk list must be \"size N\"");
	if (!take_field(rest, STR("chunk-size "), &chunk_size) || str_to_u64(chunk_size, &list->chunk_size) ||
	    !list->chunk_size || list->chunk_size > CHUNK_SIZE_MAX)
		return error_set(err, E_INVAL, "line 4 of a chunk list must be \"chunk-size N\", N up to 64 MiB");
	uint64_t count = chunks_of(list->size, list->chunk_size);
	if (count > LIMIT_CHUNKS)
		return error_set(err, E_LIMIT, "a chunk list of %llu chunks, at most %d are allowed",
		                 (unsigned long long)count, LIMIT_CHUNKS);
	if (rest->len != count * LINE)
		return error_set(err, E_INVAL, "a chunk list must have %llu digests after its head, no more, no less",
		                 (unsigned long long)count);
	list->count = (uint32_t)count;
	return 0;
}

static int parse_digests(struct str rest, struct chunk_list *list, struct error *err)
{
	list->digests = mem_new((list->count + 1u) * sizeof *list->digests);
	for (uint32_t i = 0; i < list->count; i++) {
		struct str hex = {rest.base + (size_t)i * LINE, LINE - 1};
		if (hex.base[LINE - 1] != '\n' || hex_decode(hex, list->digests[i].bytes, DIGEST_SIZE))
			return error_set(err, E_INVAL, "digest %u of a chunk list is not 64 hex digits and a newline",
			                 i);
	}
	return 0;
}

int chunk_list_parse(struct str text, struct chunk_list *ret_list, struct error *err)
{
	struct chunk_list list = {0};
	struct str rest = text;
	struct buf again = {0};
	int rc = parse_head(&rest, &list, err);
	if (!rc)
		rc = parse_digests(rest, &list, err);
	if (!rc) {
		chunk_list_format(&list, &again);
		if (!str_equal(buf_str(&again), text))
			rc = error_set(err, E_INVAL,
			               "a chunk list must be in canonical form: plain numbers, lower case digits");
	}
	buf_fini(&again);
	if (rc) {
		chunk_list_fini(&list);
		return rc;
	}
	*ret_list = list;
	return 0;
}
