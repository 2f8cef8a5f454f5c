/* SPDX-License-Identifier: Apache-2.0 */
/* What makes a manifest a version, and what differs between two. */
#include "serve/repository/diff.h"
#include "serve/repository/model.h"

#include "base/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "../store/folder.h"
#include "../store/gguf_build.h"

static struct folder folder;
static struct blob_store *store;
static struct catalog *catalog;

static int setup(void **state)
{
	struct error err = {0};
	folder_init(&folder);
	if (blob_store_open(str_from(folder_file(&folder, "blobs")), &store, &err) ||
	    catalog_open(str_from(folder_file(&folder, "catalog.db")), &catalog, &err))
		fail_msg("%s", err.text);
	return 0;
}

static int teardown(void **state)
{
	catalog_close(catalog);
	blob_store_close(store);
	folder_fini(&folder);
	return 0;
}

/* A manifest of these files; config: its media type and content. */
struct file {
	const char *path;
	struct str content;
};

static void add_item(struct manifest *m, const char *type, const char *path, struct str content)
{
	struct manifest_item *item = &m->items[m->item_count++];
	*item = (struct manifest_item){.size = content.len};
	str_copy(str_from(type), item->media_type, sizeof item->media_type);
	str_copy(str_from(path), item->path, sizeof item->path);
	assert_int_equal(blob_put(store, content, &item->digest, NULL), 0);
}

static int make(const struct file *files, size_t count, const char *config_type, const char *config, bool *ret_is_model,
                struct version *ret_version, struct error *err)
{
	struct manifest m = {.has_config = true, .items = mem_new((count + 1) * sizeof *m.items)};
	add_item(&m, config_type, "", str_from(config));
	for (size_t i = 0; i < count; i++)
		add_item(&m, "application/octet-stream", files[i].path, files[i].content);
	int rc = model_version(store, catalog, 1 << 20, &m, ret_is_model, ret_version, err);
	manifest_fini(&m);
	return rc;
}

#define PLAIN "application/vnd.oci.empty.v1+json"
#define PACK "application/vnd.cncf.model.config.v1+json"

static struct version make_well(const struct file *files, size_t count)
{
	struct version v = {0};
	struct error err = {0};
	bool is_model = false;
	if (make(files, count, PLAIN, "{}", &is_model, &v, &err))
		fail_msg("%s", err.text);
	assert_true(is_model);
	return v;
}

/* One tensor "w" of 4 F16 values in safetensors, all bytes `filler`. */
static struct str safetensors(struct buf *b, char filler)
{
	static const char header[] = "{\"w\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[0,8]}}";
	gguf_u64(b, sizeof header - 1);
	buf_append(b, header, sizeof header - 1);
	for (int i = 0; i < 8; i++)
		buf_append(b, &filler, 1);
	return buf_str(b);
}

static void test_a_safetensors_folder_describes_itself(void **state)
{
	struct buf weights = {0};
	const struct file files[] = {
	    {"config.json", STR("{\"model_type\":\"qwen3\",\"max_position_embeddings\":40960,\"quantization_config\":"
	                        "{\"quant_method\":\"gptq\",\"bits\":4}}")},
	    {"model.safetensors", safetensors(&weights, 1)},
	    {"chat_template.jinja", STR("{{ x }}")},
	    {"README.md", STR("---\nlicense: 'mit'\ntags:\n- x\nbase_model: org/b\n---\nlicense: no\n")},
	};
	struct version v = make_well(files, 4);
	assert_int_equal(v.kind, VERSION_SAFETENSORS);
	assert_string_equal(v.architecture, "qwen3");
	assert_string_equal(v.quantization, "GPTQ-4");
	assert_string_equal(v.license, "mit");
	assert_string_equal(v.base_model, "org/b");
	assert_int_equal(v.context_tokens, 40960);
	assert_int_equal(v.parameters, 4);
	assert_true(v.chat_template);
	version_fini(&v);
	buf_fini(&weights);
}

static void test_missing_parts_and_bad_files_are_named(void **state)
{
	struct buf weights = {0}, gguf = {0};
	struct str st = safetensors(&weights, 1);
	gguf_small(&gguf, 1);
	const struct {
		struct file files[2];
		const char *words;
	} table[] = {
	    {{{"m-00001-of-00003.gguf", buf_str(&gguf)}, {"m-00003-of-00003.gguf", buf_str(&gguf)}},
	     "m-00002-of-00003.gguf is missing"},
	    {{{"m-00002-of-00002.gguf", buf_str(&gguf)}, {"x", STR("x")}}, "m-00001-of-00002.gguf is missing"},
	    {{{"a/m-00001-of-00002.safetensors", st}, {"m-00002-of-00002.safetensors", st}},
	     "a/m-00002-of-00002.safetensors is missing"},
	    {{{"model.safetensors", st},
	      {"model.safetensors.index.json", STR("{\"weight_map\":{\"w\":\"other.safetensors\"}}")}},
	     "other.safetensors, which is missing"},
	    {{{"model.safetensors", st}, {"config.json", STR("{")}}, "config.json"},
	    {{{"model.safetensors", STR("nonsense")}, {"config.json", STR("{}")}}, "model.safetensors"},
	};
	for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
		struct version v;
		struct error err = {0};
		bool is_model;
		int rc = make(table[i].files, 2, PLAIN, "{}", &is_model, &v, &err);
		if (rc != E_INVAL || !strstr(err.text, table[i].words))
			fail_msg("%zu: %d %s", i, rc, err.text);
	}
	buf_fini(&weights);
	buf_fini(&gguf);
}

static void test_modelpack_is_a_model_whatever_its_files(void **state)
{
	const struct file files[] = {{"weights.bin", STR("abc")}};
	struct version v;
	bool is_model;
	assert_int_equal(make(files, 1, PLAIN, "{}", &is_model, &v, NULL), 0);
	assert_false(is_model);
	assert_int_equal(make(files, 1, PACK, "{\"descriptor\":{\"licenses\":[\"apache-2.0\"],\"revision\":\"r1\"}}",
	                      &is_model, &v, NULL),
	                 0);
	assert_true(is_model);
	assert_int_equal(v.kind, VERSION_FILES);
	assert_string_equal(v.license, "apache-2.0");
	assert_string_equal(v.revision, "r1");
	version_fini(&v);
}

static void test_annotations_become_fields_and_labels(void **state)
{
	struct version v = {0};
	model_annotate(
	    STR("{\"annotations\":{\"org.opencontainers.image.licenses\":\"mit\",\"mdn.quantized-from\":\"m:f16\","
	        "\"team\":\"blue\",\"n\":1,\"bad\":\"a\\nb\"}}"),
	    &v);
	assert_string_equal(v.license, "mit");
	assert_string_equal(v.quantized_from, "m:f16");
	assert_int_equal(v.label_count, 1);
	assert_string_equal(version_label(&v, "team"), "blue");
	model_annotate(STR("not json"), &v);
	version_fini(&v);
}

static yyjson_doc *diff(const struct version *a, const struct version *b)
{
	struct buf out = {0};
	struct error err = {0};
	yyjson_doc *doc;
	if (diff_versions(store, a, b, &out, &err))
		fail_msg("%s", err.text);
	assert_int_equal(json_parse(buf_str(&out), &doc, NULL), 0);
	buf_fini(&out);
	return doc;
}

static int64_t number(yyjson_doc *doc, const char *key)
{
	return yyjson_get_sint(yyjson_obj_get(yyjson_doc_get_root(doc), key));
}

static void test_a_difference_of_bytes_in_small_tensors_is_found(void **state)
{
	struct buf one = {0}, two = {0};
	gguf_small(&one, 1);
	gguf_small(&two, 1);
	two.base[two.len - 1] ^= 1; /* in the last tensor, or its padding */
	two.base[two.len - 60] ^= 1;
	const struct file a_files[] = {{"m.gguf", buf_str(&one)}}, b_files[] = {{"m.gguf", buf_str(&two)}};
	struct version a = make_well(a_files, 1), b = make_well(b_files, 1);
	yyjson_doc *doc = diff(&a, &b);
	assert_int_equal(number(doc, "tensors_changed"), 1);
	assert_int_equal(number(doc, "tensors_same"), 1);
	assert_int_equal(yyjson_arr_size(yyjson_obj_get(yyjson_doc_get_root(doc), "metadata")), 0);
	assert_int_equal(yyjson_arr_size(yyjson_obj_get(yyjson_doc_get_root(doc), "files")), 1);
	assert_true(number(doc, "move_bytes") > 0 && number(doc, "move_bytes") <= (int64_t)two.len);
	yyjson_doc_free(doc);
	doc = diff(&a, &a);
	assert_int_equal(number(doc, "move_bytes"), 0);
	assert_int_equal(number(doc, "tensors_same"), 2);
	yyjson_doc_free(doc);
	version_fini(&a);
	version_fini(&b);
	buf_fini(&one);
	buf_fini(&two);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(test_a_safetensors_folder_describes_itself),
	    TEST(test_missing_parts_and_bad_files_are_named),
	    TEST(test_modelpack_is_a_model_whatever_its_files),
	    TEST(test_annotations_become_fields_and_labels),
	    TEST(test_a_difference_of_bytes_in_small_tensors_is_found),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
