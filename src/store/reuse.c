/* SPDX-License-Identifier: Apache-2.0 */
/* The wanted chunks become a hash table by digest; then every kept list whose file is here is read once and its lines
 * are looked up. So there is no index to keep true while files come and go: reading all lists of a node takes
 * milliseconds, copying takes seconds. Lists are told from other small blobs by their first line.
 */
#include "store/reuse.h"

#include "store/blob_private.h"

#include <stdlib.h>

#define LIST_START "mdn-chunks 2\n"
#define LIST_LEAST 90 /* the head alone is longer */

struct reuse {
	struct blob_partial *p;
	struct blob_store *store;
	const struct chunk_list *wanted;
	const bool *stop;
	uint32_t *slots; /* chunk + 1; 0: free. Equal digests have a slot each */
	size_t mask;
	struct digest *lists; /* candidates */
	size_t list_count;
	uint64_t bytes;
	int rc;
	struct error *err;
};

static bool stopped(const struct reuse *r)
{
	return r->rc || __atomic_load_n(r->stop, __ATOMIC_RELAXED) || blob_partial_count(r->p) == r->wanted->count;
}

/* Digests are as good as random numbers. */
static size_t slot_of(const struct reuse *r, const struct digest *d)
{
	uint64_t h;
	memcpy(&h, d->bytes, sizeof h);
	return (size_t)h & r->mask;
}

static void table_make(struct reuse *r)
{
	size_t room = 16;
	while (room < 2 * (size_t)r->wanted->count)
		room *= 2;
	r->mask = room - 1;
	r->slots = mem_new(room * sizeof *r->slots);
	for (uint32_t i = 0; i < r->wanted->count; i++) {
		if (blob_partial_has(r->p, i))
			continue;
		size_t at = slot_of(r, &r->wanted->digests[i]);
		while (r->slots[at])
			at = (at + 1) & r->mask;
		r->slots[at] = i + 1;
	}
}

/* ---- one file that is here --------------------------------------------------------------------- */

/* One chunk of it, to wherever it is wanted. */
static void take_chunk(struct reuse *r, const struct blob_file *from, const struct chunk_list *list, uint32_t i)
{
	const struct digest *d = &list->digests[i];
	uint64_t length = chunk_length(list, i);
	for (size_t at = slot_of(r, d); r->slots[at] && !stopped(r); at = (at + 1) & r->mask) {
		uint32_t chunk = r->slots[at] - 1;
		struct error why = {0};
		if (!digest_equal(&r->wanted->digests[chunk], d) || chunk_length(r->wanted, chunk) != length ||
		    blob_partial_has(r->p, chunk))
			continue;
		int rc = blob_partial_copy(r->p, chunk, from, chunk_offset(list, i), &why);
		if (!rc) {
			r->bytes += length;
		} else if (rc == E_NOSPACE || rc == E_IO) {
			r->rc = rc;
			if (r->err)
				*r->err = why;
		} else {
			return; /* rotten, or its key is gone: comes over the network */
		}
	}
}

static bool shares(const struct reuse *r, const struct chunk_list *list)
{
	for (uint32_t i = 0; i < list->count; i++)
		for (size_t at = slot_of(r, &list->digests[i]); r->slots[at]; at = (at + 1) & r->mask)
			if (digest_equal(&r->wanted->digests[r->slots[at] - 1], &list->digests[i]))
				return true;
	return false;
}

static void take_file(struct reuse *r, const struct chunk_list *list)
{
	struct blob_file *from;
	if (!shares(r, list) || blob_file_open(r->store, &list->file, &from, NULL))
		return;
	for (uint32_t i = 0; i < list->count && !stopped(r) && blob_file_size(from) == list->size; i++)
		take_chunk(r, from, list, i);
	blob_file_close(from);
}

/* ---- the lists --------------------------------------------------------------------------------- */

static bool note_candidate(void *arg, const struct digest *d, uint64_t size)
{
	struct reuse *r = arg;
	if (size < LIST_LEAST || size > CHUNK_LIST_MAX)
		return true;
	if (!(r->list_count & (r->list_count + 1)))
		r->lists = mem_resize(r->lists, 2 * r->list_count + 2, sizeof *r->lists);
	r->lists[r->list_count++] = *d;
	return !stopped(r);
}

static bool is_list(const struct reuse *r, const struct digest *d, struct buf *text)
{
	struct blob_file *f;
	char start[sizeof LIST_START - 1];
	if (blob_file_peek(r->store, d, &f, NULL))
		return false;
	size_t size = (size_t)blob_file_size(f);
	bool good = size <= CHUNK_LIST_MAX && !blob_file_read(f, 0, start, sizeof start, NULL) &&
	            !memcmp(start, LIST_START, sizeof start) &&
	            !blob_file_read(f, 0, buf_reserve(text, size), size, NULL);
	if (good)
		text->len = size;
	blob_file_close(f);
	return good;
}

static void look_at(struct reuse *r, const struct digest *d)
{
	struct buf text = {0};
	struct chunk_list list;
	if (is_list(r, d, &text) && !chunk_list_parse(buf_str(&text), &list, NULL)) {
		uint64_t before = r->bytes, size;
		take_file(r, &list);
		if (r->bytes > before)
			blob_stat(r->store, d, &size, NULL); /* in use, like its file */
		chunk_list_fini(&list);
	}
	buf_fini(&text);
}

int blob_partial_reuse(struct blob_partial *p, const bool *stop, uint64_t *ret_bytes, struct error *err)
{
	struct reuse r = {
	    .p = p, .store = blob_partial_store(p), .wanted = blob_partial_list(p), .stop = stop, .err = err};
	if (!stopped(&r)) {
		table_make(&r);
		blob_each(r.store, note_candidate, &r);
	}
	for (size_t i = 0; i < r.list_count && !stopped(&r); i++)
		look_at(&r, &r.lists[i]);
	free(r.slots);
	free(r.lists);
	*ret_bytes = r.bytes;
	return r.rc;
}
