/* SPDX-License-Identifier: Apache-2.0 */
/* test_cache.c - KV of the past: found again where it should be, by whom it should be, and the same as computed anew.
 *
 * "Computed anew" is the same request under a salt that nobody else uses. Models as in test_llama.c; gemma3 has a
 * sliding window, mamba a recurrent state, lfm2 both a state and attention.
 */
#include "driver.h"

#include "base/file.h"
#include "base/rng.h"
#include "engine/llama_cells.h"
#include "engine/llama_parts.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const models[] = {"llama", "qwen2", "llama-moe", "gemma3", "mamba", "lfm2"};
enum { MODELS = sizeof(models) / sizeof(models[0]) };

static char folder[256];

static struct engine_options long_for(const char *model)
{
	struct engine_options options = options_for(model);

	options.model_name = STR("tiny:latest");
	options.in_process = true;
	options.context_tokens = 1024;
	options.batch_tokens = 128;
	return options;
}

static void words(struct buf *out, int seed, int count)
{
	struct rng rng;

	rng_init(&rng, (uint64_t)seed);
	for (int i = 0; i < count; i++)
		buf_printf(out, " %c%c", 'a' + (int)rng_below(&rng, 26), 'a' + (int)rng_below(&rng, 26));
}

static struct engine_params ask_for(const struct buf *prompt, const char *salt, int32_t max_tokens)
{
	struct engine_params p = completion("", max_tokens);

	p.prompt = buf_str(prompt);
	p.tenant = STR("alice");
	p.cache_salt = str_from(salt);
	return p;
}

static void say_well(struct driver *d, struct ask *ask, struct engine_params p)
{
	say(d, ask, p);
	if (ask->err.code)
		fail_msg("%s", ask->err.text);
}

/* Asks twice, once where nothing can be found; the words must be the same. Returns the tokens found. */
static int32_t say_both(struct driver *d, const struct buf *prompt, int32_t max_tokens, struct buf *ret_text)
{
	static int unique;
	struct ask with = {0}, without = {0};
	char salt[32];

	snprintf(salt, sizeof(salt), "only %d", unique++);
	say_well(d, &with, ask_for(prompt, "shared", max_tokens));
	say_well(d, &without, ask_for(prompt, salt, max_tokens));
	assert_int_equal(without.cached_tokens, 0);
	assert_string_equal(with.text.base, without.text.base);
	assert_int_equal(with.last.completion_tokens, without.last.completion_tokens);
	if (ret_text)
		buf_append_str(ret_text, buf_str(&with.text));
	int32_t cached = with.cached_tokens;
	ask_fini(&with);
	ask_fini(&without);
	return cached;
}

/* Two chats in turns, so that each loses its slot to the other, and a third that only begins alike. */
static void chats(const char *model)
{
	struct engine_options options = long_for(model);
	struct buf chat[2] = {{0}}, begins = {0};
	struct driver d;

	options.slots = 2;
	driver_start(&d, &options);
	for (int i = 0; i < 2; i++) {
		words(&chat[i], 1, 150);
		words(&chat[i], 10 + i, 40);
	}
	words(&begins, 1, 150);
	words(&begins, 20, 60);
	for (int turn = 0; turn < 3; turn++)
		for (int i = 0; i < 2; i++) {
			int32_t before = say_both(&d, &chat[i], 12, &chat[i]);
			if (turn > 0) /* all but the last answer's tail and what is new */
				assert_true(before >= 150 + turn * 40);
			words(&chat[i], 100 + turn, 25);
		}
	/* Where states go whole, the first that begins alike shows where, the next one finds it. */
	say_both(&d, &begins, 12, NULL);
	buf_clear(&begins);
	words(&begins, 1, 150);
	words(&begins, 30, 60);
	assert_true(say_both(&d, &begins, 12, NULL) >= 150);
	for (int i = 0; i < 2; i++)
		buf_fini(&chat[i]);
	buf_fini(&begins);
	driver_fini(&d);
}

static void test_what_is_found_says_the_same_as_what_is_computed(void **state)
{
	(void)state;
	for (int i = 0; i < MODELS; i++)
		chats(models[i]);
}

/* A sliding window that the prompt is longer than. */
static void test_window_behind_the_prompt_is_not_taken_for_whole(void **state)
{
	struct engine_options options = long_for("gemma3");
	struct buf prompt = {0};
	struct driver d;
	(void)state;

	options.slots = 1;
	driver_start(&d, &options);
	for (int i = 0; i < 3; i++) {
		buf_clear(&prompt);
		words(&prompt, 1, 300); /* two tokens a word */
		words(&prompt, 40 + i, 40);
		int32_t cached = say_both(&d, &prompt, 8, NULL);
		if (i == 2)
			assert_true(cached >= 300);
	}
	buf_fini(&prompt);
	driver_fini(&d);
}

static void test_many_that_begin_alike_compute_it_once(void **state)
{
	(void)state;
	for (int m = 0; m < MODELS; m++) {
		struct engine_options options = long_for(models[m]);
		struct ask asks[20] = {{0}}, alone[20] = {{0}};
		struct buf prompts[20] = {{0}};
		int64_t computed = 0, tails = 0;
		struct driver d;

		options.slots = 6;
		driver_start(&d, &options);
		for (int i = 0; i < 20; i++) {
			words(&prompts[i], 1, 200);
			words(&prompts[i], 50 + i, 10);
			struct engine_params p = ask_for(&prompts[i], "", 6);
			ask_start(&asks[i], &d, &p);
		}
		for (int i = 0; i < 20; i++) {
			ask_wait(&asks[i]);
			assert_int_equal(asks[i].err.code, 0);
			computed += asks[i].prompt_tokens - asks[i].cached_tokens;
			tails += 20;
		}
		if (computed > asks[0].prompt_tokens + tails + 20 * 8)
			fail_msg("%s: %lld tokens computed of prompts that share all but %lld", models[m],
			         (long long)computed, (long long)tails);
		for (int i = 0; i < 20; i += 7) {
			say_well(&d, &alone[i], ask_for(&prompts[i], "nobody's", 6));
			assert_string_equal(alone[i].text.base, asks[i].text.base);
		}
		for (int i = 0; i < 20; i++) {
			ask_fini(&asks[i]);
			ask_fini(&alone[i]);
			buf_fini(&prompts[i]);
		}
		driver_fini(&d);
	}
}

static void test_prompt_of_another_tenant_is_not_found_unless_salts_agree(void **state)
{
	struct engine_options options = long_for("llama");
	struct buf prompt = {0};
	struct ask asks[6] = {{0}};
	struct driver d;
	(void)state;

	driver_start(&d, &options);
	words(&prompt, 1, 100);
	struct engine_params p = ask_for(&prompt, "", 4);
	say_well(&d, &asks[0], p);
	say_well(&d, &asks[1], p);
	assert_int_equal(asks[1].cached_tokens, asks[1].prompt_tokens - 1);
	p.tenant = STR("bob");
	say_well(&d, &asks[2], p);
	assert_int_equal(asks[2].cached_tokens, 0);
	p.cache_salt = STR("alice"); /* her name is not her salt */
	say_well(&d, &asks[3], p);
	assert_int_equal(asks[3].cached_tokens, 0);
	p.tenant = STR("carol");
	say_well(&d, &asks[4], p);
	assert_int_equal(asks[4].cached_tokens, asks[4].prompt_tokens - 1);
	p.adapter = STR("other");
	p.tenant = STR("");
	p.cache_salt = STR("");
	struct error err = {0};
	if (ask_submit(&asks[5], &d, &p, &err) == 0) {
		ask_wait(&asks[5]);
		assert_int_equal(asks[5].cached_tokens, 0);
	}
	for (int i = 0; i < 6; i++)
		ask_fini(&asks[i]);
	buf_fini(&prompt);
	driver_fini(&d);
}

/* ---- disk -------------------------------------------------------------------------------------- */

static int make_folder(void **state)
{
	const char *tmp = getenv("TMPDIR");
	(void)state;

	snprintf(folder, sizeof(folder), "%s/mdn-cache-XXXXXX", tmp ? tmp : "/tmp");
	return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
	(void)state;
	return folder_remove(folder, NULL);
}

/* Calls fn with each file of the one model's folder; how many there are. */
static int each_file(void (*fn)(const char *file))
{
	char inner[600], name[1200];
	int count = 0;
	DIR *dir = opendir(folder);

	inner[0] = '\0';
	for (struct dirent *e; dir && (e = readdir(dir));)
		if (e->d_name[0] != '.')
			snprintf(inner, sizeof(inner), "%s/%.255s", folder, e->d_name);
	closedir(dir);
	dir = opendir(inner);
	for (struct dirent *e; dir && (e = readdir(dir));) {
		size_t len = strlen(e->d_name);
		if (len < 3 || strcmp(e->d_name + len - 3, ".kv") != 0)
			continue;
		count++;
		snprintf(name, sizeof(name), "%s/%.255s", inner, e->d_name);
		if (fn)
			fn(name);
	}
	if (dir)
		closedir(dir);
	return count;
}

static uint64_t on_disk(struct driver *d)
{
	return engine_load(d->engine).cache_disk_bytes;
}

static uint64_t awaited_bytes;
static bool disk_has(void *d)
{
	return on_disk(d) >= awaited_bytes;
}

static void test_restart_finds_what_is_on_disk(void **state)
{
	(void)state;
	for (int m = 0; m < MODELS; m++) {
		struct engine_options options = long_for(models[m]);
		struct buf prompt = {0};
		struct ask first = {0}, again = {0}, stranger = {0};
		struct stat st;
		struct driver d;

		options.cache_folder = str_from(folder);
		options.cache_disk_bytes = 64 << 20;
		words(&prompt, 1, 200);
		driver_start(&d, &options);
		say_well(&d, &first, ask_for(&prompt, "", 10));
		driver_fini(&d);
		assert_int_equal(stat(folder, &st), 0);
		assert_int_equal(st.st_mode & 0777, 0700);
		assert_true(each_file(NULL) >= 1);
		driver_start(&d, &options);
		awaited_bytes = 1;
		driver_until(&d, disk_has, &d);
		struct engine_params p = ask_for(&prompt, "", 10);
		p.tenant = STR("mallory");
		say_well(&d, &stranger, p);
		assert_int_equal(stranger.cached_tokens, 0);
		say_well(&d, &again, ask_for(&prompt, "", 10));
		assert_true(again.cached_tokens >= again.prompt_tokens - 2);
		assert_int_equal(engine_load(d.engine).cached_disk_total, again.cached_tokens);
		assert_string_equal(again.text.base, first.text.base);
		driver_fini(&d);
		ask_fini(&first);
		ask_fini(&again);
		ask_fini(&stranger);
		buf_fini(&prompt);
	}
}

static void test_what_an_adapter_made_stays_in_memory(void **state)
{
	struct engine_options options = long_for("llama");
	const struct str name = STR("other");
	char file[4096];
	struct buf prompt = {0};
	struct ask first = {0}, again = {0}, plain = {0};
	struct driver d;
	(void)state;

	snprintf(file, sizeof(file), "%s/adapter.gguf", getenv("MDN_TEST_MODELS"));
	struct str adapter_path = str_from(file);
	options.adapter_names = &name;
	options.adapter_paths = &adapter_path;
	options.adapter_count = 1;
	options.cache_folder = str_from(folder);
	options.cache_disk_bytes = 64 << 20;
	words(&prompt, 1, 200);
	driver_start(&d, &options);
	struct engine_params p = ask_for(&prompt, "", 4);
	p.adapter = name;
	say_well(&d, &first, p);
	say_well(&d, &again, p);
	assert_int_equal(again.cached_tokens, again.prompt_tokens - 1);
	driver_fini(&d);
	assert_int_equal(each_file(NULL), 0);
	driver_start(&d, &options);
	say_well(&d, &plain, ask_for(&prompt, "", 4));
	assert_int_equal(plain.cached_tokens, 0);
	driver_fini(&d);
	assert_true(each_file(NULL) > 0);
	ask_fini(&first);
	ask_fini(&again);
	ask_fini(&plain);
	buf_fini(&prompt);
}

static int spoil_at; /* from the end */
static void spoil(const char *file)
{
	FILE *f = fopen(file, "r+b");
	assert_non_null(f);
	assert_int_equal(fseek(f, -spoil_at, SEEK_END), 0);
	int c = fgetc(f);
	assert_int_equal(fseek(f, -spoil_at, SEEK_END), 0);
	fputc(c ^ 1, f);
	fclose(f);
}

static void cut(const char *file)
{
	assert_int_equal(truncate(file, 300), 0);
}

static void test_damaged_and_foreign_files_are_refused_and_removed(void **state)
{
	struct engine_options options = long_for("llama");
	struct buf prompt = {0};
	struct ask first = {0}, damaged = {0};
	struct driver d;
	(void)state;

	options.cache_folder = str_from(folder);
	options.cache_disk_bytes = 64 << 20;
	words(&prompt, 1, 200);
	driver_start(&d, &options);
	say_well(&d, &first, ask_for(&prompt, "", 10));
	driver_fini(&d);
	int files = each_file(NULL);
	assert_true(files >= 6);
	/* One bit of the KV. */
	spoil_at = 100;
	each_file(spoil);
	driver_start(&d, &options);
	awaited_bytes = 1;
	driver_until(&d, disk_has, &d);
	say_well(&d, &damaged, ask_for(&prompt, "", 10));
	assert_int_equal(damaged.cached_tokens, 0);
	assert_string_equal(damaged.text.base, first.text.base);
	driver_fini(&d);
	ask_fini(&damaged);
	damaged = (struct ask){0};
	/* What was computed again was written again: all good now. */
	driver_start(&d, &options);
	awaited_bytes = 1;
	driver_until(&d, disk_has, &d);
	say_well(&d, &damaged, ask_for(&prompt, "", 10));
	assert_true(damaged.cached_tokens > 150);
	driver_fini(&d);
	/* Cut short, and another model of the same name. */
	each_file(cut);
	driver_start(&d, &options);
	ask_fini(&damaged);
	damaged = (struct ask){0};
	say_well(&d, &damaged, ask_for(&prompt, "", 10));
	assert_int_equal(damaged.cached_tokens, 0);
	driver_fini(&d);
	options = long_for("qwen2");
	options.cache_folder = str_from(folder);
	options.cache_disk_bytes = 64 << 20;
	driver_start(&d, &options);
	ask_fini(&damaged);
	damaged = (struct ask){0};
	say_well(&d, &damaged, ask_for(&prompt, "", 1));
	assert_int_equal(damaged.cached_tokens, 0);
	driver_fini(&d);
	assert_true(each_file(NULL) <= files);
	ask_fini(&first);
	ask_fini(&damaged);
	buf_fini(&prompt);
}

static uint64_t file_bytes;
static void weigh(const char *file)
{
	struct stat st;

	assert_int_equal(stat(file, &st), 0);
	file_bytes += (uint64_t)st.st_size;
}

static void test_memory_and_disk_stay_within_their_bounds(void **state)
{
	struct engine_options options = long_for("llama");
	struct driver d;
	(void)state;

	options.cache_folder = str_from(folder);
	options.cache_memory_bytes = 200 * 1000;
	options.cache_disk_bytes = 300 * 1000;
	options.slots = 1;
	driver_start(&d, &options);
	for (int i = 0; i < 12; i++) {
		struct buf prompt = {0};
		struct ask ask = {0};
		words(&prompt, i, 100);
		say_well(&d, &ask, ask_for(&prompt, "", 2));
		struct engine_load load = engine_load(d.engine);
		assert_true(load.cache_memory_bytes <= options.cache_memory_bytes);
		assert_true(load.cache_disk_bytes <= options.cache_disk_bytes);
		if (i > 2)
			assert_true(load.cache_memory_bytes >= options.cache_memory_bytes / 3);
		ask_fini(&ask);
		buf_fini(&prompt);
	}
	driver_fini(&d);
	file_bytes = 0;
	assert_true(each_file(weigh) > 1);
	assert_in_range(file_bytes, 100 * 1000, options.cache_disk_bytes);
}

/* ---- cells ------------------------------------------------------------------------------------- */

static void test_shared_cells_are_counted_once(void **state)
{
	enum { N = 6, MAX = 40 };
	int ids[N][MAX], past[N] = {0}, next = 1;
	struct cells c;
	struct rng rng;
	(void)state;

	cells_init(&c, N);
	rng_init(&rng, 5);
	for (int step = 0; step < 20000; step++) {
		int i = (int)rng_below(&rng, N), j = (int)rng_below(&rng, N), what = (int)rng_below(&rng, 3);
		if (what == 0 && past[i] < MAX) {
			int n = 1 + (int)rng_below(&rng, (uint64_t)(MAX - past[i]));
			for (int k = 0; k < n; k++)
				ids[i][past[i]++] = next++;
			cells_grow(&c, n);
		} else if (what == 1) {
			int position = (int)rng_below(&rng, (uint64_t)past[i] + 1);
			cells_cut(&c, i, past[i], position);
			past[i] = position;
		} else if (what == 2 && i != j && past[j]) {
			cells_cut(&c, i, past[i], 0);
			past[i] = 1 + (int)rng_below(&rng, (uint64_t)past[j]);
			memcpy(ids[i], ids[j], (size_t)past[i] * sizeof(int));
			cells_share(&c, j, i, past[i]);
		}
		int unique = 0;
		for (int a = 0; a < N; a++)
			for (int k = 0; k < past[a]; k++) {
				bool seen = false;
				for (int b = 0; b < a; b++)
					seen |= k < past[b] && ids[b][k] == ids[a][k];
				unique += !seen;
			}
		assert_int_equal(c.held, unique);
	}
	cells_fini(&c);
}

static bool all_done(void *arg)
{
	struct ask *asks = arg;

	for (int i = 0; i < 24; i++)
		if (asks[i].request && !asks[i].done)
			return false;
	return true;
}

/* Random prompts that share beginnings, canceled and paused at random, in a small cache; then one that needs all cells.
 * At the end the engine itself asserts that no cell belongs to anybody. */
static void test_no_cell_is_lost_under_random_load(void **state)
{
	struct rng rng;
	(void)state;

	rng_init(&rng, 77);
	for (int m = 0; m < MODELS; m++) {
		struct engine_options options = long_for(models[m]);
		struct ask asks[24] = {{0}}, last = {0};
		struct buf prompts[24] = {{0}}, prompt = {0};
		struct driver d;

		options.slots = 5;
		options.context_tokens = options.kv_tokens = 768;
		driver_start(&d, &options);
		for (int i = 0; i < 24; i++) {
			words(&prompts[i], (int)rng_below(&rng, 3), 20 + (int)rng_below(&rng, 80));
			words(&prompts[i], 100 + i, (int)rng_below(&rng, 40));
			struct engine_params p =
			    ask_for(&prompts[i], rng_below(&rng, 5) ? "" : "x", 1 + (int32_t)rng_below(&rng, 40));
			ask_start(&asks[i], &d, &p);
			if (rng_below(&rng, 2))
				driver_turns(&d, (int64_t)rng_below(&rng, 20000));
			int other = (int)rng_below(&rng, (uint64_t)i + 1);
			if (rng_below(&rng, 3) == 0 && asks[other].request && !asks[other].done) {
				engine_cancel(asks[other].request);
				asks[other].request = NULL;
			} else if (asks[other].request && !asks[other].done && rng_below(&rng, 3) == 0) {
				engine_pause(asks[other].request);
				driver_turns(&d, 5000);
				if (asks[other].request && !asks[other].done)
					engine_continue(asks[other].request);
			}
		}
		driver_until(&d, all_done, asks);
		words(&prompt, 9, 340);
		say_well(&d, &last, ask_for(&prompt, "", -1));
		assert_in_range(last.last.prompt_tokens, 600, 767);
		assert_int_equal(engine_load(d.engine).running, 0);
		for (int i = 0; i < 24; i++) {
			ask_fini(&asks[i]);
			buf_fini(&prompts[i]);
		}
		ask_fini(&last);
		buf_fini(&prompt);
		driver_fini(&d);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_shared_cells_are_counted_once),
	    cmocka_unit_test(test_what_is_found_says_the_same_as_what_is_computed),
	    cmocka_unit_test(test_window_behind_the_prompt_is_not_taken_for_whole),
	    cmocka_unit_test(test_many_that_begin_alike_compute_it_once),
	    cmocka_unit_test(test_prompt_of_another_tenant_is_not_found_unless_salts_agree),
	    cmocka_unit_test_setup_teardown(test_restart_finds_what_is_on_disk, make_folder, remove_folder),
	    cmocka_unit_test_setup_teardown(test_what_an_adapter_made_stays_in_memory, make_folder, remove_folder),
	    cmocka_unit_test_setup_teardown(test_damaged_and_foreign_files_are_refused_and_removed, make_folder,
	                                    remove_folder),
	    cmocka_unit_test_setup_teardown(test_memory_and_disk_stay_within_their_bounds, make_folder, remove_folder),
	    cmocka_unit_test(test_no_cell_is_lost_under_random_load),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
