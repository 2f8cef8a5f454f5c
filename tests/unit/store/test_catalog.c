/* SPDX-License-Identifier: Apache-2.0 */
/* Catalog, state, versions and names: what is kept over a restart, and what is refused. */
#include "store/catalog.h"

#include "base/json.h"
#include "store/ociname.h"
#include "store/state.h"

#include <setjmp.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "folder.h"

static struct folder folder;

static int setup(void **state)
{
	folder_init(&folder);
	return 0;
}

static int teardown(void **state)
{
	folder_fini(&folder);
	return 0;
}

static struct catalog *open_catalog(void)
{
	struct catalog *c = NULL;
	struct error err = {0};
	if (catalog_open(str_from(folder_file(&folder, "catalog.db")), &c, &err))
		fail_msg("%s", err.text);
	return c;
}

static struct version version_make(const char *name, const char *tag)
{
	struct version v = {.parameters = 135000000, .context_tokens = 2048, .chat_template = true, .file_count = 1};
	str_copy(str_from(name), v.name, sizeof v.name);
	str_copy(str_from(tag), v.tag, sizeof v.tag);
	str_copy(STR("llama"), v.architecture, sizeof v.architecture);
	v.manifest = digest_of(tag, strlen(tag));
	v.created_wall_us = 1700000000000000;
	v.files = NEW(struct version_file);
	str_copy(STR("model \"x\".gguf"), v.files[0].path, sizeof v.files[0].path);
	str_copy(STR("application/x"), v.files[0].media_type, sizeof v.files[0].media_type);
	v.files[0].digest = digest_of("file", 4);
	v.files[0].chunks = digest_of("chunks", 6);
	v.files[0].size = UINT64_C(1) << 40;
	return v;
}

static int parse_text(const char *text, struct version *ret_version, struct error *err)
{
	yyjson_doc *doc;
	assert_int_equal(json_parse(str_from(text), &doc, NULL), 0);
	int rc = version_parse(yyjson_doc_get_root(doc), ret_version, err);
	yyjson_doc_free(doc);
	return rc;
}

/* ---- versions and names ---------------------------------------------------------------------- */

static void test_version_survives_its_wire_form(void **state)
{
	struct version v = version_make("team/smol", "1.0"), copy, again;
	struct buf a = {0}, b = {0};
	version_copy(&v, &copy);
	version_format(&copy, &a);
	assert_int_equal(parse_text(a.base, &again, NULL), 0);
	version_format(&again, &b);
	assert_true(str_equal(buf_str(&a), buf_str(&b)));
	assert_int_equal(version_size(&again), UINT64_C(1) << 40);
	assert_true(digest_equal(&again.files[0].chunks, &v.files[0].chunks));
	version_fini(&v);
	version_fini(&copy);
	version_fini(&again);
	buf_fini(&a);
	buf_fini(&b);
}

static void test_hostile_versions_are_refused(void **state)
{
#define D "sha256:0000000000000000000000000000000000000000000000000000000000000000"
#define V(name, tag, files) "{\"name\":\"" name "\",\"tag\":\"" tag "\",\"manifest\":\"" D "\",\"files\":[" files "]}"
#define F(path) "{\"path\":\"" path "\",\"digest\":\"" D "\",\"size\":1}"
	static const struct {
		const char *text, *words;
	} table[] = {
	    {"[]", "object"},
	    {"{\"tag\":\"a\"}", "\"name\""},
	    {"{\"name\":\"a\",\"tag\":\"a\",\"files\":[]}", "\"manifest\""},
	    {V("../etc", "a", ""), "\"name\""},
	    {V("a", "-a", ""), "\"tag\""},
	    {V("a", "a", F("/etc/passwd")), "path"},
	    {V("a", "a", F("a/../../b")), "path"},
	    {V("a", "a", F("a\\u0000b")), "NUL"},
	    {V("a", "a", F("a") "," F("a")), "twice"},
	    {V("a", "a", "{\"path\":\"a\",\"digest\":\"" D "\"}"), "size"},
	    {V("a", "a", "{\"path\":\"a\",\"digest\":\"" D "\",\"size\":-1}"), "size"},
	    {V("a", "a", "{\"path\":\"a\",\"digest\":\"sha256:00\",\"size\":1}"), "digest"},
	    {V("a", "a", "1"), "objects"},
	};
	for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
		struct version v;
		struct error err = {0};
		int rc = parse_text(table[i].text, &v, &err);
		if (!rc || !strstr(err.text, table[i].words))
			fail_msg("%s: got %d %s", table[i].text, rc, err.text);
	}
	struct version v;
	assert_int_equal(parse_text(V("a", "a", F("b/c.gguf")), &v, NULL), 0);
	version_fini(&v);
}

static void test_names_follow_the_oci_grammar(void **state)
{
	static const char *const good[] = {
	    "a", "a/b", "a.b", "a_b", "a__b", "a-b", "a---b", "0/1/2", "library/smol-lm2.5"};
	static const char *const bad[] = {"",   "A",  "a/",   "/a",  "a//b", "a..b", "a___b",
	                                  "-a", "a-", "a._b", "a b", "a\n",  "a:b"};
	for (size_t i = 0; i < sizeof good / sizeof *good; i++)
		assert_true(oci_repo_valid(str_from(good[i])));
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		if (oci_repo_valid(str_from(bad[i])))
			fail_msg("accepted %s", bad[i]);
	assert_true(oci_tag_valid(STR("_A.b-1")));
	assert_false(oci_tag_valid(STR(".a")));
	assert_false(oci_tag_valid(STR("a/b")));
	struct str repo, tag;
	assert_true(oci_reference_parse(STR("team/smol:1.0"), &repo, &tag));
	assert_true(str_equal(repo, STR("team/smol")) && str_equal(tag, STR("1.0")));
	assert_true(oci_reference_parse(STR("smol"), &repo, &tag) && str_equal(tag, STR("latest")));
	assert_false(oci_reference_parse(STR("smol:"), &repo, &tag));
	assert_true(path_safe(STR("a/b..c/.d")));
	assert_false(path_safe(STR("a/./b")));
	assert_false(path_safe(STR("a\\b")));
	assert_false(path_safe(STR("a/")));
}

/* ---- catalog --------------------------------------------------------------------------------- */

static void collect(void *arg, struct str tag)
{
	buf_append_str(arg, tag);
	buf_append_str(arg, STR(" "));
}

static void test_tags_come_sorted_and_in_pages(void **state)
{
	struct catalog *c = open_catalog();
	struct digest d = digest_of("m", 1);
	struct buf out = {0};
	static const char *const tags[] = {"v2", "V10", "latest", "a", "B"};
	for (size_t i = 0; i < 5; i++)
		assert_int_equal(catalog_put_tag(c, STR("r"), str_from(tags[i]), &d, NULL), 0);
	assert_int_equal(catalog_put_tag(c, STR("other"), STR("b"), &d, NULL), 0);
	assert_int_equal(catalog_tags(c, STR("r"), STR(""), 100, collect, &out, NULL), 0);
	assert_true(str_equal(buf_str(&out), STR("a B latest V10 v2 ")));
	buf_clear(&out);
	assert_int_equal(catalog_tags(c, STR("r"), STR("B"), 2, collect, &out, NULL), 0);
	assert_true(str_equal(buf_str(&out), STR("latest V10 ")));
	buf_fini(&out);
	catalog_close(c);
}

static void count_version(void *arg, const struct version *v)
{
	++*(int *)arg;
}

static void test_a_push_is_seen_whole_and_kept(void **state)
{
	struct catalog *c = open_catalog();
	struct version v = version_make("r", "1"), got;
	struct digest d;
	char type[128];
	int count = 0;
	assert_false(catalog_has_repo(c, STR("r")));
	assert_int_equal(catalog_push(c, STR("r"), &v.manifest, STR("application/m"), 7, STR("1"), &v, NULL), 0);
	assert_int_equal(catalog_link_blob(c, STR("r"), &v.files[0].digest, NULL), 0);
	assert_int_equal(catalog_put_chunks(c, &v.files[0].digest, 4, &v.files[0].chunks, NULL), 0);
	assert_int_equal(catalog_serial(c), 1);
	catalog_close(c);
	c = open_catalog();
	assert_int_equal(catalog_serial(c), 1);
	assert_true(catalog_has_repo(c, STR("r")));
	assert_true(catalog_has_blob(c, STR("r"), &v.files[0].digest));
	assert_false(catalog_has_blob(c, STR("s"), &v.files[0].digest));
	assert_int_equal(catalog_get_tag(c, STR("r"), STR("1"), &d, NULL), 0);
	assert_true(digest_equal(&d, &v.manifest));
	assert_int_equal(catalog_get_manifest(c, STR("r"), &d, type, NULL), 0);
	assert_string_equal(type, "application/m");
	assert_int_equal(catalog_get_version(c, STR("r"), STR("1"), &got, NULL), 0);
	assert_int_equal(got.file_count, 1);
	version_fini(&got);
	assert_int_equal(catalog_get_chunks(c, &v.files[0].digest, 4, &d, NULL), 0);
	assert_true(digest_equal(&d, &v.files[0].chunks));
	assert_int_equal(catalog_each_version(c, count_version, &count, NULL), 0);
	assert_int_equal(count, 1);
	version_fini(&v);
	catalog_close(c);
}

static void test_a_version_goes_with_its_tag_or_manifest(void **state)
{
	struct catalog *c = open_catalog();
	struct version a = version_make("r", "a"), b = version_make("r", "b"), got;
	struct digest other = digest_of("o", 1);
	assert_int_equal(catalog_push(c, STR("r"), &a.manifest, STR("m"), 1, STR("a"), &a, NULL), 0);
	assert_int_equal(catalog_push(c, STR("r"), &b.manifest, STR("m"), 1, STR("b"), &b, NULL), 0);
	assert_int_equal(catalog_serial(c), 2);
	/* The tag moves to something that is no model. */
	assert_int_equal(catalog_push(c, STR("r"), &other, STR("m"), 1, STR("a"), NULL, NULL), 0);
	assert_int_equal(catalog_get_version(c, STR("r"), STR("a"), &got, NULL), E_NOTFOUND);
	assert_int_equal(catalog_serial(c), 3);
	assert_int_equal(catalog_delete_manifest(c, STR("r"), &b.manifest, NULL), 0);
	assert_int_equal(catalog_delete_manifest(c, STR("r"), &b.manifest, NULL), E_NOTFOUND);
	assert_int_equal(catalog_get_tag(c, STR("r"), STR("b"), &other, NULL), E_NOTFOUND);
	assert_int_equal(catalog_get_version(c, STR("r"), STR("b"), &got, NULL), E_NOTFOUND);
	assert_int_equal(catalog_serial(c), 4);
	assert_int_equal(catalog_delete_tag(c, STR("r"), STR("a"), NULL), 0);
	assert_int_equal(catalog_serial(c), 4);
	version_fini(&a);
	version_fini(&b);
	catalog_close(c);
}

static void test_damage_is_told_in_words(void **state)
{
	struct catalog *c;
	struct error err = {0};
	const char *path = folder_file(&folder, "catalog.db");
	char junk[4096];
	memset(junk, 'j', sizeof junk);
	file_write_at(path, 0, junk, sizeof junk);
	assert_int_equal(catalog_open(str_from(path), &c, &err), E_CORRUPT);
	assert_non_null(strstr(err.text, "restore it from a copy"));
	assert_int_equal(catalog_open(str_from(folder_file(&folder, "no/where.db")), &c, &err), E_IO);
	assert_non_null(strstr(err.text, "does its folder exist"));
}

static void test_a_newer_form_is_refused(void **state)
{
	struct catalog *c = open_catalog();
	struct error err = {0};
	sqlite3 *db;
	catalog_close(c);
	assert_int_equal(sqlite3_open(folder_file(&folder, "catalog.db"), &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, "PRAGMA user_version=99", NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
	assert_int_equal(catalog_open(str_from(folder_file(&folder, "catalog.db")), &c, &err), E_UNSUPPORTED);
	assert_non_null(strstr(err.text, "update mdn"));
}

/* ---- state ----------------------------------------------------------------------------------- */

static struct state *open_state(void)
{
	struct state *s = NULL;
	struct error err = {0};
	if (state_open(str_from(folder_file(&folder, "state.db")), &s, &err))
		fail_msg("%s", err.text);
	return s;
}

static void delete_it(void *arg, struct str key, struct str value)
{
	assert_true(str_equal(value, STR("v\0w")));
	assert_int_equal(state_delete(arg, "nodes", key, NULL), 0);
}

static void test_state_keeps_bytes_by_space_and_key(void **state)
{
	struct state *s = open_state();
	struct buf out = {0};
	assert_int_equal(state_get(s, "nodes", STR("a"), &out, NULL), E_NOTFOUND);
	assert_int_equal(state_put(s, "nodes", STR("a"), STR("v\0w"), NULL), 0);
	assert_int_equal(state_put(s, "nodes", STR("b"), STR("v\0w"), NULL), 0);
	assert_int_equal(state_put(s, "keys", STR("a"), STR(""), NULL), 0);
	state_close(s);
	s = open_state();
	assert_int_equal(state_get(s, "nodes", STR("a"), &out, NULL), 0);
	assert_true(str_equal(buf_str(&out), STR("v\0w")));
	assert_int_equal(state_each(s, "nodes", delete_it, s, NULL), 0);
	assert_int_equal(state_get(s, "nodes", STR("b"), &out, NULL), E_NOTFOUND);
	assert_int_equal(state_get(s, "keys", STR("a"), &out, NULL), 0);
	buf_fini(&out);
	struct str large = bytes_make(1, (1 << 20) + 1);
	assert_int_equal(state_put(s, "nodes", STR("a"), large, NULL), E_LIMIT);
	free((char *)large.base);
	state_close(s);
}

static void test_writes_between_begin_and_commit_go_together(void **state)
{
	struct state *s = open_state(), *other = open_state();
	struct buf value = {0};
	assert_int_equal(state_begin(s, NULL), 0);
	assert_int_equal(state_put(s, "a", STR("1"), STR("x"), NULL), 0);
	assert_int_equal(state_put(s, "a", STR("2"), STR("y"), NULL), 0);
	assert_int_equal(state_get(other, "a", STR("1"), &value, NULL), E_NOTFOUND);
	assert_int_equal(state_commit(s, NULL), 0);
	assert_int_equal(state_get(other, "a", STR("1"), &value, NULL), 0);
	assert_int_equal(state_get(other, "a", STR("2"), &value, NULL), 0);
	buf_fini(&value);
	state_close(s);
	state_close(other);
}

static void test_compare_and_set_lets_one_win(void **state)
{
	int winners = 0;
	state_close(open_state());
	for (int i = 0; i < 4; i++) {
		if (!fork()) {
			struct state *s = open_state();
			char me[8];
			snprintf(me, sizeof me, "%d", i);
			int rc = state_put_if(s, "tokens", STR("t"), STR(""), str_from(me), NULL);
			_exit(rc == 0 ? 1 : rc == E_CONFLICT ? 0 : 2);
		}
	}
	for (int i = 0; i < 4; i++) {
		int status;
		wait(&status);
		assert_true(WIFEXITED(status) && WEXITSTATUS(status) < 2);
		winners += WEXITSTATUS(status);
	}
	assert_int_equal(winners, 1);
	struct state *s = open_state();
	struct buf out = {0};
	assert_int_equal(state_get(s, "tokens", STR("t"), &out, NULL), 0);
	assert_int_equal(state_put_if(s, "tokens", STR("t"), STR("no"), STR("x"), NULL), E_CONFLICT);
	assert_int_equal(state_put_if(s, "tokens", STR("t"), buf_str(&out), STR("used"), NULL), 0);
	assert_int_equal(state_put_if(s, "tokens", STR("t"), STR(""), STR("x"), NULL), E_CONFLICT);
	buf_fini(&out);
	state_close(s);
}

static void test_a_killed_writer_loses_nothing_acknowledged(void **state)
{
	int fds[2];
	uint32_t told = 0, last = 0;
	assert_int_equal(pipe(fds), 0);
	pid_t pid = fork();
	if (!pid) {
		struct state *s = open_state();
		for (uint32_t i = 1;; i++)
			if (state_put(s, "n", STR("n"), (struct str){(char *)&i, sizeof i}, NULL) ||
			    write(fds[1], &i, sizeof i) != sizeof i)
				_exit(1);
	}
	close(fds[1]);
	usleep(150000);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	while (read(fds[0], &told, sizeof told) == sizeof told)
		last = told;
	close(fds[0]);
	struct state *s = open_state();
	struct buf out = {0};
	assert_int_equal(state_get(s, "n", STR("n"), &out, NULL), 0);
	memcpy(&told, out.base, sizeof told);
	assert_true(last > 0 && told >= last && told <= last + 1);
	buf_fini(&out);
	state_close(s);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(test_version_survives_its_wire_form),
	    TEST(test_hostile_versions_are_refused),
	    TEST(test_names_follow_the_oci_grammar),
	    TEST(test_tags_come_sorted_and_in_pages),
	    TEST(test_a_push_is_seen_whole_and_kept),
	    TEST(test_a_version_goes_with_its_tag_or_manifest),
	    TEST(test_damage_is_told_in_words),
	    TEST(test_a_newer_form_is_refused),
	    TEST(test_state_keeps_bytes_by_space_and_key),
	    TEST(test_writes_between_begin_and_commit_go_together),
	    TEST(test_compare_and_set_lets_one_win),
	    TEST(test_a_killed_writer_loses_nothing_acknowledged),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
