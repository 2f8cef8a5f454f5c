/* SPDX-License-Identifier: Apache-2.0 */
/* node.h - one node: the rooms its roles ask for, on one loop, wired together.
 *
 * node_run returns when the node has stopped: after SIGTERM or SIGINT (drained), or at once with words when it cannot
 * start. SIGHUP reloads what can be reloaded. systemd: READY/STOPPING/RELOADING are told, sockets passed by name
 * (node, api, repository, scheduler, console) are used. Main thread.
 */
#ifndef MDN_CLI_NODE_H
#define MDN_CLI_NODE_H

#include "base/config.h"

struct node_source {      /* where the configuration came from, to read it again */
	const char *path; /* NULL: none */
	const struct config_override *overrides;
	size_t override_count;
};

/* What `roles` of the configuration says; 0 when it says nothing. */
int node_roles_of(const struct config *config, uint32_t *ret_roles, struct error *err);

int node_run(struct config *config, const struct node_source *source, struct error *err);

#endif
