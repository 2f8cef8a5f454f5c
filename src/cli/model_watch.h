/* SPDX-License-Identifier: Apache-2.0 */
/* model_watch.h - one model on its way to its nodes, as people look at it: once, or live until it is there. */
#ifndef MDN_CLI_MODEL_WATCH_H
#define MDN_CLI_MODEL_WATCH_H

#include "cli/client.h"

/* The center's document of a model: a line per node, then how far all of it is. */
void model_print(yyjson_val *document);
/* Follows it until every node has it, or one will not. On a terminal the lines are drawn in place; else one line a
 * change. json: the documents as they come, a line each. */
int model_watch(struct client *c, const char *name_tag, bool json, struct error *err);

#endif
