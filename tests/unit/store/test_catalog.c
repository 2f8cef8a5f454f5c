/* SPDX-License-Identifier: Apache-2.0 */
/* Catalog, state, versions and names: what is kept over a restart, and what is refused. */
#include "store/catalog.h"

#include "base/json.h"
#include "store/ociname.h"
#include "store/state.h"

#include <pthread.h>
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
	v.kind = VERSION_SAFETENSORS;
	v.retired = true;
	assert_int_equal(version_label_set(&v, STR("b \"q\""), STR("2"), NULL), 0);
	assert_int_equal(version_label_set(&v, STR("a"), STR(""), NULL), 0);
	assert_int_equal(version_label_set(&v, STR("distilled-from"), STR("large:1"), NULL), 0);
	version_copy(&v, &copy);
	version_format(&copy, &a);
	assert_int_equal(parse_text(a.base, &again, NULL), 0);
	version_format(&again, &b);
	assert_true(str_equal(buf_str(&a), buf_str(&b)));
	assert_int_equal(version_size(&again), UINT64_C(1) << 40);
	assert_true(again.retired && again.kind == VERSION_SAFETENSORS && again.label_count == 2);
	assert_string_equal(again.labels[0].key, "a");
	assert_string_equal(again.distilled_from, "large:1");
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
#define L(labels) "{\"name\":\"a\",\"tag\":\"a\",\"manifest\":\"" D "\",\"files\":[],\"labels\":" labels "}"
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
	    {L("1"), "labels"},
	    {L("{\"a\":1}"), "texts"},
	    {L("{\"\":\"v\"}"), "key"},
	    {L("{\"a\":\"x\\u001b\"}"), "one line"},
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

static void test_an_engine_opens_the_first_part(void **state)
{
	static const char *const paths[] = {"big.bin", "mmproj-f16.gguf", "q/m-00002-of-00003.gguf",
	                                    "q/m-00003-of-00003.gguf", "q/m-00001-of-00003.gguf"};
	struct version v = {.files = mem_new(5 * sizeof *v.files)};
	uint32_t part, parts;
	assert_null(version_main_file(&v));
	for (size_t i = 0; i < 5; i++) {
		str_copy(str_from(paths[i]), v.files[i].path, sizeof v.files[i].path);
		v.file_count++;
	}
	v.files[0].size = 9;
	assert_string_equal(version_main_file(&v)->path, paths[4]);
	v.file_count = 2;
	assert_string_equal(version_main_file(&v)->path, paths[0]);
	assert_true(version_part(STR("m-00002-of-00012.gguf"), &part, &parts) && part == 2 && parts == 12);
	assert_false(version_part(STR("m-00000-of-00012.gguf"), &part, &parts));
	assert_false(version_part(STR("m-00013-of-00012.gguf"), &part, &parts));
	assert_false(version_part(STR("m-0001-of-00012.gguf"), &part, &parts));
	assert_false(version_part(STR("-00001-of-00012.gguf"), &part, &parts));
	version_fini(&v);
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

/* ---- channels ------------------------------------------------------------------------------- */

static void push_version(struct catalog *c, const char *tag, const char *content)
{
	struct version v = version_make("r", tag);
	v.manifest = digest_of(content, strlen(content));
	assert_int_equal(
	    catalog_push_as(c, STR("operator/anna"), STR("r"), &v.manifest, STR("m"), 1, str_from(tag), &v, NULL), 0);
	version_fini(&v);
}

static void assert_names(struct catalog *c, const char *tag, const char *content)
{
	struct digest want = digest_of(content, strlen(content)), got;
	struct version v;
	assert_int_equal(catalog_get_tag(c, STR("r"), str_from(tag), &got, NULL), 0);
	assert_true(digest_equal(&want, &got));
	assert_int_equal(catalog_get_version(c, STR("r"), str_from(tag), &v, NULL), 0);
	assert_string_equal(v.tag, tag);
	assert_true(digest_equal(&want, &v.manifest));
	version_fini(&v);
}

static int rollback(struct catalog *c, struct error *err)
{
	struct digest d;
	return catalog_rollback(c, STR("operator/ben"), STR("r"), STR("stable"), &d, err);
}

static void append_move(void *arg, const struct catalog_move *m)
{
	buf_printf(arg, "%s %s%s;", m->what, m->who, m->before ? "" : " new");
}

static void test_a_channel_goes_back_step_by_step(void **state)
{
	struct catalog *c = open_catalog();
	struct digest d;
	struct error err = {0};
	struct buf history = {0};
	for (int i = 1; i <= 3; i++) {
		char tag[8];
		snprintf(tag, sizeof tag, "v%d", i);
		push_version(c, tag, tag);
		assert_int_equal(
		    catalog_promote(c, STR("operator/ben"), STR("r"), str_from(tag), STR("stable"), &d, NULL), 0);
	}
	assert_names(c, "stable", "v3");
	uint64_t serial = catalog_serial(c);
	assert_int_equal(catalog_delete_tag(c, STR("r"), STR("v2"), NULL), 0); /* no tag names it any more */
	assert_int_equal(rollback(c, NULL), 0);
	assert_names(c, "stable", "v2");
	assert_true(catalog_serial(c) > serial + 1);
	assert_int_equal(rollback(c, NULL), 0);
	assert_names(c, "stable", "v1");
	assert_int_equal(rollback(c, &err), E_CONFLICT);
	assert_non_null(strstr(err.text, "named nothing before"));
	/* Forward again, and back once more: to where it was before that move. */
	assert_int_equal(catalog_promote(c, STR(""), STR("r"), STR("v3"), STR("stable"), &d, NULL), 0);
	assert_int_equal(rollback(c, NULL), 0);
	assert_names(c, "stable", "v1");
	assert_int_equal(catalog_history(c, STR("r"), STR("stable"), 0, append_move, &history, NULL), 0);
	assert_true(str_equal(buf_str(&history),
	                      STR("rollback operator/ben;promote ;rollback operator/ben;rollback operator/ben;promote "
	                          "operator/ben;promote operator/ben;promote operator/ben new;")));
	buf_clear(&history);
	assert_int_equal(catalog_history(c, STR("r"), STR("v2"), 0, append_move, &history, NULL), 0);
	assert_true(str_equal(buf_str(&history), STR("delete ;push operator/anna new;")));
	assert_int_equal(catalog_history(c, STR("r"), STR("no"), 0, append_move, &history, &err), E_NOTFOUND);
	assert_int_equal(catalog_promote(c, STR(""), STR("r"), STR("v9"), STR("stable"), &d, NULL), E_NOTFOUND);
	buf_fini(&history);
	catalog_close(c);
}

static void test_going_back_to_a_deleted_manifest_is_refused(void **state)
{
	struct catalog *c = open_catalog();
	struct digest one = digest_of("one", 3);
	struct error err = {0};
	push_version(c, "stable", "one");
	push_version(c, "stable", "two");
	assert_int_equal(catalog_delete_manifest(c, STR("r"), &one, NULL), 0);
	assert_int_equal(rollback(c, &err), E_NOTFOUND);
	assert_non_null(strstr(err.text, "manifest was deleted"));
	assert_names(c, "stable", "two");
	catalog_close(c);
}

static void test_immutable_tags_stay_what_they_are(void **state)
{
	struct catalog *c = open_catalog();
	struct error err = {0};
	struct version v = version_make("r", "v1");
	struct digest d;
	catalog_set_rules(c, (const char *const[]){"v*", "r:fixed"}, 2, NULL, 0);
	push_version(c, "v1", "a");
	push_version(c, "v1", "a"); /* the same again is fine */
	v.manifest = digest_of("b", 1);
	assert_int_equal(catalog_push(c, STR("r"), &v.manifest, STR("m"), 1, STR("v1"), &v, &err), E_CONFLICT);
	assert_non_null(strstr(err.text, "push under another tag"));
	assert_names(c, "v1", "a");
	push_version(c, "stable", "a");
	push_version(c, "stable", "b");
	push_version(c, "fixed", "b");
	assert_int_equal(catalog_promote(c, STR(""), STR("r"), STR("v1"), STR("fixed"), &d, &err), E_CONFLICT);
	assert_true(catalog_pattern_matches("a*b*c", STR("a--b--bc")));
	assert_false(catalog_pattern_matches("a*b*c", STR("a--b--")));
	assert_false(catalog_pattern_matches("v1", STR("v12")));
	version_fini(&v);
	catalog_close(c);
}

static void count_tag(void *arg, struct str tag)
{
	++*(int *)arg;
}

static void test_a_retired_version_is_kept_but_not_listed(void **state)
{
	struct catalog *c = open_catalog();
	struct version v;
	struct digest d;
	int tags = 0;
	push_version(c, "v1", "a");
	uint64_t serial = catalog_serial(c);
	assert_int_equal(catalog_retire(c, STR("r"), STR("v1"), true, NULL), 0);
	assert_int_equal(catalog_serial(c), serial + 1);
	assert_int_equal(catalog_get_version(c, STR("r"), STR("v1"), &v, NULL), 0);
	assert_true(v.retired);
	version_fini(&v);
	assert_int_equal(catalog_tags(c, STR("r"), STR(""), 10, count_tag, &tags, NULL), 0);
	assert_int_equal(tags, 0);
	assert_int_equal(catalog_promote(c, STR(""), STR("r"), STR("v1"), STR("stable"), &d, NULL), E_CONFLICT);
	push_version(c, "v1", "a"); /* the same again does not bring it back */
	assert_int_equal(catalog_get_version(c, STR("r"), STR("v1"), &v, NULL), 0);
	assert_true(v.retired);
	version_fini(&v);
	assert_int_equal(catalog_retire(c, STR("r"), STR("v1"), false, NULL), 0);
	assert_int_equal(catalog_tags(c, STR("r"), STR(""), 10, count_tag, &tags, NULL), 0);
	assert_int_equal(tags, 1);
	catalog_close(c);
}

static void test_labels_belong_to_the_version_whatever_names_it(void **state)
{
	struct catalog *c = open_catalog();
	struct digest d;
	struct error err = {0};
	push_version(c, "v1", "a");
	assert_int_equal(catalog_promote(c, STR(""), STR("r"), STR("v1"), STR("stable"), &d, NULL), 0);
	const struct str keys[] = {STR("team"), STR("license"), STR("base-model"), STR("gone")};
	const struct str values[] = {STR("blue"), STR("mit"), STR("base:1"), {NULL, 0}};
	assert_int_equal(catalog_label(c, STR("r"), STR("v1"), keys, values, 4, NULL), 0);
	push_version(c, "v1", "a"); /* what was said stays */
	catalog_close(c);
	c = open_catalog();
	for (int i = 0; i < 2; i++) {
		struct version v;
		assert_int_equal(catalog_get_version(c, STR("r"), i ? STR("stable") : STR("v1"), &v, NULL), 0);
		assert_string_equal(version_label(&v, "team"), "blue");
		assert_null(version_label(&v, "gone"));
		assert_string_equal(v.license, "mit");
		assert_string_equal(v.base_model, "base:1");
		version_fini(&v);
	}
	const struct str bad[] = {STR("a=b")};
	assert_int_equal(catalog_label(c, STR("r"), STR("v1"), bad, values, 1, &err), E_INVAL);
	catalog_close(c);
}

/* ---- quotas --------------------------------------------------------------------------------- */

static int size_of_ten(void *arg, const struct digest *d, uint64_t *ret_size)
{
	*ret_size = 10;
	return 0;
}

static void append_space(void *arg, struct str space, uint64_t used, uint64_t quota)
{
	buf_printf(arg, STR_FMT " %llu %lld;", STR_ARG(space), (unsigned long long)used, (long long)quota);
}

struct linker {
	struct catalog *c;
	int first, linked;
};

static void *link_many(void *arg)
{
	struct linker *l = arg;
	for (int i = 0; i < 20; i++) {
		int n = l->first + i;
		struct digest d = digest_of(&n, sizeof n);
		int rc = catalog_link_blob(l->c, STR("team/a"), &d, NULL);
		assert_true(rc == 0 || rc == E_FORBIDDEN);
		l->linked += rc == 0;
	}
	return NULL;
}

static void test_a_quota_holds_however_many_push_at_once(void **state)
{
	struct catalog *c = open_catalog();
	struct error err = {0};
	struct buf spaces = {0};
	struct digest d = digest_of("x", 1);
	struct linker linkers[3];
	pthread_t threads[3];
	int linked = 0;
	catalog_set_size_of(c, size_of_ten, NULL);
	catalog_set_rules(c, NULL, 0, (const struct catalog_quota[]){{"team", 255}, {"idle", 1}}, 2);
	for (int i = 0; i < 3; i++) {
		linkers[i] = (struct linker){c, 100 * i, 0};
		pthread_create(&threads[i], NULL, link_many, &linkers[i]);
	}
	for (int i = 0; i < 3; i++) {
		pthread_join(threads[i], NULL);
		linked += linkers[i].linked;
	}
	assert_int_equal(linked, 25);
	int zero = 0;
	struct digest held = digest_of(&zero, sizeof zero);
	if (linkers[0].linked) /* a blob the namespace has counts once */
		assert_int_equal(catalog_link_blob(c, STR("team/b"), &held, NULL), 0);
	assert_int_equal(catalog_link_blob(c, STR("team/b"), &d, &err), E_FORBIDDEN);
	assert_non_null(strstr(err.text, "250 are used"));
	assert_int_equal(catalog_link_blob(c, STR("plain"), &d, NULL), 0);
	assert_int_equal(catalog_quota_room(c, STR("team/z"), 5, NULL), 0);
	assert_int_equal(catalog_quota_room(c, STR("team/z"), 6, NULL), E_FORBIDDEN);
	assert_int_equal(catalog_quota_room(c, STR("teams/z"), 600, NULL), 0);
	assert_int_equal(catalog_each_space(c, append_space, &spaces, NULL), 0);
	assert_true(str_equal(buf_str(&spaces), STR("library 10 -1;team 250 255;idle 0 1;")));
	buf_fini(&spaces);
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
	assert_int_equal(state_begin(s, NULL), 0); /* who cannot go on leaves nothing, and others can begin */
	assert_int_equal(state_put(s, "a", STR("3"), STR("z"), NULL), 0);
	state_undo(s);
	assert_int_equal(state_get(s, "a", STR("3"), &value, NULL), E_NOTFOUND);
	assert_int_equal(state_begin(s, NULL), 0);
	assert_int_equal(state_commit(s, NULL), 0);
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
	assert_int_equal(read(fds[0], &last, sizeof last), sizeof last); /* a busy machine takes its time to begin */
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
	    TEST(test_an_engine_opens_the_first_part),
	    TEST(test_tags_come_sorted_and_in_pages),
	    TEST(test_a_push_is_seen_whole_and_kept),
	    TEST(test_a_version_goes_with_its_tag_or_manifest),
	    TEST(test_a_channel_goes_back_step_by_step),
	    TEST(test_going_back_to_a_deleted_manifest_is_refused),
	    TEST(test_immutable_tags_stay_what_they_are),
	    TEST(test_a_retired_version_is_kept_but_not_listed),
	    TEST(test_labels_belong_to_the_version_whatever_names_it),
	    TEST(test_a_quota_holds_however_many_push_at_once),
	    TEST(test_damage_is_told_in_words),
	    TEST(test_a_newer_form_is_refused),
	    TEST(test_state_keeps_bytes_by_space_and_key),
	    TEST(test_writes_between_begin_and_commit_go_together),
	    TEST(test_compare_and_set_lets_one_win),
	    TEST(test_a_killed_writer_loses_nothing_acknowledged),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
