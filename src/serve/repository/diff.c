/* SPDX-License-Identifier: Apache-2.0 */
/* Each version becomes a list of keys and a list of tensors, both sorted by name; then both pairs of lists are walked
 * side by side. A GGUF's keys are its header's; a safetensors model's are the first level of its JSON files. Values are
 * compared as bytes and shown shortened. */
#include "serve/repository/diff.h"

#include "base/json.h"
#include "base/limits.h"
#include "store/gguf.h"
#include "store/safetensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define SHOWN_MAX 160 /* bytes of a value */
#define PIECE (1u << 20)
#define JSON_MAX (16u << 20)

struct opened {
	const struct version_file *file;
	struct blob_file *blob;
	struct chunk_list chunks; /* count 0: none */
};

struct key {
	char *name;
	const char *type;        /* static */
	const struct opened *in; /* NULL: text says it all */
	uint64_t at, bytes;
	char *text;
};

struct tensor {
	char *name;
	char type[16];
	const struct opened *in;
	uint64_t at, bytes, elements;
};

struct side {
	const struct version *v;
	struct opened *files;
	size_t file_count;
	struct key *keys;
	size_t key_count, key_room;
	struct tensor *tensors;
	size_t tensor_count, tensor_room;
	struct opened *reading;
	size_t reading_first; /* of its tensors */
	bool wants_keys;
};

static void side_fini(struct side *s)
{
	for (size_t i = 0; i < s->file_count; i++) {
		blob_file_close(s->files[i].blob);
		chunk_list_fini(&s->files[i].chunks);
	}
	for (size_t i = 0; i < s->key_count; i++) {
		free(s->keys[i].name);
		free(s->keys[i].text);
	}
	for (size_t i = 0; i < s->tensor_count; i++)
		free(s->tensors[i].name);
	free(s->files);
	free(s->keys);
	free(s->tensors);
}

/* ---- reading a side -------------------------------------------------------------------------------- */

static int read_blob(void *arg, uint64_t offset, void *out, size_t len, struct error *err)
{
	return blob_file_read(arg, offset, out, len, err);
}

static struct key *add_key(struct side *s)
{
	if (s->key_count == s->key_room) {
		s->key_room = s->key_room ? s->key_room * 2 : 64;
		s->keys = mem_resize(s->keys, s->key_room, sizeof *s->keys);
	}
	s->keys[s->key_count] = (struct key){0};
	return &s->keys[s->key_count++];
}

static struct tensor *add_tensor(struct side *s)
{
	if (s->tensor_count == s->tensor_room) {
		s->tensor_room = s->tensor_room ? s->tensor_room * 2 : 256;
		s->tensors = mem_resize(s->tensors, s->tensor_room, sizeof *s->tensors);
	}
	s->tensors[s->tensor_count] = (struct tensor){0};
	return &s->tensors[s->tensor_count++];
}

static void on_key(void *arg, const struct gguf_key *k)
{
	struct side *s = arg;
	if (!s->wants_keys)
		return;
	struct key *key = add_key(s);
	*key = (struct key){str_dup(str_from(k->key)), k->type, s->reading, k->at, k->bytes, NULL};
}

static void on_tensor(void *arg, const struct gguf_tensor *t)
{
	struct side *s = arg;
	struct tensor *own = add_tensor(s);
	own->name = str_dup(str_from(t->name));
	str_copy(str_from(t->type), own->type, sizeof own->type);
	own->in = s->reading;
	own->at = t->offset;
	own->bytes = t->bytes;
	own->elements = t->elements;
}

static int read_gguf(struct side *s, struct opened *o, struct error *err)
{
	struct gguf_info info;
	int rc = gguf_parse_keys(read_blob, o->blob, o->file->size, on_key, on_tensor, s, &info, err);
	if (rc)
		return rc;
	for (size_t i = s->reading_first; i < s->tensor_count; i++)
		s->tensors[i].at += info.data_offset;
	gguf_info_fini(&info);
	return 0;
}

static int read_safetensors(struct side *s, struct opened *o, struct error *err)
{
	struct safetensors st;
	int rc = safetensors_parse(read_blob, o->blob, o->file->size, &st, err);
	if (rc)
		return rc;
	for (uint32_t i = 0; i < st.count; i++) {
		const struct safetensors_tensor *t = &st.tensors[i];
		struct tensor *own = add_tensor(s);
		own->name = str_dup(t->name);
		str_copy(str_from(t->dtype), own->type, sizeof own->type);
		own->in = o;
		own->at = st.data_offset + t->from;
		own->bytes = t->to - t->from;
		own->elements = t->elements;
	}
	safetensors_fini(&st);
	return 0;
}

/* "config.json: hidden_size". What is no JSON object has no keys; that it changed is in the list of files. */
static void read_json_keys(struct side *s, struct blob_store *store, const struct version_file *f)
{
	struct buf text = {0};
	yyjson_doc *doc = NULL;
	yyjson_val *key, *value;
	size_t i, max;
	if (!blob_read_all(store, &f->digest, JSON_MAX, &text, NULL) && !json_parse(buf_str(&text), &doc, NULL) &&
	    yyjson_is_obj(yyjson_doc_get_root(doc))) {
		yyjson_obj_foreach(yyjson_doc_get_root(doc), i, max, key, value)
		{
			struct buf name = {0};
			char *written = yyjson_val_write(value, YYJSON_WRITE_NOFLAG, NULL);
			if (s->key_count >= LIMIT_GGUF_KVS || !written) {
				free(written);
				break;
			}
			buf_printf(&name, "%s: %.200s", f->path, yyjson_get_str(key));
			struct key *own = add_key(s);
			own->name = str_dup(buf_str(&name));
			own->type = "JSON";
			own->text = str_dup(str_from(written));
			own->bytes = strlen(written);
			buf_fini(&name);
			free(written);
		}
	}
	yyjson_doc_free(doc);
	buf_fini(&text);
}

static int open_chunks(struct blob_store *store, struct opened *o)
{
	static const struct digest none;
	struct buf text = {0};
	if (digest_equal(&o->file->chunks, &none))
		return 0;
	int rc = blob_read_all(store, &o->file->chunks, 64 << 20, &text, NULL);
	if (!rc)
		rc = chunk_list_parse(buf_str(&text), &o->chunks, NULL);
	if (!rc && o->chunks.size != o->file->size) {
		chunk_list_fini(&o->chunks);
		o->chunks = (struct chunk_list){0};
	}
	buf_fini(&text);
	return rc;
}

static int read_file(struct side *s, struct blob_store *store, struct opened *o, struct error *err)
{
	struct str path = str_from(o->file->path);
	char magic[4] = "";
	int rc = blob_file_open(store, &o->file->digest, &o->blob, err);
	if (rc)
		return error_prefix(err, "%s: ", o->file->path);
	open_chunks(store, o); /* without it, bytes are compared */
	s->reading = o;
	s->reading_first = s->tensor_count;
	s->wants_keys = o->file == version_main_file(s->v);
	if (o->file->size >= sizeof magic)
		blob_file_read(o->blob, 0, magic, sizeof magic, NULL);
	if (!memcmp(magic, "GGUF", sizeof magic))
		rc = read_gguf(s, o, err);
	else if (str_ends(path, STR(".safetensors")))
		rc = read_safetensors(s, o, err);
	else if (str_ends(path, STR(".json")) && !memchr(path.base, '/', path.len) &&
	         strcmp(o->file->path, "tokenizer.json") && !strstr(o->file->path, ".index."))
		read_json_keys(s, store, o->file);
	return rc ? error_prefix(err, "%s: ", o->file->path) : 0;
}

static int by_key(const void *a, const void *b)
{
	return strcmp(((const struct key *)a)->name, ((const struct key *)b)->name);
}

static int by_tensor(const void *a, const void *b)
{
	return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

static int side_read(struct side *s, struct blob_store *store, const struct version *v, struct error *err)
{
	s->v = v;
	s->files = mem_new((v->file_count + 1) * sizeof *s->files);
	for (size_t i = 0; i < v->file_count; i++) {
		struct opened *o = &s->files[s->file_count++];
		o->file = &v->files[i];
		int rc = read_file(s, store, o, err);
		if (rc)
			return rc;
	}
	if (s->key_count)
		qsort(s->keys, s->key_count, sizeof *s->keys, by_key);
	if (s->tensor_count)
		qsort(s->tensors, s->tensor_count, sizeof *s->tensors, by_tensor);
	return 0;
}

/* ---- the same? --------------------------------------------------------------------------------------- */

static int same_bytes(const struct opened *a, uint64_t at_a, const struct opened *b, uint64_t at_b, uint64_t len,
                      bool *ret_same, struct error *err)
{
	char *x = mem_new(2 * (size_t)PIECE), *y = x + PIECE;
	int rc = 0;
	*ret_same = true;
	for (uint64_t done = 0; !rc && *ret_same && done < len;) {
		/* Little at first: what differs mostly differs at its beginning. */
		size_t n = done ? PIECE : 4096;
		n = len - done < n ? (size_t)(len - done) : n;
		rc = blob_file_read(a->blob, at_a + done, x, n, err);
		if (!rc)
			rc = blob_file_read(b->blob, at_b + done, y, n, err);
		*ret_same = !rc && !memcmp(x, y, n);
		done += n;
	}
	free(x);
	return rc;
}

/* All chunks that hold a part of the range in b are in a, too, at the same distance from its begin. */
static bool same_chunks(const struct opened *a, uint64_t at_a, const struct opened *b, uint64_t at_b, uint64_t len)
{
	if (!a->chunks.count || !b->chunks.count || !len)
		return false;
	for (uint32_t i = chunk_at(&b->chunks, at_b); i < b->chunks.count && chunk_offset(&b->chunks, i) < at_b + len;
	     i++) {
		uint64_t start = chunk_offset(&b->chunks, i) + at_a;
		if (start < at_b || start - at_b >= a->chunks.size)
			return false;
		start -= at_b;
		uint32_t k = chunk_at(&a->chunks, start);
		if (chunk_offset(&a->chunks, k) != start ||
		    chunk_length(&a->chunks, k) != chunk_length(&b->chunks, i) ||
		    !digest_equal(&a->chunks.digests[k], &b->chunks.digests[i]))
			return false;
	}
	return true;
}

static int same_tensor(const struct tensor *a, const struct tensor *b, bool *ret_same, struct error *err)
{
	*ret_same = false;
	if (a->bytes != b->bytes || a->elements != b->elements || strcmp(a->type, b->type))
		return 0;
	if ((digest_equal(&a->in->file->digest, &b->in->file->digest) && a->at == b->at) ||
	    same_chunks(a->in, a->at, b->in, b->at, b->bytes)) {
		*ret_same = true;
		return 0;
	}
	return same_bytes(a->in, a->at, b->in, b->at, b->bytes, ret_same, err);
}

static int same_key(const struct key *a, const struct key *b, bool *ret_same, struct error *err)
{
	*ret_same = false;
	if (a->bytes != b->bytes || strcmp(a->type, b->type))
		return 0;
	if (a->text || b->text) {
		*ret_same = a->text && b->text && !strcmp(a->text, b->text);
		return 0;
	}
	return same_bytes(a->in, a->at, b->in, b->at, b->bytes, ret_same, err);
}

/* ---- values for people --------------------------------------------------------------------------------- */

static uint64_t little(const uint8_t *b, size_t len)
{
	uint64_t v = 0;
	for (size_t i = len; i-- > 0;)
		v = v << 8 | b[i];
	return v;
}

static void show_number(const char *type, const uint8_t *b, size_t len, struct buf *out)
{
	uint64_t raw = little(b, len);
	float f;
	double d;
	if (!strcmp(type, "FLOAT32")) {
		memcpy(&f, b, sizeof f);
		buf_printf(out, "%.9g", (double)f);
	} else if (!strcmp(type, "FLOAT64")) {
		memcpy(&d, b, sizeof d);
		buf_printf(out, "%.17g", d);
	} else if (!strcmp(type, "BOOL")) {
		buf_printf(out, "%s", raw ? "true" : "false");
	} else if (type[0] == 'I' && len < 8 && raw >> (8 * len - 1)) {
		buf_printf(out, "%" PRId64, (int64_t)(raw | ~UINT64_C(0) << 8 * len));
	} else if (type[0] == 'I') {
		buf_printf(out, "%" PRId64, (int64_t)raw);
	} else {
		buf_printf(out, "%" PRIu64, raw);
	}
}

static void show_text(struct str text, bool cut, struct buf *out)
{
	struct str shown = {text.base, text.len < SHOWN_MAX ? text.len : SHOWN_MAX};
	shown.len = utf8_complete_prefix(shown);
	buf_append_str(out, shown);
	if (cut || shown.len < text.len)
		buf_append_str(out, STR("..."));
}

static void show_value(const struct key *k, struct buf *out)
{
	uint8_t b[8 + SHOWN_MAX];
	size_t len = k->bytes < sizeof b ? (size_t)k->bytes : sizeof b;
	if (k->text) {
		show_text(str_from(k->text), false, out);
	} else if (blob_file_read(k->in->blob, k->at, b, len, NULL)) {
		buf_append_str(out, STR("(unreadable)"));
	} else if (!strcmp(k->type, "STRING") && len >= 8) {
		show_text((struct str){(char *)b + 8, len - 8}, k->bytes > len, out);
	} else if (!strcmp(k->type, "ARRAY") && len >= 12) {
		buf_printf(out, "(%" PRIu64 " items, %" PRIu64 " bytes)", little(b + 4, 8), k->bytes);
	} else {
		show_number(k->type, b, len, out);
	}
}

static void append_value(const char *name, const struct key *k, struct buf *out)
{
	struct buf text = {0};
	if (!k)
		return;
	show_value(k, &text);
	buf_printf(out, ",\"%s\":", name);
	buf_append_json(out, buf_str(&text));
	buf_fini(&text);
}

/* ---- the document ---------------------------------------------------------------------------------------- */

struct list {
	struct buf *out;
	size_t shown, more;
};

/* True: one more line may be written. */
static bool list_next(struct list *l)
{
	if (l->shown == DIFF_LINES_MAX) {
		l->more++;
		return false;
	}
	buf_append_str(l->out, l->shown++ ? STR(",") : STR(""));
	return true;
}

static const char *change_of(const void *a, const void *b)
{
	return !a ? "added" : !b ? "removed" : "changed";
}

static void put_key(struct list *l, const struct key *a, const struct key *b)
{
	if (!list_next(l))
		return;
	buf_printf(l->out, "{\"change\":\"%s\",\"key\":", change_of(a, b));
	buf_append_json(l->out, str_from((a ? a : b)->name));
	append_value("from", a, l->out);
	append_value("to", b, l->out);
	buf_append_str(l->out, STR("}"));
}

static int diff_keys(const struct side *a, const struct side *b, struct list *l, struct error *err)
{
	size_t i = 0, k = 0;
	while (i < a->key_count || k < b->key_count) {
		int order = i == a->key_count ? 1 : k == b->key_count ? -1 : by_key(&a->keys[i], &b->keys[k]);
		bool same = false;
		if (!order) {
			int rc = same_key(&a->keys[i], &b->keys[k], &same, err);
			if (rc)
				return rc;
		}
		if (!same)
			put_key(l, order <= 0 ? &a->keys[i] : NULL, order >= 0 ? &b->keys[k] : NULL);
		i += order <= 0;
		k += order >= 0;
	}
	return 0;
}

static void append_tensor(const char *name, const struct tensor *t, struct buf *out)
{
	if (t)
		buf_printf(out, ",\"%s\":{\"type\":\"%s\",\"bytes\":%" PRIu64 "}", name, t->type, t->bytes);
}

struct tensor_counts {
	size_t added, removed, changed, same;
};

static void put_tensor(struct list *l, const struct tensor *a, const struct tensor *b, struct tensor_counts *n)
{
	++*(!a ? &n->added : !b ? &n->removed : &n->changed);
	if (!list_next(l))
		return;
	buf_printf(l->out, "{\"change\":\"%s\",\"name\":", change_of(a, b));
	buf_append_json(l->out, str_from((a ? a : b)->name));
	append_tensor("from", a, l->out);
	append_tensor("to", b, l->out);
	buf_append_str(l->out, STR("}"));
}

static int diff_tensors(const struct side *a, const struct side *b, struct list *l, struct tensor_counts *n,
                        struct error *err)
{
	size_t i = 0, k = 0;
	while (i < a->tensor_count || k < b->tensor_count) {
		int order = i == a->tensor_count   ? 1
		            : k == b->tensor_count ? -1
		                                   : by_tensor(&a->tensors[i], &b->tensors[k]);
		bool same = false;
		if (!order) {
			int rc = same_tensor(&a->tensors[i], &b->tensors[k], &same, err);
			if (rc)
				return rc;
		}
		n->same += same;
		if (!same)
			put_tensor(l, order <= 0 ? &a->tensors[i] : NULL, order >= 0 ? &b->tensors[k] : NULL, n);
		i += order <= 0;
		k += order >= 0;
	}
	return 0;
}

static const struct version_file *file_named(const struct version *v, const char *path)
{
	for (size_t i = 0; i < v->file_count; i++)
		if (!strcmp(v->files[i].path, path))
			return &v->files[i];
	return NULL;
}

static void put_file(struct list *l, const struct version_file *a, const struct version_file *b)
{
	if ((a && b && digest_equal(&a->digest, &b->digest)) || !list_next(l))
		return;
	buf_printf(l->out, "{\"change\":\"%s\",\"path\":", change_of(a, b));
	buf_append_json(l->out, str_from((a ? a : b)->path));
	if (a)
		buf_printf(l->out, ",\"from_bytes\":%" PRIu64, a->size);
	if (b)
		buf_printf(l->out, ",\"to_bytes\":%" PRIu64, b->size);
	buf_append_str(l->out, STR("}"));
}

static void diff_files(const struct version *a, const struct version *b, struct list *l)
{
	for (size_t i = 0; i < a->file_count; i++)
		put_file(l, &a->files[i], file_named(b, a->files[i].path));
	for (size_t i = 0; i < b->file_count; i++)
		if (!file_named(a, b->files[i].path))
			put_file(l, NULL, &b->files[i]);
}

static int by_digest(const void *a, const void *b)
{
	return memcmp(a, b, DIGEST_SIZE);
}

/* What one who holds `a` must fetch for `b`: chunks of files not held that are not among a's chunks, each once. */
static uint64_t bytes_to_move(const struct side *a, const struct side *b)
{
	size_t count = 0, room = 1;
	uint64_t move = 0;
	for (size_t i = 0; i < a->file_count; i++)
		room += a->files[i].chunks.count + 1;
	for (size_t i = 0; i < b->file_count; i++)
		room += b->files[i].chunks.count + 1;
	struct digest *held = mem_new(room * sizeof *held);
	for (size_t i = 0; i < a->file_count; i++) {
		held[count++] = a->files[i].file->digest;
		for (uint32_t k = 0; k < a->files[i].chunks.count; k++)
			held[count++] = a->files[i].chunks.digests[k];
	}
	qsort(held, count, sizeof *held, by_digest);
	for (size_t i = 0; i < b->file_count; i++) {
		const struct opened *o = &b->files[i];
		if (bsearch(&o->file->digest, held, count, sizeof *held, by_digest))
			continue;
		if (!o->chunks.count)
			move += o->file->size;
		for (uint32_t k = 0; k < o->chunks.count; k++)
			if (!bsearch(&o->chunks.digests[k], held, count, sizeof *held, by_digest))
				move += chunk_length(&o->chunks, k);
	}
	free(held);
	return move;
}

static void list_begin(struct list *l, const char *name)
{
	l->shown = l->more = 0;
	buf_printf(l->out, ",\"%s\":[", name);
}

static void list_end(struct list *l, const char *name)
{
	buf_append_str(l->out, STR("]"));
	if (l->more)
		buf_printf(l->out, ",\"more_%s\":%zu", name, l->more);
}

static int put_diff(const struct side *a, const struct side *b, struct buf *out, struct error *err)
{
	struct list l = {out, 0, 0};
	struct tensor_counts n = {0};
	buf_printf(out,
	           "{\"from\":\"%s:%s\",\"to\":\"%s:%s\",\"from_bytes\":%" PRIu64 ",\"to_bytes\":%" PRIu64
	           ",\"move_bytes\":%" PRIu64,
	           a->v->name, a->v->tag, b->v->name, b->v->tag, version_size(a->v), version_size(b->v),
	           bytes_to_move(a, b));
	list_begin(&l, "metadata");
	int rc = diff_keys(a, b, &l, err);
	list_end(&l, "metadata");
	list_begin(&l, "tensors");
	if (!rc)
		rc = diff_tensors(a, b, &l, &n, err);
	list_end(&l, "tensors");
	list_begin(&l, "files");
	diff_files(a->v, b->v, &l);
	list_end(&l, "files");
	buf_printf(out,
	           ",\"tensors_added\":%zu,\"tensors_removed\":%zu,\"tensors_changed\":%zu,\"tensors_same\":%zu}\n",
	           n.added, n.removed, n.changed, n.same);
	return rc;
}

int diff_versions(struct blob_store *store, const struct version *from, const struct version *to, struct buf *out,
                  struct error *err)
{
	struct side a = {0}, b = {0};
	int rc = side_read(&a, store, from, err);
	if (!rc)
		rc = side_read(&b, store, to, err);
	if (!rc)
		rc = put_diff(&a, &b, out, err);
	side_fini(&a);
	side_fini(&b);
	return rc;
}
