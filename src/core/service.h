/* SPDX-License-Identifier: Apache-2.0 */
/* service.h - which service a request belongs to, and what requests of it get: service identification (the C-TC of IETF
 * CATS) by what an edge knows anyway: who asks, by which name, for which model. No payload is looked into.
 *
 * Rules are read from the top; the first all of whose terms hold counts. A term holds when one of its patterns fits,
 * `*` standing for any text. Rules own their texts and do not change. Pure; any thread.
 */
#ifndef MDN_CORE_SERVICE_H
#define MDN_CORE_SERVICE_H

#include "base/str.h"

enum { SERVICE_NAME_SIZE = 33, SERVICE_RULES_MAX = 256, SERVICE_PATTERNS_MAX = 256 };

enum service_field {
	SERVICE_TENANT,
	SERVICE_TEAM,
	SERVICE_SNI, /* the name the client asked for in TLS */
	SERVICE_USER_AGENT,
	SERVICE_API,
	SERVICE_MODEL, /* as asked for */
	SERVICE_FIELDS,
	SERVICE_HEADER = SERVICE_FIELDS /* of a term: one of the request, by name */
};

/* What a request of it gets. A plain value. */
struct service {
	char name[SERVICE_NAME_SIZE]; /* empty: none */
	bool has_class;
	int service_class;                    /* the most urgent that a request may have: the caller's numbers */
	int32_t priority;                     /* of those that name no class */
	int64_t ttft_us, itl_us, deadline_us; /* goals; not begun by then it is given up; 0: none */
	uint8_t dscp;                         /* of its answers on the wire */
	uint32_t number;                      /* the caller's */
};

struct service_term {
	enum service_field field;
	char *header; /* its name, lower case; NULL: another field */
	char **patterns;
	size_t pattern_count;
};

struct service_rule {
	struct service service;
	struct service_term *terms; /* none: every request */
	size_t term_count;
};

struct service_rules {
	struct service_rule *rules;
	size_t count;
};

struct service_query {
	struct str texts[SERVICE_FIELDS]; /* empty: unknown */
	bool (*header)(void *arg, const char *name, struct str *ret_value);
	void *arg;
};

/* NULL: no rule fits. */
const struct service *service_find(const struct service_rules *rules, const struct service_query *query);
void service_rules_fini(struct service_rules *rules);

#endif
