/* SPDX-License-Identifier: Apache-2.0 */
/* machine.h - what this machine is to those who place models: labels, memory, accelerator. Bytes. */
#ifndef MDN_CLI_MACHINE_H
#define MDN_CLI_MACHINE_H

#include "base/config.h"
#include "core/report.h"

struct machine {
	char labels[NODE_LABELS_MAX][NODE_TEXT_SIZE]; /* "key:value" */
	size_t label_count;
	uint64_t memory_bytes; /* that models may take */
	char accelerator[32];
};
/* E_INVAL names the key that is wrong. */
int machine_describe(const struct config *c, struct machine *ret_machine, struct error *err);
void machine_report(const struct machine *m, struct node_report *report);

#endif
