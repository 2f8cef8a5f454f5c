/* SPDX-License-Identifier: Apache-2.0 */
/* mdn sim SCENARIO.yaml - users, sites and engines in virtual time, several policies side by side.
 *
 * A table for people on stdout, or JSON; and a page where --html says. Policies run one after the other, on the same
 * users.
 */
#include "base/file.h"
#include "cli/options.h"
#include "sim/serve.h"

#include <stdio.h>
#include <stdlib.h>

static double percent(double part, double whole)
{
	return whole > 0 ? 100 * part / whole : 0;
}

static void print_row(const struct figures *f)
{
	printf("%-14s %11.0f %8.3f %9.0f %8.3f %9.0f %9.0f %9.0f %6.1f %6.1f %6.1f %7.1f\n",
	       sim_policy_names[f->policy], f->requests, percent(f->busy, f->requests), f->busy_early,
	       percent(f->lost, f->requests), histogram_at(&f->ttft, .5) / 1e3, histogram_at(&f->ttft, .99) / 1e3,
	       f->streams_most, percent(f->near, f->served), percent(f->in_10_ms, f->served),
	       f->served > 0 ? f->way_sum_us / f->served / 1e3 : 0, f->took_s);
}

static void print_table(const struct scenario *s, const struct sim_world *w, const struct figures *all)
{
	printf("%s: %u cities, %.0f sites, %u nodes of %.0f streams, %.1f h, seed %llu, %s\n", s->name, w->city_count,
	       s->sites.count, w->node_count, s->engine.slots, (double)s->duration_us / 3600e6,
	       (unsigned long long)s->seed, s->flows ? "flows" : "requests");
	printf("%-14s %11s %8s %9s %8s %9s %9s %9s %6s %6s %6s %7s\n", "policy", "requests", "busy %", "  early",
	       "failed %", "TTFT p50", "p99 ms", "streams", "near %", "10ms %", "way ms", "took s");
	for (unsigned i = 0; i < s->policy_count; i++)
		print_row(&all[i]);
	printf("early: busy answers before more was ever asked for than all hardware can do\n");
}

static int choose_policies(const struct args *args, struct scenario *s)
{
	const char *name;
	unsigned count = 0;
	for (; (name = args_nth(args, "policy", count)); count++) {
		unsigned p = 0;
		while (p < SIM_POLICIES && strcmp(sim_policy_names[p], name) != 0)
			p++;
		if (p == SIM_POLICIES || count == SIM_POLICIES)
			return args_usage(
			    args, "--policy %s: mdn, single_pool, round_robin, random, power_of_two, least_load", name);
		s->policies[count] = (enum sim_policy)p;
	}
	if (count > 0)
		s->policy_count = count;
	return 0;
}

static int apply_options(const struct args *args, struct scenario *s)
{
	const char *seed = args_value(args, "seed"), *mode = args_value(args, "mode");
	if (seed && (str_to_u64(str_from(seed), &s->seed) || s->seed == 0))
		return args_usage(args, "--seed %s: a number from 1 is wanted", seed);
	if (mode && strcmp(mode, "flows") != 0 && strcmp(mode, "requests") != 0)
		return args_usage(args, "--mode %s: requests or flows", mode);
	if (mode)
		s->flows = strcmp(mode, "flows") == 0;
	if (!s->flows && s->sites.nodes > SCENARIO_NODES_MAX)
		return args_usage(args, "%.0f nodes are too many to play every request; at most %d", s->sites.nodes,
		                  SCENARIO_NODES_MAX);
	return choose_policies(args, s);
}

static int write_page(const struct args *args, const struct scenario *s, const struct sim_world *w,
                      const struct figures *all)
{
	struct buf page = {0};
	struct error err;
	figures_page(s, w, all, s->policy_count, &page);
	int rc = file_write(args_value(args, "html"), 0644, buf_str(&page), &err);
	buf_fini(&page);
	return rc < 0 ? args_fail(args, &err) : 0;
}

int cmd_sim(const struct args *args)
{
	struct scenario *s;
	struct error err;
	int rc = scenario_read(args_operand(args, 0), &s, &err);
	if (rc < 0)
		return args_fail_words(args, &err);
	unsigned listed = s->policy_count; /* as the file has it, for whoever frees */
	if ((rc = apply_options(args, s)) == 0) {
		struct figures *all = mem_new(SIM_POLICIES * sizeof(*all));
		struct sim_world w;
		for (unsigned i = 0; i < s->policy_count; i++)
			sim_serve(s, s->policies[i], &all[i]);
		sim_serve_world(s, SIM_MDN, &w);
		if (args_has(args, "json")) {
			struct buf out = {0};
			figures_format(s, &w, all, s->policy_count, &out);
			fwrite(out.base, 1, out.len, stdout);
			buf_fini(&out);
		} else {
			print_table(s, &w, all);
		}
		if (args_has(args, "html"))
			rc = write_page(args, s, &w, all);
		sim_world_fini(&w);
		for (unsigned i = 0; i < s->policy_count; i++)
			figures_fini(&all[i]);
		free(all);
	}
	s->policy_count = listed;
	scenario_free(s);
	return rc;
}
