/* SPDX-License-Identifier: Apache-2.0 */
/* How the place of an entry is known: libarchive tells where headers begin, with all their extensions; so an entry's
 * content ends, padded, where the next header begins. What libarchive skips it skips by our seek, never by reading.
 */
#include "store/bundle.h"

#include "base/json.h"
#include "base/limits.h"
#include "store/ociname.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define PIECE 65536

/* ---- writing ------------------------------------------------------------------------------------ */

struct header {
	struct buf *out;
	bool done; /* what follows, the zeros of an entry that we write ourselves, is refused */
};

static la_ssize_t take_header(struct archive *a, void *arg, const void *data, size_t len)
{
	struct header *h = arg;
	if (h->done)
		return -1;
	buf_append(h->out, data, len);
	return (la_ssize_t)len;
}

int bundle_header(const char *name, uint64_t size, struct buf *out, struct error *err)
{
	struct archive *a = archive_write_new();
	struct archive_entry *e = archive_entry_new();
	size_t before = out->len;
	struct header header = {.out = out};
	archive_entry_set_pathname(e, name);
	archive_entry_set_filetype(e, AE_IFREG);
	archive_entry_set_perm(e, 0644);
	archive_entry_set_size(e, (int64_t)size);
	archive_entry_set_mtime(e, 0, 0); /* the same models make the same bytes */
	bool good = archive_write_set_format_pax_restricted(a) == ARCHIVE_OK &&
	            archive_write_set_bytes_per_block(a, 0) == ARCHIVE_OK &&
	            archive_write_open(a, &header, NULL, take_header, NULL) == ARCHIVE_OK &&
	            archive_write_header(a, e) == ARCHIVE_OK;
	int rc = good ? 0 : error_set(err, E_INTERNAL, "cannot write a tar header for %s", name);
	if (rc)
		out->len = before;
	header.done = true;
	archive_write_free(a);
	archive_entry_free(e);
	return rc;
}

void bundle_blob_name(const struct digest *d, char ret_name[static BUNDLE_NAME_SIZE])
{
	char hex[2 * DIGEST_SIZE + 1];
	hex_encode(d->bytes, DIGEST_SIZE, hex);
	snprintf(ret_name, BUNDLE_NAME_SIZE, "blobs/sha256/%s", hex);
}

void bundle_pack_name(const struct digest *d, char ret_name[static BUNDLE_NAME_SIZE])
{
	char hex[2 * DIGEST_SIZE + 1];
	hex_encode(d->bytes, DIGEST_SIZE, hex);
	snprintf(ret_name, BUNDLE_NAME_SIZE, "mdn-packs/%s", hex);
}

/* ---- scanning ----------------------------------------------------------------------------------- */

struct scan {
	const struct bundle_reader *reader;
	uint64_t at;
	char piece[PIECE];
	struct error err;
};

static la_ssize_t scan_read(struct archive *a, void *arg, const void **ret_data)
{
	struct scan *s = arg;
	uint64_t left = s->reader->size - s->at;
	size_t len = left < PIECE ? (size_t)left : PIECE;
	if (len && s->reader->read(s->reader->arg, s->at, s->piece, len, &s->err)) {
		archive_set_error(a, EIO, "%s", s->err.text);
		return -1;
	}
	s->at += len;
	*ret_data = s->piece;
	return (la_ssize_t)len;
}

static la_int64_t scan_skip(struct archive *a, void *arg, la_int64_t want)
{
	struct scan *s = arg;
	uint64_t left = s->reader->size - s->at;
	uint64_t step = want < 0 ? 0 : (uint64_t)want < left ? (uint64_t)want : left;
	s->at += step;
	return (la_int64_t)step;
}

static bool is_hex_name(struct str name, struct str folder)
{
	struct digest d;
	return str_starts(name, folder) &&
	       !hex_decode((struct str){name.base + folder.len, name.len - folder.len}, d.bytes, DIGEST_SIZE);
}

static bool name_allowed(struct str name)
{
	return str_equal(name, STR("oci-layout")) || str_equal(name, STR("index.json")) ||
	       str_equal(name, STR(BUNDLE_CONTENTS)) || str_equal(name, STR(BUNDLE_SIGNATURE)) ||
	       is_hex_name(name, STR("blobs/sha256/")) || is_hex_name(name, STR("mdn-packs/"));
}

static int take_entry(struct archive_entry *e, const struct scan *s, struct bundle_entry *to, bool *ret_file,
                      struct error *err)
{
	const char *path = archive_entry_pathname(e);
	struct str name = str_from(path ? path : "");
	char shown[128];
	while (str_starts(name, STR("./")))
		name = (struct str){name.base + 2, name.len - 2};
	snprintf(shown, sizeof shown, "%.*s", (int)(name.len < 100 ? name.len : 100), name.base);
	str_blank_controls(shown, strlen(shown));
	*ret_file = archive_entry_filetype(e) == AE_IFREG && !archive_entry_hardlink(e) && !archive_entry_symlink(e);
	if (archive_entry_filetype(e) == AE_IFDIR) {
		while (name.len && name.base[name.len - 1] == '/')
			name.len--;
		if (!name.len || str_equal(name, STR("blobs")) || str_equal(name, STR("blobs/sha256")) ||
		    str_equal(name, STR("mdn-packs")) || str_equal(name, STR(".")))
			return 0;
		return error_set(err, E_INVAL, "a bundle has no folder %s; nothing was taken from it", shown);
	}
	if (!*ret_file)
		return error_set(err, E_INVAL, "%s in the bundle is a link or device; nothing was taken from it",
		                 shown);
	if (!name_allowed(name))
		return error_set(err, E_INVAL, "a bundle has no file %s; nothing was taken from it", shown);
	if (!archive_entry_size_is_set(e) || archive_entry_size(e) < 0 ||
	    (uint64_t)archive_entry_size(e) > s->reader->size)
		return error_set(err, E_INVAL,
		                 "%s in the bundle is larger than the bundle: is it cut short, or a part missing?",
		                 shown);
	if (archive_entry_sparse_count(e))
		return error_set(err, E_INVAL, "%s in the bundle is sparse; nothing was taken from it", shown);
	str_copy(name, to->name, sizeof to->name);
	to->size = (uint64_t)archive_entry_size(e);
	return 0;
}

static int by_name(const void *a, const void *b)
{
	const struct bundle_entry *x = a, *y = b;
	return strcmp(x->name, y->name);
}

/* The content of the entry before, now that it is known where the next header is. */
static int place_entry(struct bundle_entry *e, uint64_t next, struct error *err)
{
	uint64_t padded = e->size + bundle_padding(e->size);
	if (padded > next)
		return error_set(err, E_INVAL, "%s in the bundle does not lie in it", e->name);
	e->offset = next - padded;
	return 0;
}

static int scan_archive(struct archive *a, struct scan *s, struct bundle_entry **list, size_t *count, struct error *err)
{
	struct archive_entry *e;
	size_t room = 0, headers = 0;
	bool before = false;
	int step, rc = 0;
	while (!rc && (step = archive_read_next_header(a, &e)) != ARCHIVE_EOF) {
		bool is_file;
		if (step != ARCHIVE_OK)
			return error_set(err, E_INVAL,
			                 "this is no tar that can be read (%s); is it cut short, or a part missing?",
			                 archive_error_string(a) ? archive_error_string(a) : "no reason given");
		if (++headers > BUNDLE_ENTRIES_MAX)
			return error_set(err, E_LIMIT, "a bundle has at most %d files", BUNDLE_ENTRIES_MAX);
		if (before)
			rc = place_entry(&(*list)[*count - 1], (uint64_t)archive_read_header_position(a), err);
		if (*count == room)
			*list = mem_resize(*list, room = room ? 2 * room : 64, sizeof **list);
		if (!rc)
			rc = take_entry(e, s, &(*list)[*count], &is_file, err);
		before = !rc && is_file;
		*count += before;
	}
	if (!rc && before)
		rc = place_entry(&(*list)[*count - 1], (uint64_t)archive_read_header_position(a), err);
	return rc;
}

int bundle_scan(const struct bundle_reader *reader, struct bundle_entry **ret_entries, size_t *ret_count,
                struct error *err)
{
	struct archive *a = archive_read_new();
	struct scan *s = NEW(struct scan);
	struct bundle_entry *list = NULL;
	size_t count = 0;
	s->reader = reader;
	archive_read_support_format_tar(a);
	int rc = archive_read_open2(a, s, NULL, scan_read, scan_skip, NULL) == ARCHIVE_OK
	             ? scan_archive(a, s, &list, &count, err)
	             : error_set(err, E_INVAL, "this is no tar: %s", archive_error_string(a));
	archive_read_free(a);
	free(s);
	if (!rc && count)
		qsort(list, count, sizeof *list, by_name);
	for (size_t i = 0; !rc && i < count; i++)
		if (list[i].size > reader->size - list[i].offset)
			rc = error_set(err, E_INVAL, "%s in the bundle is cut short", list[i].name);
		else if (i && !strcmp(list[i - 1].name, list[i].name))
			rc = error_set(err, E_INVAL, "%s is twice in the bundle; nothing was taken from it",
			               list[i].name);
	if (!rc && !bundle_find(list, count, "oci-layout"))
		rc = error_set(err, E_INVAL, "this tar is no OCI image layout: it has no file oci-layout");
	if (rc) {
		free(list);
		return rc;
	}
	*ret_entries = list;
	*ret_count = count;
	return 0;
}

const struct bundle_entry *bundle_find(const struct bundle_entry *entries, size_t count, const char *name)
{
	struct bundle_entry key;
	if (!count || !str_copy(str_from(name), key.name, sizeof key.name))
		return NULL;
	return bsearch(&key, entries, count, sizeof key, by_name);
}

const struct bundle_entry *bundle_find_blob(const struct bundle_entry *entries, size_t count, const struct digest *d)
{
	char name[BUNDLE_NAME_SIZE];
	bundle_blob_name(d, name);
	return bundle_find(entries, count, name);
}

/* ---- the list of contents ----------------------------------------------------------------------- */

void bundle_contents_fini(struct bundle_contents *c)
{
	free(c->blobs);
	*c = (struct bundle_contents){0};
}

void bundle_contents_format(const struct bundle_contents *c, struct buf *out)
{
	char text[DIGEST_TEXT_SIZE];
	buf_append_str(out, STR("{\"mdn_bundle\":1,\"blobs\":["));
	for (size_t i = 0; i < c->count; i++) {
		const struct bundle_blob *b = &c->blobs[i];
		digest_format(&b->digest, text);
		buf_printf(out, "%s{\"digest\":\"%s\",\"size\":%llu", i ? "," : "", text, (unsigned long long)b->size);
		digest_format(&b->chunks, text);
		if (b->delta)
			buf_printf(out, ",\"chunks\":\"%s\",\"pack_size\":%llu", text,
			           (unsigned long long)b->pack_size);
		buf_append_str(out, STR("}"));
	}
	buf_append_str(out, STR("]}\n"));
}

static int take_digest(yyjson_val *obj, const char *key, struct digest *ret, bool *ret_there, struct error *err)
{
	struct str text = {0};
	int rc = json_str(obj, key, &text, err);
	*ret_there = text.base != NULL;
	if (!rc && text.base && digest_parse(text, ret))
		rc = error_set(err, E_INVAL, "\"%s\" of the bundle's contents is not a sha256 digest", key);
	return rc;
}

static int take_blob(yyjson_val *obj, struct bundle_blob *b, struct error *err)
{
	int64_t size = -1, pack = -1;
	bool there;
	if (!yyjson_is_obj(obj))
		return error_set(err, E_INVAL, "the bundle's contents must list objects");
	int rc = take_digest(obj, "digest", &b->digest, &there, err);
	if (!rc && !there)
		rc = error_set(err, E_INVAL, "a blob of the bundle's contents has no digest");
	if (!rc)
		rc = json_i64(obj, "size", 0, INT64_MAX / 2, &size, err);
	if (!rc)
		rc = take_digest(obj, "chunks", &b->chunks, &b->delta, err);
	if (!rc)
		rc = json_i64(obj, "pack_size", 0, INT64_MAX / 2, &pack, err);
	if (!rc && (size < 0 || b->delta != (pack >= 0)))
		rc = error_set(err, E_INVAL, "a blob of the bundle's contents has no size");
	b->size = (uint64_t)size;
	b->pack_size = b->delta ? (uint64_t)pack : 0;
	return rc;
}

int bundle_contents_parse(struct str text, struct bundle_contents *ret_contents, struct error *err)
{
	struct bundle_contents c = {0};
	yyjson_doc *doc;
	yyjson_val *list = NULL, *item;
	int64_t version = 0;
	size_t i, max;
	int rc = json_parse(text, &doc, err);
	if (rc)
		return error_prefix(err, BUNDLE_CONTENTS ": ");
	yyjson_val *root = yyjson_doc_get_root(doc);
	if (!yyjson_is_obj(root))
		rc = error_set(err, E_INVAL, BUNDLE_CONTENTS " is not a JSON object");
	if (!rc)
		rc = json_i64(root, "mdn_bundle", 0, INT64_MAX, &version, err);
	if (!rc && version != 1)
		rc = error_set(err, E_UNSUPPORTED, "the bundle was made by a newer MDN");
	if (!rc)
		rc = json_arr(root, "blobs", &list, err);
	if (!rc && yyjson_arr_size(list) > BUNDLE_ENTRIES_MAX)
		rc = error_set(err, E_LIMIT, "a bundle has at most %d blobs", BUNDLE_ENTRIES_MAX);
	if (!rc)
		c.blobs = mem_new((yyjson_arr_size(list) + 1) * sizeof *c.blobs);
	yyjson_arr_foreach(list, i, max, item)
	{
		if (rc)
			break;
		rc = take_blob(item, &c.blobs[c.count++], err);
	}
	yyjson_doc_free(doc);
	if (rc)
		bundle_contents_fini(&c);
	else
		*ret_contents = c;
	return rc;
}

/* ---- what a place has --------------------------------------------------------------------------- */

void bundle_have_fini(struct bundle_have *h)
{
	free(h->blobs);
	free(h->chunks);
	*h = (struct bundle_have){0};
}

void bundle_have_add(struct digest **list, size_t *count, const struct digest *d)
{
	if (*count == 0 || (*count >= 64 && (*count & (*count - 1)) == 0))
		*list = mem_resize(*list, *count ? 2 * *count : 64, sizeof **list);
	(*list)[(*count)++] = *d;
}

static int by_digest(const void *a, const void *b)
{
	return memcmp(a, b, DIGEST_SIZE);
}

static size_t sort_unique(struct digest *list, size_t count)
{
	size_t kept = 0;
	if (count)
		qsort(list, count, sizeof *list, by_digest);
	for (size_t i = 0; i < count; i++)
		if (!kept || !digest_equal(&list[kept - 1], &list[i]))
			list[kept++] = list[i];
	return kept;
}

void bundle_have_sort(struct bundle_have *h)
{
	h->blob_count = sort_unique(h->blobs, h->blob_count);
	h->chunk_count = sort_unique(h->chunks, h->chunk_count);
}

bool bundle_have_has(const struct digest *list, size_t count, const struct digest *d)
{
	return count && bsearch(d, list, count, sizeof *d, by_digest);
}

static void format_list(const char *key, const struct digest *list, size_t count, struct buf *out)
{
	char hex[2 * DIGEST_SIZE + 1];
	buf_printf(out, ",\"%s\":[", key);
	for (size_t i = 0; i < count; i++) {
		hex_encode(list[i].bytes, DIGEST_SIZE, hex);
		buf_printf(out, "%s\"%s\"", i ? "," : "", hex);
	}
	buf_append_str(out, STR("]"));
}

void bundle_have_format(struct bundle_have *h, struct buf *out)
{
	bundle_have_sort(h);
	buf_append_str(out, STR("{\"mdn_have\":1"));
	format_list("blobs", h->blobs, h->blob_count, out);
	format_list("chunks", h->chunks, h->chunk_count, out);
	buf_append_str(out, STR("}\n"));
}

static int take_list(yyjson_val *root, const char *key, struct digest **list, size_t *count, struct error *err)
{
	yyjson_val *array = NULL, *item;
	size_t i, max;
	int rc = json_arr(root, key, &array, err);
	yyjson_arr_foreach(array, i, max, item)
	{
		struct digest d;
		struct str text = {yyjson_get_str(item), yyjson_get_len(item)};
		if (rc)
			break;
		if (!text.base || hex_decode(text, d.bytes, DIGEST_SIZE))
			rc = error_set(err, E_INVAL, "\"%s\" of the list must be of 64 hex digits each", key);
		else
			bundle_have_add(list, count, &d);
	}
	return rc;
}

int bundle_have_parse(struct str text, struct bundle_have *ret_have, struct error *err)
{
	struct bundle_have h = {0};
	yyjson_doc *doc;
	int64_t version = 0;
	int rc = json_parse(text, &doc, err);
	if (rc)
		return rc;
	yyjson_val *root = yyjson_doc_get_root(doc);
	if (!yyjson_is_obj(root) || json_i64(root, "mdn_have", 0, INT64_MAX, &version, NULL) || version != 1)
		rc = error_set(err, E_INVAL, "this is no list of `mdn export --have-list`");
	if (!rc)
		rc = take_list(root, "blobs", &h.blobs, &h.blob_count, err);
	if (!rc)
		rc = take_list(root, "chunks", &h.chunks, &h.chunk_count, err);
	yyjson_doc_free(doc);
	if (rc) {
		bundle_have_fini(&h);
		return rc;
	}
	bundle_have_sort(&h);
	*ret_have = h;
	return 0;
}
