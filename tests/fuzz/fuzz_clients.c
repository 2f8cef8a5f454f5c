/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as an edge's demand, an operator's words and a kept map of clients: read or refused; what is read makes a
 * round. */
#include "base/json.h"
#include "core/client_map.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct str json = {(const char *)data, size};
	struct node_map *nodes = node_map_new();
	struct client_map map = {0};
	struct client_round *round;
	struct steer steer = {0};
	struct demand demand;
	struct lpm *named;
	struct buf out = {0};
	struct error err;
	yyjson_doc *doc;
	char id[NODE_ID_SIZE];
	int64_t window_us;
	bool changed;
	if (client_map_parse(&map, json, nodes, 1, &named, &err) == 0)
		node_map_set_named(nodes, named);
	if (demand_parse(json, &demand, id, &window_us, &err) == 0) {
		client_map_tell(&map, &demand, MAKING_NONE, 1);
		demand_fini(&demand);
	}
	if (json_parse(json, &doc, &err) == 0) {
		steer_parse(yyjson_doc_get_root(doc), &steer, &err);
		yyjson_doc_free(doc);
	}
	steer_format(&steer, &out);
	client_map_format(&map, nodes, &out);
	if (client_map_begin(&map, nodes, &steer, 1000, 1, &round, &err) == 0) {
		client_round_make(round);
		if (client_map_take(&map, round, &changed, &named, &err) == 0 && changed)
			node_map_set_named(nodes, named);
		client_round_free(round);
	}
	buf_fini(&out);
	steer_fini(&steer);
	client_map_fini(&map);
	node_map_free(nodes);
	return 0;
}
