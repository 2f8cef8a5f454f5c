/* SPDX-License-Identifier: Apache-2.0 */
/* Chunk lists: made while the file passes (whole digest and chunk digests side by side), on its way in or once more
 * from the disk; cut as cut.h says; written and read in one canonical text, so that a list has exactly one digest.
 * Canonical is checked by writing again what was read. */
#include "store/blob_private.h"

#include "base/limits.h"

#include <fcntl.h>
#include <stdlib.h>

#define STEP (1u << 20)
#define FIRST_LOOK (UINT64_C(64) << 10) /* enough to know a GGUF file, and for many a header */
#define LINE_LEAST 67                   /* "1 HEX\n" */

void chunk_list_fini(struct chunk_list *c)
{
	if (!c)
		return;
	free(c->ends);
	free(c->digests);
	*c = (struct chunk_list){0};
}

uint32_t chunk_at(const struct chunk_list *c, uint64_t offset)
{
	uint32_t low = 0, high = c->count; /* the first chunk that ends after offset */
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		if (c->ends[middle] > offset)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

/* ---- making ---------------------------------------------------------------------------------- */

struct chunk_hash {
	cut_read *read;
	void *arg;
	uint64_t chunk_size, seen; /* bytes that came */
	uint64_t ask_at;           /* so many must be there before the cuts are asked for (again) */
	bool cut, failed;
	struct digest_stream *now; /* of the chunk under way; NULL between chunks */
	uint32_t done;             /* chunks hashed */
	uint64_t hashed;           /* bytes of the file in them and in `now` */
	struct chunk_list list;
};

struct chunk_hash *chunk_hash_new(cut_read *read, void *arg, uint64_t file_size, uint64_t chunk_size)
{
	struct chunk_hash *h = NEW(struct chunk_hash);
	h->read = read;
	h->arg = arg;
	h->chunk_size = chunk_size;
	h->ask_at = file_size < FIRST_LOOK ? file_size : FIRST_LOOK;
	h->list.size = file_size;
	return h;
}

void chunk_hash_free(struct chunk_hash *h)
{
	if (!h)
		return;
	digest_stream_free(h->now);
	chunk_list_fini(&h->list);
	free(h);
}

static void hash_bytes(struct chunk_hash *h, struct str data)
{
	struct chunk_list *list = &h->list;
	while (data.len && h->done < list->count) {
		uint64_t left = list->ends[h->done] - h->hashed;
		size_t n = data.len < left ? data.len : (size_t)left;
		if (!h->now)
			h->now = digest_stream_new();
		digest_stream_add(h->now, data.base, n);
		data.base += n;
		data.len -= n;
		h->hashed += n;
		if (n < left)
			continue;
		list->digests[h->done++] = digest_stream_end(h->now);
		digest_stream_free(h->now);
		h->now = NULL;
	}
}

/* What came before the cuts were known: a header, mostly, and still in the page cache. */
static void catch_up(struct chunk_hash *h)
{
	char *step = mem_new(STEP);
	while (h->hashed < h->seen && !h->failed) {
		uint64_t left = h->seen - h->hashed;
		size_t n = left < STEP ? (size_t)left : STEP;
		h->failed = h->read(h->arg, h->hashed, step, n, NULL) != 0;
		if (!h->failed)
			hash_bytes(h, (struct str){step, n});
	}
	free(step);
}

static void ask_cuts(struct chunk_hash *h, uint64_t held)
{
	struct chunk_list *list = &h->list;
	h->cut = cut_file(h->read, h->arg, list->size, held, h->chunk_size, &list->ends, &list->count);
	if (!h->cut) {
		h->ask_at = 2 * held < list->size ? 2 * held : list->size;
		return;
	}
	h->failed = list->size && !list->count;
	list->digests = mem_new((list->count + 1u) * sizeof *list->digests);
	if (!h->failed)
		catch_up(h);
}

void chunk_hash_add(struct chunk_hash *h, struct str data)
{
	h->seen += data.len;
	if (h->failed || h->seen > h->list.size)
		h->failed = true;
	else if (h->cut)
		hash_bytes(h, data);
	else if (h->seen >= h->ask_at)
		ask_cuts(h, h->seen);
}

bool chunk_hash_end(struct chunk_hash *h, const struct digest *file, struct chunk_list *ret_list)
{
	if (h->failed || h->seen != h->list.size)
		return false;
	h->list.file = *file;
	*ret_list = h->list;
	h->list = (struct chunk_list){0};
	return true;
}

static int read_file(void *arg, uint64_t offset, void *out, size_t len, struct error *err)
{
	return blob_file_read(arg, offset, out, len, err);
}

/* Both kinds of digests in one pass. */
static int hash_file(struct blob_file *f, struct digest_stream *whole, struct chunk_hash *chunks, struct error *err)
{
	uint64_t size = blob_file_size(f);
	int rc = 0;
	char *step = mem_new(STEP);
	if (blob_file_fd(f) >= 0)
		posix_fadvise(blob_file_fd(f), 0, 0, POSIX_FADV_SEQUENTIAL);
	ask_cuts(chunks, size);
	for (uint64_t at = 0; at < size && !rc;) {
		size_t n = size - at < STEP ? (size_t)(size - at) : STEP;
		rc = blob_file_read(f, at, step, n, err);
		if (!rc) {
			digest_stream_add(whole, step, n);
			chunk_hash_add(chunks, (struct str){step, n});
		}
		at += n;
	}
	free(step);
	return rc;
}

static int make_list(struct blob_file *f, const struct digest *file, uint64_t chunk_size, struct chunk_list *ret_list,
                     struct error *err)
{
	struct digest_stream *whole = digest_stream_new();
	struct chunk_hash *chunks = chunk_hash_new(read_file, f, blob_file_size(f), chunk_size);
	int rc = hash_file(f, whole, chunks, err);
	if (!rc) {
		struct digest got = digest_stream_end(whole);
		if (!digest_equal(&got, file))
			rc = error_set(err, E_CORRUPT,
			               "a blob on disk is not what its name says; delete it and push it again");
		else if (!chunk_hash_end(chunks, file, ret_list))
			rc = error_set(err, E_LIMIT, "a file of %llu bytes is too large to distribute; split it",
			               (unsigned long long)blob_file_size(f));
	}
	digest_stream_free(whole);
	chunk_hash_free(chunks);
	return rc;
}

int chunk_list_build(struct blob_store *s, const struct digest *file, uint64_t chunk_size, struct chunk_list *ret_list,
                     struct error *err)
{
	struct blob_file *f;
	if (!chunk_size || chunk_size > CHUNK_SIZE_MAX)
		return error_set(err, E_INVAL, "a chunk size must be between 1 byte and 64 MiB");
	int rc = blob_file_open(s, file, &f, err);
	if (rc)
		return rc;
	rc = make_list(f, file, chunk_size, ret_list, err);
	blob_file_close(f);
	return rc;
}

/* ---- text ------------------------------------------------------------------------------------ */

void chunk_list_format(const struct chunk_list *c, struct buf *out)
{
	char text[DIGEST_TEXT_SIZE];
	digest_format(&c->file, text);
	buf_printf(out, "mdn-chunks 2\nfile %s\nsize %llu\n", text, (unsigned long long)c->size);
	for (uint32_t i = 0; i < c->count; i++) {
		char hex[2 * DIGEST_SIZE + 1];
		hex_encode(c->digests[i].bytes, DIGEST_SIZE, hex);
		buf_printf(out, "%llu %s\n", (unsigned long long)chunk_length(c, i), hex);
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
	struct str line, file, size;
	if (!take_line(rest, &line) || !str_equal(line, STR("mdn-chunks 2")))
		return error_set(err, E_INVAL, "a chunk list must begin with \"mdn-chunks 2\"");
	if (!take_field(rest, STR("file "), &file) || digest_parse(file, &list->file))
		return error_set(err, E_INVAL, "line 2 of a chunk list must be \"file sha256:...\"");
	if (!take_field(rest, STR("size "), &size) || str_to_u64(size, &list->size) || list->size > INT64_MAX)
		return error_set(err, E_INVAL, "line 3 of a chunk list must be \"size N\"");
	return 0;
}

/* "LENGTH HEX" */
static bool parse_chunk(struct str line, uint64_t *ret_length, struct digest *ret_digest)
{
	const size_t hex = 2 * (size_t)DIGEST_SIZE;
	if (line.len < hex + 2 || line.base[line.len - hex - 1] != ' ')
		return false;
	struct str number = {line.base, line.len - hex - 1}, digits = {line.base + line.len - hex, hex};
	return !str_to_u64(number, ret_length) && *ret_length && *ret_length <= CHUNK_SIZE_MAX &&
	       !hex_decode(digits, ret_digest->bytes, DIGEST_SIZE);
}

static int parse_chunks(struct str rest, struct chunk_list *list, struct error *err)
{
	uint64_t most = rest.len / LINE_LEAST + 1, end = 0, length;
	struct str line;
	if (most > LIMIT_CHUNKS)
		most = LIMIT_CHUNKS;
	list->ends = mem_new((size_t)most * sizeof *list->ends);
	list->digests = mem_new((size_t)most * sizeof *list->digests);
	while (rest.len) {
		uint32_t i = list->count;
		if (i == LIMIT_CHUNKS)
			return error_set(err, E_LIMIT, "a chunk list has at most %d chunks", LIMIT_CHUNKS);
		if (i == most || !take_line(&rest, &line) || !parse_chunk(line, &length, &list->digests[i]) ||
		    length > list->size - end)
			return error_set(err, E_INVAL,
			                 "chunk %u of a chunk list is not a length up to 64 MiB inside the file, a "
			                 "space, 64 hex digits and a newline",
			                 i);
		end += length;
		list->ends[list->count++] = end;
	}
	if (end != list->size)
		return error_set(err, E_INVAL, "the chunks of a chunk list are %llu bytes, its file has %llu",
		                 (unsigned long long)end, (unsigned long long)list->size);
	return 0;
}

int chunk_list_parse(struct str text, struct chunk_list *ret_list, struct error *err)
{
	struct chunk_list list = {0};
	struct str rest = text;
	struct buf again = {0};
	int rc = parse_head(&rest, &list, err);
	if (!rc)
		rc = parse_chunks(rest, &list, err);
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
