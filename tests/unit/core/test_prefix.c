/* SPDX-License-Identifier: Apache-2.0 */
/* The tree of prefixes against a plain list of what was put and dropped, under random operations. */
#include "core/prefix.h"

#include "base/error.h"
#include "base/rng.h"
#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { BLOCK = 4, PATH_MAX_TOKENS = 22, ITEMS_MAX = 1024, PINS_MAX = 4, OPERATIONS = 100 * 1000 };

struct item {
	int salt, count, tier;
	int32_t path[PATH_MAX_TOKENS];
	uint64_t bytes;
	bool alive;
};

struct world {
	struct prefix *tree;
	struct prefix_options options;
	struct item items[ITEMS_MAX]; /* handle: index + 1 */
	size_t count;
	struct prefix_node *pins[PINS_MAX];
	bool losing;
};

static struct world w;

static struct prefix_salt salt_of(int n)
{
	struct prefix_salt salt = {{(uint8_t)n, 7}};
	return salt;
}

static int common_of(const int32_t *a, int a_count, const int32_t *b, int b_count)
{
	int n = 0;

	while (n < a_count && n < b_count && a[n] == b[n])
		n++;
	return n;
}

static bool is_pinned(const struct item *item)
{
	int32_t path[PATH_MAX_TOKENS];

	for (int i = 0; i < PINS_MAX; i++) {
		if (!w.pins[i])
			continue;
		int end = prefix_end(w.pins[i]);
		struct prefix_salt salt = salt_of(item->salt);
		prefix_path(w.pins[i], path);
		if (memcmp(prefix_salt_of(w.pins[i]), &salt, sizeof(salt)) == 0 &&
		    (item->count == end || (item->count < end && item->count % BLOCK == 0)) &&
		    common_of(item->path, item->count, path, end) == item->count)
			return true;
	}
	return false;
}

static void on_drop(void *arg, enum prefix_tier tier, void *handle)
{
	struct item *item = &w.items[(uintptr_t)handle - 1];
	(void)arg;

	assert_true(item->alive);
	assert_int_equal(item->tier, tier);
	item->alive = false;
	if (w.tree && !w.losing)
		assert_false(is_pinned(item));
}

static bool alive_at(int salt, const int32_t *path, int count)
{
	for (size_t i = 0; i < w.count; i++)
		if (w.items[i].alive && w.items[i].salt == salt && w.items[i].count == count &&
		    common_of(w.items[i].path, count, path, count) == count)
			return true;
	return false;
}

static bool reachable(const struct item *item)
{
	for (int end = BLOCK; end < item->count; end += BLOCK)
		if (!alive_at(item->salt, item->path, end))
			return false;
	return true;
}

static int naive_find(int salt, const int32_t *tokens, int count)
{
	int best = 0;

	for (size_t i = 0; i < w.count; i++) {
		const struct item *item = &w.items[i];
		if (!item->alive || item->salt != salt)
			continue;
		int common = common_of(item->path, item->count, tokens, count);
		if (w.options.chained ? reachable(item) : common == item->count)
			best = common > best ? common : best;
	}
	return best;
}

static int random_path(struct rng *rng, int32_t *path)
{
	int count = 1 + (int)rng_below(rng, PATH_MAX_TOKENS);

	for (int i = 0; i < count; i++) /* mostly one thing, so that beginnings meet */
		path[i] = rng_below(rng, 6) ? 1 : (int32_t)rng_below(rng, 3);
	return count;
}

static bool put(struct prefix_node *node, int salt, int tier, uint64_t bytes, double cost)
{
	if (prefix_handle(node, tier))
		return true;
	assert_true(w.count < ITEMS_MAX);
	struct item *item = &w.items[w.count];
	*item = (struct item){.salt = salt, .count = prefix_end(node), .tier = tier, .bytes = bytes, .alive = true};
	prefix_path(node, item->path);
	if (!prefix_put(w.tree, node, tier, (void *)(uintptr_t)(w.count + 1), bytes, cost)) {
		item->alive = false;
		return false;
	}
	w.count++;
	return true;
}

/* As an engine does it: all blocks of a chain from the first, or the one whole state. */
static void add(struct rng *rng)
{
	int32_t path[PATH_MAX_TOKENS];
	int count = random_path(rng, path), salt = (int)rng_below(rng, 3), tier = (int)rng_below(rng, 2), depth = 0;
	struct prefix_salt key = salt_of(salt);
	struct prefix_node *last, *nodes[PATH_MAX_TOKENS];

	if (prefix_add(w.tree, &key, path, count, &last) < 0)
		return;
	for (struct prefix_node *node = last; node; node = prefix_parent(node))
		nodes[depth++] = node;
	while (depth-- > 0)
		if (w.options.chained || depth == 0)
			if (!put(nodes[depth], salt, tier, 1 + rng_below(rng, 9), 1 + (double)rng_below(rng, 100)))
				break;
	int spare = (int)rng_below(rng, 3 * PINS_MAX);
	if (spare < PINS_MAX && !w.pins[spare])
		w.pins[spare] = last;
	else
		prefix_unpin(w.tree, last);
}

static void find(struct rng *rng)
{
	int32_t tokens[PATH_MAX_TOKENS], path[PATH_MAX_TOKENS];
	int count = random_path(rng, tokens), salt = (int)rng_below(rng, 4);
	struct prefix_salt key = salt_of(salt);
	struct prefix_match match = prefix_find(w.tree, &key, tokens, count);

	assert_int_equal(match.common, naive_find(salt, tokens, count));
	assert_true(match.known >= match.common && match.known <= count);
	assert_int_equal(match.node != NULL, match.common > 0);
	if (!match.node)
		return;
	prefix_path(match.node, path);
	assert_int_equal(common_of(path, prefix_end(match.node), tokens, count), match.common);
	assert_true(match.common > prefix_begin(match.node));
	if (rng_below(rng, 8) == 0) {
		w.losing = true;
		prefix_lose(w.tree, match.node, (int)rng_below(rng, 2));
		w.losing = false;
	} else {
		prefix_hit(w.tree, match.node);
	}
}

static void check_numbers(void)
{
	struct prefix_numbers n = prefix_numbers(w.tree);
	uint64_t bytes[PREFIX_TIERS] = {0}, copies[PREFIX_TIERS] = {0};

	for (size_t i = 0; i < w.count; i++)
		if (w.items[i].alive) {
			bytes[w.items[i].tier] += w.items[i].bytes;
			copies[w.items[i].tier]++;
		}
	for (int tier = 0; tier < PREFIX_TIERS; tier++) {
		assert_int_equal(n.bytes[tier], bytes[tier]);
		assert_int_equal(n.copies[tier], copies[tier]);
		assert_true(n.bytes[tier] <= w.options.bytes_max[tier]);
	}
	assert_true(n.nodes <= w.options.nodes_max);
}

/* Forgets the dead, so that the list stays short: handles are indexes, so only from its end. */
static void forget(void)
{
	while (w.count && !w.items[w.count - 1].alive)
		w.count--;
	if (w.count < ITEMS_MAX - 64)
		return;
	w.losing = true;
	prefix_free(w.tree);
	for (int i = 0; i < PINS_MAX; i++)
		w.pins[i] = NULL;
	w.tree = prefix_new(&w.options);
	w.count = 0;
	w.losing = false;
}

static void run_against_list(bool chained)
{
	struct rng rng;

	w = (struct world){
	    .options = {.block = BLOCK, .chained = chained, .nodes_max = 90, .bytes_max = {150, 250}, .drop = on_drop}};
	rng_init(&rng, chained ? 11 : 12);
	w.tree = prefix_new(&w.options);
	for (int i = 0; i < OPERATIONS; i++) {
		int what = (int)rng_below(&rng, 8), at = (int)rng_below(&rng, PINS_MAX);
		if (what < 3) {
			add(&rng);
		} else if (what < 7) {
			find(&rng);
		} else if (w.pins[at]) {
			struct prefix_node *node = w.pins[at];
			w.pins[at] = NULL;
			prefix_unpin(w.tree, node);
		}
		if (i % 16 == 0)
			check_numbers();
		forget();
	}
	for (int i = 0; i < PINS_MAX; i++)
		if (w.pins[i]) {
			struct prefix_node *node = w.pins[i];
			w.pins[i] = NULL;
			prefix_unpin(w.tree, node);
		}
	struct prefix *tree = w.tree;
	w.tree = NULL;
	prefix_free(tree);
	for (size_t i = 0; i < w.count; i++)
		assert_false(w.items[i].alive);
}

static void test_chain_is_as_a_plain_list(void **unused)
{
	(void)unused;
	run_against_list(true);
}

static void test_whole_states_are_as_a_plain_list(void **unused)
{
	(void)unused;
	run_against_list(false);
}

static int dropped[256], drops;

static void note_drop(void *arg, enum prefix_tier tier, void *handle)
{
	(void)arg, (void)tier;
	dropped[drops++] = (int)(uintptr_t)handle;
}

static void put_whole(struct prefix *p, int32_t first, int handle, uint64_t bytes, double cost)
{
	struct prefix_salt salt = salt_of(1);
	struct prefix_node *node;

	assert_int_equal(prefix_add(p, &salt, &first, 1, &node), 0);
	assert_true(prefix_put(p, node, PREFIX_MEMORY, (void *)(uintptr_t)handle, bytes, cost));
	prefix_unpin(p, node);
}

static void test_what_is_cheap_to_compute_for_its_bytes_goes_first_and_age_tells(void **unused)
{
	struct prefix_options options = {.block = BLOCK, .nodes_max = 100, .bytes_max = {30, 0}, .drop = note_drop};
	struct prefix *p = prefix_new(&options);
	struct prefix_salt salt = salt_of(1);
	(void)unused;

	drops = 0;
	put_whole(p, 1, 1, 10, 1000); /* dear */
	put_whole(p, 2, 2, 10, 10);
	put_whole(p, 3, 3, 10, 20);
	put_whole(p, 4, 4, 10, 30);
	assert_int_equal(drops, 1);
	assert_int_equal(dropped[0], 2); /* not the oldest */
	int32_t three = 3;
	for (int i = 0; i < 3; i++)
		prefix_hit(p, prefix_find(p, &salt, &three, 1).node);
	put_whole(p, 5, 5, 10, 30);
	assert_int_equal(dropped[1], 4); /* three was asked for */
	for (int i = 0; i < 100; i++)    /* the dear one is never asked for, and ages */
		put_whole(p, 200 + i, 6, 10, 30);
	assert_int_equal(prefix_find(p, &salt, &(int32_t){1}, 1).common, 0);
	/* Larger than everything: refused, and nothing went. */
	struct prefix_node *node;
	int before = drops;
	assert_int_equal(prefix_add(p, &salt, &(int32_t){9}, 1, &node), 0);
	assert_false(prefix_put(p, node, PREFIX_MEMORY, p, 31, 1));
	assert_int_equal(drops, before);
	prefix_unpin(p, node);
	prefix_free(p);
}

static void test_another_salt_finds_nothing(void **unused)
{
	struct prefix_options options = {
	    .block = BLOCK, .chained = true, .nodes_max = 9, .bytes_max = {9, 9}, .drop = note_drop};
	struct prefix *p = prefix_new(&options);
	struct prefix_salt mine = salt_of(1), theirs = salt_of(2);
	int32_t tokens[] = {1, 2, 3, 4};
	struct prefix_node *node;
	(void)unused;

	drops = 0;
	assert_int_equal(prefix_add(p, &mine, tokens, 4, &node), 0);
	assert_true(prefix_put(p, node, PREFIX_DISK, p, 1, 1));
	prefix_unpin(p, node);
	assert_int_equal(prefix_find(p, &mine, tokens, 4).common, 4);
	assert_int_equal(prefix_find(p, &mine, tokens, 3).common, 3);
	struct prefix_match match = prefix_find(p, &theirs, tokens, 4);
	assert_true(!match.node && !match.common && !match.known);
	prefix_free(p);
	assert_int_equal(drops, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_chain_is_as_a_plain_list),
	    cmocka_unit_test(test_whole_states_are_as_a_plain_list),
	    cmocka_unit_test(test_what_is_cheap_to_compute_for_its_bytes_goes_first_and_age_tells),
	    cmocka_unit_test(test_another_salt_finds_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
