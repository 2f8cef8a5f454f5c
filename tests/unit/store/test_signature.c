/* SPDX-License-Identifier: Apache-2.0 */
/* Signatures, statements and policy through their real interfaces. That other tools agree is tests/e2e/test_signing.py.
 */
#include "base/clock.h"
#include "base/file.h"
#include "base/pattern.h"
#include "store/catalog.h"
#include "store/channel.h"
#include "store/envelope.h"
#include "store/signature_files.h"
#include "store/trust.h"
#include "store_signature.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static struct buf key, pub, other_key, other_pub;

static int make_keys(void **state)
{
	struct error err;
	assert_int_equal(signing_key_new(STR("p256"), &key, &pub, &err), 0);
	assert_int_equal(signing_key_new(STR("p521"), &other_key, &other_pub, &err), 0);
	return 0;
}

static int free_keys(void **state)
{
	buf_fini(&key);
	buf_fini(&pub);
	buf_fini(&other_key);
	buf_fini(&other_pub);
	return 0;
}

/* A version of two files and one of Git's. */
static struct version two_files(void)
{
	struct version v = {.name = "corp/model", .tag = "stable", .file_count = 3};
	v.manifest = digest_of("manifest", 8);
	v.files = mem_new(3 * sizeof *v.files);
	strcpy(v.files[0].path, "model.gguf");
	v.files[0].digest = digest_of("weights", 7);
	v.files[0].size = 7;
	strcpy(v.files[1].path, "docs/card.md");
	v.files[1].digest = digest_of("card", 4);
	v.files[1].size = 4;
	strcpy(v.files[2].path, ".gitattributes");
	v.files[2].digest = digest_of("git", 3);
	v.files[2].size = 3;
	return v;
}

static struct buf sign(struct str payload, const struct buf *with)
{
	struct buf bundle = {0};
	struct error err;
	assert_int_equal(envelope_sign(payload, buf_str(with), STR(""), &bundle, &err), 0);
	return bundle;
}

static struct buf sign_version(const struct version *v, const struct buf *with)
{
	struct signed_model m;
	struct buf payload = {0};
	signed_model_of_version(v, &m);
	signed_model_format(&m, &payload);
	struct buf bundle = sign(buf_str(&payload), with);
	signed_model_fini(&m);
	buf_fini(&payload);
	return bundle;
}

static struct buf sign_channel(const struct version *v, uint64_t counter, int64_t issued, int64_t expires)
{
	struct channel c;
	struct buf payload = {0};
	channel_of_version(v, &c);
	c.counter = counter;
	c.issued_wall_us = issued;
	c.expires_wall_us = expires;
	channel_format(&c, &payload);
	struct buf bundle = sign(buf_str(&payload), &key);
	channel_fini(&c);
	buf_fini(&payload);
	return bundle;
}

static void test_an_envelope_is_good_only_for_its_key_and_unchanged(void **state)
{
	struct envelope e;
	struct error err = {0};
	char who[ENVELOPE_NAME_SIZE];
	for (int i = 0; i < 2; i++) {
		struct buf bundle = sign(STR("{\"a\":1}"), i ? &other_key : &key);
		struct envelope_trust trust = {.key_pem = buf_str(i ? &other_pub : &pub)};
		struct envelope_trust wrong = {.key_pem = buf_str(i ? &pub : &other_pub)};
		assert_int_equal(envelope_parse(buf_str(&bundle), &e, &err), 0);
		assert_true(str_equal(buf_str(&e.payload), STR("{\"a\":1}")));
		assert_int_equal(envelope_verify(&e, &trust, who, &err), 0);
		assert_string_equal(who, e.hint);
		assert_int_equal(envelope_verify(&e, &wrong, who, &err), E_FORBIDDEN);
		e.hint[0] = 0; /* a bundle that hides whose it is */
		assert_int_equal(envelope_verify(&e, &trust, who, &err), 0);
		assert_int_equal(envelope_verify(&e, &wrong, who, &err), E_FORBIDDEN);
		e.payload.base[2] ^= 1;
		assert_int_equal(envelope_verify(&e, &trust, who, &err), E_FORBIDDEN);
		envelope_fini(&e);
		buf_fini(&bundle);
	}
}

static void test_other_keys_than_ec_on_the_three_curves_are_refused(void **state)
{
	struct error err;
	struct buf a = {0}, b = {0};
	struct envelope_trust trust = {.key_pem = STR(ED25519_PUBLIC)};
	assert_int_equal(envelope_trust_check(&trust, &err), E_INVAL);
	trust.key_pem = STR("not a key");
	assert_int_equal(envelope_trust_check(&trust, &err), E_INVAL);
	trust.key_pem = buf_str(&pub);
	assert_int_equal(envelope_trust_check(&trust, &err), 0);
	assert_int_equal(signing_key_new(STR("p123"), &a, &b, &err), E_INVAL);
}

static void test_a_bundle_of_the_python_package_is_read_and_verified(void **state)
{
	struct envelope e;
	struct signed_model m;
	struct error err = {0};
	struct envelope_trust trust = {.key_pem = STR(PYTHON_KEY)};
	assert_int_equal(envelope_parse(STR(PYTHON_BUNDLE), &e, &err), 0);
	assert_int_equal(envelope_verify(&e, &trust, NULL, &err), 0);
	assert_int_equal(signed_model_parse(buf_str(&e.payload), &m, &err), 0);
	assert_int_equal(m.item_count, 3);
	assert_string_equal(m.items[2].path, "sub/b.bin");
	assert_true(signed_model_ignores(&m, STR(".git/config")));
	assert_false(signed_model_ignores(&m, STR(".gitmodules")));
	signed_model_fini(&m);
	envelope_fini(&e);
}

static void test_parts_of_paths_sort_as_the_python_package_sorts_them(void **state)
{
	struct signed_model m = {0}, back;
	struct error err = {0};
	struct buf payload = {0};
	struct digest d = digest_of("", 0);
	static const char *const sorted[] = {"a/b", "a/c/d", "a.txt", "b"};
	for (int i = 3; i >= 0; i--)
		signed_model_add(&m, str_from(sorted[i]), 0, 0, &d);
	signed_model_format(&m, &payload);
	assert_int_equal(signed_model_parse(buf_str(&payload), &back, &err), 0);
	for (int i = 0; i < 4; i++)
		assert_string_equal(back.items[i].path, sorted[i]);
	signed_model_fini(&m);
	signed_model_fini(&back);
	buf_fini(&payload);
}

static void write_file(const char *folder, const char *name, const char *text)
{
	char *path = file_join(str_from(folder), name);
	assert_int_equal(file_write(path, 0644, str_from(text), NULL), 0);
	free(path);
}

/* What comparing the folder with what was signed says; 0 and "" when it is the same. */
static int compare(const char *folder, const struct signed_model *was, char ret_words[static 504])
{
	struct signature_files files = {.path = folder};
	struct signed_model now = {.shards = was->shards, .shard_size = was->shard_size};
	struct error err = {0};
	int rc = signature_files_read(&files, &now, &err);
	if (!rc)
		rc = signed_model_compare(was, &now, &err);
	snprintf(ret_words, 504, "%s", err.text);
	signed_model_fini(&now);
	return rc;
}

static void check_folder(bool shards)
{
	char folder[] = "/tmp/mdn-sign-XXXXXX", words[504], *inner, *link;
	struct signed_model was = {.shards = shards, .shard_size = 4};
	struct error err = {0};
	assert_non_null(mkdtemp(folder));
	struct signature_files files = {.path = folder};
	inner = file_join(str_from(folder), "sub");
	link = file_join(str_from(folder), "link.gguf");
	assert_int_equal(mkdir(inner, 0755), 0);
	write_file(folder, "a.gguf", "0123456789");
	write_file(inner, "b.txt", "b");
	write_file(inner, "empty", "");
	assert_int_equal(signature_files_read(&files, &was, &err), 0);
	assert_int_equal(was.item_count, shards ? 4 : 3); /* empty files have no shards */
	assert_int_equal(compare(folder, &was, words), 0);

	write_file(folder, "a.gguf", "0123x56789");
	assert_int_equal(compare(folder, &was, words), E_CORRUPT);
	assert_non_null(strstr(words, shards ? "a.gguf (bytes 4 to 8) is not what was signed" : "a.gguf is not what"));
	write_file(folder, "a.gguf", "0123456789");
	write_file(inner, "more", "m");
	assert_int_equal(compare(folder, &was, words), E_CORRUPT);
	assert_non_null(strstr(words, "sub/more"));
	assert_non_null(strstr(words, "there but not signed"));
	char *more = file_join(str_from(inner), "more"), *b = file_join(str_from(inner), "b.txt");
	unlink(more);
	assert_int_equal(rename(b, more), 0);
	assert_int_equal(compare(folder, &was, words), E_CORRUPT);
	assert_non_null(strstr(words, "sub/b.txt"));
	assert_non_null(strstr(words, "is signed but missing"));
	assert_int_equal(rename(more, b), 0);
	assert_int_equal(compare(folder, &was, words), 0);
	assert_int_equal(symlink("a.gguf", link), 0);
	assert_int_equal(compare(folder, &was, words), E_FORBIDDEN);
	assert_non_null(strstr(words, "link.gguf is a symbolic link"));
	unlink(link);
	assert_int_equal(mkfifo(link, 0600), 0); /* must not wait for a writer */
	assert_int_equal(compare(folder, &was, words), E_FORBIDDEN);

	signed_model_fini(&was);
	folder_remove(folder, NULL);
	free(inner);
	free(link);
	free(more);
	free(b);
}

static void test_a_folder_must_be_what_was_signed_file_by_file(void **state)
{
	check_folder(false);
}

static void test_a_folder_must_be_what_was_signed_shard_by_shard(void **state)
{
	check_folder(true);
}

static void test_a_signature_covers_all_files_of_a_version_but_gits(void **state)
{
	struct version v = two_files();
	struct signed_model m;
	struct error err = {0};
	signed_model_of_version(&v, &m);
	assert_int_equal(signed_model_covers(&m, &v, &err), 0);
	strcpy(v.files[0].path, "renamed.gguf");
	assert_int_equal(signed_model_covers(&m, &v, &err), E_FORBIDDEN);
	assert_non_null(strstr(err.text, "model.gguf"));
	strcpy(v.files[0].path, "model.gguf");
	v.files[0].digest.bytes[0] ^= 1;
	assert_int_equal(signed_model_covers(&m, &v, &err), E_FORBIDDEN);
	v.files[0].digest.bytes[0] ^= 1;
	strcpy(v.files[2].path, "evil.gguf");
	m.item_count--; /* the third in order: model.gguf; what is left names two */
	assert_int_equal(signed_model_covers(&m, &v, &err), E_FORBIDDEN);
	m.item_count++;
	signed_model_fini(&m);
	version_fini(&v);
}

/* ---- policy ------------------------------------------------------------------------------------- */

static char policy_folder[] = "/tmp/mdn-policy-XXXXXX";

static struct trust_policy *policy(const char *text)
{
	struct trust_policy *p = NULL;
	struct error err = {0};
	if (trust_policy_parse("policy.yaml", str_from(text), policy_folder, &p, &err))
		fail_msg("%s", err.text);
	return p;
}

static int make_policy_folder(void **state)
{
	make_keys(state);
	assert_non_null(mkdtemp(policy_folder));
	char *text = str_dup(buf_str(&pub));
	write_file(policy_folder, "release.pub.pem", text);
	free(text);
	return 0;
}

static int remove_policy_folder(void **state)
{
	folder_remove(policy_folder, NULL);
	return free_keys(state);
}

#define POLICY(statements) \
	"version: 1\nsigners:\n  - name: release\n    key: release.pub.pem\nrules:\n  - models: ['corp/*']\n" \
	"    nodes: site=paris\n    signers: [release]\n    statements: " statements \
	"\n  - models: ['*']\n    require: false\n"

static bool in_paris(void *arg, const char *nodes)
{
	return *(const bool *)arg && !strcmp(nodes, "site=paris");
}

static void test_the_first_rule_that_fits_model_and_node_counts(void **state)
{
	bool paris = true;
	struct trust_policy *p = policy(POLICY("optional"));
	assert_ptr_equal(trust_rule_for(p, STR("corp/model:v1"), in_paris, &paris), &p->rules[0]);
	assert_ptr_equal(trust_rule_for(p, STR("other:v1"), in_paris, &paris), &p->rules[1]);
	paris = false;
	assert_ptr_equal(trust_rule_for(p, STR("corp/model:v1"), in_paris, &paris), &p->rules[1]);
	p->rule_count = 1;
	assert_null(trust_rule_for(p, STR("corp/model:v1"), in_paris, &paris));
	p->rule_count = 2;
	trust_policy_free(p);
}

static void test_a_policy_with_a_mistake_is_refused_in_words(void **state)
{
	static const char *const wrong[][2] = {
	    {"version: 2\nrules: []\n", "version"},
	    {"version: 1\nrules:\n  - models: [a]\n", "names no signer"},
	    {"version: 1\nrules:\n  - models: [a]\n    signers: [x]\n", "not among `signers`: x"},
	    {"version: 1\nsigners:\n  - name: a\n    key: missing.pem\nrules: []\n", "missing.pem"},
	    {"version: 1\nsigners:\n  - name: a\nrules: []\n", "`key` or `roots`"},
	    {"version: 1\nrules:\n  - models: [a]\n    requires: false\n", "requires"},
	    {"version: 1\nrules:\n  - models: [a]\n    require: false\n    statements: yes\n", "statements"},
	    {"&a [*a]", ""},
	    {"", ""},
	};
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		struct trust_policy *p;
		struct error err = {0};
		assert_true(trust_policy_parse("p", str_from(wrong[i][0]), policy_folder, &p, &err) < 0);
		if (!strstr(err.text, wrong[i][1]))
			fail_msg("%s: %s", wrong[i][1], err.text);
	}
}

static int decide(const struct trust_policy *p, const struct version *v, const struct buf *bundles, size_t count,
                  struct trust_question q, struct trust_answer *ret, struct error *err)
{
	struct str texts[4];
	for (size_t i = 0; i < count; i++)
		texts[i] = buf_str(&bundles[i]);
	q.version = v;
	q.policy = p;
	q.rule = &p->rules[0];
	q.bundles = texts;
	q.bundle_count = count;
	return trust_decide(&q, ret, err);
}

static void test_unsigned_and_foreign_signed_models_are_refused(void **state)
{
	struct version v = two_files();
	struct trust_policy *p = policy(POLICY("optional"));
	struct trust_answer a;
	struct error err = {0};
	struct trust_question q = {0};
	struct buf bundles[3] = {sign_version(&v, &other_key), {0}, sign_version(&v, &key)};
	buf_append_str(&bundles[1], STR("no bundle at all"));
	assert_int_equal(decide(p, &v, NULL, 0, q, &a, &err), E_FORBIDDEN);
	assert_non_null(strstr(err.text, "there is no signature"));
	assert_int_equal(decide(p, &v, bundles, 2, q, &a, &err), E_FORBIDDEN);
	assert_int_equal(decide(p, &v, bundles, 3, q, &a, &err), 0);
	assert_string_equal(a.who, "release");
	signed_model_fini(&a.model);
	v.files[0].digest.bytes[0] ^= 1; /* another file under the same name */
	assert_int_equal(decide(p, &v, bundles, 3, q, &a, &err), E_FORBIDDEN);
	assert_non_null(strstr(err.text, "model.gguf is not the file that was signed"));
	for (int i = 0; i < 3; i++)
		buf_fini(&bundles[i]);
	trust_policy_free(p);
	version_fini(&v);
}

static void test_statements_protect_from_rollback_and_freeze(void **state)
{
	struct version v = two_files(), old = two_files();
	struct trust_policy *p = policy(POLICY("required"));
	struct trust_answer a;
	struct error err = {0};
	struct trust_question q = {.now_wall_us = 1000};
	old.manifest = digest_of("old", 3);
	struct buf bundles[2] = {sign_version(&v, &key), sign_channel(&v, 7, 500, 2000)};
	struct buf olds[2] = {sign_version(&old, &key), sign_channel(&old, 6, 400, 9000)};
	assert_int_equal(decide(p, &v, bundles, 1, q, &a, &err), E_FORBIDDEN);
	assert_non_null(strstr(err.text, "there is none"));
	assert_int_equal(decide(p, &v, bundles, 2, q, &a, &err), 0);
	assert_int_equal(a.seen.counter, 7);
	signed_model_fini(&a.model);

	q.seen = a.seen;
	assert_int_equal(decide(p, &old, olds, 2, q, &a, &err), E_FORBIDDEN);
	assert_non_null(strstr(err.text, "an old version was put back"));
	assert_int_equal(decide(p, &v, bundles, 2, q, &a, &err), 0); /* the same again, after a restart */
	signed_model_fini(&a.model);

	q.now_wall_us = 2000;
	assert_int_equal(decide(p, &v, bundles, 2, q, &a, &err), E_FORBIDDEN);
	assert_non_null(strstr(err.text, "expired"));
	q.serves = true; /* what runs goes on */
	assert_int_equal(decide(p, &v, bundles, 2, q, &a, &err), 0);
	signed_model_fini(&a.model);

	/* a statement on another channel or version is none on this */
	q = (struct trust_question){.now_wall_us = 1000};
	strcpy(v.tag, "canary");
	assert_int_equal(decide(p, &v, bundles, 2, q, &a, &err), E_FORBIDDEN);
	strcpy(v.tag, "stable");
	v.manifest.bytes[0] ^= 1;
	assert_int_equal(decide(p, &v, bundles, 2, q, &a, &err), E_FORBIDDEN);
	for (int i = 0; i < 2; i++) {
		buf_fini(&bundles[i]);
		buf_fini(&olds[i]);
	}
	trust_policy_free(p);
	version_fini(&v);
	version_fini(&old);
}

/* ---- catalog ------------------------------------------------------------------------------------ */

static size_t signatures_of(struct catalog *c, const char *tag, struct digest *ret_last)
{
	struct version v;
	assert_int_equal(catalog_get_version(c, STR("corp/model"), str_from(tag), &v, NULL), 0);
	size_t count = v.signature_count;
	if (count)
		*ret_last = v.signatures[count - 1].digest;
	version_fini(&v);
	return count;
}

static void attach(struct catalog *c, const struct digest *manifest, const char *name, const char *channel,
                   uint64_t rank)
{
	struct catalog_signature s = {.manifest = *manifest,
	                              .referrer = digest_of(name, strlen(name)),
	                              .bundle = {digest_of(channel, strlen(channel)), 5},
	                              .channel = str_from(channel),
	                              .rank = rank};
	s.bundle.digest.bytes[0] = (uint8_t)rank;
	assert_int_equal(catalog_push(c, STR("corp/model"), &s.referrer, STR("type"), 1, STR(""), NULL, NULL), 0);
	assert_int_equal(catalog_add_signature(c, STR("corp/model"), &s, NULL), 0);
}

static void test_what_is_attached_to_a_manifest_is_in_its_versions(void **state)
{
	char folder[] = "/tmp/mdn-catalog-XXXXXX";
	assert_non_null(mkdtemp(folder));
	char *path = file_join(str_from(folder), "catalog.db");
	struct catalog *c;
	struct version v = two_files();
	struct digest last, referrer = digest_of("statement 8", 11);
	assert_int_equal(catalog_open(str_from(path), &c, NULL), 0);
	attach(c, &v.manifest, "signature", "", 1); /* before the version, as an import does it */
	static const char *const tags[] = {"stable", "v1"};
	for (int i = 0; i < 2; i++) {
		strcpy(v.tag, tags[i]);
		assert_int_equal(
		    catalog_push(c, STR("corp/model"), &v.manifest, STR("type"), 1, str_from(tags[i]), &v, NULL), 0);
		assert_int_equal(signatures_of(c, tags[i], &last), 1);
	}
	uint64_t serial = catalog_serial(c);
	attach(c, &v.manifest, "statement 8", "corp/model:stable", 8);
	attach(c, &v.manifest, "statement 7", "corp/model:stable", 7);
	assert_true(catalog_serial(c) > serial);
	assert_int_equal(signatures_of(c, "stable", &last), 2); /* of statements the highest */
	assert_int_equal(last.bytes[0], 8);
	assert_int_equal(signatures_of(c, "v1", &last), 1); /* it is about another tag */
	for (unsigned i = 0; i < 40; i++) {
		char name[16];
		snprintf(name, sizeof name, "more %u", i);
		attach(c, &v.manifest, name, "", 100 + i);
	}
	assert_int_equal(signatures_of(c, "stable", &last), VERSION_SIGNATURES_MAX);
	assert_int_equal(last.bytes[0], 8); /* signatures do not push the statement out */

	assert_int_equal(catalog_delete_manifest(c, STR("corp/model"), &referrer, NULL), 0);
	assert_int_equal(catalog_drop_signature(c, STR("corp/model"), &referrer, NULL), 0);
	assert_int_equal(signatures_of(c, "stable", &last), VERSION_SIGNATURES_MAX);
	assert_int_equal(last.bytes[0], 7);
	catalog_close(c);
	folder_remove(folder, NULL);
	version_fini(&v);
	free(path);
}

static void test_patterns(void **state)
{
	assert_true(pattern_match(STR("*"), STR("")));
	assert_true(pattern_match(STR("a*c*e"), STR("abcde")));
	assert_true(pattern_match(STR("*@example.com"), STR("bot@example.com")));
	assert_false(pattern_match(STR("*@example.com"), STR("bot@example.com.evil")));
	assert_false(pattern_match(STR("a"), STR("ab")));
	assert_false(pattern_match(STR(""), STR("a")));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_an_envelope_is_good_only_for_its_key_and_unchanged),
	    cmocka_unit_test(test_other_keys_than_ec_on_the_three_curves_are_refused),
	    cmocka_unit_test(test_a_bundle_of_the_python_package_is_read_and_verified),
	    cmocka_unit_test(test_parts_of_paths_sort_as_the_python_package_sorts_them),
	    cmocka_unit_test(test_a_folder_must_be_what_was_signed_file_by_file),
	    cmocka_unit_test(test_a_folder_must_be_what_was_signed_shard_by_shard),
	    cmocka_unit_test(test_a_signature_covers_all_files_of_a_version_but_gits),
	    cmocka_unit_test(test_the_first_rule_that_fits_model_and_node_counts),
	    cmocka_unit_test(test_a_policy_with_a_mistake_is_refused_in_words),
	    cmocka_unit_test(test_unsigned_and_foreign_signed_models_are_refused),
	    cmocka_unit_test(test_statements_protect_from_rollback_and_freeze),
	    cmocka_unit_test(test_what_is_attached_to_a_manifest_is_in_its_versions),
	    cmocka_unit_test(test_patterns),
	};
	return cmocka_run_group_tests(tests, make_policy_folder, remove_policy_folder);
}
