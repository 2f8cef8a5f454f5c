/* SPDX-License-Identifier: Apache-2.0 */
/* node_table.h - the table of nodes people look at, from the center's GET /mdn/v1/nodes.
 *
 * Used by `mdn nodes`, `mdn status` and `mdn dev up`. Main thread.
 */
#ifndef MDN_CLI_NODE_TABLE_H
#define MDN_CLI_NODE_TABLE_H

#include "base/json.h"

#include <stdio.h>

struct network_summary {
	size_t nodes, up, models, placed, ready;
	int64_t running, waiting;
	double tokens_per_s;
};

/* The "nodes" of an answer, edges last, by name; to be freed. */
yyjson_val **nodes_sorted(yyjson_val *root, size_t *ret_count);
/* distance: text for a site ("30 ms"), or NULL for no such column. */
void node_table_print(yyjson_val *nodes, const char *(*distance)(struct str site), FILE *out);
struct network_summary node_table_summary(yyjson_val *nodes, yyjson_val *models); /* models may be NULL */

#endif
