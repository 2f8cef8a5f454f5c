/* SPDX-License-Identifier: Apache-2.0 */
/* node_find.h - from what an operator calls a node to its id and URL. */
#ifndef MDN_CLI_NODE_FIND_H
#define MDN_CLI_NODE_FIND_H

#include "cli/client.h"

/* `name` is a name or an id, as the center knows it. The URL is empty when the node never started. E_NOTFOUND. */
int node_find(struct client *c, const char *name, char *ret_id, size_t id_size, char *ret_url, size_t url_size,
              struct error *err);

#endif
