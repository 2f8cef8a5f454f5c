/* SPDX-License-Identifier: Apache-2.0 */
/* What the collector frees and what it keeps; pushes in the middle of it; processes killed in the middle of it; what
 * the checker finds and repairs. */
#include "serve/repository/fsck.h"
#include "serve/repository/gc.h"

#include "base/clock.h"
#include "base/file.h"
#include "store/origins.h"
#include "store/spool.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[64];
static struct blob_store *store;
static struct catalog *catalog;

static void open_all(void)
{
	char path[128];
	struct error err = {0};
	snprintf(path, sizeof path, "%s/blobs", folder);
	if (blob_store_open(str_from(path), &store, &err))
		fail_msg("%s", err.text);
	snprintf(path, sizeof path, "%s/catalog.db", folder);
	if (catalog_open(str_from(path), &catalog, &err))
		fail_msg("%s", err.text);
}

static void close_all(void)
{
	catalog_close(catalog);
	blob_store_close(store);
}

static int setup(void **state)
{
	strcpy(folder, "/tmp/mdn-gc-XXXXXX");
	assert_non_null(mkdtemp(folder));
	open_all();
	return 0;
}

static int teardown(void **state)
{
	close_all();
	assert_int_equal(folder_remove(folder, NULL), 0);
	return 0;
}

/* ---- what is pushed --------------------------------------------------------------------------- */

static struct digest push_blob(const char *repo, const char *content)
{
	struct digest d;
	assert_int_equal(blob_put(store, str_from(content), &d, NULL), 0);
	assert_int_equal(catalog_link_blob(catalog, str_from(repo), &d, NULL), 0);
	return d;
}

static struct digest push_text(const char *repo, const char *tag, struct buf *text, const char *type)
{
	struct digest d;
	struct error err = {0};
	assert_int_equal(blob_put(store, buf_str(text), &d, NULL), 0);
	if (catalog_push(catalog, str_from(repo), &d, str_from(type), text->len, str_from(tag), NULL, &err))
		fail_msg("%s", err.text);
	buf_fini(text);
	return d;
}

static void add_item(struct buf *text, const struct digest *d, const char *type, size_t size)
{
	char name[DIGEST_TEXT_SIZE];
	digest_format(d, name);
	buf_printf(text, "{\"mediaType\":\"%s\",\"digest\":\"%s\",\"size\":%zu}", type, name, size);
}

#define MANIFEST "application/vnd.oci.image.manifest.v1+json"
#define INDEX "application/vnd.oci.image.index.v1+json"

/* config and one layer; subject may be NULL. */
static struct digest push_manifest(const char *repo, const char *tag, const char *layer, const struct digest *subject)
{
	struct buf text = {0};
	struct digest config = push_blob(repo, "{}"), d = push_blob(repo, layer);
	buf_printf(&text, "{\"schemaVersion\":2,\"mediaType\":\"" MANIFEST "\",\"config\":");
	add_item(&text, &config, "application/vnd.oci.image.config.v1+json", 2);
	buf_append_str(&text, STR(",\"layers\":["));
	add_item(&text, &d, "application/octet-stream", strlen(layer));
	buf_append_str(&text, STR("]"));
	if (subject) {
		buf_append_str(&text, STR(",\"subject\":"));
		add_item(&text, subject, MANIFEST, 1);
	}
	buf_append_str(&text, STR("}"));
	return push_text(repo, tag, &text, MANIFEST);
}

static struct digest push_index(const char *repo, const char *tag, const struct digest *child)
{
	struct buf text = {0};
	buf_printf(&text, "{\"schemaVersion\":2,\"mediaType\":\"" INDEX "\",\"manifests\":[");
	struct blob_info info;
	assert_int_equal(blob_info(store, child, &info, NULL), 0);
	add_item(&text, child, MANIFEST, info.size);
	buf_append_str(&text, STR("]}"));
	return push_text(repo, tag, &text, INDEX);
}

static bool held(const char *content)
{
	struct digest d = digest_of(content, strlen(content));
	struct blob_info info;
	return !blob_info(store, &d, &info, NULL);
}

static bool holds(const struct digest *d)
{
	struct blob_info info;
	return !blob_info(store, d, &info, NULL);
}

/* lease_us -1: nothing is protected by its age. */
static struct gc *begin(bool dry_run, bool untagged, int64_t lease_us)
{
	return gc_new(&(struct gc_options){store, catalog, lease_us, dry_run, untagged});
}

static struct gc_result collect(bool dry_run, bool untagged, int64_t lease_us)
{
	struct gc *g = begin(dry_run, untagged, lease_us);
	struct error err = {0};
	bool more = true;
	while (more)
		if (gc_step(g, &more, &err))
			fail_msg("%s", err.text);
	struct gc_result result = *gc_result(g);
	gc_free(g);
	return result;
}

#define NO_LEASE INT64_C(-1000000)
#define LEASE (3600 * US_PER_S)

/* ---- what goes -------------------------------------------------------------------------------- */

static void test_deleted_manifest_frees_its_bytes(void **state)
{
	struct digest a = push_manifest("x/a", "v1", "layer of a", NULL);
	push_manifest("x/b", "v1", "layer of b", NULL);
	assert_int_equal(catalog_delete_manifest(catalog, STR("x/a"), &a, NULL), 0);
	struct gc_result dry = collect(true, false, NO_LEASE);
	assert_true(held("layer of a"));
	struct gc_result result = collect(false, false, NO_LEASE);
	assert_false(held("layer of a"));
	assert_false(holds(&a));
	assert_true(held("layer of b"));
	assert_true(held("{}")); /* b's config */
	assert_int_equal(result.blobs_gone, 2);
	assert_int_equal(dry.blobs_gone, 2);
	assert_int_equal(dry.bytes_gone, result.bytes_gone);
	assert_int_equal(result.blobs_kept, 3);
	struct digest config = digest_of("{}", 2);
	assert_false(catalog_has_blob(catalog, STR("x/a"), &config)); /* b's, no longer a's */
	assert_true(catalog_has_blob(catalog, STR("x/b"), &config));
	assert_int_equal(collect(false, false, NO_LEASE).blobs_gone, 0);
}

static void test_what_was_just_pushed_has_a_lease(void **state)
{
	push_blob("x", "not named yet");
	struct gc_result result = collect(false, false, LEASE);
	assert_int_equal(result.blobs_gone, 0);
	assert_int_equal(result.blobs_leased, 1);
	struct digest d = digest_of("not named yet", 13);
	assert_true(catalog_has_blob(catalog, STR("x"), &d));
	assert_int_equal(collect(false, false, NO_LEASE).blobs_gone, 1);
	assert_false(catalog_has_blob(catalog, STR("x"), &d));
}

static void test_untagged_manifests_stay_unless_told(void **state)
{
	struct digest child = push_manifest("r", "", "child", NULL);
	push_index("r", "latest", &child);
	struct digest lost = push_manifest("r", "", "lost", NULL),
		      referrer = push_manifest("r", "", "signature", &child);
	struct digest lost_referrer = push_manifest("r", "", "signature of lost", &lost);
	assert_int_equal(collect(false, false, NO_LEASE).blobs_gone, 0);
	assert_int_equal(collect(false, true, LEASE).manifests_gone, 0); /* pushed a moment ago */
	assert_int_equal(collect(true, true, NO_LEASE).manifests_gone, 2);
	struct gc_result result = collect(false, true, NO_LEASE);
	assert_int_equal(result.manifests_gone, 2);
	assert_int_equal(result.blobs_gone, 4);
	assert_true(held("child"));
	assert_true(holds(&referrer));
	assert_true(held("signature"));
	assert_false(held("lost"));
	assert_false(holds(&lost_referrer));
	char type[128];
	assert_int_equal(catalog_get_manifest(catalog, STR("r"), &lost, type, NULL), E_NOTFOUND);
	assert_int_equal(catalog_get_manifest(catalog, STR("r"), &child, type, NULL), 0);
}

static void test_manifest_that_cannot_be_read_keeps_its_repository(void **state)
{
	struct digest m = push_manifest("r", "v1", "weights", NULL);
	push_manifest("s", "v1", "others", NULL);
	push_blob("r", "who knows");
	push_blob("s", "nobody");
	assert_int_equal(blob_delete(store, &m, NULL), 0);
	struct gc_result result = collect(false, false, NO_LEASE);
	assert_int_equal(result.unreadable, 1);
	assert_true(held("weights"));
	assert_true(held("who knows"));
	assert_false(held("nobody"));
}

static void test_chunk_lists_live_as_long_as_their_file(void **state)
{
	struct digest list, file = digest_of("weights", 7), got;
	struct digest m = push_manifest("r", "v1", "weights", NULL);
	assert_int_equal(blob_put(store, STR("a list"), &list, NULL), 0);
	assert_int_equal(catalog_put_chunks(catalog, &file, 4096, &list, NULL), 0);
	collect(false, false, NO_LEASE);
	assert_true(holds(&list));
	assert_int_equal(catalog_delete_manifest(catalog, STR("r"), &m, NULL), 0);
	collect(false, false, NO_LEASE);
	assert_false(holds(&list));
	assert_int_equal(catalog_get_chunks(catalog, &file, 4096, &got, NULL), E_NOTFOUND);
}

/* ---- while others push ------------------------------------------------------------------------- */

/* Before each step of a collection somebody pushes anew what is garbage at its beginning: whenever that happens, it is
 * whole at the end. */
static void test_a_push_at_any_step_is_whole(void **state)
{
	for (int at = 0; at < 300; at += at < 12 ? 1 : 31) {
		struct digest m = push_manifest("r", "v1", "weights", NULL);
		assert_int_equal(catalog_delete_manifest(catalog, STR("r"), &m, NULL), 0);
		/* The line is now: all that is there is old. */
		usleep(10);
		struct gc *g = begin(false, false, 0);
		bool more = true;
		int step;
		blob_store_lease(store, 0); /* every look renews */
		for (step = 0; more; step++) {
			if (step == at)
				push_manifest("r", "v1", "weights", NULL);
			assert_int_equal(gc_step(g, &more, NULL), 0);
		}
		gc_free(g);
		if (step <= at)
			break;
		char type[128];
		struct digest d = digest_of("weights", 7);
		assert_int_equal(catalog_get_manifest(catalog, STR("r"), &m, type, NULL), 0);
		if (!holds(&m) || !held("weights") || !held("{}") || !catalog_has_blob(catalog, STR("r"), &d))
			fail_msg("pushed before step %d, and not whole", at);
	}
}

/* The collector condemned it, and then, before its links and file go, it comes again. */
static void test_a_blob_pushed_between_sentence_and_sweep_stays(void **state)
{
	struct digest d = push_blob("r", "weights");
	assert_true(blob_condemn(store, &d, INT64_MAX));
	uint64_t size;
	assert_int_equal(blob_stat(store, &d, &size, NULL), E_NOTFOUND);
	push_blob("r", "weights");
	blob_sweep(store);
	assert_true(held("weights"));
}

/* ---- mirrors ---------------------------------------------------------------------------------- */

/* As a mirror does: a manifest that names a layer which comes when somebody asks for it. */
static struct digest mirror_manifest(const char *repo, const char *layer)
{
	struct buf text = {0};
	struct digest config = push_blob(repo, "{}"), d = digest_of(layer, strlen(layer));
	buf_printf(&text, "{\"schemaVersion\":2,\"mediaType\":\"" MANIFEST "\",\"config\":");
	add_item(&text, &config, "application/vnd.oci.image.config.v1+json", 2);
	buf_append_str(&text, STR(",\"layers\":["));
	add_item(&text, &d, "application/octet-stream", strlen(layer));
	buf_append_str(&text, STR("]}"));
	push_text(repo, "v1", &text, MANIFEST);
	return d;
}

static bool is_spooled(const struct digest *d)
{
	struct spool *p;
	assert_int_equal(spool_open(store, d, 2 * SPOOL_PIECE, &p, NULL), 0);
	bool is = spool_held(p) > 0;
	spool_close(p);
	return is;
}

static void begin_spool(const struct digest *d)
{
	struct spool *p;
	assert_int_equal(spool_open(store, d, 2 * SPOOL_PIECE, &p, NULL), 0);
	assert_int_equal(spool_write(p, 0, STR("a beginning"), NULL), 0);
	assert_int_equal(spool_keep(p, 0, NULL), 0);
	spool_close(p);
}

static void test_what_began_to_come_goes_when_nothing_names_it(void **state)
{
	struct digest named = mirror_manifest("m", "named"), other = digest_of("x", 1);
	begin_spool(&named);
	begin_spool(&other);
	assert_int_equal(collect(false, false, 3600 * US_PER_S).blobs_gone, 0);
	assert_true(is_spooled(&other));
	assert_int_equal(collect(true, false, NO_LEASE).blobs_gone, 1);
	assert_true(is_spooled(&other));
	assert_int_equal(collect(false, false, NO_LEASE).blobs_gone, 1);
	assert_true(is_spooled(&named));
	assert_false(is_spooled(&other));
}

/* ---- killed ----------------------------------------------------------------------------------- */

static void test_killed_at_any_step_loses_nothing(void **state)
{
	struct digest gone = push_manifest("r", "v1", "garbage", NULL);
	for (int i = 0; i < 40; i++) {
		char layer[32], tag[16];
		snprintf(layer, sizeof layer, "layer %d", i);
		snprintf(tag, sizeof tag, "t%d", i);
		push_manifest("r", tag, layer, NULL);
	}
	assert_int_equal(catalog_delete_manifest(catalog, STR("r"), &gone, NULL), 0);
	for (int at = 0; at < 270; at += at < 12 ? 2 : 60) {
		push_blob("r", "garbage again");
		close_all();
		pid_t pid = fork();
		if (!pid) {
			open_all();
			struct gc *g = begin(false, true, NO_LEASE);
			bool more = true;
			for (int step = 0; more && step < at; step++)
				gc_step(g, &more, NULL);
			kill(getpid(), SIGKILL);
		}
		int status;
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status));
		open_all();
		for (int i = 0; i < 40; i++) {
			char layer[32];
			snprintf(layer, sizeof layer, "layer %d", i);
			if (!held(layer))
				fail_msg("killed after step %d: %s is gone", at, layer);
		}
	}
	collect(false, false, NO_LEASE);
	assert_false(held("garbage"));
	assert_false(held("garbage again"));
	assert_int_equal(collect(false, false, NO_LEASE).blobs_kept, 81);
}

/* ---- the checker ------------------------------------------------------------------------------ */

struct seen {
	int kinds[FSCK_KINDS];
	uint64_t elsewhere, partials;
	char done[32];
};

static void on_fault(void *arg, const struct fsck_fault *fault)
{
	struct seen *s = arg;
	s->kinds[fault->kind]++;
	snprintf(s->done, sizeof s->done, "%s", fault->done);
}

static size_t check(bool repair, struct seen *seen)
{
	char origins[128];
	snprintf(origins, sizeof origins, "%s/origins.db", folder);
	struct fsck *f = fsck_new(&(struct fsck_options){store, catalog, origins, repair, on_fault, seen});
	bool more = true;
	size_t wanted;
	memset(seen, 0, sizeof *seen);
	while (more)
		assert_int_equal(fsck_step(f, &more, NULL), 0);
	fsck_wanted(f, &wanted);
	seen->elsewhere = fsck_result(f)->elsewhere;
	seen->partials = fsck_result(f)->partials;
	fsck_free(f);
	return wanted;
}

static void spoil(const char *content)
{
	char path[200], hex[65];
	struct digest d = digest_of(content, strlen(content));
	hex_encode(d.bytes, 32, hex);
	snprintf(path, sizeof path, "%s/blobs/blobs/sha256/%.2s/%s", folder, hex, hex);
	chmod(path, 0600);
	FILE *f = fopen(path, "r+");
	assert_non_null(f);
	fputc('#', f);
	fclose(f);
}

static void test_checker_finds_rot_and_puts_it_aside(void **state)
{
	struct seen seen;
	push_manifest("r", "v1", "weights", NULL);
	assert_int_equal(check(false, &seen), 0);
	for (int i = 0; i < FSCK_KINDS; i++)
		assert_int_equal(seen.kinds[i], 0);
	spoil("weights");
	check(false, &seen);
	assert_int_equal(seen.kinds[FSCK_CORRUPT_BLOB], 1);
	assert_true(held("weights"));
	assert_int_equal(check(true, &seen), 1); /* wanted, for its manifest says how large it is */
	assert_int_equal(seen.kinds[FSCK_CORRUPT_BLOB], 1);
	assert_int_equal(seen.kinds[FSCK_MISSING_BLOB], 1);
	assert_false(held("weights"));
	push_blob("r", "weights");
	assert_int_equal(check(false, &seen), 0);
	assert_int_equal(seen.kinds[FSCK_MISSING_BLOB], 0);
}

static void test_checker_makes_a_lost_chunk_list_again(void **state)
{
	struct seen seen;
	struct chunk_list list;
	struct buf text = {0};
	struct digest d, file = push_blob("r", "weights");
	assert_int_equal(chunk_list_build(store, &file, 4, &list, NULL), 0);
	chunk_list_format(&list, &text);
	assert_int_equal(blob_put(store, buf_str(&text), &d, NULL), 0);
	assert_int_equal(catalog_put_chunks(catalog, &file, 4, &d, NULL), 0);
	check(false, &seen);
	assert_int_equal(seen.kinds[FSCK_BAD_LIST], 0);
	assert_int_equal(blob_delete(store, &d, NULL), 0);
	check(true, &seen);
	assert_int_equal(seen.kinds[FSCK_BAD_LIST], 1);
	assert_string_equal(seen.done, "rebuilt");
	assert_true(holds(&d));
	chunk_list_fini(&list);
	buf_fini(&text);
}

static void test_checker_knows_what_is_elsewhere(void **state)
{
	char path[128];
	struct seen seen;
	struct origins *origins;
	const struct origin from = {.url = "https://hub/blob", .size = 11};
	struct digest d = mirror_manifest("m", "comes later");
	begin_spool(&d);
	check(false, &seen);
	assert_int_equal(seen.kinds[FSCK_MISSING_BLOB], 1);
	assert_int_equal(seen.partials, 1);
	snprintf(path, sizeof path, "%s/origins.db", folder);
	assert_int_equal(origins_open(str_from(path), &origins, NULL), 0);
	assert_int_equal(origins_put(origins, STR("other"), &d, &from, NULL), 0);
	check(false, &seen);
	assert_int_equal(seen.kinds[FSCK_MISSING_BLOB], 1); /* another repository's */
	assert_int_equal(origins_put(origins, STR("m"), &d, &from, NULL), 0);
	assert_int_equal(check(true, &seen), 0);
	assert_int_equal(seen.kinds[FSCK_MISSING_BLOB], 0);
	assert_int_equal(seen.elsewhere, 1);
	origins_close(origins);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(test_deleted_manifest_frees_its_bytes),
	    TEST(test_what_was_just_pushed_has_a_lease),
	    TEST(test_untagged_manifests_stay_unless_told),
	    TEST(test_manifest_that_cannot_be_read_keeps_its_repository),
	    TEST(test_chunk_lists_live_as_long_as_their_file),
	    TEST(test_a_push_at_any_step_is_whole),
	    TEST(test_a_blob_pushed_between_sentence_and_sweep_stays),
	    TEST(test_killed_at_any_step_loses_nothing),
	    TEST(test_checker_finds_rot_and_puts_it_aside),
	    TEST(test_checker_makes_a_lost_chunk_list_again),
	    TEST(test_checker_knows_what_is_elsewhere),
	    TEST(test_what_began_to_come_goes_when_nothing_names_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
