/* SPDX-License-Identifier: Apache-2.0 */
/* test_plan.c - who prefills how much in a batch. */
#include "driver.h"

#include "base/rng.h"
#include "engine/llama_plan.h"

static const char a_tenant, b_tenant;

static struct llama_share share(int32_t wants, uint64_t order, int service_class, const char *tenant, double service)
{
	return (struct llama_share){.slot = (int32_t)order,
	                            .wants = wants,
	                            .order = order,
	                            .service_class = service_class,
	                            .service = service,
	                            .tenant = tenant};
}

/* What the request of that order got. */
static int32_t got(const struct llama_share *shares, size_t count, uint64_t order)
{
	for (size_t i = 0; i < count; i++)
		if (shares[i].order == order)
			return shares[i].gets;
	fail_msg("no share %d", (int)order);
	return 0;
}

static void test_budget_is_what_a_step_has_time_for(void **state)
{
	(void)state;

	assert_int_equal(llama_plan_budget(512, 0, 1000, 0, 0), 512);     /* nobody waits for the step */
	assert_int_equal(llama_plan_budget(504, 8, 0, 0, 0), 504);        /* not measured yet */
	assert_int_equal(llama_plan_budget(504, 8, 2000, 0, 0), 192);     /* 100 ms: 200 rows, 8 are the streams' */
	assert_int_equal(llama_plan_budget(504, 8, 2000, 0, 50000), 92);  /* 50 ms */
	assert_int_equal(llama_plan_budget(504, 8, 20, 0, 0), 64);        /* slow: still enough to get on */
	assert_int_equal(llama_plan_budget(504, 8, 2000, 30000, 0), 192); /* decoding takes 30 ms: it fits */
	assert_int_equal(llama_plan_budget(504, 8, 500, 60000, 0), 255);  /* 60 ms: 427 ms more for prompts */
	assert_int_equal(llama_plan_budget(504, 8, 1e9, 0, 0), 504);
	assert_int_equal(llama_plan_budget(16, 240, 1000, 0, 0), 16);
	assert_int_equal(llama_plan_budget(0, 256, 1000, 0, 0), 0);
}

static void test_shortest_first_but_the_oldest_goes_on(void **state)
{
	struct llama_share s[3] = {share(4000, 1, 2, &a_tenant, 0), share(50, 2, 2, &a_tenant, 0),
	                           share(100, 3, 2, &a_tenant, 0)};
	(void)state;

	llama_plan_share(s, 3, 200);
	assert_int_equal(got(s, 3, 1), 50);
	assert_int_equal(got(s, 3, 2), 50);
	assert_int_equal(got(s, 3, 3), 100);
	llama_plan_share(s, 3, 100);
	assert_int_equal(got(s, 3, 1), 25);
	assert_int_equal(got(s, 3, 2), 50);
	assert_int_equal(got(s, 3, 3), 25);
}

static void test_class_then_the_tenant_with_least_service(void **state)
{
	struct llama_share s[3] = {share(10, 1, 3, &a_tenant, 0), share(20, 2, 2, &a_tenant, 900),
	                           share(500, 3, 2, &b_tenant, 100)};
	(void)state;

	llama_plan_share(s, 3, 400);
	assert_int_equal(got(s, 3, 3), 400);
	/* The batch that ends its prompt is not filled up by others, beyond a little. */
	s[0].wants = 100;
	assert_ptr_equal(s[0].tenant, &b_tenant);
	for (int i = 1; i < 3; i++)
		s[i].wants = 1000;
	llama_plan_share(s, 3, 400);
	assert_int_equal(got(s, 3, 3), 100);
	assert_int_equal(got(s, 3, 2), 32);
	assert_int_equal(got(s, 3, 1), 0);
}

static void test_no_more_than_wanted_or_there_is(void **state)
{
	struct rng rng;
	(void)state;

	rng_init(&rng, 5);
	for (int round = 0; round < 20000; round++) {
		struct llama_share s[8];
		size_t count = rng_below(&rng, 9);
		int32_t budget = (int32_t)rng_below(&rng, 600), sum = 0, wanted = 0;
		for (size_t i = 0; i < count; i++)
			s[i] = share(1 + (int32_t)rng_below(&rng, 300), i, (int)rng_below(&rng, 2),
			             rng_below(&rng, 2) ? &a_tenant : &b_tenant, (double)rng_below(&rng, 2));
		llama_plan_share(s, count, budget);
		for (size_t i = 0; i < count; i++) {
			assert_in_range(s[i].gets, 0, s[i].wants);
			sum += s[i].gets;
			wanted += s[i].wants;
		}
		assert_true(sum <= budget);
		if (wanted && budget)
			assert_true(sum >= (wanted < budget ? 1 : budget < 32 ? budget : 1));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_budget_is_what_a_step_has_time_for),
	    cmocka_unit_test(test_shortest_first_but_the_oldest_goes_on),
	    cmocka_unit_test(test_class_then_the_tenant_with_least_service),
	    cmocka_unit_test(test_no_more_than_wanted_or_there_is),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
