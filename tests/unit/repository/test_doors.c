/* SPDX-License-Identifier: Apache-2.0 */
/* The pure parts of the doors that are not OCI: paths, names, logins, types. */
#include "serve/repository/hf_path.h"
#include "serve/repository/modelpack.h"
#include "serve/repository/ollama.h"
#include "serve/repository/snapshot.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void path_is(const char *text, enum hf_ask ask, const char *id, const char *revision, const char *path)
{
	struct hf_path p = hf_path_parse(str_from(text));
	assert_int_equal(p.ask, ask);
	if (ask == HF_NOTHING)
		return;
	assert_true(str_equal(p.id, str_from(id)));
	assert_true(str_equal(p.revision, str_from(revision)));
	assert_true(str_equal(p.path, str_from(path)));
}

static void test_paths_say_model_revision_and_file(void **state)
{
	path_is("/api/models", HF_LIST, "", "main", "");
	path_is("/api/models/tiny", HF_INFO, "tiny", "main", "");
	path_is("/api/models/team/words", HF_INFO, "team/words", "main", "");
	path_is("/api/models/team/words/revision/v1", HF_INFO, "team/words", "v1", "");
	path_is("/api/models/tiny/tree/v1/onnx/deep", HF_TREE, "tiny", "v1", "onnx/deep");
	path_is("/api/models/team/words/refs", HF_REFS, "team/words", "main", "");
	path_is("/api/models/team/words/paths-info/refs/pr/1", HF_PATHS, "team/words", "refs/pr/1", "");
	path_is("/team/words/resolve/v1/onnx/model.onnx", HF_FILE, "team/words", "v1", "onnx/model.onnx");
	path_is("/tiny/raw/main/a", HF_FILE, "tiny", "main", "a");
	path_is("/datasets/team/words/resolve/main/a", HF_OTHER, "", "main", "");
	path_is("/v2/resolve/manifests/v1", HF_NOTHING, NULL, NULL, NULL);
	path_is("/a/b/c/resolve/main/x", HF_NOTHING, NULL, NULL, NULL);
	path_is("/metrics", HF_NOTHING, NULL, NULL, NULL);
}

static void test_names_of_other_worlds_become_ours(void **state)
{
	char name[129];
	assert_true(snapshot_name(STR("library/SmolLM2"), name));
	assert_string_equal(name, "smollm2");
	assert_true(snapshot_name(STR("Qwen/Qwen2.5-0.5B"), name));
	assert_string_equal(name, "qwen/qwen2.5-0.5b");
	assert_false(snapshot_name(STR("library/"), name));
	assert_false(snapshot_name(STR("a/../b"), name));
	assert_false(snapshot_name(STR(""), name));
	assert_true(str_equal(ollama_name(STR("library/x")), STR("x")));
	assert_true(str_equal(ollama_name(STR("team/x")), STR("team/x")));
}

/* RFC 8032 section 7.1, test 2: the message is one byte, 0x72. */
#define KEY "AAAAC3NzaC1lZDI1NTE5AAAAID1AF8PoQ4lakrcKp00bfrycmCzPLsSWjMDNVfEq9GYM"
#define SIGNATURE "kqAJqfDUyrhyDoILX2QlQKKye1QWUD+Ps3YiI+vbadoIWsHkPhWZbkWPNhPQ8R2MOHsurrQwKu6wDSkWErsMAA=="

static void test_a_login_is_checked_against_its_key(void **state)
{
	uint8_t key[32], same[32];
	struct error err = {0};
	assert_int_equal(ollama_signature_check(STR(KEY ":" SIGNATURE), STR("r"), key, &err), 0);
	assert_int_equal(ollama_key_parse(STR("ssh-ed25519 " KEY " me@here"), same, &err), 0);
	assert_memory_equal(key, same, 32);
	assert_int_equal(ollama_key_parse(STR(KEY), same, &err), 0);
	assert_int_equal(ollama_signature_check(STR(KEY ":" SIGNATURE), STR("s"), key, &err), E_AUTH);
	assert_int_equal(ollama_signature_check(STR(KEY), STR("r"), key, &err), E_AUTH);
	assert_int_equal(ollama_signature_check(STR(":" SIGNATURE), STR("r"), key, &err), E_AUTH);
	assert_int_equal(ollama_key_parse(STR("ssh-rsa AAAAB3NzaC1yc2E="), key, &err), E_INVAL);
	assert_non_null(strstr(err.text, "id_ed25519.pub"));
}

static void test_modelpack_types_of_today_and_before(void **state)
{
	struct str kind, form;
	assert_true(modelpack_type(STR("application/vnd.cncf.model.weight.v1.raw"), &kind, &form));
	assert_true(str_equal(kind, STR("weight")) && str_equal(form, STR("raw")));
	assert_true(modelpack_type(STR("application/vnd.cnai.model.weight.config.v1.tar+gzip"), &kind, &form));
	assert_true(str_equal(kind, STR("weight.config")) && str_equal(form, STR("tar+gzip")));
	assert_true(modelpack_type(STR("application/vnd.cncf.model.config.v1+json"), &kind, &form));
	assert_true(str_equal(kind, STR("config")));
	assert_true(modelpack_type(STR("application/vnd.cncf.model.weight.v1"), &kind, &form));
	assert_true(str_equal(kind, STR("weight")) && !form.len);
	assert_true(modelpack_type(STR("application/vnd.cncf.model."), &kind, &form));
	assert_false(modelpack_type(STR("application/vnd.oci.image.layer.v1.tar"), &kind, &form));
	assert_string_equal(modelpack_ending(STR("application/vnd.cncf.model.doc.v1.tar+zstd")), ".tar.zst");
	assert_string_equal(modelpack_ending(STR("application/vnd.cncf.model.doc.v1.raw")), "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_paths_say_model_revision_and_file),
	    cmocka_unit_test(test_names_of_other_worlds_become_ours),
	    cmocka_unit_test(test_a_login_is_checked_against_its_key),
	    cmocka_unit_test(test_modelpack_types_of_today_and_before),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
