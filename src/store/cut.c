/* SPDX-License-Identifier: Apache-2.0 */
/* First the tensors' places are taken from the header, then one pass makes the cuts. When there would be too many, the
 * pass is made again with chunks twice as large: only files of some hundred gigabytes, or of very many small tensors.
 *
 *   | header: by content | norm norm | big ....... | big ... | norm | big ....... | behind the tensors |
 *   |  ~ 32 KiB each     |  <= GROUP | chunk_size each, the last is shorter       | chunk_size each    |
 *
 * Content-defined cutting is a gear hash: h = 2 h + table[byte], so h knows the last 64 bytes; where its top bits are
 * zero, a chunk ends. After an edit the cuts fall back into step at the next such place. Headers only, since it costs
 * as much as SHA-256 does. The table comes from a fixed seed: all repositories cut alike.
 */
#include "store/cut.h"

#include "base/limits.h"
#include "store/blob.h"
#include "store/gguf.h"
#include "store/safetensors.h"

#include <stdlib.h>

#define GROUP (UINT64_C(64) << 10) /* tensors below this share a chunk up to this */
#define GEAR_LEAST (8u << 10)
#define GEAR_MOST (128u << 10)
#define GEAR_BITS 15                    /* zero bits at a cut: 32 KiB beyond GEAR_LEAST on average */
#define HEADER_MAX (UINT64_C(64) << 20) /* larger ones are no headers worth cutting by content */
#define WINDOW (64u << 10)

struct numbers {
	uint64_t *at;
	size_t count, room;
};

struct cutter {
	cut_read *read;
	void *arg;
	uint64_t size, held;
	bool short_of;         /* something wanted bytes that are not there yet */
	struct numbers starts; /* of tensors, from the data's start; rising */
	struct numbers head;   /* cuts of the header */
	uint64_t data;         /* where the data starts */
	uint64_t data_end;     /* and ends, from there */
};

static void numbers_add(struct numbers *n, uint64_t v)
{
	if (n->count == n->room) {
		n->room = n->room ? 2 * n->room : 256;
		n->at = mem_resize(n->at, n->room, sizeof *n->at);
	}
	n->at[n->count++] = v;
}

/* ---- where tensors are ------------------------------------------------------------------------ */

static int read_held(void *arg, uint64_t offset, void *out, size_t len, struct error *err)
{
	struct cutter *c = arg;
	if (offset > c->held || len > c->held - offset) {
		c->short_of = true;
		return error_set(err, E_UNAVAILABLE, "the rest of the header is still to come");
	}
	return c->read(c->arg, offset, out, len, err);
}

static void add_tensor(void *arg, const struct gguf_tensor *t)
{
	struct cutter *c = arg;
	if (!t->bytes)
		return;
	numbers_add(&c->starts, t->offset);
	c->data_end = t->offset + t->bytes;
}

static bool gguf_places(struct cutter *c)
{
	struct gguf_info info;
	if (gguf_parse_tensors(read_held, c, c->size, add_tensor, c, &info, NULL))
		return false;
	c->data = info.data_offset;
	uint64_t padded = c->data_end + (-c->data_end & (info.alignment - 1));
	if (c->data <= c->size && padded <= c->size - c->data)
		c->data_end = padded;
	gguf_info_fini(&info);
	return true;
}

static bool safetensors_places(struct cutter *c)
{
	struct safetensors st;
	if (safetensors_parse(read_held, c, c->size, &st, NULL))
		return false;
	for (uint32_t i = 0; i < st.count; i++)
		if (st.tensors[i].to > st.tensors[i].from)
			numbers_add(&c->starts, st.tensors[i].from);
	c->data = st.data_offset;
	c->data_end = c->size - st.data_offset;
	safetensors_fini(&st);
	return true;
}

static bool find_places(struct cutter *c)
{
	char start[16];
	uint64_t header_end;
	if (c->size < sizeof start || read_held(c, 0, start, sizeof start, NULL))
		return false;
	if (!memcmp(start, "GGUF", 4))
		return gguf_places(c);
	return safetensors_begins((struct str){start, sizeof start}, c->size, &header_end) &&
	       header_end <= LIMIT_JSON_BODY && safetensors_places(c);
}

/* ---- the header ------------------------------------------------------------------------------- */

static void gear_fill(uint64_t table[static 256])
{
	uint64_t state = UINT64_C(0x6d646e2d67656172); /* "mdn-gear" */
	for (int i = 0; i < 256; i++) {                /* SplitMix64 */
		uint64_t z = state += UINT64_C(0x9e3779b97f4a7c15);
		z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
		z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
		table[i] = z ^ z >> 31;
	}
}

static bool cut_header(struct cutter *c)
{
	uint64_t table[256], h = 0, begin = 0;
	uint8_t *window = mem_new(WINDOW);
	bool good = c->data <= HEADER_MAX;
	gear_fill(table);
	for (uint64_t at = 0; at < c->data && good; at += WINDOW) {
		size_t n = c->data - at < WINDOW ? (size_t)(c->data - at) : WINDOW;
		good = !read_held(c, at, window, n, NULL);
		for (size_t i = 0; i < n && good; i++) {
			uint64_t len = at + i + 1 - begin;
			h = (h << 1) + table[window[i]];
			if (len < GEAR_MOST && (len < GEAR_LEAST || h >> (64 - GEAR_BITS)))
				continue;
			numbers_add(&c->head, begin += len);
		}
	}
	if (good && begin < c->data)
		numbers_add(&c->head, c->data);
	free(window);
	return good;
}

/* ---- cuts ------------------------------------------------------------------------------------- */

/* False when there are more than fit. */
static bool cut_every(struct numbers *ends, uint64_t from, uint64_t to, uint64_t step)
{
	if ((to - from) / step > LIMIT_CHUNKS)
		return false;
	while (from < to) {
		from = to - from < step ? to : from + step;
		numbers_add(ends, from);
	}
	return ends->count <= LIMIT_CHUNKS;
}

static bool cut_tensors(const struct cutter *c, uint64_t chunk_size, uint64_t group, struct numbers *ends)
{
	uint64_t open = c->data; /* where a group of small ones began; the next tensor's start when there is none */
	ends->count = 0;
	for (size_t i = 0; i < c->head.count; i++)
		numbers_add(ends, c->head.at[i]);
	for (size_t i = 0; i < c->starts.count; i++) {
		uint64_t from = c->data + c->starts.at[i];
		uint64_t to = c->data + (i + 1 < c->starts.count ? c->starts.at[i + 1] : c->data_end);
		if (open < from && to - open > group) {
			numbers_add(ends, from);
			open = from;
		}
		if (to - from < group)
			continue;
		if (!cut_every(ends, from, to, chunk_size))
			return false;
		open = to;
	}
	if (open < c->data + c->data_end)
		numbers_add(ends, c->data + c->data_end);
	return cut_every(ends, c->data + c->data_end, c->size, chunk_size);
}

/* Cuts at tensors, or only every so many bytes, whichever is asked for; in larger chunks when there are too many. */
static bool make_cuts(const struct cutter *c, bool tensors, uint64_t chunk_size, struct numbers *ends)
{
	uint64_t group = chunk_size < GROUP ? chunk_size : GROUP;
	for (;;) {
		ends->count = 0;
		if (tensors ? cut_tensors(c, chunk_size, group, ends) : cut_every(ends, 0, c->size, chunk_size))
			return true;
		if (chunk_size == CHUNK_SIZE_MAX && (!tensors || group == CHUNK_SIZE_MAX))
			return false;
		chunk_size = chunk_size * 2 < CHUNK_SIZE_MAX ? chunk_size * 2 : CHUNK_SIZE_MAX;
		group = group * 2 < CHUNK_SIZE_MAX ? group * 2 : CHUNK_SIZE_MAX;
	}
}

bool cut_file(cut_read *read, void *arg, uint64_t file_size, uint64_t held, uint64_t chunk_size, uint64_t **ret_ends,
              uint32_t *ret_count)
{
	struct cutter c = {.read = read, .arg = arg, .size = file_size, .held = held};
	struct numbers ends = {0};
	bool tensors = find_places(&c) && cut_header(&c);
	bool known = !c.short_of || held >= file_size;
	if (known && !(tensors && make_cuts(&c, true, chunk_size, &ends)) && !make_cuts(&c, false, chunk_size, &ends))
		ends.count = 0;
	free(c.starts.at);
	free(c.head.at);
	if (!known) {
		free(ends.at);
		return false;
	}
	*ret_ends = ends.at;
	*ret_count = (uint32_t)ends.count;
	return true;
}
