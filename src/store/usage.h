/* SPDX-License-Identifier: Apache-2.0 */
/* usage.h - what each request of a key took: one record a request, written once, never changed.
 *
 * An edge keeps its records until the center has them (an outbox); a center keeps all. A record's name is (node, boot,
 * seq): the same one twice is one. SQLite; short, blocking, loop thread. Times are wall clock microseconds; month as in
 * core/quota.h.
 */
#ifndef MDN_STORE_USAGE_H
#define MDN_STORE_USAGE_H

#include "base/error.h"
#include "base/str.h"

#include <stdint.h>

struct usage_record {
	uint64_t serial; /* here; rises */
	char node[64];
	uint64_t boot, seq; /* below 2^63 */
	int64_t at_us, month;
	char key[64], team[64], model[128], api[24], request[130];
	int32_t status;
	int64_t prompt_tokens, cached_tokens, completion_tokens;
};

struct usage_sum {
	char key[64], team[64];
	int64_t requests, prompt_tokens, cached_tokens, completion_tokens;
};

struct usage;
/* durable: what was committed survives a power cut, else only the end of the process. */
int usage_open(struct str path, bool durable, struct usage **ret_usage, struct error *err);
void usage_close(struct usage *u);

/* Records between the two are there together, or none is. */
int usage_begin(struct usage *u, struct error *err);
int usage_commit(struct usage *u, struct error *err);
void usage_undo(struct usage *u);
int usage_add(struct usage *u, const struct usage_record *r, bool *ret_new, struct error *err);

/* The oldest are given away. Up to this serial. */
int usage_drop(struct usage *u, uint64_t up_to, struct error *err);

struct usage_query {
	uint64_t after;         /* serial */
	int64_t from_us, to_us; /* to_us 0: no end */
	struct str key, team;   /* empty: all */
	size_t limit;
};
int usage_each(struct usage *u, const struct usage_query *q, void (*fn)(void *arg, const struct usage_record *r),
               void *arg, struct error *err);
/* Tokens of a key, or, if it is empty, of a team. */
int usage_month_tokens(struct usage *u, int64_t month, struct str key, struct str team, int64_t *ret_tokens,
                       struct error *err);
/* Of a month, by key. */
int usage_sums(struct usage *u, int64_t month, void (*fn)(void *arg, const struct usage_sum *s), void *arg,
               struct error *err);

#endif
