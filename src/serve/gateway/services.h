/* SPDX-License-Identifier: Apache-2.0 */
/* services.h - the operator's file of services: which requests belong to which, and what they get (core/service.h).
 *
 *   classes:
 *     - name: voice
 *       match: {tenant: [0123456789ab], sni: "*.voice.example", header: {x-app: "dialer*"}}
 *       class: interactive
 *       ttft: 300ms
 *       dscp: af41
 *
 * docs/operator-guide.md, "Service classes". Errors name the file, the line and the key.
 */
#ifndef MDN_GATEWAY_SERVICES_H
#define MDN_GATEWAY_SERVICES_H

#include "base/error.h"
#include "core/service.h"

enum { SERVICE_NAMES_MAX = 1024 };

struct service_counts {
	char name[SERVICE_NAME_SIZE];
	uint64_t requests, refused, prompt_tokens, completion_tokens;
	uint64_t ttft[2], itl[2]; /* goals missed, met */
};

struct services {
	struct service_rules rules;
	struct service_counts *counts; /* of every name there ever was */
	uint32_t count;
};

void services_fini(struct services *all);
int services_read(const char *path, struct service_rules *ret_rules, struct error *err);
/* The same from memory; `name` stands for the file in error words. */
int services_parse(const char *name, struct str text, struct service_rules *ret_rules, struct error *err);

#endif
