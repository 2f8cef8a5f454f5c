/* SPDX-License-Identifier: Apache-2.0 */
/* store_events.h - asks a node to look after its store, and follows what it says of that (docs/wire.md, "Keeping").
 *
 * Blocking; progress goes to stderr on a terminal.
 */
#ifndef MDN_CLI_STORE_EVENTS_H
#define MDN_CLI_STORE_EVENTS_H

#include "cli/client.h"

struct store_events {
	const char *url, *node_id;                      /* node_id empty: the center's port, or plain */
	void (*on_fault)(void *arg, yyjson_val *fault); /* NULL is fine */
	void *arg;
};
/* *ret_result: the last event, the caller's to free. */
int store_events_run(struct client *c, const struct store_events *e, yyjson_doc **ret_result, struct error *err);

#endif
