/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/serve.h"

#include <time.h>

void sim_serve_world(const struct scenario *s, enum sim_policy policy, struct sim_world *ret_world)
{
	sim_world_init(ret_world, s, policy == SIM_SINGLE_POOL ? (uint32_t)s->sites.pool_addresses : 0);
}

void sim_serve(const struct scenario *s, enum sim_policy policy, struct figures *ret_figures)
{
	struct sim_world w;
	clock_t began = clock();
	sim_serve_world(s, policy, &w);
	figures_init(ret_figures, &w, policy);
	if (s->flows)
		sim_serve_flows(&w, policy, ret_figures);
	else
		sim_serve_requests(&w, policy, ret_figures);
	figures_end(ret_figures, &w);
	ret_figures->took_s = (double)(clock() - began) / CLOCKS_PER_SEC;
	sim_world_fini(&w);
}
