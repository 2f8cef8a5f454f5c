/* SPDX-License-Identifier: Apache-2.0 */
/* Cuts: what two versions of a model share. Files are made here, versions differ as releases do. */
#include "base/digest.h"
#include "base/limits.h"
#include "base/rng.h"
#include "store/blob.h"
#include "store/cut.h"
#include "store/gguf.h"
#include "store/safetensors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "folder.h"
#include "gguf_build.h"

#define CHUNK (UINT64_C(512) << 10)

static int read_str(void *arg, uint64_t offset, void *out, size_t len, struct error *err)
{
	const struct str *bytes = arg;
	assert_true(offset <= bytes->len && len <= bytes->len - offset);
	memcpy(out, bytes->base + offset, len);
	return 0;
}

/* ---- models ----------------------------------------------------------------------------------- */

#define LAYERS 60
#define PER_LAYER 5
#define TENSORS (LAYERS * PER_LAYER)

/* As transformers have them: four matrices and a small norm in each layer; rows of 64 F32. */
static uint64_t rows_of(int tensor)
{
	static const uint64_t rows[PER_LAYER] = {9, 1500, 350, 2500, 1050};
	return rows[tensor % PER_LAYER];
}

static void fill(struct buf *b, uint64_t seed, size_t len)
{
	struct rng rng;
	uint8_t *to = (uint8_t *)buf_reserve(b, len + 8);
	rng_init(&rng, seed);
	for (size_t i = 0; i < len; i += 8) {
		uint64_t v = rng_next(&rng);
		memcpy(to + i, &v, 8);
	}
	b->len += len;
}

/* changed: every so many tensors are others; 0: none. */
static uint64_t seed_of(int tensor, int changed)
{
	return changed && tensor % changed == 50 ? 1000u + (unsigned)tensor : (unsigned)tensor;
}

static struct buf make_gguf(const char *name, int changed)
{
	struct buf b = {0};
	char word[64];
	uint64_t offset = 0;
	gguf_start(&b, 3, TENSORS, 4);
	gguf_kv_text(&b, "general.architecture", "llama");
	gguf_kv_text(&b, "general.name", name);
	gguf_kv_u32(&b, "llama.block_count", LAYERS);
	gguf_key(&b, "tokenizer.ggml.tokens", G_ARRAY);
	gguf_u32(&b, G_STRING);
	gguf_u64(&b, 30000);
	for (unsigned i = 0; i < 30000; i++) {
		snprintf(word, sizeof word, "token-%x", i * 2654435761u);
		gguf_text(&b, word);
	}
	for (int i = 0; i < TENSORS; i++) {
		snprintf(word, sizeof word, "blk.%d.%d.weight", i / PER_LAYER, i % PER_LAYER);
		gguf_tensor(&b, word, 0, 64, rows_of(i), offset);
		offset += rows_of(i) * 256;
	}
	gguf_pad(&b, 32);
	for (int i = 0; i < TENSORS; i++)
		fill(&b, seed_of(i, changed), rows_of(i) * 256);
	return b;
}

static struct buf make_safetensors(const char *name, int changed)
{
	struct buf head = {0}, b = {0};
	uint64_t offset = 0;
	buf_printf(&head, "{\"__metadata__\":{\"name\":\"%s\"}", name);
	for (int i = 0; i < TENSORS; i++) {
		uint64_t end = offset + rows_of(i) * 256;
		buf_printf(
		    &head, ",\"layers.%d.%d\":{\"dtype\":\"F32\",\"shape\":[%d,64],\"data_offsets\":[%llu,%llu]}",
		    i / PER_LAYER, i % PER_LAYER, (int)rows_of(i), (unsigned long long)offset, (unsigned long long)end);
		offset = end;
	}
	buf_append(&head, "}", 1);
	while (head.len % 8)
		buf_append(&head, " ", 1);
	gguf_u64(&b, head.len);
	buf_append(&b, head.base, head.len);
	buf_fini(&head);
	for (int i = 0; i < TENSORS; i++)
		fill(&b, seed_of(i, changed), rows_of(i) * 256);
	return b;
}

static uint64_t bytes_changed(int changed)
{
	uint64_t sum = 0;
	for (int i = 0; i < TENSORS; i++)
		if (seed_of(i, changed) != seed_of(i, 0))
			sum += rows_of(i) * 256;
	return sum;
}

/* ---- lists ------------------------------------------------------------------------------------ */

static struct chunk_list list_of(struct str bytes, uint64_t chunk_size)
{
	struct chunk_list list = {.size = bytes.len};
	assert_true(cut_file(read_str, &bytes, bytes.len, bytes.len, chunk_size, &list.ends, &list.count));
	list.digests = calloc(list.count + 1, sizeof *list.digests);
	for (uint32_t i = 0; i < list.count; i++) {
		assert_true(list.ends[i] > chunk_offset(&list, i));
		list.digests[i] = digest_of(bytes.base + chunk_offset(&list, i), chunk_length(&list, i));
	}
	assert_int_equal(list.count ? list.ends[list.count - 1] : 0, bytes.len);
	return list;
}

static int by_bytes(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(struct digest));
}

/* What has to move for b where a is held: chunks a does not have, and b's list. */
static uint64_t bytes_moved(struct buf a, struct buf b)
{
	struct chunk_list old = list_of(buf_str(&a), CHUNK), new = list_of(buf_str(&b), CHUNK);
	struct buf text = {0};
	chunk_list_format(&new, &text);
	uint64_t moved = text.len;
	qsort(old.digests, old.count, sizeof *old.digests, by_bytes);
	for (uint32_t i = 0; i < new.count; i++)
		if (!bsearch(&new.digests[i], old.digests, old.count, sizeof *old.digests, by_bytes))
			moved += chunk_length(&new, i);
	buf_fini(&text);
	chunk_list_fini(&old);
	chunk_list_fini(&new);
	return moved;
}

static void check_delta(struct buf (*make)(const char *, int), const char *what)
{
	const char *long_name = "a much longer name, which moves everything behind it by a number of bytes that is no "
				"multiple of anything at all";
	struct buf first = make("first", 0), renamed = make(long_name, 0), tuned = make("first", 99);
	uint64_t edit = bytes_moved(first, renamed), tune = bytes_moved(first, tuned), changed = bytes_changed(99);
	print_message("%s of %zu bytes: %llu move for a metadata edit, %llu for %llu changed\n", what, first.len,
	              (unsigned long long)edit, (unsigned long long)tune, (unsigned long long)changed);
	assert_true(changed * 50 < first.len && changed > 0);
	assert_true(edit <= 200000);
	assert_true(tune <= changed * 11 / 10);
	buf_fini(&first);
	buf_fini(&renamed);
	buf_fini(&tuned);
}

static void test_a_metadata_edit_moves_kilobytes_and_a_fine_tune_what_it_changed(void **state)
{
	check_delta(make_gguf, "GGUF");
	check_delta(make_safetensors, "safetensors");
}

static bool ends_at(const struct chunk_list *list, uint64_t offset)
{
	return offset == list->size || chunk_offset(list, chunk_at(list, offset)) == offset;
}

static void test_no_chunk_joins_a_part_of_a_large_tensor_with_another(void **state)
{
	struct buf b = make_gguf("x", 0);
	struct gguf_info info;
	struct chunk_list list = list_of(buf_str(&b), CHUNK);
	assert_int_equal(gguf_parse_bytes(buf_str(&b), &info, NULL), 0);
	uint64_t at = info.data_offset;
	assert_true(ends_at(&list, at));
	for (int i = 0; i < TENSORS; i++) {
		uint64_t len = rows_of(i) * 256;
		if (len >= 65536) {
			assert_true(ends_at(&list, at) && ends_at(&list, at + len));
			for (uint64_t step = CHUNK; step < len; step += CHUNK)
				assert_true(ends_at(&list, at + step));
		}
		at += len;
	}
	for (uint32_t i = 0; i < list.count; i++)
		assert_true(chunk_length(&list, i) <= CHUNK);
	gguf_info_fini(&info);
	chunk_list_fini(&list);
	buf_fini(&b);
}

static void test_small_tensors_share_chunks_and_count_stays_below_its_limit(void **state)
{
	struct buf b = {0};
	struct chunk_list list;
	gguf_start(&b, 3, 1000, 1);
	gguf_kv_text(&b, "general.architecture", "llama");
	for (uint64_t i = 0; i < 1000; i++) {
		char name[32];
		snprintf(name, sizeof name, "t%d", (int)i);
		gguf_tensor(&b, name, 0, 8, 1, i * 32);
	}
	gguf_pad(&b, 32);
	fill(&b, 5, 32000);
	list = list_of(buf_str(&b), CHUNK);
	assert_true(list.count < 10);
	chunk_list_fini(&list);
	buf_fini(&b);
	/* in steps of a byte it would be millions */
	fill(&b, 6, 4 << 20);
	list = list_of(buf_str(&b), 1);
	assert_true(list.count <= LIMIT_CHUNKS && list.count > LIMIT_CHUNKS / 4);
	chunk_list_fini(&list);
	buf_fini(&b);
}

static void test_cuts_do_not_depend_on_how_the_start_arrives(void **state)
{
	struct buf b = make_gguf("x", 0);
	struct str bytes = buf_str(&b);
	struct chunk_list whole = list_of(bytes, CHUNK), part = {.size = bytes.len};
	size_t asked = 0;
	for (uint64_t held = 1; !cut_file(read_str, &bytes, bytes.len, held, CHUNK, &part.ends, &part.count); asked++)
		held = 2 * held < bytes.len ? 2 * held : bytes.len;
	assert_true(asked > 10 && asked < 24);
	assert_int_equal(part.count, whole.count);
	assert_memory_equal(part.ends, whole.ends, whole.count * sizeof *whole.ends);
	chunk_list_fini(&whole);
	chunk_list_fini(&part);
	buf_fini(&b);
}

/* Piece by piece into a store, sealed or not: the list must be that of the finished file. */
static void check_upload(const struct folder *folder, bool seals)
{
	struct buf b = make_gguf("x", 0);
	struct digest d = digest_of(b.base, b.len);
	struct blob_store *s;
	struct blob_upload *u;
	struct chunk_list made, built;
	assert_int_equal(blob_store_open(str_from(folder_file(folder, seals ? "sealed" : "plain")), &s, NULL), 0);
	if (seals) {
		site_key_write(folder_file(folder, "key"));
		assert_int_equal(blob_store_unlock(s, folder_file(folder, "key"), true, NULL), 0);
	}
	assert_int_equal(blob_upload_new(s, &u, NULL), 0);
	blob_upload_chunk(u, b.len, CHUNK);
	for (size_t at = 0, n = 1; at < b.len; at += n, n = n < 3000000 ? n * 3 + 1 : n) {
		n = n < b.len - at ? n : b.len - at;
		assert_int_equal(blob_upload_append(u, (struct str){b.base + at, n}, NULL), 0);
	}
	assert_true(blob_upload_list(u, &d, &made));
	assert_int_equal(blob_upload_finish(u, &d, NULL), 0);
	assert_int_equal(chunk_list_build(s, &d, CHUNK, &built, NULL), 0);
	assert_int_equal(made.count, built.count);
	assert_memory_equal(made.ends, built.ends, made.count * sizeof *made.ends);
	assert_memory_equal(made.digests, built.digests, made.count * sizeof *made.digests);
	chunk_list_fini(&made);
	chunk_list_fini(&built);
	blob_store_close(s);
	buf_fini(&b);
}

static void test_an_upload_is_cut_as_its_file_would_be(void **state)
{
	struct folder folder;
	folder_init(&folder);
	check_upload(&folder, false);
	check_upload(&folder, true);
	folder_fini(&folder);
}

static void test_a_file_that_only_begins_like_a_model_is_cut_every_so_many_bytes(void **state)
{
	static const char *const starts[] = {"GGUF\3\0\0\0aaaaaaaaaaaaaaaaaa", "\x10\0\0\0\0\0\0\0{\"a\":1}         ",
	                                     "x"};
	for (size_t i = 0; i < 3; i++) {
		struct buf b = {0};
		fill(&b, i, 5 * CHUNK + 1);
		memcpy(b.base, starts[i], i == 2 ? 1 : 24);
		struct chunk_list list = list_of(buf_str(&b), CHUNK);
		assert_int_equal(list.count, 6);
		assert_int_equal(chunk_length(&list, 5), 1);
		chunk_list_fini(&list);
		buf_fini(&b);
	}
}

/* ---- safetensors ------------------------------------------------------------------------------ */

static int parse(const char *json, size_t data, struct safetensors *st, struct error *err)
{
	struct buf b = {0};
	gguf_u64(&b, strlen(json));
	buf_append(&b, json, strlen(json));
	for (size_t i = 0; i < data; i++)
		buf_append(&b, "x", 1);
	int rc = safetensors_parse_bytes(buf_str(&b), st, err);
	buf_fini(&b);
	return rc;
}

static void test_safetensors_header_is_read(void **state)
{
	struct safetensors st;
	struct error err = {0};
	if (parse("{\"b\":{\"dtype\":\"F16\",\"shape\":[2,3],\"data_offsets\":[4,16]},\"__metadata__\":{\"format\":"
	          "\"pt\"},"
	          "\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
	          "\"c\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[16,16]},"
	          "\"d\":{\"dtype\":\"F4\",\"shape\":[2],\"data_offsets\":[16,17]}}   ",
	          17, &st, &err))
		fail_msg("%s", err.text);
	assert_int_equal(st.count, 4);
	assert_int_equal(st.parameters, 12);
	assert_true(str_equal(st.tensors[1].name, STR("b")));
	assert_string_equal(st.tensors[1].dtype, "F16");
	assert_int_equal(st.tensors[1].dims, 2);
	assert_int_equal(st.tensors[1].shape[1], 3);
	assert_int_equal(st.tensors[3].to, 17);
	safetensors_fini(&st);
	assert_int_equal(parse("{}", 0, &st, &err), 0);
	safetensors_fini(&st);
}

static void test_hostile_safetensors_are_refused_in_words(void **state)
{
#define A "\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]"
	static const char *const texts[] = {
	    "[]",
	    "{",
	    "{\"a\":1}",
	    "{\"a\":{" A "},\"a\":{" A "}}",
	    "{\"a\":{" A "},\"b\":{" A "}}",
	    "{\"a\":{" A ",\"more\":1}}",
	    "{\"a\":{\"dtype\":\"U7\",\"shape\":[4],\"data_offsets\":[0,4]}}",
	    "{\"a\":{\"dtype\":\"U8\",\"shape\":[5],\"data_offsets\":[0,4]}}",
	    "{\"a\":{\"dtype\":\"U8\",\"shape\":[-4],\"data_offsets\":[0,4]}}",
	    "{\"a\":{\"dtype\":\"U8\",\"shape\":[4.0],\"data_offsets\":[0,4]}}",
	    "{\"a\":{\"dtype\":\"U8\",\"shape\":4,\"data_offsets\":[0,4]}}",
	    "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,0]}}",
	    "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4,8]}}",
	    "{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[1,4]}}",
	    "{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]}}",
	    "{\"a\":{\"dtype\":\"F4\",\"shape\":[7],\"data_offsets\":[0,4]}}",
	    "{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,4]}}",
	    "{\"a\":{\"dtype\":\"F64\",\"shape\":[9223372036854775807],\"data_offsets\":[0,4]}}",
	    "{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[18446744073709551615,18446744073709551615]}}",
	    "{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,4],\"data_offsets\":[0,4]}}",
	    "{\"a\":{" A "},\"__metadata__\":{\"x\":1}}",
	    "{\"a\":{" A "},\"__metadata__\":[]}",
	    "{\"a\":{" A "},\"__metadata__\":{},\"__metadata__\":{}}",
	    "{\"a\":{" A "}} x",
	};
	struct safetensors st;
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
		struct error err = {0};
		if (!parse(texts[i], 4, &st, &err) || !err.text[0])
			fail_msg("accepted %s", texts[i]);
	}
	assert_int_equal(parse("{\"a\":{" A "}}", 4, &st, NULL), 0);
	safetensors_fini(&st);
	static const char *const heads[] = {"", "\0\0\0\0\0\0\0\0{", "\xff\xff\xff\xff\xff\xff\xff\xff{}",
	                                    "\3\0\0\0\0\0\0\0{}"};
	static const size_t lengths[] = {0, 9, 10, 10};
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(safetensors_parse_bytes((struct str){heads[i], lengths[i]}, &st, NULL), E_INVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_a_metadata_edit_moves_kilobytes_and_a_fine_tune_what_it_changed),
	    cmocka_unit_test(test_no_chunk_joins_a_part_of_a_large_tensor_with_another),
	    cmocka_unit_test(test_small_tensors_share_chunks_and_count_stays_below_its_limit),
	    cmocka_unit_test(test_cuts_do_not_depend_on_how_the_start_arrives),
	    cmocka_unit_test(test_an_upload_is_cut_as_its_file_would_be),
	    cmocka_unit_test(test_a_file_that_only_begins_like_a_model_is_cut_every_so_many_bytes),
	    cmocka_unit_test(test_safetensors_header_is_read),
	    cmocka_unit_test(test_hostile_safetensors_are_refused_in_words),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
