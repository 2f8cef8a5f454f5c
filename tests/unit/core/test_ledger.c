/* SPDX-License-Identifier: Apache-2.0 */
/* The ledger against a plain list under a random schedule: nothing leaks, nothing is counted twice. */
#include "core/ledger.h"

#include "base/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define NODES 5
#define MODELS 3
#define OPEN_MAX 400
#define FIRST UINT64_C(1700000000000000) /* a wall clock */

struct open {
	struct ledger_ticket *ticket;
	unsigned node, model;
	uint64_t number;
	int32_t tokens;
};

static struct str node_name(unsigned i)
{
	static const char *const names[NODES] = {"n-1", "n-2", "n-3", "n-4", "n-5"};
	return str_from(names[i]);
}

static struct str model_name(unsigned i)
{
	static const char *const names[MODELS] = {"a:latest", "b:latest", "a:7b"};
	return str_from(names[i]);
}

static void check(const struct ledger *l, const struct open *open, size_t count, struct rng *rng, const uint64_t *last)
{
	unsigned node = (unsigned)rng_below(rng, NODES), model = (unsigned)rng_below(rng, MODELS);
	uint64_t seen = FIRST - 1 + rng_below(rng, last[node] - FIRST + 3);
	struct ledger_load want = {0}, got = ledger_unseen(l, node_name(node), model_name(model), seen);
	for (size_t i = 0; i < count; i++) {
		if (open[i].node == node && open[i].model == model && open[i].number > seen) {
			want.running++;
			want.tokens_to_prefill += open[i].tokens;
		}
	}
	assert_int_equal(got.running, want.running);
	assert_int_equal(got.tokens_to_prefill, want.tokens_to_prefill);
	assert_int_equal(ledger_count(l), count);
}

static void test_ledger_agrees_with_a_plain_list_and_leaks_nothing(void **unused)
{
	static struct open open[OPEN_MAX];
	struct ledger *l = ledger_new(FIRST);
	uint64_t last[NODES] = {FIRST - 1, FIRST - 1, FIRST - 1, FIRST - 1, FIRST - 1};
	size_t count = 0;
	struct rng rng;
	rng_init(&rng, 5);
	for (int step = 0; step < 60000; step++) {
		uint64_t what = rng_below(&rng, 8);
		if (what < 3 && count < OPEN_MAX) {
			struct open *o = &open[count++];
			o->node = (unsigned)rng_below(&rng, NODES);
			o->model = (unsigned)rng_below(&rng, MODELS);
			o->tokens = (int32_t)rng_below(&rng, 5000);
			o->ticket = ledger_open(l, node_name(o->node), model_name(o->model), o->tokens, &o->number);
			assert_int_equal(o->number, ++last[o->node]); /* one by one, per node, never again */
		} else if (what < 5 && count > 0) {
			struct open *o = &open[rng_below(&rng, count)];
			ledger_first_token(o->ticket);
			o->tokens = 0;
		} else if (count > 0) {
			size_t i = rng_below(&rng, count);
			ledger_close(open[i].ticket);
			open[i] = open[--count];
		}
		check(l, open, count, &rng, last);
	}
	while (count > 0)
		ledger_close(open[--count].ticket);
	assert_int_equal(ledger_count(l), 0);
	/* Numbers go on, though all entries are gone. */
	uint64_t number;
	ledger_open(l, node_name(0), model_name(0), 1, &number);
	assert_int_equal(number, last[0] + 1);
	ledger_free(l); /* closes it; LeakSanitizer watches */
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_ledger_agrees_with_a_plain_list_and_leaks_nothing)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
