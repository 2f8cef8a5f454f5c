/* SPDX-License-Identifier: Apache-2.0 */
/* A scheduler's map: refused, or read into a map that can decide, name addresses and be published again. */
#include "core/dns_answer.h"
#include "core/score.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const models[] = {"x", "x:latest", "a:7b"};
	static const char *const sites[] = {"", "west", "east"};
	struct node_map *m, *again;
	struct rng rng;
	struct buf json = {0};
	if (node_map_parse((struct str){(const char *)data, size}, 1000000, &m, NULL) < 0)
		return 0;
	rng_init(&rng, 1);
	struct dns_view *view = dns_view_new(m, NULL, 1000000);
	for (int i = 0; i < 3; i++) {
		struct route_query q = {.model = str_from(models[i]), .client_site = str_from(sites[i])};
		struct route_decision d;
		struct dns_choices c;
		int rc = route_decide(m, NULL, &q, 1000000, &rng, &d, NULL);
		if ((rc == 0) != (d.candidate_count > 0) || d.choice > d.candidate_count)
			abort();
		route_decision_fini(&d);
		dns_choose(view, &(struct dns_wish){.label = str_from(i ? "x" : ""), .bits = 32}, 1000000, &c);
		if (c.equal > c.count)
			abort();
	}
	dns_view_free(view);
	node_map_format(m, 1000000, &json);
	if (node_map_parse(buf_str(&json), 1000000, &again, NULL) < 0)
		abort();
	if (node_map_count(again) != node_map_count(m))
		abort();
	node_map_free(again);
	node_map_free(m);
	buf_fini(&json);
	return 0;
}
